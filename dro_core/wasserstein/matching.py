"""What it costs in mean squared error that reconstructions follow the law of the signals."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_real_array
from dro_core.described import Described
from dro_core.types import Array
from dro_core.wasserstein.certificate import DistanceCertificate
from dro_core.wasserstein.gaussian import GaussianDistance, gaussian_conditional_wasserstein

#: The estimate may vary this much more than the signal, relative to the largest variance: rounding.
EXCESS = 1e-9
#: Directions of the estimate with less variance than this, relative to the largest, are unknown.
SMALLEST = 1e-12


@dataclass(frozen=True, repr=False)
class MatchingPrice(Described):
    r"""Squared errors of the best estimate, and of the best one whose covariance is the signal's.

    Attributes
    ----------
    best_error : float
        :math:`E\|x-\hat x\|^2 = \operatorname{tr}\Sigma - \operatorname{tr}\hat\Sigma`.
    matched_error : float
        That plus the squared distance of the two Gaussians.
    sampled_error : float
        :math:`2\,E\|x-\hat x\|^2`: of a sample of the posterior, which matches, too.
    decibels : float
        The price, :math:`10\log_{10}` of matched over best: between 0 and 3.01.
    matrix : (n, n) array
        L with :math:`T = E x + L(\hat x - Ex)` the matched estimate, where the covariance of the
        estimate is regular; where it is not the estimate alone cannot match, and L is its best map
        into the signal's covariance on the directions that it knows.
    distance : GaussianDistance
    """

    described_by = ("best_error", "matched_error", "sampled_error", "decibels", "matrix")

    best_error: float
    matrix: Array
    distance: GaussianDistance = field(repr=False)

    def __post_init__(self) -> None:
        self.matrix.setflags(write=False)

    @property
    def matched_error(self) -> float:
        """Least error of a reconstruction with the signal's covariance."""
        return self.best_error + float(self.distance.per_condition.sum())

    @property
    def sampled_error(self) -> float:
        """Error of a sample of the posterior."""
        return 2.0 * self.best_error

    @property
    def decibels(self) -> float:
        """Price of matching."""
        if self.best_error == 0.0:
            return 0.0
        return 10.0 * math.log10(self.matched_error / self.best_error)

    def verify(self) -> DistanceCertificate:
        """That of the distance (the mean over the entries if variances were given)."""
        return self.distance.verify()


def matching_price(covariance: ArrayLike, estimate_covariance: ArrayLike) -> MatchingPrice:
    r"""The least mean squared error of reconstructions that have the covariance of the signals.

    Let :math:`\hat x = E[x\,|\,y]` have the covariance :math:`\hat\Sigma`. Every reconstruction
    T(y), randomised or not, with the mean and the covariance :math:`\Sigma` of x has

    .. math:: E\|x - T\|^2 \ge E\|x-\hat x\|^2 + \operatorname{tr}\bigl(\Sigma + \hat\Sigma
              - 2(\Sigma^{1/2}\hat\Sigma\Sigma^{1/2})^{1/2}\bigr)
              \qquad\text{and the bound is at most } 2\,E\|x-\hat x\|^2 .

    It is attained for Gaussian x and y. A map that transports the measurements onto the law of the
    signals, as balanced transport does, is such a reconstruction, whatever its cost.

    Parameters
    ----------
    covariance : (n, n) matrix or (n,) variances
        Of the signal; symmetric positive semi-definite.
    estimate_covariance : (n, n) matrix or (n,) variances
        Of the best estimate; no larger. With variances for both, one per frequency (or any
        orthonormal basis), nothing is factorised. For a Gaussian model
        :math:`\hat\Sigma = \Sigma A^\top(A\Sigma A^\top + \Gamma)^{-1}A\Sigma`.

    Returns
    -------
    MatchingPrice
        `.best_error`, `.matched_error`, `.decibels`, `.matrix`, `.verify()`; errors in units of x
        squared, summed over the entries.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, matrices that are no covariances, shapes that differ, or an estimate that
        varies more than the signal in some direction.

    Notes
    -----
    Source: Blau and Michaeli (2018) for the factor two; Freirich, Michaeli and Meir (2021) for the
    Gaussian value; the lower bound for any law is Gelbrich's (1990).

    Examples
    --------
    >>> from dro_core import matching_price
    >>> found = matching_price([1.0, 1.0], [1.0, 0.25])
    >>> found.best_error, found.matched_error, round(found.decibels, 3)
    (0.75, 1.0, 1.249)
    """
    signal = as_real_array(covariance, "covariance")
    estimate = as_real_array(estimate_covariance, "estimate_covariance")
    for name, given in (("covariance", signal), ("estimate_covariance", estimate)):
        if given.ndim not in (1, 2) or given.size == 0 or given.shape[0] != given.shape[-1]:
            raise ValueError(
                f"{name}: shape {given.shape}; needed: a square matrix, or a 1-D array of variances"
            )
    if len(signal) != len(estimate):
        raise ValueError(
            f"estimate_covariance: for {len(estimate)} entries, but covariance has {len(signal)}"
        )
    diagonal = signal.ndim == estimate.ndim == 1
    wide, narrow = (_blocks(given, diagonal) for given in (signal, estimate))
    distance = _distance(narrow, wide)
    apart = np.linalg.eigvalsh(wide - narrow)
    if apart.min() < -EXCESS * np.abs(wide).max():
        raise ValueError(
            f"estimate_covariance: larger than covariance by {-apart.min():g} in some direction; "
            "the best estimate varies no more than the signal"
        )
    inverse = np.linalg.pinv(narrow, rcond=SMALLEST, hermitian=True)
    maps = np.swapaxes(distance.cross_covariances, 1, 2) @ inverse
    matrix = np.diag(maps[:, 0, 0]) if diagonal else maps[0]
    return MatchingPrice(max(0.0, float(apart.sum())), matrix, distance)


def _blocks(given: Array, diagonal: bool) -> Array:
    """One matrix, or one of size one per entry."""
    if diagonal:
        return given[:, None, None]
    return np.diag(given)[None] if given.ndim == 1 else given[None]


def _distance(estimate: Array, signal: Array) -> GaussianDistance:
    """Of centred Gaussians, block by block."""
    zero = np.zeros(estimate.shape[:2])
    try:
        return gaussian_conditional_wasserstein(zero, estimate, zero, signal)
    except ValueError as error:
        said = str(error).replace("covariances0", "estimate_covariance")
        raise ValueError(said.replace("covariances1", "covariance")) from None
