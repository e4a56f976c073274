r"""Samples as blocks of rows: arrays, memory maps, Dask arrays, or whatever hands out blocks anew.

Everything that is asked of samples is a mean, :math:`\sum_i\mu_i f(z_i)`, or another associative
reduction of blocks, so nothing is kept but a block and what the blocks before were reduced to. The
solvers see `Samples` only. Means are added up pairwise, so their rounding grows with the logarithm
of the number of blocks; entries are checked and widened to double precision block by block.

In come arrays or blocks, out go reductions. Above: linear_data, spectrum, radii, estimator; below:
checks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import (
    as_real_array,
    as_samples,
    as_weights,
    check_non_negative,
    check_rows,
    check_weight_sum,
    weight_sum_tolerance,
)
from dro_core.read_only import read_only
from dro_core.types import Array

#: Entries of a block, all its arrays together: what caches hold and allocators keep. Products want
#: some rows too, as long as they are not too long.
BLOCK_ENTRIES, BLOCK_ROWS, LARGEST_BLOCK = 2**16, 128, 2**20
#: Chunks of a Dask array whose reductions are brought here at a time.
CHUNKS_AT_A_TIME = 64

T = TypeVar("T")
#: Samples: an array, or (in place of x, without y) blocks (x, y) or (x, y, weights).
SamplesLike: TypeAlias = "ArrayLike | Iterable[Sequence[ArrayLike]] | Samples"


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive samples in double precision.

    Attributes
    ----------
    start : int
        Number of samples before them.
    parts : tuple of (b, d) arrays
        One array per variable.
    weights : (b,) array
        Their weights, up to the sum over all blocks.
    """

    start: int
    parts: tuple[Array, ...]
    weights: Array

    @property
    def x(self) -> Array:
        """The first variable."""
        return self.parts[0]

    @property
    def y(self) -> Array:
        """The second variable."""
        return self.parts[1]

    @property
    def rows(self) -> slice:
        """Where the samples stand among all."""
        return slice(self.start, self.start + len(self.weights))


class _Given(NamedTuple):
    """A block as it was given: where it comes from, its arrays, its weights if it has any."""

    label: str
    parts: tuple[Any, ...]
    weights: Any


class Samples(ABC):
    """Weighted samples that can be read in blocks as often as needed."""

    #: The arguments that hold the variables.
    names: tuple[str, ...]
    #: Columns of each.
    widths: tuple[int, ...]

    def __init__(self, names: tuple[str, ...], widths: tuple[int, ...]) -> None:
        self.names, self.widths = names, widths
        self._count: int | None = None
        self._total = math.nan

    @abstractmethod
    def _given(self) -> Iterator[_Given]:
        """The blocks as they were given, from the first one on."""

    #: Whether entries were checked before the first pass.
    _checked = False

    def blocks(self) -> Iterator[Block]:
        """All samples, in blocks that are worked on at a time."""
        start, sums, tolerance = 0, [], 0.0
        check = not (self._checked or self._count is not None)
        for given in self._given():
            for block in _divided(given, start, self.names, self.widths, check):
                start += len(block.weights)
                sums.append(float(block.weights.sum()))
                yield block
            if given.weights is not None:
                tolerance = max(tolerance, weight_sum_tolerance(given.weights, start))
        self._finish(start, math.fsum(sums), tolerance)

    def _finish(self, count: int, total: float, tolerance: float) -> None:
        """The end of a pass: the number of samples and the sum of their weights are known."""
        if self._count not in (None, count):
            raise ValueError(
                f"{self.names[0]}: {count} samples in this pass, {self._count} in the first; "
                "allowed: blocks that hold the same samples whenever they are read"
            )
        if tolerance > 0:  # weights were given: their sum must be one
            check_weight_sum(total, tolerance, "weights")
        self._count, self._total = count, total

    def reduce(self, part: Callable[[Block], T], merge: Callable[[T, T], T]) -> T:
        """`part` of every block, merged pairwise; `merge` is associative."""
        return pairwise((part(block) for block in self.blocks()), merge)

    def mean(self, part: Callable[[Block], tuple[Any, ...]]) -> tuple[Any, ...]:
        r"""Weighted means: `part` gives sums :math:`\sum_i w_i f(z_i)` over a block."""
        sums = self.reduce(part, _add)
        return tuple(value / self._total for value in sums)

    @property
    def count(self) -> int:
        """N; costs a pass over blocks that have not been read before."""
        self._read_once()
        assert self._count is not None
        return self._count

    @property
    def total(self) -> float:
        """What the weights of the blocks sum to: they stand for their share of it."""
        self._read_once()
        return self._total

    def _read_once(self) -> None:
        if self._count is None:
            for _ in self.blocks():
                pass

    def whole(self) -> tuple[tuple[Array, ...], Array]:
        """All samples and weights as arrays, in memory."""
        *parts, weights = self.gathered(lambda block: (*block.parts, block.weights))
        return tuple(parts), weights / self._total

    def gathered(self, part: Callable[[Block], Sequence[Array]]) -> tuple[Array, ...]:
        """Arrays with a row per sample, in memory and read-only, from those of every block."""
        found = [part(block) for block in self.blocks()]
        if len(found) == 1:
            return tuple(read_only(rows) for rows in found[0])
        return tuple(read_only(np.concatenate(rows)) for rows in zip(*found, strict=True))

    @property
    def in_memory(self) -> bool:
        """Whether `whole` costs nothing."""
        return False

    def root(self) -> Array:
        r"""Triangular R with :math:`R^\top R = \sum_i\mu_i z_iz_i^\top`, z all variables in a row.

        By QR decompositions of the blocks, so that directions of little variance keep their digits.
        """
        return np.asarray(self.reduce(_triangle, _stacked) / math.sqrt(self.total))


