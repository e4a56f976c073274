r"""Unbalanced optimal transport: exact value, sparse plan, potentials and a certificate.

For a cost :math:`c`, positive masses :math:`a, b` and a weight :math:`w > 0`

.. math:: C = \inf_{\pi\ge0}\ \langle c, \pi\rangle + D_1(\pi_0|a) + D_2(\pi_1|b)
            = \sup_{u_i + v_j \le c_{ij}} -\sum_i a_i\Psi_1^*(-u_i) - \sum_j b_j\Psi_2^*(-v_j),

where a marginal is either held by ``"kl"``, :math:`D = w\sum_i a_i\Psi(\pi_{0,i}/a_i)` with
:math:`\Psi(t) = t\log t - t + 1` and conjugate :math:`w(e^{s/w} - 1)`, or ``"balanced"``: fixed,
with the identity as conjugate. The weight multiplies the divergence, so the value is w times that
of the cost c/w at weight one: there is one knob, not two.

With KL the dual is smooth and concave over a transport polytope. It is solved in three steps.

1. A primal-dual interior-point method (Mehrotra's predictor-corrector; Newton's equations on
   :math:`u_i = -w\log(\pi_{0,i}/a_i)`, so that potentials reach any size in one step), with one
   Cholesky factorisation of size min(N, M) per step, finds the support.
2. On each tree of a forest in the support the potentials are known up to one number, which has a
   closed form, and the flows follow from the leaves: the exact optimum on its support.
3. If several plans are optimal that forest may be a wrong one. The optimal marginals are unique,
   :math:`a e^{-u/w}` and :math:`b e^{-v/w}`; POT's network simplex finds a plan between them.

The value is computed from that plan, the bound from a c-transform of those potentials. Neither
trusts the steps above, so a small gap is a proof.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import linalg, sparse, special
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    minimum_spanning_tree,
)

from dro_core.checks import (
    LARGEST,
    Array,
    as_map,
    as_matrix,
    as_non_negative,
    as_positive_integer,
    as_real_array,
    as_samples,
    as_scalar,
    check_magnitude,
    magnitude,
    unknown,
)
from dro_core.finite_support import BLOCK_ENTRIES, _as_block
from dro_core.read_only import protect_arrays
from dro_core.threads import single_threaded

DIVERGENCES = ("kl", "balanced")
#: Total masses of two fixed marginals must agree to this relative accuracy.
MASS_TOLERANCE = 1e-9
#: The gap is relative to the value plus this share of what removing all mass would cost.
SMALL_SHARE = 1e-6
#: Entries in a temporary of the interior-point method.
_PART = 2**16
#: Duality gap at which the interior-point method hands over, relative to the value.
_INTERIOR_TOLERANCE = 1e-15
#: Shares of a point's mass below which an entry of the plan may be rounding; each is tried.
_NEGLIGIBLE = (0.0, 1e-12, 1e-9, 1e-6)
#: Rounds of marginals, plan and forest; one is enough unless the first step ended early.
_ROUNDS = 3
_ROUNDING = 1e-13
#: Share of the mass below which a point is left out of the network simplex, which has tolerances.
_TINY = 1e-15


#: Cost tables of at most so many entries are solved with one BLAS thread.
SMALL = 2**20


class NotConvergedError(RuntimeError):
    """The gap stayed above `rtol`; `result` is the best feasible pair, with its gap."""

    def __init__(self, message: str, result: UnbalancedTransport) -> None:
        super().__init__(message)
        self.result = result


# --- one marginal ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Marginal:
    """Masses of one side and how the plan's marginal is held to them, at weight one."""

    mass: Array
    free: bool

    def density(self, potential: Array) -> Array:
        r"""The optimal marginal :math:`a e^{-u}`; the masses themselves if fixed."""
        with np.errstate(over="ignore"):
            return self.mass * np.exp(-potential) if self.free else self.mass

    def gain(self, potential: Array) -> float:
        r"""The dual term :math:`-\sum a\Psi^*(-u)`."""
        return float(self.mass @ (-np.expm1(-potential) if self.free else potential))

    def penalty(self, marginal: Array) -> float:
        r""":math:`\sum a\Psi(r/a)`, accurate for r near a; zero if fixed."""
        if not self.free:
            return 0.0
        excess = (marginal - self.mass) / self.mass
        return float(self.mass @ (special.xlog1py(excess + 1.0, excess) - excess))

    def linearised(self, potential: Array, marginal: Array) -> tuple[Array, Array, float]:
        r"""Diagonal h and right side of :math:`h\,du + dr = \ldots`, and a measure of mismatch.

        Free: u = -log(r/a), and the Fenchel-Young gap of this pair; fixed: r = a.
        """
        if not self.free:
            off = self.mass - marginal
            return np.zeros_like(marginal), off, float(np.abs(off) @ (1.0 + np.abs(potential)))
        off = potential + np.log(marginal / self.mass)
        with np.errstate(over="ignore"):
            gap = float(marginal @ (off + np.expm1(-off)))
        return marginal, -marginal * off, gap


