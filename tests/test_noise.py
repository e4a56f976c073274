"""Hulls of given measures, the noise families of Example 2.1, and their duality gap."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

import dro_core.noise
import validation.__main__ as command_line
from dro_core import (
    InfeasibleRadiusError,
    finite_potential,
    finite_worst_case,
    operators,
    worst_case_risk,
)
from dro_core.noise import GaussianNoise, PoissonNoise, hull_candidates, noise_candidates
from dro_core.reference import finite_worst_case_highs, finite_worst_case_pure
from validation import noise_models, registry

# --- hulls ------------------------------------------------------------------------------------


@st.composite
def families(draw, infinite=True):
    """(loss, cost, measures, weights, share): atoms, own or shared members, and a budget share."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, atoms, members = (draw(st.integers(1, high)) for high in (5, 7, 5))
    loss, cost = rng.standard_normal((samples, atoms)), rng.random((samples, atoms))
    shape = (samples, members) if draw(st.booleans()) else (members,)
    measures = rng.dirichlet(np.full(atoms, 0.4), size=shape)
    measures[measures < 0.05] = 0.0
    measures /= measures.sum(axis=-1, keepdims=True)
    if infinite and draw(st.booleans()):
        reached = measures[..., :1, :] > 0  # the first member stays affordable
        forbidden = (rng.random((samples, atoms)) < 0.3) & ~reached.reshape(-1, atoms)
        cost[forbidden] = np.inf
    weights = rng.dirichlet(np.ones(samples)) if draw(st.booleans()) else None
    return loss, cost, measures, weights, draw(st.floats(0.02, 1.1))


def members(family):
    """Hull table of a family and a radius between the cheapest and the dearest plan."""
    loss, cost, measures, weights, share = family
    table = hull_candidates(loss, cost, measures)
    mu = np.full(len(loss), 1 / len(loss)) if weights is None else weights
    dearest = np.where(np.isfinite(table[1]), table[1], 0.0).max(axis=1)
    least, most = (float(mu @ bound) for bound in (table[1].min(axis=1), dearest))
    return table, mu, (least + share * (most - least)) ** 0.5 * (1 + 1e-9)


def best_choice(table, mu, radius):
    """The best choice of one member per sample, by trying all of them."""
    loss, cost = table
    rows, best = np.arange(len(loss)), -np.inf
    for choice in product(range(loss.shape[1]), repeat=len(loss)):
        if mu @ cost[rows, choice] <= radius**2 * (1 + 1e-12):
            best = max(best, mu @ loss[rows, choice])
    return best


@given(families(infinite=False))
def test_hull_against_a_linear_programme_on_the_atoms(family):
    """Variables: shares of the members and masses of the atoms they add up to."""
    loss, cost, measures, _, _ = family
    _, mu, radius = members(family)
    samples, atoms = loss.shape
    own = np.broadcast_to(measures, (samples, *measures.shape[-2:]))
    count = own.shape[1]
    objective = np.concatenate([np.zeros(samples * count), -loss.ravel()])
    spent = np.concatenate([np.zeros(samples * count), cost.ravel()])[None]
    equal, right = [], []
    for i in range(samples):
        row = np.zeros(len(objective))
        row[i * count : (i + 1) * count] = 1.0
        equal.append(row)
        right.append(mu[i])
        for p in range(atoms):
            row = np.zeros(len(objective))
            row[i * count : (i + 1) * count] = own[i, :, p]
            row[samples * count + i * atoms + p] = -1.0
            equal.append(row)
            right.append(0.0)
    solved = linprog(objective, spent, [radius**2], np.array(equal), right, method="highs")
    found = finite_worst_case(*hull_candidates(loss, cost, measures), radius, weights=mu)
    assert found.risk == pytest.approx(-solved.fun, rel=1e-7, abs=1e-7)
    assert found.verify().holds()


