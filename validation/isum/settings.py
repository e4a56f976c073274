"""Scales of the experiment with transport maps, and what can be set from the command line."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args

from dro_core.checks import unknown
from validation.errors import UsageError
from validation.isum.arms import COMPARISONS, MAIN
from validation.settings import Settings, setting

TASKS = ("deblur", "sr", "hdr", "nonlinear")
DATASETS = ("mnist", "cifar10", "caltech101")
Precision = Literal["float32", "bf16", "float64"]


@dataclass(frozen=True)
class Preset:
    """Sizes of one scale of the experiment."""

    dataset: str
    images: int  #: training images, measured and clean together
    validation: int
    test: int
    steps: int
    batch: int
    map: str | tuple[int, ...]  #: widths of the map
    potential: str | int  #: width of the potential
    rate: float  #: of the map; the potential's is half of it
    seeds: int
    factors: tuple[float, ...]  #: of the scale of the cost, tried by every arm
    comparisons: tuple[str, ...]
    targets: bool  #: whether results are judged, or shown for information
    tuning: float = 1.0  #: share of the steps for which a factor is tried; 1: the arm itself
    channels_last: bool = False  #: memory format of images and kernels
    penalty: float = 1.0  #: of R1, in units of the rule for the size of the images


#: What can be set by hand.
FIELDS = [entry.name for entry in dataclasses.fields(Preset) if entry.name != "targets"]
PRESETS = {
    "smoke": Preset("mnist", 48, 4, 6, 2, 4, (2, 4), 2, 1e-3, 1, (0.1,), MAIN, False),
    "quick": Preset("mnist", 4000, 128, 500, 250, 16, "small", 8, 1e-3, 1, (0.03,), MAIN, False),
    "desk": Preset(
        "cifar10",
        5000,
        200,
        500,
        1000,
        16,
        (16, 32),
        8,
        5e-4,
        3,
        (1.0, 0.3, 0.1, 0.03),
        ("main", "baselines"),
        True,
        0.2,
        True,
        30.0,
    ),
    "standard": Preset(
        "cifar10",
        40000,
        1000,
        2000,
        12000,
        32,
        "32",
        "32",
        2e-4,
        3,
        (1.0, 0.3, 0.1, 0.03),
        tuple(COMPARISONS),
        True,
    ),
}


@dataclass(frozen=True)
class Config(Settings):
    """What can be set from the command line; 0 and "" leave the preset's value."""

    preset: str = setting("quick", f"size: {', '.join(PRESETS)}", choices=PRESETS)
    task: str = setting("deblur", f"measurement: {', '.join(TASKS)}", choices=TASKS)
    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    models: str = setting(
        "", "folder of trained arms to use and extend; default: the output folder", folder=True
    )
    dataset: str = setting(
        "", f"images: {', '.join(DATASETS)} (64² for the last)", choices=DATASETS, unset=""
    )
    source: str = setting("jpeg60k", "files of cifar10's training images; see dro_torch.data")
    pairing: str = setting(
        "disjoint", "unpaired pools: disjoint halves, or the same images shuffled"
    )
    noise: float = setting(0.05, "standard deviation of the noise, images in [-1, 1]", low=0)
    blur: float = setting(1.5, "standard deviation of the blur in pixels", low=0)
    operator: str = setting(
        "", "forward operator of the task nonlinear: a TorchScript file, or module:name"
    )
    factors: str = setting("", "factors of the cost's scale that every arm tries: 1,0.3,0.1")
    comparisons: str = setting("", f"parts to run: {','.join(COMPARISONS)}")
    steps: int = setting(0, "iterations of every arm", low=1, unset=0)
    images: int = setting(0, "training images", low=1, unset=0)
    test: int = setting(0, "test images", low=1, unset=0)
    batch: int = setting(0, "images in a batch", low=1, unset=0)
    seeds: int = setting(0, "trainings of every arm", low=1, unset=0)
    rate: float = setting(0.0, "learning rate of the map", low=0)
    device: str = setting("cpu", "torch device")
    precision: str = setting("float32", "float32 or bf16", choices=get_args(Precision))
    penalty: float = setting(0.0, "R1 penalty in units of the rule for the size", low=0)
    final_penalty: float = setting(
        1.0, "share of the R1 penalty that is left at the end of a run", low=0, high=1
    )
    potential_bf16: bool = setting(
        False, "convolutions of the potential in bfloat16, its sums in float32"
    )
    faithful: bool = setting(
        False, "NOT's mean squared cost, OTUR's and RCOT's own optimiser and rates"
    )
    patience: int = setting(
        0, "validations without a better one after which an arm ends; 0: never", low=0
    )
    kid: int = setting(0, "test images for EffNet-Lite0 KID; 0: none", low=0)
    seed: int = setting(0, "first seed")
    jobs: int = setting(0, "processes of one thread that train arms side by side", low=0)
    threads: int = setting(1, "threads of torch: two wait for each other; 0: as it is", low=0)
    plan: bool = setting(False, "print the arms with the minutes they need; train nothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in self.size.comparisons:
            if part not in COMPARISONS:
                raise UsageError(unknown("--set comparisons", part, COMPARISONS))
        if self.operator and self.task != "nonlinear":
            raise UsageError(
                f"--set operator: {self.operator} with task {self.task!r}; allowed: task nonlinear"
            )
        if not all(math.isfinite(factor) and factor > 0 for factor in self.size.factors):
            raise UsageError(f"--set factors: {self.factors}; allowed: numbers > 0")

    @property
    def size(self) -> Preset:
        """The preset with what was set by hand."""
        given = {name: getattr(self, name) for name in FIELDS if getattr(self, name, None)}
        if self.factors:
            try:
                given["factors"] = tuple(float(word) for word in self.factors.split(","))
            except ValueError:
                raise UsageError(f"--set factors: {self.factors!r}; as in 1,0.3,0.1") from None
        if self.comparisons:
            given["comparisons"] = tuple(self.comparisons.split(","))
        return dataclasses.replace(PRESETS[self.preset], **given)
