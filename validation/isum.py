"""Learned unbalanced transport maps on images: ISUM, its OT variant, single cost terms, floors.

All arms share networks, data, steps and a tuning budget over the scale of the cost, chosen on
validation images. The ablations run at matched total cost (twice the scale for a single term) and,
where the preset says so, at the paper's fixed scale. Every training is a run of its own in a folder
of its own: an experiment that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional

from dro_core.checks import Array, unknown
from dro_torch import data, metrics, physics
from dro_torch.losses.unbalanced import (
    LikelihoodCost,
    UnbalancedOTLoss,
    cost_scale,
    gradient_penalty_weight,
)
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.transport_map import NoisyMeasurement, TransportRestoration, fit_transport_map
from validation.errors import UsageError
from validation.experiment import Claim, user_errors
from validation.experiment import hardware as describe
from validation.results import (
    Check,
    at_least,
    new_figure,
    provenance,
    save_figure,
    table,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting

TASKS = ("deblur", "sr", "hdr", "nonlinear")
DATASETS = ("mnist", "cifar10", "caltech101")
#: Factor of super-resolution.
FACTOR = 4
#: Standard deviations of the multi-level noise, and how frequent they are.
LEVELS, SHARES = (0.05, 0.10, 0.15, 0.20), (4, 3, 2, 1)
#: Class imbalance: weights of the two halves of the classes among measurements; clean: reversed.
HALVES = (3.0, 1.0)
#: Seed of the noise of test images, apart from all training seeds.
TEST_SEED = 10**6
RESAMPLES = 2000


@dataclass(frozen=True)
class Preset:
    """Sizes of one scale of the experiment."""

    dataset: str
    images: int  #: training images, measured and clean together
    validation: int
    test: int
    steps: int
    batch: int
    map: Any  #: widths of the map
    potential: Any  #: width of the potential
    rate: float  #: of the map; the potential's is half of it
    seeds: int
    factors: tuple[float, ...]  #: of the scale of the cost, tried by every arm
    comparisons: tuple[str, ...]
    targets: bool  #: whether results are judged, or shown for information


MAIN = ("main", "imbalance", "levels")
PRESETS = {
    "smoke": Preset("mnist", 48, 4, 6, 2, 4, (2, 4), 2, 1e-3, 1, (0.1,), MAIN, False),
    "quick": Preset("mnist", 4000, 128, 500, 250, 16, "small", 8, 1e-3, 1, (0.03,), MAIN, False),
    "standard": Preset(
        "cifar10", 40000, 1000, 2000, 12000, 32, "32", "32", 2e-4, 3, (1.0, 0.3, 0.1, 0.03),
        (*MAIN, "paper-scale"), True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config(Settings):
    """What can be set from the command line; 0 and "" leave the preset's value."""

    preset: str = setting("quick", f"size: {', '.join(PRESETS)}", choices=PRESETS)
    task: str = setting("deblur", f"measurement: {', '.join(TASKS)}", choices=TASKS)
    data: str = setting("", "data root; otherwise the environment variable DRO_DATA")
    dataset: str = setting(
        "", f"images: {', '.join(DATASETS)} (64² for the last)", choices=DATASETS, unset=""
    )
    source: str = setting("jpeg60k", "files of cifar10's training images; see dro_torch.data")
    pairing: str = setting(
        "disjoint", "unpaired pools: disjoint halves, or the same images shuffled"
    )
    noise: float = setting(0.05, "standard deviation of the noise, images in [-1, 1]", low=0)
    blur: float = setting(1.5, "standard deviation of the blur in pixels", low=0)
    factors: str = setting("", "factors of the cost's scale that every arm tries: 1,0.3,0.1")
    comparisons: str = setting("", f"parts to run: {','.join((*MAIN, 'paper-scale'))}")
    steps: int = setting(0, "iterations of every arm", low=1, unset=0)
    images: int = setting(0, "training images", low=1, unset=0)
    test: int = setting(0, "test images", low=1, unset=0)
    batch: int = setting(0, "images in a batch", low=1, unset=0)
    seeds: int = setting(0, "trainings of every arm", low=1, unset=0)
    rate: float = setting(0.0, "learning rate of the map", low=0)
    device: str = setting("cpu", "torch device")
    precision: str = setting("float32", "float32 or bf16")
    seed: int = setting(0, "first seed")

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in self.size.comparisons:
            if part not in COMPARISONS:
                raise UsageError(unknown("--set comparisons", part, COMPARISONS))
        if not all(math.isfinite(factor) and factor > 0 for factor in self.size.factors):
            raise UsageError(f"--set factors: {self.factors}; allowed: numbers > 0")

    @property
    def size(self) -> Preset:
        """The preset with what was set by hand."""
        given = {name: getattr(self, name) for name in _FIELDS if getattr(self, name, None)}
        if self.factors:
            try:
                given["factors"] = tuple(float(word) for word in self.factors.split(","))
            except ValueError:
                raise UsageError(f"--set factors: {self.factors!r}; as in 1,0.3,0.1") from None
        if self.comparisons:
            given["comparisons"] = tuple(self.comparisons.split(","))
        return dataclasses.replace(PRESETS[self.preset], **given)