@given(families())
def test_the_single_members_are_below_the_hull_which_is_the_dual(family):
    """own <= hull = dual <= own + max weight x range: at most one sample is split."""
    (loss, cost), mu, radius = members(family)
    hull = finite_worst_case(loss, cost, radius, weights=mu)
    own = finite_worst_case_pure(loss, cost, radius, weights=mu)
    assert own.risk == pytest.approx(best_choice((loss, cost), mu, radius), abs=1e-9)
    assert own.risk <= hull.risk + 1e-9
    affordable = np.where(np.isfinite(cost), loss, np.nan)
    spread = np.nanmax(affordable, axis=1) - np.nanmin(affordable, axis=1)
    assert hull.risk <= own.risk + (mu * spread).max() + 1e-9
    potential, _ = finite_potential(loss, cost, hull.multiplier)
    dual = hull.multiplier * radius**2 + mu @ potential
    assert hull.risk == pytest.approx(dual, rel=1e-12, abs=1e-12)
    assert hull.verify().holds()
    rows = np.arange(len(loss))
    assert own.transport_cost == pytest.approx(mu @ cost[rows, own.choice], abs=1e-15)
    assert own.transport_cost <= radius**2 * (1 + 2e-12)


@given(families(), st.integers(0, 2**32 - 1), st.floats(0, 5))
def test_weak_duality_of_the_hull_for_any_mixture(family, seed, multiplier):
    (loss, cost), mu, _ = members(family)
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(loss.shape[1]), size=len(loss)) * np.isfinite(cost)
    shares /= shares.sum(axis=1, keepdims=True)
    spent = mu @ (shares * np.where(np.isfinite(cost), cost, 0.0)).sum(axis=1)
    risk = mu @ (shares * loss).sum(axis=1)
    potential, _ = finite_potential(loss, cost, multiplier)
    assert risk <= multiplier * spent + mu @ potential + 1e-12
    radius = spent**0.5 * (1 + 1e-9)
    assert risk <= finite_worst_case(loss, cost, radius, weights=mu).risk + 1e-9


@given(families(), st.integers(0, 2**32 - 1))
def test_a_member_inside_the_hull_changes_nothing(family, seed):
    loss, cost, measures, _, _ = family
    table, mu, radius = members(family)
    rng = np.random.default_rng(seed)
    mixture = rng.dirichlet(np.ones(measures.shape[-2])) @ measures
    more = np.concatenate([measures, mixture[..., None, :]], axis=-2)
    expected = finite_worst_case(*table, radius, weights=mu).risk
    found = finite_worst_case(*hull_candidates(loss, cost, more), radius, weights=mu).risk
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(families(), st.randoms(use_true_random=False))
def test_permutation_of_members_samples_and_atoms(family, random):
    loss, cost, measures, _, _ = family
    table, mu, radius = members(family)
    orders = [list(range(size)) for size in (*loss.shape, measures.shape[-2])]
    for order in orders:
        random.shuffle(order)
    rows, atoms, kept = orders
    shuffled = measures[..., kept, :][..., atoms]
    if measures.ndim == 3:
        shuffled = shuffled[rows]
    other = hull_candidates(loss[rows][:, atoms], cost[rows][:, atoms], shuffled)
    found = finite_worst_case(*other, radius, weights=mu[rows]).risk
    expected = finite_worst_case(*table, radius, weights=mu).risk
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    pure = finite_worst_case_pure(*other, radius, weights=mu[rows]).risk
    expected = finite_worst_case_pure(*table, radius, weights=mu).risk
    assert pure == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(families(), st.floats(1.0, 3.0), st.sampled_from([1e-100, 1e-6, 1e8, 1e100]))
def test_monotone_in_the_radius_and_scaling(family, factor, scale):
    loss, cost, measures, _, _ = family
    table, mu, radius = members(family)
    larger = radius * factor
    for solve in (finite_worst_case, finite_worst_case_pure):
        risk = solve(*table, radius, weights=mu).risk
        assert risk <= solve(*table, larger, weights=mu).risk + 1e-9
        scaled = hull_candidates(scale * loss, scale * cost, measures)
        found = solve(*scaled, scale**0.5 * radius, weights=mu).risk
        assert found / scale == pytest.approx(risk, rel=1e-9, abs=1e-9)


