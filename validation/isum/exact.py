"""The learned map against the exact plan of the same finite problem: who solves what it states.

Points in 2 and 16 dimensions and 400 small images; every method trains on the very points that
`dro_core.unbalanced_ot` joins, with the same small networks and steps. Clusters have other shares
on the two sides, where balanced transport must split one, or equal ones, where its map is
continuous. Rates, and how often the map moves, are the best of the same few for every method, by
the error of the map: more than a user can know, for all alike. Compared are the map with the
barycentres of the exact plan of the method's own cost, its value with the exact one (for ISUM and
its OT variant also the mass per measurement), and for OTUR and RCOT the objective at their map with
that at the map of optimal transport: who does not beat a map that anybody may use has not solved
the problem.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional

from dro_core.unbalanced import UnbalancedTransport, unbalanced_ot
from dro_torch import data
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.losses.unpaired import CriticOTLoss, neural_ot_loss
from dro_torch.training import Phase, StepContext, fit
from validation.experiment import user_errors
from validation.figures import drawing
from validation.isum.few import barycentres
from validation.results import (
    Check,
    at_most,
    provenance,
    table,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting, without_folders
from validation.tables import Row

#: Rates of both networks, and steps of the potential or critic for one of the map.
TUNED = ((2e-3, 1), (5e-4, 1), (2e-3, 5), (5e-4, 5))
METHODS = ("ISUM", "OT", "NOT", "OTUR", "RCOT")
#: Scale of the cost, weights of OTUR's root and of RCOT's Fourier term.
SCALE, DISTANCE, FOURIER = 0.3, 0.5, 0.1


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the experiment."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    points: int = setting(400, "points of each measure", low=8)
    steps: int = setting(2000, "iterations of every method", low=2)
    width: int = setting(96, "width of the three hidden layers", low=1)
    images: bool = setting(True, "the problem of small images, too")
    tuned: bool = setting(True, "every method at the best of the rates that all are tried with")
    seed: int = setting(0, "seed")


@dataclass(frozen=True)
class Problem:
    """Measurements y and clean points x (n, d), and the diagonal of the forward operator."""

    name: str
    y: Tensor
    x: Tensor
    forward: Callable[[Tensor], Tensor]


def points(config: Config, dimension: int, shares: tuple[float, float] = (0.25, 0.75)) -> Problem:
    """Two clusters, the first with these shares of measurements and of clean points.

    A = diag(.4 .. .9).
    """
    rng = np.random.default_rng((config.seed, dimension))
    first = torch.linspace(0.4, 0.9, dimension)
    sides = []
    for share in shares:
        near = np.arange(config.points) < round(share * config.points)
        centre = np.where(near[:, None], -1.0, 1.0) * 2 / np.sqrt(dimension)
        spread = 0.5 / np.sqrt(dimension)
        sides.append(centre + spread * rng.standard_normal((config.points, dimension)))
    clean = torch.from_numpy(sides[1]).float()
    noise = 0.1 / np.sqrt(dimension) * rng.standard_normal(sides[0].shape)
    measured = torch.from_numpy(sides[0]).float() * first + torch.from_numpy(noise).float()
    name = f"{dimension}-D" + (", equal shares" if shares[0] == shares[1] else "")
    return Problem(name, measured, clean, lambda x: x * first)


def pictures(config: Config) -> Problem:
    """Digits of 8 x 8 pixels, blurred by a mean of three in each direction; disjoint pools."""
    found = data.mnist("train", config.data or None).images
    kept = torch.from_numpy(
        np.random.default_rng(config.seed).permutation(len(found))[: 2 * config.points]
    )
    small = functional.avg_pool2d(found[kept].float() / 255, 4, padding=2, count_include_pad=True)
    small = small.reshape(len(kept), -1)
    side = round(small.shape[1] ** 0.5)

    def blurred(x: Tensor) -> Tensor:
        whole = functional.avg_pool2d(x.reshape(-1, 1, side, side), 3, 1, 1)
        return whole.reshape(x.shape)

    noise = torch.randn(small[: config.points].shape, generator=torch.Generator().manual_seed(1))
    measured = blurred(small[: config.points]) + 0.05 * noise
    return Problem(f"images {side} x {side}", measured, small[config.points :], blurred)


class TwoPass(nn.Module):
    """RCOT's map on points: the network sees the residual of its own first answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor) -> Tensor:
        """Twice."""
        first = y + self.network(torch.cat([y, torch.zeros_like(y)], 1))
        result: Tensor = y + self.network(torch.cat([y, y - first], 1))
        return result


