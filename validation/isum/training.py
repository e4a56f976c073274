"""Trainings of the arms: each one a run in a folder of its own, read where it is finished."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch

from dro_torch.nets.transport import Potential
from dro_torch.transport_map import TransportRestoration, fit_transport_map
from validation import plan
from validation.isum.arms import COMPARISONS, Arm
from validation.isum.data import TEST_SEED, Pools, forward_operator, load_images, measurement
from validation.isum.floors import first_guess
from validation.isum.objectives import map_of, objective
from validation.isum.settings import Config, Precision
from validation.plan import Planned
from validation.side_by_side import side_by_side
from validation.trainings import Spent, clocked, spent, stored


@dataclass(frozen=True)
class Run:
    """One training: of an arm, at a factor of the cost's scale, with a seed, for so many steps."""

    arm: Arm
    factor: float
    seed: int
    steps: int


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    run: Run
    restoration: TransportRestoration
    spent: Spent
    chosen: bool = False  #: whether it is of the full length, at the scale that validation prefers

    @property
    def arm(self) -> Arm:
        """Whose training it is."""
        return self.run.arm

    @property
    def history(self) -> list[dict[str, float]]:
        """PSNR and weights on the validation images while training."""
        assert self.restoration.training is not None
        return self.restoration.training.validation

    @property
    def drift(self) -> float:
        """PSNR of the last validation less that of the best one, in dB."""
        return self.history[-1]["PSNR"] - self.validation["PSNR"]

    @property
    def validation(self) -> dict[str, float]:
        """The row of the history at which the map was kept: the one of the best PSNR."""
        assert self.restoration.training is not None
        return self.restoration.training.best_row or self.history[-1]


def description(config: Config, pools: Pools, run: Run) -> dict[str, object]:
    """Everything that a training depends on: sizes, cost, loss, operator, images, optimiser."""
    size = config.size
    sizes = ("dataset", "images", "validation", "batch", "map", "potential", "rate", "penalty")
    described: dict[str, object] = {name: getattr(size, name) for name in sizes}
    described |= dataclasses.asdict(run.arm) | {"factor": run.factor, "seed": run.seed}
    settings = ("task", "pairing", "noise", "blur", "final_penalty", "precision")
    described |= {name: getattr(config, name) for name in (*settings, "potential_bf16", "faithful")}
    if not run.arm.first:  # as it was before there was a choice
        del described["first"]
    if config.patience:
        described["patience"] = config.patience
    if config.operator:  # what it is, not where: its measurement of one image
        probe = pools.learn[torch.arange(1)][1]
        measured = forward_operator(config).A(probe)
        described["operator"] = zlib.crc32(measured.numpy().tobytes())
    pixels, index = pools.learn.tensors[0], pools.learn.index
    described["pixels"] = zlib.crc32(pixels[index[:2000]].numpy().tobytes())
    described["pool"] = zlib.crc32(index.numpy().tobytes())
    return described | {"steps": run.steps, "channels_last": size.channels_last}


