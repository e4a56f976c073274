"""Mehrotra's predictor-corrector for transport with free marginals: it finds the support."""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from dro_core.types import Array, SparseArray
from dro_core.unbalanced.arcs import Arcs, Complete, Listed
from dro_core.unbalanced.forest import longest
from dro_core.unbalanced.problem import SMALL_SHARE, Marginal

#: Duality gap at which the interior-point method hands over, relative to the value.
INTERIOR_TOLERANCE = 1e-15


class InteriorPoint:
    """Plan, potentials and slacks on some arcs; least cost 0, masses of sum 1.

    Slacks s = c - u - v - debt stay positive and the plan x follows x s = mu. The debt is zero, so
    that the potentials are feasible all the time, except on arcs that were added later: there it
    shrinks with every step.
    """

    def __init__(
        self, arcs: Arcs, rows: Marginal, columns: Marginal, u: Array, v: Array, x: Array
    ) -> None:
        self.arcs, self.sides = arcs, (rows, columns)
        self.u, self.v, self.x = u, v, x
        self.debt: Array | float = 0.0
        self.steps, self.scale = 0, 1.0  # the scale is that of the value
        self._least_error, self._stalled = math.inf, 0

    @classmethod
    def first(cls, arcs: Complete, rows: Marginal, columns: Marginal) -> InteriorPoint:
        """Near mu = 1.

        A fixed point of small mass starts with a potential so low that its column of x = mu / s has
        that mass.
        """
        u, v = (
            np.full(side.mass.shape, -0.5)
            if side.free
            else -np.maximum(1.0 / (len(side.mass) * side.mass), 0.5)
            for side in (rows, columns)
        )
        x = arcs.cost - u[:, None]
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
        return cls(arcs, rows, columns, u, v, x)

    @classmethod
    def near(
        cls, arcs: Arcs, rows: Marginal, columns: Marginal, u: Array, v: Array, total: float
    ) -> InteriorPoint:
        """Near feasible potentials, with that complementarity in all."""
        mu, per_point = total / arcs.cost.size, total / sum(arcs.shape)
        u, v = u - _room(per_point, rows, u), v - _room(per_point, columns, v)
        return cls(arcs, rows, columns, u, v, mu / (arcs.cost - arcs.spread(u, v)))

    def slack(self) -> Array:
        s = self.arcs.cost - self.arcs.spread(self.u, self.v)
        s -= self.debt
        return s

    def advance(self, goal: float, limit: int) -> bool:
        """Steps until the error, relative to the value, is at most `goal`.

        False where no step helps any more, or after `limit` steps in all.
        """
        rows, columns = self.sides
        while True:
            s = None  # free before the next one is made
            s = self.slack()
            if not s.min() > 0.0:  # the end of double precision
                return False
            x, (r, q) = self.x, self.arcs.sums(self.x)
            if not (r.min() > 0.0 and q.min() > 0.0):
                return False
            hu, fu, gap_u = rows.linearised(self.u, r)
            hv, fv, gap_v = columns.linearised(self.v, q)
            error = float(np.vdot(x, s)) + gap_u + gap_v
            if np.any(self.debt):
                error += float(np.vdot(x, np.abs(self.debt)))
            paid = float(np.vdot(x, self.arcs.cost))
            scale = paid + rows.penalty(r) + columns.penalty(q) + SMALL_SHARE
            self.scale = scale
            if error <= goal * scale:
                return True
            self._stalled = 0 if error < 0.9 * self._least_error else self._stalled + 1
            self._least_error = min(self._least_error, error)
            patience = 4 if self._least_error < 1e-9 * scale else 40
            if self._stalled >= patience or self.steps >= limit:
                return False
            if not self._step(s, (hu, hv), (fu, fv)):
                return False

    def _step(self, s: Array, h: tuple[Array, Array], f: tuple[Array, Array]) -> bool:
        """Predictor and corrector; False where the equations are singular to rounding."""
        x, arcs = self.x, self.arcs
        system = arcs.system(x, s, h)
        if system is None:
            return False
        owed = x / s * self.debt if np.any(self.debt) else 0.0
        e = -x
        e -= owed
        du, dv, dx = system.direction(e, f)
        ds = arcs.spread(-du, -dv)
        ds += self.debt
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
        dx -= owed
        du, dv, dx = system.direction(dx, f)
        ds = arcs.spread(-du, -dv)
        ds += self.debt
        length = min(longest(dx, x), longest(ds, s))
        del ds
        if not math.isfinite(float(du.sum() + dv.sum())):
            return False
        dx *= length
        x += dx
        self.u, self.v = self.u + length * du, self.v + length * dv
        self.debt *= 1.0 - length
        self.steps += 1
        return True

    def enlarged(self, arcs: Listed) -> None:
        """Go on with more arcs: new ones start near mu, with a debt if they are violated."""
        old = self.arcs
        assert isinstance(old, Listed)
        mu = float(np.vdot(self.x, self.slack())) / len(self.x)
        known = np.isin(arcs.keys, old.keys, assume_unique=True)
        r, q = old.sums(self.x)
        least = np.minimum(r[arcs.i], q[arcs.j])
        slack = arcs.cost - arcs.spread(self.u, self.v)
        with np.errstate(divide="ignore"):
            room = np.maximum(slack, special.wrightomega(np.log(10 * mu) - np.log(least)))
        x, debt = mu / room, slack - room
        x[known], debt[known] = self.x, self.debt
        self.arcs, self.x, self.debt = arcs, x, debt
        self._least_error, self._stalled = math.inf, 0

    def tight(self) -> SparseArray:
        """Arcs whose plan over slack is more than one part in N x M, by strict complementarity."""
        n, m = self.arcs.shape
        return self.arcs.tight(self.x * (n * m), self.slack())


def _room(mu: float, side: Marginal, u: Array) -> Array:
    """The t with mu / t = the marginal at u - t: a e^(t - u), so that t e^t = mu e^u / a."""
    if not side.free:
        return mu / side.mass
    return np.asarray(special.wrightomega(math.log(mu) - np.log(side.mass) + u))
