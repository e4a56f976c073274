r"""Spectra of maps that are known by their products only: Golub-Kahan quadrature.

What a worst case needs of a sample is :math:`r^\top f(FF^\top) r` with
:math:`f(t) = \lambda/(\lambda - s - t)`: an integral against the spectral measure of r. k steps of
Golub-Kahan bidiagonalisation started at r give its Gauss rule with k nodes. All derivatives of f
are positive, so the Gauss rule is never above the integral, and the Gauss-Radau rule with a node
at or beyond :math:`\sigma_{\max}(F)^2` never below (Golub and Meurant). Either rule is a small
residual spectrum, and the one dual solver turns the two into a lower and an upper worst-case risk.

A direction without residual is invisible to these runs, although the hard case spends the budget
along it. Runs from random vectors, without mass, see it; without a proved norm bound they also
give one that holds with a stated probability (Kuczynski and Wozniakowski 1992, Theorem 4.2).

Nothing but three vectors per run is kept; what needs the whole Krylov basis (the worst-case law)
runs the recurrence a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dro_core.checks import Array
from dro_core.dual import DualSolution, minimize_quadratic_dual
from dro_core.linear_map import LinearMap
from dro_core.spectrum import ResidualSpectrum
from dro_core.structure import AffineDisplacement

_EPS = float(np.finfo(np.float64).eps)
#: The Radau node lies beyond the bound by this, more than the recurrence's rounding.
NODE_INFLATION = 1e-12
#: Eigenproblems handled at a time.
CHUNK = 1024


class GolubKahan:
    r"""Bidiagonalisations of one map from many start vectors at once.

    With :math:`u_1 = r/\|r\|`: :math:`\alpha_k v_k = F^\top u_k - \beta_k v_{k-1}` and
    :math:`\beta_{k+1} u_{k+1} = F v_k - \alpha_k u_k`, so that :math:`FF^\top` becomes the
    tridiagonal matrix with diagonal :math:`\alpha_k^2 + \beta_k^2` and off-diagonal
    :math:`\alpha_k\beta_{k+1}`.
    """

    def __init__(self, factor: LinearMap, starts: Array) -> None:
        self.factor = factor
        self.starts = starts
        self.lengths = np.linalg.norm(starts, axis=1)
        self.alpha = np.zeros((len(starts), 0))
        self.beta = np.zeros((len(starts), 1))  # beta[:, k] belongs to u_{k+1}; the first is zero
        self._u = _over(starts, self.lengths)
        self._v = np.zeros((len(starts), factor.shape[1]))

    @property
    def steps(self) -> int:
        """k, the number of nodes so far."""
        return self.alpha.shape[1]

    def advance(self, steps: int) -> None:
        """More steps: one product with F and one with its transpose each, for every run."""
        for _ in range(steps):
            w = self.factor.adjoint(self._u)
            w -= self.beta[:, -1:] * self._v
            alpha = self._length(w, np.zeros(len(w)))
            self._v = _over(w, alpha)
            p = self.factor.apply(self._v)
            p -= alpha[:, None] * self._u
            beta = self._length(p, alpha)
            self._u = _over(p, beta)
            self.alpha = np.column_stack([self.alpha, alpha])
            self.beta = np.column_stack([self.beta, beta])

    def _length(self, rows: Array, latest: Array) -> Array:
        """Row norms; zero where nothing but rounding is left, which ends a run."""
        lengths = np.linalg.norm(rows, axis=1)
        sizes = np.column_stack([self.alpha, self.beta, latest]).max(axis=1)
        lengths[lengths <= 8 * _EPS * sizes] = 0.0
        if not np.isfinite(lengths).all():
            raise ValueError("B: its products with finite vectors are not all finite")
        return np.asarray(lengths)

    @property
    def unit(self) -> float:
        """A power of two of the size of the coefficients: their squares in it are floats."""
        largest = max(float(self.alpha.max(initial=0.0)), float(self.beta.max()))
        return math.ldexp(1.0, math.frexp(largest)[1])

    def tridiagonal(self, steps: int, runs: slice) -> Array:
        """The matrices T_k of some runs, (R, k, k), in units of `unit` squared."""
        alpha = self.alpha[runs, :steps] / self.unit
        beta = self.beta[runs, : steps + 1] / self.unit
        matrices = np.zeros((len(alpha), steps, steps))
        on, low = np.arange(steps), np.arange(steps - 1)
        matrices[:, on, on] = alpha**2 + beta[:, :-1] ** 2
        matrices[:, low, low + 1] = matrices[:, low + 1, low] = alpha[:, :-1] * beta[:, 1:-1]
        return matrices

    def combine(self, coefficients: Array, runs: Any) -> Array:
        """Σ_k coefficients_k u_k of some runs, by a second pass of the recurrence; (R, n)."""
        u = _over(self.starts[runs], self.lengths[runs])
        v = np.zeros((len(u), self.factor.shape[1]))
        total = np.zeros_like(u)
        for k in range(coefficients.shape[1]):
            total += coefficients[:, k, None] * u
            alpha, beta = self.alpha[runs, k], self.beta[runs, k]
            v = _over(self.factor.adjoint(u) - beta[:, None] * v, alpha)
            u = _over(self.factor.apply(v) - alpha[:, None] * u, self.beta[runs, k + 1])
        return total


def _over(rows: Array, lengths: Array) -> Array:
    """Rows divided by their lengths; zero where the length is."""
    return np.divide(rows, lengths[:, None], out=np.zeros_like(rows), where=lengths[:, None] > 0)


@dataclass(frozen=True)
class QuadratureSettings:
    """How matrix-free maps are handled; see `LinearReconstruction`."""

    rtol: float = 1e-6
    max_steps: int = 300
    random_starts: int = 4
    failure_probability: float = 1e-6
    seed: int = 0


class KrylovRuns:
    """The runs of one factor: from the residuals first, then from random vectors."""

    def __init__(
        self, factor: LinearMap, residual: Array, weights: Array, random_starts: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        starts = rng.standard_normal((random_starts, residual.shape[1]))
        self.count = len(residual)
        self.dimension = residual.shape[1]
        self.random_starts = random_starts
        self.runs = GolubKahan(factor, np.vstack([residual, starts]))
        self.run_mass = np.append(weights, np.zeros(random_starts)) * self.runs.lengths**2
        self._gauss: tuple[int, Array, Array] = (0, np.zeros(0), np.zeros(0))

    def gauss(self, steps: int) -> tuple[Array, Array]:
        """Nodes (R, k) and eigenvectors' first components (R, k) of every run."""
        if self._gauss[0] != steps:
            self._gauss = (steps, *_nodes(self.runs, steps, None))
        return self._gauss[1], self._gauss[2]

    def radau(self, steps: int, node: float) -> tuple[Array, Array]:
        """Nodes (R, k + 1) and first components, with one node prescribed."""
        return _nodes(self.runs, steps, node)

    def top(self, steps: int) -> float:
        """The largest Gauss node: never above the largest squared singular value."""
        return float(self.gauss(steps)[0].max())

    def log_chance(self, failure_probability: float) -> float:
        """log(1.648 sqrt(n) / p), with p the share of the failure that each random run may have."""
        each = math.log(1.648 * math.sqrt(self.dimension))
        return each + math.log(1 / failure_probability) / self.random_starts

    def probable_top(self, steps: int, failure_probability: float) -> float:
        """A bound on the largest squared singular value that holds but for that probability.

        Each of q random runs has a largest node below (1 - t) of the truth with probability at
        most 1.648 sqrt(n) exp(-sqrt(t)(2k - 1)); that all have, with the q-th power of it.
        """
        short = (self.log_chance(failure_probability) / (2 * steps - 1)) ** 2
        found = float(self.gauss(steps)[0][self.count :].max())
        return max(found / (1 - short), self.top(steps))

    def spectrum(self, shift: float, nodes: Array, first: Array) -> ResidualSpectrum:
        """A rule of all runs as a residual spectrum."""
        squared = shift + np.maximum(nodes, 0.0).ravel()
        mass = (self.run_mass[:, None] * first**2).ravel()
        return ResidualSpectrum(squared, mass, np.full(mass.size, self.dimension / mass.size))


