"""Checks of what the user passes in: one function per kind of argument.

Every message names the argument, says what was given and what is allowed. Arrays come back as
float64; a float64 input is returned as it is (never copied, never modified).
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from dro_core.types import Array

#: How far weights in double precision may be from summing to one: rounding, not negligence.
WEIGHT_SUM_TOLERANCE = 1e-9

#: No entry of data, maps and radii may be larger: their squares would not be floats to use.
LARGEST = 1e140


class InfeasibleRadiusError(ValueError):
    """The ambiguity ball is empty; `smallest_radius` is the smallest radius with a point in it."""

    def __init__(self, message: str, smallest_radius: float) -> None:
        super().__init__(message)
        self.smallest_radius = smallest_radius

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.smallest_radius)


def magnitude(array: ArrayLike) -> float:
    """Largest absolute value, without a temporary array; NaN if there is one."""
    entries = np.asarray(array)
    return float(max(entries.max(), -entries.min())) if entries.size else 0.0


def check_magnitude(array: ArrayLike, name: str) -> None:
    """Refuse data so large that their squares leave the range of floats."""
    largest = magnitude(array)
    if largest > LARGEST:
        raise ValueError(
            f"{name}: the largest magnitude is {largest:g}, but squares need at most {LARGEST:g}; "
            "rescale the data (results scale along)"
        )


def as_real_array(value: object, name: str, *, finite: bool = True) -> Array:
    """`value` as float64, or an error that names `name`; NaN is refused, infinity if `finite`."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array; fill or drop the masked entries first")
    if hasattr(value, "toarray"):
        raise TypeError(f"{name}: sparse input is not supported; pass {name}.toarray()")
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged nested sequences
        raise ValueError(f"{name}: not a rectangular array of numbers ({error})") from None
    except (TypeError, RuntimeError) as error:  # tensors with a graph, or of other devices
        raise TypeError(f"{name}: {_unread(value, name, error)}") from None
    if array.dtype.kind == "O" and _is_nullable(value):
        frame: Any = value
        array = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: dtype {array.dtype} is not real; allowed: integer or floating-point arrays"
        )
    with np.errstate(over="ignore"):  # of a long double: infinite, and refused as that
        array = np.asarray(array, dtype=np.float64)
    if not math.isfinite(magnitude(array)):
        bad = ~np.isfinite(array) if finite else np.isnan(array)
        if not bad.any():
            return array
        allowed = "finite" if finite else "a number or infinite"
        if array.ndim == 0:
            given = "NaN" if np.isnan(array) else str(float(array))
            raise ValueError(f"{name}: {given} is not {allowed}")
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: {int(bad.sum())} entries are {'NaN or infinite' if finite else 'NaN'}, "
            f"the first ({array[first]}) at index {first}; every entry must be {allowed}"
        )
    return array


def _unread(value: object, name: str, error: Exception) -> str:
    """Why something is no array, and the line that makes it one."""
    if not hasattr(value, "detach"):
        return f"{type(value).__name__} is not an array of numbers ({error})"
    if getattr(value, "requires_grad", False):
        return f"a tensor that requires grad; pass {name}.detach(), answers have no graph"
    return f"a tensor that numpy cannot read ({error}); pass {name}.cpu(), as float32 or float64"


def _is_nullable(value: object) -> bool:
    """Whether pandas can give these columns as numbers, with NaN for missing ones."""
    dtypes = getattr(value, "dtypes", getattr(value, "dtype", None))
    if not hasattr(value, "to_numpy") or dtypes is None:
        return False
    columns = dtypes if hasattr(dtypes, "__iter__") else [dtypes]
    return all(getattr(dtype, "kind", "O") in "biuf" for dtype in columns)


class Shaped(Protocol):
    """What has a shape: a matrix, an operator, a map."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)"""


def check_rows(array: Shaped, name: str) -> None:
    """Refuse what is not of shape (N, d) with N >= 1 and d >= 1: samples are rows."""
    shape = array.shape
    if len(shape) == 1:
        raise ValueError(
            f"{name}: samples are rows, so a 2-D (N, d) array is needed, but a 1-D array of shape "
            f"{shape} was given; use {name}[:, None] for {shape[0]} scalar samples or "
            f"{name}[None, :] for one sample with {shape[0]} entries"
        )
    if len(shape) != 2:
        raise ValueError(
            f"{name}: samples are rows of a 2-D (N, d) array, but shape {shape} was given; "
            f"flatten each sample with {name}.reshape(len({name}), -1)"
        )
    if shape[0] == 0:
        raise ValueError(f"{name}: empty samples (shape {shape}); at least one is needed")
    if shape[1] == 0:
        raise ValueError(f"{name}: samples have no entries (shape {shape}); d >= 1 is needed")


