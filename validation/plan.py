"""What an experiment will take, and what it took: processor minutes of every arm.

The plan times a few steps of every kind of arm on one thread of this machine; what was spent is
kept beside the checkpoints (`validation.trainings`). Both are published with the results.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from validation.results import table, write_json
from validation.tables import Row

#: Steps before the clock starts, and with it.
WARM, TIMED = 3, 7
#: File in the folder of an experiment with the plan that was made before it ran.
PLAN = "plan.json"


@dataclass(frozen=True)
class Planned:
    """One arm: how often it is trained, for how long."""

    arm: str
    steps: int
    trainings: int
    minutes: float  #: of one core, all trainings together


def seconds_per_step(train: Callable[[int, Callable[[object], None]], object]) -> float:
    """Time that the processor works on a step, in all threads together: the median.

    `train` makes so many steps and calls what it is given after each.
    """
    clock: list[float] = []
    train(WARM + TIMED, lambda row: clock.append(time.process_time()))
    return float(np.median(np.diff(clock[WARM - 1 :])))


def plan_table(rows: Sequence[Planned], jobs: int) -> str:
    """The plan in words."""
    shown = [("arm", "steps", "trainings", "minutes of one core")]
    shown += [(r.arm, str(r.steps), str(r.trainings), f"{r.minutes:.1f}") for r in rows]
    total = sum(row.minutes for row in rows)
    return f"{table(shown)}\n\n{total:.0f} minutes of one core, {total / jobs:.0f} with {jobs}"


def kept_plan(
    folder: Path, settings: object, make: Callable[[], Sequence[Planned]]
) -> list[Planned]:
    """The plan that was made for these settings before anything was trained, or a new one."""
    path, words = folder / PLAN, str(settings)
    if path.exists():
        found = json.loads(path.read_text())
        if found["settings"] == words:
            return [Planned(**row) for row in found["arms"]]
    rows = list(make())
    if rows:
        write_json(path, {"settings": words, "arms": rows})
    return rows


def costs(plan: Sequence[Planned], minutes: Mapping[str, float]) -> list[Row]:
    """Every planned arm with the minutes that it took; NaN where they were not recorded."""
    rows: list[Row] = []
    for row in plan:
        planned = {**dataclasses.asdict(row), "planned_minutes": row.minutes}
        rows.append({**planned, "minutes": minutes.get(row.arm, math.nan)})
    return rows


def compared(rows: Sequence[Mapping[str, float | str]]) -> tuple[float, float]:
    """Planned minutes and those that were taken, of the arms that have both."""
    pairs = [(float(row["planned_minutes"]), float(row["minutes"])) for row in rows]
    known = [pair for pair in pairs if math.isfinite(pair[1])]
    return sum(one for one, _ in known), sum(other for _, other in known)
