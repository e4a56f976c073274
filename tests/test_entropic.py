"""Entropic worst case: closed form, Gaussians, conventions, limits; dual solver with entropy."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dro_core import (
    InfeasibleRadiusError,
    Joint,
    LinearReconstruction,
    ResidualSpectrum,
    XShift,
    YGivenX,
    YShift,
    adjusted_radius,
    dual_value,
    entropic_worst_case,
    minimize_quadratic_dual,
    unadjusted_radius,
    worst_case_risk,
)
from dro_core.dual import (
    _entropy,
    quadratic_dual,
    quadratic_dual_derivative,
    threshold_rounding,
)
from dro_core.operators import BackwardHeat
from dro_core.reference import entropic_dual_monte_carlo
from dro_core.testing import check_ordering, problems, weighted_structures

entropies = st.sampled_from([1e-9, 1e-4, 0.03, 1.0, 50.0])
named = st.sampled_from(["y|x", "joint", "x|y"])
plain = named.flatmap(lambda name: problems(structure=name))


def entropic(problem, epsilon, **options):
    return entropic_worst_case(
        problem.B,
        problem.x,
        problem.y,
        problem.radius,
        epsilon,
        problem.structure,
        weights=problem.weights,
        **options,
    )


@given(plain, entropies, st.sampled_from(["squared", "half-squared"]))
def test_the_gaussians_attain_the_dual_and_spend_the_budget(problem, epsilon, cost):
    """Strong duality: risk and divergence recomputed from means and covariance, gap <= 1e-8."""
    epsilon = max(epsilon, 1e-9 * problem.radius**2)
    worst = entropic(problem, epsilon, cost=cost)
    certificate = worst.verify()
    assert certificate.holds(1e-8), certificate
    assert worst.gap <= 1e-8
    if certificate.threshold > 0 and problem.radius > 1e-4 * math.sqrt(epsilon):
        assert certificate.kl == pytest.approx(certificate.budget, rel=1e-7)
    assert certificate.budget == pytest.approx(
        problem.radius**2 * (1.0 if cost == "squared" else 0.5)
    )


@given(st.data(), entropies)
def test_weighted_transport_has_weighted_reference_noise(data, epsilon):
    problem = data.draw(problems(structure="joint"))
    structure = data.draw(weighted_structures(problem.x.shape[1], problem.y.shape[1]))
    epsilon = max(epsilon, 1e-9 * problem.radius**2)
    worst = entropic_worst_case(
        problem.B,
        problem.x,
        problem.y,
        problem.radius,
        epsilon,
        structure,
        weights=problem.weights,
    )
    assert worst.verify().holds(1e-7), worst.verify()


@given(plain, st.sampled_from([0.01, 0.3, 5.0]), st.floats(0.2, 5.0))
def test_no_other_gaussian_law_beats_it(problem, epsilon, factor):
    """Weak duality: Gaussians with another covariance, scaled into the ball."""
    if problem.radius < 1e-6 or problem.worst_case().bound < 1e-200:
        return
    worst = entropic(problem, epsilon)
    structure, n = problem.structure, problem.x.shape[1]
    moved = {"y|x": slice(n, None), "x|y": slice(0, n), "joint": slice(None)}[structure.name]
    T = np.hstack([np.eye(n), -problem.B])[:, moved]
    size = T.shape[1]
    residual = problem.x - problem.y @ problem.B.T
    values = factor ** np.linspace(-1, 1, size)
    kl = 0.5 * epsilon * (values - 1 - np.log(values)).sum()
    if kl > problem.radius**2:
        values, kl = np.ones(size), 0.0
    shift = residual @ T
    length = math.sqrt(problem.weights @ (shift**2).sum(axis=1))
    if length > 0:
        shift *= math.sqrt(problem.radius**2 - kl) / length
    error = residual + shift @ T.T
    risk = problem.weights @ (error**2).sum(axis=1)
    risk += 0.5 * epsilon * ((T * values) @ T.T).trace()
    assert risk <= worst.risk * (1 + 1e-9)


@given(plain, st.sampled_from([1e-3, 0.1, 2.0]))
def test_the_value_is_the_minimum_of_the_entropic_dual(problem, epsilon):
    worst = entropic(problem, epsilon)
    if not math.isfinite(worst.multiplier) or worst.multiplier == 0:
        return
    for factor in (0.9, 0.999, 1.001, 1.3, 4.0):
        multiplier = worst.multiplier * factor
        try:
            value = dual_value(
                problem.B,
                problem.x,
                problem.y,
                multiplier,
                problem.radius,
                problem.structure,
                epsilon=epsilon,
                weights=problem.weights,
            )
        except ValueError:  # at or below the threshold
            assert factor < 1
            continue
        assert value >= worst.risk * (1 - 1e-12)


@given(plain, st.floats(0.01, 3.0))
def test_it_is_above_the_wasserstein_value_and_increases_with_epsilon(problem, epsilon):
    values = [problem.worst_case().risk]
    values += [entropic(problem, epsilon * factor).risk for factor in (0.1, 1.0, 10.0)]
    check_ordering(*(1e-12 + value for value in values))


def test_it_tends_to_the_wasserstein_worst_case_as_epsilon_vanishes(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    for structure in ("y|x", "joint", "x|y"):
        exact = worst_case_risk(B, x, y, 0.7, structure)
        gaps = []
        for epsilon in (1e-2, 1e-4, 1e-6, 1e-8):
            worst = entropic_worst_case(B, x, y, 0.7, epsilon, structure)
            gaps.append(worst.risk / exact.risk - 1)
        assert all(0 < later < 0.02 * gap for gap, later in pairwise(gaps))
        assert gaps[-1] < 1e-6
        np.testing.assert_allclose(worst.displacement_y, exact.displacement_y, atol=1e-5)
        np.testing.assert_allclose(worst.displacement_x, exact.displacement_x, atol=1e-5)
        assert worst.multiplier == pytest.approx(exact.multiplier, rel=1e-5)


def test_at_adjusted_radius_zero_it_is_the_data_with_reference_noise(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    fidelity = ((x - y @ B.T) ** 2).sum(axis=1).mean()
    frobenius = {"y|x": (B**2).sum(), "x|y": 4.0, "joint": 4.0 + (B**2).sum()}
    for structure, size in frobenius.items():
        worst = entropic_worst_case(B, x, y, 0.0, 0.3, structure)
        assert worst.risk == pytest.approx(fidelity + 0.15 * size, rel=1e-12)
        assert worst.multiplier == math.inf
        assert not worst.displacement_y.any()
        np.testing.assert_allclose(worst.covariance, 0.15 * np.eye(len(worst.covariance)))
        assert worst.verify().holds()


def test_the_half_squared_cost_is_the_squared_one_with_twice_the_entropy_weight(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    half = entropic_worst_case(B, x, y, 0.7, 0.2, "joint", cost="half-squared")
    full = entropic_worst_case(B, x, y, 0.7, 0.4, "joint")
    assert half.risk == full.risk
    assert half.multiplier == 2 * full.multiplier
    assert half.kl == pytest.approx(0.5 * full.kl)
    np.testing.assert_array_equal(half.covariance, full.covariance)
    at_rest = entropic_worst_case(B, x, y, 0.0, 0.2, cost="half-squared")
    np.testing.assert_allclose(at_rest.covariance, 0.2 * np.eye(3))  # noise N(y, ε I)
    vanishing = entropic_worst_case(B, x, y, 0.7, 1e-9, cost="half-squared")
    assert vanishing.risk == pytest.approx(worst_case_risk(B, x, y, 0.7).risk, rel=1e-6)


def test_the_joint_law_has_a_cross_covariance(rng):
    B, x, y = rng.standard_normal((2, 3)), rng.standard_normal((9, 2)), rng.standard_normal((9, 3))
    worst = entropic_worst_case(B, x, y, 0.7, 0.2, "joint")
    C = np.hstack([np.eye(2), -B])
    expected = 0.1 * np.linalg.inv(np.eye(5) - C.T @ C / worst.multiplier)
    np.testing.assert_allclose(worst.covariance, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(worst.covariance_xy, expected[:2, 2:], rtol=1e-9, atol=1e-12)
    drawn = rng.multivariate_normal(np.zeros(5), worst.covariance, (100_000, 9))
    error = x + worst.displacement_x + drawn[..., :2]
    error = error - (y + worst.displacement_y + drawn[..., 2:]) @ B.T
    assert (error**2).sum(axis=2).mean() == pytest.approx(worst.risk, rel=5e-3)


def test_a_covariance_is_formed_that_is_as_large_as_the_matrix(rng, monkeypatch):
    """Maps of 2048² entries are decomposed densely; a matrix that is there may be larger."""
    monkeypatch.setattr("dro_core.gaussian_law.DENSE_ENTRIES", 9)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 5))
    worst = entropic_worst_case(rng.standard_normal((4, 5)), x, y, 0.5, 0.1)
    assert worst.covariance_y.shape == (5, 5)
    flat = entropic_worst_case(rng.standard_normal((1, 5)), x[:, :1], y, 0.5, 0.1)
    with pytest.raises(
        ValueError, match=r"^B: shape \(1, 5\); a dense covariance .* nearly square"
    ):
        _ = flat.covariance_y


@pytest.mark.parametrize("structure", ["y|x", "joint", "x|y"])
def test_monte_carlo_agrees_where_its_variance_is_finite(structure, rng):
    """λ >= 4 σ_max²: standard error at most 0.5 % of the value."""
    B, x, y = rng.standard_normal((3, 3)), *(0.3 * rng.standard_normal((2, 6, 3)))
    top = LinearReconstruction(B, x, y).spectrum(structure).top
    for factor, epsilon in ((4.0, 0.5), (4.0, 2.0), (8.0, 5.0)):
        exact = dual_value(B, x, y, factor * top, 0.5, structure, epsilon=epsilon)
        estimate = entropic_dual_monte_carlo(
            B, x, y, factor * top, 0.5, epsilon, structure, draws=40_000
        )
        assert estimate.standard_error <= 5e-3 * exact
        assert abs(estimate.value - exact) <= 4 * estimate.standard_error
    with pytest.raises(ValueError, match=r"multiplier: .* twice the threshold"):
        entropic_dual_monte_carlo(B, x, y, 1.9 * top, 0.5, 0.1, structure)


def test_below_the_threshold_the_risk_is_infinite_and_refused(rng):
    """Where an estimate by sampling is finite whatever the truth."""
    B, x, y = rng.standard_normal((3, 3)), rng.standard_normal((6, 3)), rng.standard_normal((6, 3))
    top = LinearReconstruction(B, x, y).spectrum("y|x").top
    with pytest.raises(ValueError, match=r"multiplier: .* sigma_max\^2 = "):
        dual_value(B, x, y, 0.9 * top, 0.5, epsilon=0.1)
    with pytest.raises(ValueError, match="at or below its threshold"):
        LinearReconstruction(B, x, y).dual_gradient(top, 0.5, epsilon=0.1)


@given(plain, st.sampled_from([0.0, 0.1]), st.integers(-4, 4))
def test_within_rounding_of_the_threshold_every_dual_is_refused(problem, epsilon, ulps):
    """The threshold by a singular value decomposition, whichever side of the library's it is on."""
    n = problem.B.shape[0]
    C = {"y|x": -problem.B, "x|y": np.eye(n), "joint": np.hstack([np.eye(n), -problem.B])}
    top = float(np.linalg.norm(C[problem.structure.name], 2)) ** 2
    linear = LinearReconstruction(problem.B, problem.x, problem.y, weights=problem.weights)
    if linear.spectrum(problem.structure).top < 1e-280:  # squares that have lost digits
        return
    multiplier = top * (1 + ulps * np.finfo(float).eps)
    for dual in (linear.dual_value, linear.dual_gradient):
        with pytest.raises(ValueError, match="at or below its threshold"):
            dual(multiplier, problem.radius, problem.structure, epsilon=epsilon)


