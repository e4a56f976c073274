"""Benchmark of the multiplier: learned together with the map, against bisection over it.

Gradient evaluations until the exact worst-case risk of the map is within one per cent of the least
there is, on a linear problem whose optimal multiplier is at least four times the threshold.
Both know the bracket [λ*/30, 30 λ*], start at the zero map, use the same loss and the best of
several rates. Bisection stops where its interval is as wide as the multipliers that are within the
tolerance, and trains every candidate for

* as few steps as this oracle allows ("tuned": nobody knows that number), or
* as long as the training at λ* itself needs ("solved": every candidate's problem is solved).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dro_core import LinearFit, LinearReconstruction, entropic_worst_case, fit_linear
from dro_core.types import Array
from dro_torch.losses.entropic import EntropicDROLoss, EstimatorWarning
from dro_torch.multiplier import Multiplier, StochasticDescent, bisect_multiplier
from dro_torch.nets import LinearMap
from validation.results import Check, at_least, progress, table, write_csv

if TYPE_CHECKING:
    from validation.benchmarks.torch_settings import Config

TOLERANCE, SPREAD = 0.01, 30.0
RATES = {"adam": (0.03, 0.1), "mirror-descent": (0.3, 0.6)}
#: Training lengths that are tried.
LENGTHS = (1, 2, 3, 5, 8, 12, 20, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 800)


@dataclass(frozen=True)
class RobustRegression:
    """Noisy linear data, and the best linear map of the entropic worst case."""

    x: Array
    y: Array
    radius: float
    epsilon: float
    seed: int

    @classmethod
    def drawn(cls, seed: int, size: int = 8, samples: int = 128) -> RobustRegression:
        """y = Ax + noise with singular values of A between 1 and 1/20."""
        rng = np.random.default_rng(seed)
        left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
        A = left * np.geomspace(1.0, 0.05, size) @ right
        x = rng.standard_normal((samples, size))
        y = x @ A.T + 0.1 * rng.standard_normal((samples, size))
        return cls(x, y, radius=0.05, epsilon=0.02, seed=seed)

    @cached_property
    def best(self) -> LinearFit:
        """The certified optimum."""
        return fit_linear(x=self.x, y=self.y, radius=self.radius, epsilon=self.epsilon)

    def excess(self, model: LinearMap) -> float:
        """Exact worst-case risk of a map over the smallest, minus one."""
        matrix = model.matrix()
        if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1e6:
            return math.inf
        worst = entropic_worst_case(matrix, self.x, self.y, self.radius, self.epsilon)
        return worst.risk / self.best.risk - 1.0

    def width(self) -> float:
        """Length of the interval of multipliers within the tolerance at the best map."""
        best, problem = self.best, LinearReconstruction(self.best.matrix, self.x, self.y)
        least = float(np.linalg.norm(best.matrix, 2) ** 2) / best.multiplier
        inside = [
            factor
            for factor in np.geomspace(least * (1 + 1e-9), SPREAD, 400)
            if problem.dual_value(factor * best.multiplier, self.radius, epsilon=self.epsilon)
            <= (1 + TOLERANCE) * best.risk
        ]
        return float((max(inside) - min(inside)) * best.multiplier)

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """x and y as tensors."""
        return torch.from_numpy(self.x), torch.from_numpy(self.y)

    def start(self) -> LinearMap:
        """The zero map."""
        return LinearMap(np.zeros((self.x.shape[1], self.y.shape[1])), dtype=torch.float64)

    def loss(self) -> EntropicDROLoss:
        """Eight plain draws."""
        return EntropicDROLoss(self.epsilon, samples=8)

    def objective(self, model: nn.Module, multiplier: float, step: int) -> Tensor:
        """The estimated objective at a fixed multiplier."""
        value: Tensor = self.loss()(model, *self.batch, multiplier, seed=self.seed, step=step)
        return value


def learned(
    problem: RobustRegression,
    start: float,
    rate: float,
    lengths: Sequence[int],
    *,
    trainable: bool = True,
) -> float:
    """Fewest steps of Adam from a multiplier that end within the tolerance; infinite if none."""
    model, loss = problem.start(), problem.loss()
    multiplier = Multiplier(problem.radius, start, trainable=trainable)
    optimiser = torch.optim.Adam([*model.parameters(), *multiplier.parameters()], lr=rate)
    for step in range(1, lengths[-1] + 1):
        optimiser.zero_grad()
        value = loss(model, *problem.batch, multiplier(), seed=problem.seed, step=step)
        (value + multiplier.penalty()).backward()
        optimiser.step()
        if step in lengths and problem.excess(model) <= TOLERANCE:
            return step
    return math.inf


def solved(problem: RobustRegression, optimiser: Any, rate: float, lengths: Sequence[int]) -> float:
    """Fewest steps of one training at λ* that end within the tolerance; infinite if none."""
    for steps in lengths:
        model = problem.start()
        train = StochasticDescent(problem.objective, optimiser, rate)
        try:
            train(model, problem.best.multiplier, steps)
        except FloatingPointError:
            return math.inf
        if problem.excess(model) <= TOLERANCE:
            return steps
    return math.inf


def bisected(
    problem: RobustRegression, optimiser: Any, rate: float, steps: int
) -> tuple[float, int]:
    """How far above the optimum bisection ends, and its gradient evaluations."""
    model, best = problem.start(), problem.best.multiplier
    train = StochasticDescent(problem.objective, optimiser, rate)

    def evaluate(model: Any, multiplier: float) -> float:
        with torch.no_grad():
            value = float(problem.objective(model, multiplier, 10**9))
        return value + multiplier * problem.radius**2

    try:
        bisect_multiplier(
            model,
            train,
            evaluate,
            low=best / SPREAD,
            high=best * SPREAD,
            tolerance=problem.width(),
            steps=steps,
            last_steps=steps,
        )
        excess = problem.excess(model)
    except (FloatingPointError, ValueError):  # it diverged
        excess = math.inf
    return excess, train.gradient_evaluations


def fewest(
    problem: RobustRegression, optimiser: Any, rate: float, lengths: Sequence[int]
) -> tuple[float, float]:
    """Steps per candidate, of those given, with which bisection succeeds, and its evaluations."""
    for steps in lengths:
        excess, evaluations = bisected(problem, optimiser, rate, steps)
        if excess <= TOLERANCE:
            return steps, evaluations
    return math.inf, math.inf


def multiplier_rows(config: Config, out: Path) -> list[Check]:
    """Joint learning from three starts (the worst counts) against bisection at its best rate."""
    problem = RobustRegression.drawn(config.seed)
    best = problem.best
    threshold = float(np.linalg.norm(best.matrix, 2) ** 2)
    print(
        f"smallest worst-case risk {best.risk:.5f} (saddle gap {best.gap:.1e}) at λ* = "
        f"{best.multiplier:.4g} = {best.multiplier / threshold:.2f} σ²; multipliers within "
        f"{TOLERANCE:.0%}: an interval of {problem.width() / best.multiplier:.2f} λ*"
    )
    lengths = [n for n in LENGTHS if n <= config.steps]
    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        for rate in RATES["adam"]:
            found = [
                learned(problem, best.multiplier * factor, rate, lengths)
                for factor in (1 / SPREAD, 1.0, SPREAD)
            ]
            rows.append(
                {"loop": "joint, adam", "rate": rate, "steps": found, "evaluations": max(found)}
            )
        for name, rate in progress([(n, r) for n in RATES for r in RATES[n]], "bisection"):
            alone = solved(problem, name, rate, lengths)
            tried = {
                "solved": [int(alone)] if alone < math.inf else [],
                "tuned": [steps for steps in lengths if steps <= alone],
            }
            for kind, candidates in tried.items():
                steps, evaluations = fewest(problem, name, rate, candidates)
                rows.append(
                    {
                        "loop": f"bisection, {name}, {kind}",
                        "rate": rate,
                        "steps": steps,
                        "evaluations": evaluations,
                    }
                )
    write_csv(out / "multiplier.csv", rows)
    print(table([list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]))

    def least(loop: str) -> float:
        return float(min(row["evaluations"] for row in rows if row["loop"] == loop))

    checks = [at_least("linear problem: λ* / σ² of its best map", best.multiplier / threshold, 4.0)]
    for name in RATES:
        for kind in ("solved", "tuned"):
            claim = f"gradient evaluations: bisection, {name}, {kind} / joint learning"
            ratio = least(f"bisection, {name}, {kind}") / least("joint, adam")
            checks.append(at_least(claim, ratio, 10.0))
    return checks
