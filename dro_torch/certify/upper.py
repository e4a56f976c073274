"""The upper end: the explicit bound with a proved modulus, exact for an affine network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import dro_core
from dro_core import LinearReconstruction
from dro_core import Structure as CoreStructure
from dro_core.linear_map import DENSE_ENTRIES
from dro_core.types import Array
from dro_torch.certify.problem import Problem
from dro_torch.lipschitz.bounds import UnsupportedLayerError, lipschitz_upper
from dro_torch.nets.linear import LinearMap
from dro_torch.residual import Residual
from dro_torch.structure import Joint, Structure, XGivenY, XShift, YGivenX

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


def squared_bound(nominal: float, modulus: float, radius: float) -> float:
    r""":math:`(\sqrt M + \rho\kappa)^2` (paper Theorems 4.1, 4.2), κ of the structure."""
    root = math.sqrt(nominal) + radius * modulus
    bound = root * root
    if not math.isfinite(bound):
        raise OverflowError(
            "fidelity, lipschitz, radius: the bound exceeds the largest float; rescale the data"
        )
    return bound


@dataclass(frozen=True)
class UpperEnd:
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
        return squared_bound(nominal, self.modulus, radius)


def upper_end(problem: Problem, residual: Residual | None, known: float | None) -> UpperEnd:
    """What is proved of the network, or of the constant that the user guarantees."""
    x, y, structure = problem.x, problem.y, problem.structure
    if isinstance(structure, XShift) or residual is not None:
        what = "I - B∘A" if isinstance(structure, XShift) else "the residual in what moves"
        if known is None:
            return UpperEnd(None, None, f"needs lipschitz=, a constant of {what}")
        return UpperEnd(known, known, "")
    if known is not None:
        return UpperEnd(known, structure.modulus(known, x, y), "")
    try:
        constant = float(lipschitz_upper(problem.model, tuple(y.shape[1:])))
    except UnsupportedLayerError as error:
        return UpperEnd(None, None, str(error))
    exact = None
    affine = affine_map(problem.model, y)
    ball = core_structure(structure, x, y)
    if affine is not None and ball is not None:
        matrix, offset = affine
        rows = x.flatten(1).double().cpu().numpy() - offset
        linear = LinearReconstruction(
            matrix, rows, y.flatten(1).double().cpu().numpy(), weights=problem.mu.cpu().numpy()
        )

        def exact(radius: float) -> float:
            return linear.worst_case(radius, ball).risk

    return UpperEnd(constant, structure.modulus(constant, x, y), "", exact)


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
