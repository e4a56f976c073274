"""Benchmarks of Wasserstein MMSE estimators, with certificates, against Frank-Wolfe.

Independent signal and noise with a Wasserstein ball each, as in the experiments that its authors
publish: eigenvalues of the nominal covariances uniform in [1, 5] and [1, 2], random eigenvectors,
radii sqrt(d), d = 10 ... 1000, Frank-Wolfe to a relative gap of 1e-3. The joint rows have one ball
of that radius around the law of (x, y), as in the Kalman filter (`fit_linear`, structure joint).
Processor times of one run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import fit_linear, wasserstein_mmse
from dro_core.reference import joint_mmse_frank_wolfe, wasserstein_mmse_frank_wolfe
from dro_core.types import Array
from validation.benchmarks.text import cell
from validation.results import Check, at_most, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting

SIZES = (10, 30, 100, 300, 1000)


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    largest: int = setting(1000, "largest dimension d", low=10)
    tolerance: float = setting(1e-9, "relative saddle gap of ours", above=0.0)
    reference: float = setting(1e-3, "relative gap of Frank-Wolfe", above=0.0)
    seed: int = setting(0, "seed", low=0)


def moments(rng: np.random.Generator, d: int, highest: float) -> Array:
    """A covariance with eigenvalues uniform in [1, highest] in a random basis."""
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return np.asarray((basis * rng.uniform(1.0, highest, d)) @ basis.T)


def compared(config: Config, d: int) -> dict[str, Any]:
    """One dimension: values, gaps and processor times of both."""
    rng = np.random.default_rng([config.seed, d])
    A = rng.standard_normal((d, d)) / math.sqrt(d)
    problem = A, moments(rng, d, 5.0), moments(rng, d, 2.0), math.sqrt(d), math.sqrt(d)
    start = time.process_time()
    ours = wasserstein_mmse(*problem, tolerance=config.tolerance)
    middle = time.process_time()
    theirs = wasserstein_mmse_frank_wolfe(*problem, tolerance=config.reference)
    end = time.process_time()
    return {
        "d": d,
        "risk": ours.risk,
        "gap": ours.gap,
        "evaluations": ours.evaluations,
        "seconds": middle - start,
        "Frank-Wolfe below": 1.0 - theirs.value / ours.risk,
        "Frank-Wolfe gap": theirs.gap / theirs.value,
        "Frank-Wolfe iterations": theirs.iterations,
        "Frank-Wolfe seconds": end - middle,
    }


def compared_jointly(config: Config, d: int) -> dict[str, Any]:
    """The same with one ball around the joint law; ours from 2d rows with its second moments."""
    rng = np.random.default_rng([config.seed, d])
    A, signal = rng.standard_normal((d, d)) / math.sqrt(d), moments(rng, d, 5.0)
    cross = signal @ A.T
    joint = np.block([[signal, cross], [cross.T, A @ cross + moments(rng, d, 2.0)]])
    rows, radius = math.sqrt(2 * d) * np.linalg.cholesky(joint).T, math.sqrt(d)
    start = time.process_time()
    ours = fit_linear(x=rows[:, :d], y=rows[:, d:], radius=radius, structure="joint")
    middle = time.process_time()
    theirs = joint_mmse_frank_wolfe(joint, d, radius, tolerance=config.reference)
    end = time.process_time()
    return {
        "d": d,
        "risk": ours.risk,
        "gap": ours.gap,
        "seconds": middle - start,
        "Frank-Wolfe below": 1.0 - theirs.value / ours.risk,
        "Frank-Wolfe gap": theirs.gap / theirs.value,
        "Frank-Wolfe iterations": theirs.iterations,
        "Frank-Wolfe seconds": end - middle,
    }


def run(config: Config, out: Path) -> list[Check]:
    """All dimensions; written to `out`."""
    sizes = [d for d in SIZES if d <= config.largest]
    rows = [compared(config, d) for d in progress(sizes, "dimensions")]
    print(table([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]))
    checks = [
        at_most("saddle gap", max(row["gap"] for row in rows), config.tolerance),
        at_most(
            "Frank-Wolfe's value below ours, in its own gap",
            max(row["Frank-Wolfe below"] / row["Frank-Wolfe gap"] for row in rows),
            1.0 + 1e-6,
        ),
        at_most(
            "Frank-Wolfe's value above ours, relatively",
            max(-row["Frank-Wolfe below"] for row in rows),
            1e-9,
        ),
    ]
    joint = [compared_jointly(config, d) for d in progress(sizes, "joint")]
    print(table([list(joint[0]), *([cell(value) for value in row.values()] for row in joint)]))
    checks += [
        at_most("joint: saddle gap", max(row["gap"] for row in joint), 1e-9),
        at_most(
            "joint: Frank-Wolfe's value below ours, in its own gap",
            max(row["Frank-Wolfe below"] / row["Frank-Wolfe gap"] for row in joint),
            1.0 + 1e-6,
        ),
    ]
    write_csv(out / "mmse.csv", rows)
    write_csv(out / "mmse_joint.csv", joint)
    made = provenance("benchmarks mmse", config)
    write_json(out / "mmse.json", {**made, "rows": rows, "joint": joint, "checks": checks})
    return checks
