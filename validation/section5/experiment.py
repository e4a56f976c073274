"""Both sweeps; what is written and printed."""

from __future__ import annotations

import textwrap
from pathlib import Path

from validation.results import (
    Check,
    progress,
    provenance,
    write_csv,
    write_json,
)
from validation.section5.claims import (
    convergence_checks,
    describe_closing,
    diagonal_checks,
    heat_checks,
    oracle_checks,
    ordering_checks,
    transport_checks,
)
from validation.section5.plots import convergence_figure, gap_figure, risk_figure
from validation.section5.problems import (
    convergence,
    diagonal_sweep,
    heat_sweep,
    measure,
    signals,
)
from validation.section5.settings import UNREADABLE, Config


def run(config: Config, out: Path) -> list[Check]:
    """Compute both sweeps, write tables and figures to `out`, return the checks."""
    print(UNREADABLE + "\n")
    made = provenance("section5", config)
    settings = [f"{name}={value}" for name, value in made["config"].items()]
    print(textwrap.fill("  ".join(settings), 96, break_on_hyphens=False) + "\n")
    x = signals(config)
    sweeps = {"diagonal": diagonal_sweep(config), "heat": heat_sweep(config)}
    plan = [
        ("diagonal", sweeps["diagonal"], config.radius),
        ("heat", sweeps["heat"], config.radius),
        ("heat_small_radius", sweeps["heat"], config.small_radius),
    ]
    tables: dict[str, list[dict[str, float]]] = {}
    for name, sweep, radius in plan:
        tables[name] = [measure(point, x, radius) for point in progress(sweep, name)]
    ladder = convergence(config, sweeps, x)
    for name, _, radius in plan:
        write_csv(out / f"{name}.csv", tables[name])
        write_json(out / f"{name}.json", {**made, "radius": radius, "rows": tables[name]})
        risk_figure(out / f"{name}_risks", name.split("_")[0], radius, tables[name])
    write_csv(out / "convergence.csv", ladder)
    gap_figure(out / "gap", config, tables)
    convergence_figure(out / "convergence", ladder)
    everything = [row for rows in tables.values() for row in rows]
    checks = [
        *diagonal_checks(tables["diagonal"], float((x**2).sum(axis=1).mean())),
        *heat_checks([(tables[name], radius) for name, _, radius in plan[1:]]),
        *ordering_checks(everything),
        *convergence_checks(ladder),
        *transport_checks(config, everything, sweeps),
        *oracle_checks(config, sweeps, x),
    ]
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    first, last = tables["diagonal"][0], tables["diagonal"][-1]
    print(
        f"diagonal: gap {100 * first['gap_root']:.3f} % at L = {first['lipschitz']:g}, "
        f"{100 * last['gap_root']:.3f} % at L = {last['lipschitz']:g}; "
        f"squared form {100 * first['gap_squared']:.1f} % at L = {first['lipschitz']:g}"
    )
    print(describe_closing(tables["heat"], config.radius))
    print(describe_closing(tables["heat_small_radius"], config.small_radius))
    print("(monotone closing is a theorem for the diagonal problem, not for the heat problem)")
    return checks
