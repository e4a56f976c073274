"""Gradients of worst-case risks in B by the envelope theorem, against finite differences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from dro_core import (
    Joint,
    LinearReconstruction,
    XGivenY,
    XShift,
    YGivenX,
    YShift,
    dual_value,
    entropic_worst_case,
    worst_case_risk,
)
from dro_core.operators import BackwardHeat

STEP = 1e-6


def data(seed, n=3, m=4, count=6):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n, m)),
        rng.standard_normal((count, n)),
        rng.standard_normal((count, m)),
        rng.dirichlet(np.ones(count)),
        rng,
    )


def check_slopes(value, gradient, B, rng, rel=1e-5):
    """Central differences along random directions."""
    for _ in range(3):
        direction = rng.standard_normal(B.shape)
        slope = (value(B + STEP * direction) - value(B - STEP * direction)) / (2 * STEP)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=rel, abs=1e-6)


def structure_of(name, rng, n=3, m=4):
    root = rng.standard_normal((m, m))
    return {
        "y|x": YGivenX(),
        "joint": Joint(),
        "x|y": XGivenY(),
        "weights": Joint([1, 2, 0.5], root @ root.T + np.eye(m)),
        "frozen": YGivenX([1, np.inf, 2, 1]),
        "x": XShift(rng.standard_normal((m, n))),
        "x, cost x": XShift(rng.standard_normal((m, n)), "x"),
        "x, noise": XShift(rng.standard_normal((m, n)), covariance=0.01 * root @ root.T),
        "y": YShift(rng.standard_normal((n, m))),
        "y, noise": YShift(rng.standard_normal((n, m)), covariance=0.1),
    }[name]


NAMES = ["y|x", "joint", "x|y", "weights", "frozen", "x", "x, cost x", "x, noise", "y", "y, noise"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_worst_case_risk(name, seed):
    """Danskin: the gradient of the mean squared error at the worst-case law."""
    B, x, y, mu, rng = data(seed)
    structure = structure_of(name, rng)
    radius = 9.0

    def risk(B):
        return worst_case_risk(B, x, y, radius, structure, weights=mu).risk

    gradient = worst_case_risk(B, x, y, radius, structure, weights=mu).gradient
    assert gradient.shape == B.shape
    check_slopes(risk, gradient, B, rng)


def test_gradient_at_radius_zero_is_that_of_least_squares():
    B, x, y, mu, _ = data(0)
    gradient = worst_case_risk(B, x, y, 0.0, weights=mu).gradient
    np.testing.assert_allclose(gradient, -2 * ((x - y @ B.T) * mu[:, None]).T @ y, atol=1e-14)


@pytest.mark.parametrize("q", [1.5, 2.0, 3.0])
def test_gradient_in_another_norm(q):
    B, x, y, mu, rng = data(0, n=1)
    structure = Joint(norm=q)
    worst = worst_case_risk(B, x, y, 0.7, structure, weights=mu)
    check_slopes(
        lambda B: worst_case_risk(B, x, y, 0.7, structure, weights=mu).risk, worst.gradient, B, rng
    )


def test_in_the_hard_case_it_is_a_subgradient():
    """Convexity in B: the risk lies above its linearisation even where it has a kink."""
    B, _, y, mu, rng = data(0, n=4)
    x = y @ B.T  # no residual: the hard case
    worst = worst_case_risk(B, x, y, 0.4, weights=mu)
    assert worst.multiplier == pytest.approx(np.linalg.norm(B, 2) ** 2)
    for _ in range(50):
        other = B + rng.choice([1e-4, 0.1, 3.0]) * rng.standard_normal(B.shape)
        linear = worst.risk + (worst.gradient * (other - B)).sum()
        risk = worst_case_risk(other, x, y, 0.4, weights=mu).risk
        assert risk >= linear - 1e-9 * (risk + abs(linear))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["y|x", "joint", "x|y"]), st.floats(0.05, 3.0))
def test_the_risk_is_convex_in_the_map(seed, structure, radius):
    B, x, y, mu, rng = data(seed)
    other = rng.standard_normal(B.shape)
    risk = lambda B: worst_case_risk(B, x, y, radius, structure, weights=mu).risk  # noqa: E731
    assert risk((B + other) / 2) <= 0.5 * (risk(B) + risk(other)) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["y|x", "joint", "x|y", "weights", "frozen"])
@pytest.mark.parametrize("epsilon", [1e-3, 0.3, 5.0])
def test_gradient_of_the_entropic_worst_case(name, epsilon):
    B, x, y, mu, rng = data(1)
    structure = structure_of(name, rng)

    def risk(B):
        return entropic_worst_case(B, x, y, 0.8, epsilon, structure, weights=mu).risk

    worst = entropic_worst_case(B, x, y, 0.8, epsilon, structure, weights=mu)
    check_slopes(risk, worst.gradient, B, rng)


@pytest.mark.parametrize("name", ["y|x", "joint", "x|y", "weights", "frozen"])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("factor", [1.05, 2.0, 20.0])
def test_gradient_of_the_dual_in_map_and_multiplier(name, epsilon, factor):
    B, x, y, mu, rng = data(2)
    structure = structure_of(name, rng)
    problem = LinearReconstruction(B, x, y, weights=mu)
    multiplier = factor * problem.spectrum(structure).top

    def dual(B, lam=multiplier):
        return dual_value(B, x, y, lam, 0.8, structure, epsilon=epsilon, weights=mu)

    gradient, derivative = problem.dual_gradient(multiplier, 0.8, structure, epsilon=epsilon)
    check_slopes(dual, gradient, B, rng)
    h = 1e-5 * multiplier * (factor - 1)
    slope = (dual(B, multiplier + h) - dual(B, multiplier - h)) / (2 * h)
    assert slope == pytest.approx(derivative, rel=1e-4, abs=1e-7)


def test_gradient_of_a_fast_operator_is_that_of_its_matrix(rng):
    A = BackwardHeat(1e-4, 16)
    B, x = A.inverse(1e-2), rng.standard_normal((5, 16))
    y = A.apply(x) + 0.1 * rng.standard_normal(x.shape)
    fast, dense = (worst_case_risk(b, x, y, 0.7, "joint").gradient for b in (B, B.matrix()))
    np.testing.assert_allclose(fast, dense, atol=1e-9)


def test_what_has_no_gradient_is_refused():
    B, x, y, _, rng = data(0)
    problem = LinearReconstruction(B, x, y)
    with pytest.raises(ValueError, match=r"structure: .* available for joint"):
        problem.dual_gradient(1e4, 9.0, structure_of("x", rng))
    with pytest.raises(ValueError, match="known by its products only"):
        LinearReconstruction(aslinearoperator(B), x, y, norm_bound=9.0).dual_gradient(
            1e4, 1.0, epsilon=0.1
        )
