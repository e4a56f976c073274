"""Where the gap closes, and what must hold."""

from __future__ import annotations

import numpy as np

from dro_core import (
    LinearReconstruction,
)
from dro_core.reference import (
    finite_worst_case_highs,
    worst_case_risk_sdp,
)
from dro_core.types import Array
from validation.results import (
    Check,
    at_least,
    at_most,
    progress,
)
from validation.section5.problems import (
    SweepPoint,
    diagonal_sweep,
    finite_optimum,
    heat_sweep,
    repeated_measurements,
    signals,
)
from validation.section5.settings import STRUCTURES, Config
from validation.tables import Row, number


def closing_defect(rows: list[dict[str, float]]) -> Array:
    """Steps of the gap along growing L: all negative where it closes monotonically."""
    return np.diff([row["gap_root"] for row in rows])


def closing_criterion(rows: list[dict[str, float]], radius: float) -> Array:
    r"""Slack of :math:`-d\sqrt M/dL \le \sqrt M/\kappa + \rho(1 + L/\kappa)` between points."""
    L = np.array([row["lipschitz"] for row in rows])
    root = np.sqrt([row["fidelity"] for row in rows])
    middle, root_middle = (L[1:] + L[:-1]) / 2, (root[1:] + root[:-1]) / 2
    kappa = np.hypot(1.0, middle)
    slack = root_middle / kappa + radius * (1 + middle / kappa) + np.diff(root) / np.diff(L)
    return np.asarray(slack)


def describe_closing(rows: list[dict[str, float]], radius: float) -> str:
    """In words, with the gaps at both ends."""
    steps = closing_defect(rows)
    first, last = rows[0], rows[-1]
    where = np.flatnonzero(steps >= 0)
    falling = np.flatnonzero(steps < 0)
    if where.size == 0:
        verdict = f"closes monotonically over the {len(rows)} points of the sweep"
    elif falling.size == 0:
        verdict = "rises throughout"
    elif (steps[falling[0] :] < 0).all():
        verdict = f"rises up to L = {rows[falling[0]]['lipschitz']:.4g} and falls from there on"
    else:
        verdict = f"rises on {where.size} of {steps.size} steps"
    exact = [1 - (row["exact y|x"] / row["exact joint"]) ** 0.5 for row in rows]
    return (
        f"heat, radius {radius:g}: sqrt(M)/radius from {first['root_fidelity_over_radius']:.3f} "
        f"(L = {first['lipschitz']:.3f}) to {last['root_fidelity_over_radius']:.3f} "
        f"(L = {last['lipschitz']:.4g});\n"
        f"  gap of the bounds {100 * first['gap_root']:.2f} % -> {100 * last['gap_root']:.2f} %, "
        f"largest {100 * max(r['gap_root'] for r in rows):.2f} %: {verdict}\n"
        f"  gap of the exact risks (root form) {100 * exact[0]:.2f} % -> {100 * exact[-1]:.2f} %, "
        f"largest {100 * max(exact):.2f} %"
    )


def column(rows: list[dict[str, float]], name: str) -> Array:
    """One column of a table, over the sweep; with both structures side by side if it has them."""
    if name in rows[0]:
        return np.array([row[name] for row in rows])
    return np.array([[row[f"{name} {structure}"] for structure in STRUCTURES] for row in rows])


def diagonal_checks(rows: list[dict[str, float]], signal_size: float) -> list[Check]:
    """Without residual: the gap is a function of L alone and the bounds are attained."""
    L, gaps = column(rows, "lipschitz"), column(rows, "gap_root")
    tight = np.abs(column(rows, "exact") / column(rows, "bound_squared") - 1).max()
    error = np.abs(gaps - (1 - L / np.hypot(1.0, L))).max()
    residual = column(rows, "fidelity").max() / signal_size
    return [
        at_most("diagonal: |gap - (1 - L/sqrt(1+L^2))|, all L", error, 1e-9),
        at_most("diagonal: |gap at L = 1 - 29.289 %|, in %", abs(100 * gaps[0] - 29.2893219), 1e-6),
        at_most("diagonal: largest step of the gap (it closes)", np.diff(gaps).max(), 0.0),
        at_most("diagonal: M relative to the signals (exact inverse)", residual, 1e-24),
        at_most("diagonal: |exact risk / bound - 1| (tight)", tight, 1e-9),
    ]


