"""Worst-case risk of a fixed linear map over a structured Wasserstein ball, certified.

Quadratic loss, squared Euclidean transport cost. The value is exact (strong duality, paper
Theorems 3.1-3.3, solved by one eigendecomposition and one scalar equation), and every answer can
be recomputed from the worst-case law itself: see `WorstCase.verify`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import svdvals

from dro_core.checks import (
    Array,
    InfeasibleRadiusError,
    as_non_negative,
    as_positive_integer,
    as_radius,
    as_samples,
    as_scalar,
    as_weights,
    check_samples_and_map,
    non_negative_array,
)
from dro_core.dual import (
    DualSolution,
    check_multiplier,
    minimize_quadratic_dual,
    quadratic_dual,
    quadratic_dual_derivative,
)
from dro_core.linear_map import DENSE_ENTRIES, LinearMap, as_linear_map
from dro_core.quadrature import QuadratureDecomposition, QuadratureSettings, QuadratureView
from dro_core.read_only import ReadOnly, read_only
from dro_core.spectrum import ResidualDecomposition, ResidualSpectrum, decompose, residuals
from dro_core.structure import AffineDisplacement, Structure, XShift, as_structure
from dro_core.transport import squared_norms

#: Larger risks are refused: the sums they are made of would overflow.
LARGEST_RISK = 1e300
#: Squares of smaller maps are not accurate; they matter if radius times map exceeds the second.
SMALLEST_MAP, SMALLEST_PRODUCT = 1e-140, 1e-150
#: Squares below this have lost digits.
SUBNORMAL = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Certificate:
    r"""What `WorstCase.verify` recomputed from the displacements, through B itself.

    Attributes
    ----------
    risk : float
        The worst-case risk that was reported.
    primal_risk : float
        Risk of the worst-case law, :math:`\sum_i\mu_i\|r_i + dx_i - B\,dy_i\|^2`: a lower value.
    dual_risk : float
        An upper value, whatever the displacements and the multiplier: the dual at
        :math:`\lambda' = \lambda + \delta > \kappa^2`, for the best :math:`\delta \ge 0`, with the
        potentials bounded through the defect of stationarity,
        :math:`\varphi_{\lambda'}(r_i) \le \|r'_i\|^2 - \lambda'\|v_i\|^2
        + \|C^\top r'_i - \lambda' v_i\|^2/(\lambda' - \kappa^2)`.
    gap : float
        (risk - primal_risk), relative to the larger of the two.
    transport_cost : float
        Cost of the displacements, to be compared with `budget`.
    budget : float
        :math:`\rho^2`.
    stationarity : float
        Size of :math:`C^\top r'_i - \lambda v_i` relative to :math:`\kappa\sqrt{\mathcal R}`.
    multiplier : float
        :math:`\lambda`.
    threshold : float
        :math:`\kappa^2`, from a singular value decomposition of its own (for a LinearOperator:
        the norm bound that was given, or a probable one).
    resolution : float
        Rounding of the reported and recomputed risks, :math:`2\sqrt{\mathcal R}\,\delta + \delta^2`
        with :math:`\delta = 16\,\mathrm{eps}\sqrt S` the rounding of residuals and S the sum of the
        mean squares of x and of the terms that By sums, before and after the move.
    failure_probability : float
        Zero if `dual_risk` is proved; else the probability that it is not an upper value, because
        the threshold of a LinearOperator without norm bound was only estimated.
    """

    risk: float
    primal_risk: float
    dual_risk: float
    gap: float
    transport_cost: float
    budget: float
    stationarity: float
    multiplier: float
    threshold: float
    resolution: float
    failure_probability: float = 0.0

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether the law is in the ball and the reported risk is proved up to `rtol`, relatively.

        That is: primal_risk >= (1 - rtol) risk and dual_risk <= (1 + rtol) risk, both up to the
        `resolution`, and transport_cost <= (1 + rtol) budget. (Residuals that are the difference of
        much larger x and By have no more digits than the resolution says.)
        """
        slack = rtol * abs(self.risk) + self.resolution
        return (
            math.isfinite(slack)
            and abs(self.risk - self.primal_risk) <= slack
            and abs(self.dual_risk - self.risk) <= slack
            and self.transport_cost <= self.budget * (1 + rtol) + SUBNORMAL
        )


