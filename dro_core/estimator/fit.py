"""The fitted map with its worst case, the lower value, and the saddle certificate of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dro_core.certificate import relative_gap, risk_rounding
from dro_core.checks import as_samples
from dro_core.described import Described, Drawn
from dro_core.entropic import EntropicWorstCase, entropic_worst_case
from dro_core.estimator.law import Law
from dro_core.linear_map import DenseMap
from dro_core.read_only import ReadOnly, read_only
from dro_core.samples import Samples
from dro_core.structure import PointStructure, Structure
from dro_core.types import Array
from dro_core.worst_case import WorstCase, worst_case_risk

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class FitCertificate(Described):
    """What `LinearFit.verify` recomputed through the map and the law.

    Attributes
    ----------
    upper : float
        Proved upper value of the worst-case risk of the map (`WorstCase.verify`).
    lower : float
        Least-squares risk under the law: no linear map has a smaller worst-case risk.
    gap : float
        (upper - lower) / upper: how far the map may be from optimal.
    spent, budget : float
        Transport cost (or ε KL) of the law, and what it may be.
    resolution : float
        Rounding of the former.
    risk_resolution : float
        Rounding of `upper` and `lower`, as in `Certificate`.
    """

    upper: float
    lower: float
    gap: float
    spent: float
    budget: float
    resolution: float = 1e-300
    risk_resolution: float = 0.0

    def holds(self, rtol: float = 1e-4) -> bool:
        """Whether the law is in the ball and the map proved optimal.

        Up to `rtol`, relatively, and the rounding of cost and risks.
        """
        return (
            math.isfinite(self.risk_resolution)
            and self.gap * self.upper <= rtol * self.upper + self.risk_resolution
            and self.spent <= self.budget * (1 + 1e-8) + self.resolution
        )


class LinearFit(ReadOnly, Drawn):
    """A fitted linear map with its worst-case risk and its distance from optimality.

    Attributes
    ----------
    matrix : (n, m) array
        The map from y to x.
    risk : float
        Its worst-case risk: the value of the problem, up to `gap`.
    lower : float
        A proved lower value of the smallest worst-case risk of any linear map.
    worst : WorstCase or EntropicWorstCase
        The worst case of the map; its `structure` has the weights.
    law : Law
        The law of the ball that proves `lower`; for samples that were given in blocks a law around
        rows with their second moments.
    structure : str
        The name of the structure.
    radius, epsilon : float
    """

    described_by = (
        "matrix",
        "structure",
        "radius",
        "epsilon",
        "risk",
        "lower",
        "gap",
        "multiplier",
    )

    def __init__(
        self,
        matrix: Array,
        worst: WorstCase | EntropicWorstCase,
        law: Law,
        data: tuple[Array, Array, Array],
        structure: Structure,
        radius: float,
        epsilon: float,
    ) -> None:
        self.matrix, self.worst, self.law, self._data = matrix, worst, law, data
        self._moves, self.structure = structure, structure.name
        self.radius, self.epsilon = radius, epsilon
        self.risk = worst.risk
        x, y, weights = data
        self.lower = min(law.least_squares_risk(x, y, weights), self.risk)
        self._size = float(weights @ (x**2).sum(axis=1))
        self._size += DenseMap(matrix).squared_terms(np.sqrt(weights @ (y * y)))
        self._protect()

    def _gap(self, upper: float, lower: float) -> float:
        return 0.0 if upper <= risk_rounding(0.0, 16 * self._size) else relative_gap(upper, lower)

    def of_samples(self, samples: Samples) -> LinearFit:
        """The same fit with the worst case of its map for samples with these second moments."""
        arguments = self.matrix, samples, None, self.radius
        worst: WorstCase | EntropicWorstCase
        if self.epsilon > 0:
            worst = entropic_worst_case(*arguments, self.epsilon, self._moves)
        else:
            worst = worst_case_risk(*arguments, self._moves)
        return LinearFit(
            self.matrix, worst, self.law, self._data, self._moves, self.radius, self.epsilon
        )

    @property
    def gap(self) -> float:
        """Relative saddle gap (risk - lower) / risk; zero for a risk that is rounding."""
        return self._gap(self.risk, self.lower)

    @property
    def multiplier(self) -> float:
        """Optimal multiplier of the worst case."""
        return self.worst.multiplier

    @cached_property
    def singular_values(self) -> Array:
        """Singular values of the map, in decreasing order."""
        return read_only(np.asarray(np.linalg.svd(self.matrix, compute_uv=False), np.float64))

    def predict(self, y: ArrayLike) -> Array:
        """Reconstructions of rows of y: (N, m) -> (N, n)."""
        rows = as_samples(y, "y")
        if rows.shape[1] != self.matrix.shape[1]:
            raise ValueError(
                f"y: {rows.shape[1]} columns, but the map takes {self.matrix.shape[1]}"
            )
        return rows @ self.matrix.T

    def verify(self) -> FitCertificate:
        """Recompute both values: the worst case through its own certificate, the law afresh."""
        x, y, weights = self._data
        lower = self.law.least_squares_risk(x, y, weights)
        certificate = self.worst.verify()
        upper = max(certificate.dual_risk, self.risk)
        if self.epsilon > 0 and isinstance(self._moves, PointStructure):
            spent = self.law.divergence(weights, self.epsilon, self._moves)
        else:
            spent = self.law.spent(weights, self._moves)
        resolution = 1e-300 + 1e-24 * self.epsilon * (x.shape[1] + y.shape[1])
        return FitCertificate(
            upper,
            lower,
            self._gap(upper, lower),
            spent,
            self.radius**2,
            resolution,
            risk_rounding(upper, 16 * self._size),
        )

    def _draw(self, ax: Axes) -> None:
        """Singular values of the map."""
        values = self.singular_values
        ax.semilogy(np.arange(1, len(values) + 1), values, ".-")
        ax.set_xlabel("index")
        ax.set_ylabel("singular value of the map")
        ax.set_title(
            f"worst-case risk {self.risk:.4g} at radius {self.radius:.4g}, gap {self.gap:.1g}"
        )
