"""Certified intervals: exact for linear networks, never wrong for others."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dro_core
from dro_torch import nets
from dro_torch.certify import SIMPLE_ATTACKS, affine_map, certificate_curve, certify
from dro_torch.lipschitz import lipschitz_upper
from dro_torch.residual import forward_residual
from dro_torch.structure import XShift

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
STRUCTURES = ("y|x", "x|y", "joint")


def linear(matrix):
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(matrix))
    return layer


def problem(seed, samples=6, n=4, m=3):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in ((n, m), (samples, n), (samples, m)))


def network(seed, sizes=(2, 16, 2), dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=dtype))
    return model


def batch(seed, samples=5, size=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, samples, size, generator=generator, dtype=dtype)


@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 8),
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    structure=st.sampled_from(STRUCTURES),
    log_radius=st.floats(-3, 2),
    weighted=st.booleans(),
)
@settings(max_examples=60)
def test_a_linear_network_gets_the_exact_risk(seed, samples, n, m, structure, log_radius, weighted):
    B, x, y = problem(seed, samples, n, m)
    radius = 10.0**log_radius
    weights = None
    if weighted:
        weights = np.random.default_rng(seed).dirichlet(np.ones(samples))
    exact = dro_core.worst_case_risk(B, x, y, radius, structure, weights=weights).risk
    found = certify(
        linear(B), torch.from_numpy(x), torch.from_numpy(y), radius, structure, weights=weights
    )
    assert found.holds()
    assert 0.999999 * exact <= found.lower <= exact * (1 + 1e-9)
    assert found.affine
    assert found.upper == pytest.approx(exact, rel=1e-9)
    assert "exact: the network is affine" in str(found)
    assert found.linearised == pytest.approx(exact, rel=1e-6)
    assert found.transport_cost == pytest.approx(radius**2, rel=1e-9)


@pytest.mark.parametrize("radius", [0.1, 3.0])
def test_structure_x_follows_the_core(radius):
    B, x, _ = problem(1)
    A = np.random.default_rng(2).standard_normal((3, 4))
    exact = dro_core.worst_case_risk(B, x, x @ A.T, radius, dro_core.XShift(A, cost="x")).risk
    constant = float(np.linalg.norm(np.eye(4) - B @ A, 2))
    found = certify(
        linear(B),
        torch.from_numpy(x),
        torch.from_numpy(x @ A.T),
        radius,
        XShift(linear(A)),
        lipschitz=constant,
    )
    assert 0.999 * exact <= found.lower <= exact * (1 + 1e-9) <= found.upper * (1 + 2e-9)


def test_the_simulator_is_certified_with_its_own_residual():
    F, y, x = problem(3)
    found = certify(
        linear(F),
        torch.from_numpy(x),
        torch.from_numpy(y),
        0.5,
        "x|y",
        residual=forward_residual,
        lipschitz=float(np.linalg.norm(F, 2)),
    )
    exact = dro_core.worst_case_risk(F, y, x, 0.5, "y|x").risk
    assert 0.999 * exact <= found.lower <= exact * (1 + 1e-9)
    assert found.upper >= exact


def test_a_zero_residual_still_finds_the_top_direction():
    """The hard case: M = 0, the worst case is ρ²σ² along a top singular vector."""
    A = np.diag([1.0, 0.5, 0.2])
    x = np.random.default_rng(0).standard_normal((4, 3))
    found = certify(linear(np.linalg.inv(A)), torch.from_numpy(x), torch.from_numpy(x @ A), 0.3)
    assert found.nominal < 1e-25
    assert found.lower == pytest.approx(0.09 * 25.0, rel=1e-6)
    assert found.upper == pytest.approx(0.09 * 25.0, rel=1e-9)


def test_an_affine_network_is_recognised():
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(3, 2, 4, 4, generator=rng)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.AvgPool2d(2))
    matrix, offset = affine_map(layers, y)
    assert matrix.shape == (12, 32)
    out = y.flatten(1).double().numpy() @ matrix.T + offset
    np.testing.assert_allclose(out, layers(y).detach().flatten(1), atol=1e-5)
    assert affine_map(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), y) is None
    assert affine_map(nn.Linear(3000, 3000), torch.zeros(1, 3000)) is None


@given(seed=st.integers(0, 10**6), radius=st.floats(0.05, 2.0))
@settings(max_examples=15)
def test_the_interval_contains_the_brute_force_risk_of_a_network(seed, radius):
    """Two samples, one-dimensional y: all splits of the budget on a grid."""
    model = network(seed, (1, 8, 1))
    x, y = batch(seed + 1, 2, 1)
    found = certify(model, x, y, radius, steps=60)
    shift = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None] * radius * 2**0.5
    with torch.no_grad():
        losses = [(x[i] - model(y[i] + shift)).square()[:, 0].numpy() for i in range(2)]
    cost = shift[:, 0].square().numpy()
    order = np.argsort(cost)
    running = [np.maximum.accumulate(loss[order]) for loss in losses]
    ordered = cost[order]
    best = 0.0
    for k in range(len(ordered)):
        rest = 2 * radius**2 - ordered[k]
        if rest >= -1e-12:
            j = np.searchsorted(ordered, rest * (1 + 1e-12), side="right") - 1
            best = max(best, 0.5 * (running[0][k] + running[1][max(j, 0)]))
    assert found.lower <= best * 1.01 + 1e-9  # a law in the ball cannot beat the grid
    assert found.upper >= best * (1 - 1e-9)
    assert found.holds()


def test_it_is_near_the_brute_force_risk():
    """On fixed networks; a local search cannot promise it for every one."""
    ratios = []
    for seed in range(12):
        model, (x, y) = network(seed, (1, 8, 1)), batch(seed + 1, 1, 1)
        found = certify(model, x, y, 0.5, steps=60)
        shift = torch.linspace(-0.5, 0.5, 4001, dtype=torch.float64)[:, None]
        with torch.no_grad():
            best = float((x - model(y + shift)).square().max())
        assert found.lower <= best * (1 + 1e-6)
        ratios.append(found.lower / best)
    assert np.median(ratios) > 0.9999
    assert min(ratios) > 0.7


@pytest.mark.parametrize("structure", STRUCTURES)
def test_it_beats_the_simple_attacks(structure):
    model, (x, y) = network(5, (6, 32, 6), scale=0.7), batch(6, 40, 6)
    found = certify(model, x, y, 0.7, structure)
    assert tuple(found.attacks) == SIMPLE_ATTACKS
    for name in ("random noise", "gradient", "projected gradient"):
        assert found.lower > found.attacks[name] * 1.001, name
    assert found.lower >= found.attacks["linearised"]
    assert found.nominal < min(found.attacks.values())


def test_samples_trade_budget():
    """One sample sits where the map is flat: the other gets what it cannot use."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh()).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    x = torch.tensor([[0.0], [0.0]], dtype=torch.float64)
    y = torch.tensor([[20.0], [0.5]], dtype=torch.float64)
    found = certify(model, x, y, 0.3)
    paid = found.displacement.square()[:, 0]
    assert float(paid[0]) < 1e-6 * float(paid[1])
    assert found.transport_cost == pytest.approx(0.09, rel=1e-9)


