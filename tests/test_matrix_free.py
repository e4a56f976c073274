"""Maps known by their products only: Golub-Kahan quadrature, sparse maps, fast transforms."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import dro_core.linear_map
from dro_core import (
    LinearReconstruction,
    ResidualSpectrum,
    YGivenX,
    dual_value,
    entropic_worst_case,
    minimize_quadratic_dual,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.dual import quadratic_dual
from dro_core.golub_kahan import GolubKahan, KrylovRuns
from dro_core.operators import Convolution
from dro_core.testing import check_ordering, problems


def gaussian(width, reach):
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / width) ** 2)
    return kernel / kernel.sum()


def norm(B):
    return float(np.linalg.norm(B, 2)) * (1 + 1e-12)


plain = st.sampled_from(["y|x", "joint"]).flatmap(lambda name: problems(structure=name))


@given(plain, st.integers(1, 9), st.floats(0.0, 2.0))
def test_gauss_is_below_and_radau_above_the_exact_value(problem, steps, slack):
    """At every number of steps and every certified bound; no convergence is needed."""
    bound = norm(problem.B) * (1 + slack)
    arguments = (aslinearoperator(problem.B), problem.x, problem.y, problem.structure)
    options = {"steps": steps, "weights": problem.weights}
    lower = ResidualSpectrum.from_linear_operator(*arguments, **options)
    upper = ResidualSpectrum.from_linear_operator(*arguments, **options, norm_bound=bound)
    exact = problem.worst_case().risk
    rounding = 1e-9 * ((problem.x**2).sum() + ((problem.y @ problem.B.T) ** 2).sum())
    below = minimize_quadratic_dual(lower, problem.radius).value
    above = minimize_quadratic_dual(upper, problem.radius).value
    assert below <= exact * (1 + 1e-9) + rounding
    assert above >= exact * (1 - 1e-9) - rounding
    assert lower.fidelity == pytest.approx(problem.fidelity, rel=1e-9, abs=1e-20)
    assert upper.fidelity == pytest.approx(problem.fidelity, rel=1e-9, abs=1e-20)


@given(plain)
def test_the_rules_bound_the_dual_function_at_every_multiplier(problem):
    exact = ResidualSpectrum.from_matrix(
        problem.B, problem.x, problem.y, problem.structure, weights=problem.weights
    )
    bound = norm(problem.B)
    arguments = (aslinearoperator(problem.B), problem.x, problem.y, problem.structure)
    for steps in (1, 2, 3):
        options = {"steps": steps, "weights": problem.weights}
        lower = ResidualSpectrum.from_linear_operator(*arguments, **options)
        upper = ResidualSpectrum.from_linear_operator(*arguments, **options, norm_bound=bound)
        for factor in (1.01, 1.5, 10.0):
            multiplier = upper.top * factor + 1e-3
            check_ordering(
                1e-9 + quadratic_dual(lower, multiplier, problem.radius),
                1e-9 + quadratic_dual(exact, multiplier, problem.radius),
                1e-9 + quadratic_dual(upper, multiplier, problem.radius),
            )


@given(problems(structure="y|x"), st.booleans())
def test_a_linear_operator_gets_a_bracket_and_a_law(problem, bounded):
    """Small maps: enough steps are exact, hard cases included, with a proved or probable bound."""
    options = {"norm_bound": norm(problem.B)} if bounded else {}
    worst = worst_case_risk(
        aslinearoperator(problem.B),
        problem.x,
        problem.y,
        problem.radius,
        weights=problem.weights,
        **options,
    )
    exact = problem.worst_case()
    size = (problem.x**2).sum() + ((problem.y @ problem.B.T) ** 2).sum()
    slack = 1e-9 * (exact.risk + size)
    assert worst.lower <= exact.risk + slack
    assert worst.upper >= exact.risk - slack
    assert worst.failure_probability == (0.0 if bounded else 1e-6)
    assert worst.nominal_risk == pytest.approx(exact.nominal_risk)
    certificate = worst.verify()
    assert certificate.primal_risk <= exact.risk + slack
    assert certificate.transport_cost <= problem.radius**2 * (1 + 1e-9) + 1e-300
    if bounded:
        assert certificate.dual_risk >= exact.risk - slack - 2 * certificate.resolution


def test_the_bracket_closes_to_rtol_and_more_steps_are_made_for_a_smaller_one(rng):
    blur = Convolution(np.outer(gaussian(1.5, 6), gaussian(1.5, 6)), (32, 32))
    B = blur.inverse(1e-2)
    x = rng.standard_normal((8, 1024))
    y = blur.apply(x)
    exact = worst_case_risk(B, x, y, 5.0)
    steps = []
    for rtol in (1e-2, 1e-6, 1e-10):
        worst = worst_case_risk(
            B.as_linear_operator(), x, y, 5.0, norm_bound=B.lipschitz, rtol=rtol
        )
        assert worst.lower <= exact.risk * (1 + 1e-12)
        assert worst.upper >= exact.risk * (1 - 1e-12)
        assert worst.upper - worst.lower <= rtol * exact.risk
        assert worst.verify().holds(10 * rtol)
        steps.append(worst._decomposition.steps)
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    assert "failure_probability=0," in repr(worst)
    joint = worst_case_risk(B.as_linear_operator(), x, y, 5.0, "joint", norm_bound=B.lipschitz)
    assert (
        joint.lower
        <= worst_case_risk(B, x, y, 5.0, "joint").risk * (1 + 1e-12)
        <= (joint.upper * (1 + 2e-12))
    )


def test_a_top_direction_without_residual_is_seen(rng):
    """Residuals never touch it: without random vectors the worst case would be far too low."""
    left, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    values = np.append(10.0, np.linspace(1, 0.1, 39))
    B = (left * values) @ left.T
    y = rng.standard_normal((5, 40))
    x = y @ B.T + rng.standard_normal((5, 39)) @ left[:, 1:].T
    exact = worst_case_risk(B, x, y, 2.0)
    assert exact.multiplier == pytest.approx(100.0)  # the hard case
    for options in ({"norm_bound": 10.0}, {}):
        worst = worst_case_risk(aslinearoperator(B), x, y, 2.0, **options)
        assert worst.risk == pytest.approx(exact.risk, rel=1e-6)
        assert worst.verify().primal_risk == pytest.approx(exact.risk, rel=1e-6)
    runs = KrylovRuns(dro_core.linear_map.DenseMap(B), x - y @ B.T, np.full(5, 0.2), 4, 0)
    runs.runs.advance(6)  # (later the recurrence's rounding finds it too)
    blind = runs.gauss(6)[0][: runs.count].max()
    assert blind < 2.0 < 99.0 < runs.top(6)


def test_without_a_norm_bound_the_upper_value_is_labelled(rng):
    B = rng.standard_normal((30, 30))
    x, y = rng.standard_normal((2, 4, 30))
    worst = worst_case_risk(aslinearoperator(B), x, y, 3.0, failure_probability=1e-3)
    assert worst.failure_probability == 1e-3
    assert worst.verify().failure_probability == 1e-3
    assert "failure_probability=0.001" in repr(worst)
    exact = worst_case_risk(B, x, y, 3.0).risk
    assert worst.lower <= exact * (1 + 1e-12)
    assert exact <= worst.upper * (1 + 1e-12)
    surer = worst_case_risk(aslinearoperator(B), x, y, 3.0, failure_probability=1e-12, rtol=1e-3)
    assert surer.bound > worst_case_risk(B, x, y, 3.0).bound


@pytest.mark.parametrize("seed", range(3))
def test_the_probable_bound_on_the_norm_holds(seed):
    """Kuczynski-Wozniakowski: far from sharp, so no failure is expected in 300 trials at 1 %."""
    rng = np.random.default_rng(seed)
    values = np.append(np.linspace(0.9, 1, 50), np.zeros(50))
    factor = dro_core.linear_map.DenseMap(np.diag(values))
    for trial in range(100):
        runs = KrylovRuns(factor, rng.standard_normal((1, 100)), np.ones(1), 2, trial)
        runs.runs.advance(8)
        assert runs.probable_top(8, 0.01) >= 1.0


def test_a_loose_norm_bound_gives_an_honest_wide_bracket(rng):
    """No stationarity in sight: the run stops when neither value changes, not at max_steps."""
    B = rng.standard_normal((30, 30)) / 10
    x, y = rng.standard_normal((2, 4, 30))
    exact = worst_case_risk(B, x, y, 30.0).risk
    worst = worst_case_risk(aslinearoperator(B), x, y, 30.0, norm_bound=3 * norm(B))
    assert worst.lower <= exact * (1 + 1e-9)
    assert worst.upper > 2 * exact
    assert worst._decomposition.steps < 300


def test_steps_end_at_max_steps(rng):
    calls = []
    B = np.diag(np.linspace(0.5, 1, 400))

    def product(v):
        calls.append(1)
        return B @ v

    operator = LinearOperator(
        (400, 400), matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=float
    )
    x, y = rng.standard_normal((2, 3, 400))
    worst = worst_case_risk(operator, x, y, 1000.0, norm_bound=1.0, max_steps=12, rtol=1e-14)
    assert worst._decomposition.steps == 12
    assert len(calls) <= 2 * 12 + 6
    with pytest.raises(ValueError, match="max_steps: 2 is too few"):
        worst_case_risk(operator, x, y, 1.0, max_steps=2)


def test_curves_and_dual_values_of_a_linear_operator(rng):
    B = rng.standard_normal((12, 9))
    x, y = rng.standard_normal((5, 12)), rng.standard_normal((5, 9))
    operator, radii = aslinearoperator(B), [0.0, 0.1, 1.0, 10.0]
    exact = worst_case_curve(B, x, y, radii)
    np.testing.assert_array_equal(exact.upper, exact.risk)
    curve = worst_case_curve(operator, x, y, radii, norm_bound=norm(B))
    assert (curve.risk <= exact.risk * (1 + 1e-9)).all()
    assert (curve.upper >= exact.risk * (1 - 1e-9)).all()
    multiplier = 1.5 * norm(B) ** 2
    at = dual_value(operator, x, y, multiplier, 1.0, norm_bound=norm(B))
    assert at == pytest.approx(dual_value(B, x, y, multiplier, 1.0), rel=1e-9)
    with pytest.raises(ValueError, match="norm_bound: a value of the dual function"):
        dual_value(operator, x, y, multiplier, 1.0)
    for refused in (
        lambda: LinearReconstruction(operator, x, y).spectrum(),
        lambda: ResidualSpectrum.from_matrix(operator, x, y),
        lambda: entropic_worst_case(operator, x, y, 1.0, 0.1),
    ):
        with pytest.raises(ValueError, match="known by its products only"):
            refused()
    assert worst_case_risk(operator, x, y, 1.0, "x|y").risk == pytest.approx(
        worst_case_risk(B, x, y, 1.0, "x|y").risk
    )
    with pytest.raises(ValueError, match="nothing to bidiagonalise"):
        ResidualSpectrum.from_linear_operator(operator, x, y, "x|y", steps=3)


def test_weighted_structures_of_a_linear_operator(rng):
    B = rng.standard_normal((6, 5))
    x, y = rng.standard_normal((5, 6)), rng.standard_normal((5, 5))
    for structure in (YGivenX([1, 2, 3, np.inf, 1]), YGivenX(4.0), YGivenX(np.eye(5) * 2)):
        exact = worst_case_risk(B, x, y, 1.0, structure)
        worst = worst_case_risk(aslinearoperator(B), x, y, 1.0, structure, norm_bound=norm(B))
        assert worst.lower <= exact.risk * (1 + 1e-9)
        assert worst.upper >= exact.risk * (1 - 1e-9)
        assert worst.verify().primal_risk == pytest.approx(exact.risk, rel=1e-4)
    with pytest.raises(ValueError, match="weight_x: weights that differ between axes"):
        worst_case_risk(aslinearoperator(B), x, y, 1.0, dro_core.Joint(np.arange(1, 7)))


def test_no_krylov_basis_is_stored(rng):
    """60 steps for 4 samples of 100,000 entries: a basis would take 192 MB, we take a tenth."""
    size = 100_000
    values = np.linspace(0.5, 1.0, size)
    operator = LinearOperator(
        (size, size),
        matvec=lambda v: values * v.ravel(),
        rmatvec=lambda v: values * v.ravel(),
        matmat=lambda V: values[:, None] * V,
        rmatmat=lambda V: values[:, None] * V,
        dtype=float,
    )
    x, y = rng.standard_normal((2, 4, size))
    tracemalloc.start()
    worst = worst_case_risk(operator, x, y, 1e5, norm_bound=1.0, rtol=0.0, max_steps=60)
    worst.displacement_y  # noqa: B018
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert worst._decomposition.steps == 60
    assert peak < 100e6


# --- sparse maps --------------------------------------------------------------------------------


@given(problems())
def test_sparse_maps_give_the_dense_answer(problem):
    for cls in (sparse.csr_array, sparse.coo_matrix):
        worst = worst_case_risk(
            cls(problem.B),
            problem.x,
            problem.y,
            problem.radius,
            problem.structure,
            weights=problem.weights,
        )
        assert worst.risk == pytest.approx(problem.worst_case().risk, rel=1e-9, abs=1e-20)


def test_large_sparse_maps_are_not_made_dense(rng, monkeypatch):
    """Above the limit Schur's bound is the norm bound: here it is the norm itself."""
    size = 300
    B = sparse.diags_array([1.0, -0.5, 1.0], offsets=[0, 1, 2], shape=(size, size)).tocsr()
    x, y = rng.standard_normal((2, 3, size))
    exact = worst_case_risk(B, x, y, 4.0)
    monkeypatch.setattr(dro_core.linear_map, "DENSE_ENTRIES", size * size - 1)
    worst = worst_case_risk(B, x, y, 4.0)
    assert worst.failure_probability == 0.0
    assert worst.lower <= exact.risk * (1 + 1e-9)
    assert exact.risk * (1 - 1e-9) <= worst.upper <= exact.risk * 1.01
    with pytest.raises(ValueError, match="not made dense"):
        _ = LinearReconstruction(B, x, y).matrix
    with pytest.raises(ValueError, match="norm_bound: only a LinearOperator needs one"):
        worst_case_risk(B, x, y, 4.0, norm_bound=3.0)


