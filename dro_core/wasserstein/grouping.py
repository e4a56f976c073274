"""Samples that share an x, exactly or within a tolerance, as groups of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from dro_core.types import Array, Booleans, Indices

#: More pairs of x within the tolerance than this are refused: 1 GiB of indices.
MOST_PAIRS = 2**26


def equal_rows(x: Array) -> tuple[Indices, Array]:
    """(label of every row, distinct rows): equal rows have equal labels, in order of appearance.

    Rows are compared through a hash of their bits; what it says is then checked on the rows.
    """
    rows = x + 0.0  # -0.0 becomes 0.0
    factors = np.random.default_rng(0).integers(0, 2**63, x.shape[1], dtype=np.uint64)
    key = rows.view(np.uint64) @ (2 * factors + 1)
    head = np.flatnonzero(np.diff(key, prepend=~key[:1]))  # where a run of equal rows begins
    order = np.argsort(key[head])
    new = np.diff(key[head][order], prepend=~key[head][order[:1]]) != 0
    label = np.empty(len(head), dtype=np.int64)
    label[order] = np.cumsum(new) - 1
    label, first = _in_order_of_appearance(label, np.minimum.reduceat(order, np.flatnonzero(new)))
    label = np.repeat(label, np.diff(head, append=len(x)))
    distinct = rows[head[first]]
    if not np.array_equal(rows, distinct[label]):  # two rows share a hash
        first, label = np.unique(rows, axis=0, return_index=True, return_inverse=True)[1:]
        label, first = _in_order_of_appearance(label.reshape(-1), first)
        distinct = rows[first]
    return label, distinct


def close_rows(x: Array, tolerance: float) -> tuple[Indices, Array]:
    """As `equal_rows` with "within the tolerance", refused where that is not transitive."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    label, rows = equal_rows(x)
    if tolerance == 0.0 or len(rows) == 1:
        return label, rows
    tree = cKDTree(rows)
    if (tree.count_neighbors(tree, tolerance) - len(rows)) // 2 > MOST_PAIRS:
        raise ValueError(
            f"tolerance: {tolerance} joins more than {MOST_PAIRS} pairs of distinct x; use a "
            "smaller one"
        )
    pairs = tree.query_pairs(tolerance, output_type="ndarray")
    graph = sparse.coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(rows),) * 2)
    _, group = connected_components(graph, directed=False)
    size = np.bincount(group)
    chained = np.flatnonzero(
        np.bincount(group[pairs[:, 0]], minlength=len(size)) != size * (size - 1) // 2
    )
    if chained.size:
        example = as_text(rows[np.flatnonzero(group == chained[0])[0]])
        raise ValueError(
            f"tolerance: at {tolerance} the grouping of x is ambiguous: {int(size[chained[0]])} "
            f"distinct x, among them {example}, form a chain of neighbours with ends further apart "
            f"({chained.size} such chains); use a smaller or larger tolerance, or round x yourself"
        )
    group, first = _in_order_of_appearance(group, np.unique(group, return_index=True)[1])
    return group[label], rows[first]


def _in_order_of_appearance(label: Indices, first: Indices) -> tuple[Indices, Indices]:
    """Labels 0 .. K - 1 renumbered by the place of their first appearance, and these places."""
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[label], first[order]


def as_text(row: Array) -> str:
    return np.array2string(row, precision=6, threshold=6, edgeitems=2, separator=", ")


def by_group(label: Indices, groups: int) -> tuple[Indices, Indices]:
    """Places of the labels >= 0 in the order of the groups, and where each group starts."""
    place = np.flatnonzero(label >= 0)
    if (np.diff(label) >= 0).all():  # in that order already
        return place, np.searchsorted(label[place], np.arange(groups + 1))
    table = sparse.coo_array((place, (label[place], place)), shape=(groups, len(label))).tocsr()
    return table.data, table.indptr.astype(np.int64)


def row_tables(start: Indices) -> Iterator[tuple[Indices, Booleans]]:
    """Consecutive groups as rows of tables: (places, which of them are in the group).

    Groups of 2^(k-1) to 2^k - 1 entries share a table, so few tables hold all, at most half empty.
    """
    counts = np.diff(start)
    octave = np.frexp(counts)[1]
    for k in np.flatnonzero(np.bincount(octave)):
        own = np.flatnonzero(octave == k)
        column = np.arange(counts[own].max())
        yield start[own, None] + column, column < counts[own, None]
