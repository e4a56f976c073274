r"""The paper's algorithm (§6.1.2) for a linear map, and full-gradient descent on what it estimates.

The map B is an unreduced matrix. At a fixed multiplier the paper's biased stochastic mirror descent
(with the Euclidean mirror map: stochastic gradient descent with decaying steps; its experiments
use Adam) minimises a Monte-Carlo estimate of the entropic dual; the multiplier is bisected outside.
The full gradient is exact, at the exact multiplier. Nobody's time includes being judged: maps are
recorded on the way and given to `dro_core.entropic_worst_case` afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from dro_core import entropic_worst_case
from dro_core.bisection import bisect_interval
from dro_core.types import Array


def random_start(rng: np.random.Generator, n: int, m: int) -> Array:
    """Entries uniform in ±1/√m, the usual start of a linear layer."""
    return rng.uniform(-1.0, 1.0, (n, m)) / math.sqrt(m)


def monte_carlo_potential(
    B: Array, x: Array, y: Array, noise: Array, multiplier: float, epsilon: float
) -> tuple[float, Array]:
    r"""Monte-Carlo estimate of the entropic dual without its budget term, and its gradient in B.

    .. math:: \frac1N\sum_i \lambda\varepsilon\Bigl[\operatorname{logsumexp}_k
              \frac{\|x_i - B(y_i + \sqrt{\varepsilon/2}\,\xi_{ik})\|^2}{\lambda\varepsilon}
              - \log K\Bigr]

    `noise` holds the standard normal :math:`\xi`, (N, K, m). The gradient is
    :math:`-\frac2N\sum_i\sum_k w_{ik}\,(x_i - By_{ik})\,y_{ik}^\top` with softmax weights w: the
    gradient of the estimate, not an unbiased one of the dual.
    """
    moved = y[:, None, :] + math.sqrt(0.5 * epsilon) * noise
    residual = x[:, None, :] - moved @ B.T
    exponents = np.einsum("ikj,ikj->ik", residual, residual) / (multiplier * epsilon)
    total = logsumexp(exponents, axis=1)
    weights = np.exp(exponents - total[:, None])
    value = multiplier * epsilon * float((total - math.log(noise.shape[1])).mean())
    weighted = (weights[:, :, None] * residual).reshape(-1, len(B))
    return value, -2.0 / len(x) * weighted.T @ moved.reshape(-1, moved.shape[2])


@dataclass
class Trajectory:
    """Maps on the way of one method, with the seconds it had computed until then."""

    name: str
    seconds: list[float] = field(default_factory=list)
    maps: list[Array] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)

    def record(self, seconds: float, B: Array, step: int, multiplier: float) -> None:
        """Keep a copy of the map."""
        self.seconds.append(seconds)
        self.maps.append(B.copy())
        self.steps.append(step)
        self.multipliers.append(multiplier)

    @property
    def final(self) -> Array:
        """The map that the method returns."""
        return self.maps[-1]


class MirrorDescent:
    r"""Steps :math:`\gamma_t = \gamma/\sqrt t`, and the average of the second half of the maps.

    γ is `step` divided by the curvature of the mean squared error, 2 λ_max(E yyᵀ).
    """

    def __init__(self, step: float, y: Array) -> None:
        self.step = step / (2.0 * float(np.linalg.norm(y, 2)) ** 2 / len(y))

    def descend(
        self,
        B: Array,
        gradient: Callable[[Array], Array],
        steps: int,
        after: Callable[[Array], None],
        *,
        last: bool,
    ) -> Array:
        """`steps` steps from B; `after` sees the average so far."""
        average, count = B, 0
        for t in range(1, steps + 1):
            B = B - self.step / math.sqrt(t) * gradient(B)
            count = count + 1 if 2 * t > steps else 1
            average = B if count == 1 else average + (B - average) / count
            after(average)
        return average


class Adam:
    """Adam: a constant rate in the bisection, warm-up and cosine annealing in the last run."""

    def __init__(self, rate: float, warmup: float = 0.05) -> None:
        self.rate, self.warmup = rate, warmup

    def descend(
        self,
        B: Array,
        gradient: Callable[[Array], Array],
        steps: int,
        after: Callable[[Array], None],
        *,
        last: bool,
    ) -> Array:
        """`steps` steps from B; `after` sees every map."""
        first, second = np.zeros_like(B), np.zeros_like(B)
        for t in range(1, steps + 1):
            g = gradient(B)
            first += 0.1 * (g - first)
            second += 0.001 * (g**2 - second)
            share = t / steps
            rate = self.rate
            if last:
                cosine = 0.5 + 0.5 * math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))
                rate *= share / self.warmup if share < self.warmup else cosine
            size = np.sqrt(second / (1 - 0.999**t)) + 1e-8
            B = B - rate * (first / (1 - 0.9**t)) / size
            after(B)
        return B


@dataclass(frozen=True)
class Sampling:
    """What the stochastic gradient is made of."""

    batch: int  #: samples per step
    draws: int  #: Monte-Carlo draws per sample and step
    evaluation_draws: int  #: Monte-Carlo draws per sample where objectives are compared


@dataclass(frozen=True)
class Bisection:
    """Interval of the multiplier, its tolerance, and the steps spent."""

    low: float
    high: float
    tolerance: float  #: relative to the first width
    steps: int  #: at every candidate multiplier
    last_steps: int  #: at the one that is chosen


def seed_algorithm(
    name: str,
    start: Array,
    x: Array,
    y: Array,
    radius: float,
    epsilon: float,
    method: MirrorDescent | Adam,
    sampling: Sampling,
    bisection: Bisection,
    rng: np.random.Generator,
    records: int = 60,
) -> Trajectory:
    """Bisection over the multiplier; a stochastic run for the map at every candidate.

    Every run goes on from the map of the best candidate so far. The estimated objectives at the
    boundaries decide: the half next to the worse one is dropped, as the paper describes it.
    """
    trajectory = Trajectory(name)
    halvings = math.ceil(math.log2(1 / bisection.tolerance))
    total = (3 + halvings) * bisection.steps + bisection.last_steps
    clock, taken, paused = time.perf_counter(), 0, 0.0
    every = max(total // records, 1)

    def run(B: Array, multiplier: float, steps: int, last: bool) -> Array:
        def gradient(B: Array) -> Array:
            rows = rng.integers(len(x), size=sampling.batch)
            noise = rng.standard_normal((sampling.batch, sampling.draws, y.shape[1]))
            return monte_carlo_potential(B, x[rows], y[rows], noise, multiplier, epsilon)[1]

        def after(B: Array) -> None:
            nonlocal taken, paused
            taken += 1
            if not np.isfinite(B).all():
                raise FloatingPointError(f"{name}: overflow at step {taken}; take smaller steps")
            if taken % every == 0 or taken == total:
                now = time.perf_counter()
                trajectory.record(now - clock - paused, B, taken, multiplier)
                paused += time.perf_counter() - now

        return method.descend(B, gradient, steps, after, last=last)

    def objective(B: Array, multiplier: float) -> float:
        noise = rng.standard_normal((len(x), sampling.evaluation_draws, y.shape[1]))
        potential = monte_carlo_potential(B, x, y, noise, multiplier, epsilon)[0]
        return multiplier * radius**2 + potential

    best = (math.inf, 0.0, start)

    def candidate(multiplier: float) -> float:
        nonlocal best
        B = run(best[2], multiplier, bisection.steps, last=False)
        value = objective(B, multiplier)
        best = min(best, (value, multiplier, B), key=lambda entry: entry[0])
        return value

    width = bisection.high - bisection.low
    bisect_interval(candidate, bisection.low, bisection.high, bisection.tolerance * width)
    run(best[2], best[1], bisection.last_steps, last=True)
    return trajectory


def full_gradient(
    name: str,
    start: Array,
    x: Array,
    y: Array,
    radius: float,
    epsilon: float,
    steps: int,
    *,
    memory: int = 0,
) -> Trajectory:
    """Descent along the exact gradient at the exact multiplier (`LinearReconstruction`).

    Without `memory` steepest descent with Armijo's rule, tried from twice the last step; with it
    L-BFGS that keeps so many pairs.
    """
    trajectory = Trajectory(name)
    clock, paused = time.perf_counter(), 0.0
    found: dict[str, float] = {}

    def value(B: Array) -> tuple[float, Array]:
        worst = entropic_worst_case(B, x, y, radius, epsilon)
        found["multiplier"] = worst.multiplier
        return worst.risk, worst.gradient

    def keep(B: Array, step: int) -> None:
        nonlocal paused
        now = time.perf_counter()
        trajectory.record(now - clock - paused, B, step, found["multiplier"])
        paused += time.perf_counter() - now

    if memory:
        count = 0

        def callback(flat: Array) -> None:
            nonlocal count
            count += 1
            keep(flat.reshape(start.shape), count)

        def flat_value(flat: Array) -> tuple[float, Array]:
            risk, gradient = value(flat.reshape(start.shape))
            return risk, gradient.ravel()

        options: dict[str, Any] = {
            "maxiter": steps,
            "maxfun": 3 * steps,
            "maxcor": memory,
            "ftol": 1e-15,
            "gtol": 1e-12,
        }
        minimize(
            flat_value,
            start.ravel(),
            jac=True,
            method="L-BFGS-B",
            callback=callback,
            options=options,
        )
        return trajectory
    B, length = start, 1.0
    risk, gradient = value(B)
    for step in range(1, steps + 1):
        length *= 2.0
        squared = float((gradient**2).sum())
        while length > 1e-18:
            trial = B - length * gradient
            trial_risk, trial_gradient = value(trial)
            if trial_risk <= risk - 0.5 * length * squared:
                break
            length *= 0.5
        else:
            break
        B, risk, gradient = trial, trial_risk, trial_gradient
        keep(B, step)
    return trajectory
