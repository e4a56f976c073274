"""Sizes of the frontier, and what is tuned per family of losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from validation.mnist.settings import Config as DigitConfig
from validation.mnist.settings import Preset
from validation.settings import setting

#: Candidates of every family: equally many.
CANDIDATES = 4
#: Share of the steps that a candidate is trained for.
TUNING_SHARE = 0.25
#: Images that are attacked to choose a candidate, and steps of that attack and of the final one.
TUNING_IMAGES, TUNING_STEPS, ATTACK_STEPS = 32, 20, 100


@dataclass(frozen=True)
class Config(DigitConfig):
    """What can be set from the command line; 0 leaves the preset's value or what is tuned."""

    target: float = setting(0.0, "radius that is trained for; 0: the experiment's", low=0)
    jitter: float = setting(0.3, "standard deviation of the isotropic jitter", low=0)
    shaped: float = setting(0.5, "level of the shaped jitter, in units of the cost", low=0)
    entropic: float = setting(0.5, "level √(ε/2) of the entropic loss's noise", low=0)
    penalty: float = setting(0.1, "weight of the Jacobian penalty", low=0)
    mixed: float = setting(0.5, "level of the jitter that accompanies the ball", low=0)
    wasserstein: float = setting(1.0, "radius of the dual losses / target", low=0)
    adversarial: float = setting(1.0, "radius of the projected gradient / target", low=0)
    ball: float = setting(1.0, "radius of the ball loss / target", low=0)

    @property
    def size(self) -> Preset:
        """The preset, at `desk` with a network and a length that let twelve arms be trained."""
        size = super().size
        if self.preset != "desk":
            return size
        return dataclasses.replace(size, width=self.width or 8, steps=self.steps or 1500)


def grids(target: float) -> dict[str, tuple[float, ...]]:
    """The candidates of every family, by the setting that they give a value to."""
    levels = tuple(target * share for share in (0.05, 0.1, 0.2, 0.4))
    factors = (0.5, 0.75, 1.0, 1.5)
    return {
        "jitter": tuple(level / 2 for level in levels),
        "shaped": levels,
        "entropic": levels,
        "mixed": levels,
        "penalty": (0.01, 0.03, 0.1, 0.3),
        "wasserstein": factors,
        "adversarial": factors,
        "ball": factors,
    }
