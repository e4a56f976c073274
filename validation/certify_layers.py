"""Certify layers: ways to a narrow interval, at what error and at what cost of a training step.

U-Nets of this package (plain, spectral in three sizes, plain with the Wasserstein loss) and chains
of the 1-Lipschitz layers of deel-torchlip and orthogonium where those are installed, all trained to
denoise MNIST and certified as `certify` does. The constants of the others' layers are proved here
from their weights, not taken from their names.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from validation.certify import RADII
from validation.errors import mendable
from validation.results import Check, at_least, at_most, provenance, table, write_csv, write_json
from validation.settings import Settings, setting, without_folders
from validation.tables import Row, column

#: Convolutions of a chain, and its channels.
LAYERS, CHANNELS = 6, 16


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the experiment."""

    data: str = setting(
        "", "data root with mnist/; otherwise the environment variable DRO_DATA", folder=True
    )
    images: int = setting(200, "test images", low=1)
    steps: int = setting(400, "training steps of each network", low=1)
    batch: int = setting(64, "images per training step", low=1)
    width: int = setting(8, "channels of the U-Nets at full resolution", low=1)
    noise: float = setting(0.3, "standard deviation of the noise that is removed", low=0)
    radius: float = setting(2.0, "radius of the Wasserstein loss", above=0)
    ascent: int = setting(10, "ascent steps of the attack", low=1)
    seed: int = setting(0, "seed")


@dataclass(frozen=True)
class Entry:
    """A network, the loss that it is trained with (None: mean squared error), its noise."""

    name: str
    network: Any
    loss: Any
    noise: float


def entries(config: Config) -> Iterator[Entry]:
    """Everything that can be built here; what is not installed is said and left out."""
    import torch

    from dro_torch import WassersteinBallLoss, nets

    def unet(width: int, **form: Any) -> Any:
        generator = torch.Generator().manual_seed(config.seed)
        return nets.UNet(1, 1, 2, width, generator=generator, **form)

    spectral = {"spectral": True, "lipschitz": 1.0}
    width, noise = config.width, config.noise
    yield Entry("plain", unet(width), None, noise)
    ball = WassersteinBallLoss(config.radius)
    yield Entry("plain, Wasserstein loss", unet(width), ball, 0.0)
    yield Entry("spectral", unet(width, **spectral), None, noise)
    small = {**spectral, "steps": 1, "expansion": 1}
    yield Entry("spectral, one narrow step", unet(width, **small), None, noise)
    yield Entry("the same, twice as wide", unet(2 * width, **small), None, noise)
    for library, chain in (("deel.torchlip", _groupsort), ("orthogonium", _orthogonal)):
        if importlib.util.find_spec(library.partition(".")[0]) is None:
            print(f"{library} is not installed: its layers are left out")
            continue
        torch.manual_seed(config.seed)
        yield Entry(f"chain of {library}", chain(), None, noise)


def _chain(convolve: Callable[[int, int], Any], sort: type) -> Any:
    """Convolutions with sorted pairs of channels between them; sorting has the constant 1."""
    from torch import nn

    from dro_torch import register_lipschitz

    register_lipschitz(sort)(lambda module, bounds: 1.0)
    sizes = [1, *[CHANNELS] * (LAYERS - 1), 1]
    layers: list[Any] = []
    for before, after in itertools.pairwise(sizes):
        layers += [convolve(before, after), sort()]
    return nn.Sequential(*layers[:-1])


def _groupsort() -> Any:
    """Björck-orthogonalised kernels with zero padding, GroupSort2."""
    torchlip = importlib.import_module("deel.torchlip")
    return _chain(lambda a, b: torchlip.SpectralConv2d(a, b, 3, padding=1), torchlip.GroupSort2)


def _orthogonal() -> Any:
    """Orthogonal convolutions (AOC) with circular padding, MaxMin."""
    aoc = importlib.import_module("orthogonium.layers.conv.AOC")
    activations = importlib.import_module("orthogonium.layers.custom_activations")
    return _chain(
        lambda a, b: aoc.AdaptiveOrthoConv2d(a, b, 3, padding=1, padding_mode="circular"),
        activations.MaxMin,
    )


