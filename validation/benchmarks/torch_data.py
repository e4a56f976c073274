"""Benchmark of data in memory: drawing a batch against the smallest training step it feeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dro_torch.data import Batches, IndexedDataset
from validation.benchmarks.timing import median_ratio
from validation.results import Check, at_most
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Size of the data set and of the batches; MNIST's by default."""

    images: int = setting(60_000, "images in memory", low=1)
    side: int = setting(28, "images of side x side pixels", low=1)
    batch_size: int = setting(128, "images in a batch", low=1)
    runs: int = setting(30, "timed runs", low=1)
    seed: int = setting(0, "seed")


def rows(config: Config) -> list[Check]:
    """Two 3 x 3 convolutions of width 8 are a smaller step than that of any UNet."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.images, 1, config.side, config.side)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    batches = Batches(IndexedDataset(images), config.batch_size, config.seed)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 1, 3, padding=1))
    x = batches.batch(0)[1]
    step = 0

    def draw() -> None:
        nonlocal step
        step += 1
        batches.batch(step)

    def train() -> None:
        network.zero_grad()
        (network(x) - x).square().mean().backward()

    epoch = max(1, config.images // config.batch_size)
    fetch, training, ratio = median_ratio(draw, train, config.runs)

    def draw_epoch() -> None:
        for _ in range(epoch):
            draw()

    def train_epoch() -> None:
        for _ in range(epoch // 20):
            train()

    _, _, whole = median_ratio(draw_epoch, train_epoch, 3)
    print(
        f"batch of {config.batch_size} of {config.images} images: drawn in {1e3 * fetch:.3f} ms, "
        f"forward and backward of a two-layer network {1e3 * training:.2f} ms"
    )
    return [
        at_most("drawing a batch / step of a two-layer convolutional network", ratio, 0.1),
        at_most(
            "the same over an epoch, its permutation included",
            whole * max(1, epoch // 20) / epoch,
            0.1,
        ),
    ]
