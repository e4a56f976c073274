"""The learning rates and averages of a run: functions of the step alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dro_core.checks import as_count, as_non_negative, as_positive_integer, check_option

SCHEDULES = ("cosine", "constant")


def rate_factor(
    step: int,
    steps: int,
    *,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup: int = 0,
    final: float = 0.0,
) -> float:
    r"""Factor of the learning rates: linear warm-up, then cosine annealing or a constant.

    .. math::
        \eta_s = \frac{s+1}{W+1}\ (s < W),\qquad
        \eta_s = \eta_\infty + \frac{1-\eta_\infty}{2}
                 \Bigl(1 + \cos\frac{\pi (s-W)}{S-W}\Bigr)\ (s \ge W)

    Parameters
    ----------
    step, steps : int
        s, from 0, and the number of steps S.
    schedule : {"cosine", "constant"}
        Constant: one after the warm-up.
    warmup : int
        Number of warm-up steps W, 0 <= W < S.
    final : float
        Factor :math:`\eta_\infty` in [0, 1] towards which the cosine falls.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        For an unknown schedule or numbers out of their range.

    Notes
    -----
    Source: DRO paper, section 6.1.3 (its rates are not readable in the text; these are arguments).

    Examples
    --------
    >>> [round(rate_factor(s, 6, warmup=2), 3) for s in range(6)]
    [0.333, 0.667, 1.0, 0.854, 0.5, 0.146]
    """
    steps, warmup = as_positive_integer(steps, "steps"), as_count(warmup, "warmup")
    check_option(schedule, "schedule", SCHEDULES)
    if warmup >= steps:
        raise ValueError(f"warmup: {warmup}; allowed: fewer than the {steps} steps of the run")
    final, step = as_non_negative(final, "final_rate"), as_count(step, "step")
    if final > 1:
        raise ValueError(f"final_rate: {final}; allowed: a number in [0, 1]")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return final + (1 - final) * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def ema_decay(step: int, decay: float) -> float:
    r"""Decay of the exponential moving average after `step` steps: :math:`\min(d, (1+s)/(10+s))`.

    .. math:: \bar\theta_s = d_s\,\bar\theta_{s-1} + (1 - d_s)\,\theta_s,\qquad
              \bar\theta_0 = \theta_0

    The smaller decay at the beginning keeps the initial parameters out of the average of a short
    run.

    Parameters
    ----------
    step : int
        Steps done, >= 1.
    decay : float
        Largest decay d in [0, 1).

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        For numbers out of their range.

    Examples
    --------
    >>> [round(ema_decay(s, 0.999), 3) for s in (1, 90, 10_000)]
    [0.182, 0.91, 0.999]
    """
    largest, done = as_non_negative(decay, "decay"), as_count(step, "step")
    if largest >= 1:
        raise ValueError(f"decay: {decay}; allowed: a number in [0, 1)")
    return min(largest, (1 + done) / (10 + done))


@dataclass(frozen=True)
class Schedule:
    """`rate_factor` of a run of so many steps."""

    steps: int
    schedule: Literal["cosine", "constant"]
    warmup: int
    final: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", as_positive_integer(self.steps, "steps"))
        self(0)

    def __call__(self, step: int) -> float:
        """Factor of the learning rates in a step."""
        return rate_factor(
            step, self.steps, schedule=self.schedule, warmup=self.warmup, final=self.final
        )

    def describe(self) -> dict[str, object]:
        """Plain values that a resumed run must share: a constant rate knows no last step."""
        rates: dict[str, object] = {
            "schedule": self.schedule,
            "warmup": self.warmup,
            "final": self.final,
        }
        return rates | ({"steps": self.steps} if self.schedule == "cosine" else {})
