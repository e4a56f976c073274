"""How many threads linear algebra may use: one, where many small products run.

Two threads that meet after every product of a few hundred rows spend their time waiting for each
other, the more the busier the machine is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def single_threaded(entries: int, limit: int) -> AbstractContextManager[Any]:
    """A context in which BLAS uses one thread, if arrays have at most `limit` entries.

    The numbers of threads before are restored after it.
    """
    return _controller().limit(limits=1, user_api="blas") if entries <= limit else nullcontext()
