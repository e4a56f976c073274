"""Benchmarks of maps without a matrix: 256 x 256 images by FFT, and by products alone.

A dense matrix of this map would take 32 GiB; the peak memory of the process is one of the figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from dro_core import LinearReconstruction, ResidualSpectrum, entropic_worst_case, worst_case_risk
from dro_core.operators import Convolution, SpectralInverse
from dro_core.types import Array
from validation.benchmarks.finite_memory import peak_bytes
from validation.benchmarks.timing import median_ratio
from validation.results import (
    Check,
    at_least,
    at_most,
    progress,
    provenance,
    write_csv,
    write_json,
)
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Size of the images, the blur, and the radii."""

    side: int = setting(256, "images of side x side pixels", low=1)
    samples: int = setting(64, "images N", low=1)
    width: float = setting(2.0, "standard deviation of the blur in pixels")
    runs: int = setting(5, "timed runs of the FFT row", low=1)
    problems: int = setting(40, "random problems of the entropic row", low=1)
    seed: int = setting(0, "seed")


def blur(config: Config) -> Convolution:
    """Circular Gaussian blur."""
    reach = min(int(5 * config.width), (config.side - 1) // 2)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / config.width) ** 2)
    line /= line.sum()
    return Convolution(np.outer(line, line), (config.side, config.side))


def images(config: Config) -> Array:
    """Random images with the 1/f spectrum of natural ones, values of order one."""
    rng = np.random.default_rng(config.seed)
    frequency = np.hypot(
        np.fft.fftfreq(config.side)[:, None], np.fft.rfftfreq(config.side)[None, :]
    )
    noise = np.fft.rfft2(rng.standard_normal((config.samples, config.side, config.side)))
    rows = np.fft.irfft2(noise / (frequency + 1 / config.side), s=(config.side, config.side))
    return np.asarray((rows / rows.std()).reshape(config.samples, -1))


def bare(operator: SpectralInverse) -> LinearOperator:
    """The same map with nothing but its two products."""
    whole = operator.as_linear_operator()
    return LinearOperator(
        whole.shape,
        matvec=whole.matvec,
        rmatvec=whole.rmatvec,
        matmat=whole.matmat,
        rmatmat=whole.rmatmat,
        dtype=np.float64,
    )


def spectrum_row(config: Config, B: SpectralInverse, x: Array, y: Array) -> list[Check]:
    """The whole residual spectrum against computing the residual itself."""
    spectrum, residual, ratio = median_ratio(
        lambda: ResidualSpectrum.from_matrix(B, x, y), lambda: x - B.apply(y), config.runs
    )
    shape = f"{config.side} x {config.side}, N = {config.samples}"
    print(f"{shape}: spectrum by FFT {spectrum:.3f} s; the residual's own FFTs {residual:.3f} s")
    return [at_most(f"FFT spectrum / residual's own FFTs, {shape}", ratio, 5.0)]


def bracket_rows(config: Config, B: SpectralInverse, x: Array, y: Array, out: Path) -> list[Check]:
    """The map as a bare LinearOperator: bracket around the FFT answer; the table as CSV."""
    operator, bound = bare(B), B.lipschitz
    rms = LinearReconstruction(B, x, y).fidelity ** 0.5
    rows: list[dict[str, Any]] = []
    cases = [(name, factor) for name in ("y|x", "joint") for factor in (0.01, 0.1, 1.0, 10.0)]
    for name, factor in progress(cases, "Golub-Kahan"):
        exact = worst_case_risk(B, x, y, factor * rms, name).risk
        start = time.perf_counter()
        worst = worst_case_risk(operator, x, y, factor * rms, name, norm_bound=bound)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "structure": name,
                "radius_over_rmse": factor,
                "exact": exact,
                "lower": worst.lower,
                "upper": worst.upper,
                "width": (worst.upper - worst.lower) / exact,
                "contains": worst.lower <= exact * (1 + 1e-12)
                and worst.upper >= exact * (1 - 1e-12),
                "seconds": seconds,
            }
        )
        print(
            f"  {name:5} radius {factor:5g} RMSE: [{worst.lower:.9g}, {worst.upper:.9g}], FFT "
            f"{exact:.9g}, {seconds:.1f} s"
        )
    write_csv(out / "brackets.csv", rows)
    checks = [
        at_most(
            "LinearOperator with norm bound: relative width of the bracket, largest",
            max(row["width"] for row in rows),
            1e-6,
        ),
        at_least(
            "brackets that contain the FFT answer, share",
            np.mean([row["contains"] for row in rows]),
            1.0,
        ),
    ]
    gib = peak_bytes() / 2**30
    dense = 8 * config.side**4 / 2**30
    print(f"peak memory of the process {gib:.2f} GiB; the dense matrix would take {dense:.0f} GiB")
    return [*checks, at_most("peak memory / dense matrix", gib / dense, 0.1)]


def entropic_rows(config: Config) -> list[Check]:
    """Certificates of entropic worst cases over random problems."""
    rng = np.random.default_rng(config.seed + 1)
    gap = budget = 0.0
    held = count = 0
    for _ in progress(list(range(config.problems)), "entropic"):
        n, m, samples = (int(v) for v in rng.integers(1, 40, 3))
        B = rng.standard_normal((n, m)) * 10.0 ** rng.uniform(-2, 2, (1, m))
        x, y = rng.standard_normal((samples, n)), rng.standard_normal((samples, m))
        rms = float(np.sqrt(((x - y @ B.T) ** 2).sum(axis=1).mean()))
        for name in ("y|x", "joint", "x|y"):
            for radius in (1e-3, 0.1, 1.0, 100.0):
                for share in (1e-6, 1e-2, 1.0):
                    epsilon = share * (radius * rms) ** 2
                    worst = entropic_worst_case(B, x, y, radius * rms, epsilon, name)
                    certificate = worst.verify()
                    gap = max(gap, certificate.gap)
                    budget = max(budget, abs(certificate.kl / certificate.budget - 1))
                    held += certificate.holds()
                    count += 1
    return [
        at_most(f"entropic worst case: gap by verify(), {count} cases", gap, 1e-8),
        at_most("the same: |ε KL / budget - 1|", budget, 1e-8),
        at_least("the same: certificates that hold, share", held / count, 1.0),
    ]


def run(config: Config, out: Path) -> list[Check]:
    """All rows; written to `out`."""
    A, x = blur(config), images(config)
    rng = np.random.default_rng(config.seed + 2)
    B = A.inverse(regularization=1e-2)
    y = A.apply(x)
    y += 0.05 * rng.standard_normal(y.shape)
    checks = spectrum_row(config, B, x, y) + bracket_rows(config, B, x, y, out)
    checks += entropic_rows(config)
    made = provenance("benchmarks matrix-free", config)
    write_json(
        out / "matrix_free.json", {**made, "checks": checks, "holds": [c.holds for c in checks]}
    )
    return checks