def test_convolutions_without_transform_bring_their_own_bound(rng, monkeypatch):
    operator = Convolution(gaussian(1.0, 3), 40, "mirror")
    x, y = rng.standard_normal((2, 4, 40))
    exact = worst_case_risk(operator, x, y, 1.0)
    monkeypatch.setattr(dro_core.linear_map, "DENSE_ENTRIES", 40 * 40 - 1)
    worst = worst_case_risk(operator, x, y, 1.0)
    assert worst.failure_probability == 0.0
    assert worst.lower <= exact.risk * (1 + 1e-9)
    assert exact.risk * (1 - 1e-9) <= worst.upper


# --- the recurrence -----------------------------------------------------------------------------


def test_bidiagonalisation_of_a_small_map_is_exact(rng):
    F = rng.standard_normal((6, 4))
    runs = GolubKahan(dro_core.linear_map.DenseMap(F), rng.standard_normal((3, 6)))
    runs.advance(8)  # more than the rank: the runs end by themselves
    nodes = np.linalg.eigvalsh(runs.tridiagonal(8, slice(None))) * runs.unit**2
    np.testing.assert_allclose(nodes[:, -1], np.linalg.norm(F, 2) ** 2)
    basis = np.stack(
        [runs.combine(np.eye(8)[None, k].repeat(3, axis=0), slice(None)) for k in range(4)], axis=1
    )
    for run in range(3):
        np.testing.assert_allclose(basis[run] @ basis[run].T, np.eye(4), atol=1e-9)
        projected = basis[run] @ F @ F.T @ basis[run].T
        tridiagonal = runs.tridiagonal(4, slice(None))[run] * runs.unit**2
        np.testing.assert_allclose(projected, tridiagonal, atol=1e-9)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (LinearOperator((2, 2), matvec=lambda v: v), "B: this LinearOperator has no adjoint"),
        (
            LinearOperator((2, 2), matvec=lambda v: v, rmatvec=lambda v: 2 * v),
            "B: rmatvec is not the adjoint of matvec",
        ),
        (
            LinearOperator((2, 2), matvec=lambda v: v * np.nan, rmatvec=lambda v: v),
            "B: matvec does not give finite real numbers",
        ),
        (aslinearoperator(np.eye(3)), r"B: shape \(3, 3\), but x has 2 columns"),
    ],
)
def test_bad_operators_are_refused(operator, message):
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match=message):
        worst_case_risk(operator, x, x, 1.0)


