r"""Training with noise, the cheap robust fit: which covariance a ball asks for, and at which level.

The linear map trained with noise of covariance :math:`\Sigma` on y is

.. math:: B_\Sigma = \mathbb E[xy^\top]\,(\mathbb E[yy^\top] + \Sigma)^{-1},

also the least-squares map with the penalty :math:`\operatorname{tr}B\Sigma B^\top` (for
:math:`\Sigma = \sigma^2I` that of the Jacobian's Frobenius norm). In the units of the transport
cost of y|x, where W = I, the optimum of `fit_linear` is stationary iff

.. math:: \mathbb E[ry^\top] = \mathbb E[rr^\top]\,(\lambda I - BB^\top)^{-1}B ,

and :math:`B_\Sigma` has :math:`\mathbb E[ry^\top] = B\Sigma`: so noise reproduces the optimum iff
:math:`\mathbb E[rr^\top](\lambda I - BB^\top)^{-1}B = B\Sigma`. White noise does whenever x is
scalar, and where everything is a multiple of the identity; hence noise of the ball's shape,
:math:`\Sigma = \sigma^2W^{-1}` on what moves.

In come samples, a radius and a structure, out go a level and its map. Above: validation; below:
structure, worst_case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar

from dro_core.checks import as_count, as_radius, as_samples, as_weights
from dro_core.described import Described
from dro_core.structure import Joint, Structure, YGivenX, as_covariance, as_structure
from dro_core.transport import as_square
from dro_core.types import Array, Integer, Real
from dro_core.worst_case import LinearReconstruction, WorstCase

#: Levels that are tried first, relative to the root mean square of y in the units of the cost.
LEVELS = np.geomspace(1e-5, 1e6, 56)
#: Levels of a refined covariance, relative to its own.
NEAR_LEVELS = np.geomspace(0.3, 3.0, 9)


class NoiseTraining:
    r"""Linear maps trained with noise :math:`\sigma^2` times one covariance, at every level.

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        Samples as rows.
    shape : variance, (m,) variances or (m, m) positive semi-definite matrix
        The covariance at level one.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, weights or covariances; for a covariance that is zero.
    """

    def __init__(
        self, x: ArrayLike, y: ArrayLike, shape: ArrayLike, weights: ArrayLike | None = None
    ) -> None:
        x, y = as_samples(x, "x"), as_samples(y, "y")
        if len(x) != len(y):
            raise ValueError(f"y: {len(y)} rows, but x has {len(x)}")
        m = y.shape[1]
        covariance = as_covariance(shape, m, "shape")
        if covariance is None:
            raise ValueError("shape: zero; allowed: a covariance with some variance")
        #: The covariance of the noise at level one, (m, m).
        self.shape = as_square(covariance, m)
        rows = np.sqrt(as_weights(weights, len(x)))[:, None] * np.hstack([x, y])
        if len(rows) > rows.shape[1]:
            rows = np.asarray(np.linalg.qr(rows, mode="r"))
        # maps and worst cases depend on second moments alone: these few samples have the same
        rows = math.sqrt(len(rows)) * rows
        #: Samples with the second moments of the given ones.
        self.rows_x, self.rows_y = rows[:, : x.shape[1]], rows[:, x.shape[1] :]

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        x, y = self.rows_x, self.rows_y
        return x.T @ y / len(x), y.T @ y / len(y)

    @property
    def unit(self) -> float:
        """The level at which the noise has the mean square of y."""
        return math.sqrt(float(np.trace(self._moments[1])) / float(np.trace(self.shape))) or 1.0

    def map(self, level: Real) -> Array:
        r""":math:`\mathbb E[xy^\top](\mathbb E[yy^\top] + \sigma^2\Sigma)^{-1}`, (n, m).

        Where that second moment is singular the map of smallest norm.
        """
        cross, moments = self._moments
        noisy = moments + as_radius(level, "level") ** 2 * self.shape
        return np.asarray(np.linalg.lstsq(noisy, cross.T, rcond=None)[0].T)

    def worst_case(self, level: float, radius: float, structure: Structure) -> WorstCase:
        """Worst case of the map trained at that level."""
        return LinearReconstruction(self.map(level), self.rows_x, self.rows_y).worst_case(
            radius, structure
        )

    def best_level(self, radius: float, structure: Structure, levels: Array | None = None) -> float:
        """The level of smallest worst-case risk (see `tuned_level`), by default from `LEVELS`."""

        def risk(level: float) -> float:
            return self.worst_case(level, radius, structure).risk

        return tuned_level(risk, self.unit * LEVELS if levels is None else levels)


def tuned_level(risk: Callable[[float], float], levels: Array) -> float:
    """The level of smallest risk: a grid of levels and zero, then Brent's method in the logarithm.

    Parameters
    ----------
    risk : callable
        Level >= 0 to what is to be small.
    levels : (K,) array
        Positive, increasing.
    """
    risks = [risk(float(level)) for level in levels]
    k = int(np.argmin(risks))
    ends = math.log(levels[max(k - 1, 0)]), math.log(levels[min(k + 1, len(levels) - 1)])
    found = minimize_scalar(
        lambda logarithm: risk(math.exp(logarithm)),
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-6},
    )
    level, value = float(levels[k]), risks[k]
    if found.fun < value:
        level, value = math.exp(float(found.x)), float(found.fun)
    return level if value < risk(0.0) else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class ShapedNoise(Described):
    r"""Noise for training, at the level that is best for the worst case.

    Attributes
    ----------
    level : float
        :math:`\sigma` (after refinements: times their relative levels).
    guess : float
        The level by the closed form (see `shaped_noise`); infinite if it asks for the zero map.
    covariance : (m, m) array
        :math:`\sigma^2` times the shape; or a refined one.
    matrix : (n, m) array
        The map trained with it.
    worst : WorstCase
        Its worst case, on samples with the same second moments as the given ones.
    """

    described_by = ("level", "guess", "risk", "covariance", "matrix")

    level: float
    guess: float
    covariance: Array
    matrix: Array
    worst: WorstCase

    @property
    def risk(self) -> float:
        """Worst-case risk of the map."""
        return self.worst.risk


def shaped_noise(
    *,
    x: ArrayLike,
    y: ArrayLike,
    radius: Real,
    structure: str | Structure = "y|x",
    shape: ArrayLike | None = None,
    rounds: Integer = 0,
    weights: ArrayLike | None = None,
) -> ShapedNoise:
    r"""The noise that a weighted ball asks for, for linear maps: covariance and level.

    The shape is :math:`W_y^{-1}` on what moves, the level the one whose map has the smallest
    worst-case risk. Its closed form: if noise is optimal its map is stationary under scaling, which
    by the budget :math:`\operatorname{tr}B^\top G\,\mathbb E[rr^\top]\,GB = \rho^2`,
    :math:`G = (\lambda I - BB^\top)^{-1}`, means

    .. math:: \sigma^2 = \frac{\rho^2}{\operatorname{tr}B^\top GB}
              = \rho^2\Big/\sum_j\frac{s_j^2}{\lambda - s_j^2},

    :math:`s_j` the singular values of :math:`BW^{-1/2}`: `guess` solves it with B trained at that
    level.

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        Samples as rows.
    radius : float
        W2 radius >= 0 in the units of the transport cost.
    structure : "y|x", "joint", or one of them as an object with weights
    shape : variance, (m,) variances or (m, m) matrix, optional
        Another covariance at level one than :math:`W_y^{-1}`; 1.0 is isotropic noise.
    rounds : int
        Refinements, of which the best is kept: a level of its own for every right singular vector
        :math:`w_j` of :math:`BW^{-1/2}`, the one that the condition of this module asks for,
        :math:`\sigma_j^2 = m_j/(\lambda - s_j^2)` with the residual mass m_j, half of it mixed to
        the covariance so far. Four halve what is left to the optimum; the covariance is dense then.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, weights, covariances, rounds, or a structure in which y does not
        move.
    """
    count = as_count(rounds, "rounds")
    rho, resolved = as_radius(radius), as_structure(structure)
    if not isinstance(resolved, Joint | YGivenX) or resolved.norm != 2.0:
        raise ValueError(
            f"structure: {resolved!r}; allowed: 'y|x', 'joint' (norm 2), in which y moves"
        )
    columns = as_samples(y, "y").shape[1]
    resolved.weight_y.check_size(columns, "y")
    if resolved.weight_y.frozen(columns).all():
        raise ValueError(f"structure: {resolved!r}; all of y is frozen, so noise has no shape")
    own = resolved.weight_y.dense(resolved.weight_y.inverse, columns)
    training = NoiseTraining(x, y, own if shape is None else shape, weights)
    level = training.best_level(rho, resolved)
    best = current = ShapedNoise(
        level,
        _scaling_level(training, rho, resolved),
        level**2 * training.shape,
        training.map(level),
        training.worst_case(level, rho, resolved),
    )
    for _ in range(count):
        refined = _refined(training, current, rho, resolved)
        if refined is None:
            break
        current = refined
        best = current if current.risk < best.risk else best
    return best


def _refined(
    training: NoiseTraining, noise: ShapedNoise, radius: float, structure: Joint | YGivenX
) -> ShapedNoise | None:
    """Half of the covariance, half of the levels of each singular direction; its level tuned."""
    half = structure.weight_y.half(training.rows_y.shape[1])
    left, values, right = np.linalg.svd(noise.matrix @ half)
    residual = training.rows_x - training.rows_y @ noise.matrix.T
    mass = ((residual @ left[:, : len(values)]) ** 2).mean(axis=0)
    apart = noise.worst.multiplier - values**2
    if not (math.isfinite(noise.worst.multiplier) and (apart > 0).all()):
        return None  # nothing to learn from a law that is not unique
    directions = right[: len(values)] @ half
    shape = 0.5 * noise.covariance + 0.5 * (directions.T * (mass / apart)) @ directions
    if not shape.any():
        return None
    trained = NoiseTraining(training.rows_x, training.rows_y, 0.5 * (shape + shape.T))
    level = trained.best_level(radius, structure, NEAR_LEVELS)
    return ShapedNoise(
        level * noise.level,
        noise.guess,
        level**2 * trained.shape,
        trained.map(level),
        trained.worst_case(level, radius, structure),
    )


def _scaling_level(training: NoiseTraining, radius: float, structure: Joint | YGivenX) -> float:
    """The root of σ² tr BᵀGB = ρ² in σ, by bracketing; infinite if the noise always costs less."""
    if radius == 0.0:
        return 0.0
    half = structure.weight_y.half(training.rows_y.shape[1])

    def excess(logarithm: float) -> float:
        """How much the noise spends, relative to the budget, less one."""
        level = math.exp(logarithm)
        worst = training.worst_case(level, radius, structure)
        squared = np.linalg.svd(training.map(level) @ half, compute_uv=False) ** 2
        apart = worst.multiplier - squared
        if not (apart > 0).all():  # the hard case: any noise is too much
            return math.inf
        return float((level / radius) ** 2 * (squared / apart).sum()) - 1.0

    grid = np.log(training.unit * LEVELS)
    values = [excess(point) for point in grid]
    pairs = zip(pairwise(grid), pairwise(values), strict=True)
    ends = next((ends for ends, (low, high) in pairs if low < 0 <= high < math.inf), None)
    if ends is None:
        return math.inf if max(values) < 0 else 0.0
    return math.exp(float(brentq(excess, *ends, xtol=1e-10)))
