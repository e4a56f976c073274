"""What the projector costs: its share of a training step, for every kind of loss."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import nn

from dro_torch import data, training
from dro_torch.tomography import FanBeamFBP, FanBeamProjector
from validation.mnist.arms import Arm, reconstruction_of
from validation.mnist.settings import Config
from validation.mnist.tasks import Task
from validation.tables import Row

#: Steps before the clock starts, and with it.
WARM, TIMED = 1, 3


class Stopwatch:
    """Processor seconds that modules work, forwards and backwards."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.seconds, self._start = 0.0, 0.0
        self._handles = [
            handle
            for module in modules
            for handle in (
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end),
                module.register_full_backward_pre_hook(self._begin),
                module.register_full_backward_hook(self._end),
            )
        ]

    def _begin(self, *_: object) -> None:
        self._start = time.process_time()

    def _end(self, *_: object) -> None:
        self.seconds += time.process_time() - self._start

    def remove(self) -> None:
        """Leave the modules alone from now on."""
        for handle in self._handles:
            handle.remove()


def projector_share(config: Config, task: Task, arm: Arm, learn: data.IndexedDataset) -> Row:
    """Processor seconds of a step of an arm, and the share of projection and back-projection."""
    phase, _ = reconstruction_of(config, task, arm)
    model = phase.modules["model"]
    kinds = (FanBeamProjector, FanBeamFBP)
    watched = [m for part in (task.forward, model) for m in part.modules() if isinstance(m, kinds)]
    index, images = learn[torch.arange(min(config.size.batch, len(learn)))]
    watch, before = Stopwatch(watched), 0.0
    try:
        for step in range(WARM + TIMED):
            if step == WARM:
                watch.seconds, before = 0.0, time.process_time()
            context = training.StepContext(config.seed, step, index, torch.device("cpu"))
            value, _ = phase.loss(phase.modules, (images,), context)
            value.backward()
        spent = time.process_time() - before
    finally:
        watch.remove()
    return {
        "arm": arm.name,
        "cpu_seconds_per_step": spent / TIMED,
        "projector_share": watch.seconds / spent,
    }
