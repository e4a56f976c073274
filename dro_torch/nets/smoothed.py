"""Networks averaged over Gaussian noise on their input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dro_core.checks import as_count, as_positive, as_positive_integer
from dro_torch.keyed_noise import standard_normal
from dro_torch.models import call_model
from dro_torch.nets.clipped import Clipped
from dro_torch.nets.common import Bounds

#: Rows that go through the network at once.
ROWS = 256


class SmoothedModel(nn.Module):
    r"""The average of a network over noise on its input, :math:`\frac1K\sum_k f(y + \sigma n_k)`.

    An estimate of :math:`\hat f(y) = \mathbb E f(y + \sigma n)`, and the map that
    `dro_torch.certify` with ``smoothing=sigma`` certifies: its bounds hold for the expected loss
    of every number K of fresh draws.

    Parameters
    ----------
    model : Module
        f, (N, ...) to (N, ...).
    sigma : float
        Standard deviation > 0 of the noise, in the units of y.
    draws : int
        K, network passes per sample.
    output_range : (float, float), optional
        Clamp f to [a, b] before it is averaged; certificates need it.
    seed : int
        Of the noise.
    fixed : bool
        The same draws for all samples and in all passes: a deterministic map, for attacks and
        comparisons. Otherwise every sample and every pass has draws of its own, which nobody who
        chose y could know.

    Raises
    ------
    TypeError, ValueError
        Bad arguments, named.

    Examples
    --------
    >>> smooth = SmoothedModel(nn.Identity(), 0.1, draws=4, output_range=(0, 1))
    >>> smooth(torch.full((2, 3), 0.5)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        draws: int = 32,
        *,
        output_range: Sequence[float] | None = None,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        self.model = model if output_range is None else Clipped(model, output_range)
        self.sigma = as_positive(sigma, "sigma")
        self.draws = as_positive_integer(draws, "draws")
        self.seed, self.fixed = as_count(seed, "seed"), bool(fixed)
        self.passes = 0

    def forward(self, y: Tensor) -> Tensor:
        """The average of K outputs."""
        count = 1 if self.fixed else len(y)
        index = torch.arange(count, device=y.device)
        together = min(self.draws, max(1, ROWS // len(y)))
        total: Tensor | None = None
        for first in range(0, self.draws, together):
            some = min(together, self.draws - first)
            noise = standard_normal(
                index, some, y[0].numel(), seed=self.seed, step=self.passes, first=first,
                dtype=y.dtype,
            )  # fmt: skip
            moved = y[:, None] + self.sigma * noise.reshape(count, some, *y.shape[1:])
            out = call_model(self.model, moved.flatten(0, 1), dimensions=1)
            part = out.unflatten(0, (len(y), some)).sum(1)
            total = part if total is None else total + part
        if not self.fixed:
            self.passes += 1
        assert total is not None  # at least one draw
        return total / self.draws

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """That of the network: a mean of its translates has no larger one."""
        return bounds(self.model)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}, draws={self.draws}{', fixed' if self.fixed else ''}"
