"""A linear map with samples: what every answer about it is computed and recomputed from."""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from dro_core.checks import check_map_size
from dro_core.linear_map import DENSE_ENTRIES, LinearMap
from dro_core.read_only import ReadOnly, read_only
from dro_core.samples import Block, Samples
from dro_core.spectrum import checked_fidelity, residuals
from dro_core.transport import squared_norms
from dro_core.types import Array


class LinearData(ReadOnly):
    r"""A map B with samples (x, y), the residuals x - By and their mean square M.

    The arrays are those that were passed, where they are in memory in double precision; of other
    samples they are put together when first asked for, whole.
    """

    def __init__(self, linear: LinearMap, samples: Samples) -> None:
        #: B, as something that is applied to rows.
        self.map: LinearMap = linear
        #: The samples, in blocks.
        self.samples = samples
        check_map_size(linear, samples.widths, "B")
        self._fidelity: float | None = None

    @property
    def fidelity(self) -> float:
        """M, the mean squared error of the data, in squared units of x."""
        if self._fidelity is None:
            (value,) = self.samples.mean(partial(_squared_residual, self.map))
            self._fidelity = checked_fidelity(value)
        return self._fidelity

    @cached_property
    def _whole(self) -> tuple[Array, Array, Array]:
        (x, y), weights = self.samples.whole()
        return read_only(x), read_only(y), read_only(weights)

    @property
    def x(self) -> Array:
        """Signals, (N, n)."""
        return self._whole[0]

    @property
    def y(self) -> Array:
        """Measurements, (N, m)."""
        return self._whole[1]

    @property
    def weights(self) -> Array:
        """Weights of the samples, summing to one; (N,)."""
        return self._whole[2]

    @cached_property
    def residual(self) -> Array:
        """x - By, (N, n)."""
        return read_only(self.x - self.map.apply(self.y))

    @property
    def matrix(self) -> Array:
        """B as a dense (n, m) matrix, for a map that is not too large for one."""
        if not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}, which is not made dense")
        return self.map.matrix()

    def check_gradient(self) -> None:
        """Refuse maps whose gradient, a dense (n, m) matrix, would be too large."""
        n, m = self.map.shape
        if n * m > DENSE_ENTRIES and not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}; a dense gradient would be too large")


def _squared_residual(B: LinearMap, block: Block) -> tuple[float]:
    with np.errstate(over="ignore", invalid="ignore"):
        return (float(block.weights @ squared_norms(residuals(B, block))),)


def gradient_sum(weights: Array, residual: Array, moved_y: Array) -> Array:
    r"""Gradient in B of a mean squared error, :math:`-2\sum_i w_i r_i y_i^\top`, (n, m)."""
    return np.asarray(-2.0 * (residual * weights[:, None]).T @ moved_y)
