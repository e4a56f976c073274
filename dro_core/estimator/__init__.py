"""The linear map with the smallest worst-case risk, with a saddle certificate.

The (entropic) worst-case risk is convex in the map B. For joint and y|x it is minimised by Newton's
method along the path of entropy weights; the data enter through an orthogonal reduction to their
own subspaces (see the lemma in the documentation), so the size of the problem is the rank of the
data, not the number of pixels.

The certificate is a saddle point: the worst-case risk of the returned map is an upper value of the
optimum, and the least-squares risk under *any* law of the ball a lower one.

In come samples and a radius, out goes a map with its saddle certificate. Above: radii chosen by
cross-validation, validation; below: worst_case, entropic, dual.
"""

from dro_core.estimator.cross_validation import CrossValidatedRadius, cross_validated_radius
from dro_core.estimator.entry import NotOptimalWarning, fit_linear
from dro_core.estimator.fit import FitCertificate, LinearFit
from dro_core.estimator.law import Law
from dro_core.estimator.linear_dro import LinearDRO

__all__ = [
    "CrossValidatedRadius",
    "FitCertificate",
    "Law",
    "LinearDRO",
    "LinearFit",
    "NotOptimalWarning",
    "cross_validated_radius",
    "fit_linear",
]
