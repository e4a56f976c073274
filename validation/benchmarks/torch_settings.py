"""Settings of the benchmarks of dro_torch, and torch where it is installed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from validation.errors import UsageError
from validation.settings import Settings, setting

PARTS = (
    "step",
    "oracle",
    "deblurring",
    "network",
    "sinkhorn",
    "multiplier",
    "projector",
    "data",
    "isum",
)


@dataclass(frozen=True)
class Config(Settings):
    """Sizes of the rows; the defaults are the figures that are claimed."""

    data: str = setting("", "data root (MNIST); empty: DRO_DATA, and without it drawn shapes")
    peer_python: str = setting("", "interpreter of the peers' environment, for dro's step")
    parts: str = setting("all", "rows to run, separated by commas: " + ", ".join(PARTS))
    width: int = setting(8, "channels of the UNet", low=1)
    batch: int = setting(32, "images in a step", low=1)
    draws: int = setting(8, "draws K of a step", low=1)
    runs: int = setting(25, "timed runs per row", low=1)
    rows: int = setting(8000, "samples times replicates in one call of the oracle rows", low=1)
    calls: int = setting(12, "calls of the oracle rows; more for the bias", low=1)
    images: int = setting(8, "images of the 784-pixel rows", low=1)
    replicates: int = setting(8, "seeds of the 784-pixel rows", low=1)
    train_steps: int = setting(300, "Adam steps of the network", low=1)
    train_images: int = setting(4000, "images that train the network", low=1)
    network_images: int = setting(4, "images of the network rows", low=1)
    seeds: int = setting(12, "seeds of the network rows", low=1)
    budget: int = setting(64, "network passes per sample in the network rows", low=1)
    reference: int = setting(4096, "draws of the network rows' references", low=1)
    steps: int = setting(2000, "longest training of the multiplier rows", low=1)
    seed: int = setting(0, "seed", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = set(self.chosen) - set(PARTS)
        if unknown:
            raise UsageError(
                f"--set parts: {', '.join(sorted(unknown))}; allowed: all, {', '.join(PARTS)}"
            )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The parts to run, in their order."""
        if self.parts == "all":
            return PARTS
        return tuple(part.strip() for part in self.parts.split(","))


def require_torch() -> ModuleType:
    """The torch package, or an error that ends the command with exit status 2."""
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise ChildProcessError(
            "torch is not installed; pip install 'structured-dro[torch]'"
        ) from error
