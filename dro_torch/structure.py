r"""What the adversary may move, for batches of any shape.

A displacement is one flat row per sample: of the measurement (y|x), of the signal (x|y, x), or of
both (joint, the signal's entries first). The transport cost is squared Euclidean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from dro_core.checks import check_option, unknown
from dro_torch.models import call_model

#: A constant, or one with its graph.
Number = TypeVar("Number", float, Tensor)


def _moved(value: Tensor, displacement: Tensor) -> Tensor:
    return value + displacement.reshape(value.shape)


class Structure(ABC):
    """A structured ambiguity set (paper §2.1): which part of the law of (x, y) may move."""

    name: ClassVar[str]

    @abstractmethod
    def size(self, x: Tensor, y: Tensor) -> int:
        """Entries of one sample's displacement."""

    @abstractmethod
    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """The moved samples (x', y') for displacements (N, size)."""

    def transport_cost(self, x: Tensor, y: Tensor, displacement: Tensor) -> Tensor:
        """Transport cost of each sample, (N,), in squared units of the data."""
        return displacement.square().sum(1)

    def modulus(self, lipschitz: Number) -> Number | float:
        r"""κ of :math:`(\sqrt M + \rho\kappa)^2` for a reconstruction map with that constant.

        A tensor keeps its graph.
        """
        raise ValueError(f"structure {self.name!r}: it has no modulus for a Lipschitz constant")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class YGivenX(Structure):
    """y moves, x stays: measurement noise, wrong forward model."""

    name = "y|x"

    def size(self, x: Tensor, y: Tensor) -> int:
        return y[0].numel()

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        return x, _moved(y, displacement)

    def modulus(self, lipschitz: Number) -> Number | float:
        """κ = L."""
        return lipschitz


class XGivenY(Structure):
    """x moves, y stays."""

    name = "x|y"

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel()

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        return _moved(x, displacement), y

    def modulus(self, lipschitz: Number) -> Number | float:
        """κ = 1: the residual moves as far as x does."""
        return 1.0


class Joint(Structure):
    """Both move: the standard Wasserstein ball."""

    name = "joint"

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel() + y[0].numel()

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        dx, dy = displacement.split([x[0].numel(), y[0].numel()], dim=1)
        return _moved(x, dx), _moved(y, dy)

    def modulus(self, lipschitz: Number) -> Number | float:
        """κ = √(1 + L²)."""
        if isinstance(lipschitz, Tensor):
            return torch.hypot(torch.ones_like(lipschitz), lipschitz)
        return math.hypot(1.0, lipschitz)


class XShift(Structure):
    r"""The law of x shifts and the measurement follows: (x, y) moves to :math:`(x', A(x'))`.

    Parameters
    ----------
    forward : callable
        A, differentiable, on batches.
    cost : "x" or "joint"
        Pay for :math:`\|x' - x\|^2` alone, or for :math:`\|x' - x\|^2 + \|A(x') - y\|^2`, with
        which data off the graph of A pay before anything has moved.
    """

    name = "x"

    def __init__(
        self, forward: Callable[[Tensor], Tensor], *, cost: Literal["x", "joint"] = "x"
    ) -> None:
        if not callable(forward):
            raise TypeError(f"forward: {type(forward).__name__} is not callable")
        check_option(cost, "cost", ("x", "joint"))
        self.forward, self.cost = forward, cost

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel()

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        moved = _moved(x, displacement)
        measured = call_model(self.forward, moved, "forward", "x", dimensions=1)
        if measured.shape != y.shape:
            raise ValueError(
                f"forward: it maps {tuple(x.shape)} to {tuple(measured.shape)}, but y has shape "
                f"{tuple(y.shape)}"
            )
        return moved, measured

    def transport_cost(self, x: Tensor, y: Tensor, displacement: Tensor) -> Tensor:
        paid = displacement.square().sum(1)
        if self.cost == "joint":
            paid = paid + (self.displace(x, y, displacement)[1] - y).flatten(1).square().sum(1)
        return paid


_NAMED = {structure.name: structure for structure in (Joint, YGivenX, XGivenY)}


def as_structure(value: str | Structure) -> Structure:
    """The structure of that name ("joint", "y|x", "x|y"), or the Structure itself."""
    if isinstance(value, Structure):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"structure: {value!r} is neither a name nor a dro_torch Structure; allowed: "
            f"{', '.join(map(repr, _NAMED))}, or an instance such as XShift(forward)"
        )
    if value not in _NAMED:
        hint = "; structure 'x' needs the forward map: XShift(forward)" if value == "x" else ""
        raise ValueError(unknown("structure", value, _NAMED) + hint)
    return _NAMED[value]()
