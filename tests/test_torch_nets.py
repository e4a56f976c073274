"""Networks: shapes, samples kept apart, compilation, formats, precision, guaranteed constants."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dro_torch.lipschitz import lipschitz_lower, lipschitz_upper
from dro_torch.nets import MLP, BoundedConvolution, GradientStep, LinearMap, UNet, frozen
from dro_torch.nets.norms import convolution_norm
from dro_torch.nets.spectral import haar_analysis, haar_synthesis

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def plain(**changes):
    return UNet(**{"in_channels": 1, "out_channels": 1, "depth": 2, "width": 4, **changes})


def spectral(**changes):
    return plain(spectral=True, **changes)


NETWORKS = [
    (plain, (1, 16, 16)),
    (spectral, (1, 16, 16)),
    (lambda **c: plain(dimension=1, **c), (1, 16)),
    (lambda **c: spectral(dimension=1, activation="tanh", **c), (1, 16)),
    (lambda **c: plain(norm="group", activation="silu", **c), (1, 16, 16)),
    (lambda **c: MLP([256, 20, 256], **c), (1, 16, 16)),
]


@pytest.mark.parametrize("make", [plain, spectral])
@pytest.mark.parametrize(("channels", "depth"), [((1, 1), 0), ((2, 3), 1), ((3, 1), 3)])
@pytest.mark.parametrize("sizes", [(1,), (13,), (8,), (7, 10), (1, 5), (16, 16)])
def test_every_size_and_channel_number(make, channels, depth, sizes):
    network = make(
        in_channels=channels[0], out_channels=channels[1], depth=depth, dimension=len(sizes)
    )
    assert network(torch.randn(2, channels[0], *sizes)).shape == (2, channels[1], *sizes)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_samples_do_not_mix(make, shape):
    network = make().double()
    batch = torch.randn(3, *shape, generator=seeded(0), dtype=torch.float64)
    together = network(batch)
    alone = torch.cat([network(sample[None]) for sample in batch])
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_one_seed_gives_one_network_and_leaves_the_global_generator(make, shape):
    before = torch.get_rng_state()
    first, second, other = (make(generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_state_dictionaries_round_trip(make, shape, tmp_path):
    first, second = make(generator=seeded(0)), make(generator=seeded(1))
    torch.save(first.state_dict(), tmp_path / "net.pt")
    second.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    x = torch.randn(2, *shape, generator=seeded(2))
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(("make", "shape"), [*NETWORKS[:2], NETWORKS[-1]])
def test_compiled_without_graph_breaks(make, shape):
    small = {} if make is NETWORKS[-1][0] else {"depth": 1, "width": 2}
    network = make(generator=seeded(0), **small)
    x = torch.randn(2, *shape, generator=seeded(1))
    backend = "eager" if make is spectral else "aot_eager"  # its norms take long to trace
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    plain_loss, compiled_loss = network(x).square().sum(), compiled(x).square().sum()
    assert torch.allclose(compiled_loss, plain_loss, rtol=1e-4)
    parameters = list(network.parameters())
    expected = torch.autograd.grad(plain_loss, parameters)
    found = torch.autograd.grad(compiled_loss, parameters)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()) + 1e-7)


@pytest.mark.parametrize(("make", "shape"), [case for case in NETWORKS if len(case[1]) == 3])
def test_channels_last_gives_the_same_numbers(make, shape):
    network = make(generator=seeded(0)).double()
    x = torch.randn(2, *shape, generator=seeded(1), dtype=torch.float64)
    expected = network(x)
    found = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_precisions(make, shape, device):
    network = make(generator=seeded(0)).to(device)
    x = torch.randn(2, *shape, generator=seeded(1)).to(device)
    expected = copy.deepcopy(network).double()(x.double())
    assert expected.dtype == torch.float64
    scale = float(expected.abs().max())
    assert torch.allclose(network(x).double(), expected, atol=1e-4 * scale)
    with torch.autocast(device, dtype=torch.bfloat16):
        rough = network(x)
    rough.float().square().sum().backward()
    assert torch.allclose(rough.double(), expected, atol=0.1 * scale)
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32
        assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize(("make", "shape"), NETWORKS[:4])
def test_gradients_match_finite_differences(make, shape):
    network = make(width=1, depth=1, generator=seeded(0)).double()
    small = tuple(3 if size == 16 else size for size in shape)
    x = torch.randn(1, *small, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))


# --- the guaranteed constant ------------------------------------------------------------------


def train(network, steps, generator, rate=0.05):
    """Random regression steps of a large size: whatever the weights become."""
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        x = torch.randn(4, 1, *[5] * network.dimension, generator=generator)
        target = 3 * torch.randn(x.shape, generator=generator)
        loss = (network(x) - target).square().mean() - 0.1 * network(x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("constant", [0.3, 1.0, 5.0])
def test_the_declared_constant_holds_whatever_the_weights(dimension, constant):
    generator = seeded(int(10 * constant))
    network = spectral(
        depth=1, width=2, dimension=dimension, lipschitz=constant, generator=generator
    )
    assert network.lipschitz == constant
    averaged = copy.deepcopy(network)
    points = torch.randn(2, 1, *[5] * dimension, generator=generator)
    for _ in range(2):
        train(network, 6, generator)
        with torch.no_grad():
            for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, 0.5)
        for candidate in (network, averaged):
            upper = lipschitz_upper(candidate).value
            assert upper <= constant * (1 + 1e-6)
            lower = lipschitz_lower(candidate, points, steps=4, ascent_steps=2)
            assert lower.value <= upper * (1 + 1e-9)


@pytest.mark.parametrize(("steps", "expansion"), [(1, 1), (1, 3), (3, 1)])
def test_other_gradient_steps_keep_the_declared_constant(steps, expansion):
    generator = seeded(steps)
    network = spectral(
        depth=1, width=2, lipschitz=2.0, steps=steps, expansion=expansion, generator=generator
    )
    kernels = [
        p.shape[:2] for n, p in network.named_parameters() if "encoders.0" in n and p.ndim > 2
    ]
    assert kernels == [(2 * expansion, 2)] * steps
    train(network, 6, generator)
    upper = lipschitz_upper(network).value
    assert upper <= 2.0 * (1 + 1e-6)
    points = torch.randn(2, 1, 5, 5, generator=generator)
    lower = lipschitz_lower(network, points, steps=4, ascent_steps=2)
    assert lower.value <= upper * (1 + 1e-9)


def test_the_guarantee_is_not_vacuous_after_training():
    generator = seeded(0)
    network = spectral(depth=1, dimension=1, generator=generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):  # a denoiser of steps
        x = torch.rand(16, 1, 1, generator=generator).expand(16, 1, 16)
        y = x + 0.3 * torch.randn(x.shape, generator=generator)
        optimiser.zero_grad()
        (network(y) - x).square().mean().backward()
        optimiser.step()
    upper, lower = lipschitz_upper(network), lipschitz_lower(network, y[:6], steps=15)
    assert lower.value <= upper.value <= 2 * lower.value


def test_the_spectral_form_starts_near_the_identity():
    x = torch.rand(2, 1, 16, 16, generator=seeded(0))
    change = spectral(generator=seeded(1))(x) - x
    assert float(change.norm() / x.norm()) < 1.0


@pytest.mark.parametrize("dimension", [1, 2])
def test_haar_bands_are_an_orthogonal_transform(dimension):
    z = torch.randn(2, 3, *[8, 6][:dimension], generator=seeded(0), dtype=torch.float64)
    bands = haar_analysis(z, dimension)
    assert len(bands) == 2**dimension
    assert torch.allclose(haar_synthesis(bands, dimension), z)
    assert float(sum(band.square().sum() for band in bands)) == pytest.approx(
        float(z.square().sum())
    )
    constant = haar_analysis(torch.ones_like(z), dimension)
    assert torch.allclose(constant[0], torch.full_like(constant[0], 2 ** (dimension / 2)))
    assert all(float(band.abs().max()) < 1e-12 for band in constant[1:])


def test_gradient_steps_are_monotone_gradients_with_eigenvalues_in_minus_one_to_one():
    layer = GradientStep(2, 5, 1).double()
    x = torch.randn(1, 2, 7, generator=seeded(0), dtype=torch.float64)
    jacobian = torch.func.jacrev(layer)(x).reshape(14, 14)
    assert torch.allclose(jacobian, jacobian.T, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(jacobian.detach())
    assert float(eigenvalues.min()) >= -1 - 1e-9
    assert float(eigenvalues.max()) <= 1 + 1e-9
    with torch.no_grad():  # a step that is too long is found out, not believed
        layer.fixed_factor = 2 * layer.factor()
    assert lipschitz_upper(layer).value > 1.5
    layer.fixed_factor = None
    layer.activation = nn.SiLU()
    assert 1.0 < lipschitz_upper(layer).value < 1.3
    layer.activation = nn.Linear(7, 7)
    with pytest.raises(TypeError, match=r"'activation'.*no scalar activation"):
        lipschitz_upper(layer)


def test_bounded_convolutions_are_free_below_their_constant():
    layer = BoundedConvolution(2, 3, 2, lipschitz=4.0)
    assert float(layer.factor()) == 1
    with torch.no_grad():
        layer.weight.mul_(100)
    assert float(layer.factor()) < 1
    applied = convolution_norm(layer.weight * layer.factor())
    assert 0.9 * 4 <= applied <= 4 * (1 + 1e-6)
    assert lipschitz_upper(layer).value == pytest.approx(applied, rel=1e-5)


def test_frozen_networks_are_the_same_map_and_still_certified():
    network = spectral(lipschitz=1.5, generator=seeded(0))
    fixed = frozen(network)
    x = torch.randn(2, 1, 9, 9, generator=seeded(1))
    assert torch.equal(network(x), fixed(x))
    assert not any(parameter.requires_grad for parameter in fixed.parameters())
    assert network.body.lift.fixed_factor is None
    assert lipschitz_upper(fixed).value == pytest.approx(lipschitz_upper(network).value, rel=1e-5)
    assert set(fixed.state_dict()) == set(network.state_dict())


def test_only_the_form_without_normalisation_has_a_constant():
    assert lipschitz_upper(plain()).value < np.inf
    assert plain().lipschitz is None
    with pytest.raises(TypeError, match="GroupNorm"):
        lipschitz_upper(plain(norm="group"))


# --- the other networks -----------------------------------------------------------------------


def test_linear_maps_are_matrices(rng):
    matrix = rng.standard_normal((6, 4))
    model = LinearMap(matrix, output_shape=(1, 2, 3), dtype=torch.float64)
    y = rng.standard_normal((5, 1, 2, 2))
    expected = y.reshape(5, 4) @ matrix.T
    assert np.allclose(model(torch.tensor(y)).detach().numpy().reshape(5, 6), expected)
    assert np.array_equal(model.matrix(), matrix)
    matrix[0, 0] += 1
    assert model.matrix()[0, 0] != matrix[0, 0]
    assert model.weight.requires_grad


def test_perceptrons_keep_image_shapes_and_drop_out_in_training_only():
    network = MLP([12, 30, 12], dropout=0.5, generator=seeded(0))
    x = torch.ones(3, 1, 3, 4)
    assert network(x).shape == x.shape
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    assert MLP([12, 6])(x).shape == (3, 6)
    assert MLP([12, 12], output_shape=(12,))(x).shape == (3, 12)
    assert MLP([12, 6], output_shape=(2, 3))(x).shape == (3, 2, 3)
    assert sum(isinstance(layer, nn.Dropout) for layer in network.modules()) == 1


# --- bad input --------------------------------------------------------------------------------

BAD = [
    (plain, {"in_channels": 0}, ValueError, "in_channels: 0"),
    (plain, {"out_channels": 1.5}, TypeError, "out_channels: 1.5"),
    (plain, {"depth": -1}, ValueError, "depth: -1"),
    (plain, {"depth": 9}, ValueError, "depth: 9; allowed: 0 to 8"),
    (plain, {"width": "8"}, TypeError, "width: '8'"),
    (plain, {"dimension": 3}, ValueError, "dimension: 3; allowed: 1"),
    (plain, {"norm": "batch"}, ValueError, "norm: unknown value 'batch'"),
    (plain, {"activation": "rleu"}, ValueError, "activation: unknown value 'rleu'.*relu"),
    (plain, {"residual": True, "out_channels": 2}, ValueError, "residual: True needs equally"),
    (plain, {"lipschitz": 1.0}, ValueError, "lipschitz: only the form with spectral=True"),
    (plain, {"steps": 1}, ValueError, "steps, expansion: only the form with spectral=True"),
    (spectral, {"steps": 0}, ValueError, "steps: 0 is below 1"),
    (spectral, {"expansion": 1.5}, TypeError, "expansion: 1.5 is not an integer"),
    (plain, {"generator": 3}, TypeError, "generator: int is not a torch.Generator"),
    (spectral, {"lipschitz": 0.0}, ValueError, "lipschitz: 0.0; allowed"),
    (spectral, {"lipschitz": float("nan")}, ValueError, "lipschitz: nan"),
    (spectral, {"lipschitz": "1"}, TypeError, "lipschitz: '1'"),
    (spectral, {"norm": "group"}, ValueError, "norm: 'group' has no Lipschitz constant"),
    (spectral, {"residual": True}, ValueError, "residual: True would add 1"),
    (spectral, {"activation": "silu"}, ValueError, "activation: unknown value 'silu'"),
    (MLP, {"sizes": [3]}, ValueError, r"sizes: \[3\]; at least"),
    (MLP, {"sizes": [3, 0]}, ValueError, r"sizes\[1\]: 0"),
    (MLP, {"sizes": [3, 3], "dropout": 1.0}, ValueError, "dropout: 1.0; allowed"),
    (MLP, {"sizes": [3, 3], "dropout": -0.1}, ValueError, "dropout: -0.1"),
    (MLP, {"sizes": [3, 3], "activation": "step"}, ValueError, "activation: unknown value 'step'"),
    (MLP, {"sizes": [3, 4], "output_shape": (2, 3)}, ValueError, "output_shape: .*4 are needed"),
    (LinearMap, {"matrix": [1.0, 2.0]}, ValueError, "matrix: a non-empty 2-D"),
    (LinearMap, {"matrix": [[np.nan]]}, ValueError, "matrix: .*NaN"),
    (LinearMap, {"matrix": [["a"]]}, TypeError, "matrix: "),
    (LinearMap, {"matrix": [[1.0]], "output_shape": (2,)}, ValueError, "output_shape: .*1 are"),
]


@pytest.mark.parametrize(("make", "changes", "error", "message"), BAD)
def test_bad_arguments_are_refused_by_name(make, changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (plain, (2, 3, 8, 8), r"UNet: input of shape \(2, 3, 8, 8\); needed: \(N, 1, height"),
        (plain, (1, 8, 8), "UNet: input of shape"),
        (plain, (2, 1, 0, 8), "UNet: input of shape"),
        (lambda: plain(dimension=1), (2, 1, 8, 8), r"needed: \(N, 1, length\)"),
        (lambda: MLP([4, 4]), (2, 5), "MLP: input of shape .*4 entries per sample"),
        (lambda: MLP([4, 4]), (4,), "MLP: input of shape"),
        (lambda: LinearMap([[1.0, 2.0]]), (2, 3), "LinearMap: input of shape .*2 entries"),
    ],
)
def test_bad_inputs_are_refused_by_shape(network, shape, message):
    with pytest.raises(ValueError, match=message):
        network()(torch.zeros(shape))
