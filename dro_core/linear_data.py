"""A linear map with samples: what every answer about it is computed and recomputed from."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dro_core.certificate import LARGEST_RISK
from dro_core.checks import as_samples, as_weights, check_samples_and_map
from dro_core.linear_map import DENSE_ENTRIES, LinearMap
from dro_core.read_only import ReadOnly
from dro_core.spectrum import residuals
from dro_core.transport import squared_norms
from dro_core.types import Array


class LinearData(ReadOnly):
    r"""A map B, samples (x, y), weights, and the residuals x - By with their mean square M."""

    def __init__(
        self, linear: LinearMap, x: ArrayLike, y: ArrayLike, weights: ArrayLike | None
    ) -> None:
        #: B, as something that is applied to rows.
        self.map: LinearMap = linear
        self.x, self.y = as_samples(x, "x"), as_samples(y, "y")
        check_samples_and_map(self.map, self.x, self.y, "B")
        self.weights = as_weights(weights, len(self.x))
        with np.errstate(over="ignore", invalid="ignore"):
            self.residual = residuals(self.map, self.x, self.y)
            #: M, the mean squared error of the data, in squared units of x.
            self.fidelity = float(self.weights @ squared_norms(self.residual))
        if math.isnan(self.fidelity):
            raise ValueError("B: By is not a number for some row of y")
        if not self.fidelity <= LARGEST_RISK:
            raise OverflowError(
                f"x, y: the mean squared residual x - By is {self.fidelity:g}, above "
                f"{LARGEST_RISK:g}; rescale the data"
            )

    @property
    def matrix(self) -> Array:
        """B as a dense (n, m) matrix, for a map that is not too large for one."""
        if not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}, which is not made dense")
        return self.map.matrix()

    def law_gradient(self, residual: Array, moved_y: Array) -> Array:
        r"""Gradient in B of the mean squared error, :math:`-2\sum_i\mu_i r_i y_i^\top`, (n, m)."""
        if residual.shape[1] * moved_y.shape[1] > DENSE_ENTRIES and not self.map.is_small:
            raise ValueError(f"B: shape {self.map.shape}; a dense gradient would be too large")
        return np.asarray(-2.0 * (residual * self.weights[:, None]).T @ moved_y)
