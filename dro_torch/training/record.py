"""What a run says: the numbers of its steps, and the one at fault if they are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dro_torch.training.checkpoint import Checkpoints
from dro_torch.training.phase import Phase

#: Devices whose values are read in every step; elsewhere that would wait for the device.
READ_AT_ONCE = ("cpu",)
#: Names that losses must not log under.
RESERVED = ("step", "loss", "stop")
#: Before what a loss refused, in the numbers of a step: zero if it did not.
REFUSED = "refused: "
#: Beginnings of names that losses must not log under.
DERIVED = ("gradient norm", REFUSED)

Row = dict[str, float]


class TrainingDivergedError(RuntimeError):
    """A loss, gradient or parameter is NaN or infinite.

    Attributes
    ----------
    step : int
        The step at which it happened, as the loss sees it (the first is 0).
    multiplier : float or None
        The logged value "multiplier" at that step.
    checkpoint : Path or None
        Last good checkpoint.
    """

    def __init__(
        self, message: str, step: int, multiplier: float | None, checkpoint: Path | None
    ) -> None:
        super().__init__(message)
        self.step, self.multiplier, self.checkpoint = step, multiplier, checkpoint

    def __reduce__(self) -> tuple[type[TrainingDivergedError], tuple[object, ...]]:
        return type(self), (self.args[0], self.step, self.multiplier, self.checkpoint)


class Record:
    """Numbers of the steps, on the device until they are read; rows of history and validation.

    Attributes
    ----------
    stop : bool
        A process got a signal.
    latest : dict
        The newest numbers of every phase.
    """

    def __init__(
        self, phases: Sequence[Phase], device: torch.device, checkpoints: Checkpoints
    ) -> None:
        self.phases, self.device, self.checkpoints = phases, device, checkpoints
        self.stop = False
        self.history: list[Row] = []
        self.validation: list[Row] = []
        self.latest: dict[str, Row] = {}
        self._pending: list[tuple[int, Phase, list[str], Tensor]] = []

    def note(self, step: int, phase: Phase, names: list[str], values: Tensor) -> None:
        """Keep the numbers of a phase; on the CPU they are read at once."""
        self._pending.append((step, phase, names, values))
        if self.device.type in READ_AT_ONCE:
            self.read()

    def read(self) -> None:
        """Fetch the numbers of the steps since the last reading; stop if one is not finite."""
        if not self._pending:
            return
        numbers = iter(torch.cat([vector for *_, vector in self._pending]).tolist())
        pending, self._pending = self._pending, []
        for step, phase, names, _ in pending:
            row = {name: next(numbers) for name in names}
            self.stop |= row.pop("stop") > 0
            refused = {n: row.pop(n) for n in names if n.startswith(REFUSED)}
            self.latest[phase.name] = row
            for name, value in refused.items():
                if value > 0:
                    raise self.diverged(name.removeprefix(REFUSED), step, causes=False)
            for name, value in row.items():
                critical = name == "loss" or name.startswith("gradient norm")
                if critical and not math.isfinite(value):
                    raise self.diverged(f"{name} of phase {phase.name!r} is {value}", step)

    def diverged(self, what: str, step: int, *, causes: bool = True) -> TrainingDivergedError:
        """The error that says what happened where, and which checkpoint is left."""
        rows = [row["multiplier"] for row in self.latest.values() if "multiplier" in row]
        multiplier = rows[-1] if rows else None
        last = "none was written" if self.checkpoints.last is None else str(self.checkpoints.last)
        shown = "" if multiplier is None else f" with multiplier {multiplier:g}"
        likely = (
            ". Likely causes: a learning rate that is too large, a multiplier below its threshold, "
            "a batch that is not finite"
        )
        return TrainingDivergedError(
            f"step {step}: {what}{shown}; last good checkpoint: {last}{likely if causes else ''}",
            step,
            multiplier,
            self.checkpoints.last,
        )

    def add_history(self, step: int) -> Row:
        """A row of history: the latest values, with the phase's name if there are several."""
        self.read()
        several = len(self.phases) > 1
        row: Row = {"step": step} | {
            f"{phase.name} {name}" if several else name: value
            for phase in self.phases
            for name, value in self.latest.get(phase.name, {}).items()
        }
        self.history.append(row)
        return row

    def add_validation(self, step: int, numbers: Mapping[str, float]) -> Row:
        """A row of validation."""
        self.validation.append({"step": step, **numbers})
        return self.validation[-1]

    def restore(self, history: list[Row], validation: list[Row], latest: dict[str, Row]) -> None:
        """Take what a checkpoint holds."""
        self.history, self.validation, self.latest = history, validation, latest


def as_value(value: Tensor | float, device: torch.device) -> Tensor:
    """A number as a 0-d float64 tensor on the device."""
    if isinstance(value, Tensor):
        return value.reshape(()).to(device, torch.float64)
    return torch.full((), float(value), dtype=torch.float64, device=device)


def shown(row: Row) -> dict[str, str]:
    """What the progress bar shows of a row."""
    return {
        name: f"{value:.4g}"
        for name, value in row.items()
        if name != "step" and "gradient norm" not in name
    }
