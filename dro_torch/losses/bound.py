r"""The explicit bound as a loss: data fit plus a price for the Lipschitz constant.

.. math:: \mathcal R \le (\sqrt M + \rho\,\kappa)^2

for every map, linear or not (paper Theorems 4.1, 4.2, §4.3); no multiplier and no inner problem are
needed. The bound is as good as the Lipschitz constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dro_core.checks import as_positive_integer, as_radius, as_scalar
from dro_torch.host import Checks, may_look, refuse_later, transformed
from dro_torch.keyed_noise import standard_normal
from dro_torch.linearisation import directional, inner_product
from dro_torch.losses.checked import checked
from dro_torch.losses.moved import MovedLoss
from dro_torch.losses.weights import average
from dro_torch.models import bare_module
from dro_torch.precision import uncached_autocast
from dro_torch.residual import (
    MovedSamples,
    Residual,
    SampleLoss,
    leading_directions,
)
from dro_torch.structure import Structure, XGivenY, XShift, YGivenX

#: model -> its Lipschitz constant, a 0-d tensor with its graph.
Lipschitz = Callable[[Any], Tensor]


def safe_square_root(value: Tensor) -> Tensor:
    r""":math:`\sqrt{M}` with derivative 0 at M = 0.

    As a function of the residuals :math:`\sqrt M` is a norm, and 0 is a subgradient of it there.
    """
    zero = value <= 0  # NaN is none
    return torch.where(zero, 0.0, torch.where(zero, 1.0, value).sqrt())


def local_modulus(moved: MovedSamples, sweeps: int = 8) -> Tensor:
    r"""Largest singular value of the Jacobians C at the data: an estimate of κ from below.

    .. math:: \max_i \sigma_{\max}(C_i) \approx u^\top C_i w

    by power iteration on every sample, differentiable in the parameters through C (u, w fixed). No
    guarantee: the network may be steeper elsewhere, and power iteration ends below the top.

    Parameters
    ----------
    moved : MovedSamples
        Must have been made with a residual.
    sweeps : int
        Power iterations; four network passes each.

    Returns
    -------
    Tensor
        0-d, in units of the residual per unit of what moves.
    """
    samples = len(moved.x)
    index = torch.zeros(samples, dtype=torch.int64, device=moved.x.device)
    start = standard_normal(index, 1, moved.size, seed=0, step=0, dtype=moved.x.dtype).mT
    with uncached_autocast(moved.x.device):
        with torch.no_grad():
            _, left, values, right = leading_directions(
                moved, torch.zeros_like(start[..., 0]), start, sweeps
            )
            top = values[:, 0].argmax(keepdim=True)
        one = MovedSamples(moved.model, moved.x[top], moved.y[top], moved.structure, moved.residual)
        along = right[top].mT.to(moved.wide)
        _, image = directional(one.residuals, torch.zeros_like(along), along)
        return inner_product(image[0, 0], left[top][0, :, 0])


class BoundLoss(MovedLoss):
    r"""The explicit bound :math:`(\sqrt M + \rho\,\kappa)^2` on the worst-case risk (paper §4).

    M is the batch's mean loss and κ the structure's modulus of a Lipschitz constant L: L for y|x,
    :math:`\sqrt{1+L^2}` for joint, 1 for x|y. ``loss(model, x, y, weights=None)`` returns a scalar,
    differentiable in the parameters through both; the derivative of :math:`\sqrt M` at M = 0 is
    taken as 0. Weights (N,), non-negative with sum one as in `dro_core`, take the place of 1/N in
    M; an estimated κ is that of all samples.

    Parameters
    ----------
    radius : float
        W2 radius ρ >= 0 in the units of the data.
    structure : "y|x", "x|y", "joint" or Structure
        What may move. For `XShift`, M is measured at (x, A(x)), and L is the constant of I - B∘A.
    lipschitz : callable, float or Tensor, optional
        L, or model -> L as a 0-d tensor with its graph (a product of spectral norms, say). With a
        residual or loss of your own it is κ itself: the constant of the residual, or of the
        *square root* of the loss, in what moves. Without it κ is `local_modulus`, an estimate from
        below, and the loss an estimate of the bound.
    residual : callable, optional
        (model, x, y) -> what is measured; default x - model(y).
    loss : callable, optional
        (model, x, y) -> (N,), non-negative, in place of the squared norm; needs `lipschitz`.
    sweeps : int
        Power iterations of `local_modulus`.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite, L and losses >= 0), which waits for an
        accelerator: in the first call, in every one, never (then NaN in, NaN out). Default: in
        every call, but inside of `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    diagnostics : dict of 0-d tensors
        Of the last call: "fidelity" M and "modulus" κ.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named; a Lipschitz constant that is negative, not finite, or no number.

    Source: paper Theorems 4.1, 4.2, §4.3.
    """

    def __init__(
        self,
        radius: float,
        structure: str | Structure = "y|x",
        lipschitz: Lipschitz | Tensor | float | None = None,
        *,
        residual: Residual | None = None,
        loss: SampleLoss | None = None,
        sweeps: int = 8,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(structure, residual, loss, checks)
        self.radius = as_radius(radius)
        self.sweeps = as_positive_integer(sweeps, "sweeps")
        if loss is not None and lipschitz is None:
            raise ValueError(
                "lipschitz: missing; with loss= the Lipschitz constant of its square root is "
                "needed (an estimate is made for residuals only)"
            )
        self._own = residual is not None or loss is not None
        if not (lipschitz is None or callable(lipschitz) or isinstance(lipschitz, Tensor)):
            lipschitz = as_scalar(lipschitz, "lipschitz", "a number >= 0, or a callable")
        self.lipschitz = lipschitz
        if not (lipschitz is None or callable(lipschitz)):
            self._constant(lipschitz, torch.zeros(()))
        self.diagnostics: dict[str, Tensor] = {}

    def extra_repr(self) -> str:
        """The settings that tell two losses apart."""
        estimate = ", lipschitz=local estimate" if self.lipschitz is None else ""
        return f"radius={self.radius:g}, structure={self.structure.name!r}{estimate}"

    @checked
    def forward(self, model: Any, x: Tensor, y: Tensor, *, weights: Tensor | None = None) -> Tensor:
        """The bound (0-d) for a batch x (N, ...), y (N, ...)."""
        moved, mu = self._moved(model, x, y, weights)
        losses = moved.losses(x.new_zeros(len(x), 1, moved.size))
        if self.loss is not None and may_look() and bool((losses < 0).any()):
            raise ValueError("loss: it returned negative values; the bound needs losses >= 0")
        refuse_later("loss: negative values", lambda: (losses < 0).any())
        fidelity = average(losses[:, 0], mu)
        modulus = self.modulus(model, x, y)
        self.diagnostics = {}
        if not transformed():  # what is wrapped means nothing outside
            self.diagnostics = {"fidelity": fidelity.detach(), "modulus": modulus.detach()}
        return (safe_square_root(fidelity) + self.radius * modulus).square()

    def modulus(self, model: Any, x: Tensor, y: Tensor) -> Tensor:
        """κ (0-d), with its graph."""
        wide = torch.promote_types(torch.float32, x.dtype)
        if not self._own and isinstance(self.structure, XGivenY):
            own = self.structure.modulus(1.0, x, y)
            return torch.full((), own, dtype=wide, device=x.device)
        direct = self._own or isinstance(self.structure, XShift)
        if self.lipschitz is None:
            direct = direct or self.structure.weighted  # of what moves, in whitened units
            structure = self.structure if direct else YGivenX()
            moved = MovedSamples(bare_module(model), x, y, structure, self.residual)
            constant = local_modulus(moved, self.sweeps)
        else:
            given = self.lipschitz(model) if callable(self.lipschitz) else self.lipschitz
            constant = self._constant(given, x).to(wide)
        if direct:
            return constant
        modulus = self.structure.modulus(constant, x, y)
        return modulus if isinstance(modulus, Tensor) else constant.new_tensor(modulus)

    @staticmethod
    def _constant(value: Tensor | float, like: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            if not torch.compiler.is_compiling():
                value = as_scalar(value, "lipschitz", "a number >= 0")
                _check_constant(value)
            return torch.full((), value, dtype=torch.float64, device=like.device)
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"lipschitz: shape {tuple(value.shape)} and dtype {value.dtype}; one "
                "floating-point number is needed"
            )
        if may_look():
            _check_constant(float(value.detach()))
        else:
            refuse_later(
                "lipschitz: not a finite number >= 0",
                lambda: ~(torch.isfinite(value) & (value >= 0)).all(),
            )
        return value.reshape(())


def _check_constant(number: float) -> None:
    if not 0 <= number < float("inf"):
        raise ValueError(f"lipschitz: {number}; allowed: a finite number >= 0")
