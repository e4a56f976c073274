r"""Conditional Wasserstein distances: transport that keeps x.

For laws :math:`\mu, \nu` of (x, y) with the same X-marginal

.. math:: W_{p,Y|X}(\mu,\nu)^p = \int W_p\bigl(\mu(\cdot|x), \nu(\cdot|x)\bigr)^p\,d\mu_X(x),

which is optimal transport of (x, y) with cost :math:`\|y-y'\|^p` where :math:`x = x'` and
:math:`+\infty` elsewhere; it is infinite when the X-marginals differ (Corollary 4.2.1 of the DRO
paper). So the distance is one transport problem per condition x. For scalar y all of them are
solved at once: sorted quantiles, one pass over the atoms. Where an x is never seen twice no plan
keeps it; there the relaxed cost :math:`\beta\|x-x'\|^p + \|y-y'\|^p` with a finite
:math:`\beta` is the estimator, and the mass whose x moves says what it did.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from dro_core.checks import (
    Array,
    as_non_negative,
    as_real_array,
    as_samples,
    as_scalar,
    as_weights,
    check_magnitude,
    check_option,
    magnitude,
)
from dro_core.finite_support import BLOCK_ENTRIES
from dro_core.read_only import ReadOnly, read_only
from dro_core.simplex import optimal_plan

METHODS = ("exact", "relaxed", "sinkhorn")
#: Masses of a condition that agree to this relative difference are equal: rounding of sums.
MASS_TOLERANCE = 1e-9
#: More pairs of x within the tolerance than this are refused: 1 GiB of indices.
MOST_PAIRS = 2**26
#: Sinkhorn iterations per condition, and the error of the marginals at which they stop.
SINKHORN_ITERATIONS, SINKHORN_STOP = 10_000, 1e-9
#: Mass that a Sinkhorn plan may miss without a warning before it is rounded to the marginals.
SINKHORN_MISSED = 1e-6
#: Larger ground costs are refused: sums of them would overflow.
LARGEST_COST = 1e300
#: Covariances may have eigenvalues this far below zero, relative to the largest: rounding.
NEGATIVE_EIGENVALUE = 1e-10
_EPS = float(np.finfo(np.float64).eps)


class SinkhornWarning(RuntimeWarning):
    """Sinkhorn's iteration stopped before its plan had the marginals."""


# --- conditions -------------------------------------------------------------------------------


def _equal_rows(x: Array) -> tuple[Any, Array]:
    """(label of every row, distinct rows): equal rows have equal labels, in order of appearance.

    Rows are compared through a hash of their bits; what it says is then checked on the rows.
    """
    rows = x + 0.0  # -0.0 becomes 0.0
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1], dtype=np.uint64)
    key = rows.view(np.uint64) @ (2 * factors + 1)
    head = np.flatnonzero(np.diff(key, prepend=~key[:1]))  # where a run of equal rows begins
    order = np.argsort(key[head])
    new = np.diff(key[head][order], prepend=~key[head][order[:1]]) != 0
    label = np.empty(len(head), dtype=np.int64)
    label[order] = np.cumsum(new) - 1
    label, first = _in_order_of_appearance(label, np.minimum.reduceat(order, np.flatnonzero(new)))
    label = np.repeat(label, np.diff(head, append=len(x)))
    distinct = rows[head[first]]
    if not np.array_equal(rows, distinct[label]):  # two rows share a hash
        first, label = np.unique(rows, axis=0, return_index=True, return_inverse=True)[1:]
        label, first = _in_order_of_appearance(label.reshape(-1), first)
        distinct = rows[first]
    return label, distinct


