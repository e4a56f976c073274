"""The linear map of smallest worst-case risk: saddle certificates, references, the reduction."""

import math
import pickle
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dro_core import (
    LinearDRO,
    NotOptimalWarning,
    YGivenX,
    cross_validated_radius,
    entropic_worst_case,
    fit_linear,
    worst_case_risk,
)
from dro_core.estimator import newton, path, search
from dro_core.operators import Integration
from dro_core.structure import as_structure

STRUCTURES = ["y|x", "joint", "x|y"]


def sines(n=64, modes=10, count=500, noise=0.0, seed=0):
    """The differentiation problem: truncated random sine series and their integrals."""
    rng = np.random.default_rng(seed)
    k = np.arange(1, modes + 1)
    waves = math.sqrt(2) * np.sin(np.pi * np.outer(k, (np.arange(n) + 0.5) / n))
    x = (rng.standard_normal((count, modes)) / k) @ waves
    y = Integration(n).apply(x)
    return x, y + noise * rng.standard_normal(y.shape)


def random_data(seed, noisy=True, rank=None):
    rng = np.random.default_rng(seed)
    n, m = (int(v) for v in rng.integers(1, 8, 2))
    rank = rank or n
    x = rng.standard_normal((40, rank)) @ rng.standard_normal((rank, n))
    A = rng.standard_normal((m, n)) @ np.diag(10.0 ** -np.linspace(0, 1, n))
    return x, x @ A.T + 0.2 * noisy * rng.standard_normal((40, m)), rng


def risk_of(B, x, y, radius, structure, epsilon=0.0, weights=None):
    if epsilon > 0:
        return entropic_worst_case(B, x, y, radius, epsilon, structure, weights=weights).risk
    return worst_case_risk(B, x, y, radius, structure, weights=weights).risk


@pytest.mark.parametrize(
    "size",
    [(24, 5, 60), pytest.param((64, 10, 500), marks=pytest.mark.slow)],
    ids=["24", "64"],
)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("radius", [0.02, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    ("epsilon", "largest"),
    [(1e-6, 1e-6), (1e-2, 1e-6), (1.0, 1e-9), (0.0, 1e-6)],
    ids=["1e-6", "1e-2", "1", "0"],
)
def test_saddle_gap_on_the_differentiation_problem(structure, radius, epsilon, largest, size):
    n, modes, count = size
    x, y = sines(n, modes, count)
    fit = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon, structure=structure)
    certificate = fit.verify()
    assert fit.gap <= largest
    assert certificate.gap <= largest
    assert certificate.holds(largest)
    assert fit.risk == pytest.approx(risk_of(fit.matrix, x, y, radius, structure, epsilon))


@pytest.mark.parametrize("radius", [0.1, 1.0])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_small_noise_free_problems_are_solved_to_1e_6_by_the_exact_law(radius, structure):
    x, y = sines(n=12, modes=4, count=40)
    fit = fit_linear(x=x, y=y, radius=radius, structure=structure)
    assert fit.verify().holds(1e-6)


@settings(max_examples=50)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(STRUCTURES),
    st.floats(0.02, 10.0),
    st.sampled_from([0.0, 1e-3, 0.3]),
)
def test_noisy_data_are_certified_to_1e_8(seed, structure, radius, epsilon):
    x, y, rng = random_data(seed)
    weights = rng.dirichlet(np.ones(len(x)))
    fit = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon, structure=structure, weights=weights)
    certificate = fit.verify()
    assert certificate.holds(1e-8), (fit, certificate)
    assert fit.lower <= fit.risk


