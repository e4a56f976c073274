"""Structures in which x, y or both move freely: joint, y|x and x|y."""

from __future__ import annotations

import math
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import block_diag

from dro_core.checks import as_real_array
from dro_core.linear_map import ColumnScaledMap, DenseMap, LinearMap
from dro_core.structure.base import AffineDisplacement, Structure
from dro_core.transport import TransportWeight, WeightLike, norming_vector
from dro_core.types import Array, Booleans, Real


def rows_equal(a: Array, b: Array) -> Booleans:
    """Mask (N, M): row i of `a` equals row j of `b` exactly."""
    _, labels = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    labels = labels.reshape(-1)
    result: Booleans = labels[: len(a), None] == labels[None, len(a) :]
    return result


class _PointMove(Structure):
    r"""x and y move freely, at cost :math:`dx^\top W_x dx + dy^\top W_y dy`.

    With ``norm`` q other than 2 (scalar output only) at cost
    :math:`\|(W_x^{1/2}dx, W_y^{1/2}dy)\|_q^2`.
    """

    def __init__(self, weight_x: TransportWeight, weight_y: TransportWeight, norm: Real) -> None:
        self.weight_x, self.weight_y = weight_x, weight_y
        order = as_real_array(norm, "norm", finite=False)
        if order.ndim != 0 or not order >= 1:
            raise ValueError(f"norm: {norm!r}; the order of a norm is a number >= 1 or infinity")
        self.norm = float(order)
        if self.norm != 2.0 and (weight_x.is_matrix or weight_y.is_matrix):
            raise ValueError(
                f"norm: {self.norm:g} with a weight matrix; allowed with it: 2 (or give one weight "
                "per axis)"
            )

    @property
    def dual_order(self) -> float:
        """p with 1/p + 1/q = 1."""
        if self.norm == 1.0:
            return math.inf
        return 1.0 if math.isinf(self.norm) else self.norm / (self.norm - 1.0)

    def modulus(self, lipschitz: ArrayLike) -> Array:
        r""":math:`\kappa = \sqrt{\|W_x^{-1}\| + \|W_y^{-1}\| L^2}` (paper Theorem 4.1).

        With ``norm`` q, :math:`\|(w_x, w_y L)\|_p` for the constant L in that norm.
        """
        L = np.asarray(lipschitz, dtype=np.float64)
        own, image = math.sqrt(self.weight_x.inverse_norm), math.sqrt(self.weight_y.inverse_norm)
        if image == 0.0:
            return np.full_like(L, own)[()]
        if own == 0.0:
            return (L if image == 1.0 else image * L)[()]
        if self.norm == 2.0:
            return np.hypot(own, L if image == 1.0 else image * L)
        pair = np.stack([np.full_like(L, own), image * L])
        result: Array = np.linalg.norm(pair, self.dual_order, axis=0)[()]
        return result

    def displacement(self, B: LinearMap) -> AffineDisplacement:
        """C = [Wx^(-1/2), -B Wy^(-1/2)]: dx = Wx^(-1) q, dy = -Wy^(-1) Bᵀ q."""
        n, m = B.shape
        self.weight_x.check_size(n, "x")
        self.weight_y.check_size(m, "y")
        if self.norm != 2.0:
            return self._scalar_output(B)
        displace = partial(_move, B, self.weight_x, self.weight_y)
        shift, half = self.weight_x.scalar_inverse, self.weight_y.inverse_root
        factor: LinearMap | None = B
        if self.weight_y.scalar_inverse == 0.0:
            factor = None
        elif self.weight_y.scalar_inverse != 1.0:
            scale = half if half.ndim else np.full(m, float(half))
            factor = ColumnScaledMap(B, scale, math.sqrt(self.weight_y.inverse_norm))
        if shift is None:  # no multiple of the identity: one dense factor
            columns = [self.weight_x.half(n)]
            if factor is not None:
                if not factor.is_small:
                    raise ValueError(
                        "weight_x: weights that differ between axes need a dense B; allowed with "
                        "this map: one number"
                    )
                columns.append(factor.matrix())
            shift, factor = 0.0, DenseMap(np.hstack(columns))
        return AffineDisplacement(factor, shift, displace)

    def _scalar_output(self, B: LinearMap) -> AffineDisplacement:
        """The one atom κ² = |c|_p² of a scalar output; v is the signed length of the move."""
        n, m = B.shape
        if n != 1:
            raise ValueError(
                f"norm: {self.norm:g}, but x has {n} columns; the worst case in another norm than "
                "2 is available for scalar output only"
            )
        c = np.concatenate([np.ones(1), -B.adjoint(np.ones((1, 1)))[0]])
        half = np.concatenate(
            [
                np.broadcast_to(weight.inverse_root, (size,))
                for weight, size in ((self.weight_x, 1), (self.weight_y, m))
            ]
        )
        kappa, direction = norming_vector(c * half, self.norm)
        return AffineDisplacement(
            DenseMap(np.array([[kappa]])),
            0.0,
            partial(_move_along, kappa * half * direction, n),
        )

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r""":math:`dx_i^\top W_x dx_i + dy_i^\top W_y dy_i` (or the square of the q-norm); (N,)."""
        if self.norm == 2.0:
            return self.weight_x.cost(dx) + self.weight_y.cost(dy)
        whitened = self.whitened(np.hstack([dx, dy]), dx.shape[1])
        largest = np.abs(whitened).max(axis=1, initial=0.0)
        scaled = np.divide(
            whitened, largest[:, None], out=np.zeros_like(whitened), where=largest[:, None] > 0
        )
        with np.errstate(invalid="ignore"):
            length = np.where(
                np.isinf(largest), np.inf, largest * np.linalg.norm(scaled, self.norm, axis=1)
            )
        return np.asarray(length * length)

    def free_axes(self, n: int, m: int) -> Booleans:
        """Which coordinates of (x, y) can move, (n + m,) bool."""
        return ~np.concatenate([self.weight_x.frozen(n), self.weight_y.frozen(m)])

    def inverse_weight(self, n: int, m: int) -> Array:
        r""":math:`\operatorname{diag}(W_x^{-1}, W_y^{-1})`, zero where frozen, (n + m, n + m)."""
        x, y = self.weight_x, self.weight_y
        return np.asarray(block_diag(x.dense(x.inverse, n), y.dense(y.inverse, m)))

    def whitened(self, rows: Array, n: int) -> Array:
        r"""Rows (dx, dy) in the units of the transport cost, :math:`W^{1/2}` times each."""
        x, y = self.weight_x, self.weight_y
        return np.hstack([x.multiply(x.root, rows[:, :n]), y.multiply(y.root, rows[:, n:])])

    def unwhitened(self, rows: Array, n: int) -> Array:
        r"""Rows of :math:`W^{1/2}(dx, dy)` in the units of the data; zero where frozen."""
        x, y = self.weight_x, self.weight_y
        parts = x.multiply(x.inverse_root, rows[:, :n]), y.multiply(y.inverse_root, rows[:, n:])
        return np.hstack(parts)

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Booleans:
        """Candidates that agree exactly with the sample on every frozen axis."""
        still_x, still_y = (
            weight.frozen(rows.shape[1])
            for weight, rows in ((self.weight_x, x), (self.weight_y, y))
        )
        if not (still_x.any() or still_y.any()):
            return np.ones((len(x), len(x_candidates)), dtype=bool)
        return rows_equal(
            np.hstack([x[:, still_x], y[:, still_y]]),
            np.hstack([x_candidates[:, still_x], y_candidates[:, still_y]]),
        )

    def __repr__(self) -> str:
        parts = [
            f"{weight.name}={weight!r}"
            for weight in (self.weight_x, self.weight_y)
            if weight.name and repr(weight) != "1"
        ]
        if self.norm != 2.0:
            parts.append(f"norm={self.norm:g}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _frozen() -> TransportWeight:
    weight = TransportWeight(math.inf, "weight")
    weight.name = ""
    return weight


def _move(
    B: LinearMap, weight_x: TransportWeight, weight_y: TransportWeight, q: Array
) -> tuple[Array, Array]:
    """dx = Wx⁻¹q, dy = -Wy⁻¹Bᵀq."""
    sizes = ((len(q), B.shape[0]), (len(q), B.shape[1]))
    dx = (
        q
        if weight_x.scalar_inverse == 1.0
        else (
            np.zeros(sizes[0])
            if weight_x.scalar_inverse == 0.0
            else weight_x.multiply(weight_x.inverse, q)
        )
    )
    if weight_y.scalar_inverse == 0.0:
        return dx, np.zeros(sizes[1])
    dy = -B.adjoint(q)
    if weight_y.scalar_inverse != 1.0:
        dy = weight_y.multiply(weight_y.inverse, dy)
    return dx, dy


def _move_along(direction: Array, n: int, q: Array) -> tuple[Array, Array]:
    """Moves of length q along one direction of (x, y)."""
    return q * direction[:n], q * direction[n:]


class Joint(_PointMove):
    r"""Everything may move: the standard Wasserstein ball (paper Theorem 3.2, bound: 4.1).

    Parameters
    ----------
    weight_x, weight_y : None, number, (d,) array or (d, d) matrix
        Weights W of the transport cost :math:`dx^\top W_x dx + dy^\top W_y dy`: one for all axes,
        one per axis, or a symmetric positive definite matrix. None is 1. Infinity freezes an axis.
        The radius is then in the units of :math:`W^{1/2}` times the data.
    norm : float
        Order q >= 1 of the transport norm. Other than 2 for scalar output only, where the worst
        case is :math:`(\text{RMSE} + \rho\|c\|_p)^2`, 1/p + 1/q = 1, with c = (1, -β) (paper §4.2
        after Blanchet et al.).

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, or a norm below 1.
    """

    name = "joint"

    def __init__(
        self, weight_x: WeightLike | None = None, weight_y: WeightLike | None = None, norm: Real = 2
    ) -> None:
        super().__init__(
            TransportWeight(weight_x, "weight_x"), TransportWeight(weight_y, "weight_y"), norm
        )


class YGivenX(_PointMove):
    r"""Only P(Y|X) may move: noise, wrong forward model (paper Theorem 3.3, bound: 4.2).

    Parameters
    ----------
    weight_y, norm
        As in `Joint`.

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, or a norm below 1.
    """

    name = "y|x"

    def __init__(self, weight_y: WeightLike | None = None, norm: Real = 2) -> None:
        super().__init__(_frozen(), TransportWeight(weight_y, "weight_y"), norm)


class XGivenY(_PointMove):
    r"""Only P(X|Y) may move (paper §4.3).

    Parameters
    ----------
    weight_x, norm
        As in `Joint`.

    Raises
    ------
    ValueError, TypeError
        For weights that are not positive, or a norm below 1.
    """

    name = "x|y"

    def __init__(self, weight_x: WeightLike | None = None, norm: Real = 2) -> None:
        super().__init__(TransportWeight(weight_x, "weight_x"), _frozen(), norm)


#: Structures in which samples move point by point.
PointStructure: TypeAlias = Joint | YGivenX | XGivenY
