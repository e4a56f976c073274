"""The frontier for an isotropic ball: all measurements are equally uncertain."""

from __future__ import annotations

from validation.frontier.arms import JITTER
from validation.frontier.settings import Config
from validation.frontier.study import Frontier
from validation.mnist.tasks import Task, unet

__all__ = ["Config", "run"]


class Isotropic(Frontier):
    """Radius 2: noise of standard deviation 0.07, all of it where it hurts."""

    name, task = "frontier isotropic", Task("frontier", unet, lowest_multiplier=0.01)
    target, weighted, rival, goal = 2.0, False, JITTER, 0.93


run = Isotropic().run
