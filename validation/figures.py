"""How the experiments draw: as wide as a page, in the look of `dro_core.style`, written at the end.

`drawing` is the only way to a figure of this package, because matplotlib decides colours, sizes and
dashes when an artist is made: the whole block that draws runs inside the style, and what the
figure is written as is decided here. `faults` says what a figure breaks of the style's rules.
"""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dro_core.style import PAGE, PALETTE, SMALL, label_lines, look, styled
from validation.results import write_bytes

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

#: Marks of series 1 to 6, 7 to 12, ...: as points they have no dashes to tell them apart.
MARKS = ("o", "s", "^", "D")


@contextmanager
def drawing(
    path: Path, columns: int = 1, rows: int = 1, *, height: float = 2.6
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes (2-D array) to draw on; SVG and PNG beside each other at the end.

    The same drawing gives the same bytes. No display is needed. A block that raises writes nothing.

    Parameters
    ----------
    path : Path
        Of both files; the suffix is replaced.
    columns, rows : int
        Panels; together they are `PAGE` inches wide, however many.
    height : float
        Inches of one row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(PAGE, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False)
        save(path, figure)


def save(path: Path, figure: Figure) -> None:
    """SVG and PNG beside each other; the suffix of `path` is replaced."""
    for suffix, metadata in ((".svg", {"Date": None}), (".png", {"Software": None})):
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], metadata=metadata)
        write_bytes(path.with_suffix(suffix), content.getvalue())


def series(index: int) -> dict[str, str]:
    """Colour, dashes and mark of series number `index` from 0: lines and points can be told apart.

    Give it to ``plot``; points without a line add ``linestyle="none"``.
    """
    return {**look(index), "marker": MARKS[index // len(PALETTE) % len(MARKS)]}


def name_lines(figure: Figure, axes: Sequence[Axes], *, direct: bool = True) -> None:
    """Say once what the lines of all panels are.

    At the right ends of the last panel's lines, in their colours, while each has a colour of its
    own (six), else in one legend below all panels.

    Parameters
    ----------
    figure : Figure
        With `axes`.
    axes : sequence of Axes
        In which the same label has the same look; the last one has all that are to be named at
        their ends.
    direct : bool
        False: below in any case.
    """
    handles: Mapping[str, Artist] = {
        str(name): handle
        for axis in axes
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if direct and len(handles) <= len(PALETTE):
        label_lines(axes[-1])
        return
    points = max(len(name) for name in handles) * 0.55 * SMALL + 5 * SMALL
    columns = max(1, min(len(handles), int(72 * PAGE / points)))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)


def plain_ticks(axis: Axis) -> None:
    """On a logarithmic axis: 1, 2 and 5 times powers of ten, written out, and nothing between."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def show(axis: Axes, pixels: Any, title: str = "", **options: Any) -> None:
    """One image without ticks and grid, grey unless `options` of ``imshow`` say otherwise.

    The title is broken into lines as wide as the image. Files have its own pixels, not the page's.
    """
    axis.imshow(pixels, interpolation="none", **options)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    letters = int(72 * PAGE * axis.get_position().width / (0.55 * SMALL))
    lines = textwrap.fill(title, max(1, letters), break_long_words=False)
    axis.set_title(lines, fontsize=SMALL)


def _drawn_texts(figure: Figure) -> list[Text]:
    """What is written and seen: ticks beyond the limits, and of axes that are off, are not."""
    from matplotlib.text import Text

    unseen: set[Artist] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            unseen.add(axis.get_offset_text())  # only where all numbers of an axis are the same
            low, high = sorted(axis.get_view_interval())
            margin = 1e-9 * (high - low)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (axes.axison and low - margin <= tick.get_loc() <= high + margin):
                    unseen |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if isinstance(text, Text)
        and text.get_visible()
        and text.get_text().strip()
        and text not in unseen
    ]


def faults(figure: Figure) -> list[str]:
    """What a figure breaks of the rules of `dro_core.style`, in words; none is an empty list.

    The width of a page; type of `SMALL` points or more; no text over another or beyond the edge;
    no two named lines of one panel with the same colour, dashes, width and mark.

    Parameters
    ----------
    figure : Figure
        Is drawn once more to know where its texts are.
    """
    from matplotlib.colors import to_hex

    figure.draw_without_rendering()
    found = []
    width = figure.get_size_inches()[0]
    if width > PAGE:
        found.append(f"{width:g} inches wide; a page has {PAGE:g}")
    texts = _drawn_texts(figure)
    edge = figure.bbox.padded(1.0)
    boxes = [(text.get_text(), text.get_window_extent().padded(-1.0)) for text in texts]
    found += [
        f"{text.get_text()!r} has {text.get_fontsize():g} points"
        for text in texts
        if float(text.get_fontsize()) < SMALL
    ]
    found += [
        f"{name!r} is cut off"
        for name, box in boxes
        if box.x0 < edge.x0 or box.y0 < edge.y0 or box.x1 > edge.x1 or box.y1 > edge.y1
    ]
    found += [
        f"{first!r} lies over {second!r}"
        for (first, box), (second, other) in itertools.combinations(boxes, 2)
        if box.overlaps(other)
    ]
    for axis in figure.axes:
        looks: dict[tuple[str, ...], str] = {}
        for line in axis.get_lines():
            name = str(line.get_label())
            parts = line.get_linestyle(), line.get_linewidth(), line.get_marker()
            kind = (to_hex(line.get_color()), *map(str, parts))
            if not name.startswith("_") and looks.setdefault(kind, name) != name:
                found.append(f"{name!r} looks like {looks[kind]!r}")
    return found
