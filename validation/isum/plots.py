"""Figures: PSNR of all arms, validation while training, noise levels, and restored images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from validation.isum.data import TEST_SEED, Pools, noisy_measurement
from validation.isum.floors import floors
from validation.isum.settings import Config
from validation.isum.training import Trained
from validation.results import new_figure, save_figure
from validation.tables import Row


def plot(path: Path, noise: float, seed: int, rows: Sequence[Row], arms: Sequence[Trained]) -> None:
    """PSNR of all arms; validation while training; PSNR and weights by level."""
    canvas, axes = new_figure(3)
    shown = [row for row in rows if row["noise"] == noise]
    for place, row in enumerate(shown):
        middle, low, high = (float(row[key]) for key in ("psnr", "psnr_low", "psnr_high"))
        ends = [[middle - low], [high - middle]]
        axes[0, 0].errorbar(middle, place, xerr=ends, fmt="o", color="C0")
    axes[0, 0].set_yticks(range(len(shown)), [row["arm"] for row in shown], fontsize=7)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel=f"PSNR in dB at σ = {noise:g}, 95 % interval")
    for run in arms:
        if run.run.seed == seed:
            history = run.history
            axes[0, 1].plot(
                [row["step"] for row in history],
                [row["PSNR"] for row in history],
                label=run.arm.name,
            )
    axes[0, 1].set(xlabel="iteration", ylabel="validation PSNR in dB")
    axes[0, 1].legend(fontsize=6)
    for name in dict.fromkeys(row["arm"] for row in rows):
        line = [row for row in rows if row["arm"] == name]
        if len(line) > 1:
            label = name
            if line[-1]["weight"] != "":
                weights = ", ".join(f"{row['weight']:.2g}" for row in line)
                label = f"{name}; weights {weights}"
            axes[0, 2].plot(
                [row["noise"] for row in line], [row["psnr"] for row in line], ".-", label=label
            )
    if axes[0, 2].lines:
        axes[0, 2].legend(fontsize=6)
    axes[0, 2].set(xlabel="standard deviation of the noise", ylabel="PSNR in dB")
    save_figure(path, canvas)


def plot_examples(path: Path, config: Config, pools: Pools, arms: Sequence[Trained]) -> None:
    """Four test images: true, measured, restored. Not for Caltech-101, which shows people."""
    _, x, _ = pools.test[torch.arange(min(4, len(pools.test)))]
    index = pools.test.index[: len(x)]
    measure = noisy_measurement(dataclasses.replace(config, device="cpu"), (config.noise,))
    y, _ = measure.at(x, index, 0, seed=TEST_SEED + 1, step=0)
    panels = [("true", x), ("measured", y)]
    known = floors(config, pools)
    panels += [(name, known[name](y)) for name in ("Wiener", "TV", "linear") if name in known][:1]
    for run in arms:
        if run.arm.part == "main" and run.run.seed == config.seed:
            panels.append((run.arm.name, run.restoration.to("cpu").restore(y)))
    canvas, axes = new_figure(len(panels), len(x), width=1.3, height=1.4)
    for axis_row, i in zip(axes, range(len(x)), strict=True):
        for axis, (title, images) in zip(axis_row, panels, strict=True):
            picture = ((images[i].clamp(-1, 1) + 1) / 2).movedim(0, -1).squeeze(-1)
            axis.imshow(picture.detach().cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()
    save_figure(path, canvas)
