"""``python -m validation [NAME] [--out DIR] [--set name=value ...] [--peer-python PATH]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from validation.registry import EXPERIMENTS, Experiment, configure, load
from validation.results import check_table, table


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
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="the same as --set peer_python=PATH, where there is one",
    )
    options = parser.parse_args(arguments)
    if not options.name and (options.set or options.out):
        print("python -m validation: --set and --out need an experiment", file=sys.stderr)
        return 2
    if not options.name and options.peer_python is not None:
        print("python -m validation: --peer-python needs an experiment", file=sys.stderr)
        return 2
    if not options.name:
        print(
            table([("experiment", "what it shows"), *((n, load(n).summary) for n in EXPERIMENTS)])
        )
        print("\nSettings of each: python -m validation NAME --set help")
        return 0
    try:
        experiment = load(" ".join(options.name))
        if "help" in options.set:
            fields = dataclasses.fields(experiment.config)
            lines = [(f.name, str(f.default), f.metadata.get("help", "")) for f in fields]
            print(table([("setting", "default", "meaning"), *lines]))
            return 0
        if options.peer_python is not None:
            check_has_peers(experiment)
            options.set.append(f"peer_python={options.peer_python}")
        config = configure(experiment.config, options.set)
    except ValueError as error:
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    out = options.out or Path("results") / "-".join(options.name)
    try:
        checks = experiment.run(config, out)
    except ChildProcessError as error:  # a program that it calls cannot do its part
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    failed = [check for check in checks if not check.holds]
    print("\n" + check_table(checks))
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks hold. Written to {out}/")
    return 1 if failed else 0


def check_has_peers(experiment: Experiment) -> None:
    """Refuse ``--peer-python`` for an experiment that has no such setting."""

    def has(config: type[Any]) -> bool:
        return "peer_python" in {field.name for field in dataclasses.fields(config)}

    if not has(experiment.config):
        taking = [name for name in EXPERIMENTS if has(load(name).config)]
        raise ValueError(
            f"--peer-python: the experiment {experiment.name!r} runs no peers; "
            f"allowed for: {', '.join(taking)}"
        )


if __name__ == "__main__":
    sys.exit(main())
