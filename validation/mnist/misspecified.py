"""Misspecified operators (§6.3.1): the models of `mnist deblurring` on blurs they never saw.

With ``--set models=FOLDER`` the trained arms of an earlier run are used.
"""

from __future__ import annotations

from pathlib import Path

from dro_torch import physics
from validation.mnist import common
from validation.mnist.common import Claim, Config, ratio
from validation.mnist.deblurring import TASK, main_arms
from validation.results import Check

__all__ = ["Config", "run"]


def operators() -> dict[str, physics.Convolution]:
    """The blurs of the test, by name (the paper's parameters are lost)."""
    return {
        "isotropic, narrower": common.blur(1.0),
        "isotropic, wider": common.blur(2.0),
        "anisotropic": physics.Convolution(
            physics.anisotropic_gaussian_kernel((2.5, 1.0), 45.0, size=13), "zero"
        ),
        "motion": physics.Convolution(physics.motion_blur_kernel(5.0, 0.0), "zero"),
    }


@common.user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Measure every arm under every operator; written to `out`."""
    arms = common.fit_arms(config, TASK, main_arms(config), out)
    _, _, test = common.digits(config)
    tables, claims = {}, []
    top = common.GAUSSIAN[-1]
    for name, operator in operators().items():
        rows = common.measure(config, TASK, arms, test, forward=operator)
        tables[name.replace(", ", "_").replace(" ", "_")] = [{"operator": name, **r} for r in rows]
        common.plot_noise(out / name.replace(", ", "_"), rows, "standard deviation of the noise")
        claims += [
            Claim(f"{name}: RMSE at the top noise, DRO / MSE", *ratio(rows, "DRO", "MSE", top),
                  high=1.0),
            Claim(f"{name}: RMSE without noise, DRO / MSE", *ratio(rows, "DRO", "MSE", 0.0),
                  high=1.1),
            Claim(f"{name}: control, RMSE at the top noise, DRO / MSE at matched noise",
                  *ratio(rows, "DRO", "MSE matched", top), high=1.0),
        ]  # fmt: skip
    return common.finish("misspecified", config, out, arms, claims, tables)
