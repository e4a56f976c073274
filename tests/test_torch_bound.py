"""The explicit bound as a loss: equal to dro_core's, above the exact worst case, differentiable."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_core.testing import problems
from dro_torch.losses.bound import BoundLoss, local_modulus, safe_square_root
from dro_torch.residual import MovedSamples, forward_residual
from dro_torch.structure import XShift, as_structure

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
STRUCTURES = ("y|x", "joint", "x|y")


def spectral_norm(network):
    return torch.linalg.matrix_norm(network.weight, 2)


def linear(B):
    network = nn.Linear(B.shape[1], B.shape[0], bias=False).double()
    network.weight.data = torch.from_numpy(np.array(B))
    return network


def data(seed, samples=6, n=4, m=3):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s) for s in ((n, m), (samples, n), (samples, m), (m, n)))


def tensors(*arrays):
    return tuple(torch.from_numpy(np.array(array)) for array in arrays)


@pytest.mark.parametrize("structure", STRUCTURES)
@given(seed=st.integers(0, 10_000), radius=st.floats(0.0, 10.0))
@settings(max_examples=15)
def test_it_is_the_explicit_bound(structure, seed, radius):
    B, x, y, _ = data(seed)
    fidelity, L = np.square(x - y @ B.T).sum(1).mean(), np.linalg.norm(B, 2)
    expected = dro_core.explicit_bound(fidelity, L, radius, structure)
    for constant in (spectral_norm, L, torch.tensor(L)):
        criterion = BoundLoss(radius, structure, constant)
        value = criterion(linear(B), *tensors(x, y))
        assert value.item() == pytest.approx(expected, rel=1e-12)
    assert criterion.diagnostics["fidelity"].item() == pytest.approx(fidelity, rel=1e-12)


@given(data=st.data(), name=st.sampled_from(STRUCTURES))
@settings(max_examples=60)
def test_no_worst_case_lies_above_it(data, name):
    problem = data.draw(problems(structure=name))
    if np.ptp(problem.weights) > 0:  # the loss knows uniform weights only
        problem = type(problem)(
            problem.B,
            problem.x,
            problem.y,
            np.full(len(problem.x), 1 / len(problem.x)),
            problem.radius,
            problem.structure,
        )
    bound = BoundLoss(problem.radius, name, spectral_norm)
    value = bound(linear(problem.B), *tensors(problem.x, problem.y)).item()
    assert problem.worst_case().risk <= value * (1 + 1e-9) + 1e-300


@pytest.mark.parametrize("cost", ["x", "joint"])
def test_structure_x_is_measured_on_the_graph(cost):
    B, x, _, A = data(1)
    y = x @ A.T
    forward = torch.from_numpy(A)
    L = np.linalg.norm(np.eye(4) - B @ A, 2)
    criterion = BoundLoss(0.3, XShift(lambda v: v @ forward.T, cost=cost), L)
    value = criterion(linear(B), *tensors(x, y + 7.0)).item()  # what y says plays no part
    fidelity = np.square(x - y @ B.T).sum(1).mean()
    assert value == pytest.approx(dro_core.explicit_bound(fidelity, L, 0.3, "x"), rel=1e-12)
    exact = dro_core.worst_case_risk(B, x, y, 0.3, dro_core.XShift(A, cost=cost)).risk
    assert exact <= value * (1 + 1e-9)
    estimate = BoundLoss(0.3, XShift(lambda v: v @ forward.T, cost=cost), sweeps=60)
    assert estimate(linear(B), *tensors(x, y)).item() == pytest.approx(value, rel=1e-6)


def test_a_residual_or_loss_of_one_s_own_has_its_own_constant():
    B, x, y, _ = data(2)
    L = np.linalg.norm(B, 2)
    expected = dro_core.explicit_bound(np.square(x - y @ B.T).sum(1).mean(), L, 0.5, "y|x")
    simulator = BoundLoss(0.5, "x|y", L, residual=forward_residual)
    assert simulator(linear(B), *tensors(y, x)).item() == pytest.approx(expected, rel=1e-12)
    scaled = BoundLoss(0.5, "y|x", 3 * L, loss=lambda f, x, y: 9 * (x - f(y)).square().sum(1))
    assert scaled(linear(B), *tensors(x, y)).item() == pytest.approx(9 * expected, rel=1e-12)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("estimated", [False, True])
def test_gradients(structure, estimated):
    """In the parameters, through the fidelity and through the Lipschitz constant."""
    B, x, y, _ = data(3)
    network, (x, y) = linear(B), tensors(x, y)
    weight = network.weight.detach().clone().requires_grad_()

    def value(weight):
        constant = None if estimated else torch.linalg.matrix_norm(weight, 2)
        criterion = BoundLoss(
            0.7, structure, None if estimated else (lambda _: constant), sweeps=80
        )
        return criterion(lambda v: v @ weight.T, x, y)

    assert torch.autograd.gradcheck(value, (weight,), atol=1e-6, fast_mode=True)


def test_the_stated_subgradient_at_a_perfect_fit():
    B, _, y, _ = data(4)
    network, (y,) = linear(B), tensors(y)
    x = network(y).detach()
    for structure, slope in (("y|x", 2 * 0.5**2 * np.linalg.norm(B, 2)), ("x|y", 0.0)):
        network.zero_grad()
        BoundLoss(0.5, structure, spectral_norm)(network, x, y).backward()
        grad = network.weight.grad
        assert grad.isfinite().all()
        assert float(torch.linalg.matrix_norm(grad, 2)) == pytest.approx(slope, abs=1e-12)
    M = torch.tensor([0.0, 4.0], requires_grad=True)
    safe_square_root(M).sum().backward()
    assert M.grad.tolist() == [0.0, 0.25]


def test_the_local_estimate():
    """Below the supremum for a network; equal to the largest Jacobian norm at the data."""
    generator = torch.Generator().manual_seed(5)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x, y = (torch.randn(5, k, generator=generator, dtype=torch.float64) for k in (2, 3))
    moved = MovedSamples(network, x, y, as_structure("y|x"))
    norms = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(network))(y), 2)
    assert local_modulus(moved, 200).item() == pytest.approx(norms.max().item(), rel=1e-9)
    assert local_modulus(moved, 1).item() <= norms.max().item() * (1 + 1e-12)
    joint = BoundLoss(0.1, "joint", sweeps=200).modulus(network, x, y).item()
    assert joint == pytest.approx(math.hypot(1, norms.max().item()), rel=1e-9)
    value = BoundLoss(0.1)(network, x, y)
    value.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert value.item() == BoundLoss(0.1)(network, x, y).item()


@pytest.mark.parametrize("device", DEVICES)
def test_precision_and_device_change_only_digits(device):
    B, x, y, _ = data(6)
    for constant in (spectral_norm, 2.0, torch.tensor(2.0), None):
        expected = BoundLoss(0.3, "joint", constant)(linear(B), *tensors(x, y)).item()
        network = linear(B).to(device, torch.float32)
        narrow = [v.to(device, torch.float32) for v in tensors(x, y)]
        if isinstance(constant, torch.Tensor):
            constant = constant.to(device)
        for autocast, tolerance in ((False, 1e-5), (True, 0.05)):
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                value = BoundLoss(0.3, "joint", constant)(network, *narrow)
            assert value.dtype == torch.float32
            assert value.item() == pytest.approx(expected, rel=tolerance)
            value.backward()


def test_the_estimate_leaves_no_weights_without_graph_in_the_cache():
    B, x, y, _ = data(8)
    network, (x, y) = linear(B).float(), (v.float() for v in tensors(x, y))
    with torch.autocast("cpu", torch.bfloat16):
        BoundLoss(0.3).modulus(network, x, y)
        after = network(y)
    after.sum().backward()
    assert network.weight.grad is not None


def test_it_compiles():
    B, x, y, _ = data(7)
    criterion, network = BoundLoss(0.3, "joint", 2.0), linear(B)
    expected = criterion(network, *tensors(x, y)).item()
    try:
        compiled = torch.compile(criterion, backend="eager", fullgraph=True)
        assert compiled(network, *tensors(x, y)).item() == pytest.approx(expected, rel=1e-12)
    finally:
        torch.compiler.reset()


def test_state_and_repr():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.tensor(2.0))

        def forward(self, model):
            return self.value

    criterion, other = BoundLoss(0.3, lipschitz=Constant()), BoundLoss(0.3, lipschitz=Constant())
    with torch.no_grad():
        criterion.lipschitz.value.fill_(5.0)
    other.load_state_dict(criterion.state_dict())
    assert other.lipschitz.value.item() == 5.0
    assert "radius=0.3, structure='y|x'" in repr(criterion)
    assert "lipschitz=local estimate" in repr(BoundLoss(0.3))


X, Y = torch.zeros(2, 3), torch.ones(2, 3)
NAN_X = X.clone()
NAN_X[1, 2] = math.nan


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"radius": -1.0}, ValueError, "radius: -1"),
        ({"radius": math.nan}, ValueError, "radius: nan"),
        ({"radius": "1"}, TypeError, "radius: "),
        ({"structure": "z"}, ValueError, "structure: .*'z'"),
        ({"lipschitz": -1.0}, ValueError, "lipschitz: -1"),
        ({"lipschitz": math.inf}, ValueError, "lipschitz: inf"),
        ({"lipschitz": "2"}, TypeError, "lipschitz: "),
        ({"lipschitz": torch.ones(2)}, ValueError, r"lipschitz: shape \(2,\)"),
        ({"sweeps": 0}, ValueError, "sweeps: 0"),
        ({"residual": 3}, TypeError, "residual: int is not callable"),
        ({"loss": 3, "lipschitz": 1.0}, TypeError, "loss: int is not callable"),
        ({"loss": max, "lipschitz": 1.0, "residual": max}, ValueError, "loss: allowed without"),
        ({"loss": max}, ValueError, "lipschitz: missing; with loss="),
    ],
)
def test_settings_that_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        BoundLoss(**{"radius": 0.1, **changes})


@pytest.mark.parametrize(
    ("options", "changes", "error", "message"),
    [
        ({}, {"x": NAN_X}, ValueError, "x: 1 entries"),
        ({}, {"x": X[:1]}, ValueError, "y: 2 samples, but x has 1"),
        ({}, {"y": Y.double()}, ValueError, "y: dtype"),
        ({}, {"model": 3}, TypeError, "model: int is not callable"),
        ({}, {"model": lambda y: y[:, :1]}, ValueError, "model: its output has shape"),
        ({"lipschitz": lambda model: -1.0}, {}, ValueError, "lipschitz: -1"),
        ({"lipschitz": lambda model: torch.tensor(math.nan)}, {}, ValueError, "lipschitz: nan"),
        ({"lipschitz": lambda model: None}, {}, TypeError, "lipschitz: "),
        (
            {"lipschitz": 1.0, "loss": lambda f, x, y: -(f(y) - x).square().sum(1)},
            {},
            ValueError,
            "loss: it returned negative",
        ),
    ],
)
def test_calls_that_are_refused(options, changes, error, message):
    arguments = {"model": nn.Identity(), "x": X, "y": Y, **changes}
    with pytest.raises(error, match=message):
        BoundLoss(0.1, **options)(**arguments)
