r"""A guaranteed interval for the worst-case risk of a trained network.

.. math:: \underbrace{\sum_i\mu_i\|r_i(v_i)\|^2}_{\text{a law in the ball}}
          \ \le\ \mathcal R\ \le\ \bigl(\sqrt M + \rho\,\kappa\bigr)^2

The lower end is the risk of a concrete law: displacements with :math:`\sum_i\mu_i\|v_i\|^2 \le
\rho^2`, evaluated again without gradients in float64. The upper end is the explicit bound with a
*proved* Lipschitz constant (`lipschitz_upper`); for a network of linear layers alone it is the
exact worst case of `dro_core`.

The law is found in two stages. First the worst case of the linearised residual: Lanczos vectors
of every sample reduce it to a small quadratic form, the samples' forms together are one
`dro_core.ResidualSpectrum`, and the dual solver of `dro_core` gives the multiplier that they
share. Then ascent on the sphere of the shared budget, on which samples trade.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dro_core import (
    LinearReconstruction,
    ResidualSpectrum,
    explicit_bound,
    minimize_quadratic_dual,
)
from dro_core.checks import as_non_negative, as_positive_integer, as_radius
from dro_core.linear_map import DENSE_ENTRIES
from dro_torch.checks import check_samples, sample_weights
from dro_torch.linearisation import LinearisedResidual
from dro_torch.lipschitz import UnsupportedLayerError, lipschitz_upper
from dro_torch.models import bare_copy
from dro_torch.nets import LinearMap, frozen
from dro_torch.residual import (
    MovedSamples,
    Residual,
    reconstruction_residual,
    squared_norm,
)
from dro_torch.structure import Structure, XShift, as_structure

#: Layers whose chains are affine maps.
AFFINE_LAYERS = (
    LinearMap, nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d,
)  # fmt: skip
#: The simple attacks that the found law is compared with.
SIMPLE_ATTACKS = ("random noise", "gradient", "projected gradient", "linearised")


@dataclass(frozen=True)
class Certificate:
    r"""An interval that contains the worst-case risk, and what it was made of.

    Attributes
    ----------
    lower : float
        Risk of the concrete law `displacement`, evaluated in float64.
    upper : float or None
        :math:`(\sqrt M + \rho\kappa)^2` with a proved κ, or the exact risk of an affine network
        (then `affine`); None with the reason in `upper_missing`.
    linearised : float
        Worst-case risk of the linearised residual, as far as its Lanczos vectors span it: what a
        user would expect if the network were affine. No bound either way.
    nominal : float
        Risk of the unmoved samples, M.
    radius, budget : float
        ρ in the units of the data, and ρ².
    transport_cost : float
        :math:`\sum_i\mu_i\|v_i\|^2` of the law, recomputed in float64; at most the budget.
    multiplier : float
        λ of the linearised worst case.
    modulus, lipschitz : float or None
        κ and the constant of the network it comes from.
    attacks : dict
        Risk of each simple attack of the same cost (float64), by name.
    structure : str
    samples : int
    passes : float
        Network passes per sample that the attack took, backward ones included.
    seconds : float
        Wall time, the Lipschitz bound included.
    displacement : (N, size) tensor
        The law, as `Structure.displace` takes it.
    """

    lower: float
    upper: float | None
    linearised: float
    nominal: float
    radius: float
    transport_cost: float
    multiplier: float
    modulus: float | None
    lipschitz: float | None
    attacks: dict[str, float]
    structure: str
    samples: int
    passes: float
    seconds: float
    upper_missing: str = ""
    affine: bool = False
    displacement: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)

    @property
    def budget(self) -> float:
        """ρ², the transport budget."""
        return self.radius**2

    @property
    def slack(self) -> float | None:
        """upper / lower >= 1, the width of the interval; None without an upper end."""
        return None if self.upper is None or self.lower == 0 else self.upper / self.lower

    def holds(self, rtol: float = 1e-9) -> bool:
        """The ends are in order, and the law is in the ball, up to `rtol`."""
        in_order = self.upper is None or self.lower <= self.upper * (1 + rtol)
        return in_order and self.transport_cost <= self.budget * (1 + rtol)

    def to_json(self) -> str:
        """All numbers (without the displacement) as JSON."""
        content = {name: getattr(self, name) for name in asdict(self) if name != "displacement"}
        return json.dumps({**content, "budget": self.budget, "slack": self.slack}, indent=2)

    def __str__(self) -> str:
        upper = f"{self.upper:.6g}" if self.upper is not None else f"none ({self.upper_missing})"
        lines = [
            f"worst-case risk over {self.structure}, radius {self.radius:g}, "
            f"{self.samples} samples",
            f"  nominal risk   {self.nominal:.6g}",
            f"  lower          {self.lower:.6g}   (a law of cost {self.transport_cost:.6g} of "
            f"{self.budget:.6g})",
            f"  upper          {upper}",
        ]
        if self.affine:
            lines[-1] += "   (exact: the network is affine)"
        elif self.modulus is not None:
            lines[-1] += f"   (κ <= {self.modulus:.6g})"
        if self.slack is not None:
            lines.append(f"  upper / lower  {self.slack:.4g}")
        lines.append(f"  linearised     {self.linearised:.6g}   (no bound)")
        lines += [f"  attack, {name:19} {risk:.6g}" for name, risk in self.attacks.items()]
        lines.append(f"  {self.passes:.0f} network passes per sample, {self.seconds:.1f} s")
        return "\n".join(lines)


def certify(
    model: nn.Module, x: Tensor, y: Tensor, radius: float, structure: str | Structure = "y|x", *,
    weights: Any = None, lipschitz: float | None = None, residual: Residual | None = None,
    directions: int = 12, steps: int = 30, batch_size: int = 256, seed: int = 0,
) -> Certificate:  # fmt: skip
    r"""A guaranteed interval for the worst-case risk of a network at one radius.

    Parameters
    ----------
    model : Module
        A copy of it in evaluation mode is certified.
    x, y : (N, ...) tensors
        The samples, on the device of the model.
    radius : float
        W2 radius ρ >= 0 in the units of the data.
    structure : "y|x", "x|y", "joint" or Structure
        What moves; `XShift` with cost "x" too (there the upper end needs `lipschitz`).
    weights : (N,), optional
        Non-negative weights μ that sum to one; a sample of weight zero stays where it is.
    lipschitz : float, optional
        A constant of the network that you guarantee (for `XShift`, of I - B∘A; with `residual=`,
        of the residual in what moves) in place of the one that `lipschitz_upper` proves.
    residual : callable, optional
        (model, x, y) -> what is measured; default x - model(y).
    directions : int
        Lanczos vectors per sample; two network passes each.
    steps : int
        Steps of the ascent; two network passes each, and as many for the attack that it is
        compared with.
    batch_size : int
        Samples that go through the network at once.
    seed : int
        Of the random attacks.

    Raises
    ------
    ValueError, TypeError
        Bad arguments, named.

    Source: theory §4 (linearised law), §5 (upper end, paper Theorem 4.2); the interval: this
    project.
    """
    return certificate_curve(
        model, x, y, [radius], structure, weights=weights, lipschitz=lipschitz, residual=residual,
        directions=directions, steps=steps, batch_size=batch_size, seed=seed,
    )[0]  # fmt: skip


def certificate_curve(
    model: nn.Module, x: Tensor, y: Tensor, radii: Sequence[float],
    structure: str | Structure = "y|x", *, weights: Any = None, lipschitz: float | None = None,
    residual: Residual | None = None, directions: int = 12, steps: int = 30,
    batch_size: int = 256, seed: int = 0,
) -> list[Certificate]:  # fmt: skip
    """`certify` at several radii, with one Lipschitz bound and one set of Lanczos vectors.

    Each radius' ascent also starts from the law of the one before, scaled.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__} is not a torch.nn.Module")
    x, y = check_samples(x, y)
    kind = as_structure(structure)
    if isinstance(kind, XShift) and kind.cost != "x":
        raise ValueError(f"structure: XShift with cost {kind.cost!r}; allowed here: cost 'x'")
    known = None if lipschitz is None else as_non_negative(lipschitz, "lipschitz")
    if residual is not None and not callable(residual):
        raise TypeError(f"residual: {type(residual).__name__} is not callable")
    radii = [as_radius(value, "radius") for value in radii]
    mu = sample_weights(weights, x)
    directions, steps, batch_size = (
        as_positive_integer(value, name)
        for value, name in (
            (directions, "directions"),
            (steps, "steps"),
            (batch_size, "batch_size"),
        )
    )
    start = time.perf_counter()
    kept = mu > 0  # samples of weight zero neither pay nor count, wherever they move
    measured = residual or reconstruction_residual
    problem = _Problem(model, x[kept], y[kept], kind, measured, mu[kept], batch_size)
    bound = _upper_end(problem, residual, known)
    reduced = _reduce(problem, directions, seed)
    shared = time.perf_counter() - start
    found: list[Certificate] = []
    for radius in radii:
        previous = found[-1] if found else None
        found.append(_certificate(problem, reduced, radius, steps, seed, bound, shared, previous))
    return [_with_unmoved(certificate, kept.cpu()) for certificate in found]