@pytest.mark.parametrize("size", [2, 20, 60])
def test_thresholds_of_graph_structures_are_refused_however_they_cancel(size):
    """B near the inverse of A: C = (I - BA)R⁻¹ keeps few digits, and so does its threshold."""
    rng = np.random.default_rng(size)
    A = rng.standard_normal((size, size)) + size * np.eye(size)
    root = np.linalg.cholesky(np.eye(size) + A.T @ A).T
    for distance in (1.0, 1e-6, 1e-9):
        B = np.linalg.inv(A) + distance * rng.standard_normal((size, size)) / size
        x = rng.standard_normal((5, size))
        for structure, defect in ((XShift(A), np.eye(size) - B @ A), (YShift(B), None)):
            if defect is None:  # x = Py with P the given map, reconstructed by the exact inverse
                given_map, root_y = np.linalg.inv(A), np.linalg.cholesky(np.eye(size) + B.T @ B).T
                top = np.linalg.norm((B - given_map) @ np.linalg.inv(root_y), 2) ** 2
                problem = LinearReconstruction(given_map, x @ B.T, x)
            else:
                top = np.linalg.norm(defect @ np.linalg.inv(root), 2) ** 2
                problem = LinearReconstruction(B, x, x @ A.T)
            with pytest.raises(ValueError, match="at or below its threshold"):
                problem.dual_value(top, 10.0, structure)
            assert problem.dual_value(3.0 * top, 10.0, structure) > 0


