"""Where maps go after their best validation: towards the law of clean images, or away from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from dro_core.types import Array
from dro_torch import metrics
from dro_torch.nets.transport import TransportMap
from dro_torch.transport_map import TransportRestoration
from validation.isum.data import TEST_SEED, Pools, noisy_measurement
from validation.isum.floors import floors
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
    half = min(config.kid, len(x) // 2)
    network = metrics.EfficientNetLite0((-1.0, 1.0)) if config.kid else None
    clean = network(x[half : 2 * half].cpu()) if network else None

    def row(name: str, seed: int | str, at: str, step: int | str, restored: Tensor) -> Row:
        restored = restored.clamp(-1, 1)
        found: Row = {"arm": name, "seed": seed, "at": at, "step": step}
        found["psnr"] = float(metrics.psnr(x, restored, 2.0).mean())
        found["ssim"] = float(metrics.ssim(x, restored, 2.0).mean())
        found["mismatch"] = mismatch(power(restored), reference)
        found["kid"] = ""
        if network is not None and clean is not None and seed in ("", config.seed):
            there = network(restored[:half].cpu())
            found["kid"] = float(metrics.kid(there, clean, min(100, half)).mean())
        return found

    rows = [row(name, "", "", "", way(y)) for name, way in floors(config, pools).items()]
    for run in arms:
        ways: dict[str, Callable[[Tensor], Tensor]] = {"best": run.restoration.restore}
        assert run.restoration.training is not None
        last = run.restoration.training.modules["T"]
        assert isinstance(last, TransportMap)
        ways["last"] = TransportRestoration(last).to(config.device).restore
        run.restoration.to(config.device)
        steps = run.validation["step"], run.history[-1]["step"]
        for (at, way), step in zip(ways.items(), steps, strict=True):
            rows.append(row(run.arm.name, run.run.seed, at, int(step), way(y)))
    return rows
