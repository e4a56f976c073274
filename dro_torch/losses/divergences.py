"""Divergences by which a marginal of a transport plan is held, with their conjugates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_scalar, unknown


@dataclass(frozen=True)
class Divergence(ABC):
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
        raise TypeError(f"{self.name}: a constant added to the cost changes its plan")

    @abstractmethod
    def _primal(self, t: Tensor) -> Tensor:
        r""":math:`\Psi(t)`."""

    @abstractmethod
    def _conjugate(self, s: Tensor) -> Tensor:
        r""":math:`\Psi^*(s)`."""

    @abstractmethod
    def _density(self, s: Tensor) -> Tensor:
        r"""The derivative of :math:`\Psi^*`."""


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


def as_divergence(value: str | Divergence, name: str) -> Divergence:
    """A divergence, or that of this name."""
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
