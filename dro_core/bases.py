r"""Orthonormal bases in which operators are diagonal: by matrix, FFT, DCT or DST.

A basis turns rows into coordinates (`analyze`) and back (`synthesize`), both in fast transforms
where there are any. Coordinates may be complex and may stand for several dimensions at once: a
frequency of the half spectrum and its conjugate are one coordinate of `multiplicity` two.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from scipy import fft

from dro_core.types import Array


class Basis(ABC):
    """An orthonormal family in R^size: k coordinates, each worth `multiplicity` dimensions."""

    #: Dimension of the space.
    size: int
    #: Dimensions per coordinate, (k,).
    multiplicity: Array

    @abstractmethod
    def analyze(self, rows: Array) -> Any:
        """Coordinates of rows, (N, size) -> (N, k)."""

    @abstractmethod
    def synthesize(self, coordinates: Any) -> Array:
        """Rows with given coordinates, (N, k) -> (N, size)."""

    def energy(self, coordinates: Any, weights: Array) -> Array:
        """Weighted squared length of rows on each coordinate, Σ_i weights_i |c_ij|², (k,)."""
        energy = np.einsum("i,ij,ij->j", weights, coordinates.real, coordinates.real)
        if np.iscomplexobj(coordinates):
            energy += np.einsum("i,ij,ij->j", weights, coordinates.imag, coordinates.imag)
        return np.asarray(energy * self.multiplicity)

    def direction(self, index: int) -> Array:
        """A unit vector on one coordinate, (size,)."""
        coordinates = np.zeros((1, len(self.multiplicity)))
        coordinates[0, index] = 1.0
        vector = self.synthesize(coordinates)[0]
        return np.asarray(vector / np.linalg.norm(vector))

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and vars(self).keys() == vars(other).keys()
            and all(np.array_equal(value, vars(other)[name]) for name, value in vars(self).items())
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value


class ColumnBasis(Basis):
    """The orthonormal columns of a (size, k) matrix, k <= size."""

    def __init__(self, columns: Array) -> None:
        self.columns = columns
        self.size = len(columns)
        self.multiplicity = np.ones(columns.shape[1])

    def analyze(self, rows: Array) -> Array:
        return rows @ self.columns

    def synthesize(self, coordinates: Any) -> Array:
        return np.asarray(coordinates @ self.columns.T)


class StandardBasis(Basis):
    """The coordinate axes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.multiplicity = np.ones(size)

    def analyze(self, rows: Array) -> Array:
        return rows

    def synthesize(self, coordinates: Any) -> Array:
        return np.asarray(coordinates)


class _GridBasis(Basis):
    """A basis of functions on a grid; rows are flattened in C order."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.size = math.prod(shape)
        self.multiplicity = np.ones(self.size)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(1, 1 + len(self.shape)))

    def _grid(self, rows: Array) -> Array:
        return rows.reshape(-1, *self.shape)


class FourierBasis(_GridBasis):
    """Real discrete Fourier basis of a periodic grid, as the half spectrum of `scipy.fft.rfftn`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        last = shape[-1]
        twice = np.full((*shape[:-1], last // 2 + 1), 2.0)
        twice[..., 0] = 1.0
        if last % 2 == 0:
            twice[..., -1] = 1.0
        self.multiplicity = twice.ravel()

    def analyze(self, rows: Array) -> Any:
        return fft.rfftn(self._grid(rows), axes=self._axes, norm="ortho").reshape(len(rows), -1)

    def synthesize(self, coordinates: Any) -> Array:
        half = coordinates.reshape(-1, *self.shape[:-1], self.shape[-1] // 2 + 1)
        rows = fft.irfftn(half, s=self.shape, axes=self._axes, norm="ortho")
        return np.asarray(rows.reshape(len(coordinates), -1))

    def symbol(self, kernel: Array) -> Any:
        """Multipliers of the circular convolution with a kernel on the grid, (k,) complex."""
        return fft.rfftn(kernel).ravel()


class CosineBasis(_GridBasis):
    """DCT-II: functions reflected at the edges of the grid, (d c b a | a b c d | d c b a)."""

    def analyze(self, rows: Array) -> Array:
        coordinates = fft.dctn(self._grid(rows), type=2, axes=self._axes, norm="ortho")
        return np.asarray(coordinates.reshape(len(rows), -1))

    def synthesize(self, coordinates: Any) -> Array:
        rows = fft.idctn(self._grid(coordinates), type=2, axes=self._axes, norm="ortho")
        return np.asarray(rows.reshape(len(coordinates), -1))


class SineBasis(_GridBasis):
    """DST-I: functions that vanish one step outside the grid."""

    def analyze(self, rows: Array) -> Array:
        coordinates = fft.dstn(self._grid(rows), type=1, axes=self._axes, norm="ortho")
        return np.asarray(coordinates.reshape(len(rows), -1))

    def synthesize(self, coordinates: Any) -> Array:
        return self.analyze(coordinates)  # DST-I is its own inverse


class QuarterSineBasis(Basis):
    r"""Vectors :math:`\sin((2k-1)\pi j/(2n+1))`, zero at the left end and free at the right one.

    Eigenvectors of the second difference with these ends; a DST-I of length 2n gives them. With
    `flipped` they run from right to left.
    """

    def __init__(self, size: int, *, flipped: bool = False) -> None:
        self.size = size
        self.flipped = flipped
        self.multiplicity = np.ones(size)

    def analyze(self, rows: Array) -> Array:
        padded = np.zeros((len(rows), 2 * self.size))
        padded[:, : self.size] = rows[:, ::-1] if self.flipped else rows
        return np.asarray(fft.dst(padded, type=1, norm="ortho")[:, ::2] * math.sqrt(2.0))

    def synthesize(self, coordinates: Any) -> Array:
        padded = np.zeros((len(coordinates), 2 * self.size))
        padded[:, ::2] = coordinates
        rows = fft.dst(padded, type=1, norm="ortho")[:, : self.size] * math.sqrt(2.0)
        return np.asarray(rows[:, ::-1] if self.flipped else rows)


def cosine_sums(kernel: Array, axis: int, angles: Array, centre: int) -> Array:
    """Σ_t k_t cos(angle (t - centre)) along one axis: the symbol of an even kernel."""
    waves = np.cos(np.outer(np.arange(kernel.shape[axis]) - centre, angles))
    return np.moveaxis(np.moveaxis(kernel, axis, -1) @ waves, -1, axis)
