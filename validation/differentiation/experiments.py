"""The experiment: algorithms, noise sweeps on two problems, tails, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dro_core import LinearFit, fit_linear, worst_case_risk
from validation.benchmarks.timing import median_seconds
from validation.differentiation.algorithms import (
    ending,
    estimate_rows,
    judged,
    start_map,
    trajectories,
)
from validation.differentiation.baselines import least_squares, validated_tikhonov
from validation.differentiation.claims import (
    algorithm_claims,
    all_checks,
    claim,
    noise_claims,
    rank_claims,
    tail_claims,
)
from validation.differentiation.data import Data, draw
from validation.differentiation.measures import (
    Maps,
    noise_rows,
    rank_rows,
    stability_rows,
    tail_rows,
)
from validation.differentiation.plots import noise_figure, rank_figure, time_figure
from validation.differentiation.settings import (
    CLEAN,
    COMPARABLE,
    DROP,
    EXACT,
    LEAST_SQUARES,
    NOISY,
    ORACLE,
    RANDOM_START,
    UNCHANGED,
    Config,
    middle,
    sharp_name,
)
from validation.results import (
    Check,
    progress,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.tables import Row, Tables


@dataclass
class Findings:
    """Rows of every table, and what the checks need besides."""

    tables: Tables = field(default_factory=dict)
    fits: list[LinearFit] = field(default_factory=list)
    #: Per entropy weight: seconds and certified gap of the exact fit of the main problem.
    exact: dict[float, tuple[float, float]] = field(default_factory=dict)

    def fit(self, data: Data, radius: float, epsilon: float) -> LinearFit:
        """An exact fit that is remembered."""
        self.fits.append(fit_linear(x=data.x, y=data.y, radius=radius, epsilon=epsilon))
        return self.fits[-1]

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """More rows of a table."""
        self.tables.setdefault(name, []).extend(rows)


def run_algorithms(config: Config, found: Findings) -> Maps:
    """Both entropy weights; the maps that the algorithms end with at the first."""
    data, learned = draw(config, 0, config.samples, config.modes), {}
    bar = progress(list(range(8)), "algorithms")
    for epsilon in (config.epsilon, config.large_epsilon):
        best = found.fit(data, config.radius, epsilon)
        again = partial(fit_linear, x=data.x, y=data.y, radius=config.radius, epsilon=epsilon)
        found.exact[epsilon] = median_seconds(again, 3), best.gap
        for trajectory in trajectories(config, data, epsilon):
            rows = judged(config, data, epsilon, trajectory, best.risk)
            found.add("algorithms", rows)
            found.add("endings", [ending(config, data, best, trajectory, rows)])
            if epsilon == config.epsilon:
                learned[trajectory.name] = trajectory.final
            bar.update()
    bar.close()
    return learned


def compare_maps(config: Config, modes: int, learned: Maps, found: Findings) -> None:
    """Noise sweep, stability and rank of every method, on data with that many modes."""
    train = draw(config, 0, config.samples, modes)
    radii = config.small_radius, config.radius
    exact = {EXACT.format(rho): found.fit(train, rho, config.epsilon).matrix for rho in radii}
    tuned = [validated_tikhonov(config, modes, level) for level in config.levels]
    half = middle(config)
    baselines = {
        CLEAN: tuned[0][1],
        NOISY.format(config.levels[half]): tuned[half][1],
        LEAST_SQUARES: least_squares(train),
    }
    maps = exact | baselines | learned
    per_level = {name: [B] * len(config.levels) for name, B in maps.items()}
    noise = noise_rows(config, modes, per_level | {ORACLE: [B for _, B in tuned]})
    stable = stability_rows(config, modes, maps)
    found.add("noise", noise)
    found.add("stability", stable)
    found.add("claims", noise_claims(config, noise, stable, modes))
    for level, (weight, _) in zip(config.levels, tuned, strict=True):
        found.add("tikhonov_weights", [{"modes": modes, "noise": level, "weight": weight}])

    ranked = exact | {LEAST_SQUARES: baselines[LEAST_SQUARES]} | learned
    if learned:
        ranked |= {RANDOM_START: least_squares(train, start_map(config)), CLEAN: baselines[CLEAN]}
    found.add("rank", rank_rows(config, modes, 0.0, ranked))
    tailed = draw(config, 0, config.samples, modes, config.tail)
    exact = {EXACT.format(rho): found.fit(tailed, rho, config.epsilon).matrix for rho in radii}
    sharp = found.fit(tailed, config.small_radius, 0.0)
    name = EXACT.format(config.small_radius)
    risk = worst_case_risk(exact[name], tailed.x, tailed.y, config.small_radius).risk
    excess, where = risk / sharp.risk - 1, f"K = {modes}, tail {config.tail:g}: {name}"
    text = "a map with the drop minimises the Wasserstein risk (epsilon 0) too: excess"
    found.add("claims", [claim(text, where, excess, f"<= {UNCHANGED}", excess <= UNCHANGED)])
    ranked = exact | {sharp_name(config): sharp.matrix, LEAST_SQUARES: least_squares(tailed)}
    found.add("rank", rank_rows(config, modes, config.tail, ranked))


def run(config: Config, out: Path) -> list[Check]:
    """Fit, judge, write tables and figures to `out`, print the claims, return the checks."""
    found = Findings()
    learned = run_algorithms(config, found)
    for modes in progress([config.modes, config.more_modes], "noise sweeps"):
        compare_maps(config, modes, learned if modes == config.modes else {}, found)
    found.add("tails", tail_rows(config))
    found.add("estimates", estimate_rows(config))
    tables = found.tables
    found.add("claims", rank_claims(config, tables["rank"]))
    found.add("claims", tail_claims(tables["tails"]))
    found.add("claims", algorithm_claims(config, tables["endings"]))

    made = provenance("differentiation", config)
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
        write_json(out / f"{name}.json", {**made, "rows": rows})
    noise_figure(out / "differentiation_noise", config, tables)
    rank_figure(out / "differentiation_rank", config, tables)
    time_figure(out / "differentiation_time", config, tables, found.exact)
    report(tables, found.exact)
    checks = all_checks(config, found.fits, tables)
    write_json(out / "checks.json", {**made, "checks": checks, "holds": [c.holds for c in checks]})
    return checks


def report(tables: Tables, exact: Mapping[float, tuple[float, float]]) -> None:
    """Print where the algorithms end, and the table of claims."""
    keys = "multiplier", "optimal_multiplier", "estimate", "estimate_at_optimum", "optimal_risk"
    lines: list[tuple[str, ...]] = [
        (
            "method",
            "epsilon",
            "seconds",
            "excess",
            "lowest on the way",
            "multiplier",
            "optimal",
            "its estimate",
            "of the optimum",
            "exact optimum",
        )
    ]
    for epsilon, (seconds, gap) in exact.items():
        lines.append(("fit_linear", f"{epsilon:g}", f"{seconds:.2f}", f"gap {gap:.1e}", *[""] * 6))
    for row in tables["endings"]:
        numbers = f"{row['seconds']:.2f}", f"{row['excess']:.2e}", f"{row['lowest_excess']:.2e}"
        rest = (f"{row[key]:.4g}" for key in keys)
        lines.append((str(row["method"]), f"{row['epsilon']:g}", *numbers, *rest))
    print(table(lines))
    print(f"\nClaims (a drop: <= {DROP}; comparable: within {COMPARABLE:.0%} of the signals' RMS)")
    lines = [("claim", "where", "number", "holds if", "")]
    for row in tables["claims"]:
        value = f"{row['number']:.3g}"
        sentence, where, holds_if, holds = (
            str(row[key]) for key in ("claim", "where", "holds_if", "holds")
        )
        lines.append((sentence, where, value, holds_if, holds))
    print(table(lines))
