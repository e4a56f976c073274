"""The paper's Figure 3, risks against bounds, and the finite optimum's convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dro_core.types import Array
from validation.results import (
    new_figure,
)
from validation.section5.settings import COLOURS, NAMES, STRUCTURES, Config
from validation.tables import Row
from validation.tables import column as numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gap_figure(config: Config, tables: dict[str, list[dict[str, float]]]) -> Figure:
    """The paper's Figure 3: the gap against L, both problems."""
    figure: Figure
    figure, axes = new_figure(1, width=6.6, height=4.2)
    axis = axes[0, 0]
    largest = max(row["lipschitz"] for row in tables["diagonal"] + tables["heat"])
    L = np.geomspace(min(row["lipschitz"] for row in tables["heat"]), largest, 200)
    axis.plot(
        L,
        100 * (1 - L / np.hypot(1, L)),
        color="0.6",
        lw=5,
        alpha=0.5,
        label=r"theorem, $M=0$: $1 - L/\sqrt{1+L^2}$",
    )
    curves = (
        ("diagonal", "diagonal", "o-", f"diagonal, $M = 0$ (any radius; here {config.radius:g})"),
        ("heat", "heat", "s-", rf"heat, $M > 0$, radius {config.radius:g}"),
        ("heat_small_radius", "heat", "^--", rf"heat, $M > 0$, radius {config.small_radius:g}"),
    )
    for name, colour, style, label in curves:
        rows = tables[name]
        axis.plot(
            [r["lipschitz"] for r in rows],
            [100 * r["gap_root"] for r in rows],
            style,
            color=COLOURS[colour],
            ms=4,
            lw=1.5,
            label=label,
        )
    axis.set(
        xscale="log",
        xlabel="Lipschitz constant $L$ of the reconstruction map",
        ylabel=r"gap $(J_{joint} - J_{Y|X})/J_{joint}$  [%]",
        title="How much of the joint bound is owed to letting $x$ move",
        ylim=(0, None),
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def risk_figure(name: str, radius: float, rows: list[dict[str, float]]) -> Figure:
    """Bounds, exact and finite worst-case risks of one problem, and their distances."""
    figure: Figure
    figure, axes = new_figure(2, width=5.6, height=4.3)
    L = [row["lipschitz"] for row in rows]
    left, right = axes[0]
    for structure in STRUCTURES:
        colour, label = COLOURS[structure], NAMES[structure]

        def root(column: str, structure: str = structure) -> Array:
            return np.asarray(np.sqrt([row[f"{column} {structure}"] for row in rows]))

        left.plot(L, root("bound_squared"), color=colour, lw=5, alpha=0.3, label=f"{label}: bound")
        left.plot(L, root("exact"), color=colour, lw=1.3, label=f"{label}: exact")
        left.plot(L, root("finite"), "o", ms=4, mfc="none", color=colour, label=f"{label}: finite")
        above = root("bound_squared") / root("exact") - 1
        right.plot(
            L,
            above,
            "--" if structure == "joint" else ":",
            color=colour,
            lw=2,
            label=f"{label}: bound above exact",
        )
    exact_gap = [1 - (row["exact y|x"] / row["exact joint"]) ** 0.5 for row in rows]
    right.plot(L, exact_gap, "-", color="0.2", lw=1.3, label="exact Y|X below exact joint")
    right.plot(
        L,
        [row["gap_root"] for row in rows],
        color="0.2",
        lw=5,
        alpha=0.25,
        label="bound Y|X below bound joint (the gap)",
    )
    left.set(ylabel="root worst-case risk", yscale="log", title="Worst-case risks")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    right.set(ylabel="relative difference (root form)", title="What the bounds give away")
    right.set_ylim(bottom=min(0.0, right.get_ylim()[0]), top=max(0.01, right.get_ylim()[1]))
    for axis in (left, right):
        axis.set(xscale="log", xlabel="Lipschitz constant $L$")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{name} problem, radius {radius:g} (data units)")
    return figure


def convergence_figure(ladder: list[Row]) -> Figure:
    """How the finite optimum approaches the exact one as candidates are added (heat problem).

    The diagonal problem is left out: its coarsest ray attains the exact risk to rounding.
    """
    problems = [name for name in dict.fromkeys(str(r["problem"]) for r in ladder) if "heat" in name]
    figure: Figure
    figure, axes = new_figure(len(problems), width=5.0, height=4.0)
    for axis, problem in zip(axes[0], problems, strict=True):
        for structure in STRUCTURES:
            rows = [r for r in ladder if (r["problem"], r["structure"]) == (problem, structure)]
            count, defect = numbers(rows, "candidates"), 1 - numbers(rows, "ratio")
            colour, label = COLOURS[structure], NAMES[structure]
            axis.plot(count, np.maximum(defect, 1e-16), "o-", mfc="none", color=colour, label=label)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="candidates, on rays that miss the exact atoms",
            ylabel="1 - finite / exact",
            title=f"{problem} (L = {rows[0]['lipschitz']:.2f})",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle("The finite-support optimum converges to the exact worst-case risk")
    return figure
