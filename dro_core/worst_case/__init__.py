"""Worst-case risk of a fixed linear map over a structured Wasserstein ball, certified.

Quadratic loss, squared Euclidean transport cost. The value is exact (strong duality, paper
Theorems 3.1-3.3, solved by one eigendecomposition and one scalar equation), and every answer can
be recomputed from the worst-case law itself: see `WorstCase.verify`.

In come a map, samples, a structure and a radius, out goes a `WorstCase`. Above: entropic,
estimator, radii; below: spectrum, dual, quadrature.
"""

from dro_core.certificate import Certificate
from dro_core.worst_case.answer import WorstCase, WorstCaseCurve
from dro_core.worst_case.functions import dual_value, worst_case_curve, worst_case_risk
from dro_core.worst_case.problem import LinearReconstruction

__all__ = [
    "Certificate",
    "LinearReconstruction",
    "WorstCase",
    "WorstCaseCurve",
    "dual_value",
    "worst_case_curve",
    "worst_case_risk",
]
