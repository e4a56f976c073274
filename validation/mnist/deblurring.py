"""MNIST deblurring (§6.3): DRO against MSE, with the control that decides what DRO adds.

The control is an MSE network trained with Gaussian noise of standard deviation √(ε/2), exactly what
the entropic loss injects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from validation.experiment import Claim
from validation.mnist.arms import Arm, Trained, fit_arms, train_side_by_side
from validation.mnist.classical import classical
from validation.mnist.measure import (
    GAUSSIAN,
    PHOTONS,
    Trials,
    focus,
    largest_ratio,
    measure,
    models_of,
    ratio,
)
from validation.mnist.plots import plot_noise
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy, first
from validation.mnist.tasks import Splits, Task, unet
from validation.mnist.tuning import (
    BISECTED,
    bisected,
    bisection_cost,
    bisection_rows,
)
from validation.tables import Tables

__all__ = ["Config", "run"]

TASK = Task("deblurring", unet)


def main_arms(config: Config) -> list[Arm]:
    """The arms of every preset: DRO, MSE, and MSE at matched noise."""
    return [
        Arm("DRO", "entropic", epsilon=config.epsilon, radius=config.radius),
        Arm("MSE", "mse", noise=config.noise),
        Arm("MSE matched", "mse", noise=math.sqrt(config.epsilon / 2)),
    ]


def frontier_arms(epsilon: float, noise: float, samples: int) -> list[Arm]:
    """Losses compared at equal network passes (a pass forward and back counts two)."""
    k = samples
    arms = []
    for lam in (5.0, 20.0):
        arms += [
            Arm(f"entropic λ={lam:g}", "entropic", epsilon=epsilon, multiplier=lam),
            Arm(
                f"tilted λ={lam:g}",
                "entropic",
                epsilon=epsilon,
                multiplier=lam,
                options={"estimator": "tilted", "rank": 1, "samples": max(2, k - 4)},
            ),
            Arm(
                f"Wasserstein λ={lam:g}",
                "wasserstein",
                multiplier=lam,
                options={"steps": 3, "iterations": 2},
                steps_share=k / 8,
            ),
            Arm(
                f"linearised λ={lam:g}",
                "linearised",
                multiplier=lam,
                options={"iterations": 3},
                steps_share=k / 8,
            ),
        ]
    return [
        *arms,
        Arm("adversarial", "adversarial", radius=2.0, steps_share=k / 4),
        Arm("Jacobian penalty", "jacobian", noise=noise, steps_share=k / 2),
    ]


def claims_of(measured: Tables) -> list[Claim]:
    """The paper's claims, and the controls."""
    gaussian, poisson, attacks = (measured[key] for key in ("gaussian", "poisson", "attacks"))
    saliency = measured["focus"]
    top, low, few = GAUSSIAN[-1], GAUSSIAN[0], PHOTONS[-1]
    return [
        Claim("RMSE at the top noise, DRO / MSE", *ratio(gaussian, "DRO", "MSE", top), high=0.9),
        Claim("RMSE without noise, DRO / MSE", *ratio(gaussian, "DRO", "MSE", low), high=1.1),
        Claim(
            "stability, DRO / MSE, largest over the noise",
            largest_ratio(gaussian, "DRO", "MSE"),
            0.0,
            high=1.0,
        ),
        Claim(
            "RMSE at the fewest photons, DRO / MSE", *ratio(poisson, "DRO", "MSE", few), high=1.0
        ),
        Claim(
            "share of the saliency that lies on strokes, at the top noise, DRO / MSE",
            *ratio(saliency, "DRO", "MSE", top, "focus"),
            low=1.0,
        ),
        Claim(
            "control: the same, DRO / MSE at matched noise",
            *ratio(saliency, "DRO", "MSE matched", top, "focus"),
            low=1.0,
        ),
        Claim(
            "control: RMSE at the top noise, DRO / MSE at matched noise",
            *ratio(gaussian, "DRO", "MSE matched", top),
            high=1.0,
        ),
        Claim(
            "control: RMSE under attack of radius 2, DRO / MSE at matched noise",
            *ratio(attacks, "DRO", "MSE matched", 2.0, "attack_rmse"),
            high=1.0,
        ),
    ]


def differentiable(arms: Sequence[Trained]) -> list[Trained]:
    """All but total variation, whose iterations are not worth the time of an attack."""
    return [arm for arm in arms if arm.arm.name != "TV"]


class DeblurringStudy(ImageStudy):
    """Where there are targets: tuned, bisected too, beside classical maps, with further seeds.

    Other losses are compared in `validation.frontier`; here they are trained on request.
    """

    figure = "gaussian"

    def declared(self, config: Config) -> list[Arm]:
        """DRO, MSE, and MSE at matched noise."""
        return main_arms(config)

    def arms(self, config: Config, data: Splits, out: Path) -> list[Trained]:
        """The main arms; with the bisected multiplier; the other losses and classical maps."""
        full, size = config.size.targets, config.size
        arms = super().arms(config, data, out)
        if full or config.bisect:
            arms.append(bisected(config, self.task, arms[0], out))
        if config.frontier:
            others = frontier_arms(config.epsilon, config.noise, size.samples)
            train_side_by_side([(config, self.task, arm) for arm in others], out)
            arms += fit_arms(config, self.task, others, out)
        if full or config.frontier:
            images = min(size.images, 5000)
            arms += classical(self.task, config.data, images, data.check, Trials.of(config))
        return arms

    def measures(self, config: Config, data: Splits, arms: Sequence[Trained]) -> Tables:
        """Gaussian and Poisson noise, attacks, and what both ways of finding λ took."""
        tables: Tables = {}
        by_name = {arm.arm.name: arm for arm in arms}
        if BISECTED in by_name:
            pair = by_name["DRO"], by_name[BISECTED]
            tables["bisection"] = bisection_rows(config, self.task, data.check, *pair)
        trials = Trials.of(config)
        return {
            **tables,
            "gaussian": self.gaussian(config, data, arms),
            "poisson": measure(models_of(arms), self.task, data.test, trials, "poisson"),
            "attacks": self.attacks(config, data, differentiable(arms)),
        }

    def extra(self, config: Config) -> list[Arm]:
        """What is tuned on validation images, bisected, and the other losses."""
        if not config.size.targets:
            return []
        found = [*super().extra(config), bisection_cost(config)]
        if config.frontier:
            found += frontier_arms(config.epsilon, config.noise, config.size.samples)
        return found

    def plots(
        self,
        config: Config,
        data: Splits,
        arms: Sequence[Trained],
        measured: Tables,
        out: Path,
    ) -> None:
        """Poisson noise too."""
        super().plots(config, data, arms, measured, out)
        plot_noise(out / "poisson", measured["poisson"], "photons per pixel at full brightness")


class Deblurring(DeblurringStudy):
    """On digits, whose saliency maps are measured too."""

    name, task = "mnist deblurring", TASK

    def measures(self, config: Config, data: Splits, arms: Sequence[Trained]) -> Tables:
        """What share of the saliency lies on strokes."""
        images = first(data, 200, config.device)
        shares = focus(models_of(differentiable(arms)), self.task, images)
        return {**super().measures(config, data, arms), "focus": shares}

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """The paper's claims, and the controls."""
        return claims_of(measured)


run = Deblurring().run
