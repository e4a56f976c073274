"""Benchmarks of samples that do not fit: memory maps, synthetic blocks, Dask on two processes.

Every figure in a process of its own. Times are processor times, ratios those of one run; Dask's is
wall time, and left out where Dask is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from validation.results import Check, at_least, at_most, progress, provenance, write_json
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Sizes; the defaults are the figures that are claimed."""

    samples: int = setting(200_000, "mapped samples N", low=1)
    size: int = setting(256, "their n = m", low=1)
    runs: int = setting(5, "timed runs of the mapped row", low=1)
    synthetic: int = setting(10_000_000, "synthetic samples", low=1)
    width: int = setting(64, "their n = m, and that of Dask's", low=1)
    dask: int = setting(1_000_000, "samples of the Dask row", low=1)
    seed: int = setting(0, "seed", low=0)


def in_process(*arguments: object) -> dict[str, Any]:
    """What the worker prints."""
    command = [sys.executable, "-m", "validation.benchmarks.samples_worker", *map(str, arguments)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"  {' '.join(map(str, arguments[:1]))}: {found}")
    return found


def mapped_row(config: Config) -> tuple[dict[str, Any], list[Check]]:
    """Memory-mapped float32 samples against a plain loop with the same products."""
    with tempfile.TemporaryDirectory() as folder:
        for k, name in enumerate(("x.npy", "y.npy")):
            shape = config.samples, config.size
            rows = np.lib.format.open_memmap(Path(folder) / name, "w+", np.float32, shape)
            rng = np.random.default_rng([config.seed, k])
            for start in range(0, config.samples, 10_000):
                part = rows[start : start + 10_000]
                part[:] = rng.standard_normal(part.shape, dtype=np.float32)
            rows.flush()
        found = in_process("mapped", folder, config.runs)
    which = f"mapped float32, N = {config.samples}, n = {config.size}"
    return found, [
        at_most(f"{which}: risk / plain block loop", found["risk_over_plain"], 1.2),
        at_most("the same: verify / risk", found["verify_over_risk"], 2.0),
        at_most("the same: peak memory in MiB, verify included", found["peak_bytes"] / 2**20, 150),
        at_least("the same: certified", float(found["certified"]), 1.0),
    ]


def synthetic_row(config: Config) -> tuple[dict[str, Any], list[Check]]:
    """Blocks that exist only while they are read."""
    found = in_process("blocks", config.synthetic, config.width, config.seed)
    which = f"synthetic blocks, N = {config.synthetic}, n = {config.width}"
    return found, [
        at_most(f"{which}: peak memory in MiB", found["peak_bytes"] / 2**20, 150),
        at_least("the same: certified", float(found["certified"]), 1.0),
    ]


def dask_row(config: Config) -> tuple[dict[str, Any], list[Check]]:
    """The same graph on one worker process and on two."""
    if importlib.util.find_spec("distributed") is None:
        print("  dask: not installed, left out")
        return {}, []
    arguments = config.dask, config.width
    one = in_process("dask", *arguments, 1, config.seed)
    two = in_process("dask", *arguments, 2, config.seed)
    ratio = two["seconds"] / one["seconds"]
    return {"one": one, "two": two}, [
        at_most(f"Dask, N = {config.dask}: two processes / one, wall time", ratio, 0.65)
    ]


def run(config: Config, out: Path) -> list[Check]:
    """All rows; written to `out`."""
    rows: dict[str, Any] = {}
    checks: list[Check] = []
    for name, row in progress(
        [("mapped", mapped_row), ("synthetic", synthetic_row), ("dask", dask_row)], "rows"
    ):
        rows[name], found = row(config)
        checks += found
    made = provenance("benchmarks samples", config)
    write_json(out / "samples.json", {**made, "rows": rows, "checks": checks})
    return checks