def test_a_norm_bound_below_the_norm_is_refused(rng):
    B = np.diag([3.0, 1.0, 0.5])
    x, y = rng.standard_normal((2, 4, 3))
    with pytest.raises(ValueError, match=r"norm_bound: 2\.9 is below a singular value"):
        worst_case_risk(aslinearoperator(B), x, y, 1.0, norm_bound=2.9)
    with pytest.raises(ValueError, match=r"norm_bound: 2\.9 is below a singular value"):
        ResidualSpectrum.from_linear_operator(aslinearoperator(B), x, y, steps=3, norm_bound=2.9)
    with pytest.raises(TypeError, match="B: a LinearOperator of dtype complex128"):
        worst_case_risk(aslinearoperator(B * 1j), x, y, 1.0)


def test_seeds_reproduce_a_run(rng):
    B = rng.standard_normal((30, 30))
    x, y = rng.standard_normal((2, 4, 30))
    first, second = (
        worst_case_risk(aslinearoperator(B), x, y, 3.0, seed=7, rtol=1e-3) for _ in range(2)
    )
    assert (first.risk, first.upper) == (second.risk, second.upper)


# --- what a reader found ------------------------------------------------------------------------


def identity_operator(**products):
    same = {name: lambda v: v for name in ("matvec", "rmatvec", "matmat", "rmatmat")}
    return LinearOperator((6, 6), **{**same, **products}, dtype=float)


