"""The audit: exact intervals, where the budget goes, what users bring, and the page."""

import json
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import dro_core
from dro_core import XShift, audit, worst_case_risk
from dro_core.auditing import audit as audit_function
from dro_core.auditing.layout import as_rows
from dro_core.auditing.pictures import Series, chart, data_uri, png, ticks
from dro_core.auditing.radius import audit_radius, resampled_values
from dro_core.auditing.report import LARGEST_PICTURE, page, whole_folder
from dro_core.auditing.shares import principal_directions, sample_shares, spectral_shares
from dro_core.reference import worst_case_risk_sdp


def problem(rng, n=4, m=3, samples=12):
    return (
        rng.standard_normal((n, m)),
        rng.standard_normal((samples, n)),
        rng.standard_normal((samples, m)),
    )


def dual_minimum(B, x, y, radius):
    """The worst case over y|x by a plain minimisation of the dual, with a dense solve per value."""
    residual = x - y @ B.T
    gram, top = B @ B.T, np.linalg.norm(B, 2) ** 2

    def value(log_margin):
        lam = top * (1 + np.exp(log_margin))
        solved = np.linalg.solve(np.eye(len(B)) - gram / lam, residual.T)
        return lam * radius**2 + np.einsum("ij,ji->", residual, solved) / len(x)

    return minimize_scalar(value, bounds=(-18, 18), method="bounded", options={"xatol": 1e-10}).fun


# --- the numbers


@pytest.mark.parametrize("structure", ["y|x", "joint", "x|y", "x"])
def test_intervals_against_a_semidefinite_programme(rng, structure):
    B, x, _ = problem(rng)
    A = rng.standard_normal((3, 4))
    y = x @ A.T
    found = audit(B, x, y, radius=0.4, structures=structure, forward=A).structures[structure]
    value = worst_case_risk_sdp(B, x, y, 0.4, structure, forward=A).risk
    assert found.exact
    assert found.holds
    assert found.lower == pytest.approx(value, rel=1e-5)
    assert found.upper == pytest.approx(value, rel=1e-5)
    assert found.lower <= found.upper * (1 + 1e-12)


def test_curves_are_those_of_the_question_asked_anew(rng):
    B, x, y = problem(rng)
    found = audit(B, x, y, radius=0.5)
    for name, answer in found.structures.items():
        at = answer.radii[10]
        assert answer.curve_upper[10] == pytest.approx(worst_case_risk(B, x, y, at, name).risk)
        assert answer.radii[16] == pytest.approx(0.5)
        assert (np.diff(answer.curve_lower) > 0).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.3, 2.0]), st.booleans())
def test_the_spectral_shares_are_those_of_the_law(seed, radius, hard):
    """Budget and risk by singular value, against the law projected on numpy's singular vectors."""
    rng = np.random.default_rng(seed)
    B, x, y = problem(rng)
    if hard:  # the exact inverse: no residual at all
        B = rng.standard_normal((3, 3)) + 3 * np.eye(3)
        x = y @ B.T
    answer = audit(B, x, y, radius=radius, structures="y|x", best=False).leading
    left, sigma, right = np.linalg.svd(B, full_matrices=True)
    by_direction = ((answer.displacement_y @ right.T) ** 2).mean(axis=0) / radius**2
    moved = x - (y + answer.displacement_y) @ B.T
    risk = ((moved @ left) ** 2).mean(axis=0)
    shares = answer.spectral
    k = len(sigma)
    assert shares.singular_value[:k] == pytest.approx(sigma)
    assert shares.budget[:k] == pytest.approx(by_direction[:k], abs=1e-8)
    assert shares.budget.sum() == pytest.approx(1.0)
    assert shares.risk[:k] == pytest.approx(risk[:k], rel=1e-6, abs=1e-9)
    assert shares.risk.sum() == pytest.approx(answer.lower, rel=1e-6)


