"""What an arm trains with: its map, its loss, and what else the engine is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from dro_torch.losses.unbalanced import (
    LikelihoodCost,
    UnbalancedOTLoss,
    cost_scale,
    gradient_penalty_weight,
)
from dro_torch.losses.unpaired import CriticOTLoss, neural_ot_loss
from dro_torch.nets.transport import TransportMap
from validation.isum.arms import Arm
from validation.isum.data import upsampling
from validation.isum.settings import Config

#: Weights of OTUR's root of the mean square and of RCOT's Fourier term, before factors.
DISTANCE, FOURIER = 30.0, 10.0
#: Rates of OTUR and RCOT (map, critic) with RMSprop, where their own settings are asked for.
OWN_RATES = 1e-4, 5e-5


class Options(TypedDict, total=False):
    """What an arm tells the engine beside the settings of all."""

    map_rate: float
    potential_rate: float
    optimizer: Literal["adam", "rmsprop"]
    potential_every: int
    final_gradient_penalty: float
    final_scale: float


def map_of(
    config: Config,
    arm: Arm,
    channels: int,
    generator: torch.Generator,
    first: nn.Module | None = None,
) -> TransportMap:
    """The same network for all; RCOT's sees its own residual in a second pass.

    With a first reconstruction it corrects that one.
    """
    return TransportMap(
        channels,
        config.size.map,
        upsample=first or upsampling(config.task),
        two_pass=arm.method == "RCOT",
        generator=generator,
    )


def objective(
    config: Config,
    arm: Arm,
    factor: float,
    entries: int,
    forward: Callable[[Tensor], Tensor],
    first: nn.Module | None = None,
) -> tuple[UnbalancedOTLoss | CriticOTLoss, Options]:
    """The loss of an arm at a factor of its scale, for signals of so many entries.

    Its quadratic term is measured from the first reconstruction, if there is one.
    """
    rate = config.size.rate
    options: Options = {"map_rate": rate, "potential_rate": rate / 2}
    up = upsampling(config.task)
    enlarge = up if up > 1 else None
    scale = factor * arm.scale * cost_scale(entries)
    if arm.method in ("OTUR", "RCOT"):
        fourier = factor * FOURIER if arm.method == "RCOT" else 0.0
        if config.faithful:
            options |= {
                "map_rate": OWN_RATES[0],
                "potential_rate": OWN_RATES[1],
                "optimizer": "rmsprop",
            }
        return CriticOTLoss(factor * DISTANCE, fourier, upsample=enlarge), options
    if arm.method == "NOT":
        options["potential_every"] = 10
        mean = factor if config.faithful else scale * entries
        return neural_ot_loss(entries, scale=mean, upsample=enlarge), options
    if arm.start != 1.0:
        options["final_scale"] = scale
    cost = LikelihoodCost(
        forward, arm.likelihood, arm.quadratic, scale * arm.start, first or enlarge
    )
    loss = UnbalancedOTLoss(
        cost,
        arm.divergence,
        source_divergence=arm.source or None,
        centre_cost=not arm.invariant,
        translation_invariant=arm.invariant,
        gradient_penalty=config.size.penalty * gradient_penalty_weight(entries),
    )
    share = 1.0 if arm.balanced else config.final_penalty  # nothing but R1 holds a balanced one
    options["final_gradient_penalty"] = share * loss.gradient_penalty
    return loss, options
