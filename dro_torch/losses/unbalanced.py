r"""Unbalanced transport maps as losses: a likelihood cost, divergences and two alternating steps.

For measurements :math:`y\sim\mu` and unpaired signals :math:`x\sim\nu` a potential v and a map T
solve the semi-dual of unbalanced transport (ISUM paper, Eqs. 14-16),

.. math:: -C = \min_v\max_T\ \mathbb E_\mu\,\Psi_1^*\bigl(v(T(y)) - c(y, T(y))\bigr)
               + \mathbb E_\nu\,\Psi_2^*(-v(x)),

by one step of each in turn: `UnbalancedOTLoss.potential_loss` with T fixed, then
`UnbalancedOTLoss.map_loss`, :math:`\mathbb E_\mu[c(y,T(y)) - v(T(y))]`, which has no conjugate
around it, with v fixed. The inner maximum is a c-transform for every increasing :math:`\Psi_1^*`.
At the optimum the potential loss is minus the value of `dro_core.unbalanced_ot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dro_core.checks import as_scalar
from dro_torch.checks import check_alike, check_batch, check_finite
from dro_torch.host import Checks, may_look, refuse_later, transformed
from dro_torch.losses.alternating import (
    AlternatingLoss,
    Network,
    explained,
    mean_by_group,
    moved_by,
    potential_of,
    slopes,
)
from dro_torch.losses.checked import checked
from dro_torch.losses.divergences import (
    DIVERGENCES,
    Balanced,
    ChiSquared,
    Divergence,
    KullbackLeibler,
    Softplus,
    as_divergence,
)
from dro_torch.losses.likelihood import LikelihoodCost, cost_scale, gradient_penalty_weight
from dro_torch.models import check_apart
from dro_torch.nets.upsampling import BicubicUpsampling
from dro_torch.precision import full_precision, wide

__all__ = [
    "UnbalancedOTLoss",
    "LikelihoodCost",
    "Divergence",
    "KullbackLeibler",
    "Balanced",
    "Softplus",
    "ChiSquared",
    "DIVERGENCES",
    "BicubicUpsampling",
    "cost_scale",
    "gradient_penalty_weight",
]

#: Largest slope of the pull on a constant of v that the objective leaves free.
_PULL = 0.1


class UnbalancedOTLoss(AlternatingLoss):
    r"""The two losses of a learned unbalanced transport map, one per alternating step.

    .. math:: L_v = \operatorname{mean}\Psi_1^*\bigl(v(T(y)) - c(y,T(y))\bigr)
                    + \operatorname{mean}\Psi_2^*(-v(x))
                    + \frac\gamma2\operatorname{mean}\|\nabla v(x)\|^2,\qquad
              L_T = \operatorname{mean}\bigl[c(y,T(y)) - v(T(y))\bigr].

    The same cost serves both steps: a factor between them moves the equilibrium.

    Parameters
    ----------
    cost : callable
        ``cost(y, x)`` to (N,), such as `LikelihoodCost`.
    divergence : "kl", "balanced", "softplus", "chi2" or a `Divergence`
        How both marginals are held. ``"balanced"`` is optimal transport.
    source_divergence, target_divergence : the same, optional
        For one side: of the measurements y (1), of the signals x (2). A balanced source keeps the
        weight of every measurement at one.
    gradient_penalty : float
        :math:`\gamma \ge 0`; an attribute that may be changed while training.
        `gradient_penalty_weight` has a rule.
    centre_cost : bool
        Subtract a running mean :math:`c_0` of the cost in the potential step (buffers ``centre``
        and ``seen``, which travel in the state dict; equal on all processes). The optimal map does
        not change; the plan's mass, and with it every density, is multiplied by
        :math:`e^{c_0/(w_1+w_2)}` if both sides are free (`centring_factor` takes it back), by one
        otherwise. For ``kl`` and ``balanced`` sides.
    momentum : float
        Weight in (0, 1] of a batch in :math:`c_0`; the first batches are averaged evenly.
    translation_invariant : bool
        Use the optimum over all constants added to v,
        :math:`w_1\log\operatorname{mean}e^{(v(T)-c)/w_1} + w_2\log\operatorname{mean}e^{-v/w_2}`
        (a mean in place of :math:`w\log\operatorname{mean}e^{\cdot/w}` on a balanced side), which
        is indifferent to constants in the cost. If both sides are free the value is
        :math:`(w_1+w_2)(1-e^{L/(w_1+w_2)})`, else -L. The logarithms are of means over the batch
        of one process.
    limits : (float, float), optional
        Refuse signals x with entries outside of this range.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite, in `limits`), which waits for an accelerator: in
        the first call, in every one, never (then NaN in, NaN out). Default: in every call, but
        inside of `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    components : dict of 0-d tensors
        Numbers of the latest call, on its device, detached: fetching them is left to the caller.
        Potential step: ``value`` (estimate of the transport value, without penalty; not corrected
        for the centring), ``cost``, ``mass`` and ``target_mass`` (mean densities; equal at the
        optimum if both sides are free), ``gradient_penalty`` if there is one.
        Map step: ``map_loss``, ``cost``.

    Raises
    ------
    ValueError, TypeError
        For unknown divergences, options that do not go together, NaN or infinite data, networks
        whose output has the wrong shape.

    Notes
    -----
    Source: ISUM paper, Eq. 16 and Appendix A; Choi, Choi and Kang (2023). The inputs' check for
    finite entries is the only synchronisation of device and host (see `checks`).

    Where a constant in v is free (two balanced sides, translation invariance) the gradient of the
    potential loss, not its value, has a small pull of the mean of v to zero.

    Examples
    --------
    >>> import torch
    >>> loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=1.0), "kl")
    >>> v, T = (lambda x: x.sum(1)), (lambda y: y + 1)
    >>> y, x = torch.zeros(4, 2), torch.ones(4, 2)
    >>> round(float(loss.potential_loss(v, T, y, x)), 4), float(loss.map_loss(v, T, y))
    (-0.8647, 0.0)
    """

    centre: Tensor
    seen: Tensor

    def __init__(
        self,
        cost: Callable[[Tensor, Tensor], Tensor],
        divergence: str | Divergence = "kl",
        *,
        source_divergence: str | Divergence | None = None,
        target_divergence: str | Divergence | None = None,
        gradient_penalty: float = 0.0,
        centre_cost: bool = False,
        momentum: float = 0.01,
        translation_invariant: bool = False,
        limits: tuple[float, float] | None = None,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(gradient_penalty, checks)
        if not callable(cost):
            raise TypeError(f"cost: {type(cost).__name__} is not callable; see LikelihoodCost")
        both = as_divergence(divergence, "divergence")
        self.source_divergence, self.target_divergence = (
            both if value is None else as_divergence(value, name)
            for value, name in (
                (source_divergence, "source_divergence"),
                (target_divergence, "target_divergence"),
            )
        )
        sides = (self.source_divergence, self.target_divergence)
        for option, given in (
            ("centre_cost", centre_cost),
            ("translation_invariant", translation_invariant),
        ):
            if not isinstance(given, bool):
                raise TypeError(f"{option}: {given!r}; allowed: True or False")
            refused = [side.name for side in sides if not side.shiftable]
            if given and refused:
                raise ValueError(
                    f"{option}: not for {refused[0]!r}, whose optimum changes with a constant in "
                    "the cost; allowed for 'kl' and 'balanced'"
                )
        if centre_cost and translation_invariant:
            raise ValueError("centre_cost: without effect if translation_invariant; give one")
        self.cost = cost
        self.centre_cost, self.translation_invariant = centre_cost, translation_invariant
        self.momentum = as_scalar(momentum, "momentum", "a number in (0, 1]")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum: {self.momentum}; allowed: a number in (0, 1]")
        self.limits = None if limits is None else _as_limits(limits)
        self._free = [side.weight for side in sides if isinstance(side, KullbackLeibler)]
        self._gauge = translation_invariant or all(isinstance(side, Balanced) for side in sides)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    # --- the two steps ---

    @checked
    def potential_loss(
        self,
        v: Network,
        T: Network,
        y: Tensor,
        x: Tensor,
        *,
        gradient_penalty: float | None = None,
    ) -> Tensor:
        """The loss of the potential's step; no gradient reaches T.

        Parameters
        ----------
        v : nn.Module or callable
            Signals to (N,) or (N, 1). Runs in float32 or wider, also under autocast.
        T : nn.Module or callable
            Measurements to signals.
        y, x : (N, ...) and (M, ...) tensors
            Batches of measurements and of unpaired signals.
        gradient_penalty : float, optional
            Weight of the penalty in this call; default: the attribute's.

        Returns
        -------
        0-d tensor
        """
        y, x = check_batch(y, "y"), check_batch(x, "x")
        check_alike(x, "x", y, "y")
        self._check_range(x)
        check_apart(v, "v")
        check_apart(T, "T")
        gamma = self._penalty_weight(gradient_penalty)
        with torch.no_grad():
            moved = moved_by(T, y)
            cost = self._cost(y, moved)
            self._observe(cost)
        with full_precision(x), explained(v):
            here = potential_of(v, moved)
            source = here - (cost - self.centre if self.centre_cost else cost)
            there, penalty = _penalised(v, wide(x), gamma)
            first, second = self.source_divergence, self.target_divergence
            if self.translation_invariant:
                objective = first.shift_free(source) + second.shift_free(-there)
            else:
                objective = first.conjugate(source).mean() + second.conjugate(-there).mean()
            self.components = self._report(objective, source, there, cost, penalty)
            if penalty is not None:
                objective = objective + penalty
            if self._gauge:
                level = there.mean()
                pull = _PULL * torch.tanh(here.mean().detach())
                objective = objective + pull * (level - level.detach())
            return objective

    @checked
    def r1(self, v: Network, x: Tensor) -> Tensor:
        r"""The gradient penalty :math:`\frac\gamma2\operatorname{mean}\|\nabla v(x)\|^2`.

        Summed over the entries of a sample; part of `potential_loss`.
        """
        x = check_batch(x, "x")
        with full_precision(x):
            return 0.5 * self.gradient_penalty * slopes(v, wide(x))[1].mean()

    # --- what the pair says about the measurements ---

    @torch.no_grad()
    def weights(
        self, v: Network, T: Network, y: Tensor, groups: Tensor | Sequence[int] | None = None
    ) -> Tensor | dict[int, float]:
        r"""Density of the plan's first marginal, :math:`\Psi_1^{*\prime}(v(T(y)) - c(y,T(y)))`.

        With KL the weight :math:`e^{v(T)-c}` that a measurement has in the objective. Of order one
        is healthy; towards zero, the measurement is ignored. Includes the centring of the cost
        (`centring_factor`); if `translation_invariant`, relative to a batch mean of one.

        Parameters
        ----------
        v, T, y : as in `map_loss`
        groups : (N,) integer tensor or sequence, optional
            A label per measurement, such as its noise level.

        Returns
        -------
        (N,) tensor; with `groups` a dict from label to mean weight

        Raises
        ------
        ValueError
            If a weight is not finite.
        """
        y = check_batch(y, "y")
        moved = moved_by(T, y)
        with full_precision(y):
            source = potential_of(v, moved) - self._cost(y, moved)
            if self.centre_cost:
                source = source + self.centre
            side = self.source_divergence
            if self.translation_invariant:
                source = source - side.shift_free(source)
            weights = side.density(source)
        check_finite(weights, "weights of v, T, y")
        return mean_by_group(weights, groups)

    @property
    def centring_factor(self) -> Tensor:
        r"""Densities with the cost as given over those reported: :math:`e^{-c_0/(w_1+w_2)}` or 1.

        Exact at the optimum.
        """
        if not self.centre_cost or len(self._free) < 2:
            return torch.ones_like(self.centre)
        return torch.exp(-self.centre / sum(self._free))

    # --- parts ---

    def _cost(self, y: Tensor, moved: Tensor) -> Tensor:
        own = not isinstance(self.cost, LikelihoodCost)  # it may work in place
        y = wide(y)
        cost = self.cost(y.clone(), moved.clone()) if own else self.cost(y, moved)
        if not isinstance(cost, Tensor) or cost.shape != (len(y),):
            given = tuple(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise ValueError(f"cost: gave {given}; needed: one number per sample, ({len(y)},)")
        return wide(cost)

    def _observe(self, cost: Tensor) -> None:
        """Update the running mean of the cost; equal on all processes."""
        if not (self.centre_cost and self.training):
            return
        if transformed():
            raise ValueError(
                "UnbalancedOTLoss: centre_cost keeps a running mean in training mode, which is not "
                "possible inside of torch.func; allowed there: centre_cost=False, or eval()"
            )
        mean = cost.mean()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        self.seen.add_(1)
        self.centre.add_((mean - self.centre) * (1 / self.seen).clamp(min=self.momentum))

    @torch.no_grad()
    def _report(
        self,
        objective: Tensor,
        source: Tensor,
        there: Tensor,
        cost: Tensor,
        penalty: Tensor | None,
    ) -> dict[str, Tensor]:
        if transformed():  # what is wrapped means nothing outside
            return {}
        first, second = self.source_divergence, self.target_divergence
        value, target, total = -objective, -there, sum(self._free)
        if self.translation_invariant:
            if len(self._free) == 2:
                value = -total * torch.expm1(objective / total)
            # the constant that makes the two masses agree
            start, end = first.shift_free(source), second.shift_free(target)
            if len(self._free) == 2:
                shift = (end / second.weight - start / first.weight) / (
                    1 / first.weight + 1 / second.weight
                )
            else:
                shift = end if isinstance(first, Balanced) else -start
            source, target = source + shift, target - shift
        return {
            "value": value,
            "cost": cost.mean(),
            "mass": first.density(source).mean(),
            "target_mass": second.density(target).mean(),
            **({} if penalty is None else {"gradient_penalty": penalty.detach()}),
        }

    def _check_range(self, x: Tensor) -> None:
        if self.limits is None:
            return
        if not may_look():
            low, high = self.limits
            refuse_later(
                f"x: entries outside of {list(self.limits)}", lambda: ((x < low) | (x > high)).any()
            )
            return
        low, high = (float(end) for end in torch.aminmax(x.detach()))
        if low < self.limits[0] or high > self.limits[1]:
            raise ValueError(
                f"x: entries in [{low:g}, {high:g}]; allowed: {list(self.limits)} "
                "(rescale the images, for example 2 * x - 1 from [0, 1])"
            )

    def extra_repr(self) -> str:
        return (
            f"source_divergence={self.source_divergence}, "
            f"target_divergence={self.target_divergence}, "
            f"gradient_penalty={self.gradient_penalty}, centre_cost={self.centre_cost}, "
            f"translation_invariant={self.translation_invariant}"
        )


def _as_limits(value: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"limits: {value!r}; allowed: a pair (lowest, highest)")
    low, high = (as_scalar(end, "limits", "a pair of numbers") for end in value)
    if low >= high:
        raise ValueError(f"limits: ({low}, {high}); the first must be smaller")
    return low, high


def _penalised(v: Network, x: Tensor, weight: float) -> tuple[Tensor, Tensor | None]:
    """v(x), and the gradient penalty of that weight if there is one."""
    if weight == 0:
        return potential_of(v, x), None
    values, steepness = slopes(v, x)
    return values, 0.5 * weight * steepness.mean()