def test_batches_order_and_scale_do_not_matter():
    model, (x, y) = network(7, (4, 16, 4)), batch(8, 9, 4)
    base = certify(model, x, y, 0.4)
    for other in (
        certify(model, x, y, 0.4, batch_size=2),
        certify(model, x.flip(0), y.flip(0), 0.4),
        certify(model, torch.cat([x, x]), torch.cat([y, y]), 0.4),
    ):
        assert other.lower == pytest.approx(base.lower, rel=1e-2)
        assert other.upper == pytest.approx(base.upper, rel=1e-12)
        assert other.linearised == pytest.approx(base.linearised, rel=1e-9)


def test_weights_are_a_repetition():
    model, (x, y) = network(9, (3, 16, 3)), batch(10, 3, 3)
    twice = torch.tensor([0, 0, 1, 2])
    repeated = certify(model, x[twice], y[twice], 0.4)
    weighted = certify(model, x, y, 0.4, weights=[0.5, 0.25, 0.25])
    assert weighted.lower == pytest.approx(repeated.lower, rel=1e-3)
    assert weighted.nominal == pytest.approx(repeated.nominal, rel=1e-12)


@given(
    seed=st.integers(0, 10**6),
    radius=st.floats(0.01, 3.0),
    structure=st.sampled_from(STRUCTURES),
    fits=st.booleans(),
    linear_map=st.booleans(),
)
@settings(max_examples=30)
def test_samples_of_weight_zero_do_not_count(seed, radius, structure, fits, linear_map):
    """Neither in the hard case of an exact fit nor where the map is steepest at such a sample."""
    model = linear(problem(seed)[0][:, :2][:2]) if linear_map else network(seed, (2, 8, 2))
    x, y = batch(seed + 1, 4)
    y[2] *= 0.1
    if fits:
        x = model(y).detach()
    weights = torch.tensor([0.25, 0.5, 0.0, 0.25])
    kept = weights > 0
    found = certify(model, x, y, radius, structure, weights=weights)
    alone = certify(model, x[kept], y[kept], radius, structure, weights=weights[kept])
    assert found.holds()
    assert found.samples == 4
    assert found.displacement.shape == (4, alone.displacement.shape[1])
    assert not bool(found.displacement[2].any())
    for name in ("lower", "upper", "nominal", "linearised", "transport_cost"):
        assert getattr(found, name) == getattr(alone, name), name


