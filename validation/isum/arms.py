"""The arms, and the comparisons that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

MAIN = ("main", "imbalance", "levels")


@dataclass(frozen=True)
class Arm:
    """One way of training: the cost's terms, the divergence, and what is measured."""

    name: str
    divergence: str = "kl"
    likelihood: float = 1.0
    quadratic: float = 1.0
    part: str = "main"  #: the comparison that it belongs to

    @property
    def scale(self) -> float:
        """Of the cost, before factors: total cost is matched, except at the paper's scale."""
        total = 1.0 if self.part == "paper-scale" else (self.likelihood + self.quadratic) / 2
        return 1.0 / total


COMPARISONS = {
    "main": [
        Arm("ISUM"),
        Arm("OT variant", "balanced"),
        Arm("quadratic only", likelihood=0.0),
        Arm("likelihood only", quadratic=0.0),
    ],
    "imbalance": [
        Arm("ISUM, imbalanced", part="imbalance"),
        Arm("OT, imbalanced", "balanced", part="imbalance"),
    ],
    "levels": [
        Arm("ISUM, levels", part="levels"),
        Arm("OT, levels", "balanced", part="levels"),
    ],
    "paper-scale": [
        Arm("ISUM, paper scale", part="paper-scale"),
        Arm("quadratic only, paper scale", likelihood=0.0, part="paper-scale"),
        Arm("likelihood only, paper scale", quadratic=0.0, part="paper-scale"),
    ],
}
