r"""Conditional Wasserstein distances: transport that keeps x.

For laws :math:`\mu, \nu` of (x, y) with the same X-marginal

.. math:: W_{p,Y|X}(\mu,\nu)^p = \int W_p\bigl(\mu(\cdot|x), \nu(\cdot|x)\bigr)^p\,d\mu_X(x),

which is optimal transport of (x, y) with cost :math:`\|y-y'\|^p` where :math:`x = x'` and
:math:`+\infty` elsewhere; it is infinite when the X-marginals differ (Corollary 4.2.1 of the DRO
paper). So the distance is one transport problem per condition x. For scalar y all of them are
solved at once: sorted quantiles, one pass over the atoms. Where an x is never seen twice no plan
keeps it; there the relaxed cost :math:`\beta\|x-x'\|^p + \|y-y'\|^p` with a finite
:math:`\beta` is the estimator, and the mass whose x moves says what it did.

In come samples of two laws, out goes a distance with plan, potentials and certificate. Above: radii
and validation; below: checks, blocks, the refined simplex.
"""

from dro_core.wasserstein.certificate import DistanceCertificate
from dro_core.wasserstein.conditional import ConditionalDistance, conditional_wasserstein
from dro_core.wasserstein.gaussian import GaussianDistance, gaussian_conditional_wasserstein
from dro_core.wasserstein.matching import MatchingPrice, matching_price
from dro_core.wasserstein.relaxed import RelaxedCurve, relaxed_curve
from dro_core.wasserstein.solvers import SinkhornWarning

__all__ = [
    "ConditionalDistance",
    "DistanceCertificate",
    "GaussianDistance",
    "MatchingPrice",
    "RelaxedCurve",
    "SinkhornWarning",
    "conditional_wasserstein",
    "gaussian_conditional_wasserstein",
    "matching_price",
    "relaxed_curve",
]