@given(families())
def test_sparse_measures_equal_dense_ones(family):
    loss, cost, measures, _, _ = family
    shared = measures if measures.ndim == 2 else measures[0]
    dense = hull_candidates(np.abs(loss), np.ones_like(cost), shared)
    for kind in (sparse.csr_array, sparse.coo_array, sparse.csc_matrix):
        given_measures = kind(shared)
        found = hull_candidates(np.abs(loss), np.ones_like(cost), given_measures)
        for table, expected in zip(found, dense, strict=True):
            np.testing.assert_array_equal(table, expected)
    own = hull_candidates(np.abs(loss), np.ones_like(cost), np.stack([shared] * len(loss)))
    np.testing.assert_allclose(own[0], dense[0], rtol=1e-13)


def test_sparse_measures_are_not_modified_and_their_duplicates_add_up():
    measures = sparse.coo_array(([0.25, 0.75, 1.0, 0.0], ([0, 0, 1, 1], [0, 0, 1, 0])))
    loss, cost = hull_candidates([[1.0, 2.0]], [[0.0, np.inf]], measures)
    assert (loss.tolist(), cost.tolist()) == ([[1.0, 2.0]], [[0.0, np.inf]])
    assert measures.nnz == 4
    twice = sparse.csr_array(([1.5, -0.5], [0, 0], [0, 2]), shape=(1, 2))
    assert hull_candidates([[1.0, 2.0]], [[0.5, 0.0]], twice)[1].tolist() == [[0.5]]
    explicit = sparse.csr_array(([0.0, 1.0], ([0, 0], [1, 0])), shape=(1, 2))
    assert hull_candidates([[1.0, 2.0]], [[0.0, np.inf]], explicit)[1].tolist() == [[0.0]]
    assert explicit.nnz == 2


@pytest.mark.parametrize("own", [False, True])
def test_an_infinite_cost_counts_only_where_there_is_weight(own):
    measures = np.array([[1.0, 0.0], [0.5, 0.5]])
    measures = measures[None] if own else measures
    loss, cost = hull_candidates([[1.0, 3.0]], [[0.5, np.inf]], measures)
    assert loss.tolist() == [[1.0, 2.0]]
    assert cost.tolist() == [[0.5, np.inf]]
    assert finite_worst_case(loss, cost, 100.0).risk == 1.0


