"""What the losses that average a potential share: arguments, diagnostics and warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_positive_integer
from dro_torch.checks import as_multiplier
from dro_torch.host import Checks, may_look, may_warn, transformed
from dro_torch.keyed_noise import Draws
from dro_torch.losses.estimation import EstimatorWarning
from dro_torch.losses.moved import MovedLoss
from dro_torch.losses.weights import average
from dro_torch.models import bare_module
from dro_torch.residual import MovedSamples, Residual, SampleLoss
from dro_torch.structure import Structure

#: Stream of the keyed noise.
_DIRECTIONS = 4
#: Calls between two looks at the share of indefinite problems (a look waits for the device).
_LOOK_EVERY = 100

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def eagerly(
    function: Callable[Arguments, Answer], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Answer:
    """Call a function outside of the graph that torch.compile is tracing, if it is."""
    if torch.compiler.is_compiling():  # (its import costs as much as torch itself)
        function = torch.compiler.disable(function)
    return function(*arguments, **named)


def random_move(moved: MovedSamples, draw: Draws) -> Tensor:
    """Displacements (N, size) in random directions, as long as the samples in the cost's units."""
    x, y, moving = moved.x, moved.y, moved.structure.moving(moved.x, moved.y)
    if moving is None:
        moving = torch.cat([x.flatten(1), y.flatten(1)], dim=1)
    else:
        moving = moved.structure.whitened(x, y, moving)
    length = torch.linalg.vector_norm(moving, dim=1, keepdim=True)
    direction = draw.normal(1, moved.size, _DIRECTIONS, moved.wide)[:, 0]
    move: Tensor = length.to(moved.wide) * torch.nn.functional.normalize(direction, dim=1)
    return move


class PotentialLoss(MovedLoss):
    r"""What losses :math:`\frac1N\sum_i\varphi_\lambda(z_i)` share: arguments and warnings.

    The call has the shape of all losses of this package, ``loss(model, x, y, multiplier,
    generator=None, *, index=None, seed=None, step=None, weights=None)``. The key changes the random
    direction in which a large move is looked for, and nothing else; the generator changes nothing.
    """

    def __init__(
        self,
        structure: str | Structure,
        iterations: int,
        residual: Residual | None,
        loss: SampleLoss | None,
        modulus: float | None,
        checks: Checks | None,
    ) -> None:
        super().__init__(structure, residual, loss, checks)
        self.iterations = as_positive_integer(iterations, "iterations")
        if modulus is not None:
            modulus = as_non_negative(modulus, "modulus", "a Lipschitz constant >= 0")
        elif residual is None and loss is None:
            modulus = self.structure.fixed_modulus
        self.modulus = modulus
        self.diagnostics: dict[str, Tensor] = {}
        self._calls = 0
        self._warned: set[str] = set()

    def _arguments(
        self,
        model: Any,
        x: Tensor,
        y: Tensor,
        multiplier: Tensor | float,
        weights: Tensor | None = None,
    ) -> tuple[MovedSamples, Tensor, Tensor | None]:
        """The checked batch, moved with the bare module, λ, and the weights of the samples."""
        moved, mu = self._moved(model, x, y, weights)
        moved.model = bare_module(model)
        return moved, as_multiplier(multiplier, moved.x), mu

    def _report(
        self,
        lam: Tensor,
        value: Tensor,
        nominal: Tensor,
        cost: Tensor,
        indefinite: Tensor,
        passes: float,
        weights: Tensor | None,
    ) -> None:
        """Fill `diagnostics`, and say with numbers where a value is not to be trusted."""
        self.diagnostics = {}
        if transformed():  # what is wrapped means nothing outside
            return
        share = indefinite.to(value.dtype).mean()
        self.diagnostics = {
            "transport_cost": average(cost.detach(), weights),
            "increase": average(value.detach() - nominal, weights),
            "indefinite_share": share,
            "passes": torch.full((), passes, device=value.device),
        }
        self._calls += 1
        if not may_warn():
            return
        number, due = math.nan, self._calls % _LOOK_EVERY == 1
        if self.modulus is not None and "modulus" not in self._warned and (due or may_look()):
            number = float(lam.detach())
            if number <= self.modulus**2 * (1.0 + 4.0 * torch.finfo(lam.dtype).eps):
                self._warned.add("indefinite")  # said here
                self._warn(
                    "modulus",
                    f"the multiplier {number:.4g} is at or below κ² = {self.modulus**2:.4g} (κ = "
                    f"{self.modulus:.4g}): the worst-case risk may be infinite, the value never "
                    "is",
                )
        if "indefinite" not in self._warned and due and float(share) > 0:
            self._warn(
                "indefinite",
                f"at the multiplier {float(lam.detach()):.4g} the linearised problem of "
                f"{float(share):.0%} of the samples has no maximum: their worst-case loss may be "
                "infinite, the value never is; raise the multiplier",
            )

    def _warn(self, kind: str, message: str) -> None:
        self._warned.add(kind)
        warnings.warn(message, EstimatorWarning, stacklevel=7)
