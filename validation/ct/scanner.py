"""The scanner: slices to transmitted light, and the reconstruction that is trained."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from dro_torch import data, nets, physics
from dro_torch.tomography import FanBeamFBP, FanBeamGeometry, FanBeamProjector
from validation.mnist.settings import Config, Preset
from validation.mnist.tasks import ImageSet, Splits, Task

#: Attenuation per mm of an image value of one: Hounsfield unit 1000, twice that of water.
BRIGHT = 2 * 0.0192
#: Light below this share of the open beam counts as this much: 7 attenuation lengths.
DARKEST = 1e-3
#: Dose whose noise is the unit of the weighted ball.
UNIT_DOSE = 1000.0


@dataclass(frozen=True)
class Scanner:
    """A geometry of the 2DeteCT kind, coarser; slices fill its field of view of 116.5 mm.

    The patients are larger than that: line integrals are those of a body of that size, up to 2.6.
    """

    side: int  #: pixels of a slice
    views: int
    cells: int

    @property
    def geometry(self) -> FanBeamGeometry:
        """Distances are those of 2DeteCT."""
        return FanBeamGeometry.two_detect(
            views=self.views, detector_count=self.cells, image_size=self.side
        )


class Transmission(physics.Forward):
    """Beer and Lambert: exp(-line integrals), the share of the light that arrives."""

    def __init__(self, geometry: FanBeamGeometry) -> None:
        super().__init__()
        self.projector = FanBeamProjector(geometry)

    def _measure(self, x: Tensor) -> Tensor:
        return torch.exp(-BRIGHT * self.projector(x))


@lru_cache(maxsize=2)
def transmission(geometry: FanBeamGeometry) -> Transmission:
    """Scanners that are used again and again, with and without a shift."""
    return Transmission(geometry)


@lru_cache(maxsize=2)
def back_projection(geometry: FanBeamGeometry) -> FanBeamFBP:
    """One matrix for all networks on a scanner: at 256 pixels it has half a gigabyte."""
    return FanBeamFBP(geometry)


def line_integrals(y: Tensor) -> Tensor:
    """Of image values over mm, from transmitted light."""
    return -torch.log(y.clamp(min=DARKEST)) / BRIGHT


class Reconstruction(nn.Module):
    """Logarithm, filtered back-projection, and a network on that image (or nothing)."""

    def __init__(self, scanner: Scanner, network: nn.Module | None) -> None:
        super().__init__()
        self.fbp = back_projection(scanner.geometry)
        self.network = network or nn.Identity()

    def start(self, y: Tensor) -> Tensor:
        """Line integrals, and their filtered back-projection."""
        image: Tensor = self.fbp(line_integrals(y))
        return image

    def restore(self, image: Tensor) -> Tensor:
        """The network on an image."""
        restored: Tensor = self.network(image)
        return restored

    def forward(self, y: Tensor) -> Tensor:
        """From transmitted light to slices."""
        return self.restore(self.start(y))


@dataclass(frozen=True)
class Slices(ImageSet):
    """CT slices, whose splits are by patient: (h + 1000) / 2000 of Hounsfield units, in [0, 1]."""

    def splits(self, config: Config) -> Splits:
        """Training, validation and test patients; every seed has the same."""
        root, size = config.data or None, config.size
        found = [
            data.IndexedDataset(self.load(split, root)) for split in ("train", "validation", "test")
        ]
        counts = (size.images, size.validation, size.test)
        return Splits(
            *(
                part.subset(torch.arange(min(count, len(part))))
                for part, count in zip(found, counts, strict=True)
            )
        )


@lru_cache(maxsize=6)
def _slices(side: int, split: str, root: str | None) -> Tensor:
    images = data.ct_slices(root=root, split=split, units="unit").images
    return nn.functional.adaptive_avg_pool2d(images, side)


def slices(side: int) -> Slices:
    """At a resolution."""
    return Slices((1, side, side), _At(side))


@dataclass(frozen=True)
class _At:
    side: int

    def __call__(self, split: str, root: str | None) -> Tensor:
        return _slices(self.side, split, root)


@dataclass(frozen=True)
class Restored:
    """The reconstruction of a scanner with the U-Net of a preset."""

    scanner: Scanner

    def __call__(self, size: Preset, generator: torch.Generator) -> nn.Module:
        network = nets.UNet(1, 1, size.depth, size.width, generator=generator)
        return Reconstruction(self.scanner, network)


@dataclass(frozen=True)
class ExpectedPhotons:
    """Weights of the transport cost: a unit is one standard deviation of the photon noise.

    At a dose of I photons in the open beam a transmission T has the variance T / I.
    """

    dose: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.dose / y.clamp(min=DARKEST)


def weighted(task: Task) -> Task:
    """The same task in the ball in which a unit is a standard deviation of the photon noise."""
    return dataclasses.replace(
        task,
        name=f"{task.name} by photons",
        weight=ExpectedPhotons(UNIT_DOSE),
        first_multiplier=1.0,
        lowest_multiplier=1e-4,
    )


def noise_of(dose: float) -> physics.Noise | None:
    """Photon noise at a dose; none at infinity."""
    return None if math.isinf(dose) else physics.PoissonNoise(dose, low=0.0, high=1.0)
