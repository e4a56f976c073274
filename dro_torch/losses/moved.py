"""What losses of moved samples share: which part moves, what is measured, checked batches."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dro_torch.checks import check_samples
from dro_torch.host import Checks
from dro_torch.losses.checked import CheckedLoss
from dro_torch.losses.weights import batch_weights
from dro_torch.models import check_apart
from dro_torch.residual import MovedSamples, Residual, SampleLoss, reconstruction_residual
from dro_torch.structure import Structure, as_structure


class MovedLoss(CheckedLoss):
    """A loss of samples that an adversary moves.

    Parameters
    ----------
    structure : "y|x", "x|y", "joint" or Structure
    residual, loss : callable, optional
        What is measured; not both.
    checks : {"first", "always", "never"}, optional
    """

    def __init__(
        self,
        structure: str | Structure,
        residual: Residual | None,
        loss: SampleLoss | None,
        checks: Checks | None,
    ) -> None:
        super().__init__(checks)
        self.structure = as_structure(structure)
        for name, function in (("residual", residual), ("loss", loss)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: {type(function).__name__} is not callable")
        if loss is not None and residual is not None:
            raise ValueError("loss: allowed without residual= (a loss measures by itself)")
        self.residual, self.loss = residual or reconstruction_residual, loss

    def _moved(
        self, model: Any, x: Tensor, y: Tensor, weights: Tensor | None
    ) -> tuple[MovedSamples, Tensor | None]:
        """The checked batch as the adversary sees it, and the weights of its samples."""
        x, y = check_samples(x, y)
        mu = batch_weights(weights, x)
        if not callable(model):
            raise TypeError(f"model: {type(model).__name__} is not callable")
        check_apart(model)
        return MovedSamples(model, x, y, self.structure, self.residual, self.loss), mu
