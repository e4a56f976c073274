"""Three versions of choosing a member, the dual, and sweeps over radii and sample sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dro_core import finite_worst_case
from dro_core.reference import finite_worst_case_highs, finite_worst_case_pure
from dro_core.types import Array
from validation.noise_models.families import Table, gaussian_table, poisson_table, variance_range
from validation.noise_models.settings import Config
from validation.results import progress

#: Members of the continuous range, where a single sample is enough to show the gap.
FINE = 2001


def best_common(table: Table, radius: float) -> float:
    """Largest mean loss of one member for all samples, within the budget."""
    affordable = table.cost.mean(axis=0) <= radius**2 * (1 + 1e-12)
    return float(table.loss.mean(axis=0)[affordable].max(initial=-np.inf))


def best_choices(table: Table, steps: npt.NDArray[np.signedinteger], budgets: Array) -> Array:
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


def gaussian_choices(config: Config, table: Table, radii: Array) -> Array:
    """`best_choices` of the Gaussian table: s² = k² units above the noise in the data."""
    unit = (config.largest_level / (config.members - 1)) ** 2
    spare = (np.asarray(radii) ** 2 - table.cost[:, 0].mean()) * len(table.cost) / unit
    return best_choices(table, np.arange(config.members) ** 2, np.floor(spare + 1e-9))


def dual_values(table: Table, radii: Sequence[float] | Array) -> Array:
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