class WorstCase(ReadOnly):
    r"""Worst-case risk of a linear map, its multiplier, and the law that attains it.

    Displacements are stored, positions derived from them, so small radii keep their digits; all
    are built when first asked for, from the arrays that were passed (do not change them before).
    The worst-case law puts weight :math:`\mu_i` on :math:`(x_i + dx_i, y_i + dy_i)`.

    Attributes
    ----------
    risk : float
        :math:`\sup \int \|x - By\|^2\,d\pi` over the ball: the value of the strong dual. For a
        LinearOperator the lower one of two values, see `upper`.
    upper : float
        An upper value of the risk: `risk` itself wherever it is exact; for a LinearOperator that of
        the Gauss-Radau rule, proved if `norm_bound` was given.
    failure_probability : float
        Zero if `upper` is proved; else (a LinearOperator without `norm_bound`) the probability that
        it is too low.
    multiplier : float
        Optimal :math:`\lambda` (infinite at radius 0, zero if the adversary can gain nothing).
    bound : float
        The explicit bound :math:`(\sqrt M + \rho\kappa)^2` with :math:`\kappa = \sigma_{\max}(C)`.
        For structure x, M and :math:`\rho` are those left after the forced move onto the graph,
        and C is the structure's own, so it is sharper than `explicit_bound` with Lip(I - BA).
    nominal_risk : float
        Mean squared error of the data, without any adversary.
    structure : Structure
    radius : float
        :math:`\rho`, a W2 radius in the units of the data.
    weights : (N,) array
    """

    def __init__(
        self,
        problem: LinearReconstruction,
        structure: Structure,
        answer: _Answer,
        radius: float,
    ) -> None:
        self._problem = problem
        self._decomposition = answer.decomposition
        self._solution = answer.solution
        self._top = answer.top
        self.structure = structure
        self.radius = radius
        self.risk = answer.risk
        self.upper = answer.upper
        self.failure_probability = answer.failure_probability
        self.multiplier = answer.solution.multiplier
        self.bound = answer.bound
        self.nominal_risk = problem.fidelity
        self.weights = problem.weights
        self._protect()

    def _length(self, dx: Array, dy: Array) -> float:
        """Root mean square length of displacements, in the structure's transport cost."""
        return math.sqrt(float(self.weights @ self.structure.transport_cost(dx, dy)))

    @cached_property
    def _displacements(self) -> tuple[Array, Array]:
        displacement, solution = self._decomposition.displacement, self._solution
        if math.isinf(solution.margin) or solution.multiplier == 0.0:
            dx, dy = np.zeros(self._problem.x.shape), np.zeros(self._problem.y.shape)
        else:
            dx, dy = displacement.displace(
                self._decomposition.dual_residuals(solution.margin, solution.unspent_radius)
            )
            # v is optimal up to rounding; scaled by 1 + O(rounding) it uses the budget exactly
            if solution.radius > 0:
                spent = self._length(dx / solution.radius, dy / solution.radius)
                if not math.isfinite(spent):
                    raise OverflowError(
                        "B, x, y: the worst-case displacements exceed the largest float; rescale"
                    )
                if spent > 0:
                    dx /= spent
                    dy /= spent
        if displacement.base is not None:
            dx += displacement.base[0]
            dy += displacement.base[1]
        dx.flags.writeable = dy.flags.writeable = False
        return dx, dy

    @property
    def displacement_x(self) -> Array:
        """Displacements dx of the samples' x under the worst-case law, (N, n)."""
        return self._displacements[0]

    @property
    def displacement_y(self) -> Array:
        """Displacements dy of the samples' y under the worst-case law, (N, m)."""
        return self._displacements[1]

    @property
    def x(self) -> Array:
        """Atoms of the worst-case law, x part (N, n)."""
        return self._problem.x + self.displacement_x

    @property
    def y(self) -> Array:
        """Atoms of the worst-case law, y part (N, m)."""
        return self._problem.y + self.displacement_y

    @property
    def lower(self) -> float:
        """`risk`: never above the true worst case, up to rounding."""
        return self.risk

    @cached_property
    def gradient(self) -> Array:
        r"""Gradient of the worst-case risk in B, (n, m).

        By the envelope theorem that of the mean squared error at the worst-case law,
        :math:`2(B\,\mathbb E[y'y'^\top] - \mathbb E[x'y'^\top])`. In the hard case the law is
        not unique and this is one subgradient.

        Raises
        ------
        ValueError
            For a map that is too large for a dense matrix.
        """
        problem = self._problem
        moved_y = self.y
        gradient = problem.law_gradient(self.x - problem.map.apply(moved_y), moved_y)
        if isinstance(self.structure, XShift):
            noise = self.structure.noise_covariance()
            if noise is not None:
                gradient += 2.0 * problem.map.apply(noise).T
        return read_only(gradient)

    @cached_property
    def _certificate(self) -> Certificate:
        problem, displacement = self._problem, self._decomposition.displacement
        weights = self.weights
        dx, dy = self._displacements
        moved = problem.x - problem.map.apply(problem.y)  # afresh, then the moves through B
        moved += dx - problem.map.apply(dy)
        primal = float(weights @ squared_norms(moved))
        size = float(weights @ squared_norms(problem.x))
        size += float(weights @ squared_norms(problem.x + dx))
        size += 2.0 * problem.map.squared_terms(np.abs(problem.y) + np.abs(dy), weights)
        threshold = self._threshold()
        stationarity, spent = self._stationarity(moved, dx, dy, threshold)
        upper = self._upper_value(primal, threshold, stationarity, spent)
        cost = float(weights @ self.structure.transport_cost(dx, dy))
        return Certificate(
            risk=self.risk,
            primal_risk=primal + displacement.noise_risk,
            dual_risk=upper + displacement.noise_risk,
            gap=relative_gap(self.risk, primal + displacement.noise_risk),
            transport_cost=cost + displacement.noise_cost,
            budget=self.radius**2,
            stationarity=stationarity,
            multiplier=self.multiplier,
            threshold=threshold,
            resolution=risk_rounding(max(self._free_risk, primal), size),
            failure_probability=self.failure_probability,
        )

    def _threshold(self) -> float:
        """κ², afresh by dense algebra where that is possible."""
        factor = self._decomposition.displacement.factor
        shift = self._decomposition.displacement.shift
        if factor is None:
            return shift
        if isinstance(self._decomposition, QuadratureView) or factor.spectral() is not None:
            return self._top
        return shift + float(svdvals(factor.matrix(), check_finite=False)[0]) ** 2

    @property
    def _free_risk(self) -> float:
        """The risk without the constant that the noise of a likelihood adds."""
        return self.risk - self._decomposition.displacement.noise_risk

    def _stationarity(
        self, moved: Array, dx: Array, dy: Array, threshold: float
    ) -> tuple[float, float]:
        r"""Root mean squares of Cᵀr' - λv over κ√R and of κv over √R, without the forced move."""
        displacement = self._decomposition.displacement
        root = math.sqrt(max(self._free_risk, 0.0))
        kappa = math.sqrt(threshold)
        if kappa * root == 0 or math.isinf(self.multiplier):
            return 0.0, 0.0
        if displacement.base is not None:
            dx, dy = dx - displacement.base[0], dy - displacement.base[1]

        steepest = displacement.displace(moved)  # the displacement that belongs to v = Cᵀr'
        scale = kappa * root  # divided first: its square may not be a float
        defect = self._length(
            (steepest[0] - self.multiplier * dx) / scale,
            (steepest[1] - self.multiplier * dy) / scale,
        )
        return defect, self._length(dx * (kappa / root), dy * (kappa / root))

    def _upper_value(
        self, primal: float, threshold: float, stationarity: float, spent: float
    ) -> float:
        """The dual above λ, with potentials bounded through the defect (see `Certificate`).

        In units of the risk, and of the threshold for multipliers. Without a risk or a finite
        multiplier to measure in, the explicit bound is the upper value.
        """
        reach = self._solution.radius * math.sqrt(threshold)
        if reach == 0:  # the adversary has no budget, or moves nothing that B sees
            return primal
        risk = self._free_risk
        if risk <= 0 or math.isinf(self.multiplier):
            residual = self._decomposition.displacement.residual
            return (math.sqrt(float(self.weights @ squared_norms(residual))) + reach) ** 2
        free = reach / math.sqrt(risk)
        step = np.concatenate([[0.0], np.geomspace(1e-18, 1e3, 400)])
        above = self.multiplier / threshold + step
        usable = above > 1 + 4 * float(np.finfo(np.float64).eps)
        step, above = step[usable], above[usable]
        values = above * (free - spent) * (free + spent)
        values += (stationarity + step * spent) ** 2 / (above - 1)
        return primal + risk * float(values.min())

    def verify(self) -> Certificate:
        """Recompute risk and transport cost from the displacements, applying B itself.

        Nothing of the spectral computation enters: the residuals are formed afresh, the moved
        residuals through B, the threshold by a singular value decomposition. One pass over the
        data; cached.
        """
        return self._certificate

    @property
    def primal_risk(self) -> float:
        """Risk of the worst-case law, recomputed (see `verify`)."""
        return self._certificate.primal_risk

    @property
    def transport_cost(self) -> float:
        """Transport cost of the worst-case law, recomputed (see `verify`); at most radius²."""
        return self._certificate.transport_cost

    @property
    def gap(self) -> float:
        """Relative duality gap (risk - primal_risk) / risk, recomputed (see `verify`)."""
        return self._certificate.gap

    def __repr__(self) -> str:
        risk = f"risk={self.risk:.6g}"
        if isinstance(self._decomposition, QuadratureView):
            known = "proved" if self.failure_probability == 0 else "probably"
            risk = f"risk in [{self.risk:.9g}, {self.upper:.9g}] ({known})"
        return (
            f"WorstCase({risk}, structure={self.structure.name!r}, "
            f"radius={self.radius:.6g}, multiplier={self.multiplier:.6g}, "
            f"bound={self.bound:.6g}, nominal_risk={self.nominal_risk:.6g})"
        )


