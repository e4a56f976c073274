"""What an experiment will take: a few steps of every arm, timed on one thread of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from dro_torch import data, training
from validation.mnist.arms import Arm, reconstruction_of, steps_of
from validation.mnist.settings import Config, Precision
from validation.mnist.tasks import Task
from validation.results import table

#: Steps before the clock starts, and with it.
WARM, TIMED = 3, 7


@dataclass(frozen=True)
class Planned:
    """One arm: how often it is trained, for how long."""

    arm: str
    steps: int
    trainings: int
    minutes: float  #: of one core, all trainings together


def seconds_per_step(
    config: Config, task: Task, arm: Arm, learn: data.IndexedDataset, threads: int = 1
) -> float:
    """Time that the processor works on a step, in all threads together."""
    size, before = config.size, torch.get_num_threads()
    clock: list[float] = []
    torch.set_num_threads(threads)
    try:
        training.fit(
            reconstruction_of(config, task, arm)[0],
            data.Batches(learn, min(size.batch, len(learn)), config.seed),
            WARM + TIMED,
            seed=config.seed,
            precision=cast(Precision, config.precision),
            channels_last=size.channels_last,
            log=lambda row: clock.append(time.process_time()),
            log_every=1,
            progress=False,
        )
    finally:
        torch.set_num_threads(before)
    return float(np.median(np.diff(clock[WARM - 1 :])))


def plan_rows(
    config: Config, task: Task, arms: Sequence[Arm], learn: data.IndexedDataset, trainings: int
) -> list[Planned]:
    """The arms with what they need; arms of one kind and options cost the same per step."""
    known: dict[str, float] = {}
    rows = []
    for arm in arms:
        kind = f"{arm.kind} {sorted(arm.options.items())}"
        if kind not in known:
            known[kind] = seconds_per_step(config, task, arm, learn)
        steps = steps_of(config.size, arm)
        rows.append(Planned(arm.name, steps, trainings, trainings * steps * known[kind] / 60))
    return rows


def plan_table(rows: Sequence[Planned], jobs: int) -> str:
    """The plan in words."""
    shown = [("arm", "steps", "trainings", "minutes of one core")]
    shown += [(r.arm, str(r.steps), str(r.trainings), f"{r.minutes:.1f}") for r in rows]
    total = sum(row.minutes for row in rows)
    return f"{table(shown)}\n\n{total:.0f} minutes of one core, {total / jobs:.0f} with {jobs}"
