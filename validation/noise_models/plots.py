"""Risk against the radius for both families, and how the gap closes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from validation.results import new_figure
from validation.tables import Row, column, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("common", "own", "hull")
COLOURS = {"common": "#1b7837", "own": "#2166ac", "hull": "#b2182b"}
LABELS = {
    "common": "one member for all samples",
    "own": "one member per sample",
    "hull": "mixtures: hull = dual",
}


def risk_panels(axes: Sequence[Axes], tables: list[list[dict[str, float]]], unit: str) -> None:
    """Risk against radius: one panel per number of samples."""
    for axis, rows in zip(axes, tables, strict=True):
        radius = column(rows, "radius")
        axis.fill_between(
            radius,
            column(rows, "own"),
            column(rows, "hull"),
            color=COLOURS["hull"],
            alpha=0.12,
            lw=0,
            label="duality gap",
        )
        count = rows[0]["samples"]
        for kind in KINDS[1:] if count == 1 else KINDS:
            style = {"common": ":", "own": "--", "hull": "-"}[kind]
            axis.plot(radius, column(rows, kind), style, color=COLOURS[kind], label=LABELS[kind])
        if count == 1:
            axis.plot(
                radius,
                column(rows, "own_of_the_range"),
                color="0.3",
                lw=0.9,
                label="one member of the whole range",
            )
        axis.axvline(
            rows[0]["smallest_radius"], color="0.6", lw=0.8, label="smallest feasible radius"
        )
        axis.set(
            xlabel=f"W2 radius [{unit}]",
            ylabel=f"worst-case mean squared error [{unit}²]",
            title="one sample" if count == 1 else f"{count} samples",
            ylim=(0, None),
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)


def finish_gaps(axis: Axes, against: str, unit: str, title: str) -> None:
    """Scales and words of a panel of gaps."""
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=against,
        ylabel=f"gap (hull - own) / {unit}",
        title=title,
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def gaussian_figure(tables: list[list[dict[str, float]]], rows: list[dict[str, float]]) -> Figure:
    """Gaussian family: two sweeps of the radius, and the gap against the number of samples."""
    figure: Figure
    figure, axes = new_figure(3, width=4.7, height=4.1)
    risk_panels(axes[0, :2], tables, "data units")
    axis, samples = axes[0, 2], column(rows, "samples")
    axis.plot(samples, 1 / samples, color="0.5", lw=4, alpha=0.4, label="bound: 1 / samples")
    axis.plot(
        samples,
        np.maximum(column(rows, "gap_over_range"), 1e-12),
        "o-",
        mfc="none",
        color=COLOURS["hull"],
        label="largest gap over the radii",
    )
    finish_gaps(
        axis, "samples", "range of one sample's losses", "the gap vanishes with the samples"
    )
    figure.suptitle("Noise N(x, s²) with s in a range, soft-thresholding: the family and its hull")
    return figure


def poisson_figure(tables: list[list[dict[str, float]]], rows: Sequence[Row]) -> Figure:
    """Poisson family: two sweeps of the radius, and linear maps on ever finer grids."""
    figure: Figure
    figure, axes = new_figure(3, width=4.7, height=4.1)
    risk_panels(axes[0, :2], tables, "data units")
    axis = axes[0, 2]
    for family, marker in (("gaussian", "s"), ("poisson", "o")):
        chosen = [row for row in rows if row["family"] == family]
        members = sorted({int(row["members"]) for row in chosen})
        largest = [
            max(number(row, "gap_over_range") for row in chosen if row["members"] == count)
            for count in members
        ]
        axis.plot(members, np.maximum(largest, 1e-12), f"{marker}-", mfc="none", label=family)
    axis.plot(
        members,
        [1 / (count - 1) for count in members],
        color="0.5",
        lw=4,
        alpha=0.4,
        label="bound: 1 / (members - 1)",
    )
    members_title = "linear map, one sample: grids only"
    finish_gaps(axis, "members on a grid of the range", "range of the losses", members_title)
    figure.suptitle(
        "Noise Poisson(p x) / p with p in a range, soft-thresholding: the family and its hull"
    )
    return figure
