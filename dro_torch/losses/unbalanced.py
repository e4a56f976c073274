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

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar, unknown
from dro_torch.checks import check_alike, check_batch, check_finite
from dro_torch.models import call_model

#: Entries of the images for which the ISUM paper states its constants: 3 x 256 x 256.
PAPER_ENTRIES = 3 * 256 * 256
#: Largest slope of the pull on a constant of v that the objective leaves free.
_PULL = 0.1

Network = Callable[[Tensor], Tensor]


def cost_scale(entries: Any) -> float:
    r"""The scale :math:`\tau = 10^{-3}\cdot196608/D` of the cost for signals of D entries.

    A sum over pixels grows with D; this keeps its size at that of the paper's 3 x 256 x 256 images.
    Too large a scale makes unbalanced transport ignore the noisiest measurements: watch
    `UnbalancedOTLoss.weights`, and try 0.3, 0.1 and 0.03 times it.

    Source: ISUM paper, Appendix A, for D = 196608; the rule is this project's.

    >>> cost_scale(3 * 256 * 256), cost_scale(32 * 32)
    (0.001, 0.192)
    """
    return 1e-3 * PAPER_ENTRIES / as_positive_integer(entries, "entries")


def gradient_penalty_weight(entries: Any) -> float:
    r"""The weight :math:`\gamma = 5D/196608` of the gradient penalty for signals of D entries.

    The penalty biases the potential, so lower it (`UnbalancedOTLoss.gradient_penalty`) late in a
    run. Source: this project, from the value 5 that is usual for 3 x 256 x 256 images.

    >>> gradient_penalty_weight(3 * 256 * 256)
    5.0
    """
    return 5.0 * as_positive_integer(entries, "entries") / PAPER_ENTRIES


