r"""The two networks of a learned transport map: the map T and the potential v.

`TransportMap` is a U-Net of channel-attention residual blocks without biases, so without
a level of its own (T(0) = 0); `Potential` is a residual critic without normalisation.
Presets "paper" (images of 256²), "32" (of 32²) and "small" (for a CPU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_positive_integer, check_option
from dro_torch.nets.common import initialise
from dro_torch.nets.upsampling import BicubicUpsampling
from dro_torch.precision import full_precision

#: Widths of `TransportMap`, from the finest to the coarsest scale.
MAP_WIDTHS = {"paper": (80, 128, 176), "32": (32, 48, 64), "small": (16, 24, 32)}
#: Widths of `Potential` at full resolution.
POTENTIAL_WIDTHS = {"paper": 128, "32": 128, "small": 16}
#: Channels of a block over those of its channel attention.
_REDUCTION = 4
#: Images of a minibatch whose deviation the potential sees together.
_GROUP = 4


def _convolution(inputs: int, outputs: int, size: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)


def _check_images(value: object, name: str, channels: int) -> Tensor:
    """Shape and channels only: nothing here waits for the device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {type(value).__name__} is not a torch.Tensor")
    if value.ndim != 4 or value.shape[1] != channels or 0 in value.shape:
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; needed: (N, {channels}, height, width)"
        )
    return value


# --- the map ----------------------------------------------------------------------------------


class _AttentionBlock(nn.Module):
    """x + g h: h two convolutions of x, g a gate in (0, 1) per channel from the means of h."""

    def __init__(self, width: int, slope: nn.PReLU) -> None:
        super().__init__()
        hidden = max(1, width // _REDUCTION)
        self.slope = slope
        self.first = _convolution(width, width, 3, bias=False)
        self.second = _convolution(width, width, 3, bias=False)
        self.squeeze = _convolution(width, hidden, 1, bias=False)
        self.excite = _convolution(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.slope(self.first(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3), keepdim=True)))))
        result: Tensor = x + gate * h
        return result


class MapConfig(TypedDict):
    """Arguments of a `TransportMap`."""

    channels: int
    widths: list[int]
    upsample: int | None
    two_pass: bool


class PotentialConfig(TypedDict):
    """Arguments of a `Potential`."""

    channels: int
    size: list[int]
    width: int
    minibatch_deviation: bool
    bf16: bool


class TransportMap(nn.Module):
    r"""The map T: a U-Net of channel-attention residual blocks with a global residual.

    .. math:: T(y) = Q(y) + R(Q(y)),

    R a 3x3 convolution and one block, per scale two blocks on the way down and two on the way up,
    bilinear changes of size by two with 1x1 convolutions, skip connections through one more block,
    and a final 1x1 convolution. No biases; all activations share one slope (PReLU). No latent
    variable, no final activation: values are limited where they are evaluated, not here.

    Parameters
    ----------
    channels : int
        Of measurements and of signals.
    widths : "paper", "32", "small", or sequence of int
        Channels per scale, finest first. "paper" is (80, 128, 176), 4.6 million parameters.
    upsample : int or Module
        Q: the factor of a bicubic one for super-resolution, 1 for Q(y) = y; or any first
        reconstruction, measurements to images of these channels (a Wiener filter, a linear map),
        which the network then corrects. Its parameters are trained along unless they are frozen.
        Give the same one to `LikelihoodCost`.
    two_pass : bool
        Let R see a residual, too, and run it twice: :math:`T(y) = Q(y) + R(Q(y), r)` with
        :math:`r = Q(y) - T_0(y)`, :math:`T_0(y) = Q(y) + R(Q(y), 0)` (RCOT).
    generator : torch.Generator, optional
        Draws the initial weights and leaves torch's own generator alone; without it torch's draws.

    Raises
    ------
    ValueError, TypeError
        For sizes that are not positive integers, an unknown preset, or (when called) a shape other
        than (N, channels, height, width).

    Notes
    -----
    Images whose sides are no multiples of 2^(scales - 1) are extended by their edge and cropped.
    A 1x1 convolution and a change of size commute, so the convolution runs at the smaller size.
    Source: ISUM paper, Appendix A, whose generator is OTUR's (a multi-stage restoration U-Net);
    two passes: Tang, Hu, Gu and Sun (2024), whose condition is an embedding of the residual.

    Examples
    --------
    >>> import torch
    >>> T = TransportMap(1, "small")
    >>> T(torch.zeros(2, 1, 30, 33)).shape
    torch.Size([2, 1, 30, 33])
    """

    def __init__(
        self,
        channels: int,
        widths: str | Sequence[int] = "paper",
        *,
        upsample: int | nn.Module = 1,
        two_pass: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels = as_positive_integer(channels, "channels")
        if not isinstance(two_pass, bool):
            raise TypeError(f"two_pass: {two_pass!r}; allowed: True or False")
        self.two_pass = two_pass
        if isinstance(widths, str):
            check_option(widths, "widths", MAP_WIDTHS)
            widths = MAP_WIDTHS[widths]
        if not isinstance(widths, Sequence) or not widths:
            raise TypeError(
                f"widths: {widths!r}; allowed: a non-empty sequence of integers >= 1, or one of "
                f"{', '.join(map(repr, MAP_WIDTHS))}"
            )
        self.widths = tuple(as_positive_integer(width, "widths") for width in widths)
        if not isinstance(upsample, nn.Module):
            upsample = BicubicUpsampling(upsample)
        slope = nn.PReLU()
        first, pairs = self.widths[0], list(pairwise(self.widths))

        def blocks(width: int, number: int) -> nn.Sequential:
            return nn.Sequential(*(_AttentionBlock(width, slope) for _ in range(number)))

        with initialise(self, generator):
            self.stem = nn.Sequential(
                _convolution((1 + two_pass) * self.channels, first, 3, bias=False),
                *blocks(first, 1),
            )
            self.down = nn.ModuleList(blocks(width, 2) for width in self.widths)
            self.up = nn.ModuleList(blocks(width, 2) for width in self.widths)
            self.skip = nn.ModuleList(blocks(width, 1) for width in self.widths[:-1])
            self.narrow = nn.ModuleList(_convolution(a, b, 1, bias=False) for a, b in pairs)
            self.widen = nn.ModuleList(_convolution(b, a, 1, bias=False) for a, b in pairs)
            self.head = _convolution(first, self.channels, 1, bias=False)
        self.upsample = upsample  # not drawn anew with the rest

    @property
    def config(self) -> MapConfig:
        """Arguments that make a network of this shape; `upsample` None: a module of its own."""
        return {
            "channels": self.channels,
            "widths": list(self.widths),
            "upsample": self.factor,
            "two_pass": self.two_pass,
        }

    @property
    def factor(self) -> int | None:
        """How many times higher and wider T(y) is than y; None if Q alone knows."""
        return self.upsample.factor if isinstance(self.upsample, BicubicUpsampling) else None

    def forward(self, y: Tensor) -> Tensor:
        """(N, channels, height, width) to the same, or to what Q makes of it, `upsample` times."""
        start: Tensor = self.upsample(_check_images(y, "y", self.channels))
        if self.factor is None:
            _check_images(start, "upsample: Q(y)", self.channels)
        seen: Tensor = start
        if self.two_pass:
            first = self._change(torch.cat([start, torch.zeros_like(start)], 1))
            seen = torch.cat([start, -first], 1)
        result: Tensor = start + self._change(seen)
        return result

    def _change(self, start: Tensor) -> Tensor:
        """R, for images of any size."""
        height, width = start.shape[-2:]
        unit = 2 ** len(self.skip)
        extra = (0, -width % unit, 0, -height % unit)
        h = self.stem(functional.pad(start, extra, mode="replicate") if any(extra) else start)
        skips = []
        for scale, blocks in enumerate(self.down):
            if scale:  # bilinear by one half is the mean of 2 x 2
                h = self.narrow[scale - 1](functional.avg_pool2d(h, 2))
            h = blocks(h)
            skips.append(h)
        for scale in reversed(range(len(self.up))):
            if scale < len(self.skip):
                h = functional.interpolate(
                    self.widen[scale](h), scale_factor=2.0, mode="bilinear", align_corners=False
                )
                h = h + self.skip[scale](skips[scale])
            h = self.up[scale](h)
        result: Tensor = self.head(h)[..., :height, :width]
        return result


# --- the potential ----------------------------------------------------------------------------


class _Halved(nn.Module):
    """Low-pass (1, 3, 3, 1) / 8 in both directions, every second pixel."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        taps = self.taps.to(x.dtype).expand(x.shape[1], 1, 4, 4)
        return functional.conv2d(x, taps, stride=2, padding=1, groups=x.shape[1])


class _HalvingBlock(nn.Module):
    """(h + s) / sqrt 2: h two convolutions with a low-pass between them, s a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halved = _Halved()
        self.first = _convolution(inputs, outputs, 3, bias=True)
        self.second = _convolution(outputs, outputs, 3, bias=True)
        self.skip = _convolution(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.halved(_leaky(self.first(_leaky(x))))
        result: Tensor = (self.second(h) + self.skip(self.halved(x))) / math.sqrt(2)
        return result


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


def _with_deviation(x: Tensor) -> Tensor:
    """One more channel: the mean standard deviation over a group of images."""
    number, _, height, width = x.shape
    group = next(size for size in range(_GROUP, 0, -1) if number % size == 0)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    spread = wide.reshape(group, number // group, -1)
    deviation = (spread.var(0, unbiased=False) + 1e-8).sqrt().mean(1)
    plane = deviation.repeat(group).to(x.dtype).reshape(number, 1, 1, 1)
    return torch.cat([x, plane.expand(number, 1, height, width)], 1)


class Potential(nn.Module):
    r"""The potential v: a residual critic, images (N, channels, size, size) to (N,).

    A 1x1 convolution; residual blocks that halve the image (leaky ReLU, 3x3 convolution, leaky
    ReLU, low-pass, 3x3 convolution that starts at zero; 1x1 convolution on the skip; the sum over
    :math:`\sqrt2`) until its shorter side is below 8; a 3x3 convolution, the sum over pixels, and a
    linear layer. No normalisation.

    Parameters
    ----------
    channels : int
    size : int or (int, int)
        Height and width of the images, at least 4.
    width : "paper", "32", "small", or int
        Channels at full resolution; twice and then four times as many below. "paper" and "32"
        are 128: their depth follows from `size`.
    minibatch_deviation : bool
        Append the standard deviation over groups of at most 4 images of the batch (the largest
        number that divides the batch), as the paper's network does. The value at one image then
        depends on its neighbours in the batch; False makes v a function of the image alone.
    bf16 : bool
        Run the convolutions in bfloat16, also where autocast is off, as the losses of this package
        have it around a potential. Parameters, the deviation, the sum over pixels and the linear
        layer stay in float32 or wider.
    generator : torch.Generator, optional
        Draws the initial weights and leaves torch's own generator alone; without it torch's draws.

    Raises
    ------
    ValueError, TypeError
        For sizes that are not positive integers, an unknown preset, or (when called) images of
        another size.

    Notes
    -----
    Source: ISUM paper, Appendix A, whose potential is that of Choi, Choi and Kang (2023).

    Examples
    --------
    >>> import torch
    >>> v = Potential(1, 28, "small")
    >>> v(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        channels: int,
        size: int | Sequence[int],
        width: str | int = "paper",
        *,
        minibatch_deviation: bool = True,
        bf16: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels = as_positive_integer(channels, "channels")
        pair = size if isinstance(size, tuple | list) else (size, size)
        if len(pair) != 2:
            raise ValueError(f"size: {size!r}; allowed: one integer, or (height, width)")
        height, breadth = (as_positive_integer(side, "size") for side in pair)
        if min(height, breadth) < 4:
            raise ValueError(f"size: {size!r}; both sides must be at least 4")
        self.size = (height, breadth)
        if isinstance(width, str):
            check_option(width, "width", POTENTIAL_WIDTHS)
            width = POTENTIAL_WIDTHS[width]
        self.width = as_positive_integer(width, "width")
        if not isinstance(minibatch_deviation, bool):
            raise TypeError(f"minibatch_deviation: {minibatch_deviation!r}; allowed: True or False")
        if not isinstance(bf16, bool):
            raise TypeError(f"bf16: {bf16!r}; allowed: True or False")
        self.minibatch_deviation, self.bf16 = minibatch_deviation, bf16
        widths, side = [self.width], min(height, breadth)
        while side >= 8:
            widths.append(min(2 * widths[-1], 4 * self.width))
            side //= 2
        last = widths[-1]
        with initialise(self, generator):
            self.stem = _convolution(self.channels, self.width, 1, bias=True)
            self.blocks = nn.Sequential(*(_HalvingBlock(a, b) for a, b in pairwise(widths)))
            self.end = _convolution(last + minibatch_deviation, last, 3, bias=True)
            self.head = nn.Linear(last, 1)
        for block in self.blocks:
            assert isinstance(block, _HalvingBlock)
            nn.init.zeros_(block.second.weight)

    @property
    def config(self) -> PotentialConfig:
        """Arguments that make a network of this shape."""
        return {
            "channels": self.channels,
            "size": list(self.size),
            "width": self.width,
            "minibatch_deviation": self.minibatch_deviation,
            "bf16": self.bf16,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) to (N,)."""
        _check_images(x, "x", self.channels)
        if x.shape[-2:] != self.size:
            raise ValueError(
                f"x: images of {tuple(x.shape[-2:])}; this potential is for {self.size}"
            )
        if not self.bf16:
            return self._value(self._features(x))
        # without the cache: its casts lack the graph of whoever differentiates later
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            h = self._features(x)
        with full_precision(x):
            return self._value(h.to(self.head.weight.dtype))

    def _features(self, x: Tensor) -> Tensor:
        h = self.blocks(self.stem(x))
        if self.minibatch_deviation:
            h = _with_deviation(h)
        return _leaky(self.end(h))

    def _value(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(features.sum((2, 3)))[:, 0]
        return result
