r"""Losses of this package in the shape that deepinv's Trainer expects.

deepinv is optional and imported when `as_deepinv_loss` is called. Its models are called
``model(y, physics)``, its losses ``loss(x_net=..., x=..., y=..., physics=..., model=...)``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ReconstructionMap:
    """A deepinv model with its physics: y -> model(y, physics)."""

    def __init__(self, model: Any, physics: Any) -> None:
        self.model, self.physics = model, physics

    def __call__(self, y: Tensor) -> Tensor:
        """The reconstruction of a batch."""
        result: Tensor = self.model(y, self.physics)
        return result


@functools.cache
def _loss_class() -> Callable[..., nn.Module]:
    try:
        base: Any = importlib.import_module("deepinv.loss").Loss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"as_deepinv_loss needs deepinv, and importing it failed: {error}; install it with: "
            "pip install deepinv (it brings torchvision)",
            name=error.name,
        ) from error

    class StructuredDROLoss(base):  # type: ignore[misc]
        """``criterion(model, x, y, multiplier()) + multiplier.penalty()`` for deepinv."""

        def __init__(self, criterion: Any, multiplier: Any) -> None:
            super().__init__()
            self.criterion, self.multiplier = criterion, multiplier

        def forward(
            self, x_net: Tensor, x: Tensor, y: Tensor, physics: Any, model: Any, **kwargs: Any
        ) -> Tensor:
            """The objective (0-d); `x_net` plays no part, the network is evaluated at moved y."""
            called = ReconstructionMap(model, physics)
            if self.multiplier is None:
                objective: Tensor = self.criterion(called, x, y)
            elif isinstance(self.multiplier, float):
                objective = self.criterion(called, x, y, self.multiplier)
            else:
                objective = self.criterion(called, x, y, self.multiplier())
                objective = objective + self.multiplier.penalty()
            return objective

    return StructuredDROLoss


def as_deepinv_loss(
    criterion: Callable[..., Tensor], multiplier: nn.Module | float | None = None
) -> nn.Module:
    r"""Wrap a loss of this package as a ``deepinv.loss.Loss``.

    Parameters
    ----------
    criterion : callable
        ``criterion(model, x, y, multiplier)``, or ``criterion(model, x, y)`` (`BoundLoss`) when
        no multiplier is given. Its structures y|x, joint and x|y take deepinv models as they are.
    multiplier : Multiplier or float, optional
        With a `Multiplier`, its penalty λρ² is added; give its parameters to the Trainer's
        optimiser, ``Adam([*model.parameters(), *loss.multiplier.parameters()])``.

    Returns
    -------
    deepinv.loss.Loss
        Call it as the Trainer does; the value is a scalar.

    Raises
    ------
    ModuleNotFoundError
        If deepinv is not installed.
    TypeError
        If `criterion` cannot be called, or `multiplier` is neither a number nor a module with a
        ``penalty()``.

    Source: deepinv 0.5, `deepinv.loss.Loss.forward` and `deepinv.Trainer.compute_loss`.
    """
    if not callable(criterion):
        raise TypeError(f"criterion: {type(criterion).__name__} is not callable")
    if isinstance(multiplier, int | float) and not isinstance(multiplier, bool):
        multiplier = float(multiplier)
    elif multiplier is not None and not (
        isinstance(multiplier, nn.Module) and callable(getattr(multiplier, "penalty", None))
    ):
        raise TypeError(
            f"multiplier: {type(multiplier).__name__}; allowed: a Multiplier (a module with "
            "penalty()), a number > 0, or None"
        )
    return _loss_class()(criterion, multiplier)
