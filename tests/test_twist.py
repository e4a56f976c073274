"""The twist condition: verdicts against spectra, stated facts, and pairs that break it."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

from dro_core import operators
from dro_core.twist import TwistReport, twist_condition
from dro_core.twist.nonlinear import _fold
from dro_core.twist.twisted import Twisted
from validation import registry
from validation.twist import bicubic, block_mean, gaussian_taps

LINE = np.linspace(-1, 1, 21)[:, None]
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 8)


def clip2(x):
    return np.clip(2 * x, -1, 1)


def minus_clip(x):
    return np.clip(-x, -1, 1)


def image(forward, report, x):
    """F(x) written out again."""
    A = forward(x[None])[0] if callable(forward) else np.asarray(forward) @ x
    Q = report.upsample
    return A + report.weight * (x if Q is None else Q.matrix().T @ x)


def check_pair(forward, report, tolerance=1e-12):
    """The witness breaks injectivity, by arithmetic of the test's own."""
    first, second = report.witness
    difference = image(forward, report, first) - image(forward, report, second)
    size = 1 + np.abs(image(forward, report, first)).max()
    assert np.linalg.norm(first - second) == report.distance > 0
    assert np.linalg.norm(difference) <= tolerance * size * max(report.distance, 1)
    assert report.verify(forward).holds()
    assert report.margin == 0


# --- linear: exact both ways ----------------------------------------------------------------------


@given(seeds, sizes, st.floats(0, 4))
def test_a_linear_map_holds_with_the_smallest_singular_value_as_margin(seed, n, weight):
    A = np.random.default_rng(seed).standard_normal((n, n))
    report = twist_condition(A, weight)
    gram = np.linalg.eigvalsh((A + weight * np.eye(n)).T @ (A + weight * np.eye(n)))
    assert report.holds is True
    assert report.margin == pytest.approx(math.sqrt(max(gram[0], 0)), rel=1e-3, abs=1e-7)
    assert report.verify(A).holds()
    assert not dataclasses.replace(report, margin=1.1 * report.margin).verify(A).holds()


@given(seeds, st.integers(2, 8), st.data())
def test_it_fails_exactly_at_minus_a_real_eigenvalue_also_of_a_non_normal_map(seed, n, data):
    """A = V diag(-k/4) V⁻¹ with one complex pair, which never fails."""
    rng = np.random.default_rng(seed)
    V = np.eye(n) + 0.3 * np.triu(rng.standard_normal((n, n)), 1)
    failing = np.sort(rng.choice(np.arange(1, 40), size=n, replace=False)) / 4
    D = np.diag(-failing)
    D[:2, :2] = [[-failing[0], 1.0], [-1.0, -failing[0]]]  # eigenvalues -f ± i
    A = V @ D @ np.linalg.inv(V)
    k = data.draw(st.integers(2, n)) - 1
    at = failing[k] if k >= 2 else failing[0]
    report = twist_condition(A, at)
    if k >= 2:
        assert report.holds is not True or report.margin < 1e-12
        if report.holds is False:
            check_pair(A, report)
        assert np.abs(report.failing_weights - at).min() < 1e-8
    else:
        assert report.holds is True
    assert twist_condition(A, at + 1e-3).holds is True


@given(seeds, st.integers(1, 8))
def test_symmetric_maps_fail_with_a_witness_at_each_eigenvalue(seed, n):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = -np.arange(1.0, n + 1)
    S = (Q * values) @ Q.T
    S = (S + S.T) / 2
    for value in values:
        report = twist_condition(S, -value)
        assert report.holds is not True
        if report.holds is False:
            check_pair(S, report)
    assert report.sufficient_weight == pytest.approx(n, rel=1e-12)
    assert report.sufficient_weight >= n * (1 - 1e-15)
    assert report.monotone_weight == pytest.approx(n, rel=1e-12)


@given(seeds, sizes)
def test_every_weight_above_the_sufficient_one_holds(seed, n):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n)) * 10.0 ** rng.integers(-3, 4)
    report = twist_condition(A, 0.0)
    least = report.sufficient_weight
    assert 0 <= least <= np.linalg.norm(A, 2) * (1 + 1e-12)
    assert least <= report.monotone_weight * (1 + 1e-9) + 1e-12 * np.linalg.norm(A)
    real = [v.real for v in np.linalg.eigvals(A) if abs(v.imag) < 1e-9 * np.linalg.norm(A)]
    assert least >= -min(real, default=0) * (1 - 1e-9)
    scale = np.linalg.norm(A)
    for step in (1e-4, 1e-2, 0.3, 3.0):
        assert twist_condition(A, least + step * scale).holds is True
    slope = np.linalg.eigvalsh((A + A.T) / 2)[0]
    assert report.monotone_weight == pytest.approx(max(-slope, 0), abs=1e-12 * scale)