@pytest.mark.parametrize("tiny", [1e-12, 1e-40, 1e-300, 5e-324])
def test_tiny_weights_give_an_interval(tiny):
    model, (x, y) = network(3), batch(4, 3)
    base = certify(model, x[:2], y[:2], 0.3)
    found = certify(model, x, y, 0.3, weights=[0.5, 0.5, tiny])
    assert found.holds()
    assert found.nominal == pytest.approx(base.nominal, rel=1e-9)
    assert np.isfinite([found.lower, found.linearised, found.transport_cost]).all()
    assert found.lower >= 0.99 * base.lower


def test_a_curve_increases_and_shares_its_bound():
    model, (x, y) = network(11, (4, 16, 4)), batch(12, 9, 4)
    curve = certificate_curve(model, x, y, [0.0, 0.1, 0.3, 1.0])
    for ends in ("lower", "upper", "linearised"):
        values = [getattr(c, ends) for c in curve]
        assert all(a < b for a, b in itertools.pairwise(values)), ends
    assert curve[0].lower == pytest.approx(curve[0].nominal, rel=1e-12)
    assert curve[0].upper == pytest.approx(curve[0].nominal, rel=1e-12)
    assert {c.lipschitz for c in curve} == {float(lipschitz_upper(model, (4,)))}
    assert all(c.holds() for c in curve)


