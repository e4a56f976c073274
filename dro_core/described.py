"""How results say what they found: in one line, as a table, as text, for JSON, as a picture.

In come the attributes that a result names in `described_by`; out go `repr`, the page of a notebook,
`summary` and `to_dict`, the same numbers in all of them. Results with a picture are `Drawn`.
Every result and certificate of `dro_core` and `dro_torch` stands on this file, which knows none.
"""

from __future__ import annotations

import dataclasses
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dro_core.optional import needed
from dro_core.style import styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Arrays with more entries are left out of dictionaries, their shape aside.
LARGEST_LISTED = 100_000
#: Arrays with more entries are given by their range in one line.
LARGEST_SHOWN = 4


class Described:
    """A result that says the numbers that matter.

    Attributes
    ----------
    described_by : tuple of str
        Names of attributes, in the order in which they are said; for a dataclass by default its
        fields with ``repr=True``. A method `holds` is asked, too.
    """

    described_by: ClassVar[tuple[str, ...]] = ()

    def _numbers(self) -> dict[str, Any]:
        names = self.described_by
        if not names and dataclasses.is_dataclass(self):
            names = tuple(field.name for field in dataclasses.fields(self) if field.repr)
        found = {name: getattr(self, name) for name in names}
        holds = getattr(self, "holds", None)
        return {**found, "holds": holds()} if callable(holds) else found

    def _said(self) -> dict[str, str]:
        """The numbers in short, without those that say nothing."""
        return {
            name: short(value)
            for name, value in self._numbers().items()
            if value is not None and not (isinstance(value, str | tuple | list) and not value)
        }

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={text}" for name, text in self._said().items())
        return f"{type(self).__name__}({said})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in self._said().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"

    def summary(self) -> str:
        """The same as a few lines of text."""
        said = self._said()
        width = max((len(name) for name in said), default=0)
        return "\n".join(
            [type(self).__name__, *(f"  {name:{width}}  {text}" for name, text in said.items())]
        )

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: arrays as lists (large ones by shape), infinity and NaN as None."""
        return {name: plain(value) for name, value in self._numbers().items()}


class Drawn(Described, ABC):
    """A result with a picture; matplotlib is imported when one is asked for."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the result.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where; by default the axes of a new figure, which has the look of `dro_core.style`.

        Returns
        -------
        Axes

        Raises
        ------
        TypeError
            If `ax` is something else.
        ModuleNotFoundError
            Without matplotlib; the message names the extra.
        """
        if ax is None:
            pyplot = needed("matplotlib.pyplot", f"{type(self).__name__}.plot")
            with styled():
                ax = pyplot.subplots()[1]
                self._draw(ax)
            return ax
        if not hasattr(ax, "set_xlabel"):
            raise TypeError(f"ax: {type(ax).__name__}; allowed: Axes of matplotlib, or None")
        self._draw(ax)
        return ax

    @abstractmethod
    def _draw(self, ax: Axes) -> None:
        """Draw into given axes."""


def short(value: Any) -> str:
    """A value in a few characters: six digits, arrays by shape and range, structures by name."""
    if isinstance(value, bool | np.bool_ | str | None):
        return repr(value) if isinstance(value, str) else str(value)
    if isinstance(value, int | np.integer):
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    if isinstance(value, np.ndarray):
        return _short_array(value)
    if isinstance(value, tuple | list):
        if value and isinstance(value[0], Mapping):
            return f"<{len(value)} rows>"
        parts = [short(part) for part in value[:LARGEST_SHOWN]]
        more = ["..."] if len(value) > LARGEST_SHOWN else []
        return f"({', '.join([*parts, *more])})"
    if isinstance(value, Described):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {short(part)}" for key, part in value.items()) + "}"
    if hasattr(value, "shape"):
        return f"<{' x '.join(map(str, value.shape))} {type(value).__name__}>"
    if isinstance(value, os.PathLike):
        return str(value)
    name = getattr(value, "name", None)
    return repr(name) if isinstance(name, str) else type(value).__name__


def _key(key: Any) -> str:
    """A key of a mapping on one line."""
    said = str(key)
    return said if said.isprintable() else repr(key)


def _short_array(value: np.ndarray[Any, Any]) -> str:
    if value.ndim == 1 and value.size <= LARGEST_SHOWN:
        return f"[{', '.join(short(part) for part in value.tolist())}]"
    shape = " x ".join(map(str, value.shape))
    if value.dtype.kind not in "biuf" or not 0 < value.size <= LARGEST_LISTED:
        return f"<{shape} array>"
    return f"<{shape} array from {value.min():.4g} to {value.max():.4g}>"


def plain(value: Any) -> Any:
    """A value for JSON: numbers that are not finite as None, arrays as lists."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Described):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, int | np.integer | np.bool_):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "shape"):
        entries = math.prod(value.shape)
        listed = hasattr(value, "tolist") and entries <= LARGEST_LISTED
        return plain(value.tolist()) if listed else {"shape": list(value.shape)}
    if isinstance(value, os.PathLike):
        return str(value)
    name = getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__
