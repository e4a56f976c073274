r"""The linear map with the smallest worst-case risk, with a saddle certificate.

The (entropic) worst-case risk is convex in the map B. For joint and y|x it is minimised by Newton's
method along the path of entropy weights; the data enter through an orthogonal reduction to their
own subspaces (see the lemma in the documentation), so the size of the problem is the rank of the
data, not the number of pixels.

The certificate is a saddle point: the worst-case risk of the returned map is an upper value of the
optimum, and the least-squares risk under *any* law of the ball a lower one.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.optimize import brentq

from dro_core.checks import (
    Array,
    as_non_negative,
    as_radius,
    as_real_array,
    as_samples,
    as_weights,
    check_option,
    magnitude,
    non_negative_array,
    unknown,
)
from dro_core.dual import minimize_quadratic_dual
from dro_core.entropic import EntropicWorstCase, covariance_divergence, entropic_worst_case
from dro_core.linear_map import DenseMap
from dro_core.read_only import ReadOnly, read_only
from dro_core.spectrum import ResidualSpectrum
from dro_core.threads import single_threaded
from dro_core.worst_case import WorstCase, relative_gap, risk_rounding, worst_case_risk

#: Up to this many entries of the second moments one thread is faster: Newton steps are short.
SMALL_MOMENTS = 2**18
#: Structures that a map can be fitted for: (x moves, y moves).
MOVES = {"y|x": (False, True), "joint": (True, True), "x|y": (True, False)}
#: Without entropy the path ends at this share of the squared radius.
LEAST_ENTROPY = 1e-8
#: A certificate this good ends the search for a better one.
GOOD_GAP = 1e-9
#: With a worse one, and data of at most this rank, the law comes from a semidefinite programme.
POOR_GAP, LAW_RANK = 1e-6, 30
#: A map with a worse gap comes with a warning.
LARGEST_QUIET_GAP = 1e-3
#: Shares of the budget that are tried as isotropic noise.
BLURS = (1e-9, 1e-8, 1e-7, 1e-6)
#: Beyond this many entries of the map certificates are costly: fewer laws are tried, and the search
#: ends at a worse gap.
LARGE_MAP, GOOD_GAP_OF_LARGE_MAP = 10_000, 5e-5


class NotOptimalWarning(UserWarning):
    """The map of `fit_linear` is not proved optimal: its relative saddle gap exceeds 1e-3."""


@dataclass(frozen=True, eq=False)
class Law:
    """A law of the ball: sample i moved by (dx_i, dy_i), blurred by a common Gaussian.

    `roots` holds rows (dx, dy) whose Gram matrix is the covariance.
    """

    displacement_x: Array
    displacement_y: Array
    roots: Array

    def spent(self, weights: Array) -> float:
        """Transport cost, covariance included."""
        moved = (self.displacement_x**2).sum(axis=1) + (self.displacement_y**2).sum(axis=1)
        return float(weights @ moved) + float((self.roots**2).sum())

    def divergence(self, weights: Array, epsilon: float, moves: tuple[bool, bool]) -> float:
        r"""ε KL relative to the samples blurred by ε/2 in every coordinate that moves."""
        n = self.displacement_x.shape[1]
        free = np.r_[np.full(n, moves[0]), np.full(self.displacement_y.shape[1], moves[1])]
        covariance = self.roots[:, free].T @ self.roots[:, free]
        reference = 0.5 * epsilon * np.eye(int(free.sum()))
        shifts = Law(self.displacement_x, self.displacement_y, self.roots[:0]).spent(weights)
        return shifts + 0.5 * epsilon * covariance_divergence(covariance, reference)

    def scaled(self, budget: float, weights: Array) -> Law:
        """The law that spends exactly the budget: displacements and roots times one number."""
        spent = self.spent(weights)
        factor = math.sqrt(budget / spent) if spent > 0 else 0.0
        return Law(factor * self.displacement_x, factor * self.displacement_y, factor * self.roots)

    def least_squares_risk(self, x: Array, y: Array, weights: Array) -> float:
        """The smallest mean squared error of any linear map under this law: a lower value."""
        root, n = np.sqrt(weights)[:, None], x.shape[1]
        moved = np.hstack([root * (y + self.displacement_y), root * (x + self.displacement_x)])
        moved = np.vstack([moved, np.hstack([self.roots[:, n:], self.roots[:, :n]])])
        m = y.shape[1]
        if len(moved) > m + n:
            value = _schur_complement(moved.T @ moved, m)
            if value is not None:
                return value
            moved = np.asarray(np.linalg.qr(moved, mode="r"))
            diagonal = np.abs(np.diagonal(moved)[:m])
            if diagonal.min() > 1e-13 * diagonal.max():  # y' of full rank: the last block is left
                return float((moved[m:, m:] ** 2).sum())
        return float((_residual_of_projection(moved[:, m:], moved[:, :m]) ** 2).sum())


def _schur_complement(moments: Array, m: int) -> float | None:
    r"""Trace of what is left of second moments without the first m variables; None if inexact.

    From a Cholesky factor its error is eps times the moments times :math:`(1 + \|B\|)^2`, with B
    the regression on those variables: given only where that is below 1e-12 of the value.
    """
    try:
        root = np.linalg.cholesky(moments[:m, :m])
    except np.linalg.LinAlgError:
        return None
    half = solve_triangular(root, moments[:m, m:], lower=True, check_finite=False)
    slope = solve_triangular(root, half, lower=True, trans="T", check_finite=False)
    value = float(np.trace(moments[m:, m:])) - float((half * half).sum())
    error = float(np.trace(moments)) * (1.0 + math.sqrt(float((slope * slope).sum()))) ** 2
    return value if value > 1e-3 * error else None


def _residual_of_projection(targets: Array, rows: Array) -> Array:
    """What is left of the targets' columns outside the span of the rows' columns."""
    columns, values, _ = np.linalg.svd(rows, full_matrices=False)
    kept = columns[:, values > max(rows.shape) * np.finfo(np.float64).eps * values[:1].sum()]
    left = targets - kept @ (kept.T @ targets)
    return np.asarray(left - kept @ (kept.T @ left))


@dataclass(frozen=True)
class FitCertificate:
    """What `LinearFit.verify` recomputed through the map and the law.

    Attributes
    ----------
    upper : float
        Proved upper value of the worst-case risk of the map (`WorstCase.verify`).
    lower : float
        Least-squares risk under the law: no linear map has a smaller worst-case risk.
    gap : float
        (upper - lower) / upper: how far the map may be from optimal.
    spent, budget : float
        Transport cost (or ε KL) of the law, and what it may be.
    resolution : float
        Rounding of the former.
    risk_resolution : float
        Rounding of `upper` and `lower`, as in `Certificate`.
    """

    upper: float
    lower: float
    gap: float
    spent: float
    budget: float
    resolution: float = 1e-300
    risk_resolution: float = 0.0

    def holds(self, rtol: float = 1e-4) -> bool:
        """Whether the law is in the ball and the map proved optimal.

        Up to `rtol`, relatively, and the rounding of cost and risks.
        """
        return (
            math.isfinite(self.risk_resolution)
            and self.gap * self.upper <= rtol * self.upper + self.risk_resolution
            and self.spent <= self.budget * (1 + 1e-8) + self.resolution
        )


class LinearFit(ReadOnly):
    """A fitted linear map with its worst-case risk and its distance from optimality.

    Attributes
    ----------
    matrix : (n, m) array
        The map from y to x.
    risk : float
        Its worst-case risk: the value of the problem, up to `gap`.
    lower : float
        A proved lower value of the smallest worst-case risk of any linear map.
    worst : WorstCase or EntropicWorstCase
        The worst case of the map.
    structure : str
    radius, epsilon : float
    """

    def __init__(
        self, matrix: Array, worst: WorstCase | EntropicWorstCase, law: Law,
        data: tuple[Array, Array, Array], structure: str, radius: float, epsilon: float,
    ) -> None:  # fmt: skip
        self.matrix, self.worst, self._law, self._data = matrix, worst, law, data
        self.structure, self.radius, self.epsilon = structure, radius, epsilon
        self.risk = worst.risk
        x, y, weights = data
        self.lower = min(law.least_squares_risk(x, y, weights), self.risk)
        self._size = float(weights @ (x**2).sum(axis=1))
        self._size += DenseMap(matrix).squared_terms(y, weights)
        self._protect()

    def _gap(self, upper: float, lower: float) -> float:
        return 0.0 if upper <= risk_rounding(0.0, 16 * self._size) else relative_gap(upper, lower)

    @property
    def gap(self) -> float:
        """Relative saddle gap (risk - lower) / risk; zero for a risk that is rounding."""
        return self._gap(self.risk, self.lower)

    @property
    def multiplier(self) -> float:
        """Optimal multiplier of the worst case."""
        return self.worst.multiplier

    @cached_property
    def singular_values(self) -> Array:
        """Singular values of the map, in decreasing order."""
        return read_only(np.linalg.svd(self.matrix, compute_uv=False))

    def predict(self, y: Any) -> Array:
        """Reconstructions of rows of y: (N, m) -> (N, n)."""
        rows = as_samples(y, "y")
        if rows.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"y: {rows.shape[1]} columns, but the map takes {self.matrix.shape[1]}"
            )
        return rows @ self.matrix.T

    def verify(self) -> FitCertificate:
        """Recompute both values: the worst case through its own certificate, the law afresh."""
        x, y, weights = self._data
        lower = self._law.least_squares_risk(x, y, weights)
        certificate = self.worst.verify()
        upper = max(certificate.dual_risk, self.risk)
        spent = self._law.spent(weights)
        if self.epsilon > 0:
            spent = self._law.divergence(weights, self.epsilon, MOVES[self.structure])
        resolution = 1e-300 + 1e-24 * self.epsilon * (x.shape[1] + y.shape[1])
        return FitCertificate(
            upper, lower, self._gap(upper, lower), spent, self.radius**2, resolution,
            risk_rounding(upper, 16 * self._size),
        )  # fmt: skip

    def __repr__(self) -> str:
        n, m = self.matrix.shape
        return (
            f"LinearFit({n} x {m} map, structure={self.structure!r}, radius={self.radius:.6g}, "
            f"epsilon={self.epsilon:.6g}, risk={self.risk:.6g}, gap={self.gap:.2g})"
        )


class _Subspace:
    """Singular basis of the span of some weighted rows, and their coordinates in it."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        if len(rows) > rows.shape[1]:
            squared, basis = np.linalg.eigh(rows.T @ rows)
            if squared[0] > 1e-6 * squared[-1]:  # the Gram matrix has enough digits
                self.values, self.basis = np.sqrt(squared[::-1]), basis[:, ::-1]
                return
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        _, values, right = np.linalg.svd(rows, full_matrices=False)
        kept = values > max(self.rows.shape) * np.finfo(np.float64).eps * values[:1].sum()
        self.values, self.basis = values[kept], right[kept].T

    @cached_property
    def coordinates(self) -> Array:
        """The rows in the basis."""
        return self.rows @ self.basis

    def regress(self, others: Array) -> Array:
        """Least-squares map of smallest norm from these rows to others, (others, these)."""
        image = (others.T @ self.rows) @ self.basis
        if self.values.size and self.values[-1] < 1e-4 * self.values[0]:
            image = others.T @ self.coordinates  # the digits of small directions
        return np.asarray((image / self.values**2) @ self.basis.T)

    def inverse_moments(self, vectors: Array) -> Array:
        """Pseudo-inverse of the second moments times columns."""
        return np.asarray(self.basis @ ((self.basis.T @ vectors).T / self.values**2).T)


