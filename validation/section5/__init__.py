"""Section 5: how conservative is joint DRO? Both bounds, exact worst cases, finite support.

Two inverse problems with a hand-made inverse B, swept through their ill-posedness (paper §5.1):

* diagonal: A = diag(k^-decay), B = A^-1, so the fidelity M is zero and L = n^decay;
* heat: the periodic heat flow, B its Tikhonov-regularised inverse, so M > 0 without any noise.

At every point of the sweep: L, M, the bounds of Theorems 4.1 and 4.2 and their gap; beside them the
exact worst-case risks (which the bounds exceed), the optimum on a finite support (which they exceed
in turn), and by optimal transport the distance of the worst-case law from the data.

In go the settings (signals are drawn); out come a table per sweep, figures of the gap and the
risks, and checks of theorems, certificates and oracles. `settings` and `problems` are at the
bottom, then `claims` and `plots`, on top `experiment`; below is `dro_core`.
"""

from dro_core import conservatism_gap
from validation.section5.experiment import run
from validation.section5.problems import heat_sweep, signals
from validation.section5.settings import Config

__all__ = ["Config", "conservatism_gap", "heat_sweep", "run", "signals"]