def _close_rows(x: Array, tolerance: float) -> tuple[Any, Array]:
    """As `_equal_rows` with "within the tolerance", refused where that is not transitive."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    label, rows = _equal_rows(x)
    if tolerance == 0.0 or len(rows) == 1:
        return label, rows
    tree = cKDTree(rows)
    if (tree.count_neighbors(tree, tolerance) - len(rows)) // 2 > MOST_PAIRS:
        raise ValueError(
            f"tolerance: {tolerance} joins more than {MOST_PAIRS} pairs of distinct x; use a "
            "smaller one"
        )
    pairs = tree.query_pairs(tolerance, output_type="ndarray")
    graph = sparse.coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(rows),) * 2)
    _, group = connected_components(graph, directed=False)
    size = np.bincount(group)
    chained = np.flatnonzero(np.bincount(group[pairs[:, 0]], minlength=len(size))
                             != size * (size - 1) // 2)  # fmt: skip
    if chained.size:
        example = _text(rows[np.flatnonzero(group == chained[0])[0]])
        raise ValueError(
            f"tolerance: at {tolerance} the grouping of x is ambiguous: {int(size[chained[0]])} "
            f"distinct x, among them {example}, form a chain of neighbours with ends further apart "
            f"({chained.size} such chains); use a smaller or larger tolerance, or round x yourself"
        )
    group, first = _in_order_of_appearance(group, np.unique(group, return_index=True)[1])
    return group[label], rows[first]


def _in_order_of_appearance(label: Any, first: Any) -> tuple[Any, Any]:
    """Labels 0 .. K - 1 renumbered by the place of their first appearance, and these places."""
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[label], first[order]


def _text(row: Array) -> str:
    return np.array2string(row, precision=6, threshold=6, edgeitems=2, separator=", ")


def _by_group(label: Any, groups: int) -> tuple[Any, Any]:
    """Places of the labels >= 0 in the order of the groups, and where each group starts."""
    place = np.flatnonzero(label >= 0)
    if (np.diff(label) >= 0).all():  # in that order already
        return place, np.searchsorted(label[place], np.arange(groups + 1))
    table = sparse.coo_array((place, (label[place], place)), shape=(groups, len(label))).tocsr()
    return table.data, table.indptr.astype(np.int64)


def _tables(start: Any) -> Iterator[tuple[Any, Any]]:
    """Consecutive groups as rows of tables: (places, which of them are in the group).

    Groups of 2^(k-1) to 2^k - 1 entries share a table, so few tables hold all, at most half empty.
    """
    counts = np.diff(start)
    octave = np.frexp(counts)[1]
    for k in np.flatnonzero(np.bincount(octave)):
        own = np.flatnonzero(octave == k)
        column = np.arange(counts[own].max())
        yield start[own, None] + column, column < counts[own, None]


def _running_sums(values: Array, start: Any) -> Array:
    """Cumulative sums within each group, none of which sees the rounding of another."""
    if (np.diff(start) == start[1]).all():  # groups of one size
        return np.asarray(values.reshape(-1, start[1]).cumsum(axis=1).reshape(-1))
    sums = np.empty_like(values)
    for place, inside in _tables(start):
        table = np.zeros(inside.shape)
        table[inside] = values[place[inside]]
        sums[place[inside]] = table.cumsum(axis=1)[inside]
    return sums


def _sorted_places(values: Array, start: Any) -> Any:
    """Places of the values in increasing order within each group; ties as they come."""
    if (np.diff(start) == start[1]).all():
        rank = values.reshape(-1, start[1]).argsort(axis=1, kind="stable")
        return (rank + start[:-1, None]).reshape(-1)
    order = np.empty(len(values), dtype=np.int64)
    for place, inside in _tables(start):
        table = np.full(inside.shape, np.inf)
        table[inside] = values[place[inside]]
        rank = table.argsort(axis=1, kind="stable")
        order[place[inside]] = np.take_along_axis(place, rank, axis=1)[inside]
    return order


# --- one side of a scalar problem, and the two merged -------------------------------------------


@dataclass(frozen=True, eq=False)
class _Quantiles:
    """Atoms of one measure in the order (condition, y), with the quantile level each ends at."""

    order: Any
    start: Any
    label: Any
    y: Array
    level: Array


def _quantiles(label: Any, y: Array, weights: Array, groups: int) -> _Quantiles:
    """Levels are sums of multiples of the group's largest weight: k/n exactly if all are equal."""
    order, start = _by_group(label, groups)
    order = order[_sorted_places(y[order], start)]
    owner = np.repeat(np.arange(groups), np.diff(start))
    share = weights[order]
    if share.min() == share.max():
        level = (np.arange(len(order)) - start[owner] + 1) / np.diff(start)[owner]
    else:
        sums = _running_sums(share / np.maximum.reduceat(share, start[:-1])[owner], start)
        level = sums / sums[start[1:] - 1][owner]
    return _Quantiles(order, start, owner, y[order], level)


def _staircase(first: _Quantiles, second: _Quantiles) -> tuple[Any, Any, Any, Array]:
    """(i, j, start, length): the monotone coupling as a path of cells through every atom.

    From cell to cell i or j advances by one, or neither; the length is the share of the
    condition's mass in the cell, zero for cells that are only passed.
    """
    level = np.concatenate([first.level, second.level])
    label = np.concatenate([first.label, second.label])
    order, start = _by_group(label, len(first.start) - 1)
    order = order[_sorted_places(level[order], start)]
    of_first = order < len(first.order)
    done = np.cumsum(of_first)
    owner = label[order]
    i = np.minimum(done - of_first, first.start[owner + 1] - 1)
    j = np.minimum(np.arange(len(order)) - done + of_first, second.start[owner + 1] - 1)
    return i, j, start, _lengths(level[order], start)


def _lengths(level: Array, start: Any) -> Array:
    length = np.diff(level, prepend=0.0)
    length[start[:-1]] = level[start[:-1]]
    return length


def _sorted_transform(f: Array, first: _Quantiles, second: _Quantiles, p: float) -> Array:
    r"""min over i of :math:`|y_i - y'_j|^p - f_i` within each condition, for any f.

    The cost of sorted scalars is a Monge array, so the place of the minimum grows with j: the
    middle j bounds the search of its neighbours, in all conditions at once, N log N in total.
    """
    low_end, high_end = first.start[second.label], first.start[second.label + 1] - 1
    position = np.arange(len(second.y)) - second.start[second.label] + 1
    left = np.diff(second.start)[second.label] - position  # how many follow in the condition
    place = np.zeros(len(second.y), dtype=np.int64)
    value = np.empty(len(second.y))
    step = 1 << int(np.diff(second.start).max()).bit_length()
    while step:
        j = np.flatnonzero(position & (2 * step - 1) == step)
        low, high = low_end[j], high_end[j]
        before, after = position[j] > step, left[j] >= step
        low[before] = place[j[before] - step]
        high[after] = place[j[after] + step]
        counts = high - low + 1
        start = np.cumsum(counts) - counts
        i = np.arange(int(counts.sum())) + np.repeat(low - start, counts)
        score = np.abs(first.y[i] - np.repeat(second.y[j], counts)) ** p - f[i]
        if j.size:
            value[j] = np.minimum.reduceat(score, start)
            best = np.flatnonzero(score == np.repeat(value[j], counts))
            place[j] = i[best[np.searchsorted(best, start)]]
        step //= 2
    return value


# --- the problem --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Difference:
    """A condition whose mass is not the same in both measures, and how many there are."""

    x: Array
    mass0: float
    mass1: float
    count: int
    conditions: int


