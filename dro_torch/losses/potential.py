"""What the losses that average a potential share: arguments, diagnostics and warnings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_positive_integer
from dro_torch.checks import as_multiplier, check_samples
from dro_torch.host import Checks, may_look, may_warn, transformed
from dro_torch.keyed_noise import check_key
from dro_torch.losses.checked import CheckedLoss
from dro_torch.losses.estimation import Draws, EstimatorWarning
from dro_torch.losses.weights import average, batch_weights
from dro_torch.models import bare_module, check_apart
from dro_torch.residual import MovedSamples, Residual, SampleLoss, reconstruction_residual
from dro_torch.structure import Structure, as_structure

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


def key_of(
    index: Tensor | None, seed: int | None, step: int | Tensor | None, like: Tensor
) -> Draws:
    """The key of a batch's random directions: what is not given is 0, 1, 2, ... and zero."""
    if index is None:
        index = torch.arange(len(like), device=like.device)
    key = 0 if seed is None else seed, 0 if step is None else step
    check_key(*key, index, len(like))
    return Draws(index.to(like.device), *key)


def random_move(moved: MovedSamples, draw: Draws) -> Tensor:
    """Displacements (N, size) in random directions, as long as the samples in the cost's units."""
    moving = moved.structure.moving(moved.x, moved.y)
    if moving is None:
        moving = torch.cat([moved.x.flatten(1), moved.y.flatten(1)], dim=1)
        length = torch.linalg.vector_norm(moving, dim=1, keepdim=True)
    else:
        whitened = moved.structure.whitened(moved.x, moved.y, moving)
        length = torch.linalg.vector_norm(whitened, dim=1, keepdim=True)
    direction = draw.normal(1, moved.size, _DIRECTIONS, moved.wide)[:, 0]
    move: Tensor = length.to(moved.wide) * torch.nn.functional.normalize(direction, dim=1)
    return move


class PotentialLoss(CheckedLoss):
    r"""What losses :math:`\frac1N\sum_i\varphi_\lambda(z_i)` share: arguments and warnings.

    The call has the shape of all losses of this package, ``loss(model, x, y, multiplier,
    generator=None, *, index=None, seed=None, step=None, weights=None)``; nothing here is random,
    so generator, index, seed and step change nothing.
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
        super().__init__(checks)
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
        x, y = check_samples(x, y)
        lam, mu = as_multiplier(multiplier, x), batch_weights(weights, x)
        if not callable(model):
            raise TypeError(f"model: {type(model).__name__} is not callable")
        check_apart(model)
        inner = MovedSamples(bare_module(model), x, y, self.structure, self.residual, self.loss)
        return inner, lam, mu

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
