"""Training with noise: when it is the robust optimum, how bad it can be, and its level."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core import (
    Joint,
    NoiseTraining,
    XGivenY,
    YGivenX,
    fit_linear,
    shaped_noise,
    worst_case_risk,
)


def ill_posed(seed, n=6, count=60):
    rng = np.random.default_rng(seed)
    A = np.linalg.qr(rng.standard_normal((n, n)))[0] * np.arange(1.0, n + 1) ** -1.5
    x = rng.standard_normal((count, n))
    return x, x @ A.T + 0.05 * rng.standard_normal((count, n)), rng


def matrix(rng, size):
    root = rng.standard_normal((size, size))
    return root @ root.T + 0.2 * np.eye(size)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3), st.booleans())
def test_for_scalar_signals_shaped_noise_is_the_optimum(seed, share, matrices):
    """E[rr] (λ - BB)⁻¹ is one number there: white noise after whitening, at the closed level."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((40, 3))
    x = y @ rng.standard_normal((3, 1)) + 0.3 * rng.standard_normal((40, 1))
    structure = YGivenX(matrix(rng, 3) if matrices else 10.0 ** rng.uniform(-2, 2, 3))
    radius = share * math.sqrt(float(structure.transport_cost(0.0 * x, y).mean()))
    noise = shaped_noise(x=x, y=y, radius=radius, structure=structure)
    fit = fit_linear(x=x, y=y, radius=radius, structure=structure)
    assert noise.risk == pytest.approx(fit.risk, rel=1e-8)
    if math.isfinite(noise.guess) and noise.guess > 0:
        assert noise.level == pytest.approx(noise.guess, rel=1e-3)


@pytest.mark.parametrize("price", [1.0, 7.0])
@pytest.mark.parametrize("radius", [0.1, 0.8])
def test_for_isotropic_denoising_it_is_the_optimum(price, radius):
    """x and the noise white and uncorrelated: all is a multiple of the identity."""
    n = 4
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 2 * n)))[0]
    x, noise = math.sqrt(40) * orthogonal[:, :n], 0.5 * math.sqrt(40) * orthogonal[:, n:]
    found = shaped_noise(x=x, y=x + noise, radius=radius, structure=YGivenX(price))
    fit = fit_linear(x=x, y=x + noise, radius=radius, structure=YGivenX(price))
    assert found.risk == pytest.approx(fit.risk, rel=1e-9)
    assert found.level == pytest.approx(found.guess, rel=1e-3)
    gain = float(fit.matrix[0, 0])
    np.testing.assert_allclose(fit.matrix, gain * np.eye(n), atol=1e-7)
    # the closed form with one singular value s = gain/sqrt(price): σ² = ρ²(λ - s²)/(n s²)
    squared = gain**2 / price
    level = radius * math.sqrt((fit.multiplier - squared) / (n * squared))
    assert found.guess == pytest.approx(level, rel=1e-4)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.3))
def test_the_optimum_is_stationary_as_the_condition_says(seed, radius):
    """E[ry] = E[rr](λ - BB)⁻¹B, and no symmetric noise need satisfy it: jitter is above."""
    x, y, _ = ill_posed(seed)
    fit = fit_linear(x=x, y=y, radius=radius)
    residual, B = x - fit.predict(y), fit.matrix
    inverse = np.linalg.inv(fit.multiplier * np.eye(len(B)) - B @ B.T)
    left, right = residual.T @ y, residual.T @ residual @ inverse @ B
    np.testing.assert_allclose(left, right, atol=1e-6 * np.abs(left).max())
    noise = shaped_noise(x=x, y=y, radius=radius)
    assert fit.risk * (1 - 1e-9) <= noise.risk <= 1.2 * fit.risk


def test_isotropic_jitter_can_be_as_bad_as_one_likes():
    """x scalar, y = (x, x/10), the second measurement w times as dear: 1 against 100 ρ²/w."""
    x = np.array([[1.0], [-1.0]])
    y, radius = x @ np.array([[1.0, 0.1]]), 1.02
    ratios = []
    for w in (1e4, 1e6, 1e8):
        ball = YGivenX([1.0, w])
        jitter = shaped_noise(x=x, y=y, radius=radius, structure=ball, shape=1.0)
        assert jitter.risk >= 1.0 - 1e-9  # the zero map, or the reconstruction from y_1
        exact = fit_linear(x=x, y=y, radius=radius, structure=ball)
        assert exact.risk <= 100 * radius**2 / w
        shaped = shaped_noise(x=x, y=y, radius=radius, structure=ball)
        assert shaped.risk == pytest.approx(exact.risk, rel=1e-6)
        ratios.append(jitter.risk / exact.risk)
    assert ratios[1] > 90 * ratios[0]
    assert ratios[2] > 90 * ratios[1]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 2.0))