class _Problem:
    """Samples, weights and ground cost, and the conditions within which mass may move.

    `label0`, `label1` number the conditions (-1: no mass, nowhere to go); a relaxed problem has a
    single one with everything in it.
    """

    def __init__(
        self, samples: tuple[Array, Array, Array, Array], weights: tuple[Array, Array], p: float,
        beta: float | None, tolerance: float,
    ) -> None:  # fmt: skip
        self.x0, self.y0, self.x1, self.y1 = samples
        self.weights0, self.weights1 = weights
        self.p, self.beta, self.tolerance = p, beta, tolerance
        self.difference: _Difference | None = None
        if beta is not None:
            self.label0, self.label1 = (np.zeros(len(y), np.int64) for y in (self.y0, self.y1))
            self.conditions, self.masses = np.empty((1, 0)), np.ones(1)
            return
        label, rows = _close_rows(np.concatenate([self.x0, self.x1]), tolerance)
        self.label0, self.label1 = label[: len(self.x0)], label[len(self.x0) :]
        mass0, mass1 = (
            np.bincount(own, weight, len(rows))
            for own, weight in ((self.label0, weights[0]), (self.label1, weights[1]))
        )
        off = np.abs(mass0 - mass1) / np.maximum(np.maximum(mass0, mass1), np.finfo(float).tiny)
        if (off > MASS_TOLERANCE).any():
            worst = int(np.argmax(np.abs(mass0 - mass1) * (off > MASS_TOLERANCE)))
            self.difference = _Difference(
                rows[worst], float(mass0[worst]), float(mass1[worst]),
                int((off > MASS_TOLERANCE).sum()), len(rows),
            )  # fmt: skip
        kept = mass0 > 0
        number = np.where(kept, np.cumsum(kept) - 1, -1)
        self.label0, self.label1 = number[self.label0], number[self.label1]
        self.conditions, self.masses = rows[kept], (mass0[kept] + mass1[kept]) / 2

    @property
    def scalar(self) -> bool:
        return self.beta is None and self.y0.shape[1] == 1

    @cached_property
    def quantiles(self) -> tuple[_Quantiles, _Quantiles]:
        """Both measures sorted, for scalar y."""
        groups = len(self.masses)
        return (
            _quantiles(self.label0, self.y0[:, 0], self.weights0, groups),
            _quantiles(self.label1, self.y1[:, 0], self.weights1, groups),
        )

    def groups(self) -> Iterator[tuple[Any, Any]]:
        """Indices (in the first, in the second measure) of each condition."""
        sides = []
        for label in (self.label0, self.label1):
            order, start = _by_group(label, len(self.masses))
            sides.append(np.split(order, start[1:-1]))
        yield from zip(*sides, strict=True)

    def _power(self, distance: Array) -> Array:
        if self.p == 1.0:
            return distance
        return distance * distance if self.p == 2.0 else distance**self.p

    def block(self, rows: Any, columns: Any) -> Array:
        """Ground cost between atoms of one condition (of all, if relaxed)."""
        from scipy.spatial.distance import cdist

        def powers(first: Array, second: Array) -> Array:
            if self.p == 2.0:
                return np.asarray(cdist(first, second, "sqeuclidean"))
            return self._power(cdist(first, second))

        cost = powers(self.y0[rows], self.y1[columns])
        if self.beta:
            cost += self.beta * powers(self.x0[rows], self.x1[columns])
        return cost

    def pairs(self, i: Any, j: Any) -> tuple[Array, Array]:
        """(cost in y, distance in x) of single moves."""
        parts = [
            np.linalg.norm(start[i] - end[j], axis=1) if start.shape[1] > 1
            else np.abs(start[i, 0] - end[j, 0])
            for start, end in ((self.y0, self.y1), (self.x0, self.x1))
        ]  # fmt: skip
        return self._power(parts[0]), parts[1]

    def costs(self, i: Any, j: Any) -> Array:
        """Ground cost of single moves; infinite where x would move and may not."""
        cost, moved = self.pairs(i, j)
        if self.beta is None:
            return np.where(moved <= self.tolerance, cost, np.inf)
        return cost + self.beta * self._power(moved)

    def transform(self, f: Array) -> Array:
        """The c-transform min_i c_ij - f_i over the atoms i of j's condition; (N1,)."""
        g = np.zeros(len(self.y1))
        if self.scalar:
            first, second = self.quantiles
            g[second.order] = _sorted_transform(f[first.order], first, second, self.p)
            return g
        for rows, columns in self.groups():
            step = max(1, BLOCK_ENTRIES // len(rows))
            for k in range(0, len(columns), step):
                part = columns[k : k + step]
                g[part] = (self.block(rows, part) - f[rows, None]).min(axis=0)
        return g

    def largest_cost(self) -> float:
        """A bound of the ground cost: that of the diagonal of a box around all samples."""
        total = 0.0
        for first, second, factor in (
            (self.y0, self.y1, 1.0), (self.x0, self.x1, self.beta or 0.0),
        ):  # fmt: skip
            low = np.minimum(first.min(axis=0), second.min(axis=0))
            high = np.maximum(first.max(axis=0), second.max(axis=0))
            total += factor * float(np.linalg.norm(high - low)) ** self.p if factor else 0.0
        return total

    def grouped_rightly(self) -> bool:
        """Whether equal x share a condition and different x do not, by another way."""
        if self.beta is not None:
            return True
        from scipy.spatial import cKDTree

        for x, label in ((self.x0, self.label0), (self.x1, self.label1)):
            here = label >= 0
            apart = x[here] - self.conditions[label[here]]
            if (np.linalg.norm(apart, axis=1) > self.tolerance).any():
                return False
        if self.tolerance == 0.0 or len(self.conditions) == 1:
            return len(np.unique(self.conditions, axis=0)) == len(self.conditions)
        nearest = cKDTree(self.conditions).query(self.conditions, k=2)[0][:, 1]
        return bool((nearest > self.tolerance).all())


@dataclass(frozen=True, eq=False)
class _Solution:
    """Entries of a plan, costs per condition, and potentials when asked for."""

    entries: tuple[Any, Any, Array]
    costs: Array
    potentials: Callable[[], tuple[Array, Array]]
    entropic_cost: float | None = None


def _solve_sorted(problem: _Problem) -> _Solution:
    """All conditions of a scalar problem in one pass."""
    first, second = problem.quantiles
    if np.array_equal(first.start, second.start) and np.array_equal(first.level, second.level):
        i = j = np.arange(len(first.order))
        length, owner = _lengths(first.level, first.start), first.label
        kept: Any = slice(None)
    else:
        i, j, start, length = _staircase(first, second)
        owner = np.repeat(np.arange(len(problem.masses)), np.diff(start))
        kept = length > 0
    i, j, length, owner = i[kept], j[kept], length[kept], owner[kept]
    cost = problem._power(np.abs(first.y[i] - second.y[j]))
    per_condition = np.bincount(owner, length * cost, len(problem.masses)).astype(np.float64)
    entries = first.order[i], second.order[j], length * problem.masses[owner]
    return _Solution(entries, per_condition, lambda: _sorted_potentials(problem))


def _sorted_potentials(problem: _Problem) -> tuple[Array, Array]:
    """Potentials with f + g = c on every cell of the staircase: each step determines one.

    Feasible elsewhere, because the cost is a Monge array.
    """
    first, second = problem.quantiles
    i, j, start, _ = _staircase(first, second)
    cost = problem._power(np.abs(first.y[i] - second.y[j]))
    change = np.diff(cost, prepend=0.0)
    step = np.diff(i, prepend=-1) > 0
    change[start[:-1]] = 0.0
    sums = _running_sums(np.where(step, change, 0.0), start)
    begin = np.repeat(cost[start[:-1]], np.diff(start))
    f, g = np.zeros(len(problem.y0)), np.zeros(len(problem.y1))
    f[first.order[i]] = sums
    g[second.order[j]] = begin + _running_sums(np.where(step, 0.0, change), start)
    return f, g


def _solve_groups(problem: _Problem, epsilon: float | None) -> _Solution:
    """One problem per condition by POT: the network simplex, or Sinkhorn when `epsilon` is given.

    Weights are normalised and costs divided by the largest within each condition.
    """
    f, g = np.zeros(len(problem.y0)), np.zeros(len(problem.y1))
    parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    costs, entropic = np.zeros(len(problem.masses)), 0.0
    for k, (rows, columns) in enumerate(problem.groups()):
        cost = problem.block(rows, columns)
        scale = float(cost.max()) or 1.0
        cost /= scale
        a, b = problem.weights0[rows], problem.weights1[columns]
        a, b = a / a.sum(), b / b.sum()
        if epsilon is None:
            plan, own_f, own_g = optimal_plan(a, b, cost)
        else:
            plan, own_f, own_g, divergence = _sinkhorn(a, b, cost, epsilon / scale)
            entropic += problem.masses[k] * epsilon * divergence
        f[rows], g[columns] = scale * own_f, scale * own_g
        costs[k] = scale * np.vdot(plan, cost)
        i, j = plan.nonzero()
        for part, entry in zip(parts, (rows[i], columns[j], problem.masses[k] * plan[i, j]),
                               strict=True):  # fmt: skip
            part.append(entry)
    entries = np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2])
    total = None if epsilon is None else float(problem.masses @ costs) + entropic
    return _Solution(entries, costs, lambda: (f, g), total)


