"""What the MNIST experiments share: presets, tasks, arms, training, measurement, claims.

An experiment trains *arms*, the same network with different losses, and measures all of them on
the same noisy test sets. Every arm is one run of `dro_torch.training.fit` in a folder of its own,
so an experiment that was killed goes on where it was, and arms that are finished are read.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dro_core import radius_of_noise, radius_of_poisson_noise
from dro_core.checks import unknown
from dro_torch import (
    EntropicDROLoss,
    LinearisedDROLoss,
    Multiplier,
    WassersteinDROLoss,
    certificate_curve,
    data,
    forward_residual,
    metrics,
    nets,
    physics,
    reconstruction_residual,
    training,
)
from dro_torch.keyed_noise import standard_normal
from dro_torch.residual import MovedSamples
from dro_torch.structure import as_structure
from validation.errors import mendable
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

#: What the user's data and folders can cause: damaged files, and runs with other settings.
user_errors = mendable(data.DataFileError, training.CheckpointError)

SIDE = 28
PIXELS = SIDE * SIDE
#: Standard deviation of the blur; the paper's value is lost.
BLUR = 1.5


@dataclass(frozen=True)
class Preset:
    """Sizes of one scale of the experiments."""

    images: int  #: training images
    validation: int
    test: int  #: test images from which every trial draws
    steps: int
    batch: int
    width: int
    depth: int
    samples: int  #: draws K of the entropic loss
    trials: int
    trial_images: int
    directions: int  #: of the stability
    attacked: int  #: images that are attacked and certified
    attack_radii: tuple[float, ...]  #: radius 2 among them
    targets: bool  #: whether claims are judged, or shown for information


#: Radii of the attacks.
RADII = (0.5, 1.0, 2.0, 4.0)
PRESETS = {
    "smoke": Preset(48, 16, 24, 3, 8, 2, 1, 2, 2, 8, 2, 4, (2.0,), False),
    "quick": Preset(4000, 256, 1000, 250, 32, 6, 2, 4, 5, 200, 10, 32, RADII, False),
    "standard": Preset(20000, 2000, 5000, 6000, 128, 24, 3, 8, 5, 1000, 10, 200, RADII, True),
    "paper": Preset(50000, 10000, 10000, 40000, 128, 64, 4, 16, 10, 1000, 10, 1000, RADII, True),
}


@dataclass(frozen=True)
class Config(Settings):
    """What can be set from the command line; 0 leaves the preset's value."""

    preset: str = setting("quick", f"size: {', '.join(PRESETS)}", choices=PRESETS)
    data: str = setting("", "data root with mnist/; otherwise the environment variable DRO_DATA")
    models: str = setting(
        "", "folder of trained arms to use and extend; default: the output folder"
    )
    select: bool = setting(False, "choose ε, ρ̄ and the baseline's noise on validation images")
    bisect: bool = setting(False, "train once with the paper's bisection of λ")
    frontier: bool = setting(False, "train the other losses too (always where there are targets)")
    epsilon: float = setting(
        0.08, "entropy weight ε of the DRO arms, in squared units of the data", low=0, zero="0"
    )
    radius: float = setting(1.0, "adjusted radius ρ̄ of the DRO arms, in units of the data", low=0)
    noise: float = setting(
        0.1, "standard deviation of the noise that the MSE baseline trains with", low=0
    )
    steps: int = setting(0, "training steps of every arm", low=1, unset=0)
    width: int = setting(0, "channels of the U-Net at full resolution", low=1, unset=0)
    images: int = setting(0, "training images", low=1, unset=0)
    rate: float = setting(2e-3, "largest learning rate")
    device: str = setting("cpu", "torch device")
    precision: str = setting("float32", "float32 or bf16")
    seed: int = setting(0, "seed")

    @property
    def size(self) -> Preset:
        """The preset with what was set by hand."""
        chosen = {name: getattr(self, name) for name in ("steps", "width", "images")}
        return dataclasses.replace(
            PRESETS[self.preset], **{name: value for name, value in chosen.items() if value}
        )


# -- tasks


