"""Nonlinear maps: constants that certify, and the search for two points with one image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dro_core.twist.estimates import ROUNDINGS
from dro_core.twist.report import Finding
from dro_core.twist.twisted import Twisted, sample_pairs
from dro_core.types import EPS, Array

#: Nonlinear maps get Newton's method, whose Jacobian takes n + 1 evaluations, up to this dimension.
NEWTON_SIZE = 256


def decide_nonlinear(F: Twisted, bound: float | None, stated: bool) -> Finding:
    said = ""
    first, second = sample_pairs(F)
    image, moved = F.forward(first), F.forward(second)
    change, step = image - moved, first - second
    apart = np.linalg.norm(step, axis=1)
    noise = ROUNDINGS * EPS * (np.linalg.norm(image, axis=1) + np.linalg.norm(moved, axis=1))
    if bound is not None:
        steepest = float(((np.linalg.norm(change, axis=1) - noise) / apart).max())
        if steepest > bound * (1 + 1e-9):
            said += f"; the stated Lipschitz constant {bound:g} is refuted by a pair: {steepest:g}"
            bound = None
    if stated and F.Q is not None:
        said += "; monotonicity says nothing about A + λQᵀ"
        stated = False
    if stated:
        slopes = np.einsum("ij,ij->i", change, step)
        if (slopes < -noise * apart).any():
            k = int(np.argmin(slopes / apart**2))
            slope = slopes[k] / apart[k] ** 2
            said += f"; the stated monotonicity is refuted by a pair: slope {slope:.2g}"
            stated = False
    least = 1.0
    if F.Q is not None:
        wide = F.Q.shape[0] > F.Q.shape[1] or not F.Q.is_small
        least = 0.0 if wide else float(np.linalg.svd(F.Q.matrix(), compute_uv=False)[-1])
    sufficient: float | None = None
    why, monotone = "", 0.0 if stated else None
    if bound is not None and least > 0:
        sufficient, why = bound / least, "Lipschitz constant (stated)"
    if stated:
        sufficient, why = 0.0, "monotone (stated)"
    if sufficient is not None and F.weight > sufficient:
        word = "monotone" if stated else "Lipschitz constant (Claim 1)"
        certificate = f"{word}: stated, not refuted by {len(first)} pairs{said}; margin: at least"
        margin = F.weight if stated else F.weight * least - float(bound or 0.0)
        return Finding(True, certificate, margin, None, sufficient, why, monotone)
    small = F.m < F.n
    if small:
        sufficient, why = math.inf, f"dimension argument: R^{F.n} to R^{F.m}, for a continuous A"
    with np.errstate(all="ignore"):  # far from the points the function may overflow
        pair = _search(F)
    if pair is not None:
        largest, usual = float(np.abs(pair).max()), float(np.abs(F.points).max())
        certificate = (
            f"violating pair found by search (to rounding), entries up to {largest:.3g} "
            f"(points: {usual:.3g})" + (f"; {why}" if small else "") + said
        )
        return Finding(False, certificate, 0.0, pair, sufficient, why, monotone)
    certificate = f"not certified: no statement covers this weight, and no violation found{said}"
    if small:
        certificate = f"{why}, but no pair was found{said}"
    return Finding(None, certificate, math.nan, None, sufficient, why, monotone)


def _jacobian(F: Twisted, x: Array) -> Array:
    """Central differences, (m, n)."""
    h = 1e-6 * max(F.scale / math.sqrt(F.n), float(np.abs(x).max()))
    steps = h * np.eye(F.n)
    return np.asarray((F(x + steps) - F(x - steps)).T / (2 * h))


def _solve(F: Twisted, target: Array, start: Array) -> Array:
    """Damped Newton (least squares, shortest step) for F(x) = target."""
    x = start
    miss = F(x[None])[0] - target
    for _ in range(30):
        size = float(np.linalg.norm(miss))
        if size == 0 or not math.isfinite(size):
            break
        jacobian = _jacobian(F, x)
        if not np.isfinite(jacobian).all():
            break
        step = np.linalg.lstsq(jacobian, miss, rcond=1e-10)[0]
        shares = 0.5 ** np.arange(8)
        trials = x - shares[:, None] * step
        misses = F(trials) - target
        best = int(np.argmin(np.nan_to_num(np.linalg.norm(misses, axis=1), nan=np.inf)))
        if not np.linalg.norm(misses[best]) < size:
            break
        x, miss = trials[best], misses[best]
    return x


def _search(F: Twisted) -> tuple[Array, Array] | None:
    """Two points with the same image: plateaus, Newton from afar, and folds; None if not found."""
    rng = np.random.default_rng(0)
    chosen = F.points[np.unique(np.linspace(0, len(F.points) - 1, 6).astype(int))]
    sizes = F.scale * np.array([0.2, 1.0, 4.0, 30.0])
    for x in (*chosen, *(4 * chosen)):  # plateaus: one entry moved, here and further out
        axes = np.eye(F.n)[rng.permutation(F.n)[:64]]
        moved = np.concatenate([x + s * d for s in (-F.scale, F.scale) for d in (axes, -axes / 4)])
        equal = np.flatnonzero((F(moved) == F(x[None])).all(axis=1))
        for k in equal:
            if F.violated_by(x, moved[k]) and not _saturated(F, x, moved[k]):
                return x, moved[k]
    if F.n > NEWTON_SIZE:
        return None
    for x in chosen:
        target = F(x[None])[0]
        jacobian = np.nan_to_num(_jacobian(F, x), posinf=0.0, neginf=0.0)
        flat = np.linalg.svd(jacobian)[2][-1]
        away = rng.standard_normal(F.n)
        starts = [x + s * d for s in sizes for d in (flat, -flat, away / np.linalg.norm(away))]
        for start in (*starts, *chosen):
            end = _solve(F, target, start)
            if F.violated_by(x, end) and not _saturated(F, x, end):
                return x, end
    return _fold(F, chosen) if F.m == F.n else None


def _saturated(F: Twisted, first: Array, second: Array) -> bool:
    """Whether a pair may be equal in rounding only: it lies on a plateau without a sharp end.

    A clipped map leaves its plateau like a power of the distance, so that far more change takes far
    more distance; tanh, exp(-x) and arctan creep out of theirs, which are none. A line along which
    the image never changes is a plateau.
    """
    step, image = second - first, F(first[None])[0]
    rounding = EPS * max(float(np.abs(image).max()), EPS * F.scale)

    def change(t: Any) -> Array:
        values = F(first + np.atleast_1d(t)[:, None] * step)
        return np.asarray(np.nan_to_num(np.abs(values - image), nan=np.inf).max(axis=1))

    if (change(np.linspace(0, 1, 33)) > ROUNDINGS * rounding).any():
        return False
    ends = False
    for start, sign in ((0.0, -1.0), (1.0, 1.0)):
        reach = np.append(0.0, 2.0 ** np.arange(-3, 21))
        beyond = np.flatnonzero(change(start + sign * reach) > ROUNDINGS * rounding)
        if beyond.size == 0:
            continue
        ends, low, high = True, float(reach[beyond[0] - 1]), float(reach[beyond[0]])
        for _ in range(60):
            middle = (low + high) / 2
            if float(change(start + sign * middle)[0]) > ROUNDINGS * rounding:
                high = middle
            else:
                low = middle

        def past(
            distance: Array, start: float = start, sign: float = sign, edge: float = high
        ) -> Array:
            return change(start + sign * (edge + distance))

        if _ends_sharply(past, high, rounding):
            return False
    return ends


def _ends_sharply(change: Callable[[Array], Array], edge: float, rounding: float) -> bool:
    """Whether a map leaves a plateau of length >= 1 with a power of the distance, or by a jump."""
    distance = np.asarray(EPS * max(1.0, edge) * 2.0 ** np.arange(0, 73), dtype=np.float64)
    seen = change(distance)
    little, much = (np.flatnonzero(seen > size * rounding) for size in (1e6, 1e10))
    if not (little.size and much.size):
        return False
    slope = seen[little[0]] / distance[little[0]]  # if it held on the plateau, it would be seen
    steep = slope > 1e3 * ROUNDINGS * rounding
    return bool(steep and (much[0] == 0 or distance[much[0]] > 5 * distance[little[0]]))


def _fold(F: Twisted, chosen: Array) -> tuple[Array, Array] | None:
    """Where determinants have opposite signs there is a fold in between; pairs lie across it."""
    wider = np.concatenate([chosen, 4 * chosen, 0 * chosen[:1]])
    signs = np.array([np.linalg.slogdet(_jacobian(F, x))[0] for x in wider])
    for i, j in zip(*np.nonzero(np.triu(np.outer(signs, signs) < 0)), strict=True):
        low, high = wider[i], wider[j]
        for _ in range(40):
            middle = (low + high) / 2
            if np.linalg.slogdet(_jacobian(F, middle))[0] == signs[i]:
                low = middle
            else:
                high = middle
        direction = np.linalg.svd(_jacobian(F, low))[2][-1]
        for size in F.scale * np.array([0.1, 0.3, 1.0, 3.0]):  # continue away from the fold
            for sign in (1.0, -1.0):
                first = low + sign * size * direction
                end = _solve(F, F(first[None])[0], low - sign * size * direction)
                if F.violated_by(first, end) and not _saturated(F, first, end):
                    return first, end
    return None
