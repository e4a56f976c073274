"""Unbalanced transport: certificates, oracles, the identities of the paper, closed forms."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import kl_div

import validation.__main__ as command_line
from dro_core.reference import unbalanced_ot_cvxpy, unbalanced_ot_mm
from dro_core.unbalanced import (
    NotConvergedError,
    c_transform,
    semidual_value,
    unbalanced_gaussian,
    unbalanced_ot,
)
from dro_core.unbalanced.forest import forest_shift
from dro_core.unbalanced.problem import Marginal
from validation import registry
from validation import unbalanced as experiment
from validation.benchmarks import unbalanced as benchmark

PAIRS = [("kl", "kl"), ("kl", "balanced"), ("balanced", "kl"), ("balanced", "balanced")]


@st.composite
def measures(draw, pairs=tuple(PAIRS), largest=12):
    """(cost, a, b, divergence, weight): random, tied, signed or far costs; masses of any size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    kind = draw(st.sampled_from(["uniform", "ties", "spread", "signed", "points", "far"]))
    cost = {
        "uniform": lambda: rng.random((n, m)),
        "ties": lambda: rng.integers(0, 4, (n, m)).astype(float),
        "spread": lambda: 10.0 ** rng.uniform(-6, 6, (n, m)),
        "signed": lambda: 10 * rng.standard_normal((n, m)),
        "points": lambda: np.subtract.outer(rng.standard_normal(n), rng.standard_normal(m)) ** 2,
        "far": lambda: np.add.outer(1e3 * rng.random(n), rng.random(m)),
    }[kind]()
    digits = draw(st.sampled_from([0, 1, 15]))
    a, b = (10.0 ** rng.uniform(-digits, 0, size) for size in (n, m))
    divergence = draw(st.sampled_from(pairs))
    if divergence == ("balanced", "balanced"):
        b *= a.sum() / b.sum()
    return cost, a, b, divergence, draw(st.sampled_from([0.3, 1.0, 20.0]))


def objective(plan, cost, a, b, divergence, weight):
    """The primal from its definition, with scipy's divergence; infinite if not feasible."""
    if (plan < 0).any():
        return math.inf
    value = (cost * plan).sum()
    for axis, mass, name in ((1, a, divergence[0]), (0, b, divergence[1])):
        marginal = plan.sum(axis=axis)
        if name == "kl":
            value += weight * kl_div(marginal, mass).sum()
        elif not np.allclose(marginal, mass, rtol=0, atol=1e-9 * mass.sum()):
            return math.inf
    return value


# --- the solver -------------------------------------------------------------------------------


@given(measures())
def test_the_value_is_proved_by_a_plan_and_potentials(case):
    cost, a, b, divergence, weight = case
    found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    certificate = found.verify()
    assert certificate.holds()
    assert found.converged
    size, plan = certificate.size, found.plan.toarray()
    assert objective(plan, *case) == pytest.approx(found.value, rel=1e-10, abs=1e-10 * size)
    u, v = found.potentials
    slack = cost - u[:, None] - v
    assert slack.min() >= -1e-12 * np.abs(cost).max()
    assert (plan * slack).sum() <= 1e-9 * size  # complementary slackness
    assert found.plan.nnz < len(a) + len(b)
    graph = sparse.block_array([[None, found.plan], [found.plan.T, None]])
    trees, _ = sparse.csgraph.connected_components(graph, directed=False)
    assert trees == len(a) + len(b) - found.plan.nnz  # a forest
    assert found.mass == pytest.approx(plan.sum(), rel=1e-12)


