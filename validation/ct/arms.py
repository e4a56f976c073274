"""The arms of the tomography experiments: every way of training, and its candidates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from validation.ct.settings import DOSES, TUNING_SHARE, Config
from validation.mnist.arms import Arm, Options

#: Names that claims speak of.
MSE, MIXED = "MSE, one dose", "MSE, mixed doses"
IMAGE, JITTER, SHAPED = "jitter of images", "jitter of light", "jitter by photons"
DRO, PHOTON_DRO = "DRO", "DRO by photons"
BALL, PHOTON_BALL = "ball", "ball by photons"
#: Squared error on measurements of low dose, where there are any.
MEASURED = "MSE, measured low dose"
#: Arms whose ball is weighted by the expected photons.
WEIGHTED = (SHAPED, PHOTON_DRO, PHOTON_BALL)
#: Adjusted radius of the entropic loss / typical size of its noise, as it was tuned on digits.
SHARE = 0.36


def arm_of(family: str, config: Config, rays: int) -> Arm:
    """The arm of a family that is tuned, at its setting."""
    value = float(getattr(config, family))
    ball: Options = {"steps": 2}

    def entropic(name: str) -> Arm:
        radius = SHARE * value * math.sqrt(rays)
        return Arm(name, "entropic", epsilon=2 * value**2, radius=radius)

    arms = {
        "image": lambda: Arm(IMAGE, "image jitter", options={"level": value}),
        "jitter": lambda: Arm(JITTER, "mse", noise=value),
        "shaped": lambda: Arm(SHAPED, "jitter", options={"level": value}),
        "entropic": lambda: entropic(DRO),
        "photon_entropic": lambda: entropic(PHOTON_DRO),
        "ball": lambda: Arm(BALL, "ball", radius=value, options=ball),
        "photon_ball": lambda: Arm(PHOTON_BALL, "ball", radius=value, options=ball),
    }
    return arms[family]()


def candidate(family: str, value: float, config: Config, rays: int) -> Arm:
    """A short training of one candidate."""
    given: dict[str, Any] = {family: value}
    arm = arm_of(family, dataclasses.replace(config, **given), rays)
    return dataclasses.replace(arm, name=f"{arm.name} at {value:g}", steps_share=TUNING_SHARE)


def declared(config: Config, rays: int) -> list[Arm]:
    """All arms: photon noise at one dose and at all, jitter, DRO, balls."""
    return [
        Arm(MSE, "poisson", options={"doses": (config.dose,)}),
        Arm(MIXED, "poisson", options={"doses": DOSES}),
        *(
            arm_of(family, config, rays)
            for family in (
                "image",
                "jitter",
                "shaped",
                "entropic",
                "photon_entropic",
                "ball",
                "photon_ball",
            )
        ),
    ]
