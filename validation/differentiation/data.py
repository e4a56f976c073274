"""Signals of sine modes, their integrals, and white noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dro_core.operators import Integration
from dro_core.types import Array


class Grid(Protocol):
    """What data are drawn with: of the settings, the grid and the seed."""

    @property
    def size(self) -> int:
        """Grid points n."""

    @property
    def seed(self) -> int:
        """Seed of signals and noise."""


def signals(grid: Grid, rng: np.random.Generator, count: int, modes: int, tail: float) -> Array:
    r""":math:`x(t) = \sum_k c_k \sin(\pi k t)` on the grid i/n; c standard normal up to k = modes.

    Beyond, the coefficients have standard deviation `tail`.
    """
    k = np.arange(1, grid.size + 1)
    spread = np.where(k <= modes, 1.0, tail)
    modes_on_grid = np.sin(np.pi * np.outer(k, k / grid.size))
    return (rng.standard_normal((count, grid.size)) * spread) @ modes_on_grid


@dataclass(frozen=True)
class Data:
    """Signals and their cumulative integrals, without noise."""

    x: Array
    y: Array
    modes: int
    tail: float


def draw(grid: Grid, purpose: int, count: int, modes: int, tail: float = 0.0) -> Data:
    """Data of one purpose: 0 training, 1 validation, 2, 3, ... test trials."""
    rng = np.random.default_rng([grid.seed, purpose, modes])
    x = signals(grid, rng, count, modes, tail)
    return Data(x, Integration(grid.size).apply(x), modes, tail)


def noisy(grid: Grid, data: Data, purpose: int, level: float) -> Array:
    """Measurements with white noise, the same draw at every level."""
    rng = np.random.default_rng([grid.seed, purpose, data.modes, 1])
    return data.y + level * rng.standard_normal(data.y.shape)
