r"""Independent signal and noise, each in a Wasserstein ball of its own: two problems that add.

With y' = Ax' + w', x' and w' independent and w' of mean zero, the mean squared error of B is
:math:`\mathbb E\|(I - BA)x'\|^2 + \mathbb E\|Bw'\|^2`, so the adversary has two problems with one
multiplier each; both depend on the nominal laws through their second moments alone. The best map is
the Wasserstein MMSE estimator (Nguyen, Shafieezadeh-Abadeh, Kuhn and Mohajerin Esfahani).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from dro_core.certificate import relative_gap
from dro_core.checks import as_matrix, as_non_negative, as_positive_integer, as_radius
from dro_core.described import Described
from dro_core.dual import minimize_quadratic_dual
from dro_core.spectrum import ResidualSpectrum
from dro_core.structure import as_covariance
from dro_core.transport import as_square
from dro_core.types import Array, Integer, Real


@dataclass(frozen=True, eq=False)
class _Worst:
    r"""sup of :math:`\mathbb E\|Dz'\|^2` over laws within the radius of one with given moments."""

    value: float
    multiplier: float
    moment: Array
    cost: float


def _worst_second_moment(D: Array, moment: Array, radius: float) -> _Worst:
    r"""With :math:`D = U\sigma V^\top` and masses :math:`u_j^\top DSD^\top u_j` it is one dual.

    The worst law is that of :math:`z' = \lambda(\lambda I - D^\top D)^{-1}z`, and in the hard case
    of an independent move along the top right singular vector.
    """
    squared, V = np.linalg.eigh(D.T @ D)
    squared = np.maximum(squared, 0.0)
    own = V.T @ moment @ V
    mass = squared * np.maximum(np.diag(own), 0.0)
    solution = minimize_quadratic_dual(ResidualSpectrum(squared, mass, np.ones(len(mass))), radius)
    top = float(squared.max())
    if math.isinf(solution.margin) or top == 0.0:
        return _Worst(float(mass.sum()), solution.multiplier, moment, 0.0)
    apart = top * solution.margin + (top - squared)
    shift = np.divide(squared, apart, out=np.zeros_like(apart), where=apart > 0)
    gains = 1.0 + shift  # λ/(λ - σ²)
    moved = gains[:, None] * own * gains[None, :]
    cost = float((shift**2 * np.diag(own)).sum())
    left = solution.unspent * radius**2
    moved[-1, -1] += left
    return _Worst(solution.value, solution.multiplier, V @ moved @ V.T, cost + left)


@dataclass(frozen=True, eq=False, repr=False)
class IndependentWorstCase(Described):
    r"""Worst case of a linear map for independent signal and noise.

    Attributes
    ----------
    risk : float
        Sum of `risk_x` and `risk_noise`.
    risk_x, risk_noise : float
        :math:`\sup\mathbb E\|(I - BA)x'\|^2` and :math:`\sup\mathbb E\|Bw'\|^2`.
    multipliers : tuple of two floats
    moment_x, moment_noise : (n, n) and (m, m) arrays
        Second moments of the worst-case laws.
    costs : tuple of two floats
        What they spend of the squared radii.
    primal_risk : float
        The mean squared error at those moments.
    """

    described_by = ("risk", "risk_x", "risk_noise", "primal_risk", "gap", "multipliers", "costs")

    risk_x: float
    risk_noise: float
    multipliers: tuple[float, float]
    moment_x: Array
    moment_noise: Array
    costs: tuple[float, float]
    primal_risk: float

    @property
    def risk(self) -> float:
        return self.risk_x + self.risk_noise

    @property
    def gap(self) -> float:
        """(risk - primal_risk) / risk."""
        return relative_gap(self.risk, self.primal_risk)


class _Problem:
    """Forward map, nominal moments and radii, checked."""

    def __init__(
        self,
        forward: ArrayLike,
        moment_x: ArrayLike,
        moment_noise: ArrayLike,
        radius_x: Real,
        radius_noise: Real,
    ) -> None:
        self.forward = as_matrix(forward, "forward")
        m, n = self.forward.shape
        self.moment_x = _as_moment(moment_x, n, "moment_x")
        self.moment_noise = _as_moment(moment_noise, m, "moment_noise")
        self.radii = as_radius(radius_x, "radius_x"), as_radius(radius_noise, "radius_noise")

    def worst(self, B: Array) -> IndependentWorstCase:
        D = np.eye(len(B)) - B @ self.forward
        signal = _worst_second_moment(D, self.moment_x, self.radii[0])
        noise = _worst_second_moment(B, self.moment_noise, self.radii[1])
        primal = float(np.einsum("ij,ij->", D @ signal.moment, D))
        primal += float(np.einsum("ij,ij->", B @ noise.moment, B))
        return IndependentWorstCase(
            signal.value,
            noise.value,
            (signal.multiplier, noise.multiplier),
            signal.moment,
            noise.moment,
            (signal.cost, noise.cost),
            primal,
        )

    def least_squares(self, moment_x: Array, moment_noise: Array) -> tuple[Array, float]:
        """The MMSE map for given moments, and its risk."""
        cross = moment_x @ self.forward.T
        moment_y = self.forward @ cross + moment_noise
        try:
            B = np.asarray(cho_solve(cho_factor(moment_y, check_finite=False), cross.T).T)
        except np.linalg.LinAlgError:
            raise ValueError(
                "moment_noise: with these radii the second moment of y is singular; allowed: a "
                "positive definite matrix, or a radius_noise > 0"
            ) from None
        return B, float(np.trace(moment_x)) - float((B * cross).sum())


def _as_moment(value: ArrayLike, size: int, name: str) -> Array:
    moment = as_covariance(value, size, name)
    if moment is None:
        return np.zeros((size, size))
    return as_square(moment, size)


def independent_worst_case(
    B: ArrayLike,
    forward: ArrayLike,
    moment_x: ArrayLike,
    moment_noise: ArrayLike,
    radius_x: Real,
    radius_noise: Real,
) -> IndependentWorstCase:
    r"""Worst-case mean squared error of B for independent signal and zero-mean noise.

    .. math:: \sup_{x'}\mathbb E\|(I - BA)x'\|^2 + \sup_{w'}\mathbb E\|Bw'\|^2,\qquad
              \sup_{z'}\mathbb E\|Dz'\|^2 = \min_{\lambda\ge\|D\|^2}\lambda\rho^2
              + \operatorname{tr}SD^\top(I - DD^\top/\lambda)^{-1}D

    Parameters
    ----------
    B : (n, m) matrix
    forward : (m, n) matrix
        A.
    moment_x, moment_noise : variance, (d,) variances or (d, d) positive semi-definite matrix
        Second moments S of the nominal laws.
    radius_x, radius_noise : float
        W2 radii >= 0.

    Raises
    ------
    ValueError, TypeError
        For bad matrices, moments or radii.
    """
    problem = _Problem(forward, moment_x, moment_noise, radius_x, radius_noise)
    matrix = as_matrix(B, "B")
    if matrix.shape != problem.forward.shape[::-1]:
        raise ValueError(f"B: shape {matrix.shape}; needed: {problem.forward.shape[::-1]}")
    return problem.worst(matrix)


@dataclass(frozen=True, eq=False, repr=False)
class WassersteinMMSE(Described):
    """The Wasserstein MMSE estimator with its certificate.

    Attributes
    ----------
    matrix : (n, m) array
        The map from y to x (for zero-mean laws).
    worst : IndependentWorstCase
        Its worst case; `risk` is an upper value of the problem.
    lower : float
        Mean squared error that no linear map beats at the worst-case laws.
    evaluations : int
        Worst cases that were computed.
    """

    described_by = ("matrix", "risk", "lower", "gap", "evaluations", "worst")

    matrix: Array
    worst: IndependentWorstCase
    lower: float
    evaluations: int

    @property
    def risk(self) -> float:
        return self.worst.risk

    @property
    def gap(self) -> float:
        """Relative saddle gap (risk - lower) / risk."""
        return relative_gap(self.risk, self.lower)


class _Descent:
    """The convex worst-case risk in the units of the nominal y, and the best saddle seen."""

    def __init__(self, problem: _Problem, tolerance: float) -> None:
        self.problem, self.tolerance = problem, tolerance
        m, n = problem.forward.shape
        # nominal moments with the budgets spread over all directions: a start
        signal = problem.moment_x + problem.radii[0] ** 2 / n * np.eye(n)
        noise = problem.moment_noise + problem.radii[1] ** 2 / m * np.eye(m)
        self.start = problem.least_squares(signal, noise)[0]
        #: Cholesky factor of the second moment of y: B is measured as B times it.
        self.half = np.linalg.cholesky(problem.forward @ signal @ problem.forward.T + noise)
        self.upper, self.lower, self.evaluations = math.inf, 0.0, 0
        self.best = self.start
        self.worst: IndependentWorstCase | None = None

    def __call__(self, flat: Array) -> tuple[float, Array]:
        shape = self.start.shape
        B = solve_triangular(self.half, flat.reshape(shape).T, lower=True, trans="T").T
        worst = self.problem.worst(B)
        self.evaluations += 1
        cross = worst.moment_x @ self.problem.forward.T
        moment_y = self.problem.forward @ cross + worst.moment_noise
        gradient = 2.0 * (B @ moment_y - cross)
        if worst.risk < self.upper:
            self.upper, self.best, self.worst = worst.risk, B, worst
        self.lower = max(
            self.lower, self.problem.least_squares(worst.moment_x, worst.moment_noise)[1]
        )
        return worst.risk, solve_triangular(self.half, gradient.T, lower=True).T.ravel()

    def done(self, *_: object) -> None:
        """Ends the descent once upper and lower value agree."""
        if self.upper - self.lower <= self.tolerance * self.upper:
            raise StopIteration


def wasserstein_mmse(
    forward: ArrayLike,
    moment_x: ArrayLike,
    moment_noise: ArrayLike,
    radius_x: Real,
    radius_noise: Real,
    *,
    tolerance: float = 1e-9,
    max_iterations: Integer = 1000,
) -> WassersteinMMSE:
    r"""The linear map with the smallest `independent_worst_case`: the Wasserstein MMSE estimator.

    .. math:: \min_B\ \sup_{x'}\mathbb E\|(I - BA)x'\|^2 + \sup_{w'}\mathbb E\|Bw'\|^2

    over laws of x' and w' within W2 distance of the nominal ones. The objective is convex and its
    gradient :math:`2(B\,\mathbb E y'y'^\top - \mathbb E x'y'^\top)` at the worst-case moments;
    L-BFGS in the units of y. Optimal among *all* maps if the nominal laws are Gaussian.

    Parameters
    ----------
    forward, moment_x, moment_noise, radius_x, radius_noise
        As in `independent_worst_case`; `moment_noise` positive definite, or its radius > 0.
    tolerance : float
        Relative saddle gap at which the descent ends.
    max_iterations : int

    Returns
    -------
    WassersteinMMSE
        `.matrix`, `.risk`, `.lower`, `.gap`, `.worst`.

    Raises
    ------
    ValueError, TypeError
        For bad matrices, moments or radii.
    """
    problem = _Problem(forward, moment_x, moment_noise, radius_x, radius_noise)
    iterations = as_positive_integer(max_iterations, "max_iterations")
    descent = _Descent(problem, as_non_negative(tolerance, "tolerance"))
    minimize(
        descent,
        (descent.start @ descent.half).ravel(),
        jac=True,
        method="L-BFGS-B",
        callback=descent.done,
        options={"maxiter": iterations, "maxcor": 20, "ftol": 0.0, "gtol": 0.0},
    )
    assert descent.worst is not None
    lower = min(descent.lower, descent.worst.risk)
    return WassersteinMMSE(descent.best, descent.worst, lower, descent.evaluations)
