"""Scalar y: all conditions at once through sorted quantiles, and c-transforms on the line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dro_core.types import Array, Indices
from dro_core.wasserstein.grouping import by_group, row_tables


def running_sums(values: Array, start: Indices) -> Array:
    """Cumulative sums within each group, none of which sees the rounding of another."""
    if (np.diff(start) == start[1]).all():  # groups of one size
        return np.asarray(values.reshape(-1, start[1]).cumsum(axis=1).reshape(-1))
    sums = np.empty_like(values)
    for place, inside in row_tables(start):
        table = np.zeros(inside.shape)
        table[inside] = values[place[inside]]
        sums[place[inside]] = table.cumsum(axis=1)[inside]
    return sums


def _sorted_places(values: Array, start: Indices) -> Indices:
    """Places of the values in increasing order within each group; ties as they come."""
    if (np.diff(start) == start[1]).all():
        rank = values.reshape(-1, start[1]).argsort(axis=1, kind="stable")
        return (rank + start[:-1, None]).reshape(-1)
    order = np.empty(len(values), dtype=np.int64)
    for place, inside in row_tables(start):
        table = np.full(inside.shape, np.inf)
        table[inside] = values[place[inside]]
        rank = table.argsort(axis=1, kind="stable")
        order[place[inside]] = np.take_along_axis(place, rank, axis=1)[inside]
    return order


@dataclass(frozen=True, eq=False)
class Quantiles:
    """Atoms of one measure in the order (condition, y), with the quantile level each ends at."""

    order: Indices
    start: Indices
    label: Indices
    y: Array
    level: Array


def make_quantiles(label: Indices, y: Array, weights: Array, groups: int) -> Quantiles:
    """Levels are sums of multiples of the group's largest weight: k/n exactly if all are equal."""
    order, start = by_group(label, groups)
    order = order[_sorted_places(y[order], start)]
    owner = np.repeat(np.arange(groups), np.diff(start))
    share = weights[order]
    if share.min() == share.max():
        level = (np.arange(len(order)) - start[owner] + 1) / np.diff(start)[owner]
    else:
        sums = running_sums(share / np.maximum.reduceat(share, start[:-1])[owner], start)
        level = sums / sums[start[1:] - 1][owner]
    return Quantiles(order, start, owner, y[order], level)


def staircase(first: Quantiles, second: Quantiles) -> tuple[Indices, Indices, Indices, Array]:
    """(i, j, start, length): the monotone coupling as a path of cells through every atom.

    From cell to cell i or j advances by one, or neither; the length is the share of the
    condition's mass in the cell, zero for cells that are only passed.
    """
    level = np.concatenate([first.level, second.level])
    label = np.concatenate([first.label, second.label])
    order, start = by_group(label, len(first.start) - 1)
    order = order[_sorted_places(level[order], start)]
    of_first = order < len(first.order)
    done = np.cumsum(of_first)
    owner = label[order]
    i = np.minimum(done - of_first, first.start[owner + 1] - 1)
    j = np.minimum(np.arange(len(order)) - done + of_first, second.start[owner + 1] - 1)
    return i, j, start, step_lengths(level[order], start)


def step_lengths(level: Array, start: Indices) -> Array:
    length = np.diff(level, prepend=0.0)
    length[start[:-1]] = level[start[:-1]]
    return length


def sorted_transform(f: Array, first: Quantiles, second: Quantiles, p: float) -> Array:
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
