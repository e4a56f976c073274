"""The paper's claims as differences of PSNR, with intervals over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dro_core.types import Array
from validation.experiment import Claim
from validation.isum.arms import COMPARISONS
from validation.isum.data import LEVELS, SHARES
from validation.tables import Row

#: Bootstrap samples of an interval.
RESAMPLES = 2000
#: What claims call the floors.
FLOORS = {
    "measurement": "the measurement",
    "Wiener": "Wiener",
    "TV": "TV",
    "linear": "the best linear map",
}
#: By how much the last validation may be below the best one, in dB.
LARGEST_DRIFT = -0.3


def interval(values: Array, seed: int = 0) -> tuple[float, float, float]:
    """Mean of (seeds, images) and 95 % bootstrap interval over both; of images for one seed."""
    rng = np.random.default_rng(seed)
    rows, columns = (  # how often each seed and each image is drawn
        rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in values.shape
    )
    means = ((rows @ values) * columns).sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def claim(title: str, difference: Array) -> Claim:
    """A claim that a difference of (seeds, images) has a mean above zero."""
    mean, low, high = interval(difference)
    return Claim(title, mean, (high - low) / 2, low=0.0)


class Judged(Protocol):
    """What the claims are made from: see `validation.isum.scores.Scores`."""

    @property
    def values(self) -> Mapping[tuple[str, float], Array]:
        """PSNR of every test image by (arm, level)."""

    @property
    def half(self) -> Array:
        """Half of the classes of every test image."""

    @property
    def after_best(self) -> Sequence[Row]:
        """Every arm at its best and at its last step: see `validation.isum.drift`."""

    @property
    def drift(self) -> Mapping[str, Sequence[float]]:
        """Last less best validation PSNR of every training, by arm."""


def claims_of(parts: Sequence[str], noise: float, scores: Judged) -> list[Claim]:
    """Claims of the paper and controls, as differences of PSNR in decibels."""
    difference = Differences(scores.values, noise)
    found = []
    if "main" in parts:
        found += _main(difference)
    if "from-linear" in parts:
        found += _from_linear(difference)
    if "baselines" in parts:
        found += _baselines(difference, parts)
    if "paper-scale" in parts:
        for term in ("quadratic only", "likelihood only"):
            one, other = (f"{name}, paper scale" for name in ("ISUM", term))
            found.append(claim(f"both terms over {term}, paper's scale", difference(one, other)))
    if "imbalance" in parts:
        gained = difference("ISUM, imbalanced", "OT, imbalanced")
        found.append(claim("class imbalance: ISUM over OT", gained))
        for which, name in ((0, "frequent"), (1, "rare")):
            if (scores.half == which).any():
                title = f"class imbalance, classes {name} among measurements: ISUM over OT"
                found.append(claim(title, gained[:, scores.half == which]))
    if "levels" in parts:
        found += _levels(
            difference, "ISUM, levels", "OT, levels", "multi-level noise", "ISUM over OT"
        )
    if "blind-levels" in parts:
        for method in ("NOT", "OTUR"):
            found += _levels(
                difference,
                "quadratic only, levels",
                f"{method}, levels",
                "multi-level noise, unknown operator",
                f"unbalanced over {method}",
            )
    if "starvation" in parts:
        for arm in COMPARISONS["starvation"][1:]:
            title = f"{arm.name.removeprefix('levels, ')} over scale 1"
            found += _levels(difference, arm.name, "levels, scale 1", "starvation", title)
    if "main" in parts:
        found += _towards(scores.after_best)
    return [*found, *drifts(scores.drift)]


def drifts(drift: Mapping[str, Sequence[float]]) -> list[Claim]:
    """The last validation against the best one: that of ISUM, and the worst of all arms."""
    named = ("ISUM", "ISUM, levels", "ISUM from linear")
    own = [value for name in named for value in drift.get(name, ())]
    every = [value for values in drift.values() for value in values]
    titles = (("ISUM", own), ("every arm", every))
    return [
        Claim(f"drift, {name}: last over best validation", min(values), 0.0, low=LARGEST_DRIFT)
        for name, values in titles
        if values
    ]


def _towards(rows: Sequence[Row]) -> list[Claim]:
    """Whether the last map's spectrum is nearer to that of clean images than the best one's."""
    found = []
    for name in (arm.name for arm in COMPARISONS["main"]):
        ends = {
            at: np.array([float(r["mismatch"]) for r in rows if (r["arm"], r["at"]) == (name, at)])
            for at in ("best", "last")
        }
        if len(ends["best"]):
            moved = float((ends["last"] - ends["best"]).mean())
            title = f"after its best step {name} goes on towards the clean spectrum, mismatch"
            found.append(Claim(title, moved, 0.0, high=0.0))
    return found


@dataclass(frozen=True)
class Differences:
    """PSNR of one arm less that of another, (seeds, images); at `noise` if no level is given."""

    values: Mapping[tuple[str, float], Array]
    noise: float

    def __call__(self, one: str, other: str, level: float | None = None) -> Array:
        """At one level."""
        where = self.noise if level is None else level
        return self.values[one, where] - self.values[other, where]


def _over_floors(difference: Differences, arm: str, title: str) -> list[Claim]:
    """An arm over every floor that the task has."""
    return [
        claim(f"{title} over {name}", difference(arm, floor))
        for floor, name in FLOORS.items()
        if (floor, difference.noise) in difference.values
    ]


def _main(difference: Differences) -> list[Claim]:
    found = _over_floors(difference, "ISUM", "control: ISUM")
    found.append(claim("ISUM over its OT variant", difference("ISUM", "OT variant")))
    for term in ("quadratic only", "likelihood only"):
        title = f"both terms over {term}, matched total cost"
        found.append(claim(title, difference("ISUM", term)))
    return found


def _from_linear(difference: Differences) -> list[Claim]:
    """Maps that correct the best linear reconstruction, over that one and over each other."""
    found = _over_floors(difference, "ISUM from linear", "ISUM from the linear floor")
    for arm in ("OT", "likelihood only"):
        gained = difference("ISUM from linear", f"{arm} from linear")
        found.append(claim(f"from the linear floor: ISUM over {arm}", gained))
    return found


def _baselines(difference: Differences, parts: Sequence[str]) -> list[Claim]:
    """ISUM, which knows the operator, and its quadratic cost, which does not, over the blind."""
    found = []
    ours = [("ISUM", "ISUM"), ("unknown operator: quadratic only", "quadratic only")]
    for title, arm in ours if "main" in parts else ():
        for method in ("NOT", "OTUR", "RCOT"):
            found.append(claim(f"{title} over {method}", difference(arm, method)))
    for method in ("NOT", "OTUR", "RCOT"):
        gained = difference(method, "measurement")
        found.append(claim(f"control: {method} over the measurement", gained))
    return found


def _levels(difference: Differences, one: str, other: str, what: str, title: str) -> list[Claim]:
    """Over the levels in their shares, and at the noisiest."""
    gains = [difference(one, other, level) for level in LEVELS]
    mixed = np.average(np.stack(gains), axis=0, weights=SHARES)
    return [
        claim(f"{what}, mean over levels 4:3:2:1: {title}", mixed),
        claim(f"{what}, noisiest level: {title}", gains[-1]),
    ]