@given(measures(largest=6), st.integers(0, 2**32 - 1))
def test_weak_duality_for_any_plan_and_any_potential(case, seed):
    cost, a, b, divergence, weight = case
    rng = np.random.default_rng(seed)
    found = unbalanced_ot(*case[:4], weight=weight)
    size = found.verify().size
    v = found.potentials[1] + 10.0 ** rng.uniform(-4, 0) * rng.standard_normal(len(b))
    assert semidual_value(v, cost, a, b, divergence, weight=weight) <= found.value + 1e-9 * size
    plan = found.plan.toarray() * rng.uniform(0.5, 1.5, cost.shape) + 0.1 * np.outer(a, b)
    if divergence[0] == "balanced":
        plan *= (a / plan.sum(axis=1))[:, None]
    if divergence == ("balanced", "balanced"):
        plan = np.outer(a, b) / b.sum()
    elif divergence[1] == "balanced":
        plan *= b / plan.sum(axis=0)
    assert objective(plan, *case) >= found.value - 1e-9 * size


@pytest.mark.parametrize("divergence", PAIRS, ids="-".join)
@pytest.mark.parametrize("form", ["dual", "primal"])
def test_against_exponential_cones(divergence, form, rng):
    cost, a, b = 4 * rng.random((12, 9)), rng.random(12), rng.random(9)
    if divergence == ("balanced", "balanced"):
        b *= a.sum() / b.sum()
    expected = unbalanced_ot_cvxpy(cost, a, b, divergence, weight=0.7, form=form)
    found = unbalanced_ot(cost, a, b, divergence, weight=0.7)
    assert found.value == pytest.approx(expected.value, rel=1e-8)
    if form == "primal":
        np.testing.assert_allclose(found.plan.toarray(), expected.plan, atol=1e-5)
    elif divergence == ("kl", "kl"):
        for own, other in zip(found.potentials, expected.potentials, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-5)


def test_against_majorisation_minimisation(rng):
    cost, a, b = rng.random((20, 25)), rng.random(20), 3 * rng.random(25)
    found = unbalanced_ot(cost, a, b, weight=0.5)
    reference = unbalanced_ot_mm(cost, a, b, weight=0.5, iterations=3000)
    assert found.value <= reference.value <= found.value * (1 + 1e-4)
    np.testing.assert_allclose(found.plan.toarray(), reference.plan, atol=1e-2)


def test_balanced_is_the_earth_movers_distance(rng):
    import ot

    cost, a, b = rng.random((30, 20)), rng.random(30), rng.random(20)
    a, b = a / a.sum(), b / b.sum()
    found = unbalanced_ot(cost, 5 * a, 5 * b, "balanced")
    assert found.value == pytest.approx(5 * ot.emd2(a, b, cost), rel=1e-12)
    v = ot.emd(a, b, cost, log=True)[1]["v"]
    assert semidual_value(v, cost, a, b, "balanced") == pytest.approx(found.value / 5, rel=1e-12)
    many = unbalanced_ot(cost, a, b, weight=1e5)  # the limit of a large weight
    assert many.value == pytest.approx(found.value / 5, rel=1e-4)
    assert many.value < found.value / 5


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 5.0])
def test_two_hundred_points_with_outliers(scale):
    problem = experiment.outlier_problem(200, scale, seed=0)
    found = unbalanced_ot(*problem)
    assert found.gap <= 1e-9
    assert found.verify().holds()
    v = found.potentials[1]
    assert semidual_value(v, *problem) == pytest.approx(found.value, rel=1e-10)
    assert found.plan.nnz < 400
    assert found.steps <= 40


# --- identities of the paper ------------------------------------------------------------------


@given(measures(pairs=(("kl", "kl"),)))
def test_value_is_total_mass_minus_twice_the_transported_mass(case):
    """C = w (|a| + |b| - 2 mass), and the marginals have densities exp(-v^c/w), exp(-v/w)."""
    cost, a, b, _, weight = case
    found = unbalanced_ot(cost, a, b, weight=weight)
    size = found.verify().size
    total = a.sum() + b.sum()
    assert found.value == pytest.approx(
        weight * (total - 2 * found.mass), rel=1e-9, abs=1e-9 * (size + weight * total)
    )
    u, v = found.potentials
    np.testing.assert_array_equal(c_transform(v, cost), u)
    for axis, mass, potential in ((1, a, u), (0, b, v)):
        marginal = found.plan.sum(axis=axis)
        np.testing.assert_allclose(
            marginal, mass * np.exp(-potential / weight), rtol=1e-6, atol=1e-6 * found.mass
        )


