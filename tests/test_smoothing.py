"""Worst cases of smoothed maps from draws: sharp for half-spaces, never below brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog
from scipy.special import ndtr, ndtri

from dro_core import (
    GrowthProfiles,
    SmoothedLosses,
    entropic_worst_case,
    exceedance_bound,
    hockey_stick,
    mean_lower_bound,
    smoothed_bound,
    worst_case_risk,
)
from dro_core.reference import finite_worst_case_highs

seeds = st.integers(0, 2**32 - 1)
NODES = np.linspace(-9.0, 9.0, 901)  # the trapezoidal rule of a Gaussian: exact to 1e-15
DENSITY = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])


@given(st.floats(0, 20), st.floats(0, 8), st.floats(1e-12, 1 - 1e-12))
def test_no_test_gains_more_than_the_hockey_stick(order, shift, level):
    """Neyman-Pearson: the best test of level p has the power Φ(Φ⁻¹(p) + s)."""
    power = float(ndtr(ndtri(level) + shift))
    divergence = float(hockey_stick(order, shift))
    assert divergence >= power - order * level - 1e-12
    if shift > 0.05 and order > 0:
        best = float(ndtr(-0.5 * shift - math.log(order) / shift))
        attained = float(ndtr(ndtri(best) + shift)) - order * best if 0 < best < 1 else 0.0
        assert divergence == pytest.approx(max(attained, 1 - order, 0.0), abs=1e-9)


def test_the_hockey_stick_has_the_known_ends():
    assert float(hockey_stick(1.0, 2.0)) == pytest.approx(2 * ndtr(1.0) - 1)
    np.testing.assert_allclose(hockey_stick([0.0, 0.3, 1.0, 2.0], 0.0), [1.0, 0.7, 0.0, 0.0])
    assert float(hockey_stick(1e300, 1e-3)) == 0.0


@pytest.mark.parametrize("draws", [1, 7, 60, 1000])
def test_exceedances_are_covered_exactly(draws):
    """The probability of a bound below the truth, summed over all outcomes: at most δ."""
    bounds = exceedance_bound(np.arange(draws + 1) / draws, draws, 0.01)
    assert (bounds >= np.arange(draws + 1) / draws).all()
    for p in np.concatenate([np.geomspace(1e-4, 0.5, 25), np.linspace(0.5, 0.999, 10)]):
        assert stats.binom.pmf(np.arange(draws + 1), draws, p)[bounds < p].sum() <= 0.01
    assert bounds[0] == pytest.approx(1 - 0.01 ** (1 / draws), rel=1e-9)


def test_exceedances_of_draws_that_are_not_alike_are_covered():
    rng = np.random.default_rng(0)
    for _ in range(20):
        chances = rng.beta(0.3, 2.0, 40)
        law = np.ones(1)
        for p in chances:
            law = np.convolve(law, [1 - p, p])
        bounds = exceedance_bound(np.arange(41) / 40, 40, 0.05)
        assert law[bounds < chances.mean()].sum() <= 0.05


def exact_losses(function, x, y, sigma, levels, centres, mu):
    """Exceedances by quadrature, enlarged by what the rule may miss where it jumps."""
    losses = (function(y[:, None] + sigma * NODES) - x[:, None]) ** 2
    above = (losses[None] - centres[:, None] > levels[:, None, None]) @ DENSITY
    return np.minimum(above @ mu + 2e-3, 1.0)


def smoothed(function, sigma, points):
    return (function(points[..., None] + sigma * NODES) * DENSITY).sum(-1)


def random_function(rng):
    """Into [0, 1]: steep, oscillating or with a jump."""
    weights, shifts = rng.normal(0, 8, 6), rng.normal(0, 2, 6)
    scales = rng.normal(0, 3, 6)
    return lambda t: np.clip(
        0.5 + np.tanh(np.asarray(t)[..., None] * weights + shifts) @ scales, 0, 1
    )


@given(seeds, st.sampled_from([0.1, 0.5, 1.0]), st.floats(0.02, 4.0))
@settings(max_examples=6)
def test_never_below_brute_force(seed, sigma, relative):
    """Scalar maps: the smoothed map on a grid of moves, the budget split by a linear programme."""
    rng = np.random.default_rng(seed)
    function, radius = random_function(rng), relative * sigma
    x, y, mu = rng.random(3), rng.normal(0, 1, 3), rng.dirichlet(np.ones(3))
    centres, levels = rng.uniform(0, 0.3, 3), np.linspace(-0.3, 1.0, 27)
    p = exact_losses(function, x, y, sigma, levels[:-1], centres, mu)
    bound = smoothed_bound(SmoothedLosses(centres, levels, p, mu), radius, sigma)
    moves = np.linspace(-6, 6, 121) * sigma
    loss = (smoothed(function, sigma, y[:, None] + moves) - x[:, None]) ** 2
    truth = finite_worst_case_highs(loss, np.tile(moves**2, (3, 1)), radius, weights=mu)
    assert bound.value >= float(truth.risk) - 1e-9
    assert bound.value <= float(mu @ centres) + 1.0 + 1e-9  # all levels exceeded


@pytest.mark.parametrize(("place", "radius"), [(-4.0, 0.3), (-2.0, 0.1), (-2.0, 1.0), (-1.0, 4.0)])
def test_it_is_sharp_for_half_spaces(place, radius):
    """Losses 0 and 9, exceeded by probability p in all: the best split of p and of the budget.

    A linear programme over pairs of a sample's own probability q and its distance t.
    """
    p = float(ndtr(place))
    losses = SmoothedLosses([0.0], [0.0, 9.0], [p])
    bound = smoothed_bound(losses, 2.0 * radius, 2.0)
    q = ndtr(np.append(np.linspace(-5, 3, 65), place))[:, None]
    t = np.linspace(0, 7, 101)
    gain = 9 * ndtr(ndtri(q) + t)
    costs = np.stack([np.broadcast_to(part, gain.shape).ravel() for part in (t**2, q)])
    solved = linprog(
        -gain.ravel(), A_ub=costs, b_ub=[radius**2, p], A_eq=np.ones((1, gain.size)), b_eq=[1.0]
    )
    truth = -solved.fun
    assert truth * (1 - 1e-9) <= bound.value <= 1.03 * truth + 1e-6
    assert bound.reachable <= bound.value * (1 + 1e-9)


@given(seeds, st.floats(0.01, 5.0))
@settings(max_examples=3)
def test_more_is_not_less(seed, radius):
    rng = np.random.default_rng(seed)
    levels, p = np.sort(rng.uniform(-1, 5, 9)), np.sort(rng.uniform(0, 1, 8))[::-1]
    losses = SmoothedLosses([1.0, 2.0], levels, p)
    bound = smoothed_bound(losses, radius, 1.0)
    assert bound.reachable <= bound.value * (1 + 1e-9)
    assert bound.value <= 1.02 * bound.reachable + 0.02
    assert smoothed_bound(losses, 1.2 * radius, 1.0).value >= bound.value * 0.99
    assert smoothed_bound(losses, radius, 2.0).value <= bound.value * 1.01
    more = SmoothedLosses([1.0, 2.0], levels, np.minimum(1.0, p + 0.1))
    assert smoothed_bound(more, radius, 1.0).value >= bound.value * 0.99
    still = smoothed_bound(losses, 0.0, 1.0).value
    assert still <= bound.value * (1 + 1e-9)
    assert still == pytest.approx(1.5 + levels[0] + np.diff(levels) @ p)


@given(seeds, st.floats(0.05, 2.0))
@settings(max_examples=15)
def test_the_entropic_risk_bounds_the_smoothed_map(seed, radius):
    """ε = 2σ² at any λ: moving the noise costs what moving the sample costs, ε KL = ‖v‖²."""
    rng = np.random.default_rng(seed)
    function, sigma = random_function(rng), 0.5
    x, y = rng.random(2), rng.normal(0, 1, 2)
    moves = np.linspace(-4, 4, 81)
    loss = (smoothed(function, sigma, y[:, None] + moves) - x[:, None]) ** 2
    truth = float(finite_worst_case_highs(loss, np.tile(moves**2, (2, 1)), radius).risk)
    losses = (function(y[:, None] + sigma * NODES) - x[:, None]) ** 2
    epsilon = 2 * sigma**2
    for lam in np.geomspace(0.01, 100, 9):
        potentials = lam * epsilon * np.log(np.exp(losses / (lam * epsilon)) @ DENSITY)
        assert lam * radius**2 + potentials.mean() >= truth * (1 - 1e-9)


def test_the_same_for_a_linear_map_in_closed_form(rng):
    B, x, y = rng.standard_normal((3, 2)), *(rng.standard_normal((5, k)) for k in (3, 2))
    sigma, radius = 0.3, 0.4
    entropic = entropic_worst_case(B, x, y, radius, 2 * sigma**2).risk
    assert worst_case_risk(B, x, y, radius).risk <= entropic


@given(seeds, st.floats(0.05, 3.0))
@settings(max_examples=3)
def test_ceilings_count_at_every_distance(seed, radius):
    """Never below brute force for maps that keep them, and never above either bound alone."""
    rng = np.random.default_rng(seed)
    function, sigma = random_function(rng), 0.3
    x, y = rng.random(3), rng.normal(0, 1, 3)
    moves = np.linspace(-6, 6, 121)
    points = y[:, None] + moves
    near = ((function(points[..., None] + sigma * NODES) - x[:, None, None]) ** 2) @ DENSITY
    rooms = np.sqrt(near.max(axis=1)) * 1.001  # the truth, as if it were known
    ceilings = GrowthProfiles.linear(rooms, 0.1)
    centres, levels = rng.uniform(0, 0.3, 3), np.linspace(-0.3, 1.0, 14)
    p = exact_losses(function, x, y, sigma, levels[:-1], centres, np.full(3, 1 / 3))
    losses = SmoothedLosses(centres, levels, p, ceilings=ceilings)
    bound = smoothed_bound(losses, radius, sigma).value
    costs = np.tile(moves**2, (3, 1))
    truth = float(finite_worst_case_highs(near, costs, radius).risk)
    assert bound >= truth * (1 - 1e-9)
    assert bound <= smoothed_bound(SmoothedLosses(centres, levels, p), radius, sigma).value + 1e-9


def test_means_are_covered():
    """Skewed variables that are not alike: at most δ of the bounds lie above the mean."""
    rng = np.random.default_rng(1)
    scales = rng.uniform(0.5, 3.0, 60)
    bounds = [
        mean_lower_bound(scales * rng.exponential(size=60), 0.0, 20.0, 0.05) for _ in range(400)
    ]
    assert np.mean(np.array(bounds) > scales.mean()) <= 0.05
    many = np.tile([0.0, 2.0], 50_000)
    assert 0.98 < mean_lower_bound(many, -1.0, 5.0, 0.01) < 1.0
    assert mean_lower_bound(many, -1.0, 1.0, 0.01) < 0.5  # what is above counts as that


@pytest.mark.parametrize(
    ("radius", "sigma"),
    [(0.5, 5e-324), (0.0, 1e-200), (0.5, 1e-145), (1e10, 1e-135), (0.5, 1e200), (0.5, 1e308)],
)
def test_noise_out_of_the_range_of_squares_is_refused(radius, sigma):
    losses = SmoothedLosses(np.zeros(2), np.array([0.0, 1.0]), np.array([0.2]))
    with pytest.raises(ValueError, match=r"^sigma: .* beside the radius .* squares"):
        smoothed_bound(losses, radius, sigma)
    assert np.isfinite(smoothed_bound(losses, 1e-120, 1e-120).value)