@pytest.mark.parametrize("device", DEVICES)
def test_single_precision_is_evaluated_again_in_double(device):
    model, (x, y) = network(13, (4, 16, 4)), batch(14, 9, 4)
    double = certify(model, x, y, 0.4)
    single = network(13, (4, 16, 4), torch.float32).to(device)
    single.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    found = certify(single, x.float().to(device), y.float().to(device), 0.4)
    assert found.lower == pytest.approx(double.lower, rel=1e-3)
    exact = network(13, (4, 16, 4))
    exact.load_state_dict({k: v.double() for k, v in single.state_dict().items()})
    with torch.no_grad():
        moved = (x.float() - exact(y.float().double() + found.displacement)).square().sum(1).mean()
    assert found.lower == pytest.approx(float(moved), rel=1e-12)
    assert next(single.parameters()).dtype == torch.float32


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2)).double()
    x, y = batch(15)
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = certify(model, x, y, 0.4), certify(model, x, y, 0.4)
    assert first.lower == second.lower
    assert model.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_no_upper_end_without_a_proof():
    class Odd(nn.Module):
        def forward(self, t):
            return t**3

    x, y = batch(16)
    found = certify(nn.Sequential(nn.Linear(2, 2), Odd()).double(), x, y, 0.1)
    assert found.upper is None
    assert found.slack is None
    assert "'1' (Odd)" in found.upper_missing
    assert "none (layer '1' (Odd)" in str(found)
    own = certify(Odd().double(), x, y, 0.1, lipschitz=100.0)
    assert own.upper == pytest.approx(dro_core.explicit_bound(own.nominal, 100.0, 0.1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool1d(1, ceil_mode=True),
        nn.Softplus(),
        nn.Upsample(2, mode="linear"),
        nn.Upsample(size=2, mode="linear"),
        nn.CELU(-1.0),
        nn.LayerNorm(2),
        nn.Softmax(1),
        nn.Dropout(0.5),
        nn.BatchNorm1d(1),
    ],
    ids=str,
)
def test_no_layer_stops_a_certificate(layer):
    x, y = batch(21)
    x, y = x[:, None], y[:, None]
    found = certify(nn.Sequential(nn.Linear(2, 2), layer).double(), x, y, 0.1)
    assert (found.upper is None) == bool(found.upper_missing)
    assert found.upper is not None or type(layer).__name__ in found.upper_missing
    assert found.holds()


def test_compiled_and_wrapped_networks_are_certified_as_what_they_wrap():
    layers, (x, y) = network(3), batch(4)
    model = nn.Sequential(layers[:2], layers[2])
    base = certify(model, x, y, 0.3)
    inner = nn.Sequential(torch.compile(layers[:2], backend="eager"), layers[2])
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model), inner):
        found = certify(wrapped, x, y, 0.3)
        assert (found.lower, found.upper) == (base.lower, base.upper)


def test_text_and_json():
    model, (x, y) = network(17), batch(18)
    found = certify(model, x, y, 0.4, "joint")
    read = json.loads(found.to_json())
    assert read["lower"] == found.lower
    assert read["budget"] == pytest.approx(0.16)
    assert read["slack"] == pytest.approx(found.upper / found.lower)
    assert "displacement" not in read
    text = str(found)
    assert "joint, radius 0.4, 5 samples" in text
    assert "upper / lower" in text
    assert "projected gradient" in text


class Single(nn.Linear):
    """Works in one precision only."""

    def __init__(self):
        super().__init__(2, 2)

    def forward(self, y):
        return super().forward(y.float())


X, Y = batch(19)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": lambda y: y}, TypeError, "model: function is not a torch.nn.Module"),
        ({"x": X[:, :, None].long()}, TypeError, "x: dtype torch.int64"),
        ({"x": X * float("nan")}, ValueError, "x: 10 entries are NaN"),
        ({"y": Y[:2]}, ValueError, "y: 2 samples, but x has 5"),
        ({"y": Y.float()}, ValueError, "y: dtype torch.float32"),
        ({"radius": -1.0}, ValueError, "radius: -1.0 is negative"),
        ({"radius": float("inf")}, ValueError, "radius: inf"),
        ({"structure": "x"}, ValueError, r"structure: unknown value 'x'.*XShift"),
        ({"structure": XShift(lambda x: x, cost="joint")}, ValueError, "XShift with cost 'joint'"),
        ({"weights": [0.5, 0.5]}, ValueError, r"weights: shape \(2,\)"),
        ({"weights": [1.0, 1.0, 0.0, 0.0, 0.0]}, ValueError, "weights: they sum to 2.0"),
        ({"lipschitz": -1.0}, ValueError, "lipschitz: -1.0 is negative"),
        ({"weights": torch.ones(5, dtype=torch.bfloat16)}, TypeError, "weights: dtype torch.bfl"),
        (
            {"model": nn.LSTM(2, 2).double()},
            TypeError,
            r"model\(y\) returned a tuple of 2 entries; needed: a tensor .*model\(...\)\[0\]",
        ),
        ({"model": nn.Linear(2, 3).double()}, ValueError, r"model: its output has shape \(5, 3\)"),
        (
            {"model": network(20, dtype=torch.float32)},
            ValueError,
            "model: its parameters have dtype torch.float32, but y has torch.float64; convert one",
        ),
        ({"model": Single(), "x": X.float(), "y": Y.float()}, ValueError, "not in float64, in wh"),
        ({"model": nn.LeakyReLU(float("inf"))}, ValueError, "model: its residuals .* not finite"),
        ({"residual": 3}, TypeError, "residual: int is not callable"),
        ({"directions": 0}, ValueError, "directions: 0 is below 1"),
        ({"steps": 0}, ValueError, "steps: 0 is below 1"),
        ({"batch_size": 0.5}, TypeError, "batch_size: 0.5 is not an integer"),
    ],
)
def test_what_is_refused(changes, error, message):
    arguments = {"model": network(20), "x": X, "y": Y, "radius": 0.1, **changes}
    with pytest.raises(error, match=message):
        certify(**arguments)


