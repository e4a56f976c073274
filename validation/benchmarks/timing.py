"""Timing two ways of doing the same thing in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def median_seconds(action: Callable[[], object], runs: int) -> float:
    """Median wall time over `runs` calls, after one that is not counted."""
    action()
    return statistics.median(seconds(action) for _ in range(runs))


def median_ratio(
    first: Callable[[], object], second: Callable[[], object], runs: int
) -> tuple[float, float, float]:
    """(median seconds of first, of second, median of first/second), run in turn A B A B ..."""
    first()
    second()
    pairs = [(seconds(first), seconds(second)) for _ in range(runs)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )
