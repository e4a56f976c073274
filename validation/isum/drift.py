"""Where maps go after their best validation: towards the law of clean images, or away from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dro_core.types import Array
from dro_torch.nets.transport import TransportMap
from dro_torch.transport_map import TransportRestoration
from validation.isum.data import TEST_SEED, Pools, noisy_measurement
from validation.isum.floors import floors
from validation.isum.judge import Judge
from validation.isum.settings import Config
from validation.isum.spectrum import power_of
from validation.isum.training import Trained
from validation.tables import Row


def mismatch(found: Array, reference: Array) -> float:
    r"""Squared W2 distance of stationary Gaussians over the variance of the second one.

    :math:`\sum_k(\sqrt{P_k} - \sqrt{S_k})^2 / \sum_k S_k` for the powers per frequency: zero for a
    map whose outputs match the spectrum of clean images, below one for those that are too smooth.
    """
    return float(((np.sqrt(found) - np.sqrt(reference)) ** 2).sum() / reference.sum())


def power(images: Tensor) -> Array:
    """Per frequency of the cosine transform, over images and channels."""
    return np.asarray(power_of(images.detach().double().cpu().numpy()).mean(0))


def drift_rows(config: Config, pools: Pools, arms: Sequence[Trained]) -> list[Row]:
    """PSNR, SSIM and mismatch of arms of one level at their best and at their last step.

    With `--set kid=N` of the first training of every arm EffNet-Lite0 KID, too; floors, which
    do not move, stand first.
    """
    index, x, *_ = pools.test[torch.arange(len(pools.test))]
    index, x = index.to(config.device), x.to(config.device)
    y, _ = noisy_measurement(config, (config.noise,)).at(x, index, 0, seed=TEST_SEED + 1, step=0)
    reference = power(x)
    judge = Judge(x, config.kid)

    def row(name: str, seed: int | str, at: str, step: int | str, restored: Tensor) -> Row:
        restored = restored.clamp(-1, 1)
        scored = judge.row(restored, kid=seed in ("", config.seed))
        scored["mismatch"] = mismatch(power(restored), reference)
        return {"arm": name, "seed": seed, "at": at, "step": step} | scored

    rows = [row(name, "", "", "", way(y)) for name, way in floors(config, pools).items()]
    for run in arms:
        assert run.restoration.training is not None
        last = run.restoration.training.modules["T"]
        assert isinstance(last, TransportMap)
        for at, end, restoration in (
            ("best", run.validation, run.restoration),
            ("last", run.history[-1], TransportRestoration(last)),
        ):
            restored = restoration.to(config.device).restore(y)
            rows.append(row(run.arm.name, run.run.seed, at, int(end["step"]), restored))
    return rows
