"""Arms: the same network with different losses, trained once and read where that is done.

Every arm is one run of `dro_torch.training.fit` in a folder of its own, whose name holds a digest
of everything that the result depends on.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dro_core.checks import unknown
from dro_torch import (
    EntropicDROLoss,
    LinearisedDROLoss,
    Multiplier,
    WassersteinBallLoss,
    WassersteinDROLoss,
    data,
    training,
)
from validation.mnist.losses import (
    AdversarialTraining,
    Half,
    ImageJitter,
    JacobianPenalty,
    Jitter,
    PoissonTraining,
)
from validation.mnist.settings import Config, Precision, Preset
from validation.mnist.tasks import Task, fingerprint
from validation.noisy_training import MeanSquaredError, with_noise
from validation.side_by_side import side_by_side
from validation.trainings import Spent, clocked, spent, stored

#: Further settings of a loss.
Options = dict[str, int | float | str | tuple[float, ...]]


@dataclass(frozen=True)
class Arm:
    """One way of training: a loss with its settings.

    `noise` is isotropic and on the input; kind "jitter" has noise of the ball's shape, at a level.
    """

    name: str
    kind: str
    noise: float = 0.0
    epsilon: float = 0.0
    radius: float = 0.0
    multiplier: float = 0.0  #: fixed λ; 0: learned
    structure: str = ""  #: of the ambiguity set; default: the input moves
    options: Options = field(default_factory=dict)
    steps_share: float = 1.0

    def criterion(self, task: Task, size: Preset) -> nn.Module:
        """The loss of `dro_torch`, or the mean squared error."""
        structure, residual = self.structure or task.structure, task.residual
        options: dict[str, object] = dict(self.options)
        if self.kind == "entropic":
            options = {"samples": size.samples, **options}
        losses: dict[str, Callable[..., nn.Module]] = {
            "mse": lambda: MeanSquaredError(residual),
            "entropic": lambda samples, **more: EntropicDROLoss(
                self.epsilon, structure, samples, residual=residual, **more
            ),
            "wasserstein": lambda **more: WassersteinDROLoss(structure, residual=residual, **more),
            "linearised": lambda **more: LinearisedDROLoss(structure, residual=residual, **more),
            "adversarial": lambda **more: AdversarialTraining(
                residual, structure, self.radius, **more
            ),
            "jacobian": lambda **more: JacobianPenalty(residual, structure, **more),
            "jitter": lambda level: Jitter(residual, structure, level),
            "poisson": lambda doses: PoissonTraining(residual, doses),
            "image jitter": lambda level: ImageJitter(level),
            "ball": lambda **more: WassersteinBallLoss(
                self.radius, structure, residual=residual, **more
            ),
            "ball and jitter": lambda level, **more: Half(
                WassersteinBallLoss(self.radius, structure, residual=residual, **more),
                Jitter(residual, structure, level),
            ),
        }
        if self.kind not in losses:
            raise ValueError(unknown("kind", self.kind, losses))
        return losses[self.kind](**options)

    @property
    def has_multiplier(self) -> bool:
        """Whether the loss is a dual at a multiplier."""
        return self.kind in ("entropic", "wasserstein", "linearised")

    @property
    def learns_multiplier(self) -> bool:
        """Whether that is trained beside the network."""
        return self.has_multiplier and not self.multiplier


@dataclass(frozen=True)
class Trained:
    """A trained arm: the network in evaluation mode, its multiplier, and the run's history."""

    arm: Arm
    model: nn.Module
    multiplier: float
    spent: Spent
    history: list[dict[str, float]]
    gradient_evaluations: int
    gflop: float = 0.0  #: arithmetic of the training
    folder: Path | None = None  #: where it is kept


