"""Where the ball's shape pays: best noise against the exact optimum, for linear maps.

Ill-posed problems (random ones, and 14 x 14 MNIST under a blur) times balls (isotropic; every 4th
or 8th measurement unreliable, the others dearer by a factor; prices that vary smoothly) times
radii. For each the exact optimum of `fit_linear`, isotropic noise and noise of the ball's shape at
their best levels, the Jacobian penalty, which is the former, and Tikhonov; worst-case and clean
risk on the training samples and on held-out ones. And one exact frontier of clean against
worst-case risk, by convex optimisation with a certificate of its own.

In go the settings; out come a table per case, the frontier, two figures and checks. `settings` and
`problems` are at the bottom, then `arms`, `frontier` and `plots`, on top `experiment`; below is
`dro_core`.
"""

from validation.jittering.arms import compared
from validation.jittering.experiment import run
from validation.jittering.frontier import pareto_point
from validation.jittering.problems import Problem, balls, random_problem
from validation.jittering.settings import Config

__all__ = ["Config", "Problem", "balls", "compared", "pareto_point", "random_problem", "run"]
