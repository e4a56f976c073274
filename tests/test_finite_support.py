"""Exact worst cases on finite supports: against linear programmes, and as properties."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from dro_core import (
    InfeasibleRadiusError,
    XShift,
    admissible_candidates,
    finite_potential,
    finite_worst_case,
    quadratic_candidates,
)
from dro_core.reference import finite_worst_case_cvxpy, finite_worst_case_highs
from dro_core.testing import check_ordering, problems


@st.composite
def tables(draw, ties=True):
    """(loss, cost, weights, admissible): generic, or with small integers and so many ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if ties and draw(st.booleans()):
        loss = rng.integers(-3, 4, (rows, columns)).astype(float)
        cost = rng.integers(0, 4, (rows, columns)).astype(float)
    else:
        loss, cost = rng.standard_normal((rows, columns)), rng.random((rows, columns))
    home = rng.integers(columns, size=rows)
    cost[np.arange(rows), home] = 0.0
    admissible = rng.random((rows, columns)) < 0.7
    admissible[np.arange(rows), home] = True
    weights = rng.dirichlet(np.ones(rows)) if draw(st.booleans()) else np.full(rows, 1 / rows)
    return loss, cost, weights, admissible


radii = st.one_of(st.just(0.0), st.floats(0.01, 2.0))


@given(tables(), radii)
def test_against_the_linear_programme(table, radius):
    loss, cost, weights, admissible = table
    found = finite_worst_case(loss, cost, radius, weights=weights, admissible=admissible)
    programme = finite_worst_case_highs(loss, cost, radius, weights=weights, admissible=admissible)
    assert found.risk == pytest.approx(programme.risk, rel=1e-9, abs=1e-9)
    assert found.verify().holds()


def test_against_cvxpy(rng):
    loss, cost = rng.standard_normal((20, 15)), rng.random((20, 15))
    cost[:, 0] = 0.0
    allowed = rng.random((20, 15)) < 0.8
    allowed[:, 0] = True
    found = finite_worst_case(loss, cost, 0.4, admissible=allowed)
    modelled = finite_worst_case_cvxpy(loss, cost, 0.4, admissible=allowed)
    assert found.risk == pytest.approx(modelled.risk, rel=1e-9)
    assert found.multiplier == pytest.approx(modelled.multiplier, rel=1e-6)
    np.testing.assert_allclose(found.plan.toarray(), modelled.plan, atol=1e-9)


@given(tables(), radii)
def test_the_plan_is_feasible_and_splits_at_most_one_sample(table, radius):
    loss, cost, weights, admissible = table
    found = finite_worst_case(loss, cost, radius, weights=weights, admissible=admissible)
    plan = found.plan.toarray()
    assert sparse.issparse(found.plan)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), weights, rtol=1e-12, atol=1e-15)
    assert (plan * cost).sum() <= radius**2 * (1 + 1e-12)
    assert plan[~admissible].sum() == 0
    assert (np.count_nonzero(plan, axis=1) > 1).sum() <= 1
    assert (plan * loss).sum() == pytest.approx(found.risk, rel=1e-12, abs=1e-12)
    slack = found.multiplier * (radius**2 - (plan * cost).sum())
    assert slack == pytest.approx(0.0, abs=1e-9 * (1 + abs(found.risk)))


@given(tables(), radii, st.floats(0, 10))
def test_weak_duality_at_any_multiplier(table, radius, multiplier):
    loss, cost, weights, admissible = table
    potential, index = finite_potential(loss, cost, multiplier, admissible)
    found = finite_worst_case(loss, cost, radius, weights=weights, admissible=admissible)
    check_ordering(found.risk - 10, multiplier * radius**2 + weights @ potential - 10)
    rows = np.arange(len(loss))
    np.testing.assert_array_equal(potential, loss[rows, index] - multiplier * cost[rows, index])
    assert admissible[rows, index].all()


def test_the_cheapest_argmax_is_taken():
    loss, cost = np.array([[1.0, 2.0, 2.0, 2.0]]), np.array([[0.0, 3.0, 1.0, 2.0]])
    potential, index = finite_potential(loss, cost, 0.0)
    assert (potential.tolist(), index.tolist()) == ([2.0], [2])
    found = finite_worst_case(loss, cost, 5.0)
    assert (found.multiplier, found.transport_cost, found.risk) == (0.0, 1.0, 2.0)


