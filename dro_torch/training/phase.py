"""A phase: one optimiser step per iteration on the modules that it owns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar

Batch = tuple[Tensor, ...]
Values = Mapping[str, "Tensor | float"]
PerModule = float | Mapping[str, float]
#: What torch's optimisers take: "params", "lr", "weight_decay" and the module's "name".
ParameterGroup = dict[str, Any]


@dataclass(frozen=True)
class StepContext:
    """What a loss gets to know besides modules and batch.

    Parameters
    ----------
    seed, step : int
        Seed of the run and number of the iteration, from 0: in a recorded step (``capture``) a 0-d
        int64 tensor, which the noise of this package takes as well.
    index : (N,) int64 tensor
        Global indices of the samples of this batch; with seed and step the key of their noise.
    device : torch.device
    rank, world_size : int
        Number of this process, and how many there are.
    """

    seed: int
    step: int | Tensor
    index: Tensor
    device: torch.device
    rank: int = 0
    world_size: int = 1


Loss = Callable[[Mapping[str, Any], Batch, StepContext], "Tensor | tuple[Tensor, Values]"]


@dataclass(frozen=True, eq=False)
class Phase:
    r"""One optimiser step per iteration: a loss, and the modules that it trains.

    Parameters
    ----------
    name : str
    modules : mapping of str to nn.Module
        What is trained, multiplier included. A module without trainable parameters (a loss that
        keeps a running mean) is moved, saved and restored only, and may belong to several phases.
    loss : callable ``(modules, batch, context)``
        Gets the modules of *all* phases, the tensors of the batch without the index, and a
        `StepContext`. Returns the scalar to minimise, or that and a mapping of numbers to log;
        0-d tensors stay on the device until they are shown. It should be a mean over the samples
        (plus terms that do not depend on them): then micro-batches and processes do not change it.
    rate, weight_decay : float or mapping of module name to float
        Largest learning rate, and decoupled weight decay.
    gradient_clip : float or mapping of module name to float, optional
        Largest Euclidean norm of the gradient of each module, each on its own: the multiplier's
        gradient has its own scale.
    betas : (float, float)
        Of the default optimiser, Adam.
    optimizer : callable, optional
        From parameter groups (``params``, ``lr``, ``weight_decay``, ``name``) to an optimiser. One
        that returns the same object again keeps its moments from one `fit` to the next.
    every : int
        The phase takes part in steps 0, `every`, 2 `every`, ...
    micro_batches : int
        Parts into which a batch is cut to save memory; their gradients are accumulated.

    Raises
    ------
    ValueError, TypeError
        For bad arguments, no trainable parameter, or complex ones.
    """

    name: str
    modules: Mapping[str, nn.Module]
    loss: Loss
    rate: PerModule = 1e-3
    weight_decay: PerModule = 0.0
    gradient_clip: PerModule | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    optimizer: Callable[[list[ParameterGroup]], torch.optim.Optimizer] | None = None
    every: int = 1
    micro_batches: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name: {self.name!r}; allowed: a non-empty string")
        where = f"phase {self.name!r}: "
        if not isinstance(self.modules, Mapping) or not self.modules:
            raise TypeError(
                f"{where}modules: {type(self.modules).__name__}; allowed: a non-empty mapping of "
                "names to nn.Module"
            )
        for name, module in self.modules.items():
            if not isinstance(module, nn.Module):
                raise TypeError(f"{where}modules[{name!r}]: {type(module).__name__} is no Module")
            if any(parameter.is_complex() for parameter in module.parameters()):
                raise TypeError(f"{where}modules[{name!r}]: complex parameters are not supported")
        if not trained_parameters(self.modules):
            raise ValueError(f"{where}modules: no trainable parameter in {list(self.modules)}")
        for name in ("loss", "optimizer"):
            value = getattr(self, name)
            if not callable(value) and (name, value) != ("optimizer", None):
                raise TypeError(f"{where}{name}: {type(value).__name__} is not callable")
        if len(self.betas) != 2 or not all(
            0 <= as_scalar(b, "betas", "[0, 1)") < 1 for b in self.betas
        ):
            raise ValueError(f"{where}betas: {self.betas!r}; allowed: two numbers in [0, 1)")
        for name in ("every", "micro_batches"):
            as_positive_integer(getattr(self, name), f"{where}{name}")
        for name in ("rate", "weight_decay", "gradient_clip"):
            per_module(self, name)


class PhaseOptions(TypedDict, total=False):
    """The arguments of a `Phase` that have a default."""

    rate: PerModule
    weight_decay: PerModule
    gradient_clip: PerModule | None
    betas: tuple[float, float]
    optimizer: Callable[[list[ParameterGroup]], torch.optim.Optimizer] | None
    every: int
    micro_batches: int


def trained_parameters(modules: Mapping[str, nn.Module]) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of the modules that have some."""
    found = {
        name: [p for p in module.parameters() if p.requires_grad]
        for name, module in modules.items()
    }
    return {name: parameters for name, parameters in found.items() if parameters}


