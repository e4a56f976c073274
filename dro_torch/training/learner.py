"""One optimiser step of a phase: gradients of its loss, averaged over parts and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dro_torch.checks import NotFiniteError
from dro_torch.host import CLOSE, NEVER, Attention, Checks, attending
from dro_torch.training.capture import Recorded, Recorder
from dro_torch.training.phase import (
    Batch,
    Phase,
    StepContext,
    build_optimizer,
    per_module,
    trained_parameters,
)
from dro_torch.training.processes import Processes
from dro_torch.training.record import DERIVED, REFUSED, RESERVED, Record, as_value


class Learner:
    """A phase with its optimiser; made when the modules are on their device.

    Attributes
    ----------
    parameters : dict
        The parameters that it trains, by module.
    """

    def __init__(
        self,
        phase: Phase,
        processes: Processes,
        record: Record,
        *,
        seed: int,
        autocast: bool,
        checks: Checks,
    ) -> None:
        self.phase, self.processes, self.record = phase, processes, record
        self.seed, self.autocast, self.checks = seed, autocast, checks
        self._attention = NEVER if checks == "never" else CLOSE
        self.parameters = trained_parameters(phase.modules)
        self.clips = per_module(phase, "gradient_clip")
        self.optimizer = build_optimizer(phase)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._number = 0  #: of the step
        self._recorded: Recorded | None = None

    def require_gradients(self, needed: bool) -> None:
        """Free or freeze the parameters."""
        for parameters in self.parameters.values():
            for parameter in parameters:
                parameter.requires_grad_(needed)

    def release(self) -> None:
        """Every parameter trainable and without a gradient, as it was."""
        self.require_gradients(True)
        for parameters in self.parameters.values():
            for parameter in parameters:
                parameter.grad = None

    def capture(self, recorder: Recorder) -> None:
        """Record the step after a few, and replay it; rates are read where they lie from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self.processes.device)
        self._recorded = Recorded(self.phase.name, recorder, self.processes.device, self._advance)

    def update(
        self, called: Mapping[str, Any], batch: Batch, step: int, factor: float, stop: bool
    ) -> None:
        """One optimiser step on the loss of a batch; `stop` is told to the other processes."""
        self._number = step
        for group in self.optimizer.param_groups:
            rate = group["initial_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self._recorded is not None:
            self.record.note(step, self.phase, *self._recorded(called, batch, step, stop))
        else:  # what is noted may stop the run, before the parameters have moved
            self.record.note(step, self.phase, *self._gradient(called, batch, step, stop))
            self._descend()
        if self.checks == "first":
            self._attention = Attention(now=False, warns=self._recorded is None, flags={})

    def _advance(
        self, called: Mapping[str, Any], batch: Batch, step: int | Tensor, stop: bool | Tensor
    ) -> tuple[list[str], Tensor]:
        """The step itself: names and values of what is noted."""
        noted = self._gradient(called, batch, step, stop)
        self._descend()
        return noted

    def _gradient(
        self, called: Mapping[str, Any], batch: Batch, step: int | Tensor, stop: bool | Tensor
    ) -> tuple[list[str], Tensor]:
        """The clipped gradient: names and values of what is noted."""
        values = self._differentiate(called, batch, step)
        parameters = [p for group in self.parameters.values() for p in group]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        values["stop"] = stop
        device = self.processes.device
        vector = torch.stack([as_value(value, device) for value in values.values()])
        *gradients, vector = self.processes.average([*gradients, vector], len(batch[0]))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        norms = self._clip()
        names = [*values, *(f"gradient norm {name}" for name in norms)]
        lengths = torch.stack([as_value(norm, device) for norm in norms.values()])
        return names, torch.cat([vector, lengths])

    def _descend(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _clip(self) -> dict[str, Tensor]:
        """Norms of the gradients of the modules, which are then clipped, each on its own."""
        norms = {}
        for name, parameters in self.parameters.items():
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            if self.clips[name] < math.inf:
                clip_grads_with_norm_(parameters, self.clips[name], norm)
            norms[name] = norm
        return norms

    def _differentiate(
        self, called: Mapping[str, Any], batch: Batch, step: int | Tensor
    ) -> dict[str, Tensor | float]:
        """Accumulate the gradient of the loss; its value and the numbers to log."""
        parts = min(self.phase.micro_batches, len(batch[0]))
        total: dict[str, Tensor | float] = {}
        for index, *given in zip(*(t.tensor_split(parts) for t in batch), strict=True):
            tensors = tuple(tensor.clone() for tensor in given)  # a network may work in place
            share = len(index) / len(batch[0])
            loss, logged = self._loss(called, tensors, index, step)
            (loss * share).backward()
            for name, value in {"loss": loss, **logged}.items():
                value = value.detach() if isinstance(value, Tensor) else value
                total[name] = total[name] + share * value if name in total else share * value
        flags = self._attention.flags or {}
        return total | {f"{REFUSED}{what}": flag for what, flag in flags.items()}

    def _loss(
        self, called: Mapping[str, Any], tensors: Batch, index: Tensor, step: int | Tensor
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """The loss of a part of the batch, and what it logs, checked."""
        processes, name = self.processes, self.phase.name
        device = processes.device
        context = StepContext(self.seed, step, index, device, processes.rank, processes.size)
        try:
            with (
                attending(self._attention),
                torch.autocast(device.type, torch.bfloat16, self.autocast),
            ):
                result = self.phase.loss(called, tensors, context)
        except (ValueError, LinAlgError) as error:  # it refuses NaN, or meets it
            self.record.read()  # an earlier step may be the reason
            refused = [what for what, flag in (self._attention.flags or {}).items() if flag]
            if refused:
                raise self.record.diverged(refused[0], self._number, causes=False) from error
            if isinstance(error, NotFiniteError | LinAlgError):
                raise self.record.diverged(str(error), self._number, causes=False) from error
            raise
        loss, logged = result if isinstance(result, tuple) else (result, {})
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            returned = type(loss).__name__
            if isinstance(loss, Tensor):
                returned = f"shape {tuple(loss.shape)}, requires_grad={loss.requires_grad}"
            raise ValueError(
                f"phase {name!r}: loss: {returned}; needed: a scalar tensor that depends "
                f"on the parameters of {list(self.parameters)}"
            )
        if reserved := [n for n in logged if n in RESERVED or n.startswith(DERIVED)]:
            raise ValueError(f"phase {name!r}: loss: it logs {reserved}, names in use")
        return loss, logged
