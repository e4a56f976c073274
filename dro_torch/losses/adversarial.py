r"""The Wasserstein DRO objective of a network: inner ascent on the potential.

.. math:: \frac1N\sum_i \varphi_\lambda(z_i), \qquad
          \varphi_\lambda(z) = \sup_v\ \ell(z + v) - \lambda\,c(v)

is the dual of `dro_core.worst_case_risk` without its budget term :math:`\lambda\rho^2` (paper
Theorems 3.1-3.4; `Multiplier.penalty` adds it). Every displacement gives a lower value of the
potential, and v = 0 is always among those compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dro_core.checks import as_positive_integer, as_scalar, check_option
from dro_torch.host import Checks
from dro_torch.keyed_noise import Draws, key_of
from dro_torch.linearisation import inner_product, linearised_displacement
from dro_torch.losses.checked import checked
from dro_torch.losses.potential import PotentialLoss, eagerly, random_move
from dro_torch.losses.weights import average
from dro_torch.precision import uncached_autocast
from dro_torch.residual import MovedSamples, Residual, SampleLoss, squared_norm
from dro_torch.structure import Structure

STARTS = ("linearised", "zero")


class WassersteinDROLoss(PotentialLoss):
    r"""Wasserstein structured DRO objective, without the budget term (paper Theorem 3.1).

    .. math:: \frac1N\sum_i \max_v\ \ell(z_i + v) - \lambda\,c(v)

    The maximum is sought in two stages. The warm start is the exact answer for the residual's
    linearisation, :math:`(\lambda I - C^\top C)^{-1}C^\top r` (`linearised_displacement`); then
    come `steps` trials of gradient ascent, whose lengths follow the observed curvature (Barzilai
    and Borwein) after a first one of 1/(2λ). A trial is kept for the samples whose value it
    raises; where it does not, the next one is shorter. So no step lowers a value, and none lies
    below the loss of the unmoved sample (structure x: of (x, A(x)), at its cost).

    ``loss(model, x, y, multiplier, weights=None)`` returns a scalar; weights (N,), non-negative
    with sum one as in `dro_core`, take the place of 1/N. Its gradients are those at the fixed
    displacement v (Danskin): of :math:`\ell(z + v)` in the parameters, :math:`-c(v)` in λ. A
    sample's value does not depend on the rest of its batch if the network's output does not.

    Where residuals vanish v = 0 is stationary, although the potential is infinite below the squared
    modulus. So one move as long as the sample is tried first (`large_move`, in a random direction
    keyed by seed, step and index). Where the potential grows faster and faster up to there, the
    ascent goes no further than four times as far, and with a learned λ the cost of such moves
    drives λ up to the modulus, the exact answer of the hard case.

    Parameters
    ----------
    structure : "y|x", "x|y", "joint" or Structure
        Which variable moves.
    steps : int
        Trials of gradient ascent after the warm start; two network passes each.
    residual : callable, optional
        (model, x, y) -> what is measured, the loss is its squared norm; default x - model(y).
    loss : callable, optional
        (model, x, y) -> (N,) in place of the squared norm: any loss of a sample. There is no
        residual to linearise then, and the ascent starts at zero.
    start : "linearised" or "zero"
        Where the ascent starts.
    iterations : int
        Conjugate gradient iterations of the warm start, at most; two network passes each.
    step_size : float, optional
        Length of the first ascent step, in place of 1/(2λ).
    box : (low, high), optional
        Bounds of the entries of what moves (joint: of both x and y), infinite where there is
        none. Kept by projection. An entry that is outside already may move inwards only.
    modulus : float, optional
        Lipschitz constant κ of the residual in what moves, used to warn at λ ≤ κ². Known for x|y
        with the default residual.
    probe : bool
        Try the large move; four network passes.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite, λ > 0), which waits for an accelerator: in the
        first call, in every one, never (then NaN in, NaN out). Default: in every call, but inside
        of `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    diagnostics : dict of 0-d tensors
        Of the last call: mean "transport_cost", mean "increase" over the unmoved samples,
        "indefinite_share" (samples whose linearised problem has no maximum at this λ, as far as it
        was seen, or whose potential grows faster and faster up to the large move), and network
        "passes" per sample, backward ones of the ascent included.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: paper Theorems 3.1-3.4; adversarial training as its dual: Sinha, Namkoong, Duchi; the
    linearised warm start: this project.
    """

    def __init__(
        self,
        structure: str | Structure = "y|x",
        steps: int = 3,
        *,
        residual: Residual | None = None,
        loss: SampleLoss | None = None,
        start: Literal["linearised", "zero"] = "linearised",
        iterations: int = 4,
        step_size: float | None = None,
        box: tuple[float, float] | None = None,
        modulus: float | None = None,
        probe: bool = True,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(structure, iterations, residual, loss, modulus, checks)
        self.probe = bool(probe)
        self.steps = as_positive_integer(steps, "steps")
        check_option(start, "start", STARTS)
        self.start = start
        if step_size is not None:
            step_size = as_scalar(step_size, "step_size", "a number > 0")
            if not 0 < step_size < math.inf:
                raise ValueError(f"step_size: {step_size}; allowed: a finite number > 0")
        self.step_size = step_size
        self.box = None if box is None else _as_box(box)
        if self.box is not None and type(self.structure).moving is Structure.moving:
            raise ValueError(f"box: structure {self.structure.name!r} does not say what it bounds")

    def extra_repr(self) -> str:
        """The settings that tell two losses apart."""
        box = "" if self.box is None else f", box={self.box}"
        return f"structure={self.structure.name!r}, steps={self.steps}, start={self.start!r}{box}"

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
        draw = key_of(index, seed, step, x)
        displacement, nominal, indefinite = eagerly(self._maximise, moved, lam.detach(), draw)
        passes, moved.model = moved.passes, model
        value, cost = _potential(moved, displacement, lam)
        self._report(lam, value, nominal, cost, indefinite, passes + 1.0, mu)
        return average(value, mu)

    @checked
    def displacements(self, model: Any, x: Tensor, y: Tensor, multiplier: Tensor | float) -> Tensor:
        """The attack: displacements (N, size) as `Structure.displace` takes them, detached."""
        moved, lam, _ = self._arguments(model, x, y, multiplier)
        return self._maximise(moved, lam.detach(), key_of(None, None, None, x))[0]

    def _maximise(
        self, moved: MovedSamples, lam: Tensor, draw: Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Displacements (N, size), nominal values (N,), indefinite linearised problems (N,)."""
        project = self._projection(moved)
        with uncached_autocast(moved.x.device):
            best = moved.x.new_zeros((len(moved.x), moved.size), dtype=moved.wide)
            length = 0.5 / lam if self.step_size is None else self.step_size
            if self.start == "linearised" and self.loss is None:
                trial, value, slope, indefinite = linearised_displacement(
                    moved, lam, self.iterations
                )
                trials = self.steps + 1
            else:
                value, slope = _value_and_slope(moved, best, lam)
                indefinite = torch.zeros_like(value, dtype=torch.bool)
                trial, trials = best + length * slope, self.steps
            nominal, length = value, torch.ones_like(value) * length
            if self.probe:
                large, tried, tilted = large_move(moved, lam, draw, project)
                better = torch.isfinite(tried) & (tried > value)
                rising = torch.minimum(
                    inner_product(large, tilted), inner_product(large, tilted - slope)
                )
                unbounded = better & (rising > 0) & (self.box is None)
                indefinite = indefinite | unbounded
                reach = torch.where(unbounded, 4.0 * squared_norm(large).sqrt(), math.inf)
                project = _within(project, reach)  # it would grow without end
                best = torch.where(better[:, None], large, best)
                value = torch.where(better, tried, value)
                slope = torch.where(better[:, None], tilted, slope)
            for left in range(trials - 1, -1, -1):
                trial = project(trial)
                if left:
                    tried, tilted = _value_and_slope(moved, trial, lam)
                else:
                    with torch.no_grad():
                        tried, tilted = _potential(moved, trial, lam)[0], slope
                better = torch.isfinite(tried) & (tried > value)
                shorter = length if left == self.steps else 0.25 * length  # or a failed warm start
                longer = _longer(trial - best, slope - tilted, length)
                length = torch.where(better, longer, shorter)
                best = torch.where(better[:, None], trial, best)
                slope = torch.where(better[:, None], tilted, slope)
                value = torch.where(better, tried, value)
                trial = best + length[:, None] * slope
        return best, nominal, indefinite

    def _projection(self, moved: MovedSamples) -> Callable[[Tensor], Tensor]:
        """The projection of displacements (N, size) onto those that keep the box."""
        if self.box is None:
            return lambda displacement: displacement
        here = self.structure.moving(moved.x, moved.y)
        assert here is not None  # refused before
        ends = ((bound - here).to(moved.wide) for bound in self.box)
        low, high = (self.structure.whitened(moved.x, moved.y, end) for end in ends)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        return lambda displacement: displacement.clamp(low, high)


def _within(project: Callable[[Tensor], Tensor], reach: Tensor) -> Callable[[Tensor], Tensor]:
    """A projection, then no further than `reach` (N,), which may be infinite."""

    def both(displacement: Tensor) -> Tensor:
        kept = project(displacement)
        length = squared_norm(kept).sqrt()
        return kept * torch.where(length > reach, reach / length, 1.0)[:, None]

    return both


def large_move(
    moved: MovedSamples, lam: Tensor, draw: Draws, project: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""A move v as long as the sample, where the loss grows fast, with potential and its slope.

    One step :math:`v = R\,\nabla\ell(Ru) / \|\nabla\ell(Ru)\|` of the power iteration from a
    random direction u, R the norm of the sample in the units of the transport cost.
    """
    start = random_move(moved, draw)
    reach = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    _, slope = _value_and_slope(moved, start, lam)
    uphill = slope + 2.0 * lam * start
    trial = project(reach * torch.nn.functional.normalize(uphill, dim=1, eps=1e-30))
    return trial, *_value_and_slope(moved, trial, lam)


def _as_box(box: Sequence[float]) -> tuple[float, float]:
    if not isinstance(box, tuple | list) or len(box) != 2:
        raise ValueError(f"box: {box!r}; allowed: a pair (low, high) of numbers")
    for bound in box:
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise TypeError(f"box: {type(bound).__name__}; allowed: a pair (low, high) of numbers")
    low, high = (float(bound) for bound in box)
    if not low < high:
        raise ValueError(f"box: ({low}, {high}); allowed: low < high")
    return low, high


def _potential(moved: MovedSamples, displacement: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Values and transport costs (N,) of displacements (N, size)."""
    cost = moved.transport_cost(displacement[:, None, :])[:, 0]
    return moved.loss_at(displacement) - lam * cost, cost


def _value_and_slope(
    moved: MovedSamples, displacement: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor]:
    """Values (N,) of the potential and their gradients in the displacements (N, size)."""
    return moved.value_and_slope(lambda v: _potential(moved, v, lam)[0], displacement)


def _longer(moved_by: Tensor, change: Tensor, length: Tensor) -> Tensor:
    """The step length (N,) of Barzilai and Borwein; twice the last one where nothing is concave."""
    curvature = inner_product(moved_by, change)
    concave = curvature > 0
    observed = squared_norm(moved_by) / torch.where(concave, curvature, 1.0)
    return torch.where(concave, observed, 2.0 * length)
