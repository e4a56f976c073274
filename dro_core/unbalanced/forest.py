"""The exact optimum on a forest: potentials up to one number per tree, flows from the leaves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from dro_core.optional import needed
from dro_core.types import Array, Indices, SparseArray
from dro_core.unbalanced.costs import Costs
from dro_core.unbalanced.problem import PART, TINY, Marginal


def longest(change: Array, z: Array) -> float:
    """The longest step <= 1 that keeps a hundredth of every z > 0."""
    change, z = change.reshape(-1), z.reshape(-1)
    starts = range(0, len(z), PART)
    slowest = min(float((change[k : k + PART] / z[k : k + PART]).min()) for k in starts)
    return min(1.0, 0.99 / max(-slowest, 1e-300))


def plan_between(alpha: Array, beta: Array, cost: Array) -> tuple[SparseArray, Array]:
    """Balanced plan, and potential v, between marginals of nearly equal totals (POT)."""
    ot = needed("ot", "unbalanced_ot, for this problem,")
    total = float(alpha.sum())
    if not 0.0 < total < math.inf:
        return sparse.coo_array(cost.shape), np.zeros(len(beta))
    alpha, beta = (part * (part > TINY * part.sum()) for part in (alpha, beta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gap says whether the plan is optimal
        plan, log = ot.emd(alpha / alpha.sum(), beta / beta.sum(), cost, numItermax=10**9, log=True)
    plan = sparse.coo_array(plan)
    plan.data *= total
    return plan, log["v"]


def heaviest_forest(i: Indices, j: Indices, data: Array, shape: tuple[int, int]) -> SparseArray:
    """The spanning forest of largest entries (> 0) in the bipartite graph of these arcs."""
    n, m = shape
    graph = sparse.csr_array((-np.log1p(data), (i, n + j)), shape=(n + m, n + m))
    # scipy before 1.17.1 takes 32-bit indices only
    graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
    forest = minimum_spanning_tree(graph).tocoo()
    return sparse.coo_array((np.expm1(-forest.data), (forest.row, forest.col - n)), shape=shape)


def spanning(support: SparseArray) -> Iterator[SparseArray]:
    """Forests of the largest entries, of fewer and fewer of them."""
    i, j = support.coords
    for least in (1.0, 1e3, 1e6, 1e9):
        kept = support.data >= least
        yield heaviest_forest(i[kept], j[kept], support.data[kept], support.shape)


def _attached(
    plan: SparseArray, costs: Costs, u: Array, v: Array
) -> tuple[Indices, Indices, Array, Array]:
    """Arcs of a plan, and the tightest one for every point without, whose potential it gives.

    Such a point has next to no mass at the optimum, so that its partner does not feel it: rows find
    theirs among the columns of the plan, then columns among all rows.
    """
    (i, j), (n, m) = plan.coords, plan.shape
    used, u, v = np.zeros(m, dtype=bool), u.copy(), v.copy()
    used[j] = True
    if not used.any():
        return i, j, u, v
    rows, columns = np.setdiff1d(np.arange(n), i), np.flatnonzero(~used)
    partner, u[rows] = costs.tightest(0, rows, v, used)
    i, j = np.concatenate([i, rows]), np.concatenate([j, partner])
    partner, v[columns] = costs.tightest(1, columns, u, np.ones(n, dtype=bool))
    return np.concatenate([i, partner]), np.concatenate([j, columns]), u, v


def on_forest(
    plan: SparseArray, costs: Costs, rows: Marginal, columns: Marginal, u: Array, v: Array
) -> tuple[SparseArray, Array]:
    """Plan and v of the optimum on the forest that supports a plan.

    On a tree all potentials follow from one, and the flows from the leaves. The shift t of a tree
    maximises its own dual:
    sum a e^(-u-t) = sum b e^(-v+t), with the exponential only where a marginal is free.
    """
    n, m = plan.shape
    i, j, u, v = _attached(plan, costs, u, v)
    size = n + m + 1  # with one node more that is linked to the first node of every tree
    links = sparse.coo_array((np.ones(len(i)), (i, n + j)), shape=(size, size))
    label = connected_components(links, directed=False)[1][:-1]
    roots = np.unique(label, return_index=True)[1]
    trunk = (np.ones(len(roots)), (np.full(len(roots), n + m), roots))
    links = sparse.csr_array(links + sparse.coo_array(trunk, shape=(size, size)))
    order, parent = breadth_first_order(links, n + m, directed=False)
    child = order[1:][parent[order[1:]] < n + m]
    arcs = np.stack([np.minimum(child, parent[child]), np.maximum(child, parent[child]) - n])
    potential = np.concatenate([u, v]).tolist()
    ends = list(zip(child.tolist(), parent[child].tolist(), strict=True))
    for (k, p), price in zip(ends, costs.at(arcs[0], arcs[1]).tolist(), strict=True):
        potential[k] = price - potential[p]
    u, v = np.array(potential[:n]), np.array(potential[n:])
    shift = forest_shift(rows, columns, u, v, label)
    u, v = u + shift[label[:n]], v - shift[label[n:]]
    need, flow = np.concatenate([rows.density(u), columns.density(v)]).tolist(), []
    for k, p in reversed(ends):
        flow.append(max(need[k], 0.0))
        need[p] -= flow[-1]
    return sparse.coo_array((flow[::-1], tuple(arcs)), shape=(n, m)), v


def forest_shift(rows: Marginal, columns: Marginal, u: Array, v: Array, label: Indices) -> Array:
    """Per group of points the t for which u + t, v - t has marginals of equal totals."""
    groups, free = int(label.max()) + 1, int(rows.free) + int(columns.free)
    if not free:
        return np.zeros(groups)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        totals = [
            np.log(np.bincount(part, side.density(own), groups))
            for part, side, own in ((label[: len(u)], rows, u), (label[len(u) :], columns, v))
        ]
        shift = (totals[0] - totals[1]) / free
    return np.where(np.isfinite(shift), shift, 0.0)  # zero for single points
