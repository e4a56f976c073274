"""Certify any: guaranteed intervals for ordinary trained networks, against attacks and brute force.

A U-Net without any constraint, trained to deblur 14 x 14 digits with noise ("jitter") on its input,
certified as it is with its output clamped, tethered to a linear reconstruction, and smoothed by the
jitter it was trained with. Beside the intervals: what each costs in clean error, and what it took.
And random small networks in one dimension, where the worst case is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import finite_worst_case, fit_linear
from dro_core.style import MUTED, PALETTE
from validation.errors import mendable
from validation.figures import drawing
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

#: Standard deviations of the smoothing noise, per pixel in [0, 1].
SIGMAS = (0.1, 0.25, 0.5)
#: The goals for upper / lower at ρ = σ/2, σ and 1.
GOALS = (4.0, 10.0, 100.0)
#: Standard deviation of the blur in pixels, and of the noise that the plain network sees.
BLUR, JITTER = 0.7, 0.05
RANGE = (0.0, 1.0)
#: Radii that anchors of smoothed networks are fitted at, over that of the noise, σ√m; and the move,
#: in σ, at which the guarantee of an anchor is compared.
SHARES, MOVE = (0.35, 0.5, 0.7, 1.0, 1.4), 5.0


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the experiment."""

    data: str = setting(
        "", "data root with mnist/; otherwise the environment variable DRO_DATA", folder=True
    )
    images: int = setting(1000, "test images that are certified", low=1)
    steps: int = setting(1000, "training steps of each network", low=1)
    batch: int = setting(64, "images per training step", low=1)
    width: int = setting(8, "channels of the networks at full resolution", low=1)
    draws: int = setting(500, "draws per image for the upper end", low=1)
    ascent: int = setting(6, "ascent steps of the attack", low=1)
    networks: int = setting(500, "random small networks against brute force", low=1)
    smoothed: int = setting(100, "of these, how many are smoothed too", low=1)
    seed: int = setting(0, "seed")


@dataclass(frozen=True)
class Digits:
    """Signals and blurred measurements, (N, 1, 14, 14)."""

    x: Any
    y: Any


def digits(config: Config, split: str, count: int | None = None) -> Digits:
    """MNIST at half resolution."""
    import torch
    from torch.nn import functional

    from dro_torch import data, physics

    with mendable(data.DataFileError):
        images = data.IndexedDataset(data.mnist(split, config.data or None).images)
    whole = images[torch.arange(min(count or len(images), len(images)))][1]
    x = functional.avg_pool2d(whole, 2)
    return Digits(x, physics.Convolution(physics.gaussian_kernel(BLUR), "zero")(x))


def train(config: Config, learn: Digits, jitter: float, folder: Path) -> Any:
    """A plain U-Net from blurred, noisy digits to digits; kept in `folder`."""
    from dro_torch import data, nets
    from validation.noisy_training import fit_with_noise

    return fit_with_noise(
        nets.UNet(1, 1, 1, config.width, generator=_generator(config.seed)),
        data.IndexedDataset(learn.x, learn.y),
        jitter,
        steps=config.steps,
        batch=config.batch,
        seed=config.seed,
        folder=folder,
    )


def anchor(learn: Digits, radius: float) -> Any:
    """The linear reconstruction of smallest worst-case risk at a radius, as a network."""
    import torch
    from torch import nn

    from dro_torch import nets

    rows = [part[:4000].flatten(1).double().numpy() for part in (learn.x, learn.y)]
    matrix = fit_linear(x=rows[0], y=rows[1], radius=radius).matrix
    shape = tuple(learn.x.shape[1:])
    linear = nets.LinearMap(matrix, dtype=torch.float32)
    return nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape))


def clean_rmse(model: Any, test: Digits) -> float:
    """Root of the mean squared error of an image, without any noise."""
    from validation.noisy_training import squared_errors

    return math.sqrt(float(squared_errors(model, test.x, test.y).mean()))


