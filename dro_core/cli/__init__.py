"""The command ``structured-dro``: files in, a report out.

`main` is the entry point of the wheel; ``python -m dro_core`` does the same. Names on the command
line become arrays (`files`) and maps (`maps`), one call of the library answers (`commands`). What
is wrong with the input is one line on stderr and the exit status 2; nothing is left half-written.
Above: nobody. Below: `dro_core.auditing`.
"""

from dro_core.cli.main import main

__all__ = ["main"]
