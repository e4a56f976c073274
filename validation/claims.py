"""Every claim of both papers in a line: our number, the verdict, the scale, where it comes from.

`docs/results/claims.toml` says for each claim what decides it: a check or claim of a stored result,
a theorem of `docs/theorems.toml` with its tests, or, where the paper contradicts itself, what was
found. The page `docs/results/claims.md` is made from that and the stored results, and from nothing
else. Exact results are stored by ``--set run=section5,twist,...``.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from validation.errors import UsageError
from validation.registry import EXPERIMENTS, load
from validation.results import Check, at_most, provenance, table, write_json
from validation.settings import Settings, setting, without_folders
from validation.tables import with_band

ROOT = Path(__file__).parent.parent
#: The table of claims and the page, in the folder of results; where exact results are stored.
TABLE, PAGE, EXACT = "claims.toml", "claims.md", "exact"
#: What a line is written from; every claim has one of these.
DECIDED_BY = ("result", "theorem", "finding", "pending")
HEADER = """# Claims

Written by `python -m validation claims` from the stored results; the links lead to the numbers
with their command, settings and versions. *Exact*: a theorem with its test, or a computation whose
checks are listed. `desk`: trained on two cores, the mean over the seeds ± a band over seeds and
test subsets; *undecided* where that reaches over the end of the allowed range. *Not run yet*: what
it waits for.
"""
PAPERS = {
    "DRO": "A distributionally robust framework for learned reconstructions in inverse problems",
    "ISUM": "ISUM: inverse problem solver via unbalanced optimal transport map",
}


@dataclass(frozen=True)
class Config(Settings):
    """Where the results are."""

    results: str = setting("docs/results", "folder of results with claims.toml", folder=True)
    run: str = setting("", "exact experiments to run and store anew, separated by commas")


@dataclass(frozen=True)
class Line:
    """A line of the page."""

    paper: str
    where: str
    claim: str
    number: str
    verdict: str
    scale: str
    link: str


class Decided:
    """What decides the claims of a table, from stored results alone."""

    def __init__(self, results: Path, theorems: Path = ROOT / "docs" / "theorems.toml") -> None:
        self.results, self._theorems = results, theorems
        self._files: dict[str, dict[str, Any] | None] = {}

    @cached_property
    def theorems(self) -> set[str]:
        """The statements that are listed with a function and a test."""
        listed = tomllib.loads(self._theorems.read_text())["theorem"]
        return {entry["statement"] for entry in listed}

    def lines(self) -> Iterator[Line]:
        """A line per claim, in the order of the table."""
        for entry in tomllib.loads((self.results / TABLE).read_text())["claim"]:
            where = f"{entry.get('claim', '?')!r} in {TABLE}"
            kinds = [kind for kind in DECIDED_BY if kind in entry]
            if len(kinds) != 1 or entry.get("paper") not in PAPERS:
                raise UsageError(
                    f"{where}: it needs a paper ({', '.join(PAPERS)}) and one of "
                    f"{', '.join(DECIDED_BY)}"
                )
            said = {key: entry[key] for key in ("paper", "where", "claim")}
            yield Line(**said, **getattr(self, f"_{kinds[0]}")(entry, where))

    def _result(self, entry: Mapping[str, str], where: str) -> dict[str, str]:
        """A check or a claim of a stored file; a check that refutes the claim is turned round."""
        name = entry["result"]
        found = self._file(name)
        if found is None:
            command = "evidence"
            if name.startswith(f"{EXACT}/"):
                command = f"claims --set run={Path(name).stem}"
            return self._pending({"pending": f"`python -m validation {command}`"}, where)
        listed = [*found.get("claims", []), *found["checks"]]
        same = [row for row in listed if row["claim"] == entry["check"]]
        if not same:
            raise UsageError(f"{where}: {name} has no check {entry['check']!r}")
        return {
            "number": number(same[0]),
            "verdict": opposite(verdict(same[0])) if "refutes" in entry else verdict(same[0]),
            "scale": scale(found),
            "link": f"[{Path(name).stem}]({name})",
        }

    def _theorem(self, entry: Mapping[str, str], where: str) -> dict[str, str]:
        if entry["theorem"] not in self.theorems:
            raise UsageError(f"{where}: docs/theorems.toml has no {entry['theorem']!r}")
        return {
            "number": entry.get("number", "–"),
            "verdict": "holds",
            "scale": "exact, tested",
            "link": "[theorems](../theorems.md)",
        }

    def _finding(self, entry: Mapping[str, str], where: str) -> dict[str, str]:
        return {
            "number": entry["finding"],
            "verdict": entry["verdict"],
            "scale": "reading",
            "link": entry["link"],
        }

    def _pending(self, entry: Mapping[str, str], where: str) -> dict[str, str]:
        nothing = {"number": "–", "verdict": "not run yet", "scale": "–"}
        return {**nothing, "link": entry["pending"]}

    def _file(self, name: str) -> dict[str, Any] | None:
        if name not in self._files:
            path = self.results / name
            self._files[name] = json.loads(path.read_text()) if path.exists() else None
        return self._files[name]


def number(row: Mapping[str, Any]) -> str:
    """A stored number with its band and what is allowed."""
    value = f"{float(row['value']):.4g}"
    if "limit" in row:
        sign = {"<=": "≤", ">=": "≥"}[row["comparison"]]
        return f"{value} ({sign} {float(row['limit']):.4g})"
    low, high = float(row["low"]), float(row["high"])
    allowed = f"≤ {high:g}" if math.isinf(low) else f"≥ {low:g}"
    if math.isfinite(low) and math.isfinite(high):
        allowed = f"{low:g} to {high:g}"
    return f"{with_band(float(row['value']), float(row['band']))} ({allowed})"


def verdict(row: Mapping[str, Any]) -> str:
    """That of a claim; of a check, whether it holds."""
    if "verdict" in row:
        return str(row["verdict"])
    check = Check(row["claim"], float(row["value"]), row["comparison"], float(row["limit"]))
    return "holds" if check.holds else "does not hold"


def opposite(word: str) -> str:
    """The verdict on a claim from the one on its opposite."""
    return {"holds": "does not hold", "does not hold": "holds"}.get(word, word)


def scale(found: Mapping[str, Any]) -> str:
    """Preset, seeds and device of what was trained."""
    preset = found["config"].get("preset")
    if preset is None:
        return "exact"
    words = [f"`{preset}`"]
    # where one map of several seeds is judged as a whole, its sizes say how many
    seeds = found.get("size", {}).get("seeds") or len(found.get("trainings", ()))
    if seeds:  # not in files of before they were kept
        words.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    return ", ".join([*words, str(found.get("device", "CPU"))])


def page(results: Path) -> str:
    """The page of a folder of results."""
    lines, text = list(Decided(results).lines()), [HEADER]
    for paper, title in PAPERS.items():
        text += [f"## {title}", "", "| | claim | number | verdict | scale | from |"]
        text += ["|---|---|---|---|---|---|"]
        for one in lines:
            if one.paper == paper:
                cells = one.where, one.claim, one.number, one.verdict, one.scale, one.link
                text.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        text.append("")
    return "\n".join(text)


def store(name: str, checks: list[Check], config: Settings, results: Path) -> None:
    """The checks of an exact experiment, with what made them."""
    made = provenance(name, without_folders(config))
    write_json(results / EXACT / f"{name}.json", {**made, "checks": checks})


def run(config: Config, out: Path) -> list[Check]:
    """Run what is asked for, write the page; the check counts claims that do not hold."""
    results = Path(config.results)
    if not (results / TABLE).exists():
        raise UsageError(f"--set results: no {TABLE} in {results}")
    for name in filter(None, (word.strip() for word in config.run.split(","))):
        if name not in EXPERIMENTS or name == "claims":
            raise UsageError(f"--set run: {name!r}; allowed: names of exact experiments")
        experiment = load(name)
        settings = experiment.config()
        store(name, experiment.run(settings, out / name), settings, results)
    (results / PAGE).write_text(page(results))
    lines = list(Decided(results).lines())
    counted: dict[str, int] = {}
    for line in lines:
        counted[line.verdict] = counted.get(line.verdict, 0) + 1
    print(table([("verdict", "claims"), *((k, str(v)) for k, v in counted.items())]))
    return [at_most("claims without a verdict", sum(not line.verdict for line in lines), 0)]
