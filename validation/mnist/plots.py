"""Figures of the MNIST experiments: noise, attacks, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dro_core.style import look
from dro_core.types import Array
from dro_torch import metrics, physics
from validation.figures import drawing, name_lines, series, show
from validation.mnist.measure import by_level
from validation.mnist.tasks import Task
from validation.tables import Row


def names_of(rows: Sequence[Row]) -> list[str]:
    """The arms in the order of the rows."""
    return list(dict.fromkeys(str(row["arm"]) for row in rows))


def plot_noise(path: Path, rows: Sequence[Row], xlabel: str, *, logarithmic: bool = False) -> None:
    """RMSE and stability against the level, bands of one standard deviation."""
    with drawing(path, 2, height=3.0) as (canvas, axes):
        for axis, column in zip(axes[0], ("rmse", "stability"), strict=True):
            for k, name in enumerate(names_of(rows)):
                values, bands = (by_level(rows, name, key) for key in (column, f"{column}_sd"))
                level = np.array(list(values))
                mean, band = np.array(list(values.values())), np.array(list(bands.values()))
                axis.plot(level, mean, label=name, **series(k))
                low, high = mean - band, mean + band
                axis.fill_between(level, low, high, color=look(k)["color"], alpha=0.2, lw=0)
            axis.set(
                xlabel=xlabel, ylabel="RMSE" if column == "rmse" else "stability (lower is better)"
            )
            if logarithmic:
                axis.set(xscale="log", yscale="log")
        name_lines(canvas, axes[0])


def plot_attacks(path: Path, rows: Sequence[Row]) -> None:
    """Worst-case RMSE against the radius, and clean RMSE against attack RMSE at radius 2."""
    with drawing(path, 2, height=3.0) as (canvas, axes):
        points, curves = axes[0]
        for k, name in enumerate(names_of(rows)):
            found = by_level(rows, name, "attack_rmse")
            curves.plot(list(found), list(found.values()), label=name, **series(k))
            clean = by_level(rows, name, "clean_rmse")[2.0]
            points.plot(clean, found[2.0], **series(k))
        curves.set(xlabel="radius ρ of the attack", ylabel="RMSE under attack")
        points.set(xlabel="clean RMSE", ylabel="RMSE at attack radius 2")
        name_lines(canvas, [curves])


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
    """One digit: input, target, outputs, and below each its saliency map, by noise level."""
    given, target = task.input_and_target(image)
    with drawing(path, 2 + len(models), 2 * len(levels), height=6.6 / (2 + len(models))) as (
        _,
        axes,
    ):
        for place, level in enumerate(levels):
            noisy = given
            if level:
                generator = torch.Generator().manual_seed(1)
                noisy = physics.GaussianNoise(level)(given, generator=generator)
            above, below = axes[2 * place], axes[2 * place + 1]
            show(
                above[0],
                pixels_of(noisy[0]),
                f"input, σ={level:g}",
            )
            show(above[1], pixels_of(target[0]), "" if place else "target")
            for axis in below[:2]:
                axis.set_axis_off()
            for k, (name, model) in enumerate(models.items(), 2):
                with torch.no_grad():
                    show(above[k], pixels_of(model(noisy)[0]), "" if place else name)
                shown = metrics.saliency(model, noisy, target).sum(1, keepdim=True)
                show(below[k], pixels_of(shown[0]), "" if place else "saliency")