def test_an_operator_that_hands_out_its_input_or_a_buffer_changes_nothing(rng):
    x, y = rng.standard_normal((2, 4, 6))
    before, exact = y.copy(), worst_case_risk(np.eye(6), x, y, 1.0)
    buffer = np.zeros((6, 50), order="F")

    def reused(V):
        buffer[:, : V.shape[1]] = V
        return buffer[:, : V.shape[1]]

    for operator in (identity_operator(), identity_operator(matmat=reused, rmatmat=reused)):
        worst = worst_case_risk(operator, x, y, 1.0, norm_bound=1.0)
        assert worst.risk == pytest.approx(exact.risk, rel=1e-9)
        assert worst.verify().holds(1e-6)
        np.testing.assert_array_equal(y, before)


@pytest.mark.parametrize(
    ("matmat", "error", "message"),
    [
        (lambda V: V.astype(np.float32), TypeError, "B: matvec gives float32; needed: float64"),
        (lambda V: V + 1j, TypeError, "B: matvec gives complex128"),
        (lambda V: V[:, :0], ValueError, r"B: matvec of 1 columns has shape \(6, 0\)"),
        (lambda V: V * (1 + 1e-8), ValueError, "B: rmatvec is not the adjoint of matvec"),
    ],
)
def test_operators_whose_products_are_not_to_be_trusted(matmat, error, message, rng):
    x, y = rng.standard_normal((2, 4, 6))
    with pytest.raises(error, match=message):
        worst_case_risk(identity_operator(matmat=matmat), x, y, 1.0, norm_bound=1.0)