def _wide(tensor: Tensor) -> Tensor:
    """float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


# --- divergences ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Divergence:
    r"""How one marginal is held: :math:`D(r|a) = w\int\Psi(dr/da)\,da`.

    Attributes
    ----------
    weight : float
        w > 0, in units of the cost. The same w on both sides is the cost c/w at weight one.
    """

    weight: float = 1.0
    #: Name that `UnbalancedOTLoss` accepts.
    name: ClassVar[str]
    #: Whether a constant added to the cost only scales the plan, so that it may be removed.
    shiftable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if as_scalar(self.weight, "weight", "a number > 0") <= 0:
            raise ValueError(f"weight: {self.weight}; allowed: a number > 0")

    def primal(self, t: Tensor) -> Tensor:
        r""":math:`w\Psi(t)`; infinite outside its domain."""
        return self.weight * self._primal(t)

    def conjugate(self, s: Tensor) -> Tensor:
        r""":math:`\sup_t st - w\Psi(t) = w\Psi^*(s/w)`."""
        return self.weight * self._conjugate(s / self.weight)

    def density(self, s: Tensor) -> Tensor:
        r"""The maximiser t, derivative of the conjugate: the density of the plan's marginal."""
        return self._density(s / self.weight)

    def shift_free(self, s: Tensor) -> Tensor:
        r"""The mean conjugate of s for a constant in s that is free, if `shiftable`."""
        raise NotImplementedError

    def _primal(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _conjugate(self, s: Tensor) -> Tensor:
        raise NotImplementedError

    def _density(self, s: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class KullbackLeibler(Divergence):
    r""":math:`\Psi(t) = t\log t - t + 1` on :math:`[0, e^{t_0}]`; :math:`\Psi^*(s) = e^s - 1`.

    Beyond the threshold :math:`t_0` the exponential goes on along its tangent,
    :math:`e^{t_0}(1 + s - t_0) - 1`: nothing overflows, value and slope are continuous, and it is
    the conjugate of the same divergence with densities of at most :math:`e^{t_0}`. So the optimum
    is untouched if its densities are smaller.

    Attributes
    ----------
    weight : float
    threshold : float
        :math:`t_0\in[0, 80]`.
    """

    threshold: float = 5.0
    name: ClassVar[str] = "kl"
    shiftable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if as_non_negative(self.threshold, "threshold", "a number in [0, 80]") > 80:
            raise ValueError(f"threshold: {self.threshold}; allowed: a number in [0, 80]")

    def _primal(self, t: Tensor) -> Tensor:
        outside = (t < 0) | (t > math.exp(self.threshold) * (1 + 1e-12))
        return (torch.xlogy(t, t) - t + 1).masked_fill(outside, math.inf)

    def _conjugate(self, s: Tensor) -> Tensor:
        below = s.clamp(max=self.threshold)
        return torch.expm1(below) + math.exp(self.threshold) * (s - below)

    def _density(self, s: Tensor) -> Tensor:
        return torch.exp(s.clamp(max=self.threshold))

    def shift_free(self, s: Tensor) -> Tensor:
        r""":math:`w\log\operatorname{mean}e^{s/w}`."""
        return self.weight * (torch.logsumexp(s / self.weight, 0) - math.log(len(s)))


@dataclass(frozen=True)
class Balanced(Divergence):
    r"""A fixed marginal: :math:`\Psi` is 0 at t = 1, else infinite; :math:`\Psi^*(s) = s`."""

    name: ClassVar[str] = "balanced"
    shiftable: ClassVar[bool] = True

    def _primal(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t).masked_fill(t != 1, math.inf)

    def _conjugate(self, s: Tensor) -> Tensor:
        return s

    def _density(self, s: Tensor) -> Tensor:
        return torch.ones_like(s)

    def shift_free(self, s: Tensor) -> Tensor:
        """The mean."""
        return s.mean()


@dataclass(frozen=True)
class Softplus(Divergence):
    r""":math:`\Psi(t) = t\log t + (2-t)\log(2-t)`, :math:`\Psi^*(s) = 2\log\frac{1+e^s}{2}`.

    Densities stay in [0, 2], so gradients are bounded.
    """

    name: ClassVar[str] = "softplus"

    def _primal(self, t: Tensor) -> Tensor:
        rest = 2 - t
        return (torch.xlogy(t, t) + torch.xlogy(rest, rest)).masked_fill(
            (t < 0) | (t > 2), math.inf
        )

    def _conjugate(self, s: Tensor) -> Tensor:
        return 2 * torch.logaddexp(s, torch.zeros_like(s)) - 2 * math.log(2)

    def _density(self, s: Tensor) -> Tensor:
        return 2 * torch.sigmoid(s)


@dataclass(frozen=True)
class ChiSquared(Divergence):
    r""":math:`\Psi(t) = (t-1)^2` for t >= 0, :math:`\Psi^*(s) = s + s^2/4`, and -1 below s = -2.

    Densities reach exactly zero: points too far away are dropped.
    """

    name: ClassVar[str] = "chi2"

    def _primal(self, t: Tensor) -> Tensor:
        return ((t - 1) ** 2).masked_fill(t < 0, math.inf)

    def _conjugate(self, s: Tensor) -> Tensor:
        above = s.clamp(min=-2)
        return above + above**2 / 4

    def _density(self, s: Tensor) -> Tensor:
        return 1 + s.clamp(min=-2) / 2


DIVERGENCES: dict[str, type[Divergence]] = {
    kind.name: kind for kind in (KullbackLeibler, Balanced, Softplus, ChiSquared)
}


def _as_divergence(value: Any, name: str) -> Divergence:
    if isinstance(value, Divergence):
        return value
    if isinstance(value, str) and value in DIVERGENCES:
        return DIVERGENCES[value]()
    if not isinstance(value, str):
        raise TypeError(
            f"{name}: {value!r}; allowed: a Divergence, or one of "
            f"{', '.join(map(repr, DIVERGENCES))}"
        )
    raise ValueError(unknown(name, value, DIVERGENCES))


# --- the cost ---------------------------------------------------------------------------------


class BicubicUpsampling(nn.Module):
    """Q: images `factor` times as large in both directions, bicubic, pixel centres aligned.

    Used by the cost and by the global residual of `dro_torch.nets.TransportMap`.
    """

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = as_positive_integer(factor, "upsample")

    def forward(self, y: Tensor) -> Tensor:
        """(N, channels, height, width) to (N, channels, factor height, factor width)."""
        if self.factor == 1:
            return y
        return functional.interpolate(
            y, scale_factor=float(self.factor), mode="bicubic", align_corners=False
        )

    def extra_repr(self) -> str:
        return f"factor={self.factor}"


class LikelihoodCost(nn.Module):
    r"""The cost :math:`c(y,x) = \tau\,(\lambda_l\|A(x)-y\|^2 + \lambda_q\|Q(y)-x\|^2)`, (N,).

    Squares are **summed** over all entries of a sample, in float32 or wider also under autocast.

    Parameters
    ----------
    forward : callable, nn.Module, or object with a method ``A``
        The forward operator, from signals (N, ...) to measurements (N, ...); where there is an
        ``A`` it is used, as calling a physics object may add noise. May be None if `likelihood`
        is zero: then the corruption is unknown (blind), and nothing is ever called.
    likelihood, quadratic : float
        :math:`\lambda_l, \lambda_q \ge 0`, not both zero.
    scale : float
        :math:`\tau > 0`; `cost_scale` has a rule.
    upsample : int or callable, optional
        Q, for measurements smaller than signals: a factor (bicubic), or any map.

    Raises
    ------
    ValueError, TypeError
        For negative weights, a missing operator, or (when called) shapes that do not fit.

    Notes
    -----
    Source: ISUM paper, Eq. 13 and Section 4. With both parts the cost is about twice as large as
    with one: compare ablations at equal total cost.

    Examples
    --------
    >>> import torch
    >>> cost = LikelihoodCost(lambda x: 2 * x, scale=0.5)
    >>> cost(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([3.])
    """

    def __init__(
        self,
        forward: Any = None,
        likelihood: Any = 1.0,
        quadratic: Any = 1.0,
        scale: Any = 1e-3,
        upsample: Any = None,
    ) -> None:
        super().__init__()
        self.likelihood = as_non_negative(likelihood, "likelihood")
        self.quadratic = as_non_negative(quadratic, "quadratic")
        self.scale = as_scalar(scale, "scale", "a number > 0")
        if self.scale <= 0:
            raise ValueError(f"scale: {self.scale}; allowed: a number > 0")
        if self.likelihood == self.quadratic == 0:
            raise ValueError("likelihood, quadratic: both are zero, so every map is free")
        if forward is None and self.likelihood > 0:
            raise ValueError(
                f"forward: None, but likelihood is {self.likelihood}; give the forward operator, "
                "or likelihood=0 if it is unknown"
            )
        if forward is not None and not callable(_applied(forward)):
            raise TypeError(
                f"forward: {type(forward).__name__} is neither callable nor has a method A"
            )
        if upsample is not None and not callable(upsample):
            upsample = BicubicUpsampling(upsample)
        self.operator, self.upsample = forward, upsample

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Cost of moving measurement i to signal i: (N, ...) and (N, ...) to (N,)."""
        for name, value in (("y", y), ("x", x)):
            if (
                not isinstance(value, Tensor)
                or not value.is_floating_point()
                or value.ndim == 0
                or value.is_sparse
            ):
                raise TypeError(f"{name}: {value!r:.50}; allowed: floating-point tensors of rows")
        if len(y) != len(x):
            raise ValueError(f"y: {len(y)} samples, but x has {len(x)}; entry i of both is one")
        with _full_precision(x):
            y, x = _wide(y), _wide(x)
            total = x.new_zeros(len(x))
            if self.likelihood > 0:
                image = call_model(_applied(self.operator), x, "forward", "x", dimensions=1)
                _check_shape(image, "forward: A(x)", y, "y")
                total = total + self.likelihood * _squares(image - y)
            if self.quadratic > 0:
                start = y
                if self.upsample is not None:
                    start = call_model(self.upsample, y, "upsample", dimensions=1)
                _check_shape(start, "upsample: Q(y)", x, "x")
                total = total + self.quadratic * _squares(start - x)
            return self.scale * total

    def extra_repr(self) -> str:
        return f"likelihood={self.likelihood}, quadratic={self.quadratic}, scale={self.scale}"


def _applied(operator: Any) -> Any:
    """The operator's method A if it has one (an attribute A may also be a matrix), else itself."""
    method = getattr(operator, "A", None)
    return method if callable(method) else operator


def _squares(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().sum(1)


def _check_shape(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but {other_name} has {tuple(other.shape)}; "
            "they must agree"
        )


# --- the loss ---------------------------------------------------------------------------------


class UnbalancedOTLoss(nn.Module):
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
    finite entries is the only synchronisation of device and host.

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
        divergence: Any = "kl",
        *,
        source_divergence: Any = None,
        target_divergence: Any = None,
        gradient_penalty: Any = 0.0,
        centre_cost: bool = False,
        momentum: Any = 0.01,
        translation_invariant: bool = False,
        limits: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not callable(cost):
            raise TypeError(f"cost: {type(cost).__name__} is not callable; see LikelihoodCost")
        both = _as_divergence(divergence, "divergence")
        self.source_divergence, self.target_divergence = (
            both if value is None else _as_divergence(value, name)
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
        self.gradient_penalty = as_non_negative(gradient_penalty, "gradient_penalty")
        self.centre_cost, self.translation_invariant = centre_cost, translation_invariant
        self.momentum = as_scalar(momentum, "momentum", "a number in (0, 1]")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum: {self.momentum}; allowed: a number in (0, 1]")
        self.limits = None if limits is None else _as_limits(limits)
        self._free = [side.weight for side in sides if isinstance(side, KullbackLeibler)]
        self._gauge = translation_invariant or all(isinstance(side, Balanced) for side in sides)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.components: dict[str, Tensor] = {}

    # --- the two steps ---

    def potential_loss(self, v: Network, T: Network, y: Tensor, x: Tensor) -> Tensor:
        """The loss of the potential's step; no gradient reaches T.

        Parameters
        ----------
        v : nn.Module or callable
            Signals to (N,) or (N, 1). Runs in float32 or wider, also under autocast.
        T : nn.Module or callable
            Measurements to signals.
        y, x : (N, ...) and (M, ...) tensors
            Batches of measurements and of unpaired signals.

        Returns
        -------
        0-d tensor
        """
        y, x = check_batch(y, "y"), check_batch(x, "x")
        check_alike(x, "x", y, "y")
        self._check_range(x)
        with torch.no_grad():
            moved = _moved(T, y)
            cost = self._cost(y, moved)
            self._observe(cost)
        with _full_precision(x):
            here = _potential(v, moved)
            source = here - (cost - self.centre if self.centre_cost else cost)
            there, penalty = self._penalised(v, _wide(x))
            first, second = self.source_divergence, self.target_divergence
            if self.translation_invariant:
                objective = first.shift_free(source) + second.shift_free(-there)
            else:
                objective = first.conjugate(source).mean() + second.conjugate(-there).mean()
            self.components = self._report(objective, source, there, cost)
            if penalty is not None:
                self.components["gradient_penalty"] = penalty.detach()
                objective = objective + penalty
            if self._gauge:
                level = there.mean()
                pull = _PULL * torch.tanh(here.mean().detach())
                objective = objective + pull * (level - level.detach())
            return objective

    def map_loss(self, v: Network, T: Network, y: Tensor) -> Tensor:
        """The loss of the map's step; no gradient of v's parameters is built (v an nn.Module).

        Parameters
        ----------
        v, T : as in `potential_loss`
        y : (N, ...) tensor
            A batch of measurements.

        Returns
        -------
        0-d tensor
        """
        y = check_batch(y, "y")
        moved = _moved(T, y)
        with _full_precision(y):
            cost = self._cost(y, moved)
            loss = (cost - _potential(_frozen(v), moved)).mean()
        self.components = {"map_loss": loss.detach(), "cost": cost.detach().mean()}
        return loss

    def r1(self, v: Network, x: Tensor) -> Tensor:
        r"""The gradient penalty :math:`\frac\gamma2\operatorname{mean}\|\nabla v(x)\|^2`.

        Summed over the entries of a sample; part of `potential_loss`.
        """
        x = check_batch(x, "x")
        with _full_precision(x):
            return 0.5 * self.gradient_penalty * _slopes(v, _wide(x))[1].mean()

    # --- what the pair says about the measurements ---

    @torch.no_grad()
    def weights(
        self, v: Network, T: Network, y: Tensor, groups: Any = None
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
        moved = _moved(T, y)
        with _full_precision(y):
            source = _potential(v, moved) - self._cost(y, moved)
            if self.centre_cost:
                source = source + self.centre
            side = self.source_divergence
            if self.translation_invariant:
                source = source - side.shift_free(source)
            weights = side.density(source)
        check_finite(weights, "weights of v, T, y")
        if groups is None:
            return weights
        labels = torch.as_tensor(groups)
        if labels.shape != (len(y),) or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"groups: shape {tuple(labels.shape)}, dtype {labels.dtype}; needed: {len(y)} "
                "integers, one per measurement"
            )
        labels = labels.to(weights.device)
        return {
            label: float(weights[labels == label].mean()) for label in sorted(set(labels.tolist()))
        }

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
        y = _wide(y)
        cost = self.cost(y.clone(), moved.clone()) if own else self.cost(y, moved)
        if not isinstance(cost, Tensor) or cost.shape != (len(y),):
            given = tuple(cost.shape) if isinstance(cost, Tensor) else type(cost).__name__
            raise ValueError(f"cost: gave {given}; needed: one number per sample, ({len(y)},)")
        return _wide(cost)

    def _observe(self, cost: Tensor) -> None:
        """Update the running mean of the cost; equal on all processes."""
        if not (self.centre_cost and self.training):
            return
        mean = cost.mean()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean = mean / torch.distributed.get_world_size()
        self.seen.add_(1)
        self.centre.add_((mean - self.centre) * (1 / self.seen).clamp(min=self.momentum))

    def _penalised(self, v: Network, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.gradient_penalty == 0:
            return _potential(v, x), None
        values, slopes = _slopes(v, x)
        return values, 0.5 * self.gradient_penalty * slopes.mean()

    @torch.no_grad()
    def _report(
        self, objective: Tensor, source: Tensor, there: Tensor, cost: Tensor
    ) -> dict[str, Tensor]:
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
        }

    def _check_range(self, x: Tensor) -> None:
        if self.limits is None or torch.compiler.is_compiling():
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
            f"gradient_penalty={self.gradient_penalty}"
        )


def _as_limits(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"limits: {value!r}; allowed: a pair (lowest, highest)")
    low, high = (as_scalar(end, "limits", "a pair of numbers") for end in value)
    if low >= high:
        raise ValueError(f"limits: ({low}, {high}); the first must be smaller")
    return low, high


def _moved(T: Network, y: Tensor) -> Tensor:
    return _wide(call_model(T, y, "T", dimensions=1))


def _potential(v: Network, x: Tensor) -> Tensor:
    """v(x) as (N,), float32 or wider."""
    values = call_model(v, x, "v", "x", dimensions=1)
    if values.shape == (len(x), 1):
        values = values[:, 0]
    if values.shape != (len(x),):
        raise ValueError(
            f"v: v(x) returned shape {tuple(values.shape)} for {len(x)} signals; needed: one "
            f"number each, ({len(x)},) or ({len(x)}, 1)"
        )
    return _wide(values)


def _slopes(v: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """v(x) and the squared norms of its gradients, (N,) each, differentiable in v's parameters."""
    build = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = _potential(v, x)
        if not values.requires_grad:
            raise ValueError("v: has no gradient in x, which the gradient penalty needs")
        (slope,) = torch.autograd.grad(
            values.sum(), x, create_graph=build, allow_unused=True, materialize_grads=True
        )
    return values, _squares(slope)


def _frozen(v: Network) -> Network:
    """v with its parameters held constant; the module itself is not touched."""
    if not isinstance(v, nn.Module):
        return v
    constants = {name: parameter.detach() for name, parameter in v.named_parameters()}
    return lambda x: functional_call(v, constants, (x,))