@dataclass(frozen=True)
class Task:
    """What is learned: from images to (input, target) of the network.

    ``role`` is "reconstruction" (input Ax, target x) or "simulation" (input x, target Ax).
    """

    name: str
    network: Callable[[Preset, torch.Generator], nn.Module]
    role: str = "reconstruction"
    forward: Any = field(default_factory=lambda: blur(BLUR))

    @property
    def structure(self) -> str:
        """The variable that is the network's input moves."""
        return "y|x" if self.role == "reconstruction" else "x|y"

    @property
    def residual(self) -> Any:
        """What the losses measure."""
        return reconstruction_residual if self.role == "reconstruction" else forward_residual

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(x, y) without noise."""
        return images, self.forward(images)

    def input_and_target(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees, and what it should give."""
        x, y = self.pair(images)
        return (y, x) if self.role == "reconstruction" else (x, y)


def blur(width: float, size: int = 9) -> physics.Convolution:
    """The paper's forward operator: Gaussian blur with zeros outside ("same" padding)."""
    return physics.Convolution(physics.gaussian_kernel(width, size=size), "zero")


def unet(size: Preset, generator: torch.Generator) -> nn.Module:
    """The U-Net of §6.3."""
    return nets.UNet(1, 1, size.depth, size.width, generator=generator)


def mlp(size: Preset, generator: torch.Generator) -> nn.Module:
    """The MLP of §6.3.2, with dropout."""
    hidden = 32 * size.width
    return nets.MLP([PIXELS, hidden, hidden, PIXELS], dropout=0.1, generator=generator)


# -- arms


@dataclass(frozen=True)
class Arm:
    """One way of training: a loss with its settings. `kind` "mse" trains on noisy inputs."""

    name: str
    kind: str
    noise: float = 0.0
    epsilon: float = 0.0
    radius: float = 0.0
    multiplier: float = 0.0  #: fixed λ; 0: learned
    structure: str = ""  #: of the ambiguity set; default: the input moves
    options: dict[str, Any] = field(default_factory=dict)
    steps_share: float = 1.0

    def criterion(self, task: Task, size: Preset) -> Any:
        """The loss of `dro_torch`, or the mean squared error."""
        structure = self.structure or task.structure
        if self.kind == "mse":
            return _MeanSquaredError(task.residual)
        if self.kind == "entropic":
            return EntropicDROLoss(
                self.epsilon, structure, self.options.get("samples", size.samples),
                residual=task.residual, **{k: v for k, v in self.options.items() if k != "samples"},
            )  # fmt: skip
        if self.kind == "wasserstein":
            return WassersteinDROLoss(structure, residual=task.residual, **self.options)
        if self.kind == "linearised":
            return LinearisedDROLoss(structure, residual=task.residual, **self.options)
        if self.kind == "adversarial":
            return _AdversarialTraining(task.residual, structure, self.radius, **self.options)
        if self.kind == "jacobian":
            return _JacobianPenalty(task.residual, **self.options)
        kinds = ("mse", "entropic", "wasserstein", "linearised", "adversarial", "jacobian")
        raise ValueError(unknown("kind", self.kind, kinds))

    @property
    def has_multiplier(self) -> bool:
        """Whether the loss is a dual at a multiplier."""
        return self.kind in ("entropic", "wasserstein", "linearised")


class _MeanSquaredError(nn.Module):
    def __init__(self, residual: Any) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """Mean over samples of the squared norm of the residual."""
        return self.residual(model, x, y).float().square().flatten(1).sum(1).mean()