def _sinkhorn(a: Array, b: Array, cost: Array, epsilon: float) -> tuple[Array, Array, Array, float]:
    """(plan, potentials, KL of the plan against the product) by POT, in the log domain.

    The plan is rounded to the marginals, so that its cost is never below the distance.
    """
    import ot
    from scipy.special import logsumexp, xlogy

    here, there = np.flatnonzero(a), np.flatnonzero(b)
    inner = np.ix_(here, there)
    with np.errstate(over="ignore", invalid="ignore"):  # POT also exponentiates the potentials
        some, log = ot.sinkhorn(
            a[here], b[there], cost[inner], epsilon, method="sinkhorn_log", log=True, warn=False,
            numItermax=SINKHORN_ITERATIONS, stopThr=SINKHORN_STOP,
        )  # fmt: skip
    if not np.isfinite(some).all():
        raise ValueError(
            f"epsilon: {epsilon:.3g} of the largest cost is too small for Sinkhorn's iteration in "
            "floats; use a larger one, or method='exact'"
        )
    missed = float(max(np.abs(some.sum(axis=1) - a[here]).sum(),
                       np.abs(some.sum(axis=0) - b[there]).sum()))  # fmt: skip
    if missed > SINKHORN_MISSED:
        warnings.warn(
            f"sinkhorn has not converged in {SINKHORN_ITERATIONS} iterations: its plan missed "
            f"{missed:.2g} of the mass of a condition and was rounded to the marginals; verify() "
            "brackets the distance, a larger epsilon or method='exact' narrows that",
            SinkhornWarning,
            stacklevel=5,
        )
    some = _rounded(some, a[here], b[there])
    g = epsilon * (log["log_v"] - np.log(b[there]))
    f = -epsilon * logsumexp((g - cost[:, there]) / epsilon, b=b[there], axis=1)
    g = -epsilon * logsumexp((f[here, None] - cost[here]) / epsilon, b=a[here, None], axis=0)
    plan = np.zeros_like(cost)
    plan[inner] = some
    product = np.outer(a[here], b[there])
    divergence = float((xlogy(some, some / product) - some + product).sum())
    return plan, f, g, divergence


def _rounded(plan: Array, a: Array, b: Array) -> Array:
    """A plan with these marginals that takes no more from the given one than they force.

    Rows, then columns with too much are scaled down; what is missing is added as a product.
    Source: Altschuler, Weed and Rigollet (NeurIPS 2017), algorithm 2.
    """
    for axis, wanted in ((1, a), (0, b)):
        sums = plan.sum(axis=axis)
        share = np.minimum(1.0, wanted / np.where(sums > 0, sums, 1.0))
        plan = plan * (share[:, None] if axis == 1 else share[None, :])
    missing = a - plan.sum(axis=1), b - plan.sum(axis=0)
    left, right = (np.maximum(part, 0.0) for part in missing)
    total = max(float(left.sum()), float(right.sum()))
    return plan + np.outer(left, right) / total if total > 0 else plan


