"""Benchmarks of the estimators at equal numbers of network passes: plain and tilted draws.

A linear deblurring map, for which the objective is known exactly, and a trained UNet, for which it
is known from two long runs, of plain and of tilted draws (`chosen_run` says which one counts).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core import dual_value
from dro_core.operators import Convolution
from dro_core.style import MUTED
from dro_torch.data import DataFileError, mnist
from dro_torch.losses.entropic import EntropicDROLoss, EstimatorWarning
from dro_torch.nets import LinearMap, UNet
from dro_torch.physics import gaussian_kernel
from dro_torch.residual import MovedSamples, leading_directions
from dro_torch.structure import YGivenX
from validation.benchmarks.text import cell
from validation.errors import mendable
from validation.figures import drawing, name_lines, series
from validation.results import (
    Check,
    at_most,
    progress,
    table,
    write_csv,
    write_json,
)

if TYPE_CHECKING:
    from validation.benchmarks.torch_settings import Config

SIDE, BLUR, NOISE = 28, 1.0, 0.05
LINEAR_EPSILON, LINEAR_FACTORS = 0.08, (4.0, 2.0, 1.5, 1.1, 1.02)
EPSILONS, FACTORS = (0.002, 0.02, 0.08), (4.0, 2.0, 1.5, 1.1)


def images(config: Config, count: int) -> Tensor:
    """MNIST digits in [0, 1] (count, 1, 28, 28); without a data root, discs of random shape."""
    root = config.data or os.environ.get("DRO_DATA")
    if root:
        with mendable(DataFileError):
            return mnist("train", root).images[:count].float() / 255
    print("no data root (--data or DRO_DATA): drawn shapes in place of MNIST digits")
    generator = torch.Generator().manual_seed(config.seed)
    centre, radius = torch.rand(2, count, 2, 1, 1, generator=generator)
    grid = torch.linspace(-1, 1, SIDE)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    place, size = centre - 0.5, 0.2 + 0.5 * radius
    across, down = (rows - place[:, 0]) / size[:, 0], (columns - place[:, 1]) / size[:, 1]
    return torch.sigmoid(8 * (1 - across**2 - down**2))[:, None]


# -- a linear map


@dataclass(frozen=True)
class Sampler:
    """An estimator with its settings; `draws` may be left to the budget of passes."""

    name: str
    options: dict[str, Any]
    overhead: int = 0  # passes besides the draws

    def loss(self, epsilon: float, passes: int) -> EntropicDROLoss:
        """With as many draws as the passes allow."""
        return EntropicDROLoss(epsilon, samples=max(passes - self.overhead, 1), **self.options)


def tilted(rank: int, *, sweeps: int = 1, **options: Any) -> Sampler:
    """Tilted draws; besides them a pass counts for the residual, two for a Jacobian product."""
    kind = "defensive" if options.get("defensive", True) else "pure"
    extra = "".join(f", {k}" for k in ("warm_start",) if options.get(k))
    extra += ", noisy" if options.get("linearise") == "noisy" else ""
    extra += f", {sweeps} sweeps" if sweeps > 1 else ""
    products = 1 + (1 + 2 * sweeps) * rank + (options.get("linearise") == "noisy")
    overhead = 2 * products + (rank == 0)
    settings = {"estimator": "tilted", "rank": rank, "sweeps": sweeps, **options}
    return Sampler(f"tilted r = {rank}, {kind}{extra}", settings, overhead)


PLAIN = Sampler("SG", {"estimator": "sg"})


def values(
    sampler: Sampler,
    epsilon: float,
    passes: int,
    model: Any,
    x: Tensor,
    y: Tensor,
    multiplier: float,
    seeds: Iterable[int],
) -> tuple[Tensor, float]:
    """One objective per seed, float64, and the passes that a sample took."""
    loss = sampler.loss(epsilon, passes)
    with torch.no_grad():
        found = [float(loss(model, x, y, multiplier, seed=1000 + s)) for s in seeds]
    return torch.tensor(found, dtype=torch.float64), float(loss.diagnostics["passes"])


def deblurring_rows(config: Config, out: Path) -> list[Check]:
    """784 pixels, regularised inverse of a blur: bias of every estimator, relative to the truth."""
    x = images(config, config.images).flatten(1).double()
    forward = Convolution(gaussian_kernel(BLUR).numpy(), (SIDE, SIDE))
    inverse = forward.inverse(regularization=0.01)
    rng = np.random.default_rng(config.seed)
    y_ = forward.apply(x.numpy())
    y_ += NOISE * rng.standard_normal(y_.shape)
    matrix = inverse.matrix()
    threshold = float(inverse.lipschitz) ** 2
    model, y = LinearMap(matrix, dtype=torch.float64).requires_grad_(False), torch.from_numpy(y_)
    full = Sampler("tilted full, pure", {"estimator": "tilted", "rank": "full", "defensive": False})
    eight = 8
    fixed = [(PLAIN, 8), (PLAIN, 32), (PLAIN, 256)]
    equal = [
        (tilted(rank, defensive=defensive), tilted(rank).overhead + eight)
        for rank in (0, 8, 32)
        for defensive in (False, True)
    ]
    warm = tilted(32, defensive=False, warm_start=True)
    equal.append((warm, warm.overhead + eight))
    jobs = [*fixed, *equal, *((PLAIN, passes) for passes in sorted({p for _, p in equal}))]
    rows: list[dict[str, Any]] = []
    worst = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        for factor in progress(LINEAR_FACTORS, "784 pixels"):
            multiplier = factor * threshold
            exact = dual_value(inverse, x.numpy(), y_, multiplier, 0.0, epsilon=LINEAR_EPSILON)
            for sampler, passes in jobs:
                got, used = values(
                    sampler,
                    LINEAR_EPSILON,
                    passes,
                    model,
                    x,
                    y,
                    multiplier,
                    range(config.replicates),
                )
                error = float(got.std()) / math.sqrt(len(got)) / exact if len(got) > 1 else math.nan
                rows.append(
                    {
                        "multiplier / σ²": factor,
                        "estimator": sampler.name,
                        "passes": used,
                        "relative bias": float(got.mean()) / exact - 1,
                        "standard error": error,
                    }
                )
            got, used = values(full, LINEAR_EPSILON, 1, model, x[:1], y[:1], multiplier, (0,))
            exact = dual_value(
                inverse, x[:1].numpy(), y_[:1], multiplier, 0.0, epsilon=LINEAR_EPSILON
            )
            rows.append(
                {
                    "multiplier / σ²": factor,
                    "estimator": full.name,
                    "passes": used,
                    "relative bias": float(got[0]) / exact - 1,
                    "standard error": 0.0,
                }
            )
            worst = max(worst, abs(float(got[0]) / exact - 1))
    write_csv(out / "deblurring.csv", rows)
    print(f"largest singular value {math.sqrt(threshold):.3f}, ε = {LINEAR_EPSILON}; relative bias")
    print(pivot(rows, "multiplier / σ²", "relative bias", "{:+.4f}"))
    draw_deblurring(rows, out / "deblurring")
    return [
        at_most(
            "784-pixel deblurring map, tilted, full rank, one draw: relative error", worst, 1e-10
        )
    ]


def pivot(rows: Sequence[dict[str, Any]], across: str, cell: str, form: str) -> str:
    """Estimators and their passes down, `across` along; all other columns are equal."""
    heads = list(dict.fromkeys(row[across] for row in rows))
    kinds = list(dict.fromkeys((row["estimator"], row["passes"]) for row in rows))
    found = {(r["estimator"], r["passes"], r[across]): r[cell] for r in rows}
    lines = [
        [name, f"{passes:g}", *(form.format(found[name, passes, h]) for h in heads)]
        for name, passes in kinds
    ]
    return table([["estimator", "passes", *(f"{across} = {h:g}" for h in heads)], *lines])


def draw_deblurring(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Relative bias against the distance of the multiplier from its threshold."""
    kinds = dict.fromkeys((row["estimator"], row["passes"]) for row in rows)
    with drawing(path, height=5.0) as (figure, ((axis,),)):
        for k, (name, passes) in enumerate(kinds):
            chosen = [r for r in rows if (r["estimator"], r["passes"]) == (name, passes)]
            axis.plot(
                [row["multiplier / σ²"] - 1 for row in chosen],
                [100 * row["relative bias"] for row in chosen],
                label=f"{name} ({passes:g} passes)",
                **series(k),
            )
        axis.set_xscale("log")
        factors = sorted({row["multiplier / σ²"] for row in rows})
        axis.set_xticks([f - 1 for f in factors], [f"{f:g}" for f in factors], minor=False)
        axis.minorticks_off()
        axis.set_xlabel("multiplier / squared Lipschitz constant")
        axis.set_ylabel("relative bias, %")
        name_lines(figure, [axis], direct=False)