def row_of(name: str, certificate: Any, clean: float) -> Row:
    """A certificate as a row of the table."""
    return {
        "network": name,
        "sigma": certificate.smoothing or 0.0,
        "radius": certificate.radius,
        "clean rmse": clean,
        "lower": certificate.lower,
        "upper": certificate.upper,
        "range": certificate.range_bound,
        "upper / lower": certificate.upper / certificate.lower,
        "range / upper": certificate.range_bound / certificate.upper,
        "lipschitz": certificate.lipschitz,
        "failure probability": certificate.failure_probability,
        "draws per image": certificate.draws,
        "passes per image": certificate.passes,
        "seconds per image": certificate.seconds_per_sample,
    }


def plain_rows(config: Config, learn: Digits, test: Digits, out: Path) -> list[Row]:
    """The network that saw little noise: clamped, and tethered to a linear reconstruction."""
    from dro_torch import certificate_curve, nets

    network = train(config, learn, JITTER, out / "plain")
    start = anchor(learn, 0.5)
    reach = nets.Tethered(network, start, 1.0).distance(learn.y[:4000])
    tethered = nets.Tethered(network, start, float(reach.max()))
    print(
        f"plain: clean error {clean_rmse(network, test):.4g}, linear anchor "
        f"{clean_rmse(start, test):.4g}; distance to it on training data: mean "
        f"{float(reach.mean()):.3g}, largest {float(reach.max()):.3g}, which is the tether"
    )
    rows = []
    for name, model in (("plain", network), ("tethered", tethered)):
        found = certificate_curve(
            model, test.x, test.y, [0.05, 0.1, 0.25, 0.5, 1.0, 2.0], output_range=RANGE,
            steps=config.ascent, directions=8,
        )  # fmt: skip
        print(f"\n{found[3]}\n")
        rows += [row_of(name, c, clean_rmse(nets.Clipped(model, RANGE), test)) for c in found]
    return rows


def smoothed_tether(network: Any, learn: Digits, sigma: float) -> Any:
    r"""A network tethered to the anchor that guarantees most when both are averaged over noise.

    r is the largest distance on noisy training data. Of the anchors y \mapsto By that are fitted
    at `SHARES` of the noise's radius, the one of least
    \sqrt{E\|x - By\|^2 + \sigma^2\|B\|_F^2} + \|B\|t + r at t = `MOVE` \sigma, on training data.
    """
    import torch

    from dro_torch import lipschitz_upper, nets

    y = learn.y[:4000]
    noisy = y + sigma * torch.randn(y.shape, generator=_generator(1))
    found = []
    for share in SHARES:
        start = anchor(learn, share * sigma * math.sqrt(y[0].numel()))
        reach = float(nets.Tethered(network, start, 1.0).distance(noisy).max())
        far = float(lipschitz_upper(start, y.shape[1:])) * MOVE * sigma
        reached = clean_rmse(start, Digits(learn.x[:4000], noisy)) + far + reach
        print(f"anchor at {share:g} σ√m: tether {reach:.3g}, residual far out {reached:.3g}")
        found.append((reached, nets.Tethered(network, start, reach)))
    return min(found, key=lambda pair: pair[0])[1]


