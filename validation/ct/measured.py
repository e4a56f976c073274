"""Measured data: networks trained on simulated slices, on phantoms in their own geometry.

The acrylic disks with holes of the Helsinki Tomography Challenge 2022. The network sees the
filtered back-projection at the resolution that it was trained at, scaled so that acrylic has the
value of soft tissue; what it gives is cut at half of that and compared with the published mask.
Nothing was trained on such objects or this scanner: how far that carries is what is measured.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dro_torch import data
from dro_torch.tomography import CoverageWarning, FanBeamFBP, FanBeamGeometry
from validation.ct.scanner import Reconstruction
from validation.tables import Row

#: Phantom, and degrees of the scan that are used; the whole of "tb" are 279 degrees.
SCANS = {"tb, whole": ("tb", 360.0), "tb, 90 degrees": ("tb", 90.0), "ta, 60 degrees": ("ta", 60.0)}
#: Value of soft tissue in slices, which acrylic is given.
TISSUE = 0.5


def limited(scan: data.FanBeamScan, degrees: float) -> data.FanBeamScan:
    """The views within so many degrees from the first."""
    kept = (scan.angles - scan.angles[0]).abs() <= math.radians(degrees)
    return dataclasses.replace(scan, sinogram=scan.sinogram[kept], angles=scan.angles[kept])


def image_of(scan: data.FanBeamScan, side: int) -> Tensor:
    """Filtered back-projection (1, 1, side, side) in which acrylic has the value of tissue."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CoverageWarning)  # what is missing is the subject
        fbp = FanBeamFBP(FanBeamGeometry.from_scan(scan, image_size=side))
    image: Tensor = fbp(scan.sinogram[None, None])
    bright = image[image > 0.5 * image.max()]
    return TISSUE * image / bright.median()


@dataclass(frozen=True)
class Phantom:
    """A scan of a phantom: its filtered back-projection, and the published mask."""

    name: str
    image: Tensor  #: (1, 1, side, side)
    mask: Tensor  #: (height, width)

    def restored(self, model: nn.Module) -> Tensor:
        """What a network makes of the image; other maps leave it as it is."""
        if not isinstance(model, Reconstruction):
            return self.image
        place = next((p.device for p in model.parameters()), torch.device("cpu"))
        with torch.no_grad():
            return model.restore(self.image.to(place)).cpu()


def phantoms(side: int, root: str) -> list[Phantom]:
    """Every scan at a resolution; none without ``htc2022_real_sinograms.npz``."""
    if not (data.data_root(root or None) / "htc2022_real_sinograms.npz").exists():
        return []
    found = []
    for name, (phantom, degrees) in SCANS.items():
        scan = limited(data.htc2022(phantom, root=root or None), degrees)
        if scan.mask is not None:
            found.append(Phantom(name, image_of(scan, side), scan.mask))
    return found


def overlap(image: Tensor, mask: Tensor) -> float:
    """Intersection over union of what is brighter than half of tissue with the mask."""
    found = image[0, 0] > 0.5 * TISSUE
    truth = nn.functional.adaptive_avg_pool2d(mask[None, None].float(), found.shape[-1])[0, 0] > 0.5
    return float((found & truth).sum()) / max(1.0, float((found | truth).sum()))


def measured_rows(models: Mapping[str, nn.Module], scans: Sequence[Phantom]) -> list[Row]:
    """IoU of every network on every scan."""
    return [
        {"arm": arm, "scan": scan.name, "iou": overlap(scan.restored(model), scan.mask)}
        for scan in scans
        for arm, model in models.items()
    ]
