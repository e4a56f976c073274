"""Wasserstein and linearised DRO losses: exact oracles, brute force, gradients, invariances."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_torch.losses.adversarial import WassersteinDROLoss
from dro_torch.losses.entropic import EntropicDROLoss, EstimatorWarning
from dro_torch.losses.linearised import (
    LinearisedDROLoss,
    LinearisedResidual,
    conjugate_gradients,
    linearised_displacement,
)
from dro_torch.multiplier import Multiplier
from dro_torch.residual import MovedSamples, forward_residual
from dro_torch.structure import Structure, XShift, as_structure

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
STRUCTURES = ("y|x", "x|y", "joint", "x", "x joint")


def problem(seed, samples=5, n=4, m=3):
    """B (n, m), x, y and a forward map A (m, n), as float64 arrays."""
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s) for s in ((n, m), (samples, n), (samples, m), (m, n)))


def structures(name, A):
    """The structure of both packages."""
    if name in ("x", "x joint"):
        cost = {"x": "x", "x joint": "joint"}[name]
        forward = torch.from_numpy(A)
        return XShift(lambda v: v @ forward.to(v).T, cost=cost), dro_core.XShift(A, cost=cost)
    return as_structure(name), name


def linear_network(B):
    network = nn.Linear(B.shape[1], B.shape[0], bias=False).double()
    network.weight.data = torch.from_numpy(B).clone()
    return network


def small_network(seed=0, sizes=(2, 8, 2), dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    network = nn.Sequential(*layers[:-1]).to(dtype)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=dtype))
    return network


def batch(seed, samples=4, n=2, m=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(samples, k, generator=generator, dtype=dtype) for k in (n, m))


def exact(B, x, y, multiplier, structure):
    """Mean potential: the oracle's dual without its budget term, at a radius with a full ball."""
    radius = 50.0 if isinstance(structure, dro_core.XShift) else 0.0
    value = dro_core.dual_value(B, x, y, multiplier, radius, structure)
    return value - multiplier * radius**2


def threshold(B, x, y, structure):
    return dro_core.LinearReconstruction(B, x, y).spectrum(structure).top


def losses(structure, iterations=12):
    return (
        WassersteinDROLoss(structure, 3, iterations=iterations),
        LinearisedDROLoss(structure, iterations),
    )


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


# --- exact for affine maps --------------------------------------------------------------------


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(STRUCTURES),
    factor=st.floats(1.05, 20.0),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
)
@settings(max_examples=16)
def test_both_losses_are_exact_for_linear_maps(seed, name, factor, shape):
    B, x, y, A = problem(seed, *shape)
    own, core = structures(name, A)
    multiplier = max(factor * threshold(B, x, y, core), 1e-3)
    expected = exact(B, x, y, multiplier, core)
    scale = multiplier * 2500 * 1e-3 if name.startswith("x ") else 0.0
    for criterion in losses(own):
        value = criterion(linear_network(B), *tensors(x, y), multiplier).item()
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-10 + 1e-10 * scale)


@pytest.mark.parametrize("name", ["y|x", "joint", "x"])
def test_the_attack_is_the_worst_case_of_the_oracle(name):
    B, x, y, A = problem(3)
    own, core = structures(name, A)
    if name == "x":
        y = x @ A.T
    worst = dro_core.worst_case_risk(B, x, y, 0.3, core)
    criterion = WassersteinDROLoss(own, 3, iterations=12)
    moved = criterion.displacements(linear_network(B), *tensors(x, y), worst.multiplier)
    attacked = own.displace(*tensors(x, y), moved)
    for mine, theirs in zip(attacked, (worst.x, worst.y), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=0, atol=1e-9)
    assert own.transport_cost(*tensors(x, y), moved).mean().item() == pytest.approx(0.09, rel=1e-9)


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_affine_shift_changes_nothing_but_the_residual(name):
    """model(y) = By + b is the linear problem for x - b."""
    B, x, y, A = problem(4)
    if name.startswith("x") and name != "x|y":
        pytest.skip("under structure x the shift b is not one of the data")
    own, core = structures(name, A)
    network = nn.Linear(3, 4).double()
    network.weight.data = torch.from_numpy(B).clone()
    shift = network.bias.detach().numpy()
    multiplier = 2 * threshold(B, x, y, core)
    for criterion in losses(own):
        value = criterion(network, *tensors(x, y), multiplier).item()
        assert value == pytest.approx(exact(B, x - shift, y, multiplier, core), rel=1e-10)


