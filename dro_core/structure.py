r"""What the adversary may move: the structured ambiguity sets.

For a linear map :math:`B` and quadratic transport cost every structure perturbs the residual
*affinely*: there is a matrix :math:`C` with

.. math:: r_i = x_i - B y_i \;\mapsto\; r_i + C v_i \quad\text{at transport cost}\quad \|v_i\|^2 .

That matrix is all a worst case needs to know of the structure. Always
:math:`C C^\top = s I + F F^\top` with a number ``s`` and a factor ``F``, so that joint and y|x
share the decomposition of one and the same ``F = B``:

=========  =====================  ===  ====================  ==========================
structure  C                      s    F                     modulus :math:`\kappa(L)`
=========  =====================  ===  ====================  ==========================
joint      [I, -B]                1    B                     :math:`\sqrt{1 + L^2}`
y|x        -B                     0    B                     :math:`L`
x|y        I                      1    none                  :math:`1`
x          (I - BA) R^{-1}        0    (I - BA) R^{-1}       Lip(I - B∘A)
y          (P - B) R^{-1}         0    (P - B) R^{-1}        Lip(P - B)
=========  =====================  ===  ====================  ==========================

(:math:`R^\top R = I + A^\top A` or :math:`I + P^\top P`; :math:`R = I` when only moving the
variable that leads is paid for.) A transport cost :math:`dx^\top W_x dx + dy^\top W_y dy` is
whitened: C becomes :math:`[W_x^{-1/2}, -B W_y^{-1/2}]`, and infinite weights, whose inverse is
zero, freeze what they stand for: y|x is joint with x frozen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.linalg import qr, solve_triangular

from dro_core.bases import Basis
from dro_core.checks import (
    Array,
    as_real_array,
    as_samples,
    check_magnitude,
    check_option,
    unknown,
)
from dro_core.linear_map import ColumnScaledMap, DenseMap, LinearMap, as_linear_map
from dro_core.operators import SpectralOperator
from dro_core.transport import TransportWeight, norming_vector


@dataclass(frozen=True, eq=False)
class AffineDisplacement:
    r"""The residual as the adversary sees it, :math:`r_i \mapsto r_i + C v_i`.

    Attributes
    ----------
    residual : (N, n) array
        :math:`r_i`, the residual before the adversary spends anything of the free budget.
    factor : (n, k) LinearMap or None
        ``F`` in :math:`C C^\top = s I + F F^\top`; None for no factor.
    shift : float
        ``s``.
    displace : callable
        Maps (N, n) *dual residuals* q to the displacements ``(dx, dy)`` of the samples that
        belong to :math:`v_i = C^\top q_i`.
    base : tuple of two (N, ·) arrays, or None
        Displacement that is forced on the adversary (structure x with data off the graph of the
        forward map); None when nothing is.
    base_cost : (N,) array, or 0.0
        Transport cost of `base`, charged before anything else.
    noise_cost, noise_risk : float
        Transport cost and risk of the noise of a Gaussian likelihood or posterior, whatever the
        adversary does.
    terms : float
        A bound on the norms of the terms that C is a difference of; zero if C is no difference.
    """

    residual: Array
    factor: LinearMap | None
    shift: float
    displace: Callable[[Array], tuple[Array, Array]]
    base: tuple[Array, Array] | None = None
    base_cost: Array | float = 0.0
    noise_cost: float = 0.0
    noise_risk: float = 0.0
    terms: float = 0.0

    def forced_cost(self, weights: Array) -> float:
        """What the adversary pays before anything is left to choose."""
        return float(np.sum(weights * self.base_cost)) + self.noise_cost


class Structure(ABC):
    """A structured ambiguity set (paper §2.1): which part of the law of (x, y) may move."""

    #: The short name used in function arguments and tables.
    name: ClassVar[str]

    @abstractmethod
    def modulus(self, lipschitz: Any) -> Any:
        r"""Modulus :math:`\kappa` of the explicit bound :math:`(\sqrt M + \rho\kappa)^2`.

        `lipschitz` is the Lipschitz constant of the reconstruction map (structure x: of
        I - B∘A); arrays broadcast.
        """

    @abstractmethod
    def displacement(self, B: LinearMap, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """The affine action on the residuals of the linear map `B`; residual = x - y Bᵀ."""

    @abstractmethod
    def transport_cost(self, dx: Array, dy: Array) -> Array:
        """Transport cost of each displacement, shape (N,), in squared units of the data."""

    @abstractmethod
    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Which candidates (x'_j, y'_j) sample i may be moved to: a boolean (N, M) mask."""


