"""The experiment of one ball: tune every family, train, attack, and judge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dro_torch import certificate_curve, nets
from validation.experiment import Claim
from validation.frontier.arms import BALL, LONGER, MIXED, MSE, PLAIN, candidate, declared, passes
from validation.frontier.plots import plot_frontier
from validation.frontier.settings import (
    ATTACK_STEPS,
    TUNING_IMAGES,
    TUNING_STEPS,
    Config,
    grids,
)
from validation.mnist.arms import Arm, Trained, fit_arm, train_side_by_side
from validation.mnist.measure import by_level, ratio
from validation.mnist.settings import Config as DigitConfig
from validation.mnist.settings import Preset
from validation.mnist.study import DigitStudy, training_row
from validation.mnist.tasks import PIXELS, Splits, Task
from validation.results import progress, write_json
from validation.tables import Row, Tables

#: Disjoint sets of test images that are attacked.
SUBSETS = 2


def spectral(size: Preset, generator: torch.Generator) -> nn.Module:
    """A U-Net with a guaranteed constant of one."""
    return nets.UNet(
        1, 1, size.depth, size.width, spectral=True, lipschitz=1.0, generator=generator
    )


class Frontier(DigitStudy):
    """Arms on one ball, measured clean and under the same attack."""

    figure = "frontier"
    target: ClassVar[float]  #: radius that is trained for, in the units of the cost
    weighted: ClassVar[bool]

    def radius(self, config: DigitConfig) -> float:
        """The target radius."""
        given = config.target if isinstance(config, Config) else 0.0
        return given or self.target

    def task_of(self, arm: Arm) -> Task:
        """The spectral network has a task of its own."""
        if arm.name != "spectral network":
            return self.task
        return dataclasses.replace(self.task, name=f"{self.task.name} spectral", network=spectral)

    def families(self) -> list[str]:
        """What is tuned; shaped jitter is jitter where the ball is isotropic."""
        return [name for name in grids(1.0) if name != "shaped" or self.weighted]

    def candidates(self, config: DigitConfig) -> list[tuple[str, float, Arm]]:
        """(family, value, arm) of every candidate."""
        target, kind = self.radius(config), _own(config)
        return [
            (family, value, candidate(family, value, kind, target))
            for family in self.families()
            for value in grids(target)[family]
        ]

    def tuned(self, config: DigitConfig, data: Splits, out: Path) -> Config:
        """Every family's candidate with the smallest error under attack on validation images."""
        kind = _own(config)
        if not (config.size.targets or config.select):
            return kind
        tried = self.candidates(config)
        train_side_by_side([(config, self.task, arm) for *_, arm in tried], out)
        images = data.check[torch.arange(min(TUNING_IMAGES, len(data.check)))][1]
        target = self.radius(config)
        scores: dict[tuple[str, float], float] = {}
        for family, value, arm in progress(tried, "selection"):
            trained = fit_arm(config, self.task, arm, data.learn, out)
            row = attacked(trained.model, self.task, images, [target], TUNING_STEPS)[0]
            scores[family, value] = float(row["attack_rmse"])
        chosen: dict[str, Any] = {}
        for family in self.families():
            errors = {v: score for (name, v), score in scores.items() if name == family}
            chosen[family] = min(errors, key=errors.__getitem__)
        listed = {f"{family} {value:g}": score for (family, value), score in scores.items()}
        write_json(out / "selection.json", {"chosen": chosen, "attack RMSE": listed})
        return dataclasses.replace(kind, **chosen)

    def declared(self, config: DigitConfig) -> list[Arm]:
        """Every way of training."""
        return declared(_own(config), self.radius(config), self.weighted)

    def extra(self, config: DigitConfig) -> list[Arm]:
        """The candidates, for the plan."""
        return [arm for *_, arm in self.candidates(config)] if config.size.targets else []

    def measures(self, config: DigitConfig, data: Splits, arms: Sequence[Trained]) -> Tables:
        """Clean and attacked, on disjoint sets of test images, at half, once, twice the target."""
        target, count = self.radius(config), config.size.attacked
        rows: list[Row] = []
        for trained in progress(arms, "attack"):
            found = []
            for k in range(SUBSETS):
                at = torch.arange(k * count, (k + 1) * count)
                images = data.test[at[at < len(data.test)] if k == 0 else at % len(data.test)][1]
                task = self.task_of(trained.arm)
                radii = [target / 2, target, 2 * target]
                found.append(
                    attacked(trained.model, task, images.to(config.device), radii, ATTACK_STEPS)
                )
            for same in zip(*found, strict=True):
                rows.append(_averaged(trained.arm.name, same))
        return {"attacks": rows}

    def tables(self, arms: Sequence[Trained], measured: Tables) -> Tables:
        """What a training took, in passes too."""
        plain = PLAIN
        training = [
            {**training_row(t), "passes / plain": passes(t.arm, _SAMPLES) / plain} for t in arms
        ]
        return {"training": training, **measured}

    def claims(self, config: DigitConfig, measured: Tables) -> list[Claim]:
        """What every ball is judged by: the loss of the ball against the best jitter."""
        rows, target = measured["attacks"], self.radius(config)
        best = best_of(rows, (BALL, "ball, 2 steps", MIXED), target)
        return [
            *against(rows, MIXED, self.rival, target, self.goal),
            *against(rows, BALL, self.rival, target, self.goal),
            Claim(
                f"arms of other families that dominate {MIXED} (clean and attacked)",
                float(len(dominating(rows, MIXED, target, ("ball", MIXED)))),
                0.0,
                high=0.0,
            ),
            Claim(
                f"RMSE under attack, {best} / jitter at equal passes",
                *ratio(rows, best, LONGER, target, "attack_rmse"),
                high=1.0,
            ),
            Claim(
                f"RMSE under attack, {best} / MSE",
                *ratio(rows, best, MSE, target, "attack_rmse"),
                high=1.0,
            ),
            Claim(
                f"network passes of a step, {MIXED} / jitter",
                passes(_named(self.declared(config), MIXED), _SAMPLES) / PLAIN,
                0.0,
                high=3.0,
            ),
        ]

    rival: ClassVar[str]  #: the jitter that is to be beaten
    goal: ClassVar[float]

    def plots(
        self,
        config: DigitConfig,
        data: Splits,
        arms: Sequence[Trained],
        measured: Tables,
        out: Path,
    ) -> None:
        """The frontier."""
        plot_frontier(out / self.figure, measured["attacks"], self.radius(config))


