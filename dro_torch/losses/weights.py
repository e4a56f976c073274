r"""Means over the samples of a batch: :math:`\sum_i w_i\varphi_i` with :math:`\sum_i w_i = 1`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dro_core.checks import weight_sum_tolerance
from dro_torch.checks import check_weights
from dro_torch.host import may_look, refuse_later


def batch_weights(value: object, like: Tensor) -> Tensor | None:
    """The weights of the samples of a batch, as `dro_core` takes them; None stays None.

    Parameters
    ----------
    value : (N,) tensor of float32 or float64, optional
        Non-negative, with sum one; off by the rounding of its precision it is divided by the sum.
    like : (N, ...)
        The samples, on the same device.

    Raises
    ------
    TypeError, ValueError
        No tensor, another dtype, shape or device; NaN, negative entries, another sum.
    """
    if value is None:
        return None
    weights = check_weights(value, like)
    total = weights.sum()
    if may_look():
        number = float(total.detach())
        if abs(number - 1.0) > _tolerance(weights):
            raise ValueError(
                f"weights: they sum to {number!r}, not to 1; divide by the sum if that is what "
                "you mean"
            )
    else:
        refuse_later(
            "weights: their sum is not 1", lambda: (total - 1.0).abs() > _tolerance(weights)
        )
    return (weights / total).to(torch.promote_types(torch.float32, like.dtype))


def _tolerance(weights: Tensor) -> float:
    kind = np.float64 if weights.dtype == torch.float64 else np.float32
    return weight_sum_tolerance(kind(0.0), len(weights))


def average(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of (N,) values, weighted if there are weights."""
    return values.mean() if weights is None else (weights * values).sum()
