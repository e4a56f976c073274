"""Noise as a function of (seed, step, index): its law, and that nothing else decides."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dro_torch.keyed_noise import check_key, standard_normal, uniform

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def splitmix64(counter):
    """The published generator's output function, in Python's integers."""
    mask = (1 << 64) - 1
    z = counter & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(
    seed=st.integers(0, 2**62), step=st.integers(0, 2**40), stream=st.integers(0, 5),
    index=st.integers(0, 2**40),
)  # fmt: skip
def test_uniform_is_the_hash_of_the_key(seed, step, stream, index):
    golden = 0x9E3779B97F4A7C15
    common = splitmix64(splitmix64(splitmix64(seed + golden) + step) + stream)
    key = splitmix64(index * golden + common)
    expected = ((splitmix64(key + golden) >> 11) + 0.5) * 2.0**-53
    drawn = uniform(torch.tensor([index]), seed=seed, step=step, stream=stream)
    assert float(drawn) == expected


def test_the_law_is_standard_normal():
    values = standard_normal(torch.arange(500), 10, 99, seed=3, step=1, dtype=torch.float64)
    flat = values.flatten().numpy()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    assert stats.kurtosis(flat) == pytest.approx(0.0, abs=0.03)
    rows = values.reshape(5000, 99).numpy()
    correlation = np.corrcoef(rows.T) - np.eye(99)
    assert np.sqrt(5000) * correlation.std() == pytest.approx(1.0, abs=0.05)
    assert stats.kstest(uniform(torch.arange(50000), seed=0, step=0), "uniform").pvalue > 1e-3


@given(
    draws=st.integers(1, 9), size=st.integers(1, 7), cut=st.integers(0, 9), seed=st.integers(0, 99)
)
def test_a_chunk_is_a_slice_of_the_whole(draws, size, cut, seed):
    index = torch.tensor([5, 0, 12])
    cut = min(cut, draws - 1)
    whole = standard_normal(index, draws, size, seed=seed, step=4)
    tail = standard_normal(index, draws - cut, size, seed=seed, step=4, first=cut)
    assert torch.equal(whole[:, cut:], tail)
    assert torch.equal(whole[1:2], standard_normal(index[1:2], draws, size, seed=seed, step=4))


def test_every_part_of_the_key_counts():
    base = {"seed": 1, "step": 2, "stream": 0}
    index = torch.arange(3)
    first = standard_normal(index, 2, 4, **base)
    for change in ({"seed": 2}, {"step": 3}, {"stream": 1}):
        assert not torch.equal(first, standard_normal(index, 2, 4, **{**base, **change}))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, standard_normal(index + 1, 2, 4, **base))


@pytest.mark.parametrize("device", DEVICES)
def test_dtypes_and_devices_agree(device):
    index = torch.arange(50)
    double = standard_normal(index, 4, 33, seed=0, step=0, dtype=torch.float64)
    single = standard_normal(index.to(device), 4, 33, seed=0, step=0)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.cpu().double(), double, rtol=0, atol=3e-4)
    half = standard_normal(index.to(device), 4, 33, seed=0, step=0, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert bool(torch.isfinite(half).all())


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ((-1, 0, torch.arange(2)), ValueError, "seed: -1 is negative"),
        ((True, 0, torch.arange(2)), TypeError, "seed: True is not an integer"),
        ((0, 0.5, torch.arange(2)), TypeError, "step: 0.5"),
        ((0, 0, [0, 1]), TypeError, "index: list"),
        ((0, 0, torch.zeros(2)), TypeError, "index: torch.float32"),
        ((0, 0, torch.arange(3)), ValueError, r"index: shape \(3,\), but there are 2"),
    ],
)
def test_keys_that_are_refused(key, error, message):
    with pytest.raises(error, match=message):
        check_key(*key, 2)