_FIELDS = [entry.name for entry in dataclasses.fields(Preset) if entry.name != "targets"]


# -- measurements


def forward_operator(config: Config) -> Any:
    """A of the task."""
    if config.task == "deblur":
        return physics.Convolution(physics.gaussian_kernel(config.blur), "reflect")
    if config.task == "sr":
        return physics.Downsampling(FACTOR)
    return physics.ClippedHDR() if config.task == "hdr" else physics.GammaMotionBlur()


def upsampling(config: Config) -> int:
    """How much larger signals are than measurements."""
    return FACTOR if config.task == "sr" else 1


@dataclass(frozen=True)
class Pools:
    """Training images with the half of the classes that they belong to; validation and test."""

    learn: data.IndexedDataset
    validation: data.IndexedDataset
    test: data.IndexedDataset

    def unpaired(
        self, config: Config, imbalanced: bool
    ) -> tuple[data.IndexedDataset, data.IndexedDataset]:
        """Images to be measured, and clean ones."""
        measured, clean = data.unpaired(self.learn, config.pairing, config.seed)
        if not imbalanced:  # groups are then the noise levels, not the classes
            images, pixels = self.learn.tensors[0], self.learn.value_range
            measured, clean = (
                data.IndexedDataset(images, value_range=pixels, index=pool.index)
                for pool in (measured, clean)
            )
            return measured, clean
        pools = []
        for pool, weights in ((measured, HALVES), (clean, HALVES[::-1])):
            half = pool.tensors[1][pool.index]
            pools.append(data.imbalanced(pool, half, dict(enumerate(weights)), config.seed))
        return pools[0], pools[1]


def load_images(config: Config) -> Pools:
    """Images in [-1, 1], MNIST extended to 32 x 32 pixels; test images are never trained with."""
    size, root = config.size, config.data or None
    if size.dataset == "mnist":
        found = [data.mnist(split, root) for split in ("train", "test")]
    elif size.dataset == "cifar10":
        found = [data.cifar10("train", root, config.source, "lossless4k"),
                 data.cifar10("test", root, "lossless4k")]  # fmt: skip
    else:
        found = [data.caltech101(split, root) for split in ("train", "test")]
    sets = []
    for entry in found:
        images = entry.images
        if size.dataset == "mnist":
            images = functional.pad(images, (2, 2, 2, 2))
        half = (2 * entry.labels >= len(entry.classes)).long()
        sets.append(data.IndexedDataset(images, half, value_range=(-1.0, 1.0)))
    whole, test = sets
    order = np.random.default_rng((config.seed, 1)).permutation(len(whole))
    kept = torch.from_numpy(order[: size.images + size.validation])
    cut = max(4, len(kept) - size.validation)
    return Pools(whole.subset(kept[:cut]), whole.subset(kept[cut:]),
                 test.subset(torch.arange(min(size.test, len(test)))))  # fmt: skip


def wiener(config: Config, clean: data.IndexedDataset) -> Callable[[Tensor], Tensor]:
    r"""The linear filter of least mean squared error, :math:`S k/(S k^2+\sigma^2)` per frequency.

    Frequencies are those of the cosine transform, which a symmetric kernel with reflecting edges is
    diagonal in; the power S and the mean are those of the clean pool.
    """
    images = clean[torch.arange(min(2000, len(clean)))][1].double().numpy()
    mean = images.mean(0)
    power = (fft.dctn(images - mean, axes=(-2, -1), norm="ortho") ** 2).mean(0)
    blurred_mean = forward_operator(config).A(torch.from_numpy(mean)[None])[0].numpy()
    gain = blur_spectrum(config.blur, images.shape[-2:])
    filtered = power * gain / (power * gain**2 + config.noise**2 + 1e-12)

    def restore(y: Tensor) -> Tensor:
        given = fft.dctn(y.double().cpu().numpy() - blurred_mean, axes=(-2, -1), norm="ortho")
        found = mean + fft.idctn(filtered * given, axes=(-2, -1), norm="ortho")
        return torch.from_numpy(found).to(y)

    return restore


