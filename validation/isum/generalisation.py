"""Noise of other kinds than in training, of the same size: measures only, nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dro_torch import metrics, physics
from validation.isum.arms import ONE_LEVEL
from validation.isum.claims import interval
from validation.isum.data import TEST_SEED, Pools, noisy_measurement
from validation.isum.floors import floors
from validation.isum.settings import Config
from validation.isum.training import Trained
from validation.tables import Row

#: Test images that are looked at under every kind of noise.
IMAGES = 250


def kinds_of_noise(y: Tensor, level: float) -> dict[str, physics.Noise]:
    """Laws whose root mean squared error on these clean measurements in [-1, 1] is the level."""
    bright = y - -1.0
    photons = 2 * float(bright.mean()) / level**2  # variance 2 (y + 1) / photons
    share = level**2 / (1 + float(y.square().mean()))  # salt and pepper are at 1 and -1
    return {
        "Gaussian": physics.GaussianNoise(level),
        "Poisson": physics.PoissonNoise(photons),
        "speckle": physics.SpeckleNoise(level / float(bright.square().mean().sqrt())),
        "uniform": physics.UniformNoise(level * math.sqrt(3)),
        "salt and pepper": physics.SaltAndPepperNoise(min(1.0, share)),
    }


def generalisation_rows(config: Config, pools: Pools, arms: Sequence[Trained]) -> list[Row]:
    """PSNR of every arm of one noise level, and of the floors, under every kind of noise."""
    kept = [run for run in arms if run.arm.part in ONE_LEVEL]
    if not kept or config.noise == 0:
        return []
    index, x, _ = pools.test[torch.arange(min(IMAGES, len(pools.test)))]
    x = x.to(config.device)
    clean, _ = noisy_measurement(config, (0.0,)).at(x, index, 0, seed=TEST_SEED, step=0)
    ways: dict[str, list[Callable[[Tensor], Tensor]]] = {
        name: [restore] for name, restore in floors(config, pools).items()
    }
    for run in kept:
        restored = run.restoration.to(config.device).restore
        ways.setdefault(run.arm.name, []).append(partial(_limited, restored))
    rows: list[Row] = []
    for kind, law in kinds_of_noise(clean, config.noise).items():
        y = law(clean, torch.Generator(x.device).manual_seed(TEST_SEED + 2))
        for name, several in ways.items():
            found = torch.stack([metrics.psnr(x, way(y).clamp(-1, 1), 2.0) for way in several])
            mean, low, high = interval(found.double().cpu().numpy())
            row: Row = {"kind": kind, "rms": config.noise, "arm": name, "seeds": len(several)}
            rows.append(row | {"psnr": mean, "psnr_low": low, "psnr_high": high})
    return rows


def _limited(restore: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Restorations of measurements in the range that the maps were made for."""
    return restore(y.clamp(-3, 3))
