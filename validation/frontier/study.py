"""The experiment of one ball: tune every family, train, attack, and judge."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from dro_torch import nets
from validation.experiment import Claim
from validation.frontier.arms import (
    BALL,
    JITTER,
    LONGER,
    MIXED,
    MSE,
    SPECTRAL,
    candidate,
    declared,
)
from validation.frontier.plots import plot_frontier
from validation.frontier.settings import (
    ATTACK_STEPS,
    TUNING_IMAGES,
    TUNING_STEPS,
    Config,
    grids,
)
from validation.mnist.arms import Arm, Trained
from validation.mnist.measure import attacked, by_level
from validation.mnist.settings import Config as DigitConfig
from validation.mnist.settings import Preset
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Splits, Task
from validation.mnist.tuning import chosen
from validation.results import progress, write_json
from validation.settings import of_kind
from validation.side_by_side import side_by_side
from validation.tables import Row, Tables

#: Disjoint sets of test images that are attacked.
SUBSETS = 2
#: What is measured of every arm.
ERRORS = ("attack_rmse", "clean_rmse", "certified_rmse")


def spectral(size: Preset, generator: torch.Generator) -> nn.Module:
    """A U-Net with a guaranteed constant of one."""
    return nets.UNet(
        1, 1, size.depth, size.width, spectral=True, lipschitz=1.0, generator=generator
    )


class Frontier(ImageStudy):
    """Arms on one ball, measured clean and under the same attack."""

    figure = "frontier"
    target: ClassVar[float]  #: radius that is trained for, in the units of the cost
    weighted: ClassVar[bool]
    rival: ClassVar[str]  #: the jitter that is to be beaten
    goal: ClassVar[float]  #: share of its error under attack

    def radius(self, config: DigitConfig) -> float:
        """The target radius."""
        given = config.target if isinstance(config, Config) else 0.0
        return given or self.target

    def task_of(self, arm: Arm) -> Task:
        """The spectral network has a task of its own."""
        if arm.name != SPECTRAL:
            return self.task
        return dataclasses.replace(self.task, name=f"{self.task.name} spectral", network=spectral)

    def families(self) -> list[str]:
        """What is tuned; shaped jitter is jitter where the ball is isotropic."""
        return [name for name in grids(1.0) if name != "shaped" or self.weighted]

    def candidates(self, config: DigitConfig) -> list[tuple[str, float, Arm]]:
        """(family, value, arm) of every candidate."""
        target, kind = self.radius(config), of_kind(config, Config)
        return [
            (family, value, candidate(family, value, kind, target))
            for family in self.families()
            for value in grids(target)[family]
        ]

    def tuned(self, config: DigitConfig, data: Splits, out: Path) -> Config:
        """Every family's candidate with the smallest error under attack on validation images."""
        kind = of_kind(config, Config)
        if not (config.size.targets or config.select):
            return kind
        images = data.check[torch.arange(min(TUNING_IMAGES, len(data.check)))][1]
        target = self.radius(config)

        def error(trained: Trained) -> float:
            rows = attacked(trained.model, self.task, images, [target], TUNING_STEPS)
            return float(rows[0]["attack_rmse"])

        tried = [(f, v, (config, self.task, arm)) for f, v, arm in self.candidates(config)]
        best: dict[str, Any] = {**chosen(tried, data.learn, error, "attack RMSE", out)}
        return dataclasses.replace(kind, **best)

    def declared(self, config: DigitConfig) -> list[Arm]:
        """Every way of training."""
        return declared(of_kind(config, Config), self.radius(config), self.weighted)

    def extra(self, config: DigitConfig) -> list[Arm]:
        """The candidates, for the plan."""
        return [arm for *_, arm in self.candidates(config)] if config.size.targets else []

    def measures(self, config: DigitConfig, data: Splits, arms: Sequence[Trained]) -> Tables:
        """Clean and attacked, on disjoint sets of test images, at half, once, twice the target."""
        target = self.radius(config)
        return self.measured(config, arms, [target / 2, target, 2 * target])

    def again(self, config: DigitConfig, data: Splits, out: Path) -> Tables:
        """Claims are about the target radius alone."""
        return self.measured(config, self.arms(config, data, out), [self.radius(config)])

    def measured(
        self, config: DigitConfig, arms: Sequence[Trained], radii: Sequence[float]
    ) -> Tables:
        """Attacks of all arms, side by side where that is asked for."""
        asked = [
            Attack(config, self.task_of(trained.arm), trained, subset, tuple(radii))
            for trained in arms
            for subset in range(SUBSETS)
        ]
        if config.jobs < 2:
            found = [attack_rows(one) for one in progress(asked, "attack")]
        else:
            found = side_by_side(attack_rows, asked, config.jobs)
        rows = [row for part in found for row in part]
        return {"subsets": rows, "attacks": averaged(rows), "arithmetic": costs_of(arms)}

    def claims(self, config: DigitConfig, measured: Tables) -> list[Claim]:
        """What every ball is judged by: the loss of the ball against the best jitter."""
        rows, target = measured["subsets"], self.radius(config)
        cost = {str(row["arm"]): float(row["gflop of a step"]) for row in measured["arithmetic"]}
        return [
            *against(rows, MIXED, self.rival, target, self.goal),
            *against(rows, BALL, self.rival, target, self.goal),
            Claim(
                f"arms of other families that dominate {MIXED} (clean and attacked)",
                float(len(dominating(measured["attacks"], MIXED, target, ("ball", MIXED)))),
                0.0,
                high=0.0,
            ),
            *(
                Claim(
                    f"RMSE under attack, {MIXED} / {other}",
                    *paired(rows, MIXED, other, target, "attack_rmse"),
                    high=1.0,
                )
                for other in (LONGER, MSE)
            ),
            Claim(
                f"arithmetic of a step, {MIXED} / {JITTER}",
                cost[MIXED] / cost[JITTER],
                0.0,
                high=3.0,
            ),
        ]

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