def test_an_operator_with_fast_transform_is_decomposed_by_it(rng):
    A = BackwardHeat(1e-4, 32)
    B, x = A.inverse(1e-2), rng.standard_normal((5, 32))
    y = A.apply(x) + 0.1 * rng.standard_normal(x.shape)
    fast, dense = (entropic_worst_case(b, x, y, 0.7, 0.2, "joint") for b in (B, B.matrix()))
    assert fast.risk == pytest.approx(dense.risk, rel=1e-12)
    np.testing.assert_allclose(fast.covariance, dense.covariance, atol=1e-10)
    assert fast.verify().holds()


def test_a_forged_answer_is_refused(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))

    def forged(**parts):
        worst = entropic_worst_case(B, x, y, 0.7, 0.2)
        for name, value in parts.items():
            target = worst._law if name != "risk" else worst
            vars(target)[name] = value
        return worst.verify()

    class Given:
        """Displacements of y of one's own."""

        def __init__(self, dy):
            self.dy = dy

        def moves(self, block):
            return np.zeros_like(block.x), self.dy[block.rows]

    assert forged().holds()
    honest = entropic_worst_case(B, x, y, 0.7, 0.2)
    assert not forged(risk=honest.risk * (1 + 1e-6)).holds()
    assert not forged(mover=Given(1.001 * honest.displacement_y)).holds()
    assert not forged(mover=Given(0 * honest.displacement_y)).holds()
    blocks = honest._law._blocks
    assert not forged(_blocks=(blocks[0], blocks[1], 1.01 * blocks[2])).holds()
    smaller = entropic_worst_case(B, x, y, 0.6, 0.2)
    stale = forged(
        risk=smaller.risk,
        mover=Given(smaller.displacement_y),
        _blocks=smaller._law._blocks,
        multiplier=smaller._law.multiplier,
    )
    assert stale.kl < stale.budget
    assert not stale.holds()


