"""`fit_linear`: candidate maps and laws in full coordinates; the best pair is the answer."""

from __future__ import annotations

import math
import warnings
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from dro_core.checks import (
    as_non_negative,
    as_radius,
    as_samples,
    as_weights,
    check_option,
)
from dro_core.entropic import EntropicWorstCase, entropic_worst_case
from dro_core.estimator.fit import LinearFit
from dro_core.estimator.judge import TOO_FAR_APART, Judge
from dro_core.estimator.law import Law, law_of_gaussians
from dro_core.estimator.newton import (
    Reduced,
    Subspace,
    entropy_path,
    first_attempts,
    minimize,
)
from dro_core.estimator.reduction import Modes, modes, whitened
from dro_core.linear_map import DenseMap
from dro_core.optional import installed, missing, needed
from dro_core.structure import PointStructure, SignalNoise, Structure, as_structure
from dro_core.threads import single_threaded
from dro_core.types import Array, Booleans, Real
from dro_core.worst_case import LinearReconstruction

#: Structures that a map can be fitted for.
FITTED = ("y|x", "joint", "x|y")
ALLOWED = "'y|x', 'joint', 'x|y', or YGivenX, Joint, XGivenY with weights, or SignalNoise"
#: Up to this many entries of the second moments one thread is faster: Newton steps are short.
SMALL_MOMENTS = 2**18
#: A certificate this good ends the search for a better one.
GOOD_GAP = 1e-9
#: With a worse one, and data of at most this rank, the law comes from a semidefinite programme.
POOR_GAP, LAW_RANK = 1e-6, 30
#: A map with a worse gap comes with a warning.
LARGEST_QUIET_GAP = 1e-3
#: Small problems without a good law are left to a semidefinite programme, where there is cvxpy.
WITHOUT_PROGRAMME = "; " + missing("cvxpy", "a better proof for small data")
#: Shares of the budget that are tried as isotropic noise.
BLURS = (1e-9, 1e-8, 1e-7, 1e-6)
#: Beyond this many entries of the map certificates are costly: fewer laws are tried, and the search
#: ends at a worse gap.
LARGE_MAP, GOOD_GAP_OF_LARGE_MAP = 10_000, 5e-5


class NotOptimalWarning(UserWarning):
    """The map of `fit_linear` is not proved optimal: its relative saddle gap exceeds 1e-3."""


