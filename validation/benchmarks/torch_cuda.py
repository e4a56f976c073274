"""Benchmarks of dro_torch on a CUDA device: steps against plain passes and against the floor.

The floor is the time that the step's arithmetic and the traffic of its activations take at the
rates of one large matrix product and one large copy, measured in the same run; it counts no
launches. Every loss is compared with its value on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from validation.benchmarks.text import cell
from validation.benchmarks.timing import median_ratio, median_seconds
from validation.benchmarks.torch_settings import require_torch
from validation.results import Check, at_most, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting

if TYPE_CHECKING:
    from torch import Tensor


def is_device(name: str) -> bool:
    """Whether torch has such a kind of device."""
    return name.split(":")[0] in ("cuda", "cpu")


def are_sides(text: str) -> bool:
    """Whether these are integers >= 1, separated by commas."""
    try:
        return min(int(side) for side in text.split(",")) >= 1
    except ValueError:
        return False


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    device: str = setting(
        "cuda",
        "torch device; cpu runs the same rows for a test of the code",
        rule=(is_device, "cuda, cuda:N, cpu"),
    )
    sides: str = setting(
        "28,128",
        "images of side x side pixels, a row each",
        rule=(are_sides, "integers >= 1 separated by commas"),
    )
    batch: int = setting(32, "images in a step", low=1)
    draws: int = setting(8, "draws K of a step", low=1)
    width: int = setting(32, "channels of the UNet at full resolution", low=1)
    depth: int = setting(2, "levels of the UNet", low=1)
    matrix: int = setting(
        8192, "size of the matrix product that measures the arithmetic rate", low=1
    )
    copy: int = setting(2**30, "bytes of the copy that measures the memory rate", low=1)
    runs: int = setting(20, "timed runs", low=1)
    compiled: bool = setting(True, "time compiled networks too")
    projector: int = setting(256, "side of the projector's images", low=1)
    views: int = setting(360, "its views", low=1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sides."""
        return tuple(int(side) for side in self.sides.split(","))


