"""What an exact solution scores: the closed form of ISUM on images that are Gaussian.

Nothing is trained. A blur with reflecting edges and a stationary power spectrum decouple in the
basis of the cosine transform, so the optimal map of ISUM's cost is one filter per scale and kind of
cost, in closed form, and so is the balanced one. They are run on the test images beside the Wiener
filter: what matching the law of clean images costs in PSNR. For every task the same price is
computed from second moments alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import linalg

from dro_core import matching_price
from dro_core.types import Array
from dro_torch.losses.unbalanced import cost_scale
from validation.experiment import Claim, user_errors
from validation.figures import drawing, name_lines, series
from validation.isum import data as images
from validation.isum.claims import claim, interval
from validation.isum.data import LEVELS, TEST_SEED, Pools
from validation.isum.floors import second_moments
from validation.isum.judge import Judge
from validation.isum.settings import PRESETS, TASKS
from validation.isum.settings import Config as Training
from validation.isum.spectrum import Spectrum
from validation.results import Check, at_most, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting, without_folders
from validation.tables import Row

FACTORS = PRESETS["desk"].factors
#: Weights of the likelihood and of the quadratic term, at the same total cost.
COSTS = {"both terms": (1.0, 1.0), "quadratic only": (0.0, 2.0), "likelihood only": (2.0, 0.0)}
WIENER, MATCHED = "Wiener", "balanced"
#: Of the measurements' covariance, relative to its trace: clipped tones have nearly no variance.
RIDGE = 1e-9


@dataclass(frozen=True)
class Config(Settings):
    """Which images, how many."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    dataset: str = setting("cifar10", "images: mnist, cifar10", choices=("mnist", "cifar10"))
    images: int = setting(4000, "clean images that moments are taken of", low=10)
    test: int = setting(500, "test images", low=1)
    blur: float = setting(1.5, "standard deviation of the blur in pixels", low=0)
    kid: int = setting(0, "test images for EffNet-Lite0 KID at the lowest noise; 0: none", low=0)
    seed: int = setting(0, "first seed")


def spectrum(config: Training, pools: Pools) -> Spectrum:
    """Of the clean pool."""
    clean = pools.unpaired(config, False)[1]
    x = clean[torch.arange(len(clean))][1]
    return Spectrum.of(x, images.blur_spectrum(config.blur, x.shape[-2:]), config.noise)


def filters(model: Spectrum) -> dict[tuple[str, float], tuple[Array, Array | None, Array | None]]:
    """Gain and means by (cost, factor); factor NaN where the scale does not matter."""
    found: dict[tuple[str, float], tuple[Array, Array | None, Array | None]] = {
        (WIENER, math.nan): (model.wiener(), None, None),
        (MATCHED, math.nan): (model.matched(), None, None),
    }
    for name, (likelihood, quadratic) in COSTS.items():
        for factor in FACTORS:
            scale = factor * cost_scale(model.power.size)
            found[name, factor] = model.unbalanced(scale * likelihood, scale * quadratic)
    return found


def prices(config: Config) -> list[Row]:
    """Of every task and level: errors in dB of the Gaussian law with the images' second moments."""
    rows: list[Row] = []
    for task in TASKS:
        settings = _training(config, task)
        clean = images.load_images(settings).unpaired(settings, False)[1]
        moments = second_moments(settings, clean, len(clean))
        covariance, across, own = moments.signal, moments.across, moments.measured
        for noise in LEVELS:
            there = own.copy()
            there[np.diag_indices_from(there)] += noise**2 + RIDGE * np.trace(own)
            estimate = across.T @ linalg.solve(there, across, assume_a="pos")
            price = matching_price(covariance, (estimate + estimate.T) / 2)
            pixels = len(covariance)
            row: Row = {"task": task, "noise": noise}
            for name in ("best", "matched", "sampled"):
                error = getattr(price, f"{name}_error") / pixels
                row[f"{name}_psnr"] = 10 * math.log10(4 / error)
            certificate = price.verify()
            unsure = certificate.primal_cost - certificate.dual_cost
            row |= {"price": price.decibels, "unsure": unsure / price.matched_error}
            rows.append(row)
    return rows


