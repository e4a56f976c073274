r"""Worst cases of maps of which only bounds are known: growth profiles.

A profile bounds the residual of one sample by how far the sample moves,
:math:`\|r_i(v)\| \le h_i(\|v\|)`; sample by sample, weak duality turns profiles into a bound on the
worst-case risk over the ball (docs, "Growth profiles"). In go Lipschitz constants, local bounds and
ranges, or draws of a smoothed map (`smoothing`); out comes a number that no law of the ball
exceeds, with the multiplier that proves it. Below are the checks of `dro_core`; above are the
certificates of networks in `dro_torch.certify`.
"""

from dro_core.growth.dual import GrowthBound, growth_bound, growth_dual
from dro_core.growth.profiles import GrowthProfiles
from dro_core.growth.smoothing import (
    SmoothedBound,
    SmoothedLosses,
    exceedance_bound,
    hockey_stick,
    mean_lower_bound,
    smoothed_bound,
)

__all__ = [
    "GrowthBound",
    "GrowthProfiles",
    "SmoothedBound",
    "SmoothedLosses",
    "exceedance_bound",
    "growth_bound",
    "growth_dual",
    "hockey_stick",
    "mean_lower_bound",
    "smoothed_bound",
]
