"""Bicubic upsampling, shared by transport maps and their cost."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_positive_integer


class BicubicUpsampling(nn.Module):
    """Q: images `factor` times as large in both directions, bicubic, pixel centres aligned.

    Used by `dro_torch.LikelihoodCost` and the global residual of `dro_torch.nets.TransportMap`.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = as_positive_integer(factor, "upsample")

    def forward(self, y: Tensor) -> Tensor:
        """(N, channels, height, width) to (N, channels, factor height, factor width)."""
        if self.factor == 1:
            return y
        return functional.interpolate(
            y, scale_factor=float(self.factor), mode="bicubic", align_corners=False
        )

    def extra_repr(self) -> str:
        return f"factor={self.factor}"