@given(measures(), st.sampled_from([1e-6, 0.5, 1e4]))
def test_one_knob_not_two(case, factor):
    """alpha KL with cost tau c is alpha times KL with tau c / alpha."""
    cost, a, b, divergence, weight = case
    found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    other = unbalanced_ot(cost * factor, a, b, divergence, weight=weight * factor)
    size = found.verify().size
    assert other.value / factor == pytest.approx(found.value, rel=1e-8, abs=1e-8 * size)
    unit = unbalanced_ot(cost / weight, a, b, divergence)
    assert weight * unit.value == pytest.approx(found.value, rel=1e-8, abs=1e-8 * size)


@given(measures(), st.floats(-3, 3))
def test_a_constant_in_the_cost(case, shift):
    """Both free: the plan scales by exp(-k/2w). One fixed: value + k mass, the same plan."""
    cost, a, b, divergence, weight = case
    found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    moved = unbalanced_ot(cost + shift * weight, a, b, divergence, weight=weight)
    if divergence == ("kl", "kl"):
        expected = found.mass * math.exp(-shift / 2)
        limit = 1e-8 * (a.sum() + b.sum() + found.mass)
        assert moved.mass == pytest.approx(expected, rel=1e-8, abs=limit)
    else:
        expected = found.value + shift * weight * found.mass
        size = found.verify().size + abs(expected - found.value)
        assert moved.value == pytest.approx(expected, abs=1e-8 * size)


@given(measures(), st.sampled_from([1e-9, 0.3, 1e6]), st.sampled_from([1e-9, 0.3, 1e6]))
def test_scaling_of_the_masses(case, first, second):
    cost, a, b, divergence, weight = case
    second = first if divergence == ("balanced", "balanced") else second
    found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    scaled = unbalanced_ot(cost, first * a, second * b, divergence, weight=weight)
    factor = {("kl", "kl"): math.sqrt(first * second), ("kl", "balanced"): second}
    expected = found.mass * factor.get(divergence, first)
    assert scaled.mass == pytest.approx(
        expected, rel=1e-6, abs=1e-8 * math.sqrt(first * second) * (a.sum() + b.sum())
    )


@given(measures())
def test_exchanging_the_measures_and_permuting_points(case):
    cost, a, b, divergence, weight = case
    found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    limit = 1e-9 * found.verify().size
    other = unbalanced_ot(cost.T, b, a, divergence[::-1], weight=weight)
    assert other.value == pytest.approx(found.value, abs=limit)
    order = unbalanced_ot(cost[::-1, ::-1], a[::-1], b[::-1], divergence, weight=weight)
    assert order.value == pytest.approx(found.value, abs=limit)


def test_adding_functions_of_one_point_to_the_cost(rng):
    """ISUM Eqs. 9-12: f(y) + g(x) does not move a balanced plan, but it does an unbalanced one."""
    cost, a = rng.random((15, 15)), np.full(15, 1 / 15)
    f, g = rng.standard_normal((2, 15))
    other = cost + f[:, None] + g
    balanced = [unbalanced_ot(c, a, a, "balanced") for c in (cost, other)]
    np.testing.assert_allclose(*(found.plan.toarray() for found in balanced), atol=1e-12)
    expected = balanced[0].value + a @ f + a @ g
    assert balanced[1].value == pytest.approx(expected, abs=1e-12)
    free = [unbalanced_ot(c, a, a) for c in (cost, other)]
    shapes = [found.plan.toarray() / found.mass for found in free]
    assert np.abs(shapes[0] - shapes[1]).sum() > 0.1
    # what it does instead: it reweights the measures, a exp(-f) and b exp(-g)
    weighted = unbalanced_ot(cost, a * np.exp(-f), a * np.exp(-g))
    np.testing.assert_allclose(weighted.plan.toarray(), free[1].plan.toarray(), atol=1e-10)