def test_the_simulator_is_the_reconstruction_with_exchanged_roles():
    B, x, y, _ = problem(5)
    network, multiplier = linear_network(B), 3 * np.linalg.norm(B, 2) ** 2
    for make in (WassersteinDROLoss, LinearisedDROLoss):
        simulator = make("x|y", iterations=12, residual=forward_residual)
        value = simulator(network, *tensors(y, x), multiplier).item()
        assert value == pytest.approx(exact(B, x, y, multiplier, "y|x"), rel=1e-10)


@pytest.mark.parametrize("name", ["y|x", "x|y", "joint"])
@pytest.mark.parametrize("factor", [1.1, 3.0])
def test_the_entropic_linearised_loss_is_the_entropic_dual(name, factor):
    B, x, y, _ = problem(6)
    multiplier = factor * threshold(B, x, y, name)
    criterion = LinearisedDROLoss(name, 12, epsilon=0.2)
    expected = dro_core.dual_value(B, x, y, multiplier, 0.0, name, epsilon=0.2)
    assert criterion(linear_network(B), *tensors(x, y), multiplier).item() == pytest.approx(
        expected, rel=1e-10
    )


# --- networks ---------------------------------------------------------------------------------


def grid_maximum(network, x, y, multiplier, low=-2.0, high=2.0, points=401, moves=None):
    """max over y' on a grid of |x - B(y')|² - λ|y' - y|², then on finer ones; (N,)."""
    best = []
    for a, b in zip(x, y, strict=True):
        centre, half = torch.full_like(b, 0.5 * (low + high)), 0.5 * (high - low)
        for level in range(5):
            axis = torch.linspace(-half, half, points if level == 0 else 21, dtype=b.dtype)
            tried = (centre + torch.cartesian_prod(*[axis] * len(b)).reshape(-1, len(b))).clamp(
                low, high
            )
            with torch.no_grad():
                value = (a - network(tried)).square().sum(1)
                value = value - multiplier * (tried - b).square().sum(1)
            centre, half = tried[value.argmax()], half / 20
        best.append(value.max())
    return torch.stack(best)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("start", ["linearised", "zero"])
def test_against_brute_force_on_a_grid(size, start):
    network = small_network(1, (size, 16, 2), scale=0.7)
    x, y = batch(1, 6, 2, size)
    x, y = x, y.clamp(-1, 1)
    slope = torch.func.vmap(torch.func.jacrev(network))(y)
    multiplier = 2.0 * float(torch.linalg.matrix_norm(slope, 2).max().detach()) ** 2
    expected = grid_maximum(network, x, y, multiplier, -3.0, 3.0, 121).mean()
    criterion = WassersteinDROLoss("y|x", 30, start=start)
    value = criterion(network, x, y, multiplier).item()
    assert value == pytest.approx(float(expected), rel=1e-6)
    assert WassersteinDROLoss("y|x", 3)(network, x, y, multiplier).item() <= value * (1 + 1e-9)


@pytest.mark.parametrize("size", [1, 2])
def test_the_box_is_kept_and_reached(size):
    """In y in [0, 1] the grid finds the same maximum, and the box binds."""
    network = small_network(2, (size, 16, 2), scale=0.9)
    x, y = batch(2, 6, 2, size)
    y = y.abs().clamp(0.05, 0.95)
    slope = torch.func.vmap(torch.func.jacrev(network))(y)
    multiplier = 1.2 * float(torch.linalg.matrix_norm(slope, 2).max().detach()) ** 2
    criterion = WassersteinDROLoss("y|x", 40, box=(0, 1))
    attacked = y + criterion.displacements(network, x, y, multiplier)
    assert float(attacked.min()) >= 0
    assert float(attacked.max()) <= 1
    assert bool(((attacked == 0) | (attacked == 1)).any())
    value = criterion(network, x, y, multiplier).item()
    expected = grid_maximum(network, x, y, multiplier, 0.0, 1.0, 121).mean()
    assert value == pytest.approx(float(expected), rel=1e-6)
    with warnings.catch_warnings():  # elsewhere the network is steeper than in the box
        warnings.simplefilter("ignore", EstimatorWarning)
        assert value < WassersteinDROLoss("y|x", 40)(network, x, y, multiplier).item()


