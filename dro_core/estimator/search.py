"""`fit_linear`: candidate maps and laws in full coordinates; the best pair is the answer."""

from __future__ import annotations

import math
import warnings
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from dro_core.checks import (
    LARGEST,
    as_non_negative,
    as_radius,
    as_samples,
    as_weights,
    check_option,
    magnitude,
)
from dro_core.entropic import EntropicWorstCase, entropic_worst_case
from dro_core.estimator.fit import MOVES, LinearFit
from dro_core.estimator.law import Law
from dro_core.estimator.newton import Reduced, Subspace, entropy_path, minimize
from dro_core.threads import single_threaded
from dro_core.types import Array, Real
from dro_core.worst_case import WorstCase, worst_case_risk
from dro_core.worst_case.problem import too_small_to_square

#: Of scales that no arithmetic of floats joins.
TOO_FAR_APART = "x, y, radius, epsilon: too far apart in size for the arithmetic of floats; rescale"
#: Up to this many entries of the second moments one thread is faster: Newton steps are short.
SMALL_MOMENTS = 2**18
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


def fit_linear(
    *,
    x: ArrayLike,
    y: ArrayLike,
    radius: Real,
    epsilon: Real = 0.0,
    structure: str = "y|x",
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
    if not isinstance(structure, str):
        raise TypeError(f"structure: {structure!r}; allowed: {', '.join(map(repr, MOVES))}")
    check_option(structure, "structure", MOVES)
    quiet = np.errstate(over="ignore", divide="ignore", invalid="ignore")
    try:
        with quiet, single_threaded((x.shape[1] + y.shape[1]) ** 2, SMALL_MOMENTS):
            found = _Search(x, y, mu, rho, entropy_weight, structure).run()
    except np.linalg.LinAlgError:  # of matrices that are not numbers any more
        raise OverflowError(TOO_FAR_APART) from None
    if not math.isfinite(found.risk + found.lower):
        raise OverflowError(TOO_FAR_APART)
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
    def space_x(self) -> Subspace:
        return Subspace(self.rows_x)

    @cached_property
    def space_y(self) -> Subspace:
        return Subspace(self.rows_y)

    def worst(self, B: Array) -> WorstCase | EntropicWorstCase:
        arguments = (B, self.x, self.y, self.radius)
        if self.epsilon > 0:
            return entropic_worst_case(
                *arguments, self.epsilon, self.structure, weights=self.weights
            )
        return worst_case_risk(*arguments, self.structure, weights=self.weights)

    def fit(self, B: Array, laws: list[Law]) -> LinearFit:
        """The map with the law of the largest lower value."""
        largest = magnitude(B)
        if not largest <= LARGEST or too_small_to_square(largest, self.radius):
            raise OverflowError(TOO_FAR_APART)
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
        reduced = Reduced(
            both[:, :k], both[:, k:], float(self.moves_x), complement, self.radius / unit
        )
        tried: list[LinearFit] = []
        nearly: list[Law] = []
        if self.structure == "y|x" and self.x.shape[1] * self.y.shape[1] <= LARGE_MAP:
            law, _ = self._decorrelating_law()
            nearly = [law] if self.epsilon > 0 else [self._blurred(law, share) for share in BLURS]
        for point in entropy_path(reduced, self.epsilon / unit**2):
            B = space_x.basis @ point.B @ space_y.basis.T
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
                laws = laws + [self._blurred(law, share) for share in shares]
                sharp = minimize(reduced, point.B, 0.0) if B.size <= LARGE_MAP else point
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
            shifts[:, :k] @ space_x.basis.T,
            shifts[:, k:] @ space_y.basis.T,
            np.hstack([roots[:, :k] @ space_x.basis.T, roots[:, k:] @ space_y.basis.T]),
        )
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
            Law(
                share[:, None] * direction[:n],
                share[:, None] * direction[n:],
                math.sqrt(rest) * direction[None],
            )
        ]


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
