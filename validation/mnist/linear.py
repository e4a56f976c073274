"""A linear network in the deblurring experiment against the exact optimum of `fit_linear`.

The same training, with a matrix in place of the U-Net: its exact worst-case risk (entropic, judged
by `dro_core`) must come within 2 % of the smallest that any matrix has. The radius is small enough
for the optimum's multiplier to be four times the squared norm of its map: at half of that plain
draws have infinite variance, and a learned multiplier collapses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch

from dro_core import entropic_worst_case, fit_linear
from dro_torch import EntropicDROLoss, Multiplier, data, nets, training
from validation.errors import UsageError
from validation.experiment import user_errors
from validation.mnist.tasks import BLUR, SIDE, blur
from validation.results import Check, at_most, provenance, write_json
from validation.settings import Settings, setting

Estimator = Literal["sg", "tilted", "rt-mlmc"]


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; images are averaged over squares of `block` pixels."""

    data: str = setting("", "data root with mnist/; otherwise the environment variable DRO_DATA")
    block: int = setting(
        2, "pixels per side that are averaged: 28 / block per side are left", low=1
    )
    images: int = setting(500, "images, all of them in every step", low=1)
    steps: int = setting(2000, "training steps", low=1)
    samples: int = setting(16, "draws per image and step", low=1)
    estimator: str = setting(
        "sg", "of the loss: sg, tilted or rt-mlmc", choices=get_args(Estimator)
    )
    epsilon: float = setting(0.02, "entropy weight, in squared units of the data")
    radius: float = setting(0.1, "adjusted radius, in units of the data")
    rate: float = setting(3e-3, "largest learning rate")
    seed: int = setting(0, "seed")
    device: str = setting("cpu", "torch device")

    def __post_init__(self) -> None:
        super().__post_init__()
        if SIDE % self.block:
            raise UsageError(f"--set block: {self.block} does not divide {SIDE}")


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, and judge by the exact oracle; written to `out`."""
    digits = data.IndexedDataset(data.mnist("train", config.data or None).images)
    images = digits[torch.arange(config.images)][1]
    x = torch.nn.functional.avg_pool2d(images, config.block)
    y = blur(BLUR / config.block, min(9, x.shape[-1] - 1 | 1))(x)
    x, y = (t.flatten(1).to(config.device) for t in (x, y))
    rows, columns = (t.double().cpu().numpy() for t in (x, y))
    optimum = fit_linear(x=rows, y=columns, radius=config.radius, epsilon=config.epsilon)
    model = nets.LinearMap(np.eye(x.shape[1]))
    multiplier = Multiplier(config.radius, 2 * optimum.multiplier)
    loss = EntropicDROLoss(
        config.epsilon,
        "y|x",
        config.samples,
        cast(Estimator, config.estimator),
        rank=4,
        warm_start=config.estimator == "tilted",
    )
    index = torch.arange(len(x))
    phase = training.reconstruction_phase(
        model, loss, multiplier, rate={"model": config.rate, "multiplier": 0.02}
    )
    training.fit(
        phase,
        lambda step: (index, x, y),
        config.steps,
        seed=config.seed,
        warmup=config.steps // 20,
        device=config.device,
        folder=out / "run",
        checkpoint_every=200,
    )
    worst = entropic_worst_case(model.matrix(), rows, columns, config.radius, config.epsilon)
    ratio = worst.risk / optimum.risk
    print(
        f"worst-case risk: trained {worst.risk:.6g}, optimum {optimum.risk:.6g} (gap "
        f"{optimum.gap:.1e}); multiplier: learned {float(multiplier().detach()):.5g}, exact for "
        f"that map {worst.multiplier:.5g}, of the optimum {optimum.multiplier:.5g}"
    )
    checks = [
        at_most("worst-case risk of the trained linear network / optimum", ratio, 1.02),
        at_most("gap of fit_linear's certificate", optimum.gap, 1e-3),
    ]
    made = provenance("mnist linear", config)
    write_json(
        out / "linear.json",
        {**made, "checks": checks, "optimum": optimum.risk, "trained": worst.risk},
    )
    return checks
