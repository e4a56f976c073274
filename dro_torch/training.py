r"""One training engine: structured DRO (network and multiplier) and transport maps (two networks).

An iteration is a sequence of phases; a phase is one optimiser step on the modules it owns, while
the parameters of all others are frozen. Everything an iteration uses is a function of (seed, step):
the batch, the rates, the noise that a loss keys by (seed, step, sample index), and the global
random state, which is set before every phase (dropout) and given back to the caller at the end. So
a resumed run needs no replay and continues bit for bit, and under ``torchrun`` a loss that is a
mean over samples sees the same numbers as one process does.

Processes share the batch and average their gradients with one all-reduce per phase and dtype, which
carries the logged values along. `DistributedDataParallel` is not used: its hooks expect one forward
pass of the wrapped module per backward pass, while these losses run several (inner samples, ascent
on the potential, recomputed chunks, second derivatives), and the multiplier lives outside the
network. Losses therefore always see bare modules.
"""

from __future__ import annotations

import atexit
import inspect
import io
import math
import os
import signal
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from dro_core.checks import (
    as_count,
    as_non_negative,
    as_positive_integer,
    as_scalar,
    check_option,
    unknown,
)
from dro_torch.models import bare_copy, bare_module, bare_names

#: Names of the files in a run's folder.
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"
FORMAT = "dro_torch.training 1"

PRECISIONS = {"float32": torch.float32, "bf16": torch.float32, "float64": torch.float64}
SCHEDULES = ("cosine", "constant")
RESUME = ("auto", "never", "must")
#: Devices whose values are read in every step; elsewhere that would wait for the device.
READ_AT_ONCE = ("cpu",)
#: Names that losses must not log under, beside "gradient norm ...".
RESERVED = ("step", "loss", "stop")

Batch = tuple[Tensor, ...]
Values = Mapping[str, "Tensor | float"]
PerModule = float | Mapping[str, float]


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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.step, self.multiplier, self.checkpoint)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class Batches(Protocol):
    """Where batches come from: a function of the step, so that a resumed run needs no replay."""

    def batch(self, step: int, rank: int, world_size: int) -> Sequence[Tensor]:
        """This process's share of the global batch of a step: (index, tensor, ...).

        ``index`` (N,) holds global sample indices in int64; entry i of every tensor is sample
        ``index[i]``.
        """


#: Or a function from the step to the *global* batch, of which every process takes its share.
Source = Batches | Callable[[int], Sequence[Tensor]]


@dataclass(frozen=True)
class StepContext:
    """What a loss gets to know besides modules and batch.

    Parameters
    ----------
    seed, step : int
        Seed of the run and number of the iteration, from 0.
    index : (N,) int64 tensor
        Global indices of the samples of this batch; with seed and step the key of their noise.
    device : torch.device
    rank, world_size : int
        Number of this process, and how many there are.
    """

    seed: int
    step: int
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
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None
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
        if not self._trained():
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
            self._per_module(name)

    def _trained(self) -> dict[str, list[nn.Parameter]]:
        """The trainable parameters of the modules that have some."""
        found = {
            name: [p for p in module.parameters() if p.requires_grad]
            for name, module in self.modules.items()
        }
        return {name: parameters for name, parameters in found.items() if parameters}

    def _per_module(self, argument: str) -> dict[str, float]:
        """A setting of every trained module; the gradient clip may be infinite."""
        value, names = getattr(self, argument), list(self._trained())
        label = f"phase {self.name!r}: {argument}"
        if argument == "gradient_clip" and value is None:
            return dict.fromkeys(names, math.inf)
        if not isinstance(value, Mapping):
            value = dict.fromkeys(names, value)
        elif argument == "gradient_clip":
            value = {**dict.fromkeys(names, math.inf), **value}
        if set(value) != set(names):
            raise ValueError(
                f"{label}: given for {sorted(value)}; trained modules: {sorted(names)}"
            )
        for name, number in value.items():
            if argument == "gradient_clip" and number == math.inf:
                continue
            if as_non_negative(number, f"{label} of {name!r}") == 0 and argument != "weight_decay":
                raise ValueError(f"{label} of {name!r}: 0; allowed: a number > 0")
        return {name: float(value[name]) for name in names}

    def _build_optimizer(self) -> torch.optim.Optimizer:
        rates, decays = self._per_module("rate"), self._per_module("weight_decay")
        trained = self._trained()
        groups = [
            {"params": parameters, "lr": rates[name], "weight_decay": decays[name], "name": name}
            for name, parameters in trained.items()
        ]
        if self.optimizer is None:
            return torch.optim.AdamW(groups, betas=self.betas)
        optimizer = self.optimizer(groups)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held != {id(p) for parameters in trained.values() for p in parameters}:
            raise ValueError(
                f"phase {self.name!r}: optimizer: it must hold exactly the trainable parameters "
                f"of {list(trained)}, no more and no fewer"
            )
        return optimizer

    def _describe(self) -> dict[str, Any]:
        """Plain values that a resumed run must share."""
        return {
            "rate": self._per_module("rate"),
            "weight_decay": self._per_module("weight_decay"),
            "gradient_clip": self._per_module("gradient_clip"),
            "betas": [float(b) for b in self.betas],
            "optimizer": "default" if self.optimizer is None else "given",
            "every": self.every,
            "micro_batches": self.micro_batches,
        }


