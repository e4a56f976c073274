"""The linear map of smallest worst-case risk as a semidefinite programme."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_radius, as_samples, as_weights
from dro_core.described import Described
from dro_core.optional import needed
from dro_core.types import Array, Real


@dataclass(frozen=True, repr=False)
class ReferenceFit(Described):
    """Optimal value of the programme, and the map it is attained at, (n, m)."""

    value: float
    matrix: Array


def inverse_root(weight: ArrayLike, size: int) -> Array:
    r""":math:`W^{-1/2}` of a number, one weight per axis or a matrix, by a Cholesky factor.

    Any L with :math:`LL^\top = W^{-1}` measures the same cost.
    """
    W = np.asarray(weight, dtype=np.float64)
    if W.ndim == 2:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(W)).T)
    return np.asarray(np.diag(np.broadcast_to(1.0 / np.sqrt(W), (size,))))


def fit_linear_sdp(
    *,
    x: ArrayLike,
    y: ArrayLike,
    radius: Real,
    weight_x: ArrayLike = 1.0,
    weight_y: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
) -> ReferenceFit:
    r"""`fit_linear` without entropy, as a semidefinite programme (cvxpy, Clarabel).

    .. math:: \min_{B, \lambda, T}\ \lambda\rho^2 + \operatorname{tr} T \quad\text{s.t.}\quad
              \begin{pmatrix} T & S & 0\\ S^\top & I & C\\ 0 & C^\top & \lambda I\end{pmatrix}
              \succeq 0,\qquad C = [W_x^{-1/2}, -BW_y^{-1/2}],\quad SS^\top = \mathbb E rr^\top

    Parameters
    ----------
    x, y, radius, weights
        As in `fit_linear`.
    weight_x, weight_y : number, (d,) array or (d, d) matrix
        Of the transport cost; infinity freezes: y|x has ``weight_x=inf``, x|y ``weight_y=inf``.

    Raises
    ------
    ValueError, TypeError
        For bad arrays.
    RuntimeError
        If Clarabel finds no optimum.
    """
    cp = needed("cvxpy", "the semidefinite programme of the best map")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    (count, n), m = x.shape, y.shape[1]
    mu, rho = as_weights(weights, count), as_radius(radius)
    both = np.sqrt(mu)[:, None] * np.hstack([x, y])
    if count > n + m:
        both = np.asarray(np.linalg.qr(both, mode="r"))
    unit = float(np.linalg.norm(both)) or 1.0
    both = both / unit
    B, multiplier = cp.Variable((n, m)), cp.Variable(nonneg=True)
    S = both[:, :n] - both[:, n:] @ B.T
    C = cp.hstack([inverse_root(weight_x, n), -B @ inverse_root(weight_y, m)])
    T = cp.Variable((len(both), len(both)), symmetric=True)
    zero = np.zeros((len(both), n + m))
    block = cp.bmat([[T, S, zero], [S.T, np.eye(n), C], [zero.T, C.T, multiplier * np.eye(n + m)]])
    objective = cp.Minimize(multiplier * (rho / unit) ** 2 + cp.trace(T))
    problem = cp.Problem(objective, [block >> 0])
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "solution may be inaccurate": the caller compares
        problem.solve(solver="CLARABEL", **tight)
    if B.value is None:
        raise RuntimeError(f"Clarabel found no optimum: {problem.status}")
    return ReferenceFit(unit**2 * float(problem.value), np.asarray(B.value))
