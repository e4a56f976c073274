"""Losses of the arms that DRO is compared with: squared error, adversarial training, a penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dro_torch import physics, reconstruction_residual
from dro_torch.keyed_noise import standard_normal
from dro_torch.residual import MovedSamples
from dro_torch.shaped_noise import ShapedNoise
from dro_torch.structure import Structure, as_structure
from validation.mnist.tasks import Map, Residual
from validation.noisy_training import MeanSquaredError


class AdversarialTraining(nn.Module):
    """Mean loss at the ends of projected gradient ascent within a ball for every sample."""

    def __init__(
        self, residual: Residual, structure: str | Structure, radius: float, steps: int = 3
    ) -> None:
        super().__init__()
        self.residual, self.structure, self.radius, self.steps = residual, structure, radius, steps

    def forward(self, model: Map, x: Tensor, y: Tensor) -> Tensor:
        """The attack starts at zero; its displacement is detached."""
        moved = MovedSamples(model, x, y, as_structure(self.structure), self.residual)
        point = torch.zeros(len(x), moved.size, dtype=x.dtype, device=x.device)
        for _ in range(self.steps):
            _, slope = moved.value_and_slope(moved.loss_at, point)
            point = point + 2 * self.radius / self.steps * nn.functional.normalize(slope)
            length = torch.linalg.vector_norm(point, dim=1, keepdim=True)
            point = point * (self.radius / length.clamp(min=self.radius))
        return moved.loss_at(point).mean()


class JacobianPenalty(nn.Module):
    """Mean squared error plus weight · ‖J‖_F², estimated with one random direction.

    J is the Jacobian in the whitened displacement of the structure, in which the input moves.
    """

    def __init__(
        self, residual: Residual, structure: str | Structure = "y|x", weight: float = 0.05
    ) -> None:
        super().__init__()
        self.residual, self.weight, self.structure = residual, weight, as_structure(structure)

    def forward(
        self, model: Map, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """The direction is keyed by the sample."""
        reconstructs = self.residual is reconstruction_residual
        point = (y if reconstructs else x).detach().requires_grad_()
        pair = (x, point) if reconstructs else (point, y)
        residual = self.residual(model, *pair).flatten(1)
        shape = residual.shape
        direction = standard_normal(index, 1, shape[1], seed=seed, step=step, dtype=x.dtype)[:, 0]
        (slope,) = torch.autograd.grad((residual * direction).sum(), point, create_graph=True)
        slope = self.structure.unwhitened(x, y, slope.flatten(1))
        penalty = slope.square().sum(1).mean()
        return residual.square().sum(1).mean() + self.weight * penalty


class Jitter(nn.Module):
    """Mean squared error where the samples are moved by noise of the shape of the ball."""

    def __init__(self, residual: Residual, structure: str | Structure, level: float) -> None:
        super().__init__()
        self.residual, self.noise = residual, ShapedNoise(structure, level)

    def forward(
        self, model: Map, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """The loss of a batch; the noise is keyed by the sample."""
        x, y = self.noise(x, y, index=index, seed=seed, step=step)
        return self.residual(model, x, y).square().flatten(1).sum(1).mean()


class Half(nn.Module):
    """The mean of two losses, each on a half of the batch."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(
        self, model: Map, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """Halves by the position in the batch, so that a step sees as many samples of each."""
        cut = (len(x) + 1) // 2
        losses = [
            loss(model, x[part], y[part], index=index[part], seed=seed, step=step)
            for loss, part in ((self.first, slice(None, cut)), (self.second, slice(cut, None)))
            if len(x[part])
        ]
        return torch.stack(losses).mean()


class PoissonTraining(nn.Module):
    """Mean squared error on measurements with photon noise: every sample at one of some doses.

    A dose is the mean number of photons where the measurement is one.
    """

    def __init__(self, residual: Residual, doses: Sequence[float]) -> None:
        super().__init__()
        self.loss, self.doses = MeanSquaredError(residual), tuple(doses)

    def forward(
        self, model: Map, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """The loss of a batch; counts and doses are drawn by seed and step."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        chosen = torch.randint(len(self.doses), (len(y),), generator=generator)
        noisy = y.clamp(min=0.0)
        for place, dose in enumerate(self.doses):
            at = (chosen == place).nonzero().flatten().to(y.device)
            if len(at):
                noise = physics.PoissonNoise(dose, low=0.0, high=1.0)
                noisy = noisy.index_copy(0, at, noise(noisy[at], generator=generator))
        loss: Tensor = self.loss(model, x, noisy)
        return loss


class Restoring(Protocol):
    """A reconstruction in two stages: a fixed one into images, and a network on them."""

    def start(self, y: Tensor) -> Tensor:
        """The fixed stage."""

    def restore(self, image: Tensor) -> Tensor:
        """The network."""


class ImageJitter(nn.Module):
    """Mean squared error of a network whose input image is noisy: jitter after the fixed stage."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(
        self, model: Restoring, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """The loss of a batch; the noise is keyed by the sample."""
        with torch.no_grad():
            image = model.start(y)
        noise = standard_normal(
            index, 1, image[0].numel(), seed=seed, step=step, dtype=image.dtype
        ).view_as(image)
        residual = x - model.restore(image + self.level * noise)
        return residual.square().flatten(1).sum(1).mean()
