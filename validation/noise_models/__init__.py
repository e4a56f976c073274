"""Example 2.1: Gaussian and Poisson families are not convex; their hulls close the duality gap.

The adversary knows the clean data a = Ax and chooses the noise: N(a, s²) with s in a range, or
Poisson(p a) / p with a photon count p in a range. Three versions of "chooses", from few to many:

* common: one noise level for the whole data set;
* own: every sample has its own level, but one only (the family as the paper writes it);
* hull: mixtures of levels, the closed convex envelope that Theorem 3.1 needs; equal to the dual.

For maps that are not linear the last two differ: soft-thresholding does not see small noise, so the
loss is a convex function of the transport cost and it pays to mix none with much. The gap is at
most one sample's weight times the range of its losses, hence it vanishes with the number of samples
(Shapley-Folkman). For linear maps a range of levels has no gap; a grid of it has, up to its step.

In go the settings (signals are drawn); out come sweeps over radii, sample sizes and grids, two
figures, and checks of order, duality and moments. `settings` and `families` are at the bottom, then
`choices` (who chooses what), `linear` (linear maps), `claims` and `plots`, on top `experiments`;
below is `dro_core`.
"""

from validation.noise_models.choices import best_choices, best_common, dual_values, gap_rows, sweep
from validation.noise_models.experiments import run
from validation.noise_models.families import (
    Table,
    family_by_variance,
    gaussian_table,
    poisson_table,
    variance_range,
)
from validation.noise_models.linear import linear_problem, monte_carlo
from validation.noise_models.settings import Config

__all__ = [
    "Config",
    "Table",
    "best_choices",
    "best_common",
    "dual_values",
    "family_by_variance",
    "gap_rows",
    "gaussian_table",
    "linear_problem",
    "monte_carlo",
    "poisson_table",
    "run",
    "sweep",
    "variance_range",
]
