"""Structures in which a variable follows the other on the graph of a map: x and y."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import qr, solve_triangular

from dro_core.bases import Basis
from dro_core.checks import as_real_array, check_magnitude, check_option
from dro_core.linear_map import DenseMap, LinearMap, MapLike, as_linear_map
from dro_core.operators import SpectralOperator
from dro_core.structure.base import AffineDisplacement, Start, Structure
from dro_core.transport import TransportWeight, WeightLike, as_square
from dro_core.types import Array, Booleans


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


class GraphShift(Structure):
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
        self,
        kernel: MapLike,
        cost: str,
        covariance: ArrayLike | None,
        weight_leader: WeightLike,
        weight_follower: WeightLike,
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
            blocks = [as_square(self._weight.root, leader)]
            if cost == "joint":
                blocks.append(
                    as_square(self._follower_weight.root, follower)
                    @ kernel_matrix(self.kernel, self._argument)
                )
            # R from a QR of the two halves: the Gram matrix is never formed.
            self._root = _TriangularRoot(qr(np.vstack(blocks), mode="r")[0][:leader])

    def modulus(self, lipschitz: ArrayLike) -> Array:
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

    def displacement(self, B: LinearMap) -> AffineDisplacement:
        """C = D R⁻¹; v = Cᵀq, leader R⁻¹v, follower G times that."""
        self._check_shape(B.shape)
        defect = self._residual_map(B)
        factor = self._factor(defect)
        return AffineDisplacement(
            factor,
            0.0,
            partial(self._move_along_graph, factor),
            partial(self._onto_graph, defect),
            self.noise_cost,
            self._noise_risk(B),
            self._terms(B) * math.sqrt(self._weight.inverse_norm),  # |R⁻¹|² <= |W⁻¹|
        )

    def _onto_graph(self, defect: LinearMap, x: Array, y: Array) -> Start:
        """Residuals D u' after the cheapest move onto the graph, for samples that are off it."""
        leader, follower = (x, y) if self._leader == 0 else (y, x)
        on_graph = self._on_graph(x, y)
        if on_graph.all():
            return Start(defect.apply(leader))
        off_graph = follower - self.kernel.apply(leader)
        off_graph[on_graph] = 0.0
        if self.cost == "joint":
            pull = self._follower_weight.multiply(self._follower_weight.value, off_graph)
            move = self._root.solve(self._root.solve_transposed(self.kernel.adjoint(pull)))
        else:
            move = np.zeros(leader.shape)
        base = self._pair(move, self.kernel.apply(move) - off_graph)
        return Start(defect.apply(leader + move), base, self.transport_cost(*base))

    def _check_shape(self, sizes: tuple[int, int]) -> None:
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

    def _on_graph(self, x: Array, y: Array) -> Booleans:
        """Rows on the graph up to the rounding of the product; (N,) bool."""
        leader, follower = (x, y) if self._leader == 0 else (y, x)
        image = self.kernel.apply(leader)
        if self.kernel.spectral() is None and self.kernel.is_small:
            size = np.abs(leader) @ np.abs(self.kernel.matrix()).T + np.abs(follower)
        else:  # a transform mixes all entries, and so does its rounding
            size = np.linalg.norm(leader, axis=1, keepdims=True) * (self.kernel.norm_bound or 0.0)
            size = size + np.abs(follower)
        result: Booleans = np.all(np.abs(follower - image) <= 1e-13 * size, axis=1)
        return result

    @property
    def noise_cost(self) -> float:
        """Transport cost tr(VΣ) of the kernel's noise."""
        if self._covariance is None or self.cost != "joint":
            return 0.0
        weight = self._follower_weight.value
        if weight.ndim == 2 or self._covariance.ndim == 2:
            size = self.kernel.shape[0]
            product = as_square(weight, size) * as_square(self._covariance, size)
            return float(product.sum())
        return float((np.broadcast_to(weight * self._covariance, (self.kernel.shape[0],))).sum())

    @abstractmethod
    def _noise_risk(self, B: LinearMap) -> float:
        """Risk that the kernel's noise adds."""

    def noise_covariance(self) -> Array | None:
        """Σ of the follower as a matrix, or None without noise."""
        if self._covariance is None:
            return None
        return as_square(self._covariance, self.kernel.shape[0])

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r"""Cost of the displacements, :math:`dx^\top W_x dx + dy^\top W_y dy`; shape (N,).

        With a ``cost`` on one variable alone, that part alone.
        """
        leader, follower = (dx, dy) if self._leader == 0 else (dy, dx)
        cost = self._weight.cost(leader)
        return cost + self._follower_weight.cost(follower) if self.cost == "joint" else cost

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Booleans:
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


def as_covariance(value: object, size: int, name: str = "covariance") -> Array | None:
    """A variance, variances per axis, or a symmetric positive semi-definite matrix; or None."""
    if value is None:
        return None
    array = as_real_array(value, name)
    check_magnitude(array, name)
    if array.shape not in ((), (size,), (size, size)):
        raise ValueError(
            f"{name}: shape {array.shape}; needed: a variance, ({size},) variances or a "
            f"({size}, {size}) matrix"
        )
    if array.ndim == 2:
        largest = float(np.abs(array).max())
        if float(np.abs(array - array.T).max()) > 1e-12 * largest:
            raise ValueError(f"{name}: the matrix is not symmetric")
        smallest = float(np.linalg.eigvalsh(array)[0])
        if smallest < -1e-12 * largest:
            raise ValueError(
                f"{name}: the smallest eigenvalue is {smallest:.3g}; a covariance is positive "
                "semi-definite"
            )
    elif (array < 0).any():
        raise ValueError(f"{name}: {array.min()} is negative; variances are >= 0")
    return array if array.any() else None


class XShift(GraphShift):
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
        forward: MapLike,
        cost: Literal["joint", "x"] = "joint",
        covariance: ArrayLike | None = None,
        *,
        weight_x: WeightLike | None = None,
        weight_y: WeightLike | None = None,
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


class YShift(GraphShift):
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
        posterior: MapLike,
        cost: Literal["joint", "y"] = "joint",
        covariance: ArrayLike | None = None,
        *,
        weight_x: WeightLike | None = None,
        weight_y: WeightLike | None = None,
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
        return float(np.trace(as_square(self._covariance, self.kernel.shape[0])))
