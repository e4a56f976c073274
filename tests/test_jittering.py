"""The experiment on noise and its shape: arms of one case, the frontier, files and goals."""

import csv
import json

import numpy as np
import pytest

import validation.__main__ as command_line
from dro_core import NoiseTraining, YGivenX
from validation import jittering
from validation.jittering import arms, experiment


@pytest.fixture(scope="module")
def problem():
    return jittering.random_problem(0, 1, 6, 40)


def test_every_arm_is_above_the_exact_optimum(problem):
    for ball in ("isotropic", "every 4th x 100"):
        row = jittering.compared(problem, ball, jittering.balls(6)[ball], 1.0)
        assert row["gap"] <= 1e-6
        for arm in arms.ARMS:
            assert row[arm] >= row["exact"] * (1 - 1e-9)
            assert row[arm] >= row[f"{arm} clean"] * (1 - 1e-12)
        assert row["penalty"] == pytest.approx(row["isotropic noise"], rel=1e-6)
    assert row["shaped noise"] < row["isotropic noise"]


def test_a_point_of_the_frontier_is_proved(problem):
    x, y, ball = problem.x, problem.y, YGivenX(jittering.balls(6)["every 4th x 10"])
    start = NoiseTraining(x, y, 1.0).map(0.1)
    points = [jittering.pareto_point(x, y, 0.3, ball, theta, start) for theta in (0.2, 0.8)]
    assert max(point.gap for point in points) <= 1e-5
    assert points[0].clean < points[1].clean
    assert points[0].worst > points[1].worst


def test_what_is_told_of_the_cases_are_ratios_of_like_to_like():
    """Clean over clean, held out over held out; cases without a level say nothing of it."""
    endings = {"": 4.0, " clean": 2.0, " held out": 5.0}
    exact = {f"exact{ending}": size for ending, size in endings.items()}
    factors = {"": 1.04, " clean": 3.0, " held out": 1.5}
    rows = [
        {"problem": "random 0", "ball": ball, "share": 1.0, "shaped level": level} | exact
        for ball, level in (("isotropic", 0.0), ("smooth x 10", 2.0), ("smooth x 10", 2.0))
    ]
    for row, more in zip(rows, (1.0, 1.0, 2.0), strict=True):
        row["shaped guess"] = 0.5 * row["shaped level"] if row["shaped level"] else np.inf
        for arm in arms.SHOWN:
            for ending, factor in factors.items():
                row[f"{arm}{ending}"] = more * factor * exact[f"exact{ending}"]
    _, line = experiment.summaries(rows)
    assert line["isotropic clean"] == pytest.approx(4.5)
    assert line["shaped held out"] == pytest.approx(2.25)
    weighted, isotropic = experiment.by_radius(rows)
    assert weighted["cases"] == 2
    assert weighted["shaped noise median"] == pytest.approx(1.5 * 1.04)
    assert weighted["shaped noise largest"] == pytest.approx(2.08)
    assert weighted["shaped noise within 5 %"] == 0.5
    assert weighted["isotropic noise clean"] == pytest.approx(4.5)
    assert weighted["guess / level median"] == 0.5
    assert isotropic["guess / level median"] == ""


def test_below_the_frontier_is_seen():
    exact = {"problem": "p", "arm": "exact", "level": 0.5, "clean": 1.0, "worst": 2.0}
    other = {"problem": "p", "arm": "shaped noise", "level": 0.1, "clean": 0.9, "worst": 1.8}
    assert experiment.below_frontier([exact, other]) == pytest.approx(0.1)
    assert experiment.below_frontier([exact, {**other, "worst": 2.2}]) == 0.0


def test_tikhonov_is_the_regularised_inverse(problem):
    A = problem.forward
    B = arms.tikhonov(A)(0.3)
    np.testing.assert_allclose(B, np.linalg.solve(A.T @ A + 0.09 * np.eye(6), A.T), rtol=1e-9)


@pytest.mark.slow
def test_the_command_writes_tables_figures_and_what_made_them(tmp_path, capsys):
    assert command_line.main(["jittering", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert "goals over the weighted balls" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "cases.csv",
        "frontier.csv",
        "radii.csv",
        "jittering_excess.svg",
        "jittering.json",
    } <= names
    made = json.loads((tmp_path / "jittering.json").read_text())
    assert made["config"]["preset"] == "smoke"
    assert {goal["comparison"] for goal in made["goals"]} == {"<=", ">="}
    with (tmp_path / "cases.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 10 * 4


def test_a_radius_without_cases_is_refused(tmp_path, capsys):
    given = ["jittering", "--set", "share=0.2", "--out", str(tmp_path)]
    assert command_line.main(given) == 2
    assert "--set share: 0.2; allowed: 0.1, 0.3, 1.0 or 3.0" in capsys.readouterr().err
