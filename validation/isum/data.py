"""Images, what is measured of them, and the best linear filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional

from dro_core.types import Array
from dro_torch import data, physics
from dro_torch.transport_map import NoisyMeasurement
from validation.isum.settings import Config

#: Factor of super-resolution.
FACTOR = 4
#: Standard deviations of the multi-level noise, and how frequent they are.
LEVELS, SHARES = (0.05, 0.10, 0.15, 0.20), (4, 3, 2, 1)
#: Class imbalance: weights of the two halves of the classes among measurements; clean: reversed.
HALVES = (3.0, 1.0)
#: Seed of the noise of test images, apart from all training seeds.
TEST_SEED = 10**6


def forward_operator(task: str, width: float) -> physics.Forward:
    """A of the task; the width is that of the blur."""
    if task == "deblur":
        return physics.Convolution(physics.gaussian_kernel(width), "reflect")
    if task == "sr":
        return physics.Downsampling(FACTOR)
    return physics.ClippedHDR() if task == "hdr" else physics.GammaMotionBlur()


def upsampling(task: str) -> int:
    """How much larger signals are than measurements."""
    return FACTOR if task == "sr" else 1


@dataclass(frozen=True)
class Pools:
    """Training images with the half of the classes that they belong to; validation and test."""

    learn: data.IndexedDataset
    validation: data.IndexedDataset
    test: data.IndexedDataset

    def unpaired(
        self, config: Config, imbalanced: bool
    ) -> tuple[data.IndexedDataset, data.IndexedDataset]:
        """Images to be measured, and clean ones."""
        measured, clean = data.unpaired(self.learn, config.pairing, config.seed)
        if not imbalanced:  # groups are then the noise levels, not the classes
            images, pixels = self.learn.tensors[0], self.learn.value_range
            measured, clean = (
                data.IndexedDataset(images, value_range=pixels, index=pool.index)
                for pool in (measured, clean)
            )
            return measured, clean
        pools = []
        for pool, weights in ((measured, HALVES), (clean, HALVES[::-1])):
            half = pool.tensors[1][pool.index]
            pools.append(data.imbalanced(pool, half, dict(enumerate(weights)), config.seed))
        return pools[0], pools[1]


def load_images(config: Config) -> Pools:
    """Images in [-1, 1], MNIST extended to 32 x 32 pixels; test images are never trained with."""
    size, root = config.size, config.data or None
    if size.dataset == "mnist":
        found = [data.mnist(split, root) for split in ("train", "test")]
    elif size.dataset == "cifar10":
        found = [
            data.cifar10("train", root, config.source, "lossless4k"),
            data.cifar10("test", root, "lossless4k"),
        ]
    else:
        found = [data.caltech101(split, root) for split in ("train", "test")]
    sets = []
    for entry in found:
        images = entry.images
        if size.dataset == "mnist":
            images = functional.pad(images, (2, 2, 2, 2))
        half = (2 * entry.labels >= len(entry.classes)).long()
        sets.append(data.IndexedDataset(images, half, value_range=(-1.0, 1.0)))
    whole, test = sets
    order = np.random.default_rng((config.seed, 1)).permutation(len(whole))
    kept = torch.from_numpy(order[: size.images + size.validation])
    cut = max(4, len(kept) - size.validation)
    return Pools(
        whole.subset(kept[:cut]),
        whole.subset(kept[cut:]),
        test.subset(torch.arange(min(size.test, len(test)))),
    )


def wiener(config: Config, clean: data.IndexedDataset) -> Callable[[Tensor], Tensor]:
    r"""The linear filter of least mean squared error, :math:`S k/(S k^2+\sigma^2)` per frequency.

    Frequencies are those of the cosine transform, which a symmetric kernel with reflecting edges is
    diagonal in; the power S and the mean are those of the clean pool.
    """
    images = clean[torch.arange(min(2000, len(clean)))][1].double().numpy()
    mean = images.mean(0)
    power = (fft.dctn(images - mean, axes=(-2, -1), norm="ortho") ** 2).mean(0)
    blurred_mean = (
        forward_operator("deblur", config.blur).A(torch.from_numpy(mean)[None])[0].numpy()
    )
    gain = blur_spectrum(config.blur, images.shape[-2:])
    filtered = power * gain / (power * gain**2 + config.noise**2 + 1e-12)

    def restore(y: Tensor) -> Tensor:
        given = fft.dctn(y.double().cpu().numpy() - blurred_mean, axes=(-2, -1), norm="ortho")
        found = mean + fft.idctn(filtered * given, axes=(-2, -1), norm="ortho")
        return torch.from_numpy(found).to(y)

    return restore


def blur_spectrum(width: float, shape: Sequence[int]) -> Array:
    """Eigenvalues of the blur in the basis of the cosine transform."""
    line = physics.gaussian_kernel(width, dimensions=1).numpy()
    offset = np.arange(len(line)) - len(line) // 2
    rows, columns = (np.cos(np.pi * np.outer(np.arange(n), offset) / n) @ line for n in shape)
    return np.outer(rows, columns)


def noisy_measurement(
    config: Config, levels: Sequence[float], shares: Sequence[float] = (1,)
) -> NoisyMeasurement:
    """The task's measurement with noise of these levels."""
    forward = forward_operator(config.task, config.blur).to(config.device)
    return NoisyMeasurement(forward, levels, shares)


def measurement(config: Config, levelled: bool) -> NoisyMeasurement:
    """The task's measurement with noise of one level, or of several."""
    levels, shares = (LEVELS, SHARES) if levelled else ((config.noise,), (1,))
    return noisy_measurement(config, levels, shares)
