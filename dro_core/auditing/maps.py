"""Which map is this? Matrices, operators of other libraries and functions, and whether linear.

A function is taken for linear after a randomised test, and is then replaced by its matrix, which is
what the audit speaks about: how far function and matrix are apart on the data is reported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator

from dro_core.auditing.layout import Layout, Samples, as_array
from dro_core.auditing.upstairs import is_network, networks
from dro_core.linear_map import DENSE_ENTRIES, LinearMap, MapLike
from dro_core.types import Array

#: Whatever `audit` takes for a map.
AuditedMap: TypeAlias = MapLike | Callable[[Any], Any]

#: Relative deviation that a function of float64 (float32) may have from linearity.
LINEARITY, SINGLE_LINEARITY = 1e-9, 2e-4
#: The same where linearity is vouched for: by the user, or by an operator with an iterated inverse.
VOUCHED_LINEARITY = 1e-3
#: What functions of tensors raise for arrays, and functions of two arguments for one.
WANTS_TENSORS = (TypeError, AttributeError, RuntimeError, IndexError)
#: Rows that go through a function at once.
BATCH = 256
#: Scales at which linearity is tested, relative to the data.
SCALES = (0.1, 1.0, 10.0)


@dataclass(frozen=True, eq=False)
class RecognisedMap:
    """A map from rows of y to rows of x, and what is known about it.

    Attributes
    ----------
    call : callable
        Rows of y (N, m) to rows of x (N, n).
    linear : MapLike or None
        The linear part, (n, m); None for a map that is not affine.
    offset : (n,) array or None
        What an affine map gives at zero; None if that is zero.
    source : object
        What the user gave; of an operator with an inverse, that.
    kind : str
        What it was recognised as, for the report.
    defect : float
        Largest deviation of the given map from `linear` and `offset` on the data and in the
        randomised test, relatively; zero for matrices.
    """

    call: Callable[[Array], Array]
    linear: MapLike | None
    offset: Array | None
    source: object
    kind: str
    defect: float = 0.0


def recognise_map(
    value: Any, x: Layout, y: Layout, rows: Array, *, linear: bool | None = None, seed: int = 0
) -> RecognisedMap:
    """The map behind an object: see `audit` for what it may be.

    Parameters
    ----------
    value : AuditedMap
    x, y : Layout
        Of the samples.
    rows : (N, m) array
        The measurements, on which a function is tried.
    linear : bool, optional
        What the user says: False leaves a function as it is, True refuses one that is not linear.
    seed : int
        Of the randomised test.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit (with the side that does not), an adjoint that is none, a
        function that fails or is not linear although `linear` says so.
    """
    if isinstance(value, LinearMap):
        return _linear(value, value, x, y, f"{type(value).__name__} of dro_core")
    if hasattr(value, "domain") and hasattr(value, "range") and callable(value):
        return _linear(_odl(value), value, x, y, f"ODL operator {type(value).__name__}")
    if hasattr(value, "ishape") and hasattr(value, "oshape"):
        return _linear(_sigpy(value), value, x, y, f"SigPy linop {type(value).__name__}")
    if hasattr(value, "matvec") and hasattr(value, "shape"):
        kind = f"{type(value).__module__.partition('.')[0]} LinearOperator"
        return _linear(_real_operator(value), value, x, y, kind)
    if hasattr(value, "A_dagger") and hasattr(value, "A_adjoint"):
        # a linear operator's own inverse, which may stop at a tolerance; the object itself is A
        kind = f"A_dagger of the physics {type(value).__name__}"
        return _function(value.A_dagger, kind, (x, y), rows, linear, seed, vouched=True)
    if callable(value):
        function, kind = value, f"function {getattr(value, '__name__', type(value).__name__)}"
    else:
        matrix = sparse.csr_array(value) if sparse.issparse(value) else as_array(value, "B")
        kind = f"{' x '.join(map(str, matrix.shape))} matrix"
        return _linear(matrix, value, x, y, kind)
    return _function(function, kind, (x, y), rows, linear, seed)


def check_map_shape(shape: tuple[int, ...], n: int, m: int) -> None:
    """Refuse a map that does not take rows of y to rows of x; say which side, and whether a
    transpose would."""
    if shape == (n, m):
        return
    if len(shape) != 2:
        raise ValueError(f"B: shape {shape}; a map from y to x is a matrix of shape ({n}, {m})")
    sides = []
    if shape[1] != m:
        sides.append(f"it takes {shape[1]} numbers, but a sample of y has {m}")
    if shape[0] != n:
        sides.append(f"it gives {shape[0]} numbers, but a sample of x has {n}")
    hint = ""
    if shape == (m, n):
        hint = "; the transpose would fit (is this the forward operator, from x to y?)"
    raise ValueError(f"B: shape {shape}; {' and '.join(sides)}{hint}")


def _linear(
    value: Any, source: Any, x: Layout, y: Layout, kind: str, defect: float = 0.0
) -> RecognisedMap:
    shape = tuple(int(k) for k in value.shape)
    complex_shape = (math.prod(x.shape), math.prod(y.shape))
    if (x.is_complex or y.is_complex) and shape == complex_shape:
        value = _realified(value, x.is_complex, y.is_complex)
    elif np.dtype(getattr(value, "dtype", np.float64) or np.float64).kind == "c":
        check_map_shape(shape, *complex_shape)
        value = _realified(value, x.is_complex, y.is_complex)
    check_map_shape(tuple(int(k) for k in value.shape), x.size, y.size)
    if isinstance(value, LinearMap):
        call: Callable[[Array], Array] = value.apply
    elif hasattr(value, "matmat"):
        call = _apply_operator(value)
    else:
        call = _apply_matrix(value)
    return RecognisedMap(call, value, None, source, kind, defect)


def _apply_operator(operator: Any) -> Callable[[Array], Array]:
    return lambda rows: np.asarray(operator.matmat(np.ascontiguousarray(rows.T)).T)


def _apply_matrix(matrix: Any) -> Callable[[Array], Array]:
    return lambda rows: np.asarray(rows @ matrix.T)


def _realified(value: Any, complex_x: bool, complex_y: bool) -> Any:
    r"""The real map :math:`(\Re y, \Im y) \mapsto (\Re By, \Im By)` of a complex one.

    For a real x the imaginary part of By is dropped, for a real y that of y is zero.
    """
    if isinstance(value, LinearMap) or hasattr(value, "matvec"):
        operator = value.as_linear_operator() if isinstance(value, LinearMap) else value
        return _realified_operator(operator, complex_x, complex_y)
    matrix = value.toarray() if sparse.issparse(value) else np.asarray(value)
    real, imaginary = np.real(matrix), np.imag(matrix)
    whole = np.block([[real, -imaginary], [imaginary, real]])
    n, m = matrix.shape
    return whole[: None if complex_x else n, : None if complex_y else m].astype(np.float64)


def _realified_operator(operator: Any, complex_x: bool, complex_y: bool) -> LinearOperator:
    n, m = operator.shape

    def join(values: Array, is_complex: bool) -> Samples:
        half = len(values) // 2
        return values[:half] + 1j * values[half:] if is_complex else values.astype(complex)

    def split(values: Samples, is_complex: bool) -> Array:
        values = np.ravel(values)
        return np.concatenate([values.real, values.imag]) if is_complex else values.real.copy()

    return LinearOperator(
        (n * (1 + complex_x), m * (1 + complex_y)),
        matvec=lambda v: split(operator.matvec(join(np.ravel(v), complex_y)), complex_x),
        rmatvec=lambda q: split(operator.rmatvec(join(np.ravel(q), complex_x)), complex_y),
        dtype=np.float64,
    )


def _real_operator(operator: Any) -> Any:
    """Operators of scipy and PyLops as they are; `as_linear_map` checks their adjoint."""
    if hasattr(operator, "matmat") and hasattr(operator, "rmatmat"):
        return operator
    return LinearOperator(
        tuple(operator.shape),
        matvec=operator.matvec,
        rmatvec=operator.rmatvec,
        dtype=getattr(operator, "dtype", np.float64),
    )


def _odl(operator: Any) -> LinearOperator:
    """An operator of ODL: elements of its spaces are made from arrays and give them back.

    Its adjoint is one for the weighted inner products of the two spaces; with constant weights
    w_d and w_r, that of the Euclidean ones is w_d / w_r times as large. Some operators of ODL
    (MatrixOperator) give the Euclidean one whatever the weights; one product tells which it is.
    """
    if not getattr(operator, "is_linear", True):
        raise TypeError(
            f"B: the ODL operator {type(operator).__name__} is not linear; pass a function of "
            "batches instead, lambda y: numpy.stack([numpy.asarray(op(row)) for row in y])"
        )
    adjoint = operator.adjoint
    scale = _weighting(operator.domain) / _weighting(operator.range)
    shapes = operator.range.shape, operator.domain.shape

    def apply(factor: float, which: Any, shape: tuple[int, ...], flat: Array) -> Array:
        image = which(np.reshape(flat, shape))
        values = image.asarray() if hasattr(image, "asarray") else image
        return factor * np.asarray(values, dtype=np.float64).ravel()

    rng = np.random.default_rng(0)
    u, v = (rng.standard_normal(math.prod(shape)) for shape in shapes)
    forth = u @ apply(1.0, operator, shapes[1], v)
    back = v @ apply(1.0, adjoint, shapes[0], u)
    scale = 1.0 if abs(forth - back) < abs(forth - scale * back) else scale

    return LinearOperator(
        (math.prod(shapes[0]), math.prod(shapes[1])),
        matvec=lambda v: apply(1.0, operator, shapes[1], v),
        rmatvec=lambda q: apply(scale, adjoint, shapes[0], q),
        dtype=np.float64,
    )


def _weighting(space: Any) -> float:
    constant = getattr(getattr(space, "weighting", None), "const", 1.0)
    return float(constant)


def _sigpy(linop: Any) -> LinearOperator:
    """A linop of SigPy: arrays of `ishape` to arrays of `oshape`, adjoint `H`."""
    shapes = tuple(linop.oshape), tuple(linop.ishape)
    adjoint = linop.H
    return LinearOperator(
        (math.prod(shapes[0]), math.prod(shapes[1])),
        matvec=lambda v: np.asarray(linop(np.reshape(v, shapes[1]))).ravel(),
        rmatvec=lambda q: np.asarray(adjoint(np.reshape(q, shapes[0]))).ravel(),
        dtype=np.float64,
    )


def _function(
    function: Callable[[Any], Any],
    kind: str,
    layouts: tuple[Layout, Layout],
    rows: Array,
    linear: bool | None,
    seed: int,
    *,
    vouched: bool = False,
) -> RecognisedMap:
    x, y = layouts
    network = is_network(function)
    if network:
        kind = f"torch module {type(function).__name__}"
    call, image = _tried(function, x, y, rows)
    zero = call(np.zeros((1, y.size)))[0]
    defect, single = _nonlinearity(call, rows, zero, seed)
    allowed = SINGLE_LINEARITY if single else LINEARITY
    if vouched or linear:
        allowed = VOUCHED_LINEARITY
    if linear is not True and (linear is False or defect > allowed):
        return RecognisedMap(call, None, None, function, kind, defect)
    if defect > allowed:
        raise ValueError(
            f"B: not linear, although linear=True: combinations of inputs miss the combinations "
            f"of outputs by {defect:.2g}, relatively (allowed: {allowed:g}); leave linear out"
        )
    if x.size * y.size > DENSE_ENTRIES:
        if network and linear is not True:
            return RecognisedMap(call, None, None, function, kind, defect)
        raise ValueError(
            f"B: a linear function of {y.size} numbers with {x.size} values is too large for its "
            "matrix; pass a scipy.sparse.linalg.LinearOperator with matvec and rmatvec"
        )
    scale = max(float(np.sqrt(np.mean(rows**2))), 1e-30)
    matrix = np.empty((x.size, y.size))
    for start in range(0, y.size, BATCH):
        part = np.arange(start, min(start + BATCH, y.size))
        unit = np.zeros((len(part), y.size))
        unit[np.arange(len(part)), part] = scale
        matrix[:, part] = (call(unit) - zero).T / scale
    apart = np.abs(image - zero - rows @ matrix.T).max()
    defect = max(defect, float(apart / max(np.abs(image).max(), 1e-300)))
    if defect > 10 * allowed:
        raise ValueError(
            f"B: the function passes the test of linearity, but its matrix misses it by "
            f"{defect:.2g} on y; is it random, or does it depend on the batch?"
        )
    offset = None if np.abs(zero).max() <= allowed * np.abs(image).max(initial=0.0) else zero
    form = "linear" if offset is None else "affine"
    note = f"{kind}, {form} by a randomised test and audited as its {x.size} x {y.size} matrix"
    return RecognisedMap(_apply_affine(matrix, zero), matrix, offset, function, note, defect)


def _tried(
    function: Callable[[Any], Any], x: Layout, y: Layout, rows: Array
) -> tuple[Callable[[Array], Array], Array]:
    """A function of rows and its values, given numpy batches or, if it wants those, tensors."""
    first: _FunctionError | None = None
    if not is_network(function):
        call = _rows_function(function, x, y)
        try:
            return call, call(rows)
        except _FunctionError as error:
            if "torch" not in sys.modules:
                raise
            first = error
    call = _rows_function(networks().as_function(function), x, y)
    try:
        return call, call(rows)
    except _FunctionError as error:
        raise first or error from None


class _FunctionError(ValueError):
    """A function did not run on a batch; what it returns is another matter."""

    def __init__(self, error: Exception) -> None:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        said = lines[-1] if "TorchScript" in lines[0] else lines[0]
        super().__init__(
            f"B: fails on a batch of y ({type(error).__name__}: {said}); a map takes one batch "
            "(N, ...), other arguments are bound with functools.partial or lambda y: ..."
        )


def _apply_affine(matrix: Array, offset: Array) -> Callable[[Array], Array]:
    return lambda rows: rows @ matrix.T + offset


def _rows_function(
    function: Callable[[Any], Any], x: Layout, y: Layout
) -> Callable[[Array], Array]:
    """A function of batches (N, *y.shape) as one of rows."""

    def call(rows: Array) -> Array:
        parts = []
        for start in range(0, len(rows), BATCH):
            batch = y.restore(rows[start : start + BATCH])
            try:
                given = function(batch.copy())
            except WANTS_TENSORS as error:
                raise _FunctionError(error) from error
            output = as_array(given, "B: its output")
            if len(output) != len(batch) or output.size != len(batch) * math.prod(x.shape):
                raise ValueError(
                    f"B: for y of shape {batch.shape} the function returned shape {output.shape}; "
                    f"needed: {(len(batch), *x.shape)}"
                )
            parts.append(x.rows(output))
        return np.concatenate(parts)

    return call


def _nonlinearity(
    call: Callable[[Array], Array], rows: Array, zero: Array, seed: int
) -> tuple[float, bool]:
    r"""Largest :math:`\|g(au+bv) - a\,g(u) - b\,g(v)\|`, relatively, for g = f - f(0).

    u and v are samples plus noise of their size, at several scales; a, b have both signs. Besides,
    whether the function computes in single precision (it has no finer differences).
    """
    rng = np.random.default_rng(seed)
    size = max(float(np.sqrt(np.mean(rows**2))), 1e-30)
    worst, finest = 0.0, np.inf
    for scale in SCALES:
        chosen = rows[rng.integers(0, len(rows), (2, 4))]
        u, v = scale * (chosen + size * rng.standard_normal(chosen.shape))
        a, b = rng.uniform(0.5, 2.0, (2, 4, 1)) * rng.choice([-1.0, 1.0], (2, 4, 1))
        first, second, both = (call(w) for w in (u, v, a * u + b * v))
        defect = np.linalg.norm((both - zero) - a * (first - zero) - b * (second - zero), axis=1)
        terms = [np.linalg.norm(term, axis=1) for term in (both, a * first, b * second)]
        total = np.sum(terms, axis=0) + np.linalg.norm(zero)
        worst = max(worst, float((defect / np.maximum(total, 1e-300)).max()))
        rounded = np.abs(both - both.astype(np.float32)).max()
        finest = min(finest, float(rounded))
    return worst, finest == 0.0
