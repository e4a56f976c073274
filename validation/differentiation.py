r"""Section 6.2: learning to differentiate, exactly and by the paper's algorithm.

The forward operator is the cumulative integral, signals are random series of K sine modes, training
data have no noise, and the inverse is a matrix. The entropic y|x worst-case risk is minimised by

* `fit_linear`: exact, certified, in the data's own subspace;
* descent along the exact gradient on the whole matrix from a random start;
* the paper's algorithm (Monte-Carlo dual, stochastic steps, bisected multiplier), the same start;

all judged by the exact worst case of their maps, beside Tikhonov regularisation and least squares.
Tables and figures follow the paper's Figures 4 and 5; a table of claims says of each of the paper's
sentences which number we find and whether it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import LinearFit, entropic_worst_case, fit_linear, worst_case_risk
from dro_core.checks import Array
from dro_core.operators import Integration
from validation.benchmarks.timing import median_seconds
from validation.errors import UsageError
from validation.results import (
    Check,
    at_least,
    at_most,
    new_figure,
    progress,
    provenance,
    save_figure,
    table,
    write_csv,
    write_json,
)
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
from validation.settings import Settings, setting

EXACT = "exact DRO, radius {:g}"
QUASI, STEEPEST = "full gradient, L-BFGS", "full gradient, steepest descent"
MIRROR, ADAM = "paper's algorithm, mirror descent", "paper's algorithm, Adam"
LEAST_SQUARES, RANDOM_START = "least squares, smallest norm", "least squares from random start"
CLEAN, NOISY = "Tikhonov, chosen without noise", "Tikhonov, chosen at noise {:g}"
ORACLE = "Tikhonov, chosen at each noise level"
#: A singular value below this share of the one before it is a drop.
DROP = 0.1
#: Two RMSE are comparable, in shares of the signals' root mean square.
COMPARABLE = 0.05
#: A relative change of a risk or an RMSE that counts as none.
UNCHANGED = 0.01
#: An RMSE below this share of the signals' root mean square counts as zero.
NEGLIGIBLE = 0.0025


def is_odd(number: int) -> bool:
    """Whether it is."""
    return number % 2 == 1


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the differentiation experiment (all of them this project's choice)."""

    size: int = setting(64, "grid points n", low=1)
    modes: int = setting(10, "sine modes K of the main problem", low=1)
    more_modes: int = setting(20, "sine modes of the second problem", low=1)
    samples: int = setting(
        500, "training signals N", low="size", why=", so that data with a tail have full rank"
    )
    small_radius: float = setting(0.1, "smaller adjusted radius", above=0, high=1e6)
    radius: float = setting(
        0.5, "larger adjusted radius; the one of the algorithms", above="small_radius", high=1e6
    )
    epsilon: float = setting(1e-3, "entropy weight", above=0, high=1e6)
    large_epsilon: float = setting(
        0.1, "second entropy weight for the algorithms", above="epsilon", high=1e6
    )
    tail: float = setting(
        0.003, "standard deviation of the modes beyond K in the data with a tail", above=0, high=1e6
    )
    trials: int = setting(5, "independent trials of test signals and noise (at least 5)", low=5)
    test_samples: int = setting(200, "test signals per trial, and validation signals", low=1)
    smallest_noise: float = setting(
        0.003, "noise levels: none, then from this ...", above=0, high=1e6
    )
    largest_noise: float = setting(
        0.3,
        "... in geometric progression to this (per grid point)",
        above="smallest_noise",
        high=1e6,
    )
    noise_levels: int = setting(5, "how many of them, odd", low=3, rule=(is_odd, "odd numbers"))
    directions: int = setting(20, "stability: random directions (at least 10)", low=10)
    perturbation: float = setting(
        0.01, "stability: length eta of the perturbation", above=0, high=1e6
    )
    batch: int = setting(32, "paper's algorithm: samples per step", low=1)
    draws: int = setting(16, "paper's algorithm: Monte-Carlo draws per sample and step", low=1)
    evaluation_draws: int = setting(
        32, "paper's algorithm: draws where objectives are compared", low=1
    )
    low_multiplier: float = setting(
        50.0, "paper's algorithm: the bisection runs from this ...", above=0, high=1e6
    )
    high_multiplier: float = setting(
        1000.0, "paper's algorithm: ... to this", above="low_multiplier", high=1e6
    )
    tolerance: float = setting(
        0.05, "paper's algorithm: last width of the interval / first", low=1e-3, below=1
    )
    steps: int = setting(500, "paper's algorithm: steps at every candidate multiplier", low=1)
    last_steps: int = setting(6000, "paper's algorithm: steps at the chosen one", low=1)
    mirror_step: float = setting(
        1.0, "mirror descent: first step times the curvature of the MSE", above=0, high=1e6
    )
    adam_rate: float = setting(0.003, "Adam: learning rate", above=0, high=1e6)
    gradient_steps: int = setting(1500, "full gradient: iterations", low=1)
    seed: int = setting(0, "seed of signals, noise, start and draws", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.modes < self.more_modes < self.size:
            raise UsageError(
                f"--set modes: {self.modes}, more_modes: {self.more_modes}, size: {self.size}; "
                "allowed: 2 <= modes < more_modes < size"
            )

    @property
    def levels(self) -> list[float]:
        """Noise levels of the test data, the first one zero."""
        steps = np.geomspace(self.smallest_noise, self.largest_noise, self.noise_levels)
        return [0.0, *map(float, steps)]


# --- data -------------------------------------------------------------------------------------


def signals(config: Config, rng: np.random.Generator, count: int, modes: int, tail: float) -> Array:
    r""":math:`x(t) = \sum_k c_k \sin(\pi k t)` on the grid i/n; c standard normal up to k = modes.

    Beyond, the coefficients have standard deviation `tail`.
    """
    k, grid = np.arange(1, config.size + 1), np.arange(1, config.size + 1) / config.size
    spread = np.where(k <= modes, 1.0, tail)
    return (rng.standard_normal((count, config.size)) * spread) @ np.sin(np.pi * np.outer(k, grid))


@dataclass(frozen=True)
class Data:
    """Signals and their cumulative integrals, without noise."""

    x: Array
    y: Array
    modes: int
    tail: float


def draw(config: Config, purpose: int, count: int, modes: int, tail: float = 0.0) -> Data:
    """Data of one purpose: 0 training, 1 validation, 2, 3, ... test trials."""
    rng = np.random.default_rng([config.seed, purpose, modes])
    x = signals(config, rng, count, modes, tail)
    return Data(x, Integration(config.size).apply(x), modes, tail)


def noisy(config: Config, data: Data, purpose: int, level: float) -> Array:
    """Measurements with white noise, the same draw at every level."""
    rng = np.random.default_rng([config.seed, purpose, data.modes, 1])
    return data.y + level * rng.standard_normal(data.y.shape)


# --- baselines --------------------------------------------------------------------------------


def root_mean_square(values: Array) -> float:
    """Over all entries."""
    return math.sqrt(float(np.mean(values**2)))


def tikhonov(config: Config, weight: float) -> Array:
    r""":math:`(A^\top A + \alpha D^\top D)^{-1}A^\top` with the first-difference matrix D."""
    A, D = Integration(config.size).matrix(), np.diff(np.eye(config.size), axis=0)
    return np.asarray(np.linalg.solve(A.T @ A + weight * D.T @ D, A.T))


def validated_tikhonov(config: Config, modes: int, level: float) -> tuple[float, Array]:
    """The weight with the smallest RMSE on validation data of that noise level, and its map."""
    data = draw(config, 1, config.test_samples, modes)
    y = noisy(config, data, 1, level)
    options = [(weight, tikhonov(config, weight)) for weight in np.geomspace(1e-10, 1e2, 49)]
    return min(options, key=lambda option: root_mean_square(data.x - y @ option[1].T))


def least_squares(data: Data, start: Array | None = None) -> Array:
    r"""Where gradient descent on the mean squared error ends from `start` (default: zero).

    :math:`X^\top Y^{+\top} + B_0(I - Y^+Y)`: what the data do not see stays as it started.
    """
    inverse = np.linalg.pinv(data.y, rcond=1e-12)
    B = (inverse @ data.x).T
    return B if start is None else B + start - (start @ data.y.T) @ inverse.T


# --- judging maps -----------------------------------------------------------------------------


def stability(B: Array, y: Array, directions: Array, perturbation: float) -> Array:
    r""":math:`\|B(y + \eta d) - By\| / \eta` along rows d of length one (§6.1.3, formula lost)."""
    moved = (y + perturbation * directions) @ B.T - y @ B.T
    return np.asarray(np.linalg.norm(moved, axis=1) / perturbation)


def truncation_errors(B: Array, x: Array, y: Array) -> Array:
    """RMSE of the map cut off after its k largest singular values, k = 0, ..., n."""
    left, values, right = np.linalg.svd(B)
    part, signal = values * (y @ right.T), x @ left
    change = (part**2 - 2 * part * signal).mean(axis=0)
    squared = np.r_[0.0, np.cumsum(change)] + (x**2).sum(axis=1).mean()
    return np.sqrt(np.maximum(squared, 0.0) / x.shape[1])


Maps = dict[str, Array]


def noise_rows(config: Config, modes: int, maps: dict[str, list[Array]]) -> list[dict[str, Any]]:
    """RMSE of every method (one map per noise level) at every level, mean and deviation."""
    found: dict[tuple[str, float], list[float]] = {}
    for trial in range(config.trials):
        data = draw(config, 2 + trial, config.test_samples, modes)
        for k, level in enumerate(config.levels):
            y = noisy(config, data, 2 + trial, level)
            for name, chosen in maps.items():
                error = root_mean_square(data.x - y @ chosen[k].T)
                found.setdefault((name, level), []).append(error)
    return [
        {"modes": modes, "method": name, "noise": level, "rmse": float(np.mean(errors)),
         "deviation": float(np.std(errors, ddof=1)), "trials": len(errors)}
        for (name, level), errors in found.items()
    ]  # fmt: skip


def stability_rows(config: Config, modes: int, maps: Maps) -> list[dict[str, Any]]:
    """Stability of every map: mean and largest over the directions, over the trials."""
    rows = []
    for name, B in maps.items():
        values = []
        for trial in range(config.trials):
            rng = np.random.default_rng([config.seed, 2 + trial, modes, 2])
            directions = rng.standard_normal((config.directions, config.size))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            y = draw(config, 2 + trial, 1, modes).y
            values.append(stability(B, y, directions, config.perturbation))
        means = np.mean(values, axis=1)
        rows.append(
            {"modes": modes, "method": name, "stability": float(means.mean()),
             "deviation": float(means.std(ddof=1)), "largest": float(np.max(values)),
             "supremum": float(np.linalg.norm(B, 2)), "directions": config.directions,
             "perturbation": config.perturbation}
        )  # fmt: skip
    return rows


def rank_rows(config: Config, modes: int, tail: float, maps: Maps) -> list[dict[str, Any]]:
    """Singular values, and the RMSE after truncation at every rank and noise level."""
    rows: list[dict[str, Any]] = []
    errors: dict[tuple[str, float], list[Array]] = {}
    for trial in range(config.trials):
        data = draw(config, 2 + trial, config.test_samples, modes, tail)
        for level in config.levels:
            y = noisy(config, data, 2 + trial, level)
            for name, B in maps.items():
                errors.setdefault((name, level), []).append(truncation_errors(B, data.x, y))
    for name, B in maps.items():
        values = np.linalg.svd(B, compute_uv=False)
        for k in range(1, config.size + 1):
            row = {"modes": modes, "tail": tail, "method": name, "rank": k,
                   "singular_value": float(values[k - 1])}  # fmt: skip
            for level in config.levels:
                row[f"rmse at noise {level:.3g}"] = float(np.mean(errors[name, level], axis=0)[k])
                row[f"deviation at noise {level:.3g}"] = float(
                    np.std(errors[name, level], axis=0, ddof=1)[k]
                )
            rows.append(row)
    return rows


def tail_rows(config: Config) -> list[dict[str, Any]]:
    """The drop of the exact map after K, against the tail of the data and against ε."""
    factors = np.geomspace(0.1, 10, 5)
    points = [(float(config.tail * factor), config.epsilon) for factor in factors]
    points += [(config.tail, float(config.epsilon * factor)) for factor in factors if factor != 1]
    rows = []
    for tail, epsilon in progress(points, "tails"):
        data = draw(config, 0, config.samples, config.modes, tail)
        fit = fit_linear(x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        ratio = drop(fit.singular_values, config.modes)
        rows.append({"modes": config.modes, "tail": tail, "epsilon": epsilon,
                     "radius": config.radius, "ratio": ratio, "gap": fit.gap})  # fmt: skip
    return rows


# --- the algorithms ---------------------------------------------------------------------------


def start_map(config: Config) -> Array:
    """The random start of every algorithm."""
    return random_start(np.random.default_rng([config.seed, 100]), config.size, config.size)


def trajectories(config: Config, data: Data, epsilon: float) -> Iterator[Trajectory]:
    """Every algorithm on the unreduced matrix from one random start."""
    problem = start_map(config), data.x, data.y, config.radius, epsilon
    yield full_gradient(QUASI, *problem, config.gradient_steps, memory=20)
    yield full_gradient(STEEPEST, *problem, config.gradient_steps)
    sampling = Sampling(config.batch, config.draws, config.evaluation_draws)
    bisection = Bisection(config.low_multiplier, config.high_multiplier, config.tolerance,
                          config.steps, config.last_steps)  # fmt: skip
    for name, method in (
        (MIRROR, MirrorDescent(config.mirror_step, data.y)),
        (ADAM, Adam(config.adam_rate)),
    ):
        rng = np.random.default_rng([config.seed, 101])
        yield seed_algorithm(name, *problem, method, sampling, bisection, rng)


def judged(
    config: Config, data: Data, epsilon: float, trajectory: Trajectory, best: float
) -> list[dict[str, Any]]:
    """Exact worst-case risk of about 60 maps on the way, relative to the optimum."""
    count = len(trajectory.maps)
    rows = []
    for k in np.unique(np.geomspace(1, count, 60).astype(int)) - 1:
        worst = entropic_worst_case(trajectory.maps[k], data.x, data.y, config.radius, epsilon)
        rows.append(
            {"epsilon": epsilon, "method": trajectory.name, "step": trajectory.steps[k],
             "seconds": trajectory.seconds[k], "multiplier": trajectory.multipliers[k],
             "exact_multiplier": worst.multiplier, "risk": worst.risk,
             "excess": worst.risk / best - 1}
        )  # fmt: skip
    return rows


def ending(
    config: Config, data: Data, fit: LinearFit, trajectory: Trajectory, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Where a method ends; also by the paper's own estimate, beside the estimate at the optimum."""
    rng = np.random.default_rng([config.seed, 102])
    noise = rng.standard_normal((len(data.x), config.evaluation_draws, config.size))

    def estimate(B: Array, multiplier: float) -> float:
        value, _ = monte_carlo_potential(B, data.x, data.y, noise, multiplier, fit.epsilon)
        return multiplier * config.radius**2 + value

    values = np.linalg.svd(trajectory.final, compute_uv=False)
    return {
        **rows[-1],
        "lowest_excess": min(row["excess"] for row in rows),
        "optimal_multiplier": fit.multiplier,
        "estimate": estimate(trajectory.final, rows[-1]["multiplier"]),
        "estimate_at_optimum": estimate(fit.matrix, fit.multiplier),
        "optimal_risk": fit.risk,
        "singular_value K": float(values[config.modes - 1]),
        "singular_value K+1": float(values[config.modes]),
    }


def estimate_rows(config: Config) -> list[dict[str, Any]]:
    """Monte-Carlo estimate of the dual's potential at the exact optimum, for several ε."""
    data, rows = draw(config, 0, config.samples, config.modes), []
    weights = np.geomspace(config.epsilon, config.large_epsilon, 5)
    for epsilon in progress(list(weights), "Monte-Carlo estimate"):
        fit = fit_linear(x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        exact = fit.risk - fit.multiplier * config.radius**2
        for draws in (1, 8, 64):
            rng = np.random.default_rng([config.seed, 103, draws])
            ratios = [
                monte_carlo_potential(
                    fit.matrix, data.x, data.y,
                    rng.standard_normal((len(data.x), draws, config.size)), fit.multiplier, epsilon,
                )[0] / exact - 1
                for _ in range(3)
            ]  # fmt: skip
            rows.append(
                {"epsilon": float(epsilon), "draws": draws,
                 "multiplier_over_threshold": fit.multiplier / float(fit.singular_values[0]) ** 2,
                 "bias": float(np.mean(ratios)), "deviation": float(np.std(ratios, ddof=1))}
            )  # fmt: skip
    return rows


# --- claims -----------------------------------------------------------------------------------


DROPS = "singular values drop after K (value K + 1 / value K)"


def drop(values: Any, modes: int) -> float:
    """Singular value K + 1 over singular value K."""
    return float(values[modes] / values[modes - 1])


def claim(text: str, where: str, number: float, holds_if: str, holds: bool) -> dict[str, Any]:
    """One row of the table of claims."""
    return {"claim": text, "where": where, "number": float(number), "holds_if": holds_if,
            "holds": "holds" if holds else "does not hold"}  # fmt: skip


def rank_claims(config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figure 5: the drop after K, and truncation beyond K."""
    drops, cuts = [], []
    groups: dict[tuple[int, float, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["modes"], row["tail"], row["method"]), []).append(row)
    for (modes, tail, name), group in groups.items():
        reduced = name.startswith("exact DRO") or name == LEAST_SQUARES
        note = " (by construction)" if reduced and not tail else ""
        where = f"K = {modes}, tail {tail:g}: {name}{note}"
        ratio = drop([row["singular_value"] for row in group], modes)
        drops.append(claim(DROPS, where, ratio, f"<= {DROP}", ratio <= DROP))
        floor, gain = NEGLIGIBLE * signal_size(modes), 0.0
        for level in config.levels:
            errors = np.array([row[f"rmse at noise {level:.3g}"] for row in group])[modes - 1 :]
            gain = max(gain, (errors[0] - errors.min()) / max(errors[0], floor))
        cuts.append(claim("truncating at K costs no RMSE (largest share, all noise levels)", where,
                          gain, f"<= {UNCHANGED}", gain <= UNCHANGED))  # fmt: skip
    return drops + cuts


def tail_claims(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For which tails and entropy weights the exact map drops after K."""
    return [
        claim(DROPS, f"K = {row['modes']}, tail {row['tail']:.3g}, epsilon {row['epsilon']:.3g}: "
              f"{EXACT.format(row['radius'])}", row["ratio"], f"<= {DROP}", row["ratio"] <= DROP)
        for row in rows
    ]  # fmt: skip


def signal_size(modes: int) -> float:
    """Expected root mean square of the signals, √(K / 2)."""
    return math.sqrt(modes / 2)


def noise_claims(config: Config, rows: list[dict[str, Any]], stable: list[dict[str, Any]],
                 modes: int) -> list[dict[str, Any]]:  # fmt: skip
    """Figure 4: RMSE at the largest and smallest noise, and stability, against Tikhonov."""
    claims = []
    error = {(row["method"], row["noise"]): row["rmse"] for row in rows}
    steady = {row["method"]: row["stability"] for row in stable}
    first, last = config.levels[0], config.levels[-1]
    rms = signal_size(modes)
    rivals = CLEAN, NOISY.format(config.levels[middle(config)]), ORACLE
    for radius in (config.small_radius, config.radius):
        name = EXACT.format(radius)
        for rival in (*rivals, LEAST_SQUARES):
            where = f"K = {modes}: {name}; {rival}"
            ratio = error[name, last] / error[rival, last]
            claims.append(
                claim("RMSE at the largest noise below the rival's (ratio)", where, ratio, "< 1",
                      ratio < 1)
            )  # fmt: skip
            apart = abs(error[name, first] - error[rival, first]) / rms
            if rival != LEAST_SQUARES:
                claims.append(
                    claim("RMSE without noise comparable (difference / signal)", where, apart,
                          f"<= {COMPARABLE}", apart <= COMPARABLE)
                )  # fmt: skip
            if rival != ORACLE:
                ratio = steady[name] / steady[rival]
                claims.append(
                    claim("more stable than the rival (ratio)", where, ratio, "< 1", ratio < 1)
                )
    return claims


def middle(config: Config) -> int:
    """Index of the noise level in the middle."""
    return (config.noise_levels + 1) // 2


def algorithm_claims(config: Config, endings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Does the algorithm reach the optimum of the problem it is meant for?"""
    claims = []
    for row in endings:
        where = f"K = {config.modes}, epsilon {row['epsilon']:g}: {row['method']}"
        excess = row["excess"]
        claims.append(
            claim("reaches the optimum (excess of the exact risk)", where, excess,
                  f"<= {UNCHANGED}", excess <= UNCHANGED)
        )  # fmt: skip
        if row["epsilon"] == config.large_epsilon:  # the other one: `rank_claims`
            ratio = row["singular_value K+1"] / row["singular_value K"]
            claims.append(claim(DROPS, where, ratio, f"<= {DROP}", ratio <= DROP))
    return claims


# --- figures ----------------------------------------------------------------------------------

COLOURS = {
    QUASI: "#1b7837", STEEPEST: "#7fbf7b", MIRROR: "#762a83", ADAM: "#c51b7d",
    LEAST_SQUARES: "0.45", RANDOM_START: "0.7", CLEAN: "#e08214", ORACLE: "#8c510a",
}  # fmt: skip


def sharp_name(config: Config) -> str:
    """The exact fit without entropy."""
    return f"exact DRO, epsilon 0, radius {config.small_radius:g}"


def style(config: Config, name: str) -> dict[str, Any]:
    """Colour and line of a method."""
    exact = {EXACT.format(config.radius): "#2166ac", EXACT.format(config.small_radius): "#67a9cf"}
    colour = exact.get(name, COLOURS.get(name, "#fdb863"))
    dashed = name in (LEAST_SQUARES, RANDOM_START, MIRROR) or name.startswith("exact DRO, epsilon")
    return {"color": colour, "ls": "--" if dashed else "-", "label": name}


def noise_figure(config: Config, tables: dict[str, list[dict[str, Any]]]) -> Any:
    """The paper's Figure 4: RMSE against noise, and stability."""
    figure, axes = new_figure(2, 2, width=6.2, height=4.2)
    rows, stable = tables["noise"], tables["stability"]
    for column, modes in enumerate((config.modes, config.more_modes)):
        axis = axes[0, column]
        for name in dict.fromkeys(row["method"] for row in rows if row["modes"] == modes):
            if name == QUASI:
                continue  # on top of the exact curve
            chosen = [row for row in rows if row["modes"] == modes and row["method"] == name]
            level, mean, deviation = (
                np.array([row[key] for row in chosen]) for key in ("noise", "rmse", "deviation")
            )
            look = style(config, name)
            axis.plot(level, mean, marker="o", ms=3, **look)
            axis.fill_between(level, mean - deviation, mean + deviation, color=look["color"],
                              alpha=0.25, lw=0)  # fmt: skip
        axis.set_xscale("symlog", linthresh=config.smallest_noise)
        axis.set(
            xlabel="noise per grid point (standard deviation)",
            ylabel="RMSE",
            title=f"K = {modes} modes",
            ylim=(0, 1.3 * signal_size(modes)),
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
        axis = axes[1, column]
        chosen = [row for row in stable if row["modes"] == modes]
        place = np.arange(len(chosen))
        axis.barh(place, [row["stability"] for row in chosen],
                  xerr=[row["deviation"] for row in chosen],
                  color=[style(config, row["method"])["color"] for row in chosen])  # fmt: skip
        axis.plot([row["largest"] for row in chosen], place, "k|", label="largest direction")
        axis.plot([row["supremum"] for row in chosen], place, "kx", ms=4, label="supremum")
        axis.set_yticks(place, [row["method"] for row in chosen], fontsize=7)
        axis.invert_yaxis()
        axis.set(xscale="log", xlabel=f"stability ({config.directions} directions, "
                 f"eta = {config.perturbation:g}; lower is more stable)")  # fmt: skip
        axis.grid(alpha=0.3, axis="x")
        axis.legend(frameon=False, fontsize=7)
    return figure


def rank_figure(config: Config, tables: dict[str, list[dict[str, Any]]]) -> Any:
    """The paper's Figure 5, without and with a tail beyond K, and where the drop is found."""
    figure, axes = new_figure(3, 2, width=4.9, height=4.2)
    rows, tails = tables["rank"], tables["tails"]
    level = config.levels[middle(config)]
    for line, tail in enumerate((0.0, config.tail)):
        chosen = [row for row in rows if row["modes"] == config.modes and row["tail"] == tail]
        for name in dict.fromkeys(row["method"] for row in chosen):
            group = [row for row in chosen if row["method"] == name]
            rank = [row["rank"] for row in group]
            values = np.array([row["singular_value"] for row in group])
            errors = [row[f"rmse at noise {level:.3g}"] for row in group]
            look = style(config, name)
            axes[line, 0].semilogy(rank, np.maximum(values, 1e-9), **look)
            axes[line, 1].plot(rank, errors, **look)
        data = f"modes beyond K: deviation {tail:g}" if tail else "no modes beyond K"
        axes[line, 0].set(xlabel="index", ylabel="singular value of the map (1e-9: zero)",
                          title=data)  # fmt: skip
        axes[line, 1].set(xlabel="rank kept", ylabel=f"RMSE at noise {level:.3g}",
                          title=f"truncation, {data}",
                          ylim=(0, 2 * signal_size(config.modes)))  # fmt: skip
        axes[line, 1].legend(frameon=False, fontsize=7)
        for axis in axes[line, :2]:
            axis.axvline(config.modes, color="k", lw=0.8, ls=":")
    for axis, key, other in ((axes[0, 2], "tail", "epsilon"), (axes[1, 2], "epsilon", "tail")):
        chosen = [row for row in tails if row[other] == getattr(config, other)]
        chosen.sort(key=lambda row: float(row[key]))
        axis.loglog([row[key] for row in chosen], [row["ratio"] for row in chosen], marker="o",
                    **style(config, EXACT.format(config.radius)))  # fmt: skip
        axis.axhline(DROP, color="0.5", lw=0.8, ls="--", label="what we call a drop")
        axis.set(xlabel="deviation of the modes beyond K" if key == "tail" else "epsilon",
                 ylabel="singular value K + 1 / singular value K",
                 title=f"{other} {getattr(config, other):g}")  # fmt: skip
        axis.legend(frameon=False, fontsize=7)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return figure


def time_figure(config: Config, found: Findings) -> Any:
    """Excess of the exact risk against time, and the estimate that explains it."""
    rows, exact, estimates = found.tables["algorithms"], found.exact, found.tables["estimates"]
    figure, axes = new_figure(3, width=4.9, height=4.2)
    for axis, epsilon in zip(axes[0], exact, strict=False):
        for name in (QUASI, STEEPEST, MIRROR, ADAM):
            chosen = [row for row in rows if row["epsilon"] == epsilon and row["method"] == name]
            seconds, excess = ([row[key] for row in chosen] for key in ("seconds", "excess"))
            axis.loglog(seconds, np.maximum(excess, 1e-15), **style(config, name))
        moment, gap = exact[epsilon]
        axis.loglog([moment], [max(gap, 1e-15)], "*", ms=11, color="#2166ac",
                    label="fit_linear (certified gap)")  # fmt: skip
        axis.set(
            xlabel="seconds of computation",
            ylabel="exact risk / optimum - 1",
            title=f"epsilon = {epsilon:g}",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    axis = axes[0, 2]
    for draws in (1, 8, 64):
        chosen = [row for row in estimates if row["draws"] == draws]
        over = [row["multiplier_over_threshold"] for row in chosen]
        axis.plot(over, [row["bias"] for row in chosen], "o-", label=f"{draws} draws per sample")
    axis.axhline(0, color="k", lw=0.8)
    axis.set(
        xlabel="optimal multiplier / largest squared singular value",
        ylabel="relative error of the Monte-Carlo potential",
        title="what the paper's algorithm minimises",
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=7)
    return figure


# --- the experiment ---------------------------------------------------------------------------


@dataclass
class Findings:
    """Rows of every table, and what the checks need besides."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fits: list[LinearFit] = field(default_factory=list)
    #: Per entropy weight: seconds and certified gap of the exact fit of the main problem.
    exact: dict[float, tuple[float, float]] = field(default_factory=dict)

    def fit(self, data: Data, radius: float, epsilon: float) -> LinearFit:
        """An exact fit that is remembered."""
        self.fits.append(fit_linear(x=data.x, y=data.y, radius=radius, epsilon=epsilon))
        return self.fits[-1]

    def add(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """More rows of a table."""
        self.tables.setdefault(name, []).extend(rows)


def run_algorithms(config: Config, found: Findings) -> Maps:
    """Both entropy weights; the maps that the algorithms end with at the first."""
    data, learned = draw(config, 0, config.samples, config.modes), {}
    bar = progress(list(range(8)), "algorithms")
    for epsilon in (config.epsilon, config.large_epsilon):
        best = found.fit(data, config.radius, epsilon)
        again = partial(fit_linear, x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        found.exact[epsilon] = median_seconds(again, 3), best.gap
        for trajectory in trajectories(config, data, epsilon):
            rows = judged(config, data, epsilon, trajectory, best.risk)
            found.add("algorithms", rows)
            found.add("endings", [ending(config, data, best, trajectory, rows)])
            if epsilon == config.epsilon:
                learned[trajectory.name] = trajectory.final
            bar.update()
    bar.close()
    return learned


def compare_maps(config: Config, modes: int, learned: Maps, found: Findings) -> None:
    """Noise sweep, stability and rank of every method, on data with that many modes."""
    train = draw(config, 0, config.samples, modes)
    radii = config.small_radius, config.radius
    exact = {EXACT.format(rho): found.fit(train, rho, config.epsilon).matrix for rho in radii}
    tuned = [validated_tikhonov(config, modes, level) for level in config.levels]
    half = middle(config)
    baselines = {
        CLEAN: tuned[0][1],
        NOISY.format(config.levels[half]): tuned[half][1],
        LEAST_SQUARES: least_squares(train),
    }
    maps = exact | baselines | learned
    per_level = {name: [B] * len(config.levels) for name, B in maps.items()}
    noise = noise_rows(config, modes, per_level | {ORACLE: [B for _, B in tuned]})
    stable = stability_rows(config, modes, maps)
    found.add("noise", noise)
    found.add("stability", stable)
    found.add("claims", noise_claims(config, noise, stable, modes))
    for level, (weight, _) in zip(config.levels, tuned, strict=True):
        found.add("tikhonov_weights", [{"modes": modes, "noise": level, "weight": weight}])

    ranked = exact | {LEAST_SQUARES: baselines[LEAST_SQUARES]} | learned
    if learned:
        ranked |= {RANDOM_START: least_squares(train, start_map(config)), CLEAN: baselines[CLEAN]}
    found.add("rank", rank_rows(config, modes, 0.0, ranked))
    tailed = draw(config, 0, config.samples, modes, config.tail)
    exact = {EXACT.format(rho): found.fit(tailed, rho, config.epsilon).matrix for rho in radii}
    sharp = found.fit(tailed, config.small_radius, 0.0)
    name = EXACT.format(config.small_radius)
    risk = worst_case_risk(exact[name], tailed.x, tailed.y, config.small_radius).risk
    excess, where = risk / sharp.risk - 1, f"K = {modes}, tail {config.tail:g}: {name}"
    text = "a map with the drop minimises the Wasserstein risk (epsilon 0) too: excess"
    found.add("claims", [claim(text, where, excess, f"<= {UNCHANGED}", excess <= UNCHANGED)])
    ranked = exact | {sharp_name(config): sharp.matrix, LEAST_SQUARES: least_squares(tailed)}
    found.add("rank", rank_rows(config, modes, config.tail, ranked))


def run(config: Config, out: Path) -> list[Check]:
    """Fit, judge, write tables and figures to `out`, print the claims, return the checks."""
    found = Findings()
    learned = run_algorithms(config, found)
    for modes in progress([config.modes, config.more_modes], "noise sweeps"):
        compare_maps(config, modes, learned if modes == config.modes else {}, found)
    found.add("tails", tail_rows(config))
    found.add("estimates", estimate_rows(config))
    tables = found.tables
    found.add("claims", rank_claims(config, tables["rank"]))
    found.add("claims", tail_claims(tables["tails"]))
    found.add("claims", algorithm_claims(config, tables["endings"]))

    made = provenance("differentiation", config)
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
        write_json(out / f"{name}.json", {**made, "rows": rows})
    save_figure(out / "differentiation_noise", noise_figure(config, tables))
    save_figure(out / "differentiation_rank", rank_figure(config, tables))
    save_figure(out / "differentiation_time", time_figure(config, found))
    report(found)
    checks = all_checks(config, found)
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    return checks


def report(found: Findings) -> None:
    """Print where the algorithms end, and the table of claims."""
    keys = "multiplier", "optimal_multiplier", "estimate", "estimate_at_optimum", "optimal_risk"
    lines: list[tuple[str, ...]] = [
        ("method", "epsilon", "seconds", "excess", "lowest on the way", "multiplier", "optimal",
         "its estimate", "of the optimum", "exact optimum")
    ]  # fmt: skip
    for epsilon, (seconds, gap) in found.exact.items():
        lines.append(("fit_linear", f"{epsilon:g}", f"{seconds:.2f}", f"gap {gap:.1e}", *[""] * 6))
    for row in found.tables["endings"]:
        numbers = f"{row['seconds']:.2f}", f"{row['excess']:.2e}", f"{row['lowest_excess']:.2e}"
        rest = (f"{row[key]:.4g}" for key in keys)
        lines.append((row["method"], f"{row['epsilon']:g}", *numbers, *rest))
    print(table(lines))
    print(f"\nClaims (a drop: <= {DROP}; comparable: within {COMPARABLE:.0%} of the signals' RMS)")
    lines = [("claim", "where", "number", "holds if", "")]
    for row in found.tables["claims"]:
        number = f"{row['number']:.3g}"
        lines.append((row["claim"], row["where"], number, row["holds_if"], row["holds"]))
    print(table(lines))


def all_checks(config: Config, found: Findings) -> list[Check]:
    """What is a theorem, or robustly true of these data."""
    fits, tables = found.fits, found.tables
    rank, endings = tables["rank"], tables["endings"]
    small, large = EXACT.format(config.small_radius), EXACT.format(config.radius)
    error = {(row["modes"], row["method"], row["noise"]): row["rmse"] for row in tables["noise"]}
    first, last = config.levels[0], config.levels[-1]
    both = config.modes, config.more_modes

    def ratio(modes: int, tail: float, name: str) -> float:
        values = [row["singular_value"] for row in rank
                  if (row["modes"], row["tail"], row["method"]) == (modes, tail, name)]  # fmt: skip
        return drop(values, modes)

    quasi = [row for row in endings if row["method"] == QUASI]
    sharp = sharp_name(config)
    return [
        at_most("exact fits: largest saddle gap by verify()",
                max(fit.verify().gap for fit in fits), 1e-4),
        at_least("exact fits whose certificate holds, share",
                 float(np.mean([fit.verify().holds() for fit in fits])), 1.0),
        at_least("no map of any algorithm beats the exact optimum: smallest excess",
                 min(row["excess"] for row in tables["algorithms"]), -1e-9),
        at_most("full gradient from a random start reaches it (L-BFGS): largest excess",
                max(row["excess"] for row in quasi), 1e-4),
        at_most("drop after K, unreduced (L-BFGS): largest of both epsilon",
                max(row["singular_value K+1"] / row["singular_value K"] for row in quasi), DROP),
        at_most("drop after K, exact fits without tail (by construction)",
                max(ratio(modes, 0.0, name) for modes in both for name in (small, large)), 1e-9),
        at_least("no drop for least squares from a random start",
                 ratio(config.modes, 0.0, RANDOM_START), DROP),
        at_least("data with a tail: the drop of exact fits needs epsilon > 0, ratio to epsilon = 0",
                 min(ratio(modes, config.tail, sharp) / ratio(modes, config.tail, small)
                     for modes in both), 2.0),
        at_most("RMSE at the largest noise / Tikhonov's chosen without noise, both K and radii",
                max(error[modes, name, last] / error[modes, CLEAN, last]
                    for modes in both for name in (small, large)), 1.0),
        at_most("RMSE without noise, smaller radius: share of the signals' RMS",
                max(error[modes, small, first] / signal_size(modes)
                    for modes in both), COMPARABLE),
        at_most("RMSE at the largest noise, larger radius / smaller radius",
                max(error[modes, large, last] / error[modes, small, last] for modes in both), 1.0),
        at_most("stability: largest direction / supremum",
                max(row["largest"] / row["supremum"] for row in tables["stability"]), 1.0 + 1e-9),
        at_most("Monte-Carlo potential at the optimum is too low: largest relative error",
                max(row["bias"] for row in tables["estimates"]), 0.0),
    ]  # fmt: skip
