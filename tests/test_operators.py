"""Operators with known spectra, against their dense matrices."""

import numpy as np
import pytest

from dro_core import worst_case_risk
from dro_core.operators import BackwardHeat, Diagonal

OPERATORS = [
    Diagonal(0.0, 5),
    Diagonal(1.3, 8),
    Diagonal(2, 1),
    BackwardHeat(1e-4, 16),
    BackwardHeat(1e-3, 9),
    BackwardHeat(0.0, 4),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: f"{type(o).__name__}{o.shape}")
@pytest.mark.parametrize("regularization", [None, 0.0, 0.01])
def test_spectrum_and_inverse(operator, regularization):
    A = operator.matrix()
    assert A.shape == operator.shape
    np.testing.assert_allclose(A, A.T, atol=1e-14)
    chosen = operator
    expected = A
    if regularization is not None:
        chosen = operator.inverse(regularization)
        expected = np.linalg.solve(A @ A + regularization * np.eye(len(A)), A)
    np.testing.assert_allclose(chosen.matrix(), expected, rtol=1e-7, atol=1e-9 * chosen.lipschitz)
    values = np.linalg.svd(expected, compute_uv=False)
    np.testing.assert_allclose(chosen.singular_values, values, rtol=1e-7)
    assert chosen.lipschitz == pytest.approx(values[0], rel=1e-7)


def test_diagonal_is_polynomial():
    np.testing.assert_allclose(Diagonal(2.0, 4).matrix(), np.diag([1, 1 / 4, 1 / 9, 1 / 16]))
    assert Diagonal(1.5, 64).inverse().lipschitz == pytest.approx(512)


def test_heat_damps_a_wave_by_its_symbol():
    n, T, k = 32, 1e-3, 3
    grid = np.arange(n) / n
    wave = np.cos(2 * np.pi * k * grid) + 0.5 * np.sin(2 * np.pi * k * grid)
    damped = BackwardHeat(T, n).matrix() @ wave
    np.testing.assert_allclose(damped, np.exp(-((2 * np.pi * k) ** 2) * T) * wave, atol=1e-13)


def test_an_operator_is_accepted_as_a_map(rng):
    operator = BackwardHeat(1e-3, 8).inverse(0.1)
    x, y = rng.standard_normal((2, 5, 8))
    assert (
        worst_case_risk(operator, x, y, 1.0).risk
        == worst_case_risk(operator.matrix(), x, y, 1.0).risk
    )
