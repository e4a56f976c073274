"""Where a training is kept, and what it took over all the runs that went on with it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from validation.results import write_json

#: File with the seconds.
CLOCK = "seconds.json"


def stored(out: Path, name: str, described: Mapping[str, object]) -> Path:
    """The folder of a training: its name, and a digest of what it depends on."""
    text = json.dumps({key: str(value) for key, value in described.items()}, sort_keys=True)
    return out / "arms" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of the processor; reading a finished training adds nothing."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  #: of all threads; NaN if a part was not recorded
    finished: bool = False


def spent(folder: Path) -> Spent:
    """What is written in a training's folder; zeros before it began."""
    path = folder / CLOCK
    if not path.exists():
        return Spent()
    found = json.loads(path.read_text())
    wall, processor = (float(found.get(name, math.nan)) for name in ("seconds", "cpu_seconds"))
    return Spent(wall, processor, bool(found.get("finished", False)))


@contextmanager
def clocked(folder: Path) -> Iterator[Callable[[], None]]:
    """Add what is spent inside to what is written, however it ends; call what is given at the end.

    Interrupted trainings go on in a later call, whose seconds are added.
    """
    before, ended = spent(folder), False
    wall, processor = time.perf_counter(), time.process_time()

    def finish() -> None:
        nonlocal ended
        ended = True

    try:
        yield finish
    finally:
        if not before.finished:
            seconds = before.seconds + time.perf_counter() - wall
            cpu = before.cpu_seconds + time.process_time() - processor
            write_json(folder / CLOCK, Spent(seconds, cpu, ended))