# --- output ranges: finite for every network ----------------------------------------------------


def box(seed, samples=3, size=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, samples, size, generator=generator, dtype=torch.float64)


@given(
    seed=st.integers(0, 10**6),
    structure=st.sampled_from(STRUCTURES),
    exponent=st.floats(-3, 1),
    scale=st.sampled_from([1.0, 30.0]),
)
@settings(max_examples=25)
def test_a_range_makes_the_upper_end_finite_and_never_larger(seed, structure, exponent, scale):
    model, (x, y), radius = network(seed, (2, 8, 2), scale=scale), box(seed), 10.0**exponent
    options = {"directions": 2, "steps": 10}
    found = certify(model, x, y, radius, structure, output_range=(0.0, 1.0), **options)
    assert found.holds()
    assert found.upper <= found.range_bound * (1 + 1e-12)
    clipped = certify(nets.Clipped(model, (0.0, 1.0)), x, y, radius, structure, **options)
    assert found.upper <= clipped.upper * (1 + 1e-12)
    assert found.lower == clipped.lower
    farthest = torch.maximum(x, 1 - x).square().sum(1).mean()
    if structure == "y|x":
        assert found.range_bound == pytest.approx(float(farthest))
    assert "clamped to [0, 1]" in found.map
    assert f"range alone    {found.range_bound:.6g}" in str(found)


@given(seed=st.integers(0, 10**6), radius=st.floats(0.02, 1.0), scale=st.sampled_from([1.0, 9.0]))
@settings(max_examples=15)
def test_a_clipped_interval_contains_the_brute_force_risk(seed, radius, scale):
    """Two samples, one-dimensional y: all splits of the budget over a grid, mixed (a law may)."""
    model, (x, y) = network(seed, (1, 8, 1), scale=scale), box(seed + 1, 2, 1)
    found = certify(model, x, y, radius, output_range=(0, 1), directions=1, steps=20)
    shift = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None] * max(2.0, 2 * radius)
    with torch.no_grad():
        losses = torch.stack(
            [(x[i] - model(y[i] + shift).clamp(0, 1)).square()[:, 0] for i in (0, 1)]
        )
    costs = shift[:, 0].square().expand(2, -1)
    best = dro_core.finite_worst_case(losses.numpy(), costs.numpy(), radius)
    assert found.upper >= best.risk * (1 - 1e-9)
    assert found.lower <= found.upper


def test_a_range_says_something_of_networks_without_a_constant():
    x, y = box(3)
    vague = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).double()
    found = certify(vague, x, y, 0.1, output_range=(0, 1))
    assert found.lipschitz is None
    assert found.upper == found.range_bound
    shifted = certify(linear(np.eye(2)), x, y, 0.1, XShift(linear(np.eye(2))), output_range=(0, 1))
    root = torch.maximum(x, 1 - x).square().sum(1).mean().sqrt()
    assert shifted.upper == pytest.approx(float(root + 0.1) ** 2)
    own = certify(vague, x, y, 0.1, residual=forward_residual, output_range=(0, 1))
    assert own.upper is None


