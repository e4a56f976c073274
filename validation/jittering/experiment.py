"""All cases, the frontier, the figures and the checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dro_core.types import Array
from validation.jittering.arms import ARMS, SHOWN, compared
from validation.jittering.frontier import frontier
from validation.jittering.plots import excess_figure, frontier_figure
from validation.jittering.problems import SHARES, Problem, balls, mnist_problem, random_problem
from validation.jittering.settings import Config
from validation.results import (
    Check,
    at_least,
    at_most,
    check_table,
    progress,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.settings import without_folders
from validation.tables import Row, column, number

#: The ball of the frontier.
FRONTIER_BALL = "every 4th x 100"


def ratios(rows: Sequence[Row], arm: str, ending: str = "") -> Array:
    """Risk of an arm over that of the exact optimum, one per case."""
    return np.asarray(column(rows, f"{arm}{ending}") / column(rows, f"exact{ending}"))


def summaries(rows: Sequence[Row]) -> list[Row]:
    """Per ball and share: quantiles of the ratios to the exact optimum, over the problems."""
    found: list[Row] = []
    for kind in ("random", "mnist"):
        own = [row for row in rows if str(row["problem"]).startswith(kind)]
        for ball in dict.fromkeys(str(row["ball"]) for row in own):
            for share in dict.fromkeys(row["share"] for row in own):
                chosen = [row for row in own if row["ball"] == ball and row["share"] == share]
                line: Row = {"problems": kind, "ball": ball, "share": share}
                for arm in SHOWN:
                    line[f"{arm} median"] = float(np.median(ratios(chosen, arm)))
                    line[f"{arm} largest"] = float(ratios(chosen, arm).max())
                for name, arm, ending in (
                    ("isotropic clean", "isotropic noise", " clean"),
                    ("isotropic held out", "isotropic noise", " held out"),
                    ("shaped held out", "shaped noise", " held out"),
                ):
                    line[name] = float(np.median(ratios(chosen, arm, ending)))
                found.append(line)
    return found


def per_problem(rows: Sequence[Row], share: float) -> list[Row]:
    """Per problem, over all weighted balls at one radius: medians and extremes of the ratios."""
    found: list[Row] = []
    for name in dict.fromkeys(str(row["problem"]) for row in rows):
        own = [
            row
            for row in rows
            if (row["problem"], row["share"]) == (name, share) and row["ball"] != "isotropic"
        ]
        line: Row = {"problem": name}
        for arm in SHOWN:
            values = ratios(own, arm)
            line[f"{arm} median"] = float(np.median(values))
            line[f"{arm} largest"] = float(values.max())
        found.append(line)
    return found


def by_radius(rows: Sequence[Row]) -> list[Row]:
    """Per radius, over all problems: quantiles of the ratios, weighted and isotropic balls apart.

    And those of the closed-form level over the tuned one, where both are positive and finite.
    """
    found: list[Row] = []
    for kind in ("weighted", "isotropic"):
        cases = [row for row in rows if (row["ball"] == "isotropic") == (kind == "isotropic")]
        for share in dict.fromkeys(row["share"] for row in cases):
            own = [row for row in cases if row["share"] == share]
            line: Row = {"balls": kind, "share": share, "cases": len(own)}
            for arm in SHOWN:
                values = ratios(own, arm)
                line[f"{arm} median"] = float(np.median(values))
                line[f"{arm} 90 %"] = float(np.quantile(values, 0.9))
                line[f"{arm} largest"] = float(values.max())
                line[f"{arm} within 5 %"] = float((values <= 1.05).mean())
                for ending in (" clean", " held out"):
                    line[f"{arm}{ending}"] = float(np.median(ratios(own, arm, ending)))
            levels, guesses = column(own, "shaped level"), column(own, "shaped guess")
            both = (levels > 0) & (guesses > 0) & np.isfinite(guesses)
            near = guesses[both] / levels[both]
            for name, part in (("10 %", 0.1), ("median", 0.5), ("90 %", 0.9)):
                line[f"guess / level {name}"] = float(np.quantile(near, part)) if near.size else ""
            found.append(line)
    return found


def goals_of(radii: Sequence[Row], share: float) -> list[Check]:
    """What was hoped for, over the weighted balls at one radius: numbers to print, met or not."""
    line = next(row for row in radii if (row["balls"], row["share"]) == ("weighted", share))
    isotropic = number(line, "isotropic noise median")
    ends = {"median": "median", "90 %": "90 % quantile", "largest": "largest"}
    return [
        at_least("best isotropic noise / exact, median", isotropic, 1.5),
        *(
            at_most(f"{arm} / exact, {words}", number(line, f"{arm} {end}"), 1.05)
            for arm in ("shaped noise", "refined noise")
            for end, words in ends.items()
        ),
    ]


def checks_of(rows: Sequence[Row], curves: Sequence[Row]) -> list[Check]:
    """What must be true of exact optima, of the penalty and of the frontier."""
    everything = np.concatenate([ratios(rows, arm) for arm in ARMS])
    penalty = column(rows, "penalty") / column(rows, "isotropic noise")
    exact = [row for row in curves if row["arm"] == "exact"]
    return [
        at_least("smallest worst-case risk of any arm / exact", float(everything.min()), 1 - 1e-6),
        at_most("largest saddle gap of the exact optima", float(column(rows, "gap").max()), 1e-4),
        at_most("Jacobian penalty / isotropic noise - 1", float(np.abs(penalty - 1).max()), 1e-6),
        at_most("largest gap of the exact frontier", float(column(exact, "gap").max()), 1e-3),
        at_most("how far any arm is below the frontier", below_frontier(curves), 1e-3),
    ]


def below_frontier(curves: Sequence[Row]) -> float:
    """The most, relatively, by which a point is below a supporting line of the exact frontier."""
    most = 0.0
    for row in curves:
        if row["arm"] == "exact":
            theta = float(row["level"])
            weights = np.array([1.0 - theta, theta])
            others = [other for other in curves if other["problem"] == row["problem"]]
            risks = np.stack([column(others, "clean"), column(others, "worst")])
            own = weights @ np.array([float(row["clean"]), float(row["worst"])])
            most = max(most, 1.0 - float((weights @ risks).min()) / float(own))
    return most


def shown(rows: Sequence[Row]) -> str:
    """A table with three digits."""
    lines = [
        tuple(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows
    ]
    return table([tuple(rows[0]), *lines])


def run(config: Config, out: Path) -> list[Check]:
    """All cases; written to `out`."""
    sizes = config.sized()
    shares = SHARES if config.radii == "all" else (config.share,)
    problems = [
        random_problem(config.seed, number, sizes.size, sizes.samples)
        for number in range(sizes.problems)
    ]
    rows = [
        compared(problem, ball, weights, share)
        for problem in progress(problems, "random problems")
        for ball, weights in balls(sizes.size).items()
        for share in shares
    ]
    mnist = mnist_problem(config.data, sizes.images, config.noise, config.seed)
    if mnist is None:
        print("MNIST is left out: no images asked for, or no data root (DRO_DATA)")
    else:
        chosen = {name: balls(196)[name] for name in ("isotropic", FRONTIER_BALL, "smooth x 100")}
        cases = [(*ball, share) for ball in chosen.items() for share in shares]
        rows += [compared(mnist, *case) for case in progress(cases, "MNIST")]
    write_csv(out / "cases.csv", rows)
    curves = frontiers(problems[0], mnist, config.share, sizes.points)
    summary, radii, each = summaries(rows), by_radius(rows), per_problem(rows, config.share)
    excess_figure([row for row in rows if row["problem"] != "mnist"], config.share, out)
    frontier_figure(curves, out)
    print(shown(each))
    print(shown(summary))
    print(shown(radii))
    files = {"summary": summary, "radii": radii, "problems": each, "frontier": curves}
    for name, lines in files.items():
        write_csv(out / f"{name}.csv", lines)
    goals, checks = goals_of(radii, config.share), checks_of(rows, curves)
    print(f"goals over the weighted balls at radius {config.share:g}:")
    print(check_table(goals))
    made = provenance("jittering", without_folders(config))
    found = {"summary": summary, "goals": goals, "checks": checks}
    write_json(out / "jittering.json", {**made, **found})
    return checks


def frontiers(first: Problem, mnist: Problem | None, share: float, points: int) -> list[Row]:
    """The frontier of a random problem, and of MNIST where it is there."""
    found: list[Row] = []
    for problem in (first, mnist):
        if problem is not None:
            weights = balls(problem.y.shape[1])[FRONTIER_BALL]
            found += frontier(problem, weights, share, points)
    return found
