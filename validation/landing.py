"""The picture of the first page: a signal, its worst measurement within a radius, and the risk.

A blur is inverted with a fixed regularisation. Left: a signal, its measurement, and what the
worst-case law makes of that; middle: the reconstructions of both; right: the certified worst-case
risk against the radius, if only measurements may change, or everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dro_core import LinearReconstruction
from dro_core.style import MUTED, PALETTE
from validation.figures import drawing
from validation.radii import Config as Signals
from validation.radii import blur, signals
from validation.results import Check, at_least, provenance, write_json
from validation.settings import Settings, setting, without_folders

#: Of what is given, of the measurement, and of the worst measurement.
GIVEN, MEASURED, WORST = PALETTE[5], PALETTE[0], PALETTE[1]
STRUCTURES = ("y|x", "joint", "x|y")
#: Signals, and the regularisation of the inverse.
SETTINGS = Signals(samples=200, width=2.0, regularization=1e-3)


@dataclass(frozen=True)
class Config(Settings):
    """What is shown."""

    radius: float = setting(
        0.1, "radius of the pictures, in the units of the measurements", above=0
    )
    sample: int = setting(3, "which of the signals that move most", low=0)


def run(config: Config, out: Path) -> list[Check]:
    """Draw it; written to `out`."""
    x = signals(SETTINGS)
    forward = blur(SETTINGS.width, SETTINGS.size)
    B = forward.inverse(regularization=SETTINGS.regularization)
    y = forward.apply(x)
    problem = LinearReconstruction(B, x, y)
    worst = problem.worst_case(config.radius, "y|x")
    moved = np.linalg.norm(worst.y - y, axis=1)
    chosen = int(np.argsort(-moved)[config.sample % len(moved)])
    radii = np.linspace(0.0, 2 * config.radius, 41)
    risks = {s: [problem.worst_case(r, s).risk for r in radii] for s in STRUCTURES}

    after = B.apply(worst.y[chosen][None])[0]
    with drawing(out / "landing", 3, height=2.9) as (_, axes):
        left, middle, right = axes[0]
        grid = np.arange(SETTINGS.size)
        left.plot(grid, x[chosen], "-", color=GIVEN, label="signal")
        left.plot(grid, y[chosen], "-", color=MEASURED, label="its measurement")
        left.plot(grid, worst.y[chosen], "--", color=WORST, label="the worst measurement")
        left.set(title=f"A change of size {moved[chosen]:.2g} ...")
        middle.plot(grid, x[chosen], "-", color=GIVEN, label="signal")
        clean = B.apply(y[chosen][None])[0]
        middle.plot(grid, clean, "-", color=MEASURED, label="reconstruction")
        middle.plot(grid, after, "--", color=WORST, label="of the worst measurement")
        middle.set(title=f"... ends as one of size {np.linalg.norm(after - x[chosen]):.2g}")
        for structure, dashes in zip(STRUCTURES, ("-", "--", ":"), strict=True):
            colour = WORST if structure == "y|x" else GIVEN
            right.plot(radii, risks[structure], dashes, color=colour, label=structure)
        right.axvline(config.radius, ls="-", color=MUTED, lw=0.8, zorder=0)
        right.set(title="certified worst-case risk", xlabel="radius ρ", yscale="log")
        right.legend()
        for axis in (left, middle):
            axis.set_xlabel("grid point")
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
    certificate = worst.verify()
    checks = [
        at_least("certificate of the worst case holds", float(certificate.holds()), 1.0),
        at_least("worst-case / nominal risk", worst.risk / worst.nominal_risk, 1.0),
    ]
    made = provenance("landing", without_folders(config))
    write_json(out / "landing.json", {**made, "risk": worst.risk, "checks": checks})
    return checks
