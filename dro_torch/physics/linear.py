r"""Linear maps that autograd does not know: matrices, numpy operators, pairs of functions.

Their derivative is known without it, :math:`D(Ax)[v] = Av` and :math:`\nabla_x\langle Ax, g\rangle
= A^*g`, in forward mode, in reverse mode, and again for second derivatives.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from dro_core.checks import as_positive_integer
from dro_core.linear_map import DenseMap, LinearMap, as_linear_map
from dro_core.types import Array
from dro_torch.checks import sample_hint
from dro_torch.physics.forward import LinearForward

#: A linear map of tensors.
Product = Callable[[Tensor], Tensor]


class LinearProduct(torch.autograd.Function):
    """A product whose derivative is itself, and whose gradient is the transposed product."""

    @staticmethod
    def forward(x: Tensor, product: Product, transposed: Product) -> Tensor:
        return product(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.product, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        return linear_product(gradients[0], ctx.transposed, ctx.product), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return linear_product(tangents[0], ctx.product, ctx.transposed)


def linear_product(x: Tensor, product: Product, transposed: Product) -> Tensor:
    """product(x), differentiated through the pair in both modes and to every order."""
    answer: Tensor = LinearProduct.apply(x, product, transposed)  # type: ignore[no-untyped-call]
    return answer


class CompressedRows(nn.Module):
    """A scipy CSR matrix (m, n) in torch; dense buffers, so that devices, copies and DDP work."""

    row_starts: Tensor
    columns: Tensor
    values: Tensor

    def __init__(self, matrix: sparse.csr_array, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        index = np.int32 if max(matrix.nnz, *self.shape) < 2**31 else np.int64
        parts = {
            "row_starts": torch.from_numpy(matrix.indptr.astype(index, copy=False)),
            "columns": torch.from_numpy(matrix.indices.astype(index, copy=False)),
            "values": torch.from_numpy(matrix.data).to(dtype),
        }
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)
        with warnings.catch_warnings():  # torch says so once per process
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            self._matrix()

    def _matrix(self) -> Tensor:
        return torch.sparse_csr_tensor(
            self.row_starts, self.columns, self.values, self.shape, check_invariants=False
        )

    def product(self, rows: Tensor) -> Tensor:
        """Rows v to rows Mv: (N, n) -> (N, m)."""
        if len(rows) == 1:  # a matrix-vector product is twice as fast
            return (self._matrix() @ rows[0])[None]
        return (self._matrix() @ rows.T).T


class SparseMatrix(nn.Module):
    """A sparse matrix and its transpose, both by rows: equally fast products, twice the memory."""

    def __init__(self, matrix: sparse.sparray, dtype: torch.dtype) -> None:
        super().__init__()
        self.matrix = CompressedRows(sparse.csr_array(matrix), dtype)
        self.transpose = CompressedRows(sparse.csr_array(matrix.T), dtype)

    def product(self, rows: Tensor) -> Tensor:
        """Rows v to rows Mv, differentiable; the dtype must be the matrix's."""
        check_matrix_dtype(rows, self.matrix.values)
        return linear_product(rows, self.matrix.product, self.transpose.product)

    def transposed(self, rows: Tensor) -> Tensor:
        """Rows q to rows Mᵀq, differentiable; the dtype must be the matrix's."""
        check_matrix_dtype(rows, self.matrix.values)
        return linear_product(rows, self.transpose.product, self.matrix.product)


def check_matrix_dtype(rows: Tensor, values: Tensor, name: str = "x") -> None:
    """Refuse data of another precision or device than a stored matrix."""
    if rows.device != values.device:
        raise ValueError(
            f"{name}: on device {rows.device}, but the operator is on {values.device}; move one "
            "with .to(...)"
        )
    if rows.dtype != values.dtype:
        raise ValueError(
            f"{name}: computed in {rows.dtype}, but the operator holds {values.dtype}; convert it, "
            f"or make the operator with dtype={rows.dtype}"
        )


