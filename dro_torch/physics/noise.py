r"""Measurement noise: laws that a seeded generator draws from.

Every law is a callable ``noise(y, generator=None)`` that keeps shape, dtype and device. The
generator decides alone: the same state gives the same noise, and a generator on the CPU gives the
same noise on every device. Without one, a fresh generator seeded by the operating system is used
(not reproducible, and never PyTorch's global state). Draws are made in float32 or wider.

Levels are in the units of y. Laws of light (Poisson, speckle, salt and pepper) need to know which
value is dark and which is full brightness: `low` and `high`, by default -1 and 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    as_real_array,
    as_scalar,
    as_weights,
    check_magnitude,
)
from dro_torch.checks import check_batch, check_tensor

#: How far below `low`, in shares of the range, data may lie by rounding.
DARK_TOLERANCE = 1e-3


class Noise(ABC):
    """A law of y given the clean measurement; see the module."""

    def __call__(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A noisy copy of y.

        Parameters
        ----------
        y : Tensor
            Clean measurements, samples on axis 0.
        generator : torch.Generator, optional
            On the CPU or the device of y.

        Returns
        -------
        Tensor
            Of the shape, dtype and device of y; differentiable in y with the noise held fixed.

        Raises
        ------
        ValueError, TypeError
            For a y that is no finite floating-point tensor, or out of the law's range; for
            something else than a generator.
        """
        source = as_generator(generator, check_tensor(y, "y").device)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        noisy = self._sample(wide, source).to(y.dtype)
        if noisy.device.type == "cpu" and not bool(torch.isfinite(noisy.detach()).all()):
            raise ValueError(
                f"y: noisy values exceed the range of {y.dtype}; use a wider dtype or less noise"
            )
        return noisy

    @abstractmethod
    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """A noisy copy of a checked y of at least float32."""


def as_generator(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """The generator given, or a fresh one seeded by the operating system."""
    if generator is None:
        generator = torch.Generator(device)
        generator.seed()
        return generator
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: {generator!r}; allowed: a torch.Generator or None "
            "(torch.Generator().manual_seed(0))"
        )
    if generator.device.type not in ("cpu", device.type):
        raise ValueError(
            f"generator: on {generator.device}, but y is on {device}; one on the CPU "
            "serves every device"
        )
    return generator


def _set(law: Noise, **numbers: float) -> None:
    """Keep the numbers of a frozen law as floats, whatever they were given as."""
    for name, number in numbers.items():
        check_magnitude(number, name)
        object.__setattr__(law, name, number)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(
        like.shape, generator=generator, dtype=like.dtype, device=generator.device
    ).to(like.device)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(
        like.shape, generator=generator, dtype=like.dtype, device=generator.device
    ).to(like.device)


@dataclass(frozen=True)
class GaussianNoise(Noise):
    r"""Additive, :math:`y + \sigma\xi`, :math:`\xi \sim N(0, I)`.

    Parameters
    ----------
    level : float
        :math:`\sigma \ge 0`, in the units of y.

    Raises
    ------
    ValueError, TypeError
        For a level that is not a finite number >= 0.
    """

    level: float

    def __post_init__(self) -> None:
        _set(self, level=as_non_negative(self.level, "level"))

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        return y + self.level * _normal(y, generator)


@dataclass(frozen=True)
class UniformNoise(Noise):
    r"""Additive, :math:`y + u`, u uniform on :math:`[-a, a]`, of deviation :math:`a/\sqrt3`.

    Parameters
    ----------
    half_width : float
        a >= 0, in the units of y.

    Raises
    ------
    ValueError, TypeError
        For a half width that is not a finite number >= 0.
    """

    half_width: float

    def __post_init__(self) -> None:
        _set(self, half_width=as_non_negative(self.half_width, "half_width"))

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        return y + self.half_width * (2 * _uniform(y, generator) - 1)


@dataclass(frozen=True)
class SpeckleNoise(Noise):
    r"""Multiplicative, :math:`y + \sigma\,(y - \text{low})\,\xi`, :math:`\xi \sim N(0, I)`.

    The brightness y - low is multiplied by :math:`1 + \sigma\xi`.

    Parameters
    ----------
    level : float
        :math:`\sigma \ge 0`, a share of the brightness.
    low : float
        The dark value of y.

    Raises
    ------
    ValueError, TypeError
        For a level that is not a finite number >= 0, or a bad `low`.
    """

    level: float
    low: float = -1.0

    def __post_init__(self) -> None:
        _set(self, level=as_non_negative(self.level, "level"))
        _set(self, low=as_scalar(self.low, "low", "a number"))

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        return y + self.level * (y - self.low) * _normal(y, generator)