@pytest.mark.parametrize("entries", [1, 7, 60, 10**6])
@pytest.mark.parametrize("own", [False, True])
def test_callables_give_the_same_answer_in_blocks_of_any_size(entries, own, rng, monkeypatch):
    loss, cost = rng.standard_normal((23, 6)), rng.random((23, 6))
    cost[:, 0], cost[4, 5] = 0.0, np.inf
    measures = rng.dirichlet(np.ones(6), size=(23, 4) if own else 4)
    measures[..., 0, :] = np.eye(6)[0]
    table = hull_candidates(loss, cost, measures)
    expected = finite_worst_case(*table, 0.4)
    monkeypatch.setattr(dro_core.noise, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr("dro_core.blocks.BLOCK_ENTRIES", entries)
    monkeypatch.setattr("dro_core.blocks.CALL_ENTRIES", 0)
    blocks = hull_candidates(lambda rows: loss[rows], lambda rows: cost[rows], measures)
    for block, whole in zip(blocks, table, strict=True):
        for rows in (slice(0, 23), slice(None), slice(3, 3)):
            np.testing.assert_array_equal(block(rows), whole[rows])
        assert block(slice(20, 40)).shape == (3, 4)
        assert block(slice(23, 40)).shape == (0, 4)
    for first, second in (blocks, (blocks[0], table[1]), (table[0], blocks[1])):
        found = finite_worst_case(first, second, 0.4)
        assert (found.risk, found.multiplier) == (expected.risk, expected.multiplier)
        assert found.verify().holds()


def test_large_blocks_of_atoms_are_asked_for_in_pieces(monkeypatch):
    monkeypatch.setattr(dro_core.noise, "BLOCK_ENTRIES", 50)
    sizes = []

    def loss(rows):
        sizes.append(rows.stop - rows.start)
        return np.ones((40, 10))[rows]

    found, _ = hull_candidates(loss, loss, np.full((2, 10), 0.1))
    np.testing.assert_allclose(found(slice(0, 100)), np.ones((40, 2)))
    assert max(sizes) <= 5


# --- the duality gap of the families ----------------------------------------------------------


def test_best_single_member_below_hull_equal_to_dual_by_hand():
    """Losses 0, 1, 8 at costs 0, 1, 4: with budget 2 one member gives 1, half of the last 4."""
    loss, cost = np.array([[0.0, 1.0, 8.0]]), np.array([[0.0, 1.0, 4.0]])
    assert finite_worst_case_pure(loss, cost, 2**0.5).risk == 1.0
    hull = finite_worst_case(loss, cost, 2**0.5)
    assert (hull.risk, hull.multiplier) == pytest.approx((4.0, 2.0), rel=1e-14)
    assert hull.plan.toarray() == pytest.approx(np.array([[0.5, 0.0, 0.5]]))
    # two samples: one of them may take the last member for both, and nothing is left to gain
    twice = np.repeat(loss, 2, axis=0), np.repeat(cost, 2, axis=0)
    own = finite_worst_case_pure(*twice, 2**0.5)
    assert (own.risk, sorted(own.choice)) == (4.0, [0, 2])
    common = noise_models.best_common(noise_models.Table(*twice), 2**0.5)
    assert common == 1.0


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_nonlinear_reconstructions_have_a_gap_that_is_not_the_grids(family):
    """Soft-thresholding of one signal without content: the whole range stays below its hull."""
    config = noise_models.Config()
    if family == "gaussian":
        table = noise_models.gaussian_table(config, 1, np.linspace(0, 2, 401))
    else:
        table = noise_models.poisson_table(config, 1, 1 / np.linspace(0.01, 1, 401))
    radius = 0.5**0.5
    own = finite_worst_case_pure(table.loss, table.cost, radius).risk
    hull = finite_worst_case(table.loss, table.cost, radius)
    assert own == noise_models.best_common(table, radius)
    assert own < 0.6 * hull.risk
    grid = np.linspace(0, 3, 1001)
    dual = [lam * 0.5 + finite_potential(table.loss, table.cost, lam)[0][0] for lam in grid]
    assert hull.risk <= min(dual) <= hull.risk * (1 + 1e-2)
    assert noise_models.dual_values(table, [radius])[0] == pytest.approx(hull.risk, rel=1e-12)
    programme = finite_worst_case_highs(table.loss, table.cost, radius).risk
    assert hull.risk == pytest.approx(programme, rel=1e-9)


def test_the_gap_vanishes_with_the_number_of_samples():
    config = noise_models.Config(points=9, largest_samples=64)
    rows = noise_models.gap_rows(config)
    assert [row["samples"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert all(row["gap_over_range"] <= row["bound_over_range"] for row in rows)
    assert rows[-1]["gap_over_range"] < 0.05 * rows[0]["gap_over_range"]


def test_a_clipping_map_has_no_gap_for_one_sample():
    """A concave loss in the cost: the best mixture is a single member, where the budget allows."""
    noise = GaussianNoise(np.linspace(0, 2, 41))
    x = np.array([[0.0]])
    atoms, measures = noise.atoms(x, order=200)
    loss, cost = hull_candidates(np.clip(atoms, -0.5, 0.5) ** 2, atoms**2, measures)
    assert cost == pytest.approx(noise.levels[None] ** 2, abs=1e-12)
    for level in (0.25, 0.5, 1.0, 1.75):
        own = finite_worst_case_pure(loss, cost, level).risk
        assert finite_worst_case(loss, cost, level).risk == pytest.approx(own, rel=1e-2)


def test_pure_choices_of_weightless_samples_and_masks():
    loss, cost = np.array([[0.0, 5.0], [0.0, 7.0]]), np.array([[0.0, 1.0], [0.0, np.inf]])
    found = finite_worst_case_pure(loss, cost, 1.0, weights=[1.0, 0.0])
    assert (found.risk, found.transport_cost, found.choice[0]) == (5.0, 1.0, 1)
    mask = np.array([[True, False], [True, True]])
    assert finite_worst_case_pure(loss, cost, 9.0, admissible=mask).choice.tolist() == [0, 0]
    assert finite_worst_case_pure(loss, cost, 0.0).risk == 0.0
    assert finite_worst_case_pure(loss, cost, 0.0, weights=[0.5, 0.5]).choice.tolist() == [0, 0]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_pure_choices_never_exceed_the_budget_within_the_solvers_tolerance(offset):
    """A dearer choice that HiGHS' tolerance of 1e-6 would let pass is excluded."""
    loss, cost = np.array([[0.0, 1.0, 1.3]]) + offset, np.array([[0.0, 1.0, 1.0 + 1e-8]])
    for samples in (1, 2, 3):  # all on member 1 spend the budget, any on member 2 exceed it
        table = np.repeat(loss, samples, axis=0), np.repeat(cost, samples, axis=0)
        found = finite_worst_case_pure(*table, 1.0)
        assert found.choice.tolist() == [1] * samples
        assert found.risk - offset == pytest.approx(1.0)
        assert found.transport_cost <= 1.0 + 1e-12


def test_pure_choices_say_that_the_ball_is_empty():
    with pytest.raises(InfeasibleRadiusError, match=r"radius: 0.5 .* need 1.0") as raised:
        finite_worst_case_pure([[0.0, 1.0]], [[1.0, 2.0]], 0.5)
    assert raised.value.smallest_radius == 1.0
    assert finite_worst_case_pure([[0.0, 1.0]], [[1.0, 2.0]], 1.0).risk == 0.0


# --- Gaussian and Poisson members -------------------------------------------------------------


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=4),
    st.lists(st.floats(-5, 5), min_size=1, max_size=4),
    st.integers(3, 300),
)
def test_gaussian_atoms_have_the_moments(levels, clean, order):
    noise, column = GaussianNoise(levels), np.array(clean)[:, None]
    atoms, measures = noise.atoms(column, order)
    assert atoms.shape == (len(clean), len(levels) * order)
    mean, variance = noise.moments(column)
    deviation = atoms - column
    scale = 1 + noise.levels
    np.testing.assert_allclose((measures @ atoms.T).T, mean + 0 * scale, atol=1e-11)
    for power, moment in ((2, variance[:, :, 0]), (4, 3 * variance[:, :, 0] ** 2)):
        found = (measures @ (deviation**power).T).T
        np.testing.assert_allclose(found / scale**power, moment / scale**power, atol=1e-11)


@given(
    st.lists(st.floats(1e-3, 300), min_size=1, max_size=4),
    st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 3)), min_size=1, max_size=4),
)
def test_poisson_atoms_have_the_moments(photons, clean):
    noise, column = PoissonNoise(photons), np.array(clean)[:, None]
    atoms, measures = noise.atoms(column)
    np.testing.assert_allclose(measures.sum(axis=2), 1.0, rtol=1e-13)
    assert measures.min() >= 0
    mean, variance = noise.moments(column)
    for i, centre in enumerate(clean):
        np.testing.assert_allclose(measures[i] @ atoms[i], mean[i, 0], rtol=1e-9, atol=1e-12)
        spread, third = (measures[i] @ (atoms[i] - centre) ** power for power in (2, 3))
        np.testing.assert_allclose(spread, variance[i, :, 0], rtol=1e-8, atol=1e-12)
        skewed = centre / noise.photons**2
        np.testing.assert_allclose(third / skewed, 1.0, rtol=1e-5) if centre > 1e-3 else None


