"""Benchmark of transport-map training: an iteration against the bare passes that it needs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.physics import Convolution, gaussian_kernel
from dro_torch.transport_map import fit_transport_map
from validation.benchmarks.timing import median_ratio
from validation.results import Check, at_most
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Networks and batch; those of the quick experiment by default."""

    side: int = setting(32, "images of side x side pixels", low=1)
    channels: int = setting(1, "channels of the images", low=1)
    map: str = setting("small", "widths of the map")
    potential: int = setting(8, "width of the potential", low=1)
    batch_size: int = setting(16, "images in a batch", low=1)
    runs: int = setting(25, "timed iterations", low=1)
    device: str = setting("cpu", "torch device")
    seed: int = setting(0, "seed")


def bare_passes(
    T: TransportMap,
    v: Potential,
    A: Callable[[Tensor], Tensor],
    y: Tensor,
    x: Tensor,
    scale: float,
    penalty: float,
) -> Callable[[], None]:
    """The forward and backward passes of both steps, written out: no checks, no optimisers."""
    weights = list(v.parameters())

    def cost(moved: Tensor) -> Tensor:
        squares: Tensor = (A(moved) - y) ** 2 + (moved - y) ** 2
        return scale * squares.flatten(1).sum(1)

    def passes() -> None:
        for p in weights:
            p.requires_grad_(True)
        with torch.no_grad():
            moved = T(y)
            c = cost(moved)
        point = x.detach().requires_grad_()
        there = v(point)
        (slope,) = torch.autograd.grad(there.sum(), point, create_graph=True)
        objective = torch.expm1(v(moved) - c).mean() + torch.expm1(-there).mean()
        (objective + penalty / 2 * slope.flatten(1).square().sum(1).mean()).backward()
        for p in weights:
            p.requires_grad_(False)
            p.grad = None
        moved = T(y)
        (cost(moved) - v(moved)).mean().backward()
        for p in T.parameters():
            p.grad = None

    return passes


def rows(config: Config) -> list[Check]:
    """Iterations of the engine and bare passes in turn, in one process."""
    generator = torch.Generator().manual_seed(config.seed)

    def networks() -> tuple[TransportMap, Potential]:
        seeded = torch.Generator().manual_seed(config.seed)
        return (
            TransportMap(config.channels, config.map, generator=seeded).to(config.device),
            Potential(config.channels, config.side, config.potential, generator=seeded).to(
                config.device
            ),
        )

    def wait() -> float:
        if config.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    shape = (4 * config.batch_size, config.channels, config.side, config.side)
    images = 2 * torch.rand(shape, generator=generator) - 1
    A = Convolution(gaussian_kernel(1.5), "reflect").to(config.device)
    scale, penalty = 0.01, 0.03
    y, x = (part.to(config.device) for part in images[: 2 * config.batch_size].chunk(2))
    bare = bare_passes(*networks(), A.A, y, x, scale, penalty)
    engine, passes, clock = [], [], [wait()]

    def in_turn(_row: dict[str, float]) -> None:
        here = wait()
        engine.append(here - clock[0])
        bare()
        clock[0] = wait()
        passes.append(clock[0] - here)

    T, v = networks()
    loss = UnbalancedOTLoss(LikelihoodCost(A, scale=scale), gradient_penalty=penalty)
    fit_transport_map(
        T,
        v,
        loss,
        images,
        images.flip(0),
        config.runs + 3,
        seed=config.seed,
        map_rate=1e-5,
        potential_rate=1e-5,
        batch_size=config.batch_size,
        device=config.device,
        progress=False,
        log=in_turn,
        log_every=1,
        validate_every=config.runs + 3,
    )
    pairs = list(zip(engine, passes, strict=True))[2 : 2 + config.runs]
    ratio = statistics.median(a / b for a, b in pairs)
    print(
        f"iteration of the engine {1e3 * statistics.median(a for a, _ in pairs):.1f} ms, bare "
        f"passes {1e3 * statistics.median(b for _, b in pairs):.1f} ms"
    )
    return [
        at_most("an iteration of both steps / its bare forward and backward passes", ratio, 1.15),
        *map_step_rows(config, loss, T, v, y),
    ]


def map_step_rows(
    config: Config, loss: UnbalancedOTLoss, T: TransportMap, v: Potential, y: Tensor
) -> list[Check]:
    """The map's step with v as a module, and as a function whose parameters are differentiated."""
    for p in v.parameters():
        p.requires_grad_(True)

    def step(potential: Any) -> None:
        loss.map_loss(potential, T, y).backward()

    v.zero_grad()
    step(v)
    built = sum(p.grad is not None for p in v.parameters())
    _, _, saved = median_ratio(lambda: step(v), lambda: step(lambda x: v(x)), config.runs)
    print(f"map's step with v held constant / with gradients of its parameters: {saved:.2f}")
    return [at_most("gradients of v's parameters that the map's step builds", built, 0)]
