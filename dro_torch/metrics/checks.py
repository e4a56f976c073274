"""Checks that the metrics share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dro_torch.checks import check_alike, check_batch, check_finite
from dro_torch.models import call_model


def check_pair(x: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    """Two batches of one shape, dtype and device."""
    x, reconstruction = check_batch(x, "x"), check_batch(reconstruction, "reconstruction")
    check_alike(reconstruction, "reconstruction", x, "x")
    if x.shape != reconstruction.shape:
        raise ValueError(
            f"reconstruction: shape {tuple(reconstruction.shape)}, but x has {tuple(x.shape)}; "
            "entry i of both is image i, and nothing is broadcast"
        )
    return x, reconstruction


def finite_output(model: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """model(y), checked to be a finite batch of as many samples; y stays as it is."""
    out = call_model(model, y)
    check_finite(out, "model(y)")
    return out


def as_generator(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """A generator, by default a new one with seed 0."""
    if generator is None:
        return torch.Generator(device).manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} is not a torch.Generator")
    return generator
