"""The arms of the frontier: every way of training for one ball, and its candidates."""

from __future__ import annotations

import dataclasses
from typing import Any

from validation.frontier.settings import TUNING_SHARE, Config
from validation.mnist.arms import Arm, Options

#: Names that claims speak of.
MSE, JITTER, SHAPED, ENTROPIC = "MSE", "jitter", "shaped jitter", "entropic"
WASSERSTEIN, BALL, MIXED = "Wasserstein, 4 steps", "ball, 3 steps", "ball and jitter"
LONGER, SPECTRAL = "jitter, three times the steps", "spectral network"


def arm_of(family: str, config: Config, target: float) -> Arm:
    """The arm by which a family is tuned."""
    radius = config.wasserstein * target
    arms = {
        "jitter": lambda: Arm(JITTER, "mse", noise=config.jitter),
        "shaped": lambda: Arm(SHAPED, "jitter", options={"level": config.shaped}),
        "entropic": lambda: Arm(
            ENTROPIC, "entropic", epsilon=2 * config.entropic**2, radius=radius
        ),
        "penalty": lambda: Arm("Jacobian penalty", "jacobian", options={"weight": config.penalty}),
        "mixed": lambda: _mixed(config, target),
        "wasserstein": lambda: _wasserstein(2, radius),
        "adversarial": lambda: _adversarial(2, config.adversarial * target),
        "ball": lambda: _ball(3, config.ball * target),
    }
    return arms[family]()


def _wasserstein(steps: int, radius: float) -> Arm:
    options: Options = {"steps": steps, "start": "zero", "probe": 0}
    name = f"Wasserstein, {steps} step{'s' if steps > 1 else ''}"
    return Arm(name, "wasserstein", radius=radius, options=options)


def _adversarial(steps: int, radius: float) -> Arm:
    name = f"projected gradient, {steps} steps"
    return Arm(name, "adversarial", radius=radius, options={"steps": steps})


def _ball(steps: int, radius: float) -> Arm:
    return Arm(f"ball, {steps} steps", "ball", radius=radius, options={"steps": steps})


def _mixed(config: Config, target: float) -> Arm:
    options: Options = {"level": config.mixed, "steps": 3}
    return Arm(MIXED, "ball and jitter", radius=config.ball * target, options=options)


def candidate(family: str, value: float, config: Config, target: float) -> Arm:
    """A short training of one candidate."""
    given: dict[str, Any] = {family: value}
    arm = arm_of(family, dataclasses.replace(config, **given), target)
    return dataclasses.replace(arm, name=f"select {family} {value:g}", steps_share=TUNING_SHARE)


def declared(config: Config, target: float, weighted: bool) -> list[Arm]:
    """All arms of one ball; shaped jitter is the jitter where the ball is isotropic."""
    radius = config.wasserstein * target
    shaped = [arm_of("shaped", config, target)] if weighted else []
    return [
        Arm(MSE, "mse"),
        arm_of("jitter", config, target),
        Arm(LONGER, "mse", noise=config.jitter, steps_share=3.0),
        *shaped,
        arm_of("entropic", config, target),
        arm_of("penalty", config, target),
        *(_wasserstein(steps, radius) for steps in (1, 2, 4)),
        Arm("linearised", "linearised", radius=radius, options={"iterations": 2, "probe": 0}),
        *(_adversarial(steps, config.adversarial * target) for steps in (2, 10)),
        *(_ball(steps, config.ball * target) for steps in (2, 3)),
        arm_of("mixed", config, target),
        Arm(SPECTRAL, "mse", noise=config.jitter),
    ]
