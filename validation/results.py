"""Tables and checks: written atomically, with what made them."""

from __future__ import annotations

import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Distributions whose versions every result records.
RECORDED = ("numpy", "scipy", "POT", "cvxpy", "clarabel", "highspy", "matplotlib")


@dataclass(frozen=True)
class Check:
    """One claim: the number seen, how it must compare with a limit, and whether it does."""

    claim: str
    value: float
    comparison: str  # "<=" or ">="
    limit: float

    @property
    def holds(self) -> bool:
        """Whether the claim holds; never for NaN."""
        return self.value <= self.limit if self.comparison == "<=" else self.value >= self.limit


def at_most(claim: str, value: float, limit: float) -> Check:
    """A claim that `value` <= `limit`."""
    return Check(claim, float(value), "<=", limit)


def at_least(claim: str, value: float, limit: float) -> Check:
    """A claim that `value` >= `limit`."""
    return Check(claim, float(value), ">=", limit)


def provenance(experiment: str, config: Any) -> dict[str, Any]:
    """What made a result: experiment, settings, versions, interpreter."""
    from dro_core import __version__

    versions = {"structured-dro": __version__}
    for name in RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    settings = dataclasses.asdict(config)
    command = f"python -m validation {experiment}"
    for name, value in settings.items():
        command += f" --set {name}={value}"
    return {
        "experiment": experiment,
        "command": command,
        "config": settings,
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path: Path, data: Any) -> None:
    """JSON, with non-finite numbers as strings so that every reader can parse it."""
    write_bytes(path, (json.dumps(_jsonable(data), indent=2) + "\n").encode())


def _jsonable(data: Any) -> Any:
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return _jsonable(dataclasses.asdict(data))
    if isinstance(data, dict):
        return {key: _jsonable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_jsonable(value) for value in data]
    if hasattr(data, "tolist"):
        return _jsonable(data.tolist())
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as CSV, floats with all their digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def table(rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns; the first row is the header."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def check_table(checks: Sequence[Check]) -> str:
    """The closing table of an experiment."""
    rows = [("check", "number", "", "limit", "holds")]
    for check in checks:
        rows.append(
            (
                check.claim,
                f"{check.value:.6g}",
                check.comparison,
                f"{check.limit:.6g}",
                "yes" if check.holds else "NO",
            )
        )
    return table(rows)


def progress(items: Sequence[Any] | None, label: str) -> Any:
    """A progress bar on standard error, around items or to be updated by hand.

    It prints when that is not a terminal too: a log should show that a long run is alive.
    """
    from tqdm import tqdm

    return tqdm(items, desc=label, file=sys.stderr, mininterval=0.5)
