"""Figures: PSNR of all arms, validation while training, noise levels, and restored images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from validation.figures import drawing, series, show
from validation.isum.data import TEST_SEED, Pools, noisy_measurement
from validation.isum.floors import floors
from validation.isum.settings import Config
from validation.isum.training import Trained
from validation.tables import Row


def plot(path: Path, noise: float, seed: int, rows: Sequence[Row], arms: Sequence[Trained]) -> None:
    """PSNR of all arms; validation while training; PSNR by level, with the weights in the names.

    The first panel's names and marks are the legend of the second.
    """
    names = dict.fromkeys([*(str(row["arm"]) for row in rows), *(run.arm.name for run in arms)])
    looks = {name: series(k) for k, name in enumerate(names)}
    by_level = {name: [row for row in rows if row["arm"] == name] for name in names}
    by_level = {name: line for name, line in by_level.items() if len(line) > 1}
    with drawing(path, 2, 2 if by_level else 1, height=2.7) as (_, axes):
        scores, training = axes[0]
        shown = [row for row in rows if row["noise"] == noise]
        for place, row in enumerate(shown):
            middle, low, high = (float(row[key]) for key in ("psnr", "psnr_low", "psnr_high"))
            ends = [[middle - low], [high - middle]]
            scores.errorbar(middle, place, xerr=ends, **looks[str(row["arm"])])
        scores.set_yticks(range(len(shown)), [row["arm"] for row in shown])
        scores.invert_yaxis()
        scores.set(xlabel=f"PSNR in dB at σ = {noise:g}, 95 % interval")
        for run in arms:
            if run.run.seed == seed:
                steps = [row["step"] for row in run.history]
                training.plot(steps, [row["PSNR"] for row in run.history], **looks[run.arm.name])
        training.set(xlabel="iteration", ylabel="validation PSNR in dB")
        if by_level:
            levels, names_only = axes[1]
            for name, line in by_level.items():
                label = name
                if line[-1]["weight"] != "":
                    weights = ", ".join(f"{row['weight']:.2g}" for row in line)
                    label = f"{name}; weights {weights}"
                noises = [row["noise"] for row in line]
                levels.plot(noises, [row["psnr"] for row in line], label=label, **looks[name])
            levels.set(xlabel="standard deviation of the noise", ylabel="PSNR in dB")
            names_only.set_axis_off()
            names_only.legend(*levels.get_legend_handles_labels(), loc="center left")


def plot_examples(path: Path, config: Config, pools: Pools, arms: Sequence[Trained]) -> None:
    """Four test images: true, measured, restored. Not for Caltech-101, which shows people.

    By the arms of the main comparison where it is among those that are run, else by all.
    """
    _, x, _ = pools.test[torch.arange(min(4, len(pools.test)))]
    index = pools.test.index[: len(x)]
    measure = noisy_measurement(dataclasses.replace(config, device="cpu"), (config.noise,))
    y, _ = measure.at(x, index, 0, seed=TEST_SEED + 1, step=0)
    panels = [("true", x), ("measured", y)]
    known = floors(config, pools)
    panels += [(name, known[name](y)) for name in ("Wiener", "TV", "linear") if name in known][:1]
    first = [run for run in arms if run.run.seed == config.seed]
    for run in [run for run in first if run.arm.part == "main"] or first:
        panels.append((run.arm.name, run.restoration.to("cpu").restore(y)))
    draw_images(
        path,
        {
            name: [((image.clamp(-1, 1) + 1) / 2).movedim(0, -1).squeeze(-1) for image in images]
            for name, images in panels
        },
    )


def draw_images(path: Path, panels: Mapping[str, Sequence[Tensor]]) -> None:
    """A column of images (height, width) or (height, width, 3) in [0, 1] for every name."""
    rows = len(next(iter(panels.values())))
    with drawing(path, len(panels), rows, height=6.6 / len(panels)) as (_, axes):
        for column, (name, images) in zip(axes.T, panels.items(), strict=True):
            for i, (axis, image) in enumerate(zip(column, images, strict=True)):
                title = "" if i else name
                show(axis, image.detach().cpu().numpy(), title, vmin=0, vmax=1)
