"""Signal and noise within a radius each: dual, mixture of laws, fits, independent laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core import (
    Joint,
    SignalNoise,
    fit_linear,
    fit_two_budgets,
    independent_worst_case,
    two_budget_worst_case,
    wasserstein_mmse,
    worst_case_risk,
)
from dro_core.reference import joint_mmse_frank_wolfe, wasserstein_mmse_frank_wolfe


def problem(seed, noise=0.3, count=30):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 6, 2)
    A = rng.standard_normal((m, n))
    x = rng.standard_normal((count, n))
    return A, x, x @ A.T + noise * rng.standard_normal((count, m)), rng


def programme(x, y, A, radii, B=None):
    """inf λxρx² + λwρw² + tr T, [[T, R, 0], [Rᵀ, I, C], [0, Cᵀ, diag(λx I, λw I)]] >= 0."""
    import cvxpy as cp

    m, n = A.shape
    both = np.linalg.qr(np.hstack([x, y]) / math.sqrt(len(x)), mode="r")
    B = cp.Variable((n, m)) if B is None else B
    S = both[:, :n] - both[:, n:] @ B.T
    C = cp.hstack([np.eye(n) - B @ A, -B])
    T = cp.Variable((len(both), len(both)), symmetric=True)
    lam, mu = cp.Variable(nonneg=True), cp.Variable(nonneg=True)
    zero = np.zeros((len(both), n + m))
    prices = cp.diag(cp.hstack([lam * np.ones(n), mu * np.ones(m)]))
    block = cp.bmat([[T, S, zero], [S.T, np.eye(n), C], [zero.T, C.T, prices]])
    objective = lam * radii[0] ** 2 + mu * radii[1] ** 2 + cp.trace(T)
    problem = cp.Problem(cp.Minimize(objective), [block >> 0])
    tight = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}
    return float(problem.solve(solver="CLARABEL", **tight))


@pytest.mark.parametrize(("seed", "noise"), [(0, 0.3), (1, 0.3), (2, 0.3), (3, 0.3), (3, 0.0)])
def test_two_budgets_against_a_semidefinite_programme(seed, noise):
    A, x, y, rng = problem(seed, noise)
    radii = 10.0 ** rng.uniform(-1, 0.5, 2)
    B = np.linalg.pinv(A) if seed == 3 else rng.standard_normal(A.T.shape)
    worst = two_budget_worst_case(B, x, y, A, *radii)
    assert worst.risk == pytest.approx(programme(x, y, A, radii, B), rel=1e-6)
    assert worst.verify().holds(1e-7)
    fit = fit_two_budgets(x=x, y=y, forward=A, radius_x=radii[0], radius_noise=radii[1])
    assert fit.risk == pytest.approx(programme(x, y, A, radii), rel=1e-6)
    assert fit.gap <= 1e-6
    assert all(cost <= r**2 * (1 + 1e-9) for cost, r in zip(fit.costs, radii, strict=True))
    assert fit.risk <= worst.risk * (1 + 1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 5.0), st.floats(0.02, 5.0))
def test_the_law_keeps_both_budgets_and_attains_the_dual(seed, radius_x, radius_noise):
    A, x, y, rng = problem(seed)
    B, mu = rng.standard_normal(A.T.shape), rng.dirichlet(np.ones(len(x)))
    worst = two_budget_worst_case(B, x, y, A, radius_x, radius_noise, weights=mu)
    assert worst.verify().holds(1e-7), worst.verify()
    alone = two_budget_worst_case(B, x, y, A, radius_x, 1e-4 * radius_x, weights=mu).risk
    assert worst.risk >= alone * (1 - 1e-6)


def test_at_a_kink_the_worst_case_is_a_mixture_of_two_laws():
    """No residual, I - BA = diag(1, .5), B = diag(.5, 1): the top direction changes at price 1.

    There (1 + t) max(1 + .25/t, .25 + 1/t) = 2.5 is smallest, and one direction alone spends .4 or
    1.6 on the noise, whose budget is 1.
    """
    B, A = np.diag([0.5, 1.0]), np.diag([0.0, 0.5])
    y = np.array([[1.0, 1.0], [1.0, -1.0]])
    worst = two_budget_worst_case(B, y @ B.T, y, A, 1.0, 1.0)
    assert worst.risk == pytest.approx(2.5, rel=1e-8)
    np.testing.assert_allclose(worst.shares, 0.5, atol=1e-6)
    assert worst.verify().holds(1e-7)
    vars(worst)["displacement_noise"] = 1.1 * worst.displacement_noise
    vars(worst).pop("_certificate")
    assert not worst.verify().holds(1e-3)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.floats(0.1, 2.0))
def test_signal_and_noise_are_uncoupled_by_the_posterior_gain(seed, price_x, price, radius):
    """Completing the square: SignalNoise on (x, y) is Joint on (x - Γy, y) with B - Γ."""
    A, x, y, rng = problem(seed)
    structure = SignalNoise(A, price_x, price)
    gain, costs = structure.equivalent()
    assert isinstance(costs, Joint)
    dx, dy = rng.standard_normal((4, len(A.T))), rng.standard_normal((4, len(A)))
    np.testing.assert_allclose(
        structure.transport_cost(dx, dy), costs.transport_cost(dx - dy @ gain.T, dy), rtol=1e-9
    )
    B = rng.standard_normal(A.T.shape)
    worst = worst_case_risk(B, x, y, radius, structure)
    other = worst_case_risk(B - gain, x - y @ gain.T, y, radius, costs)
    assert worst.risk == pytest.approx(other.risk, rel=1e-9)
    assert worst.verify().holds(1e-9)
    assert worst.risk <= float(worst.bound) * (1 + 1e-12)
    kappa = structure.modulus(np.linalg.norm(B, 2))
    assert worst.bound <= (math.sqrt(worst.nominal_risk) + radius * kappa) ** 2 * (1 + 1e-12)
    fit = fit_linear(x=x, y=y, radius=radius, structure=structure)
    assert fit.verify().holds(1e-8)
    assert fit.risk <= worst.risk * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_wasserstein_mmse_estimator_against_frank_wolfe(seed, rng):
    d = (2, 5, 12)[seed]
    A = rng.standard_normal((d, d))
    moments = [(lambda r: r @ r.T + 0.3 * np.eye(d))(rng.standard_normal((d, d))) for _ in "xw"]
    fit = wasserstein_mmse(A, *moments, 0.7, 0.4)
    assert 0 <= fit.gap <= 1e-8
    reference = wasserstein_mmse_frank_wolfe(A, *moments, 0.7, 0.4, tolerance=1e-6)
    assert fit.risk == pytest.approx(reference.value, rel=2e-6)
    for cost, radius in zip(fit.worst.costs, (0.7, 0.4), strict=True):
        assert cost == pytest.approx(radius**2)
    other = independent_worst_case(reference.matrix, A, *moments, 0.7, 0.4)
    assert fit.lower <= other.risk * (1 + 1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_independent_signal_and_noise_are_two_problems_that_add(seed, radius_x, radius_noise):
    """Each is `worst_case_risk` of the data (Dz, z) with nothing to reconstruct but zero."""
    A, x, _, rng = problem(seed)
    B = rng.standard_normal(A.T.shape)
    noise = rng.standard_normal((30, len(A)))
    D = np.eye(len(B)) - B @ A
    worst = independent_worst_case(B, A, x.T @ x / 30, noise.T @ noise / 30, radius_x, radius_noise)
    zero = np.zeros_like(x)
    signal = worst_case_risk(-D, zero, x, radius_x).risk
    assert worst.risk_x == pytest.approx(signal, rel=1e-9)
    assert worst.risk_noise == pytest.approx(
        worst_case_risk(-B, np.zeros((30, len(B))), noise, radius_noise).risk, rel=1e-9
    )
    assert abs(worst.gap) <= 1e-9
    assert worst.costs[0] <= radius_x**2 * (1 + 1e-9)
    # dependent signal and noise can do more, together
    y = x @ A.T + noise
    if min(radius_x, radius_noise) > 0.01:
        together = two_budget_worst_case(B, x, y, A, radius_x, radius_noise).risk
        separate = (math.sqrt(worst.risk_x) + math.sqrt(worst.risk_noise)) ** 2
        assert together <= separate * (1 + 1e-9)


def test_with_radius_zero_it_is_the_mmse_map(rng):
    A = rng.standard_normal((3, 4))
    fit = wasserstein_mmse(A, 2.0, 0.5, 0.0, 0.0)
    expected = 2.0 * A.T @ np.linalg.inv(2.0 * A @ A.T + 0.5 * np.eye(3))
    np.testing.assert_allclose(fit.matrix, expected)
    assert fit.risk == pytest.approx(fit.lower)


@pytest.mark.parametrize("radius", [0.2, 1.0, 4.0])
def test_the_joint_fit_against_frank_wolfe(radius, rng):
    """Ascent in the covariances and Newton's method in the map meet."""
    root = rng.standard_normal((9, 9))
    rows = 3.0 * np.linalg.cholesky(root @ root.T + 0.1 * np.eye(9)).T
    fit = fit_linear(x=rows[:, :4], y=rows[:, 4:], radius=radius, structure="joint")
    theirs = joint_mmse_frank_wolfe(rows.T @ rows / 9, 4, radius, tolerance=1e-6)
    assert theirs.value <= fit.risk * (1 + 1e-9)
    assert theirs.value + theirs.gap >= fit.risk * (1 - 1e-9)
    assert theirs.gap <= 1e-6 * theirs.value
