"""Newton's method for the convex worst-case risk at one entropy weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, eigh, solve_triangular
from scipy.linalg.lapack import dtrcon as trcon

from dro_core.dual import minimize_quadratic_dual
from dro_core.spectrum import ResidualSpectrum
from dro_core.types import EPS, Array

#: Decreases below this share of the value are not seen in it: in double and in single precision.
ROUNDING, ROUNDING_SINGLE = 1e-11, 1e-6
#: Where the next step promises a smaller share of the value, a map is refined no more.
LAST_REFINED = 1e-12
#: Steps that promise more than this share of the one before get nowhere.
STALLED = 0.5
#: By what decreases fall where the Hessian is settled, and to what its equation is solved there.
SETTLED = 0.1
#: Maps of more entries are first improved in single precision.
LARGE_MAP = 40_000
#: Second moments whose root has a smaller reciprocal condition number are not formed.
WORST_CONDITION = 1e-5


def gram_root(rows: Array) -> Array | None:
    """Triangular R with the rows' second moments, by Cholesky; None where that loses digits."""
    if len(rows) <= rows.shape[1]:
        return None
    try:
        root = np.ascontiguousarray(np.linalg.cholesky(rows.T @ rows).T)
    except np.linalg.LinAlgError:
        return None
    condition, _ = trcon(root)
    return root if condition > WORST_CONDITION else None


