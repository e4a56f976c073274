"""The paper's sentences with our numbers, and what must hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dro_core import LinearFit
from validation.differentiation.measures import drop
from validation.differentiation.settings import (
    CLEAN,
    COMPARABLE,
    DROP,
    EXACT,
    LEAST_SQUARES,
    NEGLIGIBLE,
    NOISY,
    ORACLE,
    QUASI,
    RANDOM_START,
    UNCHANGED,
    Config,
    middle,
    sharp_name,
    signal_size,
)
from validation.results import Check, at_least, at_most
from validation.tables import Row, Tables, column, number

DROPS = "singular values drop after K (value K + 1 / value K)"


def claim(text: str, where: str, value: float, holds_if: str, holds: bool) -> Row:
    """One row of the table of claims."""
    return {
        "claim": text,
        "where": where,
        "number": float(value),
        "holds_if": holds_if,
        "holds": "holds" if holds else "does not hold",
    }


def problem_of(row: Row) -> tuple[int, float, str]:
    """Modes and tail of the data, and the method."""
    return int(row["modes"]), number(row, "tail"), str(row["method"])


def drop_of(ending: Row) -> float:
    """The drop of the map that an algorithm ends with."""
    return number(ending, "singular_value K+1") / number(ending, "singular_value K")


def rank_claims(config: Config, rows: list[Row]) -> list[Row]:
    """Figure 5: the drop after K, and truncation beyond K."""
    drops, cuts = list[Row](), list[Row]()
    groups: dict[tuple[int, float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(problem_of(row), []).append(row)
    for (modes, tail, name), group in groups.items():
        reduced = name.startswith("exact DRO") or name == LEAST_SQUARES
        note = " (by construction)" if reduced and not tail else ""
        where = f"K = {modes}, tail {tail:g}: {name}{note}"
        ratio = drop([number(row, "singular_value") for row in group], modes)
        drops.append(claim(DROPS, where, ratio, f"<= {DROP}", ratio <= DROP))
        floor, gain = NEGLIGIBLE * signal_size(modes), 0.0
        for level in config.levels:
            errors = column(group, f"rmse at noise {level:.3g}")[modes - 1 :]
            gain = max(gain, (errors[0] - errors.min()) / max(errors[0], floor))
        cuts.append(
            claim(
                "truncating at K costs no RMSE (largest share, all noise levels)",
                where,
                gain,
                f"<= {UNCHANGED}",
                gain <= UNCHANGED,
            )
        )
    return drops + cuts


def tail_claims(rows: list[Row]) -> list[Row]:
    """For which tails and entropy weights the exact map drops after K."""
    return [
        claim(
            DROPS,
            f"K = {row['modes']}, tail {row['tail']:.3g}, epsilon {row['epsilon']:.3g}: "
            f"{EXACT.format(row['radius'])}",
            number(row, "ratio"),
            f"<= {DROP}",
            number(row, "ratio") <= DROP,
        )
        for row in rows
    ]


def noise_claims(config: Config, rows: list[Row], stable: list[Row], modes: int) -> list[Row]:
    """Figure 4: RMSE at the largest and smallest noise, and stability, against Tikhonov."""
    claims = []
    error = {(str(row["method"]), number(row, "noise")): number(row, "rmse") for row in rows}
    steady = {row["method"]: number(row, "stability") for row in stable}
    first, last = config.levels[0], config.levels[-1]
    rms = signal_size(modes)
    rivals = CLEAN, NOISY.format(config.levels[middle(config)]), ORACLE
    for radius in (config.small_radius, config.radius):
        name = EXACT.format(radius)
        for rival in (*rivals, LEAST_SQUARES):
            where = f"K = {modes}: {name}; {rival}"
            ratio = error[name, last] / error[rival, last]
            claims.append(
                claim(
                    "RMSE at the largest noise below the rival's (ratio)",
                    where,
                    ratio,
                    "< 1",
                    ratio < 1,
                )
            )
            apart = abs(error[name, first] - error[rival, first]) / rms
            if rival != LEAST_SQUARES:
                claims.append(
                    claim(
                        "RMSE without noise comparable (difference / signal)",
                        where,
                        apart,
                        f"<= {COMPARABLE}",
                        apart <= COMPARABLE,
                    )
                )
            if rival != ORACLE:
                ratio = steady[name] / steady[rival]
                claims.append(
                    claim("more stable than the rival (ratio)", where, ratio, "< 1", ratio < 1)
                )
    return claims


def algorithm_claims(config: Config, endings: list[Row]) -> list[Row]:
    """Does the algorithm reach the optimum of the problem it is meant for?"""
    claims = []
    for row in endings:
        where = f"K = {config.modes}, epsilon {row['epsilon']:g}: {row['method']}"
        excess = number(row, "excess")
        claims.append(
            claim(
                "reaches the optimum (excess of the exact risk)",
                where,
                excess,
                f"<= {UNCHANGED}",
                excess <= UNCHANGED,
            )
        )
        if number(row, "epsilon") == config.large_epsilon:  # the other one: `rank_claims`
            ratio = drop_of(row)
            claims.append(claim(DROPS, where, ratio, f"<= {DROP}", ratio <= DROP))
    return claims


def all_checks(config: Config, fits: Sequence[LinearFit], tables: Tables) -> list[Check]:
    """What is a theorem, or robustly true of these data."""
    rank, endings = tables["rank"], tables["endings"]
    small, large = EXACT.format(config.small_radius), EXACT.format(config.radius)
    error = {
        (row["modes"], row["method"], row["noise"]): number(row, "rmse") for row in tables["noise"]
    }
    first, last = config.levels[0], config.levels[-1]
    both = config.modes, config.more_modes

    def ratio(modes: int, tail: float, name: str) -> float:
        values = [
            number(row, "singular_value") for row in rank if problem_of(row) == (modes, tail, name)
        ]
        return drop(values, modes)

    quasi = [row for row in endings if row["method"] == QUASI]
    sharp = sharp_name(config)
    return [
        at_most(
            "exact fits: largest saddle gap by verify()",
            max(fit.verify().gap for fit in fits),
            1e-4,
        ),
        at_least(
            "exact fits whose certificate holds, share",
            float(np.mean([fit.verify().holds() for fit in fits])),
            1.0,
        ),
        at_least(
            "no map of any algorithm beats the exact optimum: smallest excess",
            min(number(row, "excess") for row in tables["algorithms"]),
            -1e-9,
        ),
        at_most(
            "full gradient from a random start reaches it (L-BFGS): largest excess",
            max(number(row, "excess") for row in quasi),
            1e-4,
        ),
        at_most(
            "drop after K, unreduced (L-BFGS): largest of both epsilon",
            max(drop_of(row) for row in quasi),
            DROP,
        ),
        at_most(
            "drop after K, exact fits without tail (by construction)",
            max(ratio(modes, 0.0, name) for modes in both for name in (small, large)),
            1e-9,
        ),
        at_least(
            "no drop for least squares from a random start",
            ratio(config.modes, 0.0, RANDOM_START),
            DROP,
        ),
        at_least(
            "data with a tail: the drop of exact fits needs epsilon > 0, ratio to epsilon = 0",
            min(
                ratio(modes, config.tail, sharp) / ratio(modes, config.tail, small)
                for modes in both
            ),
            2.0,
        ),
        at_most(
            "RMSE at the largest noise / Tikhonov's chosen without noise, both K and radii",
            max(
                error[modes, name, last] / error[modes, CLEAN, last]
                for modes in both
                for name in (small, large)
            ),
            1.0,
        ),
        at_most(
            "RMSE without noise, smaller radius: share of the signals' RMS",
            max(error[modes, small, first] / signal_size(modes) for modes in both),
            COMPARABLE,
        ),
        at_most(
            "RMSE at the largest noise, larger radius / smaller radius",
            max(error[modes, large, last] / error[modes, small, last] for modes in both),
            1.0,
        ),
        at_most(
            "stability: largest direction / supremum",
            max(number(row, "largest") / number(row, "supremum") for row in tables["stability"]),
            1.0 + 1e-9,
        ),
        at_most(
            "Monte-Carlo potential at the optimum is too low: largest relative error",
            max(number(row, "bias") for row in tables["estimates"]),
            0.0,
        ),
    ]