def test_poisson_atoms_are_counts_with_their_probabilities():
    atoms, measures = PoissonNoise([4.0, 2.0]).atoms([[0.5], [0.0]])
    assert atoms[0, :4].tolist() == [0.0, 0.25, 0.5, 0.75]
    expected = np.exp(-2) * np.array([1, 2, 2, 8 / 6])
    np.testing.assert_allclose(measures[0, 0, :4], expected, rtol=1e-11)
    second = int(np.flatnonzero(atoms[0] == 0)[1])
    assert atoms[0, second + 1] == 0.5
    np.testing.assert_allclose(measures[0, 1, second : second + 2], np.exp(-1), rtol=1e-11)
    assert measures[0, 0, second:].sum() == 0
    assert measures[1, 0, 0] == 1.0
    assert measures[1, 1, second] == 1.0


def test_members_are_copies_that_cannot_be_written():
    levels = np.array([1.0, 2.0])
    noise = GaussianNoise(levels)
    levels[0] = 7.0
    assert noise.levels.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        noise.levels[0] = 3.0


@given(st.integers(0, 2**32 - 1), st.sampled_from(["gaussian", "poisson"]))
def test_candidates_of_a_linear_map_by_hand_and_by_atoms(seed, family):
    rng = np.random.default_rng(seed)
    samples, n, m = (int(size) for size in rng.integers(1, 4, 3))
    B, x = rng.standard_normal((n, m)), rng.standard_normal((samples, n))
    y, clean = rng.standard_normal((samples, m)), rng.random((samples, m))
    parameters = rng.random(3) + 0.5
    noise = GaussianNoise(parameters) if family == "gaussian" else PoissonNoise(parameters)
    loss, cost = noise_candidates(B, x, y, clean, noise)
    mean, variance = noise.moments(clean)
    np.testing.assert_array_equal(mean, clean)
    for i, k in product(range(samples), range(3)):
        v = variance[i, k]
        factor = parameters[k] ** 2 if family == "gaussian" else clean[i] / parameters[k]
        np.testing.assert_allclose(v, factor)
        risk = ((x[i] - B @ clean[i]) ** 2).sum() + np.trace(B @ np.diag(v) @ B.T)
        assert loss[i, k] == pytest.approx(risk, rel=1e-12)
        assert cost[i, k] == pytest.approx(((y[i] - clean[i]) ** 2).sum() + v.sum(), rel=1e-12)
    scalar = B[:1, :1], x[:, :1], y[:, :1], clean[:, :1]
    atoms, measures = noise.atoms(scalar[3])
    by_atoms = hull_candidates(
        (scalar[1] - B[0, 0] * atoms) ** 2, (scalar[2] - atoms) ** 2, measures
    )
    for found, expected in zip(by_atoms, noise_candidates(*scalar, noise), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_candidates_against_monte_carlo():
    assert noise_models.monte_carlo(noise_models.Config(draws=50_000)) < 5


def test_maps_may_be_sparse_or_operators(rng):
    operator = operators.Diagonal(0.5, 3)
    x, clean, noise = rng.random((2, 3)), rng.random((2, 3)), GaussianNoise([0.0, 1.0])
    expected = noise_candidates(operator.matrix(), x, clean, clean, noise)
    for B in (operator, sparse.csr_array(operator.matrix())):
        for found, table in zip(noise_candidates(B, x, clean, clean, noise), expected, strict=True):
            np.testing.assert_allclose(found, table, rtol=1e-14)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["gaussian", "poisson"]), st.floats(0.05, 0.95))
