"""The conditional Wasserstein distance (Corollary 4.2.1): exact, relaxed or entropic."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from dro_core.checks import (
    as_non_negative,
    as_samples,
    as_scalar,
    as_weights,
    check_option,
    magnitude,
)
from dro_core.described import Drawn
from dro_core.read_only import ReadOnly, read_only
from dro_core.types import Array, Real, SparseArray
from dro_core.wasserstein.certificate import DistanceCertificate, cost_gap
from dro_core.wasserstein.grouping import as_text, equal_rows
from dro_core.wasserstein.problem import MASS_TOLERANCE, Difference, TransportProblem
from dro_core.wasserstein.solvers import Solution, solve_groups, solve_sorted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("exact", "relaxed", "sinkhorn")
#: Larger ground costs are refused: sums of them would overflow.
LARGEST_COST = 1e300


class ConditionalDistance(ReadOnly, Drawn):
    r"""A conditional Wasserstein distance with its plan and potentials.

    Attributes
    ----------
    value : float
        The distance, in units of y; `math.inf` where the X-marginals differ. For Sinkhorn the
        p-th root of the (unregularised) cost of its plan.
    method, p, beta, epsilon, tolerance
        As asked for.
    reason : str or None
        Why the value is infinite.
    conditions : (K, n) array
        Distinct x of positive mass, in order of appearance in x0, then x1. For the relaxed method
        those of x0.
    masses : (K,) array
        Their masses.
    per_condition : (K,) array
        Costs :math:`W_p(\mu(\cdot|x),\nu(\cdot|x))^p`; value^p is ``masses @ per_condition``. For
        the relaxed method the mean cost of what starts at x. Raises when the value is infinite,
        as do the next four.
    plan : (N0, N1) scipy sparse array
        The optimal plan, in the order of the samples.
    potentials : tuple of arrays (N0,), (N1,)
        Dual potentials f, g: :math:`f_i + g_j \le c_{ij}` wherever i may move to j (up to
        rounding), with equality on the plan. For Sinkhorn the entropic ones.
    moved_x : float
        Mass whose x moves by more than the tolerance: zero except for the relaxed method.
    mean_move_x : float
        :math:`\sum_{ij}\pi_{ij}\|x_i-x'_j\|`, in units of x.
    entropic_cost : float or None
        For Sinkhorn :math:`\sum\pi c + \varepsilon\,KL`, the objective that was minimised, KL
        against the product of the conditionals, condition by condition.
    marginal_error : float
        As in `DistanceCertificate`.
    """

    described_by = ("value", "method", "p", "epsilon", "beta", "reason", "conditions", "masses")

    def __init__(
        self,
        problem: TransportProblem,
        solution: Solution | None,
        method: str,
        epsilon: float | None,
    ) -> None:
        self._problem, self._solution = problem, solution
        self.method, self.epsilon = method, epsilon
        self.p, self.beta, self.tolerance = problem.p, problem.beta, problem.tolerance
        self.reason: str | None = None
        self.conditions, self.masses = problem.conditions, problem.masses
        if problem.difference is not None:
            self.reason, self.value = _reason(problem.difference, problem.tolerance), math.inf
        else:
            self._costs = self._solved.costs
            self.value = float(self.masses @ self._costs) ** (1 / self.p)
            if self.beta is not None:
                self._split_by_start()
        self._protect()

    def _split_by_start(self) -> None:
        """Conditions and costs of a relaxed plan: by the x where the mass starts."""
        problem, (i, j, mass) = self._problem, self._solved.entries
        label, rows = equal_rows(problem.x0)
        masses = np.bincount(label, problem.weights0)
        costs = np.bincount(label[i], mass * problem.costs(i, j), len(rows))
        here = masses > 0
        self.conditions, self.masses = rows[here], np.asarray(masses[here], np.float64)
        self._costs = np.asarray(costs[here] / masses[here], np.float64)

    @property
    def _solved(self) -> Solution:
        if self._solution is None:
            raise ValueError(f"there is no plan, for the distance is infinite: {self.reason}")
        return self._solution

    @property
    def per_condition(self) -> Array:
        """Costs of the conditions."""
        assert self._solved
        return self._costs

    @property
    def entropic_cost(self) -> float | None:
        """Sinkhorn's objective."""
        return self._solved.entropic_cost

    @cached_property
    def plan(self) -> SparseArray:
        """The optimal plan."""
        i, j, mass = self._solved.entries
        return sparse.csr_array(
            (mass, (i, j)), shape=(len(self._problem.y0), len(self._problem.y1))
        )

    @cached_property
    def potentials(self) -> tuple[Array, Array]:
        """Dual potentials."""
        f, g = self._solved.potentials()
        return read_only(f), read_only(g)

    @cached_property
    def _moves(self) -> tuple[Array, Array]:
        i, j, mass = self._solved.entries
        return mass, self._problem.pairs(i, j)[1]

    @property
    def moved_x(self) -> float:
        """Mass whose x moves."""
        mass, moved = self._moves
        return float(mass[moved > self.tolerance].sum())

    @property
    def mean_move_x(self) -> float:
        """Mean distance that x moves."""
        mass, moved = self._moves
        return float(mass @ moved)

    @property
    def marginal_error(self) -> float:
        """Total error of the worse of the two marginals."""
        problem = self._problem
        return max(
            float(np.abs(self.plan.sum(axis=axis) - weights).sum())
            for axis, weights in ((1, problem.weights0), (0, problem.weights1))
        )

    def verify(self) -> DistanceCertificate:
        """Recompute both costs and the marginals from the samples, the plan and the potentials."""
        problem = self._problem
        if math.isinf(self.value):
            masses = [
                float(
                    weights[
                        np.linalg.norm(x - problem.difference.x, axis=1) <= self.tolerance
                    ].sum()
                )
                for x, weights in ((problem.x0, problem.weights0), (problem.x1, problem.weights1))
                if problem.difference is not None
            ]
            differ = bool(masses) and abs(masses[0] - masses[1]) > MASS_TOLERANCE * max(masses)
            proved = math.inf if differ else 0.0  # the dual grows with the potential of one x
            return DistanceCertificate(self.value, math.inf, proved, 0.0, 0.0, math.inf)
        entries = self.plan.tocoo()
        costs = problem.costs(*entries.coords)
        primal = math.inf if (entries.data < 0).any() else float(entries.data @ costs)
        f = self.potentials[0]
        g = problem.transform(f)
        dual = float(problem.weights0 @ f + problem.weights1 @ g)
        if not problem.grouped_rightly():
            dual = -math.inf
        terms = float(problem.weights0 @ np.abs(f) + problem.weights1 @ np.abs(g))
        cost = self.value**self.p
        size = cost + min(terms, 4 * problem.largest_cost_of_y())
        return DistanceCertificate(
            cost, primal, dual, cost_gap(primal, dual), self.marginal_error, size
        )

    def _draw(self, ax: Axes) -> None:
        """Cost of every condition, largest first, against the mass that has it."""
        order = np.argsort(-self.per_condition, kind="stable")
        mass = np.concatenate([[0.0], np.cumsum(self.masses[order])])
        ax.stairs(self.per_condition[order], mass, fill=True, alpha=0.4)
        ax.set_xlabel("mass of the conditions, those that move most first")
        ax.set_ylabel(f"cost of a condition, distance to the power {self.p:g}")
        ax.set_title(f"conditional distance {self.value:.4g}")