class Residual(nn.Module):
    """y + network(y)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor) -> Tensor:
        """Once."""
        result: Tensor = y + self.network(y)
        return result


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Three hidden layers, SiLU."""
    sizes = (inputs, width, width, width, outputs)
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*layers[:-1])


def loss_of(method: str, problem: Problem) -> UnbalancedOTLoss | CriticOTLoss:
    """The objective of a method on a problem."""
    dimension = problem.y.shape[1]
    if method == "NOT":
        return neural_ot_loss(dimension, scale=2 * SCALE * dimension)
    if method in ("OTUR", "RCOT"):
        return CriticOTLoss(
            DISTANCE * dimension**0.5, FOURIER * (method == "RCOT"), value_range=(0.0, 1.0)
        )
    cost = LikelihoodCost(problem.forward, scale=SCALE)
    return UnbalancedOTLoss(cost, "kl" if method == "ISUM" else "balanced")


@dataclass(frozen=True)
class Learned:
    """A trained pair and its loss."""

    T: nn.Module
    v: nn.Module
    loss: UnbalancedOTLoss | CriticOTLoss


def learned(
    config: Config, problem: Problem, method: str, rate: float = 2e-3, map_every: int = 1
) -> Learned:
    """Full batches of the finite problem; NOT's potential moves every tenth step."""
    torch.manual_seed(config.seed)
    dimension, width = problem.y.shape[1], config.width
    two = method == "RCOT"
    network = perceptron(2 * dimension if two else dimension, width, dimension)
    T = TwoPass(network) if two else Residual(network)
    v, loss = perceptron(dimension, width, 1), loss_of(method, problem)

    def potential(modules: Mapping[str, Any], batch: tuple[Tensor, ...], _: StepContext) -> Tensor:
        return loss.potential_loss(modules["v"], modules["T"], *batch)

    def map_(modules: Mapping[str, Any], batch: tuple[Tensor, ...], _: StepContext) -> Tensor:
        return loss.map_loss(modules["v"], modules["T"], batch[0])

    every = 10 if method == "NOT" else 1
    betas = (0.5, 0.9)
    fit(
        [
            Phase("v", {"v": v}, potential, rate=rate, betas=betas, every=every),
            Phase("T", {"T": T}, map_, rate=rate, betas=betas, every=map_every),
        ],
        lambda step: (torch.arange(len(problem.y)), problem.y, problem.x),
        config.steps,
        seed=config.seed,
        progress=False,
    )
    return Learned(T, v, loss)


def exact_plan(problem: Problem, method: str) -> UnbalancedTransport:
    """Of the method's own cost (blind ones: the quadratic one), free marginals for ISUM alone."""
    y, x = problem.y.double().numpy(), problem.x.double().numpy()
    cost = cdist(y, x, "sqeuclidean")
    if method in ("ISUM", "OT"):
        there = problem.forward(problem.x).double().numpy()
        cost = SCALE * (cost + cdist(y, there, "sqeuclidean"))
    else:
        cost = 2 * SCALE * cost
    masses = np.full(len(y), 1 / len(y))
    return unbalanced_ot(cost, masses, masses, "kl" if method == "ISUM" else "balanced", rtol=1e-7)


def distance_objective(loss: CriticOTLoss, problem: Problem, moved: Tensor) -> float:
    """Exact W1 of the moved points to the clean ones, and the loss's price of the move."""
    masses = np.full(len(moved), 1 / len(moved))
    cost = cdist(moved.double().numpy(), problem.x.double().numpy())
    price = loss.map_loss(lambda z: 0 * z[:, 0], lambda y: moved, problem.y)
    return unbalanced_ot(cost, masses, masses, "balanced", rtol=1e-7).value + float(price)