#: Draws of the entropic loss at every preset but the smallest.
_SAMPLES = 4


def _own(config: DigitConfig) -> Config:
    if not isinstance(config, Config):
        raise TypeError(f"config: {type(config).__name__}; the frontier has settings of its own")
    return config


def _named(arms: Sequence[Arm], name: str) -> Arm:
    return next(arm for arm in arms if arm.name == name)


def attacked(
    model: nn.Module, task: Task, images: Tensor, radii: Sequence[float], steps: int
) -> list[Row]:
    """Clean RMSE, and that under the attack of `certify`, whose samples share the budget."""
    x, y = task.pair(images)
    found = certificate_curve(model, x, y, radii, task.structure, steps=steps)
    return [
        {
            "radius": entry.radius,
            "attack_rmse": math.sqrt(entry.lower / PIXELS),
            "clean_rmse": math.sqrt(entry.nominal / PIXELS),
            "certified_rmse": (
                math.nan if entry.upper is None else math.sqrt(entry.upper / PIXELS)
            ),
        }
        for entry in found
    ]


def _averaged(name: str, same: Sequence[Row]) -> Row:
    """Means over the sets of images, with their standard deviations."""
    row: Row = {"arm": name, "radius": same[0]["radius"]}
    for key in ("attack_rmse", "clean_rmse", "certified_rmse"):
        values = np.array([float(one[key]) for one in same])
        row[key] = float(values.mean())
        if key != "certified_rmse":
            row[f"{key}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return row


def against(rows: Sequence[Row], arm: str, rival: str, target: float, goal: float) -> list[Claim]:
    """Error under attack below `goal` of the rival's, at no worse clean error."""
    return [
        Claim(
            f"RMSE under attack at the target radius, {arm} / {rival}",
            *paired(rows, arm, rival, target, "attack_rmse"),
            high=goal,
        ),
        Claim(
            f"clean RMSE, {arm} / {rival}",
            *paired(rows, arm, rival, target, "clean_rmse"),
            high=1.0,
        ),
    ]


def paired(
    rows: Sequence[Row], arm: str, other: str, level: float, column: str
) -> tuple[float, float]:
    """The ratio at a radius; both arms saw the same images, so the seeds give the band."""
    value, _ = ratio(rows, arm, other, level, column)
    return value, 0.0


def best_of(rows: Sequence[Row], names: Sequence[str], target: float) -> str:
    """The arm with the smallest error under attack."""
    return min(names, key=lambda name: by_level(rows, name, "attack_rmse")[target])


def dominating(rows: Sequence[Row], arm: str, target: float, own: Sequence[str]) -> list[str]:
    """Arms that are better both clean and under attack, but for those of its own family."""
    names = dict.fromkeys(str(row["arm"]) for row in rows)
    points = {
        name: tuple(by_level(rows, name, key)[target] for key in ("clean_rmse", "attack_rmse"))
        for name in names
    }
    mine = points[arm]
    return [
        name
        for name, point in points.items()
        if not name.startswith(tuple(own)) and point[0] < mine[0] and point[1] < mine[1]
    ]
