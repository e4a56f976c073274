r"""The one-dimensional dual of the quadratic loss, and its only solver.

For squared Euclidean loss and cost the strong dual (paper Theorems 3.1-3.3) of every structure is

.. math:: \mathcal R = \min_{\lambda \ge \kappa^2}\;
          \lambda\rho^2 + \sum_j m_j \frac{\lambda}{\lambda - \sigma_j^2},

convex in one variable, with the stationarity condition
:math:`\sum_j m_j\sigma_j^2/(\lambda - \sigma_j^2)^2 = \rho^2`: transport cost = budget. If its left
side stays below the budget even at :math:`\lambda = \kappa^2` (the *hard case* of trust-region
problems: no residual mass on the top singular space) the minimiser is :math:`\kappa^2` itself and
the unspent budget goes along a top right-singular vector.

The entropic (Sinkhorn) version adds the spectral barrier
:math:`-\tfrac{\lambda\varepsilon}{2}\sum_j d_j\log(1 - \sigma_j^2/\lambda)`, :math:`d_j` the
multiplicities, and to the left side of the condition
:math:`\tfrac\varepsilon2\sum_j d_j\,\psi(\sigma_j^2/\lambda)`,
:math:`\psi(s) = s/(1-s) + \log(1-s)`: the relative entropy of the worst-case Gaussians. It has no
hard case. The same Newton iteration solves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dro_core.checks import as_non_negative, as_radius, check_magnitude
from dro_core.described import Described
from dro_core.spectrum import ResidualSpectrum
from dro_core.types import EPS, Array


@dataclass(frozen=True, repr=False)
class DualSolution(Described):
    r"""Minimiser of the quadratic dual, entropic or not.

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
    epsilon : float
        Entropy weight; zero for the Wasserstein dual.
    """

    value: float
    multiplier: float
    margin: float
    unspent: float
    radius: float
    epsilon: float = 0.0

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
        For a multiplier that `check_multiplier` refuses: the supremum is infinite there (or a limit
        only).
    """
    check_multiplier(spectrum, multiplier)
    squared = spectrum.squared_singular_values
    value = multiplier * radius**2
    value += float((spectrum.mass * (multiplier / (multiplier - squared))).sum())
    if epsilon > 0:
        barrier = spectrum.multiplicity @ np.log1p(-squared / multiplier)
        value -= 0.5 * multiplier * epsilon * float(barrier)
    return value


def quadratic_dual_derivative(
    spectrum: ResidualSpectrum, multiplier: float, radius: float, epsilon: float = 0.0
) -> float:
    r"""Derivative of the dual function in the multiplier: budget minus what the law there spends.

    .. math:: \rho^2 - \sum_j \Bigl[\frac{m_j\sigma_j^2}{(\lambda - \sigma_j^2)^2}
              + \frac\varepsilon2\, d_j\,\psi(\sigma_j^2/\lambda)\Bigr]

    Raises
    ------
    ValueError
        For a multiplier that `check_multiplier` refuses.
    """
    check_multiplier(spectrum, multiplier)
    squared = spectrum.squared_singular_values
    spent = float((spectrum.mass * squared / (multiplier - squared) ** 2).sum())
    if epsilon > 0:
        share = squared / multiplier
        spent += 0.5 * epsilon * float(spectrum.multiplicity @ _entropy(share, 1.0 - share))
    return radius**2 - spent


def threshold_rounding(size: float) -> float:
    r"""How far, relatively, two computations of one threshold :math:`\kappa^2` may be apart.

    :math:`8\,\mathrm{size}\,u`, u the distance from 1 to the next float and the size n + m for the
    squared norm of an (n, m) matrix.
    """
    return 8.0 * size * EPS


def check_multiplier(
    spectrum: ResidualSpectrum, multiplier: float, size: float | None = None
) -> None:
    r"""Refuse a multiplier that is not above the threshold by more than rounding.

    At or below :math:`\kappa^2` the dual is infinite or (in the hard case, at the threshold itself)
    a limit that `minimize_quadratic_dual` gives; within `threshold_rounding` of it the two sides
    cannot be told apart. Above, the value has a relative error of at most about
    ``threshold_rounding(size) / (multiplier / top - 1)``.

    Parameters
    ----------
    size : float, optional
        As in `threshold_rounding`; default the number of singular values.
    """
    threshold = spectrum.top
    rounding = threshold_rounding(float(spectrum.multiplicity.sum()) if size is None else size)
    if multiplier <= threshold * (1.0 + rounding):
        raise ValueError(
            f"multiplier: {multiplier} is at or below its threshold sigma_max^2 = {threshold} (up "
            f"to {rounding:.2g} of it, which is rounding), where the dual is infinite or a limit "
            f"only; allowed: above {threshold * (1.0 + rounding)}"
        )


def _entropy(share: Array, rest: Array) -> Array:
    r""":math:`\psi(s) = s/(1-s) + \log(1-s) = \sum_{k\ge2}(1 - 1/k)s^k`, given s and 1 - s."""
    small = share < 0.1
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(small, 0.0, share / rest + np.log(rest))
    tail = np.zeros_like(share)
    for k in range(18, 1, -1):
        tail = (tail + (1 - 1 / k)) * share
    return np.where(small, tail * share, values)


