"""Names of the kinds of arguments and results that signatures speak of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Booleans: TypeAlias = NDArray[np.bool_]
SparseArray: TypeAlias = sparse.csr_array
#: A number of Python or numpy.
Real: TypeAlias = float | np.floating[Any] | np.integer[Any]
Integer: TypeAlias = int | np.integer[Any]
#: A table over (samples, candidates): whole, or a function from a slice of samples to its rows.
Table: TypeAlias = ArrayLike | Callable[[slice], ArrayLike]

#: Distance from 1 to the next float.
EPS = float(np.finfo(np.float64).eps)