class _Reduced:
    """The problem in the data's own coordinates, every length relative to one unit.

    `x` (p, k) and `y` (p, l) are weighted rows with the second moments of the data; `shift` is 1 if
    x moves too, and then `complement` directions of x are left that no sample has.
    """

    def __init__(self, x: Array, y: Array, shift: float, complement: int, radius: float) -> None:
        self.x, self.y, self.shift, self.complement = x, y, shift, complement
        self.radius = radius

    def point(self, B: Array, epsilon: float) -> _Point:
        return _Point(self, B, epsilon)


class _Point:
    r"""Worst-case risk at B with what Newton's method needs of it.

    With :math:`A = \lambda I - CC^\top`, :math:`G = A^{-1}`, :math:`\Sigma = \mathbb E rr^\top`,
    :math:`S = \mathbb E r y^\top` and :math:`T = (\Sigma G + \tfrac\varepsilon2)B - S` the gradient
    at the optimal multiplier is :math:`2\lambda GT`.
    """

    def __init__(self, problem: _Reduced, B: Array, epsilon: float) -> None:
        self.problem, self.B, self.epsilon = problem, B, epsilon
        residual = problem.x - problem.y @ B.T
        self.sigma = residual.T @ residual
        self.cross = residual.T @ problem.y
        squared, basis = np.linalg.eigh(B @ B.T)
        squared = problem.shift + np.maximum(squared, 0.0)
        mass = ((residual @ basis) ** 2).sum(axis=0)
        count = np.ones(len(mass))
        values = squared
        if problem.complement:
            values = np.append(squared, problem.shift)
            mass, count = np.append(mass, 0.0), np.append(count, problem.complement)
        spectrum = ResidualSpectrum(values, mass, count)
        solution = minimize_quadratic_dual(spectrum, problem.radius, epsilon)
        self.value, self.multiplier = solution.value, solution.multiplier
        top = spectrum.top
        apart = top * solution.margin + (top - values)
        self.smooth = bool((apart > 0).all()) and math.isfinite(self.multiplier)
        if not self.smooth:
            return
        self.inverse = (basis / apart[: len(squared)]) @ basis.T
        self.stationarity = self.sigma @ self.inverse @ B + 0.5 * epsilon * B - self.cross
        self.gradient = 2 * self.multiplier * self.inverse @ self.stationarity
        # second derivatives in the multiplier, and mixed
        self._curvature = 2 * float((mass * values / apart**3).sum())
        self._curvature += (
            0.5 * epsilon * float((count * (values / apart) ** 2).sum()) / self.multiplier
        )
        again = self.inverse @ self.inverse
        mixed = self.inverse @ self.stationarity - self.multiplier * again @ self.stationarity
        self._mixed = 2 * (mixed - self.multiplier * self.inverse @ self.sigma @ again @ B)

    def hessian(self, D: Array) -> Array:
        """Second derivative along D, the multiplier following."""
        B, G, lam = self.B, self.inverse, self.multiplier
        turned = D @ B.T
        dG = G @ (turned + turned.T) @ G
        dsigma = D @ self.cross.T
        dsigma = -(dsigma + dsigma.T)
        dT = (dsigma @ G + self.sigma @ dG) @ B + self.sigma @ (G @ D) + 0.5 * self.epsilon * D
        dT += D @ (self.problem.y.T @ self.problem.y)
        second = 2 * lam * (dG @ self.stationarity + G @ dT)
        return second - self._mixed * (np.vdot(self._mixed, D) / self._curvature)

    def preconditioner(self) -> Any:
        r"""Inverse of the Hessian's Kronecker part, :math:`2\lambda(G D Q_1 + G\Sigma G\,D\,Q_2)`.

        At a stationary point that is all but a term of order :math:`\varepsilon` and the rank-one
        term of the multiplier, with
        :math:`Q_2 = I + B^\top GB` and :math:`Q_1 = \mathbb E yy^\top
        - B^\top(G\Sigma + \tfrac\varepsilon2)GB + \tfrac\varepsilon2`.
        Two generalised eigenproblems make both terms diagonal.
        """
        B, G, lam = self.B, self.inverse, self.multiplier
        identity = np.eye(B.shape[1])
        image = G @ B
        second = identity + B.T @ image
        first = self.problem.y.T @ self.problem.y + 0.5 * self.epsilon * identity
        first -= B.T @ (G @ self.sigma @ image + 0.5 * self.epsilon * image)
        left, left_basis = eigh(_symmetric(G @ self.sigma @ G), _symmetric(G))
        right, right_basis = eigh(_symmetric(first), _symmetric(second))
        diagonal = np.abs(2 * lam * (np.maximum(left, 0.0)[:, None] + right[None, :]))
        diagonal = np.maximum(diagonal, 1e-12 * diagonal.max())
        return lambda R: left_basis @ ((left_basis.T @ R @ right_basis) / diagonal) @ right_basis.T


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)


