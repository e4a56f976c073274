"""The public checkers must be able to fail."""

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from dro_core import XShift
from dro_core import testing as dt


def test_weak_duality_check_rejects_a_claim_below_the_truth():
    """A claim 10 % too low is beaten by some law that the strategies draw."""

    def beaten(case):
        problem, law = case
        try:
            dt.check_weak_duality(0.9 * problem.worst_case().risk, problem, law)
        except AssertionError:
            return True
        return False

    cases = dt.problems(structure="y|x").flatmap(lambda p: dt.laws(p).map(lambda law: (p, law)))
    problem, law = find(cases, beaten)
    assert law.transport_cost <= problem.radius**2 * (1 + 1e-9)


def test_weak_duality_check_rejects_a_law_outside_the_ball(rng):
    problem = dt.Problem(np.eye(1), np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1), 1.0, dt.Joint())
    law = dt.Law(np.array([0]), np.array([[2.0]]), np.zeros((1, 1)), np.ones(1), 4.0)
    with pytest.raises(AssertionError, match="outside the ball"):
        dt.check_weak_duality(100.0, problem, law)
    inside = dt.Law(np.array([0]), np.array([[0.5]]), np.zeros((1, 1)), np.ones(1), 0.25)
    for claim in (-np.inf, np.nan, 0.2):
        with pytest.raises(AssertionError, match="above the claimed"):
            dt.check_weak_duality(claim, problem, inside)
    with pytest.raises(AssertionError, match="admissible law is"):
        dt.check_weak_duality(1.0, problem, inside, lambda y: y + np.inf)


def test_ordering_check():
    dt.check_ordering(1.0, 1.0, 2.0)
    with pytest.raises(AssertionError, match=r"value 1 is 3.*above value 2"):
        dt.check_ordering(1.0, 3.0, 2.0)
    for bad in ((np.inf, 1.0), (1.0, np.nan), (-np.inf, 1.0)):
        with pytest.raises(AssertionError, match="not all finite"):
            dt.check_ordering(*bad)


@pytest.mark.parametrize(
    ("dx", "dy", "structure", "message"),
    [
        ([[0.1]], [[0.0]], "y|x", "x was moved"),
        ([[0.0]], [[0.1]], "x|y", "y was moved"),
        ([[0.0]], [[2.0]], "y|x", "exceeds the budget"),
        ([[0.1]], [[0.1]], XShift([[3.0]]), "off the graph"),
        ([[0.1, 0.0]], [[0.1]], "joint", "displacement_x"),
    ],
)
def test_feasibility_check(dx, dy, structure, message):
    with pytest.raises(AssertionError, match=message):
        dt.check_feasible([[0.0]], [[0.0]], dx, dy, 1.0, structure)


def test_certificate_check(rng):
    problem = dt.problems(structure="joint", zero_radius=False)
    wrong = find(problem, lambda p: p.fidelity > 0.1).worst_case()
    vars(wrong)["risk"] *= 1.01
    with pytest.raises(AssertionError, match="not certified"):
        dt.check_certificate(wrong)
    wrong = find(problem, lambda p: p.fidelity > 0.1).worst_case()
    vars(wrong)["bound"] *= 0.5
    with pytest.raises(AssertionError, match="value 0 is"):
        dt.check_certificate(wrong)


@given(dt.problems().flatmap(lambda p: dt.laws(p).map(lambda law: (p, law))))
def test_laws_are_in_the_ball_and_keep_the_marginals(case):
    problem, law = case
    structure = problem.structure
    paid_x, paid_y = (law.dx**2).sum(axis=1), (law.dy**2).sum(axis=1)
    paid = paid_x + paid_y
    if getattr(structure, "cost", "joint") != "joint":
        paid = paid_x if structure.name == "x" else paid_y
    if "weight" in repr(structure):
        paid = structure.transport_cost(law.dx, law.dy)
    assert law.weights @ paid == pytest.approx(law.transport_cost, rel=1e-9, abs=1e-280)
    mass = np.bincount(law.origin, law.weights, minlength=len(problem.x))
    np.testing.assert_allclose(mass, problem.weights, atol=1e-12)
    assert law.transport_cost <= problem.radius**2 * (1 + 1e-12)
    if problem.structure.name == "y|x":
        assert not law.dx.any()
    if problem.structure.name == "x|y":
        assert not law.dy.any()


def test_some_laws_spend_the_whole_budget():
    cases = dt.problems(zero_radius=False).flatmap(lambda p: dt.laws(p).map(lambda law: (p, law)))
    problem, law = find(cases, lambda case: case[1].transport_cost > 0.99 * case[0].radius ** 2)
    assert law.transport_cost <= problem.radius**2 * (1 + 1e-12)


@given(dt.samples(), dt.maps(3, 2), dt.sizes(), st.data())
def test_strategies_have_the_promised_shapes(rows, B, size, data):
    assert rows.ndim == 2
    assert B.shape == (3, 2)
    weights = data.draw(dt.weights(size))
    assert weights.sum() == pytest.approx(1.0)
    assert weights.min() >= 0
    assert data.draw(dt.radii(2.0)) >= 0
    names = {s.name for s in (data.draw(dt.structures(np.eye(2))) for _ in range(3))}
    assert names <= {"joint", "y|x", "x|y", "x"}
