"""Which experiments there are, and how their settings are read from the command line."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from dro_core.checks import unknown
from validation.results import Check

#: Experiment -> module with a frozen dataclass `Config` and `run(config, out) -> list[Check]`.
EXPERIMENTS = {
    "section5": "validation.section5",
    "differentiation": "validation.differentiation",
    "noise-models": "validation.noise_models",
    "radii": "validation.radii",
    "conditional-wasserstein": "validation.conditional_wasserstein",
    "unbalanced": "validation.unbalanced",
    "twist": "validation.twist",
    "isum": "validation.isum",
    "certify": "validation.certify",
    "mnist deblurring": "validation.mnist.deblurring",
    "mnist misspecified": "validation.mnist.misspecified",
    "mnist radii": "validation.mnist.radii",
    "mnist simulator": "validation.mnist.simulator",
    "mnist joint": "validation.mnist.joint",
    "mnist linear": "validation.mnist.linear",
    "benchmarks core": "validation.benchmarks.core",
    "benchmarks matrix-free": "validation.benchmarks.matrix_free",
    "benchmarks estimator": "validation.benchmarks.estimator",
    "benchmarks conditional": "validation.benchmarks.conditional",
    "benchmarks unbalanced": "validation.benchmarks.unbalanced",
    "benchmarks peers": "validation.benchmarks.peers",
    "benchmarks torch": "validation.benchmarks.torch_suite",
    "benchmarks cuda": "validation.benchmarks.torch_cuda",
}


@dataclass(frozen=True)
class Experiment:
    """One experiment: its name, a line about it, its settings and its entry."""

    name: str
    summary: str
    config: type[Any]
    run: Callable[[Any, Path], list[Check]]


def setting(default: Any, meaning: str) -> Any:
    """A field of an experiment's `Config`, with the line that ``--set help`` prints."""
    return dataclasses.field(default=default, metadata={"help": meaning})


def load(name: str) -> Experiment:
    """The experiment of that name, or an error that names the nearest one."""
    if name not in EXPERIMENTS:
        raise ValueError(unknown("experiment", name, EXPERIMENTS))
    module = importlib.import_module(EXPERIMENTS[name])
    summary = (module.__doc__ or "").strip().splitlines()[0]
    return Experiment(name, summary, module.Config, module.run)


def configure(config: type[Any], assignments: Sequence[str]) -> Any:
    """The experiment's settings with ``name=value`` assignments applied."""
    types = get_type_hints(config)
    names = [entry.name for entry in dataclasses.fields(config)]
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set {assignment}: the form is name=value")
        if name not in names:
            raise ValueError(unknown("--set, name of the setting", name, names))
        changes[name] = _parse(text, types[name], name)
    return config(**changes)


def _parse(text: str, kind: Any, name: str) -> Any:
    try:
        if kind is float:
            value: Any = float(text)
        else:
            value = text if kind is str else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ValueError(f"--set {name}: cannot read {text!r} as {kind.__name__}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"--set {name}: {text!r}; a finite number is needed")
    if type(value) is not kind:
        raise ValueError(
            f"--set {name}: {text!r} is {type(value).__name__}, but {kind.__name__} is needed"
        )
    return value
