r"""The worst case of a smoothed map, from draws of its losses.

:math:`\hat f(y) = \mathbb E f(y + \sigma n)` with Gaussian n and losses
:math:`g_i(n) = \|f(y_i + \sigma n) - x_i\|^2 \le G_i`. By Jensen a sample that moves by v has
:math:`\|\hat f(y_i + v) - x_i\|^2 \le \mathbb E g_i(n + v/\sigma)`, a mean of the same losses under
a shifted Gaussian: no derivative of f enters, only how likely which loss is.

Exceedances of levels :math:`d_0 < \dots < d_{K-1}` above centres :math:`c_i` are counted over all
samples together, :math:`p_k \ge \sum_i\mu_i P(g_i - c_i > d_k)`. With the *hockey-stick divergence*
of Gaussians at distance s, :math:`E_\gamma(s) = \sup_A P_s(A) - \gamma P_0(A)`, every choice of
:math:`\lambda, \eta_k \ge 0` gives

.. math:: \mathcal R \le \sum_i\mu_ic_i + d_0 + \sum_k\eta_kp_k + \lambda\rho^2
   + \sup_t\Bigl[\sum_k\Delta_kE_{\eta_k/\Delta_k}(t/\sigma) - \lambda t^2\Bigr]

with :math:`\Delta_k = d_{k+1} - d_k` and :math:`d_K \ge G_i - c_i` for all samples (docs, "Growth
profiles"): one multiplier for the budget that the samples share, one for each probability that they
share. The sum over k is a growth profile, so `growth_bound` finds λ. Where more is known of a
sample, :math:`\mathbb E g_i(n + v/\sigma) \le h_i(\|v\|)^2` whatever the draws say (a tethered
network), the smaller of both counts at every distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import ndtr, ndtri

from dro_core.checks import (
    LARGEST,
    as_positive,
    as_positive_integer,
    as_radius,
    as_real_array,
    as_scalar,
    as_weights,
    check_magnitude,
    non_negative_array,
)
from dro_core.described import Described
from dro_core.growth.dual import growth_bound
from dro_core.growth.profiles import GrowthProfiles
from dro_core.read_only import read_only
from dro_core.types import Array

#: Shifts at which profiles are tabulated: beyond the last one they are at their caps.
_SHIFTS = np.concatenate([[0.0], np.geomspace(1e-6, 0.01, 121)[:-1], np.linspace(0.01, 12.0, 960)])
#: Shares of the samples that are tried as the ones that move.
_SHARES = np.geomspace(1e-5, 1.0, 14)
#: Classes of samples with like ceilings.
_CLASSES = 6
#: First-order allowance for rounding in distribution functions and sums of levels.
_ROUNDING = 1e-12


def hockey_stick(order: ArrayLike, shift: ArrayLike) -> Array:
    r"""Hockey-stick divergence of N(0, 1) and N(s, 1): the gain of a test over γ times its level.

    .. math:: E_\gamma(s) = \sup_A P_s(A) - \gamma P_0(A)
       = \Phi\Bigl(\frac s2 - \frac{\log\gamma}s\Bigr)
         - \gamma\,\Phi\Bigl(-\frac s2 - \frac{\log\gamma}s\Bigr)

    Attained by half-spaces (Neyman-Pearson); :math:`\max(0, 1 - \gamma)` at s = 0 and
    :math:`2\Phi(s/2) - 1`, the total variation, at γ = 1.

    Parameters
    ----------
    order : array
        γ >= 0.
    shift : array
        s >= 0, in standard deviations; broadcasts with `order`.

    Raises
    ------
    ValueError, TypeError
        Negative or non-finite arguments.

    Source: Balle and Wang, *Improving the Gaussian mechanism* (2018), Theorem 5.
    """
    gamma, s = non_negative_array(order, "order"), non_negative_array(shift, "shift")
    try:
        gamma, s = np.broadcast_arrays(gamma, s)
    except ValueError:
        raise ValueError(
            f"order, shift: shapes {gamma.shape} and {s.shape} do not broadcast together"
        ) from None
    positive = (s > 0) & (gamma > 0)
    safe_s, safe_gamma = np.where(positive, s, 1.0), np.where(positive, gamma, 1.0)
    with np.errstate(over="ignore"):
        middle = np.log(safe_gamma) / safe_s
        value = ndtr(0.5 * safe_s - middle) - safe_gamma * ndtr(-0.5 * safe_s - middle)
    value = np.where(positive, value, 1.0 - gamma)
    return np.asarray(np.maximum(value, np.maximum(0.0, 1.0 - gamma)))


def exceedance_bound(mean: ArrayLike, draws: int, failure: float) -> Array:
    r"""Upper confidence bound of a probability (Chernoff, Hoeffding 1963).

    The largest u >= p̂ with :math:`n\,\mathrm{kl}(\hat p\|u) \le \log(1/\delta)`, kl the relative
    entropy of two coins: above the mean of n independent variables in [0, 1], which need not be
    alike, with probability at least 1 - δ.

    Parameters
    ----------
    mean : array
        Observed means p̂ in [0, 1].
    draws : int
        n.
    failure : float
        δ in (0, 1), of each entry.

    Raises
    ------
    ValueError, TypeError
        Arguments outside of these ranges.
    """
    p = non_negative_array(mean, "mean")
    if (p > 1).any():
        raise ValueError(f"mean: {p.max()} is above 1; allowed: means of numbers in [0, 1]")
    n, delta = as_positive_integer(draws, "draws"), as_positive(failure, "failure")
    if delta >= 1:
        raise ValueError(f"failure: {delta}; allowed: a probability below 1")
    most = math.log(1.0 / delta) / n
    low, high = p.copy(), np.ones(p.shape)
    for _ in range(60):
        u = 0.5 * (low + high)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = np.where(p > 0, p * np.log(p / u), 0.0)
            entropy = entropy + np.where(p < 1, (1 - p) * (np.log1p(-p) - np.log1p(-u)), 0.0)
        inside = entropy <= most
        low, high = np.where(inside, u, low), np.where(inside, high, u)
    return np.asarray(high)


def mean_lower_bound(values: ArrayLike, least: float, most: float, failure: float) -> float:
    r"""Lower confidence bound of a mean, by the empirical Bernstein inequality.

    .. math:: \bar X - \sqrt{2\hat V\log(2/\delta)/n} - \frac{7(b-a)\log(2/\delta)}{3(n-1)}

    with :math:`X = \min(\text{value}, b)`, whose mean is not larger, and :math:`\hat V` the sample
    variance: below the mean with probability at least 1 - δ.

    Parameters
    ----------
    values : (n,) array
        Independent, not necessarily alike, n >= 2.
    least : float
        a: no value can be below.
    most : float
        b, fixed before the values were drawn; larger values count as b.
    failure : float
        δ in (0, 1).

    Raises
    ------
    ValueError, TypeError
        Values below a, b not above a, and other bad arguments.

    Source: Maurer and Pontil, *Empirical Bernstein bounds and sample variance penalization* (2009),
    Theorem 11.
    """
    x, delta = as_real_array(values, "values"), as_positive(failure, "failure")
    a, b = as_scalar(least, "least", "a number"), as_scalar(most, "most", "a number")
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"values: shape {x.shape}; needed: (n,) with n >= 2")
    if delta >= 1:
        raise ValueError(f"failure: {delta}; allowed: a probability below 1")
    if b <= a:
        raise ValueError(f"most: {b}; allowed: above least ({a})")
    if (x < a).any():
        raise ValueError(f"values: {x.min()} is below least ({a})")
    kept, log = np.minimum(x, b), math.log(2.0 / delta)
    deviation = math.sqrt(2.0 * float(kept.var(ddof=1)) * log / len(x))
    return float(kept.mean()) - deviation - 7.0 * (b - a) * log / (3.0 * (len(x) - 1))


@dataclass(frozen=True, repr=False)
class SmoothedLosses(Described):
    r"""What is known of the losses :math:`g_i` of unmoved samples under the smoothing noise.

    Parameters
    ----------
    centres : (N,) array
        :math:`c_i`, any numbers that were fixed before the draws were made.
    levels : (K + 1,) array
        :math:`d_0 < \dots < d_K`, fixed before the draws were made; no loss is more than
        :math:`d_K` above its centre, whatever the noise.
    exceedances : (K,) array
        :math:`p_k \ge \sum_i\mu_iP(g_i - c_i > d_k)`.
    weights : (N,), optional
        Default uniform.
    ceilings : GrowthProfiles, optional
        :math:`h_i` with :math:`\mathbb E g_i(n + v/\sigma) \le h_i(\|v\|)^2`, in units of y: no
        draws needed.
    failure_probability : float
        That one of the exceedances is no upper bound.
    draws : int
        Losses that were drawn for them, all samples together; zero if they are exact.

    Raises
    ------
    ValueError, TypeError
        Arrays that do not fit together, levels that do not increase, probabilities above 1.
    """

    described_by = ("centre", "levels", "exceedances", "failure_probability", "draws")

    centres: Array
    levels: Array
    exceedances: Array
    weights: Array | None = None
    ceilings: GrowthProfiles | None = None
    failure_probability: float = 0.0
    draws: int = 0

    def __post_init__(self) -> None:
        centres = as_real_array(self.centres, "centres")
        if centres.ndim != 1 or not len(centres):
            raise ValueError(f"centres: shape {centres.shape}; needed: (N,) with N >= 1")
        check_magnitude(centres, "centres")
        mu = as_weights(self.weights, len(centres))
        if self.ceilings is not None and not isinstance(self.ceilings, GrowthProfiles):
            given = type(self.ceilings).__name__
            raise TypeError(f"ceilings: GrowthProfiles are needed, given {given}")
        if self.ceilings is not None and len(self.ceilings) != len(centres):
            raise ValueError(f"ceilings: {len(self.ceilings)} samples, but {len(centres)} centres")
        levels = as_real_array(self.levels, "levels")
        if levels.ndim != 1 or len(levels) < 2 or (np.diff(levels) <= 0).any():
            raise ValueError(
                f"levels: given shape {levels.shape}; needed: (K + 1,) increasing numbers, K >= 1"
            )
        check_magnitude(levels, "levels")
        p = non_negative_array(self.exceedances, "exceedances")
        if p.shape != (len(levels) - 1,) or (p > 1).any():
            raise ValueError(
                f"exceedances: given shape {p.shape}; needed: ({len(levels) - 1},) probabilities, "
                "one for each level but the last"
            )
        object.__setattr__(self, "centres", read_only(centres))
        object.__setattr__(self, "weights", read_only(mu))
        object.__setattr__(self, "levels", read_only(levels))
        # what exceeds a level exceeds those below it
        object.__setattr__(self, "exceedances", read_only(np.minimum.accumulate(p)))

    @property
    def centre(self) -> float:
        r""":math:`\sum_i\mu_ic_i`."""
        return float(np.asarray(self.weights) @ self.centres)

    def headroom(self, distances: Array) -> tuple[Array, Array]:
        r"""How far losses can be above their centre and the lowest level, for a few classes.

        :math:`\max(0, h_i(t)^2 - c_i - d_0)`, (classes, T), no smaller than those of the samples in
        each class, and the weight of each class; without ceilings one class without a bound.
        """
        mu = np.asarray(self.weights)
        if self.ceilings is None:
            return np.full((1, len(distances)), np.inf), np.ones(1)
        squares = np.stack([self.ceilings(t) for t in distances], axis=1) ** 2
        rooms = np.maximum(squares - (self.centres[:, None] + self.levels[0]), 0.0)
        rooms, mu = rooms[mu > 0], mu[mu > 0]
        order = np.argsort(rooms[:, len(distances) // 2])
        firsts = np.unique(np.linspace(0, len(order), _CLASSES + 1)[:-1].astype(int))
        classes = np.maximum.reduceat(rooms[order], firsts, axis=0)
        return classes * (1 + _ROUNDING), np.add.reduceat(mu[order], firsts)


@dataclass(frozen=True, repr=False)
class SmoothedBound(Described):
    r"""A bound on the worst-case risk of a smoothed map, and what proves it.

    Attributes
    ----------
    value : float
        The bound of the module's head at these multipliers.
    multiplier : float
        :math:`\lambda`.
    level_multipliers : (K,) array
        :math:`\eta_k`.
    reachable : float
        What an adversary that moves a share of many samples by a common distance could make of maps
        with these exceedances: no proof from them alone can give less (ceilings not counted).
    radius, sigma : float
        In the units of the data.
    failure_probability : float
    """

    value: float
    multiplier: float
    level_multipliers: Array
    reachable: float
    radius: float
    sigma: float
    failure_probability: float


def smoothed_bound(losses: SmoothedLosses, radius: float, sigma: float) -> SmoothedBound:
    r"""An upper bound on the worst-case risk over the ball of a smoothed map (structure y|x).

    Parameters
    ----------
    losses : SmoothedLosses
        Of the unmoved samples under noise of standard deviation `sigma`.
    radius : float
        W2 radius >= 0 in the units of the data.
    sigma : float
        Standard deviation of the smoothing noise, > 0, in the units of the data.

    Returns
    -------
    SmoothedBound
        The level multipliers are those of a two-point adversary, which moves a share of the samples
        by one common distance; the best share is searched, and λ is found exactly for each.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: docs, "Growth profiles"; this project.
    """
    rho, scale = as_radius(radius), as_positive(sigma, "sigma")
    if not isinstance(losses, SmoothedLosses):
        raise TypeError(f"losses: SmoothedLosses are needed, given {type(losses).__name__}")
    if not 1 / LARGEST <= scale <= LARGEST or rho > LARGEST * scale:
        raise ValueError(
            f"sigma: {scale:g} beside the radius {rho:g}; squares of it, of its inverse and of "
            f"their ratio need numbers between {1 / LARGEST:g} and {LARGEST:g}"
        )
    problem = _Levels(losses, rho / scale, scale)
    best = 1.0
    if rho > 0.0:
        rough = min(map(float, _SHARES), key=lambda share: problem.at(share)[0])
        width = math.log(_SHARES[1] / _SHARES[0])
        near = (math.log(rough) - width, min(0.0, math.log(rough) + width))
        finer = minimize_scalar(
            lambda log: problem.at(math.exp(log))[0], bounds=near, method="bounded",
            options={"maxiter": 10, "xatol": 0.02},
        )  # fmt: skip
        best = min((rough, math.exp(float(finer.x))), key=lambda share: problem.at(share)[0])
    value, multiplier, eta = problem.at(best)
    multiplier = multiplier / scale**2
    if losses.ceilings is not None:  # without the draws
        alone = growth_bound(losses.ceilings, rho, weights=losses.weights)
        if alone.value < value:
            value, multiplier, eta = alone.value, alone.multiplier, np.zeros(len(eta))
    reachable = max(problem.reachable(float(share)) for share in (*_SHARES, best))
    return SmoothedBound(value, multiplier, eta, reachable, rho, scale, losses.failure_probability)


class _Levels:
    """The bound as a function of the share of the samples that move, in units of sigma."""

    def __init__(self, losses: SmoothedLosses, radius: float, sigma: float) -> None:
        self.radius, self.exceedances = radius, losses.exceedances
        self.base = losses.centre + float(losses.levels[0])
        self.steps = np.diff(losses.levels)
        self.rooms, self.shares = losses.headroom(_SHIFTS * sigma)

    def at(self, share: float) -> tuple[float, float, Array]:
        """(value, λ, η) with the level multipliers of an adversary that moves this share."""
        orders = self._orders(share)
        eta = orders * self.steps
        gains = self.steps @ hockey_stick(orders[:, None], _SHIFTS)
        cap = math.sqrt(float(self.steps.sum())) * (1 + 2 * _ROUNDING)
        table = np.sqrt(np.minimum(gains, self.rooms)) * (1 + _ROUNDING)
        table = np.minimum(np.maximum.accumulate(table, axis=1), cap)
        moved, multiplier = 0.0, math.inf
        if self.radius > 0:
            stairs = GrowthProfiles.increasing(_SHIFTS, table)
            most = GrowthProfiles.constant(np.full(len(table), cap))
            found = growth_bound(stairs.minimum(most), self.radius, weights=self.shares)
            moved, multiplier = found.value, found.multiplier
        paid = float(eta @ self.exceedances)
        return self.base + paid + moved + _ROUNDING * (abs(self.base) + paid), multiplier, eta

    def _orders(self, share: float) -> Array:
        r""":math:`\gamma_k`: where the adversary that moves a share α by s is indifferent.

        It moves what exceeds first: up to :math:`p_k = \alpha\Phi(-s/2)` only moved samples exceed,
        and from :math:`1 - \alpha\Phi(s/2)` on all that do not move. One at radius zero, where
        :math:`E_1(0) = 0`.
        """
        s, p = self._shift(share), self.exceedances
        if s == 0.0:
            return np.ones(len(p))
        few = p <= share * ndtr(-0.5 * s)
        many = p >= 1.0 - share * ndtr(0.5 * s)
        inside = np.where(few, p / share, np.where(many, 1.0 - (1.0 - p) / share, 0.5))
        z = ndtri(np.clip(inside, 1e-300, 1.0 - 1e-16))
        return np.asarray(np.where(few | many, np.exp(-s * z - 0.5 * s * s), 1.0))

    def _shift(self, share: float) -> float:
        return self.radius / math.sqrt(share)

    def reachable(self, share: float) -> float:
        """Risk of the adversary that moves a share of the samples."""
        s, p = self._shift(share), self.exceedances
        moved = np.clip(p / share, 0.0, ndtr(-0.5 * s))
        still = np.minimum((p - share * moved) / (1 - share), 1.0) if share < 1 else 0.0 * p
        moved = np.clip((p - (1 - share) * still) / share, 0.0, 1.0)
        chance = share * ndtr(ndtri(moved) + s) + (1 - share) * still
        return self.base + float(self.steps @ chance)
