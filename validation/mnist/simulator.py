"""Robust simulator (§6.5): a forward map that noise in x does not get through."""

from __future__ import annotations

from collections.abc import Sequence

from validation.experiment import Claim
from validation.mnist.arms import Arm, Trained
from validation.mnist.deblurring import main_arms
from validation.mnist.measure import GAUSSIAN, Trials, largest_ratio, measure, models_of, ratio
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Splits, Task, unet
from validation.tables import Row, Tables

__all__ = ["Config", "run"]


class Simulator(ImageStudy):
    """The arms of `mnist deblurring` in the other direction, beside the naive simulator A(x)."""

    name, task = "mnist simulator", Task("simulator", unet, role="simulation")
    figure, moved = "simulator", "standard deviation of the noise in x"

    def declared(self, config: Config) -> list[Arm]:
        """DRO, MSE, and MSE at matched noise."""
        return main_arms(config)

    def gaussian(self, config: Config, data: Splits, arms: Sequence[Trained]) -> list[Row]:
        """The naive simulator too."""
        maps = {**models_of(arms), "naive": self.task.forward}
        return measure(maps, self.task, data.test, Trials.of(config))

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """Better than MSE and than the naive simulator under noise, and steadier."""
        rows, top = measured["gaussian"], GAUSSIAN[-1]
        naive, matched = (ratio(rows, "DRO", name, top) for name in ("naive", "MSE matched"))
        return [
            Claim("RMSE at the top noise, DRO / MSE", *ratio(rows, "DRO", "MSE", top), high=1.0),
            Claim("RMSE at the top noise, DRO / naive A(x)", *naive, high=1.0),
            Claim(
                "stability, DRO / MSE, largest over the noise",
                largest_ratio(rows, "DRO", "MSE"),
                0.0,
                high=1.0,
            ),
            Claim("control: RMSE at the top noise, DRO / MSE at matched noise", *matched, high=1.0),
        ]


run = Simulator().run