def _nodes(runs: GolubKahan, steps: int, node: float | None) -> tuple[Array, Array]:
    """Eigenvalues and first components of the (extended) tridiagonal matrices, in chunks."""
    size = steps if node is None else steps + 1
    unit = runs.unit
    nodes, first = np.empty((2, len(runs.lengths), size))
    for start in range(0, len(nodes), CHUNK):
        rows = slice(start, start + CHUNK)
        matrices = runs.tridiagonal(steps, rows)
        if node is not None:
            coupling = (runs.alpha[rows, steps - 1] / unit) * (runs.beta[rows, steps] / unit)
            matrices = _with_node(matrices, coupling, node / unit / unit)
        values, vectors = np.linalg.eigh(matrices)
        nodes[rows] = values * unit * unit
        first[rows] = vectors[:, 0, :]
    return nodes, first


def _with_node(matrices: Array, coupling: Array, node: float) -> Array:
    """T_{k+1} with its last entry chosen so that `node` is an eigenvalue (Golub and Meurant)."""
    count, steps, _ = matrices.shape
    extended = np.zeros((count, steps + 1, steps + 1))
    extended[:, :steps, :steps] = matrices
    extended[:, steps - 1, steps] = extended[:, steps, steps - 1] = coupling
    if node == 0.0:  # the map is zero, and so are all nodes
        return extended
    right = np.zeros((count, steps, 1))
    right[:, -1, 0] = coupling**2
    delta = np.linalg.solve(matrices - node * np.eye(steps), right)[:, -1, 0]
    extended[:, steps, steps] = node + delta
    return extended