def _with_unmoved(certificate: Certificate, kept: Tensor) -> Certificate:
    """The certificate of all samples, those of weight zero unmoved."""
    law = certificate.displacement.new_zeros((len(kept), certificate.displacement.shape[1]))
    law[kept] = certificate.displacement
    return replace(certificate, samples=len(kept), displacement=law)


@dataclass(frozen=True)
class _UpperEnd:
    """What the upper ends of all radii are made of."""

    lipschitz: float | None
    modulus: float | None
    missing: str
    exact: Callable[[float], float] | None = None

    def __call__(self, nominal: float, radius: float) -> float | None:
        if self.exact is not None:
            return self.exact(radius)
        if self.modulus is None:
            return None
        # κ already belongs to the structure; explicit_bound takes it as it is under y|x
        return float(explicit_bound(nominal, self.modulus, radius, "y|x"))


def _upper_end(problem: _Problem, residual: Residual | None, known: float | None) -> _UpperEnd:
    x, y, structure = problem.x, problem.y, problem.structure
    if isinstance(structure, XShift) or residual is not None:
        what = "I - B∘A" if isinstance(structure, XShift) else "the residual in what moves"
        if known is None:
            return _UpperEnd(None, None, f"needs lipschitz=, a constant of {what}")
        return _UpperEnd(known, known, "")
    if known is not None:
        return _UpperEnd(known, structure.modulus(known), "")
    try:
        constant = float(lipschitz_upper(problem.model, tuple(y.shape[1:])))
    except UnsupportedLayerError as error:
        return _UpperEnd(None, None, str(error))
    exact = None
    affine = affine_map(problem.model, y)
    if affine is not None:
        matrix, offset = affine
        rows = x.flatten(1).double().cpu().numpy() - offset
        linear = LinearReconstruction(matrix, rows, y.flatten(1).double().cpu().numpy(),
                                      weights=problem.mu.cpu().numpy())  # fmt: skip

        def exact(radius: float) -> float:
            return linear.worst_case(radius, structure.name).risk

    return _UpperEnd(constant, structure.modulus(constant), "", exact)


