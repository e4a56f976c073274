"""Networks that may not leave a map of known constant by more than a given distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dro_core.checks import as_positive
from dro_torch.models import call_model
from dro_torch.nets.common import Bounds


class Tethered(nn.Module):
    r"""A network kept within a distance of an anchor: :math:`a(y) + P_r(f(y) - a(y))`.

    :math:`P_r` is the projection onto the ball of radius r. A network that corrects a classical
    reconstruction stays near it on all data that it was made for; here it does so everywhere, and

    .. math:: \|x - \text{tethered}(y + v)\| \le \|x - a(y)\| + r + \operatorname{Lip}(a)\,\|v\|

    whatever the network is: `dro_torch.certify` proves an upper end from the anchor alone. With r
    the largest `distance` on training data nothing changes on those.

    Parameters
    ----------
    model : Module
        f, (N, ...) to (N, ...).
    anchor : Module
        a, of the same shapes, with a provable constant: the identity, a linear reconstruction
        (`dro_core.fit_linear` in an `nets.LinearMap`), a spectral network.
    radius : float
        r > 0, in units of x (Euclidean norm of a whole output).

    Raises
    ------
    TypeError, ValueError
        Bad arguments, named; on input, outputs of different shapes.

    Examples
    --------
    >>> short = Tethered(nn.Linear(2, 2), nn.Identity(), 0.5)
    >>> y = 100 * torch.ones(1, 2)
    >>> round(float((short(y) - y).norm()), 3) <= 0.5
    True
    """

    def __init__(self, model: nn.Module, anchor: nn.Module, radius: float) -> None:
        super().__init__()
        for name, part in (("model", model), ("anchor", anchor)):
            if not isinstance(part, nn.Module):
                raise TypeError(f"{name}: {type(part).__name__} is not a torch.nn.Module")
        self.model, self.anchor = model, anchor
        self.radius = as_positive(radius, "radius")

    def forward(self, y: Tensor) -> Tensor:
        """The tethered output."""
        start, apart = self._parts(y)
        length = apart.flatten(1).norm(dim=1).reshape(-1, *[1] * (apart.ndim - 1))
        inside = length <= self.radius
        factor = torch.where(inside, 1.0, self.radius / torch.where(inside, 1.0, length))
        return start + factor.to(apart.dtype) * apart

    @torch.no_grad()
    def distance(self, y: Tensor) -> Tensor:
        """How far the network goes from the anchor, (N,): where it exceeds r, the tether acts."""
        length: Tensor = self._parts(y)[1].flatten(1).norm(dim=1)
        return length

    def _parts(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The anchor's output and the difference to it."""
        start = call_model(self.anchor, y, "anchor", dimensions=1)
        out = call_model(self.model, y, dimensions=1)
        if out.shape != start.shape:
            raise ValueError(
                f"anchor: its output has shape {tuple(start.shape)}, but that of model has "
                f"{tuple(out.shape)}"
            )
        return start, out - start

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """Lip f + 2 Lip a: the projection does not increase distances."""
        return bounds(self.model) + 2.0 * bounds(self.anchor)

    def extra_repr(self) -> str:
        return f"radius={self.radius:g}"
