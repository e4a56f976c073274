r"""Layers with a guaranteed Lipschitz constant that lose little of it when they are composed.

Dividing every convolution by its norm makes a network 1-Lipschitz and nearly constant, for all but
a few directions shrink in every layer. The layers here keep what they do not change:

* `GradientStep`, :math:`z - \tau W^*\sigma(Wz + b)` with :math:`\tau = 2/s^2`, :math:`s \ge \|W\|`.
  Its Jacobian is the symmetric :math:`I - \tau W^* D W` with :math:`0 \le D \le I`, so its
  eigenvalues lie in :math:`[1 - \tau\|W\|^2, 1] \subseteq [-1, 1]`: 1-Lipschitz, and the identity
  wherever W does not act.
* `haar_analysis` and `haar_synthesis`, orthogonal: one band goes to the coarser level, the others
  are the skip connection, and
  :math:`\|(f(l), h) - (f(l'), h')\| \le \max(1, \operatorname{Lip} f)\,\|(l, h) - (l', h')\|`.
* `BoundedConvolution`, :math:`W \min(1, L/s)`: at most L, and free below.

All normalisers are recomputed from the weights (`dro_torch.nets.norms.differentiable_norm`), so
that averaged, loaded and half-trained weights keep the guarantee. Where a network with fixed
weights is applied many times, `frozen` does that once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_positive, as_positive_integer
from dro_torch.models import bare_copy
from dro_torch.nets.common import MONOTONE, Bounds, as_dimension, make_activation
from dro_torch.nets.norms import convolution_norm, differentiable_norm

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
}

_Network = TypeVar("_Network", bound=nn.Module)


class _Normalised(nn.Module, ABC):
    """A layer with a factor that is computed from its weights in every pass, or kept as it is."""

    fixed_factor: Tensor | None
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fixed_factor", None, persistent=False)

    def factor(self) -> Tensor:
        """The factor, 0-d."""
        return self.compute_factor() if self.fixed_factor is None else self.fixed_factor

    @abstractmethod
    def compute_factor(self) -> Tensor:
        """The factor from the current weights."""

    @abstractmethod
    def norm(self) -> Tensor:
        """Upper bound s of the norm of the weights, differentiable."""

    def proved_norm(self) -> float:
        """The smaller one of two upper bounds of the norm of the weights."""
        return min(convolution_norm(self.weight), float(self.norm()))


def frozen(network: _Network) -> _Network:
    """A copy in evaluation mode, without gradients of parameters, with its normalisers computed.

    For attacks and inference: the same function, without the cost of the norms in every pass.
    `dro_torch.lipschitz_upper` proves the constant of the copy from what is stored in it.
    """
    fixed = bare_copy(network).eval().requires_grad_(False)
    for layer in fixed.modules():
        if isinstance(layer, _Normalised):
            layer.fixed_factor = layer.compute_factor().detach()
    return fixed


class BoundedConvolution(_Normalised):
    r"""Convolution with zero padding whose norm is at most `lipschitz`: :math:`W\min(1, L/s)`.

    It starts as min(1, L) times the identity on the channels that input and output share, with
    small random weights elsewhere.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    dimension : {1, 2}
        Of the signals.
    lipschitz : float
        L > 0.
    kernel_size : int
        Odd.

    Notes
    -----
    Source: Gouk et al., *Regularisation of neural networks by enforcing Lipschitz continuity*
    (2021), with a norm that is a proved upper bound.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dimension: int,
        lipschitz: float = 1.0,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.dimension, self.lipschitz = (
            as_dimension(dimension),
            as_positive(lipschitz, "lipschitz"),
        )
        outputs = as_positive_integer(out_channels, "out_channels")
        inputs = as_positive_integer(in_channels, "in_channels")
        sides = [as_positive_integer(kernel_size, "kernel_size")] * self.dimension
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *sides))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the starting weights."""
        weight = self.weight
        nn.init.normal_(weight, std=0.1 * weight[0].numel() ** -0.5, generator=generator)
        nn.init.zeros_(self.bias)
        centre: Any = tuple(size // 2 for size in weight.shape[2:])
        for channel in range(min(weight.shape[:2])):
            weight[:, channel][(..., *centre)] = 0
            weight[channel] = 0
            weight[channel, channel][centre] = min(1.0, self.lipschitz)

    def norm(self) -> Tensor:
        """Upper bound s of the norm of the weights, differentiable."""
        return differentiable_norm(self.weight, grid=64, iterations=8)

    def compute_factor(self) -> Tensor:
        """min(1, L / s)."""
        return (self.lipschitz / self.norm().clamp_min(1e-12)).clamp_max(1.0)

    def forward(self, z: Tensor) -> Tensor:
        """(N, in_channels, sizes) to (N, out_channels, sizes)."""
        padding = self.weight.shape[-1] // 2
        weight = self.weight * self.factor().to(self.weight.dtype)
        return CONVOLUTIONS[self.dimension](z, weight, self.bias, padding=padding)

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """The norm of the kernel that is applied."""
        return float(self.factor()) * self.proved_norm()


class GradientStep(_Normalised):
    r"""One step along minus the gradient of a convex function: :math:`z - \tau W^*\sigma(Wz + b)`.

    :math:`\tau = 2/s^2` with a proved :math:`s \ge \|W\|`, W a convolution with zero padding,
    W* its adjoint and :math:`\sigma` monotone and 1-Lipschitz: 1-Lipschitz for every weight.

    Parameters
    ----------
    channels, hidden : int
        W maps `channels` to `hidden` channels.
    dimension : {1, 2}
        Of the signals.
    activation : str
        "relu", "leaky_relu", "elu", "tanh" or "softplus".
    kernel_size : int
        Odd.

    Notes
    -----
    Source: Meunier, Delattre, Araujo, Allauzen, *A dynamical system perspective for Lipschitz
    neural networks* (2022), convex potential layer, with a bound of the norm in the place of the
    power iteration's estimate, which is no bound.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        dimension: int,
        activation: str = "relu",
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.dimension = as_dimension(dimension)
        inner = as_positive_integer(hidden, "hidden")
        outer = as_positive_integer(channels, "channels")
        sides = [as_positive_integer(kernel_size, "kernel_size")] * self.dimension
        self.weight = nn.Parameter(torch.empty(inner, outer, *sides))
        self.bias = nn.Parameter(torch.empty(inner))
        self.activation = make_activation(activation, MONOTONE)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the starting weights."""
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5, generator=generator)
        nn.init.zeros_(self.bias)

    def norm(self) -> Tensor:
        """Upper bound s of the norm of W, differentiable."""
        return differentiable_norm(self.weight, grid=12, iterations=5)

    def compute_factor(self) -> Tensor:
        r"""The step :math:`\tau = 2/s^2`."""
        return 2 / self.norm().clamp_min(1e-12).square()

    def forward(self, z: Tensor) -> Tensor:
        """(N, channels, sizes) to the same shape."""
        padding = self.weight.shape[-1] // 2
        hidden = CONVOLUTIONS[self.dimension](z, self.weight, self.bias, padding=padding)
        scaled = self.weight * self.factor().to(self.weight.dtype)
        change = TRANSPOSED[self.dimension](self.activation(hidden), scaled, padding=padding)
        return z - change

    def lipschitz_bound(self, bounds: Bounds) -> float:
        r""":math:`\max(1, \tau\|W\|^2 - 1)`, or what other slopes than [0, 1] make of it."""
        least, largest = bounds.slopes(self.activation)
        reach = float(self.factor()) * self.proved_norm() ** 2
        return max(1 - reach * min(least, 0.0), reach * max(largest, 0.0) - 1)


def haar_analysis(z: Tensor, dimension: int) -> list[Tensor]:
    r"""The :math:`2^d` Haar bands of (N, C, even sizes), the low one first; orthogonal.

    Along each axis :math:`(e + o)/\sqrt 2` and :math:`(e - o)/\sqrt 2` of even and odd entries.
    """
    bands = [z]
    for axis in range(-dimension, 0):
        split = [band.unflatten(axis, (-1, 2)).unbind(axis) for band in bands]
        low = [(even + odd) * math.sqrt(0.5) for even, odd in split]
        high = [(even - odd) * math.sqrt(0.5) for even, odd in split]
        bands = low + high
    return bands


def haar_synthesis(bands: list[Tensor], dimension: int) -> Tensor:
    """Inverse and adjoint of `haar_analysis`."""
    for axis in reversed(range(-dimension, 0)):
        half = len(bands) // 2
        pairs = zip(bands[:half], bands[half:], strict=True)
        scaled = [
            ((low + high) * math.sqrt(0.5), (low - high) * math.sqrt(0.5)) for low, high in pairs
        ]
        bands = [torch.stack(pair, dim=axis).flatten(axis - 1, axis) for pair in scaled]
    return bands[0]
