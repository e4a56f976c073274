"""What an installation promises: extras, versions, addresses, and imports."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import extras
import pytest

import dro_core
from dro_core.optional import EXTRAS, installed, missing, needed

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Declared minima that no environment of the tests has, see constraints-oldest.txt.
UNTESTED = {"torch"}
#: What every installation of a floor has.
BASE = {"dro_core": {"numpy", "scipy", "threadpoolctl"}}
BASE["dro_torch"] = BASE["dro_core"] | {"torch", "dro_core"}
#: Imports of a package by the package itself, or behind an error that names the extra.
ALLOWED = {
    ("dro_core/testing.py", "hypothesis"),
    ("dro_core/estimator/linear_dro.py", "sklearn"),  # called by scikit-learn alone
}


def run_time(node):
    """The nodes below one, without those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from run_time(child)


def imported(path):
    for node in run_time(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def requirements(extra, seen=()):
    """Distributions that an extra brings, those of the extras it names included."""
    for line in PROJECT["optional-dependencies"][extra]:
        name = re.split(r"[\[<>=]", line)[0]
        if name != "structured-dro":
            yield name.lower()
            continue
        for other in re.search(r"\[(.*)\]", line)[1].split(","):
            assert other not in seen
            yield from requirements(other, (*seen, extra))


@pytest.mark.parametrize("floor", BASE)
def test_what_an_installation_may_lack_is_imported_by_one_function(floor):
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / floor).rglob("*.py")
        for name in imported(path)
        if name not in sys.stdlib_module_names and name not in BASE[floor] | {floor}
    }
    assert found == {item for item in ALLOWED if item[0].startswith(floor)}


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_a_message_names_brings_the_package(package, monkeypatch):
    distribution, extra = EXTRAS[package]
    name = "torch" if package == "torch" else distribution.lower()
    assert name in requirements(extra)
    monkeypatch.setitem(sys.modules, package, None)
    assert not installed(package)
    with pytest.raises(ModuleNotFoundError) as caught:
        needed(f"{package}.part", "this test")
    assert str(caught.value) == missing(package, "this test")
    assert f"this test needs {distribution}" in str(caught.value)
    assert f"pip install 'structured-dro[{extra}]'" in str(caught.value)


def test_a_package_that_is_broken_itself_fails_as_it_does(tmp_path, monkeypatch):
    (tmp_path / "h5py.py").write_text("import no_such_module_of_h5py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "h5py", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module_of_h5py'"):
        needed("h5py", "this test")


def test_every_public_name_is_where_type_checkers_are_told():
    tree = ast.parse((ROOT / "dro_core" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told.pop("operators") == "dro_core"
    homes = {name: f"dro_core.{home}" for name, home in dro_core._HOME_OF.items()}
    assert told == homes
    assert set(dro_core.__all__) == {"operators", *homes}
    assert set(dro_core.__all__) <= set(dir(dro_core))
    for name in dro_core.__all__:
        assert getattr(dro_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'worst_case_rsk'"):
        dro_core.worst_case_rsk  # noqa: B018


def test_the_version_is_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert f"version: {dro_core.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{dro_core.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    torch = pytest.importorskip("dro_torch", reason="needs torch")
    assert torch.__version__ == dro_core.__version__


def minimum_versions():
    lines = [*PROJECT["dependencies"]]
    for group in PROJECT["optional-dependencies"].values():
        lines += group
    return {
        name.lower(): version
        for name, version in (re.split(r">=", line) for line in lines if ">=" in line)
    }


def test_the_oldest_versions_tested_are_the_declared_ones():
    pinned = dict(
        re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints-oldest.txt").read_text(), re.M)
    )
    declared = minimum_versions()
    for name, version in pinned.items():
        if name.lower() in declared and name not in UNTESTED:
            assert version.startswith(declared[name.lower()]), name
    tried = set().union(*(requirements(extra) for extra in extras.TRIES))
    assert tried <= {name.lower() for name in pinned}


def test_every_extra_is_tried():
    own = {"test", "dev"}  # for the work on this project
    assert {*extras.TRIES, *own} == {*PROJECT["optional-dependencies"]}
    listed = (ROOT / "tests" / "matrix.sh").read_text()
    assert set(re.search(r"\$\{@:-(transport [\w ]*)\}", listed)[1].split()) == {*extras.TRIES}


@pytest.mark.parametrize("extra", ["transport", "reference", "plot", "metrics", "torch"])
def test_what_an_extra_is_for_works(extra):
    """Those that no other file tries as a whole; here with the versions of the suite."""
    if extra in ("torch", "metrics"):
        pytest.importorskip("torch", reason=f"the extra {extra} needs torch")
    extras.TRIES[extra]()


def test_links_of_the_index_page_hold_elsewhere():
    source = (ROOT / "setup.py").read_text()
    function = source[source.index("def absolute_links") : source.index("setup(\n")]
    scope = {"re": re, "SOURCE": "https://there"}
    exec(function, scope)
    given = "[a](docs/a.md) ![b](docs/b.png) [c](https://c.org) [d](#d)"
    there = "https://there/docs"
    expected = f"[a]({there}/a.md) ![b]({there}/b.png) [c](https://c.org) [d](#d)"
    assert scope["absolute_links"](given) == expected