@dataclass(frozen=True, eq=False)
class Attack:
    """One network on one set of test images."""

    config: DigitConfig
    task: Task
    trained: Trained
    subset: int
    radii: tuple[float, ...]


def attack_rows(asked: Attack) -> list[Row]:
    """What the attack finds; kept in the arm's folder, and read where it is there."""
    config, count, task = asked.config, asked.config.size.attacked, asked.task
    test = task.images.splits(config).test
    at = torch.arange(asked.subset * count, (asked.subset + 1) * count) % len(test)
    images = test[at][1].to(config.device)
    key = zlib.crc32(repr((images.sum().item(), count, asked.radii, ATTACK_STEPS)).encode())
    path = asked.trained.folder / f"attack-{key:08x}.json" if asked.trained.folder else None
    if path is not None and path.exists():
        found: list[Row] = json.loads(path.read_text())["rows"]
        return [{key: _number(value) for key, value in row.items()} for row in found]
    task.forward.to(config.device)
    named: Row = {"arm": asked.trained.arm.name, "subset": asked.subset}
    errors = attacked(asked.trained.model, task, images, asked.radii, ATTACK_STEPS)
    rows: list[Row] = [{**named, **row} for row in errors]
    if path is not None:
        write_json(path, {"rows": rows})
    return rows


def _number(value: float | str) -> float | str:
    """JSON has no NaN; it is written as a word."""
    return math.nan if value == "nan" else value


def averaged(rows: Sequence[Row]) -> list[Row]:
    """Means over the sets of images, for every arm and radius."""
    found: list[Row] = []
    for arm, radius in dict.fromkeys((row["arm"], row["radius"]) for row in rows):
        same = [row for row in rows if (row["arm"], row["radius"]) == (arm, radius)]
        means = {key: float(np.mean([float(row[key]) for row in same])) for key in ERRORS}
        found.append({"arm": arm, "radius": radius, **means})
    return found


def costs_of(arms: Sequence[Trained]) -> list[Row]:
    """Arithmetic of a step of every arm."""
    return [
        {"arm": one.arm.name, "gflop of a step": one.gflop / one.gradient_evaluations}
        for one in arms
    ]


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
    rows: Sequence[Row], arm: str, other: str, radius: float, column: str
) -> tuple[float, float]:
    """The ratio at a radius, with its standard deviation over the sets of images.

    Both arms see the same images, so the ratio is taken on every set.
    """
    values = []
    for subset in range(SUBSETS):
        same = [row for row in rows if row["subset"] == subset]
        mine, rival = (by_level(same, name, column)[radius] for name in (arm, other))
        values.append(mine / rival)
    return float(np.mean(values)), float(np.std(values, ddof=1))


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
