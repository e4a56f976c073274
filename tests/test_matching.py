"""What it costs that reconstructions follow the law of the signals, and that transport pays it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_core import matching_price, unbalanced_gaussian

seeds = st.integers(0, 2**32 - 1)


def model(seed, n=4, m=4, noise=0.3):
    """Covariances of a signal, of y = Ax + noise, and of the best estimate; its gain."""
    rng = np.random.default_rng(seed)
    factor, A = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    signal = factor @ factor.T + 0.1 * np.eye(n)
    measured = A @ signal @ A.T + noise**2 * np.eye(m)
    gain = np.linalg.solve(measured, A @ signal).T
    return signal, A, measured, gain, gain @ measured @ gain.T


def error(signal, A, measured, matrix):
    """E|x - matrix y|²."""
    return np.trace(signal - 2 * matrix @ A @ signal + matrix @ measured @ matrix.T)


@given(seeds)
def test_the_price_is_attained_by_the_matched_map(seed):
    signal, A, measured, gain, estimate = model(seed)
    found = matching_price(signal, estimate)
    assert found.best_error == pytest.approx(error(signal, A, measured, gain), rel=1e-8)
    matched = found.matrix @ gain
    scale = np.trace(signal)
    np.testing.assert_allclose(matched @ measured @ matched.T, signal, atol=1e-5 * scale)
    assert found.matched_error == pytest.approx(
        error(signal, A, measured, matched), abs=1e-5 * scale
    )
    assert found.best_error <= found.matched_error <= found.sampled_error * (1 + 1e-12)
    assert 0 <= found.decibels <= 10 * math.log10(2) + 1e-9
    assert found.verify().holds(1e-5)


@given(seeds)
def test_no_other_matched_reconstruction_is_cheaper(seed):
    """Any root of the covariance, any rotation, and noise of any share beside the estimate."""
    signal, A, measured, _, estimate = model(seed)
    found = matching_price(signal, estimate)
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(measured)
    for share in (1.0, rng.uniform()):
        part = np.linalg.cholesky(share * signal)  # the rest, (1 - share) of it, is noise
        turn, _ = np.linalg.qr(rng.standard_normal(signal.shape))
        other = part @ turn @ np.linalg.inv(root)
        paid = error(signal, A, measured, other) + (1 - share) * np.trace(signal)
        assert paid >= found.matched_error * (1 - 1e-6)


@given(seeds, st.integers(1, 3))
def test_a_sample_of_the_posterior_pays_twice_the_best_error(seed, m):
    """It matches exactly; with fewer measurements than unknowns nothing else may."""
    signal, A, measured, gain, estimate = model(seed, m=m)
    posterior = signal - estimate
    found = matching_price(signal, estimate)
    paid = error(signal, A, measured, gain) + np.trace(posterior)
    assert found.sampled_error == pytest.approx(paid, rel=1e-8)
    assert found.matched_error <= found.sampled_error * (1 + 1e-9)
    covered = found.matrix @ estimate @ found.matrix.T
    assert np.linalg.matrix_rank(covered, tol=1e-6 * np.trace(signal)) <= m


@given(seeds)
def test_invariances(seed):
    """Rotations, scales, and one entry after the other where both are diagonal."""
    signal, _, _, _, estimate = model(seed)
    found = matching_price(signal, estimate)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal(signal.shape))
    turned = matching_price(turn @ signal @ turn.T, turn @ estimate @ turn.T)
    assert turned.matched_error == pytest.approx(found.matched_error, rel=1e-6)
    scaled = matching_price(9.0 * signal, 9.0 * estimate)
    assert scaled.matched_error == pytest.approx(9 * found.matched_error, rel=1e-9)
    assert scaled.decibels == pytest.approx(found.decibels, abs=1e-8)
    spread = np.diag(signal)
    narrow = spread * np.random.default_rng(seed).uniform(size=len(spread))
    rows, whole = matching_price(spread, narrow), matching_price(np.diag(spread), np.diag(narrow))
    assert rows.matched_error == pytest.approx(whole.matched_error, rel=1e-9)
    np.testing.assert_allclose(rows.matrix, whole.matrix, rtol=1e-6, atol=1e-9)
    assert rows.verify().holds(1e-6)


def test_known_prices():
    same = matching_price(np.eye(3), np.eye(3))
    assert (same.best_error, same.matched_error, same.decibels) == pytest.approx((0, 0, 0))
    nothing = matching_price(np.eye(3), np.zeros((3, 3)))  # any signal, at twice the variance
    assert (nothing.best_error, nothing.matched_error) == pytest.approx((3, 6))
    assert nothing.decibels == pytest.approx(10 * math.log10(2))
    half = matching_price([4.0], [1.0])  # (2 - 1)² on top of 4 - 1
    assert (half.best_error, half.matched_error, half.matrix[0, 0]) == pytest.approx((3, 4, 2))


def test_the_bound_holds_for_laws_that_are_not_gaussian(rng):
    """Two-point signals under noise: the best estimate against all maps onto the law itself."""
    x = rng.choice([-1.0, 1.0], (4000, 1))
    y = x + rng.standard_normal((4000, 1))
    best = np.tanh(y)
    found = matching_price([1.0], [float(best.var())])
    matched = np.where(y > 0, 1.0, -1.0)  # the cheapest: monotone
    paid = float(((x - matched) ** 2).mean())
    assert found.matched_error <= paid * 1.02


# --- what transport pays ----------------------------------------------------------------------


def filtered(rng, n=6, noise=0.2):
    """Powers of the signal and gains of the blur per frequency; the power of the measurement."""
    power, blur = rng.uniform(0.05, 2, n), rng.uniform(0.05, 1, n)
    return power, blur, power * blur**2 + noise**2


def exact_gain(power, blur, measured, likelihood, quadratic):
    zero = np.zeros(len(power))
    found = unbalanced_gaussian(
        zero, measured, zero, power,
        forward=np.diag(blur), likelihood=likelihood, quadratic=quadratic,
    )  # fmt: skip
    return found.matrix


@given(seeds, st.floats(0, 1))
def test_the_balanced_map_of_a_filter_is_the_matched_one(seed, share):
    """Its gain, the ratio of the roots of the powers, attains the price; costs do not matter."""
    power, blur, measured = filtered(np.random.default_rng(seed))
    found = matching_price(power, power**2 * blur**2 / measured)
    gain = np.sqrt(power / measured)
    np.testing.assert_allclose(np.diag(found.matrix) * power * blur / measured, gain, rtol=1e-9)
    paid = (power - 2 * gain * blur * power + gain**2 * measured).sum()
    assert found.matched_error == pytest.approx(paid, rel=1e-10)
    matrix = exact_gain(power, blur, measured, 1e-6 * share, 1e-6 * (1 - share) + 1e-9)
    np.testing.assert_allclose(matrix, np.diag(gain), rtol=1e-4, atol=1e-9)


@given(seeds, st.floats(1e-3, 1e3), st.sampled_from([(1.0, 1.0), (2.0, 0.0), (0.0, 2.0)]))
def test_the_exact_gain_lies_between_its_limits(seed, scale, terms):
    """Matched as the scale falls; as it grows the cost alone: the identity, or the blur undone."""
    power, blur, measured = filtered(np.random.default_rng(seed))
    fit, near = terms
    gains = [
        np.diag(exact_gain(power, blur, measured, s * fit, s * near)) for s in (scale, 3 * scale)
    ]
    matched = np.sqrt(power / measured)
    far = np.sqrt((fit + near) / (fit * blur**2 + near))
    low, high = np.minimum(matched, far), np.maximum(matched, far)
    assert (gains[0] >= low * (1 - 1e-8)).all()
    assert (gains[0] <= high * (1 + 1e-8)).all()
    towards = np.abs(gains[1] - far) <= np.abs(gains[0] - far) * (1 + 1e-7) + 1e-9
    assert towards.all()
