"""Residual spectra, their decomposition, and the dual solver on spectra of any kind."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from dro_core import (
    LinearReconstruction,
    ResidualSpectrum,
    XShift,
    minimize_quadratic_dual,
)
from dro_core.dual import quadratic_dual
from dro_core.linear_map import left_singular_basis
from dro_core.testing import maps, problems

entries = st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e3)), min_size=1, max_size=6)


@given(problems())
def test_masses_sum_to_the_fidelity_and_multiplicities_to_the_dimension(problem):
    spectrum = ResidualSpectrum.from_matrix(
        problem.B, problem.x, problem.y, problem.structure, weights=problem.weights
    )
    assert spectrum.multiplicity.sum() == problem.x.shape[1]
    if not isinstance(problem.structure, XShift):
        assert spectrum.fidelity == pytest.approx(problem.fidelity, rel=1e-9)


@given(problems(structure="y|x"))
def test_the_joint_spectrum_is_shifted_by_one(problem):
    arguments = (problem.B, problem.x, problem.y)
    plain = ResidualSpectrum.from_matrix(*arguments, "y|x", weights=problem.weights)
    joint = ResidualSpectrum.from_matrix(*arguments, "joint", weights=problem.weights)
    np.testing.assert_allclose(
        joint.squared_singular_values, 1 + plain.squared_singular_values, rtol=1e-14
    )
    np.testing.assert_array_equal(joint.mass, plain.mass)


@given(maps())
def test_left_singular_basis(B):
    basis, squared = left_singular_basis(B)
    top = np.linalg.norm(B, 2)
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(squared)), atol=1e-12)
    np.testing.assert_allclose(
        (basis * squared) @ basis.T, B @ B.T, atol=1e-13 * max(top**2, 1e-300)
    )
    expected = np.linalg.svd(B, compute_uv=False)
    np.testing.assert_allclose(np.sort(np.sqrt(squared))[::-1], expected, atol=1e-7 * top)
    assert (squared >= 0).all()


@pytest.mark.parametrize("shape", [(30, 30), (30, 12), (12, 30)])
def test_small_singular_values_keep_their_digits(shape, rng):
    """Down to 1e-10 of the largest, where the Gram matrix holds nothing but rounding."""
    rank = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0][:, :rank] for size in shape)
    values = 10.0 ** -np.linspace(0, 10, rank)
    basis, squared = left_singular_basis((left * values) @ right.T)
    np.testing.assert_allclose(np.sort(np.sqrt(squared))[::-1], values, rtol=1e-5)
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-13)


def test_the_budget_is_met_by_residuals_on_small_singular_directions(rng):
    """Transport cost of the unscaled displacements, 1e-9 of the residual, condition 1e10."""
    left, right = (np.linalg.qr(rng.standard_normal((20, 20)))[0] for _ in range(2))
    B = (left * 10.0 ** -np.linspace(0, 10, 20)) @ right.T
    y = rng.standard_normal((50, 20))
    x = y @ B.T + rng.standard_normal((50, 3)) @ left[:, -3:].T
    problem = LinearReconstruction(B, x, y)
    worst = problem.worst_case(1e-9 * problem.fidelity**0.5)
    solution, decomposition = worst._solution, worst._decomposition
    everything = slice(0, len(x)), problem.residual
    q = decomposition.dual_residuals(*everything, solution.margin, solution.unspent_radius)
    cost = ((q @ B) ** 2).sum(axis=1).mean()
    assert cost == pytest.approx(worst.radius**2, rel=1e-6)


@given(maps(), st.sampled_from([1e-150, 1e150]))
def test_left_singular_basis_of_extreme_scales(B, scale):
    squared = np.sort(left_singular_basis(B)[1])
    rescaled = np.sort(left_singular_basis(B * scale)[1] / scale / scale)
    np.testing.assert_allclose(rescaled, squared, rtol=1e-9, atol=1e-13 * squared.max(initial=0))


@given(entries, entries, st.floats(1e-3, 1e3))
def test_the_solver_finds_the_minimum_of_the_dual(squared, mass, radius):
    count = min(len(squared), len(mass))
    spectrum = ResidualSpectrum(squared[:count], mass[:count], np.ones(count))
    found = minimize_quadratic_dual(spectrum, radius)
    top = spectrum.top
    if top < 1e-6:
        return

    def dual(logarithm):
        return quadratic_dual(spectrum, top * (1 + math.exp(logarithm)), radius)

    reference = min(
        minimize_scalar(dual, bounds=bounds, method="bounded").fun for bounds in ((-25, 0), (0, 25))
    )
    assert found.value <= reference * (1 + 1e-9)
    assert found.value >= reference * (1 - 1e-4) - 1e-9
    assert found.multiplier >= top


@given(entries, entries, st.floats(1e-6, 1e6))
def test_stationarity_or_the_hard_case(squared, mass, radius):
    count = min(len(squared), len(mass))
    spectrum = ResidualSpectrum(squared[:count], mass[:count], np.ones(count))
    found = minimize_quadratic_dual(spectrum, radius)
    top = spectrum.top
    used = spectrum.significant
    if top < 1e-100 or not np.isfinite(found.margin):
        return
    apart = top * (found.margin + spectrum.relative_gaps[used])
    weight = spectrum.mass[used] * spectrum.squared_singular_values[used]
    cost = float((weight[weight > 0] / apart[weight > 0] ** 2).sum())
    assert cost / radius**2 == pytest.approx(1 - found.unspent, abs=1e-9)
    if found.unspent > 0:
        assert found.margin == 0.0


def test_newton_survives_masses_of_all_sizes():
    for power in range(-60, 1, 3):
        spectrum = ResidualSpectrum([1.0, 1 - 1e-9, 0.3], [10.0**power, 1e-20, 1.0], np.ones(3))
        for radius in (1e-6, 0.4, 0.78, 0.7824607964359, 1.0, 1e6):
            found = minimize_quadratic_dual(spectrum, radius)
            assert found.value >= spectrum.fidelity
            assert found.multiplier >= 1.0


def test_a_lipschitz_constant_is_a_one_atom_spectrum():
    spectrum = ResidualSpectrum.from_lipschitz(3.0, 0.5, multiplicity=4)
    assert (spectrum.top, spectrum.fidelity) == (9.0, 0.5)
    assert spectrum.multiplicity.tolist() == [4.0]
