r"""U-Nets with a global Lipschitz constant: a plain one, and one whose constant is guaranteed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_count, as_positive_integer, as_scalar, unknown
from dro_torch.nets.common import (
    ACTIVATIONS,
    MONOTONE,
    Bounds,
    check_signal,
    initialise,
    make_activation,
)
from dro_torch.nets.norms import convolution_norm
from dro_torch.nets.spectral import (
    BoundedConvolution,
    GradientStep,
    haar_analysis,
    haar_synthesis,
)

_CONVOLUTION: dict[int, type[nn.Conv1d | nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
_POOLING: dict[int, Callable[..., nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


class UNet(nn.Module):
    r"""U-Net for signals or images of every size, in a plain and in a spectral form.

    *Plain*: blocks of two convolutions with activations, mean pooling, transposed convolutions and
    concatenated skip connections, width :math:`w, 2w, 4w, \dots`; with `residual` the network is
    added to its input. Its Lipschitz constant is finite, but `dro_torch.lipschitz_upper` is far
    above it.

    *Spectral*: :math:`\Lambda_2 \circ U_0 \circ \Lambda_1` with bounded convolutions
    :math:`\operatorname{Lip}\Lambda_i \le \sqrt{L}` and levels

    .. math:: U_i = G_i \circ H^* \circ (U_{i+1} \oplus I) \circ H \circ G'_i,

    H the orthogonal Haar transform, whose low band goes to the next level while the others are the
    skip connection, G and G' gradient steps of convex functions (`dro_torch.nets.spectral`). Every
    :math:`U_i` is 1-Lipschitz, so L is guaranteed for all weights, and `lipschitz_upper` proves it
    from the weights alone. It starts near the identity.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    depth : int
        Number of times that the resolution is halved, 0 to 8.
    width : int
        Channels at full resolution; doubled at every level.
    dimension : {1, 2}
        Signals (N, channels, length) or images (N, channels, height, width).
    spectral : bool
        The form with a guaranteed constant.
    lipschitz : float, optional
        L > 0 of the spectral form; default 1. Deblurring needs more than 1.
    steps, expansion : int
        Of the spectral form: gradient steps per level and direction, and their hidden channels as a
        multiple of `width`. One step with as many channels as `width` costs less than half of a
        training step with the defaults.
    norm : {None, "group"}
        Group normalisation after every convolution; it has no useful Lipschitz constant.
    residual : bool, optional
        Add the input to the output of the plain form. Default: where channels agree.
    activation : str
        "relu", "leaky_relu", "prelu", "elu", "silu", "gelu", "tanh" or "softplus"; in the spectral
        form one that is monotone and 1-Lipschitz (not "prelu", "silu", "gelu").
    generator : torch.Generator, optional
        Draws the starting weights (on the CPU); torch's default generator when not given.

    Attributes
    ----------
    lipschitz : float or None
        The guaranteed constant of the spectral form.

    Raises
    ------
    ValueError, TypeError
        For bad sizes, names or combinations; on input, for a wrong number of axes or channels.

    Notes
    -----
    Sizes that 2^depth does not divide are padded with zeros behind (an isometry) and cropped after
    (a projection). No layer mixes samples. Sources: Ronneberger et al. (2015); Han and Ye, *Framing
    U-Net via deep convolutional framelets* (2018) for orthogonal bands as skip connections; Meunier
    et al. (2022) for gradient steps; their composition to a guaranteed constant is this project's.

    Examples
    --------
    >>> model = UNet(1, 1, depth=2, width=4, spectral=True, lipschitz=2.0)
    >>> model(torch.zeros(3, 1, 27, 29)).shape
    torch.Size([3, 1, 27, 29])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        width: int,
        *,
        dimension: int = 2,
        spectral: bool = False,
        lipschitz: float | None = None,
        steps: int = 2,
        expansion: int = 2,
        norm: str | None = None,
        residual: bool | None = None,
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = as_positive_integer(in_channels, "in_channels")
        self.out_channels = as_positive_integer(out_channels, "out_channels")
        self.depth = as_count(depth, "depth")
        if self.depth > 8:
            raise ValueError(f"depth: {depth}; allowed: 0 to 8")
        channels = as_positive_integer(width, "width")
        steps, expansion = (
            as_positive_integer(value, name)
            for value, name in ((steps, "steps"), (expansion, "expansion"))
        )
        if not spectral and (steps, expansion) != (2, 2):
            raise ValueError(
                "steps, expansion: only the form with spectral=True has gradient steps"
            )
        if dimension not in (1, 2):
            raise ValueError(f"dimension: {dimension!r}; allowed: 1 (signals) or 2 (images)")
        self.dimension = dimension
        if norm not in (None, "group"):
            raise ValueError(unknown("norm", norm, ["group"]))
        self.residual = in_channels == out_channels if residual is None else bool(residual)
        if self.residual and not spectral and in_channels != out_channels:
            raise ValueError(
                f"residual: True needs equally many channels, given {in_channels} and "
                f"{out_channels}"
            )
        make_activation(activation, MONOTONE if spectral else tuple(ACTIVATIONS))
        self.lipschitz: float | None = None
        if spectral:
            if norm is not None:
                raise ValueError(f"norm: {norm!r} has no Lipschitz constant; spectral needs None")
            if residual:
                raise ValueError(
                    "residual: True would add 1 to the guaranteed constant; the spectral form "
                    "needs none, for it starts near the identity"
                )
            self.residual = False
            self.lipschitz = as_scalar(
                1.0 if lipschitz is None else lipschitz, "lipschitz", "a number > 0"
            )
            if not 1e-6 <= self.lipschitz <= 1e6:
                raise ValueError(f"lipschitz: {self.lipschitz}; allowed: 1e-6 to 1e6")
        elif lipschitz is not None:
            raise ValueError("lipschitz: only the form with spectral=True has a guaranteed one")
        with initialise(self, generator):
            self.body: nn.Module
            if self.lipschitz is not None:
                self.body = _SpectralBody(
                    self.in_channels,
                    self.out_channels,
                    self.depth,
                    channels,
                    dimension,
                    activation,
                    self.lipschitz,
                    steps,
                    expansion,
                )
            else:
                self.body = _PlainBody(
                    self.in_channels,
                    self.out_channels,
                    self.depth,
                    channels,
                    dimension,
                    activation,
                    norm,
                )

    def forward(self, y: Tensor) -> Tensor:
        """(N, in_channels, sizes) to (N, out_channels, sizes)."""
        check_signal(y, self.in_channels, self.dimension, "UNet")
        sizes = y.shape[2:]
        missing = [-size % 2**self.depth for size in sizes]
        z = y
        if any(missing):
            z = functional.pad(y, [part for size in reversed(missing) for part in (0, size)])
        z = self.body(z)
        for axis, size in enumerate(sizes, start=2):
            z = z.narrow(axis, 0, size)
        result: Tensor = y + z if self.residual else z
        return result

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """Padding and cropping count 1; the input is added."""
        return bounds(self.body) + float(self.residual)


