r"""What a weighted problem is reduced to: whitened y, frozen y partialled out, subspaces of x.

Only y that may move at weight one is left: free axes are measured in the units of the transport
cost, :math:`\tilde y = W_y^{1/2}y`, and frozen axes, whose columns of B cost nothing at any law,
are regressed out of x and of the other axes (the partial regression of Frisch and Waugh). Weights
of x cannot be whitened, for the loss is Euclidean there; the data's subspace is made invariant
under :math:`W_x^{-1}` instead. The proofs are on the estimator's page of the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dro_core.estimator.law import Law
from dro_core.estimator.newton import Subspace
from dro_core.structure import Joint, PointStructure, YGivenX
from dro_core.transport import TransportWeight
from dro_core.types import EPS, Array, Booleans


@dataclass(frozen=True, eq=False)
class Modes:
    r"""Orthonormal directions that hold the data and that :math:`W^{-1}` maps into themselves.

    Attributes
    ----------
    basis : (n, k) array
        Eigenvectors of :math:`W^{-1}`.
    inverse_weights : (k,) array
        Their eigenvalues; zero for what is frozen.
    complement : (g,) array
        Distinct eigenvalues with directions that no sample has.
    counts : (g,) array
        How many.
    """

    basis: Array
    inverse_weights: Array
    complement: Array
    counts: Array

    def coordinates(self, rows: Array) -> Array:
        """Rows in the basis."""
        n, k = self.basis.shape
        if n == k and np.array_equal(self.basis, np.eye(n)):
            return rows
        return np.asarray(rows @ self.basis)


def modes(rows: Array, weight: TransportWeight, subspace: Subspace) -> Modes:
    r"""The smallest such subspace: the rows' parts in every eigenspace of :math:`W^{-1}`.

    `subspace` is that of the rows, all there is to it if W is one number.
    """
    n = rows.shape[1]
    if weight.scalar_inverse is not None:
        groups = [(weight.scalar_inverse, subspace.basis, n)]
    else:
        values, vectors = np.diagonal(weight.dense(weight.inverse, n)), np.eye(n)
        if weight.is_matrix:
            values, vectors = np.linalg.eigh(weight.inverse)
        groups = []
        for value in np.unique(values):
            own = vectors[:, values == value]
            groups.append((value, own @ Subspace(rows @ own).basis, own.shape[1]))
    counts = np.array([size - basis.shape[1] for _, basis, size in groups], dtype=np.float64)
    distinct = np.array([value for value, _, _ in groups])
    left = (counts > 0) & (distinct > 0)
    return Modes(
        np.hstack([basis for _, basis, _ in groups]),
        np.concatenate([np.full(basis.shape[1], value) for value, basis, _ in groups]),
        distinct[left],
        counts[left],
    )


@dataclass(frozen=True, eq=False)
class WhitenedData:
    r"""The same problem with y of weight one and without frozen y, and the way back.

    With the free axes F and the frozen ones Z of y: :math:`\tilde y = W^{1/2}y_F - G_y y_Z` and
    :math:`\tilde x = x - G_x y_Z`, G the regressions on :math:`y_Z`;
    :math:`B = [\tilde B W^{1/2},\ G_x - \tilde B G_y]`.
    """

    x: Array
    y: Array
    structure: PointStructure
    free: Booleans
    half: Array
    root: Array
    regression_x: Array
    regression_y: Array

    def restore(self, B: Array) -> Array:
        """The map of the given data that belongs to a map of these."""
        result = np.zeros((len(B), len(self.free)))
        result[:, self.free] = B @ self.root
        result[:, ~self.free] = self.regression_x - B @ self.regression_y
        return result

    def restore_law(self, law: Law) -> Law:
        """The law of the given data: what moves is measured in the units of the data again."""
        n = self.x.shape[1]
        return Law(
            law.displacement_x,
            self._spread(law.displacement_y),
            np.hstack([law.roots[:, :n], self._spread(law.roots[:, n:])]),
        )

    def _spread(self, rows: Array) -> Array:
        result = np.zeros((len(rows), len(self.free)))
        result[:, self.free] = rows @ self.half
        return result


def whitened(x: Array, y: Array, weights: Array, structure: PointStructure) -> WhitenedData:
    """The data in the units of the transport cost of y, regressed on what is frozen of it."""
    weight_x, weight_y = structure.weight_x, structure.weight_y
    n, m = x.shape[1], y.shape[1]
    free = ~weight_y.frozen(m)
    axes = np.ix_(free, free)
    half = weight_y.half(m)[axes]
    # of frozen axes the root is infinite, and not used
    root = weight_y.root if weight_y.is_matrix else np.diag(np.diag(half) ** -1.0)
    moved, frozen = y[:, free] @ root, y[:, ~free]
    slopes = [np.zeros((rows.shape[1], frozen.shape[1])) for rows in (x, moved)]
    left = [x, moved]
    if frozen.size:
        root_weights = np.sqrt(weights)[:, None]
        still = Subspace(root_weights * frozen)
        slopes = [still.regress(root_weights * rows) for rows in (x, moved)]
        left = [
            _without_rounding(rows - frozen @ slope.T, rows)
            for rows, slope in zip((x, moved), slopes, strict=True)
        ]
    plain = YGivenX() if weight_x.frozen(n).all() else Joint(weight_x.value)
    return WhitenedData(left[0], left[1], plain, free, half, root, slopes[0], slopes[1])


def _without_rounding(left: Array, rows: Array) -> Array:
    """Zero, if what a regression left of the rows is rounding."""
    size = float(np.linalg.norm(rows))
    small = float(np.linalg.norm(left)) <= 16 * max(rows.shape) * EPS * size
    return np.zeros_like(left) if small else left