def run(config: Config, out: Path) -> list[Check]:
    """All rows; written to `out`."""
    torch = require_torch()
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ChildProcessError(
            "benchmarks cuda: needs a CUDA device, and torch finds none "
            f"(torch {torch.__version__})"
        )
    device = torch.device(config.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    flops, traffic = rates(config, device)
    print(f"{kind}: {flops / 1e12:.3g} TFLOP/s (bf16 product), {traffic / 1e9:.4g} GB/s (copy)")
    checks, rows = [], []
    for side in config.sizes:
        for compiled in (False, True) if config.compiled else (False,):
            row = step_row(config, device, side, compiled, flops, traffic)
            rows.append(row)
            how = "compiled" if compiled else "not compiled"
            checks.append(
                at_most(
                    f"step, K = {config.draws} / K plain steps, UNet {side} x {side}, bf16, {how}",
                    row["ratio"],
                    1.15,
                )
            )
    columns = list(rows[0])
    print(table([columns, *([cell(row[c]) for c in columns] for row in rows)]))
    write_csv(out / "steps.csv", rows)
    found, loss_rows = loss_checks(config, device)
    checks += found
    write_csv(out / "losses.csv", loss_rows)
    found, projector_rows = projector_checks(config, device)
    checks += found
    write_csv(out / "projector.csv", projector_rows)
    made = provenance("benchmarks cuda", config)
    made["versions"] |= {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    write_json(
        out / "cuda.json",
        {
            **made,
            "device": kind,
            "flops_per_second": flops,
            "bytes_per_second": traffic,
            "steps": rows,
            "losses": loss_rows,
            "projector": projector_rows,
            "checks": checks,
            "holds": [check.holds for check in checks],
        },
    )
    return checks


def finished(device: Any, action: Callable[[], Any]) -> Callable[[], None]:
    """The action followed by a wait for the device."""
    import torch

    def whole() -> None:
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


def rates(config: Config, device: Any) -> tuple[float, float]:
    """FLOP/s of a bf16 matrix product and bytes/s, read and written, of a copy."""
    import torch

    a, b = torch.ones(2, config.matrix, config.matrix, device=device, dtype=torch.bfloat16)
    product = median_seconds(finished(device, partial(torch.mm, a, b)), config.runs)
    source = torch.zeros(config.copy, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    copied = median_seconds(finished(device, partial(target.copy_, source)), config.runs)
    return 2 * config.matrix**3 / product, 2 * config.copy / copied


def step_row(
    config: Config, device: Any, side: int, compiled: bool, flops: float, traffic: float
) -> dict[str, Any]:
    """One step with K draws: seconds, those of K plain steps, and the floor."""
    import torch

    from dro_torch.losses.entropic import EntropicDROLoss
    from dro_torch.nets import UNet

    generator = torch.Generator().manual_seed(0)
    network: Any = UNet(1, 1, depth=config.depth, width=config.width, generator=generator)
    network = network.to(device=device, memory_format=torch.channels_last)
    images = torch.rand(2, config.batch, 1, side, side, generator=generator).to(device)
    x, y = (part.contiguous(memory_format=torch.channels_last) for part in images)
    arithmetic, bytes_moved = work(network, x, y)
    if compiled:
        network = torch.compile(network)
    loss = EntropicDROLoss(0.08, samples=config.draws)
    multiplier = torch.tensor(100.0, device=device)

    def plain() -> None:
        network.zero_grad()
        for _ in range(config.draws):
            with torch.autocast(device.type, torch.bfloat16):
                value = (x - network(y)).float().square().sum()
            value.backward()

    def step() -> None:
        network.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(network, x, y, multiplier)
        value.backward()

    ours, theirs, ratio = median_ratio(finished(device, step), finished(device, plain), config.runs)
    floor = config.draws * max(arithmetic / flops, bytes_moved / traffic)
    peak = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        finished(device, step)()
        peak = torch.cuda.max_memory_allocated(device)
    return {
        "side": side,
        "compiled": compiled,
        "step seconds": ours,
        "K plain steps": theirs,
        "ratio": ratio,
        "floor": floor,
        "step / floor": ours / floor,
        "GFLOP": config.draws * arithmetic / 1e9,
        "GB": config.draws * bytes_moved / 1e9,
        "peak MiB": peak / 2**20,
    }


def work(network: Any, x: Tensor, y: Tensor) -> tuple[float, float]:
    """FLOPs and bytes (bf16) of one forward-backward pass.

    Every layer reads its input and writes its output once forward; backward it reads both and the
    output's gradient, and writes the input's.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    entries = 0

    def count(_module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal entries
        entries += 3 * (sum(t.numel() for t in inputs) + output.numel())

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(count) for leaf in leaves]
    with FlopCounterMode(display=False) as counter:
        torch.square(x - network(y)).sum().backward()
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), 2.0 * entries


def loss_checks(config: Config, device: Any) -> tuple[list[Check], list[dict[str, Any]]]:
    """Value and parameter gradient of every loss on the device against the CPU."""
    import torch

    rows: list[dict[str, Any]] = []
    for dtype, limit in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        here = evaluated(torch.device("cpu"), dtype)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            there = evaluated(device, dtype)
        for name, expected in progress(list(here.items()), f"losses, {dtype}"):
            difference = float((there[name] - expected).norm() / expected.norm())
            rows.append(
                {
                    "loss": name,
                    "dtype": str(dtype),
                    "relative difference": difference,
                    "limit": limit,
                }
            )
    print(table([list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]))
    checks = []
    for name, limit in {row["dtype"]: row["limit"] for row in rows}.items():
        largest = max(row["relative difference"] for row in rows if row["dtype"] == name)
        claim = f"every loss, value and gradient on {device.type} / on the CPU - 1, {name}"
        checks.append(at_most(claim, largest, limit))
    return checks, rows


def evaluated(device: Any, dtype: Any) -> dict[str, Tensor]:
    """Value and gradient of every loss for one small network and batch, on the CPU."""
    import torch

    from dro_torch.losses.adversarial import WassersteinDROLoss
    from dro_torch.losses.bound import BoundLoss
    from dro_torch.losses.entropic import EntropicDROLoss
    from dro_torch.losses.linearised import LinearisedDROLoss
    from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
    from dro_torch.nets import UNet

    generator = torch.Generator().manual_seed(1)
    network = UNet(1, 1, depth=1, width=4, activation="softplus", generator=generator)
    potential = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1))
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    x, y = torch.rand(2, 4, 1, 8, 8, generator=generator).to(device, dtype)
    network, potential = network.to(device, dtype), potential.to(device, dtype)
    index = torch.arange(4, device=device)

    def call(loss: Any) -> Callable[[], Tensor]:
        return lambda: loss(network, x, y, 400.0)

    entropic = {
        f"entropic, {name}": partial(
            EntropicDROLoss(0.1, samples=8, **options), network, x, y, 400.0, index=index, seed=1
        )
        for name, options in (
            ("sg", {}),
            ("chunked", {"chunk": 4}),
            ("antithetic", {"antithetic": True}),
            ("rt-mlmc", {"estimator": "rt-mlmc"}),
            ("tilted", {"estimator": "tilted", "rank": 2, "sweeps": 4}),
        )
    }
    cost = LikelihoodCost(torch.nn.Identity(), scale=0.1)
    transport = UnbalancedOTLoss(cost, gradient_penalty=1.0)
    losses: dict[str, Callable[[], Tensor]] = {
        **entropic,
        "Wasserstein": call(WassersteinDROLoss(steps=3)),
        "linearised": call(LinearisedDROLoss()),
        "bound": lambda: BoundLoss(0.5, lipschitz=2.0)(network, x, y),
        "unbalanced, potential": lambda: transport.potential_loss(potential, network, y, x),
        "unbalanced, map": lambda: transport.map_loss(potential, network, y),
    }
    found = {}
    for name, loss in losses.items():
        trained = potential if name == "unbalanced, potential" else network
        value = loss()
        gradients = torch.autograd.grad(value, list(trained.parameters()), allow_unused=True)
        parts = [value, *(g for g in gradients if g is not None)]
        found[name] = torch.cat([p.detach().double().cpu().reshape(-1) for p in parts])
    return found


def projector_checks(config: Config, device: Any) -> tuple[list[Check], list[dict[str, Any]]]:
    """Fan-beam projection, its adjoint and FBP on the device: times, agreement with the CPU."""
    import numpy as np
    import torch

    from dro_torch.tomography import FanBeamGeometry, FanBeamProjector, fan_beam_fbp

    side = config.projector
    angles = np.linspace(0, 2 * np.pi, config.views, endpoint=False)
    geometry = FanBeamGeometry(3.0 * side, 4.5 * side, 1.5, 3 * side // 2, angles, side, 1.0)
    generator = torch.Generator().manual_seed(0)
    projector = FanBeamProjector(geometry)
    image = torch.rand(1, 1, *geometry.image_shape, generator=generator)
    sinogram = projector.A(image)
    jobs: list[tuple[str, Callable[[], Tensor]]] = [
        ("projection", lambda: projector.A(image)),
        ("back-projection", lambda: projector.A_adjoint(sinogram)),
        ("filtered back-projection", lambda: fan_beam_fbp(sinogram, geometry)),
    ]
    expected = [job() for _, job in jobs]
    projector, image, sinogram = projector.to(device), image.to(device), sinogram.to(device)
    rows: list[dict[str, Any]] = []
    for (name, job), before in zip(jobs, expected, strict=True):
        seconds = median_seconds(finished(device, job), config.runs)
        after = job().cpu()
        rows.append(
            {
                "operation": name,
                "side": side,
                "views": config.views,
                "seconds": seconds,
                "relative difference from the CPU": float((after - before).norm() / before.norm()),
            }
        )
    print(table([list(rows[0]), *([cell(v) for v in row.values()] for row in rows)]))
    largest = max(row["relative difference from the CPU"] for row in rows)
    return [at_most("projector and FBP: relative difference from the CPU", largest, 1e-4)], rows