def test_many_ties_at_the_optimum_still_split_one_sample():
    loss, cost = np.tile([0.0, 1.0], (8, 1)), np.tile([0.0, 1.0], (8, 1))
    found = finite_worst_case(loss, cost, 0.55**0.5)
    assert (found.risk, found.multiplier) == pytest.approx((0.55, 1.0))
    assert found.plan.nnz == 9


@given(tables(), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_adding_candidates_never_lowers_the_optimum(table, radius, seed):
    loss, cost, weights, _ = table
    rng = np.random.default_rng(seed)
    more_loss = np.hstack([loss, rng.standard_normal((len(loss), 3))])
    more_cost = np.hstack([cost, rng.random((len(loss), 3))])
    few = finite_worst_case(loss, cost, radius, weights=weights).risk
    many = finite_worst_case(more_loss, more_cost, radius, weights=weights).risk
    check_ordering(few + 10, many + 10)


@given(tables(), st.lists(st.floats(0, 2), min_size=2, max_size=5))
def test_risk_is_monotone_and_concave_in_the_budget(table, budgets):
    loss, cost, weights, _ = table
    budgets = np.sort(budgets)
    middles = (budgets[1:] + budgets[:-1]) / 2
    ends, between = (
        np.array([finite_worst_case(loss, cost, b**0.5, weights=weights).risk + 10 for b in some])
        for some in (budgets, middles)
    )
    check_ordering(*ends)
    for chord, value in zip((ends[1:] + ends[:-1]) / 2, between, strict=True):
        check_ordering(chord, value)


@given(tables(), radii, st.randoms(use_true_random=False))
def test_permutation_of_samples_and_candidates(table, radius, random):
    loss, cost, weights, _ = table
    rows, columns = list(range(loss.shape[0])), list(range(loss.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = finite_worst_case(
        loss[rows][:, columns], cost[rows][:, columns], radius, weights=weights[rows]
    )
    expected = finite_worst_case(loss, cost, radius, weights=weights)
    assert shuffled.risk == pytest.approx(expected.risk, rel=1e-12, abs=1e-12)


@given(tables(ties=False), radii, st.sampled_from([1e-100, 1e100]))
def test_scaling_of_losses_and_costs(table, radius, scale):
    loss, cost, weights, _ = table
    plain = finite_worst_case(loss, cost, radius, weights=weights)
    scaled = finite_worst_case(scale * loss, scale * cost, scale**0.5 * radius, weights=weights)
    assert scaled.risk / scale == pytest.approx(plain.risk, rel=1e-9, abs=1e-12)


def exact_dual(loss, cost, budget, weights):
    """The optimum in rational arithmetic: the dual at all its kinks (it is convex)."""
    loss, cost = ([[Fraction(v) for v in row] for row in t.tolist()] for t in (loss, cost))
    kinks = {Fraction(0)}
    for gains, prices in zip(loss, cost, strict=True):
        for (a, c), (b, d) in combinations(zip(gains, prices, strict=True), 2):
            if c != d and (a - b) / (c - d) > 0:
                kinks.add((a - b) / (c - d))
    kinks = sorted(kinks)

    def dual(k):
        total = kinks[k] * Fraction(budget)
        for mass, gains, prices in zip(weights, loss, cost, strict=True):
            pairs = zip(gains, prices, strict=True)
            total += Fraction(mass) * max(a - kinks[k] * c for a, c in pairs)
        return total

    low, high = 0, len(kinks) - 1
    while low < high:
        middle = (low + high) // 2
        if dual(middle) <= dual(middle + 1):
            high = middle
        else:
            low = middle + 1
    return float(dual(low))


@pytest.mark.parametrize("radius", [1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("seed", [0, 1, 2, 13, 40, 47, 100, 699])
def test_far_candidates_do_not_drown_a_small_radius(seed, radius):
    """Losses of far candidates exceed the risk by up to 16 orders; slopes tie to 10 digits."""
    rng = np.random.default_rng(seed)
    y, slope = rng.standard_normal(8), rng.standard_normal()
    x = slope * y + (1e-3 * rng.standard_normal(8) if seed % 3 == 0 else 0.0)
    new_y = np.concatenate([y, y + radius])
    loss, cost = (x[:, None] - slope * new_y) ** 2, (y[:, None] - new_y) ** 2
    found = finite_worst_case(loss, cost, radius)
    expected = exact_dual(loss, cost, radius * radius, np.full(8, 0.125))
    assert found.risk == pytest.approx(expected, rel=1e-12)
    assert found.primal_risk == pytest.approx(expected, rel=1e-12)
    assert found.verify().holds()


# --- blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1, 7, 40, 10**6])
@pytest.mark.parametrize("known", ["weights", "cost array", "nothing"])
def test_callables_give_the_same_answer_in_blocks_of_any_size(entries, known, rng, monkeypatch):
    loss, cost = rng.standard_normal((23, 7)), rng.random((23, 7))
    cost[:, 0] = 0.0
    allowed = rng.random((23, 7)) < 0.8
    allowed[:, 0] = True
    expected = finite_worst_case(loss, cost, 0.4, admissible=allowed)
    monkeypatch.setattr("dro_core.blocks.BLOCK_ENTRIES", entries)
    monkeypatch.setattr("dro_core.blocks.CALL_ENTRIES", 0)
    found = finite_worst_case(
        lambda rows: loss[rows],
        cost if known == "cost array" else lambda rows: cost[rows],
        0.4,
        weights=np.full(23, 1 / 23) if known == "weights" else None,
        admissible=lambda rows: allowed[rows],
    )
    assert (found.risk, found.multiplier) == (expected.risk, expected.multiplier)
    np.testing.assert_array_equal(found.plan.toarray(), expected.plan.toarray())
    assert found.verify().holds()


def test_bad_entries_are_found_in_every_block(rng, monkeypatch):
    loss, cost = rng.standard_normal((9, 3)), rng.random((9, 3))
    loss[8, 1] = np.nan
    monkeypatch.setattr("dro_core.blocks.BLOCK_ENTRIES", 6)
    with pytest.raises(ValueError, match=r"loss: entry \(8, 1\) is nan"):
        finite_worst_case(lambda rows: loss[rows], lambda rows: cost[rows], 1.0)


def test_settled_samples_are_not_evaluated_again(rng, monkeypatch):
    loss, cost = rng.standard_normal((500, 40)), rng.random((500, 40))
    cost[:, 0] = 0.0
    monkeypatch.setattr("dro_core.blocks.CALL_ENTRIES", 0)
    seen = 0

    def counted(rows):
        nonlocal seen
        seen += len(loss[rows])
        return loss[rows]

    found = finite_worst_case(counted, cost, 0.3)
    assert seen < 5 * 500
    assert found.risk == finite_worst_case(loss, cost, 0.3).risk


# --- structures on a shared support -----------------------------------------------------------


@given(problems(structure="joint"), st.integers(0, 2**32 - 1))
def test_joint_with_infinite_cost_of_moving_x_is_y_given_x(problem, seed):
    rng = np.random.default_rng(seed)
    x, y = problem.x, problem.y
    pick = rng.integers(len(x), size=12)
    new_x, new_y = x[pick], y[pick] + 0.3 * rng.standard_normal((12, y.shape[1]))
    new_x, new_y = np.vstack([x, new_x]), np.vstack([y, new_y])
    loss, cost = quadratic_candidates(problem.B, x, y, x_candidates=new_x, y_candidates=new_y)
    moved = ((x[:, None] - new_x[None]) ** 2).sum(axis=2) > 0
    everyone = slice(0, len(x))
    frozen = np.where(moved, np.inf, cost(everyone))
    options = {"weights": problem.weights}
    radius = min(problem.radius, 1e3)
    infinite = finite_worst_case(loss, frozen, radius, **options).risk
    mask = admissible_candidates(x, y, new_x, new_y, "y|x")
    structured = finite_worst_case(loss, cost, radius, admissible=mask, **options).risk
    joint = finite_worst_case(loss, cost, radius, **options).risk
    assert infinite == structured
    check_ordering(1 + structured, 1 + joint)


def mask_is_full(structure):
    if structure.name in ("x", "y"):
        return True
    weights = (structure.weight_x.value, structure.weight_y.value)
    return all(np.isfinite(value).all() for value in weights)


@given(problems(zero_radius=False), st.lists(st.floats(-2, 2), max_size=4))
def test_finite_support_approaches_the_exact_risk_from_below(problem, positions):
    """Rays through the exact atoms: below the exact risk, and equal to it with the atoms."""
    worst = problem.worst_case()
    ladder = np.array([0.0, *positions])[:, None, None]
    n, m = problem.x.shape[1], problem.y.shape[1]
    new_x = (problem.x + ladder * worst.displacement_x).reshape(-1, n)
    new_y = (problem.y + ladder * worst.displacement_y).reshape(-1, m)

    def optimum(x_candidates, y_candidates):
        loss, _ = quadratic_candidates(
            problem.B, problem.x, problem.y, x_candidates=x_candidates, y_candidates=y_candidates
        )
        cost = np.array(
            [
                problem.structure.transport_cost(x_candidates - own_x, y_candidates - own_y)
                for own_x, own_y in zip(problem.x, problem.y, strict=True)
            ]
        )
        mask = admissible_candidates(
            problem.x, problem.y, x_candidates, y_candidates, problem.structure
        )
        radius = problem.radius * (1 + 1e-12)
        loss = loss(slice(0, len(problem.x)))
        return finite_worst_case(loss, cost, radius, weights=problem.weights, admissible=mask).risk

    slack = 1e-9 * worst.risk + 1e-25
    assert optimum(new_x, new_y) <= worst.risk + slack
    with_atoms = optimum(np.vstack([new_x, worst.x]), np.vstack([new_y, worst.y]))
    assert with_atoms <= worst.risk + slack
    if mask_is_full(problem.structure):  # every atom is admissible for its sample
        noise = 1e-7 * worst.risk + 1e-20
        assert with_atoms >= worst.risk - noise


@pytest.mark.parametrize("parts", ["x", "y", "both"])
def test_quadratic_candidates_by_hand(parts, rng):
    B, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 2)), rng.standard_normal((5, 3))
    new_x, new_y = rng.standard_normal((4, 2)), rng.standard_normal((4, 3))
    chosen = {
        "x": {"x_candidates": new_x},
        "y": {"y_candidates": new_y},
        "both": {"x_candidates": new_x, "y_candidates": new_y},
    }[parts]
    loss, cost = quadratic_candidates(B, x, y, **chosen)
    for i in range(5):
        for j in range(4):
            xj = new_x[j] if parts != "y" else x[i]
            yj = new_y[j] if parts != "x" else y[i]
            assert loss(slice(i, i + 1))[0, j] == pytest.approx(((xj - B @ yj) ** 2).sum())
            paid = ((x[i] - xj) ** 2).sum() + ((y[i] - yj) ** 2).sum()
            assert cost(slice(i, i + 1))[0, j] == pytest.approx(paid)


def test_admissible_candidates_of_each_structure():
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]])
    new_x, new_y = np.array([[0.0], [1.0], [0.0]]), np.array([[0.0], [0.0], [2.0]])
    expected = {
        "joint": [[1, 1, 1], [1, 1, 1]],
        "y|x": [[1, 0, 1], [0, 1, 0]],
        "x|y": [[1, 1, 0], [0, 0, 1]],
        XShift([[2.0]]): [[1, 0, 0], [1, 0, 0]],
    }
    for structure, mask in expected.items():
        found = admissible_candidates(x, y, new_x, new_y, structure)
        np.testing.assert_array_equal(found, np.array(mask, bool))


def test_candidates_slightly_off_the_graph_are_not_admissible():
    found = admissible_candidates(
        [[1.0]], [[2.0]], [[1.0], [1.0]], [[2.0], [2.001]], XShift([[2.0]])
    )
    assert found.tolist() == [[True, False]]


# --- empty balls ------------------------------------------------------------------------------


@given(tables(), st.floats(0.1, 2))
def test_an_empty_ball_names_the_smallest_feasible_radius(table, lift):
    loss, cost, weights, _ = table
    smallest = lift**0.5
    with pytest.raises(InfeasibleRadiusError, match=r"radius: .*smallest feasible") as caught:
        finite_worst_case(loss, cost + lift, 0.9 * smallest, weights=weights)
    assert caught.value.smallest_radius == pytest.approx(smallest, rel=1e-12)
    at_the_edge = finite_worst_case(loss, cost + lift, smallest * (1 + 1e-14), weights=weights)
    assert at_the_edge.verify().holds()