@dataclass(frozen=True, eq=False)
class QuadratureAnswer:
    """Two solutions of the dual after some steps: never above, and (probably) never below."""

    decomposition: QuadratureView
    lower: DualSolution
    upper: DualSolution
    #: The bound on κ² that the upper value rests on.
    upper_top: float
    #: Zero for a proved upper value.
    failure_probability: float


class QuadratureDecomposition:
    """Matrix-free counterpart of `ResidualDecomposition`: refined until its two values agree."""

    def __init__(
        self,
        displacement: AffineDisplacement,
        weights: Array,
        settings: QuadratureSettings,
        runs: KrylovRuns | None = None,
    ) -> None:
        assert displacement.factor is not None
        self.displacement = displacement
        self.settings = settings
        self.krylov = runs or KrylovRuns(
            displacement.factor, displacement.residual, weights,
            settings.random_starts, settings.seed,
        )  # fmt: skip
        self.weights = weights
        self._looks = 0

    def with_displacement(self, displacement: AffineDisplacement) -> QuadratureDecomposition:
        """The same runs for a structure with the same residual and factor."""
        return QuadratureDecomposition(displacement, self.weights, self.settings, self.krylov)

    def node(self, steps: int) -> tuple[float, float]:
        """(bound on the factor's largest squared singular value, its probability to fail)."""
        assert self.displacement.factor is not None
        bound = self.displacement.factor.norm_bound
        if bound is None:
            # every look at it may fail: p/2 + p/6 + p/12 + ... = p
            self._looks += 1
            probability = self.settings.failure_probability
            node = self.krylov.probable_top(steps, probability / (self._looks * (self._looks + 1)))
        else:
            check_norm_bound(bound, self.krylov.top(steps))
            node, probability = max(bound * bound, self.krylov.top(steps)), 0.0
        return node * (1 + NODE_INFLATION), probability

    def advance(self, steps: int) -> None:
        """More steps, up to `max_steps` in all; at least as many as a probable bound needs."""
        settings, runs = self.settings, self.krylov.runs
        chance = self.krylov.log_chance(settings.failure_probability)
        fewest = 4 + math.ceil((chance + 1) / 2)
        if settings.max_steps < fewest:
            raise ValueError(
                f"max_steps: {settings.max_steps} is too few for a map of this size; allowed: at "
                f"least {fewest}"
            )
        runs.advance(min(max(steps, fewest - runs.steps), settings.max_steps - runs.steps))

    def gauss(self) -> ResidualSpectrum:
        """The Gauss rule so far: its dual is never above the exact one."""
        rule = self.krylov.gauss(self.krylov.runs.steps)
        return self.krylov.spectrum(self.displacement.shift, *rule)

    def radau(self) -> tuple[ResidualSpectrum, float]:
        """The Radau rule so far, never below but for a probability; and that probability."""
        steps = self.krylov.runs.steps
        node, probability = self.node(steps)
        rule = self.krylov.radau(steps, node)
        return self.krylov.spectrum(self.displacement.shift, *rule), probability

    def solve(self, radius: float) -> QuadratureAnswer:
        """More steps until the values agree to `rtol`, stop changing, or `max_steps` is reached."""
        settings, runs = self.settings, self.krylov.runs
        if runs.steps == 0:
            self.advance(0)
        before: tuple[float, float] | None = None
        still = 0
        while True:
            gauss = self.gauss()
            radau, probability = self.radau()
            lower = minimize_quadratic_dual(gauss, radius)
            upper = minimize_quadratic_dual(radau, radius)
            slack = settings.rtol * abs(lower.value)
            if upper.value - lower.value <= slack:
                break
            # a norm bound may be too far from the norm, and a probable one always is
            now = lower.value, upper.value if probability == 0 else 0.0
            if before is not None:
                quiet = max(abs(now[0] - before[0]), abs(now[1] - before[1])) <= 0.01 * slack
                still = still + 1 if quiet else 0
            if still == 2 or runs.steps >= settings.max_steps:
                break
            before = now
            self.advance(2 + runs.steps // 3)
        view = QuadratureView(self, runs.steps, gauss)
        return QuadratureAnswer(view, lower, upper, radau.top, probability)


@dataclass(frozen=True, eq=False)
class QuadratureView:
    """The Gauss rule after some steps, with the law that belongs to it."""

    of: QuadratureDecomposition
    steps: int
    spectrum: ResidualSpectrum

    @property
    def displacement(self) -> AffineDisplacement:
        """The affine action on the residuals."""
        return self.of.displacement

    @cached_property
    def _eigen(self) -> tuple[Array, Array]:
        """Nodes and eigenvectors of every run."""
        runs = self.of.krylov.runs
        return np.linalg.eigh(runs.tridiagonal(self.steps, slice(None)))

    def dual_residuals(self, margin: float, unspent_radius: float) -> Array:
        r"""Rows :math:`q_i = (\lambda I - CC^\top)^{-1} r_i` as the Gauss rule has them."""
        krylov, top, shift = self.of.krylov, self.spectrum.top, self.displacement.shift
        values, vectors = self._eigen
        nodes = values * krylov.runs.unit * krylov.runs.unit
        apart = top * margin + (top - shift - nodes)
        used = np.logical_and(self.spectrum.significant.reshape(nodes.shape), apart > 0)
        inverse = np.divide(vectors[:, 0, :], apart, out=np.zeros_like(apart), where=used)
        coefficients = np.einsum("rkj,rj->rk", vectors, inverse) * krylov.runs.lengths[:, None]
        residuals = slice(0, krylov.count)
        q = krylov.runs.combine(coefficients[residuals], residuals)
        if unspent_radius > 0:
            q += unspent_radius / top**0.5 * self._top_direction(nodes, vectors)
        return q

    def _top_direction(self, nodes: Array, vectors: Array) -> Array:
        """The unit Ritz vector of the largest node (any unit vector if the factor is zero)."""
        runs = self.of.krylov.runs
        for run in np.argsort(nodes[:, -1])[::-1]:
            direction = runs.combine(vectors[None, run, :, -1], [run])[0]
            length = float(np.linalg.norm(direction))
            if length > 0.5:  # a run that has ended early has nodes that belong to no vector
                return np.asarray(direction / length)
        direction = np.zeros(self.of.krylov.dimension)
        direction[0] = 1.0
        return direction


def check_norm_bound(bound: float, top: float) -> None:
    """Refuse a bound below a singular value that is surely there."""
    if top > bound * bound * (1 + 1e-10):
        raise ValueError(
            f"norm_bound: {bound:g} is below a singular value of the map, at least "
            f"{math.sqrt(top):.12g}; allowed: a proved bound on the largest one"
        )


def quadrature_spectrum(
    displacement: AffineDisplacement,
    weights: Array,
    steps: int,
    random_starts: int,
    seed: int,
    upper: bool,
) -> ResidualSpectrum:
    """The Gauss rule after some steps, or the Radau rule at the factor's norm bound."""
    if displacement.factor is None:
        raise ValueError("structure: without a map that moves, there is nothing to bidiagonalise")
    settings = QuadratureSettings(random_starts=random_starts, seed=seed)
    decomposition = QuadratureDecomposition(displacement, weights, settings)
    decomposition.krylov.runs.advance(steps)
    return decomposition.radau()[0] if upper else decomposition.gauss()
