r"""What the adversary may move: the structured ambiguity sets.

For a linear map :math:`B` and quadratic transport cost every structure perturbs the residual
*affinely*: there is a matrix :math:`C` with

.. math:: r_i = x_i - B y_i \;\mapsto\; r_i + C v_i \quad\text{at transport cost}\quad \|v_i\|^2 .

That matrix is all a worst case needs to know of the structure. Always
:math:`C C^\top = s I + F F^\top` with a number ``s`` and a factor ``F``, so that joint and y|x
share the decomposition of one and the same ``F = B``:

=========  =====================  ===  ====================  ==========================
structure  C                      s    F                     modulus :math:`\kappa(L)`
=========  =====================  ===  ====================  ==========================
joint      [I, -B]                1    B                     :math:`\sqrt{1 + L^2}`
y|x        -B                     0    B                     :math:`L`
x|y        I                      1    none                  :math:`1`
x          (I - BA) R^{-1}        0    (I - BA) R^{-1}       Lip(I - B∘A)
y          (P - B) R^{-1}         0    (P - B) R^{-1}        Lip(P - B)
=========  =====================  ===  ====================  ==========================

(:math:`R^\top R = I + A^\top A` or :math:`I + P^\top P`; :math:`R = I` when only moving the
variable that leads is paid for.) A transport cost :math:`dx^\top W_x dx + dy^\top W_y dy` is
whitened: C becomes :math:`[W_x^{-1/2}, -B W_y^{-1/2}]`, and infinite weights, whose inverse is
zero, freeze what they stand for: y|x is joint with x frozen.

In comes a map, out goes the displacement (C, its factor F, where samples start). Above: spectrum;
below: linear maps, operators, transport costs.
"""

from dro_core.structure.base import AffineDisplacement, Start, Structure
from dro_core.structure.graph import XShift, YShift, as_covariance, kernel_matrix
from dro_core.structure.named import (
    STRUCTURES,
    admissible_candidates,
    as_structure,
    structure_modulus,
)
from dro_core.structure.point import Joint, PointStructure, XGivenY, YGivenX
from dro_core.structure.signal_noise import SignalNoise

__all__ = [
    "AffineDisplacement",
    "Joint",
    "PointStructure",
    "STRUCTURES",
    "SignalNoise",
    "Start",
    "Structure",
    "XGivenY",
    "XShift",
    "YGivenX",
    "YShift",
    "admissible_candidates",
    "as_covariance",
    "as_structure",
    "kernel_matrix",
    "structure_modulus",
]
