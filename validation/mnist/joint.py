"""Appendix A: the joint ambiguity set beside the conditional one."""

from __future__ import annotations

from pathlib import Path

from validation.mnist import common
from validation.mnist.common import Arm, Claim, Config, ratio
from validation.mnist.deblurring import TASK, main_arms
from validation.results import Check

__all__ = ["Config", "run"]


@common.user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, measure, judge; written to `out`."""
    joint = Arm("joint DRO", "entropic", epsilon=config.epsilon, radius=config.radius,
                structure="joint")  # fmt: skip
    arms = common.fit_arms(config, TASK, [joint, *main_arms(config)], out)
    _, _, test = common.digits(config)
    rows = common.measure(config, TASK, arms, test)
    attacks = common.attack(config, TASK, arms, test)
    common.plot_noise(out / "joint", rows, "standard deviation of the noise")
    common.plot_attacks(out / "attacks", attacks)
    low, top = common.GAUSSIAN[0], common.GAUSSIAN[-1]
    claims = [
        Claim("RMSE without noise, joint / conditional (paper: slightly better)",
              *ratio(rows, "joint DRO", "DRO", low), high=1.0),
        Claim("RMSE at the top noise, joint / conditional (paper: slightly worse)",
              *ratio(rows, "joint DRO", "DRO", top), low=1.0),
        Claim("the differences are small: RMSE at the top noise, ratio",
              *ratio(rows, "joint DRO", "DRO", top), low=0.95, high=1.05),
    ]  # fmt: skip
    return common.finish("joint", config, out, arms, claims, {"gaussian": rows, "attacks": attacks})