def test_spectral_shares_without_a_budget_or_a_map(rng):
    B, x, y = problem(rng)
    spectrum = dro_core.LinearReconstruction(B, x, y).spectrum()
    for shares in (
        spectral_shares(spectrum, 0.0),
        spectral_shares(dro_core.LinearReconstruction(0 * B, x, y).spectrum(), 1.0),
    ):
        assert not shares.budget.any()
        assert np.array_equal(shares.risk, shares.nominal)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_principal_directions_against_the_second_moment(seed, samples, size):
    rng = np.random.default_rng(seed)
    move, weights = rng.standard_normal((samples, size)), rng.dirichlet(np.ones(samples))
    directions, shares = principal_directions(move, weights)
    moment = (move * weights[:, None]).T @ move
    values = np.sort(np.linalg.eigvalsh(moment))[::-1][: len(shares)]
    assert shares == pytest.approx(np.maximum(values, 0) / np.trace(moment), abs=1e-9)
    used = shares > 1e-8
    explained = np.einsum("ki,ij,kj->k", directions[used], moment, directions[used])
    assert explained == pytest.approx(values[used], rel=1e-6)
    assert np.linalg.norm(directions[used], axis=1) == pytest.approx(1.0)


def test_nothing_that_moves_has_no_shares():
    assert principal_directions(np.zeros((3, 2)), np.full(3, 1 / 3))[1].size == 0
    assert not sample_shares(np.zeros(3), np.full(3, 1 / 3)).any()


def test_samples_that_cost_most_are_named(rng):
    B, x, y = problem(rng)
    weights = rng.dirichlet(np.ones(len(x)))
    found = audit(B, x, y, radius=0.5, weights=weights, structures="joint")
    answer = found.leading
    cost = (answer.displacement_x**2).sum(axis=1) + (answer.displacement_y**2).sum(axis=1)
    assert answer.sample_shares == pytest.approx(weights * cost / 0.25)
    worst = found.worst_samples()[0]
    assert worst == int(np.argmax(weights * cost))
    pair = found.worst_pair(worst)
    assert pair["worst_y"] == pytest.approx(y[worst] + answer.displacement_y[worst])
    assert pair["worst_reconstruction"] == pytest.approx(B @ pair["worst_y"])


def test_where_the_audited_map_overtakes(rng):
    """Both sides of every crossing, by a dual that is minimised without the library."""
    y = rng.standard_normal((40, 3))
    x = y @ rng.standard_normal((4, 3)).T + 0.3 * rng.standard_normal((40, 4))
    least_squares = np.linalg.lstsq(y, x, rcond=None)[0].T
    seen = set()
    for B in (least_squares, 0.2 * least_squares, least_squares + 0.5):
        found = audit(B, x, y, radius=0.5, structures="y|x")
        best = found.best
        assert best.risk <= found.leading.upper * (1 + 1e-6)
        assert best.lower <= best.risk

        def better(rho, B=B, best=best):
            return dual_minimum(B, x, y, rho) < dual_minimum(best.matrix, x, y, rho)

        if best.overtaken_below is not None:
            seen.add("below")
            assert better(0.9 * best.overtaken_below)
            assert not better(min(1.1 * best.overtaken_below, 0.5))
        if best.overtaken_above is not None:
            seen.add("above")
            assert better(1.1 * best.overtaken_above)
            assert not better(max(0.9 * best.overtaken_above, 0.5))
        else:  # the smaller norm wins for large radii
            assert np.linalg.norm(B, 2) > np.linalg.norm(best.matrix, 2)
    assert seen == {"below", "above"}


def test_an_empty_ball_is_an_answer_with_the_smallest_radius(rng):
    A = rng.standard_normal((3, 4))
    B, x, y = problem(rng)  # far off the graph of A
    found = audit(B, x, y, radius=0.1, structures=["y|x", XShift(A)])
    assert found.structures["x"].lower is None
    assert "smallest feasible radius" in found.structures["x"].reason
    assert found.holds
    assert "smallest feasible" in found.summary()
    json.dumps(found.to_dict(), allow_nan=False)
    y = x @ A.T + 0.05
    far = audit(B, x, y, radius=1.0, structures=XShift(A)).leading
    assert far.lower is not None
    assert far.radii[0] > 0


