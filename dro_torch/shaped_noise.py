r"""The noise that a weighted ball asks for: covariance :math:`\sigma^2 W^{-1}` on what moves.

Training with noise is the cheapest robust loss. Isotropic noise is nearly optimal for an isotropic
ball and far from it for a weighted one; noise of the ball's own shape is near the exact optimum for
both (`python -m validation jittering`). In whitened displacements it is just :math:`\sigma` times
standard normal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_radius
from dro_torch.checks import check_samples
from dro_torch.keyed_noise import key_of
from dro_torch.structure import Structure, as_structure

#: Stream of the keyed noise.
_STREAM = 6


class ShapedNoise(nn.Module):
    r"""Moves samples by Gaussian noise of the shape of a structured ball.

    .. math:: (x, y) \mapsto (x', y') \text{ displaced by } v = \sigma n,\quad n\sim N(0, I)

    in whitened units: what moves gets noise of covariance :math:`\sigma^2W^{-1}`, frozen entries
    none. ``x, y = noise(x, y)`` gives the moved pair, in anyone's loop.

    Parameters
    ----------
    structure : "y|x", "x|y", "joint" or Structure
        What moves, with its weights.
    level : float
        σ >= 0, in the units of the transport cost. `level_of_radius` gives a first guess; choose
        it on validation data by the risk under attack.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: this project; measured against the optimum of `dro_core.fit_linear`.
    """

    def __init__(self, structure: str | Structure = "y|x", level: float = 1.0) -> None:
        super().__init__()
        self.structure = as_structure(structure)
        self.level = as_non_negative(level, "level", "a standard deviation >= 0")

    def extra_repr(self) -> str:
        """The settings that tell two apart."""
        return f"structure={self.structure!r}, level={self.level:g}"

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        *,
        index: Tensor | None = None,
        seed: int | None = None,
        step: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The moved batch; the noise is keyed by (seed, step, index), or from `generator`.

        Without a seed it comes from `generator`, and without that from torch's global one.
        """
        x, y = check_samples(x, y)
        size = self.structure.size(x, y)
        if seed is None:
            device = generator.device if generator is not None else x.device
            normal = torch.randn(
                len(x), size, generator=generator, dtype=x.dtype, device=device
            ).to(x.device)
        else:
            normal = key_of(index, seed, step, x).normal(1, size, _STREAM, x.dtype)[:, 0]
        return self.structure.displace(x, y, self.level * normal)


def level_of_radius(structure: str | Structure, radius: float, x: Tensor, y: Tensor) -> float:
    r"""The level σ at which the noise's mean transport cost is the budget: :math:`\rho/\sqrt d`.

    d counts the entries that may move. It is the smallest sensible level: a worst case spends the
    budget on few directions, so the best level for the worst case is larger, up to ρ itself.

    Parameters
    ----------
    structure : "y|x", "x|y", "joint" or Structure
    radius : float
        ρ >= 0.
    x, y : (N, ...) tensors
        Samples, whose shape (and weights, where they depend on the samples) count.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.
    """
    kind, radius = as_structure(structure), as_radius(radius)
    x, y = check_samples(x, y)
    scale = kind.scale(x, y)
    free = kind.size(x, y) if scale is None else float((scale > 0).sum(1).double().mean())
    return radius / math.sqrt(max(free, 1.0))