# --- the dual solver with entropy ---------------------------------------------------------------

atoms = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(1e-8, 1e3)),
        st.one_of(st.just(0.0), st.floats(1e-12, 1e3)),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=6,
)


@given(atoms, st.floats(1e-4, 1e4), st.floats(1e-10, 1e4))
def test_the_solver_finds_the_minimum_of_the_entropic_dual(parts, radius, epsilon):
    squared, mass, multiplicity = (np.array(part, dtype=float) for part in zip(*parts, strict=True))
    spectrum = ResidualSpectrum(squared, mass, multiplicity)
    found = minimize_quadratic_dual(spectrum, radius, epsilon)
    top = spectrum.top
    if top < 1e-6:
        return
    # never in the hard case (a margin below rounding excepted), and stationary
    assert found.margin > 0
    if 1e-6 < found.margin < 1e6:
        slope = quadratic_dual_derivative(spectrum, found.multiplier, radius, epsilon)
        assert abs(slope) <= 1e-6 * radius**2
    lowest = math.log(2 * threshold_rounding(multiplicity.sum()))
    for span in ((lowest, 0), (0, 30)):
        reference = minimize_scalar(
            lambda t: quadratic_dual(spectrum, top * (1 + math.exp(t)), radius, epsilon),
            bounds=span,
            method="bounded",
        ).fun
        assert found.value <= reference * (1 + 1e-9)


