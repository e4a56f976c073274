"""The worst case of a map at one radius: value, law, and the certificate recomputed from both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import svdvals

from dro_core.certificate import LARGEST_RISK, Certificate, relative_gap, risk_rounding
from dro_core.decomposition import Decomposition
from dro_core.described import Drawn
from dro_core.dual import DualSolution
from dro_core.linear_data import LinearData
from dro_core.read_only import ReadOnly, read_only
from dro_core.structure import Structure, XShift
from dro_core.types import EPS, Array
from dro_core.worst_case.law import (
    Recomputed,
    WorstCaseLaw,
    law_gradient,
    moved_blocks,
    recomputed,
    worst_case_law,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class WorstCase(ReadOnly, Drawn):
    r"""Worst-case risk of a linear map, its multiplier, and the law that attains it.

    Displacements are stored, positions derived from them, so small radii keep their digits; all
    are built when first asked for, from the samples that were passed (do not change them before).
    The worst-case law puts weight :math:`\mu_i` on :math:`(x_i + dx_i, y_i + dy_i)`. For samples
    that do not fit into memory `atoms` gives it block by block.

    Attributes
    ----------
    risk : float
        :math:`\sup \int \|x - By\|^2\,d\pi` over the ball: the value of the strong dual. For a
        LinearOperator the lower one of two values, see `upper`.
    upper : float
        An upper value of the risk: `risk` itself wherever it is exact; for a LinearOperator that of
        the Gauss-Radau rule, proved if `norm_bound` was given.
    failure_probability : float
        Zero if `upper` is proved; else (a LinearOperator without `norm_bound`) the probability that
        it is too low.
    multiplier : float
        Optimal :math:`\lambda` (infinite at radius 0, zero if the adversary can gain nothing).
    bound : float
        The explicit bound :math:`(\sqrt M + \rho\kappa)^2` with :math:`\kappa = \sigma_{\max}(C)`.
        For structure x, M and :math:`\rho` are those left after the forced move onto the graph,
        and C is the structure's own, so it is sharper than `explicit_bound` with Lip(I - BA).
    nominal_risk : float
        Mean squared error of the data, without any adversary.
    structure : Structure
    radius : float
        :math:`\rho`, a W2 radius in the units of the data.
    """

    described_by = (
        "risk",
        "upper",
        "failure_probability",
        "structure",
        "radius",
        "multiplier",
        "bound",
        "nominal_risk",
    )

    def __init__(
        self,
        problem: LinearData,
        structure: Structure,
        answer: Answer,
        radius: float,
    ) -> None:
        self._problem = problem
        self._decomposition = answer.decomposition
        self._solution = answer.solution
        self._top = answer.top
        self.structure = structure
        self.radius = radius
        self.risk = answer.risk
        self.upper = answer.upper
        self.failure_probability = answer.failure_probability
        self.multiplier = answer.solution.multiplier
        self.bound = answer.bound
        self.nominal_risk = problem.fidelity
        self._protect()

    @property
    def weights(self) -> Array:
        """Weights of the samples and of the atoms, (N,)."""
        return self._problem.weights

    @cached_property
    def _law(self) -> WorstCaseLaw:
        return worst_case_law(
            self._problem.map,
            self.structure,
            self._decomposition,
            self._solution,
            self._problem.samples,
        )

    def atoms(self) -> Iterator[tuple[Array, Array, Array]]:
        """The worst-case law a block of samples at a time: arrays x', y' and their weights.

        Nothing is kept, so it may be as large as the samples are.
        """
        return moved_blocks(self._law, self._problem.samples)

    @cached_property
    def _displacements(self) -> tuple[Array, Array]:
        dx, dy = self._problem.samples.gathered(self._law.moves)
        return dx, dy

    @property
    def displacement_x(self) -> Array:
        """Displacements dx of the samples' x under the worst-case law, (N, n)."""
        return self._displacements[0]

    @property
    def displacement_y(self) -> Array:
        """Displacements dy of the samples' y under the worst-case law, (N, m)."""
        return self._displacements[1]

    @property
    def x(self) -> Array:
        """Atoms of the worst-case law, x part (N, n)."""
        return self._problem.x + self.displacement_x

    @property
    def y(self) -> Array:
        """Atoms of the worst-case law, y part (N, m)."""
        return self._problem.y + self.displacement_y

    @property
    def lower(self) -> float:
        """`risk`: never above the true worst case, up to rounding."""
        return self.risk

    @cached_property
    def gradient(self) -> Array:
        r"""Gradient of the worst-case risk in B, (n, m).

        By the envelope theorem that of the mean squared error at the worst-case law,
        :math:`2(B\,\mathbb E[y'y'^\top] - \mathbb E[x'y'^\top])`. In the hard case the law is
        not unique and this is one subgradient.

        Raises
        ------
        ValueError
            For a map that is too large for a dense matrix.
        """
        problem = self._problem
        problem.check_gradient()
        (gradient,) = problem.samples.mean(partial(law_gradient, self._law))
        if isinstance(self.structure, XShift):
            noise = self.structure.noise_covariance()
            if noise is not None:
                gradient += 2.0 * problem.map.apply(noise).T
        return read_only(gradient)

    @cached_property
    def _certificate(self) -> Certificate:
        problem, displacement = self._problem, self._decomposition.displacement
        threshold = self._threshold()
        root, kappa = math.sqrt(max(self._free_risk, 0.0)), math.sqrt(threshold)
        # divided first: the square of κ√R may not be a float
        scales = (kappa * root, root / kappa if kappa > 0 else 0.0)
        found = recomputed(self._law, self.multiplier, problem.samples, scales)
        size = found.before + found.after + 2.0 * problem.map.squared_terms(np.sqrt(found.terms))
        stationarity, spent = math.sqrt(found.defect), math.sqrt(found.spent)
        upper = self._upper_value(found, threshold, stationarity, spent)
        return Certificate(
            risk=self.risk,
            primal_risk=found.primal + displacement.noise_risk,
            dual_risk=upper + displacement.noise_risk,
            gap=relative_gap(self.risk, found.primal + displacement.noise_risk),
            transport_cost=found.cost + displacement.noise_cost,
            budget=self.radius**2,
            stationarity=stationarity,
            multiplier=self.multiplier,
            threshold=threshold,
            resolution=risk_rounding(max(self._free_risk, found.primal), size),
            failure_probability=self.failure_probability,
        )

    def _threshold(self) -> float:
        """κ², afresh by dense algebra where that is possible."""
        factor = self._decomposition.displacement.factor
        shift = self._decomposition.displacement.shift
        if factor is None:
            return shift
        if not self._decomposition.exact or factor.spectral() is not None:
            return self._top
        return shift + float(svdvals(factor.matrix(), check_finite=False)[0]) ** 2

    @property
    def _free_risk(self) -> float:
        """The risk without the constant that the noise of a likelihood adds."""
        return self.risk - self._decomposition.displacement.noise_risk

    def _upper_value(
        self, found: Recomputed, threshold: float, stationarity: float, spent: float
    ) -> float:
        """The dual above λ, with potentials bounded through the defect (see `Certificate`).

        In units of the risk, and of the threshold for multipliers. Without a risk or a finite
        multiplier to measure in, the explicit bound is the upper value.
        """
        reach = self._solution.radius * math.sqrt(threshold)
        if reach == 0:  # the adversary has no budget, or moves nothing that B sees
            return found.primal
        risk = self._free_risk
        if risk <= 0 or math.isinf(self.multiplier):
            return (math.sqrt(found.started) + reach) ** 2
        free = reach / math.sqrt(risk)
        step = np.concatenate([[0.0], np.geomspace(1e-18, 1e3, 400)])
        above = self.multiplier / threshold + step
        usable = above > 1 + 4 * EPS
        step, above = step[usable], above[usable]
        values = above * (free - spent) * (free + spent)
        values += (stationarity + step * spent) ** 2 / (above - 1)
        return found.primal + risk * float(values.min())

    def verify(self) -> Certificate:
        """Recompute risk and transport cost from the displacements, applying B itself.

        Nothing of the spectral computation enters: the residuals are formed afresh, the moved
        residuals through B, the threshold by a singular value decomposition. One pass over the
        data; cached.
        """
        return self._certificate

    @property
    def primal_risk(self) -> float:
        """Risk of the worst-case law, recomputed (see `verify`)."""
        return self._certificate.primal_risk

    @property
    def transport_cost(self) -> float:
        """Transport cost of the worst-case law, recomputed (see `verify`); at most radius²."""
        return self._certificate.transport_cost

    @property
    def gap(self) -> float:
        """Relative duality gap (risk - primal_risk) / risk, recomputed (see `verify`)."""
        return self._certificate.gap

    def _draw(self, ax: Axes) -> None:
        """The sample on which the law spends most, before and after: its y, or x if that moves."""
        spent, sample, moved, before, move = -1.0, 0, "y", np.zeros(0), np.zeros(0)
        for block in self._problem.samples.blocks():
            dx, dy = self._law.moves(block)
            costs = block.weights * self.structure.transport_cost(dx, dy)
            k = int(np.argmax(costs))
            if costs[k] > spent:
                spent, sample = float(costs[k]), block.rows.start + k
                moved = "y" if dy[k] @ dy[k] >= dx[k] @ dx[k] else "x"
                before, move = (block.y[k], dy[k]) if moved == "y" else (block.x[k], dx[k])
        ax.plot(before + move, label=f"{moved} under the worst-case law")
        ax.plot(before, "k--", linewidth=1, label=f"{moved} of the data")
        ax.set_xlabel(f"entry of {moved}, sample {sample}")
        ax.set_ylabel(f"{moved}, in its units")
        ax.set_title(
            f"risk {self.nominal_risk:.4g} becomes {self.risk:.4g} at radius {self.radius:.4g}"
        )
        ax.legend()


