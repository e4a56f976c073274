"""Unbalanced transport: solvers against the certified value, plans of both kinds, the identities.

Point clouds with outliers are solved by `unbalanced_ot` and by what one would use instead; errors
are against the value between its primal and its dual. Figures: plans with outliers and with class
imbalance, balanced and unbalanced; solvers; discretised Gaussians against their closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core.reference import unbalanced_ot_cvxpy, unbalanced_ot_mm
from dro_core.style import PALETTE
from dro_core.types import Array
from dro_core.unbalanced import (
    UnbalancedTransport,
    semidual_value,
    unbalanced_gaussian,
    unbalanced_ot,
)
from validation.benchmarks.timing import seconds
from validation.figures import drawing, name_lines
from validation.results import (
    Check,
    at_least,
    at_most,
    progress,
    provenance,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting

SCALES = (0.01, 0.1, 1.0, 5.0)


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the experiment."""

    points: int = setting(200, "points of each measure", low=1)
    iterations: int = setting(5000, "iterations of POT's mm_unbalanced", low=1)
    seed: int = setting(0, "seed")


def outlier_points(points: int, seed: int) -> tuple[Array, Array]:
    """Two Gaussian clouds in four dimensions, 5 % of each far away.

    The outliers of the two clouds lie in different directions.
    """
    rng = np.random.default_rng(seed)
    y, x = rng.standard_normal((2, points, 4))
    x[:, 0] += 0.5
    far = max(1, points // 20)
    y[:far, 1] -= 6.0
    x[:far, 2] += 6.0
    return y, x


def outlier_problem(points: int, scale: float, seed: int) -> tuple[Array, Array, Array]:
    """Cost and masses of two clouds with outliers; `scale` is the paper's tau."""
    from scipy.spatial.distance import cdist

    y, x = outlier_points(points, seed)
    masses = np.full(points, 1 / points)
    cost = cdist(y, x, "sqeuclidean")
    cost *= scale
    return cost, masses, masses


def solver_rows(config: Config) -> list[dict[str, Any]]:
    """Relative error and seconds of every solver, for every scale of the cost."""
    import ot

    def regularised(cost: Array, a: Array, b: Array) -> float:
        plan = ot.unbalanced.sinkhorn_unbalanced(
            a,
            b,
            cost,
            reg=0.05,
            reg_m=1.0,
            numItermax=2000,
            method="sinkhorn_translation_invariant",
            stopThr=1e-9,
        )
        return objective(plan, cost, a, b)

    def quasi_newton(cost: Array, a: Array, b: Array) -> float:
        plan = ot.unbalanced.lbfgsb_unbalanced(a, b, cost, 0.0, 1.0, reg_div="kl", regm_div="kl")
        return objective(plan, cost, a, b)

    solvers: dict[str, Callable[[Array, Array, Array], float]] = {
        "unbalanced_ot": lambda *problem: unbalanced_ot(*problem).value,
        "POT mm_unbalanced": lambda *problem: (
            unbalanced_ot_mm(*problem, iterations=config.iterations).value
        ),
        "POT lbfgsb_unbalanced": quasi_newton,
        "POT sinkhorn_unbalanced, 0.05": regularised,
        "cvxpy, Clarabel, dual": lambda *problem: unbalanced_ot_cvxpy(*problem).value,
    }
    rows = []
    for scale in progress(SCALES, "scales"):
        problem = outlier_problem(config.points, scale, config.seed)
        exact = unbalanced_ot(*problem)
        certificate = exact.verify()
        middle = (certificate.primal_value + certificate.dual_value) / 2
        for name, solve in solvers.items():
            value, elapsed = _timed(solve, problem)
            rows.append(
                {
                    "scale": scale,
                    "solver": name,
                    "value": value,
                    "relative_error": abs(value / middle - 1),
                    "seconds": elapsed,
                    "mass": exact.mass,
                    "gap": certificate.gap,
                    "steps": exact.steps,
                    "entries": exact.plan.nnz,
                }
            )
    return rows


def _timed(solve: Callable[..., float], problem: tuple[Array, Array, Array]) -> tuple[float, float]:
    """Value and seconds; NaN where the solver finds no optimum."""
    import warnings

    found = [math.nan]

    def attempt() -> None:
        try:
            found[0] = solve(*problem)
        except RuntimeError:
            found[0] = math.nan

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # solvers that do not converge say so; the table shows it
        elapsed = seconds(attempt)
    return found[0], elapsed


def objective(plan: Array, cost: Array, a: Array, b: Array) -> float:
    """The unregularised objective of any plan, weight one."""
    from scipy.special import kl_div

    value = float((plan * cost).sum())
    for axis, mass in ((1, a), (0, b)):
        value += float(kl_div(plan.sum(axis=axis), mass).sum())
    return value


def plan_rows(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Outliers and class imbalance, balanced and unbalanced: (numbers, what to draw)."""
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(config.seed)
    n = config.points
    a = np.full(n, 1 / n)
    far = max(1, n // 20)
    y, x = 0.4 * rng.standard_normal((2, n, 2))
    x[:, 0] += 1.5
    x[:far] += [4.0, 5.0]
    outlying = np.arange(n) < far
    clouds = {"outliers": (y, x, np.zeros(n, dtype=bool), outlying, 0.5)}
    first, second = np.arange(n) >= n // 4, np.arange(n) >= 3 * n // 4
    y, x = 0.3 * rng.standard_normal((2, n, 2))
    y[:, 1] += np.where(first, 2.0, -2.0)
    x[:, 1] += np.where(second, 2.0, -2.0)
    x[:, 0] += 2.5
    clouds["imbalance"] = (y, x, first, second, 0.5)
    rows, drawn = [], []
    for name, (y, x, label_y, label_x, scale) in clouds.items():
        cost = scale * cdist(y, x, "sqeuclidean")
        for divergence in ("balanced", "kl"):
            found = unbalanced_ot(cost, a, a, divergence)
            density = found.plan.sum(axis=0) / a
            part = found.plan.tocoo()
            crossing = float(part.data[label_y[part.row] != label_x[part.col]].sum()) / found.mass
            kind = "unbalanced" if divergence == "kl" else divergence
            rows.append(
                {
                    "case": f"{name}, {kind}",
                    "value": found.value,
                    "mass": found.mass,
                    "gap": found.gap,
                    "outlier_density": float(density[label_x].mean()),
                    "inlier_density": float(density[~label_x].mean()),
                    "crossing_share": crossing,
                }
            )
            drawn.append(
                {"title": f"{name}: {kind}", "y": y, "x": x, "plan": part, "density": density}
            )
    return rows, drawn


def gaussian_rows() -> list[dict[str, float]]:
    """Discretised Gaussian measures against the closed form, on finer and finer grids."""
    exact = unbalanced_gaussian(
        [0.0], [1.0], [1.5], [0.25], forward=[[0.6]], likelihood=0.3, quadratic=0.3
    )
    rows = []
    for points in (20, 40, 80, 160, 320):
        grids = []
        for mean, deviation in ((0.0, 1.0), (1.5, 0.5)):
            grid = np.linspace(mean - 6 * deviation, mean + 6 * deviation, points)
            density = np.exp(-0.5 * ((grid - mean) / deviation) ** 2)
            density *= (grid[1] - grid[0]) / (deviation * math.sqrt(2 * math.pi))
            grids.append((grid, density))
        (y, a), (x, b) = grids
        cost = 0.3 * (y[:, None] - 0.6 * x) ** 2 + 0.3 * (y[:, None] - x) ** 2
        found = unbalanced_ot(cost, a, b)
        rows.append(
            {
                "points": float(points),
                "value_error": abs(found.value - exact.value),
                "mass_error": abs(found.mass - exact.mass),
                "semidual_error": abs(
                    semidual_value(exact.potential(x[:, None]), cost, a, b) - found.value
                ),
                "gap": found.gap,
            }
        )
    return rows


def identity_checks(config: Config) -> list[Check]:
    """The identities of the theory, at the returned plans and potentials."""
    mass = density = semidual = knob = below = 0.0
    rng = np.random.default_rng(config.seed)
    for scale in SCALES:
        cost, a, b = outlier_problem(config.points, scale, config.seed)
        found = unbalanced_ot(cost, a, b)
        (u, v), total = found.potentials, a.sum() + b.sum()
        mass = max(mass, abs((total - 2 * found.mass) / found.value - 1))
        for axis, own, potential in ((1, a, u), (0, b, v)):
            off = found.plan.sum(axis=axis) / own - np.exp(-potential)
            density = max(density, float(np.abs(off).max()))
        semidual = max(semidual, abs(semidual_value(v, cost, a, b) / found.value - 1))
        for size in (1e-3, 0.1, 1.0):
            moved = v + size * rng.standard_normal(len(v))
            below = max(below, semidual_value(moved, cost, a, b) / found.value - 1)
        double = unbalanced_ot(2 * cost, a, b, weight=2.0).value / 2
        knob = max(knob, abs(double / found.value - 1))
    cost, a, b = outlier_problem(config.points, 1.0, config.seed)
    f, g = rng.standard_normal((2, config.points))
    moved_balanced, moved_free = (
        _moved(unbalanced_ot(cost, a, b, kind), unbalanced_ot(cost + f[:, None] + g, a, b, kind))
        for kind in ("balanced", "kl")
    )
    return [
        at_most("|value / (|a| + |b| - 2 mass) - 1|", mass, 1e-10),
        at_most("largest error of the densities e^-u, e^-v", density, 1e-8),
        at_most("|semi-dual at the returned potential / value - 1|", semidual, 1e-10),
        at_most("semi-dual at other potentials above the value", below, 1e-12),
        at_most("alpha KL with cost alpha c: |value / (alpha value) - 1|", knob, 1e-10),
        at_most("cost + f(y) + g(x), balanced: share of the plan that moves", moved_balanced, 1e-9),
        at_least("cost + f(y) + g(x), unbalanced: share that moves", moved_free, 0.1),
    ]


def _moved(first: UnbalancedTransport, second: UnbalancedTransport) -> float:
    """Total variation distance of two plans scaled to mass one."""
    return float(abs(first.plan / first.mass - second.plan / second.mass).sum()) / 2


def plan_figure(path: Path, drawn: list[dict[str, Any]]) -> None:
    """Four panels: arcs of the plans, targets shaded by the mass they receive."""
    from matplotlib.collections import LineCollection

    with drawing(path, 2, len(drawn) // 2, height=2.9) as (figure, axes):
        for axis, case in zip(axes.flat, drawn, strict=True):
            part, y, x = case["plan"], case["y"], case["x"]
            kept = part.data > 1e-3 * part.data.max()
            arcs = np.stack([y[part.row[kept]], x[part.col[kept]]], axis=1)
            axis.add_collection(LineCollection(list(arcs), colors="0.75", linewidths=0.5, zorder=0))
            axis.scatter(*y.T, s=7, color=PALETTE[0], label="measurements y")
            shade = axis.scatter(
                *x.T,
                s=7,
                c=case["density"],
                cmap="inferno_r",
                vmin=0.0,
                vmax=1.2,
                label="signals x",
            )
            axis.set(title=case["title"], xticks=[], yticks=[])
        axes[0, 0].legend(loc="upper left")
        figure.colorbar(shade, ax=axes, label="density of the plan at x", shrink=0.6)


def solver_figure(path: Path, rows: list[dict[str, Any]], gaussian: list[dict[str, float]]) -> None:
    """Error against time for every solver, and discretised Gaussians."""
    with drawing(path, 2, height=3.4) as (figure, axes):
        left, right = axes[0]
        for k, name in enumerate(dict.fromkeys(row["solver"] for row in rows)):
            own = [row for row in rows if row["solver"] == name and math.isfinite(row["value"])]
            left.plot(
                [row["seconds"] for row in own],
                [max(row["relative_error"], 1e-16) for row in own],
                "osv^D"[k % 5],
                color=PALETTE[k % len(PALETTE)],
                mfc="none",
                label=name,
            )
        left.set(
            xscale="log",
            yscale="log",
            xlabel="seconds",
            ylabel="relative error of the value",
            title="solvers, all scales (without failures)",
        )
        name_lines(figure, [left], direct=False)
        points = [row["points"] for row in gaussian]
        for name in ("value_error", "mass_error"):
            errors = [row[name] for row in gaussian]
            right.plot(points, errors, marker="o", label=name.split("_")[0])
        right.set(
            xscale="log",
            yscale="log",
            xlabel="points of the grid",
            ylabel="error",
            title="discretised Gaussians: closed form",
        )
        right.set_xticks(points, [f"{count:g}" for count in points])
        right.minorticks_off()
        right.legend()


def run(config: Config, out: Path) -> list[Check]:
    """All tables, figures and checks."""
    made = provenance("unbalanced", config)
    solvers, (plans, drawn), gaussian = solver_rows(config), plan_rows(config), gaussian_rows()
    for name, rows in (("solvers", solvers), ("plans", plans), ("gaussian", gaussian)):
        write_csv(out / f"{name}.csv", rows)
        write_json(out / f"{name}.json", {**made, "rows": rows})
    plan_figure(out / "plans", drawn)
    solver_figure(out / "solvers", solvers, gaussian)
    cases = {row["case"]: row for row in plans}
    own = [row for row in solvers if row["solver"] == "unbalanced_ot"]
    other = [row for row in solvers if row["solver"] == "POT mm_unbalanced"]
    fastest = min(b["seconds"] / a["seconds"] for a, b in zip(own, other, strict=True))
    checks = [
        at_most("relative gap, all scales", max(row["gap"] for row in own), 1e-9),
        at_most(
            "unbalanced_ot below mm_unbalanced: largest excess",
            max(a["value"] / b["value"] - 1 for a, b in zip(own, other, strict=True)),
            1e-12,
        ),
        *identity_checks(config),
        at_most(
            "outliers, unbalanced: density at the outliers",
            cases["outliers, unbalanced"]["outlier_density"],
            1e-2,
        ),
        at_least(
            "outliers, unbalanced: density at the inliers",
            cases["outliers, unbalanced"]["inlier_density"],
            0.5,
        ),
        at_least(
            "imbalance, balanced: share that changes cluster",
            cases["imbalance, balanced"]["crossing_share"],
            0.4,
        ),
        at_most(
            "imbalance, unbalanced: share that changes cluster",
            cases["imbalance, unbalanced"]["crossing_share"],
            1e-3,
        ),
        at_most("Gaussian, 320 points: error of the value", gaussian[-1]["value_error"], 4e-4),
        at_most("Gaussian, 320 points: error of the mass", gaussian[-1]["mass_error"], 4e-4),
    ]
    for row in solvers:
        print(
            f"scale {row['scale']:<5} {row['solver']:30} error {row['relative_error']:.1e} in "
            f"{row['seconds']:.3f} s (mass {row['mass']:.3f})"
        )
    print(f"mm_unbalanced at {config.iterations} iterations takes at least {fastest:.0f} x ours")
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    return checks
