"""Sizes that the search starts from: norms, smallest singular values, pairs of points."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.sparse.linalg import lsmr

from dro_core.linear_map import LinearMap
from dro_core.types import Array

#: A witness counts when its residual is at most this many roundings of what is subtracted.
ROUNDINGS = 16.0

#: The two points of a nonlinear witness are at least this share of the points' size apart.
SEPARATION = 0.1

#: ... and no entry of theirs exceeds this multiple of it.
FARTHEST = 1e6

#: Lanczos steps of an estimate, and steps of the march to the sufficient weight of a dense map.
LANCZOS_STEPS, MARCH_STEPS, MARCH_SIZE = 60, 60, 512


def norm_estimate(A: LinearMap, steps: int = 20) -> float:
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


def least_eigenvector(product_: Callable[[Array], Array], size: int) -> Array:
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


def smallest_singular_estimate(F: LinearMap) -> float:
    """|Fv| of a unit v that Lanczos finds: never below the smallest singular value."""
    size = norm_estimate(F) or 1.0
    vector = least_eigenvector(lambda r: F.adjoint(F.apply(r) / size) / size, F.shape[1])
    return float(np.linalg.norm(F.apply(vector[None]))) / float(np.linalg.norm(vector))


def null_direction(F: LinearMap) -> Array:
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
