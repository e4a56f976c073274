"""Rules of scalar activations: their least and largest slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from dro_torch.lipschitz.bounds import SLOPES, RefusedError, register_lipschitz

#: tanh form, rounded up. The least slopes are 1 minus these, for f'(x) + f'(-x) = 1.
SILU_SLOPE, GELU_SLOPE, GELU_TANH_SLOPE = 1.0998394, 1.1289042, 1.1290
#: Thresholds of Softplus at which its jump is below rounding, and nothing overflows in float32.
SOFTPLUS_THRESHOLDS = (34.0, 80.0)

Slopes = TypeVar("Slopes", bound=Callable[[Any], tuple[float, float]])


def _slopes(*kinds: type[nn.Module]) -> Callable[[Slopes], Slopes]:
    def register(function: Slopes) -> Slopes:
        SLOPES.update(dict.fromkeys(kinds, function))
        register_lipschitz(*kinds)(lambda layer, bounds: max(map(abs, function(layer))))
        return function

    return register


@_slopes(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Softsign)
def _monotone(layer: nn.Module) -> tuple[float, float]:
    return 0.0, 1.0


@_slopes(nn.Softplus)
def _softplus(layer: nn.Softplus) -> tuple[float, float]:
    r"""1 where the jump :math:`\log(1 + e^{-t})/\beta` at the threshold t is below rounding."""
    least, largest = SOFTPLUS_THRESHOLDS
    if not (math.isfinite(layer.beta) and layer.beta != 0):
        raise RefusedError(f"beta={layer.beta}; allowed: a number other than 0")
    if not least <= layer.threshold <= largest:
        jump = math.log1p(math.exp(-min(max(layer.threshold, -700.0), 700.0))) / abs(layer.beta)
        what = f"jumps by {jump:.2g}" if layer.threshold < least else "overflows"
        raise RefusedError(
            f"threshold={layer.threshold}: it {what} where it becomes linear, so that it has no "
            "Lipschitz constant; set layer.threshold = 40 (the same function but for the jump)"
        )
    return 0.0, 1.0


@_slopes(nn.CELU)
def _celu(layer: nn.CELU) -> tuple[float, float]:
    if not 0 < layer.alpha < math.inf:
        raise RefusedError(f"alpha={layer.alpha}: its slope is bounded for alpha > 0 only")
    return 0.0, 1.0


@_slopes(nn.Sigmoid)
def _sigmoid(layer: nn.Module) -> tuple[float, float]:
    return 0.0, 0.25


@_slopes(nn.LeakyReLU)
def _leaky(layer: nn.LeakyReLU) -> tuple[float, float]:
    return min(layer.negative_slope, 1.0), max(layer.negative_slope, 1.0)


@_slopes(nn.PReLU)
def _parametric(layer: nn.PReLU) -> tuple[float, float]:
    return min(float(layer.weight.min()), 1.0), max(float(layer.weight.max()), 1.0)


@_slopes(nn.ELU)
def _exponential(layer: nn.ELU) -> tuple[float, float]:
    return min(layer.alpha, 0.0), max(layer.alpha, 1.0)


@_slopes(nn.SiLU)
def _silu(layer: nn.SiLU) -> tuple[float, float]:
    return 1 - SILU_SLOPE, SILU_SLOPE


@_slopes(nn.GELU)
def _gelu(layer: nn.GELU) -> tuple[float, float]:
    largest = GELU_SLOPE if layer.approximate == "none" else GELU_TANH_SLOPE
    return 1 - largest, largest