class _AdversarialTraining(nn.Module):
    """Mean loss at the ends of projected gradient ascent within a ball for every sample."""

    def __init__(self, residual: Any, structure: str, radius: float, steps: int = 3) -> None:
        super().__init__()
        self.residual, self.structure, self.radius, self.steps = residual, structure, radius, steps

    def forward(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """The attack starts at zero; its displacement is detached."""
        moved = MovedSamples(model, x, y, as_structure(self.structure), self.residual)
        point = torch.zeros(len(x), 1, moved.size, dtype=x.dtype, device=x.device)
        for _ in range(self.steps):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                (slope,) = torch.autograd.grad(moved.losses(point).sum(), point)
            point = point + 2 * self.radius / self.steps * nn.functional.normalize(slope, dim=2)
            length = torch.linalg.vector_norm(point, dim=2, keepdim=True)
            point = (point * (self.radius / length.clamp(min=self.radius))).detach()
        return moved.losses(point).mean()


class _JacobianPenalty(nn.Module):
    """Mean squared error plus weight · ‖J‖_F², estimated with one random direction."""

    def __init__(self, residual: Any, weight: float = 0.05) -> None:
        super().__init__()
        self.residual, self.weight = residual, weight

    def forward(
        self, model: Any, x: Tensor, y: Tensor, *, index: Tensor, seed: int, step: int
    ) -> Tensor:
        """The direction is keyed by the sample."""
        reconstructs = self.residual is reconstruction_residual
        point = (y if reconstructs else x).detach().requires_grad_()
        pair = (x, point) if reconstructs else (point, y)
        residual = self.residual(model, *pair).flatten(1)
        shape = residual.shape
        direction = standard_normal(index, 1, shape[1], seed=seed, step=step, dtype=x.dtype)[:, 0]
        (slope,) = torch.autograd.grad((residual * direction).sum(), point, create_graph=True)
        penalty = slope.flatten(1).square().sum(1).mean()
        return residual.square().sum(1).mean() + self.weight * penalty


@dataclass(frozen=True)
class Trained:
    """A trained arm: the network in evaluation mode, its multiplier, and the run's history."""

    arm: Arm
    model: nn.Module
    multiplier: float
    seconds: float
    history: list[dict[str, float]]
    gradient_evaluations: int


def digits(config: Config) -> tuple[data.IndexedDataset, data.IndexedDataset, data.IndexedDataset]:
    """Training, validation and test images; the first two never see the test files."""
    size, root = config.size, config.data or None
    whole = data.IndexedDataset(data.mnist("train", root).images)
    total = len(whole)
    learn, check = data.split(whole, [size.images / total, size.validation / total], config.seed)
    test = data.IndexedDataset(data.mnist("test", root).images)
    return learn, check, test.subset(torch.arange(min(size.test, len(test))))


def description(config: Config, task: Task, learn: data.IndexedDataset, arm: Arm) -> dict[str, str]:
    """Everything that a trained arm depends on: sizes, loss, operator, images, optimiser."""
    size = config.size
    names = ("images", "validation", "steps", "batch", "width", "depth", "samples")
    described = {name: getattr(size, name) for name in names}
    described |= {**dataclasses.asdict(arm), "rate": config.rate, "precision": config.precision}
    described |= {"task": task.name, "role": task.role, "seed": config.seed}
    images = learn[torch.arange(len(learn))][1]
    probe = torch.zeros(1, 1, SIDE, SIDE)
    probe[..., SIDE // 2, SIDE // 2] = probe[..., 0, 0] = 1.0
    response = copy.deepcopy(task.forward).to("cpu")(probe)
    described["forward"] = [f"{value:.5g}" for value in response[response != 0].tolist()]
    described["pixels"] = zlib.crc32(images.mul(255).round().to(torch.uint8).numpy().tobytes())
    return {key: str(value) for key, value in described.items()}


def stored(out: Path, name: str, described: Mapping[str, str]) -> Path:
    """The folder of a trained arm: its name, and a digest of what it depends on."""
    text = json.dumps(dict(described), sort_keys=True)
    return out / "arms" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def fit_arm(config: Config, task: Task, arm: Arm, learn: data.IndexedDataset, out: Path) -> Trained:
    """Train one arm, or go on with it, or read it when it is finished."""
    size = config.size
    generator = torch.Generator().manual_seed(config.seed)
    model = task.network(size, generator)
    forward = task.forward.to(config.device)
    multiplier: Any = None
    if arm.has_multiplier:
        first = arm.multiplier or 20.0
        multiplier = Multiplier(arm.radius, first, trainable=not arm.multiplier, lower=0.1)
    steps = max(1, round(size.steps * arm.steps_share))

    def pairs(batch: Any, context: training.StepContext) -> tuple[Tensor, Tensor]:
        x, y = batch[0], forward(batch[0])
        if arm.noise:
            noisy = y if task.role == "reconstruction" else x
            drawn = standard_normal(context.index, 1, PIXELS, seed=context.seed, step=context.step,
                                    stream=9, dtype=x.dtype)  # fmt: skip
            noisy = noisy + arm.noise * drawn.reshape(noisy.shape)
            x, y = (x, noisy) if task.role == "reconstruction" else (noisy, y)
        return x, y

    learned = arm.has_multiplier and not arm.multiplier
    phase = training.reconstruction_phase(
        model, arm.criterion(task, size), multiplier if learned else (arm.multiplier or None),
        pairs=pairs, gradient_clip={"model": 100.0 * math.sqrt(PIXELS)},
        rate={"model": config.rate, **({"multiplier": 0.02} if learned else {})},
    )  # fmt: skip
    described = description(config, task, learn, arm)
    folder = stored(out, f"{task.name}-{arm.name}-{config.preset}-{config.seed}", described)
    start = time.perf_counter()
    result = training.fit(
        phase, data.Batches(learn, min(size.batch, len(learn)), config.seed), steps,
        seed=config.seed, folder=folder, device=config.device, precision=config.precision,  # type: ignore[arg-type]
        warmup=min(max(1, steps // 20), steps - 1), checkpoint_every=max(50, steps // 10),
        config=described, log_every=max(1, min(50, steps // 5)),
    )  # fmt: skip
    if result.interrupted:
        raise KeyboardInterrupt
    clock = folder / "seconds.json"
    spent = time.perf_counter() - start
    if clock.exists():
        spent = max(spent, float(json.loads(clock.read_text())["seconds"]))
    write_json(clock, {"seconds": spent})
    value = arm.multiplier or (float(multiplier().detach()) if learned else 0.0)
    model.eval()
    return Trained(arm, model, value, spent, result.history, steps)


def fit_arms(config: Config, task: Task, arms: Sequence[Arm], out: Path) -> list[Trained]:
    """All arms; models are kept under `--set models=` or the output folder."""
    learn, _, _ = digits(config)
    where = Path(config.models) if config.models else out
    return [fit_arm(config, task, arm, learn, where) for arm in arms]


# -- measurement

#: Standard deviations of the Gaussian noise, and photons of the Poisson noise (many: little noise).
GAUSSIAN = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
PHOTONS = (1000.0, 100.0, 30.0, 10.0, 5.0)


def noises(kind: str) -> dict[float, Any]:
    """Noise by level; level 0 is none."""
    if kind == "gaussian":
        return {s: physics.GaussianNoise(s) if s else None for s in GAUSSIAN}
    return {p: physics.PoissonNoise(p, low=0.0, high=1.0) for p in PHOTONS}


def measure(
    config: Config, task: Task, arms: Sequence[Trained], test: data.IndexedDataset,
    kind: str = "gaussian", forward: Any = None, naive: Any = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """RMSE and stability of every arm at every noise level, over trials on random test subsets.

    `forward` replaces the operator that made the training data (misspecified operators); `naive`
    adds a row for a fixed map from inputs to outputs.
    """
    size, rows = config.size, []
    used = dataclasses.replace(task, forward=(forward or task.forward).to(config.device))
    maps = [(arm.arm.name, arm.model) for arm in arms]
    if naive is not None:
        maps.append(("naive", naive))
    for level, noise in noises(kind).items():
        scores: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in maps}
        if kind == "gaussian":
            radius = radius_of_noise(level**2, PIXELS)
        else:
            some = used.input_and_target(test[torch.arange(min(200, len(test)))][1])[0]
            clean = some.clamp(min=0.0).flatten(1).double().cpu().numpy()
            radius = radius_of_poisson_noise(clean, level)
        for trial in range(size.trials):
            generator = torch.Generator().manual_seed(1000 * config.seed + trial)
            count = min(size.trial_images, len(test))
            chosen = torch.randperm(len(test), generator=generator)[:count]
            images = test[chosen][1].to(config.device)
            given, target = used.input_and_target(images)
            if noise is not None:
                given = given.clamp(min=0.0) if kind == "poisson" else given
                given = noise(given, generator=generator)
            few = given[: min(50, len(given))]
            for name, model in maps:
                with torch.no_grad():
                    error = torch.cat([
                        metrics.rmse(b, model(a))
                        for a, b in zip(given.split(250), target.split(250), strict=True)
                    ])  # fmt: skip
                    spread = metrics.stability(model, few, 0.1, size.directions)
                scores[name].append((float(error.mean()), float(spread.mean())))
        for name, _ in maps:
            errors, spreads = np.array(scores[name]).T
            rows.append({
                "arm": name, "noise": kind, "level": level,
                "rmse": float(errors.mean()), "rmse_sd": float(errors.std(ddof=1)),
                "stability": float(spreads.mean()), "stability_sd": float(spreads.std(ddof=1)),
                "radius_of_noise": radius,
            })  # fmt: skip
    return rows


def attack(
    config: Config, task: Task, arms: Sequence[Trained], test: data.IndexedDataset
) -> list[dict[str, Any]]:
    """Worst-case RMSE within radii (the lower end of `certify`), and the certified upper end."""
    images = test[torch.arange(min(config.size.attacked, len(test)))][1].to(config.device)
    x, y = task.pair(images)
    rows = []
    for arm in arms:
        residual = None if task.role == "reconstruction" else task.residual
        found = certificate_curve(
            arm.model, x, y, config.size.attack_radii, task.structure, steps=10, residual=residual
        )
        for entry in found:
            rows.append({
                "arm": arm.arm.name, "radius": entry.radius,
                "attack_rmse": math.sqrt(entry.lower / PIXELS),
                "clean_rmse": math.sqrt(entry.nominal / PIXELS),
                "certified_rmse": math.nan if entry.upper is None
                else math.sqrt(entry.upper / PIXELS),
                "lipschitz": math.nan if entry.lipschitz is None else entry.lipschitz,
            })  # fmt: skip
    return rows


# -- output


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or a control, with our number; it holds within [low, high]."""

    claim: str
    value: float
    band: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def holds(self) -> bool:
        """Never for NaN."""
        return self.low <= self.value <= self.high


def by_level(rows: Sequence[dict[str, Any]], arm: str, column: str) -> dict[float, float]:
    """One arm's numbers by noise level (or radius)."""
    key = "level" if "level" in rows[0] else "radius"
    return {row[key]: row[column] for row in rows if row["arm"] == arm}


def ratio(
    rows: Sequence[dict[str, Any]], arm: str, other: str, level: float, column: str = "rmse"
) -> tuple[float, float]:
    """arm / other at a level, with its standard deviation over the trials."""
    a, b = by_level(rows, arm, column)[level], by_level(rows, other, column)[level]
    if f"{column}_sd" not in rows[0]:
        return a / b, 0.0
    sa, sb = (by_level(rows, name, f"{column}_sd")[level] for name in (arm, other))
    return a / b, a / b * math.hypot(sa / a, sb / b)


def finish(
    name: str, config: Config, out: Path, arms: Sequence[Trained], claims: Sequence[Claim],
    tables: Mapping[str, Sequence[dict[str, Any]]],
) -> list[Check]:  # fmt: skip
    """Write tables, claims and checks. At presets without targets claims are for information."""
    for title, rows in tables.items():
        write_csv(out / f"{title}.csv", list(rows))
    training_rows = [
        {"arm": a.arm.name, "kind": a.arm.kind, "multiplier": a.multiplier, "seconds": a.seconds,
         "steps": a.gradient_evaluations, "last_loss": a.history[-1]["loss"] if a.history else 0.0}
        for a in arms
    ]  # fmt: skip
    write_csv(out / "training.csv", training_rows)
    shown = [("claim", "number", "band", "allowed", "holds")]
    for claim in claims:
        allowed = f"[{claim.low:g}, {claim.high:g}]"
        holds = "yes" if claim.holds else "NO"
        shown.append((claim.claim, f"{claim.value:.4g}", f"± {claim.band:.2g}", allowed, holds))
    print("\n" + table(shown))
    if not config.size.targets:
        print(f"(preset {config.preset}: for information, no targets)")
    everything = [row for rows in (*tables.values(), training_rows) for row in rows]
    numbers = [value for row in everything for key, value in row.items()
               if isinstance(value, float) and key not in MAY_BE_MISSING]  # fmt: skip
    checks = [at_least("numbers in the tables that are finite, share",
                       float(np.isfinite(numbers).mean()), 1.0)]  # fmt: skip
    if config.size.targets:
        checks += [at_least(c.claim, float(c.holds), 1.0) for c in claims]
    made = provenance(f"mnist {name}", dataclasses.replace(config, data="", models=""))
    write_json(out / f"{name}.json", {
        **made, "torch": torch.__version__, "device": describe(config.device), "claims": [
            {**dataclasses.asdict(c), "holds": c.holds} for c in claims],
        "training": training_rows, "checks": checks, **{k: list(v) for k, v in tables.items()},
    })  # fmt: skip
    return checks


#: Columns that are NaN where there is nothing to say.
MAY_BE_MISSING = ("certified_rmse", "lipschitz")


def describe(device: str) -> str:
    """The kind of hardware."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def plot_noise(path: Path, rows: Sequence[dict[str, Any]], xlabel: str) -> None:
    """RMSE and stability against the level, bands of one standard deviation."""
    canvas, axes = new_figure(2)
    for axis, column in zip(axes[0], ("rmse", "stability"), strict=True):
        for name in dict.fromkeys(row["arm"] for row in rows):
            values, bands = (by_level(rows, name, key) for key in (column, f"{column}_sd"))
            level = np.array(list(values))
            mean, band = np.array(list(values.values())), np.array(list(bands.values()))
            axis.plot(level, mean, ".-", label=name)
            axis.fill_between(level, mean - band, mean + band, alpha=0.2)
        axis.set(
            xlabel=xlabel, ylabel="RMSE" if column == "rmse" else "stability (lower is better)"
        )
    axes[0, 0].legend(fontsize=7)
    save_figure(path, canvas)


def plot_attacks(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Worst-case RMSE against the radius, and clean RMSE against attack RMSE at radius 2."""
    canvas, axes = new_figure(2)
    for name in dict.fromkeys(row["arm"] for row in rows):
        found = by_level(rows, name, "attack_rmse")
        axes[0, 0].plot(list(found), list(found.values()), ".-", label=name)
        clean = by_level(rows, name, "clean_rmse")[2.0]
        axes[0, 1].plot(clean, found[2.0], "o")
        axes[0, 1].annotate(name, (clean, found[2.0]), fontsize=7)
    axes[0, 0].set(xlabel="radius ρ of the attack", ylabel="RMSE under attack")
    axes[0, 1].set(xlabel="clean RMSE", ylabel="RMSE under an attack of radius 2")
    axes[0, 0].legend(fontsize=7)
    save_figure(path, canvas)


def plot_examples(
    path: Path, config: Config, task: Task, arms: Sequence[Trained], test: data.IndexedDataset,
    levels: Sequence[float] = (0.0, 0.2, 0.5),
) -> None:  # fmt: skip
    """One digit: input, target, outputs and saliency maps at several noise levels."""
    images = test[torch.tensor([0])][1].to(config.device)
    given, target = task.input_and_target(images)
    canvas, axes = new_figure(2 + 2 * len(arms), len(levels), width=1.5, height=1.6)
    for row, level in zip(axes, levels, strict=True):
        noisy = given
        if level:
            noisy = physics.GaussianNoise(level)(given, generator=torch.Generator().manual_seed(1))
        panels = [(f"input, σ = {level:g}", noisy), ("target", target)]
        for arm in arms:
            with torch.no_grad():
                panels.append((arm.arm.name, arm.model(noisy)))
            panels.append(("saliency", metrics.saliency(arm.model, noisy, target)))
        for axis, (title, image) in zip(row, panels, strict=True):
            axis.imshow(image[0, 0].detach().cpu().numpy(), cmap="gray")
            axis.set_title(title, fontsize=6)
            axis.set_axis_off()
    save_figure(path, canvas)
