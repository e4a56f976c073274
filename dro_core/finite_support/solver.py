"""`finite_worst_case`: Newton's method on the piecewise linear dual, and the plan that mixes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dro_core.blocks import LARGEST_ENTRY, Candidates
from dro_core.checks import InfeasibleRadiusError, as_radius, as_weights
from dro_core.finite_support.answer import FiniteWorstCase, penalised_losses
from dro_core.types import EPS, Array, Indices, Real, Table


@dataclass(frozen=True, eq=False)
class _Plan:
    """One candidate per sample, with its loss and cost: arrays of shape (N,)."""

    index: Indices
    loss: Array
    cost: Array


def _cheapest_argmax(score: Array, cost: Array) -> Indices:
    """Per row the argmax of `score`; among exact ties the one of least `cost`."""
    index = score.argmax(axis=1)
    best = np.take_along_axis(score, index[:, None], axis=1)
    tied = np.flatnonzero(np.count_nonzero(score == best, axis=1) > 1)
    if tied.size:
        index[tied] = np.where(score[tied] == best[tied], cost[tied], np.inf).argmin(axis=1)
    result: Indices = index
    return result


def _extreme_plans(candidates: Candidates) -> tuple[_Plan, _Plan]:
    """The plans at λ = 0 (largest loss, then least cost) and λ = ∞ (least cost, largest loss)."""
    dear, cheap = [], []
    for _, loss, cost in candidates.blocks():
        dear.append(_pick(loss, cost, _cheapest_argmax(penalised_losses(loss, cost, 0.0), cost)))
        cheap.append(_pick(loss, cost, _cheapest_argmax(-cost, -loss)))
    return _join(dear), _join(cheap)


def plan_at(candidates: Candidates, multiplier: float) -> _Plan:
    """The cheapest maximisers of ℓ - λc."""
    parts = []
    for _, loss, cost in candidates.blocks():
        parts.append(
            _pick(loss, cost, _cheapest_argmax(penalised_losses(loss, cost, multiplier), cost))
        )
    return _join(parts)


def _plan_between(candidates: Candidates, multiplier: float, dear: _Plan, cheap: _Plan) -> _Plan:
    """The cheapest maximisers at a multiplier between those of two plans.

    A sample with the same candidate in both plans keeps it: scores are linear in the multiplier,
    so what is best at both ends is best in between. Only the other samples are evaluated. In exact
    arithmetic a sample's cost lies between its two; where rounding says otherwise, the nearer of
    the two plans is kept.
    """
    plan = _Plan(cheap.index.copy(), cheap.loss.copy(), cheap.cost.copy())
    for rows, loss, cost in candidates.blocks(dear.index != cheap.index):
        part = _pick(loss, cost, _cheapest_argmax(penalised_losses(loss, cost, multiplier), cost))
        plan.index[rows], plan.loss[rows], plan.cost[rows] = part.index, part.loss, part.cost
    for bound, outside in ((cheap, plan.cost < cheap.cost), (dear, plan.cost > dear.cost)):
        plan.index[outside] = bound.index[outside]
        plan.loss[outside] = bound.loss[outside]
        plan.cost[outside] = bound.cost[outside]
    return plan


def _pick(loss: Array, cost: Array, index: Indices) -> _Plan:
    rows = np.arange(len(index))
    return _Plan(index, loss[rows, index], cost[rows, index])


def _join(parts: list[_Plan]) -> _Plan:
    return _Plan(
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )


def finite_worst_case(
    loss: Table,
    cost: Table,
    radius: Real,
    *,
    weights: ArrayLike | None = None,
    admissible: Table | None = None,
) -> FiniteWorstCase:
    r"""Exact worst-case expected loss over all plans on finitely many candidates.

    .. math:: \max_\pi \sum_{ij}\pi_{ij}\ell_{ij}\quad\text{s.t.}\quad
              \sum_j \pi_{ij} = \mu_i,\;\; \sum_{ij}\pi_{ij}c_{ij} \le \rho^2,\;\; \pi \ge 0

    (paper Theorem 3.1 on a finite Z). Each structure is a mask of admissible moves, or a choice of
    candidates: see `admissible_candidates` and `quadratic_candidates`.

    Parameters
    ----------
    loss, cost : (N, M) arrays, or callables ``f(rows: slice) -> (len(rows), M) array``
        Loss and transport cost >= 0 of moving sample i to candidate j. An infinite cost forbids a
        move. Callables are evaluated in blocks of rows, in some 15 passes over ever fewer rows, so
        nothing of size N x M is stored; they must return the same values every time and, if
        `weights` is not given either, fewer rows than asked for (or none) past the last sample, as
        slicing does.
    radius : float
        W2 radius >= 0 in the units of the data. The budget for the expected cost is its *square*
        whatever the cost means: for a W1 ball of radius r pass ``r**0.5``.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    admissible : (N, M) boolean array or callable, optional
        Which moves are allowed; default all.

    Returns
    -------
    FiniteWorstCase
        `.risk`, `.multiplier`, `.plan`, `.transport_cost`, `.gap`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For NaN, negative costs, shapes that do not fit, a sample without admissible candidate.
    InfeasibleRadiusError
        If no plan meets the budget; carries the smallest feasible radius.
    OverflowError
        If costs are so small against losses that the multiplier exceeds 1e200.
    """
    rho = as_radius(radius)
    candidates = Candidates(loss, cost, admissible, weights)
    if weights is not None:
        weights = as_weights(weights, candidates.rows)
    dear, cheap = _extreme_plans(candidates)
    mu = as_weights(None, candidates.rows) if weights is None else weights
    budget = rho * rho
    least = float(mu @ cheap.cost)
    if least > budget * (1 + 1e-12):
        smallest = math.sqrt(least)
        raise InfeasibleRadiusError(
            f"radius: {rho} leaves the ambiguity ball empty: the cheapest candidates of all "
            f"samples together need {smallest}, the smallest feasible radius",
            smallest,
        )
    budget = max(budget, least)  # equal up to rounding
    if float(mu @ dear.cost) <= budget:  # the budget does not bind
        entries = (np.arange(len(mu)), dear.index, mu, dear.loss, dear.cost)
        return FiniteWorstCase(candidates, mu, rho, 0.0, float(mu @ dear.loss), entries)
    multiplier, risk, dear, cheap = _newton(candidates, mu, budget, dear, cheap)
    entries = _mix(mu, budget, dear, cheap)
    return FiniteWorstCase(candidates, mu, rho, multiplier, risk, entries)


def _newton(
    candidates: Candidates, mu: Array, budget: float, dear: _Plan, cheap: _Plan
) -> tuple[float, float, _Plan, _Plan]:
    """(λ*, D(λ*), plan above the budget, plan within it), both optimal at λ*.

    Per sample the dearer plan has the larger loss and cost, so the sums of differences have no
    cancellation and λ* is accurate to a few roundings even when losses of far candidates exceed
    the risk by many orders. Scores of such candidates are not: one that ties at λ has a score of
    pure rounding, larger than the true score of a near candidate. So plans are taken 16 roundings
    to the right of λ, where what ties has lost and what is better still wins; the value is taken on
    the line of the plan within the budget; and the method stops when λ does.
    """

    def intersection() -> float:
        slope = float(mu @ (dear.loss - cheap.loss)) / float(mu @ (dear.cost - cheap.cost))
        if not slope <= LARGEST_ENTRY:
            raise OverflowError(
                f"loss, cost: the multiplier is {slope:g}, for costs are too small against losses; "
                "rescale them"
            )
        return slope

    multiplier = intersection()
    for _ in range(10_000):
        plan = _plan_between(candidates, multiplier * (1 + 16 * EPS), dear, cheap)
        if float(mu @ plan.cost) > budget:
            unchanged = np.array_equal(plan.index, dear.index)
            dear = plan
        else:
            unchanged = np.array_equal(plan.index, cheap.index)
            cheap = plan
        before, multiplier = multiplier, intersection()
        if unchanged or abs(multiplier - before) <= 16 * EPS * multiplier:
            left = budget - float(mu @ cheap.cost)
            return multiplier, float(mu @ cheap.loss) + multiplier * left, dear, cheap
    raise ArithmeticError(
        "the multiplier did not settle in 10,000 passes; please report this input"
    )


def _mix(
    mu: Array, budget: float, dear: _Plan, cheap: _Plan
) -> tuple[Indices, Indices, Array, Array, Array]:
    """Plan entries: as many samples on the dearer plan as the budget allows, one of them split."""
    extra = mu * (dear.cost - cheap.cost)
    differs = np.flatnonzero(extra > 0)
    slope = (dear.loss[differs] - cheap.loss[differs]) / (dear.cost[differs] - cheap.cost[differs])
    order = differs[np.argsort(-slope, kind="stable")]
    used = np.cumsum(extra[order])
    left = max(budget - float(mu @ cheap.cost), 0.0)
    whole = int(np.searchsorted(used, left, side="right"))
    fraction = np.zeros(len(mu))
    fraction[order[:whole]] = 1.0
    if whole < len(order):
        before = float(used[whole - 1]) if whole else 0.0
        fraction[order[whole]] = (left - before) / float(extra[order[whole]])
    on_dear, on_cheap = np.flatnonzero(fraction > 0), np.flatnonzero(fraction < 1)
    return (
        np.concatenate([on_dear, on_cheap]),
        np.concatenate([dear.index[on_dear], cheap.index[on_cheap]]),
        np.concatenate([mu[on_dear] * fraction[on_dear], mu[on_cheap] * (1 - fraction[on_cheap])]),
        np.concatenate([dear.loss[on_dear], cheap.loss[on_cheap]]),
        np.concatenate([dear.cost[on_dear], cheap.cost[on_cheap]]),
    )
