"""The linearised problem of all samples, reduced to their Lanczos vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dro_core import ResidualSpectrum
from dro_torch.certify.problem import Problem
from dro_torch.linearisation import LinearisedResidual
from dro_torch.residual import squared_norm


@dataclass(frozen=True)
class Reduced:
    """Every sample's linearised problem in the space of its Lanczos vectors, diagonalised."""

    vectors: Tensor  # (N, k, size), orthonormal rows
    values: Tensor  # (N, k): singular values of C on their span
    along: Tensor  # (N, k): the residual along the left singular vectors
    losses: Tensor  # (N,): ‖r‖²

    def spectrum(self, mu: Tensor) -> ResidualSpectrum:
        """The residual spectrum of all samples together, mass that nothing reaches at zero."""
        mass = self.along.square()
        rest = (self.losses - mass.sum(1)).clamp(min=0.0)
        squares = torch.cat([self.values.square().flatten(), rest.new_zeros(1)])
        masses = torch.cat([(mu[:, None] * mass).flatten(), (mu * rest).sum()[None]])
        return ResidualSpectrum(squares.cpu().numpy(), masses.cpu().numpy(), np.ones(len(squares)))

    def law(self, multiplier: float, unspent: float, mu: Tensor) -> Tensor:
        """v_i = (λI - CᵀC)⁻¹Cᵀr in every sample's space, plus what a hard case leaves over."""
        squares = self.values.square()
        top, gap = squares.max(), multiplier - squares
        room = gap > 1e-12 * top
        amount = torch.where(room, self.values * self.along / torch.where(room, gap, 1.0), 0.0)
        if unspent > 0:  # along the top directions, equally on all samples that have one
            best, which = squares.max(1)
            share = (best >= 0.99 * top).to(mu.dtype)
            extra = math.sqrt(unspent / float((mu * share).sum())) * share
            sign = torch.where(self.along.gather(1, which[:, None])[:, 0] < 0, -1.0, 1.0)
            amount = amount.scatter_add(1, which[:, None], (extra * sign)[:, None])
        return (amount[:, None, :].to(self.vectors) @ self.vectors)[:, 0].double()


def reduce_linearised(problem: Problem, directions: int, seed: int) -> Reduced:
    """Lanczos on CᵀC from Cᵀr, with full reorthogonalisation, every sample at once."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, ...]] = []
    count = min(directions, problem.size)
    for part in problem.batches():
        moved = problem.moved(part)
        linear = LinearisedResidual(moved)
        slope = linear.adjoint(linear.value)
        vector = unit_rows(slope)
        rows: list[Tensor] = []
        images: list[Tensor] = []
        for _ in range(count):
            vector = _orthogonal(vector, rows)
            # a space that is exhausted, or a zero residual: go on at random, for a top direction
            # without residual counts too
            ended = squared_norm(vector) < 0.5
            if bool(ended.any()):
                random = torch.randn(slope.shape, generator=generator).to(slope)
                random = _orthogonal(_orthogonal(unit_rows(random), rows), rows)
                vector = torch.where(ended[:, None], random, vector)
            rows.append(vector)
            images.append(linear.apply(vector))
            if len(rows) < count:
                vector = unit_rows(linear.adjoint(images[-1]))
        problem.passes += moved.passes * (len(moved.x) / len(problem.x))
        basis, image = torch.stack(rows, 1), torch.stack(images, 1).double()
        rotation, values, left = torch.linalg.svd(image, full_matrices=False)
        along = (left @ linear.value.double()[:, :, None])[:, :, 0]
        parts.append(
            (rotation.mT.to(basis) @ basis, values, along, squared_norm(linear.value.double()))
        )
    return Reduced(*(torch.cat(column) for column in zip(*parts, strict=True)))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length one; zero stays zero."""
    length = squared_norm(rows).sqrt()[:, None]
    return torch.where(length > 0, rows / torch.where(length > 0, length, 1.0), 0.0)


def _orthogonal(vector: Tensor, rows: list[Tensor]) -> Tensor:
    """Unit vectors (N, size), Gram-Schmidt twice against unit rows; zero where nothing is left."""
    tolerance = torch.finfo(vector.dtype).eps ** 0.5
    for _ in range(2):
        for row in rows:
            vector = vector - (vector * row).sum(1, keepdim=True) * row
        vector = torch.where(squared_norm(vector)[:, None] > tolerance**2, unit_rows(vector), 0.0)
    return vector
