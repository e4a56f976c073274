r"""Linear maps behind one face: dense, sparse, diagonal in a fast basis, or matrix-free.

Everything the library does with a map is `apply` (rows of y to rows of x), `adjoint`, and, where
one can be had, `singular_basis`: the left singular vectors with the squared singular values. A map
without one is worked on by Golub-Kahan quadrature (`dro_core.quadrature`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from dro_core.bases import Basis, ColumnBasis
from dro_core.checks import as_matrix, as_non_negative, check_magnitude, magnitude
from dro_core.transport import squared_norms
from dro_core.types import Array, Real

#: Maps that no fast basis diagonalises are decomposed densely up to this many entries (2048²).
DENSE_ENTRIES = 2**22
#: Squared singular values below this share of the largest are computed again.
SMALL_SHARE = 1e-8
#: How exactly the two halves of a LinearOperator must be adjoint to each other.
ADJOINT_TOLERANCE = 1e-10


class LinearMap(ABC):
    """A linear map B from R^m to R^n, acting on samples that are rows."""

    #: (n, m)
    shape: tuple[int, int]

    @abstractmethod
    def apply(self, rows: Array) -> Array:
        """Rows of y to rows By: (N, m) -> (N, n)."""

    @abstractmethod
    def adjoint(self, rows: Array) -> Array:
        """Rows q to rows Bᵀq: (N, n) -> (N, m)."""

    def matrix(self) -> Array:
        """The map as a dense (n, m) matrix."""
        return np.ascontiguousarray(self.apply(np.eye(self.shape[1])).T)

    @property
    def is_small(self) -> bool:
        """Whether the dense matrix is worth forming."""
        return math.prod(self.shape) <= DENSE_ENTRIES

    def spectral(self) -> Any:
        """The map as a `dro_core.operators.SpectralOperator`, where it is one; else None."""
        return None

    def singular_basis(self) -> tuple[Basis, Array] | None:
        """Left singular vectors and squared singular values per coordinate, or None."""
        if not self.is_small:
            return None
        columns, squared = left_singular_basis(self.matrix())
        return ColumnBasis(columns), squared

    @property
    def norm_bound(self) -> float | None:
        """A proved upper bound on the largest singular value, or None."""
        return None

    @property
    def largest_entry(self) -> float | None:
        """Largest magnitude of an entry, or None where entries are not at hand."""
        return None

    def squared_terms(self, sizes: Array) -> float:
        r"""What the rounding of By is relative to: :math:`\| |B| s \|^2`, s the sizes of y, (m,).

        With :math:`s_j^2` the mean squares of the entries it bounds the mean square of the terms
        that By sums, :math:`\mathbb E\| |B| |y| \|^2`, for :math:`\mathbb E|y_jy_k| \le s_js_k`.
        Where entries are not at hand, the norm bound takes their place, or without one the image of
        s with random signs.
        """
        bound = self.norm_bound
        if bound is None:
            signs = np.random.default_rng(0).choice([-1.0, 1.0], len(sizes))
            return float(squared_norms(self.apply((signs * sizes)[None]))[0])
        return float(sizes @ sizes) * bound * bound

    def squared_frobenius(self) -> float:
        """Sum of the squared singular values."""
        matrix = self.matrix()
        return float(np.einsum("ij,ij->", matrix, matrix))

    def as_linear_operator(self) -> LinearOperator:
        """The map as a scipy `LinearOperator`, for scipy's iterative solvers, for instance."""
        return LinearOperator(
            self.shape,
            matvec=lambda y: self.apply(np.reshape(y, (1, -1)))[0],
            rmatvec=lambda q: self.adjoint(np.reshape(q, (1, -1)))[0],
            matmat=lambda Y: self.apply(np.ascontiguousarray(Y.T)).T,
            rmatmat=lambda Q: self.adjoint(np.ascontiguousarray(Q.T)).T,
            dtype=np.float64,
        )


class DenseMap(LinearMap):
    """A map given by its matrix."""

    def __init__(self, matrix: Array) -> None:
        self._matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])

    def apply(self, rows: Array) -> Array:
        return rows @ self._matrix.T

    def adjoint(self, rows: Array) -> Array:
        return rows @ self._matrix

    def matrix(self) -> Array:
        return self._matrix

    @property
    def is_small(self) -> bool:
        """It is there already."""
        return True

    @property
    def largest_entry(self) -> float:
        return magnitude(self._matrix)

    def squared_terms(self, sizes: Array) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            terms = np.abs(self._matrix) @ sizes
            return float(terms @ terms)


