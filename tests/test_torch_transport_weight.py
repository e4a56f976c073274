"""Weights of the transport cost in dro_torch: parity with dro_core, whitening, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_torch import (
    BoundLoss,
    EntropicDROLoss,
    Joint,
    LinearisedDROLoss,
    WassersteinDROLoss,
    XGivenY,
    XShift,
    YGivenX,
    certify,
)

N, M = 4, 3


def problem(seed, samples=5):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s) for s in ((N, M), (samples, N), (samples, M), (M, N)))


def weights(seed, size, frozen):
    rng = np.random.default_rng(seed)
    value = 10.0 ** rng.uniform(-2, 2, size)
    if frozen:
        value[rng.integers(size)] = math.inf
    return value


def balls(name, seed, frozen=True):
    """The weighted structure of both packages."""
    wx, wy = weights(seed, N, frozen), weights(seed + 1, M, frozen)
    tx, ty = torch.from_numpy(wx), torch.from_numpy(wy)
    A = problem(seed)[3]
    if name == "x":
        wx, forward = weights(seed, N, False), torch.from_numpy(A)
        own = XShift(lambda v: v @ forward.T, weight_x=torch.from_numpy(wx))
        return own, dro_core.XShift(A, cost="x", weight_x=wx)
    if name == "x joint":
        wx, wy, forward = weights(seed, N, False), weights(seed + 1, M, False), torch.from_numpy(A)
        own = XShift(
            lambda v: v @ forward.T, cost="joint", weight_x=wx, weight_y=torch.from_numpy(wy)
        )
        return own, dro_core.XShift(A, weight_x=wx, weight_y=wy)
    return {
        "y|x": lambda: (YGivenX(ty), dro_core.YGivenX(wy)),
        "x|y": lambda: (XGivenY(tx), dro_core.XGivenY(wx)),
        "joint": lambda: (Joint(tx, ty), dro_core.Joint(wx, wy)),
    }[name]()


def network_of(B):
    network = nn.Linear(M, N, bias=False).double()
    network.weight.data = torch.from_numpy(B).clone()
    return network


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


NAMES = ("y|x", "x|y", "joint", "x", "x joint")


@given(st.integers(0, 10_000), st.sampled_from(NAMES), st.floats(1.05, 20.0), st.booleans())
@settings(max_examples=25)
def test_losses_equal_the_core_for_linear_maps(seed, name, factor, frozen):
    B, x, y, A = problem(seed)
    if name in ("x", "x joint"):
        y = x @ A.T
    own, core = balls(name, seed, frozen)
    spectrum = dro_core.LinearReconstruction(B, x, y).spectrum(core)
    multiplier = max(factor * spectrum.top, 1e-3)
    expected = dro_core.dual_value(B, x, y, multiplier, 0.0, core)
    for criterion in (WassersteinDROLoss(own, 3, iterations=12), LinearisedDROLoss(own, 12)):
        value = criterion(network_of(B), *tensors(x, y), multiplier).item()
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["y|x", "joint", "x"])
def test_the_attack_is_the_worst_case_of_the_core(name):
    B, x, y, A = problem(3)
    if name == "x":
        y = x @ A.T
    own, core = balls(name, 7, frozen=True)
    worst = dro_core.worst_case_risk(B, x, y, 0.3, core)
    criterion = WassersteinDROLoss(own, 3, iterations=14)
    v = criterion.displacements(network_of(B), *tensors(x, y), worst.multiplier)
    attacked = own.displace(*tensors(x, y), v)
    for mine, theirs in zip(attacked, (worst.x, worst.y), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=0, atol=1e-8)
    assert own.transport_cost(*tensors(x, y), v).mean().item() == pytest.approx(0.09, rel=1e-8)


@pytest.mark.parametrize("name", ["y|x", "x|y", "joint"])
def test_tilted_sampling_is_exact_for_linear_maps(name):
    """The reference noise has covariance (ε/2) W⁻¹: in whitened rows the unweighted problem."""
    B, x, y, _ = problem(5)
    own, core = balls(name, 5, frozen=False)
    C = dense_displacement(B, core)
    multiplier, epsilon = 1.7 * np.linalg.norm(C, 2) ** 2, 0.2
    loss = EntropicDROLoss(epsilon, own, 2, "tilted", rank="full", defensive=False)
    value = float(loss(network_of(B), *tensors(x, y), multiplier, seed=1))
    gram = np.eye(N) - C @ C.T / multiplier
    r = x - y @ B.T
    expected = np.einsum("ij,ij->i", r, np.linalg.solve(gram, r.T).T).mean()
    expected -= 0.5 * multiplier * epsilon * np.linalg.slogdet(gram)[1]
    assert value == pytest.approx(expected, rel=1e-10)


def dense_displacement(B, core):
    wx = core.weight_x.value if core.name != "y|x" else math.inf
    wy = core.weight_y.value if core.name != "x|y" else math.inf
    roots = (1 / np.sqrt(np.broadcast_to(w, k)) for w, k in ((wx, N), (wy, M)))
    return np.hstack([M_ * root for M_, root in zip((np.eye(N), -B), roots, strict=True)])


@pytest.mark.parametrize("name", ["y|x", "x|y", "joint"])
def test_a_certificate_of_an_affine_map_is_exact(name):
    B, x, y, _ = problem(2)
    own, core = balls(name, 2)
    exact = dro_core.worst_case_risk(B, x, y, 0.7, core).risk
    found = certify(network_of(B), *tensors(x, y), 0.7, own, directions=7)
    assert found.holds()
    assert found.upper == pytest.approx(exact, rel=1e-9)
    assert found.lower == pytest.approx(exact, rel=1e-6)


def test_a_certificate_with_weights_of_every_sample_is_exact_for_an_affine_map():
    B, x, y, _ = problem(12)
    table = 10.0 ** np.random.default_rng(2).uniform(-1, 1, (5, M))
    exact = dro_core.sample_weighted_worst_case(B, x, y, 0.7, table)
    weight = torch.from_numpy(table)
    found = certify(
        network_of(B), *tensors(x, y), 0.7, YGivenX(lambda x, y: weight[: len(y)]), directions=3
    )
    assert found.affine
    assert found.upper == pytest.approx(exact.risk, rel=1e-9)
    assert found.lower == pytest.approx(exact.risk, rel=1e-6)


def test_an_upper_end_for_a_network_is_that_of_the_whitened_map():
    network = nn.Sequential(nn.Linear(M, 8), nn.Tanh(), nn.Linear(8, N)).double()
    _, x, y, _ = problem(1)
    weight = torch.tensor([0.25, 4.0, 1.0], dtype=torch.float64)
    plain = certify(network, *tensors(x, y), 0.5)
    weighted = certify(network, *tensors(x, y), 0.5, YGivenX(weight))
    assert weighted.modulus == pytest.approx(2.0 * plain.modulus, rel=1e-12)
    assert weighted.lower <= weighted.upper
    of_samples = certify(network, *tensors(x, y), 0.5, YGivenX(lambda x, y: weight.expand(5, 3)))
    assert of_samples.modulus == pytest.approx(weighted.modulus, rel=1e-12)
    assert of_samples.lower == pytest.approx(weighted.lower, rel=1e-9)


@given(st.integers(0, 1000), st.floats(0.01, 100.0))
@settings(max_examples=10)
def test_one_number_only_changes_the_unit_of_the_radius(seed, weight):
    B, x, y, _ = problem(seed)
    plain = WassersteinDROLoss("y|x", 3, iterations=8)
    scaled = WassersteinDROLoss(YGivenX(weight), 3, iterations=8)
    lam = 1.5 * np.linalg.norm(B, 2) ** 2
    args = network_of(B), *tensors(x, y)
    assert scaled(*args, lam / weight).item() == pytest.approx(plain(*args, lam).item(), rel=1e-9)


def test_frozen_entries_stay_where_they_are():
    B, x, y, _ = problem(8)
    own = YGivenX(torch.tensor([1.0, math.inf, 2.0]))
    criterion = WassersteinDROLoss(own, 3)
    v = criterion.displacements(network_of(B), *tensors(x, y), 40.0)
    moved = own.displace(*tensors(x, y), v)[1]
    assert torch.equal(moved[:, 1], torch.from_numpy(y)[:, 1])
    assert not torch.equal(moved[:, 0], torch.from_numpy(y)[:, 0])
    boxed = WassersteinDROLoss(own, 3, box=(-0.5, 0.5))
    assert torch.isfinite(boxed(network_of(B), *tensors(x, y), 40.0))


def test_weights_of_every_sample_are_those_of_each_alone():
    """A callable gives sample i its own weights; a mask per image is one of its uses."""
    B, x, y, _ = problem(4)
    table = torch.from_numpy(10.0 ** np.random.default_rng(1).uniform(-1, 1, (5, M)))
    own, lam = YGivenX(lambda x, y: table[: len(y)]), 400.0
    joint = WassersteinDROLoss(own, 3, iterations=8)(network_of(B), *tensors(x, y), lam).item()
    alone = [
        WassersteinDROLoss(YGivenX(table[i]), 3, iterations=8)(
            network_of(B), *tensors(x[i : i + 1], y[i : i + 1]), lam
        ).item()
        for i in range(5)
    ]
    assert joint == pytest.approx(np.mean(alone), rel=1e-12)
    repeated = YGivenX(lambda x, y: y.square() + 1.0)
    value = EntropicDROLoss(0.1, repeated, 3)(network_of(B), *tensors(x, y), lam, seed=0)
    assert torch.isfinite(value)


@pytest.mark.parametrize("name", ["y|x", "joint"])
def test_gradients(name):
    B, x, y, _ = problem(6)
    own, _ = balls(name, 6)
    matrix = torch.from_numpy(B).clone().requires_grad_()
    lam = torch.tensor(4000.0, dtype=torch.float64, requires_grad=True)
    x, y = tensors(x, y)
    for criterion in (LinearisedDROLoss(own, 10), WassersteinDROLoss(own, 3, iterations=10)):
        assert torch.autograd.gradcheck(
            lambda b, value, c=criterion: c(lambda t: t @ b.T, x, y, value), (matrix, lam)
        )


def test_the_bound_uses_the_modulus_of_the_weights():
    B, x, y, _ = problem(9)
    own, core = balls("joint", 9)
    args = network_of(B), *tensors(x, y)
    L = float(np.linalg.norm(B, 2))
    assert own.modulus(L) == pytest.approx(float(core.modulus(L)), rel=1e-12)
    fidelity = float(((x - y @ B.T) ** 2).sum(1).mean())
    expected = dro_core.explicit_bound(fidelity, L, 1.0, core)
    assert float(BoundLoss(1.0, own, L)(*args)) == pytest.approx(float(expected), rel=1e-10)
    C = dense_displacement(B, core)
    local = BoundLoss(1.0, own, sweeps=300).modulus(*args)
    assert float(local) == pytest.approx(np.linalg.norm(C, 2), rel=1e-6)


def test_images_take_weights_that_broadcast():
    x = torch.rand(2, 1, 4, 4)
    row = torch.tensor([1.0, 2.0, math.inf, 4.0])
    for weight in (row, row.expand(4, 4), row.expand(1, 4, 4)):
        scale = YGivenX(weight).scale(x, x)
        assert scale.shape == (1, 16)
        assert scale[0, :4].tolist() == pytest.approx([1, 0.5**0.5, 0, 0.5])
    ball = YGivenX(row)
    v = torch.randn(2, 16)
    moved = ball.displace(x, x, v)[1] - x
    back = ball.whitened(x, x, moved.flatten(1))
    kept = ball.scale(x, x)[0] > 0
    torch.testing.assert_close(back[:, kept], v[:, kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: YGivenX(0.0), ValueError, "weight_y: 0.0 is not a weight"),
        (lambda: YGivenX(-1.0), ValueError, "weight_y: -1.0 is not a weight"),
        (lambda: YGivenX(math.nan), ValueError, "weight_y: "),
        (lambda: YGivenX(math.inf), ValueError, "weight_y: infinite, so that nothing may move"),
        (lambda: YGivenX(torch.full((3,), math.inf)), ValueError, "weight_y: infinite"),
        (lambda: YGivenX(torch.tensor([1.0, math.nan])), ValueError, "weight_y: nan is not a"),
        (lambda: YGivenX(torch.tensor([1, 2])), TypeError, "weight_y: dtype torch.int64"),
        (lambda: YGivenX(torch.ones(0)), ValueError, "weight_y: empty"),
        (lambda: YGivenX("photons"), TypeError, "weight_y: "),
        (lambda: XGivenY(math.inf), ValueError, "weight_x: infinite"),
        (lambda: Joint(math.inf, math.inf), ValueError, "weight_x and weight_y: infinite"),
        (lambda: XShift(abs, weight_y=2.0), ValueError, "weight_y: has no effect with cost='x'"),
        (
            lambda: XShift(abs, cost="joint", weight_y=torch.tensor([1.0, math.inf])),
            ValueError,
            "weight_y: infinite; y follows x",
        ),
        (
            lambda: YGivenX(torch.ones(4)).scale(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            r"weight_y: shape \(4,\), but a sample of what it weighs has shape \(3,\)",
        ),
        (
            lambda: YGivenX(torch.ones(2, 3)).scale(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            r"weight_y: shape \(2, 3\)",
        ),
        (
            lambda: YGivenX(lambda x, y: torch.ones(3)).scale(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            r"weight_y: it returned shape \(3,\) for a batch \(2, 3\)",
        ),
        (
            lambda: YGivenX(lambda x, y: 2.0).scale(torch.ones(2, 3), torch.ones(2, 3)),
            TypeError,
            "weight_y: it returned float",
        ),
        (
            lambda: YGivenX(lambda x, y: 0 * y).scale(torch.ones(2, 3), torch.ones(2, 3)),
            ValueError,
            "weight_y: it returned 0.0, which is no weight",
        ),
        (
            lambda: YGivenX(lambda x, y: y).modulus(1.0),
            ValueError,
            "weight_y: it depends on the samples",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_is_shown():
    assert repr(Joint()) == "Joint()"
    assert repr(YGivenX(2.0)) == "YGivenX(weight_y=2)"
    assert repr(Joint(torch.ones(3) * 2, 1.0)) == "Joint(weight_x=tensor of shape (3,))"
