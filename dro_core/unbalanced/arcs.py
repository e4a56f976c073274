"""Arcs of a transport problem, all of them or a list, and Newton's equations on them.

The equations of a step are, with z = x/s, W the matrix of z and h the diagonals of the marginals,

    [ h_u + W 1    W        ] [du]   [f_u - E 1 ]
    [ W'           h_v + W'1] [dv] = [f_v - E' 1],      dx = e + z (du + dv).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import splu

from dro_core.checks import magnitude
from dro_core.types import Array, Booleans, Indices, SparseArray
from dro_core.unbalanced.forest import heaviest_forest

Pair = tuple[Array, Array]
#: Relative residual, in the norm of the preconditioner, at which conjugate gradients stop.
_RESIDUAL, _ITERATIONS = 1e-4, 500


class System(Protocol):
    """Newton's equations at one point."""

    def direction(self, e: Array, f: Pair) -> tuple[Array, Array, Array]:
        """du, dv, and the change of x, whose part e is given (and overwritten)."""


class Arcs(Protocol):
    """What the interior-point method asks of arcs; x, s and costs have one entry per arc."""

    cost: Array
    shape: tuple[int, int]

    def spread(self, u: Array, v: Array) -> Array:
        """u_i + v_j of every arc."""

    def sums(self, x: Array) -> Pair:
        """The marginals of a plan."""

    def system(self, x: Array, s: Array, h: Pair) -> System | None:
        """Newton's equations; None where they are singular to rounding."""

    def tight(self, x: Array, s: Array) -> SparseArray:
        """x/s of the arcs with x > s."""


class Complete:
    """All arcs, as matrices; one Cholesky factorisation of size N per step."""

    def __init__(self, cost: Array) -> None:
        self.cost: Array = cost
        self.shape: tuple[int, int] = (cost.shape[0], cost.shape[1])

    def spread(self, u: Array, v: Array) -> Array:
        return u[:, None] + v

    def sums(self, x: Array) -> Pair:
        return x.sum(axis=1), x.sum(axis=0)

    def system(self, x: Array, s: Array, h: Pair) -> System | None:
        try:
            return _Factored(x, s, h)
        except linalg.LinAlgError:
            return None

    def tight(self, x: Array, s: Array) -> SparseArray:
        i, j = np.nonzero(x > s)
        return _ratios(i, j, x[i, j], s[i, j], self.shape)


class _Factored:
    """Reduced to (D_u - W D_v^-1 W') du = ..., whose diagonal is summed from its off-diagonal
    entries, which have one sign: no cancellation.
    """

    def __init__(self, x: Array, s: Array, h: Pair) -> None:
        Z = x / s
        self.Dv = np.sqrt(h[1] + Z.sum(axis=0))
        Z /= self.Dv
        S = Z @ Z.T
        diagonal = S.sum(axis=1) - S.diagonal() + h[0] + Z @ (h[1] / self.Dv)
        np.negative(S, out=S)
        S[np.diag_indices(len(S))] = diagonal * (1 + 1e-15 * len(S))
        self.Z, self.factor = Z, linalg.cho_factor(S.T, overwrite_a=True, check_finite=False)

    def direction(self, e: Array, f: Pair) -> tuple[Array, Array, Array]:
        Z, Dv = self.Z, self.Dv
        gu, gv = f[0] - e.sum(axis=1), (f[1] - e.sum(axis=0)) / Dv
        du = linalg.cho_solve(self.factor, gu - Z @ gv, check_finite=False)
        dv = (gv - Z.T @ du) / Dv
        change = du[:, None] + dv
        change *= Z
        change *= Dv
        e += change
        return du, dv, e