def test_noise_of_the_shape_of_the_ball_is_never_worse_than_twice_the_rank(seed, radius):
    """At the level ρ/√k: at most 2(k + 1) times the optimum, k its rank."""
    x, y, rng = ill_posed(seed, n=int(seed % 4) + 1, count=20)
    weights = 10.0 ** rng.uniform(-2, 2, y.shape[1])
    fit = fit_linear(x=x, y=y, radius=radius, structure=YGivenX(weights))
    k = max(int((fit.singular_values > 1e-9).sum()), 1)
    training = NoiseTraining(x, y, 1.0 / weights)
    worst = training.worst_case(radius / math.sqrt(k), radius, YGivenX(weights))
    assert worst.risk <= 2 * (k + 1) * fit.risk * (1 + 1e-9)
    # the step of the proof that needs the structure
    top = np.linalg.norm(fit.matrix / np.sqrt(weights), 2)
    assert fit.risk >= (fit.worst.nominal_risk + radius**2 * top**2) * (1 - 1e-9)


def test_noise_is_the_frobenius_penalty_of_the_jacobian():
    """The map minimises M + σ² tr BΣBᵀ."""
    x, y, rng = ill_posed(1)
    shape, level = matrix(rng, 6), 0.3
    B = NoiseTraining(x, y, shape).map(level)

    def penalised(B):
        return ((x - y @ B.T) ** 2).sum(axis=1).mean() + level**2 * np.trace(B @ shape @ B.T)

    for _ in range(5):
        D = rng.standard_normal(B.shape)
        slope = (penalised(B + 1e-5 * D) - penalised(B - 1e-5 * D)) / 2e-5
        assert abs(slope) < 1e-8 * np.linalg.norm(D) * penalised(B)
        assert penalised(B + 0.01 * D) > penalised(B)


@pytest.mark.parametrize("structure", ["joint", Joint(3.0, np.geomspace(0.1, 10, 6)), "y|x"])
def test_the_few_samples_have_the_worst_case_of_all(structure):
    x, y, rng = ill_posed(3)
    mu = rng.dirichlet(np.ones(len(x)))
    noise = shaped_noise(x=x, y=y, radius=0.2, structure=structure, weights=mu)
    whole = worst_case_risk(noise.matrix, x, y, 0.2, structure, weights=mu)
    assert noise.risk == pytest.approx(whole.risk, rel=1e-9)
    assert noise.worst.verify().holds(1e-9)
    fit = fit_linear(x=x, y=y, radius=0.2, structure=structure, weights=mu)
    assert noise.risk >= fit.lower * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_level_for_each_singular_direction_is_nearer_the_optimum(seed):
    x, y, _ = ill_posed(seed)
    ball = YGivenX(np.where(np.arange(6) % 3 == 0, 1.0, 100.0) if seed % 2 else 1.0)
    shaped, refined = (
        shaped_noise(x=x, y=y, radius=0.2, structure=ball, rounds=rounds) for rounds in (0, 4)
    )
    fit = fit_linear(x=x, y=y, radius=0.2, structure=ball)
    assert fit.risk * (1 - 1e-9) <= refined.risk <= fit.risk + 0.8 * (shaped.risk - fit.risk)
    np.testing.assert_allclose(
        refined.matrix,
        np.linalg.solve(y.T @ y / len(y) + refined.covariance, y.T @ x / len(y)).T,
        rtol=1e-6,
        atol=1e-9,
    )
    assert refined.worst.verify().holds(1e-9)


def test_frozen_measurements_get_no_noise():
    x, y, _ = ill_posed(4)
    weights = [1.0, math.inf, 2.0, math.inf, 1.0, 4.0]
    noise = shaped_noise(x=x, y=y, radius=0.2, structure=YGivenX(weights))
    np.testing.assert_allclose(
        np.diag(noise.covariance), noise.level**2 / np.array(weights), rtol=1e-12
    )
    assert noise.level > 0
    assert noise.risk <= 1.05 * fit_linear(x=x, y=y, radius=0.2, structure=YGivenX(weights)).risk


def test_levels_at_the_ends():
    x, y, _ = ill_posed(5)
    still = shaped_noise(x=x, y=y, radius=0.0)
    assert still.guess == 0.0
    assert still.risk == pytest.approx(fit_linear(x=x, y=y, radius=0.0).risk)
    large = shaped_noise(x=x, y=y, radius=100.0)
    assert large.guess == math.inf
    assert large.risk == pytest.approx((x**2).sum(axis=1).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (XGivenY(), r"structure: XGivenY\(\); allowed: 'y\|x', 'joint'"),
        (YGivenX(norm=1), r"structure: YGivenX\(norm=1\); allowed"),
        (YGivenX(math.inf), r"structure: .*; all of y is frozen"),
        (YGivenX([1.0, 2.0]), r"weight_y: shape \(2,\), but y has 6"),
    ],
)
def test_structures_without_noise_are_refused(structure, words):
    x, y, _ = ill_posed(0)
    with pytest.raises(ValueError, match=words):
        shaped_noise(x=x, y=y, radius=0.1, structure=structure)
