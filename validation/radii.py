"""Radii that mean something: the certificate at the radius of a change, and the risk under it.

A blur is inverted with a fixed regularisation; then the world changes: noise, another blur width,
photon counting. The certificate is made from the clean data and the radius of the change alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dro_core import (
    LinearReconstruction,
    operators,
    radius_of_noise,
    radius_of_operator_change,
    radius_of_poisson_noise,
)
from dro_core.style import MUTED, PALETTE
from dro_core.types import Array
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
from validation.tables import Row, column


@dataclass(frozen=True)
class Config(Settings):
    """A blurred signal, its reconstruction, and how often each change is drawn."""

    size: int = setting(64, "grid points n", low=1)
    samples: int = setting(200, "signals", low=1)
    width: float = setting(1.5, "standard deviation of the blur, in grid points", low=0)
    regularization: float = setting(3e-3, "Tikhonov weight of the reconstruction", low=0)
    points: int = setting(9, "strengths of each change", low=1)
    draws: int = setting(20, "noise draws per signal and strength", low=1)
    seed: int = setting(0, "seed")


def blur(width: float, size: int) -> operators.Convolution:
    """Circular Gaussian blur of a given standard deviation."""
    reach = np.arange(-(size // 2 - 1), size // 2)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    return operators.Convolution(kernel / kernel.sum(), size)


def signals(config: Config) -> Array:
    """Non-negative periodic signals: smooth background with a few bumps."""
    rng = np.random.default_rng(config.seed)
    grid = np.arange(config.size) / config.size
    rows = np.full((config.samples, config.size), 0.2)
    for _ in range(4):
        centre, width = (
            rng.random((config.samples, 1)),
            0.02 + 0.1 * rng.random((config.samples, 1)),
        )
        away = np.abs(grid - centre)
        away = np.minimum(away, 1 - away)
        rows += rng.random((config.samples, 1)) * np.exp(-0.5 * (away / width) ** 2)
    return np.asarray(rows)


def measured_risk(B: operators.SpectralInverse, x: Array, noisy: list[Array]) -> float:
    """Mean squared error over draws of the measurements."""
    return float(np.mean([((x - B.apply(y)) ** 2).sum(axis=1).mean() for y in noisy]))


#: Measurements under a change.
Draw = Callable[[np.random.Generator], Array]


def gaussian(clean: Array, level: float, rng: np.random.Generator) -> Array:
    """White noise of a standard deviation."""
    return clean + level * rng.standard_normal(clean.shape)


def counted(clean: Array, photons: float, rng: np.random.Generator) -> Array:
    """Photon counts over their number."""
    return np.asarray(rng.poisson(photons * clean) / photons)


def applied(measured: Array, rng: np.random.Generator) -> Array:
    """Measurements by another operator: nothing is drawn."""
    return measured


def changes(config: Config, x: Array, clean: Array) -> dict[str, list[tuple[float, float, Draw]]]:
    """Per kind of change: (strength, its radius, how to draw measurements)."""
    forward = blur(config.width, config.size)
    table: dict[str, list[tuple[float, float, Draw]]] = {"noise": [], "operator": [], "Poisson": []}
    for level in np.geomspace(0.002, 0.2, config.points):
        table["noise"].append(
            (
                float(level),
                radius_of_noise(level**2, config.size),
                partial(gaussian, clean, float(level)),
            )
        )
    for width in np.linspace(config.width / 2, 2 * config.width, config.points):
        other = blur(float(width), config.size)
        table["operator"].append(
            (
                float(width),
                radius_of_operator_change(forward, other, x),
                partial(applied, other.apply(x)),
            )
        )
    for photons in np.geomspace(20, 20_000, config.points):
        table["Poisson"].append(
            (
                float(photons),
                radius_of_poisson_noise(clean, photons),
                partial(counted, clean, float(photons)),
            )
        )
    return table


def run(config: Config, out: Path) -> list[Check]:
    """Certified and measured risks of every change; tables, a figure and checks."""
    forward = blur(config.width, config.size)
    B = forward.inverse(regularization=config.regularization)
    x = signals(config)
    clean = np.maximum(forward.apply(x), 0.0)
    problem = LinearReconstruction(B, x, clean)
    rng = np.random.default_rng(config.seed + 1)
    rows: list[Row] = []
    worst_ratio, exact_error, held = 0.0, 0.0, True
    for kind, entries in changes(config, x, clean).items():
        for strength, radius, draw in progress(entries, kind):
            worst = problem.worst_case(radius, "y|x")
            held = held and worst.verify().holds()
            count = 1 if kind == "operator" else config.draws
            measured = measured_risk(B, x, [draw(rng) for _ in range(count)])
            row = {
                "change": kind,
                "strength": strength,
                "radius": radius,
                "rms_per_entry": radius / config.size**0.5,
                "nominal": worst.nominal_risk,
                "measured": measured,
                "certified": worst.risk,
                "bound": worst.bound,
            }
            worst_ratio = max(worst_ratio, measured / worst.risk)
            if kind == "noise":  # the expectation over the noise is known
                row["expected"] = worst.nominal_risk + strength**2 * B.squared_frobenius()
                exact_error = max(exact_error, abs(measured / row["expected"] - 1))
                worst_ratio = max(worst_ratio, row["expected"] / worst.risk)
            rows.append({"expected": "", **row})
    write_csv(out / "radii.csv", rows)
    made = provenance("radii", config)
    write_json(out / "radii.json", {**made, "rows": rows})
    _draw(out, rows)
    growth = (column(rows, "measured") / column(rows, "nominal")).max()
    print(
        f"blur of width {config.width}, reconstruction with L = {B.lipschitz:.3g}: the certificate "
        f"is at least the measured risk in all {len(rows)} changes"
    )
    return [
        at_most("measured / certified risk, every change (<= 1: always covered)", worst_ratio, 1.0),
        at_most("measured / expected risk under Gaussian noise - 1", exact_error, 0.1),
        at_least("certificates that hold", float(held), 1.0),
        at_least("largest measured / nominal risk (the changes matter)", growth, 2.0),
    ]


def _draw(out: Path, rows: list[Row]) -> None:
    labels = {
        "noise": ("noise: ρ² = m s²", "level s (units of y, per entry)"),
        "operator": ("operator: ρ² = E|(A' - A)x|²", "true blur width (grid points)"),
        "Poisson": ("photons: ρ² = E Σ (Ax)/I", "photon count I"),
    }
    with drawing(out / "radii", 3, height=3.1) as (figure, axes):
        for panel, (kind, (title, label)) in zip(axes[0], labels.items(), strict=True):
            chosen = [row for row in rows if row["change"] == kind]
            strength = column(chosen, "strength")
            for key, style, colour, name in (
                ("certified", "-", PALETTE[0], "certified, at the radius of the change"),
                ("measured", "o", PALETTE[1], "measured under the change"),
                ("nominal", ":", MUTED, "on the clean data"),
            ):
                panel.plot(strength, column(chosen, key), style, color=colour, label=name)
            panel.set(xlabel=label, yscale="log", title=title)
            if kind != "operator":
                panel.set_xscale("log")
        axes[0, 0].set_ylabel("mean squared error, (units of x)²")
        name_lines(figure, axes[0], direct=False)
