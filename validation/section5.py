"""Section 5: how conservative is joint DRO? Both bounds, exact worst cases, finite support.

Two inverse problems with a hand-made inverse B, swept through their ill-posedness (paper §5.1):

* diagonal: A = diag(k^-decay), B = A^-1, so the fidelity M is zero and L = n^decay;
* heat: the periodic heat flow, B its Tikhonov-regularised inverse, so M > 0 without any noise.

At every point of the sweep: L, M, the bounds of Theorems 4.1 and 4.2 and their gap; beside them the
exact worst-case risks (which the bounds exceed), the optimum on a finite support (which they exceed
in turn), and by optimal transport the distance of the worst-case law from the data.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import (
    LinearReconstruction,
    WorstCase,
    conservatism_gap,
    explicit_bound,
    finite_worst_case,
    quadratic_candidates,
)
from dro_core.operators import BackwardHeat, Diagonal, SpectralOperator
from dro_core.reference import (
    conditional_wasserstein_pot,
    finite_worst_case_highs,
    wasserstein_pot,
    worst_case_risk_sdp,
)
from dro_core.types import Array
from validation.errors import UsageError
from validation.results import (
    Check,
    at_least,
    at_most,
    new_figure,
    progress,
    provenance,
    save_figure,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting

STRUCTURES = ("joint", "y|x")
COLOURS = {"joint": "#b2182b", "y|x": "#2166ac", "diagonal": "#1b7837", "heat": "#e08214"}
NAMES = {"joint": "joint", "y|x": "Y|X"}
#: Positions of candidates on the ray through an exact atom (0: the data point, 1: the atom).
RAYS = (0.0, 0.5, 0.8, 1.0, 1.25, 2.0)

UNREADABLE = """\
The paper's text lost its inline numbers: grid size, number of signals, measurements per signal,
radius, coefficient decay, diffusion time, both ends of both sweeps, and the first values of its
Figure 3 cannot be read. The values below are this project's; change them with --set name=value.
Norms are Euclidean sums over the grid (not grid means), the radius is in those units."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of Section 5 (all of them this project's choice)."""

    size: int = setting(64, "grid points n", low=1)
    samples: int = setting(60, "signals N", low=1)
    samples_per_signal: int = setting(
        1, "measurements per signal (without noise all are equal)", low=1
    )
    modes: int = setting(12, "cosine and sine modes of a signal", low=1)
    smoothness: float = setting(
        1.0, "coefficients of mode k decay like k^-smoothness", low=-10, high=10
    )
    radius: float = setting(1.5, "W2 radius of the main comparison", above=0)
    small_radius: float = setting(
        0.1, "second radius for the heat problem, where closing fails", above=0
    )
    points: int = setting(25, "points of each sweep", low=1)
    largest_decay: float = setting(1.0, "diagonal: the decay runs from 0 to this", above=0)
    heat_time: float = setting(1e-4, "heat: diffusion time T", above=0)
    largest_regularization: float = setting(0.25, "heat: alpha runs from this ...")
    smallest_regularization: float = setting(1e-4, "heat: ... down to this")
    noise: float = setting(
        0.05, "standard deviation for the transport check with repeated x", above=0
    )
    seed: int = setting(0, "seed of the signals", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 3 or self.size < 4 or self.samples < 2:
            raise UsageError("--set: a sweep needs points >= 3, size >= 4 and samples >= 2")
        if not self.largest_regularization > self.smallest_regularization > 0:
            raise UsageError(
                "--set: largest_regularization > smallest_regularization > 0 is needed"
            )


def signals(config: Config) -> Array:
    """Random cosine/sine series with decaying coefficients on the grid, (N * per signal, n)."""
    rng = np.random.default_rng(config.seed)
    grid = np.arange(config.size) / config.size
    k = np.arange(1, config.modes + 1)
    angles = 2 * np.pi * k[:, None] * grid[None, :]
    decay = k**-config.smoothness
    cosine = rng.standard_normal((config.samples, config.modes)) * decay
    sine = rng.standard_normal((config.samples, config.modes)) * decay
    x = cosine @ np.cos(angles) + sine @ np.sin(angles)
    return np.asarray(np.repeat(x, config.samples_per_signal, axis=0))


@dataclass(frozen=True)
class SweepPoint:
    """A forward operator and the inverse that is judged at one parameter value."""

    parameter: float
    forward: SpectralOperator
    inverse: SpectralOperator


def diagonal_sweep(config: Config) -> list[SweepPoint]:
    """Diagonal problem: exact inverses of ever faster decay."""
    points = []
    for decay in np.linspace(0.0, config.largest_decay, config.points):
        operator = Diagonal(decay, config.size)
        points.append(SweepPoint(float(decay), operator, operator.inverse()))
    return points


def heat_sweep(config: Config) -> list[SweepPoint]:
    """Heat problem: one operator, ever less regularised inverses."""
    operator = BackwardHeat(config.heat_time, config.size)
    ends = config.largest_regularization, config.smallest_regularization
    return [
        SweepPoint(float(alpha), operator, operator.inverse(float(alpha)))
        for alpha in np.geomspace(*ends, config.points)
    ]


def finite_optimum(
    problem: LinearReconstruction, worst: WorstCase, positions: Any
) -> tuple[float, tuple[Any, Any]]:
    """Optimum over a shared finite support: every sample's ray through its exact atom.

    Candidates are z_k + s dz_k for all samples k and positions s; any sample may move to any of
    them (under y|x with its own x).
    """
    ladder = np.asarray(positions)[:, None, None]
    new_y = (problem.y + ladder * worst.displacement_y).reshape(-1, problem.y.shape[1])
    new_x = None
    if worst.structure.name == "joint":
        new_x = (problem.x + ladder * worst.displacement_x).reshape(-1, problem.x.shape[1])
    blocks = quadratic_candidates(
        problem.matrix, problem.x, problem.y, x_candidates=new_x, y_candidates=new_y
    )
    found = finite_worst_case(*blocks, worst.radius, weights=problem.weights)
    return found.risk, blocks


def transport_distance(problem: LinearReconstruction, worst: WorstCase) -> float:
    """Distance from data to worst-case law, by POT: W2 for joint, conditional W2 for y|x."""
    if worst.structure.name == "joint":
        return wasserstein_pot(
            np.hstack([problem.x, problem.y]),
            np.hstack([worst.x, worst.y]),
            weights0=problem.weights,
            weights1=problem.weights,
        )
    return conditional_wasserstein_pot(
        problem.x,
        problem.y,
        worst.x,
        worst.y,
        weights0=problem.weights,
        weights1=problem.weights,
    )


def measure(point: SweepPoint, x: Array, radius: float) -> dict[str, float]:
    """Everything about one sweep point at one radius, as one row of the table."""
    problem = LinearReconstruction(point.inverse.matrix(), x, x @ point.forward.matrix().T)
    L, M = point.inverse.lipschitz, problem.fidelity
    row = {
        "parameter": point.parameter,
        "lipschitz": L,
        "fidelity": M,
        "root_fidelity_over_radius": M**0.5 / radius,
        "gap_root": float(conservatism_gap(M, L, radius)),
        "gap_squared": float(conservatism_gap(M, L, radius, form="squared")),
    }
    for structure in STRUCTURES:
        worst = problem.worst_case(radius, structure)
        bound = float(explicit_bound(M, L, radius, structure))
        finite, _ = finite_optimum(problem, worst, RAYS)
        row |= {
            f"bound_root {structure}": bound**0.5,
            f"bound_squared {structure}": bound,
            f"exact {structure}": worst.risk,
            f"multiplier {structure}": worst.multiplier,
            f"certificate_gap {structure}": abs(worst.verify().gap),
            f"certified {structure}": float(worst.verify().holds()),
            f"finite {structure}": finite,
            f"distance_over_radius {structure}": transport_distance(problem, worst) / radius,
        }
    return row


def convergence(
    config: Config, sweeps: dict[str, list[SweepPoint]], x: Array
) -> list[dict[str, Any]]:
    """Finite/exact as candidates are added: nested rays (thirds of thirds) that miss the atom.

    The positions 2j/3^level on [0, 2] never contain 1, so the optimum is approached, not planted.
    Early in the heat sweep, where M is a large share of the risk: there splitting a sample's mass
    between far candidates is no substitute for the atom. (With M = 0 it is: the diagonal problem is
    solved by the coarsest ray.)
    """
    rows = []
    settings = (
        ("diagonal", config.radius),
        ("heat", config.radius),
        ("heat", config.small_radius),
    )
    for name, radius in progress(settings, "convergence"):
        sweep = sweeps[name]
        point = sweep[len(sweep) // 8]
        problem = LinearReconstruction(point.inverse.matrix(), x, x @ point.forward.matrix().T)
        for structure in STRUCTURES:
            worst = problem.worst_case(radius, structure)
            for level in range(5):
                positions = np.linspace(0.0, 2.0, 3**level + 1)
                finite, _ = finite_optimum(problem, worst, positions)
                rows.append(
                    {
                        "problem": f"{name}, radius {radius:g}",
                        "structure": structure,
                        "lipschitz": point.inverse.lipschitz,
                        "candidates": len(positions) * len(x),
                        "finite": finite,
                        "exact": worst.risk,
                        "ratio": finite / worst.risk,
                    }
                )
    return rows


def repeated_measurements(
    config: Config, sweeps: dict[str, list[SweepPoint]]
) -> tuple[float, float]:
    """With noise and six measurements per signal the conditional transport is not trivial.

    Returns the largest relative difference between the conditional W2 distance and the radius, and
    the smallest monotonicity product <(y_i + v_i) - (y_j + v_j), y_i - y_j> / |y_i - y_j|² over
    measurements of one signal (>= 0: the displacement is the gradient of a convex function).
    """
    rng = np.random.default_rng(config.seed + 1)
    x = np.repeat(signals(config)[:: config.samples_per_signal][:10], 6, axis=0)
    distance, monotone = 0.0, np.inf
    for sweep in progress(list(sweeps.values()), "repeated measurements"):
        for point in sweep[:: max(1, len(sweep) // 4)]:
            y = x @ point.forward.matrix().T
            y = y + config.noise * rng.standard_normal(y.shape)
            problem = LinearReconstruction(point.inverse.matrix(), x, y)
            worst = problem.worst_case(config.radius, "y|x")
            found = transport_distance(problem, worst)
            distance = max(distance, abs(found / config.radius - 1))
            for start in range(0, len(x), 6):
                here = slice(start, start + 6)
                before = y[here][:, None] - y[here][None]
                after = worst.y[here][:, None] - worst.y[here][None]
                size = (before**2).sum(axis=2)
                product = (before * after).sum(axis=2)[size > 0] / size[size > 0]
                monotone = min(monotone, float(product.min(initial=np.inf)))
    return distance, monotone


def closing_defect(rows: list[dict[str, float]]) -> Array:
    """Steps of the gap along growing L: all negative where it closes monotonically."""
    return np.diff([row["gap_root"] for row in rows])


def closing_criterion(rows: list[dict[str, float]], radius: float) -> Array:
    r"""Slack of :math:`-d\sqrt M/dL \le \sqrt M/\kappa + \rho(1 + L/\kappa)` between points."""
    L = np.array([row["lipschitz"] for row in rows])
    root = np.sqrt([row["fidelity"] for row in rows])
    middle, root_middle = (L[1:] + L[:-1]) / 2, (root[1:] + root[:-1]) / 2
    kappa = np.hypot(1.0, middle)
    return root_middle / kappa + radius * (1 + middle / kappa) + np.diff(root) / np.diff(L)


def _describe_closing(rows: list[dict[str, float]], radius: float) -> str:
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


def convergence_checks(ladder: list[dict[str, Any]]) -> list[Check]:
    """More candidates never hurt, and enough of them reach the exact risk."""
    sequences: dict[tuple[str, str], list[float]] = {}
    for row in ladder:
        sequences.setdefault((row["problem"], row["structure"]), []).append(row["ratio"])
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


def gap_figure(config: Config, tables: dict[str, list[dict[str, float]]]) -> Any:
    """The paper's Figure 3: the gap against L, both problems."""
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


def risk_figure(name: str, radius: float, rows: list[dict[str, float]]) -> Any:
    """Bounds, exact and finite worst-case risks of one problem, and their distances."""
    figure, axes = new_figure(2, width=5.6, height=4.3)
    L = [row["lipschitz"] for row in rows]
    left, right = axes[0]
    for structure in STRUCTURES:
        colour, label = COLOURS[structure], NAMES[structure]

        def root(column: str, structure: str = structure) -> Any:
            return np.sqrt([row[f"{column} {structure}"] for row in rows])

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


def convergence_figure(ladder: list[dict[str, Any]]) -> Any:
    """How the finite optimum approaches the exact one as candidates are added (heat problem).

    The diagonal problem is left out: its coarsest ray attains the exact risk to rounding.
    """
    problems = [name for name in dict.fromkeys(r["problem"] for r in ladder) if "heat" in name]
    figure, axes = new_figure(len(problems), width=5.0, height=4.0)
    for axis, problem in zip(axes[0], problems, strict=True):
        for structure in STRUCTURES:
            rows = [r for r in ladder if (r["problem"], r["structure"]) == (problem, structure)]
            count, defect = ([r["candidates"] for r in rows], [1 - r["ratio"] for r in rows])
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
        save_figure(out / f"{name}_risks", risk_figure(name.split("_")[0], radius, tables[name]))
    write_csv(out / "convergence.csv", ladder)
    save_figure(out / "gap", gap_figure(config, tables))
    save_figure(out / "convergence", convergence_figure(ladder))
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
    print(_describe_closing(tables["heat"], config.radius))
    print(_describe_closing(tables["heat_small_radius"], config.small_radius))
    print("(monotone closing is a theorem for the diagonal problem, not for the heat problem)")
    return checks
