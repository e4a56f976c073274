"""Worst case of a linear map where signal and noise have a budget each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from dro_core.budgets.price import as_two_radii, best_price, budget_factors
from dro_core.certificate import relative_gap
from dro_core.described import Described
from dro_core.linear_map import MapLike
from dro_core.read_only import ReadOnly
from dro_core.structure import SignalNoise
from dro_core.transport import squared_norms
from dro_core.types import Array, Real
from dro_core.worst_case import LinearReconstruction, WorstCase


@dataclass(frozen=True, repr=False)
class TwoBudgetCertificate(Described):
    r"""What `TwoBudgetWorstCase.verify` recomputed from the law and the multipliers.

    Attributes
    ----------
    risk : float
        The worst-case risk that was reported.
    primal_risk : float
        Mean squared error of the law, through B: a lower value if the costs are within budget.
    dual_risk : float
        The dual function at the multipliers (enlarged a little if they are at the boundary of its
        domain), by a Cholesky factor: an upper value.
    costs, budgets : tuple of two floats
        Of signal and noise.
    """

    risk: float
    primal_risk: float
    dual_risk: float
    costs: tuple[float, float]
    budgets: tuple[float, float]

    @property
    def gap(self) -> float:
        """(dual - primal) relative to the larger of the two."""
        return relative_gap(self.dual_risk, self.primal_risk)

    def holds(self, rtol: float = 1e-6) -> bool:
        """Whether both costs are within budget and the two values agree, up to `rtol`."""
        spent = zip(self.costs, self.budgets, strict=True)
        return (
            abs(self.risk - self.primal_risk) <= rtol * self.risk
            and abs(self.dual_risk - self.risk) <= rtol * self.risk
            and all(cost <= budget * (1 + 1e-9) for cost, budget in spent)
        )


class TwoBudgetWorstCase(ReadOnly, Described):
    r"""Worst case of a linear map with a budget for the signal and one for the noise.

    Attributes
    ----------
    risk : float
        The value of the dual, in squared units of x.
    multipliers : tuple of two floats
        :math:`(\lambda_x, \lambda_w)`.
    shares : (2,) array
        The law is a mixture: sample i moves by ``displacement_x[k, i]``, ``displacement_noise[k,
        i]`` with probability ``shares[k]``. (In the smooth case the two hardly differ; at a kink
        both are needed, as in the linear programme of a finite support.)
    displacement_x : (2, N, n) array
    displacement_noise : (2, N, m) array
        y moves by A displacement_x + displacement_noise.
    radius_x, radius_noise : float
    nominal_risk : float
    """

    described_by = ("risk", "radius_x", "radius_noise", "multipliers")

    def __init__(
        self,
        problem: LinearReconstruction,
        forward: Array,
        pair: tuple[WorstCase, WorstCase],
        share: float,
        radii: tuple[float, float],
    ) -> None:
        self._problem, self._forward = problem, forward
        best = min(pair, key=lambda worst: worst.risk)
        assert isinstance(best.structure, SignalNoise)
        price = float(best.structure.weight_noise.value)
        self.risk = best.risk
        self.multipliers = best.multiplier, price * best.multiplier
        self.radius_x, self.radius_noise = radii
        self.nominal_risk = problem.fidelity
        self.shares = np.array([share, 1.0 - share])
        dx = np.stack([worst.displacement_x for worst in pair])
        noise = np.stack([worst.displacement_y for worst in pair]) - dx @ forward.T
        factors = budget_factors((self._cost(dx), self._cost(noise)), radii)
        self.displacement_x, self.displacement_noise = factors[0] * dx, factors[1] * noise
        self._protect()

    def _cost(self, moves: Array) -> float:
        weights = self._problem.weights
        each = [float(weights @ squared_norms(rows)) for rows in moves]
        return float(self.shares @ np.array(each))

    @cached_property
    def _certificate(self) -> TwoBudgetCertificate:
        problem, shares, budgets = self._problem, self.shares, (self.radius_x, self.radius_noise)
        dx, noise = self.displacement_x, self.displacement_noise
        risks = [
            float(
                problem.weights
                @ squared_norms(problem.residual + u - problem.map.apply(u @ self._forward.T + v))
            )
            for u, v in zip(dx, noise, strict=True)
        ]
        return TwoBudgetCertificate(
            self.risk,
            float(shares @ np.array(risks)),
            self._dual(),
            (self._cost(dx), self._cost(noise)),
            (budgets[0] ** 2, budgets[1] ** 2),
        )

    def _dual(self) -> float:
        r"""The smallest :math:`\sum_k\lambda_k\rho_k^2 + \operatorname{tr}\Sigma K^{-1}` near by.

        :math:`K = I - C_xC_x^\top/\lambda_x - C_wC_w^\top/\lambda_w` must be positive definite.
        """
        problem, matrix = self._problem, self._problem.matrix
        on_signal = np.eye(len(matrix)) - matrix @ self._forward
        rows = np.sqrt(problem.weights)[:, None] * problem.residual
        best = math.inf
        for larger in (0.0, 1e-12, 1e-10, 1e-8, 1e-6):
            lam, mu = (value * (1.0 + larger) for value in self.multipliers)
            if lam <= 0 or mu <= 0:
                continue
            K = np.eye(len(matrix)) - on_signal @ on_signal.T / lam - matrix @ matrix.T / mu
            try:
                half = np.linalg.solve(np.linalg.cholesky(K), rows.T)
            except np.linalg.LinAlgError:
                continue
            spent = lam * self.radius_x**2 + mu * self.radius_noise**2
            best = min(best, spent + float((half * half).sum()))
        return best

    def verify(self) -> TwoBudgetCertificate:
        """Recompute risk and costs of the law, and the dual, afresh; cached."""
        return self._certificate


def two_budget_worst_case(
    B: MapLike,
    x: ArrayLike,
    y: ArrayLike,
    forward: MapLike,
    radius_x: Real,
    radius_noise: Real,
    *,
    weights: ArrayLike | None = None,
) -> TwoBudgetWorstCase:
    r"""Worst-case risk of a linear map when signal and noise move within a radius each.

    .. math:: \sup\Bigl\{\mathbb E\|x' - By'\|^2 :\ x' = x + u,\ y' = y + Au + v,\
              \mathbb E\|u\|^2\le\rho_x^2,\ \mathbb E\|v\|^2\le\rho_w^2\Bigr\}
              = \inf_{\lambda_x,\lambda_w}\ \lambda_x\rho_x^2 + \lambda_w\rho_w^2
              + \sum_i\mu_i r_i^\top\Bigl(I - \tfrac{C_xC_x^\top}{\lambda_x}
              - \tfrac{C_wC_w^\top}{\lambda_w}\Bigr)^{-1}r_i

    with :math:`C_x = I - BA`, :math:`C_w = -B`: exact, for moments of laws are a convex set.

    Parameters
    ----------
    B : (n, m) matrix
        Reconstruction map.
    x, y : (N, n) and (N, m) arrays
        Signals and measurements; the noise of a sample is y - Ax.
    forward : (m, n) matrix
        A.
    radius_x, radius_noise : float
        W2 radii > 0 of the signal (in its units) and of the noise (in those of y), within a factor
        of 1e5 of one another when seen in y.
    weights : (N,) array, optional
        Of the samples, summing to one.

    Returns
    -------
    TwoBudgetWorstCase

    Raises
    ------
    ValueError, TypeError
        For bad arrays, maps or radii.

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import two_budget_worst_case
    >>> x = np.array([[1.0], [-1.0]])
    >>> worst = two_budget_worst_case([[0.5]], x, x, [[1.0]], 0.2, 0.4)
    >>> round(worst.risk, 12)  # (|1 - ba|(1 + 0.2) + |b| 0.4)² for b = 0.5, a = 1
    0.64
    """
    plain = SignalNoise(forward)
    matrix = plain.forward
    rho_x, rho_noise = as_two_radii(radius_x, radius_noise, matrix)
    problem = LinearReconstruction(B, x, y, weights=weights)

    def solve(price: float) -> WorstCase:
        structure = SignalNoise(matrix, 1.0, price)
        return problem.worst_case(math.hypot(rho_x, math.sqrt(price) * rho_noise), structure)

    def noise_cost(worst: WorstCase) -> float:
        return float(problem.weights @ plain.costs(worst.displacement_x, worst.displacement_y)[1])

    found = best_price(solve, noise_cost, rho_x, rho_noise, 1e12)
    return TwoBudgetWorstCase(
        problem, matrix, (found.low, found.high), found.share, (rho_x, rho_noise)
    )
