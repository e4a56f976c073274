"""Independent oracles: slow, general, and sharing no code with what they check.

(The semidefinite programme is the same strong dual, with the matrices C of the structures built
anew from their definitions; the linear programmes and distances share not even a theorem.)
The worst case on a finite support as a linear programme (HiGHS, or any solver of cvxpy), the
worst case of a linear map as a semidefinite programme (cvxpy with Clarabel), the best choice
without mixing as a multiple-choice knapsack (HiGHS' branch and bound), Wasserstein distances by
POT's network simplex. For tests and validation; the solvers of `dro_core` are exact and 100 to
10,000 times faster. cvxpy and POT are imported when first needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from dro_core.checks import (
    Array,
    InfeasibleRadiusError,
    as_map,
    as_non_negative,
    as_positive_integer,
    as_radius,
    as_real_array,
    as_samples,
    as_scalar,
    as_weights,
    check_option,
    check_samples_and_map,
    unknown,
)
from dro_core.dual import threshold_rounding


@dataclass(frozen=True, eq=False)
class ReferenceSolution:
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
    loss: Any, cost: Any, radius: Any, weights: Any, admissible: Any
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
    loss: Any, cost: Any, radius: Any, *, weights: Any = None, admissible: Any = None
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
    loss: Any,
    cost: Any,
    radius: Any,
    *,
    weights: Any = None,
    admissible: Any = None,
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
    import cvxpy as cp

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


@dataclass(frozen=True, eq=False)
class PureChoice:
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
    choice: Any
    transport_cost: float


#: HiGHS stops at an absolute gap of 1e-6: gains are scaled so that this is 1e-12 of their range.
_GAIN_SCALE = 1e6


def finite_worst_case_pure(
    loss: Any, cost: Any, radius: Any, *, weights: Any = None, admissible: Any = None
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


#: Displacement matrices C of the structures, from their definition (theory, structure table).
_DISPLACEMENTS: dict[str, Callable[[Array], Array]] = {
    "y|x": lambda B: -B,
    "joint": lambda B: np.hstack([np.eye(len(B)), -B]),
    "x|y": lambda B: np.eye(len(B)),
}


def worst_case_risk_sdp(
    B: Any,
    x: Any,
    y: Any,
    radius: Any,
    structure: str = "y|x",
    *,
    forward: Any = None,
    weights: Any = None,
) -> ReferenceSolution:
    r"""The strong dual of a linear map as a semidefinite programme (cvxpy, Clarabel).

    .. math:: \min_{\lambda, T}\ \lambda\rho^2 + \operatorname{tr} T \quad\text{s.t.}\quad
              \begin{pmatrix} T & S & 0\\ S^\top & I & C\\ 0 & C^\top & \lambda I\end{pmatrix}
              \succeq 0,\qquad S S^\top = \sum_i \mu_i r_i r_i^\top

    in its transposed form, with residuals and radius scaled to the root mean square first. Takes a
    fraction of a second at n = m = 12 and grows with the sixth power.

    Parameters
    ----------
    B, x, y, radius, weights
        As in `worst_case_risk`.
    structure : "joint", "y|x", "x|y" or "x"
    forward : (m, n) matrix
        The forward map A, for structure "x" only (cost on x and y, noise-free data y = Ax).

    Raises
    ------
    ValueError, TypeError
        For bad input.
    RuntimeError
        If Clarabel finds no optimum.
    """
    import cvxpy as cp
    from scipy.linalg import fractional_matrix_power

    matrix = as_map(B, "B")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(matrix, x, y, "B")
    mu = as_weights(weights, len(x))
    rho = as_radius(radius)
    if structure == "x":
        if forward is None:
            raise ValueError("forward: structure 'x' needs the forward map")
        A = as_map(forward, "forward")
        if A.shape != matrix.shape[::-1]:
            raise ValueError(f"forward: shape {A.shape}; needed: {matrix.shape[::-1]}")
        half = fractional_matrix_power(np.eye(A.shape[1]) + A.T @ A, -0.5)
        C: Array = (np.eye(len(matrix)) - matrix @ A) @ half
    elif structure in _DISPLACEMENTS:
        C = _DISPLACEMENTS[structure](matrix)
    else:
        raise ValueError(unknown("structure", structure, [*_DISPLACEMENTS, "x"]))
    deviations = np.sqrt(mu)[:, None] * (x - y @ matrix.T)
    norm = float(np.linalg.norm(C, 2)) or 1.0
    scale = max(float(np.linalg.norm(deviations)), norm * rho) or 1.0
    S: Array = np.asarray(np.linalg.qr(deviations / scale, mode="r"))
    k, (n, p) = len(S), C.shape
    T, multiplier = cp.Variable((k, k), symmetric=True), cp.Variable(nonneg=True)
    block = cp.bmat(
        [
            [T, S, np.zeros((k, p))],
            [S.T, np.eye(n), C / norm],
            [np.zeros((p, k)), C.T / norm, multiplier * np.eye(p)],
        ]
    )
    objective = cp.Minimize(multiplier * (norm * rho / scale) ** 2 + cp.trace(T))
    problem = cp.Problem(objective, [block >> 0])
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "solution may be inaccurate": the caller compares
        problem.solve(solver="CLARABEL", **tight)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise RuntimeError(f"Clarabel found no optimum: {problem.status}")
    return ReferenceSolution(scale**2 * float(problem.value), norm**2 * float(multiplier.value))


def wasserstein_pot(
    points0: Any, points1: Any, *, weights0: Any = None, weights1: Any = None
) -> float:
    """W2 distance between two weighted point clouds, by POT's network simplex.

    Parameters
    ----------
    points0, points1 : (N, d) and (M, d) arrays
    weights0, weights1 : (N,) and (M,) arrays, optional
        Default uniform.

    Returns
    -------
    float
        In the units of the points.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    """
    import ot
    from scipy.spatial.distance import cdist

    points0, points1 = as_samples(points0, "points0"), as_samples(points1, "points1")
    if points0.shape[1] != points1.shape[1]:
        raise ValueError(f"points1: {points1.shape[1]} columns, but points0 has {points0.shape[1]}")
    weights0 = as_weights(weights0, len(points0), "weights0")
    weights1 = as_weights(weights1, len(points1), "weights1")
    # not ot.dist, which expands the square and so loses small distances between large points
    cost = cdist(points0, points1, "sqeuclidean")
    scale = float(cost.max()) or 1.0
    return float(scale * ot.emd2(weights0, weights1, cost / scale, numItermax=10_000_000)) ** 0.5


def _two_laws(
    x0: Any, y0: Any, x1: Any, y1: Any, weights0: Any, weights1: Any
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Two weighted samples of (x, y), checked against each other."""
    x0, y0 = as_samples(x0, "x0"), as_samples(y0, "y0")
    x1, y1 = as_samples(x1, "x1"), as_samples(y1, "y1")
    for first, second, names in ((x0, y0, "x0, y0"), (x1, y1, "x1, y1")):
        if len(first) != len(second):
            raise ValueError(f"{names}: {len(first)} and {len(second)} rows; they must agree")
    for first, second, names in ((x0, x1, "x0, x1"), (y0, y1, "y0, y1")):
        if first.shape[1] != second.shape[1]:
            raise ValueError(
                f"{names}: {first.shape[1]} and {second.shape[1]} columns; they must agree"
            )
    weights0 = as_weights(weights0, len(x0), "weights0")
    weights1 = as_weights(weights1, len(x1), "weights1")
    return x0, y0, x1, y1, weights0, weights1


