"""Lower bounds of Lipschitz constants, with the two points that prove them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dro_core.checks import as_positive_integer
from dro_core.described import Described
from dro_torch.checks import check_batch
from dro_torch.linearisation import JacobianProducts, vector_jacobian
from dro_torch.lipschitz.bounds import checked_copy
from dro_torch.models import call_model
from dro_torch.nets.spectral import frozen


@dataclass(frozen=True, eq=False, repr=False)
class LipschitzLower(Described):
    r"""A lower bound of a Lipschitz constant and the two points that prove it.

    Attributes
    ----------
    value : float
        :math:`\|f(a) - f(b)\| / \|a - b\|`, evaluated in float64.
    first, second : tensors
        a and b, float64, shaped as one sample.
    jacobian_norm : float
        Largest singular value of a Jacobian found on the way. The network has that slope where it
        is differentiable; it proves nothing at a kink.
    """

    value: float
    first: Tensor = field(repr=False)
    second: Tensor = field(repr=False)
    jacobian_norm: float

    def __float__(self) -> float:
        return self.value


def lipschitz_lower(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int = 30,
    ascent_steps: int = 60,
    generator: torch.Generator | None = None,
) -> LipschitzLower:
    r"""Lower bound of a network's Lipschitz constant, near given points and between them.

    Power iteration on :math:`J^TJ` at every point finds the direction of largest slope; pairs along
    these directions, and pairs of given points, then climb on
    :math:`\|f(a) - f(b)\| / \|a - b\|` in a and b, each with a step size of its own that grows with
    success. The best pair is returned.

    Parameters
    ----------
    module : torch.nn.Module
        Network; copied in float64 to the device of `x`, and left as it is.
    x : (N, ...) tensor
        Inputs, samples first.
    steps : int
        Power iterations.
    ascent_steps : int
        Steps of the ascent, one forward and backward pass of 2N pairs each.
    generator : torch.Generator, optional
        For the start directions, on the CPU; default: one with seed 0.

    Returns
    -------
    LipschitzLower
        ``.value`` with the pair; ``float(lower)`` is the value.

    Raises
    ------
    ValueError, TypeError
        For something else than a module, dropout or batch normalisation in training mode, bad
        inputs, step numbers or generators, or outputs that are not finite.

    Notes
    -----
    Source: this project.

    Examples
    --------
    >>> from dro_torch.nets import LinearMap
    >>> round(float(lipschitz_lower(LinearMap([[3.0, 4.0]]), torch.zeros(1, 2))), 9)
    5.0
    """
    check_batch(x, "x")
    network = frozen(checked_copy(module, x.device))
    steps, ascent_steps = (
        as_positive_integer(steps, "steps"),
        as_positive_integer(ascent_steps, "ascent_steps"),
    )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    elif not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} is not a torch.Generator")
    points = x.detach().double().clone()
    start = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    directions, slopes = _steepest(network, points, start.to(x.device), steps)
    length = 1e-3 * (1 + _norms(points))
    points = points.detach()
    first, second = points, points + length * directions
    if len(points) > 1:
        other = points.roll(1, 0)
        differ = (points != other).flatten(1).any(1)
        first = torch.cat([first, points[differ]])
        second = torch.cat([second, other[differ]])
    first, second, ratios = _climb(network, first, second, ascent_steps)
    best = int(ratios.argmax())
    return LipschitzLower(float(ratios[best]), first[best], second[best], float(slopes.max()))


def _norms(values: Tensor) -> Tensor:
    """Euclidean norm of every sample, (N, 1, ...)."""
    shape = (-1, *[1] * (values.ndim - 1))
    result: Tensor = torch.linalg.vector_norm(values.reshape(len(values), -1), dim=1).reshape(shape)
    return result


def _steepest(
    network: nn.Module, points: Tensor, start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Top right-singular vectors of the Jacobians at the points, and the slopes along them."""
    with torch.enable_grad():
        points = points.requires_grad_()
        outputs = call_model(network, points, "module", "x", dimensions=1)
        jacobian = JacobianProducts(outputs, points)
    direction = start / _norms(start)
    for _ in range(steps):
        following = jacobian.adjoint(jacobian.apply(direction))
        size = _norms(following)
        direction = torch.where(size > 0, following / size.clamp_min(1e-300), direction)
    return direction, _norms(jacobian.apply(direction)).flatten().detach()


def _climb(
    network: nn.Module, first: Tensor, second: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ascent of the difference quotient of every pair; (a, b, quotient), never below the start."""

    def quotients(pair: Tensor) -> Tensor:
        outputs = network(pair.flatten(0, 1).clone()).unflatten(0, (2, -1))
        return _norms(outputs[0] - outputs[1]).flatten() / _norms(pair[0] - pair[1]).flatten()

    def with_gradient(pair: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            pair = pair.detach().requires_grad_()
            values = quotients(pair)
        return values.detach(), vector_jacobian(values, pair, torch.ones_like(values))

    pair = torch.stack([first, second])
    best, gradient = with_gradient(pair)
    if not bool(torch.isfinite(best).all()):
        raise ValueError("module: its outputs on x are not finite, or overflow")
    shape = (-1, *[1] * (first.ndim - 1))
    size = torch.full_like(best, 0.1).reshape(shape)
    for _ in range(steps):
        distance = _norms(pair[0] - pair[1])
        slope = _norms(gradient.transpose(0, 1)).reshape(shape).clamp_min(1e-300)
        trial = pair + size * distance * gradient / slope
        values, found = with_gradient(trial)
        apart = _norms(trial[0] - trial[1]) >= 1e-5 * (1 + _norms(trial[0]))
        better = ((values > best) & apart.flatten()).reshape(shape)
        pair, gradient = torch.where(better, trial, pair), torch.where(better, found, gradient)
        best = torch.where(better.flatten(), values, best)
        size = torch.where(better, 1.5 * size, 0.5 * size)
    return pair[0], pair[1], best
