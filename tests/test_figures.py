"""The rules that every figure of the experiments keeps, and that their check sees them broken.

`conftest.figures_keep_the_rules` applies the check to whatever the other tests let be drawn.
"""

import numpy as np
import pytest

from dro_core import style

pytest.importorskip("matplotlib", reason="the extra plot")
from validation import figures


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 1), (2, 3)])
def test_a_figure_is_as_wide_as_a_page(tmp_path, columns, rows):
    with figures.drawing(tmp_path / "figure", columns, rows, height=1.7) as (figure, axes):
        assert axes.shape == (rows, columns)
        for axis in axes.flat:
            (line,) = axis.plot([0, 1], [0, 1], label="line")
    assert tuple(figure.get_size_inches()) == (style.PAGE, 1.7 * rows)
    assert line.get_color() == style.PALETTE[0]
    assert figures.faults(figure) == []
    assert {path.name for path in tmp_path.iterdir()} == {"figure.svg", "figure.png"}


def test_the_same_drawing_gives_the_same_bytes_and_a_failure_none(tmp_path):
    for name in ("first", "second"):
        with figures.drawing(tmp_path / name) as (_, axes):
            axes[0, 0].fill_between([0, 1], [0, 1], [1, 2], alpha=0.2)
    for suffix in (".svg", ".png"):
        first, second = (
            (tmp_path / f"{name}{suffix}").read_bytes() for name in ("first", "second")
        )
        assert first == second
    with pytest.raises(ZeroDivisionError), figures.drawing(tmp_path / "third"):
        _ = 1 / 0
    assert not (tmp_path / "third.svg").exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda figure, axis: axis.set_title("small", fontsize=7.5), "'small' has 7.5 points"),
        (lambda figure, axis: figure.set_size_inches(8.0, 2.0), "8 inches wide"),
        (lambda figure, axis: axis.text(0.5, 0.5, "over") and axis.text(0.5, 0.5, "under"), "lies"),
        (lambda figure, axis: axis.set_ylabel("long " * 30), "is cut off"),
        (lambda figure, axis: axis.plot([0, 1], "C0-", label="again"), "'again' looks like 'line'"),
    ],
)
def test_what_breaks_a_rule_is_seen(tmp_path, fault, words):
    with style.styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(style.PAGE, 2.0))
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], label="line")
        assert figures.faults(figure) == []
        fault(figure, axis)
        assert any(words in found for found in figures.faults(figure))


def test_what_is_not_seen_breaks_none():
    """Ticks beyond the limits lie over each other in a corner; axes that are off have none."""
    with style.styled():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(style.PAGE, 2.0))
        left, right = figure.subplots(1, 2)
        left.plot(np.geomspace(1e-3, 1e3, 5), np.arange(5))
        left.set(xscale="log", xlim=(0.9, 1.1))
        right.set_axis_off()
        left.minorticks_off()
        assert figures.faults(figure) == []


@pytest.mark.parametrize(("count", "below"), [(6, False), (7, True)])
def test_lines_are_named_once(tmp_path, count, below):
    """At their ends while each has its own colour, else in one legend below all panels."""
    with figures.drawing(tmp_path / "figure", 2) as (figure, axes):
        for axis in axes[0]:
            for k in range(count):
                axis.plot([0, 1], [0, k], label=f"line {k}", **figures.series(k))
        figures.name_lines(figure, axes[0])
    assert [len(axis.texts) for axis in axes[0]] == [0, 0 if below else count]
    assert [len(legend.texts) for legend in figure.legends] == ([count] if below else [])


def test_points_of_24_series_differ():
    looks = [(look["color"], look["marker"]) for look in map(figures.series, range(24))]
    assert len(set(looks)) == 24
