"""Optimal transport plans by POT's network simplex, solved again until they are optimal.

The simplex takes reduced costs below about 1e-14 of the largest cost for zero: one far pair, or a
high price of moving x, hides the rest.
"""

from __future__ import annotations

import numpy as np

from dro_core._validation import Array

#: Relative excess over the lower value at which a plan is optimal, and above which it is refused.
SOUGHT, REFUSED = 1e-12, 1e-7
#: Rounding of the potentials that is forgiven.
ROUNDINGS = 16 * float(np.finfo(np.float64).eps)
#: Solves at most; two suffice unless costs of three very different sizes meet.
ROUNDS = 6


def optimal_plan(a: Array, b: Array, cost: Array) -> tuple[Array, Array, Array]:
    r"""(plan, f, g): :math:`\min\langle c,\pi\rangle` with marginals a, b, and potentials.

    Iterative refinement: potentials are made feasible, the reduced costs
    :math:`r_{ij} = c_{ij} - f_i - g_j \ge 0` take the place of the costs, and the simplex runs
    again
    on their scale. :math:`\langle r,\pi\rangle` is what a plan costs too much, at most. A cycle
    that improves a plan gives up min(N, M) of its costs for one new cost at most: what is above
    that is cut.

    Parameters
    ----------
    a, b : (N,), (M,) arrays
        Masses >= 0, both of total one.
    cost : (N, M) array
        Entries >= 0.

    Raises
    ------
    ArithmeticError
        If that excess stays above a relative 1e-7.
    """
    import ot

    longest = min(cost.shape)
    f, reduced, cut, best = np.zeros(len(a)), cost, float(cost.max()), np.inf
    for _ in range(ROUNDS):
        plan, log = ot.emd(
            a, b, np.minimum(reduced, cut) / (cut or 1.0), numItermax=10**9, log=True,
            center_dual=False, check_marginals=False,
        )  # fmt: skip
        if log["result_code"] != 1:
            raise ArithmeticError(f"POT found no optimal plan: {log['warning']}")
        used = plan > 0
        f, g, reduced = _reduced(f + cut * log["u"], a, b, cost, longest * float(cost[used].max()))
        value, excess = float(np.vdot(plan, cost)), float(np.vdot(plan, reduced))
        rounding = ROUNDINGS * float(a @ np.abs(f) + b @ np.abs(g))
        if excess < best:
            best, found, allowed = excess, (plan, f, g), REFUSED * value + rounding
        if excess <= SOUGHT * value + rounding:
            break
        cut = longest * float(reduced[used].max())
    if best > allowed:
        raise ArithmeticError(
            f"network simplex: its best plan costs {value:.6g} and may cost {best:.2g} too much "
            f"(relative to a largest cost of {float(cost.max()):.2g}): costs too far apart in size"
        )
    return found


def _reduced(f: Array, a: Array, b: Array, cost: Array, cut: float) -> tuple[Array, Array, Array]:
    """Potentials from the first one, feasible between atoms with mass, and costs less both.

    Transforms with the costs that are cut where no mass moves keep the potentials that small.
    """
    table = np.minimum(cost, cut)
    for _ in range(2):
        g = (table[a > 0] - f[a > 0, None]).min(axis=0)
        f = (table[:, b > 0] - g[b > 0]).min(axis=1)
    level = float(a @ f)
    f, g = f - level, g + level
    return f, g, np.maximum(cost - f[:, None] - g, 0.0)
