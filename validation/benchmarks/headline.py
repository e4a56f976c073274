"""Ten headline ratios of processor time, kept from run to run and compared.

Each is the time of something here over that of what one would use instead, or over the bare algebra
within it: both in turn in one process, so that the machine and what else runs on it matter little.
Smaller is better. A run is one JSON file: medians, the spread of the repeats, versions and the kind
of machine. ``python -m validation benchmarks compare OLD NEW`` tells two of them apart.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import (
    LinearReconstruction,
    WorstCase,
    entropic_worst_case,
    finite_worst_case,
    fit_linear,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.reference import finite_worst_case_highs, worst_case_risk_sdp
from dro_core.unbalanced import unbalanced_ot
from dro_core.wasserstein import conditional_wasserstein
from validation.benchmarks.core import NAMED
from validation.benchmarks.unbalanced import majorise
from validation.errors import UsageError
from validation.results import Check, at_most, progress, provenance, table, write_json
from validation.settings import Settings, setting
from validation.unbalanced import outlier_problem

#: The run that new ones are checked against, and the factor over its ratios that is too much.
STORED = Path(__file__).parents[2] / "docs" / "results" / "headline" / "headline.json"
FACTOR = 1.5

Action = Callable[[], object]


@dataclass(frozen=True)
class Config(Settings):
    """How often, and at what share of the sizes that are stored."""

    repeats: int = setting(5, "times that every pair is measured", low=2)
    size: float = setting(1.0, "share of the full sizes", above=0.0, high=1.0)
    seed: int = setting(0, "seed")


def pairs(config: Config) -> Iterator[tuple[str, Action, Action]]:
    """(name, ours, the other) of every ratio."""
    import ot

    rng = np.random.default_rng(config.seed)

    def sized(full: int) -> int:
        return max(8, round(config.size * full))

    n, count = sized(256), sized(4000)
    B, x, y = (rng.standard_normal(shape) for shape in ((n, n), (count, n), (count, n)))

    def structures() -> object:
        problem = LinearReconstruction(B, x, y)
        return [problem.worst_case(1.0, name) for name in NAMED]

    def algebra() -> object:
        return (x - y @ B.T) @ np.linalg.eigh(B @ B.T)[1]

    def one() -> WorstCase:
        return worst_case_risk(B, x, y, 1.0)

    yield "three structures / their bare algebra", structures, algebra
    yield "worst case and its certificate / without", lambda: one().verify(), one
    yield "worst cases at 50 radii / one", lambda: _curve(B, x, y), one
    yield "entropic / Wasserstein worst case", lambda: entropic_worst_case(B, x, y, 1.0, 0.1), one
    small, left, right = rng.standard_normal((12, 12)), *rng.standard_normal((2, 60, 12))
    yield (
        "20 worst cases / Clarabel's SDP",
        lambda: [worst_case_risk(small, left, right, 0.5) for _ in range(20)],
        lambda: worst_case_risk_sdp(small, left, right, 0.5),
    )
    loss, cost = rng.standard_normal((sized(200), sized(200))) ** 2, rng.random((sized(200),) * 2)
    np.fill_diagonal(cost, 0.0)
    yield (
        "20 finite supports / HiGHS",
        lambda: [finite_worst_case(loss, cost, 0.1) for _ in range(20)],
        lambda: finite_worst_case_highs(loss, cost, 0.1),
    )
    d = sized(200)
    signals = rng.standard_normal((2 * d, d))
    noisy = signals * 10.0 ** -np.linspace(0, 1, d) + 0.2 * rng.standard_normal(signals.shape)
    moments = noisy.T @ noisy
    yield (
        "fit_linear / ten eigendecompositions",
        lambda: fit_linear(x=signals, y=noisy, radius=0.1 * d**0.5),
        lambda: [np.linalg.eigh(moments) for _ in range(10)],
    )
    label = np.repeat(np.arange(4.0), sized(400) // 4)[:, None]
    points = rng.standard_normal((2, len(label), 3))
    mass = np.full(len(label) // 4, 4 / len(label))
    parts = [slice(k, k + len(mass)) for k in range(0, len(label), len(mass))]
    yield (
        "conditional distance / POT on its parts",
        lambda: conditional_wasserstein(label, points[0], label, points[1]),
        lambda: [ot.emd2(mass, mass, ot.dist(points[0][p], points[1][p])) for p in parts],
    )
    some, many = (outlier_problem(sized(size), 1.0, config.seed) for size in (200, 1000))
    yield (
        "unbalanced plan at 200 / 500 steps of mm_unbalanced",
        lambda: unbalanced_ot(*some),
        lambda: majorise(some, 500),
    )
    yield (
        "unbalanced plan at 1000 / POT's emd2",
        lambda: unbalanced_ot(*many),
        lambda: ot.emd2(many[1], many[2], many[0], numItermax=10**8),
    )


def _curve(B: Any, x: Any, y: Any) -> object:
    return worst_case_curve(B, x, y, np.linspace(0.1, 2.0, 50))


def measured(ours: Action, other: Action, repeats: int) -> dict[str, float]:
    """Median, least and largest of the ratios of processor time, after one that does not count."""
    ratios = []
    for _ in range(repeats + 1):
        spent = []
        for action in (ours, other):
            start, times = time.process_time(), 0
            while times == 0 or time.process_time() - start < 0.05:
                action()
                times += 1
            spent.append((time.process_time() - start) / times)
        ratios.append(spent[0] / spent[1])
    kept = ratios[1:]
    return {"median": statistics.median(kept), "low": min(kept), "high": max(kept)}


def machine() -> str:
    """The kind of machine: architecture, processor, how many of them."""
    listed, model = Path("/proc/cpuinfo"), platform.processor()
    if listed.exists():
        names = [line for line in listed.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{platform.machine()}, {model}, {os.cpu_count()} processors"


def run(config: Config, out: Path) -> list[Check]:
    """All ratios, checked against the stored ones; written to `out` as JSON."""
    ratios = {
        name: measured(ours, other, config.repeats)
        for name, ours, other in progress(list(pairs(config)), "ratios")
    }
    made = provenance("benchmarks headline", config)
    limits = limits_of(STORED, config.size)
    checks = [
        at_most(f"{name}: times the stored ratio", found["median"] / limits[name], FACTOR)
        for name, found in ratios.items()
        if name in limits
    ]
    write_json(
        out / "headline.json", {**made, "machine": machine(), "ratios": ratios, "checks": checks}
    )
    print(table([("ratio", "median"), *((k, f"{row['median']:.3g}") for k, row in ratios.items())]))
    if not checks:
        print(f"nothing is stored at the share {config.size:g} of the sizes: nothing was checked")
    return checks


def limits_of(path: Path, size: float) -> dict[str, float]:
    """The stored medians, none for another size; says so if the machine is of another kind."""
    if not path.exists():
        return {}
    stored = read(path)
    if stored["machine"] != machine():
        print(f"the stored ratios are those of {stored['machine']}; this is {machine()}")
    if stored["size"] != size:
        return {}
    return {name: row["median"] for name, row in stored["ratios"].items()}


def read(path: Path) -> dict[str, Any]:
    """A stored run, or an error that says what the file is not."""
    try:
        found = json.loads(path.read_text())
        ratios = {
            str(name): {key: float(row[key]) for key in ("median", "low", "high")}
            for name, row in found["ratios"].items()
        }
        size = float(found["config"]["size"])
        return {"machine": str(found["machine"]), "size": size, "ratios": ratios}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{path}: not a run of the headline ratios (python -m validation benchmarks headline)"
        ) from None


def compare(arguments: Sequence[str]) -> int:
    """Print what changed between two runs: 1 if a ratio rose, 0 if none did, 2 on misuse.

    A ratio changed if the repeats of the two runs do not overlap.
    """
    try:
        if len(arguments) != 2:
            raise UsageError("benchmarks compare: two files are needed, OLD and NEW")
        old, new = (read(Path(name)) for name in arguments)
        if old["size"] != new["size"]:
            raise UsageError(
                f"{arguments[1]}: measured at the share {new['size']} of the sizes, "
                f"{arguments[0]} at {old['size']}; ratios depend on it"
            )
    except UsageError as error:
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    if old["machine"] != new["machine"]:
        print(f"other machines: {old['machine']}; {new['machine']}")
    rows, rose = [("ratio", "old", "new", "new/old", "")], 0
    for name in {**old["ratios"], **new["ratios"]}:
        before, after = old["ratios"].get(name), new["ratios"].get(name)
        if before is None or after is None:
            shown = ["" if row is None else f"{row['median']:.3g}" for row in (before, after)]
            which = "new" if before is None else "old"
            rows.append((name, *shown, "", f"only in the {which} run"))
            continue
        verdict = "within the spread"
        if after["low"] > before["high"]:
            verdict, rose = "slower", rose + 1
        elif after["high"] < before["low"]:
            verdict = "faster"
        numbers = (before["median"], after["median"], after["median"] / before["median"])
        rows.append((name, *(f"{number:.3g}" for number in numbers), verdict))
    print(table(rows))
    return 1 if rose else 0