def _newton_step(point: _Point, accuracy: float) -> Array:
    """Preconditioned conjugate gradients on the Newton equation."""
    precondition = point.preconditioner()
    step = np.zeros_like(point.B)
    left = -point.gradient
    direction = adjusted = precondition(left)
    size = first = float(np.vdot(left, adjusted))
    for _ in range(min(200, 2 * step.size + 2)):
        if size <= 0.0:
            break
        image = point.hessian(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0.0:  # rounding: the risk is convex
            break
        length = size / curvature
        step = step + length * direction
        left = left - length * image
        adjusted = precondition(left)
        size, before = float(np.vdot(left, adjusted)), size
        if size <= accuracy**2 * first:
            break
        direction = adjusted + (size / before) * direction
    if float(np.vdot(point.gradient, step)) < 0.0:
        return step
    return np.asarray(precondition(-point.gradient))


def _minimize(problem: _Reduced, B: Array, epsilon: float) -> _Point:
    """Newton's method with a line search at one entropy weight.

    Where values differ by rounding only, a step is judged by the size of the next one: the law of
    a map without residual depends on digits of the map that its risk does not show.
    """
    point = problem.point(B, epsilon)
    before = math.inf
    for iteration in range(100):
        if not point.smooth:
            break
        step = _newton_step(point, 1e-3 if iteration < 3 else 1e-8)
        decrease = -float(np.vdot(point.gradient, step))
        if decrease <= 1e-11 * point.value:
            if decrease >= 0.5 * before or decrease <= 0:
                break
            before = decrease
            point = problem.point(point.B + step, epsilon)
            continue
        length, moved = 1.0, None
        while length > 1e-8:
            trial = problem.point(point.B + length * step, epsilon)
            if trial.value <= point.value - 0.1 * length * decrease:
                moved = trial
                break
            length /= 2
        if moved is None:  # no further decrease above rounding
            break
        point = moved
    return point


def _better_than_zero(problem: _Reduced, B: Array, epsilon: float) -> Array:
    r"""B, or where its risk is no less than that of zero the best map of the steepest ray from it.

    Under y|x the risk has a kink at zero, :math:`R(tD) = R(0) - 2t(\langle S, D\rangle
    - \rho\sqrt{\operatorname{tr} D^\top\Sigma D}) + O(t^2)` with :math:`S = \mathbb E xy^\top`
    and :math:`\Sigma = \mathbb E xx^\top`, steepest along :math:`D = \Sigma^{-1}S`. Newton's method
    gets caught there, unless it starts lower.
    """
    zero = float((problem.x**2).sum())
    if problem.point(B, epsilon).value < zero:
        return B
    ray = np.linalg.lstsq(problem.x, problem.y, rcond=None)[0]
    length = float(np.linalg.norm(B)) / (float(np.linalg.norm(ray)) or 1.0)
    maps: list[Array] = [
        B,
        *(np.asarray(length * 4.0**-k * ray, dtype=np.float64) for k in range(-2, 20)),
    ]
    return min(maps, key=lambda trial: problem.point(trial, epsilon).value)


def _path(problem: _Reduced, epsilon: float) -> Iterator[_Point]:
    """Minimisers along decreasing entropy weights, down to `epsilon` (or a tiny one for zero)."""
    budget = problem.radius**2
    target = max(epsilon, LEAST_ENTROPY * budget)
    weight = max(target, budget)
    moments = problem.y.T @ problem.y
    regularised = moments + budget * np.eye(len(moments))
    B: Array = np.asarray(np.linalg.solve(regularised, problem.y.T @ problem.x).T)
    if not problem.shift:
        B = _better_than_zero(problem, B, weight)
    while True:
        point = _minimize(problem, B, weight)
        B = point.B
        if weight <= target * (1 + 1e-9):
            yield point
            return
        if epsilon == 0.0 and weight <= 3e-5 * budget:
            yield point
        weight = max(weight / 5, target)


def fit_linear(
    *,
    x: Any,
    y: Any,
    radius: Any,
    epsilon: Any = 0.0,
    structure: str = "y|x",
    weights: Any = None,
) -> LinearFit:
    r"""The linear map with the smallest (entropic) worst-case risk, certified.

    .. math:: \min_B\ \sup_{\pi}\ \int \|x' - By'\|^2\,d\pi

    over the laws of `worst_case_risk` (``epsilon = 0``) or of `entropic_worst_case`. Keyword-only,
    so that there is no doubt about which is the signal and which the measurement.

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        Signals and measurements, samples as rows.
    radius : float
        W2 radius >= 0 in the units of the data (with ``epsilon > 0``: the adjusted radius). At zero
        the least-squares map of smallest norm (or the ridge map with weight ε/2).
    epsilon : float
        Entropy weight >= 0, in squared units of the data.
    structure : "y|x", "joint" or "x|y"
        Under x|y every least-squares map is optimal; the one of smallest norm is returned.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.

    Returns
    -------
    LinearFit
        `.matrix`, `.risk`, `.lower`, `.gap`, `.multiplier`, `.singular_values`, `.predict(y)`,
        `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, epsilon, weights or structure.

    Warns
    -----
    NotOptimalWarning
        If `gap` exceeds 1e-3.
    """
    x, y = as_samples(x, "x"), as_samples(y, "y")
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} rows, but x has {len(x)}; row i of both belongs to sample i")
    mu = as_weights(weights, len(x))
    rho = as_radius(radius)
    entropy_weight = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
    if not isinstance(structure, str):
        raise TypeError(f"structure: {structure!r}; allowed: {', '.join(map(repr, MOVES))}")
    check_option(structure, "structure", MOVES)
    with single_threaded((x.shape[1] + y.shape[1]) ** 2, SMALL_MOMENTS):
        found = _Search(x, y, mu, rho, entropy_weight, structure).run()
    if found.gap > LARGEST_QUIET_GAP:
        warnings.warn(
            f"the worst-case risk of the map, {found.risk:.6g}, may be {found.gap:.2g} of itself "
            f"above the smallest one, which is at least {found.lower:.6g}; rescale the data, or "
            "try another radius or epsilon",
            NotOptimalWarning,
            stacklevel=2,
        )
    return found


class _Search:
    """Candidate maps and laws in full coordinates; keeps the best of each."""

    def __init__(
        self, x: Array, y: Array, weights: Array, radius: float, epsilon: float, structure: str
    ) -> None:
        self.x, self.y, self.weights = x, y, weights
        self.radius, self.epsilon, self.structure = radius, epsilon, structure
        self.moves_x, self.moves_y = MOVES[structure]
        root = np.sqrt(weights)[:, None]
        self.rows_x, self.rows_y = root * x, root * y
        self.unit = math.sqrt(float((self.rows_x**2).sum() + (self.rows_y**2).sum())) or 1.0

    @cached_property
    def space_x(self) -> _Subspace:
        return _Subspace(self.rows_x)

    @cached_property
    def space_y(self) -> _Subspace:
        return _Subspace(self.rows_y)

    def worst(self, B: Array) -> WorstCase | EntropicWorstCase:
        arguments = (B, self.x, self.y, self.radius)
        if self.epsilon > 0:
            return entropic_worst_case(
                *arguments, self.epsilon, self.structure, weights=self.weights
            )
        return worst_case_risk(*arguments, self.structure, weights=self.weights)

    def fit(self, B: Array, laws: list[Law]) -> LinearFit:
        """The map with the law of the largest lower value."""
        worst = self.worst(B)
        data = (self.x, self.y, self.weights)
        options = list(laws)
        if isinstance(worst, EntropicWorstCase):
            options.append(_gaussian_law(worst))
        else:
            options.append(Law(worst.displacement_x, worst.displacement_y, self._no_roots()))
        fits = [
            LinearFit(B, worst, law, data, self.structure, self.radius, self.epsilon)
            for law in options
        ]
        return max(fits, key=lambda fit: fit.lower)

    def _no_roots(self) -> Array:
        return np.zeros((0, self.x.shape[1] + self.y.shape[1]))

    def run(self) -> LinearFit:
        plain = self.space_y.regress(self.rows_x)
        if self.structure == "x|y" or self.radius == 0.0:
            if self.radius == 0.0 and self.epsilon > 0 and self.moves_y:
                return self.fit(self._ridge(), [])
            return self.fit(plain, self._laws_without_residual(plain))
        best: LinearFit | None = None
        if self.structure == "y|x":
            law, exact = self._decorrelating_law()
            if exact:
                return self.fit(np.zeros_like(plain), [law])
        if self.epsilon == 0.0:
            maps = [plain]
            if self.x.shape[1] == 1:
                maps.insert(0, self._scalar_output(plain))
            for B in maps:
                found = self.fit(B, self._laws_without_residual(B) if B is plain else [])
                best = found if best is None or found.gap < best.gap else best
                if best.gap <= GOOD_GAP:
                    return best
        return self._by_newton(best)

    def _by_newton(self, best: LinearFit | None) -> LinearFit:
        unit, space_x, space_y = self.unit, self.space_x, self.space_y
        if 0 in space_x.coordinates.shape or 0 in space_y.coordinates.shape:
            return self.fit(np.zeros((self.x.shape[1], self.y.shape[1])), [])
        both = np.hstack([space_x.coordinates, space_y.coordinates]) / unit
        if len(both) > both.shape[1]:
            both = np.asarray(np.linalg.qr(both, mode="r"))
        k = space_x.basis.shape[1]
        complement = self.x.shape[1] - k if self.moves_x else 0
        reduced = _Reduced(
            both[:, :k], both[:, k:], float(self.moves_x), complement, self.radius / unit
        )
        tried: list[LinearFit] = []
        nearly: list[Law] = []
        if self.structure == "y|x" and self.x.shape[1] * self.y.shape[1] <= LARGE_MAP:
            law, _ = self._decorrelating_law()
            nearly = [law] if self.epsilon > 0 else [self._blurred(law, share) for share in BLURS]
        for point in _path(reduced, self.epsilon / unit**2):
            B = space_x.basis @ point.B @ space_y.basis.T
            laws = nearly
            if self.epsilon == 0.0:
                smoothed = entropic_worst_case(
                    B, self.x, self.y, self.radius, point.epsilon * unit**2, self.structure,
                    weights=self.weights,
                )  # fmt: skip
                law = _sharpened(smoothed)
                shares = (0.0, *BLURS) if B.size <= LARGE_MAP else (1e-7,)
                laws = laws + [self._blurred(law, share) for share in shares]
                sharp = _minimize(reduced, point.B, 0.0) if B.size <= LARGE_MAP else point
                if sharp.smooth and sharp is not point:
                    tried.append(self.fit(space_x.basis @ sharp.B @ space_y.basis.T, []))
            tried.append(self.fit(B, laws))
            best = min([*tried, *([best] if best else [])], key=lambda fit: fit.gap)
            if best.gap <= (GOOD_GAP if B.size <= LARGE_MAP else GOOD_GAP_OF_LARGE_MAP):
                break
        assert best is not None
        if self.epsilon == 0.0 and best.gap > POOR_GAP and both.shape[1] <= LAW_RANK:
            exact = self._exact_law()
            laws = [] if exact is None else [self._blurred(exact, share) for share in BLURS]
            better = self.fit(min(tried, key=lambda fit: fit.risk).matrix, laws)
            best = better if better.gap < best.gap else best
        return best

    def _blurred(self, law: Law, share: float) -> Law:
        """The law with a share of the budget for isotropic noise in y.

        Where a law leaves some directions of y' almost without variance, its least-squares risk
        hangs on digits that no solver gives; a little noise there settles it.
        """
        n, m = self.x.shape[1], self.y.shape[1]
        blur = np.hstack([np.zeros((m, n)), math.sqrt(share / m) * self.radius * np.eye(m)])
        roots = np.vstack([law.roots, blur])
        return Law(law.displacement_x, law.displacement_y, roots).scaled(
            self.radius**2, self.weights
        )

    def _exact_law(self) -> Law | None:
        r"""The law of the largest least-squares risk, by a semidefinite programme.

        With f the data's features of unit second moment, a law is its moments
        :math:`W = \mathbb E f d^\top` and :math:`G = \mathbb E dd^\top` of what moves,
        :math:`\begin{pmatrix} I & W\\ W^\top & G\end{pmatrix}\succeq0`, tr G <= ρ²; its
        least-squares risk is the largest tr T for which the moments of (x', y') minus diag(T, 0)
        stay positive.
        """
        import cvxpy as cp

        unit, space_x, space_y = self.unit, self.space_x, self.space_y
        data = np.hstack([space_x.coordinates, space_y.coordinates]) / unit
        columns, values, right = np.linalg.svd(data, full_matrices=False)
        kept = values > 1e-12 * values[0]
        features, mixing = columns[:, kept], values[kept, None] * right[kept]
        k, size = space_x.coordinates.shape[1], data.shape[1]
        radius = self.radius / unit
        moving = radius * np.eye(size)[:, np.r_[np.full(k, self.moves_x), np.full(size - k, True)]]
        cross = cp.Variable((len(mixing), moving.shape[1]))
        moved = cp.Variable((moving.shape[1], moving.shape[1]), symmetric=True)
        left = cp.Variable((k, k), symmetric=True)
        # every coordinate in a unit of its own, so that small variances count as much as large ones
        scale = np.sqrt((mixing**2).sum(axis=0) + radius**2 / size)
        mixed, moves = mixing / scale, moving / scale[:, None]
        linear = mixed.T @ cross @ moves.T
        moments = mixed.T @ mixed + linear + linear.T + moves @ moved @ moves.T
        first = np.eye(size)[:, :k]
        constraints = [
            cp.bmat([[np.eye(len(mixing)), cross], [cross.T, moved]]) >> 0,
            moments - first @ left @ first.T >> 0,
            cp.trace(moved) <= 1.0,
        ]
        problem = cp.Problem(cp.Maximize(scale[:k] ** 2 @ cp.diag(left)), constraints)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an inaccurate law has a lower value all the same
            problem.solve(solver="CLARABEL", tol_gap_abs=1e-13, tol_gap_rel=1e-13, tol_feas=1e-13)
        if cross.value is None:  # no answer at all: the laws found so far have to do
            return None
        shifts = (features @ cross.value @ moving.T) * unit / np.sqrt(self.weights)[:, None]
        rest = moved.value - cross.value.T @ cross.value
        powers, vectors = np.linalg.eigh(rest)
        roots = (vectors * np.sqrt(np.maximum(powers, 0.0))).T @ moving.T * unit
        law = Law(
            shifts[:, :k] @ space_x.basis.T, shifts[:, k:] @ space_y.basis.T,
            np.hstack([roots[:, :k] @ space_x.basis.T, roots[:, k:] @ space_y.basis.T]),
        )  # fmt: skip
        return law.scaled(self.radius**2, self.weights)

    def _ridge(self) -> Array:
        """Radius zero with entropy: the reference noise adds ε/2 to the second moment of y."""
        moments = self.rows_y.T @ self.rows_y
        regularised = moments + 0.5 * self.epsilon * np.eye(len(moments))
        return np.asarray(np.linalg.solve(regularised, self.rows_y.T @ self.rows_x).T)

    def _scalar_output(self, plain: Array) -> Array:
        r"""Minimiser of RMSE + ρ\|(s, β)\|: β = (S + θ)⁻¹Sβ₀ with one number θ to find."""
        e, basis = self.space_y.values**2, self.space_y.basis
        start = plain[0] @ basis
        least = float(((self.rows_x - self.rows_y @ plain.T) ** 2).sum())

        def parts(theta: float) -> tuple[float, float]:
            rest = start * theta / (e + theta)
            beta = start * (e / (e + theta))
            return math.sqrt(least + float(e @ rest**2)), math.hypot(
                float(self.moves_x), float(np.linalg.norm(beta))
            )

        def excess(logarithm: float) -> float:
            rmse, norm = parts(math.exp(logarithm))
            return math.exp(logarithm) * norm - self.radius * rmse

        if not start.any():
            return plain
        scale = math.log(float(e.max()))
        low, high = scale - 70.0, scale + 70.0
        if excess(low) >= 0 or excess(high) <= 0:  # the kinks at no residual and at zero
            return plain if excess(low) >= 0 else np.zeros_like(plain)
        theta = math.exp(brentq(excess, low, high, xtol=1e-14, rtol=1e-14))
        return np.asarray((start * (e / (e + theta)))[None] @ basis.T)

    def _decorrelating_law(self) -> tuple[Law, bool]:
        """y' = y - (regression of y on x), blurred: no linear map is better than zero then.

        Or, and False, as much of it as the budget allows (structure y|x).
        """
        slope = self.space_x.regress(self.rows_y)
        law = Law(np.zeros_like(self.x), -(self.x @ slope.T), self._no_roots())
        left, (n, m) = self.radius**2 - law.spent(self.weights), slope.shape[::-1]
        exact = left >= 0
        if not exact:
            law, left = law.scaled(self.radius**2, self.weights), 0.0
        variance = 0.5 * self.epsilon if self.epsilon > 0 else left / m
        roots = np.hstack([np.zeros((m, n)), math.sqrt(variance) * np.eye(m)])
        return Law(law.displacement_x, law.displacement_y, roots), exact

    def _laws_without_residual(self, B: Array) -> list[Law]:
        r"""Worst-case law at a map without residual for which that map is optimal.

        All budget goes along one top direction (u, -w); the part c_i of it on sample i is chosen so
        that B stays stationary, :math:`\sum\mu_i c_i y_i = \rho^2(\sigma/\kappa) w`, and what is
        left is blurred. None if that costs more than the budget: B is not optimal then.
        """
        left, values, right = np.linalg.svd(B, full_matrices=False)
        top = values >= values[0] * (1 - 1e-9) if values[0] > 0 else values >= 0
        inverse = self.space_y.inverse_moments
        directions = right[top].T  # of several, the one that is cheapest to keep stationary
        turn = np.linalg.eigh(directions.T @ inverse(directions))[1][:, 0]
        w, u = directions @ turn, left[:, top] @ turn
        sigma = float(values[0]) if self.moves_y else 0.0
        kappa = math.hypot(float(self.moves_x), sigma)
        if kappa == 0.0:
            return []
        share = self.radius**2 * (sigma / kappa) * (self.y @ inverse(w[:, None])[:, 0])
        rest = self.radius**2 - float(self.weights @ share**2)
        if rest < 0:
            return []
        direction = np.concatenate([float(self.moves_x) * u, -sigma * w]) / kappa
        n = self.x.shape[1]
        return [
            Law(share[:, None] * direction[:n], share[:, None] * direction[n:],
                math.sqrt(rest) * direction[None])
        ]  # fmt: skip


