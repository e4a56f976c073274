"""The costs of all arcs, read in blocks of rows: c-transforms, and the arcs of least slack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from dro_core.blocks import as_block
from dro_core.checks import as_matrix, magnitude
from dro_core.types import Array, Booleans, Indices, Table
from dro_core.unbalanced.problem import PART
from dro_core.unbalanced.semidual import cost_blocks

#: Groups of rows, and of columns, whose minima bound the least slacks; a prime, so that a period of
#: the order of the points seldom puts neighbours into one group.
_GROUPS = 61


class Costs(Protocol):
    """What a certificate asks of costs, whether of all arcs or of some."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def largest(self) -> float: ...

    def at(self, i: Indices, j: Indices) -> Array: ...

    def transform(self, v: Array) -> Array: ...

    def transform_columns(self, u: Array) -> Array: ...

    def tightest(
        self, axis: int, points: Indices, potential: Array, usable: Booleans
    ) -> tuple[Indices, Array]: ...


class CostTable:
    r"""The costs :math:`(c_{ij} - k)/w`, of a matrix or of a function that makes blocks of rows.

    Nothing of size N x M is stored beside the matrix. A function is checked when it is first read;
    it has to return the same numbers every time.
    """

    def __init__(self, cost: Table, shape: tuple[int, int]) -> None:
        self.shape, self.least, self._weight = shape, 0.0, 1.0
        if callable(cost):
            self.source: Table = cost
            ends = [
                (float(block.min()), float(block.max()))
                for _, block in cost_blocks(cost, shape[1], shape[0], "b")
            ]
            self.smallest, greatest = min(low for low, _ in ends), max(high for _, high in ends)
            self.largest = max(greatest, -self.smallest)
        else:
            self.source = table = as_matrix(cost, "cost")
            if table.shape != shape:
                raise ValueError(
                    f"cost: shape {table.shape}, but a has {shape[0]} entries and b {shape[1]}; "
                    f"needed: {shape}"
                )
            self.smallest, self.largest = float(table.min()), magnitude(table)

    def normalised(self, weight: float) -> CostTable:
        """The same costs with least cost 0, over the weight."""
        other = object.__new__(CostTable)
        other.shape, other.source = self.shape, self.source
        other.least, other._weight = self.smallest, weight
        other.smallest = 0.0
        greatest = self.largest if self.largest > -self.smallest else self._greatest()
        other.largest = (greatest - self.smallest) / weight
        return other

    def _greatest(self) -> float:
        return max(float(block.max()) for _, block in self.blocks())

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """(rows, their costs, which may be overwritten), of about `PART` entries each."""
        step = max(1, PART // self.shape[1])
        for start in range(0, self.shape[0], step):
            rows = slice(start, min(start + step, self.shape[0]))
            yield rows, self._read(rows)

    def _read(self, rows: slice) -> Array:
        source = self.source
        part = as_block(source(rows), "cost") if callable(source) else np.asarray(source)[rows]
        block = part - self.least
        if self._weight != 1.0:
            block /= self._weight
        return block

    def dense(self, stride: int = 1) -> Array:
        """Every `stride`-th row and column, as a matrix."""
        n, m = (-(-size // stride) for size in self.shape)
        table, filled = np.empty((n, m)), 0
        for rows, block in self.blocks():
            part = block[-rows.start % stride :: stride, ::stride]
            table[filled : filled + len(part)] = part
            filled += len(part)
        return table

    def at(self, i: Indices, j: Indices) -> Array:
        """The costs of some arcs."""
        if not callable(self.source):
            chosen: Array = (np.asarray(self.source)[i, j] - self.least) / self._weight
            return chosen
        found, order = np.empty(len(i)), np.argsort(i, kind="stable")
        for rows, block in self.blocks():
            first, last = np.searchsorted(i[order], (rows.start, rows.stop))
            part = order[first:last]
            found[part] = block[i[part] - rows.start, j[part]]
        return found

    def transform(self, v: Array) -> Array:
        r""":math:`\min_j c_{ij} - v_j`; entries of v may be -inf."""
        u = np.empty(self.shape[0])
        for rows, block in self.blocks():
            block -= v
            u[rows] = block.min(axis=1)
        return u

    def transform_columns(self, u: Array) -> Array:
        r""":math:`\min_i c_{ij} - u_i`."""
        v = np.full(self.shape[1], np.inf)
        for rows, block in self.blocks():
            block -= u[rows, None]
            np.minimum(v, block.min(axis=0), out=v)
        return v

    def tightest(
        self, axis: int, points: Indices, potential: Array, usable: Booleans
    ) -> tuple[Indices, Array]:
        """For rows (axis 0) or columns, the usable partner of least c - potential, and that value.

        One of the other side is usable.
        """
        partner, value = np.zeros(len(points), dtype=np.intp), np.full(len(points), np.inf)
        if not len(points):
            return partner, value
        others = np.flatnonzero(usable)
        if axis == 0:
            order = np.argsort(points, kind="stable")
            for rows, block in self.blocks():
                first, last = np.searchsorted(points[order], (rows.start, rows.stop))
                part = order[first:last]
                slack = block[np.ix_(points[part] - rows.start, others)] - potential[others]
                partner[part], value[part] = others[slack.argmin(axis=1)], slack.min(axis=1)
            return partner, value
        for rows, block in self.blocks():
            inside = np.flatnonzero(usable[rows])
            if len(inside):
                slack = block[np.ix_(inside, points)] - potential[rows][inside, None]
                nearest, least = slack.argmin(axis=0), slack.min(axis=0)
                better = least < value
                partner[better] = inside[nearest[better]] + rows.start
                value[better] = least[better]
        return partner, value

    def candidates(self, u: Array, v: Array, count: int) -> tuple[Indices, float]:
        r"""Arcs :math:`iM + j` of the `count` least slacks c - u - v of every row and column.

        And the least slack of all. The count-th least minimum over disjoint groups is at least the
        count-th least entry; what lies below these bounds is gathered in a second pass, and cut.
        """
        n, m = self.shape
        groups = max(count, min(_GROUPS, n, m))
        rows_bound, minima = np.empty(n), np.full((groups, m), np.inf)
        for rows, slack in self._slacks(u, v):
            rows_bound[rows] = _group_minima(slack, groups, count)
            for k in range(min(groups, len(slack))):
                target = minima[(rows.start + k) % groups]
                np.minimum(target, slack[k::groups].min(axis=0), out=target)
        worst = float(minima.min())
        columns_bound = _smallest(minima, count, 0)
        keys, values = [], []
        for rows, slack in self._slacks(u, v):
            chosen = slack <= rows_bound[rows, None]
            chosen |= slack <= columns_bound
            i, j = np.nonzero(chosen)
            kept, own = slack[i, j], i + rows.start
            if len(i) > 4 * count * len(slack) + m:  # ties
                cut = _first_of(i, kept, count) | _first_of(j, kept, count)
                kept, own, j = kept[cut], own[cut], j[cut]
            keys.append(own * m + j)
            values.append(kept)
        key, value = np.concatenate(keys), np.concatenate(values)
        i, j = np.divmod(key, m)
        cut = _first_of(i, value, count) | _first_of(j, value, count)
        return key[cut], worst

    def _slacks(self, u: Array, v: Array) -> Iterator[tuple[slice, Array]]:
        for rows, block in self.blocks():
            block -= u[rows, None]
            block -= v
            yield rows, block


def _smallest(table: Array, count: int, axis: int) -> Array:
    """The count-th least entry along an axis, or the largest where there are fewer."""
    kth = min(count, table.shape[axis]) - 1
    return np.asarray(np.take(np.partition(table, kth, axis=axis), kth, axis=axis))


def _group_minima(slack: Array, groups: int, count: int) -> Array:
    """A bound on the count-th least entry of every row, from the minima of strided groups."""
    n, m = slack.shape
    whole = m - m % groups
    if whole == 0:
        return _smallest(slack, count, 1)
    minima = slack[:, :whole].reshape(n, -1, groups).min(axis=1)
    return _smallest(minima, count, 1)


def _first_of(point: Indices, value: Array, count: int) -> Booleans:
    """Which entries are among the `count` least of their point."""
    order = np.lexsort((value, point))
    sizes = np.bincount(point)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(point), dtype=np.intp)
    rank[order] = np.arange(len(point)) - starts[point[order]]
    return np.asarray(rank < count)
