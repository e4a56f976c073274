r"""The twist condition: is the map that optimal transport looks for a map at all?

For the cost :math:`c(y,x) = \|A(x)-y\|^2 + \lambda\|y-x\|^2` the left twist condition says that
:math:`x \mapsto \partial c/\partial y` is injective, which is injectivity of

.. math:: F(x) = A(x) + \lambda x

(with an upsampling Q and :math:`\|Qy-x\|^2` it is :math:`A(x) + \lambda Q^\top x`). The answer is
True with a certificate, False with a pair of points that F does not tell apart, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import product
from typing import Any

import numpy as np
from scipy.sparse.linalg import lsmr

from dro_core.bases import Basis
from dro_core.checks import Array, as_non_negative, as_samples, check_magnitude
from dro_core.linear_map import DENSE_ENTRIES, LinearMap, as_linear_map
from dro_core.operators import Convolution, _cosine_sums

EPS = float(np.finfo(np.float64).eps)
#: A witness counts when its residual is at most this many roundings of what is subtracted.
ROUNDINGS = 16.0
#: The two points of a nonlinear witness are at least this share of the points' size apart.
SEPARATION = 0.1
#: ... and no entry of theirs exceeds this multiple of it.
FARTHEST = 1e6
#: Nonlinear maps get Newton's method, whose Jacobian takes n + 1 evaluations, up to this dimension.
NEWTON_SIZE = 256
#: Lanczos steps of an estimate, and steps of the march to the sufficient weight of a dense map.
LANCZOS_STEPS, MARCH_STEPS, MARCH_SIZE = 60, 60, 512


@dataclass(frozen=True)
class TwistCertificate:
    """What `TwistReport.verify` recomputed.

    For a violation: `residual` = ``|F(x1) - F(x2)|``, the `rounding` it may have, the `distance` of
    the pair, and whether that makes it a violation (`violated`). Otherwise `stretch`: the smallest
    ``|F(x1) - F(x2)| / |x1 - x2|`` that was seen.
    """

    claim: bool | None
    margin: float
    violated: bool
    residual: float
    rounding: float
    distance: float
    stretch: float

    def holds(self) -> bool:
        """Whether the verdict stands; an open one has nothing to stand on."""
        if self.claim is None:
            return False
        if self.claim:
            return self.margin > 0 and self.stretch >= self.margin * (1 - 1e-6)
        return self.violated


@dataclass(frozen=True)
class TwistReport:
    """Whether the twist condition holds, why, and by how much.

    Attributes
    ----------
    holds : True, False or None
        None: neither certified nor refuted; `certificate` says what is missing.
    certificate : str
        What the verdict rests on.
    margin : float
        If True, m > 0 with ``|F(x1) - F(x2)|`` >= m ``|x1 - x2|`` (a lower bound of sigma_min where
        `certificate` says "at least"); zero if False; if None an over-estimate, or NaN.
    witness : pair of (n,) arrays or None
        Points with F(x1) = F(x2); always there if `holds` is False.
    residual, distance : float
        ``|F(x1) - F(x2)|`` and ``|x1 - x2|`` of the witness, recomputed; NaN without one.
    sufficient_weight : float or None
        The condition is certified for *every* weight above it, by `sufficient_certificate`.
        Infinite: proved that no weight does; None: not known.
    monotone_weight : float or None
        The weight from which on F is monotone: minus the least eigenvalue of the symmetric part of
        a linear A (zero if that is not negative; for zero padding on large grids a bound), or zero
        where monotonicity was stated.
    failing_weights : array or None
        For a linear A with known spectrum, all weights >= 0 at which the condition fails: minus its
        real eigenvalues, to rounding, increasing.
    checklist : tuple of (hypothesis, "checked" | "assumed" | "violated", reason)
        The hypotheses of the existence theorem.
    """

    holds: bool | None
    certificate: str
    margin: float
    witness: tuple[Array, Array] | None
    residual: float
    distance: float
    sufficient_weight: float | None
    sufficient_certificate: str
    monotone_weight: float | None
    failing_weights: Array | None
    checklist: tuple[tuple[str, str, str], ...]
    weight: float
    upsample: LinearMap | None
    points: Array | None

    def verify(self, forward: Any) -> TwistCertificate:
        """Recompute the witness, or look for a pair that contradicts the margin.

        Parameters
        ----------
        forward
            The map A that `twist_condition` was given.

        Returns
        -------
        TwistCertificate
        """
        F = _twisted(forward, self.weight, self.upsample, self.points)
        nan = math.nan
        if self.witness is not None:
            first, second = self.witness
            return TwistCertificate(
                self.holds, self.margin, F.violated_by(first, second), F.residual(first, second),
                F.rounding(first, second), float(np.linalg.norm(first - second)), nan,
            )  # fmt: skip
        stretch = F.smallest_stretch()
        return TwistCertificate(self.holds, self.margin, False, nan, nan, nan, stretch)


@dataclass(frozen=True)
class _Finding:
    """A verdict and its grounds, before the parts that every report has."""

    holds: bool | None
    certificate: str
    margin: float
    witness: tuple[Array, Array] | None = None
    sufficient: float | None = None
    sufficient_certificate: str = ""
    monotone: float | None = None
    failing: Array | None = None


class _Twisted:
    """The nonlinear map F(x) = A(x) + λx, or A(x) + λQᵀx, on rows."""

    def __init__(
        self, function: Callable[[Any], Any], weight: float, Q: LinearMap | None, points: Array
    ) -> None:
        self._function, self.weight, self.Q, self.points = function, weight, Q, points
        self.n = points.shape[1]
        images = self.forward(points)
        if not np.isfinite(images).all():
            raise ValueError("forward: not finite at points; the function must be finite there")
        self.m = images.shape[1]
        self.scale = float(np.sqrt(np.mean(np.sum(points**2, axis=1)))) or 1.0
        _check_shapes((self.m, self.n), Q, weight)

    def forward(self, rows: Array) -> Array:
        """A(rows); elsewhere than at the points the function may overflow or be undefined."""
        with np.errstate(all="ignore"):
            image = np.asarray(self._function(rows.copy()))
        if image.ndim != 2 or len(image) != len(rows):
            raise ValueError(
                f"forward: rows of shape {rows.shape} give an array of shape {image.shape}; the "
                f"function must map (N, n) rows to (N, m) rows"
            )
        if image.dtype.kind not in "biuf":
            raise TypeError(f"forward: the function gives {image.dtype}; allowed: real numbers")
        return np.asarray(image, dtype=np.float64)

    def quadratic(self, rows: Array) -> Array:
        """λx, or λQᵀx; zero without a quadratic term."""
        if self.weight == 0:
            return np.zeros((len(rows), self.m))
        return self.weight * (rows if self.Q is None else self.Q.adjoint(rows))

    def __call__(self, rows: Array) -> Array:
        return self.forward(rows) + self.quadratic(rows)

    def residual(self, first: Array, second: Array) -> float:
        images = self(np.stack([first, second]))
        return float(np.linalg.norm(images[0] - images[1]))

    def rounding(self, first: Array, second: Array) -> float:
        """ROUNDINGS roundings of the numbers that the residual is a difference of."""
        rows = np.stack([first, second])
        terms = np.abs(self.forward(rows)) + np.abs(self.quadratic(rows))
        return ROUNDINGS * EPS * float(np.linalg.norm(terms.sum(axis=0)))

    def violated_by(self, first: Array, second: Array) -> bool:
        """Equal images to rounding, far apart, and not because F stands nearly still in between.

        Along the segment F must leave the common value by far more than rounding (a fold), or the
        images must agree in the last digit (a plateau).
        """
        largest = float(np.abs(second).max())
        apart = float(np.linalg.norm(first - second))
        if not largest <= FARTHEST * self.scale or apart < SEPARATION * self.scale:
            return False
        if not np.isfinite(self(np.stack([first, second]))).all():
            return False
        residual, rounding = self.residual(first, second), self.rounding(first, second)
        if residual == 0:
            return True
        between = first + np.array([[0.25], [0.5], [0.75]]) * (second - first)
        left = np.linalg.norm(self(between) - self(first[None]), axis=1).max()
        return residual <= rounding and bool(left > 1e6 * rounding)  # NaN: no

    def smallest_stretch(self) -> float:
        first, second = _pairs(self)
        apart = np.linalg.norm(first - second, axis=1)
        return float((np.linalg.norm(self(first) - self(second), axis=1) / apart).min())


class _LinearTwisted(LinearMap):
    """The matrix A + λI, or A + λQᵀ."""

    def __init__(self, A: LinearMap, weight: float, Q: LinearMap | None) -> None:
        self.A, self.weight, self.Q, self.shape = A, weight, Q, A.shape
        _check_shapes(A.shape, Q, weight)

    def apply(self, rows: Array) -> Array:
        if self.weight == 0:
            return self.A.apply(rows)
        return self.A.apply(rows) + self.weight * (rows if self.Q is None else self.Q.adjoint(rows))

    def adjoint(self, rows: Array) -> Array:
        if self.weight == 0:
            return self.A.adjoint(rows)
        return self.A.adjoint(rows) + self.weight * (rows if self.Q is None else self.Q.apply(rows))

    @property
    def is_small(self) -> bool:
        return self.A.is_small and (self.Q is None or self.Q.is_small)

    @cached_property
    def norm(self) -> float:
        """|A|, from below."""
        return _norm_estimate(self.A)

    @cached_property
    def scale(self) -> float:
        """|A| + λ|Q|, from below: what the entries of A + λQᵀ are sums of."""
        return self.norm + self.weight * (1.0 if self.Q is None else _norm_estimate(self.Q))

    def residual(self, first: Array, second: Array) -> float:
        return float(np.linalg.norm(self.apply((first - second)[None])))

    def rounding(self, first: Array, second: Array) -> float:
        return ROUNDINGS * EPS * self.scale * float(np.linalg.norm(first - second))

    def violated_by(self, first: Array, second: Array) -> bool:
        return bool((first != second).any()) and (
            self.residual(first, second) <= self.rounding(first, second)
        )

    def smallest_stretch(self) -> float:
        """1/|(A + λI)⁻¹| by solving where the matrix is small and square; else an over-estimate."""
        if self.is_small and self.shape[0] == self.shape[1]:
            try:
                return 1.0 / float(np.linalg.norm(np.linalg.inv(self.matrix()), 2))
            except np.linalg.LinAlgError:
                return 0.0
        return _smallest_singular_estimate(self)


def _twisted(
    forward: Any, weight: float, Q: LinearMap | None, points: Array | None
) -> _Twisted | _LinearTwisted:
    linear = isinstance(forward, LinearMap) or hasattr(forward, "matvec")
    if not callable(forward) or linear:
        return _LinearTwisted(as_linear_map(forward, "forward"), weight, Q)
    if points is None:
        raise ValueError(
            "points: missing, but forward is a function; pass (k, n) rows where it is meant to be "
            "used (they give the dimension, and the search starts there)"
        )
    return _Twisted(forward, weight, Q, points)


def _check_shapes(shape: tuple[int, int], Q: LinearMap | None, weight: float) -> None:
    m, n = shape
    if Q is not None and Q.shape != (n, m):
        raise ValueError(
            f"upsample: shape {Q.shape}, but forward maps R^{n} to R^{m}; needed: ({n}, {m})"
        )
    if Q is None and m != n and weight > 0:
        raise ValueError(
            f"forward: maps R^{n} to R^{m}, so the quadratic cost |y - x|² has no meaning; pass "
            f"upsample= of shape ({n}, {m}), or weight=0"
        )


def twist_condition(
    forward: Any,
    weight: Any,
    *,
    upsample: Any = None,
    lipschitz: Any = None,
    monotone: bool | None = None,
    points: Any = None,
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
    F = _twisted(forward, weight, Q, rows)
    if rows is not None and isinstance(F, _LinearTwisted) and rows.shape[1] != F.shape[1]:
        raise ValueError(f"points: {rows.shape[1]} columns, but forward takes {F.shape[1]}")
    if isinstance(F, _LinearTwisted):
        finding, shape = _linear(F, bound, monotone is True), F.shape
    else:
        finding, shape = _nonlinear(F, bound, monotone is True), (F.m, F.n)
    residual = distance = math.nan
    if finding.witness is not None:
        first, second = finding.witness
        residual, distance = F.residual(first, second), float(np.linalg.norm(first - second))
    return TwistReport(
        finding.holds, finding.certificate, finding.margin, finding.witness, residual, distance,
        finding.sufficient, finding.sufficient_certificate, finding.monotone, finding.failing,
        _checklist(finding, F, shape, bound), weight, Q, rows,
    )  # fmt: skip


def _checklist(
    finding: _Finding, F: _Twisted | _LinearTwisted, shape: tuple[int, int], bound: float | None
) -> tuple[tuple[str, str, str], ...]:
    """The hypotheses of the existence theorem (Theorem B.1) for this cost."""
    m, n = shape
    linear, small = isinstance(F, _LinearTwisted), m < n
    twist = {True: "checked", False: "violated", None: "assumed"}[finding.holds]
    grows = linear or bound is not None
    moments = "finite second moments of μ and ν" + ("" if grows else " and of A under ν")
    return (
        ("cost lower semicontinuous and bounded below", "checked" if linear else "assumed",
         "a sum of squares, >= 0; continuous " + ("with A" if linear else "if A is, not checked")),
        ("semi-concave in y, locally uniformly in x", "checked",
         "c(., x) is quadratic in y with the Hessian "
         + ("2(1 + λ)I" if F.Q is None else "2(I + λQᵀQ)") + ", the same for every x"),
        ("twist condition", twist, finding.certificate),
        ("μ gives no mass to sets of dimension n - 1", "violated" if small else "assumed",
         f"upsampled measurements Qy lie on a set of dimension {m} in R^{n}" if small else
         "true when additive noise has a density; samples cannot show it, and without noise a map "
         "that is not locally injective breaks it"),
        ("finite infimum", "assumed", f"the product plan has a finite cost with {moments}"),
    )  # fmt: skip


# --- linear maps --------------------------------------------------------------------------------


def _norm_estimate(A: LinearMap, steps: int = 20) -> float:
    """The largest singular value, from below: power iteration."""
    row = np.random.default_rng(0).standard_normal((1, A.shape[1]))
    value = 0.0
    for _ in range(steps):
        size = float(np.linalg.norm(row))
        if size == 0:
            break
        image = A.apply(row / size)
        length = float(np.linalg.norm(image))
        if length == 0:
            break
        value, row = max(value, length), A.adjoint(image / length)
    return value


def _least_eigenvector(product_: Callable[[Array], Array], size: int) -> Array:
    """A unit vector near the least eigenvector of a symmetric matrix: Lanczos, orthogonalised."""
    rng = np.random.default_rng(0)
    basis: list[Array] = []
    vector = rng.standard_normal(size)
    for _ in range(min(size, LANCZOS_STEPS)):
        for _ in range(2):
            for known in basis:
                vector = vector - known * (known @ vector)
        length = float(np.linalg.norm(vector))
        if length < 1e-12 * math.sqrt(size):  # an invariant subspace: go on outside of it
            vector = rng.standard_normal(size)
            continue
        basis.append(vector / length)
        vector = product_(basis[-1][None])[0]
    Q = np.array(basis)
    projected = Q @ product_(Q).T
    return np.asarray(np.linalg.eigh((projected + projected.T) / 2)[1][:, 0] @ Q)


def _smallest_singular_estimate(F: LinearMap) -> float:
    """|Fv| of a unit v that Lanczos finds: never below the smallest singular value."""
    size = _norm_estimate(F) or 1.0
    vector = _least_eigenvector(lambda r: F.adjoint(F.apply(r) / size) / size, F.shape[1])
    return float(np.linalg.norm(F.apply(vector[None]))) / float(np.linalg.norm(vector))


def _null_direction(F: LinearMap) -> Array:
    """A unit vector near the null space: a random one less what F can see of it."""
    if F.is_small:
        return np.asarray(np.linalg.svd(F.matrix())[2][-1])
    operator = F.as_linear_operator()
    vector = np.random.default_rng(0).standard_normal(F.shape[1])
    for _ in range(4):
        vector = vector / np.linalg.norm(vector)
        image = F.apply(vector[None])[0]
        if not image.any():
            break
        seen = lsmr(operator, image, atol=1e-15, btol=1e-15, conlim=0, maxiter=500)[0]
        if np.linalg.norm(vector - seen) < 1e-8:  # nothing is left: no null space within reach
            break
        vector = vector - seen
    return np.asarray(vector / np.linalg.norm(vector))


def _null_pair(F: _LinearTwisted, direction: Array) -> tuple[Array, Array] | None:
    """(v, 0) if |Fv| is at rounding level."""
    pair = (direction, np.zeros_like(direction))
    return pair if F.violated_by(*pair) else None


def _wording(F: _LinearTwisted, pair: tuple[Array, Array]) -> str:
    residual, scale = F.residual(*pair), F.scale or 1.0
    exact = "null direction, exact" if residual == 0 else "null direction to rounding"
    return f"{exact}: relative residual {residual / scale:.1e}"


def _linear(F: _LinearTwisted, bound: float | None, stated: bool) -> _Finding:
    m, n = F.shape
    if m < n:
        pair = _null_pair(F, _null_direction(F))
        reason = f"dimension argument: a linear map from R^{n} to R^{m} has a null direction"
        if pair is None:
            return _Finding(None, f"{reason}, but none was found to rounding", math.nan,
                            sufficient=math.inf, sufficient_certificate=reason)  # fmt: skip
        return _Finding(False, f"{reason}; {_wording(F, pair)}", 0.0, pair, math.inf, reason)
    if F.Q is None and m == n:
        spectrum = _spectrum(F.A)
        if spectrum is not None:
            return _from_spectrum(F, spectrum)
    elif F.is_small:
        return _rectangular(F)
    return _matrix_free(F, bound, stated)


def _rectangular(F: _LinearTwisted) -> _Finding:
    """A + λQᵀ with at least as many rows as columns, dense."""
    _, values, right = np.linalg.svd(F.matrix(), full_matrices=False)
    sufficient, why = None, ""
    if F.Q is not None:
        least = float(np.linalg.svd(F.Q.matrix(), compute_uv=False)[-1])
        norm = float(np.linalg.svd(F.A.matrix(), compute_uv=False)[0])
        if least > max(F.shape) * EPS * norm:
            sufficient, why = norm / least, "Lipschitz constant |A| over the least one of Q"
    found = _decide(F, float(values[-1]), lambda: right[-1], "dense singular value decomposition")
    return _Finding(*found, sufficient, why)


def _decide(
    F: _LinearTwisted,
    least: float,
    direction: Callable[[], Array],
    source: str,
    lower: float | None = None,
) -> tuple[bool | None, str, float, tuple[Array, Array] | None]:
    """(holds, certificate, margin, witness) from the smallest singular value or a lower bound."""
    proved = least if lower is None else lower
    unsure = max(F.shape) * EPS * F.scale
    if proved > 2 * unsure:  # scale is from below
        least_word = "" if lower is None else " (margin: at least)"
        return True, f"smallest singular value of F, {source}{least_word}", proved, None
    pair = _null_pair(F, direction())
    if pair is not None:
        return False, f"{_wording(F, pair)} ({source})", 0.0, pair
    return (
        None,
        f"near the boundary: smallest singular value {least:.1e} is within the rounding of the "
        f"{source}, {unsure:.1e}",
        least,
        None,
    )


@dataclass(frozen=True)
class _Diagonal:
    """A = L diag(a) L* with orthonormal L, or with one of a known `condition`."""

    multipliers: Any
    vector: Callable[[int], Array]
    condition: float
    name: str


@dataclass(frozen=True)
class _Blocks:
    """A in an orthonormal basis in which it is block diagonal: (rows of the basis, block)."""

    blocks: tuple[tuple[Array | None, Array], ...]
    name: str


def _spectrum(A: LinearMap) -> tuple[_Diagonal | None, _Blocks | None] | None:
    """The full spectrum of a square A, in one or both of two forms; None where out of reach."""
    form = A.spectral()
    if form is not None and form.left == form.right and _diagonalises(form.left, A, form):
        multipliers = np.asarray(form.multipliers)
        return _Diagonal(multipliers, form.left.direction, 1.0, "fast transform"), None
    mirrored = _mirror_spectrum(A)
    if A.is_small:
        return mirrored, _Blocks(((None, A.matrix()),), "dense decomposition")
    blocks = _parity_blocks(A)
    return None if mirrored is None and blocks is None else (mirrored, blocks)


def _diagonalises(basis: Basis, A: LinearMap, form: Any) -> bool:
    """Whether coordinates of Ax are multiples of those of x (a Fourier symbol may be no symbol)."""
    row = np.random.default_rng(0).standard_normal((1, A.shape[1]))
    expected = form.multipliers * basis.analyze(row)
    seen = basis.analyze(A.apply(row))
    return bool(np.linalg.norm(seen - expected) <= 1e-12 * np.linalg.norm(expected) + 1e-300)


def _is_even(A: LinearMap) -> bool:
    return isinstance(A, Convolution) and all(
        size % 2 == 1 and np.array_equal(A.kernel, np.flip(A.kernel, axis))
        for axis, size in enumerate(A.kernel.shape)
    )


def _mirror_spectrum(A: LinearMap) -> _Diagonal | None:
    r"""Mirror padding and an even kernel: eigenvectors :math:`\cos(\pi ki/(n-1))` in every axis.

    They are orthogonal with the weights 1/2, 1, ..., 1, 1/2, so the matrix that diagonalises A has
    a condition number of at most :math:`\sqrt2` per axis, and :math:`\sigma_{\min}(A+\lambda I)
    \ge 2^{-d/2}\min_k|a_k+\lambda|` although A is not normal.
    """
    if not (isinstance(A, Convolution) and A.padding == "mirror" and _is_even(A)):
        return None
    image = A.kernel
    angles = [np.pi * np.arange(size) / max(size - 1, 1) for size in A.grid]
    for axis, angle in enumerate(angles):
        image = _cosine_sums(image, axis, angle, A.kernel.shape[axis] // 2)

    def vector(index: int) -> Array:
        k = np.unravel_index(index, A.grid)
        waves = [np.cos(angles[axis][k[axis]] * np.arange(s)) for axis, s in enumerate(A.grid)]
        flat = reduce(np.multiply.outer, waves).ravel()
        return np.asarray(flat / np.linalg.norm(flat))

    return _Diagonal(image.ravel(), vector, 2.0 ** (len(A.grid) / 2), "cosine transform")


def _parity_blocks(A: LinearMap) -> _Blocks | None:
    """An even kernel keeps images that are even or odd in each axis apart: 2^d smaller blocks."""
    if not (isinstance(A, Convolution) and _is_even(A)):
        return None
    if math.prod((size + 1) // 2 for size in A.grid) ** 2 > DENSE_ENTRIES:
        return None
    halves = []
    for size in A.grid:
        unit = np.eye(size)
        pair = (unit + unit[::-1], unit - unit[::-1])
        even, odd = (part[: (size + 1) // 2] for part in pair)
        odd = odd[: size // 2]
        halves.append([half / np.linalg.norm(half, axis=1, keepdims=True) for half in (even, odd)])
    blocks = []
    for parts in product(*halves):
        rows = reduce(np.kron, parts)
        if len(rows):
            images = [A.apply(rows[k : k + 128]) for k in range(0, len(rows), 128)]
            blocks.append((rows, rows @ np.concatenate(images).T))
    return _Blocks(tuple(blocks), "dense decomposition of the even and odd parts")


def _from_spectrum(
    F: _LinearTwisted, spectrum: tuple[_Diagonal | None, _Blocks | None]
) -> _Finding:
    """The exact answer for a square linear A."""
    diagonal, blocks = spectrum
    weight, n = F.weight, F.shape[1]
    unsure = 2 * n * EPS * F.norm
    sufficient: float | None = None
    why, monotone, eigenvalues = "", None, None
    if diagonal is not None:
        a, normal = diagonal.multipliers, diagonal.condition == 1.0
        index = int(np.argmin(np.abs(a + weight)))
        least = float(np.abs(a[index] + weight))
        lower = None if normal else least / diagonal.condition
        found = _decide(F, least, lambda: diagonal.vector(index), diagonal.name, lower)
        real = a.real[np.abs(a.imag) <= unsure]  # the others are never zero, plus any weight
        sufficient = _above(-real, unsure)
        why = f"real eigenvalues, {diagonal.name}"
        monotone = _above(-a.real, 0.0) if normal else None
        eigenvalues = a
    if blocks is not None:
        slopes = [-np.linalg.eigvalsh((block + block.T) / 2)[0] for _, block in blocks.blocks]
        monotone = _above(np.array(slopes), 0.0)
        shifted = [block + weight * np.eye(len(block)) for _, block in blocks.blocks]
        values = [float(np.linalg.svd(block, compute_uv=False)[-1]) for block in shifted]
        k = int(np.argmin(values))

        def direction() -> Array:
            right = np.linalg.svd(shifted[k])[2][-1]
            rows = blocks.blocks[k][0]
            return np.asarray(right if rows is None else right @ rows)

        found = _decide(F, values[k], direction, blocks.name)
        if eigenvalues is None:
            eigenvalues = np.concatenate([np.linalg.eigvals(block) for _, block in blocks.blocks])
            sufficient, why = _march(blocks, _above(np.array(slopes), unsure), unsure)
    assert eigenvalues is not None
    real = eigenvalues.real[np.abs(eigenvalues.imag) <= unsure]
    failing = np.unique(np.maximum(-real[real <= unsure], 0.0))
    return _Finding(*found, sufficient, why, monotone, failing)


def _above(values: Any, slack: float) -> float:
    """The largest value, not below zero; slack added where it is positive."""
    largest = float(values.max(initial=-math.inf))
    return max(largest + slack, 0.0) if largest > -slack else 0.0


def _march(blocks: _Blocks, start: float, unsure: float) -> tuple[float, str]:
    r"""The smallest weight that is certified together with all larger ones.

    Above `start` A + λI is monotone. From there down: :math:`\sigma_{\min}(A+\lambda I)` changes by
    no more than λ does, so a value s at λ certifies all of :math:`(\lambda-s, \lambda]`.
    """
    matrices = [block for _, block in blocks.blocks]
    if all(np.array_equal(block, block.T) for block in matrices):
        return start, "eigenvalues of a symmetric A"
    if start == 0.0 or max(map(len, matrices)) > MARCH_SIZE:
        return start, "monotone: the symmetric part of A"
    weight = start
    for _ in range(MARCH_STEPS):
        shifted = [block + weight * np.eye(len(block)) for block in matrices]
        least = min(float(np.linalg.svd(S, compute_uv=False)[-1]) for S in shifted) - 2 * unsure
        if least <= 1e-6 * max(weight, unsure):
            break
        weight -= least
        if weight <= 0.0:
            return 0.0, "singular values of A + λI, continued in λ"
    return weight, "singular values of A + λI, continued in λ"


def _slope_bound(A: LinearMap) -> float | None:
    """A lower bound of <Av, v> / |v|²: zero padding cuts a circular convolution, whose is known."""
    if not (isinstance(A, Convolution) and A.padding == "zero"):
        return None
    symbol = A._padded[1]
    return float(symbol.real.min()) - A.shape[0] * EPS * float(np.abs(symbol).max())


def _matrix_free(F: _LinearTwisted, bound: float | None, stated: bool) -> _Finding:
    """Products only: a norm bound, monotonicity as stated, a null direction; else no verdict."""
    said, A = "", F.A
    size = F.norm
    if bound is not None and size > bound * (1 + 1e-9):
        said += f"; the stated Lipschitz constant {bound:g} is refuted by a norm of {size:g}"
        bound = None
    bounds = [value for value in (bound, A.norm_bound) if value is not None]
    square = F.Q is None and F.shape[0] == F.shape[1]
    stated = stated and square  # monotonicity says nothing about another A + λQᵀ
    if stated:
        vector = _least_eigenvector(lambda r: (A.apply(r) + A.adjoint(r)) / 2, A.shape[1])
        slope = float(A.apply(vector[None])[0] @ vector)
        if slope < -A.shape[1] * EPS * size:
            said += f"; the stated monotonicity is refuted: <Av, v> = {slope:.1e} for a unit v"
            stated = False
    grounds: tuple[float | None, str] = (
        (min(bounds), "Lipschitz constant") if bounds else (None, "")
    )
    word = "Lipschitz constant (Claim 1)"
    slope_bound = _slope_bound(A)
    if slope_bound is not None and (not bounds or -slope_bound < min(bounds)):
        grounds = max(-slope_bound, 0.0), "monotone: the symmetric part of A, bounded"
        word = grounds[1]
    if stated:
        grounds, word = (0.0, "monotone (stated)"), "monotone (stated, not refuted)"
    if not square:
        grounds = None, ""  # needs the least singular value of Q
    monotone = 0.0 if stated else None if slope_bound is None else max(-slope_bound, 0.0)
    if grounds[0] is not None and F.weight > grounds[0]:
        certificate = f"{word}{said}; margin: at least"
        return _Finding(True, certificate, F.weight - grounds[0], None, *grounds, monotone)
    pair = _null_pair(F, _null_direction(F))
    if pair is not None:
        return _Finding(False, _wording(F, pair) + said, 0.0, pair, *grounds, monotone)
    estimate = _smallest_singular_estimate(F)
    certificate = f"numerical estimate: iterations bound the margin from above only{said}"
    return _Finding(None, certificate, estimate, None, *grounds, monotone)


# --- nonlinear maps -----------------------------------------------------------------------------


def _pairs(F: _Twisted) -> tuple[Array, Array]:
    """Pairs to test a statement at: the points with each other, and with points near and far."""
    rng = np.random.default_rng(0)
    chosen, scale = F.points[:64], F.scale
    i, j = np.triu_indices(len(chosen), k=1)
    i, j = i[:2000], j[:2000]
    first, second = [chosen[i]], [chosen[j]]
    for size in (1e-3, 1e-2, 0.1, 1.0, 4.0):
        steps = rng.standard_normal(chosen.shape)
        steps /= np.linalg.norm(steps, axis=1, keepdims=True)
        axis = np.zeros_like(chosen)
        axis[np.arange(len(chosen)), rng.integers(chosen.shape[1], size=len(chosen))] = 1.0
        for step in (steps, axis):
            first.append(chosen)
            second.append(chosen + size * scale * step)
    left, right = np.concatenate(first), np.concatenate(second)
    usable = np.linalg.norm(left - right, axis=1) > 1e-6 * scale
    usable &= np.isfinite(F.forward(right)).all(axis=1)
    return left[usable], right[usable]


def _nonlinear(F: _Twisted, bound: float | None, stated: bool) -> _Finding:
    said = ""
    first, second = _pairs(F)
    image, moved = F.forward(first), F.forward(second)
    change, step = image - moved, first - second
    apart = np.linalg.norm(step, axis=1)
    noise = ROUNDINGS * EPS * (np.linalg.norm(image, axis=1) + np.linalg.norm(moved, axis=1))
    if bound is not None:
        steepest = float(((np.linalg.norm(change, axis=1) - noise) / apart).max())
        if steepest > bound * (1 + 1e-9):
            said += f"; the stated Lipschitz constant {bound:g} is refuted by a pair: {steepest:g}"
            bound = None
    if stated and F.Q is not None:
        said += "; monotonicity says nothing about A + λQᵀ"
        stated = False
    if stated:
        slopes = np.einsum("ij,ij->i", change, step)
        if (slopes < -noise * apart).any():
            k = int(np.argmin(slopes / apart**2))
            slope = slopes[k] / apart[k] ** 2
            said += f"; the stated monotonicity is refuted by a pair: slope {slope:.2g}"
            stated = False
    least = 1.0
    if F.Q is not None:
        wide = F.Q.shape[0] > F.Q.shape[1] or not F.Q.is_small
        least = 0.0 if wide else float(np.linalg.svd(F.Q.matrix(), compute_uv=False)[-1])
    sufficient: float | None = None
    why, monotone = "", 0.0 if stated else None
    if bound is not None and least > 0:
        sufficient, why = bound / least, "Lipschitz constant (stated)"
    if stated:
        sufficient, why = 0.0, "monotone (stated)"
    if sufficient is not None and F.weight > sufficient:
        word = "monotone" if stated else "Lipschitz constant (Claim 1)"
        certificate = f"{word}: stated, not refuted by {len(first)} pairs{said}; margin: at least"
        margin = F.weight if stated else F.weight * least - float(bound or 0.0)
        return _Finding(True, certificate, margin, None, sufficient, why, monotone)
    small = F.m < F.n
    if small:
        sufficient, why = math.inf, f"dimension argument: R^{F.n} to R^{F.m}, for a continuous A"
    with np.errstate(all="ignore"):  # far from the points the function may overflow
        pair = _search(F)
    if pair is not None:
        largest, usual = float(np.abs(pair).max()), float(np.abs(F.points).max())
        certificate = (
            f"violating pair found by search (to rounding), entries up to {largest:.3g} "
            f"(points: {usual:.3g})" + (f"; {why}" if small else "") + said
        )
        return _Finding(False, certificate, 0.0, pair, sufficient, why, monotone)
    certificate = f"not certified: no statement covers this weight, and no violation found{said}"
    if small:
        certificate = f"{why}, but no pair was found{said}"
    return _Finding(None, certificate, math.nan, None, sufficient, why, monotone)


def _jacobian(F: _Twisted, x: Array) -> Array:
    """Central differences, (m, n)."""
    h = 1e-6 * max(F.scale / math.sqrt(F.n), float(np.abs(x).max()))
    steps = h * np.eye(F.n)
    return np.asarray((F(x + steps) - F(x - steps)).T / (2 * h))


def _solve(F: _Twisted, target: Array, start: Array) -> Array:
    """Damped Newton (least squares, shortest step) for F(x) = target."""
    x = start
    miss = F(x[None])[0] - target
    for _ in range(30):
        size = float(np.linalg.norm(miss))
        if size == 0 or not math.isfinite(size):
            break
        jacobian = _jacobian(F, x)
        if not np.isfinite(jacobian).all():
            break
        step = np.linalg.lstsq(jacobian, miss, rcond=1e-10)[0]
        shares = 0.5 ** np.arange(8)
        trials = x - shares[:, None] * step
        misses = F(trials) - target
        best = int(np.argmin(np.nan_to_num(np.linalg.norm(misses, axis=1), nan=np.inf)))
        if not np.linalg.norm(misses[best]) < size:
            break
        x, miss = trials[best], misses[best]
    return x


def _search(F: _Twisted) -> tuple[Array, Array] | None:
    """Two points with the same image: plateaus, Newton from afar, and folds; None if not found."""
    rng = np.random.default_rng(0)
    chosen = F.points[np.unique(np.linspace(0, len(F.points) - 1, 6).astype(int))]
    sizes = F.scale * np.array([0.2, 1.0, 4.0, 30.0])
    for x in (*chosen, *(4 * chosen)):  # plateaus: one entry moved, here and further out
        axes = np.eye(F.n)[rng.permutation(F.n)[:64]]
        moved = np.concatenate([x + s * d for s in (-F.scale, F.scale) for d in (axes, -axes / 4)])
        equal = np.flatnonzero((F(moved) == F(x[None])).all(axis=1))
        for k in equal:
            if F.violated_by(x, moved[k]) and not _saturated(F, x, moved[k]):
                return x, moved[k]
    if F.n > NEWTON_SIZE:
        return None
    for x in chosen:
        target = F(x[None])[0]
        jacobian = np.nan_to_num(_jacobian(F, x), posinf=0.0, neginf=0.0)
        flat = np.linalg.svd(jacobian)[2][-1]
        away = rng.standard_normal(F.n)
        starts = [x + s * d for s in sizes for d in (flat, -flat, away / np.linalg.norm(away))]
        for start in (*starts, *chosen):
            end = _solve(F, target, start)
            if F.violated_by(x, end) and not _saturated(F, x, end):
                return x, end
    return _fold(F, chosen) if F.m == F.n else None


def _saturated(F: _Twisted, first: Array, second: Array) -> bool:
    """Whether a pair may be equal in rounding only: it lies on a plateau without a sharp end.

    A clipped map leaves its plateau like a power of the distance, so that far more change takes far
    more distance; tanh, exp(-x) and arctan creep out of theirs, which are none. A line along which
    the image never changes is a plateau.
    """
    step, image = second - first, F(first[None])[0]
    rounding = EPS * max(float(np.abs(image).max()), EPS * F.scale)

    def change(t: Any) -> Array:
        values = F(first + np.atleast_1d(t)[:, None] * step)
        return np.asarray(np.nan_to_num(np.abs(values - image), nan=np.inf).max(axis=1))

    if (change(np.linspace(0, 1, 33)) > ROUNDINGS * rounding).any():
        return False
    ends = False
    for start, sign in ((0.0, -1.0), (1.0, 1.0)):
        reach = np.append(0.0, 2.0 ** np.arange(-3, 21))
        beyond = np.flatnonzero(change(start + sign * reach) > ROUNDINGS * rounding)
        if beyond.size == 0:
            continue
        ends, low, high = True, float(reach[beyond[0] - 1]), float(reach[beyond[0]])
        for _ in range(60):
            middle = (low + high) / 2
            if float(change(start + sign * middle)[0]) > ROUNDINGS * rounding:
                high = middle
            else:
                low = middle

        def past(
            distance: Array, start: float = start, sign: float = sign, edge: float = high
        ) -> Array:
            return change(start + sign * (edge + distance))

        if _ends_sharply(past, high, rounding):
            return False
    return ends


def _ends_sharply(change: Callable[[Array], Array], edge: float, rounding: float) -> bool:
    """Whether a map leaves a plateau of length >= 1 with a power of the distance, or by a jump."""
    distance = np.asarray(EPS * max(1.0, edge) * 2.0 ** np.arange(0, 73), dtype=np.float64)
    seen = change(distance)
    little, much = (np.flatnonzero(seen > size * rounding) for size in (1e6, 1e10))
    if not (little.size and much.size):
        return False
    slope = seen[little[0]] / distance[little[0]]  # if it held on the plateau, it would be seen
    steep = slope > 1e3 * ROUNDINGS * rounding
    return bool(steep and (much[0] == 0 or distance[much[0]] > 5 * distance[little[0]]))


def _fold(F: _Twisted, chosen: Array) -> tuple[Array, Array] | None:
    """Where determinants have opposite signs there is a fold in between; pairs lie across it."""
    wider = np.concatenate([chosen, 4 * chosen, 0 * chosen[:1]])
    signs = np.array([np.linalg.slogdet(_jacobian(F, x))[0] for x in wider])
    for i, j in zip(*np.nonzero(np.triu(np.outer(signs, signs) < 0)), strict=True):
        low, high = wider[i], wider[j]
        for _ in range(40):
            middle = (low + high) / 2
            if np.linalg.slogdet(_jacobian(F, middle))[0] == signs[i]:
                low = middle
            else:
                high = middle
        direction = np.linalg.svd(_jacobian(F, low))[2][-1]
        for size in F.scale * np.array([0.1, 0.3, 1.0, 3.0]):  # continue away from the fold
            for sign in (1.0, -1.0):
                first = low + sign * size * direction
                end = _solve(F, F(first[None])[0], low - sign * size * direction)
                if F.violated_by(first, end) and not _saturated(F, first, end):
                    return first, end
    return None