def test_laws_on_a_graph_that_the_data_miss_may_be_better_than_the_data(rng):
    B, _, y = problem(rng)
    x = y @ B.T + 0.1 * rng.standard_normal((len(y), len(B)))
    found = audit(B, x, y, radius=9.0, structures="y", posterior=B)
    assert found.leading.upper < 1e-20 * found.nominal  # x = By in every law
    assert "tied by a map that the data miss" in found.sentence()
    assert "grows" not in found.sentence()


def test_zero_radius(rng):
    B, x, y = problem(rng)
    found = audit(B, x, y, radius=0.0)
    assert found.leading.lower == pytest.approx(found.nominal)
    assert "risk" not in found.summary().splitlines()[0]
    page(found)


# --- what maps may be


class ODL:
    """Behaves as an operator of ODL between weighted spaces: adjoint for their inner products."""

    class Space:
        def __init__(self, size, const):
            self.shape, self.weighting = (size,), type("W", (), {"const": const})()

    is_linear = True

    def __init__(self, matrix, weights=(0.5, 0.25)):
        self.matrix, self.weights = matrix, weights
        self.range = self.Space(matrix.shape[0], weights[0])
        self.domain = self.Space(matrix.shape[1], weights[1])

    def __call__(self, v):
        return self.matrix @ v

    @property
    def adjoint(self):
        ratio = self.weights[0] / self.weights[1]
        return ODL(ratio * self.matrix.T, self.weights[::-1])


class EuclideanODL(ODL):
    """As MatrixOperator of ODL 1.0: the transpose, whatever the weights."""

    @property
    def adjoint(self):
        return ODL(self.matrix.T, self.weights[::-1])


class SigPy:
    """Behaves as a linop of SigPy: ishape, oshape, H."""

    def __init__(self, matrix):
        self.matrix, self.oshape, self.ishape = matrix, matrix.shape[:1], matrix.shape[1:]

    def __call__(self, v):
        return self.matrix @ v

    @property
    def H(self):
        return SigPy(self.matrix.T)


class PyLops:
    """Behaves as an operator of PyLops: shape, dtype, matvec, rmatvec, matmat, rmatmat."""

    def __init__(self, matrix, adjoint=None):
        self.matrix, self.back = matrix, matrix.T if adjoint is None else adjoint
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def matvec(self, v):
        return self.matrix @ v

    def rmatvec(self, v):
        return self.back @ v

    matmat, rmatmat = matvec, rmatvec


class DeepinvPhysics:
    """Behaves as a linear physics of deepinv: what maps back is A_dagger."""

    def __init__(self, matrix):
        self.matrix = matrix

    def A_dagger(self, batch):
        return batch @ self.matrix.T

    def A_adjoint(self, batch):
        return batch @ self.matrix.T


