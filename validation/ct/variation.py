r"""Total variation from the sinogram, told the dose: what needs no training.

.. math:: \min_x\ \tfrac12\|Ax - p\|^2/\|A\|^2 + w\,\mathrm{TV}(x)

with p the line integrals; primal-dual steps from the filtered back-projection. The weight is chosen
on validation slices at every dose: more than the networks are told. The steps are counted, not run
to the minimum: small weights are still on their way, and stopping early smooths too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from dro_torch import metrics, physics
from dro_torch.tomography import FanBeamProjector, fan_beam_matrix
from validation.ct.scanner import Reconstruction, Scanner, line_integrals
from validation.mnist.classical import TotalVariation
from validation.mnist.measure import Trials, noisy_pairs
from validation.mnist.tasks import Splits, Task
from validation.tables import Row

#: Weights that are tried: least variation first.
WEIGHTS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
#: Slices that choose the weight; primal-dual steps.
CHOOSING, ITERATIONS = 4, 300


class Variation(torch.nn.Module):
    """From transmitted light to slices."""

    def __init__(self, scanner: Scanner, weight: float, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.start = Reconstruction(scanner, None)
        projector = FanBeamProjector(scanner.geometry)
        (norm,) = svds(fan_beam_matrix(scanner.geometry), k=1, return_singular_vectors=False)
        self.solver = TotalVariation(projector, weight, iterations, float(norm))

    def at(self, weight: float) -> Variation:
        """The same with another weight."""
        self.solver.weight = weight
        return self

    def forward(self, y: Tensor) -> Tensor:
        """Minimise for every slice of a batch."""
        found: Tensor = self.solver(line_integrals(y), self.start(y))
        return found


def variation_rows(
    task: Task,
    scanner: Scanner,
    data: Splits,
    trials: Trials,
    doses: Mapping[float, physics.Noise | None],
) -> list[Row]:
    """RMSE, PSNR and SSIM of total variation and of filtered back-projection, same slices."""
    model = Variation(scanner, WEIGHTS[0]).to(trials.device)
    rows: list[Row] = []
    for dose, noise in doses.items():
        few = Trials(1, min(CHOOSING, len(data.check)), 1, trials.seed, trials.device)
        y, x = noisy_pairs(task, data.check, few, 0, noise)
        with torch.no_grad():
            errors = [float(metrics.rmse(x, model.at(weight)(y)).mean()) for weight in WEIGHTS]
            weight = WEIGHTS[errors.index(min(errors))]
            y, x = noisy_pairs(task, data.test, trials, 0, noise)
            outputs = {"TV": model.at(weight)(y), "FBP": model.start(y)}
        for name, out in outputs.items():
            rows.append(
                {
                    "arm": name,
                    "level": dose,
                    "weight": weight if name == "TV" else "",
                    "rmse": float(metrics.rmse(x, out).mean()),
                    "psnr": float(metrics.psnr(x, out, 1.0).mean()),
                    "ssim": float(metrics.ssim(x, out, 1.0).mean()),
                }
            )
    return rows
