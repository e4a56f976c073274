r"""What the adversary may move, for batches of any shape.

A displacement is one flat row per sample: of the measurement (y|x), of the signal (x|y, x), or of
both (joint, the signal's entries first). It is *whitened*: with weights W of the transport cost the
sample moves by :math:`W^{-1/2}v`, so that the cost is :math:`\|v\|^2` whatever the weights, steps
of an ascent are in the metric of the cost, and noise :math:`v\sim N(0,\sigma^2 I)` has covariance
:math:`\sigma^2W^{-1}` in the units of the data.
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
from dro_torch.transport_weight import TransportWeight, WeightLike, modulus

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
        """Transport cost of each sample, (N,): the squared norm of the whitened displacement."""
        return displacement.square().sum(1)

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        """What moves, one row per sample (N, size); None if the structure does not say."""
        return None

    def scale(self, x: Tensor, y: Tensor) -> Tensor | None:
        r""":math:`W^{-1/2}` of every entry of a displacement, (1 or N, size); None for 1."""
        return None

    def unwhitened(self, x: Tensor, y: Tensor, displacement: Tensor) -> Tensor:
        r""":math:`W^{-1/2}v`, (N, size): how far the sample moves, in the units of the data."""
        scale = self.scale(x, y)
        return displacement if scale is None else displacement * scale

    def whitened(self, x: Tensor, y: Tensor, movement: Tensor) -> Tensor:
        """The displacement (N, size) of a movement in data units; frozen entries do not move."""
        scale = self.scale(x, y)
        if scale is None:
            return movement
        frozen = scale == 0
        return torch.where(frozen, 0.0, movement / torch.where(frozen, 1.0, scale))

    def modulus(
        self, lipschitz: Number, x: Tensor | None = None, y: Tensor | None = None
    ) -> Number | float:
        r"""κ of :math:`(\sqrt M + \rho\kappa)^2` for a reconstruction map with that constant.

        A tensor keeps its graph. The samples are needed where the weights depend on them.
        """
        raise ValueError(f"structure {self.name!r}: it has no modulus for a Lipschitz constant")

    @property
    def fixed_modulus(self) -> float | None:
        """κ of x - B(y) where that does not depend on the map B, as far as it is known."""
        return None

    @property
    def weighted(self) -> bool:
        """Whether the transport cost has weights other than 1."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Weighted(Structure):
    """What structures with weights of the transport cost share."""

    def __init__(self, weight_x: WeightLike, weight_y: WeightLike) -> None:
        self.weight_x = TransportWeight(weight_x, "weight_x")
        self.weight_y = TransportWeight(weight_y, "weight_y")

    def _check_moves(self, *weights: TransportWeight) -> None:
        if all(weight.is_frozen for weight in weights):
            names = " and ".join(weight.name for weight in weights)
            raise ValueError(f"{names}: infinite, so that nothing may move")

    @property
    def weighted(self) -> bool:
        return not (self.weight_x.is_one and self.weight_y.is_one)

    def __repr__(self) -> str:
        weights = [w for w in (self.weight_x, self.weight_y) if repr(w) != "1"]
        return f"{type(self).__name__}({', '.join(f'{w.name}={w!r}' for w in weights)})"


class YGivenX(_Weighted):
    r"""y moves, x stays: measurement noise, wrong forward model.

    Parameters
    ----------
    weight_y : None, number, tensor, array or callable
        Weights W of the transport cost :math:`dy^\top W dy`, see `TransportWeight`: one per
        measurement (a tensor that broadcasts over a sample), or (x, y) -> those of every sample,
        such as expected photon counts. Infinity freezes an entry. The radius is then in the units
        of :math:`W^{1/2}` times the data.

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, are all infinite, or do not fit the samples.
    """

    name = "y|x"

    def __init__(self, weight_y: WeightLike = None) -> None:
        super().__init__(None, weight_y)
        self._check_moves(self.weight_y)

    def size(self, x: Tensor, y: Tensor) -> int:
        return y[0].numel()

    def scale(self, x: Tensor, y: Tensor) -> Tensor | None:
        return self.weight_y.inverse_root(x, y, y)

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        return y.flatten(1)

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        return x, _moved(y, self.unwhitened(x, y, displacement))

    def modulus(
        self, lipschitz: Number, x: Tensor | None = None, y: Tensor | None = None
    ) -> Number | float:
        r"""κ = :math:`\|W^{-1/2}\|` L."""
        return lipschitz * modulus(self.weight_y, x, y, "y")


