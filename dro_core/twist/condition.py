"""`twist_condition`: True with a certificate, False with a witness, or None."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_non_negative, as_samples, check_magnitude
from dro_core.linear_map import MapLike, as_linear_map
from dro_core.twist.linear import decide_linear
from dro_core.twist.nonlinear import decide_nonlinear
from dro_core.twist.report import Finding, TwistReport
from dro_core.twist.twisted import LinearTwisted, Twisted, as_twisted
from dro_core.types import Array, Real


def twist_condition(
    forward: MapLike | Callable[[Array], Array],
    weight: Real,
    *,
    upsample: MapLike | None = None,
    lipschitz: Real | None = None,
    monotone: bool | None = None,
    points: ArrayLike | None = None,
) -> TwistReport:
    r"""Whether the cost :math:`\|A(x)-y\|^2 + \lambda\|y-x\|^2` satisfies the left twist condition.

    That is injectivity of :math:`F(x) = A(x) + \lambda x`. Certificates:

    * linear A with a known spectrum (dense up to 2048² entries, or diagonal under a fast
      transform): exact both ways, F is injective unless :math:`-\lambda` is a (real) eigenvalue;
      the margin is :math:`\sigma_{\min}(A+\lambda I)`;
    * A monotone: every :math:`\lambda > 0`;
    * A Lipschitz with constant L: every :math:`\lambda > L` (Claim 1);
    * otherwise a pair :math:`x_1 \ne x_2` with :math:`F(x_1) = F(x_2)` is searched for.

    Parameters
    ----------
    forward
        A: an (m, n) matrix, sparse matrix, `dro_core.operators` operator, scipy LinearOperator, or
        a function from (N, n) rows to (N, m) rows.
    weight : float
        :math:`\lambda \ge 0`.
    upsample : optional
        A linear map Q of shape (n, m), as `forward`: the quadratic term is then
        :math:`\lambda\|Qy-x\|^2` and :math:`F(x) = A(x) + \lambda Q^\top x`.
    lipschitz : float, optional
        A proved bound on the Lipschitz constant of A. Ignored, with a word in `certificate`, when a
        pair of points contradicts it.
    monotone : bool, optional
        True: A is monotone, :math:`\langle A(x_1)-A(x_2), x_1-x_2\rangle \ge 0`. Ignored likewise.
    points : (k, n) array, optional
        Where a function is sampled and the search starts; needed for functions.

    Returns
    -------
    TwistReport

    Raises
    ------
    ValueError, TypeError
        For a weight or bound that is negative or not finite, shapes that do not fit, a function
        without `points`, or one that does not give finite (N, m) rows.

    Notes
    -----
    Numbers are those of float64: a null direction counts as a violation when its residual is at
    most 16 roundings of :math:`|A| + \lambda`, and the certificate says so; between that and
    :math:`n` roundings there is no verdict. A singular Jacobian is no violation (:math:`x^3`).

    Source: Appendix B (Definition B.1, Theorem B.1, Claim 1) of the ISUM paper.

    Examples
    --------
    >>> report = twist_condition([[0.0, 1.0], [1.0, 0.0]], 1.0)  # the eigenvalue -1
    >>> report.holds, report.sufficient_weight > 0.999
    (False, True)
    """
    weight = as_non_negative(weight, "weight")
    check_magnitude(weight, "weight")
    bound = None if lipschitz is None else as_non_negative(lipschitz, "lipschitz")
    if not (monotone is None or isinstance(monotone, bool)):
        raise TypeError(f"monotone: {monotone!r}; allowed: True, False or None")
    rows = None if points is None else as_samples(points, "points")
    Q = None if upsample is None else as_linear_map(upsample, "upsample")
    F = as_twisted(forward, weight, Q, rows)
    if rows is not None and isinstance(F, LinearTwisted) and rows.shape[1] != F.shape[1]:
        raise ValueError(f"points: {rows.shape[1]} columns, but forward takes {F.shape[1]}")
    if isinstance(F, LinearTwisted):
        finding, shape = decide_linear(F, bound, monotone is True), F.shape
    else:
        finding, shape = decide_nonlinear(F, bound, monotone is True), (F.m, F.n)
    residual = distance = math.nan
    if finding.witness is not None:
        first, second = finding.witness
        residual, distance = F.residual(first, second), float(np.linalg.norm(first - second))
    return TwistReport(
        finding.holds,
        finding.certificate,
        finding.margin,
        finding.witness,
        residual,
        distance,
        finding.sufficient,
        finding.sufficient_certificate,
        finding.monotone,
        finding.failing,
        _checklist(finding, F, shape, bound),
        weight,
        Q,
        rows,
    )


def _checklist(
    finding: Finding, F: Twisted | LinearTwisted, shape: tuple[int, int], bound: float | None
) -> tuple[tuple[str, str, str], ...]:
    """The hypotheses of the existence theorem (Theorem B.1) for this cost."""
    m, n = shape
    linear, small = isinstance(F, LinearTwisted), m < n
    twist = {True: "checked", False: "violated", None: "assumed"}[finding.holds]
    grows = linear or bound is not None
    moments = "finite second moments of μ and ν" + ("" if grows else " and of A under ν")
    return (
        (
            "cost lower semicontinuous and bounded below",
            "checked" if linear else "assumed",
            "a sum of squares, >= 0; continuous "
            + ("with A" if linear else "if A is, not checked"),
        ),
        (
            "semi-concave in y, locally uniformly in x",
            "checked",
            "c(., x) is quadratic in y with the Hessian "
            + ("2(1 + λ)I" if F.Q is None else "2(I + λQᵀQ)")
            + ", the same for every x",
        ),
        ("twist condition", twist, finding.certificate),
        (
            "μ gives no mass to sets of dimension n - 1",
            "violated" if small else "assumed",
            f"upsampled measurements Qy lie on a set of dimension {m} in R^{n}"
            if small
            else "true when additive noise has a density; samples cannot show it, and without "
            "noise a map that is not locally injective breaks it",
        ),
        ("finite infimum", "assumed", f"the product plan has a finite cost with {moments}"),
    )
