"""Cells of printed tables."""

from __future__ import annotations


def cell(value: object) -> str:
    """A table entry as text."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