def test_the_march_stops_above_an_eigenvalue_of_a_non_normal_map():
    A = np.array([[-1.0, 8.0], [0.0, -0.5]])  # fails at 1 and 1/2; monotone from 4.76 on
    report = twist_condition(A, 0.75)
    assert report.holds is True
    np.testing.assert_allclose(report.failing_weights, [0.5, 1.0])
    assert report.monotone_weight == pytest.approx(0.75 + math.hypot(0.25, 4))
    assert 1.0 <= report.sufficient_weight < 1.01


def test_rounding_leaves_no_verdict_or_says_so():
    tiny = twist_condition(np.diag([1.0, 1e-17]), 0.0)
    assert tiny.holds is False
    assert "to rounding" in tiny.certificate
    assert 0 < tiny.residual < 1e-16
    near = twist_condition(operators.Diagonal(0, 64).matrix() * np.r_[np.ones(63), 1e-14], 0.0)
    assert near.holds is None
    assert "near the boundary" in near.certificate
    exact = twist_condition([[1.0, 1.0], [0.0, 0.0]], 0.0)
    assert exact.holds is False
    zero = twist_condition(np.zeros((2, 2)), 0.0)
    assert zero.holds is False
    assert "exact" in zero.certificate
    assert zero.sufficient_weight == 0


@given(
    seeds,
    st.sampled_from(["circular", "reflect", "zero", "mirror"]),
    st.booleans(),
    st.sampled_from([0.0, 1e-3, 0.1, 1.0]),
)
def test_convolutions_agree_with_their_matrices(seed, padding, even, weight):
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, 5))
    if even:
        kernel = kernel + kernel[::-1]
        kernel = kernel + kernel[:, ::-1]
    A = operators.Convolution(kernel, (5, 6), padding)
    fast, dense = twist_condition(A, weight), twist_condition(A.matrix(), weight)
    assert fast.holds == dense.holds
    assert fast.margin == pytest.approx(dense.margin, rel=1e-9, abs=1e-12)
    assert fast.monotone_weight == pytest.approx(dense.monotone_weight, rel=1e-9, abs=1e-12)
    if fast.failing_weights.size or dense.failing_weights.size:
        np.testing.assert_allclose(
            fast.failing_weights.max(initial=0), dense.failing_weights.max(initial=0), atol=1e-7
        )
    assert fast.sufficient_weight <= dense.sufficient_weight + 1e-9
    assert fast.sufficient_weight >= dense.failing_weights.max(initial=0) - 1e-7


def test_large_convolutions_without_dense_matrices(monkeypatch):
    """With the dense limit lowered: parity blocks, the cosine transform and a bound remain."""
    taps = gaussian_taps(11, 1.3)
    kernel = np.outer(taps, taps[3:-3])
    full = {p: operators.Convolution(kernel, (12, 11), p) for p in ("mirror", "zero")}
    dense = {p: twist_condition(A.matrix(), 0.3) for p, A in full.items()}
    monkeypatch.setattr("dro_core.linear_map.DENSE_ENTRIES", 40**2)
    monkeypatch.setattr("dro_core.twist.linear.DENSE_ENTRIES", 40**2)
    for padding, A in full.items():
        report = twist_condition(A, 0.3)
        assert "even and odd" in report.certificate
        assert report.margin == pytest.approx(dense[padding].margin, rel=1e-12)
        assert report.monotone_weight == pytest.approx(dense[padding].monotone_weight, abs=1e-14)
    monkeypatch.setattr("dro_core.twist.linear.DENSE_ENTRIES", 1)
    mirror, zero = (twist_condition(full[p], 0.3) for p in ("mirror", "zero"))
    assert mirror.holds is zero.holds is True
    assert dense["mirror"].margin / 2.01 <= mirror.margin <= dense["mirror"].margin
    assert "at least" in mirror.certificate
    assert "bounded" in zero.certificate
    assert zero.margin <= dense["zero"].margin
    assert zero.monotone_weight >= dense["zero"].monotone_weight
    at = mirror.failing_weights[-1]
    failed = twist_condition(full["mirror"], at)
    assert failed.holds is not True
    if failed.holds is False:
        assert failed.verify(full["mirror"]).holds()


