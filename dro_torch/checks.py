"""Checks of tensors that the user passes in; numbers and options are checked as in `dro_core`.

Every message names the argument, says what was given and what is allowed.
"""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dro_core.checks import as_scalar, as_weights
from dro_torch.host import may_look, refuse_later


class NotFiniteError(ValueError):
    """A tensor that was passed in has NaN or infinite entries."""


def check_tensor(value: object, name: str, *, dimensions: int | None = None) -> Tensor:
    """A non-empty floating-point tensor whose entries are finite, of `dimensions` axes if given."""
    if not isinstance(value, Tensor):
        hint = f"; pass torch.as_tensor({name})" if hasattr(value, "__array__") else ""
        raise TypeError(f"{name}: {type(value).__name__} is not a torch.Tensor{hint}")
    if value.layout != torch.strided or value.is_meta:
        raise TypeError(
            f"{name}: layout {value.layout} on {value.device}; allowed: dense tensors with values"
        )
    if not value.is_floating_point():
        raise TypeError(
            f"{name}: dtype {value.dtype}; allowed: floating-point tensors ({name}.float())"
        )
    if dimensions is not None and value.ndim != dimensions:
        raise ValueError(
            f"{name}: shape {tuple(value.shape)} has {value.ndim} axes; allowed: {dimensions}"
        )
    if value.numel() == 0:
        raise ValueError(f"{name}: empty (shape {tuple(value.shape)}); at least one entry needed")
    check_finite(value, name)
    return value


def check_finite(value: Tensor, name: str) -> None:
    """Refuse NaN and infinity, naming the first one, or leave the answer on the device."""
    if not may_look():
        refuse_later(f"{name}: NaN or infinite entries", lambda: ~torch.isfinite(value).all())
        return
    finite = torch.isfinite(value.detach())
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        first = tuple(int(i) for i in bad[0])
        raise NotFiniteError(
            f"{name}: {len(bad)} entries are NaN or infinite, the first "
            f"({float(value.detach()[first])}) at index {first}; every entry must be finite"
        )


def check_alike(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Refuse two tensors on different devices or of different dtypes."""
    if value.device != other.device:
        raise ValueError(
            f"{name}: on device {value.device}, but {other_name} is on {other.device}; "
            f"move one with .to(...)"
        )
    if value.dtype != other.dtype:
        raise ValueError(
            f"{name}: dtype {value.dtype}, but {other_name} has {other.dtype}; "
            f"convert one with .to(...)"
        )


def check_batch(value: object, name: str) -> Tensor:
    """A batch: axis 0 counts samples, at least one more axis holds a sample's entries."""
    tensor = check_tensor(value, name)
    if tensor.ndim < 2:
        raise ValueError(
            f"{name}: shape {tuple(tensor.shape)}; axis 0 counts samples and at least one more is "
            f"needed ({name}[:, None] for scalar samples, {name}[None] for one sample)"
        )
    return tensor


def check_samples(x: object, y: object) -> tuple[Tensor, Tensor]:
    """Batches x and y with equally many samples, of one dtype and device."""
    x, y = check_batch(x, "x"), check_batch(y, "y")
    check_alike(y, "y", x, "x")
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} samples, but x has {len(x)}; entry i of both is sample i")
    return x, y


def sample_weights(value: ArrayLike | Tensor | None, like: Tensor) -> Tensor:
    """Non-negative weights (N,) that sum to one, in float64 on the device of the samples."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.dtype == torch.bfloat16:
            raise TypeError("weights: dtype torch.bfloat16; allowed: wider real numbers")
        value = value.numpy()
    weights = as_weights(value, len(like))
    return torch.tensor(weights.tolist(), dtype=torch.float64).to(like.device)


def check_weights(value: object, like: Tensor) -> Tensor:
    """Weights (N,) >= 0 of a batch's samples, in float32 or float64 on their device."""
    weights = check_tensor(value, "weights")
    if weights.dtype.itemsize < 4:
        raise TypeError(f"weights: dtype {weights.dtype}; allowed: torch.float32, torch.float64")
    if weights.shape != (len(like),):
        raise ValueError(
            f"weights: shape {tuple(weights.shape)}, but there are {len(like)} samples; needed: "
            f"({len(like)},)"
        )
    if weights.device != like.device:
        raise ValueError(f"weights: on device {weights.device}, but x is on {like.device}")
    if may_look():
        negative = (weights.detach() < 0).nonzero()
        if len(negative):
            i = int(negative[0])
            raise ValueError(
                f"weights: {len(negative)} negative entries, the first ({float(weights[i])}) at "
                f"index {i}; weights must be non-negative"
            )
    else:
        refuse_later("weights: negative entries", lambda: (weights < 0).any())
    return weights


def check_images(value: object, name: str) -> Tensor:
    """A batch of images: (N, channels, height, width)."""
    tensor = check_tensor(value, name)
    if tensor.ndim != 4:
        raise ValueError(
            f"{name}: shape {tuple(tensor.shape)}; images are (N, channels, height, width)"
            f"{image_hint(tensor, name)}"
        )
    return tensor


def image_hint(value: Tensor, name: str) -> str:
    """How one image becomes a batch, for the end of an error."""
    index = {2: "[None, None]", 3: "[None]"}.get(value.ndim)
    return f" (one image? {name}{index})" if index else ""


def sample_hint(value: Tensor, name: str, shape: tuple[int, ...]) -> str:
    """How a tensor might become a batch of samples of this shape, for the end of an error."""
    given = tuple(value.shape)
    if given == shape:
        return f" (one sample without a batch axis? {name}[None])"
    if len(given) > 1 and (*given[1:-2], *given[:-3:-1])[-len(shape) :] == shape:
        return f" (the last two axes swapped? {name}.mT)"
    if math.prod(given[1:]) == math.prod(shape) and len(given) > 1:
        if len(shape) == 1:
            return f" (samples to be flattened? {name}.flatten(1))"
        return f" (flattened samples? {name}.flatten(1).unflatten(1, {shape}))"
    return ""


def as_multiplier(value: Tensor | float, like: Tensor) -> Tensor:
    """A finite positive multiplier as a 0-d tensor on the device of `like`, float32 or wider.

    A tensor keeps its graph, so that the multiplier can be learned.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"multiplier: shape {tuple(value.shape)} and dtype {value.dtype}; one "
                "floating-point number is needed"
            )
        tensor = value.reshape(())
        if tensor.device != like.device:
            raise ValueError(
                f"multiplier: on device {tensor.device}, but the data are on {like.device}"
            )
    else:
        number = as_scalar(value, "multiplier", "a number > 0")
        tensor = torch.full((), number, dtype=torch.float64, device=like.device)
    tensor = tensor.to(torch.promote_types(torch.float32, like.dtype))
    if may_look():
        number = float(tensor.detach())
        if not math.isfinite(number) or number <= 0:
            raise ValueError(f"multiplier: {number}; allowed: a finite number > 0")
    elif isinstance(value, Tensor):
        refuse_later(
            "multiplier: not a finite number > 0",
            lambda: ~(torch.isfinite(tensor) & (tensor > 0)),
        )
    return tensor
