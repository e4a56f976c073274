r"""The one-dimensional dual of growth profiles, its exact minimiser and its certificate.

.. math:: \mathcal R \le \inf_{\lambda\ge0}\;\lambda\rho^2
          + \sum_i \mu_i \sup_{t\ge0}\bigl(h_i(t)^2 - \lambda t^2\bigr)

For every law of the ball: sample i pays :math:`\lambda t^2` for every move of length t, and its
loss is then at most :math:`h_i(t)^2` (weak duality, sample by sample); nothing else of the map
enters. The right-hand side is also the largest :math:`\sum_i\mu_i\,\mathbb E\,h_i(t_i)^2` over
random distances with :math:`\sum_i\mu_i\,\mathbb E\,t_i^2 \le \rho^2`: the certificate of the
minimisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_non_negative, as_radius, as_weights
from dro_core.described import Described
from dro_core.growth.profiles import GrowthProfiles
from dro_core.types import EPS, Array

#: Roundings that the terms of the dual are enlarged by, and that a multiplier keeps from its least.
_ROUNDINGS = 64.0 * EPS


@dataclass(frozen=True, repr=False)
class GrowthBound(Described):
    r"""A bound on the worst-case risk, and what proves it.

    Attributes
    ----------
    value : float
        :math:`\lambda\rho^2 + \sum_i\mu_i\sup_t(h_i(t)^2 - \lambda t^2)` at `multiplier`, rounded
        up: an upper bound whatever the multiplier is.
    multiplier : float
        :math:`\lambda`; infinite at radius zero.
    primal : float
        :math:`\sum_i\mu_i\,\mathbb E\,h_i(t_i)^2` of the best random distances that were found: no
        bound from these profiles is smaller.
    transport_cost : float
        :math:`\sum_i\mu_i\,\mathbb E\,t_i^2` of these distances, at most the budget.
    radius : float
        ρ.
    """

    value: float
    multiplier: float
    primal: float
    transport_cost: float
    radius: float

    @property
    def gap(self) -> float:
        """(value - primal) relative to the value: how far from the infimum it can be."""
        return (self.value - self.primal) / self.value if self.value > 0 else 0.0

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether the minimum was found up to `rtol` (the value is an upper bound in any case)."""
        inside = self.transport_cost <= self.radius**2 * (1 + rtol)
        return inside and abs(self.value - self.primal) <= rtol * self.value


@dataclass(frozen=True)
class _Potentials:
    """The inner suprema at one multiplier: distances, squared bounds there, and the dual value."""

    value: float
    distances: Array
    losses: Array

    def spent(self, mu: Array) -> float:
        return float(mu @ self.distances**2)


def _potentials(
    profiles: GrowthProfiles, multiplier: float, radius: float, mu: Array
) -> _Potentials:
    r"""Every sample's :math:`\sup_t(h_i(t)^2 - \lambda t^2)`, exactly: ends and stationary points.

    On a piece :math:`h = a + bt` the stationary point is :math:`ab/(\lambda - b^2)`, a maximum for
    :math:`\lambda > b^2`; otherwise an end is the largest. The value is enlarged by 64 roundings of
    the terms :math:`h^2` and :math:`\lambda t^2` that it is made of (a stationary point that is off
    by rounding loses the square of that).
    """
    starts, slopes, values = profiles.starts, profiles.slopes, profiles.values
    ends = profiles.ends
    curvature = multiplier - slopes**2
    offset = values - slopes * starts
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        stationary = np.where(curvature > 0, offset * slopes / curvature, starts)
        stationary = np.clip(np.nan_to_num(stationary, posinf=np.inf), starts, ends)
    last = np.where(np.isfinite(ends), ends, np.maximum(stationary, starts))
    points = np.stack([starts, np.where(np.isfinite(stationary), stationary, starts), last])
    heights = values + slopes * (points - starts)
    scores = heights**2 - multiplier * points**2
    best = scores.reshape(3, len(mu), -1).transpose(1, 0, 2).reshape(len(mu), -1).argmax(axis=1)
    kind, piece = np.divmod(best, starts.shape[1])
    rows = np.arange(len(mu))
    distances, losses = points[kind, rows, piece], heights[kind, rows, piece] ** 2
    paid = multiplier * distances**2
    terms = [multiplier * radius**2, *(mu * (losses - paid))]
    slack = _ROUNDINGS * (multiplier * radius**2 + float(mu @ (losses + paid)))
    return _Potentials(math.fsum(terms) + slack, distances, losses)


def growth_dual(
    profiles: GrowthProfiles,
    multiplier: float,
    radius: float,
    *,
    weights: ArrayLike | None = None,
) -> float:
    r"""The dual at one multiplier: an upper bound on the worst-case risk, rounded up.

    .. math:: \lambda\rho^2 + \sum_i \mu_i \sup_{t\ge0}\bigl(h_i(t)^2 - \lambda t^2\bigr)

    Parameters
    ----------
    profiles : GrowthProfiles
        Finite everywhere for samples with weight.
    multiplier : float
        :math:`\lambda \ge 0`; above :math:`b^2` for the slopes b of the last pieces.
    radius : float
        W2 radius >= 0 in the units of the data.
    weights : (N,), optional
        Default uniform.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named; a multiplier at which a supremum is infinite.
    """
    rho = as_radius(radius)
    known, mu = _kept(profiles, weights)
    lam = as_non_negative(multiplier, "multiplier")
    least = _least(known)
    if lam < least:
        raise ValueError(
            f"multiplier: {lam} is at or below {least}, the square of the steepest last piece "
            "(enlarged by 64 roundings), where a supremum is infinite or a limit; allowed: above"
        )
    return _potentials(known, lam, rho, mu).value