# --- the result ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistanceCertificate:
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
        four times the largest cost there could be): the comparison forgives their rounding.
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
        slack = rtol * self.cost + 64 * _EPS * self.size
        return (
            abs(self.cost - self.primal_cost) <= slack
            and abs(self.cost - self.dual_cost) <= slack
            and self.marginal_error <= rtol
        )


def _gap(primal: float, dual: float) -> float:
    if not math.isfinite(primal):
        return math.inf
    return (primal - dual) / primal if primal > 0 else primal - dual


class ConditionalDistance(ReadOnly):
    r"""A conditional Wasserstein distance with its plan and potentials.

    Attributes
    ----------
    value : float
        The distance, in units of y; `math.inf` where the X-marginals differ. For Sinkhorn the
        p-th root of the (unregularised) cost of its plan.
    method, p, beta, epsilon, tolerance
        As asked for.
    reason : str or None
        Why the value is infinite.
    conditions : (K, n) array
        Distinct x of positive mass, in order of appearance in x0, then x1. For the relaxed method
        those of x0.
    masses : (K,) array
        Their masses.
    per_condition : (K,) array
        Costs :math:`W_p(\mu(\cdot|x),\nu(\cdot|x))^p`; value^p is ``masses @ per_condition``. For
        the relaxed method the mean cost of what starts at x. Raises when the value is infinite,
        as do the next four.
    plan : (N0, N1) scipy sparse array
        The optimal plan, in the order of the samples.
    potentials : tuple of arrays (N0,), (N1,)
        Dual potentials f, g: :math:`f_i + g_j \le c_{ij}` wherever i may move to j (up to
        rounding), with equality on the plan. For Sinkhorn the entropic ones.
    moved_x : float
        Mass whose x moves by more than the tolerance: zero except for the relaxed method.
    mean_move_x : float
        :math:`\sum_{ij}\pi_{ij}\|x_i-x'_j\|`, in units of x.
    entropic_cost : float or None
        For Sinkhorn :math:`\sum\pi c + \varepsilon\,KL`, the objective that was minimised, KL
        against the product of the conditionals, condition by condition.
    marginal_error : float
        As in `DistanceCertificate`.
    """

    def __init__(
        self, problem: _Problem, solution: _Solution | None, method: str, epsilon: float | None
    ) -> None:
        self._problem, self._solution = problem, solution
        self.method, self.epsilon = method, epsilon
        self.p, self.beta, self.tolerance = problem.p, problem.beta, problem.tolerance
        self.reason: str | None = None
        self.conditions, self.masses = problem.conditions, problem.masses
        if problem.difference is not None:
            self.reason, self.value = _reason(problem.difference, problem.tolerance), math.inf
        else:
            self._costs = self._solved.costs
            self.value = float(self.masses @ self._costs) ** (1 / self.p)
            if self.beta is not None:
                self._split_by_start()
        self._protect()

    def _split_by_start(self) -> None:
        """Conditions and costs of a relaxed plan: by the x where the mass starts."""
        problem, (i, j, mass) = self._problem, self._solved.entries
        label, rows = _equal_rows(problem.x0)
        masses = np.bincount(label, problem.weights0)
        costs = np.bincount(label[i], mass * problem.costs(i, j), len(rows))
        here = masses > 0
        self.conditions, self.masses = rows[here], np.asarray(masses[here], np.float64)
        self._costs = np.asarray(costs[here] / masses[here], np.float64)

    @property
    def _solved(self) -> _Solution:
        if self._solution is None:
            raise ValueError(f"there is no plan, for the distance is infinite: {self.reason}")
        return self._solution

    @property
    def per_condition(self) -> Array:
        """Costs of the conditions."""
        assert self._solved
        return self._costs

    @property
    def entropic_cost(self) -> float | None:
        """Sinkhorn's objective."""
        return self._solved.entropic_cost

    @cached_property
    def plan(self) -> Any:
        """The optimal plan."""
        i, j, mass = self._solved.entries
        return sparse.csr_array(
            (mass, (i, j)), shape=(len(self._problem.y0), len(self._problem.y1))
        )

    @cached_property
    def potentials(self) -> tuple[Array, Array]:
        """Dual potentials."""
        f, g = self._solved.potentials()
        return read_only(f), read_only(g)

    @cached_property
    def _moves(self) -> tuple[Array, Array]:
        i, j, mass = self._solved.entries
        return mass, self._problem.pairs(i, j)[1]

    @property
    def moved_x(self) -> float:
        """Mass whose x moves."""
        mass, moved = self._moves
        return float(mass[moved > self.tolerance].sum())

    @property
    def mean_move_x(self) -> float:
        """Mean distance that x moves."""
        mass, moved = self._moves
        return float(mass @ moved)

    @property
    def marginal_error(self) -> float:
        """Total error of the worse of the two marginals."""
        problem = self._problem
        return max(
            float(np.abs(self.plan.sum(axis=axis) - weights).sum())
            for axis, weights in ((1, problem.weights0), (0, problem.weights1))
        )

    def verify(self) -> DistanceCertificate:
        """Recompute both costs and the marginals from the samples, the plan and the potentials."""
        problem = self._problem
        if math.isinf(self.value):
            masses = [
                float(weights[np.linalg.norm(x - problem.difference.x, axis=1)
                              <= self.tolerance].sum())
                for x, weights in ((problem.x0, problem.weights0), (problem.x1, problem.weights1))
                if problem.difference is not None
            ]  # fmt: skip
            differ = bool(masses) and abs(masses[0] - masses[1]) > MASS_TOLERANCE * max(masses)
            proved = math.inf if differ else 0.0  # the dual grows with the potential of one x
            return DistanceCertificate(self.value, math.inf, proved, 0.0, 0.0, math.inf)
        entries = self.plan.tocoo()
        costs = problem.costs(*entries.coords)
        primal = math.inf if (entries.data < 0).any() else float(entries.data @ costs)
        f = self.potentials[0]
        g = problem.transform(f)
        dual = float(problem.weights0 @ f + problem.weights1 @ g)
        if not problem.grouped_rightly():
            dual = -math.inf
        terms = float(problem.weights0 @ np.abs(f) + problem.weights1 @ np.abs(g))
        cost = self.value**self.p
        size = cost + min(terms, 4 * problem.largest_cost())
        return DistanceCertificate(
            cost, primal, dual, _gap(primal, dual), self.marginal_error, size
        )

    def __repr__(self) -> str:
        inside = f"value={self.value:.6g}, method={self.method!r}, p={self.p:g}"
        inside += f", reason={self.reason!r}" if self.reason else f", conditions={len(self.masses)}"
        return f"ConditionalDistance({inside})"


