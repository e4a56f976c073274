"""Lipschitz constants: known ones, lower <= true <= upper, every padding against dense matrices."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dro_torch.lipschitz import (
    UnsupportedLayerError,
    chain_bound,
    lipschitz_lower,
    lipschitz_upper,
    register_lipschitz,
)
from dro_torch.lipschitz.bounds import RULES, SLOPES
from dro_torch.nets import MLP, BoundedConvolution, LinearMap, UNet
from dro_torch.nets.norms import convolution_norm, differentiable_norm, symbol_supremum

ROUNDING = 1 + 1e-9
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def dense_matrix(layer, *shape):
    """The matrix of a linear (affine) layer on samples of that shape, by applying it."""
    layer = copy.deepcopy(layer).double().requires_grad_(False)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    outputs = layer(basis) - layer(torch.zeros(1, *shape, dtype=torch.float64))
    return outputs.flatten(1).T


def dense_norm(layer, *shape):
    return float(torch.linalg.matrix_norm(dense_matrix(layer, *shape), 2))


# --- norms of convolutions --------------------------------------------------------------------

CONVOLUTIONS = [
    (nn.Conv1d, (12,), {"kernel_size": 3, "padding": 1}),
    (nn.Conv1d, (13,), {"kernel_size": 4, "padding": 3, "stride": 2}),
    (nn.Conv1d, (5,), {"kernel_size": 5, "padding": 2, "dilation": 1}),
    (nn.Conv2d, (6, 7), {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, (6, 8), {"kernel_size": (3, 2), "padding": 1, "stride": (2, 1)}),
    (nn.Conv2d, (7, 6), {"kernel_size": 3, "padding": 2, "dilation": 2}),
    (nn.Conv2d, (6, 6), {"kernel_size": 3, "padding": 1, "groups": 2}),
    (nn.Conv2d, (4, 4), {"kernel_size": 1}),
]


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(("kind", "sizes", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("known_size", [True, False])
def test_convolutions_of_every_padding_against_the_dense_matrix(
    kind, sizes, options, mode, known_size
):
    torch.manual_seed(len(sizes) + sizes[0])
    layer = kind(2, 4, padding_mode=mode, **options)
    true = dense_norm(layer, 2, *sizes)
    bound = lipschitz_upper(layer, (2, *sizes) if known_size else None).value
    assert true <= bound * ROUNDING
    copies = {"zeros": 1, "circular": 3, "reflect": 2, "replicate": 3}[mode] ** len(sizes)
    assert bound <= 1.75 * true * math.sqrt(copies)


@pytest.mark.parametrize("stride", [1, 2])
def test_circular_convolutions_are_exact_at_a_known_size(stride):
    torch.manual_seed(stride)
    layer = nn.Conv2d(2, 3, 3, padding=1, stride=stride, padding_mode="circular")
    exact = lipschitz_upper(layer, (2, 6, 8)).value
    assert exact == pytest.approx(dense_norm(layer, 2, 6, 8), rel=1e-10)
    assert exact <= lipschitz_upper(layer).value * ROUNDING


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.ConvTranspose1d(3, 2, 4, stride=2, padding=1), (9,)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (5, 4)),
        (nn.ConvTranspose2d(2, 2, 2, stride=2), (4, 4)),
    ],
)
def test_transposed_convolutions_against_the_dense_matrix(layer, sizes):
    true = dense_norm(layer, layer.in_channels, *sizes)
    assert true <= lipschitz_upper(layer).value * ROUNDING <= 1.3 * true


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(3, 2, 3), (2, 3, 5), (2, 2, 2, 3), (1, 1, 4), (2, 1, 3, 3)]),
)
def test_the_supremum_of_a_symbol_is_above_every_grid_and_close(seed, shape):
    weight = torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    transform = torch.fft.fftn(weight, [120] * (len(shape) - 2), dim=list(range(2, len(shape))))
    finest = float(torch.linalg.svdvals(transform.flatten(2).permute(2, 0, 1)).max())
    bound = symbol_supremum(weight)
    assert finest <= bound <= finest * 1.005
    for iterations in (1, 4, 7):
        cheap = float(differentiable_norm(weight, grid=16, iterations=iterations))
        rank = min(shape[:2])
        loss = 1.09 * 1.06 ** (len(shape) - 3) * rank ** (0.5 ** (iterations + 1))
        assert finest <= cheap <= finest * loss


def test_a_supremum_is_not_the_maximum_of_a_coarse_grid():
    phase = 0.3  # maximum of |symbol| off every coarse grid: w = cos(k phase)
    weight = torch.cos(torch.arange(-3.0, 4) * phase).double()[None, None]
    fine = torch.linspace(0, math.pi, 200_001, dtype=torch.float64)
    positions = torch.arange(7, dtype=torch.float64)
    true = float(
        (
            torch.polar(torch.ones(1).double(), fine[:, None] * positions)
            @ weight[0, 0].to(torch.complex128)
        )
        .abs()
        .max()
    )
    assert true <= symbol_supremum(weight) * ROUNDING <= true * (1 + 2e-5)
    assert true <= float(differentiable_norm(weight, grid=1)) <= 1.1 * true


def test_flat_symbols_end_the_refinement(monkeypatch):
    weight = torch.zeros(2, 2, 3, 3)
    weight[0, 1, 0, 2] = weight[1, 0, 2, 1] = 1.0
    assert 1 <= convolution_norm(weight) <= 1.0013
    monkeypatch.setattr("dro_torch.nets.norms.LARGEST_REFINEMENT", 1)
    assert 1 <= convolution_norm(weight) <= 1 / math.cos(math.pi / 8) * ROUNDING


def test_the_differentiable_norm_has_the_right_gradient_and_survives_extremes():
    weight = torch.randn(3, 2, 3, generator=seeded(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(differentiable_norm, (weight,))
    value = differentiable_norm(weight)
    assert float(differentiable_norm(1e12 * weight)) == pytest.approx(1e12 * float(value))
    assert float(differentiable_norm((1e-12 * weight).float())) == pytest.approx(
        1e-12 * float(value), rel=1e-4
    )
    assert float(differentiable_norm(torch.zeros(2, 2, 3))) == pytest.approx(0, abs=1e-30)


# --- known constants --------------------------------------------------------------------------


def test_linear_layers_are_exact_and_met_by_the_lower_bound(rng):
    matrix = rng.standard_normal((5, 4))
    true = np.linalg.norm(matrix, 2)
    model = LinearMap(matrix, dtype=torch.float64)
    assert lipschitz_upper(model).value == pytest.approx(true, rel=1e-12)
    assert lipschitz_upper(model).value >= true
    lower = lipschitz_lower(model, torch.zeros(3, 4), steps=200)
    assert lower.value == pytest.approx(true, rel=1e-6)


def test_the_product_of_linear_layers_is_taken_before_its_norm(rng):
    first, second = rng.standard_normal((6, 4)), rng.standard_normal((3, 6))
    layers = nn.Sequential(nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor(first))
        layers[2].weight.copy_(torch.tensor(second))
    assert lipschitz_upper(layers).value == pytest.approx(np.linalg.norm(second @ first, 2))


def test_an_orthogonal_network_has_constant_one():
    layers = [nn.Linear(6, 6) for _ in range(3)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, generator=seeded(1))
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Tanh(), layers[2]).double()
    assert lipschitz_upper(network).value <= 1 + 1e-6
    shifted = torch.zeros(4, 6, dtype=torch.float64)
    assert lipschitz_lower(network, shifted).value <= lipschitz_upper(network).value


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.LeakyReLU(0.3),
        nn.LeakyReLU(-1.5),
        nn.PReLU(init=1.7),
        nn.ELU(2.0),
        nn.SiLU(),
        nn.GELU(),
        nn.GELU(approximate="tanh"),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softplus(threshold=40.0),
        nn.Softplus(beta=3.0, threshold=35.0),
        nn.Softplus(beta=-2.0, threshold=40.0),
        nn.Hardtanh(-0.5, 0.7),
        nn.ReLU6(),
        nn.CELU(0.5),
        nn.Softsign(),
    ],
    ids=str,
)
def test_activations_have_the_largest_slope_that_is_stated(layer):
    bound = lipschitz_upper(layer).value
    least, largest = SLOPES[type(layer)](layer)
    points = torch.linspace(-12, 12, 240_002, dtype=torch.float64)
    found = torch.diff(copy.deepcopy(layer).double()(points[None])[0].detach()) / torch.diff(points)
    assert least - 1e-9 <= float(found.min())
    assert float(found.max()) <= largest + 1e-9
    assert bound * (1 - 1e-3) <= float(found.abs().max()) <= bound + 1e-9


POOLING = [
    (nn.AvgPool1d(2), (2, 7)),
    (nn.AvgPool2d(3, stride=2, padding=1), (1, 7, 6)),
    (nn.AvgPool2d((2, 3)), (1, 6, 6)),
    (nn.Upsample(scale_factor=2), (1, 3, 4)),
    (nn.Upsample(scale_factor=(2, 3)), (1, 3, 4)),
    (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 5, 4)),
    (nn.Upsample(size=(7, 9), mode="bilinear", align_corners=True), (1, 5, 4)),
    (nn.UpsamplingNearest2d(size=(7, 5)), (1, 3, 4)),
    (nn.Upsample(scale_factor=3, mode="linear"), (2, 4)),
    (nn.ReflectionPad1d((2, 1)), (2, 4)),
    (nn.ReplicationPad2d((1, 2, 0, 3)), (1, 3, 4)),
    (nn.CircularPad2d(2), (1, 3, 4)),
    (nn.ZeroPad2d(2), (1, 3, 4)),
    (nn.PixelShuffle(2), (4, 3, 3)),
    (nn.PixelUnshuffle(2), (1, 4, 4)),
    (nn.Flatten(), (2, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), POOLING, ids=str)
def test_pooling_padding_and_upsampling_against_the_dense_matrix(layer, shape):
    true = dense_norm(layer, *shape)
    bound = lipschitz_upper(layer, shape).value
    assert true <= bound * ROUNDING
    assert bound <= (1.35 if isinstance(layer, nn.AvgPool2d) else 1 + 1e-9) * true
    if not isinstance(layer, nn.Upsample) or isinstance(layer.scale_factor, tuple):
        assert bound <= lipschitz_upper(layer).value * ROUNDING


def test_maximum_pooling_is_exact_for_a_spike():
    spike = torch.zeros(1, 1, 9, dtype=torch.float64)
    spike[..., 4] = 1.0
    for kernel, stride in [(3, 1), (3, 2), (2, 2), (4, 3)]:
        layer = nn.MaxPool1d(kernel, stride)
        shifted = [float(layer(spike.roll(k, -1)).norm()) for k in range(-2, 3)]
        assert lipschitz_upper(layer).value == pytest.approx(max(shifted))
    assert lipschitz_upper(nn.MaxPool1d(3, 2, dilation=2)).value == pytest.approx(math.sqrt(3))


def test_batch_normalisation_in_evaluation_mode():
    layer = nn.BatchNorm1d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -4.0, 2.0]))
        layer.running_var.copy_(torch.tensor([1.0, 4.0, 0.25]))
    assert lipschitz_upper(layer.eval()).value == pytest.approx(4 / math.sqrt(1.00004), rel=1e-5)
    matrix = dense_norm(layer, 3, 2)
    assert lipschitz_upper(layer).value == pytest.approx(matrix, rel=1e-7)


def sizes(draw, most=4):
    return draw(st.integers(1, most))


def number(draw):
    return draw(st.one_of(st.floats(-30, 30), st.sampled_from([0.0, 1.0, -1.0, 20.0, 34.0, 50.0])))


def a_convolution(draw):
    kind = draw(st.sampled_from([nn.Conv1d, nn.ConvTranspose1d]))
    groups = draw(st.sampled_from([1, 2]))
    options = {"stride": sizes(draw, 3), "dilation": sizes(draw, 2), "groups": groups}
    if kind is nn.Conv1d:
        options["padding_mode"] = draw(
            st.sampled_from(["zeros", "circular", "reflect", "replicate"])
        )
        options["padding"] = draw(st.integers(0, 3))
    return kind(2, 2 * sizes(draw, 2), sizes(draw), **options)


LAYERS = {
    "relu": lambda draw: nn.ReLU(inplace=draw(st.booleans())),
    "leaky": lambda draw: nn.LeakyReLU(number(draw), inplace=draw(st.booleans())),
    "prelu": lambda draw: nn.PReLU(init=number(draw)),
    "elu": lambda draw: nn.ELU(number(draw)),
    "celu": lambda draw: nn.CELU(number(draw) or 1.0),
    "hardtanh": lambda draw: nn.Hardtanh(*sorted((number(draw), 31 + number(draw)))),
    "softplus": lambda draw: nn.Softplus(number(draw), draw(st.floats(-60, 120))),
    "silu": lambda draw: nn.SiLU(),
    "gelu": lambda draw: nn.GELU(draw(st.sampled_from(["none", "tanh"]))),
    "mean": lambda draw: nn.AvgPool1d(
        k := sizes(draw),
        sizes(draw),
        draw(st.integers(0, k // 2)),
        draw(st.booleans()),
        draw(st.booleans()),
    ),
    "mean 2d": lambda draw: nn.AvgPool2d(
        k := sizes(draw, 3),
        sizes(draw),
        draw(st.integers(0, k // 2)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from([None, 1, -2, 7])),
    ),
    "maximum": lambda draw: nn.MaxPool1d(
        k := sizes(draw),
        sizes(draw),
        draw(st.integers(0, k // 2)),
        sizes(draw, 2),
        ceil_mode=draw(st.booleans()),
    ),
    "convolution": a_convolution,
    "pad": lambda draw: draw(
        st.sampled_from([nn.ReflectionPad1d, nn.ReplicationPad1d, nn.CircularPad1d, nn.ZeroPad1d])
    )((draw(st.integers(0, 4)), draw(st.integers(0, 4)))),
    "upsample": lambda draw: nn.Upsample(
        scale_factor=draw(st.floats(0.4, 3)), mode=draw(st.sampled_from(["nearest", "linear"]))
    ),
    "linear": lambda draw: nn.Linear(8, sizes(draw)),
    "normalised": lambda draw: nn.BatchNorm1d(2, affine=draw(st.booleans())).eval(),
    "constrained": lambda draw: nn.utils.parametrizations.spectral_norm(
        nn.Linear(8, sizes(draw)), n_power_iterations=sizes(draw)
    ).train(draw(st.booleans())),
}


@settings(max_examples=200)
@given(st.data(), st.sampled_from(sorted(LAYERS)), st.integers(0, 10**6))
def test_no_slope_of_any_layer_is_above_its_bound(data, name, seed):
    """Random parameters, hostile ones included: a bound that holds, or a refusal."""
    torch.manual_seed(seed)
    layer = LAYERS[name](data.draw)
    shape = (2, 8) if name != "mean 2d" else (1, 5, 6)
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in layer.parameters() if name != "prelu" else ():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=generator))
    try:
        bounds = [lipschitz_upper(layer, shape).value]
        bounds += [lipschitz_upper(layer).value] if name != "upsample" else []
    except UnsupportedLayerError:
        return
    run = copy.deepcopy(layer).double().eval()
    kinks = [0.0, *(getattr(layer, key, 0.0) for key in ("min_val", "max_val"))]
    if name == "softplus":
        kinks.append(layer.threshold / layer.beta)
    centre = torch.randn(60, *shape, generator=generator, dtype=torch.float64)
    centre[::2] = 1e-3 * centre[::2] + kinks[seed % len(kinks)]
    direction = torch.randn(60, *shape, generator=generator, dtype=torch.float64)
    length = 10.0 ** torch.linspace(-6, 1.5, 60, dtype=torch.float64)[torch.randperm(60)]
    moved = centre + direction * length.reshape(-1, *[1] * len(shape))
    with torch.no_grad():
        change = (run(centre.clone()) - run(moved.clone())).flatten(1).norm(dim=1)
    slopes = change / (centre - moved).flatten(1).norm(dim=1)
    assert float(slopes.max()) <= min(bounds) * (1 + 1e-6)


def test_a_mean_over_what_is_there_counts_by_schur():
    for layer in (
        nn.AvgPool1d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
    ):
        shape = (1, 6) if isinstance(layer, nn.AvgPool1d) else (1, 5, 5)
        true = dense_norm(layer, *shape)
        assert true <= lipschitz_upper(layer).value * ROUNDING <= 3 * true * ROUNDING
    halved = nn.AvgPool2d(2, divisor_override=8)
    assert lipschitz_upper(halved).value == pytest.approx(0.25)


def test_softplus_networks_of_this_package_do_not_jump():
    spectral = UNet(1, 1, 1, 2, dimension=1, spectral=True, activation="softplus")
    for network in (MLP([2, 3, 2], activation="softplus"), spectral):
        assert lipschitz_upper(network).value > 0
        thresholds = {m.threshold for m in network.modules() if isinstance(m, nn.Softplus)}
        assert thresholds == {40.0}


def test_wrapped_networks_have_the_bound_of_what_they_wrap():
    inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    first, last = nn.Linear(2, 3), nn.Linear(3, 2)
    expected = lipschitz_upper(plain := nn.Sequential(first, inner, last)).value
    part = torch.compile(inner, backend="eager")
    for network in (
        torch.compile(plain, backend="eager"),
        nn.DataParallel(plain),
        nn.Sequential(first, part, last),
    ):
        assert lipschitz_upper(network).value == expected
        assert lipschitz_upper(network, (2,)).value == expected
        assert lipschitz_lower(network, torch.ones(2, 2), steps=2).value <= expected


def test_a_frozen_mode_is_no_change_of_the_map():
    layer = nn.BatchNorm1d(2).eval()
    layer.train = lambda mode=True: layer
    assert lipschitz_upper(layer).value == pytest.approx(1 / math.sqrt(1.00001))


def test_padding_that_was_changed_later_counts():
    network = UNet(1, 1, 1, 2, dimension=1, generator=seeded(0))
    plain = lipschitz_upper(network).value
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d) and layer.padding != (0,):
            layer.padding_mode = "replicate"
    assert lipschitz_upper(network).value > 1.2 * plain


# --- composition ------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "leaky_relu", "gelu", "tanh"]))
def test_brute_force_lies_between_lower_and_upper(seed, activation):
    network = MLP([2, 7, 6, 3], activation=activation, generator=seeded(seed), output_shape=(3,))
    network = network.double()
    axis = torch.linspace(-4, 4, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: network(y[None])[0]))(grid)
    true = float(torch.linalg.matrix_norm(jacobians.detach(), 2).max())
    upper = lipschitz_upper(network)
    product = math.prod(row.value for row in upper.layers if "Sequential" not in row.layer)
    assert true <= upper.value * ROUNDING
    assert upper.value <= product / upper.layers[-1].value * ROUNDING
    lower = lipschitz_lower(network, grid[::9], steps=5, ascent_steps=20)
    assert lower.value <= upper.value * ROUNDING
    with torch.no_grad():
        outputs = network(torch.stack([lower.first, lower.second]))
    ratio = (outputs[0] - outputs[1]).norm() / (lower.first - lower.second).norm()
    assert lower.value == pytest.approx(float(ratio), rel=1e-9)
    assert lower.value >= 0.75 * true


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.booleans(), st.integers(1, 2), st.sampled_from([5, 8]))
def test_u_nets_lie_between_lower_and_upper(seed, spectral, depth, size):
    constant = 0.5 + seed % 4 if spectral else None
    network = UNet(
        1,
        1,
        depth,
        2,
        dimension=1,
        spectral=spectral,
        lipschitz=constant,
        generator=seeded(seed),
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    points = torch.randn(12, 1, size, generator=seeded(seed + 1), dtype=torch.float64)
    upper = lipschitz_upper(network).value
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: network(y[None])[0, 0]))(points)
    true = float(torch.linalg.matrix_norm(jacobians.detach()[..., 0, :], 2).max())
    lower = lipschitz_lower(network, points, steps=50, ascent_steps=10)
    assert true <= upper * ROUNDING
    assert lower.value <= upper * ROUNDING
    assert lower.jacobian_norm == pytest.approx(true, rel=0.05)
    if spectral:
        assert upper <= constant * (1 + 1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_chains_stay_between_the_linear_maps_and_the_product(seed):
    generator = seeded(seed)
    sizes = [3, 5, 4, 6]
    matrices = [
        torch.randn(b, a, generator=generator, dtype=torch.float64)
        for a, b in itertools.pairwise(sizes)
    ]
    slopes = [(0.0, 1.0), (-0.2, 1.1)]
    bound = chain_bound(matrices, slopes)
    product = math.prod(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices) * 1.1
    assert bound <= product * ROUNDING
    for _ in range(20):  # every choice of slopes is a linear map below the bound
        value = matrices[0]
        for matrix, (least, largest) in zip(matrices[1:], slopes, strict=True):
            ends = torch.randint(0, 2, (len(value), 1), generator=generator).double()
            value = matrix @ (value * (least + (largest - least) * ends))
        assert float(torch.linalg.matrix_norm(value, 2)) <= bound * ROUNDING


def test_activations_outside_a_chain_count_by_their_slopes():
    linear = nn.Linear(1, 1)
    nn.init.constant_(linear.weight, 2.0)
    before = nn.Sequential(nn.Sigmoid(), linear, nn.PReLU(init=3.0), nn.Sigmoid())
    assert lipschitz_upper(before).value == pytest.approx(0.25 * 2 * 3 * 0.25)
    assert lipschitz_upper(nn.Sequential(nn.ReLU(), nn.Sigmoid())).value == pytest.approx(0.25)
    between = nn.Sequential(linear, nn.PReLU(init=3.0), linear)
    assert lipschitz_upper(between).value == pytest.approx(2 * 3 * 2)


def test_a_residual_network_adds_its_input():
    network = UNet(1, 1, 1, 2, dimension=1)
    nn.init.zeros_(network.body.head.weight)
    assert lipschitz_upper(network).value == pytest.approx(1)


def test_merging_two_branches_is_below_both_simple_rules():
    merge = UNet(1, 1, 1, 3, dimension=1, generator=seeded(3)).body.merges[0].double()
    weight = merge.convolution.weight
    for a, b in [(1.0, 5.0), (1.0, 1.0), (3.0, 0.1), (2.0, 0.0)]:
        bound = merge.lipschitz_of_branches(a, b)
        product = convolution_norm(weight) * math.hypot(a, b)
        total = convolution_norm(weight[:, :3]) * a + convolution_norm(weight[:, 3:]) * b
        assert bound <= min(product, total) * (1 + 1e-4)
        if b == 5.0:  # sharper than both
            assert bound < 0.999 * min(product, total)
        dense = dense_matrix(merge.convolution, 6, 8)
        scaled = torch.cat([dense[:, :24] * a, dense[:, 24:] * b], dim=1)
        blocks = torch.linalg.matrix_norm(scaled, 2)  # inputs with ||(a/La, b/Lb)|| <= 1
        assert float(blocks) <= bound * ROUNDING


def test_parametrised_layers_count_as_they_are():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4), n_power_iterations=60).eval()
    assert lipschitz_upper(layer).value == pytest.approx(1, rel=1e-3)


def test_the_module_stays_as_it_is_and_the_table_names_every_layer():
    network = UNet(1, 1, 1, 2, dimension=1)
    before = copy.deepcopy(network.state_dict())
    bound = lipschitz_upper(network, (1, 8))
    lipschitz_lower(network, torch.zeros(2, 1, 8), steps=2, ascent_steps=2)
    assert network.training
    for name, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    paths = {row.path for row in bound.layers}
    assert {"body.encoders.0.0", "body.ups.0", "body.head", "(network)"} <= paths
    assert "body.encoders.0.0" in str(bound)
    assert "float64" in bound.rounding
    assert float(bound) == bound.value


@pytest.mark.parametrize("device", DEVICES)
def test_lower_bounds_follow_the_generator_and_the_device(device):
    network = MLP([4, 5, 4], generator=seeded(0)).to(device)
    x = torch.randn(5, 4, generator=seeded(1)).to(device)
    first = lipschitz_lower(network, x, generator=seeded(2))
    again = lipschitz_lower(network, x, generator=seeded(2))
    assert first.value == again.value
    assert first.first.device.type == device
    assert first.first.dtype == torch.float64
    constant = lipschitz_lower(nn.Linear(3, 2).to(device).requires_grad_(False), x[:, :3])
    assert constant.value > 0
    with torch.no_grad():  # also there
        assert lipschitz_lower(network, x, generator=seeded(2)).value == first.value


def test_lower_bounds_of_networks_that_work_in_place_or_return_numbers():
    x = torch.randn(4, 3, generator=seeded(0))
    linear, kept = nn.Linear(3, 3), x.clone()
    values = [
        lipschitz_lower(nn.Sequential(nn.LeakyReLU(0.2, inplace=flag), linear), x).value
        for flag in (False, True)
    ]
    assert values[0] == values[1]
    assert torch.equal(x, kept)
    numbers = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    assert (
        0 < lipschitz_lower(numbers, x).value <= float(numbers[0].weight.double().norm()) * ROUNDING
    )


def test_a_constant_map_has_lower_bound_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert lipschitz_lower(layer, torch.ones(2, 3)).value == 0
    assert lipschitz_upper(layer).value == 0


# --- registration and bad input ---------------------------------------------------------------


class Sine(nn.Module):
    def forward(self, y):
        return torch.sin(y)


class Negated(nn.Linear):
    def forward(self, y):
        return -10 * super().forward(y)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.inner.weight)

    def forward(self, y):
        return y + 2 * self.inner(y)

    def lipschitz_bound(self, bounds):
        return 1 + 2 * bounds(self.inner)


class Changed(Own):
    def forward(self, y):
        return 100 * y


class Wrong(Own):
    def lipschitz_bound(self, bounds):
        return math.nan


def test_users_register_their_layers():
    network = nn.Sequential(nn.Linear(2, 2), Sine())
    with pytest.raises(UnsupportedLayerError, match=r"layer '1' \(Sine\)"):
        lipschitz_upper(network)
    register_lipschitz(Sine)(lambda layer, bounds: 1.0)
    try:
        assert lipschitz_upper(network).value > 0
    finally:
        del RULES[Sine]
    assert lipschitz_upper(Own()).value == pytest.approx(3)


def hooked():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return nn.Sequential(layer)


def replaced():
    layer = nn.Linear(2, 2)
    layer.forward = lambda y: 100 * y
    return nn.Sequential(layer)


def with_nan():
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, math.nan)
    return nn.Sequential(layer)


def estimated():
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))


class Noise(nn.Module):
    def forward(self, weight):
        return weight * (1 + torch.rand(()))


def random_weight():
    layer = nn.Linear(2, 2)
    nn.utils.parametrize.register_parametrization(layer, "weight", Noise())
    return layer


def replaced_convolution():
    layer = nn.Conv1d(1, 1, 3)
    layer._conv_forward = lambda y, weight, bias: 10 * y
    return layer


def hooked_merge():
    network = UNet(1, 1, 1, 2, dimension=1)
    layer = network.body.merges[0].convolution
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


class Stretched(BoundedConvolution):
    """Inherits a bound, and changes what the bound was proved for."""

    def proved_norm(self):
        return 0.0


LINEAR = nn.Linear(2, 2)
X = torch.ones(3, 2)
BAD = [
    (lipschitz_upper, {"module": "net"}, TypeError, "module: str is not a torch.nn.Module"),
    (
        lipschitz_upper,
        {"module": UNet(1, 1, 1, 2, norm="group")},
        UnsupportedLayerError,
        r"'body.encoders.1.1' \(GroupNorm\).*register_lipschitz\(GroupNorm\)",
    ),
    (lipschitz_upper, {"module": nn.Softmax(1)}, UnsupportedLayerError, r"'\(network\)' \(Softmax"),
    (lipschitz_upper, {"module": Negated(2, 2)}, UnsupportedLayerError, "Negated"),
    (lipschitz_upper, {"module": Changed()}, UnsupportedLayerError, "Changed"),
    (lipschitz_upper, {"module": Wrong()}, ValueError, r"Wrong\): its rule gave nan"),
    (lipschitz_upper, {"module": hooked()}, UnsupportedLayerError, "'0'.*hooks"),
    (lipschitz_upper, {"module": replaced()}, UnsupportedLayerError, "'0'.*replaced forward"),
    (lipschitz_upper, {"module": with_nan()}, ValueError, "module: '0.weight' has entries"),
    (
        lipschitz_upper,
        {"module": nn.Sequential(LINEAR, nn.Dropout(0.5))},
        ValueError,
        r"layer '1' \(Dropout\) is in training mode.*eval",
    ),
    (lipschitz_upper, {"module": nn.BatchNorm1d(2)}, ValueError, "BatchNorm1d.*training mode"),
    (
        lipschitz_upper,
        {"module": nn.BatchNorm1d(2, track_running_stats=False).eval()},
        UnsupportedLayerError,
        "running statistics",
    ),
    (
        lipschitz_upper,
        {"module": LINEAR, "input_shape": (3,)},
        ValueError,
        r"input_shape: .*\(3,\)",
    ),
    (lipschitz_upper, {"module": LINEAR, "input_shape": (0,)}, ValueError, r"input_shape\[0\]: 0"),
    (lipschitz_upper, {"module": LINEAR, "input_shape": (2.5,)}, TypeError, r"input_shape\[0\]"),
    (
        lipschitz_upper,
        {"module": nn.Upsample(scale_factor=2, mode="bilinear")},
        UnsupportedLayerError,
        r"\(Upsample\): .*input_shape=",
    ),
    (
        lipschitz_upper,
        {"module": nn.Upsample(scale_factor=2, mode="bicubic")},
        UnsupportedLayerError,
        "mode 'bicubic'",
    ),
    (
        lipschitz_upper,
        {"module": nn.Softplus()},
        UnsupportedLayerError,
        r"'\(network\)' \(Softplus\): threshold=20.0: it jumps by 2.1e-09 .*threshold = 40",
    ),
    (lipschitz_upper, {"module": nn.Softplus(threshold=1)}, UnsupportedLayerError, "jumps by 0.31"),
    (lipschitz_upper, {"module": nn.Softplus(threshold=-1e9)}, UnsupportedLayerError, "jumps"),
    (lipschitz_upper, {"module": nn.Softplus(threshold=1e3)}, UnsupportedLayerError, "overflows"),
    (lipschitz_upper, {"module": nn.Softplus(beta=0.0)}, UnsupportedLayerError, "beta=0.0"),
    (lipschitz_upper, {"module": nn.CELU(-1.0)}, UnsupportedLayerError, "CELU.*alpha=-1.0"),
    (lipschitz_upper, {"module": nn.CELU(math.nan)}, UnsupportedLayerError, "alpha=nan"),
    (lipschitz_upper, {"module": nn.ELU(math.nan)}, ValueError, "its rule gave nan"),
    (lipschitz_upper, {"module": nn.LeakyReLU(math.inf)}, UnsupportedLayerError, "infinite"),
    (lipschitz_upper, {"module": nn.Flatten(0)}, UnsupportedLayerError, "samples mix"),
    (
        lipschitz_upper,
        {"module": nn.Flatten(-2), "input_shape": (3,)},
        UnsupportedLayerError,
        "samples mix",
    ),
    (
        lipschitz_upper,
        {"module": nn.MaxPool1d(2, return_indices=True)},
        UnsupportedLayerError,
        "return_indices",
    ),
    (lipschitz_upper, {"module": estimated()}, UnsupportedLayerError, "'weight' is in training"),
    (lipschitz_upper, {"module": random_weight()}, UnsupportedLayerError, "'weight' is in train"),
    (
        lipschitz_upper,
        {"module": replaced_convolution()},
        UnsupportedLayerError,
        "Conv1d.*replaced _conv_forward",
    ),
    (
        lipschitz_upper,
        {"module": hooked_merge()},
        UnsupportedLayerError,
        r"'body.merges.0.convolution' \(Conv1d\): forward hooks",
    ),
    (lipschitz_upper, {"module": Stretched(1, 1, 1)}, UnsupportedLayerError, "Stretched"),
    (
        lipschitz_upper,
        {"module": nn.Linear(2, 2, dtype=torch.complex64)},
        UnsupportedLayerError,
        "'weight' is complex",
    ),
    (lipschitz_upper, {"module": nn.LazyLinear(2)}, ValueError, "'weight' has no values yet"),
    (lipschitz_upper, {"module": torch.jit.script(LINEAR)}, UnsupportedLayerError, "scripted"),
    (lipschitz_lower, {"module": 3, "x": X}, TypeError, "module: int"),
    (lipschitz_lower, {"module": LINEAR, "x": X.numpy()}, TypeError, "x: ndarray"),
    (lipschitz_lower, {"module": LINEAR, "x": X[0]}, ValueError, r"x: shape \(2,\)"),
    (lipschitz_lower, {"module": LINEAR, "x": X * math.inf}, ValueError, "x: 6 entries are NaN"),
    (lipschitz_lower, {"module": LINEAR, "x": X, "steps": 0}, ValueError, "steps: 0"),
    (lipschitz_lower, {"module": LINEAR, "x": X, "ascent_steps": -1}, ValueError, "ascent_steps"),
    (lipschitz_lower, {"module": LINEAR, "x": X, "generator": 1}, TypeError, "generator: int"),
    (
        lipschitz_lower,
        {"module": nn.Dropout(0.5), "x": X},
        ValueError,
        "training mode",
    ),
    (
        lipschitz_lower,
        {"module": nn.LSTM(2, 2), "x": X[None]},
        TypeError,
        r"module\(x\) returned a tuple of 2 entries; needed: a tensor \(.*module\(...\)\[0\]",
    ),
    (register_lipschitz, {"kinds": "relu"}, TypeError, "kinds: 'relu' is not a subclass"),
]


@pytest.mark.parametrize(("function", "changes", "error", "message"), BAD)
def test_bad_input_is_refused_by_name(function, changes, error, message):
    with pytest.raises(error, match=message):
        function(*changes.values()) if function is register_lipschitz else function(**changes)


def test_reflection_bounds_hold_in_functional_terms():
    entries = torch.arange(4.0)[None, None]
    copies = functional.pad(entries, (2, 3), mode="reflect").long().flatten().bincount().max()
    assert lipschitz_upper(nn.ReflectionPad1d((2, 3)), (1, 4)).value == pytest.approx(
        math.sqrt(copies)
    )
