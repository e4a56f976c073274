"""One look for figures: pictures of results (`.plot()`) and of the gallery.

Type of 8 points or more on a figure as wide as the text of a page (`PAGE` inches); six colours that
differ under every common colour blindness and stand out from white, then the same dashed, so that
no line of a plot looks like another; an opaque white ground, which a dark page shows as it is.
Known to none of the mathematics; matplotlib is imported when a figure is drawn.
"""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any

from dro_core.optional import needed

#: Blue, vermilion, purple, indigo, maroon, charcoal: at least 3:1 against white, and 19 apart in
#: CIELAB for normal sight and without long, middle or short cones (`tests/test_style.py`).
PALETTE = ("#0072B2", "#D55E00", "#CC79A7", "#332288", "#661100", "#333333")
#: Dashes: series 7 to 12 are the six colours dashed, then dotted, then both.
LINES = ("-", "--", ":", "-.")
#: What is no series: reference lines, grids, what is only context.
MUTED = "#767676"
#: Inches: the text of a page. Wider figures shrink there, and their type with them.
PAGE = 7.0
#: Points: the smallest type of a figure, and that of everything else.
SMALL, TYPE = 8.0, 9.0


def look(index: int) -> dict[str, str]:
    """Colour and line style of series number `index`: 24 pairs before one comes back.

    Parameters
    ----------
    index : int
        From 0.
    """
    dashes, colour = divmod(index, len(PALETTE))
    return {"color": PALETTE[colour], "linestyle": LINES[dashes % len(LINES)]}


def settings() -> dict[str, Any]:
    """What to pass to ``matplotlib.rc_context`` (or ``rcParams.update``)."""
    cycler = needed("matplotlib", "dro_core.style").cycler
    pairs = [look(k) for k in range(len(PALETTE) * len(LINES))]
    return {
        "axes.prop_cycle": cycler(
            color=[pair["color"] for pair in pairs],
            linestyle=[pair["linestyle"] for pair in pairs],
        ),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.labelsize": TYPE,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": TYPE,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100.0,
        "figure.facecolor": "white",
        "figure.labelsize": TYPE,
        "figure.titlesize": TYPE + 1,
        "figure.figsize": (PAGE, 0.46 * PAGE),
        "font.size": TYPE,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "image.cmap": "gray",
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.0,
        "savefig.dpi": 160.0,
        "savefig.facecolor": "white",
        "svg.hashsalt": "structured-dro",  # the same figure gives the same bytes
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
    }


def styled() -> AbstractContextManager[None]:
    """Figures that are drawn inside of ``with styled():`` have this look; others keep theirs."""
    context: AbstractContextManager[None] = needed("matplotlib", "dro_core.style").rc_context(
        settings()
    )
    return context


def label_lines(axis: Any, *, gap: float | None = None, size: float = SMALL) -> None:
    """Write each line's label at its right end, in its colour, in place of a legend.

    Labels that would touch are moved apart along the axis.

    Parameters
    ----------
    axis : matplotlib Axes
        With labelled lines; the limits are those at the time of the call.
    gap : float, optional
        Least distance of two labels, as a share of the height of the axes; if None, a line of type.
    size : float
        Points.
    """
    if gap is None:
        figure = axis.get_figure(root=True)
        figure.draw_without_rendering()  # a layout finds its place for the axes when it draws
        gap = 1.25 * size / 72 * figure.dpi / axis.get_window_extent().height
    lines = [line for line in axis.get_lines() if not line.get_label().startswith("_")]
    to_share = axis.transData + axis.transAxes.inverted()
    ends = []
    for line in lines:
        x, y = line.get_xdata()[-1], line.get_ydata()[-1]
        ends.append((float(to_share.transform((x, y))[1]), line))
    ends.sort(key=lambda end: end[0])
    heights = [end[0] for end in ends]
    for low, high in itertools.pairwise(range(len(heights))):
        heights[high] = max(heights[high], heights[low] + gap)
    if heights:  # what was pushed over the top comes down again
        heights[-1] = min(heights[-1], 1.0)
        for high in range(len(heights) - 1, 0, -1):
            heights[high - 1] = min(heights[high - 1], heights[high] - gap)
    for height, (_, line) in zip(heights, ends, strict=True):
        axis.annotate(
            line.get_label(),
            (1.0, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            color=line.get_color(),
            fontsize=size,
            va="center",
            annotation_clip=False,
        )
