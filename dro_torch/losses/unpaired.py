r"""Losses of other methods for unpaired images: neural optimal transport (NOT), OTUR and RCOT.

They train the same networks by the same alternating steps as `dro_torch.losses.unbalanced`, so that
a comparison measures the objective. None of them knows the forward operator.

NOT (Korotin, Selikhanovych and Burnaev 2023, with the quadratic cost) is the balanced semi-dual
without a gradient penalty: `neural_ot_loss`. OTUR (Wang, Wen, Yan and Liu 2022) lets a Wasserstein
critic compare T(y) with clean images and holds T(y) to y by the root of the mean squared
difference; RCOT (Tang, Hu, Gu and Sun 2024) adds the size of the residual's Fourier coefficients
and a map that sees its own residual: `CriticOTLoss`, `TransportMap(two_pass=True)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar
from dro_torch.checks import check_alike, check_batch
from dro_torch.host import Checks, transformed
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
from dro_torch.losses.likelihood import LikelihoodCost
from dro_torch.losses.unbalanced import UnbalancedOTLoss
from dro_torch.models import call_model, check_apart
from dro_torch.nets.upsampling import BicubicUpsampling
from dro_torch.precision import full_precision, wide

__all__ = ["CriticOTLoss", "neural_ot_loss"]

#: Smallest squared slope whose root is differentiated.
_FLAT = 1e-12


def neural_ot_loss(
    entries: int,
    *,
    scale: float = 1.0,
    upsample: int | Callable[[Tensor], Tensor] | None = None,
) -> UnbalancedOTLoss:
    r"""Neural optimal transport (NOT): balanced, mean squared cost, no gradient penalty.

    .. math:: \max_v\min_T\ \operatorname{mean}\Bigl[\frac sD\|Q(y)-T(y)\|^2 - v(T(y))\Bigr]
              + \operatorname{mean}v(x).

    The original takes ten steps of the map per step of the potential: ``potential_every=10`` of
    `fit_transport_map`.

    Parameters
    ----------
    entries : int
        D, the number of entries of a signal.
    scale : float
        s > 0; the original has 1. Another s has another potential, s times as large, and the same
        map at the optimum.
    upsample : int or callable, optional
        Q, for measurements smaller than signals.

    Returns
    -------
    UnbalancedOTLoss

    Raises
    ------
    ValueError, TypeError
        For a number of entries or a scale that is not positive.

    Notes
    -----
    Source: Korotin, Selikhanovych and Burnaev, Neural optimal transport, ICLR 2023, Algorithm 1;
    with the map that has no random input, and the strong quadratic cost.

    Examples
    --------
    >>> import torch
    >>> loss = neural_ot_loss(2)
    >>> v, T = (lambda x: x.sum(1)), (lambda y: y + 1)
    >>> round(float(loss.map_loss(v, T, torch.zeros(4, 2))), 3)
    -1.0
    """
    count = as_positive_integer(entries, "entries")
    if as_scalar(scale, "scale", "a number > 0") <= 0:
        raise ValueError(f"scale: {scale}; allowed: a number > 0")
    cost = LikelihoodCost(likelihood=0.0, scale=scale / count, upsample=upsample)
    return UnbalancedOTLoss(cost, "balanced")


class CriticOTLoss(AlternatingLoss):
    r"""Relaxed transport with a Wasserstein critic: OTUR, and with a Fourier term RCOT.

    With :math:`r = (Q(y) - T(y))/s` for images in a range of length s

    .. math:: L_v &= \operatorname{mean}v(T(y)) - \operatorname{mean}v(x)
                     + \gamma\operatorname{mean}\bigl(s\|\nabla v(\hat x)\| - 1\bigr)^2,\\
              L_T &= -\operatorname{mean}v(T(y)) + \rho\sqrt{\operatorname{mean}r^2}
                     + \varphi\operatorname{mean}|\mathcal F r|.

    Means are over samples and entries, so the root is one of the whole batch; :math:`\mathcal F` is
    the orthonormal Fourier transform of the last two axes (of the last if a sample has one), and
    :math:`\hat x` is uniform on the segment from T(y) to x, sample by sample. The critic's slope is
    one per range, as for images in [0, 1].

    Parameters
    ----------
    distance : float
        :math:`\rho \ge 0`; OTUR has 30 for images in [0, 1].
    fourier : float
        :math:`\varphi \ge 0`; zero is OTUR, more is RCOT. Not both zero.
    gradient_penalty : float
        :math:`\gamma \ge 0`; an attribute that may be changed while training.
    value_range : (float, float)
        Ends of the range of images.
    upsample : int or callable, optional
        Q, for measurements smaller than signals: a factor (bicubic), or any map.
    checks : {"first", "always", "never"}, optional
        As in `UnbalancedOTLoss`.

    Attributes
    ----------
    components : dict of 0-d tensors
        Potential step: ``value`` (mean v(x) - mean v(T(y)), an estimate of the distance), ``cost``
        (:math:`\rho` and :math:`\varphi` terms), ``gradient_penalty``. Map step: ``map_loss``,
        ``cost``.

    Raises
    ------
    ValueError, TypeError
        For negative weights, a bad range, NaN or infinite data, batches of y and x that differ in
        length, networks whose output has the wrong shape.

    Notes
    -----
    Source: Wang, Wen, Yan and Liu, Optimal transport for unsupervised denoising learning, TPAMI
    2022; Tang, Hu, Gu and Sun, Residual-conditioned optimal transport, ICML 2024; the penalty is
    that of Gulrajani et al. (2017). Here it is part of the critic's step; the public code of OTUR
    takes a step of its own for it. RCOT conditions by an embedding of the residual, here the
    residual itself is the input (`TransportMap`); its weight of the Fourier term depends on the
    task and is chosen on validation images.

    In a fixed direction of transport of a single image the map either moves all the way or not at
    all; see `docs/isum.md` for what several images do. The points on segments come from torch's
    generator, which `dro_torch.training.fit` sets in every step.

    Examples
    --------
    >>> import torch
    >>> loss = CriticOTLoss(distance=3, value_range=(0, 1))
    >>> v, T = (lambda x: x.sum(1)), (lambda y: y + 0.5)
    >>> y, x = torch.zeros(4, 2), torch.ones(4, 2)
    >>> float(loss.map_loss(v, T, y))
    0.5
    >>> float(loss.potential_loss(v, T, y, x, gradient_penalty=0))
    -1.0
    """

    def __init__(
        self,
        distance: float = 30.0,
        fourier: float = 0.0,
        *,
        gradient_penalty: float = 10.0,
        value_range: tuple[float, float] = (-1.0, 1.0),
        upsample: int | Callable[[Tensor], Tensor] | None = None,
        checks: Checks | None = None,
    ) -> None:
        super().__init__(gradient_penalty, checks)
        self.distance = as_non_negative(distance, "distance")
        self.fourier = as_non_negative(fourier, "fourier")
        if self.distance == self.fourier == 0:
            raise ValueError("distance, fourier: both are zero, so T(y) has nothing to do with y")
        if not isinstance(value_range, tuple | list) or len(value_range) != 2:
            raise TypeError(f"value_range: {value_range!r}; allowed: a pair (lowest, highest)")
        low, high = (as_scalar(end, "value_range", "a pair of numbers") for end in value_range)
        if low >= high:
            raise ValueError(f"value_range: ({low}, {high}); the first must be smaller")
        self.span = high - low
        if upsample is not None and not callable(upsample):
            upsample = BicubicUpsampling(upsample)
        self.upsample = upsample

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
        """The loss of the critic's step; no gradient reaches T.

        Parameters
        ----------
        v, T : as in `UnbalancedOTLoss.potential_loss`
        y, x : (N, ...) tensors
            Batches of measurements and of unpaired signals, equally many.
        gradient_penalty : float, optional
            Weight of the penalty in this call; default: the attribute's.

        Returns
        -------
        0-d tensor
        """
        y, x = check_batch(y, "y"), check_batch(x, "x")
        check_alike(x, "x", y, "y")
        if len(x) != len(y):
            raise ValueError(f"x: {len(x)} samples, y: {len(y)}; the penalty needs equally many")
        check_apart(v, "v")
        check_apart(T, "T")
        gamma = self._penalty_weight(gradient_penalty)
        with torch.no_grad():
            moved = moved_by(T, y)
            cost = self._cost(y, moved)
        with full_precision(x), explained(v):
            real = wide(x)
            if moved.shape != real.shape:
                raise ValueError(
                    f"T: T(y) has shape {tuple(moved.shape)}, but x has {tuple(real.shape)}; "
                    "they must agree"
                )
            value = potential_of(v, real).mean() - potential_of(v, moved).mean()
            objective = -value
            self.components = {} if transformed() else {"value": value.detach(), "cost": cost}
            if gamma > 0:
                penalty = gamma * self._penalty(v, moved, real)
                objective = objective + penalty
                if not transformed():
                    self.components["gradient_penalty"] = penalty.detach()
            return objective

    @torch.no_grad()
    def weights(
        self, v: Network, T: Network, y: Tensor, groups: Tensor | Sequence[int] | None = None
    ) -> Tensor | dict[int, float]:
        """One for every measurement, as in balanced transport: see `UnbalancedOTLoss.weights`."""
        return mean_by_group(wide(check_batch(y, "y")).new_ones(len(y)), groups)

    def _cost(self, y: Tensor, moved: Tensor) -> Tensor:
        r""":math:`\rho\sqrt{\operatorname{mean}r^2} + \varphi\operatorname{mean}|\mathcal Fr|`."""
        start = wide(y)
        if self.upsample is not None:
            start = call_model(self.upsample, start, "upsample", dimensions=1)
        if start.shape != moved.shape:
            raise ValueError(
                f"upsample: Q(y) has shape {tuple(start.shape)}, but T(y) has "
                f"{tuple(moved.shape)}; they must agree"
            )
        residual = (start - moved) / self.span
        total = residual.new_zeros(())
        if self.distance > 0:  # the norm has a derivative at zero, the root of a mean does not
            rms = torch.linalg.vector_norm(residual) / math.sqrt(residual.numel())
            total = total + self.distance * rms
        if self.fourier > 0:
            axes = tuple(range(max(1, residual.ndim - 2), residual.ndim))
            spectrum = torch.fft.fftn(residual, dim=axes, norm="ortho")
            total = total + self.fourier * spectrum.abs().mean()
        return total

    def _penalty(self, v: Network, moved: Tensor, real: Tensor) -> Tensor:
        r""":math:`\operatorname{mean}(s\|\nabla v(\hat x)\| - 1)^2` on the segments."""
        share = torch.rand((len(real), *[1] * (real.ndim - 1)), device=real.device).to(real.dtype)
        _, squared = slopes(v, moved + share * (real - moved))
        return (self.span * squared.clamp(min=_FLAT).sqrt() - 1).square().mean()

    def extra_repr(self) -> str:
        return (
            f"distance={self.distance}, fourier={self.fourier}, "
            f"gradient_penalty={self.gradient_penalty}, span={self.span}"
        )
