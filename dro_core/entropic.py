r"""Entropic (Sinkhorn) worst case of a fixed linear map, in closed form and certified.

Penalising the kernels by their entropy relative to Lebesgue measure, with weight
:math:`\varepsilon`, smooths the adversary: its worst-case laws have densities. With the adjusted
radius :math:`\bar\rho` the ball is
:math:`\{\gamma : \sum_i\mu_i\,\varepsilon\,\mathrm{KL}(\gamma_i \| N(z_i, \tfrac\varepsilon2 I))
\le \bar\rho^2\}` (paper §6.1, Eq. 13; Wang, Gao and Xie). For a linear map the worst-case laws are
Gaussians with one common covariance, and the dual is that of `dro_core.dual` with a
log-determinant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from dro_core.certificate import LARGEST_RISK, relative_gap, risk_rounding
from dro_core.checks import (
    InfeasibleRadiusError,
    as_positive_integer,
    as_radius,
    as_scalar,
    check_magnitude,
    unknown,
)
from dro_core.described import Described
from dro_core.dual import minimize_quadratic_dual
from dro_core.gaussian_law import GaussianMover, check_entropic, gaussian_law
from dro_core.linear_map import DenseMap, MapLike
from dro_core.read_only import ReadOnly, read_only
from dro_core.samples import Block, SamplesLike
from dro_core.structure import PointStructure, Structure, XGivenY, YGivenX, as_structure
from dro_core.transport import squared_norms
from dro_core.types import EPS, Array, Integer, Real
from dro_core.worst_case import LinearReconstruction

CostConvention = Literal["squared", "half-squared"]
#: c = ‖·‖² or ½‖·‖², in units of the first.
COST_FACTORS = {"squared": 1.0, "half-squared": 0.5}


def _cost_factor(cost: str) -> float:
    if not isinstance(cost, str) or cost not in COST_FACTORS:
        raise ValueError(unknown("cost", cost, COST_FACTORS))
    return COST_FACTORS[cost]


def _entropy_weight(epsilon: Real) -> float:
    allowed = "an entropy weight > 0, in squared units of the data"
    weight = as_scalar(epsilon, "epsilon", allowed)
    if weight <= 0:
        raise ValueError(
            f"epsilon: {weight} is not positive; allowed: {allowed} (for epsilon = 0 there is "
            "worst_case_risk)"
        )
    check_magnitude(weight, "epsilon")
    return weight


@dataclass(frozen=True, repr=False)
class EntropicCertificate(Described):
    r"""What `EntropicWorstCase.verify` recomputed from the Gaussians, through B itself.

    Attributes
    ----------
    risk : float
        The worst-case risk that was reported.
    primal_risk : float
        Mean squared error of the Gaussians,
        :math:`\sum_i\mu_i\|r_i + dx_i - B\,dy_i\|^2 + \operatorname{tr} T\Sigma T^\top` with
        T = [I, -B]: a lower value as far as `kl` is within `budget`.
    dual_risk : float
        The dual function at the multiplier (or just above the threshold, if rounding leaves it
        there), from an eigendecomposition of its own: an upper value.
    gap : float
        Largest of risk - primal_risk and dual_risk - risk, relatively.
    kl : float
        :math:`\varepsilon\sum_i\mu_i\mathrm{KL}(\gamma_i\|N(z_i, \cdot))`, from the eigenvalues
        of the covariance relative to the reference noise, in units of the transport cost. Infinite,
        and the certificate refused, where rounding leaves that covariance singular: for epsilon
        below about 1e-13 radius², where the Wasserstein worst case is the question to ask.
    budget : float
        What `kl` may be, in units of the transport cost: :math:`\bar\rho^2`, or half of it with
        the half-squared cost.
    multiplier, threshold : float
        :math:`\lambda` and the value it must exceed.
    resolution : float
        Rounding of the recomputed divergence.
    risk_resolution : float
        Rounding of the three risks, as in `Certificate`.
    """

    risk: float
    primal_risk: float
    dual_risk: float
    gap: float
    kl: float
    budget: float
    multiplier: float
    threshold: float
    resolution: float = 0.0
    risk_resolution: float = 0.0

    def holds(self, rtol: float = 1e-8) -> bool:
        """Whether the law is in the ball and both values agree with the risk.

        Up to `rtol`, relatively, and the rounding of divergence and risks.
        """
        size = max(abs(self.risk), abs(self.primal_risk), abs(self.dual_risk))
        return (
            math.isfinite(self.risk_resolution)
            and self.gap * size <= rtol * size + self.risk_resolution
            and self.kl <= self.budget * (1 + rtol) + self.resolution
        )


class EntropicWorstCase(ReadOnly, Described):
    r"""Entropic worst case of a linear map: value, multiplier and the worst-case Gaussians.

    Attributes
    ----------
    risk : float
        The value of the entropic dual, in squared units of x.
    multiplier : float
        Optimal :math:`\lambda > \kappa^2` of the chosen cost convention (infinite at radius 0).
    adjusted_radius : float
        :math:`\bar\rho`, in the units of the data; see `adjusted_radius` for its relation to the
        radius before the normalisation of Lebesgue measure.
    epsilon : float
        Entropy weight, in the chosen convention.
    cost : "squared" or "half-squared"
    structure : Structure
    nominal_risk : float
        Mean squared error of the data.
    """

    described_by = (
        "risk",
        "structure",
        "adjusted_radius",
        "epsilon",
        "cost",
        "multiplier",
        "nominal_risk",
    )

    def __init__(
        self,
        problem: LinearReconstruction,
        structure: PointStructure,
        radius: float,
        epsilon: float,
        cost: CostConvention,
    ) -> None:
        self._problem = problem
        self._factor = COST_FACTORS[cost]
        self.structure, self.adjusted_radius = structure, radius
        self.epsilon, self.cost = epsilon, cost
        decomposition = problem.exact_decomposition(structure, "the entropic worst case")
        check_entropic(structure, decomposition)
        self.nominal_risk = problem.fidelity
        # ½c with entropy weight ε and half the budget is c with weight 2ε
        solution = minimize_quadratic_dual(decomposition.spectrum, radius, epsilon / self._factor)
        if not solution.value <= LARGEST_RISK:
            raise OverflowError(f"radius: at {radius:g} the risk exceeds {LARGEST_RISK:g}; rescale")
        self.risk = solution.value
        self.multiplier = solution.multiplier / self._factor
        self._law = gaussian_law(
            problem,
            structure,
            decomposition,
            solution.multiplier,
            solution.margin,
            epsilon / self._factor,
        )
        self._protect()

    @property
    def weights(self) -> Array:
        """Weights of the samples and of the Gaussians, (N,)."""
        return self._problem.weights

    @property
    def displacement_x(self) -> Array:
        """Displacements of the means of x', (N, n)."""
        return self._law.displacement_x

    @property
    def displacement_y(self) -> Array:
        """Displacements of the means of y', (N, m)."""
        return self._law.displacement_y

    @property
    def covariance_x(self) -> Array:
        """Covariance of x' around every mean, (n, n); zero where x does not move."""
        return self._law.covariance_x

    @property
    def covariance_xy(self) -> Array:
        """Cross-covariance of x' and y', (n, m)."""
        return self._law.covariance_xy

    @property
    def covariance_y(self) -> Array:
        """Covariance of y' around every mean, (m, m); zero where y does not move."""
        return self._law.covariance_y

    @cached_property
    def covariance(self) -> Array:
        """Covariance of what moves: of y' (y|x), of x' (x|y), of (x', y') jointly (joint)."""
        law = self._law
        if isinstance(self.structure, YGivenX):
            return law.covariance_y
        if isinstance(self.structure, XGivenY):
            return law.covariance_x
        return read_only(
            np.block(
                [[law.covariance_x, law.covariance_xy], [law.covariance_xy.T, law.covariance_y]]
            )
        )

    @cached_property
    def gradient(self) -> Array:
        r"""Gradient of the risk in B, (n, m), by the envelope theorem: that at the Gaussians."""
        return read_only(self._law.gradient())

    @cached_property
    def _certificate(self) -> EntropicCertificate:
        problem, law = self._problem, self._law
        B, epsilon = problem.matrix, law.epsilon
        n, m = B.shape
        both = np.hstack([np.eye(n), -B])
        covariance = np.block(
            [[law.covariance_x, law.covariance_xy], [law.covariance_xy.T, law.covariance_y]]
        )
        free = self.structure.free_axes(n, m)
        reference = 0.5 * epsilon * self.structure.inverse_weight(n, m)
        spread = both @ reference @ both.T * (2 / epsilon)  # CCᵀ
        values, vectors = np.linalg.eigh(spread)
        primal, cost, size, terms, mass = problem.samples.mean(
            partial(_recomputed, law.mover, self.structure, B, vectors)
        )
        size += 2.0 * DenseMap(B).squared_terms(np.sqrt(terms))
        size += float(np.trace(law.covariance_x))
        size += DenseMap(B).squared_terms(np.sqrt(np.diag(law.covariance_y)))
        primal += float(np.einsum("ij,jk,ik->", both, covariance, both))
        kl = cost + 0.5 * epsilon * covariance_divergence(
            covariance[np.ix_(free, free)], reference[np.ix_(free, free)]
        )
        threshold = max(float(values[-1]), 0.0)
        if math.isinf(law.multiplier):
            dual = float(mass.sum()) + 0.5 * epsilon * float(np.trace(spread))
        else:  # at any multiplier above the threshold the dual is an upper value
            lam = max(law.multiplier, threshold * (1 + 16 * EPS))
            dual = lam * self.adjusted_radius**2 + float((mass * (lam / (lam - values))).sum())
            dual -= 0.5 * lam * epsilon * float(np.log1p(-values / lam).sum())
        gap = max(abs(relative_gap(self.risk, primal)), abs(relative_gap(dual, self.risk)))
        return EntropicCertificate(
            self.risk,
            primal,
            dual,
            gap,
            self._factor * kl,
            self._factor * self.adjusted_radius**2,
            self.multiplier,
            threshold / self._factor,
            1e-24 * epsilon * float(free.sum()),
            risk_rounding(max(self.risk, primal), size),
        )

    def verify(self) -> EntropicCertificate:
        """Recompute risk, divergence and dual from the Gaussians by dense algebra; cached."""
        return self._certificate

    @property
    def kl(self) -> float:
        r""":math:`\varepsilon\sum_i\mu_i\mathrm{KL}`, recomputed (see `verify`)."""
        return self._certificate.kl

    @property
    def primal_risk(self) -> float:
        """Mean squared error of the Gaussians, recomputed (see `verify`)."""
        return self._certificate.primal_risk

    @property
    def gap(self) -> float:
        """Relative duality gap, recomputed (see `verify`)."""
        return self._certificate.gap


