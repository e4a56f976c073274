"""The phase that trains a reconstruction map, with any loss of `dro_torch.losses`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, check_keywords
from dro_torch.checks import check_weights
from dro_torch.training.phase import Batch, Phase, PhaseOptions, StepContext, Values


def reconstruction_phase(
    model: nn.Module,
    criterion: Callable[..., Tensor | tuple[Tensor, Values]],
    multiplier: nn.Module | float | None = None,
    *,
    pairs: Callable[[Batch, StepContext], tuple[Tensor, Tensor]] | None = None,
    weights: Callable[[Batch, StepContext], Tensor] | None = None,
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
    weights : callable ``(batch, context)``, optional
        Returns weights (N,) >= 0 of the samples, of mean one over the data set, for example
        ``lambda batch, context: batch[2]``. The objective is then the mean of
        :math:`w_i\varphi_i`, to which neither parts of a batch nor processes make a difference;
        the criterion gets ``weights=``, of sum one over what it sees, as the losses of this
        package take them.
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
        For a criterion that is not callable or takes no weights where there are some, a
        multiplier without ``penalty``, weights that are negative or not finite, or bad options.

    Notes
    -----
    Source: DRO paper, section 6.1 (with the multiplier learned instead of bisected).
    """
    check_keywords(reconstruction_phase, options, PhaseOptions)
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
    if weights is not None and not callable(weights):
        raise TypeError(f"weights: {type(weights).__name__} is not callable")
    if weights is not None and not (every or "weights" in accepted):
        raise TypeError("criterion: it takes no weights=, which the phase is to give it")
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
        named: dict[str, Any] = {key: getattr(context, key) for key in keys}
        share: Tensor | float = 1.0
        if weights is not None:
            named["weights"], share = _shares(weights(batch, context), x)
        answer = criterion(called["model"], *positional, **named)
        value, logged = answer if isinstance(answer, tuple) else (answer, {})
        shown = {} if multiplier is None else {"multiplier": weight}
        penalty = called["multiplier"].penalty() if learned else 0.0
        return share * value + penalty, {**shown, **logged, **getattr(criterion, "diagnostics", {})}

    return Phase(name, modules, loss, **options)


def _shares(weights: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (N,) divided by their sum, and their mean; without any weight equal ones, and 0."""
    given = check_weights(weights, x)
    total = given.sum()
    return torch.where(total > 0, given / total, 1.0 / len(given)), total / len(given)
