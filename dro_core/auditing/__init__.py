"""A robustness report for a map that somebody already has.

In come a map of any library, samples in the user's shape and a reason for a radius; out goes an
`Audit`: per structure the certified interval with the law that attains it, where the budget goes,
and the best linear map beside it. The page that shows all this needs nothing but numpy. Above: the
command line and, by name only, `dro_torch.auditing`, which answers for networks (`upstairs`).
Below: worst_case, estimator, radii, wasserstein. Nothing here solves anything: a new number belongs
to the floor below.
"""

from dro_core.auditing.answer import BestLinear, Findings, StructureAudit
from dro_core.auditing.audit import audit
from dro_core.auditing.radius import RadiusSource
from dro_core.auditing.report import Audit
from dro_core.auditing.shares import SpectralShares, spectral_shares

__all__ = [
    "Audit",
    "BestLinear",
    "Findings",
    "RadiusSource",
    "SpectralShares",
    "StructureAudit",
    "audit",
    "spectral_shares",
]