def _recomputed(
    mover: GaussianMover, structure: PointStructure, B: Array, vectors: Array, block: Block
) -> tuple[float, float, float, Array, Array]:
    """Sums over a block: risk and cost of the means, sizes, and the residuals' mass on vectors."""
    weights, (dx, dy) = block.weights, mover.moves(block)
    residual = block.x - block.y @ B.T
    terms = np.abs(block.y) + np.abs(dy)
    return (
        float(weights @ squared_norms(residual + dx - dy @ B.T)),
        float(weights @ structure.transport_cost(dx, dy)),
        float(weights @ squared_norms(block.x)) + float(weights @ squared_norms(block.x + dx)),
        weights @ (terms * terms),
        weights @ (residual @ vectors) ** 2,
    )


def covariance_divergence(covariance: Array, reference: Array) -> float:
    """tr(R⁻¹S) - k - log det(R⁻¹S): twice the divergence of centred Gaussians."""
    if covariance.size == 0:
        return 0.0
    root = np.linalg.cholesky(reference)
    values = np.linalg.eigvalsh(np.linalg.solve(root, np.linalg.solve(root, covariance).T))
    if values[0] <= 64 * EPS * values[-1]:
        return math.inf
    return float((values - 1.0 - np.log(values)).sum())


def entropic_worst_case(
    B: MapLike,
    x: SamplesLike,
    y: ArrayLike | None,
    radius: Real,
    epsilon: Real,
    structure: str | Structure = "y|x",
    *,
    weights: ArrayLike | None = None,
    cost: CostConvention = "squared",
) -> EntropicWorstCase:
    r"""Exact entropic (Sinkhorn) worst-case risk of a linear map, with its worst-case Gaussians.

    .. math:: \mathcal R_\varepsilon = \min_{\lambda>\sigma_{\max}^2} \lambda\bar\rho^2
              + \sum_j\Bigl[m_j\frac{\lambda}{\lambda-\sigma_j^2}
              - \frac{\lambda\varepsilon}{2}\log\bigl(1-\sigma_j^2/\lambda\bigr)\Bigr]

    over all n directions of the residual (paper Eq. 13 in closed form, this project's). It is the
    largest mean squared error over the kernels with
    :math:`\sum_i\mu_i\,\varepsilon\,\mathrm{KL}(\gamma_i\|N(z_i,\tfrac\varepsilon2 W^{-1}))
    \le \bar\rho^2`, where only what the structure moves is random. For a linear map and a fixed
    adjusted radius it is at least the Wasserstein worst case, increases with :math:`\varepsilon`
    and tends to it as :math:`\varepsilon\to0`.

    Parameters
    ----------
    B : (n, m) matrix or operator
        Reconstruction map from y to x.
    x, y : (N, n) and (N, m) arrays
        Samples as rows, or in blocks as in `LinearReconstruction`.
    radius : float
        Adjusted radius :math:`\bar\rho \ge 0` in the units of the data, whatever the cost; at zero
        the law is the data blurred by the reference noise. See `adjusted_radius`.
    epsilon : float
        Entropy weight > 0, in squared units of the data.
    structure : "joint", "y|x", "x|y", or one of them as an object with weights
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    cost : "squared" or "half-squared"
        Transport cost :math:`\|\cdot\|^2` with reference noise N(y, ε/2 I), or
        :math:`\tfrac12\|\cdot\|^2` with N(y, ε I). The radius stays a W2 radius in the units of the
        data, so the second is the first with :math:`2\varepsilon` (and twice its multiplier).

    Returns
    -------
    EntropicWorstCase
        `.risk`, `.multiplier`, `.displacement_x`, `.displacement_y`, `.covariance`, `.kl`, `.gap`,
        `.gradient`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, epsilon, structure or cost; for a map that is known by its products
        only.
    OverflowError
        If the risk exceeds 1e300.

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import entropic_worst_case, worst_case_risk
    >>> x = np.array([[1.0], [-1.0]])
    >>> worst = entropic_worst_case([[2.0]], x, x, radius=0.5, epsilon=1e-6)
    >>> worst.verify().holds(), round(worst.risk, 3), worst_case_risk([[2.0]], x, x, 0.5).risk
    (True, 4.0, 4.0)
    """
    problem = LinearReconstruction(B, x, y, weights=weights)
    resolved = as_structure(structure)
    if not isinstance(resolved, PointStructure):
        raise ValueError(
            f"structure: {resolved!r}; the entropic worst case is available for joint, y|x and x|y"
        )
    _cost_factor(cost)
    return EntropicWorstCase(problem, resolved, as_radius(radius), _entropy_weight(epsilon), cost)


