"""What users bring, as rows of real numbers with the shape to give back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dro_core.checks import as_real_array, check_magnitude
from dro_core.types import Array

#: Real or complex numbers in the shape of the user's samples.
Samples: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Layout:
    r"""How one row of real numbers is arranged as the user's sample.

    A complex sample of shape ``shape`` is the row of its real parts followed by that of its
    imaginary parts: :math:`\mathbb C^n` as :math:`\mathbb R^{2n}`, with the same norm.

    Attributes
    ----------
    shape : tuple of int
        Of one sample, (C, H, W) for instance.
    is_complex : bool
    """

    shape: tuple[int, ...]
    is_complex: bool = False

    @property
    def size(self) -> int:
        """Real numbers per sample."""
        return math.prod(self.shape) * (2 if self.is_complex else 1)

    def rows(self, samples: Samples) -> Array:
        """Samples (N, *shape), real or complex, as float64 rows (N, size)."""
        flat = samples.reshape(len(samples), -1)
        if not self.is_complex:
            return np.ascontiguousarray(flat.real, dtype=np.float64)
        return np.concatenate([flat.real, flat.imag], axis=1).astype(np.float64)

    def restore(self, rows: Array) -> Samples:
        """Rows (N, size) as samples (N, *shape), complex if they were; inverts `rows`."""
        if self.is_complex:
            half = self.size // 2
            rows = rows[:, :half] + 1j * rows[:, half:]
        return rows.reshape(len(rows), *self.shape)

    @property
    def image(self) -> tuple[int, int, int] | None:
        """(channels, height, width) if a sample is a picture, else None."""
        shape = self.shape if len(self.shape) == 3 else (1, *self.shape)
        if len(shape) != 3 or min(shape[1:]) < 2:
            return None
        return shape[0], shape[1], shape[2]

    def __str__(self) -> str:
        kind = "complex " if self.is_complex else ""
        return kind + " x ".join(map(str, self.shape))


def as_array(value: object, name: str) -> Samples:
    """An array from what has one in it: a tensor of any device, a frame, a masked array.

    Raises
    ------
    ValueError, TypeError
        For masked entries (the message has the line that drops them), or no array of numbers.
    """
    tensor: Any = value
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # torch, without importing it
        value = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    if isinstance(value, np.ma.MaskedArray):
        masked = int(np.ma.getmaskarray(value).sum())
        if masked:
            raise TypeError(
                f"{name}: {masked} masked entries; drop their samples from x and y with "
                f"keep = ~numpy.ma.getmaskarray({name}).reshape(len({name}), -1).any(axis=1)"
            )
        value = value.data
    if getattr(getattr(value, "dtype", None), "kind", "") == "c":
        return np.asarray(value)
    return np.asarray(as_real_array(value, name))


def as_rows(value: object, name: str) -> tuple[Array, Layout]:
    """Samples as float64 rows, with the layout that turns rows back into samples.

    Parameters
    ----------
    value : (N, ...) array, tensor, data frame, masked array without masked entries
        Real or complex; two axes or more, the first counts samples.
    name : str
        Of the argument, for errors.

    Returns
    -------
    rows : (N, d) array
    layout : Layout

    Raises
    ------
    ValueError, TypeError
        For NaN or infinite entries, a single axis, empty samples, or no numbers.
    """
    array = as_array(value, name)
    if array.ndim < 2:
        raise ValueError(
            f"{name}: samples lie along the first axis, but shape {array.shape} has one axis; use "
            f"{name}[:, None] for scalar samples or {name}[None] for a single sample"
        )
    if array.size == 0:
        raise ValueError(f"{name}: empty (shape {array.shape}); at least one sample is needed")
    is_complex = array.dtype.kind == "c"
    layout = Layout(array.shape[1:], is_complex)
    rows = layout.rows(array)
    if not np.isfinite(rows).all():
        i = int(np.argmax(~np.isfinite(rows).all(axis=1)))
        raise ValueError(f"{name}: sample {i} has NaN or infinite entries; every entry is finite")
    check_magnitude(rows, name)
    return rows, layout