def pairwise(values: Iterable[T], merge: Callable[[T, T], T]) -> T:
    """The merged values, in a balanced tree of which only one branch is kept."""
    branch: list[tuple[int, T]] = []
    for value in values:
        level = 0
        while branch and branch[-1][0] == level:
            value, level = merge(branch.pop()[1], value), level + 1
        branch.append((level, value))
    result = branch.pop()[1]
    while branch:
        result = merge(branch.pop()[1], result)
    return result


def _add(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _triangle(block: Block) -> Array:
    rows = np.sqrt(block.weights)[:, None] * np.hstack(block.parts)
    return np.asarray(np.linalg.qr(rows, mode="r"))


def _stacked(first: Array, second: Array) -> Array:
    return np.asarray(np.linalg.qr(np.vstack([first, second]), mode="r"))


def _rows_of_a_block(widths: tuple[int, ...]) -> int:
    width = sum(widths)
    return max(BLOCK_ENTRIES // width, min(BLOCK_ROWS, LARGEST_BLOCK // width), 1)


def _length(rows: Any) -> int:
    return int(rows.shape[0]) if hasattr(rows, "shape") else len(rows)


def _divided(
    given: _Given, start: int, names: tuple[str, ...], widths: tuple[int, ...], check: bool
) -> Iterator[Block]:
    """A given block in blocks of the size that is worked on, checked and in double precision."""
    size = _length(given.parts[0])
    for name, rows in zip(names[1:], given.parts[1:], strict=True):
        if _length(rows) != size:
            raise ValueError(
                f"{name}{given.label}: {_length(rows)} rows, but {names[0]} has {size}; row i of "
                "both belongs to sample i"
            )
    weights = np.ones(size)
    if given.weights is not None:
        label = f"weights{given.label}"
        weights = as_real_array(given.weights, label)
        if weights.shape != (size,):
            raise ValueError(f"{label}: shape {weights.shape}; needed: ({size},)")
        check_non_negative(weights, label)
    step = _rows_of_a_block(widths)
    for low in range(0, max(size, 1), step):
        part = slice(low, low + step)
        label = given.label if size <= step else f"{given.label}[{low}:{min(low + step, size)}]"
        parts = []
        for name, width, rows in zip(names, widths, given.parts, strict=True):
            own = rows if size <= step else rows[part]
            if check or type(own) is not np.ndarray or own.dtype.kind not in "biuf":
                own = as_samples(own, f"{name}{label}")
            if own.shape[1] != width:
                raise ValueError(
                    f"{name}{label}: {own.shape[1]} columns; needed: {width}, as in the first block"
                )
            parts.append(np.asarray(own, dtype=np.float64))
        yield Block(start + low, tuple(parts), weights[part])


class ArraySamples(Samples):
    """Arrays in memory or mapped into it; only what is too large for a block is widened late."""

    def __init__(self, names: tuple[str, ...], arrays: tuple[Any, ...], weights: Any) -> None:
        self._arrays = tuple(_as_rows(rows, name) for rows, name in zip(arrays, names, strict=True))
        super().__init__(names, tuple(rows.shape[1] for rows in self._arrays))
        size = len(self._arrays[0])
        for name, rows in zip(names[1:], self._arrays[1:], strict=True):
            if len(rows) != size:
                raise ValueError(
                    f"{name}: {len(rows)} rows, but {names[0]} has {size}; row i of both belongs "
                    "to sample i"
                )
        self._size, self._weights = size, None if weights is None else as_weights(weights, size)
        self._checked = self.in_memory

    @property
    def in_memory(self) -> bool:
        return all(_is_resident(rows) for rows in self._arrays)

    def _given(self) -> Iterator[_Given]:
        step = _rows_of_a_block(self.widths)
        for low in range(0, self._size, step):
            part = slice(low, min(low + step, self._size))
            yield _Given(
                f"[{part.start}:{part.stop}]",
                tuple(np.asarray(rows[part]) for rows in self._arrays),
                None if self._weights is None else self._weights[part],
            )

    def _finish(self, count: int, total: float, tolerance: float) -> None:
        super()._finish(count, total, 0.0)  # the weights were checked as a whole

    def whole(self) -> tuple[tuple[Array, ...], Array]:
        if not self.in_memory:
            return super().whole()
        return self._arrays, as_weights(self._weights, self._size)


def _as_rows(rows: Any, name: str) -> Any:
    """The rows of a large array of numbers as they are, or what they are in double precision."""
    mapped = isinstance(rows, np.memmap)
    large = type(rows) is np.ndarray and rows.dtype != np.float64 and rows.size > LARGEST_BLOCK
    if (mapped or large) and rows.dtype.kind in "biuf":
        check_rows(rows, name)
        return rows
    return as_samples(rows, name)


def _is_resident(rows: Any) -> bool:
    return not isinstance(rows, np.memmap) and rows.dtype == np.float64


class BlockSamples(Samples):
    """Blocks that an object hands out anew whenever it is iterated: a list, a DataLoader."""

    def __init__(self, names: tuple[str, ...], source: Iterable[Any]) -> None:
        self._source = source
        if isinstance(source, Iterator):
            raise TypeError(
                f"{names[0]}: {type(source).__name__} can be read only once, but the samples are "
                "read again for the worst-case law and its certificate; allowed: a list of blocks, "
                "a DataLoader, or any object whose __iter__ starts from the beginning"
            )
        self.names = names
        first = next(self._given(), None)
        if first is None:
            raise ValueError(f"{names[0]}: no blocks; at least one sample is needed")
        rows = [
            as_samples(part, f"{name}{first.label}")
            for name, part in zip(names, first.parts, strict=True)
        ]
        super().__init__(names, tuple(part.shape[1] for part in rows))

    def _given(self) -> Iterator[_Given]:
        count = len(self.names)
        listed = ", ".join(self.names)
        weighted: bool | None = None
        for index, block in enumerate(self._source):
            label = f" in block {index}"
            if count == 1 and not isinstance(block, tuple | list):
                block = (block,)
            if not isinstance(block, tuple | list) or not count <= len(block) <= count + 1:
                raise TypeError(
                    f"{self.names[0]}{label}: {type(block).__name__}; a block is ({listed}) or "
                    f"({listed}, weights)"
                )
            weights = block[count] if len(block) > count else None
            if weighted not in (None, weights is not None):
                raise ValueError(
                    f"weights{label}: {'given' if weights is not None else 'missing'}, unlike in "
                    "the blocks before; allowed: weights in all blocks, or in none"
                )
            weighted = weights is not None
            yield _Given(label, tuple(block[:count]), weights)


class DaskSamples(Samples):
    """Dask arrays: blocks are reduced where the user's Dask scheduler puts them."""

    def __init__(self, names: tuple[str, ...], arrays: tuple[Any, ...], weights: Any) -> None:
        for name, rows in zip(names, arrays, strict=True):
            if not _is_dask(rows):
                raise TypeError(
                    f"{name}: {type(rows).__name__}, but {names[0]} is a Dask array; allowed: Dask "
                    "arrays for all variables"
                )
            if any(math.isnan(size) for size in (*rows.shape, *rows.chunks[0])):
                raise ValueError(
                    f"{name}: chunks of unknown size; call compute_chunk_sizes() on it first"
                )
            check_rows(rows, name)
            if rows.shape[0] != arrays[0].shape[0]:
                raise ValueError(
                    f"{name}: {rows.shape[0]} rows, but {names[0]} has {arrays[0].shape[0]}; row i "
                    "of both belongs to sample i"
                )
        super().__init__(names, tuple(int(rows.shape[1]) for rows in arrays))
        self._sizes = tuple(int(size) for size in arrays[0].chunks[0])
        columns = [
            rows.rechunk((self._sizes, (width,)))
            for rows, width in zip(arrays, self.widths, strict=True)
        ]
        self._weighted = weights is not None
        if weights is not None:
            if not _is_dask(weights) or weights.shape != (sum(self._sizes),):
                raise TypeError(
                    f"weights: {type(weights).__name__} of shape {getattr(weights, 'shape', None)};"
                    f" allowed beside Dask arrays: a Dask array of shape ({sum(self._sizes)},)"
                )
            columns.append(weights.rechunk((self._sizes,))[:, None])
        self._columns = tuple(columns)

    def _given(self) -> Iterator[_Given]:
        for index in range(len(self._sizes)):
            chunks = [np.asarray(rows.blocks[index, 0].compute()) for rows in self._columns]
            yield self._block(index, chunks)

    def _block(self, index: int, chunks: list[Any]) -> _Given:
        return _chunk(index, chunks, self._weighted)

    def reduce(self, part: Callable[[Block], T], merge: Callable[[T, T], T]) -> T:
        starts = np.concatenate([[0], np.cumsum(self._sizes)])
        reduced = partial(
            _reduced_chunk, part, merge, starts, self.names, self.widths, self._weighted
        )
        table = self._columns[0].map_blocks(
            reduced,
            *self._columns[1:],
            dtype=object,
            chunks=((1,) * len(self._sizes), (1,)),
            meta=np.empty((0, 0), dtype=object),
        )
        sums: list[float] = []

        def values() -> Iterator[T]:
            for low in range(0, len(self._sizes), CHUNKS_AT_A_TIME):
                for total, value in table.blocks[low : low + CHUNKS_AT_A_TIME].compute()[:, 0]:
                    sums.append(total)
                    yield value

        result = pairwise(values(), merge)
        tolerance = 0.0
        if self._weighted:
            tolerance = weight_sum_tolerance(np.empty(0, self._columns[-1].dtype), int(starts[-1]))
        self._finish(int(starts[-1]), math.fsum(sums), tolerance)
        return result


def _chunk(index: int, chunks: list[Any], weighted: bool) -> _Given:
    parts, weights = (chunks[:-1], chunks[-1][:, 0]) if weighted else (chunks, None)
    return _Given(f" in block {index}", tuple(parts), weights)


def _reduced_chunk(
    part: Callable[[Block], Any],
    merge: Callable[[Any, Any], Any],
    starts: Any,
    names: tuple[str, ...],
    widths: tuple[int, ...],
    weighted: bool,
    *chunks: Any,
    block_id: tuple[int, ...] = (0, 0),
) -> Any:
    """(sum of weights, reduction) of one chunk, as the one entry of an array of objects."""
    given = _chunk(block_id[0], list(chunks), weighted)
    sums: list[float] = []

    def values() -> Iterator[Any]:
        for block in _divided(given, int(starts[block_id[0]]), names, widths, check=True):
            sums.append(float(block.weights.sum()))
            yield part(block)

    entry = np.empty((1, 1), dtype=object)
    value = pairwise(values(), merge)
    entry[0, 0] = math.fsum(sums), value
    return entry


def _is_dask(rows: Any) -> bool:
    return all(hasattr(rows, name) for name in ("map_blocks", "rechunk", "chunks", "compute"))


def as_blocks(
    x: SamplesLike, y: ArrayLike | None = None, weights: ArrayLike | None = None
) -> Samples:
    """Samples (x, y): two arrays and their weights, or blocks (x, y[, weights]) in place of x."""
    if y is not None:
        return _of_arrays(("x", "y"), (x, y), weights)
    if _is_array(x):
        raise ValueError(
            "y: None, but x is an array; row i of y belongs to row i of x (only blocks (x, y) in "
            "place of x come without y)"
        )
    return _of_blocks(("x", "y"), x, weights)


def as_row_blocks(rows: SamplesLike, name: str, weights: ArrayLike | None = None) -> Samples:
    """Samples of one variable: an array, or anything else that hands out blocks of rows anew."""
    listed = isinstance(rows, list | tuple)
    if not listed and not _is_array(rows) and hasattr(rows, "__iter__"):
        return _of_blocks((name,), rows, weights)
    return _of_arrays((name,), (rows,), weights)


def _is_array(rows: Any) -> bool:
    return _is_dask(rows) or any(
        hasattr(rows, name) for name in ("__array__", "__array_interface__", "toarray")
    )


def _of_arrays(names: tuple[str, ...], arrays: tuple[Any, ...], weights: Any) -> Samples:
    kind = DaskSamples if _is_dask(arrays[0]) else ArraySamples
    return kind(names, arrays, weights)


def _of_blocks(names: tuple[str, ...], blocks: Any, weights: Any) -> Samples:
    if isinstance(blocks, Samples):
        return blocks
    listed = ", ".join(names)
    if weights is not None:
        raise ValueError(
            f"weights: given beside blocks; allowed: blocks ({listed}, weights) that bring them"
        )
    if not hasattr(blocks, "__iter__"):
        raise TypeError(
            f"{names[0]}: {type(blocks).__name__}; allowed: arrays, or blocks ({listed}) or "
            f"({listed}, weights) that can be read again and again"
        )
    return BlockSamples(names, blocks)