class SparseMap(LinearMap):
    """A map given by a scipy sparse matrix; decomposed densely while that is small."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self._transpose = sparse.csr_array(matrix.T)
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))

    def apply(self, rows: Array) -> Array:
        return np.asarray(rows @ self._transpose)

    def adjoint(self, rows: Array) -> Array:
        return np.asarray(rows @ self._matrix)

    def matrix(self) -> Array:
        return np.asarray(self._matrix.toarray())

    @cached_property
    def norm_bound(self) -> float:
        r"""Schur's bound :math:`\sqrt{\|B\|_1\|B\|_\infty}` (largest column and row sums)."""
        absolute = abs(self._matrix)
        return math.sqrt(float(absolute.sum(axis=0).max()) * float(absolute.sum(axis=1).max()))

    @property
    def largest_entry(self) -> float:
        return magnitude(self._matrix.data)

    def squared_terms(self, sizes: Array) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            terms = np.asarray(abs(self._matrix) @ sizes)
            return float(terms @ terms)

    def squared_frobenius(self) -> float:
        return float((self._matrix.data**2).sum())


class OperatorMap(LinearMap):
    """A `scipy.sparse.linalg.LinearOperator`, used by its two products only."""

    def __init__(self, operator: Any, name: str, bound: float | None, seed: int) -> None:
        self._operator = operator
        self._name = name
        self._bound = bound
        self.shape = (int(operator.shape[0]), int(operator.shape[1]))
        self._check_adjoint(name, np.random.default_rng(seed))

    def _check_adjoint(self, name: str, rng: np.random.Generator) -> None:
        left, right = (
            rng.standard_normal((1, self.shape[0])),
            rng.standard_normal((1, self.shape[1])),
        )
        image = self.apply(right)
        try:
            back = self.adjoint(left)
        except (NotImplementedError, TypeError) as error:  # scipy calls a missing one
            raise ValueError(
                f"{name}: this LinearOperator has no adjoint that works; pass rmatvec="
            ) from error
        for product, which in ((image, "matvec"), (back, "rmatvec")):
            if not np.isfinite(product).all():
                raise ValueError(f"{name}: {which} does not give finite real numbers")
        forth, size = float(np.vdot(left, image)), np.linalg.norm(left) * np.linalg.norm(image)
        size += np.linalg.norm(right) * np.linalg.norm(back)
        if abs(forth - float(np.vdot(right, back))) > ADJOINT_TOLERANCE * float(size):
            raise ValueError(
                f"{name}: rmatvec is not the adjoint of matvec: <u, Bv> = {forth:.6g}, but "
                f"<Bᵀu, v> = {float(np.vdot(right, back)):.6g} for random u, v"
            )

    def apply(self, rows: Array) -> Array:
        return self._own(self._operator.matmat(rows.T), (self.shape[0], len(rows)), "matvec")

    def adjoint(self, rows: Array) -> Array:
        return self._own(self._operator.rmatmat(rows.T), (self.shape[1], len(rows)), "rmatvec")

    def _own(self, product: Any, shape: tuple[int, int], which: str) -> Array:
        """A copy, in rows: an operator may hand out its input, or a buffer that it uses again."""
        product = np.asarray(product)
        if product.shape != shape:
            raise ValueError(
                f"{self._name}: {which} of {shape[1]} columns has shape {product.shape}; "
                f"needed: {shape}"
            )
        if product.dtype.kind == "c" or (product.dtype.kind == "f" and product.dtype.itemsize < 8):
            raise TypeError(
                f"{self._name}: {which} gives {product.dtype}; needed: float64 (a certificate "
                "cannot be better than the products it is made of; cast them if you accept that)"
            )
        return np.array(product.T, dtype=np.float64, order="C", copy=True)

    def singular_basis(self) -> None:
        return None

    @property
    def is_small(self) -> bool:
        """A LinearOperator is never made dense."""
        return False

    @property
    def norm_bound(self) -> float | None:
        return self._bound


class ColumnScaledMap(LinearMap):
    """B diag(scale) or B S for a symmetric matrix S: a map of whitened measurements."""

    def __init__(self, base: LinearMap, scale: Array, scale_norm: float) -> None:
        self._base = base
        self._scale = scale
        self._scale_norm = scale_norm
        self.shape = base.shape

    def _rescale(self, rows: Array) -> Array:
        return rows @ self._scale if self._scale.ndim == 2 else rows * self._scale

    def apply(self, rows: Array) -> Array:
        return self._base.apply(self._rescale(rows))

    def adjoint(self, rows: Array) -> Array:
        return self._rescale(self._base.adjoint(rows))

    def matrix(self) -> Array:
        return self._rescale(self._base.matrix())

    @property
    def is_small(self) -> bool:
        return self._base.is_small

    @property
    def norm_bound(self) -> float | None:
        bound = self._base.norm_bound
        return None if bound is None else bound * self._scale_norm


