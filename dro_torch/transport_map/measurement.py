"""Measurements made while training, whose noise is a function of step and sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_scalar
from dro_torch.checks import check_batch
from dro_torch.keyed_noise import check_key, standard_normal, uniform
from dro_torch.models import call_model
from dro_torch.physics.conversion import as_forward

#: Streams of the keyed noise: of either step's measurements, of those that are watched, of levels.
POTENTIAL_STREAM, MAP_STREAM, WATCHED_STREAM, LEVEL_STREAM = range(4)


class Measure(Protocol):
    """What makes measurements of images: (measurements, group of every sample)."""

    def __call__(
        self, x: Tensor, index: Tensor, *, seed: int, step: int, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Measurements of images x (N, ...) with global sample indices `index`."""


@dataclass(frozen=True)
class NoisyMeasurement:
    r"""Measurements made while training: :math:`y = A(x) + \sigma\varepsilon`, sigma per sample.

    Noise is a function of (seed, step, stream, global sample index): not of batches, processes or
    resumed runs. The level of a sample depends on seed and index only.

    Parameters
    ----------
    forward : callable, nn.Module, or object with a method ``A``
        From images to clean measurements.
    levels : sequence of float
        Standard deviations :math:`\sigma \ge 0`; their positions are the groups of the samples.
    shares : sequence of float, optional
        How frequent the levels are, > 0, up to a factor; default: equally.
    fresh : bool
        New noise in every step and phase, or always the same noise for the same image.

    Raises
    ------
    ValueError, TypeError
        For levels or shares that are no such numbers, or of different length.

    Examples
    --------
    >>> import torch
    >>> noisy = NoisyMeasurement(lambda x: x / 2, levels=(0.1, 0.2), shares=(3, 1))
    >>> y, level = noisy(torch.zeros(4, 1, 2, 2), torch.arange(4), seed=0, step=0)
    >>> y.shape, sorted(set(level.tolist()))
    (torch.Size([4, 1, 2, 2]), [0, 1])
    """

    forward: Any
    levels: Sequence[float] = (0.05,)
    shares: Sequence[float] | None = None
    fresh: bool = True

    def __post_init__(self) -> None:
        as_forward(self.forward)
        if not isinstance(self.levels, Sequence) or not self.levels:
            raise TypeError(f"levels: {self.levels!r}; allowed: a non-empty sequence of numbers")
        for level in self.levels:
            as_non_negative(level, "levels", "numbers >= 0")
        shares = [1.0] * len(self.levels) if self.shares is None else list(self.shares)
        if len(shares) != len(self.levels):
            raise ValueError(f"shares: {len(shares)} for {len(self.levels)} levels; one each")
        if min(as_scalar(share, "shares", "numbers > 0") for share in shares) <= 0:
            raise ValueError(f"shares: {shares}; allowed: numbers > 0")

    def __call__(
        self, x: Tensor, index: Tensor, *, seed: int, step: int, stream: int = 0
    ) -> tuple[Tensor, Tensor]:
        """(y, group) of images x (N, ...) with global sample indices `index`."""
        check_key(seed, step, index, len(check_batch(x, "x")))
        return self.at(x, index, self.group(index, seed=seed), seed=seed, step=step, stream=stream)

    def group(self, index: Tensor, *, seed: int) -> Tensor:
        """Position of the level of every sample, (N,) int64."""
        shares = torch.tensor(self.shares or [1.0] * len(self.levels), dtype=torch.float64)
        ends = (shares.cumsum(0) / shares.sum())[:-1].to(index.device)
        return torch.bucketize(uniform(index, seed=seed, step=0, stream=LEVEL_STREAM), ends)

    def at(
        self,
        x: Tensor,
        index: Tensor,
        group: Tensor | int,
        *,
        seed: int,
        step: int,
        stream: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """(y, group) at given levels: all samples at one, or one position each."""
        check_key(seed, step, index, len(check_batch(x, "x")))
        y = call_model(as_forward(self.forward), x, "forward", "x", dimensions=1)
        groups = torch.as_tensor(group, device=x.device).expand(len(x))
        key = (step, stream) if self.fresh else (0, 0)
        noise = standard_normal(
            index, 1, y[0].numel(), seed=seed, step=key[0], stream=key[1], dtype=y.dtype
        ).view_as(y)
        sigma = torch.tensor(self.levels, dtype=y.dtype, device=y.device)[groups]
        return y + sigma.reshape(-1, *[1] * (y.ndim - 1)) * noise, groups

    def describe(self) -> dict[str, object]:
        """Plain values that a resumed run must share."""
        return {"levels": list(self.levels), "shares": list(self.shares or []), "fresh": self.fresh}
