r"""Golub-Kahan bidiagonalisation of a map from many residuals at once, and its quadrature rules.

k steps started at r give the Gauss rule of :math:`r^\top f(FF^\top) r`, and with a node prescribed
the Gauss-Radau rule (Golub and Meurant). Runs from random vectors, without mass, see directions
without residual; without a proved norm bound they give one that holds with a stated probability
(Kuczynski and Wozniakowski 1992, Theorem 4.2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dro_core.linear_map import LinearMap
from dro_core.types import EPS, Array

#: The Radau node lies beyond the bound by this, more than the recurrence's rounding.
NODE_INFLATION = 1e-12
#: Eigenproblems handled at a time.
CHUNK = 1024


class GolubKahan:
    r"""Bidiagonalisations of one map from many start vectors at once.

    With :math:`u_1 = r/\|r\|`: :math:`\alpha_k v_k = F^\top u_k - \beta_k v_{k-1}` and
    :math:`\beta_{k+1} u_{k+1} = F v_k - \alpha_k u_k`, so that :math:`FF^\top` becomes the
    tridiagonal matrix with diagonal :math:`\alpha_k^2 + \beta_k^2` and off-diagonal
    :math:`\alpha_k\beta_{k+1}`.
    """

    def __init__(self, factor: LinearMap, starts: Array) -> None:
        self.factor = factor
        self.starts = starts
        self.lengths = np.linalg.norm(starts, axis=1)
        self.alpha = np.zeros((len(starts), 0))
        self.beta = np.zeros((len(starts), 1))  # beta[:, k] belongs to u_{k+1}; the first is zero
        self._u = _over(starts, self.lengths)
        self._v = np.zeros((len(starts), factor.shape[1]))

    @property
    def steps(self) -> int:
        """k, the number of nodes so far."""
        return self.alpha.shape[1]

    def advance(self, steps: int) -> None:
        """More steps: one product with F and one with its transpose each, for every run."""
        for _ in range(steps):
            w = self.factor.adjoint(self._u)
            w -= self.beta[:, -1:] * self._v
            alpha = self._length(w, np.zeros(len(w)))
            self._v = _over(w, alpha)
            p = self.factor.apply(self._v)
            p -= alpha[:, None] * self._u
            beta = self._length(p, alpha)
            self._u = _over(p, beta)
            self.alpha = np.column_stack([self.alpha, alpha])
            self.beta = np.column_stack([self.beta, beta])

    def _length(self, rows: Array, latest: Array) -> Array:
        """Row norms; zero where nothing but rounding is left, which ends a run."""
        lengths = np.linalg.norm(rows, axis=1)
        sizes = np.column_stack([self.alpha, self.beta, latest]).max(axis=1)
        lengths[lengths <= 8 * EPS * sizes] = 0.0
        if not np.isfinite(lengths).all():
            raise ValueError("B: its products with finite vectors are not all finite")
        return np.asarray(lengths)

    @property
    def unit(self) -> float:
        """A power of two of the size of the coefficients: their squares in it are floats."""
        largest = max(float(self.alpha.max(initial=0.0)), float(self.beta.max()))
        return math.ldexp(1.0, math.frexp(largest)[1])

    def tridiagonal(self, steps: int, runs: slice) -> Array:
        """The matrices T_k of some runs, (R, k, k), in units of `unit` squared."""
        alpha = self.alpha[runs, :steps] / self.unit
        beta = self.beta[runs, : steps + 1] / self.unit
        matrices = np.zeros((len(alpha), steps, steps))
        on, low = np.arange(steps), np.arange(steps - 1)
        matrices[:, on, on] = alpha**2 + beta[:, :-1] ** 2
        matrices[:, low, low + 1] = matrices[:, low + 1, low] = alpha[:, :-1] * beta[:, 1:-1]
        return matrices

    def combine(self, coefficients: Array, runs: slice | list[Any]) -> Array:
        """Σ_k coefficients_k u_k of some runs, by a second pass of the recurrence; (R, n)."""
        u = _over(self.starts[runs], self.lengths[runs])
        v = np.zeros((len(u), self.factor.shape[1]))
        total = np.zeros_like(u)
        for k in range(coefficients.shape[1]):
            total += coefficients[:, k, None] * u
            alpha, beta = self.alpha[runs, k], self.beta[runs, k]
            v = _over(self.factor.adjoint(u) - beta[:, None] * v, alpha)
            u = _over(self.factor.apply(v) - alpha[:, None] * u, self.beta[runs, k + 1])
        return total


def _over(rows: Array, lengths: Array) -> Array:
    """Rows divided by their lengths; zero where the length is."""
    return np.divide(rows, lengths[:, None], out=np.zeros_like(rows), where=lengths[:, None] > 0)


class KrylovRuns:
    """The runs of one factor: from the residuals first, then from random vectors."""

    def __init__(
        self, factor: LinearMap, residual: Array, weights: Array, random_starts: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        starts = rng.standard_normal((random_starts, residual.shape[1]))
        self.count = len(residual)
        self.dimension = residual.shape[1]
        self.random_starts = random_starts
        self.runs = GolubKahan(factor, np.vstack([residual, starts]))
        self.run_mass = np.append(weights, np.zeros(random_starts)) * self.runs.lengths**2
        self._gauss: tuple[int, Array, Array] = (0, np.zeros(0), np.zeros(0))

    def gauss(self, steps: int) -> tuple[Array, Array]:
        """Nodes (R, k) and eigenvectors' first components (R, k) of every run."""
        if self._gauss[0] != steps:
            self._gauss = (steps, *_nodes(self.runs, steps, None))
        return self._gauss[1], self._gauss[2]

    def radau(self, steps: int, node: float) -> tuple[Array, Array]:
        """Nodes (R, k + 1) and first components, with one node prescribed."""
        return _nodes(self.runs, steps, node)

    def top(self, steps: int) -> float:
        """The largest Gauss node: never above the largest squared singular value."""
        return float(self.gauss(steps)[0].max())

    def log_chance(self, failure_probability: float) -> float:
        """log(1.648 sqrt(n) / p), with p the share of the failure that each random run may have."""
        each = math.log(1.648 * math.sqrt(self.dimension))
        return each + math.log(1 / failure_probability) / self.random_starts

    def probable_top(self, steps: int, failure_probability: float) -> float:
        """A bound on the largest squared singular value that holds but for that probability.

        Each of q random runs has a largest node below (1 - t) of the truth with probability at
        most 1.648 sqrt(n) exp(-sqrt(t)(2k - 1)); that all have, with the q-th power of it.
        """
        short = (self.log_chance(failure_probability) / (2 * steps - 1)) ** 2
        found = float(self.gauss(steps)[0][self.count :].max())
        return max(found / (1 - short), self.top(steps)) * (1 + NODE_INFLATION)

    def proved_node(self, steps: int) -> float | None:
        """A node beyond the largest squared singular value; None without a norm bound."""
        bound = self.runs.factor.norm_bound
        if bound is None:
            return None
        check_norm_bound(bound, self.top(steps))
        return max(bound * bound, self.top(steps)) * (1 + NODE_INFLATION)

    def atoms(self, shift: float, nodes: Array, first: Array) -> tuple[Array, Array, Array]:
        """A rule of all runs as (squared singular values, mass, multiplicity) of a spectrum."""
        squared = shift + np.maximum(nodes, 0.0).ravel()
        mass = (self.run_mass[:, None] * first**2).ravel()
        return squared, mass, np.full(mass.size, self.dimension / mass.size)


