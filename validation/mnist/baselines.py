"""Classical baselines, the choice of settings on validation data, and the paper's bisection."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dro_torch import EntropicDROLoss, StochasticDescent, bisect_multiplier, data, nets
from validation.mnist.common import (
    Arm,
    Config,
    Task,
    Trained,
    description,
    digits,
    fit_arm,
    measure,
    stored,
)
from validation.results import progress, write_json


class Wiener(nn.Module):
    r"""The linear map of least mean squared error at white noise of variance σ².

    .. math:: B = C A^\top (A C A^\top + \sigma^2 I)^{-1}, \qquad C = E\,xx^\top

    with the second moments of the training images.
    """

    def __init__(self, images: Tensor, forward: Any, noise: float) -> None:
        super().__init__()
        x = images.flatten(1).double()
        y = forward(images.double()).flatten(1)
        moment = y.T @ y / len(y)
        moment.diagonal().add_(noise**2 + 1e-6)
        matrix = torch.linalg.solve(moment, y.T @ x / len(x)).T
        self.map = nets.LinearMap(matrix.cpu().numpy(), output_shape=tuple(images.shape[1:]))

    def forward(self, y: Tensor) -> Tensor:
        """Apply the map."""
        return self.map(y)

    def lipschitz_bound(self, bounds: Any) -> float:
        """That of the map."""
        return float(bounds(self.map))


class TotalVariation(nn.Module):
    r"""Minimiser of :math:`\tfrac12\|Ax - y\|^2 + w\,\mathrm{TV}(x)`, by primal-dual steps.

    Chambolle and Pock (2011), isotropic, with :math:`\|A\| \le 1` and steps that their condition
    allows: :math:`\tau\sigma(\|A\|^2 + 8) \le 1`.
    """

    def __init__(self, forward: Any, weight: float, iterations: int = 100) -> None:
        super().__init__()
        self.forward_map, self.weight, self.iterations = forward, weight, iterations

    def forward(self, y: Tensor) -> Tensor:
        """Minimise for every image of a batch."""
        step = 1.0 / 3.0
        x = torch.zeros_like(y)
        ahead, data_dual = x, torch.zeros_like(y)
        dual = torch.zeros(2, *y.shape, dtype=y.dtype, device=y.device)
        for _ in range(self.iterations):
            data_dual = (data_dual + step * (self.forward_map(ahead) - y)) / (1 + step)
            dual = dual + step * _gradient(ahead)
            dual = dual / (dual.square().sum(0).sqrt() / self.weight).clamp(min=1.0)
            before = x
            x = x - step * (self.forward_map.A_adjoint(data_dual) + _gradient_adjoint(dual))
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


def classical(config: Config, task: Task, check: data.IndexedDataset) -> list[Trained]:
    """Wiener and total variation, their one parameter chosen on the validation images."""
    learn = data.IndexedDataset(data.mnist("train", config.data or None).images)
    images = learn[torch.arange(min(config.size.images, 5000))][1].to(config.device)
    wiener = [Wiener(images, task.forward, noise) for noise in (0.05, 0.1, 0.2, 0.4)]
    variation = [TotalVariation(task.forward, weight) for weight in (0.01, 0.03, 0.1, 0.3)]
    candidates: dict[str, Sequence[nn.Module]] = {
        "Wiener": [model.to(config.device) for model in wiener], "TV": variation,
    }  # fmt: skip
    found = []
    for name, models in candidates.items():
        arms = [Trained(Arm(f"{name} {k}", "classical"), model, 0.0, 0.0, [], 0)
                for k, model in enumerate(models)]  # fmt: skip
        best = arms[_best(config, task, arms, check)]
        found.append(dataclasses.replace(best, arm=Arm(name, "classical")))
    return found


def _best(config: Config, task: Task, arms: Sequence[Trained], check: data.IndexedDataset) -> int:
    """The arm with the smallest RMSE on validation images, averaged over the Gaussian noise."""
    rows = measure(config, task, arms, check)
    scores = [sum(row["rmse"] for row in rows if row["arm"] == arm.arm.name) for arm in arms]
    return scores.index(min(scores))


def selected(config: Config, task: Task, out: Path) -> Config:
    """ε, ρ̄ and the baseline's noise chosen on validation images, with equally many candidates.

    Each candidate is trained for a tenth of the steps; the score is the RMSE averaged over the
    noise levels. The test images are not looked at.
    """
    size = config.size
    learn, check, _ = digits(config)
    grid = [(e, r) for e in (0.02, 0.08, 0.18) for r in (0.5, 1.0, 2.0)]
    noises = [0.05 + 0.4 * k / (len(grid) - 1) for k in range(len(grid))]
    share = 0.1
    dro = [Arm(f"select DRO {e:g} {r:g}", "entropic", epsilon=e, radius=r, steps_share=share)
           for e, r in grid]  # fmt: skip
    mse = [Arm(f"select MSE {s:g}", "mse", noise=s, steps_share=share) for s in noises]
    trained = [
        fit_arm(config, task, arm, learn, out) for arm in progress([*dro, *mse], "selection")
    ]
    epsilon, radius = grid[_best(config, task, trained[: len(grid)], check)]
    noise = noises[_best(config, task, trained[len(grid) :], check)]
    chosen = {"epsilon": epsilon, "radius": radius, "noise": noise}
    write_json(
        out / "selection.json", {**chosen, "candidates": len(grid), "steps": share * size.steps}
    )
    return dataclasses.replace(config, epsilon=epsilon, radius=radius, noise=noise)


def bisected(
    config: Config, task: Task, learned: Trained, out: Path
) -> tuple[Trained, dict[str, float]]:
    """The same network with λ bisected as in the paper, and what both ways took.

    The interval is [λ/4, 4λ] around the learned multiplier; every candidate trains for a fifth of
    the steps, the last run for all of them. The objective is the dual's on validation images.
    """
    size = config.size
    learn, check, _ = digits(config)
    arm = Arm("bisected", "entropic", epsilon=config.epsilon, radius=config.radius)
    described = {**description(config, task, learn, arm), "around": f"{learned.multiplier:.6g}"}
    folder = stored(out, f"{task.name}-bisected-{config.preset}-{config.seed}", described)
    model = task.network(size, torch.Generator().manual_seed(config.seed)).to(config.device)
    loss = EntropicDROLoss(config.epsilon, task.structure, size.samples, residual=task.residual)
    batches = data.Batches(learn, min(size.batch, len(learn)), config.seed)
    forward = task.forward.to(config.device)
    images = check[torch.arange(min(len(check), 200))]

    def objective(network: nn.Module, lam: float, step: int) -> Tensor:
        index, x = batches.batch(step)
        x = x.to(config.device)
        return loss(network, x, forward(x), lam, index=index, seed=config.seed, step=step)

    def validated(network: nn.Module, lam: float) -> float:
        with torch.no_grad():
            x = images[1].to(config.device)
            value = loss(network, x, forward(x), lam, index=images[0], seed=config.seed, step=10**9)
        return float(value) + lam * config.radius**2

    train = StochasticDescent(objective, "adam", config.rate)
    steps = max(1, size.steps // 5)
    saved = folder / "model.pt"
    start = time.perf_counter()
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        multiplier, evaluations, seconds = (
            state["multiplier"],
            state["evaluations"],
            state["seconds"],
        )
    else:
        low, high = learned.multiplier / 4, 4 * learned.multiplier
        found = bisect_multiplier(
            model, train, validated, low=low, high=high, tolerance=(high - low) / 8, steps=steps,
            last_steps=size.steps,
        )  # fmt: skip
        multiplier, evaluations = found.multiplier, train.gradient_evaluations
        seconds = time.perf_counter() - start
        folder.mkdir(parents=True, exist_ok=True)
        part = saved.with_suffix(".part")
        torch.save({"model": model.state_dict(), "multiplier": multiplier,
                    "evaluations": evaluations, "seconds": seconds}, part)  # fmt: skip
        part.replace(saved)
    model.eval()
    value = validated(model, multiplier)
    found_arm = Trained(Arm("DRO bisected", "entropic"), model, multiplier, seconds,
                        [{"loss": value}], evaluations)  # fmt: skip
    return found_arm, {
        "objective, learned": validated(learned.model, learned.multiplier),
        "objective, bisected": value,
        "gradient evaluations, learned": float(learned.gradient_evaluations),
        "gradient evaluations, bisected": float(evaluations),
        "seconds, learned": learned.seconds, "seconds, bisected": seconds,
        "multiplier, learned": learned.multiplier, "multiplier, bisected": multiplier,
    }  # fmt: skip