def test_the_fixed_side_keeps_its_marginal(rng):
    cost, a, b = rng.random((9, 7)), rng.random(9), 2 * rng.random(7)
    first = unbalanced_ot(cost, a, b, ("balanced", "kl"))
    np.testing.assert_allclose(first.plan.sum(axis=1), a, rtol=1e-12)
    second = unbalanced_ot(cost, a, b, ["kl", "balanced"])
    np.testing.assert_allclose(second.plan.sum(axis=0), b, rtol=1e-12)
    free = unbalanced_ot(cost, a, b)
    assert free.value <= min(first.value, second.value)


def test_outliers_and_class_imbalance():
    """Unbalanced plans drop what is far and keep clusters apart; balanced ones cannot."""
    config = experiment.Config(points=40)
    rows = {row["case"]: row for row in experiment.plan_rows(config)[0]}
    assert rows["outliers, unbalanced"]["outlier_density"] < 1e-2
    assert rows["outliers, unbalanced"]["inlier_density"] > 0.5
    assert rows["imbalance, balanced"]["crossing_share"] == pytest.approx(0.5, abs=0.05)
    assert rows["imbalance, unbalanced"]["crossing_share"] < 1e-3


# --- certificates that must not hold ----------------------------------------------------------


def wrong(found):
    u, v = found.potentials
    data = found.plan.data.copy()
    data[0] *= -1
    negative = sparse.csr_array((data, found.plan.indices, found.plan.indptr), found.plan.shape)
    yield "value", {"value": found.value * (1 + 1e-6)}
    yield "plan too large", {"plan": found.plan * (1 + 1e-3)}
    yield "negative plan", {"plan": negative}
    yield "u too large", {"potentials": (u + 1e-6, v)}
    yield "u too small", {"potentials": (u - 1e-3, v)}
    yield "v too large", {"potentials": (u, v + 1e-6)}
    yield "v wrong", {"potentials": (u, np.where(np.arange(len(v)) == 0, v - 0.1, v))}
    yield "another cost", {"cost": found.cost + 1e-3}
    yield "another weight", {"weight": found.weight * 1.01}
    yield "another divergence", {"divergence": ("kl", "balanced")}


@pytest.mark.parametrize("k", range(10))
def test_a_wrong_answer_has_no_certificate(k, rng):
    found = unbalanced_ot(rng.random((6, 8)), rng.random(6), rng.random(8))
    name, changes = list(wrong(found))[k]
    assert found.verify().holds()
    assert not dataclasses.replace(found, **changes).verify().holds(), name


def test_a_plan_with_other_marginals_has_no_certificate():
    """Where all costs are equal the values agree whatever the marginals are."""
    found = unbalanced_ot(np.ones((2, 2)), [1.0, 1.0], [1.0, 1.0], "balanced")
    assert found.verify().holds()
    other = sparse.csr_array([[2.0, 0.0], [0.0, 0.0]])
    certificate = dataclasses.replace(found, plan=other).verify()
    assert certificate.gap == pytest.approx(0.0, abs=1e-15)
    assert not certificate.holds()


@pytest.mark.parametrize("divergence", PAIRS[:3], ids="-".join)
def test_the_shift_of_a_tree_makes_its_totals_equal(divergence, rng):
    sides = [
        Marginal(rng.random(size), name == "kl")
        for size, name in zip((4, 3), divergence, strict=True)
    ]
    u, v = rng.standard_normal(4), rng.standard_normal(3)
    shift = forest_shift(*sides, u, v, np.zeros(7, dtype=int))
    totals = sides[0].density(u + shift).sum(), sides[1].density(v - shift).sum()
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


def test_no_convergence_is_an_error_with_the_result(rng):
    cost, a = 10 * rng.random((40, 40)), rng.random(40)
    with pytest.raises(NotConvergedError, match=r"rtol: the relative gap is .* after 1 steps") as e:
        unbalanced_ot(cost, a, a, max_steps=1)
    assert not e.value.result.converged
    assert e.value.result.gap > 1e-9
    found = unbalanced_ot(cost, a, a, max_steps=1, raise_unconverged=False)
    certificate = found.verify()  # still a feasible pair: an honest bracket
    exact = unbalanced_ot(cost, a, a).value
    assert certificate.dual_value <= exact <= certificate.primal_value
    assert not certificate.holds()