def blur_spectrum(width: float, shape: Sequence[int]) -> Array:
    """Eigenvalues of the blur in the basis of the cosine transform."""
    line = physics.gaussian_kernel(width, dimensions=1).numpy()
    offset = np.arange(len(line)) - len(line) // 2
    rows, columns = (np.cos(np.pi * np.outer(np.arange(n), offset) / n) @ line for n in shape)
    return np.outer(rows, columns)


# -- arms


@dataclass(frozen=True)
class Arm:
    """One way of training: the cost's terms, the divergence, and what is measured."""

    name: str
    divergence: str = "kl"
    likelihood: float = 1.0
    quadratic: float = 1.0
    part: str = "main"  #: the comparison that it belongs to

    @property
    def scale(self) -> float:
        """Of the cost, before factors: total cost is matched, except at the paper's scale."""
        total = 1.0 if self.part == "paper-scale" else (self.likelihood + self.quadratic) / 2
        return 1.0 / total


COMPARISONS = {
    "main": [Arm("ISUM"), Arm("OT variant", "balanced"),
             Arm("quadratic only", likelihood=0.0), Arm("likelihood only", quadratic=0.0)],
    "imbalance": [Arm("ISUM, imbalanced", part="imbalance"),
                  Arm("OT, imbalanced", "balanced", part="imbalance")],
    "levels": [Arm("ISUM, levels", part="levels"),
               Arm("OT, levels", "balanced", part="levels")],
    "paper-scale": [Arm("ISUM, paper scale", part="paper-scale"),
                    Arm("quadratic only, paper scale", likelihood=0.0, part="paper-scale"),
                    Arm("likelihood only, paper scale", quadratic=0.0, part="paper-scale")],
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """One training of an arm."""

    arm: Arm
    factor: float
    seed: int
    restoration: TransportRestoration
    seconds: float

    @property
    def validation(self) -> dict[str, float]:
        """The last row: PSNR and weights."""
        assert self.restoration.training is not None
        return self.restoration.training.validation[-1]


def measurement(config: Config, part: str) -> NoisyMeasurement:
    """Noise of a comparison's measurements."""
    levels, shares = (LEVELS, SHARES) if part == "levels" else ((config.noise,), (1,))
    return NoisyMeasurement(forward_operator(config).to(config.device), levels, shares)


def fit_arm(config: Config, pools: Pools, arm: Arm, factor: float, seed: int, out: Path) -> Trained:
    """Train one arm, or go on with it, or read it when it is finished."""
    size = config.size
    measured, clean = pools.unpaired(config, arm.part == "imbalance")
    measure = measurement(config, arm.part)
    channels, side = clean.tensors[0].shape[1:3]
    entries = channels * side * side
    generator = torch.Generator().manual_seed(seed)
    factor_up = upsampling(config)
    transport = TransportMap(channels, size.map, upsample=factor_up, generator=generator)
    potential = Potential(channels, int(side), size.potential, generator=generator)
    cost = LikelihoodCost(
        measure.forward, arm.likelihood, arm.quadratic,
        factor * arm.scale * cost_scale(entries), factor_up if factor_up > 1 else None,
    )  # fmt: skip
    loss = UnbalancedOTLoss(
        cost, arm.divergence, centre_cost=True, gradient_penalty=gradient_penalty_weight(entries)
    )
    index, x, *_ = pools.validation[torch.arange(len(pools.validation))]
    index, x = index.to(config.device), x.to(config.device)
    y, _ = measure(x, index, seed=TEST_SEED, step=0)
    name = f"{config.task}-{size.dataset}-{arm.name}-{factor:g}-{seed}".replace(" ", "_")
    folder = out / "arms" / name.replace(",", "")
    start, clock = time.perf_counter(), folder / "seconds.json"
    before = json.loads(clock.read_text())["seconds"] if clock.exists() else 0.0
    print(f"{arm.name}, scale x {factor:g}, seed {seed}")
    try:
        restoration = fit_transport_map(
            transport, potential, loss, measured, clean, size.steps, seed=seed, measure=measure,
            batch_size=size.batch, map_rate=size.rate, potential_rate=size.rate / 2,
            final_gradient_penalty=0.0, validation=(y, x),
            validate_every=max(1, size.steps // 10), folder=folder, device=config.device,
            precision=config.precision, checkpoint_every=max(1, size.steps // 10),
            log_every=max(1, min(50, size.steps // 5)),
            config={"pairing": config.pairing, "task": config.task, "blur": config.blur},
        )  # fmt: skip
    finally:
        spent = before + time.perf_counter() - start
        write_json(clock, {"seconds": spent})
    return Trained(arm, factor, seed, restoration, spent)


def fit_arms(config: Config, pools: Pools, out: Path) -> tuple[list[Trained], list[Trained]]:
    """All seeds of every arm at the scale that validation prefers; and everything that was tried.

    The first seed tries every factor: the same budget for every arm.
    """
    size, chosen, tried = config.size, [], []
    for part in size.comparisons:
        for arm in COMPARISONS[part]:
            factors = (1.0,) if part == "paper-scale" else size.factors
            runs = [fit_arm(config, pools, arm, factor, config.seed, out) for factor in factors]
            best = max(runs, key=lambda run: run.validation["PSNR"])
            more = [fit_arm(config, pools, arm, best.factor, config.seed + i, out)
                    for i in range(1, size.seeds)]  # fmt: skip
            tried += [*runs, *more]
            chosen += [best, *more]
    return chosen, tried


# -- what came out


@dataclass(frozen=True)
class Scores:
    """PSNR of every test image: {(arm, level): (seeds, images)}; the halves of their classes."""

    values: dict[tuple[str, float], Array]
    similarity: dict[tuple[str, float], float]
    half: Array


def evaluate(config: Config, pools: Pools, arms: Sequence[Trained]) -> Scores:
    """All arms and floors on the same noisy test images, at every level that they are made for."""
    index, x, half = pools.test[torch.arange(len(pools.test))]
    index, x = index.to(config.device), x.to(config.device)
    values: dict[tuple[str, float], list[Array]] = {}
    similarity: dict[tuple[str, float], list[float]] = {}
    parts = config.size.comparisons
    levels = sorted({config.noise} | set(LEVELS if "levels" in parts else ()))

    def keep(name: str, level: float, found: Tensor) -> None:
        found = found.clamp(-1, 1)
        score = metrics.psnr(x, found, 2.0).double().cpu().numpy()
        values.setdefault((name, level), []).append(score)
        similarity.setdefault((name, level), []).append(float(metrics.ssim(x, found, 2.0).mean()))

    _, clean = pools.unpaired(config, False)
    enlarged = physics.Upsampling(upsampling(config))
    for level in levels:
        used = NoisyMeasurement(forward_operator(config).to(config.device), (level,))
        y, _ = used.at(x, index, 0, seed=TEST_SEED + 1, step=0)
        keep("measurement", level, enlarged(y))
        if config.task == "deblur":
            keep("Wiener", level, wiener(dataclasses.replace(config, noise=level), clean)(y))
        for arm in arms:
            made_for = LEVELS if arm.arm.part == "levels" else (config.noise,)
            if level in made_for:
                keep(arm.arm.name, level, arm.restoration.to(config.device).restore(y))
    return Scores({key: np.stack(found) for key, found in values.items()},
                  {key: float(np.mean(found)) for key, found in similarity.items()},
                  half.numpy())  # fmt: skip


def interval(values: Array, seed: int = 0) -> tuple[float, float, float]:
    """Mean of (seeds, images) and 95 % bootstrap interval over both; of images for one seed."""
    rng = np.random.default_rng(seed)
    rows, columns = (  # how often each seed and each image is drawn
        rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in values.shape
    )
    means = ((rows @ values) * columns).sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def claim(title: str, difference: Array) -> Claim:
    """A claim that a difference of (seeds, images) has a mean above zero."""
    mean, low, high = interval(difference)
    return Claim(title, mean, (high - low) / 2, low=0.0)


def verdict(judged: Claim) -> str:
    """Whether the claim's interval lies on one side of zero."""
    if abs(judged.value) <= judged.band:
        return "undecided"
    return "holds" if judged.holds else "does not hold"


def claims_of(config: Config, scores: Scores, arms: Sequence[Trained]) -> list[Claim]:
    """Claims of the paper and controls, as differences of PSNR in decibels."""
    parts, at = config.size.comparisons, config.noise

    def difference(one: str, other: str, level: float = at) -> Array:
        return scores.values[one, level] - scores.values[other, level]

    found = []
    if "main" in parts:
        found.append(claim("control: ISUM over the measurement", difference("ISUM", "measurement")))
        if config.task == "deblur":
            found.append(claim("control: ISUM over Wiener", difference("ISUM", "Wiener")))
        found.append(claim("ISUM over its OT variant", difference("ISUM", "OT variant")))
        for term in ("quadratic only", "likelihood only"):
            title = f"both terms over {term}, matched total cost"
            found.append(claim(title, difference("ISUM", term)))
    if "paper-scale" in parts:
        for term in ("quadratic only", "likelihood only"):
            one, other = (f"{name}, paper scale" for name in ("ISUM", term))
            found.append(claim(f"both terms over {term}, paper's scale", difference(one, other)))
    if "imbalance" in parts:
        gained = difference("ISUM, imbalanced", "OT, imbalanced")
        found.append(claim("class imbalance: ISUM over OT", gained))
        for half, name in ((0, "frequent"), (1, "rare")):
            if (scores.half == half).any():
                title = f"class imbalance, classes {name} among measurements: ISUM over OT"
                found.append(claim(title, gained[:, scores.half == half]))
    if "levels" in parts:
        gains = [difference("ISUM, levels", "OT, levels", level) for level in LEVELS]
        mixed = np.average(np.stack(gains), axis=0, weights=SHARES)
        found.append(claim("multi-level noise, mean over levels 4:3:2:1: ISUM over OT", mixed))
        found.append(claim("multi-level noise, noisiest level: ISUM over OT", gains[-1]))
    return found


def rows_of(scores: Scores, arms: Sequence[Trained]) -> list[dict[str, Any]]:
    """One row per arm and level."""
    rows = []
    for (name, level), values in scores.values.items():
        runs = [run for run in arms if run.arm.name == name]
        mean, low, high = interval(values)
        row: dict[str, Any] = {
            "arm": name, "noise": level, "factor": runs[0].factor if runs else "",
            "seeds": len(values), "psnr": mean, "psnr_low": low, "psnr_high": high,
            "ssim": scores.similarity[name, level],
        }  # fmt: skip
        for half in (0, 1):
            kept = values[:, scores.half == half]
            row[f"psnr_half_{half}"] = float(kept.mean()) if kept.size else ""
        group = LEVELS.index(level) if runs and runs[0].arm.part == "levels" else 0
        key = f"weight {group}"
        row["weight"] = float(np.mean([r.validation[key] for r in runs])) if runs else ""
        rows.append(row)
    return rows


def training_rows(tried: Sequence[Trained]) -> list[dict[str, Any]]:
    """One row per training: validation PSNR at the end and at its best, mean weights per group."""
    rows = []
    for run in tried:
        assert run.restoration.training is not None
        best = max(run.restoration.training.validation, key=lambda row: row["PSNR"])
        weights = [f"{run.validation.get(f'weight {g}', math.nan):.6g}" for g in range(len(LEVELS))]
        rows.append({
            "arm": run.arm.name, "factor": run.factor, "seed": run.seed,
            "validation_psnr": run.validation["PSNR"], "best_validation_psnr": best["PSNR"],
            "best_step": best["step"],
            "weights": " ".join(w for w in weights if w != "nan"), "seconds": run.seconds,
        })  # fmt: skip
    return rows


def plot(
    path: Path, config: Config, rows: Sequence[dict[str, Any]], arms: Sequence[Trained]
) -> None:
    """PSNR of all arms; validation while training; PSNR and weights by level."""
    canvas, axes = new_figure(3)
    shown = [row for row in rows if row["noise"] == config.noise]
    for place, row in enumerate(shown):
        ends = [[row["psnr"] - row["psnr_low"]], [row["psnr_high"] - row["psnr"]]]
        axes[0, 0].errorbar(row["psnr"], place, xerr=ends, fmt="o", color="C0")
    axes[0, 0].set_yticks(range(len(shown)), [row["arm"] for row in shown], fontsize=7)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set(xlabel=f"PSNR in dB at σ = {config.noise:g}, 95 % interval")
    for run in arms:
        if run.seed == config.seed:
            assert run.restoration.training is not None
            history = run.restoration.training.validation
            axes[0, 1].plot([row["step"] for row in history], [row["PSNR"] for row in history],
                            label=run.arm.name)  # fmt: skip
    axes[0, 1].set(xlabel="iteration", ylabel="validation PSNR in dB")
    axes[0, 1].legend(fontsize=6)
    for name in dict.fromkeys(row["arm"] for row in rows):
        line = [row for row in rows if row["arm"] == name]
        if len(line) > 1:
            label = name
            if line[-1]["weight"] != "":
                weights = ", ".join(f"{row['weight']:.2g}" for row in line)
                label = f"{name}; weights {weights}"
            axes[0, 2].plot([row["noise"] for row in line], [row["psnr"] for row in line], ".-",
                            label=label)  # fmt: skip
    if axes[0, 2].lines:
        axes[0, 2].legend(fontsize=6)
    axes[0, 2].set(xlabel="standard deviation of the noise", ylabel="PSNR in dB")
    save_figure(path, canvas)


def plot_examples(path: Path, config: Config, pools: Pools, arms: Sequence[Trained]) -> None:
    """Four test images: true, measured, restored. Not for Caltech-101, which shows people."""
    _, x, _ = pools.test[torch.arange(min(4, len(pools.test)))]
    index = pools.test.index[: len(x)]
    measure = NoisyMeasurement(forward_operator(config), (config.noise,))
    y, _ = measure.at(x, index, 0, seed=TEST_SEED + 1, step=0)
    panels = [("true", x), ("measured", y)]
    if config.task == "deblur":
        panels.append(("Wiener", wiener(config, pools.unpaired(config, False)[1])(y)))
    for run in arms:
        if run.arm.part == "main" and run.seed == config.seed:
            panels.append((run.arm.name, run.restoration.to("cpu").restore(y)))
    canvas, axes = new_figure(len(panels), len(x), width=1.3, height=1.4)
    for axis_row, i in zip(axes, range(len(x)), strict=True):
        for axis, (title, images) in zip(axis_row, panels, strict=True):
            picture = ((images[i].clamp(-1, 1) + 1) / 2).movedim(0, -1).squeeze(-1)
            axis.imshow(picture.detach().cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()
    save_figure(path, canvas)


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, measure, judge; written to `out`."""
    try:
        pools = load_images(config)
    except FileNotFoundError as error:
        raise ChildProcessError(str(error)) from error
    arms, tried = fit_arms(config, pools, out)
    scores = evaluate(config, pools, arms)
    rows, trainings = rows_of(scores, arms), training_rows(tried)
    claims = claims_of(config, scores, arms)
    write_csv(out / "results.csv", rows)
    write_csv(out / "training.csv", trainings)
    plot(out / "isum", config, rows, arms)
    if config.size.dataset != "caltech101":
        plot_examples(out / "examples", config, pools, arms)
    judged = [{**dataclasses.asdict(c), "verdict": verdict(c)} for c in claims]
    print("\n" + table([("arm", "σ", "PSNR", "95 %", "SSIM", "weight"), *(
        (r["arm"], f"{r['noise']:g}", f"{r['psnr']:.2f}",
         f"{r['psnr_low']:.2f} to {r['psnr_high']:.2f}", f"{r['ssim']:.3f}",
         f"{r['weight']:.3g}" if r["weight"] != "" else "") for r in rows)]))  # fmt: skip
    print("\n" + table([("PSNR difference in dB", "mean", "", "verdict"), *(
        (c.claim, f"{c.value:+.2f}", f"± {c.band:.2f}", verdict(c)) for c in claims)]))  # fmt: skip
    numbers = [v for row in (*rows, *trainings) for v in row.values() if isinstance(v, float)]
    wanted = sum(len(COMPARISONS[part]) for part in config.size.comparisons) * config.size.seeds
    checks = [
        at_least("numbers in the tables that are finite, share", np.isfinite(numbers).mean(), 1.0),
        at_least("trainings at the chosen scale", len(arms), wanted),
    ]
    if config.size.targets and "main" in config.size.comparisons:
        checks.append(at_least("ISUM over the measurement, dB", claims[0].value, claims[0].band))
    else:
        print(f"(preset {config.preset}: for information, no targets)")
    write_json(out / "isum.json", {
        **provenance("isum", dataclasses.replace(config, data="")), "torch": torch.__version__,
        "device": describe(config.device), "size": dataclasses.asdict(config.size),
        "claims": judged, "results": rows, "training": trainings, "checks": checks,
    })  # fmt: skip
    return checks