def risk_rounding(risk: float, size: float) -> float:
    r"""How far a risk is known: :math:`2\sqrt{\mathcal R}\,\delta + \delta^2`.

    :math:`\delta = 16\,u\sqrt S` is the rounding of residuals that are differences of terms with
    mean squares S, u the distance from 1 to the next float.
    """
    delta = 16 * float(np.finfo(np.float64).eps) * math.sqrt(size)
    return (2 * math.sqrt(max(risk, 0.0)) + delta) * delta


def relative_gap(upper: float, lower: float) -> float:
    """(upper - lower) relative to the larger of the two in size; zero when both are zero."""
    scale = max(abs(upper), abs(lower))
    return (upper - lower) / scale if scale > 0 else 0.0


@dataclass(frozen=True, eq=False)
class WorstCaseCurve:
    """Worst-case risk along a sequence of radii.

    Attributes
    ----------
    radius : (K,) array
        The radii asked for.
    risk : (K,) array
        As in `WorstCase`, one entry per radius; so are the next two.
    multiplier : (K,) array
    bound : (K,) array
    nominal_risk : float
    upper : (K,) array
    """

    radius: Array
    risk: Array
    multiplier: Array
    bound: Array
    nominal_risk: float
    upper: Array


@dataclass(frozen=True, eq=False)
class _Answer:
    """What one radius gives: the dual's solution, and what a worst case reports of it."""

    decomposition: ResidualDecomposition | QuadratureView
    solution: DualSolution
    risk: float
    upper: float
    failure_probability: float
    bound: float
    #: κ², or the bound on it that the upper value rests on.
    top: float


