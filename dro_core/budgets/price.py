"""The price of the noise at which both budgets are spent: one number, found by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import numpy as np
from scipy.optimize import brentq

from dro_core.checks import as_radius
from dro_core.types import Array

Found = TypeVar("Found")
#: Relative distance of the two prices whose laws are mixed.
APART = 1e-9
#: Radii of signal and noise differ by no more than this factor.
FAR_APART = 1e5


@dataclass(frozen=True, eq=False)
class Bracket(Generic[Found]):
    """Answers at a price just below and just above the best one, and the share of the first.

    The mixture of their laws in that proportion spends the noise's budget.
    """

    low: Found
    high: Found
    share: float


def as_two_radii(radius_x: object, radius_noise: object, forward: Array) -> tuple[float, float]:
    """Radii > 0 of signal and noise that are not too far apart, seen in y."""
    found = []
    for value, name, instead in (
        (radius_x, "radius_x", "structure 'y|x'"),
        (radius_noise, "radius_noise", "XShift(forward, cost='x')"),
    ):
        radius = as_radius(value, name)
        if radius == 0.0:
            raise ValueError(f"{name}: 0.0; allowed: numbers > 0 (what cannot move: {instead})")
        found.append(radius)
    ratio = found[0] / found[1] * (float(np.linalg.norm(forward, 2)) or 1.0)
    if not 1 / FAR_APART <= ratio <= FAR_APART:
        raise ValueError(
            f"radius_x, radius_noise: the signal's, times the norm of A, is {ratio:g} times the "
            f"noise's; allowed: {1 / FAR_APART:g} to {FAR_APART:g} (beyond, only one matters)"
        )
    return found[0], found[1]


def budget_factors(costs: tuple[float, float], radii: tuple[float, float]) -> list[float]:
    """By what moves of signal and noise shrink to keep their budgets to the last digit.

    (What the bracket of prices leaves above a budget is of the bracket's width.)
    """
    return [
        min(1.0, radius / math.sqrt(cost)) if cost > 0 else 1.0
        for cost, radius in zip(costs, radii, strict=True)
    ]


def best_price(
    solve: Callable[[float], Found],
    noise_cost: Callable[[Found], float],
    x: float,
    noise: float,
    largest: float,
) -> Bracket[Found]:
    r"""Where what the noise spends, decreasing in its price, crosses its budget.

    The value :math:`\min_\lambda F(\lambda, t\lambda)` of a jointly convex F is quasi-convex in t
    and its slope has the sign of budget minus cost.

    Parameters
    ----------
    solve : callable
        Price t to the answer with weights (1, t) and budget x² + t noise².
    noise_cost : callable
        Answer to :math:`\mathbb E\|v\|^2`.
    x, noise : float
        The radii.
    largest : float
        Prices are sought within this factor of the ratio of the budgets; at its end a budget that
        does not matter is taken for one of that size.
    """
    middle = 2.0 * math.log(x / noise)

    @cache
    def at(logarithm: float) -> tuple[Found, float]:
        answer = solve(math.exp(logarithm))
        return answer, noise_cost(answer)

    def excess(logarithm: float) -> float:
        return at(logarithm)[1] / noise**2 - 1.0

    low, high = middle, middle
    step, limit = 2.0, math.log(largest)
    if excess(middle) > 0:
        while high < middle + limit and excess(high) > 0:
            low, high = high, min(high + step, middle + limit)
            step *= 2
    else:
        while low > middle - limit and excess(low) <= 0:
            low, high = max(low - step, middle - limit), low
            step *= 2
    if excess(low) > 0 >= excess(high):
        root = brentq(excess, low, high, xtol=APART / 4, rtol=1e-15)
        low, high = root - APART, root + APART
    over, under = excess(low), -excess(high)
    share = under / (over + under) if over > 0 and under > 0 else float(over <= 0)
    return Bracket(at(low)[0], at(high)[0], share)
