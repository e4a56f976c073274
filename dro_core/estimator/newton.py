"""Newton's method for the convex worst-case risk, along the path of entropy weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import eigh

from dro_core.dual import minimize_quadratic_dual
from dro_core.spectrum import ResidualSpectrum
from dro_core.types import EPS, Array

#: Without entropy the path ends at this share of the squared radius.
LEAST_ENTROPY = 1e-8


class Subspace:
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
        kept = values > max(self.rows.shape) * EPS * values[:1].sum()
        self.values, self.basis = values[kept], right[kept].T

    @cached_property
    def coordinates(self) -> Array:
        """The rows in the basis."""
        result: Array = self.rows @ self.basis
        return result

    def regress(self, others: Array) -> Array:
        """Least-squares map of smallest norm from these rows to others, (others, these)."""
        image = (others.T @ self.rows) @ self.basis
        if self.values.size and self.values[-1] < 1e-4 * self.values[0]:
            image = others.T @ self.coordinates  # the digits of small directions
        return np.asarray((image / self.values**2) @ self.basis.T)

    def inverse_moments(self, vectors: Array) -> Array:
        """Pseudo-inverse of the second moments times columns."""
        return np.asarray(self.basis @ ((self.basis.T @ vectors).T / self.values**2).T)


class Reduced:
    """The problem in the data's own coordinates, every length relative to one unit.

    `x` (p, k) and `y` (p, l) are weighted rows with the second moments of the data. y moves at
    weight one, x at the `inverse_weights` (k,), zero for what is frozen; `counts` directions of x
    with the inverse weights `complement` are left that no sample has.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        inverse_weights: Array,
        complement: Array,
        counts: Array,
        radius: float,
    ) -> None:
        self.x, self.y, self.inverse_weights = x, y, inverse_weights
        self.complement, self.counts = complement, counts
        self.radius = radius

    def point(self, B: Array, epsilon: float) -> _Point:
        return _Point(self, B, epsilon)


class _Point:
    r"""Worst-case risk at B with what Newton's method needs of it.

    With :math:`A = \lambda I - CC^\top`, :math:`G = A^{-1}`, :math:`\Sigma = \mathbb E rr^\top`,
    :math:`S = \mathbb E r y^\top` and :math:`T = (\Sigma G + \tfrac\varepsilon2)B - S` the gradient
    at the optimal multiplier is :math:`2\lambda GT`.
    """

    def __init__(self, problem: Reduced, B: Array, epsilon: float) -> None:
        self.problem, self.B, self.epsilon = problem, B, epsilon
        residual = problem.x - problem.y @ B.T
        self.sigma = residual.T @ residual
        self.cross = residual.T @ problem.y
        squared, basis = np.linalg.eigh(np.diag(problem.inverse_weights) + B @ B.T)
        if not np.isfinite(squared).all():
            raise np.linalg.LinAlgError("the squares of the map are no numbers")
        squared = np.maximum(squared, 0.0)
        mass = ((residual @ basis) ** 2).sum(axis=0)
        values = np.append(squared, problem.complement)
        mass = np.append(mass, np.zeros(len(problem.complement)))
        count = np.append(np.ones(len(squared)), problem.counts)
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
        result: Array = second - self._mixed * (np.vdot(self._mixed, D) / self._curvature)
        return result

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
        left, left_basis = eigh(_symmetric(G @ self.sigma @ G), _symmetric(G), check_finite=False)
        right, right_basis = eigh(_symmetric(first), _symmetric(second), check_finite=False)
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


def minimize(problem: Reduced, B: Array, epsilon: float) -> _Point:
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


def _better_than_zero(problem: Reduced, B: Array, epsilon: float) -> Array:
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


def entropy_path(problem: Reduced, epsilon: float) -> Iterator[_Point]:
    """Minimisers along decreasing entropy weights, down to `epsilon` (or a tiny one for zero)."""
    budget = problem.radius**2
    target = max(epsilon, LEAST_ENTROPY * budget)
    weight = max(target, budget)
    moments = problem.y.T @ problem.y
    regularised = moments + budget * np.eye(len(moments))
    B: Array = np.asarray(np.linalg.solve(regularised, problem.y.T @ problem.x).T)
    if not problem.inverse_weights.any():
        B = _better_than_zero(problem, B, weight)
    while True:
        point = minimize(problem, B, weight)
        B = point.B
        if weight <= target * (1 + 1e-9):
            yield point
            return
        if epsilon == 0.0 and weight <= 3e-5 * budget:
            yield point
        weight = max(weight / 5, target)
