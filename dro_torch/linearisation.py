r"""Derivatives of what the adversary moves: the linearised residual and the attack on it.

At a multiplier λ above the squared modulus the adversary's problem for the Jacobian model
:math:`r(v) \approx r + Cv` is a concave quadratic one:

.. math:: \varphi_\lambda = \max_v \|r + Cv\|^2 - \lambda\|v\|^2
          = r^\top (I - CC^\top/\lambda)^{-1} r, \qquad v^* = (\lambda I - C^\top C)^{-1} C^\top r

(theory §4). Conjugate gradients solve it for every sample at once from products with C and its
transpose; what they return before they have converged is a displacement all the same, so the value
there is a lower one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from dro_torch.host import transformed, value_and_pullback
from dro_torch.residual import MovedSamples, squared_norm


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """Inner products over the last axis."""
    return (first * second).sum(-1)


def directional(
    function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """The value at a point and the derivative along a direction, with their graphs."""
    return cast(tuple[Tensor, Tensor], torch.func.jvp(function, (point,), (direction,)))


def vector_jacobian(
    outputs: Tensor, inputs: Tensor, cotangent: Tensor, *, create_graph: bool = False
) -> Tensor:
    """Cᵀ·`cotangent`, keeping the graph; zero where nothing depends on the inputs."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (product,) = torch.autograd.grad(
        outputs,
        inputs,
        cotangent,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return product


class JacobianProducts:
    r"""Products with the Jacobian C of outputs in inputs, and with its transpose.

    One pass back, whose graph is kept: a product with C or its transpose then costs one pass (C is
    the derivative of :math:`u \mapsto C^\top u`).
    """

    def __init__(self, outputs: Tensor, inputs: Tensor) -> None:
        self._outputs, self._inputs = outputs, inputs
        self._dual = torch.zeros_like(outputs, requires_grad=True)
        self._back = vector_jacobian(outputs, inputs, self._dual, create_graph=True)

    def apply(self, direction: Tensor) -> Tensor:
        """C times a tensor like the inputs: one like the outputs."""
        return vector_jacobian(self._back, self._dual, direction)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        """Cᵀ times a tensor like the outputs: one like the inputs."""
        return vector_jacobian(self._outputs, self._inputs, cotangent)


class TransformedProducts:
    """The same from a function of the inputs, inside of `torch.func`: every product runs it again.

    Attributes
    ----------
    value : (N, n)
        The outputs at the point.
    adjoint : callable
        Cᵀ times a tensor like the outputs: one like the inputs.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor) -> None:
        self._function, self._point = function, point
        with torch.no_grad():  # of the levels outside; `vjp` has its own
            self.value, self.adjoint = value_and_pullback(function, point)

    def apply(self, direction: Tensor) -> Tensor:
        """C times a tensor like the inputs: one like the outputs."""
        with torch.no_grad():
            return directional(self._function, self._point, direction)[1]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, iterations: int, floor: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Solve Hv = b for every sample, H symmetric, from products with H alone.

    A sample stops when it has converged to rounding, or at a direction p of curvature
    :math:`p^\top H p \le \text{floor}\,\|p\|^2`, where H is not positive definite; it keeps what
    it has. The iterates increase :math:`2b^\top v - v^\top H v`.

    Parameters
    ----------
    product : callable
        (N, d) -> (N, d), H times one vector per sample.
    right : (N, d)
        b.
    iterations : int
        At most so many; d give the exact answer up to rounding.
    floor : 0-d tensor
        Smallest curvature that counts as positive.

    Returns
    -------
    tuple
        v (N, d), and where H was seen not to be positive definite (N,).
    """
    solution, residual, direction = torch.zeros_like(right), right, right
    norm = squared_norm(right)
    goal = norm * (4.0 * torch.finfo(right.dtype).eps) ** 2
    active, indefinite = norm > 0, torch.zeros_like(norm, dtype=torch.bool)
    for _ in range(iterations):
        # on an accelerator looking would wait for it; what has stopped stays as it is
        if right.device.type == "cpu" and not transformed() and not bool(active.any()):
            break
        image = product(direction)
        curvature = inner_product(direction, image)
        refused = active & ~(curvature > floor * squared_norm(direction))
        indefinite, active = indefinite | refused, active & ~refused
        step = torch.where(active, norm, 0.0) / torch.where(active, curvature, 1.0)
        solution = solution + step[:, None] * direction
        residual = residual - step[:, None] * torch.where(active[:, None], image, 0.0)
        following = squared_norm(residual)
        active = active & (following > goal)
        ratio = torch.where(active, following, 0.0) / torch.where(active, norm, 1.0)
        direction = residual + ratio[:, None] * direction
        norm = following
    return solution, indefinite


