r"""Total variation from the sinogram, told the dose: what needs no training.

.. math:: \min_x\ \tfrac12\|Ax - p\|^2/\|A\|^2 + w\,\mathrm{TV}(x)

with p the line integrals; primal-dual steps from the filtered back-projection. The weight is chosen
on validation slices at every dose: more than the networks are told. The steps are counted, not run
to the minimum: small weights are still on their way, and stopping early smooths too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dro_torch import metrics, physics
from dro_torch.tomography import FanBeamProjector
from validation.ct.scanner import BRIGHT, DARKEST, Reconstruction, Scanner
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
        norm = spectral_norm(projector, scanner.side)
        self.solver = TotalVariation(projector, weight, iterations, norm)

    def at(self, weight: float) -> Variation:
        """The same with another weight."""
        self.solver.weight = weight
        return self

    def forward(self, y: Tensor) -> Tensor:
        """Minimise for every slice of a batch."""
        integrals = -torch.log(y.clamp(min=DARKEST)) / BRIGHT
        found: Tensor = self.solver(integrals, self.start(y))
        return found


def spectral_norm(projector: physics.LinearForward, side: int, steps: int = 30) -> float:
    """The norm of A by power iteration, 1 % above what it finds."""
    x = torch.ones(1, 1, side, side)
    for _ in range(steps):
        x = projector.A_adjoint(projector(x))
        x = x / x.norm()
    return 1.01 * float(projector(x).norm())


def variation_rows(
    task: Task,
    scanner: Scanner,
    data: Splits,
    trials: Trials,
    doses: Mapping[float, physics.Noise | None],
) -> list[Row]:
    """RMSE, PSNR and SSIM of total variation and of filtered back-projection, same slices."""
    model, plain = Variation(scanner, WEIGHTS[0]).to(trials.device), Reconstruction(scanner, None)
    plain = plain.to(trials.device)
    rows: list[Row] = []
    for dose, noise in doses.items():
        few = Trials(1, min(CHOOSING, len(data.check)), 1, trials.seed, trials.device)
        y, x = noisy_pairs(task, data.check, few, 0, noise)
        with torch.no_grad():
            errors = [float(metrics.rmse(x, model.at(weight)(y)).mean()) for weight in WEIGHTS]
            weight = WEIGHTS[errors.index(min(errors))]
            y, x = noisy_pairs(task, data.test, trials, 0, noise)
            outputs = {"TV": model.at(weight)(y), "FBP": plain(y)}
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