def per_module(phase: Phase, argument: str) -> dict[str, float]:
    """A setting of every trained module; the gradient clip may be infinite."""
    value, names = getattr(phase, argument), list(trained_parameters(phase.modules))
    label = f"phase {phase.name!r}: {argument}"
    if argument == "gradient_clip" and value is None:
        return dict.fromkeys(names, math.inf)
    if not isinstance(value, Mapping):
        value = dict.fromkeys(names, value)
    elif argument == "gradient_clip":
        value = {**dict.fromkeys(names, math.inf), **value}
    if set(value) != set(names):
        raise ValueError(f"{label}: given for {sorted(value)}; trained modules: {sorted(names)}")
    for name, number in value.items():
        if argument == "gradient_clip" and number == math.inf:
            continue
        if as_non_negative(number, f"{label} of {name!r}") == 0 and argument != "weight_decay":
            raise ValueError(f"{label} of {name!r}: 0; allowed: a number > 0")
    return {name: float(value[name]) for name in names}


def build_optimizer(phase: Phase) -> torch.optim.Optimizer:
    """The optimiser of a phase, with one group of parameters per module."""
    rates, decays = per_module(phase, "rate"), per_module(phase, "weight_decay")
    trained = trained_parameters(phase.modules)
    groups = [
        {"params": parameters, "lr": rates[name], "weight_decay": decays[name], "name": name}
        for name, parameters in trained.items()
    ]
    if phase.optimizer is None:
        # on an accelerator one kernel for all parameters, and no step count that the host reads
        there = all(p.device.type == "cuda" for group in trained.values() for p in group)
        fast = {"fused": True, "capturable": True} if there else {}
        return torch.optim.AdamW(groups, betas=phase.betas, **fast)
    optimizer = phase.optimizer(groups)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if held != {id(p) for parameters in trained.values() for p in parameters}:
        raise ValueError(
            f"phase {phase.name!r}: optimizer: it must hold exactly the trainable parameters "
            f"of {list(trained)}, no more and no fewer"
        )
    return optimizer


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take the moments of a checkpoint; how a step is computed stays as it is on this device."""
    own = ("fused", "capturable", "foreach", "lr")  # rates are set in every step
    kept = [{name: g[name] for name in own if name in g} for g in optimizer.param_groups]
    saved = zip(state["param_groups"], kept, strict=True)
    optimizer.load_state_dict({**state, "param_groups": [{**g, **mine} for g, mine in saved]})


def describe(phase: Phase) -> dict[str, object]:
    """Plain values that a resumed run must share."""
    return {
        "rate": per_module(phase, "rate"),
        "weight_decay": per_module(phase, "weight_decay"),
        "gradient_clip": per_module(phase, "gradient_clip"),
        "betas": [float(b) for b in phase.betas],
        "optimizer": "default" if phase.optimizer is None else "given",
        "every": phase.every,
        "micro_batches": phase.micro_batches,
    }


def check_phases(phases: Phase | Sequence[Phase]) -> list[Phase]:
    """The phases as a list, with distinct names, whose modules and parameters do not collide."""
    listed = list(phases) if isinstance(phases, Sequence) else [phases]
    if not listed:
        raise ValueError("phases: none given; at least one is needed")
    owner: dict[int, str] = {}
    modules: dict[str, nn.Module] = {}
    for phase in listed:
        if not isinstance(phase, Phase):
            raise TypeError(f"phases: {type(phase).__name__}; allowed: Phase or a list of them")
        for name, module in phase.modules.items():
            if modules.setdefault(name, module) is not module:
                raise ValueError(f"phases: two modules are called {name!r}")
        for name, parameters in trained_parameters(phase.modules).items():
            for parameter in parameters:
                here = f"module {name!r} of phase {phase.name!r}"
                other = owner.setdefault(id(parameter), here)
                if other != here:
                    raise ValueError(
                        f"phases: {here} and {other} share a parameter; every parameter belongs "
                        "to one of them"
                    )
    names = [phase.name for phase in listed]
    if len(set(names)) < len(names):
        raise ValueError(f"phases: names {names} are not distinct")
    return listed
