r"""The one-dimensional dual of the quadratic loss, and its only solver.

For squared Euclidean loss and cost the strong dual (paper Theorems 3.1-3.3) of every structure is

.. math:: \mathcal R = \min_{\lambda \ge \kappa^2}\;
          \lambda\rho^2 + \sum_j m_j \frac{\lambda}{\lambda - \sigma_j^2},

convex in one variable, with the stationarity condition
:math:`\sum_j m_j\sigma_j^2/(\lambda - \sigma_j^2)^2 = \rho^2`: transport cost = budget. If its left
side stays below the budget even at :math:`\lambda = \kappa^2` (the *hard case* of trust-region
problems: no residual mass on the top singular space) the minimiser is :math:`\kappa^2` itself and
the unspent budget goes along a top right-singular vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dro_core._validation import Array, as_radius
from dro_core.spectrum import ResidualSpectrum

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class DualSolution:
    r"""Minimiser of the quadratic dual.

    Attributes
    ----------
    value : float
        The worst-case risk :math:`\mathcal R`, in squared units of x.
    multiplier : float
        :math:`\lambda^* \ge \kappa^2`; infinite at radius zero, zero if nothing can be gained.
    margin : float
        :math:`\lambda^*/\kappa^2 - 1 \ge 0`, to full relative accuracy (the multiplier itself
        cannot resolve margins below rounding).
    unspent : float
        Share of the budget left for the top singular direction: positive in the hard case only.
    radius : float
        The radius it was solved for.
    """

    value: float
    multiplier: float
    margin: float
    unspent: float
    radius: float

    @property
    def unspent_radius(self) -> float:
        """Length of the common move along a top singular direction that uses up the budget."""
        return math.sqrt(self.unspent) * self.radius


def quadratic_dual(
    spectrum: ResidualSpectrum, multiplier: float, radius: float, epsilon: float = 0.0
) -> float:
    r"""The dual function at a multiplier above its threshold: an upper bound on the risk.

    .. math:: \lambda\rho^2 + \sum_j \Bigl[ m_j \frac{\lambda}{\lambda - \sigma_j^2}
              - \frac{\lambda\varepsilon}{2}\, d_j \log\bigl(1 - \sigma_j^2/\lambda\bigr)\Bigr]

    with :math:`d_j` the multiplicities; the second term is the entropic (Sinkhorn) version with
    entropy weight :math:`\varepsilon`.

    Raises
    ------
    ValueError
        If ``multiplier <= spectrum.top``: the supremum is infinite there (or a limit only).
    """
    threshold = spectrum.top
    if multiplier <= threshold:
        raise ValueError(
            f"multiplier: {multiplier} is at or below its threshold sigma_max^2 = {threshold}, "
            "where the dual is infinite or a limit only; allowed: a larger number"
        )
    squared = spectrum.squared_singular_values
    value = multiplier * radius**2
    value += float((spectrum.mass * (multiplier / (multiplier - squared))).sum())
    if epsilon > 0:
        barrier = spectrum.multiplicity @ np.log1p(-squared / multiplier)
        value -= 0.5 * multiplier * epsilon * float(barrier)
    return value


def minimize_quadratic_dual(spectrum: ResidualSpectrum, radius: float) -> DualSolution:
    r"""Exact minimiser of the quadratic dual at a radius >= 0.

    Dimensionless: with :math:`\lambda = \kappa^2(1 + t)`, gaps
    :math:`g_j = 1 - \sigma_j^2/\kappa^2` and :math:`p_j = \sqrt{m_j}\,\sigma_j/(\kappa^2\rho)` the
    condition is :math:`h(t) = \sum_j (p_j/(t + g_j))^2 = 1`. The function :math:`h^{-1/2}` is
    concave and increasing (for one atom it is linear), so Newton's method on
    :math:`h^{-1/2} = 1`, started left of the root at :math:`\max_j (p_j - g_j)`, increases
    monotonically to it.

    Parameters
    ----------
    spectrum : ResidualSpectrum
        From a matrix, or from one Lipschitz constant (then the value is the explicit bound).
    radius : float
        W2 radius >= 0 in the units of the data.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite radius, or something that is not a spectrum.
    """
    if not isinstance(spectrum, ResidualSpectrum):
        raise TypeError(f"spectrum: a ResidualSpectrum is needed, given {type(spectrum).__name__}")
    radius = as_radius(radius)
    fidelity, top = spectrum.fidelity, spectrum.top
    if radius == 0.0:
        return DualSolution(fidelity, math.inf, math.inf, 0.0, 0.0)
    if top == 0.0:  # nothing the adversary moves reaches the residual
        return DualSolution(fidelity, 0.0, 0.0, 0.0, radius)
    used = spectrum.significant
    gaps = spectrum.relative_gaps[used]
    kappa = math.sqrt(top)
    shares = spectrum.squared_singular_values[used] / top
    with np.errstate(over="ignore"):
        slopes = np.sqrt(spectrum.mass[used] * shares) / kappa / radius
    if np.isinf(slopes).any():  # radius below the resolution of the residuals by 300 digits
        return DualSolution(fidelity, math.inf, math.inf, 0.0, radius)
    margin, spent = _secular_root(slopes, gaps)
    amplitude = kappa * radius
    # λρ² = (1 + t)κ²ρ², in the order that neither overflows nor vanishes
    value = (1.0 + margin) * amplitude * amplitude
    with np.errstate(over="ignore"):
        value += float((spectrum.mass[used] * ((1.0 + margin) / (margin + gaps))).sum())
    if not math.isfinite(value):
        raise OverflowError(
            f"radius: at {radius:g} the worst-case risk exceeds the largest float; rescale the data"
        )
    return DualSolution(value, top * (1.0 + margin), margin, 1.0 - spent, radius)


def _secular_root(slopes: Array, gaps: Array) -> tuple[float, float]:
    """(t, spent): the root of h(t) = 1 and 1, or in the hard case 0 and h(0) <= 1."""
    slopes, gaps = slopes[slopes > 0], gaps[slopes > 0]
    if slopes.size == 0:
        return 0.0, 0.0
    margin = max(0.0, float((slopes - gaps).max()))
    if margin == 0.0:  # then p_j <= g_j for all j, so every gap is positive
        spent = float(((slopes / gaps) ** 2).sum())
        if spent <= 1.0:
            return 0.0, spent
    highest = float(slopes.max())
    # h(t) <= (|p|/t)², so the root is not beyond |p|
    largest = highest * float(np.linalg.norm(slopes / highest))
    for _ in range(200):
        share = slopes / (margin + gaps)
        squares = share * share
        norm = math.sqrt(float(squares.sum()))
        step = (norm - 1.0) * norm * norm / float((squares / (margin + gaps)).sum())
        following = min(max(margin + step, margin), largest)
        if following - margin <= 2 * _EPS * following:
            return following, 1.0
        margin = following
    raise ArithmeticError(  # monotone Newton on a concave function: a defect, not a hard input
        f"the multiplier did not converge (margin {margin}); please report this input"
    )
