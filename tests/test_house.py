"""The shape of the house: no import circles, nothing private across rooms, files of one subject."""

import ast
import statistics
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("dro_core", "dro_torch", "validation")
#: Lines of the longest file, and the median over the files of one floor.
LONGEST, MEDIAN = 600, 250


def files(floor):
    return sorted((ROOT / floor).rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for floor in FLOORS for path in files(floor)}


def imports(path):
    """(module, name) of every import in a file, those inside of functions included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def uses(path):
    """The project's modules that a file imports."""
    for module, name in imports(path):
        whole = f"{module}.{name}"
        found = whole if whole in MODULES else module
        if found in MODULES:
            yield found


def test_there_is_no_import_circle():
    graph = {name: set(uses(path)) - {name} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_floors_import_downwards_only():
    above = {"dro_core": ("dro_torch", "validation"), "dro_torch": ("validation",)}
    for name, path in MODULES.items():
        for used in uses(path):
            assert used.split(".")[0] not in above.get(name.split(".")[0], ()), (name, used)


def test_no_private_name_is_imported_across_modules():
    found = [
        f"{name}: from {module} import {imported}"
        for name, path in MODULES.items()
        for module, imported in imports(path)
        if module.split(".")[0] in FLOORS
        and (imported.startswith("_") or any(part.startswith("_") for part in module.split(".")))
        and not imported.startswith("__")
    ]
    assert not found, found


@pytest.mark.parametrize("floor", FLOORS)
def test_files_are_short(floor):
    lines = {path.relative_to(ROOT): path.read_text().count("\n") for path in files(floor)}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}
    assert statistics.median(lines.values()) <= MEDIAN


@pytest.mark.parametrize("floor", FLOORS)
def test_every_room_has_a_sign(floor):
    for path in (ROOT / floor).rglob("__init__.py"):
        sign = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert sum(sign.count(end) for end in (". ", ".\n")) + sign.endswith(".") >= 3, path
