r"""The Wasserstein ball itself as a loss: the worst law around the batch, without a multiplier.

.. math:: \sup\Bigl\{\frac1N\sum_i \ell(z_i + v_i) :\ \frac1N\sum_i c(v_i) \le \rho^2\Bigr\}

is the worst-case risk of `dro_core.worst_case_risk` over the ball around the samples of the batch
(paper §2.1, the primal side of Theorems 3.1-3.3). Samples share the budget, as in the attack of
`dro_torch.certify`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dro_core.checks import as_positive_integer, as_radius
from dro_torch.host import Checks, transformed
from dro_torch.keyed_noise import Draws, key_of
from dro_torch.losses.checked import checked
from dro_torch.losses.moved import MovedLoss
from dro_torch.losses.potential import eagerly
from dro_torch.losses.weights import average
from dro_torch.models import bare_module
from dro_torch.precision import uncached_autocast
from dro_torch.residual import MovedSamples, Residual, SampleLoss
from dro_torch.structure import Structure, XShift

#: Stream of the keyed noise in which the ascent starts.
_STARTS = 5


class WassersteinBallLoss(MovedLoss):
    r"""Worst-case risk over the structured Wasserstein ball around the batch (primal).

    .. math:: \max_{v}\ \frac1N\sum_i \ell(z_i + v_i)
              \quad\text{subject to}\quad \frac1N\sum_i \|v_i\|^2 = \rho^2

    in whitened displacements v (`dro_torch.structure`). The ascent starts at noise of the shape
    that the ball prescribes, scaled to the budget, and each step goes to the point of the ball
    where the linearised risk is largest,

    .. math:: v \leftarrow \rho\, g / \|g\|,\qquad g_i = \nabla\ell(z_i + v_i),\quad
              \|g\|^2 = \frac1N\sum_i\|g_i\|^2.

    Of a risk that is convex in v, an affine map's, no step loses, and the limit is the exact worst
    case of the batch, the hard case of vanishing residuals included: there is no multiplier that
    could slide below its threshold. The value never exceeds the worst-case risk of the batch, whose
    mean over batches does not exceed that of the data set: a batch shares its budget only with
    itself.

    ``loss(model, x, y)`` returns a scalar; its gradient is that at the fixed displacement.

    Parameters
    ----------
    radius : float
        W2 radius ρ >= 0 in the units of the data (of :math:`W^{1/2}` times the data).
    structure : "y|x", "x|y", "joint" or Structure
        Which variable moves (`XShift` with cost "x").
    steps : int
        Steps of the ascent; two network passes each, then one that is differentiated.
    residual : callable, optional
        (model, x, y) -> what is measured, the loss is its squared norm; default x - model(y).
    loss : callable, optional
        (model, x, y) -> (N,) in place of the squared norm.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite), which waits for an accelerator: in the first
        call, in every one, never (then NaN in, NaN out). Default: in every call, but inside of
        `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    diagnostics : dict of 0-d tensors
        Of the last call: the "multiplier" :math:`\|g\|/2\rho` that the last step implies (λ of the
        dual at the limit), and network "passes" per sample, backward ones of the ascent included.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: paper §2.1, Theorems 3.1-3.3; the ascent is the conditional gradient method at full
    steps (for a quadratic risk the shifted power iteration); as a training loss: this project.
    """

    def __init__(
        self,
        radius: float,
        structure: str | Structure = "y|x",
        steps: int = 3,
        *,
        residual: Residual | None = None,
        loss: SampleLoss | None = None,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(structure, residual, loss, checks)
        self.radius = as_radius(radius)
        if isinstance(self.structure, XShift) and self.structure.cost != "x":
            raise ValueError(
                f"structure: XShift with cost {self.structure.cost!r}, whose ball is no ball of "
                "displacements; allowed here: cost 'x'"
            )
        self.steps = as_positive_integer(steps, "steps")
        self.diagnostics: dict[str, Tensor] = {}

    def extra_repr(self) -> str:
        """The settings that tell two losses apart."""
        return f"radius={self.radius:g}, structure={self.structure.name!r}, steps={self.steps}"

    @checked
    def forward(
        self,
        model: Any,
        x: Tensor,
        y: Tensor,
        *,
        index: Tensor | None = None,
        seed: int | None = None,
        step: int | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The worst risk that was found (0-d) around a batch x (N, ...), y (N, ...).

        `weights` (N,) are those of the samples, as in the other losses: they weigh risk and cost.
        """
        moved, mu = self._moved(model, x, y, weights)
        moved.model = bare_module(model)
        displacement, multiplier = eagerly(self._ascend, moved, mu, key_of(index, seed, step, x))
        moved.model = model
        value = moved.losses(displacement[:, None, :])[:, 0]
        self.diagnostics = {}
        if not transformed():  # what is wrapped means nothing outside
            passes = torch.full((), moved.passes, device=value.device)
            self.diagnostics = {"multiplier": multiplier, "passes": passes}
        return average(value, mu)

    @checked
    def displacements(
        self, model: Any, x: Tensor, y: Tensor, *, weights: Tensor | None = None
    ) -> Tensor:
        """The attack: displacements (N, size) as `Structure.displace` takes them, detached."""
        moved, mu = self._moved(model, x, y, weights)
        moved.model = bare_module(model)
        return self._ascend(moved, mu, key_of(None, None, None, x))[0]

    def _ascend(self, moved: MovedSamples, mu: Tensor | None, draw: Draws) -> tuple[Tensor, Tensor]:
        """Displacements (N, size) on the ball, and the multiplier of the last step."""
        point = draw.normal(1, moved.size, _STARTS, moved.wide)[:, 0]
        point, _ = self._on_the_ball(point, mu)
        length = torch.zeros((), dtype=moved.wide, device=point.device)
        with uncached_autocast(moved.x.device):
            for _ in range(self.steps):
                slopes = moved.value_and_slope(moved.loss_at, point)[1]
                target, length = self._on_the_ball(slopes, mu)
                point = torch.where(length > 0, target, point)
        return point, length / (2.0 * self.radius) if self.radius > 0 else length

    def _on_the_ball(self, point: Tensor, mu: Tensor | None) -> tuple[Tensor, Tensor]:
        """ρ v / ‖v‖ and ‖v‖, the norm that the samples share; zero stays zero."""
        length = average(point.square().sum(1), mu).sqrt()
        return point * (self.radius / length.clamp(min=torch.finfo(point.dtype).tiny)), length
