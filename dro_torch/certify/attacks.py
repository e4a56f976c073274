"""Laws in the ball: ascent on the sphere of the shared budget, and the simple attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from dro_torch.certify.linearised import unit_rows
from dro_torch.certify.problem import Problem
from dro_torch.residual import squared_norm

#: The simple attacks that the found law is compared with.
SIMPLE_ATTACKS = ("random noise", "gradient", "projected gradient", "linearised")


def ascend(problem: Problem, start: Tensor, radius: float, steps: int) -> Tensor:
    r"""Ascent on the sphere :math:`\sum_i\mu_i\|v_i\|^2 = \rho^2`, on which samples trade budget.

    A step goes towards the point :math:`\rho\,g/\|g\|_\mu` where the linearised risk is largest (of
    a convex risk no such step loses), further while that pays, less far when it does not.
    """
    best = problem.scaled(start, radius)
    risk, slopes = problem.risk_and_slopes(best)
    length = 1.0
    for _ in range(steps):
        target = problem.scaled(slopes, radius)
        trial = problem.scaled(best + length * (target - best), radius)
        tried, tilted = problem.risk_and_slopes(trial)
        if tried > risk:
            best, risk, slopes, length = trial, tried, tilted, min(2.0 * length, 64.0)
        else:
            length *= 0.25
            if length < 1e-4:
                break
    return best


def simple_attacks(
    problem: Problem, linearised: Tensor, radius: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """Displacements of the simple attacks, each of cost ρ²."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(problem.zeros().shape, generator=generator, dtype=torch.float64)
    noise = noise.to(problem.x.device)

    _, slopes = problem.risk_and_slopes(problem.zeros())
    single = radius * unit_rows(slopes)
    position = 0.5 * radius * unit_rows(noise)
    for _ in range(steps):
        _, slopes = problem.risk_and_slopes(position)
        position = position + (2.5 * radius / steps) * unit_rows(slopes)
        length = squared_norm(position).sqrt()[:, None]
        position = position * (radius / length.clamp(min=radius))
    attacks = (noise, single, position, linearised)
    return {
        name: problem.scaled(attack, radius)
        for name, attack in zip(SIMPLE_ATTACKS, attacks, strict=True)
    }
