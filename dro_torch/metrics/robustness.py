"""How a model reacts to small changes of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dro_core.checks import as_positive, as_positive_integer, check_option
from dro_torch.checks import check_batch, check_finite
from dro_torch.metrics.checks import as_generator, check_pair, finite_output
from dro_torch.precision import wide


@torch.no_grad()
def stability(
    model: Callable[[Tensor], Tensor],
    y: Tensor,
    eta: float,
    directions: int = 10,
    generator: torch.Generator | None = None,
    reduction: Literal["mean", "max"] = "mean",
) -> Tensor:
    r"""Mean relative change of a model's output under small random changes of its input.

    .. math:: S(y) = \frac1K \sum_{k=1}^K \frac{\|B(y + \eta d_k) - B(y)\|}{\|\eta d_k\|},
              \qquad d_k \text{ uniform on the unit sphere}

    Smaller is more stable. Every term is a lower bound of the Lipschitz constant of B.

    Parameters
    ----------
    model : callable
        B, from a batch (N, ...) to a batch of N outputs, each depending on its own input only. It
        is used in the mode it is in: put dropout to rest with ``model.eval()``.
    y : (N, ...) tensor
        Measurements.
    eta : float
        Length > 0 of the changes, in the units of y (a Euclidean length of the whole measurement).
    directions : int
        K >= 1.
    generator : torch.Generator, optional
        Source of the directions; by default a new one with seed 0.
    reduction : "mean" or "max"
        Mean over the directions, or the largest term.

    Returns
    -------
    (N,) tensor
        Units of x per unit of y.

    Raises
    ------
    ValueError
        If `eta` is not positive or so small that y + eta d rounds to y, or the output of the model
        is not a finite batch of N samples.

    Notes
    -----
    Source: Section 6.1.3 of the DRO paper. The formula is lost in the text that this project has:
    the number K of directions, the magnitude eta and "lower is more stable" are the paper's; that
    directions have unit length and that the *mean ratio* of changes is meant, this project's.
    """
    y = check_batch(y, "y")
    length, count = as_positive(eta, "eta"), as_positive_integer(directions, "directions")
    check_option(reduction, "reduction", ("mean", "max"))
    generator = as_generator(generator, y.device)
    reference = finite_output(model, y)
    terms, lengths = [], []
    for _ in range(count):
        direction = torch.randn(
            y.shape, generator=generator, device=generator.device, dtype=wide(y[:0]).dtype
        ).to(y.device)
        scale = length / _norm(direction).reshape(-1, *[1] * (y.ndim - 1))
        moved = y + (direction * scale).to(y.dtype)
        lengths.append(_norm(moved - y))  # what was really added, after rounding
        terms.append(_norm(finite_output(model, moved) - reference) / lengths[-1])
    if not bool(((torch.stack(lengths) / length - 1).abs() < 0.5).all()):
        raise ValueError(
            f"eta: {length} is lost in rounding beside y in {y.dtype}; take a larger one"
        )
    values = torch.stack(terms)
    return values.mean(0) if reduction == "mean" else values.amax(0)


def _norm(tensor: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(wide(tensor).flatten(1), dim=1)
    return result


def saliency(model: Callable[[Tensor], Tensor], y: Tensor, x: Tensor | None = None) -> Tensor:
    r"""Saliency maps: how strongly every entry of a measurement acts on the reconstruction.

    With the true image, the gradient of its squared error; without, of the sum of the output:

    .. math:: s(y) = \bigl|\nabla_y \|x - B(y)\|^2\bigr| \qquad\text{or}\qquad
              s(y) = \bigl|\nabla_y \textstyle\sum_j B(y)_j\bigr|

    Parameters
    ----------
    model : callable
        B, differentiable, from a batch (N, ...) to a batch of N outputs, each depending on its own
        input only; used in the mode it is in. Gradients of its parameters are left alone.
    y : (N, ...) tensor
        Measurements.
    x : (N, ...) tensor, optional
        True images, of the shape of B(y).

    Returns
    -------
    tensor of the shape of y
        Non-negative.

    Raises
    ------
    ValueError
        If the output does not depend differentiably on y, or x has not the shape of the output.

    Notes
    -----
    Source: Section 6.1.3 of the DRO paper after Simonyan, Vedaldi, Zisserman, Deep inside
    convolutional networks (2013). The formula is lost in the text that this project has; "a data
    pair (x, y)" suggests the first form, "the effect of a small change in y on the prediction" the
    second.
    """
    y = check_batch(y, "y").detach().requires_grad_(True)
    with torch.enable_grad():
        out = finite_output(model, y)
        if x is None:
            score = wide(out).sum()
        else:
            x, out = check_pair(x, out)
            score = (wide(x) - wide(out)).square().sum()
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, y, allow_unused=True)
    if gradient is None:
        raise ValueError("model: its output does not depend on y differentiably; no saliency map")
    check_finite(gradient, "gradient of the model")
    return gradient.abs()
