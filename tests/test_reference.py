"""The oracles themselves, on cases with known answers."""

import numpy as np
import pytest

from dro_core import reference, worst_case_risk


def test_translation_moves_by_its_length(rng):
    points = rng.standard_normal((12, 3))
    assert reference.wasserstein_pot(points, points + np.array([3.0, 0.0, 4.0])) == pytest.approx(
        5.0
    )
    weights = rng.dirichlet(np.ones(12))
    order = rng.permutation(12)
    moved = reference.wasserstein_pot(
        points, points[order], weights0=weights, weights1=weights[order]
    )
    assert moved == pytest.approx(0.0, abs=1e-7)


def test_conditional_distance_exceeds_the_plain_one():
    """Two signals close together, measurements swapped: cheap to move x, dear to move y."""
    x0, y0 = np.array([[0.0], [0.1]]), np.array([[0.0], [1.0]])
    x1, y1 = x0, y0[::-1]
    conditional = reference.conditional_wasserstein_pot(x0, y0, x1, y1)
    plain = reference.wasserstein_pot(np.hstack([x0, y0]), np.hstack([x1, y1]))
    assert conditional == pytest.approx(1.0)
    assert plain == pytest.approx(0.1)


def test_conditional_distance_is_infinite_when_the_x_marginals_differ():
    x, y = np.array([[0.0], [1.0]]), np.zeros((2, 1))
    assert reference.conditional_wasserstein_pot(x, y, x + 1e-9, y) == np.inf
    assert reference.conditional_wasserstein_pot(x, y, x, y, weights1=[0.4, 0.6]) == np.inf
    assert reference.conditional_wasserstein_pot(x, y, x, y) == 0.0


def test_the_worst_case_law_is_at_distance_radius(rng):
    """Repeated x: the conditional transport has a choice, and the displacement is optimal."""
    x = np.repeat(rng.standard_normal((4, 2)), 5, axis=0)
    y = rng.standard_normal((20, 3))
    B = rng.standard_normal((2, 3))
    worst = worst_case_risk(B, x, y, 0.8, "y|x")
    distance = reference.conditional_wasserstein_pot(x, y, worst.x, worst.y)
    assert distance == pytest.approx(0.8, rel=1e-7)
    worst = worst_case_risk(B, x, y, 0.8, "joint")
    before, after = np.hstack([x, y]), np.hstack([worst.x, worst.y])
    assert reference.wasserstein_pot(before, after) == pytest.approx(0.8, rel=1e-7)


def test_a_law_of_structure_y_given_x_may_be_nearer_when_x_moves_too():
    x, y = np.array([[0.5], [-0.5]]), np.array([[0.926], [-0.926]])
    worst = worst_case_risk([[0.5]], x, y, 1.852, "y|x")
    assert worst.y == pytest.approx(-y)  # the two y exchanged: or the two x, which is nearer
    conditional = reference.conditional_wasserstein_pot(x, y, worst.x, worst.y)
    assert conditional == pytest.approx(1.852)
    plain = reference.wasserstein_pot(np.hstack([x, y]), np.hstack([worst.x, worst.y]))
    assert plain == pytest.approx(1.0)


def test_linear_programmes_agree_on_a_hand_solved_case():
    loss, cost = [[0.0, 4.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]
    for solve in (reference.finite_worst_case_highs, reference.finite_worst_case_cvxpy):
        found = solve(loss, cost, 0.75**0.5)
        assert found.risk == pytest.approx(2.25)  # all of sample 0, half of sample 1
        assert found.multiplier == pytest.approx(1.0)


def test_an_empty_ball_is_an_error():
    with pytest.raises(RuntimeError, match="HiGHS found no optimum"):
        reference.finite_worst_case_highs([[1.0]], [[1.0]], 0.5)
    with pytest.raises(RuntimeError, match="found no optimum: infeasible"):
        reference.finite_worst_case_cvxpy([[1.0]], [[1.0]], 0.5)
