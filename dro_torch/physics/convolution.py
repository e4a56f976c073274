r"""Blur: kernels, and convolution with them under every boundary condition.

Kernels are float64 tensors of odd size that sum to one. The paper's 61 x 61 Gaussian of width 3
has 99.99 % of its mass on the 25 x 25 entries within four widths, which is where kernels end here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    as_real_array,
    as_scalar,
    check_magnitude,
    check_option,
)
from dro_core.operators import PADDINGS
from dro_core.types import Array
from dro_torch.physics.forward import LinearForward

#: Gaussian kernels end at so many standard deviations.
TRUNCATION = 4.0
#: Points per pixel along the path of a motion blur.
PATH_POINTS = 64


def gaussian_kernel(width: float, *, size: int | None = None, dimensions: int = 2) -> Tensor:
    r"""Isotropic Gaussian kernel, :math:`k_t \propto \exp(-\|t\|^2/(2\sigma^2))`.

    Parameters
    ----------
    width : float
        Standard deviation :math:`\sigma \ge 0` in pixels; zero gives the identity.
    size : int, optional
        Odd number of entries per axis; default: those within four widths,
        :math:`2\lfloor 4\sigma + 1/2\rfloor + 1` (25 for a width of 3).
    dimensions : 1 or 2

    Returns
    -------
    Tensor
        (size,) or (size, size), float64, sum 1; of rank one.

    Raises
    ------
    ValueError, TypeError
        For a negative width, an even size, or other dimensions.
    """
    sigma = as_non_negative(width, "width")
    sigma = sigma if sigma > 1e-3 else 0.0  # the neighbours weigh nothing
    offsets = _offsets(size, sigma)
    line = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma else (offsets == 0).astype(float)
    line = line / line.sum()
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or dimensions not in (1, 2):
        raise ValueError(f"dimensions: {dimensions!r}; allowed: 1, 2")
    return torch.from_numpy(line if dimensions == 1 else np.outer(line, line))


def anisotropic_gaussian_kernel(
    widths: Sequence[float], angle: float = 0.0, *, size: int | None = None
) -> Tensor:
    r"""Gaussian kernel with two widths, :math:`k_t \propto \exp(-u^2/(2a^2) - v^2/(2b^2))`.

    Parameters
    ----------
    widths : (float, float)
        Standard deviations a along the direction and b across it, > 0, in pixels.
    angle : float
        Of the direction of u in degrees, anticlockwise from the rows of the image.
    size : int, optional
        Odd number of entries per axis; default: those within four times the larger width.

    Returns
    -------
    Tensor
        (size, size), float64, sum 1.

    Raises
    ------
    ValueError, TypeError
        For widths that are not two positive numbers, an even size, a bad angle or one in radians.
    """
    try:
        given = list(widths)
    except TypeError:
        given = []
    if len(given) != 2:
        raise ValueError(f"widths: {widths!r}; allowed: two numbers > 0, along and across")
    a, b = (as_non_negative(width, "widths", "two numbers > 0") for width in given)
    if min(a, b) == 0:
        raise ValueError(f"widths: {widths!r}; both must be > 0")
    direction = _as_direction(angle)
    offsets = _offsets(size, max(a, b))
    right, up = offsets[None, :], -offsets[:, None]
    u = math.cos(direction) * right + math.sin(direction) * up
    v = math.cos(direction) * up - math.sin(direction) * right
    kernel = np.exp(-0.5 * ((u / a) ** 2 + (v / b) ** 2))
    return torch.from_numpy(kernel / kernel.sum())


def motion_blur_kernel(
    length: float, angle: float = 0.0, *, decay: float = 0.0, size: int | None = None
) -> Tensor:
    r"""Straight motion at constant speed, light falling off as :math:`e^{-\text{decay}\,s}`.

    Midpoints :math:`s \in [0, 1]` of the path, 64 per pixel, are shared out bilinearly among the
    four pixels around them.

    Parameters
    ----------
    length : float
        Of the path in pixels, >= 0, centred on the kernel; zero gives the identity.
    angle : float
        Direction of motion in degrees, anticlockwise from the rows of the image.
    decay : float
        Zero: symmetric. Otherwise the beginning weighs :math:`e^{\text{decay}}` times the end.
    size : int, optional
        Odd number of entries per axis; default: the smallest that holds the path.

    Returns
    -------
    Tensor
        (size, size), float64, sum 1.

    Raises
    ------
    ValueError, TypeError
        For a negative length, an even size or one that does not hold the path, bad numbers, an
        angle in radians.
    """
    pixels = as_non_negative(length, "length", "a number from 0 to 10000")
    if pixels > 1e4:
        raise ValueError(f"length: {pixels:g}; allowed: a number from 0 to 10000")
    direction = _as_direction(angle)
    rate = as_scalar(decay, "decay", "a number from -700 to 700")
    if abs(rate) > 700:
        raise ValueError(f"decay: {rate:g}; allowed: a number from -700 to 700")
    reach = math.ceil(pixels / 2)
    side = len(_offsets(2 * reach + 1 if size is None else size, 0.0))
    if side < 2 * reach + 1:
        raise ValueError(
            f"size: {side} does not hold a path of {pixels:g} pixels; allowed: at least "
            f"{2 * reach + 1}"
        )
    points = max(1, math.ceil(PATH_POINTS * pixels))
    share = (np.arange(points) + 0.5) / points
    mass = np.exp(-rate * share - max(0.0, -rate))
    along = pixels * (share - 0.5)
    kernel = np.zeros((side + 1, side + 1))  # one more, of weight zero, for the bilinear shares
    rows = side // 2 - math.sin(direction) * along
    columns = side // 2 + math.cos(direction) * along
    for right in (0, 1):
        for down in (0, 1):
            i, j = np.floor(rows).astype(int) + down, np.floor(columns).astype(int) + right
            weight = (1 - abs(rows - i)) * (1 - abs(columns - j))
            np.add.at(kernel, (i, j), mass * weight)
    kernel = kernel[:side, :side]
    return torch.from_numpy(kernel / kernel.sum())


def _as_direction(angle: float) -> float:
    """An angle in degrees, in radians; refused if it is whole half degrees in radians already."""
    degrees = as_scalar(angle, "angle", "degrees")
    halves = 2 * math.degrees(degrees)
    nearest = round(halves)
    if nearest and abs(degrees) <= 2 * math.pi and abs(halves - nearest) < 1e-9:
        raise ValueError(
            f"angle: {degrees:.6g} is {nearest / 2:g} degrees in radians; degrees are needed: "
            "math.degrees(angle)"
        )
    return math.radians(degrees)


def _offsets(size: int | None, width: float) -> Array:
    """Positions of the entries from the centre."""
    if size is None:
        size = 2 * int(TRUNCATION * width + 0.5) + 1
    count = as_positive_integer(size, "size")
    if count % 2 == 0:
        raise ValueError(f"size: {count} is even; allowed: an odd integer >= 1")
    return np.arange(count, dtype=np.float64) - count // 2


class Convolution(LinearForward):
    r"""Convolution of signals or images with a kernel, output of the same shape.

    :math:`(Ax)_i = \sum_t k_t\, x_{i - t + c}` with the centre c = (size of the kernel) // 2 in
    every axis, on the last axes of x (as many as the kernel has); all leading axes (samples,
    channels) are convolved alike. The same map as `dro_core.operators.Convolution`.

    Parameters
    ----------
    kernel : array or Tensor
        1-D or 2-D, in no axis longer than the signals.
    padding : "circular", "zero", "reflect" or "mirror"
        What lies outside: the periodic continuation, zeros, or a reflection that repeats the edge
        ("reflect", d c b a | a b c d | d c b a, as in `scipy.ndimage`) or does not ("mirror",
        d c b | a b c d | c b a, which torch calls "reflect").

    Attributes
    ----------
    separable : bool
        Whether the kernel has rank one up to the rounding of its dtype: then it is applied axis by
        axis.

    Raises
    ------
    ValueError, TypeError
        For a kernel that is not finite, real, 1-D or 2-D; an unknown padding; signals that are
        smaller than the kernel or have too few axes.

    Notes
    -----
    The adjoint is exact for every padding. In the cost of unbalanced transport the paper uses the
    Gaussian blur of width 3 with reflection padding, which is not symmetric; circular padding is.

    Examples
    --------
    >>> import torch
    >>> from dro_torch.physics import Convolution
    >>> Convolution([0.0, 0.0, 1.0], "zero").A(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[0., 1., 2.]])
    """

    kernel: Tensor

    def __init__(
        self,
        kernel: ArrayLike | Tensor,
        padding: Literal["circular", "zero", "reflect", "mirror"] = "circular",
    ) -> None:
        super().__init__()
        rounding = 2.0**-52
        if isinstance(kernel, Tensor):
            if kernel.is_floating_point():
                rounding = torch.finfo(kernel.dtype).eps
            kernel = kernel.detach().cpu().double().numpy()
        array = as_real_array(kernel, "kernel")
        check_magnitude(array, "kernel")
        if array.ndim not in (1, 2) or 0 in array.shape:
            raise ValueError(f"kernel: shape {array.shape}; allowed: a non-empty 1-D or 2-D kernel")
        check_option(padding, "padding", PADDINGS)
        self.padding = padding
        self.dimensions = array.ndim
        self.register_buffer("kernel", torch.tensor(np.ascontiguousarray(array)), persistent=False)
        factors = _rank_one_factors(array, rounding)
        self.separable = len(factors) == array.ndim
        self._factor_count = len(factors)
        for number, factor in enumerate(factors):
            stored = torch.tensor(np.ascontiguousarray(factor))
            self.register_buffer(f"factor{number}", stored, persistent=False)

    def extra_repr(self) -> str:
        """Kernel shape and padding."""
        return f"kernel={tuple(self.kernel.shape)}, padding={self.padding!r}"

    def _factors(self, like: Tensor) -> list[Tensor]:
        return [self.get_buffer(f"factor{k}").to(like.dtype) for k in range(self._factor_count)]

    def _check_signal(self, x: Tensor) -> Tensor:
        return self._check_size(x, "x")

    def _check_measurement(self, y: Tensor) -> Tensor:
        return self._check_size(y, "y")

    def _check_size(self, value: Tensor, name: str) -> Tensor:
        sizes, kernel = value.shape[-self.dimensions :], self.kernel.shape
        if value.ndim <= self.dimensions:
            what = "image" if self.dimensions == 2 else "signal"
            raise ValueError(
                f"{name}: shape {tuple(value.shape)}; needed: samples on axis 0 and "
                f"{self.dimensions} axes of the signal at the end"
                + f" (one {what} without a batch axis? {name}[None])"
                * (value.ndim == self.dimensions)
            )
        if any(k > s for k, s in zip(kernel, sizes, strict=True)):
            raise ValueError(
                f"{name}: shape {tuple(value.shape)}, but the kernel {tuple(kernel)} exceeds the "
                f"last {self.dimensions} axes; crop the kernel"
            )
        if value.device != self.kernel.device:
            raise ValueError(
                f"{name}: on device {value.device}, but the operator is on {self.kernel.device}; "
                "move one with .to(...)"
            )
        return value

    def _measure(self, x: Tensor) -> Tensor:
        images = _as_images(x, self.dimensions)
        for factor in self._factors(x):
            for axis, length in ((-2, factor.shape[0]), (-1, factor.shape[1])):
                images = _pad(images, axis, length - 1 - length // 2, length // 2, self.padding)
            images = _correlate(images, factor.flip(0, 1))
        return images.reshape(x.shape)

    def _transpose(self, y: Tensor) -> Tensor:
        images = _as_images(y, self.dimensions)
        for factor in reversed(self._factors(y)):
            height, width = factor.shape
            images = functional.pad(images, (width - 1, width - 1, height - 1, height - 1))
            images = _correlate(images, factor)
            for axis, length in ((-2, height), (-1, width)):
                images = _fold(images, axis, length - 1 - length // 2, length // 2, self.padding)
        return images.reshape(y.shape)


def _rank_one_factors(kernel: Array, rounding: float) -> list[Array]:
    """2-D kernels to be applied one after the other."""
    if kernel.ndim == 1:
        return [kernel[None, :]]
    left, values, right = np.linalg.svd(kernel)
    if len(values) > 1 and values[1] > max(kernel.shape) * rounding * values[0]:
        return [kernel]
    root = math.sqrt(values[0])
    return [root * left[:, :1], root * right[:1]]


def _as_images(value: Tensor, dimensions: int) -> Tensor:
    """(..., n) or (..., height, width) as channels of one sample: (1, K, height, width).

    As many groups as channels: torch then runs its kernels for depthwise convolution, several
    times faster than one-channel images, and on CUDA in full float32 rather than TF32 (one channel
    alone is not depthwise, so it is doubled there).
    """
    size = (1, value.shape[-1]) if dimensions == 1 else value.shape[-2:]
    return value.reshape(1, -1, *size)


def _correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of every channel with one kernel, where it lies inside."""
    channels = images.shape[1]
    if channels == 1 and images.is_cuda:
        return _correlate(images.expand(1, 2, -1, -1), kernel)[:, :1]
    weight = kernel.expand(channels, 1, *kernel.shape)
    return functional.conv2d(images, weight, groups=channels)


