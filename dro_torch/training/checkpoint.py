"""Checkpoints: one file with a check sum per entry, the one before it, and no code in either."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
import torch
from torch import Tensor

from dro_torch.training.best import BestState
from dro_torch.training.processes import Processes

#: Names of the files in a run's folder.
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"
FORMAT = "dro_torch.training 1"
#: Where a run whose rates know their last step keeps it.
_STEPS = "config.rates.steps"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written, or that belongs to another run."""


#: What `torch.load` reads without running code.
Plain = None | str | int | float | list["Plain"] | dict[str, "Plain"]


class RunState(TypedDict):
    """What a run puts into a checkpoint."""

    step: int
    modules: dict[str, dict[str, Any]]
    averaged: dict[str, dict[str, Any]]
    optimizers: dict[str, dict[str, Any]]
    history: list[dict[str, float]]
    validation: list[dict[str, float]]
    latest: dict[str, dict[str, float]]
    best: NotRequired[BestState | None]


class Checkpoint(RunState):
    """What a file holds beside: `format`, the versions, and the settings of the run."""

    format: str
    versions: dict[str, str]
    config: dict[str, Plain]


class Checkpoints:
    """The checkpoints of a run's folder, if it has one.

    Attributes
    ----------
    last : Path or None
        The newest one of this run.
    """

    def __init__(self, folder: Path | None, config: dict[str, Plain], processes: Processes) -> None:
        self.folder, self.config, self.processes = folder, config, processes
        self.last: Path | None = None
        self._fresh = True  # what lies in the folder is of another run

    def save(self, state: RunState) -> None:
        """Write a checkpoint, atomically and by the first process, keeping the previous one."""
        if self.folder is None:
            return
        path = self.folder / CHECKPOINT
        if self.processes.rank == 0:
            self._write(path, state)
        self.last, self._fresh = path, False

    def _write(self, path: Path, state: RunState) -> None:
        content = {
            "format": FORMAT,
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
            "config": self.config,
            **state,
        }
        previous, temporary = path.with_name(PREVIOUS), path.with_suffix(".tmp")
        try:
            with open(temporary, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            if self._fresh:
                previous.unlink(missing_ok=True)
            elif path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter, too
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            left = "none was written before"
            if self.last is not None:
                left = f"the one before is as it was: {self.last}"
            raise CheckpointError(
                f"{path.parent}: the checkpoint of step {state['step']} could not be written "
                f"({error}); {left}. Make room, or choose another folder, and call again"
            ) from error

    def load(
        self,
        resume: str,
        steps: int,
        modules: Mapping[str, Mapping[str, object]],
        *,
        extend: bool,
    ) -> Checkpoint | None:
        """The newest readable checkpoint, if it is of this run, whose modules have this state.

        With `extend` also if it is of a run with fewer steps.
        """
        if self.folder is None or resume == "never":
            return None
        path = self.folder / CHECKPOINT
        found = None
        if self.processes.rank == 0:
            found = _newest(self.folder)
            if found is None and resume == "must":
                raise FileNotFoundError(f"{path}: nothing to resume, and resume='must'")
            if found is not None and found[1] != path:  # the newer one is missing or damaged
                os.replace(found[1], path)
        data = self.processes.share(found[0] if found else None)
        if data is None:
            return None
        state = _decode(data, path)
        here = _flatten(self.config, "config") | _shapes(modules)
        there = _flatten(state["config"], "config") | _shapes(state["modules"])
        longer = there.get(_STEPS, math.inf) < here.get(_STEPS, 0)
        if extend and longer:
            there[_STEPS] = here[_STEPS]
        if different := _differences(there, here):
            hint = ", or extend=True for a longer run of the same schedule" if longer else ""
            raise CheckpointError(
                f"{path}: it belongs to another run; change what differs back, choose another "
                f"folder, or pass resume='never'{'' if extend else hint}:\n  "
                + "\n  ".join(different)
            )
        if state["step"] > steps:
            raise CheckpointError(
                f"{path}: at step {state['step']}, beyond the {steps} of this run"
            )
        self.last, self._fresh = path, False
        return state


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint to the CPU without unpickling code, after checking its check sums.

    Parameters
    ----------
    path : path
        A checkpoint, or the folder of a run, of which the newest readable one is taken.

    Returns
    -------
    dict
        ``step``, ``config``, ``modules`` and ``averaged`` (state dicts by name), ``optimizers``,
        ``history``, ``validation``, ``latest``, ``best``, ``versions``.

    Raises
    ------
    FileNotFoundError
        There is none.
    CheckpointError
        It is truncated, damaged, or no checkpoint of this engine.
    """
    path = Path(path)
    if not path.is_dir():
        return _decode(_read_checked(path), path)
    found = _newest(path)
    if found is None:
        raise FileNotFoundError(f"{path}: no {CHECKPOINT} and no {PREVIOUS} in this folder")
    return _decode(*found)


def _read_checked(path: Path) -> bytes:
    """The bytes of a checkpoint whose check sums are right."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({error})") from None
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged (check sum of {damaged} is wrong)")
    return data


def _newest(folder: Path) -> tuple[bytes, Path] | None:
    """The newest readable checkpoint of a folder, None if there is none."""
    failure = None
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if path.exists():
            try:
                data = _read_checked(path)
            except CheckpointError as error:
                failure = failure or error
                continue
            if failure is not None:
                warnings.warn(f"{failure}; using {path} instead", stacklevel=3)
            return data, path
    if failure is not None:
        raise failure
    return None


def _decode(data: bytes, path: Path) -> Checkpoint:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for files that are not its own
        raise CheckpointError(f"{path}: not a checkpoint ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of dro_torch.training ({FORMAT!r})")
    for entries in (*state["modules"].values(), *state["averaged"].values()):
        for key in [key for key in entries if "_orig_mod." in key]:  # of a compiled module
            entries[key.replace("_orig_mod.", "")] = entries.pop(key)
    return cast(Checkpoint, state)


def as_plain(value: object, name: str) -> Plain:
    """Nested mappings and sequences as dicts and lists of values a checkpoint holds."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{name}: {type(value).__name__}; allowed: nested mappings and lists of strings, numbers, "
        "booleans and None"
    )


def _flatten(value: object, name: str) -> dict[str, Any]:
    """Leaves of nested dicts by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, item in value.items() for k, v in _flatten(item, f"{name}.{key}").items()}


def _shapes(modules: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    return {
        f"modules.{name}.{key}": tuple(entry.shape)
        for name, entries in modules.items()
        for key, entry in entries.items()
        if isinstance(entry, Tensor)
    }


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    absent = "absent"
    return [
        f"{key}: {there.get(key, absent)} in the checkpoint, {here.get(key, absent)} now"
        for key in dict.fromkeys([*there, *here])
        if there.get(key, absent) != here.get(key, absent)
    ]