def _sides(divergence: Any) -> tuple[str, str]:
    pair = (divergence, divergence) if isinstance(divergence, str) else divergence
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            f"divergence: {divergence!r}; allowed: {' or '.join(map(repr, DIVERGENCES))} for both "
            "marginals, or a pair of them"
        )
    for name in pair:
        if name not in DIVERGENCES:
            raise ValueError(unknown("divergence", name, DIVERGENCES))
    return pair[0], pair[1]


def _as_masses(value: Any, name: str) -> Array:
    array = as_real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: a non-empty 1-D array is needed, given shape {array.shape}")
    check_magnitude(array, name)
    if (array <= 0).any():
        i = int(np.argmin(array))
        raise ValueError(
            f"{name}: entry {i} is {array[i]}; masses must be positive (drop points without mass)"
        )
    return array


def _as_weight(value: Any) -> float:
    weight = as_scalar(value, "weight", "a number > 0")
    if weight <= 0:
        raise ValueError(f"weight: {weight}; allowed: a number > 0")
    if not 1e-140 <= weight <= LARGEST:
        raise ValueError(f"weight: {weight}; allowed: a number > 0, from 1e-140 to {LARGEST:g}")
    return weight


def _check_totals(a: Array, b: Array, divergence: tuple[str, str]) -> None:
    first, second = float(a.sum()), float(b.sum())
    if "kl" not in divergence and abs(first - second) > MASS_TOLERANCE * max(first, second):
        raise ValueError(
            f"b: total mass {second!r}, but a has {first!r}; balanced transport needs equal "
            "totals (rescale one of them, or free a marginal with divergence='kl')"
        )


def _finite(number: float, names: str) -> float:
    if not math.isfinite(number):
        raise OverflowError(
            f"{names}: the exponential of a potential over the weight exceeds the largest float; "
            "raise the weight, or add a constant to the cost"
        )
    return number


# --- the semi-dual ----------------------------------------------------------------------------


