r"""Both ends of a smoothed network, from draws (docs, "Growth profiles").

The upper end counts how often the losses :math:`\|f(y_i + \sigma n) - x_i\|^2` of the unmoved
samples exceed levels that pilot draws chose; `dro_core.smoothed_bound` turns the counts of all
samples together into a bound for every radius. The lower end is the mean loss of a law under fresh
draws that the attack has not seen, as far as a confidence bound of that mean goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from dro_core import (
    GrowthProfiles,
    SmoothedLosses,
    exceedance_bound,
    growth_bound,
    mean_lower_bound,
    smoothed_bound,
)
from dro_core.checks import as_count, as_positive, as_positive_integer
from dro_core.types import Array
from dro_torch.certify.problem import Problem
from dro_torch.certify.upper import UpperEnd, affine_map, reaches
from dro_torch.nets.clipped import Clipped
from dro_torch.nets.smoothed import SmoothedModel
from dro_torch.nets.tethered import Tethered
from dro_torch.residual import squared_norm

#: Standard normal quantiles at which pilot draws set levels.
_PLACES = np.linspace(-2.5, 4.5, 49)
#: Further levels above all pilot draws, in units of their spread.
_BEYOND = np.array([0.1, 0.3, 1.0, 3.0])
#: Rows that go through the network at once.
_ROWS = 512
#: Losses that set centre and range of the lower end, per sample.
_PILOT = 2


@dataclass(frozen=True)
class Smoothing:
    r"""What `certify` smooths by, and how many draws it takes.

    Parameters
    ----------
    sigma : float
        Standard deviation > 0 of the noise, in the units of y.
    draws : int
        K of the map :math:`\frac1K\sum_k f(y + \sigma n_k)` (`nets.SmoothedModel`) whose risk is
        the lower end. The upper end holds for every K.
    certification : int
        Draws per sample for the upper end (and an eighth more of pilot draws).
    evaluation : int
        Values of the map per sample, K draws each, for the lower end at each radius.
    attack : int
        Fixed draws that the attack sees.
    failure_probability : float
        That one of both ends is wrong for chance, at any of the radii.
    """

    sigma: float
    draws: int = 16
    certification: int = 1024
    evaluation: int = 16
    attack: int = 8
    failure_probability: float = 1e-3

    def __post_init__(self) -> None:
        as_positive(self.sigma, "sigma")
        for name in ("draws", "certification", "attack"):
            as_positive_integer(getattr(self, name), name)
        if as_count(self.evaluation, "evaluation") < 2:
            raise ValueError(f"evaluation: {self.evaluation}; allowed: an integer >= 2")
        if as_positive(self.failure_probability, "failure_probability") >= 1:
            raise ValueError(
                f"failure_probability: {self.failure_probability}; allowed: between 0 and 1"
            )


@torch.no_grad()
def sampled_losses(
    problem: Problem, model: Clipped, smoothing: Smoothing, seed: int
) -> SmoothedLosses:
    """Counts of exceedances over the unmoved samples, as upper bounds of their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    few = max(8, smoothing.certification // 8)
    pilot = _losses(problem, model, smoothing.sigma, few, generator)
    mu = problem.mu.cpu().numpy()
    centres = pilot.mean(axis=1)
    levels = _levels(pilot - centres[:, None], _farthest(problem, model) - centres)
    draws = _losses(problem, model, smoothing.sigma, smoothing.certification, generator)
    above = np.zeros(len(levels) - 1)
    for weight, row, centre in zip(mu, draws, centres, strict=True):
        order = np.searchsorted(np.sort(row - centre), levels[:-1], side="right")
        above += weight * (1 - order / len(row))
    # Σ_i μ_i p̂_i is a mean of independent variables in [0, 1] after division by N max μ
    scale = float(mu.max()) * len(mu)
    failure = 0.5 * smoothing.failure_probability / len(above)
    bounds = scale * exceedance_bound(np.clip(above / scale, 0, 1), draws.size, failure)
    return SmoothedLosses(
        centres,
        levels,
        np.minimum(bounds, 1.0),
        mu,
        _ceilings(problem, model, smoothing.sigma),
        0.5 * smoothing.failure_probability,
        draws.size,
    )


def _ceilings(problem: Problem, model: Clipped, sigma: float) -> GrowthProfiles | None:
    r"""What a tether to an affine anchor :math:`By + b` says of the average, without draws.

    With :math:`e_i` the residual of the anchor the root of the mean loss at distance t is at most

    .. math:: \sqrt{\mathbb E\|x_i - B(y' + \sigma n) - b\|^2} + r
              \le \sqrt{e_i^2 + \sigma^2\|B\|_F^2} + \|B\|t + r

    by Minkowski's inequality. None for other networks, and where a signal is outside of the range,
    so that the clamp may move outputs away from it.
    """
    tether, x, y = model.model, problem.x, problem.y
    outside = bool(((x < model.low) | (x > model.high)).any())
    if not isinstance(tether, Tethered) or outside:
        return None
    affine = affine_map(tether.anchor, y)
    if affine is None:
        return None
    matrix = affine[0]
    residual = (x.flatten(1) - tether.anchor(y).flatten(1)).double().norm(dim=1).cpu().numpy()
    still = np.hypot(residual, sigma * np.linalg.norm(matrix)) + tether.radius
    return GrowthProfiles.linear(still * (1 + 1e-5), float(np.linalg.norm(matrix, 2)) * (1 + 1e-9))


def _losses(
    problem: Problem, model: Clipped, sigma: float, draws: int, generator: torch.Generator
) -> Array:
    """Losses (N, draws) of the unmoved samples under fresh noise, in float64."""
    table = np.empty((len(problem.x), draws))
    for i in range(len(problem.x)):
        x, y = problem.x[i : i + 1], problem.y[i : i + 1]
        for first in range(0, draws, _ROWS):
            some = min(_ROWS, draws - first)
            noise = torch.randn((some, *y.shape[1:]), generator=generator, dtype=y.dtype)
            apart = (model(y + sigma * noise.to(y.device)) - x).double().flatten(1)
            table[i, first : first + some] = apart.square().sum(1).cpu().numpy()
    problem.passes += draws
    return table


def _farthest(problem: Problem, model: Clipped) -> Array:
    """The largest loss of every sample for outputs in the range."""
    x = problem.x.double().flatten(1)
    squares = torch.maximum(x - model.low, model.high - x).square().sum(1)
    return np.asarray(squares.cpu().numpy()) * (1 + 1e-6)  # outputs and losses are rounded


def _levels(pilot: Array, highest: Array) -> Array:
    """Increasing levels from pilot draws, the last one above all losses."""
    inside = np.quantile(pilot, ndtr(_PLACES))
    spread = float(inside[-1] - inside[0]) + 1e-12
    top = float(highest.max())
    chosen = np.concatenate([inside, float(pilot.max()) + spread * _BEYOND])
    chosen = np.unique(chosen[chosen < top - 1e-3 * spread])
    kept = [float(chosen[0])] if len(chosen) else [min(float(pilot.min()), top) - spread]
    for level in chosen[1:]:
        if level - kept[-1] > 1e-3 * spread:
            kept.append(float(level))
    return np.append(kept, top)


@dataclass(frozen=True)
class SmoothedUpper(UpperEnd):
    """The upper end of a smoothed network at all radii."""

    losses: SmoothedLosses | None = None
    sigma: float = 1.0
    reach: tuple[float, float] = (0.0, 1.0)  #: how far x and y move per unit of displacement

    def __call__(self, radius: float) -> float | None:
        r"""The smallest of the bounds.

        From the draws, :math:`(\sqrt{B(\kappa_y\rho)} + \kappa_x\rho)^2` with B of y|x (Minkowski);
        from the draws at radius zero and a constant, :math:`(\sqrt{B(0)} + \kappa\rho)^2`; from the
        range alone.
        """
        assert self.losses is not None
        moved_x, moved_y = self.reach
        still = smoothed_bound(self.losses, 0.0, self.sigma).value
        found = smoothed_bound(self.losses, moved_y * radius, self.sigma).value
        bounds = [(math.sqrt(max(found, 0.0)) + moved_x * radius) ** 2]
        if self.modulus is not None:
            bounds.append((math.sqrt(max(still, 0.0)) + self.modulus * radius) ** 2)
        if self.trivial is not None:
            bounds.append(growth_bound(self.trivial, radius, weights=self.mu).value)
        return min(bounds)


def smoothed_upper(
    problem: Problem, model: Clipped, smoothing: Smoothing, plain: UpperEnd, seed: int
) -> SmoothedUpper:
    r"""The draws, and the smaller constant: the network's, or :math:`R\sqrt{2/\pi}/\sigma`.

    R is the radius of the box of outputs: an average of points within R of its middle moves, along
    every direction, by at most 2R times the total variation of the noises,
    :math:`2R\,(2\Phi(t/2\sigma) - 1) \le Rt\sqrt{2/\pi}/\sigma`.
    """
    half = 0.5 * (model.high - model.low) * math.sqrt(problem.x[0].numel())
    constant = half * math.sqrt(2.0 / math.pi) / smoothing.sigma
    if plain.lipschitz is not None:
        constant = min(constant, plain.lipschitz)
    return SmoothedUpper(
        constant,
        float(problem.structure.modulus(constant, problem.x, problem.y)),
        "",
        plain.mu,
        trivial=plain.trivial,
        losses=sampled_losses(problem, model, smoothing, seed),
        sigma=smoothing.sigma,
        reach=reaches(problem.structure, problem.x, problem.y),
    )


class SmoothedLower:
    r"""The lower end: a confidence bound of the risk of a law, K fresh draws per value.

    Losses minus centres from their first values are bounded below by minus the largest centre, and
    what is far above counts less: the mean of the rest is bounded by `mean_lower_bound`. The draws
    are new for every law, so that the attack, which saw fixed ones, cannot have fitted them.
    """

    def __init__(
        self, problem: Problem, model: Clipped, smoothing: Smoothing, radii: int, seed: int
    ) -> None:
        self.problem, self.smoothing = problem, smoothing
        self.failure = 0.5 * smoothing.failure_probability / radii
        # another stream than that of the attack
        self.smooth = SmoothedModel(model, smoothing.sigma, smoothing.draws, seed=seed + 1)

    @torch.no_grad()
    def __call__(self, law: Tensor) -> float:
        """The bound for one law (N, size), at most its estimated risk."""
        problem, count = self.problem, _PILOT + self.smoothing.evaluation
        rows = []
        for part in problem.batches():
            x, y = problem.structure.displace(
                problem.x[part], problem.y[part], law[part].to(problem.x.dtype)
            )
            apart = [(x - self.smooth(y)).double().flatten(1) for _ in range(count)]
            rows.append(torch.stack([squared_norm(row) for row in apart], 1).cpu().numpy())
        problem.passes += count * self.smoothing.draws
        losses, mu = np.concatenate(rows), problem.mu.cpu().numpy()
        centres = losses[:, :_PILOT].mean(axis=1)
        pilot = losses[:, :_PILOT] - centres[:, None]
        weights = (mu * len(mu))[:, None]
        scaled = weights * (losses[:, _PILOT:] - centres[:, None])
        least = -float((weights[:, 0] * centres).max()) - 1e-12
        most = max(3.0 * float((weights * pilot).max()), 1e-3 * abs(least)) + 1e-12
        return float(mu @ centres) + mean_lower_bound(scaled.ravel(), least, most, self.failure)
