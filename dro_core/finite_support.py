r"""Exact worst case on a finite support: any loss, any cost, any admissible moves.

With candidates :math:`z'_j`, losses :math:`\ell_{ij}` and costs :math:`c_{ij}` the primal is the
linear programme :math:`\max \sum \pi_{ij}\ell_{ij}` subject to :math:`\sum_j\pi_{ij} = \mu_i`,
:math:`\sum\pi_{ij}c_{ij} \le \rho^2`, :math:`\pi \ge 0`. Its dual function

.. math:: D(\lambda) = \lambda\rho^2 + \sum_i\mu_i\max_j(\ell_{ij} - \lambda c_{ij})

is convex and piecewise linear in *one* variable, so no linear programme is solved: Newton's method
(intersect the supporting lines at the two ends of the bracket) stops at the exact minimiser after
finitely many passes over the candidates, and the two plans that touch there, mixed so that the
budget is met, are the exact primal plan. At most one sample is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from dro_core.checks import (
    Array,
    InfeasibleRadiusError,
    as_map,
    as_non_negative,
    as_radius,
    as_real_array,
    as_samples,
    as_weights,
    check_samples_and_map,
)
from dro_core.read_only import ReadOnly

#: Entries per block of candidates: 16 MiB of float64, a few of which are alive at a time.
BLOCK_ENTRIES = 2**21
#: A call for a block costs about as much as evaluating this many entries.
CALL_ENTRIES = 2**14
#: Larger losses and finite costs are refused: products and sums of them would overflow.
LARGEST_ENTRY = 1e200
_EPS = float(np.finfo(np.float64).eps)

BlockFunction = Callable[[slice], Any]


class _Candidates:
    """Losses and costs of N x M candidate moves, handed out in blocks of rows.

    Forbidden moves (not admissible, or of infinite cost) come out with cost +inf.
    """

    def __init__(self, loss: Any, cost: Any, admissible: Any, weights: Any) -> None:
        self._functions = {"loss": loss, "cost": cost, "admissible": admissible}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, value in self._functions.items():
            if callable(value) or (value is None and name == "admissible"):
                continue
            array = _as_mask(value, name) if name == "admissible" else _as_block(value, name)
            self._functions[name] = array
            shapes[name] = array.shape
        for name, shape in shapes.items():
            if shape[0] == 0:
                raise ValueError(f"{name}: no rows (shape {shape}); at least one sample is needed")
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"loss, cost, admissible: the shapes differ ({listed})")
        self._rows: int | None = next(iter(shapes.values()))[0] if shapes else None
        if self._rows is None and weights is not None:
            self._rows = int(np.size(weights))
        self.columns = next(iter(shapes.values()))[1] if shapes else self._probe()
        self._checked = False

    def _probe(self) -> int:
        first = _as_block(self._functions["loss"](slice(0, 1)), "loss")
        return first.shape[1]

    @property
    def rows(self) -> int:
        """N; known after the first pass when only callables without weights were given."""
        assert self._rows is not None
        return self._rows

    def _evaluate(self, name: str, rows: slice, expected: int | None) -> Any:
        function = self._functions[name]
        if not callable(function):
            return function[rows]
        block = function(rows)
        checked = _as_mask(block, name) if name == "admissible" else _as_block(block, name)
        wanted = checked.shape[0] if expected is None else expected
        if checked.shape != (wanted, self.columns):
            raise ValueError(
                f"{name}: rows {rows.start}:{rows.stop} came back with shape {checked.shape}; "
                f"needed: ({wanted}, {self.columns})"
            )
        return checked

    def _slices(self, needed: Any) -> Iterator[slice]:
        """Slices of at most BLOCK_ENTRIES entries over all rows, or over those in a mask.

        Rows between two needed ones are taken along when that is cheaper than another call.
        """
        step = max(1, BLOCK_ENTRIES // self.columns)
        if needed is None:
            runs = [(0, self._rows)]
        else:
            rows = np.flatnonzero(needed)
            breaks = np.flatnonzero(np.diff(rows) > 1 + CALL_ENTRIES // self.columns)
            parts = [part for part in np.split(rows, breaks + 1) if part.size]
            runs = [(int(part[0]), int(part[-1]) + 1) for part in parts]
        for first, end in runs:
            start = first
            while end is None or start < end:
                stop = start + step if end is None else min(start + step, end)
                yield slice(start, stop)
                start, end = stop, self._rows if end is None else end

    def blocks(self, needed: Any = None) -> Iterator[tuple[slice, Array, Array]]:
        """(rows, loss, cost) with forbidden moves at cost +inf; checked on the first pass.

        With a mask of the rows that are needed, others may be left out.
        """
        for rows in self._slices(needed):
            expected = None if self._rows is None else rows.stop - rows.start
            loss = self._evaluate("loss", rows, expected)
            size = len(loss)
            if self._rows is None and size < rows.stop - rows.start:
                self._rows = rows.start + size  # a short block: the samples end here
            if size == 0:
                if rows.start == 0:
                    raise ValueError("loss: no rows; at least one sample is needed")
                break
            rows = slice(rows.start, rows.start + size)
            cost = self._evaluate("cost", rows, size)
            if self._functions["admissible"] is not None:
                allowed = self._evaluate("admissible", rows, size)
                if not allowed.all():
                    cost = np.where(allowed, cost, np.inf)
            if not self._checked:
                _check_block(loss, cost, rows.start)
            yield rows, loss, cost
        self._checked = True


def _as_block(value: Any, name: str) -> Array:
    array = np.asarray(value) if isinstance(value, np.matrix) else value
    if type(array) is not np.ndarray or array.dtype != np.float64:
        array = as_real_array(value, name, finite=False)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name}: a 2-D (samples, candidates) array is needed, given shape {array.shape}"
        )
    return np.asarray(array)


def _as_mask(value: Any, name: str) -> Any:
    mask = np.asarray(value)
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise TypeError(
            f"{name}: a 2-D boolean (samples, candidates) mask is needed, given dtype "
            f"{mask.dtype} and shape {mask.shape}"
        )
    return mask


def _check_block(loss: Array, cost: Array, start: int) -> None:
    for name, array, bad in (
        ("loss", loss, ~(np.abs(loss) <= LARGEST_ENTRY)),
        ("cost", cost, ~((cost >= 0) & ((cost <= LARGEST_ENTRY) | (cost == np.inf)))),
    ):
        if bad.any():
            i, j = (int(k) for k in np.argwhere(bad)[0])
            allowed = f"at most {LARGEST_ENTRY:g} in size"
            if name == "cost":
                allowed += " and >= 0 (infinite forbids the move)"
            raise ValueError(
                f"{name}: entry ({start + i}, {j}) is {array[i, j]}; every entry must be {allowed}"
            )
    stuck = ~np.isfinite(cost).any(axis=1)
    if stuck.any():
        raise ValueError(
            f"admissible: sample {start + int(np.argmax(stuck))} has no admissible candidate of "
            "finite cost; every sample needs one (its own position, for instance)"
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """One candidate per sample, with its loss and cost: arrays of shape (N,)."""

    index: Any
    loss: Array
    cost: Array


def _cheapest_argmax(score: Array, cost: Array) -> Any:
    """Per row the argmax of `score`; among exact ties the one of least `cost`."""
    index = score.argmax(axis=1)
    best = np.take_along_axis(score, index[:, None], axis=1)
    tied = np.flatnonzero(np.count_nonzero(score == best, axis=1) > 1)
    if tied.size:
        index[tied] = np.where(score[tied] == best[tied], cost[tied], np.inf).argmin(axis=1)
    return index


def _scores(loss: Array, cost: Array, multiplier: float) -> Array:
    """ℓ - λc, and -inf where the move is forbidden."""
    if multiplier == 0.0:
        return np.where(np.isfinite(cost), loss, -np.inf)
    with np.errstate(over="ignore"):
        scores = cost * -multiplier
    scores += loss
    return scores


def _extreme_plans(candidates: _Candidates) -> tuple[_Plan, _Plan]:
    """The plans at λ = 0 (largest loss, then least cost) and λ = ∞ (least cost, largest loss)."""
    dear, cheap = [], []
    for _, loss, cost in candidates.blocks():
        dear.append(_pick(loss, cost, _cheapest_argmax(_scores(loss, cost, 0.0), cost)))
        cheap.append(_pick(loss, cost, _cheapest_argmax(-cost, -loss)))
    return _join(dear), _join(cheap)


def _plan_at(candidates: _Candidates, multiplier: float) -> _Plan:
    """The cheapest maximisers of ℓ - λc."""
    parts = []
    for _, loss, cost in candidates.blocks():
        parts.append(_pick(loss, cost, _cheapest_argmax(_scores(loss, cost, multiplier), cost)))
    return _join(parts)


def _plan_between(candidates: _Candidates, multiplier: float, dear: _Plan, cheap: _Plan) -> _Plan:
    """The cheapest maximisers at a multiplier between those of two plans.

    A sample with the same candidate in both plans keeps it: scores are linear in the multiplier,
    so what is best at both ends is best in between. Only the other samples are evaluated. In exact
    arithmetic a sample's cost lies between its two; where rounding says otherwise, the nearer of
    the two plans is kept.
    """
    plan = _Plan(cheap.index.copy(), cheap.loss.copy(), cheap.cost.copy())
    for rows, loss, cost in candidates.blocks(dear.index != cheap.index):
        part = _pick(loss, cost, _cheapest_argmax(_scores(loss, cost, multiplier), cost))
        plan.index[rows], plan.loss[rows], plan.cost[rows] = part.index, part.loss, part.cost
    for bound, outside in ((cheap, plan.cost < cheap.cost), (dear, plan.cost > dear.cost)):
        plan.index[outside] = bound.index[outside]
        plan.loss[outside] = bound.loss[outside]
        plan.cost[outside] = bound.cost[outside]
    return plan


def _pick(loss: Array, cost: Array, index: Any) -> _Plan:
    rows = np.arange(len(index))
    return _Plan(index, loss[rows, index], cost[rows, index])


def _join(parts: list[_Plan]) -> _Plan:
    return _Plan(
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.cost for part in parts]),
    )


@dataclass(frozen=True)
class FiniteCertificate:
    r"""What `FiniteWorstCase.verify` recomputed from the plan and the multiplier.

    Attributes
    ----------
    risk : float
        The optimum that was reported.
    primal_risk : float
        Risk of the plan, entry by entry.
    dual_risk : float
        The dual function from one more pass over all candidates, at the multiplier enlarged by
        64 roundings: there a candidate with huge loss and cost that ties with the optimum cannot
        drown it in the rounding of its score. An upper value.
    gap : float
        (dual_risk - primal_risk) relative to `size` (losses may have either sign, so a risk can
        be much smaller than what it is a sum of).
    transport_cost : float
        Cost of the plan.
    budget : float
        radius².
    marginal_error : float
        Largest difference between the plan's row sums and the weights; infinite if an entry of
        the plan is negative.
    size : float
        Size of the terms, :math:`\sum\pi_{ij}|\ell_{ij}| + \lambda\rho^2`.
    """

    risk: float
    primal_risk: float
    dual_risk: float
    gap: float
    transport_cost: float
    budget: float
    marginal_error: float
    size: float

    def holds(self, rtol: float = 1e-9) -> bool:
        """Whether the plan is feasible and the reported risk proved, relative to `size`."""
        slack = rtol * self.size
        return (
            abs(self.risk - self.primal_risk) <= slack
            and abs(self.dual_risk - self.risk) <= slack
            and self.transport_cost <= self.budget * (1 + rtol)
            and self.marginal_error <= rtol
        )


class FiniteWorstCase(ReadOnly):
    r"""Exact worst case on a finite support.

    Attributes
    ----------
    risk : float
        The optimum: the dual function at the multiplier.
    multiplier : float
        :math:`\lambda^* \ge 0`; zero if the budget does not bind.
    plan : (N, M) scipy sparse array
        Optimal transport plan :math:`\pi`, at most N + 1 non-zero entries.
    primal_risk : float
        Risk of the plan.
    transport_cost : float
        Cost of the plan; at most radius².
    gap : float
        Duality gap (risk - primal_risk), relative as in `FiniteCertificate`.
    radius : float
    weights : (N,) array
    """

    def __init__(
        self, candidates: _Candidates, weights: Array, radius: float, multiplier: float,
        risk: float, entries: tuple[Any, Any, Array, Array, Array],
    ) -> None:  # fmt: skip
        self._candidates = candidates
        rows, columns, mass, loss, cost = entries
        self.weights = weights
        self.radius = radius
        self.multiplier = multiplier
        self.risk = risk
        shape = (len(weights), candidates.columns)
        self.plan = sparse.csr_array((mass, (rows, columns)), shape=shape)
        self.primal_risk = float(mass @ loss)
        self.transport_cost = float(mass @ cost)
        size = float(mass @ np.abs(loss)) + multiplier * radius**2
        self.gap = (self.risk - self.primal_risk) / size if size > 0 else 0.0
        self._protect()

    def verify(self) -> FiniteCertificate:
        """Recompute both values and the plan's feasibility by one more pass over everything."""
        primal = cost_used = size = 0.0
        multiplier = self.multiplier * (1 + 64 * _EPS)
        potential = np.empty(len(self.weights))
        for rows, loss, cost in self._candidates.blocks():
            part = self.plan[rows].tocoo()
            i, j = part.coords
            primal += float(part.data @ loss[i, j])
            size += float(part.data @ np.abs(loss[i, j]))
            cost_used += float(part.data @ cost[i, j])
            potential[rows] = _scores(loss, cost, multiplier).max(axis=1)
        budget = self.radius**2
        dual = multiplier * budget + float(self.weights @ potential)
        error = float(np.abs(self.plan.sum(axis=1) - self.weights).max())
        if self.plan.nnz and self.plan.data.min() < 0:
            error = math.inf
        size += multiplier * budget
        gap = (dual - primal) / size if size > 0 else dual - primal
        return FiniteCertificate(self.risk, primal, dual, gap, cost_used, budget, error, size)

    def __repr__(self) -> str:
        return (
            f"FiniteWorstCase(risk={self.risk:.6g}, radius={self.radius:.6g}, "
            f"multiplier={self.multiplier:.6g}, transport_cost={self.transport_cost:.6g})"
        )


