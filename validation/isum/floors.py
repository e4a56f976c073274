r"""Classical restorations that know what ISUM knows: the operator, and other clean images.

The best linear filters and total variation. Their one parameter is chosen on the validation images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn

from dro_core.types import Array
from dro_torch import data, metrics, physics
from validation.isum.data import (
    TEST_SEED,
    Pools,
    blur_spectrum,
    forward_operator,
    noisy_measurement,
    upsampling,
)
from validation.isum.settings import Config
from validation.isum.spectrum import Spectrum
from validation.mnist.classical import TotalVariation

#: From measurements to restored images.
Restore = Callable[[Tensor], Tensor]
#: Clean images that second moments are taken of.
IMAGES = 4000
#: What the variance of the noise is multiplied by in the linear map (few images, many pixels).
RIDGES = (1.0, 3.0, 10.0, 30.0)
#: Weights of total variation, of images in [-1, 1], over the variance of the noise.
VARIATION = (0.3, 1.0, 3.0, 10.0)


@lru_cache(maxsize=8)  # scores, other noise, distances and pictures ask for the same ones
def floors(config: Config, pools: Pools) -> Mapping[str, Restore]:
    """The floors of a task at the noise of `config`, by name."""
    clean = pools.unpaired(config, False)[1]
    found: dict[str, Restore] = {"measurement": physics.Upsampling(upsampling(config.task))}
    if config.task == "deblur":
        found["Wiener"] = wiener(config, clean)
    candidates = {"linear": [linear_map(config, clean, ridge) for ridge in RIDGES]}
    if config.task in ("deblur", "sr") and config.noise > 0:
        candidates["TV"] = [variation(config, weight) for weight in VARIATION]
    for name, ways in candidates.items():
        found[name] = _best(config, pools, ways)
    return MappingProxyType(found)


class FirstGuess(nn.Module):
    """A linear floor as a module: an affine map per channel, probed once; nothing is trained.

    Its numbers belong to the floor, not to what is learned: no checkpoint holds them.
    """

    def __init__(self, restore: Restore, measured: Sequence[int], image: Sequence[int]) -> None:
        super().__init__()
        entries, (channels, height, width) = measured[1] * measured[2], image
        unit = torch.eye(entries, dtype=torch.float64).reshape(entries, 1, *measured[1:])
        offset = restore(torch.zeros(1, *measured, dtype=torch.float64))
        moved = restore(unit.expand(-1, channels, -1, -1)) - offset
        self.size = (height, width)
        self.matrix: Tensor
        self.offset: Tensor
        matrix = moved.flatten(2).transpose(0, 1).float().contiguous()
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("offset", offset[0].flatten(1).float(), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        """Measurements to images, both (N, channels, height, width)."""
        with torch.autocast(y.device.type, enabled=False):
            rows = y.flatten(2).transpose(0, 1).to(self.matrix.dtype)
            moved = torch.baddbmm(self.offset[:, None], rows, self.matrix)
        restored: Tensor = moved.transpose(0, 1).unflatten(2, self.size)
        return restored


def first_guess(config: Config, pools: Pools) -> FirstGuess:
    """The linear floor of a task: the Wiener filter where there is one, or the best linear map."""
    known = floors(config, pools)
    clean = pools.learn[torch.arange(1)][1]
    measured = forward_operator(config).A(clean).shape[1:]
    return FirstGuess(known.get("Wiener", known["linear"]), measured, clean.shape[1:])


def _best(config: Config, pools: Pools, ways: Sequence[Restore]) -> Restore:
    """The way of the best PSNR on the validation images."""
    index, x, _ = pools.validation[torch.arange(min(100, len(pools.validation)))]
    y, _ = noisy_measurement(dataclasses.replace(config, device="cpu"), (config.noise,)).at(
        x, index, 0, seed=TEST_SEED, step=0
    )
    return max(ways, key=lambda way: float(metrics.psnr(x, way(y).clamp(-1, 1), 2.0).mean()))


def wiener(config: Config, clean: data.IndexedDataset) -> Restore:
    r"""The linear filter of least mean squared error, :math:`S k/(S k^2+\sigma^2)` per frequency.

    Frequencies are those of the cosine transform, which a symmetric kernel with reflecting edges is
    diagonal in; the power S and the mean are those of the clean pool.
    """
    x = clean[torch.arange(min(2000, len(clean)))][1]
    model = Spectrum.of(x, blur_spectrum(config.blur, x.shape[-2:]), config.noise)
    return partial(model.apply, model.wiener())


@dataclass(frozen=True)
class Moments:
    """Means and second moments of images and their noise-free measurements, channels alike."""

    mean: Array
    measured_mean: Array
    signal: Array  #: covariance of the images
    measured: Array  #: of the measurements
    across: Array  #: measurements by images


def second_moments(config: Config, clean: data.IndexedDataset, count: int) -> Moments:
    """Of so many images of a pool."""
    x = clean[torch.arange(min(count, len(clean)))][1]
    a = forward_operator(config).A(x)
    signals, measured = (t.flatten(0, 1).flatten(1).double().numpy() for t in (x, a))
    means = signals.mean(0), measured.mean(0)
    signals, measured = signals - means[0], measured - means[1]
    pairs = (signals, signals), (measured, measured), (measured, signals)
    return Moments(*means, *(one.T @ other / len(x) / x.shape[1] for one, other in pairs))


def linear_map(config: Config, clean: data.IndexedDataset, ridge: float = 1.0) -> Restore:
    r"""The affine map of least mean squared error, the same for every channel.

    .. math:: x \mapsto \bar x + C_{xa}\,(C_{aa} + r\sigma^2 I)^{-1}(y - \bar a),\qquad a = A(x)

    with means and second moments over the clean pool and its channels, measured without noise, and
    r the ridge (1: the noise itself). For any operator: a nonlinear one is not linearised, A(x) is
    regressed on.
    """
    known = second_moments(config, clean, IMAGES)
    size = clean[torch.arange(1)][1].shape[2:]
    moment = known.measured.copy()
    moment[np.diag_indices_from(moment)] += ridge * config.noise**2 + 1e-6
    matrix: Array = linalg.solve(moment, known.across, assume_a="pos")

    def restore(y: Tensor) -> Tensor:
        rows = y.double().cpu().flatten(2).numpy() - known.measured_mean
        return torch.from_numpy(known.mean + rows @ matrix).reshape(*y.shape[:2], *size).to(y)

    return restore


def variation(config: Config, weight: float, iterations: int = 100) -> Restore:
    r"""Minimiser of :math:`\tfrac12\|Ax-y\|^2 + w\sigma^2\mathrm{TV}(x)`, w the weight."""
    forward = forward_operator(config)
    assert isinstance(forward, physics.LinearForward)
    norm = 1.0 / upsampling(config.task)  # means over f x f pixels have the norm 1/f, a blur 1
    return partial(
        _apply, TotalVariation(forward, weight * config.noise**2 / norm**2, iterations, norm)
    )


def _apply(model: TotalVariation, y: Tensor) -> Tensor:
    restored: Tensor = model(y.cpu()).to(y.device)
    return restored
