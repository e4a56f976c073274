"""Explicit bounds (paper Theorems 4.1, 4.2, §4.3) and the gap of Section 5."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dro_core import (
    ResidualSpectrum,
    conservatism_gap,
    explicit_bound,
    minimize_quadratic_dual,
    worst_case_risk,
)
from dro_core.testing import check_ordering, check_weak_duality, laws, problems

size = st.floats(0, 1e6)
positive = st.floats(1e-3, 1e3)


@given(problems())
def test_finite_exact_bound_are_ordered(problem):
    worst = problem.worst_case()
    check_ordering(problem.fidelity, worst.risk, worst.bound)


@pytest.mark.parametrize("name", ["joint", "y|x", "x|y"])
@given(problem=problems(structure="y|x"))
def test_the_bound_of_a_worst_case_is_the_explicit_bound(name, problem):
    worst = problem.worst_case(name)
    lipschitz = np.linalg.norm(problem.B, 2)
    bound = explicit_bound(problem.fidelity, lipschitz, problem.radius, name)
    assert worst.bound == pytest.approx(bound, rel=1e-9)


def test_moduli():
    assert explicit_bound(4.0, 3.0, 0.5) == pytest.approx((2 + 1.5) ** 2)
    assert explicit_bound(4.0, 3.0, 0.5, "joint") == pytest.approx((2 + 0.5 * 10**0.5) ** 2)
    assert explicit_bound(4.0, 3.0, 0.5, "x|y") == pytest.approx(2.5**2)
    assert explicit_bound(4.0, 3.0, 0.5, "x") == pytest.approx((2 + 1.5) ** 2)


@given(size, size, positive, st.sampled_from(["joint", "y|x", "x|y"]))
def test_the_bound_is_the_dual_of_a_one_atom_spectrum(fidelity, lipschitz, radius, name):
    kappa = {"joint": np.hypot(1, lipschitz), "y|x": lipschitz, "x|y": 1.0}[name]
    bound = explicit_bound(fidelity, lipschitz, radius, name)
    found = minimize_quadratic_dual(ResidualSpectrum.from_lipschitz(kappa, fidelity), radius)
    assert found.value == pytest.approx(bound, rel=1e-12)
    if kappa > 1e-3 and fidelity > 1e-3:
        expected = kappa**2 + kappa * np.sqrt(fidelity) / radius
        assert found.multiplier == pytest.approx(expected, rel=1e-9)


@given(
    problems(structure="y|x").flatmap(lambda p: laws(p).map(lambda law: (p, law))),
    st.sampled_from(["tanh", "relu", "abs"]),
)
def test_the_bound_holds_for_nonlinear_maps(case, kind):
    problem, law = case
    bend = {"tanh": np.tanh, "relu": lambda t: np.maximum(t, 0), "abs": np.abs}[kind]

    def model(y):  # B followed by a 1-Lipschitz function has B's Lipschitz constant
        return bend(y @ problem.B.T)

    errors = ((problem.x - model(problem.y)) ** 2).sum(axis=1)
    fidelity = float(problem.weights @ errors)
    bound = explicit_bound(fidelity, np.linalg.norm(problem.B, 2), problem.radius)
    check_weak_duality(bound, problem, law, model)


@given(size, st.lists(size, min_size=2), positive, st.sampled_from(["root", "squared"]))
def test_the_gap_decreases_in_the_lipschitz_constant(fidelity, lipschitz, radius, form):
    gaps = conservatism_gap(fidelity, np.sort(lipschitz), radius, form=form)
    check_ordering(*gaps[::-1])
    assert (gaps >= 0).all()
    assert (gaps <= 1).all()


@given(size, st.floats(0, 1e4), positive, st.sampled_from(["root", "squared"]))
def test_the_gap_compares_the_bounds(fidelity, lipschitz, radius, form):
    power = 0.5 if form == "root" else 1.0
    joint = explicit_bound(fidelity, lipschitz, radius, "joint") ** power
    conditional = explicit_bound(fidelity, lipschitz, radius, "y|x") ** power
    gap = conservatism_gap(fidelity, lipschitz, radius, form=form)
    assert gap == pytest.approx((joint - conditional) / joint, abs=1e-12)


def test_the_gap_without_residual():
    assert conservatism_gap(0.0, 1.0, 0.3) == pytest.approx(1 - 1 / 2**0.5)
    assert conservatism_gap(0.0, 1.0, 0.3, form="squared") == pytest.approx(0.5)
    assert conservatism_gap(0.0, 1e9, 0.3) == pytest.approx(5e-19)
    assert conservatism_gap(0.0, 2.0, 0.0) == 0.0


def test_arguments_broadcast():
    bounds = explicit_bound(np.ones((3, 1)), np.arange(4), 0.5, "joint")
    assert bounds.shape == (3, 4)
    assert conservatism_gap(1.0, np.arange(4), np.ones((2, 1))).shape == (2, 4)
    assert np.ndim(explicit_bound(1, 2, 3)) == 0


def test_an_infinite_bound_is_never_returned():
    with pytest.raises(OverflowError, match="lipschitz"):
        explicit_bound(1.0, [1.0, 1e200], 1.0)


def test_the_bound_is_loose_in_general(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 9, 3))
    worst = worst_case_risk(B, x, y, 1.0)
    assert worst.risk < 0.99 * worst.bound
