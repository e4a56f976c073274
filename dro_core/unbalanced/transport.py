"""Unbalanced transport between two discrete measures, exact and certified."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from dro_core.checks import as_non_negative, as_positive_integer
from dro_core.described import Described, Drawn
from dro_core.read_only import protect_arrays
from dro_core.threads import single_threaded
from dro_core.types import Array, Integer, Real, SparseArray, Table
from dro_core.unbalanced.costs import CostTable
from dro_core.unbalanced.problem import (
    MASS_TOLERANCE,
    Marginal,
    UnbalancedProblem,
    as_masses,
    as_sides,
    as_weight,
    check_finite_value,
    check_totals,
)
from dro_core.unbalanced.solver import solve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Cost tables of at most so many entries are solved with one BLAS thread.
SMALL = 2**20


@dataclass(frozen=True, repr=False)
class UnbalancedCertificate(Described):
    r"""What `UnbalancedTransport.verify` recomputed from the plan, the potentials and the cost.

    Attributes
    ----------
    value : float
        The value that was reported.
    primal_value : float
        Objective of the plan, entry by entry: no smaller than the optimum.
    dual_value : float
        The dual at v and the smaller of u and a new c-transform of v: no larger than the optimum.
    gap : float
        (primal_value - dual_value) / size.
    violation : float
        Largest :math:`u_i + v_j - c_{ij}` of the reported potentials, relative to the largest
        cost in size.
    marginal_error : float
        Largest error of a fixed marginal, relative to the total mass; infinite if an entry of the
        plan is negative.
    size : float
        :math:`\langle|c|,\pi\rangle` plus both divergences, plus a millionth of the cost of
        removing all mass (w times the mass of a free side, the largest cost in size times that of
        a fixed one).
    """

    value: float
    primal_value: float
    dual_value: float
    gap: float
    violation: float
    marginal_error: float
    size: float

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether plan and potentials are feasible and enclose the value, relative to `size`."""
        slack = rtol * self.size
        return (
            abs(self.value - self.primal_value) <= slack
            and abs(self.primal_value - self.dual_value) <= slack
            and self.violation <= rtol
            and self.marginal_error <= rtol
        )


@dataclass(frozen=True, eq=False, repr=False)
class UnbalancedTransport(Drawn):
    r"""Optimum of unbalanced transport.

    Attributes
    ----------
    value : float
        Objective of `plan`, in units of cost times mass.
    plan : (N, M) scipy sparse array
        Its support is a forest: fewer than N + M entries.
    potentials : tuple of an (N,) and an (M,) array
        u and v with :math:`u_i + v_j \le c_{ij}` and u the c-transform of v, in units of the cost.
        Densities of the optimal marginals: :math:`e^{-u/w}`, :math:`e^{-v/w}` where free.
    mass : float
        Total mass of the plan.
    gap : float
        Relative duality gap, as in `UnbalancedCertificate`.
    dual_value : float
        The semi-dual at v; `value` minus the gap times its size.
    converged : bool
        Whether the gap is at most the `rtol` asked for.
    steps : int
        Interior-point steps at full size.
    divergence : (str, str)
    weight : float
    a, b : (N,) and (M,) arrays
    cost : (N, M) array
        As given; not copied, and the callable where that was given.
    """

    described_by = (
        "value",
        "dual_value",
        "gap",
        "mass",
        "converged",
        "steps",
        "divergence",
        "weight",
        "plan",
    )

    value: float
    plan: SparseArray
    potentials: tuple[Array, Array]
    mass: float
    gap: float
    dual_value: float
    converged: bool
    steps: int
    divergence: tuple[str, str]
    weight: float
    a: Array = field(repr=False)
    b: Array = field(repr=False)
    cost: Array = field(repr=False)

    def __post_init__(self) -> None:
        protect_arrays(self)

    def verify(self) -> UnbalancedCertificate:
        """Recompute both values and the feasibility of plan and potentials, from the cost."""
        problem = UnbalancedProblem(self.a, self.b, self.divergence, self.weight)
        costs, plan, (u, v) = (
            CostTable(self.cost, self.plan.shape),
            self.plan.tocoo(),
            self.potentials,
        )
        primal, size, error = problem.primal(plan, costs.at(*plan.coords), costs.largest)
        largest = costs.transform(v)
        violation = max(0.0, float((u - largest).max()) / (costs.largest or 1.0))
        dual = problem.dual(np.minimum(u, largest), v)
        gap = (primal - dual) / size
        return UnbalancedCertificate(self.value, primal, dual, gap, violation, error, size)

    def _draw(self, ax: Axes) -> None:
        """Share of every atom's mass that is transported, of both measures."""
        for axis, (mass, label) in enumerate(((self.a, "first"), (self.b, "second"))):
            moved = np.asarray(self.plan.sum(axis=1 - axis), np.float64)
            share = np.divide(moved, mass, out=np.zeros_like(moved), where=mass > 0)
            ax.plot(np.sort(share), np.linspace(0, 1, len(share)), label=f"{label} measure")
        ax.axvline(1.0, color="k", linewidth=1, label="all of it")
        ax.set_xlabel("mass after / mass before of an atom")
        ax.set_ylabel("share of the atoms below")
        ax.legend()


class NotConvergedError(RuntimeError):
    """The gap stayed above `rtol`; `result` is the best feasible pair, with its gap."""

    def __init__(self, message: str, result: UnbalancedTransport) -> None:
        super().__init__(message)
        self.result = result


