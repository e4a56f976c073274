"""When the host may look at values: a look waits for the device, and some places have no number.

Nothing is looked at while torch.compile traces and inside of `torch.func`. Elsewhere an `Attention`
says whether a check reads its answer now, leaves it on the device for later, or is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: When a loss checks values: in the first call (or step), in every one, never.
Checks = Literal["first", "always", "never"]
CHECKS = ("first", "always", "never")


@dataclass(frozen=True, eq=False)
class Attention:
    """How closely values are looked at.

    Parameters
    ----------
    now : bool
        Checks read their answers and raise.
    warns : bool
        Warnings may look, now and then.
    flags : dict, optional
        If checks do not read, they leave here whether they refused (0-d, bool), by what they would
        have said.
    """

    now: bool
    warns: bool
    flags: dict[str, Tensor] | None = None


CLOSE, NEVER = Attention(now=True, warns=True), Attention(now=False, warns=False)
_ATTENTION: ContextVar[Attention] = ContextVar("attention", default=CLOSE)


@contextmanager
def attending(attention: Attention) -> Iterator[None]:
    """Look so closely for a while."""
    token = _ATTENTION.set(attention)
    try:
        yield
    finally:
        _ATTENTION.reset(token)


def seldom() -> Attention:
    """Look no more in checks; whoever collects flags outside still gets them."""
    outside = _ATTENTION.get()
    return outside if outside.flags is not None else Attention(now=False, warns=True)


def transformed() -> bool:
    """Whether this runs inside of `torch.func.grad`, `vmap` or another of their kind.

    Tensors are wrapped there: a batch of networks has no one number to look at, and neither
    ``requires_grad_`` nor ``torch.autograd.grad`` works.
    """
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._are_functorch_transforms_active())  # there is no public question


def may_look() -> bool:
    """Whether a check may read a value."""
    return not torch.compiler.is_compiling() and _ATTENTION.get().now and not transformed()


def may_warn() -> bool:
    """Whether a value may be read now and then, for a warning."""
    return not torch.compiler.is_compiling() and _ATTENTION.get().warns and not transformed()


def refuse_later(what: str, refused: Callable[[], Tensor]) -> None:
    """Where a check may not read, leave its answer (0-d) on the device, if somebody collects it."""
    if torch.compiler.is_compiling() or transformed():
        return
    flags = _ATTENTION.get().flags
    if flags is not None:
        flag = refused().detach()
        flags[what] = flags[what] | flag if what in flags else flag


def value_and_pullback(
    function: Callable[[Tensor], Tensor], point: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """function(point), and products of cotangents with its Jacobian there (`torch.func.vjp`)."""
    value, pull = torch.func.vjp(function, point)[:2]

    def pullback(cotangent: Tensor) -> Tensor:
        product: Tensor = pull(cotangent)[0]
        return product

    return value, pullback
