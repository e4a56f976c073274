"""Results that cannot be changed afterwards: a certificate speaks about what was solved."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def read_only(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """A view of an array that cannot be written to (the array itself stays as it is)."""
    view = array.view()
    view.flags.writeable = False
    return view


def protect_arrays(instance: Any) -> None:
    """Replace the arrays among an object's attributes, and those in tuples, by read-only views."""
    for name, value in list(vars(instance).items()):
        if isinstance(value, np.ndarray):
            vars(instance)[name] = read_only(value)
        elif type(value) is tuple and any(isinstance(part, np.ndarray) for part in value):
            vars(instance)[name] = tuple(
                read_only(part) if isinstance(part, np.ndarray) else part for part in value
            )


class ReadOnly:
    """Attributes without a leading underscore cannot be set once `_protect` was called."""

    def _protect(self) -> None:
        protect_arrays(self)
        self._protected = True

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and "_protected" in vars(self):
            raise AttributeError(
                f"{type(self).__name__}.{name}: results are read-only; solve again with what is "
                "to be changed"
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name}: results are read-only")
