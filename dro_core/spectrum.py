r"""The residual spectrum: everything a worst case needs to know of a map and its data.

It is the discrete measure :math:`\{(\sigma_j^2, m_j)\}` of the squared singular values of the
displacement matrix C (see `dro_core.structure`) with the residual mass on each,
:math:`m_j = \sum_i \mu_i (u_j^\top r_i)^2`. A matrix gives it exactly; knowing only a Lipschitz
constant is the spectrum with the single atom :math:`(\kappa^2, M)`; Golub-Kahan quadrature makes a
small spectrum of a map that is only known by its products (`dro_core.quadrature`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dro_core.bases import Basis, ColumnBasis
from dro_core.checks import (
    Array,
    as_non_negative,
    as_positive_integer,
    as_samples,
    as_weights,
    check_magnitude,
    check_samples_and_map,
    non_negative_array,
)
from dro_core.linear_map import LinearMap, as_linear_map
from dro_core.structure import AffineDisplacement, Structure, as_structure
from dro_core.transport import squared_norms


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
        B: Any,
        x: Any,
        y: Any,
        structure: str | Structure = "y|x",
        *,
        weights: Any = None,
    ) -> ResidualSpectrum:
        r"""Exact spectrum of a linear map, :math:`m_j = \sum_i\mu_i(u_j^\top r_i)^2`.

        By dense algebra, or by FFT, DCT or DST for an operator that one of them diagonalises.

        Parameters
        ----------
        B : (n, m) matrix, scipy sparse matrix or operator of `dro_core.operators`
            Reconstruction map from y to x.
        x, y : (N, n) and (N, m) arrays
            Samples as rows.
        structure : "joint", "y|x", "x|y" or a Structure
        weights : (N,) array, optional
            Non-negative, summing to one; default uniform.

        Raises
        ------
        ValueError, TypeError
            For bad arrays (NaN, wrong shapes or dtypes), weights or structure; for a map without
            an exact spectrum (a LinearOperator: see `from_linear_operator`).
        """
        displacement, mu = _displacement(as_linear_map(B, "B"), x, y, structure, weights)
        decomposition = decompose(displacement, mu)
        if decomposition is None:
            raise ValueError(
                "B: this map is known by its products only and has no exact spectrum; use "
                "ResidualSpectrum.from_linear_operator"
            )
        return decomposition.spectrum

    @classmethod
    def from_linear_operator(
        cls,
        B: Any,
        x: Any,
        y: Any,
        structure: str | Structure = "y|x",
        *,
        steps: Any,
        norm_bound: Any = None,
        weights: Any = None,
        random_starts: Any = 4,
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
        from dro_core.quadrature import quadrature_spectrum

        linear = as_linear_map(B, "B", norm_bound=norm_bound, seed=seed)
        displacement, mu = _displacement(linear, x, y, structure, weights)
        count = as_positive_integer(steps, "steps")
        starts = as_positive_integer(random_starts, "random_starts")
        return quadrature_spectrum(displacement, mu, count, starts, seed, norm_bound is not None)

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
        floor = (8 * np.finfo(np.float64).eps) ** 2 * self.multiplicity.sum() * self.fidelity
        return np.asarray(self.mass > floor)

    @property
    def relative_gaps(self) -> Array:
        r""":math:`1 - \sigma_j^2/\kappa^2`, by a subtraction that is exact at the top; (k,)."""
        top = self.top
        if top == 0.0:
            return np.zeros_like(self.squared_singular_values)
        return (top - self.squared_singular_values) / top


def _displacement(
    B: LinearMap, x: Any, y: Any, structure: str | Structure, weights: Any
) -> tuple[AffineDisplacement, Array]:
    x, y = as_samples(x, "x"), as_samples(y, "y")
    check_samples_and_map(B, x, y, "B")
    mu = as_weights(weights, len(x))
    return as_structure(structure).displacement(B, x, y, residuals(B, x, y)), mu


def residuals(B: LinearMap, x: Array, y: Array) -> Array:
    """Residuals x_i - B y_i as rows, (N, n)."""
    image = B.apply(y)
    return np.subtract(x, image, out=image)


@dataclass(frozen=True, eq=False)
class ResidualDecomposition:
    r"""Residuals in the left singular basis of the factor F (:math:`CC^\top = sI + FF^\top`).

    The directions outside the span of `basis` are kept as one atom (the *complement*), whose
    residual component is never formed.
    """

    displacement: AffineDisplacement
    basis: Basis  # left singular vectors of F
    squared: Array  # (k,) squared singular values of F
    coordinates: Any  # (N, k) residuals in the basis
    spectrum: ResidualSpectrum

    def with_displacement(self, displacement: AffineDisplacement) -> ResidualDecomposition:
        """The same decomposition for a structure with the same residual and factor."""
        values = _with_complement(displacement.shift, self.squared, self.basis)
        spectrum = ResidualSpectrum(values, self.spectrum.mass, self.spectrum.multiplicity)
        return ResidualDecomposition(
            displacement, self.basis, self.squared, self.coordinates, spectrum
        )

    def dual_residuals(self, margin: float, unspent_radius: float) -> Array:
        """Rows q_i of the worst-case law of this spectrum; see `inverse_rows`."""
        q = self.inverse_rows(self.displacement.residual, self.coordinates, margin)
        if unspent_radius > 0:
            q += unspent_radius / self.spectrum.top**0.5 * self._top_direction()
        return q

    def inverse_rows(
        self, rows: Array, coordinates: Any, margin: float, *, significant: bool = True
    ) -> Array:
        r"""Rows :math:`(\lambda I - CC^\top)^+ r_i`, given the rows and their coordinates.

        The worst-case displacement is :math:`v_i = C^\top q_i` of the result q. Written as
        :math:`q = (r + U\,\mathrm{diag}(\sigma_F^2/(\lambda - \sigma^2))\,U^\top r)/(\lambda - s)`,
        so the complement of the basis costs nothing. The multiplier is given by its margin,
        :math:`\lambda = \kappa^2(1 + \text{margin})`. With `significant`, coordinates that hold
        nothing but rounding are left out.
        """
        top = self.spectrum.top
        factor_top = float(self.squared.max(initial=0.0))
        # λ - σ_j² and λ - s in the form κ²(margin + gap): no cancellation near the threshold
        apart = top * margin + (factor_top - self.squared)
        apart_complement = top * margin + factor_top
        used = apart > 0
        if significant:
            used = np.logical_and(used, self.spectrum.significant[: len(apart)])
        pseudo_inverse = np.divide(self.squared, apart, out=np.zeros_like(apart), where=used)
        if apart_complement > 0:
            q = self.basis.synthesize(coordinates * pseudo_inverse)
            q += rows
            q /= apart_complement
        else:
            q = np.zeros_like(rows)
        return q

    def _top_direction(self) -> Array:
        """A unit left singular vector of C at its largest singular value, (n,)."""
        if self.squared.size:
            return self.basis.direction(int(np.argmax(self.squared)))
        direction = np.zeros(self.displacement.residual.shape[1])
        direction[0] = 1.0
        return direction


def decompose(displacement: AffineDisplacement, weights: Array) -> ResidualDecomposition | None:
    """Left singular basis of the factor and the residuals' coordinates in it; None if it has none.

    (A matrix-free factor is left to `dro_core.quadrature`.)
    """
    if displacement.factor is None:
        basis: Basis = ColumnBasis(np.zeros((displacement.residual.shape[1], 0)))
        squared = np.zeros(0)
    else:
        found = displacement.factor.singular_basis()
        if found is None:
            return None
        basis, squared = found
    coordinates = basis.analyze(displacement.residual)
    mass = basis.energy(coordinates, weights)
    multiplicity = basis.multiplicity
    outside = basis.size - int(multiplicity.sum())
    if outside:
        total = float(weights @ squared_norms(displacement.residual))
        mass = np.append(mass, max(total - float(mass.sum()), 0.0))
        multiplicity = np.append(multiplicity, outside)
    values = _with_complement(displacement.shift, squared, basis)
    spectrum = ResidualSpectrum(values, mass, multiplicity)
    return ResidualDecomposition(displacement, basis, squared, coordinates, spectrum)


def _with_complement(shift: float, squared: Array, basis: Basis) -> Array:
    """Squared singular values of C: those of the basis, and one for what it leaves out of R^n."""
    values = shift + squared
    return np.append(values, shift) if basis.multiplicity.sum() < basis.size else values