@pytest.mark.parametrize("name", ["y|x", "x|y", "joint", "x"])
def test_the_box_bounds_what_moves_and_entries_outside_move_inwards_only(name):
    B, x, y, A = problem(8, n=3, m=3)
    own, core = structures(name, A)
    multiplier = 1.1 * threshold(B, x, y, core)
    criterion = WassersteinDROLoss(own, 5, box=(-0.5, 0.5))
    x, y = tensors(x, y)
    moved = criterion.displacements(linear_network(B), x, y, multiplier)
    before = {"y|x": y, "x|y": x, "x": x, "joint": torch.cat([x, y], 1)}[name]
    after = before + moved
    assert bool((after <= before.clamp(min=0.5) + 1e-15).all())
    assert bool((after >= before.clamp(max=-0.5) - 1e-15).all())
    assert bool((moved != 0).any())


@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(STRUCTURES),
    factor=st.floats(0.02, 5.0),
    steps=st.integers(1, 6),
    start=st.sampled_from(["linearised", "zero"]),
    box=st.booleans(),
)
@settings(max_examples=25)
def test_no_step_lowers_the_value(seed, name, factor, steps, start, box):
    """More steps never give less, and none gives less than the unmoved samples."""
    network = small_network(seed, (3, 6, 4), scale=1.5)
    _, x, y, A = problem(seed)
    own, _ = structures(name, A)
    x, y = tensors(x, y)
    options = {"start": start, "box": (-1, 1) if box else None}
    zero = torch.zeros(len(x), 1, MovedSamples(network, x, y, own).size, dtype=x.dtype)
    still = MovedSamples(network, x, y, own)
    nominal = (still.losses(zero) - factor * still.transport_cost(zero)).mean().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        few = WassersteinDROLoss(own, steps, **options)
        less, more = (
            criterion(network, x, y, factor).item()
            for criterion in (few, WassersteinDROLoss(own, steps + 3, **options))
        )
    slack = 1e-12 * (1 + abs(nominal) + abs(more))
    assert nominal - slack <= less <= more + slack
    assert few.diagnostics["increase"].item() == pytest.approx(less - nominal, abs=slack)


def test_an_ascent_step_that_overshoots_is_not_taken():
    """With a huge step the first trials are refused, later ones are short enough."""
    network, (x, y) = small_network(3), batch(3)
    nominal = (x - network(y)).square().sum(1).mean().item()
    one = WassersteinDROLoss("y|x", 1, start="zero", step_size=1e3, probe=False)
    many = WassersteinDROLoss("y|x", 25, start="zero", step_size=1e3, probe=False)
    assert one(network, x, y, 20.0).item() == nominal
    best = WassersteinDROLoss("y|x", 25)(network, x, y, 20.0).item()
    assert many(network, x, y, 20.0).item() == pytest.approx(best, rel=1e-6)
    assert best > nominal


@pytest.mark.parametrize("start", ["linearised", "zero"])
def test_any_loss_of_a_sample(start):
    """‖r‖² given as a loss is the default; an absolute loss against a grid."""
    B, x, y, _ = problem(9)
    x, y = tensors(x, y)
    multiplier = 6 * np.linalg.norm(B, 2) ** 2

    def squared(model, x, y):
        return (x - model(y)).square().sum(1)

    given_loss = WassersteinDROLoss("y|x", 30, loss=squared, start=start)
    default = WassersteinDROLoss("y|x", 30, start="zero")
    network = linear_network(B)
    assert given_loss(network, x, y, multiplier).item() == pytest.approx(
        default(network, x, y, multiplier).item(), rel=1e-12
    )

    def absolute(model, x, y):
        return torch.hypot(x - model(y), torch.ones_like(x)).sum(1)

    network, (x, y) = small_network(4, (1, 8, 1)), batch(4, 5, 1, 1)
    tried = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        grid = torch.hypot(x[:, 0] - network(tried), torch.ones(())) - 3 * (tried - y[:, 0]) ** 2
    value = WassersteinDROLoss("y|x", 40, loss=absolute, start=start)(network, x, y, 3.0)
    assert value.item() == pytest.approx(grid.max(0).values.mean().item(), rel=1e-5)


# --- where residuals vanish -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linearised start", "zero start", "linearised"])
def test_an_interpolating_map_is_not_taken_for_a_robust_one(kind):
    """B interpolates and v = 0 is stationary; below κ² = 25 the potential is infinite."""
    network = linear_network(np.array([[5.0]]))
    y = torch.linspace(0.5, 2, 6, dtype=torch.float64)[:, None]
    criterion = {
        "linearised start": WassersteinDROLoss("y|x", 3),
        "zero start": WassersteinDROLoss("y|x", 3, start="zero"),
        "linearised": LinearisedDROLoss("y|x", 8),
    }[kind]
    with pytest.warns(EstimatorWarning, match="no maximum|growing"):
        value = criterion(network, network(y), y, 1.0)
    assert value.item() >= 24.0 * float(y.square().mean()) * (1 - 1e-9)  # as far as y is long
    assert criterion.diagnostics["indefinite_share"].item() == 1.0
    quiet = criterion(network, network(y), y, 25.1)
    assert quiet.item() == pytest.approx(0.0, abs=1e-12)
    assert criterion.diagnostics["indefinite_share"].item() == 0.0