def _sharpened(worst: EntropicWorstCase) -> Law:
    """The worst-case Gaussians without the reference noise.

    That noise costs ε/2 per direction and gains less per cost than the optimal multiplier; without
    it stationarity is off by (ε/2)B, which the least-squares risk feels to second order only.
    """
    law = _gaussian_law(worst)
    values = (law.roots**2).sum(axis=1)
    half = 0.5 * worst.epsilon
    kept = values > half
    roots = law.roots[kept] * np.sqrt(1.0 - half / values[kept])[:, None]
    return Law(law.displacement_x, law.displacement_y, roots)


def _gaussian_law(worst: EntropicWorstCase) -> Law:
    """The worst-case Gaussians of an entropic problem."""
    law = worst._law
    covariance = np.block(
        [[law.covariance_x, law.covariance_xy], [law.covariance_xy.T, law.covariance_y]]
    )
    values, vectors = np.linalg.eigh(covariance)
    roots = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return Law(law.displacement_x, law.displacement_y, roots[values > 0])


class LinearDRO:
    """`fit_linear` as a scikit-learn estimator; scikit-learn is not needed for it.

    In that interface the features X come first and the targets y second: X are the measurements
    (the ``y`` of `fit_linear`) and y the signals to be predicted from them (its ``x``).

    Parameters
    ----------
    radius : float or sequence of floats
        W2 radius in the units of the data; of several, cross-validation chooses the one that does
        best on held-out data.
    epsilon : float
        Entropy weight.
    structure : "y|x", "joint" or "x|y"
        In the names of `fit_linear`: "y|x" moves the measurements X.
    folds : int
        Of the cross-validation.
    seed : int
        Of the assignment of samples to folds.

    Attributes
    ----------
    fit_ : LinearFit
        Set by `fit`, with its certificate.
    coef_ : (n, m) array
        The fitted map from measurements to signals (n = 1 for 1-D targets).
    radius_ : float
        The radius that was used.
    n_features_in_ : int
        m, the number of columns of X.
    feature_names_in_ : (m,) array of str
        Columns of X, if it was a data frame whose columns all have strings for names.

    Raises
    ------
    ValueError, TypeError
        As `fit_linear`, when `fit` is called.
    """

    _names = ("radius", "epsilon", "structure", "folds", "seed")

    def __init__(
        self, radius: Any = 0.1, epsilon: Any = 0.0, structure: str = "y|x", folds: Any = 5,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.radius, self.epsilon, self.structure = radius, epsilon, structure
        self.folds, self.seed = folds, seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn's ``clone`` needs them."""
        return {name: getattr(self, name) for name in self._names}

    def set_params(self, **parameters: Any) -> LinearDRO:
        """Change arguments of the constructor."""
        for name in parameters:
            if name not in self._names:
                raise ValueError(unknown("parameter", name, self._names))
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn, which alone calls this, should know: a regressor of many outputs."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearDRO:
        """Fit the map from measurements to signals.

        Parameters
        ----------
        X : (N, m) array or data frame
            Measurements, samples as rows.
        y : (N, n) or (N,) array
            Signals.
        sample_weight : (N,) array, optional
            Non-negative; only their ratios count, as everywhere in scikit-learn. Not with several
            radii.
        """
        from dro_core.radii import cross_validated_radius

        measurements, (signals, flat) = _features(X), _targets(y)
        if len(signals) != len(measurements):
            raise ValueError(f"y: {len(signals)} rows, but X has {len(measurements)}")
        radius = self.radius
        if as_real_array(radius, "radius").ndim > 0:
            if sample_weight is not None:
                raise ValueError("sample_weight: not available with cross-validation")
            radius = cross_validated_radius(
                signals, measurements, radius, self._map, structure=self.structure,
                folds=self.folds, seed=self.seed,
            ).radius  # fmt: skip
        self.fit_ = fit_linear(
            x=signals, y=measurements, radius=radius, epsilon=self.epsilon,
            structure=self.structure, weights=_shares(sample_weight, len(signals)),
        )  # fmt: skip
        self.coef_, self.radius_ = self.fit_.matrix, radius
        self.n_features_in_ = measurements.shape[1]
        self._flat = flat
        names = _column_names(X)
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def _map(self, x: Array, y: Array, radius: float) -> Array:
        return fit_linear(
            x=x, y=y, radius=radius, epsilon=self.epsilon, structure=self.structure
        ).matrix

    def predict(self, X: Any) -> Array:
        """Reconstructions of rows of measurements: (N, m) -> (N, n), or (N,) for 1-D targets."""
        if not hasattr(self, "fit_"):
            raise _not_fitted("LinearDRO: call fit(X, y) before predict")
        rows = _features(X)
        self._check_columns(X, rows)
        predicted = rows @ self.coef_.T
        return predicted[:, 0] if self._flat else predicted

    def _check_columns(self, X: Any, rows: Array) -> None:
        """Columns are those of `fit`, by number and, where both have them, by name."""
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but LinearDRO is expecting "
                f"{self.n_features_in_} features as input"
            )
        names, expected = _column_names(X), getattr(self, "feature_names_in_", None)
        if names is None and expected is not None:
            warnings.warn(
                "X does not have valid feature names, but LinearDRO was fitted with feature names",
                stacklevel=3,
            )
        if names is not None and expected is None:
            warnings.warn(
                "X has feature names, but LinearDRO was fitted without feature names", stacklevel=3
            )
        if names is not None and expected is not None and not np.array_equal(names, expected):
            raise ValueError(
                "X: The feature names should match those that were passed during fit, in the same "
                f"order; given {list(names)}, fitted with {list(expected)}"
            )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        r"""Coefficient of determination, residual and total sum of squares over all entries of y.

        .. math:: 1 - \frac{\sum_i w_i\|y_i - \hat y_i\|^2}{\sum_i w_i\|y_i - \bar y\|^2}
        """
        predicted, (signals, _) = self.predict(X), _targets(y)
        if signals.size != predicted.size or len(signals) != len(predicted):
            raise ValueError(f"y: shape {signals.shape}, but predictions have {predicted.shape}")
        shares = _shares(sample_weight, len(signals))
        mean = np.average(signals, axis=0, weights=shares)
        left = (signals - predicted.reshape(signals.shape)) ** 2
        total = (signals - mean) ** 2
        left_sum, total_sum = (float(np.average(s, axis=0, weights=shares).sum())
                               for s in (left, total))  # fmt: skip
        if total_sum == 0.0:
            raise ValueError("y: all samples are equal; the coefficient of determination needs two")
        return 1.0 - left_sum / total_sum

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"LinearDRO({listed})"


