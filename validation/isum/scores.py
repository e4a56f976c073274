"""Scores of every arm and floor on the same noisy test images, and the tables of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dro_core.types import Array
from dro_torch import metrics
from validation.isum.arms import LEVELLED, ONE_LEVEL
from validation.isum.claims import interval
from validation.isum.data import (
    LEVELS,
    TEST_SEED,
    Pools,
    noisy_measurement,
)
from validation.isum.drift import drift_rows
from validation.isum.floors import floors
from validation.isum.generalisation import generalisation_rows
from validation.isum.settings import Config
from validation.isum.training import Trained
from validation.tables import Row


@dataclass(frozen=True)
class Scores:
    """PSNR of every test image: {(arm, level): (seeds, images)}; the halves of their classes."""

    values: dict[tuple[str, float], Array]
    similarity: dict[tuple[str, float], float]
    half: Array
    drift: dict[str, list[float]]  #: of every arm's trainings: last less best validation, dB
    kid: dict[str, float]  #: of the arms of one level, where it was asked for
    other_noise: list[Row]
    after_best: list[Row]  #: what the last map is beside the best one


def evaluate(config: Config, pools: Pools, arms: Sequence[Trained]) -> Scores:
    """All arms and floors on the same noisy test images, at every level that they are made for."""
    index, x, half = pools.test[torch.arange(len(pools.test))]
    index, x = index.to(config.device), x.to(config.device)
    values: dict[tuple[str, float], list[Array]] = {}
    similarity: dict[tuple[str, float], list[float]] = {}
    parts = config.size.comparisons
    levels = sorted({config.noise} | set(LEVELS if {*LEVELLED} & {*parts} else ()))

    def keep(name: str, level: float, found: Tensor) -> None:
        found = found.clamp(-1, 1)
        score = metrics.psnr(x, found, 2.0).double().cpu().numpy()
        values.setdefault((name, level), []).append(score)
        similarity.setdefault((name, level), []).append(float(metrics.ssim(x, found, 2.0).mean()))

    for level in levels:
        y, _ = noisy_measurement(config, (level,)).at(x, index, 0, seed=TEST_SEED + 1, step=0)
        for name, restore in floors(dataclasses.replace(config, noise=level), pools).items():
            keep(name, level, restore(y))
        for arm in arms:
            made_for = LEVELS if arm.arm.levelled else (config.noise,)
            if level in made_for:
                keep(arm.arm.name, level, arm.restoration.to(config.device).restore(y))
    one_level = [run for run in arms if run.arm.part in ONE_LEVEL]
    after_best = drift_rows(config, pools, one_level) if one_level else []
    kept = [row for row in after_best if row["at"] != "last" and row["kid"] != ""]
    return Scores(
        {key: np.stack(found) for key, found in values.items()},
        {key: float(np.mean(found)) for key, found in similarity.items()},
        half.numpy(),
        {run.arm.name: [one.drift for one in arms if one.arm == run.arm] for run in arms},
        {str(row["arm"]): float(row["kid"]) for row in kept},
        generalisation_rows(config, pools, arms),
        after_best,
    )


def rows_of(scores: Scores, arms: Sequence[Trained]) -> list[Row]:
    """One row per arm and level."""
    rows: list[Row] = []
    for (name, level), values in scores.values.items():
        runs = [run for run in arms if run.arm.name == name]
        mean, low, high = interval(values)
        row: Row = {
            "arm": name,
            "noise": level,
            "factor": runs[0].run.factor if runs else "",
            "seeds": len(values),
            "psnr": mean,
            "psnr_low": low,
            "psnr_high": high,
            "ssim": scores.similarity[name, level],
            "kid": scores.kid.get(name, ""),
        }
        for half in (0, 1):
            kept = values[:, scores.half == half]
            row[f"psnr_half_{half}"] = float(kept.mean()) if kept.size else ""
        group = LEVELS.index(level) if runs and runs[0].arm.levelled else 0
        key = f"weight {group}"
        row["weight"] = float(np.mean([r.validation[key] for r in runs])) if runs else ""
        rows.append(row)
    return rows


def training_rows(tried: Sequence[Trained]) -> list[Row]:
    """One row per training: validation PSNR at the end and at its best, where the map is kept.

    The mean weights per group are those of the map that is kept.
    """
    rows: list[Row] = []
    for run in tried:
        weights = [f"{run.validation.get(f'weight {g}', math.nan):.6g}" for g in range(len(LEVELS))]
        rows.append(
            {
                "arm": run.arm.name,
                "factor": run.run.factor,
                "seed": run.run.seed,
                "steps": run.run.steps,
                "validation_psnr": run.history[-1]["PSNR"],
                "best_validation_psnr": run.validation["PSNR"],
                "best_step": run.validation["step"],
                "drift": run.drift,
                "weights": " ".join(w for w in weights if w != "nan"),
                "seconds": run.spent.seconds,
                "cpu_seconds": run.spent.cpu_seconds,
            }
        )
    return rows
