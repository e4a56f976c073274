r"""The residual spectrum: everything a worst case needs to know of a map and its data.

It is the discrete measure :math:`\{(\sigma_j^2, m_j)\}` of the squared singular values of the
displacement matrix C (see `dro_core.structure`) with the residual mass on each,
:math:`m_j = \sum_i \mu_i (u_j^\top r_i)^2`. A matrix gives it exactly; knowing only a Lipschitz
constant is the spectrum with the single atom :math:`(\kappa^2, M)`; Golub-Kahan quadrature makes a
small spectrum of a map that is only known by its products (`dro_core.quadrature`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from dro_core.bases import Basis, ColumnBasis
from dro_core.certificate import LARGEST_RISK
from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    check_magnitude,
    check_map_size,
    non_negative_array,
)
from dro_core.golub_kahan import KrylovRuns
from dro_core.linear_map import LinearMap, MapLike, as_linear_map
from dro_core.samples import Block, Samples, SamplesLike, as_blocks
from dro_core.structure import AffineDisplacement, Start, Structure, as_structure
from dro_core.transport import squared_norms
from dro_core.types import EPS, Array, Integer, Real

#: Of an upper spectrum whose factor has no norm bound.
FAILURE_PROBABILITY = 5e-7


@dataclass(frozen=True, eq=False)
class ResidualSpectrum:
    r"""Squared singular values of the displacement with the residual mass on each.

    Parameters
    ----------
    squared_singular_values : (k,) array
        :math:`\sigma_j^2 \ge 0`, in any order.
    mass : (k,) array
        :math:`m_j \ge 0`, in squared units of x; they sum to the fidelity M.
    multiplicity : (k,) array
        How many singular values each atom stands for (directions without residual mass count too).

    Raises
    ------
    ValueError, TypeError
        For non-finite or negative entries, or arrays that are not 1-D of one common length >= 1.
    """

    squared_singular_values: Array
    mass: Array
    multiplicity: Array

    def __post_init__(self) -> None:
        length: tuple[int, ...] | None = None
        for name in ("squared_singular_values", "mass", "multiplicity"):
            array = non_negative_array(getattr(self, name), name)
            length = array.shape if length is None else length
            if array.ndim != 1 or array.size == 0 or array.shape != length:
                raise ValueError(
                    f"{name}: shape {array.shape}; the three arrays of a spectrum are 1-D, "
                    f"non-empty and equally long (squared_singular_values has shape {length})"
                )
            if name == "multiplicity":
                check_magnitude(array, name)
            object.__setattr__(self, name, array)

    @classmethod
    def from_matrix(
        cls,
        B: MapLike,
        x: SamplesLike,
        y: ArrayLike | None,
        structure: str | Structure = "y|x",
        *,
        weights: ArrayLike | None = None,
    ) -> ResidualSpectrum:
        r"""Exact spectrum of a linear map, :math:`m_j = \sum_i\mu_i(u_j^\top r_i)^2`.

        By dense algebra, or by FFT, DCT or DST for an operator that one of them diagonalises.

        Parameters
        ----------
        B : (n, m) matrix, scipy sparse matrix or operator of `dro_core.operators`
            Reconstruction map from y to x.
        x, y : (N, n) and (N, m) arrays
            Samples as rows, or as in `LinearReconstruction`.
        structure : "joint", "y|x", "x|y" or a Structure
        weights : (N,) array, optional
            Non-negative, summing to one; default uniform.

        Raises
        ------
        ValueError, TypeError
            For bad arrays (NaN, wrong shapes or dtypes), weights or structure; for a map without
            an exact spectrum (a LinearOperator: see `from_linear_operator`).
        """
        linear = as_linear_map(B, "B")
        displacement, samples = _displacement(linear, x, y, structure, weights)
        atoms = residual_atoms(linear, displacement, samples)
        if atoms is None:
            raise ValueError(
                "B: this map is known by its products only and has no exact spectrum; use "
                "ResidualSpectrum.from_linear_operator"
            )
        return cls(atoms.values(displacement.shift), atoms.mass, atoms.multiplicity)

    @classmethod
    def from_linear_operator(
        cls,
        B: MapLike,
        x: SamplesLike,
        y: ArrayLike | None,
        structure: str | Structure = "y|x",
        *,
        steps: Integer,
        norm_bound: Real | None = None,
        weights: ArrayLike | None = None,
        random_starts: Integer = 4,
        seed: int = 0,
    ) -> ResidualSpectrum:
        r"""Small spectrum of a matrix-free map by `steps` of Golub-Kahan bidiagonalisation.

        The Gauss rule of every residual (and of some random vectors without mass): its dual value
        is never above the exact one, at any multiplier and radius. With `norm_bound`
        :math:`\ge \sigma_{\max}(B)` the Gauss-Radau rule with a node there, whose dual value is
        never below.

        Parameters
        ----------
        B : LinearOperator with an adjoint, or any other (n, m) map
        x, y, structure, weights
            As in `from_matrix`.
        steps : int
            Products with B and its adjoint per sample.
        norm_bound : float, optional
            A proved bound on the largest singular value of B.
        random_starts : int
            Random start vectors, so that directions without residual are seen too.
        seed : int
            Of the random start vectors.

        Raises
        ------
        ValueError, TypeError
            As `from_matrix`; for `norm_bound` below a singular value that was found.
        """
        linear = as_linear_map(B, "B", norm_bound=norm_bound, seed=seed)
        displacement, samples = _displacement(linear, x, y, structure, weights)
        count = as_positive_integer(steps, "steps")
        starts = as_positive_integer(random_starts, "random_starts")
        if displacement.factor is None:
            raise ValueError(
                "structure: without a map that moves, there is nothing to bidiagonalise"
            )
        residual, mu, _ = started_residuals(linear, displacement, samples)
        krylov = KrylovRuns(displacement.factor, residual, mu, starts, seed)
        krylov.runs.advance(count)
        if norm_bound is None:
            rule = krylov.gauss(count)
        else:
            node = krylov.proved_node(count)
            if node is None:  # the factor of this structure has no bound of its own
                node = krylov.probable_top(count, FAILURE_PROBABILITY)
            rule = krylov.radau(count, node)
        return cls(*krylov.atoms(displacement.shift, *rule))

    @classmethod
    def from_lipschitz(
        cls, modulus: float, fidelity: float, multiplicity: int = 1
    ) -> ResidualSpectrum:
        r"""The one-atom spectrum :math:`(\kappa^2, M)` of a map known only by its modulus.

        Its dual value is exactly the explicit bound :math:`(\sqrt M + \rho\kappa)^2` of
        Theorems 4.1 and 4.2.

        Raises
        ------
        ValueError, TypeError
            For a negative or non-finite `modulus` or `fidelity`, or `multiplicity` below one.
        """
        kappa = as_non_negative(modulus, "modulus")
        check_magnitude(kappa, "modulus")
        mass = as_non_negative(fidelity, "fidelity")
        count = as_positive_integer(multiplicity, "multiplicity")
        return cls(np.array([kappa * kappa]), np.array([mass]), np.array([float(count)]))

    @property
    def top(self) -> float:
        r""":math:`\kappa^2 = \max_j \sigma_j^2`, the threshold of the multiplier."""
        return float(self.squared_singular_values.max())

    @property
    def fidelity(self) -> float:
        r""":math:`M = \sum_j m_j`, the risk at radius zero."""
        return float(self.mass.sum())

    @property
    def significant(self) -> Array:
        """Atoms whose mass is more than the rounding of the residuals' coordinates; (k,) bool.

        Rounding leaves about eps² M on every direction. Counted as mass on the top singular space
        it would turn the hard case into a division of noise by noise; left out, it changes a
        worst-case risk by less than 16 n eps, relatively.
        """
        floor = (8 * EPS) ** 2 * self.multiplicity.sum() * self.fidelity
        return np.asarray(self.mass > floor)

    @property
    def relative_gaps(self) -> Array:
        r""":math:`1 - \sigma_j^2/\kappa^2`, by a subtraction that is exact at the top; (k,)."""
        top = self.top
        if top == 0.0:
            return np.zeros_like(self.squared_singular_values)
        return (top - self.squared_singular_values) / top


def _displacement(
    B: LinearMap,
    x: SamplesLike,
    y: ArrayLike | None,
    structure: str | Structure,
    weights: ArrayLike | None,
) -> tuple[AffineDisplacement, Samples]:
    samples = as_blocks(x, y, weights)
    check_map_size(B, samples.widths, "B")
    return as_structure(structure).displacement(B), samples


def residuals(B: LinearMap, block: Block) -> Array:
    """Residuals x_i - B y_i as rows, (b, n)."""
    image = B.apply(block.y)
    return np.subtract(block.x, image, out=image)


def started(B: LinearMap, displacement: AffineDisplacement, block: Block) -> Start:
    """Where the samples of a block start."""
    return displacement.start(block.x, block.y, residuals(B, block))


def started_residuals(
    B: LinearMap, displacement: AffineDisplacement, samples: Samples
) -> tuple[Array, Array, float]:
    """All residuals at the start with their weights, and what the start costs, in memory.

    (What works on every residual many times needs that; means over blocks do not.)
    """
    starts = [(block, started(B, displacement, block)) for block in samples.blocks()]
    mu = np.concatenate([block.weights for block, _ in starts]) / samples.total
    cost = sum(float(np.sum(block.weights * start.cost)) for block, start in starts)
    residual = starts[0][1].residual
    if len(starts) > 1:
        residual = np.concatenate([start.residual for _, start in starts])
    return residual, mu, cost / samples.total


@dataclass(frozen=True, eq=False)
class ResidualAtoms:
    """Left singular basis of a factor F and the mass of the residuals on each of its vectors.

    Directions outside the span of the basis are one more atom without a coordinate. `fidelity` is
    the mean square of the residuals x - By, `forced` the mean cost of where the samples start.
    """

    basis: Basis  # left singular vectors of F
    squared: Array  # (k,) squared singular values of F
    mass: Array
    multiplicity: Array
    fidelity: float
    forced: float
    moved: bool

    def values(self, shift: float) -> Array:
        """Squared singular values of C: those of F, and one for what its basis leaves out."""
        return with_complement(shift, self.squared, self.basis)


def _masses(
    B: LinearMap, displacement: AffineDisplacement, basis: Basis, block: Block
) -> tuple[Array, float, float, float, int]:
    """Sums over a block: mass per coordinate, of all, of the residuals x - By; of the start, cost
    and whether there is a move to it."""
    with np.errstate(over="ignore", invalid="ignore"):
        residual = residuals(B, block)
        own = total = float(block.weights @ squared_norms(residual))
        if not own <= LARGEST_RISK * len(block.weights):  # refused once all are added up
            return np.zeros(len(basis.multiplicity)), own, own, 0.0, 0
    start = displacement.start(block.x, block.y, residual)
    if start.residual is not residual:
        total = float(block.weights @ squared_norms(start.residual))
    mass = basis.energy(basis.analyze(start.residual), block.weights)
    cost = float(np.sum(block.weights * start.cost))
    return mass, total, own, cost, int(start.base is not None)


def residual_atoms(
    B: LinearMap, displacement: AffineDisplacement, samples: Samples
) -> ResidualAtoms | None:
    """Left singular basis of the factor and the residuals' mass on it; None if it has none.

    One pass over the samples. (A matrix-free factor is left to `dro_core.quadrature`.)
    """
    if displacement.factor is None:
        basis: Basis = ColumnBasis(np.zeros((B.shape[0], 0)))
        squared = np.zeros(0)
    else:
        found = displacement.factor.singular_basis()
        if found is None:
            return None
        basis, squared = found
    mass, total, own, forced, moved = samples.mean(partial(_masses, B, displacement, basis))
    fidelity = checked_fidelity(own)
    multiplicity = basis.multiplicity
    outside = basis.size - int(multiplicity.sum())
    if outside:
        mass = np.append(mass, max(total - float(mass.sum()), 0.0))
        multiplicity = np.append(multiplicity, outside)
    return ResidualAtoms(basis, squared, mass, multiplicity, fidelity, forced, moved > 0)


def checked_fidelity(value: float) -> float:
    """The mean squared residual, unless it is no number or too large for sums with it."""
    if math.isnan(value):
        raise ValueError("B: By is not a number for some row of y")
    if not value <= LARGEST_RISK:
        raise OverflowError(
            f"x, y: the mean squared residual x - By is {value:g}, above {LARGEST_RISK:g}; rescale "
            "the data"
        )
    return value


def with_complement(shift: float, squared: Array, basis: Basis) -> Array:
    """Squared singular values of C: those of the basis, and one for what it leaves out of R^n."""
    values = shift + squared
    return np.append(values, shift) if basis.multiplicity.sum() < basis.size else values