def _reason(found: _Difference, tolerance: float) -> str:
    text = (
        f"the X-marginals differ in {found.count} of {found.conditions} conditions; "
        f"x = {_text(found.x)} has mass {found.mass0:.6g} in the first measure and "
        f"{found.mass1:.6g} in the second"
    )
    if found.count == found.conditions and min(found.mass0, found.mass1) == 0.0:
        text += (
            f" (do they share any x {f'within {tolerance:g}' if tolerance else 'exactly'}? For "
            "samples of a continuous x use method='relaxed' with a finite beta)"
        )
    return text


# --- public functions ---------------------------------------------------------------------------


def _as_measures(
    x0: Any, y0: Any, x1: Any, y1: Any, weights0: Any, weights1: Any
) -> tuple[tuple[Array, Array, Array, Array], tuple[Array, Array]]:
    x0, y0 = as_samples(x0, "x0"), as_samples(y0, "y0")
    x1, y1 = as_samples(x1, "x1"), as_samples(y1, "y1")
    for name, x, y in (("0", x0, y0), ("1", x1, y1)):
        if len(x) != len(y):
            raise ValueError(
                f"y{name}: {len(y)} rows, but x{name} has {len(x)}; row i of both is one sample"
            )
    for name, first, second in (("x", x0, x1), ("y", y0, y1)):
        if first.shape[1] != second.shape[1]:
            raise ValueError(
                f"{name}1: {second.shape[1]} columns, but {name}0 has {first.shape[1]}"
            )
    weights = as_weights(weights0, len(x0), "weights0"), as_weights(weights1, len(x1), "weights1")
    return (x0, y0, x1, y1), weights


def _as_power(value: Any) -> float:
    p = as_scalar(value, "p", "a number >= 1")
    if p < 1:
        raise ValueError(f"p: {p} is below 1; allowed: a number >= 1")
    return p


def _check_costs(samples: tuple[Array, Array, Array, Array], p: float, beta: float | None) -> None:
    """Refuse what would overflow."""
    for name, first, second, factor in (
        ("y0, y1", samples[1], samples[3], 1.0), ("x0, x1", samples[0], samples[2], beta or 0.0),
    ):  # fmt: skip
        widest = (magnitude(first) + magnitude(second)) * first.shape[1] ** 0.5
        if factor and p * math.log(max(widest, 1.0)) + math.log(factor) > math.log(LARGEST_COST):
            raise ValueError(
                f"p: {p} with {name} as large as {widest:g}"
                f"{f' and beta {factor:g}' if factor != 1.0 else ''} makes costs above "
                f"{LARGEST_COST:g}; rescale the data (the distance scales along)"
            )


def _only_for(name: str, value: Any, method: str, needed: str) -> None:
    if method == needed and value is None:
        raise ValueError(f"{name}: method={needed!r} needs it")
    if method != needed and value is not None:
        raise ValueError(f"{name}: {value!r} given, but method={method!r} has no use for it; "
                         f"allowed: with method={needed!r}")  # fmt: skip


