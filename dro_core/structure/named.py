"""Structures by name, and which moves of finitely many candidates they admit."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import as_samples, unknown
from dro_core.structure.base import Structure
from dro_core.structure.graph import GraphShift, XShift, YShift
from dro_core.structure.point import Joint, XGivenY, YGivenX
from dro_core.types import Array, Booleans

#: Structures by name; "x" and "y" need their map, so only their modulus can be used by name.
STRUCTURES: dict[str, type[Structure]] = {
    cls.name: cls for cls in (Joint, YGivenX, XGivenY, XShift, YShift)
}


def _check_name(structure: object, name: str) -> None:
    if not isinstance(structure, str):
        raise TypeError(
            f"{name}: {structure!r} is neither a name nor a Structure; "
            f"allowed names: {', '.join(map(repr, STRUCTURES))}"
        )
    if structure not in STRUCTURES:
        raise ValueError(unknown(name, structure, STRUCTURES))


def structure_modulus(structure: str | Structure, lipschitz: ArrayLike) -> Array:
    r"""The modulus :math:`\kappa(L)` of a structure given by name or as an object."""
    if isinstance(structure, Structure):
        return structure.modulus(lipschitz)
    _check_name(structure, "structure")
    if structure in (XShift.name, YShift.name):  # the Lipschitz constant is that of I - BA, P - B
        return np.asarray(lipschitz, dtype=np.float64)[()]
    return as_structure(structure).modulus(lipschitz)


def as_structure(structure: str | Structure, name: str = "structure") -> Structure:
    """A structure object from a name ("joint", "y|x", "x|y") or from an object."""
    if isinstance(structure, Structure):
        return structure
    _check_name(structure, name)
    cls = STRUCTURES[structure]
    if issubclass(cls, GraphShift):
        which = {"forward": "the forward map", "posterior": "the posterior mean"}[cls._argument]
        raise ValueError(
            f"{name}: {structure!r} needs {which}; pass {cls.__name__}({cls._argument}) instead "
            "of the name"
        )
    return _by_name(cls)


@cache
def _by_name(cls: type[Structure]) -> Structure:
    """The plain structure of a class: it holds no data, so one object serves everyone."""
    return cls()


def admissible_candidates(
    x: ArrayLike,
    y: ArrayLike,
    x_candidates: ArrayLike,
    y_candidates: ArrayLike,
    structure: str | Structure = "y|x",
) -> Booleans:
    """Which candidate points each sample may be moved to under a structure (paper §2.1).

    Parameters
    ----------
    x, y : (N, n) and (N, m) arrays
        The samples.
    x_candidates, y_candidates : (M, n) and (M, m) arrays
        The candidate points (x'_j, y'_j).
    structure : "joint", "y|x", "x|y" or a Structure
        y|x admits candidates with the sample's own x (exactly equal), x|y with its own y, `XShift`
        and `YShift` those on the graph of their map, joint all; frozen axes must agree exactly.

    Returns
    -------
    (N, M) array of bool
        The mask to pass to `finite_worst_case` as `admissible`.

    Raises
    ------
    ValueError, TypeError
        For arrays that are not finite, not 2-D or do not fit together; for an unknown structure,
        or one with a Gaussian kernel.
    """
    resolved = as_structure(structure)
    points = {
        "x": as_samples(x, "x"),
        "y": as_samples(y, "y"),
        "x_candidates": as_samples(x_candidates, "x_candidates"),
        "y_candidates": as_samples(y_candidates, "y_candidates"),
    }
    for first, second in (("x", "y"), ("x_candidates", "y_candidates")):
        if len(points[first]) != len(points[second]):
            raise ValueError(
                f"{second}: {len(points[second])} rows, but {first} has {len(points[first])}"
            )
    for given, needed in (("x_candidates", "x"), ("y_candidates", "y")):
        if points[given].shape[1] != points[needed].shape[1]:
            raise ValueError(
                f"{given}: {points[given].shape[1]} columns, but {needed} has "
                f"{points[needed].shape[1]}"
            )
    return resolved.admissible(*points.values())
