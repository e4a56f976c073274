"""Structured distributionally robust optimisation for inverse problems: the exact core.

What may the adversary move (`structure`) -> the residual spectrum (`spectrum`) -> a
one-dimensional dual (`dual`) -> a certified worst-case risk (`worst_case`).
Importing this package loads numpy and scipy only.
"""

from dro_core import operators
from dro_core.auditing import Audit, BestLinear, RadiusSource, StructureAudit, audit
from dro_core.bounds import conservatism_gap, explicit_bound
from dro_core.budgets import (
    IndependentWorstCase,
    TwoBudgetCertificate,
    TwoBudgetFit,
    TwoBudgetWorstCase,
    WassersteinMMSE,
    fit_two_budgets,
    independent_worst_case,
    two_budget_worst_case,
    wasserstein_mmse,
)
from dro_core.checks import InfeasibleRadiusError
from dro_core.dual import DualSolution, minimize_quadratic_dual
from dro_core.entropic import (
    EntropicCertificate,
    EntropicWorstCase,
    adjusted_radius,
    entropic_worst_case,
    unadjusted_radius,
)
from dro_core.estimator import (
    CrossValidatedRadius,
    FitCertificate,
    LinearDRO,
    LinearFit,
    NotOptimalWarning,
    cross_validated_radius,
    fit_linear,
)
from dro_core.finite_support import (
    FiniteCertificate,
    FiniteWorstCase,
    finite_potential,
    finite_worst_case,
    quadratic_candidates,
)
from dro_core.growth import (
    GrowthBound,
    GrowthProfiles,
    SmoothedBound,
    SmoothedLosses,
    exceedance_bound,
    growth_bound,
    growth_dual,
    hockey_stick,
    mean_lower_bound,
    smoothed_bound,
)
from dro_core.noise import GaussianNoise, PoissonNoise, hull_candidates, noise_candidates
from dro_core.noise_training import NoiseTraining, ShapedNoise, shaped_noise
from dro_core.radii import (
    radius_for_gap,
    radius_from_rms,
    radius_of_noise,
    radius_of_operator_change,
    radius_of_poisson_noise,
    rms_from_radius,
)
from dro_core.sample_weights import (
    SampleWeightedReconstruction,
    SampleWeightedWorstCase,
    sample_weighted_worst_case,
)
from dro_core.spectrum import ResidualSpectrum
from dro_core.structure import (
    Joint,
    SignalNoise,
    Structure,
    XGivenY,
    XShift,
    YGivenX,
    YShift,
    admissible_candidates,
)
from dro_core.twist import TwistCertificate, TwistReport, twist_condition
from dro_core.unbalanced import (
    NotConvergedError,
    UnbalancedCertificate,
    UnbalancedGaussian,
    UnbalancedTransport,
    c_transform,
    semidual_value,
    unbalanced_gaussian,
    unbalanced_ot,
)
from dro_core.wasserstein import (
    ConditionalDistance,
    DistanceCertificate,
    GaussianDistance,
    RelaxedCurve,
    conditional_wasserstein,
    gaussian_conditional_wasserstein,
    relaxed_curve,
)
from dro_core.worst_case import (
    Certificate,
    LinearReconstruction,
    WorstCase,
    WorstCaseCurve,
    dual_value,
    worst_case_curve,
    worst_case_risk,
)

__version__ = "0.1.0"

__all__ = [
    "Audit",
    "BestLinear",
    "Certificate",
    "ConditionalDistance",
    "CrossValidatedRadius",
    "DistanceCertificate",
    "DualSolution",
    "EntropicCertificate",
    "EntropicWorstCase",
    "FiniteCertificate",
    "FitCertificate",
    "FiniteWorstCase",
    "GaussianDistance",
    "GaussianNoise",
    "GrowthBound",
    "GrowthProfiles",
    "IndependentWorstCase",
    "InfeasibleRadiusError",
    "Joint",
    "LinearDRO",
    "LinearFit",
    "LinearReconstruction",
    "NoiseTraining",
    "NotConvergedError",
    "NotOptimalWarning",
    "PoissonNoise",
    "RadiusSource",
    "RelaxedCurve",
    "ResidualSpectrum",
    "SampleWeightedReconstruction",
    "SampleWeightedWorstCase",
    "ShapedNoise",
    "SignalNoise",
    "SmoothedBound",
    "SmoothedLosses",
    "Structure",
    "StructureAudit",
    "TwoBudgetCertificate",
    "TwoBudgetFit",
    "TwoBudgetWorstCase",
    "TwistCertificate",
    "TwistReport",
    "UnbalancedCertificate",
    "UnbalancedGaussian",
    "UnbalancedTransport",
    "WassersteinMMSE",
    "WorstCase",
    "WorstCaseCurve",
    "XGivenY",
    "XShift",
    "YGivenX",
    "YShift",
    "adjusted_radius",
    "admissible_candidates",
    "audit",
    "c_transform",
    "conditional_wasserstein",
    "conservatism_gap",
    "cross_validated_radius",
    "dual_value",
    "entropic_worst_case",
    "exceedance_bound",
    "explicit_bound",
    "finite_potential",
    "fit_linear",
    "fit_two_budgets",
    "finite_worst_case",
    "gaussian_conditional_wasserstein",
    "growth_bound",
    "growth_dual",
    "hockey_stick",
    "hull_candidates",
    "independent_worst_case",
    "mean_lower_bound",
    "minimize_quadratic_dual",
    "noise_candidates",
    "operators",
    "quadratic_candidates",
    "radius_for_gap",
    "radius_from_rms",
    "radius_of_noise",
    "radius_of_operator_change",
    "radius_of_poisson_noise",
    "relaxed_curve",
    "rms_from_radius",
    "sample_weighted_worst_case",
    "semidual_value",
    "shaped_noise",
    "smoothed_bound",
    "twist_condition",
    "two_budget_worst_case",
    "unadjusted_radius",
    "unbalanced_gaussian",
    "unbalanced_ot",
    "wasserstein_mmse",
    "worst_case_curve",
    "worst_case_risk",
]
