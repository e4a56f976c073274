r"""The worst-case potential of the linearised residual, matrix-free.

At a multiplier λ above the squared modulus the adversary's problem for the Jacobian model
:math:`r(v) \approx r + Cv` is a concave quadratic one:

.. math:: \varphi_\lambda = \max_v \|r + Cv\|^2 - \lambda\|v\|^2
          = r^\top (I - CC^\top/\lambda)^{-1} r, \qquad v^* = (\lambda I - C^\top C)^{-1} C^\top r

(theory §4). Conjugate gradients solve it for every sample at once from products with C and its
transpose; what they return before they have converged is a displacement all the same, so the value
there is a lower one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_positive_integer
from dro_torch.checks import as_multiplier, check_samples
from dro_torch.losses.entropic import EstimatorWarning
from dro_torch.models import bare_module
from dro_torch.residual import (
    MovedSamples,
    Residual,
    SampleLoss,
    reconstruction_residual,
    squared_norm,
)
from dro_torch.structure import Structure, XShift, as_structure

#: Calls between two looks at the share of indefinite problems (a look waits for the device).
_LOOK_EVERY = 100


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """Inner products over the last axis."""
    return (first * second).sum(-1)


def directional(
    function: Callable[[Tensor], Tensor], point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """The value at a point and the derivative along a direction, with their graphs."""
    pair: Any = torch.func.jvp(function, (point,), (direction,))
    return pair[0], pair[1]


def eagerly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function outside of the graph that torch.compile is tracing, if it is."""
    if torch.compiler.is_compiling():  # (its import costs as much as torch itself)
        function = torch.compiler.disable(function)
    return function(*arguments)


