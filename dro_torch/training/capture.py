"""A step recorded once and replayed: the device then waits for no launch of the host.

What a recorded step reads from Python is fixed when it is recorded, so whatever changes from step
to step lies in tensors that keep their place: the batch, the number of the step (the key of the
noise), the learning rates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dro_torch.training.phase import Batch

Answer = TypeVar("Answer")
#: Names and values of a step, from modules, batch, number of the step, and whether to stop.
Advance = Callable[[Mapping[str, Any], Batch, Tensor, Tensor], tuple[list[str], Tensor]]
#: Steps before one is recorded: buffers of optimisers and libraries are made in them.
WARM = 3


class Recorder(Protocol):
    """Runs a function while its kernels are recorded."""

    def warm(self, function: Callable[[], Answer]) -> Answer:
        """Run it as it is, where a recording will run."""

    def record(self, function: Callable[[], Answer]) -> tuple[Answer, Callable[[], object]]:
        """What it returns, whose tensors a replay fills anew, and the replay."""


class CudaGraphs:
    """Recordings as CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm(self, function: Callable[[], Answer]) -> Answer:
        """On a stream of its own."""
        here, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            answer = function()
        here.wait_stream(side)
        return answer

    def record(self, function: Callable[[], Answer]) -> tuple[Answer, Callable[[], object]]:
        """One graph."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(graph):
            answer = function()
        return answer, graph.replay


def recorder_for(
    device: torch.device, processes: int, optimizers: Sequence[torch.optim.Optimizer]
) -> Recorder:
    """What records on a device; or an error that says why nothing can."""
    if device.type != "cuda":
        raise ValueError(f"capture: True on device {device}; allowed on CUDA devices")
    if processes > 1:
        raise ValueError(f"capture: True with {processes} processes; allowed with one")
    for optimizer in optimizers:
        if not all(group.get("capturable") for group in optimizer.param_groups):
            raise ValueError(
                f"capture: True with {type(optimizer).__name__}, which is not capturable; allowed: "
                "the default optimiser, or one made with capturable=True"
            )
    return CudaGraphs(device)


class Recorded:
    """The step of a phase, recorded after `WARM` plain ones."""

    def __init__(
        self, name: str, recorder: Recorder, device: torch.device, advance: Advance
    ) -> None:
        self.name, self.recorder, self.advance = name, recorder, advance
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.stop = torch.zeros((), dtype=torch.float64, device=device)
        self._batch: Batch | None = None
        self._done = 0
        self._replay: Callable[[], object] | None = None
        self._answer: tuple[list[str], Tensor] = [], self.stop

    def __call__(
        self, called: Mapping[str, Any], batch: Batch, step: int, stop: bool
    ) -> tuple[list[str], Tensor]:
        """Names and values of the step with this number."""
        kept = self._placed(batch, step)
        self.step.fill_(step)
        self.stop.fill_(float(stop))

        def function() -> tuple[list[str], Tensor]:
            return self.advance(called, kept, self.step, self.stop)

        self._done += 1
        if self._done <= WARM:
            return self.recorder.warm(function)
        if self._replay is None:
            try:
                self._answer, self._replay = self.recorder.record(function)
            except RuntimeError as error:
                raise ValueError(
                    f"capture: the step of phase {self.name!r} cannot be recorded "
                    f"({str(error).splitlines()[0]}); its loss or data may read values on the "
                    "host, or make shapes that depend on them; allowed: capture=False"
                ) from error
        self._replay()
        names, values = self._answer
        return names, values.clone()

    def _placed(self, batch: Batch, step: int) -> Batch:
        """The batch where the recording reads it."""
        if self._batch is None:
            self._batch = tuple(tensor.clone() for tensor in batch)
            return self._batch
        kinds = [[(t.shape, t.dtype) for t in part] for part in (batch, self._batch)]
        if kinds[0] != kinds[1]:
            given, needed = ([tuple(shape) for shape, _ in kind] for kind in kinds)
            raise ValueError(
                f"capture: the batch of step {step} has shapes {given}, the recorded one {needed}; "
                "all batches must be alike"
            )
        for here, new in zip(self._batch, batch, strict=True):
            here.copy_(new, non_blocking=True)
        return self._batch