class LinearReconstruction(ReadOnly):
    r"""A linear map with the data it is judged on; one decomposition serves every question.

    y|x and joint share one eigendecomposition and x|y needs none, so asking for several structures
    or radii through this object costs about as much as asking for one.

    Parameters
    ----------
    B : (n, m) matrix, scipy sparse matrix, operator of `dro_core.operators`, or LinearOperator
        Reconstruction map from y to x. Matrices (and sparse ones, and convolutions that no fast
        transform diagonalises, up to 2048² entries) are decomposed densely, operators by their
        transform; everything else is only applied, see below.
    x, y : (N, n) and (N, m) arrays
        Samples as rows; integers and float32 are computed in float64. Never modified, and not
        copied either: do not change them while the object is in use.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    norm_bound : float, optional
        For a LinearOperator: a proved bound on its largest singular value. Without one, upper
        values hold with probability 1 - `failure_probability` only. It is believed: a bound below
        a singular value that the products of the run show (to a relative 5e-11) is refused, but
        one that is too small by a relative :math:`\delta` and not found out makes `upper` too low,
        by a relative :math:`3\delta` at most in all that was tried.
    rtol : float
        A LinearOperator is applied until lower and upper value agree to this, relatively (or until
        neither changes any more, or for `max_steps`).
    max_steps : int
        Most products with B and its adjoint per sample.
    random_starts : int
        Random vectors that are followed besides the residuals.
    failure_probability : float
        In (0, 1), of upper values without `norm_bound`.
    seed : int
        Of the random vectors.

    Raises
    ------
    ValueError, TypeError
        For NaN or infinite entries, wrong shapes or dtypes, empty samples, bad weights, a
        LinearOperator without adjoint or below its `norm_bound`; the message names the argument.
    OverflowError
        If the squares of the residuals exceed the largest float.
    """

    def __init__(
        self,
        B: Any,
        x: Any,
        y: Any,
        *,
        weights: Any = None,
        norm_bound: Any = None,
        rtol: Any = 1e-6,
        max_steps: Any = 300,
        random_starts: Any = 4,
        failure_probability: Any = 1e-6,
        seed: Any = 0,
    ) -> None:
        self._settings = QuadratureSettings(
            as_non_negative(rtol, "rtol"),
            as_positive_integer(max_steps, "max_steps"),
            as_positive_integer(random_starts, "random_starts"),
            _as_probability(failure_probability, "failure_probability"),
            _as_seed(seed),
        )
        #: B, as something that is applied to rows.
        self.map: LinearMap = as_linear_map(B, "B", norm_bound=norm_bound, seed=seed)
        self.x, self.y = as_samples(x, "x"), as_samples(y, "y")
        check_samples_and_map(self.map, self.x, self.y, "B")
        self.weights = as_weights(weights, len(self.x))
        with np.errstate(over="ignore", invalid="ignore"):
            self.residual = residuals(self.map, self.x, self.y)
            #: M, the mean squared error of the data, in squared units of x.
            self.fidelity = float(self.weights @ squared_norms(self.residual))
        if math.isnan(self.fidelity):
            raise ValueError("B: By is not a number for some row of y")
        if not self.fidelity <= LARGEST_RISK:
            raise OverflowError(
                f"x, y: the mean squared residual x - By is {self.fidelity:g}, above "
                f"{LARGEST_RISK:g}; rescale the data"
            )
        self._own: ResidualDecomposition | QuadratureDecomposition | None = None
        self._protect()

    @property
    def matrix(self) -> Array:
        """B as a dense (n, m) matrix, for a map that is not too large for one."""
        if not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}, which is not made dense")
        return self.map.matrix()

    def __repr__(self) -> str:
        n, m = self.map.shape
        return f"LinearReconstruction({n} x {m} map, {len(self.x)} samples, M={self.fidelity:.6g})"

    def _decompose(self, structure: Structure) -> ResidualDecomposition | QuadratureDecomposition:
        displacement = structure.displacement(self.map, self.x, self.y, self.residual)
        own = displacement.factor is self.map and displacement.residual is self.residual
        if own and self._own is not None:
            return self._own.with_displacement(displacement)
        decomposition: ResidualDecomposition | QuadratureDecomposition | None
        decomposition = decompose(displacement, self.weights)
        if decomposition is None:
            decomposition = QuadratureDecomposition(displacement, self.weights, self._settings)
        if own:
            self._own = decomposition
        return decomposition

    def exact_decomposition(self, structure: Structure, purpose: str) -> ResidualDecomposition:
        """The decomposition under a structure, or an error if this map has none."""
        decomposition = self._decompose(structure)
        if isinstance(decomposition, QuadratureDecomposition):
            raise ValueError(
                f"B: {purpose} needs a matrix, or an operator with a known spectrum; this map is "
                "known by its products only"
            )
        return decomposition

    def law_gradient(self, residual: Array, moved_y: Array) -> Array:
        r"""Gradient in B of the mean squared error, :math:`-2\sum_i\mu_i r_i y_i^\top`, (n, m)."""
        if residual.shape[1] * moved_y.shape[1] > DENSE_ENTRIES and not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}; a dense gradient would be too large")
        return np.asarray(-2.0 * (residual * self.weights[:, None]).T @ moved_y)

    def spectrum(self, structure: str | Structure = "y|x") -> ResidualSpectrum:
        """The residual spectrum of this map under a structure (see `ResidualSpectrum`)."""
        return self.exact_decomposition(as_structure(structure), "an exact spectrum").spectrum

    def _free_radius(
        self, structure: Structure, displacement: AffineDisplacement, radius: float
    ) -> float:
        """The radius left after the moves that the structure forces, or an empty-ball error."""
        largest = self.map.largest_entry or 0.0
        if 0 < largest < SMALLEST_MAP and largest * radius > SMALLEST_PRODUCT:
            raise ValueError(
                f"B: the largest magnitude is {largest:g}, whose square is not a float to use, "
                f"although it matters at radius {radius:g}; rescale y, and B with it"
            )
        smallest = math.sqrt(displacement.forced_cost(self.weights))
        if smallest == 0.0:
            return radius
        if radius < smallest * (1 - 1e-12):
            raise InfeasibleRadiusError(
                f"radius: {radius} leaves the ambiguity ball of {structure!r} empty, for the data "
                "are off its graph (or its kernel is noisy) by more; the smallest feasible radius "
                f"is {smallest}",
                smallest,
            )
        return math.sqrt(max(radius - smallest, 0.0) * (radius + smallest))

    def _answer(
        self,
        structure: Structure,
        decomposition: ResidualDecomposition | QuadratureDecomposition,
        radius: float,
        name: str,
    ) -> _Answer:
        """The dual at one radius, whatever the kind of spectrum."""
        displacement = decomposition.displacement
        free = self._free_radius(structure, displacement, radius)
        noise = displacement.noise_risk
        if isinstance(decomposition, ResidualDecomposition):
            spectrum = decomposition.spectrum
            solution = minimize_quadratic_dual(spectrum, free)
            bound = _one_atom_bound(spectrum.fidelity, spectrum.top, free)
            answer = _Answer(
                decomposition, solution, solution.value + noise, solution.value + noise, 0.0,
                bound + noise, spectrum.top,
            )  # fmt: skip
        else:
            found = decomposition.solve(free)
            fidelity, top = found.decomposition.spectrum.fidelity, found.upper_top
            answer = _Answer(
                found.decomposition, found.lower, found.lower.value + noise,
                found.upper.value + noise, found.failure_probability,
                _one_atom_bound(fidelity, top, free) + noise, top,
            )  # fmt: skip
        if not answer.risk + answer.bound <= LARGEST_RISK:
            raise OverflowError(_too_large(name, radius))
        return answer

    def worst_case(self, radius: Any, structure: str | Structure = "y|x") -> WorstCase:
        """The worst case at one radius; see `worst_case_risk`."""
        rho, resolved = as_radius(radius), as_structure(structure)
        answer = self._answer(resolved, self._decompose(resolved), rho, "radius")
        return WorstCase(self, resolved, answer, rho)

    def curve(self, radii: Any, structure: str | Structure = "y|x") -> WorstCaseCurve:
        """Worst-case risks at many radii from one decomposition; see `worst_case_curve`."""
        radius = non_negative_array(radii, "radii")
        if radius.ndim != 1 or radius.size == 0:
            raise ValueError(
                f"radii: a non-empty 1-D sequence of radii is needed, given shape {radius.shape}"
            )
        resolved = as_structure(structure)
        decomposition = self._decompose(resolved)
        answers = [self._answer(resolved, decomposition, float(rho), "radii") for rho in radius]
        return WorstCaseCurve(
            radius,
            np.array([answer.risk for answer in answers]),
            np.array([answer.solution.multiplier for answer in answers]),
            np.array([answer.bound for answer in answers]),
            self.fidelity,
            np.array([answer.upper for answer in answers]),
        )

    def _at_multiplier(
        self, multiplier: Any, radius: Any, structure: str | Structure, epsilon: Any
    ) -> tuple[AffineDisplacement, ResidualSpectrum, float, float, float]:
        """(displacement, spectrum, λ, free radius, ε) for a value of the dual function."""
        lam = as_scalar(multiplier, "multiplier", "a number above the threshold sigma_max^2")
        rho, resolved = as_radius(radius), as_structure(structure)
        entropy_weight = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
        if entropy_weight > 0:
            decomposition = self.exact_decomposition(resolved, "the entropic dual")
            check_entropic(resolved, decomposition.displacement)
            displacement, spectrum = decomposition.displacement, decomposition.spectrum
        else:
            displacement, spectrum = self._upper_spectrum(resolved)
        free = self._free_radius(resolved, displacement, rho)
        size = float(sum(self.map.shape))
        if spectrum.top > 0:
            size *= max(1.0, displacement.terms / math.sqrt(spectrum.top))
        check_multiplier(spectrum, lam, size)
        return displacement, spectrum, lam, free, entropy_weight

    def _upper_spectrum(self, structure: Structure) -> tuple[AffineDisplacement, ResidualSpectrum]:
        """The exact spectrum, or a proved upper one."""
        decomposition = self._decompose(structure)
        displacement = decomposition.displacement
        if isinstance(decomposition, ResidualDecomposition):
            return displacement, decomposition.spectrum
        decomposition.advance(max(50 - decomposition.krylov.runs.steps, 0))
        upper, probability = decomposition.radau()
        if probability > 0:
            raise ValueError(
                "norm_bound: a value of the dual function is an upper bound, which a "
                "LinearOperator has only with a proved bound on its norm; pass norm_bound="
            )
        return displacement, upper

    def dual_value(
        self,
        multiplier: Any,
        radius: Any,
        structure: str | Structure = "y|x",
        *,
        epsilon: Any = 0.0,
    ) -> float:
        """The dual function at a multiplier; see `dual_value`."""
        displacement, spectrum, lam, free, entropy_weight = self._at_multiplier(
            multiplier, radius, structure, epsilon
        )
        value = quadratic_dual(spectrum, lam, free, entropy_weight) + displacement.noise_risk
        if not value <= LARGEST_RISK:
            raise OverflowError(_too_large("multiplier, radius", float(radius)))
        return value

    def dual_gradient(
        self,
        multiplier: Any,
        radius: Any,
        structure: str | Structure = "y|x",
        *,
        epsilon: Any = 0.0,
    ) -> tuple[Array, float]:
        r"""Derivatives of the (entropic) dual function in B and in the multiplier.

        By the envelope theorem the first is that of the mean squared error at the maximising law,
        :math:`2(B\,\mathbb E[y'y'^\top] - \mathbb E[x'y'^\top])`, Gaussian covariance included;
        the second is the budget minus what that law spends.

        Parameters
        ----------
        multiplier, radius, structure, epsilon
            As in `dual_value`; the structures are joint, y|x and x|y.

        Returns
        -------
        gradient : (n, m) array
        derivative : float

        Raises
        ------
        ValueError, TypeError
            As `dual_value`; for structure x or y, a norm other than 2, or a map without exact
            spectrum.
        """
        from dro_core.entropic import maximising_law

        _, spectrum, lam, free, entropy_weight = self._at_multiplier(
            multiplier, radius, structure, epsilon
        )
        derivative = quadratic_dual_derivative(spectrum, lam, free, entropy_weight)
        law = maximising_law(self, as_structure(structure), lam, entropy_weight)
        return law.gradient(), derivative


