r"""Unbalanced optimal transport: exact value, sparse plan, potentials and a certificate.

For a cost :math:`c`, positive masses :math:`a, b` and a weight :math:`w > 0`

.. math:: C = \inf_{\pi\ge0}\ \langle c, \pi\rangle + D_1(\pi_0|a) + D_2(\pi_1|b)
            = \sup_{u_i + v_j \le c_{ij}} -\sum_i a_i\Psi_1^*(-u_i) - \sum_j b_j\Psi_2^*(-v_j),

where a marginal is either held by ``"kl"``, :math:`D = w\sum_i a_i\Psi(\pi_{0,i}/a_i)` with
:math:`\Psi(t) = t\log t - t + 1` and conjugate :math:`w(e^{s/w} - 1)`, or ``"balanced"``: fixed,
with the identity as conjugate. The weight multiplies the divergence, so the value is w times that
of the cost c/w at weight one: there is one knob, not two.

With KL the dual is smooth and concave over a transport polytope. It is solved in three steps.

1. A primal-dual interior-point method (Mehrotra's predictor-corrector; Newton's equations on
   :math:`u_i = -w\log(\pi_{0,i}/a_i)`, so that potentials reach any size in one step) finds the
   support. Below some hundred points it runs on all arcs, with one Cholesky factorisation of size
   min(N, M) per step. Above, on the few arcs of least slack per point, with conjugate gradients
   preconditioned by the heaviest spanning forest; arcs that the potentials violate are added
   (column generation), and none is left out when no slack is negative.
2. On each tree of a forest in the support the potentials are known up to one number, which has a
   closed form, and the flows follow from the leaves: the exact optimum on its support.
3. If several plans are optimal that forest may be a wrong one. The optimal marginals are unique,
   :math:`a e^{-u/w}` and :math:`b e^{-v/w}`; POT's network simplex finds a plan between them.

The value is computed from that plan, the bound from a c-transform of those potentials. Neither
trusts the steps above, so a small gap is a proof.

In come a cost and two measures, out goes value, plan and potentials with a certificate. Above: the
losses for unpaired data and validation; below: checks and blocks.
"""

from dro_core.unbalanced.gaussian import UnbalancedGaussian, unbalanced_gaussian
from dro_core.unbalanced.problem import DIVERGENCES
from dro_core.unbalanced.semidual import c_transform, semidual_value
from dro_core.unbalanced.transport import (
    NotConvergedError,
    UnbalancedCertificate,
    UnbalancedTransport,
    unbalanced_ot,
)

__all__ = [
    "DIVERGENCES",
    "NotConvergedError",
    "UnbalancedCertificate",
    "UnbalancedGaussian",
    "UnbalancedTransport",
    "c_transform",
    "semidual_value",
    "unbalanced_gaussian",
    "unbalanced_ot",
]