def growth_bound(
    profiles: GrowthProfiles, radius: float, *, weights: ArrayLike | None = None
) -> GrowthBound:
    r"""The least upper bound on the worst-case risk that growth profiles give.

    .. math:: \min_{\lambda\ge0}\;\lambda\rho^2
              + \sum_i \mu_i \sup_{t\ge0}\bigl(h_i(t)^2 - \lambda t^2\bigr)

    Convex in one variable; the derivative, budget minus what the maximising distances spend,
    changes sign at the minimiser, which is bracketed and bisected to neighbouring floats. Linear
    profiles with a common slope give `explicit_bound`, staircases what `finite_worst_case` gives
    for their steps as candidates.

    Parameters
    ----------
    profiles : GrowthProfiles
        Finite everywhere for samples with weight (`minimum` with a range or a Lipschitz bound).
    radius : float
        W2 radius >= 0 in the units of the data.
    weights : (N,), optional
        Default uniform.

    Returns
    -------
    GrowthBound
        ``.value`` is an upper bound for its ``.multiplier``, roundings included.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: theory, "Growth profiles"; this project.

    Examples
    --------
    >>> capped = GrowthProfiles.linear([1.0], 1e6).minimum(GrowthProfiles.constant([3.0]))
    >>> round(growth_bound(capped, 0.5).value, 9)
    9.0
    """
    rho = as_radius(radius)
    known, mu = _kept(profiles, weights)
    if rho == 0.0:
        still = float(mu @ known(0.0) ** 2) * (1 + _ROUNDINGS)
        return GrowthBound(still, math.inf, still, 0.0, 0.0)
    budget = rho**2
    low, high = _bracket(known, rho, mu)
    above = _potentials(known, high, rho, mu)
    below = _potentials(known, low, rho, mu)
    if below.spent(mu) <= budget:  # the budget does not bind, or only in the limit
        return _answer(known, low, below, below, rho, mu)
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        tried = _potentials(known, middle, rho, mu)
        if tried.spent(mu) > budget:
            low, below = middle, tried
        else:
            high, above = middle, tried
    multiplier = high if above.value <= below.value else low
    return _answer(known, multiplier, below, above, rho, mu)


def _kept(profiles: GrowthProfiles, weights: ArrayLike | None) -> tuple[GrowthProfiles, Array]:
    """The samples with weight, finite everywhere."""
    if not isinstance(profiles, GrowthProfiles):
        raise TypeError(f"profiles: GrowthProfiles are needed, given {type(profiles).__name__}")
    mu = as_weights(weights, len(profiles))
    used = mu > 0
    kept = GrowthProfiles(profiles.starts[used], profiles.values[used], profiles.slopes[used])
    unbounded = np.isinf(kept.values) & ((kept.ends > kept.starts) | np.isinf(kept.ends))
    if unbounded.any():
        sample, piece = (int(k) for k in np.argwhere(unbounded)[0])
        raise ValueError(
            f"profiles: infinite from distance {kept.starts[sample, piece]:g} on (sample {sample} "
            "of those with weight); take the minimum with a bound that holds at every distance"
        )
    return GrowthProfiles(
        kept.starts, np.where(np.isinf(kept.values), 0.0, kept.values), kept.slopes
    ), mu[used]


def _least(profiles: GrowthProfiles) -> float:
    """The least multiplier whose suprema are finite, roundings included."""
    steepest = float(profiles.slopes[:, -1].max())
    return steepest**2 * (1 + _ROUNDINGS)


def _bracket(profiles: GrowthProfiles, radius: float, mu: Array) -> tuple[float, float]:
    """Multipliers below and above the minimiser (the least one below, if it is the minimiser)."""
    least, budget = _least(profiles), radius**2

    def spent(multiplier: float) -> float:
        return _potentials(profiles, multiplier, radius, mu).spent(mu)

    margin = max(float(mu @ profiles(0.0) ** 2) / budget, least, 1e-300)
    if spent(least) <= budget:
        return least, least + margin
    while spent(least + margin) > budget:
        margin *= 2.0
    while least + 0.5 * margin > least and spent(least + 0.5 * margin) <= budget:
        margin *= 0.5
    return least + 0.5 * margin, least + margin


def _answer(
    profiles: GrowthProfiles,
    multiplier: float,
    below: _Potentials,
    above: _Potentials,
    radius: float,
    mu: Array,
) -> GrowthBound:
    r"""The value at a multiplier, and distances from both sides of it, mixed to spend the budget.

    What is left where the multiplier is the least one goes along the steepest last piece b, far and
    with small probability: :math:`b^2` for every unit of budget, in the limit.
    """
    budget = radius**2
    (dear, more), (cheap, less) = ((p.spent(mu), float(mu @ p.losses)) for p in (below, above))
    share = 1.0 if dear <= budget else (budget - cheap) / (dear - cheap)
    cost = share * dear + (1 - share) * cheap
    primal = share * more + (1 - share) * less
    if dear <= budget:
        steepest = float(profiles.slopes[:, -1].max())
        primal, cost = primal + steepest**2 * (budget - cost), budget if steepest else cost
    return GrowthBound(min(below.value, above.value), multiplier, primal, cost, radius)
