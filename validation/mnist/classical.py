"""Classical baselines: the linear map of least squared error, and total variation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dro_torch import data, nets, physics
from validation.mnist.arms import Arm, Trained
from validation.mnist.measure import Trials
from validation.mnist.tasks import Task
from validation.mnist.tuning import best
from validation.trainings import Spent


class Wiener(nn.Module):
    r"""The linear map of least mean squared error at white noise of variance σ².

    .. math:: B = C A^\top (A C A^\top + \sigma^2 I)^{-1}, \qquad C = E\,xx^\top

    with the second moments of the training images.
    """

    def __init__(self, images: Tensor, forward: physics.Forward, noise: float) -> None:
        super().__init__()
        x = images.flatten(1).double()
        y = forward(images.double()).flatten(1)
        moment = y.T @ y / len(y)
        moment.diagonal().add_(noise**2 + 1e-6)
        matrix = torch.linalg.solve(moment, y.T @ x / len(x)).T
        self.map = nets.LinearMap(matrix.cpu().numpy(), output_shape=tuple(images.shape[1:]))

    def forward(self, y: Tensor) -> Tensor:
        """Apply the map."""
        restored: Tensor = self.map(y)
        return restored

    def lipschitz_bound(self, bounds: Callable[[nn.Module], float]) -> float:
        """That of the map."""
        return float(bounds(self.map))


class TotalVariation(nn.Module):
    r"""Minimiser of :math:`\tfrac12\|Ax - y\|^2 + w\,\mathrm{TV}(x)`, by primal-dual steps.

    Chambolle and Pock (2011), isotropic, with steps that their condition allows where
    :math:`\|A\| \le 1`: :math:`\tau\sigma(\|A\|^2 + 8) \le 1`. A map of another norm and its data
    are divided by it, and w counts against the data so divided.
    """

    def __init__(
        self,
        forward: physics.LinearForward,
        weight: float,
        iterations: int = 100,
        norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.forward_map, self.weight, self.iterations = forward, weight, iterations
        self.norm = norm

    def forward(self, y: Tensor, start: Tensor | None = None) -> Tensor:
        """Minimise for every image of a batch, from `start` or from zero."""
        step = 1.0 / 3.0
        y, norm = y / self.norm, self.norm
        x = torch.zeros_like(self.forward_map.A_adjoint(y)) if start is None else start
        ahead, data_dual = x, torch.zeros_like(y)
        dual = torch.zeros(2, *x.shape, dtype=x.dtype, device=x.device)
        for _ in range(self.iterations):
            data_dual = (data_dual + step * (self.forward_map(ahead) / norm - y)) / (1 + step)
            dual = dual + step * _gradient(ahead)
            dual = dual / (dual.square().sum(0).sqrt() / self.weight).clamp(min=1.0)
            before = x
            back = self.forward_map.A_adjoint(data_dual) / norm
            x = x - step * (back + _gradient_adjoint(dual))
            ahead = 2 * x - before
        return x


def _gradient(x: Tensor) -> Tensor:
    down = nn.functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    right = nn.functional.pad(x[..., 1:] - x[..., :-1], (0, 1))
    return torch.stack([down, right])


def _gradient_adjoint(dual: Tensor) -> Tensor:
    down, right = dual[0, ..., :-1, :], dual[1, ..., :-1]
    pad = nn.functional.pad
    return (pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1))) + (
        pad(right, (1, 0)) - pad(right, (0, 1))
    )


def classical(
    task: Task, root: str, count: int, check: data.IndexedDataset, trials: Trials
) -> list[Trained]:
    """Wiener and total variation, their one parameter chosen on the validation images.

    The second moments are those of the first `count` training images.
    """
    images = task.images.whole("train", root)[torch.arange(count)][1].to(trials.device)
    forward = task.forward
    if not isinstance(forward, physics.LinearForward):
        raise TypeError(f"task: {task.name!r} is not linear; classical maps need its adjoint")
    wiener = [Wiener(images, forward, noise) for noise in (0.05, 0.1, 0.2, 0.4)]
    variation = [TotalVariation(forward, weight) for weight in (0.01, 0.03, 0.1, 0.3)]
    candidates: dict[str, Sequence[nn.Module]] = {
        "Wiener": [model.to(trials.device) for model in wiener],
        "TV": variation,
    }
    # a hundred images decide between four weights; total variation takes longer than a network
    few = dataclasses.replace(trials, count=2, images=min(100, trials.images), directions=1)
    found = []
    for name, models in candidates.items():
        arms = [
            Trained(Arm(f"{name} {k}", "classical"), model, 0.0, Spent(), [], 0)
            for k, model in enumerate(models)
        ]
        chosen = arms[best(task, arms, check, few)]
        found.append(dataclasses.replace(chosen, arm=Arm(name, "classical")))
    return found