def conditional_wasserstein_pot(
    x0: Any,
    y0: Any,
    x1: Any,
    y1: Any,
    *,
    weights0: Any = None,
    weights1: Any = None,
) -> float:
    r"""Conditional distance :math:`(\sum_x \mu_X(x) W_2^2(\mu(\cdot|x), \nu(\cdot|x)))^{1/2}`.

    One optimal transport problem per distinct x (compared exactly), each by POT; infinite when
    the two X-marginals differ (paper Corollary 4.2.1).

    Parameters
    ----------
    x0, y0 : (N, n) and (N, m) arrays
    x1, y1 : (M, n) and (M, m) arrays
    weights0, weights1 : (N,) and (M,) arrays, optional
        Default uniform.

    Returns
    -------
    float
        In the units of y.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    """
    x0, y0, x1, y1, weights0, weights1 = _two_laws(x0, y0, x1, y1, weights0, weights1)
    _, label = np.unique(np.concatenate([x0, x1]), axis=0, return_inverse=True)
    label = label.reshape(-1)
    label0, label1 = label[: len(x0)], label[len(x0) :]
    total = 0.0
    for condition in np.unique(label):
        here0, here1 = label0 == condition, label1 == condition
        mass0, mass1 = float(weights0[here0].sum()), float(weights1[here1].sum())
        if abs(mass0 - mass1) > 1e-12:
            return float("inf")
        if mass0 == 0.0:
            continue
        distance = wasserstein_pot(
            y0[here0],
            y1[here1],
            weights0=weights0[here0] / mass0,
            weights1=weights1[here1] / mass1,
        )
        total += mass0 * distance**2
    return total**0.5