KINDS = {
    "matrix": lambda B: B,
    "Fortran order": np.asfortranarray,
    "transposed view": lambda B: np.ascontiguousarray(B.T).T,
    "nested list": lambda B: B.tolist(),
    "sparse": sparse.csr_array,
    "scipy": aslinearoperator,
    "PyLops": PyLops,
    "ODL": ODL,
    "ODL, Euclidean adjoint": EuclideanODL,
    "SigPy": SigPy,
    "deepinv": DeepinvPhysics,
    "function": lambda B: lambda batch: batch @ B.T,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_map_gives_one_answer(rng, kind):
    B, x, y = problem(rng)
    expected = audit(B, x, y, radius=0.5)
    found = audit(KINDS[kind](B), x, y, radius=0.5)
    for name, answer in found.structures.items():
        assert answer.holds
        assert answer.lower == pytest.approx(expected.structures[name].lower, rel=1e-5)
        assert answer.upper == pytest.approx(expected.structures[name].upper, rel=1e-5)
    assert found.nominal == pytest.approx(expected.nominal)


def _pylops(B):
    return pytest.importorskip("pylops").MatrixMult(B)


def _odl(B):
    odl = pytest.importorskip("odl")
    return odl.MatrixOperator(B)


def _sigpy(B):
    linop = pytest.importorskip("sigpy").linop
    return (
        linop.Reshape((len(B),), (len(B), 1))
        * linop.MatMul((B.shape[1], 1), B)
        * linop.Reshape((B.shape[1], 1), (B.shape[1],))
    )


def _deepinv(B):
    deepinv = pytest.importorskip("deepinv", exc_type=ImportError)  # it needs torchvision
    torch = pytest.importorskip("torch")
    A = torch.from_numpy(np.linalg.pinv(B))
    return deepinv.physics.LinearPhysics(
        A=lambda x, **_: x @ A.to(x).T, A_adjoint=lambda y, **_: y @ A.to(y)
    )


@pytest.mark.parametrize("make", [_pylops, _odl, _sigpy, _deepinv])
def test_operators_of_the_libraries_themselves_where_they_are_installed(rng, make):
    B, x, y = problem(rng)
    expected = audit(B, x, y, radius=0.5).structures
    for name, answer in audit(make(B), x, y, radius=0.5).structures.items():
        assert answer.upper == pytest.approx(expected[name].upper, rel=1e-4)


class Iterated(DeepinvPhysics):
    """An inverse that stops at a tolerance, of an object that is itself the forward operator."""

    def A_dagger(self, batch):
        """Linear to some 1e-5."""
        return batch @ self.matrix.T + 1e-5 * np.abs(batch) @ self.matrix.T

    def __call__(self, batch):
        """Not what is audited."""
        raise AssertionError


def test_an_inverse_by_iteration_is_linear_to_its_tolerance(rng):
    B, x, y = problem(rng)
    expected = audit(B, x, y, radius=0.5).leading.upper
    found = audit(Iterated(B), x, y, radius=0.5)
    assert found.linear
    assert found.leading.upper == pytest.approx(expected, rel=1e-3)
    assert any("agree to" in note for note in found.notes)
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match="not linear"):
        audit(Iterated(B), x, y, radius=0.5, linear=False)
    plain = Iterated(B).A_dagger
    with pytest.raises(TypeError, match="not linear"):
        audit(plain, x, y, radius=0.5)  # nobody vouches for it
    assert audit(plain, x, y, radius=0.5, linear=True).leading.upper == found.leading.upper


@pytest.mark.parametrize("wrap", [PyLops, lambda A, back: ODL(A), lambda A, back: SigPy(A)])
def test_a_wrong_adjoint_is_found(rng, wrap, monkeypatch):
    B, x, y = problem(rng)
    monkeypatch.setattr(SigPy, "H", property(lambda self: PlainSigPy(3 * self.matrix.T)))
    monkeypatch.setattr(ODL, "adjoint", property(lambda self: lambda q: 3 * self.matrix.T @ q))
    with pytest.raises(ValueError, match="not the adjoint"):
        audit(wrap(B, 3 * B.T), x, y, radius=0.5)


class PlainSigPy:
    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, v):
        return self.matrix @ v


def test_an_affine_function_is_a_linear_one_of_shifted_signals(rng):
    B, x, y = problem(rng)
    b = rng.standard_normal(4)
    found = audit(lambda batch: batch @ B.T + b, x, y, radius=0.5)
    expected = audit(B, x - b, y, radius=0.5)
    assert "affine" in found.map
    assert found.leading.upper == pytest.approx(expected.leading.upper)
    pair = found.worst_pair(2)
    assert pair["reconstruction"] == pytest.approx(B @ y[2] + b)
    with pytest.raises(ValueError, match="this one is affine"):
        audit(lambda batch: batch @ B.T + b, x, y, radius=0.5, structures=XShift(B.T))


