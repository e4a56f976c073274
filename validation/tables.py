"""Rows of tables, and numbers out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dro_core.types import Array

#: A row of a table, by column; tables by name.
Row = dict[str, float | str]
Tables = dict[str, list[Row]]


def number(row: Mapping[str, float | str], name: str) -> float:
    """One number of a row."""
    return float(row[name])


def column(rows: Sequence[Mapping[str, float | str]], name: str) -> Array:
    """One column of numbers."""
    return np.array([float(row[name]) for row in rows])


def with_band(value: float, band: float) -> str:
    """A number and its band, where there is one: of one network and no subsets there is none."""
    return f"{value:.4g} ± {band:.2g}" if band > 0 else f"{value:.4g}"