def minimize_quadratic_dual(
    spectrum: ResidualSpectrum, radius: float, epsilon: float = 0.0
) -> DualSolution:
    r"""Exact minimiser of the quadratic dual at a radius >= 0.

    Dimensionless: with :math:`\lambda = \kappa^2(1 + t)`, gaps
    :math:`g_j = 1 - \sigma_j^2/\kappa^2` and :math:`p_j = \sqrt{m_j}\,\sigma_j/(\kappa^2\rho)` the
    condition is :math:`h(t) = \sum_j (p_j/(t + g_j))^2
    + \tfrac{\varepsilon}{2\rho^2}\sum_j d_j\,\psi((1-g_j)/(1+t)) = 1`. The -1/2 power of each
    term is concave and increasing in t, hence so is :math:`h^{-1/2}` (for one atom without entropy
    it is linear), and Newton's method on :math:`h^{-1/2} = 1`, started left of the root, increases
    monotonically to it.

    Parameters
    ----------
    spectrum : ResidualSpectrum
        From a matrix, or from one Lipschitz constant (then the value is the explicit bound).
    radius : float
        W2 radius >= 0 in the units of the data (with ``epsilon > 0``: the adjusted radius).
    epsilon : float
        Entropy weight >= 0, in squared units of the data.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite radius or epsilon, or something that is not a spectrum.
    OverflowError
        If the value exceeds the largest float.
    """
    if not isinstance(spectrum, ResidualSpectrum):
        raise TypeError(f"spectrum: a ResidualSpectrum is needed, given {type(spectrum).__name__}")
    radius = as_radius(radius)
    epsilon = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
    check_magnitude(epsilon, "epsilon")
    fidelity, top = spectrum.fidelity, spectrum.top
    if top == 0.0 and radius > 0.0:  # nothing the adversary moves reaches the residual
        return DualSolution(fidelity, 0.0, 0.0, 0.0, radius, epsilon)
    kappa = math.sqrt(top)
    relative = spectrum.squared_singular_values / top if top else np.zeros(1)
    # with an infinite multiplier the law is the data's, blurred by the reference noise
    still = fidelity + 0.5 * epsilon * top * float((spectrum.multiplicity * relative).sum())
    if radius == 0.0:
        return DualSolution(still, math.inf, math.inf, 0.0, 0.0, epsilon)
    used = spectrum.significant
    gaps = spectrum.relative_gaps
    with np.errstate(over="ignore"):
        slopes = np.sqrt(spectrum.mass[used] * relative[used]) / kappa / radius
        entropies = spectrum.multiplicity * (0.5 * epsilon / radius / radius)
    if np.isinf(slopes).any() or np.isinf(entropies).any():
        # radius below the resolution of the residuals by 300 digits
        return DualSolution(still, math.inf, math.inf, 0.0, radius, epsilon)
    margin, spent = _secular_root(slopes, gaps[used], entropies, gaps)
    amplitude = kappa * radius
    # λρ² = (1 + t)κ²ρ², in the order that neither overflows nor vanishes
    value = (1.0 + margin) * amplitude * amplitude
    with np.errstate(over="ignore"):
        value += float((spectrum.mass[used] * ((1.0 + margin) / (margin + gaps[used]))).sum())
        if epsilon > 0:
            barrier = spectrum.multiplicity @ np.log1p((1.0 - gaps) / (margin + gaps))
            value += 0.5 * epsilon * top * (1.0 + margin) * float(barrier)
    if not math.isfinite(value):
        raise OverflowError(
            f"radius: at {radius:g} the worst-case risk exceeds the largest float; rescale the data"
        )
    return DualSolution(value, top * (1.0 + margin), margin, 1.0 - spent, radius, epsilon)


def _secular_root(
    slopes: Array, gaps: Array, entropies: Array, all_gaps: Array
) -> tuple[float, float]:
    """(t, spent): the root of h(t) = 1 and 1, or in the hard case 0 and h(0) <= 1."""
    slopes, gaps = slopes[slopes > 0], gaps[slopes > 0]
    kept = (entropies > 0) & (all_gaps < 1)
    entropies, shares = entropies[kept], 1.0 - all_gaps[kept]
    all_gaps = all_gaps[kept]
    if slopes.size == 0 and entropies.size == 0:
        return 0.0, 0.0
    margin = max(0.0, float((slopes - gaps).max(initial=0.0)))
    # ψ(1/(1+t)) >= 1/(2t(1+t)): one top direction alone spends the budget up to the root of that
    at_top = float(entropies[all_gaps == 0].max(initial=0.0))
    margin = max(margin, at_top / (1.0 + math.sqrt(1.0 + 2.0 * at_top)))
    if margin == 0.0:  # then p_j <= g_j for all j, so every gap is positive
        spent = float(((slopes / gaps) ** 2).sum())
        if spent <= 1.0:
            return 0.0, spent
    # h(t) <= (|p|² + Σ entropies · shares²)/t², so the root is not beyond its root
    highest = max(float(slopes.max(initial=0.0)), math.sqrt(float(entropies.max(initial=0.0))))
    sizes = np.concatenate([slopes / highest, np.sqrt(entropies) * shares / highest])
    largest = highest * float(np.linalg.norm(sizes))
    for _ in range(200):
        share = slopes / (margin + gaps)
        squares = share * share
        left = float(squares.sum())
        fall = float((squares / (margin + gaps)).sum())  # -h'/2
        if entropies.size:
            apart = margin + all_gaps
            ratio = shares / (1.0 + margin)
            left += float(entropies @ _entropy(ratio, apart / (1.0 + margin)))
            # -ψ' = c²/(λ(λ-c)²)
            fall += 0.5 * float(entropies @ ((shares / apart) ** 2 / (1.0 + margin)))
        norm = math.sqrt(left)
        step = (norm - 1.0) * left / fall
        following = min(max(margin + step, margin), largest)
        if following - margin <= 2 * EPS * following:
            return following, 1.0
        margin = following
    raise ArithmeticError(  # monotone Newton on a concave function: a defect, not a hard input
        f"the multiplier did not converge (margin {margin}); please report this input"
    )
