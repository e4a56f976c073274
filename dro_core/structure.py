r"""What the adversary may move: the structured ambiguity sets.

For a linear map :math:`B` and squared Euclidean transport cost every structure perturbs the
residual *affinely*: there is a matrix :math:`C` with

.. math:: r_i = x_i - B y_i \;\mapsto\; r_i + C v_i \quad\text{at transport cost}\quad \|v_i\|^2 .

That matrix is all a worst case needs to know of the structure. Always
:math:`C C^\top = s I + F F^\top` with ``s`` = 0 or 1 and a factor ``F``, so that joint and y|x
share the decomposition of one and the same ``F = B``:

=========  =====================  ===  ====================  ==========================
structure  C                      s    F                     modulus :math:`\kappa(L)`
=========  =====================  ===  ====================  ==========================
joint      [I, -B]                1    B                     :math:`\sqrt{1 + L^2}`
y|x        -B                     0    B                     :math:`L`
x|y        I                      1    none                  :math:`1`
x          (I - BA) R^{-1}        0    (I - BA) R^{-1}       Lip(I - B∘A)
=========  =====================  ===  ====================  ==========================

(:math:`R^\top R = I + A^\top A`, or :math:`R = I` when only moving x is paid for.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.linalg import qr, solve_triangular

from dro_core._validation import Array, as_map, as_samples, unknown


@dataclass(frozen=True, eq=False)
class AffineDisplacement:
    r"""The residual as the adversary sees it, :math:`r_i \mapsto r_i + C v_i`.

    Attributes
    ----------
    residual : (N, n) array
        :math:`r_i`, the residual before the adversary spends anything of the free budget.
    factor : (n, k) array or None
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
    """

    residual: Array
    factor: Array | None
    shift: float
    displace: Callable[[Array], tuple[Array, Array]]
    base: tuple[Array, Array] | None = None
    base_cost: Array | float = 0.0


class Structure(ABC):
    """A structured ambiguity set (paper §2.1): which part of the law of (x, y) may move."""

    #: The short name used in function arguments and tables.
    name: ClassVar[str]

    @staticmethod
    @abstractmethod
    def modulus(lipschitz: Any) -> Any:
        r"""Modulus :math:`\kappa` of the explicit bound :math:`(\sqrt M + \rho\kappa)^2`.

        `lipschitz` is the Lipschitz constant of the reconstruction map (structure x: of
        I - B∘A); arrays broadcast.
        """

    @abstractmethod
    def displacement(self, B: Array, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """The affine action on the residuals of the linear map `B`; residual = x - y Bᵀ."""

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r"""Transport cost :math:`\|dx_i\|^2 + \|dy_i\|^2` of each displacement, shape (N,)."""
        return squared_norms(dx) + squared_norms(dy)

    @abstractmethod
    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Which candidates (x'_j, y'_j) sample i may be moved to: a boolean (N, M) mask."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def squared_norms(rows: Array) -> Array:
    """Squared Euclidean norm of each row, (N, d) -> (N,)."""
    return np.einsum("ij,ij->i", rows, rows)


def _rows_equal(a: Array, b: Array) -> Any:
    """Mask (N, M): row i of `a` equals row j of `b` exactly."""
    _, labels = np.unique(np.concatenate([a, b]), axis=0, return_inverse=True)
    labels = labels.reshape(-1)
    return labels[: len(a), None] == labels[None, len(a) :]


def _move_both(B: Array, q: Array) -> tuple[Array, Array]:
    return q, -(q @ B)


def _move_y(B: Array, x_shape: tuple[int, ...], q: Array) -> tuple[Array, Array]:
    return np.zeros(x_shape), -(q @ B)


def _move_x(y_shape: tuple[int, ...], q: Array) -> tuple[Array, Array]:
    return q, np.zeros(y_shape)


class Joint(Structure):
    """Everything may move: the standard Wasserstein ball (paper Theorem 3.2, bound: 4.1)."""

    name = "joint"

    @staticmethod
    def modulus(lipschitz: Any) -> Any:
        r""":math:`\kappa = \sqrt{1 + L^2}` (paper Theorem 4.1)."""
        return np.hypot(1.0, lipschitz)

    def displacement(self, B: Array, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = [I, -B]: dx = q, dy = -Bᵀq."""
        return AffineDisplacement(residual, B, 1.0, partial(_move_both, B))

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Every candidate, for every sample."""
        return np.ones((len(x), len(x_candidates)), dtype=bool)


class YGivenX(Structure):
    """Only P(Y|X) may move: noise, wrong forward model (paper Theorem 3.3, bound: 4.2)."""

    name = "y|x"

    @staticmethod
    def modulus(lipschitz: Any) -> Any:
        r""":math:`\kappa = L` (paper Theorem 4.2)."""
        return np.asarray(lipschitz, dtype=np.float64)[()]

    def displacement(self, B: Array, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = -B: dx = 0, dy = -Bᵀq."""
        return AffineDisplacement(residual, B, 0.0, partial(_move_y, B, x.shape))

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Candidates with the sample's own x, exactly."""
        return _rows_equal(x, x_candidates)


