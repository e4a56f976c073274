"""Conditional Wasserstein distances: Corollary 4.2.1, plans, potentials, relaxations."""

import dataclasses
import json
import math
import sys
from unittest import mock

import hypothesis
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import validation.__main__ as command_line
from dro_core import wasserstein
from dro_core.reference import (
    conditional_wasserstein_lp,
    conditional_wasserstein_pot,
    wasserstein_pot,
)
from dro_core.wasserstein import (
    conditional_wasserstein,
    gaussian_conditional_wasserstein,
    relaxed_curve,
)
from dro_core.wasserstein.grouping import equal_rows
from validation import conditional_wasserstein as experiment

POWERS = st.sampled_from([1.0, 1.5, 2.0, 3.0])


@st.composite
def measures(draw, count=2, zeros=True, dimension=None):
    """`count` weighted samples (x, y, weights) with one X-marginal, atoms in random order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    conditions, m = draw(st.integers(1, 5)), dimension or draw(st.sampled_from([1, 1, 2, 3]))
    x = rng.standard_normal((conditions, draw(st.integers(1, 3))))
    masses = rng.dirichlet(np.ones(conditions))
    atoms, whole = draw(st.integers(1, 7)), draw(st.booleans())
    found = []
    for _ in range(count):
        counts = np.full(conditions, atoms) if whole else rng.integers(1, atoms + 1, conditions)
        label = rng.permutation(np.repeat(np.arange(conditions), counts))
        share = np.ones(len(label)) if draw(st.booleans()) else rng.random(len(label)) + 0.01
        if zeros and draw(st.booleans()):  # some atoms without mass, one of them alone with its x
            label = np.append(label, rng.integers(0, conditions, 2))
            share = np.append(share, [0.0, 0.0])
        weights = masses[label] * share / np.bincount(label, share)[label]
        y = rng.standard_normal((len(label), m))
        if draw(st.booleans()):
            y = np.round(y)  # ties
        own = x[label]
        if zeros and draw(st.booleans()):
            own, y = np.vstack([own, own[:1] + 9.0]), np.vstack([y, y[:1]])
            weights = np.append(weights, 0.0)
        found.append((own, y, weights / weights.sum()))
    return found


def distance(first, second, **options):
    (x0, y0, weights0), (x1, y1, weights1) = first, second
    return conditional_wasserstein(x0, y0, x1, y1, weights0=weights0, weights1=weights1, **options)


def oracle(function, first, second, **options):
    (x0, y0, weights0), (x1, y1, weights1) = first, second
    return function(x0, y0, x1, y1, weights0=weights0, weights1=weights1, **options)


# --- the corollary ------------------------------------------------------------------------------


@given(measures(), POWERS)
def test_equal_to_transport_with_forbidden_arcs(pair, p):
    found = distance(*pair, p=p)
    assert found.value == pytest.approx(oracle(conditional_wasserstein_lp, *pair, p=p), rel=1e-9)
    assert found.verify().holds()
    assert found.verify().gap < 1e-10


@given(measures())
def test_equal_to_one_problem_per_condition(pair):
    expected = oracle(conditional_wasserstein_pot, *pair)
    assert distance(*pair).value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(measures(zeros=False), POWERS)
def test_equal_to_pot_with_a_large_finite_cost(pair, p):
    first, second = (experiment.Measure(*measure) for measure in pair)
    expected = experiment.by_large_cost(first, second, p)
    assert distance(*pair, p=p).value == pytest.approx(expected, rel=1e-8, abs=1e-6)


@given(measures(zeros=False), st.sampled_from(["new x", "mass"]), st.floats(-7, -1))
def test_finite_if_and_only_if_the_marginals_agree(pair, change, digits):
    first, (x, y, weights) = pair
    assert distance(*pair).reason is None
    assert math.isfinite(distance(*pair).value)
    if change == "new x":
        x = x.copy()
        x[0, 0] += 1e-9
    else:
        assume(len(np.unique(x, axis=0)) > 1)
        weights = weights.copy()
        weights[0] *= 1 + 10**digits
        weights /= weights.sum()
    found = distance(first, (x, y, weights))
    assert found.value == math.inf
    assert "the X-marginals differ" in found.reason
    assert found.verify().holds()
    assert oracle(conditional_wasserstein_pot, first, (x, y, weights)) == math.inf
    with pytest.raises(ValueError, match="infinite: the X-marginals differ"):
        _ = found.plan
    with pytest.raises(ValueError, match="infinite: the X-marginals differ"):
        _ = found.per_condition
    assert "inf" in repr(found)


def test_the_reason_names_the_condition_and_both_masses():
    x0, x1, y = [[0.0], [1.0]], [[0.0], [2.0]], [[1.0], [2.0]]
    reason = conditional_wasserstein(x0, y, x1, y).reason
    assert reason.startswith(
        "the X-marginals differ in 2 of 3 conditions; x = [1.] has mass 0.5 in"
    )
    nothing = conditional_wasserstein([[0.0]], [[1.0]], [[3.0]], [[1.0]])
    assert "method='relaxed'" in nothing.reason
    tiny = conditional_wasserstein(x0, y, [[0.0], [0.0]], y, weights0=[1.0 - 1e-12, 1e-12])
    assert tiny.value == math.inf


def test_masses_that_agree_to_rounding_are_equal():
    x = np.repeat(np.arange(3.0), 3)[:, None]
    y = np.arange(9.0)[:, None]
    off = np.full(9, 1 / 9) * (1 + np.array([1, 0, 0, -1, 0, 0, 0, 0, 0]) * 1e-10)
    assert conditional_wasserstein(x, y, x, y, weights0=off).value < 1e-4
    off = np.full(9, 1 / 9) * (1 + np.array([1, 0, 0, -1, 0, 0, 0, 0, 0]) * 1e-7)
    assert conditional_wasserstein(x, y, x, y, weights0=off).value == math.inf


@given(measures(dimension=2))
def test_never_below_the_ordinary_distance(pair):
    (x0, y0, weights0), (x1, y1, weights1) = pair
    ordinary = wasserstein_pot(
        np.hstack([x0, y0]), np.hstack([x1, y1]), weights0=weights0, weights1=weights1
    )
    assert ordinary <= distance(*pair).value + 1e-9


def test_strictly_above_the_ordinary_distance():
    """Two points at distance delta exchange their y: ordinary min(delta, 1), conditional 1."""
    for row in experiment.strict_rows():
        assert row["conditional"] == 1.0
        assert row["ordinary"] == pytest.approx(min(row["delta"], 1.0), rel=1e-9)


def test_by_hand():
    """x = 0: masses 1/2 at 0 and 1/2 at 2 to 1; x = 1: a move of 3; p = 1 and 2."""
    x0, y0 = [[0.0], [0.0], [1.0]], [[0.0], [2.0], [5.0]]
    x1, y1 = [[1.0], [0.0]], [[8.0], [1.0]]
    weights = {"weights0": [0.25, 0.25, 0.5]}
    for p in (1.0, 2.0):
        found = conditional_wasserstein(x0, y0, x1, y1, **weights, p=p)
        assert found.value == pytest.approx((0.5 * 1 + 0.5 * 3**p) ** (1 / p), rel=1e-15)
        assert found.conditions.tolist() == [[0.0], [1.0]]
        assert found.masses.tolist() == [0.5, 0.5]
        assert found.per_condition == pytest.approx([1.0, 3**p])
        assert found.plan.toarray().tolist() == [[0, 0.25], [0, 0.25], [0.5, 0]]


# --- a metric -----------------------------------------------------------------------------------


@given(measures(count=3), POWERS)
def test_metric(triple, p):
    first, second, third = triple
    one, two, three = (
        distance(*pair, p=p).value for pair in ((first, second), (second, third), (first, third))
    )
    assert three <= one + two + 1e-9
    assert distance(second, first, p=p).value == pytest.approx(one, rel=1e-12)
    assert distance(first, first, p=p).value == 0.0
    assert distance(first, first, p=p).verify().holds()


@given(measures(), st.integers(0, 2**32 - 1))
def test_identity_of_indiscernibles(pair, seed):
    """Zero for the same measure in another order with an atom split in two, positive otherwise."""
    rng = np.random.default_rng(seed)
    (x, y, weights), _ = pair
    order = rng.permutation(len(x))
    share = rng.random()
    split = np.append(weights, weights[0] * (1 - share))
    split[0] *= share
    same = (
        np.vstack([x, x[:1]])[[*order, -1]],
        np.vstack([y, y[:1]])[[*order, -1]],
        split[[*order, -1]],
    )
    assert distance((x, y, weights), same).value == pytest.approx(0.0, abs=1e-7)
    k = int(np.argmax(weights))
    moved = y.copy()
    moved[k] += 0.5
    assert distance((x, y, weights), (x, moved, weights)).value > 1e-3


@given(measures(), st.sampled_from([1e-60, 1e-6, 1e6, 1e60]), POWERS)
def test_scaling_shift_and_order(pair, scale, p):
    plain = distance(*pair, p=p)
    scaled = distance(*((x, scale * y, w) for x, y, w in pair), p=p)
    assert scaled.value == pytest.approx(scale * plain.value, rel=1e-9)
    assert scaled.verify().holds()
    shifted = distance(*((-3.0 * x, 1.0 + y[:, ::-1], w) for x, y, w in pair), p=p)
    assert shifted.value == pytest.approx(plain.value, rel=1e-9)
    reverse = distance(*((x[::-1], y[::-1], w[::-1]) for x, y, w in pair), p=p)
    assert reverse.value == pytest.approx(plain.value, rel=1e-12)
    np.testing.assert_allclose(
        reverse.plan.sum(axis=1)[::-1], plain.plan.sum(axis=1), rtol=0, atol=1e-15
    )


@given(measures(), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_increasing_in_p(pair, p, more):
    assert distance(*pair, p=p).value <= distance(*pair, p=p * more).value * (1 + 1e-9) + 1e-12


# --- plans, potentials, certificates ------------------------------------------------------------


@given(measures(), POWERS)
def test_plan_and_potentials(pair, p):
    (x0, y0, weights0), (x1, y1, weights1) = pair
    found = distance(*pair, p=p)
    plan, (f, g) = found.plan.toarray(), found.potentials
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), weights0, atol=1e-15)
    np.testing.assert_allclose(plan.sum(axis=0), weights1, atol=1e-15)
    cost = cdist(y0, y1) ** p
    allowed = (x0[:, None] == x1).all(axis=2)
    assert (plan[~allowed] == 0).all()
    slack = cost - f[:, None] - g
    size = 1 + cost.max()
    massive = allowed & (weights0[:, None] > 0) & (weights1 > 0)
    if y0.shape[1] == 1:  # feasible for atoms without mass too
        massive = allowed & (x0[:, None] == found.conditions).all(axis=2).any(axis=1)[:, None]
    assert slack[massive].min() > -1e-12 * size
    assert np.abs(slack[plan > 1e-14]).max() < 1e-10 * size
    assert weights0 @ f + weights1 @ g == pytest.approx(found.value**p, rel=1e-9, abs=1e-11)
    assert found.masses @ found.per_condition == pytest.approx(found.value**p, rel=1e-12)
    assert found.masses.sum() == pytest.approx(1.0, rel=1e-12)
    assert found.plan.nnz <= len(x0) + len(x1)
    assert found.moved_x == found.mean_move_x == 0.0
    assert found.marginal_error < 1e-14
    assert found.entropic_cost is None
    for x, mass, own in zip(found.conditions, found.masses, found.per_condition, strict=True):
        here, there = (x0 == x).all(axis=1), (x1 == x).all(axis=1)
        part = np.ix_(here, there)
        assert mass == pytest.approx(weights0[here].sum())
        assert mass * own == pytest.approx((plan[part] * cost[part]).sum(), abs=1e-12)


@given(measures(dimension=1), POWERS)
def test_sorted_quantiles_are_the_network_simplex_on_a_line(pair, p):
    """The same scalars in the plane go through the other solver."""
    flat = [(x, np.hstack([y, 0 * y]), w) for x, y, w in pair]
    one, two = distance(*pair, p=p), distance(*flat, p=p)
    assert one.value == pytest.approx(two.value, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(one.per_condition, two.per_condition, rtol=1e-8, atol=1e-12)


@given(measures(dimension=1), POWERS, st.integers(0, 2**32 - 1))
def test_the_transform_of_any_potential(pair, p, seed):
    """The search that uses monotone places against the minimum over all pairs."""
    found = distance(*pair, p=p)
    problem = found._problem
    f = np.random.default_rng(seed).normal(size=len(problem.y0)) * 3
    transformed = problem.transform(f)
    score = cdist(problem.y0, problem.y1) ** p - f[:, None]
    score[problem.label0[:, None] != problem.label1] = np.inf
    score[problem.label0 < 0] = np.inf
    here = problem.label1 >= 0
    np.testing.assert_allclose(transformed[here], score.min(axis=0)[here], rtol=1e-12)


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize(
    "fault", ["value", "plan", "negative", "x", "potential", "huge", "label", "entry"]
)
def test_certificate_of_a_wrong_answer_does_not_hold(fault, m, rng):
    x = np.repeat(np.arange(4.0), 5)[:, None]
    y0, y1 = rng.standard_normal((2, 20, m))
    found = conditional_wasserstein(x, y0, x, y1)
    assert found.verify().holds()
    plan = found.plan.copy()
    if fault == "value":
        vars(found)["value"] *= 1 + 1e-8
    elif fault == "plan":  # feasible, but not optimal
        found.__dict__["plan"] = type(plan)(np.kron(np.eye(4), np.full((5, 5), 0.01)))
    elif fault == "negative":
        plan.data[0] *= -1
        found.__dict__["plan"] = plan
    elif fault == "x":
        found.__dict__["plan"] = plan[np.roll(np.arange(20), 5)]
    elif fault == "potential":
        f, g = found.potentials
        found.__dict__["potentials"] = (f + 1e-6 * rng.standard_normal(20), g)
    elif fault == "huge":  # rounding of huge potentials is no excuse
        f, g = found.potentials
        found.__dict__["potentials"] = (f + 1e13 * rng.standard_normal(20), g)
        vars(found)["value"] *= 1 + 1e-6
    elif fault == "label":  # a condition split in two: fewer moves, a larger distance
        problem = found._problem
        problem.__dict__.pop("quantiles", None)
        problem.label0 = np.where(np.arange(20) % 5 == 0, 4, problem.label0)
        problem.label1 = np.where(np.arange(20) % 5 == 0, 4, problem.label1)
        problem.conditions = np.vstack([problem.conditions, problem.conditions[:1]])
        problem.masses = np.array([0.2, 0.2, 0.2, 0.2, 0.2])
    else:
        plan.data[0] += 1e-8
        found.__dict__["plan"] = plan
    assert not found.verify().holds()


@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_certificate_of_a_wrong_grouping_does_not_hold(tolerance, m, rng, monkeypatch):
    """One condition taken for two (the distance comes out too large), and two taken for one."""
    label = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    y0, y1 = rng.standard_normal((2, 4, m))
    for x, wrong, rows in (
        (np.zeros((4, 1)), label, np.zeros((2, 1))),
        (label[:4, None] * 1.0, 0 * label, np.zeros((1, 1))),
    ):
        right = conditional_wasserstein(x, y0, x, y1, tolerance=tolerance)
        assert right.verify().holds()
        with monkeypatch.context() as patch:
            patch.setattr(
                "dro_core.wasserstein.problem.close_rows", lambda *_, w=wrong, r=rows: (w, r)
            )
            found = conditional_wasserstein(x, y0, x, y1, tolerance=tolerance)
        assert found.value != right.value
        assert not found.verify().holds()


def test_certificate_of_a_plan_that_moves_x_does_not_hold(rng):
    """The same y under every x: such a plan has the right cost in y and the right marginals."""
    x = np.repeat(np.arange(4.0), 5)[:, None]
    y0, y1 = (np.tile(rng.standard_normal((5, 1)), (4, 1)) for _ in range(2))
    found = conditional_wasserstein(x, y0, x, y1)
    found.__dict__["plan"] = found.plan[np.roll(np.arange(20), 5)]
    assert found.verify().primal_cost == math.inf
    assert not found.verify().holds()


def test_certificate_of_a_wrong_infinity_does_not_hold():
    x, y = [[0.0], [1.0]], [[0.0], [2.0]]
    found = conditional_wasserstein(x, y, [[0.0], [2.0]], y)
    assert found.verify().holds()
    found._problem.difference = dataclasses.replace(found._problem.difference, x=np.zeros(1))
    assert not found.verify().holds()
    right = conditional_wasserstein(x, y, x, y)
    vars(right)["value"] = math.inf
    assert not right.verify().holds()


def test_many_groups_keep_all_digits(rng):
    """Costs of the conditions are as accurate as if each were alone."""
    counts = rng.integers(1, 40, 3000)
    x = np.repeat(rng.standard_normal((3000, 2)), counts, axis=0)
    label = np.repeat(np.arange(3000), counts)
    y0, y1 = rng.standard_normal((2, len(x), 1))
    weights = []
    for _ in range(2):
        share = rng.random(len(x)) ** 3 + 1e-6
        weights.append(share / np.bincount(label, share)[label] / 3000)
    order = rng.permutation(len(x))
    first, second = (x, y0, weights[0]), (x[order], y1[order], weights[1][order])
    found = distance(first, second, p=1.0)
    assert found.verify().holds(1e-12)
    for k in rng.integers(0, 3000, 50):
        here = label == k
        parts = (
            (x[here], y[here], w[here] / w[here].sum())
            for y, w in ((y0, weights[0]), (y1, weights[1]))
        )
        alone = distance(*parts, p=1.0).value
        assert found.per_condition[k] == pytest.approx(alone, rel=1e-13)


def test_equal_weights_give_whole_pairs(rng):
    """No slivers: n atoms against 2n atoms of equal weight have exactly 2n entries."""
    x = np.repeat(np.arange(50.0), 14)[:, None]
    y0, y1 = rng.standard_normal((350, 1)), rng.standard_normal((700, 1))
    found = conditional_wasserstein(x[::2], y0, x, y1)
    assert found.plan.nnz == 700
    assert set(np.round(found.plan.data * 700, 9)) == {1.0}


def test_one_large_condition(rng):
    y0, y1 = np.sort(rng.standard_normal((2, 20_000, 1)), axis=1)
    x = np.ones((20_000, 1))
    order = rng.permutation(20_000)
    found = conditional_wasserstein(x, y0[order], x, y1)
    assert found.value == pytest.approx(float(np.sqrt(np.mean((y0 - y1) ** 2))), rel=1e-12)
    assert found.verify().holds()


def test_inputs_are_not_modified_and_answers_are_the_same_again(rng):
    x, y0, y1 = rng.standard_normal((3, 6, 2))
    weights = rng.dirichlet(np.ones(6))
    copies = [array.copy() for array in (x, y0, y1, weights)]
    options = [{}, {"method": "relaxed", "beta": 1.0}, {"method": "sinkhorn", "epsilon": 1.0}]
    for option in options:
        values = [
            conditional_wasserstein(x, y0, x, y1, weights0=weights, weights1=weights, **option)
            for _ in range(2)
        ]
        assert values[0].value == values[1].value
        values[0].verify()
    for array, copy in zip((x, y0, y1, weights), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# --- conditions ---------------------------------------------------------------------------------


@given(measures(zeros=False), st.integers(0, 2**32 - 1))
def test_within_a_tolerance(pair, seed):
    rng = np.random.default_rng(seed)
    x = np.unique(np.vstack([pair[0][0], pair[1][0]]), axis=0)
    assume(len(x) == 1 or (cdist(x, x) + 9 * np.eye(len(x))).min() > 1e-3)
    jittered = [
        (own + 1e-7 * rng.uniform(-1, 1, own.shape) / own.shape[1], y, w) for own, y, w in pair
    ]
    plain, near = distance(*pair), distance(*jittered, tolerance=1e-6)
    assert near.value == pytest.approx(plain.value, rel=1e-12, abs=1e-12)
    assert near.verify().holds()
    assert near.moved_x == 0.0
    assert near.mean_move_x < 1e-6
    assert distance(*jittered).value == math.inf
    assert distance(*pair, tolerance=1e-6).value == plain.value


def test_tolerance_refuses_chains_and_names_one():
    x0, x1, y = [[0.0], [1.0], [5.0]], [[2.0], [0.0], [5.0]], [[0.0], [1.0], [2.0]]
    with pytest.raises(ValueError, match=r"tolerance: at 1\.0 the grouping of x is ambiguous: 3 "):
        conditional_wasserstein(x0, y, x1, y, tolerance=1.0)
    one = conditional_wasserstein(x0, y, x1, y, tolerance=2.0)
    assert len(one.masses) == 2
    assert one.value == 0.0
    assert one.verify().holds()
    found = conditional_wasserstein(x0, y, x1, y, tolerance=0.5)
    assert found.value == math.inf
    assert found.verify().holds()


def test_tolerance_refuses_too_many_pairs(monkeypatch, rng):
    monkeypatch.setattr("dro_core.wasserstein.grouping.MOST_PAIRS", 20)
    x, y = rng.random((2, 10, 1))
    with pytest.raises(ValueError, match=r"tolerance: 5\.0 joins more than 20 pairs"):
        conditional_wasserstein(x, y, x, y, tolerance=5.0)


def test_signed_zeros_are_equal():
    y = [[1.0], [2.0]]
    assert conditional_wasserstein([[0.0], [-0.0]], y, [[-0.0], [0.0]], y).value == 0.0


def test_rows_that_share_a_hash_are_told_apart():
    """Two different rows are made whose keys agree; in them 64-bit sums wrap around to the same."""
    a, b = (2 * int(f) + 1 for f in np.random.default_rng(0).integers(0, 2**63, 2, dtype=np.uint64))
    row, rng = np.array([1.5, -2.5]), np.random.default_rng(1)
    bits = [int(v) for v in row.view(np.uint64)]
    while True:
        t = int(rng.integers(1, 2**63))
        twin = [(bits[0] + b * t) % 2**64, (bits[1] - a * t) % 2**64]
        other = np.array(twin, dtype=np.uint64).view(float)
        if np.isfinite(other).all() and np.abs(other).max() < 1e100:
            break
    x = np.array([row, other, row])
    label, rows = equal_rows(x)
    assert label.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(rows, [row, other])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 3))
def test_labels_in_order_of_appearance(numbers, n):
    x = np.repeat(np.array(numbers, float)[:, None], n, axis=1)
    label, rows = equal_rows(x)
    seen = list(dict.fromkeys(numbers))
    assert rows[:, 0].tolist() == seen
    assert label.tolist() == [seen.index(k) for k in numbers]


# --- relaxed ------------------------------------------------------------------------------------


@given(measures(), POWERS)
def test_relaxed_increases_to_the_conditional_distance_and_attains_it(pair, p):
    (x0, y0, weights0), (x1, y1, weights1) = pair
    same = {"weights0": weights0, "weights1": weights1, "p": p}
    limit = distance(*pair, p=p)
    start = relaxed_curve(x0, y0, x1, y1, betas=[0.0], **same)
    enough = start.sufficient_beta
    betas = np.unique([0.0, 0.1, 1.0, 10.0, 0.5 * enough, enough, 2 * enough])
    curve = relaxed_curve(x0, y0, x1, y1, betas=betas, **same)
    assert curve.limit == limit.value
    assert (np.diff(curve.value) >= -1e-9 * (1 + curve.limit)).all()
    assert (curve.value <= curve.limit * (1 + 1e-9) + 1e-9).all()
    attained = betas >= enough
    assert curve.value[attained] == pytest.approx(curve.limit, rel=1e-8, abs=1e-8)
    assert curve.moved_x[betas > enough] == pytest.approx(0.0, abs=1e-9)
    marginal = distance(*((0 * x, y, w) for x, y, w in pair), p=p).value
    assert curve.value[0] == pytest.approx(marginal, rel=1e-9, abs=1e-9)


@given(measures(), st.floats(0, 20), POWERS)
def test_relaxed_against_its_definition(pair, beta, p):
    """Any two measures: here with X-marginals that differ."""
    (x0, y0, weights0), (x1, y1, weights1) = pair
    x1 = x1 + 0.25
    found = distance((x0, y0, weights0), (x1, y1, weights1), method="relaxed", beta=beta, p=p)
    cost, moved = beta * cdist(x0, x1) ** p + cdist(y0, y1) ** p, cdist(x0, x1)
    plan = found.plan.toarray()
    assert found.value**p == pytest.approx((plan * cost).sum(), rel=1e-9, abs=1e-12)
    assert found.mean_move_x == pytest.approx((plan * moved).sum(), rel=1e-9)
    assert found.moved_x == pytest.approx(plan[moved > 0].sum())
    assert found.masses @ found.per_condition == pytest.approx(found.value**p, rel=1e-9, abs=1e-12)
    assert found.verify().holds()
    assert found.reason is None
    if p == 2.0:
        root = beta**0.5
        joint = wasserstein_pot(
            np.hstack([root * x0, y0]),
            np.hstack([root * x1, y1]),
            weights0=weights0,
            weights1=weights1,
        )
        assert found.value == pytest.approx(joint, rel=1e-9, abs=1e-9)


def test_relaxed_is_finite_where_no_x_is_shared(rng):
    x0, y0, x1, y1 = rng.standard_normal((4, 15, 2))
    curve = relaxed_curve(x0, y0, x1, y1, betas=[0.0, 1.0, 1e6])
    assert curve.limit == curve.sufficient_beta == math.inf
    assert np.isfinite(curve.value).all()
    assert curve.moved_x == pytest.approx(1.0)
    assert curve.value[2] > 100
    assert curve.mean_move_x[2] < curve.mean_move_x[0]
    near = conditional_wasserstein(
        x0, y0, x0 + 1e-9, y1, method="relaxed", beta=1e9, tolerance=1e-6
    )
    assert near.moved_x == 0.0


# --- entropic -----------------------------------------------------------------------------------


@given(measures(), st.sampled_from([1.0, 3.0, 10.0]))
def test_sinkhorn_brackets_the_distance(pair, epsilon):
    (x0, y0, weights0), (x1, y1, weights1) = pair
    exact = distance(*pair)
    found, larger = (
        distance(*pair, method="sinkhorn", epsilon=factor * epsilon) for factor in (1, 2)
    )
    assume(max(found.marginal_error, larger.marginal_error) < 1e-7)  # it may need more iterations
    certificate = found.verify()
    assert certificate.dual_cost <= exact.value**2 + 1e-6
    assert found.value**2 >= exact.value**2 - 1e-6
    plan, cost = found.plan.toarray(), cdist(y0, y1, "sqeuclidean")
    divergence = 0.0
    for x, mass in zip(found.conditions, found.masses, strict=True):
        a, b = (weights0 * (x0 == x).all(axis=1), weights1 * (x1 == x).all(axis=1))
        here = plan * np.outer(a > 0, b > 0)
        ratio = here[here > 0] / (np.outer(a, b)[here > 0] / mass)
        divergence += (here[here > 0] * np.log(ratio)).sum()
    assert found.value**2 == pytest.approx((plan * cost).sum(), rel=1e-9, abs=1e-12)
    expected = (plan * cost).sum() + epsilon * divergence
    assert found.entropic_cost == pytest.approx(expected, rel=1e-6, abs=1e-6)
    f, g = found.potentials
    dual = weights0 @ f + weights1 @ g  # the entropic dual at its optimum
    assert dual == pytest.approx(found.entropic_cost, rel=1e-5, abs=1e-5)
    assert larger.entropic_cost >= found.entropic_cost - 1e-6
    assert larger.value >= found.value - 1e-6


def test_sinkhorn_tends_to_the_distance_and_never_claims_to_be_it(rng):
    x = np.repeat(np.arange(3.0), 6)[:, None]
    y0, y1 = rng.standard_normal((2, 18, 2))
    exact = conditional_wasserstein(x, y0, x, y1).value
    values = [
        conditional_wasserstein(x, y0, x, y1, method="sinkhorn", epsilon=epsilon)
        for epsilon in (4.0, 1.0, 0.3)
    ]
    errors = [found.value - exact for found in values]
    assert errors[0] > errors[1] > errors[2] > -1e-6
    assert errors[2] < 0.1 * errors[0]
    assert not values[0].verify().holds()
    assert not values[1].verify().holds()


def test_sinkhorn_says_when_it_has_not_converged(monkeypatch, rng):
    monkeypatch.setattr("dro_core.wasserstein.solvers.SINKHORN_ITERATIONS", 3)
    x, (y0, y1) = np.zeros((8, 1)), rng.standard_normal((2, 8, 2))
    with pytest.warns(wasserstein.SinkhornWarning, match="not converged in 3 iterations"):
        found = conditional_wasserstein(x, y0, x, y1, method="sinkhorn", epsilon=0.01)
    assert found.marginal_error < 1e-12
    assert not found.verify().holds(0.01)


def test_a_plan_far_from_converged_is_rounded_to_the_marginals():
    """Its cost was 1.18 squared: the heavy atom kept its place, whatever the weights said."""
    z, y0, y1 = np.zeros((2, 1)), [[0.0, 0], [100, 0]], [[1.0, 0], [102.0, 1]]
    weights = {"weights0": [0.9, 0.1], "weights1": [0.2, 0.8]}
    with pytest.warns(wasserstein.SinkhornWarning):
        found = conditional_wasserstein(z, y0, z, y1, method="sinkhorn", epsilon=0.1, **weights)
    exact = conditional_wasserstein(z, y0, z, y1, **weights).value
    assert exact == pytest.approx(85.3475, abs=1e-3)
    assert found.value >= exact * (1 - 1e-12)
    assert found.value == pytest.approx(exact, rel=1e-6)
    assert found.verify().dual_cost <= exact**2


@given(measures(), st.floats(-4, 2), st.floats(-3, 3))
@hypothesis.settings(max_examples=40)
@pytest.mark.filterwarnings("ignore::dro_core.wasserstein.SinkhornWarning")
def test_sinkhorn_brackets_the_distance_converged_or_not(pair, digits, size):
    """For every entropy weight and scale dual <= exact <= primal, for a plan with the marginals."""
    (x0, y0, weights0), (x1, y1, weights1) = pair
    scale = 10.0**size
    pair = (x0, scale * y0, weights0), (x1, scale * y1, weights1)
    with mock.patch("dro_core.wasserstein.solvers.SINKHORN_ITERATIONS", 200):
        found = distance(*pair, method="sinkhorn", epsilon=scale**2 * 10.0**digits)
    exact, certificate = distance(*pair).value ** 2, found.verify()
    slack = 1e-9 * max(exact, certificate.size)
    assert certificate.dual_cost <= exact + slack
    assert certificate.primal_cost >= exact - slack
    assert found.value**2 >= exact - slack
    assert certificate.marginal_error <= 1e-9


def test_an_entropy_below_what_floats_hold_is_refused(rng):
    x, (y0, y1) = np.zeros((6, 1)), rng.standard_normal((2, 6, 2))
    with pytest.raises(ValueError, match=r"epsilon: .* of the largest cost is too small"):
        conditional_wasserstein(x, y0, x, y1, method="sinkhorn", epsilon=1e-320)


# --- costs of very different size ----------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.floats(2, 30), st.integers(2, 12))
def test_a_far_pair_does_not_hide_the_others(seed, digits, count):
    """The simplex alone took what is below 1e-14 of the largest cost for nothing."""
    y0, y1 = np.random.default_rng(seed).standard_normal((2, count, 2))
    y0[0], y1[0] = (10.0**digits, 0.0), (10.0**digits, 0.0)
    x = np.zeros((count, 1))
    found = conditional_wasserstein(x, y0, x, y1)
    cost = cdist(y0[1:], y1[1:], "sqeuclidean")
    expected = cost[linear_sum_assignment(cost)].sum() / count
    assert found.value**2 == pytest.approx(expected, rel=1e-9)
    assert found.verify().holds()


@given(st.integers(0, 2**32 - 1), st.floats(-14, 0), st.floats(2, 4))
def test_little_mass_that_moves_far_does_not_hide_the_others(seed, share, digits):
    """The far atom pays nearly the same wherever it goes: the rest is a problem of its own."""
    y0, y1 = np.random.default_rng(seed).standard_normal((2, 8, 2))
    y0[0] = 10.0**digits, 0.0
    weights = np.full(8, 1.0)
    weights[0] = 10.0**share
    x = np.zeros((8, 1))
    found = conditional_wasserstein(x, y0, x, y1, weights0=weights / weights.sum())
    assert abs(found.verify().gap) < 2e-7


@given(measures(), st.floats(0, 6))
def test_a_high_price_of_moving_x_gives_the_conditional_distance(pair, digits):
    exact = distance(*pair)
    found = distance(*pair, method="relaxed", beta=10.0**digits)
    assert abs(found.verify().gap) < 2e-7 or found.value < 1e-12
    assert found.value <= exact.value * (1 + 1e-7) + 1e-12
    curve = oracle(relaxed_curve, *pair, betas=[1.0])
    if 10.0**digits >= curve.sufficient_beta * (1 + 1e-9):
        assert found.value == pytest.approx(exact.value, rel=1e-7, abs=1e-12)


@given(measures(), st.floats(6, 16))
def test_what_holds_at_an_absurd_price_of_moving_x_is_right(pair, digits):
    """At 1e16 a certificate held for 1.8789 where 1.7334 is right."""
    try:
        found = distance(*pair, method="relaxed", beta=10.0**digits)
    except ArithmeticError:
        return
    exact = distance(*pair).value
    if found.verify().holds(1e-6):
        assert found.value <= exact * (1 + 1e-5) + 1e-7
        limit = oracle(relaxed_curve, *pair, betas=[1.0]).sufficient_beta
        if 10.0**digits >= limit * (1 + 1e-9):
            assert found.value == pytest.approx(exact, rel=1e-5, abs=1e-7)


# --- Gaussian conditionals ----------------------------------------------------------------------


def gaussians(seed, rank0=None, rank1=None):
    rng = np.random.default_rng(seed)
    count, m = (int(k) for k in rng.integers(1, 5, 2))
    means = rng.standard_normal((2, count, m))
    left = rng.standard_normal((count, m, m if rank0 is None else rank0))
    right = rng.standard_normal((count, m, m if rank1 is None else rank1))
    covariances = [side @ np.swapaxes(side, 1, 2) for side in (left, right)]
    return means[0], covariances[0], means[1], covariances[1], rng.dirichlet(np.ones(count))


@given(st.integers(0, 2**32 - 1))
def test_gaussian_conditionals_against_the_bures_formula(seed):
    m0, c0, m1, c1, weights = gaussians(seed)
    found = gaussian_conditional_wasserstein(m0, c0, m1, c1, weights)
    for k, cost in enumerate(found.per_condition):
        root = sqrtm(c0[k]).real
        cross = sqrtm(root @ c1[k] @ root).real
        bures = np.trace(c0[k] + c1[k] - 2 * cross)
        expected = ((m0[k] - m1[k]) ** 2).sum() + bures
        assert cost == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert found.value**2 == pytest.approx(weights @ found.per_condition, rel=1e-14)
    assert found.verify().holds(1e-6)
    back = gaussian_conditional_wasserstein(m1, c1, m0, c0, weights)
    assert back.value == pytest.approx(found.value, rel=1e-7)
    for k in range(len(m0)):  # the coupling is a law: its joint covariance is positive
        cross = found.cross_covariances[k]
        joint = np.block([[c0[k], cross], [cross.T, c1[k]]])
        assert np.linalg.eigvalsh(joint)[0] > -1e-9 * np.linalg.norm(joint)
        moved = np.trace(c0[k] + c1[k] - 2 * cross) + ((m0[k] - m1[k]) ** 2).sum()
        assert found.per_condition[k] == pytest.approx(moved, rel=1e-9, abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(0, 4))
def test_singular_gaussian_conditionals(seed, rank0, rank1):
    found = gaussian_conditional_wasserstein(*gaussians(seed, rank0, rank1))
    certificate = found.verify()
    assert certificate.dual_cost <= certificate.primal_cost * (1 + 1e-12)
    assert certificate.holds(1e-3)


def test_gaussian_conditionals_by_hand():
    """Commuting covariances: (s - t)² per axis; a point mass: the trace."""
    c0, c1 = np.diag([1.0, 4.0])[None], np.diag([9.0, 1.0])[None]
    zero = np.zeros((1, 2))
    found = gaussian_conditional_wasserstein(zero, c0, [[3.0, 0.0]], c1)
    assert found.value == pytest.approx((9 + 4 + 1) ** 0.5, rel=1e-14)
    assert found.verify().holds()
    point = gaussian_conditional_wasserstein(zero, 0 * c0, zero, c1)
    assert point.value == pytest.approx(10**0.5, rel=1e-14)
    same = gaussian_conditional_wasserstein(zero, c0, zero, c0)
    assert same.value < 1e-14
    near = gaussian_conditional_wasserstein(zero, c0, zero, (1 + 1e-7) ** 2 * c0)
    assert near.value == pytest.approx(1e-7 * 5**0.5, rel=1e-6)
    assert "masses=[1]" in repr(near)


def test_gaussian_certificate_of_a_wrong_answer_does_not_hold():
    found = gaussian_conditional_wasserstein(*gaussians(3))
    vars(found)["value"] *= 1 + 1e-8
    assert not found.verify().holds()
    found = gaussian_conditional_wasserstein(*gaussians(5))
    found._rotation = found._rotation @ np.diag([-1.0, *np.ones(found._rotation.shape[1] - 1)])
    assert not found.verify().holds()


def test_gaussian_conditionals_against_samples():
    """Quantiles of normal laws, one law per condition."""
    from scipy.special import ndtri

    z = ndtri((np.arange(4000) + 0.5) / 4000)[:, None]
    m0, m1, s0, s1 = ([0.0, 1.0], [1.0, 1.0], [1.0, 2.0], [0.5, 3.0])
    x = np.repeat([[0.0], [1.0]], 4000, axis=0)
    y0 = np.vstack([m + s * z for m, s in zip(m0, s0, strict=True)])
    y1 = np.vstack([m + s * z for m, s in zip(m1, s1, strict=True)])
    bures = gaussian_conditional_wasserstein(
        np.array(m0)[:, None],
        np.square(s0)[:, None, None],
        np.array(m1)[:, None],
        np.square(s1)[:, None, None],
    )
    assert conditional_wasserstein(x, y0, x, y1).value == pytest.approx(bures.value, rel=1e-3)


# --- the experiment -----------------------------------------------------------------------------


def test_experiment_holds_and_writes_its_tables(tmp_path, capsys):
    settings = ["problems=8", "points=7", "samples=400"]
    command = ["conditional-wasserstein", "--out", str(tmp_path)]
    for setting in settings:
        command += ["--set", setting]
    assert command_line.main(command) == 0
    assert "checks hold" in capsys.readouterr().out
    written = json.loads((tmp_path / "conditional_wasserstein.json").read_text())
    assert written["config"]["problems"] == 8
    for name in ("beta_curves.csv", "strict_example.csv", "conditional_wasserstein.svg"):
        assert (tmp_path / name).stat().st_size > 0


def test_experiment_refuses_bad_settings(capsys):
    for setting in ("problems=1", "seed=-1", "samples=10", "atoms=0"):
        assert command_line.main(["conditional-wasserstein", "--set", setting]) == 2
        assert setting.partition("=")[0] in capsys.readouterr().err


def test_benchmark_runs_small(tmp_path):
    from validation.benchmarks import conditional

    config = conditional.Config(groups=200, looped=50, runs=1)
    checks = conditional.large(config)[0] + conditional.scalar(config)[0]
    exact = [c for c in checks if "certif" in c.claim or "difference" in c.claim]
    assert len(exact) == 3
    assert all(check.holds for check in exact)
    with pytest.raises(ValueError, match="looped"):
        conditional.Config(groups=10, looped=50)


def test_pot_is_imported_when_needed(monkeypatch, rng):
    """Scalar y needs numpy and scipy only."""
    monkeypatch.setitem(sys.modules, "ot", None)
    x, y0, y1 = rng.standard_normal((3, 6, 1))
    assert conditional_wasserstein(x, y0, x, y1).verify().holds()
    with pytest.raises(ImportError):
        conditional_wasserstein(x, np.hstack([y0, y0]), x, np.hstack([y1, y1]))