def finite_worst_case(
    loss: Any, cost: Any, radius: Any, *, weights: Any = None, admissible: Any = None
) -> FiniteWorstCase:
    r"""Exact worst-case expected loss over all plans on finitely many candidates.

    .. math:: \max_\pi \sum_{ij}\pi_{ij}\ell_{ij}\quad\text{s.t.}\quad
              \sum_j \pi_{ij} = \mu_i,\;\; \sum_{ij}\pi_{ij}c_{ij} \le \rho^2,\;\; \pi \ge 0

    (paper Theorem 3.1 on a finite Z). Each structure is a mask of admissible moves, or a choice of
    candidates: see `admissible_candidates` and `quadratic_candidates`.

    Parameters
    ----------
    loss, cost : (N, M) arrays, or callables ``f(rows: slice) -> (len(rows), M) array``
        Loss and transport cost >= 0 of moving sample i to candidate j. An infinite cost forbids a
        move. Callables are evaluated in blocks of rows, in some 15 passes over ever fewer rows, so
        nothing of size N x M is stored; they must return the same values every time and, if
        `weights` is not given either, fewer rows than asked for (or none) past the last sample, as
        slicing does.
    radius : float
        W2 radius >= 0 in the units of the data. The budget for the expected cost is its *square*
        whatever the cost means: for a W1 ball of radius r pass ``r**0.5``.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    admissible : (N, M) boolean array or callable, optional
        Which moves are allowed; default all.

    Returns
    -------
    FiniteWorstCase
        `.risk`, `.multiplier`, `.plan`, `.transport_cost`, `.gap`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For NaN, negative costs, shapes that do not fit, a sample without admissible candidate.
    InfeasibleRadiusError
        If no plan meets the budget; carries the smallest feasible radius.
    OverflowError
        If costs are so small against losses that the multiplier exceeds 1e200.
    """
    rho = as_radius(radius)
    candidates = _Candidates(loss, cost, admissible, weights)
    if weights is not None:
        weights = as_weights(weights, candidates.rows)
    dear, cheap = _extreme_plans(candidates)
    mu = as_weights(None, candidates.rows) if weights is None else weights
    budget = rho * rho
    least = float(mu @ cheap.cost)
    if least > budget * (1 + 1e-12):
        smallest = math.sqrt(least)
        raise InfeasibleRadiusError(
            f"radius: {rho} leaves the ambiguity ball empty: the cheapest candidates of all "
            f"samples together need {smallest}, the smallest feasible radius",
            smallest,
        )
    budget = max(budget, least)  # equal up to rounding
    if float(mu @ dear.cost) <= budget:  # the budget does not bind
        entries = (np.arange(len(mu)), dear.index, mu, dear.loss, dear.cost)
        return FiniteWorstCase(candidates, mu, rho, 0.0, float(mu @ dear.loss), entries)
    multiplier, risk, dear, cheap = _newton(candidates, mu, budget, dear, cheap)
    entries = _mix(mu, budget, dear, cheap)
    return FiniteWorstCase(candidates, mu, rho, multiplier, risk, entries)