def conditional_wasserstein(
    x0: Any,
    y0: Any,
    x1: Any,
    y1: Any,
    *,
    weights0: Any = None,
    weights1: Any = None,
    p: Any = 2.0,
    method: str = "exact",
    beta: Any = None,
    epsilon: Any = None,
    tolerance: Any = 0.0,
) -> ConditionalDistance:
    r"""Conditional Wasserstein distance of two weighted samples of (x, y).

    .. math:: W_{p,Y|X} = \Bigl(\sum_x\mu_X(x)\,
              W_p\bigl(\mu(\cdot|x),\nu(\cdot|x)\bigr)^p\Bigr)^{1/p},\qquad
              \text{ground cost } \|y-y'\|^p

    (Corollary 4.2.1 of the DRO paper). "exact": for scalar y by sorted quantiles of all conditions
    in one pass; else one network simplex (POT) per condition, with its cost matrix in memory.
    "relaxed": one transport problem of N0 x N1 with cost :math:`\beta\|x-x'\|^p + \|y-y'\|^p`,
    increasing in beta with limit :math:`W_{p,Y|X}`, and finite when the X-marginals differ.
    "sinkhorn": the entropic problem per condition, by POT in the log domain, its plan rounded to
    the marginals: its cost is above the distance, and ``verify`` brackets the distance, converged
    or not.

    Parameters
    ----------
    x0, y0 : (N0, n), (N0, m) arrays
        Samples of the first measure as rows.
    x1, y1 : (N1, n), (N1, m) arrays
    weights0, weights1 : (N0,), (N1,) arrays, optional
        Non-negative, summing to one; default uniform. Masses of a condition that agree to a
        relative 1e-9 count as equal.
    p : float
        Power >= 1.
    method : "exact", "relaxed" or "sinkhorn"
    beta : float, for "relaxed"
        Price >= 0 of moving x, in (units of y / units of x)^p.
    epsilon : float, for "sinkhorn"
        Weight > 0 of the entropy, in units of y^p.
    tolerance : float
        x within this Euclidean distance are the same condition. That must be an equivalence: a
        chain of near x with ends further apart is refused. Default: equal exactly.

    Returns
    -------
    ConditionalDistance
        `.value`, `.plan`, `.per_condition`, `.potentials`, `.reason`, `.moved_x`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or options, costs that overflow, or a tolerance whose grouping is ambiguous.
    ArithmeticError
        If POT's network simplex finds no optimum.

    Warns
    -----
    SinkhornWarning
        If Sinkhorn's iteration has not converged: the bracket is wide then.
    """
    samples, weights = _as_measures(x0, y0, x1, y1, weights0, weights1)
    power = _as_power(p)
    check_option(method, "method", METHODS)
    _only_for("beta", beta, method, "relaxed")
    _only_for("epsilon", epsilon, method, "sinkhorn")
    price = None if beta is None else as_non_negative(beta, "beta")
    entropy = None if epsilon is None else as_scalar(epsilon, "epsilon", "a number > 0")
    if entropy is not None and entropy <= 0:
        raise ValueError(f"epsilon: {entropy} is not positive; allowed: a number > 0")
    near = as_non_negative(tolerance, "tolerance", "a distance >= 0 in units of x")
    _check_costs(samples, power, price)
    problem = _Problem(samples, weights, power, price, near)
    if problem.difference is not None:
        solution = None
    elif method == "exact" and problem.scalar:
        solution = _solve_sorted(problem)
    else:
        solution = _solve_groups(problem, entropy)
    return ConditionalDistance(problem, solution, method, entropy)


@dataclass(frozen=True, eq=False)
class RelaxedCurve:
    """The relaxed distance for growing beta, and its limit.

    Attributes
    ----------
    beta, value, moved_x, mean_move_x : (B,) arrays
        As in `ConditionalDistance`.
    limit : float
        The conditional distance (infinite when the X-marginals differ).
    sufficient_beta : float
        From here on the relaxed distance equals the limit, proved by the potentials of the limit
        (infinite when the X-marginals differ).
    """

    beta: Array
    value: Array
    moved_x: Array
    mean_move_x: Array
    limit: float
    sufficient_beta: float


def relaxed_curve(
    x0: Any,
    y0: Any,
    x1: Any,
    y1: Any,
    *,
    betas: Any,
    weights0: Any = None,
    weights1: Any = None,
    p: Any = 2.0,
) -> RelaxedCurve:
    r"""The relaxed distance at several beta: increasing, with limit :math:`W_{p,Y|X}`.

    For equal X-marginals the limit is *attained*: with potentials f, g of the conditional problem

    .. math:: \beta \ge \max_{x_i\ne x'_j}
              \frac{f_i + g_j - \|y_i-y'_j\|^p}{\|x_i-x'_j\|^p}

    makes them feasible for the relaxed problem, whose value they then prove to be the limit.

    Parameters
    ----------
    x0, y0, x1, y1, weights0, weights1, p
        As in `conditional_wasserstein`.
    betas : (B,) array
        Prices >= 0 of moving x; one transport problem of N0 x N1 each.

    Returns
    -------
    RelaxedCurve

    Raises
    ------
    ValueError, TypeError
        For bad arrays, weights, betas or p.
    """
    prices = as_real_array(betas, "betas")
    if prices.ndim != 1 or prices.size == 0:
        raise ValueError(f"betas: a non-empty 1-D array is needed, given shape {prices.shape}")
    if (prices < 0).any():
        raise ValueError(f"betas: {prices.min()} is negative; every entry must be >= 0")
    same = {"weights0": weights0, "weights1": weights1, "p": p}
    exact = conditional_wasserstein(x0, y0, x1, y1, **same)
    found = [
        conditional_wasserstein(x0, y0, x1, y1, method="relaxed", beta=float(price), **same)
        for price in prices
    ]
    value, moved, mean = (
        np.array([getattr(one, name) for one in found])
        for name in ("value", "moved_x", "mean_move_x")
    )
    sufficient = math.inf if math.isinf(exact.value) else _sufficient_beta(exact)
    return RelaxedCurve(prices.copy(), value, moved, mean, exact.value, sufficient)