@dataclass(frozen=True)
class MonteCarloEstimate:
    """A Monte-Carlo value and its standard error.

    Attributes
    ----------
    value : float
    standard_error : float
        Of `value`, estimated from the draws: as trustworthy as they are many. Where a residual is
        long against the reference noise few draws carry all the weight, and both are too low.
    """

    value: float
    standard_error: float


def entropic_dual_monte_carlo(
    B: Any,
    x: Any,
    y: Any,
    multiplier: Any,
    radius: Any,
    epsilon: Any,
    structure: str = "y|x",
    *,
    draws: int = 10_000,
    seed: int = 0,
    weights: Any = None,
) -> MonteCarloEstimate:
    r"""The entropic dual at a multiplier, from its definition by sampling.

    .. math:: \lambda\bar\rho^2 + \lambda\varepsilon\sum_i\mu_i\log
              \mathbb E_{z'\sim N(z_i,\frac\varepsilon2 I)}\exp\frac{\ell(z')}{\lambda\varepsilon}

    (paper Eq. 13), what moves in z' depending on the structure. The exponential has a finite
    variance only for :math:`\lambda > 2\sigma_{\max}^2`; below :math:`\sigma_{\max}^2` the truth is
    infinite although every estimate is finite, so this oracle refuses what is not above the former.

    Parameters
    ----------
    B, x, y, multiplier, radius, epsilon, weights
        As in `dual_value`.
    structure : "y|x", "joint" or "x|y"
    draws : int
        Per sample.
    seed : int

    Raises
    ------
    ValueError, TypeError
        For bad input, or a multiplier without finite variance.
    """
    from scipy.special import logsumexp

    matrix = as_map(B, "B")
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(matrix, x, y, "B")
    mu, rho = as_weights(weights, len(x)), as_radius(radius)
    check_option(structure, "structure", _DISPLACEMENTS)
    lam = as_scalar(multiplier, "multiplier", "a number above twice the threshold")
    weight = as_non_negative(epsilon, "epsilon")
    draws = as_positive_integer(draws, "draws")
    twice = 2.0 * float(np.linalg.norm(_DISPLACEMENTS[structure](matrix), 2)) ** 2
    if lam <= twice * (1.0 + threshold_rounding(sum(matrix.shape))) or weight == 0.0:
        raise ValueError(
            f"multiplier: {lam} with epsilon {weight}; allowed: a multiplier above {twice:g}, "
            "twice the threshold, and epsilon > 0: elsewhere the variance is infinite"
        )
    rng = np.random.default_rng(seed)
    value, variance = lam * rho**2, 0.0
    for own_x, own_y, share in zip(x, y, mu, strict=True):
        new_x, new_y = (
            own + np.sqrt(weight / 2) * rng.standard_normal((draws, len(own)))
            if moves
            else own[None]
            for own, moves in ((own_x, structure != "y|x"), (own_y, structure != "x|y"))
        )
        exponent = ((new_x - new_y @ matrix.T) ** 2).sum(axis=1) / (lam * weight)
        potential = float(logsumexp(exponent)) - np.log(draws)
        relative = np.exp(exponent - potential)  # mean one: the ratio to the estimate
        value += share * lam * weight * potential
        variance += (share * lam * weight) ** 2 * float(relative.var()) / draws
    return MonteCarloEstimate(float(value), float(np.sqrt(variance)))


