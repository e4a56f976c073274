"""Optimal transport plans by POT's network simplex, solved again until they are optimal.

The simplex takes reduced costs below about 1e-14 of the largest cost for zero: one far pair, or a
high price of moving x, hides the rest.
"""

from __future__ import annotations

import numpy as np

from dro_core.optional import needed
from dro_core.types import EPS, Array

#: Relative excess over the lower value at which a plan is optimal, and above which it is refused.
SOUGHT, REFUSED = 3e-11, 1e-7
#: Rounding of the potentials that is forgiven.
ROUNDINGS = 16 * EPS
#: Solves at most; two or three do unless many sizes of cost meet.
ROUNDS = 8


def optimal_plan(a: Array, b: Array, cost: Array) -> tuple[Array, Array, Array]:
    r"""(plan, f, g): :math:`\min\langle c,\pi\rangle` with marginals a, b, and potentials.

    The reduced costs :math:`r_{ij} = c_{ij} - f_i - g_j \ge 0` prove that a plan costs at most
    :math:`\langle r,\pi\rangle` too much. While that is not small the simplex runs again on a
    finer scale. A cycle that improves a plan gives up min(N, M) of its costs for a new one at most,
    so costs above that are cut; where this gains nothing the reduced costs take the place of the
    costs (iterative refinement).

    Parameters
    ----------
    a, b : (N,), (M,) arrays
        Masses >= 0, both of total one.
    cost : (N, M) array
        Entries >= 0.

    Raises
    ------
    ArithmeticError
        If the excess stays above a relative 1e-7.
    """
    ot = needed("ot", "a transport plan between vectors")
    if not (a > 0).all() or not (b > 0).all():
        return _on_the_support(a, b, cost)
    longest, largest = min(cost.shape), float(cost.max())
    f, table, cut, best = np.zeros(len(a)), cost / (largest or 1.0), largest, np.inf
    for _ in range(ROUNDS):
        plan, log = ot.emd(
            a, b, table, numItermax=10**9, log=True, center_dual=False, check_marginals=False
        )
        if log["result_code"] != 1:
            raise ArithmeticError(f"POT found no optimal plan: {log['warning']}")
        _forget_rounding(plan, a, b)
        f, g = _feasible(f + cut * log["u"], a, cost)
        reduced = np.maximum(cost - f[:, None] - g, 0.0)
        value, excess = float(np.vdot(plan, cost)), float(np.vdot(plan, reduced))
        if value == 0.0:
            return plan, np.zeros(len(a)), np.zeros(len(b))
        rounding = ROUNDINGS * min(float(a @ np.abs(f) + b @ np.abs(g)), largest)
        if excess + rounding < best:
            best, least, found = excess + rounding, value, (plan, f, g)
        if best <= SOUGHT * least:
            break
        used = plan > 0
        paid = longest * float(cost[used].max())
        if paid < largest / 2:
            f, reduced, cut, largest = np.zeros(len(a)), cost, paid, paid
        elif excess <= rounding:
            break
        else:
            cut = longest * float(reduced[used].max())
        table = np.minimum(reduced, cut) / (cut or 1.0)
    if best > REFUSED * least:
        raise ArithmeticError(
            f"network simplex: the best plan found costs {least:.6g} and may cost {best:.2g} too "
            f"much: the costs, up to {float(cost.max()):.2g}, are too far apart in size"
        )
    return found


def _forget_rounding(plan: Array, a: Array, b: Array) -> None:
    """Zero what moves because masses are rounded: next to nothing of both of its ends."""
    rows, columns = np.nonzero(plan)
    little = plan[rows, columns] < ROUNDINGS * np.minimum(a[rows], b[columns])
    plan[rows[little], columns[little]] = 0.0


def _on_the_support(a: Array, b: Array, cost: Array) -> tuple[Array, Array, Array]:
    """The same where some atoms have no mass: their potentials are transforms of the others'.

    Lowered by their rounding, so that they bind nothing.
    """
    here, there = np.flatnonzero(a), np.flatnonzero(b)
    plan = np.zeros(cost.shape)
    plan[np.ix_(here, there)], f, g = optimal_plan(a[here], b[there], cost[np.ix_(here, there)])
    full, other = (cost[:, there] - g).min(axis=1), (cost[here] - f[:, None]).min(axis=0)
    full -= ROUNDINGS * np.abs(full)
    other -= ROUNDINGS * np.abs(other)
    full[here], other[there] = f, g
    return plan, full, other


def _feasible(f: Array, a: Array, cost: Array) -> tuple[Array, Array]:
    """Potentials with f + g <= c from the first one; the mean of f is zero."""
    f = f - float(a @ f)
    g = (cost - f[:, None]).min(axis=0)
    f = (cost - g).min(axis=1)
    level = float(a @ f)
    return f - level, g + level