# -- a trained network


def trained_network(config: Config) -> tuple[UNet, Tensor, Tensor]:
    """A UNet that deblurs, and images that it was not trained on: x, y."""
    x = images(config, config.train_images + config.network_images)
    generator = torch.Generator().manual_seed(config.seed + 1)
    kernel = gaussian_kernel(1.5).float()[None, None]
    reach = kernel.shape[-1] // 2
    y = functional.conv2d(functional.pad(x, (reach,) * 4, mode="circular"), kernel)
    y = y + NOISE * torch.randn(y.shape, generator=generator)
    network = UNet(1, 1, depth=2, width=config.width, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in progress(range(config.train_steps), "training"):
        chosen = torch.randint(config.train_images, (64,), generator=generator)
        optimiser.zero_grad()
        (network(y[chosen]) - x[chosen]).square().mean().backward()
        optimiser.step()
    network.requires_grad_(False)
    return network, x[config.train_images :], y[config.train_images :]


def largest_slope(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Largest singular value of the network's Jacobians at the data, by 30 rounds of iteration."""
    moved = MovedSamples(network, x, y, YGivenX())
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(x), moved.size, 2, generator=generator)
    zero = torch.zeros(len(x), moved.size)
    return float(leading_directions(moved, zero, start, 30)[2].max())


@dataclass(frozen=True)
class LongRun:
    """Losses of many plain draws, (N, K): the objective at every multiplier, with its error."""

    losses: Tensor
    epsilon: float

    @classmethod
    def of(cls, network: nn.Module, x: Tensor, y: Tensor, epsilon: float, draws: int) -> LongRun:
        """K draws, a few hundred at a time."""
        parts: list[Tensor] = []

        def keep(model: Any, x: Tensor, y: Tensor) -> Tensor:
            parts.append((x - model(y)).flatten(1).double().square().sum(1))
            return parts[-1]

        loss = EntropicDROLoss(epsilon, samples=min(draws, 256), loss=keep)
        with torch.no_grad():
            for part in range(max(draws // 256, 1)):
                loss(network, x, y, 1e6, seed=7, step=part)
        return cls(torch.cat([p.reshape(len(x), -1) for p in parts], 1), epsilon)

    def objective(self, multiplier: float) -> tuple[float, float]:
        """Mean over the samples, and its standard error (delta method)."""
        temperature, count = multiplier * self.epsilon, self.losses.shape[1]
        total = torch.logsumexp(self.losses / temperature, 1)
        value = temperature * (total - math.log(count))
        squares = torch.exp(torch.logsumexp(2 * self.losses / temperature, 1) - 2 * total)
        variance = temperature**2 * (squares - 1 / count)
        return float(value.mean()), float(variance.sum().sqrt()) / len(value)


def tilted_run(
    network: nn.Module, x: Tensor, y: Tensor, epsilon: float, multiplier: float, draws: int
) -> tuple[float, float]:
    """The same from the defensive mixture with rank 0, image by image."""
    values, squares = [], []
    temperature = multiplier * epsilon
    for i in range(len(x)):
        loss = EntropicDROLoss(epsilon, samples=draws, estimator="tilted", rank=0)
        with torch.no_grad():
            values.append(float(loss(network, x[i : i + 1], y[i : i + 1], multiplier, seed=9)))
        size = float(loss.diagnostics["effective_sample_size"])
        squares.append(temperature**2 * (1 / size - 1 / draws))
    return math.fsum(values) / len(x), math.sqrt(math.fsum(squares)) / len(x)


def chosen_run(runs: dict[str, tuple[float, float]]) -> str:
    """The run with the least standard error, unless another is larger by three of them.

    Logarithms of means are biased low, and where weights are heavy by far more than the standard
    error says, for the draws that matter have not been seen.
    """
    order = sorted(runs, key=lambda name: runs[name][1])
    value, error = runs[order[0]]
    larger = [n for n in order[1:] if runs[n][0] > value + 3 * math.hypot(runs[n][1], error)]
    return max(larger, key=lambda name: runs[name][0], default=order[0])


#: Network passes of a second comparison: eight draws, tilted along the gradient.
SMALL_BUDGET = 11
#: Estimators of the network rows, all with the same number of passes.
VARIANTS = (
    PLAIN,
    tilted(0, defensive=False),
    tilted(0),
    tilted(1),
    tilted(8),
    tilted(1, linearise="noisy"),
    tilted(2, warm_start=True),
)


def network_rows(config: Config, out: Path) -> list[Check]:
    """A trained UNet: root mean squared error of every estimator at equal passes."""
    network, x, y = trained_network(config)
    slope = largest_slope(network, x, y)
    risk = float((x - network(y)).flatten(1).square().sum(1).mean())
    print(f"UNet: mean squared error {risk:.3f} (sum over pixels); largest slope {slope:.3f}")
    jobs = [
        (sampler, passes)
        for passes in (SMALL_BUDGET, config.budget)
        for sampler in VARIANTS
        if sampler.overhead < (passes if passes > SMALL_BUDGET else passes / 2)
    ]
    rows: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        bar = progress(None, "estimates on the UNet")
        for epsilon in EPSILONS:
            plain = LongRun.of(network, x, y, epsilon, config.reference)
            for factor in FACTORS:
                multiplier = factor * slope**2
                runs = {
                    "plain": plain.objective(multiplier),
                    "tilted": tilted_run(network, x, y, epsilon, multiplier, config.reference),
                }
                source = chosen_run(runs)
                truth, error = runs[source]
                for sampler, passes in jobs:
                    got, used = values(
                        sampler, epsilon, passes, network, x, y, multiplier, range(config.seeds)
                    )
                    bar.update()
                    rows.append(
                        {
                            "epsilon": epsilon,
                            "multiplier / slope²": factor,
                            "estimator": sampler.name,
                            "passes": used,
                            "reference": truth,
                            "reference error": error,
                            "from": source,
                            "plain run": runs["plain"][0],
                            "tilted run": runs["tilted"][0],
                            "bias": float(got.mean()) - truth,
                            "rms": float((got - truth).square().mean().sqrt()),
                        }
                    )
        bar.close()
    add_ratios(rows)
    write_csv(out / "network.csv", rows)
    write_json(out / "network.json", {"slope": slope, "squared error": risk, "rows": rows})
    draw_network(rows, out / "network")
    return report_network(rows)


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """RMS error over that of SG at the same ε, multiplier and passes."""
    plain = {place(row): row["rms"] for row in rows if row["estimator"] == PLAIN.name}
    for row in rows:
        row["rms / SG"] = row["rms"] / plain[place(row)]


def place(row: dict[str, Any]) -> tuple[float, float, float]:
    """ε, multiplier and passes of a row."""
    return row["epsilon"], row["multiplier / slope²"], row["passes"]


def report_network(rows: list[dict[str, Any]]) -> list[Check]:
    """Print ratios per ε, where SG is beaten, and the claim about the defensive mixture."""
    plain = [row for row in rows if row["estimator"] == PLAIN.name]
    columns = {
        "ε": "epsilon",
        "λ / slope²": "multiplier / slope²",
        "reference": "reference",
        "its error": "reference error",
        "draws": "from",
        "bias of SG": "bias",
        "rms of SG": "rms",
    }
    columns["passes"] = "passes"
    print(table([list(columns), *([cell(row[c]) for c in columns.values()] for row in plain)]))
    for epsilon in dict.fromkeys(row["epsilon"] for row in rows):
        print(f"\nrms error / that of SG with as many passes, ε = {epsilon:g}")
        print(
            pivot(
                [r for r in rows if r["epsilon"] == epsilon],
                "multiplier / slope²",
                "rms / SG",
                "{:.2f}",
            )
        )
    for row in best_rows(rows):
        if row["rms / SG"] < 0.9:
            print(
                "SG beaten: ε = {epsilon:g}, λ / slope² = {multiplier / slope²:g}, {estimator}, "
                "{passes:g} passes: rms {rms / SG:.2f} of SG's".format(**row)
            )
    defensive = {v.name for v in VARIANTS if v.options.get("defensive", v is not PLAIN)}
    ratios: dict[str, float] = {}
    for row in rows:
        if row["estimator"] in defensive:
            key = f"{row['estimator']}, {row['passes']:g} passes"
            ratios[key] = max(ratios.get(key, 0.0), row["rms / SG"])
    checks = [
        at_most(f"UNet, {key}: largest rms error / SG's", ratio, 2**0.5)
        for key, ratio in ratios.items()
    ]
    error = max(row["reference error"] / row["rms"] for row in plain)
    checks.append(at_most("UNet: standard error of the reference / rms error of SG", error, 0.5))
    return checks


def best_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most accurate estimator at every ε and multiplier."""
    places = dict.fromkeys(place(row) for row in rows)
    return [min((r for r in rows if place(r) == p), key=lambda r: r["rms / SG"]) for p in places]


def draw_network(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """RMS error over SG's against the multiplier, a panel per ε; the larger number of passes."""
    largest = max(row["passes"] for row in rows)
    epsilons = list(dict.fromkeys(row["epsilon"] for row in rows))
    names = dict.fromkeys(row["estimator"] for row in rows)
    with drawing(path, len(epsilons), height=4.0) as (figure, (axes,)):
        for axis, epsilon in zip(axes, epsilons, strict=True):
            for k, name in enumerate(names):
                kind = (name, epsilon, largest)
                chosen = [r for r in rows if (r["estimator"], r["epsilon"], r["passes"]) == kind]
                over = [row["multiplier / slope²"] for row in chosen]
                axis.plot(over, [row["rms / SG"] for row in chosen], label=name, **series(k))
            axis.axhline(2**0.5, ls="-", color=MUTED, linewidth=0.8)
            axis.set(xscale="log", yscale="log", title=f"ε = {epsilon:g}")
            axis.set_xticks(FACTORS, [f"{f:g}" for f in FACTORS], minor=False)
            axis.minorticks_off()
            axis.set_yticks((0.1, 0.2, 0.5, 1.0), ["0.1", "0.2", "0.5", "1"])
        axes[len(axes) // 2].set_xlabel("multiplier / squared largest slope")
        axes[0].set_ylabel(f"rms error / that of SG, {largest:g} passes")
        name_lines(figure, axes, direct=False)
