r"""Explicit worst-case bounds (paper Theorems 4.1, 4.2, §4.3) and the gap of Section 5."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import check_option, non_negative_array
from dro_core.structure import Joint, Structure, structure_modulus
from dro_core.types import Array, Real


@overload
def explicit_bound(
    fidelity: Real, lipschitz: Real, radius: Real, structure: str | Structure = ...
) -> float: ...
@overload
def explicit_bound(
    fidelity: ArrayLike, lipschitz: ArrayLike, radius: ArrayLike, structure: str | Structure = ...
) -> Array: ...
def explicit_bound(
    fidelity: ArrayLike, lipschitz: ArrayLike, radius: ArrayLike, structure: str | Structure = "y|x"
) -> float | Array:
    r"""Bound :math:`(\sqrt M + \rho\,\kappa(L))^2` on the worst-case squared risk.

    Holds for every map, linear or not, with Lipschitz constant L. The modulus is
    :math:`\kappa = \sqrt{1+L^2}` for "joint" (paper Theorem 4.1), :math:`L` for "y|x" (Theorem
    4.2), 1 for "x|y" (§4.3). For "x", pass the Lipschitz constant of I - B∘A as `lipschitz` (for
    "y" that of P - B); the data must then satisfy y = A(x), x = P(y) (or `fidelity` must be the
    risk on the graph).

    Parameters
    ----------
    fidelity : float or array
        M >= 0, the mean squared error, in squared units of x.
    lipschitz : float or array
        L >= 0.
    radius : float or array
        W2 radius >= 0 in the units of the data.
    structure : "joint", "y|x", "x|y", "x", "y" or a Structure

    Returns
    -------
    float or array
        The bound, broadcast over the three arguments.

    Raises
    ------
    ValueError, TypeError
        For negative or non-finite arguments, an unknown structure, or shapes that do not
        broadcast.
    OverflowError
        If a bound exceeds the largest float.
    """
    root = _root_bound(fidelity, lipschitz, radius, structure)
    with np.errstate(over="ignore"):
        bound = root * root
    if not np.isfinite(bound).all():
        raise OverflowError(
            "fidelity, lipschitz, radius: the bound exceeds the largest float; rescale the data"
        )
    return bound


@overload
def conservatism_gap(
    fidelity: Real, lipschitz: Real, radius: Real, form: Literal["root", "squared"] = ...
) -> float: ...
@overload
def conservatism_gap(
    fidelity: ArrayLike,
    lipschitz: ArrayLike,
    radius: ArrayLike,
    form: Literal["root", "squared"] = ...,
) -> Array: ...
def conservatism_gap(
    fidelity: ArrayLike,
    lipschitz: ArrayLike,
    radius: ArrayLike,
    form: Literal["root", "squared"] = "root",
) -> float | Array:
    r"""How much of the joint bound is owed to letting x move as well (paper §5).

    .. math:: \frac{J_{joint} - J_{y|x}}{J_{joint}} =
              \frac{\rho(\sqrt{1+L^2} - L)}{\sqrt M + \rho\sqrt{1+L^2}},\qquad
              J = \sqrt M + \rho\kappa

    for ``form="root"``; with ``form="squared"`` the bounds J² are compared instead. Decreasing in
    L at fixed M and radius; with M = 0 the root form is :math:`1 - L/\sqrt{1+L^2}`. Zero where
    both bounds vanish.

    Parameters
    ----------
    fidelity, lipschitz, radius : float or array
        As in `explicit_bound`; they broadcast.
    form : "root" or "squared"

    Returns
    -------
    float or array
        The gap, in [0, 1].

    Raises
    ------
    ValueError, TypeError
        As `explicit_bound`, and for an unknown `form`.
    """
    check_option(form, "form", ("root", "squared"))
    joint = np.asarray(_root_bound(fidelity, lipschitz, radius, Joint()))
    if not np.isfinite(joint).all():
        raise OverflowError(
            "fidelity, lipschitz, radius: a bound exceeds the largest float; rescale the data"
        )
    L, rho = np.asarray(lipschitz, dtype=np.float64), np.asarray(radius, dtype=np.float64)
    # sqrt(1 + L²) - L without cancellation
    with np.errstate(over="ignore"):
        difference = rho / (np.hypot(1.0, L) + L)
    positive = joint > 0
    gap = np.where(positive, difference, 0.0) / np.where(positive, joint, 1.0)
    return (gap if form == "root" else gap * (2.0 - gap))[()]


def _root_bound(
    fidelity: ArrayLike, lipschitz: ArrayLike, radius: ArrayLike, structure: str | Structure
) -> Array:
    """J = sqrt(M) + radius * modulus."""
    M = non_negative_array(fidelity, "fidelity")
    L = non_negative_array(lipschitz, "lipschitz")
    rho = non_negative_array(radius, "radius")
    with np.errstate(over="ignore"):
        kappa = structure_modulus(structure, L)
    try:
        np.broadcast_shapes(M.shape, L.shape, rho.shape)
    except ValueError:
        raise ValueError(
            f"fidelity, lipschitz, radius: shapes {M.shape}, {L.shape}, {rho.shape} do not "
            "broadcast together"
        ) from None
    with np.errstate(over="ignore"):
        return (np.sqrt(M) + rho * kappa)[()]
