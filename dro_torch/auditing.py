"""Networks in the audit of `dro_core.auditing`, which asks for this file by its name.

In come modules and functions of tensors with samples in numpy; out go functions of numpy batches
(for the test of linearity) and, for what is not linear, the intervals of `certify` in the form of
the audit. Above: `dro_core.auditing.upstairs`; below: certify.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dro_core.auditing import StructureAudit
from dro_core.auditing.layout import Layout, Samples
from dro_core.auditing.shares import principal_directions, sample_shares
from dro_core.structure import Structure, as_structure
from dro_core.types import Array
from dro_torch.certify import Certificate, certificate_curve
from dro_torch.models import bare_copy
from dro_torch.nets.spectral import frozen

#: Radii of a network's curve, as multiples of the audit's; the third is the audit's own.
CURVE = (0.0, 0.5, 1.0, 1.5, 2.0)
#: Structures that networks are audited over.
KNOWN = ("y|x", "joint", "x|y")


def as_function(model: Callable[[Tensor], Tensor]) -> Callable[[Samples], Samples]:
    """A module, or a function of tensors, as a function of numpy batches.

    A module is copied, in evaluation mode and in float64; a function gets float64 tensors, or
    float32 ones if it fails with those.
    """
    if isinstance(model, nn.Module):
        exact = frozen(bare_copy(_python(model)).double())
        device = next((p.device for p in (*exact.parameters(), *exact.buffers())), None)
        return lambda batch: _called(exact, torch.from_numpy(batch).to(device))

    def call(batch: Samples) -> Samples:
        tensor = torch.from_numpy(batch)
        try:
            return _called(model, tensor)
        except RuntimeError:  # of parameters in single precision
            single = torch.complex64 if tensor.is_complex() else torch.float32
            return _called(model, tensor.to(single))

    return call


def _called(model: Callable[[Tensor], Tensor], batch: Tensor) -> Samples:
    with torch.no_grad():
        output = model(batch)
    if not isinstance(output, Tensor):
        raise TypeError(f"B: returned a {type(output).__name__}; needed: a tensor")
    result: Samples = output.cpu().numpy()
    return result


def _python(model: nn.Module) -> nn.Module:
    """A module of Python, for those of TorchScript lack methods."""
    return Scripted(model) if isinstance(model, torch.jit.ScriptModule) else model


class Scripted(nn.Module):
    """A copy of a TorchScript module, in float64 and without its layers: a function, as it were."""

    def __init__(self, model: torch.jit.ScriptModule) -> None:
        super().__init__()
        with torch.no_grad():  # or the copy is part of the graph of the original
            own = copy.deepcopy(model).double()
        for parameter in own.parameters():
            parameter.requires_grad = False
        self.held = (own,)

    def forward(self, y: Tensor) -> Tensor:
        """The reconstructions of a batch, in its precision."""
        output: Tensor = self.held[0](y.double())
        return output.to(y.dtype)


class Called(nn.Module):
    """A function as a module; with a layout of complex samples, one of their real rows."""

    def __init__(self, function: Callable[[Tensor], Tensor], y: Layout | None = None) -> None:
        super().__init__()
        self.function, self.layout = function, y

    def forward(self, y: Tensor) -> Tensor:
        """The reconstructions of a batch."""
        if self.layout is None or not self.layout.is_complex:
            return self.function(y)
        half = self.layout.size // 2
        output = self.function(torch.complex(y[:, :half], y[:, half:]).reshape(
            len(y), *self.layout.shape))  # fmt: skip
        flat = output.reshape(len(y), -1)
        return torch.cat([flat.real, flat.imag], 1) if flat.is_complex() else flat


@dataclass(frozen=True, eq=False)
class NetworkAudit:
    """What `intervals` found, about which map: clamped and smoothed networks are others.

    Attributes
    ----------
    structures : list of StructureAudit
    nominal : float
        Risk of the samples under that map.
    map : str
    precision_defect : float
        As in `Certificate`.
    """

    structures: list[StructureAudit]
    nominal: float
    map: str
    precision_defect: float


def intervals(
    source: Callable[[Tensor], Tensor],
    x: Array,
    y: Array,
    layouts: tuple[Layout, Layout],
    radius: float,
    structures: Mapping[str, Structure],
    weights: Array,
    options: Mapping[str, Any],
) -> NetworkAudit:
    """The certified intervals of a network over several structures.

    Parameters
    ----------
    source : Module, or function of tensors
    x, y : (N, n), (N, m) arrays
    layouts : pair of Layout
        Of x and y.
    radius : float
    structures : dict of str to Structure
        Of `dro_core`, by name: y|x, joint and x|y without weights.
    weights : (N,) array
    options : dict
        `output_range`, `lipschitz`, `smoothing` of `certify`.

    Raises
    ------
    ValueError, TypeError
        For other structures, and functions that have no gradients.
    """
    for structure in structures.values():
        if structure.name not in KNOWN or structure is not as_structure(structure.name):
            raise ValueError(
                f"structures: {structure!r} with a map that is not linear; allowed: "
                f"{', '.join(KNOWN)} without weights (see dro_torch.certify for more)"
            )
    flat = layouts[0].is_complex or layouts[1].is_complex
    if isinstance(source, nn.Module) and not flat:
        model = _python(source)
    else:
        model = Called(source, layouts[1])
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    like = torch.empty(0, dtype=torch.float64) if parameter is None else parameter
    tensors = [
        torch.from_numpy(rows if flat else layout.restore(rows)).to(like.device, like.dtype)
        for rows, layout in zip((x, y), layouts, strict=True)
    ]
    _check_gradients(model, tensors[1][:1])
    given = {name: value for name, value in options.items() if value is not None}
    radii = [radius * factor for factor in CURVE] if radius > 0 else [0.0]
    curves = [
        certificate_curve(model, tensors[0], tensors[1], radii, name, weights=weights, **given)
        for name in structures
    ]
    first = curves[0][0]
    return NetworkAudit(
        [
            _structure_audit(name, curve, x.shape[1], weights)
            for name, curve in zip(structures, curves, strict=True)
        ],
        first.nominal,
        first.map,
        first.precision_defect,
    )


def _check_gradients(model: nn.Module, sample: Tensor) -> None:
    """Refuse a function that leaves torch, with the reason."""
    probe = sample.clone().requires_grad_()
    reason = "its output does not depend on its input through torch"
    try:
        output = model(probe)
    except (TypeError, RuntimeError, AttributeError) as error:
        output, reason = None, (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise TypeError(
            "B: not linear, and an interval for such a map needs gradients, which it does not have "
            f"({reason}); write it as a function of tensors, or as a torch.nn.Module"
        )


def _structure_audit(
    name: str, curve: list[Certificate], size_x: int, weights: Array
) -> StructureAudit:
    chosen = curve[min(CURVE.index(1.0), len(curve) - 1)]
    moves: Array = chosen.displacement.to(torch.float64).numpy()
    moves_x = {"x|y": moves.shape[1], "y|x": 0, "joint": size_x}[name]
    dx, dy = moves[:, :moves_x], moves[:, moves_x:]
    squares = [float(weights @ (part**2).sum(axis=1)) for part in (dx, dy)]
    moved = "y" if squares[1] >= squares[0] else "x"
    directions, shares = principal_directions(dy if moved == "y" else dx, weights)
    uppers = [c.upper for c in curve]
    return StructureAudit(
        structure=name,
        radius=chosen.radius,
        lower=chosen.lower,
        upper=chosen.upper,
        exact=False,
        holds=chosen.holds(),
        failure_probability=chosen.failure_probability,
        multiplier=chosen.multiplier,
        radii=np.array([c.radius for c in curve]),
        curve_lower=np.array([c.lower for c in curve]),
        curve_upper=np.array([np.nan if upper is None else upper for upper in uppers]),
        displacement_x=dx if dx.shape[1] else None,
        displacement_y=dy if dy.shape[1] else None,
        sample_shares=sample_shares((moves**2).sum(axis=1), weights),
        directions=directions,
        direction_shares=shares,
        moved=moved,
        reason=chosen.upper_missing,
    )


def load_exported(path: Path, *, trust: bool = False) -> nn.Module:
    """A network from a file: TorchScript, or with `trust` a torch.export archive or a pickle.

    TorchScript is read by torch's own reader, which builds nothing but its types. Archives of
    ``torch.export`` and modules saved with ``torch.save`` run Python when they are read.

    Raises
    ------
    ValueError
        For a file that is not trusted or cannot be read; weights without a network.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        if path.suffix != ".pt2":
            try:
                found: nn.Module = torch.jit.load(path, map_location="cpu")
                return found.eval()
            except RuntimeError:
                pass
        if not trust:
            raise ValueError(_not_trusted(path))
        try:
            if path.suffix == ".pt2":
                exported: nn.Module = torch.export.load(os.fspath(path)).module()
                return exported
            loaded = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:  # whatever a damaged file makes of its reader
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: cannot be read ({first})") from error
    if not isinstance(loaded, nn.Module):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}; needed: a module")
    return loaded.eval()


def _not_trusted(path: Path) -> str:
    """Why a file is refused: weights alone, or something that would run."""
    if path.suffix == ".pt2":
        return f"{path}: torch.export.load may run code; --trust reads it (or save TorchScript)"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a pickle with more than weights, or no file of torch
        return f"{path}: not TorchScript; reading it may run code; --trust reads it"
    return (
        f"{path}: holds weights ({type(loaded).__name__}), not a network; name an object that "
        "loads them: module:name"
    )