@pytest.mark.parametrize("kind", ["wasserstein", "linearised"])
@pytest.mark.filterwarnings("ignore::dro_torch.losses.estimation.EstimatorWarning")
def test_a_learned_multiplier_reaches_the_hard_case(kind):
    """Twelve samples in four dimensions, no residual: the exact worst case is κ²ρ² = 6.25."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((3, 4))
    B *= 5.0 / np.linalg.norm(B, 2)
    network, y = linear_network(B), torch.from_numpy(rng.standard_normal((12, 4)))
    x = network(y).detach()
    exact = dro_core.worst_case_risk(B, x.numpy(), y.numpy(), 0.5).risk
    assert exact == pytest.approx(6.25)
    criterion = (
        WassersteinDROLoss("y|x", 2) if kind == "wasserstein" else LinearisedDROLoss("y|x", 8)
    )
    multiplier = Multiplier(0.5, 4.0, lower=0.1)
    optimiser = torch.optim.Adam(multiplier.parameters(), lr=0.1)
    slower = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 / (1.0 + step / 10))
    values = []
    for step in range(400):
        objective = criterion(network, x, y, multiplier(), step=step) + multiplier.penalty()
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        slower.step()
        values.append(objective.item())
    assert np.mean(values[-100:]) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_probe_changes_nothing_above_the_threshold(name):
    B, x, y, A = problem(17)
    if name in ("x", "x joint"):
        y = x @ A.T
    own, core = structures(name, A)
    lam = 1.2 * threshold(B, x, y, core)
    args = linear_network(B), *tensors(x, y), lam
    for make in (WassersteinDROLoss, LinearisedDROLoss):
        with_probe, without = (make(own, 12, probe=probe)(*args).item() for probe in (True, False))
        assert with_probe == pytest.approx(without, rel=1e-9)


# --- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("kind", ["wasserstein", "linearised", "entropic"])
def test_gradients_of_affine_maps_are_those_of_the_exact_potential(name, kind):
    """Envelope theorem: numerical differences see the whole maximum, autograd the fixed v."""
    if kind == "entropic" and name in ("x", "x joint"):
        pytest.skip("no entropic version")
    B, x, y, A = problem(10, 3, 3, 2)
    own, core = structures(name, A)
    criterion = {
        "wasserstein": WassersteinDROLoss(own, 3, iterations=12),
        "linearised": LinearisedDROLoss(own, 12),
        "entropic": LinearisedDROLoss(own, 12, epsilon=0.3 if kind == "entropic" else 0.0),
    }[kind]
    x, y = tensors(x, y)
    multiplier = torch.tensor(
        2.5 * threshold(B, *(v.numpy() for v in (x, y)), core),
        dtype=torch.float64,
        requires_grad=True,
    )

    def value(weight, bias, lam):
        return criterion(lambda v: v @ weight.T + bias, x, y, lam)

    weight = torch.from_numpy(B).clone().requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (weight, bias, multiplier), atol=1e-7, fast_mode=True)


def test_the_gradient_in_the_map_is_the_oracle_s():
    B, x, y, _ = problem(11)
    multiplier = 2 * np.linalg.norm(B, 2) ** 2
    expected = dro_core.LinearReconstruction(B, x, y).dual_gradient(multiplier, 0.0, "y|x")
    expected = expected[0] if isinstance(expected, tuple) else expected
    for criterion in losses("y|x"):
        network = linear_network(B)
        criterion(network, *tensors(x, y), multiplier).backward()
        np.testing.assert_allclose(network.weight.grad.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["y|x", "joint", "x joint"])
def test_the_linearised_gradient_goes_through_the_jacobian_of_a_network(name):
    """gradcheck in parameters and λ where C depends on the parameters."""
    A = np.array([[0.5, 0.2], [0.1, -0.3]])
    own, _ = structures(name, A)
    criterion = LinearisedDROLoss(own, 8)
    network, (x, y) = small_network(5, (2, 5, 2), scale=0.8), batch(5)
    names = list(dict(network.named_parameters()))
    lam = torch.tensor(60.0, dtype=torch.float64, requires_grad=True)

    def value(lam, *parameters):
        values = dict(zip(names, parameters, strict=True))
        return criterion(lambda v: torch.func.functional_call(network, values, v), x, y, lam)

    parameters = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(value, (lam, *parameters), atol=1e-7, fast_mode=True)


def test_the_wasserstein_gradient_of_a_network_is_that_at_the_attack():
    network, (x, y) = small_network(6), batch(6)
    criterion = WassersteinDROLoss("y|x", 40)
    lam = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    names = list(dict(network.named_parameters()))

    def value(lam, *parameters):
        values = dict(zip(names, parameters, strict=True))
        return criterion(lambda v: torch.func.functional_call(network, values, v), x, y, lam)

    parameters = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert torch.autograd.gradcheck(value, (lam, *parameters), atol=1e-6, fast_mode=True)
    value(lam, *parameters).backward()
    paid = criterion.displacements(network, x, y, 40.0).square().sum(1).mean()
    assert lam.grad.item() == pytest.approx(-paid.item(), rel=1e-12)


def test_the_attack_leaves_no_gradient_behind():
    network, (x, y) = small_network(7), batch(7)
    with torch.no_grad():
        silent = WassersteinDROLoss("y|x")(network, x, y, 30.0)
    assert not silent.requires_grad
    assert WassersteinDROLoss("y|x")(network, x, y, 30.0).item() == silent.item()
    assert not WassersteinDROLoss("y|x").displacements(network, x, y, 30.0).requires_grad
    assert all(p.grad is None for p in network.parameters())


# --- the linear solver ------------------------------------------------------------------------


def test_conjugate_gradients_solve_definite_and_flag_indefinite_problems():
    rng = np.random.default_rng(12)
    root = rng.standard_normal((3, 4, 4))
    H = np.einsum("kij,klj->kil", root, root) + 0.1 * np.eye(4)
    H[1] -= 2 * np.linalg.eigvalsh(H[1])[-1] * np.eye(4)
    right = rng.standard_normal((3, 4))
    right[2] = 0.0
    matrix, b = tensors(H, right)
    v, indefinite = conjugate_gradients(
        lambda d: (matrix @ d[..., None])[..., 0], b, 20, torch.zeros(())
    )
    assert indefinite.tolist() == [False, True, False]
    np.testing.assert_allclose(v[0], np.linalg.solve(H[0], right[0]), rtol=1e-10)
    assert not v[1].any()  # negative curvature at once: nothing was moved
    assert not v[2].any()


def test_products_with_the_jacobian():
    network, (x, y) = small_network(8, (3, 6, 2)), batch(8, 4, 2, 3)
    C = -torch.func.vmap(torch.func.jacrev(network))(y).detach()
    linear = LinearisedResidual(MovedSamples(network, x, y, as_structure("y|x")))
    v, w = batch(9, 4, 3, 2)
    torch.testing.assert_close(linear.apply(v), (C @ v[..., None])[..., 0])
    torch.testing.assert_close(linear.adjoint(w), (C.mT @ w[..., None])[..., 0])
    torch.testing.assert_close(linear.value, (x - network(y)).detach())


def test_the_linearised_attack_written_out():
    network, (x, y) = small_network(10, (3, 6, 2)), batch(10, 4, 2, 3)
    moved = MovedSamples(network, x, y, as_structure("y|x"))
    attack = linearised_displacement(moved, torch.tensor(50.0, dtype=torch.float64), 10)
    C = -torch.func.vmap(torch.func.jacrev(network))(y).detach()
    r = (x - network(y)).detach()
    H = 50 * torch.eye(3, dtype=torch.float64) - C.mT @ C
    expected = torch.linalg.solve(H, (C.mT @ r[..., None])[..., 0])
    torch.testing.assert_close(attack.displacement, expected)
    torch.testing.assert_close(attack.slope, 2 * (C.mT @ r[..., None])[..., 0])
    torch.testing.assert_close(attack.nominal, r.square().sum(1))
    value = (r[..., None] + C @ expected[..., None]).square().sum((1, 2))
    value = (value - 50 * expected.square().sum(1)).mean()
    assert LinearisedDROLoss(iterations=10)(network, x, y, 50.0).item() == pytest.approx(
        value.item(), rel=1e-12
    )


@given(seed=st.integers(0, 1000))
@settings(max_examples=6)
def test_fewer_iterations_give_a_lower_value(seed):
    B, x, y, _ = problem(seed, 3, 5, 5)
    multiplier = 1.02 * threshold(B, x, y, "joint")
    values = [
        LinearisedDROLoss("joint", k)(linear_network(B), *tensors(x, y), multiplier).item()
        for k in (1, 2, 4, 12)
    ]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(values))


# --- invariances ------------------------------------------------------------------------------

KINDS = {
    "wasserstein": lambda **k: WassersteinDROLoss("y|x", 3, **k),
    "zero": lambda **k: WassersteinDROLoss("joint", 3, start="zero", **k),
    "linearised": lambda **k: LinearisedDROLoss("y|x", 4, **k),
    "entropic": lambda **k: LinearisedDROLoss("y|x", 4, epsilon=0.1, **k),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_does_not_see_the_rest_of_its_batch(kind):
    network, (x, y) = small_network(11, (3, 8, 2)), batch(11, 6, 2, 3)
    criterion = KINDS[kind]()
    alone = [criterion(network, x[i : i + 1], y[i : i + 1], 30.0).item() for i in range(6)]
    assert criterion(network, x, y, 30.0).item() == pytest.approx(np.mean(alone), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_deterministic_and_keys_change_nothing(kind):
    network, (x, y) = small_network(12, (3, 8, 2)), batch(12, 6, 2, 3)
    state = torch.random.get_rng_state()
    criterion = KINDS[kind]()
    first = criterion(network, x, y, 30.0).item()
    again = criterion(network, x, y, 30.0, torch.Generator(), index=torch.arange(6), seed=3, step=4)
    assert again.item() == first
    assert torch.equal(torch.random.get_rng_state(), state)
    restored = KINDS[kind]()
    restored.load_state_dict(criterion.state_dict())
    assert restored(network, x, y, 30.0).item() == first


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_precision_and_device_change_only_digits(device, kind):
    network, (x, y) = small_network(13, (3, 16, 2), scale=0.5), batch(13, 6, 2, 3)
    criterion, lam = KINDS[kind](), torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    value = criterion(network, x, y, lam)
    value.backward()
    wide = torch.cat([p.grad.flatten() for p in network.parameters()])
    network = network.to(device, torch.float32)
    x, y, lam = (v.detach().to(device, torch.float32) for v in (x, y, lam))
    for autocast, tolerance in ((False, 1e-4), (True, 0.05)):
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            plain = network(y)  # fills the cache of weights
            narrow = criterion(network, x, y, lam)
            after = network(y)  # what the loss leaves in the cache still has its graph
        assert narrow.dtype == torch.float32
        assert narrow.item() == pytest.approx(value.item(), rel=tolerance)
        narrow.backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()]).double().cpu()
        assert float((gradient - wide).norm()) <= 2 * tolerance * float(wide.norm())
        network.zero_grad()
        (plain.sum() + after.sum()).backward()
        assert all(bool(p.grad.any()) for p in network.parameters())


@pytest.mark.parametrize("kind", ["wasserstein", "linearised"])
def test_images_and_half_precision_models(kind):
    """Batches of any shape; convolutions; a sum over one flat row per sample."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 1, 6, 6, generator=generator) for _ in range(2))
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.Conv2d(3, 1, 3, padding=1))
    value = KINDS[kind]()(network, x, y, 20.0)
    value.backward()
    assert value.item() >= (x - network(y)).square().sum((1, 2, 3)).mean().item() * (1 - 1e-6)
    assert network[0].weight.grad.isfinite().all()
    shape = WassersteinDROLoss("joint").displacements(network, x, y, 20.0).shape
    assert shape == (2, 72)


