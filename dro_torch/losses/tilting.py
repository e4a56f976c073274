"""The worst-case law of the linearised residual, from which tilted estimates draw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dro_torch.residual import squared_norm


@dataclass(frozen=True)
class LinearisedLaw:
    r"""Worst-case law of the linearised residual at a multiplier, one Gaussian per sample.

    .. math:: q = N\Bigl(v,\ \tfrac\varepsilon2\bigl(I + \sum_j
              \tfrac{\sigma_j^2}{\lambda-\sigma_j^2} w_j w_j^\top\bigr)\Bigr),
              \qquad v = (\lambda I - C^\top C)^{-1} C^\top r

    with the Jacobian's leading singular values and right vectors; what they miss of v is kept to
    first order in 1/λ. With all of them and an affine residual :math:`\ell/(\lambda\varepsilon) +
    \log(p/q)` is constant (theory §8).
    """

    mean: Tensor  # (N, d)
    directions: Tensor  # (N, d, r)
    shares: Tensor  # (N, r): σ²/λ
    scale: float  # √(ε/2)
    largest: Tensor  # the largest singular value of the batch

    #: σ²/λ is clipped to this: at 1 the law of the linearised problem has infinite variance.
    CLIP = 0.99

    @classmethod
    def of(
        cls, values: Tensor, right: Tensor, slope: Tensor, multiplier: Tensor, epsilon: float
    ) -> LinearisedLaw:
        """From singular values (N, r), right vectors (N, d, r) and slopes Cᵀr (N, d)."""
        shares = (values.square() / multiplier).clamp(max=cls.CLIP)
        along = (right.mT @ slope[..., None])[..., 0]
        extra = along * (shares / (1.0 - shares))
        mean = (slope + (right @ extra[..., None])[..., 0]) / multiplier
        largest = values.max() if values.numel() else values.new_zeros(())
        return cls(mean, right, shares, math.sqrt(0.5 * epsilon), largest)

    def transform(self, normal: Tensor) -> Tensor:
        """Draws (N, K, d) of the law from standard normal ones."""
        stretch = (1.0 - self.shares).rsqrt() - 1.0
        along = (normal @ self.directions) * stretch[:, None, :]
        return self.mean[:, None, :] + self.scale * (normal + along @ self.directions.mT)

    def log_ratio(self, displacement: Tensor) -> Tensor:
        r""":math:`\log q - \log p` at displacements (N, K, d), p = N(0, ε/2): (N, K)."""
        mean = self.mean[:, None, :]
        quadratic = 2.0 * (displacement * mean).sum(-1) - squared_norm(mean)
        along = (displacement - mean) @ self.directions
        quadratic = quadratic + (along.square() * self.shares[:, None, :]).sum(-1)
        log_determinant = torch.log1p(-self.shares).sum(1)
        return quadratic / (2.0 * self.scale**2) + 0.5 * log_determinant[:, None]
