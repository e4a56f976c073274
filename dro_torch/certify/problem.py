"""The samples of a certification, and what is measured of their displacements."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dro_core.swapped import LOOKED_AT, warn_if_swapped
from dro_torch.models import bare_copy, call_model
from dro_torch.nets.spectral import frozen
from dro_torch.residual import MovedSamples, Residual, squared_norm
from dro_torch.structure import Structure


class Problem:
    """The samples of one certification, in batches; the network, frozen, in two precisions."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        structure: Structure,
        residual: Residual,
        mu: Tensor,
        batch_size: int,
    ) -> None:
        self.model, self.exact = frozen(model), frozen(bare_copy(model).double())
        self.x, self.y, self.structure = x, y, structure
        self.residual, self.mu, self.batch_size = residual, mu, batch_size
        self.size = structure.size(x, y)
        self.passes = 0.0
        with torch.no_grad():  # what the model does not do is said here
            self.moved(next(self.batches())).losses(self.zeros()[:batch_size, None, :])
        self.nominal_losses = self.exact_losses(self.zeros())
        self.nominal = float((self.mu * self.nominal_losses).sum())
        if not math.isfinite(self.nominal):
            raise ValueError("model: its residuals on the samples are not finite, or overflow")

    def batches(self) -> Iterator[slice]:
        """Slices of the samples."""
        for first in range(0, len(self.x), self.batch_size):
            yield slice(first, min(first + self.batch_size, len(self.x)))

    def moved(self, part: slice) -> MovedSamples:
        """One batch as the adversary sees it."""
        return MovedSamples(self.model, self.x[part], self.y[part], self.structure, self.residual)

    def zeros(self) -> Tensor:
        """The law that moves nothing."""
        return torch.zeros(len(self.x), self.size, dtype=torch.float64, device=self.x.device)

    def cost(self, displacement: Tensor) -> float:
        """Σ μ_i ‖v_i‖²."""
        return float((self.mu * squared_norm(displacement)).sum())

    def risk_and_slopes(self, displacement: Tensor) -> tuple[float, Tensor]:
        """Σ μ_i ℓ_i(v_i), and every sample's gradient (N, size)."""
        risk, slopes = 0.0, torch.empty_like(displacement)
        self.passes += 2
        for part in self.batches():
            with torch.enable_grad():
                point = displacement[part].to(self.x.dtype).requires_grad_()
                losses = self.moved(part).losses(point[:, None, :])[:, 0]
                (slope,) = torch.autograd.grad(losses.sum(), point)
            risk += float((self.mu[part] * losses.detach()).sum())
            slopes[part] = slope
        return risk, slopes

    def exact_risk(self, displacement: Tensor) -> float:
        """Σ μ_i ℓ_i(v_i) by a float64 copy of the network."""
        return float((self.mu * self.exact_losses(displacement)).sum())

    def exact_losses(self, displacement: Tensor) -> Tensor:
        """ℓ_i(v_i), (N,), by a float64 copy of the network."""
        rows = [
            squared_norm(self.exact_residuals(part, displacement[part])) for part in self.batches()
        ]
        return torch.cat(rows)

    @torch.no_grad()
    def exact_residuals(self, part: slice, displacement: Tensor) -> Tensor:
        """Residuals of one batch (n, size of a residual) by a float64 copy of the network."""
        x, y = self.x[part].double(), self.y[part].double()
        moved = MovedSamples(self.exact, x, y, self.structure, self.residual)
        try:
            return moved.residuals(displacement[:, None, :])[:, 0]
        except RuntimeError as error:
            raise ValueError(
                "model: it runs on the data but not in float64, in which certificates are "
                f"evaluated: {error}"
            ) from error

    @torch.no_grad()
    def warn_if_swapped(self) -> None:
        """Warn if the network maps x to y much better than y to x (both of one shape)."""
        x, y = self.x[:LOOKED_AT], self.y[:LOOKED_AT]
        parts = (x, y, call_model(self.model, y), call_model(self.model, x))
        warn_if_swapped(*(part.double().flatten(1).cpu().numpy() for part in parts))

    @torch.no_grad()
    def precision_defect(self) -> float:
        """Largest distance of a residual to that of the float64 copy, on the unmoved samples."""
        if self.x.dtype == torch.float64:
            return 0.0
        defect = 0.0
        for part in self.batches():
            still = self.zeros()[part]
            own = self.moved(part).residuals(still[:, None, :])[:, 0].double()
            apart = squared_norm(own - self.exact_residuals(part, still))
            defect = max(defect, math.sqrt(float(apart.max())))
        return defect

    def scaled(self, displacement: Tensor, radius: float) -> Tensor:
        """The displacements with the whole budget spent (zero stays zero)."""
        cost = self.cost(displacement)
        if cost == 0.0:
            return displacement
        # a little inside, so that the recomputed cost is not above the budget by rounding
        return displacement * (radius * (1 - 1e-14) / math.sqrt(cost))
