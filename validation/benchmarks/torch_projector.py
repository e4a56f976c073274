"""Times of the fan-beam projector against the bare product with the same sparse matrix.

The bare product is what one would write without the library: `torch.sparse.mm` of the matrix (or
its transpose, stored by rows as well) with a contiguous (n, N) block, or `matrix @ vector` for one
image; nothing is checked, transposed or recorded for autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from validation.benchmarks.timing import median_ratio
from validation.results import Check, at_most
from validation.settings import Settings, setting


@dataclass(frozen=True)
class Config(Settings):
    """Size of the scan; the defaults are the figures that are claimed."""

    side: int = setting(256, "images of side x side pixels", low=1)
    views: int = setting(60, "views of the scan", low=1)
    batch: int = setting(4, "images of the batched rows", low=1)
    runs: int = setting(11, "timed runs per row", low=1)
    scans: int = setting(3, "projections per timed run", low=1)


def rows(config: Config) -> list[Check]:
    """Forward and back-projection of one image and of a batch / the bare products."""
    import torch

    from dro_torch.tomography import FanBeamGeometry, FanBeamProjector

    side, cells = config.side, 3 * config.side // 2
    angles = np.linspace(0, 2 * np.pi, config.views, endpoint=False)
    geometry = FanBeamGeometry(3.0 * side, 4.5 * side, 1.5, cells, angles, side, 1.0)
    projector = FanBeamProjector(geometry)
    generator = torch.Generator().manual_seed(0)
    checks = []
    for name, matrix, ours, shape in (
        ("projection", projector.sparse.matrix, projector.A, geometry.image_shape),
        (
            "back-projection",
            projector.sparse.transpose,
            projector.A_adjoint,
            geometry.sinogram_shape,
        ),
    ):
        bare = torch.sparse_csr_tensor(
            matrix.row_starts, matrix.columns, matrix.values, matrix.shape, check_invariants=False
        )
        for batch in (1, config.batch):
            values = torch.randn(batch, 1, *shape, generator=generator)
            block = values.reshape(batch, -1).T.contiguous()
            column = block[:, 0].contiguous()
            product = (
                partial(torch.mv, bare, column)
                if batch == 1
                else partial(torch.sparse.mm, bare, block)
            )
            first, second, ratio = median_ratio(
                partial(repeat, partial(ours, values), config.scans),
                partial(repeat, product, config.scans),
                config.runs,
            )
            label = f"{name}, {side} x {side}, {config.views} views, batch {batch}"
            print(f"{label}: {1e3 * first:.2f} ms; bare product {1e3 * second:.2f} ms")
            checks.append(at_most(f"{label}: ours / bare sparse product", ratio, 1.2))
    return checks


def repeat(action: Callable[[], object], times: int) -> None:
    """The action, so many times."""
    for _ in range(times):
        action()
