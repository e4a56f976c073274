"""Two inverse problems, swept through their ill-posedness, and what is measured on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dro_core import (
    LinearReconstruction,
    WorstCase,
    conservatism_gap,
    explicit_bound,
    finite_worst_case,
    quadratic_candidates,
)
from dro_core.blocks import BlockFunction
from dro_core.operators import BackwardHeat, Diagonal, SpectralOperator
from dro_core.reference import (
    conditional_wasserstein_pot,
    wasserstein_pot,
)
from dro_core.types import Array
from validation.results import (
    progress,
)
from validation.section5.settings import RAYS, STRUCTURES, Config
from validation.tables import Row


def signals(config: Config) -> Array:
    """Random cosine/sine series with decaying coefficients on the grid, (N * per signal, n)."""
    rng = np.random.default_rng(config.seed)
    grid = np.arange(config.size) / config.size
    k = np.arange(1, config.modes + 1)
    angles = 2 * np.pi * k[:, None] * grid[None, :]
    decay = k**-config.smoothness
    cosine = rng.standard_normal((config.samples, config.modes)) * decay
    sine = rng.standard_normal((config.samples, config.modes)) * decay
    x = cosine @ np.cos(angles) + sine @ np.sin(angles)
    return np.asarray(np.repeat(x, config.samples_per_signal, axis=0))


@dataclass(frozen=True)
class SweepPoint:
    """A forward operator and the inverse that is judged at one parameter value."""

    parameter: float
    forward: SpectralOperator
    inverse: SpectralOperator


def diagonal_sweep(config: Config) -> list[SweepPoint]:
    """Diagonal problem: exact inverses of ever faster decay."""
    points = []
    for decay in np.linspace(0.0, config.largest_decay, config.points):
        operator = Diagonal(decay, config.size)
        points.append(SweepPoint(float(decay), operator, operator.inverse()))
    return points


def heat_sweep(config: Config) -> list[SweepPoint]:
    """Heat problem: one operator, ever less regularised inverses."""
    operator = BackwardHeat(config.heat_time, config.size)
    ends = config.largest_regularization, config.smallest_regularization
    return [
        SweepPoint(float(alpha), operator, operator.inverse(float(alpha)))
        for alpha in np.geomspace(*ends, config.points)
    ]


def finite_optimum(
    problem: LinearReconstruction, worst: WorstCase, positions: Sequence[float] | Array
) -> tuple[float, tuple[BlockFunction, BlockFunction]]:
    """Optimum over a shared finite support: every sample's ray through its exact atom.

    Candidates are z_k + s dz_k for all samples k and positions s; any sample may move to any of
    them (under y|x with its own x).
    """
    ladder = np.asarray(positions)[:, None, None]
    new_y = (problem.y + ladder * worst.displacement_y).reshape(-1, problem.y.shape[1])
    new_x = None
    if worst.structure.name == "joint":
        new_x = (problem.x + ladder * worst.displacement_x).reshape(-1, problem.x.shape[1])
    blocks = quadratic_candidates(
        problem.matrix, problem.x, problem.y, x_candidates=new_x, y_candidates=new_y
    )
    found = finite_worst_case(*blocks, worst.radius, weights=problem.weights)
    return found.risk, blocks


def transport_distance(problem: LinearReconstruction, worst: WorstCase) -> float:
    """Distance from data to worst-case law, by POT: W2 for joint, conditional W2 for y|x."""
    if worst.structure.name == "joint":
        return wasserstein_pot(
            np.hstack([problem.x, problem.y]),
            np.hstack([worst.x, worst.y]),
            weights0=problem.weights,
            weights1=problem.weights,
        )
    return conditional_wasserstein_pot(
        problem.x,
        problem.y,
        worst.x,
        worst.y,
        weights0=problem.weights,
        weights1=problem.weights,
    )


def measure(point: SweepPoint, x: Array, radius: float) -> dict[str, float]:
    """Everything about one sweep point at one radius, as one row of the table."""
    problem = LinearReconstruction(point.inverse.matrix(), x, x @ point.forward.matrix().T)
    L, M = point.inverse.lipschitz, problem.fidelity
    row = {
        "parameter": point.parameter,
        "lipschitz": L,
        "fidelity": M,
        "root_fidelity_over_radius": M**0.5 / radius,
        "gap_root": float(conservatism_gap(M, L, radius)),
        "gap_squared": float(conservatism_gap(M, L, radius, form="squared")),
    }
    for structure in STRUCTURES:
        worst = problem.worst_case(radius, structure)
        bound = float(explicit_bound(M, L, radius, structure))
        finite, _ = finite_optimum(problem, worst, RAYS)
        row |= {
            f"bound_root {structure}": bound**0.5,
            f"bound_squared {structure}": bound,
            f"exact {structure}": worst.risk,
            f"multiplier {structure}": worst.multiplier,
            f"certificate_gap {structure}": abs(worst.verify().gap),
            f"certified {structure}": float(worst.verify().holds()),
            f"finite {structure}": finite,
            f"distance_over_radius {structure}": transport_distance(problem, worst) / radius,
        }
    return row


def convergence(config: Config, sweeps: dict[str, list[SweepPoint]], x: Array) -> list[Row]:
    """Finite/exact as candidates are added: nested rays (thirds of thirds) that miss the atom.

    The positions 2j/3^level on [0, 2] never contain 1, so the optimum is approached, not planted.
    Early in the heat sweep, where M is a large share of the risk: there splitting a sample's mass
    between far candidates is no substitute for the atom. (With M = 0 it is: the diagonal problem is
    solved by the coarsest ray.)
    """
    rows: list[Row] = []
    settings = (
        ("diagonal", config.radius),
        ("heat", config.radius),
        ("heat", config.small_radius),
    )
    for name, radius in progress(settings, "convergence"):
        sweep = sweeps[name]
        point = sweep[len(sweep) // 8]
        problem = LinearReconstruction(point.inverse.matrix(), x, x @ point.forward.matrix().T)
        for structure in STRUCTURES:
            worst = problem.worst_case(radius, structure)
            for level in range(5):
                positions = np.linspace(0.0, 2.0, 3**level + 1)
                finite, _ = finite_optimum(problem, worst, positions)
                rows.append(
                    {
                        "problem": f"{name}, radius {radius:g}",
                        "structure": structure,
                        "lipschitz": point.inverse.lipschitz,
                        "candidates": len(positions) * len(x),
                        "finite": finite,
                        "exact": worst.risk,
                        "ratio": finite / worst.risk,
                    }
                )
    return rows


def repeated_measurements(
    config: Config, sweeps: dict[str, list[SweepPoint]]
) -> tuple[float, float]:
    """With noise and six measurements per signal the conditional transport is not trivial.

    Returns the largest relative difference between the conditional W2 distance and the radius, and
    the smallest monotonicity product <(y_i + v_i) - (y_j + v_j), y_i - y_j> / |y_i - y_j|² over
    measurements of one signal (>= 0: the displacement is the gradient of a convex function).
    """
    rng = np.random.default_rng(config.seed + 1)
    x = np.repeat(signals(config)[:: config.samples_per_signal][:10], 6, axis=0)
    distance, monotone = 0.0, np.inf
    for sweep in progress(list(sweeps.values()), "repeated measurements"):
        for point in sweep[:: max(1, len(sweep) // 4)]:
            y = x @ point.forward.matrix().T
            y = y + config.noise * rng.standard_normal(y.shape)
            problem = LinearReconstruction(point.inverse.matrix(), x, y)
            worst = problem.worst_case(config.radius, "y|x")
            found = transport_distance(problem, worst)
            distance = max(distance, abs(found / config.radius - 1))
            for start in range(0, len(x), 6):
                here = slice(start, start + 6)
                before = y[here][:, None] - y[here][None]
                after = worst.y[here][:, None] - worst.y[here][None]
                size = (before**2).sum(axis=2)
                product = (before * after).sum(axis=2)[size > 0] / size[size > 0]
                monotone = min(monotone, float(product.min(initial=np.inf)))
    return distance, monotone
