r"""Weights of the transport cost of each sample: photon counts, confidence maps, masks that differ.

Moving :math:`y_i` costs :math:`dy^\top W_i\,dy` with a diagonal :math:`W_i` of sample i, so the
displacement is :math:`C_i = -BW_i^{-1/2}`. One multiplier serves all samples,

.. math:: \mathcal R = \min_\lambda\ \lambda\rho^2
          + \sum_i\mu_i\,r_i^\top\bigl(I - C_iC_i^\top/\lambda\bigr)^{-1}r_i,
          \qquad \lambda \ge \max_i\sigma_{\max}(C_i)^2 ,

which is the dual of *one* residual spectrum: that of all samples together, with the atoms
:math:`(\sigma_j(C_i)^2,\ \mu_i(u_{ij}^\top r_i)^2)`. (Averaging the weights over the samples gives
a smaller number, which bounds nothing.) These weights have nothing to do with ``weights``, the
probabilities of the samples.

In come a map, samples and weights (N, m), out go a worst case or a curve of them. Above:
validation; below: linear_data, spectrum, dual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from dro_core.certificate import Certificate, relative_gap, risk_rounding
from dro_core.checks import as_radii, as_radius, as_real_array, check_magnitude
from dro_core.described import Described
from dro_core.dual import DualSolution, minimize_quadratic_dual
from dro_core.linear_data import LinearData, gradient_sum
from dro_core.linear_map import MapLike, as_linear_map
from dro_core.read_only import ReadOnly, read_only
from dro_core.samples import as_blocks
from dro_core.spectrum import ResidualSpectrum
from dro_core.structure import kernel_matrix
from dro_core.transport import squared_norms
from dro_core.types import Array, Real
from dro_core.worst_case import WorstCaseCurve
from dro_core.worst_case.answer import one_atom_bound

#: Weights of each sample: an (N, m) array, or a function of the clean rows (x, y) that gives one.
SampleWeights: TypeAlias = ArrayLike | Callable[[Array, Array], ArrayLike]
#: Entries of the stacks of matrices that are decomposed at a time.
STACK_ENTRIES = 2**22


def as_sample_weights(value: SampleWeights, x: Array, y: Array) -> Array:
    """Weights in (0, inf], shaped like y; infinity freezes an entry of one sample."""
    given = value(x, y) if callable(value) else value
    which = "weight_y: its values" if callable(value) else "weight_y"
    array = as_real_array(given, which, finite=False)
    if array.shape != y.shape:
        raise ValueError(
            f"{which}: shape {array.shape}; needed: {y.shape}, one weight for each entry of y (for "
            "weights that all samples share there is YGivenX)"
        )
    if not (array > 0).all():
        i, j = (int(index) for index in np.argwhere(array <= 0)[0])
        raise ValueError(
            f"{which}: {array[i, j]} at index {(i, j)} is not a weight; allowed: numbers > 0, and "
            "infinity to freeze an entry"
        )
    finite = array[np.isfinite(array)]
    if not finite.size:
        raise ValueError(f"{which}: all infinite, so nothing moves; allowed: some finite weights")
    if not (finite.min() >= 1e-100 and finite.max() <= 1e100):
        raise ValueError(
            f"{which}: weights from {finite.min():g} to {finite.max():g}; allowed: 1e-100 to "
            "1e100, and infinity"
        )
    return array


class SampleWeightedReconstruction(LinearData):
    r"""A linear map with data whose measurements have a price each; one spectrum for all radii.

    Parameters
    ----------
    B : (n, m) matrix
        Reconstruction map.
    x, y : (N, n) and (N, m) arrays
        Samples as rows.
    weight_y : (N, m) array or callable ``weight_y(x, y) -> (N, m)``
        Of the transport cost :math:`\sum_j w_{ij}\,dy_{ij}^2`, in (0, inf]. For log data of counts
        :math:`I_0e^{-y}` the variance of an entry is :math:`e^y/I_0`: ``lambda x, y: I0 *
        np.exp(-y)`` makes one unit of cost one standard deviation.
    weight_x : float
        Of moving x, in (0, inf]; the default, infinity, is the structure y|x.
    weights : (N,) array, optional
        Probabilities of the samples, summing to one.

    Raises
    ------
    ValueError, TypeError
        For bad arrays or weights; the message names the argument.
    """

    def __init__(
        self,
        B: MapLike,
        x: ArrayLike,
        y: ArrayLike,
        weight_y: SampleWeights,
        *,
        weight_x: float = math.inf,
        weights: ArrayLike | None = None,
    ) -> None:
        super().__init__(as_linear_map(B, "B"), as_blocks(x, y, weights))
        kernel_matrix(self.map, "B")
        self.weight_y = as_sample_weights(weight_y, self.x, self.y)
        price = as_real_array(weight_x, "weight_x", finite=False)
        if price.ndim or not price > 0:
            raise ValueError(f"weight_x: {weight_x}; allowed: one number > 0, or infinity")
        #: 1/weight_x, zero for the structure y|x.
        self.shift = 1.0 / float(price)
        check_magnitude(self.shift, "weight_x")
        self._protect()

    def _stacks(self) -> Iterator[tuple[slice, Array]]:
        r"""Slices of the samples with their matrices :math:`BW_i^{-1}B^\top`."""
        matrix = self.matrix
        step = max(1, STACK_ENTRIES // (matrix.shape[0] * max(matrix.shape)))
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            scaled = matrix[None] / self.weight_y[rows, None, :]
            yield rows, scaled @ matrix.T

    @cached_property
    def _atoms(self) -> tuple[Array, Array]:
        """Squared singular values and squared coordinates of the residual, (N, n) both."""
        values, masses = np.empty((2, *self.x.shape))
        for rows, stack in self._stacks():
            values[rows], vectors = np.linalg.eigh(stack)
            masses[rows] = np.einsum("ikj,ik->ij", vectors, self.residual[rows]) ** 2
        return self.shift + np.maximum(values, 0.0), masses * self.weights[:, None]

    @cached_property
    def spectrum(self) -> ResidualSpectrum:
        """The merged spectrum of all samples that have a probability."""
        values, masses = (part[self.weights > 0].ravel() for part in self._atoms)
        return ResidualSpectrum(values, masses, np.ones(len(values)))

    def worst_case(self, radius: Real) -> SampleWeightedWorstCase:
        """The worst case at one radius; see `sample_weighted_worst_case`."""
        rho = as_radius(radius)
        return SampleWeightedWorstCase(self, minimize_quadratic_dual(self.spectrum, rho))

    def curve(self, radii: ArrayLike) -> WorstCaseCurve:
        """Worst-case risks at many radii, from one spectrum."""
        radius = as_radii(radii)
        found = [minimize_quadratic_dual(self.spectrum, float(rho)) for rho in radius]
        risk = np.array([solution.value for solution in found])
        return WorstCaseCurve(
            radius,
            risk,
            np.array([solution.multiplier for solution in found]),
            np.array([one_atom_bound(self.fidelity, self.spectrum.top, r) for r in radius]),
            self.fidelity,
            risk,
        )

    def dual_residuals(self, solution: DualSolution) -> Array:
        r"""Rows :math:`q_i = (\lambda I - C_iC_i^\top)^+r_i`, and what is unspent along one top.

        The sample with the largest singular value takes it alone: it is the cheapest to move.
        """
        q, top = np.zeros(self.x.shape), self.spectrum.top
        values, masses = self._atoms
        # a coordinate without mass stays out, also where rounding has left it at the threshold
        used = masses > 1e-28 * max(self.fidelity, 1e-300)
        apart = top * solution.margin + (top - values)
        inverse = np.divide(1.0, apart, out=np.zeros_like(apart), where=used & (apart > 0))
        first = int(np.argmax(np.where(self.weights > 0, values.max(axis=1), -1.0)))
        for rows, stack in self._stacks():
            _, vectors = np.linalg.eigh(stack)
            own = np.einsum("ikj,ik->ij", vectors, self.residual[rows])
            q[rows] = np.einsum("ikj,ij->ik", vectors, own * inverse[rows])
            if solution.unspent > 0 and rows.start <= first < rows.start + len(stack):
                u = vectors[first - rows.start][:, -1]
                sign = math.copysign(1.0, float(u @ q[first]))
                length = solution.unspent_radius / math.sqrt(self.weights[first] * top)
                q[first] += sign * length * u
        return q

    def value(self, multiplier: float, radius: float) -> float:
        """The dual function by a Cholesky factor of each sample; infinite below the threshold."""
        total, identity = multiplier * radius**2, np.eye(self.x.shape[1])
        for rows, stack in self._stacks():
            kernel = identity * (1.0 - self.shift / multiplier) - stack / multiplier
            used = self.weights[rows] > 0
            try:
                root = np.linalg.cholesky(kernel[used])
            except np.linalg.LinAlgError:
                return math.inf
            half = np.linalg.solve(root, self.residual[rows][used, :, None])[:, :, 0]
            total += float(self.weights[rows][used] @ squared_norms(half))
        return total


class SampleWeightedWorstCase(ReadOnly, Described):
    r"""Worst case of a linear map with weights of each sample.

    Attributes
    ----------
    risk : float
        In squared units of x.
    multiplier : float
        :math:`\lambda` (infinite at radius zero).
    bound : float
        :math:`(\sqrt M + \rho\kappa)^2`, :math:`\kappa` the largest of all
        :math:`\sigma_{\max}(C_i)`.
    nominal_risk, radius : float
    """

    described_by = ("risk", "radius", "multiplier", "bound", "nominal_risk")

    def __init__(self, problem: SampleWeightedReconstruction, solution: DualSolution) -> None:
        self._problem, self._solution = problem, solution
        self.risk, self.multiplier = solution.value, solution.multiplier
        self.radius, self.nominal_risk = solution.radius, problem.fidelity
        self.bound = one_atom_bound(problem.fidelity, problem.spectrum.top, solution.radius)
        self._protect()

    @cached_property
    def _displacements(self) -> tuple[Array, Array]:
        problem, solution = self._problem, self._solution
        if math.isinf(solution.margin) or solution.multiplier == 0.0:
            return np.zeros(problem.x.shape), np.zeros(problem.y.shape)
        q = problem.dual_residuals(solution)
        dx, dy = problem.shift * q, -(q @ problem.matrix) / problem.weight_y
        spent = math.sqrt(float(problem.weights @ self._cost(dx, dy)))
        # optimal up to rounding: scaled by 1 + O(rounding) it uses the budget exactly
        factor = solution.radius / spent if spent > 0 else 0.0
        return read_only(factor * dx), read_only(factor * dy)

    def _cost(self, dx: Array, dy: Array) -> Array:
        """Transport cost of each displacement; nothing is paid for what does not move."""
        problem = self._problem
        own = squared_norms(dx) / problem.shift if problem.shift else np.zeros(len(dx))
        with np.errstate(invalid="ignore"):
            paid = np.where(dy == 0.0, 0.0, problem.weight_y * dy**2)
        return np.asarray(own + paid.sum(axis=1))

    @property
    def displacement_x(self) -> Array:
        """Moves of x under the worst-case law, (N, n)."""
        return self._displacements[0]

    @property
    def displacement_y(self) -> Array:
        """Moves of y under the worst-case law, (N, m)."""
        return self._displacements[1]

    @cached_property
    def gradient(self) -> Array:
        r"""Gradient of the risk in B, :math:`2(B\,\mathbb E[y'y'^\top] - \mathbb E[x'y'^\top])`."""
        problem = self._problem
        moved_y = problem.y + self.displacement_y
        residual = problem.x + self.displacement_x - problem.map.apply(moved_y)
        return read_only(gradient_sum(problem.weights, residual, moved_y))

    @cached_property
    def _certificate(self) -> Certificate:
        problem, (dx, dy), mu = self._problem, self._displacements, self._problem.weights
        moved = problem.x + dx - problem.map.apply(problem.y + dy)
        primal = float(mu @ squared_norms(moved))
        size = float(mu @ squared_norms(problem.x)) + float(mu @ squared_norms(problem.x + dx))
        terms = np.abs(problem.y) + np.abs(dy)
        size += 2.0 * problem.map.squared_terms(np.sqrt(mu @ (terms * terms)))
        lam, threshold = self.multiplier, problem.spectrum.top
        if math.isinf(lam) or lam == 0.0:
            dual, defect = primal, 0.0
        else:
            dual = min(
                problem.value(lam * (1.0 + above), self.radius)
                for above in (0.0, 1e-14, 1e-12, 1e-10, 1e-8)
            )
            steepest = problem.shift * moved, -(moved @ problem.matrix) / problem.weight_y
            # divided first: its square may not be a float
            scale = math.sqrt(threshold) * math.sqrt(max(self.risk, 1e-300))
            off = [(s - lam * d) / scale for s, d in zip(steepest, (dx, dy), strict=True)]
            defect = math.sqrt(float(mu @ self._cost(*off)))
        return Certificate(
            self.risk,
            primal,
            dual,
            relative_gap(self.risk, primal),
            float(mu @ self._cost(dx, dy)),
            self.radius**2,
            defect,
            lam,
            threshold,
            risk_rounding(max(self.risk, primal), size),
        )

    def verify(self) -> Certificate:
        """Recompute risk and cost of the law through B, and the dual by Cholesky; cached."""
        return self._certificate


def sample_weighted_worst_case(
    B: MapLike,
    x: ArrayLike,
    y: ArrayLike,
    radius: Real,
    weight_y: SampleWeights,
    *,
    weight_x: float = math.inf,
    weights: ArrayLike | None = None,
) -> SampleWeightedWorstCase:
    r"""Exact worst-case risk of a linear map when every entry of every sample has its own price.

    .. math:: \sup\Bigl\{\sum_i\mu_i\|x_i' - By_i'\|^2 :\
              \sum_i\mu_i\Bigl(w_x\|x_i' - x_i\|^2 + \sum_jw_{ij}(y_{ij}' - y_{ij})^2\Bigr)
              \le\rho^2\Bigr\}

    Parameters
    ----------
    B, x, y, weight_y, weight_x, weights
        As in `SampleWeightedReconstruction`.
    radius : float
        W2 radius >= 0, in the units of the root of the cost.

    Returns
    -------
    SampleWeightedWorstCase
        `.risk`, `.multiplier`, `.displacement_x`, `.displacement_y`, `.gradient`, `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, weights or radius.

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import sample_weighted_worst_case
    >>> x = np.array([[1.0], [-1.0]])
    >>> worst = sample_weighted_worst_case([[2.0]], x, x, 0.5, [[1.0], [np.inf]])
    >>> round(worst.risk, 6), worst.verify().holds()  # one sample can be trusted
    (3.414214, True)
    """
    problem = SampleWeightedReconstruction(B, x, y, weight_y, weight_x=weight_x, weights=weights)
    return problem.worst_case(radius)
