"""A radius chosen by cross-validation: certificates of one part of the data judged on the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import (
    as_count,
    as_positive_integer,
    as_radii,
    as_samples,
    check_option,
)
from dro_core.described import Drawn
from dro_core.estimator.entry import fit_linear
from dro_core.linear_map import MapLike, as_linear_map
from dro_core.structure import PointStructure, Structure, as_structure
from dro_core.types import Array, Integer
from dro_core.worst_case import LinearReconstruction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A fixed map, or a function (x, y, radius) -> map; None fits for the structure.
Fit: TypeAlias = MapLike | Callable[[Array, Array, float], MapLike] | None


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidatedRadius(Drawn):
    """The radius that cross-validation chose, and what it saw.

    Attributes
    ----------
    radius : float
        The chosen one of `radii`.
    radii : (K,) array
        In increasing order.
    held_out : (K, F) array
        Mean squared error on the held-out part of each fold.
    certified : (K, F) array
        Worst-case risk of the same map over the ball around the rest of the data.
    criterion : "risk" or "coverage"
    """

    described_by = ("radius", "criterion", "radii", "held_out", "certified", "coverage")

    radius: float
    radii: Array
    held_out: Array
    certified: Array
    criterion: str

    @property
    def coverage(self) -> Array:
        """Share of folds whose held-out risk is covered by the certificate, (K,)."""
        return np.asarray((self.held_out <= self.certified * (1 + 1e-12)).mean(axis=1))

    def _draw(self, ax: Axes) -> None:
        """Held-out and certified risk of the folds against the radius, and the chosen one."""
        for values, label in ((self.held_out, "held out"), (self.certified, "certified")):
            line = ax.plot(self.radii, values.mean(axis=1), ".-", label=f"{label}, mean of folds")[
                0
            ]
            low, high = values.min(axis=1), values.max(axis=1)
            ax.fill_between(self.radii, low, high, alpha=0.2, linewidth=0, color=line.get_color())
        ax.axvline(self.radius, color="k", linewidth=1, label=f"chosen by {self.criterion}")
        ax.set_xlabel("W2 radius, in the units of the data")
        ax.set_ylabel("risk, in squared units of x")
        ax.legend()


def cross_validated_radius(
    x: ArrayLike,
    y: ArrayLike,
    radii: ArrayLike,
    fit: Fit = None,
    *,
    criterion: Literal["risk", "coverage"] = "risk",
    structure: str | Structure = "y|x",
    folds: Integer = 5,
    seed: int = 0,
) -> CrossValidatedRadius:
    r"""Choose a radius from held-out data, for linear maps.

    Each fold is left out in turn: the map is fitted on the rest, its mean squared error is taken on
    the fold, and its worst-case risk over the ball around the rest.

    * "risk": the radius whose maps do best on held-out data (a radius to train with);
    * "coverage": the smallest radius whose certificate covers the held-out risk in every fold
      (a radius to certify with).

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        Samples as rows.
    radii : (K,) sequence
        W2 radii >= 0 to choose from.
    fit : callable ``fit(x, y, radius) -> B``, or a fixed linear map
        What makes the (n, m) map from data, default `fit_linear` with this structure (y|x, joint
        or x|y, with weights or without); a fixed map
        is certified as it is ("coverage").
    criterion : "risk" or "coverage"
    structure : "joint", "y|x", "x|y" or a Structure
    folds : int
        2 to N.
    seed : int
        Of the assignment of samples to folds.

    Raises
    ------
    ValueError, TypeError
        For bad arrays, radii or folds; if no radius covers every fold (the message says how many
        the largest one covers); for criterion "risk" with a fixed map.
    """
    check_option(criterion, "criterion", ("risk", "coverage"))
    x, y = as_samples(x, "x"), as_samples(y, "y")
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} rows, but x has {len(x)}; row i of both belongs to sample i")
    candidates = np.unique(as_radii(radii))
    count = as_positive_integer(folds, "folds")
    if not 2 <= count <= len(x):
        raise ValueError(f"folds: {count}; allowed: 2 to the number of samples, {len(x)}")
    resolved = as_structure(structure)
    make = _fit_of(resolved) if fit is None else _as_fit(fit, criterion)
    fold = np.random.default_rng(as_count(seed, "seed")).permutation(len(x)) % count
    held_out, certified = np.empty((2, len(candidates), count))
    for f in range(count):
        out = fold == f
        for k, radius in enumerate(candidates):
            B = make(x[~out], y[~out], float(radius))
            held_out[k, f] = LinearReconstruction(B, x[out], y[out]).fidelity
            rest = LinearReconstruction(B, x[~out], y[~out])
            certified[k, f] = rest.worst_case(radius, resolved).upper
    found = CrossValidatedRadius(math.nan, candidates, held_out, certified, criterion)
    if criterion == "risk":
        best = int(np.argmin(held_out.mean(axis=1)))
    else:
        covered = found.coverage >= 1.0
        if not covered.any():
            raise ValueError(
                f"radii: none covers the held-out risk of every fold; {candidates[-1]:g} covers "
                f"{found.coverage[-1]:.0%}; pass larger ones"
            )
        best = int(np.argmax(covered))
    return CrossValidatedRadius(float(candidates[best]), candidates, held_out, certified, criterion)


def _fit_of(structure: Structure) -> Callable[[Array, Array, float], Any]:
    if not isinstance(structure, PointStructure) or structure.norm != 2.0:
        raise ValueError(
            f"fit: needed for {structure!r}; without one allowed: y|x, joint, x|y with norm 2"
        )
    return lambda x, y, radius: fit_linear(x=x, y=y, radius=radius, structure=structure).matrix


def _as_fit(fit: Fit, criterion: str) -> Callable[[Array, Array, float], Any]:
    if callable(fit) and not hasattr(fit, "matvec"):
        return fit
    fixed = as_linear_map(fit, "fit")
    if criterion == "risk":
        raise ValueError(
            "fit: a fixed map has the same held-out risk at every radius; pass a function "
            "fit(x, y, radius), or criterion='coverage'"
        )
    return lambda x, y, radius: fixed
