"""Plans and potentials of a problem: sorted quantiles, the network simplex, or Sinkhorn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dro_core.optional import needed
from dro_core.simplex import optimal_plan
from dro_core.types import Array, Indices
from dro_core.wasserstein.problem import TransportProblem
from dro_core.wasserstein.quantiles import running_sums, staircase, step_lengths

#: Sinkhorn iterations per condition, and the error of the marginals at which they stop.
SINKHORN_ITERATIONS, SINKHORN_STOP = 10_000, 1e-9
#: Mass that a Sinkhorn plan may miss without a warning before it is rounded to the marginals.
SINKHORN_MISSED = 1e-6


class SinkhornWarning(RuntimeWarning):
    """Sinkhorn's iteration stopped before its plan had the marginals."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Entries of a plan, costs per condition, and potentials when asked for."""

    entries: tuple[Indices, Indices, Array]
    costs: Array
    potentials: Callable[[], tuple[Array, Array]]
    entropic_cost: float | None = None


def solve_sorted(problem: TransportProblem) -> Solution:
    """All conditions of a scalar problem in one pass."""
    first, second = problem.quantiles
    if np.array_equal(first.start, second.start) and np.array_equal(first.level, second.level):
        i = j = np.arange(len(first.order))
        length, owner = step_lengths(first.level, first.start), first.label
        kept: Any = slice(None)
    else:
        i, j, start, length = staircase(first, second)
        owner = np.repeat(np.arange(len(problem.masses)), np.diff(start))
        kept = length > 0
    i, j, length, owner = i[kept], j[kept], length[kept], owner[kept]
    cost = problem._power(np.abs(first.y[i] - second.y[j]))
    per_condition = np.bincount(owner, length * cost, len(problem.masses)).astype(np.float64)
    entries = first.order[i], second.order[j], length * problem.masses[owner]
    return Solution(entries, per_condition, lambda: _sorted_potentials(problem))


def _sorted_potentials(problem: TransportProblem) -> tuple[Array, Array]:
    """Potentials with f + g = c on every cell of the staircase: each step determines one.

    Feasible elsewhere, because the cost is a Monge array.
    """
    first, second = problem.quantiles
    i, j, start, _ = staircase(first, second)
    cost = problem._power(np.abs(first.y[i] - second.y[j]))
    change = np.diff(cost, prepend=0.0)
    step = np.diff(i, prepend=-1) > 0
    change[start[:-1]] = 0.0
    sums = running_sums(np.where(step, change, 0.0), start)
    begin = np.repeat(cost[start[:-1]], np.diff(start))
    f, g = np.zeros(len(problem.y0)), np.zeros(len(problem.y1))
    f[first.order[i]] = sums
    g[second.order[j]] = begin + running_sums(np.where(step, 0.0, change), start)
    return f, g


def solve_groups(problem: TransportProblem, epsilon: float | None) -> Solution:
    """One problem per condition by POT: the network simplex, or Sinkhorn when `epsilon` is given.

    Weights are normalised and costs divided by the largest within each condition.
    """
    f, g = np.zeros(len(problem.y0)), np.zeros(len(problem.y1))
    parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    costs, entropic = np.zeros(len(problem.masses)), 0.0
    for k, (rows, columns) in enumerate(problem.groups()):
        cost = problem.block(rows, columns)
        scale = float(cost.max()) or 1.0
        cost /= scale
        a, b = problem.weights0[rows], problem.weights1[columns]
        a, b = a / a.sum(), b / b.sum()
        if epsilon is None:
            plan, own_f, own_g = optimal_plan(a, b, cost)
        else:
            plan, own_f, own_g, divergence = _sinkhorn(a, b, cost, epsilon / scale)
            entropic += problem.masses[k] * epsilon * divergence
        f[rows], g[columns] = scale * own_f, scale * own_g
        costs[k] = scale * np.vdot(plan, cost)
        i, j = plan.nonzero()
        for part, entry in zip(
            parts, (rows[i], columns[j], problem.masses[k] * plan[i, j]), strict=True
        ):
            part.append(entry)
    entries = np.concatenate(parts[0]), np.concatenate(parts[1]), np.concatenate(parts[2])
    total = None if epsilon is None else float(problem.masses @ costs) + entropic
    return Solution(entries, costs, lambda: (f, g), total)


def _sinkhorn(a: Array, b: Array, cost: Array, epsilon: float) -> tuple[Array, Array, Array, float]:
    """(plan, potentials, KL of the plan against the product) by POT, in the log domain.

    The plan is rounded to the marginals, so that its cost is never below the distance.
    """
    from scipy.special import logsumexp, xlogy

    ot = needed("ot", "a Sinkhorn plan")

    here, there = np.flatnonzero(a), np.flatnonzero(b)
    inner = np.ix_(here, there)
    with np.errstate(over="ignore", invalid="ignore"):  # POT also exponentiates the potentials
        some, log = ot.sinkhorn(
            a[here],
            b[there],
            cost[inner],
            epsilon,
            method="sinkhorn_log",
            log=True,
            warn=False,
            numItermax=SINKHORN_ITERATIONS,
            stopThr=SINKHORN_STOP,
        )
    if not np.isfinite(some).all():
        raise ValueError(
            f"epsilon: {epsilon:.3g} of the largest cost is too small for Sinkhorn's iteration in "
            "floats; use a larger one, or method='exact'"
        )
    missed = float(
        max(np.abs(some.sum(axis=1) - a[here]).sum(), np.abs(some.sum(axis=0) - b[there]).sum())
    )
    if missed > SINKHORN_MISSED:
        warnings.warn(
            f"sinkhorn has not converged in {SINKHORN_ITERATIONS} iterations: its plan missed "
            f"{missed:.2g} of the mass of a condition and was rounded to the marginals; verify() "
            "brackets the distance, a larger epsilon or method='exact' narrows that",
            SinkhornWarning,
            stacklevel=5,
        )
    some = _rounded(some, a[here], b[there])
    g = epsilon * (log["log_v"] - np.log(b[there]))
    f = -epsilon * logsumexp((g - cost[:, there]) / epsilon, b=b[there], axis=1)
    g = -epsilon * logsumexp((f[here, None] - cost[here]) / epsilon, b=a[here, None], axis=0)
    plan = np.zeros_like(cost)
    plan[inner] = some
    product = np.outer(a[here], b[there])
    divergence = float((xlogy(some, some / product) - some + product).sum())
    return plan, f, g, divergence


def _rounded(plan: Array, a: Array, b: Array) -> Array:
    """A plan with these marginals that takes no more from the given one than they force.

    Rows, then columns with too much are scaled down; what is missing is added as a product.
    Source: Altschuler, Weed and Rigollet (NeurIPS 2017), algorithm 2.
    """
    for axis, wanted in ((1, a), (0, b)):
        sums = plan.sum(axis=axis)
        share = np.minimum(1.0, wanted / np.where(sums > 0, sums, 1.0))
        plan = plan * (share[:, None] if axis == 1 else share[None, :])
    missing = a - plan.sum(axis=1), b - plan.sum(axis=0)
    left, right = (np.maximum(part, 0.0) for part in missing)
    total = max(float(left.sum()), float(right.sum()))
    return plan + np.outer(left, right) / total if total > 0 else plan
