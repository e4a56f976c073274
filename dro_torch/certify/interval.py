"""The two calls that certify: at one radius, and at several with what they share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter

from numpy.typing import ArrayLike
from torch import Tensor, nn

from dro_core import minimize_quadratic_dual
from dro_core.checks import as_non_negative, as_positive, as_positive_integer, as_radius
from dro_torch.certify.attacks import SIMPLE_ATTACKS, ascend, simple_attacks
from dro_torch.certify.certificate import Certificate
from dro_torch.certify.linearised import Reduced, reduce_linearised
from dro_torch.certify.problem import Problem
from dro_torch.certify.smoothed import SmoothedLower, Smoothing, smoothed_upper
from dro_torch.certify.upper import UpperEnd, upper_end
from dro_torch.checks import check_samples, sample_weights
from dro_torch.nets.clipped import Clipped, as_range
from dro_torch.nets.smoothed import SmoothedModel
from dro_torch.nets.tethered import Tethered
from dro_torch.residual import Residual, reconstruction_residual
from dro_torch.structure import Joint, Structure, XGivenY, XShift, YGivenX, as_structure


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radius: float,
    structure: str | Structure = "y|x",
    *,
    weights: ArrayLike | Tensor | None = None,
    lipschitz: float | None = None,
    residual: Residual | None = None,
    output_range: Sequence[float] | None = None,
    smoothing: float | Smoothing | None = None,
    directions: int = 12,
    steps: int = 30,
    batch_size: int = 256,
    seed: int = 0,
) -> Certificate:
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
    output_range : (float, float), optional
        Certify the network with its output clamped to this range, in units of x (see
        `nets.Clipped`, which you then have to use). Every residual is bounded then, and so is the
        upper end, whatever the network.
    smoothing : float or Smoothing, optional
        Certify the network's average over Gaussian noise of this standard deviation, in the units
        of y (`nets.SmoothedModel`, which you then have to use), by draws; needs `output_range` and
        one of the structures y|x, x|y, joint. `Smoothing` says how many draws and how sure.
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

    Warns
    -----
    SwappedWarning
        If the network takes x to y much better than y to x.

    Source: theory §4 (linearised law), §5 and §11 (upper end, paper Theorem 4.2 and growth
    profiles); the interval: this project.
    """
    return certificate_curve(
        model,
        x,
        y,
        [radius],
        structure,
        weights=weights,
        lipschitz=lipschitz,
        residual=residual,
        output_range=output_range,
        smoothing=smoothing,
        directions=directions,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
    )[0]


def certificate_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    structure: str | Structure = "y|x",
    *,
    weights: ArrayLike | Tensor | None = None,
    lipschitz: float | None = None,
    residual: Residual | None = None,
    output_range: Sequence[float] | None = None,
    smoothing: float | Smoothing | None = None,
    directions: int = 12,
    steps: int = 30,
    batch_size: int = 256,
    seed: int = 0,
) -> list[Certificate]:
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
    clipped = None if output_range is None else as_range(output_range)
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
    smooth = _as_smoothing(smoothing, clipped, kind, residual)
    if clipped is not None:
        model = Clipped(model, clipped)
    attacked = model
    if smooth is not None:
        attacked = SmoothedModel(model, smooth.sigma, smooth.attack, seed=seed, fixed=True)
    problem = Problem(attacked, x[kept], y[kept], kind, measured, mu[kept], batch_size)
    if residual is None and smooth is None and x.shape == y.shape:
        problem.warn_if_swapped()
    bound = upper_end(problem, residual, known, clipped)
    lower = None
    if smooth is not None:
        inner = problem.model.model
        assert isinstance(inner, Clipped)  # of the frozen copy
        bound = smoothed_upper(problem, inner, smooth, bound, seed)
        lower = SmoothedLower(problem, inner, smooth, len(radii), seed)
    reduced = reduce_linearised(problem, directions, seed)
    shared = time.perf_counter() - start
    found: list[Certificate] = []
    for radius in radii:
        previous = found[-1] if found else None
        found.append(
            _certificate(problem, reduced, radius, steps, seed, bound, shared, previous, lower)
        )
    return [_with_unmoved(certificate, kept.cpu()) for certificate in found]