def _numbers(value: Any, name: str) -> Array:
    """As `as_real_array`; arrays of Python numbers are converted, as scikit-learn does."""
    if hasattr(value, "dtypes") or hasattr(value, "toarray") or isinstance(value, list | tuple):
        return as_real_array(value, name)
    given = value if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    if kind == "c":
        raise ValueError(f"{name}: Complex data not supported")
    if kind == "O" and isinstance(given, np.ndarray):
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    return as_real_array(given, name)


def _features(X: Any) -> Array:
    """Rows of measurements, refused in the words that scikit-learn's own checks look for."""
    array = _numbers(X, "X")
    if array.ndim == 1:
        raise ValueError(
            f"X: Expected 2D array, got 1D array of shape {array.shape}. Reshape your data: "
            "X[:, None] for one column, X[None, :] for one sample"
        )
    if array.ndim == 2 and len(array) and array.shape[1] == 0:
        raise ValueError(f"X: 0 feature(s) (shape={array.shape}) while a minimum of 1 is required.")
    return as_samples(array, "X")


def _targets(y: Any) -> tuple[Array, bool]:
    """Signals as rows, and whether they were given as a 1-D array, which is one column."""
    if y is None:
        raise ValueError("y: LinearDRO requires y to be passed, but the target y is None")
    array = _numbers(y, "y")
    return as_samples(array[:, None] if array.ndim == 1 else array, "y"), array.ndim == 1


def _shares(sample_weight: Any, size: int) -> Array | None:
    """Weights of any positive sum, divided by it."""
    if sample_weight is None:
        return None
    weights = non_negative_array(_numbers(sample_weight, "sample_weight"), "sample_weight")
    largest = magnitude(weights)
    if largest == 0.0:
        raise ValueError("sample_weight: all zero; at least one must be positive")
    relative = weights / largest
    return as_weights(relative / relative.sum(), size, "sample_weight")


def _column_names(X: Any) -> Any:
    """Names of a data frame's columns if all are strings, as an object array; otherwise None."""
    names = list(getattr(X, "columns", []))
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return np.asarray(names, dtype=object)


def _not_fitted(message: str) -> Exception:
    """scikit-learn's NotFittedError where scikit-learn is in use, otherwise a ValueError."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return ValueError(message) if exceptions is None else exceptions.NotFittedError(message)