def check_entropic(structure: Structure, displacement: AffineDisplacement) -> None:
    """Refuse structures whose entropic dual has no meaning here."""
    noisy = displacement.base is not None or displacement.noise_risk > 0
    if noisy or getattr(structure, "norm", 2.0) != 2.0:
        raise ValueError(
            f"epsilon: the entropic dual is not available for {structure!r}; allowed: 0.0"
        )


def _as_seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"seed: {value!r}; allowed: an integer >= 0")
    return int(value)


def _as_probability(value: Any, name: str) -> float:
    number = as_scalar(value, name, "a probability in (0, 1)")
    if not 0 < number < 1:
        raise ValueError(f"{name}: {number}; allowed: a probability in (0, 1)")
    return number


def _too_large(name: str, radius: float) -> str:
    return (
        f"{name}: at radius {radius:g} the value exceeds {LARGEST_RISK:g}, where the sums it is "
        "made of overflow; rescale the data"
    )


def _one_atom_bound(fidelity: float, top: float, radius: float) -> float:
    """The explicit bound: the dual of the spectrum with all mass moved to its top."""
    root = math.sqrt(fidelity) + (radius * math.sqrt(top) if radius > 0 else 0.0)
    return root * root


def worst_case_risk(
    B: Any,
    x: Any,
    y: Any,
    radius: Any,
    structure: str | Structure = "y|x",
    *,
    weights: Any = None,
    **matrix_free: Any,
) -> WorstCase:
    r"""Exact worst-case risk of a linear reconstruction map, with its worst-case law.

    .. math:: \mathcal R = \sup_{\pi} \int \|x' - B y'\|^2\,d\pi
              = \min_{\lambda\ge\kappa^2}
                \lambda\rho^2 + \sum_j m_j\frac{\lambda}{\lambda-\sigma_j^2}

    over all laws within W2 distance `radius` of the weighted samples that the structure admits
    (paper Theorems 3.1-3.3 for linear maps and quadratic loss, where the potentials are explicit).

    Parameters
    ----------
    B : (n, m) matrix, scipy sparse matrix, operator of `dro_core.operators`, or LinearOperator
        Reconstruction map from y to x; see `LinearReconstruction`.
    x, y : (N, n) and (N, m) arrays
        Signals and measurements, samples as rows.
    radius : float
        W2 radius >= 0 in the units of the data; the transport budget is its square.
    structure : "joint", "y|x", "x|y" or a Structure (for instance ``XShift(forward)``)
        What the adversary may move.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    **matrix_free
        For a LinearOperator: `norm_bound`, `rtol`, `max_steps`, `random_starts`,
        `failure_probability`, `seed` as in `LinearReconstruction`.

    Returns
    -------
    WorstCase
        `.risk`, `.multiplier`, `.bound`, the worst-case atoms, `.gradient` and `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, structure or weights; the message names the argument.
    InfeasibleRadiusError
        If the ambiguity ball is empty (structure x only); carries the smallest feasible radius.
    OverflowError
        If the risk exceeds 1e300. (Magnitudes of B, x, y or radius above 1e140 are a ValueError.)

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import worst_case_risk
    >>> x = np.array([[1.0], [-1.0]])
    >>> worst = worst_case_risk([[2.0]], x, x, radius=0.5)
    >>> worst.risk, worst.verify().primal_risk  # (RMSE + radius * |B|)² = (1 + 0.5 * 2)²
    (4.0, 4.0)
    """
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.worst_case(radius, structure)


