"""The modules of a run: those that are trained, their averages, and what losses get of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dro_torch.models import bare_copy, bare_module, bare_names
from dro_torch.training.phase import Phase
from dro_torch.training.processes import Processes
from dro_torch.training.schedule import ema_decay

State = dict[str, Any]


class Modules:
    """The modules of all phases by name, on the device of the run, the same on all processes.

    Attributes
    ----------
    given, averaged, called : dict
        Those that the user passed in; the averaged copies; what losses get.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        decays: Mapping[str, float],
        compiled: Sequence[str],
        processes: Processes,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self.decays = decays
        self.given = {name: m for phase in phases for name, m in phase.modules.items()}
        for module in self.given.values():
            module.to(processes.device, dtype).zero_grad(set_to_none=True)
            processes.agree(iter([*module.parameters(), *module.buffers()]))
            if channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = {
            name: bare_copy(self.given[name]).requires_grad_(False).eval() for name in decays
        }
        self.called = {
            name: _called(module, name in compiled) for name, module in self.given.items()
        }

    @property
    def evaluated(self) -> dict[str, nn.Module]:
        """The averaged copies where there are, the trained modules otherwise."""
        return {**self.given, **self.averaged}

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode; the averaged copies stay in evaluation mode."""
        for module in self.given.values():
            module.train(mode)

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the averaged copies on, after `step` steps."""
        for name, decay in self.decays.items():
            average, module = self.averaged[name], self.given[name]
            update = get_ema_multi_avg_fn(ema_decay(step, decay))
            update(list(average.parameters()), list(module.parameters()), 0)
            for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
                mine.copy_(theirs)

    def parameters(self) -> Iterator[Tensor]:
        """Every parameter, the averaged ones too, detached."""
        for module in (*self.given.values(), *self.averaged.values()):
            yield from (parameter.detach() for parameter in module.parameters())

    def buffers(self) -> Iterator[Tensor]:
        """The buffers of the trained modules."""
        for module in self.given.values():
            yield from module.buffers()

    def states(self) -> dict[str, dict[str, State]]:
        """The state dicts as a checkpoint holds them."""
        return {
            "modules": {name: state_of(module) for name, module in self.given.items()},
            "averaged": {name: state_of(module) for name, module in self.averaged.items()},
        }

    def load(self, modules: Mapping[str, State], averaged: Mapping[str, State]) -> None:
        """Take the values of a checkpoint."""
        for name, module in self.given.items():
            load_state(module, modules[name])
        for name, module in self.averaged.items():
            load_state(module, averaged[name])


def _called(module: nn.Module, compiled: bool) -> Any:
    """What losses get: compiled if asked for or given, never distributed."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    return torch.compile(module) if compiled and bare_module(module) is module else module


def state_of(module: nn.Module) -> dict[str, Any]:
    """The state dict by the names that it has without wrappers (torch.compile and its kin)."""
    bare: nn.Module = bare_module(module)
    state = bare.state_dict()
    for key, name in bare_names(bare).items():
        if name != key:
            state[name] = state.pop(key)
    return state


def load_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Take the values of `state_of`; the mapping may be changed."""
    bare: nn.Module = bare_module(module)
    for key, name in bare_names(bare).items():
        if name != key and name in state:
            state[key] = state.pop(name)
    bare.load_state_dict(state)
