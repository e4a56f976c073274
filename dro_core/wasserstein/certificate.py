"""What a conditional distance is recomputed from, and whether that proves it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dro_core.described import Described
from dro_core.types import EPS


@dataclass(frozen=True, repr=False)
class DistanceCertificate(Described):
    r"""What `verify` recomputed from the plan and the potentials.

    Attributes
    ----------
    cost : float
        value^p, as reported.
    primal_cost : float
        Cost of the plan, entry by entry from the samples; infinite if the plan moves x where it
        may not, or has a negative entry. The true one cannot be larger, but for `marginal_error`.
    dual_cost : float
        :math:`\sum\mu_i f_i + \sum\nu_j \min_{i}(c_{ij} - f_i)`, the second potential made anew
        from the first by searching all moves: the true one cannot be smaller. Both are infinite
        where the X-marginals were found to differ, by counting the mass of one condition again.
    gap : float
        (primal_cost - dual_cost) relative to primal_cost.
    marginal_error : float
        Mass that the plan's marginals lack or have too much: the larger of the two sums of
        absolute differences.
    size : float
        Size of the terms, cost + :math:`\sum\mu_i|f_i| + \sum\nu_j|g_j|` (the sums no more than
        four times the largest cost that a move of y could have): the comparison forgives their
        rounding. What a price of moving x adds to the potentials is not forgiven: from a price of
        1e6 or so on a right value may stay without proof.
    """

    cost: float
    primal_cost: float
    dual_cost: float
    gap: float
    marginal_error: float
    size: float

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether plan and potentials prove the reported value (an entropic one: never meant to).

        The cost may differ from both by `rtol` relative to itself and 64 roundings of `size`.
        """
        if math.isinf(self.cost):
            return self.primal_cost == self.dual_cost == self.cost
        slack = rtol * self.cost + 64 * EPS * self.size
        return (
            abs(self.cost - self.primal_cost) <= slack
            and abs(self.cost - self.dual_cost) <= slack
            and self.marginal_error <= rtol
        )


def cost_gap(primal: float, dual: float) -> float:
    if not math.isfinite(primal):
        return math.inf
    return (primal - dual) / primal if primal > 0 else primal - dual
