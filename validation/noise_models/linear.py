"""Linear maps: no gap on a range, a gap on its grids that closes, and exact moments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dro_core import finite_worst_case, worst_case_risk
from dro_core.noise import GaussianNoise, PoissonNoise, hull_candidates, noise_candidates
from dro_core.reference import finite_worst_case_pure
from dro_core.types import Array
from validation.noise_models.choices import sweep_radii
from validation.noise_models.families import (
    Table,
    family_by_variance,
    gaussian_levels,
    poisson_photons,
    poisson_signals,
    variance_range,
)
from validation.noise_models.settings import Config
from validation.results import Check, at_least, at_most
from validation.tables import Row, column


@dataclass(frozen=True)
class LinearProblem:
    """A positive forward map, its regularised inverse, and positive signals."""

    B: Array
    x: Array
    y: Array
    clean: Array


def linear_problem(config: Config) -> LinearProblem:
    """Three signal and four data components; `samples` samples."""
    rng = np.random.default_rng(config.seed + 2)
    A = rng.random((4, 3))
    B = np.asarray(np.linalg.solve(A.T @ A + 0.01 * np.eye(3), A.T), dtype=np.float64)
    x = np.exp(0.5 * rng.standard_normal((config.samples, 3)))
    clean = x @ A.T
    return LinearProblem(B, x, clean + config.noise * rng.standard_normal(clean.shape), clean)


def refinement_rows(config: Config) -> list[Row]:
    """Linear map, one sample: the gap of ever finer grids of a range that has none."""
    problem, rows = linear_problem(config), []
    one = (problem.B, problem.x[:1], problem.y[:1], problem.clean[:1])
    for family in ("gaussian", "poisson"):
        low, high = variance_range(config, family)
        ends = noise_candidates(*one, family_by_variance(config, family, [low, high]))
        for level in range(1, 10):
            members = 2**level + 1
            grid = family_by_variance(config, family, np.linspace(low, high, members))
            loss, cost = noise_candidates(*one, grid)
            spread = float(np.ptp(loss))
            for share in (0.3, 0.7001):  # of the way between the ends
                budget = float(ends[1][0] @ [1 - share, share])
                hull = finite_worst_case(loss, cost, budget**0.5).risk
                own = finite_worst_case_pure(loss, cost, budget**0.5).risk
                rows.append(
                    {
                        "family": family,
                        "members": members,
                        "radius": budget**0.5,
                        "own": own,
                        "hull": hull,
                        "range_by_hand": float(ends[0][0] @ [1 - share, share]),
                        "gap_over_range": (hull - own) / spread,
                        "bound_over_range": 1.0 / (members - 1),
                    }
                )
    return rows


def linear_checks(config: Config, rows: list[Row]) -> list[Check]:
    """No gap on a range, a gap on its grids that closes, and the moments by three other ways."""
    problem = linear_problem(config)
    everything = (problem.B, problem.x, problem.y, problem.clean)
    attained, spent, structured = 0.0, 0.0, -np.inf
    for family in ("gaussian", "poisson"):
        ends = np.array(variance_range(config, family))
        table = Table(*noise_candidates(*everything, family_by_variance(config, family, ends)))
        for radius in sweep_radii(table, 7)[:-1]:
            worst = finite_worst_case(table.loss, table.cost, radius)
            mixture = worst.plan.toarray() / worst.weights[:, None]
            single = family_by_variance(config, family, mixture @ ends)  # sample i takes member i
            loss, cost = noise_candidates(*everything, single)
            attained = max(attained, abs(float(np.diag(loss).mean()) / worst.risk - 1))
            spent = max(spent, float(np.diag(cost).mean()) / radius**2 - 1)
            outer = worst_case_risk(problem.B, problem.x, problem.y, radius, "y|x").risk
            structured = max(structured, worst.risk / outer - 1)
    by_hand = np.abs(column(rows, "hull") / column(rows, "range_by_hand") - 1).max()
    share = (column(rows, "gap_over_range") / column(rows, "bound_over_range")).max()
    coarse = min(
        column([r for r in rows if r["family"] == f and r["members"] == 3], "gap_over_range").max()
        for f in ("gaussian", "poisson")
    )
    last = [row for row in rows if row["members"] == rows[-1]["members"]]
    finest = column(last, "gap_over_range").max()
    atoms = atoms_against_moments(config)
    return [
        at_most("linear: hull against the range by hand, one sample", by_hand, 1e-12),
        at_most("linear: |best single members of the range / hull - 1|", attained, 1e-12),
        at_most("linear: their cost / budget - 1", spent, 1e-12),
        at_least("linear, 3 members: gap / range of the losses", coarse, 0.1),
        at_most("linear: gap / (range / (members - 1)), all grids", share, 1 + 1e-9),
        at_most("linear, finest grid: gap / range of the losses", finest, 1 / 512),
        at_most("linear: hull / exact worst case of Y|X - 1", structured, 1e-9),
        at_most("linear: |expectation by atoms / exact moments - 1|", atoms, 1e-9),
        at_most("linear: Monte-Carlo, deviation in standard errors", monte_carlo(config), 5.0),
    ]


def atoms_against_moments(config: Config) -> float:
    """Scalar linear map: largest relative difference of expectations by atoms and by moments."""
    worst, B = 0.0, 1.7
    x = poisson_signals(config, config.samples)[:, None]
    y = x + config.noise
    gaussian = GaussianNoise(gaussian_levels(config)[1:])
    for noise in (gaussian, PoissonNoise(poisson_photons(config))):
        atoms, measures = noise.atoms(x)
        summed = hull_candidates((x - B * atoms) ** 2, (y - atoms) ** 2, measures)
        exact = noise_candidates([[B]], x, y, x, noise)
        for first, second in zip(summed, exact, strict=True):
            worst = max(worst, float(np.abs(first / second - 1).max()))
    return worst


def monte_carlo(config: Config) -> float:
    """Exact losses and costs against sampled noise, in standard errors (12 comparisons)."""
    problem = linear_problem(config)
    rng = np.random.default_rng(config.seed + 3)
    B, x, y, clean = problem.B, problem.x[0], problem.y[0], problem.clean[0]
    one = (B, problem.x[:1], problem.y[:1], problem.clean[:1])
    levels = np.array([0.1, 0.5, 1.0]) * config.largest_level
    photons = np.geomspace(config.fewest_photons, config.most_photons, 3)
    shape = (config.draws, len(clean))
    worst = 0.0
    for noise in (GaussianNoise(levels), PoissonNoise(photons)):
        loss, cost = noise_candidates(*one, noise)
        for k in range(3):
            if isinstance(noise, GaussianNoise):
                drawn = clean + levels[k] * rng.standard_normal(shape)
            else:
                drawn = rng.poisson(photons[k] * clean, shape) / photons[k]
            for exact, sampled in (
                (loss[0, k], ((x - drawn @ B.T) ** 2).sum(axis=1)),
                (cost[0, k], ((y - drawn) ** 2).sum(axis=1)),
            ):
                error = sampled.std() / math.sqrt(config.draws)
                worst = max(worst, abs(float(sampled.mean()) - exact) / error)
    return worst