def scores(config: Config) -> tuple[list[Row], dict[tuple[str, float, float], Array]]:
    """PSNR of the test images by (cost, factor, level), and rows of it."""
    rows: list[Row] = []
    values: dict[tuple[str, float, float], Array] = {}
    for noise in progress(LEVELS, "levels"):
        settings = dataclasses.replace(_training(config, "deblur"), noise=noise)
        pools = images.load_images(settings)
        index, x, *_ = pools.test[torch.arange(len(pools.test))]
        y, _ = images.noisy_measurement(settings, (noise,)).at(
            x, index, 0, seed=TEST_SEED + 1, step=0
        )
        model = spectrum(settings, pools)
        judge = Judge(x, config.kid if noise == LEVELS[0] else 0)
        for (name, factor), (gain, source, target) in filters(model).items():
            restored = model.apply(gain, y, source, target).clamp(-1, 1)
            found = judge.psnr(restored).numpy()[None]
            values[name, factor, noise] = found
            _, low, high = interval(found)
            row: Row = {"cost": name, "factor": "" if math.isnan(factor) else factor}
            row |= {"noise": noise, "psnr_low": low, "psnr_high": high}
            rows.append(row | judge.row(restored))
    return rows, values


def _training(config: Config, task: str) -> Training:
    """Settings that load the images and measure them."""
    return Training(
        preset="desk",
        task=task,
        data=config.data,
        dataset=config.dataset,
        images=2 * config.images,
        test=config.test,
        blur=config.blur,
        seed=config.seed,
    )


def plot(path: Path, priced: list[Row], model: Spectrum) -> None:
    """The price of matching per task and level; gains of the blur's filters along one axis."""
    with drawing(path, 2, height=2.9) as (canvas, axes):
        prices, gains = axes[0]
        for k, task in enumerate(TASKS):
            line = [row for row in priced if row["task"] == task]
            numbers = ([float(row[key]) for row in line] for key in ("noise", "price"))
            prices.plot(*numbers, label=task, **series(k))
        prices.axhline(10 * math.log10(2), color="0.4", lw=1, ls=":")
        prices.text(LEVELS[0], 3.03, "a sample of the posterior", va="bottom", color="0.4")
        prices.set(xlabel="standard deviation of the noise", ylabel="price of matching in dB")
        prices.set_ylim(0, 3.4)
        scale = cost_scale(model.power.size)
        shown = {WIENER: model.wiener(), MATCHED: model.matched()}
        shown["KL, quadratic only"] = model.unbalanced(0.0, 2 * scale)[0]
        for k, (name, gain) in enumerate(shown.items()):
            gains.plot(gain.mean(0)[0], label=name, **series(k + len(TASKS)))
        gains.set(xlabel="frequency along one axis", ylabel="gain of the exact map, factor 1")
        name_lines(canvas, axes[0])


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Filters, prices, claims, figure; written to `out`."""
    rows, values = scores(config)
    priced = prices(config)
    claims: list[Claim] = []
    for name in COSTS:
        gains = [values[name, f, LEVELS[0]] - values[WIENER, math.nan, LEVELS[0]] for f in FACTORS]
        best = max(gains, key=lambda gain: float(gain.mean()))
        claims.append(claim(f"exact map over Wiener, {name}, best factor", best))
    balanced = values[MATCHED, math.nan, LEVELS[0]] - values[WIENER, math.nan, LEVELS[0]]
    claims.append(claim("exact map over Wiener, balanced, any cost", balanced))
    write_csv(out / "filters.csv", rows)
    write_csv(out / "prices.csv", priced)
    settings = _training(config, "deblur")
    plot(out / "gaussian", priced, spectrum(settings, images.load_images(settings)))
    print(shown(priced, claims))
    largest = max(float(row["price"]) for row in priced)
    checks = [
        at_most(
            "price of matching, dB: at most that of a sample", largest, 10 * math.log10(2) + 1e-6
        ),
        at_most("certificate's gap over the error", max(float(r["unsure"]) for r in priced), 2e-3),
    ]
    entries = [{**dataclasses.asdict(c), "verdict": c.verdict} for c in claims]
    made = provenance("isum gaussian", without_folders(config))
    tables: Mapping[str, object] = {"filters": rows, "prices": priced}
    write_json(out / "gaussian.json", {**made, "claims": entries, **tables, "checks": checks})
    return checks


def shown(priced: list[Row], claims: list[Claim]) -> str:
    """What is printed: the price per task and level, and the claims."""
    lines: list[tuple[str, ...]] = [("task", "σ", "best", "matched", "a sample", "price in dB")]
    for row in priced:
        numbers = (float(row[f"{kind}_psnr"]) for kind in ("best", "matched", "sampled"))
        task, noise = str(row["task"]), f"{float(row['noise']):g}"
        lines.append((task, noise, *(f"{n:.2f}" for n in numbers), f"{float(row['price']):.2f}"))
    judged = [("difference of PSNR in dB", "mean", "", "verdict")]
    judged += [(c.claim, f"{c.value:+.2f}", f"± {c.band:.2f}", c.verdict) for c in claims]
    return f"\n{table(lines)}\n\n{table(judged)}"
