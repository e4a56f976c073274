"""The evidence queue: what is missing of the learned experiments, in order of value.

Every experiment runs as a command of its own (`--preset desk`, two arms side by side), from a copy
of the committed code, so that editing does not disturb it. It stops at the hour or at Ctrl-C,
goes on from the checkpoints when called again, and ends with the table of all claims. Finished
tables and figures are copied into the folder of results.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from validation import claims
from validation.errors import UsageError
from validation.plan import compared
from validation.results import Check, at_least, table, write_json
from validation.settings import Settings, setting
from validation.tables import with_band

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Entry:
    """An experiment of the queue: its command, its settings, and the folder of its results."""

    experiment: str
    folder: str
    settings: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """What it writes last, in its folder."""
        return f"{self.folder}/{self.experiment.split()[-1]}.json"


#: Experiments in order of value.
QUEUE = {
    "mnist deblurring": Entry("mnist deblurring", "deblurring"),
    "mnist misspecified": Entry("mnist misspecified", "misspecified"),
    "mnist simulator": Entry("mnist simulator", "simulator"),
    "mnist joint": Entry("mnist joint", "joint"),
    "mnist radii": Entry("mnist radii", "radii"),
    "frontier weighted": Entry("frontier weighted", "frontier-weighted"),
    "mnist onset": Entry("mnist onset", "onset", ("radius=2", "seeds=1")),
    "frontier isotropic": Entry("frontier isotropic", "frontier-isotropic"),
    "cifar10": Entry("cifar10", "cifar10"),
    "isum levels": Entry(
        "isum", "isum-levels", ("task=deblur", "comparisons=levels,imbalance", "seeds=1")
    ),
    "isum deblur": Entry("isum", "isum-deblur", ("task=deblur", "kid=200")),
    "isum starvation": Entry(
        "isum", "isum-starvation", ("task=deblur", "comparisons=starvation", "seeds=1")
    ),
    "ct": Entry("ct", "ct"),
    "isum sr": Entry("isum", "isum-sr", ("task=sr", "kid=200")),
    "isum fixed scale": Entry(
        "isum", "isum-fixed-scale", ("task=deblur", "comparisons=paper-scale", "seeds=1")
    ),
    "isum drift": Entry(
        "isum", "isum-drift", ("task=deblur", "comparisons=main", "seeds=1", "kid=200")
    ),
    "isum early stop": Entry(
        "isum", "isum-early-stop", ("task=deblur", "comparisons=main", "seeds=1", "patience=2")
    ),
    "isum nonlinear from linear": Entry(
        "isum",
        "isum-nonlinear-from-linear",
        ("task=nonlinear", "comparisons=from-linear", "seeds=1"),
    ),
    "isum hdr from linear": Entry(
        "isum", "isum-hdr-from-linear", ("task=hdr", "comparisons=from-linear", "seeds=1")
    ),
    "isum deblur from linear": Entry(
        "isum", "isum-deblur-from-linear", ("task=deblur", "comparisons=from-linear")
    ),
    "isum sr from linear": Entry(
        "isum", "isum-sr-from-linear", ("task=sr", "comparisons=from-linear")
    ),
    "isum caltech101": Entry(
        "isum",
        "isum-caltech101",
        (
            "task=deblur",
            "dataset=caltech101",
            "comparisons=main,from-linear",
            "seeds=1",
            "steps=500",
            "factors=0.1",
        ),
    ),
    "isum hdr": Entry("isum", "isum-hdr", ("task=hdr", "seeds=1")),
    "isum nonlinear": Entry("isum", "isum-nonlinear", ("task=nonlinear", "seeds=1")),
    "isum sr levels": Entry("isum", "isum-sr-levels", ("task=sr", "comparisons=levels", "seeds=1")),
    "isum blind levels": Entry(
        "isum", "isum-blind-levels", ("task=deblur", "comparisons=blind-levels", "seeds=1")
    ),
    "isum sr fixed scale": Entry(
        "isum", "isum-sr-fixed-scale", ("task=sr", "comparisons=paper-scale", "seeds=1")
    ),
}
#: What is published: numbers and figures, not checkpoints.
PUBLISHED = (".csv", ".json", ".svg")


@dataclass(frozen=True)
class Config(Settings):
    """What runs, for how long, and where."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    only: str = setting("", "experiments to run, separated by commas; default: all")
    preset: str = setting("desk", "size of the experiments")
    hours: float = setting(24.0, "stop after this time; a later call goes on", above=0)
    jobs: int = setting(2, "arms that are trained side by side", low=1)
    results: str = setting(
        "docs/results", "folder in which finished results are published", folder=True
    )
    freeze: bool = setting(True, "run a copy of the last commit instead of the working tree")
    plan: bool = setting(False, "print arms, steps and expected minutes, and run nothing")


@dataclass(frozen=True)
class Place:
    """Where an experiment runs and what made it."""

    code: Path
    commit: str
    out: Path


def chosen(only: str) -> list[str]:
    """The experiments asked for, in the order of the queue."""
    asked = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in QUEUE]
    if unknown:
        raise UsageError(f"--set only: {unknown[0]!r}; allowed: {', '.join(QUEUE)}")
    return [name for name in QUEUE if not asked or name in asked]