# --- extreme input ----------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", PAIRS, ids="-".join)
@pytest.mark.parametrize("cost", [700.0, 1400.0, 1e6, -700.0])
def test_potentials_beyond_the_exponential(divergence, cost):
    found = unbalanced_ot([[cost]], [1.0], [1.0], divergence)
    expected = 2 - 2 * math.exp(-cost / 2) if divergence == ("kl", "kl") else cost
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert sum(found.potentials)[0] == pytest.approx(cost)
    if divergence == ("kl", "kl"):
        assert found.potentials[0][0] == pytest.approx(cost / 2)
    assert found.verify().holds()


def test_outliers_at_any_distance_have_the_right_potential():
    cost = np.array([[0.0, 3000.0], [3000.0, 1e5]])
    found = unbalanced_ot(cost, [1.0, 1.0], [1.0, 1.0])
    np.testing.assert_allclose(found.potentials, [[0.0, 3000.0], [0.0, 3000.0]], atol=1e-9)
    assert found.value == pytest.approx(2.0)
    assert found.mass == pytest.approx(1.0)


def test_overflow_is_named():
    with pytest.raises(OverflowError, match="cost, weight: the least cost is -2000 weights"):
        unbalanced_ot([[-2000.0]], [1.0], [1.0])
    with pytest.raises(OverflowError, match="v, cost, weight: the exponential"):
        semidual_value([-800.0], [[1.0]], [1.0], [1.0])
    assert semidual_value([700.0], [[0.0]], [1.0], [1.0]) == pytest.approx(-math.exp(700))
    assert semidual_value([-800.0], [[1.0]], [1.0], [1.0], "balanced") == pytest.approx(1.0)


@pytest.mark.parametrize("cost", [np.zeros((5, 4)), np.full((5, 4), 3.0), np.eye(5)[:, :4]])
def test_many_optimal_plans(cost):
    a, b = np.arange(1.0, 6.0), np.arange(1.0, 5.0)
    found = unbalanced_ot(cost, a, b)
    assert found.verify().holds()
    assert found.plan.nnz < 9


def test_input_is_not_modified(rng):
    arrays = [rng.random((4, 6)), rng.random(4), rng.random(6)]
    kept = [array.copy() for array in arrays]
    unbalanced_ot(*arrays).verify()
    for array, copy in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- c-transform and semi-dual ----------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 7, 60, 10**6])
def test_blocks_of_any_size_give_the_same_transform(entries, rng, monkeypatch):
    cost, v, a, b = rng.random((23, 6)), rng.standard_normal(6), rng.random(23), rng.random(6)
    expected = np.array([min(row - v) for row in cost])
    monkeypatch.setattr("dro_core.unbalanced.semidual.BLOCK_ENTRIES", entries)
    sizes = []

    def block(rows):
        sizes.append(rows.stop - rows.start)
        return cost[rows]

    for given_cost in (cost, block):
        np.testing.assert_array_equal(c_transform(v, given_cost), expected)
        value = semidual_value(v, given_cost, a, b, weight=2.0)
        assert value == pytest.approx(
            -2 * (a @ np.expm1(-expected / 2) + b @ np.expm1(-v / 2)), rel=1e-13
        )
    assert max(sizes) <= max(1, entries // 6)


@given(st.integers(0, 2**32 - 1))
def test_the_c_transform_is_the_largest_feasible_potential(seed):
    rng = np.random.default_rng(seed)
    cost, v = rng.standard_normal((5, 7)), rng.standard_normal(7)
    u = c_transform(v, cost)
    slack = cost - u[:, None] - v
    assert slack.min() >= -1e-15
    np.testing.assert_allclose(slack.min(axis=1), 0.0, atol=1e-15)
    again = c_transform(c_transform(u, cost.T), cost)
    np.testing.assert_allclose(again, u, atol=1e-14)  # v^ccc = v^c


# --- Gaussians --------------------------------------------------------------------------------


def random_gaussians(rng, m, n, quadratic):
    spread0, spread1 = rng.standard_normal((m, 3 * m)), rng.standard_normal((n, 3 * n))
    return {
        "mean0": rng.standard_normal(m),
        "covariance0": spread0 @ spread0.T / (3 * m),
        "mean1": rng.standard_normal(n),
        "covariance1": spread1 @ spread1.T / (3 * n),
        "forward": rng.standard_normal((m, n)),
        "likelihood": rng.uniform(0.1, 2),
        "quadratic": quadratic,
        "mass0": rng.uniform(0.2, 3),
        "mass1": rng.uniform(0.2, 3),
        "weight": rng.uniform(0.3, 3),
    }


def gaussian_cost(y, x, forward, likelihood, quadratic):
    value = likelihood * ((y - x @ forward.T) ** 2).sum(axis=-1)
    return value + (quadratic * ((y - x) ** 2).sum(axis=-1) if quadratic else 0.0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1, 0.7), (3, 3, 0.4), (2, 3, 0.0)]))
