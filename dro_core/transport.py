r"""The transport cost :math:`d^\top W d` of a displacement, and its whitening.

Only :math:`W^{-1/2}` enters a worst case, so infinite weights are allowed: they are zeros there and
freeze what they stand for.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_real_array, check_magnitude
from dro_core.types import Array


def squared_norms(rows: Array) -> Array:
    """Squared Euclidean norm of each row, (N, d) -> (N,)."""
    result: Array = np.einsum("ij,ij->i", rows, rows)
    return result


def as_square(value: Array, size: int) -> Array:
    """A number, one per axis or a matrix, as a (size, size) matrix."""
    return value if value.ndim == 2 else np.diag(np.broadcast_to(value, (size,)))


#: Weight of a transport cost: one, one per axis, or a matrix; None is 1.
WeightLike: TypeAlias = ArrayLike | None


class TransportWeight:
    r"""Positive definite weight W of a transport cost :math:`d^\top W d`; infinite parts freeze.

    Parameters
    ----------
    value : None, number, (d,) array or (d, d) matrix
        None is 1; numbers and entries of a 1-D array are in (0, inf]; a matrix is symmetric
        positive definite.
    name : str
        The argument, for messages.

    Raises
    ------
    ValueError, TypeError
        For zero, negative or NaN weights, or a matrix that is not symmetric positive definite.
    """

    def __init__(self, value: Any, name: str) -> None:
        self.name = name
        array = as_real_array(1.0 if value is None else value, name, finite=False)
        check_magnitude(np.where(np.isinf(array), 0.0, array), name)
        self.is_matrix = array.ndim == 2
        if array.ndim > 2 or array.size == 0:
            raise ValueError(
                f"{name}: shape {array.shape}; a number, one weight per axis (d,) or a (d, d) "
                "matrix is needed"
            )
        if self.is_matrix:
            self.value, self.root, self.inverse, self.inverse_root = self._of_matrix(array)
        else:
            if (array <= 0).any():
                raise ValueError(
                    f"{name}: {array.min()} is not a weight; allowed: numbers > 0, and infinity "
                    "to freeze an axis"
                )
            finite = array[np.isfinite(array)]
            if finite.size and not (finite.min() >= 1e-100 and finite.max() <= 1e100):
                raise ValueError(
                    f"{name}: weights from {finite.min():g} to {finite.max():g}; allowed: 1e-100 "
                    "to 1e100, and infinity"
                )
            self.value, self.root = array, np.sqrt(array)
            self.inverse, self.inverse_root = 1.0 / array, 1.0 / np.sqrt(array)

    def _of_matrix(self, array: Array) -> tuple[Array, Array, Array, Array]:
        if array.shape[0] != array.shape[1] or not np.isfinite(array).all():
            raise ValueError(
                f"{self.name}: shape {array.shape}; a weight matrix is square and finite (freeze "
                "axes with an infinite entry in a 1-D array of weights)"
            )
        size = float(np.abs(array).max())
        if float(np.abs(array - array.T).max()) > 1e-12 * size:
            raise ValueError(f"{self.name}: the matrix is not symmetric")
        values, vectors = np.linalg.eigh(array)
        if values[0] <= 1e-14 * max(values[-1], 0.0):
            raise ValueError(
                f"{self.name}: the smallest eigenvalue is {values[0]:.3g}; a transport cost needs "
                "a positive definite matrix"
            )
        powers = [(vectors * values**power) @ vectors.T for power in (0.5, -1.0, -0.5)]
        return array, powers[0], powers[1], powers[2]

    @property
    def scalar_inverse(self) -> float | None:
        """1/W if W is one number for all axes (zero if it is infinite), else None."""
        return float(self.inverse) if self.inverse.ndim == 0 else None

    @property
    def inverse_norm(self) -> float:
        r"""Largest eigenvalue of :math:`W^{-1}`."""
        if self.is_matrix:
            return float(np.linalg.norm(self.inverse, 2))
        return float(np.max(self.inverse))

    def multiply(self, power: Array, rows: Array) -> Array:
        """Rows times one of the powers of W, which are symmetric."""
        if power.ndim == 2:
            return rows @ power
        with np.errstate(invalid="ignore"):
            return np.where(rows == 0, 0.0, rows * power)  # a frozen axis that did not move

    def check_size(self, size: int, variable: str) -> None:
        """Refuse weights that do not fit the samples."""
        if self.value.ndim > 0 and self.value.shape[0] != size:
            raise ValueError(
                f"{self.name}: shape {self.value.shape}, but {variable} has {size} columns; "
                f"needed: a number, ({size},) or ({size}, {size})"
            )

    def cost(self, rows: Array) -> Array:
        r""":math:`d_i^\top W d_i` of each row, (N,)."""
        if self.value.ndim == 0 and self.value == 1.0:
            return squared_norms(rows)
        if self.value.ndim == 0 and np.isinf(self.value):
            return np.where(rows.any(axis=1), np.inf, 0.0) if rows.any() else np.zeros(len(rows))
        return squared_norms(self.multiply(self.root, rows))

    def frozen(self, size: int) -> Any:
        """Which axes cannot move, (size,) bool."""
        value = np.zeros(size) if self.is_matrix else np.broadcast_to(self.value, (size,))
        return np.isinf(value)

    def dense(self, power: Array, size: int) -> Array:
        """One of the powers of W as a (size, size) matrix."""
        return as_square(power, size)

    def half(self, size: int) -> Array:
        r""":math:`W^{-1/2}` as a (size, size) matrix."""
        return self.dense(self.inverse_root, size)

    def __repr__(self) -> str:
        if self.value.ndim == 0:
            return f"{float(self.value):g}"
        return "<" + " x ".join(map(str, self.value.shape)) + " weights>"


def norming_vector(c: Array, order: float) -> tuple[float, Array]:
    """(|c|_p, u) with |u|_q = 1 and c·u = |c|_p, where q is `order` and 1/p + 1/q = 1."""
    largest = float(np.abs(c).max())
    if largest == 0.0:
        return 0.0, np.zeros_like(c)
    if order == 1.0:
        j = int(np.argmax(np.abs(c)))
        u = np.zeros_like(c)
        u[j] = math.copysign(1.0, c[j])
        return largest, u
    if math.isinf(order):
        return float(np.abs(c).sum()), np.sign(c)
    p = order / (order - 1.0)
    scaled = np.abs(c) / largest
    norm = float((scaled**p).sum()) ** (1 / p)
    return largest * norm, np.sign(c) * (scaled / norm) ** (p - 1.0)