def uncached_autocast(device: torch.device) -> torch.autocast:
    """The autocast state as it is, without its cache of weights.

    Inner solves run under it: a cast that they leave in the cache would lack the graph that the
    differentiated pass needs.
    """
    kind = device.type
    return torch.autocast(
        kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind),
        cache_enabled=False,
    )  # fmt: skip


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
        if right.device.type == "cpu" and not bool(active.any()):
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
        with torch.enable_grad():
            self.point = moved.x.new_zeros((len(moved.x), moved.size), dtype=moved.wide)
            self.point.requires_grad_()
            self._residual = moved.residuals(self.point[:, None, :])[:, 0]
            if not self._residual.requires_grad:
                raise ValueError(
                    f"residual: it is detached from what structure {moved.structure.name!r} "
                    "moves; the adversary needs its derivative"
                )
            self.value = self._residual.detach()
            self._dual = torch.zeros_like(self.value, requires_grad=True)
            self._back = self._grad(self._residual, self.point, self._dual, create_graph=True)

    def _grad(self, of: Tensor, at: Tensor, along: Tensor, create_graph: bool = False) -> Tensor:
        self.moved.passes += 1
        if not of.requires_grad:  # C = 0
            return torch.zeros_like(at)
        (product,) = torch.autograd.grad(
            of, at, along, retain_graph=True, create_graph=create_graph,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return product

    def apply(self, direction: Tensor) -> Tensor:
        """C times (N, size): (N, n)."""
        return self._grad(self._back, self._dual, direction)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        """Cᵀ times (N, n): (N, size)."""
        return self._grad(self._residual, self.point, cotangent)


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
    moved: MovedSamples, multiplier: Tensor, iterations: int
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
    nominal = squared_norm(linear.value) - lam * cost(zero)
    return LinearisedAttack(displacement, nominal, 2.0 * right, indefinite)


class PotentialLoss(nn.Module):
    r"""What losses :math:`\frac1N\sum_i\varphi_\lambda(z_i)` share: arguments and warnings.

    The call has the shape of all losses of this package, ``loss(model, x, y, multiplier,
    generator=None, *, index=None, seed=None, step=None)``; nothing here is random, so the last
    four change nothing.
    """

    def __init__(
        self, structure: str | Structure, iterations: int, residual: Residual | None,
        loss: SampleLoss | None, modulus: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.structure = as_structure(structure)
        self.iterations = as_positive_integer(iterations, "iterations")
        for name, function in (("residual", residual), ("loss", loss)):
            if function is not None and not callable(function):
                raise TypeError(f"{name}: {type(function).__name__} is not callable")
        if loss is not None and residual is not None:
            raise ValueError("loss: allowed without residual= (a loss measures by itself)")
        self.residual = residual or reconstruction_residual
        self.loss = loss
        if modulus is not None:
            modulus = as_non_negative(modulus, "modulus", "a Lipschitz constant >= 0")
        elif residual is None and loss is None and self.structure.name == "x|y":
            modulus = 1.0
        self.modulus = modulus
        self.diagnostics: dict[str, Tensor] = {}
        self._calls = 0
        self._warned: set[str] = set()

    def _arguments(
        self, model: Any, x: Tensor, y: Tensor, multiplier: Tensor | float
    ) -> tuple[MovedSamples, Tensor]:
        """The checked batch, moved with the bare module, and λ."""
        x, y = check_samples(x, y)
        lam = as_multiplier(multiplier, x)
        if not callable(model):
            raise TypeError(f"model: {type(model).__name__} is not callable")
        inner = MovedSamples(bare_module(model), x, y, self.structure, self.residual, self.loss)
        return inner, lam

    def _report(
        self, lam: Tensor, value: Tensor, nominal: Tensor, cost: Tensor, indefinite: Tensor,
        passes: float,
    ) -> None:  # fmt: skip
        """Fill `diagnostics`, and say with numbers where a value is not to be trusted."""
        share = indefinite.to(value.dtype).mean()
        self.diagnostics = {
            "transport_cost": cost.detach().mean(),
            "increase": (value.detach() - nominal).mean(),
            "indefinite_share": share,
            "passes": torch.tensor(passes),
        }
        self._calls += 1
        if torch.compiler.is_compiling():
            return
        number = math.nan
        if self.modulus is not None and "modulus" not in self._warned:
            number = float(lam.detach())
            if number <= self.modulus**2 * (1.0 + 4.0 * torch.finfo(lam.dtype).eps):
                self._warned.add("indefinite")  # said here
                self._warn("modulus",
                    f"the multiplier {number:.4g} is at or below κ² = {self.modulus**2:.4g} (κ = "
                    f"{self.modulus:.4g}): the worst-case risk may be infinite, the value never "
                    "is")  # fmt: skip
        if "indefinite" not in self._warned and self._calls % _LOOK_EVERY == 1 and float(share) > 0:
            self._warn("indefinite",
                f"at the multiplier {float(lam.detach()):.4g} the linearised problem of "
                f"{float(share):.0%} of the samples has no maximum: their worst-case loss may be "
                "infinite, the value never is; raise the multiplier")  # fmt: skip

    def _warn(self, kind: str, message: str) -> None:
        self._warned.add(kind)
        warnings.warn(message, EstimatorWarning, stacklevel=6)


class LinearisedDROLoss(PotentialLoss):
    r"""Worst-case risk of the linearised network, in closed form, without the budget term.

    .. math:: \frac1N\sum_i r_i^\top (I - C_iC_i^\top/\lambda)^{-1} r_i
              \;-\; \frac{\lambda\varepsilon}{2N}\sum_i\log\det(I - C_iC_i^\top/\lambda)

    with the Jacobian :math:`C_i` of the residual in what moves. Equal to the Wasserstein potential
    (with ``epsilon > 0`` the entropic one) of an affine map; for a network it costs two passes
    per iteration of `conjugate_gradients`, and no bound holds either way.

    ``loss(model, x, y, multiplier)`` returns a scalar. Its gradient in the parameters, the second
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
        self, structure: str | Structure = "y|x", iterations: int = 16, *,
        residual: Residual | None = None, epsilon: float = 0.0, modulus: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(structure, iterations, residual, None, modulus)
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

    def forward(
        self, model: Any, x: Tensor, y: Tensor, multiplier: Tensor | float,
        generator: torch.Generator | None = None, *, index: Tensor | None = None,
        seed: int | None = None, step: int | None = None,
    ) -> Tensor:  # fmt: skip
        """The objective (0-d) of a batch x (N, ...), y (N, ...) at the multiplier λ > 0."""
        moved, lam = self._arguments(model, x, y, multiplier)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ValueError(
                "model: forward-mode derivatives do not pass through DistributedDataParallel; pass "
                "model.module and average the gradients over the processes"
            )
        with uncached_autocast(x.device):
            attack = eagerly(linearised_displacement, moved, lam, self.iterations)
            along = attack.displacement[:, None, :]
            residual, change = directional(moved.residuals, torch.zeros_like(along), along)
            moved.passes += 1
            cost = quadratic_cost(moved, attack.displacement)
            value = squared_norm((residual + change)[:, 0]) - lam * cost
            if self.epsilon > 0:
                value = value - 0.5 * lam * self.epsilon * self._log_determinant(moved, lam)
        self._report(lam, value, attack.nominal, cost, attack.indefinite, moved.passes)
        return value.mean()

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
            if not torch.compiler.is_compiling() and bool((failed > 0).any()):
                top = float(torch.linalg.eigvalsh(gram.detach())[:, -1].max())
                raise ValueError(
                    f"multiplier: {float(lam.detach()):.6g} is at or below {top:.6g}, the largest "
                    "squared singular value of the Jacobians, where the entropic objective is "
                    "infinite; allowed: a larger number"
                )
            return 2.0 * torch.diagonal(factor, dim1=1, dim2=2).log().sum(1)