def test_gaussian_potentials_are_feasible_and_tight(seed, shape):
    """Optimality itself: u + v <= c everywhere with equality on the graph of the map, densities."""
    rng = np.random.default_rng(seed)
    m, n, quadratic = shape
    problem = random_gaussians(rng, m, n, quadratic)
    found = unbalanced_gaussian(**problem)
    cost = {key: problem[key] for key in ("forward", "likelihood", "quadratic")}
    y, x = 3 * rng.standard_normal((2000, m)), 3 * rng.standard_normal((2000, n))
    u, v = found.source_potential(y), found.potential(x)
    prices = gaussian_cost(y, x, **cost)
    scale = 1 + np.abs(prices).max()
    assert (u + v - prices).max() <= 1e-9 * scale
    image = found.transport(y)
    tight = gaussian_cost(y, image, **cost) - u - found.potential(image)
    np.testing.assert_allclose(tight, 0.0, atol=1e-9 * (1 + np.abs(u).max() + np.abs(prices).max()))
    total = problem["mass0"] + problem["mass1"] - 2 * found.mass
    assert found.value == pytest.approx(problem["weight"] * total, rel=1e-12)
    if m == n:  # the map moves one marginal of the plan onto the other
        np.testing.assert_allclose(
            found.matrix @ found.source_covariance @ found.matrix.T,
            found.target_covariance,
            rtol=1e-6,
            atol=1e-9,
        )
        np.testing.assert_allclose(
            found.transport(found.source_mean[None])[0], found.target_mean, rtol=1e-12
        )


