"""Errors that are the user's to mend, and end the command line with status 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UsageError(ValueError):
    """A setting, a data file or an output folder is not what the experiment can work with."""


@contextmanager
def mendable(*kinds: type[Exception]) -> Iterator[None]:
    """Turn a library's errors of these kinds into usage errors with the same message.

    An experiment names the kinds that its data and folders can cause; every other error is a
    fault of the program and keeps its traceback.
    """
    try:
        yield
    except kinds as error:
        raise UsageError(str(error)) from error
