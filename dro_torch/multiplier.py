r"""The multiplier λ of the dual: minimise :math:`\lambda\rho^2 + \mathbb E\,\varphi_\lambda`.

`Multiplier` learns it together with the map; `bisect_multiplier` is the paper's outer loop, one
training per candidate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from dro_core.bisection import Bisection, bisect_interval
from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    as_radius,
    as_scalar,
    check_option,
)
from dro_core.described import Described


class Multiplier(nn.Module):
    r"""A positive multiplier that is learned with the map.

    .. math:: \min_{B,\lambda}\ \lambda\rho^2 + \mathbb E\,\varphi_\lambda,
              \qquad \lambda = \text{lower} + e^\theta

    ``criterion(model, x, y, multiplier()) + multiplier.penalty()`` is the objective; give θ the
    optimiser that trains the map. The potential decreases in λ and the penalty increases, so at
    a stationary point the adversary's mean transport cost is the budget ρ².

    Parameters
    ----------
    radius : float
        Radius ρ >= 0 in the units of the data (the adjusted one for the entropic loss).
    initial : float
        First value of λ, above `lower`.
    lower : float
        A value that λ stays above: an estimate from samples is finite even where the worst-case
        risk is not, so a learned λ has no barrier of its own at κ².
    trainable : bool
        False keeps λ at `initial`.

    Raises
    ------
    ValueError
        A negative or non-finite radius or bound, or initial <= lower.

    Source: paper §3 (dual), §6.1.2 (the paper bisects).
    """

    theta: Tensor
    lower: Tensor

    def __init__(
        self, radius: float, initial: float = 1.0, *, lower: float = 0.0, trainable: bool = True
    ) -> None:
        super().__init__()
        self.radius = as_radius(radius)
        lower = as_non_negative(lower, "lower")
        initial = as_scalar(initial, "initial", "a number > lower")
        if initial <= lower:
            raise ValueError(f"initial: {initial} is not above lower, {lower}")
        self.register_buffer("lower", torch.tensor(lower, dtype=torch.float64))
        theta = torch.tensor(math.log(initial - lower), dtype=torch.float64)
        self.theta = nn.Parameter(theta, requires_grad=bool(trainable))

    def forward(self) -> Tensor:
        """λ as a 0-d float64 tensor with its graph."""
        return self.lower + self.theta.exp()

    def penalty(self) -> Tensor:
        """λρ², the budget's term of the dual."""
        result: Tensor = self() * self.radius**2
        return result

    @torch.no_grad()
    def raise_lower(self, value: float) -> None:
        """Move the lower bound up to `value`; λ stays where it is, or 0.1 % above the bound."""
        bound = as_non_negative(value, "value")
        if bound <= float(self.lower):
            return
        current = self().item()
        self.lower.fill_(bound)
        self.theta.fill_(math.log(max(current - bound, 1e-3 * bound)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Multiplier:
        """Moves to another device apply; λ stays in float64 whatever the model's precision."""
        kept = self.theta.data, self.lower
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.theta.device
        self.theta.data, self.lower = (value.to(device) for value in kept)
        return self

    def extra_repr(self) -> str:
        """Radius and current value."""
        return f"radius={self.radius:g}, value={self().item():.6g}, lower={float(self.lower):.6g}"


Optimiser = Literal["adam", "mirror-descent"]


class StochasticDescent:
    r"""The paper's inner optimiser: stochastic mirror descent with decaying steps, or Adam.

    ``"mirror-descent"`` is the Euclidean mirror map, steps :math:`\gamma/\sqrt t`, and returns the
    average of the second half of the iterates; ``"adam"`` keeps its rate.

    Parameters
    ----------
    objective : callable
        (model, step) -> 0-d tensor, the stochastic objective at a step, without gradients in λ.
    optimiser : "adam" or "mirror-descent"
    rate : float
        Adam's rate, or γ.

    Attributes
    ----------
    gradient_evaluations : int
        Steps taken so far, over all calls.
    """

    def __init__(
        self,
        objective: Callable[[nn.Module, float, int], Tensor],
        optimiser: Optimiser = "adam",
        rate: float = 1e-3,
    ) -> None:
        check_option(optimiser, "optimiser", ("adam", "mirror-descent"))
        self.objective, self.optimiser = objective, optimiser
        self.rate = as_scalar(rate, "rate", "a number > 0")
        if self.rate <= 0:
            raise ValueError(f"rate: {self.rate}; allowed: a number > 0")
        self.gradient_evaluations = 0

    def __call__(self, model: nn.Module, multiplier: float, steps: int) -> None:
        """Train the model in place for `steps` steps at a fixed multiplier."""
        steps = as_positive_integer(steps, "steps")
        descend = torch.optim.Adam if self.optimiser == "adam" else torch.optim.SGD
        optimiser = descend(model.parameters(), lr=self.rate)
        average = None if self.optimiser == "adam" else AveragedModel(model)
        for t in range(1, steps + 1):
            if average is not None:
                for group in optimiser.param_groups:
                    group["lr"] = self.rate / math.sqrt(t)
            optimiser.zero_grad(set_to_none=True)
            loss = self.objective(model, multiplier, self.gradient_evaluations)
            if not math.isfinite(float(loss.detach())):
                raise FloatingPointError(
                    f"the objective is {float(loss.detach())} at step {t} with multiplier "
                    f"{multiplier:.6g}; take a smaller rate than {self.rate:g}"
                )
            loss.backward()
            optimiser.step()
            self.gradient_evaluations += 1
            if average is not None and 2 * t > steps:
                average.update_parameters(model)
        if average is not None:
            model.load_state_dict(average.module.state_dict())


@dataclass(frozen=True, repr=False)
class BisectedMultiplier(Described):
    """What `bisect_multiplier` found: λ, its objective, and the outer loop with every candidate."""

    multiplier: float
    objective: float
    bisection: Bisection


def bisect_multiplier(
    model: nn.Module,
    train: Callable[[nn.Module, float, int], object],
    evaluate: Callable[[nn.Module, float], float],
    *,
    low: float,
    high: float,
    tolerance: float,
    steps: int,
    last_steps: int,
) -> BisectedMultiplier:
    """The paper's outer loop: bisection over λ, one training per candidate, warm-started.

    Every candidate trains on from the map of the best candidate so far. At the end the model
    holds that map, trained for `last_steps` more at its multiplier.

    Parameters
    ----------
    model : Module
        Trained in place.
    train : callable
        (model, multiplier, steps) -> anything: trains in place; `StochasticDescent` is one.
    evaluate : callable
        (model, multiplier) -> the validation objective *with* its budget term λρ².
    low, high, tolerance : float
        Interval of λ > 0 and the width at which to stop.
    steps, last_steps : int
        Training steps per candidate, and of the last training (0 for none).

    Raises
    ------
    ValueError
        low <= 0, low >= high, tolerance <= 0, steps < 1, or an objective that is NaN.

    Source: paper §6.1.2.
    """
    steps = as_positive_integer(steps, "steps")
    if as_scalar(low, "low", "a number > 0") <= 0:
        raise ValueError(f"low: {low}; a multiplier is > 0")
    best: tuple[float, float, dict[str, Any]] = (math.inf, low, _copy_of_state(model))

    def candidate(multiplier: float) -> float:
        nonlocal best
        model.load_state_dict(best[2])
        train(model, multiplier, steps)
        value = float(evaluate(model, multiplier))
        if value < best[0]:
            best = (value, multiplier, _copy_of_state(model))
        return value

    bisection = bisect_interval(candidate, low, high, tolerance)
    model.load_state_dict(best[2])
    if last_steps:
        train(model, best[1], as_positive_integer(last_steps, "last_steps"))
    return BisectedMultiplier(best[1], best[0], bisection)


def _copy_of_state(model: nn.Module) -> dict[str, Any]:
    return copy.deepcopy(model.state_dict())
