"""Which experiments there are."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dro_core.checks import unknown
from validation.errors import UsageError
from validation.results import Check
from validation.settings import Settings, configure

__all__ = ["EXPERIMENTS", "Experiment", "configure", "load", "summary"]

#: Experiment -> module with a frozen dataclass `Config` and `run(config, out) -> list[Check]`.
EXPERIMENTS = {
    "landing": "validation.landing",
    "section5": "validation.section5",
    "differentiation": "validation.differentiation",
    "noise-models": "validation.noise_models",
    "radii": "validation.radii",
    "coverage": "validation.coverage",
    "conditional-wasserstein": "validation.conditional_wasserstein",
    "unbalanced": "validation.unbalanced",
    "twist": "validation.twist",
    "jittering": "validation.jittering",
    "isum": "validation.isum",
    "isum few": "validation.isum.few",
    "isum gaussian": "validation.isum.gaussian",
    "isum exact": "validation.isum.exact",
    "certify": "validation.certify",
    "certify any": "validation.certify_any",
    "certify layers": "validation.certify_layers",
    "mnist deblurring": "validation.mnist.deblurring",
    "mnist misspecified": "validation.mnist.misspecified",
    "mnist radii": "validation.mnist.radii",
    "mnist simulator": "validation.mnist.simulator",
    "mnist joint": "validation.mnist.joint",
    "mnist onset": "validation.mnist.onset",
    "mnist linear": "validation.mnist.linear",
    "cifar10": "validation.cifar10",
    "ct": "validation.ct.study",
    "ct linear": "validation.ct.linear",
    "frontier isotropic": "validation.frontier.isotropic",
    "frontier weighted": "validation.frontier.weighted",
    "evidence": "validation.evidence",
    "claims": "validation.claims",
    "gpu": "validation.gpu",
    "benchmarks headline": "validation.benchmarks.headline",
    "benchmarks core": "validation.benchmarks.core",
    "benchmarks matrix-free": "validation.benchmarks.matrix_free",
    "benchmarks samples": "validation.benchmarks.samples",
    "benchmarks estimator": "validation.benchmarks.estimator",
    "benchmarks mmse": "validation.benchmarks.mmse",
    "benchmarks conditional": "validation.benchmarks.conditional",
    "benchmarks unbalanced": "validation.benchmarks.unbalanced",
    "benchmarks peers": "validation.benchmarks.peers",
    "benchmarks torch": "validation.benchmarks.torch_suite",
    "benchmarks steps": "validation.benchmarks.torch_steps",
    "benchmarks cuda": "validation.benchmarks.torch_cuda",
}
#: Those without figures of their own; benchmarks have none either.
TABLES_ONLY = ("evidence", "claims", "gpu")


@dataclass(frozen=True)
class Experiment:
    """One experiment: its name, a line about it, its settings and its entry."""

    name: str
    summary: str
    config: type[Settings]
    run: Callable[..., list[Check]]  #: of an instance of `config` and the output folder

    @property
    def draws(self) -> bool:
        """Whether its results are figures too."""
        return not self.name.startswith("benchmarks") and self.name not in TABLES_ONLY


def load(name: str) -> Experiment:
    """The experiment of that name, or an error that names the nearest one."""
    if name not in EXPERIMENTS:
        raise UsageError(unknown("experiment", name, EXPERIMENTS))
    module = importlib.import_module(EXPERIMENTS[name])
    return Experiment(name, summary(name), module.Config, module.run)


def summary(name: str) -> str:
    """The first line of an experiment's docstring, read without importing it."""
    path = Path(__file__).parent.parent.joinpath(*EXPERIMENTS[name].split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_bytes())) or "").partition("\n")[0]