def heat_checks(tables: list[tuple[list[dict[str, float]], float]]) -> list[Check]:
    """With a residual: a smaller gap at equal L, and closing exactly where the criterion says."""
    L, gaps = (
        np.concatenate([column(rows, n) for rows, _ in tables]) for n in ("lipschitz", "gap_root")
    )
    share = gaps / (1 - L / np.hypot(1.0, L))
    step_of_residual = np.diff(column(tables[0][0], "fidelity")).max()
    agreement = np.mean(
        [(closing_criterion(rows, rho) >= 0) == (closing_defect(rows) <= 0) for rows, rho in tables]
    )
    return [
        at_most("heat: gap / the diagonal's at equal L - 1", share.max() - 1, 1e-12),
        at_most("heat: largest step of M as L grows (M falls)", step_of_residual, 0.0),
        at_least("heat: steps where criterion and gap agree, share", agreement, 0.95),
    ]


def ordering_checks(rows: list[dict[str, float]]) -> list[Check]:
    """finite <= exact <= bound, Y|X <= joint, and the certificates of the exact risks."""
    exact, finite, bound = (column(rows, n) for n in ("exact", "finite", "bound_squared"))
    inside = exact[:, STRUCTURES.index("y|x")] / exact[:, STRUCTURES.index("joint")]
    gap = column(rows, "certificate_gap").max()
    return [
        at_most("all: certificate gap of the exact risks", gap, 1e-9),
        at_least("all: certificates that hold, share", column(rows, "certified").mean(), 1.0),
        at_most("all: largest exact risk / bound - 1", (exact / bound).max() - 1, 1e-12),
        at_most("all: largest finite / exact risk - 1", (finite / exact).max() - 1, 1e-9),
        at_least("all: smallest finite / exact risk", (finite / exact).min(), 0.95),
        at_most("all: largest exact Y|X / exact joint risk - 1", inside.max() - 1, 1e-12),
    ]


def convergence_checks(ladder: list[Row]) -> list[Check]:
    """More candidates never hurt, and enough of them reach the exact risk."""
    sequences: dict[tuple[str, str], list[float]] = {}
    for row in ladder:
        place = str(row["problem"]), str(row["structure"])
        sequences.setdefault(place, []).append(number(row, "ratio"))
    ratios = np.array(list(sequences.values()))
    loss = max(0.0, -float(np.diff(ratios, axis=1).min()))
    return [
        at_least("rays that miss the atoms, finest: finite / exact", ratios[:, -1].min(), 0.999),
        at_most("adding candidates lowers the finite optimum by", loss, 1e-12),
    ]


def transport_checks(
    config: Config, rows: list[dict[str, float]], sweeps: dict[str, list[SweepPoint]]
) -> list[Check]:
    """The worst-case law is at distance radius, by optimal transport."""
    error = np.abs(column(rows, "distance_over_radius") - 1).max(axis=0)
    repeated, monotone = repeated_measurements(config, sweeps)
    return [
        at_most("|W2(data, worst joint law) / radius - 1|, by POT", error[0], 1e-7),
        at_most("|W_Y|X(data, worst Y|X law) / radius - 1|, by POT", error[1], 1e-7),
        at_most("the same with 6 noisy measurements per signal", repeated, 1e-7),
        at_least("there: y -> y + v is monotone, smallest slope", monotone, 1 - 1e-9),
    ]


def oracle_checks(config: Config, sweeps: dict[str, list[SweepPoint]], x: Array) -> list[Check]:
    """A linear and a semidefinite programme on excerpts small enough for them."""
    linear, semidefinite = 0.0, 0.0
    for sweep in progress(list(sweeps.values()), "linear and semidefinite programmes"):
        point = sweep[len(sweep) // 2]
        problem = LinearReconstruction(
            point.inverse.matrix(), x[:20], x[:20] @ point.forward.matrix().T
        )
        for structure in STRUCTURES:
            worst = problem.worst_case(config.radius, structure)
            finite, (loss, cost) = finite_optimum(problem, worst, (0.0, 0.6, 1.3))
            everyone = slice(0, len(problem.x))
            try:
                programme = finite_worst_case_highs(loss(everyone), cost(everyone), config.radius)
            except RuntimeError as error:  # the solver's failure is a failed check, not a crash
                print(f"finite optimum, {structure}: {error}")
                linear = float("nan")
            else:
                linear = float(np.maximum(linear, abs(finite / programme.risk - 1)))
    small = Config(size=12, modes=min(config.modes, 5), points=3, seed=config.seed)
    for sweep in (diagonal_sweep(small), heat_sweep(small)):
        excerpt, point = signals(small), sweep[1]
        B, y = point.inverse.matrix(), excerpt @ point.forward.matrix().T
        for structure in STRUCTURES:
            exact = LinearReconstruction(B, excerpt, y).worst_case(config.radius, structure).risk
            reference = worst_case_risk_sdp(B, excerpt, y, config.radius, structure).risk
            semidefinite = max(semidefinite, abs(exact / reference - 1))
    return [
        at_most("finite optimum against HiGHS (20 samples, 60 candidates)", linear, 1e-9),
        at_most("exact risk against Clarabel's SDP (n = 12)", semidefinite, 1e-6),
    ]
