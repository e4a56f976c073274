"""Batches: this process's share of a step, checked, on the device of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dro_torch.training.phase import Batch, Phase
from dro_torch.training.processes import Processes


class Batches(Protocol):
    """Where batches come from: a function of the step, so that a resumed run needs no replay."""

    def batch(self, step: int, rank: int, world_size: int) -> Sequence[Tensor]:
        """This process's share of the global batch of a step: (index, tensor, ...).

        ``index`` (N,) holds global sample indices in int64; entry i of every tensor is sample
        ``index[i]``.
        """


#: Or a function from the step to the *global* batch, of which every process takes its share.
Source = Batches | Callable[[int], Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Batching:
    """Draws the batches of the phases, of which those with one source see the same."""

    sources: Mapping[str, Source]
    processes: Processes
    dtype: torch.dtype
    channels_last: bool

    def batch(self, source: Source, step: int) -> Batch:
        """This process's batch on the device, floating-point entries in the run's precision."""
        rank, size = self.processes.rank, self.processes.size
        own = not callable(getattr(source, "batch", None))
        given = source(step) if own else source.batch(step, rank, size)  # type: ignore[operator, union-attr]
        count = _checked(given, step)
        rows = slice(0, None)
        if own and size > 1:
            if count < size:
                raise ValueError(f"batches: {count} samples in step {step} for {size} processes")
            rows = slice(rank * count // size, (rank + 1) * count // size)
        return tuple(self._placed(tensor[rows]) for tensor in given)

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        tensor = tensor.to(self.processes.device, dtype, non_blocking=True)
        if self.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def _checked(given: Any, step: int) -> int:
    """The number of samples of (index, tensor, ...)."""
    if not isinstance(given, tuple | list) or len(given) < 2:
        raise TypeError(
            f"batches: step {step} gave {type(given).__name__}; needed: a tuple "
            "(index, tensor, ...) with at least one tensor"
        )
    for number, tensor in enumerate(given):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"batches: entry {number} of step {step} is {type(tensor).__name__}; "
                "needed: torch.Tensor"
            )
    index = given[0]
    if index.dtype != torch.int64 or index.ndim != 1 or len(index) == 0:
        raise TypeError(
            f"batches: the index of step {step} has dtype {index.dtype} and shape "
            f"{tuple(index.shape)}; needed: int64 (N,) with N >= 1, the global numbers of the "
            "samples"
        )
    for number, tensor in enumerate(given):
        if tensor.ndim == 0 or len(tensor) != len(index):
            raise ValueError(
                f"batches: entry {number} of step {step} has shape "
                f"{tuple(tensor.shape)}, but there are {len(index)} indices"
            )
    return len(index)


def as_sources(
    batches: Source | Mapping[str, Source], phases: Sequence[Phase]
) -> dict[str, Source]:
    """The source of every phase, by its name."""
    names = [phase.name for phase in phases]
    sources = dict(batches) if isinstance(batches, Mapping) else dict.fromkeys(names, batches)
    if set(sources) != set(names):
        raise ValueError(f"batches: given for {sorted(sources)}; phases: {sorted(names)}")
    for source in sources.values():
        if not callable(source) and not callable(getattr(source, "batch", None)):
            raise TypeError(
                f"batches: {type(source).__name__}; allowed: an object with a method "
                "batch(step, rank, world_size), a function of the step, or one per phase"
            )
    return sources