class XGivenY(_Weighted):
    """x moves, y stays.

    Parameters
    ----------
    weight_x
        As `weight_y` of `YGivenX`.

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, are all infinite, or do not fit the samples.
    """

    name = "x|y"

    def __init__(self, weight_x: WeightLike = None) -> None:
        super().__init__(weight_x, None)
        self._check_moves(self.weight_x)

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel()

    def scale(self, x: Tensor, y: Tensor) -> Tensor | None:
        return self.weight_x.inverse_root(x, y, x)

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        return x.flatten(1)

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        return _moved(x, self.unwhitened(x, y, displacement)), y

    def modulus(
        self, lipschitz: Number, x: Tensor | None = None, y: Tensor | None = None
    ) -> Number | float:
        r"""κ = :math:`\|W^{-1/2}\|`: the residual moves as far as x does."""
        return modulus(self.weight_x, x, y, "x")

    @property
    def fixed_modulus(self) -> float | None:
        largest = self.weight_x.inverse_norm
        return None if largest is None else math.sqrt(largest)


class Joint(_Weighted):
    """Both move: the standard Wasserstein ball.

    Parameters
    ----------
    weight_x, weight_y
        As `weight_y` of `YGivenX`.

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, are all infinite, or do not fit the samples.
    """

    name = "joint"

    def __init__(self, weight_x: WeightLike = None, weight_y: WeightLike = None) -> None:
        super().__init__(weight_x, weight_y)
        self._check_moves(self.weight_x, self.weight_y)

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel() + y[0].numel()

    def scale(self, x: Tensor, y: Tensor) -> Tensor | None:
        roots = self.weight_x.inverse_root(x, y, x), self.weight_y.inverse_root(x, y, y)
        if roots[0] is None and roots[1] is None:
            return None
        rows = max(1 if root is None else len(root) for root in roots)
        parts = [
            value.new_ones(rows, value[0].numel()) if root is None else root.expand(rows, -1)
            for root, value in zip(roots, (x, y), strict=True)
        ]
        return torch.cat(parts, dim=1)

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        return torch.cat([x.flatten(1), y.flatten(1)], dim=1)

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        moved = self.unwhitened(x, y, displacement)
        dx, dy = moved.split([x[0].numel(), y[0].numel()], dim=1)
        return _moved(x, dx), _moved(y, dy)

    def modulus(
        self, lipschitz: Number, x: Tensor | None = None, y: Tensor | None = None
    ) -> Number | float:
        r"""κ = :math:`\sqrt{\|W_x^{-1}\| + \|W_y^{-1}\| L^2}`."""
        own = modulus(self.weight_x, x, y, "x")
        image = lipschitz * modulus(self.weight_y, x, y, "y")
        if isinstance(image, Tensor):
            return torch.hypot(torch.full_like(image, own), image)
        return math.hypot(own, image)


class XShift(_Weighted):
    r"""The law of x shifts and the measurement follows: (x, y) moves to :math:`(x', A(x'))`.

    Parameters
    ----------
    forward : callable
        A, differentiable, on batches.
    cost : "x" or "joint"
        Pay for :math:`\|x' - x\|^2` alone, or for :math:`\|x' - x\|^2 + \|A(x') - y\|^2`, with
        which data off the graph of A pay before anything has moved.
    weight_x, weight_y
        As in `Joint`; `weight_y` with cost "joint" only, and finite.

    Raises
    ------
    ValueError, TypeError
        For a forward map that is not callable, and bad weights.
    """

    name = "x"

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        *,
        cost: Literal["x", "joint"] = "x",
        weight_x: WeightLike = None,
        weight_y: WeightLike = None,
    ) -> None:
        if not callable(forward):
            raise TypeError(f"forward: {type(forward).__name__} is not callable")
        check_option(cost, "cost", ("x", "joint"))
        super().__init__(weight_x, weight_y)
        self.forward, self.cost = forward, cost
        self._check_moves(self.weight_x)
        if cost != "joint" and weight_y is not None:
            raise ValueError(f"weight_y: has no effect with cost={cost!r}; leave it out")
        if self.weight_y.has_frozen:
            raise ValueError("weight_y: infinite; y follows x, so it cannot be frozen")

    def size(self, x: Tensor, y: Tensor) -> int:
        return x[0].numel()

    def scale(self, x: Tensor, y: Tensor) -> Tensor | None:
        return self.weight_x.inverse_root(x, y, x)

    def moving(self, x: Tensor, y: Tensor) -> Tensor | None:
        return x.flatten(1)

    def displace(self, x: Tensor, y: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        moved = _moved(x, self.unwhitened(x, y, displacement))
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
            off = (self.displace(x, y, displacement)[1] - y).square()
            weight = self.weight_y.of(x, y, y)
            off = off if weight is None else off * weight.to(off.dtype)
            paid = paid + off.flatten(1).sum(1)
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
