r"""Lipschitz constants of networks: guaranteed upper bounds, and lower bounds with a witness.

The bound :math:`(\sqrt M + \rho\kappa)^2` on a worst-case risk needs an upper bound of the global
Lipschitz constant, which sampling cannot give. `lipschitz_upper` computes one from the weights by
composition rules: a layer's constant is proved once, for its type, and a network's follows from
:math:`\operatorname{Lip}(f\circ g) \le \operatorname{Lip} f\,\operatorname{Lip} g`,
:math:`\operatorname{Lip}(f + g) \le \operatorname{Lip} f + \operatorname{Lip} g` and
:math:`\operatorname{Lip}(f, g)^2 \le \operatorname{Lip}(f)^2 + \operatorname{Lip}(g)^2`; chains of
linear layers are sharper (`chain_bound`). `lipschitz_lower` finds two points and divides.

All norms are Euclidean, per sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dro_core.checks import as_positive_integer
from dro_torch.checks import check_batch
from dro_torch.models import bare_copy, call_model
from dro_torch.nets import frozen
from dro_torch.nets.norms import convolution_norm, matrix_norm, rounding_factor

#: Largest slope of SiLU (where x tanh(x/2) = 2), of GELU (at the square root of two) and of GELU's
#: tanh form, rounded up. The least slopes are 1 minus these, for f'(x) + f'(-x) = 1.
SILU_SLOPE, GELU_SLOPE, GELU_TANH_SLOPE = 1.0998394, 1.1289042, 1.1290
#: Thresholds of Softplus at which its jump is below rounding, and nothing overflows in float32.
SOFTPLUS_THRESHOLDS = (34.0, 80.0)
#: Methods that do not change the map: a class or an object may have its own.
HARMLESS = ("train", "eval", "extra_repr", "reset_parameters")
#: Circular convolutions with more points are bounded by the supremum of their symbol.
LARGEST_CIRCULAR = 2**14

Rule = Callable[[Any, "LayerBounds"], float]
_Rule = TypeVar("_Rule", bound=Rule)
_RULES: dict[type[nn.Module], Rule] = {}
_SLOPES: dict[type[nn.Module], Callable[[Any], tuple[float, float]]] = {}


class UnsupportedLayerError(TypeError):
    """No proved Lipschitz constant is known for a layer; the message gives its path."""


class _RefusedError(Exception):
    """What a rule says about a layer; it becomes an `UnsupportedLayerError` with the path."""


@dataclass(frozen=True)
class LayerBound:
    """Proved Lipschitz constant of one layer: its path in the network, its type, the constant."""

    path: str
    layer: str
    value: float


@dataclass(frozen=True)
class LipschitzBound:
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
            except _RefusedError as refused:
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
        if kind not in _SLOPES:
            raise UnsupportedLayerError(f"{self._where(activation)}: no scalar activation")
        return _SLOPES[kind](activation)

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
        if kind in _RULES:
            return _RULES[kind]
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
        _RULES.update(dict.fromkeys(kinds, rule))
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
    network = _checked_copy(module)
    shapes = {} if input_shape is None else _input_shapes(network, input_shape)
    bounds = LayerBounds(network, shapes)
    value = bounds(network) * rounding_factor(len(bounds.rows))
    return LipschitzBound(value, bounds.rows)


def _checked_copy(module: Any, device: torch.device | str = "cpu") -> nn.Module:
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


# --- linear layers ----------------------------------------------------------------------------


@register_lipschitz(nn.Linear)
def _linear(layer: nn.Linear, bounds: LayerBounds) -> float:
    return matrix_norm(layer.weight)


@register_lipschitz(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution(layer: Any, bounds: LayerBounds) -> float:
    options = {"dilation": layer.dilation, "groups": layer.groups}
    if layer.padding_mode == "zeros":
        return convolution_norm(layer.weight, stride=layer.stride, **options)
    ends = layer._reversed_padding_repeated_twice
    pads = list(zip(ends[0::2], ends[1::2], strict=True))[::-1]
    shapes = [shape[1:] for shape in bounds.shapes(layer)]
    reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding_mode == "circular" and all(
        sum(pad) <= most for pad, most in zip(pads, reach, strict=True)
    ):  # every output is one of the circular convolution, none twice
        if not shapes or max(math.prod(shape) for shape in shapes) > LARGEST_CIRCULAR:
            return convolution_norm(layer.weight, **options)
        return max(
            convolution_norm(layer.weight, stride=layer.stride, circular_sizes=shape, **options)
            for shape in shapes
        )
    copies = _padding_norm(layer.padding_mode, pads, shapes)
    return copies * convolution_norm(layer.weight, stride=layer.stride, **options)


@register_lipschitz(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _transposed(layer: Any, bounds: LayerBounds) -> float:
    return convolution_norm(
        layer.weight, stride=layer.stride, dilation=layer.dilation, groups=layer.groups
    )


def _padding_norm(
    mode: str, pads: Sequence[tuple[int, int]], shapes: Sequence[Sequence[int]]
) -> float:
    r"""Norm of a padding: the square root of the largest number of copies of one entry.

    Without sizes: the entry itself and one reflection (or period) at each end, or for replication
    all of both ends (a signal of one entry).
    """
    if mode == "constant":
        return 1.0
    if not shapes:
        ends = [pad if mode == "replicate" else (min(pad[0], 1), min(pad[1], 1)) for pad in pads]
        return math.sqrt(math.prod(1 + max(a, 0) + max(b, 0) for a, b in ends))
    largest = 1
    for shape in shapes:
        copies = 1
        for size, pad in zip(shape, pads, strict=True):
            entries = torch.arange(size, dtype=torch.float64)[None, None]
            copies *= int(functional.pad(entries, pad, mode=mode).long().flatten().bincount().max())
        largest = max(largest, copies)
    return math.sqrt(largest)


_PADDINGS: dict[str, list[type[nn.Module]]] = {
    "constant": [nn.ConstantPad1d, nn.ConstantPad2d, nn.ZeroPad1d, nn.ZeroPad2d],
    "reflect": [nn.ReflectionPad1d, nn.ReflectionPad2d],
    "replicate": [nn.ReplicationPad1d, nn.ReplicationPad2d],
    "circular": [nn.CircularPad1d, nn.CircularPad2d],
}
for _mode, _kinds in _PADDINGS.items():

    @register_lipschitz(*_kinds)
    def _pad(layer: Any, bounds: LayerBounds, mode: str = _mode) -> float:
        pads = list(zip(layer.padding[0::2], layer.padding[1::2], strict=True))[::-1]
        return _padding_norm(mode, pads, [shape[1:] for shape in bounds.shapes(layer)])


def _per_axis(value: int | Sequence[int], dimension: int) -> list[int]:
    return [value] * dimension if isinstance(value, int) else list(value)


@register_lipschitz(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _mean_pooling(layer: Any, bounds: LayerBounds) -> float:
    r"""A convolution; or, where the border has other divisors, by Schur's test.

    Every output is then a mean of the entries in its window, possibly of one alone: row sums are at
    most 1, and column sums at most the number :math:`\prod_j\lceil k_j/s_j\rceil` of windows that
    see an entry.
    """
    dimension = int(type(layer).__name__[-2])
    kernel = _per_axis(layer.kernel_size, dimension)
    stride = _per_axis(layer.stride, dimension)
    divisor = getattr(layer, "divisor_override", None)
    padded = any(_per_axis(layer.padding, dimension))
    if divisor is None and (layer.ceil_mode or (padded and not layer.count_include_pad)):
        return math.sqrt(_windows(kernel, stride))
    scale = 1 / (divisor or math.prod(kernel))
    weight = torch.full((1, 1, *kernel), scale, dtype=torch.float64)
    return convolution_norm(weight, stride=stride)


def _windows(kernel: Sequence[int], stride: Sequence[int]) -> int:
    """Number of windows that see one entry, at most."""
    return math.prod(-(-k // s) for k, s in zip(kernel, stride, strict=True))


@register_lipschitz(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
def _maximum_pooling(layer: Any, bounds: LayerBounds) -> float:
    dimension = int(type(layer).__name__[-2])
    kernel = _per_axis(layer.kernel_size, dimension)
    stride = _per_axis(layer.stride, dimension)
    if layer.return_indices:
        raise _RefusedError("return_indices=True returns positions too, which jump")
    dilated = any(d > 1 for d in _per_axis(layer.dilation, dimension))
    return math.sqrt(math.prod(kernel) if dilated else _windows(kernel, stride))


@register_lipschitz(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
def _upsampling(layer: Any, bounds: LayerBounds) -> float:
    r"""The norm of a product of one-dimensional interpolations, one per axis."""
    if layer.mode not in ("nearest", "linear", "bilinear", "trilinear"):
        raise _RefusedError(f"no constant is proved for mode {layer.mode!r}")
    shapes = [shape[1:] for shape in bounds.shapes(layer)]
    linear = layer.mode != "nearest"
    if not shapes:
        factors = layer.scale_factor
        if not linear and isinstance(factors, tuple) and all(f == int(f) for f in factors):
            return math.sqrt(math.prod(factors))
        raise _RefusedError("its norm depends on the size of its input; give input_shape=")

    def axis_norm(axis: int, size: int, dimension: int) -> float:
        def of_axis(value: Any) -> Any:
            return value[axis] if isinstance(value, tuple) else value

        matrix = functional.interpolate(
            torch.eye(size, dtype=torch.float64)[:, None],
            size=of_axis(layer.size),
            scale_factor=of_axis(layer.scale_factor),
            mode="linear" if linear else "nearest",
            align_corners=layer.align_corners if linear else None,
            recompute_scale_factor=layer.recompute_scale_factor,
        )
        return matrix_norm(matrix[:, 0])

    return max(
        math.prod(axis_norm(axis, size, len(shape)) for axis, size in enumerate(shape))
        for shape in shapes
    )


@register_lipschitz(nn.Flatten, nn.Unflatten)
def _reshaping(layer: Any, bounds: LayerBounds) -> float:
    axis = layer.start_dim if isinstance(layer, nn.Flatten) else layer.dim
    axes = {len(shape) + 1 for shape in bounds.shapes(layer)}
    if axis == 0 or any(axis + count == 0 for count in axes):
        raise _RefusedError("it reshapes axis 0, so that samples mix")
    return 1.0


@register_lipschitz(
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
)
def _isometry(layer: nn.Module, bounds: LayerBounds) -> float:
    return 1.0


@register_lipschitz(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_normalisation(layer: Any, bounds: LayerBounds) -> float:
    if layer.running_var is None:
        raise _RefusedError("without running statistics it mixes the samples")
    scale = 1.0 if layer.weight is None else layer.weight.abs()
    return float((scale / (layer.running_var + layer.eps).sqrt()).max()) * rounding_factor(4)


# --- activations ------------------------------------------------------------------------------


def _slopes(*kinds: type[nn.Module]) -> Callable[[Any], Any]:
    def register(function: Callable[[Any], tuple[float, float]]) -> Any:
        _SLOPES.update(dict.fromkeys(kinds, function))
        register_lipschitz(*kinds)(lambda layer, bounds: max(map(abs, function(layer))))
        return function

    return register


@_slopes(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Softsign)
def _monotone(layer: nn.Module) -> tuple[float, float]:
    return 0.0, 1.0


@_slopes(nn.Softplus)
def _softplus(layer: nn.Softplus) -> tuple[float, float]:
    r"""1 where the jump :math:`\log(1 + e^{-t})/\beta` at the threshold t is below rounding."""
    least, largest = SOFTPLUS_THRESHOLDS
    if not (math.isfinite(layer.beta) and layer.beta != 0):
        raise _RefusedError(f"beta={layer.beta}; allowed: a number other than 0")
    if not least <= layer.threshold <= largest:
        jump = math.log1p(math.exp(-min(max(layer.threshold, -700.0), 700.0))) / abs(layer.beta)
        what = f"jumps by {jump:.2g}" if layer.threshold < least else "overflows"
        raise _RefusedError(
            f"threshold={layer.threshold}: it {what} where it becomes linear, so that it has no "
            "Lipschitz constant; set layer.threshold = 40 (the same function but for the jump)"
        )
    return 0.0, 1.0


@_slopes(nn.CELU)
def _celu(layer: nn.CELU) -> tuple[float, float]:
    if not 0 < layer.alpha < math.inf:
        raise _RefusedError(f"alpha={layer.alpha}: its slope is bounded for alpha > 0 only")
    return 0.0, 1.0


@_slopes(nn.Sigmoid)
def _sigmoid(layer: nn.Module) -> tuple[float, float]:
    return 0.0, 0.25


@_slopes(nn.LeakyReLU)
def _leaky(layer: nn.LeakyReLU) -> tuple[float, float]:
    return min(layer.negative_slope, 1.0), max(layer.negative_slope, 1.0)


@_slopes(nn.PReLU)
def _parametric(layer: nn.PReLU) -> tuple[float, float]:
    return min(float(layer.weight.min()), 1.0), max(float(layer.weight.max()), 1.0)


@_slopes(nn.ELU)
def _exponential(layer: nn.ELU) -> tuple[float, float]:
    return min(layer.alpha, 0.0), max(layer.alpha, 1.0)


@_slopes(nn.SiLU)
def _silu(layer: nn.SiLU) -> tuple[float, float]:
    return 1 - SILU_SLOPE, SILU_SLOPE


@_slopes(nn.GELU)
def _gelu(layer: nn.GELU) -> tuple[float, float]:
    largest = GELU_SLOPE if layer.approximate == "none" else GELU_TANH_SLOPE
    return 1 - largest, largest


# --- composition ------------------------------------------------------------------------------


@register_lipschitz(nn.Sequential)
def _sequential(layers: nn.Sequential, bounds: LayerBounds) -> float:
    """Product over the layers, except that runs of linear layers and activations are one chain."""
    value = 1.0
    chained: tuple[type[nn.Module], ...] = (nn.Linear, nn.Dropout, nn.Identity, *_SLOPES)
    for together, run in itertools.groupby(
        layers, key=lambda layer: parametrize.type_before_parametrizations(layer) in chained
    ):
        parts = list(run)
        product = math.prod(bounds(part) for part in parts)
        value *= min(product, _chain(parts)) if together else product
    return value


def _chain(parts: Sequence[nn.Module]) -> float:
    """`chain_bound` of a run of linear layers and activations."""
    outside = 1.0
    matrices: list[Tensor] = []
    slopes: list[tuple[float, float]] = []
    pending = (1.0, 1.0)
    for part in parts:
        kind = parametrize.type_before_parametrizations(part)
        if isinstance(part, nn.Linear):
            if matrices and pending == (1.0, 1.0):
                matrices[-1] = part.weight @ matrices[-1]
            else:
                if matrices:
                    slopes.append(pending)
                else:
                    outside = max(map(abs, pending))
                matrices.append(part.weight)
            pending = (1.0, 1.0)
        elif kind in _SLOPES:
            corners = [a * b for a in pending for b in _SLOPES[kind](part)]
            pending = min(corners), max(corners)
    outside *= max(map(abs, pending))
    return outside * chain_bound(matrices, slopes) if matrices else outside


def chain_bound(matrices: Sequence[Tensor], slopes: Sequence[tuple[float, float]]) -> float:
    r"""Lipschitz bound of :math:`W_k\sigma_{k-1}(\cdots\sigma_1(W_1 y))`, below the product.

    An activation with slopes in :math:`[\alpha, \beta]` is :math:`cI + rN` with
    :math:`c = (\alpha+\beta)/2`, :math:`r = (\beta-\alpha)/2` and N 1-Lipschitz, so for every
    matrix A, with :math:`z_k = W_k\sigma_{k-1}(z_{k-1})`,

    .. math:: \operatorname{Lip}(A z_k) \le \lvert c\rvert\operatorname{Lip}(A W_k z_{k-1})
       + r\,\|A W_k\|\operatorname{Lip}(z_{k-1}).

    Parameters
    ----------
    matrices : k tensors (n_i, n_{i-1})
        First layer first.
    slopes : k - 1 pairs
        Least and largest slope of the activation after each matrix but the last.

    Returns
    -------
    float
        At most :math:`\prod\|W_i\|\prod\max(|\alpha|, |\beta|)`; exact where all activations are
        linear.

    Notes
    -----
    Source: Combettes and Pesquet, *Lipschitz certificates for layered network structures driven by
    averaged activation operators* (2020), as a recursion.
    """
    constants: list[float] = []  # of z_1, z_2, ...

    def lipschitz_of(matrix: Tensor, layer: int) -> float:
        product = matrix @ matrices[layer]
        norm = matrix_norm(product)
        if layer == 0:
            return norm
        least, largest = slopes[layer - 1]
        split = abs(least + largest) / 2 * lipschitz_of(product, layer - 1)
        split += (largest - least) / 2 * norm * constants[layer - 1]
        return min(split, max(abs(least), abs(largest)) * norm * constants[layer - 1])

    for layer, matrix in enumerate(matrices):
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        constants.append(lipschitz_of(identity, layer))
    return constants[-1]


# --- lower bounds -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LipschitzLower:
    r"""A lower bound of a Lipschitz constant and the two points that prove it.

    Attributes
    ----------
    value : float
        :math:`\|f(a) - f(b)\| / \|a - b\|`, evaluated in float64.
    first, second : tensors
        a and b, float64, shaped as one sample.
    jacobian_norm : float
        Largest singular value of a Jacobian found on the way. The network has that slope where it
        is differentiable; it proves nothing at a kink.
    """

    value: float
    first: Tensor = field(repr=False)
    second: Tensor = field(repr=False)
    jacobian_norm: float

    def __float__(self) -> float:
        return self.value


def lipschitz_lower(
    module: nn.Module,
    x: Tensor,
    *,
    steps: int = 30,
    ascent_steps: int = 60,
    generator: torch.Generator | None = None,
) -> LipschitzLower:
    r"""Lower bound of a network's Lipschitz constant, near given points and between them.

    Power iteration on :math:`J^TJ` at every point finds the direction of largest slope; pairs along
    these directions, and pairs of given points, then climb on
    :math:`\|f(a) - f(b)\| / \|a - b\|` in a and b, each with a step size of its own that grows with
    success. The best pair is returned.

    Parameters
    ----------
    module : torch.nn.Module
        Network; copied in float64 to the device of `x`, and left as it is.
    x : (N, ...) tensor
        Inputs, samples first.
    steps : int
        Power iterations.
    ascent_steps : int
        Steps of the ascent, one forward and backward pass of 2N pairs each.
    generator : torch.Generator, optional
        For the start directions, on the CPU; default: one with seed 0.

    Returns
    -------
    LipschitzLower
        ``.value`` with the pair; ``float(lower)`` is the value.

    Raises
    ------
    ValueError, TypeError
        For something else than a module, dropout or batch normalisation in training mode, bad
        inputs, step numbers or generators, or outputs that are not finite.

    Notes
    -----
    Source: this project.

    Examples
    --------
    >>> from dro_torch.nets import LinearMap
    >>> round(float(lipschitz_lower(LinearMap([[3.0, 4.0]]), torch.zeros(1, 2))), 9)
    5.0
    """
    check_batch(x, "x")
    network = frozen(_checked_copy(module, x.device))
    steps, ascent_steps = (
        as_positive_integer(steps, "steps"),
        as_positive_integer(ascent_steps, "ascent_steps"),
    )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    elif not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} is not a torch.Generator")
    points = x.detach().double().clone()
    start = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    directions, slopes = _steepest(network, points, start.to(x.device), steps)
    length = 1e-3 * (1 + _norms(points))
    points = points.detach()
    first, second = points, points + length * directions
    if len(points) > 1:
        other = points.roll(1, 0)
        differ = (points != other).flatten(1).any(1)
        first = torch.cat([first, points[differ]])
        second = torch.cat([second, other[differ]])
    first, second, ratios = _climb(network, first, second, ascent_steps)
    best = int(ratios.argmax())
    return LipschitzLower(float(ratios[best]), first[best], second[best], float(slopes.max()))


def _norms(values: Tensor) -> Tensor:
    """Euclidean norm of every sample, (N, 1, ...)."""
    shape = (-1, *[1] * (values.ndim - 1))
    return torch.linalg.vector_norm(values.reshape(len(values), -1), dim=1).reshape(shape)


def _steepest(
    network: nn.Module, points: Tensor, start: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Top right-singular vectors of the Jacobians at the points, and the slopes along them."""
    with torch.enable_grad():  # J is the derivative of v -> J^T v: one graph serves all products
        points = points.requires_grad_()
        outputs = call_model(network, points, "module", "x", dimensions=1)
        dual = torch.zeros_like(outputs, requires_grad=True)
        pulled = _gradient(outputs, points, dual, create_graph=True)
    direction = start / _norms(start)
    for _ in range(steps):
        following = _gradient(outputs, points, _gradient(pulled, dual, direction))
        size = _norms(following)
        direction = torch.where(size > 0, following / size.clamp_min(1e-300), direction)
    return direction, _norms(_gradient(pulled, dual, direction)).flatten().detach()


