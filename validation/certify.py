"""Certify: intervals for the worst-case risk of trained networks, against the radius.

A linear map (both ends are the exact worst case), and two U-Nets trained to denoise MNIST, one with
a guaranteed Lipschitz constant and one without. Beside the intervals: the risk under Gaussian noise
of the same radius, the simple attacks, and what it took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import radius_of_noise, worst_case_risk
from dro_core.style import MUTED, PALETTE
from validation.errors import mendable
from validation.figures import drawing, name_lines, plain_ticks
from validation.results import (
    Check,
    at_least,
    at_most,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting, without_folders
from validation.tables import Row, column

#: Radii in units of the data; MNIST images have 784 pixels in [0, 1] and norms about 9.
RADII = (0.3, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the experiment."""

    data: str = setting(
        "", "data root with mnist/; otherwise the environment variable DRO_DATA", folder=True
    )
    images: int = setting(1000, "test images that are certified", low=1)
    steps: int = setting(400, "training steps of each network", low=1)
    batch: int = setting(64, "images per training step", low=1)
    width: int = setting(8, "channels of the networks at full resolution", low=1)
    depth: int = setting(2, "halvings of the resolution")
    noise: float = setting(0.3, "standard deviation of the noise that is removed", low=0)
    lipschitz: float = setting(1.0, "guaranteed Lipschitz constant of the spectral network")
    ascent: int = setting(10, "ascent steps of the attack", low=1)
    seed: int = setting(0, "seed")
    device: str = setting("cpu", "torch device")


def linear_rows(config: Config) -> tuple[list[Row], list[Check]]:
    """A linear network: its interval against the exact curve."""
    import torch

    from dro_torch import certificate_curve, nets

    rng = np.random.default_rng(config.seed)
    B = rng.standard_normal((40, 60)) / math.sqrt(60)
    x, y = rng.standard_normal((50, 40)), rng.standard_normal((50, 60))
    network = nets.LinearMap(B, dtype=torch.float64)
    rows = []
    for structure in ("y|x", "joint", "x|y"):
        found = certificate_curve(
            network, torch.from_numpy(x), torch.from_numpy(y), RADII, structure, steps=config.ascent
        )
        for entry in found:
            exact = worst_case_risk(B, x, y, entry.radius, structure).risk
            rows.append({"network": "linear", **row_of(entry), "exact": exact})
    optimal = column(rows, "exact")
    lower = (column(rows, "lower") / optimal).min()
    upper = np.abs(column(rows, "upper") / optimal - 1).max()
    return rows, [
        at_least("linear network: lower end / exact worst case, smallest", lower, 0.99),
        at_most("linear network: |upper end / exact worst case - 1|, largest", upper, 1e-9),
    ]


def row_of(certificate: Any) -> Row:
    """A certificate as one flat row of a table."""
    names = (
        "structure",
        "radius",
        "nominal",
        "lower",
        "upper",
        "linearised",
        "slack",
        "lipschitz",
        "transport_cost",
        "passes",
        "seconds",
    )
    row = {name: getattr(certificate, name) for name in names}
    return {**row, **{f"attack: {name}": risk for name, risk in certificate.attacks.items()}}


def train(config: Config, spectral: bool) -> Any:
    """A U-Net trained on noisy digits by mean squared error."""
    import torch

    from dro_torch import data, nets
    from validation.noisy_training import fit_with_noise

    with mendable(data.DataFileError):
        digits = data.IndexedDataset(data.mnist("train", config.data or None).images)
    network = nets.UNet(
        1,
        1,
        config.depth,
        config.width,
        spectral=spectral,
        generator=torch.Generator().manual_seed(config.seed),
        lipschitz=config.lipschitz if spectral else None,
    )
    return fit_with_noise(
        network,
        digits,
        config.noise,
        steps=config.steps,
        batch=config.batch,
        seed=config.seed,
        device=config.device,
    )


