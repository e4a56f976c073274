r"""The residual spectrum: everything a worst case needs to know of a map and its data.

It is the discrete measure :math:`\{(\sigma_j^2, m_j)\}` of the squared singular values of the
displacement matrix C (see `dro_core.structure`) with the residual mass on each,
:math:`m_j = \sum_i \mu_i (u_j^\top r_i)^2`. A matrix gives it exactly; knowing only a Lipschitz
constant is the spectrum with the single atom :math:`(\kappa^2, M)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dro_core._validation import (
    Array,
    as_map,
    as_non_negative,
    as_positive_integer,
    as_samples,
    as_weights,
    check_magnitude,
    check_samples_and_map,
    magnitude,
    non_negative_array,
)
from dro_core.structure import AffineDisplacement, Structure, as_structure, squared_norms


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
        length = np.shape(self.squared_singular_values)
        for name in ("squared_singular_values", "mass", "multiplicity"):
            array = non_negative_array(getattr(self, name), name)
            if array.ndim != 1 or array.size == 0 or array.shape != length:
                raise ValueError(
                    f"{name}: shape {array.shape}; the three arrays of a spectrum are 1-D, "
                    f"non-empty and equally long (squared_singular_values has shape {length})"
                )
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
        r"""Exact spectrum of a dense linear map, :math:`m_j = \sum_i\mu_i(u_j^\top r_i)^2`.

        Parameters
        ----------
        B : (n, m) matrix
            Reconstruction map from y to x.
        x, y : (N, n) and (N, m) arrays
            Samples as rows.
        structure : "joint", "y|x", "x|y" or a Structure
        weights : (N,) array, optional
            Non-negative, summing to one; default uniform.

        Raises
        ------
        ValueError, TypeError
            For bad arrays (NaN, wrong shapes or dtypes), weights or structure.
        """
        matrix = as_map(B, "B")
        x, y = as_samples(x, "x"), as_samples(y, "y")
        check_samples_and_map(matrix, x, y, "B")
        weights = as_weights(weights, len(x))
        displacement = as_structure(structure).displacement(matrix, x, y, residuals(matrix, x, y))
        return decompose(displacement, weights).spectrum

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


#: Squared singular values below this share of the largest are computed again.
SMALL_SHARE = 1e-8


def residuals(B: Array, x: Array, y: Array) -> Array:
    """Residuals x_i - B y_i as rows, (N, n)."""
    image = y @ B.T
    return np.subtract(x, image, out=image)


@dataclass(frozen=True, eq=False)
class ResidualDecomposition:
    r"""Residuals in the left singular basis of the factor F (:math:`CC^\top = sI + FF^\top`).

    The directions outside the range of `basis` are kept as one atom (the *complement*), whose
    residual component is never formed.
    """

    displacement: AffineDisplacement
    basis: Array  # (n, k) orthonormal left singular vectors of F
    squared: Array  # (k,) squared singular values of F
    coordinates: Array  # (N, k) residuals in the basis
    spectrum: ResidualSpectrum

    def with_displacement(self, displacement: AffineDisplacement) -> ResidualDecomposition:
        """The same decomposition for a structure with the same residual and factor."""
        values = _with_complement(displacement.shift, self.squared, len(self.basis))
        spectrum = ResidualSpectrum(values, self.spectrum.mass, self.spectrum.multiplicity)
        return ResidualDecomposition(
            displacement, self.basis, self.squared, self.coordinates, spectrum
        )

    def dual_residuals(self, margin: float, unspent_radius: float) -> Array:
        r"""Rows :math:`q_i = (\lambda I - CC^\top)^+ r_i`, plus the hard case's common term.

        The worst-case displacement is :math:`v_i = C^\top q_i`. Written as
        :math:`q = (r + U\,\mathrm{diag}(\sigma_F^2/(\lambda - \sigma^2))\,U^\top r)/(\lambda - s)`,
        so the complement of the basis costs nothing. The multiplier is given by its margin,
        :math:`\lambda = \kappa^2(1 + \text{margin})`; `unspent_radius` is the length left for the
        top singular direction.
        """
        top = self.spectrum.top
        factor_top = float(self.squared.max(initial=0.0))
        # λ - σ_j² and λ - s in the form κ²(margin + gap): no cancellation near the threshold
        apart = top * margin + (factor_top - self.squared)
        apart_complement = top * margin + factor_top
        used = np.logical_and(self.spectrum.significant[: len(apart)], apart > 0)
        pseudo_inverse = np.divide(self.squared, apart, out=np.zeros_like(apart), where=used)
        residual = self.displacement.residual
        if apart_complement > 0:
            q = (self.coordinates * pseudo_inverse) @ self.basis.T
            q += residual
            q /= apart_complement
        else:
            q = np.zeros_like(residual)
        if unspent_radius > 0:
            q += unspent_radius / top**0.5 * self._top_direction()
        return q

    def _top_direction(self) -> Array:
        """A unit left singular vector of C at its largest singular value, (n,)."""
        if self.squared.size:
            direction = self.basis[:, int(np.argmax(self.squared))]
        else:
            direction = np.zeros(self.displacement.residual.shape[1])
            direction[0] = 1.0
        return direction


def decompose(displacement: AffineDisplacement, weights: Array) -> ResidualDecomposition:
    """Left singular basis of the factor and the residuals' coordinates in it."""
    n = displacement.residual.shape[1]
    if displacement.factor is None:
        basis, squared = np.zeros((n, 0)), np.zeros(0)
    else:
        basis, squared = left_singular_basis(displacement.factor)
    coordinates = displacement.residual @ basis
    spectrum = _spectrum(displacement, squared, coordinates, weights)
    return ResidualDecomposition(displacement, basis, squared, coordinates, spectrum)


