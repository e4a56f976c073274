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
from typing import ClassVar

import numpy as np

from dro_core.decomposition import DecompositionAnswer, ResidualDecomposition
from dro_core.dual import minimize_quadratic_dual
from dro_core.golub_kahan import KrylovRuns
from dro_core.linear_map import LinearMap
from dro_core.samples import Samples
from dro_core.spectrum import ResidualSpectrum, checked_fidelity, started_residuals
from dro_core.structure import AffineDisplacement
from dro_core.transport import squared_norms
from dro_core.types import Array


@dataclass(frozen=True)
class QuadratureSettings:
    """How matrix-free maps are handled; see `LinearReconstruction`."""

    rtol: float = 1e-6
    max_steps: int = 300
    random_starts: int = 4
    failure_probability: float = 1e-6
    seed: int = 0


class QuadratureDecomposition:
    """Matrix-free counterpart of `ResidualDecomposition`: refined until its two values agree."""

    def __init__(
        self,
        displacement: AffineDisplacement,
        krylov: KrylovRuns,
        settings: QuadratureSettings,
        forced: float = 0.0,
    ) -> None:
        self.displacement, self.krylov, self.settings = displacement, krylov, settings
        #: Mean cost of where the samples start.
        self.forced = forced
        self._looks = 0

    @classmethod
    def of_samples(
        cls,
        B: LinearMap,
        displacement: AffineDisplacement,
        samples: Samples,
        settings: QuadratureSettings,
    ) -> QuadratureDecomposition:
        """Runs from every residual; these are kept in memory, and the samples' order matters."""
        assert displacement.factor is not None
        residual, mu, forced = started_residuals(B, displacement, samples)
        checked_fidelity(float(mu @ squared_norms(residual)))
        krylov = KrylovRuns(
            displacement.factor, residual, mu, settings.random_starts, settings.seed
        )
        return cls(displacement, krylov, settings, forced)

    def with_displacement(self, displacement: AffineDisplacement) -> QuadratureDecomposition:
        """The same runs for a structure with the same residual and factor."""
        return QuadratureDecomposition(displacement, self.krylov, self.settings, self.forced)

    def exact_for(self, purpose: str) -> ResidualDecomposition:
        """An error: the spectrum is not known."""
        raise ValueError(
            f"B: {purpose} needs a matrix, or an operator with a known spectrum; this map is "
            "known by its products only"
        )

    def upper_spectrum(self) -> ResidualSpectrum:
        """A spectrum whose dual is proved never to be below."""
        self.advance(max(50 - self.krylov.runs.steps, 0))
        upper, probability = self.radau()
        if probability > 0:
            raise ValueError(
                "norm_bound: a value of the dual function is an upper bound, which a "
                "LinearOperator has only with a proved bound on its norm; pass norm_bound="
            )
        return upper

    def node(self, steps: int) -> tuple[float, float]:
        """(bound on the factor's largest squared singular value, its probability to fail)."""
        node = self.krylov.proved_node(steps)
        if node is not None:
            return node, 0.0
        # every look at it may fail: p/2 + p/6 + p/12 + ... = p
        self._looks += 1
        probability = self.settings.failure_probability
        share = probability / (self._looks * (self._looks + 1))
        return self.krylov.probable_top(steps, share), probability

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
        return ResidualSpectrum(*self.krylov.atoms(self.displacement.shift, *rule))

    def radau(self) -> tuple[ResidualSpectrum, float]:
        """The Radau rule so far, never below but for a probability; and that probability."""
        steps = self.krylov.runs.steps
        node, probability = self.node(steps)
        rule = self.krylov.radau(steps, node)
        return ResidualSpectrum(*self.krylov.atoms(self.displacement.shift, *rule)), probability

    def solve(self, radius: float) -> DecompositionAnswer:
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
        return DecompositionAnswer(view, lower, upper, radau.top, probability)


@dataclass(frozen=True, eq=False)
class QuadratureView:
    """The Gauss rule after some steps, with the law that belongs to it."""

    #: Known by products only.
    exact: ClassVar[bool] = False

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
        values, vectors = np.linalg.eigh(runs.tridiagonal(self.steps, slice(None)))
        return values * runs.unit * runs.unit, vectors

    @property
    def forced(self) -> float:
        """Mean cost of where the samples start."""
        return self.of.forced

    def dual_residuals(
        self, rows: slice, residual: Array, margin: float, unspent_radius: float
    ) -> Array:
        r"""Rows :math:`q_i = (\lambda I - CC^\top)^{-1} r_i` as the Gauss rule has them."""
        krylov, top = self.of.krylov, self.spectrum.top
        nodes, vectors = (part[rows] for part in self._eigen)
        apart = top * margin + (top - self.displacement.shift - nodes)
        significant = self.spectrum.significant.reshape(-1, self.steps)[rows]
        used = np.logical_and(significant, apart > 0)
        inverse = np.divide(vectors[:, 0, :], apart, out=np.zeros_like(apart), where=used)
        coefficients = np.einsum("rkj,rj->rk", vectors, inverse)
        q = krylov.runs.combine(coefficients * krylov.runs.lengths[rows, None], rows)
        if unspent_radius > 0:
            q += unspent_radius / top**0.5 * self._top_direction
        return q

    @cached_property
    def _top_direction(self) -> Array:
        """The unit Ritz vector of the largest node (any unit vector if the factor is zero)."""
        runs = self.of.krylov.runs
        nodes, vectors = self._eigen
        for run in np.argsort(nodes[:, -1])[::-1]:
            direction = runs.combine(vectors[None, run, :, -1], [run])[0]
            length = float(np.linalg.norm(direction))
            if length > 0.5:  # a run that has ended early has nodes that belong to no vector
                return np.asarray(direction / length)
        direction = np.zeros(self.of.krylov.dimension)
        direction[0] = 1.0
        return direction
