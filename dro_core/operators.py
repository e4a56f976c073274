r"""Forward operators with known spectra, and their (regularised) inverses.

An operator acts on samples that are rows (`apply`, `adjoint`), is dense on request (`matrix`),
knows its singular values, and gives reconstruction maps through `inverse`. Where a fast transform
diagonalises it, nothing dense is ever formed: worst cases of 256 × 256 images take a few FFTs.

=================  ===========================================  ==================================
operator           what it is                                   diagonal in
=================  ===========================================  ==================================
`Diagonal`         polynomially ill-posed, k^(-decay)           the coordinate axes
`BackwardHeat`     heat flow for a given time                   FFT, DST (Dirichlet), DCT (Neumann)
`Integration`      cumulative integral                          DST of odd length
`Convolution`      blur by a kernel, any padding                FFT (circular); DCT (reflect, even
                                                                kernel); DST (zero, even 3-tap one)
=================  ===========================================  ==================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from dro_core.bases import (
    Basis,
    ColumnBasis,
    CosineBasis,
    FourierBasis,
    QuarterSineBasis,
    SineBasis,
    StandardBasis,
    cosine_sums,
)
from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    as_real_array,
    check_magnitude,
    check_option,
    magnitude,
)
from dro_core.linear_map import DENSE_ENTRIES, LinearMap
from dro_core.types import Array, Integer, Real


class SpectralOperator(LinearMap):
    r"""An operator :math:`A = L\,\mathrm{diag}(a)\,R^*` with known orthonormal bases L and R.

    Parameters
    ----------
    left, right : Basis
        With equal multiplicities.
    multipliers : (k,) array, real or complex
        :math:`a`, one for each coordinate of the bases; in modulus, the singular values.
    """

    def __init__(self, left: Basis, multipliers: Any, right: Basis) -> None:
        self.left = left
        self.multipliers = multipliers
        self.right = right
        self.shape = (left.size, right.size)

    def apply(self, rows: Array) -> Array:
        """Rows of y to rows Ay: (N, n) -> (N, n)."""
        return self.left.synthesize(self.right.analyze(rows) * self.multipliers)

    def adjoint(self, rows: Array) -> Array:
        """Rows q to rows Aᵀq: (N, n) -> (N, n)."""
        return self.right.synthesize(self.left.analyze(rows) * np.conj(self.multipliers))

    @property
    def singular_values(self) -> Array:
        """Singular values, in decreasing order, shape (n,)."""
        repeats = self.left.multiplicity.astype(int)
        return np.sort(np.repeat(np.abs(self.multipliers), repeats))[::-1]

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant, that is the largest singular value."""
        return float(np.abs(self.multipliers).max())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]} x {self.shape[1]}, L={self.lipschitz:.6g})"

    def spectral(self) -> SpectralOperator:
        """Itself."""
        return self

    def singular_basis(self) -> tuple[Basis, Array]:
        """Left singular vectors and squared singular values per coordinate."""
        modulus = np.abs(self.multipliers)
        return self.left, modulus * modulus

    @property
    def norm_bound(self) -> float:
        """The largest singular value."""
        return self.lipschitz

    @property
    def largest_entry(self) -> float:
        """The largest singular value, which no entry exceeds."""
        return self.lipschitz

    def squared_frobenius(self) -> float:
        """Sum of the squared singular values."""
        modulus = np.abs(self.multipliers)
        return float(self.left.multiplicity @ (modulus * modulus))

    def inverse(self, regularization: Real = 0.0) -> SpectralInverse:
        r"""Tikhonov-regularised inverse :math:`R\,\mathrm{diag}(\bar a/(|a|^2+\alpha))\,L^*`.

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
            return SpectralInverse(self.right, np.conj(a) / (np.abs(a) ** 2 + alpha), self.left)
        if (np.abs(a) < 1 / np.finfo(np.float64).max).any():
            raise ValueError(
                f"regularization: 0.0, but the smallest singular value is {np.abs(a).min()}, so "
                "there is no finite inverse; allowed: a positive number"
            )
        return SpectralInverse(self.right, 1.0 / a, self.left)


class SpectralInverse(SpectralOperator):
    """The (regularised) inverse of a spectral operator: what `inverse` returns."""


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

    def __init__(self, decay: ArrayLike, size: Integer) -> None:
        alpha, n = as_non_negative(decay, "decay"), as_positive_integer(size, "size")
        basis = StandardBasis(n)
        super().__init__(basis, np.arange(1, n + 1, dtype=np.float64) ** -alpha, basis)


class BackwardHeat(SpectralOperator):
    r"""Heat flow on [0, 1] for a given time; inverting it is the backward heat problem (§5.1).

    :math:`A = F^{-1}\mathrm{diag}(e^{-\omega_k^2 T})F` on n equidistant points, where the boundary
    decides on F and :math:`\omega`:

    * "periodic": Fourier, :math:`\omega_k = 2\pi k` with k the signed frequency;
    * "dirichlet" (zero at both ends, points j/(n+1)): sines, :math:`\omega_k = \pi k`, k = 1..n;
    * "neumann" (insulated ends, points (j-1/2)/n): cosines, :math:`\omega_k = \pi k`, k = 0..n-1.

    Parameters
    ----------
    time : float
        T >= 0.
    size : int
        n >= 1.
    boundary : "periodic", "dirichlet" or "neumann"

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite time, a size that is not an integer >= 1, or an unknown
        boundary.
    """

    def __init__(
        self,
        time: Real,
        size: Integer,
        boundary: Literal["periodic", "dirichlet", "neumann"] = "periodic",
    ) -> None:
        T, n = as_non_negative(time, "time"), as_positive_integer(size, "size")
        basis: Basis
        check_option(boundary, "boundary", ("periodic", "dirichlet", "neumann"))
        if boundary == "periodic":
            basis, frequency = FourierBasis((n,)), 2 * np.pi * np.arange(n // 2 + 1)
        elif boundary == "dirichlet":
            basis, frequency = SineBasis((n,)), np.pi * np.arange(1, n + 1)
        else:
            basis, frequency = CosineBasis((n,)), np.pi * np.arange(n)
        with np.errstate(over="ignore"):  # a frequency damped to nothing
            multipliers = np.exp(-(frequency**2) * T)
        super().__init__(basis, multipliers, basis)


class Integration(SpectralOperator):
    r"""Cumulative integral :math:`(Ax)_i = \frac1n\sum_{j\le i} x_j` on [0, 1], by rectangles.

    Its exact inverse is the backward difference quotient (with value zero before the first
    point): reconstructing x from y = Ax is numerical differentiation. The singular values are
    :math:`1/(2n\sin\theta_k)`, :math:`\theta_k = (2k-1)\pi/(2(2n+1))`, and both singular bases are
    sines of quarter waves.

    Parameters
    ----------
    size : int
        n >= 1.

    Raises
    ------
    ValueError, TypeError
        For a size that is not an integer >= 1.
    """

    def __init__(self, size: Integer) -> None:
        n = as_positive_integer(size, "size")
        k = np.arange(1, n + 1)
        values = 1 / (2 * n * np.sin((2 * k - 1) * np.pi / (2 * (2 * n + 1))))
        signs = np.where(k % 2 == 1, 1.0, -1.0)
        super().__init__(QuarterSineBasis(n), values * signs, QuarterSineBasis(n, flipped=True))

    def apply(self, rows: Array) -> Array:
        """Cumulative sums / n."""
        return np.cumsum(rows, axis=1) / len(self.multipliers)

    def adjoint(self, rows: Array) -> Array:
        """Cumulative sums from the right / n."""
        return np.cumsum(rows[:, ::-1], axis=1)[:, ::-1] / len(self.multipliers)


PADDINGS = ("circular", "zero", "reflect", "mirror")


class Convolution(LinearMap):
    r"""Convolution of a signal or image with a kernel, output of the same shape.

    :math:`(Ax)_i = \sum_t k_t\, x_{i - t + c}` with the centre c = (size of the kernel) // 2 in
    every axis, as `scipy.ndimage.convolve` computes it. Samples are flattened grids (C order).

    Parameters
    ----------
    kernel : array
        With as many axes as the grid, in no axis longer than it.
    shape : int or tuple of ints
        The grid.
    padding : "circular", "zero", "reflect" or "mirror"
        What lies outside the grid: its periodic continuation, zeros, or a reflection. The names of
        the reflections are those of `scipy.ndimage`: "reflect" repeats the edge
        (d c b a | a b c d | d c b a), "mirror" does not (d c b | a b c d | c b a), which numpy's
        ``pad`` and torch call "reflect".

    Raises
    ------
    ValueError, TypeError
        For a kernel that is not finite or real, or does not fit the grid; an unknown padding.

    Notes
    -----
    Diagonal under a fast transform: any kernel with circular padding (FFT); with reflect padding a
    kernel that is even in every axis (DCT); with zero padding an even one of at most 3 entries per
    axis (DST). For others the singular values come from a dense decomposition, up to 2048 grid
    points; above, worst cases use Golub-Kahan quadrature with the norm bound below.
    """

    def __init__(
        self,
        kernel: ArrayLike,
        shape: Integer | Sequence[Integer],
        padding: Literal["circular", "zero", "reflect", "mirror"] = "circular",
    ) -> None:
        self.kernel = as_real_array(kernel, "kernel")
        check_magnitude(self.kernel, "kernel")
        sizes = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        self.grid = tuple(as_positive_integer(size, "shape") for size in sizes)
        if self.kernel.ndim != len(self.grid) or 0 in self.kernel.shape:
            raise ValueError(
                f"kernel: shape {self.kernel.shape}, but the grid has shape {self.grid}; a "
                "non-empty kernel with as many axes is needed"
            )
        if any(k > s for k, s in zip(self.kernel.shape, self.grid, strict=True)):
            raise ValueError(
                f"kernel: shape {self.kernel.shape} exceeds the grid, {self.grid}; crop the kernel"
            )
        check_option(padding, "padding", PADDINGS)
        self.padding = padding
        size = math.prod(self.grid)
        self.shape = (size, size)
        self._centre = tuple(k // 2 for k in self.kernel.shape)
        self._spectral = self._diagonalise()

    def __repr__(self) -> str:
        return (
            f"Convolution(kernel={self.kernel.shape}, grid={self.grid}, padding={self.padding!r})"
        )

    def _diagonalise(self) -> SpectralOperator | None:
        if self.padding == "circular":
            basis = FourierBasis(self.grid)
            return SpectralOperator(basis, basis.symbol(self._placed(self.grid)), basis)
        even = all(
            size % 2 == 1 and np.array_equal(self.kernel, np.flip(self.kernel, axis))
            for axis, size in enumerate(self.kernel.shape)
        )
        image = self.kernel
        if even and self.padding == "reflect":
            for axis, (size, centre) in enumerate(zip(self.grid, self._centre, strict=True)):
                image = cosine_sums(image, axis, np.pi * np.arange(size) / size, centre)
            return _symmetric(CosineBasis(self.grid), image.ravel())
        if even and self.padding == "zero" and max(self._centre) <= 1:
            for axis, (size, centre) in enumerate(zip(self.grid, self._centre, strict=True)):
                angles = np.pi * np.arange(1, size + 1) / (size + 1)
                image = cosine_sums(image, axis, angles, centre)
            return _symmetric(SineBasis(self.grid), image.ravel())
        return None

    def _placed(self, grid: tuple[int, ...]) -> Array:
        """The kernel on a periodic grid, its centre at the origin."""
        placed = np.zeros(grid)
        placed[tuple(slice(k) for k in self.kernel.shape)] = self.kernel
        return np.roll(placed, tuple(-c for c in self._centre), tuple(range(len(grid))))

    @cached_property
    def _padded(self) -> tuple[tuple[int, ...], Any]:
        """The padded grid and the kernel's transform on it."""
        grid = tuple(s + k - 1 for s, k in zip(self.grid, self.kernel.shape, strict=True))
        return grid, fft.rfftn(self._placed(grid))

    def _margins(self) -> list[tuple[Any, Any]]:
        """Per axis, for the entries before and after the grid, the grid index each one copies."""
        margins = []
        for size, length, centre in zip(self.grid, self.kernel.shape, self._centre, strict=True):
            # output i reads from i + centre - (length - 1) to i + centre
            before, after = np.arange(-(length - 1 - centre), 0), np.arange(size, size + centre)
            if self.padding == "reflect":
                margins.append((-1 - before, 2 * size - 1 - after))
            else:
                period = max(2 * size - 2, 1)
                margins.append(
                    tuple(np.minimum(i % period, period - i % period) for i in (before, after))
                )
        return margins

    def apply(self, rows: Array) -> Array:
        """Rows x to rows Ax: (N, n) -> (N, n)."""
        if self._spectral is not None:
            return self._spectral.apply(rows)
        return self._through_padding(rows, adjoint=False)

    def adjoint(self, rows: Array) -> Array:
        """Rows q to rows Aᵀq: (N, n) -> (N, n)."""
        if self._spectral is not None:
            return self._spectral.adjoint(rows)
        return self._through_padding(rows, adjoint=True)

    def _through_padding(self, rows: Array, *, adjoint: bool) -> Array:
        grid, symbol = self._padded
        axes = tuple(range(1, 1 + len(grid)))
        inside = tuple(slice(size) for size in self.grid)
        padded = np.zeros((len(rows), *grid))
        padded[(slice(None), *inside)] = rows.reshape(-1, *self.grid)
        if not adjoint and self.padding != "zero":
            for axis, margins in enumerate(self._margins(), start=1):
                self._copy_margins(padded, axis, margins)
        transform = fft.rfftn(padded, axes=axes) * (np.conj(symbol) if adjoint else symbol)
        padded = fft.irfftn(transform, s=grid, axes=axes)
        if adjoint and self.padding != "zero":
            for axis, margins in enumerate(self._margins(), start=1):
                self._fold_margins(padded, axis, margins)
        return np.ascontiguousarray(padded[(slice(None), *inside)].reshape(len(rows), -1))

    def _places(self, axis: int, margins: tuple[Any, Any]) -> tuple[Any, Any]:
        """Where the margins lie in the periodic padded axis: after the grid, wrapped around."""
        size = self.grid[axis - 1]
        length = size + self.kernel.shape[axis - 1] - 1
        return size + np.arange(len(margins[1])), length - len(margins[0]) + np.arange(
            len(margins[0])
        )

    def _copy_margins(self, padded: Array, axis: int, margins: tuple[Any, Any]) -> None:
        view = np.moveaxis(padded, axis, 0)
        after, before = self._places(axis, margins)
        view[after] = view[margins[1]]
        view[before] = view[margins[0]]

    def _fold_margins(self, padded: Array, axis: int, margins: tuple[Any, Any]) -> None:
        view = np.moveaxis(padded, axis, 0)
        after, before = self._places(axis, margins)
        np.add.at(view, margins[1], view[after])
        np.add.at(view, margins[0], view[before])

    def spectral(self) -> SpectralOperator | None:
        """The form L diag(a) R* of a fast transform, or None."""
        return self._spectral

    def singular_basis(self) -> tuple[Basis, Array] | None:
        """Left singular vectors and squared singular values, or None for a large dense case."""
        if self._spectral is not None:
            return self._spectral.singular_basis()
        return super().singular_basis()

    @property
    def norm_bound(self) -> float:
        r"""A proved upper bound on the largest singular value.

        The largest modulus of the transform where there is one. Zero padding cuts a circular
        convolution on the padded grid, which has the larger norm. Reflections: Schur's bound
        :math:`\sqrt{\|A\|_1\|A\|_\infty}` with :math:`\|A\|_\infty \le \|k\|_1` and the column sums
        of the absolute values.
        """
        if self._spectral is not None:
            return self._spectral.lipschitz
        if self.padding == "zero":
            return float(np.abs(self._padded[1]).max()) * (1 + 1e-12)
        absolute = Convolution(np.abs(self.kernel), self.grid, self.padding)
        absolute._spectral = None  # its own products, not a transform's
        columns = absolute._through_padding(np.ones((1, self.shape[0])), adjoint=True)
        rows = float(np.abs(self.kernel).sum())
        return math.sqrt(rows * float(columns.max())) * (1 + 1e-12)

    @property
    def largest_entry(self) -> float:
        """Up to the number of times a reflection can repeat a point."""
        return float(magnitude(self.kernel) * 2 ** len(self.grid))

    @cached_property
    def _decomposition(self) -> SpectralOperator:
        """The spectral form: a fast transform's, or a dense singular value decomposition."""
        if self._spectral is not None:
            return self._spectral
        if not self.is_small:
            raise ValueError(
                f"shape: no fast transform diagonalises {self!r}, and with {self.shape[0]} grid "
                f"points it is too large for a dense decomposition (at most "
                f"{math.isqrt(DENSE_ENTRIES)}); use circular padding, or reflect padding with an "
                "even kernel"
            )
        left, values, right = np.linalg.svd(self.matrix())
        return SpectralOperator(ColumnBasis(left), values, ColumnBasis(right.T))

    @property
    def singular_values(self) -> Array:
        """Singular values, in decreasing order, shape (n,); see the notes of the class."""
        return self._decomposition.singular_values

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant, that is the largest singular value."""
        return self._decomposition.lipschitz

    def inverse(self, regularization: Real = 0.0) -> SpectralInverse:
        """Tikhonov-regularised inverse; see `SpectralOperator.inverse`."""
        return self._decomposition.inverse(regularization)

    def squared_frobenius(self) -> float:
        """Sum of the squared singular values."""
        return self._decomposition.squared_frobenius()


def _symmetric(basis: Basis, multipliers: Array) -> SpectralOperator:
    return SpectralOperator(basis, multipliers, basis)