def _pad(images: Tensor, axis: int, before: int, after: int, padding: str) -> Tensor:
    """`before` and `after` entries added along an axis."""
    size = images.shape[axis]
    if padding == "zero":
        margins = (0, 0, before, after) if axis == -2 else (before, after)
        return functional.pad(images, margins)
    first, last = _margins(size, before, after, padding)
    low, high = (images.narrow(axis, *span) for span in (first, last))
    if padding != "circular":
        low, high = low.flip(axis), high.flip(axis)
    return torch.cat([low, images, high], axis)


def _fold(padded: Tensor, axis: int, before: int, after: int, padding: str) -> Tensor:
    """The adjoint of `_pad`: the margins are added where they were copied from."""
    size = padded.shape[axis] - before - after
    inside = padded.narrow(axis, before, size)
    if padding == "zero":
        return inside
    low = padded.narrow(axis, 0, before)
    high = padded.narrow(axis, before + size, after)
    if padding != "circular":
        low, high = low.flip(axis), high.flip(axis)
    for margin, (start, length) in zip(
        (low, high), _margins(size, before, after, padding), strict=True
    ):
        inside = inside + _pad(margin, axis, start, size - start - length, "zero")
    return inside


def _margins(
    size: int, before: int, after: int, padding: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(start, length) of the entries that the two margins copy."""
    if padding == "circular":
        return (size - before, before), (0, after)
    skip = 1 if padding == "mirror" else 0
    return (min(skip, size - before), before), (size - skip - after, after)