def _as_smoothing(
    value: float | Smoothing | None,
    output_range: tuple[float, float] | None,
    structure: Structure,
    residual: Residual | None,
) -> Smoothing | None:
    """What to smooth by, after the checks of what it can be combined with."""
    if value is None:
        return None
    smoothing = value
    if not isinstance(smoothing, Smoothing):
        smoothing = Smoothing(as_positive(value, "smoothing"))
    if output_range is None:
        raise ValueError("smoothing: needs output_range=(low, high); draws alone bound nothing")
    if residual is not None:
        raise ValueError("smoothing: allowed for x - model(y) only; leave residual out")
    if not isinstance(structure, YGivenX | XGivenY | Joint):
        raise ValueError(
            f"smoothing: structure {structure.name!r}; allowed: 'y|x', 'x|y' and 'joint'"
        )
    return smoothing


def _with_unmoved(certificate: Certificate, kept: Tensor) -> Certificate:
    """The certificate of all samples, those of weight zero unmoved."""
    law = certificate.displacement.new_zeros((len(kept), certificate.displacement.shape[1]))
    law[kept] = certificate.displacement
    return replace(certificate, samples=len(kept), displacement=law)


def _certificate(
    problem: Problem,
    reduced: Reduced,
    radius: float,
    steps: int,
    seed: int,
    bound: UpperEnd,
    shared: float,
    previous: Certificate | None,
    lower_end: SmoothedLower | None,
) -> Certificate:
    start = time.perf_counter()
    passes = problem.passes
    nominal = problem.nominal
    solution = minimize_quadratic_dual(reduced.spectrum(problem.mu), radius)
    lower, law = nominal, problem.zeros()
    attacks = dict.fromkeys(SIMPLE_ATTACKS, nominal)
    if radius > 0 and float(reduced.values.max()) > 0:
        unspent = solution.unspent * radius**2
        linearised = reduced.law(solution.multiplier, unspent, problem.mu)
        simple = simple_attacks(problem, linearised, radius, steps, seed)
        used = problem.passes - passes
        attacks = {name: problem.exact_risk(v) for name, v in simple.items()}
        found = [(lower, law), *((attacks[name], v) for name, v in simple.items())]
        if previous is not None and previous.radius > 0:
            scaled = problem.scaled(previous.displacement.to(problem.x.device), radius)
            found.append((problem.exact_risk(scaled), scaled))
        ascended = ascend(problem, max(found, key=itemgetter(0))[1], radius, steps)
        found.append((problem.exact_risk(ascended), ascended))
        lower, law = max(found, key=itemgetter(0))
        passes = problem.passes - used
    cost = problem.cost(law)
    if lower_end is not None:
        lower = lower_end(law)
    smoothing = None if lower_end is None else lower_end.smoothing
    return Certificate(
        lower=lower,
        upper=bound(radius),
        linearised=solution.value,
        nominal=nominal,
        radius=radius,
        transport_cost=cost,
        multiplier=solution.multiplier,
        modulus=bound.modulus,
        lipschitz=bound.lipschitz,
        attacks=attacks,
        structure=problem.structure.name,
        samples=len(problem.x),
        passes=passes,
        seconds=shared + time.perf_counter() - start,
        upper_missing=bound.missing,
        affine=bound.exact is not None,
        range_bound=bound.range_bound(radius),
        map=_name_of(problem.model),
        smoothing=None if smoothing is None else smoothing.sigma,
        failure_probability=0.0 if smoothing is None else smoothing.failure_probability,
        draws=0 if smoothing is None else smoothing.certification,
        precision_defect=problem.precision_defect(),
        displacement=law.cpu(),
    )


def _name_of(model: nn.Module) -> str:
    """Which map the certificate is about."""
    if isinstance(model, SmoothedModel):
        return f"{_name_of(model.model)}, averaged over noise of standard deviation {model.sigma:g}"
    if isinstance(model, Tethered):
        return f"{_name_of(model.model)}, tethered to its anchor"
    if isinstance(model, Clipped) and not isinstance(model.model, Tethered):
        return f"the network with its output clamped to [{model.low:g}, {model.high:g}]"
    if isinstance(model, Clipped):
        return f"{_name_of(model.model)}, clamped to [{model.low:g}, {model.high:g}]"
    return "the network"
