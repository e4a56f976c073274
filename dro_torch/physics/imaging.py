r"""Integration, sampling, and the nonlinear measurements: saturation and nonlinear blurs.

Images are (N, channels, height, width) with values in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar
from dro_torch.checks import check_batch, image_hint
from dro_torch.physics.conversion import as_forward
from dro_torch.physics.convolution import (
    Convolution,
    anisotropic_gaussian_kernel,
    gaussian_kernel,
    motion_blur_kernel,
)
from dro_torch.physics.forward import Forward, LinearForward


class Integration(LinearForward):
    r"""Cumulative integral :math:`(Ax)_i = \frac1n\sum_{j\le i} x_j` along the last axis.

    The same map as `dro_core.operators.Integration`, for any n and any leading axes.

    Raises
    ------
    ValueError, TypeError
        For bad signals, or one without a sample axis.

    Examples
    --------
    >>> import torch
    >>> from dro_torch.physics import Integration
    >>> Integration().A(torch.tensor([[2.0, 4.0]]))
    tensor([[1., 3.]])
    """

    def _check_signal(self, x: Tensor) -> Tensor:
        return check_batch(x, "x")

    def _check_measurement(self, y: Tensor) -> Tensor:
        return check_batch(y, "y")

    def _measure(self, x: Tensor) -> Tensor:
        return x.cumsum(-1) / x.shape[-1]

    def _transpose(self, y: Tensor) -> Tensor:
        return y.flip(-1).cumsum(-1).flip(-1) / y.shape[-1]


class Downsampling(LinearForward):
    r"""Mean over non-overlapping blocks: (..., fh, fw) -> (..., h, w).

    Its adjoint repeats each entry f x f times, divided by f²; :math:`AA^* = I/f^2`.

    Parameters
    ----------
    factor : int
        f >= 1.

    Raises
    ------
    ValueError, TypeError
        For a bad factor, or images whose sides it does not divide.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        self.factor = as_positive_integer(factor, "factor")

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"

    def _check_signal(self, x: Tensor) -> Tensor:
        if any(size % self.factor for size in _image_sides(x, "x")):
            raise ValueError(
                f"x: shape {tuple(x.shape)}; {self.factor} must divide the last two axes "
                "(crop the images)"
            )
        return x

    def _check_measurement(self, y: Tensor) -> Tensor:
        _image_sides(y, "y")
        return y

    def _measure(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (-1, self.factor)).unflatten(-3, (-1, self.factor))
        result: Tensor = blocks.mean((-3, -1))
        return result

    def _transpose(self, y: Tensor) -> Tensor:
        repeated = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return repeated / self.factor**2


