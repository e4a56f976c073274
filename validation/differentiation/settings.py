"""Settings of the experiment, names of its methods, and thresholds of its claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from validation.errors import UsageError
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


def signal_size(modes: int) -> float:
    """Expected root mean square of the signals, √(K / 2)."""
    return math.sqrt(modes / 2)


def middle(config: Config) -> int:
    """Index of the noise level in the middle."""
    return (config.noise_levels + 1) // 2


def sharp_name(config: Config) -> str:
    """The exact fit without entropy."""
    return f"exact DRO, epsilon 0, radius {config.small_radius:g}"
