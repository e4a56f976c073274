"""The paper's outer loop over the multiplier (§6.1.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dro_core.checks import as_scalar
from dro_core.described import Described

#: An interval may be wider than the tolerance by this, relative to it: rounding of its ends.
FORGIVEN = 1e-9


@dataclass(frozen=True, repr=False)
class Bisection(Described):
    """Where the loop ended, and every candidate on the way.

    Attributes
    ----------
    best : float
        The candidate with the smallest value.
    low, high : float
        The last interval.
    candidates : tuple of (float, float)
        Every point with its value, in order.
    """

    best: float
    low: float
    high: float
    candidates: tuple[tuple[float, float], ...]


def bisect_interval(
    value: Callable[[float], float], low: float, high: float, tolerance: float
) -> Bisection:
    """Halve [low, high] towards the boundary with the smaller value (paper §6.1.2).

    The values at both boundaries and at the midpoint are asked for once each; then the half next
    to the worse boundary is dropped until the interval is at most `tolerance` wide (or wider by
    the rounding of its ends, which would cost one more call). That is the
    minimiser of a function that is symmetric and unimodal; for others, and for noisy values, it
    is a heuristic, so `best` is the best candidate seen and not the last midpoint.

    Parameters
    ----------
    value : callable
        float -> float; called 3 + ceil(log2((high - low) / tolerance)) times, in this order: low,
        high, the midpoints.
    low, high, tolerance : float
        The interval and the width at which to stop, in units of the multiplier.

    Raises
    ------
    ValueError
        low >= high, tolerance <= 0, or a value that is NaN.

    Source: paper §6.1.2.
    """
    low, high = as_scalar(low, "low", "a number"), as_scalar(high, "high", "a number")
    tolerance = as_scalar(tolerance, "tolerance", "a number > 0")
    if low >= high:
        raise ValueError(f"low: {low} is not below high, {high}")
    if tolerance <= 0:
        raise ValueError(f"tolerance: {tolerance}; allowed: a number > 0")
    candidates: list[tuple[float, float]] = []

    def asked(point: float) -> float:
        number = float(value(point))
        if number != number:
            raise ValueError(f"value: NaN at {point}")
        candidates.append((point, number))
        return number

    at_low, at_high = asked(low), asked(high)
    middle = 0.5 * (low + high)
    at_middle = asked(middle)
    while high - low > tolerance * (1 + FORGIVEN) and low < middle < high:
        if at_low < at_high:
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
        middle = 0.5 * (low + high)
        at_middle = asked(middle)
    best = min(candidates, key=lambda candidate: candidate[1])[0]
    return Bisection(best, low, high, tuple(candidates))
