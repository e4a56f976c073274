r"""Guaranteed upper bounds: rules by type of layer, composed over a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dro_core.checks import as_positive_integer
from dro_core.described import Described
from dro_torch.models import bare_copy
from dro_torch.nets.norms import rounding_factor

#: Methods that do not change the map: a class or an object may have its own.
HARMLESS = ("train", "eval", "extra_repr", "reset_parameters")

Rule = Callable[[Any, "LayerBounds"], float]
_Rule = TypeVar("_Rule", bound=Rule)
#: Rules by exact type, and slopes of scalar activations (least, largest).
RULES: dict[type[nn.Module], Rule] = {}
SLOPES: dict[type[nn.Module], Callable[[Any], tuple[float, float]]] = {}


class UnsupportedLayerError(TypeError):
    """No proved Lipschitz constant is known for a layer; the message gives its path."""


class RefusedError(Exception):
    """What a rule says about a layer; it becomes an `UnsupportedLayerError` with the path."""


@dataclass(frozen=True, repr=False)
class LayerBound(Described):
    """Proved Lipschitz constant of one layer: its path in the network, its type, the constant."""

    path: str
    layer: str
    value: float


@dataclass(frozen=True, repr=False)
class LipschitzBound(Described):
    r"""A guaranteed upper bound of a network's global Lipschitz constant.

    Attributes
    ----------
    value : float
        :math:`\|f(a) - f(b)\| \le` value :math:`\|a - b\|` for all a, b.
    layers : tuple of LayerBound
        What it was composed of, in the order in which the rules met the layers.
    rounding : str
        What is and what is not covered by the guarantee.
    """

    described_by = ("value", "layers")

    value: float
    layers: tuple[LayerBound, ...] = field(repr=False)
    rounding: str = field(
        repr=False,
        default="float64; rounding errors of the norms are allowed for to first order, not by "
        "interval arithmetic; rounding inside the network when it runs is not part of the bound",
    )

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        width = max(len(row.path) for row in self.layers)
        rows = [f"{row.path:{width}}  {row.value:12.6g}  {row.layer}" for row in self.layers]
        return "\n".join([f"Lipschitz constant <= {self.value:.10g}", *rows])


class LayerBounds:
    """What a rule is given: constants of a layer's parts by call, and the sizes of its inputs."""

    def __init__(self, network: nn.Module, shapes: dict[nn.Module, set[tuple[int, ...]]]) -> None:
        self._paths = {module: path or "(network)" for path, module in network.named_modules()}
        self._shapes = shapes
        self._found: dict[nn.Module, LayerBound] = {}

    def __call__(self, layer: nn.Module) -> float:
        """Proved Lipschitz constant of a part of the network."""
        if layer not in self._found:
            rule = self._rule(layer)
            try:
                value = float(rule(layer, self))
            except RefusedError as refused:
                raise UnsupportedLayerError(f"{self._where(layer)}: {refused}") from None
            name = type(layer).__name__
            if not value >= 0:  # also NaN
                raise ValueError(f"{self._where(layer)}: its rule gave {value}; needed: >= 0")
            if value == math.inf:
                raise UnsupportedLayerError(f"{self._where(layer)}: its bound is infinite")
            self._found[layer] = LayerBound(self._paths.get(layer, "(made)"), name, value)
        return self._found[layer].value

    def shapes(self, layer: nn.Module) -> list[tuple[int, ...]]:
        """Shapes (channels, sizes...) of its inputs; empty when no input_shape was given."""
        return sorted(self._shapes.get(layer, ()))

    def slopes(self, activation: nn.Module) -> tuple[float, float]:
        """Least and largest slope of a scalar activation."""
        self(activation)
        kind = parametrize.type_before_parametrizations(activation)
        if kind not in SLOPES:
            raise UnsupportedLayerError(f"{self._where(activation)}: no scalar activation")
        return SLOPES[kind](activation)

    def _where(self, layer: nn.Module) -> str:
        return f"layer {self._paths.get(layer, '(made)')!r} ({type(layer).__name__})"

    @property
    def rows(self) -> tuple[LayerBound, ...]:
        return tuple(self._found.values())

    def check(self, layer: nn.Module) -> None:
        """Refuse a layer that was changed so that its type does not say what it computes."""
        replaced = sorted(
            name
            for name in vars(layer)
            if name not in HARMLESS and callable(getattr(type(layer), name, None))
        )
        shared = nn.modules.module
        hooks = (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            shared._global_forward_hooks,
            shared._global_forward_pre_hooks,
        )
        if any(hooks) or replaced:
            what = f"a replaced {', '.join(replaced)}" if replaced else "forward hooks"
            raise UnsupportedLayerError(
                f"{self._where(layer)}: {what} may change the map; remove them "
                "(torch.nn.utils.parametrizations need none)"
            )
        if parametrize.is_parametrized(layer):
            chains: Any = layer.parametrizations
            for name, chain in chains.items():
                estimated = any(
                    type(part).__name__ == "_SpectralNorm" and part.training for part in chain
                )
                if estimated or not torch.equal(getattr(layer, name), getattr(layer, name)):
                    raise UnsupportedLayerError(
                        f"{self._where(layer)}: the parametrization of {name!r} is in training "
                        "mode, where every pass has other weights; call module.eval() first"
                    )

    def _rule(self, layer: nn.Module) -> Rule:
        self.check(layer)
        kind = parametrize.type_before_parametrizations(layer)
        if kind in RULES:
            return RULES[kind]
        for place, ancestor in enumerate(kind.__mro__):
            if "lipschitz_bound" in vars(ancestor):
                if _changes(kind.__mro__[:place], ancestor):
                    break  # what was proved for the ancestor is void
                return lambda module, bounds: module.lipschitz_bound(bounds)
            if "forward" in vars(ancestor):  # a new forward voids what was proved for the old one
                break
        raise UnsupportedLayerError(
            f"{self._where(layer)}: no Lipschitz constant is known for it; remove it, give its "
            f"class a method lipschitz_bound(self, bounds) -> float, or register a proved rule by "
            f"@register_lipschitz({kind.__name__})"
        )