@pytest.mark.parametrize("seed", range(40))
def test_laws_of_tiny_maps_in_the_hard_case(seed):
    """Runs that end at the first step leave nodes without a vector behind."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 3)), int(rng.integers(1, 5))
    B = rng.standard_normal((n, m)) * (seed % 8 != 0)
    y = rng.standard_normal((2, m)) * (seed % 3 != 0)
    x = y @ B.T
    for structure in ("y|x", "joint"):
        worst = worst_case_risk(
            aslinearoperator(B), x, y, 1.0, structure, norm_bound=1.0001 * norm(B)
        )
        exact = worst_case_risk(B, x, y, 1.0, structure)
        assert worst.verify().primal_risk == pytest.approx(exact.risk, rel=1e-9)
        assert worst.verify().transport_cost <= 1 + 1e-12


@pytest.mark.parametrize("scale", [1e-60, 1e60, 1e100])
def test_maps_of_any_scale(scale, rng):
    B, x, y = rng.standard_normal((5, 5)), *rng.standard_normal((2, 4, 5))
    exact = worst_case_risk(B, x, y, 0.5)
    worst = worst_case_risk(
        aslinearoperator(B * scale), x, y / scale, 0.5 / scale, norm_bound=norm(B) * scale
    )
    assert worst.lower == pytest.approx(exact.risk, rel=1e-9)
    assert worst.upper == pytest.approx(exact.risk, rel=1e-5)


def test_a_norm_bound_that_is_the_norm_to_rounding(rng):
    x, y = rng.standard_normal((2, 4, 1))
    for bound in (1.0, 1 - 5e-13, 1 + 1e-15):
        worst = worst_case_risk(aslinearoperator(np.eye(1)), x, y, 3.0, norm_bound=bound)
        exact = worst_case_risk(np.eye(1), x, y, 3.0).risk
        assert worst.lower <= exact * (1 + 1e-12)
        assert worst.upper >= exact * (1 - 1e-11)
    B = np.diag([1.0, 0.9, 0.1])
    x, y = rng.standard_normal((2, 4, 3))
    with pytest.raises(ValueError, match=r"norm_bound: 0\.999 is below"):
        worst_case_risk(aslinearoperator(B), x, y, 1.0, norm_bound=0.999)


def test_the_probable_bound_is_the_one_of_the_paper(rng):
    """1.648 sqrt(n) exp(-sqrt(t)(2k - 1)) = p^(1/q), solved for t here by hand."""
    factor = dro_core.linear_map.DenseMap(np.diag(np.linspace(0.1, 1, 50)))
    runs = KrylovRuns(factor, np.zeros((2, 50)), np.full(2, 0.5), 3, 0)
    runs.runs.advance(20)
    found = runs.gauss(20)[0][2:].max()
    for probability in (1e-2, 1e-6):
        share = (math.log(1.648 * math.sqrt(50) * probability ** (-1 / 3)) / 39) ** 2
        assert runs.probable_top(20, probability) == pytest.approx(found / (1 - share))
    top = np.zeros((1, 50))
    top[0, -1] = 1.0  # a residual on the top direction knows more than few random steps
    runs = KrylovRuns(factor, top, np.ones(1), 1, 3)
    runs.runs.advance(1)
    assert runs.top(1) == pytest.approx(1.0)
    assert runs.probable_top(1, 0.999999) >= runs.top(1)
    starts = KrylovRuns(factor, top, np.ones(1), 400, 3).runs.starts[1:]
    assert abs(starts.mean()) < 0.02  # no direction is preferred


def test_every_look_at_a_probable_bound_has_its_own_share_of_the_failure(rng):
    B, x, y = rng.standard_normal((40, 40)), *rng.standard_normal((2, 3, 40))
    problem = LinearReconstruction(aslinearoperator(B), x, y, failure_probability=1e-3)
    worst = problem.worst_case(1.0)
    krylov, steps = problem._own.krylov, worst._decomposition.steps
    alone = krylov.probable_top(steps, 1e-3)  # one look, at a number of steps fixed beforehand
    assert alone * 1.001 < worst.verify().threshold < krylov.probable_top(steps, 1e-6)


def test_the_matrix_free_law_of_joint_is_the_exact_one(rng):
    B, x, y = (
        rng.standard_normal((12, 9)),
        rng.standard_normal((5, 12)),
        rng.standard_normal((5, 9)),
    )
    exact = worst_case_risk(B, x, y, 0.7, "joint")
    worst = worst_case_risk(aslinearoperator(B), x, y, 0.7, "joint", norm_bound=norm(B), rtol=1e-12)
    np.testing.assert_allclose(worst.displacement_x, exact.displacement_x, atol=1e-6)
    np.testing.assert_allclose(worst.displacement_y, exact.displacement_y, atol=1e-6)
    coarse = worst_case_risk(
        aslinearoperator(B), x, y, 0.7, "joint", norm_bound=norm(B), rtol=0.5, max_steps=8
    )
    assert coarse.verify().transport_cost == pytest.approx(0.49, rel=1e-12)
    loose = worst_case_risk(aslinearoperator(B), x, y, 0.7, norm_bound=2 * norm(B))
    assert loose.verify().threshold == pytest.approx(4 * norm(B) ** 2)


def test_weights_below_one_enlarge_the_norm_bound(rng):
    B, x, y = rng.standard_normal((6, 5)), rng.standard_normal((4, 6)), rng.standard_normal((4, 5))
    for structure in (YGivenX(0.25), YGivenX(0.25 * np.eye(5)), YGivenX([0.25, 1, 1, 1, 1])):
        exact = worst_case_risk(B, x, y, 1.0, structure).risk
        worst = worst_case_risk(aslinearoperator(B), x, y, 1.0, structure, norm_bound=norm(B))
        assert worst.lower <= exact * (1 + 1e-12)
        assert worst.upper >= exact * (1 - 1e-12)
    only_x = dro_core.Joint(np.arange(1.0, 7.0), np.inf)
    assert worst_case_risk(aslinearoperator(B), x, y, 1.0, only_x).risk == pytest.approx(
        worst_case_risk(B, x, y, 1.0, only_x).risk
    )


def test_sparse_maps_bring_a_valid_norm_and_sum_duplicates(rng):
    wide = dro_core.linear_map.as_linear_map(sparse.csr_array(np.ones((1, 9))), "B")
    assert wide.norm_bound >= 3
    parts = (np.array([1.0, 1.0, 3.0]), np.array([0, 0, 1]), np.array([0, 2, 3]))
    twice = sparse.csr_array(parts, shape=(2, 2))
    A, x = rng.standard_normal((2, 2)), rng.standard_normal((4, 2))
    structure = dro_core.XShift(A, covariance=0.01)
    noisy = worst_case_risk(twice, x, x @ A.T, 1.0, structure).risk
    assert noisy == pytest.approx(worst_case_risk(twice.toarray(), x, x @ A.T, 1.0, structure).risk)
    assert len(twice.data) == 3  # the user's matrix is as it was


def test_dual_values_of_a_larger_operator(rng):
    B, x, y = rng.standard_normal((60, 60)), *rng.standard_normal((2, 3, 60))
    multiplier = 1.1 * norm(B) ** 2
    at = dual_value(aslinearoperator(B), x, y, multiplier, 1.0, norm_bound=norm(B))
    assert at == pytest.approx(dual_value(B, x, y, multiplier, 1.0), rel=1e-9)


def test_singular_values_over_twelve_decades(rng):
    left, right = (np.linalg.qr(rng.standard_normal((60, 60)))[0] for _ in range(2))
    values = np.geomspace(1, 1e-12, 60)
    squared = dro_core.linear_map.left_singular_basis((left * values) @ right.T)[1]
    np.testing.assert_allclose(np.sort(np.sqrt(squared))[::-1][:45], values[:45], rtol=1e-4)


@given(st.integers(0, 2**32 - 1), st.floats(-9, -3), st.floats(-2, 2))
def test_a_norm_bound_that_is_a_little_too_small_costs_no_more_than_that(seed, digits, size):
    """It is refused if the run sees it, and else the upper value is too low by its error."""
    rng = np.random.default_rng(seed)
    n, wrong = int(rng.integers(3, 60)), 10.0**digits
    B, x, y = rng.standard_normal((n, n)), *rng.standard_normal((2, 10, n))
    bound = float(np.linalg.norm(B, 2)) * (1 - wrong)
    try:
        worst = worst_case_risk(aslinearoperator(B), x, y, 10.0**size, norm_bound=bound)
    except ValueError:
        return
    exact = worst_case_risk(B, x, y, 10.0**size).risk
    assert worst.risk <= exact * (1 + 1e-10)
    assert worst.upper >= exact * (1 - 3 * wrong - 1e-10)
