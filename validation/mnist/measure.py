"""Measures: RMSE and stability under noise, and under attacks with their certificates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dro_core import radius_of_noise, radius_of_poisson_noise
from dro_torch import certificate_curve, data, metrics, physics
from validation.mnist.arms import Trained
from validation.mnist.settings import Config
from validation.mnist.tasks import Map, Task
from validation.tables import Row

#: Standard deviations of the Gaussian noise, and photons of the Poisson noise (many: little noise).
GAUSSIAN = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
PHOTONS = (1000.0, 100.0, 30.0, 10.0, 5.0)


@dataclass(frozen=True)
class Trials:
    """Random noisy subsets of the test images."""

    count: int
    images: int
    directions: int  #: of the stability
    seed: int
    device: str

    @classmethod
    def of(cls, config: Config) -> Trials:
        """Those of the settings."""
        size = config.size
        return cls(size.trials, size.trial_images, size.directions, config.seed, config.device)


def noises(kind: str) -> dict[float, physics.Noise | None]:
    """Noise by level; level 0 is none."""
    if kind == "gaussian":
        return {s: physics.GaussianNoise(s) if s else None for s in GAUSSIAN}
    return {p: physics.PoissonNoise(p, low=0.0, high=1.0) for p in PHOTONS}


def models_of(arms: Sequence[Trained]) -> dict[str, nn.Module]:
    """The networks by the names of their arms."""
    return {arm.arm.name: arm.model for arm in arms}


def radius_of(
    task: Task, test: data.IndexedDataset, noise: physics.Noise | None, device: str
) -> float:
    """Wasserstein radius that a noise corresponds to."""
    if noise is None:
        return 0.0
    images = test[torch.arange(min(200, len(test)))][1].to(device)
    clean = task.input_and_target(images)[0].clamp(min=0.0).flatten(1)
    if isinstance(noise, physics.GaussianNoise):
        return radius_of_noise(noise.level**2, clean.shape[1])
    if isinstance(noise, physics.PoissonNoise):
        return radius_of_poisson_noise(clean.double().cpu().numpy(), noise.photons)
    raise TypeError(f"noise: {type(noise).__name__}; no radius is known for it")


def noisy_pairs(
    task: Task, test: data.IndexedDataset, trials: Trials, trial: int, noise: physics.Noise | None
) -> tuple[Tensor, Tensor]:
    """Noisy inputs and targets of one trial: the same images and draws for every arm."""
    generator = torch.Generator().manual_seed(1000 * trials.seed + trial)
    count = min(trials.images, len(test))
    chosen = torch.randperm(len(test), generator=generator)[:count]
    given, target = task.input_and_target(test[chosen][1].to(trials.device))
    if isinstance(noise, physics.PoissonNoise):
        given = given.clamp(min=0.0)
    if noise is not None:
        given = noise(given, generator=generator)
    return given, target


def score(model: Map, given: Tensor, target: Tensor, directions: int) -> tuple[float, float]:
    """Mean RMSE, and mean stability over the first fifty inputs."""
    with torch.no_grad():
        parts = zip(given.split(250), target.split(250), strict=True)
        error = torch.cat([metrics.rmse(b, model(a)) for a, b in parts])
        spread = metrics.stability(model, given[: min(50, len(given))], 0.1, directions)
    return float(error.mean()), float(spread.mean())


def measure(
    maps: Mapping[str, Map],
    task: Task,
    test: data.IndexedDataset,
    trials: Trials,
    kind: str = "gaussian",
    levels: Mapping[float, physics.Noise | None] | None = None,
) -> list[Row]:
    """RMSE and stability of every map at every noise level, over trials on random test subsets."""
    task.forward.to(trials.device)
    rows: list[Row] = []
    for level, noise in (levels or noises(kind)).items():
        radius = radius_of(task, test, noise, trials.device)
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name in maps}
        for trial in range(trials.count):
            given, target = noisy_pairs(task, test, trials, trial, noise)
            for name, model in maps.items():
                scores[name].append(score(model, given, target, trials.directions))
        for name in maps:
            errors, spreads = np.array(scores[name]).T
            rows.append(
                {
                    "arm": name,
                    "noise": kind,
                    "level": level,
                    "rmse": float(errors.mean()),
                    "rmse_sd": float(errors.std(ddof=1)),
                    "stability": float(spreads.mean()),
                    "stability_sd": float(spreads.std(ddof=1)),
                    "radius_of_noise": radius,
                }
            )
    return rows


def attacked(
    model: nn.Module, task: Task, images: Tensor, radii: Sequence[float], steps: int
) -> list[Row]:
    """Clean RMSE, that under the attack of `certify` (one budget for all samples), and bounds."""
    x, y = task.pair(images)
    residual = None if task.role == "reconstruction" else task.residual
    found = certificate_curve(model, x, y, radii, task.structure, steps=steps, residual=residual)
    return [
        {
            "radius": entry.radius,
            "attack_rmse": math.sqrt(entry.lower / task.images.pixels),
            "clean_rmse": math.sqrt(entry.nominal / task.images.pixels),
            "certified_rmse": (
                math.nan if entry.upper is None else math.sqrt(entry.upper / task.images.pixels)
            ),
            "lipschitz": math.nan if entry.lipschitz is None else entry.lipschitz,
        }
        for entry in found
    ]


def attack(
    models: Mapping[str, nn.Module], task: Task, images: Tensor, radii: Sequence[float]
) -> list[Row]:
    """Every network under an attack of ten steps."""
    return [
        {"arm": name, **row}
        for name, model in models.items()
        for row in attacked(model, task, images, radii, 10)
    ]


def focus(
    maps: Mapping[str, Map], task: Task, images: Tensor, levels: Sequence[float] = (0.0, 0.2, 0.5)
) -> list[Row]:
    """Share of every saliency map that lies on strokes (more than half bright), over images.

    A map without any preference has the share that the strokes have of the pixels (`strokes`).
    The standard deviation is that of the mean.
    """
    given, target = task.input_and_target(images)
    strokes = images > 0.5
    area = float(strokes.float().mean())
    rows: list[Row] = []
    for level in levels:
        noisy = given
        if level:
            noise = physics.GaussianNoise(level)
            noisy = noise(given, generator=torch.Generator().manual_seed(1))
        for name, model in maps.items():
            found = metrics.saliency(model, noisy, target)
            shares = (found * strokes).flatten(1).sum(1) / found.flatten(1).sum(1)
            spread = float(shares.std()) / math.sqrt(len(images))
            mean = {"focus": float(shares.mean()), "focus_sd": spread}
            rows.append({"arm": name, "level": level, **mean, "strokes": area})
    return rows


def by_level(rows: Sequence[Row], arm: str, column: str) -> dict[float, float]:
    """One arm's numbers by noise level (or radius)."""
    key = "level" if "level" in rows[0] else "radius"
    return {float(row[key]): float(row[column]) for row in rows if row["arm"] == arm}


def ratio(
    rows: Sequence[Row], arm: str, other: str, level: float, column: str = "rmse"
) -> tuple[float, float]:
    """arm / other at a level, with its standard deviation over the trials."""
    a, b = by_level(rows, arm, column)[level], by_level(rows, other, column)[level]
    if f"{column}_sd" not in rows[0]:
        return a / b, 0.0
    sa, sb = (by_level(rows, name, f"{column}_sd")[level] for name in (arm, other))
    return a / b, a / b * math.hypot(sa / a, sb / b)


def largest_ratio(rows: Sequence[Row], arm: str, other: str) -> float:
    """Stability of arm / other, the largest over the Gaussian noise."""
    return max(ratio(rows, arm, other, level, "stability")[0] for level in GAUSSIAN)