@given(atoms, st.floats(1e-3, 1e3), st.floats(1e-6, 1e2), st.floats(1.001, 100.0))
def test_the_derivative_of_the_dual_is_one(parts, radius, epsilon, factor):
    squared, mass, multiplicity = (np.array(part, dtype=float) for part in zip(*parts, strict=True))
    spectrum = ResidualSpectrum(squared, mass, multiplicity)
    multiplier, step = spectrum.top * factor + 1e-3, 1e-6
    step *= multiplier - spectrum.top
    above, below = (
        quadratic_dual(spectrum, multiplier + sign * step, radius, epsilon) for sign in (1, -1)
    )
    slope = quadratic_dual_derivative(spectrum, multiplier, radius, epsilon)
    noise = 1e-15 * (abs(above) + multiplier * epsilon * multiplicity.sum()) / step
    assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=10 * noise)


def test_entropy_of_a_share_keeps_its_digits():
    for share in (1e-9, 1e-3, 0.0999, 0.1001, 0.5):
        s = Fraction(share)
        series = sum((1 - Fraction(1, k)) * s**k for k in range(2, 120 if share < 0.4 else 300))
        value = _entropy(np.array([share]), np.array([1 - share]))[0]
        assert value == pytest.approx(float(series), rel=1e-13)


def test_without_entropy_the_solver_is_unchanged():
    spectrum = ResidualSpectrum([4.0, 1.0], [0.5, 1.0], [1.0, 3.0])
    first, second = (
        minimize_quadratic_dual(spectrum, 0.7),
        minimize_quadratic_dual(spectrum, 0.7, 0),
    )
    assert (first.value, first.margin) == (second.value, second.margin)


# --- the Lebesgue adjustment --------------------------------------------------------------------


@given(
    st.floats(0.0, 10.0),
    st.floats(1e-3, 10.0),
    st.integers(1, 30),
    st.sampled_from(["squared", "half-squared"]),
)
def test_adjusting_a_radius_can_be_undone(radius, epsilon, dimension, cost):
    weight = epsilon * (1 if cost == "squared" else 2)
    forced = weight * dimension / 2 * math.log(math.pi * weight)
    if radius**2 + forced < 0:
        with pytest.raises(InfeasibleRadiusError) as caught:
            adjusted_radius(radius, epsilon, dimension, cost=cost)
        assert caught.value.smallest_radius == pytest.approx(math.sqrt(-forced))
        return
    adjusted = adjusted_radius(radius, epsilon, dimension, cost=cost)
    assert adjusted**2 == pytest.approx(radius**2 + forced, abs=1e-12)
    back = unadjusted_radius(adjusted, epsilon, dimension, cost=cost)
    assert back == pytest.approx(radius, rel=1e-6, abs=1e-6)


