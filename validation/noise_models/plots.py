"""Risk against the radius for both families, and how the gap closes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dro_core.style import MUTED, PALETTE, look
from validation.figures import drawing, plain_ticks, series
from validation.tables import Row, column, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("common", "own", "hull")
COLOURS = dict(zip(("own", "hull", "common"), PALETTE, strict=False))
LABELS = {
    "common": "one member for all samples",
    "own": "one member per sample",
    "hull": "mixtures: hull = dual",
}

#: Bounds lie broad and pale under what they bound.
BOUND: dict[str, Any] = {"color": "0.5", "lw": 4, "alpha": 0.4}


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
                "-.",
                color=PALETTE[5],
                label="one member of the whole range",
            )
        axis.axvline(
            rows[0]["smallest_radius"],
            ls="-",
            color=MUTED,
            lw=0.8,
            label="smallest feasible radius",
        )
        axis.set(
            xlabel=f"W2 radius [{unit}]",
            ylabel=f"worst-case MSE [{unit}²]",
            title="one sample" if count == 1 else f"{count} samples",
            ylim=(0, None),
        )


def name_panels(axes: Any) -> None:
    """The names of both upper panels in the lower right quarter."""
    named = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    named |= dict(zip(*reversed(axes[0, 1].get_legend_handles_labels()), strict=True))
    axes[1, 1].set_axis_off()
    axes[1, 1].legend(named.values(), named, loc="center", title="above")


def finish_gaps(axis: Axes, against: str, unit: str, title: str) -> None:
    """Scales and words of a panel of gaps."""
    axis.set(
        xscale="log",
        yscale="log",
        xlabel=against,
        ylabel=f"(hull - own) / {unit}",
        title=title,
    )
    plain_ticks(axis.xaxis)
    axis.legend()


def gaussian_figure(
    path: Path, tables: list[list[dict[str, float]]], rows: list[dict[str, float]]
) -> None:
    """Gaussian family: two sweeps of the radius, and the gap against the number of samples."""
    with drawing(path, 2, 2, height=2.8) as (figure, axes):
        risk_panels(axes[0], tables, "data units")
        axis, samples = axes[1, 0], column(rows, "samples")
        axis.plot(samples, 1 / samples, "-", **BOUND, label="bound: 1 / samples")
        axis.plot(
            samples,
            np.maximum(column(rows, "gap_over_range"), 1e-12),
            "o-",
            mfc="none",
            color=COLOURS["hull"],
            label="largest gap over the radii",
        )
        finish_gaps(axis, "samples", "range of losses", "the gap vanishes with the samples")
        name_panels(axes)
        figure.suptitle(
            "Noise N(x, s²) with s in a range, soft-thresholding: the family and its hull"
        )


def poisson_figure(path: Path, tables: list[list[dict[str, float]]], rows: Sequence[Row]) -> None:
    """Poisson family: two sweeps of the radius, and linear maps on ever finer grids."""
    with drawing(path, 2, 2, height=2.8) as (figure, axes):
        risk_panels(axes[0], tables, "data units")
        axis = axes[1, 0]
        for k, family in enumerate(("gaussian", "poisson")):
            chosen = [row for row in rows if row["family"] == family]
            members = sorted({int(row["members"]) for row in chosen})
            largest = [
                max(number(row, "gap_over_range") for row in chosen if row["members"] == count)
                for count in members
            ]
            style = series(len(PALETTE) * k) | look(k)
            axis.plot(members, np.maximum(largest, 1e-12), mfc="none", label=family, **style)
        bound = [1 / (count - 1) for count in members]
        axis.plot(members, bound, "-", **BOUND, label="bound: 1 / (members - 1)")
        finish_gaps(
            axis,
            "members on a grid of the range",
            "range of the losses",
            "linear map, one sample: grids only",
        )
        name_panels(axes)
        figure.suptitle(
            "Noise Poisson(p x) / p with p in a range, soft-thresholding: the family and its hull"
        )
