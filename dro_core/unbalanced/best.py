"""The best plan and the best potentials among those that were tried."""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from dro_core.types import Array, SparseArray
from dro_core.unbalanced.costs import Costs
from dro_core.unbalanced.forest import forest_shift, on_forest, spanning
from dro_core.unbalanced.problem import Marginal, UnbalancedProblem

_ROUNDING = 1e-13


class Best:
    """The plan of least objective and the potentials of largest dual among those considered."""

    def __init__(self, costs: Costs, rows: Marginal, columns: Marginal) -> None:
        first, second = ("kl" if side.free else "balanced" for side in (rows, columns))
        self.problem = UnbalancedProblem(rows.mass, columns.mass, (first, second), 1.0)
        self.costs, self.sides = costs, (rows, columns)
        self.plan: SparseArray = sparse.coo_array(costs.shape)
        self.primal, self.dual, self.size = math.inf, -math.inf, 0.0
        self.u, self.v = np.zeros(costs.shape[0]), np.zeros(costs.shape[1])

    def consider(self, plan: SparseArray, v: Array) -> None:
        """A plan and a potential; both may be far from any optimum (a wrong forest)."""
        self.raise_dual(v)
        plan = plan.tocoo()
        with np.errstate(over="ignore", invalid="ignore"):  # NaN compares as worse
            prices = self.costs.at(*plan.coords)
            primal, size, error = self.problem.primal(plan, prices, self.costs.largest)
        if primal < self.primal and error <= _ROUNDING:
            self.primal, self.plan, self.size = primal, plan, size

    def raise_dual(self, v: Array) -> None:
        """The best feasible pair that c-transforms and one shift make of v."""
        u = self.costs.transform(v)
        v = self.costs.transform_columns(u)
        shift = forest_shift(*self.sides, u, v, np.zeros(len(u) + len(v), dtype=np.int64))
        u, v = u + shift, v - shift
        dual = self.problem.dual(u, v)
        if dual > self.dual:
            self.dual, self.u, self.v = dual, u, v

    def consider_forests(self, support: SparseArray, u: Array, v: Array) -> None:
        """Potentials, and the optima on forests of the largest entries of a support."""
        self.raise_dual(v)
        for forest in spanning(support):
            if not self.optimal:
                self.consider(*on_forest(forest, self.costs, *self.sides, u, v))

    @property
    def optimal(self) -> bool:
        """Whether the two values agree to rounding."""
        return self.primal - self.dual <= _ROUNDING * self.size