def _newton(
    candidates: _Candidates, mu: Array, budget: float, dear: _Plan, cheap: _Plan
) -> tuple[float, float, _Plan, _Plan]:
    """(λ*, D(λ*), plan above the budget, plan within it), both optimal at λ*.

    Per sample the dearer plan has the larger loss and cost, so the sums of differences have no
    cancellation and λ* is accurate to a few roundings even when losses of far candidates exceed
    the risk by many orders. Scores of such candidates are not: one that ties at λ has a score of
    pure rounding, larger than the true score of a near candidate. So plans are taken 16 roundings
    to the right of λ, where what ties has lost and what is better still wins; the value is taken on
    the line of the plan within the budget; and the method stops when λ does.
    """

    def intersection() -> float:
        slope = float(mu @ (dear.loss - cheap.loss)) / float(mu @ (dear.cost - cheap.cost))
        if not slope <= LARGEST_ENTRY:
            raise OverflowError(
                f"loss, cost: the multiplier is {slope:g}, for costs are too small against losses; "
                "rescale them"
            )
        return slope

    multiplier = intersection()
    for _ in range(10_000):
        plan = _plan_between(candidates, multiplier * (1 + 16 * _EPS), dear, cheap)
        if float(mu @ plan.cost) > budget:
            unchanged = np.array_equal(plan.index, dear.index)
            dear = plan
        else:
            unchanged = np.array_equal(plan.index, cheap.index)
            cheap = plan
        before, multiplier = multiplier, intersection()
        if unchanged or abs(multiplier - before) <= 16 * _EPS * multiplier:
            left = budget - float(mu @ cheap.cost)
            return multiplier, float(mu @ cheap.loss) + multiplier * left, dear, cheap
    raise ArithmeticError(
        "the multiplier did not settle in 10,000 passes; please report this input"
    )