def description(config: Config, task: Task, learn: data.IndexedDataset, arm: Arm) -> dict[str, str]:
    """Everything that a trained arm depends on: sizes, loss, operator, images, optimiser."""
    size = config.size
    names = ("images", "validation", "steps", "batch", "width", "depth", "samples")
    described = {name: getattr(size, name) for name in names}
    if size.channels_last:  # rounding differs
        described["channels_last"] = True
    described |= {**dataclasses.asdict(arm), "rate": config.rate, "precision": config.precision}
    described |= {"task": task.name, "role": task.role, "seed": config.seed}
    probe = torch.zeros(1, *task.images.shape)
    probe[..., probe.shape[-2] // 2, probe.shape[-1] // 2] = probe[..., 0, 0] = 1.0
    response = copy.deepcopy(task.forward).to("cpu")(probe)
    if task.weight is not None:
        weight = task.weight if isinstance(task.weight, Tensor) else task.weight(probe, response)
        described["weight"] = zlib.crc32(weight.numpy().tobytes())
        described["lowest_multiplier"] = task.lowest_multiplier
    if task.first_multiplier != Task.first_multiplier:
        described["first_multiplier"] = task.first_multiplier
    listed = [f"{value:.5g}" for value in response[response != 0].tolist()]
    described["forward"] = listed if len(listed) < 1000 else zlib.crc32(" ".join(listed).encode())
    described["pixels"] = fingerprint(learn)
    return {key: str(value) for key, value in described.items()}


class Pairs:
    """(x, y) of a batch; the network's input with the arm's noise."""

    def __init__(self, task: Task, noise: float) -> None:
        self.task, self.noise = task, noise

    def __call__(
        self, batch: Sequence[Tensor], context: training.StepContext
    ) -> tuple[Tensor, Tensor]:
        """Noise is keyed by the sample and the step."""
        x, y = self.task.pair(batch[0])
        if not self.noise:
            return x, y
        reconstructs = self.task.role == "reconstruction"
        given = y if reconstructs else x
        given = with_noise(given, self.noise, context, stream=9)
        return (x, given) if reconstructs else (given, y)


def reconstruction_of(
    config: Config, task: Task, arm: Arm
) -> tuple[training.Phase, Multiplier | None]:
    """The phase that trains an arm, and the multiplier that it learns."""
    size = config.size
    model = task.network(size, torch.Generator().manual_seed(config.seed))
    task.forward.to(config.device)
    multiplier: Multiplier | None = None
    rates = {"model": config.rate}
    if arm.learns_multiplier:
        multiplier = Multiplier(arm.radius, task.first_multiplier, lower=task.lowest_multiplier)
        rates["multiplier"] = 0.02
    phase = training.reconstruction_phase(
        model,
        arm.criterion(task, size),
        multiplier or arm.multiplier or None,
        pairs=Pairs(task, arm.noise),
        gradient_clip={"model": 100.0 * math.sqrt(task.images.pixels)},
        rate=rates,
    )
    return phase, multiplier


def gigaflops_of_step(config: Config, task: Task, arm: Arm) -> float:
    """Arithmetic of a training step with all that its loss does; counted on two images."""
    phase, _ = reconstruction_of(config, task, arm)
    task.forward.to("cpu")
    images, index = torch.full((2, *task.images.shape), 0.5), torch.arange(2)
    images[0, ..., : images.shape[-1] // 2] = 0.0
    context = training.StepContext(config.seed, 0, index, torch.device("cpu"))
    with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore")  # of an untrained network
        value, _ = phase.loss(phase.modules, (task.items(images),), context)
        value.backward()
    return float(counter.get_total_flops()) / len(images) * config.size.batch / 1e9


def steps_of(size: Preset, arm: Arm) -> int:
    """Training steps of an arm."""
    return max(1, round(size.steps * arm.steps_share))


def folder_of(config: Config, task: Task, arm: Arm, learn: data.IndexedDataset, out: Path) -> Path:
    """Where an arm is kept: under `--set models=`, or the output folder."""
    name = f"{task.name}-{arm.name}-{config.preset}-{config.seed}"
    return stored(Path(config.models or out), name, description(config, task, learn, arm))


def fit_arm(config: Config, task: Task, arm: Arm, learn: data.IndexedDataset, out: Path) -> Trained:
    """Train one arm, or go on with it, or read it when it is finished."""
    size = config.size
    phase, multiplier = reconstruction_of(config, task, arm)
    model = phase.modules["model"]
    described = description(config, task, learn, arm)
    folder, steps = folder_of(config, task, arm, learn, out), steps_of(size, arm)
    with clocked(folder) as finish:
        result = training.fit(
            phase,
            data.Batches(learn.to(config.device), min(size.batch, len(learn)), config.seed),
            steps,
            seed=config.seed,
            folder=folder,
            device=config.device,
            precision=cast(Precision, config.precision),
            channels_last=size.channels_last,
            warmup=min(max(1, steps // 20), steps - 1),
            checkpoint_every=max(50, steps // 10),
            config=described,
            log_every=max(1, min(50, steps // 5)),
        )
        if result.interrupted:
            raise KeyboardInterrupt
        finish()
    model.eval()
    value = arm.multiplier if multiplier is None else float(multiplier().detach())
    gflop = steps * gigaflops_of_step(config, task, arm)
    task.forward.to(config.device)
    return Trained(arm, model, value, spent(folder), result.history, steps, gflop, folder)


def fit_arms(config: Config, task: Task, arms: Sequence[Arm], out: Path) -> list[Trained]:
    """All arms; models are kept under `--set models=` or the output folder."""
    learn = task.images.splits(config).learn
    return [fit_arm(config, task, arm, learn, out) for arm in arms]


#: Settings, task and arm of one training.
Training = tuple[Config, Task, Arm]


def train(job: Training, out: Path) -> None:
    """One arm: what a process of its own does."""
    config, task, arm = job
    fit_arms(config, task, [arm], out)


def train_side_by_side(jobs: Sequence[Training], out: Path) -> None:
    """Arms in processes of one thread each, where that is asked for; they are read afterwards."""
    side_by_side(partial(train, out=out), jobs, jobs[0][0].jobs if jobs else 0)
