"""Unbalanced transport between Gaussian measures, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from dro_core.checks import (
    as_map,
    as_non_negative,
    as_real_array,
    as_samples,
    as_scalar,
    check_magnitude,
    magnitude,
)
from dro_core.described import Described
from dro_core.linear_map import MapLike
from dro_core.types import Array, Real
from dro_core.unbalanced.problem import as_weight


@dataclass(frozen=True, eq=False, repr=False)
class UnbalancedGaussian(Described):
    r"""Optimum of unbalanced transport between two Gaussian measures.

    Attributes
    ----------
    value : float
        :math:`w(m_0 + m_1 - 2m)`, with m the transported mass.
    mass : float
    source_mean, source_covariance : (m,) and (m, m) arrays
        The first marginal of the plan is `mass` times this Gaussian.
    target_mean, target_covariance : (n,) and (n, n) arrays
        The second one.
    matrix : (n, m) array
        Of the map; zero on directions that the cost does not couple, where any plan is optimal.
    reference : tuple of two (mean, covariance, mass)
        The measures that were given.
    weight : float
    """

    described_by = ("value", "mass", "weight", "source_mean", "target_mean", "matrix")

    value: float
    mass: float
    source_mean: Array
    source_covariance: Array
    target_mean: Array
    target_covariance: Array
    matrix: Array
    reference: tuple[tuple[Array, Array, float], tuple[Array, Array, float]] = field(repr=False)
    weight: float
    _log_mass: float = field(repr=False)

    def transport(self, y: ArrayLike) -> Array:
        """The optimal map, affine: (N, m) samples to (N, n)."""
        return self.target_mean + (_as_points(y, "y", self.source_mean) - self.source_mean) @ (
            self.matrix.T
        )

    def potential(self, x: ArrayLike) -> Array:
        r"""v at (N, n) points, quadratic: :math:`-w\log(d\pi_1/d\nu)`; (N,)."""
        points = _as_points(x, "x", self.target_mean)
        return self._potential(points, self.target_mean, self.target_covariance, 1)

    def source_potential(self, y: ArrayLike) -> Array:
        r"""u at (N, m) points, the c-transform of v: :math:`-w\log(d\pi_0/d\mu)`; (N,)."""
        points = _as_points(y, "y", self.source_mean)
        return self._potential(points, self.source_mean, self.source_covariance, 0)

    def _potential(self, points: Array, mean: Array, covariance: Array, side: int) -> Array:
        given_mean, given_covariance, mass = self.reference[side]
        ratio = _log_density(points, mean, covariance) - _log_density(
            points, given_mean, given_covariance
        )
        return -self.weight * (self._log_mass - math.log(mass) + ratio)


def _as_points(value: object, name: str, mean: Array) -> Array:
    points = as_samples(value, name)
    if points.shape[1] != len(mean):
        raise ValueError(f"{name}: {points.shape[1]} columns; needed: {len(mean)}")
    return points


def _log_density(points: Array, mean: Array, covariance: Array) -> Array:
    """Log of a Gaussian density, without the power of 2 pi that cancels in every ratio here."""
    factor = np.linalg.cholesky(covariance)
    scaled = linalg.solve_triangular(factor, (points - mean).T, lower=True)
    result: Array = -0.5 * (scaled**2).sum(axis=0) - float(np.log(np.diag(factor)).sum())
    return result


def _as_gaussian(
    mean: ArrayLike, covariance: ArrayLike, mass: Real, number: int
) -> tuple[Array, Array, float]:
    centre = as_real_array(mean, f"mean{number}")
    if centre.ndim != 1 or centre.size == 0:
        raise ValueError(f"mean{number}: a 1-D array is needed, given shape {centre.shape}")
    check_magnitude(centre, f"mean{number}")
    name = f"covariance{number}"
    spread = as_real_array(covariance, name)
    if spread.shape == centre.shape:
        spread = np.diag(spread)
    if spread.shape != (len(centre), len(centre)):
        raise ValueError(
            f"{name}: shape {spread.shape}; needed: ({len(centre)}, {len(centre)}), or "
            f"({len(centre)},) variances"
        )
    check_magnitude(spread, name)
    if magnitude(spread - spread.T) > 1e-12 * magnitude(spread):
        raise ValueError(f"{name}: not symmetric")
    least, largest = np.linalg.eigvalsh(spread)[[0, -1]]
    if least <= 1e-14 * largest:
        raise ValueError(
            f"{name}: the smallest eigenvalue is {least:g}; allowed: positive definite"
        )
    total = as_scalar(mass, f"mass{number}", "a number > 0")
    if total <= 0:
        raise ValueError(f"mass{number}: {total}; allowed: a number > 0")
    return centre, spread, total


def _root(matrix: Array) -> tuple[Array, Array]:
    """Square root of a positive semi-definite matrix, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    roots = np.sqrt(np.maximum(values, 0.0))
    kept = values > 1e-13 * values[-1]
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=kept)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def unbalanced_gaussian(
    mean0: ArrayLike,
    covariance0: ArrayLike,
    mean1: ArrayLike,
    covariance1: ArrayLike,
    *,
    forward: MapLike | None = None,
    likelihood: Real = 0.0,
    quadratic: Real = 1.0,
    mass0: Real = 1.0,
    mass1: Real = 1.0,
    weight: Real = 1.0,
) -> UnbalancedGaussian:
    r"""Unbalanced transport between Gaussian measures, KL on both sides, in closed form.

    The cost of moving a measurement y to a signal x is

    .. math:: c(y, x) = \lambda_l\|Ax - y\|^2 + \lambda_q\|x - y\|^2
              = y^\top K_{yy}y - 2y^\top Kx + x^\top K_{xx}x.

    With :math:`P_0 = \Sigma_0^{-1} + 2K_{yy}/w`, :math:`P_1 = \Sigma_1^{-1} + 2K_{xx}/w` and the
    geometric mean :math:`G = P_0 \# (K P_1^{-1}K^\top)/w^2` the plan's first marginal has the
    precision :math:`P_0 - 2G`, likewise the second; their means solve one linear system; the matrix
    of the map is :math:`P_1^{-1}K^\top G^{-1}P_0/w`; and the value is :math:`w(m_0 + m_1 - 2m)`.

    Parameters
    ----------
    mean0, covariance0 : (m,) array, and (m, m) positive definite matrix or (m,) variances
        The measure of the measurements y.
    mean1, covariance1 : (n,) array, and (n, n) matrix or (n,) variances
        The measure of the signals x.
    forward : (m, n) matrix, optional
        A; needed if `likelihood` is positive.
    likelihood, quadratic : float
        Weights >= 0 of the two parts of the cost; the second needs m = n.
    mass0, mass1 : float
        Total masses > 0.
    weight : float
        As in `unbalanced_ot`.

    Returns
    -------
    UnbalancedGaussian
        `.value`, `.mass`, `.transport(y)`, `.potential(x)`, and the marginals of the plan.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, covariances that are not positive definite, or shapes that do not fit.

    Notes
    -----
    Source: this project (a quadratic ansatz for both potentials turns optimality into a Riccati
    equation); the unregularised limit of Janati, Muzellec, Peyré and Cuturi (2020).

    Examples
    --------
    >>> from dro_core.unbalanced import unbalanced_gaussian
    >>> found = unbalanced_gaussian([0.0], [1.0], [2.0], [1.0])
    >>> round(found.mass, 4), found.transport([[0.0], [1.0]]).round(3).tolist()
    (0.6703, [[0.4], [1.4]])
    """
    source = _as_gaussian(mean0, covariance0, mass0, 0)
    target = _as_gaussian(mean1, covariance1, mass1, 1)
    (p, S0, total0), (q, S1, total1) = source, target
    w, m, n = as_weight(weight), len(p), len(q)
    fit = as_non_negative(likelihood, "likelihood") / w
    near = as_non_negative(quadratic, "quadratic") / w
    A = np.zeros((m, n))
    if forward is not None:
        A = as_map(forward, "forward")
        if A.shape != (m, n):
            raise ValueError(f"forward: shape {A.shape}; a map from x to y has shape ({m}, {n})")
    elif fit > 0:
        raise ValueError("forward: the likelihood part of the cost needs the forward map")
    if near > 0 and m != n:
        raise ValueError(
            f"quadratic: {near * w}; the part |x - y|² needs equal dimensions, given {m} and {n}"
        )
    K = fit * A + near * np.eye(m, n)
    try:
        with np.errstate(all="ignore"):  # what overflows there is refused below
            inverse0, inverse1 = np.linalg.inv(S0), np.linalg.inv(S1)
            P0 = inverse0 + 2 * (fit + near) * np.eye(m)
            P1 = inverse1 + 2 * (fit * A.T @ A + near * np.eye(n))
            means = np.linalg.solve(
                np.block([[P0, -2 * K], [-2 * K.T, P1]]),
                np.concatenate([inverse0 @ p, inverse1 @ q]),
            )
            cover_y, matrix = _coupled(P0, P1, K)
            cover_x, _ = _coupled(P1, P0, K.T)
        if not all(np.isfinite(found).all() for found in (means, cover_y, cover_x, matrix)):
            raise np.linalg.LinAlgError
        mean_y, mean_x = means[:m], means[m:]
        cost = fit * float(((A @ mean_x - mean_y) ** 2).sum())
        cost += near * float(((mean_x - mean_y) ** 2).sum()) if near > 0 else 0.0
        log_mass = math.log(total0) + math.log(total1) - cost
        for mean, own, given in ((mean_y, cover_y, source), (mean_x, cover_x, target)):
            point = mean[None]
            log_mass += float((_log_density(point, *given[:2]) - _log_density(point, mean, own))[0])
    except np.linalg.LinAlgError:
        raise ValueError(
            "covariance0, covariance1, forward, likelihood, quadratic, weight: too many orders of "
            "magnitude apart for floats"
        ) from None
    mass = math.exp(log_mass / 2)
    return UnbalancedGaussian(
        w * (total0 + total1 - 2 * mass),
        mass,
        mean_y,
        cover_y,
        mean_x,
        cover_x,
        matrix,
        (source, target),
        w,
        log_mass / 2,
    )


def _coupled(own: Array, other: Array, coupling: Array) -> tuple[Array, Array]:
    """Covariance (P - 2 G)^-1 with G = P # K P'^-1 K^T, and the map's matrix P'^-1 K^T G^-1 P."""
    half, inverse_half = _root(own)
    back = np.linalg.solve(other, coupling.T) @ inverse_half
    mean, inverse_mean = _root(inverse_half @ coupling @ back)
    covariance = inverse_half @ np.linalg.inv(np.eye(len(own)) - 2 * mean) @ inverse_half
    return np.asarray(covariance + covariance.T) / 2, back @ inverse_mean @ half
