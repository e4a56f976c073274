r"""Growth profiles: bounds on the residual of every sample by how far it moves.

:math:`t \mapsto h_i(t)` with :math:`\|r_i(v)\| \le h_i(t)` for all displacements v of length t:
piecewise linear, with jumps. A Lipschitz constant is a line, a range a constant, a bound that holds
on a ball a piece that ends there, a bound known on a grid a staircase; of several bounds the
smaller one counts, at every distance (`minimum`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_non_negative, as_real_array, check_magnitude, non_negative_array
from dro_core.read_only import ReadOnly
from dro_core.types import EPS, Array

#: Values that were interpolated are enlarged by this: they stay bounds after rounding.
_OUTWARD = 1.0 + 4.0 * EPS


class GrowthProfiles(ReadOnly):
    r"""Piecewise linear bounds :math:`h_i(t) \ge 0`, one row per sample.

    .. math:: h_i(t) = h_{ik} + b_{ik}(t - t_{ik}),\qquad t_{ik} \le t \le t_{i,k+1}

    with :math:`t_{i0} = 0` and a last piece without end; where two pieces meet the larger counts.

    Parameters
    ----------
    starts : (N, K) array
        Distances :math:`t_{ik}`, from 0 and never decreasing along a row, in the units of the
        transport cost's root; pieces may have length zero.
    values : (N, K) array
        :math:`h_{ik} \ge 0` at the start of a piece, in units of x; infinite where nothing is
        known.
    slopes : (N, K) array
        :math:`b_{ik} \ge 0`, finite.

    Raises
    ------
    ValueError, TypeError
        Arrays of other shapes, negative or NaN entries, starts that decrease or do not begin at 0.

    Examples
    --------
    >>> lipschitz = GrowthProfiles.linear([1.0, 2.0], 3.0)
    >>> round(float(lipschitz.minimum(GrowthProfiles.constant([5.0, 5.0]))(10.0)[0]), 9)
    5.0
    """

    starts: Array
    values: Array
    slopes: Array

    def __init__(self, starts: ArrayLike, values: ArrayLike, slopes: ArrayLike) -> None:
        self.starts = _rows(starts, "starts")
        self.values = _rows(values, "values", finite=False)
        self.slopes = _rows(slopes, "slopes")
        for name, array in (("values", self.values), ("slopes", self.slopes)):
            if array.shape != self.starts.shape:
                raise ValueError(
                    f"{name}: shape {array.shape}, but starts has {self.starts.shape}; one entry "
                    "per piece is needed"
                )
        if (self.starts[:, 0] != 0).any() or (np.diff(self.starts, axis=1) < 0).any():
            raise ValueError(
                "starts: every row must begin at 0 and never decrease; allowed: distances "
                "0 = t_0 <= t_1 <= ..."
            )
        self._protect()

    @classmethod
    def linear(cls, residuals: ArrayLike, modulus: ArrayLike) -> GrowthProfiles:
        r"""Lipschitz maps: :math:`h_i(t) = \|r_i\| + \kappa_i t`.

        Parameters
        ----------
        residuals : (N,) array
            Norms of the residuals, >= 0.
        modulus : float or (N,) array
            :math:`\kappa_i \ge 0`, in units of x per unit of displacement.
        """
        values, slopes = _vector(residuals, "residuals"), non_negative_array(modulus, "modulus")
        if slopes.ndim and slopes.shape != values.shape:
            raise ValueError(f"modulus: shape {slopes.shape}; allowed: () or {values.shape}")
        slopes = np.broadcast_to(slopes, values.shape)
        return cls(np.zeros((len(values), 1)), values[:, None], slopes[:, None])

    @classmethod
    def constant(cls, bounds: ArrayLike) -> GrowthProfiles:
        """Bounds that hold however far samples move: the range of a clipped output.

        Parameters
        ----------
        bounds : (N,) array
        """
        return cls.linear(bounds, 0.0)

    @classmethod
    def increasing(cls, distances: ArrayLike, values: ArrayLike) -> GrowthProfiles:
        r"""The staircase above functions that never decrease, from their values on a grid.

        :math:`h_i(t_{k+1})` on all of :math:`[t_k, t_{k+1}]`, and infinite beyond the last
        distance: take the minimum with a `constant` that holds there.

        Parameters
        ----------
        distances : (K,) array
            :math:`0 = t_0 < t_1 < \dots`
        values : (N, K) array
            Upper bounds of :math:`h_i(t_k)`.
        """
        grid, table = _vector(distances, "distances"), _rows(values, "values", finite=False)
        if table.shape[1] != len(grid):
            raise ValueError(
                f"values: shape {table.shape}; needed: one column for each of {len(grid)} distances"
            )
        if (np.diff(table, axis=1) < 0).any():
            raise ValueError("values: a row decreases; allowed: functions that never decrease")
        starts = np.broadcast_to(grid, table.shape)
        steps = np.concatenate([table[:, 1:], np.full((len(table), 1), np.inf)], axis=1)
        return cls(starts, steps, np.zeros(steps.shape))

    def within(self, radius: float) -> GrowthProfiles:
        """The same bounds on balls of this radius; beyond, nothing is known (infinity).

        For bounds that were proved for displacements up to the radius only; take the minimum with
        one that holds everywhere.
        """
        reach = as_non_negative(radius, "radius")
        starts = np.minimum(self.starts, reach)
        outside = self.starts > reach
        values = np.where(outside, np.inf, self.values)
        ends = np.full((len(starts), 1), reach)
        return GrowthProfiles(
            np.concatenate([starts, ends], axis=1),
            np.concatenate([values, np.full(ends.shape, np.inf)], axis=1),
            np.concatenate([np.where(outside, 0.0, self.slopes), np.zeros(ends.shape)], axis=1),
        )

    def plus(self, slope: float) -> GrowthProfiles:
        r""":math:`h_i(t) + bt`: the signal moves as well, by at most t."""
        rate = as_non_negative(slope, "slope")
        values = np.where(
            self.starts > 0, (self.values + rate * self.starts) * _OUTWARD, self.values
        )
        return GrowthProfiles(self.starts, values, (self.slopes + rate) * (1 + EPS))

    def minimum(self, other: GrowthProfiles) -> GrowthProfiles:
        """The smaller of two bounds at every distance (both hold, so it does)."""
        if not isinstance(other, GrowthProfiles):
            raise TypeError(f"other: GrowthProfiles are needed, given {type(other).__name__}")
        if len(other) != len(self):
            raise ValueError(f"other: {len(other)} samples, but there are {len(self)}")
        grid = np.sort(np.concatenate([self.starts, other.starts], axis=1), axis=1)
        first, second = self._pieces_from(grid), other._pieces_from(grid)
        # in a cell two lines cross at most once: cut there, or at its end
        ends = np.concatenate([grid[:, 1:], np.full((len(grid), 1), np.inf)], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            crossing = grid + (second[0] - first[0]) / (first[1] - second[1])
        crossing = np.where((crossing > grid) & (crossing < ends), crossing, grid)
        starts = np.stack([grid, crossing], axis=2).reshape(len(grid), -1)
        lines = [np.repeat(part, 2, axis=1) for part in (*first, *second)]
        along = starts - np.repeat(grid, 2, axis=1)
        one, two = (
            np.where(along > 0, (lines[k] + lines[k + 1] * along) * _OUTWARD, lines[k])
            for k in (0, 2)
        )
        # at a cut both are equal up to rounding, and the flatter one is smaller behind it
        behind = (along > 0) | (one == two)
        smaller = np.where(
            behind & np.isfinite(one) & np.isfinite(two), lines[1] <= lines[3], one <= two
        )
        return GrowthProfiles(
            starts, np.where(smaller, one, two), np.where(smaller, lines[1], lines[3])
        )

    def _pieces_from(self, grid: Array) -> tuple[Array, Array]:
        """Values at and slopes behind the points of a grid (N, G) that contains the starts."""
        place = np.stack(
            [
                np.searchsorted(row, at, side="right") - 1
                for row, at in zip(self.starts, grid, strict=True)
            ]
        )
        starts, values, slopes = (
            np.take_along_axis(part, place, axis=1)
            for part in (self.starts, self.values, self.slopes)
        )
        along = grid - starts
        return np.where(along > 0, (values + slopes * along) * _OUTWARD, values), slopes

    def __call__(self, distance: float) -> Array:
        """Values (N,) at a distance >= 0; where pieces meet, the larger one."""
        t = as_non_negative(distance, "distance")
        ends = self.ends
        inside = (self.starts <= t) & (t <= ends)
        with np.errstate(invalid="ignore"):
            heights = self.values + self.slopes * (t - self.starts)
        return np.asarray(np.where(inside, heights, 0.0).max(axis=1))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def ends(self) -> Array:
        """Where pieces end, (N, K); the last ones at infinity."""
        return np.concatenate([self.starts[:, 1:], np.full((len(self), 1), np.inf)], axis=1)


def _rows(value: ArrayLike, name: str, *, finite: bool = True) -> Array:
    """A non-empty (N, K) array of non-negative entries."""
    array = as_real_array(value, name, finite=finite)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: shape {array.shape}; needed: (N, K), one row per sample")
    if (array < 0).any():
        raise ValueError(f"{name}: {array.min()} is negative; every entry must be >= 0")
    check_magnitude(array[np.isfinite(array)], name)
    return np.array(array)


def _vector(value: ArrayLike, name: str) -> Array:
    array = non_negative_array(value, name)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: shape {array.shape}; needed: (N,) with N >= 1")
    check_magnitude(array, name)
    return array