@pytest.mark.parametrize("kind", ["wasserstein", "linearised"])
def test_it_compiles(kind):
    network, (x, y) = small_network(14, (3, 8, 2), torch.float32, 0.5), batch(14, 4, 2, 3)
    x, y = x.float(), y.float()
    expected = KINDS[kind]()(network, x, y, 20.0)
    try:
        compiled = torch.compile(KINDS[kind](), backend="eager")(network, x, y, 20.0)
        inside = KINDS[kind]()(torch.compile(network, backend="eager"), x, y, 20.0)
    finally:
        torch.compiler.reset()
    assert compiled.item() == pytest.approx(expected.item(), rel=1e-5)
    assert inside.item() == pytest.approx(expected.item(), rel=1e-5)
    compiled.backward()
    assert network[0].weight.grad is not None


def test_diagnostics():
    B, x, y, _ = problem(15)
    network = linear_network(B)
    worst = dro_core.worst_case_risk(B, x, y, 0.4)
    nominal = float(np.square(x - y @ B.T).sum(1).mean())
    for criterion in losses("y|x"):
        value = criterion(network, *tensors(x, y), worst.multiplier).item()
        report = {name: v.item() for name, v in criterion.diagnostics.items()}
        assert report["transport_cost"] == pytest.approx(0.16, rel=1e-9)
        assert report["increase"] == pytest.approx(value - nominal, rel=1e-9)
        assert report["indefinite_share"] == 0.0


