"""Unbalanced transport by column generation: the same answers, from few arcs and little memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from dro_core.unbalanced import arcs, costs, solver, unbalanced_ot
from dro_core.unbalanced.costs import CostTable
from dro_core.unbalanced.interior_point import InteriorPoint
from dro_core.unbalanced.problem import Marginal
from tests.test_unbalanced import PAIRS, measures
from validation.unbalanced import outlier_problem


@given(measures(pairs=tuple(PAIRS[:3]), largest=40))
def test_few_arcs_and_all_arcs_have_the_same_optimum(case):
    cost, a, b, divergence, weight = case
    expected = unbalanced_ot(cost, a, b, divergence, weight=weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "LARGE", 8)
        patch.setattr("dro_core.unbalanced.pricing.LARGE", 8)  # samples of samples
        found = unbalanced_ot(cost, a, b, divergence, weight=weight)
    certificate = found.verify()
    assert certificate.holds()
    assert found.value == pytest.approx(expected.value, rel=1e-12, abs=1e-12 * certificate.size)
    assert found.plan.nnz < sum(cost.shape)


@pytest.mark.parametrize("divergence", PAIRS[:3], ids="-".join)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_few_arcs_suffice(scale, divergence, monkeypatch):
    """Neither all arcs nor the network simplex are needed, and the gap is that of rounding."""
    cost, a, b = outlier_problem(350, scale, seed=1)
    problem = (cost[:, :310], a, 2 * b[:310])

    def unused(*_):
        raise AssertionError("column generation did not find the optimum")

    monkeypatch.setattr(solver, "_on_all_arcs", unused)
    monkeypatch.setattr(solver, "_refine", unused)
    found = unbalanced_ot(*problem, divergence)
    assert found.gap <= 1e-12
    assert found.verify().holds(1e-12)
    monkeypatch.undo()
    monkeypatch.setattr(solver, "LARGE", 10**9)
    expected = unbalanced_ot(*problem, divergence)
    error = 1e-12 + abs(expected.gap)  # larger, here, with all arcs
    assert expected.value == pytest.approx(found.value, rel=2 * error)


def test_permuting_the_points_permutes_the_plan(rng):
    cost, a, b = outlier_problem(330, 1.0, seed=2)
    rows, columns = rng.permutation(330), rng.permutation(330)
    found = unbalanced_ot(cost, a, b)
    other = unbalanced_ot(np.ascontiguousarray(cost[np.ix_(rows, columns)]), a[rows], b[columns])
    assert other.value == pytest.approx(found.value, rel=1e-12)
    np.testing.assert_allclose(
        other.plan.toarray(), found.plan.toarray()[np.ix_(rows, columns)], atol=1e-12
    )
    for own, moved, order in zip(found.potentials, other.potentials, (rows, columns), strict=True):
        near = own[order] < 20  # farther points have no mass that rounding does not exceed
        np.testing.assert_allclose(moved[near], own[order][near], atol=1e-6)


def test_a_cost_by_points_is_never_stored(rng):
    y, x = rng.standard_normal((1200, 3)), rng.standard_normal((1100, 3)) + 0.5
    a, b = rng.random(1200), rng.random(1100)

    def cost(rows):
        return cdist(y[rows], x, "sqeuclidean")

    tracemalloc.start()
    found = unbalanced_ot(cost, a, b, weight=2.0)
    certificate = found.verify()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert certificate.holds(1e-12)
    assert found.cost is cost
    assert peak <= 1.5 * 8 * 1200 * 1100  # a list of arcs is small at sizes that matter
    stored = unbalanced_ot(cost(slice(None)), a, b, weight=2.0)
    assert stored.value == pytest.approx(found.value, rel=1e-13)


def test_a_cost_by_blocks_that_needs_all_arcs(rng):
    table, mass = rng.random((7, 5)), rng.random(7)
    found = unbalanced_ot(lambda rows: table[rows], mass, mass[:5], ("kl", "balanced"))
    expected = unbalanced_ot(table, mass, mass[:5], ("kl", "balanced"))
    assert found.value == pytest.approx(expected.value, rel=1e-13)
    assert found.verify().holds()
    assert "value" in repr(found)


# --- the parts --------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 8]), st.sampled_from([1, 50, 2**16]))
def test_candidates_are_the_least_slacks(seed, count, part):
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 150, 2)
    cost, u, v = rng.random((n, m)), rng.standard_normal(n), rng.standard_normal(m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "PART", part)
        keys, worst = CostTable(cost, (n, m)).candidates(u, v, count)
    slack = cost - u[:, None] - v
    assert worst == pytest.approx(slack.min(), abs=1e-14)
    rank = [slack.argsort(axis=axis).argsort(axis=axis) for axis in (0, 1)]
    np.testing.assert_array_equal(keys, np.flatnonzero(np.minimum(*rank) < count))


@pytest.mark.parametrize("cost", [np.zeros((70, 80)), np.arange(5600).reshape(70, 80) % 3.0])
def test_ties_do_not_lengthen_the_list(cost):
    keys, _ = CostTable(cost, cost.shape).candidates(np.zeros(70), np.zeros(80), 4)
    assert len(keys) <= 4 * (70 + 80)
    i, j = np.divmod(keys, 80)
    assert (np.bincount(i, minlength=70) >= 4).all()
    assert (np.bincount(j, minlength=80) >= 4).all()


@given(st.integers(0, 2**32 - 1))
def test_both_systems_solve_the_equations_of_a_step(seed):
    """Against the equations written out: [h + W 1, W; W', h + W'1], dx = e + z (du + dv)."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(2, 12, 2)
    x, s = 10.0 ** rng.uniform(-3, 1, (2, n, m))
    h, f = (rng.random(n), rng.random(m)), (rng.standard_normal(n), rng.standard_normal(m))
    e, z = rng.standard_normal((n, m)), x / s
    matrix = np.block([[np.diag(h[0] + z.sum(axis=1)), z], [z.T, np.diag(h[1] + z.sum(axis=0))]])
    right = np.concatenate([f[0] - e.sum(axis=1), f[1] - e.sum(axis=0)])
    expected = np.linalg.solve(matrix, right)
    size = np.abs(expected).max()
    all_arcs = arcs.Complete(np.ones((n, m)))
    du, dv, dx = all_arcs.system(x, s, h).direction(e.copy(), f)
    np.testing.assert_allclose(np.concatenate([du, dv]), expected, atol=1e-10 * size)
    np.testing.assert_allclose(dx, e + z * (du[:, None] + dv), rtol=1e-9, atol=1e-9)
    listed = arcs.Listed(np.arange(n * m), np.ones(n * m), (n, m))
    du, dv, dx = listed.system(x.ravel(), s.ravel(), h).direction(e.ravel().copy(), f)
    error = np.concatenate([du, dv]) - expected
    assert error @ matrix @ error <= 1e-6 * (expected @ matrix @ expected)
    np.testing.assert_allclose(dx, (e + z * (du[:, None] + dv)).ravel(), rtol=1e-12, atol=1e-12)


