"""What is chosen on validation images: ε, ρ̄, noise, and λ by the paper's bisection."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dro_torch import EntropicDROLoss, StochasticDescent, bisect_multiplier, data
from validation.mnist.arms import (
    Arm,
    Trained,
    Training,
    description,
    fit_arm,
    train_side_by_side,
)
from validation.mnist.measure import Trials, measure, models_of
from validation.mnist.settings import Config
from validation.mnist.tasks import Splits, Task
from validation.results import progress, write_json
from validation.tables import Row
from validation.trainings import Spent, clocked, spent, stored

#: The arm with the bisected multiplier.
BISECTED = "DRO bisected"
#: Share of the steps that a candidate is trained for.
TUNING_SHARE = 0.1
#: How often the interval of λ is halved, and the share of the steps for each of its candidates.
HALVINGS, CANDIDATE_SHARE = 3, 0.2


def best(task: Task, arms: Sequence[Trained], check: data.IndexedDataset, trials: Trials) -> int:
    """The arm with the smallest RMSE on validation images, averaged over the Gaussian noise."""
    rows = measure(models_of(arms), task, check, trials)
    scores = [sum(float(r["rmse"]) for r in rows if r["arm"] == arm.arm.name) for arm in arms]
    return scores.index(min(scores))


def chosen(
    tried: Sequence[tuple[str, float, Training]],
    learn: data.IndexedDataset,
    score: Callable[[Trained], float],
    measured: str,
    out: Path,
) -> dict[str, float]:
    """The value of the smallest score of every family, of trainings (family, value, training).

    They are trained side by side where that is asked for; the scores are written to `out`.
    """
    train_side_by_side([training for *_, training in tried], out)
    scores: dict[str, dict[float, float]] = {family: {} for family, *_ in tried}
    for family, value, (config, task, arm) in progress(tried, "selection"):
        scores[family][value] = score(fit_arm(config, task, arm, learn, out))
    best_of = {family: min(own, key=own.__getitem__) for family, own in scores.items()}
    listed = {f"{family} {v:g}": s for family, own in scores.items() for v, s in own.items()}
    write_json(out / "selection.json", {"chosen": best_of, measured: listed})
    return best_of


def candidates() -> tuple[list[tuple[float, float]], list[float]]:
    """(ε, ρ̄) of the DRO arms, and as many standard deviations for the baseline."""
    grid = [(e, r) for e in (0.02, 0.08, 0.18) for r in (0.5, 1.0, 2.0)]
    return grid, [0.05 + 0.4 * k / (len(grid) - 1) for k in range(len(grid))]


def tuning_arms(grid: Sequence[tuple[float, float]], noises: Sequence[float]) -> list[Arm]:
    """The DRO candidates, then those of the baseline."""
    dro = [
        Arm(f"select DRO {e:g} {r:g}", "entropic", epsilon=e, radius=r, steps_share=TUNING_SHARE)
        for e, r in grid
    ]
    mse = [Arm(f"select MSE {s:g}", "mse", noise=s, steps_share=TUNING_SHARE) for s in noises]
    return [*dro, *mse]


def selected(config: Config, task: Task, images: Splits, out: Path) -> Config:
    """ε, ρ̄ and the baseline's noise chosen on validation images, with equally many candidates.

    Each candidate is trained for a tenth of the steps; the score is the RMSE averaged over the
    noise levels. The test images are not looked at.
    """
    grid, noises = candidates()
    arms = tuning_arms(grid, noises)
    train_side_by_side([(config, task, arm) for arm in arms], out)
    trained = [fit_arm(config, task, arm, images.learn, out) for arm in progress(arms, "selection")]
    trials = Trials.of(config)
    epsilon, radius = grid[best(task, trained[: len(grid)], images.check, trials)]
    noise = noises[best(task, trained[len(grid) :], images.check, trials)]
    chosen = {"epsilon": epsilon, "radius": radius, "noise": noise}
    tried = {"candidates": len(grid), "steps": TUNING_SHARE * config.size.steps}
    write_json(out / "selection.json", {**chosen, **tried})
    return dataclasses.replace(config, epsilon=epsilon, radius=radius, noise=noise)


class Dual:
    """The entropic dual at a fixed multiplier, on batches and on validation images."""

    def __init__(self, config: Config, task: Task) -> None:
        self.loss = EntropicDROLoss(
            config.epsilon, task.structure, config.size.samples, residual=task.residual
        )
        self.forward = task.forward.to(config.device)
        self.radius, self.seed, self.device = config.radius, config.seed, config.device

    def __call__(
        self, network: nn.Module, lam: float, images: Sequence[Tensor], step: int
    ) -> Tensor:
        """Without λρ²."""
        index, x = images[0], images[1].to(self.device)
        value: Tensor = self.loss(
            network, x, self.forward(x), lam, index=index, seed=self.seed, step=step
        )
        return value

    def validated(self, network: nn.Module, lam: float, check: data.IndexedDataset) -> float:
        """On the first 200 validation images, with λρ²."""
        images = check[torch.arange(min(len(check), 200))]
        with torch.no_grad():
            value = self(network, lam, images, 10**9)
        return float(value) + lam * self.radius**2


@dataclasses.dataclass
class Bisected:
    """What is stored of a bisection."""

    multiplier: float
    evaluations: int
    seconds: float = 0.0  #: models that were stored before `validation.trainings`


def bisection_cost(config: Config) -> Arm:
    """What a bisection costs, as an arm: its candidates (see `bisect_interval`) and a last run."""
    share = (3 + HALVINGS) * CANDIDATE_SHARE + 1.0
    return Arm(
        BISECTED, "entropic", epsilon=config.epsilon, radius=config.radius, steps_share=share
    )


class Kept:
    """The trainings of a bisection, each read from its file when it has been done before."""

    def __init__(self, train: StochasticDescent, folder: Path) -> None:
        self.train, self.folder, self.count = train, folder, 0

    def __call__(self, network: nn.Module, lam: float, steps: int) -> None:
        """Train in place, or load what this training, the next in order, ended with."""
        path = self.folder / f"candidate-{self.count}.pt"
        self.count += 1
        if path.exists():
            state = torch.load(path, weights_only=True)
            if (state["multiplier"], state["steps"]) == (lam, steps):
                network.load_state_dict(state["model"])
                self.train.gradient_evaluations = state["evaluations"]
                return
        self.train(network, lam, steps)
        evaluations = self.train.gradient_evaluations
        numbers = {"multiplier": lam, "steps": steps, "evaluations": evaluations}
        write_state(path, {"model": network.state_dict(), **numbers})


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Save in one piece or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def bisected(config: Config, task: Task, learned: Trained, out: Path) -> Trained:
    """The same network with λ bisected as in the paper.

    The interval is [λ/4, 4λ] around the learned multiplier; every candidate trains for a fifth of
    the steps, the last run for all of them. The objective is the dual's on validation images.
    """
    size, dual = config.size, Dual(config, task)
    learn, check, _ = task.images.splits(config)
    arm = Arm("bisected", "entropic", epsilon=config.epsilon, radius=config.radius)
    described = {**description(config, task, learn, arm), "around": f"{learned.multiplier:.6g}"}
    folder = stored(
        Path(config.models or out), f"{task.name}-bisected-{config.preset}-{config.seed}", described
    )
    model = task.network(size, torch.Generator().manual_seed(config.seed)).to(config.device)
    batches = data.Batches(learn, min(size.batch, len(learn)), config.seed)

    def objective(network: nn.Module, lam: float, step: int) -> Tensor:
        return dual(network, lam, batches.batch(step), step)

    def validated(network: nn.Module, lam: float) -> float:
        return dual.validated(network, lam, check)

    saved = folder / "model.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state.pop("model"))
        found = Bisected(**state)
    else:
        train = StochasticDescent(objective, "adam", config.rate)
        low, high = learned.multiplier / 4, 4 * learned.multiplier
        with clocked(folder) as finish:
            answer = bisect_multiplier(
                model,
                Kept(train, folder),
                validated,
                low=low,
                high=high,
                tolerance=(high - low) / 2**HALVINGS,
                steps=max(1, round(size.steps * CANDIDATE_SHARE)),
                last_steps=size.steps,
            )
            finish()
        found = Bisected(answer.multiplier, train.gradient_evaluations)
        write_state(saved, {"model": model.state_dict(), **dataclasses.asdict(found)})
        for candidate in folder.glob("candidate-*.pt"):
            candidate.unlink()
    model.eval()
    history = [{"loss": validated(model, found.multiplier)}]
    shown = Arm(BISECTED, "entropic")
    taken = spent(folder)
    if not taken.finished:
        taken = Spent(found.seconds, math.nan, True)
    return Trained(shown, model, found.multiplier, taken, history, found.evaluations)


def bisection_rows(
    config: Config, task: Task, check: data.IndexedDataset, learned: Trained, bisected: Trained
) -> list[Row]:
    """What the learned and the bisected multiplier took, and the objective that they reach."""
    dual, ways = Dual(config, task), {"learned": learned, "bisected": bisected}

    def objective(arm: Trained) -> float:
        return dual.validated(arm.model, arm.multiplier, check)

    numbers: dict[str, Callable[[Trained], float]] = {
        "objective": objective,
        "gradient evaluations": lambda arm: float(arm.gradient_evaluations),
        "seconds": lambda arm: arm.spent.seconds,
        "multiplier": lambda arm: arm.multiplier,
    }
    return [
        {"quantity": f"{quantity}, {name}", "value": number(arm)}
        for quantity, number in numbers.items()
        for name, arm in ways.items()
    ]
