"""The one call that trains."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dro_core.described import Described
from dro_torch.host import Checks
from dro_torch.training.batching import Source, as_sources
from dro_torch.training.best import Goal
from dro_torch.training.checkpoint import Checkpoints, as_plain
from dro_torch.training.options import (
    Options,
    Validate,
    as_compiled,
    as_decays,
    as_device,
    as_folder,
)
from dro_torch.training.phase import PerModule, Phase, check_phases, describe
from dro_torch.training.processes import Processes, Signals, forked_random_state
from dro_torch.training.run import Run
from dro_torch.training.schedule import Schedule


@dataclass(frozen=True, eq=False, repr=False)
class TrainingResult(Described):
    """What `fit` returns; all modules are in evaluation mode.

    Parameters
    ----------
    modules : mapping of str to nn.Module
        The modules to use: averaged copies where `ema` asked for them, the trained ones otherwise.
    trained : mapping of str to nn.Module
        The modules that were passed in.
    step : int
        Iterations done, those before a resume included.
    interrupted : bool
        A signal ended the run before its last step.
    history, validation : list of dict
        One row per `log_every` steps and one per validation, each with its "step".
    checkpoint : Path or None
        The last one written.
    best : mapping of str to nn.Module, or None
        Copies of `modules` as they were at the best validation, where `best` asked for them and a
        validation of this process had a number (with several processes the first one validates).
    best_row : dict or None
        That row of the validation.
    settled : bool
        The run has ended since `patience` validations in a row were no better than the best one.
    """

    described_by = (
        "step",
        "interrupted",
        "settled",
        "checkpoint",
        "best_row",
        "modules",
        "history",
        "validation",
    )

    modules: Mapping[str, nn.Module]
    trained: Mapping[str, nn.Module]
    step: int
    interrupted: bool
    history: list[dict[str, float]]
    validation: list[dict[str, float]]
    checkpoint: Path | None
    best: Mapping[str, nn.Module] | None = None
    best_row: dict[str, float] | None = None
    settled: bool = False


def fit(
    phases: Phase | Sequence[Phase],
    batches: Source | Mapping[str, Source],
    steps: int,
    *,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    precision: Literal["float32", "bf16", "float64"] = "float32",
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 0,
    final_rate: float = 0.0,
    ema: PerModule | None = None,
    checkpoint_every: int = 1000,
    resume: Literal["auto", "never", "must"] = "auto",
    extend: bool = False,
    validate: Validate | None = None,
    validate_every: int | None = None,
    best: Goal | None = None,
    patience: int | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    log_every: int = 50,
    progress: bool = True,
    checks: Checks = "first",
    compile: bool | Sequence[str] = False,
    channels_last: bool = False,
    capture: bool = False,
    config: Mapping[str, object] | None = None,
) -> TrainingResult:
    r"""Train the modules of the phases in place for `steps` iterations.

    Each iteration runs the phases in order: with :math:`\theta_p` the parameters of phase p,

    .. math:: \theta_p \leftarrow \mathrm{optimiser}_p\bigl(\theta_p,\
              \nabla_{\theta_p} L_p(\theta_1, \dots, \theta_P;\ \text{batch}_s,\ \text{seed}, s)
              \bigr).

    Calling it again continues from the present parameters (a warm start) with new optimisers.
    Started by ``torchrun`` it joins the processes (gloo on a CPU, nccl on CUDA), which share every
    batch; only the first one writes, shows progress and validates.

    Parameters
    ----------
    phases : Phase or list of Phase
        One for structured DRO, two for transport maps; their modules are moved to `device`.
        Compiled ones stay compiled, distributed ones train as what they wrap; checkpoints are
        those of the module inside.
    batches : object with ``batch(step, rank, world_size)``, function of the step, or mapping
        The former gives this process's share, the latter the global batch; both as
        ``(index, tensor, ...)`` and the same for the same step. One source: all phases of an
        iteration see the same batch. A mapping gives every phase, by name, its own.
    steps : int
        Iterations in all, those before a resume included.
    seed : int
        Passed to the losses, and the seed of the global random state (dropout) of every step.
    folder : path, optional
        Of the checkpoints ``checkpoint.pt`` and ``checkpoint_previous.pt``; without it none are
        written.
    device, precision : str
        "float32" and "float64" are the dtype of parameters and batches; "bf16" keeps float32
        parameters and runs the losses under autocast.
    schedule, warmup, final_rate :
        Of the rates: see `rate_factor`.
    ema : float or mapping of module name to float, optional
        Largest decay of an exponential moving average of the parameters (see `ema_decay`), of all
        trained modules or of those named. Validation and the result use the averaged copies.
    checkpoint_every : int
        Steps from one checkpoint to the next; the last step and a signal write one, too.
    resume : {"auto", "never", "must"}
        Continue from the folder's checkpoint if there is one, never (it will be overwritten), or
        insist on one.
    extend : bool
        Go on from a checkpoint of a run with fewer steps although the schedule ends with the run
        (cosine): from the checkpoint on the rates are those of the longer run, so that they rise
        again if the shorter one had ended. A constant schedule needs no flag.
    validate : callable, optional
        From the modules (averaged ones where there are, evaluation mode) to numbers, called every
        `validate_every` steps and after the last. Gradients are left on: attacks need them.
    best : (str, "max" or "min"), optional
        Keep a copy of the modules at the validation whose number of this name is the largest or
        smallest, the earliest if several are: the result's `best`. It is part of every checkpoint,
        so that a resumed run ends with the same.
    patience : int, optional
        Stop after so many validations in a row that were not better than the best one (NaN never
        is). Not a setting of the run: a stopped run goes on where it is called with a larger one.
    log : callable, optional
        Called with every new row of the history and of the validation.
    log_every : int
        Steps from one row to the next. On an accelerator values are only then fetched, so a NaN is
        noticed up to that many steps later (it never reaches a checkpoint).
    progress : bool
        Show a progress bar with the loss and what the losses log.
    checks : {"first", "always", "never"}
        When the losses of this package read the values that they check, which makes the host wait
        for an accelerator: in the first step of a run or of a resume, in every step, never. After
        the first step the answers of the checks stay on the device and are read with the other
        values, so that a batch which is not finite is still named, with its step and argument;
        with "never" only a loss or gradient that is not finite is. A loss with `checks` of its own
        keeps to them.
    compile : bool or list of module names
        Pass these modules to the losses through ``torch.compile``. Not for a network whose second
        derivatives a loss takes.
    channels_last : bool
        Memory layout of the networks and of batches with four axes.
    capture : bool
        Record a step (loss, gradients, optimiser) as a CUDA graph after a few plain ones, and
        replay it: small networks then do not wait for the host. For one process, batches of one
        shape, and losses that read nothing on the host: those of this package do not. In a
        recorded step `StepContext.step` is a tensor. Refused on other devices.
    config : mapping, optional
        Plain values that describe the run (data, loss, network); a checkpoint with others is
        refused.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TrainingDivergedError
        For a loss, gradient, parameter or batch that is NaN or infinite, and for what a loss
        refuses after the first step. On the CPU the parameters are those before the step at fault.
    CheckpointError
        For a checkpoint that cannot be written (the one before stays), that is damaged, or that
        belongs to a run with other settings, modules or shapes; what differs is listed. A longer
        run may resume if the schedule is constant, or with `extend`.
    KeyboardInterrupt
        After Ctrl-C, when the step is finished and its checkpoint written. SIGTERM is likewise
        handed on to the handler that was there; if that returns, so does `fit`.
    ValueError, TypeError
        For bad arguments, batches or losses.

    Notes
    -----
    With several processes or micro-batches the objective is the mean of the parts' losses, weighted
    by samples: equal to the loss of the whole batch if that is a mean over samples, but not for a
    root of a mean. Dropout masks depend on the number of processes.

    Source: DRO paper, section 6.1.3; unbalanced-transport paper, Algorithm 1. Engine: this project.

    Examples
    --------
    >>> import torch
    >>> from dro_torch.training import fit, reconstruction_phase
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> network = torch.nn.Linear(1, 1)
    >>> def squared_error(model, x, y):
    ...     return (x - model(y)).square().sum(1).mean()
    >>> phase = reconstruction_phase(network, squared_error, rate=0.1)
    >>> result = fit(phase, lambda step: (torch.arange(32), x, 2 * x), 300, seed=0, progress=False)
    >>> print(f"{network.weight.item():.3f} {result.step}")
    0.500 300
    """
    phases = check_phases(phases)
    sources = as_sources(batches, phases)
    options = Options(
        schedule=Schedule(steps, schedule, warmup, final_rate),
        seed=seed,
        precision=precision,
        resume=resume,
        extend=extend,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        validate=validate,
        validate_every=validate_every,
        log=log,
        progress=progress,
        channels_last=channels_last,
        checks=checks,
        capture=capture,
        best=best,
        patience=patience,
    )
    decays, compiled = as_decays(ema, phases), as_compiled(compile, phases)
    processes = Processes.join(as_device(device))
    directory = as_folder(folder)
    if directory is None and resume == "must":
        raise ValueError("resume: 'must', but there is no folder to resume from")
    description: dict[str, object] = {
        "seed": options.seed,
        "precision": precision,
        "rates": options.schedule.describe(),
        "ema": decays,
        "phases": {phase.name: describe(phase) for phase in phases},
        "user": config or {},
    }
    if options.best is not None:
        description["best"] = list(options.best)
    plain = {key: as_plain(value, f"config.{key}") for key, value in description.items()}
    checkpoints = Checkpoints(directory, plain, processes)
    with Signals() as signals, forked_random_state(processes.device):
        run = Run(
            phases, sources, options, processes, checkpoints, decays=decays, compiled=compiled
        )
        run.run(signals)
    if signals.number is not None:
        signal.raise_signal(signals.number)
    return TrainingResult(
        modules=run.modules.evaluated,
        trained=run.modules.given,
        step=run.step,
        interrupted=run.step < options.steps and not run.settled,
        history=run.record.history,
        validation=run.record.validation,
        checkpoint=checkpoints.last,
        best=run.best.modules(run.modules.evaluated),
        best_row=run.best.row or None,
        settled=run.settled,
    )
