"""``python -m validation [NAME] [--out DIR] [--set name=value ...]``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from validation.registry import EXPERIMENTS, configure, load
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
    options = parser.parse_args(arguments)
    if not options.name and (options.set or options.out):
        print("python -m validation: --set and --out need an experiment", file=sys.stderr)
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
        config = configure(experiment.config, options.set)
    except ValueError as error:
        print(f"python -m validation: {error}", file=sys.stderr)
        return 2
    out = options.out or Path("results") / "-".join(options.name)
    checks = experiment.run(config, out)
    failed = [check for check in checks if not check.holds]
    print("\n" + check_table(checks))
    print(f"\n{len(checks) - len(failed)} of {len(checks)} checks hold. Written to {out}/")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