def gaussian_grid(points, mean, deviation):
    grid = np.linspace(mean - 6 * deviation, mean + 6 * deviation, points)
    density = np.exp(-0.5 * ((grid - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    return grid, density * (grid[1] - grid[0])


def test_discrete_measures_converge_to_the_gaussian_closed_form():
    exact = unbalanced_gaussian(
        [0.0], [1.0], [1.5], [0.25], forward=[[0.6]], likelihood=0.3, quadratic=0.3, mass1=1.3
    )
    errors = []
    for points in (20, 40, 80, 160):
        y, a = gaussian_grid(points, 0.0, 1.0)
        x, b = gaussian_grid(points, 1.5, 0.5)
        cost = 0.3 * (y[:, None] - 0.6 * x) ** 2 + 0.3 * (y[:, None] - x) ** 2
        found = unbalanced_ot(cost, a, 1.3 * b)
        errors.append([abs(found.value - exact.value), abs(found.mass - exact.mass)])
    errors = np.array(errors)
    assert (errors[1:] < 0.6 * errors[:-1]).all()
    assert errors[-1].max() < 4e-4
    v = exact.potential(x[:, None])
    assert semidual_value(v, cost, a, 1.3 * b) == pytest.approx(exact.value, abs=4e-4)
    inside = np.abs(y) < 3
    u = exact.source_potential(y[:, None])
    np.testing.assert_allclose(c_transform(v, cost)[inside], u[inside], atol=2e-3)


def test_gaussians_by_the_formula_of_one_axis(rng):
    """Diagonal Gaussians decouple: product of the masses of the axes (isum.md's formula)."""
    (m1, m2), (s1, s2) = rng.standard_normal((2, 3)), rng.uniform(0.3, 2, (2, 3))
    A, tau, fit, near = np.array([0.5, -1.4, 2.0]), 0.3, 1.0, 0.6
    kyy, kxy, kxx = fit + near, fit * A + near, fit * A**2 + near
    a11, a22, o = 1 / s1**2 + 2 * tau * kyy, 1 / s2**2 + 2 * tau * kxx, 2 * tau * kxy
    slope = np.sign(kxy) * np.sqrt(a11 / a22)
    p = (a22 * m1 / s1**2 + o * m2 / s2**2) / (a11 * a22 - o**2)
    q = (o * m1 / s1**2 + a11 * m2 / s2**2) / (a11 * a22 - o**2)
    alpha, beta = (a11 - o * slope) ** -0.5, (a22 - o / slope) ** -0.5
    cost = tau * (fit * (A * q - p) ** 2 + near * (q - p) ** 2)
    exponent = cost - np.log(alpha * beta / (s1 * s2))
    exponent += (p - m1) ** 2 / (2 * s1**2) + (q - m2) ** 2 / (2 * s2**2)
    found = unbalanced_gaussian(
        m1, s1**2, m2, s2**2, forward=np.diag(A), likelihood=tau * fit, quadratic=tau * near
    )
    assert found.mass == pytest.approx(math.exp(-0.5 * exponent.sum()), rel=1e-12)
    np.testing.assert_allclose(found.matrix, np.diag(slope), atol=1e-12)
    np.testing.assert_allclose(found.target_mean, q, rtol=1e-10)
    np.testing.assert_allclose(np.diag(found.source_covariance), alpha**2, rtol=1e-10)


def test_equal_gaussians_stay_and_far_ones_vanish():
    same = unbalanced_gaussian([1.0, 2.0], [1.0, 4.0], [1.0, 2.0], [1.0, 4.0], weight=3.0)
    assert (same.value, same.mass) == pytest.approx((0.0, 1.0), abs=1e-12)
    np.testing.assert_allclose(same.matrix, np.eye(2), atol=1e-12)
    far = unbalanced_gaussian([0.0], [1.0], [1e4], [1.0], quadratic=1.0)
    assert (far.value, far.mass) == pytest.approx((2.0, 0.0))
    assert np.isfinite(far.potential([[0.0], [1e4]])).all()
    uncoupled = unbalanced_gaussian([0.0], [1.0], [0.0], [1.0], quadratic=0.0)
    assert (uncoupled.mass, uncoupled.matrix[0, 0]) == pytest.approx((1.0, 0.0))


# --- the experiments --------------------------------------------------------------------------


def test_the_experiment_runs_and_its_checks_hold(tmp_path):
    config = experiment.Config(points=40, iterations=300)
    checks = experiment.run(config, tmp_path)
    assert all(check.holds for check in checks), [c for c in checks if not c.holds]
    for name in ("solvers", "plans", "gaussian", "checks"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["command"]
    assert (tmp_path / "plans.svg").exists()


def test_experiments_are_registered():
    assert registry.load("unbalanced").run is experiment.run
    assert registry.load("benchmarks unbalanced").run is benchmark.run
    with pytest.raises(ValueError, match="--set points: 0 is below 1"):
        registry.configure(experiment.Config, ["points=0"])
    assert command_line.__doc__


def test_the_benchmark_runs_at_a_small_size(tmp_path):
    config = benchmark.Config(points=30, large="60", runs=1, scales="0.1,1.0")
    checks = benchmark.run(config, tmp_path)
    assert (tmp_path / "unbalanced.json").exists()
    slow = ("faster", "memory")  # sizes too small for these
    assert all(c.holds for c in checks if not any(word in c.claim for word in slow))