def test_a_function_in_single_precision_is_linear_to_its_rounding(rng):
    B, x, y = problem(rng)
    single = B.astype(np.float32)
    found = audit(lambda batch: batch.astype(np.float32) @ single.T, x, y, radius=0.5)
    assert found.linear
    assert found.leading.upper == pytest.approx(audit(B, x, y, radius=0.5).leading.upper, rel=1e-4)
    assert any("agree to" in note for note in found.notes)


@pytest.mark.parametrize(
    "bend", [np.abs, lambda v: np.maximum(v, -2.0), lambda v: v + 1e-3 * v**2, np.tanh, np.sign]
)
def test_what_bends_is_not_linear(rng, bend):
    B, x, y = problem(rng)
    with pytest.raises(ValueError, match="not linear, although linear=True"):
        audit(lambda batch: bend(batch @ B.T), x, y, radius=0.5, linear=True)


# --- what samples may be


def test_images_come_back_as_images(rng):
    x, y = rng.random((5, 1, 4, 3)), rng.random((5, 2, 3, 2)).astype(np.float32)
    B = rng.standard_normal((12, 12))
    found = audit(B, x, y[:, ::-1], radius=0.2)
    assert (found.x.shape, found.y.shape) == (x.shape, y.shape)
    pair = found.worst_pair(1)
    assert pair["worst_y"].shape == (2, 3, 2)
    assert pair["reconstruction"].ravel() == pytest.approx(B @ y[1, ::-1].ravel())


@pytest.mark.parametrize("wrap", [lambda B: B, aslinearoperator, lambda B: lambda v: v @ B.T])
@pytest.mark.parametrize("real_x", [True, False])
def test_complex_maps_are_real_ones_of_twice_the_size(rng, wrap, real_x):
    B = rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2))
    y = rng.standard_normal((8, 2)) + 1j * rng.standard_normal((8, 2))
    x = rng.standard_normal((8, 3)) + 1j * rng.standard_normal((8, 3))
    x = x.real if real_x else x
    map_of = wrap(B)
    if real_x and callable(map_of) and not hasattr(map_of, "matvec"):
        map_of = lambda v: (v @ B.T).real  # noqa: E731
    found = audit(map_of, x, y, radius=0.3, structures="y|x")
    moved = found.y + found.layout_y.restore(found.leading.displacement_y)
    image = moved @ B.T
    error = x - (image.real if real_x else image)
    assert (np.abs(error) ** 2).sum(axis=1).mean() == pytest.approx(found.leading.lower)
    assert found.layout_y.is_complex
    assert np.iscomplexobj(found.worst_pair(0)["worst_x"]) == (not real_x)
    kappa = np.linalg.norm(np.block([[B.real, -B.imag], [B.imag, B.real]])[: 3 * (2 - real_x)], 2)
    bound = (np.sqrt(found.nominal) + 0.3 * kappa) ** 2
    assert found.leading.upper <= bound * (1 + 1e-9)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 3))
def test_layouts_invert_themselves_and_keep_norms(seed, is_complex, axes):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, *rng.integers(1, 4, axes)))
    if is_complex:
        values = values + 1j * rng.standard_normal(values.shape)
    rows, layout = as_rows(values, "x")
    assert np.array_equal(layout.restore(rows), values)
    assert (rows**2).sum() == pytest.approx((np.abs(values) ** 2).sum())


