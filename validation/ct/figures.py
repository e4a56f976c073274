"""Pictures: slices at several doses with errors and saliency, and measured phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dro_torch import metrics
from validation.ct.measured import Phantom
from validation.ct.scanner import Reconstruction
from validation.mnist.plots import pixels_of
from validation.results import new_figure, save_figure

#: Grey values of the slices of patients; those of other slices are from nothing to the brightest.
WINDOW = (0.3, 0.7)


@dataclass(frozen=True)
class Shown:
    """One slice in one light."""

    title: str
    x: Tensor  #: (1, 1, side, side)
    y: Tensor  #: its light (1, 1, views, cells)


def plot_slices(
    path: Path,
    shown: Sequence[Shown],
    models: Mapping[str, nn.Module],
    window: tuple[float, float] | None = WINDOW,
) -> None:
    """Three rows for every light: reconstructions, their errors, and saliency maps.

    Saliency is that of the network in its input image, the filtered back-projection.
    """
    canvas, axes = new_figure(1 + len(models), 3 * len(shown), width=1.7, height=1.7)
    for place, one in enumerate(shown):
        low, high = window or (0.0, float(one.x.max()))
        image, error, salient = axes[3 * place : 3 * place + 3]
        for axis in (*image, *error, *salient):
            axis.set_axis_off()
        image[0].imshow(pixels_of(one.x[0]), cmap="gray", vmin=low, vmax=high)
        image[0].set_title(one.title, fontsize=7)
        for k, (name, model) in enumerate(models.items(), 1):
            if not isinstance(model, Reconstruction):
                continue
            with torch.no_grad():
                start = model.start(one.y)
                found = model.restore(start)[0]
            reach = (high - low) / 4
            image[k].imshow(pixels_of(found), cmap="gray", vmin=low, vmax=high)
            image[k].set_title(name, fontsize=7)
            error[k].imshow(pixels_of(found - one.x[0]), cmap="RdBu", vmin=-reach, vmax=reach)
            salient[k].imshow(pixels_of(metrics.saliency(model.restore, start, one.x)[0]))
        for row, title in ((error, "error"), (salient, "saliency")):
            row[0].text(0.5, 0.5, title, fontsize=7, ha="center")
    save_figure(path, canvas)


def plot_phantoms(path: Path, phantoms: Sequence[Phantom], models: Mapping[str, nn.Module]) -> None:
    """Measured phantoms: a row for every scan, the published mask first."""
    canvas, axes = new_figure(1 + len(models), len(phantoms), width=1.7, height=1.7)
    for row, phantom in zip(axes, phantoms, strict=True):
        panels = [(phantom.name, phantom.mask[None].float())]
        panels += [(name, phantom.restored(model)[0]) for name, model in models.items()]
        for axis, (title, picture) in zip(row, panels, strict=True):
            axis.imshow(pixels_of(picture), cmap="gray")
            axis.set_title(title, fontsize=7)
            axis.set_axis_off()
    save_figure(path, canvas)