def as_samples(value: object, name: str) -> Array:
    """Samples as rows: a finite real (N, d) array with N >= 1 and d >= 1."""
    array = as_real_array(value, name)
    check_rows(array, name)
    check_magnitude(array, name)
    return array


def as_matrix(value: object, name: str) -> Array:
    """A finite real matrix with at least one row and one column."""
    array = as_real_array(value, name)
    if array.ndim == 1:
        raise ValueError(
            f"{name}: a 2-D matrix is needed, but a 1-D array of shape {array.shape} was given; "
            f"use {name}[None, :] for a map with scalar output"
        )
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: a non-empty 2-D matrix is needed, given shape {array.shape}")
    check_magnitude(array, name)
    return array


def as_map(value: Any, name: str) -> Array:
    """A linear map as a dense matrix: an array, a scipy sparse matrix, or a `dro_core` operator."""
    if hasattr(value, "toarray"):  # scipy sparse
        value = value.toarray()
    elif callable(getattr(value, "matrix", None)):  # dro_core.operators
        value = value.matrix()
    elif callable(value) and not hasattr(value, "matvec"):
        raise TypeError(
            f"{name}: a function is not a linear map; pass its matrix (for a nonlinear map with a "
            "known Lipschitz constant there is explicit_bound)"
        )
    elif hasattr(value, "matvec"):
        raise TypeError(
            f"{name}: a LinearOperator has no dense matrix; pass {name} @ np.eye({name}.shape[1])"
        )
    return as_matrix(value, name)


def check_samples_and_map(matrix: Shaped, x: Array, y: Array, name: str) -> None:
    """x (N, n), y (N, m) and a map (n, m) that fit together."""
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} rows, but x has {len(x)}; row i of both belongs to sample i")
    check_map_size(matrix, (x.shape[1], y.shape[1]), name)


def check_map_size(matrix: Shaped, sizes: tuple[int, ...], name: str) -> None:
    """A map of shape (n, m), the numbers of columns of x and y."""
    n, m = sizes
    if matrix.shape != (n, m):
        raise ValueError(
            f"{name}: shape {matrix.shape}, but x has {n} columns and y has "
            f"{m}; a map from y to x has shape ({n}, {m})"
        )


def weight_sum_tolerance(value: object, size: int) -> float:
    """How far weights may be from summing to one: by the rounding of their own precision.

    N numbers that were divided by their sum miss one by at most (N + 1)/2 roundings, and by far
    less as a rule; the tolerance of double precision is the least.
    """
    kind = np.asarray(value).dtype
    if kind.kind != "f" or kind.itemsize >= 8:
        return WEIGHT_SUM_TOLERANCE
    # an average over signs of rounding, with room: a sum that is off by 1 % is no rounding
    return min(max(WEIGHT_SUM_TOLERANCE, 4.0 * math.sqrt(size) * float(np.finfo(kind).eps)), 0.01)


def as_weights(value: object, size: int, name: str = "weights") -> Array:
    """Non-negative weights (size,) that sum to one; None means uniform.

    A sum that is off by the rounding of the weights' own precision (float32, float16) is taken for
    one, and the weights are divided by it.
    """
    if value is None:
        return np.full(size, 1.0 / size)
    array = as_real_array(value, name)
    if array.shape != (size,):
        raise ValueError(
            f"{name}: shape {array.shape}, but there are {size} samples; needed: ({size},)"
        )
    check_non_negative(array, name)
    total = float(array.sum())
    check_weight_sum(total, weight_sum_tolerance(value, size), name)
    return array if abs(total - 1.0) <= 1e-15 * size else array / total


def check_non_negative(weights: Array, name: str) -> None:
    """Refuse a negative weight."""
    if (weights < 0).any():
        i = int(np.argmin(weights))
        raise ValueError(f"{name}: entry {i} is {weights[i]}; weights must be non-negative")


def check_weight_sum(total: float, tolerance: float, name: str) -> None:
    """Refuse weights whose sum is not one."""
    if abs(total - 1.0) > tolerance:
        raise ValueError(
            f"{name}: they sum to {total!r}, not to 1; divide by the sum if that is what you mean"
        )