def test_tensors_frames_and_masked_arrays(rng):
    B, x, y = problem(rng)
    expected = audit(B, x, y, radius=0.5).leading.upper
    pandas = pytest.importorskip("pandas", reason="pandas is optional")
    torch = pytest.importorskip("torch", reason="torch is optional")
    for wrap in (torch.from_numpy, pandas.DataFrame, np.ma.masked_array, np.asfortranarray):
        assert audit(B, wrap(x), wrap(y), radius=0.5).leading.upper == pytest.approx(expected)
    assert audit(torch.from_numpy(B), x, y, radius=0.5).leading.upper == pytest.approx(expected)

    class Labelled:  # as a DataArray of xarray
        def __array__(self, dtype=None, copy=None):
            return x

    assert audit(B, Labelled(), y, radius=0.5).leading.upper == pytest.approx(expected)
    masked = np.ma.masked_array(y, mask=np.arange(y.size).reshape(y.shape) == 4)
    with pytest.raises(TypeError, match=r"y: 1 masked entries; .* keep = (.*)$") as caught:
        audit(B, x, masked, radius=0.5)
    line = re.search(r"keep = (.*)$", str(caught.value))[1]
    keep = eval(line, {"numpy": np, "len": len, "y": masked})
    assert keep.sum() == len(y) - 1
    audit(B, x[keep], masked[keep], radius=0.5)


# --- radii


def test_radii_with_a_reason(rng):
    _, x, y = problem(rng)
    A, changed = rng.standard_normal((2, 3, 4))
    assert audit_radius(x, y, noise=0.5).value == pytest.approx(0.5 * np.sqrt(3))
    by_photons = audit_radius(x, np.abs(y), photons=100.0).value
    assert by_photons == pytest.approx(np.sqrt(np.abs(y).sum(axis=1).mean() / 100))
    by_change = audit_radius(x, y, operator_change=(A, changed)).value
    assert by_change == pytest.approx(np.sqrt(((x @ (A - changed).T) ** 2).sum(axis=1).mean()))


def test_the_ball_of_a_shift_contains_the_field_data(rng):
    """Shared signals in another order: the certificate covers what is measured in the field."""
    B, x, y = problem(rng, samples=30)
    order = rng.permutation(30)
    field = y + 0.2 * rng.standard_normal(y.shape)
    found = audit(B, x, y, shifted=(x[order], field[order]))
    assert found.radius.value == pytest.approx(np.sqrt(((field - y) ** 2).sum(axis=1).mean()))
    measured = ((x - field @ B.T) ** 2).sum(axis=1).mean()
    assert found.field_risk == pytest.approx(measured)
    assert measured <= found.leading.upper
    low, high = found.radius.interval
    assert low < found.radius.value < high


def test_the_joint_ball_contains_field_data_with_other_signals(rng):
    B, x, y = problem(rng, samples=30)
    field = rng.standard_normal((20, 4)), 1.0 + rng.standard_normal((20, 3))
    found = audit(B, x, y, shifted=field, structures=["joint", "y|x"])
    assert found.field_risk <= found.leading.upper
    assert "other" in found.radius.caveat
    assert found.radius.floor > 0
    again = audit(B, x, y, shifted=field, structures=["joint", "y|x"])
    assert again.radius == found.radius


def test_resampled_distances_are_those_of_the_weighted_transport_problem(rng):
    """First order: at the potentials of the whole, the dual is below the problem solved anew."""
    x0, y0 = rng.standard_normal((2, 25, 2))
    x1, y1 = rng.standard_normal((2, 25, 2))
    whole = dro_core.conditional_wasserstein(x0, y0, x1, y1, method="relaxed", beta=2.0)
    drawn = resampled_values(whole.potentials, np.random.default_rng(3))
    assert drawn.mean() == pytest.approx(whole.value, rel=0.1)
    again = np.random.default_rng(3)
    first, second = (again.multinomial(25, np.full(25, 1 / 25), size=1000) / 25 for _ in range(2))
    for k in range(5):
        kept0, kept1 = first[k] > 0, second[k] > 0
        exact = dro_core.conditional_wasserstein(
            x0[kept0], y0[kept0], x1[kept1], y1[kept1], method="relaxed", beta=2.0,
            weights0=first[k][kept0], weights1=second[k][kept1],
        )  # fmt: skip
        assert drawn[k] <= exact.value * (1 + 1e-9)


# --- the page


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br", "line", "rect", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle", "polyline", "polygon"):
            assert self.open.pop() == tag


