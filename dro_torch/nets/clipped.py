"""Networks whose outputs are clamped to a known range."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dro_core.checks import as_real_array
from dro_torch.models import call_model
from dro_torch.nets.common import Bounds


class Clipped(nn.Module):
    r"""A network with its output clamped entry by entry: :math:`\min(\max(f(y), a), b)`.

    The clamp is the projection onto a box: it moves no output away from a signal in the box, and
    the Lipschitz constant of the network holds for it. With it every residual is bounded, whatever
    the network is.

    Parameters
    ----------
    model : Module
        f, (N, ...) to (N, ...).
    output_range : (float, float)
        a < b, in units of x.

    Raises
    ------
    TypeError, ValueError
        If the model is no Module, or the range is not two finite numbers a < b.

    Examples
    --------
    >>> import torch
    >>> Clipped(nn.Identity(), (0.0, 1.0))(torch.tensor([[-1.0, 0.5, 3.0]]))
    tensor([[0.0000, 0.5000, 1.0000]])
    """

    def __init__(self, model: nn.Module, output_range: Sequence[float]) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
        self.model = model
        self.low, self.high = as_range(output_range)

    def forward(self, y: Tensor) -> Tensor:
        """The clamped output."""
        return call_model(self.model, y, dimensions=1).clamp(self.low, self.high)

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """That of the network: a projection onto a convex set is 1-Lipschitz."""
        return bounds(self.model)

    def extra_repr(self) -> str:
        return f"range [{self.low:g}, {self.high:g}]"


def as_range(value: object, name: str = "output_range") -> tuple[float, float]:
    """Two finite numbers a < b."""
    ends = as_real_array(value, name)
    if ends.shape != (2,):
        raise ValueError(f"{name}: shape {ends.shape}; allowed: two numbers (low, high)")
    low, high = float(ends[0]), float(ends[1])
    if not low < high:
        raise ValueError(f"{name}: {low} is not below {high}; allowed: (low, high) with low < high")
    return low, high
