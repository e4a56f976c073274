"""The map F(x) = A(x) + λ Qᵀx of which the twist condition asks whether it is injective."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from dro_core.linear_map import LinearMap, MapLike, as_linear_map
from dro_core.twist.estimates import (
    FARTHEST,
    ROUNDINGS,
    SEPARATION,
    norm_estimate,
    smallest_singular_estimate,
)
from dro_core.types import EPS, Array


class Twisted:
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
        first, second = sample_pairs(self)
        apart = np.linalg.norm(first - second, axis=1)
        return float((np.linalg.norm(self(first) - self(second), axis=1) / apart).min())


class LinearTwisted(LinearMap):
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
        return norm_estimate(self.A)

    @cached_property
    def scale(self) -> float:
        """|A| + λ|Q|, from below: what the entries of A + λQᵀ are sums of."""
        return self.norm + self.weight * (1.0 if self.Q is None else norm_estimate(self.Q))

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
        return smallest_singular_estimate(self)


def as_twisted(
    forward: MapLike | Callable[[Array], Array],
    weight: float,
    Q: LinearMap | None,
    points: Array | None,
) -> Twisted | LinearTwisted:
    linear = isinstance(forward, LinearMap) or hasattr(forward, "matvec")
    if not callable(forward) or linear:
        return LinearTwisted(as_linear_map(forward, "forward"), weight, Q)
    if points is None:
        raise ValueError(
            "points: missing, but forward is a function; pass (k, n) rows where it is meant to be "
            "used (they give the dimension, and the search starts there)"
        )
    return Twisted(forward, weight, Q, points)


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


def sample_pairs(F: Twisted) -> tuple[Array, Array]:
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
