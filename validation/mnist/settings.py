"""Scales of the MNIST experiments, and what can be set from the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from validation.settings import Settings, setting

Precision = Literal["float32", "bf16", "float64"]


@dataclass(frozen=True)
class Preset:
    """Sizes of one scale of the experiments."""

    images: int  #: training images
    validation: int
    test: int  #: test images from which every trial draws
    steps: int
    batch: int
    width: int
    depth: int
    samples: int  #: draws K of the entropic loss
    trials: int
    trial_images: int
    directions: int  #: of the stability
    attacked: int  #: images that are attacked and certified
    attack_radii: tuple[float, ...]  #: radius 2 among them
    targets: bool  #: whether claims are judged, or shown for information
    seeds: int = 1  #: trainings of every arm; claims are means over them
    channels_last: bool = False  #: memory format of images and kernels


#: What can be set by hand of a preset.
SIZES = (
    *("images", "validation", "test", "steps", "batch", "width", "depth", "samples"),
    *("trials", "trial_images", "attacked", "seeds"),
)
#: Memory formats of images and kernels.
LAYOUTS = ("contiguous", "channels-last")
#: Radii of the attacks.
RADII = (0.5, 1.0, 2.0, 4.0)
PRESETS = {
    "smoke": Preset(48, 16, 24, 3, 8, 2, 1, 2, 2, 8, 2, 4, (2.0,), False),
    "quick": Preset(4000, 256, 1000, 250, 32, 6, 2, 4, 5, 200, 10, 32, RADII, False),
    "desk": Preset(20000, 1000, 5000, 2000, 32, 16, 2, 4, 5, 500, 10, 64, RADII, True, 3, True),
    "standard": Preset(20000, 2000, 5000, 6000, 128, 24, 3, 8, 5, 1000, 10, 200, RADII, True, 2),
    "paper": Preset(50000, 10000, 10000, 40000, 128, 64, 4, 16, 10, 1000, 10, 1000, RADII, True, 2),
}


@dataclass(frozen=True)
class Config(Settings):
    """What can be set from the command line; 0 leaves the preset's value."""

    preset: str = setting("quick", f"size: {', '.join(PRESETS)}", choices=PRESETS)
    data: str = setting(
        "", "data root with mnist/; otherwise the environment variable DRO_DATA", folder=True
    )
    models: str = setting(
        "", "folder of trained arms to use and extend; default: the output folder", folder=True
    )
    select: bool = setting(False, "choose ε, ρ̄ and the baseline's noise on validation images")
    bisect: bool = setting(False, "train once with the paper's bisection of λ")
    frontier: bool = setting(False, "train the other losses too, at fixed λ")
    epsilon: float = setting(
        0.08, "entropy weight ε of the DRO arms, in squared units of the data", low=0, zero="0"
    )
    radius: float = setting(1.0, "adjusted radius ρ̄ of the DRO arms, in units of the data", low=0)
    noise: float = setting(
        0.1, "standard deviation of the noise that the MSE baseline trains with", low=0
    )
    steps: int = setting(0, "training steps of every arm", low=1, unset=0)
    width: int = setting(0, "channels of the U-Net at full resolution", low=1, unset=0)
    depth: int = setting(0, "levels of the U-Net below full resolution", low=1, unset=0)
    batch: int = setting(0, "images per step", low=1, unset=0)
    samples: int = setting(0, "draws K of the entropic loss", low=1, unset=0)
    images: int = setting(0, "training images", low=1, unset=0)
    validation: int = setting(0, "images that candidates are compared on", low=1, unset=0)
    test: int = setting(0, "test images that trials draw from", low=1, unset=0)
    trials: int = setting(0, "trials, at least two for a band", low=2, unset=0)
    trial_images: int = setting(0, "images of a trial", low=1, unset=0)
    attacked: int = setting(0, "images that are attacked", low=1, unset=0)
    seeds: int = setting(0, "trainings of every arm, with as many seeds", low=1, unset=0)
    rate: float = setting(2e-3, "largest learning rate")
    device: str = setting("cpu", "torch device")
    layout: str = setting("", f"memory format, {' or '.join(LAYOUTS)}", choices=LAYOUTS, unset="")
    precision: str = setting("float32", "float32 or bf16", choices=get_args(Precision))
    seed: int = setting(0, "seed, the first one where there are several")
    jobs: int = setting(0, "processes of one thread that train arms side by side", low=0)
    threads: int = setting(1, "threads of torch: two wait for each other; 0: as it is", low=0)
    plan: bool = setting(False, "print the arms with the minutes they need; train nothing")

    @property
    def size(self) -> Preset:
        """The preset with what was set by hand."""
        chosen = {name: getattr(self, name) for name in SIZES}
        if self.layout:
            chosen["channels_last"] = self.layout == "channels-last"
        return dataclasses.replace(
            PRESETS[self.preset],
            **{name: value for name, value in chosen.items() if value or name == "channels_last"},
        )
