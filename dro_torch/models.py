"""How this package calls and copies the networks that the user passes in."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Model = TypeVar("_Model")


def bare_module(model: Any) -> Any:
    """The module inside torch.compile, DistributedDataParallel and DataParallel.

    Inner solves run on it: they differentiate twice, which compiled graphs cannot, and need no
    reduction of gradients.
    """
    while True:
        name = _inner_name(model)
        if name is None:
            return model
        model = getattr(model, name)


def _inner_name(model: Any) -> str | None:
    """The attribute under which a wrapper keeps its module; None for anything else."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return "module"
    return "_orig_mod" if hasattr(model, "_orig_mod") else None


def check_apart(model: Any, name: str = "model") -> None:
    """Refuse a network with a batch normalisation that uses the moments of its batch.

    A loss runs the network several times, on moved and repeated samples and in parts: what comes
    out would depend on how, and running averages would follow the adversary.
    """
    if not isinstance(model, nn.Module):
        return
    for where, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (
            layer.training or layer.running_mean is None
        ):
            raise ValueError(
                f"{name}: layer {where!r} ({type(layer).__name__}) normalises by the moments of "
                "the batch, so a sample's loss would depend on the others and on the loss's own "
                "passes; put such layers into evaluation mode (layer.eval(), after every "
                "model.train(); with running averages), or use GroupNorm or InstanceNorm"
            )


def bare_copy(model: _Model) -> _Model:
    """A deep copy in which every wrapped module, inside too, is replaced by what it wraps."""
    memo: dict[int, Any] = {}
    layers = list(model.modules()) if isinstance(model, nn.Module) else []
    for layer in reversed(layers):
        if (inner := bare_module(layer)) is not layer:
            memo[id(layer)] = copy.deepcopy(inner, memo)
    return copy.deepcopy(model, memo)


def bare_names(module: nn.Module) -> dict[str, str]:
    """From the names of the state dict to those that it has without wrappers."""
    return {name: _bare_name(module, name) for name in module.state_dict()}


def _bare_name(module: nn.Module, name: str) -> str:
    here: Any = module
    kept = []
    for part in name.split("."):
        if part != _inner_name(here):
            kept.append(part)
        here = getattr(here, part, None)
    return ".".join(kept)


def call_model(
    model: Any, value: Tensor, name: str = "model", argument: str = "y", *, dimensions: int = 2
) -> Tensor:
    """model(value), a real batch of as many samples, from a copy of the value.

    Parameters
    ----------
    model : callable
        May change its input in place.
    value : (N, ...) tensor
    name, argument : str
        What model and value are called in errors.
    dimensions : int
        Axes that the output must have at least.

    Raises
    ------
    TypeError
        If the model returns something else than a floating-point tensor.
    ValueError
        If it returns another number of samples, or its parameters are of another dtype or on
        another device than its input, and that made it fail.
    """
    if torch.compiler.is_compiling():
        result: Tensor = model(value.clone())
        return result
    try:
        output = model(value.clone())
    except RuntimeError as error:
        explain_failure(error, model, value, name, argument)
        raise
    where = f"{name}: {name}({argument}) returned"
    if not isinstance(output, Tensor):
        raise TypeError(f"{where} a {_described(output)}; needed: a tensor{_remedy(output, name)}")
    if not output.is_floating_point():
        raise TypeError(f"{where} dtype {output.dtype}; needed: real floating-point numbers")
    if output.ndim < dimensions or len(output) != len(value):
        raise ValueError(
            f"{where} shape {tuple(output.shape)} for {argument} of shape {tuple(value.shape)}; "
            f"needed: a tensor of {len(value)} samples"
        )
    return output


def explain_failure(
    error: RuntimeError, model: Any, value: Tensor, name: str = "model", argument: str = "y"
) -> None:
    """Raise an error that says so if dtype or device of a model and its input disagree."""
    if not isinstance(model, nn.Module):
        return
    for parameter in (*model.parameters(), *model.buffers()):
        if parameter.device != value.device:
            raise ValueError(
                f"{name}: on device {parameter.device}, but {argument} is on {value.device}; move "
                f"one with .to(...)"
            ) from error
        if parameter.is_floating_point() and parameter.dtype != value.dtype:
            raise ValueError(
                f"{name}: its parameters have dtype {parameter.dtype}, but {argument} has "
                f"{value.dtype}; convert one with .to(...)"
            ) from error


def _described(output: Any) -> str:
    kind = type(output).__name__
    if isinstance(output, tuple | list):
        return f"{kind} of {len(output)} entries"
    if isinstance(output, dict):
        return f"{kind} with the keys {list(output)}"
    return kind


def _remedy(output: Any, name: str) -> str:
    """How the wanted tensor is taken out of what a model returned."""
    key: Any = None
    if isinstance(output, tuple | list):
        key = next((i for i, entry in enumerate(output) if isinstance(entry, Tensor)), None)
    elif isinstance(output, dict):
        key = next((k for k, entry in output.items() if isinstance(entry, Tensor)), None)
    if key is None:
        return ""
    return f" (wrap it in a module whose forward returns {name}(...)[{key!r}])"
