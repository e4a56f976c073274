"""From the command line to an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dro_core.cli.arguments import parser
from dro_core.cli.commands import COMMANDS

#: What wrong input raises.
FAULTS = (ValueError, TypeError, ArithmeticError, OSError, ImportError, MemoryError)


def main(line: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    line : sequence of str, optional
        Default: the arguments of the process.

    Returns
    -------
    int
        Zero, or two for wrong input and 130 for Ctrl-C, with one line on stderr.
    """
    words = list(sys.argv[1:] if line is None else line)
    given = parser().parse_args(words)
    try:
        answer = COMMANDS[given.command](given, words)
    except KeyboardInterrupt:
        print("structured-dro: interrupted; nothing was written", file=sys.stderr)
        return 130
    except FAULTS as error:
        if given.traceback:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"structured-dro: error: {text}", file=sys.stderr)
        return 2
    print(answer)
    return 0