def network_rows(config: Config, name: str) -> tuple[list[Row], list[Any]]:
    """Train one network, certify it at every radius, and measure it under noise."""
    import torch

    from dro_torch import certificate_curve, data, training
    from validation.noisy_training import squared_errors, with_noise

    start = time.perf_counter()
    network = train(config, name == "spectral")
    seconds = time.perf_counter() - start
    with mendable(data.DataFileError):
        digits = data.IndexedDataset(data.mnist("test", config.data or None).images)
    index, x = digits[torch.arange(min(config.images, len(digits)))]
    x = x.to(config.device)
    context = training.StepContext(config.seed, 0, index.to(x.device), x.device)
    start = time.perf_counter()
    found = certificate_curve(network, x, x, RADII, steps=config.ascent)
    print(
        f"{name}: trained in {seconds:.0f} s, {len(RADII)} radii certified in "
        f"{time.perf_counter() - start:.0f} s\n\n{found[-2]}\n"
    )
    rows = []
    for entry in found:
        # noise whose expected transport cost is the budget: radius_of_noise(σ², 784) = ρ
        sigma = entry.radius / radius_of_noise(1.0, x[0].numel())
        noisy = with_noise(x, sigma, context)
        rows.append(
            {
                "network": name,
                **row_of(entry),
                "noise": sigma,
                "risk under noise": float(squared_errors(network, x, noisy).mean()),
            }
        )
    return rows, found


def figure(out: Path, rows: Sequence[Row]) -> None:
    """Intervals against the radius, one panel per network."""
    names = ("linear", "spectral", "plain")
    with drawing(out / "certify", len(names), height=3.2) as (canvas, axes):
        for axis, name in zip(axes[0], names, strict=True):
            chosen = [row for row in rows if row["network"] == name and row["structure"] == "y|x"]
            radius = [row["radius"] for row in chosen]
            axis.fill_between(
                radius,
                [r["lower"] for r in chosen],
                [r["upper"] for r in chosen],
                color=PALETTE[0],
                alpha=0.25,
                label="certified interval",
            )
            for key, style, colour, label in (
                ("linearised", ":", PALETTE[5], "linearised"),
                ("attack: projected gradient", ".-", PALETTE[1], "projected gradient"),
                ("exact", "--", PALETTE[3], "exact"),
                ("risk under noise", ".-", PALETTE[2], "Gaussian noise of that radius"),
            ):
                if key in chosen[0]:
                    axis.plot(radius, [r[key] for r in chosen], style, color=colour, label=label)
            nominal = chosen[0]["nominal"]
            axis.axhline(nominal, ls="-", color=MUTED, lw=0.8, label="nominal risk")
            axis.set(xscale="log", yscale="log", title=f"{name} network")
            plain_ticks(axis.xaxis)
        axes[0, 0].set_ylabel("risk")
        axes[0, 1].set_xlabel("radius ρ (units of the data)")
        name_lines(canvas, axes[0], direct=False)


def run(config: Config, out: Path) -> list[Check]:
    """All networks; written to `out`."""
    rows, checks = linear_rows(config)
    slack: dict[str, float] = {}
    for name in ("spectral", "plain"):
        more, found = network_rows(config, name)
        rows += more
        slack[name] = float(column(more, "slack").min())
        simple = ("random noise", "gradient", "projected gradient")
        margin = min(c.lower / max(c.attacks[key] for key in simple) for c in found)
        alone = min(c.lower / c.attacks["linearised"] for c in found)
        noise = (column(more, "lower") / column(more, "risk under noise")).min()
        share = float(np.mean([c.holds() for c in found]))
        checks += [
            at_least(f"{name}: intervals in order, law in the ball, share", share, 1.0),
            at_least(f"{name}: lower end / best of the simple attacks, smallest", margin, 1.0),
            at_least(f"{name}: lower end / linearised law alone, smallest", alone, 1.0),
            at_least(f"{name}: lower end / risk under noise of that radius, smallest", noise, 1.0),
            at_most(
                f"{name}: seconds for one radius at {config.images} images, largest",
                max(c.seconds for c in found),
                300.0,
            ),
        ]
        worst = float(column(more, "slack").max())
        if name == "spectral":
            checks.append(at_most("spectral: upper / lower, largest", worst, 10.0))
        print(f"{name}: upper / lower from {slack[name]:.3g} to {worst:.3g}")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(out / "certify.csv", [{key: row.get(key) for key in keys} for row in rows])
    figure(out, rows)
    shown = ["network", "structure", "radius", "nominal", "lower", "upper", "seconds"]
    print(
        table(
            [
                shown,
                *(
                    [f"{row[k]:.4g}" if isinstance(row[k], float) else str(row[k]) for k in shown]
                    for row in rows
                ),
            ]
        )
    )
    made = provenance("certify", without_folders(config))
    write_json(out / "certify.json", {**made, "checks": checks, "rows": rows})
    return checks
