"""Candidate maps judged: the worst case of each, and the law that bounds every other from below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dro_core.checks import LARGEST, magnitude
from dro_core.entropic import EntropicWorstCase, entropic_worst_case
from dro_core.estimator.fit import LinearFit
from dro_core.estimator.law import Law, law_of_gaussians
from dro_core.structure import Structure
from dro_core.types import Array
from dro_core.worst_case import WorstCase, worst_case_risk
from dro_core.worst_case.problem import too_small_to_square

#: Of scales that no arithmetic of floats joins.
TOO_FAR_APART = "x, y, radius, epsilon: too far apart in size for the arithmetic of floats; rescale"


@dataclass(eq=False)
class Judge:
    """Samples, a radius, an entropy weight and a structure, for which maps are compared."""

    x: Array
    y: Array
    weights: Array
    radius: float
    epsilon: float
    structure: Structure

    def worst(self, B: Array) -> WorstCase | EntropicWorstCase:
        """The worst case of a map."""
        arguments = (B, self.x, self.y, self.radius)
        if self.epsilon > 0:
            return entropic_worst_case(
                *arguments, self.epsilon, self.structure, weights=self.weights
            )
        return worst_case_risk(*arguments, self.structure, weights=self.weights)

    def fit(self, B: Array, laws: list[Law]) -> LinearFit:
        """The map with the law of the largest lower value."""
        largest = magnitude(B)
        if not largest <= LARGEST or too_small_to_square(largest, self.radius):
            raise OverflowError(TOO_FAR_APART)
        worst = self.worst(B)
        data = (self.x, self.y, self.weights)
        options = list(laws)
        if isinstance(worst, EntropicWorstCase):
            options.append(law_of_gaussians(worst))
        else:
            options.append(Law(worst.displacement_x, worst.displacement_y, self.no_roots()))
        fits = [
            LinearFit(B, worst, law, data, self.structure, self.radius, self.epsilon)
            for law in options
        ]
        return max(fits, key=lambda fit: fit.lower)

    def no_roots(self) -> Array:
        """The covariance of a law that does not blur."""
        return np.zeros((0, self.x.shape[1] + self.y.shape[1]))
