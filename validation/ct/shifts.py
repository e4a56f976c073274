"""Scanners and patients that nobody trained on: what else can be wrong than the dose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from validation.ct.scanner import (
    UNIT_DOSE,
    ExpectedPhotons,
    Scanner,
    Transmission,
    noise_of,
    transmission,
)

#: A change of light (N, 1, views, cells), or of slices.
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shift:
    """What differs from the scanner of the training."""

    slices: Change | None = None  #: of the patient
    light: Change | None = None  #: after the photon noise: of the detector
    dose: float = 1.0  #: times that of the comparison
    beam: Change | None = None  #: before the photon noise, undone by the flat field afterwards
    offset: float = 0.0  #: of the centre of rotation, in pixels of the slice


def _drift(light: Tensor) -> Tensor:
    """The gain falls by 5 % from the first view to the last."""
    views = light.shape[-2]
    return light * torch.linspace(1.0, 0.95, views).to(light)[:, None]


def _dead(light: Tensor) -> Tensor:
    """Three detector cells read nothing."""
    broken = light.clone()
    cells = light.shape[-1]
    for cell in (cells // 4, cells // 2, cells // 2 + 7):
        broken[..., cell] = 0.0
    return broken


def _bowtie(light: Tensor) -> Tensor:
    """A filter that leaves a fifth of the light at the edges of the fan."""
    at = torch.linspace(-1.0, 1.0, light.shape[-1]).to(light)
    return light * (1.0 - 0.8 * at.square())


def _metal(slices: Tensor) -> Tensor:
    """Two inserts of radius two pixels, twice as dense as the brightest tissue."""
    side = slices.shape[-1]
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inserted = slices.clone()
    for at in ((side // 2, side // 3), (side // 2, 2 * side // 3)):
        disk = (row - at[0]).square() + (column - at[1]).square() <= 4
        inserted[..., disk.to(slices.device)] = 2.0
    return inserted


#: By name.
SHIFTS = {
    "none": Shift(),
    "half the dose": Shift(dose=0.5),
    "a tenth of the dose": Shift(dose=0.1),
    "gain drift": Shift(light=_drift),
    "dead cells": Shift(light=_dead),
    "centre of rotation": Shift(offset=2.0),
    "bowtie": Shift(beam=_bowtie),
    "metal": Shift(slices=_metal),
}


def displaced(scanner: Scanner, pixels: float) -> Transmission:
    """A scanner whose axis of rotation is not where the reconstruction assumes it."""
    geometry = scanner.geometry
    offset = pixels * geometry.pixel_size
    return transmission(dataclasses.replace(geometry, centre_offset=offset))


def shifted(
    shift: Shift, x: Tensor, clean: Tensor, scanner: Scanner, dose: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The slices as they are under a shift, and what the detector then says.

    `clean` is the light without it, simulated or measured: it changes by the factor that the model
    of the scanner says. For simulated light what comes out is that of the shifted scanner itself.
    """
    moved = x if shift.slices is None else shift.slices(x)
    model, other = (displaced(scanner, offset).to(x.device) for offset in (0.0, shift.offset))
    y = other(moved) * (clean / model(x))
    noise = noise_of(dose * shift.dose)
    generator = torch.Generator().manual_seed(seed)
    if shift.beam is not None:
        y = shift.beam(y)
    if noise is not None:
        y = noise(y, generator)
    if shift.beam is not None:
        y = y / shift.beam(torch.ones_like(y))
    return moved, y if shift.light is None else shift.light(y)


def radii_of(x: Tensor, moved: Tensor, clean: Tensor, light: Tensor) -> dict[str, float]:
    r"""Root mean squared lengths :math:`\sqrt{E\|v\|^2}` of what a shift moves.

    Of the light: in its own units, and in those of the weighted ball, a standard deviation of the
    photon noise at `UNIT_DOSE`. Where the slices stay (`radius_slices` 0) this is the conditional
    Wasserstein distance itself, since the law that the light is moved from is a point mass for
    every slice; otherwise no ball of y|x has the shifted law in it.
    """
    squared = (light - clean).square()
    weight = ExpectedPhotons(UNIT_DOSE)(x, clean)
    parts = {
        "radius": squared,
        "radius_by_photons": weight * squared,
        "radius_slices": (moved - x).square(),
    }
    return {name: float(part.flatten(1).sum(1).mean().sqrt()) for name, part in parts.items()}
