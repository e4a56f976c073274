"""Operators with known spectra, against their dense matrices and against scipy.ndimage."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from dro_core import worst_case_risk
from dro_core.bases import (
    ColumnBasis,
    CosineBasis,
    FourierBasis,
    QuarterSineBasis,
    SineBasis,
    StandardBasis,
)
from dro_core.linear_map import DENSE_ENTRIES
from dro_core.operators import BackwardHeat, Convolution, Diagonal, Integration

OPERATORS = [
    Diagonal(0.0, 5),
    Diagonal(1.3, 8),
    Diagonal(2, 1),
    BackwardHeat(1e-4, 16),
    BackwardHeat(1e-3, 9),
    BackwardHeat(0.0, 4),
    BackwardHeat(1e-3, 7, "dirichlet"),
    BackwardHeat(1e-3, 8, "neumann"),
    Integration(1),
    Integration(9),
    Convolution([0.2, 0.6, 0.3], 8),
    Convolution([[0.1, 0.3], [0.5, 0.2]], (4, 5)),
    Convolution([0.25, 0.5, 0.25], 7, "reflect"),
    Convolution([0.25, 0.6, 0.25], 7, "zero"),
    Convolution([0.2, 0.5, 0.3], 7, "zero"),
    Convolution(np.outer([1, 4, 1], [1, 4, 1]) / 36, (4, 5), "mirror"),
]
GRIDS = [(1,), (2,), (7,), (8,), (3, 4), (6, 5), (2, 3, 4)]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: f"{type(o).__name__}{o.shape}")
@pytest.mark.parametrize("regularization", [None, 0.0, 0.01])
def test_spectrum_and_inverse(operator, regularization):
    A = operator.matrix()
    assert A.shape == operator.shape
    chosen, expected = operator, A
    if regularization is not None:
        chosen = operator.inverse(regularization)
        expected = np.linalg.solve(A.T @ A + regularization * np.eye(len(A)), A.T)
    np.testing.assert_allclose(chosen.matrix(), expected, rtol=1e-7, atol=1e-9 * chosen.lipschitz)
    values = np.linalg.svd(expected, compute_uv=False)
    np.testing.assert_allclose(chosen.singular_values, values, rtol=1e-7)
    assert chosen.lipschitz == pytest.approx(values[0], rel=1e-7)
    assert chosen.norm_bound >= values[0] * (1 - 1e-7)
    assert chosen.squared_frobenius() == pytest.approx((values**2).sum(), rel=1e-7)
    rows = np.random.default_rng(0).standard_normal((3, len(A)))
    np.testing.assert_allclose(chosen.apply(rows), rows @ expected.T, atol=1e-9 * values[0])
    np.testing.assert_allclose(chosen.adjoint(rows), rows @ expected, atol=1e-9 * values[0])
    linear = chosen.as_linear_operator()
    np.testing.assert_allclose(linear @ rows[0], chosen.apply(rows)[0], rtol=1e-12)
    np.testing.assert_allclose(linear.T @ rows.T, chosen.adjoint(rows).T, rtol=1e-12)


@pytest.mark.parametrize(
    "basis",
    [
        ColumnBasis(np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]),
        StandardBasis(5),
        *(cls(grid) for cls in (FourierBasis, CosineBasis, SineBasis) for grid in GRIDS),
        *(QuarterSineBasis(n, flipped=flipped) for n in (1, 2, 7) for flipped in (False, True)),
    ],
    ids=lambda basis: f"{type(basis).__name__}{basis.size}",
)
def test_bases_are_orthonormal(basis):
    rows = np.random.default_rng(1).standard_normal((4, basis.size))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    coordinates = basis.analyze(rows)
    np.testing.assert_allclose(basis.synthesize(coordinates), rows, atol=1e-12)
    energy = basis.energy(coordinates, weights)
    assert energy.sum() == pytest.approx(weights @ (rows**2).sum(axis=1))
    assert basis.multiplicity.sum() == basis.size
    for index in range(len(basis.multiplicity)):
        direction = basis.direction(index)[None]
        assert np.linalg.norm(direction) == pytest.approx(1)
        alone = basis.energy(basis.analyze(direction), np.ones(1))
        # a frequency and its conjugate are two coordinates in the inner columns of a 2-D half
        # spectrum; every multiplier is the same on both
        assert alone[index] >= 0.5 - 1e-12
    assert basis == basis
    assert basis != StandardBasis(basis.size + 1)


def test_diagonal_is_polynomial():
    np.testing.assert_allclose(Diagonal(2.0, 4).matrix(), np.diag([1, 1 / 4, 1 / 9, 1 / 16]))
    assert Diagonal(1.5, 64).inverse().lipschitz == pytest.approx(512)


@pytest.mark.parametrize(
    ("boundary", "grid", "wave", "rate"),
    [
        ("periodic", np.arange(32) / 32, lambda t: np.cos(6 * np.pi * t) + 0.5, None),
        ("periodic", np.arange(32) / 32, lambda t: np.sin(6 * np.pi * t), 6 * np.pi),
        ("dirichlet", np.arange(1, 33) / 33, lambda t: np.sin(3 * np.pi * t), 3 * np.pi),
        ("neumann", (np.arange(32) + 0.5) / 32, lambda t: np.cos(3 * np.pi * t), 3 * np.pi),
    ],
)
def test_heat_damps_a_wave_by_its_symbol(boundary, grid, wave, rate):
    T = 1e-3
    damped = BackwardHeat(T, 32, boundary).matrix() @ wave(grid)
    if rate is None:  # the constant stays
        expected = np.exp(-((6 * np.pi) ** 2) * T) * np.cos(6 * np.pi * grid) + 0.5
    else:
        expected = np.exp(-(rate**2) * T) * wave(grid)
    np.testing.assert_allclose(damped, expected, atol=1e-13)


def test_integration_is_a_cumulative_sum_and_its_inverse_a_difference():
    A = Integration(6)
    np.testing.assert_allclose(A.matrix() * 6, np.tril(np.ones((6, 6))), atol=1e-14)
    difference = 6 * (np.eye(6) - np.eye(6, k=-1))
    np.testing.assert_allclose(A.inverse().matrix(), difference, atol=1e-12)


MODES = {"circular": "wrap", "zero": "constant", "reflect": "reflect", "mirror": "mirror"}


@pytest.mark.parametrize("padding", MODES)
@pytest.mark.parametrize("even", [False, True])
def test_convolution_is_that_of_ndimage(padding, even, rng):
    for grid in GRIDS[:-1]:
        for sizes in itertools.product(*[range(1, min(5, size) + 1) for size in grid]):
            kernel = rng.standard_normal(sizes)
            for axis in range(len(sizes)) if even else ():
                kernel = kernel + np.flip(kernel, axis)
            operator = Convolution(kernel, grid, padding)
            images = rng.standard_normal((2, *grid))
            expected = [ndimage.convolve(image, kernel, mode=MODES[padding]) for image in images]
            applied = operator.apply(images.reshape(2, -1)).reshape(images.shape)
            np.testing.assert_allclose(applied, expected, atol=1e-12)
            dense, rows = operator.matrix(), rng.standard_normal((2, operator.shape[0]))
            np.testing.assert_allclose(operator.adjoint(rows), rows @ dense, atol=1e-11)
            values = np.linalg.svd(dense, compute_uv=False)
            np.testing.assert_allclose(operator.singular_values, values, atol=1e-10)
            assert operator.norm_bound >= values[0] * (1 - 1e-12)


@given(st.integers(1, 12), st.sampled_from(sorted(MODES)), st.booleans())
def test_transforms_are_used_exactly_where_they_diagonalise(size, padding, even):
    kernel = np.array([0.2, 0.5, 0.2] if even else [0.1, 0.5, 0.2])[: min(size, 3)]
    if even and len(kernel) < 3:
        kernel = kernel[:1]
    operator = Convolution(kernel, size, padding)
    symmetric = len(kernel) % 2 == 1 and np.array_equal(kernel, kernel[::-1])
    fast = padding == "circular" or (symmetric and padding in ("reflect", "zero"))
    assert (operator.spectral() is not None) == fast
    wide = Convolution(np.ones(min(size, 5)) / 5, size, "zero")
    assert (wide.spectral() is not None) == (size in (1, 3))


def test_a_large_convolution_without_transform_says_so():
    side = int(DENSE_ENTRIES**0.5) + 1
    operator = Convolution([0.2, 0.5, 0.3], side, "mirror")
    assert operator.singular_basis() is None
    with pytest.raises(ValueError, match="shape: no fast transform diagonalises"):
        _ = operator.singular_values
    with pytest.raises(ValueError, match="too large for a dense decomposition"):
        operator.inverse(0.1)


def test_an_operator_is_accepted_as_a_map(rng):
    operator = BackwardHeat(1e-3, 8).inverse(0.1)
    x, y = rng.standard_normal((2, 5, 8))
    assert worst_case_risk(operator, x, y, 1.0).risk == pytest.approx(
        worst_case_risk(operator.matrix(), x, y, 1.0).risk, rel=1e-12
    )
