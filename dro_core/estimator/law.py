"""A law of the ball that bounds every linear map from below: atoms that move, and Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import brentq

from dro_core.entropic import EntropicWorstCase, covariance_divergence
from dro_core.structure import PointStructure, Structure
from dro_core.types import EPS, Array


@dataclass(frozen=True, eq=False)
class Law:
    """A law of the ball: sample i moved by (dx_i, dy_i), blurred by a common Gaussian.

    `roots` holds rows (dx, dy) whose Gram matrix is the covariance.
    """

    displacement_x: Array
    displacement_y: Array
    roots: Array

    def _shifts(self, weights: Array, structure: Structure) -> float:
        return float(weights @ structure.transport_cost(self.displacement_x, self.displacement_y))

    def spent(self, weights: Array, structure: Structure) -> float:
        """Transport cost, covariance included; infinite for a move of what is frozen."""
        n = self.displacement_x.shape[1]
        blur = structure.transport_cost(self.roots[:, :n], self.roots[:, n:])
        return self._shifts(weights, structure) + float(blur.sum())

    def divergence(self, weights: Array, epsilon: float, structure: PointStructure) -> float:
        r"""ε KL relative to the samples blurred by :math:`N(0, \tfrac\varepsilon2W^{-1})`."""
        sizes = self.displacement_x.shape[1], self.displacement_y.shape[1]
        free = structure.free_axes(*sizes)
        covariance = self.roots[:, free].T @ self.roots[:, free]
        reference = 0.5 * epsilon * structure.inverse_weight(*sizes)[np.ix_(free, free)]
        blur = 0.5 * epsilon * covariance_divergence(covariance, reference)
        return self._shifts(weights, structure) + blur

    def scaled(self, budget: float, weights: Array, structure: Structure) -> Law:
        """The law that spends exactly the budget: displacements and roots times one number."""
        spent = self.spent(weights, structure)
        factor = math.sqrt(budget / spent) if spent > 0 else 0.0
        return Law(factor * self.displacement_x, factor * self.displacement_y, factor * self.roots)

    def within(
        self, budget: float, weights: Array, epsilon: float, structure: PointStructure
    ) -> Law:
        """The law, or where ε KL exceeds the budget its displacements and roots times a number."""

        def times(factor: float) -> Law:
            return Law(
                factor * self.displacement_x, factor * self.displacement_y, factor * self.roots
            )

        def excess(factor: float) -> float:
            return times(factor).divergence(weights, epsilon, structure) - budget

        if not excess(1.0) > 0.0:
            return self
        return times(brentq(excess, 0.5, 1.0, xtol=1e-15) * (1.0 - 4 * EPS))

    def least_squares_risk(self, x: Array, y: Array, weights: Array) -> float:
        """The smallest mean squared error of any linear map under this law: a lower value."""
        root, n = np.sqrt(weights)[:, None], x.shape[1]
        moved = np.hstack([root * (y + self.displacement_y), root * (x + self.displacement_x)])
        moved = np.vstack([moved, np.hstack([self.roots[:, n:], self.roots[:, :n]])])
        m, largest = y.shape[1], max(moved.shape)
        if len(moved) > m:
            value = _schur_complement(moved.T @ moved, m)
            if value is not None:
                return value
        if len(moved) > m + n:
            moved = np.asarray(np.linalg.qr(moved, mode="r"))
            diagonal = np.abs(np.diagonal(moved)[:m])
            if diagonal.min() > 1e-13 * diagonal.max():  # y' of full rank: the last block is left
                return float((moved[m:, m:] ** 2).sum())
        return float((_residual_of_projection(moved[:, m:], moved[:, :m], largest) ** 2).sum())


def _schur_complement(moments: Array, m: int) -> float | None:
    r"""Trace of what is left of second moments without the first m variables; None if inexact.

    From a Cholesky factor its error is eps times the moments times :math:`(1 + \|B\|)^2`, with B
    the regression on those variables (:math:`\|B\|^4 \le \|B^\top B\|_F^2`): given only where that
    is below 1e-12 of the value.
    """
    try:
        root = np.linalg.cholesky(moments[:m, :m])
    except np.linalg.LinAlgError:
        return None
    half = solve_triangular(root, moments[:m, m:], lower=True, check_finite=False)
    slope = solve_triangular(root, half, lower=True, trans="T", check_finite=False)
    value = float(np.trace(moments[m:, m:])) - float((half * half).sum())
    norm = math.sqrt(float(np.linalg.norm(slope.T @ slope)))
    error = float(np.trace(moments)) * (1.0 + norm) ** 2
    return value if value > 1e-3 * error else None


def _residual_of_projection(targets: Array, rows: Array, size: int) -> Array:
    """What is left of the targets' columns outside the span of the rows' columns.

    `size` is the larger side of the array whose rounding the rows have.
    """
    columns, values, _ = np.linalg.svd(rows, full_matrices=False)
    kept = columns[:, values > size * EPS * values[:1].sum()]
    left = targets - kept @ (kept.T @ targets)
    return np.asarray(left - kept @ (kept.T @ left))


def law_of_gaussians(worst: EntropicWorstCase, without: float = 0.0) -> Law:
    """The worst-case Gaussians of an entropic problem, less some white noise (after whitening)."""
    structure, (n, m) = worst.structure, worst.covariance_xy.shape
    blocks = worst.covariance_x, worst.covariance_xy, worst.covariance_y
    covariance = np.block([[blocks[0], blocks[1]], [blocks[1].T, blocks[2]]])
    white = structure.whitened(structure.whitened(covariance, n).T, n)
    free = structure.free_axes(n, m)
    values, vectors = np.linalg.eigh(white[np.ix_(free, free)])
    kept = values > without
    roots = np.zeros((int(kept.sum()), n + m))
    roots[:, free] = (vectors[:, kept] * np.sqrt(values[kept] - without)).T
    return Law(worst.displacement_x, worst.displacement_y, structure.unwhitened(roots, n))
