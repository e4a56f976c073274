r"""Fan-beam tomography: geometry, projector as an explicit sparse matrix, filtered back-projection.

Geometry (that of ASTRA's ``fanflat``, all lengths in one unit, millimetres in the presets): the
image is centred on the rotation axis, x to the right along columns, y up, row 0 on top. At angle
:math:`\theta` a point has the lateral coordinate :math:`t = x\cos\theta + y\sin\theta` and the
depth :math:`s = -x\sin\theta + y\cos\theta`; the source is at :math:`s = -D` (`source_origin`),
the detector at distance :math:`D_d` (`source_detector`) from it, and the ray through a point meets
a flat detector at :math:`u = D_d\,(t + c)/(D + s)`, a curved one (arc around the source) at the arc
length :math:`u = D_d\arctan((t + c)/(D + s))`, with c the `centre_offset`. Cell k is centred at
:math:`u_k = (k - (K-1)/2)\,p + o`, with o the `detector_offset`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from dro_core.checks import (
    Array,
    as_positive_integer,
    as_real_array,
    as_scalar,
    check_option,
)
from dro_torch.checks import check_tensor
from dro_torch.data.tomography import FanBeamScan
from dro_torch.physics.forward import LinearForward, in_full_precision
from dro_torch.physics.linear import SparseMatrix, check_dtype, linear_product

DETECTORS = ("flat", "curved")
#: Windows on the ramp filter, as functions of the share of the Nyquist frequency.
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": torch.ones_like,
    "shepp-logan": lambda share: torch.sinc(share / 2),
    "cosine": lambda share: torch.cos(math.pi / 2 * share),
    "hann": lambda share: 0.5 + 0.5 * torch.cos(math.pi * share),
    "hamming": lambda share: 0.54 + 0.46 * torch.cos(math.pi * share),
}
#: Matrices with more entries than this (about 4 GiB with the transpose, in float32) are not built.
LARGEST_MATRIX = 2**28
#: Gaps between views of more than so many usual ones count as missing data, not as coarse steps.
MISSING_GAP = 10.0
#: Wider gaps are left out of the usual ones while they are few: so many at most.
WIDE_GAP = math.radians(30.0)
MOST_HOLES = 6
#: Views nearer than this are one view, measured again.
COINCIDENT = 1e-6
#: Larger spans of angles are taken for degrees (16 turns, were they radians).
LARGEST_SPAN = 100.0
#: Smaller ones may have been converted from degrees twice.
SMALLEST_SPAN = 0.2
#: Share of the rays through the image that may be measured from neither side without a warning.
UNSEEN = 0.005
#: Redundancy weights fade over this angle from missing views, and this share of the detector.
VIEW_TAPER = math.radians(10.0)
CELL_TAPER = 0.05


class CoverageWarning(UserWarning):
    """The views leave out rays through the image: no filtered back-projection can be right."""


@dataclass(frozen=True)
class FanBeamGeometry:
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
    angles: Any
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
    def htc2022(cls, angles: Any, *, image_size: int = 512) -> FanBeamGeometry:
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
    def from_scan(cls, scan: Any, *, image_size: int | None = None) -> FanBeamGeometry:
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

    def on_detector(self, slope: Any) -> Any:
        """Where a ray of slope (t + c)/(D + s) meets the detector."""
        if self.detector == "curved":
            inverse = torch.atan if isinstance(slope, Tensor) else np.arctan
            slope = inverse(slope)
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


def fan_beam_matrix(geometry: FanBeamGeometry, dtype: Any = np.float32) -> Any:
    r"""Strip integrals of pixels as a sparse matrix.

    Row (view, cell), column pixel: the mean over the cell of the line integrals through the pixel,

    .. math:: a_{kj} = \frac1p\int_{u_k - p/2}^{u_k + p/2} \ell_j(u)\,du,

    :math:`\ell_j(u)` the length in pixel j of the ray that ends in u. As a function of u it is
    taken as the trapezoid through the projections of the pixel's corners whose height is the length
    of the ray through the centre; exact for parallel rays, and up to (pixel/distance)² here.

    Parameters
    ----------
    geometry : FanBeamGeometry
    dtype : float32 or float64
        Of the entries, which are computed in float64.

    Returns
    -------
    scipy.sparse.csr_array, (views * detector_count, image_size²)

    Raises
    ------
    ValueError
        If there would be more than 2^28 entries.
    TypeError
        If `geometry` is not a FanBeamGeometry.

    Notes
    -----
    Source: the separable footprints of Long, Fessler and Balter (IEEE Trans. Med. Imag. 2010) in
    two dimensions, with the trapezoid integrated exactly.
    """
    size, count = check_geometry(geometry).image_size, geometry.detector_count
    half = size * geometry.pixel_size / 2
    magnified = geometry.source_detector / geometry.source_origin * geometry.pixel_size
    entries = len(geometry.angles) * size**2 * (1 + 1.3 * magnified / geometry.detector_pixel)
    if entries > LARGEST_MATRIX:
        raise ValueError(
            f"geometry: about {entries:.2g} matrix entries, allowed: {LARGEST_MATRIX:.2g}; take "
            "fewer views or pixels, or pass any differentiable projector to LinearOperatorModule "
            "(fan_beam_fbp needs no matrix)"
        )
    corners = np.linspace(-half, half, size + 1)
    first = geometry.detector_positions[0] - geometry.detector_pixel / 2
    blocks = []
    for angle in geometry.angles:
        slope = _slope(geometry, angle, corners[None, :], corners[::-1, None])
        edges = (geometry.on_detector(slope) - first) / geometry.detector_pixel
        corner = _in_order(edges[:-1, :-1], edges[:-1, 1:], edges[1:, :-1], edges[1:, 1:])
        height = _length_of_central_ray(geometry, angle)
        start = np.floor(corner[0]).astype(np.int64)
        steps = int((np.floor(corner[3]).astype(np.int64) - start).max()) + 1
        below = np.zeros_like(height)
        rows, columns, values = [], [], []
        for step in range(steps):
            through = height * _trapezoid_below(start + step + 1.0, corner)
            value, cell = through - below, start + step
            kept = np.flatnonzero((value > 0) & (cell >= 0) & (cell < count))
            rows.append(cell[kept])
            columns.append(kept)
            values.append(value[kept].astype(dtype))
            below = through
        entry = (np.concatenate(rows), np.concatenate(columns))
        blocks.append(sparse.csr_array((np.concatenate(values), entry), shape=(count, size**2)))
    return sparse.vstack(blocks, format="csr")


def check_geometry(value: Any) -> FanBeamGeometry:
    """Refuse anything but a geometry."""
    if not isinstance(value, FanBeamGeometry):
        raise TypeError(f"geometry: {value!r} is not a FanBeamGeometry")
    return value


def _coordinates(geometry: FanBeamGeometry, angle: float, x: Any, y: Any) -> tuple[Any, Any]:
    """Distance from the central ray, t + c, and from the source along it, D + s."""
    cosine, sine = math.cos(angle), math.sin(angle)
    lateral = x * cosine + y * sine + geometry.centre_offset
    return lateral, y * cosine - x * sine + geometry.source_origin


def _slope(geometry: FanBeamGeometry, angle: float, x: Any, y: Any) -> Any:
    lateral, depth = _coordinates(geometry, angle, x, y)
    return lateral / depth


def _pixel_centres(geometry: FanBeamGeometry) -> Array:
    centred = np.arange(geometry.image_size) - (geometry.image_size - 1) / 2
    return np.asarray(centred * geometry.pixel_size)


def _length_of_central_ray(geometry: FanBeamGeometry, angle: float) -> Array:
    """Length in each pixel of the ray through its centre, flattened."""
    centres = _pixel_centres(geometry)
    slope = np.arctan(_slope(geometry, angle, centres[None, :], centres[::-1, None])).ravel()
    direction = angle - slope  # of the ray, from the y axis
    steepest = np.maximum(np.abs(np.cos(direction)), np.abs(np.sin(direction)))
    return np.asarray(geometry.pixel_size / steepest)


def _in_order(*corner: Any) -> tuple[Any, Any, Any, Any]:
    """The four values of every pixel in increasing order, flattened."""
    a, b, c, d = (part.ravel() for part in corner)
    a, b, c, d = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    a, c, b, d = np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d)
    return a, np.minimum(b, c), np.maximum(b, c), d


def _trapezoid_below(u: Any, corner: tuple[Any, Any, Any, Any]) -> Any:
    """Integral up to u of the trapezoid of height 1 on the four ordered corners."""
    a, b, c, d = corner
    rising, falling = np.clip(u, a, b) - a, d - np.clip(u, c, d)
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(b > a, rising**2 / (2 * (b - a)), 0.0)
        down = np.where(d > c, ((d - c) ** 2 - falling**2) / (2 * (d - c)), 0.0)
    return up + np.clip(u, b, c) - b + down


class FanBeamProjector(LinearForward):
    r"""Fan-beam projector :math:`A`: images (..., n, n) to sinograms (..., views, cells).

    The sparse matrix of `fan_beam_matrix` and its transpose; exact adjoint, derivatives in both
    modes and of every order.

    Parameters
    ----------
    geometry : FanBeamGeometry
    dtype : torch.dtype
        Of the matrix: float32 (default) or float64; images must have it, or be narrower.

    Raises
    ------
    ValueError, TypeError
        For a geometry whose matrix would be too large, another dtype, images or sinograms of the
        wrong shape, dtype or device.

    Examples
    --------
    >>> import math, torch
    >>> import numpy as np
    >>> from dro_torch.tomography import FanBeamGeometry, FanBeamProjector
    >>> angles = np.linspace(0, 2 * math.pi, 8, endpoint=False)
    >>> projector = FanBeamProjector(FanBeamGeometry(100.0, 150.0, 2.0, 31, angles, 16, 1.0))
    >>> projector.A(torch.ones(1, 1, 16, 16)).shape
    torch.Size([1, 1, 8, 31])
    """

    def __init__(self, geometry: FanBeamGeometry, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        check_dtype(dtype)
        self.geometry = check_geometry(geometry)
        precision = np.float32 if dtype == torch.float32 else np.float64
        self.sparse = SparseMatrix(fan_beam_matrix(geometry, precision), dtype)

    def extra_repr(self) -> str:
        """Shapes."""
        return f"image={self.geometry.image_shape}, sinogram={self.geometry.sinogram_shape}"

    def _check_signal(self, x: Tensor) -> Tensor:
        return _check_last_axes(x, "x", self.geometry.image_shape, "images")

    def _check_measurement(self, y: Tensor) -> Tensor:
        return _check_last_axes(y, "y", self.geometry.sinogram_shape, "sinograms")

    def _measure(self, x: Tensor) -> Tensor:
        rows = self.sparse.product(x.reshape(-1, self.geometry.image_size**2))
        return rows.reshape(*x.shape[:-2], *self.geometry.sinogram_shape)

    def _transpose(self, y: Tensor) -> Tensor:
        rows = self.sparse.transposed(y.reshape(-1, math.prod(self.geometry.sinogram_shape)))
        return rows.reshape(*y.shape[:-2], *self.geometry.image_shape)

    def fbp(self, sinogram: Tensor, *, filter: str = "ramp") -> Tensor:
        """Filtered back-projection; see `fan_beam_fbp`."""
        return fan_beam_fbp(sinogram, self.geometry, filter=filter)


def _check_last_axes(value: Tensor, name: str, shape: tuple[int, int], what: str) -> Tensor:
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


def scan_weights(geometry: FanBeamGeometry) -> Array:
    r"""Share of the integral over all rays that each measured one stands for: (views, cells).

    .. math:: w(\theta, \gamma) = \Delta\theta\,\frac{m(\theta, \gamma)}
              {m(\theta, \gamma) + m(\theta', \gamma')},\qquad
              \gamma' = 2\delta - \gamma,\quad \theta' = \theta + \pi - 2(\gamma - \delta),\quad
              \delta = \arctan(c/D)

    where :math:`(\theta', \gamma')` is the same ray from the other side and m says how surely a ray
    is measured: 1 inside, falling linearly to 0 within 10 degrees of missing views and 5 % of
    the detector from its ends. A full scan has :math:`w = \Delta\theta/2`; short scans, missing
    views and displaced detectors are weighted smoothly, as Parker's and Wang's weights do.
    :math:`\Delta\theta` is half the sum of the gaps to the neighbouring angles on the circle,
    shared by views that coincide (several turns, views taken again). Gaps above ten usual ones are
    missing data and count as a usual one: the gap that half of the circle lies in smaller ones
    than, not counting gaps above 30 degrees where there are few. So every ray that is measured has
    the weight :math:`\pi` in all, whatever the order, spacing and number of the views.

    Parameters
    ----------
    geometry : FanBeamGeometry

    Warns
    -----
    CoverageWarning
        Where more than 0.5 % of the rays through the image are measured from neither side.

    Returns
    -------
    (views, detector_count) array
        In radians.

    Raises
    ------
    TypeError
        If `geometry` is not a FanBeamGeometry.

    Notes
    -----
    Source: Parker, *Optimal short scan convolution reconstruction for fanbeam CT* (Med. Phys. 9,
    1982): weights of the two measurements of a ray sum to one and change continuously, and half a
    turn plus the fan angle measures every ray. His weights depend on the end of the arc alone;
    these on the nearest missing view, so that arcs of any number and size are covered. Wang, *X-ray
    micro-CT with a displaced detector array* (Med. Phys. 29, 2002) for the ends of the detector.
    """
    angles, again, count = _distinct(np.asarray(check_geometry(geometry).angles))
    gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
    usual = _usual_gap(gaps)
    missing = gaps > MISSING_GAP * usual
    holes = list(zip(angles[missing] + usual / 2, np.roll(angles, -1)[missing] - usual / 2,
                     strict=True))  # fmt: skip
    gaps = np.where(missing, usual, gaps)
    steps = (gaps + np.roll(gaps, 1)) / 2 / count
    _warn_of_unseen_rays(geometry, holes)

    def measured(view: Array, fan: Array) -> Array:
        nearest = np.full(np.broadcast_shapes(view.shape, fan.shape), VIEW_TAPER)
        for low, high in holes:
            width, after = np.mod(high - low, 2 * np.pi), np.mod(view - low, 2 * np.pi)
            away = np.minimum(after - width, 2 * np.pi - after)
            nearest = np.minimum(nearest, np.where(after <= width, 0.0, away))
        half = (geometry.fan_angles[-1] - geometry.fan_angles[0] + pitch) / 2
        middle = (geometry.fan_angles[-1] + geometry.fan_angles[0]) / 2
        inside = np.clip((half - np.abs(fan - middle)) / (2 * half * CELL_TAPER), 0, 1)
        return np.asarray(nearest / VIEW_TAPER * inside)

    pitch = geometry.detector_pixel / geometry.source_detector
    view, fan = angles[:, None], geometry.fan_angles[None, :]
    own = np.maximum(measured(view, fan), 1e-9)
    other = measured(*_other_side(geometry, view, fan))
    return np.asarray(steps[:, None] * own / (own + other))[again]


def _distinct(angles: Array) -> tuple[Array, Any, Any]:
    """Different angles on the circle in increasing order, which is whose, and how often each is."""
    turned = np.mod(angles, 2 * np.pi)
    turned = np.where(turned > 2 * np.pi - COINCIDENT, turned - 2 * np.pi, turned)
    order = np.argsort(turned, kind="stable")
    first = np.diff(turned[order], prepend=-np.inf) > COINCIDENT
    which = np.empty(len(angles), dtype=np.int64)
    which[order] = np.cumsum(first) - 1
    return turned[order][first], which, np.bincount(which)


def _usual_gap(gaps: Array) -> float:
    """Half of what the gaps cover lies in gaps up to this; a few wide ones may be holes."""
    narrow = gaps[gaps <= WIDE_GAP]
    wide = len(gaps) - len(narrow)
    some = np.sort(narrow if wide <= MOST_HOLES and len(narrow) >= 2 * max(wide, 1) else gaps)
    return float(some[np.searchsorted(np.cumsum(some), some.sum() / 2)])


def _other_side(geometry: FanBeamGeometry, view: Any, fan: Any) -> tuple[Any, Any]:
    """View and fan angle of the same ray from the other side."""
    displaced = math.atan(geometry.centre_offset / geometry.source_origin)
    return view + np.pi - 2 * (fan - displaced), 2 * displaced - fan


def _warn_of_unseen_rays(geometry: FanBeamGeometry, holes: list[tuple[float, float]]) -> None:
    if not holes:
        return
    radius = geometry.image_size * geometry.pixel_size / 2
    reach = math.asin(min(1.0, radius / geometry.source_origin))
    view, fan = np.linspace(0, 2 * np.pi, 720)[:, None], np.linspace(-reach, reach, 33)[None, :]

    def hidden(angle: Any) -> Any:
        inside = [np.mod(angle - low, 2 * np.pi) < np.mod(high - low, 2 * np.pi)
                  for low, high in holes]  # fmt: skip
        return np.any(inside, axis=0)

    unseen = float((hidden(view + 0 * fan) & hidden(_other_side(geometry, view, fan)[0])).mean())
    if unseen > UNSEEN:
        span = float(np.ptp(geometry.angles))
        twice = f" (the views span only {span:.3g} radians: converted from degrees twice?)"
        warnings.warn(
            f"geometry: {unseen:.1%} of the rays through the image are measured from neither side; "
            "its filtered back-projection misses edges and mass along them"
            + twice
            * (0 < span < SMALLEST_SPAN),
            CoverageWarning,
            stacklevel=4,
        )


def fan_beam_fbp(sinogram: Tensor, geometry: FanBeamGeometry, *, filter: str = "ramp") -> Tensor:
    r"""Filtered back-projection of a fan-beam scan.

    With the fan angle :math:`\gamma` of a ray and :math:`\alpha = \tan\gamma` (flat detector),

    .. math:: f(x) = \sum_\theta \frac{1}{(D + s)^2}
              \int h(\alpha_x - \alpha)\,(D\cos\gamma + c\sin\gamma)\,w(\theta, \gamma)\,
              g(\theta, \alpha)\,d\alpha,

    g the sinogram, w the weights of `scan_weights` (:math:`\pi` over the number of views for a full
    scan) and h the ramp filter, sampled in space (Ramachandran-Lakshminarayanan), so that the mean
    is right. Curved detector: the same with :math:`\gamma` for :math:`\alpha`,
    :math:`(\gamma/\sin\gamma)^2 h(\gamma)` for h, and the squared distance from the source for
    :math:`(D+s)^2`. Back-projection is pixel by pixel with linear interpolation; filtered views are
    continued beyond the detector's ends, where some pixels lie.

    Parameters
    ----------
    sinogram : Tensor (..., views, detector_count)
        Line integrals (in the unit of length of the geometry), samples on axis 0.
    geometry : FanBeamGeometry
    filter : "ramp", "shepp-logan", "cosine", "hann" or "hamming"
        Window on the ramp.

    Returns
    -------
    Tensor (..., image_size, image_size)
        Of the dtype and device of the sinogram; linear and differentiable in it.

    Raises
    ------
    ValueError, TypeError
        For a sinogram of the wrong shape or that is not finite, an unknown filter.

    Notes
    -----
    Source: Kak and Slaney,
    *Principles of Computerized Tomographic Imaging*, 3.4; Gullberg, Crawford and Tsui (IEEE Trans.
    Med. Imag. 1986) for the displaced axis.
    """
    check_geometry(geometry)
    given = check_tensor(sinogram, "sinogram")
    _check_last_axes(given, "sinogram", geometry.sinogram_shape, "sinograms")
    check_option(filter, "filter", FILTERS)

    def reconstruct(values: Tensor) -> Tensor:
        filtered = _filter_views(values, geometry, filter)
        stack = filtered.reshape(-1, *filtered.shape[-2:])
        backprojection = _Backprojection(geometry)
        image = linear_product(stack, backprojection.product, backprojection.transposed)
        return image.reshape(*given.shape[:-2], *geometry.image_shape)

    return in_full_precision(reconstruct, given)


def _filter_views(sinogram: Tensor, geometry: FanBeamGeometry, window: str) -> Tensor:
    """Views, weighted by the cosine and convolved with the ramp."""
    step = geometry.detector_pixel / geometry.source_detector
    fan = geometry.fan_angles
    weight = geometry.source_origin * np.cos(fan) + geometry.centre_offset * np.sin(fan)
    weight = weight * scan_weights(geometry)
    margin = _margin(geometry)
    count = geometry.detector_count + 2 * margin
    length = 2 ** math.ceil(math.log2(2 * count))
    lag = np.minimum(np.arange(length), length - np.arange(length))
    distance = np.sin(lag * step) if geometry.detector == "curved" else lag * step
    ramp = np.zeros(length)
    odd = (lag % 2 == 1) & (lag < count)  # on an arc: below half a turn
    ramp[odd] = -1 / (np.pi * distance[odd]) ** 2
    ramp[0] = 1 / (4 * step**2)
    # in float64: its mean is a small difference of large numbers
    response = torch.fft.rfft(torch.from_numpy(ramp * step)).real
    share = torch.linspace(0, 1, len(response), dtype=torch.float64)
    response = (response * FILTERS[window](share)).to(sinogram)
    weighted = sinogram * torch.from_numpy(weight).to(sinogram)
    weighted = torch.nn.functional.pad(weighted, (margin, margin))
    spectrum = torch.fft.rfft(weighted, n=length) * response
    return torch.fft.irfft(spectrum, n=length)[..., :count]


def _margin(geometry: FanBeamGeometry) -> int:
    """Cells to add at both ends so that every pixel is in view; at most twice the detector."""
    axis = math.hypot(geometry.source_origin, geometry.centre_offset)
    reach = geometry.image_size * geometry.pixel_size / math.sqrt(2)
    displaced = math.atan(abs(geometry.centre_offset) / geometry.source_origin)
    farthest = geometry.on_detector(math.tan(math.asin(reach / axis) + displaced))
    ends = np.array([-geometry.detector_positions[0], geometry.detector_positions[-1]])
    missing = math.ceil((farthest - float(ends.min())) / geometry.detector_pixel)
    return min(max(0, missing), 2 * geometry.detector_count)


class _Backprojection:
    """Pixel-driven weighted back-projection (N, views, cells) -> (N, n²), and its transpose.

    Cells are counted with the margin that `_filter_views` adds and one empty cell before it.
    """

    def __init__(self, geometry: FanBeamGeometry) -> None:
        self._geometry = geometry
        self._margin = _margin(geometry)
        self._count = geometry.detector_count + 2 * self._margin

    def _view(self, number: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For every pixel: its left cell, and the weights of this and the next."""
        geometry = self._geometry
        centres = torch.from_numpy(_pixel_centres(geometry)).to(like)
        lateral, depth = _coordinates(
            geometry, geometry.angles[number], centres[None, :], centres.flip(0)[:, None]
        )
        squared = depth**2 + (lateral**2 if geometry.detector == "curved" else 0.0)
        place = geometry.on_detector(lateral / depth) - geometry.detector_positions[0]
        place = (place / geometry.detector_pixel + self._margin + 1).flatten()
        place = place.clamp(0, self._count + 1)
        left = place.floor().clamp(max=self._count)
        weight = 1 / squared.flatten()
        right = (place - left) * weight
        return left.long(), weight - right, right

    def product(self, views: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(views, (1, 1))
        image = views.new_zeros(len(views), math.prod(self._geometry.image_shape))
        for number in range(views.shape[1]):
            cell, left, right = self._view(number, views)
            row = padded[:, number]
            image += left * row[:, cell] + right * row[:, cell + 1]
        return image

    def transposed(self, image: Tensor) -> Tensor:
        views = len(self._geometry.angles)
        padded = image.new_zeros(len(image), views, self._count + 2)
        for number in range(views):
            cell, left, right = self._view(number, image)
            padded[:, number].index_add_(1, cell, image * left)
            padded[:, number].index_add_(1, cell + 1, image * right)
        return padded[..., 1:-1]
