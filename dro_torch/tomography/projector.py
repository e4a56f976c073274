"""The projector as an explicit sparse matrix of strip integrals."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import DTypeLike
from scipy import sparse
from torch import Tensor

from dro_core.types import Array
from dro_torch.physics.forward import LinearForward
from dro_torch.physics.linear import SparseMatrix, check_dtype
from dro_torch.tomography.backprojection import fan_beam_fbp
from dro_torch.tomography.geometry import (
    LARGEST_MATRIX,
    FanBeamGeometry,
    check_geometry,
    check_last_axes,
    pixel_centres,
    slope_at,
)

Corners = tuple[Array, Array, Array, Array]


def fan_beam_matrix(geometry: FanBeamGeometry, dtype: DTypeLike = np.float32) -> sparse.csr_array:
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
        slope = slope_at(geometry, angle, corners[None, :], corners[::-1, None])
        edges = (geometry.on_detector(slope) - first) / geometry.detector_pixel
        corner = _in_order(edges[:-1, :-1], edges[:-1, 1:], edges[1:, :-1], edges[1:, 1:])
        height = _length_of_central_ray(geometry, angle)
        start = np.floor(corner[0]).astype(np.int64)
        steps = int((np.floor(corner[3]).astype(np.int64) - start).max()) + 1
        below = np.zeros_like(height)
        rows, columns, values = [], [], []
        for step in range(steps):
            end = np.asarray(start + step + 1.0, dtype=np.float64)
            through = height * _trapezoid_below(end, corner)
            value, cell = through - below, start + step
            kept = np.flatnonzero((value > 0) & (cell >= 0) & (cell < count))
            rows.append(cell[kept])
            columns.append(kept)
            values.append(value[kept].astype(dtype))
            below = through
        entry = (np.concatenate(rows), np.concatenate(columns))
        blocks.append(sparse.csr_array((np.concatenate(values), entry), shape=(count, size**2)))
    return sparse.vstack(blocks, format="csr")


def _length_of_central_ray(geometry: FanBeamGeometry, angle: float) -> Array:
    """Length in each pixel of the ray through its centre, flattened."""
    centres = pixel_centres(geometry)
    slope = np.arctan(slope_at(geometry, angle, centres[None, :], centres[::-1, None])).ravel()
    direction = angle - slope  # of the ray, from the y axis
    steepest = np.maximum(np.abs(np.cos(direction)), np.abs(np.sin(direction)))
    return np.asarray(geometry.pixel_size / steepest)


def _in_order(*corner: Array) -> Corners:
    """The four values of every pixel in increasing order, flattened."""
    a, b, c, d = (part.ravel() for part in corner)
    a, b, c, d = np.minimum(a, b), np.maximum(a, b), np.minimum(c, d), np.maximum(c, d)
    a, c, b, d = np.minimum(a, c), np.maximum(a, c), np.minimum(b, d), np.maximum(b, d)
    return a, np.minimum(b, c), np.maximum(b, c), d


def _trapezoid_below(u: Array, corner: Corners) -> Array:
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
        return check_last_axes(x, "x", self.geometry.image_shape, "images")

    def _check_measurement(self, y: Tensor) -> Tensor:
        return check_last_axes(y, "y", self.geometry.sinogram_shape, "sinograms")

    def _measure(self, x: Tensor) -> Tensor:
        rows = self.sparse.product(x.reshape(-1, self.geometry.image_size**2))
        return rows.reshape(*x.shape[:-2], *self.geometry.sinogram_shape)

    def _transpose(self, y: Tensor) -> Tensor:
        rows = self.sparse.transposed(y.reshape(-1, math.prod(self.geometry.sinogram_shape)))
        return rows.reshape(*y.shape[:-2], *self.geometry.image_shape)

    def fbp(self, sinogram: Tensor, *, filter: str = "ramp") -> Tensor:
        """Filtered back-projection; see `fan_beam_fbp`."""
        return fan_beam_fbp(sinogram, self.geometry, filter=filter)
