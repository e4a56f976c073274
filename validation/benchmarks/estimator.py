"""Benchmarks of the linear estimator: saddle gaps by verify() and times, up to 784 pixels.

Differentiation of truncated sine series (n = 64 and n = 12), and data of rank 200 on 784 points.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import fit_linear
from dro_core.operators import Integration
from dro_core.types import Array
from validation.results import Check, at_most, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting

RADII = (0.02, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    size: int = setting(64, "grid points of the differentiation problem", low=1)
    modes: int = setting(10, "its sine modes", low=1)
    samples: int = setting(500, "its signals", low=1)
    large: int = setting(784, "grid points of the large problem", low=1)
    rank: int = setting(200, "rank of its data", low=1)
    seed: int = setting(0, "seed")


def sines(config: Config, size: int, modes: int) -> Array:
    """Random sine series with coefficients that decay like 1/k."""
    rng = np.random.default_rng(config.seed)
    k = np.arange(1, modes + 1)
    waves = np.sqrt(2) * np.sin(np.pi * np.outer(k, (np.arange(size) + 0.5) / size))
    return np.asarray((rng.standard_normal((config.samples, modes)) / k) @ waves)


def fitted(name: str, x: Array, structure: str, radius: float, epsilon: float) -> dict[str, Any]:
    """One row: the certificate of a fit on noise-free integrals of x, and its time."""
    y = Integration(x.shape[1]).apply(x)
    start = time.perf_counter()
    fit = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon, structure=structure)
    seconds = time.perf_counter() - start
    return {
        "problem": name,
        "structure": structure,
        "radius": radius,
        "epsilon": epsilon,
        "risk": fit.risk,
        "gap": fit.verify().gap,
        "seconds": seconds,
    }


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
    largest: dict[tuple[str, float], dict[str, float]] = {}
    for row in rows:
        entry = largest.setdefault((row["problem"], row["epsilon"]), {"gap": 0.0, "seconds": 0.0})
        for name in entry:
            entry[name] = max(entry[name], row[name])
    lines = [
        (name, f"{epsilon:g}", f"{entry['gap']:.1e}", f"{entry['seconds']:.2f}")
        for (name, epsilon), entry in largest.items()
    ]
    print(table([("problem", "epsilon", "largest saddle gap", "longest fit, seconds"), *lines]))
    checks = []
    for (name, epsilon), entry in largest.items():
        limit = 1e-4 if epsilon == 0.0 and name != "n = 12" else 1e-6
        checks.append(at_most(f"{name}, epsilon {epsilon:g}: saddle gap", entry["gap"], limit))
        allowed = 60.0 if name == f"n = {config.large}" else 2.0
        checks.append(at_most(f"{name}, epsilon {epsilon:g}: seconds", entry["seconds"], allowed))
    write_csv(out / "estimator.csv", rows)
    made = provenance("benchmarks estimator", config)
    write_json(out / "estimator.json", {**made, "rows": rows, "checks": checks})
    return checks
