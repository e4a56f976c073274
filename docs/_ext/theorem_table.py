"""The table *theorem -> function -> test*, which fails the build when an entry dangles.

``theorems.toml`` lists the statements; every `function` must import, every `test` must be a test
function of the suite. The checks are plain functions, so that the suite runs them too.
"""

from __future__ import annotations

import ast
import importlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent


def entries(path: Path = DOCS / "theorems.toml") -> list[dict[str, Any]]:
    """The statements, each with keys statement, source, functions, tests."""
    listed: list[dict[str, Any]] = tomllib.loads(path.read_text())["theorem"]
    return listed


def resolve(dotted: str) -> Any:
    """The object of a dotted name, or None if there is none."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            if not hasattr(found, name):
                return None
            found = getattr(found, name)
        return found
    return None


def is_test(node: str, root: Path = ROOT) -> bool:
    """Whether ``tests/test_x.py::test_y`` is a test function of the suite."""
    file, _, name = node.partition("::")
    path = root / file
    return path.is_file() and name.startswith("test_") and name in functions_of(path)


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Names of the functions that a file defines."""
    tree = ast.parse(path.read_text())
    return frozenset(item.name for item in tree.body if isinstance(item, ast.FunctionDef))


def dangling(listed: list[dict[str, Any]]) -> list[str]:
    """What is wrong with the table, one line each."""
    problems = []
    for entry in listed:
        where = f"theorems.toml, {entry.get('statement', '?')!r}"
        for key in ("statement", "source", "functions", "tests"):
            if not entry.get(key):
                problems.append(f"{where}: no {key}")
        for function in entry.get("functions", []):
            found = resolve(function)
            if found is None:
                problems.append(f"{where}: function {function} does not exist")
            elif not getattr(found, "__doc__", None):
                problems.append(f"{where}: function {function} has no docstring")
        problems += [
            f"{where}: test {test} does not exist"
            for test in entry.get("tests", [])
            if not is_test(test)
        ]
    return problems


def setup(app: Any) -> dict[str, Any]:
    """Register the directive ``theorem-table``."""
    from docutils import nodes
    from docutils.parsers.rst import Directive
    from docutils.statemachine import StringList
    from sphinx.errors import ExtensionError

    class TheoremTable(Directive):
        """The table itself."""

        def run(self) -> list[Any]:
            listed = entries()
            problems = dangling(listed)
            if problems:
                raise ExtensionError("the theorem table dangles:\n  " + "\n  ".join(problems))
            lines = [".. list-table::", "   :header-rows: 1", "   :widths: 36 16 24 24", ""]
            rows = [("Statement", "Source", "Function", "Test")]
            for entry in listed:
                functions = ", ".join(f":py:obj:`{name}`" for name in entry["functions"])
                tests = ", ".join(f"``{test.removeprefix('tests/')}``" for test in entry["tests"])
                rows.append((entry["statement"], entry["source"], functions, tests))
            for row in rows:
                lines += [f"   {'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(row)]
            container = nodes.container()
            self.state.nested_parse(StringList(lines, "theorems.toml"), 0, container)
            return [container]

    app.add_directive("theorem-table", TheoremTable)
    return {"version": "1", "parallel_read_safe": True}