@torch.no_grad()
def affine_map(model: nn.Module, y: Tensor) -> tuple[Any, Any] | None:
    """Matrix (n, m) and offset (n,) of a network of affine layers alone, in float64; else None.

    None too where the matrix would have more than 2048² entries.
    """
    layers = list(model.modules())
    if not all(type(layer) is nn.Sequential or type(layer) in AFFINE_LAYERS for layer in layers):
        return None
    size = y[0].numel()
    double = copy.deepcopy(model).double()
    zero = torch.zeros_like(y[:1], dtype=torch.float64)
    offset = double(zero).flatten()
    if size * len(offset) > DENSE_ENTRIES:
        return None
    unit = torch.eye(size, dtype=torch.float64, device=y.device).reshape(size, *y.shape[1:])
    matrix = (double(unit).flatten(1) - offset).T
    return matrix.cpu().numpy(), offset.cpu().numpy()


class _Problem:
    """The samples of one certification, in batches; the network, frozen, in two precisions."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, structure: Structure, residual: Residual,
        mu: Tensor, batch_size: int,
    ) -> None:  # fmt: skip
        self.model, self.exact = frozen(model), frozen(bare_copy(model).double())
        self.x, self.y, self.structure = x, y, structure
        self.residual, self.mu, self.batch_size = residual, mu, batch_size
        self.size = structure.size(x, y)
        self.passes = 0.0
        with torch.no_grad():  # what the model does not do is said here
            self.moved(next(self.batches())).losses(self.zeros()[:batch_size, None, :])
        self.nominal = self.exact_risk(self.zeros())
        if not math.isfinite(self.nominal):
            raise ValueError("model: its residuals on the samples are not finite, or overflow")

    def batches(self) -> Iterator[slice]:
        """Slices of the samples."""
        for first in range(0, len(self.x), self.batch_size):
            yield slice(first, min(first + self.batch_size, len(self.x)))

    def moved(self, part: slice) -> MovedSamples:
        """One batch as the adversary sees it."""
        return MovedSamples(self.model, self.x[part], self.y[part], self.structure, self.residual)

    def zeros(self) -> Tensor:
        """The law that moves nothing."""
        return torch.zeros(len(self.x), self.size, dtype=torch.float64, device=self.x.device)

    def cost(self, displacement: Tensor) -> float:
        """Σ μ_i ‖v_i‖²."""
        return float((self.mu * squared_norm(displacement)).sum())

    def risk_and_slopes(self, displacement: Tensor) -> tuple[float, Tensor]:
        """Σ μ_i ℓ_i(v_i), and every sample's gradient (N, size)."""
        risk, slopes = 0.0, torch.empty_like(displacement)
        self.passes += 2
        for part in self.batches():
            with torch.enable_grad():
                point = displacement[part].to(self.x.dtype).requires_grad_()
                losses = self.moved(part).losses(point[:, None, :])[:, 0]
                (slope,) = torch.autograd.grad(losses.sum(), point)
            risk += float((self.mu[part] * losses.detach()).sum())
            slopes[part] = slope
        return risk, slopes

    @torch.no_grad()
    def exact_risk(self, displacement: Tensor) -> float:
        """Σ μ_i ℓ_i(v_i) by a float64 copy of the network."""
        risk = 0.0
        for part in self.batches():
            moved = MovedSamples(self.exact, self.x[part].double(), self.y[part].double(),
                                 self.structure, self.residual)  # fmt: skip
            try:
                losses = moved.losses(displacement[part, None, :])[:, 0]
            except RuntimeError as error:
                raise ValueError(
                    "model: it runs on the data but not in float64, in which certificates are "
                    f"evaluated: {error}"
                ) from error
            risk += float((self.mu[part] * losses).sum())
        return risk

    def scaled(self, displacement: Tensor, radius: float) -> Tensor:
        """The displacements with the whole budget spent (zero stays zero)."""
        cost = self.cost(displacement)
        if cost == 0.0:
            return displacement
        # a little inside, so that the recomputed cost is not above the budget by rounding
        return displacement * (radius * (1 - 1e-14) / math.sqrt(cost))


