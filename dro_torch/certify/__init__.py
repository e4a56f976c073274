r"""A guaranteed interval for the worst-case risk of a trained network.

DRO paper, Theorem 4.2, and theory §4 and §5. In go a network, samples and radii; out come intervals
with the law that proves the lower end. Below are `dro_torch.linearisation`, `dro_torch.lipschitz`
and the dual solver of `dro_core`; above is the user alone.

.. math:: \underbrace{\sum_i\mu_i\|r_i(v_i)\|^2}_{\text{a law in the ball}}
          \ \le\ \mathcal R\ \le\ \bigl(\sqrt M + \rho\,\kappa\bigr)^2

The lower end is the risk of a concrete law: displacements with :math:`\sum_i\mu_i\|v_i\|^2 \le
\rho^2`, evaluated again without gradients in float64. The upper end is the explicit bound with a
*proved* Lipschitz constant (`lipschitz_upper`), combined with a known output range; for a network
of linear layers alone it is the exact worst case of `dro_core`. With ``smoothing=`` both ends are
about the network averaged over noise, and rest on draws.

The law is found in two stages. First the worst case of the linearised residual: Lanczos vectors
of every sample reduce it to a small quadratic form, the samples' forms together are one
`dro_core.ResidualSpectrum`, and the dual solver of `dro_core` gives the multiplier that they
share. Then ascent on the sphere of the shared budget, on which samples trade.
"""

from dro_torch.certify.attacks import SIMPLE_ATTACKS
from dro_torch.certify.certificate import Certificate
from dro_torch.certify.interval import certificate_curve, certify
from dro_torch.certify.smoothed import Smoothing
from dro_torch.certify.upper import AFFINE_LAYERS, affine_map

__all__ = [
    "certify",
    "certificate_curve",
    "Certificate",
    "Smoothing",
    "affine_map",
    "AFFINE_LAYERS",
    "SIMPLE_ATTACKS",
]