def adjusted_radius(
    radius: Real, epsilon: Real, dimension: Integer, *, cost: CostConvention = "squared"
) -> float:
    r"""The adjusted radius of a Sinkhorn ball whose entropy is relative to Lebesgue measure.

    .. math:: \bar\rho^2 = \rho^2 + \varepsilon\tfrac d2\log(\pi\varepsilon)

    (paper §6.1; :math:`2\varepsilon` in place of :math:`\varepsilon` with the half-squared cost).
    d is the dimension of what moves: m (y|x), n (x|y), n + m (joint).

    Parameters
    ----------
    radius : float
        :math:`\rho \ge 0`, root of the Sinkhorn budget, in the units of the data.
    epsilon : float
        Entropy weight > 0, in squared units of the data.
    dimension : int
        d >= 1.
    cost : "squared" or "half-squared"

    Raises
    ------
    InfeasibleRadiusError
        If :math:`\bar\rho^2 < 0`: the ball is empty, for even the reference noise costs more;
        carries the smallest feasible radius.
    ValueError, TypeError
        For bad arguments.
    """
    rho = as_radius(radius)
    forced = _lebesgue_term(epsilon, dimension, cost)
    if rho * rho < -forced * (1 - 1e-12):
        smallest = math.sqrt(-forced)
        raise InfeasibleRadiusError(
            f"radius: {rho} with entropy weight {epsilon} in dimension {dimension} leaves the "
            f"Sinkhorn ball empty; the smallest feasible radius is {smallest}",
            smallest,
        )
    return math.sqrt(max(rho * rho + forced, 0.0))


