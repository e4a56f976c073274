"""The entropic dual by Monte Carlo: with quadrature-free, unbiased inner integrals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import (
    as_map,
    as_non_negative,
    as_positive_integer,
    as_radius,
    as_samples,
    as_scalar,
    as_weights,
    check_option,
    check_samples_and_map,
)
from dro_core.described import Described
from dro_core.dual import threshold_rounding
from dro_core.linear_map import MapLike
from dro_core.reference.worst_case import DISPLACEMENTS
from dro_core.types import Real


@dataclass(frozen=True, repr=False)
class MonteCarloEstimate(Described):
    """A Monte-Carlo value and its standard error.

    Attributes
    ----------
    value : float
    standard_error : float
        Of `value`, estimated from the draws: as trustworthy as they are many. Where a residual is
        long against the reference noise few draws carry all the weight, and both are too low.
    """

    value: float
    standard_error: float


def entropic_dual_monte_carlo(
    B: MapLike,
    x: ArrayLike,
    y: ArrayLike,
    multiplier: Real,
    radius: Real,
    epsilon: Real,
    structure: str = "y|x",
    *,
    draws: int = 10_000,
    seed: int = 0,
    weights: ArrayLike | None = None,
) -> MonteCarloEstimate:
    r"""The entropic dual at a multiplier, from its definition by sampling.

    .. math:: \lambda\bar\rho^2 + \lambda\varepsilon\sum_i\mu_i\log
              \mathbb E_{z'\sim N(z_i,\frac\varepsilon2 I)}\exp\frac{\ell(z')}{\lambda\varepsilon}

    (paper Eq. 13), what moves in z' depending on the structure. The exponential has a finite
    variance only for :math:`\lambda > 2\sigma_{\max}^2`; below :math:`\sigma_{\max}^2` the truth is
    infinite although every estimate is finite, so this oracle refuses what is not above the former.

    Parameters
    ----------
    B, x, y, multiplier, radius, epsilon, weights
        As in `dual_value`.
    structure : "y|x", "joint" or "x|y"
    draws : int
        Per sample.
    seed : int

    Raises
    ------
    ValueError, TypeError
        For bad input, or a multiplier without finite variance.
    """
    from scipy.special import logsumexp

    matrix = as_map(B, "B")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(matrix, x, y, "B")
    mu, rho = as_weights(weights, len(x)), as_radius(radius)
    check_option(structure, "structure", DISPLACEMENTS)
    lam = as_scalar(multiplier, "multiplier", "a number above twice the threshold")
    weight = as_non_negative(epsilon, "epsilon")
    draws = as_positive_integer(draws, "draws")
    twice = 2.0 * float(np.linalg.norm(DISPLACEMENTS[structure](matrix), 2)) ** 2
    if lam <= twice * (1.0 + threshold_rounding(sum(matrix.shape))) or weight == 0.0:
        raise ValueError(
            f"multiplier: {lam} with epsilon {weight}; allowed: a multiplier above {twice:g}, "
            "twice the threshold, and epsilon > 0: elsewhere the variance is infinite"
        )
    rng = np.random.default_rng(seed)
    value, variance = lam * rho**2, 0.0
    for own_x, own_y, share in zip(x, y, mu, strict=True):
        new_x, new_y = (
            own + np.sqrt(weight / 2) * rng.standard_normal((draws, len(own)))
            if moves
            else own[None]
            for own, moves in ((own_x, structure != "y|x"), (own_y, structure != "x|y"))
        )
        exponent = ((new_x - new_y @ matrix.T) ** 2).sum(axis=1) / (lam * weight)
        potential = float(logsumexp(exponent)) - np.log(draws)
        relative = np.exp(exponent - potential)  # mean one: the ratio to the estimate
        value += share * lam * weight * potential
        variance += (share * lam * weight) ** 2 * float(relative.var()) / draws
    return MonteCarloEstimate(float(value), float(np.sqrt(variance)))
