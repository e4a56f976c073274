"""Which experiments there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from dro_core.checks import unknown
from validation.errors import UsageError
from validation.results import Check
from validation.settings import Settings, configure

__all__ = ["EXPERIMENTS", "Experiment", "configure", "load"]

#: Experiment -> module with a frozen dataclass `Config` and `run(config, out) -> list[Check]`.
EXPERIMENTS = {
    "section5": "validation.section5",
    "differentiation": "validation.differentiation",
    "noise-models": "validation.noise_models",
    "radii": "validation.radii",
    "conditional-wasserstein": "validation.conditional_wasserstein",
    "unbalanced": "validation.unbalanced",
    "twist": "validation.twist",
    "jittering": "validation.jittering",
    "isum": "validation.isum",
    "certify": "validation.certify",
    "certify any": "validation.certify_any",
    "mnist deblurring": "validation.mnist.deblurring",
    "mnist misspecified": "validation.mnist.misspecified",
    "mnist radii": "validation.mnist.radii",
    "mnist simulator": "validation.mnist.simulator",
    "mnist joint": "validation.mnist.joint",
    "mnist onset": "validation.mnist.onset",
    "mnist linear": "validation.mnist.linear",
    "cifar10": "validation.cifar10",
    "frontier isotropic": "validation.frontier.isotropic",
    "frontier weighted": "validation.frontier.weighted",
    "evidence": "validation.evidence",
    "claims": "validation.claims",
    "gpu": "validation.gpu",
    "benchmarks core": "validation.benchmarks.core",
    "benchmarks matrix-free": "validation.benchmarks.matrix_free",
    "benchmarks estimator": "validation.benchmarks.estimator",
    "benchmarks mmse": "validation.benchmarks.mmse",
    "benchmarks conditional": "validation.benchmarks.conditional",
    "benchmarks unbalanced": "validation.benchmarks.unbalanced",
    "benchmarks peers": "validation.benchmarks.peers",
    "benchmarks torch": "validation.benchmarks.torch_suite",
    "benchmarks steps": "validation.benchmarks.torch_steps",
    "benchmarks cuda": "validation.benchmarks.torch_cuda",
}


@dataclass(frozen=True)
class Experiment:
    """One experiment: its name, a line about it, its settings and its entry."""

    name: str
    summary: str
    config: type[Settings]
    run: Callable[..., list[Check]]  #: of an instance of `config` and the output folder


def load(name: str) -> Experiment:
    """The experiment of that name, or an error that names the nearest one."""
    if name not in EXPERIMENTS:
        raise UsageError(unknown("experiment", name, EXPERIMENTS))
    module = importlib.import_module(EXPERIMENTS[name])
    summary = (module.__doc__ or "").strip().splitlines()[0]
    return Experiment(name, summary, module.Config, module.run)