@pytest.mark.parametrize(("steps", "start"), [(1, "zero"), (3, "zero"), (3, "linearised")])
def test_passes_are_what_the_network_sees(steps, start):
    """Forward rows are counted by a hook; every other pass is a backward one."""
    network, (x, y) = small_network(16, (9, 16, 9), scale=0.4), batch(16, 4, 9, 9)
    rows = []
    network.register_forward_hook(lambda *_: rows.append(len(y)))
    criterion = WassersteinDROLoss("y|x", steps, start=start, iterations=4)
    criterion(network, x, y, 500.0)
    passes = int(criterion.diagnostics["passes"])
    forward, both = 2, 4  # where the large move starts and ends
    if start == "zero":
        assert (len(rows), passes) == (steps + 2 + forward, 2 * steps + 2 + both)
    else:  # one linearisation: forward, back, Cᵀr, and two products per iteration
        rest = 3 + 2 * 4 + 2 * steps + 1 + 1
        assert (len(rows), passes) == (1 + steps + 1 + 1 + forward, rest + both)


# --- warnings and bad input -------------------------------------------------------------------


@pytest.mark.parametrize("make", [WassersteinDROLoss, LinearisedDROLoss])
def test_warnings_carry_numbers_and_come_once(make):
    B, x, y, _ = problem(17)
    network, top = linear_network(B), np.linalg.norm(B, 2)
    x, y = tensors(x, y)
    criterion = make("y|x", iterations=12)
    with pytest.warns(EstimatorWarning, match=r"multiplier 0\.1 the linearised problem of 100%"):
        criterion(network, x, y, 0.1)
    assert criterion.diagnostics["indefinite_share"].item() == 1.0
    assert math.isfinite(criterion(network, x, y, 0.1).item())  # said once
    known = make("y|x", iterations=12, modulus=2 * top)
    with pytest.warns(EstimatorWarning, match=r"at or below κ² = "):
        known(network, x, y, 3.9 * top**2)
    known(network, x, y, 3.9 * top**2)
    with pytest.warns(EstimatorWarning, match=r"0\.9 is at or below κ² = 1 \(κ = 1\)"):
        make("x|y")(network, x, y, 0.9)
    make("y|x", iterations=12, modulus=top)(network, x, y, 1.01 * top**2)


