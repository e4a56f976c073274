"""Figures: excess of noise against the anisotropy of the ball, and the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dro_core.style import PALETTE
from validation.figures import drawing, name_lines
from validation.jittering.arms import SHOWN
from validation.jittering.problems import FACTORS
from validation.tables import Row, column

COLOURS = dict(
    zip(("exact", "isotropic noise", "shaped noise", "refined noise", "Tikhonov"),
        (PALETTE[5], *PALETTE), strict=False)
)  # fmt: skip


def excess_figure(rows: Sequence[Row], share: float, out: Path) -> None:
    """Worst-case risk over the optimum, against how much dearer the reliable measurements are."""
    with drawing(out / "jittering_excess", 3, height=3.0) as (figure, axes):
        for panel, family in zip(axes[0], ("every 4th", "every 8th", "smooth"), strict=True):
            for arm in SHOWN:
                bands = []
                for factor in (1.0, *FACTORS):
                    ball = "isotropic" if factor == 1.0 else f"{family} x {factor:g}"
                    chosen = [row for row in rows if row["ball"] == ball and row["share"] == share]
                    ratios = column(chosen, arm) / column(chosen, "exact")
                    bands.append(np.quantile(ratios, [0.1, 0.5, 0.9]))
                low, middle, high = np.array(bands).T
                panel.fill_between((1.0, *FACTORS), low, high, color=COLOURS[arm], alpha=0.2, lw=0)
                panel.plot((1.0, *FACTORS), middle, "o-", color=COLOURS[arm], label=arm)
            panel.axhline(1.0, ls="-", color="k", lw=0.8)
            panel.set(xscale="log", yscale="log", title=family)
        axes[0, 0].set_ylabel("worst-case risk / exact optimum,\nmedian and 10 to 90 %")
        axes[0, 1].set_xlabel("price of the reliable measurements (unreliable: 1)")
        name_lines(figure, axes[0], direct=False)


def frontier_figure(rows: Sequence[Row], out: Path) -> None:
    """Clean against worst-case root mean square error, all at the same radius."""
    names = list(dict.fromkeys(str(row["problem"]) for row in rows))
    with drawing(out / "jittering_frontier", len(names), height=3.0) as (figure, axes):
        for panel, name in zip(axes[0], names, strict=True):
            own = [row for row in rows if row["problem"] == name]
            exact = [row for row in own if row["arm"] == "exact"]
            for arm in dict.fromkeys(str(row["arm"]) for row in own):
                curve = [row for row in own if row["arm"] == arm]
                style = "o-" if arm == "exact" else "-"
                clean, worst = (np.sqrt(column(curve, side)) for side in ("clean", "worst"))
                panel.plot(clean, worst, style, color=COLOURS[arm], label=arm)
            lowest = np.sqrt(column(exact, "worst").min())
            left = np.sqrt(column(exact, "clean").min())
            panel.set(
                xlabel="clean RMSE",
                title=name,
                ylim=(0.95 * lowest, 3.0 * lowest),
                xlim=(0.95 * left, None),
            )
        axes[0, 0].set_ylabel("worst-case RMSE")
        name_lines(figure, axes[0], direct=False)