@dataclass(frozen=True, eq=False, repr=False)
class WorstCaseCurve(Drawn):
    """Worst-case risk along a sequence of radii.

    Attributes
    ----------
    radius : (K,) array
        The radii asked for.
    risk : (K,) array
        As in `WorstCase`, one entry per radius; so are the next two.
    multiplier : (K,) array
    bound : (K,) array
    nominal_risk : float
    upper : (K,) array
    """

    radius: Array
    risk: Array
    multiplier: Array
    bound: Array
    nominal_risk: float
    upper: Array

    def _draw(self, ax: Axes) -> None:
        """Risk and explicit bound against the radius."""
        ax.fill_between(self.radius, self.risk, self.upper, alpha=0.3, linewidth=0)
        ax.plot(self.radius, self.risk, label="worst case")
        ax.plot(self.radius, self.bound, "--", label="explicit bound")
        ax.axhline(self.nominal_risk, color="k", linewidth=1, label="no adversary")
        ax.set_xlabel("W2 radius, in the units of the data")
        ax.set_ylabel("risk, in squared units of x")
        ax.legend()


@dataclass(frozen=True, eq=False)
class Answer:
    """What one radius gives: the dual's solution, and what a worst case reports of it."""

    decomposition: Decomposition
    solution: DualSolution
    risk: float
    upper: float
    failure_probability: float
    bound: float
    #: κ², or the bound on it that the upper value rests on.
    top: float


def too_large(name: str, radius: float) -> str:
    return (
        f"{name}: at radius {radius:g} the value exceeds {LARGEST_RISK:g}, where the sums it is "
        "made of overflow; rescale the data"
    )


def one_atom_bound(fidelity: float, top: float, radius: float) -> float:
    """The explicit bound: the dual of the spectrum with all mass moved to its top."""
    root = math.sqrt(fidelity) + (radius * math.sqrt(top) if radius > 0 else 0.0)
    return root * root
