"""Robust simulator (§6.5): a forward map that noise in x does not get through."""

from __future__ import annotations

import math
from pathlib import Path

from validation.mnist import common
from validation.mnist.common import Arm, Claim, Config, Task, ratio
from validation.results import Check

__all__ = ["Config", "run"]

TASK = Task("simulator", common.unet, role="simulation")


@common.user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, measure beside the naive simulator A(x), judge; written to `out`."""
    arms = common.fit_arms(config, TASK, [
        Arm("DRO", "entropic", epsilon=config.epsilon, radius=config.radius),
        Arm("MSE", "mse", noise=config.noise),
        Arm("MSE matched", "mse", noise=math.sqrt(config.epsilon / 2)),
    ], out)  # fmt: skip
    _, _, test = common.digits(config)
    rows = common.measure(config, TASK, arms, test, naive=TASK.forward)
    attacks = common.attack(config, TASK, arms, test)
    common.plot_noise(out / "simulator", rows, "standard deviation of the noise in x")
    common.plot_attacks(out / "attacks", attacks)
    common.plot_examples(out / "examples", config, TASK, arms, test)
    top = common.GAUSSIAN[-1]
    claims = [
        Claim("RMSE at the top noise, DRO / MSE", *ratio(rows, "DRO", "MSE", top), high=1.0),
        Claim("RMSE at the top noise, DRO / naive A(x)", *ratio(rows, "DRO", "naive", top),
              high=1.0),
        Claim("stability, DRO / MSE, largest over the noise",
              max(ratio(rows, "DRO", "MSE", s, "stability")[0] for s in common.GAUSSIAN), 0.0,
              high=1.0),
        Claim("control: RMSE at the top noise, DRO / MSE at matched noise",
              *ratio(rows, "DRO", "MSE matched", top), high=1.0),
    ]  # fmt: skip
    return common.finish("simulator", config, out, arms, claims,
                         {"gaussian": rows, "attacks": attacks})  # fmt: skip