@dataclass(frozen=True)
class _Reduced:
    """Every sample's linearised problem in the space of its Lanczos vectors, diagonalised."""

    vectors: Tensor  # (N, k, size), orthonormal rows
    values: Tensor  # (N, k): singular values of C on their span
    along: Tensor  # (N, k): the residual along the left singular vectors
    losses: Tensor  # (N,): ‖r‖²

    def spectrum(self, mu: Tensor) -> ResidualSpectrum:
        """The residual spectrum of all samples together, mass that nothing reaches at zero."""
        mass = self.along.square()
        rest = (self.losses - mass.sum(1)).clamp(min=0.0)
        squares = torch.cat([self.values.square().flatten(), rest.new_zeros(1)])
        masses = torch.cat([(mu[:, None] * mass).flatten(), (mu * rest).sum()[None]])
        return ResidualSpectrum(squares.cpu().numpy(), masses.cpu().numpy(), np.ones(len(squares)))

    def law(self, multiplier: float, unspent: float, mu: Tensor) -> Tensor:
        """v_i = (λI - CᵀC)⁻¹Cᵀr in every sample's space, plus what a hard case leaves over."""
        squares = self.values.square()
        top, gap = squares.max(), multiplier - squares
        room = gap > 1e-12 * top
        amount = torch.where(room, self.values * self.along / torch.where(room, gap, 1.0), 0.0)
        if unspent > 0:  # along the top directions, equally on all samples that have one
            best, which = squares.max(1)
            share = (best >= 0.99 * top).to(mu.dtype)
            extra = math.sqrt(unspent / float((mu * share).sum())) * share
            sign = torch.where(self.along.gather(1, which[:, None])[:, 0] < 0, -1.0, 1.0)
            amount = amount.scatter_add(1, which[:, None], (extra * sign)[:, None])
        return (amount[:, None, :].to(self.vectors) @ self.vectors)[:, 0].double()