def train(
    config: Config,
    pools: Pools,
    run: Run,
    folder: Path | None,
    log: Callable[[object], None] | None = None,
) -> TransportRestoration:
    """Train one arm, or go on with it, or read it when it is finished."""
    size, arm = config.size, run.arm
    measured, clean = pools.unpaired(config, arm.part == "imbalance")
    measure = measurement(config, arm.levelled)
    channels, side = clean.tensors[0].shape[1:3]
    generator = torch.Generator().manual_seed(run.seed)
    first = first_guess(config, pools) if arm.first else None
    transport = map_of(config, arm, channels, generator, first)
    potential = Potential(
        channels, int(side), size.potential, bf16=config.potential_bf16, generator=generator
    )
    entries = channels * side * side
    loss, options = objective(config, arm, run.factor, entries, measure.forward, first)
    index, x, *_ = pools.validation[torch.arange(len(pools.validation))]
    index, x = index.to(config.device), x.to(config.device)
    y, _ = measure(x, index, seed=TEST_SEED, step=0)
    steps = run.steps
    return fit_transport_map(
        transport,
        potential,
        loss,
        measured,
        clean,
        steps,
        seed=run.seed,
        measure=measure,
        batch_size=size.batch,
        validation=(y, x),
        validate_every=max(1, steps // 10) if log is None else steps,
        best=("PSNR", "max"),
        patience=config.patience or None,
        folder=folder,
        device=config.device,
        precision=cast(Precision, config.precision),
        channels_last=size.channels_last,
        checkpoint_every=max(1, steps // 10),
        log_every=max(1, min(50, steps // 5)) if log is None else 1,
        log=log,
        progress=log is None,
        config={"pairing": config.pairing, "task": config.task, "blur": config.blur},
        **options,
    )


def fit_run(config: Config, pools: Pools, run: Run, out: Path) -> Trained:
    """One run in its folder: under `--set models=`, or the output folder."""
    arm, size = run.arm, config.size
    name = f"{config.task}-{size.dataset}-{arm.name}-{run.factor:g}-{run.seed}-{config.preset}"
    name = name.replace(" ", "_").replace(",", "")
    folder = stored(Path(config.models or out), name, description(config, pools, run))
    print(f"{arm.name}, scale x {run.factor:g}, seed {run.seed}, {run.steps} steps")
    with clocked(folder) as finish:
        restoration = train(config, pools, run, folder)
        finish()
    return Trained(run, restoration, spent(folder))


#: Images of a configuration, read once by every process.
_pools = cache(load_images)


def _train_apart(run: Run, config: Config, out: Path) -> None:
    """What a process of its own does."""
    fit_run(config, _pools(config), run, out)


def fit_runs(config: Config, pools: Pools, runs: Sequence[Run], out: Path) -> list[Trained]:
    """All of them, side by side where that is asked for."""
    side_by_side(partial(_train_apart, config=config, out=out), runs, config.jobs)
    return [fit_run(config, pools, run, out) for run in runs]


def arms_of(config: Config) -> list[Arm]:
    """The arms of the comparisons that are run."""
    return [arm for part in config.size.comparisons for arm in COMPARISONS[part]]


def candidates(config: Config, arm: Arm) -> list[Run]:
    """An arm at every factor, with the first seed: the same budget for every arm."""
    size = config.size
    factors = (arm.fixed,) if arm.fixed else size.factors
    steps = max(1, round(size.tuning * size.steps)) if len(factors) > 1 else size.steps
    return [Run(arm, factor, config.seed, steps) for factor in factors]


def trainings(config: Config, arm: Arm, factor: float) -> list[Run]:
    """An arm at its factor, with all seeds."""
    return [Run(arm, factor, config.seed + i, config.size.steps) for i in range(config.size.seeds)]


def fit_arms(config: Config, pools: Pools, out: Path) -> list[Trained]:
    """What is tried, and all seeds of every arm at the scale that validation prefers (chosen)."""
    arms = arms_of(config)
    tried = fit_runs(config, pools, [r for arm in arms for r in candidates(config, arm)], out)
    wanted: list[Run] = []
    for arm in arms:
        best = max((t for t in tried if t.arm == arm), key=lambda t: t.validation["PSNR"])
        wanted += trainings(config, arm, best.run.factor)
    done = {one.run: one for one in tried}
    more = [run for run in wanted if run not in done]
    done |= {one.run: one for one in fit_runs(config, pools, more, out)}
    order = sorted(done.values(), key=lambda one: arms.index(one.arm))
    return [dataclasses.replace(one, chosen=one.run in wanted) for one in order]


def chosen(tried: Sequence[Trained]) -> list[Trained]:
    """The trainings at the chosen scales."""
    return [run for run in tried if run.chosen]


def tuning_row(arm: Arm) -> str:
    """The name in the plan of what an arm's scale is chosen by."""
    return f"{arm.name}: scales"


def _timed(
    config: Config, pools: Pools, arm: Arm, steps: int, log: Callable[[object], None]
) -> None:
    train(config, pools, Run(arm, 1.0, config.seed, steps), None, log)


def plan_rows(config: Config, pools: Pools) -> list[Planned]:
    """Every arm with the minutes that its trainings need, and what is tried before them."""
    rows = []
    for arm in arms_of(config):
        tried, final = candidates(config, arm), trainings(config, arm, 1.0)
        each = plan.seconds_per_step(partial(_timed, config, pools, arm))
        counted = {(run.seed, run.steps) for run in tried}
        new = sum((run.seed, run.steps) not in counted for run in final)
        for name, steps, number in (
            (tuning_row(arm), tried[0].steps, len(tried)),
            (arm.name, config.size.steps, new),
        ):
            if number:
                rows.append(Planned(name, steps, number, number * steps * each / 60))
    return rows


def minutes_of(config: Config, tried: Sequence[Trained]) -> dict[str, float]:
    """What they took, by the names in the plan."""
    taken: dict[str, float] = {}
    for one in tried:
        tuned = one.run in candidates(config, one.arm)
        name = tuning_row(one.arm) if tuned else one.arm.name
        taken[name] = taken.get(name, 0.0) + one.spent.cpu_seconds / 60
    return taken
