"""What losses with two alternating steps share: the map's step, networks called with care."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dro_core.checks import as_non_negative
from dro_torch.checks import check_batch
from dro_torch.host import Checks, transformed, value_and_pullback
from dro_torch.losses.checked import CheckedLoss, checked
from dro_torch.losses.likelihood import squares
from dro_torch.models import call_model, check_apart
from dro_torch.precision import full_precision, wide

Network = Callable[[Tensor], Tensor]


def moved_by(T: Network, y: Tensor) -> Tensor:
    """T(y) in float32 or wider."""
    return wide(call_model(T, y, "T", dimensions=1))


def potential_of(v: Network, x: Tensor) -> Tensor:
    """v(x) as (N,), float32 or wider."""
    values = call_model(v, x, "v", "x", dimensions=1)
    if values.shape == (len(x), 1):
        values = values[:, 0]
    if values.shape != (len(x),):
        raise ValueError(
            f"v: v(x) returned shape {tuple(values.shape)} for {len(x)} signals; needed: one "
            f"number each, ({len(x)},) or ({len(x)}, 1)"
        )
    return wide(values)


def slopes(v: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """v(x) and the squared norms of its gradients, (N,) each, differentiable in v's parameters."""
    if transformed():
        values, pullback = value_and_pullback(lambda x: potential_of(v, x), x.detach())
        return values, squares(pullback(torch.ones_like(values)))
    build = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = potential_of(v, x)
        if not values.requires_grad:
            raise ValueError("v: has no gradient in x, which the gradient penalty needs")
        (slope,) = torch.autograd.grad(
            values.sum(), x, create_graph=build, allow_unused=True, materialize_grads=True
        )
    return values, squares(slope)


@contextmanager
def explained(v: Network) -> Iterator[None]:
    """Where a potential of half precision fails, say so: it runs in float32 or wider."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        narrow = {
            parameter.dtype
            for parameter in (v.parameters() if isinstance(v, nn.Module) else ())
            if parameter.is_floating_point() and parameter.dtype.itemsize < 4
        }
        if narrow and "dtype" in str(error):
            raise TypeError(
                f"v: parameters of dtype {narrow.pop()}, but the potential gets float32 or wider; "
                "convert it (v.float()), the map T may stay as it is"
            ) from error
        raise


def frozen(v: Network) -> Network:
    """v with its parameters held constant; the module itself is not touched."""
    if not isinstance(v, nn.Module):
        return v
    constants = {name: parameter.detach() for name, parameter in v.named_parameters()}
    return lambda x: functional_call(v, constants, (x,))


def mean_by_group(
    weights: Tensor, groups: Tensor | Sequence[int] | None
) -> Tensor | dict[int, float]:
    """Weights (N,) as they are, or their mean of every group."""
    if groups is None:
        return weights
    labels = torch.as_tensor(groups)
    if labels.shape != weights.shape or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"groups: shape {tuple(labels.shape)}, dtype {labels.dtype}; needed: {len(weights)} "
            "integers, one per measurement"
        )
    labels = labels.to(weights.device)
    return {label: float(weights[labels == label].mean()) for label in sorted(set(labels.tolist()))}


class AlternatingLoss(CheckedLoss, ABC):
    """The losses of two alternating steps: that of the map is the mean of cost less potential."""

    components: dict[str, Tensor]

    def __init__(self, gradient_penalty: float, checks: Checks | None) -> None:
        super().__init__(checks)
        self.gradient_penalty = as_non_negative(gradient_penalty, "gradient_penalty")
        self.components = {}

    @abstractmethod
    def _cost(self, y: Tensor, moved: Tensor) -> Tensor:
        """Price of moving y to T(y), of every sample or of the batch."""

    def _penalty_weight(self, given: float | None) -> float:
        """Of one call: the attribute, if nothing is given."""
        if given is None:
            return self.gradient_penalty
        return as_non_negative(given, "gradient_penalty")

    @checked
    def map_loss(self, v: Network, T: Network, y: Tensor) -> Tensor:
        """The loss of the map's step; no gradient of v's parameters is built (v an nn.Module).

        Parameters
        ----------
        v, T : as in the potential's step
        y : (N, ...) tensor
            A batch of measurements.

        Returns
        -------
        0-d tensor
        """
        y = check_batch(y, "y")
        check_apart(v, "v")
        check_apart(T, "T")
        moved = moved_by(T, y)
        with full_precision(y), explained(v):
            cost = self._cost(y, moved)
            loss = (cost - potential_of(frozen(v), moved)).mean()
        self.components = {}
        if not transformed():  # what is wrapped means nothing outside
            self.components = {"map_loss": loss.detach(), "cost": cost.detach().mean()}
        return loss
