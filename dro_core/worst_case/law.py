"""The worst-case law, block by block: an affine image of the residuals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dro_core.decomposition import Decomposition
from dro_core.dual import DualSolution
from dro_core.linear_data import gradient_sum
from dro_core.linear_map import LinearMap
from dro_core.samples import Block, Samples
from dro_core.spectrum import residuals
from dro_core.structure import Structure
from dro_core.transport import squared_norms
from dro_core.types import Array

#: Images of the axes are used up to this size, relative to the root mean square residual.
LARGEST_IMAGE = 1e3
#: With smaller margins λ/κ² - 1 the rounding of singular values next to κ is
#: seen in what is spent.
LEAST_MARGIN = 1e-2


@dataclass(frozen=True, eq=False)
class WorstCaseLaw:
    r"""Displacements :math:`(dx_i, dy_i)` of the samples of any block.

    Attributes
    ----------
    map : LinearMap
        B.
    structure : Structure
    decomposition : Decomposition
    solution : DualSolution
    images : tuple of (n, n) and (n, m) arrays, or None
        Displacements of the axes: those of residuals are their products with them, up to `common`.
        None where the decomposition is to be applied to every residual.
    common : tuple of (n,) and (m,) arrays
        What all samples move by besides (in the hard case).
    length : float
        Root mean square of the free displacements as they come out of the solution, in units of
        its radius: one up to rounding, by which they are divided.
    """

    map: LinearMap
    structure: Structure
    decomposition: Decomposition
    solution: DualSolution
    images: tuple[Array, Array] | None = None
    common: tuple[Array, Array] | None = None
    length: float = 1.0

    @property
    def still(self) -> bool:
        """Whether nothing moves but what must."""
        return math.isinf(self.solution.margin) or self.solution.multiplier == 0.0

    def free(self, block: Block, residual: Array) -> tuple[Array, Array]:
        """What is moved freely, for samples that start with these residuals."""
        solution = self.solution
        if self.still:
            return np.zeros(block.x.shape), np.zeros(block.y.shape)
        if self.images is None:
            dx, dy = self._displaced(block.rows, residual, solution.unspent_radius)
        else:
            dx, dy = (
                residual @ image if image.any() else np.zeros((len(residual), image.shape[1]))
                for image in self.images
            )
            if self.common is not None:
                dx, dy = dx + self.common[0], dy + self.common[1]
        return (dx, dy) if self.length == 1.0 else (dx / self.length, dy / self.length)

    def _displaced(
        self, rows: slice, residual: Array, unspent_radius: float
    ) -> tuple[Array, Array]:
        """The displacements that belong to the dual residuals."""
        decomposition, margin = self.decomposition, self.solution.margin
        return decomposition.displacement.displace(
            decomposition.dual_residuals(rows, residual, margin, unspent_radius)
        )

    def on_axes(self, fidelity: float, samples: int) -> WorstCaseLaw:
        """The same law by its images of the axes, if that is less work and loses no digits.

        One product then does what a change of basis and back and one with B do. Its rounding is
        that of the largest image, so it is taken only if residuals of the mean size would not be
        moved by it a thousand times further than the radius.
        """
        n, solution = self.map.shape[0], self.solution
        worth = self.map.is_small and self.decomposition.displacement.factor is not None
        if self.still or not (worth and self.decomposition.exact and samples > 4 * n):
            return self
        images = self._displaced(slice(0, n), np.eye(n), 0.0)
        largest = float(self.structure.transport_cost(*images).max())
        if not math.sqrt(fidelity) * math.sqrt(largest) <= LARGEST_IMAGE * solution.radius:
            return self
        common = None
        if solution.unspent > 0:
            shift = self._displaced(slice(0, 1), np.zeros((1, n)), solution.unspent_radius)
            common = shift[0][0], shift[1][0]
        return replace(self, images=images, common=common)

    def moves(self, block: Block) -> tuple[Array, Array]:
        """Displacements of a block, what is forced included."""
        start = self.decomposition.displacement.start(block.x, block.y, residuals(self.map, block))
        dx, dy = self.free(block, start.residual)
        return (dx, dy) if start.base is None else (dx + start.base[0], dy + start.base[1])

    def cost(self, dx: Array, dy: Array) -> Array:
        """Transport cost of displacements."""
        return self.structure.transport_cost(dx, dy)


def _spent(law: WorstCaseLaw, block: Block) -> tuple[float]:
    """Sum over a block of the free displacements' costs, in units of the squared radius."""
    displacement, radius = law.decomposition.displacement, law.solution.radius
    start = displacement.start(block.x, block.y, residuals(law.map, block))
    dx, dy = law.free(block, start.residual)
    return (float(block.weights @ law.cost(dx / radius, dy / radius)),)


