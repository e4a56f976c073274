"""Pictures: slices at several doses with errors and saliency, and measured phantoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dro_core.style import SMALL
from dro_torch import metrics
from validation.ct.measured import Phantom
from validation.ct.scanner import Reconstruction
from validation.figures import drawing, show
from validation.mnist.plots import pixels_of

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
    columns = 1 + len(models)
    with drawing(path, columns, 3 * len(shown), height=6.6 / columns) as (_, axes):
        for place, one in enumerate(shown):
            low, high = window or (0.0, float(one.x.max()))
            image, error, salient = axes[3 * place : 3 * place + 3]
            for axis in (*image[1:], *error, *salient):
                axis.set_axis_off()
            show(image[0], pixels_of(one.x[0]), one.title, vmin=low, vmax=high)
            for k, (name, model) in enumerate(models.items(), 1):
                if not isinstance(model, Reconstruction):
                    continue
                with torch.no_grad():
                    start = model.start(one.y)
                    found = model.restore(start)[0]
                reach = (high - low) / 4
                show(image[k], pixels_of(found), "" if place else name, vmin=low, vmax=high)
                show(error[k], pixels_of(found - one.x[0]), cmap="RdBu", vmin=-reach, vmax=reach)
                show(salient[k], pixels_of(metrics.saliency(model.restore, start, one.x)[0]))
            for row, title in ((error, "error"), (salient, "saliency")):
                row[0].text(0.5, 0.5, title, fontsize=SMALL, ha="center")


def plot_phantoms(path: Path, phantoms: Sequence[Phantom], models: Mapping[str, nn.Module]) -> None:
    """Measured phantoms: a row for every scan, the published mask first."""
    columns = 1 + len(models)
    with drawing(path, columns, len(phantoms), height=6.6 / columns) as (_, axes):
        for place, (row, phantom) in enumerate(zip(axes, phantoms, strict=True)):
            show(row[0], pixels_of(phantom.mask[None].float()), phantom.name)
            for axis, (name, model) in zip(row[1:], models.items(), strict=True):
                show(axis, pixels_of(phantom.restored(model)[0]), "" if place else name)