class LinearisedResidual:
    r"""The affine model :math:`r(v) \approx r + Cv` of every sample at v = 0.

    One pass forward and one back, whose graphs are kept: a product with C or its transpose then
    costs one pass (C is the derivative of :math:`u \mapsto C^\top u`).

    Attributes
    ----------
    value : (N, n)
        r, detached.
    point : (N, size)
        Zero.
    """

    def __init__(self, moved: MovedSamples) -> None:
        self.moved = moved
        self.point = moved.x.new_zeros((len(moved.x), moved.size), dtype=moved.wide)
        self._jacobian: JacobianProducts | TransformedProducts
        if transformed():
            self._jacobian = TransformedProducts(self._residual, self.point)
            self.value = self._jacobian.value
            moved.passes += 1
            return
        with torch.enable_grad():
            self.point.requires_grad_()
            residual = self._residual(self.point)
            if not residual.requires_grad:
                raise ValueError(
                    f"residual: it is detached from what structure {moved.structure.name!r} "
                    "moves; the adversary needs its derivative"
                )
            self.value = residual.detach()
            self._jacobian = JacobianProducts(residual, self.point)
        moved.passes += 1

    def _residual(self, displacement: Tensor) -> Tensor:
        return self.moved.residuals(displacement[:, None, :])[:, 0]

    def apply(self, direction: Tensor) -> Tensor:
        """C times (N, size): (N, n)."""
        self.moved.passes += 1
        return self._jacobian.apply(direction)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        """Cᵀ times (N, n): (N, size)."""
        self.moved.passes += 1
        return self._jacobian.adjoint(cotangent)


def _cost(moved: MovedSamples) -> Callable[[Tensor], Tensor]:
    return lambda displacement: moved.transport_cost(displacement[:, None, :])[:, 0]


def quadratic_cost(moved: MovedSamples, displacement: Tensor) -> Tensor:
    """Second-order model of the transport cost at v = 0, (N,): exact unless A is nonlinear."""
    cost, zero = _cost(moved), torch.zeros_like(displacement)

    def along(point: Tensor) -> Tensor:
        return directional(cost, point, displacement)[1]

    slope, curvature = directional(along, zero, displacement)
    return cost(zero) + slope + 0.5 * curvature


class LinearisedAttack(NamedTuple):
    """What `linearised_displacement` returns."""

    #: (N, size), detached.
    displacement: Tensor
    #: Potential of the unmoved samples (N,): the loss, less λ times the cost at v = 0.
    nominal: Tensor
    #: Its gradient in the displacements (N, size).
    slope: Tensor
    #: (N,): the problem was seen to be unbounded; the displacement is the last one before.
    indefinite: Tensor


def linearised_displacement(
    moved: MovedSamples, multiplier: Tensor, iterations: int, probe: Tensor | None = None
) -> LinearisedAttack:
    r"""The attack :math:`(\lambda I - C^\top C)^{-1}C^\top r` on the linearised residual.

    For a transport cost that is not :math:`\|v\|^2` (`XShift` with ``cost="joint"``) λI is half
    the Hessian of λ times the cost, and half of the cost's gradient is subtracted from
    :math:`C^\top r`.

    Parameters
    ----------
    moved : MovedSamples
    multiplier : 0-d tensor
        λ.
    iterations : int
        Of `conjugate_gradients`; two network passes each.
    probe : (N, size), optional
        Moves to start one step of the power iteration from (four network passes). Where the
        problem is indefinite along what that gives, the displacement goes as far along it as the
        probe is long: conjugate gradients alone never leave v = 0 where :math:`C^\top r = 0`.
    """
    lam = multiplier.detach()
    linear, cost = LinearisedResidual(moved), _cost(moved)
    slope = torch.func.grad(lambda displacement: 0.5 * cost(displacement).sum())
    zero = torch.zeros_like(linear.point)

    def product(direction: Tensor) -> Tensor:
        return lam * directional(slope, zero, direction)[1] - linear.adjoint(
            linear.apply(direction)
        )

    right = linear.adjoint(linear.value) - lam * slope(zero)
    floor = 4.0 * torch.finfo(right.dtype).eps * lam
    displacement, indefinite = conjugate_gradients(product, right, iterations, floor)
    if probe is not None:
        reach = torch.linalg.vector_norm(probe, dim=1, keepdim=True)
        image = linear.adjoint(linear.apply(probe))
        top = torch.nn.functional.normalize(image, dim=1, eps=1e-30)
        curved = product(top)
        unbounded = inner_product(top, curved) < -floor * squared_norm(top)
        uphill = inner_product(right, top) - inner_product(displacement, curved)
        along = torch.where(uphill < 0, -reach[:, 0], reach[:, 0])
        displacement = displacement + torch.where(unbounded, along, 0.0)[:, None] * top
        indefinite = indefinite | unbounded
    nominal = squared_norm(linear.value) - lam * cost(zero)
    return LinearisedAttack(displacement, nominal, 2.0 * right, indefinite)
