"""Linear maps: the spectrum of F decides; without a spectrum, bounds and null directions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np

from dro_core.bases import Basis, cosine_sums
from dro_core.linear_map import DENSE_ENTRIES, LinearMap
from dro_core.operators import Convolution
from dro_core.twist.estimates import (
    MARCH_SIZE,
    MARCH_STEPS,
    least_eigenvector,
    null_direction,
    smallest_singular_estimate,
)
from dro_core.twist.report import Finding, wording
from dro_core.twist.twisted import LinearTwisted
from dro_core.types import EPS, Array


def _null_pair(F: LinearTwisted, direction: Array) -> tuple[Array, Array] | None:
    """(v, 0) if |Fv| is at rounding level."""
    pair = (direction, np.zeros_like(direction))
    return pair if F.violated_by(*pair) else None


def decide_linear(F: LinearTwisted, bound: float | None, stated: bool) -> Finding:
    m, n = F.shape
    if m < n:
        pair = _null_pair(F, null_direction(F))
        reason = f"dimension argument: a linear map from R^{n} to R^{m} has a null direction"
        if pair is None:
            return Finding(
                None,
                f"{reason}, but none was found to rounding",
                math.nan,
                sufficient=math.inf,
                sufficient_certificate=reason,
            )
        return Finding(False, f"{reason}; {wording(F, pair)}", 0.0, pair, math.inf, reason)
    if F.Q is None and m == n:
        spectrum = _spectrum(F.A)
        if spectrum is not None:
            return _from_spectrum(F, spectrum)
    elif F.is_small:
        return _rectangular(F)
    return _matrix_free(F, bound, stated)


def _rectangular(F: LinearTwisted) -> Finding:
    """A + λQᵀ with at least as many rows as columns, dense."""
    _, values, right = np.linalg.svd(F.matrix(), full_matrices=False)
    sufficient, why = None, ""
    if F.Q is not None:
        least = float(np.linalg.svd(F.Q.matrix(), compute_uv=False)[-1])
        norm = float(np.linalg.svd(F.A.matrix(), compute_uv=False)[0])
        if least > max(F.shape) * EPS * norm:
            sufficient, why = norm / least, "Lipschitz constant |A| over the least one of Q"
    found = _decide(F, float(values[-1]), lambda: right[-1], "dense singular value decomposition")
    return Finding(*found, sufficient, why)


def _decide(
    F: LinearTwisted,
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
        return False, f"{wording(F, pair)} ({source})", 0.0, pair
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
        image = cosine_sums(image, axis, angle, A.kernel.shape[axis] // 2)

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


def _from_spectrum(F: LinearTwisted, spectrum: tuple[_Diagonal | None, _Blocks | None]) -> Finding:
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
    return Finding(*found, sufficient, why, monotone, failing)


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


def _matrix_free(F: LinearTwisted, bound: float | None, stated: bool) -> Finding:
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
        vector = least_eigenvector(lambda r: (A.apply(r) + A.adjoint(r)) / 2, A.shape[1])
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
        return Finding(True, certificate, F.weight - grounds[0], None, *grounds, monotone)
    pair = _null_pair(F, null_direction(F))
    if pair is not None:
        return Finding(False, wording(F, pair) + said, 0.0, pair, *grounds, monotone)
    estimate = smallest_singular_estimate(F)
    certificate = f"numerical estimate: iterations bound the margin from above only{said}"
    return Finding(None, certificate, estimate, None, *grounds, monotone)
