"""The page of claims is what the stored results say."""

import json
import re
import shutil
from pathlib import Path

import pytest

from validation import claims, evidence
from validation.errors import UsageError
from validation.results import at_most

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"


def test_the_page_agrees_with_the_results():
    written = (RESULTS / claims.PAGE).read_text()
    assert written == claims.page(RESULTS), "results changed: run python -m validation claims"


def test_both_papers_and_all_their_parts_are_there():
    lines = list(claims.Decided(RESULTS).lines())
    places = {
        paper: " ".join(x.where for x in lines if x.paper == paper) for paper in claims.PAPERS
    }
    for part in ("Prop. 3.1", "Thm 3.1", "Thm 3.4", "Thm 4.2", "§5", "§6.2", "§6.3", "§6.3.1",
                 "§6.3.2", "§6.4", "§6.5", "§6.6", "App. A"):  # fmt: skip
        assert part in places["DRO"], part
    for part in ("Table 1a", "Table 1d", "Table 2a", "Table 2b", "Table 3", "Claim 1", "Eq. 14"):
        assert part in places["ISUM"], part
    assert sum("contradicts itself" in line.verdict for line in lines) >= 5
    assert all(line.verdict and line.link for line in lines)
    exact = [line for line in lines if line.scale == "exact"]
    assert len(exact) >= 10  # computed, not only tested


def test_every_queued_experiment_of_a_paper_decides_a_claim():
    """The frontier is this project's own question."""
    table = (RESULTS / claims.TABLE).read_text()
    for name, entry in evidence.QUEUE.items():
        if entry.experiment.startswith("frontier"):
            continue
        assert f'"desk/{entry.file}"' in table, name


@pytest.fixture
def results(tmp_path):
    """A folder with one trained and one exact result."""
    trained = {
        "config": {"preset": "desk"},
        "device": "CPU",
        "trainings": [[], [], []],
        "claims": [{"claim": "better", "value": 0.9, "band": 0.2, "low": "-inf", "high": 1.0,
                    "verdict": "undecided"}],
        "checks": [],
    }  # fmt: skip
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "a.json").write_text(json.dumps(trained))
    claims.store("twist", [at_most("small", 2.0, 1.0)], claims.Config(str(tmp_path)), tmp_path)
    return tmp_path


def page_of(results, *entries):
    text = "".join(
        "[[claim]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        for entry in entries
    )
    (results / claims.TABLE).write_text(text)
    return claims.page(results)


def entry(**more):
    return {"paper": "DRO", "where": "§1", "claim": "it is better", **more}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"trainings": [[]]}, "1 seed"),
        ({"trainings": [[], []]}, "2 seeds"),
        ({"trainings": [[]], "size": {"seeds": 3}}, "3 seeds"),
        ({"trainings": [[]], "size": {"images": 10}}, "1 seed"),
        ({}, None),
    ],
)
def test_seeds_are_counted_also_where_all_are_judged_at_once(found, said):
    scale = claims.scale({"config": {"preset": "desk"}, **found})
    assert scale == ", ".join(["`desk`", *([said] if said else []), "CPU"])


def test_lines_say_what_the_files_say(results):
    page = page_of(
        results,
        entry(result="desk/a.json", check="better"),
        entry(result="exact/twist.json", check="small"),
        entry(result="exact/twist.json", check="small", refutes=True),
        entry(result="desk/later.json", check="better"),
        entry(result="exact/radii.json", check="small"),
        entry(pending="a machine"),
        entry(paper="ISUM", finding="two rows are one", verdict="contradicts itself", link="here"),
    )
    told = [line.split(" | ")[2:] for line in page.splitlines() if line.startswith("| §1")]
    assert told == [
        ["0.9 ± 0.2 (≤ 1)", "undecided", "`desk`, 3 seeds, CPU", "[a](desk/a.json) |"],
        ["2 (≤ 1)", "does not hold", "exact", "[twist](exact/twist.json) |"],
        ["2 (≤ 1)", "holds", "exact", "[twist](exact/twist.json) |"],
        ["–", "not run yet", "–", "`python -m validation evidence` |"],
        ["–", "not run yet", "–", "`python -m validation claims --set run=radii` |"],
        ["–", "not run yet", "–", "a machine |"],
        ["two rows are one", "contradicts itself", "reading", "here |"],
    ]
    stored = json.loads((results / "exact" / "twist.json").read_text())
    assert stored["command"].startswith("python -m validation twist")
    assert str(results) not in (results / "exact" / "twist.json").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry(), "it needs a paper .* and one of result, theorem"),
        (entry(pending="a", theorem="b"), "one of result, theorem"),
        (entry(paper="other", pending="a"), r"it needs a paper \(DRO, ISUM\)"),
        (entry(theorem="no such"), "theorems.toml has no 'no such'"),
        (entry(result="desk/a.json", check="worse"), "desk/a.json has no check 'worse'"),
    ],
)
def test_entries_that_dangle_are_refused(results, wrong, message):
    with pytest.raises(UsageError, match=message):
        page_of(results, wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"results": "nowhere"}, "results: no claims.toml in nowhere"),
        ({"run": "nothing"}, "run: 'nothing'"),
        ({"run": "claims"}, "run: 'claims'"),
    ],
)
def test_misuse_of_the_command(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        claims.run(claims.Config(**{"results": str(RESULTS), **options}), tmp_path)


def test_the_command_and_the_queue_write_the_page(results, tmp_path):
    page_of(results, entry(result="desk/radii/radii.json", check="better"))
    (check,) = claims.run(claims.Config(str(results)), tmp_path)
    assert check.holds
    assert "not run yet" in (results / claims.PAGE).read_text()
    place = evidence.Place(ROOT, "0", tmp_path / "work")
    (tmp_path / "work" / "radii").mkdir(parents=True)
    shutil.copyfile(results / "desk" / "a.json", tmp_path / "work" / "radii" / "radii.json")
    evidence.publish("mnist radii", place, results / "desk")
    assert "undecided" in (results / claims.PAGE).read_text()


def test_links_of_the_page_lead_somewhere():
    page = (RESULTS / claims.PAGE).read_text()
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (RESULTS / target).exists(), target
