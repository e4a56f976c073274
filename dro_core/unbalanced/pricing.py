"""Column generation: the problem on a short list of arcs, and the arcs that it lacks.

The optimal plan has fewer than N + M arcs of N x M, and at potentials near the optimal ones they
are among those of least slack. So the interior-point method runs on the few least slacks of every
row and column; from its potentials come the arcs that it lacks, and a list without a violated arc
outside is optimal for all. The first potentials are those of a sample of the points.
"""

from __future__ import annotations

import numpy as np

from dro_core.types import Array, Indices
from dro_core.unbalanced.arcs import Complete, Listed
from dro_core.unbalanced.best import Best
from dro_core.unbalanced.costs import CostTable
from dro_core.unbalanced.interior_point import InteriorPoint
from dro_core.unbalanced.problem import Marginal

#: Problems with so many rows and columns are priced; below, all arcs are cheaper.
LARGE = 300
#: Arcs of least slack per row and per column.
_NEAREST = 8
#: A sample has every so many-th point of either side.
_STRIDE = 4
#: Errors at which the potentials are good enough for the next list, in a sample and at full size.
_SAMPLE_GOALS, _GOALS = (0.3, 0.1, 0.01), (0.1, 0.01, 1e-4)
#: Share of the value that the interior point starts with.
_SHARE = 0.3
#: Errors at which an exact optimum on the list is tried.
_LAST_GOALS = tuple(10.0**-k for k in range(8, 19, 2))
#: Lists with violated arcs after an exact optimum.
_ROUNDS = 6


def solve_priced(best: Best, table: CostTable, limit: int) -> int:
    """Let `best` consider the optimum by column generation; the steps that were taken."""
    rows, columns = best.sides
    point = _approach(table, rows, columns, _GOALS, limit)
    for _ in range(_ROUNDS):
        arcs = point.arcs
        assert isinstance(arcs, Listed)
        restricted = Best(arcs, rows, columns)
        for goal in _LAST_GOALS:
            more = point.advance(goal, limit)
            restricted.consider_forests(point.tight(), point.u, point.v)
            if restricted.optimal or not more:
                break
        best.consider(restricted.plan, restricted.v)
        if best.optimal or not restricted.optimal:
            break
        lacking, _ = table.candidates(restricted.u, restricted.v, _NEAREST)
        point.enlarged(_listed(table, np.union1d(arcs.keys, lacking)))
    return point.steps


def _approach(
    table: CostTable, rows: Marginal, columns: Marginal, goals: tuple[float, ...], limit: int
) -> InteriorPoint:
    """An interior point on a list of arcs, priced at errors that fall to the last of the goals."""
    u, v, scale = _first_potentials(table, rows, columns, limit)
    keys, _ = table.candidates(u, v, _NEAREST)
    point = InteriorPoint.near(_listed(table, np.sort(keys)), rows, columns, u, v, _SHARE * scale)
    for goal in goals:
        point.advance(goal, limit)
        arcs = point.arcs
        assert isinstance(arcs, Listed)
        lacking, worst = table.candidates(point.u, point.v, _NEAREST)
        keys = np.union1d(arcs.keys, lacking)
        if worst < 0 and len(keys) > len(arcs.keys):
            point.enlarged(_listed(table, keys))
    return point


def _listed(table: CostTable, keys: Indices) -> Listed:
    i, j = np.divmod(keys, table.shape[1])
    return Listed(keys, table.at(i, j), table.shape)


def _first_potentials(
    table: CostTable, rows: Marginal, columns: Marginal, limit: int
) -> tuple[Array, Array, float]:
    """Feasible potentials from those of a sample of the points, and the size of its value.

    The c-transform of a sampled v would let a row near to a distant sampled column have any mass;
    potentials of rows stay above the least one of the sample.
    """
    sampled_rows, sampled_columns = (
        Marginal(side.mass[::_STRIDE] / side.mass[::_STRIDE].sum(), side.free)
        for side in (rows, columns)
    )
    cost = table.dense(_STRIDE)
    sample = CostTable(cost, (cost.shape[0], cost.shape[1]))
    if min(cost.shape) < LARGE:
        point = InteriorPoint.first(Complete(cost), sampled_rows, sampled_columns)
        point.advance(_SAMPLE_GOALS[-1], limit)
    else:
        point = _approach(sample, sampled_rows, sampled_columns, _SAMPLE_GOALS, limit)
    v = np.full(len(columns.mass), -np.inf)
    v[::_STRIDE] = point.v
    u = np.maximum(table.transform(v), point.u.min())
    return u, table.transform_columns(u), point.scale
