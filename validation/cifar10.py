"""CIFAR-10 deblurring (§6.4): the experiment on digits, on colour images.

The same code, arms, controls and presets as `validation.mnist.deblurring`; only the images, the
network's channels and the paper's claims are others. Where ``cifar10_jpeg60k.npz`` lies under the
data root, training and validation images are taken from it without the images of
``cifar10_lossless4k.npz``, on which everything is measured; otherwise from the official files.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from dro_torch import data, nets
from validation.experiment import Claim
from validation.mnist.deblurring import DeblurringStudy
from validation.mnist.measure import GAUSSIAN, by_level, largest_ratio, ratio
from validation.mnist.settings import Config, Preset
from validation.mnist.tasks import ImageSet, Task
from validation.tables import Row, Tables

__all__ = ["Config", "run"]


@lru_cache(maxsize=2)
def colour_images(split: str, root: str | None) -> Tensor:
    """Images (N, 3, 32, 32); decoding takes seconds, so they are kept."""
    if not (data.data_root(root) / "cifar10_jpeg60k.npz").exists():
        return data.cifar10(split, root).images
    if split == "test":
        return data.cifar10("test", root, "lossless4k").images
    return data.cifar10("train", root, "jpeg60k", "lossless4k").images


def unet(size: Preset, generator: torch.Generator) -> nn.Module:
    """The U-Net of the digits, from colours to colours."""
    return nets.UNet(3, 3, size.depth, size.width, generator=generator)


def gap(rows: list[Row], level: float) -> tuple[float, float]:
    """RMSE of MSE minus that of DRO, with its standard deviation over the trials."""
    means, spreads = (
        [by_level(rows, arm, column)[level] for arm in ("MSE", "DRO")]
        for column in ("rmse", "rmse_sd")
    )
    return means[0] - means[1], math.hypot(*spreads)


class Cifar10(DeblurringStudy):
    """§6.4."""

    name = "cifar10"
    task = Task("cifar10", unet, images=ImageSet((3, 32, 32), colour_images))

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """Better at every noise, the gap widens, stable and slowly growing; and the controls."""
        rows, attacks = measured["gaussian"], measured["attacks"]
        low, top = GAUSSIAN[0], GAUSSIAN[-1]
        worst = max((ratio(rows, "DRO", "MSE", level) for level in GAUSSIAN), key=lambda r: r[0])
        first, last = gap(rows, low), gap(rows, top)
        growth = {
            arm: by_level(rows, arm, "stability")[top] / by_level(rows, arm, "stability")[low]
            for arm in ("DRO", "MSE")
        }
        return [
            Claim("RMSE, DRO / MSE, largest over the noise", *worst, high=1.0),
            Claim("RMSE at the top noise, DRO / MSE", *ratio(rows, "DRO", "MSE", top), high=1.0),
            Claim(
                "the gap MSE - DRO in RMSE, top noise minus none",
                last[0] - first[0],
                math.hypot(first[1], last[1]),
                low=0.0,
            ),
            Claim(
                "stability, DRO / MSE, largest over the noise",
                largest_ratio(rows, "DRO", "MSE"),
                0.0,
                high=1.0,
            ),
            Claim(
                "growth of the stability's number with the noise, DRO / MSE",
                growth["DRO"] / growth["MSE"],
                0.0,
                high=1.0,
            ),
            Claim(
                "control: RMSE at the top noise, DRO / MSE at matched noise",
                *ratio(rows, "DRO", "MSE matched", top),
                high=1.0,
            ),
            Claim(
                "control: RMSE under attack of radius 2, DRO / MSE at matched noise",
                *ratio(attacks, "DRO", "MSE matched", 2.0, "attack_rmse"),
                high=1.0,
            ),
        ]


run = Cifar10().run