def conditional_wasserstein_lp(
    x0: Any,
    y0: Any,
    x1: Any,
    y1: Any,
    *,
    weights0: Any = None,
    weights1: Any = None,
    p: float = 2.0,
) -> float:
    r"""Transport with cost :math:`\|y-y'\|^p` where x = x' and infinity elsewhere, as one LP.

    The joint definition of the distance (paper Equation 12), not the one by conditions: one linear
    programme (HiGHS) over all pairs of samples, in which forbidden arcs have no variable.

    Parameters
    ----------
    x0, y0, x1, y1, weights0, weights1, p
        As in `conditional_wasserstein`.

    Returns
    -------
    float
        The p-th root of the optimum; infinite if the programme is infeasible.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights.
    RuntimeError
        If HiGHS finds neither an optimum nor infeasibility.
    """
    from scipy.optimize import linprog
    from scipy.spatial.distance import cdist

    x0, y0, x1, y1, weights0, weights1 = _two_laws(x0, y0, x1, y1, weights0, weights1)
    i, j = np.nonzero((x0[:, None] == x1).all(axis=2))
    cost = cdist(y0, y1)[i, j] ** p
    arcs = np.arange(len(i))
    rows = np.concatenate([i, len(x0) + j])
    shape = (len(x0) + len(x1), len(i))
    marginals = sparse.csr_array((np.ones(2 * len(i)), (rows, np.tile(arcs, 2))), shape=shape)
    masses = np.concatenate([weights0, weights1])
    if len(i) == 0:
        return float("inf")
    result = linprog(cost, A_eq=marginals, b_eq=masses, method="highs")
    if result.status == 2:
        return float("inf")
    if result.status != 0:
        raise RuntimeError(f"HiGHS found no optimum: {result.message}")
    return float(max(result.fun, 0.0)) ** (1 / p)


@dataclass(frozen=True, eq=False)
class UnbalancedReference:
    """Unbalanced transport by an outside solver.

    Attributes
    ----------
    value : float
        Its optimal value.
    plan : (N, M) array or None
    potentials : tuple of an (N,) and an (M,) array, or None
    """

    value: float
    plan: Array | None = None
    potentials: tuple[Array, Array] | None = None


def _unbalanced_programme(cost: Any, a: Any, b: Any, weight: Any) -> tuple[Array, ...]:
    price, first, second = (
        as_real_array(value, name) for value, name in ((cost, "cost"), (a, "a"), (b, "b"))
    )
    if price.ndim != 2 or price.size == 0 or (*first.shape, *second.shape) != price.shape:
        raise ValueError(
            f"cost: a non-empty (N, M) array with a of shape (N,) and b of shape (M,) is needed, "
            f"given {price.shape}, {first.shape} and {second.shape}"
        )
    for mass, name in ((first, "a"), (second, "b")):
        if (mass <= 0).any():
            raise ValueError(f"{name}: {mass.min()} is not positive; masses must be")
    if as_non_negative(weight, "weight") == 0.0:
        raise ValueError("weight: 0.0; allowed: a number > 0")
    return price, first, second


