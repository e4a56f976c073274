"""Estimates of logarithms of means from draws: soft maxima, their levels, and when they fail."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class EstimatorWarning(UserWarning):
    """The estimate of an entropic objective is not to be trusted; the message has the numbers."""


def level_probabilities(levels: int, device: torch.device | None = None) -> Tensor:
    r"""Probabilities :math:`2^{-l} / (2 - 2^{-L})` of the levels l = 0..L of RT-MLMC, (L + 1,)."""
    weights = 0.5 ** torch.arange(levels + 1, dtype=torch.float64, device=device)
    return weights / weights.sum()


def soft_maximum(losses: Tensor, log_weights: Tensor | float, temperature: Tensor) -> Tensor:
    r""":math:`t\,(\operatorname{logsumexp}_k(\ell_{ik}/t + w_{ik}) - \log K)`, (N, K) to (N,)."""
    total = torch.logsumexp(_exponents(losses, log_weights, temperature), dim=1)
    return temperature * (total - math.log(losses.shape[1]))


def effective_sample_size(
    losses: Tensor, log_weights: Tensor | float, temperature: Tensor
) -> Tensor:
    r""":math:`1/\sum_k w_{ik}^2` of the softmax weights, (N,), between 1 and K."""
    weights = torch.softmax(_exponents(losses, log_weights, temperature), dim=1)
    return 1.0 / weights.square().sum(1)


def _exponents(losses: Tensor, log_weights: Tensor | float, temperature: Tensor) -> Tensor:
    exponents = losses / temperature
    if isinstance(log_weights, float) and log_weights == 0.0:
        return exponents
    return exponents + log_weights


def level_difference(losses: Tensor, temperature: Tensor) -> Tensor:
    r"""One level of RT-MLMC from nested draws (N, 2^l): all of them minus the mean of both halves.

    .. math:: g(\ell_{1..2^l}) - \tfrac12\,[g(\ell_{1..2^{l-1}}) + g(\ell_{2^{l-1}+1..2^l})],
              \qquad g = \text{soft maximum},

    and g itself at level 0. The expectations over the levels add up to the one of the finest.
    """
    whole = soft_maximum(losses, 0.0, temperature)
    draws = losses.shape[1]
    if draws == 1:
        return whole
    halves = soft_maximum(losses.reshape(-1, draws // 2), 0.0, temperature).reshape(-1, 2)
    return whole - halves.mean(1)
