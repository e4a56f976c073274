"""A linear network: the map for which `dro_core` gives the exact worst case."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_real_array
from dro_core.types import Array
from dro_torch.checks import check_finite
from dro_torch.nets.common import Bounds, check_features, check_shape
from dro_torch.nets.norms import matrix_norm


class LinearMap(nn.Module):
    r"""The linear map :math:`y \mapsto By` as a network without bias.

    Parameters
    ----------
    matrix : (n, m) array
        B; a copy becomes the trainable parameter ``weight``.
    output_shape : sequence of integers, optional
        Shape of one output sample, with n entries. Default: (n,).
    dtype : torch.dtype
        Of the parameter.

    Raises
    ------
    ValueError, TypeError
        For an array that is not a finite matrix, or a shape that does not have n entries; on
        input, for samples that do not have m entries.

    Notes
    -----
    Input (N, ...) with m entries per sample in row-major order. Its Lipschitz constant is the
    largest singular value. Source: this project; theory of the exact case in `dro_core`.

    Examples
    --------
    >>> model = LinearMap([[1.0, 2.0]])
    >>> model(torch.tensor([[3.0, 4.0]])).tolist()
    [[11.0]]
    >>> model.matrix()
    array([[1., 2.]])
    """

    def __init__(
        self,
        matrix: ArrayLike,
        *,
        output_shape: Sequence[int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        array = as_real_array(matrix, "matrix")
        if array.ndim != 2 or array.size == 0:
            raise ValueError(
                f"matrix: a non-empty 2-D array (n, m) is needed, given shape {array.shape}"
            )
        self.weight = nn.Parameter(torch.tensor(np.ascontiguousarray(array), dtype=dtype))
        check_finite(self.weight, "matrix")
        self.output_shape = check_shape(output_shape, "output_shape", len(array))

    def forward(self, y: Tensor) -> Tensor:
        """Apply the map to every sample of (N, ...)."""
        check_features(y, math.prod(y.shape[1:]), self.weight.shape[1], "LinearMap")
        result: Tensor = functional.linear(y.flatten(1), self.weight).unflatten(
            1, self.output_shape
        )
        return result

    def matrix(self) -> Array:
        """B as a float64 numpy array (n, m)."""
        return np.asarray(self.weight.detach().double().cpu().numpy())

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """Its largest singular value."""
        return matrix_norm(self.weight)
