"""Signals and measurements of one size that were passed in each other's place.

Nothing else can find that: every shape fits. In go a few samples and their images under the map,
both ways round, out comes a warning. Above: the worst cases here and `certify` of `dro_torch`.
"""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np

from dro_core.transport import squared_norms
from dro_core.types import Array

#: Samples that are looked at, and how few are no evidence.
LOOKED_AT, TOO_FEW = 32, 10
#: The exchanged fit is far better: its mean square is this share of the given one's at most, and it
#: leaves this share of the variance of what it fits at most.
SHARE = 0.1
#: While the given one explains so little: it leaves this share at least. A map made for a large
#: radius smooths like the blur that it inverts, and left a third where it was mistaken for one.
LEFT = 0.5
#: Packages whose lines a user has not written.
WITHIN = ("dro_core", "dro_torch", "torch")


class SwappedWarning(UserWarning):
    """The map fits much better with x and y exchanged."""


def warn_if_swapped(x: Array, y: Array, image_of_y: Array, image_of_x: Array) -> None:
    r"""Warn if B maps x to y much better than y to x.

    That is :math:`\|y - Bx\|^2 \le \tfrac1{10}\min(\|x - By\|^2, \operatorname{var} y)` in the mean
    and :math:`\|x - By\|^2 \ge \tfrac12\operatorname{var} x`, on ten samples or more.

    Parameters
    ----------
    x, y : (N, n) arrays
        Some samples, as they were given.
    image_of_y, image_of_x : (N, n) arrays
        By and Bx.
    """
    if len(x) < TOO_FEW:
        return
    with np.errstate(over="ignore", invalid="ignore"):  # NaN compares as no reason to warn
        given, exchanged = (
            float(squared_norms(part).mean()) for part in (x - image_of_y, y - image_of_x)
        )
        varied_x, varied_y = (
            float(squared_norms(part - part.mean(axis=0)).mean()) for part in (x, y)
        )
        far = exchanged <= SHARE * min(given, varied_y) and given >= LEFT * varied_x > 0
    if far and math.isfinite(given):
        warnings.warn(
            f"x, y: the map takes x to y with mean squared error {exchanged:.3g}, but y to x with "
            f"{given:.3g}; it should be the reconstruction of the signals x from the measurements "
            "y: are the two exchanged?",
            SwappedWarning,
            stacklevel=outside(),
        )


def outside() -> int:
    """The `stacklevel` of a warning at the first caller outside of these packages (and torch)."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] in WITHIN:
        frame, level = frame.f_back, level + 1
    return level
