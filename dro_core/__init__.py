"""Structured distributionally robust optimisation for inverse problems: the exact core.

What may the adversary move (`structure`) -> the residual spectrum (`spectrum`) -> a
one-dimensional dual (`dual`) -> a certified worst-case risk (`worst_case`).
Importing this package loads nothing else: every name below loads its module when it is first asked
for, and those load numpy and scipy only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `_HOMES` says, for type checkers and editors
    from dro_core import operators as operators
    from dro_core.auditing import (
        Audit as Audit,
        BestLinear as BestLinear,
        RadiusSource as RadiusSource,
        StructureAudit as StructureAudit,
        audit as audit,
    )
    from dro_core.bounds import (
        conservatism_gap as conservatism_gap,
        explicit_bound as explicit_bound,
    )
    from dro_core.budgets import (
        IndependentWorstCase as IndependentWorstCase,
        TwoBudgetCertificate as TwoBudgetCertificate,
        TwoBudgetFit as TwoBudgetFit,
        TwoBudgetWorstCase as TwoBudgetWorstCase,
        WassersteinMMSE as WassersteinMMSE,
        fit_two_budgets as fit_two_budgets,
        independent_worst_case as independent_worst_case,
        two_budget_worst_case as two_budget_worst_case,
        wasserstein_mmse as wasserstein_mmse,
    )
    from dro_core.checks import InfeasibleRadiusError as InfeasibleRadiusError
    from dro_core.dual import (
        DualSolution as DualSolution,
        minimize_quadratic_dual as minimize_quadratic_dual,
    )
    from dro_core.entropic import (
        EntropicCertificate as EntropicCertificate,
        EntropicWorstCase as EntropicWorstCase,
        adjusted_radius as adjusted_radius,
        entropic_worst_case as entropic_worst_case,
        unadjusted_radius as unadjusted_radius,
    )
    from dro_core.estimator import (
        CrossValidatedRadius as CrossValidatedRadius,
        FitCertificate as FitCertificate,
        LinearDRO as LinearDRO,
        LinearFit as LinearFit,
        NotOptimalWarning as NotOptimalWarning,
        cross_validated_radius as cross_validated_radius,
        fit_linear as fit_linear,
    )
    from dro_core.finite_support import (
        FiniteCertificate as FiniteCertificate,
        FiniteWorstCase as FiniteWorstCase,
        finite_potential as finite_potential,
        finite_worst_case as finite_worst_case,
        quadratic_candidates as quadratic_candidates,
    )
    from dro_core.growth import (
        GrowthBound as GrowthBound,
        GrowthProfiles as GrowthProfiles,
        SmoothedBound as SmoothedBound,
        SmoothedLosses as SmoothedLosses,
        exceedance_bound as exceedance_bound,
        growth_bound as growth_bound,
        growth_dual as growth_dual,
        hockey_stick as hockey_stick,
        mean_lower_bound as mean_lower_bound,
        smoothed_bound as smoothed_bound,
    )
    from dro_core.noise import (
        GaussianNoise as GaussianNoise,
        PoissonNoise as PoissonNoise,
        hull_candidates as hull_candidates,
        noise_candidates as noise_candidates,
    )
    from dro_core.noise_training import (
        NoiseTraining as NoiseTraining,
        ShapedNoise as ShapedNoise,
        shaped_noise as shaped_noise,
    )
    from dro_core.radii import (
        radius_for_gap as radius_for_gap,
        radius_from_rms as radius_from_rms,
        radius_of_noise as radius_of_noise,
        radius_of_operator_change as radius_of_operator_change,
        radius_of_poisson_noise as radius_of_poisson_noise,
        rms_from_radius as rms_from_radius,
    )
    from dro_core.sample_weights import (
        SampleWeightedReconstruction as SampleWeightedReconstruction,
        SampleWeightedWorstCase as SampleWeightedWorstCase,
        sample_weighted_worst_case as sample_weighted_worst_case,
    )
    from dro_core.spectrum import ResidualSpectrum as ResidualSpectrum
    from dro_core.structure import (
        Joint as Joint,
        SignalNoise as SignalNoise,
        Structure as Structure,
        XGivenY as XGivenY,
        XShift as XShift,
        YGivenX as YGivenX,
        YShift as YShift,
        admissible_candidates as admissible_candidates,
    )
    from dro_core.swapped import SwappedWarning as SwappedWarning
    from dro_core.twist import (
        TwistCertificate as TwistCertificate,
        TwistReport as TwistReport,
        twist_condition as twist_condition,
    )
    from dro_core.unbalanced import (
        NotConvergedError as NotConvergedError,
        UnbalancedCertificate as UnbalancedCertificate,
        UnbalancedGaussian as UnbalancedGaussian,
        UnbalancedTransport as UnbalancedTransport,
        c_transform as c_transform,
        semidual_value as semidual_value,
        unbalanced_gaussian as unbalanced_gaussian,
        unbalanced_ot as unbalanced_ot,
    )
    from dro_core.wasserstein import (
        ConditionalDistance as ConditionalDistance,
        DistanceCertificate as DistanceCertificate,
        GaussianDistance as GaussianDistance,
        MatchingPrice as MatchingPrice,
        RelaxedCurve as RelaxedCurve,
        conditional_wasserstein as conditional_wasserstein,
        gaussian_conditional_wasserstein as gaussian_conditional_wasserstein,
        matching_price as matching_price,
        relaxed_curve as relaxed_curve,
    )
    from dro_core.worst_case import (
        Certificate as Certificate,
        LinearReconstruction as LinearReconstruction,
        WorstCase as WorstCase,
        WorstCaseCurve as WorstCaseCurve,
        dual_value as dual_value,
        worst_case_curve as worst_case_curve,
        worst_case_risk as worst_case_risk,
    )

__version__ = "0.1.0"

#: Module -> the public names that live there.
_HOMES = {
    "auditing": (
        "Audit",
        "BestLinear",
        "RadiusSource",
        "StructureAudit",
        "audit",
    ),
    "bounds": (
        "conservatism_gap",
        "explicit_bound",
    ),
    "budgets": (
        "IndependentWorstCase",
        "TwoBudgetCertificate",
        "TwoBudgetFit",
        "TwoBudgetWorstCase",
        "WassersteinMMSE",
        "fit_two_budgets",
        "independent_worst_case",
        "two_budget_worst_case",
        "wasserstein_mmse",
    ),
    "checks": ("InfeasibleRadiusError",),
    "dual": (
        "DualSolution",
        "minimize_quadratic_dual",
    ),
    "entropic": (
        "EntropicCertificate",
        "EntropicWorstCase",
        "adjusted_radius",
        "entropic_worst_case",
        "unadjusted_radius",
    ),
    "estimator": (
        "CrossValidatedRadius",
        "FitCertificate",
        "LinearDRO",
        "LinearFit",
        "NotOptimalWarning",
        "cross_validated_radius",
        "fit_linear",
    ),
    "finite_support": (
        "FiniteCertificate",
        "FiniteWorstCase",
        "finite_potential",
        "finite_worst_case",
        "quadratic_candidates",
    ),
    "growth": (
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
    ),
    "noise": (
        "GaussianNoise",
        "PoissonNoise",
        "hull_candidates",
        "noise_candidates",
    ),
    "noise_training": (
        "NoiseTraining",
        "ShapedNoise",
        "shaped_noise",
    ),
    "radii": (
        "radius_for_gap",
        "radius_from_rms",
        "radius_of_noise",
        "radius_of_operator_change",
        "radius_of_poisson_noise",
        "rms_from_radius",
    ),
    "sample_weights": (
        "SampleWeightedReconstruction",
        "SampleWeightedWorstCase",
        "sample_weighted_worst_case",
    ),
    "spectrum": ("ResidualSpectrum",),
    "structure": (
        "Joint",
        "SignalNoise",
        "Structure",
        "XGivenY",
        "XShift",
        "YGivenX",
        "YShift",
        "admissible_candidates",
    ),
    "swapped": ("SwappedWarning",),
    "twist": (
        "TwistCertificate",
        "TwistReport",
        "twist_condition",
    ),
    "unbalanced": (
        "NotConvergedError",
        "UnbalancedCertificate",
        "UnbalancedGaussian",
        "UnbalancedTransport",
        "c_transform",
        "semidual_value",
        "unbalanced_gaussian",
        "unbalanced_ot",
    ),
    "wasserstein": (
        "ConditionalDistance",
        "DistanceCertificate",
        "GaussianDistance",
        "MatchingPrice",
        "RelaxedCurve",
        "conditional_wasserstein",
        "gaussian_conditional_wasserstein",
        "matching_price",
        "relaxed_curve",
    ),
    "worst_case": (
        "Certificate",
        "LinearReconstruction",
        "WorstCase",
        "WorstCaseCurve",
        "dual_value",
        "worst_case_curve",
        "worst_case_risk",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["operators", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """A public name, from its module (PEP 562)."""
    if name == "operators":
        return importlib.import_module("dro_core.operators")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
