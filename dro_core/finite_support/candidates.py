"""Potentials at a multiplier, and the candidates of a quadratic loss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dro_core.blocks import BlockFunction, Candidates
from dro_core.checks import as_map, as_non_negative, as_samples, check_samples_and_map
from dro_core.finite_support.solver import plan_at
from dro_core.linear_map import MapLike
from dro_core.types import Array, Indices, Real, Table


def finite_potential(
    loss: Table, cost: Table, multiplier: Real, admissible: Table | None = None
) -> tuple[Array, Indices]:
    r"""Dual potential :math:`\varphi_\lambda(z_i) = \max_j (\ell_{ij} - \lambda c_{ij})`.

    Parameters
    ----------
    loss, cost, admissible
        As in `finite_worst_case`.
    multiplier : float
        :math:`\lambda \ge 0`.

    Returns
    -------
    potential : (N,) array
    index : (N,) integer array
        The maximising candidate; the cheapest one among exact ties.

    Raises
    ------
    ValueError, TypeError
        As `finite_worst_case`, and for a negative or non-finite multiplier.
    OverflowError
        If the multiplier times a cost exceeds the largest float.
    """
    lam = as_non_negative(multiplier, "multiplier")
    plan = plan_at(Candidates(loss, cost, admissible, None), lam)
    with np.errstate(over="ignore"):
        potential = plan.loss - lam * plan.cost
    if not np.isfinite(potential).all():
        raise OverflowError("cost, multiplier: their product exceeds the largest float")
    return potential, plan.index


def quadratic_candidates(
    B: MapLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_candidates: ArrayLike | None = None,
    y_candidates: ArrayLike | None = None,
) -> tuple[BlockFunction, BlockFunction]:
    r"""Loss and cost of moving samples of a linear map to shared candidates, as block callables.

    Loss :math:`\|x' - By'\|^2`, cost :math:`\|x_i - x'\|^2 + \|y_i - y'\|^2`, where a part without
    candidates stays at the sample's own: only `y_candidates` for y|x, only `x_candidates` for x|y,
    both (row j of each is one candidate) for joint.

    Parameters
    ----------
    B : (n, m) matrix
    x, y : (N, n) and (N, m) arrays
        The samples.
    x_candidates, y_candidates : (M, n) and (M, m) arrays, at least one of them

    Returns
    -------
    loss, cost : callables ``f(rows: slice) -> (len(rows), M) array``
        To be passed to `finite_worst_case`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or shapes, or no candidates at all.
    """
    from scipy.spatial.distance import cdist

    matrix = as_map(B, "B")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(matrix, x, y, "B")
    given = {}
    for name, value, own in (("x_candidates", x_candidates, x), ("y_candidates", y_candidates, y)):
        if value is None:
            continue
        given[name] = as_samples(value, name)
        if given[name].shape[1] != own.shape[1]:
            raise ValueError(
                f"{name}: {given[name].shape[1]} columns, but {name[0]} has {own.shape[1]}"
            )
    if not given:
        raise ValueError("x_candidates, y_candidates: at least one of them is needed")
    if len({len(rows) for rows in given.values()}) > 1:
        raise ValueError(
            f"y_candidates: {len(given['y_candidates'])} rows, but x_candidates has "
            f"{len(given['x_candidates'])}; row j of both is one candidate"
        )
    new_x, new_y = given.get("x_candidates"), given.get("y_candidates")
    own_image = y @ matrix.T
    new_image = None if new_y is None else new_y @ matrix.T
    own_loss = None  # the loss of a candidate that replaces both parts does not depend on i
    if new_x is not None and new_image is not None:
        own_loss = np.einsum("ij,ij->i", new_x - new_image, new_x - new_image)

    def loss(rows: slice) -> Any:
        if own_loss is not None:
            return np.broadcast_to(own_loss, (len(x[rows]), len(own_loss)))
        if new_image is not None:
            return cdist(x[rows], new_image, "sqeuclidean")
        return cdist(own_image[rows], new_x, "sqeuclidean")

    def cost(rows: slice) -> Any:
        parts = [
            cdist(own[rows], new, "sqeuclidean")
            for own, new in ((x, new_x), (y, new_y))
            if new is not None
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    return loss, cost