class Subspace:
    """The span of some weighted rows, with an orthonormal basis and their coordinates in it."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows
        self._root = gram_root(rows)

    @cached_property
    def singular(self) -> tuple[Array, Array]:
        """Singular values, in decreasing order, and right singular vectors as columns."""
        rows = self.rows
        if self._root is not None:
            squared, basis = np.linalg.eigh(self._root.T @ self._root)
            return np.sqrt(squared[::-1]), basis[:, ::-1]
        if len(rows) > rows.shape[1]:
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        _, values, right = np.linalg.svd(rows, full_matrices=False)
        kept = values > max(self.rows.shape) * EPS * values[:1].sum()
        return values[kept], right[kept].T

    @cached_property
    def basis(self) -> Array:
        """Columns: all axes, where the rows span the whole space and are not close to less."""
        return np.eye(self.rows.shape[1]) if self._root is not None else self.singular[1]

    @cached_property
    def coordinates(self) -> Array:
        """The rows in the basis."""
        return self.rows if self._root is not None else np.asarray(self.rows @ self.basis)

    def regress(self, others: Array) -> Array:
        """Least-squares map of smallest norm from these rows to others, (others, these)."""
        if self._root is not None:
            return np.asarray(cho_solve((self._root, False), self.rows.T @ others).T)
        values, basis = self.singular
        image = (others.T @ self.rows) @ basis
        if values.size and values[-1] < 1e-4 * values[0]:
            image = others.T @ self.coordinates  # the digits of small directions
        return np.asarray((image / values**2) @ basis.T)

    def inverse_moments(self, vectors: Array) -> Array:
        """Pseudo-inverse of the second moments times columns."""
        if self._root is not None:
            return np.asarray(cho_solve((self._root, False), vectors))
        values, basis = self.singular
        return np.asarray(basis @ ((basis.T @ vectors).T / values**2).T)


class Reduced:
    """The problem in the data's own coordinates, every length relative to one unit.

    `rows` (p, l + k) are weighted rows (y, x) with the second moments of the data. y moves at
    weight one, x at the `inverse_weights` (k,), zero for what is frozen; `counts` directions of x
    with the inverse weights `complement` are left that no sample has.
    """

    def __init__(
        self,
        rows: Array,
        inverse_weights: Array,
        complement: Array,
        counts: Array,
        radius: float,
    ) -> None:
        size = rows.shape[1] - len(inverse_weights)
        triangle = gram_root(rows)
        if triangle is None:
            triangle = np.asarray(np.linalg.qr(rows, mode="r"))
        #: Rows of y, the same of x, and what x has beside them: no row of y belongs to those.
        self.root, self.mixed = triangle[:size, :size], triangle[:size, size:]
        self.rest = triangle[size:, size:]
        self.moments = self.root.T @ self.root
        self.inverse_weights = inverse_weights
        self.complement, self.counts = complement, counts
        self.radius = radius

    def single(self) -> Reduced:
        """The same problem in single precision, for steps that are not the last ones."""
        other = copy(self)
        for name in ("root", "mixed", "rest", "moments", "inverse_weights"):
            setattr(other, name, getattr(self, name).astype(np.float32))
        return other

    @property
    def is_large(self) -> bool:
        """Whether single precision is worth its while."""
        return self.mixed.size > LARGE_MAP

    @property
    def least_squares(self) -> Array:
        """The map without residual, but for what x has beside y."""
        return np.asarray(solve_triangular(self.root, self.mixed).T)

    def ridge(self, weight: float) -> Array:
        """The least-squares map with that much added to the second moments of y."""
        regularised = self.moments + weight * np.eye(len(self.moments), dtype=self.moments.dtype)
        return np.asarray(np.linalg.solve(regularised, self.root.T @ self.mixed).T)

    def point(self, B: Array, epsilon: float, promised: float = math.inf) -> Point:
        return Point(self, B, epsilon, promised)

    def spectrum(self, squared: Array, mass: Array) -> ResidualSpectrum:
        """That of a map from its eigenvalues, with the directions that no sample has."""
        none = np.zeros(len(self.complement))
        return ResidualSpectrum(
            np.append(squared, self.complement),
            np.append(mass, none),
            np.append(np.ones(len(squared)), self.counts),
        )


class Point:
    r"""Worst-case risk at B with what Newton's method needs of it.

    With :math:`A = \lambda I - CC^\top`, :math:`G = A^{-1}`, :math:`\Sigma = \mathbb E rr^\top`,
    :math:`S = \mathbb E r y^\top` and :math:`T = (\Sigma G + \tfrac\varepsilon2)B - S` the gradient
    at the optimal multiplier is :math:`2\lambda GT`. Everything is in the eigenvectors of
    :math:`CC^\top`, where G is diagonal; `basis` brings a step back.
    """

    def __init__(self, problem: Reduced, B: Array, epsilon: float, promised: float) -> None:
        self.problem, self.B, self.epsilon = problem, B, epsilon
        #: What the Newton step that led here promised to gain, as a share of the value.
        self.promised = promised
        squared, self.basis = eigen(np.diag(problem.inverse_weights) + B @ B.T)
        if not np.isfinite(squared).all():
            raise np.linalg.LinAlgError("the squares of the map are no numbers")
        squared = np.maximum(squared, 0.0)
        self._residual = (problem.mixed - problem.root @ B.T) @ self.basis
        self._rest = problem.rest @ self.basis
        mass = (self._residual**2).sum(axis=0) + (self._rest**2).sum(axis=0)
        spectrum = problem.spectrum(squared, mass)
        self._values, self._mass = spectrum.squared_singular_values, spectrum.mass
        self._count = spectrum.multiplicity
        solution = minimize_quadratic_dual(spectrum, problem.radius, epsilon)
        self.value, self.multiplier = solution.value, solution.multiplier
        top = spectrum.top
        self._apart = top * solution.margin + (top - self._values)
        self.smooth = bool((self._apart > 0).all()) and math.isfinite(self.multiplier)
        self.gains: Array = squared
        if self.smooth:  # in the precision of the map
            self.gains = (1.0 / self._apart[: len(squared), None]).astype(B.dtype)

    @cached_property
    def image(self) -> Array:
        """B."""
        return self.basis.T @ self.B

    @cached_property
    def sigma(self) -> Array:
        """Second moment of the residual."""
        return np.asarray(self._residual.T @ self._residual + self._rest.T @ self._rest)

    @cached_property
    def cross(self) -> Array:
        """Mixed moment of residual and y."""
        return np.asarray(self._residual.T @ self.problem.root)

    @cached_property
    def _pulled(self) -> Array:
        """ΣGB."""
        return np.asarray(self.sigma @ (self.gains * self.image))

    @cached_property
    def stationarity(self) -> Array:
        """T."""
        return self._pulled + 0.5 * self.epsilon * self.image - self.cross

    @cached_property
    def gradient(self) -> Array:
        """2λGT."""
        return 2 * self.multiplier * self.gains * self.stationarity

    @cached_property
    def _curvature(self) -> float:
        """Second derivative in the multiplier."""
        ratio = self._values / self._apart
        second = 2 * float((self._mass * ratio / self._apart**2).sum())
        return second + 0.5 * self.epsilon * float((self._count * ratio**2).sum()) / self.multiplier

    @cached_property
    def _mixed(self) -> Array:
        """Derivative of the gradient in the multiplier."""
        g, lam = self.gains, self.multiplier
        own = (g - lam * g**2) * self.stationarity
        return np.asarray(2 * (own - lam * g * (self.sigma @ (g**2 * self.image))))

    def hessian(self, D: Array) -> Array:
        """Second derivative along D, the multiplier following."""
        g, lam, half = self.gains, self.multiplier, 0.5 * self.epsilon
        turned, moved = D @ self.image.T, D @ self.cross.T
        dG = g * (turned + turned.T) * g.T
        dT = (self.sigma @ dG - (moved + moved.T) * g.T) @ self.image
        dT += self.sigma @ (g * D) + half * D + D @ self.problem.moments
        second = 2 * lam * (dG @ self.stationarity + g * dT)
        result: Array = second - self._mixed * (np.vdot(self._mixed, D) / self._curvature)
        return result

    def preconditioner(self) -> Callable[[Array], Array]:
        r"""Inverse of what the Hessian is at a stationary point, but for a term of order ε.

        That is its Kronecker part :math:`2\lambda(G D Q_1 + G\Sigma G\,D\,Q_2)` with
        :math:`Q_2 = I + B^\top GB` and :math:`Q_1 = \mathbb E yy^\top
        - B^\top(G\Sigma + \tfrac\varepsilon2)GB + \tfrac\varepsilon2`, which two eigenproblems make
        diagonal, less the rank-one term of the multiplier (Sherman and Morrison).
        """
        g, lam, half = self.gains, self.multiplier, 0.5 * self.epsilon
        root = np.sqrt(g)
        image, identity = g * self.image, np.eye(self.B.shape[1], dtype=g.dtype)
        second = identity + self.image.T @ image
        first = self.problem.moments + half * identity
        first = first - image.T @ (self._pulled + half * self.image)
        left, left_basis = eigen(root * self.sigma * root.T)
        left_basis /= root
        right, right_basis = eigh(_symmetric(first), _symmetric(second), check_finite=False)
        # an eigenvalue on the right may be negative where those on the left or, away from the
        # solution, the rest of the Hessian make up for it
        diagonal = 2 * lam * (np.maximum(left, 0.0)[:, None] + np.abs(right))
        diagonal = np.maximum(diagonal, 1e-12 * diagonal.max())

        def kronecker(R: Array) -> Array:
            return np.asarray(
                left_basis @ ((left_basis.T @ R @ right_basis) / diagonal) @ right_basis.T
            )

        along = kronecker(self._mixed)
        left_over = self._curvature - float(np.vdot(self._mixed, along))
        if left_over <= 0.0:  # away from the solution
            return kronecker

        def with_multiplier(R: Array) -> Array:
            solved = kronecker(R)
            return solved + along * (float(np.vdot(self._mixed, solved)) / left_over)

        return with_multiplier


def eigen(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors, in the matrix's own precision."""
    values, vectors = eigh(matrix, driver="evd", check_finite=False)
    return values, vectors


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)


