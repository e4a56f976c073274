"""The optimum of a normalised problem: on few arcs, on all of them, between known marginals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from dro_core.optional import installed
from dro_core.types import Array, SparseArray
from dro_core.unbalanced.arcs import Complete
from dro_core.unbalanced.best import Best
from dro_core.unbalanced.costs import CostTable
from dro_core.unbalanced.forest import on_forest, plan_between
from dro_core.unbalanced.interior_point import INTERIOR_TOLERANCE, InteriorPoint
from dro_core.unbalanced.pricing import LARGE, solve_priced
from dro_core.unbalanced.problem import Marginal

#: Shares of a point's mass below which an entry of the plan may be rounding; each is tried.
_NEGLIGIBLE = (0.0, 1e-12, 1e-9, 1e-6)
#: Rounds of marginals, plan and forest; one is enough unless the first step ended early.
_ROUNDS = 3


def solve(table: CostTable, rows: Marginal, columns: Marginal, max_steps: int) -> tuple[Best, int]:
    """The plan of least objective and the v of largest dual over all forests that are tried.

    For least cost 0 and masses of sum 1; with the interior-point steps at full size.
    """
    best, steps = Best(table, rows, columns), 0
    free, priced = rows.free or columns.free, min(table.shape) >= LARGE
    if free and priced:
        steps = solve_priced(best, table, max_steps)
    if best.optimal:
        return best, steps
    cost = table.dense()
    if free and priced and installed("ot"):  # less work than all arcs, and often enough
        _refine(best, cost)
    if free and not best.optimal:
        steps += _on_all_arcs(best, cost, max_steps)
    if not best.optimal:
        _refine(best, cost)
    return best, steps


def _on_all_arcs(best: Best, cost: Array, max_steps: int) -> int:
    """Let `best` consider what the interior-point method finds on all arcs; its steps."""
    rows, columns = best.sides
    if len(cost) <= cost.shape[1]:
        point = InteriorPoint.first(Complete(cost), rows, columns)
        point.advance(INTERIOR_TOLERANCE, max_steps)
        best.consider_forests(point.tight(), point.u, point.v)
    else:  # the factorisation has the size of the rows
        point = InteriorPoint.first(Complete(np.ascontiguousarray(cost.T)), columns, rows)
        point.advance(INTERIOR_TOLERANCE, max_steps)
        best.consider_forests(point.tight().T.tocoo(), point.v, point.u)
    return point.steps


def _refine(best: Best, cost: Array) -> None:
    """Let `best` consider plans between the marginals of its potentials, and their forests."""
    rows, columns = best.sides
    for _ in range(_ROUNDS):
        if best.optimal:
            break
        plan, other = plan_between(rows.density(best.u), columns.density(best.v), cost)
        best.consider(plan, other)
        for part in _pruned(plan):
            best.consider(*on_forest(part, best.costs, rows, columns, best.u, best.v))


def _pruned(plan: SparseArray) -> Iterator[SparseArray]:
    """A plan without the entries that may be rounding of the marginals between two trees."""
    (i, j), seen = plan.coords, 0
    smaller = np.minimum(plan.sum(axis=1)[i], plan.sum(axis=0)[j])
    for share in _NEGLIGIBLE:
        kept = plan.data > share * smaller
        if kept.sum() not in (0, seen):
            seen = int(kept.sum())
            yield sparse.coo_array((plan.data[kept], (i[kept], j[kept])), shape=plan.shape)