def smoothed_rows(config: Config, learn: Digits, test: Digits, out: Path) -> list[Row]:
    """Networks trained with the noise that they are then averaged over."""
    from dro_torch import Smoothing, certificate_curve, nets

    rows = []
    for sigma in SIGMAS:
        network = train(config, learn, sigma, out / f"jitter_{sigma:g}")
        smoothing = Smoothing(sigma, certification=config.draws, attack=4, evaluation=8)
        print(f"sigma {sigma:g}")
        tethered = smoothed_tether(network, learn, sigma)
        for name, model in (("smoothed", network), ("tethered and smoothed", tethered)):
            found = certificate_curve(
                model, test.x, test.y, [0.5 * sigma, sigma, 1.0], output_range=RANGE,
                smoothing=smoothing, steps=config.ascent, directions=4,
            )  # fmt: skip
            print(f"\n{found[1]}\n")
            smooth = nets.SmoothedModel(model, sigma, smoothing.draws, output_range=RANGE)
            alone = clean_rmse(nets.Clipped(model, RANGE), test)
            averaged = clean_rmse(smooth, test)
            more = {"clean rmse, not averaged": alone}
            rows += [{**row_of(name, c, averaged), **more} for c in found]
    return rows


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def random_network(seed: int) -> tuple[Any, Any, Any]:
    """A small network from R to R, of any steepness, with two samples."""
    import torch
    from torch import nn

    generator = _generator(seed)
    hidden = int(torch.randint(2, 12, (), generator=generator))
    layers = [nn.Linear(1, hidden), nn.Tanh() if seed % 2 else nn.ReLU(), nn.Linear(hidden, 1)]
    model = nn.Sequential(*layers).double()
    scale = 10.0 ** float(2 * torch.rand((), generator=generator) - 0.5)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x, y = torch.rand(2, 2, 1, generator=generator, dtype=torch.float64)
    return model, x, y


def brute_force(function: Callable[[Any], Any], x: Any, y: Any, radius: float) -> float:
    """The worst case over laws on a grid of moves: a finite problem, solved exactly."""
    import torch

    moves = torch.linspace(-1, 1, 801, dtype=torch.float64)[:, None] * max(2.0, 2 * radius)
    with torch.no_grad():
        loss = [(x[i] - function(y[i] + moves)).square()[:, 0].numpy() for i in range(len(x))]
    cost = np.tile(moves[:, 0].numpy() ** 2, (len(x), 1))
    return finite_worst_case(np.stack(loss), cost, radius).risk