def _newton_step(
    point: Point,
    precondition: Callable[[Array], Array],
    gradient: Array,
    accuracy: float | None = None,
    most: int = 200,
) -> Array:
    """Preconditioned conjugate gradients on the Newton equation, `most` of them.

    To a share of the gradient, by default what the decrease deserves. The gradient may be that of
    another map near by, in the eigenvectors of this point.
    """
    step = np.zeros_like(point.B)
    left = -gradient
    direction = adjusted = precondition(left)
    size = first = float(np.vdot(left, adjusted))
    if accuracy is None:
        accuracy = min(0.3, math.sqrt(max(first, 0.0) / point.value))
        # without entropy the preconditioner leaves out what is as small
        if point.epsilon == 0.0 and accuracy <= 0.1:
            return np.asarray(direction)
    for _ in range(min(most, 2 * step.size + 2)):
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
    if float(np.vdot(gradient, step)) < 0.0:
        return step
    return np.asarray(precondition(-gradient))


def minimize(
    problem: Reduced,
    start: Array | Point,
    epsilon: float,
    *,
    last: float = 0.0,
    patience: int | None = None,
) -> Point:
    """Newton's method with a line search at one entropy weight.

    Where values differ by rounding only, a step is judged by the size of the next one: the law of
    a map without residual depends on digits of the map that its risk does not show. With `last` it
    ends after a step that promises to decrease the value by less than that share of it; with
    `patience`, before one that promises hardly less than the one before, and a step has so many
    conjugate gradients at most.
    """
    point = start if isinstance(start, Point) else problem.point(start, epsilon)
    most = patience or 200
    seen = ROUNDING if point.B.dtype == np.float64 else ROUNDING_SINGLE
    promised = math.inf
    for _ in range(100):
        if not point.smooth:
            break
        precondition = point.preconditioner()
        own = _newton_step(point, precondition, point.gradient, most=most)
        decrease = -float(np.vdot(point.gradient, own))
        if epsilon == 0.0 and seen * point.value < STALLED * promised < decrease:
            own = _newton_step(point, precondition, point.gradient, SETTLED, most)
            decrease = -float(np.vdot(point.gradient, own))
        stalled, promised = decrease > STALLED * promised, decrease
        if stalled and patience and decrease > last * point.value:
            break
        step = point.basis @ own
        if decrease <= seen * point.value:
            if stalled or decrease <= 0:
                break
            point = problem.point(point.B + step, epsilon, decrease / point.value)
            if last > 0.0:
                break
            continue
        moved = _decreased(point, step, decrease)
        if moved is None:  # no further decrease above rounding
            break
        point = moved
        if decrease <= last * point.value:
            break
    return point