def _mix(
    mu: Array, budget: float, dear: _Plan, cheap: _Plan
) -> tuple[Any, Any, Array, Array, Array]:
    """Plan entries: as many samples on the dearer plan as the budget allows, one of them split."""
    extra = mu * (dear.cost - cheap.cost)
    differs = np.flatnonzero(extra > 0)
    slope = (dear.loss[differs] - cheap.loss[differs]) / (dear.cost[differs] - cheap.cost[differs])
    order = differs[np.argsort(-slope, kind="stable")]
    used = np.cumsum(extra[order])
    left = max(budget - float(mu @ cheap.cost), 0.0)
    whole = int(np.searchsorted(used, left, side="right"))
    fraction = np.zeros(len(mu))
    fraction[order[:whole]] = 1.0
    if whole < len(order):
        before = float(used[whole - 1]) if whole else 0.0
        fraction[order[whole]] = (left - before) / float(extra[order[whole]])
    on_dear, on_cheap = np.flatnonzero(fraction > 0), np.flatnonzero(fraction < 1)
    return (
        np.concatenate([on_dear, on_cheap]),
        np.concatenate([dear.index[on_dear], cheap.index[on_cheap]]),
        np.concatenate([mu[on_dear] * fraction[on_dear], mu[on_cheap] * (1 - fraction[on_cheap])]),
        np.concatenate([dear.loss[on_dear], cheap.loss[on_cheap]]),
        np.concatenate([dear.cost[on_dear], cheap.cost[on_cheap]]),
    )


