"""Images and a blur as a Gaussian law: powers and gains per frequency, and the filters they give.

A blur with reflecting edges and stationary images decouple in the basis of the cosine transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from dro_core import matching_price
from dro_core.types import Array
from dro_core.unbalanced import unbalanced_gaussian

#: Frequencies that are solved at a time: they do not know of each other.
BLOCK = 16
#: Least power, relative to the largest: constant pixels have none.
LEAST = 1e-12


def transformed(images: Array) -> Array:
    """In the basis of the cosine transform, (..., height, width)."""
    return np.asarray(fft.dctn(images, axes=(-2, -1), norm="ortho"))


def power_of(images: Array) -> Array:
    """Mean image, transformed, and power per frequency of images (N, channels, height, width)."""
    mean = images.mean(0)
    return np.asarray((transformed(images - mean) ** 2).mean(0))


@dataclass(frozen=True)
class Spectrum:
    """The Gaussian model of a blur: power and mean of images, gain and noise per frequency."""

    mean: Array  #: of the images, (channels, height, width)
    power: Array  #: of the images in the basis of the cosine transform
    gain: Array  #: of the blur, (height, width)
    noise: float

    @classmethod
    def of(cls, images: Tensor, gain: Array, noise: float) -> Spectrum:
        """The law with the mean and the powers of these images."""
        x = images.double().cpu().numpy()
        power = power_of(x)
        return cls(x.mean(0), np.maximum(power, LEAST * power.max()), gain, noise)

    @property
    def measured(self) -> Array:
        """Power of the measurements."""
        return np.asarray(self.power * self.gain**2 + self.noise**2)

    def wiener(self) -> Array:
        """Gain of the filter of least squared error."""
        return np.asarray(self.power * self.gain / self.measured)

    def matched(self) -> Array:
        """Gain of the balanced map: the cheapest filter whose output has the images' power."""
        estimate = self.power * self.gain * self.wiener()
        price = matching_price(self.power.ravel(), estimate.ravel())
        return np.diag(price.matrix).reshape(self.power.shape) * self.wiener()

    def unbalanced(self, likelihood: float, quadratic: float) -> tuple[Array, Array, Array]:
        """Gain and means (of y and x, in that basis) of the exact map with KL on both sides."""
        centre = transformed(self.mean).ravel()
        measured, power = self.measured.ravel(), self.power.ravel()
        gains = np.broadcast_to(self.gain, self.power.shape).ravel()
        found = np.empty((3, len(power)))
        for start in range(0, len(power), BLOCK):
            part = slice(start, start + BLOCK)
            solved = unbalanced_gaussian(
                gains[part] * centre[part],
                measured[part],
                centre[part],
                power[part],
                forward=np.diag(gains[part]),
                likelihood=likelihood,
                quadratic=quadratic,
            )
            found[:, part] = np.diag(solved.matrix), solved.source_mean, solved.target_mean
        gain, source, target = found.reshape(3, *self.power.shape)
        return gain, source, target

    def apply(
        self, gain: Array, y: Tensor, source: Array | None = None, target: Array | None = None
    ) -> Tensor:
        """An affine filter on measurements; its means are those of the model unless given."""
        centre = transformed(self.mean)
        source = self.gain * centre if source is None else source
        target = centre if target is None else target
        seen = transformed(y.double().cpu().numpy())
        moved = target + gain * (seen - source)
        return torch.from_numpy(fft.idctn(moved, axes=(-2, -1), norm="ortho")).to(y)
