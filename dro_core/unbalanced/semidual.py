"""The c-transform and the semi-dual objective: what the unpaired losses estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dro_core.blocks import BLOCK_ENTRIES, as_block
from dro_core.checks import as_real_array, check_magnitude
from dro_core.types import Array, Real, Table
from dro_core.unbalanced.problem import (
    UnbalancedProblem,
    as_masses,
    as_sides,
    as_weight,
    check_finite_value,
    check_totals,
)


def cost_blocks(
    cost: Table, columns: int, rows: int | None, side: str = "v"
) -> Iterator[tuple[slice, Array]]:
    """(rows, checked block) of an array or of a block callable; at most BLOCK_ENTRIES each.

    `side` names what has an entry per column.
    """
    end = rows
    if callable(cost):
        function = cost

        def read(piece: slice) -> Array:
            return as_block(function(piece), "cost")
    else:
        table = as_block(cost, "cost")
        if rows not in (None, len(table)):
            raise ValueError(f"cost: {len(table)} rows, but a has {rows} entries; they must agree")
        end = len(table)

        def read(piece: slice) -> Array:
            return table[piece]

    step, start = max(1, BLOCK_ENTRIES // columns), 0
    while end is None or start < end:
        stop = start + step if end is None else min(start + step, end)
        block = read(slice(start, stop))
        if block.shape[1] != columns or len(block) > stop - start:
            raise ValueError(
                f"cost: rows {start}:{stop} have shape {block.shape}, but {side} has {columns} "
                f"entries; needed: ({stop - start}, {columns})"
            )
        if not np.isfinite(block).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(block))[0])
            raise ValueError(
                f"cost: entry ({start + i}, {j}) is {block[i, j]}; every entry must be finite"
            )
        if len(block):
            yield slice(start, start + len(block)), block
        if len(block) < stop - start:  # the rows end here
            if end is not None:
                raise ValueError(
                    f"cost: rows {start}:{stop} came back with {len(block)} rows, but a has {end} "
                    "entries"
                )
            break
        start = stop


def transform_blocks(v: Array, cost: Table, rows: int | None) -> Array:
    parts = [(block - v).min(axis=1) for _, block in cost_blocks(cost, len(v), rows)]
    if not parts:
        raise ValueError("cost: no rows; at least one is needed")
    return np.concatenate(parts)


def _as_potential(value: object, name: str) -> Array:
    array = as_real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: a non-empty 1-D array is needed, given shape {array.shape}")
    check_magnitude(array, name)
    return array


def c_transform(v: ArrayLike, cost: Table) -> Array:
    r"""The c-transform :math:`v^c_i = \min_j c_{ij} - v_j`, blockwise.

    The largest u with :math:`u_i + v_j \le c_{ij}`. For the other side pass ``cost.T``.

    Parameters
    ----------
    v : (M,) array
        Potential on the columns, in units of the cost.
    cost : (N, M) array, or callable ``f(rows: slice) -> (len(rows), M) array``
        Of either sign, finite. A callable is asked for blocks of rows, so nothing of size N x M is
        stored; past the last row it returns fewer rows than asked for (or none), as slicing does.

    Returns
    -------
    (N,) array

    Raises
    ------
    ValueError, TypeError
        For NaN, infinite entries, or shapes that do not fit.

    Notes
    -----
    Source: ISUM paper, Eq. 14.

    Examples
    --------
    >>> from dro_core.unbalanced import c_transform
    >>> c_transform([0.0, 2.0], [[1.0, 2.0], [3.0, 9.0]])
    array([0., 3.])
    """
    return transform_blocks(_as_potential(v, "v"), cost, None)


def semidual_value(
    v: ArrayLike,
    cost: Table,
    a: ArrayLike,
    b: ArrayLike,
    divergence: str | Sequence[str] = "kl",
    *,
    weight: Real = 1.0,
) -> float:
    r"""The semi-dual :math:`-\sum_i a_i\Psi_1^*(-v^c_i) - \sum_j b_j\Psi_2^*(-v_j)`.

    A lower bound on `unbalanced_ot` for every v; equal to it at the optimal potential.

    Parameters
    ----------
    v : (M,) array
        Potential on the columns, in units of the cost.
    cost : (N, M) array, or callable ``f(rows: slice) -> (len(rows), M) array``
    a, b : (N,) and (M,) arrays
        Positive masses of any total (equal totals if both marginals are fixed).
    divergence, weight
        As in `unbalanced_ot`.

    Returns
    -------
    float
        In units of cost times mass.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, or an unknown divergence.
    OverflowError
        If :math:`e^{-v/w}` exceeds the largest float: the value is then below -1e308.

    Notes
    -----
    Source: ISUM paper, Eq. 14; Vacher and Vialard (2023).

    Examples
    --------
    >>> from dro_core.unbalanced import semidual_value
    >>> semidual_value([0.0, 2.0], [[1.0, 2.0], [3.0, 9.0]], [1, 1], [1, 1], "balanced")
    5.0
    """
    potential, a, b = _as_potential(v, "v"), as_masses(a, "a"), as_masses(b, "b")
    sides, w = as_sides(divergence), as_weight(weight)
    if len(potential) != len(b):
        raise ValueError(f"v: {len(potential)} entries, but b has {len(b)}; they must agree")
    check_totals(a, b, sides)
    value = UnbalancedProblem(a, b, sides, w).dual(
        transform_blocks(potential, cost, len(a)), potential
    )
    return check_finite_value(value, "v, cost, weight")