#: What is taken for a linear map: a matrix, dense or sparse, an operator, a LinearOperator.
MapLike: TypeAlias = ArrayLike | LinearMap | LinearOperator | sparse.sparray | sparse.spmatrix


def as_linear_map(
    value: Any, name: str, *, norm_bound: Real | None = None, seed: int = 0
) -> LinearMap:
    """A `LinearMap` from a matrix, a scipy sparse matrix, an operator or a LinearOperator.

    `norm_bound` is taken for a LinearOperator only; everything else knows its own norm.
    """
    if hasattr(value, "matvec") and not isinstance(value, LinearMap):
        bound = None if norm_bound is None else as_non_negative(norm_bound, "norm_bound")
        if len(getattr(value, "shape", ())) != 2 or 0 in value.shape:
            raise ValueError(f"{name}: a LinearOperator of shape (n, m), n, m >= 1, is needed")
        if np.dtype(value.dtype or np.float64).kind not in "biuf":
            raise TypeError(f"{name}: a LinearOperator of dtype {value.dtype}; allowed: real")
        return OperatorMap(value, name, bound, seed)
    if norm_bound is not None:
        raise ValueError(
            f"norm_bound: only a LinearOperator needs one, but {name} is a {type(value).__name__}, "
            "whose norm is found; leave it out"
        )
    if isinstance(value, LinearMap):
        return value
    if sparse.issparse(value):
        matrix = sparse.csr_array(value)
        if matrix.dtype.kind not in "biuf":
            raise TypeError(f"{name}: dtype {matrix.dtype} is not real; allowed: a real matrix")
        if 0 in matrix.shape or matrix.ndim != 2:
            raise ValueError(f"{name}: a non-empty 2-D matrix is needed, given {matrix.shape}")
        matrix = sparse.csr_array(matrix, dtype=np.float64, copy=True)
        matrix.sum_duplicates()
        if not np.isfinite(matrix.data).all():
            raise ValueError(f"{name}: entries are NaN or infinite; every entry must be finite")
        check_magnitude(matrix.data, name)
        return SparseMap(matrix)
    if callable(value):
        raise TypeError(
            f"{name}: a function is not a linear map; pass its matrix, or a "
            "scipy.sparse.linalg.LinearOperator (for a nonlinear map with a known Lipschitz "
            "constant there is explicit_bound)"
        )
    return DenseMap(as_matrix(value, name))


def left_singular_basis(F: Array) -> tuple[Array, Array]:
    r"""Left singular vectors U (n, k) and squared singular values (k,) of F, k = min(n, m).

    From the symmetric eigenproblem of the smaller Gram matrix, which is several times faster than
    an SVD. A Gram matrix loses singular values below sqrt(eps) of the largest one, so those below
    1e-4 are computed again in their own invariant subspace (`_refine_small`). F is scaled by a
    power of two first, so its squares neither overflow nor vanish.
    """
    largest = magnitude(F)
    if largest == 0.0:
        return np.eye(F.shape[0], min(F.shape)), np.zeros(min(F.shape))
    exponent = int(np.frexp(largest)[1])
    scaled = np.ldexp(F, -exponent)
    if F.shape[0] > F.shape[1]:
        orthonormal, small = np.linalg.qr(scaled)
        basis = orthonormal @ np.linalg.eigh(small @ small.T)[1]
    else:
        basis = np.linalg.eigh(scaled @ scaled.T)[1]
    image = scaled.T @ basis
    squared = np.einsum("ij,ij->j", image, image)
    small = squared < SMALL_SHARE * squared.max()
    if small.any():
        _refine_small(scaled, basis, image, squared, small)
    return basis, np.ldexp(squared, 2 * exponent)


def _refine_small(F: Array, basis: Array, image: Array, squared: Array, small: Array) -> None:
    r"""Correct, in place, the singular vectors and values that a Gram matrix cannot resolve.

    With :math:`F^\top U = [V_b \Sigma_b, W_s]` the computed small vectors still contain a share
    :math:`X = \Sigma_b^{-1} V_b^\top W_s` of the big ones, of size eps relative to the split. The
    rotation by X removes it to second order; then an SVD of what is left, :math:`F^\top U_s`, has
    the accuracy of the small block alone.
    """
    big = np.logical_not(small)
    share = (image[:, big] / squared[big]).T @ image[:, small]
    big_basis, small_basis = basis[:, big], basis[:, small]
    basis[:, big] = big_basis + small_basis @ share.T
    small_basis = small_basis - big_basis @ share
    _, values, rotation = np.linalg.svd(F.T @ small_basis, full_matrices=False)
    basis[:, small] = small_basis @ rotation.T
    squared[small] = values**2