def compared(config: Config, problem: Problem, method: str) -> Row:
    """A row: errors of map, value and weights, at the best of the rates."""
    plan = exact_plan(problem, method)
    target = barycentres(plan, problem.x.double()).float()
    tried = TUNED if config.tuned else TUNED[:1]
    rows = [judged(learned(config, problem, method, *how), problem, plan, target) for how in tried]
    best = min(range(len(rows)), key=lambda k: float(rows[k]["map_error"]))
    told: Row = {"problem": problem.name, "method": method}
    return told | {"rate": tried[best][0], "map_every": tried[best][1]} | rows[best]


def judged(found: Learned, problem: Problem, plan: UnbalancedTransport, target: Tensor) -> Row:
    """Errors of map, value and weights of a trained pair."""
    with torch.no_grad():
        moved = found.T(problem.y)
    scale = float((target - target.mean(0)).norm())
    row: Row = {"map_error": float((moved - target).norm()) / scale}
    row["identity_error"] = float((problem.y - target).norm()) / scale
    if isinstance(found.loss, CriticOTLoss):
        value, exact = (distance_objective(found.loss, problem, where) for where in (moved, target))
        weights: float | str = ""
    else:
        with torch.no_grad():
            value = -float(found.loss.potential_loss(found.v, found.T, problem.y, problem.x))
            given = found.loss.weights(found.v, found.T, problem.y)
        assert isinstance(given, Tensor)
        exact = plan.value
        share = np.asarray(plan.plan.sum(1)).ravel() * len(problem.y)
        error = np.linalg.norm(given.double().numpy() - share) / np.linalg.norm(share)
        weights = float(error)
    return row | {
        "value": value,
        "reference_value": exact,
        "value_error": abs(value / exact - 1),
        "weights_error": weights,
    }


def plot(path: Path, rows: list[Row]) -> None:
    """Errors of the map by method, a panel per problem."""
    problems = list(dict.fromkeys(str(row["problem"]) for row in rows))
    with drawing(path, 2, -(-len(problems) // 2), height=1.7) as (figure, axes):
        for axis, problem in zip(axes.flat, problems, strict=False):
            own = [row for row in rows if row["problem"] == problem]
            axis.barh([str(r["method"]) for r in own], [float(r["map_error"]) for r in own])
            axis.invert_yaxis()
            axis.set_title(problem)
        for axis in axes.flat[len(problems) :]:
            axis.set_axis_off()
        figure.supxlabel("error of the map, relative")


@user_errors
def run(config: Config, out: Path) -> list[Check]:
    """Train, compare, draw; written to `out`."""
    torch.set_num_threads(1)
    problems = [
        points(config, dimension, shares)
        for shares in ((0.25, 0.75), (0.5, 0.5))
        for dimension in (2, 16)
    ]
    if config.images:
        problems.append(pictures(config))
    rows = [compared(config, problem, method) for problem in problems for method in METHODS]
    write_csv(out / "exact.csv", rows)
    plot(out / "exact", rows)
    keys = ("rate", "map_error", "identity_error", "value", "reference_value", "value_error")
    shown: list[tuple[str, ...]] = [("problem", "method", *keys, "weights_error")]
    for row in rows:
        numbers = [f"{float(row[key]):.4g}" for key in keys]
        last = f"{row['weights_error']:.3g}" if row["weights_error"] != "" else ""
        shown.append((str(row["problem"]), str(row["method"]), *numbers, last))
    print(table(shown))
    toy = [row for row in rows if row["method"] == "ISUM" and "images" not in str(row["problem"])]
    checks = [
        at_most(f"ISUM, {row['problem']}: error of the value", float(row["value_error"]), 0.03)
        for row in toy
    ]
    made = provenance("isum exact", without_folders(config))
    about = {"torch": torch.__version__, "device": "CPU"}
    listed = [dataclasses.asdict(check) for check in checks]
    write_json(out / "exact.json", {**made, **about, "exact": rows, "checks": listed})
    return checks
