"""The arms of one case: every map judged by its exact worst case, on both sets of samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dro_core import NoiseTraining, YGivenX, fit_linear, shaped_noise, worst_case_risk
from dro_core.noise_training import LEVELS, tuned_level
from dro_core.types import Array
from validation.jittering.problems import Problem
from validation.tables import Row

#: Names of the arms; the first is the exact optimum.
ARMS = ("exact", "isotropic noise", "shaped noise", "refined noise", "penalty", "Tikhonov")
#: Those whose ratios to the optimum are told (the penalty's are those of isotropic noise).
SHOWN = ("isotropic noise", "shaped noise", "refined noise", "Tikhonov")
#: Refinements of the refined noise.
ROUNDS = 4


def penalised(x: Array, y: Array, level: float) -> Array:
    """min M + level² ‖B‖_F², the Jacobian's Frobenius norm, by least squares on stacked rows."""
    rows = np.vstack([y, np.sqrt(len(y)) * level * np.eye(y.shape[1])])
    targets = np.vstack([x, np.zeros((y.shape[1], x.shape[1]))])
    return np.asarray(np.linalg.lstsq(rows, targets, rcond=None)[0].T)


def tikhonov(forward: Array) -> Callable[[float], Array]:
    """Level to (AᵀA + level² I)⁻¹Aᵀ, by one singular value decomposition."""
    left, values, right = np.linalg.svd(forward, full_matrices=False)

    def at(level: float) -> Array:
        tiny = (1e-12 * values[0]) ** 2
        return np.asarray((right.T * (values / (values**2 + level**2 + tiny))) @ left.T)

    return at


def maps(problem: Problem, weights: Array, radius: float) -> tuple[dict[str, Array], Row]:
    """The map of every arm, levels tuned for the worst case, and what is said of their making."""
    ball = YGivenX(weights)
    fit = fit_linear(x=problem.x, y=problem.y, radius=radius, structure=ball)
    shaped, refined, jitter = (
        shaped_noise(
            x=problem.x, y=problem.y, radius=radius, structure=ball, shape=shape, rounds=rounds
        )
        for shape, rounds in ((None, 0), (None, ROUNDS), (1.0, 0))
    )
    training = NoiseTraining(problem.x, problem.y, 1.0)
    inverse = tikhonov(problem.forward)

    def risk(level: float) -> float:
        rows = training.rows_x, training.rows_y
        return worst_case_risk(inverse(level), *rows, radius, ball).risk

    unit = float(np.linalg.norm(problem.forward, 2))
    found = {
        "exact": fit.matrix,
        "isotropic noise": jitter.matrix,
        "shaped noise": shaped.matrix,
        "refined noise": refined.matrix,
        "penalty": penalised(problem.x, problem.y, jitter.level),
        "Tikhonov": inverse(tuned_level(risk, unit * LEVELS)),
    }
    made: Row = {
        "gap": fit.gap,
        "isotropic level": jitter.level,
        "shaped level": shaped.level,
        "shaped guess": shaped.guess,
    }
    return found, made


def compared(problem: Problem, ball: str, weights: Array, share: float) -> Row:
    """One case: worst-case and clean risks of all arms, in training and held out."""
    radius = share * problem.unit(weights)
    found, made = maps(problem, weights, radius)
    row: Row = {"problem": problem.name, "ball": ball, "share": share, "radius": radius, **made}
    sets = {"": (problem.x, problem.y), " held out": (problem.x_out, problem.y_out)}
    for name, (x, y) in sets.items():
        for arm in ARMS:
            worst = worst_case_risk(found[arm], x, y, radius, YGivenX(weights))
            row[f"{arm}{name}"] = worst.risk
            row[f"{arm} clean{name}"] = worst.nominal_risk
    return row
