"""Growth profiles: the dual is exact, literally an upper bound, and never below brute force."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from dro_core import GrowthProfiles, explicit_bound, growth_bound, growth_dual

seeds = st.integers(0, 2**32 - 1)
radii = st.floats(-3, 2).map(lambda exponent: 10.0**exponent)


def random_profiles(rng, samples, pieces, *, capped=True):
    """Any piecewise linear bounds: kinks, jumps, pieces of length zero, flat and steep ones."""
    starts = np.sort(rng.uniform(0, 3, (samples, pieces)), axis=1)
    starts[:, 0] = 0.0
    if pieces > 2 and rng.random() < 0.3:
        starts[:, 2] = starts[:, 1]
    slopes = rng.uniform(0, 4, (samples, pieces)) * (rng.random((samples, pieces)) < 0.7)
    if capped:
        slopes[:, -1] = 0.0
    return GrowthProfiles(starts, rng.uniform(0, 3, (samples, pieces)), slopes)


def transport_programme(profiles, points, radius, mu):
    """The discretised transport problem: mass of every sample over distances, by HiGHS."""
    losses = np.array([profiles(t) ** 2 for t in points])  # (T, N)
    N, T = len(mu), len(points)
    solved = linprog(
        -(losses.T * mu[:, None]).ravel(),
        A_ub=[(np.tile(points**2, (N, 1)) * mu[:, None]).ravel()],
        b_ub=[radius**2],
        A_eq=np.kron(np.eye(N), np.ones(T)),
        b_eq=np.ones(N),
    )
    return -solved.fun


@given(seeds, st.integers(1, 6), radii, st.floats(0, 50))
def test_lines_with_one_slope_give_the_explicit_bound(seed, samples, radius, modulus):
    rng = np.random.default_rng(seed)
    residuals, mu = rng.exponential(size=samples), rng.dirichlet(np.ones(samples))
    found = growth_bound(GrowthProfiles.linear(residuals, modulus), radius, weights=mu)
    assert found.value == pytest.approx(explicit_bound(mu @ residuals**2, modulus, radius))
    assert found.holds()
    slopes = modulus * rng.random(samples)
    own = growth_bound(GrowthProfiles.linear(residuals, slopes), radius, weights=mu)
    assert own.value <= found.value * (1 + 1e-12)


def test_lines_without_residual_are_the_hard_case():
    found = growth_bound(GrowthProfiles.linear([0.0, 0.0], [2.0, 3.0]), 0.5)
    assert found.value == pytest.approx(9.0 * 0.25)
    assert found.holds()


@given(seeds, st.integers(1, 4), st.integers(1, 5), radii)
@settings(max_examples=40)
def test_never_below_the_discretised_transport_problem(seed, samples, pieces, radius):
    rng = np.random.default_rng(seed)
    profiles, mu = random_profiles(rng, samples, pieces), rng.dirichlet(np.ones(samples))
    found = growth_bound(profiles, radius, weights=mu)
    grid = np.concatenate([np.linspace(0, 3, 61), profiles.starts.ravel()])
    below = transport_programme(profiles, np.unique(grid), radius, mu)
    assert found.value >= below * (1 - 1e-9)
    assert found.value <= below * 1.02 + 1e-9  # and near it: between points h² grows by little
    assert found.holds()


@given(seeds, st.integers(1, 4), st.integers(2, 8), radii)
@settings(max_examples=40)
def test_staircases_are_a_finite_problem(seed, samples, steps, radius):
    """Exactly: the steps are the candidates of a linear programme."""
    rng = np.random.default_rng(seed)
    distances = np.concatenate([[0.0], np.cumsum(rng.uniform(0.1, 1, steps))])
    values = np.cumsum(rng.uniform(0, 1, (samples, steps + 1)), axis=1)
    stairs = GrowthProfiles.increasing(distances, values)
    bounded = stairs.minimum(GrowthProfiles.constant(values[:, -1] + 1.0))
    found = growth_bound(bounded, radius)
    mu = np.full(samples, 1 / samples)
    assert found.value == pytest.approx(transport_programme(bounded, distances, radius, mu))
    for t, column in zip(distances, values.T, strict=True):
        assert (stairs(t) >= column).all()


def exact_dual(profiles, multiplier, radius, mu):
    """The dual in rational arithmetic: no rounding anywhere."""
    lam, total = Fraction(multiplier), Fraction(multiplier) * Fraction(radius) ** 2
    for i in range(len(mu)):
        best = None
        ends = [*profiles.starts[i, 1:], None]
        for start, value, slope, end in zip(
            profiles.starts[i], profiles.values[i], profiles.slopes[i], ends, strict=True
        ):
            t0, b = Fraction(start), Fraction(slope)
            a = Fraction(value) - b * t0
            points = [t0] + ([] if end is None else [Fraction(end)])
            if lam > b**2:
                points.append(a * b / (lam - b**2))
            inside = [t for t in points if t >= t0 and (end is None or t <= Fraction(end))]
            scores = [(a + b * t) ** 2 - lam * t**2 for t in inside]
            best = max(scores) if best is None else max(best, *scores)
        total += Fraction(mu[i]) * best
    return total


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.floats(-8, 4), st.booleans())
def test_the_value_is_an_upper_bound_literally(seed, samples, pieces, exponent, capped):
    """Not up to rounding: compared in rational arithmetic at the reported multiplier."""
    rng = np.random.default_rng(seed)
    profiles = random_profiles(rng, samples, pieces, capped=capped)
    radius, mu = 10.0**exponent, rng.dirichlet(np.ones(samples))
    found = growth_bound(profiles, radius, weights=mu)
    exact = exact_dual(profiles, found.multiplier, radius, mu[mu > 0])
    assert Fraction(found.value) >= exact
    assert found.value <= float(exact) * (1 + 1e-12)


@given(seeds, st.integers(1, 4), radii)
def test_more_is_not_less(seed, samples, radius):
    """Increasing in the radius and in the profiles; a multiplier off the best is a bound too."""
    rng = np.random.default_rng(seed)
    profiles = random_profiles(rng, samples, 3)
    found = growth_bound(profiles, radius)
    assert growth_bound(profiles, 1.1 * radius).value >= found.value * (1 - 1e-12)
    larger = GrowthProfiles(
        profiles.starts,
        profiles.values + rng.random(profiles.values.shape),
        profiles.slopes * (1 + rng.random(profiles.slopes.shape)),
    )
    assert growth_bound(larger, radius).value >= found.value * (1 - 1e-12)
    for factor in (0.5, 2.0):
        at = growth_dual(profiles, factor * found.multiplier, radius)
        assert at >= found.value * (1 - 1e-12)
    still = growth_bound(profiles, 0.0)
    assert still.value == pytest.approx((profiles(0.0) ** 2).mean())
    assert still.value <= found.value * (1 + 1e-12)


@given(seeds, st.integers(1, 4), radii)
def test_a_cap_makes_every_bound_finite(seed, samples, radius):
    rng = np.random.default_rng(seed)
    residuals, caps = rng.random(samples), 1 + rng.random(samples)
    line, cap = GrowthProfiles.linear(residuals, 1e7), GrowthProfiles.constant(caps)
    found = growth_bound(line.minimum(cap), radius).value
    assert found <= (caps**2).mean() * (1 + 1e-12)
    assert found <= explicit_bound((residuals**2).mean(), 1e7, radius) * (1 + 1e-12)


@given(seeds, st.integers(1, 4), st.integers(1, 4))
def test_the_minimum_is_pointwise(seed, first, second):
    rng = np.random.default_rng(seed)
    one = random_profiles(rng, 3, first, capped=False).within(rng.uniform(1, 4))
    two = random_profiles(rng, 3, second, capped=False)
    both = one.minimum(two)
    for t in rng.uniform(0, 5, 40):
        expected = np.minimum(one(t), two(t))
        assert (both(t) >= expected * (1 - 1e-15)).all()
        np.testing.assert_allclose(both(t), expected, rtol=1e-12)


def test_what_holds_on_a_ball_and_what_is_added():
    local = GrowthProfiles.linear([1.0], 2.0).within(0.5)
    assert local(0.25)[0] == 1.5
    assert local(0.51)[0] == np.inf
    everywhere = local.minimum(GrowthProfiles.linear([1.0], 10.0))
    assert everywhere(0.4)[0] == pytest.approx(1.8)
    assert everywhere(0.6)[0] == pytest.approx(7.0)
    assert everywhere.plus(1.0)(0.4)[0] == pytest.approx(2.2)
    # the dual keeps small moves inside of the ball where the local constant holds
    assert growth_bound(everywhere, 0.01).value < explicit_bound(1.0, 10.0, 0.01)


def test_samples_of_weight_zero_do_not_count():
    profiles = GrowthProfiles.linear([1.0, 9.0], [2.0, 50.0])
    alone = growth_bound(GrowthProfiles.linear([1.0], 2.0), 0.3)
    assert growth_bound(profiles, 0.3, weights=[1.0, 0.0]).value == alone.value


ONE = GrowthProfiles.linear([1.0], 2.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GrowthProfiles.linear([1.0], [1.0, 2.0]), ValueError, "modulus: shape"),
        (lambda: GrowthProfiles.linear([[1.0]], 1.0), ValueError, "residuals: shape"),
        (lambda: GrowthProfiles.increasing([0, 1], [[2.0, 1.0]]), ValueError, "values: a row"),
        (lambda: GrowthProfiles.increasing([0, 1], [[2.0]]), ValueError, "values: shape"),
        (lambda: ONE.within(-1.0), ValueError, "radius: -1.0 is negative"),
        (lambda: ONE.plus(np.nan), ValueError, "slope: nan"),
        (lambda: ONE(-1.0), ValueError, "distance: -1.0"),
        (lambda: ONE.minimum([1.0]), TypeError, "other: GrowthProfiles"),
        (lambda: ONE.minimum(GrowthProfiles.constant([1.0, 2.0])), ValueError, "other: 2 samples"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
