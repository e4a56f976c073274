"""What an experiment will take: a few steps of every arm, timed on one thread of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch

from dro_torch import data, training
from validation import plan
from validation.mnist.arms import Arm, reconstruction_of, steps_of
from validation.mnist.settings import Config, Precision
from validation.mnist.tasks import Task
from validation.plan import Planned


def seconds_per_step(
    config: Config, task: Task, arm: Arm, learn: data.IndexedDataset, threads: int = 1
) -> float:
    """Time that the processor works on a step, in all threads together."""
    size, before = config.size, torch.get_num_threads()

    def train(steps: int, log: Callable[[object], None]) -> None:
        training.fit(
            reconstruction_of(config, task, arm)[0],
            data.Batches(learn, min(size.batch, len(learn)), config.seed),
            steps,
            seed=config.seed,
            precision=cast(Precision, config.precision),
            channels_last=size.channels_last,
            log=log,
            log_every=1,
            progress=False,
        )

    torch.set_num_threads(threads)
    try:
        return plan.seconds_per_step(train)
    finally:
        torch.set_num_threads(before)


def plan_rows(
    config: Config, task: Task, arms: Sequence[Arm], learn: data.IndexedDataset, trainings: int
) -> list[Planned]:
    """The arms with what they need; arms of one kind and options cost the same per step."""
    known: dict[str, float] = {}
    rows = []
    for arm in arms:
        kind = f"{arm.kind} {arm.structure} {sorted(arm.options.items())}"
        if kind not in known:
            known[kind] = seconds_per_step(config, task, arm, learn)
        steps = steps_of(config.size, arm)
        rows.append(Planned(arm.name, steps, trainings, trainings * steps * known[kind] / 60))
    return rows
