"""Benchmarks of unbalanced transport: gaps, time against POT and Clarabel, memory.

Ratios are medians of runs taken in turn, in one process.
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core.reference import unbalanced_ot_cvxpy
from dro_core.types import Array
from dro_core.unbalanced import semidual_value, unbalanced_ot
from validation.benchmarks.finite_memory import peak_bytes
from validation.benchmarks.timing import median_ratio, median_seconds, seconds
from validation.errors import UsageError
from validation.results import Check, at_least, at_most, progress, provenance, write_json
from validation.settings import Settings, setting
from validation.unbalanced import objective, outlier_problem


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the benchmarks; the defaults are the figures that are claimed."""

    points: int = setting(200, "points of each measure in the rows about time", low=1)
    large: int = setting(1000, "points in the rows about memory", low=1)
    scales: str = setting("0.01,0.1,0.5,1,2,5", "scales of the cost (tau), comma-separated")
    runs: int = setting(3, "timed runs per row", low=1)
    seed: int = setting(0, "seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(scale > 0 for scale in self.values()):
            raise UsageError(f"--set scales: {self.scales!r}; allowed: positive numbers")

    def values(self) -> list[float]:
        """The scales as numbers."""
        return [float(part) for part in self.scales.split(",")]


def mm_iterations(problem: tuple[Array, Array, Array], value: float, error: float) -> int:
    """Iterations (a multiple of 100) that POT's mm_unbalanced needs to a relative error.

    It has no stopping rule of that kind, so the value has to be known; this search is not timed.
    """
    plan, done = None, 0
    while done < 200_000:
        plan, done = majorise(problem, 100, plan), done + 100
        if objective(plan, *problem) <= value * (1 + error):
            break
    return done


def majorise(problem: tuple[Array, Array, Array], iterations: int, start: Any = None) -> Any:
    """POT's mm_unbalanced, from a plan or from its own start."""
    import ot

    cost, a, b = problem
    return ot.unbalanced.mm_unbalanced(
        a, b, cost, 1.0, div="kl", G0=start, numItermax=iterations, stopThr=0.0
    )


def rows_of_time(config: Config) -> list[dict[str, Any]]:
    """Every scale: gap, semi-dual, ratios to mm_unbalanced and Clarabel, difference from it."""
    rows = []
    for scale in progress(config.values(), "scales"):
        problem = outlier_problem(config.points, scale, config.seed)
        found = unbalanced_ot(*problem)
        certificate = found.verify()

        def ours(problem: Any = problem) -> Any:
            return unbalanced_ot(*problem)

        count = mm_iterations(problem, found.value, 1e-5)

        def theirs(problem: Any = problem, count: int = count) -> Any:
            return majorise(problem, count)

        row = {
            "scale": scale,
            "mass": found.mass,
            "gap": certificate.gap if certificate.holds() else math.inf,
            "semidual": abs(semidual_value(found.potentials[1], *problem) / found.value - 1),
            "steps": found.steps,
            "seconds": median_seconds(ours, config.runs),
            "mm_iterations": count,
            "mm_seconds": seconds(theirs),
        }
        row["mm_ratio"] = row["mm_seconds"] / row["seconds"]
        row |= clarabel(problem, found.value, config.runs)
        rows.append(row)
        print(
            f"scale {scale}: mass {row['mass']:.3f}, gap {row['gap']:.1e}, {row['seconds']:.3f} s; "
            f"mm_unbalanced to 1e-5 {row['mm_ratio']:.1f} times that ({row['mm_iterations']} "
            f"iterations, {row['mm_seconds']:.2f} s); "
            f"Clarabel {row['clarabel_seconds']:.2f} s, difference {row['clarabel_error']:.1e}"
        )
    return rows


def clarabel(problem: Any, value: float, runs: int) -> dict[str, float]:
    """Ratio of times and relative difference (NaN where Clarabel finds no optimum)."""
    found = math.nan

    def programme() -> None:
        nonlocal found
        try:
            found = unbalanced_ot_cvxpy(*problem).value
        except RuntimeError:
            found = math.nan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, slow, ratio = median_ratio(lambda: unbalanced_ot(*problem), programme, runs)
    error = abs(found / value - 1)
    return {"clarabel_seconds": slow, "clarabel_ratio": 1 / ratio, "clarabel_error": error}


def large_row(config: Config) -> dict[str, float]:
    """One large problem in a process of its own: gap, seconds, memory over the cost matrix."""
    import json

    command = [
        sys.executable,
        "-m",
        "validation.benchmarks.unbalanced",
        str(config.large),
        str(config.seed),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    return dict(json.loads(done.stdout))


def main(points: int, seed: int) -> None:
    """Solve and print JSON; memory counts the cost matrix and all that was added after it."""
    import json
    import time

    import ot  # noqa: F401  (its import is not memory of the solver)

    small = outlier_problem(50, 1.0, seed)
    unbalanced_ot(*small)
    worst = {"gap": 0.0, "seconds": 0.0, "memory_over_cost": 0.0}
    for scale in (0.01, 1.0, 5.0):
        problem = outlier_problem(points, scale, seed)
        before = resident_bytes()
        start = time.perf_counter()
        found = unbalanced_ot(*problem)
        elapsed = time.perf_counter() - start
        size = problem[0].nbytes
        used = (peak_bytes() - before) / size + 1
        gap = found.verify().gap if found.verify().holds() else math.inf
        for name, value in (("gap", gap), ("seconds", elapsed), ("memory_over_cost", used)):
            worst[name] = max(worst[name], value)
    print(json.dumps(worst))


def resident_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_bytes()
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def run(config: Config, out: Path) -> list[Check]:
    """All rows; written to `out` as JSON."""
    rows = rows_of_time(config)
    print(f"{config.large} x {config.large}, one process: running ...")
    large = large_row(config)
    print(
        f"  {large['seconds']:.1f} s, gap {large['gap']:.1e}, memory "
        f"{large['memory_over_cost']:.1f} times the cost matrix"
    )
    for row in rows:
        if row["mm_ratio"] < 5:
            print(f"  less than 5 times faster than mm_unbalanced at scale {row['scale']}")
    solved = [row for row in rows if row["clarabel_error"] <= 1e-6]
    n = config.points
    checks = [
        at_most(f"{n} x {n}, 5 % outliers, all scales: gap", _worst(rows, "gap"), 1e-9),
        at_most(
            "semi-dual at the returned potential against the value", _worst(rows, "semidual"), 1e-10
        ),
        at_least(
            "mm_unbalanced to 1e-5, all scales together: times faster",
            sum(r["mm_seconds"] for r in rows) / sum(r["seconds"] for r in rows),
            5.0,
        ),
        at_least(
            "mm_unbalanced to 1e-5, least favourable scale: times faster",
            min(r["mm_ratio"] for r in rows),
            5.0,
        ),
        at_least("Clarabel's dual where it converges: cases", len(solved), 1),
        at_least(
            "Clarabel's dual where it converges: times faster",
            min((r["clarabel_ratio"] for r in solved), default=math.nan),
            2.0,
        ),
        at_most(
            "Clarabel's dual where it converges: relative difference",
            _worst(solved, "clarabel_error"),
            1e-8,
        ),
        at_least(
            "cases where Clarabel's dual does not reach 1e-6, solved",
            sum(r["gap"] <= 1e-9 for r in rows if r not in solved),
            len(rows) - len(solved),
        ),
        at_most(f"{config.large} x {config.large}: gap", large["gap"], 1e-7),
        at_most(
            f"{config.large} x {config.large}: memory over the cost matrix",
            large["memory_over_cost"],
            10.0,
        ),
    ]
    made = provenance("benchmarks unbalanced", config)
    write_json(
        out / "unbalanced.json",
        {
            **made,
            "rows": rows,
            "large": large,
            "checks": checks,
            "holds": [c.holds for c in checks],
        },
    )
    return checks


def _worst(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.max([row[name] for row in rows])) if rows else math.nan


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
