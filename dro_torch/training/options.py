"""The settings of a run: they check themselves, and each other, when they are made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from dro_core.checks import (
    as_count,
    as_non_negative,
    as_positive_integer,
    check_option,
    unknown,
)
from dro_torch.host import CHECKS, Checks
from dro_torch.training.best import Goal, as_goal
from dro_torch.training.phase import PerModule, Phase, trained_parameters
from dro_torch.training.schedule import Schedule

PRECISIONS = {"float32": torch.float32, "bf16": torch.float32, "float64": torch.float64}
RESUME = ("auto", "never", "must")

Precision = Literal["float32", "bf16", "float64"]
Resume = Literal["auto", "never", "must"]
#: From the modules to the numbers of a row of validation.
Validate = Callable[[Mapping[str, Any]], Mapping[str, float]]


class FitOptions(TypedDict, total=False):
    """Arguments of `fit` that whoever calls it for the user passes on."""

    precision: Precision
    schedule: Literal["cosine", "constant"]
    warmup: int
    final_rate: float
    checkpoint_every: int
    resume: Resume
    extend: bool
    log: Callable[[dict[str, float]], None] | None
    log_every: int
    progress: bool
    checks: Checks
    compile: bool | Sequence[str]
    channels_last: bool
    best: Goal | None
    patience: int | None


@dataclass(frozen=True, eq=False)
class Options:
    """What `fit` is told that concerns the run and not its modules."""

    schedule: Schedule
    seed: int
    precision: Precision
    resume: Resume
    extend: bool
    checkpoint_every: int
    log_every: int
    validate: Validate | None
    validate_every: int | None
    log: Callable[[dict[str, float]], None] | None
    progress: bool
    channels_last: bool
    checks: Checks
    capture: bool
    best: Goal | None
    patience: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", as_count(self.seed, "seed"))
        check_option(self.precision, "precision", PRECISIONS)
        check_option(self.checks, "checks", CHECKS)
        if self.resume not in RESUME:
            raise ValueError(unknown("resume", self.resume, RESUME))
        if not isinstance(self.capture, bool):
            raise TypeError(f"capture: {self.capture!r}; allowed: True or False")
        if self.capture and self.checks == "always":
            raise ValueError("capture: True, but checks='always' reads values in every step")
        if not isinstance(self.extend, bool):
            raise TypeError(f"extend: {self.extend!r}; allowed: True or False")
        if self.extend and self.resume == "never":
            raise ValueError("extend: True, but resume='never' goes on from no checkpoint")
        for name in ("checkpoint_every", "log_every"):
            object.__setattr__(self, name, as_positive_integer(getattr(self, name), name))
        for name in ("validate", "log"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"{name}: {type(function).__name__} is not callable")
        object.__setattr__(self, "best", as_goal(self.best))
        if self.best is not None and self.validate is None:
            raise ValueError("best: given without validate")
        if self.patience is not None:
            object.__setattr__(self, "patience", as_positive_integer(self.patience, "patience"))
            if self.best is None:
                raise ValueError("patience: given without best")
        if self.validate_every is not None:
            every = as_positive_integer(self.validate_every, "validate_every")
            object.__setattr__(self, "validate_every", every)
            if self.validate is None:
                raise ValueError("validate_every: given without validate")

    @property
    def steps(self) -> int:
        """Iterations in all."""
        return self.schedule.steps

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and batches."""
        return PRECISIONS[self.precision]

    def logs_after(self, step: int) -> bool:
        """Whether a row of history is due after so many steps."""
        return step == self.steps or step % self.log_every == 0

    def validates_after(self, step: int) -> bool:
        """Whether a validation is due after so many steps."""
        every = self.validate_every
        due = step == self.steps or (every is not None and step % every == 0)
        return self.validate is not None and due

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint is due after so many steps."""
        return step == self.steps or step % self.checkpoint_every == 0


def as_decays(ema: PerModule | None, phases: Sequence[Phase]) -> dict[str, float]:
    """The largest decay of every module whose parameters are averaged."""
    names = [name for phase in phases for name in trained_parameters(phase.modules)]
    if ema is None:
        return {}
    decays = dict(ema) if isinstance(ema, Mapping) else dict.fromkeys(names, ema)
    for name, decay in decays.items():
        if name not in names:
            raise ValueError(unknown("ema", name, names))
        if as_non_negative(decay, "ema", "a number in [0, 1)") >= 1:
            raise ValueError(f"ema: {decay}; allowed: a number in [0, 1)")
    return decays


def as_compiled(compile: bool | Sequence[str], phases: Sequence[Phase]) -> list[str]:
    """Names of the modules that losses get compiled."""
    names = list(dict.fromkeys(name for phase in phases for name in phase.modules))
    compiled = names if compile is True else list(compile or ())
    for name in compiled:
        if name not in names:
            raise ValueError(unknown("compile", name, names))
    return compiled


def as_device(device: str | torch.device) -> torch.device:
    """A device that is there."""
    try:
        result = torch.device(device)
        torch.empty(0, device=result)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: {device!r} is not available here ({reason})") from None
    return result


def as_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """A folder that can be written; it is made if it is not there."""
    if folder is None:
        return None
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # a name of its own: processes share the folder
            pass
    except OSError as error:
        raise ValueError(f"folder: {path} cannot be written ({error})") from None
    return path