def random_rows(config: Config) -> list[Row]:
    """Small networks against brute force: clamped, tethered, smoothed."""
    import torch
    from torch import nn

    from dro_torch import Smoothing, certify, nets

    nodes = torch.linspace(-8, 8, 321, dtype=torch.float64)
    density = torch.exp(-0.5 * nodes**2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
    quick: dict[str, Any] = {"output_range": RANGE, "directions": 1, "steps": 2}
    rows = []
    for seed in range(config.networks):
        model, x, y = random_network(config.seed + seed)
        radius = 10.0 ** (-2 + 2.5 * (seed % 10) / 9)
        clipped = nets.Clipped(model, RANGE)
        tethered = nets.Tethered(clipped, nn.Identity(), 0.3)
        for name, one in (("plain", clipped), ("tethered", tethered)):
            found = certify(one, x, y, radius, **quick)
            worst = brute_force(nets.Clipped(one, RANGE), x, y, radius)
            rows.append({"kind": name, "radius": radius, "upper": found.upper, "truth": worst})
        if seed < config.smoothed:
            sigma = SIGMAS[seed % 3]

            def averaged(points: Any, f: Any = clipped, s: float = sigma) -> Any:
                values = f((points + s * nodes).reshape(-1, 1)).reshape(len(points), -1)
                return (values * density).sum(1, keepdim=True)

            smoothing = Smoothing(sigma, certification=20_000, evaluation=2)
            found = certify(model, x, y, radius, smoothing=smoothing, **quick)
            worst = brute_force(averaged, x, y, radius)
            rows.append(
                {"kind": "smoothed", "radius": radius, "upper": found.upper, "truth": worst}
            )
    return rows


def figure(out: Path, rows: Sequence[Row]) -> None:
    """Upper and lower ends against the radius: without draws, and smoothed."""
    panels = (
        ("the network itself, clamped", [("plain", 0.0), ("tethered", 0.0)]),
        (
            "averaged over noise: tethered, and not (dashed)",
            [("tethered and smoothed", s) for s in SIGMAS],
        ),
    )
    with drawing(out / "certify_any", 2, height=3.2) as (_, axes):
        for axis, (title, kinds) in zip(axes[0], panels, strict=True):
            for (name, sigma), colour in zip(kinds, PALETTE, strict=False):
                upper, lower = (_curve(rows, name, sigma, end) for end in ("upper", "lower"))
                axis.plot(*upper, ".-", color=colour, label=f"σ = {sigma:g}" if sigma else name)
                axis.plot(*lower, ".:", color=colour)
                if sigma:
                    axis.plot(*_curve(rows, "smoothed", sigma, "upper"), "--", color=colour, lw=0.9)
            axis.axhline(rows[0]["range"], ls="-", color=MUTED, lw=0.8, label="range alone")
            axis.set(xscale="log", yscale="log", xlabel="radius ρ (units of the data)", title=title)
        axes[0, 0].legend(loc="lower right")
        axes[0, 1].legend(loc="upper left", bbox_to_anchor=(0.0, 0.94))  # below the range
        axes[0, 0].set_ylabel("risk: guaranteed (solid), attack (dotted)")


def _curve(rows: Sequence[Row], name: str, sigma: float, key: str) -> tuple[list[Any], list[Any]]:
    """Radii and a column of the rows of a network, in the order of the radii."""
    chosen = [r for r in rows if r["network"] == name and r["sigma"] == sigma]
    return [r["radius"] for r in chosen], [r[key] for r in chosen]


def checks_of(config: Config, rows: Sequence[Row], random: Sequence[Row]) -> list[Check]:
    """The goals of the guarantees."""
    checks = []
    for name in ("smoothed", "tethered and smoothed"):
        found = [_curve(rows, name, s, "upper / lower")[1] for s in SIGMAS]
        for place, (where, goal) in enumerate(zip(("σ/2", "σ", "1"), GOALS, strict=True)):
            worst = max(float(ratios[place]) for ratios in found)
            checks.append(at_most(f"{name}: upper / lower at ρ = {where}, largest", worst, goal))
    plain, tethered, smooth = (
        [r for r in rows if r["network"] == name] for name in ("plain", "tethered", "smoothed")
    )
    below = sum(float(r["upper"]) < float(r["truth"]) * (1 - 1e-9) for r in random)
    kinds = {kind: sum(r["kind"] == kind for r in random) for kind in ("plain", "smoothed")}
    return [
        *checks,
        at_least(
            "plain, clamped: range alone / upper, smallest",
            column(plain, "range / upper").min(),
            1.0 - 1e-9,
        ),
        at_most("tethered: upper / lower, largest", column(tethered, "upper / lower").max(), 10.0),
        at_most(
            f"{kinds['plain']} small networks, {kinds['smoothed']} of them smoothed too: upper "
            "ends below the truth",
            below,
            0.0,
        ),
        at_most(
            "smoothed: minutes for 1,000 images at one radius, largest",
            1000 / 60 * float(column(smooth, "seconds per image").max()),
            10.0,
        ),
    ]


def run(config: Config, out: Path) -> list[Check]:
    """All of it; written to `out`."""
    learn, test = digits(config, "train"), digits(config, "test", config.images)
    start = time.process_time()
    random = random_rows(config)
    print(
        f"{len(random)} bounds of small networks in {time.process_time() - start:.0f} CPU-seconds"
    )
    rows = plain_rows(config, learn, test, out) + smoothed_rows(config, learn, test, out)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(out / "certify_any.csv", [{key: row.get(key) for key in keys} for row in rows])
    write_csv(out / "certify_any_small.csv", random)
    figure(out, rows)
    shown = ("network", "sigma", "radius", "clean rmse", "lower", "upper", "range", "upper / lower")
    cells = [[_cell(row[key]) for key in shown] for row in rows]
    print(table([list(shown), *cells]))
    checks = checks_of(config, rows, random)
    made = provenance("certify any", without_folders(config))
    write_json(out / "certify_any.json", {**made, "checks": checks, "rows": rows})
    return checks


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