def test_a_map_near_zero_is_found_from_wherever_the_search_starts():
    """Zero is a kink of the risk and no minimum here; 0.50518 by a grid and a simplex search."""
    x, y = np.array([[-0.6191], [0.7929]]), np.array([[0.7398, 0.0519], [0.2959, 1.4275]])
    fit = fit_linear(x=x, y=y, radius=0.7663, epsilon=0.06505)
    found = minimize(
        lambda b: risk_of(b[None], x, y, 0.7663, "y|x", 0.06505),
        [0.01, 0.01],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000},
    )
    assert found.fun == pytest.approx(0.50518, abs=5e-6)
    assert fit.risk == pytest.approx(found.fun, rel=1e-8)
    assert fit.verify().holds(1e-8)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.floats(-8.0, -0.3), st.sampled_from([0.0, 1e-4, 0.1, 1.0, 30.0])
)
def test_maps_near_zero_are_certified(seed, logarithm, entropy):
    """Zero is optimal from the radius on that makes y uncorrelated with x; here, just below it."""
    rng = np.random.default_rng(seed)
    count, n, m = rng.integers(1, 7), rng.integers(1, 4), rng.integers(1, 5)
    x, y = rng.standard_normal((count, n)), rng.standard_normal((count, m))
    radius = np.linalg.norm(x @ np.linalg.pinv(x) @ y) / np.sqrt(count) * (1 - 10.0**logarithm)
    fit = fit_linear(x=x, y=y, radius=radius, epsilon=entropy * radius**2)
    assert fit.verify().holds(1e-5), fit
    assert fit.risk <= np.mean((x**2).sum(axis=1)) * (1 + 1e-12)


def test_a_map_that_is_not_proved_optimal_comes_with_a_warning(monkeypatch):
    """Forced: the search gets a law without move and map, whose lower value is that at radius 0."""
    x, y, _ = random_data(0)
    monkeypatch.setattr(
        search.Search, "run", lambda self: self.fit(np.zeros((x.shape[1], y.shape[1])), [])
    )
    with pytest.warns(NotOptimalWarning, match=r"may be 0\.\d+ of itself above the smallest"):
        fit = fit_linear(x=x, y=y, radius=0.1)
    assert fit.gap > 1e-3


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(STRUCTURES), st.floats(0.02, 5.0))
def test_noise_free_data_are_certified_to_1e_4(seed, structure, radius):
    x, y, _ = random_data(seed, noisy=False, rank=int(seed % 3) + 1)
    fit = fit_linear(x=x, y=y, radius=radius, structure=structure)
    assert fit.verify().holds(1e-4), fit


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(STRUCTURES), st.sampled_from([0.0, 0.1]))
def test_no_other_map_is_better_than_the_lower_value(seed, structure, epsilon):
    """Weak duality of the saddle problem: any map, any law."""
    x, y, rng = random_data(seed)
    fit = fit_linear(x=x, y=y, radius=0.5, epsilon=epsilon, structure=structure)
    for scale in (1e-3, 0.1, 1.0):
        other = fit.matrix + scale * rng.standard_normal(fit.matrix.shape)
        assert risk_of(other, x, y, 0.5, structure, epsilon) >= fit.lower * (1 - 1e-9)
    for other in (np.zeros_like(fit.matrix), fit_linear(x=x, y=y, radius=0.0).matrix):
        assert risk_of(other, x, y, 0.5, structure, epsilon) >= fit.lower * (1 - 1e-9)


def test_a_search_may_end_at_a_larger_gap(recwarn, monkeypatch):
    """It ends earlier, says where, and does not warn of what was asked for."""
    x, y, _ = random_data(6, noisy=False)
    judged = []
    fit_of = search.Search.fit
    monkeypatch.setattr(
        search.Search, "fit", lambda *args: judged.append(fit_of(*args)) or judged[-1]
    )
    best = fit_linear(x=x, y=y, radius=0.3)
    whole = len(judged)
    rough = fit_linear(x=x, y=y, radius=0.3, tolerance=0.3)
    assert len(judged) - whole < whole
    assert judged[-1].gap <= 0.3
    assert rough.gap <= 0.3
    assert best.lower * (1 - 1e-9) <= rough.risk <= best.risk / 0.7
    assert rough.verify().holds(0.3)
    assert not recwarn.list


