"""The ball as a loss: exact for linear maps, from below for networks, keyed, refused by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_torch import WassersteinBallLoss, XShift, YGivenX, certify, forward_residual, training

N, M = 4, 3


def problem(seed, samples=6):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s) for s in ((N, M), (samples, N), (samples, M), (M, N)))


def linear(B):
    network = nn.Linear(B.shape[1], B.shape[0], bias=False).double()
    network.weight.data = torch.from_numpy(B).clone()
    return network


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def network_and_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(M, 8), nn.Tanh(), nn.Linear(8, N)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x, y = (torch.randn(6, k, generator=generator, dtype=torch.float64) for k in (N, M))
    return network, x, y


def ball(name, A, weight):
    if name == "x":
        forward = torch.from_numpy(A)
        return XShift(lambda v: v @ forward.T), dro_core.XShift(A, cost="x")
    if name == "weighted":
        return YGivenX(torch.from_numpy(weight)), dro_core.YGivenX(weight)
    return name, name


@given(
    st.integers(0, 10_000),
    st.sampled_from(["y|x", "x|y", "joint", "x", "weighted"]),
    st.floats(0.05, 5.0),
    st.booleans(),
)
@settings(max_examples=25)
def test_the_worst_case_of_a_linear_map_is_reached(seed, name, radius, weighted):
    B, x, y, A = problem(seed)
    if name == "x":
        y = x @ A.T
    own, core = ball(name, A, np.array([0.1, 1.0, math.inf]))
    mu = np.random.default_rng(seed).dirichlet(np.ones(len(x))) if weighted else None
    exact = dro_core.worst_case_risk(B, x, y, radius, core, weights=mu)
    loss = WassersteinBallLoss(radius, own, 400)
    given_weights = None if mu is None else torch.from_numpy(mu)
    value = loss(linear(B), *tensors(x, y), weights=given_weights).item()
    assert value <= exact.risk * (1 + 1e-9)
    assert value >= exact.risk * (1 - 1e-3)  # slow where two singular values nearly agree
    # the multiplier at the fixed point is that of the dual
    assert loss.diagnostics["multiplier"].item() == pytest.approx(exact.multiplier, rel=2e-2)


def test_where_residuals_vanish_the_value_is_the_squared_modulus_times_the_budget():
    """The hard case: v = 0 is stationary and every multiplier below κ² gives infinity."""
    network = linear(np.array([[5.0]]))
    y = torch.linspace(0.5, 2, 6, dtype=torch.float64)[:, None]
    value = WassersteinBallLoss(0.5, steps=1)(network, network(y), y)
    assert value.item() == pytest.approx(6.25, rel=1e-12)


@given(st.integers(0, 10_000), st.floats(0.05, 3.0), st.integers(1, 6))
@settings(max_examples=20)
def test_no_step_loses_for_linear_maps_and_the_budget_is_spent(seed, radius, steps):
    B, x, y, _ = problem(seed)
    args = linear(B), *tensors(x, y)
    fewer, more = (
        WassersteinBallLoss(radius, "joint", k)(*args).item() for k in (steps, steps + 1)
    )
    assert fewer <= more * (1 + 1e-12)
    spent = WassersteinBallLoss(radius, "joint", steps).displacements(*args).square().sum(1).mean()
    assert spent.item() == pytest.approx(radius**2, rel=1e-12)


def test_it_is_below_the_bound_and_near_the_attack_of_certify_for_a_network():
    network, x, y = network_and_batch()
    for radius in (0.1, 0.5):
        found = certify(network, x, y, radius, steps=100)
        value = WassersteinBallLoss(radius, steps=60)(network, x, y).item()
        assert 0.9 * found.lower <= value <= found.upper


def test_gradients_are_those_at_the_fixed_displacement():
    B, x, y, _ = problem(3)
    x, y = tensors(x, y)
    loss = WassersteinBallLoss(0.7, "joint", 600)
    matrix = torch.from_numpy(B).clone().requires_grad_()
    loss(lambda v: v @ matrix.T, x, y).backward()
    exact = dro_core.worst_case_risk(B, x.numpy(), y.numpy(), 0.7, "joint").gradient
    np.testing.assert_allclose(matrix.grad.numpy(), exact, rtol=1e-4, atol=1e-4)


def test_the_key_of_the_start_makes_values_reproducible():
    network, x, y = network_and_batch(1)
    loss, index = WassersteinBallLoss(0.5, steps=1), torch.arange(6)
    first, again, other = (
        loss(network, x, y, index=index, seed=s, step=t).item() for s, t in ((1, 2), (1, 2), (1, 3))
    )
    assert first == again != other
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    moved = loss(network, x[order], y[order], index=index[order], seed=1, step=2).item()
    assert moved == pytest.approx(first, rel=1e-12)


def test_radius_zero_is_the_mean_loss_and_frozen_entries_stay():
    network, x, y = network_and_batch(2)
    plain = (x - network(y)).square().sum(1).mean().item()
    assert WassersteinBallLoss(0.0)(network, x, y).item() == pytest.approx(plain, rel=1e-12)
    frozen = YGivenX(torch.tensor([1.0, math.inf, 1.0]))
    loss = WassersteinBallLoss(0.5, frozen)
    v = loss.displacements(network, x, y)
    assert torch.equal(frozen.displace(x, y, v)[1][:, 1], y[:, 1])


def test_a_loss_and_a_residual_of_ones_own():
    B, x, y, _ = problem(5)
    x, y = tensors(x, y)
    mine = WassersteinBallLoss(0.5, loss=lambda f, x, y: (x - f(y)).square().sum(1))
    assert mine(linear(B), x, y).item() == pytest.approx(
        WassersteinBallLoss(0.5)(linear(B), x, y).item(), rel=1e-12
    )
    simulator = WassersteinBallLoss(0.5, "x|y", residual=forward_residual)
    assert simulator(linear(B), y, x).item() == pytest.approx(
        WassersteinBallLoss(0.5)(linear(B), x, y).item(), rel=1e-12
    )


def test_the_engine_trains_with_it():
    network, x, y = (value.float() for value in network_and_batch(4))
    before = WassersteinBallLoss(0.3, steps=20)(network, x, y).item()
    phase = training.reconstruction_phase(
        network, WassersteinBallLoss(0.3, steps=2), rate={"model": 1e-2}
    )
    training.fit(phase, lambda step: (torch.arange(6), x, y), 40, seed=0, progress=False)
    assert WassersteinBallLoss(0.3, steps=20)(network, x, y).item() < 0.7 * before


def test_under_function_transforms():
    network, x, y = network_and_batch(6)
    loss, parameters = WassersteinBallLoss(0.4, steps=2), dict(network.named_parameters())

    def objective(values):
        return loss(lambda v: torch.func.functional_call(network, values, (v,)), x, y)

    slopes = torch.func.grad(objective)({k: v.detach() for k, v in parameters.items()})
    network.zero_grad()
    loss(network, x, y).backward()
    for name, value in parameters.items():
        torch.testing.assert_close(slopes[name], value.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: WassersteinBallLoss(-1.0), ValueError, "radius: -1.0 is negative"),
        (lambda: WassersteinBallLoss(math.nan), ValueError, "radius: nan"),
        (lambda: WassersteinBallLoss(1.0, "z"), ValueError, "structure: unknown value 'z'"),
        (lambda: WassersteinBallLoss(1.0, steps=0), ValueError, "steps: 0"),
        (lambda: WassersteinBallLoss(1.0, residual=3), TypeError, "residual: int is not callable"),
        (lambda: WassersteinBallLoss(1.0, residual=abs, loss=abs), ValueError, "loss: allowed"),
        (lambda: WassersteinBallLoss(1.0, checks="no"), ValueError, "checks: unknown value"),
        (
            lambda: WassersteinBallLoss(1.0, XShift(abs, cost="joint")),
            ValueError,
            "structure: XShift with cost 'joint'",
        ),
        (
            lambda: WassersteinBallLoss(1.0)(3, torch.ones(2, 3), torch.ones(2, 3)),
            TypeError,
            "model",
        ),
        (
            lambda: WassersteinBallLoss(1.0)(nn.Identity(), torch.ones(2, 3), torch.ones(3, 3)),
            ValueError,
            "y: 3 samples, but x has 2",
        ),
        (
            lambda: WassersteinBallLoss(1.0)(
                nn.Identity(), torch.ones(2, 3), torch.full((2, 3), math.nan)
            ),
            ValueError,
            "y: 6 entries are NaN",
        ),
        (
            lambda: WassersteinBallLoss(1.0)(
                nn.Identity(), torch.ones(2, 3), torch.ones(2, 3), seed=-1
            ),
            ValueError,
            "seed: -1 is negative",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