@dataclass(frozen=True)
class PoissonNoise(Noise):
    r"""Photon noise: y is replaced by low + (high - low) c / p, c ~ Poisson(p u).

    :math:`u = (y - \text{low})/(\text{high} - \text{low})`, and p is the mean number of photons at
    full brightness (one over the gain of the detector). The mean is y, the variance
    :math:`(y - \text{low})(\text{high} - \text{low})/p`.

    Parameters
    ----------
    photons : float
        p > 0; few photons, much noise.
    low, high : float
        Values of y without light and at full brightness.

    Raises
    ------
    ValueError, TypeError
        For photons that are not > 0 or above 1e15, a bad range; at the call, for y below `low` by
        more than rounding (clamp it first).

    Notes
    -----
    Counts have no derivative; the gradient in y is that of the mean, the identity
    (straight-through).
    """

    photons: float
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        photons = as_scalar(self.photons, "photons", "a number > 0")
        if not 0 < photons <= 1e15:
            raise ValueError(f"photons: {photons:g}; allowed: a number > 0, at most 1e15")
        low, high = _as_range(self.low, self.high)
        _set(self, photons=photons, low=low, high=high)

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        span = self.high - self.low
        light = (y.detach() - self.low) / span
        if bool((light < -DARK_TOLERANCE).any()):
            raise ValueError(
                f"y: {float(y.detach().min())} is below low = {self.low}, where there is no light; "
                "clamp y or set low"
            )
        rate = (self.photons * light.clamp(min=0)).to(torch.float64).to(generator.device)
        counts = torch.poisson(rate, generator=generator).to(y.device)
        drawn = (self.low + span * counts / self.photons).to(y.dtype)
        return y + (drawn - y).detach()


@dataclass(frozen=True)
class SaltAndPepperNoise(Noise):
    r"""A share of the entries is replaced by `high` (salt) or `low` (pepper), independently.

    The derivative in y is 1 where y is kept and 0 where it is replaced.

    Parameters
    ----------
    share : float
        Probability that an entry is replaced, in [0, 1].
    salt : float
        Probability that a replaced entry becomes `high`, in [0, 1].
    low, high : float
        The two values.

    Raises
    ------
    ValueError, TypeError
        For probabilities outside [0, 1] or a bad range.
    """

    share: float
    salt: float = 0.5
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        for name in ("share", "salt"):
            value = as_non_negative(getattr(self, name), name, "a number in [0, 1]")
            if value > 1:
                raise ValueError(f"{name}: {value}; allowed: a number in [0, 1]")
            _set(self, **{name: value})
        low, high = _as_range(self.low, self.high)
        _set(self, low=low, high=high)

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        position = _uniform(y, generator)
        noisy = torch.where(position < self.share, torch.full_like(y, self.low), y)
        return torch.where(position < self.share * self.salt, self.high, noisy)


@dataclass(frozen=True)
class MixtureNoise(Noise):
    r"""Each sample (entry of axis 0) gets one law of several, drawn with given probabilities.

    Parameters
    ----------
    laws : sequence of Noise
        The components.
    weights : sequence of float, optional
        Probabilities, sum 1; default: all alike.

    Raises
    ------
    ValueError, TypeError
        For no components, components that are no `Noise`, bad weights; at the call, for a y without
        an axis besides that of the samples.
    """

    laws: Sequence[Noise]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "laws", tuple(self.laws))
        if not self.laws:
            raise ValueError("laws: empty; at least one Noise is needed")
        for law in self.laws:
            if not isinstance(law, Noise):
                raise TypeError(f"laws: {law!r} is not a Noise of dro_torch.physics")
        shares = as_weights(self.weights, len(self.laws))
        object.__setattr__(self, "weights", tuple(float(share) for share in shares))

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        check_batch(y, "y")
        assert self.weights is not None
        chosen = _draw_indices(self.weights, len(y), generator).to(y.device)
        shape = (-1, *(1,) * (y.ndim - 1))
        noisy = y
        for k, law in enumerate(self.laws):
            noisy = torch.where((chosen == k).reshape(shape), law._sample(y, generator), noisy)
        return noisy


