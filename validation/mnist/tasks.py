"""Images, and what is learned about them: the forward operator, the networks and their roles."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dro_torch import (
    Structure,
    XGivenY,
    YGivenX,
    data,
    forward_residual,
    nets,
    physics,
    reconstruction_residual,
)
from validation.mnist.settings import Config, Preset

SIDE = 28
PIXELS = SIDE * SIDE
#: Standard deviation of the blur; the paper's value is lost.
BLUR = 1.5

#: From inputs to outputs: a network, or a fixed map.
Map = Callable[[Tensor], Tensor]
#: Target minus output of a map, at samples (x, y).
Residual = Callable[[Map, Tensor, Tensor], Tensor]


def fingerprint(images: data.IndexedDataset) -> int:
    """The CRC-32 of the pixels: which data set results are from."""
    pixels: Tensor = images[torch.arange(len(images))][1].cpu()
    return zlib.crc32(pixels.mul(255).round().to(torch.uint8).numpy().tobytes())


class Splits(NamedTuple):
    """Training, validation and test images."""

    learn: data.IndexedDataset
    check: data.IndexedDataset
    test: data.IndexedDataset


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape, (channels, height, width): `load(split, root)` reads a split."""

    shape: tuple[int, int, int]
    load: Callable[[str, str | None], Tensor]

    @property
    def pixels(self) -> int:
        """Numbers in an image."""
        return math.prod(self.shape)

    def whole(self, split: str, root: str | None) -> data.IndexedDataset:
        """All images of a split."""
        return data.IndexedDataset(self.load(split, root or None))

    def splits(self, config: Config) -> Splits:
        """Training, validation and test images; the first two never see the test files."""
        size = config.size
        whole, test = (self.whole(split, config.data) for split in ("train", "test"))
        shares = [count / len(whole) for count in (size.images, size.validation)]
        learn, check = data.split(whole, shares, config.seed)
        return Splits(learn, check, test.subset(torch.arange(min(size.test, len(test)))))


def _digits(split: str, root: str | None) -> Tensor:
    return data.mnist(split, root).images


#: MNIST, or whatever lies in its files.
MNIST = ImageSet((1, SIDE, SIDE), _digits)


@dataclass(frozen=True)
class Task:
    """What is learned: from images to (input, target) of the network.

    ``role`` is "reconstruction" (input Ax, target x) or "simulation" (input x, target Ax).
    """

    name: str
    network: Callable[[Preset, torch.Generator], nn.Module]
    role: str = "reconstruction"
    images: ImageSet = MNIST
    forward: physics.Forward = field(default_factory=lambda: blur(BLUR))
    #: of the transport cost, per entry of the network's input: for all samples, or from (x, y)
    weight: Tensor | Callable[[Tensor, Tensor], Tensor] | None = None
    first_multiplier: float = 20.0  #: where a learned λ starts
    lowest_multiplier: float = 0.1  #: a learned λ stays above it

    @property
    def structure(self) -> Structure:
        """The variable that is the network's input moves."""
        kind = YGivenX if self.role == "reconstruction" else XGivenY
        return kind(self.weight)

    @property
    def residual(self) -> Residual:
        """What the losses measure."""
        return reconstruction_residual if self.role == "reconstruction" else forward_residual

    def items(self, images: Tensor) -> Tensor:
        """What a data set has of images: themselves, or more where measurements come with them."""
        return images

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) without noise."""
        return images, self.forward(images)

    def input_and_target(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees, and what it should give."""
        x, y = self.pair(images)
        return (y, x) if self.role == "reconstruction" else (x, y)


def blur(width: float, size: int = 9) -> physics.Convolution:
    """The paper's forward operator: Gaussian blur with zeros outside ("same" padding)."""
    return physics.Convolution(physics.gaussian_kernel(width, size=size), "zero")


def unet(size: Preset, generator: torch.Generator) -> nn.Module:
    """The U-Net of §6.3."""
    return nets.UNet(1, 1, size.depth, size.width, generator=generator)


def mlp(size: Preset, generator: torch.Generator) -> nn.Module:
    """The MLP of §6.3.2, with dropout."""
    hidden = 32 * size.width
    return nets.MLP([PIXELS, hidden, hidden, PIXELS], dropout=0.1, generator=generator)
