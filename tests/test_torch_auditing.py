"""Networks in the audit: their intervals, which map they are about, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from dro_core import XShift, YGivenX, audit
from dro_torch import certify


@pytest.fixture
def images(rng):
    x = rng.random((5, 1, 4, 4))
    return x, (0.5 * x).astype(np.float32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1))


def test_the_interval_is_that_of_certify(network, images):
    x, y = images
    found = audit(network, x, y, radius=0.3, structures=["joint", "y|x"])
    tensors = torch.from_numpy(x).float(), torch.from_numpy(y)
    for name, answer in found.structures.items():
        own = certify(network, *tensors, 0.3, name)
        assert answer.upper == pytest.approx(own.upper)
        assert answer.lower == pytest.approx(own.lower, rel=0.02)
        assert answer.radii[2] == 0.3
        assert (answer.curve_lower <= answer.curve_upper).all()
        assert answer.holds
    assert not found.linear
    assert found.best is None
    assert "between" in found.sentence()


def test_the_law_is_one_of_the_ball_and_has_the_risk_it_claims(network, images):
    x, y = images
    found = audit(network, x, y, radius=0.3, structures="joint")
    answer = found.leading
    cost = (answer.displacement_x**2).sum(axis=1) + (answer.displacement_y**2).sum(axis=1)
    assert cost.mean() <= 0.09 * (1 + 1e-9)
    assert answer.sample_shares == pytest.approx(cost / cost.sum())
    pairs = [found.worst_pair(i) for i in range(len(x))]
    risk = np.mean([((p["worst_x"] - p["worst_reconstruction"]) ** 2).sum() for p in pairs])
    assert risk == pytest.approx(answer.lower, rel=1e-5)
    assert pairs[0]["worst_y"].shape == (1, 4, 4)


def test_a_clamped_network_is_what_the_numbers_are_about(network, images):
    x, y = images
    found = audit(network, x, y, radius=0.3, structures="y|x", output_range=(0.4, 0.6))
    with torch.no_grad():
        clamped = network(torch.from_numpy(y)).clamp(0.4, 0.6).numpy()
    assert found.nominal == pytest.approx(((x - clamped) ** 2).sum(axis=(1, 2, 3)).mean(), rel=1e-5)
    assert "clamped to [0.4, 0.6]" in found.map
    assert found.worst_pair(0)["reconstruction"].max() <= 0.6


def test_a_network_of_linear_layers_is_exact(images):
    x, y = images
    torch.manual_seed(1)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4)))
    found = audit(linear, x, y, radius=0.3)
    weight, bias = (p.detach().double().numpy() for p in linear[1].parameters())
    expected = audit(weight, x.reshape(5, -1) - bias, y.reshape(5, -1), radius=0.3)
    assert found.linear
    assert found.leading.exact
    assert found.leading.upper == pytest.approx(expected.leading.upper)
    assert "affine" in found.map


def test_functions_of_tensors_complex_ones_too(images):
    x, y = images
    found = audit(lambda t: torch.tanh(2 * t), x, y, radius=0.3, output_range=(-1, 1))
    assert all(answer.holds for answer in found.structures.values())
    z = x + 0.5j * x[:, :, ::-1]

    def bent(t):
        return torch.complex(torch.tanh(t.real), t.imag)

    found = audit(bent, z, 0.5 * z, radius=0.3, structures="y|x", output_range=(-2, 2))
    moved = found.y + found.layout_y.restore(found.leading.displacement_y)
    image = np.tanh(moved.real) + 1j * moved.imag
    assert (np.abs(z - image) ** 2).sum(axis=(1, 2, 3)).mean() == pytest.approx(found.leading.lower)


def test_the_module_that_was_passed_is_left_as_it_was(network, images):
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    audit(network, *images, radius=0.3, structures="y|x")
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in network.parameters())


def needs_physics(y, physics):
    return y


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"structures": XShift(np.eye(16))}, ValueError, "structures: XShift.*allowed: y"),
        ({"structures": YGivenX(2.0)}, ValueError, "structures: YGivenX.*without weights"),
        ({"B": lambda t: np.abs(np.asarray(t) - 0.3)}, TypeError, "needs gradients"),
        ({"B": needs_physics}, ValueError, "missing 1 required.*functools.partial"),
        ({"B": lambda t: [t]}, ValueError, r"B: fails on|for y of shape"),
        ({"lipschitz": -1.0}, ValueError, "lipschitz: -1.0 is negative"),
        ({"output_range": (1.0, 0.0)}, ValueError, "output_range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_audited_is_said(network, images, change, error, message):
    x, y = images
    arguments = {"B": network, "x": x, "y": y, "radius": 0.3, "structures": "y|x", **change}
    with pytest.raises(error, match=message):
        audit(**arguments)