def test_the_two_numbers_of_the_gaussian_blur():
    """61 taps, sigma 3: symmetric with circular padding, not with reflection."""
    circular, mirror = (
        twist_condition(operators.Convolution(gaussian_taps(), 96, p), 5e-3)
        for p in ("circular", "mirror")
    )
    assert circular.sufficient_weight == pytest.approx(circular.monotone_weight, abs=1e-9)
    assert 1e-6 < circular.sufficient_weight < 3e-5
    assert 1e-6 < mirror.sufficient_weight < 3e-5
    assert 5e-3 < mirror.monotone_weight < 3e-2
    assert circular.holds is mirror.holds is True


def test_a_symbol_that_is_none_is_not_believed():
    from dro_core.bases import FourierBasis

    basis = FourierBasis((6,))
    broken = operators.SpectralOperator(basis, np.array([1j, 1, 1, 1]), basis)  # the mean: no 1j
    report = twist_condition(broken, 0.0)
    assert report.holds is False
    check_pair(broken.matrix(), report)


def test_linear_operators_are_not_certified_by_iterations(rng):
    A = rng.standard_normal((30, 30))
    bare = twist_condition(aslinearoperator(A), 0.5)
    assert bare.holds is None
    assert "numerical estimate" in bare.certificate
    assert bare.margin >= twist_condition(A, 0.5).margin * (1 - 1e-9)
    assert not bare.verify(aslinearoperator(A)).holds()
    norm = float(np.linalg.norm(A, 2))
    bounded = twist_condition(aslinearoperator(A), norm + 1, lipschitz=norm)
    assert bounded.holds is True
    assert bounded.sufficient_weight == norm
    assert bounded.margin == pytest.approx(1)
    assert bounded.verify(aslinearoperator(A)).holds()
    wrong = twist_condition(aslinearoperator(A), norm, lipschitz=norm / 2, monotone=True)
    assert wrong.holds is None
    assert "constant" in wrong.certificate
    assert "monotonicity is refuted" in wrong.certificate
    assert twist_condition(aslinearoperator(A @ A.T), 0.1, monotone=True).holds is True
    kernel = A.copy()
    kernel[:, 0] = kernel[:, 1:] @ np.ones(29)
    lost = twist_condition(aslinearoperator(kernel), 0.0)
    assert lost.holds is False
    check_pair(kernel, lost)


# --- super-resolution -----------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("wrap", [np.asarray, sparse.csr_array, aslinearoperator])
def test_super_resolution_fails_for_every_weight(weight, wrap):
    A, Q = block_mean(16).toarray(), bicubic(16).toarray()
    np.testing.assert_allclose(Q.sum(axis=1), 1.0)
    report = twist_condition(wrap(A), weight, upsample=wrap(Q))
    assert report.holds is False
    assert report.sufficient_weight == math.inf
    assert "dimension" in report.certificate
    first, second = report.witness
    lost = A @ (first - second) + weight * (Q.T @ (first - second))
    assert np.linalg.norm(lost) <= 1e-14 * (1 + weight) * report.distance * np.linalg.norm(Q, 2)
    assert report.verify(wrap(A)).holds()
    status = {name: state for name, state, _ in report.checklist}
    assert status["μ gives no mass to sets of dimension n - 1"] == "violated"
    assert status["twist condition"] == "violated"


def test_nonlinear_super_resolution_and_more_measurements_than_unknowns(rng):
    A, Q = block_mean(8).toarray(), bicubic(8).toarray()
    forward, points = lambda x: np.tanh(x @ A.T), rng.uniform(-1, 1, (4, 64))
    report = twist_condition(forward, 1.0, upsample=Q, points=points)
    assert report.holds is False
    check_pair(forward, report)
    tall = twist_condition(Q, 1.0, upsample=A)
    assert tall.holds is True
    assert tall.margin == pytest.approx(np.linalg.svd(Q + A.T)[1][-1])
    assert tall.sufficient_weight == pytest.approx(np.linalg.norm(Q, 2) / np.linalg.svd(A)[1][-1])
    assert twist_condition(A, 0.0).holds is False


# --- nonlinear maps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "points"),
    [
        (np.tanh, [50.0, -50.0, 49.0]),
        (np.tanh, [1e6, -1e6, 3.0]),
        (np.arctan, [1e17, 2e17, -3e17]),
        (lambda x: np.exp(-x), [800.0, 900.0, 1000.0]),
        (lambda x: 1 / (1 + np.exp(-x)), [40.0, 60.0]),
        (lambda x: x + 1e17, [1.0, 2.0, 3.0]),
    ],
)
def test_equal_in_rounding_is_no_violation(forward, points):
    """Strictly increasing maps whose floats coincide: no verdict, not a counterexample."""
    report = twist_condition(forward, 0.0, points=np.array(points)[:, None])
    assert report.holds is None
    assert report.witness is None


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: np.clip(x, -1, 1),
        lambda x: np.maximum(x, 0),
        lambda x: 0 * x,
        np.floor,
        lambda x: np.maximum(x, 0) + np.minimum(x + 2, 0),
    ],
)
def test_plateaus_with_an_end_are_violations(forward):
    points = np.array([[-1.0], [0.5], [2.0]])
    report = twist_condition(forward, 0.0, points=points)
    assert report.holds is False
    check_pair(forward, report)


