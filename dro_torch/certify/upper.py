r"""The upper end: growth profiles from what is proved, exact for an affine network.

A Lipschitz constant gives the profile :math:`\|r_i\| + \kappa t`, alone the explicit bound
:math:`(\sqrt M + \rho\kappa)^2` (paper Theorems 4.1, 4.2); an output range gives the cap
:math:`R_i`, plus the distance that the signal may move. The smaller one counts at every distance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import dro_core
from dro_core import (
    GrowthProfiles,
    LinearReconstruction,
    SampleWeightedReconstruction,
    growth_bound,
)
from dro_core import Structure as CoreStructure
from dro_core.checks import check_magnitude
from dro_core.linear_map import DENSE_ENTRIES
from dro_core.types import Array
from dro_torch.certify.problem import Problem
from dro_torch.lipschitz.bounds import UnsupportedLayerError, lipschitz_upper
from dro_torch.nets.clipped import Clipped
from dro_torch.nets.linear import LinearMap
from dro_torch.nets.norms import rounding_factor
from dro_torch.nets.tethered import Tethered
from dro_torch.residual import Residual
from dro_torch.structure import Joint, Structure, XGivenY, XShift, YGivenX
from dro_torch.transport_weight import modulus as inverse_root_norm

#: Layers whose chains are affine maps.
AFFINE_LAYERS = (
    LinearMap,
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.AvgPool1d,
    nn.AvgPool2d,
)


@dataclass(frozen=True)
class UpperEnd:
    """What the upper ends of all radii are made of."""

    lipschitz: float | None
    modulus: float | None
    missing: str
    mu: Array
    profiles: GrowthProfiles | None = None
    trivial: GrowthProfiles | None = None  #: from the range alone
    exact: Callable[[float], float] | None = None

    def __call__(self, radius: float) -> float | None:
        """The upper end at a radius."""
        if self.exact is not None:
            return self.exact(radius)
        return self._bound(self.profiles, radius)

    def range_bound(self, radius: float) -> float | None:
        """What the output range alone gives: the bound of the worst possible network."""
        return self._bound(self.trivial, radius)

    def _bound(self, profiles: GrowthProfiles | None, radius: float) -> float | None:
        if profiles is None:
            return None
        return growth_bound(profiles, radius, weights=self.mu).value


def upper_end(
    problem: Problem,
    residual: Residual | None,
    known: float | None,
    output_range: tuple[float, float] | None = None,
) -> UpperEnd:
    """What is proved of the network, or of the constant that the user guarantees."""
    constant, modulus, missing = _proved_modulus(problem, residual, known)
    mu = problem.mu.cpu().numpy()
    profiles, trivial = None, None
    if modulus is not None:
        check_magnitude(modulus, "lipschitz")
        profiles = GrowthProfiles.linear(problem.nominal_losses.sqrt().cpu().numpy(), modulus)
    if output_range is not None and residual is None:
        trivial = range_profiles(problem, output_range)
    tethered = None if residual is not None else tether_profiles(problem)
    for more in (trivial, tethered):
        if more is not None:
            profiles = more if profiles is None else profiles.minimum(more)
    exact = None
    if residual is None and known is None and modulus is not None:
        exact = _exact_risk(problem)
    return UpperEnd(constant, modulus, missing, mu, profiles, trivial, exact)


def _proved_modulus(
    problem: Problem, residual: Residual | None, known: float | None
) -> tuple[float | None, float | None, str]:
    """The network's constant, the modulus of the structure with it, and why there is none."""
    x, y, structure = problem.x, problem.y, problem.structure
    if isinstance(structure, XShift) or residual is not None:
        what = "I - B∘A" if isinstance(structure, XShift) else "the residual in what moves"
        if known is None:
            return None, None, f"needs lipschitz=, a constant of {what}"
        return known, known, ""
    if known is None:
        try:
            known = float(lipschitz_upper(problem.model, tuple(y.shape[1:])))
        except UnsupportedLayerError as error:
            return None, None, str(error)
    return known, float(structure.modulus(known, x, y)), ""


def _exact_risk(problem: Problem) -> Callable[[float], float] | None:
    """The exact worst case where the network is affine and the structure one of `dro_core`."""
    affine = affine_map(problem.model, problem.y)
    if affine is None:
        return None
    matrix, offset = affine
    x = problem.x.flatten(1).double().cpu().numpy() - offset
    y, mu = problem.y.flatten(1).double().cpu().numpy(), problem.mu.cpu().numpy()
    table = table_of_weights(problem.structure, problem.x, problem.y)
    if table is not None:
        weighted = SampleWeightedReconstruction(matrix, x, y, table, weights=mu)
        return lambda radius: weighted.worst_case(radius).risk
    ball = core_structure(problem.structure, problem.x, problem.y)
    if ball is None:
        return None
    linear = LinearReconstruction(matrix, x, y, weights=mu)
    return lambda radius: linear.worst_case(radius, ball).risk