class _DenseMatrix(nn.Module):
    matrix: Tensor

    def __init__(self, matrix: Array, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer(
            "matrix", torch.tensor(np.ascontiguousarray(matrix), dtype=dtype), persistent=False
        )

    def product(self, rows: Tensor) -> Tensor:
        check_matrix_dtype(rows, self.matrix)
        return rows @ self.matrix.T

    def transposed(self, rows: Tensor) -> Tensor:
        check_matrix_dtype(rows, self.matrix)
        return rows @ self.matrix


class _NumpyOperator(nn.Module):
    def __init__(self, operator: LinearMap) -> None:
        super().__init__()
        self.operator = operator

    def product(self, rows: Tensor) -> Tensor:
        return linear_product(rows, self._apply_rows, self._adjoint_rows)

    def transposed(self, rows: Tensor) -> Tensor:
        return linear_product(rows, self._adjoint_rows, self._apply_rows)

    def _apply_rows(self, rows: Tensor) -> Tensor:
        return self._outside(self.operator.apply, rows)

    def _adjoint_rows(self, rows: Tensor) -> Tensor:
        return self._outside(self.operator.adjoint, rows)

    @staticmethod
    def _outside(function: Callable[[Array], Array], rows: Tensor) -> Tensor:
        return torch.from_numpy(function(rows.detach().cpu().double().numpy())).to(rows)


class _FunctionPair(nn.Module):
    def __init__(self, function: Product, adjoint: Product) -> None:
        super().__init__()
        self.function, self.adjoint = function, adjoint

    def product(self, x: Tensor) -> Tensor:
        return linear_product(x, self.function, self.adjoint)

    def transposed(self, y: Tensor) -> Tensor:
        return linear_product(y, self.adjoint, self.function)


def is_matrix_like(value: object) -> bool:
    """Whether `LinearOperatorModule` takes the value without an adjoint."""
    return (
        isinstance(value, LinearMap | np.ndarray | Tensor)
        or sparse.issparse(value)
        or hasattr(value, "matvec")
    )


class LinearOperatorModule(LinearForward):
    r"""A linear map from elsewhere as a differentiable module.

    Parameters
    ----------
    operator : matrix, operator or callable
        A dense or scipy sparse (m, n) matrix, an operator of `dro_core.operators`, a scipy
        `LinearOperator` (the last two compute on the CPU in float64 and are copied to and fro), or
        a function of a tensor that returns Ax, with any internals.
    adjoint : callable, optional
        For a function, and only for it: y to A*y. Derivatives use the pair, not what is inside;
        `check_adjoint` tells whether it is one.
    input_shape, output_shape : sequence of int, optional
        Of one sample, of n and m entries; default: flat, (n,) and (m,). Not for functions, which
        see the tensors as they come.
    dtype : torch.dtype
        In which a matrix is stored; x must be of this dtype, or narrower than float32.

    Raises
    ------
    ValueError, TypeError
        For a bad matrix, a function without an adjoint, shapes that do not fit.

    Notes
    -----
    Both products must be linear: derivatives of every order are taken from that.

    Examples
    --------
    >>> import torch
    >>> from dro_core.operators import Integration
    >>> from dro_torch.physics import LinearOperatorModule
    >>> LinearOperatorModule(Integration(4)).A(torch.ones(1, 4))
    tensor([[0.2500, 0.5000, 0.7500, 1.0000]])
    """

    def __init__(
        self,
        operator: LinearMap | ArrayLike | Tensor | sparse.sparray | LinearOperator | Product,
        adjoint: Callable[[Tensor], Tensor] | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        self.input_shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None
        self.map: _DenseMatrix | SparseMatrix | _NumpyOperator | _FunctionPair
        if not is_matrix_like(operator):
            if not callable(operator) or not callable(adjoint):
                raise TypeError(
                    f"operator, adjoint: {operator!r} and {adjoint!r}; allowed: two functions, or "
                    "a matrix or operator alone"
                )
            for name, shape in (("input_shape", input_shape), ("output_shape", output_shape)):
                if shape is not None:
                    raise ValueError(f"{name}: {shape!r}, but a function has its own shapes")
            self.map = _FunctionPair(operator, adjoint)
            return
        if adjoint is not None:
            raise ValueError("adjoint: only a function needs one; a matrix knows its own")
        if isinstance(operator, Tensor):
            operator = operator.detach().cpu().numpy()
        linear = as_linear_map(operator, "operator")
        self.input_shape = _sample_shape(input_shape, linear.shape[1], "input_shape")
        self.output_shape = _sample_shape(output_shape, linear.shape[0], "output_shape")
        if sparse.issparse(operator):
            self.map = SparseMatrix(operator, dtype)
        elif isinstance(linear, DenseMap):
            self.map = _DenseMatrix(linear.matrix(), dtype)
        else:
            self.map = _NumpyOperator(linear)

    def _check_signal(self, x: Tensor) -> Tensor:
        return _check_sample_shape(x, "x", self.input_shape)

    def _check_measurement(self, y: Tensor) -> Tensor:
        return _check_sample_shape(y, "y", self.output_shape)

    def _measure(self, x: Tensor) -> Tensor:
        if self.output_shape is None:
            return self.map.product(x)
        return self.map.product(x.flatten(1)).reshape(len(x), *self.output_shape)

    def _transpose(self, y: Tensor) -> Tensor:
        if self.input_shape is None:
            return self.map.transposed(y)
        return self.map.transposed(y.flatten(1)).reshape(len(y), *self.input_shape)


def check_dtype(dtype: object) -> None:
    """Refuse anything but float32 and float64, the dtypes that products are computed in."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype: {dtype}; allowed: torch.float32, torch.float64")


def _sample_shape(shape: Sequence[int] | None, size: int, name: str) -> tuple[int, ...]:
    if shape is None:
        return (size,)
    sizes = tuple(as_positive_integer(entry, name) for entry in shape)
    if math.prod(sizes) != size:
        raise ValueError(
            f"{name}: {sizes} has {math.prod(sizes)} entries, but the map has {size} there"
        )
    return sizes


def _check_sample_shape(value: Tensor, name: str, shape: tuple[int, ...] | None) -> Tensor:
    if shape is not None and tuple(value.shape[1:]) != shape:
        raise ValueError(
            f"{name}: shape {tuple(value.shape)}; needed: samples on axis 0, each of shape {shape}"
            f"{sample_hint(value, name, shape)}"
        )
    return value
