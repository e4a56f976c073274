"""Wasserstein and conditional Wasserstein distances by POT's network simplex and by HiGHS."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from dro_core.checks import as_samples, as_weights
from dro_core.optional import needed
from dro_core.types import Array


def wasserstein_pot(
    points0: ArrayLike,
    points1: ArrayLike,
    *,
    weights0: ArrayLike | None = None,
    weights1: ArrayLike | None = None,
) -> float:
    """W2 distance between two weighted point clouds, by POT's network simplex.

    Parameters
    ----------
    points0, points1 : (N, d) and (M, d) arrays
    weights0, weights1 : (N,) and (M,) arrays, optional
        Default uniform.

    Returns
    -------
    float
        In the units of the points.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    """
    ot = needed("ot", "the reference distance")
    from scipy.spatial.distance import cdist

    points0, points1 = as_samples(points0, "points0"), as_samples(points1, "points1")
    if points0.shape[1] != points1.shape[1]:
        raise ValueError(f"points1: {points1.shape[1]} columns, but points0 has {points0.shape[1]}")
    weights0 = as_weights(weights0, len(points0), "weights0")
    weights1 = as_weights(weights1, len(points1), "weights1")
    # not ot.dist, which expands the square and so loses small distances between large points
    cost = cdist(points0, points1, "sqeuclidean")
    scale = float(cost.max()) or 1.0
    squared = scale * ot.emd2(weights0, weights1, cost / scale, numItermax=10_000_000)
    return math.sqrt(squared)


def _two_laws(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    weights0: ArrayLike | None,
    weights1: ArrayLike | None,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Two weighted samples of (x, y), checked against each other."""
    x0, y0 = as_samples(x0, "x0"), as_samples(y0, "y0")
    x1, y1 = as_samples(x1, "x1"), as_samples(y1, "y1")
    for first, second, names in ((x0, y0, "x0, y0"), (x1, y1, "x1, y1")):
        if len(first) != len(second):
            raise ValueError(f"{names}: {len(first)} and {len(second)} rows; they must agree")
    for first, second, names in ((x0, x1, "x0, x1"), (y0, y1, "y0, y1")):
        if first.shape[1] != second.shape[1]:
            raise ValueError(
                f"{names}: {first.shape[1]} and {second.shape[1]} columns; they must agree"
            )
    weights0 = as_weights(weights0, len(x0), "weights0")
    weights1 = as_weights(weights1, len(x1), "weights1")
    return x0, y0, x1, y1, weights0, weights1


def conditional_wasserstein_pot(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    *,
    weights0: ArrayLike | None = None,
    weights1: ArrayLike | None = None,
) -> float:
    r"""Conditional distance :math:`(\sum_x \mu_X(x) W_2^2(\mu(\cdot|x), \nu(\cdot|x)))^{1/2}`.

    One optimal transport problem per distinct x (compared exactly), each by POT; infinite when
    the two X-marginals differ (paper Corollary 4.2.1).

    Parameters
    ----------
    x0, y0 : (N, n) and (N, m) arrays
    x1, y1 : (M, n) and (M, m) arrays
    weights0, weights1 : (N,) and (M,) arrays, optional
        Default uniform.

    Returns
    -------
    float
        In the units of y.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    """
    x0, y0, x1, y1, weights0, weights1 = _two_laws(x0, y0, x1, y1, weights0, weights1)
    _, label = np.unique(np.concatenate([x0, x1]), axis=0, return_inverse=True)
    label = label.reshape(-1)
    label0, label1 = label[: len(x0)], label[len(x0) :]
    total = 0.0
    for condition in np.unique(label):
        here0, here1 = label0 == condition, label1 == condition
        mass0, mass1 = float(weights0[here0].sum()), float(weights1[here1].sum())
        if abs(mass0 - mass1) > 1e-12:
            return float("inf")
        if mass0 == 0.0:
            continue
        distance = wasserstein_pot(
            y0[here0],
            y1[here1],
            weights0=weights0[here0] / mass0,
            weights1=weights1[here1] / mass1,
        )
        total += mass0 * distance**2
    return float(total**0.5)


def conditional_wasserstein_lp(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    *,
    weights0: ArrayLike | None = None,
    weights1: ArrayLike | None = None,
    p: float = 2.0,
) -> float:
    r"""Transport with cost :math:`\|y-y'\|^p` where x = x' and infinity elsewhere, as one LP.

    The joint definition of the distance (paper Equation 12), not the one by conditions: one linear
    programme (HiGHS) over all pairs of samples, in which forbidden arcs have no variable.

    Parameters
    ----------
    x0, y0, x1, y1, weights0, weights1, p
        As in `conditional_wasserstein`.

    Returns
    -------
    float
        The p-th root of the optimum; infinite if the programme is infeasible.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    RuntimeError
        If HiGHS finds neither an optimum nor infeasibility.
    """
    from scipy.optimize import linprog
    from scipy.spatial.distance import cdist

    x0, y0, x1, y1, weights0, weights1 = _two_laws(x0, y0, x1, y1, weights0, weights1)
    i, j = np.nonzero((x0[:, None] == x1).all(axis=2))
    cost = cdist(y0, y1)[i, j] ** p
    arcs = np.arange(len(i))
    rows = np.concatenate([i, len(x0) + j])
    shape = (len(x0) + len(x1), len(i))
    marginals = sparse.csr_array((np.ones(2 * len(i)), (rows, np.tile(arcs, 2))), shape=shape)
    masses = np.concatenate([weights0, weights1])
    if len(i) == 0:
        return float("inf")
    result = linprog(cost, A_eq=marginals, b_eq=masses, method="highs")
    if result.status == 2:
        return float("inf")
    if result.status != 0:
        raise RuntimeError(f"HiGHS found no optimum: {result.message}")
    return float(float(max(result.fun, 0.0)) ** (1 / p))
