"""The answer of an audit: per structure an interval with its law, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dro_core.auditing.layout import Layout, Samples
from dro_core.auditing.radius import RadiusSource
from dro_core.auditing.shares import SpectralShares
from dro_core.described import Described, plain
from dro_core.types import Array

#: What the adversary of each structure moves, in words.
MOVES = {
    "y|x": "only the measurements change, the signals stay",
    "joint": "signals and measurements change together",
    "x|y": "only the signals behind given measurements change",
    "x": "another population of signals is measured by the same operator",
    "y": "another population of measurements comes with the same posterior",
    "signal-noise": "signals and noise change, each at its price",
}


@dataclass(frozen=True, eq=False, repr=False)
class StructureAudit(Described):
    r"""What one structure does to the map.

    Attributes
    ----------
    structure : str
    radius : float
        The radius of the audit.
    lower, upper : float or None
        Certified interval of the worst-case risk, in squared units of x: the risk of the law below,
        and a proved (or, with `failure_probability`, probable) upper value. None where there is
        none, with the `reason`.
    exact : bool
        Whether both ends are one value up to rounding, by strong duality.
    holds : bool
        Whether the certificate, recomputed through the map itself, says so.
    failure_probability : float
    multiplier : float or None
    radii, curve_lower, curve_upper : (K,) arrays
        The interval along the radius; NaN where there is none.
    displacement_x, displacement_y : (N, n), (N, m) arrays
        Moves of the samples under the worst-case law that was found.
    sample_shares : (N,) array
        Share of the budget spent on each sample.
    directions, direction_shares : (k, d), (k,) arrays
        Principal directions of what moves most (`moved`: "y" or "x") with their shares.
    spectral : SpectralShares or None
        Budget and risk by singular value, for linear maps that have a spectrum.
    reason : str
    """

    described_by = (
        "structure",
        "radius",
        "lower",
        "upper",
        "exact",
        "holds",
        "failure_probability",
        "multiplier",
        "reason",
    )

    structure: str
    radius: float
    lower: float | None
    upper: float | None
    exact: bool
    holds: bool
    failure_probability: float = 0.0
    multiplier: float | None = None
    radii: Array = field(default_factory=lambda: np.zeros(0))
    curve_lower: Array = field(default_factory=lambda: np.zeros(0))
    curve_upper: Array = field(default_factory=lambda: np.zeros(0))
    displacement_x: Array | None = None
    displacement_y: Array | None = None
    sample_shares: Array | None = None
    directions: Array | None = None
    direction_shares: Array | None = None
    moved: str = "y"
    spectral: SpectralShares | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All numbers but the displacements and directions, ready for JSON."""
        return {
            "structure": self.structure,
            "means": MOVES.get(self.structure, ""),
            "radius": self.radius,
            "lower": plain(self.lower),
            "upper": plain(self.upper),
            "exact": self.exact,
            "certificate_holds": self.holds,
            "failure_probability": self.failure_probability,
            "multiplier": plain(self.multiplier),
            "reason": self.reason,
            "curve": {
                "radius": plain(self.radii),
                "lower": plain(self.curve_lower),
                "upper": plain(self.curve_upper),
            },
            "sample_shares": plain(self.sample_shares),
            "direction_shares": plain(self.direction_shares),
            "spectral": None
            if self.spectral is None
            else {name: plain(value) for name, value in vars(self.spectral).items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class BestLinear(Described):
    """The linear map of smallest worst-case risk at the audit's radius, beside the audited one.

    Attributes
    ----------
    structure : str
    matrix : (n, m) array
    risk, lower, nominal : float
        Its worst-case risk at the radius, a proved lower value of that of any linear map, and its
        mean squared error on the data (on which it was fitted).
    radii, curve : (K,) arrays
        Its worst-case risk along the radius.
    overtaken_below, overtaken_above : float or None
        The nearest radii below and above the audit's from which on the audited map has the smaller
        worst-case risk; None where that does not happen.
    """

    described_by = ("structure", "risk", "lower", "nominal", "overtaken_below", "overtaken_above")

    structure: str
    matrix: Array
    risk: float
    lower: float
    nominal: float
    radii: Array
    curve: Array
    overtaken_below: float | None
    overtaken_above: float | None

    def to_dict(self) -> dict[str, Any]:
        """All numbers but the matrix, ready for JSON."""
        return {name: plain(value) for name, value in vars(self).items() if name != "matrix"}


@dataclass(frozen=True, eq=False)
class Findings:
    """What an audit found: numbers and laws, in words and as a table.

    Attributes
    ----------
    map : str
        What was audited.
    linear : bool
        Whether the answers are exact ones for a linear (or affine) map.
    radius : RadiusSource
    structures : dict of str to StructureAudit
        In the order asked for; the first is the leading one.
    nominal : float
        Mean squared error on the data, in squared units of x.
    best : BestLinear or None
        With `best_missing`, the reason, where there is none.
    field_risk : float or None
        Mean squared error on the field data, if the radius came from some.
    x, y : (N, ...) arrays
        The data in the user's shape.
    layout_x, layout_y : Layout
    weights : (N,) array
    reconstruct : callable
        The map, from rows of y to rows of x.
    notes : tuple of str
    versions : dict of str to str
    command : str
        What makes this audit again.
    """

    map: str
    linear: bool
    radius: RadiusSource
    structures: Mapping[str, StructureAudit]
    nominal: float
    best: BestLinear | None
    best_missing: str
    field_risk: float | None
    x: Samples
    y: Samples
    layout_x: Layout
    layout_y: Layout
    weights: Array
    reconstruct: Callable[[Array], Array]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @property
    def leading(self) -> StructureAudit:
        """The structure that was named first."""
        return next(iter(self.structures.values()))

    @property
    def holds(self) -> bool:
        """Whether every certificate holds (structures without an answer aside)."""
        return all(found.holds for found in self.structures.values() if found.lower is not None)

    def rmse(self, risk: float) -> float:
        r"""Root mean squared error per entry of x, :math:`\sqrt{\mathcal R/n}`, n real numbers."""
        return math.sqrt(max(risk, 0.0) / self.layout_x.size)

    def sentence(self) -> str:
        """The answer in one sentence."""
        found = self.leading
        what = MOVES.get(found.structure, f"the law changes as {found.structure} admits")
        size = self.layout_x.size if found.moved == "x" else self.layout_y.size
        rms = found.radius / math.sqrt(size)
        change = f"If {what}, by a W2 distance of at most {found.radius:.4g} ({rms:.3g} root mean "
        change += f"square per entry of {found.moved})"
        if found.lower is None:
            return f"{change}: no answer ({found.reason})."
        before, low = self.rmse(self.nominal), self.rmse(found.lower)
        start = f"the RMSE per entry of your map grows from {before:.4g} to"
        if found.upper is None:
            return f"{change}, {start} {low:.4g} at least; no upper end ({found.reason})."
        high = self.rmse(found.upper)
        if high < before * (1 - 1e-9):  # the laws of a marginal's ball lie on the graph of its map
            change += (
                f", in whose laws x and y are tied by a map that the data miss (RMSE {before:.4g})"
            )
            start = "the RMSE per entry of your map is"
        if found.exact:
            return f"{change}, {start} at most {high:.4g}, and this is attained."
        sure = ""
        if found.failure_probability > 0:
            sure = f" (with probability {1 - found.failure_probability:g})"
        return f"{change}, {start} between {low:.4g} and {high:.4g}{sure}."

    def worst_samples(self, count: int = 3) -> list[int]:
        """The samples on which the leading law spends most, first the worst."""
        shares = self.leading.sample_shares
        if shares is None:
            return []
        return [int(i) for i in np.argsort(-shares, kind="stable")[:count]]

    def worst_pair(self, sample: int) -> dict[str, Samples]:
        """One sample before and after the leading law moved it, in the user's shape.

        Returns
        -------
        dict
            `x`, `y`, `reconstruction`, and `worst_x`, `worst_y`, `worst_reconstruction`.
        """
        found = self.leading
        rows = {
            "x": self.layout_x.rows(self.x[sample : sample + 1]),
            "y": self.layout_y.rows(self.y[sample : sample + 1]),
        }
        for name, move in (("x", found.displacement_x), ("y", found.displacement_y)):
            moved = 0.0 if move is None else move[sample : sample + 1]
            rows[f"worst_{name}"] = rows[name] + moved
        rows["reconstruction"] = self.reconstruct(rows["y"])
        rows["worst_reconstruction"] = self.reconstruct(rows["worst_y"])
        layout = {name: self.layout_y if name.endswith("y") else self.layout_x for name in rows}
        return {name: layout[name].restore(value)[0] for name, value in rows.items()}

    def summary(self) -> str:
        """The report as a few lines of text."""
        lines = [self.sentence(), "", f"map      {self.map}", f"radius   {self.radius}"]
        lines += [f"data     {len(self.x)} samples, x {self.layout_x}, y {self.layout_y}", ""]
        lines.append("structure     risk (lower)   risk (upper)   RMSE/entry   certificate")
        for found in self.structures.values():
            if found.lower is None:
                lines.append(f"{found.structure:12}  {found.reason}")
                continue
            upper = "none" if found.upper is None else f"{found.upper:.6g}"
            worst = self.rmse(found.lower if found.upper is None else found.upper)
            state = "exact" if found.exact else "interval"
            state += ", holds" if found.holds else ", DOES NOT HOLD"
            lines.append(
                f"{found.structure:12}  {found.lower:<13.6g}  {upper:<13}  {worst:<11.4g}  {state}"
            )
        lines += [f"{'(data)':12}  {self.nominal:.6g}", "", self.help_sentence()]
        if self.field_risk is not None:
            lines.append(f"mean squared error measured on the field data: {self.field_risk:.6g}")
        return "\n".join([*lines, *self.notes])

    def help_sentence(self) -> str:
        """What would help: the best linear map at this radius."""
        best = self.best
        if best is None:
            return f"No best linear map beside yours: {self.best_missing}."
        found = self.structures[best.structure]
        assert found.lower is not None
        share = 1.0 - math.sqrt(best.risk / found.lower) if found.lower > 0 else 0.0
        text = (
            f"The best linear map at this radius over {best.structure} has a worst-case RMSE per "
            f"entry of {self.rmse(best.risk):.4g}, {share:.1%} below yours"
        )
        left = 1.0 - math.sqrt(best.lower / best.risk) if best.risk > 0 else 0.0
        if left > 5e-5:
            text += f" (found to {left:.1g} of itself)"
        where = []
        if best.overtaken_below is not None:
            where.append(f"below radius {best.overtaken_below:.4g}")
        if best.overtaken_above is not None:
            where.append(f"above radius {best.overtaken_above:.4g}")
        return f"{text}; yours is better than it {' and '.join(where) or 'at no radius'}."

    def to_dict(self) -> dict[str, Any]:
        """All numbers, without data and laws, ready for JSON."""
        return {
            "map": self.map,
            "linear": self.linear,
            "answer": self.sentence(),
            "samples": len(self.x),
            "shape_x": list(self.layout_x.shape),
            "shape_y": list(self.layout_y.shape),
            "complex": [self.layout_x.is_complex, self.layout_y.is_complex],
            "radius": {name: plain(value) for name, value in vars(self.radius).items()},
            "nominal_risk": self.nominal,
            "field_risk": self.field_risk,
            "structures": {name: found.to_dict() for name, found in self.structures.items()},
            "best_linear": None if self.best is None else self.best.to_dict(),
            "best_linear_missing": self.best_missing,
            "certificates_hold": self.holds,
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "command": self.command,
        }
