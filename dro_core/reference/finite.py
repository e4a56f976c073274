"""Worst cases on a finite support by linear programmes, and without mixing by branch and bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from dro_core.checks import (
    InfeasibleRadiusError,
    as_radius,
    as_real_array,
    as_weights,
    check_option,
)
from dro_core.described import Described
from dro_core.optional import needed
from dro_core.types import Array, Indices, Real


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceSolution(Described):
    """Optimum reported by an outside solver.

    Attributes
    ----------
    risk : float
        Optimal value.
    multiplier : float
        Dual variable of the transport budget.
    plan : (N, M) array or None
        Optimal plan, for the linear programmes.
    """

    risk: float
    multiplier: float
    plan: Array | None = None


def _programme(
    loss: ArrayLike,
    cost: ArrayLike,
    radius: Real,
    weights: ArrayLike | None,
    admissible: ArrayLike | None,
) -> tuple[Array, Array, float, Array]:
    gain, price = as_real_array(loss, "loss"), as_real_array(cost, "cost", finite=False)
    if gain.ndim != 2 or gain.size == 0 or price.shape != gain.shape:
        raise ValueError(
            f"loss, cost: non-empty (N, M) arrays of one shape are needed, given {gain.shape} and "
            f"{price.shape}"
        )
    if (price < 0).any():
        raise ValueError(f"cost: {price.min()} is negative; every entry must be >= 0")
    if admissible is not None:
        mask = np.asarray(admissible)
        if mask.dtype != np.bool_ or mask.shape != gain.shape:
            raise ValueError(
                f"admissible: a boolean array of shape {gain.shape} is needed, given dtype "
                f"{mask.dtype} and shape {mask.shape}"
            )
        price = np.where(mask, price, np.inf)
    return gain, price, as_radius(radius) ** 2, as_weights(weights, len(gain))


def finite_worst_case_highs(
    loss: ArrayLike,
    cost: ArrayLike,
    radius: Real,
    *,
    weights: ArrayLike | None = None,
    admissible: ArrayLike | None = None,
) -> ReferenceSolution:
    r"""The linear programme of `finite_worst_case`, solved by HiGHS through scipy.

    Parameters, shapes and units as in `finite_worst_case` (arrays only).

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius or weights.
    RuntimeError
        If HiGHS finds no optimum (an empty ball, for instance); with its message.
    """
    from scipy.optimize import linprog

    gain, price, budget, mu = _programme(loss, cost, radius, weights, admissible)
    i, j = np.nonzero(np.isfinite(price))
    gain_unit = float(np.abs(gain).max()) or 1.0
    price_unit = budget or 1.0
    variables = np.arange(len(i))
    rows = sparse.csr_array((np.ones(len(i)), (i, variables)), shape=(len(mu), len(i)))
    result = linprog(
        -gain[i, j] / gain_unit,
        A_ub=sparse.csr_array(price[i, j][None, :] / price_unit),
        b_ub=[budget / price_unit],
        A_eq=rows,
        b_eq=mu,
        bounds=(0, None),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.status != 0:
        raise RuntimeError(f"HiGHS found no optimum: {result.message}")
    plan = np.zeros(gain.shape)
    plan[i, j] = result.x
    multiplier = -float(result.ineqlin.marginals[0]) * gain_unit / price_unit
    return ReferenceSolution(-float(result.fun) * gain_unit, multiplier, plan)


def finite_worst_case_cvxpy(
    loss: ArrayLike,
    cost: ArrayLike,
    radius: Real,
    *,
    weights: ArrayLike | None = None,
    admissible: ArrayLike | None = None,
    solver: str = "HIGHS",
) -> ReferenceSolution:
    """The same linear programme, written in cvxpy; `solver` is any LP solver cvxpy knows.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius or weights, or a solver that is not installed.
    RuntimeError
        If the solver finds no optimum.
    """
    cp = needed("cvxpy", "finite_worst_case_cvxpy")
    gain, price, budget, mu = _programme(loss, cost, radius, weights, admissible)
    check_option(solver, "solver", cp.installed_solvers())
    allowed = np.isfinite(price)
    plan = cp.Variable(gain.shape, nonneg=True)
    spent = cp.sum(cp.multiply(np.where(allowed, price, 0.0), plan)) <= budget
    constraints = [cp.sum(plan, axis=1) == mu, spent]
    if not allowed.all():
        constraints.append(cp.multiply((~allowed).astype(np.float64), plan) == 0)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(gain, plan))), constraints)
    problem.solve(solver=solver)
    if problem.status != cp.OPTIMAL:
        raise RuntimeError(f"{solver} found no optimum: {problem.status}")
    return ReferenceSolution(float(problem.value), float(spent.dual_value), plan.value)


@dataclass(frozen=True, eq=False, repr=False)
class PureChoice(Described):
    """Best choice of one candidate per sample, without mixing.

    Attributes
    ----------
    risk : float
        Expected loss of the choice.
    choice : (N,) integer array
        The candidate of each sample.
    transport_cost : float
        Expected cost of the choice; at most radius².
    """

    risk: float
    choice: Indices
    transport_cost: float


#: HiGHS stops at an absolute gap of 1e-6: gains are scaled so that this is 1e-12 of their range.
_GAIN_SCALE = 1e6


def finite_worst_case_pure(
    loss: ArrayLike,
    cost: ArrayLike,
    radius: Real,
    *,
    weights: ArrayLike | None = None,
    admissible: ArrayLike | None = None,
) -> PureChoice:
    r"""The best plan of `finite_worst_case` that splits no sample: a multiple-choice knapsack.

    .. math:: \max_{k(1), \dots, k(N)} \sum_i \mu_i\ell_{i,k(i)}\quad\text{s.t.}\quad
              \sum_i \mu_i c_{i,k(i)} \le \rho^2

    With the members of a noise family as candidates (`dro_core.noise`) this is the worst case over
    the family itself, which is not convex; its dual is that of the convex hull. The value lies
    below `finite_worst_case` by at most
    :math:`\max_i\mu_i(\max_k\ell_{ik} - \min_k\ell_{ik})`. HiGHS' branch and bound through
    scipy: for tests and validation, up to some thousand entries.

    Parameters, shapes and units as in `finite_worst_case` (arrays only).

    Returns
    -------
    PureChoice
        `.risk`, `.choice`, `.transport_cost`, recomputed from the choice; it meets the budget to
        rounding (a relative 1e-12).

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius or weights, or a sample without admissible candidate.
    InfeasibleRadiusError
        If even the cheapest choice exceeds the budget; carries the smallest feasible radius.
    RuntimeError
        If HiGHS finds no optimum, with its message.
    """
    from scipy.optimize import LinearConstraint, milp

    gain, price, budget, mu = _programme(loss, cost, radius, weights, admissible)
    rows = np.arange(len(mu))
    cheapest = price.min(axis=1)
    if not np.isfinite(cheapest).all():
        raise ValueError(
            f"admissible: sample {int(np.argmax(cheapest))} has no admissible candidate of finite "
            "cost; every sample needs one"
        )
    least = float(mu @ cheapest)
    if least > budget * (1 + 1e-12):
        raise InfeasibleRadiusError(
            f"radius: {budget**0.5} leaves the ambiguity ball empty: the cheapest candidates of "
            f"all samples together need {least**0.5}, the smallest feasible radius",
            least**0.5,
        )
    limit = max(budget * (1 + 1e-12) - least, 0.0)  # of what a choice costs above the cheapest
    with np.errstate(invalid="ignore"):
        extra = np.where(mu[:, None] > 0, mu[:, None] * (price - cheapest[:, None]), 0.0)
    i, k = np.nonzero(np.isfinite(price) & (extra <= limit))
    extra, value = extra[i, k] / (limit or 1.0), mu[i] * gain[i, k]
    # relative to the best of each sample, so that common offsets do not drown the differences
    best = np.full(len(mu), -np.inf)
    np.maximum.at(best, i, value)
    value = value - best[i]
    unit = float(-value.min()) or 1.0
    one_each = sparse.csr_array((np.ones(len(i)), (i, np.arange(len(i)))), shape=(len(mu), len(i)))
    constraints = [LinearConstraint(one_each, 1.0, 1.0), LinearConstraint(extra[None], ub=1.0)]
    for _ in range(1000):
        result = milp(
            -value * (_GAIN_SCALE / unit),
            integrality=np.ones(len(i)),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if result.status != 0:
            raise RuntimeError(f"HiGHS found no optimum: {result.message}")
        taken = result.x > 0.5
        if float(extra[taken].sum()) <= 1.0 + 1e-15:
            choice = k[taken]
            return PureChoice(
                float(mu @ gain[rows, choice]), choice, float(mu @ price[rows, choice])
            )
        # over the budget, within HiGHS' tolerance of 1e-6: exclude exactly this choice
        cut = LinearConstraint(taken[None].astype(np.float64), ub=len(mu) - 1.0)
        constraints.append(cut)
    raise RuntimeError("HiGHS found 1000 choices in turn that exceed the budget by its tolerance")
