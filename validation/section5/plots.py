"""The paper's Figure 3, risks against bounds, and the finite optimum's convergence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dro_core.types import Array
from validation.figures import drawing, name_lines, plain_ticks
from validation.section5.settings import COLOURS, NAMES, STRUCTURES, Config
from validation.tables import Row
from validation.tables import column as numbers


def gap_figure(path: Path, config: Config, tables: dict[str, list[dict[str, float]]]) -> None:
    """The paper's Figure 3: the gap against L, both problems."""
    largest = max(row["lipschitz"] for row in tables["diagonal"] + tables["heat"])
    L = np.geomspace(min(row["lipschitz"] for row in tables["heat"]), largest, 200)
    curves = (
        ("diagonal", "diagonal", "o-", f"diagonal, $M = 0$ (any radius; here {config.radius:g})"),
        ("heat", "heat", "s-", rf"heat, $M > 0$, radius {config.radius:g}"),
        ("heat_small_radius", "heat", "^--", rf"heat, $M > 0$, radius {config.small_radius:g}"),
    )
    with drawing(path, height=3.6) as (_, ((axis,),)):
        axis.plot(
            L,
            100 * (1 - L / np.hypot(1, L)),
            color="0.6",
            lw=5,
            alpha=0.5,
            label=r"theorem, $M=0$: $1 - L/\sqrt{1+L^2}$",
        )
        for name, colour, style, label in curves:
            rows = tables[name]
            lipschitz, gap = (numbers(rows, key) for key in ("lipschitz", "gap_root"))
            axis.plot(lipschitz, 100 * gap, style, color=COLOURS[colour], label=label)
        axis.set(
            xscale="log",
            xlabel="Lipschitz constant $L$ of the reconstruction map",
            ylabel=r"gap $(J_{joint} - J_{Y|X})/J_{joint}$  [%]",
            title="How much of the joint bound is owed to letting $x$ move",
            ylim=(0, None),
        )
        plain_ticks(axis.xaxis)
        axis.legend()


def risk_figure(path: Path, name: str, radius: float, rows: list[dict[str, float]]) -> None:
    """Bounds, exact and finite worst-case risks of one problem, and their distances."""
    L = numbers(rows, "lipschitz")
    with drawing(path, 2, height=3.7) as (figure, axes):
        left, right = axes[0]
        for structure in STRUCTURES:
            colour, label = COLOURS[structure], NAMES[structure]

            def root(column: str, structure: str = structure) -> Array:
                return np.sqrt(numbers(rows, f"{column} {structure}"))

            bound, exact = root("bound_squared"), root("exact")
            left.plot(L, bound, "-", color=colour, lw=5, alpha=0.3, label=f"{label}: bound")
            left.plot(L, exact, "-", color=colour, label=f"{label}: exact")
            left.plot(L, root("finite"), "o", mfc="none", color=colour, label=f"{label}: finite")
            dashes = "--" if structure == "joint" else ":"
            above = f"{label}: bound above exact"
            right.plot(L, bound / exact - 1, dashes, color=colour, lw=2, label=above)
        exact_gap = 1 - np.sqrt(numbers(rows, "exact y|x") / numbers(rows, "exact joint"))
        right.plot(L, exact_gap, "-", color="0.2", label="exact: Y|X below joint")
        gap = numbers(rows, "gap_root")
        right.plot(
            L, gap, "-", color="0.2", lw=5, alpha=0.25, label="bounds: Y|X below joint (the gap)"
        )
        left.set(ylabel="root worst-case risk", yscale="log", title="Worst-case risks")
        plain_ticks(left.yaxis)
        right.set(ylabel="relative difference (root form)", title="What the bounds give away")
        right.set_ylim(bottom=min(0.0, right.get_ylim()[0]), top=max(0.01, right.get_ylim()[1]))
        for axis in (left, right):
            axis.set(xscale="log", xlabel="Lipschitz constant $L$")
            plain_ticks(axis.xaxis)
        figure.suptitle(f"{name} problem, radius {radius:g} (data units)")
        name_lines(figure, (left, right), direct=False)


def convergence_figure(path: Path, ladder: list[Row]) -> None:
    """How the finite optimum approaches the exact one as candidates are added (heat problem).

    The diagonal problem is left out: its coarsest ray attains the exact risk to rounding.
    """
    problems = [name for name in dict.fromkeys(str(r["problem"]) for r in ladder) if "heat" in name]
    with drawing(path, len(problems), height=2.9) as (figure, axes):
        for axis, problem in zip(axes[0], problems, strict=True):
            for structure in STRUCTURES:
                rows = [r for r in ladder if (r["problem"], r["structure"]) == (problem, structure)]
                count, defect = numbers(rows, "candidates"), 1 - numbers(rows, "ratio")
                axis.plot(
                    count,
                    np.maximum(defect, 1e-16),
                    "o-",
                    mfc="none",
                    color=COLOURS[structure],
                    label=NAMES[structure],
                )
            axis.set(
                xscale="log",
                yscale="log",
                xlabel="candidates, on rays that miss the exact atoms",
                title=f"{problem} (L = {rows[0]['lipschitz']:.2f})",
            )
            axis.legend()
        axes[0, 0].set_ylabel("1 - finite / exact")
        figure.suptitle("The finite-support optimum converges to the exact worst-case risk")
