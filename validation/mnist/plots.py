"""Figures of the MNIST experiments: noise, attacks, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dro_core.types import Array
from dro_torch import metrics, physics
from validation.mnist.measure import by_level
from validation.mnist.tasks import Task
from validation.results import new_figure, save_figure
from validation.tables import Row


def names_of(rows: Sequence[Row]) -> list[str]:
    """The arms in the order of the rows."""
    return list(dict.fromkeys(str(row["arm"]) for row in rows))


def plot_noise(path: Path, rows: Sequence[Row], xlabel: str, *, logarithmic: bool = False) -> None:
    """RMSE and stability against the level, bands of one standard deviation."""
    canvas, axes = new_figure(2)
    for axis, column in zip(axes[0], ("rmse", "stability"), strict=True):
        for name in names_of(rows):
            values, bands = (by_level(rows, name, key) for key in (column, f"{column}_sd"))
            level = np.array(list(values))
            mean, band = np.array(list(values.values())), np.array(list(bands.values()))
            axis.plot(level, mean, ".-", label=name)
            axis.fill_between(level, mean - band, mean + band, alpha=0.2)
        axis.set(
            xlabel=xlabel, ylabel="RMSE" if column == "rmse" else "stability (lower is better)"
        )
        if logarithmic:
            axis.set(xscale="log", yscale="log")
    axes[0, 0].legend(fontsize=7)
    save_figure(path, canvas)


def plot_attacks(path: Path, rows: Sequence[Row]) -> None:
    """Worst-case RMSE against the radius, and clean RMSE against attack RMSE at radius 2."""
    canvas, axes = new_figure(2)
    for name in names_of(rows):
        found = by_level(rows, name, "attack_rmse")
        axes[0, 0].plot(list(found), list(found.values()), ".-", label=name)
        clean = by_level(rows, name, "clean_rmse")[2.0]
        axes[0, 1].plot(clean, found[2.0], "o")
        axes[0, 1].annotate(name, (clean, found[2.0]), fontsize=7)
    axes[0, 0].set(xlabel="radius ρ of the attack", ylabel="RMSE under attack")
    axes[0, 1].set(xlabel="clean RMSE", ylabel="RMSE under an attack of radius 2")
    axes[0, 0].legend(fontsize=7)
    save_figure(path, canvas)


def pixels_of(picture: Tensor) -> Array:
    """What matplotlib draws of an image (channels, height, width); colours are cut at [0, 1]."""
    if len(picture) == 1:
        return np.asarray(picture[0].detach().cpu())
    return np.asarray(picture.detach().movedim(0, -1).clamp(0.0, 1.0).cpu())


def plot_examples(
    path: Path,
    task: Task,
    models: Mapping[str, nn.Module],
    image: Tensor,
    levels: Sequence[float] = (0.0, 0.2, 0.5),
) -> None:
    """One digit: input, target, outputs and saliency maps at several noise levels."""
    given, target = task.input_and_target(image)
    canvas, axes = new_figure(2 + 2 * len(models), len(levels), width=1.5, height=1.6)
    for row, level in zip(axes, levels, strict=True):
        noisy = given
        if level:
            noisy = physics.GaussianNoise(level)(given, generator=torch.Generator().manual_seed(1))
        panels = [(f"input, σ = {level:g}", noisy), ("target", target)]
        for name, model in models.items():
            with torch.no_grad():
                panels.append((name, model(noisy)))
            shown = metrics.saliency(model, noisy, target).sum(1, keepdim=True)
            panels.append(("saliency", shown))
        for axis, (title, picture) in zip(row, panels, strict=True):
            axis.imshow(pixels_of(picture[0]), cmap="gray")
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()
    save_figure(path, canvas)
