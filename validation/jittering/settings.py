"""Sizes of the experiment on noise and its shape."""

from __future__ import annotations

from dataclasses import dataclass

from validation.jittering.problems import SHARES
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Preset:
    """One size: random problems, their dimension, training samples, MNIST images, frontier."""

    problems: int
    size: int
    samples: int
    images: int
    points: int


PRESETS = {
    "default": Preset(40, 16, 200, 1000, 9),
    "smoke": Preset(2, 6, 40, 0, 3),
}


@dataclass(frozen=True)
class Config(Settings):
    """What can be set from the command line; -1 leaves the preset's value."""

    preset: str = setting("default", f"size: {', '.join(PRESETS)}", choices=PRESETS)
    problems: int = setting(-1, "random problems", low=1, unset=-1)
    size: int = setting(-1, "their dimension n = m", low=2, unset=-1)
    samples: int = setting(-1, "their training samples", low=2, unset=-1)
    images: int = setting(-1, "training images of MNIST; 0 leaves it out", low=0, unset=-1)
    points: int = setting(-1, "points of the frontier", low=2, unset=-1)
    share: float = setting(
        1.0,
        "radius of goals and figures: 0.1, 0.3, 1 or 3 (see docs)",
        rule=(lambda value: value in SHARES, "0.1, 0.3, 1.0 or 3.0"),
    )
    radii: str = setting("all", "all, or that of the goals alone", choices=("all", "goals"))
    noise: float = setting(0.02, "standard deviation of noise on MNIST, per pixel", above=0.0)
    data: str = setting("", "data root with mnist/; otherwise DRO_DATA", folder=True)
    seed: int = setting(0, "seed", low=0)

    def sized(self) -> Preset:
        """The preset with what was set by hand."""
        base = PRESETS[self.preset]
        names = ("problems", "size", "samples", "images", "points")
        given = [getattr(self, name) for name in names]
        return Preset(
            *(getattr(base, n) if v == -1 else v for n, v in zip(names, given, strict=True))
        )
