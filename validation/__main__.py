"""``python -m validation [NAME] [--out DIR] [--set name=value ...] [--preset NAME] ...``.

``python -m validation benchmarks compare OLD NEW`` tells two stored runs apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dro_core.optional import EXTRAS, missing, needed
from validation.errors import UsageError
from validation.registry import EXPERIMENTS, Experiment, load, summary
from validation.results import check_table, table
from validation.settings import configure, described, names

#: Extras that come with the extra `validation`.
IN_VALIDATION = ("plot", "reference", "transport", "validation")
#: Options that are the same as ``--set NAME=VALUE``, and what they are.
SHORTCUTS = {
    "peer-python": "interpreter of the peers' environment",
    "preset": "size of the experiment, where there are several",
    "task": "which of the experiment's tasks",
    "data": "data root, otherwise the environment variable DRO_DATA",
    "only": "which experiments of the queue, separated by commas",
    "hours": "time after which the queue stops",
    "jobs": "arms that are trained side by side",
    "seconds": "time in all",
    "device": "torch device",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one experiment, or list them all; 0 if every check holds, 1 if one fails, 2 on misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m validation",
        description="Run an experiment and check its claims. Without a name: list the experiments.",
    )
    parser.add_argument("name", nargs="*", help="the experiment, for instance: section5")
    parser.add_argument("--out", type=Path, help="folder for tables and figures [results/NAME]")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting"
    )
    for name, meaning in SHORTCUTS.items():
        parser.add_argument(f"--{name}", help=f"{meaning}; as --set {_setting(name)}=...")
    parser.add_argument(
        "--plan",
        action="store_const",
        const="True",
        help="print arms, steps and minutes, and run nothing; as --set plan=True",
    )
    options = parser.parse_args(arguments)
    if not options.name and (options.set or options.out):
        print("python -m validation: --set and --out need an experiment", file=sys.stderr)
        return 2
    given = {name: vars(options)[_setting(name)] for name in (*SHORTCUTS, "plan")}
    given = {name: value for name, value in given.items() if value is not None}
    if not options.name and given:
        print(f"python -m validation: --{next(iter(given))} needs an experiment", file=sys.stderr)
        return 2
    if not options.name:
        print(table([("experiment", "what it shows"), *((n, summary(n)) for n in EXPERIMENTS)]))
        print("\nSettings of each: python -m validation NAME --set help")
        return 0
    if options.name[:2] == ["benchmarks", "compare"]:
        from validation.benchmarks.headline import compare

        return compare(options.name[2:])
    name = " ".join(options.name)
    out = options.out or Path("results") / "-".join(options.name)
    try:
        return _run(name, out, options.set, given)
    except KeyboardInterrupt:
        print(
            f"\npython -m validation: {name} was interrupted; what it finished is in {out}/",
            file=sys.stderr,
        )
        return 130
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        extra = "validation" if EXTRAS[package][1] in IN_VALIDATION else None
        print(f"python -m validation: {missing(package, name, extra)}", file=sys.stderr)
        return 2


def _run(name: str, out: Path, assignments: list[str], given: dict[str, str]) -> int:
    """One experiment with `NAME=VALUE` assignments and the shortcuts given; its exit status."""
    try:
        experiment = load(name)
        if "help" in assignments:
            print(table([("setting", "default", "meaning"), *described(experiment.config)]))
            return 0
        for option, value in given.items():
            check_has_setting(experiment, option)
            assignments = [*assignments, f"{_setting(option)}={value}"]
        config = configure(experiment.config, assignments)
    except ValueError as error:  # usage errors, and what the library says of settings
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    if experiment.draws:
        needed("matplotlib", name)  # now, not after the work
    try:
        checks = experiment.run(config, out)
    except (UsageError, ChildProcessError, FileNotFoundError) as error:
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    if not checks:  # a plan: nothing was run or written
        return 0
    failed = [check for check in checks if not check.holds]
    print("\n" + check_table(checks))
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks hold. Written to {out}/")
    return 1 if failed else 0


def _setting(option: str) -> str:
    return option.replace("-", "_")


def _settings_of(name: str) -> Sequence[str]:
    """Names of an experiment's settings; none if what it needs is not installed."""
    try:
        return names(load(name).config)
    except ModuleNotFoundError:
        return ()


def check_has_setting(experiment: Experiment, option: str) -> None:
    """Refuse a shortcut for an experiment that has no such setting."""
    if _setting(option) not in names(experiment.config):
        taking = [name for name in EXPERIMENTS if _setting(option) in _settings_of(name)]
        raise UsageError(
            f"--{option}: the experiment {experiment.name!r} has no setting "
            f"{_setting(option)!r}; allowed for: {', '.join(taking) or 'none'}"
        )


if __name__ == "__main__":
    sys.exit(main())
