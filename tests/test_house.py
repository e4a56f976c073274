"""The shape of the house: no import circles, nothing private across rooms, files of one subject."""

import ast
import importlib
import inspect
import statistics
import subprocess
import sys
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
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")
    assert set(order) == set(MODULES)


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


#: Arguments that only have to act alike: networks, physics, criteria, and protocols of others.
ACT_ALIKE = {
    "model",
    "modules",
    "called",
    "forward",
    "physics",
    "criterion",
    "multiplier",
    "ctx",
    "inputs",
    "kwargs",
    "args",
    "parameters",
    "generator",
}  # what scikit-learn, deepinv and torch hand over
PUBLIC = (
    "dro_core",
    "dro_core.reference",
    "dro_core.noise",
    "dro_core.testing",
    "dro_core.radii",
    "dro_torch",
    "dro_torch.training",
    "dro_torch.transport_map",
    "dro_torch.metrics",
    "dro_torch.tomography",
    "dro_torch.physics",
    "dro_torch.data",
    "dro_torch.nets",
    "dro_torch.lipschitz",
)


def public_functions():
    """(name, function) of what is exported, and the public methods of exported classes."""
    for place in PUBLIC:
        module = importlib.import_module(place)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isclass(value):
                for key, member in vars(value).items():
                    if inspect.isfunction(member) and (
                        not key.startswith("_") or key == "__init__"
                    ):
                        yield f"{place}.{name}.{key}", member
            elif inspect.isfunction(value):
                yield f"{place}.{name}", value


def test_public_signatures_say_what_they_take():
    pytest.importorskip("torch", reason="dro_torch is looked at too")
    found = set()
    for name, function in public_functions():
        if function.__module__.split(".")[0] not in FLOORS:
            continue
        for argument, kind in inspect.get_annotations(function).items():
            if argument not in ACT_ALIKE and str(kind) in ("Any", "Any | None", "typing.Any"):
                found.add(f"{name}({argument})")
    assert not found, sorted(found)


def test_the_tests_of_the_core_are_collected_without_torch():
    """What `tests/core.txt` leaves over, on an installation that has no torch."""
    code = """
import sys, pytest
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Without())
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""
    left_out = (ROOT / "tests" / "core.txt").read_text().split()
    done = subprocess.run(
        [sys.executable, "-c", code, *left_out, "tests"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
