"""The experiment: tune every family, train, sweep the dose, shift the scanner, and judge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dro_torch import metrics, physics
from validation.ct.arms import (
    BALL,
    DRO,
    IMAGE,
    JITTER,
    MEASURED,
    MIXED,
    MSE,
    PHOTON_BALL,
    PHOTON_DRO,
    SHAPED,
    WEIGHTED,
    candidate,
    declared,
)
from validation.ct.cost import projector_share
from validation.ct.figures import WINDOW, Shown, plot_phantoms, plot_slices
from validation.ct.measured import measured_rows, phantoms
from validation.ct.scanner import (
    Reconstruction,
    Restored,
    Scanner,
    Transmission,
    noise_of,
    slices,
    weighted,
)
from validation.ct.settings import DOSES, GRIDS, Config
from validation.ct.shifts import SHIFTS, radii_of, shifted
from validation.ct.two_detect import LOW, MeasuredSlices, MeasuredTask, Source, measured_task
from validation.ct.variation import variation_rows
from validation.experiment import Claim, Verdict, user_errors
from validation.mnist.arms import Arm, Trained
from validation.mnist.measure import Trials, by_level, measure, models_of, noisy_pairs, ratio
from validation.mnist.plots import plot_noise
from validation.mnist.settings import Config as ImageConfig
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Map, Splits, Task
from validation.mnist.tuning import chosen
from validation.results import Check, table
from validation.settings import of_kind
from validation.tables import Row, Tables, column
from validation.trainings import Spent

__all__ = ["Config", "run"]

#: Filtered back-projection alone.
FBP = "FBP"
#: Doses at which the scanner is shifted, and at which pictures are shown.
SHIFT_DOSE, SHOWN = 1e4, (1e5, 1e3, 100.0)
#: Arms in print; all of them are in the files.
TOLD = (FBP, MSE, MIXED, MEASURED, DRO, PHOTON_BALL)


def task_on(scanner: Scanner) -> Task:
    """From transmitted light to slices."""
    return Task(
        "ct",
        Restored(scanner),
        forward=Transmission(scanner.geometry),
        images=slices(scanner.side),
    )


class Tomography(ImageStudy):
    """Every way of training on one scanner; on simulated light unless a task brings another."""

    name, figure = "ct", "dose"
    window: ClassVar[tuple[float, float] | None] = WINDOW

    def __init__(self, scanner: Scanner, task: Task | None = None) -> None:
        self.scanner, self.task = scanner, task or task_on(scanner)

    @property
    def rays(self) -> int:
        """Numbers in a measurement."""
        return self.scanner.views * self.scanner.cells

    def task_of(self, arm: Arm) -> Task:
        """In the weighted ball a unit is a standard deviation of the photon noise."""
        return weighted(self.task) if arm.name.startswith(WEIGHTED) else self.task

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
        """The sweep of the dose; quality by other measures; shifts; phantoms; attacks; cost."""
        models = models_of(arms)
        measured = measured_rows(models, phantoms(self.scanner.side, config.data))
        cost = self.cost(config, data)
        return {
            **({"measured": measured} if measured else {}),
            **({"projector": cost} if cost else {}),
            "dose": self.swept(Trials.of(config), data.test, models),
            "quality": self.quality(config, data, models),
            "variation": self.variation(config, data),
            "shifts": self.shifts(config, data, models),
            "attacks": self.attacks(config, data, arms),
        }

    def again(self, config: ImageConfig, data: Splits, out: Path) -> Tables:
        """Of a further training, what the claims need."""
        models = models_of(self.arms(config, data, out))
        return {"dose": self.swept(Trials.of(config), data.test, models)}

    def cost(self, config: ImageConfig, data: Splits) -> list[Row]:
        """What the projector takes of a step, where the processor does the work."""
        if config.device != "cpu":
            return []
        return [
            projector_share(config, self.task_of(arm), arm, data.learn)
            for arm in self.declared(config)
        ]

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

    def variation(self, config: ImageConfig, data: Splits) -> list[Row]:
        """Total variation at every dose, on the slices of the first trial."""
        levels = {dose: noise_of(dose) for dose in DOSES}
        return variation_rows(self.task, self.scanner, data, Trials.of(config), levels)

    def shifts(self, config: ImageConfig, data: Splits, models: dict[str, nn.Module]) -> list[Row]:
        """RMSE where the scanner or the patient is another than in training."""
        rows: list[Row] = []
        trials = Trials.of(config)
        for name, shift in SHIFTS.items():
            errors: dict[str, list[float]] = {arm: [] for arm in models}
            radii = []
            for trial in range(trials.count):
                clean, x = noisy_pairs(self.task, data.test, trials, trial, None)
                moved, y = shifted(shift, x, clean, self.scanner, SHIFT_DOSE, trial)
                radii.append(radii_of(x, moved, clean, y))
                for arm, model in models.items():
                    errors[arm].append(rmse_of(model, y, moved))
            rows += [
                {
                    "arm": arm,
                    "shift": name,
                    "rmse": float(np.mean(found)),
                    "rmse_sd": float(np.std(found, ddof=1)),
                    **{name: float(column(radii, name).mean()) for name in radii[0]},
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
        chosen = models_of([arm for arm in arms if arm.arm.name in (FBP, MSE, DRO, PHOTON_BALL)])
        plot_slices(out / "slices", self.shown(data, config.device), chosen, self.window)
        if scans := phantoms(self.scanner.side, config.data):
            plot_phantoms(out / "phantoms", scans, chosen)

    def shown(self, data: Splits, device: str) -> list[Shown]:
        """The first test slice at three doses."""
        x, clean = self.task.pair(data.test[torch.arange(1)][1].to(device))
        found = []
        for dose in SHOWN:
            noise = physics.PoissonNoise(dose, low=0.0, high=1.0)
            y = noise(clean, torch.Generator().manual_seed(1))
            found.append(Shown(f"slice; {dose:g} photons", x, y))
        return found

    def verdict(
        self, config: ImageConfig, arms: Sequence[Trained], claims: list[Claim], tables: Tables
    ) -> Verdict:
        """After the claims: what was shifted and how far, phantoms, cost of the projector."""
        said = super().verdict(config, arms, claims, tables)
        return dataclasses.replace(said, text="\n\n".join([said.text, *told(tables)]))


class MeasuredTomography(Tomography):
    """The same on measured light: trained at high dose, tested at the doses of the tube too."""

    window = None

    def __init__(self, task: MeasuredTask) -> None:
        super().__init__(task.scanner, task)
        self.low = dataclasses.replace(task, mode=LOW, name=f"{task.name} at low dose")

    def task_of(self, arm: Arm) -> Task:
        """The arm of low dose sees measurements at low dose."""
        return self.low if arm.name == MEASURED else super().task_of(arm)

    def declared(self, config: ImageConfig) -> list[Arm]:
        """Those of simulated light, and squared error on measurements of low dose."""
        return [*super().declared(config), Arm(MEASURED, "mse")]

    def measures(self, config: ImageConfig, data: Splits, arms: Sequence[Trained]) -> Tables:
        """And at the measured low dose."""
        low = self.low_dose(config, data, models_of(arms))
        return {**super().measures(config, data, arms), "low_dose": low}

    def again(self, config: ImageConfig, data: Splits, out: Path) -> Tables:
        """And at the measured low dose."""
        low = self.low_dose(config, data, models_of(self.arms(config, data, out)))
        return {**super().again(config, data, out), "low_dose": low}

    def low_dose(
        self, config: ImageConfig, data: Splits, models: dict[str, nn.Module]
    ) -> list[Row]:
        r"""Quality on measurements of low dose, and how far they are from those of high dose.

        `photons` is the dose :math:`\sum T / \|T_1 - T\|^2` whose Poisson noise has that radius.
        """
        trials = Trials.of(config)
        pairs = [noisy_pairs(self.low, data.test, trials, k, None) for k in range(trials.count)]
        high = [noisy_pairs(self.task, data.test, trials, k, None)[0] for k in range(trials.count)]
        moved = torch.cat([(y - clean).square() for (y, _), clean in zip(pairs, high, strict=True)])
        squared = float(moved.flatten(1).sum(1).mean())
        light = float(torch.cat(high).flatten(1).sum(1).mean())
        rows: list[Row] = []
        for name, model in models.items():
            errors = [rmse_of(model, y, x) for y, x in pairs]
            with torch.no_grad():
                out, x = model(pairs[0][0]), pairs[0][1]
            rows.append(
                {
                    "arm": name,
                    "rmse": float(np.mean(errors)),
                    "rmse_sd": float(np.std(errors, ddof=1)),
                    "psnr": float(metrics.psnr(x, out, 1.0).mean()),
                    "ssim": float(metrics.ssim(x, out, 1.0).mean()),
                    "radius": math.sqrt(squared),
                    "photons": light / squared,
                    "level": 0.0,
                }
            )
        return rows

    def claims(self, config: ImageConfig, measured: Tables) -> list[Claim]:
        """And at the measured low dose."""
        rows = measured["low_dose"]
        pairs = ((DRO, MSE), (PHOTON_BALL, MSE), (DRO, JITTER), (PHOTON_BALL, MEASURED))
        return [
            *super().claims(config, measured),
            *(
                Claim(
                    f"RMSE at the measured low dose, {arm} / {other}",
                    *ratio(rows, arm, other, 0.0),
                    high=1.0,
                )
                for arm, other in pairs
            ),
        ]

    def shown(self, data: Splits, device: str) -> list[Shown]:
        """And at the measured low dose."""
        x, y = self.low.pair(data.test[torch.arange(1)][1].to(device))
        return [*super().shown(data, device), Shown("slice; measured low dose", x, y)]

    def about(self, config: ImageConfig) -> dict[str, object]:
        """Which slices, and what they are compared with."""
        images = self.low.images
        if not isinstance(images, MeasuredSlices):
            raise TypeError(f"images: {type(images).__name__}; those of 2DeteCT are needed")
        source = images.source
        kind = "reconstruction.tif" if source.has_references else "filtered back-projection"
        named = ("learn", "check", "test")
        used = dict(zip(named, images.chosen(config), strict=True))
        return {**super().about(config), "references": kind, "slices": used}


def rmse_of(model: Map, y: Tensor, x: Tensor) -> float:
    """Mean RMSE of a batch."""
    with torch.no_grad():
        return float(metrics.rmse(x, model(y)).mean())


def told(tables: Tables) -> list[str]:
    """Tables in print: shifts with their radii, phantoms, low dose, cost of the projector."""
    radii = ("radius", "radius_by_photons", "radius_slices")
    printed = (
        ("shifts", pivoted, ("shift", "rmse", *radii)),
        ("measured", pivoted, ("scan", "iou")),
        ("low_dose", listed, ("rmse", "rmse_sd", "radius", "photons")),
        ("projector", listed, ("cpu_seconds_per_step", "projector_share")),
    )
    return [
        f"{name}:\n{show(tables[name], *columns)}"
        for name, show, columns in printed
        if name in tables
    ]


def pivoted(rows: Sequence[Row], index: str, values: str, *shared: str) -> str:
    """A line for every `index`: what its rows share, then `values` by arm."""
    arms = [arm for arm in TOLD if any(row["arm"] == arm for row in rows)]
    shown = [(index, *shared, *(f"{arm}: {values}" for arm in arms))]
    for name in dict.fromkeys(str(row[index]) for row in rows):
        own = {str(row["arm"]): row for row in rows if row[index] == name}
        one = next(iter(own.values()))
        numbers = [*(one[key] for key in shared), *(own[arm][values] for arm in arms)]
        shown.append((name, *(f"{float(number):.4g}" for number in numbers)))
    return table(shown)


def listed(rows: Sequence[Row], *columns: str) -> str:
    """A line for every arm."""
    shown = [("arm", *columns)]
    shown += [(str(row["arm"]), *(f"{float(row[key]):.4g}" for key in columns)) for row in rows]
    return table(shown)


def study_of(config: Config) -> Tomography:
    """The experiment on simulated or on measured light."""
    if config.dataset == "slices":
        return Tomography(config.scanner)
    source = Source(config.data, config.references, (config.raw_views, config.raw_cells))
    return MeasuredTomography(measured_task(source, config.scanner))


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Tune, train, sweep, shift and judge; written to `out`."""
    return study_of(config).run(config, out)