def _sufficient_beta(exact: ConditionalDistance) -> float:
    """The smallest beta at which the potentials, level in each condition, are feasible."""
    from scipy.spatial.distance import cdist

    problem, (f, g) = exact._problem, exact.potentials
    here, there = np.flatnonzero(problem.label0 >= 0), np.flatnonzero(problem.label1 >= 0)
    level = np.bincount(problem.label0[here], f[here]) / np.bincount(problem.label0[here])
    f, g = f - level[problem.label0], g + level[problem.label1]
    largest, step = 0.0, max(1, BLOCK_ENTRIES // len(there))
    for k in range(0, len(here), step):
        rows = here[k : k + step]
        apart = problem._power(cdist(problem.x0[rows], problem.x1[there]))
        excess = f[rows, None] + g[there] - problem.block(rows, there)
        across = problem.label0[rows, None] != problem.label1[there]
        largest = max(largest, float((excess[across] / apart[across]).max(initial=0.0)))
    return largest


# --- Gaussian conditionals ----------------------------------------------------------------------


class GaussianDistance(ReadOnly):
    r"""Conditional W2 distance of Gaussian conditionals.

    Attributes
    ----------
    value : float
        In units of y.
    masses : (K,) array
    per_condition : (K,) array
        Squared W2 distances of the conditionals; value² is ``masses @ per_condition``.
    cross_covariances : (K, m, m) array
        :math:`E (y - m_0)(y' - m_1)^\top` under the optimal coupling.
    """

    def __init__(self, shift: Array, left: Array, right: Array, masses: Array) -> None:
        self._shift, self._left, self._right = shift, left, right
        self.masses = masses
        u, _, v = np.linalg.svd(np.swapaxes(right, 1, 2) @ left)
        self._rotation = u @ v
        moved = left - right @ self._rotation
        self.per_condition = (shift**2).sum(axis=1) + (moved**2).sum(axis=(1, 2))
        self.value = float(masses @ self.per_condition) ** 0.5
        self._protect()

    @property
    def cross_covariances(self) -> Array:
        """Cross-covariances of the optimal coupling."""
        return np.asarray(self._left @ np.swapaxes(self._right @ self._rotation, 1, 2))

    def verify(self) -> DistanceCertificate:
        r"""Cost of the coupling, and a lower value: in any orthonormal basis :math:`q_k`

        .. math:: W_2^2\bigl(N(0,C_0), N(0,C_1)\bigr) \ge
                  \sum_k\bigl(\sqrt{q_k^\top C_0q_k} - \sqrt{q_k^\top C_1q_k}\bigr)^2,

        the squared distances of the coordinates, with equality in the eigenbasis of the Monge map.
        For singular covariances that map is approximated (covariances inflated by a relative
        1e-13), and the lower value with it: to a relative 1e-5 or so. `marginal_error` is how far
        the rotations of the coupling are from orthogonal.
        """
        left, right, rotation = self._left, self._right, self._rotation
        identity = np.eye(left.shape[1])
        shifts = (self._shift**2).sum(axis=1)
        primal = shifts + ((left - right @ rotation) ** 2).sum(axis=(1, 2))
        defect = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - identity).sum(axis=(1, 2))
        total = (left**2).sum(axis=(1, 2)) + (right**2).sum(axis=(1, 2))
        inflation = 1e-13 * np.maximum(total, 1e-290)[:, None, None] * identity
        root, inverse = _roots(left @ np.swapaxes(left, 1, 2) + inflation)
        inner = root @ (right @ np.swapaxes(right, 1, 2) + inflation) @ root
        basis = np.swapaxes(np.linalg.eigh(inverse @ _roots(inner)[0] @ inverse)[1], 1, 2)
        along = np.linalg.norm(basis @ left, axis=2) - np.linalg.norm(basis @ right, axis=2)
        cost = float(self.masses @ primal)
        dual = float(self.masses @ (shifts + (along**2).sum(axis=1)))
        size = self.value**2 + _EPS * float(self.masses @ total)
        error = float(self.masses @ defect)
        return DistanceCertificate(self.value**2, cost, dual, _gap(cost, dual), error, size)

    def __repr__(self) -> str:
        return f"GaussianDistance(value={self.value:.6g}, conditions={len(self.masses)})"


def _roots(matrices: Array) -> tuple[Array, Array]:
    """Square roots of positive definite matrices and their inverses."""
    values, vectors = np.linalg.eigh(matrices)
    values = np.sqrt(np.maximum(values, np.finfo(float).tiny))[:, None, :]
    turned = np.swapaxes(vectors, 1, 2)
    return (vectors * values) @ turned, (vectors / values) @ turned


def gaussian_conditional_wasserstein(
    means0: Any, covariances0: Any, means1: Any, covariances1: Any, weights: Any = None
) -> GaussianDistance:
    r"""Conditional W2 distance between laws with Gaussian conditionals, by the Bures formula.

    .. math:: W^2 = \sum_k w_k\Bigl(\|m_{0k}-m_{1k}\|^2 + \operatorname{tr}\bigl(C_{0k} + C_{1k}
              - 2(C_{0k}^{1/2}C_{1k}C_{0k}^{1/2})^{1/2}\bigr)\Bigr)

    evaluated as :math:`\min_R\|L_{0k} - L_{1k}R\|_F^2` over orthogonal R (:math:`C = LL^\top`; one
    SVD), which loses no digits when the two are near each other.

    Parameters
    ----------
    means0, means1 : (K, m) arrays
        Means of y given the k-th x.
    covariances0, covariances1 : (K, m, m) arrays
        Symmetric positive semi-definite.
    weights : (K,) array, optional
        Masses of the x, non-negative, summing to one; default uniform.

    Returns
    -------
    GaussianDistance
        `.value`, `.per_condition`, `.cross_covariances`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, shapes that differ, or matrices that are no covariances.
    """
    means0, means1 = as_samples(means0, "means0"), as_samples(means1, "means1")
    if means0.shape != means1.shape:
        raise ValueError(f"means1: shape {means1.shape}, but means0 has {means0.shape}")
    left = _factors(covariances0, "covariances0", means0.shape)
    right = _factors(covariances1, "covariances1", means0.shape)
    return GaussianDistance(means0 - means1, left, right, as_weights(weights, len(means0)))


def _factors(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    """L with C = L L' for every covariance C."""
    matrices = as_real_array(value, name)
    needed = (*shape, shape[1])
    if matrices.shape != needed:
        raise ValueError(f"{name}: shape {matrices.shape}; needed: {needed}, as the means say")
    check_magnitude(matrices, name)
    largest = np.abs(matrices).max(axis=(1, 2))
    skew = np.abs(matrices - np.swapaxes(matrices, 1, 2)).max(axis=(1, 2))
    if (skew > NEGATIVE_EIGENVALUE * largest).any():
        raise ValueError(f"{name}: matrix {int(np.argmax(skew))} is not symmetric")
    values, vectors = np.linalg.eigh(matrices)
    if (values[:, 0] < -NEGATIVE_EIGENVALUE * largest).any():
        k = int(np.argmin(values[:, 0]))
        raise ValueError(
            f"{name}: the smallest eigenvalue of matrix {k} is {values[k, 0]:g}; covariances must "
            "be positive semi-definite"
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])
