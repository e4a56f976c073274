"""Scores of restored test images: the same for arms, floors and exact filters."""

from __future__ import annotations

import torch
from torch import Tensor

from dro_torch import metrics
from validation.tables import Row


class Judge:
    """PSNR and SSIM of restorations, and EffNet-Lite0 KID of the first `kid` images, if not zero.

    Restored images are compared with clean ones of other scenes: the next `kid`.
    """

    def __init__(self, x: Tensor, kid: int) -> None:
        self.x, self.half = x, min(kid, len(x) // 2)
        self.network = metrics.EfficientNetLite0((-1.0, 1.0)) if kid else None
        self.clean = self._features(x[self.half : 2 * self.half]) if kid else torch.empty(0)

    def _features(self, images: Tensor) -> Tensor:
        assert self.network is not None
        features: Tensor = self.network(images.cpu())
        return features

    def psnr(self, restored: Tensor) -> Tensor:
        """Of every image, in double precision."""
        return metrics.psnr(self.x, restored, 2.0).double().cpu()

    def row(self, restored: Tensor, *, kid: bool = True) -> Row:
        """Means over the images; KID is empty where it is not asked for."""
        found: Row = {"psnr": float(self.psnr(restored).mean())}
        found["ssim"] = float(metrics.ssim(self.x, restored, 2.0).mean())
        found["kid"] = ""
        if kid and self.network is not None:
            there, subset = self._features(restored[: self.half]), min(100, self.half)
            found["kid"] = float(metrics.kid(there, self.clean, subset).mean())
        return found
