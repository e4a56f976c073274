"""Misspecified operators (§6.3.1): the models of `mnist deblurring` on blurs they never saw.

With ``--set models=FOLDER`` the trained arms of an earlier run are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dro_torch import physics
from validation.experiment import Claim
from validation.mnist.arms import Arm, Trained
from validation.mnist.deblurring import TASK, main_arms
from validation.mnist.measure import GAUSSIAN, Trials, measure, models_of, ratio
from validation.mnist.plots import plot_noise
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Splits, blur
from validation.tables import Tables

__all__ = ["Config", "run"]


def operators() -> dict[str, physics.Convolution]:
    """The blurs of the test, by name (the paper's parameters are lost)."""
    return {
        "isotropic, narrower": blur(1.0),
        "isotropic, wider": blur(2.0),
        "anisotropic": physics.Convolution(
            physics.anisotropic_gaussian_kernel((2.5, 1.0), 45.0, size=13), "zero"
        ),
        "motion": physics.Convolution(physics.motion_blur_kernel(5.0, 0.0), "zero"),
    }


def file_name(operator: str) -> str:
    """Of an operator's figure."""
    return operator.replace(", ", "_")


class Misspecified(ImageStudy):
    """The arms of `mnist deblurring` under every operator."""

    name, task = "mnist misspecified", TASK

    def declared(self, config: Config) -> list[Arm]:
        """Those of `mnist deblurring`."""
        return main_arms(config)

    def measures(self, config: Config, data: Splits, arms: Sequence[Trained]) -> Tables:
        """A table per operator."""
        tables: Tables = {}
        for name, operator in operators().items():
            task = dataclasses.replace(TASK, forward=operator)
            rows = measure(models_of(arms), task, data.test, Trials.of(config))
            tables[file_name(name)] = [{"operator": name, **row} for row in rows]
        return tables

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """Of §6.3, under every operator."""
        claims = []
        for name in operators():
            rows = measured[file_name(name)]
            top = ratio(rows, "DRO", "MSE", GAUSSIAN[-1])
            matched = ratio(rows, "DRO", "MSE matched", GAUSSIAN[-1])
            control = "control, RMSE at the top noise, DRO / MSE at matched noise"
            low = ratio(rows, "DRO", "MSE", 0.0)
            claims += [
                Claim(f"{name}: RMSE at the top noise, DRO / MSE", *top, high=1.0),
                Claim(f"{name}: RMSE without noise, DRO / MSE", *low, high=1.1),
                Claim(f"{name}: {control}", *matched, high=1.0),
            ]
        return claims

    def plots(
        self,
        config: Config,
        data: Splits,
        arms: Sequence[Trained],
        measured: Tables,
        out: Path,
    ) -> None:
        """A figure per operator."""
        for name, rows in measured.items():
            plot_noise(out / name, rows, self.moved)


run = Misspecified().run