class Upsampling(LinearForward):
    r"""Bicubic interpolation Q to f times the size (``align_corners=False``), :math:`Qy = UyV^T`.

    U and V, one per axis, are what `torch.nn.functional.interpolate` does to unit vectors; the
    adjoint :math:`U^T x V` is exact, and free of atomic additions on CUDA.

    Parameters
    ----------
    factor : int
        f >= 1.

    Raises
    ------
    ValueError, TypeError
        For a bad factor; for the adjoint, images whose sides it does not divide.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        self.factor = as_positive_integer(factor, "factor")

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"

    def _check_signal(self, x: Tensor) -> Tensor:
        _image_sides(x, "x")
        return x

    def _check_measurement(self, y: Tensor) -> Tensor:
        if any(size % self.factor for size in _image_sides(y, "y")):
            raise ValueError(
                f"y: shape {tuple(y.shape)}; {self.factor} must divide the last two axes"
            )
        return y

    def _interpolation(self, size: int, like: Tensor) -> Tensor:
        """(f size, size)"""
        unit = torch.eye(size, dtype=like.dtype, device=like.device)
        shape = (self.factor * size, size)
        return functional.interpolate(unit[None, None], shape, mode="bicubic", align_corners=False)[
            0, 0
        ]

    def _measure(self, x: Tensor) -> Tensor:
        rows, columns = (self._interpolation(size, x) for size in x.shape[-2:])
        return rows @ x @ columns.T

    def _transpose(self, y: Tensor) -> Tensor:
        rows, columns = (self._interpolation(size // self.factor, y) for size in y.shape[-2:])
        return rows.T @ y @ columns


def _image_sides(value: Tensor, name: str) -> tuple[int, int]:
    if value.ndim < 3:
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; images are (N, channels, height, width)"
            f"{image_hint(value, name)}"
        )
    return value.shape[-2], value.shape[-1]


class ClippedHDR(Forward):
    r"""A sensor that saturates: :math:`A(x) = \mathrm{clip}(g x, -1, 1)`, monotone.

    The derivative is g, and 0 where saturated.

    Parameters
    ----------
    gain : float
        g >= 0; 2 in the ISUM paper.

    Raises
    ------
    ValueError, TypeError
        For a bad gain.
    """

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = as_non_negative(gain, "gain")

    def extra_repr(self) -> str:
        """The gain."""
        return f"gain={self.gain}"

    def _measure(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(-1, 1)


class GammaMotionBlur(Forward):
    r"""Motion blur of the light, not of the pixel values: decode, blur, encode, clip.

    .. math:: A(x) = \mathrm{clip}\bigl(2\,(K u^\gamma)^{1/\gamma} - 1, -1, 1\bigr),\qquad
              u = \mathrm{clip}\bigl((x+1)/2, 0, 1\bigr)

    with K an asymmetric motion blur (`motion_blur_kernel` with decay) and reflection padding. Below
    half a grey level of 8 bits the root is continued linearly to zero, so that gradients stay
    finite in the dark. This project's stand-in for the paper's pretrained nonlinear blur.

    Parameters
    ----------
    length, angle, decay : float
        Of the motion; see `motion_blur_kernel`.
    gamma : float
        Exponent of the encoding, > 0.

    Raises
    ------
    ValueError, TypeError
        For bad numbers, or images smaller than the kernel.
    """

    def __init__(
        self, length: float = 8.0, angle: float = 30.0, decay: float = 2.0, gamma: float = 2.2
    ) -> None:
        super().__init__()
        self.gamma = as_scalar(gamma, "gamma", "a number > 0")
        if not 1e-3 <= self.gamma <= 1e3:
            raise ValueError(f"gamma: {self.gamma}; allowed: a number > 0, from 1e-3 to 1e3")
        self.blur = Convolution(motion_blur_kernel(length, angle, decay=decay), "reflect")

    def _check_signal(self, x: Tensor) -> Tensor:
        return self.blur._check_signal(x)

    def _measure(self, x: Tensor) -> Tensor:
        light = self.blur._measure(((x + 1) / 2).clamp(0, 1) ** self.gamma)
        dark = (1 / 510) ** self.gamma
        encoded = torch.where(
            light > dark,
            light.clamp(min=dark) ** (1 / self.gamma),
            light * (1 / 510) / dark,
        )
        return (2 * encoded - 1).clamp(-1, 1)


class SignalGatedBlur(Forward):
    r"""Blur whose kernel depends on the signal: a smooth mixture of four fixed kernels.

    .. math:: A(x) = \sum_{k=1}^4 w_k(x)\,(K_k x),\qquad
              w_k \propto \exp\bigl(-(m(x) - c_k)^2/(2\tau^2)\bigr),\qquad \sum_k w_k = 1

    with m the local brightness (channel mean, Gaussian of width 2), centres c = -0.75, -0.25, 0.25,
    0.75, and from dark to bright: a wide Gaussian, two crossed motions, an oblique anisotropic
    Gaussian; reflection padding. This project's stand-in for the paper's pretrained nonlinear blur.

    Parameters
    ----------
    temperature : float
        :math:`\tau > 0`; small: abrupt changes of the kernel.

    Raises
    ------
    ValueError, TypeError
        For a bad temperature, or images that are not (N, channels, height, width) of at least
        17 x 17.
    """

    centres: Tensor

    def __init__(self, temperature: float = 0.25) -> None:
        super().__init__()
        self.temperature = as_scalar(temperature, "temperature", "a number > 0")
        if not 1e-6 <= self.temperature <= 1e140:
            raise ValueError(f"temperature: {self.temperature}; allowed: a number > 0, from 1e-6")
        kernels = (
            gaussian_kernel(2.0),
            motion_blur_kernel(9.0, 45.0),
            motion_blur_kernel(9.0, 135.0),
            anisotropic_gaussian_kernel((2.0, 0.7), 60.0),
        )
        self.blurs = nn.ModuleList(Convolution(kernel, "reflect") for kernel in kernels)
        self.brightness = Convolution(gaussian_kernel(2.0), "reflect")
        self.register_buffer("centres", torch.tensor([-0.75, -0.25, 0.25, 0.75]), persistent=False)

    def _check_signal(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(
                f"x: shape {tuple(x.shape)}; images are (N, channels, height, width)"
                f"{image_hint(x, 'x')}"
            )
        return self.brightness._check_signal(x)

    def _measure(self, x: Tensor) -> Tensor:
        brightness = self.brightness._measure(x.mean(1, keepdim=True))
        distance = brightness - self.centres.to(x.dtype)[:, None, None]
        weights = torch.softmax(-0.5 * (distance / self.temperature) ** 2, 1)
        blurred = torch.stack([blur._measure(x) for blur in self._convolutions()], 1)
        return (weights[:, :, None] * blurred).sum(1)

    def _convolutions(self) -> list[Convolution]:
        return [blur for blur in self.blurs if isinstance(blur, Convolution)]


def pretrained_forward(network: nn.Module, weights: str | Path | None = None) -> Forward:
    r"""A user's network as forward operator: frozen, in evaluation mode, differentiable in x.

    For the paper's kernel-space blur, whose code and weights cannot be shipped: build its network
    from its authors' code, wrap it in a module of x alone (fix its kernel code there), and pass
    the file of weights.

    Parameters
    ----------
    network : torch.nn.Module
        x to A(x); it is changed in place (weights, frozen, evaluation mode).
    weights : path, optional
        File of a state dict, or of a dict that holds one under "state_dict", "params" or "model";
        read with ``weights_only=True``: a file that needs code to be run is refused.

    Returns
    -------
    Forward

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no state dict of this network.
    TypeError
        If `network` is not a module.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network: {type(network).__name__}; allowed: a torch.nn.Module")
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"weights: no file {path}; this library ships no weights")
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
            for key in ("state_dict", "params", "model"):
                if isinstance(state, dict) and isinstance(state.get(key), dict):
                    state = state[key]
            network.load_state_dict(state)
        except Exception as error:
            raise ValueError(
                f"weights: {path} is not a state dict of {type(network).__name__} ({error})"
            ) from error
    return as_forward(network).requires_grad_(False).eval()