def unbalanced_ot_cvxpy(
    cost: Any,
    a: Any,
    b: Any,
    divergence: Any = ("kl", "kl"),
    *,
    weight: Any = 1.0,
    form: str = "dual",
    bound: Any = 1000.0,
) -> UnbalancedReference:
    r"""Unbalanced transport as an exponential-cone programme (cvxpy, Clarabel).

    The dual :math:`\max -w\sum a_i(e^{-u_i/w} - 1) - w\sum b_j(e^{-v_j/w} - 1)` subject to
    :math:`u_i + v_j \le c_{ij}` with potentials bounded by `bound` weights (without a bound
    Clarabel seldom converges), or the primal with relative entropies.

    Parameters
    ----------
    cost, a, b, weight
        As in `unbalanced_ot`.
    divergence : pair of "kl" and "balanced"
    form : "dual" or "primal"
    bound : float
        Largest potential over the weight, for the dual.

    Raises
    ------
    ValueError, TypeError
        For bad input.
    RuntimeError
        If Clarabel finds no optimum.
    """
    import cvxpy as cp

    price, first, second = _unbalanced_programme(cost, a, b, weight)
    w, pair = float(weight), (divergence,) * 2 if isinstance(divergence, str) else divergence
    for name in pair:
        if name not in ("kl", "balanced"):
            raise ValueError(unknown("divergence", name, ("kl", "balanced")))
    if form not in ("dual", "primal"):
        raise ValueError(unknown("form", form, ("dual", "primal")))
    limit = as_non_negative(bound, "bound")
    n, m = price.shape
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10, "max_iter": 500}
    sides = list(zip((first, second), pair, strict=True))
    plan, potentials = cp.Variable((n, m), nonneg=True), (cp.Variable(n), cp.Variable(m))
    if form == "primal":
        terms: list[Any] = [cp.sum(cp.multiply(price / w, plan))]
        constraints: list[Any] = []
        for axis, (mass, name) in zip((1, 0), sides, strict=True):
            marginal = cp.sum(plan, axis=axis)
            if name == "kl":
                terms.append(cp.sum(cp.kl_div(marginal, mass)))
            else:
                constraints.append(marginal == mass)
        problem: Any = cp.Problem(cp.Minimize(sum(terms)), constraints)
    else:
        u, v = potentials
        spread = cp.reshape(u, (n, 1), order="C") @ np.ones((1, m))
        spread += np.ones((n, 1)) @ cp.reshape(v, (1, m), order="C")
        constraints, terms = [spread <= price / w], []
        for potential, (mass, name) in zip(potentials, sides, strict=True):
            if name == "kl":
                terms.append(float(mass.sum()) - cp.sum(cp.exp(np.log(mass) - potential)))
            else:
                terms.append(mass @ potential)
            constraints += [potential <= limit, potential >= -limit]
        problem = cp.Problem(cp.Maximize(sum(terms)), constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "solution may be inaccurate": the caller compares
        try:
            problem.solve(solver="CLARABEL", **tight)
        except cp.error.SolverError as error:
            raise RuntimeError(f"Clarabel found no optimum: {error}") from None
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise RuntimeError(f"Clarabel found no optimum: {problem.status}")
    value = w * float(problem.value)
    if form == "primal":
        return UnbalancedReference(value, plan.value)
    return UnbalancedReference(value, None, (w * potentials[0].value, w * potentials[1].value))


def unbalanced_ot_mm(
    cost: Any, a: Any, b: Any, *, weight: Any = 1.0, iterations: int = 5000
) -> UnbalancedReference:
    """Unbalanced transport, KL on both sides, by POT's majorisation-minimisation.

    Its value falls to the optimum from above, slowly: the relative error is about 1e-4 after 5,000
    iterations at 200 x 200. Parameters, shapes and units as in `unbalanced_ot`; all `iterations`
    are done unless the plan stops changing.

    Raises
    ------
    ValueError, TypeError
        For bad input.
    """
    import ot
    from scipy.special import kl_div

    price, first, second = _unbalanced_programme(cost, a, b, weight)
    plan = ot.unbalanced.mm_unbalanced(
        first, second, price, float(weight), div="kl", stopThr=0.0,
        numItermax=as_positive_integer(iterations, "iterations"),
    )  # fmt: skip
    value = float((price * plan).sum())
    for axis, mass in ((1, first), (0, second)):
        value += float(weight) * float(kl_div(plan.sum(axis=axis), mass).sum())
    return UnbalancedReference(value, plan)
