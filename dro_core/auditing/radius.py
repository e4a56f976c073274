"""The radius of an audit, and where it comes from: given, known noise, another operator, the field.

Above: `dro_core.auditing.audit` and the command line; below: `dro_core.radii` and the conditional
Wasserstein distances.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dro_core.auditing.layout import as_rows
from dro_core.checks import as_non_negative, as_positive_integer, as_radius
from dro_core.described import Described
from dro_core.linear_map import MapLike
from dro_core.radii import radius_of_noise, radius_of_operator_change, radius_of_poisson_noise
from dro_core.types import Array, Indices, Integer, Real
from dro_core.wasserstein import ConditionalDistance, conditional_wasserstein

#: Pairs (x, y) from the field.
Pairs: TypeAlias = tuple[object, object]

#: Samples of each side that enter the distance of unpaired data; more are drawn from without
#: replacement.
LARGEST_SAMPLE = 1000
#: Resamples of the bootstrap.
RESAMPLES = 1000
#: Share of resamples outside the interval.
OUTSIDE = 0.05


@dataclass(frozen=True, repr=False)
class RadiusSource(Described):
    """A radius with its reason.

    Attributes
    ----------
    value : float
        W2 radius in the units of the data.
    how : str
        In one sentence, how it was found.
    caveat : str
        What is not covered; empty if nothing is.
    interval : (float, float) or None
        Bootstrap interval of a radius that was estimated from samples.
    floor : float or None
        Distance of two halves of the calibration data, when the radius was estimated: a radius that
        is not larger tells nothing but the number of samples.
    """

    value: float
    how: str
    caveat: str = ""
    interval: tuple[float, float] | None = None
    floor: float | None = None

    def __str__(self) -> str:
        found = f"radius {self.value:.4g}: {self.how}"
        if self.interval is not None:
            found += f"; bootstrap interval [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        if self.floor is not None:
            found += f"; two halves of the calibration data are {self.floor:.4g} apart"
        return found + (f". {self.caveat}" if self.caveat else "")


def audit_radius(
    x: Array,
    y: Array,
    *,
    radius: Real | None = None,
    shifted: Pairs | None = None,
    noise: Real | None = None,
    photons: Real | None = None,
    operator_change: tuple[MapLike, MapLike] | None = None,
    weights: Array | None = None,
    seed: int = 0,
) -> RadiusSource:
    """The radius from the one reason that is given.

    Parameters
    ----------
    x, y : (N, n), (N, m) arrays
        The calibration data.
    radius, shifted, noise, photons, operator_change
        As in `audit`; exactly one.
    weights : (N,) array, optional
    seed : int
        Of the bootstrap.

    Raises
    ------
    ValueError, TypeError
        For none or several reasons, or a bad one.
    """
    reasons = {
        "radius": radius,
        "shifted": shifted,
        "noise": noise,
        "photons": photons,
        "operator_change": operator_change,
    }
    given = [name for name, value in reasons.items() if value is not None]
    if len(given) != 1:
        found = f"{' and '.join(given)} given" if given else "none given"
        raise ValueError(f"radius: {found}; needed: exactly one of {', '.join(reasons)}")
    if radius is not None:
        return RadiusSource(as_radius(radius), "given")
    if noise is not None:
        level = as_non_negative(noise, "noise", "a standard deviation >= 0 in the units of y")
        return RadiusSource(
            radius_of_noise(level**2, size=y.shape[1]),
            f"noise of standard deviation {level:g} in each of the {y.shape[1]} numbers of y",
        )
    if photons is not None:
        value = radius_of_poisson_noise(y, photons, weights=weights)
        how = f"counting noise at {float(photons):g} photons per unit of y"
        return RadiusSource(value, how, "y itself is taken for the noise-free measurement.")
    if operator_change is not None:
        if not isinstance(operator_change, Sequence) or len(operator_change) != 2:
            raise TypeError("operator_change: a pair (forward, changed) of maps from x to y")
        value = radius_of_operator_change(*operator_change, x, weights=weights)
        return RadiusSource(value, "root mean square change of the measurements by the operator")
    assert shifted is not None
    return radius_of_shift(x, y, shifted, weights=weights, seed=seed)


def radius_of_shift(
    x: Array, y: Array, shifted: Pairs, *, weights: Array | None = None, seed: Integer = 0
) -> RadiusSource:
    r"""The conditional Wasserstein distance between calibration and field data.

    If both have the same signals, the exact :math:`W_{2,Y|X}`; else the relaxed distance, whose
    price of moving x is :math:`\beta = \max(1, \sqrt N s_y^2/s_x^2)` with the mean squared
    deviations s² of the data: at least one, so the ball of the structure joint contains the
    field data, and growing with N, as the limit needs.

    Parameters
    ----------
    x, y : (N, n), (N, m) arrays
    shifted : pair of (N', ...) arrays
        Signals and measurements from the field.
    weights : (N,) array, optional
    seed : int
        Of resampling.

    Raises
    ------
    ValueError, TypeError
        For pairs that do not fit the calibration data or each other.
    """
    if not isinstance(shifted, Sequence) or len(shifted) != 2:
        raise TypeError("shifted: a pair (x, y) of arrays is needed")
    pair = [as_rows(part, f"shifted {name}")[0] for part, name in zip(shifted, "xy", strict=True)]
    for rows, own, name in zip(pair, (x, y), "xy", strict=True):
        if rows.shape[1] != own.shape[1]:
            raise ValueError(
                f"shifted {name}: {rows.shape[1]} numbers per sample, but {name} has {own.shape[1]}"
            )
    if len(pair[0]) != len(pair[1]):
        raise ValueError(f"shifted: {len(pair[0])} samples of x, but {len(pair[1])} of y")
    rng = np.random.default_rng(as_positive_integer(seed + 1, "seed"))
    exact = conditional_wasserstein(x, y, *pair, weights0=weights)
    if math.isfinite(exact.value):
        return _shared_signals(exact, rng)
    return _unpaired(x, y, pair[0], pair[1], rng)


def _shared_signals(found: ConditionalDistance, rng: np.random.Generator) -> RadiusSource:
    """The exact distance; the bootstrap draws signals."""
    costs, masses = found.per_condition, found.masses
    drawn = rng.multinomial(len(masses), masses / masses.sum(), size=RESAMPLES)
    values = np.sqrt(np.maximum(drawn @ costs / len(masses), 0.0))
    return RadiusSource(
        found.value,
        f"conditional distance of calibration and field data, which share {len(masses)} signals",
        "The ball contains the field data that were given; for the law behind them, take the upper "
        "end of the interval.",
        _interval(values),
    )


def _unpaired(x0: Array, y0: Array, x1: Array, y1: Array, rng: np.random.Generator) -> RadiusSource:
    """The relaxed distance of samples whose signals are not the same."""
    deviations = [float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()) for rows in (x0, y0)]
    count = min(len(x0), len(x1), LARGEST_SAMPLE)
    beta = max(1.0, math.sqrt(count) * deviations[1] / max(deviations[0], 1e-300))

    def distance(first: Indices, second: Indices, of: tuple[Array, Array]) -> ConditionalDistance:
        pairs = x0[first], y0[first], of[0][second], of[1][second]
        return conditional_wasserstein(*pairs, method="relaxed", beta=beta)

    first = rng.permutation(len(x0))[:LARGEST_SAMPLE]
    second = rng.permutation(len(x1))[:LARGEST_SAMPLE]
    found = distance(first, second, (x1, y1))
    half = rng.permutation(len(x0))[: 2 * min(len(x0) // 2, LARGEST_SAMPLE)]
    floor = None
    if len(half) >= 2:
        floor = distance(half[::2], half[1::2], (x0, y0)).value
    return RadiusSource(
        found.value,
        f"relaxed conditional distance of {len(first)} calibration and {len(second)} field samples "
        f"(price of moving x: beta = {beta:.3g}; {found.moved_x:.0%} of the mass moves x, by "
        f"{found.mean_move_x:.3g} on average)",
        "Distances of samples in many dimensions are above those of their laws, by the amount that "
        "two halves show; the interval does not correct for it. The joint ball of this radius "
        "contains the field samples that were used; that of y|x need not, for their signals are "
        "others.",
        _interval(resampled_values(found.potentials, rng)),
        floor,
    )


def resampled_values(potentials: tuple[Array, Array], rng: np.random.Generator) -> Array:
    r"""Distances of resamples of both sides, by the dual at the potentials of the whole.

    :math:`\sqrt{\sum_iw_if_i + \sum_jw'_jg_j}` with multinomial w, w': to first order the bootstrap
    of the transport cost, whose fluctuations are those of the potentials (del Barrio and Loubes
    2019), at the price of no further transport problem. Zero where the sum is negative.
    """
    squared = np.zeros(RESAMPLES)
    for values in potentials:
        count = len(values)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=RESAMPLES)
        squared += drawn @ values / count
    return np.sqrt(np.maximum(squared, 0.0))


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, [OUTSIDE / 2, 1 - OUTSIDE / 2])
    return float(low), float(high)
