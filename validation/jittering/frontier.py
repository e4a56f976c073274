r"""The exact frontier of clean against worst-case risk, and the curves of the other arms.

A point of it minimises :math:`(1-\theta)M(B) + \theta\mathcal R(B)`, which is the worst case over
the mixtures of the data's law with those of the ball: convex, with the gradients of both by the
envelope theorem. The least-squares risk under the mixture of the data with the worst-case law is a
lower value for every map, so each point has a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from dro_core import NoiseTraining, Structure, WorstCase, YGivenX, fit_linear, worst_case_risk
from dro_core.types import Array
from validation.jittering.arms import tikhonov
from validation.jittering.problems import Problem
from validation.tables import Row


@dataclass(frozen=True, eq=False)
class ParetoPoint:
    """A map that no other beats in both risks, up to the gap of its weighted sum."""

    matrix: Array
    clean: float
    worst: float
    gap: float


def pareto_point(
    x: Array, y: Array, radius: float, structure: Structure, theta: float, start: Array
) -> ParetoPoint:
    """L-BFGS on the weighted sum, in the units of y."""
    n, m = start.shape
    half = np.linalg.cholesky(y.T @ y / len(y) + 1e-9 * np.trace(y.T @ y / len(y)) * np.eye(m))
    inverse = np.linalg.inv(half)

    def judged(B: Array) -> WorstCase:
        return worst_case_risk(B, x, y, radius, structure)

    def value(flat: Array) -> tuple[float, Array]:
        B = flat.reshape(n, m) @ inverse
        worst = judged(B)
        plain = -2.0 * (x - y @ B.T).T @ y / len(x)
        gradient = (1.0 - theta) * plain + theta * worst.gradient
        sum_ = (1.0 - theta) * worst.nominal_risk + theta * worst.risk
        return sum_, (gradient @ inverse.T).ravel()

    options = {"maxiter": 5000, "maxfun": 20000, "maxcor": 30, "ftol": 1e-15, "gtol": 1e-14}
    found = minimize(value, (start @ half).ravel(), jac=True, method="L-BFGS-B", options=options)
    B = found.x.reshape(n, m) @ inverse
    worst = judged(B)
    total = (1.0 - theta) * worst.nominal_risk + theta * worst.risk
    # least squares under the mixture: its second moments
    rows = np.vstack(
        [
            np.sqrt(1.0 - theta) * np.hstack([y, x]),
            np.sqrt(theta) * np.hstack([worst.y, worst.x]),
        ]
    )
    moments = rows.T @ rows / len(x)
    left = moments[m:, m:] - moments[m:, :m] @ np.linalg.solve(moments[:m, :m], moments[:m, m:])
    return ParetoPoint(B, worst.nominal_risk, worst.risk, 1.0 - float(np.trace(left)) / total)


def frontier(problem: Problem, weights: Array, share: float, points: int) -> list[Row]:
    """Clean and worst-case risk at one radius: the exact frontier and every level of the arms."""
    radius, ball = share * problem.unit(weights), YGivenX(weights)
    training = NoiseTraining(problem.x, problem.y, 1.0 / weights)
    x, y = training.rows_x, training.rows_y
    rows: list[Row] = []

    def add(arm: str, level: float, B: Array, gap: float = 0.0) -> None:
        worst = worst_case_risk(B, x, y, radius, ball)
        rows.append(
            {
                "problem": problem.name,
                "arm": arm,
                "level": level,
                "clean": worst.nominal_risk,
                "worst": worst.risk,
                "gap": gap,
            }
        )

    fit = fit_linear(x=x, y=y, radius=radius, structure=ball)
    start = fit.matrix
    for theta in np.linspace(1.0, 0.0, points, endpoint=False) ** 3:
        point = pareto_point(x, y, radius, ball, float(theta), start)
        start = point.matrix
        add("exact", float(theta), start, point.gap)
    white = NoiseTraining(problem.x, problem.y, 1.0)
    inverse = tikhonov(problem.forward)
    size = float(np.linalg.norm(problem.forward, 2))
    for level in np.geomspace(1e-3, 3.0, 8 * points):
        add("isotropic noise", float(level), white.map(level * white.unit))
        add("shaped noise", float(level), training.map(level * training.unit))
        add("Tikhonov", float(level), inverse(level * size))
    return rows
