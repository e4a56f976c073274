"""The paper's Figures 4 and 5, and error against time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

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
from validation.results import new_figure
from validation.tables import Tables, column

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    QUASI: "#1b7837",
    STEEPEST: "#7fbf7b",
    MIRROR: "#762a83",
    ADAM: "#c51b7d",
    LEAST_SQUARES: "0.45",
    RANDOM_START: "0.7",
    CLEAN: "#e08214",
    ORACLE: "#8c510a",
}


def style(config: Config, name: str) -> dict[str, str]:
    """Colour and line of a method."""
    exact = {EXACT.format(config.radius): "#2166ac", EXACT.format(config.small_radius): "#67a9cf"}
    colour = exact.get(name, COLOURS.get(name, "#fdb863"))
    dashed = name in (LEAST_SQUARES, RANDOM_START, MIRROR) or name.startswith("exact DRO, epsilon")
    return {"color": colour, "ls": "--" if dashed else "-", "label": name}


def noise_figure(config: Config, tables: Tables) -> Figure:
    """The paper's Figure 4: RMSE against noise, and stability."""
    figure: Figure
    figure, axes = new_figure(2, 2, width=6.2, height=4.2)
    rows, stable = tables["noise"], tables["stability"]
    for place, modes in enumerate((config.modes, config.more_modes)):
        axis = axes[0, place]
        for name in dict.fromkeys(str(row["method"]) for row in rows if row["modes"] == modes):
            if name == QUASI:
                continue  # on top of the exact curve
            chosen = [row for row in rows if row["modes"] == modes and row["method"] == name]
            level, mean, deviation = (column(chosen, key) for key in ("noise", "rmse", "deviation"))
            look = style(config, name)
            axis.plot(level, mean, marker="o", ms=3, **look)
            axis.fill_between(
                level, mean - deviation, mean + deviation, color=look["color"], alpha=0.25, lw=0
            )
        axis.set_xscale("symlog", linthresh=config.smallest_noise)
        axis.set(
            xlabel="noise per grid point (standard deviation)",
            ylabel="RMSE",
            title=f"K = {modes} modes",
            ylim=(0, 1.3 * signal_size(modes)),
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
        axis = axes[1, place]
        chosen = [row for row in stable if row["modes"] == modes]
        lines = np.arange(len(chosen))
        axis.barh(
            lines,
            column(chosen, "stability"),
            xerr=column(chosen, "deviation"),
            color=[style(config, str(row["method"]))["color"] for row in chosen],
        )
        axis.plot(column(chosen, "largest"), lines, "k|", label="largest direction")
        axis.plot(column(chosen, "supremum"), lines, "kx", ms=4, label="supremum")
        axis.set_yticks(lines, [str(row["method"]) for row in chosen], fontsize=7)
        axis.invert_yaxis()
        axis.set(
            xscale="log",
            xlabel=f"stability ({config.directions} directions, "
            f"eta = {config.perturbation:g}; lower is more stable)",
        )
        axis.grid(alpha=0.3, axis="x")
        axis.legend(frameon=False, fontsize=7)
    return figure


def rank_figure(config: Config, tables: Tables) -> Figure:
    """The paper's Figure 5, without and with a tail beyond K, and where the drop is found."""
    figure: Figure
    figure, axes = new_figure(3, 2, width=4.9, height=4.2)
    rows, tails = tables["rank"], tables["tails"]
    level = config.levels[middle(config)]
    for line, tail in enumerate((0.0, config.tail)):
        chosen = [row for row in rows if row["modes"] == config.modes and row["tail"] == tail]
        for name in dict.fromkeys(str(row["method"]) for row in chosen):
            group = [row for row in chosen if row["method"] == name]
            rank = column(group, "rank")
            values = column(group, "singular_value")
            errors = column(group, f"rmse at noise {level:.3g}")
            look = style(config, name)
            axes[line, 0].semilogy(rank, np.maximum(values, 1e-9), **look)
            axes[line, 1].plot(rank, errors, **look)
        data = f"modes beyond K: deviation {tail:g}" if tail else "no modes beyond K"
        axes[line, 0].set(
            xlabel="index", ylabel="singular value of the map (1e-9: zero)", title=data
        )
        axes[line, 1].set(
            xlabel="rank kept",
            ylabel=f"RMSE at noise {level:.3g}",
            title=f"truncation, {data}",
            ylim=(0, 2 * signal_size(config.modes)),
        )
        axes[line, 1].legend(frameon=False, fontsize=7)
        for axis in axes[line, :2]:
            axis.axvline(config.modes, color="k", lw=0.8, ls=":")
    for axis, key, other in ((axes[0, 2], "tail", "epsilon"), (axes[1, 2], "epsilon", "tail")):
        chosen = [row for row in tails if row[other] == getattr(config, other)]
        chosen.sort(key=lambda row: float(row[key]))
        axis.loglog(
            column(chosen, key),
            column(chosen, "ratio"),
            marker="o",
            **style(config, EXACT.format(config.radius)),
        )
        axis.axhline(DROP, color="0.5", lw=0.8, ls="--", label="what we call a drop")
        axis.set(
            xlabel="deviation of the modes beyond K" if key == "tail" else "epsilon",
            ylabel="singular value K + 1 / singular value K",
            title=f"{other} {getattr(config, other):g}",
        )
        axis.legend(frameon=False, fontsize=7)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return figure


def time_figure(
    config: Config, tables: Tables, exact: Mapping[float, tuple[float, float]]
) -> Figure:
    """Excess of the exact risk against time, and the estimate that explains it."""
    rows, estimates = tables["algorithms"], tables["estimates"]
    figure: Figure
    figure, axes = new_figure(3, width=4.9, height=4.2)
    for axis, epsilon in zip(axes[0], exact, strict=False):
        for name in (QUASI, STEEPEST, MIRROR, ADAM):
            chosen = [row for row in rows if row["epsilon"] == epsilon and row["method"] == name]
            seconds, excess = (column(chosen, key) for key in ("seconds", "excess"))
            axis.loglog(seconds, np.maximum(excess, 1e-15), **style(config, name))
        moment, gap = exact[epsilon]
        axis.loglog(
            [moment],
            [max(gap, 1e-15)],
            "*",
            ms=11,
            color="#2166ac",
            label="fit_linear (certified gap)",
        )
        axis.set(
            xlabel="seconds of computation",
            ylabel="exact risk / optimum - 1",
            title=f"epsilon = {epsilon:g}",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    axis = axes[0, 2]
    for draws in (1, 8, 64):
        chosen = [row for row in estimates if row["draws"] == draws]
        over = column(chosen, "multiplier_over_threshold")
        axis.plot(over, column(chosen, "bias"), "o-", label=f"{draws} draws per sample")
    axis.axhline(0, color="k", lw=0.8)
    axis.set(
        xlabel="optimal multiplier / largest squared singular value",
        ylabel="relative error of the Monte-Carlo potential",
        title="what the paper's algorithm minimises",
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=7)
    return figure
