"""Measured light: slices of 2DeteCT at high and at low dose, on a scanner as coarse as you like.

Everything is read by `dro_torch.data`: counts, flat and dark fields become the transmission, of
which every k-th view is kept and whose cells are averaged to those of the scanner. What is to be
reconstructed is the reference reconstruction of the high dose where its archive is at hand, else
the filtered back-projection of all its views and cells; attenuation in units of twice water's, as
for the slices of patients.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dro_torch import data
from dro_torch.tomography import FanBeamGeometry, fan_beam_fbp
from validation.ct.scanner import BRIGHT, Reconstruction, Restored, Scanner, Transmission
from validation.errors import UsageError
from validation.mnist.settings import Config
from validation.mnist.tasks import ImageSet, Splits, Task
from validation.results import progress

#: Modes of the tube: 90 kV with 3 W, 90 kV with 90 W.
LOW, HIGH = 1, 2
#: Slices with larger numbers are out of distribution by design and left out.
LAST = 5000
#: A reference with a smaller correlation to the back-projection of its light belongs elsewhere.
LEAST_CORRELATION = 0.5


@dataclass(frozen=True)
class Source:
    """Where the slices lie, and how large their sinograms are."""

    folder: str
    references: str = ""  #: folder of the reference reconstructions; "": the same
    raw_shape: tuple[int, int] = (3601, 1912)  #: views, the repeated one included, and pixels

    @property
    def place(self) -> Path:
        """The folder with the sinograms."""
        return data.data_root(self.folder or None)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Slices that are there and in distribution."""
        found = tuple(n for n in data.slices_2detect(self.place) if n <= LAST)
        if len(found) < 3:
            raise FileNotFoundError(
                f"{self.place}: {len(found)} slices up to slice{LAST:05d}; at least 3 are needed, "
                "to train, to choose and to test"
            )
        return found

    @property
    def has_references(self) -> bool:
        """Whether reference reconstructions are at hand."""
        pattern = f"slice*/mode{HIGH}/reconstruction.tif"
        return bool(self.references) or any(self.place.glob(pattern))

    def scan(self, number: int, mode: int) -> data.FanBeamScan:
        """A sinogram as its authors prepare it."""
        return data.load_2detect(self.place, number, mode, raw_shape=self.raw_shape)

    def reference(self, number: int, scan: data.FanBeamScan, side: int) -> Tensor:
        """Attenuation per mm (side, side) of what was scanned at high dose."""
        if not self.has_references:
            return reconstructed(scan, side)
        folder = Path(self.references) if self.references else self.place
        return shrunk(data.reference_2detect(folder, number, HIGH), side)


def rebinned(values: Tensor, count: int) -> Tensor:
    """Means over `count` equal parts of the last axis, of functions constant on its entries."""
    size = values.shape[-1]
    total = nn.functional.pad(values.double().cumsum(-1), (1, 0))
    edges = torch.linspace(0, size, count + 1, dtype=torch.float64)
    left = edges.floor().clamp(max=size - 1).long()
    at = total[..., left] + (edges - left) * values.double()[..., left]
    return (at.diff(dim=-1) * (count / size)).to(values.dtype)


def shrunk(image: Tensor, side: int) -> Tensor:
    """Means over the pixels of a coarser image."""
    return rebinned(rebinned(image, side).mT, side).mT.contiguous()


def light_of(scan: data.FanBeamScan, scanner: Scanner) -> Tensor:
    """Flat- and dark-corrected transmission (views, cells) of every k-th view."""
    step = len(scan.angles) // scanner.views
    return rebinned(torch.exp(-scan.sinogram[::step]), scanner.cells)


def reconstructed(scan: data.FanBeamScan, side: int) -> Tensor:
    """Filtered back-projection of all views, per mm, on twice the pixels, then averaged."""
    cells = min(scan.sinogram.shape[1], 4 * side)
    geometry = FanBeamGeometry.two_detect(
        views=len(scan.angles), detector_count=cells, image_size=2 * side
    )
    integrals = -torch.log(rebinned(torch.exp(-scan.sinogram), cells))
    return shrunk(fan_beam_fbp(integrals[None], geometry)[0], side)


@lru_cache(maxsize=6)
def read(source: Source, scanner: Scanner, numbers: tuple[int, ...]) -> Tensor:
    """A row for every slice: the image, the light of the high dose, that of the low one."""
    rows = []
    for number in progress(numbers, "slices of 2DeteCT"):
        scans = [source.scan(number, mode) for mode in (HIGH, LOW)]
        image = source.reference(number, scans[0], scanner.side).clamp(min=0.0) / BRIGHT
        lights = [light_of(scan, scanner) for scan in scans]
        rows.append(torch.cat([part.float().flatten() for part in (image, *lights)]))
    found = torch.stack(rows)
    _check_references(source, scanner, numbers, found)
    return found


