"""Settings of Section 5, names and colours."""

from __future__ import annotations

from dataclasses import dataclass

from dro_core.style import PALETTE
from validation.errors import UsageError
from validation.settings import Settings, setting

STRUCTURES = ("joint", "y|x")
COLOURS = dict(zip(("y|x", "joint", "diagonal", "heat"), PALETTE, strict=False))
NAMES = {"joint": "joint", "y|x": "Y|X"}
#: Positions of candidates on the ray through an exact atom (0: the data point, 1: the atom).
RAYS = (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)

UNREADABLE = """\
The paper's text lost its inline numbers: grid size, number of signals, measurements per signal,
radius, coefficient decay, diffusion time, both ends of both sweeps, and the first values of its
Figure 3 cannot be read. The values below are this project's; change them with --set name=value.
Norms are Euclidean sums over the grid (not grid means), the radius is in those units."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of Section 5 (all of them this project's choice)."""

    size: int = setting(64, "grid points n", low=1)
    samples: int = setting(60, "signals N", low=1)
    samples_per_signal: int = setting(
        1, "measurements per signal (without noise all are equal)", low=1
    )
    modes: int = setting(12, "cosine and sine modes of a signal", low=1)
    smoothness: float = setting(
        1.0, "coefficients of mode k decay like k^-smoothness", low=-10, high=10
    )
    radius: float = setting(1.5, "W2 radius of the main comparison", above=0)
    small_radius: float = setting(
        0.1, "second radius for the heat problem, where closing fails", above=0
    )
    points: int = setting(25, "points of each sweep", low=1)
    largest_decay: float = setting(1.0, "diagonal: the decay runs from 0 to this", above=0)
    heat_time: float = setting(1e-4, "heat: diffusion time T", above=0)
    largest_regularization: float = setting(0.25, "heat: alpha runs from this ...")
    smallest_regularization: float = setting(1e-4, "heat: ... down to this")
    noise: float = setting(
        0.05, "standard deviation for the transport check with repeated x", above=0
    )
    seed: int = setting(0, "seed of the signals", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 3 or self.size < 4 or self.samples < 2:
            raise UsageError("--set: a sweep needs points >= 3, size >= 4 and samples >= 2")
        if not self.largest_regularization > self.smallest_regularization > 0:
            raise UsageError(
                "--set: largest_regularization > smallest_regularization > 0 is needed"
            )
