r"""The entropic (Sinkhorn) DRO objective of a network, estimated from samples.

.. math:: \lambda\varepsilon\,\frac1N\sum_i \log \mathbb E_{v\sim N(0,\frac\varepsilon2 I)}
          \exp\frac{\ell(z_i + v)}{\lambda\varepsilon}

is the dual of `dro_core.entropic_worst_case` without its budget term :math:`\lambda\bar\rho^2`
(paper §6.1; `Multiplier.penalty` adds it). Three estimators of the logarithm:

``"sg"``
    K plain draws. Its bias is O(1/K) for λ > 2κ² only, κ the Lipschitz constant of the residual:
    below, the exponential has infinite variance.
``"rt-mlmc"``
    the same expectation as ``"sg"`` with `samples` draws, from about log2(samples) draws per
    sample: the difference of one random level, divided by the probability of that level. Where a
    shape cannot depend on the levels (torch.compile, vmap over ``index=``) all draws are made.
``"tilted"``
    draws from the worst-case law of the *linearised* residual, reweighted: exact with one draw
    where the residual is affine (this project).
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, Literal, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dro_core.checks import as_non_negative, as_positive_integer, check_option
from dro_torch.checks import as_multiplier
from dro_torch.host import Checks, may_look, may_warn, transformed
from dro_torch.keyed_noise import Draws, key_of
from dro_torch.losses.checked import checked
from dro_torch.losses.estimation import (
    EstimatorWarning,
    effective_sample_size,
    level_difference,
    level_probabilities,
    soft_maximum,
)
from dro_torch.losses.moved import MovedLoss
from dro_torch.losses.tilting import LinearisedLaw
from dro_torch.losses.weights import average
from dro_torch.residual import (
    MovedSamples,
    Residual,
    SampleLoss,
    leading_directions,
)
from dro_torch.structure import Structure, XShift

__all__ = [
    "EntropicDROLoss",
    "EstimatorWarning",
    "LinearisedLaw",
    "effective_sample_size",
    "level_difference",
    "level_probabilities",
    "soft_maximum",
]

ESTIMATORS = ("sg", "rt-mlmc", "tilted")
#: Streams of the keyed noise: draws, levels, directions, where to linearise.
_DRAWS, _LEVELS, _DIRECTIONS, _POINTS = range(4)
#: Calls between two looks at the effective sample size (a look waits for the device).
_LOOK_EVERY = 100
#: Seeds of losses that are given none: this plus their number in the interpreter, from 0.
_OWN_SEEDS, _NUMBERS = 1 << 63, itertools.count()


class EntropicState(TypedDict):
    """What `EntropicDROLoss` keeps between calls."""

    calls: int
    directions: Tensor | None
    number: NotRequired[int | None]


class EntropicDROLoss(MovedLoss):
    r"""Entropic structured DRO objective, without the budget term (paper §6.1).

    .. math:: \frac{\lambda\varepsilon}{N}\sum_i \log \mathbb E_{v\sim N(0,\frac\varepsilon2 I)}
              \exp\frac{\ell(z_i+v)}{\lambda\varepsilon}, \qquad \ell = \|r\|^2

    Calling it, ``loss(model, x, y, multiplier, generator=None, *, index=None, seed=None,
    step=None, weights=None)``, returns a scalar to which ``backward()`` applies; its gradient in λ
    is exact for the estimate. Weights (N,), non-negative with sum one as in `dro_core`, take the
    place of 1/N.

    The noise is a function of (seed, step, index): `index` are the global numbers of the samples
    of the batch (0, 1, ... if not given), so that neither chunks nor processes change a value.
    Without `seed` it comes from `generator`, and without that from the object's own stream: the
    number of the loss in this interpreter (the order in which losses are made) and its count of
    calls, so that two losses do not share their noise. A copy and a loaded state go on with the
    stream of the original; a seed reproduces wherever and whenever. The global random state is
    never touched.

    Parameters
    ----------
    epsilon : float
        Entropy weight ε > 0 in squared units of the data: the noise has variance ε/2 per entry.
    structure : "y|x", "x|y", "joint" or Structure
        Which variable moves.
    samples : int
        Draws K per sample; for RT-MLMC the draws of the finest level, a power of two.
    estimator : "sg", "rt-mlmc" or "tilted"
        See the module's text.
    residual : callable, optional
        (model, x, y) -> what is measured; default x - model(y). The robust simulator of §6.5 is
        structure "x|y" with `dro_torch.forward_residual`.
    loss : callable, optional
        (model, x, y) -> (N,) in place of the squared norm (not with ``"tilted"``).
    antithetic : bool
        Draws come in pairs ±v (SG; `samples` must be even).
    chunk : int, optional
        Draws per forward pass. The backward pass computes them again, so that the peak memory
        does not grow with `samples` (it does inside of `torch.func`).
    modulus : float, optional
        Lipschitz constant κ of the residual in what moves; used to warn at λ ≤ 2κ² (infinite
        variance) and at λ ≤ κ² (the risk may be infinite). Known for x|y with the default
        residual; ``"tilted"`` with directions estimates it itself.
    rank : int or "full"
        Singular directions of the Jacobian in the tilted proposal. With 0 it is shifted to the
        linearised worst case and keeps its covariance, for three network passes: on one trained
        U-Net its error was never above that of plain draws at equal passes, while many directions
        lost (``python -m validation benchmarks torch``). Linear maps want "full".
    defensive : bool
        Half of the draws, or one more, come from the plain law (`samples` >= 2): weights at most 2.
    sweeps : int
        Rounds of subspace iteration for the directions.
    warm_start : bool
        Start them from the last call's (kept in the state dict); a value then depends on the
        calls before, no longer on (seed, step, index) alone.
    linearise : "data" or "noisy"
        Linearise the residual at the data, or at one draw of the noise.
    checks : {"first", "always", "never"}, optional
        When values are checked (entries finite, λ > 0), which waits for an accelerator: in the
        first call, in every one, never (then NaN in, NaN out). Default: in every call, but inside
        of `training.fit` as that says. Shapes and types are always checked.

    Attributes
    ----------
    diagnostics : dict of 0-d tensors
        Of the last call: mean "effective_sample_size", "effective_sample_share" (of the draws),
        and "passes" (network passes per sample; a Jacobian product counts two).

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named; structure x (its worst case is not a Gaussian reference's).

    Source: paper §6.1.1–6.1.2; RT-MLMC: Wang, Gao, Xie; tilted sampling: this project.
    """

    def __init__(
        self,
        epsilon: float,
        structure: str | Structure = "y|x",
        samples: int = 8,
        estimator: Literal["sg", "rt-mlmc", "tilted"] = "sg",
        residual: Residual | None = None,
        *,
        loss: SampleLoss | None = None,
        antithetic: bool = False,
        chunk: int | None = None,
        modulus: float | None = None,
        rank: int | Literal["full"] = 0,
        defensive: bool = True,
        sweeps: int = 1,
        warm_start: bool = False,
        linearise: Literal["data", "noisy"] = "data",
        checks: Checks | None = None,
    ) -> None:
        super().__init__(structure, residual, loss, checks)
        self.epsilon = as_non_negative(epsilon, "epsilon", "an entropy weight > 0")
        if self.epsilon == 0.0:
            raise ValueError("epsilon: 0; allowed: > 0 (WassersteinDROLoss is the limit at 0)")
        if isinstance(self.structure, XShift):
            raise ValueError(
                "structure: the entropic reference law of structure x is not Gaussian in z; "
                "allowed: 'y|x', 'x|y', 'joint' (WassersteinDROLoss takes XShift)"
            )
        self.samples = as_positive_integer(samples, "samples")
        check_option(estimator, "estimator", ESTIMATORS)
        self.estimator = estimator
        if loss is not None and estimator == "tilted":
            raise ValueError("loss: allowed with 'sg' and 'rt-mlmc'; tilting linearises a residual")
        self.antithetic, self.defensive = bool(antithetic), bool(defensive)
        self.warm_start = bool(warm_start)
        self.chunk = None if chunk is None else as_positive_integer(chunk, "chunk")
        self.sweeps = as_positive_integer(sweeps, "sweeps")
        if rank != "full" and rank != 0:
            as_positive_integer(rank, "rank")
        self.rank = rank
        check_option(linearise, "linearise", ("data", "noisy"))
        self.linearise = linearise
        self._check_combination()
        if modulus is not None:
            modulus = as_non_negative(modulus, "modulus", "a Lipschitz constant >= 0")
        elif residual is None and loss is None:
            modulus = self.structure.fixed_modulus
        self.modulus = modulus
        self._seen: tuple[list[tuple[Tensor, Tensor | float]], Tensor, float] | None = None
        self._probabilities = level_probabilities(self.samples.bit_length() - 1).tolist()
        self._calls, self._looks = 0, -1
        self._number: int | None = next(_NUMBERS)
        self._directions: Tensor | None = None
        self._warned: set[str] = set()

    def _check_combination(self) -> None:
        if self.antithetic and (self.estimator != "sg" or self.samples % 2):
            raise ValueError(
                f"antithetic: with estimator {self.estimator!r} and samples={self.samples}; "
                "allowed with 'sg' and an even number of samples"
            )
        if self.estimator == "rt-mlmc" and self.samples & (self.samples - 1):
            raise ValueError(
                f"samples: {self.samples}; 'rt-mlmc' needs a power of two, the finest level"
            )
        if self.estimator == "tilted" and self.defensive and self.samples < 2:
            raise ValueError(
                "samples: 1; defensive draws need at least 2, one from either law (or "
                "defensive=False)"
            )
        if self.chunk is not None and self.estimator != "sg":
            raise ValueError(f"chunk: allowed with 'sg', not with {self.estimator!r}")
        if self.chunk is not None and self.antithetic:
            raise ValueError("chunk: not with antithetic draws")

    def extra_repr(self) -> str:
        """The settings that tell two losses apart."""
        return (
            f"epsilon={self.epsilon:g}, structure={self.structure.name!r}, "
            f"samples={self.samples}, estimator={self.estimator!r}"
        )

    def get_extra_state(self) -> EntropicState:
        """What a resumed run needs: the stream, the count of calls, the warm-started directions."""
        return {"calls": self._calls, "directions": self._directions, "number": self._number}

    def set_extra_state(self, state: EntropicState) -> None:
        """Restore `get_extra_state`."""
        self._calls, self._directions = state["calls"], state["directions"]
        self._number = state.get("number")  # None: from when all losses drew with seed 0

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
        moved, mu = self._moved(model, x, y, weights)
        lam = as_multiplier(multiplier, moved.x)
        draw = key_of(index, *self._key(generator, seed, step), moved.x)
        self._warn_about_multiplier(lam, self.modulus)
        estimate = {"sg": self._plain, "rt-mlmc": self._multilevel, "tilted": self._tilted}
        return average(estimate[self.estimator](moved, lam, draw), mu)

    def _key(
        self, generator: torch.Generator | None, seed: int | None, step: int | Tensor | None
    ) -> tuple[int, int | Tensor]:
        if seed is not None:
            return seed, 0 if step is None else step
        if generator is not None:
            drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
            return int(drawn), 0 if step is None else step
        self._calls += 1
        own = 0 if self._number is None else _OWN_SEEDS + self._number
        return own, self._calls if step is None else step

    # -- plain draws

    def _noise(self, moved: MovedSamples, draw: Draws, first: int, count: int) -> Tensor:
        scale = math.sqrt(0.5 * self.epsilon)
        return draw.normal(count, moved.size, _DRAWS, moved.x.dtype, first=first).mul_(scale)

    def _plain(self, moved: MovedSamples, lam: Tensor, draw: Draws) -> Tensor:
        if self.chunk is None or self.chunk >= self.samples:
            if self.antithetic:
                half = self._noise(moved, draw, 0, self.samples // 2)
                noise = torch.cat([half, -half], dim=1)
            else:
                noise = self._noise(moved, draw, 0, self.samples)
            losses = moved.losses(noise)
        else:

            def chunk_losses(first: int, count: int) -> Tensor:
                return moved.losses(self._noise(moved, draw, first, count))

            parts = []
            for first in range(0, self.samples, self.chunk):
                count = min(self.chunk, self.samples - first)
                if torch.is_grad_enabled() and not transformed():  # which has no checkpoints
                    parts.append(checkpoint(chunk_losses, first, count, use_reentrant=False))
                else:
                    parts.append(chunk_losses(first, count))
            losses = torch.cat(parts, dim=1)
        return self._aggregate(moved, losses, 0.0, lam)

    def _aggregate(
        self, moved: MovedSamples, losses: Tensor, log_weights: Tensor | float, lam: Tensor
    ) -> Tensor:
        with torch.autocast(losses.device.type, enabled=False):
            temperature = lam * self.epsilon
            self._report(moved, [(losses, log_weights)], temperature)
            return soft_maximum(losses, log_weights, temperature)

    # -- RT-MLMC

    def _multilevel(self, moved: MovedSamples, lam: Tensor, draw: Draws) -> Tensor:
        """One random level per sample, divided by the probability of that level, (N,)."""
        if torch.compiler.is_compiling() or isinstance(draw.step, Tensor):  # a recorded graph
            return self._masked_levels(moved, lam, draw)
        # on the CPU: the number of rows depends on the levels drawn
        host = Draws(draw.index.cpu(), draw.seed, draw.step)
        level = self._levels(host)
        try:
            groups = [
                (int(value), (level == value).nonzero()[:, 0].to(draw.index.device))
                for value in level.unique()
            ]
        except RuntimeError:
            if not transformed():
                raise
            return self._masked_levels(moved, lam, draw)  # vmap over index=
        order = torch.cat([members for _, members in groups])
        rows = torch.cat([members.repeat_interleave(2**value) for value, members in groups])
        noise = torch.cat(
            [
                self._noise(moved, draw.of(members), 0, 2**value).flatten(0, 1)
                for value, members in groups
            ]
        )
        every = MovedSamples(
            moved.model, moved.x[rows], moved.y[rows], moved.structure, moved.residual, moved.loss
        )
        losses = every.losses(noise[:, None, :])[:, 0]
        moved.passes = len(rows) / len(draw.index)
        with torch.autocast(losses.device.type, enabled=False):
            temperature = lam * self.epsilon
            parts: list[Tensor] = []
            blocks: list[tuple[Tensor, Tensor | float]] = []
            start = 0
            for value, members in groups:
                block = losses[start : start + len(members) * 2**value].reshape(-1, 2**value)
                start += block.numel()
                parts.append(level_difference(block, temperature) / self._probabilities[value])
                blocks.append((block, 0.0))
            self._report(moved, blocks, temperature)
            return torch.cat(parts)[order.argsort()]

    def _levels(self, draw: Draws) -> Tensor:
        """The random level of every sample, (N,)."""
        uniform, finest = draw.uniform(_LEVELS), len(self._probabilities) - 1
        bounds = level_probabilities(finest, uniform.device).cumsum(0)
        return torch.bucketize(uniform, bounds).clamp(max=finest)

    def _masked_levels(self, moved: MovedSamples, lam: Tensor, draw: Draws) -> Tensor:
        """The same where a shape cannot depend on the levels drawn: all draws of every sample."""
        level = self._levels(draw)
        losses = moved.losses(self._noise(moved, draw, 0, self.samples))
        with torch.autocast(losses.device.type, enabled=False):
            temperature = lam * self.epsilon
            parts = [
                level_difference(losses[:, : 2**value], temperature) / probability
                for value, probability in enumerate(self._probabilities)
            ]
            self._report(moved, [(losses, 0.0)], temperature)
            return torch.stack(parts, dim=1).gather(1, level[:, None])[:, 0]

    # -- tilted draws

    def _tilted(self, moved: MovedSamples, lam: Tensor, draw: Draws) -> Tensor:
        with torch.no_grad(), torch.autocast(moved.x.device.type, enabled=False):
            proposal = self._proposal(moved, lam.detach(), draw)
            tilted = self.samples // 2 if self.defensive else self.samples
            normal = draw.normal(self.samples, moved.size, _DRAWS, moved.wide)
            displacement = torch.cat(
                [proposal.transform(normal[:, :tilted]), normal[:, tilted:] * proposal.scale], dim=1
            )
            share = tilted / self.samples
            log_ratio = proposal.log_ratio(displacement)
            log_weights = -torch.logaddexp(
                log_ratio + math.log(share),
                torch.full_like(log_ratio, math.log1p(-share) if share < 1 else -math.inf),
            )
        self._warn_about_multiplier(lam, None, proposal.largest)
        return self._aggregate(moved, moved.losses(displacement), log_weights, lam)

    def _proposal(self, moved: MovedSamples, lam: Tensor, draw: Draws) -> LinearisedLaw:
        samples, size = len(draw.index), moved.size
        if self.warm_start and transformed():
            raise ValueError(
                "EntropicDROLoss: warm_start keeps the directions of a call for the next one, "
                "which is not possible inside of torch.func; allowed there: warm_start=False"
            )
        rank = size if self.rank == "full" else min(int(self.rank), size)
        point = torch.zeros(samples, 1, size, dtype=moved.x.dtype, device=moved.x.device)
        if self.linearise == "noisy":
            point = draw.normal(1, size, _POINTS, point.dtype) * math.sqrt(0.5 * self.epsilon)
        if rank:
            start = draw.normal(rank, size, _DIRECTIONS, point.dtype).mT
            if rank == size:
                start = torch.eye(size, dtype=point.dtype, device=point.device).repeat(
                    samples, 1, 1
                )
            elif self.warm_start and self._directions is not None:
                kept = self._directions.to(start)
                if kept.shape == start.shape[1:]:
                    start = kept.expand_as(start)
            sweeps = 0 if rank == size else self.sweeps
            residual, _, values, right = leading_directions(moved, point[:, 0], start, sweeps)
            if self.warm_start:
                weighted = (right * values[:, None, :]).permute(1, 0, 2).reshape(size, -1)
                self._directions = torch.linalg.svd(weighted, full_matrices=False).U[:, :rank]
        else:
            residual = moved.residuals(point)[:, 0]
            values, right = residual.new_zeros(samples, 0), residual.new_zeros(samples, size, 0)
        if self.linearise == "noisy":  # the affine model r(p) + C(v - p), as seen from v = 0
            residual = residual - moved.apply(point, point)[1][:, 0]
        slope = moved.adjoint(point, residual[:, None, :])[1][:, 0].to(moved.wide)
        return LinearisedLaw.of(
            values.to(moved.wide), right.to(moved.wide), slope, lam, self.epsilon
        )

    # -- what is said about it

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What the last call saw, computed when it is asked for."""
        if self._seen is None:
            return {}
        blocks, temperature, passes = self._seen
        samples = sum(len(losses) for losses, _ in blocks)
        shares = [
            effective_sample_size(losses, log_weights, temperature).sum() / losses.shape[1]
            for losses, log_weights in blocks
        ]
        share = torch.stack(shares).sum() / samples
        draws = sum(losses.numel() for losses, _ in blocks) / samples
        return {
            "effective_sample_size": share * draws,
            "effective_sample_share": share,
            "passes": torch.full((), passes, device=temperature.device),
        }

    def _report(
        self, moved: MovedSamples, blocks: list[tuple[Tensor, Tensor | float]], temperature: Tensor
    ) -> None:
        """Keep losses (N, K) and log-weights of groups of samples for `diagnostics`, and look."""
        if transformed():  # what is wrapped means nothing outside
            self._seen = None
            return
        kept = [(losses.detach(), log_weights) for losses, log_weights in blocks]
        self._seen = (kept, temperature.detach(), moved.passes)
        self._looks += 1
        if not may_warn() or self._looks % _LOOK_EVERY:
            return
        if self.estimator == "rt-mlmc" or self.samples < 4:
            return
        number = float(self.diagnostics["effective_sample_size"])
        if number < min(2.0, self.samples / 4):
            self._warn(
                "size",
                f"the effective sample size is {number:.2f} of {self.samples} draws: single draws "
                "decide, and the estimate lies below the objective; take more samples, a larger "
                "multiplier or a larger epsilon",
            )

    def _warn_about_multiplier(
        self, lam: Tensor, modulus: float | None, estimate: Tensor | None = None
    ) -> None:
        if modulus is None and estimate is None:
            return
        if not may_warn() or not (may_look() or (self._looks + 1) % _LOOK_EVERY == 0):
            return
        said = ""
        if modulus is None:
            if "infinite" in self._warned:
                return
            modulus, said = float(estimate), "estimated from the Jacobians, "  # type: ignore[arg-type]
        number, square = float(lam.detach()), modulus**2
        if number <= square * (1.0 + 4.0 * torch.finfo(lam.dtype).eps):
            self._warn(
                "infinite",
                f"the multiplier {number:.4g} is at or below κ² = {square:.4g} ({said}κ = "
                f"{modulus:.4g}): the worst-case risk may be infinite, but an estimate never is",
            )
        elif number <= 2 * square and (self.estimator, self.rank) != ("tilted", "full"):
            self._warn(
                "variance",
                f"the multiplier {number:.4g} is at or below 2κ² = {2 * square:.4g} ({said}κ = "
                f"{modulus:.4g}): the draws may have infinite variance, and a bias that more "
                "samples hardly cure",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, EstimatorWarning, stacklevel=4)
