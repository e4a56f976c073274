"""Networks trained by mean squared error on noisy inputs: what every loss is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dro_torch import data, nets, training
from dro_torch.keyed_noise import standard_normal
from dro_torch.residual import Residual, reconstruction_residual


def with_noise(
    value: Tensor, sigma: float, context: training.StepContext, stream: int = 0
) -> Tensor:
    """Gaussian noise on every entry, keyed by the sample and the step."""
    noise = standard_normal(
        context.index,
        1,
        value[0].numel(),
        seed=context.seed,
        step=context.step,
        stream=stream,
        dtype=value.dtype,
    )
    return value + sigma * noise.view_as(value)


class MeanSquaredError(nn.Module):
    """Mean over samples of the squared norm of the residual."""

    def __init__(self, residual: Residual = reconstruction_residual) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch."""
        return self.residual(model, x, y).float().square().flatten(1).sum(1).mean()


def squared_errors(model: nn.Module, x: Tensor, y: Tensor, part: int = 250) -> Tensor:
    """Squared norms of the residuals of all samples, a part at a time, in double precision."""
    with torch.no_grad():
        parts = zip(x.split(part), y.split(part), strict=True)
        return torch.cat([(a - model(b)).square().flatten(1).sum(1).double() for a, b in parts])


def fit_with_noise(
    network: nn.Module,
    dataset: data.IndexedDataset,
    sigma: float,
    *,
    steps: int,
    batch: int,
    seed: int,
    device: str = "cpu",
    folder: Path | None = None,
    loss: nn.Module | None = None,
) -> nn.Module:
    """Train on (x, y), or on x alone where that is its own measurement; frozen.

    By mean squared error, if no other loss is given.
    """

    def noisy(given: Sequence[Tensor], context: training.StepContext) -> tuple[Tensor, Tensor]:
        return given[0], with_noise(given[-1], sigma, context)

    training.fit(
        training.reconstruction_phase(network, loss or MeanSquaredError(), pairs=noisy, rate=3e-3),
        data.Batches(dataset, batch, seed),
        steps,
        seed=seed,
        warmup=steps // 20,
        device=device,
        folder=folder,
        progress=folder is None,
        config={"noise": sigma},
    )
    return nets.frozen(network)