def test_a_range_of_levels_has_no_gap_for_a_linear_map(seed, family, share):
    """Loss and cost are affine in the variance: every mixture is matched by one member."""
    config = noise_models.Config(samples=3, seed=seed % 1000)
    problem = noise_models.linear_problem(config)
    arguments = problem.B, problem.x, problem.y, problem.clean
    ends = np.array(noise_models.variance_range(config, family))
    low_and_high = noise_models.family_by_variance(config, family, ends)
    loss, cost = noise_candidates(*arguments, low_and_high)
    radius = float(((1 - share) * cost[:, 0] + share * cost[:, 1]).mean()) ** 0.5
    hull = finite_worst_case(loss, cost, radius)
    variances = (3 * hull.plan.toarray()) @ ends
    single = noise_models.family_by_variance(config, family, variances)
    one_loss, one_cost = noise_candidates(*arguments, single)
    assert np.diag(one_loss).mean() == pytest.approx(hull.risk, rel=1e-12)
    assert np.diag(one_cost).mean() <= radius**2 * (1 + 1e-12)
    inner = noise_models.family_by_variance(config, family, np.linspace(*ends, 7))
    more = finite_worst_case(*noise_candidates(*arguments, inner), radius).risk
    assert more == pytest.approx(hull.risk, rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0))
