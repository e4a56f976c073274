"""Small trainings for `test_torch_training`, in its own process, in a child, or under torchrun.

``training_worker.py SIGKILL FOLDER`` trains a denoiser that sends itself this signal in step 13;
``torchrun ... training_worker.py distributed FOLDER`` saves what every process ends with.
"""

import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn

from dro_torch.training import Phase, fit, load_checkpoint, reconstruction_phase

SAMPLES, SIZE, BATCH = 48, 4, 12
#: A file of this name in the folder ends a child, whoever started it.
STOP = "stop"


def end_when_told(folder):
    while not (folder / STOP).exists():
        time.sleep(0.1)
    os._exit(1)


class Multiplier(nn.Module):
    """Stand-in for dro_torch.Multiplier: lambda = exp(theta), in float64 whatever the network."""

    def __init__(self, radius=0.3, initial=4.0):
        super().__init__()
        self.radius = radius
        self.theta = nn.Parameter(torch.tensor(math.log(initial), dtype=torch.float64))

    def forward(self):
        return self.theta.exp()

    def penalty(self):
        return self() * self.radius**2

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.theta.data = self.theta.data.double()
        return self


class EntropicLoss(nn.Module):
    """Stand-in for a structured DRO loss whose noise is keyed by (seed, step, sample index)."""

    def __init__(self, draws=4):
        super().__init__()
        self.draws = draws
        self.register_buffer("calls", torch.zeros(()))
        self.diagnostics = {}

    def forward(self, model, x, y, multiplier, *, index, seed, step):
        self.calls += 1
        place = torch.arange(self.draws * y.shape[1], dtype=torch.float64).view(self.draws, 1, -1)
        key = 91.7 * index[:, None].double() + 13.3 * place + 7.9 * step + seed
        noise = 0.2 * torch.sin(key * key).to(y.dtype)
        losses = (x - model((y + noise).flatten(0, 1)).view(self.draws, *x.shape)).square().sum(-1)
        exponent = losses / multiplier
        with torch.no_grad():
            self.diagnostics = {"effective_sample_size": effective_size(exponent).mean()}
        soft = exponent.logsumexp(0) - math.log(self.draws)
        return multiplier * soft.mean()


def effective_size(exponent):
    weights = exponent.softmax(0)
    return 1 / weights.square().sum(0)


def samples():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(SAMPLES, SIZE, generator=generator)
    return x, x.cumsum(1) / 2


class Batches:
    """Batches that are a function of the step, a contiguous share for every process."""

    def __init__(self, seed=0, samples_=samples):
        self.seed, self.tensors = seed, samples_()

    def batch(self, step, rank=0, world_size=1):
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        index = torch.randperm(SAMPLES, generator=generator)[:BATCH]
        share = index.tensor_split(world_size)[rank]
        return share, *(tensor[share] for tensor in self.tensors)


def network(dropout=0.0, output=SIZE):
    layers = [nn.Linear(SIZE, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, output)]
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return net


def denoiser(dropout=0.0, **options):
    """The phase of a DRO training, one network and a multiplier."""
    return reconstruction_phase(
        network(dropout),
        EntropicLoss(),
        Multiplier(),
        **{"rate": {"model": 1e-2, "multiplier": 3e-2}, "gradient_clip": 1.0} | options,
    )


def transport(**options):
    """The two phases of a transport map: potential v, then map T."""
    modules = {"v": network(output=1), "T": network()}

    def cost(y, x):
        return 0.1 * (x - y).square().sum(1)

    def potential_loss(modules, batch, context):
        x, y = batch
        v, moved = modules["v"], modules["T"](y).detach()
        source = nn.functional.softplus(v(moved)[:, 0] - cost(y, moved)).mean()
        return source + nn.functional.softplus(-v(x)).mean()

    def map_loss(modules, batch, context):
        _, y = batch
        moved = modules["T"](y)
        return (cost(y, moved) - modules["v"](moved)[:, 0]).mean()

    options = {"rate": 1e-2, "betas": (0.5, 0.9)} | options
    return [
        Phase("potential", {"v": modules["v"]}, potential_loss, every=2, **options),
        Phase("map", {"T": modules["T"]}, map_loss, **options),
    ]


def train(folder, steps=40, fatal=None, **options):
    settings = {"checkpoint_every": 5, "log_every": 4, "ema": 0.9, "warmup": 3, "progress": False}

    def pairs(batch, context):
        if fatal is not None and context.step == 13:
            signal.raise_signal(fatal)
        return batch

    phase = denoiser(dropout=0.3, pairs=pairs)
    return fit(phase, Batches(), steps, seed=11, folder=folder, **settings | options)


def train_transport(folder, steps=12, **options):
    settings = {"ema": {"T": 0.9}, "log_every": 2, "progress": False}
    sources = {"potential": Batches(1), "map": Batches(2)}
    return fit(transport(), sources, steps, seed=2, folder=folder, **settings | options)


def train_unequal(folder, **options):
    """A function of the step gives global batches; 5 samples do not divide by two."""
    x, y = samples()
    phase = denoiser()
    source = lambda step: (torch.arange(5) + step, x[step : step + 5], y[step : step + 5])  # noqa: E731
    return fit(phase, source, 6, seed=4, folder=folder, progress=False, log_every=1, **options)


def train_without_dropout(folder, steps=20, **options):
    settings = {"schedule": "constant", "log_every": 2, "progress": False, "checkpoint_every": 6}
    return fit(denoiser(), Batches(), steps, seed=11, folder=folder, **settings | options)


def train_patient(folder, **options):
    """Only the first process validates; its patience ends all of them after four of 20 steps."""
    settings = {"validate": lambda modules: {"score": 0.0}, "validate_every": 1}
    goal = {"best": ("score", "max"), "patience": 3}
    return train_without_dropout(folder, **settings | goal | {"log_every": 1} | options)


JOBS = {
    "patient": train_patient,
    "dro": train_without_dropout,
    "transport": train_transport,
    "unequal": train_unequal,
}


def state(result):
    """Everything a run ends with, as one flat dict of tensors."""
    flat = {}
    for kind, modules in (("trained", result.trained), ("averaged", result.modules)):
        for name, module in modules.items():
            flat |= {f"{kind}.{name}.{key}": t.clone() for key, t in module.state_dict().items()}
    return flat


def distributed(folder):
    rank = int(os.environ["RANK"])
    ends = {}
    for name, job in JOBS.items():
        result = job(folder / name)
        ends[name] = {"state": state(result), "history": result.history}
    # interrupted after 8 of 20 steps, in one process only, then resumed
    calls = []

    def interrupt(row):
        calls.append(row)
        if row["step"] == 8:
            signal.raise_signal(signal.SIGINT)

    try:
        train_without_dropout(folder / "resumed", log=interrupt)
    except KeyboardInterrupt:
        ends["interrupted"] = load_checkpoint(folder / "resumed")["step"]
    ends["resumed"] = {"state": state(train_without_dropout(folder / "resumed", resume="must"))}
    torch.save(ends, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    command, folder = sys.argv[1:]
    threading.Thread(target=end_when_told, args=[Path(folder)], daemon=True).start()
    if command == "waiting":
        time.sleep(600)
    elif command == "distributed":
        distributed(Path(folder))
    else:
        train(Path(folder), fatal=signal.Signals[command])