class Listed:
    """A list of arcs, sorted by row, at least one per row and per column.

    The interior-point method runs on it, and its certificates are those of the problem on these
    arcs alone.
    """

    def __init__(self, keys: Indices, cost: Array, shape: tuple[int, int]) -> None:
        """From sorted keys iM + j and their costs."""
        self.keys, self.cost, self.shape = keys, cost, shape
        self.i, self.j = np.divmod(keys, shape[1])
        self.largest = magnitude(cost)
        self._starts = np.searchsorted(self.i, np.arange(shape[0] + 1))
        self._by_column = np.argsort(self.j, kind="stable")
        self._column_starts = np.searchsorted(self.j[self._by_column], np.arange(shape[1]))

    def spread(self, u: Array, v: Array) -> Array:
        return np.asarray(u[self.i] + v[self.j])

    def sums(self, x: Array) -> Pair:
        n, m = self.shape
        return np.bincount(self.i, x, n).astype(float), np.bincount(self.j, x, m).astype(float)

    def matrix(self, entries: Array) -> SparseArray:
        """Entries of the arcs as a sparse matrix."""
        return sparse.csr_array((entries, self.j, self._starts), shape=self.shape)

    def system(self, x: Array, s: Array, h: Pair) -> System | None:
        try:
            return _Iterative(self, x / s, h)
        except (RuntimeError, FloatingPointError):  # SuperLU: exactly singular
            return None

    def tight(self, x: Array, s: Array) -> SparseArray:
        k = np.flatnonzero(x > s)
        return _ratios(self.i[k], self.j[k], x[k], s[k], self.shape)

    def at(self, i: Indices, j: Indices) -> Array:
        """The costs of arcs of the list."""
        return np.asarray(self.cost[np.searchsorted(self.keys, i * self.shape[1] + j)])

    def transform(self, v: Array) -> Array:
        return np.asarray(np.minimum.reduceat(self.cost - v[self.j], self._starts[:-1]))

    def transform_columns(self, u: Array) -> Array:
        slack = (self.cost - u[self.i])[self._by_column]
        return np.asarray(np.minimum.reduceat(slack, self._column_starts))

    def tightest(
        self, axis: int, points: Indices, potential: Array, usable: Booleans
    ) -> tuple[Indices, Array]:
        """The partner of least slack on the list, usable or not: its few may all be useless."""
        own, other = (self.i, self.j) if axis == 0 else (self.j, self.i)
        slack = self.cost - potential[other]
        order = np.lexsort((slack, own))
        first = order[np.unique(own[order], return_index=True)[1]][points]
        return other[first], slack[first]


class _Iterative:
    """Conjugate gradients on the equations scaled to unit diagonal, W' = D^-1/2 W D^-1/2.

    Preconditioned by the heaviest spanning forest of W', which has a factorisation without fill:
    the better, the nearer the plan is to the forest that it ends on.
    """

    def __init__(self, arcs: Listed, z: Array, h: Pair) -> None:
        rows, columns = arcs.sums(z)
        self.arcs, self.z = arcs, z
        self.roots = np.sqrt(h[0] + rows), np.sqrt(h[1] + columns)
        scaled = z / (self.roots[0][arcs.i] * self.roots[1][arcs.j])
        if not np.isfinite(scaled).all():
            raise FloatingPointError("the scaled equations are not finite")
        self.W = arcs.matrix(scaled)
        tree, (n, m) = heaviest_forest(arcs.i, arcs.j, scaled, arcs.shape), arcs.shape
        coupling = sparse.coo_array((tree.data, (tree.row, tree.col + n)), shape=(n + m, n + m))
        matrix = sparse.csc_array(sparse.eye_array(n + m) + coupling + coupling.T)
        self.factor: Any = splu(
            matrix,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def _product(self, p: Array) -> Array:
        n = self.arcs.shape[0]
        return np.asarray(p + np.concatenate([self.W @ p[n:], self.W.T @ p[:n]]))

    def _solve(self, g: Array) -> Array:
        y: Array = self.factor.solve(g)
        r = g - self._product(y)
        q: Array = self.factor.solve(r)
        p, size = q, float(r @ q)
        enough = _RESIDUAL**2 * abs(float(g @ y))
        for _ in range(_ITERATIONS):
            if not size > enough:
                break
            product = self._product(p)
            step = size / float(p @ product)
            y, r = y + step * p, r - step * product
            q = self.factor.solve(r)
            size, before = float(r @ q), size
            p = q + (size / before) * p
        return y

    def direction(self, e: Array, f: Pair) -> tuple[Array, Array, Array]:
        arcs, n = self.arcs, self.arcs.shape[0]
        roots = np.concatenate(self.roots)
        sums = arcs.sums(e)
        y = self._solve(np.concatenate([f[0] - sums[0], f[1] - sums[1]]) / roots) / roots
        du, dv = y[:n], y[n:]
        e += self.z * arcs.spread(du, dv)
        return du, dv, e


def _ratios(i: Indices, j: Indices, x: Array, s: Array, shape: tuple[int, int]) -> SparseArray:
    with np.errstate(divide="ignore"):
        ratio = np.minimum(x / np.maximum(s, 0.0), 1e300)
    return sparse.coo_array((ratio, (i, j)), shape=shape)