def plainly(network: Any) -> Any:
    """Torch's own convolutions, with the weights that parametrisations compute now; for good.

    A copy would not save the network: both have one class, and the parametrisation lives in it.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    fixed = network.eval()
    for layer in list(fixed.modules()):
        for name in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
    if isinstance(fixed, nn.Sequential):
        fixed = nn.Sequential(*(_convolution(layer) for layer in fixed))
    return fixed.requires_grad_(False)


def _convolution(layer: Any) -> Any:
    """The convolution that a subclass of it computes; other layers as they are."""
    from torch import nn

    if not isinstance(layer, nn.Conv2d) or type(layer) is nn.Conv2d:
        return layer
    settings: dict[str, Any] = {
        name: getattr(layer, name) for name in ("kernel_size", "padding", "padding_mode")
    }
    own = nn.Conv2d(layer.in_channels, layer.out_channels, **settings)
    own.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    return own


def row_of(config: Config, entry: Entry, learn: Any, x: Any) -> Row:
    """Train, measure and certify one network."""
    import torch

    from dro_torch import certificate_curve
    from validation.noisy_training import fit_with_noise, squared_errors

    start = time.process_time()
    trained = fit_with_noise(
        entry.network,
        learn,
        entry.noise,
        steps=config.steps,
        batch=config.batch,
        seed=config.seed,
        loss=entry.loss,
    )
    seconds = (time.process_time() - start) / config.steps
    before = trained(x)
    fixed = plainly(trained)
    apart = float((fixed(x) - before).abs().max())
    if apart > 1e-4:
        raise AssertionError(f"{entry.name}: the certified copy differs by {apart:.2g}")
    generator = torch.Generator().manual_seed(config.seed + 1)
    noisy = x + config.noise * torch.randn(x.shape, generator=generator)
    found = certificate_curve(fixed, x, x, RADII, steps=config.ascent)
    print(f"{entry.name}\n{found[1]}\n")
    row: Row = {
        "network": entry.name,
        "parameters": sum(p.numel() for p in entry.network.parameters()),
        "cpu seconds per step": seconds,
        "clean risk": float(squared_errors(fixed, x, x).mean()),
        "risk at the noise": float(squared_errors(fixed, x, noisy).mean()),
        "constant": _proved(found[0].lipschitz),
    }
    for certificate in found:
        where = f"{certificate.radius:g}"
        row |= {
            f"lower {where}": certificate.lower,
            f"upper {where}": _proved(certificate.upper),
            f"upper / lower {where}": _proved(certificate.slack),
        }
    return row


def _proved(value: float | None) -> float:
    """What every layer here has a rule for."""
    if value is None:
        raise AssertionError("a layer without a rule")
    return value


def checks_of(rows: list[Row]) -> list[Check]:
    """The goals: a cheap step, and a narrow interval at the plain network's error."""
    plain, small = (
        next(row for row in rows if row["network"] == name)
        for name in ("plain", "spectral, one narrow step")
    )
    ratios = {
        row["network"]: [float(row[f"upper / lower {rho:g}"]) for rho in RADII] for row in rows
    }
    in_order = [ratio >= 1.0 for own in ratios.values() for ratio in own]

    def over_plain(key: str) -> float:
        return float(small[key]) / float(plain[key])

    return [
        at_least("intervals in order, share", sum(in_order) / len(in_order), 1.0),
        at_most(
            "spectral, one narrow step: its time / a plain one",
            over_plain("cpu seconds per step"),
            1.5,
        ),
        at_most("the same: RMSE at the noise / plain", over_plain("risk at the noise") ** 0.5, 1.1),
        at_most("the same: RMSE on clean images / plain", over_plain("clean risk") ** 0.5, 1.1),
        at_most("the same: upper / lower, largest", max(ratios[small["network"]]), 1.1),
    ]


def run(config: Config, out: Path) -> list[Check]:
    """All networks; written to `out`."""
    import torch

    from dro_torch import data

    with mendable(data.DataFileError):
        learn = data.IndexedDataset(data.mnist("train", config.data or None).images)
        test = data.IndexedDataset(data.mnist("test", config.data or None).images)
    x = test[torch.arange(min(config.images, len(test)))][1]
    rows = [row_of(config, entry, learn, x) for entry in entries(config)]
    first = float(column(rows[:1], "cpu seconds per step")[0])
    for row in rows:
        row["step / plain"] = float(row["cpu seconds per step"]) / first
    write_csv(out / "certify_layers.csv", rows)
    shown = ["network", "step / plain", "clean risk", "risk at the noise", "constant"]
    shown += [f"{end} 1" for end in ("lower", "upper", "upper / lower")]
    cells = [[f"{r[k]:.4g}" if isinstance(r[k], float) else str(r[k]) for k in shown] for r in rows]
    print(table([shown, *cells]))
    checks = checks_of(rows)
    made = provenance("certify layers", without_folders(config))
    write_json(out / "certify_layers.json", {**made, "checks": checks, "rows": rows})
    return checks
