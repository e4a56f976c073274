"""How often a loss checks the values that it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from dro_core.checks import check_option
from dro_torch.host import CHECKS, CLOSE, NEVER, Attention, Checks, attending, seldom

Own = TypeVar("Own", bound="CheckedLoss")
Arguments = ParamSpec("Arguments")


class CheckedLoss(nn.Module):
    """A loss with a switch for the checks of values; shapes and types are always checked.

    Parameters
    ----------
    checks : {"first", "always", "never"}, optional
        Without it in every call, or as `dro_torch.training.fit` says.
    """

    def __init__(self, checks: Checks | None) -> None:
        super().__init__()
        if checks is not None:
            check_option(checks, "checks", CHECKS)
        self.checks = checks
        self._checked: set[str] = set()

    def _attention(self, call: str) -> Attention:
        if self.checks == "never":
            return NEVER
        return CLOSE if self.checks == "always" or call not in self._checked else seldom()


def checked(
    call: Callable[Concatenate[Own, Arguments], Tensor],
) -> Callable[Concatenate[Own, Arguments], Tensor]:
    """A call of a loss, under the attention that its `checks` asks for."""

    @functools.wraps(call)
    def attentive(self: Own, /, *arguments: Arguments.args, **named: Arguments.kwargs) -> Tensor:
        if self.checks is None or torch.compiler.is_compiling():
            return call(self, *arguments, **named)
        with attending(self._attention(call.__name__)):
            value = call(self, *arguments, **named)
        self._checked.add(call.__name__)
        return value

    return attentive
