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
from validation.radii import Config as Signals
from validation.radii import blur, signals
from validation.results import Check, at_least, new_figure, provenance, save_figure, write_json
from validation.settings import Settings, setting, without_folders

#: Colours that survive colour blindness (Okabe and Ito), and print.
BLACK, BLUE, ORANGE = "0.25", "#0072B2", "#D55E00"
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

    canvas, axes = new_figure(3, width=3.9, height=3.1)
    left, middle, right = axes[0]
    grid = np.arange(SETTINGS.size)
    left.plot(grid, x[chosen], color=BLACK, label="signal")
    left.plot(grid, y[chosen], color=BLUE, label="its measurement")
    left.plot(grid, worst.y[chosen], color=ORANGE, ls="--", label="the worst measurement")
    left.set(title=f"A change of size {moved[chosen]:.2g} ...", xlabel="grid point")
    middle.plot(grid, x[chosen], color=BLACK, label="signal")
    middle.plot(grid, B.apply(y[chosen][None])[0], color=BLUE, label="reconstruction")
    after = B.apply(worst.y[chosen][None])[0]
    middle.plot(grid, after, color=ORANGE, ls="--", label="of the worst measurement")
    middle.set(
        title=f"... ends as one of size {np.linalg.norm(after - x[chosen]):.2g}",
        xlabel="grid point",
    )
    for structure, style in zip(STRUCTURES, ("-", "--", ":"), strict=True):
        right.plot(
            radii,
            risks[structure],
            style,
            color=ORANGE if structure == "y|x" else BLACK,
            label=structure,
        )
    right.axvline(config.radius, color="0.8", lw=0.8, zorder=0)
    right.set(title="certified worst-case risk", xlabel="radius ρ", yscale="log")
    for axis in axes[0]:
        axis.legend(fontsize=8)
    save_figure(out / "landing", canvas)
    certificate = worst.verify()
    checks = [
        at_least("certificate of the worst case holds", float(certificate.holds()), 1.0),
        at_least("worst-case / nominal risk", worst.risk / worst.nominal_risk, 1.0),
    ]
    made = provenance("landing", without_folders(config))
    write_json(out / "landing.json", {**made, "risk": worst.risk, "checks": checks})
    return checks
