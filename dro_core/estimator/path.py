"""Where Newton's method starts, and the ways to the minimum: straight, or along entropy weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dro_core.dual import minimize_quadratic_dual
from dro_core.estimator.newton import Point, Reduced, Subspace, eigen, minimize, refine
from dro_core.types import Array

#: Without entropy the path ends at this share of the squared radius.
LEAST_ENTROPY = 1e-8
#: By what the weight falls at once where nothing is judged on the way, and from which share of the
#: squared radius on none is as good.
FAST, NEXT_TO_NONE = 25.0, 2.6e-6
#: A first attempt ends when a step promises to decrease the value by less than this share of it,
#: what single precision can tell, or double.
LAST_SINGLE, LAST_DOUBLE = 1e-5, 1e-12
#: Conjugate gradients of a step straight to the minimum, and from near by.
FEW, SOME = 8, 50
#: A best response that gains less than this share of the value is the last one.
LEAST_OF_ALTERNATION = 0.1
#: The same share on the way to a smaller entropy weight.
LAST_ON_PATH = 1e-3
#: Where the entropy weight is a smaller share of the value, single precision leads nowhere.
LEAST_SINGLE = 1e-6


def _better_than_zero(problem: Reduced, B: Array, epsilon: float) -> Array:
    r"""B, or where its risk is no less than that of zero the best map of the steepest ray from it.

    Under y|x the risk has a kink at zero, :math:`R(tD) = R(0) - 2t(\langle S, D\rangle
    - \rho\sqrt{\operatorname{tr} D^\top\Sigma D}) + O(t^2)` with :math:`S = \mathbb E xy^\top`
    and :math:`\Sigma = \mathbb E xx^\top`, steepest along :math:`D = \Sigma^{-1}S`. Newton's method
    gets caught there, unless it starts lower. All maps of a ray have one eigenproblem: with
    :math:`DD^\top = U s U^\top` that of tD is :math:`t^2s`, its residuals are
    :math:`U^\top(x_i - tDy_i)`.
    """
    zero = float((problem.mixed**2).sum()) + float((problem.rest**2).sum())
    point = problem.point(B, epsilon)
    if point.value < zero:
        return B
    data = np.vstack([problem.mixed, problem.rest])
    measured = np.vstack(
        [problem.root, np.zeros_like(problem.root, shape=(len(problem.rest), len(problem.root)))]
    )
    ray = Subspace(data).regress(measured).T
    squared, basis = eigen(ray @ ray.T)
    signals, images = data @ basis, measured @ (ray.T @ basis)
    own, mixed, moved = (
        (a * b).sum(axis=0) for a, b in ((signals, signals), (signals, images), (images, images))
    )

    def risk(length: float) -> float:
        mass = np.maximum(own - 2 * length * mixed + length**2 * moved, 0.0)
        spectrum = problem.spectrum(length**2 * np.maximum(squared, 0.0), mass)
        return minimize_quadratic_dual(spectrum, problem.radius, epsilon).value

    unit = float(np.linalg.norm(B)) / (float(np.linalg.norm(ray)) or 1.0)
    best = min((unit * 4.0**-k for k in range(-2, 20)), key=risk)
    return B if point.value <= risk(best) else np.asarray(best * ray, dtype=B.dtype)


def start(problem: Reduced, epsilon: float, weight: float) -> Array:
    """A ridge map, or a better one near zero."""
    B = problem.ridge(weight)
    return B if problem.inverse_weights.any() else _better_than_zero(problem, B, epsilon)


def alternate(problem: Reduced, B: Array, epsilon: float) -> Point:
    r"""Best responses to the curvature of the worst case, as long as they pay.

    Stationarity is :math:`KB + B\,\mathbb E yy^\top = \mathbb E xy^\top` with
    :math:`K = \Sigma G + \tfrac\varepsilon2`, ridge regression with a matrix for a number. With the
    K of the last map it is a Sylvester equation, which costs two eigenproblems and is solved from
    far away; it need not converge.
    """
    point = problem.point(B, epsilon)
    powers, basis = eigen(problem.moments)
    powers = np.maximum(powers, np.finfo(powers.dtype).eps * powers[-1])
    cross = (problem.root.T @ problem.mixed).T @ basis
    while point.smooth:
        root = np.sqrt(point.gains)
        curvature, own = eigen(root * point.sigma * root.T)
        image = own.T @ (root * (point.basis.T @ cross))
        image /= np.maximum(curvature, 0.0)[:, None] + 0.5 * epsilon + powers
        moved = problem.point(point.basis @ ((own @ image) / root) @ basis.T, epsilon)
        decrease = point.value - moved.value
        if decrease > 0.0:
            point = moved
        if decrease <= LEAST_OF_ALTERNATION * point.value:
            break
    return point


def first_attempts(problem: Reduced, epsilon: float) -> Iterator[Point]:
    """Straight to the minimum, to more and more digits: right where no kink of the risk is near.

    Or down the path of entropy weights, where Newton's method turns out to start too far away.
    """
    budget = problem.radius**2
    rough = problem.single() if problem.is_large else problem
    point = alternate(rough, start(rough, epsilon, budget / len(problem.moments)), epsilon)
    point = minimize(rough, point, epsilon, last=LAST_SINGLE, patience=FEW)
    if point.smooth and point.promised > LAST_SINGLE:
        point = _down_to(rough, max(epsilon, NEXT_TO_NONE * budget))
        point = minimize(rough, point.B, epsilon, last=LAST_SINGLE, patience=SOME)
    if problem.is_large:
        point = refine(problem, point)
        yield point
    yield minimize(problem, point, epsilon, last=LAST_DOUBLE, patience=SOME)  # all digits


def _down_to(problem: Reduced, target: float) -> Point:
    """Roughly the minimiser at an entropy weight, from that of a large one."""
    budget = problem.radius**2
    weight = max(target, budget)
    point = alternate(problem, start(problem, weight, budget), weight)
    while True:
        point = minimize(problem, point, weight, last=LAST_ON_PATH, patience=SOME)
        if weight <= target:
            return point
        weight = max(weight / FAST, target)
        point = problem.point(point.B, weight)


def entropy_path(problem: Reduced, epsilon: float, tolerance: float = 0.0) -> Iterator[Point]:
    """Minimisers along decreasing entropy weights, down to `epsilon` (or a tiny one for zero).

    Those on the way are starts for the next, so they are found roughly; what is yielded, to what
    the tolerated gap deserves. Without entropy every weight may be good enough from a small one
    on, the earlier the larger the gap that is tolerated.
    """
    budget = problem.radius**2
    target = max(epsilon, LEAST_ENTROPY * budget)
    judged_from = max(target, max(3e-5, 1e-2 * tolerance) * budget if epsilon == 0.0 else 0.0)
    weight = max(target, budget)
    point, rough = problem.point(start(problem, weight, budget), weight), problem.single()
    while True:
        last, judged = weight <= target * (1 + 1e-9), weight <= judged_from * (1 + 1e-9)
        if problem.is_large and weight >= LEAST_SINGLE * point.value:
            single = np.asarray(point.B, dtype=rough.root.dtype)
            point = minimize(rough, single, weight, last=LAST_ON_PATH)
        elif not judged:
            point = minimize(problem, point.B.astype(np.float64), weight, last=LAST_ON_PATH)
        if judged:
            point = minimize(problem, point.B.astype(np.float64), weight, last=1e-2 * tolerance)
            yield point
        if last:
            return
        weight = max(weight / 5, target)