def finite_potential(
    loss: Any, cost: Any, multiplier: Any, admissible: Any = None
) -> tuple[Array, Any]:
    r"""Dual potential :math:`\varphi_\lambda(z_i) = \max_j (\ell_{ij} - \lambda c_{ij})`.

    Parameters
    ----------
    loss, cost, admissible
        As in `finite_worst_case`.
    multiplier : float
        :math:`\lambda \ge 0`.

    Returns
    -------
    potential : (N,) array
    index : (N,) integer array
        The maximising candidate; the cheapest one among exact ties.

    Raises
    ------
    ValueError, TypeError
        As `finite_worst_case`, and for a negative or non-finite multiplier.
    OverflowError
        If the multiplier times a cost exceeds the largest float.
    """
    lam = as_non_negative(multiplier, "multiplier")
    plan = _plan_at(_Candidates(loss, cost, admissible, None), lam)
    with np.errstate(over="ignore"):
        potential = plan.loss - lam * plan.cost
    if not np.isfinite(potential).all():
        raise OverflowError("cost, multiplier: their product exceeds the largest float")
    return potential, plan.index


def quadratic_candidates(
    B: Any, x: Any, y: Any, *, x_candidates: Any = None, y_candidates: Any = None
) -> tuple[BlockFunction, BlockFunction]:
    r"""Loss and cost of moving samples of a linear map to shared candidates, as block callables.

    Loss :math:`\|x' - By'\|^2`, cost :math:`\|x_i - x'\|^2 + \|y_i - y'\|^2`, where a part without
    candidates stays at the sample's own: only `y_candidates` for y|x, only `x_candidates` for x|y,
    both (row j of each is one candidate) for joint.

    Parameters
    ----------
    B : (n, m) matrix
    x, y : (N, n) and (N, m) arrays
        The samples.
    x_candidates, y_candidates : (M, n) and (M, m) arrays, at least one of them

    Returns
    -------
    loss, cost : callables ``f(rows: slice) -> (len(rows), M) array``
        To be passed to `finite_worst_case`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or shapes, or no candidates at all.
    """
    from scipy.spatial.distance import cdist

    matrix = as_map(B, "B")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(matrix, x, y, "B")
    given = {}
    for name, value, own in (("x_candidates", x_candidates, x), ("y_candidates", y_candidates, y)):
        if value is None:
            continue
        given[name] = as_samples(value, name)
        if given[name].shape[1] != own.shape[1]:
            raise ValueError(
                f"{name}: {given[name].shape[1]} columns, but {name[0]} has {own.shape[1]}"
            )
    if not given:
        raise ValueError("x_candidates, y_candidates: at least one of them is needed")
    if len({len(rows) for rows in given.values()}) > 1:
        raise ValueError(
            f"y_candidates: {len(given['y_candidates'])} rows, but x_candidates has "
            f"{len(given['x_candidates'])}; row j of both is one candidate"
        )
    new_x, new_y = given.get("x_candidates"), given.get("y_candidates")
    own_image = y @ matrix.T
    new_image = None if new_y is None else new_y @ matrix.T
    own_loss = None  # the loss of a candidate that replaces both parts does not depend on i
    if new_x is not None and new_image is not None:
        own_loss = np.einsum("ij,ij->i", new_x - new_image, new_x - new_image)

    def loss(rows: slice) -> Any:
        if own_loss is not None:
            return np.broadcast_to(own_loss, (len(x[rows]), len(own_loss)))
        if new_image is not None:
            return cdist(x[rows], new_image, "sqeuclidean")
        return cdist(own_image[rows], new_x, "sqeuclidean")

    def cost(rows: slice) -> Any:
        parts = [
            cdist(own[rows], new, "sqeuclidean")
            for own, new in ((x, new_x), (y, new_y))
            if new is not None
        ]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    return loss, cost
