"""The paper's claims as differences of PSNR, with intervals over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dro_core.types import Array
from validation.experiment import Claim
from validation.isum.data import LEVELS, SHARES

#: Bootstrap samples of an interval.
RESAMPLES = 2000


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


def verdict(judged: Claim) -> str:
    """Whether the claim's interval lies on one side of zero."""
    if abs(judged.value) <= judged.band:
        return "undecided"
    return "holds" if judged.holds else "does not hold"


def claims_of(
    parts: Sequence[str], noise: float, values: Mapping[tuple[str, float], Array], half: Array
) -> list[Claim]:
    """Claims of the paper and controls, as differences of PSNR in decibels.

    The values are those of every arm at every level; `half` is each image's half of the classes.
    """

    def difference(one: str, other: str, level: float = noise) -> Array:
        return values[one, level] - values[other, level]

    found = []
    if "main" in parts:
        found.append(claim("control: ISUM over the measurement", difference("ISUM", "measurement")))
        if ("Wiener", noise) in values:
            found.append(claim("control: ISUM over Wiener", difference("ISUM", "Wiener")))
        found.append(claim("ISUM over its OT variant", difference("ISUM", "OT variant")))
        for term in ("quadratic only", "likelihood only"):
            title = f"both terms over {term}, matched total cost"
            found.append(claim(title, difference("ISUM", term)))
    if "paper-scale" in parts:
        for term in ("quadratic only", "likelihood only"):
            one, other = (f"{name}, paper scale" for name in ("ISUM", term))
            found.append(claim(f"both terms over {term}, paper's scale", difference(one, other)))
    if "imbalance" in parts:
        gained = difference("ISUM, imbalanced", "OT, imbalanced")
        found.append(claim("class imbalance: ISUM over OT", gained))
        for which, name in ((0, "frequent"), (1, "rare")):
            if (half == which).any():
                title = f"class imbalance, classes {name} among measurements: ISUM over OT"
                found.append(claim(title, gained[:, half == which]))
    if "levels" in parts:
        gains = [difference("ISUM, levels", "OT, levels", level) for level in LEVELS]
        mixed = np.average(np.stack(gains), axis=0, weights=SHARES)
        found.append(claim("multi-level noise, mean over levels 4:3:2:1: ISUM over OT", mixed))
        found.append(claim("multi-level noise, noisiest level: ISUM over OT", gains[-1]))
    return found
