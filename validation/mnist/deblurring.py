"""MNIST deblurring (§6.3): DRO against MSE, with the control that decides what DRO adds.

The control is an MSE network trained with Gaussian noise of standard deviation √(ε/2), exactly what
the entropic loss injects.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from validation.mnist import baselines, common
from validation.mnist.common import Arm, Claim, Config, Task, Trained, ratio
from validation.results import Check

TASK = Task("deblurring", common.unet)


def main_arms(config: Config) -> list[Arm]:
    """The arms of every preset: DRO, MSE, and MSE at matched noise."""
    return [
        Arm("DRO", "entropic", epsilon=config.epsilon, radius=config.radius),
        Arm("MSE", "mse", noise=config.noise),
        Arm("MSE matched", "mse", noise=math.sqrt(config.epsilon / 2)),
    ]


def frontier_arms(config: Config) -> list[Arm]:
    """Losses compared at equal network passes (a pass forward and back counts two)."""
    k = config.size.samples
    arms = []
    for lam in (5.0, 20.0):
        arms += [
            Arm(f"entropic λ={lam:g}", "entropic", epsilon=config.epsilon, multiplier=lam),
            Arm(f"tilted λ={lam:g}", "entropic", epsilon=config.epsilon, multiplier=lam,
                options={"estimator": "tilted", "rank": 1, "samples": max(2, k - 4)}),
            Arm(f"Wasserstein λ={lam:g}", "wasserstein", multiplier=lam,
                options={"steps": 3, "iterations": 2}, steps_share=k / 8),
            Arm(f"linearised λ={lam:g}", "linearised", multiplier=lam,
                options={"iterations": 3}, steps_share=k / 8),
        ]  # fmt: skip
    return [
        *arms,
        Arm("adversarial", "adversarial", radius=2.0, steps_share=k / 4),
        Arm("Jacobian penalty", "jacobian", noise=config.noise, steps_share=k / 2),
    ]


def claims_of(
    gaussian: list[dict[str, Any]], poisson: list[dict[str, Any]], attacks: list[dict[str, Any]]
) -> list[Claim]:
    """The paper's claims, and the controls."""
    top, low = common.GAUSSIAN[-1], common.GAUSSIAN[0]
    stable = max(ratio(gaussian, "DRO", "MSE", s, "stability")[0] for s in common.GAUSSIAN)
    few = common.PHOTONS[-1]
    return [
        Claim("RMSE at the top noise, DRO / MSE", *ratio(gaussian, "DRO", "MSE", top), high=0.9),
        Claim("RMSE without noise, DRO / MSE", *ratio(gaussian, "DRO", "MSE", low), high=1.1),
        Claim("stability, DRO / MSE, largest over the noise", stable, 0.0, high=1.0),
        Claim("RMSE at the fewest photons, DRO / MSE",
              *ratio(poisson, "DRO", "MSE", few), high=1.0),
        Claim("control: RMSE at the top noise, DRO / MSE at matched noise",
              *ratio(gaussian, "DRO", "MSE matched", top), high=1.0),
        Claim("control: RMSE under attack of radius 2, DRO / MSE at matched noise",
              *ratio(attacks, "DRO", "MSE matched", 2.0, "attack_rmse"), high=1.0),
    ]  # fmt: skip


@common.user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, measure, judge; written to `out`."""
    full = config.size.targets
    if full or config.select:
        config = baselines.selected(config, TASK, out)
    arms: list[Trained] = common.fit_arms(config, TASK, main_arms(config), out)
    tables: dict[str, Any] = {}
    if full or config.bisect:
        by_bisection, both = baselines.bisected(config, TASK, arms[0], out)
        arms.append(by_bisection)
        tables["bisection"] = [{"quantity": key, "value": value} for key, value in both.items()]
    _, check, test = common.digits(config)
    if full or config.frontier:
        arms += common.fit_arms(config, TASK, frontier_arms(config), out)
        arms += baselines.classical(config, TASK, check)
    gaussian = common.measure(config, TASK, arms, test)
    poisson = common.measure(config, TASK, arms, test, "poisson")
    attacked = [arm for arm in arms if arm.arm.name != "TV"]
    attacks = common.attack(config, TASK, attacked, test)
    common.plot_noise(out / "gaussian", gaussian, "standard deviation of the noise")
    common.plot_noise(out / "poisson", poisson, "photons per pixel at full brightness")
    common.plot_attacks(out / "attacks", attacks)
    common.plot_examples(out / "examples", config, TASK, arms[:3], test)
    claims = claims_of(gaussian, poisson, attacks)
    if full:  # the same claims with another seed
        other = dataclasses.replace(config, seed=config.seed + 1)
        again = common.fit_arms(other, TASK, main_arms(other), out)
        repeated = claims_of(
            common.measure(other, TASK, again, test),
            common.measure(other, TASK, again, test, "poisson"),
            common.attack(other, TASK, again, test),
        )
        claims += [dataclasses.replace(c, claim=f"{c.claim} (another seed)") for c in repeated]
    tables |= {"gaussian": gaussian, "poisson": poisson, "attacks": attacks}
    return common.finish("deblurring", config, out, arms, claims, tables)