def _check_references(
    source: Source, scanner: Scanner, numbers: tuple[int, ...], rows: Tensor
) -> None:
    """Refuse references that do not look like what was scanned."""
    images, high, _ = apart(rows, scanner)
    seen = Reconstruction(scanner, None)(high)
    pairs = zip(images.flatten(1).numpy(), seen.flatten(1).numpy(), strict=True)
    for number, pair in zip(numbers, pairs, strict=True):
        with np.errstate(invalid="ignore", divide="ignore"):
            correlation = float(np.corrcoef(*pair)[0, 1])
        if not correlation >= LEAST_CORRELATION:
            raise data.DataFileError(
                f"{source.place}/slice{number:05d}: the reference and the back-projection of "
                f"mode {HIGH} have the correlation {correlation:.2f}; is it of another slice, "
                "mirrored, or the sinogram empty?"
            )


def apart(rows: Tensor, scanner: Scanner) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 1, side, side), light of the high and of the low dose (N, 1, views, cells)."""
    image, light = (1, scanner.side, scanner.side), (1, scanner.views, scanner.cells)
    pixels, rays = scanner.side**2, scanner.views * scanner.cells
    parts = rows.flatten(1).split([pixels, rays, rays], dim=1)
    return parts[0].reshape(-1, *image), parts[1].reshape(-1, *light), parts[2].reshape(-1, *light)


def thinned(numbers: tuple[int, ...], count: int) -> tuple[int, ...]:
    """At most so many of them, evenly spread."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return tuple(numbers[place] for place in places)


def blocks(
    numbers: tuple[int, ...], counts: tuple[int, int, int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Slices to train, to choose and to test with: 80, 10 and 10 % in the order of the scans.

    Neighbours show the same sample, so that only blocks are apart; of each block as many as are
    asked for, evenly spread.
    """
    tail = max(1, len(numbers) // 10)
    cuts = (0, len(numbers) - 2 * tail, len(numbers) - tail, len(numbers))
    parts = [numbers[a:b] for a, b in itertools.pairwise(cuts)]
    few = [thinned(part, count) for part, count in zip(parts, counts, strict=True)]
    return few[0], few[1], few[2]


@dataclass(frozen=True)
class MeasuredSlices(ImageSet):
    """The slices of a folder."""

    source: Source
    scanner: Scanner

    def chosen(self, config: Config) -> tuple[tuple[int, ...], ...]:
        """Numbers of the training, validation and test slices."""
        size = config.size
        return blocks(self.source.numbers, (size.images, size.validation, size.test))

    def splits(self, config: Config) -> Splits:
        """Every seed has the same."""
        return Splits(
            *(
                data.IndexedDataset(read(self.source, self.scanner, numbers))
                for numbers in self.chosen(config)
            )
        )


def _unread(split: str, root: str | None) -> Tensor:
    raise TypeError(f"split: {split!r}; the slices of 2DeteCT are read by their numbers")


@dataclass(frozen=True)
class MeasuredTask(Task):
    """From measured light to slices, at the dose of a mode."""

    mode: int = HIGH
    scanner: Scanner = field(kw_only=True)

    def items(self, images: Tensor) -> Tensor:
        """Images with the light that the scanner's model says, at both doses."""
        light = self.forward(images).flatten(1)
        return torch.cat([images.flatten(1), light, light], dim=1)

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(slice, its light at the dose of the mode), from rows of `read`."""
        x, high, low = apart(images, self.scanner)
        return x, high if self.mode == HIGH else low


def measured_task(source: Source, scanner: Scanner) -> MeasuredTask:
    """The task on the slices of a folder, at high dose."""
    views, pixels = source.raw_shape
    if (views - 1) % scanner.views:
        raise UsageError(
            f"--set views: {scanner.views}; allowed: a divisor of {views - 1}, the views of a scan"
        )
    if scanner.cells > pixels // 2:
        raise UsageError(
            f"--set cells: {scanner.cells}; allowed: at most {pixels // 2}, half the pixels of the "
            "detector"
        )
    return MeasuredTask(
        "2detect",
        Restored(scanner),
        forward=Transmission(scanner.geometry),
        images=MeasuredSlices((1, scanner.side, scanner.side), _unread, source, scanner),
        scanner=scanner,
    )