def worst_case_law(
    linear: LinearMap,
    structure: Structure,
    decomposition: Decomposition,
    solution: DualSolution,
    samples: Samples,
) -> WorstCaseLaw:
    """The law of a solution, scaled so that it uses the budget exactly.

    With the whole spectrum it does so as it is, up to rounding. A quadrature rule is no exact
    account of its own displacements, along a common move residuals that are rounding add up, and
    next to the threshold the rounding of singular values does: these take a pass.
    """
    law = WorstCaseLaw(linear, structure, decomposition, solution)
    law = law.on_axes(decomposition.spectrum.fidelity, samples.count)
    clear = solution.unspent == 0 and solution.margin >= LEAST_MARGIN
    if law.still or solution.radius == 0 or (decomposition.exact and clear):
        return law
    length = math.sqrt(samples.mean(partial(_spent, law))[0])
    if not math.isfinite(length):
        raise OverflowError(
            "B, x, y: the worst-case displacements exceed the largest float; rescale"
        )
    return replace(law, length=length or 1.0)


def moved_blocks(law: WorstCaseLaw, samples: Samples) -> Iterator[tuple[Array, Array, Array]]:
    """Atoms (x', y') of the law with their weights, a block at a time."""
    for block in samples.blocks():
        dx, dy = law.moves(block)
        yield block.x + dx, block.y + dy, block.weights / samples.total


def law_gradient(law: WorstCaseLaw, block: Block) -> tuple[Array]:
    """Sum over a block of the gradient in B of the squared error at the law."""
    dx, dy = law.moves(block)
    moved_y = block.y + dy
    return (gradient_sum(block.weights, block.x + dx - law.map.apply(moved_y), moved_y),)


@dataclass(frozen=True, eq=False)
class Recomputed:
    """Means over the samples that a certificate is made of.

    Attributes
    ----------
    primal : float
        Squared residual of the law, through B.
    started : float
        Squared residual before the free moves.
    cost : float
        Transport cost.
    before, after : float
        Squared norms of x and of x + dx.
    terms : (m,) array
        Mean squares of :math:`|y_j| + |dy_j|`.
    defect : float
        Square of :math:`C^\\top r' - \\lambda v` in the given scale.
    spent : float
        Square of v in the given scale.
    """

    primal: float
    started: float
    cost: float
    before: float
    after: float
    terms: Array
    defect: float
    spent: float


def recomputed(
    law: WorstCaseLaw, multiplier: float, samples: Samples, scales: tuple[float, float]
) -> Recomputed:
    """One pass; the defect is divided by the first scale and v by the second before squaring."""
    return Recomputed(*samples.mean(partial(_recomputed, law, multiplier, scales)))


def _recomputed(
    law: WorstCaseLaw, multiplier: float, scales: tuple[float, float], block: Block
) -> tuple[float, float, float, float, float, Array, float, float]:
    weights, displacement = block.weights, law.decomposition.displacement
    moved = residuals(law.map, block)
    start = displacement.start(block.x, block.y, moved)
    started = float(weights @ squared_norms(start.residual))
    before = after = float(weights @ squared_norms(block.x))
    free = law.free(block, start.residual)
    dx, dy = free if start.base is None else (free[0] + start.base[0], free[1] + start.base[1])
    if dx.any():
        after = float(weights @ squared_norms(block.x + dx))
        moved = moved + dx
    if dy.any():
        moved = moved - law.map.apply(dy)
    cost = float(weights @ law.cost(dx, dy))
    defect = spent = 0.0
    if scales[0] > 0 and not math.isinf(multiplier):
        steepest = displacement.displace(moved)  # the displacement that belongs to v = Cᵀr'
        away = [s - multiplier * d if d.any() else s for s, d in zip(steepest, free, strict=True)]
        defect = _scaled_cost(law, weights, away, scales[0])
        spent = cost / scales[1] ** 2
        if start.base is not None or not 1e-120 < scales[1] < 1e120:
            spent = _scaled_cost(law, weights, free, scales[1])
    terms = np.abs(dy)
    terms += np.abs(block.y)
    terms *= terms
    primal = float(weights @ squared_norms(moved))
    return primal, started, cost, before, after, weights @ terms, defect, spent


def _scaled_cost(law: WorstCaseLaw, weights: Array, moves: Sequence[Array], scale: float) -> float:
    """Sum of the costs of displacements in a scale, whose square need not be a float."""
    if 1e-120 < scale < 1e120:
        return float(weights @ law.cost(moves[0], moves[1])) / scale**2
    return float(weights @ law.cost(moves[0] / scale, moves[1] / scale))
