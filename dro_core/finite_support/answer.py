"""The exact worst case on a finite support with its plan, and the certificate of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dro_core.blocks import Candidates
from dro_core.described import Described
from dro_core.read_only import ReadOnly
from dro_core.types import EPS, Array, Indices


def penalised_losses(loss: Array, cost: Array, multiplier: float) -> Array:
    """ℓ - λc, and -inf where the move is forbidden."""
    if multiplier == 0.0:
        return np.where(np.isfinite(cost), loss, -np.inf)
    with np.errstate(over="ignore"):
        scores = cost * -multiplier
    scores += loss
    return scores


@dataclass(frozen=True, repr=False)
class FiniteCertificate(Described):
    r"""What `FiniteWorstCase.verify` recomputed from the plan and the multiplier.

    Attributes
    ----------
    risk : float
        The optimum that was reported.
    primal_risk : float
        Risk of the plan, entry by entry.
    dual_risk : float
        The dual function from one more pass over all candidates, at the multiplier enlarged by
        64 roundings: there a candidate with huge loss and cost that ties with the optimum cannot
        drown it in the rounding of its score. An upper value.
    gap : float
        (dual_risk - primal_risk) relative to `size` (losses may have either sign, so a risk can
        be much smaller than what it is a sum of).
    transport_cost : float
        Cost of the plan.
    budget : float
        radius².
    marginal_error : float
        Largest difference between the plan's row sums and the weights; infinite if an entry of
        the plan is negative.
    size : float
        Size of the terms, :math:`\sum\pi_{ij}|\ell_{ij}| + \lambda\rho^2`.
    """

    risk: float
    primal_risk: float
    dual_risk: float
    gap: float
    transport_cost: float
    budget: float
    marginal_error: float
    size: float

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether the plan is feasible and the reported risk proved, relative to `size`."""
        slack = rtol * self.size
        return (
            abs(self.risk - self.primal_risk) <= slack
            and abs(self.dual_risk - self.risk) <= slack
            and self.transport_cost <= self.budget * (1 + rtol)
            and self.marginal_error <= rtol
        )


class FiniteWorstCase(ReadOnly, Described):
    r"""Exact worst case on a finite support.

    Attributes
    ----------
    risk : float
        The optimum: the dual function at the multiplier.
    multiplier : float
        :math:`\lambda^* \ge 0`; zero if the budget does not bind.
    plan : (N, M) scipy sparse array
        Optimal transport plan :math:`\pi`, at most N + 1 non-zero entries.
    primal_risk : float
        Risk of the plan.
    transport_cost : float
        Cost of the plan; at most radius².
    gap : float
        Duality gap (risk - primal_risk), relative as in `FiniteCertificate`.
    radius : float
    weights : (N,) array
    """

    described_by = ("risk", "radius", "multiplier", "primal_risk", "transport_cost", "gap", "plan")

    def __init__(
        self,
        candidates: Candidates,
        weights: Array,
        radius: float,
        multiplier: float,
        risk: float,
        entries: tuple[Indices, Indices, Array, Array, Array],
    ) -> None:
        self._candidates = candidates
        rows, columns, mass, loss, cost = entries
        self.weights = weights
        self.radius = radius
        self.multiplier = multiplier
        self.risk = risk
        shape = (len(weights), candidates.columns)
        self.plan = sparse.csr_array((mass, (rows, columns)), shape=shape)
        self.primal_risk = float(mass @ loss)
        self.transport_cost = float(mass @ cost)
        size = float(mass @ np.abs(loss)) + multiplier * radius**2
        self.gap = (self.risk - self.primal_risk) / size if size > 0 else 0.0
        self._protect()

    def verify(self) -> FiniteCertificate:
        """Recompute both values and the plan's feasibility by one more pass over everything."""
        primal = cost_used = size = 0.0
        multiplier = self.multiplier * (1 + 64 * EPS)
        potential = np.empty(len(self.weights))
        for rows, loss, cost in self._candidates.blocks():
            part = self.plan[rows].tocoo()
            i, j = part.coords
            primal += float(part.data @ loss[i, j])
            size += float(part.data @ np.abs(loss[i, j]))
            cost_used += float(part.data @ cost[i, j])
            potential[rows] = penalised_losses(loss, cost, multiplier).max(axis=1)
        budget = self.radius**2
        dual = multiplier * budget + float(self.weights @ potential)
        error = float(np.abs(self.plan.sum(axis=1) - self.weights).max())
        if self.plan.nnz and self.plan.data.min() < 0:
            error = math.inf
        size += multiplier * budget
        gap = (dual - primal) / size if size > 0 else dual - primal
        return FiniteCertificate(self.risk, primal, dual, gap, cost_used, budget, error, size)
