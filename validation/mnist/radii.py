"""Extreme radii (§6.3.2): an MLP with dropout at a very small and a very large radius."""

from __future__ import annotations

import math

from validation.experiment import Claim
from validation.mnist.arms import Arm
from validation.mnist.measure import GAUSSIAN, largest_ratio, ratio
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Task, mlp
from validation.tables import Tables

__all__ = ["Config", "run"]

#: Radii as multiples of `--set radius`; the paper's values are lost.
SMALL, LARGE = 0.1, 10.0


class Radii(ImageStudy):
    """Both radii beside the MSE network, and beside one at the larger radius's noise."""

    name, task, figure = "mnist radii", Task("mlp", mlp), "radii"

    def declared(self, config: Config) -> list[Arm]:
        """Entropy weights go along with the radii."""
        epsilon, radius = config.epsilon, config.radius
        return [
            Arm("small radius", "entropic", epsilon=epsilon / 8, radius=SMALL * radius),
            Arm("large radius", "entropic", epsilon=4 * epsilon, radius=LARGE * radius),
            Arm("MSE", "mse", noise=config.noise),
            Arm("MSE matched to large", "mse", noise=math.sqrt(2 * epsilon)),
        ]

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """The small radius is near MSE, the large one is robust and steady."""
        rows, low, top = measured["gaussian"], GAUSSIAN[0], GAUSSIAN[-1]
        return [
            Claim(
                "small radius near MSE without noise: RMSE ratio",
                *ratio(rows, "small radius", "MSE", low),
                low=0.9,
                high=1.1,
            ),
            Claim(
                "large radius better at the top noise: RMSE, large / small",
                *ratio(rows, "large radius", "small radius", top),
                high=1.0,
            ),
            Claim(
                "small radius better without noise: RMSE, small / large",
                *ratio(rows, "small radius", "large radius", low),
                high=1.0,
            ),
            Claim(
                "stability, small / MSE, largest",
                largest_ratio(rows, "small radius", "MSE"),
                0.0,
                high=1.0,
            ),
            Claim(
                "stability, large / small, largest",
                largest_ratio(rows, "large radius", "small radius"),
                0.0,
                high=1.0,
            ),
            Claim(
                "control: RMSE at the top noise, large radius / MSE at matched noise",
                *ratio(rows, "large radius", "MSE matched to large", top),
                high=1.0,
            ),
        ]


run = Radii().run
