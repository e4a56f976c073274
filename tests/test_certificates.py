"""Every part of a certificate can fail on its own: forged answers are refused."""

import decimal
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import brentq

from dro_core import (
    InfeasibleRadiusError,
    LinearReconstruction,
    XShift,
    conditional_wasserstein,
    dual_value,
    entropic_worst_case,
    finite_worst_case,
    fit_linear,
    gaussian_conditional_wasserstein,
    matching_price,
    unbalanced_ot,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.operators import Diagonal
from dro_core.testing import problems
from dro_core.worst_case.law import WorstCaseLaw

DIAGONAL = np.diag([1.0, 0.5])


class GivenLaw(WorstCaseLaw):
    """A law with displacements of one's own, whatever the solution says."""

    def free(self, block, residual):
        start = self.decomposition.displacement.start(block.x, block.y, residual)
        dx, dy = (part[block.rows] for part in self.given)
        return (dx, dy) if start.base is None else (dx - start.base[0], dy - start.base[1])


def given_law(worst, dx, dy):
    law = GivenLaw(**vars(worst._law))
    object.__setattr__(law, "given", (dx, dy))
    return law


def forged(worst, displacements=None, **parts):
    """The certificate of an answer with some of its parts replaced."""
    if displacements is not None:
        parts["_law"] = given_law(worst, *displacements)
    worst.__dict__.update(parts)
    worst.__dict__.pop("_certificate", None)
    return worst.verify()


@pytest.mark.parametrize("unit", [1.0, 1e-90, 1e90])
def test_a_law_that_is_not_stationary(unit):
    """The budget is met and the primal risk is as claimed: only the upper value tells."""
    x, y = np.array([[0.3, 0.0], [-0.3, 0.0]]), np.zeros((2, 2))
    worst = worst_case_risk(unit * DIAGONAL, unit * x, y, 1.0)
    shift = (np.zeros_like(x), np.array([[-1.0, 0.0], [-1.0, 0.0]]))
    risk = 1.09 * unit**2
    certificate = forged(worst, displacements=shift, multiplier=unit**2, risk=risk)
    assert certificate.primal_risk == pytest.approx(risk)
    assert certificate.stationarity > 0.1
    assert certificate.dual_risk >= 1.69 * unit**2 * (1 - 1e-12)  # the true worst case
    assert not certificate.holds()


def test_a_law_that_is_nearly_stationary_at_the_threshold():
    """There the defect of stationarity enters the value linearly, not squared."""
    s = 3e-5
    x = np.array([[s, 0.0], [-s, 0.0]])
    worst = worst_case_risk(DIAGONAL, x, 0 * x, 1.0)
    true = worst.risk
    shift = (0 * x, np.array([[-1.0, 0.0], [-1.0, 0.0]]))
    certificate = forged(worst, displacements=shift, multiplier=1.0, risk=1 + s * s)
    assert certificate.primal_risk == pytest.approx(1 + s * s, rel=1e-12)
    assert certificate.dual_risk >= true
    assert not certificate.holds()


@given(problems(zero_radius=False), st.floats(0.1, 10), st.floats(-0.1, 0.1))
def test_the_upper_value_is_one_whatever_law_and_multiplier(problem, factor, tilt):
    worst = problem.worst_case()
    true = worst.risk
    dx, dy = worst._displacements
    other = (dx * (1 + tilt), dy * (1 + tilt))
    certificate = forged(worst, displacements=other, multiplier=worst.multiplier * factor)
    assert certificate.dual_risk >= true * (1 - 1e-9) - 2 * certificate.resolution


def test_a_multiplier_below_the_threshold():
    """A minimum instead of a maximum: stationary, feasible, primal = dual, and wrong."""
    worst = worst_case_risk([[1.0]], [[0.3]], [[0.0]], 1.0)
    inward = (np.zeros((1, 1)), np.array([[1.0]]))
    certificate = forged(worst, displacements=inward, multiplier=0.7, risk=0.49)
    assert certificate.primal_risk == pytest.approx(0.49)
    assert certificate.stationarity < 1e-12
    assert certificate.transport_cost <= 1
    assert certificate.dual_risk >= 1.69  # the true worst case
    assert not certificate.holds()


@pytest.mark.parametrize("multiplier", [np.inf, 0.0])
def test_an_adversary_that_was_said_to_gain_nothing(multiplier, rng):
    """The nominal risk at a positive radius, with a multiplier that has no scale."""
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    worst = worst_case_risk(B, x, y, 0.5)
    true, still = worst.risk, (0 * x, 0 * y)
    certificate = forged(worst, displacements=still, multiplier=multiplier, risk=worst.nominal_risk)
    assert certificate.dual_risk >= true
    assert not certificate.holds()
    worst = worst_case_risk(B, y @ B.T, y, 0.5)  # and a risk of zero
    true = worst.risk
    certificate = forged(worst, displacements=still, multiplier=multiplier, risk=0.0)
    assert certificate.dual_risk >= true * (1 - 1e-12)
    assert not certificate.holds()


def test_a_law_that_overspends():
    worst = worst_case_risk([[1e-6]], [[1.0]], [[0.0]], 1.0)
    dx, dy = worst._displacements
    assert worst.verify().holds()
    assert not forged(worst, displacements=(dx, dy * (1 + 1e-5))).holds()


def test_a_law_that_underspends(rng):
    """The answer to a smaller radius: consistent in itself, but not optimal here."""
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    small, worst = worst_case_risk(B, x, y, 0.9), worst_case_risk(B, x, y, 1.0)
    certificate = forged(
        worst,
        displacements=small._displacements,
        multiplier=small.multiplier,
        risk=small.risk,
    )
    assert certificate.stationarity < 1e-12
    assert certificate.gap == pytest.approx(0, abs=1e-12)
    assert certificate.transport_cost < certificate.budget
    assert not certificate.holds()


def test_plans_that_were_tampered_with():
    loss, cost = np.array([[0.0, 1.0]] * 2), np.array([[0.0, 1.0]] * 2)
    worst = finite_worst_case(loss, cost, 0.5)
    assert worst.verify().holds()
    vars(worst)["plan"] = worst.plan * 0.5  # loses mass
    assert worst.verify().marginal_error > 1e-3
    assert not worst.verify().holds()
    vars(worst)["plan"] = sparse.csr_array(np.array([[0.5, 0.0], [0.5, 0.0]]))  # nothing moves
    assert worst.verify().primal_risk == 0
    assert not worst.verify().holds()
    vars(worst)["plan"] = sparse.csr_array(np.array([[0.0, 0.5], [0.0, 0.5]]))  # everything moves
    assert worst.verify().transport_cost == 1.0
    assert not worst.verify().holds()
    worst = finite_worst_case(loss, cost, 0.5)
    vars(worst)["multiplier"] = 0.5  # not an upper value of the plan's risk any more
    assert not worst.verify().holds()


def test_a_plan_that_overspends_by_little():
    """Only the cost tells: its risk is the reported one to 12 digits."""
    worst = finite_worst_case([[1.0, 1.0 + 1e-12]], [[0.0, 1.0]], 0.5)
    vars(worst)["plan"] = sparse.csr_array(np.array([[0.0, 1.0]]))
    assert not worst.verify().holds()


def test_a_plan_that_is_slightly_off():
    worst = finite_worst_case([[0.0, 1.0]], [[0.0, 1.0]], 0.5)
    vars(worst)["plan"] = worst.plan + sparse.csr_array(np.array([[1e-6, -1e-6]]))
    assert not worst.verify().holds()


def test_a_reported_risk_that_is_not_the_optimum():
    worst = finite_worst_case([[0.0, 1.0]], [[0.0, 1.0]], 0.5)
    vars(worst)["risk"] *= 3
    assert not worst.verify().holds()
    worst = finite_worst_case([[0.0, 1.0]], [[0.0, 1.0]], 0.5)
    signed = sparse.csr_array(np.array([[2.0, -1.0]]))  # with the right sums
    vars(worst)["plan"] = signed
    assert worst.verify().marginal_error == np.inf


def test_residuals_and_threshold_are_recomputed(rng):
    B, x, y = rng.standard_normal((3, 3)), *rng.standard_normal((2, 5, 3))
    worst = worst_case_risk(B, x, y, 1.0)
    worst._displacements  # noqa: B018  built from the true residuals
    vars(worst._problem)["residual"] = 0.5 * worst._problem.residual
    assert worst.verify().holds()
    assert worst.verify().resolution < 1e-12 * worst.risk
    worst = worst_case_risk(B, x, y, 1.0)
    worst._displacements  # noqa: B018
    worst._decomposition.spectrum.squared_singular_values[:] *= 0.5
    assert worst.verify().threshold == pytest.approx(np.linalg.norm(B, 2) ** 2)


def results(rng):
    """One result of every kind that carries a certificate."""
    B, x, y = rng.standard_normal((2, 3)), *(rng.standard_normal((6, k)) for k in (2, 3))
    table, atoms = rng.uniform(0, 1, (6, 4)), np.zeros((6, 1))
    table[:, 0] = 0.0
    covariances = np.stack([np.eye(2)] * 2)
    return [
        LinearReconstruction(B, x, y),
        worst_case_risk(B, x, y, 0.5),
        entropic_worst_case(B, x, y, 0.5, 0.1),
        finite_worst_case(table, table, 0.5),
        fit_linear(x=x, y=y, radius=0.3),
        conditional_wasserstein(atoms, x, atoms, x + 1.0),
        gaussian_conditional_wasserstein(x[:2], covariances, x[2:4], covariances),
        unbalanced_ot(table, np.ones(6), np.ones(4)),
        matching_price(2 * covariances[0], covariances[0]),
    ]


@pytest.mark.parametrize("kind", range(9))
def test_results_are_read_only(kind, rng):
    """A radius set afterwards, and the certificate still held."""
    result = results(rng)[kind]
    names = [name for name in vars(result) if not name.startswith("_")]
    for name in [*names, "anything"]:
        with pytest.raises(AttributeError):
            setattr(result, name, 1.0)
    with pytest.raises(AttributeError):
        delattr(result, names[0])
    for name in [*names, "gradient", "singular_values", "potentials", "per_condition"]:
        value = getattr(result, name, None)
        for array in value if isinstance(value, tuple) else [value]:
            if isinstance(array, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    array[...] = 0.0


def test_the_arrays_that_a_result_was_made_from_stay_writable(rng):
    x, y, weights = rng.standard_normal((6, 2)), rng.standard_normal((6, 3)), np.full(6, 1 / 6)
    B = rng.standard_normal((2, 3))
    worst_case_risk(B, x, y, 0.5, weights=weights).verify()
    fit_linear(x=x, y=y, radius=0.3, weights=weights)
    assert x.flags.writeable
    assert y.flags.writeable
    assert weights.flags.writeable
    assert B.flags.writeable


def test_answers_and_errors_survive_pickling(rng):
    A, B, x = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((6, 2))
    problem = LinearReconstruction(B, x, x @ A.T)
    for structure in ("joint", "y|x", "x|y", XShift(A)):
        worst = problem.worst_case(0.5, structure)
        copy = pickle.loads(pickle.dumps(worst))
        assert copy.verify() == worst.verify()
    pickle.loads(pickle.dumps(problem))
    error = pickle.loads(pickle.dumps(InfeasibleRadiusError("radius: empty", 2.0)))
    assert (str(error), error.smallest_radius) == ("radius: empty", 2.0)


def exact_risk(b, x, y, radius):
    """(√M + ρ|b|)² of a map to R, in 50 digits."""
    with decimal.localcontext() as context:
        context.prec = 50

        def number(value):
            return decimal.Decimal(float(value))

        image = [sum(number(p) * number(q) for p, q in zip(b, row, strict=True)) for row in y]
        squares = [(number(p) - q) ** 2 for p, q in zip(x, image, strict=True)]
        fidelity = sum(squares) / len(squares)
        norm = sum(number(p) ** 2 for p in b).sqrt()
        return (fidelity.sqrt() + number(radius) * norm) ** 2


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(-12, 0), st.floats(-12, 0))
def test_residuals_of_rounding_size_are_known_to_the_resolution(seed, m, small, logarithm):
    """Large x and By, or large terms of By, whose difference keeps few digits or none."""
    rng = np.random.default_rng(seed)
    b, y = rng.standard_normal(m) * 10.0 ** rng.uniform(0, 5), rng.standard_normal((3, m))
    if m > 1:  # cancellation within By
        y -= np.outer(y @ b, b) / (b @ b) * (1 - 10.0 ** rng.uniform(-12, 0))
    x, radius = y @ b + 10.0**small * rng.standard_normal(3), 10.0**logarithm
    exact = exact_risk(b, x, y, radius)
    x = x[:, None]
    worst = worst_case_risk(b[None], x, y, radius)
    certificate = worst.verify()
    error = float(abs(decimal.Decimal(worst.risk) - exact))
    assert certificate.holds()
    assert error <= 1e-9 * worst.risk + certificate.resolution
    epsilon = 1e-9 * radius**2
    entropic = entropic_worst_case(b[None], x, y, radius, epsilon).verify()
    assert entropic.risk_resolution == pytest.approx(certificate.resolution, rel=0.5)
    if entropic.holds():  # at least the exact worst case without entropy
        slack = 1e-8 * entropic.risk + entropic.risk_resolution
        assert decimal.Decimal(entropic.risk + slack) >= exact
    fit = fit_linear(x=x, y=y, radius=radius).verify()
    if fit.holds(1e-4):  # nor is any map worse than it by more
        assert decimal.Decimal(fit.lower) <= exact * decimal.Decimal(1 + 1e-9) + decimal.Decimal(
            fit.risk_resolution + certificate.resolution
        )


# --- what the certificate rests on -------------------------------------------------------------


def test_a_small_mass_on_the_top_singular_space_counts():
    s = 1e-5
    x, y = np.array([[s, 1.0], [-s, 1.0]]), np.zeros((2, 2))
    margin = brentq(lambda t: s * s / t**2 + 0.25 / (0.75 + t) ** 2 - 25, 1e-9, 1, xtol=1e-18)
    lam = 1 + margin
    expected = lam * 25 + s * s * lam / margin + lam / (lam - 0.25)
    assert worst_case_risk(DIAGONAL, x, y, 5.0).risk == pytest.approx(expected, rel=1e-12)


def test_the_shift_of_the_hard_case_is_common(rng):
    B, y = rng.standard_normal((4, 4)), rng.standard_normal((9, 4))
    left, _, right = np.linalg.svd(B)
    x = y @ B.T + rng.standard_normal((9, 3)) @ left[:, 1:].T
    along = worst_case_risk(B, x, y, 50.0).displacement_y @ right[0]
    assert np.ptp(along) < 1e-6 * abs(along).max()


@pytest.mark.parametrize("seed", range(20))
def test_the_smallest_feasible_radius_is_sharp(seed):
    rng = np.random.default_rng(seed)
    loss, cost = rng.standard_normal((4, 5)), rng.random((4, 5)) + 0.1
    with pytest.raises(InfeasibleRadiusError) as caught:
        finite_worst_case(loss, cost, 0.0)
    smallest = caught.value.smallest_radius
    with pytest.raises(InfeasibleRadiusError):
        finite_worst_case(loss, cost, smallest * (1 - 1e-6))
    assert finite_worst_case(loss, cost, smallest).verify().holds()


@pytest.mark.parametrize("cost", ["joint", "x"])
def test_data_on_the_graph_up_to_rounding_count_as_on_it(cost, rng):
    A, B, x = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((6, 2))
    y = np.stack([A @ row for row in x])  # another order of summation
    structure = XShift(A, cost)
    for radius in (0.0, 1e-14, 0.3):
        assert worst_case_risk(B, x, y, radius, structure).verify().holds()
    if cost == "joint":
        with pytest.raises(InfeasibleRadiusError):
            worst_case_risk(B, x, y + 1e-8, 0.0, structure)


def test_exact_inverse_under_structure_x():
    """I - BA vanishes: nothing can be gained, however far x moves."""
    operator = Diagonal(1.0, 16)
    x = np.random.default_rng(0).standard_normal((20, 16))
    worst = worst_case_risk(operator.inverse(), x, x @ operator.matrix().T, 0.5, XShift(operator))
    assert worst.risk < 1e-28
    assert worst.verify().holds()


def test_nominal_risk_is_that_of_the_data(rng):
    A, B, x = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((6, 2))
    y = x @ A.T + 0.1 * rng.standard_normal((6, 3))
    worst = worst_case_risk(B, x, y, 0.8, XShift(A))
    assert worst.nominal_risk == pytest.approx(((x - y @ B.T) ** 2).sum(axis=1).mean())


def test_hard_case_starts_where_the_budget_is_not_spent():
    """Residual on the second singular direction: its cost at the threshold is the limit."""
    x, y = np.array([[0.0, 1.0], [0.0, -1.0]]), np.zeros((2, 2))
    limit = 0.5 / 0.75  # cost 0.25/(1 - 0.25)²
    top = worst_case_risk(DIAGONAL, x, y, limit * 1.001)
    assert top.multiplier == 1.0
    assert worst_case_risk(DIAGONAL, x, y, limit * 0.999).multiplier > 1.0
    assert top.verify().holds()


@pytest.mark.parametrize("cost", ["joint", "x"])
def test_curve_and_dual_charge_the_forced_move_of_structure_x(cost, rng):
    A, B, x = rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((6, 2))
    y = x @ A.T + 0.1 * rng.standard_normal((6, 3))
    structure = XShift(A, cost)
    worst = worst_case_risk(B, x, y, 0.8, structure)
    curve = worst_case_curve(B, x, y, [0.8], structure)
    assert (curve.risk[0], curve.multiplier[0], curve.bound[0]) == (
        worst.risk,
        worst.multiplier,
        worst.bound,
    )
    at = dual_value(B, x, y, worst.multiplier, 0.8, structure)
    assert at == pytest.approx(worst.risk, rel=1e-12)
