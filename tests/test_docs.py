"""The documentation builds offline without warnings, and what the README shows is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
import gallery  # noqa: E402
import theorem_table  # noqa: E402

README = (ROOT / "README.md").read_text()
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("plot_*.py"))
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]\d+)?"


def test_the_documentation_builds_without_warnings(tmp_path):
    """All pages; the highlighted copies of the source that `make docs` adds are left out."""
    listed = re.search(r"^extensions = (\[.*?\])", (ROOT / "docs/conf.py").read_text(), re.M | re.S)
    extensions = [e for e in ast.literal_eval(listed[1]) if e != "sphinx.ext.viewcode"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-D",
            f"extensions={','.join(extensions)}",
            "-D",
            "html_copy_source=0",
            "-d",
            str(tmp_path / "doctrees"),
            str(ROOT / "docs"),
            str(tmp_path / "html"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "html").rglob("*.html"))
    assert len(pages) > 5
    the_examples_were_executed(tmp_path / "html")
    remote = re.compile(r'(?:src|href)="https?://[^"]*(?:cdn|jsdelivr|unpkg|googleapis)')
    for page in pages:
        assert not remote.search(page.read_text()), f"{page.name} loads from elsewhere"


def the_examples_were_executed(html):
    """Every example has a page with what it printed and a figure that says what is seen on it."""
    front = (html / "index.html").read_text()
    listed = (html / "gallery" / "index.html").read_text()
    assert 'href="gallery/index.html"' in front
    for example in EXAMPLES:
        page = (html / "gallery" / f"{example.stem}.html").read_text()
        assert f"{example.stem}.html" in listed
        assert "sphx-glr-script-out" in page, f"{example.name} printed nothing"
        figures = re.findall(r'<img src="\.\./_images/([^"]+)"[^>]*?alt="([^"]*)"', page)
        figures = [f for f in figures if example.stem in f[0]]
        assert figures, f"{example.name} has no figure"
        for name, seen in figures:
            assert (html / "_images" / name).stat().st_size > 5_000
            assert len(seen) >= gallery.SHORTEST, f"{example.name}: alt text {seen!r}"


def test_there_are_examples_with_numbers_that_they_assert():
    """Copied alone, each makes its own data and ends with a figure; prose cannot rot."""
    assert len(EXAMPLES) >= 8
    for example in EXAMPLES:
        tree = ast.parse(example.read_text())
        asserted = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
        assert len(asserted) >= 3, example.name
        assert not re.search(r"DRO_DATA|dro_torch\.data|urllib|requests", example.read_text())
        assert "plt.subplot" in example.read_text().rsplit("# %%", 1)[1], f"{example.name}'s end"


@pytest.mark.parametrize("label", ["", "a curve"])
def test_a_figure_without_an_alt_text_stops_the_build(monkeypatch, label):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    scrapers = pytest.importorskip("sphinx_gallery.scrapers")
    monkeypatch.setattr(scrapers, "matplotlib_scraper", lambda *given: "   :alt: of a library")
    pyplot.close("all")
    pyplot.figure(num=label or None)
    try:
        with pytest.raises(Exception, match=r"example\.py: a figure has the label"):
            gallery.labelled_scraper(None, {"src_file": "example.py"}, {})
        pyplot.close("all")
        pyplot.figure(num="what is seen, said so that nobody has to look at it: a line")
        named = gallery.labelled_scraper(None, {"src_file": "example.py"}, {})
        assert named == "   :alt: what is seen, said so that nobody has to look at it: a line"
    finally:
        pyplot.close("all")


def test_every_theorem_has_a_function_and_a_test():
    assert theorem_table.dangling(theorem_table.entries()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"functions": ["dro_core.no_such_function"]}, "function dro_core.no_such_function"),
        ({"functions": ["no_such_package.name"]}, "function no_such_package.name"),
        ({"tests": ["tests/test_bounds.py::test_no_such_test"]}, "test_no_such_test does not"),
        ({"tests": ["tests/test_none.py::test_weak_duality"]}, "tests/test_none.py"),
        ({"source": ""}, "no source"),
        ({"tests": []}, "no tests"),
    ],
)
def test_a_dangling_entry_is_found(change, message):
    good = theorem_table.entries()[0]
    assert any(message in line for line in theorem_table.dangling([{**good, **change}]))


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_example_prints_what_it_shows(page):
    text = (ROOT / page).read_text()
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.S).groups()
    assert len(code.strip().splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_the_other_blocks_of_the_readme_run_and_print_what_they_show():
    """Numbers to a hundredth: a network that was trained for twenty steps is behind them."""
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S)
    assert len(blocks) == README.count("```python")
    for code, output in blocks[1:]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        shown = output.removesuffix("  ...\n").splitlines()
        printed = done.stdout.splitlines()[: len(shown)]
        for ours, line in zip(printed, shown, strict=True):
            assert re.sub(NUMBER, "#", ours) == re.sub(NUMBER, "#", line)
            expected = [pytest.approx(float(value), rel=1e-2) for value in re.findall(NUMBER, line)]
            assert [float(value) for value in re.findall(NUMBER, ours)] == expected


@pytest.mark.parametrize("name", ["howto", "audit"])
def test_the_snippets_of_the_how_to_pages_run(capsys, name):
    """In this interpreter, where warnings are errors too and torch and POT are often loaded."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{name}.md").read_text(), re.S)
    page = {"__name__": name}
    for k, code in enumerate(snippets):
        exec(compile(code, f"docs/{name}.md, snippet {k + 1}", "exec"), page)
    assert "joint" in capsys.readouterr().out


def test_every_file_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(
        r"(?:`|^)make (\w+)", README + (ROOT / "CONTRIBUTING.md").read_text(), re.M
    ):
        assert re.search(rf"^{target}:", makefile, re.M), target
    assert 'make test VENV="$work/venv"' in (ROOT / ".ci" / "run").read_text()
