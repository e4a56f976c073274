"""The answer to the twist condition, what proves it, and its recomputation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dro_core.described import Described
from dro_core.linear_map import LinearMap, MapLike
from dro_core.twist.twisted import LinearTwisted, as_twisted
from dro_core.types import Array


@dataclass(frozen=True, repr=False)
class TwistCertificate(Described):
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


@dataclass(frozen=True, repr=False)
class TwistReport(Described):
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

    described_by = (
        "holds",
        "certificate",
        "margin",
        "witness",
        "residual",
        "distance",
        "sufficient_weight",
        "sufficient_certificate",
        "monotone_weight",
        "failing_weights",
        "weight",
    )

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

    def verify(self, forward: MapLike | Callable[[Array], Array]) -> TwistCertificate:
        """Recompute the witness, or look for a pair that contradicts the margin.

        Parameters
        ----------
        forward
            The map A that `twist_condition` was given.

        Returns
        -------
        TwistCertificate
        """
        F = as_twisted(forward, self.weight, self.upsample, self.points)
        nan = math.nan
        if self.witness is not None:
            first, second = self.witness
            return TwistCertificate(
                self.holds,
                self.margin,
                F.violated_by(first, second),
                F.residual(first, second),
                F.rounding(first, second),
                float(np.linalg.norm(first - second)),
                nan,
            )
        stretch = F.smallest_stretch()
        return TwistCertificate(self.holds, self.margin, False, nan, nan, nan, stretch)


@dataclass(frozen=True)
class Finding:
    """A verdict and its grounds, before the parts that every report has."""

    holds: bool | None
    certificate: str
    margin: float
    witness: tuple[Array, Array] | None = None
    sufficient: float | None = None
    sufficient_certificate: str = ""
    monotone: float | None = None
    failing: Array | None = None


def wording(F: LinearTwisted, pair: tuple[Array, Array]) -> str:
    residual, scale = F.residual(*pair), F.scale or 1.0
    exact = "null direction, exact" if residual == 0 else "null direction to rounding"
    return f"{exact}: relative residual {residual / scale:.1e}"