def _reduce(problem: _Problem, directions: int, seed: int) -> _Reduced:
    """Lanczos on CᵀC from Cᵀr, with full reorthogonalisation, every sample at once."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, ...]] = []
    count = min(directions, problem.size)
    for part in problem.batches():
        moved = problem.moved(part)
        linear = LinearisedResidual(moved)
        slope = linear.adjoint(linear.value)
        vector = _unit(slope)
        rows: list[Tensor] = []
        images: list[Tensor] = []
        for _ in range(count):
            vector = _orthogonal(vector, rows)
            # a space that is exhausted, or a zero residual: go on at random, for a top direction
            # without residual counts too
            ended = squared_norm(vector) < 0.5
            if bool(ended.any()):
                random = torch.randn(slope.shape, generator=generator).to(slope)
                random = _orthogonal(_orthogonal(_unit(random), rows), rows)
                vector = torch.where(ended[:, None], random, vector)
            rows.append(vector)
            images.append(linear.apply(vector))
            if len(rows) < count:
                vector = _unit(linear.adjoint(images[-1]))
        problem.passes += moved.passes * (len(moved.x) / len(problem.x))
        basis, image = torch.stack(rows, 1), torch.stack(images, 1).double()
        rotation, values, left = torch.linalg.svd(image, full_matrices=False)
        along = (left @ linear.value.double()[:, :, None])[:, :, 0]
        parts.append(
            (rotation.mT.to(basis) @ basis, values, along, squared_norm(linear.value.double()))
        )
    return _Reduced(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _unit(rows: Tensor) -> Tensor:
    """Rows of length one; zero stays zero."""
    length = squared_norm(rows).sqrt()[:, None]
    return torch.where(length > 0, rows / torch.where(length > 0, length, 1.0), 0.0)


def _orthogonal(vector: Tensor, rows: list[Tensor]) -> Tensor:
    """Unit vectors (N, size), Gram-Schmidt twice against unit rows; zero where nothing is left."""
    tolerance = torch.finfo(vector.dtype).eps ** 0.5
    for _ in range(2):
        for row in rows:
            vector = vector - (vector * row).sum(1, keepdim=True) * row
        vector = torch.where(squared_norm(vector)[:, None] > tolerance**2, _unit(vector), 0.0)
    return vector


def _ascend(problem: _Problem, start: Tensor, radius: float, steps: int) -> Tensor:
    r"""Ascent on the sphere :math:`\sum_i\mu_i\|v_i\|^2 = \rho^2`, on which samples trade budget.

    A step goes towards the point :math:`\rho\,g/\|g\|_\mu` where the linearised risk is largest (of
    a convex risk no such step loses), further while that pays, less far when it does not.
    """
    best = problem.scaled(start, radius)
    risk, slopes = problem.risk_and_slopes(best)
    length = 1.0
    for _ in range(steps):
        target = problem.scaled(slopes, radius)
        trial = problem.scaled(best + length * (target - best), radius)
        tried, tilted = problem.risk_and_slopes(trial)
        if tried > risk:
            best, risk, slopes, length = trial, tried, tilted, min(2.0 * length, 64.0)
        else:
            length *= 0.25
            if length < 1e-4:
                break
    return best


def _simple_attacks(
    problem: _Problem, linearised: Tensor, radius: float, steps: int, seed: int
) -> dict[str, Tensor]:
    """Displacements of the simple attacks, each of cost ρ²."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(problem.zeros().shape, generator=generator, dtype=torch.float64)
    noise = noise.to(problem.x.device)

    _, slopes = problem.risk_and_slopes(problem.zeros())
    single = radius * _unit(slopes)
    position = 0.5 * radius * _unit(noise)
    for _ in range(steps):
        _, slopes = problem.risk_and_slopes(position)
        position = position + (2.5 * radius / steps) * _unit(slopes)
        length = squared_norm(position).sqrt()[:, None]
        position = position * (radius / length.clamp(min=radius))
    attacks = (noise, single, position, linearised)
    return {
        name: problem.scaled(attack, radius)
        for name, attack in zip(SIMPLE_ATTACKS, attacks, strict=True)
    }


