"""Settings of an experiment: declared once, checked by that, and read from the command line."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from dro_core.checks import as_non_negative, as_positive_integer, unknown
from validation.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")
#: A number, or the name of another setting whose value is the bound.
Bound = float | str | None


@dataclass(frozen=True)
class Allowed(Generic[T]):
    """Which values a setting may have; the messages say what was given and what is allowed."""

    kind: type
    low: Bound = None
    above: Bound = None
    high: Bound = None
    below: Bound = None
    choices: Collection[str] = ()
    unset: T | None = None  #: this value is allowed in any case: it leaves the preset's
    zero: str = ""  #: what is said of zero where it is the one number >= 0 that is not allowed
    rule: tuple[Callable[[T], bool], str] | None = None  #: a further condition, in words too
    why: str = ""

    @property
    def relative(self) -> bool:
        """Whether another setting is a bound."""
        return any(isinstance(bound, str) for bound in self._bounds)

    @property
    def _bounds(self) -> tuple[Bound, Bound, Bound, Bound]:
        return self.low, self.above, self.high, self.below

    def check(self, config: Settings, name: str) -> None:
        """Refuse the value that the setting of that name has."""
        value, label = getattr(config, name), f"--set {name}"
        if self.unset is not None and value == self.unset:
            return
        if self.choices and value not in self.choices:
            raise UsageError(unknown(label, value, self.choices))
        if self.kind is int and (isinstance(self.low, str) or (self.low or 0) >= 1):
            as_positive_integer(value, label)
        if self.kind is float and self.low == 0 and self.high is None:
            as_non_negative(value, label)
        if self.zero and value == 0:
            raise UsageError(f"{label}: {self.zero}; allowed: a number > 0")
        if not self._inside(value, config):
            raise UsageError(f"{label}: {value}; allowed: {self._range(config)}{self.why}")
        if self.rule is not None and not self.rule[0](value):
            given = repr(value) if isinstance(value, str) else value
            raise UsageError(f"{label}: {given}; allowed: {self.rule[1]}")

    def _inside(self, value: float, config: Settings) -> bool:
        low, above, high, below = (_number(bound, config) for bound in self._bounds)
        return (
            (low is None or value >= low)
            and (above is None or value > above)
            and (high is None or value <= high)
            and (below is None or value < below)
        )

    def _range(self, config: Settings) -> str:
        """The bounds in words."""
        least = _words(self.low if self.above is None else self.above, config)
        if self.high is None and self.below is None:
            if self.kind is int and self.low == 0:
                return "an integer >= 0"
            if self.above == 0:
                return "a number > 0"
            return f"at least {least}" if self.above is None else f"above {least}"
        most = self.high if isinstance(self.high, str) else _words(self.high, config)
        if isinstance(self.above, str):
            return f"above {least}, at most {most}"
        if self.above is not None:
            return f"above {least}, to {most}"
        if self.low == 1:
            return f"at most {most}"
        return f"{least} to {most}" if most else f"{least} to below {_words(self.below, config)}"


def _number(bound: Bound, config: Settings) -> float | None:
    return float(getattr(config, bound)) if isinstance(bound, str) else bound


def _words(bound: Bound, config: Settings) -> str:
    if isinstance(bound, str):
        return f"{bound} ({getattr(config, bound)})"
    if bound is None:
        return ""
    return str(bound) if isinstance(bound, int) else f"{bound:g}".replace("e+0", "e")


def setting(
    default: T,
    meaning: str,
    *,
    low: Bound = None,
    above: Bound = None,
    high: Bound = None,
    below: Bound = None,
    choices: Collection[str] = (),
    unset: T | None = None,
    zero: str = "",
    rule: tuple[Callable[[T], bool], str] | None = None,
    why: str = "",
    folder: bool = False,
) -> T:
    """A field of an experiment's `Config`: its default, what it means, and what it may be.

    `low` and `high` are allowed themselves, `above` and `below` are not; a bound is a number or the
    name of another setting. `choices` are the allowed names, `rule` is a further condition with its
    words, `unset` the value that leaves the preset's. The `folder` of a machine is not published.
    """
    allowed = Allowed(type(default), low, above, high, below, choices, unset, zero, rule, why)
    field: T = dataclasses.field(
        default=default, metadata={"help": meaning, "allowed": allowed, "folder": folder}
    )
    return field


@dataclass(frozen=True)
class Settings:
    """An experiment's `Config` derives from this: every instance is checked."""

    def __post_init__(self) -> None:
        check(self)


def check(config: Settings) -> None:
    """Refuse a configuration that its declaration does not allow; bounds by name come last."""
    entries = [(field.name, field.metadata["allowed"]) for field in dataclasses.fields(config)]
    for relative in (False, True):
        for name, allowed in entries:
            if allowed.relative == relative:
                allowed.check(config, name)


def names(config: type[Settings]) -> list[str]:
    """The names of the settings."""
    return [field.name for field in dataclasses.fields(config)]


def described(config: type[Settings]) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every setting: what ``--set help`` prints."""
    return [
        (field.name, str(field.default), field.metadata["help"])
        for field in dataclasses.fields(config)
    ]


def without_folders(config: D) -> D:
    """The configuration without what only this machine knows; results are published with it."""
    local = {f.name: "" for f in dataclasses.fields(config) if f.metadata["folder"]}
    return dataclasses.replace(config, **local)


C = TypeVar("C", bound=Settings)


def configure(config: type[C], assignments: Sequence[str]) -> C:
    """The experiment's settings with ``name=value`` assignments applied."""
    types = {field.name: type(field.default) for field in dataclasses.fields(config)}
    changes: dict[str, bool | int | float | str] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise UsageError(f"--set {assignment}: the form is name=value")
        if name not in types:
            raise UsageError(unknown("--set, name of the setting", name, types))
        changes[name] = _parse(text, types[name], name)
    return config(**changes)


def _parse(text: str, kind: type, name: str) -> bool | int | float | str:
    try:
        if kind is float:
            value: bool | int | float | str = float(text)
        else:
            value = text if kind is str else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise UsageError(f"--set {name}: cannot read {text!r} as {kind.__name__}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"--set {name}: {text!r}; a finite number is needed")
    if type(value) is not kind:
        raise UsageError(
            f"--set {name}: {text!r} is {type(value).__name__}, but {kind.__name__} is needed"
        )
    return value


def of_kind(settings: object, kind: type[D]) -> D:
    """Settings of an experiment that has more of them than its family."""
    if not isinstance(settings, kind):
        given = f"{type(settings).__module__}.{type(settings).__name__}"
        raise TypeError(f"config: {given}; needed: {kind.__module__}.{kind.__name__}")
    return settings
