"""The family of the experiments on images: one is a file with its arms and its claims."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from validation.experiment import Claim, Study, Verdict
from validation.mnist.arms import Arm, Trained, fit_arm, folder_of, train_side_by_side
from validation.mnist.measure import Trials, attack, measure, models_of
from validation.mnist.plan import plan_rows
from validation.mnist.plots import plot_attacks, plot_examples, plot_noise
from validation.mnist.settings import Config
from validation.mnist.tasks import Splits, Task, fingerprint
from validation.mnist.tuning import candidates, selected, tuning_arms
from validation.plan import Planned
from validation.results import at_least, table
from validation.tables import Row, Tables
from validation.trainings import spent


class ImageStudy(Study[Config, Splits, Trained, Tables]):
    """Arms on one task, measured under Gaussian noise and under attacks."""

    task: Task
    figure: ClassVar[str]  #: name of the figure under Gaussian noise
    moved: ClassVar[str] = "standard deviation of the noise"  #: its axis
    examples: ClassVar[bool] = True  #: whether outputs are shown

    @abstractmethod
    def declared(self, config: Config) -> list[Arm]:
        """The arms, before training."""

    @abstractmethod
    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """The paper's claims, and the controls."""

    def data(self, config: Config) -> Splits:
        """Training, validation and test images; the run uses the threads that were asked for."""
        if config.threads:
            torch.set_num_threads(config.threads)
        return self.task.images.splits(config)

    def tuned(self, config: Config, data: Splits, out: Path) -> Config:
        """ε, ρ̄ and the baseline's noise chosen on validation images, where there are targets."""
        if config.size.targets or config.select:
            return selected(config, self.task, data, out)
        return config

    def task_of(self, arm: Arm) -> Task:
        """What an arm is trained on, and with which network."""
        return self.task

    def arms(self, config: Config, data: Splits, out: Path) -> list[Trained]:
        """The declared arms, trained."""
        learn, declared = self.task.images.splits(config).learn, self.declared(config)
        return [fit_arm(config, self.task_of(arm), arm, learn, out) for arm in declared]

    def repeated(self, config: Config) -> list[Config]:
        """The same with further seeds."""
        return [
            dataclasses.replace(config, seed=config.seed + k) for k in range(1, config.size.seeds)
        ]

    def prepared(self, settings: Sequence[Config], data: Splits, out: Path) -> None:
        """All declared arms of all seeds, side by side."""
        train_side_by_side(
            [(c, self.task_of(arm), arm) for c in settings for arm in self.declared(c)], out
        )

    def again(self, config: Config, data: Splits, out: Path) -> Tables:
        """The declared arms, measured."""
        return self.measures(config, data, ImageStudy.arms(self, config, data, out))

    def extra(self, config: Config) -> list[Arm]:
        """Arms that are trained once beside the declared ones: for the plan."""
        return tuning_arms(*candidates()) if config.size.targets else []

    def planned(self, config: Config, data: Splits) -> list[Planned]:
        """Arms, steps and expected minutes, from a few steps of each, on a processor."""
        if not (config.plan or (config.size.targets and config.device == "cpu")):
            return []
        seeds = config.size.seeds
        rows = []
        for arms, trainings in ((self.declared(config), seeds), (self.extra(config), 1)):
            for task in {(t := self.task_of(arm)).name: t for arm in arms}.values():
                own = [arm for arm in arms if self.task_of(arm).name == task.name]
                rows += plan_rows(config, task, own, data.learn, trainings)
        return rows

    def minutes(
        self, config: Config, data: Splits, arms: Sequence[Trained], out: Path
    ) -> dict[str, float]:
        """Those of all seeds, and of the arms that are trained once."""
        taken = {arm.arm.name: arm.spent.cpu_seconds / 60 for arm in arms}
        taken |= dict.fromkeys((arm.name for arm in self.declared(config)), 0.0)
        for one in (config, *self.repeated(config)):
            learn = self.task.images.splits(one).learn  # every seed has its own training images
            for arm in self.declared(one):
                folder = folder_of(one, self.task_of(arm), arm, learn, out)
                taken[arm.name] += spent(folder).cpu_seconds / 60
        for arm in self.extra(config):
            if arm.name not in taken:
                folder = folder_of(config, self.task_of(arm), arm, data.learn, out)
                taken[arm.name] = spent(folder).cpu_seconds / 60
        return taken

    def gaussian(self, config: Config, data: Splits, arms: Sequence[Trained]) -> list[Row]:
        """Every arm under Gaussian noise."""
        return measure(models_of(arms), self.task, data.test, Trials.of(config))

    def attacks(self, config: Config, data: Splits, arms: Sequence[Trained]) -> list[Row]:
        """Every arm under attack."""
        images = first(data, config.size.attacked, config.device)
        return attack(models_of(arms), self.task, images, config.size.attack_radii)

    def measures(self, config: Config, data: Splits, arms: Sequence[Trained]) -> Tables:
        """Under Gaussian noise, and under attack."""
        return {
            "gaussian": self.gaussian(config, data, arms),
            "attacks": self.attacks(config, data, arms),
        }

    def tables(self, arms: Sequence[Trained], measured: Tables) -> Tables:
        """A row per training, and what was measured."""
        return {"training": [training_row(arm) for arm in arms], **measured}

    def plots(
        self,
        config: Config,
        data: Splits,
        arms: Sequence[Trained],
        measured: Tables,
        out: Path,
    ) -> None:
        """Noise, attacks, and outputs of the first three arms or of all."""
        plot_noise(out / self.figure, measured["gaussian"], self.moved)
        plot_attacks(out / "attacks", measured["attacks"])
        if self.examples:
            shown = models_of(arms[: len(self.declared(config))])
            plot_examples(out / "examples", self.task, shown, first(data, 1, config.device))

    def about(self, config: Config) -> dict[str, object]:
        """Which images were tested on."""
        return {"test_images_crc32": fingerprint(self.task.images.splits(config).test)}

    def verdict(
        self, config: Config, arms: Sequence[Trained], claims: list[Claim], tables: Tables
    ) -> Verdict:
        """At presets without targets claims are for information."""
        shown = [("claim", "number", "band", "allowed", "verdict")]
        for claim in claims:
            allowed = f"[{claim.low:g}, {claim.high:g}]"
            number = f"{claim.value:.4g}", f"± {claim.band:.2g}"
            shown.append((claim.claim, *number, allowed, claim.verdict))
        judged = config.size.targets
        checks = [at_least(c.claim, float(c.holds), 1.0) for c in claims] if judged else []
        said = [{"holds": c.holds, "verdict": c.verdict} for c in claims]
        entries = [{**dataclasses.asdict(c), **s} for c, s in zip(claims, said, strict=True)]
        return Verdict("\n" + table(shown), entries, checks, judged)


def first(data: Splits, count: int, device: str) -> Tensor:
    """The first test images."""
    images: Tensor = data.test[torch.arange(min(count, len(data.test)))][1]
    return images.to(device)


def training_row(trained: Trained) -> Row:
    """What a training took, and where it ended."""
    return {
        "arm": trained.arm.name,
        "kind": trained.arm.kind,
        "multiplier": trained.multiplier,
        "seconds": trained.spent.seconds,
        "cpu_seconds": trained.spent.cpu_seconds,
        "steps": trained.gradient_evaluations,
        "gflop": trained.gflop,
        "last_loss": trained.history[-1]["loss"] if trained.history else 0.0,
    }
