"""Rules of layers: convolutions, pooling, padding, interpolation, normalisation, chains."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dro_torch.lipschitz.bounds import SLOPES, LayerBounds, RefusedError, register_lipschitz
from dro_torch.lipschitz.chain import chain_bound
from dro_torch.nets.norms import convolution_norm, matrix_norm, rounding_factor

#: Circular convolutions with more points are bounded by the supremum of their symbol.
LARGEST_CIRCULAR = 2**14

T = TypeVar("T")


@register_lipschitz(nn.Linear)
def _linear(layer: nn.Linear, bounds: LayerBounds) -> float:
    return matrix_norm(layer.weight)


@register_lipschitz(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution(layer: Any, bounds: LayerBounds) -> float:
    options = {"dilation": layer.dilation, "groups": layer.groups}
    if layer.padding_mode == "zeros":
        return convolution_norm(layer.weight, stride=layer.stride, **options)
    ends = layer._reversed_padding_repeated_twice
    pads = list(zip(ends[0::2], ends[1::2], strict=True))[::-1]
    shapes = [shape[1:] for shape in bounds.shapes(layer)]
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding_mode == "circular" and all(
        sum(pad) <= most for pad, most in zip(pads, reach, strict=True)
    ):  # every output is one of the circular convolution, none twice
        if not shapes or max(math.prod(shape) for shape in shapes) > LARGEST_CIRCULAR:
            return convolution_norm(layer.weight, **options)
        return max(
            convolution_norm(layer.weight, stride=layer.stride, circular_sizes=shape, **options)
            for shape in shapes
        )
    copies = _padding_norm(layer.padding_mode, pads, shapes)
    return copies * convolution_norm(layer.weight, stride=layer.stride, **options)


@register_lipschitz(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _transposed(layer: Any, bounds: LayerBounds) -> float:
    return convolution_norm(
        layer.weight, stride=layer.stride, dilation=layer.dilation, groups=layer.groups
    )


def _padding_norm(
    mode: str, pads: Sequence[tuple[int, int]], shapes: Sequence[Sequence[int]]
) -> float:
    r"""Norm of a padding: the square root of the largest number of copies of one entry.

    Without sizes: the entry itself and one reflection (or period) at each end, or for replication
    all of both ends (a signal of one entry).
    """
    if mode == "constant":
        return 1.0
    if not shapes:
        ends = [pad if mode == "replicate" else (min(pad[0], 1), min(pad[1], 1)) for pad in pads]
        return math.sqrt(math.prod(1 + max(a, 0) + max(b, 0) for a, b in ends))
    largest = 1
    for shape in shapes:
        copies = 1
        for size, pad in zip(shape, pads, strict=True):
            entries = torch.arange(size, dtype=torch.float64)[None, None]
            copies *= int(functional.pad(entries, pad, mode=mode).long().flatten().bincount().max())
        largest = max(largest, copies)
    return math.sqrt(largest)


_PADDINGS: dict[str, list[type[nn.Module]]] = {
    "constant": [nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d],
    "reflect": [nn.ReflectionPad1d, nn.ReflectionPad2d],
    "replicate": [nn.ReplicationPad1d, nn.ReplicationPad2d],
    "circular": [nn.CircularPad1d, nn.CircularPad2d],
}
for _mode, _kinds in _PADDINGS.items():

    @register_lipschitz(*_kinds)
    def _pad(layer: Any, bounds: LayerBounds, mode: str = _mode) -> float:
        pads = list(zip(layer.padding[0::2], layer.padding[1::2], strict=True))[::-1]
        return _padding_norm(mode, pads, [shape[1:] for shape in bounds.shapes(layer)])


def _per_axis(value: int | Sequence[int], dimension: int) -> list[int]:
    return [value] * dimension if isinstance(value, int) else list(value)


@register_lipschitz(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _mean_pooling(layer: Any, bounds: LayerBounds) -> float:
    r"""A convolution; or, where the border has other divisors, by Schur's test.

    Every output is then a mean of the entries in its window, possibly of one alone: row sums are at
    most 1, and column sums at most the number :math:`\prod_j\lceil k_j/s_j\rceil` of windows that
    see an entry.
    """
    dimension = int(type(layer).__name__[-2])
    kernel = _per_axis(layer.kernel_size, dimension)
    stride = _per_axis(layer.stride, dimension)
    divisor = getattr(layer, "divisor_override", None)
    padded = any(_per_axis(layer.padding, dimension))
    if divisor is None and (layer.ceil_mode or (padded and not layer.count_include_pad)):
        return math.sqrt(_windows(kernel, stride))
    scale = 1 / (divisor or math.prod(kernel))
    weight = torch.full((1, 1, *kernel), scale, dtype=torch.float64)
    return convolution_norm(weight, stride=stride)


def _windows(kernel: Sequence[int], stride: Sequence[int]) -> int:
    """Number of windows that see one entry, at most."""
    return math.prod(-(-k // s) for k, s in zip(kernel, stride, strict=True))


@register_lipschitz(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _maximum_pooling(layer: Any, bounds: LayerBounds) -> float:
    dimension = int(type(layer).__name__[-2])
    kernel = _per_axis(layer.kernel_size, dimension)
    stride = _per_axis(layer.stride, dimension)
    if layer.return_indices:
        raise RefusedError("return_indices=True returns positions too, which jump")
    dilated = any(d > 1 for d in _per_axis(layer.dilation, dimension))
    return math.sqrt(math.prod(kernel) if dilated else _windows(kernel, stride))


@register_lipschitz(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def _upsampling(layer: Any, bounds: LayerBounds) -> float:
    r"""The norm of a product of one-dimensional interpolations, one per axis."""
    if layer.mode not in ("nearest", "linear", "bilinear", "trilinear"):
        raise RefusedError(f"no constant is proved for mode {layer.mode!r}")
    shapes = [shape[1:] for shape in bounds.shapes(layer)]
    linear = layer.mode != "nearest"
    if not shapes:
        factors = layer.scale_factor
        if not linear and isinstance(factors, tuple) and all(f == int(f) for f in factors):
            return math.sqrt(math.prod(factors))
        raise RefusedError("its norm depends on the size of its input; give input_shape=")

    def axis_norm(axis: int, size: int, dimension: int) -> float:
        def of_axis(value: T | tuple[T, ...]) -> T:
            return value[axis] if isinstance(value, tuple) else value

        matrix = functional.interpolate(
            torch.eye(size, dtype=torch.float64)[:, None],
            size=of_axis(layer.size),
            scale_factor=of_axis(layer.scale_factor),
            mode="linear" if linear else "nearest",
            align_corners=layer.align_corners if linear else None,
            recompute_scale_factor=layer.recompute_scale_factor,
        )
        return matrix_norm(matrix[:, 0])

    return max(
        math.prod(axis_norm(axis, size, len(shape)) for axis, size in enumerate(shape))
        for shape in shapes
    )


@register_lipschitz(nn.Flatten, nn.Unflatten)
def _reshaping(layer: Any, bounds: LayerBounds) -> float:
    axis = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
    axes = {len(shape) + 1 for shape in bounds.shapes(layer)}
    if axis == 0 or any(axis + count == 0 for count in axes):
        raise RefusedError("it reshapes axis 0, so that samples mix")
    return 1.0


@register_lipschitz(
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
def _isometry(layer: nn.Module, bounds: LayerBounds) -> float:
    return 1.0


@register_lipschitz(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_normalisation(layer: Any, bounds: LayerBounds) -> float:
    if layer.running_var is None:
        raise RefusedError("without running statistics it mixes the samples")
    scale = 1.0 if layer.weight is None else layer.weight.abs()
    return float((scale / (layer.running_var + layer.eps).sqrt()).max()) * rounding_factor(4)


@register_lipschitz(nn.Sequential)
def _sequential(layers: nn.Sequential, bounds: LayerBounds) -> float:
    """Product over the layers, except that runs of linear layers and activations are one chain."""
    value = 1.0
    chained: tuple[type[nn.Module], ...] = (nn.Linear, nn.Dropout, nn.Identity, *SLOPES)
    for together, run in itertools.groupby(
        layers, key=lambda layer: parametrize.type_before_parametrizations(layer) in chained
    ):
        parts = list(run)
        product = math.prod(bounds(part) for part in parts)
        value *= min(product, _chain(parts)) if together else product
    return value


def _chain(parts: Sequence[nn.Module]) -> float:
    """`chain_bound` of a run of linear layers and activations."""
    outside = 1.0
    matrices: list[Tensor] = []
    slopes: list[tuple[float, float]] = []
    pending = (1.0, 1.0)
    for part in parts:
        kind = parametrize.type_before_parametrizations(part)
        if isinstance(part, nn.Linear):
            if matrices and pending == (1.0, 1.0):
                matrices[-1] = part.weight @ matrices[-1]
            else:
                if matrices:
                    slopes.append(pending)
                else:
                    outside = max(map(abs, pending))
                matrices.append(part.weight)
            pending = (1.0, 1.0)
        elif kind in SLOPES:
            corners = [a * b for a in pending for b in SLOPES[kind](part)]
            pending = min(corners), max(corners)
    outside *= max(map(abs, pending))
    return outside * chain_bound(matrices, slopes) if matrices else outside
