"""Structures beyond the plain ones: posterior, Gaussian kernels, weights, frozen axes, norms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from dro_core import (
    InfeasibleRadiusError,
    Joint,
    LinearReconstruction,
    XGivenY,
    XShift,
    YGivenX,
    YShift,
    admissible_candidates,
    explicit_bound,
    finite_worst_case,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.operators import Convolution, Diagonal, Integration
from dro_core.reference import finite_worst_case_highs, worst_case_risk_sdp
from dro_core.testing import check_certificate, check_feasible, maps, samples, weights


def case(rng, n=3, m=4, count=7):
    return (
        rng.standard_normal((n, m)),
        rng.standard_normal((count, n)),
        rng.standard_normal((count, m)),
    )


def semidefinite(rng, size, rank=None):
    root = rng.standard_normal((size, rank or size))
    return root @ root.T


# --- y with a posterior, x with a likelihood ----------------------------------------------------


def potential_by_descent(structure, B, x, y, multiplier):
    """Mean of sup over the leader of loss - λ cost, from the definition, by BFGS per sample."""
    G = structure.kernel.matrix()
    total = 0.0
    for own_x, own_y in zip(x, y, strict=True):

        def negative(leader, own_x=own_x, own_y=own_y):
            new_x, new_y = (leader, G @ leader) if structure.name == "x" else (G @ leader, leader)
            paid_x, paid_y = ((new_x - own_x) ** 2).sum(), ((new_y - own_y) ** 2).sum()
            paid = {"joint": paid_x + paid_y, "x": paid_x, "y": paid_y}[structure.cost]
            return multiplier * paid - ((new_x - B @ new_y) ** 2).sum()

        start = own_x if structure.name == "x" else own_y
        total -= minimize(negative, start, method="BFGS", options={"gtol": 1e-10}).fun
    return total / len(x)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(("name", "cost"), [("x", "joint"), ("x", "x"), ("y", "joint"), ("y", "y")])
def test_graph_structures_against_the_definition(name, cost, noisy, rng):
    """Strong duality with potentials maximised numerically: no completed square in sight."""
    B, x, y = case(rng)
    kernel = rng.standard_normal((4, 3) if name == "x" else (3, 4))
    structure = (XShift if name == "x" else YShift)(kernel, cost)
    if name == "x":
        y = x @ kernel.T + 0.3 * noisy * y
    else:
        x = y @ kernel.T + 0.3 * noisy * x
    radius = 2.0
    worst = worst_case_risk(B, x, y, radius, structure)
    check_certificate(worst)
    check_feasible(x, y, worst.displacement_x, worst.displacement_y, radius, structure)
    best = min(
        lam * radius**2 + potential_by_descent(structure, B, x, y, lam)
        for lam in worst.multiplier * np.array([0.98, 1.0, 1.02])
    )
    assert best == pytest.approx(worst.risk, rel=1e-7)
    for lam in worst.multiplier * np.array([0.98, 1.05, 2.0]):
        above = lam * radius**2 + potential_by_descent(structure, B, x, y, lam)
        assert above >= worst.risk * (1 - 1e-9)


def test_structure_y_has_the_modulus_of_the_posterior_when_the_map_is_zero(rng):
    """The loss is then |x'|² = |Py'|²."""
    P, A = rng.standard_normal((3, 4)), rng.standard_normal((4, 3))
    y = rng.standard_normal((6, 4))
    x = y @ P.T
    worst = worst_case_risk(0 * P, x, y, 0.7, YShift(P))
    C = np.linalg.norm(P @ np.linalg.inv(np.linalg.cholesky(np.eye(4) + P.T @ P)).T, 2)
    assert worst.bound == pytest.approx((np.sqrt((x**2).sum(1).mean()) + 0.7 * C) ** 2)
    with pytest.raises(ValueError, match=r"posterior: shape \(4, 3\), but x has 3 columns"):
        worst_case_risk(P, x, y, 0.7, YShift(A))


def test_a_posterior_that_is_the_map_leaves_nothing_to_gain(rng):
    B, _, y = case(rng)
    worst = worst_case_risk(B, y @ B.T, y, 0.7, YShift(B))
    assert worst.risk == 0.0
    assert worst.multiplier == 0.0
    assert worst.verify().holds()


@pytest.mark.parametrize("kind", ["variance", "variances", "matrix"])
@pytest.mark.parametrize("name", ["x", "y"])
def test_gaussian_kernels_add_a_constant_and_charge_their_trace(name, kind, rng):
    B, x, y = case(rng)
    kernel = rng.standard_normal((4, 3) if name == "x" else (3, 4))
    size = len(kernel)
    covariance = {"variance": 0.2, "variances": rng.random(size), "matrix": semidefinite(rng, size)}
    given_as = covariance[kind]
    sigma = given_as if kind == "matrix" else np.diag(np.broadcast_to(given_as, (size,)))
    cls = XShift if name == "x" else YShift
    constant = np.trace(B @ sigma @ B.T) if name == "x" else np.trace(sigma)
    x, y = (x, x @ kernel.T) if name == "x" else (y @ kernel.T, y)
    radius = 9.0
    noisy = worst_case_risk(B, x, y, radius, cls(kernel, covariance=given_as))
    left = math.sqrt(radius**2 - np.trace(sigma))
    plain = worst_case_risk(B, x, y, left, cls(kernel))
    assert noisy.risk == pytest.approx(plain.risk + constant, rel=1e-12)
    assert noisy.bound == pytest.approx(plain.bound + constant, rel=1e-12)
    assert noisy.multiplier == pytest.approx(plain.multiplier, rel=1e-12)
    check_certificate(noisy)
    check_feasible(x, y, noisy.displacement_x, noisy.displacement_y, radius, noisy.structure)
    assert noisy.verify().transport_cost == pytest.approx(radius**2)
    alone = worst_case_risk(B, x, y, radius, cls(kernel, name, covariance=given_as))
    free = worst_case_risk(B, x, y, radius, cls(kernel, name))  # moving the follower is not paid
    assert alone.risk == pytest.approx(free.risk + constant, rel=1e-12)
    problem = LinearReconstruction(B, x, y)
    value = problem.dual_value(noisy.multiplier, radius, noisy.structure)
    assert value == pytest.approx(noisy.risk, rel=1e-12)
    curve = worst_case_curve(B, x, y, [radius], noisy.structure)
    assert curve.risk[0] == noisy.risk


def test_the_noise_of_a_gaussian_likelihood_is_in_the_risk(rng):
    """Monte-Carlo: draw y' = Ax' + noise at the worst-case atoms."""
    B, x, _ = case(rng)
    A, sigma = rng.standard_normal((4, 3)), 0.3 * semidefinite(rng, 4)
    structure = XShift(A, covariance=sigma)
    worst = worst_case_risk(B, x, x @ A.T, 4.0, structure)
    noise = rng.multivariate_normal(np.zeros(4), sigma, (200_000, len(x)))
    error = worst.x - (worst.y + noise) @ B.T
    assert (error**2).sum(axis=2).mean() == pytest.approx(worst.risk, rel=5e-3)
    cost = (worst.displacement_x**2).sum(axis=1).mean()
    cost += ((worst.displacement_y + noise) ** 2).sum(axis=2).mean()
    assert cost == pytest.approx(16.0, rel=5e-3)


@pytest.mark.parametrize("cls", [XShift, YShift])
def test_noise_larger_than_the_radius_leaves_the_ball_empty(cls, rng):
    B, x, y = case(rng, n=4)
    kernel = rng.standard_normal((4, 4))
    x, y = (x, x @ kernel.T) if cls is XShift else (y @ kernel.T, y)
    structure = cls(kernel, covariance=0.25)
    with pytest.raises(InfeasibleRadiusError) as caught:
        worst_case_risk(B, x, y, 0.9, structure)
    assert caught.value.smallest_radius == pytest.approx(1.0)
    at_the_edge = worst_case_risk(B, x, y, 1.0, structure)
    assert at_the_edge.verify().holds()
    with pytest.raises(ValueError, match="moves samples to Gaussian laws"):
        admissible_candidates(x, y, x, y, structure)


def test_structures_x_and_y_of_fast_operators_agree_with_their_matrices(rng):
    kernel = np.outer([1, 2, 1], [1, 3, 1]) / 20
    A = Convolution(kernel, (5, 6))
    B = A.inverse(0.05)
    x = rng.standard_normal((6, 30))
    y = A.apply(x) + 0.01 * rng.standard_normal(x.shape)
    for fast, dense in [
        (XShift(A), XShift(A.matrix())),
        (XShift(A, "x", 0.1), XShift(A.matrix(), "x", 0.1)),
        (YShift(A.inverse(0.2)), YShift(A.inverse(0.2).matrix())),
        (XShift(A, weight_x=2.0, weight_y=0.5), XShift(A.matrix(), weight_x=2.0, weight_y=0.5)),
    ]:
        first, second = (
            worst_case_risk(*pair, x, y, 20.0, s) for *pair, s in ([B, fast], [B.matrix(), dense])
        )
        assert first.risk == pytest.approx(second.risk, rel=1e-12)
        assert first._decomposition.displacement.factor.spectral() is not None
        check_certificate(first)
        mixed = worst_case_risk(B.matrix(), x, y, 20.0, fast)  # B without its transform
        assert mixed.risk == pytest.approx(second.risk, rel=1e-12)
    other = XShift(Diagonal(0.3, 30))  # diagonal in another basis
    assert worst_case_risk(B, x, x @ other.forward.matrix().T, 1.0, other).verify().holds()


# --- weights and frozen axes --------------------------------------------------------------------


def test_joint_with_frozen_x_is_y_given_x(rng):
    B, x, y = case(rng)
    for radius in (0.0, 1e-6, 0.3, 50.0):
        pairs = [
            (Joint(weight_x=np.inf), "y|x"),
            (Joint(weight_y=np.inf), "x|y"),
            (Joint(weight_x=[np.inf] * 3), "y|x"),
            (Joint(weight_y=[np.inf] * 4), "x|y"),
            (Joint(weight_x=np.inf, weight_y=3.0), YGivenX(3.0)),
        ]
        for first, second in pairs:
            ours, theirs = (worst_case_risk(B, x, y, radius, s) for s in (first, second))
            assert ours.risk == pytest.approx(theirs.risk, rel=1e-12)
            np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-9, atol=1e-12)


@given(st.data())
def test_weights_are_a_change_of_units(data):
    """Measuring y_k in units of 1/√w_k turns B into B diag(1/√w), and its weight into one."""
    n, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    B, x, y = data.draw(maps(n, m)), data.draw(samples(5, n)), data.draw(samples(5, m))
    mu = data.draw(weights(5))
    w = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=m, max_size=m)))
    scale = np.sqrt(w)
    for weighted, plain in [
        (YGivenX(w), "y|x"),
        (Joint(1.0, w), "joint"),
        (Joint(None, w), "joint"),
    ]:
        ours = worst_case_risk(B, x, y, 0.8, weighted, weights=mu)
        other = worst_case_risk(B / scale, x, y * scale, 0.8, plain, weights=mu)
        assert ours.risk == pytest.approx(other.risk, rel=1e-9, abs=1e-12)
        check_certificate(ours)
        check_feasible(x, y, ours.displacement_x, ours.displacement_y, 0.8, weighted, weights=mu)


def test_matrix_weights_by_whitening(rng):
    """W_y as a change of units of y; W_x and W_y together through the semidefinite programme."""
    B, x, y = case(rng)
    Wx, Wy = semidefinite(rng, 3) + np.eye(3), semidefinite(rng, 4) + np.eye(4)
    Ly = np.linalg.cholesky(Wy)
    ours = worst_case_risk(B, x, y, 0.8, Joint(1.0, Wy))
    other = worst_case_risk(B @ np.linalg.inv(Ly).T, x, y @ Ly, 0.8, "joint")
    assert ours.risk == pytest.approx(other.risk, rel=1e-10)
    # both weighted: as y|x of the map [I, B] on measurements (0, y) whitened, residual unchanged
    Lx = np.linalg.cholesky(Wx)
    stacked = np.hstack([-np.linalg.inv(Lx).T, B @ np.linalg.inv(Ly).T])
    both = worst_case_risk(B, x, y, 0.8, Joint(Wx, Wy))
    reference = worst_case_risk_sdp(stacked, x, np.hstack([np.zeros_like(x), y @ Ly]), 0.8, "y|x")
    assert both.risk == pytest.approx(reference.risk, rel=1e-7)
    check_certificate(both)
    check_feasible(x, y, both.displacement_x, both.displacement_y, 0.8, both.structure)
    cost = np.einsum("ni,ij,nj->n", both.displacement_x, Wx, both.displacement_x)
    cost += np.einsum("ni,ij,nj->n", both.displacement_y, Wy, both.displacement_y)
    assert cost.mean() == pytest.approx(0.64, rel=1e-12)


def test_frozen_axes_do_not_move_and_cost_infinitely_if_they_do(rng):
    B, x, y = case(rng)
    structure = Joint([1, np.inf, 2], [np.inf, 1, 1, 3])
    worst = worst_case_risk(B, x, y, 0.8, structure)
    assert not worst.displacement_x[:, 1].any()
    assert not worst.displacement_y[:, 0].any()
    assert np.isinf(structure.transport_cost(np.ones((1, 3)), np.zeros((1, 4)))).all()
    assert worst.risk <= worst_case_risk(B, x, y, 0.8, Joint([1, 1, 2], [1, 1, 1, 3])).risk
    mask = admissible_candidates(
        x, y, x + np.array([0.1, 0, 0.1]), y + np.array([0, 0.1, 0.1, 0.1]), structure
    )
    np.testing.assert_array_equal(mask, np.eye(len(x), dtype=bool))
    still = worst_case_risk(B, x, y, 0.8, Joint([np.inf] * 3, [np.inf] * 4))
    assert still.risk == pytest.approx(still.nominal_risk)
    assert still.verify().holds()


def test_a_heavier_weight_never_helps_the_adversary(rng):
    B, x, y = case(rng)
    risks = [worst_case_risk(B, x, y, 1.0, Joint(w, 1.0)).risk for w in (0.1, 1.0, 10.0, np.inf)]
    assert (np.diff(risks) < 0).all()
    for structure in (Joint(0.1, 2.0), YGivenX([1, 2, 3, 4]), XGivenY(0.3)):
        fidelity = LinearReconstruction(B, x, y).fidelity
        bound = explicit_bound(fidelity, np.linalg.norm(B, 2), 1.0, structure)
        assert worst_case_risk(B, x, y, 1.0, structure).risk <= bound * (1 + 1e-12)


# --- other norms, scalar output -----------------------------------------------------------------


def dual_order(q):
    return math.inf if q == 1 else 1.0 if math.isinf(q) else q / (q - 1)


@given(st.sampled_from([1.0, 1.2, 1.5, 2.0, 3.0, 7.0, math.inf]), st.data())
def test_scalar_output_in_any_norm_is_rmse_plus_radius_times_the_dual_norm(q, data):
    m = data.draw(st.integers(1, 5))
    beta, x, y = data.draw(maps(1, m)), data.draw(samples(6, 1)), data.draw(samples(6, m))
    mu = data.draw(weights(6))
    rmse = math.sqrt(mu @ ((x - y @ beta.T) ** 2)[:, 0])
    p = dual_order(q)
    for structure, c in [
        (YGivenX(norm=q), beta[0]),
        (Joint(norm=q), np.append(beta[0], 1.0)),
        (XGivenY(norm=q), np.ones(1)),
    ]:
        worst = worst_case_risk(beta, x, y, 0.7, structure, weights=mu)
        expected = (rmse + 0.7 * np.linalg.norm(c, p)) ** 2
        assert worst.risk == pytest.approx(expected, rel=1e-9, abs=1e-20)
        check_certificate(worst)
        moved = np.hstack([worst.displacement_x, worst.displacement_y])
        if np.linalg.norm(c, p) > 0 and rmse > 0:
            spent = mu @ np.linalg.norm(moved, q, axis=1) ** 2
            assert spent == pytest.approx(0.49, rel=1e-9)
        bound = explicit_bound(rmse**2, np.linalg.norm(beta[0], p), 0.7, structure)
        assert bound == pytest.approx(expected, rel=1e-9, abs=1e-20)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_scalar_output_in_any_norm_against_the_linear_programme(q, rng):
    """LP over candidates that contain the worst-case atoms, and many others around."""
    beta, x, y = (
        rng.standard_normal((1, 3)),
        rng.standard_normal((5, 1)),
        rng.standard_normal((5, 3)),
    )
    structure = YGivenX(norm=q)
    worst = worst_case_risk(beta, x, y, 0.6, structure)
    around = (y[:, None, :] + rng.standard_normal((5, 60, 3))).reshape(-1, 3)
    candidates = np.vstack([y, worst.y, around])
    loss = (x - candidates @ beta.T[:, 0]) ** 2
    cost = np.linalg.norm(y[:, None, :] - candidates[None], q, axis=2) ** 2
    programme = finite_worst_case_highs(loss, cost, 0.6 * (1 + 1e-12))
    assert programme.risk == pytest.approx(worst.risk, rel=1e-8)
    assert finite_worst_case(loss, cost, 0.6 * (1 + 1e-12)).risk == pytest.approx(programme.risk)


def test_norms_combine_with_weights_per_axis(rng):
    beta, x, y = (
        rng.standard_normal((1, 3)),
        rng.standard_normal((5, 1)),
        rng.standard_normal((5, 3)),
    )
    structure = Joint(2.0, [1.0, 4.0, np.inf], norm=3)
    worst = worst_case_risk(beta, x, y, 0.6, structure)
    c = np.array([1 / math.sqrt(2), beta[0, 0], beta[0, 1] / 2])
    rmse = math.sqrt(((x - y @ beta.T) ** 2).mean())
    assert worst.risk == pytest.approx((rmse + 0.6 * np.linalg.norm(c, 1.5)) ** 2)
    assert not worst.displacement_y[:, 2].any()
    check_certificate(worst)


def test_descriptions_name_what_is_special():
    assert repr(Joint()) == "Joint()"
    assert repr(Joint(2.0, [1, 2], norm=3)) == "Joint(weight_x=2, weight_y=<2 weights>, norm=3)"
    assert repr(YGivenX(np.eye(2) * 2)) == "YGivenX(weight_y=<2 x 2 weights>)"
    assert repr(XShift(np.eye(2), covariance=1.0)) == (
        "XShift(forward=<2 x 2 map>, cost='joint', covariance=<given>)"
    )


# --- what a reader's mutations survived ---------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "lipschitz", "expected"),
    [
        (XShift(np.eye(2), weight_x=4.0), 3.0, 1.5),
        (YShift(np.eye(2), weight_y=4.0), 3.0, 1.5),
        (YGivenX(4.0), 3.0, 1.5),
        (YGivenX(np.diag([0.25, 1.0])), 3.0, 6.0),
        (YGivenX([0.25, 1.0]), 3.0, 6.0),
        (XGivenY(0.25), 3.0, 2.0),
        (Joint(0.25, 1.0), 1.5, 2.5),
        (Joint(0.25, 1.0, norm=1), 1.0, 2.0),
        (Joint(0.25, 1.0, norm=np.inf), 1.0, 3.0),
    ],
)
def test_moduli_by_hand(structure, lipschitz, expected):
    assert structure.modulus(lipschitz) == pytest.approx(expected, rel=1e-14)


def test_noise_costs_by_hand():
    A = np.ones((3, 2))
    assert XShift(A, covariance=0.2, weight_y=3.0).noise_cost == pytest.approx(1.8)
    assert XShift(A, covariance=[0.1, 0.0, 0.3]).noise_cost == pytest.approx(0.4)
    assert XShift(A, covariance=np.diag([0.1, 0.0, 0.3])).noise_cost == pytest.approx(0.4)
    assert XShift(A, covariance=0.2, weight_y=[1.0, 2.0, 3.0]).noise_cost == pytest.approx(1.2)
    weight = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    root = np.arange(9.0).reshape(3, 3)
    noisy = XShift(A, covariance=root @ root.T, weight_y=weight)
    assert noisy.noise_cost == pytest.approx(np.trace(weight @ root @ root.T))
    assert XShift(A, "x", covariance=0.2).noise_cost == 0.0
    with pytest.raises(ValueError, match="covariance: the smallest eigenvalue"):
        XShift(A[:2], covariance=[[1.0, 1.5], [1.5, 1.0]])


@pytest.mark.parametrize("weights", [{}, {"weight_y": [1.0, 5.0, 0.2, 2.0]}, {"weight_x": 3.0}])
def test_noise_and_data_off_the_graph_are_charged_together(weights, rng):
    """Noise, weights and e = y - Ax at once, with the potential maximised numerically."""
    B, x, y = case(rng)
    A = rng.standard_normal((4, 3))
    y = x @ A.T + 0.3 * y
    radius, variance = 4.0, 0.1
    structure = XShift(A, covariance=variance, **weights)
    worst = worst_case_risk(B, x, y, radius, structure)
    check_certificate(worst)
    wx = np.broadcast_to(weights.get("weight_x", 1.0), 3)
    wy = np.broadcast_to(weights.get("weight_y", 1.0), 4)

    def dual(lam):
        total = lam * (radius**2 - variance * wy.sum()) + variance * (B**2).sum()
        for own_x, own_y in zip(x, y, strict=True):
            H = lam * (np.diag(wx) + A.T * wy @ A) - (np.eye(3) - B @ A).T @ (np.eye(3) - B @ A)
            g = lam * (wx * own_x + A.T @ (wy * own_y))
            value = -lam * ((wx * own_x**2).sum() + (wy * own_y**2).sum())
            total += (value + g @ np.linalg.solve(H, g)) / len(x)
        return total

    assert dual(worst.multiplier) == pytest.approx(worst.risk, rel=1e-9)
    for factor in (0.999, 1.01, 3.0):
        lam = worst.multiplier * factor
        H = lam * (np.diag(wx) + A.T * wy @ A) - (np.eye(3) - B @ A).T @ (np.eye(3) - B @ A)
        if np.linalg.eigvalsh(H)[0] > 0:
            assert dual(lam) >= worst.risk * (1 - 1e-9)


def test_a_little_off_the_graph_is_off_the_graph(rng):
    B, x, _ = case(rng)
    A = rng.standard_normal((4, 3))
    off = 1e-8 * rng.standard_normal((7, 4))
    e = np.linalg.solve(np.eye(4) + A @ A.T, off.T).T
    forced = math.sqrt((off * e).sum(axis=1).mean())
    with pytest.raises(InfeasibleRadiusError) as caught:
        worst_case_risk(B, x, x @ A.T + off, 0.0, XShift(A))
    assert caught.value.smallest_radius == pytest.approx(forced, rel=1e-6)


def test_structures_of_operators_with_different_left_and_right_bases(rng):
    A = Integration(6)
    B = A.inverse(0.01)
    x = rng.standard_normal((5, 6))
    y = A.apply(x)
    for fast, dense in [
        (XShift(A), XShift(A.matrix())),
        (YShift(A.inverse(0.3)), YShift(A.inverse(0.3).matrix())),
        (YShift(A), YShift(A.matrix())),  # bases that do not fit: made dense
    ]:
        first = worst_case_risk(B, x, y, 30.0, fast)
        assert first.risk == pytest.approx(worst_case_risk(B.matrix(), x, y, 30.0, dense).risk)
        check_certificate(first)


def test_threshold_of_a_certificate_counts_every_variable_that_moves(rng):
    B, x, y = case(rng)
    top = np.linalg.norm(B, 2) ** 2
    assert worst_case_risk(B, x, y, 0.3, "joint").verify().threshold == pytest.approx(1 + top)
    assert worst_case_risk(B, x, y, 0.3, "y|x").verify().threshold == pytest.approx(top)
    assert worst_case_risk(B, x, y, 0.3, "x|y").verify().threshold == 1.0


def test_a_frozen_variable_that_moves_in_one_axis_costs_infinitely():
    cost = YGivenX().transport_cost(np.array([[1.0, 0.0], [0.0, 0.0]]), np.zeros((2, 3)))
    np.testing.assert_array_equal(cost, [np.inf, 0.0])


@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
def test_costs_in_other_norms_of_any_scale(scale, rng):
    beta, x, y = rng.standard_normal((1, 3)), *(rng.standard_normal((5, k)) for k in (1, 3))
    for q in (1.0, 3.0, 200.0):
        worst = worst_case_risk(beta, scale * x, scale * y, 0.5 * scale, YGivenX(norm=q))
        certificate = worst.verify()
        assert certificate.transport_cost / scale**2 == pytest.approx(0.25)
        assert certificate.holds()
