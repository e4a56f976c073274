"""The arms of the frontier: every way of training for one ball, and its candidates."""

from __future__ import annotations

from validation.frontier.settings import TUNING_SHARE, Config
from validation.mnist.arms import Arm

#: Names that claims speak of.
MSE, JITTER, SHAPED, ENTROPIC = "MSE", "jitter", "shaped jitter", "entropic"
WASSERSTEIN, BALL, MIXED = "Wasserstein, 4 steps", "ball, 3 steps", "ball and jitter"
LONGER = "jitter, equal passes"
#: Network passes of a step (a pass forward and back counts two) of a plain loss.
PLAIN = 2.0


def arm_of(family: str, config: Config, target: float) -> Arm:
    """The arm by which a family is tuned."""
    radius = config.wasserstein * target
    arms = {
        "jitter": lambda: Arm(JITTER, "mse", noise=config.jitter),
        "shaped": lambda: Arm(SHAPED, "jitter", noise=config.shaped),
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
    options: dict[str, int | float | str] = {"steps": steps, "start": "zero", "probe": 0}
    name = f"Wasserstein, {steps} step{'s' if steps > 1 else ''}"
    return Arm(name, "wasserstein", radius=radius, options=options)


def _adversarial(steps: int, radius: float) -> Arm:
    name = f"projected gradient, {steps} steps"
    return Arm(name, "adversarial", radius=radius, options={"steps": steps})


def _ball(steps: int, radius: float) -> Arm:
    return Arm(f"ball, {steps} steps", "ball", radius=radius, options={"steps": steps})


def _mixed(config: Config, target: float) -> Arm:
    radius = config.ball * target
    return Arm(MIXED, "ball and jitter", noise=config.mixed, radius=radius, options={"steps": 3})


def candidate(family: str, value: float, config: Config, target: float) -> Arm:
    """A short training of one candidate."""
    changed = {**vars(config), family: value}
    arm = arm_of(family, Config(**changed), target)
    shown = {**vars(arm), "name": f"select {family} {value:g}", "steps_share": TUNING_SHARE}
    return Arm(**shown)


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
        Arm("spectral network", "mse", noise=config.jitter),
    ]


def passes(arm: Arm, samples: int) -> float:
    """Network passes per sample and step, a pass forward and back counts two."""
    steps = float(arm.options.get("steps", 0))
    return {
        "mse": PLAIN,
        "jitter": PLAIN,
        "jacobian": 2 * PLAIN,
        "entropic": PLAIN * samples,
        "wasserstein": 2 * steps + 2 + PLAIN - 1,
        "linearised": 3 + 2 * float(arm.options.get("iterations", 0)) + 3,
        "adversarial": 2 * steps + PLAIN,
        "ball": 2 * steps + PLAIN,
        "ball and jitter": (2 * steps + 2 * PLAIN) / 2,
    }[arm.kind]
