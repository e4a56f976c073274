"""Weights of the transport cost in the linear estimator: oracle, reductions, certificates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core import (
    Joint,
    LinearDRO,
    XGivenY,
    XShift,
    YGivenX,
    cross_validated_radius,
    fit_linear,
    worst_case_risk,
)
from dro_core.estimator.newton import Subspace
from dro_core.estimator.reduction import modes
from dro_core.reference import fit_linear_sdp
from dro_core.testing import weighted_structures

INF = math.inf
N, M = 3, 4


def data(seed, noise=0.3, n=N, m=M, count=25, rank=None):
    rng = np.random.default_rng(seed)
    rank = rank or n
    x = rng.standard_normal((count, rank)) @ rng.standard_normal((rank, n))
    y = x @ rng.standard_normal((n, m)) + noise * rng.standard_normal((count, m))
    return x, y, rng


def matrix(size):
    root = np.random.default_rng(size).standard_normal((size, size))
    return root @ root.T + 0.2 * np.eye(size)


def weight(kind, size):
    """A number, one per axis, some of them infinite, or a matrix."""
    axes = np.geomspace(0.1, 10, size)
    frozen = np.where(np.arange(size) % 2 == 1, INF, axes)
    return {"one": 1.0, "number": 4.0, "axes": axes, "frozen": frozen, "matrix": matrix(size)}[kind]


KINDS = ["one", "number", "axes", "frozen", "matrix"]


@pytest.mark.parametrize("kind_y", KINDS)
@pytest.mark.parametrize("kind_x", [*KINDS, "all"])
@pytest.mark.parametrize("noise", [0.3, 0.0])
def test_against_a_semidefinite_programme(kind_x, kind_y, noise):
    """joint, and y|x for kind_x = "all": every axis of x frozen."""
    x, y, rng = data(5, noise)
    mu = rng.dirichlet(np.ones(len(x)))
    weight_y = weight(kind_y, M)
    if kind_x == "all":
        weight_x, structure = INF, YGivenX(weight_y)
    else:
        weight_x = weight(kind_x, N)
        structure = Joint(weight_x, weight_y)
    reference = fit_linear_sdp(
        x=x, y=y, radius=0.5, weight_x=weight_x, weight_y=weight_y, weights=mu
    )
    fit = fit_linear(x=x, y=y, radius=0.5, structure=structure, weights=mu)
    assert fit.risk == pytest.approx(reference.value, rel=1e-6)
    assert fit.lower <= reference.value * (1 + 1e-6)
    assert fit.verify().holds(1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_x_given_y_against_a_semidefinite_programme(kind):
    """Every least-squares map is optimal, whatever the weights of x."""
    x, y, _ = data(6)
    fit = fit_linear(x=x, y=y, radius=0.5, structure=XGivenY(weight(kind, N)))
    reference = fit_linear_sdp(x=x, y=y, radius=0.5, weight_x=weight(kind, N), weight_y=INF)
    assert fit.risk == pytest.approx(reference.value, rel=1e-6)
    np.testing.assert_allclose(fit.matrix, np.linalg.lstsq(y, x, rcond=None)[0].T)
    assert fit.verify().holds(1e-9)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1]), st.floats(0.05, 3.0))
def test_weights_of_y_are_a_change_of_units(seed, epsilon, radius):
    """y|x with weights W is the unweighted problem in W^(1/2) y, with B W^(-1/2)."""
    x, y, rng = data(seed)
    root = rng.standard_normal((M, M)) + 3 * np.eye(M)
    symmetric = root @ root.T
    values, vectors = np.linalg.eigh(symmetric)
    half = (vectors * np.sqrt(values)) @ vectors.T
    weighted = fit_linear(x=x, y=y, radius=radius, epsilon=epsilon, structure=YGivenX(symmetric))
    plain = fit_linear(x=x, y=y @ half, radius=radius, epsilon=epsilon)
    assert weighted.risk == pytest.approx(plain.risk, rel=1e-9)
    np.testing.assert_allclose(weighted.matrix, plain.matrix @ half, rtol=1e-6, atol=1e-8)


@settings(max_examples=60)
@given(st.data(), st.integers(0, 2**32 - 1), st.floats(0.02, 10.0))
def test_every_weighted_fit_is_certified(drawn, seed, radius):
    noise = drawn.draw(st.sampled_from([0.3, 0.0]))
    epsilon = drawn.draw(st.sampled_from([0.0, 1e-3, 0.3]))
    n, m = drawn.draw(st.integers(1, 5)), drawn.draw(st.integers(1, 5))
    x, y, rng = data(seed, noise, n, m, rank=None if noise else min(n, 2))
    structure = drawn.draw(weighted_structures(n, m))
    fit = fit_linear(
        x=x,
        y=y,
        radius=radius,
        epsilon=epsilon,
        structure=structure,
        weights=rng.dirichlet(np.ones(len(x))),
    )
    certificate = fit.verify()
    assert certificate.holds(1e-8 if noise else 1e-5), (fit, certificate)
    assert fit.lower <= fit.risk


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.2]))
def test_frozen_measurements_are_partialled_out(seed, epsilon):
    """Their columns of B are least squares: the residual is uncorrelated with them."""
    x, y, _ = data(seed)
    for structure in (YGivenX([2.0, INF, 0.5, INF]), Joint(3.0, [2.0, INF, 0.5, INF])):
        fit = fit_linear(x=x, y=y, radius=0.5, epsilon=epsilon, structure=structure)
        residual = x - fit.predict(y)
        np.testing.assert_allclose(residual.T @ y[:, [1, 3]], 0.0, atol=1e-8 * len(x))
        assert fit.verify().holds(1e-8)


def test_infinity_is_the_limit_of_large_weights():
    x, y, _ = data(3)
    for make in (lambda w: Joint(1.0, [1.0, w, 1.0, w]), lambda w: Joint([1.0, w, 1.0], 1.0)):
        risks = [fit_linear(x=x, y=y, radius=0.5, structure=make(w)).risk for w in (1e2, 1e6, INF)]
        assert risks[0] > risks[1] > risks[2]
        assert risks[1] == pytest.approx(risks[2], rel=1e-3)


def test_nothing_that_moves_is_least_squares():
    x, y, _ = data(4)
    fit = fit_linear(x=x, y=y, radius=2.0, structure=Joint(INF, [INF] * M))
    np.testing.assert_allclose(fit.matrix, np.linalg.lstsq(y, x, rcond=None)[0].T)
    assert fit.risk == pytest.approx(fit.worst.nominal_risk)
    assert fit.verify().holds(1e-12)


@pytest.mark.parametrize("kind", ["number", "axes", "matrix"])
def test_data_of_small_rank_need_the_invariant_subspace_only(kind, rng):
    """The lemma with weights: P B is never worse, P on the smallest W⁻¹-invariant subspace."""
    n = 6
    x, y, _ = data(2, n=n, rank=1)
    two = np.array([2.0, 2.0, 2.0, 0.5, 0.5, 0.5])
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    structure = Joint({"number": 3.0, "axes": two, "matrix": (turn * two) @ turn.T}[kind])
    found = modes(x, structure.weight_x, Subspace(x))
    assert found.basis.shape[1] <= {"number": 1, "axes": 2, "matrix": n}[kind]
    assert found.basis.shape[1] + found.counts.sum() == n
    inverse = structure.weight_x.dense(structure.weight_x.inverse, n)
    np.testing.assert_allclose(
        inverse @ found.basis, found.basis * found.inverse_weights, atol=1e-12
    )
    project = found.basis @ found.basis.T
    np.testing.assert_allclose(x @ project, x, atol=1e-12)
    for _ in range(10):
        B = rng.standard_normal((n, M))
        full = worst_case_risk(B, x, y, 0.5, structure).risk
        assert worst_case_risk(project @ B, x, y, 0.5, structure).risk <= full * (1 + 1e-12)
    for epsilon in (0.0, 0.3):  # with entropy the directions that no sample has count as well
        fit = fit_linear(x=x, y=y, radius=0.5, epsilon=epsilon, structure=structure)
        assert fit.verify().holds(1e-8)


def test_a_law_that_moves_what_is_frozen_is_refused():
    x, y, _ = data(1)
    fit = fit_linear(x=x, y=y, radius=0.5, structure=YGivenX([1.0, INF, 1.0, 1.0]))
    law = fit.law
    vars(fit)["law"] = type(law)(law.displacement_x, law.displacement_y + 1e-9, law.roots)
    assert fit.verify().spent == INF
    assert not fit.verify().holds(1.0)


def test_the_estimator_and_its_cross_validation_take_weights():
    x, y, _ = data(8, count=40)
    structure = YGivenX([1.0, 100.0, INF, 0.1])
    model = LinearDRO(0.3, structure=structure).fit(y, x)
    fit = fit_linear(x=x, y=y, radius=0.3, structure=structure)
    np.testing.assert_array_equal(model.coef_, fit.matrix)
    chosen = cross_validated_radius(x, y, [0.1, 0.5], structure=structure, folds=4)
    half = fit_linear(x=x, y=y, radius=0.5, structure=structure).matrix
    covered = cross_validated_radius(
        x, y, [0.1, 50.0], half, criterion="coverage", structure=structure, folds=4
    )
    assert covered.radius in (0.1, 50.0)
    assert LinearDRO([0.1, 0.5], structure=structure, folds=4).fit(y, x).radius_ == chosen.radius


@pytest.mark.parametrize(
    ("structure", "error", "words"),
    [
        (YGivenX(norm=1), ValueError, r"structure: .*norm=1.*; allowed: .*norm 2"),
        (
            XShift(np.eye(4, 3)),
            ValueError,
            r"structure: .*XShift.*allowed: 'y\|x', 'joint', 'x\|y'",
        ),
        (YGivenX(np.ones(3)), ValueError, r"weight_y: shape \(3,\), but y has 4 columns"),
        (Joint(np.eye(4)), ValueError, r"weight_x: shape \(4, 4\), but x has 3 columns"),
        (3, TypeError, r"structure: 3; allowed: 'y\|x'"),
        ("x", ValueError, r"structure: unknown value 'x'"),
    ],
    ids=["norm", "x", "size of y", "size of x", "number", "name"],
)
def test_structures_without_a_fit_are_refused(structure, error, words):
    x, y, _ = data(0)
    with pytest.raises(error, match=words):
        fit_linear(x=x, y=y, radius=0.1, structure=structure)
