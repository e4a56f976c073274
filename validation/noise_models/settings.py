"""Settings of the noise families."""

from __future__ import annotations

from dataclasses import dataclass

from validation.errors import UsageError
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the noise families (all of them this project's choice)."""

    samples: int = setting(
        8, "scalar samples of the radius sweeps (beside a single one)", low=2, high=16
    )
    largest_samples: int = setting(
        256, "the gap is followed from 1 sample to this, doubling", low=8, high=1024
    )
    members: int = setting(21, "members of each family", low=3, high=41)
    points: int = setting(41, "radii of each sweep", low=3, high=1000)
    threshold: float = setting(
        1.0, "threshold of the soft-thresholding reconstruction", low=1e-3, high=1e3
    )
    largest_level: float = setting(2.0, "Gaussian: s runs from 0 to this", low=1e-3, high=1e3)
    fewest_photons: float = setting(
        1.0, "Poisson: photons per unit run from this ...", low=1e-3, high=1e3
    )
    most_photons: float = setting(100.0, "Poisson: ... to this", above="fewest_photons", high=1e4)
    noise: float = setting(
        0.05,
        "standard deviation of the noise in the data, Gaussian family",
        low=0,
        high="largest_level",
    )
    draws: int = setting(200_000, "Monte-Carlo draws for the moments", low=1000, high=10_000_000)
    seed: int = setting(0, "seed of signals, noise and draws", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        deviations = self.largest_level, self.fewest_photons**-0.5  # of the noisiest members
        low, high = max(deviations) / 10, 3 * min(deviations)
        if not low <= self.threshold <= high:
            raise UsageError(
                f"--set threshold: {self.threshold}; allowed: {low:g} to {high:g}, a tenth to "
                "three times the largest standard deviations of both families"
            )
