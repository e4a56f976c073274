"""Benchmarks of the entropic loss: cost of a step, agreement with the exact dual, dro's step.

``python -m validation.benchmarks.torch_losses times|peak JSON`` answers for `step_times` and
`step_peak`: timings and peak memory are taken in processes of their own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dro_core import LinearReconstruction, dual_value
from dro_core.types import Array
from dro_torch.losses.entropic import EntropicDROLoss, level_probabilities
from dro_torch.nets import UNet
from validation.benchmarks.finite_memory import peak_bytes
from validation.benchmarks.peer_runs import ask
from validation.benchmarks.text import cell
from validation.benchmarks.timing import median_ratio, seconds
from validation.results import Check, at_least, at_most, progress, table, write_csv

if TYPE_CHECKING:
    from validation.benchmarks.torch_settings import Config

ROOT = Path(__file__).parents[2]


# -- cost of a step

#: Settings of glibc's allocator, in processes of their own. By default it gives the pages of large
#: tensors back and asks for them anew, a third of a step's time.
ALLOCATORS = {
    "keeps freed pages": {
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    },
    "returns freed pages": {"MALLOC_MMAP_THRESHOLD_": "65536"},
    "as it comes": {},
}


def apart(job: str, allocator: str, arguments: dict[str, int]) -> Any:
    """The answer of a job of this module in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "validation.benchmarks.torch_losses", job, json.dumps(arguments)],
        cwd=ROOT,
        env=os.environ | ALLOCATORS[allocator],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ChildProcessError(f"benchmarks torch, {job}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def step_rows(config: Config, out: Path) -> list[Check]:
    """A step with K draws against K plain steps of the same batch, and its peak memory."""
    sizes = {"draws": config.draws, "batch": config.batch, "width": config.width}
    rows = []
    for allocator in ("keeps freed pages", "as it comes"):
        for row in apart("times", allocator, sizes | {"runs": config.runs}):
            rows.append({"allocator": allocator, **row})
    peaks = {
        draws: apart("peak", "returns freed pages", sizes | {"draws": draws, "chunk": 4})
        for draws in (8, 64)
    }
    print(table([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]))
    for draws, peak in peaks.items():
        print(f"chunked step, K = {draws}: {peak / 2**20:.1f} MiB above the state before")
    write_csv(out / "step.csv", rows)
    limits = {"unchunked": 1.10, "chunked": 1.45}
    label = f"step, K = {config.draws}, {{step}} / K plain steps, UNet 28 x 28"
    checks = [
        at_most(label.format(**row), row["ratio"], limits[row["step"]])
        for row in rows
        if row["allocator"] == "keeps freed pages"
    ]
    change = abs(peaks[64] / peaks[8] - 1)
    claim = "chunked: peak memory with 64 draws / with 8, minus 1"
    return [*checks, at_most(claim, change, 0.1)]


def small_unet(batch: int, width: int) -> tuple[UNet, Tensor, Tensor]:
    """A UNet and a batch of 28 x 28 images."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    network = UNet(1, 1, depth=2, width=width, generator=generator)
    x, y = torch.rand(2, batch, 1, 28, 28, generator=generator)
    return network, x, y


def step_times(draws: int, batch: int, width: int, runs: int) -> list[dict[str, Any]]:
    """Seconds of a step, whole and in two chunks, and of K plain steps in turn with it."""
    network, x, y = small_unet(batch, width)

    def plain() -> None:
        network.zero_grad()
        for _ in range(draws):
            (x - network(y)).square().sum().backward()

    def step(loss: EntropicDROLoss) -> None:
        network.zero_grad()
        loss(network, x, y, 100.0).backward()

    rows = []
    for name, chunk in (("unchunked", None), ("chunked", max(draws // 2, 1))):
        loss = EntropicDROLoss(0.08, samples=draws, chunk=chunk)
        ours, theirs, ratio = median_ratio(partial(step, loss), plain, runs)
        rows.append({"step": name, "seconds": ours, "K plain steps": theirs, "ratio": ratio})
    return rows


def step_peak(draws: int, chunk: int, batch: int, width: int) -> int:
    """Peak resident bytes of one chunked step above those before it."""
    network, x, y = small_unet(batch, width)
    warm = EntropicDROLoss(0.08, samples=2, chunk=1)
    warm(network, x[:1], y[:1], 100.0).backward()  # libraries, and the gradients' own memory
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_bytes()
    EntropicDROLoss(0.08, samples=draws, chunk=chunk)(network, x, y, 100.0).backward()
    return peak_bytes() - before


# -- agreement with the exact dual


@dataclass(frozen=True)
class LinearProblem:
    """A small linear map with samples, and its exact dual at a multiplier."""

    matrix: Array
    x: Array
    y: Array
    epsilon: float

    @classmethod
    def drawn(cls, seed: int, size: int = 4, samples: int = 4) -> LinearProblem:
        """Standard normal entries, the map scaled to the constant two, residuals of that order."""
        rng = np.random.default_rng(seed)
        matrix = rng.standard_normal((size, size))
        matrix *= 2.0 / np.linalg.norm(matrix, 2)
        y, residual = rng.standard_normal((2, samples, size))
        return cls(matrix, y @ matrix.T + 0.5 * residual, y, 1.0)

    @property
    def threshold(self) -> float:
        """The square of the largest singular value."""
        return float(np.linalg.norm(self.matrix, 2) ** 2)

    def exact(self, multiplier: float) -> Array:
        """The dual's value and its gradient in the matrix, as one vector."""
        problem = LinearReconstruction(self.matrix, self.x, self.y)
        gradient, _ = problem.dual_gradient(multiplier, 0.0, epsilon=self.epsilon)
        value = problem.dual_value(multiplier, 0.0, epsilon=self.epsilon)
        return np.concatenate([[value], gradient.ravel()])

    def estimates(
        self,
        estimator: Any,
        multiplier: float,
        draws: int,
        rows: int,
        calls: int,
        *,
        seed: int = 0,
        gradient: bool = True,
    ) -> Array:
        """Estimates of `exact`, one row per call; every call has `rows` samples or a few less."""
        loss = EntropicDROLoss(self.epsilon, samples=draws, estimator=estimator)
        times = max(rows // len(self.x), 1)
        x, y = (torch.tensor(a, dtype=torch.float32).repeat(times, 1) for a in (self.x, self.y))
        weight = torch.tensor(self.matrix, dtype=torch.float32, requires_grad=gradient)
        found = []
        for call in range(calls):
            value = loss(lambda t: t @ weight.T, x, y, multiplier, seed=seed, step=call)
            parts = torch.autograd.grad(value, weight) if gradient else ()
            found.append(torch.cat([p.detach().double().reshape(-1) for p in (value, *parts)]))
        return np.asarray(torch.stack(found).numpy())


@dataclass(frozen=True)
class Mean:
    """Mean of independent rows, with standard errors."""

    value: Array
    error: Array

    @classmethod
    def of(cls, rows: Array) -> Mean:
        """Of the rows of an array."""
        return cls(rows.mean(0), rows.std(0, ddof=1) / math.sqrt(len(rows)))

    def distance(self, truth: Array, error: Array | float = 0.0) -> tuple[float, float]:
        """Distance from the truth in standard errors (norms), for the value and the gradient."""
        both = np.hypot(self.error, error)
        gap = np.abs(self.value - truth)
        norms = np.linalg.norm(gap[1:]) / np.linalg.norm(both[1:])
        return float(gap[0] / both[0]), float(norms)

    def relative_error(self) -> tuple[float, float]:
        """Standard errors over the value, and over the norm of the gradient."""
        norms = np.linalg.norm(self.error[1:]) / np.linalg.norm(self.value[1:])
        return float(self.error[0] / abs(self.value[0])), float(norms)


def oracle_rows(config: Config, out: Path) -> list[Check]:
    """SG against the exact dual, its bias against 1/K, RT-MLMC against SG."""
    problem = LinearProblem.drawn(config.seed)
    checks = []
    for factor in (4.0, 6.0):
        multiplier, draws = factor * problem.threshold, 2048
        rows = max(config.rows // 128, 8)
        sg = Mean.of(problem.estimates("sg", multiplier, draws, rows, config.calls))
        checks += agreement(
            f"SG, λ = {factor:g} σ², K = {draws}, against the exact dual",
            sg,
            problem.exact(multiplier),
            0.0,
        )
    checks += bias_rows(config, out, problem, 4.0 * problem.threshold)
    return checks + level_rows(config, problem, 4.0 * problem.threshold)


def agreement(label: str, mean: Mean, truth: Array, error: Array | float) -> list[Check]:
    """Within three standard errors, which are at most half a per cent."""
    distances, errors = mean.distance(truth, error), mean.relative_error()
    return [
        at_most(f"{label}: distance in standard errors, value", distances[0], 3.0),
        at_most("the same, gradient (norms)", distances[1], 3.0),
        at_most("the same: standard error / value, of value and gradient", max(errors), 5e-3),
    ]


def bias_rows(config: Config, out: Path, problem: LinearProblem, multiplier: float) -> list[Check]:
    """Bias times K of SG for K = 8 to 128: constant up to the next order."""
    truth, rows = problem.exact(multiplier)[0], []
    for draws in progress((8, 16, 32, 64, 128), "bias of SG"):
        calls = max(config.calls * draws // 5, 8)
        count = max(config.rows * 128 // draws, 8)
        values = problem.estimates("sg", multiplier, draws, count, calls, seed=1, gradient=False)
        mean = Mean.of(values)
        rows.append(
            {
                "draws": draws,
                "bias times draws": draws * (mean.value[0] - truth),
                "standard error": draws * mean.error[0],
            }
        )
    write_csv(out / "bias.csv", rows)
    for row in rows:
        print("bias · K, K = {draws}: {bias times draws:.4f} ± {standard error:.4f}".format(**row))
    products = [abs(row["bias times draws"]) for row in rows]
    largest_error = max(row["standard error"] for row in rows) / min(products)
    return [
        at_most(
            "SG: bias · K, largest over least for K = 8 ... 128", max(products) / min(products), 1.2
        ),
        at_most("the same: largest standard error / bias", largest_error, 0.05),
    ]


def level_rows(config: Config, problem: LinearProblem, multiplier: float) -> list[Check]:
    """RT-MLMC against SG with as many draws as its finest level; and what uniform levels give."""
    draws = 16
    sg = Mean.of(problem.estimates("sg", multiplier, draws, 4 * config.rows, config.calls))
    ml = Mean.of(
        problem.estimates("rt-mlmc", multiplier, draws, 16 * config.rows, config.calls, seed=2)
    )
    levels = draws.bit_length() - 1
    means = [
        problem.estimates("sg", multiplier, 2**level, config.rows, config.calls, gradient=False)
        for level in range(levels + 1)
    ]
    steps = np.diff([0.0, *(float(m.mean()) for m in means)])
    uniform = float(np.sum(steps / ((levels + 1) * level_probabilities(levels).numpy())))
    exact = problem.exact(multiplier)[0]
    print(
        f"RT-MLMC with finest level {draws}: {ml.value[0]:.5f}; SG {sg.value[0]:.5f}; exact "
        f"{exact:.5f}; levels drawn uniformly, the rest alike, would give {uniform:.5f}"
    )
    return agreement(f"RT-MLMC against SG with K = {draws}", ml, sg.value, sg.error)


# -- one linear step, against dro's


@dataclass(frozen=True)
class Regression:
    """One output, batch 64; multiplier four times the threshold."""

    x: Array
    y: Array
    slope: Array
    epsilon: float = 0.16

    @classmethod
    def drawn(cls, seed: int, features: int) -> Regression:
        """Standard normal features, a target that depends on all of them, noise of size one."""
        rng = np.random.default_rng([seed, features])
        y = rng.standard_normal((64, features))
        slope = rng.standard_normal(features) / math.sqrt(features)
        return cls((y @ slope + rng.standard_normal(64))[:, None], y, slope)

    @property
    def multiplier(self) -> float:
        """Four times the squared norm of the slope."""
        return 4.0 * float(self.slope @ self.slope)

    @property
    def exact(self) -> float:
        """The dual's value at the slope."""
        return dual_value(
            self.slope[None], self.x, self.y, self.multiplier, 0.0, epsilon=self.epsilon
        )

    def step(self) -> Callable[[], None]:
        """Loss, gradient and Adam update of a linear network in float32, as one call."""
        x, y = (torch.tensor(a, dtype=torch.float32) for a in (self.x, self.y))
        model = nn.Linear(y.shape[1], 1)
        nn.init.zeros_(model.weight)
        loss = EntropicDROLoss(self.epsilon, samples=32)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)

        def step() -> None:
            optimiser.zero_grad()
            loss(model, x, y, self.multiplier).backward()
            optimiser.step()

        return step

    def bias(self, calls: int) -> float:
        """Relative bias of our estimate with K = 32 at the slope."""
        loss = EntropicDROLoss(self.epsilon, samples=32)
        x, y, weight = (
            torch.tensor(a, dtype=torch.float32) for a in (self.x, self.y, self.slope[:, None])
        )
        with torch.no_grad():
            values = [
                float(loss(lambda t: t @ weight, x, y, self.multiplier, seed=seed))
                for seed in range(calls)
            ]
        return statistics.fmean(values) / self.exact - 1


def sinkhorn_rows(config: Config, out: Path) -> list[Check]:
    """One optimisation step of linear regression, batch 64, K = 32, in turn with `dro`'s.

    `dro` has the cost half the squared distance: twice our multiplier, half our epsilon.
    """
    problems = {str(d): Regression.drawn(config.seed, d) for d in (10, 100)}
    rows: list[dict[str, Any]] = [
        {"features": name, "our seconds": math.inf, "our bias": problem.bias(8 * config.runs)}
        for name, problem in problems.items()
    ]
    first = next(iter(problems.values()))
    request = {
        "task": "dro sinkhorn step",
        "power": 5,
        "noise_variance": first.epsilon / 2,
        "multipliers": {name: 2 * problem.multiplier for name, problem in problems.items()},
        "seed": config.seed,
        "repeats": 2 * config.runs,
        "objectives": 8 * config.runs,
    }
    data = {
        f"{part} {name}": values
        for name, p in problems.items()
        for part, values in (("features", p.y), ("target", p.x[:, 0]), ("slope", p.slope))
    }
    if not config.peer_python:
        print("dro's step: not measured; give the peers' interpreter with --peer-python PATH")
    for _ in range(3):
        for row, problem in zip(rows, problems.values(), strict=True):
            ours = least_seconds(problem.step(), 12 * config.runs)
            row["our seconds"] = min(row["our seconds"], ours)
        answer = ask(config.peer_python, request, data) if config.peer_python else None
        for row, theirs in zip(rows, answer["answers"] if answer else (), strict=False):
            for column, key in (
                ("dro seconds", "step_seconds"),
                ("dro seconds without its loader", "update_seconds"),
            ):
                row[column] = min(row.get(column, math.inf), theirs[key])
            exact = problems[theirs["name"]].exact
            row["dro bias"] = theirs["objective"] / exact - 1
            row["ratio"] = row["dro seconds"] / row["our seconds"]
    print(table([list(rows[0]), *([cell(value) for value in row.values()] for row in rows)]))
    write_csv(out / "linear_step.csv", rows)
    label = "linear step, batch 64, K = 32, d = {features}: dro's / ours"
    return [at_least(label.format(**row), row["ratio"], 1.5) for row in rows if "ratio" in row]


def least_seconds(action: Callable[[], Any], runs: int) -> float:
    """Least wall time of many calls: what the call takes when nothing else disturbs it."""
    for _ in range(10):
        action()
    return min(seconds(action) for _ in range(runs))


if __name__ == "__main__":
    jobs: dict[str, Callable[..., Any]] = {"times": step_times, "peak": step_peak}
    print(json.dumps(jobs[sys.argv[1]](**json.loads(sys.argv[2]))))
