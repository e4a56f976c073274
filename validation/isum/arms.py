"""The arms, and the comparisons that they belong to."""

from __future__ import annotations

from dataclasses import dataclass

MAIN = ("main", "imbalance", "levels")
#: Comparisons whose measurements have noise of several levels.
LEVELLED = ("levels", "starvation", "blind-levels")
#: Comparisons of methods at one noise level: what stands in Table 1, and is tried on other noise.
ONE_LEVEL = ("main", "baselines", "from-linear")


@dataclass(frozen=True)
class Arm:
    """One way of training: the method, the cost's terms, the divergences, what is measured."""

    name: str
    divergence: str = "kl"
    likelihood: float = 1.0
    quadratic: float = 1.0
    part: str = "main"  #: the comparison that it belongs to
    method: str = "semi-dual"  #: or "NOT", "OTUR", "RCOT"
    source: str = ""  #: divergence of the measurements, if it is another
    invariant: bool = False  #: the form that no constant in the cost changes
    start: float = 1.0  #: multiple of the cost's scale from which it is annealed
    first: bool = False  #: whether it corrects the best linear reconstruction, not the measurement
    fixed: float = 0.0  #: factor of the cost's scale, if it is not chosen on validation images

    @property
    def scale(self) -> float:
        """Of the cost, before factors: total cost is matched, except at the paper's scale."""
        total = 1.0 if self.part == "paper-scale" else (self.likelihood + self.quadratic) / 2
        return 1.0 / total

    @property
    def levelled(self) -> bool:
        """Whether its measurements have noise of several levels."""
        return self.part in LEVELLED

    @property
    def balanced(self) -> bool:
        """Whether a constant of its potential is free: nothing but R1 holds it."""
        return self.divergence == "balanced"


def _fixed(name: str, **options: str | float | bool) -> Arm:
    """An arm of the starvation study: at the full scale unless it says otherwise."""
    given = {"fixed": 1.0, "part": "starvation"} | options
    return Arm(name, **given)  # type: ignore[arg-type]


COMPARISONS = {
    "main": [
        Arm("ISUM"),
        Arm("OT variant", "balanced"),
        Arm("quadratic only", likelihood=0.0),
        Arm("likelihood only", quadratic=0.0),
    ],
    "baselines": [
        Arm("NOT", "balanced", likelihood=0.0, part="baselines", method="NOT"),
        Arm("OTUR", "balanced", likelihood=0.0, part="baselines", method="OTUR"),
        Arm("RCOT", "balanced", likelihood=0.0, part="baselines", method="RCOT"),
    ],
    "from-linear": [
        Arm("ISUM from linear", part="from-linear", first=True),
        Arm("OT from linear", "balanced", part="from-linear", first=True),
        Arm("likelihood only from linear", quadratic=0.0, part="from-linear", first=True),
    ],
    "imbalance": [
        Arm("ISUM, imbalanced", part="imbalance"),
        Arm("OT, imbalanced", "balanced", part="imbalance"),
    ],
    "levels": [
        Arm("ISUM, levels", part="levels"),
        Arm("OT, levels", "balanced", part="levels"),
    ],
    "blind-levels": [
        Arm("quadratic only, levels", likelihood=0.0, part="blind-levels"),
        Arm("NOT, levels", "balanced", likelihood=0.0, part="blind-levels", method="NOT"),
        Arm("OTUR, levels", "balanced", likelihood=0.0, part="blind-levels", method="OTUR"),
    ],
    "starvation": [
        _fixed("levels, scale 1"),
        _fixed("levels, scale 0.1", fixed=0.1),
        _fixed("levels, scale 0.03", fixed=0.03),
        _fixed("levels, fixed source", source="balanced"),
        _fixed("levels, translation-invariant", invariant=True),
        _fixed("levels, annealed from 0.03", start=0.03),
        _fixed("levels, OT at scale 1", divergence="balanced"),
    ],
    "paper-scale": [
        Arm("ISUM, paper scale", part="paper-scale", fixed=1.0),
        Arm("quadratic only, paper scale", likelihood=0.0, part="paper-scale", fixed=1.0),
        Arm("likelihood only, paper scale", quadratic=0.0, part="paper-scale", fixed=1.0),
    ],
}
