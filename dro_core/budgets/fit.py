"""The linear map of smallest worst-case risk where signal and noise have a budget each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dro_core.budgets.price import as_two_radii, best_price, budget_factors
from dro_core.budgets.worst_case import TwoBudgetWorstCase, two_budget_worst_case
from dro_core.certificate import relative_gap
from dro_core.checks import as_samples, as_weights
from dro_core.described import Described
from dro_core.estimator import Law, LinearFit, fit_linear
from dro_core.linear_map import MapLike
from dro_core.structure import SignalNoise
from dro_core.types import Array, Real

#: Prices are sought within the first factor of the ratio of the budgets, and up to the second over
#: the squared norm of A: they make weight matrices, which must keep their digits.
PRICES, LARGEST_PRICE = 1e7, 1e13


@dataclass(frozen=True, eq=False, repr=False)
class TwoBudgetFit(Described):
    """A fitted map with its worst case, and a lower value for every linear map.

    Attributes
    ----------
    matrix : (n, m) array
    worst : TwoBudgetWorstCase
        The worst case of the map, with its own certificate.
    lower : float
        Least-squares risk under a law that keeps both budgets: no linear map is better.
    costs : tuple of two floats
        What that law spends on signal and noise.
    """

    described_by = ("matrix", "risk", "lower", "gap", "costs", "worst")

    matrix: Array
    worst: TwoBudgetWorstCase
    lower: float
    costs: tuple[float, float]

    @property
    def risk(self) -> float:
        """Worst-case risk of the map."""
        return self.worst.risk

    @property
    def gap(self) -> float:
        """Relative saddle gap (risk - lower) / risk."""
        return relative_gap(self.risk, self.lower)


def fit_two_budgets(
    *,
    x: ArrayLike,
    y: ArrayLike,
    forward: MapLike,
    radius_x: Real,
    radius_noise: Real,
    weights: ArrayLike | None = None,
) -> TwoBudgetFit:
    r"""The linear map with the smallest `two_budget_worst_case`, certified.

    The fits with one budget, `fit_linear` with ``SignalNoise(forward, 1, t)`` and radius
    :math:`\sqrt{\rho_x^2 + t\rho_w^2}`, at the price t where their saddle law spends the noise's
    budget (jointly convex in the map and both multipliers).

    Parameters
    ----------
    x, y, forward, radius_x, radius_noise, weights
        As in `two_budget_worst_case`; keyword-only.

    Returns
    -------
    TwoBudgetFit
        `.matrix`, `.risk`, `.lower`, `.gap`, `.worst`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, maps or radii.

    Warns
    -----
    NotOptimalWarning
        If the gap of one of those fits exceeds 1e-3.
    """
    x, y = as_samples(x, "x"), as_samples(y, "y")
    mu = as_weights(weights, len(x))
    plain = SignalNoise(forward)
    matrix = plain.forward
    rho_x, rho_noise = as_two_radii(radius_x, radius_noise, matrix)

    def solve(price: float) -> LinearFit:
        radius = math.hypot(rho_x, math.sqrt(price) * rho_noise)
        structure = SignalNoise(matrix, 1.0, price)
        return fit_linear(x=x, y=y, radius=radius, structure=structure, weights=mu)

    def noise_cost(fit: LinearFit) -> float:
        return _costs(fit.law, mu, plain)[1]

    middle = (rho_x / rho_noise * float(np.linalg.norm(matrix, 2))) ** 2
    reach = min(PRICES, LARGEST_PRICE / max(middle, 1.0))
    found = best_price(solve, noise_cost, rho_x, rho_noise, reach)
    laws = _within(found.low.law, found.high.law, found.share, mu, plain, (rho_x, rho_noise))
    fits = [
        two_budget_worst_case(fit.matrix, x, y, matrix, rho_x, rho_noise, weights=mu)
        for fit in (found.low, found.high)
    ]
    worst = min(fits, key=lambda answer: answer.risk)
    best = (found.low, found.high)[fits.index(worst)]
    doubled = np.vstack([x, x]), np.vstack([y, y])
    shares = np.concatenate([found.share * mu, (1.0 - found.share) * mu])
    lower = min(laws.least_squares_risk(*doubled, shares), worst.risk)
    return TwoBudgetFit(best.matrix, worst, lower, _costs(laws, shares, plain))


def _costs(law: Law, weights: Array, plain: SignalNoise) -> tuple[float, float]:
    """Mean squared moves of signal and noise under a law; `plain` has no prices."""
    n = law.displacement_x.shape[1]
    moved = plain.costs(law.displacement_x, law.displacement_y)
    blur = plain.costs(law.roots[:, :n], law.roots[:, n:])
    signal, noise = (
        float(weights @ own) + float(rest.sum()) for own, rest in zip(moved, blur, strict=True)
    )
    return signal, noise


def _within(
    low: Law,
    high: Law,
    share: float,
    weights: Array,
    plain: SignalNoise,
    radii: tuple[float, float],
) -> Law:
    """The mixture of two laws, on the samples twice, both of its moves within their radii."""
    n, forward = low.displacement_x.shape[1], plain.forward
    law = Law(
        np.vstack([low.displacement_x, high.displacement_x]),
        np.vstack([low.displacement_y, high.displacement_y]),
        np.vstack([math.sqrt(share) * low.roots, math.sqrt(1.0 - share) * high.roots]),
    )
    both = np.concatenate([share * weights, (1.0 - share) * weights])
    factors = budget_factors(_costs(law, both, plain), radii)

    def shrunk(dx: Array, dy: Array) -> tuple[Array, Array]:
        signal, noise = factors[0] * dx, factors[1] * (dy - dx @ forward.T)
        return signal, signal @ forward.T + noise

    roots = np.hstack(shrunk(law.roots[:, :n], law.roots[:, n:]))
    return Law(*shrunk(law.displacement_x, law.displacement_y), roots)