def _changes(classes: Sequence[type], ancestor: type) -> bool:
    """Whether subclasses replace a method of an ancestor that may decide what it computes."""
    own = set(dir(ancestor)) - set(dir(nn.Module)) | {"__call__", "_call_impl", "__getattr__"}
    return any(
        name in own and name not in HARMLESS and (callable(value) or isinstance(value, property))
        for kind in classes
        for name, value in vars(kind).items()
    )


def register_lipschitz(*kinds: type[nn.Module]) -> Callable[[_Rule], _Rule]:
    """Decorator: a rule ``f(layer, bounds) -> float`` for layers of exactly these types.

    The rule returns a proved upper bound of the layer's Lipschitz constant, for all inputs. It gets
    the layer with float64 parameters on the CPU; ``bounds(part)`` is the constant of a layer inside
    it, ``bounds.shapes(part)`` lists the shapes of its inputs, if they are known. A class of one's
    own may have a method ``lipschitz_bound(self, bounds)`` instead.

    Raises
    ------
    TypeError
        If something else than module classes is given.

    Examples
    --------
    >>> class Halve(nn.Module):
    ...     def forward(self, y):
    ...         return y / 2
    >>> @register_lipschitz(Halve)
    ... def halve(layer, bounds):
    ...     return 0.5
    >>> lipschitz_upper(nn.Sequential(nn.Linear(1, 1, bias=False), Halve())).value < 0.51
    True
    """
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"kinds: {kind!r} is not a subclass of torch.nn.Module")

    def register(rule: _Rule) -> _Rule:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return register


