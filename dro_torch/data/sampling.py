"""Data sets in memory, their subsets, and batches that are functions of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dro_core.checks import (
    as_count,
    as_positive,
    as_positive_integer,
    as_real_array,
    as_scalar,
)
from dro_torch.data.files import (
    AnyArray,
    check_option,
)

Positions = npt.NDArray[np.int64]


class IndexedDataset(Dataset[tuple[Tensor, ...]]):
    """Tensors in memory, handed out with the global index of every sample.

    ``dataset[positions]`` is ``(index, x, ...)`` for one position or a whole batch of them, one
    gather each: with ``torch.utils.data.DataLoader`` use ``batch_size=None`` and a sampler of
    batches. `index` is the row of the sample in the tensors, whatever subset it is reached through,
    so noise keyed by it does not depend on splits, order or the number of processes.

    Parameters
    ----------
    *tensors : tensors of equal length
        uint8 tensors are handed out as float32 in `value_range`, others as they are.
    value_range : pair of floats
        What 0 and 255 become: (0, 1), or (-1, 1).
    index : (n,) int64 tensor, optional
        Rows that are in the data set; by default all.

    Raises
    ------
    TypeError, ValueError
        If there are no tensors, their lengths differ, or the index leaves them.
    """

    def __init__(
        self,
        *tensors: Tensor,
        value_range: tuple[float, float] = (0.0, 1.0),
        index: Tensor | None = None,
    ) -> None:
        if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim for tensor in tensors):
            raise TypeError("tensors: one or more torch.Tensor with a sample axis are needed")
        if len({len(tensor) for tensor in tensors}) > 1:
            raise ValueError(f"tensors: lengths {[len(t) for t in tensors]} differ")
        if len({tensor.device for tensor in tensors}) > 1:
            raise ValueError("tensors: they are on different devices")
        low, high = (as_scalar(v, "value_range", "two numbers low < high") for v in value_range)
        if not low < high:
            raise ValueError(f"value_range: {value_range}; allowed: two numbers low < high")
        rows = len(tensors[0])
        self.index = torch.arange(rows) if index is None else _as_positions(index, rows, "index")
        if len(self.index) == 0:
            raise ValueError("index: empty; a data set needs at least one sample")
        self.tensors, self.value_range = tensors, (low, high)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, positions: int | Sequence[int] | Tensor) -> tuple[Tensor, ...]:
        if isinstance(positions, int | np.integer):
            if not -len(self) <= positions < len(self):
                raise IndexError(f"positions: {positions}, but there are {len(self)} samples")
            index, *values = self[torch.tensor([positions % len(self)])]
            return (index[0], *(value[0] for value in values))
        index = self.index[_as_positions(positions, len(self), "positions")]
        device = self.tensors[0].device
        if device.type == "cuda":  # from pageable memory the host would wait for its copy
            index = index.pin_memory()
        rows = index.to(device, non_blocking=True)
        return (index, *(self._value(tensor[rows]) for tensor in self.tensors))

    def _value(self, value: Tensor) -> Tensor:
        if value.dtype != torch.uint8:
            return value
        low, high = self.value_range
        return value.float().mul_((high - low) / 255).add_(low)

    def to(self, device: str | torch.device) -> IndexedDataset:
        """The same samples with their tensors on another device, as they are: uint8 stays uint8.

        A batch is then gathered and converted there, and only its index travels.
        """
        moved = (tensor.to(device) for tensor in self.tensors)
        return IndexedDataset(*moved, value_range=self.value_range, index=self.index)

    def subset(self, positions: Sequence[int] | Tensor) -> IndexedDataset:
        """The samples at these positions; the tensors are shared, global indices stay."""
        kept = self.index[_as_positions(positions, len(self), "positions")]
        return IndexedDataset(*self.tensors, value_range=self.value_range, index=kept)


def _as_positions(value: Sequence[int] | Tensor, size: int, name: str) -> Tensor:
    """Integers from 0 to size - 1 as a 1-D int64 tensor on the CPU."""
    positions = torch.as_tensor(value)
    if positions.numel() == 0:
        return torch.empty(0, dtype=torch.int64)
    if positions.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise TypeError(f"{name}: dtype {positions.dtype}; allowed: integers")
    if positions.ndim != 1:
        raise ValueError(f"{name}: shape {tuple(positions.shape)}; allowed: one axis")
    if positions.min() < 0 or positions.max() >= size:
        outside = positions[(positions < 0) | (positions >= size)][0]
        raise IndexError(f"{name}: {int(outside)}, but there are {size} samples (0 to {size - 1})")
    return positions.to("cpu", torch.int64)


def _shuffled(size: int, *key: int) -> Positions:
    """The permutation of 0, ..., size - 1 that belongs to a key."""
    return np.random.default_rng(key).permutation(size)


def split(
    dataset: IndexedDataset,
    fractions: Sequence[float],
    seed: int = 0,
    groups: Sequence[Hashable] | AnyArray | None = None,
) -> tuple[IndexedDataset, ...]:
    """Disjoint random subsets, the same for the same seed.

    Parameters
    ----------
    dataset : IndexedDataset
    fractions : sequence of floats
        Share of every subset; they sum to at most 1.
    seed : int
    groups : sequence, optional
        Group of every sample (a patient, say): no group is cut, so shares are approximate. Numbers,
        text, or tuples of them; of one type, since 1 and "1" may or may not be meant as one group.

    Raises
    ------
    ValueError
        If a fraction is not positive, they sum to more than 1, a subset would be empty, or there
        is not exactly one group per sample (None and NaN are no groups).
    TypeError
        If groups are of different types, or of a type that has no order or no hash.
    """
    given = as_real_array(fractions, "fractions")
    if given.ndim != 1:
        raise ValueError(f"fractions: {fractions!r}; allowed: a sequence of numbers")
    shares = [as_positive(fraction, "fractions") for fraction in given.tolist()]
    if not shares or sum(shares) > 1 + 1e-9:
        raise ValueError(f"fractions: they sum to {sum(shares)}; allowed: above 0, up to 1")
    members = np.arange(len(dataset)) if groups is None else _group_numbers(groups, len(dataset))
    sizes = np.bincount(members)
    order = _shuffled(len(sizes), as_count(seed, "seed"))
    middle = np.cumsum(sizes[order]) - sizes[order] / 2  # of every group, in samples
    part = np.empty(len(sizes), dtype=np.int64)
    part[order] = np.searchsorted(np.cumsum(shares) * len(dataset) * (1 + 1e-12), middle)
    found = [np.flatnonzero(part[members] == i) for i in range(len(shares))]
    empty = [i for i, positions in enumerate(found) if len(positions) == 0]
    if empty:
        raise ValueError(
            f"fractions: subset {empty[0]} of {len(dataset)} samples in {len(sizes)} groups would "
            "be empty; take a larger fraction"
        )
    return tuple(dataset.subset(torch.from_numpy(positions)) for positions in found)


def _group_numbers(groups: Sequence[Hashable] | AnyArray, size: int) -> Positions:
    """Number of the group of every sample, in the order of the groups."""
    try:
        if isinstance(groups, set | frozenset | Mapping):
            raise TypeError("no order of samples")
        given = list(groups.tolist() if hasattr(groups, "tolist") else groups)
    except TypeError:
        raise TypeError(
            f"groups: {type(groups).__name__}; allowed: a sequence with the group of every sample"
        ) from None
    if len(given) != size:
        raise ValueError(f"groups: {len(given)} entries, but {size} samples")
    for i, value in enumerate(given):
        if _is_missing(value):
            raise ValueError(f"groups: entry {i} is {value}; every sample needs a group")
    try:
        number = {group: k for k, group in enumerate(sorted(set(given)))}
    except TypeError:
        for i, value in enumerate(given):
            if type(value) is not type(given[0]):
                raise TypeError(
                    f"groups: entry {i} is {value!r}, but entry 0 is {given[0]!r}; all must be of "
                    "one type (list(map(str, groups)), if that is meant)"
                ) from None
        raise TypeError(
            f"groups: entry 0 is {given[0]!r}; allowed: numbers, text, or tuples of them"
        ) from None
    return np.array([number[value] for value in given], dtype=np.int64)


def _is_missing(value: object) -> bool:
    """None, what differs from itself (NaN, NaT), pandas.NA, and tuples with one of them."""
    if value is None:
        return True
    if isinstance(value, tuple):
        return any(map(_is_missing, value))
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA
        return True
    except ValueError:  # an array
        return False


def unpaired(
    dataset: IndexedDataset, mode: str = "shuffled", seed: int = 0
) -> tuple[IndexedDataset, IndexedDataset]:
    """Two pools for unpaired training: images to be measured, and clean images.

    Parameters
    ----------
    dataset : IndexedDataset
    mode : "shuffled" or "disjoint"
        The same images in both pools in different orders, or two random halves: then no clean
        image belongs to a measurement.
    seed : int

    Raises
    ------
    ValueError
        If the mode is unknown or there are fewer than two samples.
    """
    check_option("mode", mode, ("shuffled", "disjoint"))
    if len(dataset) < 2:
        raise ValueError("dataset: one sample cannot be unpaired; at least two are needed")
    order = torch.from_numpy(_shuffled(len(dataset), as_count(seed, "seed")))
    if mode == "disjoint":
        half = len(dataset) // 2
        return dataset.subset(order[:half]), dataset.subset(order[half : 2 * half])
    return dataset, dataset.subset(order)


def imbalanced(
    dataset: IndexedDataset, labels: Tensor, weights: Mapping[int, float], seed: int = 0
) -> IndexedDataset:
    """The largest random subset whose classes are in the proportions `weights`.

    Parameters
    ----------
    dataset : IndexedDataset
    labels : (n,) tensor
        Label of every sample of the data set.
    weights : mapping label -> weight >= 0
        Classes that are not named get none.
    seed : int

    Raises
    ------
    ValueError, TypeError
        For labels that are no numbers; if no weight is positive, a label with a positive weight
        does not occur, or so rarely that another class would be empty.
    """
    try:
        labels = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"labels: {error}; allowed: a tensor of numbers") from None
    if labels.shape != (len(dataset),):
        raise ValueError(f"labels: shape {tuple(labels.shape)}, but {len(dataset)} samples")
    unknown = labels.isnan().nonzero()
    if len(unknown):
        raise ValueError(f"labels: entry {int(unknown[0])} is NaN; every sample needs a label")
    shares = {label: as_scalar(w, "weights", "numbers >= 0") for label, w in weights.items()}
    if min(shares.values(), default=0) < 0 or not any(shares.values()):
        raise ValueError(f"weights: {dict(weights)}; allowed: numbers >= 0, not all zero")
    shares = {label: share for label, share in shares.items() if share > 0}
    members = {label: (labels == label).nonzero()[:, 0] for label in shares}
    scale = min(len(members[label]) / share for label, share in shares.items())
    kept = []
    for position, (label, share) in enumerate(shares.items()):
        count = math.floor(scale * share * (1 + 1e-12))
        if count == 0:
            raise ValueError(
                f"weights: no sample of label {label} ({len(members[label])} present) would be kept"
            )
        order = _shuffled(len(members[label]), as_count(seed, "seed"), position)
        kept.append(members[label][torch.from_numpy(order[:count])])
    return dataset.subset(torch.cat(kept).sort().values)


class Batches:
    """Which samples step s sees: a function of (seed, step), whoever asks.

    The permutations of all epochs, each a function of (seed, epoch), are laid end to end; global
    batch s is entries sB to (s+1)B - 1 of that stream. So every sample comes once per epoch, none
    is dropped, a run resumes at any step without a replay, and rank r of R gets the r-th of R
    contiguous parts of the same global batch.

    Parameters
    ----------
    dataset : IndexedDataset
        Or anything with a length that takes a tensor of positions.
    batch_size : int
        B, over all processes.
    seed : int

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer of its range, or R does not divide B.
    """

    def __init__(self, dataset: IndexedDataset, batch_size: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.batch_size = as_positive_integer(batch_size, "batch_size")
        self.seed = as_count(seed, "seed")
        self._orders: dict[int, Positions] = {}

    def positions(self, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """Positions in the data set, int64, of this rank's part of global batch `step`."""
        step, rank = as_count(step, "step"), as_count(rank, "rank")
        parts = as_positive_integer(world_size, "world_size")
        if rank >= parts:
            raise ValueError(f"rank: {rank} of {parts} processes; allowed: 0 to {parts - 1}")
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} cannot be shared equally by {parts} processes"
            )
        share = self.batch_size // parts
        start = step * self.batch_size + rank * share
        stream = np.arange(start, start + share)
        epochs, places = np.divmod(stream, len(self.dataset))
        found = np.empty(share, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            found[epochs == epoch] = self._order(epoch)[places[epochs == epoch]]
        return torch.from_numpy(found)

    def _order(self, epoch: int) -> Positions:
        if epoch not in self._orders:
            while len(self._orders) > 1:  # a batch reaches over two epochs at most, mostly
                del self._orders[min(self._orders)]
            self._orders[epoch] = _shuffled(len(self.dataset), self.seed, epoch)
        return self._orders[epoch]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The samples of `positions`: global indices, then values."""
        return self.dataset[self.positions(step, rank, world_size)]


def batches(
    dataset: IndexedDataset,
    batch_size: int,
    seed: int = 0,
    *,
    first: int = 0,
    steps: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Tensor, ...]]:
    """The batches of steps `first`, first + 1, ..., see `Batches`; endless unless `steps` is given.

    >>> images = torch.arange(6.0)[:, None]
    >>> for index, x in batches(IndexedDataset(images), batch_size=4, seed=1, first=2, steps=1):
    ...     bool((x[:, 0] == index).all())
    True
    """
    drawn = Batches(dataset, batch_size, seed)
    step, count = (
        as_count(first, "first"),
        math.inf if steps is None else as_count(steps, "steps"),
    )
    last = step + count
    while step < last:
        yield drawn.batch(step, rank, world_size)
        step += 1
