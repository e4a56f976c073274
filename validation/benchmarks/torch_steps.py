"""What a training step costs on processors: threads, memory format, precision."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from validation.benchmarks.text import cell
from validation.mnist.arms import Arm
from validation.mnist.deblurring import TASK
from validation.mnist.plan import seconds_per_step
from validation.mnist.settings import LAYOUTS, PRESETS
from validation.mnist.settings import Config as Experiment
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
from validation.settings import Settings, setting, without_folders
from validation.side_by_side import side_by_side
from validation.tables import Row

#: The arm whose steps are timed.
ARM = Arm("DRO", "entropic", epsilon=0.08, radius=1.0)


@dataclass(frozen=True)
class Config(Settings):
    """What is timed."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    preset: str = setting("desk", "size of the network and its batches", choices=PRESETS)
    rounds: int = setting(3, "times that every row is timed; the least counts", low=1)


def of_a_process(settings: Experiment) -> float:
    """CPU time of a step, with the threads that this process has."""
    learn = TASK.images.splits(settings).learn
    return seconds_per_step(settings, TASK, ARM, learn, torch.get_num_threads())


def together(config: Config, threads: int, layout: str) -> float:
    """CPU time of a step while as many arms as processors are trained at once, a process each."""
    count = os.cpu_count() or 2
    asked = Experiment(config.preset, config.data, layout=layout)
    return float(np.mean(side_by_side(of_a_process, [asked] * count, count, threads)))


def run(config: Config, out: Path) -> list[Check]:
    """The entropic loss's step at every way of running it; written to `out`."""
    learn = TASK.images.splits(Experiment(config.preset, config.data)).learn
    ways = list(product((1, 2), LAYOUTS, ("float32", "bf16")))
    least: dict[tuple[int, str, str], float] = {}
    for way in progress(ways * config.rounds, "steps"):
        threads, layout, precision = way
        asked = Experiment(config.preset, config.data, layout=layout, precision=precision)
        spent = seconds_per_step(asked, TASK, ARM, learn, threads)
        least[way] = min(spent, least.get(way, spent))
    rows: list[Row] = [
        {"arms at once": 1, "threads": t, "layout": layout, "precision": p, "CPU ms": 1000 * spent}
        for (t, layout, p), spent in least.items()
    ]
    count = os.cpu_count() or 2
    for threads, layout in ((1, "channels-last"), (count, "contiguous")):
        spent = min(together(config, threads, layout) for _ in range(config.rounds))
        rows.append(
            {
                "arms at once": count,
                "threads": threads,
                "layout": layout,
                "precision": "float32",
                "CPU ms": 1000 * spent,
            }
        )
    print(table([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]))
    chosen = least[1, "channels-last", "float32"]
    checks = [
        at_most(
            "one thread, channels-last / contiguous",
            chosen / least[1, "contiguous", "float32"],
            1.0,
        ),
        at_most(
            "CPU time, one thread and channels-last / two threads and contiguous",
            chosen / least[2, "contiguous", "float32"],
            1.0,
        ),
    ]
    checks.append(
        at_least(
            "CPU time of a step, an arm per processor: as torch chooses threads, contiguous / one "
            "thread each, channels-last",
            float(rows[-1]["CPU ms"]) / float(rows[-2]["CPU ms"]),
            2.0,
        )
    )
    write_csv(out / "steps.csv", rows)
    made = provenance("benchmarks steps", without_folders(config))
    size = dataclasses.asdict(PRESETS[config.preset])
    write_json(out / "steps.json", {**made, "size": size, "steps": rows, "checks": checks})
    return checks