def left_singular_basis(F: Array) -> tuple[Array, Array]:
    r"""Left singular vectors U (n, k) and squared singular values (k,) of F, k = min(n, m).

    From the symmetric eigenproblem of the smaller Gram matrix, which is several times faster than
    an SVD. A Gram matrix loses singular values below sqrt(eps) of the largest one, so those below
    1e-4 are computed again in their own invariant subspace (`_refine_small`). F is scaled by a
    power of two first, so its squares neither overflow nor vanish.
    """
    largest = magnitude(F)
    if largest == 0.0:
        return np.eye(F.shape[0], min(F.shape)), np.zeros(min(F.shape))
    exponent = int(np.frexp(largest)[1])
    scaled = np.ldexp(F, -exponent)
    if F.shape[0] > F.shape[1]:
        orthonormal, small = np.linalg.qr(scaled)
        basis = orthonormal @ np.linalg.eigh(small @ small.T)[1]
    else:
        basis = np.linalg.eigh(scaled @ scaled.T)[1]
    image = scaled.T @ basis
    squared = np.einsum("ij,ij->j", image, image)
    small = squared < SMALL_SHARE * squared.max()
    if small.any():
        _refine_small(scaled, basis, image, squared, small)
    return basis, np.ldexp(squared, 2 * exponent)


def _refine_small(F: Array, basis: Array, image: Array, squared: Array, small: Array) -> None:
    r"""Correct, in place, the singular vectors and values that a Gram matrix cannot resolve.

    With :math:`F^\top U = [V_b \Sigma_b, W_s]` the computed small vectors still contain a share
    :math:`X = \Sigma_b^{-1} V_b^\top W_s` of the big ones, of size eps relative to the split. The
    rotation by X removes it to second order; then an SVD of what is left, :math:`F^\top U_s`, has
    the accuracy of the small block alone.
    """
    big = np.logical_not(small)
    share = (image[:, big] / squared[big]).T @ image[:, small]
    big_basis, small_basis = basis[:, big], basis[:, small]
    basis[:, big] = big_basis + small_basis @ share.T
    small_basis = small_basis - big_basis @ share
    _, values, rotation = np.linalg.svd(F.T @ small_basis, full_matrices=False)
    basis[:, small] = small_basis @ rotation.T
    squared[small] = values**2


def _spectrum(
    displacement: AffineDisplacement, squared: Array, coordinates: Array, weights: Array
) -> ResidualSpectrum:
    """Mass of the residuals on each squared singular value of C; the complement as one atom."""
    n = displacement.residual.shape[1]
    mass = _weighted_squares(coordinates, weights)
    multiplicity = np.ones(len(squared))
    if len(squared) < n:
        total = float(weights @ squared_norms(displacement.residual))
        mass = np.append(mass, max(total - float(mass.sum()), 0.0))
        multiplicity = np.append(multiplicity, n - len(squared))
    return ResidualSpectrum(_with_complement(displacement.shift, squared, n), mass, multiplicity)


def _with_complement(shift: float, squared: Array, n: int) -> Array:
    """Squared singular values of C: those of the basis, and one for what it leaves out of R^n."""
    values = shift + squared
    return np.append(values, shift) if len(squared) < n else values


def _weighted_squares(rows: Array, weights: Array) -> Array:
    """Σ_i weights_i rows_ij², shape (columns,)."""
    return np.einsum("i,ij,ij->j", weights, rows, rows)