def test_a_structure_of_one_s_own():
    class Doubled(Structure):
        name = "doubled"

        def size(self, x, y):
            return y[0].numel()

        def displace(self, x, y, displacement):
            return x, y + 2 * displacement.reshape(y.shape)

    B, x, y, _ = problem(18)
    multiplier = 8 * np.linalg.norm(B, 2) ** 2
    for criterion in losses(Doubled()):
        value = criterion(linear_network(B), *tensors(x, y), multiplier).item()
        assert value == pytest.approx(exact(B, x, y, multiplier / 4, "y|x"), rel=1e-10)
    with pytest.raises(ValueError, match="box: structure 'doubled' does not say"):
        WassersteinDROLoss(Doubled(), box=(0, 1))


def test_repr():
    assert "structure='y|x', steps=3, start='zero'" in repr(WassersteinDROLoss(start="zero"))
    assert "box=(0.0, 1.0)" in repr(WassersteinDROLoss(box=(0, 1)))
    assert "iterations=16, epsilon=0.1" in repr(LinearisedDROLoss(epsilon=0.1))


X, Y = torch.zeros(2, 3), torch.ones(2, 3)
MODEL = nn.Identity()
FORWARD = XShift(lambda x: x)


@pytest.mark.parametrize(
    ("make", "changes", "error", "message"),
    [
        (WassersteinDROLoss, {"structure": "z"}, ValueError, "structure: .*'z'"),
        (WassersteinDROLoss, {"structure": "x"}, ValueError, r"XShift\(forward\)"),
        (WassersteinDROLoss, {"structure": 3}, TypeError, "structure: 3"),
        (WassersteinDROLoss, {"steps": 0}, ValueError, "steps: 0"),
        (WassersteinDROLoss, {"steps": 1.5}, TypeError, "steps: "),
        (WassersteinDROLoss, {"iterations": -1}, ValueError, "iterations: -1"),
        (WassersteinDROLoss, {"start": "linear"}, ValueError, "start: .*linearised"),
        (WassersteinDROLoss, {"step_size": 0.0}, ValueError, "step_size: 0"),
        (WassersteinDROLoss, {"step_size": math.inf}, ValueError, "step_size: "),
        (WassersteinDROLoss, {"residual": 3}, TypeError, "residual: int is not callable"),
        (WassersteinDROLoss, {"loss": 3}, TypeError, "loss: int is not callable"),
        (WassersteinDROLoss, {"loss": max, "residual": max}, ValueError, "loss: allowed without"),
        (WassersteinDROLoss, {"box": 1.0}, ValueError, "box: 1.0; allowed: a pair"),
        (WassersteinDROLoss, {"box": (1.0, 0.0)}, ValueError, r"box: \(1.0, 0.0\); .*low < high"),
        (WassersteinDROLoss, {"box": (math.nan, 0.0)}, ValueError, "box: .*low < high"),
        (WassersteinDROLoss, {"box": (Y, Y)}, TypeError, "box: Tensor"),
        (WassersteinDROLoss, {"box": ("a", "b")}, TypeError, "box: str"),
        (WassersteinDROLoss, {"modulus": -1.0}, ValueError, "modulus: -1.0"),
        (LinearisedDROLoss, {"structure": "y"}, ValueError, "structure: .*'y'"),
        (LinearisedDROLoss, {"iterations": 0}, ValueError, "iterations: 0"),
        (LinearisedDROLoss, {"epsilon": -0.1}, ValueError, "epsilon: -0.1"),
        (LinearisedDROLoss, {"epsilon": math.nan}, ValueError, "epsilon: nan"),
        (LinearisedDROLoss, {"epsilon": 1.0, "structure": FORWARD}, ValueError, "epsilon: > 0"),
    ],
)
def test_settings_that_are_refused(make, changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def replaced(value):
    x = X.clone()
    x[1, 2] = value
    return x


@pytest.mark.parametrize("make", [WassersteinDROLoss, LinearisedDROLoss])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": replaced(math.nan)}, ValueError, r"x: 1 entries.*\(1, 2\)"),
        ({"y": replaced(math.inf)}, ValueError, "y: 1 entries"),
        ({"x": X[:, 0]}, ValueError, r"x: shape \(2,\)"),
        ({"x": X[:1]}, ValueError, "y: 2 samples, but x has 1"),
        ({"x": X.double()}, ValueError, "y: dtype"),
        ({"x": X.numpy()}, TypeError, "x: ndarray"),
        ({"multiplier": 0.0}, ValueError, "multiplier: 0"),
        ({"multiplier": math.inf}, ValueError, "multiplier: inf"),
        ({"multiplier": torch.ones(2)}, ValueError, "multiplier: shape"),
        ({"model": 3}, TypeError, "model: int is not callable"),
        ({"model": lambda y: y[:, :1]}, ValueError, r"model: its output has shape \(2, 1\)"),
        ({"model": lambda y: y.detach()}, ValueError, "residual: it is detached"),
    ],
)
def test_calls_that_are_refused(make, changes, error, message):
    arguments = {"model": MODEL, "x": X, "y": Y, "multiplier": 4.0, **changes}
    with pytest.raises(error, match=message):
        make()(**arguments)


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
def test_more_calls_that_are_refused():
    with pytest.raises(ValueError, match=r"loss: it returned \(2, 3\) for 2 samples"):
        WassersteinDROLoss(loss=lambda model, x, y: x - model(y))(MODEL, X, Y, 4.0)
    with pytest.raises(ValueError, match=r"multiplier: 0.5 is at or below 1, .*infinite"):
        LinearisedDROLoss(epsilon=0.1)(MODEL, X, Y, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ulps", [-2, 0, 1, 2])
def test_within_rounding_of_the_threshold_losses_refuse_or_warn(dtype, ulps):
    """A value there is rounding noise for infinity."""
    generator = torch.Generator().manual_seed(3)
    B = torch.randn(4, 5, dtype=dtype, generator=generator)
    x, y = (torch.randn(6, size, dtype=dtype, generator=generator) for size in (4, 5))
    norm = float(torch.linalg.matrix_norm(B, 2))
    multiplier = norm**2 * (1 + ulps * torch.finfo(dtype).eps)
    with pytest.raises(ValueError, match=r"multiplier: .* is at or below"):
        LinearisedDROLoss(epsilon=0.1)(lambda rows: rows @ B.T, x, y, multiplier)
    for loss in (LinearisedDROLoss(modulus=norm), EntropicDROLoss(0.1, modulus=norm)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            loss(lambda rows: rows @ B.T, x, y, multiplier)
        assert "is at or below κ² = " in str(said[0].message)
