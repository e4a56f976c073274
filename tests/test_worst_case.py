"""The exact worst case of a linear map: properties, oracles, known answers, certificates."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dro_core import (
    InfeasibleRadiusError,
    LinearReconstruction,
    XShift,
    dual_value,
    explicit_bound,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.reference import worst_case_risk_sdp
from dro_core.testing import (
    check_certificate,
    check_feasible,
    check_ordering,
    check_weak_duality,
    laws,
    maps,
    problems,
)

NAMED = ("joint", "y|x", "x|y")


def with_law(**options):
    return problems(**options).flatmap(lambda p: laws(p).map(lambda law: (p, law)))


def orthogonal(rng, size):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def check_same(a, b, rtol=1e-9):
    assert a == pytest.approx(b, rel=rtol, abs=1e-250)


def check_same_root(found, expected, problem, rtol=1e-9):
    """Equal root risks, up to the rounding of the residuals (differences of x and By)."""
    noise = 1e-13 * (np.abs(problem.x).max() + np.abs(problem.y @ problem.B.T).max())
    assert abs(math.sqrt(found) - math.sqrt(expected)) <= rtol * math.sqrt(expected) + noise


# --- duality ---------------------------------------------------------------------------------


@settings(max_examples=400)
@given(with_law())
def test_weak_duality_of_the_risk(case):
    problem, law = case
    check_weak_duality(problem.worst_case().risk, problem, law)


@given(with_law(), st.floats(-4, 4))
def test_weak_duality_at_any_multiplier(case, power):
    problem, law = case
    worst = problem.worst_case()
    threshold = worst.verify().threshold
    multiplier = threshold * (1 + 10**power) + (1.0 if threshold == 0 else 0.0)
    value = dual_value(
        problem.B,
        problem.x,
        problem.y,
        multiplier,
        problem.radius,
        problem.structure,
        weights=problem.weights,
    )
    check_weak_duality(value, problem, law)
    check_ordering(worst.risk, value)


@settings(max_examples=400)
@given(problems())
def test_strong_duality_is_certified(problem):
    check_certificate(problem.worst_case())


@pytest.mark.parametrize("structure", ["joint", "y|x", "x|y", "x"])
@pytest.mark.parametrize("radius", [0.01, 1.0, 30.0])
def test_strong_duality_against_a_semidefinite_programme(structure, radius, rng):
    B, A = rng.standard_normal((2, 4, 4))
    x, y = rng.standard_normal((2, 9, 4))
    weights = rng.dirichlet(np.ones(9))
    if structure == "x":
        y = x @ A.T
    chosen = XShift(A) if structure == "x" else structure
    exact = worst_case_risk(B, x, y, radius, chosen, weights=weights)
    reference = worst_case_risk_sdp(B, x, y, radius, structure, forward=A, weights=weights)
    check_same(exact.risk, reference.risk, 1e-7)
    check_same(exact.multiplier, reference.multiplier, 1e-3)


def test_hard_case_against_a_semidefinite_programme(rng):
    B = rng.standard_normal((4, 4))
    left = np.linalg.svd(B)[0]
    y = rng.standard_normal((9, 4))
    for columns in ([], [3], [1, 2]):  # no residual, or none on the top singular direction
        x = y @ B.T + rng.standard_normal((9, len(columns))) @ left[:, columns].T
        worst = worst_case_risk(B, x, y, 50.0)
        check_same(worst.risk, worst_case_risk_sdp(B, x, y, 50.0).risk, 1e-7)
        assert worst.multiplier == pytest.approx(np.linalg.norm(B, 2) ** 2, rel=1e-12)
        check_certificate(worst)


@given(problems(zero_radius=False))
def test_the_multiplier_minimises_the_dual(problem):
    worst = problem.worst_case()
    threshold = worst.verify().threshold
    if not worst.multiplier > threshold * (1 + 1e-6):
        return  # hard case: the minimum is the limit at the threshold
    arguments = (problem.B, problem.x, problem.y)
    rest = (problem.radius, problem.structure)
    at = dual_value(*arguments, worst.multiplier, *rest, weights=problem.weights)
    check_same(at, worst.risk)
    for factor in (1.01, 0.99):
        multiplier = worst.multiplier * factor
        if multiplier > threshold:
            off = dual_value(*arguments, multiplier, *rest, weights=problem.weights)
            check_ordering(at, off)


# --- ordering, monotonicity, concavity --------------------------------------------------------


@given(problems())
def test_structured_risks_are_below_the_joint_one(problem):
    risks = {name: problem.worst_case(name).risk for name in NAMED}
    check_ordering(risks["y|x"], risks["joint"])
    check_ordering(risks["x|y"], risks["joint"])
    for name in NAMED:
        check_ordering(problem.fidelity, risks[name])


@given(problems(), st.lists(st.floats(0, 1e3), min_size=3, max_size=8))
def test_risk_is_monotone_and_concave_in_the_budget(problem, budgets):
    budgets = np.sort(np.array(budgets))
    curve = worst_case_curve(
        problem.B,
        problem.x,
        problem.y,
        np.sqrt(budgets),
        problem.structure,
        weights=problem.weights,
    )
    check_ordering(*curve.risk)
    middle = worst_case_curve(
        problem.B,
        problem.x,
        problem.y,
        np.sqrt((budgets[1:] + budgets[:-1]) / 2),
        problem.structure,
        weights=problem.weights,
    ).risk
    for chord, value in zip((curve.risk[1:] + curve.risk[:-1]) / 2, middle, strict=True):
        check_ordering(chord, value)
    decreasing = curve.multiplier[np.isfinite(curve.multiplier) & (budgets > 1e-12)]
    check_ordering(*decreasing[::-1])


@given(problems())
def test_curve_equals_single_calls(problem):
    radii = np.array([0.0, 0.3, 2.0]) * max(problem.radius, 0.1)
    curve = worst_case_curve(
        problem.B, problem.x, problem.y, radii, problem.structure, weights=problem.weights
    )
    check_same(curve.nominal_risk, problem.fidelity)
    for k, radius in enumerate(radii):
        single = worst_case_risk(
            problem.B, problem.x, problem.y, radius, problem.structure, weights=problem.weights
        )
        assert (curve.risk[k], curve.multiplier[k], curve.bound[k], curve.radius[k]) == (
            single.risk,
            single.multiplier,
            single.bound,
            radius,
        )


# --- invariances ------------------------------------------------------------------------------


@given(problems(structure="y|x"), st.sampled_from(NAMED), st.integers(0, 2**32 - 1))
def test_orthogonal_invariance(problem, name, seed):
    rng = np.random.default_rng(seed)
    Q, P = orthogonal(rng, problem.x.shape[1]), orthogonal(rng, problem.y.shape[1])
    turned = worst_case_risk(
        Q @ problem.B @ P.T,
        problem.x @ Q.T,
        problem.y @ P.T,
        problem.radius,
        name,
        weights=problem.weights,
    )
    check_same_root(turned.risk, problem.worst_case(name).risk, problem)


@given(problems(structure="y|x"), st.sampled_from(NAMED), st.sampled_from([1e-60, 1e-3, 1e60]))
def test_scaling_all_data_and_the_radius(problem, name, scale):
    scaled = worst_case_risk(
        problem.B,
        scale * problem.x,
        scale * problem.y,
        scale * problem.radius,
        name,
        weights=problem.weights,
    )
    check_same_root(scaled.risk / scale**2, problem.worst_case(name).risk, problem)
    check_certificate(scaled)


@given(problems(structure="y|x"), st.sampled_from([1e-30, 7.0, 1e30]))
def test_scaling_y_against_the_map(problem, scale):
    scaled = worst_case_risk(
        problem.B / scale,
        problem.x,
        scale * problem.y,
        scale * problem.radius,
        weights=problem.weights,
    )
    check_same_root(scaled.risk, problem.worst_case().risk, problem)


@given(problems(), st.randoms(use_true_random=False))
def test_permutation_and_duplication_of_samples(problem, random):
    expected = problem.worst_case().risk
    order = list(range(len(problem.x)))
    random.shuffle(order)
    doubled = np.array(order + order)
    for rows, share in ((np.array(order), 1.0), (doubled, 0.5)):
        found = worst_case_risk(
            problem.B,
            problem.x[rows],
            problem.y[rows],
            problem.radius,
            problem.structure,
            weights=problem.weights[rows] * share,
        ).risk
        check_same_root(found, expected, problem)


# --- the worst-case law -----------------------------------------------------------------------


@settings(max_examples=300)
@given(problems())
def test_atoms_are_feasible(problem):
    worst = problem.worst_case()
    check_feasible(
        problem.x,
        problem.y,
        worst.displacement_x,
        worst.displacement_y,
        problem.radius,
        problem.structure,
        weights=problem.weights,
    )
    np.testing.assert_array_equal(worst.x, problem.x + worst.displacement_x)
    np.testing.assert_array_equal(worst.y, problem.y + worst.displacement_y)
    assert worst.transport_cost <= problem.radius**2 * (1 + 1e-12)


def test_tiny_radii_keep_their_digits(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    worst = worst_case_risk(B, 1e8 + x, 1e8 + y, 1e-9)
    assert worst.transport_cost == pytest.approx(1e-18, rel=1e-12)
    check_certificate(worst)


def test_nothing_is_stored_that_was_not_asked_for(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    worst = worst_case_risk(B, x, y, 1.0)
    assert "_displacements" not in vars(worst)
    assert worst.verify() is worst.verify()
    with pytest.raises(ValueError, match="read-only"):
        worst.displacement_y[0, 0] = 1.0


def test_verify_sees_a_wrong_value_a_wrong_law_and_a_wrong_threshold(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))

    def fresh():
        return worst_case_risk(B, x, y, 1.0)

    assert fresh().verify().holds()
    wrong = fresh()
    vars(wrong)["risk"] *= 1.001
    assert not wrong.verify().holds()
    wrong = fresh()
    vars(wrong)["_law"] = replace(wrong._law, length=1 / 1.01)
    assert not wrong.verify().holds()
    wrong = fresh()
    vars(wrong)["_law"] = replace(wrong._law, length=1.01)
    assert not wrong.verify().holds()
    wrong = fresh()
    vars(wrong)["multiplier"] = 0.9 * wrong.verify().threshold
    del wrong.__dict__["_certificate"]
    assert not wrong.verify().holds()


# --- known answers ----------------------------------------------------------------------------


@given(problems(structure="x|y"))
def test_x_given_y_is_attained_by_the_bound(problem):
    check_same(
        problem.worst_case().risk, explicit_bound(problem.fidelity, 1.0, problem.radius, "x|y")
    )


@given(problems())
def test_no_residual_attains_the_bound(problem):
    x = problem.y @ problem.B.T
    for name in NAMED:
        worst = worst_case_risk(problem.B, x, problem.y, problem.radius, name)
        check_same(worst.risk, worst.bound)


@given(maps(1), st.integers(0, 2**32 - 1), st.floats(0, 10))
def test_scalar_output_is_rmse_plus_radius_times_norm(slope, seed, radius):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((7, 1)), rng.standard_normal((7, slope.shape[1]))
    rmse = np.sqrt(np.mean((x - y @ slope.T) ** 2))
    check_same(
        worst_case_risk(slope, x, y, radius).risk,
        (rmse + radius * np.linalg.norm(slope)) ** 2,
        1e-12,
    )


def test_radius_zero_is_the_nominal_risk(rng):
    B, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 2)), rng.standard_normal((5, 3))
    for name in (*NAMED, XShift(rng.standard_normal((3, 2)), cost="x")):
        worst = worst_case_risk(B, x, y, 0, name)
        if name in NAMED:
            assert worst.risk == pytest.approx(worst.nominal_risk, rel=1e-14)
        assert worst.multiplier == math.inf
        assert worst.transport_cost == 0.0
        check_certificate(worst)


def test_zero_map(rng):
    x, y = rng.standard_normal((5, 2)), rng.standard_normal((5, 3))
    B = np.zeros((2, 3))
    blind = worst_case_risk(B, x, y, 2.0)
    check_same(blind.risk, blind.nominal_risk, 1e-14)
    assert blind.multiplier == 0.0
    assert not blind.displacement_y.any()
    joint = worst_case_risk(B, x, y, 2.0, "joint")
    check_same(joint.risk, (math.sqrt(joint.nominal_risk) + 2.0) ** 2)
    nothing = worst_case_risk(B, 0 * x, y, 2.0, "joint")
    check_same(nothing.risk, 4.0)
    for worst in (blind, joint, nothing):
        check_certificate(worst)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 7), (3, 7, 2), (4, 1, 5), (40, 5, 5)])
def test_wide_tall_and_single(shape, rng):
    count, n, m = shape
    B, x, y = rng.standard_normal((n, m)), *(rng.standard_normal((count, k)) for k in (n, m))
    for name in (*NAMED, XShift(rng.standard_normal((m, n)), cost="x")):
        check_certificate(worst_case_risk(B, x, y, 0.7, name))


# --- structure x ------------------------------------------------------------------------------


def brute_force_x_shift(B, A, x, y, radius, cost):
    """Scalar minimisation over λ; per sample the concave quadratic in x' is solved directly."""
    D = np.eye(len(B)) - B @ A
    metric = np.eye(len(B)) + (A.T @ A if cost == "joint" else 0)
    top = np.linalg.eigvals(np.linalg.solve(metric, D.T @ D)).real.max()

    def dual(logarithm):
        lam = top * (1 + math.exp(logarithm))
        total = lam * radius**2
        for xi, yi in zip(x, y, strict=True):
            right = xi + A.T @ yi if cost == "joint" else xi
            moved = np.linalg.solve(lam * metric - D.T @ D, lam * right)
            paid = ((moved - xi) ** 2).sum()
            paid += ((A @ moved - yi) ** 2).sum() if cost == "joint" else 0
            total += (((D @ moved) ** 2).sum() - lam * paid) / len(x)
        return total

    return minimize_scalar(dual, bounds=(-12, 12), method="bounded", options={"xatol": 1e-10}).fun