def lipschitz_upper(module: nn.Module, input_shape: Sequence[int] | None = None) -> LipschitzBound:
    r"""Guaranteed upper bound of a network's global Lipschitz constant.

    .. math:: \sup_{a \ne b} \frac{\|f(a) - f(b)\|}{\|a - b\|} \le \text{value}

    Composed from proved constants of the layers; nothing is sampled.

    Parameters
    ----------
    module : torch.nn.Module
        Network whose layers are convolutions (every padding, stride, dilation, groups; transposed
        ones), linear layers, activations, pooling, padding, upsampling, pixel shuffling, dropout
        and batch normalisation in evaluation mode, ``nn.Sequential``, this package's networks, or
        layers with a rule of their own (`register_lipschitz`). It is copied and stays as it is;
        of a compiled or distributed module the one inside counts.
    input_shape : sequence of integers, optional
        Shape of one sample, e.g. (channels, height, width). With it, circular convolutions count
        exactly, and interpolation gets a bound at all. Without it the bound holds for every size.

    Returns
    -------
    LipschitzBound
        ``.value`` and one row per layer; ``float(bound)`` is the value.

    Raises
    ------
    UnsupportedLayerError
        For a layer without a rule, or outside of what its rule is proved for; the message gives
        its path and type.
    ValueError, TypeError
        For something else than a module, dropout or batch normalisation in training mode,
        parameters that are not finite, or a bad shape.

    Notes
    -----
    Convolutions: `dro_torch.nets.norms`. Reflecting or replicating padding is a matrix that selects
    entries; its norm is the square root of the largest number of copies of one entry. Mean pooling
    is a convolution; maximum pooling changes at most :math:`\prod_j\lceil k_j/s_j\rceil` outputs by
    one input's change. Source: composition rules are folklore; this project.

    Examples
    --------
    >>> layers = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.ReLU())
    >>> nn.init.constant_(layers[0].weight, 1.0).shape
    torch.Size([1, 1, 3])
    >>> round(float(lipschitz_upper(layers)), 3)
    3.0
    """
    network = checked_copy(module)
    shapes = {} if input_shape is None else _input_shapes(network, input_shape)
    bounds = LayerBounds(network, shapes)
    value = bounds(network) * rounding_factor(len(bounds.rows))
    return LipschitzBound(value, bounds.rows)


def checked_copy(module: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """A float64 copy without gradients, after the checks that concern the whole network."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: {type(module).__name__} is not a torch.nn.Module")
    for path, layer in module.named_modules():
        random = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        if layer.training and (random or isinstance(layer, nn.modules.batchnorm._BatchNorm)):
            raise ValueError(
                f"module: layer {path or '(network)'!r} ({type(layer).__name__}) is in training "
                "mode, where the network is not one map of one sample; call module.eval() first"
            )
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedLayerError(
            f"module: {type(module).__name__} does not show its layers; pass the module that was "
            "scripted"
        )
    for path, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise ValueError(f"module: {path!r} has no values yet; run the module once")
        if value.is_complex():
            raise UnsupportedLayerError(f"module: {path!r} is complex; no constant is proved")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"module: {path!r} has entries that are NaN or infinite")
    return bare_copy(module).to(device=device, dtype=torch.float64).requires_grad_(False)


def _input_shapes(
    network: nn.Module, input_shape: Sequence[int]
) -> dict[nn.Module, set[tuple[int, ...]]]:
    """Shapes of one sample that every layer gets when the network runs on that input."""
    sizes = [as_positive_integer(size, f"input_shape[{i}]") for i, size in enumerate(input_shape)]
    shapes: dict[nn.Module, set[tuple[int, ...]]] = {}

    def note(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given = [value for value in (*inputs, *named.values()) if isinstance(value, Tensor)]
        if given:
            shapes.setdefault(layer, set()).add(tuple(given[0].shape[1:]))

    handles = [
        layer.register_forward_pre_hook(note, with_kwargs=True) for layer in network.modules()
    ]
    try:
        network(torch.zeros(1, *sizes, dtype=torch.float64))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"input_shape: the network does not run on samples of shape {tuple(sizes)}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return shapes