def worst_case_curve(
    B: Any,
    x: Any,
    y: Any,
    radii: Any,
    structure: str | Structure = "y|x",
    *,
    weights: Any = None,
    **matrix_free: Any,
) -> WorstCaseCurve:
    """Worst-case risks of one map along many radii, from one residual spectrum.

    Parameters as in `worst_case_risk`, with `radii` a 1-D sequence of W2 radii >= 0.

    Returns
    -------
    WorstCaseCurve
        Arrays `.radius`, `.risk`, `.multiplier`, `.bound` and the number `.nominal_risk`.

    Raises
    ------
    ValueError, TypeError, InfeasibleRadiusError, OverflowError
        As `worst_case_risk`; `radii` must be 1-D and not empty.
    """
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.curve(radii, structure)


def dual_value(
    B: Any,
    x: Any,
    y: Any,
    multiplier: Any,
    radius: Any,
    structure: str | Structure = "y|x",
    *,
    epsilon: Any = 0.0,
    weights: Any = None,
    **matrix_free: Any,
) -> float:
    r"""The dual function at a given multiplier: an upper bound on the worst-case risk.

    .. math:: D(\lambda) = \lambda\rho^2 + \sum_i\mu_i\,\varphi_\lambda(x_i, y_i),\qquad
              \varphi_\lambda = r_i^\top (I - CC^\top/\lambda)^{-1} r_i

    (paper Proposition 3.1: weak duality). With ``epsilon > 0`` it is the entropic dual (paper
    Eq. 13) in closed form: `radius` is then the adjusted radius and
    :math:`-\tfrac{\lambda\varepsilon}{2}\log\det(I - CC^\top/\lambda)` is added.

    Parameters
    ----------
    B, x, y, structure, weights, **matrix_free
        As in `worst_case_risk`.
    multiplier : float
        :math:`\lambda`, above the threshold :math:`\kappa^2 = \sigma_{\max}(C)^2` by more than its
        rounding, 8 (n + m) eps of it (times the cancellation in C under structure x or y).
    radius : float
        W2 radius >= 0 in the units of the data.
    epsilon : float
        Entropy weight >= 0, in squared units of the data.

    Raises
    ------
    ValueError
        If the multiplier is at or below its threshold or within rounding of it (the message says
        what is allowed), even where no residual lies on the top singular space, so that the value
        has a limit there (`worst_case_risk` takes that limit); if `epsilon` is
        positive under structure x with data off the graph of the forward map; for other bad
        input as `worst_case_risk`.
    """
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.dual_value(multiplier, radius, structure, epsilon=epsilon)
