r"""Weights of the transport cost :math:`v^\top W v` of what moves, one per entry of a sample.

Only :math:`W^{-1/2}` enters a worst case, so infinite weights are allowed: they are zeros there and
freeze what they stand for (dead detector cells, the known pixels of an inpainting mask).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dro_core.checks import as_real_array
from dro_torch.host import may_look, refuse_later

#: A number, a tensor (or array) that broadcasts over a sample, (x, y) -> one per sample, None: 1.
WeightLike: TypeAlias = ArrayLike | Tensor | Callable[[Tensor, Tensor], Tensor] | None

_ALLOWED = "numbers > 0, and infinity to freeze an entry"


class TransportWeight:
    r"""Diagonal weight W of a transport cost :math:`v^\top W v`; infinite entries freeze.

    Parameters
    ----------
    value : None, number, tensor, array or callable
        None is 1; a tensor broadcasts over the entries of one sample (shape of a sample without
        its axis 0, or fewer axes); a callable maps the clean batch (x, y) to a tensor that
        broadcasts over the batch of what moves, axis 0 included: the weights of every sample.
    name : str
        The argument, for messages.

    Raises
    ------
    ValueError, TypeError
        For zero, negative, NaN or infinite weights alone, and shapes that do not broadcast.
    """

    def __init__(self, value: Any, name: str) -> None:
        self.name = name
        self.function: Callable[[Tensor, Tensor], Tensor] | None = None
        self.value: Tensor | None = None
        if value is None:
            return
        if callable(value) and not isinstance(value, Tensor):
            self.function = value
            return
        if isinstance(value, Tensor):
            if not value.is_floating_point() or value.layout != torch.strided:
                raise TypeError(
                    f"{name}: dtype {value.dtype}, layout {value.layout}; allowed: dense "
                    "floating-point tensors"
                )
            self.value = value.detach()
        else:
            self.value = torch.tensor(as_real_array(value, name, finite=False))
        if self.value.numel() == 0:
            raise ValueError(f"{name}: empty; a weight per entry of a sample is needed")
        bad = self.value[~(self.value > 0)]
        if bad.numel():
            raise ValueError(f"{name}: {float(bad.flatten()[0])} is not a weight; {_ALLOWED}")

    @property
    def is_one(self) -> bool:
        """Whether there is nothing to weigh."""
        return self.function is None and (self.value is None or bool((self.value == 1).all()))

    @property
    def is_frozen(self) -> bool:
        """Whether nothing may move."""
        return self.value is not None and bool(torch.isinf(self.value).all())

    @property
    def has_frozen(self) -> bool:
        """Whether something is known not to move."""
        return self.value is not None and bool(torch.isinf(self.value).any())

    @property
    def inverse_norm(self) -> float | None:
        r"""Largest entry of :math:`W^{-1}`; None where it depends on the samples."""
        if self.function is not None:
            return None
        return 1.0 if self.value is None else 1.0 / float(self.value.min())

    def of(self, x: Tensor, y: Tensor, moving: Tensor) -> Tensor | None:
        """The weights that broadcast over `moving`, which is x or y; None for 1."""
        if self.function is not None:
            value = self.function(x, y)
            self._check_called(value, moving)
            return value.detach()
        if self.value is None:
            return None
        shape = tuple(moving.shape[1:])
        if not _broadcasts(tuple(self.value.shape), shape):
            raise ValueError(
                f"{self.name}: shape {tuple(self.value.shape)}, but a sample of what it weighs "
                f"has shape {shape}; allowed: shapes that broadcast to that"
            )
        return self.value.to(moving.device)

    def _check_called(self, value: object, moving: Tensor) -> None:
        shape = tuple(moving.shape)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{self.name}: it returned {given}; needed: a floating-point tensor")
        if value.ndim != moving.ndim or not _broadcasts(tuple(value.shape), shape):
            raise ValueError(
                f"{self.name}: it returned shape {tuple(value.shape)} for a batch {shape}; "
                "needed: a tensor with as many axes that broadcasts to that"
            )
        if may_look() and not bool((value > 0).all()):
            bad = float(value.detach()[~(value > 0)].flatten()[0])
            raise ValueError(f"{self.name}: it returned {bad}, which is no weight; {_ALLOWED}")
        refuse_later(f"{self.name}: it returned no weights > 0", lambda: ~(value > 0).all())

    def inverse_root(self, x: Tensor, y: Tensor, moving: Tensor) -> Tensor | None:
        r""":math:`W^{-1/2}` as rows (1 or N, entries), in the dtype of `moving`; None for 1."""
        weight = self.of(x, y, moving)
        if weight is None:
            return None
        wide = torch.promote_types(torch.float32, weight.dtype)
        root = weight.to(wide).rsqrt().to(moving.dtype)
        samples = root.shape[0] if root.ndim == moving.ndim else 1
        return root.expand(samples, *moving.shape[1:]).reshape(samples, -1)

    def __repr__(self) -> str:
        if self.function is not None:
            return getattr(self.function, "__name__", type(self.function).__name__)
        if self.value is None:
            return "1"
        if self.value.ndim == 0:
            return f"{float(self.value):g}"
        return f"tensor of shape {tuple(self.value.shape)}"


def _broadcasts(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape broadcasts to another without growing that."""
    if len(given) > len(shape):
        return False
    pairs = zip(given[::-1], shape[::-1], strict=False)
    return all(own in (1, whole) for own, whole in pairs)


def modulus(weight: TransportWeight, x: Tensor | None, y: Tensor | None, which: str) -> float:
    r""":math:`\sqrt{\|W^{-1}\|}`, of the samples where the weight depends on them."""
    largest = weight.inverse_norm
    if largest is None:
        if x is None or y is None:
            raise ValueError(
                f"{weight.name}: it depends on the samples, and so does the modulus; pass x and y"
            )
        value = weight.of(x, y, x if which == "x" else y)
        assert value is not None  # a function gave it
        largest = 1.0 / float(value.min())
    return math.sqrt(largest)
