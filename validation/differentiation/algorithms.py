"""The algorithms on the unreduced matrix, judged by the exact worst case of their maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dro_core import LinearFit, entropic_worst_case, fit_linear
from dro_core.types import Array
from validation.differentiation.data import Data, draw
from validation.differentiation.settings import ADAM, MIRROR, QUASI, STEEPEST, Config
from validation.results import progress
from validation.seed_algorithm import (
    Adam,
    Bisection,
    MirrorDescent,
    Sampling,
    Trajectory,
    full_gradient,
    monte_carlo_potential,
    random_start,
    seed_algorithm,
)
from validation.tables import Row, number


def start_map(config: Config) -> Array:
    """The random start of every algorithm."""
    return random_start(np.random.default_rng([config.seed, 100]), config.size, config.size)


def trajectories(config: Config, data: Data, epsilon: float) -> Iterator[Trajectory]:
    """Every algorithm on the unreduced matrix from one random start."""
    problem = start_map(config), data.x, data.y, config.radius, epsilon
    yield full_gradient(QUASI, *problem, config.gradient_steps, memory=20)
    yield full_gradient(STEEPEST, *problem, config.gradient_steps)
    sampling = Sampling(config.batch, config.draws, config.evaluation_draws)
    bisection = Bisection(
        config.low_multiplier,
        config.high_multiplier,
        config.tolerance,
        config.steps,
        config.last_steps,
    )
    for name, method in (
        (MIRROR, MirrorDescent(config.mirror_step, data.y)),
        (ADAM, Adam(config.adam_rate)),
    ):
        rng = np.random.default_rng([config.seed, 101])
        yield seed_algorithm(name, *problem, method, sampling, bisection, rng)


def judged(
    config: Config, data: Data, epsilon: float, trajectory: Trajectory, best: float
) -> list[Row]:
    """Exact worst-case risk of about 60 maps on the way, relative to the optimum."""
    count = len(trajectory.maps)
    rows: list[Row] = []
    for k in np.unique(np.geomspace(1, count, 60).astype(int)) - 1:
        worst = entropic_worst_case(trajectory.maps[k], data.x, data.y, config.radius, epsilon)
        rows.append(
            {
                "epsilon": epsilon,
                "method": trajectory.name,
                "step": trajectory.steps[k],
                "seconds": trajectory.seconds[k],
                "multiplier": trajectory.multipliers[k],
                "exact_multiplier": worst.multiplier,
                "risk": worst.risk,
                "excess": worst.risk / best - 1,
            }
        )
    return rows


def ending(
    config: Config, data: Data, fit: LinearFit, trajectory: Trajectory, rows: list[Row]
) -> Row:
    """Where a method ends; also by the paper's own estimate, beside the estimate at the optimum."""
    rng = np.random.default_rng([config.seed, 102])
    noise = rng.standard_normal((len(data.x), config.evaluation_draws, config.size))

    def estimate(B: Array, multiplier: float) -> float:
        value, _ = monte_carlo_potential(B, data.x, data.y, noise, multiplier, fit.epsilon)
        return multiplier * config.radius**2 + value

    values = np.linalg.svd(trajectory.final, compute_uv=False)
    return {
        **rows[-1],
        "lowest_excess": min(number(row, "excess") for row in rows),
        "optimal_multiplier": fit.multiplier,
        "estimate": estimate(trajectory.final, number(rows[-1], "multiplier")),
        "estimate_at_optimum": estimate(fit.matrix, fit.multiplier),
        "optimal_risk": fit.risk,
        "singular_value K": float(values[config.modes - 1]),
        "singular_value K+1": float(values[config.modes]),
    }


def estimate_rows(config: Config) -> list[Row]:
    """Monte-Carlo estimate of the dual's potential at the exact optimum, for several ε."""
    data, rows = draw(config, 0, config.samples, config.modes), list[Row]()
    weights = np.geomspace(config.epsilon, config.large_epsilon, 5)
    for epsilon in progress(list(weights), "Monte-Carlo estimate"):
        fit = fit_linear(x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        exact = fit.risk - fit.multiplier * config.radius**2
        for draws in (1, 8, 64):
            rng = np.random.default_rng([config.seed, 103, draws])
            ratios = [
                monte_carlo_potential(
                    fit.matrix,
                    data.x,
                    data.y,
                    rng.standard_normal((len(data.x), draws, config.size)),
                    fit.multiplier,
                    epsilon,
                )[0]
                / exact
                - 1
                for _ in range(3)
            ]
            rows.append(
                {
                    "epsilon": float(epsilon),
                    "draws": draws,
                    "multiplier_over_threshold": fit.multiplier
                    / float(fit.singular_values[0]) ** 2,
                    "bias": float(np.mean(ratios)),
                    "deviation": float(np.std(ratios, ddof=1)),
                }
            )
    return rows
