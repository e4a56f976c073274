r"""The worst-case Gaussians of the entropic problem at a multiplier; their gradient in the map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from dro_core.decomposition import ResidualDecomposition
from dro_core.linear_data import LinearData, gradient_sum
from dro_core.linear_map import DENSE_ENTRIES, LinearMap
from dro_core.samples import Block
from dro_core.spectrum import residuals
from dro_core.structure import PointStructure, Structure
from dro_core.types import Array

#: A covariance may be so many times as large as a matrix that is there.
SQUARE = 4


@dataclass(frozen=True, eq=False)
class GaussianMover:
    """Displacements of the means of the Gaussians, block by block; zero without a decomposition."""

    map: LinearMap
    decomposition: ResidualDecomposition | None
    margin: float

    def moves(self, block: Block) -> tuple[Array, Array]:
        """(dx, dy) of the samples of a block."""
        if self.decomposition is None:
            return np.zeros(block.x.shape), np.zeros(block.y.shape)
        residual = residuals(self.map, block)
        return self.decomposition.displacement.displace(
            self.decomposition.dual_residuals(block.rows, residual, self.margin, 0.0)
        )


@dataclass(frozen=True, eq=False)
class GaussianLaw:
    r"""The law that maximises :math:`\int\ell - \lambda(c + \varepsilon\log d\gamma)`, per sample.

    Sample i goes to a Gaussian with mean (x_i + dx_i, y_i + dy_i); the covariance is common. All
    in the squared-cost convention.
    """

    problem: LinearData
    structure: PointStructure
    multiplier: float
    epsilon: float
    decomposition: ResidualDecomposition
    margin: float

    @cached_property
    def mover(self) -> GaussianMover:
        """The displacements of the means, for the samples of any block."""
        still = math.isinf(self.multiplier)
        return GaussianMover(self.problem.map, None if still else self.decomposition, self.margin)

    @cached_property
    def _displacements(self) -> tuple[Array, Array]:
        dx, dy = self.problem.samples.gathered(self.mover.moves)
        return dx, dy

    @property
    def displacement_x(self) -> Array:
        """Displacements of the means of x', (N, n)."""
        return self._displacements[0]

    @property
    def displacement_y(self) -> Array:
        """Displacements of the means of y', (N, m)."""
        return self._displacements[1]

    @cached_property
    def _blocks(self) -> tuple[Array, Array, Array]:
        r"""Covariances (xx, xy, yy): ε/2 [W⁻¹ + K (λI - CCᵀ)⁻¹ Kᵀ], K = W^(-1/2)Cᵀ."""
        n, m = self.problem.map.shape
        formed = SQUARE * n * m if self.problem.map.is_small else 0  # a matrix is there already
        if max(n, m) ** 2 > max(DENSE_ENTRIES, formed):
            raise ValueError(
                f"B: shape {(n, m)}; a dense covariance of that size is not formed (at most 2048, "
                "or the sides of a matrix that is nearly square)"
            )
        identity = np.eye(n)
        noise = self.structure.inverse_weight(n, m)
        noise_x, noise_y = noise[:n, :n], noise[n:, n:]
        if math.isinf(self.multiplier):
            return (0.5 * self.epsilon * noise_x, np.zeros((n, m)), 0.5 * self.epsilon * noise_y)
        inverse = self.decomposition.inverse_rows(identity, self.margin, significant=False)
        to_x, to_y = self.decomposition.displacement.displace(identity)  # rows: Kᵀ
        half = 0.5 * self.epsilon
        return (
            half * (noise_x + to_x.T @ inverse @ to_x),
            half * (to_x.T @ inverse @ to_y),
            half * (noise_y + to_y.T @ inverse @ to_y),
        )

    @property
    def covariance_x(self) -> Array:
        """Covariance of x', (n, n); zero where x does not move."""
        return self._blocks[0]

    @property
    def covariance_xy(self) -> Array:
        """Cross-covariance of x' and y', (n, m)."""
        return self._blocks[1]

    @property
    def covariance_y(self) -> Array:
        """Covariance of y', (m, m); zero where y does not move."""
        return self._blocks[2]

    def gradient(self) -> Array:
        r"""Gradient in B of the mean squared error, :math:`2(B E[y'y'^\top] - E[x'y'^\top])`."""
        problem = self.problem
        problem.check_gradient()
        gradient: Array = problem.samples.mean(partial(_gradient, self.mover))[0]
        if self.epsilon > 0:
            gradient += 2.0 * (problem.map.apply(self.covariance_y).T - self.covariance_xy)
        return gradient


def maximising_law(
    problem: LinearData,
    structure: Structure,
    decomposition: ResidualDecomposition,
    multiplier: float,
    epsilon: float,
) -> GaussianLaw:
    """The Gaussians at a multiplier above the threshold (infinity included)."""
    if not isinstance(structure, PointStructure) or structure.norm != 2.0:
        raise ValueError(
            f"structure: {structure!r}; the Gaussian law is available for joint, y|x and x|y with "
            "norm 2"
        )
    if math.isinf(multiplier) or decomposition.spectrum.top == 0.0:
        margin = math.inf
    else:
        margin = multiplier / decomposition.spectrum.top - 1.0
    return gaussian_law(problem, structure, decomposition, multiplier, margin, epsilon)


def gaussian_law(
    problem: LinearData,
    structure: PointStructure,
    decomposition: ResidualDecomposition,
    multiplier: float,
    margin: float,
    epsilon: float,
) -> GaussianLaw:
    """The Gaussians at a multiplier of known margin."""
    if math.isinf(margin) or decomposition.spectrum.top == 0.0:
        multiplier = math.inf
    return GaussianLaw(problem, structure, multiplier, epsilon, decomposition, margin)


def _gradient(mover: GaussianMover, block: Block) -> tuple[Array]:
    dx, dy = mover.moves(block)
    moved_y = block.y + dy
    return (gradient_sum(block.weights, block.x + dx - mover.map.apply(moved_y), moved_y),)


def check_entropic(structure: Structure, decomposition: ResidualDecomposition) -> None:
    """Refuse structures whose entropic dual has no meaning here."""
    noisy = decomposition.moved or decomposition.displacement.noise_risk > 0
    if noisy or getattr(structure, "norm", 2.0) != 2.0:
        raise ValueError(
            f"epsilon: the entropic dual is not available for {structure!r}; allowed: 0.0"
        )