@dataclass(frozen=True)
class MultiLevelGaussianNoise(Noise):
    r"""Gaussian noise whose level differs from sample to sample: few levels, given proportions.

    Parameters
    ----------
    levels : sequence of float
        Standard deviations >= 0, in the units of y. The ISUM paper's are lost: these are this
        project's, for images in [-1, 1].
    proportions : sequence of float
        One positive number per level; only their ratios matter.

    Raises
    ------
    ValueError, TypeError
        For levels or proportions that are empty, negative or of different numbers.

    Notes
    -----
    `draw` also returns the levels; `assign` gives a data set its levels in exact proportions;
    `at` is the law of one level, to evaluate every level on the same images.
    """

    levels: Sequence[float] = (0.05, 0.10, 0.15, 0.20)
    proportions: Sequence[float] = (4.0, 3.0, 2.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("levels", "proportions"):
            values = as_real_array(getattr(self, name), name)
            if values.ndim != 1 or values.size == 0:
                raise ValueError(f"{name}: shape {values.shape}; a non-empty sequence is needed")
            if (values < 0).any() or (name == "proportions" and (values == 0).any()):
                raise ValueError(
                    f"{name}: {values.min()}; allowed: numbers "
                    f"{'>= 0' if name == 'levels' else '> 0'}"
                )
            object.__setattr__(self, name, tuple(float(value) for value in values))
        if len(self.levels) != len(self.proportions):
            raise ValueError(
                f"proportions: {len(self.proportions)} numbers, but there are "
                f"{len(self.levels)} levels"
            )

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Proportions, scaled to sum to one."""
        total = sum(self.proportions)
        return tuple(share / total for share in self.proportions)

    def at(self, index: int) -> GaussianNoise:
        """The law of level number `index`."""
        return GaussianNoise(self.levels[index])

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """A noisy copy of y, and the level (N,) that each sample got, in the dtype of y."""
        source = as_generator(generator, check_batch(y, "y").device)
        chosen = _draw_indices(self.probabilities, len(y), source)
        levels = torch.tensor(self.levels, dtype=torch.float64)[chosen.cpu()]
        return self.with_levels(y, levels, source), levels.to(y)

    def assign(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Levels (count,) for a whole data set, shuffled, in the proportions up to rounding."""
        size = as_positive_integer(count, "count")
        source = as_generator(generator, torch.device("cpu"))
        ends = np.rint(np.cumsum(self.probabilities) * size).astype(int)
        counts = torch.from_numpy(np.diff(ends, prepend=0))
        ordered = torch.tensor(self.levels, dtype=torch.float64).repeat_interleave(counts)
        return ordered[torch.randperm(size, generator=source, device=source.device).cpu()]

    @staticmethod
    def with_levels(y: Tensor, levels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample i of y with Gaussian noise of standard deviation levels[i]."""
        source = as_generator(generator, check_batch(y, "y").device)
        given = check_tensor(levels, "levels", dimensions=1)
        if len(given) != len(y) or bool((given < 0).any()):
            raise ValueError(
                f"levels: {len(given)} numbers from {float(given.min())}; needed: one >= 0 for "
                f"each of {len(y)} samples"
            )
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        scale = given.to(wide).reshape(-1, *(1,) * (y.ndim - 1))
        return (wide + scale * _normal(wide, source)).to(y.dtype)

    def _sample(self, y: Tensor, generator: torch.Generator) -> Tensor:
        return self.draw(y, generator)[0]


def _draw_indices(probabilities: Sequence[float], count: int, generator: torch.Generator) -> Tensor:
    """`count` indices with the given probabilities, on the device of the generator."""
    table = torch.tensor(probabilities, dtype=torch.float64, device=generator.device)
    return torch.multinomial(table, count, replacement=True, generator=generator)


def _as_range(low: float, high: float) -> tuple[float, float]:
    dark, bright = as_scalar(low, "low", "a number"), as_scalar(high, "high", "a number")
    if not dark < bright:
        raise ValueError(f"low, high: {dark} and {bright}; low must be below high")
    return dark, bright
