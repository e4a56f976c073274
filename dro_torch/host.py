"""Where the host may look at values: not while torch.compile traces, nor inside of `torch.func`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def transformed() -> bool:
    """Whether this runs inside of `torch.func.grad`, `vmap` or another of their kind.

    Tensors are wrapped there: a batch of networks has no one number to look at, and neither
    ``requires_grad_`` nor ``torch.autograd.grad`` works.
    """
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._are_functorch_transforms_active())  # there is no public question


def may_look() -> bool:
    """Whether a value may be looked at from Python, for a check or a warning."""
    return not (torch.compiler.is_compiling() or transformed())


def value_and_pullback(
    function: Callable[[Tensor], Tensor], point: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """function(point), and products of cotangents with its Jacobian there (`torch.func.vjp`)."""
    value, pull = torch.func.vjp(function, point)[:2]

    def pullback(cotangent: Tensor) -> Tensor:
        product: Tensor = pull(cotangent)[0]
        return product

    return value, pullback