def fit_linear(
    *,
    x: ArrayLike,
    y: ArrayLike,
    radius: Real,
    epsilon: Real = 0.0,
    structure: str | Structure = "y|x",
    weights: ArrayLike | None = None,
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
    structure : "y|x", "joint", "x|y", or one of them as an object with weights; `SignalNoise`
        The weights of the transport cost are those of `Joint`; infinity freezes an axis, whose
        columns of B are least squares. With entropy what moves is blurred by
        :math:`N(0, \tfrac\varepsilon2W^{-1})`. Under x|y every least-squares map is optimal,
        whatever the weights; the one of smallest norm is returned.
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
        For bad arrays, radius, epsilon, weights or structure (a norm other than 2 included).
    OverflowError
        If x, y, radius and epsilon are too far apart in size.

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
    resolved = as_fitted_structure(structure)
    if isinstance(resolved, PointStructure):
        resolved.weight_x.check_size(x.shape[1], "x")
        resolved.weight_y.check_size(y.shape[1], "y")
    elif entropy_weight > 0:
        raise ValueError(f"epsilon: {entropy_weight} with {resolved!r}; allowed: 0.0")
    elif resolved.forward.shape != (y.shape[1], x.shape[1]):
        raise ValueError(
            f"forward: shape {resolved.forward.shape}, but a map from x to y has shape "
            f"{(y.shape[1], x.shape[1])}"
        )
    quiet = np.errstate(over="ignore", divide="ignore", invalid="ignore")
    try:
        with quiet, single_threaded((x.shape[1] + y.shape[1]) ** 2, SMALL_MOMENTS):
            if isinstance(resolved, SignalNoise):
                found = _uncoupled(x, y, mu, rho, resolved)
            else:
                found = _fit(x, y, mu, rho, entropy_weight, resolved)
    except np.linalg.LinAlgError:  # of matrices that are not numbers any more
        raise OverflowError(TOO_FAR_APART) from None
    if not math.isfinite(found.risk + found.lower):
        raise OverflowError(TOO_FAR_APART)
    if found.gap > LARGEST_QUIET_GAP:
        warnings.warn(
            f"the worst-case risk of the map, {found.risk:.6g}, may be {found.gap:.2g} of itself "
            f"above the smallest one, which is at least {found.lower:.6g}; rescale the data, or "
            f"try another radius or epsilon{'' if installed('cvxpy') else WITHOUT_PROGRAMME}",
            NotOptimalWarning,
            stacklevel=2,
        )
    return found


def as_fitted_structure(structure: str | Structure) -> PointStructure | SignalNoise:
    """A structure that a map can be fitted for, with weights or without."""
    if not isinstance(structure, Structure):
        if not isinstance(structure, str):
            raise TypeError(f"structure: {structure!r}; allowed: {ALLOWED}")
        check_option(structure, "structure", FITTED)
    resolved = as_structure(structure)
    if isinstance(resolved, SignalNoise):
        return resolved
    if not isinstance(resolved, PointStructure) or resolved.norm != 2.0:
        raise ValueError(f"structure: {resolved!r}; allowed: {ALLOWED}, with norm 2")
    return resolved


def _uncoupled(
    x: Array, y: Array, weights: Array, radius: float, structure: SignalNoise
) -> LinearFit:
    """The fit where signal and noise move: that of (x - Γy, y) with uncoupled costs, plus Γ."""
    gain, costs = structure.equivalent()
    found = _fit(x - y @ gain.T, y, weights, radius, 0.0, costs)
    n = x.shape[1]
    law, roots = found.law, found.law.roots
    back = Law(
        law.displacement_x + law.displacement_y @ gain.T,
        law.displacement_y,
        np.hstack([roots[:, :n] + roots[:, n:] @ gain.T, roots[:, n:]]),
    )
    return Judge(x, y, weights, radius, 0.0, structure).fit(found.matrix + gain, [back])


def _fit(
    x: Array, y: Array, weights: Array, radius: float, epsilon: float, structure: PointStructure
) -> LinearFit:
    """The fit of the whitened data, brought back; its law or a better one proves it there."""
    search = _Search(x, y, weights, radius, epsilon, structure)
    if structure.weight_y.scalar_inverse == 1.0 or not search.moves_y:
        return search.run()
    if radius == 0.0 and epsilon == 0.0:  # least squares of smallest norm, in the data's own units
        return search.run()
    data = whitened(x, y, weights, structure)
    own = _Search(data.x, data.y, weights, radius, epsilon, data.structure)
    found = own.run()
    laws = [found.law]
    if epsilon == 0.0:
        # what has no variance in these units may have rounding in the given ones
        laws += [own.blurred(found.law, share) for share in BLURS]
        # a common shift may be correlated with frozen axes, a blur is not
        laws += own.laws_without_residual(found.matrix)
    return search.fit(data.restore(found.matrix), [data.restore_law(law) for law in laws])


class _Search(Judge):
    """Candidate maps and laws, for y of weight one; keeps the best of each."""

    structure: PointStructure

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
                if best.gap <= GOOD_GAP:
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
        reduced, smoothed_by = self.reduced, self.epsilon / unit**2
        tried: list[LinearFit] = []
        if self.epsilon > 0 or best is None:  # no kink in sight
            for point in first_attempts(reduced, smoothed_by):
                tried.append(self.fit(axes.basis @ point.B @ space_y.basis.T, []))
                if tried[-1].gap <= GOOD_GAP:
                    return tried[-1]
        nearly: list[Law] = []
        if not self.moves_x and self.x.shape[1] * self.y.shape[1] <= LARGE_MAP:
            law, _ = self._decorrelating_law
            nearly = [law] if self.epsilon > 0 else [self.blurred(law, share) for share in BLURS]
        for point in entropy_path(reduced, smoothed_by):
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
            tried.append(self.fit(B, laws))
            best = min([*tried, *([best] if best else [])], key=lambda fit: fit.gap)
            if best.gap <= (GOOD_GAP if B.size <= LARGE_MAP else GOOD_GAP_OF_LARGE_MAP):
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
