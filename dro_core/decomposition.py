"""Residuals decomposed by a map's spectrum: the dual at every radius, and the law it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from dro_core.bases import Basis
from dro_core.dual import DualSolution, minimize_quadratic_dual
from dro_core.linear_map import LinearMap
from dro_core.samples import Samples
from dro_core.spectrum import ResidualSpectrum, residual_atoms, with_complement
from dro_core.structure import AffineDisplacement
from dro_core.types import Array


class Decomposition(Protocol):
    """What a worst-case law is made from: the whole spectrum, or a quadrature rule of it."""

    #: Whether the whole spectrum is known.
    exact: ClassVar[bool]

    @property
    def displacement(self) -> AffineDisplacement:
        """The affine action on the residuals."""

    @property
    def spectrum(self) -> ResidualSpectrum:
        """The residual spectrum, or a rule for it."""

    @property
    def forced(self) -> float:
        """Mean cost of where the samples start."""

    def dual_residuals(
        self, rows: slice, residual: Array, margin: float, unspent_radius: float
    ) -> Array:
        """Rows q_i of the worst-case law, for the samples at `rows` with these residuals."""


@dataclass(frozen=True, eq=False)
class DecompositionAnswer:
    """Two solutions of the dual: never above, and (surely or probably) never below."""

    decomposition: Decomposition
    lower: DualSolution
    upper: DualSolution
    #: The bound on κ² that the upper value rests on.
    upper_top: float
    #: Zero for a proved upper value.
    failure_probability: float


@dataclass(frozen=True, eq=False)
class ResidualDecomposition:
    r"""Residuals in the left singular basis of the factor F (:math:`CC^\top = sI + FF^\top`).

    The directions outside the span of `basis` are kept as one atom (the *complement*), whose
    residual component is never formed.
    """

    #: The whole spectrum is known.
    exact: ClassVar[bool] = True

    displacement: AffineDisplacement
    basis: Basis  # left singular vectors of F
    squared: Array  # (k,) squared singular values of F
    spectrum: ResidualSpectrum
    #: Mean square of the residuals x - By, mean cost of where the samples start, and whether any
    #: of them moves there.
    fidelity: float
    forced: float
    moved: bool

    def with_displacement(self, displacement: AffineDisplacement) -> ResidualDecomposition:
        """The same decomposition for a structure with the same residual and factor."""
        values = with_complement(displacement.shift, self.squared, self.basis)
        spectrum = ResidualSpectrum(values, self.spectrum.mass, self.spectrum.multiplicity)
        return replace(self, displacement=displacement, spectrum=spectrum)

    def dual_residuals(
        self, rows: slice, residual: Array, margin: float, unspent_radius: float
    ) -> Array:
        """Rows q_i of the worst-case law of this spectrum; see `inverse_rows`."""
        q = self.inverse_rows(residual, margin)
        if unspent_radius > 0:
            q += unspent_radius / self.spectrum.top**0.5 * self.top_direction()
        return q

    def inverse_rows(self, rows: Array, margin: float, *, significant: bool = True) -> Array:
        r"""Rows :math:`(\lambda I - CC^\top)^+ r_i`.

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
            q = self.basis.synthesize(self.basis.analyze(rows) * pseudo_inverse)
            q += rows
            q /= apart_complement
        else:
            q = np.zeros_like(rows)
        return q

    def top_direction(self) -> Array:
        """A unit left singular vector of C at its largest singular value, (n,)."""
        if self.squared.size:
            return self.basis.direction(int(np.argmax(self.squared)))
        direction = np.zeros(self.basis.size)
        direction[0] = 1.0
        return direction

    def exact_for(self, purpose: str) -> ResidualDecomposition:
        """Itself: whatever the purpose, the spectrum is known."""
        return self

    def upper_spectrum(self) -> ResidualSpectrum:
        """A spectrum whose dual is never below: its own."""
        return self.spectrum

    def solve(self, radius: float) -> DecompositionAnswer:
        """The dual at one radius: its two values are one."""
        solution = minimize_quadratic_dual(self.spectrum, radius)
        return DecompositionAnswer(self, solution, solution, self.spectrum.top, 0.0)


def decompose(
    B: LinearMap, displacement: AffineDisplacement, samples: Samples
) -> ResidualDecomposition | None:
    """The decomposition of a factor that has a singular basis; None if it has none."""
    atoms = residual_atoms(B, displacement, samples)
    if atoms is None:
        return None
    spectrum = ResidualSpectrum(atoms.values(displacement.shift), atoms.mass, atoms.multiplicity)
    return ResidualDecomposition(
        displacement,
        atoms.basis,
        atoms.squared,
        spectrum,
        atoms.fidelity,
        atoms.forced,
        atoms.moved,
    )
