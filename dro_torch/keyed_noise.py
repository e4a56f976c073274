r"""Random numbers that are functions of (seed, step, sample index), not of who draws them.

A draw is the SplitMix64 hash of a counter that starts where the key says, so neither the size of a
chunk, nor the number of processes, nor a resumed run changes a value: sample 17 in step 3 sees the
same noise wherever it is computed. Devices and dtypes agree up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dro_core.checks import as_count, as_positive_integer

_WORD = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _mix(z: int) -> int:
    """SplitMix64's finaliser of one integer."""
    z = (z ^ (z >> 30)) * _FIRST % _WORD
    z = (z ^ (z >> 27)) * _SECOND % _WORD
    return z ^ (z >> 31)


def _mix_in_place(z: Tensor) -> Tensor:
    """The same for an int64 tensor, which is overwritten; shifts are logical."""
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, None)):
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor is not None:
            z *= _signed(factor)
    return z


def _keys(seed: int, step: int | Tensor, index: Tensor, stream: int) -> Tensor:
    """One 64-bit key per sample."""
    check_key(seed, step, index, index.numel() if isinstance(index, Tensor) else 0)
    common: int | Tensor
    if isinstance(step, Tensor):  # the same, on its device
        common = _mix_in_place(_mix_in_place(step + _signed(_mix(seed + _GOLDEN))) + stream)
    else:
        common = _signed(_mix(_mix(_mix(seed + _GOLDEN) + step) + stream))
    return _mix_in_place(index * _signed(_GOLDEN) + common)


def check_key(seed: Any, step: Any, index: Any, samples: int) -> None:
    """Refuse a seed or step that is no integer, and indices that do not fit the samples."""
    if isinstance(step, Tensor) and (step.dtype != torch.int64 or step.ndim):
        raise TypeError(
            f"step: a tensor of dtype {step.dtype} and shape {tuple(step.shape)}; allowed: an "
            "integer >= 0, or a 0-d torch.int64 tensor"
        )
    for name, value in (("seed", seed), ("step", 0 if isinstance(step, Tensor) else step)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: {value!r} is not an integer")
        if value < 0:
            raise ValueError(f"{name}: {value} is negative; allowed: an integer >= 0")
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.is_sparse:
        given = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"index: {given}; allowed: a torch.int64 tensor of global sample indices")
    if index.shape != (samples,):
        raise ValueError(f"index: shape {tuple(index.shape)}, but there are {samples} samples")


def standard_normal(
    index: Tensor, draws: int, size: int, *, seed: int, step: int | Tensor, first: int = 0,
    stream: int = 0, dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """Draws first, ..., first + draws - 1 of every sample: independent N(0, 1) (N, draws, size).

    Parameters
    ----------
    index : (N,) int64 tensor
        Global sample indices; the result lives on its device.
    seed, step, stream : int
        The rest of the key; different streams are independent. The step may be a 0-d int64 tensor
        on the device of `index`, so that a recorded graph draws anew.
    first : int
        Number of the first draw, so that a chunk is a slice of the whole.
    """
    check_key(seed, step, index, index.numel() if isinstance(index, Tensor) else 0)
    draws, size = as_count(draws, "draws"), as_positive_integer(size, "size")
    pairs = (size + 1) // 2
    counter = torch.arange(first * pairs + 1, (first + draws) * pairs + 1, device=index.device)
    keys = _keys(seed, step, index, stream)
    hashed = _mix_in_place(torch.add(keys[:, None], counter, alpha=_signed(_GOLDEN)))
    halves = hashed.view(torch.int32).view(len(index), draws, 2 * pairs)
    wide = torch.promote_types(torch.float32, dtype)
    # Box-Muller; 31 bits for the radius keep the digits of small uniforms
    radius = (halves[..., :pairs] & 0x7FFFFFFF).to(wide).add_(0.5).mul_(2.0**-31)
    radius.log_().mul_(-2.0).sqrt_()
    angle = halves[..., pairs:].to(wide).mul_(math.pi * 2.0**-31)
    normal = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=-1)
    return normal[..., :size].to(dtype)


def uniform(index: Tensor, *, seed: int, step: int | Tensor, stream: int = 0) -> Tensor:
    """One number per sample, uniform in (0, 1): (N,) in float64."""
    hashed = _mix_in_place(_keys(seed, step, index, stream) + _signed(_GOLDEN))
    return ((hashed >> 11) & ((1 << 53) - 1)).to(torch.float64).add_(0.5).mul_(2.0**-53)


@dataclass(frozen=True)
class Draws:
    """The key of a batch's noise."""

    index: Tensor
    seed: int
    step: int | Tensor

    def normal(
        self, draws: int, size: int, stream: int, dtype: torch.dtype, first: int = 0
    ) -> Tensor:
        """Standard normal draws (N, draws, size)."""
        return standard_normal(
            self.index,
            draws,
            size,
            seed=self.seed,
            step=self.step,
            first=first,
            stream=stream,
            dtype=dtype,
        )

    def of(self, members: Tensor) -> Draws:
        """The key of some of the samples."""
        return Draws(self.index[members], self.seed, self.step)

    def uniform(self, stream: int) -> Tensor:
        """Uniform numbers (N,)."""
        return uniform(self.index, seed=self.seed, step=self.step, stream=stream)


def key_of(
    index: Tensor | None, seed: int | None, step: int | Tensor | None, like: Tensor
) -> Draws:
    """The key of a batch's noise: what is not given is 0, 1, 2, ... for the index, else zero."""
    if index is None:
        index = torch.arange(len(like), device=like.device)
    key = 0 if seed is None else seed, 0 if step is None else step
    check_key(*key, index, len(like))
    return Draws(index.to(like.device), *key)
