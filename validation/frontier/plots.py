"""The figure of a frontier: clean error against error under attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from validation.mnist.measure import by_level
from validation.mnist.plots import names_of
from validation.results import new_figure, save_figure
from validation.tables import Row


def plot_frontier(path: Path, rows: Sequence[Row], target: float) -> None:
    """Every arm a point at the target radius, and its error against the radius of the attack."""
    canvas, axes = new_figure(2)
    for name in names_of(rows):
        found = by_level(rows, name, "attack_rmse")
        clean = by_level(rows, name, "clean_rmse")[target]
        (line,) = axes[0, 1].plot([0.0, *found], [clean, *found.values()], ".-")
        axes[0, 0].plot(clean, found[target], "o", color=line.get_color())
        axes[0, 0].annotate(
            name, (clean, found[target]), fontsize=7, xytext=(3, 3), textcoords="offset points"
        )
        axes[0, 1].annotate(name, (2 * target, found[2 * target]), fontsize=7)
    axes[0, 0].set(xlabel="clean RMSE", ylabel=f"RMSE under attack of radius {target:g}")
    axes[0, 1].set(xlabel="radius of the attack", ylabel="RMSE under attack")
    axes[0, 1].set_xlim(right=2.9 * target)
    save_figure(path, canvas)
