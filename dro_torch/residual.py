r"""The residual as the adversary sees it: a function of the displacements, with its Jacobian.

.. math:: v \mapsto r(v), \qquad r(v) \approx r(v_0) + C\,(v - v_0)

for every sample of a batch at once. Products with C and its transpose cost one more pass through
the network each; no Jacobian is formed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dro_torch.host import transformed, value_and_pullback
from dro_torch.models import call_model, explain_failure
from dro_torch.structure import Structure

#: (model, x, y) -> the residual of every sample, any shape after axis 0.
Residual = Callable[[Any, Tensor, Tensor], Tensor]
#: (model, x, y) -> the loss of every sample, (N,).
SampleLoss = Callable[[Any, Tensor, Tensor], Tensor]


def reconstruction_residual(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """x - model(y), the residual of a reconstruction map."""
    return _difference(x, call_model(model, y, dimensions=1), "x", "y")


def forward_residual(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """y - model(x), the residual of a simulator (paper §6.5)."""
    return _difference(y, call_model(model, x, argument="x", dimensions=1), "y", "x")


def _difference(target: Tensor, output: Tensor, name: str, argument: str) -> Tensor:
    if output.shape != target.shape:
        raise ValueError(
            f"model: its output has shape {tuple(output.shape)}, but {name} has "
            f"{tuple(target.shape)}; model({argument}) must have the shape of {name}"
        )
    return target - output


class MovedSamples:
    """A batch that the adversary moves, and what is measured of it.

    Parameters
    ----------
    model, x, y : the network and its batch; ``structure`` : which of x and y move.
    residual : callable
        (model, x, y) -> residual; the loss of a sample is its squared norm.
    loss : callable, optional
        (model, x, y) -> (N,), instead of the squared norm of the residual.

    Attributes
    ----------
    passes : float
        Rows that went through the network divided by N: a product with the Jacobian or its
        transpose counts as two.
    """

    def __init__(
        self,
        model: Any,
        x: Tensor,
        y: Tensor,
        structure: Structure,
        residual: Residual = reconstruction_residual,
        loss: SampleLoss | None = None,
    ) -> None:
        self.model, self.x, self.y, self.structure = model, x, y, structure
        self.residual, self.loss = residual, loss
        self._own = loss is not None or residual not in (reconstruction_residual, forward_residual)
        self.size = structure.size(x, y)
        self.wide = torch.promote_types(torch.float32, x.dtype)
        self.passes = 0.0

    def _rows(self, displacement: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x, y repeated to (N·K, ...) and the displacements (N, K, size) as rows."""
        samples, draws, size = displacement.shape
        self.passes += draws
        rows = displacement.reshape(samples * draws, size).to(self.x.dtype)
        if draws == 1:
            if self._own:  # a network inside may work in place
                return self.x.clone(), self.y.clone(), rows
            return self.x, self.y, rows
        return self.x.repeat_interleave(draws, 0), self.y.repeat_interleave(draws, 0), rows

    def residuals(self, displacement: Tensor) -> Tensor:
        """Residuals (N, K, n) at displacements (N, K, size), in float32 or wider."""
        x, y, rows = self._rows(displacement)
        value = self._called(self.residual, *self.structure.displace(x, y, rows))
        return self._checked(value, len(rows)).to(self.wide).reshape(*displacement.shape[:2], -1)

    def losses(self, displacement: Tensor) -> Tensor:
        """Losses (N, K) at displacements (N, K, size), in float32 or wider."""
        if self.loss is None:
            return squared_norm(self.residuals(displacement))
        x, y, rows = self._rows(displacement)
        value = self._called(self.loss, *self.structure.displace(x, y, rows))
        if not isinstance(value, Tensor) or value.shape != (len(rows),):
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: it returned {given} for {len(rows)} samples; needed: (N,)")
        return value.to(self.wide).reshape(displacement.shape[:2])

    def loss_at(self, displacement: Tensor) -> Tensor:
        """Losses (N,) at one displacement per sample, (N, size)."""
        return self.losses(displacement[:, None, :])[:, 0]

    def value_and_slope(
        self, function: Callable[[Tensor], Tensor], displacement: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A function (N, size) -> (N,) that runs the network, and its gradients; no graph is kept.

        A sample's value depends on its own displacement only.
        """
        self.passes += 1
        if transformed():
            with torch.no_grad():  # of the levels outside; `vjp` has its own
                value, pullback = value_and_pullback(function, displacement)
                return value, pullback(torch.ones_like(value))
        with torch.enable_grad():
            point = displacement.detach().requires_grad_()
            value = function(point)
            (slope,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), slope

    def _called(self, function: Callable[..., Any], x: Tensor, y: Tensor) -> Any:
        """function(model, x, y); where it fails for dtype or device, the error says so."""
        if torch.compiler.is_compiling():
            return function(self.model, x, y)
        try:
            return function(self.model, x, y)
        except RuntimeError as error:
            explain_failure(error, self.model, y)
            raise

    def transport_cost(self, displacement: Tensor) -> Tensor:
        """Transport costs (N, K) of displacements (N, K, size)."""
        before = self.passes
        x, y, rows = self._rows(displacement)
        self.passes = before
        cost = self.structure.transport_cost(x, y, rows)
        return cost.to(self.wide).reshape(displacement.shape[:2])

    def apply(self, point: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals at `point` and C·`direction`, both (N, K, n); no graph is kept."""
        self.passes += point.shape[1]
        if transformed():
            with torch.no_grad():
                value, product = torch.func.jvp(
                    self.residuals, (point.detach(),), (direction.detach(),)
                )[:2]
                return value, product
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.make_dual(point.detach(), direction.detach())
            value, product = forward_ad.unpack_dual(self.residuals(dual))
            return value, torch.zeros_like(value) if product is None else product

    def adjoint(self, point: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals at `point` (N, K, n) and Cᵀ·`cotangent` (N, K, size); no graph is kept."""
        self.passes += point.shape[1]
        if transformed():
            with torch.no_grad():  # of the levels outside; `vjp` has its own
                value, pullback = value_and_pullback(self.residuals, point.detach())
                return value, pullback(cotangent)
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            value = self.residuals(point)
            (product,) = torch.autograd.grad(value, point, cotangent)
        return value.detach(), product

    @staticmethod
    def _checked(value: Any, rows: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim < 2 or len(value) != rows:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"residual: it returned {given} for {rows} samples; needed: a tensor (N, ...)"
            )
        return value


def squared_norm(residual: Tensor) -> Tensor:
    """Squared norms over the last axis."""
    return residual.square().sum(-1)


def leading_directions(
    moved: MovedSamples, point: Tensor, start: Tensor, sweeps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The leading singular triples of every sample's Jacobian C, by subspace iteration.

    `sweeps` rounds of :math:`W \leftarrow \operatorname{orth}(C^\top C W)`, then the SVD of
    :math:`C W` (Rayleigh-Ritz): exact when `start` spans the leading right-singular space, an
    approximation from below otherwise.

    Parameters
    ----------
    point : (N, size)
        Where the residual is linearised.
    start : (N, size, r)
        Any basis of full rank.

    Returns
    -------
    tuple
        Residuals (N, n) at the point, left vectors (N, n, r), singular values (N, r), right
        vectors (N, size, r).
    """
    if start.dtype.itemsize < 4:
        raise TypeError(
            f"x: dtype {start.dtype}, but singular directions of the Jacobians are computed in "
            "float32 or wider; keep network and batch in float32 and run the loss under "
            "torch.autocast (precision='bf16' in training.fit), or do without directions (rank=0 "
            "of the tilted estimate, lipschitz= of the bound)"
        )
    rank = start.shape[2]
    points = point[:, None, :].repeat(1, rank, 1)
    basis = torch.linalg.qr(start).Q
    for _ in range(sweeps):
        _, image = moved.apply(points, basis.mT)
        _, back = moved.adjoint(points, image)
        basis = torch.linalg.qr(back.mT.to(start.dtype)).Q
    residual, image = moved.apply(points, basis.mT)
    left, values, right = torch.linalg.svd(image.mT, full_matrices=False)
    return residual[:, 0], left, values, basis @ right.mT