def as_scalar(value: object, name: str, allowed: str) -> float:
    """A finite real number."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, or tensors, see above
        if hasattr(value, "detach"):
            raise TypeError(f"{name}: {_unread(value, name, error)}") from None
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or isinstance(value, np.ma.MaskedArray):
        call = f" (call it: {name}())" if callable(value) else ""
        raise TypeError(f"{name}: {value!r} is not a real number{call}; allowed: {allowed}")
    if array.ndim != 0:
        raise ValueError(
            f"{name}: one number is needed, given an array of shape {array.shape}; "
            f"allowed: {allowed}"
        )
    number = float(array)
    if not math.isfinite(number):
        raise ValueError(f"{name}: {number} is not finite; allowed: {allowed}")
    return number


def as_non_negative(value: object, name: str, allowed: str = "a number >= 0") -> float:
    """A finite number >= 0."""
    number = as_scalar(value, name, allowed)
    if number < 0:
        raise ValueError(f"{name}: {number} is negative; allowed: {allowed}")
    return number


def as_radius(value: object, name: str = "radius") -> float:
    """A Wasserstein-2 radius: a finite number >= 0, in the units of the data (budget = radius²)."""
    radius = as_non_negative(value, name, "a W2 radius >= 0 in the units of the data")
    check_magnitude(radius, name)
    return radius


def as_radii(value: object) -> Array:
    """A non-empty sequence of radii >= 0 whose squares are floats."""
    radii = non_negative_array(value, "radii")
    if radii.ndim != 1 or radii.size == 0:
        raise ValueError(
            f"radii: a non-empty 1-D sequence of radii is needed, given shape {radii.shape}"
        )
    check_magnitude(radii, "radii")
    return radii


def as_positive_integer(value: object, name: str) -> int:
    """An integer >= 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: {value!r} is not an integer; allowed: an integer >= 1")
    if value < 1:
        raise ValueError(f"{name}: {value} is below 1; allowed: an integer >= 1")
    _check_64_bits(value, name)
    return int(value)


def as_positive(value: object, name: str) -> float:
    """A finite number > 0."""
    number = as_scalar(value, name, "a number > 0")
    if number <= 0:
        raise ValueError(f"{name}: {number}; allowed: a number > 0")
    return number


def as_count(value: object, name: str) -> int:
    """An integer >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}: {value!r} is not an integer; allowed: an integer >= 0")
    if value < 0:
        raise ValueError(f"{name}: {value} is negative; allowed: an integer >= 0")
    _check_64_bits(value, name)
    return int(value)


def _check_64_bits(value: int | np.integer[Any], name: str) -> None:
    if value >= 2**63:
        raise ValueError(f"{name}: an integer of {int(value).bit_length()} bits; allowed: 63")


def non_negative_array(value: object, name: str) -> Array:
    """An array of any shape with finite entries >= 0."""
    array = as_real_array(value, name)
    if (array < 0).any():
        raise ValueError(f"{name}: {array.min()} is negative; every entry must be >= 0")
    return array


def check_option(value: object, name: str, known: Iterable[str]) -> None:
    """Refuse whatever is not one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(unknown(name, value, known))


def unknown(kind: str, value: object, known: Iterable[str]) -> str:
    """The message for an unknown name: what was given, the nearest known one, and all of them."""
    names = list(known)
    allowed = ", ".join(map(repr, names))
    return f"{kind}: unknown value {value!r}{_nearest(value, names)}; allowed: {allowed}"


def _nearest(value: object, names: list[str]) -> str:
    """A hint at the known name that is most like what was given, or nothing."""
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), lowered, n=1, cutoff=0.5)
    return f" (did you mean {lowered[near[0]]!r}?)" if near else ""


def check_keywords(
    function: Callable[..., object], given: Mapping[str, object], options: type
) -> None:
    """Refuse keywords that a function would hand on, in its own name and with the nearest one.

    Parameters
    ----------
    function : callable
        Whose arguments, besides the options, are known too.
    given : mapping
        Its ``**keywords``.
    options : TypedDict
        What they may be.
    """
    handed: frozenset[str] = vars(options)["__optional_keys__"] | vars(options)["__required_keys__"]
    own = inspect.signature(function).parameters.values()
    names = [p.name for p in own if p.kind is not p.VAR_KEYWORD] + sorted(handed)
    for name in given:
        if name not in handed:
            raise TypeError(
                f"{function.__name__}() got an unexpected keyword argument {name!r}"
                f"{_nearest(name, names)}; allowed: {', '.join(names)}"
            )
