"""The images of a run: measured ones and clean ones that do not belong together."""

from __future__ import annotations

import torch
from torch import Tensor

from dro_torch.checks import check_finite
from dro_torch.data.sampling import Batches, IndexedDataset


class Unpaired:
    """A batch of measured images and one of clean images, unrelated: (index, y part ..., x)."""

    def __init__(self, measured: Batches, clean: Batches) -> None:
        self.measured, self.clean = measured, clean

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Tensor, ...]:
        x = self.clean.batch(step, rank, world_size)[1]
        return (*self.measured.batch(step, rank, world_size), x)


def as_pool(
    value: IndexedDataset | Tensor, name: str, channels: int, size: tuple[int, int] | None
) -> IndexedDataset:
    """Images of the networks' channels, and of this height and width if it is given."""
    pool = IndexedDataset(value) if isinstance(value, Tensor) else value
    if not isinstance(pool, IndexedDataset):
        raise TypeError(f"{name}: {type(value).__name__}; allowed: IndexedDataset or a tensor")
    shape = tuple(pool.tensors[0].shape)
    if len(shape) != 4 or shape[1] != channels or (size is not None and shape[2:] != size):
        sides = "height, width" if size is None else f"{size[0]}, {size[1]}"
        raise ValueError(f"{name}: shape {shape}; the networks are for (N, {channels}, {sides})")
    return pool


def check_range(pool: IndexedDataset, name: str, largest: float) -> None:
    """Refuse images that do not lie in [-1, 1] (measurements: up to `largest`)."""
    if pool.tensors[0].dtype == torch.uint8:
        low, high = pool.value_range
        check = f"value_range {pool.value_range}"
        inside = (low, high) == (-1.0, 1.0)
    else:
        check_finite(pool.tensors[0], name)
        low, high = (float(end) for end in torch.aminmax(pool.tensors[0]))
        check = f"entries in [{low:g}, {high:g}]"
        inside = max(abs(low), abs(high)) <= largest
    if not inside:
        raise ValueError(
            f"{name}: {check}; images lie in [-1, 1] (2 * x - 1 from [0, 1], "
            "value_range=(-1, 1) for uint8)"
        )