class MergingConvolution(nn.Module):
    r"""A convolution of two concatenated inputs, :math:`W(a, b) = W_a a + W_b b + c`.

    For a and b with Lipschitz constants :math:`L_a, L_b` and every :math:`t \in (0, 1)`, the
    vector :math:`(\sqrt t\,a/L_a, \sqrt{1-t}\,b/L_b)` is 1-Lipschitz, hence the constant is at most

    .. math:: \bigl\|\bigl[W_a L_a/\sqrt t,\; W_b L_b/\sqrt{1-t}\bigr]\bigr\|,

    which is :math:`\|W\|\sqrt{L_a^2 + L_b^2}` at :math:`t = L_a^2/(L_a^2 + L_b^2)` and at most
    :math:`\|W_a\|L_a + \|W_b\|L_b` where these two products are as t to 1 - t; the smaller one
    counts.
    """

    def __init__(self, first: int, second: int, out_channels: int, dimension: int) -> None:
        super().__init__()
        self.first = first
        self.convolution = _CONVOLUTION[dimension](first + second, out_channels, 3, padding=1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Convolve the concatenation of both along the channels."""
        result: Tensor = self.convolution(torch.cat([a, b], dim=1))
        return result

    def lipschitz_of_branches(self, lipschitz_a: float, lipschitz_b: float) -> float:
        """The bound for inputs with these two constants."""
        weight = self.convolution.weight.detach().double()
        parts = weight[:, : self.first] * lipschitz_a, weight[:, self.first :] * lipschitz_b
        norms = [convolution_norm(part) for part in parts]
        if min(norms) == 0 or min(lipschitz_a, lipschitz_b) == 0:
            return sum(norms)
        shares = lipschitz_a**2 / (lipschitz_a**2 + lipschitz_b**2), norms[0] / sum(norms)
        return min(
            sum(norms),
            *(
                convolution_norm(
                    torch.cat([parts[0] / math.sqrt(t), parts[1] / math.sqrt(1 - t)], dim=1)
                )
                for t in shares
                if 0 < t < 1
            ),
        )


class _PlainBody(nn.Module):
    """The U-Net of convolutions, for sizes that 2^depth divides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        width: int,
        dimension: int,
        activation: str,
        norm: str | None,
    ) -> None:
        super().__init__()

        def after(channels: int) -> list[nn.Module]:
            groups = [nn.GroupNorm(math.gcd(8, channels), channels)] if norm else []
            return [*groups, make_activation(activation)]

        def convolve(before: int, channels: int) -> list[nn.Module]:
            return [_CONVOLUTION[dimension](before, channels, 3, padding=1), *after(channels)]

        widths = [width * 2**level for level in range(depth + 1)]
        self.pool = _POOLING[dimension](2)
        self.encoders, self.merges = nn.ModuleList(), nn.ModuleList()
        self.decoders, self.ups = nn.ModuleList(), nn.ModuleList()
        for before, channels in zip([in_channels, *widths], widths, strict=False):
            layers = [*convolve(before, channels), *convolve(channels, channels)]
            self.encoders.append(nn.Sequential(*layers))
        for channels in widths[:-1]:
            self.ups.append(_TRANSPOSED[dimension](2 * channels, channels, 2, stride=2))
            self.merges.append(MergingConvolution(channels, channels, channels, dimension))
            layers = [*after(channels), *convolve(channels, channels)]
            self.decoders.append(nn.Sequential(*layers))
        self.head = _CONVOLUTION[dimension](width, out_channels, 1)

    def forward(self, y: Tensor) -> Tensor:
        levels = [self.encoders[0](y)]
        for encoder in self.encoders[1:]:
            levels.append(encoder(self.pool(levels[-1])))
        z = levels.pop()
        for up, merge, decoder in zip(
            reversed(self.ups), reversed(self.merges), reversed(self.decoders), strict=True
        ):
            z = decoder(merge(levels.pop(), up(z)))
        result: Tensor = self.head(z)
        return result

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """From the coarsest level up: what a level does to the output of its encoder."""
        level = 1.0
        for i in reversed(range(len(self.ups))):
            deep = bounds(self.pool) * bounds(self.encoders[i + 1]) * level * bounds(self.ups[i])
            merge: Any = self.merges[i]
            for layer in merge.modules():
                bounds.check(layer)
            plain = merge.convolution.padding_mode == "zeros" and merge.convolution.groups == 1
            level = bounds(self.decoders[i]) * (
                merge.lipschitz_of_branches(1.0, deep)
                if plain
                else bounds(merge.convolution) * math.hypot(1.0, deep)
            )
        return bounds(self.encoders[0]) * level * bounds(self.head)


