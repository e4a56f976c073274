"""The experiment: tune every family, train, sweep the dose, shift the scanner, and judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dro_torch import metrics
from validation.ct.arms import (
    BALL,
    DRO,
    IMAGE,
    JITTER,
    MIXED,
    MSE,
    PHOTON_BALL,
    PHOTON_DRO,
    SHAPED,
    WEIGHTED,
    candidate,
    declared,
)
from validation.ct.measured import measured_rows
from validation.ct.scanner import (
    ExpectedPhotons,
    Reconstruction,
    Restored,
    Scanner,
    Transmission,
    noise_of,
    slices,
)
from validation.ct.settings import DOSES, GRIDS, UNIT_DOSE, Config
from validation.ct.shifts import SHIFTS, shifted
from validation.experiment import Claim
from validation.mnist.arms import Arm, Trained
from validation.mnist.measure import Trials, by_level, measure, models_of, noisy_pairs, ratio
from validation.mnist.plots import pixels_of, plot_noise
from validation.mnist.settings import Config as ImageConfig
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Map, Splits, Task
from validation.mnist.tuning import chosen
from validation.results import new_figure, save_figure
from validation.settings import of_kind
from validation.tables import Row, Tables, column
from validation.trainings import Spent

__all__ = ["Config", "run"]

#: Filtered back-projection alone.
FBP = "FBP"
#: Doses at which the scanner is shifted, and at which pictures are shown.
SHIFT_DOSE, SHOWN = 1e4, (1e5, 1e3, 100.0)


def task_on(scanner: Scanner) -> Task:
    """From transmitted light to slices."""
    return Task(
        "ct",
        Restored(scanner),
        forward=Transmission(scanner.geometry),
        images=slices(scanner.side),
    )


class Tomography(ImageStudy):
    """Every way of training on one scanner."""

    name, figure = "ct", "dose"
    scanner: ClassVar[Scanner] = Scanner(96, 120, 144)
    task: ClassVar[Task] = task_on(scanner)

    @property
    def rays(self) -> int:
        """Numbers in a measurement."""
        return self.scanner.views * self.scanner.cells

    def task_of(self, arm: Arm) -> Task:
        """In the weighted ball a unit is a standard deviation of the photon noise."""
        if not arm.name.startswith(WEIGHTED):
            return self.task
        return dataclasses.replace(
            self.task,
            name="ct by photons",
            weight=ExpectedPhotons(UNIT_DOSE),
            first_multiplier=1.0,
            lowest_multiplier=1e-4,
        )

    def candidates(self, config: Config) -> list[tuple[str, float, Arm]]:
        """(family, value, arm) of every candidate."""
        return [
            (family, value, candidate(family, value, config, self.rays))
            for family, values in GRIDS.items()
            for value in values
        ]

    def tuned(self, config: ImageConfig, data: Splits, out: Path) -> Config:
        """The candidate of every family of least RMSE on validation patients, over all doses."""
        own = of_kind(config, Config)
        if not (config.size.targets or config.select):
            return own
        few = dataclasses.replace(Trials.of(config), count=2, directions=1)

        def error(trained: Trained) -> float:
            rows = self.swept(few, data.check, {"candidate": trained.model})
            return float(column(rows, "rmse").mean())

        tried = [(f, v, (config, self.task_of(arm), arm)) for f, v, arm in self.candidates(own)]
        best: dict[str, Any] = {**chosen(tried, data.learn, error, "RMSE over doses", out)}
        return dataclasses.replace(own, **best)

    def declared(self, config: ImageConfig) -> list[Arm]:
        """Every way of training."""
        return declared(of_kind(config, Config), self.rays)

    def extra(self, config: ImageConfig) -> list[Arm]:
        """The candidates, for the plan."""
        return (
            [arm for *_, arm in self.candidates(of_kind(config, Config))]
            if config.size.targets
            else []
        )

    def arms(self, config: ImageConfig, data: Splits, out: Path) -> list[Trained]:
        """The trained ones, and filtered back-projection."""
        start = Trained(
            Arm(FBP, "classical"), Reconstruction(self.scanner, None), 0.0, Spent(), [], 0
        )
        return [*super().arms(config, data, out), start]

    def swept(self, trials: Trials, images: Any, models: dict[str, nn.Module]) -> list[Row]:
        """RMSE and stability at every dose."""
        levels = {dose: noise_of(dose) for dose in DOSES}
        return measure(models, self.task, images, trials, "photons", levels)

    def measures(self, config: ImageConfig, data: Splits, arms: Sequence[Trained]) -> Tables:
        """The sweep of the dose; quality by other measures; shifts; attacks."""
        models = models_of(arms)
        measured = measured_rows(models, self.scanner.side, config.data)
        return {
            **({"measured": measured} if measured else {}),
            "dose": self.swept(Trials.of(config), data.test, models),
            "quality": self.quality(config, data, models),
            "shifts": self.shifts(config, data, models),
            "attacks": self.attacks(config, data, arms),
        }

    def quality(self, config: ImageConfig, data: Splits, models: dict[str, nn.Module]) -> list[Row]:
        """PSNR and SSIM of one trial at every dose; images have the range [0, 1]."""
        rows: list[Row] = []
        for dose in DOSES:
            y, x = noisy_pairs(self.task, data.test, Trials.of(config), 0, noise_of(dose))
            for name, model in models.items():
                with torch.no_grad():
                    out = model(y)
                found = {
                    "psnr": float(metrics.psnr(x, out, 1.0).mean()),
                    "ssim": float(metrics.ssim(x, out, 1.0).mean()),
                }
                rows.append({"arm": name, "level": dose, **found})
        return rows

    def shifts(self, config: ImageConfig, data: Splits, models: dict[str, nn.Module]) -> list[Row]:
        """RMSE where the scanner or the patient is another than in training."""
        rows: list[Row] = []
        trials = Trials.of(config)
        for name, shift in SHIFTS.items():
            errors: dict[str, list[float]] = {arm: [] for arm in models}
            moved = []
            for trial in range(trials.count):
                clean, x = noisy_pairs(self.task, data.test, trials, trial, None)
                x, y = shifted(shift, x, self.scanner, SHIFT_DOSE, trial)
                moved.append(float((y - clean).square().flatten(1).sum(1).mean().sqrt()))
                for arm, model in models.items():
                    errors[arm].append(rmse_of(model, y, x))
            rows += [
                {
                    "arm": arm,
                    "shift": name,
                    "rmse": float(np.mean(found)),
                    "rmse_sd": float(np.std(found, ddof=1)),
                    "radius": float(np.mean(moved)),
                }
                for arm, found in errors.items()
            ]
        return rows

    def claims(self, config: ImageConfig, measured: Tables) -> list[Claim]:
        """The paper's, then what weighing by photons adds."""
        rows, high, low = measured["dose"], DOSES[0], DOSES[-1]
        middle = DOSES[len(DOSES) // 2]
        spread = [by_level(rows, arm, "stability") for arm in (MSE, DRO)]
        steadier = max(spread[0][dose] / spread[1][dose] for dose in DOSES)
        first, last = ratio(rows, DRO, MSE, high), ratio(rows, DRO, MSE, low)
        return [
            Claim("RMSE at the highest dose, DRO / MSE", *first, low=0.95, high=1.05),
            Claim("RMSE at the lowest dose, DRO / MSE", *last, high=1.0),
            Claim(
                "the ratio DRO / MSE falls with the dose: lowest / middle",
                last[0] / ratio(rows, DRO, MSE, middle)[0],
                last[1],
                high=1.0,
            ),
            Claim("MSE more stable: stability, MSE / DRO, largest", steadier, 0.0, high=1.0),
            Claim(
                "RMSE at the lowest dose, ball by photons / MSE at one dose",
                *ratio(rows, PHOTON_BALL, MSE, low),
                high=0.85,
            ),
            *(
                Claim(
                    f"RMSE at the lowest dose, ball by photons / {other}",
                    *ratio(rows, PHOTON_BALL, other, low),
                    high=0.95,
                )
                for other in (IMAGE, JITTER, SHAPED)
            ),
            *(
                Claim(
                    f"RMSE at the lowest dose, {arm} / {other}",
                    *ratio(rows, arm, other, low),
                    high=1.0,
                )
                for arm, other in (
                    (PHOTON_BALL, BALL),
                    (PHOTON_DRO, DRO),
                    (SHAPED, JITTER),
                    (PHOTON_BALL, MIXED),
                    (DRO, JITTER),
                )
            ),
            Claim(
                "RMSE at the highest dose, ball by photons / MSE at one dose",
                *ratio(rows, PHOTON_BALL, MSE, high),
                high=1.05,
            ),
        ]

    def plots(
        self,
        config: ImageConfig,
        data: Splits,
        arms: Sequence[Trained],
        measured: Tables,
        out: Path,
    ) -> None:
        """RMSE and stability against the dose; slices at three doses."""
        plot_noise(
            out / self.figure, measured["dose"], "photons in the open beam", logarithmic=True
        )
        chosen = [arm for arm in arms if arm.arm.name in (FBP, MSE, DRO, PHOTON_BALL)]
        self.pictures(config, data, models_of(chosen), out)

    def pictures(
        self, config: ImageConfig, data: Splits, models: dict[str, nn.Module], out: Path
    ) -> None:
        """One slice: reconstructions, and their errors below, at three doses."""
        x = data.test[torch.arange(1)][1].to(config.device)
        canvas, axes = new_figure(1 + len(models), 2 * len(SHOWN), width=1.7, height=1.7)
        for place, dose in enumerate(SHOWN):
            noise, clean = noise_of(dose), self.task.pair(x)[1]
            y = clean if noise is None else noise(clean, torch.Generator().manual_seed(1))
            above, below = axes[2 * place], axes[2 * place + 1]
            above[0].imshow(pixels_of(x[0]), cmap="gray", vmin=0.3, vmax=0.7)
            above[0].set_title(f"slice; {dose:g} photons", fontsize=7)
            for axis in (*above, *below):
                axis.set_axis_off()
            for k, (name, model) in enumerate(models.items(), 1):
                with torch.no_grad():
                    found = model(y)[0]
                above[k].imshow(pixels_of(found), cmap="gray", vmin=0.3, vmax=0.7)
                above[k].set_title(name, fontsize=7)
                below[k].imshow(pixels_of(found - x[0]), cmap="RdBu", vmin=-0.1, vmax=0.1)
        save_figure(out / "slices", canvas)


def rmse_of(model: Map, y: Tensor, x: Tensor) -> float:
    """Mean RMSE of a batch."""
    with torch.no_grad():
        return float(metrics.rmse(x, model(y)).mean())


run = Tomography().run
