"""Smoothed networks: what users compute is what is certified, and both ends hold."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dro_core.reference import finite_worst_case_highs
from dro_torch import Smoothing, certificate_curve, certify, nets
from dro_torch.lipschitz import lipschitz_upper
from dro_torch.residual import forward_residual
from dro_torch.structure import XShift, YGivenX

NODES = np.linspace(-8.0, 8.0, 401)  # the trapezoidal rule of a Gaussian
DENSITY = np.exp(-0.5 * NODES**2) / math.sqrt(2 * math.pi) * (NODES[1] - NODES[0])
RANGE = (0.0, 1.0)


def network(seed, scale=6.0):
    """A steep map from R to R."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
    return model


def samples(seed, count=60):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return x, x + 0.3 * torch.randn(count, 1, generator=generator, dtype=torch.float64)


@torch.no_grad()
def moments(model, points, sigma):
    """Mean and variance of the clamped network under the noise, by quadrature, at (N, T) points."""
    inputs = torch.from_numpy(points[..., None] + sigma * NODES)
    values = model(inputs.reshape(-1, 1)).clamp(*RANGE).reshape(inputs.shape).numpy()
    mean = values @ DENSITY
    return mean, values**2 @ DENSITY - mean**2


def worst_case(model, x, y, sigma, radius, draws=math.inf):
    """Of the expected loss of an average of so many draws, over moves on a grid, by HiGHS."""
    moves = np.linspace(-4, 4, 81) * max(sigma, radius)
    mean, variance = moments(model, y.numpy() + moves, sigma)
    loss = (mean - x.numpy()) ** 2 + variance / draws
    return float(finite_worst_case_highs(loss, np.tile(moves**2, (len(x), 1)), radius).risk)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_the_interval_contains_the_worst_case_of_the_smoothed_map(seed, sigma):
    model, (x, y) = network(seed), samples(seed + 10)
    smoothing = Smoothing(sigma, draws=4, certification=200, evaluation=8)
    curve = certificate_curve(
        model, x, y, [0.0, 0.5 * sigma, sigma, 3 * sigma], output_range=RANGE, smoothing=smoothing,
        steps=4, directions=1,
    )  # fmt: skip
    for found in curve:
        # of every number of draws, one included
        truth = worst_case(model, x, y, sigma, found.radius, 1) if found.radius else 0.0
        assert found.upper >= truth * (1 - 1e-9)
        assert found.upper <= found.range_bound * (1 + 1e-12)
        if found.radius:
            drawn = worst_case(model, x, y, sigma, found.radius, smoothing.draws)
            assert found.lower <= drawn * 1.01
        assert found.lower <= found.upper
        assert found.failure_probability == 1e-3
        assert (found.draws, found.smoothing) == (200, sigma)
        assert f"clamped to [0, 1], averaged over noise of standard deviation {sigma:g}" in str(
            found
        )
        assert "both ends hold with probability >= 0.999" in str(found)


def test_it_is_near_the_worst_case_of_a_half_space():
    """A step: for one draw the expected loss of the moved sample is the bound of Neyman-Pearson."""
    model, sigma, radius = nn.Sequential(nn.Linear(1, 1)).double(), 0.5, 0.5
    with torch.no_grad():
        model[0].weight.fill_(1e6)
        model[0].bias.fill_(-1e6 * 0.2)
    x, y = torch.zeros(2, 30, 1, dtype=torch.float64)
    smoothing = Smoothing(sigma, certification=2000, evaluation=2)
    found = certify(model, x, y, radius, output_range=RANGE, smoothing=smoothing)
    truth = worst_case(model, x, y, sigma, radius, 1)
    assert truth <= found.upper <= 1.2 * truth


@pytest.mark.parametrize("structure", ["x|y", "joint"])
def test_other_structures_pay_for_what_the_signal_moves(structure):
    """x moves by t: the root of the risk grows by at most ρ on top of what y can do."""
    model, (x, y), sigma, radius = network(3), samples(4), 0.3, 0.2
    smoothing = Smoothing(sigma, certification=100, evaluation=4)
    options = {"output_range": RANGE, "smoothing": smoothing, "steps": 2, "directions": 1}
    found = certify(model, x, y, radius, structure, **options)
    alone = certify(model, x, y, radius, **options)
    still = certify(model, x, y, 0.0, **options)
    least = still if structure == "x|y" else alone
    assert found.upper >= worst_case(model, x, y, sigma, 1e-6)
    assert found.upper <= (math.sqrt(least.upper) + radius) ** 2 * (1 + 1e-9)
    assert found.lower > still.lower


def test_weights_of_the_transport_cost_scale_the_distance():
    model, (x, y) = network(3), samples(4)
    options = {"output_range": RANGE, "steps": 2, "directions": 1}
    smoothing = Smoothing(0.3, certification=100, evaluation=4)
    dear = certify(model, x, y, 0.4, YGivenX(weight_y=4.0), smoothing=smoothing, **options)
    plain = certify(model, x, y, 0.2, smoothing=smoothing, **options)
    assert dear.upper == pytest.approx(plain.upper, rel=1e-9)


def test_samples_of_weight_zero_do_not_count():
    model, (x, y) = network(3), samples(4, 6)
    options = {"output_range": RANGE, "smoothing": Smoothing(0.3, certification=50, evaluation=4)}
    weights = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    found = certify(model, x, y, 0.2, weights=weights, **options)
    alone = certify(model, x[:2], y[:2], 0.2, **options)
    assert found.upper == alone.upper
    assert found.lower == alone.lower