def test_the_adjustment_is_the_normalisation_of_lebesgue_measure(rng):
    """E_γ[c + ε log dγ/dy] - ε KL(γ | N(y, ε/2)) = -ε d/2 log(πε) for any Gaussian γ."""
    epsilon, d = 0.3, 3
    root = rng.standard_normal((d, d))
    covariance, shift = root @ root.T + 0.1 * np.eye(d), rng.standard_normal(d)
    cost = shift @ shift + np.trace(covariance)
    entropy = 0.5 * d * math.log(2 * math.pi * math.e) + 0.5 * np.linalg.slogdet(covariance)[1]
    spent = cost - epsilon * entropy  # what the Sinkhorn budget ρ² limits
    kl = 0.5 * (
        2 / epsilon * np.trace(covariance)
        - d
        + 2 / epsilon * shift @ shift
        + d * math.log(epsilon / 2)
        - np.linalg.slogdet(covariance)[1]
    )
    assert adjusted_radius(math.sqrt(spent), epsilon, d) ** 2 == pytest.approx(epsilon * kl)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structure": XShift(np.eye(2))}, "available for joint, y.x and x.y"),
        ({"structure": YGivenX(norm=1), "B": np.ones((1, 2)), "x": np.ones((3, 1))}, "epsilon: "),
        ({"structure": "x"}, "structure: 'x' needs the forward map"),
        ({"epsilon": 0.0}, "epsilon: 0.0 is not positive"),
        ({"cost": "half"}, "cost: unknown value 'half'.*did you mean 'half-squared'"),
        ({"cost": None}, "cost: unknown value None"),
    ],
)
def test_what_has_no_closed_form_is_refused(change, message):
    good = {
        "B": np.eye(2),
        "x": np.ones((3, 2)),
        "y": np.ones((3, 2)),
        "radius": 1.0,
        "epsilon": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        entropic_worst_case(**{**good, **change})


def test_a_covariance_beyond_double_precision_is_not_certified(rng):
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    B = rotation @ np.diag([1.0, 0.5, 0.3]) @ rotation.T
    worst = entropic_worst_case(B, np.ones((2, 3)), np.ones((2, 3)), 1e6, 1e-9)
    assert worst.risk == pytest.approx(1e12, rel=1e-5)
    assert worst.kl == math.inf
    assert not worst.verify().holds()


def test_descriptions_name_the_convention():
    worst = entropic_worst_case(np.eye(2), np.ones((3, 2)), np.ones((3, 2)), 1.0, 0.1, Joint())
    assert "cost='squared'" in repr(worst)
    assert "adjusted_radius=1" in repr(worst)


def test_thresholds_follow_the_convention_and_small_balls_are_empty(rng):
    B, x, y = rng.standard_normal((4, 3)), rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    top = np.linalg.norm(B, 2) ** 2
    assert entropic_worst_case(B, x, y, 0.7, 0.2).verify().threshold == pytest.approx(top)
    half = entropic_worst_case(B, x, y, 0.7, 0.2, cost="half-squared").verify()
    assert half.threshold == pytest.approx(2 * top)
    with pytest.raises(InfeasibleRadiusError) as caught:
        adjusted_radius(0.0, 0.1, 3)
    with pytest.raises(InfeasibleRadiusError):
        adjusted_radius(0.9 * caught.value.smallest_radius, 0.1, 3)
    still = minimize_quadratic_dual(ResidualSpectrum([2.0], [1.0], [3.0]), 1e-320, 0.4)
    assert still.value == pytest.approx(1 + 0.2 * 6)
    A = rng.standard_normal((3, 4))
    with pytest.raises(ValueError, match="epsilon: the entropic dual is not available"):
        dual_value(B, x, x @ A.T, 1e4, 9.0, XShift(A, covariance=0.1), epsilon=0.1)