def _nodes(runs: GolubKahan, steps: int, node: float | None) -> tuple[Array, Array]:
    """Eigenvalues and first components of the (extended) tridiagonal matrices, in chunks."""
    size = steps if node is None else steps + 1
    unit = runs.unit
    nodes, first = np.empty((2, len(runs.lengths), size))
    for start in range(0, len(nodes), CHUNK):
        rows = slice(start, start + CHUNK)
        matrices = runs.tridiagonal(steps, rows)
        if node is not None:
            coupling = (runs.alpha[rows, steps - 1] / unit) * (runs.beta[rows, steps] / unit)
            matrices = _with_node(matrices, coupling, node / unit / unit)
        values, vectors = np.linalg.eigh(matrices)
        nodes[rows] = values * unit * unit
        first[rows] = vectors[:, 0, :]
    return nodes, first


def _with_node(matrices: Array, coupling: Array, node: float) -> Array:
    """T_{k+1} with its last entry chosen so that `node` is an eigenvalue (Golub and Meurant)."""
    count, steps, _ = matrices.shape
    extended = np.zeros((count, steps + 1, steps + 1))
    extended[:, :steps, :steps] = matrices
    extended[:, steps - 1, steps] = extended[:, steps, steps - 1] = coupling
    if node == 0.0:  # the map is zero, and so are all nodes
        return extended
    right = np.zeros((count, steps, 1))
    right[:, -1, 0] = coupling**2
    delta = np.linalg.solve(matrices - node * np.eye(steps), right)[:, -1, 0]
    extended[:, steps, steps] = node + delta
    return extended


def check_norm_bound(bound: float, top: float) -> None:
    """Refuse a bound below a singular value that is surely there."""
    if top > bound * bound * (1 + 1e-10):
        raise ValueError(
            f"norm_bound: {bound:g} is below a singular value of the map, at least "
            f"{math.sqrt(top):.12g}; allowed: a proved bound on the largest one"
        )
