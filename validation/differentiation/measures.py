"""Measures of maps: error under noise, stability, singular values, and truncation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dro_core import fit_linear
from dro_core.types import Array
from validation.differentiation.baselines import root_mean_square
from validation.differentiation.data import draw, noisy
from validation.differentiation.settings import Config
from validation.results import progress
from validation.tables import Row


def drop(values: Sequence[float] | Array, modes: int) -> float:
    """Singular value K + 1 over singular value K."""
    return float(values[modes] / values[modes - 1])


def stability(B: Array, y: Array, directions: Array, perturbation: float) -> Array:
    r""":math:`\|B(y + \eta d) - By\| / \eta` along rows d of length one (§6.1.3, formula lost)."""
    moved = (y + perturbation * directions) @ B.T - y @ B.T
    return np.asarray(np.linalg.norm(moved, axis=1) / perturbation)


def truncation_errors(B: Array, x: Array, y: Array) -> Array:
    """RMSE of the map cut off after its k largest singular values, k = 0, ..., n."""
    left, values, right = np.linalg.svd(B)
    part, signal = values * (y @ right.T), x @ left
    change = (part**2 - 2 * part * signal).mean(axis=0)
    squared = np.r_[0.0, np.cumsum(change)] + (x**2).sum(axis=1).mean()
    return np.asarray(np.sqrt(np.maximum(squared, 0.0) / x.shape[1]))


#: Matrices by method.
Maps = dict[str, Array]


def noise_rows(config: Config, modes: int, maps: dict[str, list[Array]]) -> list[Row]:
    """RMSE of every method (one map per noise level) at every level, mean and deviation."""
    found: dict[tuple[str, float], list[float]] = {}
    for trial in range(config.trials):
        data = draw(config, 2 + trial, config.test_samples, modes)
        for k, level in enumerate(config.levels):
            y = noisy(config, data, 2 + trial, level)
            for name, chosen in maps.items():
                error = root_mean_square(data.x - y @ chosen[k].T)
                found.setdefault((name, level), []).append(error)
    return [
        {
            "modes": modes,
            "method": name,
            "noise": level,
            "rmse": float(np.mean(errors)),
            "deviation": float(np.std(errors, ddof=1)),
            "trials": len(errors),
        }
        for (name, level), errors in found.items()
    ]


def stability_rows(config: Config, modes: int, maps: Maps) -> list[Row]:
    """Stability of every map: mean and largest over the directions, over the trials."""
    rows: list[Row] = []
    for name, B in maps.items():
        values = []
        for trial in range(config.trials):
            rng = np.random.default_rng([config.seed, 2 + trial, modes, 2])
            directions = rng.standard_normal((config.directions, config.size))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            y = draw(config, 2 + trial, 1, modes).y
            values.append(stability(B, y, directions, config.perturbation))
        means = np.mean(values, axis=1)
        rows.append(
            {
                "modes": modes,
                "method": name,
                "stability": float(means.mean()),
                "deviation": float(means.std(ddof=1)),
                "largest": float(np.max(values)),
                "supremum": float(np.linalg.norm(B, 2)),
                "directions": config.directions,
                "perturbation": config.perturbation,
            }
        )
    return rows


def rank_rows(config: Config, modes: int, tail: float, maps: Maps) -> list[Row]:
    """Singular values, and the RMSE after truncation at every rank and noise level."""
    rows: list[Row] = []
    errors: dict[tuple[str, float], list[Array]] = {}
    for trial in range(config.trials):
        data = draw(config, 2 + trial, config.test_samples, modes, tail)
        for level in config.levels:
            y = noisy(config, data, 2 + trial, level)
            for name, B in maps.items():
                errors.setdefault((name, level), []).append(truncation_errors(B, data.x, y))
    for name, B in maps.items():
        values = np.linalg.svd(B, compute_uv=False)
        for k in range(1, config.size + 1):
            row: Row = {
                "modes": modes,
                "tail": tail,
                "method": name,
                "rank": k,
                "singular_value": float(values[k - 1]),
            }
            for level in config.levels:
                row[f"rmse at noise {level:.3g}"] = float(np.mean(errors[name, level], axis=0)[k])
                row[f"deviation at noise {level:.3g}"] = float(
                    np.std(errors[name, level], axis=0, ddof=1)[k]
                )
            rows.append(row)
    return rows


def tail_rows(config: Config) -> list[Row]:
    """The drop of the exact map after K, against the tail of the data and against ε."""
    factors = np.geomspace(0.1, 10, 5)
    points = [(float(config.tail * factor), config.epsilon) for factor in factors]
    points += [(config.tail, float(config.epsilon * factor)) for factor in factors if factor != 1]
    rows: list[Row] = []
    for tail, epsilon in progress(points, "tails"):
        data = draw(config, 0, config.samples, config.modes, tail)
        fit = fit_linear(x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        ratio = drop(fit.singular_values, config.modes)
        rows.append(
            {
                "modes": config.modes,
                "tail": tail,
                "epsilon": epsilon,
                "radius": config.radius,
                "ratio": ratio,
                "gap": fit.gap,
            }
        )
    return rows
