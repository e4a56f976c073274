"""Filtered back-projection: the ramp on weighted views, and their sum pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from dro_core.checks import check_option
from dro_torch.checks import check_tensor
from dro_torch.physics.linear import (
    SparseMatrix,
    check_dtype,
    check_matrix_dtype,
    linear_product,
)
from dro_torch.precision import in_full_precision
from dro_torch.tomography.geometry import (
    LARGEST_MATRIX,
    FanBeamGeometry,
    check_geometry,
    check_last_axes,
    coordinates,
    pixel_centres,
)
from dro_torch.tomography.weights import scan_weights

#: Windows on the ramp filter, as functions of the share of the Nyquist frequency.
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": torch.ones_like,
    "shepp-logan": lambda share: torch.sinc(share / 2),
    "cosine": lambda share: torch.cos(math.pi / 2 * share),
    "hann": lambda share: 0.5 + 0.5 * torch.cos(math.pi * share),
    "hamming": lambda share: 0.54 + 0.46 * torch.cos(math.pi * share),
}


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
    check_last_axes(given, "sinogram", geometry.sinogram_shape, "sinograms")
    check_option(filter, "filter", FILTERS)

    def reconstruct(values: Tensor) -> Tensor:
        filtered = _RampFilter(geometry, filter)(values)
        stack = filtered.reshape(-1, *filtered.shape[-2:])
        backprojection = _Backprojection(geometry)
        image = linear_product(stack, backprojection.product, backprojection.transposed)
        return image.reshape(*given.shape[:-2], *geometry.image_shape)

    return in_full_precision(reconstruct, given)


class _RampFilter(nn.Module):
    """Views, weighted by the cosine and convolved with the ramp; with a margin at both ends."""

    weight: Tensor
    response: Tensor

    def __init__(self, geometry: FanBeamGeometry, window: str) -> None:
        super().__init__()
        step = geometry.detector_pixel / geometry.source_detector
        fan = geometry.fan_angles
        weight = geometry.source_origin * np.cos(fan) + geometry.centre_offset * np.sin(fan)
        self.margin = _margin(geometry)
        self.count = geometry.detector_count + 2 * self.margin
        self.length = 2 ** math.ceil(math.log2(2 * self.count))
        lag = np.minimum(np.arange(self.length), self.length - np.arange(self.length))
        distance = np.sin(lag * step) if geometry.detector == "curved" else lag * step
        ramp = np.zeros(self.length)
        odd = (lag % 2 == 1) & (lag < self.count)  # on an arc: below half a turn
        ramp[odd] = -1 / (np.pi * distance[odd]) ** 2
        ramp[0] = 1 / (4 * step**2)
        # in float64: its mean is a small difference of large numbers
        response = torch.fft.rfft(torch.from_numpy(ramp * step)).real
        share = torch.linspace(0, 1, len(response), dtype=torch.float64)
        weighted = torch.from_numpy(weight * scan_weights(geometry))
        self.register_buffer("weight", weighted, persistent=False)
        self.register_buffer("response", response * FILTERS[window](share), persistent=False)

    def forward(self, sinogram: Tensor) -> Tensor:
        weighted = sinogram * self.weight.to(sinogram)
        weighted = torch.nn.functional.pad(weighted, (self.margin, self.margin))
        spectrum = torch.fft.rfft(weighted, n=self.length) * self.response.to(sinogram)
        result: Tensor = torch.fft.irfft(spectrum, n=self.length)[..., : self.count]
        return result


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

    Cells are counted with the margin that `_RampFilter` adds and one empty cell before it.
    """

    def __init__(self, geometry: FanBeamGeometry) -> None:
        self._geometry = geometry
        self._margin = _margin(geometry)
        self._count = geometry.detector_count + 2 * self._margin

    def _view(self, number: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For every pixel: its left cell, and the weights of this and the next."""
        geometry = self._geometry
        centres = torch.from_numpy(pixel_centres(geometry)).to(like)
        lateral, depth = coordinates(
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

    def matrix(self, dtype: torch.dtype) -> sparse.csr_array:
        """All views at once: (n², views x cells)."""
        views, cells = len(self._geometry.angles), self._count + 2
        pixels = np.arange(math.prod(self._geometry.image_shape))
        like = torch.empty(0, dtype=dtype)
        rows, columns, values = [], [], []
        for number in range(views):
            cell, left, right = (part.numpy() for part in self._view(number, like))
            for at, weight in ((cell, left), (cell + 1, right)):
                inside = (at > 0) & (at < cells - 1)  # an empty cell is before and behind
                rows.append(pixels[inside])
                columns.append(number * self._count + at[inside] - 1)
                values.append(weight[inside])
        shape = len(pixels), views * self._count
        joined = [np.concatenate(parts) for parts in (values, rows, columns)]
        return sparse.csr_array((joined[0], (joined[1], joined[2])), shape=shape)


class FanBeamFBP(nn.Module):
    r"""`fan_beam_fbp` as a module with its matrix stored: for many calls with one geometry.

    Back-projection is a sparse matrix of two entries per pixel and view, kept with its transpose,
    so a pass within a training loop costs a product; exact adjoint, derivatives of every order.

    Parameters
    ----------
    geometry : FanBeamGeometry
    filter : "ramp", "shepp-logan", "cosine", "hann" or "hamming"
        Window on the ramp.
    dtype : torch.dtype
        Of the matrix: float32 (default) or float64; sinograms must have it, or be narrower.

    Raises
    ------
    ValueError, TypeError
        For a geometry whose matrix would be too large, another dtype, an unknown filter,
        sinograms of the wrong shape, dtype or device.

    Examples
    --------
    >>> import math, torch
    >>> import numpy as np
    >>> from dro_torch.tomography import FanBeamFBP, FanBeamGeometry
    >>> angles = np.linspace(0, 2 * math.pi, 8, endpoint=False)
    >>> fbp = FanBeamFBP(FanBeamGeometry(100.0, 150.0, 2.0, 31, angles, 16, 1.0))
    >>> fbp(torch.ones(1, 1, 8, 31)).shape
    torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        geometry: FanBeamGeometry,
        *,
        filter: str = "ramp",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.geometry = check_geometry(geometry)
        check_option(filter, "filter", FILTERS)
        check_dtype(dtype)
        entries = 2 * math.prod(geometry.image_shape) * len(geometry.angles)
        if entries > LARGEST_MATRIX:
            raise ValueError(
                f"geometry: {entries:.2g} entries of the back-projection, allowed: "
                f"{LARGEST_MATRIX:.2g}; fan_beam_fbp stores none"
            )
        self.ramp = _RampFilter(geometry, filter)
        self.sparse = SparseMatrix(_Backprojection(geometry).matrix(dtype), dtype)

    def extra_repr(self) -> str:
        """Shapes."""
        return f"sinogram={self.geometry.sinogram_shape}, image={self.geometry.image_shape}"

    def forward(self, sinogram: Tensor) -> Tensor:
        """The image (..., n, n) of a sinogram (..., views, cells)."""
        given = check_tensor(sinogram, "sinogram")
        check_last_axes(given, "sinogram", self.geometry.sinogram_shape, "sinograms")
        return in_full_precision(self._reconstruct, given)

    def _reconstruct(self, sinogram: Tensor) -> Tensor:
        check_matrix_dtype(sinogram, self.sparse.matrix.values, "sinogram")
        filtered = self.ramp(sinogram).reshape(-1, self.sparse.matrix.shape[1])
        image: Tensor = self.sparse.product(filtered)
        return image.reshape(*sinogram.shape[:-2], *self.geometry.image_shape)
