r"""Signal and noise within a radius each: two budgets, exactly, by one number more.

The laws that spend at most :math:`\rho_x^2` on the signal and :math:`\rho_w^2` on the noise lie in
the ball of every single budget :math:`\|u\|^2 + t\|v\|^2 \le \rho_x^2 + t\rho_w^2`, and strong
duality makes the best of these balls exact,

.. math:: \mathcal R = \min_{t>0}\ \mathcal R_t,\qquad
          \mathcal R_t \text{ with weights } (1, t),\ \text{radius } \sqrt{\rho_x^2 + t\rho_w^2},

so worst case and fit are those of `SignalNoise`, at the t where the noise spends its own budget.
`wasserstein_mmse` is the variant of independent signal and noise, given by their second moments.

In come a forward model, data and two radii, out come certified answers. Above: validation; below:
structure, worst_case, estimator.
"""

from dro_core.budgets.fit import TwoBudgetFit, fit_two_budgets
from dro_core.budgets.independent import (
    IndependentWorstCase,
    WassersteinMMSE,
    independent_worst_case,
    wasserstein_mmse,
)
from dro_core.budgets.worst_case import (
    TwoBudgetCertificate,
    TwoBudgetWorstCase,
    two_budget_worst_case,
)

__all__ = [
    "IndependentWorstCase",
    "TwoBudgetCertificate",
    "TwoBudgetFit",
    "TwoBudgetWorstCase",
    "WassersteinMMSE",
    "fit_two_budgets",
    "independent_worst_case",
    "two_budget_worst_case",
    "wasserstein_mmse",
]
