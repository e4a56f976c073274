"""Corollary 4.2.1: the conditional Wasserstein distance is transport that must keep x.

Random measures with conditions of unequal mass and atoms of unequal weight, in one and several
dimensions: the distance by conditions against one linear programme whose arcs with x != x' are
forbidden, and against POT with a large finite price on them; finite exactly for equal X-marginals;
above the ordinary W2, strictly in general (closed example); a metric. Then the relaxed cost
beta |x - x'|^2 + |y - y'|^2: where x repeats it attains the distance at a finite beta, where x is
continuous it passes the true value and grows for ever, so beta must be chosen with N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core.reference import (
    conditional_wasserstein_lp,
    conditional_wasserstein_pot,
    wasserstein_pot,
)
from dro_core.style import MUTED
from dro_core.types import Array
from dro_core.wasserstein import (
    conditional_wasserstein,
    gaussian_conditional_wasserstein,
    relaxed_curve,
)
from validation.figures import drawing
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


@dataclass(frozen=True)
class Config(Settings):
    """Settings (all of them this project's choice)."""

    problems: int = setting(60, "random pairs of measures per statement", low=5, high=1000)
    conditions: int = setting(6, "their largest number of conditions", low=2, high=20)
    atoms: int = setting(
        8, "their largest number of atoms per condition and measure", low=2, high=30
    )
    points: int = setting(25, "values of beta of each curve", low=5, high=200)
    samples: int = setting(
        800, "largest N of the curves with continuous x; also N/4 and N/16", low=160, high=2000
    )
    seed: int = setting(0, "seed", low=0)


@dataclass(frozen=True)
class Measure:
    """Weighted samples of (x, y)."""

    x: Array
    y: Array
    weights: Array


def random_measure(
    rng: np.random.Generator, x: Array, masses: Array, atoms: int, m: int
) -> Measure:
    """Masses on the rows of x, each split at random among up to `atoms` atoms; in random order."""
    counts = rng.integers(1, atoms + 1, len(x))
    label = rng.permutation(np.repeat(np.arange(len(x)), counts))
    share = rng.random(len(label)) + 0.05
    weights = masses[label] * share / np.bincount(label, share)[label]
    return Measure(x[label], rng.standard_normal((len(label), m)), weights / weights.sum())


def random_measures(config: Config, stream: int, count: int) -> Iterator[list[Measure]]:
    """`problems` times `count` measures with one X-marginal."""
    rng = np.random.default_rng([config.seed, stream])
    for _ in progress(list(range(config.problems)), f"{count} measures with one X-marginal"):
        conditions = int(rng.integers(1, config.conditions + 1))
        x, m = rng.standard_normal((conditions, int(rng.integers(1, 4)))), int(rng.integers(1, 4))
        masses = rng.dirichlet(np.ones(conditions))
        yield [random_measure(rng, x, masses, config.atoms, m) for _ in range(count)]


def arguments(first: Measure, second: Measure) -> tuple[Any, dict[str, Any]]:
    """Both measures as the library takes them."""
    weights = {"weights0": first.weights, "weights1": second.weights}
    return (first.x, first.y, second.x, second.y), weights


def by_large_cost(first: Measure, second: Measure, p: float) -> float:
    """POT on all pairs, moves of x at a price no optimal plan pays: above all cost there is."""
    import ot
    from scipy.spatial.distance import cdist

    cost = cdist(first.y, second.y) ** p
    cost[(first.x[:, None] != second.x).any(axis=2)] = 1e4 * (1 + cost.max())
    return float(ot.emd2(first.weights, second.weights, cost, numItermax=10**7) ** (1 / p))


def equality_checks(config: Config) -> list[Check]:
    """ii) of the corollary: the distance by conditions is the one with infinite cost."""
    worst = {
        "linear programme with forbidden arcs": 0.0,
        "POT with a large finite cost": 0.0,
        "POT condition by condition (p = 2)": 0.0,
    }
    certified, marginal = 0.0, 0.0
    for k, (first, second) in enumerate(random_measures(config, 0, 2)):
        samples, weights = arguments(first, second)
        p = (1.0, 1.5, 2.0, 3.0)[k % 4]
        found = conditional_wasserstein(*samples, **weights, p=p)
        others = [
            conditional_wasserstein_lp(*samples, **weights, p=p),
            by_large_cost(first, second, p),
        ]
        if p == 2.0:
            others.append(conditional_wasserstein_pot(*samples, **weights))
        for name, other in zip(worst, others, strict=False):
            worst[name] = max(worst[name], abs(found.value / other - 1))
        certificate = found.verify()
        certified += certificate.holds()
        marginal = max(marginal, certificate.marginal_error)
    return [
        *(at_most(f"against {name}: relative", value, 1e-9) for name, value in worst.items()),
        at_least("of these certified", certified, config.problems),
        at_most("their plans: error of the marginals", marginal, 1e-12),
    ]


def finiteness_checks(config: Config) -> list[Check]:
    """i) of the corollary: finite if and only if the X-marginals are equal."""
    rng = np.random.default_rng([config.seed, 1])
    wrong = uncertified = 0
    for k, (first, second) in enumerate(random_measures(config, 1, 2)):
        shift, change = 1.0, np.zeros(len(second.x))
        if k % 2:  # move one atom to an x of its own, or mass from one atom to another
            other = Measure(second.x.copy(), second.y, second.weights)
            other.x[0] += shift
        else:
            change[0] = 10.0 ** rng.uniform(-6, -1) * second.weights[0]
            changed = second.weights - change
            other = Measure(second.x, second.y, changed / changed.sum())
        for measure in (second, other):
            samples, weights = arguments(first, measure)
            found = conditional_wasserstein(*samples, **weights)
            masses = [
                {tuple(x): own.weights[(own.x == x).all(axis=1)].sum() for x in own.x}
                for own in (first, measure)
            ]
            equal = masses[0].keys() == masses[1].keys() and all(
                math.isclose(masses[0][x], masses[1][x], rel_tol=1e-9) for x in masses[0]
            )
            wrong += math.isfinite(found.value) != equal
            wrong += (found.reason is None) != equal
            uncertified += not found.verify().holds()
    return [
        at_most("finite but unequal X-marginals, or the reverse", wrong, 0),
        at_most("of these not certified", uncertified, 0),
    ]


def metric_checks(config: Config) -> list[Check]:
    """Symmetry, identity, the triangle; and never below the ordinary distance of (x, y)."""
    symmetry = identity = 0.0
    triangle = above = math.inf
    for first, second, third in random_measures(config, 2, 3):
        distance = {}
        for a, b in ((first, second), (second, third), (first, third), (second, first)):
            samples, weights = arguments(a, b)
            distance[id(a), id(b)] = conditional_wasserstein(*samples, **weights).value
        samples, weights = arguments(first, first)
        identity = max(identity, conditional_wasserstein(*samples, **weights).value)
        one = distance[id(first), id(second)]
        symmetry = max(symmetry, abs(distance[id(second), id(first)] - one))
        two, three = distance[id(second), id(third)], distance[id(first), id(third)]
        triangle = min(triangle, one + two - three)
        joint = wasserstein_pot(
            np.hstack([first.x, first.y]),
            np.hstack([second.x, second.y]),
            weights0=first.weights,
            weights1=second.weights,
        )
        above = min(above, one - joint)
    return [
        at_most("symmetry: |d(a, b) - d(b, a)|", symmetry, 1e-12),
        at_most("identity: d(a, a)", identity, 1e-12),
        at_least("triangle: d(a, b) + d(b, c) - d(a, c)", triangle, -1e-12),
        at_least("conditional - ordinary W2", above, -1e-12),
    ]


def strict_rows() -> list[dict[str, float]]:
    """x = 0 and delta, y = 0 and 1 exchanged: W2 = min(delta, 1), conditional distance 1."""
    rows = []
    for delta in np.linspace(0.1, 1.5, 15):
        x, y = np.array([[0.0], [delta]]), np.array([[0.0], [1.0]])
        rows.append(
            {
                "delta": float(delta),
                "conditional": conditional_wasserstein(x, y, x, y[::-1]).value,
                "ordinary": wasserstein_pot(np.hstack([x, y]), np.hstack([x, y[::-1]])),
                "by_hand": min(float(delta), 1.0),
            }
        )
    return rows


def repeated_problem(config: Config) -> tuple[Measure, Measure]:
    """Twelve conditions on the unit square, twenty atoms each, in two dimensions."""
    rng = np.random.default_rng([config.seed, 3])
    x, masses = rng.random((12, 2)), rng.dirichlet(np.full(12, 5.0))
    first, second = (random_measure(rng, x, masses, 20, 2) for _ in range(2))
    return first, Measure(second.x, second.y + 2 * second.x, second.weights)


def continuous_problem(config: Config, size: int) -> tuple[Array, Array, Array, Array]:
    """x uniform, y = ± sin 2πx + noise: the same law of y alone, another one given x."""
    rng = np.random.default_rng([config.seed, 4, size])
    x0, x1 = rng.random((2, size, 1))
    noise = rng.standard_normal((2, size, 1))
    return (
        x0,
        np.sin(2 * np.pi * x0) + 0.2 * noise[0],
        x1,
        -np.sin(2 * np.pi * x1) + 0.4 * noise[1],
    )


def continuous_truth() -> float:
    """Its conditional distance, by the Bures formula on a grid of x: (4/2 + 0.2²)^(1/2)."""
    mean = np.sin(2 * np.pi * (np.arange(1000) + 0.5) / 1000)[:, None]
    ones = np.ones((1000, 1, 1))
    return float(gaussian_conditional_wasserstein(mean, 0.04 * ones, -mean, 0.16 * ones).value)


def curve_rows(config: Config) -> tuple[list[dict[str, Any]], float, float]:
    """One row per curve and beta; the limit of the first curve, and the beta that suffices."""
    (first, second), betas = repeated_problem(config), np.geomspace(1e-2, 1e4, config.points)
    samples, weights = arguments(first, second)
    exact = relaxed_curve(*samples, betas=[0.0], **weights)
    above = np.array([0.0, exact.sufficient_beta])
    curve = relaxed_curve(*samples, betas=np.sort([*above, *betas]), **weights)
    curves: dict[str, Any] = {"repeated x": curve}
    sizes = [config.samples // 16, config.samples // 4, config.samples]
    for size in progress(sizes, "continuous x"):
        problem = continuous_problem(config, size)
        curves[f"continuous x, N = {size}"] = relaxed_curve(*problem, betas=betas)
    rows = [
        {"curve": name, "beta": beta, "value": value, "moved_x": moved, "mean_move_x": mean}
        for name, curve in curves.items()
        for beta, value, moved, mean in zip(
            curve.beta, curve.value, curve.moved_x, curve.mean_move_x, strict=True
        )
    ]
    for row in rows:
        row["limit"] = curves[str(row["curve"])].limit
    return rows, curve.limit, curve.sufficient_beta


def curve_checks(
    config: Config, rows: list[dict[str, Any]], limit: float, sufficient: float
) -> list[Check]:
    """Increasing to the limit, attained with no x moved; without end where x is continuous."""
    first, second = repeated_problem(config)
    names = list(dict.fromkeys(row["curve"] for row in rows))
    values = {name: np.array([r["value"] for r in rows if r["curve"] == name]) for name in names}
    start = wasserstein_pot(first.y, second.y, weights0=first.weights, weights1=second.weights)
    attained = [r for r in rows if r["curve"] == names[0] and r["beta"] >= sufficient]
    truth = continuous_truth()
    nearest = {name: float(np.abs(values[name] / truth - 1).min()) for name in names[1:]}
    crossing = [
        float(
            np.interp(
                truth, values[name], np.log10([r["beta"] for r in rows if r["curve"] == name])
            )
        )
        for name in names[1:]
    ]
    infinite = [r["limit"] for r in rows if r["curve"] != names[0]]
    fall = min(float(np.diff(value).min()) for value in values.values())
    return [
        at_least("beta curves: smallest increase", fall, -1e-12),
        at_most(
            "repeated x: value at beta = 0 against W2 of y alone",
            abs(values[names[0]][0] / start - 1),
            1e-9,
        ),
        at_least("repeated x: conditional / relaxed at beta = 0", limit / start, 1.2),
        at_most(
            "repeated x, beta sufficient and above: |relaxed / conditional - 1|",
            max(abs(r["value"] / limit - 1) for r in attained),
            1e-9,
        ),
        at_most("the same: mass whose x moves", max(r["moved_x"] for r in attained), 1e-12),
        at_least("continuous x: the exact distance is infinite", min(infinite), math.inf),
        at_least(
            "the same: least mass whose x moves",
            min(r["moved_x"] for r in rows if r["curve"] != names[0]),
            1 - 1e-12,
        ),
        at_most(
            "continuous x: Bures formula against (2.04)^(1/2)", abs(truth / 2.04**0.5 - 1), 1e-9
        ),
        at_most(
            f"continuous x, largest N: best beta, relative error (true value {truth:.4f})",
            nearest[names[-1]],
            0.1,
        ),
        at_least(
            "the same: decades by which the best beta grows when N grows fourfold, least",
            min(np.diff(crossing)),
            0.1,
        ),
        at_least(
            "continuous x, smallest N, largest beta: relaxed / true",
            values[names[1]][-1] / truth,
            1.5,
        ),
        at_least(
            "largest beta: value at the smallest N / at the largest N",
            values[names[1]][-1] / values[names[-1]][-1],
            1.2,
        ),
    ]


def draw(
    out: Path,
    rows: list[dict[str, Any]],
    strict: list[dict[str, float]],
    limit: float,
    sufficient: float,
) -> None:
    """The strict example, the curve that attains its limit, the curves that have none."""
    with drawing(out / "conditional_wasserstein", 2, 2) as (_, axes):
        first, second, third, unused = axes.flat
        delta = [row["delta"] for row in strict]
        first.plot(delta, [row["conditional"] for row in strict], label="conditional")
        first.plot(delta, [row["ordinary"] for row in strict], label="ordinary $W_2$")
        first.set(
            xlabel=r"distance $\delta$ of the two x",
            ylabel="distance",
            ylim=(0, 1.1),
            title="two points exchange their y",
        )
        own = [row for row in rows if row["curve"] == "repeated x" and row["beta"] > 0]
        beta = [row["beta"] for row in own]
        second.semilogx(beta, [row["value"] for row in own], label=r"relaxed $W_\beta$")
        second.semilogx(beta, [row["moved_x"] for row in own], label="mass whose x moves")
        second.axhline(limit, color="k", ls=":", label=r"$W_{Y|X}$")
        second.axvline(sufficient, color=MUTED, ls="--", label=r"sufficient $\beta$")
        second.set(xlabel=r"$\beta$", title="repeated x: the limit is attained")
        for name in dict.fromkeys(row["curve"] for row in rows if row["curve"] != "repeated x"):
            own = [row for row in rows if row["curve"] == name]
            values = [row["value"] for row in own]
            third.loglog([r["beta"] for r in own], values, label=str(name).partition(", ")[2])
        third.axhline(continuous_truth(), color="k", ls=":", label=r"true $W_{Y|X}$")
        third.set(xlabel=r"$\beta$", ylabel=r"$W_\beta$", title="continuous x: no limit")
        first.legend()
        second.set_ylim(top=1.45 * limit)
        second.legend(loc="upper center", ncols=2)
        unused.set_axis_off()
        unused.legend(*third.get_legend_handles_labels(), loc="center left")


def run(config: Config, out: Path) -> list[Check]:
    """All statements; tables and the figure to `out`."""
    strict = strict_rows()
    rows, limit, sufficient = curve_rows(config)
    by_hand = max(
        max(abs(row["ordinary"] - row["by_hand"]), abs(row["conditional"] - 1)) for row in strict
    )
    checks = [
        *equality_checks(config),
        *finiteness_checks(config),
        *metric_checks(config),
        at_most("strict example: both distances against the closed form", by_hand, 1e-9),
        at_least(
            "strict example: largest conditional / ordinary",
            max(row["conditional"] / row["ordinary"] for row in strict),
            9.9,
        ),
        *curve_checks(config, rows, limit, sufficient),
    ]
    draw(out, rows, strict, limit, sufficient)
    write_csv(out / "beta_curves.csv", rows)
    write_csv(out / "strict_example.csv", strict)
    made = provenance("conditional-wasserstein", config)
    write_json(
        out / "conditional_wasserstein.json",
        {
            **made,
            "limit": limit,
            "sufficient_beta": sufficient,
            "curves": rows,
            "strict": strict,
            "checks": checks,
        },
    )
    return checks