def _reason(found: Difference, tolerance: float) -> str:
    text = (
        f"the X-marginals differ in {found.count} of {found.conditions} conditions; "
        f"x = {as_text(found.x)} has mass {found.mass0:.6g} in the first measure and "
        f"{found.mass1:.6g} in the second"
    )
    if found.count == found.conditions and min(found.mass0, found.mass1) == 0.0:
        text += (
            f" (do they share any x {f'within {tolerance:g}' if tolerance else 'exactly'}? For "
            "samples of a continuous x use method='relaxed' with a finite beta)"
        )
    return text


def _as_measures(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    weights0: ArrayLike | None,
    weights1: ArrayLike | None,
) -> tuple[tuple[Array, Array, Array, Array], tuple[Array, Array]]:
    x0, y0 = as_samples(x0, "x0"), as_samples(y0, "y0")
    x1, y1 = as_samples(x1, "x1"), as_samples(y1, "y1")
    for name, x, y in (("0", x0, y0), ("1", x1, y1)):
        if len(x) != len(y):
            raise ValueError(
                f"y{name}: {len(y)} rows, but x{name} has {len(x)}; row i of both is one sample"
            )
    for name, first, second in (("x", x0, x1), ("y", y0, y1)):
        if first.shape[1] != second.shape[1]:
            raise ValueError(
                f"{name}1: {second.shape[1]} columns, but {name}0 has {first.shape[1]}"
            )
    weights = as_weights(weights0, len(x0), "weights0"), as_weights(weights1, len(x1), "weights1")
    return (x0, y0, x1, y1), weights


def _as_power(value: object) -> float:
    p = as_scalar(value, "p", "a number >= 1")
    if p < 1:
        raise ValueError(f"p: {p} is below 1; allowed: a number >= 1")
    return p


