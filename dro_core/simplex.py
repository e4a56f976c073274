"""Optimal transport plans by POT's network simplex, solved again until they are optimal.

The simplex takes reduced costs within about 1e-14 of the largest cost for zero. One far pair, or a
high price of moving x, hides the rest below that.
"""

from __future__ import annotations

import numpy as np

from dro_core._validation import Array

#: A plan whose cost is above its lower value by this relative difference is solved again, or kept.
SOUGHT, ALLOWED = 1e-12, 1e-7
#: Times a problem is solved at most.
ROUNDS = 6
_EPS = float(np.finfo(np.float64).eps)


def optimal_plan(a: Array, b: Array, cost: Array) -> tuple[Array, Array, Array]:
    r"""(plan, f, g) of :math:`\min\langle c,\pi\rangle` with marginals a, b.

    An optimal plan seldom pays the largest costs: they are cut, :math:`\min(c, k)`, at four times
    the largest one that the last plan pays, which makes the reduced costs that count as zero
    smaller. Potentials of the cut problem are feasible for the whole one, and
    :math:`\sum\pi_{ij}(c_{ij} - f_i - g_j)` is what the plan costs too much at most.

    Parameters
    ----------
    a, b : (N,), (M,) arrays
        Non-negative masses, both of total one.
    cost : (N, M) array
        Non-negative.

    Raises
    ------
    ArithmeticError
        If no plan is found whose excess is below a relative `ALLOWED`.
    """
    import ot

    best, least, cut = None, np.inf, float(cost.max()) or 1.0
    for _ in range(ROUNDS):
        plan, log = ot.emd(
            a, b, np.minimum(cost, cut) / cut, numItermax=10**9, log=True, center_dual=False,
            check_marginals=False,
        )  # fmt: skip
        if log["result_code"] != 1:
            raise ArithmeticError(f"POT found no optimal plan: {log['warning']}")
        f, g = _feasible(cut * log["u"], a, b, cost)
        paid = np.where(plan > 0, cost, 0.0)
        value = float(np.vdot(plan, cost))
        excess = float((plan * np.maximum(cost - f[:, None] - g, 0.0)).sum())
        if excess < least:
            best, least, size = (plan, f, g), excess, value
        if excess <= SOUGHT * value or float(paid.max()) > cut / 8:
            break
        cut = 4 * float(paid.max())
    if best is None or least > ALLOWED * size + 64 * _EPS * cut:
        raise ArithmeticError(...)
    return best


def _feasible(f: Array, a: Array, b: Array, cost: Array) -> tuple[Array, Array]:
    """Potentials with f + g <= c between atoms with mass, from the first one."""
    g = (cost[a > 0] - f[a > 0, None]).min(axis=0)
    return (cost[:, b > 0] - g[b > 0]).min(axis=1), g