def test_a_network_with_a_constant_keeps_it():
    """Where draws know less than the constant: a gentle map, far away."""
    model = nn.Sequential(nn.Linear(1, 1)).double()
    with torch.no_grad():
        model[0].weight.fill_(0.05)
        model[0].bias.fill_(0.5)
    x, y = samples(4)
    smoothing = Smoothing(0.1, certification=50, evaluation=4)
    found = certify(model, x, y, 1.0, output_range=RANGE, smoothing=smoothing)
    assert found.lipschitz == pytest.approx(0.05)
    root = (0.5 + 0.05 * y - x).square().mean().sqrt()
    assert found.upper < (1.5 * float(root) + 0.05) ** 2
    steep = certify(network(3), x, y, 1.0, output_range=RANGE, smoothing=smoothing)
    assert steep.lipschitz == pytest.approx(0.5 * math.sqrt(2 / math.pi) / 0.1)


def test_smoothed_models_average_the_network():
    model, (_, y), sigma = network(1), samples(2, 5), 0.4
    mean, variance = moments(model, y.numpy(), sigma)
    smooth = nets.SmoothedModel(model, sigma, 4000, output_range=RANGE)
    with torch.no_grad():
        first, second = smooth(y).numpy(), smooth(y).numpy()
    assert not np.array_equal(first, second)  # fresh draws
    assert np.abs(first - mean).max() < 5 * np.sqrt(variance.max() / 4000)
    fixed = nets.SmoothedModel(model, sigma, 300, output_range=RANGE, fixed=True)
    with torch.no_grad():
        whole, single = fixed(y), torch.cat([fixed(row[None]) for row in y])
    torch.testing.assert_close(whole, single)
    assert float(lipschitz_upper(fixed)) == pytest.approx(float(lipschitz_upper(model)))
    assert "sigma=0.4, draws=300, fixed" in repr(fixed)


@pytest.mark.parametrize("seed", range(2))
def test_a_tether_counts_where_draws_say_nothing(seed):
    """Few draws: beyond a few σ only the anchor speaks, and the interval still holds."""
    model, (x, y), sigma, radius = network(seed), samples(seed + 10), 0.1, 0.3
    anchor = nn.Linear(1, 1).double()
    with torch.no_grad():
        anchor.weight.fill_(0.5)
        anchor.bias.fill_(0.25)
    tethered = nets.Tethered(model, anchor, 0.1)
    smoothing = Smoothing(sigma, draws=4, certification=200, evaluation=4)
    options = {"output_range": RANGE, "smoothing": smoothing, "steps": 2, "directions": 1}
    found = certify(tethered, x, y, radius, **options)
    assert found.upper >= worst_case(tethered, x, y, sigma, radius, 1) * (1 - 1e-9)
    error = (x - anchor(y)).detach()
    roots = (error.square() + (0.5 * sigma) ** 2).sqrt() + 0.1
    least = (float(roots.square().mean().sqrt()) + 0.5 * radius) ** 2
    assert found.upper <= 1.05 * least
    vague = certify(nets.Tethered(model, network(7), 0.1), x, y, radius, **options)
    assert vague.upper > found.upper  # an anchor that is not affine says nothing here


X, Y = samples(5, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"output_range": None}, ValueError, r"smoothing: needs output_range"),
        ({"smoothing": 0.0}, ValueError, "smoothing: 0.0"),
        ({"smoothing": "much"}, TypeError, "smoothing: 'much' is not a real number"),
        ({"residual": forward_residual}, ValueError, "smoothing: allowed for x - model"),
        ({"structure": XShift(lambda x: x)}, ValueError, "smoothing: structure 'x'; allowed"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(changes, error, message):
    arguments = {"output_range": RANGE, "smoothing": 0.3, **changes}
    with pytest.raises(error, match=message):
        certify(network(1), X, Y, 0.1, **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -1.0}, "sigma: -1.0"),
        ({"draws": 0}, "draws: 0 is below 1"),
        ({"certification": 0}, "certification: 0 is below 1"),
        ({"attack": 0}, "attack: 0 is below 1"),
        ({"evaluation": 1}, "evaluation: 1; allowed: an integer >= 2"),
        ({"failure_probability": 1.0}, "failure_probability: 1.0; allowed"),
    ],
)
def test_bad_smoothing_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Smoothing(**{"sigma": 0.1, **options})


def test_bad_smoothed_models_are_refused():
    with pytest.raises(TypeError, match="model: function is not"):
        nets.SmoothedModel(lambda y: y, 0.1)
    with pytest.raises(ValueError, match=r"sigma: 0\.0"):
        nets.SmoothedModel(nn.Identity(), 0.0)
    with pytest.raises(ValueError, match="draws: 0 is below 1"):
        nets.SmoothedModel(nn.Identity(), 0.1, 0)


def test_small_random_networks_lie_below_their_bounds():
    """The experiment's brute force, a few of its 500."""
    from validation import certify_any

    rows = certify_any.random_rows(certify_any.Config(networks=12, smoothed=2))
    assert len(rows) == 26
    for row in rows:
        assert row["upper"] >= row["truth"] * (1 - 1e-9), row


@pytest.mark.slow
def test_the_experiment_runs_small(tmp_path, capsys):
    from validation import certify_any

    try:
        certify_any.digits(certify_any.Config(), "test", 1)
    except (FileNotFoundError, ValueError) as error:
        pytest.skip(f"needs MNIST: {error}")
    small = {"images": 12, "steps": 20, "draws": 40, "ascent": 2, "networks": 4, "smoothed": 1}
    checks = certify_any.run(certify_any.Config(**small), tmp_path)
    assert len(checks) == 10
    assert (tmp_path / "certify_any.csv").is_file()
    assert "upper / lower" in capsys.readouterr().out
