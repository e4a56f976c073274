"""What the networks share: checks (of shapes only: they compile away) and starting weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dro_core.checks import as_positive_integer, check_option

#: Slopes of every activation lie in the interval that `dro_torch.lipschitz` proves for it.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
#: Those that never decrease and never grow faster than the identity.
MONOTONE = ("relu", "leaky_relu", "elu", "tanh", "softplus")


class Bounds(Protocol):
    """What `dro_torch.lipschitz` gives a network that proves its own constant."""

    def __call__(self, layer: nn.Module) -> float:
        """Proved Lipschitz constant of a part of the network."""

    def check(self, layer: nn.Module) -> None:
        """Refuse a layer that was changed so that its type does not say what it computes."""

    def slopes(self, activation: nn.Module) -> tuple[float, float]:
        """Least and largest slope of a scalar activation."""


def make_activation(name: str, allowed: Sequence[str] = tuple(ACTIVATIONS)) -> nn.Module:
    """A new activation module of that name; a Softplus whose jump to the identity is no jump."""
    check_option(name, "activation", allowed)
    kind = ACTIVATIONS[name]
    return nn.Softplus(threshold=40.0) if kind is nn.Softplus else kind()


def as_dimension(value: int) -> int:
    """Number of axes of a signal: 1 or 2."""
    dimension = as_positive_integer(value, "dimension")
    if dimension > 2:
        raise ValueError(f"dimension: {dimension}; allowed: 1 or 2")
    return dimension


def check_shape(shape: Sequence[int] | None, name: str, entries: int) -> tuple[int, ...]:
    """A shape of one sample with so many entries; (entries,) when none is given."""
    if shape is None:
        return (entries,)
    sizes = tuple(as_positive_integer(size, f"{name}[{i}]") for i, size in enumerate(shape))
    if math.prod(sizes) != entries:
        raise ValueError(
            f"{name}: {sizes} has {math.prod(sizes)} entries; {entries} are needed, one per output"
        )
    return sizes


def check_features(y: Tensor, given: int, needed: int, name: str) -> None:
    """Samples with the number of entries that the first layer takes."""
    if y.ndim < 2 or given != needed:
        raise ValueError(
            f"{name}: input of shape {tuple(y.shape)}; needed: (N, ...) with {needed} entries per "
            "sample"
        )


def check_signal(y: Tensor, channels: int, dimension: int, name: str) -> None:
    """A batch (N, channels, sizes) with `dimension` sizes, none of them empty."""
    if y.ndim != dimension + 2 or y.shape[1] != channels or 0 in y.shape[2:]:
        sizes = "length" if dimension == 1 else "height, width"
        raise ValueError(
            f"{name}: input of shape {tuple(y.shape)}; needed: (N, {channels}, {sizes})"
        )


@contextlib.contextmanager
def initialise(network: nn.Module, generator: torch.Generator | None) -> Iterator[None]:
    """Layers made inside get their starting weights from `generator`, if there is one.

    torch's own layers draw from the global generator, which is then left as it was.
    """
    if generator is None:
        yield
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} is not a torch.Generator")
    with torch.random.fork_rng(devices=[]):
        yield
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            fan, _ = nn.init._calculate_fan_in_and_fan_out(module.weight)
            nn.init.uniform_(module.weight, -(fan**-0.5), fan**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -(fan**-0.5), fan**-0.5, generator=generator)
        elif module.__module__.startswith("dro_torch.") and hasattr(module, "reset_parameters"):
            reset: Any = module.reset_parameters
            reset(generator)