class _SpectralBody(nn.Module):
    """Gradient steps on the levels of a Haar transform, for sizes that 2^depth divides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        width: int,
        dimension: int,
        activation: str,
        lipschitz: float,
        count: int,
        expansion: int,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.widths = [width * 2**level for level in range(depth + 1)]
        half = math.sqrt(lipschitz)

        def steps(channels: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    GradientStep(channels, expansion * width, dimension, activation)
                    for _ in range(count)
                )
            )

        self.lift = BoundedConvolution(in_channels, width, dimension, half)
        self.encoders = nn.ModuleList(steps(channels) for channels in self.widths)
        self.decoders = nn.ModuleList(steps(channels) for channels in self.widths[:-1])
        self.head = BoundedConvolution(width, out_channels, dimension, half)

    def forward(self, y: Tensor) -> Tensor:
        z, skips = self.encoders[0](self.lift(y)), []
        for encoder in self.encoders[1:]:
            low, *high = haar_analysis(z, self.dimension)
            skips.append(high)
            z = encoder(torch.cat([low, low.new_zeros(low.shape)], dim=1))
        for decoder, channels in zip(
            reversed(self.decoders), reversed(self.widths[:-1]), strict=True
        ):
            z = decoder(haar_synthesis([z[:, :channels], *skips.pop()], self.dimension))
        result: Tensor = self.head(z)
        return result

    def lipschitz_bound(self, bounds: Bounds) -> float:
        r"""Orthogonal transforms and unused channels count 1, skips :math:`\max(1, \cdot)`."""
        level = 1.0
        for i in reversed(range(len(self.decoders))):
            level = max(1.0, bounds(self.encoders[i + 1]) * level) * bounds(self.decoders[i])
        return bounds(self.lift) * bounds(self.encoders[0]) * level * bounds(self.head)
