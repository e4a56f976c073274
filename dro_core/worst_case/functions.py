"""The questions asked most: one risk, a curve of risks, one value of the dual."""

from __future__ import annotations

from typing import Unpack

from numpy.typing import ArrayLike

from dro_core.checks import check_keywords
from dro_core.linear_map import MapLike
from dro_core.samples import SamplesLike
from dro_core.structure import Structure
from dro_core.types import Real
from dro_core.worst_case.answer import WorstCase, WorstCaseCurve
from dro_core.worst_case.problem import LinearReconstruction, MatrixFree


def worst_case_risk(
    B: MapLike,
    x: SamplesLike,
    y: ArrayLike | None,
    radius: Real,
    structure: str | Structure = "y|x",
    *,
    weights: ArrayLike | None = None,
    **matrix_free: Unpack[MatrixFree],
) -> WorstCase:
    r"""Exact worst-case risk of a linear reconstruction map, with its worst-case law.

    .. math:: \mathcal R = \sup_{\pi} \int \|x' - B y'\|^2\,d\pi
              = \min_{\lambda\ge\kappa^2}
                \lambda\rho^2 + \sum_j m_j\frac{\lambda}{\lambda-\sigma_j^2}

    over all laws within W2 distance `radius` of the weighted samples that the structure admits
    (paper Theorems 3.1-3.3 for linear maps and quadratic loss, where the potentials are explicit).

    Parameters
    ----------
    B : (n, m) matrix, scipy sparse matrix, operator of `dro_core.operators`, or LinearOperator
        Reconstruction map from y to x; see `LinearReconstruction`.
    x, y : (N, n) and (N, m) arrays
        Signals and measurements, samples as rows; memory maps, Dask arrays, or in place of x and
        with y None blocks of both, see `LinearReconstruction`.
    radius : float
        W2 radius >= 0 in the units of the data; the transport budget is its square.
    structure : "joint", "y|x", "x|y" or a Structure (for instance ``XShift(forward)``)
        What the adversary may move.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.
    **matrix_free
        For a LinearOperator: `norm_bound`, `rtol`, `max_steps`, `random_starts`,
        `failure_probability`, `seed` as in `LinearReconstruction`.

    Returns
    -------
    WorstCase
        `.risk`, `.multiplier`, `.bound`, the worst-case atoms, `.gradient` and `.verify()`.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radius, structure or weights; the message names the argument.
    InfeasibleRadiusError
        If the ambiguity ball is empty (structure x only); carries the smallest feasible radius.
    OverflowError
        If the risk exceeds 1e300. (Magnitudes of B, x, y or radius above 1e140 are a ValueError.)

    Examples
    --------
    >>> import numpy as np
    >>> from dro_core import worst_case_risk
    >>> x = np.array([[1.0], [-1.0]])
    >>> worst = worst_case_risk([[2.0]], x, x, radius=0.5)
    >>> worst.risk, worst.verify().primal_risk  # (RMSE + radius * |B|)² = (1 + 0.5 * 2)²
    (4.0, 4.0)
    """
    check_keywords(worst_case_risk, matrix_free, MatrixFree)
    check_keywords(worst_case_risk, matrix_free, MatrixFree)
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.worst_case(radius, structure)


def worst_case_curve(
    B: MapLike,
    x: SamplesLike,
    y: ArrayLike | None,
    radii: ArrayLike,
    structure: str | Structure = "y|x",
    *,
    weights: ArrayLike | None = None,
    **matrix_free: Unpack[MatrixFree],
) -> WorstCaseCurve:
    """Worst-case risks of one map along many radii, from one residual spectrum.

    Parameters as in `worst_case_risk`, with `radii` a 1-D sequence of W2 radii >= 0.

    Returns
    -------
    WorstCaseCurve
        Arrays `.radius`, `.risk`, `.multiplier`, `.bound` and the number `.nominal_risk`.

    Raises
    ------
    ValueError, TypeError, InfeasibleRadiusError, OverflowError
        As `worst_case_risk`; `radii` must be 1-D and not empty.
    """
    check_keywords(worst_case_curve, matrix_free, MatrixFree)
    check_keywords(worst_case_curve, matrix_free, MatrixFree)
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.curve(radii, structure)


def dual_value(
    B: MapLike,
    x: SamplesLike,
    y: ArrayLike | None,
    multiplier: Real,
    radius: Real,
    structure: str | Structure = "y|x",
    *,
    epsilon: Real = 0.0,
    weights: ArrayLike | None = None,
    **matrix_free: Unpack[MatrixFree],
) -> float:
    r"""The dual function at a given multiplier: an upper bound on the worst-case risk.

    .. math:: D(\lambda) = \lambda\rho^2 + \sum_i\mu_i\,\varphi_\lambda(x_i, y_i),\qquad
              \varphi_\lambda = r_i^\top (I - CC^\top/\lambda)^{-1} r_i

    (paper Proposition 3.1: weak duality). With ``epsilon > 0`` it is the entropic dual (paper
    Eq. 13) in closed form: `radius` is then the adjusted radius and
    :math:`-\tfrac{\lambda\varepsilon}{2}\log\det(I - CC^\top/\lambda)` is added.

    Parameters
    ----------
    B, x, y, structure, weights, **matrix_free
        As in `worst_case_risk`.
    multiplier : float
        :math:`\lambda`, above the threshold :math:`\kappa^2 = \sigma_{\max}(C)^2` by more than its
        rounding, 8 (n + m) eps of it (times the cancellation in C under structure x or y).
    radius : float
        W2 radius >= 0 in the units of the data.
    epsilon : float
        Entropy weight >= 0, in squared units of the data.

    Raises
    ------
    ValueError
        If the multiplier is at or below its threshold or within rounding of it (the message says
        what is allowed), even where no residual lies on the top singular space, so that the value
        has a limit there (`worst_case_risk` takes that limit); if `epsilon` is
        positive under structure x with data off the graph of the forward map; for other bad
        input as `worst_case_risk`.
    """
    check_keywords(dual_value, matrix_free, MatrixFree)
    check_keywords(dual_value, matrix_free, MatrixFree)
    problem = LinearReconstruction(B, x, y, weights=weights, **matrix_free)
    return problem.dual_value(multiplier, radius, structure, epsilon=epsilon)
