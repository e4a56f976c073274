r"""The linearised network as a loss: its worst-case potential in closed form.

.. math:: \varphi_\lambda = r^\top (I - CC^\top/\lambda)^{-1} r

for the residual :math:`r(v) \approx r + Cv`, by the attack of `dro_torch.linearisation` and one
differentiated pass at the displacement that it finds (theory §4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative
from dro_torch.host import Checks, may_look, refuse_later
from dro_torch.keyed_noise import key_of
from dro_torch.linearisation import (
    LinearisedResidual,
    conjugate_gradients,
    directional,
    linearised_displacement,
    quadratic_cost,
)
from dro_torch.losses.checked import checked
from dro_torch.losses.potential import PotentialLoss, eagerly, random_move
from dro_torch.losses.weights import average
from dro_torch.precision import uncached_autocast
from dro_torch.residual import MovedSamples, Residual, squared_norm
from dro_torch.structure import Structure, XShift

__all__ = [
    "LinearisedDROLoss",
    "linearised_displacement",
    "LinearisedResidual",
    "conjugate_gradients",
]


class LinearisedDROLoss(PotentialLoss):
    r"""Worst-case risk of the linearised network, in closed form, without the budget term.

    .. math:: \frac1N\sum_i r_i^\top (I - C_iC_i^\top/\lambda)^{-1} r_i
              \;-\; \frac{\lambda\varepsilon}{2N}\sum_i\log\det(I - C_iC_i^\top/\lambda)

    with the Jacobian :math:`C_i` of the residual in what moves. Equal to the Wasserstein potential
    (with ``epsilon > 0`` the entropic one) of an affine map; for a network it costs two passes
    per iteration of `conjugate_gradients`, and no bound holds either way.

    ``loss(model, x, y, multiplier, weights=None)`` returns a scalar; weights (N,), non-negative
    with sum one as in `dro_core`, take the place of 1/N. Its gradient in the parameters, the second
    derivative of the network included, and in λ is that of
    :math:`\|r + Cv\|^2 - \lambda\,c(v)` at the fixed maximiser v (envelope theorem).

    Parameters
    ----------
    structure : "y|x", "x|y", "joint" or Structure
        Which variable moves. With a nonlinear forward map, `XShift`'s joint cost enters by its
        second-order model.
    iterations : int
        Of the conjugate gradients, at most. Fewer than they need give a lower value.
    residual : callable, optional
        (model, x, y) -> what is measured; default x - model(y).
    epsilon : float
        Entropy weight ε >= 0. The log-determinant forms C and costs as many passes as a
        displacement has entries: for small problems.
    modulus : float, optional
        Lipschitz constant κ of the residual in what moves, used to warn at λ ≤ κ². Known for x|y
        with the default residual.
    probe : bool
        Look for unbounded directions where conjugate gradients do not, as where residuals vanish:
        one step of the power iteration from a random direction (keyed by seed, step and index);
        four network passes. Where the problem has no maximum the value is that of a move as long
        as the sample.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite, λ > 0), which waits for an accelerator: in the
        first call, in every one, never (then NaN in, NaN out). Default: in every call, but inside
        of `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    diagnostics : dict of 0-d tensors
        Of the last call: mean "transport_cost", mean "increase" over the unmoved samples,
        "indefinite_share" (samples whose problem has no maximum at this λ, as far as it was
        seen), and network "passes" per sample, backward ones included.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named; ``epsilon > 0`` with structure x; λ that is too small for the
        log-determinant.

    Source: theory §4 and §8, applied to the Jacobian; this project.
    """

    def __init__(
        self,
        structure: str | Structure = "y|x",
        iterations: int = 16,
        *,
        residual: Residual | None = None,
        epsilon: float = 0.0,
        modulus: float | None = None,
        probe: bool = True,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(structure, iterations, residual, None, modulus, checks)
        self.probe = bool(probe)
        self.epsilon = as_non_negative(epsilon, "epsilon", "an entropy weight >= 0")
        if self.epsilon > 0 and isinstance(self.structure, XShift):
            raise ValueError(
                "epsilon: > 0 with structure x, whose entropic reference law is not Gaussian; "
                "allowed: 0, or structure 'y|x', 'x|y', 'joint'"
            )

    def extra_repr(self) -> str:
        """The settings that tell two losses apart."""
        entropy = f", epsilon={self.epsilon:g}" if self.epsilon else ""
        return f"structure={self.structure.name!r}, iterations={self.iterations}{entropy}"

    @checked
    def forward(
        self,
        model: Any,
        x: Tensor,
        y: Tensor,
        multiplier: Tensor | float,
        generator: torch.Generator | None = None,
        *,
        index: Tensor | None = None,
        seed: int | None = None,
        step: int | Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The objective (0-d) of a batch x (N, ...), y (N, ...) at the multiplier λ > 0."""
        moved, lam, mu = self._arguments(model, x, y, multiplier, weights)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ValueError(
                "model: forward-mode derivatives do not pass through DistributedDataParallel; pass "
                "model.module and average the gradients over the processes"
            )
        with uncached_autocast(x.device):
            probe = random_move(moved, key_of(index, seed, step, x)) if self.probe else None
            attack = eagerly(linearised_displacement, moved, lam, self.iterations, probe)
            along = attack.displacement[:, None, :]
            residual, change = directional(moved.residuals, torch.zeros_like(along), along)
            moved.passes += 1
            cost = quadratic_cost(moved, attack.displacement)
            value = squared_norm((residual + change)[:, 0]) - lam * cost
            if self.epsilon > 0:
                value = value - 0.5 * lam * self.epsilon * self._log_determinant(moved, lam)
        self._report(lam, value, attack.nominal, cost, attack.indefinite, moved.passes, mu)
        return average(value, mu)

    def _log_determinant(self, moved: MovedSamples, lam: Tensor) -> Tensor:
        """log det(I - CᵀC/λ) of every sample, (N,)."""
        basis = torch.eye(moved.size, dtype=moved.wide, device=moved.x.device)
        basis = basis.expand(len(moved.x), -1, -1)
        _, rows = directional(moved.residuals, torch.zeros_like(basis), basis)
        moved.passes += moved.size
        with torch.autocast(moved.x.device.type, enabled=False):
            gram = rows @ rows.mT
            share = gram / lam
            factor, _ = torch.linalg.cholesky_ex(basis - share)
            # within rounding of the threshold it may succeed: positive by less is refused too
            rounding = 8.0 * (moved.size + rows.shape[-1]) * torch.finfo(rows.dtype).eps
            _, failed = torch.linalg.cholesky_ex((1.0 - rounding) * basis - share.detach())
            if may_look() and bool((failed > 0).any()):
                top = float(torch.linalg.eigvalsh(gram.detach())[:, -1].max())
                raise ValueError(
                    f"multiplier: {float(lam.detach()):.6g} is at or below {top:.6g}, the largest "
                    "squared singular value of the Jacobians, where the entropic objective is "
                    "infinite; allowed: a larger number"
                )
            refuse_later(
                "multiplier: at or below the largest squared singular value of the Jacobians",
                lambda: (failed > 0).any(),
            )
            value = 2.0 * torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
            return torch.where(failed > 0, -torch.inf, value)  # where nobody could look
