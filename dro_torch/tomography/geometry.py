"""The geometry of a fan-beam scan, with presets for published data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dro_core.checks import as_positive_integer, as_real_array, as_scalar, check_option
from dro_core.described import Drawn
from dro_core.types import Array
from dro_torch.data.files import AnyArray
from dro_torch.data.tomography import FanBeamScan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DETECTORS = ("flat", "curved")
#: Larger spans of angles are taken for degrees (16 turns, were they radians).
LARGEST_SPAN = 100.0
#: Matrices with more entries than this (about 4 GiB with the transpose, in float32) are not built.
LARGEST_MATRIX = 2**28

Coordinate = TypeVar("Coordinate", float, Array, Tensor)


@dataclass(frozen=True, repr=False)
class FanBeamGeometry(Drawn):
    r"""A circular fan-beam scan; coordinates and signs are in the notes of the module.

    Parameters
    ----------
    source_origin, source_detector : float
        Distances from the source to the rotation axis and to the detector.
    detector_pixel : float
        Width p of a detector cell (on the arc for a curved detector).
    detector_count : int
        Number K of cells.
    angles : sequence of float
        View angles in radians, in the order of the sinogram's rows; any order, any number of turns.
    image_size : int
        The image has image_size x image_size pixels.
    pixel_size : float
        Width of an image pixel.
    detector_offset : float
        Where the middle of the detector lies on the detector axis, o.
    centre_offset : float
        Lateral displacement c of the rotation axis from the line that joins the source and the
        origin of the detector axis.
    detector : "flat" or "curved"

    Raises
    ------
    ValueError, TypeError
        For lengths that are not positive, no angles, angles that must be degrees (a span above 100,
        or beyond a turn in whole quarters), a source inside the image's circumscribed circle, an
        unknown detector.
    """

    source_origin: float
    source_detector: float
    detector_pixel: float
    detector_count: int
    angles: Sequence[float] | AnyArray
    image_size: int
    pixel_size: float
    detector_offset: float = 0.0
    centre_offset: float = 0.0
    detector: Literal["flat", "curved"] = "flat"

    def __post_init__(self) -> None:
        for name in ("source_origin", "source_detector", "detector_pixel", "pixel_size"):
            length = as_scalar(getattr(self, name), name, "a length > 0")
            if not 1e-100 <= length <= 1e100:
                raise ValueError(f"{name}: {length}; allowed: a length > 0, from 1e-100 to 1e100")
            object.__setattr__(self, name, length)
        for name in ("detector_count", "image_size"):
            as_positive_integer(getattr(self, name), name)
        for name in ("detector_offset", "centre_offset"):
            object.__setattr__(self, name, as_scalar(getattr(self, name), name, "a length"))
        angles = as_real_array(self.angles, "angles")
        if angles.ndim != 1 or angles.size == 0:
            raise ValueError(f"angles: shape {angles.shape}; a non-empty 1-D sequence is needed")
        _check_radians(angles)
        object.__setattr__(self, "angles", tuple(float(angle) for angle in angles))
        reach = self.image_size * self.pixel_size / math.sqrt(2)
        if self.source_origin <= reach:
            raise ValueError(
                f"source_origin: {self.source_origin:g}, but the corners of the image are "
                f"{reach:g} from the axis; the source must be outside"
            )
        check_option(self.detector, "detector", DETECTORS)

    def _draw(self, ax: Axes) -> None:
        """The image, the source of every view, and the fan of the first one."""
        half = self.image_size * self.pixel_size / 2
        ax.plot([-half, half, half, -half, -half], [-half, -half, half, half, -half], label="image")
        angles = np.asarray(self.angles)
        x, y = self._plane(-self.centre_offset, -self.source_origin, angles)
        ax.plot(x, y, ".", markersize=3, label=f"source, {len(angles)} views")
        fan = self.fan_angles
        depth, lateral = self.source_detector * np.ones_like(fan), self.detector_positions
        if self.detector == "curved":
            depth, lateral = (self.source_detector * part for part in (np.cos(fan), np.sin(fan)))
        u, v = self._plane(lateral - self.centre_offset, depth - self.source_origin, angles[0])
        ax.plot(u, v, linewidth=3, label="detector, first view")
        ax.fill([x[0], u[0], u[-1]], [y[0], v[0], v[-1]], alpha=0.15)
        ax.set_aspect("equal")
        ax.set_xlabel("x, in the unit of the lengths")
        ax.set_ylabel("y")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)

    @staticmethod
    def _plane(lateral: Any, depth: Any, angle: Any) -> tuple[Array, Array]:
        """Coordinates (x, y) of lateral coordinates t and depths s at an angle."""
        cosine, sine = np.cos(angle), np.sin(angle)
        return lateral * cosine - depth * sine, lateral * sine + depth * cosine

    @classmethod
    def two_detect(
        cls, *, views: int = 3600, detector_count: int = 956, image_size: int = 1024
    ) -> FanBeamGeometry:
        r"""2DeteCT: angles :math:`\pi - 2\pi k/\text{views}`, 956 cells (1912 summed in pairs).

        Parameters
        ----------
        views : int
            Every (3600/views)-th of the measured views.
        detector_count : int
            Cells on the same 143 mm; 1912 divided by the binning.
        image_size : int
            Pixels per side on the same 116.5 mm.

        Raises
        ------
        ValueError, TypeError
            For numbers that are not integers >= 1.

        Notes
        -----
        For sinograms with the detector axis flipped, as the data set's own loader gives them.
        """
        count = as_positive_integer(views, "views")
        return cls(
            source_origin=431.019989,
            source_detector=529.000488,
            detector_pixel=1912 * 0.0748 / as_positive_integer(detector_count, "detector_count"),
            detector_count=detector_count,
            angles=math.pi - 2 * math.pi / count * np.arange(count),
            image_size=image_size,
            pixel_size=1024 * 0.113797 / as_positive_integer(image_size, "image_size"),
        )

    @classmethod
    def htc2022(cls, angles: ArrayLike, *, image_size: int = 512) -> FanBeamGeometry:
        r"""Helsinki Tomography Challenge 2022: 560 cells of 0.2 mm, sinograms as they are stored.

        Parameters
        ----------
        angles : sequence of float
            In radians, within one turn: those of `dro_torch.data.htc2022` (for which there is
            `from_scan`), or ``numpy.deg2rad`` of the file's.
        image_size : int
            Pixels per side on the same 75.9 mm; 512 for the published masks.

        Raises
        ------
        ValueError, TypeError
            For bad angles (more than a turn: degrees), an image size that is not an integer >= 1.
        """
        radians = as_real_array(angles, "angles")
        if radians.size:
            _check_radians(radians, 2 * math.pi * (1 + 1e-9))
        return cls(
            source_origin=410.66,
            source_detector=553.74,
            detector_pixel=0.2,
            detector_count=560,
            angles=radians,
            image_size=image_size,
            pixel_size=512 * 0.14832232 / as_positive_integer(image_size, "image_size"),
        )

    @classmethod
    def from_scan(cls, scan: FanBeamScan, *, image_size: int | None = None) -> FanBeamGeometry:
        r"""The geometry of a measured scan: ``fan_beam_fbp(scan.sinogram[None], from_scan(scan))``.

        Parameters
        ----------
        scan : FanBeamScan
            Of `dro_torch.data`; nothing has to be flipped or turned.
        image_size : int, optional
            Pixels per side on the same field of view; by default those of the scan.

        Raises
        ------
        TypeError, ValueError
            For something that is not a scan, a sinogram that does not fit its angles, or an image
            size that is not an integer >= 1.
        """
        if not isinstance(scan, FanBeamScan):
            raise TypeError(f"scan: a FanBeamScan is needed, given {type(scan).__name__}")
        shape, views = tuple(scan.sinogram.shape), scan.angles.numel()
        if len(shape) != 2 or shape[0] != views:
            hint = " (axes swapped? scan.sinogram.mT)" if shape[-1] == views else ""
            raise ValueError(
                f"scan: sinogram of shape {shape}, but {views} angles; needed: (views, detector "
                f"cells){hint}"
            )
        size = scan.image_size if image_size is None else image_size
        return cls(
            source_origin=scan.source_origin_mm,
            source_detector=scan.source_detector_mm,
            detector_pixel=scan.detector_pixel_mm,
            detector_count=shape[1],
            angles=scan.angles.double().cpu().numpy(),
            image_size=size,
            pixel_size=scan.image_size
            * scan.image_pixel_mm
            / as_positive_integer(size, "image_size"),
        )

    @property
    def sinogram_shape(self) -> tuple[int, int]:
        """(views, detector cells)"""
        return len(self.angles), self.detector_count

    @property
    def image_shape(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.image_size, self.image_size

    @property
    def detector_positions(self) -> Array:
        """Centres u_k of the cells, shape (detector_count,)."""
        centred = np.arange(self.detector_count) - (self.detector_count - 1) / 2
        return np.asarray(centred * self.detector_pixel + self.detector_offset)

    def on_detector(self, slope: Coordinate) -> Coordinate:
        """Where a ray of slope (t + c)/(D + s) meets the detector."""
        if self.detector == "curved":
            angle = torch.atan(slope) if isinstance(slope, Tensor) else np.arctan(slope)
            result: Coordinate = self.source_detector * angle
            return result
        return self.source_detector * slope

    @property
    def fan_angles(self) -> Array:
        r"""Angles :math:`\gamma_k` of the rays to the cells, from the central ray, radians."""
        position = self.detector_positions / self.source_detector
        return position if self.detector == "curved" else np.arctan(position)


def _check_radians(angles: Array, largest: float = LARGEST_SPAN) -> None:
    """Refuse angles that can only be degrees; scans of several turns are legal."""
    span = float(np.ptp(angles))
    quarters = bool((np.abs(4 * angles - np.round(4 * angles)) < 1e-9).all())
    if span > largest or (span > 2 * math.pi and quarters and len(angles) >= 8):
        raise ValueError(
            f"angles: from {angles.min():g} to {angles.max():g}, in radians "
            f"{span / 2 / math.pi:.3g} turns; degrees? (numpy.deg2rad(angles); if not: "
            "numpy.mod(angles, 2 * numpy.pi))"
        )


def check_geometry(value: object) -> FanBeamGeometry:
    """Refuse anything but a geometry."""
    if not isinstance(value, FanBeamGeometry):
        raise TypeError(f"geometry: {value!r} is not a FanBeamGeometry")
    return value


def coordinates(
    geometry: FanBeamGeometry, angle: float, x: Coordinate, y: Coordinate
) -> tuple[Coordinate, Coordinate]:
    """Distance from the central ray, t + c, and from the source along it, D + s."""
    cosine, sine = math.cos(angle), math.sin(angle)
    lateral = x * cosine + y * sine + geometry.centre_offset
    return lateral, y * cosine - x * sine + geometry.source_origin


def slope_at(geometry: FanBeamGeometry, angle: float, x: Coordinate, y: Coordinate) -> Coordinate:
    """Slope (t + c)/(D + s) of the ray through a point."""
    lateral, depth = coordinates(geometry, angle, x, y)
    return lateral / depth


def pixel_centres(geometry: FanBeamGeometry) -> Array:
    """Coordinates of the pixels along either axis."""
    centred = np.arange(geometry.image_size) - (geometry.image_size - 1) / 2
    return np.asarray(centred * geometry.pixel_size)


def check_last_axes(value: Tensor, name: str, shape: tuple[int, int], what: str) -> Tensor:
    """Refuse images or sinograms of another shape, saying what may have been meant."""
    if value.ndim < 3 or tuple(value.shape[-2:]) != shape:
        hint = ""
        if tuple(value.shape) == shape:
            hint = f"; for one of them: {name}[None]"
        elif tuple(value.shape[-2:]) == shape[::-1]:
            hint = f"; the last two axes swapped? {name}.mT" + "[None]" * (value.ndim == 2)
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; needed: {what} of shape {shape}, samples on "
            f"axis 0{hint}"
        )
    return value
