"""Trainings of the arms: each one a run in a folder of its own, read where it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from dro_torch.losses.unbalanced import (
    LikelihoodCost,
    UnbalancedOTLoss,
    cost_scale,
    gradient_penalty_weight,
)
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.transport_map import TransportRestoration, fit_transport_map
from validation.isum.arms import COMPARISONS, Arm
from validation.isum.data import TEST_SEED, Pools, measurement, upsampling
from validation.isum.settings import Config, Precision
from validation.results import write_json


@dataclass(frozen=True)
class Trained:
    """One training of an arm."""

    arm: Arm
    factor: float
    seed: int
    restoration: TransportRestoration
    seconds: float
    chosen: bool = False  #: whether validation prefers its scale

    @property
    def history(self) -> list[dict[str, float]]:
        """PSNR and weights on the validation images while training."""
        assert self.restoration.training is not None
        return self.restoration.training.validation

    @property
    def validation(self) -> dict[str, float]:
        """The last row of the history."""
        return self.history[-1]


def seconds_of(clock: Path) -> float:
    """What was written there; zero before the first time."""
    return float(json.loads(clock.read_text())["seconds"]) if clock.exists() else 0.0


@contextmanager
def clocked(clock: Path) -> Iterator[None]:
    """Add the seconds spent inside to those written, however it ends."""
    start = time.perf_counter()
    try:
        yield
    finally:
        write_json(clock, {"seconds": seconds_of(clock) + time.perf_counter() - start})


def fit_arm(config: Config, pools: Pools, arm: Arm, factor: float, seed: int, out: Path) -> Trained:
    """Train one arm, or go on with it, or read it when it is finished."""
    size = config.size
    measured, clean = pools.unpaired(config, arm.part == "imbalance")
    measure = measurement(config, arm.part)
    channels, side = clean.tensors[0].shape[1:3]
    entries = channels * side * side
    generator = torch.Generator().manual_seed(seed)
    factor_up = upsampling(config.task)
    transport = TransportMap(channels, size.map, upsample=factor_up, generator=generator)
    potential = Potential(channels, int(side), size.potential, generator=generator)
    cost = LikelihoodCost(
        measure.forward,
        arm.likelihood,
        arm.quadratic,
        factor * arm.scale * cost_scale(entries),
        factor_up if factor_up > 1 else None,
    )
    loss = UnbalancedOTLoss(
        cost, arm.divergence, centre_cost=True, gradient_penalty=gradient_penalty_weight(entries)
    )
    index, x, *_ = pools.validation[torch.arange(len(pools.validation))]
    index, x = index.to(config.device), x.to(config.device)
    y, _ = measure(x, index, seed=TEST_SEED, step=0)
    name = f"{config.task}-{size.dataset}-{arm.name}-{factor:g}-{seed}".replace(" ", "_")
    folder = out / "arms" / name.replace(",", "")
    print(f"{arm.name}, scale x {factor:g}, seed {seed}")
    with clocked(folder / "seconds.json"):
        restoration = fit_transport_map(
            transport,
            potential,
            loss,
            measured,
            clean,
            size.steps,
            seed=seed,
            measure=measure,
            batch_size=size.batch,
            map_rate=size.rate,
            potential_rate=size.rate / 2,
            final_gradient_penalty=0.0,
            validation=(y, x),
            validate_every=max(1, size.steps // 10),
            folder=folder,
            device=config.device,
            precision=cast(Precision, config.precision),
            checkpoint_every=max(1, size.steps // 10),
            log_every=max(1, min(50, size.steps // 5)),
            config={"pairing": config.pairing, "task": config.task, "blur": config.blur},
        )
    return Trained(arm, factor, seed, restoration, seconds_of(folder / "seconds.json"))


def fit_arms(config: Config, pools: Pools, out: Path) -> list[Trained]:
    """Everything that is tried; of it, all seeds of every arm at the scale that validation prefers.

    The first seed tries every factor: the same budget for every arm.
    """
    size, found = config.size, list[Trained]()
    for part in size.comparisons:
        for arm in COMPARISONS[part]:
            factors = (1.0,) if part == "paper-scale" else size.factors
            runs = [fit_arm(config, pools, arm, factor, config.seed, out) for factor in factors]
            best = max(runs, key=lambda run: run.validation["PSNR"])
            more = [
                fit_arm(config, pools, arm, best.factor, config.seed + i, out)
                for i in range(1, size.seeds)
            ]
            found += [replace(run, chosen=run is best) for run in runs]
            found += [replace(run, chosen=True) for run in more]
    return found


def chosen(tried: Sequence[Trained]) -> list[Trained]:
    """The trainings at the chosen scales."""
    return [run for run in tried if run.chosen]