def test_a_clamp_keeps_the_constant_and_what_the_certificate_says_of_single_precision():
    model, (x, y) = network(5), box(6)
    clipped = nets.Clipped(model, (0, 1))
    assert float(lipschitz_upper(clipped, (2,))) == pytest.approx(
        float(lipschitz_upper(model, (2,)))
    )
    assert certify(model, x, y, 0.1).precision_defect == 0.0
    single = certify(network(5).float(), x.float(), y.float(), 0.1)
    assert 0 < single.precision_defect < 1e-5
    assert "not covered" in single.rounding


@pytest.mark.parametrize(
    ("output_range", "message"),
    [
        ((1.0, 0.0), "output_range: 1.0 is not below 0.0"),
        ((0.0, float("nan")), "output_range: .*NaN"),
        ((0.0, 1.0, 2.0), r"output_range: shape \(3,\)"),
        (1.0, r"output_range: shape \(\)"),
    ],
)
def test_a_bad_range_is_refused(output_range, message):
    with pytest.raises(ValueError, match=message):
        certify(network(5), *box(6), 0.1, output_range=output_range)
    with pytest.raises(ValueError, match=message):
        nets.Clipped(network(5), output_range)


@given(
    seed=st.integers(0, 10**6),
    structure=st.sampled_from(STRUCTURES),
    radius=st.floats(0.01, 3.0),
    length=st.floats(0.01, 2.0),
)
@settings(max_examples=20)
def test_a_tether_bounds_every_network(seed, structure, radius, length):
    """One of constant 10⁴, around a linear anchor, with the bound of the anchor."""
    wild, (x, y) = network(seed, (2, 8, 2), scale=30.0), box(seed)
    anchor = linear(np.random.default_rng(seed).normal(size=(2, 2)))
    model = nets.Tethered(wild, anchor, length)
    with torch.no_grad():
        assert float((model(y) - anchor(y)).norm(dim=1).max()) <= length * (1 + 1e-12)
        near = model.distance(y) <= length
        torch.testing.assert_close(model(y)[near], wild(y)[near])
        errors = (x - anchor(y)).norm(dim=1) + length
    found = certify(model, x, y, radius, structure, directions=2, steps=10)
    constant = float(lipschitz_upper(anchor))
    bound = dro_core.explicit_bound(float(errors.square().mean()), constant, radius, structure)
    assert found.holds()
    assert found.upper <= bound * (1 + 1e-9)
    assert "tethered" in found.map
    clipped = certify(model, x, y, radius, structure, output_range=(0, 1), directions=2, steps=10)
    assert clipped.upper <= min(bound, clipped.range_bound) * (1 + 1e-9)
    assert clipped.holds()
    assert "tethered to its anchor, clamped" in clipped.map


def test_a_tether_says_nothing_where_its_anchor_is_not_known():
    class Odd(nn.Module):
        def forward(self, t):
            return t**3

    x, y = box(3)
    vague = certify(nets.Tethered(Odd(), Odd(), 0.1), x, y, 0.1)
    assert vague.upper is None
    outside = certify(nets.Tethered(Odd(), nn.Identity(), 0.1), x + 1, y, 0.1, output_range=(0, 1))
    assert outside.upper == outside.range_bound  # the clamp may move an output away from x
    assert certify(nets.Tethered(Odd(), nn.Identity(), 0.1), x + 1, y, 0.1).upper is not None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Identity(), nn.Identity(), 0.0), ValueError, "radius: 0"),
        ((nn.Identity(), abs, 1.0), TypeError, "anchor: builtin_function_or_method is not"),
        ((abs, nn.Identity(), 1.0), TypeError, "model: builtin_function_or_method is not"),
    ],
)
def test_a_bad_tether_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        nets.Tethered(*arguments)


def test_an_anchor_has_the_shape_of_the_network():
    with pytest.raises(ValueError, match=r"anchor: its output has shape \(3, 3\)"):
        nets.Tethered(nn.Linear(2, 2), nn.Linear(2, 3), 1.0)(torch.zeros(3, 2))