def test_the_page_is_self_contained_and_says_the_numbers(rng, tmp_path):
    x = rng.random((20, 1, 8, 8))
    found = audit(0.9 * np.eye(64), x, 0.8 * x, noise=0.05).with_command("<the command>")
    path = found.report(tmp_path / "report")
    text = path.read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert links.open == []
    assert links.found
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert not re.search(r"@import|url\(|<script|<link", text)
    assert path.stat().st_size < 3e6
    for wanted in (
        "prefers-color-scheme:dark", "@media print", "width=device-width",
        f"{found.leading.lower:.6g}", "&lt;the command&gt;", "worst measurement", "yours is better",
    ):  # fmt: skip
        assert wanted in text, wanted
    numbers = json.loads((tmp_path / "report" / "audit.json").read_text())
    assert numbers["structures"]["joint"]["upper"] == found.structures["joint"].upper
    figures = {p.name for p in (tmp_path / "report" / "figures").iterdir()}
    assert {"risk.svg", "samples.svg", "spectrum.svg", "sample1_worst_y.png"} <= figures
    for svg in (tmp_path / "report" / "figures").glob("*.svg"):
        parsed = Links()
        parsed.feed(svg.read_text())
        assert parsed.open == []
        assert "nan" not in svg.read_text()


def test_a_page_of_colour_noise_is_small(rng):
    """Three samples with seven pictures and three directions, none of which compresses."""
    size = LARGEST_PICTURE
    noise = data_uri(png(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)))
    assert 24 * len(noise) < 2.8e6


def test_a_report_replaces_a_report_and_nothing_else(rng, tmp_path):
    B, x, y = problem(rng)
    found = audit(B, x, y, radius=0.5)
    target = tmp_path / "here" / "report"
    found.report(target)
    (target / "audit.json").write_text("old")
    found.report(target)
    assert json.loads((target / "audit.json").read_text())["linear"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="other things"):
        found.report(mine)
    with pytest.raises(FileExistsError, match="there is a file"):
        found.report(mine / "thesis.tex")
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


def test_nothing_is_left_half_written(tmp_path):
    def fail():
        with whole_folder(tmp_path / "report") as folder:
            (folder / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_png_files_hold_their_pixels(rng, shape):
    """Read back by the definition of the format: chunks with sums, rows with a filter byte."""
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    content = png(pixels)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        check = struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0]
        assert zlib.crc32(name + body) == check
        chunks[name] = body
        place += 12 + size
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (shape[1], shape[0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(shape[0], -1)
    assert not rows[:, 0].any()
    assert np.array_equal(rows[:, 1:].reshape(shape), pixels)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low, width):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in found)


@given(st.floats(1e-9, 1e9))
@example(0.96)
def test_an_axis_ends_at_a_mark_beyond_the_curve(largest):
    svg = chart([Series("share", np.array([0.0, 1.0]), np.array([0.0, largest]))], "x", "y")
    marks = [float(text) for text in re.findall(r'text-anchor="end" [^>]*>([^<]+)<', svg)]
    assert marks[-1] >= largest * (1 - 1e-3)
    assert marks[-1] <= 2.01 * largest


def test_representations_say_the_numbers(rng):
    B, x, y = problem(rng)
    found = audit(B, x, y, radius=0.5)
    assert "radius=0.5" in repr(found)
    assert f"{found.leading.lower:.6g}" in found._repr_html_()
    assert audit_function is audit


def test_matrix_free_maps_get_a_bracket(rng):
    B, x, y = problem(rng)
    operator = LinearOperator((4, 3), matvec=lambda v: B @ v, rmatvec=lambda q: B.T @ q)
    found = audit(operator, x, y, radius=0.5, structures="y|x")
    exact = worst_case_risk(B, x, y, 0.5).risk
    assert found.leading.lower <= exact * (1 + 1e-9)
    assert exact <= found.leading.upper * (1 + 1e-9)
    assert found.leading.failure_probability < 1e-5
    assert found.leading.spectral is None
