"""Extreme radii (§6.3.2): an MLP with dropout at a very small and a very large radius."""

from __future__ import annotations

import math
from pathlib import Path

from validation.mnist import common
from validation.mnist.common import Arm, Claim, Config, Task, ratio
from validation.results import Check

__all__ = ["Config", "run"]

TASK = Task("mlp", common.mlp)
#: Radii as multiples of `--set radius`; the paper's values are lost.
SMALL, LARGE = 0.1, 10.0


@common.user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, measure, judge; written to `out`."""
    arms = common.fit_arms(config, TASK, [
        Arm("small radius", "entropic", epsilon=config.epsilon / 8, radius=SMALL * config.radius),
        Arm("large radius", "entropic", epsilon=4 * config.epsilon, radius=LARGE * config.radius),
        Arm("MSE", "mse", noise=config.noise),
        Arm("MSE matched to large", "mse", noise=math.sqrt(2 * config.epsilon)),
    ], out)  # fmt: skip
    _, _, test = common.digits(config)
    rows = common.measure(config, TASK, arms, test)
    attacks = common.attack(config, TASK, arms, test)
    common.plot_noise(out / "radii", rows, "standard deviation of the noise")
    common.plot_attacks(out / "attacks", attacks)
    common.plot_examples(out / "examples", config, TASK, arms, test)
    low, top = common.GAUSSIAN[0], common.GAUSSIAN[-1]

    def steadier(a: str, b: str) -> float:
        return max(ratio(rows, a, b, s, "stability")[0] for s in common.GAUSSIAN)

    claims = [
        Claim("small radius near MSE without noise: RMSE ratio",
              *ratio(rows, "small radius", "MSE", low), low=0.9, high=1.1),
        Claim("large radius better at the top noise: RMSE, large / small",
              *ratio(rows, "large radius", "small radius", top), high=1.0),
        Claim("small radius better without noise: RMSE, small / large",
              *ratio(rows, "small radius", "large radius", low), high=1.0),
        Claim("stability, small / MSE, largest", steadier("small radius", "MSE"), 0.0, high=1.0),
        Claim("stability, large / small, largest", steadier("large radius", "small radius"), 0.0,
              high=1.0),
        Claim("control: RMSE at the top noise, large radius / MSE at matched noise",
              *ratio(rows, "large radius", "MSE matched to large", top), high=1.0),
    ]  # fmt: skip
    return common.finish("radii", config, out, arms, claims, {"gaussian": rows, "attacks": attacks})
