"""Benchmarks of dro_torch: cost and accuracy of its losses, estimators and multiplier.

The rows of the projector and of the data loader are taken from their own modules.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from validation.benchmarks.torch_settings import Config, require_torch
from validation.results import Check, check_table, provenance, write_json

__all__ = ["Config", "neighbour_rows", "run"]


def neighbour_rows(name: str) -> list[Check]:
    """The rows of the projector or of the data loader, by their own settings."""
    module = importlib.import_module(f"validation.benchmarks.torch_{name}")
    found: list[Check] = module.rows(module.Config())
    return found


def run(config: Config, out: Path) -> list[Check]:
    """All chosen rows; every part is written to `out` as soon as it is there."""
    torch = require_torch()
    from validation.benchmarks import torch_estimators, torch_losses, torch_multiplier

    parts: dict[str, Callable[[Config, Path], list[Check]]] = {
        "step": torch_losses.step_rows,
        "oracle": torch_losses.oracle_rows,
        "sinkhorn": torch_losses.sinkhorn_rows,
        "deblurring": torch_estimators.deblurring_rows,
        "network": torch_estimators.network_rows,
        "multiplier": torch_multiplier.multiplier_rows,
        "projector": lambda _config, _out: neighbour_rows("projector"),
        "data": lambda _config, _out: neighbour_rows("data"),
        "isum": lambda _config, _out: neighbour_rows("isum"),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    checks: list[Check] = []
    try:
        for part in config.chosen:
            print(f"\n== {part}")
            found = parts[part](config, out)
            print("\n" + check_table(found))
            checks += found
            made = provenance("benchmarks torch", config)
            made["versions"]["torch"] = torch.__version__
            write_json(
                out / "torch.json", {**made, "checks": checks, "holds": [c.holds for c in checks]}
            )
    finally:
        torch.set_num_threads(threads)
    return checks