def test_the_costs_of_a_list_are_those_of_its_arcs(rng):
    """c-transforms and tightest partners on a list, against a table with the rest forbidden."""
    cost, u, v = rng.random((9, 11)), rng.standard_normal(9), rng.standard_normal(11)
    table = CostTable(cost, cost.shape)
    keys, _ = table.candidates(u, v, 2)
    listed = arcs.Listed(keys, cost.ravel()[keys], cost.shape)
    only = np.full(cost.size, np.inf)
    only[keys] = cost.ravel()[keys]
    only = only.reshape(cost.shape)
    np.testing.assert_allclose(listed.transform(v), (only - v).min(axis=1))
    np.testing.assert_allclose(listed.transform_columns(u), (only - u[:, None]).min(axis=0))
    np.testing.assert_array_equal(listed.at(*np.divmod(keys, 11)), cost.ravel()[keys])
    partner, value = listed.tightest(0, np.array([4, 1]), v, np.ones(11, dtype=bool))
    np.testing.assert_array_equal(partner, (only - v).argmin(axis=1)[[4, 1]])
    np.testing.assert_allclose(value, (only - v).min(axis=1)[[4, 1]])
    usable = np.arange(9) % 2 == 0
    for source in (cost, lambda rows: cost[rows]):
        partner, value = CostTable(source, cost.shape).tightest(1, np.array([7, 0]), u, usable)
        slack = np.where(usable[:, None], cost - u[:, None], np.inf)
        np.testing.assert_array_equal(partner, slack.argmin(axis=0)[[7, 0]])
        np.testing.assert_allclose(value, slack.min(axis=0)[[7, 0]])


def test_new_arcs_leave_the_point_where_it_is(rng):
    """Old arcs keep plan and slack; a violated new one has a debt that steps pay off."""
    cost, masses = rng.random((20, 25)), (rng.random(20), rng.random(25))
    rows, columns = (Marginal(mass / mass.sum(), free=True) for mass in masses)
    table = CostTable(cost, cost.shape)
    few, _ = table.candidates(np.zeros(20), np.zeros(25), 1)
    every = np.arange(500)
    first = arcs.Listed(np.sort(few), cost.ravel()[np.sort(few)], cost.shape)
    point = InteriorPoint.near(first, rows, columns, np.zeros(20), np.zeros(25), 0.3)
    assert point.advance(1e-2, 50)
    u, slack, x = point.u, point.slack(), point.x
    point.enlarged(arcs.Listed(every, cost.ravel(), cost.shape))
    np.testing.assert_array_equal(point.u, u)
    np.testing.assert_allclose(point.slack()[np.sort(few)], slack, atol=1e-15)
    np.testing.assert_array_equal(point.x[np.sort(few)], x)
    assert point.slack().min() > 0
    assert np.abs(point.debt).max() > 1e-3
    assert point.advance(1e-8, 100)
    assert np.abs(point.debt).max() < 1e-6
    assert (cost - point.u[:, None] - point.v).min() > -1e-6
