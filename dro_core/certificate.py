"""What a worst case is recomputed from, and how far rounding lets a risk be known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dro_core.described import Described
from dro_core.types import EPS

#: Larger risks are refused: the sums they are made of would overflow.
LARGEST_RISK = 1e300
#: Squares below this have lost digits.
SUBNORMAL = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, repr=False)
class Certificate(Described):
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


def risk_rounding(risk: float, size: float) -> float:
    r"""How far a risk is known: :math:`2\sqrt{\mathcal R}\,\delta + \delta^2`.

    :math:`\delta = 16\,u\sqrt S` is the rounding of residuals that are differences of terms with
    mean squares S, u the distance from 1 to the next float.
    """
    delta = 16 * EPS * math.sqrt(size)
    return (2 * math.sqrt(max(risk, 0.0)) + delta) * delta


def relative_gap(upper: float, lower: float) -> float:
    """(upper - lower) relative to the larger of the two in size; zero when both are zero."""
    scale = max(abs(upper), abs(lower))
    return (upper - lower) / scale if scale > 0 else 0.0