def _gradient(outputs: Tensor, inputs: Tensor, dual: Tensor, create_graph: bool = False) -> Tensor:
    """Vector-Jacobian product that keeps the graph; zero where nothing depends on the inputs."""
    if not outputs.requires_grad:
        return torch.zeros_like(inputs)
    (found,) = torch.autograd.grad(
        outputs,
        inputs,
        dual,
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return found


def _climb(
    network: nn.Module, first: Tensor, second: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ascent of the difference quotient of every pair; (a, b, quotient), never below the start."""

    def quotients(pair: Tensor) -> Tensor:
        outputs = network(pair.flatten(0, 1).clone()).unflatten(0, (2, -1))
        return _norms(outputs[0] - outputs[1]).flatten() / _norms(pair[0] - pair[1]).flatten()

    def with_gradient(pair: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            pair = pair.detach().requires_grad_()
            values = quotients(pair)
        return values.detach(), _gradient(values, pair, torch.ones_like(values))

    pair = torch.stack([first, second])
    best, gradient = with_gradient(pair)
    if not bool(torch.isfinite(best).all()):
        raise ValueError("module: its outputs on x are not finite, or overflow")
    shape = (-1, *[1] * (first.ndim - 1))
    size = torch.full_like(best, 0.1).reshape(shape)
    for _ in range(steps):
        distance = _norms(pair[0] - pair[1])
        slope = _norms(gradient.transpose(0, 1)).reshape(shape).clamp_min(1e-300)
        trial = pair + size * distance * gradient / slope
        values, found = with_gradient(trial)
        apart = _norms(trial[0] - trial[1]) >= 1e-5 * (1 + _norms(trial[0]))
        better = ((values > best) & apart.flatten()).reshape(shape)
        pair, gradient = torch.where(better, trial, pair), torch.where(better, found, gradient)
        best = torch.where(better.flatten(), values, best)
        size = torch.where(better, 1.5 * size, 0.5 * size)
    return pair[0], pair[1], best
