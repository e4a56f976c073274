"""Ill-posed linear problems, and the prices of their measurements."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import numpy as np

from dro_core.types import Array

#: Radii, relative to the root mean square of W^(-1/2) y.
SHARES = (0.1, 0.3, 1.0, 3.0)
#: How much dearer the reliable measurements are.
FACTORS = (10.0, 100.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Problem:
    """Training and held-out samples of one problem, and its forward map."""

    name: str
    forward: Array
    x: Array
    y: Array
    x_out: Array
    y_out: Array

    def unit(self, weights: Array) -> float:
        """Root mean square of W^(-1/2) y: the radii are shares of it."""
        return float(np.sqrt((self.y**2 / weights).sum(axis=1).mean()))


def balls(m: int) -> dict[str, Array]:
    """Prices of m measurements: the cheap ones cost 1."""
    index = np.arange(m)
    found = {"isotropic": np.ones(m)}
    for factor in FACTORS:
        for step in (4, 8):
            found[f"every {step}th x {factor:g}"] = np.where(index % step == 0, 1.0, factor)
        wave = 0.5 - 0.5 * np.cos(2 * np.pi * index / m)
        found[f"smooth x {factor:g}"] = factor**wave
    return found


def random_problem(seed: int, number: int, size: int, samples: int) -> Problem:
    """Singular values k^(-a) in random bases, signals with spectrum k^(-b), white noise.

    a uniform in [0.5, 2.5], b in [0, 1.5], the noise 10^-2.5 to 10^-1 of the root mean square of y
    per entry; ten times as many held-out samples.
    """
    rng = np.random.default_rng([seed, number])
    k = np.arange(1.0, size + 1)
    left, right, own = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(3))
    A = (left * k ** -rng.uniform(0.5, 2.5)) @ right.T
    root = own * k ** -rng.uniform(0.0, 1.5)
    x = rng.standard_normal((11 * samples, size)) @ root.T
    y = x @ A.T
    level = 10.0 ** rng.uniform(-2.5, -1.0) * np.sqrt((y**2).mean())
    y += level * rng.standard_normal(y.shape)
    return Problem(f"random {number}", A, x[:samples], y[:samples], x[samples:], y[samples:])


def mnist_problem(root: str, images: int, noise: float, seed: int) -> Problem | None:
    """MNIST averaged to 14 x 14, blurred with 0.7 pixels, with noise; None without the data."""
    folder = root or os.environ.get("DRO_DATA", "")
    if not images or not folder or importlib.util.find_spec("torch") is None:
        return None
    from scipy.ndimage import gaussian_filter

    from dro_torch.data import mnist

    counts = {"train": images, "test": 2000}
    parts = [mnist(part, folder).images[:count] for part, count in counts.items()]
    small = [
        np.asarray(part, dtype=np.float64).reshape(len(part), 14, 2, 14, 2).mean(axis=(2, 4))
        for part in parts
    ]
    rows = [np.reshape(part / max(part.max(), 1.0), (len(part), -1)) for part in small]
    units = np.eye(196).reshape(-1, 14, 14)
    A = gaussian_filter(units, sigma=(0.0, 0.7, 0.7)).reshape(196, 196).T
    rng = np.random.default_rng(seed)
    measured = [part @ A.T + noise * rng.standard_normal(part.shape) for part in rows]
    return Problem("mnist", A, rows[0], measured[0], rows[1], measured[1])
