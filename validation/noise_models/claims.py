"""What holds of both families: order, duality, certificates, and the gap that vanishes."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import integrate

from validation.noise_models.choices import FINE
from validation.noise_models.families import soft_threshold, soft_threshold_loss
from validation.noise_models.settings import Config
from validation.results import Check, at_least, at_most
from validation.tables import column


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
        at_least(
            f"{name}, 1 sample: gap (hull - best single member) / hull",
            one["gap"] / one["hull"],
            0.1,
        ),
        at_least(f"{name}, 1 sample, {FINE} members: largest gap / hull", range_gap, 0.1),
        at_least(
            f"{name}, {many['samples']} samples: gap (hull - own members) / hull",
            many["gap"] / many["hull"],
            1e-3,
        ),
        at_least(
            f"{name}, there: (hull - common member) / hull", 1 - many["common"] / many["hull"], 0.01
        ),
        at_most(
            f"{name}: |hull / dual - 1|, dual at all its kinks", abs(hull / dual - 1).max(), 1e-12
        ),
        at_most(
            f"{name}: |hull / linear programme (HiGHS) - 1|", abs(hull / linear - 1).max(), 1e-9
        ),
        at_most(f"{name}: largest (own - hull) / hull", ((own - hull) / hull).max(), 1e-12),
        at_most(f"{name}: largest (common - own) / hull", ((common - own) / hull).max(), 1e-9),
        at_most(
            f"{name}: largest gap / (max weight x range of losses)",
            (column(rows, "gap") / column(rows, "gap_bound")).max(),
            1.0,
        ),
        at_least(f"{name}: certificates that hold, share", column(rows, "certified").mean(), 1.0),
    ]


def gaussian_checks(config: Config, tables: list[list[dict[str, float]]]) -> list[Check]:
    """What holds for the Gaussian family beside `family_checks`."""
    rows = [row for table in tables for row in table]
    programming, hull = column(rows, "own_by_dynamic_programming"), column(rows, "hull")
    return [
        at_most(
            "gaussian: own, branch and bound - dynamic programme, / hull",
            (np.abs(programming - column(rows, "own")) / hull).max(),
            1e-9,
        ),
        at_most("gaussian: closed-form losses against quadrature", quadrature_error(config), 1e-10),
    ]


def gap_checks(rows: list[dict[str, float]]) -> list[Check]:
    """Shapley-Folkman: the gap is below 1/N of the range, so it vanishes."""
    share = (column(rows, "gap_over_range") / column(rows, "bound_over_range")).max()
    last = rows[-1]
    return [
        at_most("gap x samples / range of losses, 1 to all samples", share, 1.0),
        at_least(
            "smallest (hull - own) / hull, all samples and radii",
            column(rows, "smallest_gap").min(),
            -1e-12,
        ),
        at_most(
            f"gap / range with {last['samples']} samples",
            last["gap_over_range"],
            1 / last["samples"],
        ),
        at_most(
            "there, relative to a single sample's gap",
            last["gap_over_range"] / rows[0]["gap_over_range"],
            0.9,
        ),
        at_least(
            "all samples: certificates that hold, share", column(rows, "certified").mean(), 1.0
        ),
    ]
