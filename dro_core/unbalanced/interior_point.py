"""Mehrotra's predictor-corrector for transport with free marginals: it finds the support."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import linalg, sparse

from dro_core.types import Array, SparseArray
from dro_core.unbalanced.forest import longest
from dro_core.unbalanced.problem import SMALL_SHARE, Marginal

#: Duality gap at which the interior-point method hands over, relative to the value.
_INTERIOR_TOLERANCE = 1e-15


def interior_point(
    cost: Array, rows: Marginal, columns: Marginal, max_steps: int
) -> tuple[SparseArray, Array, Array, int]:
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
    step_x, step_s, before = longest(dx, x), longest(ds, s), float(np.vdot(x, s))
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
    length = min(longest(dx, x), longest(_sum(-du, -dv), s))
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