def test_the_family_is_inside_the_ball_of_y_given_x(seed, share):
    """Kernels that move y alone: their worst case is below that of the structure y|x."""
    config = noise_models.Config(samples=3, seed=seed % 1000)
    problem = noise_models.linear_problem(config)
    arguments = problem.B, problem.x, problem.y, problem.clean
    loss, cost = noise_candidates(*arguments, GaussianNoise([0.0, 0.3, 2.0]))
    radius = float(((1 - share) * cost[:, 0] + share * cost[:, 2]).mean()) ** 0.5
    hull = finite_worst_case(loss, cost, radius).risk
    outer = worst_case_risk(problem.B, problem.x, problem.y, radius, "y|x").risk
    assert hull <= outer * (1 + 1e-9)


def test_noise_in_the_data_makes_small_balls_empty():
    members = noise_candidates([[1.0]], [[1.0]], [[1.5]], [[1.0]], GaussianNoise([0.0, 1.0]))
    with pytest.raises(InfeasibleRadiusError, match=r"need 0\.5"):
        finite_worst_case(*members, 0.4)
    assert finite_worst_case(*members, 0.5).risk == 0.0


# --- bad input --------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf
ATOMS = np.array([[1.0, 2.0, 0.5], [0.0, 1.0, 2.0]])
MEMBERS = np.array([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
X, Y = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0], [2.0]])


def replaced(array, value, where=0):
    array = np.array(array, dtype=float)
    array.flat[where] = value
    return array


METHODS = [
    (lambda: GaussianNoise([1.0]).atoms(X), ValueError, r"clean: 2 columns; .*reshape\(-1, 1\)"),
    (lambda: GaussianNoise([1.0]).atoms([1.0]), ValueError, "clean: samples are rows"),
    (lambda: GaussianNoise([1.0]).atoms(Y, 0), ValueError, "order: 0 is below 1"),
    (lambda: GaussianNoise([1.0]).atoms(Y, 2.0), TypeError, "order: 2.0 is not an integer"),
    (lambda: GaussianNoise([1.0]).atoms(Y, 301), ValueError, "order: 301; allowed"),
    (lambda: GaussianNoise([1.0]).moments([[NAN]]), ValueError, "clean: .*NaN"),
    (lambda: PoissonNoise([1.0]).atoms(-Y), ValueError, r"clean: entry \(0, 0\) is -1.0"),
    (lambda: PoissonNoise([1.0]).moments(-Y), ValueError, r"clean: entry \(0, 0\) is -1.0"),
    (lambda: PoissonNoise([1.0]).atoms(X), ValueError, "clean: 2 columns"),
    (lambda: PoissonNoise([1e12]).atoms(Y), ValueError, "photons: 2 samples, 1 members and"),
    (lambda: PoissonNoise([1e140]).atoms(1e140 * Y / 2), ValueError, "photons: 2 samples"),
]


@pytest.mark.parametrize(("call", "error", "message"), METHODS)
def test_methods_refuse_bad_input_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("loss", "measures", "message"),
    [
        (lambda rows: ATOMS[rows][:, :2], MEMBERS, "measures: 3 atoms .* but loss has 2"),
        (lambda rows: ATOMS, MEMBERS, r"loss: rows 0:1 came back with shape \(2, 3\)"),
        (lambda rows: replaced(ATOMS, NAN)[rows], MEMBERS, r"loss: entry \(0, 0\) is nan"),
        (lambda rows: ATOMS[0], MEMBERS, "loss: a 2-D"),
        (
            lambda rows: ATOMS[rows][:1],
            [MEMBERS] * 2,
            "measures: given for 2 samples for rows 0:2, but loss has 1 rows",
        ),
    ],
)
def test_blocks_that_do_not_fit_are_refused_when_they_come(loss, measures, message):
    found, _ = hull_candidates(loss, ATOMS, measures)
    last = 2 if "0:2" in message else 1
    with pytest.raises(ValueError, match=message):
        found(slice(0, last))


