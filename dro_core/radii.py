r"""Radii that mean something: how large must a ball be to contain a given change of the world?

A worst-case risk is a statement about every law within a W2 distance `radius`. These functions
turn what one knows (a noise level, another forward operator, a gap one accepts)
into that radius, and between the units in which radii are quoted.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import (
    as_positive_integer,
    as_radius,
    as_real_array,
    as_scalar,
    check_magnitude,
    check_option,
    non_negative_array,
)
from dro_core.linear_map import LinearMap, MapLike, as_linear_map
from dro_core.samples import Block, SamplesLike, as_row_blocks
from dro_core.structure import as_covariance
from dro_core.transport import squared_norms
from dro_core.types import Array, Integer, Real


def radius_of_noise(covariance: ArrayLike, size: Integer | None = None) -> float:
    r"""Radius of additive noise, :math:`\rho = \sqrt{\operatorname{tr}\Sigma}`.

    Adding independent noise of covariance :math:`\Sigma` to the measurements moves the law of
    (x, y), x kept, by at most :math:`\rho` (coupling: the same sample with and without its noise),
    and by exactly that if y is a function of x before.

    Parameters
    ----------
    covariance : variance, (m,) variances or (m, m) matrix
        :math:`\Sigma`, in squared units of y. Not a standard deviation: square it.
    size : int, optional
        m, needed with (and only with) one variance for all entries.

    Returns
    -------
    float
        A radius for the structures y|x and joint, in the units of y.

    Raises
    ------
    ValueError, TypeError
        For negative variances, a matrix that is not square, or `size` missing or in conflict.
    """
    array = as_real_array(covariance, "covariance")
    check_magnitude(array, "covariance")
    if array.ndim == 0:
        if size is None:
            raise ValueError(
                "size: one variance is given for every entry; the number of entries is needed"
            )
        variances = np.full(as_positive_integer(size, "size"), float(array))
    elif array.ndim == 1 or (array.ndim == 2 and array.shape[0] == array.shape[1]):
        variances = array if array.ndim == 1 else np.diagonal(array)
        if array.ndim == 2:
            as_covariance(array, len(array))  # symmetric and positive semi-definite
        if size is not None and size != len(variances):
            raise ValueError(f"size: {size}, but covariance has shape {array.shape}")
    else:
        raise ValueError(
            f"covariance: shape {array.shape}; needed: a variance, (m,) variances or an (m, m) "
            "matrix"
        )
    return math.sqrt(float(non_negative_array(variances, "covariance").sum()))


def radius_of_poisson_noise(
    clean: SamplesLike, photons: Real, *, weights: ArrayLike | None = None
) -> float:
    r"""Radius of photon-counting noise, :math:`\rho^2 = \mathbb E\sum_j (Ax)_j / I`.

    The noisy measurement is y' = Poisson(I · Ax)/I with photon count I, whose variance is Ax/I
    (paper Example 2.1b).

    Parameters
    ----------
    clean : (N, m) array, or blocks of rows
        Noise-free measurements Ax >= 0, samples as rows; a memory map, a Dask array, or an object
        (no list) that hands out blocks (b, m) or (block, weights) whenever it is iterated.
    photons : float
        I > 0.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.

    Raises
    ------
    ValueError, TypeError
        For negative entries of `clean`, or a photon count that is not positive.
    """
    samples = as_row_blocks(clean, "clean", weights)
    count = as_scalar(photons, "photons", "a number > 0")
    if count <= 0:
        raise ValueError(f"photons: {count} is not positive; allowed: a number > 0")
    squared = float(samples.mean(_photons)[0]) / count
    if not math.isfinite(squared):
        raise OverflowError("clean, photons: the radius exceeds the largest float; rescale")
    return math.sqrt(squared)


def _photons(block: Block) -> tuple[float]:
    clean = block.parts[0]
    if (clean < 0).any():
        raise ValueError(f"clean: {clean.min()} is negative; expected photon counts are >= 0")
    return (float(block.weights @ clean.sum(axis=1)),)


def radius_of_operator_change(
    forward: MapLike, changed: MapLike, x: SamplesLike, *, weights: ArrayLike | None = None
) -> float:
    r"""Radius of a wrong forward operator, :math:`\rho^2 = \sum_i\mu_i\|(A' - A)x_i\|^2`.

    The law of (x, A'x) is at most that far from that of (x, Ax), with x kept: the distance of the
    structures y|x and joint.

    Parameters
    ----------
    forward, changed : (m, n) matrices, scipy sparse matrices or operators
        A and A'.
    x : (N, n) array, or blocks of rows
        Signals, samples as rows; blocks as in `radius_of_poisson_noise`.
    weights : (N,) array, optional
        Non-negative, summing to one; default uniform.

    Raises
    ------
    ValueError, TypeError
        For maps that do not fit x or each other; bad arrays or weights.
    """
    first, second = as_linear_map(forward, "forward"), as_linear_map(changed, "changed")
    samples = as_row_blocks(x, "x", weights)
    (columns,) = samples.widths
    for name, linear in (("forward", first), ("changed", second)):
        if linear.shape[1] != columns:
            raise ValueError(
                f"{name}: shape {linear.shape}, but x has {columns} columns; a map from x "
                "has as many"
            )
    if first.shape != second.shape:
        raise ValueError(f"changed: shape {second.shape}, but forward has {first.shape}")
    squared = float(samples.mean(partial(_squared_change, first, second))[0])
    if not math.isfinite(squared):
        raise OverflowError("changed, x: the change exceeds the largest float; rescale")
    return math.sqrt(squared)


def _squared_change(first: LinearMap, second: LinearMap, block: Block) -> tuple[float]:
    rows = block.parts[0]
    with np.errstate(over="ignore", invalid="ignore"):
        change = second.apply(rows) - first.apply(rows)
        return (float(block.weights @ squared_norms(change)),)


@overload
def radius_for_gap(
    gap: Real, fidelity: Real, lipschitz: Real, form: Literal["root", "squared"] = ...
) -> float: ...
@overload
def radius_for_gap(
    gap: ArrayLike,
    fidelity: ArrayLike,
    lipschitz: ArrayLike,
    form: Literal["root", "squared"] = ...,
) -> Array: ...
def radius_for_gap(
    gap: ArrayLike,
    fidelity: ArrayLike,
    lipschitz: ArrayLike,
    form: Literal["root", "squared"] = "root",
) -> float | Array:
    r"""The radius at which the conservatism gap has a given value (inverts `conservatism_gap`).

    .. math:: \rho = \frac{g\sqrt M}{\kappa(1 - g) - L},\qquad \kappa = \sqrt{1 + L^2}

    in root form; the squared form is that with :math:`g = 1 - \sqrt{1 - G}`. The gap grows with
    the radius towards :math:`1 - L/\kappa`.

    Parameters
    ----------
    gap : float or array
        In [0, 1 - L/κ) (squared form: in [0, 1 - L²/κ²)).
    fidelity : float or array
        M > 0, in squared units of x. (Without residual the gap does not depend on the radius.)
    lipschitz : float or array
        L >= 0.
    form : "root" or "squared"

    Returns
    -------
    float or array
        W2 radius in the units of the data, broadcast over the arguments.

    Raises
    ------
    ValueError, TypeError
        For a gap that no radius reaches (the message gives the limit), M = 0, or bad arguments.
    """
    check_option(form, "form", ("root", "squared"))
    g, M = non_negative_array(gap, "gap"), non_negative_array(fidelity, "fidelity")
    L = non_negative_array(lipschitz, "lipschitz")
    for name, array in (("fidelity", M), ("lipschitz", L)):
        check_magnitude(array, name)
    try:
        g, M, L = np.broadcast_arrays(g, M, L)
    except ValueError:
        raise ValueError(
            f"gap, fidelity, lipschitz: shapes {g.shape}, {M.shape}, {L.shape} do not broadcast "
            "together"
        ) from None
    if (M == 0).any():
        raise ValueError(
            "fidelity: 0.0, where the gap is 1 - L/sqrt(1 + L²) at every radius; allowed: M > 0"
        )
    kappa = np.hypot(1.0, L)
    # limit = 1 - L/κ = 1/(κ(κ + L)), without cancellation
    limit = 1.0 / (kappa * (kappa + L))
    limit = limit if form == "root" else limit * (2.0 - limit)
    if (g >= limit).any():
        at = int(np.argmax((g - limit).ravel()))
        raise ValueError(
            f"gap: {g.ravel()[at]} is not reached at L = {L.ravel()[at]:g}; the limit for large "
            f"radii is {limit.ravel()[at]:.6g}"
        )
    root_gap = g if form == "root" else g / (1.0 + np.sqrt(1.0 - g))
    return (root_gap * np.sqrt(M) / (1.0 / (kappa + L) - root_gap * kappa))[()]


def radius_from_rms(rms: Real, size: Integer) -> float:
    r"""Radius of a change with a given root mean square per entry, :math:`\rho = s\sqrt d`.

    Radii are lengths of whole displacements (a sum over entries). For an image of d pixels that
    changes by s in every pixel, that is :math:`s\sqrt d`.

    Parameters
    ----------
    rms : float
        s >= 0, in the units of the data.
    size : int
        d >= 1, entries per sample of what moves.

    Raises
    ------
    ValueError, TypeError
        For a negative or non-finite `rms`, or a size below 1.
    """
    return as_radius(rms, "rms") * math.sqrt(as_positive_integer(size, "size"))


def rms_from_radius(radius: Real, size: Integer) -> float:
    r"""Root mean square per entry of a change as large as the radius, :math:`s = \rho/\sqrt d`.

    Parameters
    ----------
    radius : float
        W2 radius >= 0 in the units of the data.
    size : int
        d >= 1, entries per sample of what moves.

    Raises
    ------
    ValueError, TypeError
        For a bad radius, or a size below 1.
    """
    return as_radius(radius) / math.sqrt(as_positive_integer(size, "size"))
