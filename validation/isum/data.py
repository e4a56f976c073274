"""Images, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from dro_core.cli.maps import load_map
from dro_core.types import Array
from dro_torch import data, physics
from dro_torch.transport_map import NoisyMeasurement
from validation.errors import UsageError
from validation.isum.settings import Config

#: Channels, height and width of the images of every data set.
SHAPES = {"mnist": (1, 32, 32), "cifar10": (3, 32, 32), "caltech101": (3, 64, 64)}
#: Factor of super-resolution.
FACTOR = 4
#: Standard deviations of the multi-level noise, and how frequent they are.
LEVELS, SHARES = (0.05, 0.10, 0.15, 0.20), (4, 3, 2, 1)
#: Class imbalance: weights of the two halves of the classes among measurements; clean: reversed.
HALVES = (3.0, 1.0)
#: Seed of the noise of test images, apart from all training seeds.
TEST_SEED = 10**6


def forward_operator(config: Config) -> physics.Forward:
    """A of the task; of `nonlinear` the user's own, where one is named."""
    if config.operator:
        return own_operator(config.operator, SHAPES[config.size.dataset])
    if config.task == "deblur":
        return physics.Convolution(physics.gaussian_kernel(config.blur), "reflect")
    if config.task == "sr":
        return physics.Downsampling(FACTOR)
    return physics.ClippedHDR() if config.task == "hdr" else physics.GammaMotionBlur()


def own_operator(name: str, image: tuple[int, int, int]) -> physics.Forward:
    """A user's forward operator: a file that torch exported, or ``package.module:name``.

    Raises
    ------
    UsageError
        If it cannot be read, maps no images, or changes their size.
    """
    try:
        found = load_map(name)
        if isinstance(found, torch.nn.Module):
            found = physics.pretrained_forward(found)
        forward = physics.as_forward(found)
        shape = tuple(forward.A(torch.zeros(2, *image)).shape)
    except Exception as error:  # whatever somebody's file or network raises
        raise UsageError(f"--set operator: {name}: {error}".splitlines()[0]) from error
    if shape != (2, *image):
        raise UsageError(
            f"--set operator: {name} maps images {(2, *image)} to {shape}; allowed: the same size"
        )
    return forward


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
    forward = forward_operator(config).to(config.device)
    return NoisyMeasurement(forward, levels, shares)


def measurement(config: Config, levelled: bool) -> NoisyMeasurement:
    """The task's measurement with noise of one level, or of several."""
    levels, shares = (LEVELS, SHARES) if levelled else ((config.noise,), (1,))
    return noisy_measurement(config, levels, shares)
