"""Weights of each sample: a semidefinite programme, shared weights, masks, counts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core import (
    Joint,
    SampleWeightedReconstruction,
    YGivenX,
    sample_weighted_worst_case,
    worst_case_risk,
)

INF = math.inf


def problem(seed, count=12, residual=1.0):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 5, 2)
    B = rng.standard_normal((n, m))
    y = rng.standard_normal((count, m))
    x = y @ B.T + residual * rng.standard_normal((count, n))
    weight_y = 10.0 ** rng.uniform(-1, 1, y.shape)
    weight_y[rng.random(y.shape) < 0.2] = INF
    weight_y[0, 0] = 1.0
    return B, x, y, weight_y, rng


def programme(B, x, y, radius, weight_y, weight_x, mu):
    """min λρ² + Σ μ_i t_i, [[t_i, r_iᵀ, 0], [r_i, I, C_i], [0, C_iᵀ, λI]] >= 0."""
    import cvxpy as cp

    n, m = B.shape
    lam, t = cp.Variable(nonneg=True), cp.Variable(len(x))
    constraints = []
    for i, r in enumerate(x - y @ B.T):
        C = np.hstack([np.eye(n) / math.sqrt(weight_x), -B / np.sqrt(weight_y[i])])
        zero = np.zeros((1, n + m))
        rows = [
            [cp.reshape(t[i], (1, 1), order="C"), r[None], zero],
            [r[:, None], np.eye(n), C],
            [zero.T, C.T, lam * np.eye(n + m)],
        ]
        constraints.append(cp.bmat(rows) >> 0)
    objective = cp.Problem(cp.Minimize(lam * radius**2 + mu @ t), constraints)
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    return float(objective.solve(solver="CLARABEL", **tight))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight_x", [INF, 2.0])
def test_against_a_semidefinite_programme(seed, weight_x):
    B, x, y, weight_y, rng = problem(seed, residual=0.0 if seed == 3 else 1.0)
    mu = rng.dirichlet(np.ones(len(x)))
    worst = sample_weighted_worst_case(B, x, y, 0.7, weight_y, weight_x=weight_x, weights=mu)
    expected = programme(B, x, y, 0.7, weight_y, weight_x, mu)
    assert worst.risk == pytest.approx(expected, rel=1e-6)
    assert worst.verify().holds(1e-8)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 10.0), st.sampled_from([0.0, 1e-3, 1.0]))
def test_every_answer_is_certified(seed, radius, residual):
    B, x, y, weight_y, rng = problem(seed, residual=residual)
    mu = rng.dirichlet(np.ones(len(x)))
    mu[1] = 0.0
    worst = sample_weighted_worst_case(B, x, y, radius, weight_y, weights=mu / mu.sum())
    certificate = worst.verify()
    assert certificate.holds(1e-7), certificate
    assert worst.nominal_risk <= worst.risk * (1 + 1e-12)
    assert worst.risk <= worst.bound * (1 + 1e-9)
    assert not worst.displacement_y[np.isinf(weight_y)].any()


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 10.0), st.sampled_from([INF, 3.0]))
def test_weights_that_samples_share_are_those_of_the_structure(seed, radius, weight_x):
    B, x, y, weight_y, _ = problem(seed)
    shared = np.broadcast_to(weight_y[0], y.shape)
    worst = sample_weighted_worst_case(B, x, y, radius, shared, weight_x=weight_x)
    structure = YGivenX(weight_y[0]) if weight_x == INF else Joint(weight_x, weight_y[0])
    expected = worst_case_risk(B, x, y, radius, structure)
    assert worst.risk == pytest.approx(expected.risk, rel=1e-9)
    assert worst.multiplier == pytest.approx(expected.multiplier, rel=1e-6)
    np.testing.assert_allclose(worst.gradient, expected.gradient, rtol=1e-5, atol=1e-7)


def test_what_no_residual_asks_for_goes_to_the_cheapest_sample():
    """B = I, sample 0 at price 0.1 along an axis that no residual has: λ = 10, and the hard case.

    The others spend 1/81 each, sample 0 the rest of the budget along its axis.
    """
    y = np.zeros((2, 2))
    x = np.array([[0.0, 1.0], [0.0, 1.0]])
    worst = sample_weighted_worst_case(np.eye(2), x, y, 1.0, [[0.1, 1.0], [1.0, 1.0]])
    assert worst.multiplier == pytest.approx(10.0)
    assert worst.risk == pytest.approx(10.0 + 10.0 / 9.0)
    assert worst.verify().holds(1e-9)
    assert worst.displacement_y[0, 0] ** 2 == pytest.approx(20.0 * (1.0 - 1.0 / 81.0))


def test_averaging_the_weights_bounds_nothing():
    """One sample cheap to move, one dear: the mean weight hides the first."""
    x = y = np.array([[1.0], [2.0]])
    weight_y = np.array([[0.01], [100.0]])
    worst = sample_weighted_worst_case([[0.9]], x, y, 0.3, weight_y)
    average = worst_case_risk([[0.9]], x, y, 0.3, YGivenX(weight_y.mean()))
    assert worst.risk > 10 * average.risk


def test_counts_are_weights_of_each_sample(rng):
    """Log data of counts I0 exp(-y): variances exp(y)/I0."""
    y = rng.uniform(0, 3, (20, 4))
    B = rng.standard_normal((3, 4))
    x = y @ B.T
    counts = SampleWeightedReconstruction(B, x, y, lambda x, y: 1e4 * np.exp(-y))
    given = SampleWeightedReconstruction(B, x, y, 1e4 * np.exp(-y))
    curve = counts.curve([0.0, 0.5, 2.0])
    np.testing.assert_array_equal(curve.risk, given.curve([0.0, 0.5, 2.0]).risk)
    assert curve.risk[1] == counts.worst_case(0.5).risk
    assert (np.diff(curve.risk) > 0).all()
    assert (curve.risk <= curve.bound * (1 + 1e-12)).all()
    assert counts.worst_case(0.5).verify().holds(1e-8)


def test_the_gradient_by_differences(rng):
    B, x, y, weight_y, _ = problem(2)
    D = rng.standard_normal(B.shape)
    worst = sample_weighted_worst_case(B, x, y, 0.5, weight_y)
    up, down = (
        sample_weighted_worst_case(B + h * D, x, y, 0.5, weight_y).risk for h in (1e-5, -1e-5)
    )
    assert float((worst.gradient * D).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-6)


def test_a_forged_law_is_refused():
    B, x, y, weight_y, _ = problem(1)
    worst = sample_weighted_worst_case(B, x, y, 0.5, weight_y)
    dx, dy = worst.displacement_x, worst.displacement_y
    vars(worst)["_displacements"] = dx, 1.01 * dy
    assert not worst.verify().holds(1e-3)
    other = sample_weighted_worst_case(B, x, y, 0.5, weight_y)
    vars(other)["risk"] = 1.01 * other.risk
    assert not other.verify().holds(1e-3)