def refine(problem: Reduced, rough: Point) -> Point:
    """The minimum to all digits that a certificate needs, from a point of single precision near it.

    Newton's equation of the rough point, whose Hessian is settled there, for the gradient in double
    precision: an eigenproblem per step. It ends where the next step would promise next to nothing,
    or where the Hessian turns out not to be settled.
    """
    point = problem.point(rough.B.astype(np.float64), rough.epsilon)
    if not rough.smooth:
        return point
    precondition, before = rough.preconditioner(), math.inf
    while point.smooth:
        gradient = rough.basis.T @ (point.basis @ point.gradient).astype(rough.B.dtype)
        own = _newton_step(rough, precondition, gradient, SETTLED)
        decrease = -float(np.vdot(gradient, own))
        if not ROUNDING * point.value < decrease < SETTLED * before:
            break
        moved = problem.point(point.B + rough.basis @ own, point.epsilon)
        if moved.value > point.value - 0.1 * decrease:
            break
        point = moved
        ratio = decrease / before if before < math.inf else SETTLED
        if ratio * decrease <= LAST_REFINED * point.value:
            break
        before = decrease
    return point


def _decreased(point: Point, step: Array, decrease: float) -> Point | None:
    """The first point of a halving line search whose value is low enough."""
    length = 1.0
    while length > 1e-8:
        trial = point.problem.point(point.B + length * step, point.epsilon, decrease / point.value)
        if trial.value <= point.value - 0.1 * length * decrease:
            return trial
        length /= 2
    return None
