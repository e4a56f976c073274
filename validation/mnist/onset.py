"""Where the claims of §6.3 begin to hold: every noise of the baseline against every ε.

The paper does not say with how much noise its baseline is trained. Here the baseline is trained
with every noise of a range, and the entropic loss with every ε of one whose own noise √(ε/2) the
range contains: one table says against which baselines the claims hold, and whether the loss adds
anything to its noise at any ε. Measured on validation images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from validation.experiment import Claim
from validation.figures import drawing, series
from validation.mnist.arms import Arm, Trained
from validation.mnist.deblurring import TASK
from validation.mnist.measure import GAUSSIAN, largest_ratio, ratio
from validation.mnist.settings import Config
from validation.mnist.study import ImageStudy
from validation.mnist.tasks import Splits
from validation.tables import Tables

__all__ = ["Config", "run"]

#: Standard deviations of the baseline's noise, and of the noise √(ε/2) of the entropic loss.
NOISES, OWN = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4)
#: Of the loss that the claims are about: ε = 0.08, as chosen on validation images.
CHOSEN = 0.2


def mse(noise: float) -> str:
    """Name of a baseline."""
    return f"MSE {noise:g}"


def dro(noise: float) -> str:
    """Name of the arm of an ε, by its noise √(ε/2)."""
    return f"DRO {noise:g}"


class Onset(ImageStudy):
    """All pairs of a baseline's noise and an ε."""

    name, task, figure, examples = "mnist onset", TASK, "onset", False

    def tuned(self, config: Config, data: Splits, out: Path) -> Config:
        """Nothing is chosen: everything is shown."""
        return config

    def extra(self, config: Config) -> list[Arm]:
        """Nothing is trained beside."""
        return []

    def declared(self, config: Config) -> list[Arm]:
        """Baselines, then the entropic loss."""
        return [
            *(Arm(mse(noise), "mse", noise=noise) for noise in NOISES),
            *(Arm(dro(own), "entropic", epsilon=2 * own**2, radius=config.radius) for own in OWN),
        ]

    def measures(self, config: Config, data: Splits, arms: Sequence[Trained]) -> Tables:
        """On validation images."""
        return super().measures(config, data._replace(test=data.check), arms)

    def claims(self, config: Config, measured: Tables) -> list[Claim]:
        """The paper's, against every baseline; the control, at every ε."""
        rows, low, top = measured["gaussian"], GAUSSIAN[0], GAUSSIAN[-1]
        found = []
        for noise in NOISES:
            pair = dro(CHOSEN), mse(noise)
            found += [
                Claim(
                    f"baseline at noise {noise:g}: RMSE at the top noise, DRO / MSE",
                    *ratio(rows, *pair, top),
                    high=0.9,
                ),
                Claim(
                    f"baseline at noise {noise:g}: RMSE without noise, DRO / MSE",
                    *ratio(rows, *pair, low),
                    high=1.1,
                ),
                Claim(
                    f"baseline at noise {noise:g}: stability, DRO / MSE, largest over the noise",
                    largest_ratio(rows, *pair),
                    0.0,
                    high=1.0,
                ),
            ]
        for own in OWN:
            found += [
                Claim(
                    f"own noise {own:g}: RMSE {where}, DRO / MSE at matched noise",
                    *ratio(rows, dro(own), mse(own), level),
                    high=1.0,
                )
                for where, level in (("at the top noise", top), ("without noise", low))
            ]
        return found

    def plots(
        self, config: Config, data: Splits, arms: Sequence[Trained], measured: Tables, out: Path
    ) -> None:
        """Error at the top noise and without, against the noise that was trained with."""
        rows = measured["gaussian"]
        shown = ((GAUSSIAN[-1], f"under noise {GAUSSIAN[-1]:g}"), (GAUSSIAN[0], "without noise"))
        with drawing(out / self.figure, 2, height=2.9) as (_, axes):
            for axis, (level, title) in zip(axes[0], shown, strict=True):
                for k, (kind, name, noises) in enumerate((("MSE", mse, NOISES), ("DRO", dro, OWN))):
                    at = [next(r for r in rows if (r["arm"], r["level"]) == (name(s), level))
                          for s in noises]  # fmt: skip
                    mean, band = ([float(r[key]) for r in at] for key in ("rmse", "rmse_sd"))
                    axis.errorbar(noises, mean, band, capsize=2, label=kind, **series(k))
                axis.set(xlabel="noise in training, of DRO: √(ε/2)", ylabel=f"RMSE {title}")
            axes[0, 0].legend()


run = Onset().run