def test_a_bad_entry_is_named_by_its_row_in_the_whole_table(monkeypatch):
    monkeypatch.setattr(dro_core.noise, "BLOCK_ENTRIES", 3)
    bad = replaced(ATOMS, -1.0, 4)
    _, cost = hull_candidates(ATOMS, lambda rows: bad[rows], MEMBERS)
    with pytest.raises(ValueError, match=r"cost: entry \(1, 1\) is -1.0"):
        cost(slice(0, 2))


# --- the experiment ---------------------------------------------------------------------------

SMALL = ["members=5", "points=4", "samples=3", "largest_samples=8", "draws=2000"]


def test_the_experiment_holds_when_small_and_writes_its_tables(tmp_path, capsys):
    changes = [part for change in SMALL for part in ("--set", change)]
    assert command_line.main(["noise-models", "--out", str(tmp_path), *changes]) == 0
    assert "36 of 36 checks hold" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    tables = ["gaussian_one_sample", "gaussian_samples", "poisson_samples", "gap", "refinement"]
    assert {f"{name}.{kind}" for name in tables for kind in ("csv", "json")} <= names
    figures = {f"{name}.{kind}" for name in ("noise_models", "poisson") for kind in ("svg", "png")}
    assert figures | {"checks.json"} <= names
    made = json.loads((tmp_path / "gaussian_samples.json").read_text())
    assert made["config"]["members"] == 5
    assert len(made["rows"]) == 4
    for row in made["rows"]:
        slack = 1e-9 * row["hull"]
        assert row["common"] - slack <= row["own"] <= row["hull"] + slack


def test_the_same_seed_gives_the_same_tables(tmp_path):
    config = registry.configure(noise_models.Config, SMALL)
    first, second = (noise_models.sweep(config, "poisson", 3) for _ in range(2))
    assert first == second
    other = registry.configure(noise_models.Config, [*SMALL, "seed=1"])
    assert noise_models.sweep(other, "poisson", 3) != first


def test_dynamic_programming_is_the_best_choice(rng):
    loss = rng.standard_normal((5, 4))
    steps, budgets = np.array([0, 1, 4, 9]), np.array([0, 3, 7, 20, 45])
    found = noise_models.best_choices(noise_models.Table(loss, 0 * loss), steps, budgets)
    for value, budget in zip(found, budgets, strict=True):
        cost = np.tile(steps.astype(float), (5, 1))
        expected = best_choice((loss, cost), np.full(5, 0.2), (budget / 5) ** 0.5)
        assert value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("samples=1", "--set samples: 1; allowed: 2 to 16"),
        ("members=2", "--set members: 2; allowed: 3 to 41"),
        ("points=0", "--set points: 0 is below 1"),
        ("seed=-1", "--set seed: -1; allowed"),
        ("threshold=0.1", "--set threshold: 0.1; allowed: 0.2 to 3"),
        ("largest_level=0.0", "--set largest_level: 0.0; allowed: 0.001 to 1000"),
        ("most_photons=0.5", "--set most_photons: 0.5; allowed: above fewest_photons"),
        ("noise=-0.1", "--set noise: -0.1; allowed: 0 to largest_level"),
        ("draws=10", "--set draws: 10; allowed: 1000"),
    ],
)
def test_settings_of_the_experiment_are_checked(assignment, message, capsys, tmp_path):
    arguments = ["noise-models", "--out", str(tmp_path), "--set", assignment]
    assert command_line.main(arguments) == 2
    assert message in capsys.readouterr().err
