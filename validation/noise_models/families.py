"""The two families: losses of soft-thresholding and costs, member by member."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from dro_core.noise import GaussianNoise, PoissonNoise, hull_candidates
from dro_core.types import Array
from validation.noise_models.settings import Config


def soft_threshold(y: npt.ArrayLike, threshold: float) -> Array:
    """sign(y) max(|y| - threshold, 0): the reconstruction of sparse signals from y = x + noise."""
    return np.asarray(np.sign(y) * np.maximum(np.abs(y) - threshold, 0.0))


def soft_threshold_loss(
    x: npt.ArrayLike, clean: npt.ArrayLike, levels: npt.ArrayLike, threshold: float
) -> Array:
    r"""Expected loss E (x - S(Y))², Y ~ N(clean, s²), in closed form: rows samples, columns levels.

    Above the threshold S(Y) = Z = Y - threshold with mean b, below -threshold the mirror image, so
    two integrals of -2xZ + Z² over Z > 0 are needed, from
    :math:`E[Z; Z > 0] = b\Phi(b/s) + s\varphi(b/s)` and
    :math:`E[Z^2; Z > 0] = (b^2 + s^2)\Phi(b/s) + bs\varphi(b/s)`.
    """
    x, clean = np.asarray(x, float)[:, None], np.asarray(clean, float)[:, None]
    s = np.asarray(levels, float)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = x**2 + np.zeros_like(s)
        for signal, b in ((x, clean - threshold), (-x, -clean - threshold)):
            t = np.where(s > 0, b / s, np.where(b > 0, np.inf, -np.inf))
            density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
            above = special.ndtr(t)
            first = b * above + s * density
            total = total + (b**2 + s**2) * above + b * s * density - 2 * signal * first
    return np.asarray(total)


@dataclass(frozen=True)
class Table:
    """Expected losses and costs (samples, members)."""

    loss: Array
    cost: Array


def gaussian_signals(config: Config, count: int) -> tuple[Array, Array]:
    """Sparse scalars x, the first one zero, and data y = x + noise; the same for every count."""
    rng = np.random.default_rng(config.seed)
    draws = rng.standard_normal((1024, 3))
    x = 0.5 * draws[:, 0] * np.abs(draws[:, 1])
    x[0] = 0.0
    y = x + config.noise * draws[:, 2]
    return x[:count], y[:count]


def gaussian_levels(config: Config) -> Array:
    """s = 0, ..., largest_level, equally spaced: costs are then multiples of one unit."""
    return np.linspace(0.0, config.largest_level, config.members)


def gaussian_table(config: Config, count: int, levels: Array | None = None) -> Table:
    """N(x, s²) and soft-thresholding: losses in closed form, costs (y - x)² + s²."""
    x, y = gaussian_signals(config, count)
    s = gaussian_levels(config) if levels is None else levels
    cost = ((y - x) ** 2)[:, None] + s**2
    return Table(soft_threshold_loss(x, x, s, config.threshold), cost)


def poisson_signals(config: Config, count: int) -> Array:
    """Positive scalars around one, the first one exactly one."""
    rng = np.random.default_rng(config.seed + 1)
    x = np.exp(0.3 * rng.standard_normal(1024) * np.abs(rng.standard_normal(1024)))
    x[0] = 1.0
    return np.asarray(x[:count])


def poisson_photons(config: Config) -> Array:
    """Photon counts in geometric progression, many first."""
    return np.geomspace(config.most_photons, config.fewest_photons, config.members)


def poisson_table(config: Config, count: int, photons: Array | None = None) -> Table:
    """Poisson(p x) / p and soft-thresholding of the deviation from one; data y = x.

    Member by member, so that a family of thousands fits into memory.
    """
    x, columns = poisson_signals(config, count)[:, None], []
    for number in poisson_photons(config) if photons is None else photons:
        atoms, measures = PoissonNoise([number]).atoms(x)
        rebuilt = 1.0 + soft_threshold(atoms - 1.0, config.threshold)
        columns.append(hull_candidates((x - rebuilt) ** 2, (x - atoms) ** 2, measures))
    return Table(*(np.hstack(parts) for parts in zip(*columns, strict=True)))


def family_by_variance(
    config: Config, family: str, variances: npt.ArrayLike
) -> GaussianNoise | PoissonNoise:
    """The members with variance factors s² (Gaussian) or 1 / photons (Poisson)."""
    if family == "gaussian":
        return GaussianNoise(np.sqrt(variances))
    return PoissonNoise(1.0 / np.asarray(variances))


def variance_range(config: Config, family: str) -> tuple[float, float]:
    """Ends of the continuous range."""
    if family == "gaussian":
        return 0.0, config.largest_level**2
    return 1.0 / config.most_photons, 1.0 / config.fewest_photons
