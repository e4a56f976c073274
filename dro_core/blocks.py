"""Tables of losses and costs, given whole or by a function, handed out in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_real_array
from dro_core.types import Array, Booleans, Table

#: Entries per block of candidates: 16 MiB of float64, a few of which are alive at a time.
BLOCK_ENTRIES = 2**21
#: A call for a block costs about as much as evaluating this many entries.
CALL_ENTRIES = 2**14
#: Larger losses and finite costs are refused: products and sums of them would overflow.
LARGEST_ENTRY = 1e200
BlockFunction = Callable[[slice], ArrayLike]


class Candidates:
    """Losses and costs of N x M candidate moves, handed out in blocks of rows.

    Forbidden moves (not admissible, or of infinite cost) come out with cost +inf.
    """

    def __init__(
        self, loss: Table, cost: Table, admissible: Table | None, weights: ArrayLike | None
    ) -> None:
        self._functions: dict[str, Any] = {"loss": loss, "cost": cost, "admissible": admissible}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, value in self._functions.items():
            if callable(value) or (value is None and name == "admissible"):
                continue
            array = _as_mask(value, name) if name == "admissible" else as_block(value, name)
            self._functions[name] = array
            shapes[name] = array.shape
        for name, shape in shapes.items():
            if shape[0] == 0:
                raise ValueError(f"{name}: no rows (shape {shape}); at least one sample is needed")
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"loss, cost, admissible: the shapes differ ({listed})")
        self._rows: int | None = next(iter(shapes.values()))[0] if shapes else None
        if self._rows is None and weights is not None:
            self._rows = int(np.size(weights))
        self.columns = next(iter(shapes.values()))[1] if shapes else self._probe()
        self._checked = False

    def _probe(self) -> int:
        first = as_block(self._functions["loss"](slice(0, 1)), "loss")
        return int(first.shape[1])

    @property
    def rows(self) -> int:
        """N; known after the first pass when only callables without weights were given."""
        assert self._rows is not None
        return self._rows

    def _evaluate(self, name: str, rows: slice, expected: int | None) -> Any:
        function = self._functions[name]
        if not callable(function):
            return function[rows]
        block = function(rows)
        checked = _as_mask(block, name) if name == "admissible" else as_block(block, name)
        wanted = checked.shape[0] if expected is None else expected
        if checked.shape != (wanted, self.columns):
            raise ValueError(
                f"{name}: rows {rows.start}:{rows.stop} came back with shape {checked.shape}; "
                f"needed: ({wanted}, {self.columns})"
            )
        return checked

    def _slices(self, needed: Booleans | None) -> Iterator[slice]:
        """Slices of at most BLOCK_ENTRIES entries over all rows, or over those in a mask.

        Rows between two needed ones are taken along when that is cheaper than another call.
        """
        step = max(1, BLOCK_ENTRIES // self.columns)
        if needed is None:
            runs = [(0, self._rows)]
        else:
            rows = np.flatnonzero(needed)
            breaks = np.flatnonzero(np.diff(rows) > 1 + CALL_ENTRIES // self.columns)
            parts = [part for part in np.split(rows, breaks + 1) if part.size]
            runs = [(int(part[0]), int(part[-1]) + 1) for part in parts]
        for first, end in runs:
            start = first
            while end is None or start < end:
                stop = start + step if end is None else min(start + step, end)
                yield slice(start, stop)
                start, end = stop, self._rows if end is None else end

    def blocks(self, needed: Booleans | None = None) -> Iterator[tuple[slice, Array, Array]]:
        """(rows, loss, cost) with forbidden moves at cost +inf; checked on the first pass.

        With a mask of the rows that are needed, others may be left out.
        """
        for rows in self._slices(needed):
            expected = None if self._rows is None else rows.stop - rows.start
            loss = self._evaluate("loss", rows, expected)
            size = len(loss)
            if self._rows is None and size < rows.stop - rows.start:
                self._rows = rows.start + size  # a short block: the samples end here
            if size == 0:
                if rows.start == 0:
                    raise ValueError("loss: no rows; at least one sample is needed")
                break
            rows = slice(rows.start, rows.start + size)
            cost = self._evaluate("cost", rows, size)
            if self._functions["admissible"] is not None:
                allowed = self._evaluate("admissible", rows, size)
                if not allowed.all():
                    cost = np.where(allowed, cost, np.inf)
            if not self._checked:
                _check_block(loss, cost, rows.start)
            yield rows, loss, cost
        self._checked = True


def as_block(value: object, name: str) -> Array:
    array = np.asarray(value) if isinstance(value, np.matrix) else value
    if type(array) is not np.ndarray or array.dtype != np.float64:
        array = as_real_array(value, name, finite=False)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name}: a 2-D (samples, candidates) array is needed, given shape {array.shape}"
        )
    return np.asarray(array)


def _as_mask(value: object, name: str) -> Booleans:
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise TypeError(
            f"{name}: a 2-D boolean (samples, candidates) mask is needed, given dtype "
            f"{mask.dtype} and shape {mask.shape}"
        )
    return mask


def _check_block(loss: Array, cost: Array, start: int) -> None:
    for name, array, bad in (
        ("loss", loss, ~(np.abs(loss) <= LARGEST_ENTRY)),
        ("cost", cost, ~((cost >= 0) & ((cost <= LARGEST_ENTRY) | (cost == np.inf)))),
    ):
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            allowed = f"at most {LARGEST_ENTRY:g} in size"
            if name == "cost":
                allowed += " and >= 0 (infinite forbids the move)"
            raise ValueError(
                f"{name}: entry ({start + i}, {j}) is {array[i, j]}; every entry must be {allowed}"
            )
    stuck = ~np.isfinite(cost).any(axis=1)
    if stuck.any():
        raise ValueError(
            f"admissible: sample {start + int(np.argmax(stuck))} has no admissible candidate of "
            "finite cost; every sample needs one (its own position, for instance)"
        )
