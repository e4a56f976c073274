"""Conditional W2 between Gaussian conditionals: Bures, with its own lower value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_real_array, as_samples, as_weights, check_magnitude
from dro_core.described import Described
from dro_core.read_only import ReadOnly
from dro_core.types import EPS, Array
from dro_core.wasserstein.certificate import DistanceCertificate, cost_gap

#: Covariances may have eigenvalues this far below zero, relative to the largest: rounding.
NEGATIVE_EIGENVALUE = 1e-10


class GaussianDistance(ReadOnly, Described):
    r"""Conditional W2 distance of Gaussian conditionals.

    Attributes
    ----------
    value : float
        In units of y.
    masses : (K,) array
    per_condition : (K,) array
        Squared W2 distances of the conditionals; value² is ``masses @ per_condition``.
    cross_covariances : (K, m, m) array
        :math:`E (y - m_0)(y' - m_1)^\top` under the optimal coupling.
    """

    described_by = ("value", "masses", "per_condition")

    def __init__(self, shift: Array, left: Array, right: Array, masses: Array) -> None:
        self._shift, self._left, self._right = shift, left, right
        self.masses = masses
        u, _, v = np.linalg.svd(np.swapaxes(right, 1, 2) @ left)
        self._rotation = u @ v
        moved = left - right @ self._rotation
        self.per_condition = (shift**2).sum(axis=1) + (moved**2).sum(axis=(1, 2))
        self.value = float(masses @ self.per_condition) ** 0.5
        self._protect()

    @property
    def cross_covariances(self) -> Array:
        """Cross-covariances of the optimal coupling."""
        return np.asarray(self._left @ np.swapaxes(self._right @ self._rotation, 1, 2))

    def verify(self) -> DistanceCertificate:
        r"""Cost of the coupling, and a lower value: in any orthonormal basis :math:`q_k`

        .. math:: W_2^2\bigl(N(0,C_0), N(0,C_1)\bigr) \ge
                  \sum_k\bigl(\sqrt{q_k^\top C_0q_k} - \sqrt{q_k^\top C_1q_k}\bigr)^2,

        the squared distances of the coordinates, with equality in the eigenbasis of the Monge map.
        For singular covariances that map is approximated (covariances inflated by a relative
        1e-13), and the lower value with it: to a relative 1e-5 or so. `marginal_error` is how far
        the rotations of the coupling are from orthogonal.
        """
        left, right, rotation = self._left, self._right, self._rotation
        identity = np.eye(left.shape[1])
        shifts = (self._shift**2).sum(axis=1)
        primal = shifts + ((left - right @ rotation) ** 2).sum(axis=(1, 2))
        defect = np.abs(np.swapaxes(rotation, 1, 2) @ rotation - identity).sum(axis=(1, 2))
        total = (left**2).sum(axis=(1, 2)) + (right**2).sum(axis=(1, 2))
        inflation = 1e-13 * np.maximum(total, 1e-290)[:, None, None] * identity
        root, inverse = _roots(left @ np.swapaxes(left, 1, 2) + inflation)
        inner = root @ (right @ np.swapaxes(right, 1, 2) + inflation) @ root
        basis = np.swapaxes(np.linalg.eigh(inverse @ _roots(inner)[0] @ inverse)[1], 1, 2)
        along = np.linalg.norm(basis @ left, axis=2) - np.linalg.norm(basis @ right, axis=2)
        cost = float(self.masses @ primal)
        dual = float(self.masses @ (shifts + (along**2).sum(axis=1)))
        size = self.value**2 + EPS * float(self.masses @ total)
        error = float(self.masses @ defect)
        return DistanceCertificate(self.value**2, cost, dual, cost_gap(cost, dual), error, size)


def _roots(matrices: Array) -> tuple[Array, Array]:
    """Square roots of positive definite matrices and their inverses."""
    values, vectors = np.linalg.eigh(matrices)
    values = np.sqrt(np.maximum(values, np.finfo(float).tiny))[:, None, :]
    turned = np.swapaxes(vectors, 1, 2)
    return (vectors * values) @ turned, (vectors / values) @ turned


def gaussian_conditional_wasserstein(
    means0: ArrayLike,
    covariances0: ArrayLike,
    means1: ArrayLike,
    covariances1: ArrayLike,
    weights: ArrayLike | None = None,
) -> GaussianDistance:
    r"""Conditional W2 distance between laws with Gaussian conditionals, by the Bures formula.

    .. math:: W^2 = \sum_k w_k\Bigl(\|m_{0k}-m_{1k}\|^2 + \operatorname{tr}\bigl(C_{0k} + C_{1k}
              - 2(C_{0k}^{1/2}C_{1k}C_{0k}^{1/2})^{1/2}\bigr)\Bigr)

    evaluated as :math:`\min_R\|L_{0k} - L_{1k}R\|_F^2` over orthogonal R (:math:`C = LL^\top`; one
    SVD), which loses no digits when the two are near each other.

    Parameters
    ----------
    means0, means1 : (K, m) arrays
        Means of y given the k-th x.
    covariances0, covariances1 : (K, m, m) arrays
        Symmetric positive semi-definite.
    weights : (K,) array, optional
        Masses of the x, non-negative, summing to one; default uniform.

    Returns
    -------
    GaussianDistance
        `.value`, `.per_condition`, `.cross_covariances`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, shapes that differ, or matrices that are no covariances.
    """
    means0, means1 = as_samples(means0, "means0"), as_samples(means1, "means1")
    if means0.shape != means1.shape:
        raise ValueError(f"means1: shape {means1.shape}, but means0 has {means0.shape}")
    left = _factors(covariances0, "covariances0", means0.shape)
    right = _factors(covariances1, "covariances1", means0.shape)
    return GaussianDistance(means0 - means1, left, right, as_weights(weights, len(means0)))


def _factors(value: object, name: str, shape: tuple[int, ...]) -> Array:
    """L with C = L L' for every covariance C."""
    matrices = as_real_array(value, name)
    needed = (*shape, shape[1])
    if matrices.shape != needed:
        raise ValueError(f"{name}: shape {matrices.shape}; needed: {needed}, as the means say")
    check_magnitude(matrices, name)
    largest = np.abs(matrices).max(axis=(1, 2))
    skew = np.abs(matrices - np.swapaxes(matrices, 1, 2)).max(axis=(1, 2))
    if (skew > NEGATIVE_EIGENVALUE * largest).any():
        raise ValueError(f"{name}: matrix {int(np.argmax(skew))} is not symmetric")
    values, vectors = np.linalg.eigh(matrices)
    if (values[:, 0] < -NEGATIVE_EIGENVALUE * largest).any():
        k = int(np.argmin(values[:, 0]))
        raise ValueError(
            f"{name}: the smallest eigenvalue of matrix {k} is {values[k, 0]:g}; covariances must "
            "be positive semi-definite"
        )
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])