@pytest.mark.parametrize("structure", ["y|x", "joint"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_against_a_semidefinite_programme(structure, noise, rng):
    """min λρ² + tr T, [[T, Rᵀ, 0], [R, I, C], [0, Cᵀ, λI]] >= 0 over B, λ, T."""
    import cvxpy as cp

    n, m, radius = 4, 5, 0.4
    x = rng.standard_normal((30, n))
    y = x @ rng.standard_normal((n, m)) + noise * rng.standard_normal((30, m))
    both = np.linalg.qr(np.hstack([x, y]) / math.sqrt(30), mode="r")
    B, lam = cp.Variable((n, m)), cp.Variable(nonneg=True)
    R = both[:, :n].T - B @ both[:, n:].T
    C = -B if structure == "y|x" else cp.hstack([np.eye(n), -B])
    T = cp.Variable((len(both), len(both)), symmetric=True)
    zero = np.zeros((len(both), C.shape[1]))
    block = cp.bmat([[T, R.T, zero], [R, np.eye(n), C], [zero.T, C.T, lam * np.eye(C.shape[1])]])
    problem = cp.Problem(cp.Minimize(lam * radius**2 + cp.trace(T)), [block >> 0])
    problem.solve(solver="CLARABEL")
    fit = fit_linear(x=x, y=y, radius=radius, structure=structure)
    assert fit.risk == pytest.approx(problem.value, rel=1e-6)
    assert fit.lower <= problem.value * (1 + 1e-6)


@pytest.mark.parametrize("structure", ["y|x", "joint"])
@pytest.mark.parametrize("shape", [(200, 10), (300, 40), (8, 20)])
def test_scalar_output_is_the_square_root_lasso_of_the_euclidean_norm(structure, shape, rng):
    """argmin RMSE + ρ‖(s, β)‖."""
    count, d = shape
    y = rng.standard_normal((count, d))
    x = y @ rng.standard_normal((d, 1)) / math.sqrt(d) + 0.5 * rng.standard_normal((count, 1))
    shift = float(structure == "joint")

    def objective(beta):
        rmse = math.sqrt(((x[:, 0] - y @ beta) ** 2).mean())
        return rmse + 0.3 * math.hypot(shift, np.linalg.norm(beta))

    fit = fit_linear(x=x, y=y, radius=0.3, structure=structure)
    assert fit.verify().holds(1e-12 if count > d else 1e-8)
    assert math.sqrt(fit.risk) == pytest.approx(objective(fit.matrix[0]), rel=1e-9)
    reference = minimize(objective, fit.matrix[0] + 0.01, method="BFGS", options={"gtol": 1e-9})
    assert objective(fit.matrix[0]) <= reference.fun * (1 + 1e-12)


def test_radius_zero_is_least_squares_of_smallest_norm(rng):
    x, y = sines(n=16, modes=3, count=40)
    fit = fit_linear(x=x, y=y, radius=0.0)
    np.testing.assert_allclose(fit.matrix, np.linalg.lstsq(y, x, rcond=1e-12)[0].T, atol=1e-7)
    assert fit.gap == 0.0
    assert fit.verify().holds()
    ridge = fit_linear(x=x, y=y, radius=0.0, epsilon=0.2, structure="joint")
    moments = y.T @ y / len(y) + 0.1 * np.eye(16)
    np.testing.assert_allclose(ridge.matrix, np.linalg.solve(moments, y.T @ x / len(y)).T)
    assert ridge.verify().holds(1e-9)


def test_at_small_radius_noise_free_data_are_inverted_exactly():
    """The kink at M = 0, up to ρ = (wᵀS⁺w)^(-1/2); beyond, a residual is worth having."""
    x, y = sines(n=16, modes=4, count=100)
    exact = np.linalg.lstsq(y, x, rcond=1e-12)[0].T
    w = np.linalg.svd(exact)[2][0]
    threshold = 1 / math.sqrt(w @ np.linalg.pinv(y.T @ y / len(y), rcond=1e-12) @ w)
    below = fit_linear(x=x, y=y, radius=0.99 * threshold)
    np.testing.assert_allclose(below.matrix, exact, atol=1e-6)
    assert below.verify().holds(1e-9)
    above = fit_linear(x=x, y=y, radius=1.2 * threshold)
    assert ((x - above.predict(y)) ** 2).sum(axis=1).mean() > 1e-8
    assert above.verify().holds(1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_at_large_radius_zero_is_optimal_under_y_given_x(epsilon):
    """From ρ² = tr S_yx S_xx⁺ S_xy on: the adversary can make y uncorrelated with x."""
    x, y, _ = random_data(3)
    slope = np.linalg.lstsq(x, y, rcond=None)[0]
    threshold = math.sqrt(((x @ slope) ** 2).sum(axis=1).mean())
    beyond = fit_linear(x=x, y=y, radius=1.01 * threshold, epsilon=epsilon)
    assert not beyond.matrix.any()
    assert beyond.risk == pytest.approx((x**2).sum(axis=1).mean())
    assert beyond.verify().holds(1e-9)
    before = fit_linear(x=x, y=y, radius=0.9 * threshold, epsilon=epsilon)
    assert before.matrix.any()
    assert before.risk < beyond.risk


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_the_reduction_to_the_subspaces_of_the_data_loses_nothing(structure, epsilon, rng):
    """The lemma: P_X B P_Y is never worse than B, whatever B is off the data."""
    x, y = sines(n=12, modes=3, count=50)
    space_x, space_y = (np.linalg.svd(rows)[2][:3].T for rows in (x, y))
    project_x, project_y = space_x @ space_x.T, space_y @ space_y.T
    for _ in range(20):
        B = rng.standard_normal((12, 12))
        reduced = project_x @ B @ project_y
        full = risk_of(B, x, y, 0.5, structure, epsilon)
        assert risk_of(reduced, x, y, 0.5, structure, epsilon) <= full * (1 + 1e-12)
        # the reflection 2P - I of the proof leaves the risk as it is
        flip_x, flip_y = 2 * project_x - np.eye(12), 2 * project_y - np.eye(12)
        mirrored = risk_of(flip_x @ B @ flip_y, x, y, 0.5, structure, epsilon)
        assert mirrored == pytest.approx(full, rel=1e-9)
    fit = fit_linear(x=x, y=y, radius=0.5, epsilon=epsilon, structure=structure)
    np.testing.assert_allclose(project_x @ fit.matrix @ project_y, fit.matrix, atol=1e-9)
    assert (fit.singular_values[3:] < 1e-9 * fit.singular_values[0]).all()


def test_scaling_rotation_and_order_of_the_data(rng):
    x, y, _ = random_data(5)
    plain = fit_linear(x=x, y=y, radius=0.4, structure="joint")
    scaled = fit_linear(x=1e8 * x, y=1e8 * y, radius=0.4e8, structure="joint")
    np.testing.assert_allclose(scaled.matrix, plain.matrix, rtol=1e-6, atol=1e-8)
    assert scaled.risk == pytest.approx(1e16 * plain.risk, rel=1e-9)
    order = rng.permutation(len(x))
    shuffled = fit_linear(x=x[order], y=y[order], radius=0.4, structure="joint")
    assert shuffled.risk == pytest.approx(plain.risk, rel=1e-9)
    turn = np.linalg.qr(rng.standard_normal((y.shape[1],) * 2))[0]
    turned = fit_linear(x=x, y=y @ turn, radius=0.4, structure="joint")
    np.testing.assert_allclose(turned.matrix, plain.matrix @ turn, atol=1e-6)


def test_the_risk_grows_with_the_radius_and_with_what_may_move():
    x, y, _ = random_data(8)
    risks = [fit_linear(x=x, y=y, radius=r).risk for r in (0.0, 0.1, 0.5, 2.0)]
    assert (np.diff(risks) > -1e-12).all()
    by = {s: fit_linear(x=x, y=y, radius=0.4, structure=s).risk for s in STRUCTURES}
    assert by["y|x"] <= by["joint"] * (1 + 1e-9)
    assert by["x|y"] <= by["joint"] * (1 + 1e-9)


def test_a_forged_fit_is_refused():
    x, y, rng = random_data(2)
    fit = fit_linear(x=x, y=y, radius=0.4)
    assert fit.verify().holds(1e-8)
    worse = fit.matrix + 0.05 * rng.standard_normal(fit.matrix.shape)
    vars(fit)["worst"] = worst_case_risk(worse, x, y, 0.4)
    assert not fit.verify().holds(1e-8)
    fit = fit_linear(x=x, y=y, radius=0.4)
    law = fit.law
    vars(fit)["law"] = type(law)(2 * law.displacement_x, 2 * law.displacement_y, law.roots)
    assert fit.verify().spent > fit.verify().budget
    assert not fit.verify().holds(1.0)


def test_degenerate_data():
    zero = fit_linear(x=np.zeros((5, 2)), y=np.ones((5, 3)), radius=0.3)
    assert zero.risk == 0.0
    assert zero.verify().holds()
    blind = fit_linear(x=np.ones((5, 2)), y=np.zeros((5, 3)), radius=0.3)
    assert not blind.matrix.any()
    assert blind.risk == pytest.approx(2.0)
    assert blind.verify().holds(1e-9)
    single = fit_linear(x=[[1.0, 2.0]], y=[[1.0]], radius=0.1, structure="joint")
    assert single.verify().holds(1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("structure", ["y|x", "joint"])
@pytest.mark.parametrize("share", [1e-6, 1e-8, 1e-10, 1e-12])
def test_data_without_noise_and_next_to_no_entropy(structure, share):
    """Near the kink the Gaussians have few digits: those of a larger weight prove the map there."""
    x, y = sines()
    fit = fit_linear(x=x, y=y, radius=0.02, epsilon=share * 0.02**2, structure=structure)
    assert fit.gap <= (1e-9 if share >= 1e-8 else 2e-6)
    assert fit.verify().holds(1e-5)


@pytest.mark.parametrize("size", [40, 210])
@pytest.mark.parametrize(("structure", "epsilon"), [("y|x", 0.0), ("joint", 0.0), ("y|x", 1e-3)])
def test_noisy_data_take_a_dozen_factorizations(size, structure, epsilon, monkeypatch):
    """Straight to the minimum: a step has three (the larger problem starts in single precision)."""
    rng = np.random.default_rng(size)
    x = rng.standard_normal((3 * size, size))
    y = x @ rng.standard_normal((size, size)) / math.sqrt(size)
    y += rng.standard_normal(y.shape)
    counted, eigh = [], newton.eigh
    monkeypatch.setattr(newton, "eigh", lambda *a, **k: counted.append(a[0].dtype) or eigh(*a, **k))
    radius = 0.3 * np.linalg.norm(y) / math.sqrt(len(y))
    fit = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon * radius**2, structure=structure)
    assert fit.gap <= 1e-9
    assert fit.verify().holds(1e-9)
    assert len(counted) <= 24
    assert (np.dtype(np.float32) in counted) == (size == 210)


def cumulated(n, noise=0.02):
    """Random walks, and their integrals with noise: spectra over many orders, as of images."""
    rng = np.random.default_rng(n)
    x = np.cumsum(rng.standard_normal((2 * n, n)), axis=1) / math.sqrt(n)
    return x, np.cumsum(x, axis=1) / n + noise * rng.standard_normal(x.shape)


@pytest.mark.parametrize("structure", ["y|x", "joint"])
@pytest.mark.parametrize("radius", [0.02, 0.06])
@pytest.mark.parametrize("size", [60, 210])
def test_smooth_data_are_solved_down_the_path(size, structure, radius, monkeypatch):
    """Far from the minimum of such data Newton's method crawls: it went a hundred steps."""
    x, y = cumulated(size)
    steps, step = [], newton._newton_step
    monkeypatch.setattr(newton, "_newton_step", lambda *a, **k: steps.append(1) or step(*a, **k))
    fit = fit_linear(x=x, y=y, radius=radius * math.sqrt(size), structure=structure)
    assert fit.verify().holds(1e-9)
    assert len(steps) <= 40


def reduced_problem(size, radius, structure="y|x"):
    """Noisy data of full rank in their own coordinates."""
    x, y = cumulated(size, 0.1)
    weights = np.full(len(x), 1 / len(x))
    moves = as_structure(structure)
    asked = search.Search(x, y, weights, radius * math.sqrt(size), 0.0, moves)
    return asked.reduced


@pytest.mark.parametrize("structure", ["y|x", "joint"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
def test_the_best_response_of_the_minimiser_is_the_minimiser(structure, epsilon):
    """KB + B E yy' = E xy' with the K of B is stationarity; from elsewhere no response raises R."""
    problem = reduced_problem(20, 0.05, structure)
    least = list(path.first_attempts(problem, epsilon))[-1]
    assert np.abs(least.gradient).max() < 1e-8
    same = path.alternate(problem, least.B, epsilon)
    np.testing.assert_allclose(same.B, least.B, rtol=0, atol=1e-7 * np.abs(least.B).max())
    for weight in (1e-4, 1e-2, 1.0):
        ridge = problem.point(problem.ridge(weight), epsilon)
        assert least.value < path.alternate(problem, ridge.B, epsilon).value < ridge.value


@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
def test_a_hessian_of_single_precision_gives_the_digits_of_double(epsilon):
    problem = reduced_problem(40, 0.05)
    least = list(path.first_attempts(problem, epsilon))[-1]
    single = problem.single()
    rough = newton.minimize(single, single.ridge(1e-3), epsilon, last=1e-3)
    fine = newton.refine(problem, rough)
    assert fine.B.dtype == np.float64
    assert fine.value == pytest.approx(least.value, rel=1e-11)
    assert problem.point(rough.B.astype(np.float64), epsilon).value > least.value * (1 + 2e-11)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_the_best_map_of_the_steepest_ray(epsilon):
    """At a large radius the start is a multiple of S'xx^-1: as good as the best of a fine grid."""
    problem = reduced_problem(12, 0.5)
    poor = 10 * problem.ridge(1e-6)
    B = path._better_than_zero(problem, poor, epsilon)
    ray, *_ = np.linalg.lstsq(
        np.vstack([problem.mixed, problem.rest]),
        np.vstack([problem.root, np.zeros((len(problem.rest), len(problem.root)))]),
        rcond=None,
    )
    np.testing.assert_allclose(B / np.linalg.norm(B), ray / np.linalg.norm(ray), atol=1e-8)
    grid = np.linalg.norm(poor) / np.linalg.norm(ray) * 4.0 ** -np.arange(-2, 20)
    best = min(problem.point(t * ray, epsilon).value for t in grid)
    assert problem.point(B, epsilon).value == pytest.approx(best, rel=1e-9)


def test_784_pixels_with_data_of_rank_200_within_a_minute():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 200)) @ rng.standard_normal((200, 784)) / 30
    y = Integration(784).apply(x)
    for radius, epsilon in ((0.1, 0.0), (0.1, 1e-2), (1.0, 1e-6)):
        fit = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon)
        assert fit.verify().holds(1e-4)


# --- the scikit-learn interface -----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_an_intercept_is_a_frozen_measurement_of_one(seed, weighted):
    x, y, _ = random_data(seed)
    rng = np.random.default_rng(seed)
    x, y = x + rng.standard_normal(x.shape[1]), y + 3.0 * rng.standard_normal(y.shape[1])
    weights = rng.dirichlet(np.ones(len(x))) if weighted else None
    model = LinearDRO(0.3, fit_intercept=True).fit(y, x, weights)
    ones = np.hstack([y, np.ones((len(y), 1))])
    prices = np.r_[np.ones(y.shape[1]), np.inf]
    best = fit_linear(x=x, y=ones, radius=0.3, structure=YGivenX(prices), weights=weights)
    assert model.fit_.risk == pytest.approx(best.risk, rel=1e-6)
    size = np.abs(best.matrix).max()
    np.testing.assert_allclose(model.coef_, best.matrix[:, :-1], atol=1e-4 * size)
    np.testing.assert_allclose(model.intercept_, best.matrix[:, -1], atol=1e-4 * size)
    np.testing.assert_allclose(model.predict(y), y @ model.coef_.T + model.intercept_, rtol=1e-12)


def test_the_intercept_is_zero_unless_it_is_asked_for(rng):
    x, y, _ = random_data(1)
    np.testing.assert_array_equal(LinearDRO().fit(y, x).intercept_, np.zeros(x.shape[1]))
    several = LinearDRO([0.1, 0.2], fit_intercept=True).fit(y + 5.0, x - 7.0)
    assert several.score(y + 5.0, x - 7.0) == pytest.approx(
        LinearDRO(several.radius_, fit_intercept=True).fit(y, x).score(y, x), rel=1e-6
    )
    with pytest.raises(TypeError, match="fit_intercept: 'yes'; allowed: True or False"):
        LinearDRO(fit_intercept="yes").fit(y, x)


def test_linear_dro_fits_predicts_and_is_cloned(rng):
    x, y, _ = random_data(4)
    model = LinearDRO(radius=0.3, structure="joint").fit(y, x)
    np.testing.assert_array_equal(
        model.coef_, fit_linear(x=x, y=y, radius=0.3, structure="joint").matrix
    )
    np.testing.assert_array_equal(LinearDRO(0.3, 0.0, "joint").fit(X=y, y=x).coef_, model.coef_)
    np.testing.assert_array_equal(model.predict(y), y @ model.coef_.T)
    assert model.fit_.gap < 1e-8
    assert model.n_features_in_ == y.shape[1]
    assert model.score(y, x) <= LinearDRO(radius=0.0).fit(y, x).score(y, x)
    copy = LinearDRO(**model.get_params())
    assert repr(copy) == repr(model)
    assert copy.set_params(radius=0.1).radius == 0.1
    with pytest.raises(ValueError, match=r"parameter: unknown value 'radus'.*'radius'"):
        copy.set_params(epsilon=9.0, radus=1)
    assert copy.epsilon == 0.0
    with pytest.raises(ValueError, match=r"call fit\(X, y\) before predict"):
        copy.predict(y)
    with pytest.raises(ValueError, match=r"X has .* features, but LinearDRO is expecting"):
        model.predict(np.ones((2, y.shape[1] + 1)))
    stored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(stored.predict(y), model.predict(y))


def test_linear_dro_takes_weights_of_any_sum_and_targets_without_a_second_axis(rng):
    x, y, _ = random_data(4)
    counts = rng.integers(0, 3, len(x))
    weighted = LinearDRO(radius=0.3).fit(y, x, sample_weight=7.0 * counts)
    repeated = LinearDRO(radius=0.3).fit(np.repeat(y, counts, axis=0), np.repeat(x, counts, axis=0))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-8)
    assert weighted.score(y, x, counts) == pytest.approx(
        weighted.score(np.repeat(y, counts, axis=0), np.repeat(x, counts, axis=0))
    )
    flat = LinearDRO(radius=0.3).fit(y, x[:, 0])
    column = LinearDRO(radius=0.3).fit(y, x[:, :1])
    assert flat.coef_.shape == (1, y.shape[1])
    np.testing.assert_array_equal(flat.predict(y), column.predict(y)[:, 0])
    assert flat.score(y, x[:, 0]) == column.score(y, x[:, :1])


class Frame:
    """What `LinearDRO` sees of a data frame."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_linear_dro_keeps_to_the_columns_that_it_was_fitted_on():
    """Columns in another order would be multiplied by one another's coefficients."""
    _, y, rng = random_data(4)
    y, x = rng.standard_normal((20, 2)), rng.standard_normal((20, 1))
    model = LinearDRO().fit(Frame(y, ["a", "b"]), x)
    assert list(model.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(model.predict(Frame(y, ["a", "b"])), y @ model.coef_.T)
    with pytest.raises(ValueError, match=r"X: The feature names should match"):
        model.predict(Frame(y[:, ::-1], ["b", "a"]))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(y)
    assert not hasattr(model.fit(y, x), "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but LinearDRO was fitted without"):
        model.predict(Frame(y, ["a", "b"]))


def test_pandas_frames_of_nullable_types_are_numbers_and_missing_ones_are_named():
    pd = pytest.importorskip("pandas", reason="pandas is optional")
    x, y = np.array([[1.0], [0.0], [3.0]]), np.array([[1, 2], [0, 1], [5, 3]])
    plain = fit_linear(x=x, y=y, radius=0.1)
    for kind in ("Int64", "UInt8", "Float64", "Float32"):
        frame = pd.DataFrame(y, columns=["a", "b"]).astype(kind)
        assert fit_linear(x=x, y=frame, radius=0.1).risk == pytest.approx(plain.risk)
        assert worst_case_risk([[1.0, 2.0]], x, frame, 0.1).risk > 0
        model = LinearDRO().fit(frame, pd.Series(x[:, 0], dtype="Float64"))
        assert list(model.feature_names_in_) == ["a", "b"]
        frame.iloc[1, 0] = pd.NA
        with pytest.raises(ValueError, match=r"y: 1 entries are NaN.*index \(1, 0\)"):
            fit_linear(x=x, y=frame, radius=0.1)
        with pytest.raises(ValueError, match=r"X: 1 entries are NaN.*index \(1, 0\)"):
            model.predict(frame)
    weights = pd.Series([0.5, 0.25, 0.25], dtype="Float64")
    assert fit_linear(x=x, y=y, radius=0.1, weights=weights).verify().holds()
    with pytest.raises(TypeError, match="y: dtype object"):
        fit_linear(x=x, y=pd.DataFrame({"a": ["1", "2", "3"]}), radius=0.1)


@pytest.mark.filterwarnings("ignore:Estimator LinearDRO does not inherit:UserWarning")
def test_linear_dro_passes_the_checks_of_scikit_learn():
    checks = pytest.importorskip(
        "sklearn.utils.estimator_checks", reason="scikit-learn is optional"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sys.modules["sklearn.exceptions"].SkipTestWarning)
        checks.check_estimator(LinearDRO())
        checks.check_estimator(LinearDRO(fit_intercept=True))
        checks.check_estimator(LinearDRO(radius=0.2, epsilon=0.01, structure="joint"))


def test_linear_dro_in_pipelines_and_grid_searches_of_scikit_learn(rng):
    """A search finds the radius that a loop over folds finds, with finite scores."""
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y = rng.standard_normal((30, 5))
    x = y @ rng.standard_normal((5, 2)) + 2.0 * rng.standard_normal((30, 2))
    folds, radii = KFold(3), [0.0, 0.1, 0.3, 1.0, 3.0]
    brute = np.array(
        [[LinearDRO(r).fit(y[a], x[a]).score(y[b], x[b]) for a, b in folds.split(y)] for r in radii]
    )
    search = GridSearchCV(LinearDRO(), {"radius": radii}, cv=folds).fit(y, x)
    scores = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(scores, brute.mean(axis=1), rtol=1e-9)
    best = radii[int(np.argmax(brute.mean(axis=1)))]
    assert search.best_params_ == {"radius": best}
    assert best not in (radii[0], radii[-1])
    np.testing.assert_allclose(
        cross_val_score(LinearDRO(best), y, x, cv=folds), brute[radii.index(best)]
    )
    scaled = make_pipeline(StandardScaler(with_mean=False), LinearDRO(best))
    by_hand = y / y.std(axis=0)
    np.testing.assert_allclose(
        scaled.fit(y, x).predict(y), LinearDRO(best).fit(by_hand, x).predict(by_hand), rtol=1e-6
    )
    out_of_fold = cross_val_predict(LinearDRO(best), y, x[:, 0], cv=folds)
    for a, b in folds.split(y):
        np.testing.assert_allclose(
            out_of_fold[b], LinearDRO(best).fit(y[a], x[a, 0]).predict(y[b]), rtol=1e-9
        )
    several = LinearDRO(radius=[0.0, 0.1], seed=3)
    assert clone(several).get_params() == several.get_params()
    with pytest.raises(NotFittedError):
        several.predict(y)
    assert "LinearDRO" in scaled._repr_html_()


def test_the_frames_that_scikit_learn_sets_as_output_are_features():
    pd = pytest.importorskip("pandas", reason="pandas is optional")
    pytest.importorskip("sklearn", reason="scikit-learn is optional")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, _ = random_data(4)
    frame = pd.DataFrame(y, columns=[f"pixel{i}" for i in range(y.shape[1])])
    pipeline = make_pipeline(StandardScaler(), LinearDRO()).set_output(transform="pandas")
    pipeline.fit(frame, x)
    assert list(pipeline[-1].feature_names_in_) == list(frame.columns)
    assert pipeline.predict(frame).shape == x.shape


def test_the_radius_of_linear_dro_by_cross_validation():
    x, y, _ = random_data(4)
    x, radii = x[:, :2], [0.0, 0.05, 0.5]
    model = LinearDRO(radius=radii, folds=3, seed=1).fit(y, x)
    found = cross_validated_radius(x, y, radii, folds=3, seed=1)
    assert model.radius_ == found.radius
    assert (
        found.held_out.mean(axis=1).min()
        == found.held_out.mean(axis=1)[list(found.radii).index(found.radius)]
    )


@pytest.mark.slow
def test_fifteen_hundred_small_problems_are_proved_optimal():
    """Every structure, with and without entropy, some samples without weight."""
    gaps = []
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        count, n, m = (int(size) for size in rng.integers(1, 5, 3))
        weights = rng.uniform(size=count) * (rng.uniform(size=count) > 0.4)
        weights[0] += 1e-3
        fit = fit_linear(
            x=rng.standard_normal((count, n)),
            y=rng.standard_normal((count, m)),
            radius=10.0 ** rng.uniform(-1.5, 0.7),
            epsilon=10.0 ** rng.uniform(-4, 0) if seed % 2 else 0.0,
            structure=STRUCTURES[seed % 3],
            weights=weights / weights.sum() if seed % 5 == 0 else None,
        )
        gaps.append(fit.verify().gap)
    assert max(gaps) < 1e-5, f"seed {int(np.argmax(gaps))}"
