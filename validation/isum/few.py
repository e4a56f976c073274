"""Few images, exact plans: where unbalanced transport begins to beat the balanced one.

Nothing is trained. Measurements of several noise levels (4:3:2:1) and as many clean images are
joined by the exact plan of the cost of ISUM, with free and with fixed marginals; a measurement is
restored by the barycentre of the images that its mass goes to. The factor of the cost's scale is
chosen for both on the first draw of images, and judged on the others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from dro_core.style import PALETTE
from dro_core.types import Array
from dro_core.unbalanced import UnbalancedTransport, unbalanced_ot
from dro_torch.data import IndexedDataset
from dro_torch.losses.unbalanced import cost_scale
from validation.experiment import Claim, user_errors
from validation.figures import drawing, name_lines
from validation.isum import data as images
from validation.isum.claims import claim
from validation.isum.data import LEVELS, SHARES
from validation.isum.settings import DATASETS, TASKS
from validation.isum.settings import Config as Training
from validation.results import (
    Check,
    at_least,
    progress,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting, without_folders
from validation.tables import Row

FACTORS = (1.0, 0.3, 0.1, 0.03)
#: PSNR at most: where the clean image itself is found it would be infinite.
HIGHEST = 40.0
KINDS = {"UOT": "kl", "OT": "balanced"}


@dataclass(frozen=True)
class Config(Settings):
    """Which images, how many, how often."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    dataset: str = setting("cifar10", f"images: {', '.join(DATASETS)}", choices=DATASETS)
    task: str = setting("deblur", "measurement", choices=[t for t in TASKS if t != "sr"])
    largest: int = setting(800, "clean images at most; halved down to 50", low=50)
    draws: int = setting(5, "draws of images, the first for the choice of the factor", low=2)
    seed: int = setting(0, "first seed")


@dataclass(frozen=True)
class Few:
    """As many measurements as clean images, flat, and what the measurements are of."""

    y: Tensor
    truth: Tensor
    clean: Tensor
    level: Array  #: position in `LEVELS` of every measurement
    cost: Array  #: of ISUM at factor one


def drawn(config: Config, pool: IndexedDataset, count: int, pairing: str, draw: int) -> Few:
    """Images of one draw: other ones in both roles (disjoint), or the same (shuffled)."""
    rng = np.random.default_rng((config.seed, count, draw))
    order = torch.from_numpy(rng.permutation(len(pool)))
    first = order[:count]
    second = order[count : 2 * count] if pairing == "disjoint" else first
    index, truth, *_ = pool[first]
    clean = pool[second][1]
    settings = Training(preset="desk", task=config.task, dataset=config.dataset)
    noisy = images.noisy_measurement(settings, LEVELS, SHARES)
    shares = np.array(SHARES) / sum(SHARES)
    level = rng.permutation(
        np.searchsorted(np.cumsum(shares) - 1e-9, (np.arange(count) + 0.5) / count)
    )
    y, _ = noisy.at(truth, index, torch.from_numpy(level), seed=config.seed, step=draw)
    there = noisy.forward.A(clean)
    rows, columns, seen = (part.flatten(1).double().numpy() for part in (y, clean, there))
    cost = cdist(rows, seen, "sqeuclidean") + cdist(rows, columns, "sqeuclidean")
    return Few(y, truth, clean, level, cost_scale(columns.shape[1]) * cost)


def barycentres(plan: UnbalancedTransport, clean: Tensor) -> Tensor:
    """Where the mass of every measurement goes to on average; the c-transform's image if none."""
    joint = np.asarray(plan.plan.todense())
    mass = joint.sum(1)
    nearest = (plan.cost - plan.potentials[1]).argmin(1)
    joint[mass <= 0] = np.eye(len(clean))[nearest[mass <= 0]]
    shares = torch.from_numpy(joint / joint.sum(1, keepdims=True)).to(clean.dtype)
    return (shares @ clean.flatten(1)).reshape(len(shares), *clean.shape[1:])


