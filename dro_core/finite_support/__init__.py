r"""Exact worst case on a finite support: any loss, any cost, any admissible moves.

With candidates :math:`z'_j`, losses :math:`\ell_{ij}` and costs :math:`c_{ij}` the primal is the
linear programme :math:`\max \sum \pi_{ij}\ell_{ij}` subject to :math:`\sum_j\pi_{ij} = \mu_i`,
:math:`\sum\pi_{ij}c_{ij} \le \rho^2`, :math:`\pi \ge 0`. Its dual function

.. math:: D(\lambda) = \lambda\rho^2 + \sum_i\mu_i\max_j(\ell_{ij} - \lambda c_{ij})

is convex and piecewise linear in *one* variable, so no linear programme is solved: Newton's method
(intersect the supporting lines at the two ends of the bracket) stops at the exact minimiser after
finitely many passes over the candidates, and the two plans that touch there, mixed so that the
budget is met, are the exact primal plan. At most one sample is split.

In come tables or functions that make them, out goes an optimal plan with a certificate. Above:
noise families and validation; below: checks.
"""

from dro_core.finite_support.answer import FiniteCertificate, FiniteWorstCase
from dro_core.finite_support.candidates import finite_potential, quadratic_candidates
from dro_core.finite_support.solver import finite_worst_case

__all__ = [
    "FiniteCertificate",
    "FiniteWorstCase",
    "finite_potential",
    "finite_worst_case",
    "quadratic_candidates",
]
