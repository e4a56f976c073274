"""Radii from noise, operators, gaps and held-out data; unit conversions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from dro_core import (
    YGivenX,
    conservatism_gap,
    cross_validated_radius,
    radius_for_gap,
    radius_from_rms,
    radius_of_noise,
    radius_of_operator_change,
    radius_of_poisson_noise,
    rms_from_radius,
    worst_case_risk,
)
from dro_core.operators import BackwardHeat, Convolution
from dro_core.reference import conditional_wasserstein_pot
from dro_core.testing import check_ordering, maps, problems


def test_radius_of_noise_is_the_root_of_the_trace(rng):
    assert radius_of_noise(0.25, 16) == 2.0
    assert radius_of_noise([1.0, 4.0, 4.0]) == 3.0
    root = rng.standard_normal((5, 5))
    assert radius_of_noise(root @ root.T) == pytest.approx(np.linalg.norm(root))
    assert radius_of_noise(np.zeros(3)) == 0.0
    drawn = rng.multivariate_normal(np.zeros(5), root @ root.T, 200_000)
    assert radius_of_noise(root @ root.T) == pytest.approx(
        math.sqrt((drawn**2).sum(axis=1).mean()), rel=0.01
    )


@given(problems(structure="y|x", zero_radius=False), st.floats(1e-3, 10.0))
def test_the_certificate_at_the_radius_of_a_noise_covers_the_risk_under_it(problem, level):
    """Exactly: the expected risk under noise s is M + s²|B|_F²."""
    radius = radius_of_noise(level**2, problem.y.shape[1])
    expected = problem.fidelity + level**2 * (problem.B**2).sum()
    worst = worst_case_risk(problem.B, problem.x, problem.y, radius, weights=problem.weights)
    check_ordering(1e-12 + expected, 1e-12 + worst.risk)


@given(problems(structure="y|x"), st.data())
def test_the_certificate_at_the_radius_of_an_operator_change_covers_it(problem, data):
    n, m = problem.x.shape[1], problem.y.shape[1]
    A, changed = data.draw(maps(m, n)), data.draw(maps(m, n))
    radius = radius_of_operator_change(A, changed, problem.x, weights=problem.weights)
    risk = problem.weights @ ((problem.x - problem.x @ changed.T @ problem.B.T) ** 2).sum(axis=1)
    clean = problem.x @ A.T
    worst = worst_case_risk(problem.B, problem.x, clean, radius, weights=problem.weights)
    size = (problem.x**2).sum() + np.linalg.norm(problem.B) ** 2 * (
        (clean**2).sum() + ((problem.x @ changed.T) ** 2).sum()
    )
    assert risk <= worst.risk * (1 + 1e-9) + 1e-12 * size


def test_radii_are_conditional_wasserstein_distances(rng):
    """For distinct x and y = Ax the radius is exactly the distance of the two laws."""
    x = rng.standard_normal((6, 3))
    A, changed = rng.standard_normal((2, 4, 3))
    distance = conditional_wasserstein_pot(x, x @ A.T, x, x @ changed.T)
    assert radius_of_operator_change(A, changed, x) == pytest.approx(distance, rel=1e-10)
    first, second = BackwardHeat(1e-3, 8), Convolution([0.2, 0.6, 0.2], 8)
    x = rng.standard_normal((6, 8))
    dense = radius_of_operator_change(first.matrix(), second.matrix(), x)
    assert radius_of_operator_change(first, second, x) == pytest.approx(dense, rel=1e-12)


def test_radius_of_poisson_noise(rng):
    clean, count = rng.random((5, 4)) + 0.2, 30.0
    mu = rng.dirichlet(np.ones(5))
    radius = radius_of_poisson_noise(clean, count, weights=mu)
    drawn = rng.poisson(count * clean, (100_000, 5, 4)) / count - clean
    assert radius == pytest.approx(math.sqrt(((drawn**2).sum(axis=2) @ mu).mean()), rel=0.01)
    assert radius_of_poisson_noise(clean, 4 * count, weights=mu) == pytest.approx(radius / 2)


@given(
    st.floats(1e-6, 1e3),
    st.floats(1e-8, 1e6),
    st.floats(0, 1e4),
    st.sampled_from(["root", "squared"]),
)
def test_radius_for_gap_inverts_the_gap(radius, fidelity, lipschitz, form):
    gap = conservatism_gap(fidelity, lipschitz, radius, form)
    limit = conservatism_gap(0.0, lipschitz, 1.0, form)
    if gap > limit * (1 - 1e-6):  # the curve is flat there
        return
    assert radius_for_gap(gap, fidelity, lipschitz, form) == pytest.approx(radius, rel=1e-6)


def test_radius_for_gap_broadcasts_and_names_the_limit():
    gaps = conservatism_gap(2.0, [1.0, 2.0], [[0.1], [3.0]])
    np.testing.assert_allclose(
        radius_for_gap(gaps, 2.0, [1.0, 2.0]), [[0.1, 0.1], [3.0, 3.0]], rtol=1e-12
    )
    assert radius_for_gap(0.0, 1.0, 1.0) == 0.0
    with pytest.raises(ValueError, match=r"gap: 0\.3 is not reached at L = 1; .* 0\.292893"):
        radius_for_gap(0.3, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"gap: 0\.5 is not reached at L = 1; .* 0\.5"):
        radius_for_gap(0.5, 1.0, 1.0, "squared")


@given(st.floats(0, 1e6), st.integers(1, 10**6))
def test_units_convert_back_and_forth(radius, size):
    assert radius_from_rms(rms_from_radius(radius, size), size) == pytest.approx(radius, rel=1e-12)
    assert rms_from_radius(radius, size) * math.sqrt(size) == pytest.approx(radius)


def ridge(x, y, radius):
    return np.linalg.solve(y.T @ y + radius**2 * len(y) * np.eye(y.shape[1]), y.T @ x).T


def test_cross_validation_finds_a_radius_that_helps_on_held_out_data(rng):
    A = rng.standard_normal((8, 8)) @ np.diag(10.0 ** -np.arange(8))
    x = rng.standard_normal((24, 8))
    y = x @ A.T + 0.1 * rng.standard_normal((24, 8))
    radii = [1.0, 0.0, 0.03, 0.1, 0.3]
    found = cross_validated_radius(x, y, radii, ridge, seed=3)
    np.testing.assert_array_equal(found.radii, sorted(radii))
    assert found.held_out.shape == found.certified.shape == (5, 5)
    means = found.held_out.mean(axis=1)
    assert found.radius == found.radii[np.argmin(means)]
    assert 0 < found.radius < 1
    again = cross_validated_radius(x, y, radii, ridge, seed=3)
    np.testing.assert_array_equal(found.held_out, again.held_out)


@given(st.integers(0, 2**32 - 1))
def test_coverage_is_the_smallest_radius_that_certifies_every_fold(seed):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((2, 2))
    x, y = rng.standard_normal((2, 12, 2))
    radii = np.linspace(0, 3, 13)
    found = cross_validated_radius(x, y, radii, B, criterion="coverage", folds=3, seed=1)
    chosen = int(np.flatnonzero(found.radii == found.radius)[0])
    assert (found.held_out[chosen] <= found.certified[chosen] * (1 + 1e-12)).all()
    if chosen:
        assert (found.held_out[chosen - 1] > found.certified[chosen - 1]).any()
    np.testing.assert_array_equal(found.coverage[chosen:], 1.0)


def test_coverage_that_no_radius_gives_is_an_error(rng):
    x, y = rng.standard_normal((2, 12, 2))
    x[0] = 100.0
    with pytest.raises(ValueError, match=r"radii: none covers .*; 0\.1 covers"):
        cross_validated_radius(x, y, [0.0, 0.1], np.eye(2), criterion="coverage")


def test_cross_validation_uses_upper_values_and_the_structure_that_is_asked(rng):
    B, (x, y) = rng.standard_normal((4, 4)), rng.standard_normal((2, 12, 4))
    radii = [0.5, 3.0]
    options = {"criterion": "coverage", "folds": 3}
    exact = cross_validated_radius(x, y, radii, B, structure="joint", **options)
    plain = cross_validated_radius(x, y, radii, B, **options)
    assert (exact.certified > plain.certified * 1.001).all()
    bare = cross_validated_radius(x, y, radii, aslinearoperator(B), structure="joint", **options)
    assert (bare.certified >= exact.certified * (1 - 1e-9)).all()
    with pytest.raises(ValueError, match=r"fit: needed for YGivenX\(norm=1\)"):
        cross_validated_radius(x, y, radii, structure=YGivenX(norm=1))


def test_radii_beyond_the_largest_float_are_errors():
    with pytest.raises(OverflowError, match="clean, photons"):
        radius_of_poisson_noise([[1e139]], 1e-200)
    with pytest.raises(OverflowError, match="changed, x"):
        radius_of_operator_change([[1e139]], [[-1e139]], [[1e139]])