def table_of_weights(structure: Structure, x: Tensor, y: Tensor) -> Array | None:
    """The weights (N, m) of every sample's measurements under y|x, where they differ."""
    if not isinstance(structure, YGivenX) or structure.weight_y.function is None:
        return None
    value = structure.weight_y.of(x, y, y)
    assert value is not None  # a function gave it
    return value.expand_as(y).flatten(1).double().cpu().numpy()


def reaches(structure: Structure, x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""How far x and y move for a displacement of length one: :math:`\|W^{-1/2}\|`, or not at all.

    For the structures of the library; how far y follows x under `XShift` depends on the forward map
    (infinite here).
    """
    if isinstance(structure, YGivenX):
        return 0.0, inverse_root_norm(structure.weight_y, x, y, "y")
    if isinstance(structure, XGivenY):
        return inverse_root_norm(structure.weight_x, x, y, "x"), 0.0
    if isinstance(structure, Joint):
        of_y = inverse_root_norm(structure.weight_y, x, y, "y")
        return inverse_root_norm(structure.weight_x, x, y, "x"), of_y
    if isinstance(structure, XShift):
        return inverse_root_norm(structure.weight_x, x, y, "x"), math.inf
    return math.inf, math.inf


def range_profiles(problem: Problem, output_range: tuple[float, float]) -> GrowthProfiles | None:
    r"""The bounds that an output in [a, b] gives: :math:`R_i + \|W_x^{-1/2}\|t`.

    :math:`R_i^2 = \sum_j\max(x_{ij} - a, b - x_{ij})^2`, rounded up; the second term where x moves.
    None for structures of the user's own, of which nothing is known.
    """
    moved = reaches(problem.structure, problem.x, problem.y)[0]
    if math.isinf(moved):
        return None
    low, high = output_range
    x = problem.x.double().flatten(1)
    farthest = torch.maximum(x - low, high - x).square().sum(1).sqrt()
    caps = (farthest * rounding_factor(x.shape[1])).cpu().numpy()
    return GrowthProfiles.constant(caps).plus(moved)


@torch.no_grad()
def tether_profiles(problem: Problem) -> GrowthProfiles | None:
    r"""The bounds of a tethered network: :math:`\|x_i - a(y_i)\| + r + \kappa(L_a)t`.

    A clamp around it moves no output away from signals in its range; for others, for anchors
    without a proved constant and for other networks: None.
    """
    model = problem.exact
    if isinstance(model, Clipped):
        if bool(((problem.x < model.low) | (problem.x > model.high)).any()):
            return None
        model = model.model
    if not isinstance(model, Tethered) or isinstance(problem.structure, XShift):
        return None
    x, y = problem.x, problem.y
    try:
        constant = float(lipschitz_upper(model.anchor, tuple(y.shape[1:])))
    except UnsupportedLayerError:
        return None
    apart = [
        (x[part].double() - model.anchor(y[part].double())).flatten(1).norm(dim=1)
        for part in problem.batches()
    ]
    values = (torch.cat(apart) + model.radius) * rounding_factor(x[0].numel())
    modulus = float(problem.structure.modulus(constant, x, y))
    return GrowthProfiles.linear(values.cpu().numpy(), modulus)


def core_structure(structure: Structure, x: Tensor, y: Tensor) -> CoreStructure | None:
    """The same ambiguity set for rows of `dro_core`; None where weights depend on the samples."""
    if not isinstance(structure, Joint | YGivenX | XGivenY):
        return None
    weights: dict[str, Array] = {}
    for weight, moving in ((structure.weight_x, x), (structure.weight_y, y)):
        if weight.function is not None:
            return None
        value = weight.of(x, y, moving)
        if value is not None:
            rows = value.expand(moving.shape[1:]).flatten().double()
            weights[weight.name] = rows.cpu().numpy()
    kinds: dict[str, Callable[..., CoreStructure]] = {
        "joint": dro_core.Joint,
        "y|x": dro_core.YGivenX,
        "x|y": dro_core.XGivenY,
    }
    return kinds[structure.name](**weights)


@torch.no_grad()
def affine_map(model: nn.Module, y: Tensor) -> tuple[Array, Array] | None:
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
