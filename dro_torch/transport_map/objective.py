"""What the engine is given: the losses of both steps, and the validation that watches them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dro_core.checks import as_scalar
from dro_torch.losses.likelihood import LikelihoodCost
from dro_torch.losses.unbalanced import UnbalancedOTLoss
from dro_torch.losses.unpaired import CriticOTLoss
from dro_torch.metrics.images import psnr
from dro_torch.nets.transport import Potential
from dro_torch.training.phase import Batch, StepContext
from dro_torch.transport_map.measurement import (
    MAP_STREAM,
    POTENTIAL_STREAM,
    WATCHED_STREAM,
    Measure,
)
from dro_torch.transport_map.restoration import TransportRestoration

#: Part of a run after which the gradient penalty is annealed.
ANNEALED = 0.5


@dataclass(frozen=True)
class Annealing:
    """The weight of the gradient penalty: `first`, and linearly to `last` in the second half."""

    first: float
    last: float
    steps: int

    def __call__(self, step: int) -> float:
        """The weight in a step."""
        after = max(0.0, (step / self.steps - ANNEALED) / (1 - ANNEALED))
        return self.first + (self.last - self.first) * after


def likelihood_cost(loss: nn.Module) -> LikelihoodCost | None:
    """The cost of a loss, if it is one that the result may keep."""
    cost = getattr(loss, "cost", None)
    return cost if isinstance(cost, LikelihoodCost) else None


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of a cost: its own, and geometrically to `end` over the run."""

    cost: LikelihoodCost | None
    start: float
    end: float
    steps: int

    @classmethod
    def of(cls, cost: LikelihoodCost | None, end: float | None, steps: int) -> Scale:
        """That of a cost, which stays as it is if no end is given."""
        if end is None:
            return cls(cost, 1.0, 1.0, steps)
        if cost is None:
            raise ValueError("final_scale: the loss has no LikelihoodCost whose scale could change")
        if as_scalar(end, "final_scale", "a number > 0") <= 0:
            raise ValueError(f"final_scale: {end}; allowed: a number > 0")
        return cls(cost, cost.scale, float(end), steps)

    def set(self, step: int) -> None:
        """Give the cost its scale of this step: a function of the step, so that a run resumes."""
        if self.cost is not None and self.start != self.end:
            share = step / max(1, self.steps - 1)
            self.cost.scale = self.start * (self.end / self.start) ** share

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Leave the cost as it was."""
        before = None if self.cost is None else self.cost.scale
        try:
            yield
        finally:
            if self.cost is not None and before is not None:
                self.cost.scale = before

    @property
    def last(self) -> LikelihoodCost | None:
        """The cost as it is at the end of the run."""
        if self.cost is None or self.start == self.end:
            return self.cost
        found = copy.copy(self.cost)
        found.scale = self.end
        return found


@dataclass(frozen=True)
class Measurements:
    """(measurements, groups) of (images, groups), or of what is in the pool as it is."""

    measure: Measure | None

    def __call__(
        self, batch: Sequence[Tensor], context: StepContext, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Of the tensors of a batch; groups of the pool take precedence, zeros are the last."""
        y, groups = batch[0], batch[1] if len(batch) > 1 else None
        if self.measure is not None:
            y, own = self.measure(
                y.clone(), context.index, seed=context.seed, step=int(context.step), stream=stream
            )
            groups = own if groups is None else groups
        return y, torch.zeros_like(context.index) if groups is None else groups


class Monitor(nn.Module):
    """What the last validation found, as buffers: a resumed run shows the same numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("values", torch.zeros(len(self.names)))

    values: Tensor

    def keep(self, numbers: Mapping[str, float]) -> None:
        self.values.copy_(torch.tensor([numbers[name] for name in self.names]))

    def shown(self, context: StepContext) -> dict[str, Tensor]:
        """The first process knows them; means over the processes then are what it knows."""
        factor = context.world_size if context.rank == 0 else 0
        return {name: factor * self.values[i].clone() for i, name in enumerate(self.names)}


class Watch:
    """The validation: weights of a few measurements of the pool by group, and the PSNR.

    Parameters
    ----------
    few : (index, tensors ...)
        Of the pool.
    pairs : (y, x), optional
        Measurements and their true images.
    """

    def __init__(
        self,
        loss: UnbalancedOTLoss | CriticOTLoss,
        potential: Potential,
        measurements: Measurements,
        few: Sequence[Tensor],
        pairs: tuple[Tensor, Tensor] | None,
        seed: int,
    ) -> None:
        self.loss, self.potential, self.measurements = loss, potential, measurements
        self.few, self.pairs, self.seed = few, pairs, seed
        names = [f"weight {group}" for group in sorted(set(self._watched()[1].tolist()))]
        self.monitor = Monitor(names + ["PSNR"] * (pairs is not None))

    def __call__(self, modules: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a validation, kept by the monitor."""
        y, groups = self._watched()
        weights = self.loss.weights(modules["v"], modules["T"], y, groups)
        assert isinstance(weights, dict)
        numbers = {f"weight {group}": weight for group, weight in weights.items()}
        if self.pairs is not None:
            restoration = TransportRestoration(modules["T"])
            like = next(modules["T"].parameters())
            y, x = (part.to(like.device, like.dtype) for part in self.pairs)
            numbers["PSNR"] = float(psnr(x, restoration.restore(y), 2.0).mean())
        self.monitor.keep(numbers)
        return numbers

    def _watched(self) -> tuple[Tensor, Tensor]:
        kind = next(self.potential.parameters())
        index, *tensors = (
            t.to(kind.device, kind.dtype if t.is_floating_point() else t.dtype) for t in self.few
        )
        context = StepContext(self.seed, 0, index, kind.device)
        return self.measurements(tensors, context, WATCHED_STREAM)


@dataclass(frozen=True, eq=False)
class Steps:
    """The losses of the two steps, as the engine calls them."""

    loss: UnbalancedOTLoss | CriticOTLoss
    measurements: Measurements
    penalty: Annealing
    scale: Scale
    monitor: Monitor
    watched_from: int

    def potential(
        self, modules: Mapping[str, Any], batch: Batch, context: StepContext
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """That of v, for (measured images ..., clean images)."""
        y, _ = self.measurements(batch[:-1], context, POTENTIAL_STREAM)
        self.scale.set(int(context.step))
        value = self.loss.potential_loss(
            modules["v"],
            modules["T"],
            y,
            batch[-1],
            gradient_penalty=self.penalty(int(context.step)),
        )
        return value, self.loss.components

    def map(
        self, modules: Mapping[str, Any], batch: Batch, context: StepContext
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """That of T, for (measured images ...); it shows the last validation, too."""
        y, _ = self.measurements(batch, context, MAP_STREAM)
        self.scale.set(int(context.step))
        value = self.loss.map_loss(modules["v"], modules["T"], y)
        shown = self.monitor.shown(context) if context.step >= self.watched_from else {}
        return value, {"cost": self.loss.components["cost"], **shown}
