"""The phase that trains a reconstruction map, with any loss of `dro_torch.losses`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from torch import Tensor, nn

from dro_core.checks import as_non_negative
from dro_torch.training.phase import Batch, Phase, PhaseOptions, StepContext, Values


def reconstruction_phase(
    model: nn.Module,
    criterion: Callable[..., Tensor | tuple[Tensor, Values]],
    multiplier: nn.Module | float | None = None,
    *,
    pairs: Callable[[Batch, StepContext], tuple[Tensor, Tensor]] | None = None,
    name: str = "reconstruction",
    **options: Unpack[PhaseOptions],
) -> Phase:
    r"""The phase that trains a reconstruction map: a loss of `dro_torch.losses`, or any other.

    .. math:: \min_{\theta, \lambda}\ \text{criterion}(B_\theta, x, y, \lambda) + \lambda \rho^2

    Parameters
    ----------
    model : nn.Module
        :math:`B_\theta`; module "model" of the phase.
    criterion : callable ``(model, x, y, multiplier, ...)``, or ``(model, x, y)`` without multiplier
        Returns the objective without :math:`\lambda\rho^2`, or that and numbers to log. Those of
        the keyword arguments ``index``, ``seed``, ``step`` that it takes are passed: its noise's
        key. A criterion that is a module becomes module "criterion": its buffers are saved. If it
        has a mapping ``diagnostics``, those numbers are logged.
    multiplier : nn.Module or float, optional
        Module "multiplier", learned along: called it returns :math:`\lambda`, and ``penalty()``
        returns :math:`\lambda\rho^2`. A number stays fixed (and :math:`\lambda\rho^2`, a constant,
        is left out).
    pairs : callable ``(batch, context)``, optional
        Returns (x, y), for example ``lambda batch, context: (batch[0], forward(batch[0]))``;
        default: the first two tensors of the batch.
    name : str
        Of the phase.
    **options
        Further arguments of `Phase`; rates by module: ``rate={"model": 1e-3, "multiplier": 1e-2}``.

    Returns
    -------
    Phase

    Raises
    ------
    ValueError, TypeError
        For a criterion that is not callable, a multiplier without ``penalty``, or bad options.

    Notes
    -----
    Source: DRO paper, section 6.1 (with the multiplier learned instead of bisected).
    """
    if not callable(criterion):
        raise TypeError(f"criterion: {type(criterion).__name__} is not callable")
    learned = isinstance(multiplier, nn.Module)
    if learned and not callable(getattr(multiplier, "penalty", None)):
        raise TypeError("multiplier: it needs a method penalty() that returns λρ²")
    if not learned and multiplier is not None and as_non_negative(multiplier, "multiplier") == 0:
        raise ValueError("multiplier: 0; allowed: a number > 0, a module, or None")
    target = criterion.forward if isinstance(criterion, nn.Module) else criterion
    accepted = inspect.signature(target).parameters
    every = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
    keys = [key for key in ("index", "seed", "step") if every or key in accepted]
    modules: dict[str, nn.Module] = {"model": model}
    for key, value in (("multiplier", multiplier), ("criterion", criterion)):
        if isinstance(value, nn.Module):
            modules[key] = value

    def loss(
        called: Mapping[str, Any], batch: Batch, context: StepContext
    ) -> tuple[Tensor, Values]:
        x, y = batch[:2] if pairs is None else pairs(batch, context)
        weight = called["multiplier"]() if learned else multiplier
        positional = (x, y) if multiplier is None else (x, y, weight)
        answer = criterion(called["model"], *positional, **{k: getattr(context, k) for k in keys})
        value, logged = answer if isinstance(answer, tuple) else (answer, {})
        shown = {} if multiplier is None else {"multiplier": weight}
        penalty = called["multiplier"].penalty() if learned else 0.0
        return value + penalty, {**shown, **logged, **getattr(criterion, "diagnostics", {})}

    return Phase(name, modules, loss, **options)
