"""The multiplier: learned, bounded from below, bisected; and the structures of dro_torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_core.bisection import bisect_interval
from dro_torch.losses.entropic import EntropicDROLoss
from dro_torch.multiplier import Multiplier, StochasticDescent, bisect_multiplier
from dro_torch.structure import Joint, XGivenY, XShift, YGivenX, as_structure


def linear_problem(seed=0, samples=40, n=4, m=4):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, n))
    A = rng.standard_normal((m, n)) / 2 + np.eye(m, n)
    return rng.standard_normal((n, m)) / 3, x, x @ A.T + 0.1 * rng.standard_normal((samples, m))


# -- Multiplier


def test_learning_finds_the_exact_multiplier_of_a_fixed_map():
    B, x, y = linear_problem()
    radius, epsilon = 0.3, 0.1
    worst = dro_core.entropic_worst_case(B, x, y, radius, epsilon)
    matrix, x_, y_ = (torch.from_numpy(a) for a in (B, x, y))
    loss = EntropicDROLoss(epsilon, samples=1, estimator="tilted", rank="full", defensive=False)
    multiplier = Multiplier(radius, 4 * worst.multiplier, lower=np.linalg.norm(B, 2) ** 2)
    optimiser = torch.optim.Adam(multiplier.parameters(), lr=0.05)
    for step in range(400):
        optimiser.zero_grad()
        value = loss(lambda t: t @ matrix.T, x_, y_, multiplier(), seed=0, step=step)
        (value + multiplier.penalty()).backward()
        optimiser.step()
    with torch.no_grad():
        total = float(loss(lambda t: t @ matrix.T, x_, y_, multiplier()) + multiplier.penalty())
    assert total == pytest.approx(worst.risk, rel=1e-4)
    # one tilted draw is exact in value; in the slope it is one draw
    assert float(multiplier().detach()) == pytest.approx(worst.multiplier, rel=0.1)


def test_value_penalty_and_state():
    multiplier = Multiplier(2.0, 3.0, lower=1.0)
    assert float(multiplier().detach()) == pytest.approx(3.0, rel=1e-15)
    assert float(multiplier.penalty().detach()) == pytest.approx(12.0, rel=1e-15)
    other = Multiplier(2.0, 9.0)
    other.load_state_dict(multiplier.state_dict())
    assert float(other().detach()) == pytest.approx(3.0, rel=1e-15)
    assert "radius=2" in repr(multiplier)
    assert [p.requires_grad for p in Multiplier(1.0, trainable=False).parameters()] == [False]


def test_precision_of_the_model_is_not_that_of_the_multiplier():
    multiplier = Multiplier(1.0, math.pi).to(torch.bfloat16)
    assert multiplier().dtype == torch.float64
    assert float(multiplier().detach()) == pytest.approx(math.pi, rel=1e-15)


def test_the_lower_bound_holds_and_can_rise():
    multiplier = Multiplier(0.0, 2.0, lower=1.5)
    optimiser = torch.optim.SGD(multiplier.parameters(), lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        multiplier().backward()
        optimiser.step()
    assert 1.5 < float(multiplier().detach()) < 1.51
    multiplier.raise_lower(1.0)
    assert float(multiplier.lower) == 1.5
    multiplier.raise_lower(4.0)
    assert float(multiplier().detach()) == pytest.approx(4.004)
    kept = Multiplier(1.0, 10.0)
    kept.raise_lower(4.0)
    assert float(kept().detach()) == pytest.approx(10.0, rel=1e-14)


def test_envelope_slope_is_the_budget_minus_the_cost():
    """d/dλ (λρ² + φ) = ρ² - E cost: zero at the exact multiplier."""
    B, x, y = linear_problem(1)
    worst = dro_core.worst_case_risk(B, x, y, 0.7)
    lam = torch.tensor(worst.multiplier, requires_grad=True, dtype=torch.float64)
    C = -torch.from_numpy(B)
    r = torch.from_numpy(x - y @ B.T)
    inverse = torch.linalg.inv(torch.eye(len(B)) - C @ C.T / lam)
    value = torch.einsum("ni,ij,nj->n", r, inverse, r).mean() + lam * 0.49
    (slope,) = torch.autograd.grad(value, lam)
    assert abs(float(slope)) < 1e-8


# -- bisection


def test_bisection_halves_towards_the_smaller_boundary():
    asked = []

    def value(point):
        asked.append(point)
        return (point - 3.2) ** 2

    found = bisect_interval(value, 0.0, 16.0, 0.5)
    assert asked == [0, 16, 8, 4, 2, 3, 3.5, 3.25]
    assert (found.best, found.low, found.high) == (3.25, 3.0, 3.5)
    assert len(found.candidates) == 3 + 5


@given(st.floats(1e-6, 1e6), st.integers(0, 12), st.integers(0, 2**16))
def test_a_bisection_takes_the_calls_that_it_says(scale, halvings, path):
    """3 + log2 of the ratio, whichever way it goes: a last bit of the ends had cost one more."""
    rng = np.random.default_rng(path)
    low, high = scale / 4, 4 * scale
    found = bisect_interval(lambda _: rng.uniform(), low, high, (high - low) / 2**halvings)
    assert len(found.candidates) == 3 + halvings


def test_bisecting_the_exact_dual_finds_its_minimiser():
    B, x, y = linear_problem(2)
    worst = dro_core.entropic_worst_case(B, x, y, 0.5, 0.2)
    problem = dro_core.LinearReconstruction(B, x, y)

    def value(log_multiplier):
        lam = math.exp(log_multiplier)
        return problem.dual_value(lam, 0.5, epsilon=0.2)

    start = math.log(worst.multiplier)
    found = bisect_interval(value, start - 0.3, start + 0.4, 0.01)
    assert value(found.best) == pytest.approx(worst.risk, rel=1e-2)


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
@pytest.mark.parametrize("optimiser", ["adam", "mirror-descent"])
def test_the_seed_loop_trains_a_linear_map(optimiser):
    _, x, y = linear_problem(3)
    radius, epsilon = 0.3, 0.05
    x_, y_ = torch.from_numpy(x), torch.from_numpy(y)
    optimum = dro_core.fit_linear(x=x, y=y, radius=radius, epsilon=epsilon)
    loss = EntropicDROLoss(epsilon, samples=8)
    model = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()

    def objective(model, multiplier, step):
        return loss(model, x_, y_, multiplier, seed=0, step=step)

    train = StochasticDescent(objective, optimiser, 0.03 if optimiser == "adam" else 0.1)

    def evaluate(model, multiplier):
        with torch.no_grad():
            return float(objective(model, multiplier, 10**6)) + multiplier * radius**2

    found = bisect_multiplier(
        model,
        train,
        evaluate,
        low=optimum.multiplier / 5,
        high=4 * optimum.multiplier,
        tolerance=0.5 * optimum.multiplier,
        steps=100,
        last_steps=300,
    )
    risk = dro_core.entropic_worst_case(model.weight.detach().numpy(), x, y, radius, epsilon).risk
    assert risk <= 1.05 * optimum.risk
    assert optimum.multiplier / 3 < found.multiplier < 3 * optimum.multiplier
    assert train.gradient_evaluations == 100 * len(found.bisection.candidates) + 300
    assert found.objective == min(value for _, value in found.bisection.candidates)


def test_candidates_start_from_the_best_map_so_far():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    starts = []

    def train(model, multiplier, steps):
        starts.append(round(float(model.weight.detach()), 6))
        with torch.no_grad():
            model.weight.add_(1.0)

    values = iter([5.0, 3.0, 4.0, 1.0])
    bisect_multiplier(
        model,
        train,
        lambda model, multiplier: next(values),
        low=1.0,
        high=2.0,
        tolerance=0.5,
        steps=1,
        last_steps=1,
    )
    # from 0; 0's map is best; then high's; high's again; the last from the fourth's
    assert starts == [0, 1, 2, 2, 3]


def test_mirror_descent_returns_the_average_of_the_second_half():
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    StochasticDescent(lambda m, lam, t: 0.5 * m.weight.square().sum(), "mirror-descent", 0.5)(
        model, 1.0, 4
    )
    w, seen = 1.0, []
    for t in range(1, 5):
        w -= 0.5 / math.sqrt(t) * w
        seen.append(w)
    assert float(model.weight.detach()) == pytest.approx(np.mean(seen[2:]), rel=1e-12)


def test_a_diverging_run_says_where():
    model = nn.Linear(1, 1)
    train = StochasticDescent(lambda m, lam, t: m.weight.sum() * float("nan"), "adam", 0.1)
    with pytest.raises(FloatingPointError, match=r"nan at step 1 with multiplier 2.*0\.1"):
        train(model, 2.0, 3)


# -- structures


def test_structures_move_what_they_say():
    x, y = torch.zeros(2, 1, 2), torch.ones(2, 3)
    assert [as_structure(s).size(x, y) for s in ("y|x", "x|y", "joint")] == [3, 2, 5]
    v = torch.arange(10.0).reshape(2, 5)
    dx, dy = Joint().displace(x, y, v)
    assert dx.tolist() == [[[0, 1]], [[5, 6]]]
    assert dy.tolist() == [[3, 4, 5], [8, 9, 10]]
    assert torch.equal(YGivenX().displace(x, y, v[:, :3])[0], x)
    assert torch.equal(XGivenY().displace(x, y, v[:, :2])[1], y)
    for cost, extra in (("x", 0.0), ("joint", 4.0)):
        shift = XShift(lambda t: t[:, 0], cost=cost)
        y2 = torch.zeros(2, 2)
        paid = shift.transport_cost(x, y2, torch.tensor([[2.0, 0], [0, 0]]))
        assert paid.tolist() == [4 + extra, 0]
        assert shift.displace(x, y2, torch.ones(2, 2))[1].tolist() == [[1, 1], [1, 1]]


def test_moduli_are_those_of_the_core():
    for core in (dro_core.YGivenX(), dro_core.XGivenY(), dro_core.Joint()):
        assert as_structure(core.name).modulus(1.7) == pytest.approx(float(core.modulus(1.7)))
    with pytest.raises(ValueError, match="structure 'x': it has no modulus"):
        XShift(lambda x: x).modulus(1.0)


# -- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Multiplier(-1.0), ValueError, "radius: -1.0 is negative"),
        (lambda: Multiplier(float("nan")), ValueError, "radius: nan"),
        (lambda: Multiplier(1.0, 0.0), ValueError, "initial: 0.0 is not above lower, 0.0"),
        (lambda: Multiplier(1.0, 2.0, lower=2.0), ValueError, "initial: 2.0 is not above lower"),
        (lambda: Multiplier(1.0, lower=-1.0), ValueError, "lower: -1.0 is negative"),
        (lambda: Multiplier(1.0, "2"), TypeError, "initial: '2'"),
        (lambda: Multiplier(1.0).raise_lower(-1.0), ValueError, "value: -1.0 is negative"),
        (lambda: bisect_interval(abs, 1.0, 1.0, 0.1), ValueError, "low: 1.0 is not below high"),
        (lambda: bisect_interval(abs, 0.0, 1.0, 0.0), ValueError, "tolerance: 0.0; allowed"),
        (lambda: bisect_interval(abs, 0.0, math.inf, 0.1), ValueError, "high: inf"),
        (lambda: bisect_interval(lambda t: math.nan, 0.0, 1.0, 0.1), ValueError, "value: NaN at 0"),
        (lambda: StochasticDescent(abs, "sgd"), ValueError, "optimiser: unknown value 'sgd'"),
        (lambda: StochasticDescent(abs, rate=0.0), ValueError, "rate: 0.0; allowed"),
        (lambda: StochasticDescent(abs)(nn.Linear(1, 1), 1.0, 0), ValueError, "steps: 0"),
        (
            lambda: bisect_multiplier(
                nn.Linear(1, 1), abs, abs, low=0.0, high=1.0, tolerance=1.0, steps=1, last_steps=0
            ),
            ValueError,
            "low: 0.0; a multiplier is > 0",
        ),
        (lambda: as_structure("joined"), ValueError, "unknown value 'joined'.*did you mean"),
        (lambda: as_structure(YGivenX), TypeError, "structure: .*neither a name"),
        (lambda: XShift(3), TypeError, "forward: int is not callable"),
        (lambda: XShift(abs, cost="y"), ValueError, "cost: unknown value 'y'"),
        (
            lambda: XShift(lambda x: x[:, :1]).displace(
                torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2)
            ),
            ValueError,
            r"forward: it maps \(2, 2\) to \(2, 1\), but y has shape \(2, 2\)",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
