"""The precision in which numbers are computed, whatever the user's dtype and autocast state are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """At least float32: means of squares need the digits."""
    return tensor.to(torch.promote_types(torch.float32, tensor.dtype))


def widest(tensor: Tensor) -> Tensor:
    """float64 where the device has it."""
    return wide(tensor) if tensor.device.type == "mps" else tensor.double()


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast on the device of the tensor."""
    return torch.autocast(tensor.device.type, enabled=False)


def in_full_precision(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """`function` in float32 or wider, without autocast; the answer in the dtype of `value`."""
    with full_precision(value):
        return function(wide(value)).to(value.dtype)


def uncached_autocast(device: torch.device) -> torch.autocast:
    """The autocast state as it is, without its cache of weights.

    Inner solves run under it: a cast that they leave in the cache would lack the graph that the
    differentiated pass needs.
    """
    kind = device.type
    return torch.autocast(
        kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )
