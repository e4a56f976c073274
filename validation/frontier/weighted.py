"""The frontier for a weighted ball: a quarter of the measurements is known to be unreliable."""

from __future__ import annotations

import torch
from torch import Tensor

from validation.experiment import Claim
from validation.frontier.arms import ENTROPIC, JITTER, SHAPED, WASSERSTEIN
from validation.frontier.settings import Config
from validation.frontier.study import Frontier, against, paired
from validation.mnist.settings import Config as DigitConfig
from validation.mnist.tasks import SIDE, Task, unet
from validation.tables import Tables

__all__ = ["Config", "run"]

#: Weight of a trusted measurement; one of an unreliable measurement is 1.
TRUSTED = 100.0


def trusted(side: int = SIDE) -> Tensor:
    """Every fourth pixel along the diagonals is unreliable."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.where((row + column) % 4 == 0, 1.0, TRUSTED)


class Weighted(Frontier):
    """Moving a trusted measurement costs a hundred times as much."""

    name = "frontier weighted"
    task = Task("frontier", unet, weight=trusted(), lowest_multiplier=1e-3)
    target, weighted, rival, goal = 4.0, True, SHAPED, 0.95

    def claims(self, config: DigitConfig, measured: Tables) -> list[Claim]:
        """The shape of the noise alone, then what the losses of the ball add."""
        rows, target = measured["subsets"], self.radius(config)
        return [
            *against(rows, SHAPED, JITTER, target, 0.6),
            *(
                Claim(
                    f"RMSE under attack at the target radius, {arm} / {SHAPED}",
                    *paired(rows, arm, SHAPED, target, "attack_rmse"),
                    high=self.goal,
                )
                for arm in (WASSERSTEIN, ENTROPIC)
            ),
            *super().claims(config, measured),
        ]


run = Weighted().run