def _rows_equal(a: Array, b: Array) -> Any:
    """Mask (N, M): row i of `a` equals row j of `b` exactly."""
    _, labels = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    labels = labels.reshape(-1)
    return labels[: len(a), None] == labels[None, len(a) :]


class _PointMove(Structure):
    r"""x and y move freely, at cost :math:`dx^\top W_x dx + dy^\top W_y dy`.

    With ``norm`` q other than 2 (scalar output only) at cost
    :math:`\|(W_x^{1/2}dx, W_y^{1/2}dy)\|_q^2`.
    """

    def __init__(self, weight_x: TransportWeight, weight_y: TransportWeight, norm: Any) -> None:
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

    def modulus(self, lipschitz: Any) -> Any:
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
        return np.linalg.norm(pair, self.dual_order, axis=0)[()]

    def displacement(self, B: LinearMap, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = [Wx^(-1/2), -B Wy^(-1/2)]: dx = Wx^(-1) q, dy = -Wy^(-1) Bᵀ q."""
        self.weight_x.check_size(x.shape[1], "x")
        self.weight_y.check_size(y.shape[1], "y")
        if self.norm != 2.0:
            return self._scalar_output(B, residual)
        displace = partial(_move, B, self.weight_x, self.weight_y)
        shift, half = self.weight_x.scalar_inverse, self.weight_y.inverse_root
        factor: LinearMap | None = B
        if self.weight_y.scalar_inverse == 0.0:
            factor = None
        elif self.weight_y.scalar_inverse != 1.0:
            scale = half if half.ndim else np.full(y.shape[1], float(half))
            factor = ColumnScaledMap(B, scale, math.sqrt(self.weight_y.inverse_norm))
        if shift is None:  # no multiple of the identity: one dense factor
            columns = [self.weight_x.half(x.shape[1])]
            if factor is not None:
                if not factor.is_small:
                    raise ValueError(
                        "weight_x: weights that differ between axes need a dense B; allowed with "
                        "this map: one number"
                    )
                columns.append(factor.matrix())
            shift, factor = 0.0, DenseMap(np.hstack(columns))
        return AffineDisplacement(residual, factor, shift, displace)

    def _scalar_output(self, B: LinearMap, residual: Array) -> AffineDisplacement:
        """The one atom κ² = |c|_p² of a scalar output; v is the signed length of the move."""
        n, m = B.shape
        if n != 1:
            raise ValueError(
                f"norm: {self.norm:g}, but x has {n} columns; the worst case in another norm than "
                "2 is available for scalar output only"
            )
        c = np.concatenate([np.ones(1), -B.adjoint(np.ones((1, 1)))[0]])
        half = np.concatenate(
            [np.broadcast_to(weight.inverse_root, (size,))
             for weight, size in ((self.weight_x, 1), (self.weight_y, m))]
        )  # fmt: skip
        kappa, direction = norming_vector(c * half, self.norm)
        return AffineDisplacement(
            residual, DenseMap(np.array([[kappa]])), 0.0,
            partial(_move_along, kappa * half * direction, n),
        )  # fmt: skip

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r""":math:`dx_i^\top W_x dx_i + dy_i^\top W_y dy_i` (or the square of the q-norm); (N,)."""
        if self.norm == 2.0:
            return self.weight_x.cost(dx) + self.weight_y.cost(dy)
        whitened = np.hstack(
            [weight.multiply(weight.root, rows)
             for weight, rows in ((self.weight_x, dx), (self.weight_y, dy))]
        )  # fmt: skip
        largest = np.abs(whitened).max(axis=1, initial=0.0)
        scaled = np.divide(
            whitened, largest[:, None], out=np.zeros_like(whitened), where=largest[:, None] > 0
        )
        with np.errstate(invalid="ignore"):
            length = np.where(
                np.isinf(largest), np.inf, largest * np.linalg.norm(scaled, self.norm, axis=1)
            )
        return np.asarray(length * length)

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Candidates that agree exactly with the sample on every frozen axis."""
        still_x, still_y = (
            weight.frozen(rows.shape[1])
            for weight, rows in ((self.weight_x, x), (self.weight_y, y))
        )
        if not (still_x.any() or still_y.any()):
            return np.ones((len(x), len(x_candidates)), dtype=bool)
        return _rows_equal(
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
    dx = q if weight_x.scalar_inverse == 1.0 else (
        np.zeros(sizes[0]) if weight_x.scalar_inverse == 0.0
        else weight_x.multiply(weight_x.inverse, q)
    )  # fmt: skip
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

    def __init__(self, weight_x: Any = None, weight_y: Any = None, norm: Any = 2) -> None:
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

    def __init__(self, weight_y: Any = None, norm: Any = 2) -> None:
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

    def __init__(self, weight_x: Any = None, norm: Any = 2) -> None:
        super().__init__(TransportWeight(weight_x, "weight_x"), _frozen(), norm)


class _Root(ABC):
    """R with RᵀR = W_leader + GᵀW_follower G, as solves with R and its transpose."""

    @abstractmethod
    def solve(self, rows: Array) -> Array:
        """Rows u to rows R⁻¹u."""

    @abstractmethod
    def solve_transposed(self, rows: Array) -> Array:
        """Rows u to rows R⁻ᵀu."""


class _TriangularRoot(_Root):
    def __init__(self, R: Array) -> None:
        self.R = R

    def solve(self, rows: Array) -> Array:
        return np.asarray(solve_triangular(self.R, rows.T, check_finite=False).T)

    def solve_transposed(self, rows: Array) -> Array:
        return np.asarray(solve_triangular(self.R, rows.T, trans="T", check_finite=False).T)


class _SpectralRoot(_Root):
    def __init__(self, basis: Basis, values: Array) -> None:
        self.basis, self.values = basis, values

    def solve(self, rows: Array) -> Array:
        return self.basis.synthesize(self.basis.analyze(rows) / self.values)

    solve_transposed = solve


class _GraphShift(Structure):
    r"""One variable leads, the other follows through a kernel N(G u, Σ), Σ = 0 included.

    Every sample is mapped to a point :math:`(u', G u')` of the graph, at cost
    :math:`\|u' - u\|_{W}^2 + \|G u' - w\|_{V}^2` for leader u and follower w. With
    :math:`R^\top R = W + G^\top V G` and the residual map :math:`D` on the graph the displacement
    is :math:`C = D R^{-1}`. Data off the graph, :math:`e_i = w_i - G u_i \ne 0`, are first moved
    onto it (complete the square: :math:`u_i + H^{-1}G^\top V e_i`, :math:`H = R^\top R`), and that
    cost is charged before anything else. Noise of the kernel adds a constant to the risk and
    :math:`\operatorname{tr} V\Sigma` to the cost.
    """

    #: Which variable leads: 0 for x, 1 for y.
    _leader: ClassVar[int]
    #: Name of the argument that holds G.
    _argument: ClassVar[str]

    def __init__(
        self, kernel: Any, cost: str, covariance: Any, weight_leader: Any, weight_follower: Any
    ) -> None:
        names = ("x", "y")[self._leader], ("y", "x")[self._leader]
        self.kernel = as_linear_map(kernel, self._argument)
        check_option(cost, "cost", ("joint", names[0]))
        self.cost = cost
        follower, leader = self.kernel.shape
        self._weight = TransportWeight(weight_leader, f"weight_{names[0]}")
        self._follower_weight = TransportWeight(weight_follower, f"weight_{names[1]}")
        if cost != "joint" and weight_follower is not None:
            raise ValueError(f"weight_{names[1]}: has no effect with cost={cost!r}; leave it out")
        self._weight.check_size(leader, names[0])
        self._follower_weight.check_size(follower, names[1])
        for weight, size in ((self._weight, leader), (self._follower_weight, follower)):
            if weight.frozen(size).any():
                raise ValueError(
                    f"{weight.name}: infinite; structure {self.name!r} has no frozen axes"
                )
        self._covariance = as_covariance(covariance, follower)
        spectral = self.kernel.spectral()
        plain = self._weight.value.ndim == self._follower_weight.value.ndim == 0
        self._root: _Root
        if spectral is not None and plain:
            gain = float(self._follower_weight.value) if cost == "joint" else 0.0
            values = np.abs(spectral.multipliers) ** 2
            self._root = _SpectralRoot(
                spectral.right, np.sqrt(float(self._weight.value) + gain * values)
            )
        else:
            blocks = [_as_matrix(self._weight.root, leader)]
            if cost == "joint":
                blocks.append(_as_matrix(self._follower_weight.root, follower) @ kernel_matrix(
                    self.kernel, self._argument
                ))  # fmt: skip
            # R from a QR of the two halves: the Gram matrix is never formed.
            self._root = _TriangularRoot(qr(np.vstack(blocks), mode="r")[0][:leader])

    def modulus(self, lipschitz: Any) -> Any:
        r""":math:`\kappa` = Lip of the residual map on the graph, passed as `lipschitz`.

        (This project's extension. A weight of the leader divides it by its root.)
        """
        L = np.asarray(lipschitz, dtype=np.float64)
        own = self._weight.inverse_norm
        return (L if own == 1.0 else L * math.sqrt(own))[()]

    @abstractmethod
    def _residual_map(self, B: LinearMap) -> LinearMap:
        """D: the residual of a point of the graph, as a map of the leader."""

    @abstractmethod
    def _terms(self, B: LinearMap) -> float:
        """A bound on the norms of the two maps that D is the difference of."""

    def displacement(self, B: LinearMap, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = D R⁻¹; v = Cᵀq, leader R⁻¹v, follower G times that."""
        samples = (x, y)
        leader, follower = samples[self._leader], samples[1 - self._leader]
        self._check_shape(x, y)
        defect = self._residual_map(B)
        factor = self._factor(defect)
        displace = partial(self._move_along_graph, factor)
        noise_cost, noise_risk = self.noise_cost, self._noise_risk(B)
        terms = self._terms(B) * math.sqrt(self._weight.inverse_norm)  # |R⁻¹|² <= |W⁻¹|
        if self._on_graph(x, y).all():
            return AffineDisplacement(
                defect.apply(leader),
                factor,
                0.0,
                displace,
                None,
                0.0,
                noise_cost,
                noise_risk,
                terms,
            )
        off_graph = follower - self.kernel.apply(leader)
        if self.cost == "joint":
            pull = self._follower_weight.multiply(self._follower_weight.value, off_graph)
            move = self._root.solve(self._root.solve_transposed(self.kernel.adjoint(pull)))
        else:
            move = np.zeros(leader.shape)
        base = self._pair(move, self.kernel.apply(move) - off_graph)
        return AffineDisplacement(
            defect.apply(leader + move), factor, 0.0, displace, base,
            self.transport_cost(*base), noise_cost, noise_risk, terms,
        )  # fmt: skip

    def _check_shape(self, x: Array, y: Array) -> None:
        sizes = (x.shape[1], y.shape[1])
        if self.kernel.shape != (sizes[1 - self._leader], sizes[self._leader]):
            leader, follower = ("x", "y")[self._leader], ("y", "x")[self._leader]
            needed = (sizes[1 - self._leader], sizes[self._leader])
            raise ValueError(
                f"{self._argument}: shape {self.kernel.shape}, but x has {sizes[0]} columns and y "
                f"has {sizes[1]}; a map from {leader} to {follower} has shape {needed}"
            )

    def _factor(self, defect: LinearMap) -> LinearMap:
        spectral = defect.spectral()
        if isinstance(self._root, _SpectralRoot) and spectral is not None:
            return SpectralOperator(
                spectral.left, spectral.multipliers / self._root.values, spectral.right
            )
        return DenseMap(self._root.solve_transposed(kernel_matrix(defect, "B")))

    def _move_along_graph(self, factor: LinearMap, q: Array) -> tuple[Array, Array]:
        """Leader R⁻¹Cᵀq, follower G times that."""
        move = self._root.solve(factor.adjoint(q))
        return self._pair(move, self.kernel.apply(move))

    def _pair(self, leader: Array, follower: Array) -> tuple[Array, Array]:
        return (leader, follower) if self._leader == 0 else (follower, leader)

    def _on_graph(self, x: Array, y: Array) -> Any:
        """Rows on the graph up to the rounding of the product; (N,) bool."""
        leader, follower = (x, y) if self._leader == 0 else (y, x)
        image = self.kernel.apply(leader)
        if self.kernel.spectral() is None and self.kernel.is_small:
            size = np.abs(leader) @ np.abs(self.kernel.matrix()).T + np.abs(follower)
        else:  # a transform mixes all entries, and so does its rounding
            size = np.linalg.norm(leader, axis=1, keepdims=True) * (self.kernel.norm_bound or 0.0)
            size = size + np.abs(follower)
        return np.all(np.abs(follower - image) <= 1e-13 * size, axis=1)

    @property
    def noise_cost(self) -> float:
        """Transport cost tr(VΣ) of the kernel's noise."""
        if self._covariance is None or self.cost != "joint":
            return 0.0
        weight = self._follower_weight.value
        if weight.ndim == 2 or self._covariance.ndim == 2:
            size = self.kernel.shape[0]
            product = _as_matrix(weight, size) * _as_matrix(self._covariance, size)
            return float(product.sum())
        return float((np.broadcast_to(weight * self._covariance, (self.kernel.shape[0],))).sum())

    @abstractmethod
    def _noise_risk(self, B: LinearMap) -> float:
        """Risk that the kernel's noise adds."""

    def noise_covariance(self) -> Array | None:
        """Σ of the follower as a matrix, or None without noise."""
        if self._covariance is None:
            return None
        return _as_matrix(self._covariance, self.kernel.shape[0])

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r"""Cost of the displacements, :math:`dx^\top W_x dx + dy^\top W_y dy`; shape (N,).

        With a ``cost`` on one variable alone, that part alone.
        """
        leader, follower = (dx, dy) if self._leader == 0 else (dy, dx)
        cost = self._weight.cost(leader)
        return cost + self._follower_weight.cost(follower) if self.cost == "joint" else cost

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Candidates on the graph (to rounding), for every sample."""
        if self._covariance is not None:
            raise ValueError(
                f"structure: {self!r} moves samples to Gaussian laws, not to points; candidates "
                "need a kernel without noise"
            )
        on_graph = self._on_graph(x_candidates, y_candidates)
        return np.broadcast_to(on_graph, (len(x), len(on_graph)))

    def __repr__(self) -> str:
        rows, columns = self.kernel.shape
        parts = [f"{self._argument}=<{rows} x {columns} map>", f"cost={self.cost!r}"]
        if self._covariance is not None:
            parts.append("covariance=<given>")
        parts += [
            f"{weight.name}={weight!r}"
            for weight in (self._weight, self._follower_weight)
            if repr(weight) != "1"
        ]
        return f"{type(self).__name__}({', '.join(parts)})"


def _share_bases(
    first: SpectralOperator | None, second: SpectralOperator | None, *, crosswise: bool
) -> bool:
    """Whether two maps are diagonal in the same bases (crosswise: can be multiplied there)."""
    if first is None or second is None:
        return False
    other = (second.right, second.left) if crosswise else (second.left, second.right)
    return first.left == other[0] and first.right == other[1]


def _norm_bound(linear: LinearMap) -> float:
    """The map's own bound on its norm, or its Frobenius norm."""
    bound = linear.norm_bound
    return math.sqrt(linear.squared_frobenius()) if bound is None else bound


def kernel_matrix(linear: LinearMap, name: str) -> Array:
    """The dense matrix of a map that is small enough for one."""
    if not linear.is_small:
        raise ValueError(
            f"{name}: shape {linear.shape}; this structure needs a matrix (of at most 2048² "
            "entries, not a LinearOperator), or a forward map and B that are diagonal in one and "
            "the same fast basis"
        )
    return linear.matrix()


def _as_matrix(value: Array, size: int) -> Array:
    return value if value.ndim == 2 else np.diag(np.broadcast_to(value, (size,)))


def as_covariance(value: Any, size: int) -> Array | None:
    """A variance, variances per axis, or a symmetric positive semi-definite matrix; or None."""
    if value is None:
        return None
    array = as_real_array(value, "covariance")
    check_magnitude(array, "covariance")
    if array.shape not in ((), (size,), (size, size)):
        raise ValueError(
            f"covariance: shape {array.shape}; needed: a variance, ({size},) variances or a "
            f"({size}, {size}) matrix"
        )
    if array.ndim == 2:
        largest = float(np.abs(array).max())
        if float(np.abs(array - array.T).max()) > 1e-12 * largest:
            raise ValueError("covariance: the matrix is not symmetric")
        smallest = float(np.linalg.eigvalsh(array)[0])
        if smallest < -1e-12 * largest:
            raise ValueError(
                f"covariance: the smallest eigenvalue is {smallest:.3g}; a covariance is positive "
                "semi-definite"
            )
    elif (array < 0).any():
        raise ValueError(f"covariance: {array.min()} is negative; variances are >= 0")
    return array if array.any() else None


class XShift(_GraphShift):
    r"""The law of x moves and y follows through the likelihood N(Ax', Σ) (paper §2.1, class 1).

    Every sample is mapped to a point :math:`(x', A x')` of the graph of A (plus noise). With
    :math:`R^\top R = I + A^\top A` the displacement is :math:`C = (I - BA)R^{-1}`. Data that are
    off the graph, :math:`e_i = y_i - A x_i \ne 0`, are first moved onto it (complete the square):
    the residual becomes :math:`(I - BA)(x_i + H^{-1}A^\top e_i)` with :math:`H = I + A^\top A`, and
    the cost :math:`e_i^\top (I + AA^\top)^{-1} e_i` of that move is charged first. A Gaussian
    likelihood adds :math:`\operatorname{tr} B\Sigma B^\top` to the risk and charges
    :math:`\operatorname{tr}\Sigma` (if moving y is paid for). If the radius does not cover what is
    charged, the ambiguity ball is empty.

    Parameters
    ----------
    forward : (m, n) matrix, scipy sparse matrix or operator of `dro_core.operators`
        The linear forward map A. If A and B are diagonal in the same fast basis (a convolution
        and its inverse, say), nothing dense is formed.
    cost : "joint" or "x"
        Pay for moving x and y ("joint", the transport cost of the other structures), or for
        moving x alone ("x"; then the data's own y play no part in the worst case).
    covariance : None, variance, (m,) variances or (m, m) matrix
        :math:`\Sigma` of the likelihood, in squared units of y; None for y' = Ax' exactly.
    weight_x, weight_y : None, number, (d,) array or (d, d) matrix
        Finite weights of the transport cost, as in `Joint`.

    Raises
    ------
    ValueError, TypeError
        If `forward` is not a finite real map, `cost` is unknown, the covariance is not positive
        semi-definite, or a weight is not positive and finite.
    """

    name = "x"
    _leader = 0
    _argument = "forward"

    def __init__(
        self,
        forward: Any,
        cost: Literal["joint", "x"] = "joint",
        covariance: Any = None,
        *,
        weight_x: Any = None,
        weight_y: Any = None,
    ) -> None:
        super().__init__(forward, cost, covariance, weight_x, weight_y)

    @property
    def forward(self) -> LinearMap:
        """The forward map A."""
        return self.kernel

    def _residual_map(self, B: LinearMap) -> LinearMap:
        """I - BA."""
        first, second = B.spectral(), self.kernel.spectral()
        if _share_bases(first, second, crosswise=True):
            product = 1.0 - first.multipliers * second.multipliers
            return SpectralOperator(first.left, product, second.right)
        A = kernel_matrix(self.kernel, self._argument)
        return DenseMap(np.eye(A.shape[1]) - kernel_matrix(B, "B") @ A)

    def _terms(self, B: LinearMap) -> float:
        return 1.0 + _norm_bound(B) * _norm_bound(self.kernel)

    def _noise_risk(self, B: LinearMap) -> float:
        """tr BΣBᵀ."""
        if self._covariance is None:
            return 0.0
        if self._covariance.ndim == 0:
            return float(self._covariance) * B.squared_frobenius()
        image = kernel_matrix(B, "B")
        if self._covariance.ndim == 1:
            return float(((image * image) @ self._covariance).sum())
        return float(np.einsum("ij,jk,ik->", image, self._covariance, image))


class YShift(_GraphShift):
    r"""The law of y moves and x follows through the posterior N(Py', Σ) (paper §2.1, class 2).

    The mirror image of `XShift`: atoms are :math:`(P y', y')`, the displacement is
    :math:`C = (P - B)R^{-1}` with :math:`R^\top R = I + P^\top P`, the residual (P - B)y, and data
    with x ≠ Py pay :math:`e^\top(I + PP^\top)^{-1}e`, e = x - Py, first. The posterior's covariance
    adds :math:`\operatorname{tr}\Sigma` to the risk and, if moving x is paid for, to the cost.

    Parameters
    ----------
    posterior : (n, m) matrix, scipy sparse matrix or operator of `dro_core.operators`
        The posterior mean P, for instance the pseudo-inverse of the forward map.
    cost : "joint" or "y"
        Pay for moving x and y, or for moving y alone.
    covariance : None, variance, (n,) variances or (n, n) matrix
        :math:`\Sigma` of the posterior, in squared units of x.
    weight_x, weight_y : None, number, (d,) array or (d, d) matrix
        Finite weights of the transport cost, as in `Joint`.

    Raises
    ------
    ValueError, TypeError
        As `XShift`.
    """

    name = "y"
    _leader = 1
    _argument = "posterior"

    def __init__(
        self,
        posterior: Any,
        cost: Literal["joint", "y"] = "joint",
        covariance: Any = None,
        *,
        weight_x: Any = None,
        weight_y: Any = None,
    ) -> None:
        super().__init__(posterior, cost, covariance, weight_y, weight_x)

    @property
    def posterior(self) -> LinearMap:
        """The posterior mean P."""
        return self.kernel

    def _residual_map(self, B: LinearMap) -> LinearMap:
        """P - B."""
        first, second = B.spectral(), self.kernel.spectral()
        if _share_bases(first, second, crosswise=False):
            difference = second.multipliers - first.multipliers
            return SpectralOperator(first.left, difference, first.right)
        return DenseMap(kernel_matrix(self.kernel, self._argument) - kernel_matrix(B, "B"))

    def _terms(self, B: LinearMap) -> float:
        return _norm_bound(self.kernel) + _norm_bound(B)

    def _noise_risk(self, B: LinearMap) -> float:
        """tr Σ."""
        if self._covariance is None:
            return 0.0
        return float(np.trace(_as_matrix(self._covariance, self.kernel.shape[0])))


#: Structures by name; "x" and "y" need their map, so only their modulus can be used by name.
STRUCTURES: dict[str, type[Structure]] = {
    cls.name: cls for cls in (Joint, YGivenX, XGivenY, XShift, YShift)
}


def _check_name(structure: Any, name: str) -> None:
    if not isinstance(structure, str):
        raise TypeError(
            f"{name}: {structure!r} is neither a name nor a Structure; "
            f"allowed names: {', '.join(map(repr, STRUCTURES))}"
        )
    if structure not in STRUCTURES:
        raise ValueError(unknown(name, structure, STRUCTURES))


def structure_modulus(structure: str | Structure, lipschitz: Any) -> Any:
    r"""The modulus :math:`\kappa(L)` of a structure given by name or as an object."""
    if isinstance(structure, Structure):
        return structure.modulus(lipschitz)
    _check_name(structure, "structure")
    if structure in (XShift.name, YShift.name):  # the Lipschitz constant is that of I - BA, P - B
        return np.asarray(lipschitz, dtype=np.float64)[()]
    return as_structure(structure).modulus(lipschitz)


def as_structure(structure: str | Structure, name: str = "structure") -> Structure:
    """A structure object from a name ("joint", "y|x", "x|y") or from an object."""
    if isinstance(structure, Structure):
        return structure
    _check_name(structure, name)
    cls = STRUCTURES[structure]
    if issubclass(cls, _GraphShift):
        which = {"forward": "the forward map", "posterior": "the posterior mean"}[cls._argument]
        raise ValueError(
            f"{name}: {structure!r} needs {which}; pass {cls.__name__}({cls._argument}) instead "
            "of the name"
        )
    return _by_name(cls)


@cache
def _by_name(cls: type[Structure]) -> Structure:
    """The plain structure of a class: it holds no data, so one object serves everyone."""
    return cls()


def admissible_candidates(
    x: Any, y: Any, x_candidates: Any, y_candidates: Any, structure: str | Structure = "y|x"
) -> Any:
    """Which candidate points each sample may be moved to under a structure (paper §2.1).

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        The samples.
    x_candidates, y_candidates : (M, n) and (M, m) arrays
        The candidate points (x'_j, y'_j).
    structure : "joint", "y|x", "x|y" or a Structure
        y|x admits candidates with the sample's own x (exactly equal), x|y with its own y, `XShift`
        and `YShift` those on the graph of their map, joint all; frozen axes must agree exactly.

    Returns
    -------
    (N, M) array of bool
        The mask to pass to `finite_worst_case` as `admissible`.

    Raises
    ------
    ValueError, TypeError
        For arrays that are not finite, not 2-D or do not fit together; for an unknown structure,
        or one with a Gaussian kernel.
    """
    resolved = as_structure(structure)
    points = {
        "x": as_samples(x, "x"),
        "y": as_samples(y, "y"),
        "x_candidates": as_samples(x_candidates, "x_candidates"),
        "y_candidates": as_samples(y_candidates, "y_candidates"),
    }
    for first, second in (("x", "y"), ("x_candidates", "y_candidates")):
        if len(points[first]) != len(points[second]):
            raise ValueError(
                f"{second}: {len(points[second])} rows, but {first} has {len(points[first])}"
            )
    for given, needed in (("x_candidates", "x"), ("y_candidates", "y")):
        if points[given].shape[1] != points[needed].shape[1]:
            raise ValueError(
                f"{given}: {points[given].shape[1]} columns, but {needed} has "
                f"{points[needed].shape[1]}"
            )
    return resolved.admissible(*points.values())