@pytest.mark.parametrize("cost", ["joint", "x"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_x_shift_against_brute_force(cost, noise, rng):
    A, B = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    x = rng.standard_normal((6, 2))
    y = x @ A.T + noise * rng.standard_normal((6, 3))
    worst = worst_case_risk(B, x, y, 0.8, XShift(A, cost))
    check_same(worst.risk, brute_force_x_shift(B, A, x, y, 0.8, cost), 1e-8)
    check_certificate(worst)
    check_feasible(x, y, worst.displacement_x, worst.displacement_y, 0.8, worst.structure)


def test_x_shift_with_an_empty_ball_names_the_smallest_radius(rng):
    A, B = rng.standard_normal((3, 2)), rng.standard_normal((2, 3))
    x = rng.standard_normal((6, 2))
    off = rng.standard_normal((6, 3))
    smallest = math.sqrt(np.mean([e @ np.linalg.solve(np.eye(3) + A @ A.T, e) for e in off]))
    with pytest.raises(InfeasibleRadiusError, match=r"radius: .* smallest feasible") as caught:
        worst_case_risk(B, x, x @ A.T + off, 0.9 * smallest, XShift(A))
    assert caught.value.smallest_radius == pytest.approx(smallest, rel=1e-9)
    worst = worst_case_risk(B, x, x @ A.T + off, smallest * (1 + 1e-9), XShift(A))
    assert worst.transport_cost == pytest.approx(smallest**2, rel=1e-6)


# --- one decomposition, clean input -----------------------------------------------------------


def test_one_object_answers_like_single_calls(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    weights = rng.dirichlet(np.ones(9))
    problem = LinearReconstruction(B, x, y, weights=weights)
    for name in (*NAMED, *NAMED, XShift(rng.standard_normal((3, 4)), cost="x")):
        single = worst_case_risk(B, x, y, 0.6, name, weights=weights)
        shared = problem.worst_case(0.6, name)
        assert (shared.risk, shared.multiplier) == (single.risk, single.multiplier)
        np.testing.assert_array_equal(shared.displacement_y, single.displacement_y)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float16])
def test_other_dtypes_are_computed_in_float64(dtype, rng):
    B, x, y = (rng.integers(0, 9, shape).astype(dtype) for shape in ((2, 3), (5, 2), (5, 3)))
    expected = worst_case_risk(B.astype(float), x.astype(float), y.astype(float), 0.3)
    found = worst_case_risk(B, x, y, np.float32(0.3))
    check_same(found.risk, expected.risk, 1e-7)
    assert found.y.dtype == np.float64


def test_inputs_and_the_global_random_state_are_left_alone(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    weights = np.full(5, 0.2)
    arrays = (B, x, y, weights)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in (*NAMED, XShift(np.eye(3), cost="x")):
        worst_case_risk(B, x, y, 1.0, name, weights=weights).verify()
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_infinity_is_never_returned(rng):
    B, x, y = np.eye(2), *rng.standard_normal((2, 5, 2))
    with pytest.raises(ValueError, match="x: the largest magnitude"):
        worst_case_risk(B, 1e200 * x, y, 1.0)
    with pytest.raises(ValueError, match="B: the largest magnitude"):
        worst_case_risk(1e200 * B, x, y, 1.0)
    with pytest.raises(ValueError, match=r"B: .* matters at radius 1e"):
        worst_case_risk(1e-163 * B, x, y, 1e130)
    with pytest.raises(ValueError, match="radius: the largest magnitude"):
        worst_case_risk(B, x, y, 1e200)
    with pytest.raises(OverflowError, match="x, y: the mean squared residual"):
        worst_case_risk(1e120 * B, x, 1e120 * y, 1.0)
    with pytest.raises(OverflowError, match="radius: at"):
        worst_case_risk(1e120 * B, x, y, 1e120)
    with pytest.raises(OverflowError, match="radius: at"):
        worst_case_curve(1e120 * B, x, y, [1.0, 1e120])
    with pytest.raises(OverflowError, match="multiplier, radius"):
        dual_value(B, x, y, 1e100, 1e120)
    for tiny in (worst_case_risk(1e-163 * B, x, y, 1.0), worst_case_risk(B, 1e-200 * x, 0 * y, 1)):
        check_certificate(tiny)
    for radius in (1e-120, 1e-160, 1e-300):
        check_certificate(worst_case_risk(B, x, y, radius))
    assert worst_case_risk(B, 0 * x, 0 * y, 0.0).risk == 0.0
    assert worst_case_risk(B, x, y, 1e-320).risk == pytest.approx(np.mean(((x - y) ** 2).sum(1)))


# --- the entropic dual ------------------------------------------------------------------------


@pytest.mark.parametrize("structure", NAMED)
def test_entropic_dual_against_quadrature(structure):
    beta, epsilon, radius, x, y = 0.7, 0.3, 0.4, 1.3, -0.6
    nodes, mass = np.polynomial.hermite_e.hermegauss(200)
    mass = mass / mass.sum()
    step = math.sqrt(epsilon / 2) * nodes
    still = np.zeros(1)
    dx = still if structure == "y|x" else step
    dy = still if structure == "x|y" else step
    weight = (np.ones(1) if structure == "y|x" else mass)[:, None] * (
        np.ones(1) if structure == "x|y" else mass
    )
    loss = (x + dx[:, None] - beta * (y + dy[None, :])) ** 2
    for multiplier in (4.0, 9.0):
        inner = np.log((weight * np.exp(loss / (multiplier * epsilon))).sum())
        expected = multiplier * radius**2 + multiplier * epsilon * inner
        found = dual_value([[beta]], [[x]], [[y]], multiplier, radius, structure, epsilon=epsilon)
        check_same(found, expected, 1e-10)


def test_entropic_dual_counts_every_direction(rng):
    """The log-determinant runs over all n directions of the residual, seen by the data or not."""
    B, x, y = rng.standard_normal((4, 2)), rng.standard_normal((6, 4)), rng.standard_normal((6, 2))
    for structure, C in (("y|x", -B), ("joint", np.hstack([np.eye(4), -B])), ("x|y", np.eye(4))):
        lam, epsilon = 40.0, 0.2
        inside = np.eye(4) - C @ C.T / lam
        quadratic = np.mean([r @ np.linalg.solve(inside, r) for r in x - y @ B.T])
        barrier = -0.5 * lam * epsilon * np.linalg.slogdet(inside)[1]
        found = dual_value(B, x, y, lam, 0.3, structure, epsilon=epsilon)
        check_same(found, lam * 0.09 + quadratic + barrier)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("count", [3, 7, 1000])
def test_weights_off_by_the_rounding_of_their_own_precision_are_divided_by_their_sum(dtype, count):
    rng = np.random.default_rng(count)
    B, x, y = rng.standard_normal((2, 3)), *(rng.standard_normal((count, k)) for k in (2, 3))
    exact = rng.uniform(0.5, 1.5, count)
    exact /= exact.sum()
    rounded = exact.astype(dtype)
    expected = worst_case_risk(B, x, y, 0.5, weights=exact).risk
    found = worst_case_risk(B, x, y, 0.5, weights=rounded)
    assert found.risk == pytest.approx(expected, rel=8 * float(np.finfo(dtype).eps))
    assert found.weights.sum() == pytest.approx(1.0, abs=1e-14)
    assert found.verify().holds()
    with pytest.raises(ValueError, match="weights: they sum to"):
        worst_case_risk(B, x, y, 0.5, weights=(1.05 * exact).astype(dtype))
    with pytest.raises(ValueError, match="weights: they sum to"):  # not in double precision
        worst_case_risk(B, x, y, 0.5, weights=exact * (1 + 1e-6))
