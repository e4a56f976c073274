"""Example 2.1: Gaussian and Poisson families are not convex; their hulls close the duality gap.

The adversary knows the clean data a = Ax and chooses the noise: N(a, s²) with s in a range, or
Poisson(p a) / p with a photon count p in a range. Three versions of "chooses", from few to many:

* common: one noise level for the whole data set;
* own: every sample has its own level, but one only (the family as the paper writes it);
* hull: mixtures of levels, the closed convex envelope that Theorem 3.1 needs; equal to the dual.

For maps that are not linear the last two differ: soft-thresholding does not see small noise, so the
loss is a convex function of the transport cost and it pays to mix none with much. The gap is at
most one sample's weight times the range of its losses, hence it vanishes with the number of samples
(Shapley-Folkman). For linear maps a range of levels has no gap; a grid of it has, up to its step.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import integrate, special

from dro_core import finite_worst_case, worst_case_risk
from dro_core.checks import Array
from dro_core.noise import GaussianNoise, PoissonNoise, hull_candidates, noise_candidates
from dro_core.reference import finite_worst_case_highs, finite_worst_case_pure
from validation.errors import UsageError
from validation.results import (
    Check,
    at_least,
    at_most,
    new_figure,
    progress,
    provenance,
    save_figure,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting

KINDS = ("common", "own", "hull")
COLOURS = {"common": "#1b7837", "own": "#2166ac", "hull": "#b2182b"}
LABELS = {
    "common": "one member for all samples",
    "own": "one member per sample",
    "hull": "mixtures: hull = dual",
}
#: Members of the continuous range, where a single sample is enough to show the gap.
FINE = 2001


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the noise families (all of them this project's choice)."""

    samples: int = setting(
        8, "scalar samples of the radius sweeps (beside a single one)", low=2, high=16
    )
    largest_samples: int = setting(
        256, "the gap is followed from 1 sample to this, doubling", low=8, high=1024
    )
    members: int = setting(21, "members of each family", low=3, high=41)
    points: int = setting(41, "radii of each sweep", low=3, high=1000)
    threshold: float = setting(
        1.0, "threshold of the soft-thresholding reconstruction", low=1e-3, high=1e3
    )
    largest_level: float = setting(2.0, "Gaussian: s runs from 0 to this", low=1e-3, high=1e3)
    fewest_photons: float = setting(
        1.0, "Poisson: photons per unit run from this ...", low=1e-3, high=1e3
    )
    most_photons: float = setting(100.0, "Poisson: ... to this", above="fewest_photons", high=1e4)
    noise: float = setting(
        0.05,
        "standard deviation of the noise in the data, Gaussian family",
        low=0,
        high="largest_level",
    )
    draws: int = setting(200_000, "Monte-Carlo draws for the moments", low=1000, high=10_000_000)
    seed: int = setting(0, "seed of signals, noise and draws", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        deviations = self.largest_level, self.fewest_photons**-0.5  # of the noisiest members
        low, high = max(deviations) / 10, 3 * min(deviations)
        if not low <= self.threshold <= high:
            raise UsageError(
                f"--set threshold: {self.threshold}; allowed: {low:g} to {high:g}, a tenth to "
                "three times the largest standard deviations of both families"
            )


# --- the two families -------------------------------------------------------------------------


def soft_threshold(y: Any, threshold: float) -> Array:
    """sign(y) max(|y| - threshold, 0): the reconstruction of sparse signals from y = x + noise."""
    return np.asarray(np.sign(y) * np.maximum(np.abs(y) - threshold, 0.0))


def soft_threshold_loss(x: Any, clean: Any, levels: Any, threshold: float) -> Array:
    r"""Expected loss E (x - S(Y))², Y ~ N(clean, s²), in closed form: rows samples, columns levels.

    Above the threshold S(Y) = Z = Y - threshold with mean b, below -threshold the mirror image, so
    two integrals of -2xZ + Z² over Z > 0 are needed, from
    :math:`E[Z; Z > 0] = b\Phi(b/s) + s\varphi(b/s)` and
    :math:`E[Z^2; Z > 0] = (b^2 + s^2)\Phi(b/s) + bs\varphi(b/s)`.
    """
    x, clean = np.asarray(x, float)[:, None], np.asarray(clean, float)[:, None]
    s = np.asarray(levels, float)[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = x**2 + np.zeros_like(s)
        for signal, b in ((x, clean - threshold), (-x, -clean - threshold)):
            t = np.where(s > 0, b / s, np.where(b > 0, np.inf, -np.inf))
            density = np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)
            above = special.ndtr(t)
            first = b * above + s * density
            total = total + (b**2 + s**2) * above + b * s * density - 2 * signal * first
    return np.asarray(total)


@dataclass(frozen=True)
class Table:
    """Expected losses and costs (samples, members)."""

    loss: Array
    cost: Array


def gaussian_signals(config: Config, count: int) -> tuple[Array, Array]:
    """Sparse scalars x, the first one zero, and data y = x + noise; the same for every count."""
    rng = np.random.default_rng(config.seed)
    draws = rng.standard_normal((1024, 3))
    x = 0.5 * draws[:, 0] * np.abs(draws[:, 1])
    x[0] = 0.0
    y = x + config.noise * draws[:, 2]
    return x[:count], y[:count]


def gaussian_levels(config: Config) -> Array:
    """s = 0, ..., largest_level, equally spaced: costs are then multiples of one unit."""
    return np.linspace(0.0, config.largest_level, config.members)


def gaussian_table(config: Config, count: int, levels: Any = None) -> Table:
    """N(x, s²) and soft-thresholding: losses in closed form, costs (y - x)² + s²."""
    x, y = gaussian_signals(config, count)
    s = gaussian_levels(config) if levels is None else levels
    cost = ((y - x) ** 2)[:, None] + s**2
    return Table(soft_threshold_loss(x, x, s, config.threshold), cost)


def poisson_signals(config: Config, count: int) -> Array:
    """Positive scalars around one, the first one exactly one."""
    rng = np.random.default_rng(config.seed + 1)
    x = np.exp(0.3 * rng.standard_normal(1024) * np.abs(rng.standard_normal(1024)))
    x[0] = 1.0
    return np.asarray(x[:count])


def poisson_photons(config: Config) -> Array:
    """Photon counts in geometric progression, many first."""
    return np.geomspace(config.most_photons, config.fewest_photons, config.members)


def poisson_table(config: Config, count: int, photons: Any = None) -> Table:
    """Poisson(p x) / p and soft-thresholding of the deviation from one; data y = x.

    Member by member, so that a family of thousands fits into memory.
    """
    x, columns = poisson_signals(config, count)[:, None], []
    for number in poisson_photons(config) if photons is None else photons:
        atoms, measures = PoissonNoise([number]).atoms(x)
        rebuilt = 1.0 + soft_threshold(atoms - 1.0, config.threshold)
        columns.append(hull_candidates((x - rebuilt) ** 2, (x - atoms) ** 2, measures))
    return Table(*(np.hstack(parts) for parts in zip(*columns, strict=True)))


# --- the three versions of choosing, and the dual ---------------------------------------------


def best_common(table: Table, radius: float) -> float:
    """Largest mean loss of one member for all samples, within the budget."""
    affordable = table.cost.mean(axis=0) <= radius**2 * (1 + 1e-12)
    return float(table.loss.mean(axis=0)[affordable].max(initial=-np.inf))


def best_choices(table: Table, steps: Any, budgets: Any) -> Array:
    """Largest mean loss of one member per sample, exactly, where costs are whole numbers.

    Dynamic programming over the budget: `steps` (members,) are the whole costs of the members
    above what the sample pays anyway, `budgets` whole budgets for the sum over all samples.
    """
    best = np.zeros(int(max(budgets)) + 1)
    for losses in table.loss:
        after = np.full_like(best, -np.inf)
        for step, loss in zip(steps, losses, strict=True):
            if step < len(best):
                np.maximum(after[step:], best[: len(best) - step] + loss, out=after[step:])
        best = after
    return np.asarray(best[np.asarray(budgets, dtype=np.int64)] / len(table.loss))


def gaussian_choices(config: Config, table: Table, radii: Any) -> Array:
    """`best_choices` of the Gaussian table: s² = k² units above the noise in the data."""
    unit = (config.largest_level / (config.members - 1)) ** 2
    spare = (np.asarray(radii) ** 2 - table.cost[:, 0].mean()) * len(table.cost) / unit
    return best_choices(table, np.arange(config.members) ** 2, np.floor(spare + 1e-9))


def dual_values(table: Table, radii: Any) -> Array:
    """min over λ of λρ² + mean_i max_k (L_ik - λ C_ik), from its value at every kink.

    No solver: the function is convex and piecewise linear, so it is least at a kink or at zero.
    """
    first, second = np.triu_indices(table.loss.shape[1], 1)
    rise = table.loss[:, first] - table.loss[:, second]
    run = table.cost[:, first] - table.cost[:, second]
    kinks = rise[run != 0] / run[run != 0]
    kinks = np.concatenate([[0.0], np.unique(kinks[kinks > 0])])
    potential = np.zeros_like(kinks)
    for losses, costs in zip(table.loss, table.cost, strict=True):
        potential += (losses[:, None] - costs[:, None] * kinks).max(axis=0) / len(table.loss)
    return np.array([float((kinks * radius**2 + potential).min()) for radius in radii])


def sweep_radii(table: Table, points: int) -> Array:
    """Radii from just above the smallest feasible one to where the budget stops to bind."""
    least = table.cost.min(axis=1).mean()
    most = table.cost[np.arange(len(table.cost)), table.loss.argmax(axis=1)].mean()
    return np.linspace((least + 0.01 * (most - least)) ** 0.5, most**0.5, points)


def sweep(config: Config, family: str, count: int) -> list[dict[str, float]]:
    """One row per radius: common, own, hull, dual, and the linear programme."""
    table, fine = gaussian_table(config, count), None
    if family == "poisson":
        table = poisson_table(config, count)
    if count == 1 and family == "gaussian":
        fine = gaussian_table(config, 1, np.linspace(0.0, config.largest_level, FINE))
    elif count == 1:
        low, high = variance_range(config, "poisson")
        fine = poisson_table(config, 1, 1 / np.linspace(low, high, FINE))
    radii = sweep_radii(table, config.points)
    duals = dual_values(table, radii)
    bound = np.ptp(table.loss, axis=1).max() / count
    exact = gaussian_choices(config, table, radii) if family == "gaussian" else None
    rows = []
    label = f"{family}, {count} sample{'s' if count > 1 else ''}"
    for k, radius in enumerate(progress(list(radii), label)):
        worst = finite_worst_case(table.loss, table.cost, radius)
        own = finite_worst_case_pure(table.loss, table.cost, radius).risk
        linear = finite_worst_case_highs(table.loss, table.cost, radius).risk
        row = {
            "samples": count,
            "radius": float(radius),
            "common": best_common(table, radius),
            "own": own,
            "hull": worst.risk,
            "dual": float(duals[k]),
            "linear_programme": linear,
            "multiplier": worst.multiplier,
            "certified": float(worst.verify().holds()),
            "gap": worst.risk - own,
            "gap_bound": float(bound),
            "smallest_radius": float(table.cost.min(axis=1).mean() ** 0.5),
        }
        if exact is not None:
            row["own_by_dynamic_programming"] = float(exact[k])
        if fine is not None:
            row["own_of_the_range"] = best_common(fine, radius)
            row["hull_of_the_range"] = finite_worst_case(fine.loss, fine.cost, radius).risk
        rows.append(row)
    return rows


def gap_rows(config: Config) -> list[dict[str, float]]:
    """Gaussian family: the largest gap over the radii, for ever more samples."""
    rows = []
    counts = [2**k for k in range(int(math.log2(config.largest_samples)) + 1)]
    for count in progress(counts, "gap against samples"):
        table = gaussian_table(config, count)
        radii = sweep_radii(table, config.points)
        own = gaussian_choices(config, table, radii)
        worst = [finite_worst_case(table.loss, table.cost, radius) for radius in radii]
        hull = np.array([found.risk for found in worst])
        spread = float(np.ptp(table.loss, axis=1).max())
        rows.append(
            {
                "samples": count,
                "gap": float((hull - own).max()),
                "relative_gap": float(((hull - own) / hull).max()),
                "gap_over_range": float((hull - own).max() / spread),
                "smallest_gap": float(((hull - own) / hull).min()),
                "bound_over_range": 1.0 / count,
                "certified": float(all(found.verify().holds() for found in worst)),
            }
        )
    return rows


# --- linear maps ------------------------------------------------------------------------------


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


def family_by_variance(config: Config, family: str, variances: Any) -> Any:
    """The members with variance factors s² (Gaussian) or 1 / photons (Poisson)."""
    if family == "gaussian":
        return GaussianNoise(np.sqrt(variances))
    return PoissonNoise(1.0 / np.asarray(variances))


def variance_range(config: Config, family: str) -> tuple[float, float]:
    """Ends of the continuous range."""
    if family == "gaussian":
        return 0.0, config.largest_level**2
    return 1.0 / config.most_photons, 1.0 / config.fewest_photons


def refinement_rows(config: Config) -> list[dict[str, Any]]:
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


def linear_checks(config: Config, rows: list[dict[str, Any]]) -> list[Check]:
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
    by_hand = max(abs(row["hull"] / row["range_by_hand"] - 1) for row in rows)
    share = max(row["gap_over_range"] / row["bound_over_range"] for row in rows)
    coarse = min(
        max(row["gap_over_range"] for row in rows if row["family"] == f and row["members"] == 3)
        for f in ("gaussian", "poisson")
    )
    finest = max(row["gap_over_range"] for row in rows if row["members"] == rows[-1]["members"])
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


# --- checks -----------------------------------------------------------------------------------


def column(rows: list[dict[str, float]], name: str) -> Array:
    """One column of a table."""
    return np.array([row[name] for row in rows])


def widest(rows: list[dict[str, float]]) -> dict[str, float]:
    """The row of a sweep where hull and own choice are furthest apart."""
    return max(rows, key=lambda row: row["gap"])


def quadrature_error(config: Config) -> float:
    """Closed-form losses of soft-thresholding against adaptive quadrature, split at the kinks."""
    x, levels, tau = np.array([0.0, 0.4, -1.3]), np.array([0.3, 1.0, 2.0]), config.threshold
    closed = soft_threshold_loss(x, x, levels, tau)
    worst = 0.0
    for i, signal in enumerate(x):
        for k, s in enumerate(levels):

            def integrand(y: float, signal: float = signal, s: float = s) -> float:
                density = math.exp(-(((y - signal) / s) ** 2) / 2) / (s * math.sqrt(2 * math.pi))
                return float((signal - soft_threshold(y, tau)) ** 2) * density

            ends = (signal - 12 * s, -tau, tau, signal + 12 * s)
            cuts = [cut for cut in ends if ends[0] <= cut <= ends[-1]]
            parts = [
                integrate.quad(integrand, low, high, epsabs=1e-13, epsrel=1e-12)[0]
                for low, high in itertools.pairwise(cuts)
            ]
            worst = max(worst, abs(sum(parts) - closed[i, k]) / (1 + closed[i, k]))
    return worst


def family_checks(name: str, tables: list[list[dict[str, float]]]) -> list[Check]:
    """common <= own <= hull = dual = linear programme, with the gap of a single sample."""
    rows = [row for table in tables for row in table]
    common, own, hull, dual, linear = (
        column(rows, n) for n in ("common", "own", "hull", "dual", "linear_programme")
    )
    range_hull = column(tables[0], "hull_of_the_range")
    range_gap = (1 - column(tables[0], "own_of_the_range") / range_hull).max()
    one, many = (widest(table) for table in tables)
    return [
        at_least(f"{name}, 1 sample: gap (hull - best single member) / hull",
                 one["gap"] / one["hull"], 0.1),
        at_least(f"{name}, 1 sample, {FINE} members: largest gap / hull", range_gap, 0.1),
        at_least(f"{name}, {many['samples']} samples: gap (hull - own members) / hull",
                 many["gap"] / many["hull"], 1e-3),
        at_least(f"{name}, there: (hull - common member) / hull",
                 1 - many["common"] / many["hull"], 0.01),
        at_most(f"{name}: |hull / dual - 1|, dual at all its kinks", abs(hull / dual - 1).max(),
                1e-12),
        at_most(f"{name}: |hull / linear programme (HiGHS) - 1|", abs(hull / linear - 1).max(),
                1e-9),
        at_most(f"{name}: largest (own - hull) / hull", ((own - hull) / hull).max(), 1e-12),
        at_most(f"{name}: largest (common - own) / hull", ((common - own) / hull).max(), 1e-9),
        at_most(f"{name}: largest gap / (max weight x range of losses)",
                (column(rows, "gap") / column(rows, "gap_bound")).max(), 1.0),
        at_least(f"{name}: certificates that hold, share", column(rows, "certified").mean(), 1.0),
    ]  # fmt: skip


def gaussian_checks(config: Config, tables: list[list[dict[str, float]]]) -> list[Check]:
    """What holds for the Gaussian family beside `family_checks`."""
    rows = [row for table in tables for row in table]
    programming, hull = column(rows, "own_by_dynamic_programming"), column(rows, "hull")
    return [
        at_most("gaussian: own, branch and bound - dynamic programme, / hull",
                (np.abs(programming - column(rows, "own")) / hull).max(), 1e-9),
        at_most("gaussian: closed-form losses against quadrature", quadrature_error(config), 1e-10),
    ]  # fmt: skip


def gap_checks(rows: list[dict[str, float]]) -> list[Check]:
    """Shapley-Folkman: the gap is below 1/N of the range, so it vanishes."""
    share = (column(rows, "gap_over_range") / column(rows, "bound_over_range")).max()
    last = rows[-1]
    return [
        at_most("gap x samples / range of losses, 1 to all samples", share, 1.0),
        at_least("smallest (hull - own) / hull, all samples and radii",
                 column(rows, "smallest_gap").min(), -1e-12),
        at_most(f"gap / range with {last['samples']} samples", last["gap_over_range"],
                1 / last["samples"]),
        at_most("there, relative to a single sample's gap",
                last["gap_over_range"] / rows[0]["gap_over_range"], 0.9),
        at_least("all samples: certificates that hold, share",
                 column(rows, "certified").mean(), 1.0),
    ]  # fmt: skip


# --- figures ----------------------------------------------------------------------------------


def risk_panels(axes: Any, tables: list[list[dict[str, float]]], unit: str) -> None:
    """Risk against radius: one panel per number of samples."""
    for axis, rows in zip(axes, tables, strict=True):
        radius = column(rows, "radius")
        axis.fill_between(radius, column(rows, "own"), column(rows, "hull"),
                          color=COLOURS["hull"], alpha=0.12, lw=0, label="duality gap")  # fmt: skip
        count = rows[0]["samples"]
        for kind in KINDS[1:] if count == 1 else KINDS:
            style = {"common": ":", "own": "--", "hull": "-"}[kind]
            axis.plot(radius, column(rows, kind), style, color=COLOURS[kind], label=LABELS[kind])
        if count == 1:
            axis.plot(radius, column(rows, "own_of_the_range"), color="0.3", lw=0.9,
                      label="one member of the whole range")  # fmt: skip
        axis.axvline(rows[0]["smallest_radius"], color="0.6", lw=0.8,
                     label="smallest feasible radius")  # fmt: skip
        axis.set(
            xlabel=f"W2 radius [{unit}]",
            ylabel=f"worst-case mean squared error [{unit}²]",
            title="one sample" if count == 1 else f"{count} samples",
            ylim=(0, None),
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)


def gaussian_figure(tables: list[list[dict[str, float]]], rows: list[dict[str, float]]) -> Any:
    """Gaussian family: two sweeps of the radius, and the gap against the number of samples."""
    figure, axes = new_figure(3, width=4.7, height=4.1)
    risk_panels(axes[0, :2], tables, "data units")
    axis, samples = axes[0, 2], column(rows, "samples")
    axis.plot(samples, 1 / samples, color="0.5", lw=4, alpha=0.4, label="bound: 1 / samples")
    axis.plot(samples, np.maximum(column(rows, "gap_over_range"), 1e-12), "o-", mfc="none",
              color=COLOURS["hull"], label="largest gap over the radii")  # fmt: skip
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="samples",
        ylabel="gap (hull - own) / range of one sample's losses",
        title="the gap vanishes with the samples",
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle("Noise N(x, s²) with s in a range, soft-thresholding: the family and its hull")
    return figure


def poisson_figure(tables: list[list[dict[str, float]]], rows: list[dict[str, Any]]) -> Any:
    """Poisson family: two sweeps of the radius, and linear maps on ever finer grids."""
    figure, axes = new_figure(3, width=4.7, height=4.1)
    risk_panels(axes[0, :2], tables, "data units")
    axis = axes[0, 2]
    for family, marker in (("gaussian", "s"), ("poisson", "o")):
        chosen = [row for row in rows if row["family"] == family]
        members = sorted({row["members"] for row in chosen})
        largest = [
            max(row["gap_over_range"] for row in chosen if row["members"] == count)
            for count in members
        ]
        axis.plot(members, np.maximum(largest, 1e-12), f"{marker}-", mfc="none", label=family)
    axis.plot(members, [1 / (count - 1) for count in members], color="0.5", lw=4, alpha=0.4,
              label="bound: 1 / (members - 1)")  # fmt: skip
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="members on a grid of the range",
        ylabel="gap (hull - own) / range of the losses",
        title="linear map, one sample: grids only",
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle(
        "Noise Poisson(p x) / p with p in a range, soft-thresholding: the family and its hull"
    )
    return figure


def run(config: Config, out: Path) -> list[Check]:
    """Compute sweeps and gaps, write tables and figures to `out`, return the checks."""
    made = provenance("noise-models", config)
    sweeps = {
        family: [sweep(config, family, count) for count in (1, config.samples)]
        for family in ("gaussian", "poisson")
    }
    gaps, refined = gap_rows(config), refinement_rows(config)
    tables = {
        **{
            f"{family}_{name}": rows
            for family, pair in sweeps.items()
            for name, rows in zip(("one_sample", "samples"), pair, strict=True)
        },
        "gap": gaps,
        "refinement": refined,
    }
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
        write_json(out / f"{name}.json", {**made, "rows": rows})
    save_figure(out / "noise_models", gaussian_figure(sweeps["gaussian"], gaps))
    save_figure(out / "poisson", poisson_figure(sweeps["poisson"], refined))
    checks = [
        *family_checks("gaussian", sweeps["gaussian"]),
        *gaussian_checks(config, sweeps["gaussian"]),
        *gap_checks(gaps),
        *family_checks("poisson", sweeps["poisson"]),
        *linear_checks(config, refined),
    ]
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    for family, pair in sweeps.items():
        for rows in pair:
            row = widest(rows)
            print(
                f"{family}, {row['samples']} sample(s), radius {row['radius']:.3f}: common "
                f"{row['common']:.4f} <= own {row['own']:.4f} < hull = dual {row['hull']:.4f}"
            )
    return checks
