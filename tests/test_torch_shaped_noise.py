"""Noise of the shape of a ball: its covariance, its key, bad input."""

import math

import pytest
import torch

from dro_torch import Joint, ShapedNoise, XGivenY, YGivenX, level_of_radius


def samples(count=4000):
    return torch.zeros(count, 2, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)


def test_its_covariance_is_that_of_the_inverse_weights():
    x, y = samples()
    weight = torch.tensor([1.0, 100.0, math.inf], dtype=torch.float64)
    same, moved = ShapedNoise(YGivenX(weight), 0.5)(x, y, seed=0)
    assert torch.equal(same, x)
    covariance = torch.cov(moved.T)
    expected = torch.diag(0.25 / weight)
    torch.testing.assert_close(covariance, expected, rtol=0.1, atol=2e-3)
    assert bool((moved[:, 2] == 0).all())


def test_what_moves_is_what_the_structure_says():
    x, y = samples(5)
    for structure, moves in ((XGivenY(), (True, False)), (Joint(), (True, True))):
        moved = ShapedNoise(structure, 1.0)(x, y, seed=3)
        assert tuple(bool((a != b).any()) for a, b in zip(moved, (x, y), strict=True)) == moves


def test_the_key_reproduces_and_the_generator_too():
    x, y = samples(6)
    noise = ShapedNoise("y|x", 1.0)
    assert torch.equal(noise(x, y, seed=1, step=2)[1], noise(x, y, seed=1, step=2)[1])
    assert not torch.equal(noise(x, y, seed=1, step=2)[1], noise(x, y, seed=1, step=3)[1])
    whole = noise(x, y, seed=1, index=torch.arange(6))[1]
    part = noise(x[2:4], y[2:4], seed=1, index=torch.arange(2, 4))[1]
    assert torch.equal(whole[2:4], part)
    drawn = [noise(x, y, torch.Generator().manual_seed(0))[1] for _ in range(2)]
    assert torch.equal(*drawn)
    assert not torch.equal(noise(x, y)[1], noise(x, y)[1])


def test_the_level_of_a_radius_spends_the_budget_on_average():
    x, y = samples()
    ball = YGivenX(torch.tensor([4.0, 1.0, math.inf]))
    level = level_of_radius(ball, 0.6, x, y)
    assert level == pytest.approx(0.6 / math.sqrt(2))
    moved = ShapedNoise(ball, level)(x, y, seed=0)[1]
    cost = ball.whitened(x, y, moved - y).square().sum(1).mean()
    assert cost.item() == pytest.approx(0.36, rel=0.1)
    assert level_of_radius("joint", 1.0, x, y) == pytest.approx(1 / math.sqrt(5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ShapedNoise("y|x", -1.0), ValueError, "level: -1.0 is negative"),
        (lambda: ShapedNoise("y|x", math.nan), ValueError, "level: nan"),
        (lambda: ShapedNoise("z"), ValueError, "structure: unknown value 'z'"),
        (lambda: ShapedNoise()(torch.ones(2, 2), torch.ones(3, 2)), ValueError, "y: 3 samples"),
        (
            lambda: ShapedNoise()(torch.ones(2, 2), torch.ones(2, 2), seed=0.5),
            TypeError,
            "seed: 0.5 is not an integer",
        ),
        (
            lambda: level_of_radius("y|x", -1.0, torch.ones(2, 2), torch.ones(2, 2)),
            ValueError,
            "radius: -1.0 is negative",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
