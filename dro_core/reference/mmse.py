"""The Wasserstein MMSE estimator by Frank-Wolfe, as its authors describe it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dro_core.described import Described
from dro_core.types import Array

#: Second moments, one matrix for each ball.
Moments: TypeAlias = tuple[Array, ...]


@dataclass(frozen=True, eq=False, repr=False)
class FrankWolfeMMSE(Described):
    """Estimator and worst-case covariances after the last step.

    Attributes
    ----------
    matrix : (n, m) array
    value : float
        Least-squares risk at the covariances: a lower value.
    gap : float
        Duality gap of Frank-Wolfe, an upper bound of how far `value` may be from optimal.
    iterations : int
    """

    matrix: Array
    value: float
    gap: float
    iterations: int


def _bures_oracle(gradient: Array, nominal: Array, radius: float) -> Array:
    r"""Largest :math:`\langle D, \Sigma\rangle` over covariances within Gelbrich distance.

    :math:`\gamma^2(\gamma I - D)^{-1}\hat\Sigma(\gamma I - D)^{-1}` with
    :math:`\langle\hat\Sigma, (I - \gamma(\gamma I - D)^{-1})^2\rangle = \rho^2`, by bisection.
    """
    values, vectors = np.linalg.eigh(gradient)
    rotated = vectors.T @ nominal @ vectors
    diagonal = np.diag(rotated)
    low = values[-1] * (1.0 + math.sqrt(max(diagonal[-1], 0.0)) / radius)
    high = values[-1] * (1.0 + math.sqrt(float(np.trace(nominal))) / radius)
    for _ in range(200):
        gamma = 0.5 * (low + high)
        if float(diagonal @ (values / (gamma - values)) ** 2) > radius**2:
            low = gamma
        else:
            high = gamma
        if high - low <= 1e-14 * high:
            break
    gain = high / (high - values)
    return np.asarray(vectors @ (gain[:, None] * rotated * gain) @ vectors.T)


def _frank_wolfe(
    evaluate: Callable[[Moments], tuple[float, Array]],
    gradients_of: Callable[[Array], Moments],
    nominal: Moments,
    radii: tuple[float, ...],
    tolerance: float,
    max_iterations: int,
) -> FrankWolfeMMSE:
    """Ascent from the nominal moments; `evaluate` gives the risk there and the best map."""
    current = nominal
    value, B = evaluate(current)
    smoothness, gap, iterations = 1e-3, math.inf, 0
    while iterations < max_iterations:
        iterations += 1
        gradients = gradients_of(B)
        vertices = [_bures_oracle(*parts) for parts in zip(gradients, nominal, radii, strict=True)]
        steps = [vertex - here for vertex, here in zip(vertices, current, strict=True)]
        gap = sum(float((g * s).sum()) for g, s in zip(gradients, steps, strict=True))
        if gap <= tolerance * value:
            break
        size = sum(float((step * step).sum()) for step in steps)
        smoothness /= 2.0
        while True:
            share = min(1.0, gap / (smoothness * size))
            trial = tuple(here + share * step for here, step in zip(current, steps, strict=True))
            reached, map_there = evaluate(trial)
            wanted = value + share * gap - 0.5 * smoothness * share**2 * size
            if reached >= wanted - 1e-15 * abs(value):
                break
            smoothness *= 2.0
        current, value, B = trial, reached, map_there
    return FrankWolfeMMSE(B, value, gap, iterations)


def wasserstein_mmse_frank_wolfe(
    forward: Array,
    moment_x: Array,
    moment_noise: Array,
    radius_x: float,
    radius_noise: float,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 10_000,
) -> FrankWolfeMMSE:
    r"""Frank-Wolfe with fully adaptive steps on the covariances of signal and noise.

    Maximises the concave :math:`f(\Sigma_x, \Sigma_w) = \operatorname{tr}\Sigma_x
    - \operatorname{tr}\Sigma_xA^\top(A\Sigma_xA^\top + \Sigma_w)^{-1}A\Sigma_x` over two balls of
    the Gelbrich distance, with the linear oracle by bisection and a smoothness constant that is
    doubled or halved until the step is sufficient (Nguyen, Shafieezadeh-Abadeh, Kuhn and Mohajerin
    Esfahani, "Bridging Bayesian and minimax mean square error estimation via Wasserstein
    distributionally robust optimization").

    Parameters
    ----------
    forward : (m, n) array
    moment_x, moment_noise : (n, n) and (m, m) positive definite arrays
    radius_x, radius_noise : float
        Positive.
    tolerance : float
        Frank-Wolfe gap relative to the value.
    """
    n = forward.shape[1]

    def evaluate(pair: Moments) -> tuple[float, Array]:
        cross = pair[0] @ forward.T
        B = np.linalg.solve(forward @ cross + pair[1], cross.T).T
        return float(np.trace(pair[0])) - float((B * cross).sum()), np.asarray(B)

    def gradients_of(B: Array) -> Moments:
        D = np.eye(n) - B @ forward
        return D.T @ D, B.T @ B

    nominal = np.array(moment_x), np.array(moment_noise)
    radii = radius_x, radius_noise
    return _frank_wolfe(evaluate, gradients_of, nominal, radii, tolerance, max_iterations)


def joint_mmse_frank_wolfe(
    moment: Array, n: int, radius: float, *, tolerance: float = 1e-3, max_iterations: int = 10_000
) -> FrankWolfeMMSE:
    r"""The same for one ball around the joint law of (x, y): a distributionally robust Kalman gain.

    Maximises :math:`f(\Sigma) = \operatorname{tr}\Sigma_{xx}
    - \operatorname{tr}\Sigma_{xy}\Sigma_{yy}^{-1}\Sigma_{yx}` over the Gelbrich ball (Shafieezadeh-
    Abadeh, Nguyen, Kuhn and Mohajerin Esfahani, "Wasserstein distributionally robust Kalman
    filtering"). By strong duality its value is the smallest worst-case risk under joint.

    Parameters
    ----------
    moment : (n + m, n + m) positive definite array
        Second moments of (x, y).
    n : int
        Entries of x.
    radius : float
        Positive.
    tolerance : float
        Frank-Wolfe gap relative to the value.
    """

    def evaluate(moments: Moments) -> tuple[float, Array]:
        cross = moments[0][:n, n:]
        B = np.asarray(np.linalg.solve(moments[0][n:, n:], cross.T).T)
        return float(np.trace(moments[0][:n, :n])) - float((B * cross).sum()), B

    def gradients_of(B: Array) -> Moments:
        both = np.hstack([np.eye(n), -B])
        return (both.T @ both,)

    nominal = (np.array(moment),)
    return _frank_wolfe(evaluate, gradients_of, nominal, (radius,), tolerance, max_iterations)
