"""Benchmarks of the linear estimator: saddle gaps by verify() and times, up to 784 pixels.

Differentiation of truncated sine series (n = 64 and n = 12), data of rank 200 on 784 points, noisy
data in 1,000 dimensions, random walks in half as many; with digits under a data root the slowest
case that is known, a thousand of them blurred without noise, to a tolerance, and a whole audit on
them. Seconds are those of the processor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from dro_core import audit, fit_linear
from dro_core.operators import Integration
from dro_core.types import Array
from validation.results import Check, at_most, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting, without_folders

RADII = (0.02, 0.1, 0.3, 1.0)
#: The row of the digits, and the gap that it is asked for.
DIGITS, TOLERANCE = "blurred digits", 1e-2


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    size: int = setting(64, "grid points of the differentiation problem", low=1)
    modes: int = setting(10, "its sine modes", low=1)
    samples: int = setting(500, "its signals", low=1)
    large: int = setting(784, "grid points of the large problem", low=1)
    rank: int = setting(200, "rank of its data", low=1)
    noisy: int = setting(
        1000,
        "dimension of the noisy problem (twice that of the walks), twice as many samples",
        low=2,
    )
    data: str = setting("", "data root of the digits; without it no digits", folder=True)
    digits: int = setting(1000, "digits", low=1)
    seed: int = setting(0, "seed")


def sines(config: Config, size: int, modes: int) -> Array:
    """Random sine series with coefficients that decay like 1/k."""
    rng = np.random.default_rng(config.seed)
    k = np.arange(1, modes + 1)
    waves = np.sqrt(2) * np.sin(np.pi * np.outer(k, (np.arange(size) + 0.5) / size))
    return np.asarray((rng.standard_normal((config.samples, modes)) / k) @ waves)


def fitted(
    name: str,
    x: Array,
    structure: str,
    radius: float,
    epsilon: float,
    y: Array | None = None,
    tolerance: float = 0.0,
) -> dict[str, Any]:
    """One row: certificate and time of a fit, on noise-free integrals of x if no y is given."""
    y = Integration(x.shape[1]).apply(x) if y is None else y
    start = time.process_time()
    fit = fit_linear(
        x=x, y=y, radius=radius, epsilon=epsilon, structure=structure, tolerance=tolerance
    )
    seconds = time.process_time() - start
    return {
        "problem": name,
        "structure": structure,
        "radius": radius,
        "epsilon": epsilon,
        "risk": fit.risk,
        "gap": fit.verify().gap,
        "seconds": seconds,
    }


def noisy(config: Config) -> tuple[Array, Array]:
    """White signals in many dimensions, measured by a decaying diagonal and noise."""
    rng = np.random.default_rng(config.seed)
    n = config.noisy
    x = rng.standard_normal((2 * n, n))
    return x, x * 10.0 ** -np.linspace(0, 1, n) + 0.2 * rng.standard_normal(x.shape)


def walks(config: Config) -> tuple[Array, Array]:
    """Random walks and their noisy integrals: variances over five orders, as of images."""
    rng = np.random.default_rng(config.seed)
    n = config.noisy // 2
    x = np.cumsum(rng.standard_normal((2 * n, n)), axis=1) / n**0.5
    return x, np.cumsum(x, axis=1) / n + 0.02 * rng.standard_normal(x.shape)


def blurred_digits(config: Config) -> tuple[Array, Array]:
    """Digits as rows and what a blur of 0.7 pixels makes of them."""
    from dro_torch.data import mnist

    x = mnist("train", config.data).images[: config.digits, 0].double().numpy() / 255
    y = gaussian_filter(x, (0.0, 0.7, 0.7), mode="constant")
    return x.reshape(len(x), -1), np.asarray(y.reshape(len(x), -1))


def audited(x: Array, y: Array, radius: float) -> float:
    """Processor seconds of an audit of the ridge map, with the best linear map beside it."""
    moments = y.T @ y / len(y) + 1e-3 * np.eye(y.shape[1])
    B = np.linalg.solve(moments, y.T @ x / len(x)).T
    start = time.process_time()
    found = audit(B, x, y, radius=radius, structures=["y|x"])
    assert found.holds
    return time.process_time() - start


def run(config: Config, out: Path) -> list[Check]:
    """All fits; written to `out`."""
    small_modes = min(5, config.modes)
    x = sines(config, config.size, config.modes)
    tiny = sines(config, 12, small_modes)
    rng = np.random.default_rng(config.seed)
    factors = (
        rng.standard_normal((1000, config.rank)),
        rng.standard_normal((config.rank, config.large)),
    )
    wide = factors[0] @ factors[1] / np.sqrt(config.large)
    fit_linear(x=tiny, y=tiny, radius=0.1)  # first calls import their libraries
    jobs = [
        (f"n = {config.size}", x, structure, radius, epsilon)
        for epsilon in (1e-2, 1e-6, 0.0)
        for structure in ("y|x", "joint", "x|y")
        for radius in RADII
    ]
    jobs += [("n = 12", tiny, s, radius, 0.0) for s in ("y|x", "joint", "x|y") for radius in RADII]
    jobs += [(f"n = {config.large}", wide, "y|x", 0.1, epsilon) for epsilon in (1e-2, 0.0)]
    rows = [fitted(*job) for job in progress(jobs, "fits")]
    n = config.noisy
    signals, measured = noisy(config)
    for epsilon in (0.0, 1.0):
        radius = 0.1 * n**0.5
        rows.append(fitted(f"noisy, n = {n}", signals, "y|x", radius, epsilon, measured))
    signals, measured = walks(config)
    for structure, radius in (("y|x", 0.02), ("joint", 0.06)):
        radius *= signals.shape[1] ** 0.5
        rows.append(fitted(f"walks, n = {n // 2}", signals, structure, radius, 0.0, measured))
    checks = []
    if config.data:
        digits = blurred_digits(config)
        radius = 0.05 * digits[1].shape[1] ** 0.5
        rows.append(fitted(DIGITS, digits[0], "y|x", radius, 0.0, digits[1], TOLERANCE))
        seconds = audited(*digits, radius)
        checks.append(at_most(f"audit of {len(digits[0])} digits: seconds", seconds, 60.0))
    largest: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        entry = largest.setdefault((row["problem"], row["epsilon"]), {"gap": 0.0, "seconds": 0.0})
        for name in entry:
            entry[name] = max(entry[name], row[name])
    lines = [
        (name, f"{epsilon:g}", f"{entry['gap']:.1e}", f"{entry['seconds']:.2f}")
        for (name, epsilon), entry in largest.items()
    ]
    print(
        table(
            [("problem", "epsilon", "largest saddle gap", "longest fit, processor seconds"), *lines]
        )
    )
    for (name, epsilon), entry in largest.items():
        limit = 1e-4 if epsilon == 0.0 and name != "n = 12" else 1e-6
        limit = TOLERANCE if name == DIGITS else limit
        checks.append(at_most(f"{name}, epsilon {epsilon:g}: saddle gap", entry["gap"], limit))
        allowed = 2.0 if name in (f"n = {config.size}", "n = 12") else 60.0
        checks.append(at_most(f"{name}, epsilon {epsilon:g}: seconds", entry["seconds"], allowed))
    write_csv(out / "estimator.csv", rows)
    made = provenance("benchmarks estimator", without_folders(config))
    write_json(out / "estimator.json", {**made, "rows": rows, "checks": checks})
    return checks
