"""Independent oracles: slow, general, and sharing no code with what they check.

(The semidefinite programme is the same strong dual, with the matrices C of the structures built
anew from their definitions; the linear programmes and distances share not even a theorem.)
The worst case on a finite support as a linear programme (HiGHS, or any solver of cvxpy), the
worst case of a linear map and the best one as semidefinite programmes (Clarabel), the best choice
without mixing as a multiple-choice knapsack (HiGHS' branch and bound), Wasserstein distances by
POT's network simplex. For tests and validation; the solvers of `dro_core` are exact and 100 to
10,000 times faster. cvxpy and POT are imported when first needed.

In comes what a solver gets, out goes a value with no shared code behind it. Above: tests and
validation only; below: cvxpy, HiGHS, POT.
"""

from dro_core.reference.entropic import MonteCarloEstimate, entropic_dual_monte_carlo
from dro_core.reference.estimator import ReferenceFit, fit_linear_sdp
from dro_core.reference.finite import (
    PureChoice,
    ReferenceSolution,
    finite_worst_case_cvxpy,
    finite_worst_case_highs,
    finite_worst_case_pure,
)
from dro_core.reference.mmse import (
    FrankWolfeMMSE,
    joint_mmse_frank_wolfe,
    wasserstein_mmse_frank_wolfe,
)
from dro_core.reference.unbalanced import UnbalancedReference, unbalanced_ot_cvxpy, unbalanced_ot_mm
from dro_core.reference.wasserstein import (
    conditional_wasserstein_lp,
    conditional_wasserstein_pot,
    wasserstein_pot,
)
from dro_core.reference.worst_case import worst_case_risk_sdp

__all__ = [
    "FrankWolfeMMSE",
    "MonteCarloEstimate",
    "PureChoice",
    "ReferenceFit",
    "ReferenceSolution",
    "UnbalancedReference",
    "conditional_wasserstein_lp",
    "conditional_wasserstein_pot",
    "entropic_dual_monte_carlo",
    "finite_worst_case_cvxpy",
    "finite_worst_case_highs",
    "finite_worst_case_pure",
    "fit_linear_sdp",
    "unbalanced_ot_cvxpy",
    "unbalanced_ot_mm",
    "joint_mmse_frank_wolfe",
    "wasserstein_mmse_frank_wolfe",
    "wasserstein_pot",
    "worst_case_risk_sdp",
]
