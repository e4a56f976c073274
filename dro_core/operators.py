r"""Forward operators with known spectra, and their (regularised) inverses.

Every operator is dense on request (`matrix()`), knows its singular values without one, and gives
reconstruction maps through `inverse`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from dro_core._validation import Array, as_non_negative, as_positive_integer


class SpectralOperator(ABC):
    r"""A symmetric operator :math:`A = Q\,\mathrm{diag}(a)\,Q^\top` on R^n with known Q.

    `multipliers` holds the eigenvalues a, in the order of the columns of Q.
    """

    multipliers: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return len(self.multipliers), len(self.multipliers)

    @property
    def singular_values(self) -> Array:
        """Singular values, in decreasing order, shape (n,)."""
        return np.sort(np.abs(self.multipliers))[::-1]

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant, that is the largest singular value."""
        return float(np.abs(self.multipliers).max())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}, L={self.lipschitz:.6g})"

    @abstractmethod
    def _function(self, multipliers: Array) -> Array:
        """The dense matrix Q diag(multipliers) Qᵀ."""

    def matrix(self) -> Array:
        """The operator as a dense (n, n) matrix."""
        return self._function(self.multipliers)

    def inverse(self, regularization: Any = 0.0) -> SpectralInverse:
        r"""Tikhonov-regularised inverse :math:`Q\,\mathrm{diag}(a/(a^2+\alpha))\,Q^\top`.

        Parameters
        ----------
        regularization : float
            :math:`\alpha \ge 0`; zero is the exact inverse, of use while the condition number
            stays below about 1e10 (rounding of y is amplified by it like any other error).

        Raises
        ------
        ValueError
            If `regularization` is negative or not finite; if it is zero and the operator is
            singular, or its inverse exceeds the largest float.
        """
        alpha = as_non_negative(regularization, "regularization")
        a = self.multipliers
        if alpha > 0:
            return SpectralInverse(self, a / (a * a + alpha))
        if (np.abs(a) < 1 / np.finfo(np.float64).max).any():
            raise ValueError(
                f"regularization: 0.0, but the smallest singular value is {np.abs(a).min()}, so "
                "there is no finite inverse; allowed: a positive number"
            )
        return SpectralInverse(self, 1.0 / a)


class SpectralInverse(SpectralOperator):
    """A function of another spectral operator (same Q): what `inverse` returns."""

    def __init__(self, of: SpectralOperator, multipliers: Array) -> None:
        self._of = of
        self.multipliers = multipliers

    def _function(self, multipliers: Array) -> Array:
        return self._of._function(multipliers)


class Diagonal(SpectralOperator):
    r"""Polynomially ill-posed operator :math:`A = \mathrm{diag}(k^{-\alpha})` (paper §5.1).

    Parameters
    ----------
    decay : float
        :math:`\alpha \ge 0`; the exact inverse has Lipschitz constant :math:`n^\alpha`.
    size : int
        n >= 1.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite decay, or a size that is not an integer >= 1.
    """

    def __init__(self, decay: Any, size: Any) -> None:
        alpha, n = as_non_negative(decay, "decay"), as_positive_integer(size, "size")
        self.multipliers = np.arange(1, n + 1, dtype=np.float64) ** -alpha

    def _function(self, multipliers: Array) -> Array:
        return np.diag(multipliers)


class BackwardHeat(SpectralOperator):
    r"""Heat flow on [0, 1], periodic, for a given time (paper §5.1).

    :math:`A = F^{-1}\mathrm{diag}(e^{-(2\pi k)^2 T})F` on n equidistant points, with k the signed
    frequency. Inverting it is the backward heat problem.

    Parameters
    ----------
    time : float
        T >= 0.
    size : int
        n >= 1.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite time, or a size that is not an integer >= 1.
    """

    def __init__(self, time: Any, size: Any) -> None:
        T, n = as_non_negative(time, "time"), as_positive_integer(size, "size")
        frequency = np.fft.fftfreq(n, d=1.0 / n)
        with np.errstate(over="ignore"):  # a frequency damped to nothing
            self.multipliers = np.exp(-((2 * np.pi * frequency) ** 2) * T)

    def _function(self, multipliers: Array) -> Array:
        column = np.fft.ifft(multipliers).real  # the even symbol makes a symmetric circulant
        n = len(column)
        return column[(np.arange(n)[:, None] - np.arange(n)[None, :]) % n]
