"""A linear map with data: its decompositions under every structure, made once, used for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from dro_core.certificate import LARGEST_RISK
from dro_core.checks import (
    InfeasibleRadiusError,
    as_non_negative,
    as_positive_integer,
    as_radii,
    as_radius,
    as_scalar,
)
from dro_core.decomposition import ResidualDecomposition, decompose
from dro_core.dual import (
    check_multiplier,
    quadratic_dual,
    quadratic_dual_derivative,
)
from dro_core.gaussian_law import check_entropic, maximising_law
from dro_core.linear_data import LinearData
from dro_core.linear_map import MapLike, as_linear_map
from dro_core.quadrature import QuadratureDecomposition, QuadratureSettings
from dro_core.samples import SamplesLike, as_blocks
from dro_core.spectrum import ResidualSpectrum
from dro_core.structure import AffineDisplacement, Structure, as_structure
from dro_core.swapped import LOOKED_AT, warn_if_swapped
from dro_core.types import Array, Integer, Real
from dro_core.worst_case.answer import (
    Answer,
    WorstCase,
    WorstCaseCurve,
    one_atom_bound,
    too_large,
)

#: Squares of smaller maps are not accurate; they matter if radius times map exceeds the second.
SMALLEST_MAP, SMALLEST_PRODUCT = 1e-140, 1e-150


def too_small_to_square(largest: float, radius: float) -> bool:
    """Whether a map with this largest entry matters at the radius, but has squares of no use."""
    return 0 < largest < SMALLEST_MAP and largest * radius > SMALLEST_PRODUCT


class MatrixFree(TypedDict, total=False):
    """What `LinearReconstruction` takes for maps that are known by their products."""

    norm_bound: Real | None
    rtol: Real
    max_steps: Integer
    random_starts: Integer
    failure_probability: Real
    seed: Integer


class LinearReconstruction(LinearData):
    r"""A linear map with the data it is judged on; one decomposition serves every question.

    y|x and joint share one eigendecomposition and x|y needs none, so asking for several structures
    or radii through this object costs about as much as asking for one.

    Parameters
    ----------
    B : (n, m) matrix, scipy sparse matrix, operator of `dro_core.operators`, or LinearOperator
        Reconstruction map from y to x. Matrices (and sparse ones, and convolutions that no fast
        transform diagonalises, up to 2048² entries) are decomposed densely, operators by their
        transform; everything else is only applied, see below.
    x, y : (N, n) and (N, m) arrays, or blocks and None
        Samples as rows; integers and float32 are computed in float64. Never modified, and not
        copied either: do not change them while the object is in use. Memory maps and large arrays
        of other types are read and widened block by block, Dask arrays are reduced where their
        scheduler puts them. In place of x, without y: blocks (x, y) or (x, y, weights), in a list,
        a DataLoader or any object that hands them out anew whenever it is iterated. Peak memory is
        that of some blocks and of (n, m) matrices, whatever N. (A LinearOperator needs all
        residuals in memory, and blocks in the same order every time.)
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    norm_bound : float, optional
        For a LinearOperator: a proved bound on its largest singular value. Without one, upper
        values hold with probability 1 - `failure_probability` only. It is believed: a bound below
        a singular value that the products of the run show (to a relative 5e-11) is refused, but
        one that is too small by a relative :math:`\delta` and not found out makes `upper` too low,
        by a relative :math:`3\delta` at most in all that was tried.
    rtol : float
        A LinearOperator is applied until lower and upper value agree to this, relatively (or until
        neither changes any more, or for `max_steps`); default 1e-6. Only a LinearOperator (or an
        operator that is too large for a matrix) takes this and the next four.
    max_steps : int
        Most products with B and its adjoint per sample; default 300.
    random_starts : int
        Random vectors that are followed besides the residuals; default 4.
    failure_probability : float
        In (0, 1), of upper values without `norm_bound`; default 1e-6.
    seed : int
        Of the random vectors; default 0.

    Raises
    ------
    ValueError, TypeError
        For NaN or infinite entries, wrong shapes or dtypes, empty samples, bad weights, a
        LinearOperator without adjoint or below its `norm_bound`; the message names the argument
        and the block. Entries of what is read in blocks are checked when they are read first, with
        the first question; blocks that can be read only once are refused.
    OverflowError
        If the squares of the residuals exceed the largest float.

    Warns
    -----
    SwappedWarning
        If B takes x to y much better than y to x.
    """

    def __init__(
        self,
        B: MapLike,
        x: SamplesLike,
        y: ArrayLike | None = None,
        *,
        weights: ArrayLike | None = None,
        norm_bound: Real | None = None,
        rtol: Real | None = None,
        max_steps: Integer | None = None,
        random_starts: Integer | None = None,
        failure_probability: Real | None = None,
        seed: Integer | None = None,
    ) -> None:
        given: dict[str, tuple[Any, Callable[[Any, str], Any]]] = {
            "rtol": (rtol, as_non_negative),
            "max_steps": (max_steps, as_positive_integer),
            "random_starts": (random_starts, as_positive_integer),
            "failure_probability": (failure_probability, _as_probability),
            "seed": (seed, _as_seed),
        }
        known: dict[str, Any] = {
            name: check(value, name) for name, (value, check) in given.items() if value is not None
        }
        self._settings = QuadratureSettings(**known)
        linear = as_linear_map(B, "B", norm_bound=norm_bound, seed=self._settings.seed)
        if known and linear.is_small:
            raise ValueError(
                f"{next(iter(known))}: only a LinearOperator is iterated, but B is a "
                f"{type(B).__name__}, whose answer is exact; leave it out"
            )
        super().__init__(linear, as_blocks(x, y, weights))
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape == y.shape:
            few_x, few_y = (np.asarray(part[:LOOKED_AT], np.float64) for part in (x, y))
            warn_if_swapped(few_x, few_y, linear.apply(few_y), linear.apply(few_x))
        self._own: ResidualDecomposition | QuadratureDecomposition | None = None
        self._protect()

    def __repr__(self) -> str:
        n, m = self.map.shape
        fidelity = self.fidelity  # reads blocks, and then knows how many samples there are
        return (
            f"LinearReconstruction({n} x {m} map, {self.samples.count} samples, M={fidelity:.6g})"
        )

    def _decompose(self, structure: Structure) -> ResidualDecomposition | QuadratureDecomposition:
        displacement = structure.displacement(self.map)
        own = displacement.factor is self.map and displacement.forced is None
        if own and self._own is not None:
            return self._own.with_displacement(displacement)
        decomposition: ResidualDecomposition | QuadratureDecomposition
        exact = decompose(self.map, displacement, self.samples)
        if exact is None:
            decomposition = QuadratureDecomposition.of_samples(
                self.map, displacement, self.samples, self._settings
            )
        else:
            decomposition, self._fidelity = exact, exact.fidelity
        if own:
            self._own = decomposition
        return decomposition

    def exact_decomposition(self, structure: Structure, purpose: str) -> ResidualDecomposition:
        """The decomposition under a structure, or an error if this map has none."""
        return self._decompose(structure).exact_for(purpose)

    def spectrum(self, structure: str | Structure = "y|x") -> ResidualSpectrum:
        """The residual spectrum of this map under a structure (see `ResidualSpectrum`)."""
        return self.exact_decomposition(as_structure(structure), "an exact spectrum").spectrum

    def _free_radius(
        self,
        structure: Structure,
        decomposition: ResidualDecomposition | QuadratureDecomposition,
        radius: float,
    ) -> float:
        """The radius left after the moves that the structure forces, or an empty-ball error."""
        largest = self.map.largest_entry or 0.0
        if too_small_to_square(largest, radius):
            raise ValueError(
                f"B: the largest magnitude is {largest:g}, whose square is not a float to use, "
                f"although it matters at radius {radius:g}; rescale y, and B with it"
            )
        smallest = math.sqrt(decomposition.forced + decomposition.displacement.noise_cost)
        if smallest == 0.0:
            return radius
        if radius < smallest * (1 - 1e-12):
            raise InfeasibleRadiusError(
                f"radius: {radius} leaves the ambiguity ball of {structure!r} empty, for the data "
                "are off its graph (or its kernel is noisy) by more; the smallest feasible radius "
                f"is {smallest}",
                smallest,
            )
        return math.sqrt(max(radius - smallest, 0.0) * (radius + smallest))

    def _answer(
        self,
        structure: Structure,
        decomposition: ResidualDecomposition | QuadratureDecomposition,
        radius: float,
        name: str,
    ) -> Answer:
        """The dual at one radius, whatever the kind of spectrum."""
        free = self._free_radius(structure, decomposition, radius)
        noise = decomposition.displacement.noise_risk
        found = decomposition.solve(free)
        fidelity, top = found.decomposition.spectrum.fidelity, found.upper_top
        answer = Answer(
            found.decomposition,
            found.lower,
            found.lower.value + noise,
            found.upper.value + noise,
            found.failure_probability,
            one_atom_bound(fidelity, top, free) + noise,
            top,
        )
        if not answer.risk + answer.bound <= LARGEST_RISK:
            raise OverflowError(too_large(name, radius))
        return answer

    def worst_case(self, radius: Real, structure: str | Structure = "y|x") -> WorstCase:
        """The worst case at one radius; see `worst_case_risk`."""
        rho, resolved = as_radius(radius), as_structure(structure)
        answer = self._answer(resolved, self._decompose(resolved), rho, "radius")
        return WorstCase(self, resolved, answer, rho)

    def curve(self, radii: ArrayLike, structure: str | Structure = "y|x") -> WorstCaseCurve:
        """Worst-case risks at many radii from one decomposition; see `worst_case_curve`."""
        radius = as_radii(radii)
        resolved = as_structure(structure)
        decomposition = self._decompose(resolved)
        answers = [self._answer(resolved, decomposition, float(rho), "radii") for rho in radius]
        return WorstCaseCurve(
            radius,
            np.array([answer.risk for answer in answers]),
            np.array([answer.solution.multiplier for answer in answers]),
            np.array([answer.bound for answer in answers]),
            self.fidelity,
            np.array([answer.upper for answer in answers]),
        )

    def _at_multiplier(
        self, multiplier: Real, radius: Real, structure: str | Structure, epsilon: Real
    ) -> tuple[AffineDisplacement, ResidualSpectrum, float, float, float]:
        """(displacement, spectrum, λ, free radius, ε) for a value of the dual function."""
        lam = as_scalar(multiplier, "multiplier", "a number above the threshold sigma_max^2")
        rho, resolved = as_radius(radius), as_structure(structure)
        entropy_weight = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
        decomposition: ResidualDecomposition | QuadratureDecomposition
        if entropy_weight > 0:
            exact = self.exact_decomposition(resolved, "the entropic dual")
            check_entropic(resolved, exact)
            decomposition, spectrum = exact, exact.spectrum
        else:
            decomposition = self._decompose(resolved)
            spectrum = decomposition.upper_spectrum()
        displacement = decomposition.displacement
        free = self._free_radius(resolved, decomposition, rho)
        size = float(sum(self.map.shape))
        if spectrum.top > 0:
            size *= max(1.0, displacement.terms / math.sqrt(spectrum.top))
        check_multiplier(spectrum, lam, size)
        return displacement, spectrum, lam, free, entropy_weight

    def dual_value(
        self,
        multiplier: Real,
        radius: Real,
        structure: str | Structure = "y|x",
        *,
        epsilon: Real = 0.0,
    ) -> float:
        """The dual function at a multiplier; see `dual_value`."""
        displacement, spectrum, lam, free, entropy_weight = self._at_multiplier(
            multiplier, radius, structure, epsilon
        )
        value = quadratic_dual(spectrum, lam, free, entropy_weight) + displacement.noise_risk
        if not value <= LARGEST_RISK:
            raise OverflowError(too_large("multiplier, radius", float(radius)))
        return value

    def dual_gradient(
        self,
        multiplier: Real,
        radius: Real,
        structure: str | Structure = "y|x",
        *,
        epsilon: Real = 0.0,
    ) -> tuple[Array, float]:
        r"""Derivatives of the (entropic) dual function in B and in the multiplier.

        By the envelope theorem the first is that of the mean squared error at the maximising law,
        :math:`2(B\,\mathbb E[y'y'^\top] - \mathbb E[x'y'^\top])`, Gaussian covariance included;
        the second is the budget minus what that law spends.

        Parameters
        ----------
        multiplier, radius, structure, epsilon
            As in `dual_value`; the structures are joint, y|x and x|y.

        Returns
        -------
        gradient : (n, m) array
        derivative : float

        Raises
        ------
        ValueError, TypeError
            As `dual_value`; for structure x or y, a norm other than 2, or a map without exact
            spectrum.
        """
        _, spectrum, lam, free, entropy_weight = self._at_multiplier(
            multiplier, radius, structure, epsilon
        )
        derivative = quadratic_dual_derivative(spectrum, lam, free, entropy_weight)
        resolved = as_structure(structure)
        decomposition = self.exact_decomposition(resolved, "the entropic worst case")
        law = maximising_law(self, resolved, decomposition, lam, entropy_weight)
        return law.gradient(), derivative


def _as_seed(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{name}: {value!r}; allowed: an integer >= 0")
    return int(value)


def _as_probability(value: object, name: str) -> float:
    number = as_scalar(value, name, "a probability in (0, 1)")
    if not 0 < number < 1:
        raise ValueError(f"{name}: {number}; allowed: a probability in (0, 1)")
    return number
