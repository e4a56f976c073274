"""The figure of a frontier: clean error against error under attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from validation.figures import drawing, name_lines, series
from validation.mnist.measure import by_level
from validation.mnist.plots import names_of
from validation.tables import Row


def plot_frontier(path: Path, rows: Sequence[Row], target: float) -> None:
    """Every arm a point at the target radius, and its error against the radius of the attack."""
    with drawing(path, 2, height=3.6) as (canvas, axes):
        points, curves = axes[0]
        for k, name in enumerate(names_of(rows)):
            found = by_level(rows, name, "attack_rmse")
            clean = by_level(rows, name, "clean_rmse")[target]
            curves.plot([0.0, *found], [clean, *found.values()], label=name, **series(k))
            points.plot(clean, found[target], **series(k))
        points.set(xlabel="clean RMSE", ylabel=f"RMSE at attack radius {target:g}")
        curves.set(xlabel="radius of the attack", ylabel="RMSE under attack")
        name_lines(canvas, [curves])
