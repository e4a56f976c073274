"""Benchmarks against two peers, `dro` and `skwdro`, run in an environment of their own.

Linear regression (one output, W2 radius rho, only the features move), where the worst-case risk of
a slope beta has the closed form (RMSE + rho |beta|)^2. Without ``--peer-python`` the results of an
earlier run of the peers are shown; our values are computed afresh either way, but times and ratios
are always those of one run. Set OPENBLAS_NUM_THREADS=1 to compare one thread with one thread.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import LinearReconstruction, dual_value, worst_case_risk
from validation.benchmarks.peer_runs import (
    LOCK,
    NOISE_VARIANCE,
    RADIUS,
    SIZES,
    SKWDRO_KAPPA,
    STORED,
    Config,
    ask,
    closed_form,
    label,
    our_fit,
    regression,
    run_peers,
    shifted,
)
from validation.benchmarks.text import cell
from validation.results import (
    Check,
    at_least,
    at_most,
    provenance,
    table,
    write_csv,
    write_json,
)

__all__ = ["Config", "LOCK", "SIZES", "STORED", "ask", "label", "run"]


def fixed_map_rows(measured: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    """Table (a): the worst case of the map that `dro` returns."""
    rows = []
    for answer in measured["dro"]:
        problem = shifted(answer, data[answer["name"]])
        for structure in ("y|x", "joint"):
            worst = worst_case_risk(*problem, RADIUS, structure)
            ours = next(
                entry
                for entry in measured["ours"]
                if (entry["name"], entry["structure"]) == (answer["name"], structure)
            )
            theirs = structure == "y|x"  # `dro` refuses to move the target of 'ols'
            law = statistics.median(answer["law_seconds"])
            only = statistics.median(answer["law_only_seconds"])
            rows.append(
                {
                    "N x d": answer["name"],
                    "structure": structure,
                    "our risk": worst.risk,
                    "closed form": closed_form(*problem) if theirs else "",
                    "certificate holds": worst.verify().holds(),
                    "dro objective^2": answer["objective"] ** 2 if theirs else "",
                    "relative difference": answer["objective"] ** 2 / worst.risk - 1
                    if theirs
                    else "",
                    "dro law's risk / ours - 1": answer["law_risk"] / worst.risk - 1
                    if theirs
                    else "",
                    "dro law's cost / rho^2 - 1": answer["law_transport_cost"] / RADIUS**2 - 1
                    if theirs
                    else "",
                    "our value ms": 1e3 * ours["value_seconds"],
                    "our law and certificate ms": 1e3 * ours["certified_seconds"],
                    "dro fit ms": 1e3 * statistics.median(answer["fit_seconds"]) if theirs else "",
                    "dro worst_distribution ms": 1e3 * law if theirs else "",
                    "dro law without refit ms": 1e3 * only if theirs else "",
                    "ratio": law / ours["certified_seconds"] if theirs else "",
                    "ratio without refit": only / ours["certified_seconds"] if theirs else "",
                    "dro says": "" if theirs else answer["joint_refusal"],
                }
            )
    return rows


def estimator_rows(measured: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    """Table (b): the worst-case risk at each peer's coefficients, over the smallest there is."""
    entries = [("dro ols", answer) for answer in measured["dro"]]
    entries += [("skwdro dedicated", answer) for answer in measured["skwdro_dedicated"]]
    entries += [
        (f"skwdro entropic, {answer['kind']}", answer)
        for answer in measured["skwdro_entropic"]
        if "slope" in answer
    ]
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        name = label(*size)
        problems = [
            (estimator, answer, shifted(answer, data[name]))
            for estimator, answer in entries
            if answer["name"] == name
        ]
        fit, theirs = our_fit(data[name]), problems[0][1]
        own_fit = next(entry for entry in measured["our_fit"] if entry["name"] == name)
        risks = [fit.risk, *(worst_case_risk(*problem, RADIUS).risk for *_, problem in problems)]
        features, target = data[name]
        centred = (fit.matrix, (target - target.mean())[:, None], features - features.mean(axis=0))
        rows.append(
            {
                "N x d": name,
                "estimator": "ours: fit_linear, with certificate",
                "worst-case risk": fit.risk,
                "closed form": closed_form(*centred),
                "above the least": fit.risk / min(risks) - 1,
                "risk without adversary": LinearReconstruction(*centred).fidelity,
                "its own objective": fit.lower,
                "seconds": own_fit["certified_seconds"],
                "dro's fit / ours": statistics.median(theirs["fit_seconds"])
                / own_fit["certified_seconds"],
            }
        )
        for (estimator, answer, problem), risk in zip(problems, risks[1:], strict=True):
            own = answer.get("objective", "")
            rows.append(
                {
                    "N x d": name,
                    "estimator": estimator,
                    "worst-case risk": risk,
                    "closed form": closed_form(*problem),
                    "above the least": risk / min(risks) - 1,
                    "risk without adversary": LinearReconstruction(*problem).fidelity,
                    "its own objective": own**2 if estimator == "dro ols" else own,
                    "seconds": statistics.median(answer["fit_seconds"]),
                    "dro's fit / ours": "",
                }
            )
    return rows


