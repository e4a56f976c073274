"""Sizes of the tomography experiments, and what can be set from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from validation.ct.scanner import Scanner
from validation.mnist.settings import Config as ImageConfig
from validation.mnist.settings import Preset
from validation.settings import setting

#: Photons in the open beam, per detector cell and view, from high to low dose.
DOSES = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0)
#: Share of the steps that a candidate is trained for.
TUNING_SHARE = 0.25

#: What differs from the presets of the digits: few slices, larger images.
SIZES: dict[str, dict[str, int]] = {
    "smoke": {"images": 8, "validation": 4, "test": 6, "steps": 2, "batch": 2, "samples": 2},
    "quick": {"images": 136, "validation": 8, "test": 64, "steps": 100, "batch": 4, "width": 8},
    "desk": {"images": 136, "validation": 8, "test": 64, "steps": 1000, "batch": 4, "depth": 3},
    "standard": {"images": 136, "validation": 8, "test": 64, "batch": 8, "width": 32},
    "paper": {"images": 136, "validation": 8, "test": 64, "batch": 8},
}
#: Pixels of a slice, views and cells of the scanner of every preset.
SCANNERS = {
    "smoke": Scanner(32, 24, 48),
    "quick": Scanner(96, 120, 144),
    "desk": Scanner(96, 120, 144),
    "standard": Scanner(256, 240, 384),
    "paper": Scanner(256, 360, 384),
}
#: Where slices and light come from.
DATASETS = ("slices", "2detect")
#: A trial's images and directions, trials, attacked images: every pass has a back-projection.
TRIAL_IMAGES, DIRECTIONS, TRIALS, ATTACKED = 16, 4, 3, 4
#: Radii of the attack, in the units of the transmission.
RADII = (0.1, 0.3)


@dataclass(frozen=True)
class Config(ImageConfig):
    """Doses and the settings of every family of losses; the tuned ones are overwritten."""

    data: str = setting(
        "",
        "data root with ct_axial_hu256.npz, or the folder with the slices of 2DeteCT; otherwise "
        "the environment variable DRO_DATA",
        folder=True,
    )
    dataset: str = setting(
        "slices",
        "slices: CT slices, simulated light; 2detect: measured light of high and low dose",
        choices=DATASETS,
    )
    references: str = setting(
        "",
        "2detect: folder with sliceNNNNN/mode2/reconstruction.tif, if not that of the sinograms",
        folder=True,
    )
    raw_views: int = setting(
        3601, "2detect: views of a stored sinogram, the repeated one included", low=3
    )
    raw_cells: int = setting(1912, "2detect: detector pixels of a stored sinogram", low=4)
    side: int = setting(0, "pixels on a side of a slice", low=4, unset=0)
    views: int = setting(0, "views of the scanner", low=2, unset=0)
    cells: int = setting(0, "cells of its detector", low=4, unset=0)
    dose: float = setting(3e3, "photons that the MSE baseline is trained with", above=0)
    image: float = setting(0.05, "standard deviation of the jitter of images", low=0)
    jitter: float = setting(0.02, "standard deviation of the isotropic jitter of light", low=0)
    shaped: float = setting(1.0, "level of the jitter shaped by the photons", low=0)
    entropic: float = setting(0.02, "noise √(ε/2) of the entropic loss", low=0)
    photon_entropic: float = setting(1.0, "the same in the weighted ball, in its units", low=0)
    ball: float = setting(0.2, "radius of the isotropic ball", low=0)
    photon_ball: float = setting(10.0, "radius of the weighted ball, in its units", low=0)

    @property
    def scanner(self) -> Scanner:
        """The preset's with what was set by hand."""
        names = ("side", "views", "cells")
        chosen = {name: value for name in names if (value := getattr(self, name))}
        return dataclasses.replace(SCANNERS[self.preset], **chosen)

    @property
    def size(self) -> Preset:
        """The preset of the digits at the sizes of slices."""
        size = super().size
        most = {
            "trials": min(TRIALS, size.trials),
            "trial_images": min(TRIAL_IMAGES, size.trial_images),
            "directions": min(DIRECTIONS, size.directions),
            "attacked": min(ATTACKED, size.attacked),
        }
        own: dict[str, Any] = {
            name: getattr(self, name, 0) or value  # set by hand
            for name, value in {**most, **SIZES[self.preset]}.items()
        }
        return dataclasses.replace(size, attack_radii=RADII, **own)


#: Candidates of every family that is tuned, equally many, by setting. The largest reach beyond the
#: noise of the lowest dose (100 photons: radius 8.5 in light, 415 by photons).
GRIDS: dict[str, tuple[float, ...]] = {
    "image": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "jitter": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    "shaped": (0.3, 1.0, 2.0, 4.0, 8.0, 16.0),
    "entropic": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
    "photon_entropic": (0.3, 1.0, 2.0, 4.0, 8.0, 16.0),
    "ball": (0.05, 0.1, 0.3, 1.0, 3.0, 10.0),
    "photon_ball": (2.0, 5.0, 15.0, 50.0, 150.0, 500.0),
}