def test_clip_is_monotone_so_every_positive_weight_holds():
    for weight in (1e-3, 1.0, 5.0):
        report = twist_condition(clip2, weight, monotone=True, points=LINE)
        assert report.holds is True
        assert report.margin == weight
        assert report.sufficient_weight == 0
        assert report.verify(clip2).holds()
    at_zero = twist_condition(clip2, 0.0, monotone=True, points=LINE)
    assert at_zero.holds is False
    check_pair(clip2, at_zero)
    assert twist_condition(clip2, 1.0, lipschitz=2.0, points=LINE).holds is None  # Claim 1: no
    claim = twist_condition(clip2, 2.5, lipschitz=2.0, points=LINE)
    assert claim.holds is True
    assert claim.margin == 0.5
    assert claim.sufficient_weight == 2


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.3, 0.99, 1.01, 2.0])
@pytest.mark.parametrize("n", [1, 3, 20])
def test_a_clipped_reflection_fails_below_its_slope(weight, n):
    points = np.random.default_rng(n).uniform(-1, 1, (12, n))
    report = twist_condition(minus_clip, weight, points=points, lipschitz=1.0)
    assert report.holds is (weight > 1)
    if weight < 1:
        check_pair(minus_clip, report)
    assert report.verify(minus_clip).holds()


@settings(max_examples=40)
@given(seeds, st.integers(1, 5), st.floats(0, 0.5), st.sampled_from([0.0, 1.0, 1e3]))
def test_a_singular_jacobian_is_no_violation(seed, n, weight, offset):
    """x³ in rotated coordinates: injective, its Jacobian is zero at zero."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, n)))[0]
    points = np.concatenate([np.zeros((1, n)), rng.uniform(-1, 1, (5, n))])

    def cube(x):
        return (x @ U) ** 3 @ U.T + offset

    assert twist_condition(cube, weight, points=points).holds is None
    stated = twist_condition(cube, weight, points=points, monotone=True)
    assert stated.holds is (True if weight > 0 else None)


@given(seeds, st.integers(1, 4), st.floats(0.1, 3), st.floats(0.01, 3))
def test_claim_1(seed, n, lipschitz, excess):
    """λ > L: certified, and no pair of points comes closer than the margin says."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))

    def forward(x):
        return lipschitz * np.sin(x @ U) @ V

    weight = lipschitz + excess
    points = rng.uniform(-3, 3, (6, n))
    report = twist_condition(forward, weight, lipschitz=lipschitz, points=points)
    assert report.holds is True
    assert report.margin == pytest.approx(excess)
    first, second = rng.uniform(-3, 3, (2, 200, n))
    F = [forward(x) + weight * x for x in (first, second)]
    stretch = np.linalg.norm(F[0] - F[1], axis=1) / np.linalg.norm(first - second, axis=1)
    assert stretch.min() >= report.margin * (1 - 1e-9)


def test_wrong_statements_are_overturned_by_sampled_pairs():
    report = twist_condition(minus_clip, 0.5, monotone=True, lipschitz=0.3, points=LINE)
    assert report.holds is False
    assert "constant 0.3 is refuted" in report.certificate
    assert "monotonicity is refuted" in report.certificate
    assert report.monotone_weight is None
    check_pair(minus_clip, report)


def test_folds_are_found_from_determinants_of_opposite_signs(rng):
    def fold(x):
        return np.stack([x[:, 0] ** 2 + 0.1 * x[:, 1], x[:, 1] + 0.2 * x[:, 0]], axis=1)

    points = rng.uniform(-1, 1, (10, 2))
    F = Twisted(fold, 0.1, None, points)
    first, second = _fold(F, points)
    assert F.residual(first, second) <= 1e-12
    assert np.linalg.norm(first - second) >= 0.05
    check_pair(fold, twist_condition(fold, 0.1, points=points))
    cube = Twisted(lambda x: x**3, 0.0, None, points)
    assert _fold(cube, points) is None