def threshold_rows(measured: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    """Table (c): the Sinkhorn objective at a given map and multiplier, around the threshold.

    `dro` has noise N(0, v I) and temperature v times its multiplier, which belong to the transport
    cost half the squared distance: its multiplier is twice ours, its v half our epsilon.
    """
    problem = shifted(measured["dro"][0], data[measured["dro"][0]["name"]])
    threshold = float(np.sum(problem[0] ** 2))
    rows = []
    for answer in measured["dro_sinkhorn"]:
        multiplier = answer["multiplier"] / 2
        try:
            ours: float | str = dual_value(*problem, multiplier, 0.0, epsilon=2 * NOISE_VARIANCE)
        except ValueError as error:
            ours = f"ValueError: {error}"
        rows.append(
            {
                "multiplier / threshold": multiplier / threshold,
                "noise samples": answer["samples"],
                "dro's objective": answer["objective"],
                "exact": math.inf if isinstance(ours, str) else ours,
                "dro / exact - 1": "" if isinstance(ours, str) else answer["objective"] / ours - 1,
                "ours": ours,
            }
        )
    return rows


def refuses(row: dict[str, Any]) -> bool:
    """Whether our answer is an error that speaks of the multiplier and its threshold."""
    message = str(row["ours"])
    return "ValueError" in message and "multiplier" in message and "threshold" in message


def checks(
    fixed: list[dict[str, Any]],
    estimators: list[dict[str, Any]],
    thresholds: list[dict[str, Any]],
    measured: dict[str, Any],
) -> list[Check]:
    """What the three tables must show."""
    both = [row for row in fixed if row["structure"] == "y|x"]
    below = [row for row in thresholds if row["multiplier / threshold"] < 1]
    dedicated = [row for row in estimators if row["estimator"] == "skwdro dedicated"]
    last = thresholds[-1]
    fitted = [row for row in estimators if row["estimator"].startswith("ours")]
    rows = [
        at_most(
            "our value / (RMSE + rho |beta|)^2 - 1, every slope",
            max(abs(row["our risk"] / row["closed form"] - 1) for row in both),
            1e-12,
        ),
        at_most(
            "the same at the coefficients of every estimator",
            max(abs(row["worst-case risk"] / row["closed form"] - 1) for row in estimators),
            1e-12,
        ),
        at_least(
            "our certificates that hold, y|x and joint, share",
            sum(row["certificate holds"] for row in fixed) / len(fixed),
            1.0,
        ),
        at_most(
            "dro's objective^2 / our value - 1",
            max(abs(row["relative difference"]) for row in both),
            1e-6,
        ),
        at_most(
            "risk of dro's law / our value - 1",
            max(abs(row["dro law's risk / ours - 1"]) for row in both),
            1e-6,
        ),
        at_least(
            "dro worst_distribution (refits) / our law and certificate",
            min(row["ratio"] for row in both),
            5.0,
        ),
        at_least(
            "dro's law alone (not public) / our law and certificate",
            min(row["ratio without refit"] for row in both),
            1.5,
        ),
        at_most(
            "dro keeps a given slope in worst_distribution, cases",
            sum(answer["keeps_given_slope"] for answer in measured["dro"]),
            0.0,
        ),
        at_most(
            "fit_linear: worst-case risk above the least of all estimators",
            max(row["above the least"] for row in fitted),
            1e-8,
        ),
        at_most(
            "fit_linear: saddle gap",
            max(1 - row["its own objective"] / row["worst-case risk"] for row in fitted),
            1e-9,
        ),
        at_least(
            "dro's fit / fit_linear with its certificate, N = 200",
            min(row["dro's fit / ours"] for row in fitted[:2]),
            5.0,
        ),
        at_least("the same, N = 2000, d = 100", fitted[3]["dro's fit / ours"], 50.0),
        at_most(
            "worst-case risk of skwdro dedicated above the least",
            max(row["above the least"] for row in dedicated),
            1e-6,
        ),
        at_least(
            "below the threshold: our refusals that name it, share",
            sum(refuses(row) for row in below) / len(below),
            1.0,
        ),
        at_least(
            "below the threshold: dro's answers that are finite, share",
            sum(math.isfinite(row["dro's objective"]) for row in below) / len(below),
            1.0,
        ),
        at_most(
            f"dro's Sinkhorn objective / exact - 1, {last['multiplier / threshold']:.3g} "
            f"times the threshold, {last['noise samples']} samples",
            abs(last["dro / exact - 1"]),
            0.02,
        ),
    ]
    default = [row for row in estimators if row["estimator"].endswith("as it comes")]
    for row in default:
        rows.append(
            at_least(
                "worst-case risk of skwdro entropic above the least", row["above the least"], 0.2
            )
        )
    return rows


def show(title: str, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print some columns of a table."""
    print(f"\n{title}\n" + table([columns, *([cell(row[c]) for c in columns] for row in rows)]))


def report(
    fixed: list[dict[str, Any]],
    estimators: list[dict[str, Any]],
    thresholds: list[dict[str, Any]],
    measured: dict[str, Any],
) -> None:
    """Print the tables, and what could not be compared."""
    both = [row for row in fixed if row["structure"] == "y|x"]
    show(
        f"(a) Worst case of a fixed slope (dro's own), radius {RADIUS}: the values",
        fixed,
        [
            "N x d",
            "structure",
            "our risk",
            "certificate holds",
            "dro objective^2",
            "relative difference",
            "dro law's risk / ours - 1",
        ],
    )
    print(f"joint, x|y: not comparable, dro says {measured['dro'][0]['joint_refusal']!r}")
    show(
        "    the times in ms, medians (y|x)",
        both,
        [
            "N x d",
            "our value ms",
            "our law and certificate ms",
            "dro fit ms",
            "dro worst_distribution ms",
            "dro law without refit ms",
            "ratio",
            "ratio without refit",
        ],
    )
    print(
        "ratio: worst_distribution / our law and certificate. dro cannot be asked about a given\n"
        "slope: worst_distribution fits again, after load() too. The last column calls what is\n"
        "not public in dro, its law at the fitted slope, which takes the value from the fit."
    )
    show(
        "(b) Worst-case risk at each estimator's coefficients",
        estimators,
        [
            "N x d",
            "estimator",
            "worst-case risk",
            "above the least",
            "risk without adversary",
            "its own objective",
            "seconds",
            "dro's fit / ours",
        ],
    )
    print("ours: its own objective is the proved lower value of the smallest worst-case risk.")
    for entry in measured["skwdro_entropic"]:
        if "slope" not in entry:
            print(f"skwdro entropic, {entry['kind']}: not finished in {entry['limit']:g} s")
    costs = [entry for entry in measured["skwdro_entropic"] if "slope" in entry]
    if costs:
        print(
            f"skwdro's default cost charges {costs[0]['cost_of_moving_a_feature_by_one']:.1g} for "
            "moving a feature by 1 and "
            f"{costs[0]['cost_of_moving_the_target_by_one']:.1g} for the target:\nits distance is "
            f"divided by 1 + kappa = {1 + SKWDRO_KAPPA:g}. The row rho / (1 + kappa) undoes that."
        )
    show(
        "(c) Sinkhorn objective at a fixed slope (dro's, the smallest size) and multiplier, "
        f"noise variance {NOISE_VARIANCE}",
        thresholds,
        ["multiplier / threshold", "noise samples", "dro's objective", "exact", "dro / exact - 1"],
    )
    refused = [row["ours"] for row in thresholds if isinstance(row["ours"], str)]
    print("below the threshold ours says: " + (refused[0] if refused else "nothing"))


def run(config: Config, out: Path) -> list[Check]:
    """All tables; written to `out` as CSV and JSON."""
    measured = run_peers(config) if config.peer_python else json.loads(STORED.read_text())
    peers, ours = measured["peer_versions"], measured["versions"]
    print(
        ("run now: " if config.peer_python else "stored results of ")
        + f"dro {peers['dro']}, skwdro {peers['skwdro']} (torch {peers['torch']}, "
        f"numpy {peers['numpy']}, Python {peers['python']})"
        + ("" if config.peer_python else ", not run now")
    )
    if not config.peer_python:
        print(
            f"The times and ratios below are of that run, with structured-dro "
            f"{ours['structured-dro']} (numpy {ours['numpy']}, Python {ours['python']}); our "
            "values are computed now.\nTo run the peers: --peer-python PATH, see " + LOCK
        )
    print(f"OPENBLAS_NUM_THREADS: {measured['threads']}")
    seed = measured["settings"]["seed"]
    data = {label(*size): regression(seed, *size) for size in SIZES}
    fixed = fixed_map_rows(measured, data)
    estimators = estimator_rows(measured, data)
    thresholds = threshold_rows(measured, data)
    report(fixed, estimators, thresholds, measured)
    found = checks(fixed, estimators, thresholds, measured)
    if config.store:
        write_json(STORED, measured)
    tables = {"fixed_map": fixed, "estimators": estimators, "threshold": thresholds}
    for name, rows in tables.items():
        write_csv(out / f"{name}.csv", rows)
    write_json(
        out / "peers.json",
        {
            **provenance("benchmarks peers", config),
            "measured": measured,
            **tables,
            "checks": found,
            "holds": [check.holds for check in found],
        },
    )
    return found
