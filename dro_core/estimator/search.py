"""Candidate maps and laws of `fit_linear` in full coordinates; the best pair is the answer."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from dro_core.entropic import EntropicWorstCase, entropic_worst_case
from dro_core.estimator.fit import LinearFit
from dro_core.estimator.judge import Judge
from dro_core.estimator.law import Law, law_of_gaussians
from dro_core.estimator.newton import Reduced, Subspace, minimize
from dro_core.estimator.path import LEAST_ENTROPY, entropy_path, first_attempts
from dro_core.estimator.reduction import Modes, modes
from dro_core.linear_map import DenseMap
from dro_core.optional import installed, needed
from dro_core.structure import PointStructure
from dro_core.types import Array, Booleans
from dro_core.worst_case import LinearReconstruction

#: A certificate this good ends the search for a better one.
GOOD_GAP = 1e-9
#: With a worse one, and data of at most this rank, the law comes from a semidefinite programme.
POOR_GAP, LAW_RANK = 1e-6, 30
#: Shares of the budget that are tried as isotropic noise.
BLURS = (1e-9, 1e-8, 1e-7, 1e-6)
#: Beyond this many entries of the map certificates are costly: fewer laws are tried, and the search
#: ends at a worse gap.
LARGE_MAP, GOOD_GAP_OF_LARGE_MAP = 50_000, 5e-5


@dataclass(eq=False)
class Search(Judge):
    """Candidate maps and laws, for y of weight one; keeps the best of each."""

    structure: PointStructure
    tolerance: float = 0.0  #: gap at which the search may end, where that is not smaller

    @property
    def good_gap(self) -> float:
        """Of a certificate that ends the search at once."""
        return max(self.tolerance, GOOD_GAP)

    @cached_property
    def free(self) -> Booleans:
        return self.structure.free_axes(self.x.shape[1], self.y.shape[1])

    @property
    def moves_x(self) -> bool:
        return bool(self.free[: self.x.shape[1]].any())

    @property
    def moves_y(self) -> bool:
        return bool(self.free[self.x.shape[1] :].any())

    @cached_property
    def rows_x(self) -> Array:
        return np.asarray(np.sqrt(self.weights)[:, None] * self.x)

    @cached_property
    def rows_y(self) -> Array:
        return np.asarray(np.sqrt(self.weights)[:, None] * self.y)

    @cached_property
    def unit(self) -> float:
        return math.sqrt(float((self.rows_x**2).sum() + (self.rows_y**2).sum())) or 1.0

    @cached_property
    def modes_x(self) -> Modes:
        return modes(self.rows_x, self.structure.weight_x, self.space_x)

    @cached_property
    def space_x(self) -> Subspace:
        return Subspace(self.rows_x)

    @cached_property
    def space_y(self) -> Subspace:
        return Subspace(self.rows_y)

    @property
    def lives_in_subspaces(self) -> bool:
        """Whether the data leave out so much that their coordinates are a smaller problem.

        Without entropy, and with one weight for all of x, which keeps every subspace.
        """
        if self.epsilon > 0 or self.radius == 0.0 or not self.moves_y or self.is_empty:
            return False
        sizes = self.space_x.basis.shape, self.space_y.basis.shape
        plain = self.structure.weight_x.scalar_inverse is not None
        return plain and all(2 * k <= n for n, k in sizes)

    def run(self) -> LinearFit:
        if not self.moves_y:
            return self.fit(self.plain, self._laws_of_x(self.plain))
        if self.radius == 0.0:
            return self.fit(self._ridge() if self.epsilon > 0 else self.plain, [])
        best: LinearFit | None = None
        if not self.moves_x and self._may_decorrelate():
            law, exact = self._decorrelating_law
            if exact:
                return self.fit(np.zeros((self.x.shape[1], self.y.shape[1])), [law])
        if self.epsilon == 0.0:
            maps = [self.plain] if self._may_be_kinked() else []
            if self.x.shape[1] == 1:
                maps.insert(0, self._scalar_output(self.plain))
            for B in maps:
                found = self.fit(B, self.laws_without_residual(B) if B is self.plain else [])
                best = found if best is None or found.gap < best.gap else best
                if best.gap <= self.good_gap:
                    return best
        return self._by_newton(best)

    @cached_property
    def plain(self) -> Array:
        """The least-squares map of smallest norm."""
        return self.space_y.regress(self.rows_x)

    def _may_decorrelate(self) -> bool:
        r"""Whether the budget may be enough to take from y what x says of it.

        That costs :math:`\operatorname{tr} S_{yx}S_{xx}^+S_{xy} \ge \|S_{xy}\|_F^2/\|S_{xx}\|_F`.
        """
        if self.is_empty:
            return True
        cross = self.reduced.root.T @ self.reduced.mixed * self.unit**2
        moments = self.rows_x.T @ self.rows_x
        least = float(np.linalg.norm(cross)) / math.sqrt(float(np.linalg.norm(moments)))
        return self.radius * (1 + 1e-9) >= least

    @cached_property
    def reduced(self) -> Reduced:
        """The problem in the coordinates of the data's subspaces, in their unit."""
        axes = self.modes_x
        y = self.space_y.coordinates
        both = np.empty((len(y), y.shape[1] + axes.basis.shape[1]))
        both[:, : y.shape[1]], both[:, y.shape[1] :] = y, axes.coordinates(self.rows_x)
        both /= self.unit
        return Reduced(
            both, axes.inverse_weights, axes.complement, axes.counts, self.radius / self.unit
        )

    @property
    def is_empty(self) -> bool:
        """Whether all samples of x, or all of y, are zero."""
        return 0 in self.modes_x.basis.shape or 0 in self.space_y.basis.shape

    def _resolved_entropy(self) -> float:
        """The entropy weight, or a larger one whose Gaussians have digits where there is a kink."""
        if self.epsilon == 0.0:
            return 0.0
        return max(self.epsilon, LEAST_ENTROPY * self.radius**2)

    def _laws_of_more_entropy(self, B: Array) -> list[Law]:
        """The Gaussians at that larger weight, brought into the ball of the given one."""
        weight = self._resolved_entropy()
        if weight == self.epsilon:
            return []
        worst = entropic_worst_case(
            B, self.x, self.y, self.radius, weight, self.structure, weights=self.weights
        )
        law = law_of_gaussians(worst)
        return [law.within(self.radius**2, self.weights, self.epsilon, self.structure)]

    def _may_be_kinked(self) -> bool:
        """Whether the least-squares map has next to no residual where it can be moved.

        There the risk has a kink, or its gradient 2λG(ΣGB - S) vanishes, for S = 0.
        """
        if self.is_empty:
            return True
        reduced = self.reduced
        B = reduced.least_squares
        image = reduced.mixed @ B
        return bool(np.linalg.norm(reduced.rest @ B) <= 1e-2 * np.linalg.norm(image))

    def _by_newton(self, best: LinearFit | None) -> LinearFit:
        unit, axes, space_y = self.unit, self.modes_x, self.space_y
        if self.is_empty:
            return self.fit(np.zeros((self.x.shape[1], self.y.shape[1])), [])
        reduced, smoothed_by = self.reduced, self._resolved_entropy() / unit**2
        tried: list[LinearFit] = []
        if self.epsilon > 0 or best is None:  # no kink in sight
            for point in first_attempts(reduced, smoothed_by):
                B = axes.basis @ point.B @ space_y.basis.T
                tried.append(self.fit(B, self._laws_of_more_entropy(B)))
                if tried[-1].gap <= self.good_gap:
                    return tried[-1]
        nearly: list[Law] = []
        if not self.moves_x and self.x.shape[1] * self.y.shape[1] <= LARGE_MAP:
            law, _ = self._decorrelating_law
            nearly = [law] if self.epsilon > 0 else [self.blurred(law, share) for share in BLURS]
        for point in entropy_path(reduced, smoothed_by, self.tolerance):
            B = axes.basis @ point.B @ space_y.basis.T
            laws = nearly
            if self.epsilon == 0.0:
                smoothed = entropic_worst_case(
                    B,
                    self.x,
                    self.y,
                    self.radius,
                    point.epsilon * unit**2,
                    self.structure,
                    weights=self.weights,
                )
                law = _sharpened(smoothed)
                shares = (0.0, *BLURS) if B.size <= LARGE_MAP else (1e-7,)
                laws = laws + [self.blurred(law, share) for share in shares]
                sharp = minimize(reduced, point.B, 0.0) if B.size <= LARGE_MAP else point
                if sharp.smooth and sharp is not point:
                    tried.append(self.fit(axes.basis @ sharp.B @ space_y.basis.T, []))
            tried.append(self.fit(B, laws + self._laws_of_more_entropy(B)))
            best = min([*tried, *([best] if best else [])], key=lambda fit: fit.gap)
            if best.gap <= max(self.good_gap, GOOD_GAP_OF_LARGE_MAP if B.size > LARGE_MAP else 0.0):
                break
        assert best is not None
        if (
            self.epsilon == 0.0
            and best.gap > POOR_GAP
            and axes.basis.shape[1] + space_y.basis.shape[1] <= LAW_RANK
        ):
            exact = self._exact_law()
            laws = [] if exact is None else [self.blurred(exact, share) for share in BLURS]
            better = self.fit(min(tried, key=lambda fit: fit.risk).matrix, laws)
            best = better if better.gap < best.gap else best
        return best

    def blurred(self, law: Law, share: float) -> Law:
        """The law with a share of the budget for isotropic noise in y.

        Where a law leaves some directions of y' almost without variance, its least-squares risk
        hangs on digits that no solver gives; a little noise there settles it.
        """
        n, m = self.x.shape[1], self.y.shape[1]
        blur = np.hstack([np.zeros((m, n)), math.sqrt(share / m) * self.radius * np.eye(m)])
        roots = np.vstack([law.roots, blur])
        return self._scaled(Law(law.displacement_x, law.displacement_y, roots))

    def _scaled(self, law: Law) -> Law:
        return law.scaled(self.radius**2, self.weights, self.structure)

    def _exact_law(self) -> Law | None:
        r"""The law of the largest least-squares risk, by a semidefinite programme.

        With f the data's features of unit second moment, a law is its moments
        :math:`W = \mathbb E f d^\top` and :math:`G = \mathbb E dd^\top` of what moves,
        :math:`\begin{pmatrix} I & W\\ W^\top & G\end{pmatrix}\succeq0`, tr G <= ρ²; its
        least-squares risk is the largest tr T for which the moments of (x', y') minus diag(T, 0)
        stay positive.
        """
        if not installed("cvxpy"):
            return None
        cp = needed("cvxpy", "the law of the largest least-squares risk")
        unit, axes, space_y = self.unit, self.modes_x, self.space_y
        data = np.hstack([self.rows_x @ axes.basis, space_y.coordinates]) / unit
        columns, values, right = np.linalg.svd(data, full_matrices=False)
        kept = values > 1e-12 * values[0]
        features, mixing = columns[:, kept], values[kept, None] * right[kept]
        k, size = axes.basis.shape[1], data.shape[1]
        radius = self.radius / unit
        inverse_weights = np.r_[axes.inverse_weights, np.ones(size - k)]
        moving = radius * np.diag(np.sqrt(inverse_weights))[:, inverse_weights > 0]
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
            shifts[:, :k] @ axes.basis.T,
            shifts[:, k:] @ space_y.basis.T,
            np.hstack([roots[:, :k] @ axes.basis.T, roots[:, k:] @ space_y.basis.T]),
        )
        return self._scaled(law)

    def _ridge(self) -> Array:
        """Radius zero with entropy: the reference noise adds ε/2 to the second moment of y."""
        moments = self.rows_y.T @ self.rows_y
        regularised = moments + 0.5 * self.epsilon * np.eye(len(moments))
        return np.asarray(np.linalg.solve(regularised, self.rows_y.T @ self.rows_x).T)

    def _scalar_output(self, plain: Array) -> Array:
        r"""Minimiser of RMSE + ρ\|(s, β)\|: β = (S + θ)⁻¹Sβ₀ with one number θ to find."""
        own = float(self.structure.weight_x.half(1)[0, 0])
        e, basis = self.space_y.singular[0] ** 2, self.space_y.singular[1]
        start = plain[0] @ basis
        least = float(((self.rows_x - self.rows_y @ plain.T) ** 2).sum())

        def parts(theta: float) -> tuple[float, float]:
            rest = start * theta / (e + theta)
            beta = start * (e / (e + theta))
            return math.sqrt(least + float(e @ rest**2)), math.hypot(
                own, float(np.linalg.norm(beta))
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

    @cached_property
    def _decorrelating_law(self) -> tuple[Law, bool]:
        """y' = y - (regression of y on x), blurred: no linear map is better than zero then.

        Or, and False, as much of it as the budget allows (structure y|x).
        """
        slope = self.space_x.regress(self.rows_y)
        law = Law(np.zeros_like(self.x), -(self.x @ slope.T), self.no_roots())
        left = self.radius**2 - law.spent(self.weights, self.structure)
        exact, (n, m) = left >= 0, slope.shape[::-1]
        if not exact:
            law, left = self._scaled(law), 0.0
        variance = 0.5 * self.epsilon if self.epsilon > 0 else left / m
        roots = np.hstack([np.zeros((m, n)), math.sqrt(variance) * np.eye(m)])
        return Law(law.displacement_x, law.displacement_y, roots), exact

    def laws_without_residual(self, B: Array) -> list[Law]:
        r"""Worst-case law at a map without residual for which that map is optimal.

        All budget goes along one top left singular vector u of C, displacement
        :math:`d = (W_x^{-1}u, -B^\top u)/\kappa`; the part c_i of it on sample i is chosen so that
        B stays stationary, :math:`\sum\mu_i c_i y_i = \rho^2 B^\top u/\kappa`, and what is left is
        blurred. None if that costs more than the budget: B is not optimal then.
        """
        displacement = self.structure.displacement(DenseMap(B))
        assert displacement.factor is not None  # y moves
        left, values, _ = np.linalg.svd(displacement.factor.matrix(), full_matrices=False)
        top = values >= values[0] * (1 - 1e-9) if values[0] > 0 else values >= 0
        kappa = math.hypot(math.sqrt(displacement.shift), float(values[0]))
        if kappa == 0.0:
            return []
        inverse, images = self.space_y.inverse_moments, B.T @ left[:, top]
        # of several directions, the one that is cheapest to keep stationary
        u = left[:, top] @ np.linalg.eigh(images.T @ inverse(images))[1][:, 0]
        share = self.radius**2 / kappa * (self.y @ inverse((B.T @ u)[:, None])[:, 0])
        rest = self.radius**2 - float(self.weights @ share**2)
        if rest < 0:
            return []
        dx, dy = (part[0] / kappa for part in displacement.displace(u[None]))
        direction = np.concatenate([dx, dy])
        return [
            Law(share[:, None] * dx, share[:, None] * dy, math.sqrt(rest) * direction[None]),
        ]

    def _laws_of_x(self, B: Array) -> list[Law]:
        """Worst-case laws under x|y, what goes along a top direction blurred: no map can follow.

        Of the displacement that the residuals ask for, what it leaves unspent; or the whole budget,
        where the residuals are rounding.
        """
        if self.epsilon > 0 or not self.moves_x:
            return []
        problem = LinearReconstruction(B, self.x, self.y, weights=self.weights)
        own = problem.exact_decomposition(self.structure, "the worst case of x")
        found, displace = own.solve(self.radius).lower, own.displacement.displace
        root = np.hstack(displace(own.top_direction()[None])) / own.spectrum.top**0.5
        zero = np.zeros_like(self.x), np.zeros_like(self.y)
        laws = [Law(*zero, self.radius * root)]
        if found.unspent > 0 and math.isfinite(found.margin):
            rows = slice(0, len(self.x))
            dx, dy = displace(own.dual_residuals(rows, problem.residual, found.margin, 0.0))
            laws.append(Law(dx, dy, found.unspent_radius * root))
        return laws


def _sharpened(worst: EntropicWorstCase) -> Law:
    """The worst-case Gaussians without the reference noise, in the units of the transport cost.

    That noise costs ε/2 per direction and gains less per cost than the optimal multiplier; without
    it stationarity is off by (ε/2)B, which the least-squares risk feels to second order only.
    """
    return law_of_gaussians(worst, 0.5 * worst.epsilon)
