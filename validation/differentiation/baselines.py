"""What DRO is compared with: Tikhonov regularisation and least squares."""

from __future__ import annotations

import math

import numpy as np

from dro_core.operators import Integration
from dro_core.types import Array
from validation.differentiation.data import Data, Grid, draw, noisy
from validation.differentiation.settings import Config


def root_mean_square(values: Array) -> float:
    """Over all entries."""
    return math.sqrt(float(np.mean(values**2)))


def tikhonov(grid: Grid, weight: float) -> Array:
    r""":math:`(A^\top A + \alpha D^\top D)^{-1}A^\top` with the first-difference matrix D."""
    A, D = Integration(grid.size).matrix(), np.diff(np.eye(grid.size), axis=0)
    return np.asarray(np.linalg.solve(A.T @ A + weight * D.T @ D, A.T))


def validated_tikhonov(config: Config, modes: int, level: float) -> tuple[float, Array]:
    """The weight with the smallest RMSE on validation data of that noise level, and its map."""
    data = draw(config, 1, config.test_samples, modes)
    y = noisy(config, data, 1, level)
    options = [(weight, tikhonov(config, weight)) for weight in np.geomspace(1e-10, 1e2, 49)]
    return min(options, key=lambda option: root_mean_square(data.x - y @ option[1].T))


def least_squares(data: Data, start: Array | None = None) -> Array:
    r"""Where gradient descent on the mean squared error ends from `start` (default: zero).

    :math:`X^\top Y^{+\top} + B_0(I - Y^+Y)`: what the data do not see stays as it started.
    """
    inverse = np.linalg.pinv(data.y, rcond=1e-12)
    B = (inverse @ data.x).T
    return B if start is None else B + start - (start @ data.y.T) @ inverse.T
