"""The door to `dro_torch`: this floor knows of networks that they exist, and asks upstairs by name.

Nothing of torch is imported unless a network is audited.
"""

from __future__ import annotations

import importlib
from typing import Any

#: What answers for networks; see there for `as_function`, `intervals` and `load_exported`.
NETWORKS = "dro_torch.auditing"


def is_network(value: object) -> bool:
    """Whether an object is a torch.nn.Module, told without importing torch."""
    return any(cls.__module__ == "torch.nn.modules.module" for cls in type(value).__mro__)


def networks() -> Any:
    """The module of `dro_torch` that audits networks.

    Raises
    ------
    ModuleNotFoundError
        Without torch; the message names the extra.
    """
    return importlib.import_module(NETWORKS)
