"""The relaxed distance along a sequence of prices of moving x, and the price that suffices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dro_core.blocks import BLOCK_ENTRIES
from dro_core.checks import as_real_array
from dro_core.described import Drawn
from dro_core.types import Array, Real
from dro_core.wasserstein.conditional import ConditionalDistance, conditional_wasserstein

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class RelaxedCurve(Drawn):
    """The relaxed distance for growing beta, and its limit.

    Attributes
    ----------
    beta, value, moved_x, mean_move_x : (B,) arrays
        As in `ConditionalDistance`.
    limit : float
        The conditional distance (infinite when the X-marginals differ).
    sufficient_beta : float
        From here on the relaxed distance equals the limit, proved by the potentials of the limit
        (infinite when the X-marginals differ).
    """

    beta: Array
    value: Array
    moved_x: Array
    mean_move_x: Array
    limit: float
    sufficient_beta: float

    def _draw(self, ax: Axes) -> None:
        """The relaxed distance against beta, and its limit."""
        ax.plot(self.beta, self.value, ".-", label="relaxed distance")
        if np.isfinite(self.limit):
            ax.axhline(self.limit, color="k", linewidth=1, label="conditional distance")
        ax.set_xscale("log")
        ax.set_xlabel("price of moving x, beta")
        ax.set_ylabel("distance, in units of y")
        ax.legend()


def relaxed_curve(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    *,
    betas: ArrayLike,
    weights0: ArrayLike | None = None,
    weights1: ArrayLike | None = None,
    p: Real = 2.0,
) -> RelaxedCurve:
    r"""The relaxed distance at several beta: increasing, with limit :math:`W_{p,Y|X}`.

    For equal X-marginals the limit is *attained*: with potentials f, g of the conditional problem

    .. math:: \beta \ge \max_{x_i\ne x'_j}
              \frac{f_i + g_j - \|y_i-y'_j\|^p}{\|x_i-x'_j\|^p}

    makes them feasible for the relaxed problem, whose value they then prove to be the limit.

    Parameters
    ----------
    x0, y0, x1, y1, weights0, weights1, p
        As in `conditional_wasserstein`.
    betas : (B,) array
        Prices >= 0 of moving x; one transport problem of N0 x N1 each.

    Returns
    -------
    RelaxedCurve

    Raises
    ------
    ValueError, TypeError
        For bad arrays, weights, betas or p.
    """
    prices = as_real_array(betas, "betas")
    if prices.ndim != 1 or prices.size == 0:
        raise ValueError(f"betas: a non-empty 1-D array is needed, given shape {prices.shape}")
    if (prices < 0).any():
        raise ValueError(f"betas: {prices.min()} is negative; every entry must be >= 0")
    distance = partial(
        conditional_wasserstein, x0, y0, x1, y1, weights0=weights0, weights1=weights1, p=p
    )
    exact = distance()
    found = [distance(method="relaxed", beta=float(price)) for price in prices]
    value, moved, mean = (
        np.array([getattr(one, name) for one in found])
        for name in ("value", "moved_x", "mean_move_x")
    )
    sufficient = math.inf if math.isinf(exact.value) else _sufficient_beta(exact)
    return RelaxedCurve(prices.copy(), value, moved, mean, exact.value, sufficient)


def _sufficient_beta(exact: ConditionalDistance) -> float:
    """The smallest beta at which the potentials, level in each condition, are feasible."""
    from scipy.spatial.distance import cdist

    problem, (f, g) = exact._problem, exact.potentials
    here, there = np.flatnonzero(problem.label0 >= 0), np.flatnonzero(problem.label1 >= 0)
    level = np.bincount(problem.label0[here], f[here]) / np.bincount(problem.label0[here])
    f, g = f - level[problem.label0], g + level[problem.label1]
    largest, step = 0.0, max(1, BLOCK_ENTRIES // len(there))
    for k in range(0, len(here), step):
        rows = here[k : k + step]
        apart = problem._power(cdist(problem.x0[rows], problem.x1[there]))
        excess = f[rows, None] + g[there] - problem.block(rows, there)
        across = problem.label0[rows, None] != problem.label1[there]
        largest = max(largest, float((excess[across] / apart[across]).max(initial=0.0)))
    return largest