def unadjusted_radius(
    adjusted: Real, epsilon: Real, dimension: Integer, *, cost: CostConvention = "squared"
) -> float:
    r"""The inverse of `adjusted_radius`: :math:`\rho` of a given :math:`\bar\rho`.

    Parameters
    ----------
    adjusted : float
        :math:`\bar\rho \ge 0`, in the units of the data.
    epsilon, dimension, cost
        As in `adjusted_radius`.

    Raises
    ------
    ValueError, TypeError
        For bad arguments, and if :math:`\bar\rho^2 < \varepsilon\tfrac d2\log(\pi\varepsilon)`:
        no radius >= 0 has this adjusted radius.
    """
    rho = as_radius(adjusted, "adjusted")
    forced = _lebesgue_term(epsilon, dimension, cost)
    if rho * rho < forced * (1 - 1e-12):
        raise ValueError(
            f"adjusted: {rho} is below {math.sqrt(forced)}, the adjusted radius of radius zero "
            f"with entropy weight {epsilon} in dimension {dimension}"
        )
    return math.sqrt(max(rho * rho - forced, 0.0))


def _lebesgue_term(epsilon: Real, dimension: Integer, cost: str) -> float:
    """ε d/2 log(πε), with 2ε for the half-squared cost."""
    weight = _entropy_weight(epsilon) / _cost_factor(cost)
    return weight * 0.5 * as_positive_integer(dimension, "dimension") * math.log(math.pi * weight)
