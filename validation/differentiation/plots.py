"""The paper's Figures 4 and 5, and error against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dro_core.style import MUTED, PALETTE, look
from validation.differentiation.settings import (
    ADAM,
    CLEAN,
    DROP,
    EXACT,
    LEAST_SQUARES,
    MIRROR,
    ORACLE,
    QUASI,
    RANDOM_START,
    STEEPEST,
    Config,
    middle,
    signal_size,
)
from validation.figures import drawing, name_lines, plain_ticks, series
from validation.tables import Row, Tables, column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Lines are told apart by colour first, then by dashes; bars stand under their names.
LOOKS = {
    QUASI: look(2),
    STEEPEST: look(3),
    MIRROR: look(4),
    ADAM: look(5),
    LEAST_SQUARES: look(11),
    RANDOM_START: {"color": MUTED, "linestyle": ":"},
    CLEAN: look(1),
    ORACLE: look(7),
}
SHARP = look(8)


def style(config: Config, name: str) -> dict[str, str]:
    """Colour, dashes and label of a method."""
    exact = {EXACT.format(config.radius): look(0), EXACT.format(config.small_radius): look(6)}
    return {**exact.get(name, LOOKS.get(name, SHARP)), "label": name}


def noise_figure(path: Path, config: Config, tables: Tables) -> None:
    """The paper's Figure 4: RMSE against noise, and stability."""
    rows, stable = tables["noise"], tables["stability"]
    names = list(dict.fromkeys(str(row["method"]) for row in stable))
    with drawing(path, 2, 2, height=3.0) as (figure, axes):
        for place, modes in enumerate((config.modes, config.more_modes)):
            axis = axes[0, place]
            for name in dict.fromkeys(str(row["method"]) for row in rows if row["modes"] == modes):
                if name == QUASI:
                    continue  # on top of the exact curve
                chosen = [row for row in rows if row["modes"] == modes and row["method"] == name]
                level, mean, deviation = (
                    column(chosen, key) for key in ("noise", "rmse", "deviation")
                )
                drawn = style(config, name)
                axis.plot(level, mean, marker="o", ms=3, **drawn)
                low, high = mean - deviation, mean + deviation
                axis.fill_between(level, low, high, color=drawn["color"], alpha=0.25, lw=0)
            axis.set_xscale("symlog", linthresh=config.smallest_noise)
            axis.set(
                xlabel="noise per grid point (SD)",
                title=f"K = {modes} modes",
                ylim=(0, 1.3 * signal_size(modes)),
            )
            chosen = [row for row in stable if row["modes"] == modes]
            stability_bars(axes[1, place], config, chosen, names)
        axes[0, 0].set_ylabel("RMSE")
        axes[1, 1].set_yticklabels([])
        name_lines(figure, axes.flat, direct=False)


def stability_bars(axis: Axes, config: Config, rows: Sequence[Row], names: Sequence[str]) -> None:
    """A bar per map, at its place in `names`: mean, deviation, largest direction, supremum."""
    lines = [names.index(str(row["method"])) for row in rows]
    colours = [style(config, str(row["method"]))["color"] for row in rows]
    deviation = column(rows, "deviation")
    axis.barh(lines, column(rows, "stability"), xerr=deviation, color=colours)
    for key, mark, label in (("largest", "|", "largest direction"), ("supremum", "x", "supremum")):
        axis.plot(column(rows, key), lines, "k", ls="none", marker=mark, label=label)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set(
        xscale="log",
        xlabel=f"stability, {config.directions} directions of size {config.perturbation:g}\n"
        "(lower is more stable)",
    )
    plain_ticks(axis.xaxis)
    axis.grid(visible=False, axis="y")


def rank_figure(path: Path, config: Config, tables: Tables) -> None:
    """The paper's Figure 5, without and with a tail beyond K, and where the drop is found."""
    rows, tails = tables["rank"], tables["tails"]
    level = config.levels[middle(config)]
    with drawing(path, 2, 3, height=2.4) as (figure, axes):
        for line, tail in enumerate((0.0, config.tail)):
            chosen = [row for row in rows if row["modes"] == config.modes and row["tail"] == tail]
            for name in dict.fromkeys(str(row["method"]) for row in chosen):
                group = [row for row in chosen if row["method"] == name]
                rank = column(group, "rank")
                values = column(group, "singular_value")
                errors = column(group, f"rmse at noise {level:.3g}")
                drawn = style(config, name)
                axes[line, 0].semilogy(rank, np.maximum(values, 1e-9), **drawn)
                axes[line, 1].plot(rank, errors, **drawn)
            data = f"modes beyond K: {tail:g}" if tail else "no modes beyond K"
            axes[line, 0].set(xlabel="index", ylabel="singular value (1e-9: zero)", title=data)
            axes[line, 1].set(
                xlabel="rank kept",
                ylabel=f"RMSE at noise {level:.3g}",
                title=f"truncation, {data}",
                ylim=(0, 2 * signal_size(config.modes)),
            )
            for axis in axes[line]:
                axis.axvline(config.modes, color="k", lw=0.8, ls=":")
        for axis, key, other in zip(axes[2], ("tail", "epsilon"), ("epsilon", "tail"), strict=True):
            chosen = [row for row in tails if row[other] == getattr(config, other)]
            chosen.sort(key=lambda row: float(row[key]))
            drawn = style(config, EXACT.format(config.radius))
            axis.loglog(column(chosen, key), column(chosen, "ratio"), marker="o", **drawn)
            axis.axhline(DROP, color=MUTED, lw=0.8, ls="--", label="what we call a drop")
            axis.set(
                xlabel="deviation of the modes beyond K" if key == "tail" else "epsilon",
                title=f"{other} {getattr(config, other):g}",
            )
        axes[2, 0].set_ylabel("singular value K + 1 / K")
        name_lines(figure, axes.flat, direct=False)


def time_figure(
    path: Path, config: Config, tables: Tables, exact: Mapping[float, tuple[float, float]]
) -> None:
    """Excess of the exact risk against time, and the estimate that explains it."""
    rows, estimates = tables["algorithms"], tables["estimates"]
    with drawing(path, 2, 2, height=2.6) as (_, axes):
        for axis, epsilon in zip(axes[0], exact, strict=False):
            for name in (QUASI, STEEPEST, MIRROR, ADAM):
                chosen = [r for r in rows if r["epsilon"] == epsilon and r["method"] == name]
                seconds, excess = (column(chosen, key) for key in ("seconds", "excess"))
                axis.loglog(seconds, np.maximum(excess, 1e-15), **style(config, name))
            moment, gap = exact[epsilon]
            axis.loglog(
                [moment],
                [max(gap, 1e-15)],
                "*",
                ms=11,
                color=PALETTE[0],
                label="fit_linear (certified gap)",
            )
            axis.set(xlabel="seconds of computation", title=f"epsilon = {epsilon:g}")
        axes[0, 0].set_ylabel("exact risk / optimum - 1")
        axis, names = axes[1]
        names.set_axis_off()
        names.legend(*axes[0, 0].get_legend_handles_labels(), loc="center", title="above")
        for k, draws in enumerate((1, 8, 64)):
            chosen = [row for row in estimates if row["draws"] == draws]
            over = column(chosen, "multiplier_over_threshold")
            bias = column(chosen, "bias")
            axis.plot(over, bias, label=f"{draws} draws per sample", **series(k))
        axis.axhline(0, ls="-", color="k", lw=0.8)
        axis.set(
            xlabel="optimal multiplier / largest squared singular value",
            ylabel="relative error of the\nMonte-Carlo potential",
            title="what the paper's algorithm minimises",
        )
        axis.legend()
