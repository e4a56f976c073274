"""Two measures with their conditions: which moves are allowed, what they cost, what differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dro_core.blocks import BLOCK_ENTRIES
from dro_core.types import Array, Indices
from dro_core.wasserstein.grouping import by_group, close_rows
from dro_core.wasserstein.quantiles import Quantiles, make_quantiles, sorted_transform

#: Masses of a condition that agree to this relative difference are equal: rounding of sums.
MASS_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Difference:
    """A condition whose mass is not the same in both measures, and how many there are."""

    x: Array
    mass0: float
    mass1: float
    count: int
    conditions: int


class TransportProblem:
    """Samples, weights and ground cost, and the conditions within which mass may move.

    `label0`, `label1` number the conditions (-1: no mass, nowhere to go); a relaxed problem has a
    single one with everything in it.
    """

    def __init__(
        self,
        samples: tuple[Array, Array, Array, Array],
        weights: tuple[Array, Array],
        p: float,
        beta: float | None,
        tolerance: float,
    ) -> None:
        self.x0, self.y0, self.x1, self.y1 = samples
        self.weights0, self.weights1 = weights
        self.p, self.beta, self.tolerance = p, beta, tolerance
        self.difference: Difference | None = None
        if beta is not None:
            self.label0, self.label1 = (np.zeros(len(y), np.int64) for y in (self.y0, self.y1))
            self.conditions, self.masses = np.empty((1, 0)), np.ones(1)
            return
        label, rows = close_rows(np.concatenate([self.x0, self.x1]), tolerance)
        self.label0, self.label1 = label[: len(self.x0)], label[len(self.x0) :]
        mass0, mass1 = (
            np.bincount(own, weight, len(rows))
            for own, weight in ((self.label0, weights[0]), (self.label1, weights[1]))
        )
        off = np.abs(mass0 - mass1) / np.maximum(np.maximum(mass0, mass1), np.finfo(float).tiny)
        if (off > MASS_TOLERANCE).any():
            worst = int(np.argmax(np.abs(mass0 - mass1) * (off > MASS_TOLERANCE)))
            self.difference = Difference(
                rows[worst],
                float(mass0[worst]),
                float(mass1[worst]),
                int((off > MASS_TOLERANCE).sum()),
                len(rows),
            )
        kept = mass0 > 0
        number = np.where(kept, np.cumsum(kept) - 1, -1)
        self.label0, self.label1 = number[self.label0], number[self.label1]
        self.conditions, self.masses = rows[kept], (mass0[kept] + mass1[kept]) / 2

    @property
    def scalar(self) -> bool:
        return self.beta is None and self.y0.shape[1] == 1

    @cached_property
    def quantiles(self) -> tuple[Quantiles, Quantiles]:
        """Both measures sorted, for scalar y."""
        groups = len(self.masses)
        return (
            make_quantiles(self.label0, self.y0[:, 0], self.weights0, groups),
            make_quantiles(self.label1, self.y1[:, 0], self.weights1, groups),
        )

    def groups(self) -> Iterator[tuple[Indices, Indices]]:
        """Indices (in the first, in the second measure) of each condition."""
        sides = []
        for label in (self.label0, self.label1):
            order, start = by_group(label, len(self.masses))
            sides.append(np.split(order, start[1:-1]))
        yield from zip(*sides, strict=True)

    def _power(self, distance: Array) -> Array:
        if self.p == 1.0:
            return distance
        return distance * distance if self.p == 2.0 else distance**self.p

    def block(self, rows: Indices, columns: Indices) -> Array:
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

    def pairs(self, i: Indices, j: Indices) -> tuple[Array, Array]:
        """(cost in y, distance in x) of single moves."""
        parts = [
            np.linalg.norm(start[i] - end[j], axis=1)
            if start.shape[1] > 1
            else np.abs(start[i, 0] - end[j, 0])
            for start, end in ((self.y0, self.y1), (self.x0, self.x1))
        ]
        return self._power(parts[0]), parts[1]

    def costs(self, i: Indices, j: Indices) -> Array:
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
            g[second.order] = sorted_transform(f[first.order], first, second, self.p)
            return g
        for rows, columns in self.groups():
            step = max(1, BLOCK_ENTRIES // len(rows))
            for k in range(0, len(columns), step):
                part = columns[k : k + step]
                g[part] = (self.block(rows, part) - f[rows, None]).min(axis=0)
        return g

    def largest_cost(self) -> float:
        """A bound of the ground cost: that of the diagonal of a box around all samples."""
        price = self.beta * _diagonal(self.x0, self.x1) ** self.p if self.beta else 0.0
        return self.largest_cost_of_y() + price

    def largest_cost_of_y(self) -> float:
        """The same for moves that keep x."""
        return float(_diagonal(self.y0, self.y1) ** self.p)

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


def _diagonal(first: Array, second: Array) -> float:
    """Of the smallest box around all rows."""
    low = np.minimum(first.min(axis=0), second.min(axis=0))
    high = np.maximum(first.max(axis=0), second.max(axis=0))
    return float(np.linalg.norm(high - low))