class XGivenY(Structure):
    """Only P(X|Y) may move (paper §4.3)."""

    name = "x|y"

    @staticmethod
    def modulus(lipschitz: Any) -> Any:
        r""":math:`\kappa = 1`, whatever the map (paper §4.3)."""
        return np.ones_like(lipschitz, dtype=np.float64)[()]

    def displacement(self, B: Array, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = I: dx = q, dy = 0."""
        return AffineDisplacement(residual, None, 1.0, partial(_move_x, y.shape))

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Candidates with the sample's own y, exactly."""
        return _rows_equal(y, y_candidates)


class XShift(Structure):
    r"""The law of x moves and y follows through the forward map, y' = A x' (paper §2.1, class 1).

    Every sample is mapped to a point :math:`(x', A x')` of the graph of A. With
    :math:`R^\top R = I + A^\top A` the displacement is :math:`C = (I - BA)R^{-1}`. Data that are
    off the graph, :math:`e_i = y_i - A x_i \ne 0`, are first moved onto it (complete the square):
    the residual becomes :math:`(I - BA)(x_i + H^{-1}A^\top e_i)` with :math:`H = I + A^\top A`, and
    the cost :math:`e_i^\top (I + AA^\top)^{-1} e_i` of that move is charged first. If the radius
    does not cover it the ambiguity ball is empty.

    Parameters
    ----------
    forward : (m, n) matrix, scipy sparse matrix or operator of `dro_core.operators`
        The linear forward map A.
    cost : "joint" or "x"
        Pay for moving x and y ("joint", the transport cost of the other structures), or for
        moving x alone ("x"; then the data's own y play no part in the worst case).

    Raises
    ------
    ValueError, TypeError
        If `forward` is not a finite real matrix or `cost` is unknown.
    """

    name = "x"

    def __init__(self, forward: Any, cost: Literal["joint", "x"] = "joint") -> None:
        self.forward = as_map(forward, "forward")
        if cost not in ("joint", "x"):
            raise ValueError(unknown("cost", cost, ("joint", "x")))
        self.cost = cost
        size = self.forward.shape[1]
        if cost == "joint":
            # R from a QR of [I; A]: the Gram matrix I + AᵀA is never formed.
            self._root: Array = qr(np.vstack([np.eye(size), self.forward]), mode="r")[0][:size]
        else:
            self._root = np.eye(size)

    @staticmethod
    def modulus(lipschitz: Any) -> Any:
        r""":math:`\kappa` = Lip(I - B∘A), passed as `lipschitz` (this project's extension)."""
        return np.asarray(lipschitz, dtype=np.float64)[()]

    def displacement(self, B: Array, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """C = (I - BA)R⁻¹; v = Cᵀq, dx = R⁻¹v, dy = A dx."""
        A, R = self.forward, self._root
        if A.shape != (x.shape[1], y.shape[1])[::-1]:
            raise ValueError(
                f"forward: shape {A.shape}, but x has {x.shape[1]} columns and y has {y.shape[1]}; "
                f"a map from x to y has shape ({y.shape[1]}, {x.shape[1]})"
            )
        defect = np.eye(x.shape[1]) - B @ A
        factor = _solve(R, defect.T, transposed=True).T
        displace = partial(self._move_along_graph, factor)
        if self._on_graph(x, y).all():
            return AffineDisplacement(x @ defect.T, factor, 0.0, displace)
        off_graph = y - x @ A.T
        if self.cost == "joint":
            # H⁻¹Aᵀe by two triangular solves with R
            dx = _solve(R, _solve(R, A.T @ off_graph.T, transposed=True)).T
        else:
            dx = np.zeros(x.shape)
        base = (dx, dx @ A.T - off_graph)
        return AffineDisplacement(
            (x + dx) @ defect.T, factor, 0.0, displace, base, self.transport_cost(*base)
        )

    def _move_along_graph(self, factor: Array, q: Array) -> tuple[Array, Array]:
        """dx = R⁻¹Cᵀq, dy = A dx."""
        dx = _solve(self._root, (q @ factor).T).T
        return dx, dx @ self.forward.T

    def _on_graph(self, x: Array, y: Array) -> Any:
        """Rows with y = Ax up to the rounding of that product; (N,) bool."""
        size = np.abs(x) @ np.abs(self.forward).T + np.abs(y)
        return np.all(np.abs(y - x @ self.forward.T) <= 1e-13 * size, axis=1)

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r""":math:`\|dx_i\|^2 + \|dy_i\|^2`, or :math:`\|dx_i\|^2` with ``cost="x"``; shape (N,)."""
        return super().transport_cost(dx, dy) if self.cost == "joint" else squared_norms(dx)

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Any:
        """Candidates on the graph of the forward map (to rounding), for every sample."""
        on_graph = self._on_graph(x_candidates, y_candidates)
        return np.broadcast_to(on_graph, (len(x), len(on_graph)))

    def __repr__(self) -> str:
        m, n = self.forward.shape
        return f"XShift(forward=<{m} x {n} matrix>, cost={self.cost!r})"


def _solve(R: Array, right: Array, *, transposed: bool = False) -> Array:
    """R⁻¹ right, or R⁻ᵀ right, for upper triangular R."""
    result: Array = solve_triangular(R, right, trans="T" if transposed else "N", check_finite=False)
    return result


#: Structures by name; "x" needs its forward map, so only its modulus can be used by name.
STRUCTURES: dict[str, type[Structure]] = {
    cls.name: cls for cls in (Joint, YGivenX, XGivenY, XShift)
}


def structure_class(structure: str | Structure, name: str = "structure") -> type[Structure]:
    """The class of a structure given by name or as an object."""
    if isinstance(structure, Structure):
        return type(structure)
    if not isinstance(structure, str):
        raise TypeError(
            f"{name}: {structure!r} is neither a name nor a Structure; "
            f"allowed names: {', '.join(map(repr, STRUCTURES))}"
        )
    if structure not in STRUCTURES:
        raise ValueError(unknown(name, structure, STRUCTURES))
    return STRUCTURES[structure]


def as_structure(structure: str | Structure, name: str = "structure") -> Structure:
    """A structure object from a name ("joint", "y|x", "x|y") or from an object."""
    if isinstance(structure, Structure):
        return structure
    cls = structure_class(structure, name)
    if cls is XShift:
        raise ValueError(
            f"{name}: 'x' needs the forward map; pass XShift(forward) instead of the name"
        )
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
        those on the graph of the forward map, joint all.

    Returns
    -------
    (N, M) array of bool
        The mask to pass to `finite_worst_case` as `admissible`.

    Raises
    ------
    ValueError, TypeError
        For arrays that are not finite, not 2-D or do not fit together; for an unknown structure.
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