def unbalanced_ot(
    cost: Table,
    a: ArrayLike,
    b: ArrayLike,
    divergence: str | Sequence[str] = "kl",
    *,
    weight: Real = 1.0,
    rtol: Real = 1e-9,
    max_steps: Integer = 200,
    raise_unconverged: bool = True,
) -> UnbalancedTransport:
    r"""Unregularised unbalanced optimal transport between finite measures, with a certificate.

    .. math:: \inf_{\pi\ge0}\ \langle c, \pi\rangle + D_1(\pi_0|a) + D_2(\pi_1|b),\qquad
              D(r|a) = w\sum_i r_i\log\frac{r_i}{a_i} - r_i + a_i
              \quad\text{or}\quad r = a

    Parameters
    ----------
    cost : (N, M) array, or callable ``f(rows: slice) -> (len(rows), M) array``
        Finite, of either sign. A callable is asked for blocks of rows, again and again for the same
        ones; nothing of size N x M is stored, unless the short list of arcs does not lead to a gap
        of 1e-13. For points: ``lambda rows: cdist(y[rows], x, "sqeuclidean")``.
    a, b : (N,) and (M,) arrays
        Positive masses of any total; equal totals if both marginals are fixed.
    divergence : "kl", "balanced", or a pair of them
        How the first and the second marginal are held: by KL, or fixed.
    weight : float
        w > 0 multiplies the divergences; in units of the cost. The value is w times that of the
        cost c/w at weight one.
    rtol : float
        The relative gap that counts as converged.
    max_steps : int
        Most interior-point steps (10 to 40 are usual).
    raise_unconverged : bool
        Whether a gap above `rtol` is an error; otherwise it is in the result (`.converged`).

    Returns
    -------
    UnbalancedTransport
        `.value`, `.plan` (sparse), `.potentials`, `.mass`, `.gap`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, weights, or an unknown divergence.
    OverflowError
        If the optimal plan has more mass than the largest float (a very negative cost over w).
    NotConvergedError
        If the gap is above `rtol`; carries the result.

    Notes
    -----
    Source: ISUM paper, Eq. 5; Chizat, Peyré, Schmitzer and Vialard (2018). Solver: this project's,
    see the module. A mass or a plan entry below 1e-308 is zero, as everywhere in double precision;
    the potentials do not suffer.

    Examples
    --------
    Two clusters with masses 1/4 and 3/4 each way round; little mass crosses:

    >>> from dro_core.unbalanced import unbalanced_ot
    >>> found = unbalanced_ot([[0.0, 9.0], [9.0, 0.0]], [0.25, 0.75], [0.75, 0.25])
    >>> found.plan.toarray().round(3)
    array([[0.433, 0.   ],
           [0.   , 0.433]])
    >>> round(found.value, 4), found.verify().holds()
    (0.2679, True)
    """
    a, b = as_masses(a, "a"), as_masses(b, "b")
    costs = CostTable(cost, (len(a), len(b)))
    sides, w = as_sides(divergence), as_weight(weight)
    tolerance = as_non_negative(rtol, "rtol")
    steps = as_positive_integer(max_steps, "max_steps")
    check_totals(a, b, sides)
    problem = UnbalancedProblem(a, b, sides, w)
    with single_threaded(len(a) * len(b), SMALL):
        plan, u, v, taken = _solve(problem, costs, steps)
    entries = plan.tocoo()
    primal, size, error = problem.primal(entries, costs.at(*entries.coords), costs.largest)
    dual = problem.dual(u, v)
    gap = (check_finite_value(primal, "cost, weight") - dual) / size
    converged = gap <= tolerance and error <= MASS_TOLERANCE
    result = UnbalancedTransport(
        primal,
        plan,
        (u, v),
        float(plan.sum()),
        gap,
        dual,
        converged,
        taken,
        sides,
        w,
        a,
        b,
        cast(Array, costs.source),
    )
    if not converged and raise_unconverged:
        raise NotConvergedError(
            f"rtol: the relative gap is {gap:.3g} after {taken} steps, above {tolerance:g}; likely "
            "causes: max_steps too small, or costs over the weight so large that their rounding is "
            "not small; the result is in .result (raise_unconverged=False returns it)",
            result,
        )
    return result


def _solve(
    problem: UnbalancedProblem, costs: CostTable, max_steps: int
) -> tuple[SparseArray, Array, Array, int]:
    """Plan, potentials and steps, from the problem of least cost 0, weight 1 and unit masses.

    Adding k to the cost and scaling the masses to totals A and B scales the plan by S: the total of
    a fixed side, or (A B e^-k)^(1/2) if both are free. The potentials shift by k in all, a free one
    by log(A/S).
    """
    first, second = problem.sides()
    totals = float(first.mass.sum()), float(second.mass.sum())
    rows, columns = (
        Marginal(side.mass / total, side.free)
        for side, total in zip((first, second), totals, strict=True)
    )
    w = problem.weight
    log_a, log_b, constant = math.log(totals[0]), math.log(totals[1]), costs.smallest / w
    if first.free and second.free:
        scale = (log_a + log_b - constant) / 2
    else:
        scale = log_a if second.free else log_b
    if not scale < math.log(np.finfo(np.float64).max):
        raise OverflowError(
            f"cost, weight: the least cost is {constant:g} weights, so the optimal plan has more "
            "mass than the largest float; raise the weight, or add a constant to the cost"
        )
    moved = log_b - scale if second.free else constant - (log_a - scale if first.free else 0.0)
    table = costs.normalised(w)
    if not math.isfinite(table.largest):
        raise OverflowError("cost, weight: the cost over the weight exceeds the largest float")
    best, steps = solve(table, rows, columns, max_steps)
    v = w * (best.v + moved)
    plan = sparse.csr_array(best.plan * math.exp(scale))
    return plan, costs.transform(v), v, steps
