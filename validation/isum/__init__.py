"""Learned unbalanced transport maps on images: ISUM, its OT variant, single cost terms, floors.

All arms share networks, data, steps and a tuning budget over the scale of the cost, chosen on
validation images. The ablations run at matched total cost (twice the scale for a single term) and,
where the preset says so, at the paper's fixed scale. Every training is a run of its own in a folder
of its own: an experiment that was killed goes on where it was.

It shows the paper's claims about ISUM against its OT variant, its single terms and the methods NOT,
OTUR and RCOT, under class imbalance, mixed noise and noise of other kinds. In go image files and
the settings; out come trained maps, scores of every arm and floor, figures and claims. `settings`
knows `arms` (the comparisons), then come `data`, `spectrum`, `floors`, `objectives`, `training`,
`claims`, `generalisation`, `judge`, `drift`, `scores` and `plots`, and `study` hands them to the
runner `validation.experiment`; below is `dro_torch`.
"""

from validation.isum.arms import COMPARISONS, LEVELLED, MAIN, Arm
from validation.isum.claims import claim, claims_of, interval
from validation.isum.data import LEVELS, Pools, blur_spectrum, load_images, measurement
from validation.isum.floors import first_guess, floors, linear_map, wiener
from validation.isum.generalisation import kinds_of_noise
from validation.isum.objectives import objective
from validation.isum.settings import PRESETS, Config
from validation.isum.study import TWIST, run
from validation.isum.training import Run, description

__all__ = [
    "COMPARISONS",
    "LEVELLED",
    "LEVELS",
    "MAIN",
    "PRESETS",
    "TWIST",
    "Arm",
    "Config",
    "Pools",
    "Run",
    "blur_spectrum",
    "claim",
    "claims_of",
    "description",
    "first_guess",
    "floors",
    "interval",
    "kinds_of_noise",
    "linear_map",
    "load_images",
    "measurement",
    "objective",
    "run",
    "wiener",
]