def solved(few: Few, kind: str, factor: float) -> tuple[Array, Array]:
    """PSNR and weight of every measurement, by the exact plan."""
    masses = np.full(len(few.cost), 1 / len(few.cost))
    plan = unbalanced_ot(factor * few.cost, masses, masses, KINDS[kind], rtol=1e-6)
    error = (barycentres(plan, few.clean) - few.truth).flatten(1).double().square().mean(1)
    score = -10 * torch.log10((error / 4).clamp(min=10 ** (-HIGHEST / 10))).numpy()
    return score, np.asarray(plan.plan.sum(1)).ravel() / masses


def rows_and_gains(config: Config, pool: IndexedDataset) -> tuple[list[Row], dict[str, Array]]:
    """Rows per pairing, number of images, method and level; gains of UOT by pairing and number."""
    counts = [n for n in (50, 100, 200, 400, 800, 1600) if n <= config.largest]
    rows: list[Row] = []
    gains: dict[str, Array] = {}
    for pairing in ("disjoint", "shuffled"):
        for count in progress(counts, pairing):
            several = [drawn(config, pool, count, pairing, draw) for draw in range(config.draws)]
            scores = {}
            for kind in KINDS:
                first = {factor: solved(several[0], kind, factor)[0].mean() for factor in FACTORS}
                factor = max(first, key=first.__getitem__)
                found = [solved(few, kind, factor) for few in several[1:]]
                scores[kind] = np.stack([score for score, _ in found])
                for place, level in enumerate(LEVELS):
                    kept = [few.level == place for few in several[1:]]
                    psnr, weight = (
                        np.concatenate([one[part][k] for one, k in zip(found, kept, strict=True)])
                        for part in (0, 1)
                    )
                    row: Row = {"pairing": pairing, "images": count, "method": kind}
                    row |= {"factor": factor, "level": level, "psnr": float(psnr.mean())}
                    rows.append(row | {"weight": float(weight.mean())})
            gains[f"{pairing}, {count} images"] = scores["UOT"] - scores["OT"]
    return rows, gains


def plot(path: Path, rows: list[Row]) -> None:
    """PSNR against the number of images, by level, for both methods and pairings."""
    with drawing(path, 2, height=3.2) as (canvas, axes):
        for axis, pairing in zip(axes[0], ("disjoint", "shuffled"), strict=True):
            for kind, style in (("UOT", "o-"), ("OT", "x--")):
                for place, level in enumerate(LEVELS):
                    line = [
                        r
                        for r in rows
                        if (r["pairing"], r["method"], r["level"]) == (pairing, kind, level)
                    ]
                    numbers = [float(r["images"]) for r in line], [float(r["psnr"]) for r in line]
                    label = f"{kind}, σ = {level:g}"
                    axis.semilogx(*numbers, style, color=PALETTE[place], label=label)
            axis.set(xlabel="images", title=f"{pairing} pools")
        axes[0, 0].set_ylabel("PSNR in dB")
        name_lines(canvas, axes[0], direct=False)


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Solve, judge, draw; written to `out`."""
    settings = Training(
        preset="desk", data=config.data, dataset=config.dataset, images=2 * config.largest + 400
    )
    rows, gains = rows_and_gains(config, images.load_images(settings).learn)
    claims: list[Claim] = [
        claim(f"exact plans, {where}: UOT over OT, mean over levels", gain)
        for where, gain in gains.items()
    ]
    write_csv(out / "few.csv", rows)
    plot(out / "few", rows)
    shown = [("difference of PSNR in dB", "mean", "", "verdict")]
    shown += [(c.claim, f"{c.value:+.2f}", f"± {c.band:.2f}", c.verdict) for c in claims]
    print(table(shown))
    checks = [at_least("numbers of images that were solved", len(claims), 2)]
    entries = [{**dataclasses.asdict(c), "verdict": c.verdict} for c in claims]
    made = provenance("isum few", without_folders(config))
    write_json(out / "few.json", {**made, "claims": entries, "few": rows, "checks": checks})
    return checks