@dataclass(frozen=True, eq=False)
class TrainingResult:
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
    """

    modules: Mapping[str, nn.Module]
    trained: Mapping[str, nn.Module]
    step: int
    interrupted: bool
    history: list[dict[str, float]]
    validation: list[dict[str, float]]
    checkpoint: Path | None


def rate_factor(
    step: int, steps: int, *, schedule: str = "cosine", warmup: int = 0, final: float = 0.0
) -> float:
    r"""Factor of the learning rates: linear warm-up, then cosine annealing or a constant.

    .. math::
        \eta_s = \frac{s+1}{W+1}\ (s < W),\qquad
        \eta_s = \eta_\infty + \frac{1-\eta_\infty}{2}
                 \Bigl(1 + \cos\frac{\pi (s-W)}{S-W}\Bigr)\ (s \ge W)

    Parameters
    ----------
    step, steps : int
        s, from 0, and the number of steps S.
    schedule : {"cosine", "constant"}
        Constant: one after the warm-up.
    warmup : int
        Number of warm-up steps W, 0 <= W < S.
    final : float
        Factor :math:`\eta_\infty` in [0, 1] towards which the cosine falls.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        For an unknown schedule or numbers out of their range.

    Notes
    -----
    Source: DRO paper, section 6.1.3 (its rates are not readable in the text; these are arguments).

    Examples
    --------
    >>> [round(rate_factor(s, 6, warmup=2), 3) for s in range(6)]
    [0.333, 0.667, 1.0, 0.854, 0.5, 0.146]
    """
    steps, warmup = as_positive_integer(steps, "steps"), as_count(warmup, "warmup")
    check_option(schedule, "schedule", SCHEDULES)
    if warmup >= steps:
        raise ValueError(f"warmup: {warmup}; allowed: fewer than the {steps} steps of the run")
    final, step = as_non_negative(final, "final_rate"), as_count(step, "step")
    if final > 1:
        raise ValueError(f"final_rate: {final}; allowed: a number in [0, 1]")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def ema_decay(step: int, decay: float) -> float:
    r"""Decay of the exponential moving average after `step` steps: :math:`\min(d, (1+s)/(10+s))`.

    .. math:: \bar\theta_s = d_s\,\bar\theta_{s-1} + (1 - d_s)\,\theta_s,\qquad
              \bar\theta_0 = \theta_0

    The smaller decay at the beginning keeps the initial parameters out of the average of a short
    run.

    Parameters
    ----------
    step : int
        Steps done, >= 1.
    decay : float
        Largest decay d in [0, 1).

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        For numbers out of their range.

    Examples
    --------
    >>> [round(ema_decay(s, 0.999), 3) for s in (1, 90, 10_000)]
    [0.182, 0.91, 0.999]
    """
    largest, done = as_non_negative(decay, "decay"), as_count(step, "step")
    if largest >= 1:
        raise ValueError(f"decay: {decay}; allowed: a number in [0, 1)")
    return min(largest, (1 + done) / (10 + done))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint to the CPU without unpickling code, after checking its check sums.

    Parameters
    ----------
    path : path
        A checkpoint, or the folder of a run, of which the newest readable one is taken.

    Returns
    -------
    dict
        ``step``, ``config``, ``modules`` and ``averaged`` (state dicts by name), ``optimizers``,
        ``history``, ``validation``, ``latest``, ``versions``.

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


def _decode(data: bytes, path: Path) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for files that are not its own
        raise CheckpointError(f"{path}: not a checkpoint ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of dro_torch.training ({FORMAT!r})")
    for entries in (*state["modules"].values(), *state["averaged"].values()):
        for key in [key for key in entries if "_orig_mod." in key]:  # of a compiled module
            entries[key.replace("_orig_mod.", "")] = entries.pop(key)
    return state


def _plain(value: Any, name: str) -> Any:
    """Nested mappings and sequences as dicts and lists of values a checkpoint holds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}.{i}") for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{name}: {type(value).__name__}; allowed: nested mappings and lists of strings, numbers, "
        "booleans and None"
    )


