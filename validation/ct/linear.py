"""Linear tomography, where everything is exact: what weighing by photons is worth.

Slices of 16 pixels a side, their line integrals with photon noise, and a ball in which a unit is
one standard deviation of that noise, ray by ray (the mean over the patients). The exact optimum of
`fit_linear` beside noise training of every shape, as in `validation.jittering`: bodies of the
scanner's size, and of the size of the patients, whose dark rays carry almost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dro_core.types import Array
from dro_torch.tomography import fan_beam_matrix
from validation.ct.scanner import BRIGHT, DARKEST, Scanner, slices
from validation.experiment import user_errors
from validation.jittering.arms import ARMS, SHOWN, compared
from validation.jittering.problems import Problem
from validation.results import Check, at_least, at_most, progress, provenance, table, write_json
from validation.settings import Settings, setting, without_folders
from validation.tables import Row, column

#: Attenuation relative to a body that fills the scanner: patients are about 2.5 times as wide.
BODIES = {"a body of 116 mm": 1.0, "patients": 2.5}
#: Radii, in the size of W^(-1/2) y.
SHARES = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Config(Settings):
    """The scan, and the dose."""

    data: str = setting(
        "",
        "data root with ct_axial_hu256.npz; otherwise the environment variable DRO_DATA",
        folder=True,
    )
    side: int = setting(16, "pixels of a slice", low=4)
    views: int = setting(24, "views of the scan", low=4)
    cells: int = setting(24, "cells of the detector", low=4)
    dose: float = setting(1e4, "photons in the open beam, per ray", above=0)
    seed: int = setting(0, "seed of the photon noise")


def rows_of(config: Config, split: str) -> Array:
    """Slices as rows."""
    images = slices(config.side).load(split, config.data or None)
    return np.asarray(images.flatten(1), dtype=np.float64)


def scanned(forward: Array, x: Array, dose: float, rng: np.random.Generator) -> Array:
    """Line integrals from photon counts."""
    counts = rng.poisson(dose * np.exp(-x @ forward.T))
    return np.asarray(-np.log(np.maximum(counts / dose, DARKEST)))


def problem_of(config: Config, body: str) -> Problem:
    """Patients of the training split, and held out those of the test split."""
    geometry = Scanner(config.side, config.views, config.cells).geometry
    forward = BODIES[body] * BRIGHT * fan_beam_matrix(geometry, np.float64).toarray()
    rng = np.random.default_rng(config.seed)
    sets = []
    for split in ("train", "test"):
        x = rows_of(config, split)
        sets += [x, scanned(forward, x, config.dose, rng)]
    return Problem(body, forward, *sets)


def expected_photons(problem: Problem, dose: float) -> Array:
    """Weights of the rays: one over the variance of a line integral, the mean over the patients."""
    return np.asarray(dose * np.exp(-problem.x @ problem.forward.T).mean(axis=0))


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Both bodies at every radius; written to `out`."""
    rows: list[Row] = []
    for body in progress(list(BODIES), "bodies"):
        problem = problem_of(config, body)
        weights = expected_photons(problem, config.dose)
        for share in SHARES:
            row = compared(problem, "photons", weights, share)
            rows.append({**row, "weights, largest / least": float(weights.max() / weights.min())})
    shown = [
        {
            "body": str(row["problem"]),
            "share": row["share"],
            "weights": row["weights, largest / least"],
            **{arm: float(row[arm]) / float(row[ARMS[0]]) for arm in SHOWN},
        }
        for row in rows
    ]
    cells = [[_cell(value) for value in row.values()] for row in shown]
    print(table([list(shown[0]), *cells]))
    jitter = {
        body: column([row for row in shown if row["body"] == body], "isotropic noise")
        for body in BODIES
    }
    checks = [
        at_least("patients: isotropic noise / exact, largest", jitter["patients"].max(), 1.3),
        at_least("isotropic noise / exact, least", min(v.min() for v in jitter.values()), 1.0),
        at_most(
            "noise shaped by the ball / exact, largest", column(shown, "shaped noise").max(), 1.3
        ),
        at_most("gap of the exact optimum, largest", column(rows, "gap").max(), 1e-6),
    ]
    made = provenance("ct linear", without_folders(config))
    write_json(out / "linear.json", {**made, "rows": rows, "ratios": shown, "checks": checks})
    return checks


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