def _check_costs(samples: tuple[Array, Array, Array, Array], p: float, beta: float | None) -> None:
    """Refuse what would overflow."""
    for name, first, second, factor in (
        ("y0, y1", samples[1], samples[3], 1.0),
        ("x0, x1", samples[0], samples[2], beta or 0.0),
    ):
        widest = (magnitude(first) + magnitude(second)) * first.shape[1] ** 0.5
        if factor and p * math.log(max(widest, 1.0)) + math.log(factor) > math.log(LARGEST_COST):
            raise ValueError(
                f"p: {p} with {name} as large as {widest:g}"
                f"{f' and beta {factor:g}' if factor != 1.0 else ''} makes costs above "
                f"{LARGEST_COST:g}; rescale the data (the distance scales along)"
            )


def _only_for(name: str, value: object, method: str, needed: str) -> None:
    if method == needed and value is None:
        raise ValueError(f"{name}: method={needed!r} needs it")
    if method != needed and value is not None:
        raise ValueError(
            f"{name}: {value!r} given, but method={method!r} has no use for it; "
            f"allowed: with method={needed!r}"
        )


def conditional_wasserstein(
    x0: ArrayLike,
    y0: ArrayLike,
    x1: ArrayLike,
    y1: ArrayLike,
    *,
    weights0: ArrayLike | None = None,
    weights1: ArrayLike | None = None,
    p: Real = 2.0,
    method: str = "exact",
    beta: Real | None = None,
    epsilon: Real | None = None,
    tolerance: Real = 0.0,
) -> ConditionalDistance:
    r"""Conditional Wasserstein distance of two weighted samples of (x, y).

    .. math:: W_{p,Y|X} = \Bigl(\sum_x\mu_X(x)\,
              W_p\bigl(\mu(\cdot|x),\nu(\cdot|x)\bigr)^p\Bigr)^{1/p},\qquad
              \text{ground cost } \|y-y'\|^p

    (Corollary 4.2.1 of the DRO paper). "exact": for scalar y by sorted quantiles of all conditions
    in one pass; else one network simplex (POT) per condition, with its cost matrix in memory.
    "relaxed": one transport problem of N0 x N1 with cost :math:`\beta\|x-x'\|^p + \|y-y'\|^p`,
    increasing in beta with limit :math:`W_{p,Y|X}`, and finite when the X-marginals differ.
    "sinkhorn": the entropic problem per condition, by POT in the log domain, its plan rounded to
    the marginals: its cost is above the distance, and ``verify`` brackets the distance, converged
    or not.

    Parameters
    ----------
    x0, y0 : (N0, n), (N0, m) arrays
        Samples of the first measure as rows.
    x1, y1 : (N1, n), (N1, m) arrays
    weights0, weights1 : (N0,), (N1,) arrays, optional
        Non-negative, summing to one; default uniform. Masses of a condition that agree to a
        relative 1e-9 count as equal.
    p : float
        Power >= 1.
    method : "exact", "relaxed" or "sinkhorn"
    beta : float, for "relaxed"
        Price >= 0 of moving x, in (units of y / units of x)^p.
    epsilon : float, for "sinkhorn"
        Weight > 0 of the entropy, in units of y^p.
    tolerance : float
        x within this Euclidean distance are the same condition. That must be an equivalence: a
        chain of near x with ends further apart is refused. Default: equal exactly.

    Returns
    -------
    ConditionalDistance
        `.value`, `.plan`, `.per_condition`, `.potentials`, `.reason`, `.moved_x`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or options, costs that overflow, or a tolerance whose grouping is ambiguous.
    ArithmeticError
        If POT's network simplex finds no optimum.

    Warns
    -----
    SinkhornWarning
        If Sinkhorn's iteration has not converged: the bracket is wide then.
    """
    samples, weights = _as_measures(x0, y0, x1, y1, weights0, weights1)
    power = _as_power(p)
    check_option(method, "method", METHODS)
    _only_for("beta", beta, method, "relaxed")
    _only_for("epsilon", epsilon, method, "sinkhorn")
    price = None if beta is None else as_non_negative(beta, "beta")
    entropy = None if epsilon is None else as_scalar(epsilon, "epsilon", "a number > 0")
    if entropy is not None and entropy <= 0:
        raise ValueError(f"epsilon: {entropy} is not positive; allowed: a number > 0")
    near = as_non_negative(tolerance, "tolerance", "a distance >= 0 in units of x")
    _check_costs(samples, power, price)
    problem = TransportProblem(samples, weights, power, price, near)
    if problem.difference is not None:
        solution = None
    elif method == "exact" and problem.scalar:
        solution = solve_sorted(problem)
    else:
        solution = solve_groups(problem, entropy)
    return ConditionalDistance(problem, solution, method, entropy)