def _flatten(value: Any, name: str) -> dict[str, Any]:
    """Leaves of nested dicts by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, item in value.items() for k, v in _flatten(item, f"{name}.{key}").items()}


def _called(module: nn.Module, compiled: bool) -> Any:
    """What losses get: compiled if asked for or given, never distributed."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        module = module.module
    return torch.compile(module) if compiled and bare_module(module) is module else module


def _state(module: nn.Module) -> dict[str, Any]:
    """The state dict by the names that it has without wrappers (torch.compile and its kin)."""
    bare: nn.Module = bare_module(module)
    state = bare.state_dict()
    for key, name in bare_names(bare).items():
        if name != key:
            state[name] = state.pop(key)
    return state


def _load_state(module: nn.Module, state: dict[str, Any]) -> None:
    bare: nn.Module = bare_module(module)
    for key, name in bare_names(bare).items():
        if name != key and name in state:
            state[key] = state.pop(name)
    bare.load_state_dict(state)


def _shapes(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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


class _Signals:
    """Notes Ctrl-C and SIGTERM, so that a step is finished first; a second one acts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._handlers[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()

    def __exit__(self, *_: Any) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


@dataclass(frozen=True)
class _Processes:
    """The processes of a run; one, unless ``torchrun`` or the caller started more."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: torch.device) -> _Processes:
        """Join the process group that torchrun's environment describes, once per interpreter."""
        launched = os.environ.keys() >= {"RANK", "WORLD_SIZE", "MASTER_ADDR"}
        launched = launched and os.environ["WORLD_SIZE"] != "1" and dist.is_available()
        if not launched and not (dist.is_available() and dist.is_initialized()):
            return cls(0, 1, device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def average(self, tensors: list[Tensor], weight: int) -> list[Tensor]:
        """Means over the processes, weighted by their samples: one all-reduce per dtype."""
        if self.size == 1:
            return tensors
        result = list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            total = torch.ones(1, dtype=dtype, device=self.device)
            flat = torch.cat([*(tensors[i].reshape(-1) for i in places), total]) * weight
            dist.all_reduce(flat)
            parts = (flat[:-1] / flat[-1]).split([tensors[i].numel() for i in places])
            for i, part in zip(places, parts, strict=True):
                result[i] = part.view_as(tensors[i])
        return result

    def share(self, data: bytes | None) -> bytes | None:
        """The first process's bytes."""
        if self.size == 1:
            return data
        size = torch.tensor(-1 if data is None else len(data), device=self.device)
        dist.broadcast(size, 0)
        if size < 0:
            return None
        buffer = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        if data is not None:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(buffer, 0)
        return buffer.cpu().numpy().tobytes()

    def agree(self, tensors: Iterator[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)


@dataclass(eq=False)
class _Run:
    """The state of a run."""

    phases: Sequence[Phase]
    sources: Mapping[str, Source]
    seed: int
    processes: _Processes
    precision: str
    decays: Mapping[str, float]
    config: Mapping[str, Any]
    folder: Path | None
    signals: _Signals
    channels_last: bool
    compiled: Sequence[str]

    step: int = 0
    stop: bool = False
    fresh: bool = True
    checkpoint: Path | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    latest: dict[str, dict[str, float]] = field(default_factory=dict)
    pending: list[tuple[int, Phase, list[str], Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device, self.dtype = self.processes.device, PRECISIONS[self.precision]
        self.modules = {name: m for phase in self.phases for name, m in phase.modules.items()}
        self.trained = {phase.name: phase._trained() for phase in self.phases}
        self.clips = {phase.name: phase._per_module("gradient_clip") for phase in self.phases}
        for module in self.modules.values():
            module.to(self.device, self.dtype).zero_grad(set_to_none=True)
            self.processes.agree(iter([*module.parameters(), *module.buffers()]))
            if self.channels_last:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = {
            name: bare_copy(self.modules[name]).requires_grad_(False).eval() for name in self.decays
        }
        self.called = {
            name: _called(module, name in self.compiled) for name, module in self.modules.items()
        }
        self.optimizers = {phase.name: phase._build_optimizer() for phase in self.phases}
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    @property
    def evaluated(self) -> dict[str, nn.Module]:
        return {**self.modules, **self.averaged}

    def train(self) -> None:
        for module in self.modules.values():
            module.train()

    def finish(self) -> None:
        """Evaluation mode, and every parameter trainable that was."""
        for module in self.modules.values():
            module.eval()
        for trained in self.trained.values():
            for parameters in trained.values():
                for parameter in parameters:
                    parameter.requires_grad_(True)
                    parameter.grad = None

    def set_random_state(self, stream: int) -> None:
        """The global random state as a function of seed, step, stream and process."""
        words = np.random.SeedSequence((self.seed, self.step, stream, self.processes.rank))
        key = int(words.generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(key)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(key)

    def draw(self, source: Source) -> Batch:
        """This process's batch on the device, floating-point entries in the run's precision."""
        rank, size = self.processes.rank, self.processes.size
        own = not callable(getattr(source, "batch", None))
        given = source(self.step) if own else source.batch(self.step, rank, size)  # type: ignore[operator, union-attr]
        if not isinstance(given, tuple | list) or len(given) < 2:
            raise TypeError(
                f"batches: step {self.step} gave {type(given).__name__}; needed: a tuple "
                "(index, tensor, ...) with at least one tensor"
            )
        for number, tensor in enumerate(given):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"batches: entry {number} of step {self.step} is {type(tensor).__name__}; "
                    "needed: torch.Tensor"
                )
        index = given[0]
        if index.dtype != torch.int64 or index.ndim != 1 or len(index) == 0:
            raise TypeError(
                f"batches: the index of step {self.step} has dtype {index.dtype} and shape "
                f"{tuple(index.shape)}; needed: int64 (N,) with N >= 1, the global numbers of the "
                "samples"
            )
        for number, tensor in enumerate(given):
            if tensor.ndim == 0 or len(tensor) != len(index):
                raise ValueError(
                    f"batches: entry {number} of step {self.step} has shape "
                    f"{tuple(tensor.shape)}, but there are {len(index)} indices"
                )
        rows = slice(0, None)
        if own and size > 1:
            if len(index) < size:
                raise ValueError(
                    f"batches: {len(index)} samples in step {self.step} for {size} processes"
                )
            rows = slice(rank * len(index) // size, (rank + 1) * len(index) // size)
        return tuple(self.place(tensor[rows]) for tensor in given)

    def place(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        tensor = tensor.to(self.device, dtype, non_blocking=True)
        if self.channels_last and tensor.ndim == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def iterate(self, factor: float) -> None:
        """One iteration: every phase that is due, then the averages."""
        drawn: dict[int, Batch] = {}
        for number, phase in enumerate(self.phases):
            if self.step % phase.every == 0:
                self.set_random_state(number)
                source = self.sources[phase.name]
                if id(source) not in drawn:
                    drawn[id(source)] = self.draw(source)
                self.update(phase, drawn[id(source)], factor)
        self.step += 1
        for name, decay in self.decays.items():
            average, module = self.averaged[name], self.modules[name]
            update = get_ema_multi_avg_fn(ema_decay(self.step, decay))
            with torch.no_grad():
                update(list(average.parameters()), list(module.parameters()), 0)
                for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
                    mine.copy_(theirs)

    def update(self, phase: Phase, batch: Batch, factor: float) -> None:
        """One optimiser step on the modules of a phase; the parameters of others are frozen."""
        for name, trained in self.trained.items():
            for parameters in trained.values():
                for parameter in parameters:
                    parameter.requires_grad_(name == phase.name)
        parameters_of, optimizer = self.trained[phase.name], self.optimizers[phase.name]
        values = self.differentiate(phase, batch)
        parameters = [p for group in parameters_of.values() for p in group]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        values["stop"] = self.signals.number is not None
        vector = torch.stack([self.as_value(value) for value in values.values()])
        *gradients, vector = self.processes.average([*gradients, vector], len(batch[0]))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        names, norms, clips = list(values), [], self.clips[phase.name]
        for name, group in parameters_of.items():
            norm = get_total_norm([p.grad for p in group if p.grad is not None])
            if clips[name] < math.inf:
                clip_grads_with_norm_(group, clips[name], norm)
            norms.append(self.as_value(norm))
            names.append(f"gradient norm {name}")
        self.pending.append((self.step, phase, names, torch.cat([vector, torch.stack(norms)])))
        if self.device.type in READ_AT_ONCE:
            self.read()
        for param_group in optimizer.param_groups:
            param_group["lr"] = param_group["initial_lr"] * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def differentiate(self, phase: Phase, batch: Batch) -> dict[str, Any]:
        """Accumulate the gradient of the loss; its value and the numbers to log."""
        parts = min(phase.micro_batches, len(batch[0]))
        total: dict[str, Any] = {}
        for index, *given in zip(*(t.tensor_split(parts) for t in batch), strict=True):
            tensors = [tensor.clone() for tensor in given]  # a network may work in place
            context = StepContext(
                self.seed, self.step, index, self.device, self.processes.rank, self.processes.size
            )
            try:
                with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
                    result = phase.loss(self.called, tuple(tensors), context)
            except ValueError:
                self.read()  # a loss that refuses NaN: an earlier step may be the reason
                raise
            loss, logged = result if isinstance(result, tuple) else (result, {})
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                returned = type(loss).__name__
                if isinstance(loss, Tensor):
                    returned = f"shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
                raise ValueError(
                    f"phase {phase.name!r}: loss: {returned}; needed: a scalar tensor that depends "
                    f"on the parameters of {list(self.trained[phase.name])}"
                )
            if reserved := [n for n in logged if n in RESERVED or n.startswith("gradient norm")]:
                raise ValueError(f"phase {phase.name!r}: loss: it logs {reserved}, names in use")
            share = len(index) / len(batch[0])
            (loss * share).backward()
            for name, value in {"loss": loss, **logged}.items():
                value = value.detach() if isinstance(value, Tensor) else value
                total[name] = total[name] + share * value if name in total else share * value
        return total

    def as_value(self, value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.reshape(()).to(self.device, torch.float64)
        return torch.full((), float(value), dtype=torch.float64, device=self.device)

    def read(self) -> None:
        """Fetch the numbers of the steps since the last reading; stop if one is not finite."""
        if not self.pending:
            return
        numbers = iter(torch.cat([vector for *_, vector in self.pending]).tolist())
        pending, self.pending = self.pending, []
        for step, phase, names, _ in pending:
            row = {name: next(numbers) for name in names}
            self.stop |= row.pop("stop") > 0
            self.latest[phase.name] = row
            for name, value in row.items():
                critical = name == "loss" or name.startswith("gradient norm")
                if critical and not math.isfinite(value):
                    raise self.diverged(f"{name} of phase {phase.name!r} is {value}", step)

    def diverged(self, what: str, step: int) -> TrainingDivergedError:
        rows = [row["multiplier"] for row in self.latest.values() if "multiplier" in row]
        multiplier = rows[-1] if rows else None
        last = "none was written" if self.checkpoint is None else str(self.checkpoint)
        shown = "" if multiplier is None else f" with multiplier {multiplier:g}"
        return TrainingDivergedError(
            f"step {step}: {what}{shown}; last good checkpoint: {last}. Likely causes: a learning "
            "rate that is too large, a multiplier below its threshold, a batch that is not finite",
            step, multiplier, self.checkpoint,
        )  # fmt: skip

    def record(self) -> dict[str, float]:
        """A row of history: the latest values, with the phase's name if there are several."""
        self.read()
        several = len(self.phases) > 1
        row = {"step": self.step} | {
            f"{phase.name} {name}" if several else name: value
            for phase in self.phases
            for name, value in self.latest.get(phase.name, {}).items()
        }
        self.history.append(row)
        return row

    def validate(
        self, function: Callable[[Mapping[str, Any]], Mapping[str, float]]
    ) -> list[dict[str, float]]:
        """A row of validation by the first process, on the averaged modules."""
        self.read()
        if self.processes.rank > 0:
            return []
        self.set_random_state(len(self.phases))
        for module in self.modules.values():
            module.eval()
        numbers = {name: float(value) for name, value in function(self.evaluated).items()}
        self.validation.append({"step": self.step, **numbers})
        self.train()
        return self.validation[-1:]

    def save(self) -> None:
        """A checkpoint, written by the first process if all parameters are finite."""
        self.read()
        everything = [p for m in (*self.modules.values(), *self.averaged.values())
                      for p in m.parameters()]  # fmt: skip
        if not bool(get_total_norm([p.detach() for p in everything]).isfinite()):
            raise self.diverged("a parameter is NaN or infinite", self.step - 1)
        self.processes.agree(b for m in self.modules.values() for b in m.buffers())
        if self.folder is not None:
            self.checkpoint = self.folder / CHECKPOINT
            if self.processes.rank == 0:
                self.write(self.checkpoint)

    def write(self, last: Path) -> None:
        """Write a checkpoint atomically, keeping the previous one."""
        state = {
            "format": FORMAT,
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
            "config": self.config,
            "step": self.step,
            "modules": {name: _state(m) for name, m in self.modules.items()},
            "averaged": {name: _state(m) for name, m in self.averaged.items()},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "history": self.history,
            "validation": self.validation,
            "latest": self.latest,
        }
        previous, temporary = last.with_name(PREVIOUS), last.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if self.fresh:  # what lies there is of another run
            previous.unlink(missing_ok=True)
        elif last.exists():
            os.replace(last, previous)
        os.replace(temporary, last)
        self.fresh = False

    def load(self, resume: str, steps: int) -> None:
        """Continue from the newest readable checkpoint of the folder."""
        if self.folder is None or resume == "never":
            return
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
            return
        state = _decode(data, path)
        here = _flatten(self.config, "config")
        here |= _shapes({name: _state(m) for name, m in self.modules.items()})
        there = _flatten(state["config"], "config") | _shapes(state["modules"])
        if different := _differences(there, here):
            raise CheckpointError(
                f"{path}: it belongs to another run; change what differs back, choose another "
                "folder, or pass resume='never':\n  " + "\n  ".join(different)
            )
        if state["step"] > steps:
            raise CheckpointError(
                f"{path}: at step {state['step']}, beyond the {steps} of this run"
            )
        for name, module in self.modules.items():
            _load_state(module, state["modules"][name])
        for name, module in self.averaged.items():
            _load_state(module, state["averaged"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.step, self.history, self.validation = (
            state[key] for key in ("step", "history", "validation")
        )
        self.latest, self.checkpoint, self.fresh = state["latest"], path, False


@contextmanager
def _forked_random_state(device: torch.device) -> Iterator[None]:
    """Give the caller's global random state back at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _check_phases(phases: Any) -> list[Phase]:
    phases = list(phases) if isinstance(phases, Sequence) else [phases]
    if not phases:
        raise ValueError("phases: none given; at least one is needed")
    owner: dict[int, str] = {}
    modules: dict[str, nn.Module] = {}
    for phase in phases:
        if not isinstance(phase, Phase):
            raise TypeError(f"phases: {type(phase).__name__}; allowed: Phase or a list of them")
        for name, module in phase.modules.items():
            if modules.setdefault(name, module) is not module:
                raise ValueError(f"phases: two modules are called {name!r}")
        for name, parameters in phase._trained().items():
            for parameter in parameters:
                here = f"module {name!r} of phase {phase.name!r}"
                other = owner.setdefault(id(parameter), here)
                if other != here:
                    raise ValueError(
                        f"phases: {here} and {other} share a parameter; every parameter belongs "
                        "to one of them"
                    )
    names = [phase.name for phase in phases]
    if len(set(names)) < len(names):
        raise ValueError(f"phases: names {names} are not distinct")
    return phases


def _check_sources(batches: Any, phases: Sequence[Phase]) -> dict[str, Source]:
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


def _check_decays(ema: Any, phases: Sequence[Phase]) -> dict[str, float]:
    names = [name for phase in phases for name in phase._trained()]
    if ema is None:
        return {}
    decays = dict(ema) if isinstance(ema, Mapping) else dict.fromkeys(names, ema)
    for name, decay in decays.items():
        if name not in names:
            raise ValueError(unknown("ema", name, names))
        if as_non_negative(decay, "ema", "a number in [0, 1)") >= 1:
            raise ValueError(f"ema: {decay}; allowed: a number in [0, 1)")
    return decays


def _check_device(device: Any) -> torch.device:
    try:
        result = torch.device(device)
        torch.empty(0, device=result)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: {device!r} is not available here ({reason})") from None
    return result


def _check_folder(folder: Any) -> Path | None:
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
    validate: Callable[[Mapping[str, Any]], Mapping[str, float]] | None = None,
    validate_every: int | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    log_every: int = 50,
    progress: bool = True,
    compile: bool | Sequence[str] = False,
    channels_last: bool = False,
    config: Mapping[str, Any] | None = None,
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
    validate : callable, optional
        From the modules (averaged ones where there are, evaluation mode) to numbers, called every
        `validate_every` steps and after the last. Gradients are left on: attacks need them.
    log : callable, optional
        Called with every new row of the history and of the validation.
    log_every : int
        Steps from one row to the next. On an accelerator values are only then fetched, so a NaN is
        noticed up to that many steps later (it never reaches a checkpoint).
    progress : bool
        Show a progress bar with the loss and what the losses log.
    compile : bool or list of module names
        Pass these modules to the losses through ``torch.compile``. Not for a network whose second
        derivatives a loss takes.
    channels_last : bool
        Memory layout of the networks and of batches with four axes.
    config : mapping, optional
        Plain values that describe the run (data, loss, network); a checkpoint with others is
        refused.

    Returns
    -------
    TrainingResult

    Raises
    ------
    TrainingDivergedError
        For a loss, gradient or parameter that is NaN or infinite. On the CPU the parameters are
        those before the step at fault.
    CheckpointError
        For a checkpoint that is damaged or belongs to a run with other settings, modules or
        shapes; what differs is listed. A longer run may resume if the schedule is constant.
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
    phases = _check_phases(phases)
    sources = _check_sources(batches, phases)
    steps, seed = as_positive_integer(steps, "steps"), as_count(seed, "seed")
    check_option(precision, "precision", PRECISIONS)
    if resume not in RESUME:
        raise ValueError(unknown("resume", resume, RESUME))
    rates = {"schedule": schedule, "warmup": warmup, "final": final_rate}
    rate_factor(0, steps, **rates)  # type: ignore[arg-type]
    decays = _check_decays(ema, phases)
    checkpoint_every = as_positive_integer(checkpoint_every, "checkpoint_every")
    log_every = as_positive_integer(log_every, "log_every")
    for name, function in (("validate", validate), ("log", log)):
        if function is not None and not callable(function):
            raise TypeError(f"{name}: {type(function).__name__} is not callable")
    if validate_every is not None:
        validate_every = as_positive_integer(validate_every, "validate_every")
        if validate is None:
            raise ValueError("validate_every: given without validate")
    names = list(dict.fromkeys(name for phase in phases for name in phase.modules))
    compiled = names if compile is True else list(compile or ())
    for name in compiled:
        if name not in names:
            raise ValueError(unknown("compile", name, names))
    processes = _Processes.join(_check_device(device))
    directory = _check_folder(folder)
    if directory is None and resume == "must":
        raise ValueError("resume: 'must', but there is no folder to resume from")
    description = {
        "seed": seed,
        "precision": precision,
        "rates": rates | ({"steps": steps} if schedule == "cosine" else {}),
        "ema": decays,
        "phases": {phase.name: phase._describe() for phase in phases},
        "user": config or {},
    }
    description = _plain(description, "config")

    with _Signals() as signals, _forked_random_state(processes.device):
        run = _Run(
            phases, sources, seed, processes, precision, decays, description, directory,
            signals, channels_last, compiled,
        )  # fmt: skip
        try:
            run.load(resume, steps)
            run.train()
            first = processes.rank == 0
            hidden = not (progress and first)
            with tqdm(total=steps, initial=run.step, disable=hidden, unit="step") as bar:
                while run.step < steps and not run.stop:
                    run.iterate(rate_factor(run.step, steps, **rates))  # type: ignore[arg-type]
                    run.stop |= processes.size == 1 and signals.number is not None
                    last = run.step == steps
                    rows = []
                    if last or run.step % log_every == 0:
                        rows.append(run.record())
                        bar.set_postfix(_shown(rows[0]), refresh=False)
                    if validate and (last or (validate_every and run.step % validate_every == 0)):
                        rows += run.validate(validate)
                    if log is not None and first:
                        for row in rows:
                            log(row)
                    if last or run.stop or run.step % checkpoint_every == 0:
                        run.save()
                    bar.update()
        finally:
            run.finish()
    if signals.number is not None:
        signal.raise_signal(signals.number)
    return TrainingResult(
        run.evaluated, run.modules, run.step, run.step < steps, run.history, run.validation,
        run.checkpoint,
    )  # fmt: skip


def _shown(row: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"{value:.4g}"
        for name, value in row.items()
        if name != "step" and "gradient norm" not in name
    }


def reconstruction_phase(
    model: nn.Module,
    criterion: Callable[..., Any],
    multiplier: nn.Module | float | None = None,
    *,
    pairs: Callable[[Batch, StepContext], tuple[Tensor, Tensor]] | None = None,
    name: str = "reconstruction",
    **options: Any,
) -> Phase:
    r"""The phase that trains a reconstruction map: a loss of `dro_torch.losses`, or any other.

    .. math:: \min_{\theta, \lambda}\ \text{criterion}(B_\theta, x, y, \lambda) + \lambda \rho^2

    Parameters
    ----------
    model : nn.Module
        :math:`B_\theta`; module "model" of the phase.
    criterion : callable ``(model, x, y, multiplier, ...)``, or ``(model, x, y)`` without multiplier
        Returns the objective without :math:`\lambda\rho^2`, or that and numbers to log. Those of
        the keyword arguments ``index``, ``seed``, ``step`` that it takes are passed: its noise's
        key. A criterion that is a module becomes module "criterion": its buffers are saved. If it
        has a mapping ``diagnostics``, those numbers are logged.
    multiplier : nn.Module or float, optional
        Module "multiplier", learned along: called it returns :math:`\lambda`, and ``penalty()``
        returns :math:`\lambda\rho^2`. A number stays fixed (and :math:`\lambda\rho^2`, a constant,
        is left out).
    pairs : callable ``(batch, context)``, optional
        Returns (x, y), for example ``lambda batch, context: (batch[0], forward(batch[0]))``;
        default: the first two tensors of the batch.
    name : str
        Of the phase.
    **options
        Further arguments of `Phase`; rates by module: ``rate={"model": 1e-3, "multiplier": 1e-2}``.

    Returns
    -------
    Phase

    Raises
    ------
    ValueError, TypeError
        For a criterion that is not callable, a multiplier without ``penalty``, or bad options.

    Notes
    -----
    Source: DRO paper, section 6.1 (with the multiplier learned instead of bisected).
    """
    if not callable(criterion):
        raise TypeError(f"criterion: {type(criterion).__name__} is not callable")
    learned = isinstance(multiplier, nn.Module)
    if learned and not callable(getattr(multiplier, "penalty", None)):
        raise TypeError("multiplier: it needs a method penalty() that returns λρ²")
    if not learned and multiplier is not None and as_non_negative(multiplier, "multiplier") == 0:
        raise ValueError("multiplier: 0; allowed: a number > 0, a module, or None")
    target = criterion.forward if isinstance(criterion, nn.Module) else criterion
    accepted = inspect.signature(target).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    keys = [key for key in ("index", "seed", "step") if every or key in accepted]
    modules: dict[str, nn.Module] = {"model": model}
    for key, value in (("multiplier", multiplier), ("criterion", criterion)):
        if isinstance(value, nn.Module):
            modules[key] = value

    def loss(called: Mapping[str, Any], batch: Batch, context: StepContext) -> Any:
        x, y = batch[:2] if pairs is None else pairs(batch, context)
        weight = called["multiplier"]() if learned else multiplier
        positional = (x, y) if multiplier is None else (x, y, weight)
        value = criterion(called["model"], *positional, **{k: getattr(context, k) for k in keys})
        value, logged = value if isinstance(value, tuple) else (value, {})
        shown = {} if multiplier is None else {"multiplier": weight}
        penalty = called["multiplier"].penalty() if learned else 0.0
        return value + penalty, {**shown, **logged, **getattr(criterion, "diagnostics", {})}

    return Phase(name, modules, loss, **options)