def frozen(out: Path, freeze: bool) -> Place:
    """A copy of the last commit under `out`, or the working tree itself."""

    def git(*arguments: str, where: Path = ROOT) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=where, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    if not freeze or not commit:
        return Place(ROOT, commit or "not from a repository", out)
    code = out / "code" / commit
    if not (code / "validation").exists():
        code.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=code.parent))  # another queue may make the same copy
        git("clone", "--quiet", str(ROOT), str(part), where=out)
        try:
            part.rename(code)
        except OSError:  # the other was first
            shutil.rmtree(part, ignore_errors=True)
    if not git("rev-parse", "HEAD", where=code).startswith(commit):
        raise UsageError(f"--set freeze: no copy of the code at {code}; remove that folder")
    return Place(code, commit, out)


def command(name: str, config: Config, place: Place) -> list[str]:
    """What runs one experiment."""
    settings = {
        "preset": config.preset,
        "jobs": str(config.jobs),
        "models": str((place.out / "models").resolve()),
    }
    if config.data:
        settings["data"] = str(Path(config.data).resolve())
    if config.plan:
        settings["plan"] = "True"
    listed = [f"--set={key}={value}" for key, value in settings.items()]
    entry = QUEUE[name]
    listed += [f"--set={setting}" for setting in entry.settings]
    folder = (place.out / entry.folder).resolve()
    words = entry.experiment.split()
    return [sys.executable, "-m", "validation", *words, "--out", str(folder), *listed]


def run_until(arguments: Sequence[str], code: Path, deadline: float) -> int | None:
    """The exit status of a command, or None if it was interrupted at the deadline.

    It is asked to stop as Ctrl-C would, and then has a minute to write its checkpoints.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
    process = subprocess.Popen(
        arguments, cwd=code, env=environment, start_new_session=True, preexec_fn=_give_way
    )
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def _give_way() -> None:
    """Low priority: other work on the machine comes first."""
    os.nice(10)


def results_file(name: str, folder: Path) -> Path:
    """The file that an experiment writes last."""
    return folder / QUEUE[name].file


def publish(name: str, place: Place, results: Path) -> None:
    """Copy the numbers and figures of a finished experiment, and write the page of claims anew."""
    source, target = (folder / QUEUE[name].folder for folder in (place.out, results))
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.suffix in PUBLISHED:
            shutil.copyfile(path, target / path.name)
    (results / "claims.md").write_text(claims_page(results))
    if (results.parent / claims.TABLE).exists():
        (results.parent / claims.PAGE).write_text(claims.page(results.parent))


def claims_page(results: Path) -> str:
    """Every claim in a line: number, verdict, scale, and where it comes from."""
    lines = [
        f"# Claims at `{results.name}`",
        "",
        "Written by `python -m validation evidence`. A number is the mean over the seeds, its band "
        "the standard deviation over",
        "seeds and test subsets; the linked files give the command, the settings and the commit.",
        "",
        "| experiment | claim | number | verdict |",
        "|---|---|---|---|",
    ]
    for name, claim, number, verdict in claims_of(results):
        link = f"[{name}]({QUEUE[name].file})" if claim != "-" else name
        lines.append(f"| {link} | {claim} | {number} | {verdict} |")
    return "\n".join(lines) + "\n"


def claims_of(results: Path) -> Iterator[tuple[str, str, str, str]]:
    """(experiment, claim, number, verdict) of everything that was published."""
    for name in QUEUE:
        path = results_file(name, results)
        if not path.exists():
            yield name, "-", "-", "not run yet"
            continue
        for claim in json.loads(path.read_text())["claims"]:
            number = with_band(float(claim["value"]), float(claim["band"]))
            yield name, claim["claim"], number, claim["verdict"]


def costs_of(results: Path) -> Iterator[tuple[str, str, str, str]]:
    """(experiment, planned minutes, minutes taken, their ratio) of what recorded both."""
    for name in QUEUE:
        path = results_file(name, results)
        rows = json.loads(path.read_text()).get("cost", []) if path.exists() else []
        planned, taken = compared(rows)
        if planned and taken:
            yield name, f"{planned:.1f}", f"{taken:.1f}", f"{taken / planned:.2f}"


def run(config: Config, out: Path) -> list[Check]:
    """Run what is missing; the check says whether everything asked for has been run."""
    names = chosen(config.only)
    place = frozen(out.resolve(), config.freeze)
    results = Path(config.results).resolve() / config.preset
    deadline = time.monotonic() + 3600 * config.hours
    finished = 0
    for name in names:
        written = results_file(name, place.out)
        if written.exists() and not config.plan:
            publish(name, place, results)
            finished += 1
            continue
        print(f"\n== {name}", flush=True)
        status = run_until(command(name, config, place), place.code, deadline)
        if status is None:
            print("the time is over; the same command goes on from the checkpoints")
            break
        if config.plan:
            continue
        if written.exists():  # whether its claims hold or not
            write_json(written.with_name("made_by.json"), {"commit": place.commit})
            publish(name, place, results)
            finished += 1
        else:
            print(f"{name}: ended with status {status} and wrote no results")
    if config.plan:
        return []
    print("\n" + table([("experiment", "claim", "number", "verdict"), *claims_of(results)]))
    columns = "experiment", "planned minutes of one core", "minutes taken", "taken / planned"
    print("\n" + table([columns, *costs_of(results)]))
    return [at_least("experiments that have been run, share", finished / len(names), 1.0)]
