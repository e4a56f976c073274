"""One large finite-support problem in a process of its own: prints time and peak memory as JSON.

``python -m validation.benchmarks.finite_memory ROWS DIMENSION SEED``
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import finite_worst_case, quadratic_candidates
from validation.results import progress


def peak_bytes() -> int:
    """Peak resident memory of this process (on Linux without what it inherited before exec)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(rows: int, dimension: int, seed: int) -> None:
    """N = M = rows by callables: nothing of size N x M is stored."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, rows, dimension))
    B = rng.standard_normal((dimension, dimension)) / 3
    candidates = y + 0.1 * rng.standard_normal(y.shape)
    candidates[: rows // 10] = y[: rows // 10]
    radius = 1.5
    loss, cost = quadratic_candidates(B, x, y, y_candidates=candidates)
    bar = progress(None, "rows evaluated")

    def counted(block: slice) -> Any:
        bar.update(block.stop - block.start)
        return loss(block)

    start = time.perf_counter()
    worst = finite_worst_case(counted, cost, radius, weights=np.full(rows, 1 / rows))
    elapsed = time.perf_counter() - start
    certificate = worst.verify()
    bar.close()
    print(
        json.dumps(
            {
                "seconds": elapsed,
                "peak_bytes": peak_bytes(),
                "gap": certificate.gap,
                "certified": certificate.holds(),
                "risk": worst.risk,
            }
        )
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