def _cost_blocks(cost: Any, columns: int, rows: int | None) -> Iterator[tuple[slice, Array]]:
    """(rows, checked block) of an array or of a block callable; at most BLOCK_ENTRIES each."""
    table = None if callable(cost) else _as_block(cost, "cost")
    if table is not None and rows not in (None, len(table)):
        raise ValueError(f"cost: {len(table)} rows, but a has {rows} entries; they must agree")
    end = rows if table is None else len(table)
    step, start = max(1, BLOCK_ENTRIES // columns), 0
    while end is None or start < end:
        stop = start + step if end is None else min(start + step, end)
        block = _as_block(cost(slice(start, stop)), "cost") if table is None else table[start:stop]
        if block.shape[1] != columns or len(block) > stop - start:
            raise ValueError(
                f"cost: rows {start}:{stop} have shape {block.shape}, but v has {columns} entries; "
                f"needed: ({stop - start}, {columns})"
            )
        if not np.isfinite(block).all():
            i, j = (int(k) for k in np.argwhere(~np.isfinite(block))[0])
            raise ValueError(
                f"cost: entry ({start + i}, {j}) is {block[i, j]}; every entry must be finite"
            )
        if len(block):
            yield slice(start, start + len(block)), block
        if len(block) < stop - start:  # the rows end here
            if end is not None:
                raise ValueError(
                    f"cost: rows {start}:{stop} came back with {len(block)} rows, but a has {end} "
                    "entries"
                )
            break
        start = stop


def _transform(v: Array, cost: Any, rows: int | None) -> Array:
    parts = [(block - v).min(axis=1) for _, block in _cost_blocks(cost, len(v), rows)]
    if not parts:
        raise ValueError("cost: no rows; at least one is needed")
    return np.concatenate(parts)


def _as_potential(value: Any, name: str) -> Array:
    array = as_real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: a non-empty 1-D array is needed, given shape {array.shape}")
    check_magnitude(array, name)
    return array


def c_transform(v: Any, cost: Any) -> Array:
    r"""The c-transform :math:`v^c_i = \min_j c_{ij} - v_j`, blockwise.

    The largest u with :math:`u_i + v_j \le c_{ij}`. For the other side pass ``cost.T``.

    Parameters
    ----------
    v : (M,) array
        Potential on the columns, in units of the cost.
    cost : (N, M) array, or callable ``f(rows: slice) -> (len(rows), M) array``
        Of either sign, finite. A callable is asked for blocks of rows, so nothing of size N x M is
        stored; past the last row it returns fewer rows than asked for (or none), as slicing does.

    Returns
    -------
    (N,) array

    Raises
    ------
    ValueError, TypeError
        For NaN, infinite entries, or shapes that do not fit.

    Notes
    -----
    Source: ISUM paper, Eq. 14.

    Examples
    --------
    >>> from dro_core.unbalanced import c_transform
    >>> c_transform([0.0, 2.0], [[1.0, 2.0], [3.0, 9.0]])
    array([0., 3.])
    """
    return _transform(_as_potential(v, "v"), cost, None)


def semidual_value(
    v: Any, cost: Any, a: Any, b: Any, divergence: Any = "kl", *, weight: Any = 1.0
) -> float:
    r"""The semi-dual :math:`-\sum_i a_i\Psi_1^*(-v^c_i) - \sum_j b_j\Psi_2^*(-v_j)`.

    A lower bound on `unbalanced_ot` for every v; equal to it at the optimal potential.

    Parameters
    ----------
    v : (M,) array
        Potential on the columns, in units of the cost.
    cost : (N, M) array, or callable ``f(rows: slice) -> (len(rows), M) array``
    a, b : (N,) and (M,) arrays
        Positive masses of any total (equal totals if both marginals are fixed).
    divergence, weight
        As in `unbalanced_ot`.

    Returns
    -------
    float
        In units of cost times mass.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, or an unknown divergence.
    OverflowError
        If :math:`e^{-v/w}` exceeds the largest float: the value is then below -1e308.

    Notes
    -----
    Source: ISUM paper, Eq. 14; Vacher and Vialard (2023).

    Examples
    --------
    >>> from dro_core.unbalanced import semidual_value
    >>> semidual_value([0.0, 2.0], [[1.0, 2.0], [3.0, 9.0]], [1, 1], [1, 1], "balanced")
    5.0
    """
    potential, a, b = _as_potential(v, "v"), _as_masses(a, "a"), _as_masses(b, "b")
    sides, w = _sides(divergence), _as_weight(weight)
    if len(potential) != len(b):
        raise ValueError(f"v: {len(potential)} entries, but b has {len(b)}; they must agree")
    _check_totals(a, b, sides)
    value = _Problem(a, b, sides, w).dual(_transform(potential, cost, len(a)), potential)
    return _finite(value, "v, cost, weight")


@dataclass(frozen=True)
class _Problem:
    """Objective and dual in the units of the user, whatever the plan and the potentials."""

    a: Array
    b: Array
    divergence: tuple[str, str]
    weight: float

    def sides(self) -> tuple[_Marginal, _Marginal]:
        first, second = (name == "kl" for name in self.divergence)
        return _Marginal(self.a, first), _Marginal(self.b, second)

    def dual(self, u: Array, v: Array) -> float:
        """The dual function; a lower bound if u + v <= c."""
        with np.errstate(over="ignore"):
            gains = [
                self.weight * side.gain(potential / self.weight)
                for side, potential in zip(self.sides(), (u, v), strict=True)
            ]
        return sum(gains)

    def primal(self, plan: Any, cost: Array) -> tuple[float, float, float]:
        """(objective of a plan, size, error of the fixed marginals)."""
        plan = plan.tocoo()
        i, j = plan.coords
        paid = cost[i, j] * plan.data
        value, size, error = float(paid.sum()), float(np.abs(paid).sum()), 0.0
        for axis, side in zip((1, 0), self.sides(), strict=True):
            marginal, total = np.asarray(plan.sum(axis=axis)), float(side.mass.sum())
            if side.free:
                penalty, unit = self.weight * side.penalty(marginal), self.weight * total
            else:
                penalty, unit = 0.0, magnitude(cost) * total
                error = max(error, float(np.abs(marginal - side.mass).max()) / total)
            value, size = value + penalty, size + penalty + SMALL_SHARE * unit
        if plan.nnz and plan.data.min() < 0:
            error = math.inf
        return value, size or 1.0, error


# --- the result -------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnbalancedCertificate:
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


@dataclass(frozen=True, eq=False)
class UnbalancedTransport:
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
        Interior-point steps.
    divergence : (str, str)
    weight : float
    a, b : (N,) and (M,) arrays
    cost : (N, M) array
        As given; not copied.
    """

    value: float
    plan: Any
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
        problem = _Problem(self.a, self.b, self.divergence, self.weight)
        primal, size, error = problem.primal(self.plan, self.cost)
        u, v = self.potentials
        largest = _transform(v, self.cost, len(u))
        violation = max(0.0, float((u - largest).max()) / (magnitude(self.cost) or 1.0))
        dual = problem.dual(np.minimum(u, largest), v)
        gap = (primal - dual) / size
        return UnbalancedCertificate(self.value, primal, dual, gap, violation, error, size)

    def __repr__(self) -> str:
        return (
            f"UnbalancedTransport(value={self.value:.6g}, mass={self.mass:.6g}, gap={self.gap:.2g})"
        )


# --- the solver -------------------------------------------------------------------------------


def _interior_point(
    cost: Array, rows: _Marginal, columns: _Marginal, max_steps: int
) -> tuple[Any, Array, Array, int]:
    """Tight arcs, with plan over slack, and feasible potentials; least cost 0, masses of sum 1.

    Slacks s = c - u - v stay positive, so the potentials are feasible all the time, and the plan x
    follows x s = mu. It starts near mu = 1: a fixed point of small mass with a potential so low
    that its column of x = mu / s has that mass. Newton's system is reduced to
    (D_u - W D_v^-1 W') du = ... with W = x/s; the diagonal of that matrix is summed from its
    off-diagonal entries, which have one sign: no cancellation.
    """
    u, v = (
        np.full(side.mass.shape, -0.5)
        if side.free
        else -np.maximum(1.0 / (len(side.mass) * side.mass), 0.5)
        for side in (rows, columns)
    )
    x = cost - u[:, None]
    x -= v
    np.divide(1.0 / x.size, x, out=x)
    if not rows.free:
        x *= (rows.mass / x.sum(axis=1))[:, None]
    if not columns.free:
        x *= columns.mass / x.sum(axis=0)
    if rows.free:
        u = np.minimum(u, -np.log(x.sum(axis=1) / rows.mass))
    if columns.free:
        v = np.minimum(v, -np.log(x.sum(axis=0) / columns.mass))
    best, stalled, step = math.inf, 0, 0
    while step < max_steps:
        s = None  # free before the next one is made
        s = cost - u[:, None]
        s -= v
        if not s.min() > 0.0:  # the end of double precision
            break
        r, q = x.sum(axis=1), x.sum(axis=0)
        complementarity = float(np.vdot(x, s))
        hu, fu, gap_u = rows.linearised(u, r)
        hv, fv, gap_v = columns.linearised(v, q)
        error = complementarity + gap_u + gap_v
        scale = float(np.vdot(x, cost)) + rows.penalty(r) + columns.penalty(q) + SMALL_SHARE
        stalled = 0 if error < 0.9 * best else stalled + 1
        best = min(best, error)
        if error <= _INTERIOR_TOLERANCE * scale or stalled >= (4 if best < 1e-9 * scale else 40):
            break
        moved = _newton_step(x, s, (hu, hv), (fu, fv))
        if moved is None:
            break
        u, v, step = u + moved[0], v + moved[1], step + 1
    s = cost - u[:, None] - v
    x *= x.size
    i, j = np.nonzero(x > s)  # by strict complementarity, where it holds
    with np.errstate(divide="ignore"):
        ratio = np.minimum(x[i, j] / np.maximum(s[i, j], 0.0), 1e300)
    return sparse.coo_array((ratio, (i, j)), shape=cost.shape), u, v, step


def _newton_step(
    x: Array, s: Array, h: tuple[Array, Array], f: tuple[Array, Array]
) -> tuple[Array, Array] | None:
    """Predictor and corrector: changes x in place, returns the changes of u and v.

    None where the matrix is singular to rounding.
    """
    Z = x / s
    Dv = np.sqrt(h[1] + Z.sum(axis=0))
    Z /= Dv
    S = Z @ Z.T
    diagonal = S.sum(axis=1) - S.diagonal() + h[0] + Z @ (h[1] / Dv)
    np.negative(S, out=S)
    S[np.diag_indices(len(S))] = diagonal * (1 + 1e-15 * len(S))
    try:
        factor = linalg.cho_factor(S.T, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError:
        return None
    du, dv, dx = _direction(-x, f, factor, Z, Dv)
    ds = _sum(-du, -dv)
    step_x, step_s, before = _longest(dx, x), _longest(ds, s), float(np.vdot(x, s))
    after = before + step_x * float(np.vdot(dx, s)) + step_s * float(np.vdot(x, ds))
    after += step_x * step_s * float(np.vdot(dx, ds))
    sigma = min(1.0, max(after / before, 1e-8)) ** 3
    dx *= ds
    del ds
    np.negative(dx, out=dx)
    dx += sigma * before / x.size
    dx /= s
    dx -= x
    du, dv, dx = _direction(dx, f, factor, Z, Dv)
    length = min(_longest(dx, x), _longest(_sum(-du, -dv), s))
    dx *= length
    x += dx
    return length * du, length * dv


def _sum(u: Array, v: Array) -> Array:
    return u[:, None] + v


def _direction(
    e: Array, f: tuple[Array, Array], factor: Any, Z: Array, Dv: Array
) -> tuple[Array, Array, Array]:
    """du, dv, and the change of x, whose part e is given (and overwritten)."""
    gu, gv = f[0] - e.sum(axis=1), (f[1] - e.sum(axis=0)) / Dv
    du = linalg.cho_solve(factor, gu - Z @ gv, check_finite=False)
    dv = (gv - Z.T @ du) / Dv
    change = _sum(du, dv)
    change *= Z
    change *= Dv
    e += change
    return du, dv, e


def _longest(change: Array, z: Array) -> float:
    """The longest step <= 1 that keeps a hundredth of every z > 0."""
    step = max(1, _PART // z.shape[1])
    starts = range(0, len(z), step)
    slowest = min(float((change[k : k + step] / z[k : k + step]).min()) for k in starts)
    return min(1.0, 0.99 / max(-slowest, 1e-300))


def _between(alpha: Array, beta: Array, cost: Array) -> tuple[Any, Array]:
    """Balanced plan, and potential v, between marginals of nearly equal totals (POT)."""
    import ot

    total = float(alpha.sum())
    if not 0.0 < total < math.inf:
        return sparse.coo_array(cost.shape), np.zeros(len(beta))
    alpha, beta = (part * (part > _TINY * part.sum()) for part in (alpha, beta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the gap says whether the plan is optimal
        plan, log = ot.emd(alpha / alpha.sum(), beta / beta.sum(), cost, numItermax=10**9, log=True)
    plan = sparse.coo_array(plan)
    plan.data *= total
    return plan, log["v"]


def _spanning(support: Any) -> Iterator[Any]:
    """Forests of the largest entries, of fewer and fewer of them."""
    (i, j), (n, m) = support.coords, support.shape
    for least in (1.0, 1e3, 1e6, 1e9):
        kept = support.data >= least
        arcs = (-np.log1p(support.data[kept]), (i[kept], n + j[kept]))
        graph = sparse.csr_array(arcs, shape=(n + m, n + m))
        # scipy before 1.17.1 takes 32-bit indices only
        graph.indices, graph.indptr = graph.indices.astype(np.int32), graph.indptr.astype(np.int32)
        forest = minimum_spanning_tree(graph).tocoo()
        yield sparse.coo_array((-forest.data, (forest.row, forest.col - n)), shape=(n, m))


def _attached(plan: Any, cost: Array, u: Array, v: Array) -> tuple[Any, Any, Array, Array]:
    """Arcs of a plan, and the tightest one for every point without, whose potential it gives.

    Such a point has next to no mass at the optimum, so that its partner does not feel it: rows find
    theirs among the columns of the plan, then columns among all rows.
    """
    (i, j), (n, m) = plan.coords, plan.shape
    used, u, v = np.unique(j), u.copy(), v.copy()
    if len(used) == 0:
        return i, j, u, v
    rows, columns = np.setdiff1d(np.arange(n), i), np.setdiff1d(np.arange(m), j)
    slack = cost[np.ix_(rows, used)] - v[used]
    u[rows] = slack.min(axis=1)
    i, j = np.concatenate([i, rows]), np.concatenate([j, used[slack.argmin(axis=1)]])
    slack = cost[:, columns] - u[:, None]
    v[columns] = slack.min(axis=0)
    return np.concatenate([i, slack.argmin(axis=0)]), np.concatenate([j, columns]), u, v


def _on_forest(
    plan: Any, cost: Array, rows: _Marginal, columns: _Marginal, u: Array, v: Array
) -> tuple[Any, Array]:
    """Plan and v of the optimum on the forest that supports a plan.

    On a tree all potentials follow from one, and the flows from the leaves. The shift t of a tree
    maximises its own dual:
    sum a e^(-u-t) = sum b e^(-v+t), with the exponential only where a marginal is free.
    """
    n, m = plan.shape
    i, j, u, v = _attached(plan, cost, u, v)
    size = n + m + 1  # with one node more that is linked to the first node of every tree
    links = sparse.coo_array((np.ones(len(i)), (i, n + j)), shape=(size, size))
    label = connected_components(links, directed=False)[1][:-1]
    roots = np.unique(label, return_index=True)[1]
    trunk = (np.ones(len(roots)), (np.full(len(roots), n + m), roots))
    links = sparse.csr_array(links + sparse.coo_array(trunk, shape=(size, size)))
    order, parent = breadth_first_order(links, n + m, directed=False)
    child = order[1:][parent[order[1:]] < n + m]
    arcs = np.stack([np.minimum(child, parent[child]), np.maximum(child, parent[child]) - n])
    potential = np.concatenate([u, v]).tolist()
    ends = list(zip(child.tolist(), parent[child].tolist(), strict=True))
    for (k, p), price in zip(ends, cost[*arcs].tolist(), strict=True):
        potential[k] = price - potential[p]
    u, v = np.array(potential[:n]), np.array(potential[n:])
    shift = _shift(rows, columns, u, v, label)
    u, v = u + shift[label[:n]], v - shift[label[n:]]
    need, flow = np.concatenate([rows.density(u), columns.density(v)]).tolist(), []
    for k, p in reversed(ends):
        flow.append(max(need[k], 0.0))
        need[p] -= flow[-1]
    return sparse.coo_array((flow[::-1], tuple(arcs)), shape=(n, m)), v


def _shift(rows: _Marginal, columns: _Marginal, u: Array, v: Array, label: Any) -> Array:
    """Per group of points the t for which u + t, v - t has marginals of equal totals."""
    groups, free = int(label.max()) + 1, int(rows.free) + int(columns.free)
    if not free:
        return np.zeros(groups)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        totals = [
            np.log(np.bincount(part, side.density(own), groups))
            for part, side, own in ((label[: len(u)], rows, u), (label[len(u) :], columns, v))
        ]
        shift = (totals[0] - totals[1]) / free
    return np.where(np.isfinite(shift), shift, 0.0)  # zero for single points


def unbalanced_ot(
    cost: Any,
    a: Any,
    b: Any,
    divergence: Any = "kl",
    *,
    weight: Any = 1.0,
    rtol: Any = 1e-9,
    max_steps: Any = 200,
    raise_unconverged: bool = True,
) -> UnbalancedTransport:
    r"""Unregularised unbalanced optimal transport between finite measures, with a certificate.

    .. math:: \inf_{\pi\ge0}\ \langle c, \pi\rangle + D_1(\pi_0|a) + D_2(\pi_1|b),\qquad
              D(r|a) = w\sum_i r_i\log\frac{r_i}{a_i} - r_i + a_i
              \quad\text{or}\quad r = a

    Parameters
    ----------
    cost : (N, M) array
        Finite, of either sign.
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
    table, a, b = as_matrix(cost, "cost"), _as_masses(a, "a"), _as_masses(b, "b")
    if table.shape != (len(a), len(b)):
        raise ValueError(
            f"cost: shape {table.shape}, but a has {len(a)} entries and b {len(b)}; needed: "
            f"({len(a)}, {len(b)})"
        )
    sides, w = _sides(divergence), _as_weight(weight)
    tolerance = as_non_negative(rtol, "rtol")
    steps = as_positive_integer(max_steps, "max_steps")
    _check_totals(a, b, sides)
    problem = _Problem(a, b, sides, w)
    with single_threaded(table.size, SMALL):
        plan, u, v, taken = _solve(problem, table, steps)
    primal, size, error = problem.primal(plan, table)
    dual = problem.dual(u, v)
    gap = (_finite(primal, "cost, weight") - dual) / size
    converged = gap <= tolerance and error <= MASS_TOLERANCE
    result = UnbalancedTransport(
        primal, plan, (u, v), float(plan.sum()), gap, dual, converged, taken,
        sides, w, a, b, table,
    )  # fmt: skip
    if not converged and raise_unconverged:
        raise NotConvergedError(
            f"rtol: the relative gap is {gap:.3g} after {taken} steps, above {tolerance:g}; likely "
            "causes: max_steps too small, or costs over the weight so large that their rounding is "
            "not small; the result is in .result (raise_unconverged=False returns it)",
            result,
        )
    return result


def _solve(problem: _Problem, cost: Array, max_steps: int) -> tuple[Any, Array, Array, int]:
    """Plan, potentials and steps, from the problem of least cost 0, weight 1 and unit masses.

    Adding k to the cost and scaling the masses to totals A and B scales the plan by S: the total of
    a fixed side, or (A B e^-k)^(1/2) if both are free. The potentials shift by k in all, a free one
    by log(A/S).
    """
    first, second = problem.sides()
    totals = float(first.mass.sum()), float(second.mass.sum())
    rows, columns = (
        _Marginal(side.mass / total, side.free)
        for side, total in zip((first, second), totals, strict=True)
    )
    least, w = float(cost.min()), problem.weight
    log_a, log_b, constant = math.log(totals[0]), math.log(totals[1]), least / w
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
    table = cost - least
    table /= w
    if not math.isfinite(magnitude(table)):
        raise OverflowError("cost, weight: the cost over the weight exceeds the largest float")
    plan, v, steps = _solve_normalised(table, rows, columns, max_steps)
    del table
    v = w * (v + moved)
    return sparse.csr_array(plan * math.exp(scale)), _transform(v, cost, None), v, steps


def _solve_normalised(
    cost: Array, rows: _Marginal, columns: _Marginal, max_steps: int
) -> tuple[Any, Array, int]:
    """The plan of least objective and the v of largest dual over all forests that are tried."""
    if len(cost) > cost.shape[1]:
        plan, u, steps = _solve_normalised(np.ascontiguousarray(cost.T), columns, rows, max_steps)
        return plan.T, _transform(u, cost.T, None), steps
    best = _Best(cost, rows, columns)
    steps = 0
    if rows.free or columns.free:
        support, u, v, steps = _interior_point(cost, rows, columns, max_steps)
        best.raise_dual(v)
        for forest in _spanning(support):
            if not best.optimal:
                best.consider(*_on_forest(forest, cost, rows, columns, u, v))
    for _ in range(_ROUNDS):
        if best.optimal:
            break
        plan, other = _between(rows.density(best.u), columns.density(best.v), cost)
        best.consider(plan, other)
        for part in _pruned(plan):
            best.consider(*_on_forest(part, cost, rows, columns, best.u, best.v))
    return best.plan, best.v, steps


class _Best:
    """The plan of least objective and the potentials of largest dual among those considered."""

    def __init__(self, cost: Array, rows: _Marginal, columns: _Marginal) -> None:
        first, second = ("kl" if side.free else "balanced" for side in (rows, columns))
        self.problem = _Problem(rows.mass, columns.mass, (first, second), 1.0)
        self.cost, self.sides = cost, (rows, columns)
        self.plan: Any = sparse.coo_array(cost.shape)
        self.primal, self.dual, self.size = math.inf, -math.inf, 0.0
        self.u, self.v = cost.min(axis=1), np.zeros(cost.shape[1])

    def consider(self, plan: Any, v: Array) -> None:
        """A plan and a potential; both may be far from any optimum (a wrong forest)."""
        self.raise_dual(v)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN compares as worse
            primal, size, error = self.problem.primal(plan, self.cost)
        if primal < self.primal and error <= _ROUNDING:
            self.primal, self.plan, self.size = primal, plan, size

    def raise_dual(self, v: Array) -> None:
        """The best feasible pair that c-transforms and one shift make of v."""
        u = _transform(v, self.cost, None)
        v = _transform(u, self.cost.T, None)
        shift = _shift(*self.sides, u, v, np.zeros(len(u) + len(v), dtype=np.int64))
        u, v = u + shift, v - shift
        dual = self.problem.dual(u, v)
        if dual > self.dual:
            self.dual, self.u, self.v = dual, u, v

    @property
    def optimal(self) -> bool:
        """Whether the two values agree to rounding."""
        return self.primal - self.dual <= _ROUNDING * self.size


def _pruned(plan: Any) -> Iterator[Any]:
    """A plan without the entries that may be rounding of the marginals between two trees."""
    (i, j), seen = plan.coords, 0
    smaller = np.minimum(plan.sum(axis=1)[i], plan.sum(axis=0)[j])
    for share in _NEGLIGIBLE:
        kept = plan.data > share * smaller
        if kept.sum() not in (0, seen):
            seen = int(kept.sum())
            yield sparse.coo_array((plan.data[kept], (i[kept], j[kept])), shape=plan.shape)


# --- Gaussian measures ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UnbalancedGaussian:
    r"""Optimum of unbalanced transport between two Gaussian measures.

    Attributes
    ----------
    value : float
        :math:`w(m_0 + m_1 - 2m)`, with m the transported mass.
    mass : float
    source_mean, source_covariance : (m,) and (m, m) arrays
        The first marginal of the plan is `mass` times this Gaussian.
    target_mean, target_covariance : (n,) and (n, n) arrays
        The second one.
    matrix : (n, m) array
        Of the map; zero on directions that the cost does not couple, where any plan is optimal.
    reference : tuple of two (mean, covariance, mass)
        The measures that were given.
    weight : float
    """

    value: float
    mass: float
    source_mean: Array
    source_covariance: Array
    target_mean: Array
    target_covariance: Array
    matrix: Array
    reference: tuple[tuple[Array, Array, float], tuple[Array, Array, float]] = field(repr=False)
    weight: float
    _log_mass: float = field(repr=False)

    def transport(self, y: Any) -> Array:
        """The optimal map, affine: (N, m) samples to (N, n)."""
        return self.target_mean + (_as_points(y, "y", self.source_mean) - self.source_mean) @ (
            self.matrix.T
        )

    def potential(self, x: Any) -> Array:
        r"""v at (N, n) points, quadratic: :math:`-w\log(d\pi_1/d\nu)`; (N,)."""
        points = _as_points(x, "x", self.target_mean)
        return self._potential(points, self.target_mean, self.target_covariance, 1)

    def source_potential(self, y: Any) -> Array:
        r"""u at (N, m) points, the c-transform of v: :math:`-w\log(d\pi_0/d\mu)`; (N,)."""
        points = _as_points(y, "y", self.source_mean)
        return self._potential(points, self.source_mean, self.source_covariance, 0)

    def _potential(self, points: Array, mean: Array, covariance: Array, side: int) -> Array:
        given_mean, given_covariance, mass = self.reference[side]
        ratio = _log_density(points, mean, covariance) - _log_density(
            points, given_mean, given_covariance
        )
        return -self.weight * (self._log_mass - math.log(mass) + ratio)


def _as_points(value: Any, name: str, mean: Array) -> Array:
    points = as_samples(value, name)
    if points.shape[1] != len(mean):
        raise ValueError(f"{name}: {points.shape[1]} columns; needed: {len(mean)}")
    return points


def _log_density(points: Array, mean: Array, covariance: Array) -> Array:
    """Log of a Gaussian density, without the power of 2 pi that cancels in every ratio here."""
    factor = np.linalg.cholesky(covariance)
    scaled = linalg.solve_triangular(factor, (points - mean).T, lower=True)
    return -0.5 * (scaled**2).sum(axis=0) - float(np.log(np.diag(factor)).sum())


def _as_gaussian(mean: Any, covariance: Any, mass: Any, number: int) -> tuple[Array, Array, float]:
    centre = as_real_array(mean, f"mean{number}")
    if centre.ndim != 1 or centre.size == 0:
        raise ValueError(f"mean{number}: a 1-D array is needed, given shape {centre.shape}")
    check_magnitude(centre, f"mean{number}")
    name = f"covariance{number}"
    spread = as_real_array(covariance, name)
    if spread.shape == centre.shape:
        spread = np.diag(spread)
    if spread.shape != (len(centre), len(centre)):
        raise ValueError(
            f"{name}: shape {spread.shape}; needed: ({len(centre)}, {len(centre)}), or "
            f"({len(centre)},) variances"
        )
    check_magnitude(spread, name)
    if magnitude(spread - spread.T) > 1e-12 * magnitude(spread):
        raise ValueError(f"{name}: not symmetric")
    least, largest = np.linalg.eigvalsh(spread)[[0, -1]]
    if least <= 1e-14 * largest:
        raise ValueError(
            f"{name}: the smallest eigenvalue is {least:g}; allowed: positive definite"
        )
    total = as_scalar(mass, f"mass{number}", "a number > 0")
    if total <= 0:
        raise ValueError(f"mass{number}: {total}; allowed: a number > 0")
    return centre, spread, total


def _root(matrix: Array) -> tuple[Array, Array]:
    """Square root of a positive semi-definite matrix, and its pseudo-inverse."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    roots = np.sqrt(np.maximum(values, 0.0))
    kept = values > 1e-13 * values[-1]
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=kept)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def unbalanced_gaussian(
    mean0: Any,
    covariance0: Any,
    mean1: Any,
    covariance1: Any,
    *,
    forward: Any = None,
    likelihood: Any = 0.0,
    quadratic: Any = 1.0,
    mass0: Any = 1.0,
    mass1: Any = 1.0,
    weight: Any = 1.0,
) -> UnbalancedGaussian:
    r"""Unbalanced transport between Gaussian measures, KL on both sides, in closed form.

    The cost of moving a measurement y to a signal x is

    .. math:: c(y, x) = \lambda_l\|Ax - y\|^2 + \lambda_q\|x - y\|^2
              = y^\top K_{yy}y - 2y^\top Kx + x^\top K_{xx}x.

    With :math:`P_0 = \Sigma_0^{-1} + 2K_{yy}/w`, :math:`P_1 = \Sigma_1^{-1} + 2K_{xx}/w` and the
    geometric mean :math:`G = P_0 \# (K P_1^{-1}K^\top)/w^2` the plan's first marginal has the
    precision :math:`P_0 - 2G`, likewise the second; their means solve one linear system; the matrix
    of the map is :math:`P_1^{-1}K^\top G^{-1}P_0/w`; and the value is :math:`w(m_0 + m_1 - 2m)`.

    Parameters
    ----------
    mean0, covariance0 : (m,) array, and (m, m) positive definite matrix or (m,) variances
        The measure of the measurements y.
    mean1, covariance1 : (n,) array, and (n, n) matrix or (n,) variances
        The measure of the signals x.
    forward : (m, n) matrix, optional
        A; needed if `likelihood` is positive.
    likelihood, quadratic : float
        Weights >= 0 of the two parts of the cost; the second needs m = n.
    mass0, mass1 : float
        Total masses > 0.
    weight : float
        As in `unbalanced_ot`.

    Returns
    -------
    UnbalancedGaussian
        `.value`, `.mass`, `.transport(y)`, `.potential(x)`, and the marginals of the plan.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, covariances that are not positive definite, or shapes that do not fit.

    Notes
    -----
    Source: this project (a quadratic ansatz for both potentials turns optimality into a Riccati
    equation); the unregularised limit of Janati, Muzellec, Peyré and Cuturi (2020).

    Examples
    --------
    >>> from dro_core.unbalanced import unbalanced_gaussian
    >>> found = unbalanced_gaussian([0.0], [1.0], [2.0], [1.0])
    >>> round(found.mass, 4), found.transport([[0.0], [1.0]]).round(3).tolist()
    (0.6703, [[0.4], [1.4]])
    """
    source = _as_gaussian(mean0, covariance0, mass0, 0)
    target = _as_gaussian(mean1, covariance1, mass1, 1)
    (p, S0, total0), (q, S1, total1) = source, target
    w, m, n = _as_weight(weight), len(p), len(q)
    fit = as_non_negative(likelihood, "likelihood") / w
    near = as_non_negative(quadratic, "quadratic") / w
    A = np.zeros((m, n))
    if forward is not None:
        A = as_map(forward, "forward")
        if A.shape != (m, n):
            raise ValueError(f"forward: shape {A.shape}; a map from x to y has shape ({m}, {n})")
    elif fit > 0:
        raise ValueError("forward: the likelihood part of the cost needs the forward map")
    if near > 0 and m != n:
        raise ValueError(
            f"quadratic: {near * w}; the part |x - y|² needs equal dimensions, given {m} and {n}"
        )
    K = fit * A + near * np.eye(m, n)
    try:
        with np.errstate(all="ignore"):  # what overflows there is refused below
            inverse0, inverse1 = np.linalg.inv(S0), np.linalg.inv(S1)
            P0 = inverse0 + 2 * (fit + near) * np.eye(m)
            P1 = inverse1 + 2 * (fit * A.T @ A + near * np.eye(n))
            means = np.linalg.solve(
                np.block([[P0, -2 * K], [-2 * K.T, P1]]),
                np.concatenate([inverse0 @ p, inverse1 @ q]),
            )
            cover_y, matrix = _coupled(P0, P1, K)
            cover_x, _ = _coupled(P1, P0, K.T)
        if not all(np.isfinite(found).all() for found in (means, cover_y, cover_x, matrix)):
            raise np.linalg.LinAlgError
    except np.linalg.LinAlgError:
        raise ValueError(
            "covariance0, covariance1, likelihood, quadratic, weight: too many orders of magnitude "
            "apart for floats"
        ) from None
    mean_y, mean_x = means[:m], means[m:]
    cost = fit * float(((A @ mean_x - mean_y) ** 2).sum())
    cost += near * float(((mean_x - mean_y) ** 2).sum()) if near > 0 else 0.0
    log_mass = math.log(total0) + math.log(total1) - cost
    for mean, own, given in ((mean_y, cover_y, source), (mean_x, cover_x, target)):
        point = mean[None]
        log_mass += float((_log_density(point, *given[:2]) - _log_density(point, mean, own))[0])
    mass = math.exp(log_mass / 2)
    return UnbalancedGaussian(
        w * (total0 + total1 - 2 * mass), mass, mean_y, cover_y, mean_x, cover_x,
        matrix, (source, target), w, log_mass / 2,
    )  # fmt: skip


def _coupled(own: Array, other: Array, coupling: Array) -> tuple[Array, Array]:
    """Covariance (P - 2 G)^-1 with G = P # K P'^-1 K^T, and the map's matrix P'^-1 K^T G^-1 P."""
    half, inverse_half = _root(own)
    back = np.linalg.solve(other, coupling.T) @ inverse_half
    mean, inverse_mean = _root(inverse_half @ coupling @ back)
    covariance = inverse_half @ np.linalg.inv(np.eye(len(own)) - 2 * mean) @ inverse_half
    return np.asarray(covariance + covariance.T) / 2, back @ inverse_mean @ half