def test_a_map_without_a_fold_can_fail_too(rng):
    """exp of complex numbers: its determinant is positive everywhere, but it is periodic."""

    def exponential(x):
        z = np.exp(x[:, 0] + 6j * x[:, 1])
        return np.stack([z.real, z.imag], axis=1)

    points = rng.uniform(-1, 1, (10, 2))
    F = Twisted(exponential, 0.0, None, points)
    assert _fold(F, points) is None
    report = twist_condition(exponential, 0.0, points=points)
    check_pair(exponential, report)
    assert report.distance >= math.pi / 3 - 1e-9  # the period


def test_functions_may_be_undefined_or_overflow_away_from_the_points():
    for function in (lambda x: np.log(x + 3), lambda x: np.exp(40 * x), lambda x: 1 / (x - 2)):
        assert twist_condition(function, 0.0, points=LINE).holds is not True
        stated = twist_condition(function, 0.5, points=LINE, lipschitz=0.1, monotone=True)
        assert stated.verify(function).holds() == (stated.holds is not None)
    with pytest.raises(ValueError, match="forward: not finite at points"):
        twist_condition(lambda x: np.log(x), 0.0, points=LINE)


@pytest.mark.parametrize("size", [1e-120, 1e-60, 1.0, 1e60, 1e139])
def test_units_do_not_matter(size, rng):
    A = rng.standard_normal((4, 4)) / 4
    A[:, 0] = A[:, 1]
    for weight, holds in ((0.0, False), (0.5, True)):
        report = twist_condition(size * A, size * weight)
        assert report.holds is holds
        assert report.verify(size * A).holds()
        expected = np.linalg.svd(A + weight * np.eye(4))[1][-1] if holds else 0.0
        assert report.margin / size == pytest.approx(expected, rel=1e-9)
    wide = twist_condition(size * aslinearoperator(A), size * 9.0, lipschitz=4.0 * size)
    assert wide.holds is True
    assert wide.verify(size * aslinearoperator(A)).holds()


def test_images_that_agree_to_rounding_because_the_map_is_flat_are_no_violation():
    """x³ + 1000 near zero: the images differ by less than rounding, but never come back."""
    F = Twisted(lambda x: x**3 + 1e3, 0.0, None, LINE * 1e-3)
    first, second = np.array([-1e-4]), np.array([1e-4])
    assert 0 < F.residual(first, second) <= F.rounding(first, second)
    assert not F.violated_by(first, second)
    assert not F.violated_by(first, np.array([1e12]))


# --- reports --------------------------------------------------------------------------------------


def test_a_wrong_report_does_not_verify():
    A = np.array([[0.0, 1.0], [1.0, 0.0]])
    good = twist_condition(A, 1.0)
    assert good.holds is False
    assert good.verify(A).holds()
    first, second = good.witness
    for pair in (
        (first, first),
        (first + 1e-9 * np.eye(2)[0], second),
        (1e-17 * np.eye(2)[0], 0 * second),
        (np.array([1.0, 0.0]), second),
    ):
        assert not dataclasses.replace(good, witness=pair).verify(A).holds()
    assert not good.verify(2 * A).holds()
    claimed = dataclasses.replace(good, holds=True, witness=None, margin=0.1)
    assert not claimed.verify(A).holds()
    nonlinear = twist_condition(minus_clip, 0.5, points=LINE)
    x = nonlinear.witness[0]
    for other in (x, x * (1 + 1e-16), x + 1e-15, x + 0.5):
        assert not dataclasses.replace(nonlinear, witness=(x, other)).verify(minus_clip).holds()
    lie = dataclasses.replace(nonlinear, holds=True, witness=None, margin=0.5)
    assert not lie.verify(minus_clip).holds()


def test_checklist_names_every_hypothesis():
    report = twist_condition(np.eye(2), 1.0)
    assert isinstance(report, TwistReport)
    assert [state for _, state, _ in report.checklist] == [
        "checked",
        "checked",
        "checked",
        "assumed",
        "assumed",
    ]
    function = twist_condition(minus_clip, 1.5, points=LINE)
    assert [state for _, state, _ in function.checklist] == [
        "assumed",
        "checked",
        "assumed",
        "assumed",
        "assumed",
    ]
    assert all(reason for _, _, reason in report.checklist + function.checklist)


@pytest.mark.slow
def test_experiment(tmp_path, capsys):
    experiment = registry.load("twist")
    checks = experiment.run(registry.configure(experiment.config, ["size=64"]), tmp_path)
    assert all(check.holds for check in checks)
    assert {path.name for path in tmp_path.iterdir()} == {
        "twist.csv",
        "twist.json",
        "twist.png",
        "twist.svg",
    }
    assert "super" not in capsys.readouterr().err
