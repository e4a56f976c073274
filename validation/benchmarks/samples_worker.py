"""One question about many samples in a process of its own: prints times and memory as JSON.

``python -m validation.benchmarks.samples_worker mapped FOLDER RUNS | blocks N WIDTH SEED |
dask N WIDTH PROCESSES SEED``
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import worst_case_risk
from dro_core.types import Array

#: Rows of the blocks of the plain loop and of the synthetic samples.
ROWS = 4096


def anonymous_bytes() -> int:
    """Memory of this process that no file backs (pages of a memory map come and go)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("RssAnon: not in /proc/self/status; this figure needs Linux")


class Peak:
    """The largest memory above that at the start, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.start, self.bytes, self._done = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, anonymous_bytes() - self.start)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def map_of(size: int, seed: int) -> Array:
    """A random square map of norm about two."""
    return np.asarray(np.random.default_rng(seed).standard_normal((size, size)) / np.sqrt(size))


def plain_masses(B: Array, x: Any, y: Any) -> Array:
    """What one would write: the residuals' mass on the singular vectors, in a loop over blocks."""
    basis, mass = np.linalg.eigh(B @ B.T)[1], np.zeros(len(B))
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        residual = x[rows].astype(np.float64) - y[rows].astype(np.float64) @ B.T
        mass += ((residual @ basis) ** 2).sum(axis=0)
    return mass / len(x)


def mapped(folder: str, runs: int) -> dict[str, Any]:
    """Processor times of the worst case, its certificate and the plain loop, in turn."""
    x, y = (np.load(Path(folder) / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    B = map_of(x.shape[1], 1)
    plain_masses(B, x, y)
    times: list[list[float]] = []
    with Peak() as peak:
        for _ in range(runs):
            marks = [time.process_time()]
            worst = worst_case_risk(B, x, y, 1.0)
            marks.append(time.process_time())
            certificate = worst.verify()
            marks.append(time.process_time())
            plain_masses(B, x, y)
            times.append([*np.diff(marks).tolist(), time.process_time() - marks[-1]])
    ours, check, plain = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "risk_seconds": ours,
        "verify_seconds": check,
        "plain_seconds": plain,
        "risk_over_plain": statistics.median(a / c for a, _, c in times),
        "verify_over_risk": statistics.median(b / a for a, b, _ in times),
        "peak_bytes": peak.bytes,
        "gap": certificate.gap,
        "certified": certificate.holds(),
    }


class Synthetic:
    """Blocks of random float32 samples, made anew whenever they are read."""

    def __init__(self, count: int, width: int, seed: int) -> None:
        self.count, self.width, self.seed = count, width, seed

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for start in range(0, self.count, ROWS):
            rng = np.random.default_rng([self.seed, start])
            shape = 2, min(ROWS, self.count - start), self.width
            x, y = rng.standard_normal(shape, dtype=np.float32)
            yield x, y


def blocks(count: int, width: int, seed: int) -> dict[str, Any]:
    """Worst case and certificate of synthetic blocks; what making them takes is in the times."""
    source, B = Synthetic(count, width, seed), map_of(width, seed)
    start = time.process_time()
    for _ in source:
        pass
    made = time.process_time()
    with Peak() as peak:
        worst = worst_case_risk(B, source, None, 1.0)
        found = time.process_time()
        certificate = worst.verify()
    return {
        "making_seconds": made - start,
        "risk_seconds": found - made,
        "verify_seconds": time.process_time() - found,
        "peak_bytes": peak.bytes,
        "gap": certificate.gap,
        "certified": certificate.holds(),
    }


def dask(count: int, width: int, processes: int, seed: int) -> dict[str, Any]:
    """Wall time of worst case and certificate on a local cluster, samples made by the workers."""
    import dask.array as da
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        rng = da.random.default_rng(seed)
        x, y = (rng.standard_normal((count, width), chunks=(20_000, width)) for _ in range(2))
        B = map_of(width, seed)
        worst_case_risk(B, x[:40_000], y[:40_000], 1.0)  # workers import what they need
        start = time.perf_counter()
        worst = worst_case_risk(B, x, y, 1.0)
        certificate = worst.verify()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "gap": certificate.gap, "certified": certificate.holds()}


def main(kind: str, *arguments: str) -> None:
    if kind == "mapped":
        found = mapped(arguments[0], int(arguments[1]))
    elif kind == "blocks":
        found = blocks(*map(int, arguments))
    else:
        found = dask(*map(int, arguments))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