def _certificate(
    problem: _Problem, reduced: _Reduced, radius: float, steps: int, seed: int,
    bound: _UpperEnd, shared: float, previous: Certificate | None,
) -> Certificate:  # fmt: skip
    start = time.perf_counter()
    passes = problem.passes
    nominal = problem.nominal
    solution = minimize_quadratic_dual(reduced.spectrum(problem.mu), radius)
    lower, law = nominal, problem.zeros()
    attacks = dict.fromkeys(SIMPLE_ATTACKS, nominal)
    if radius > 0 and float(reduced.values.max()) > 0:
        unspent = solution.unspent * radius**2
        linearised = reduced.law(solution.multiplier, unspent, problem.mu)
        simple = _simple_attacks(problem, linearised, radius, steps, seed)
        used = problem.passes - passes
        attacks = {name: problem.exact_risk(v) for name, v in simple.items()}
        found = [(lower, law), *((attacks[name], v) for name, v in simple.items())]
        if previous is not None and previous.radius > 0:
            scaled = problem.scaled(previous.displacement.to(problem.x.device), radius)
            found.append((problem.exact_risk(scaled), scaled))
        ascended = _ascend(problem, max(found, key=itemgetter(0))[1], radius, steps)
        found.append((problem.exact_risk(ascended), ascended))
        lower, law = max(found, key=itemgetter(0))
        passes = problem.passes - used
    cost = problem.cost(law)
    return Certificate(
        lower=lower, upper=bound(nominal, radius), linearised=solution.value, nominal=nominal,
        radius=radius, transport_cost=cost, multiplier=solution.multiplier, modulus=bound.modulus,
        lipschitz=bound.lipschitz, attacks=attacks, structure=problem.structure.name,
        samples=len(problem.x), passes=passes, seconds=shared + time.perf_counter() - start,
        upper_missing=bound.missing, affine=bound.exact is not None, displacement=law.cpu(),
    )  # fmt: skip
