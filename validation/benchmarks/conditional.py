"""Benchmarks of the conditional Wasserstein distance: against POT in a loop and POT on all pairs.

The loop is the shortest one can write: groups already split, uniform weights left to POT, one
`ot.emd(ot.unif, ot.unif, ot.dist)` per group, plans kept. Ours gets the unsplit samples, in random
order where it says so, and returns plan and certificate besides. Ratios are medians of runs taken
in turn.
"""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dro_core.types import Array
from dro_core.wasserstein import conditional_wasserstein
from validation.benchmarks.timing import median_ratio, seconds
from validation.results import (
    Check,
    at_least,
    at_most,
    progress,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    groups: int = setting(100_000, "groups of the large scalar problem", low=1)
    atoms: int = setting(10, "their atoms", low=1)
    looped: int = setting(5000, "groups of the loop that is timed against it", low=1, high="groups")
    runs: int = setting(7, "timed runs per row", low=1)
    seed: int = setting(0, "seed")


@dataclass(frozen=True)
class Grouped:
    """y of both measures by group, and the same samples as the library takes them."""

    groups0: Array
    groups1: Array
    samples: tuple[Array, Array, Array, Array]

    def loop(self, solve: Any, count: int | None = None) -> list[Any]:
        """`solve` for the first `count` groups."""
        return [
            solve(a, b) for a, b in zip(self.groups0[:count], self.groups1[:count], strict=True)
        ]


def grouped(rng: np.random.Generator, groups: int, atoms: int, m: int, shuffle: bool) -> Grouped:
    """Groups of equal size with x in the plane."""
    y0, y1 = rng.standard_normal((2, groups, atoms, m))
    x = np.repeat(rng.standard_normal((groups, 2)), atoms, axis=0)
    orders = [rng.permutation(len(x)) if shuffle else np.arange(len(x)) for _ in range(2)]
    sides = [
        part
        for order, y in zip(orders, (y0, y1), strict=True)
        for part in (x[order], y.reshape(-1, m)[order])
    ]
    return Grouped(y0, y1, (sides[0], sides[1], sides[2], sides[3]))


def by_simplex(y0: Array, y1: Array) -> Any:
    """One group by POT, its plan."""
    import ot

    cost = ot.dist(y0, y1)
    return float((ot.emd(ot.unif(len(y0)), ot.unif(len(y1)), cost) * cost).sum())


def by_quantiles(y0: Array, y1: Array) -> Any:
    """One scalar group by POT's own sorted quantiles (its value only)."""
    import ot

    return float(ot.wasserstein_1d(y0, y1, p=2)[0])


def several_dimensions(config: Config) -> tuple[list[Check], list[dict[str, Any]]]:
    """Vector y: the overhead over the bare loop."""
    rng, checks, rows = np.random.default_rng(config.seed), [], []
    for groups, atoms, m in ((1000, 10, 3), (40, 50, 3), (200, 50, 3), (20, 300, 8)):
        problem = grouped(rng, groups, atoms, m, shuffle=True)
        ours, loop, ratio = median_ratio(
            partial(conditional_wasserstein, *problem.samples),
            partial(problem.loop, by_simplex),
            config.runs * (9 if groups * atoms < 5000 else 1),  # short ones are noisy
        )
        name = f"{groups} groups x {atoms} atoms, m = {m}"
        rows.append({"problem": name, "against": "loop of ot.emd", "ours": ours, "other": loop})
        checks.append(at_most(f"{name}: ours / loop of ot.emd", ratio, 1.3))
    return checks, rows


def joint(config: Config) -> tuple[list[Check], list[dict[str, Any]]]:
    """40 groups x 50 atoms: one relaxed problem of all pairs instead."""
    import ot

    rng, checks, rows = np.random.default_rng(config.seed + 1), [], []
    for m in (1, 3):
        problem = grouped(rng, 40, 50, m, shuffle=True)
        x0, y0, x1, y1 = problem.samples

        def relaxed(x0: Any = x0, y0: Any = y0, x1: Any = x1, y1: Any = y1) -> Any:
            uniform = ot.unif(len(x0))
            cost = 1e3 * ot.dist(x0, x1) + ot.dist(y0, y1)
            return ot.emd(uniform, uniform, cost, numItermax=10**7)

        other, ours, ratio = median_ratio(
            relaxed, partial(conditional_wasserstein, *problem.samples), config.runs
        )
        name = f"40 groups x 50 atoms, m = {m}"
        rows.append(
            {"problem": name, "against": "one ot.emd, beta = 1000", "ours": ours, "other": other}
        )
        checks.append(at_least(f"{name}: one relaxed ot.emd of all pairs / ours", ratio, 10))
    return checks, rows


def scalar(config: Config) -> tuple[list[Check], list[dict[str, Any]]]:
    """Scalar y: loops over the groups against one pass over all.

    The loops get the groups for nothing; ours finds them, in samples that lie group by group as
    the loops' do, or in random order. Few small groups are a matter of fixed costs (1 ms).
    """
    rng, checks, rows = np.random.default_rng(config.seed + 2), [], []
    simplex, quantiles = ("ot.emd", by_simplex), ("ot.wasserstein_1d", by_quantiles)
    for groups, atoms, shuffle, (against, solve), least in (
        (40, 50, False, simplex, 5),
        (40, 50, False, quantiles, 2),
        (1000, 10, False, simplex, 20),
        (1000, 10, False, quantiles, 10),
        (config.looped, config.atoms, False, simplex, 20),
        (config.looped, config.atoms, True, simplex, 10),
        (config.looped, config.atoms, False, quantiles, 10),
    ):
        problem = grouped(rng, groups, atoms, 1, shuffle)
        loop, ours, ratio = median_ratio(
            partial(problem.loop, solve),
            partial(conditional_wasserstein, *problem.samples),
            config.runs,
        )
        name = f"{groups} groups x {atoms} atoms, m = 1{', shuffled' if shuffle else ''}"
        rows.append({"problem": name, "against": f"loop of {against}", "ours": ours, "other": loop})
        checks.append(at_least(f"{name}: loop of {against} / ours", ratio, least))
    return checks, rows


def costs_by_group(problem: Grouped) -> Array:
    """Our costs in the order of the groups (samples in order, so conditions are)."""
    return np.asarray(conditional_wasserstein(*problem.samples).per_condition)


def large(config: Config) -> tuple[list[Check], list[dict[str, Any]]]:
    """All groups in one pass: time, memory, certificate, linear growth."""
    rng = np.random.default_rng(config.seed + 3)
    size = config.groups * config.atoms
    problem = grouped(rng, config.groups, config.atoms, 1, shuffle=True)
    tenth = grouped(rng, max(1, config.groups // 10), config.atoms, 1, shuffle=True)
    small, full, _ = median_ratio(
        partial(conditional_wasserstein, *tenth.samples),
        partial(conditional_wasserstein, *problem.samples),
        3,
    )
    masses = rng.dirichlet(np.ones(config.groups))[:, None]
    shares = rng.random((2, config.groups, config.atoms)) + 0.1
    weights = (masses * shares / shares.sum(axis=2, keepdims=True)).reshape(2, -1)
    samples = grouped(rng, config.groups, config.atoms, 1, shuffle=False).samples
    order = rng.permutation(size)
    unequal = partial(
        conditional_wasserstein,
        *samples[:2],
        *(part[order] for part in samples[2:]),
        weights0=weights[0] / weights[0].sum(),
        weights1=weights[1][order] / weights[1].sum(),
    )
    weighted = seconds(unequal)
    tracemalloc.start()
    found = unequal()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    certificate = found.verify()
    ordered = grouped(rng, config.groups, config.atoms, 1, shuffle=False)
    subset = min(config.looped, config.groups)
    loop = np.array(ordered.loop(by_simplex, subset))
    differences = float(np.abs(costs_by_group(ordered)[:subset] / loop - 1).max())
    name = f"{config.groups} groups x {config.atoms} atoms, m = 1, shuffled"
    rows = [
        {"problem": name, "against": "a tenth of it", "ours": full, "other": small},
        {
            "problem": f"{name}, unequal weights",
            "against": "nothing",
            "ours": weighted,
            "other": None,
        },
    ]
    return [
        at_most(f"{name}: seconds", full, 5.0),
        at_most("the same with unequal weights: seconds", weighted, 5.0),
        at_most(
            "the same: peak bytes of temporaries per atom of both measures", peak / (2 * size), 200
        ),
        at_most("the same: certificate gap", abs(certificate.gap), 1e-12),
        at_least("the same: certified", float(certificate.holds()), 1),
        at_most("time / time of a tenth of the groups", full / small, 20),
        at_most(
            f"costs of {subset} groups against ot.emd: largest relative difference",
            differences,
            1e-9,
        ),
    ], rows


def run(config: Config, out: Path) -> list[Check]:
    """All rows; written to `out` as CSV and JSON."""
    checks: list[Check] = []
    rows: list[dict[str, Any]] = []
    parts = [several_dimensions, joint, scalar, large]
    for part in progress(parts, "benchmarks conditional"):
        found, measured = part(config)
        checks += found
        rows += measured
    lines = [("problem", "against", "ours, ms", "other, ms")]
    for row in rows:
        other = "" if row["other"] is None else f"{1e3 * row['other']:.2f}"
        lines.append((row["problem"], row["against"], f"{1e3 * row['ours']:.2f}", other))
    print(table(lines))
    write_csv(out / "conditional.csv", rows)
    made = provenance("benchmarks conditional", config)
    write_json(out / "conditional.json", {**made, "rows": rows, "checks": checks})
    return checks
