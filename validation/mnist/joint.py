"""Appendix A: the joint ambiguity set beside the conditional one."""

from __future__ import annotations

from validation.experiment import Claim
from validation.mnist.arms import Arm
from validation.mnist.deblurring import TASK, main_arms
from validation.mnist.measure import GAUSSIAN, ratio
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy
from validation.tables import Tables

__all__ = ["Config", "run"]


class Joint(ImageStudy):
    """The arms of `mnist deblurring`, and one whose x may move too."""

    name, task, figure, examples = "mnist joint", TASK, "joint", False

    def declared(self, config: Config) -> list[Arm]:
        """The joint one first."""
        radius = config.radius
        joint = Arm(
            "joint DRO", "entropic", epsilon=config.epsilon, radius=radius, structure="joint"
        )
        return [joint, *main_arms(config)]

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """Slightly better without noise, slightly worse with it."""
        rows = measured["gaussian"]
        low, top = (ratio(rows, "joint DRO", "DRO", GAUSSIAN[k]) for k in (0, -1))
        return [
            Claim(
                "RMSE without noise, joint / conditional (paper: slightly better)", *low, high=1.0
            ),
            Claim(
                "RMSE at the top noise, joint / conditional (paper: slightly worse)", *top, low=1.0
            ),
            Claim(
                "the differences are small: RMSE at the top noise, ratio",
                *top,
                low=0.95,
                high=1.05,
            ),
        ]


run = Joint().run
