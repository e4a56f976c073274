"""The entropic DRO loss: exact oracles, unbiased weights, levels, keys, and what it refuses."""

import copy
import itertools
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import dro_core
from dro_torch import keyed_noise
from dro_torch.losses.entropic import (
    EntropicDROLoss,
    EstimatorWarning,
    LinearisedLaw,
    effective_sample_size,
    level_difference,
    level_probabilities,
    soft_maximum,
)
from dro_torch.residual import MovedSamples, forward_residual, leading_directions
from dro_torch.structure import XShift, as_structure

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
STRUCTURES = ("y|x", "x|y", "joint")


def problem(seed, samples=5, n=4, m=3):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape) for shape in ((n, m), (samples, n), (samples, m)))


def tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def square_modulus(B, structure):
    return {"y|x": 0.0, "joint": 1.0, "x|y": 1.0}[structure] + (
        0.0 if structure == "x|y" else np.linalg.norm(B, 2) ** 2
    )


def exact(B, x, y, multiplier, epsilon, structure):
    return dro_core.dual_value(B, x, y, multiplier, 0.0, structure, epsilon=epsilon)


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


# -- exact for linear maps


@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 6),
    n=st.integers(1, 5),
    m=st.integers(1, 5),
    structure=st.sampled_from(STRUCTURES),
    factor=st.floats(1.02, 50.0),
    log_epsilon=st.floats(-4.0, 2.0),
    draws=st.integers(1, 4),
    noisy=st.booleans(),
)
@settings(max_examples=60)
def test_tilting_is_exact_for_linear_maps(
    seed, samples, n, m, structure, factor, log_epsilon, draws, noisy
):
    B, x, y = problem(seed, samples, n, m)
    multiplier, epsilon = factor * square_modulus(B, structure), 10.0**log_epsilon
    matrix, x_, y_ = tensors(B, x, y)
    loss = EntropicDROLoss(
        epsilon,
        structure,
        draws,
        "tilted",
        rank="full",
        defensive=False,
        linearise="noisy" if noisy else "data",
    )
    value = float(loss(lambda t: t @ matrix.T, x_, y_, multiplier, seed=seed))
    assert value == pytest.approx(exact(B, x, y, multiplier, epsilon, structure), rel=1e-10)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("estimator", "samples"), [("sg", 256), ("rt-mlmc", 64), ("tilted", 8)])
def test_estimators_agree_with_the_oracle_for_large_multipliers(structure, estimator, samples):
    B, x, y = problem(1)
    multiplier, epsilon = 20 * square_modulus(B, structure), 0.3
    matrix, x_, y_ = tensors(B, x, y)
    loss = EntropicDROLoss(epsilon, structure, samples, estimator, rank=2)
    values = [float(loss(lambda t: t @ matrix.T, x_, y_, multiplier, seed=s)) for s in range(300)]
    truth = exact(B, x, y, multiplier, epsilon, structure)
    error = np.std(values) / math.sqrt(len(values))
    bias = 3e-3 * truth  # of the finest level
    assert abs(np.mean(values) - truth) <= 4 * error + bias


@pytest.mark.parametrize(("structure", "residual"), [("x|y", forward_residual), ("y|x", None)])
def test_the_simulator_loss_is_the_reconstruction_loss_with_exchanged_roles(structure, residual):
    B, x, y = problem(2)
    matrix, x_, y_ = tensors(B, x, y)
    loss = EntropicDROLoss(0.1, structure, 1, "tilted", residual, rank="full", defensive=False)
    pair = (y_, x_) if residual else (x_, y_)  # samples of B's input are what moves
    value = float(loss(lambda t: t @ matrix.T, *pair, 2 * np.linalg.norm(B, 2) ** 2))
    assert value == pytest.approx(
        exact(B, x, y, 2 * np.linalg.norm(B, 2) ** 2, 0.1, "y|x"), rel=1e-10
    )


@pytest.mark.parametrize(("rank", "noisy"), [(0, False), (1, False), (2, False), (1, True)])
@pytest.mark.parametrize("multiplier", [2.0, 8.0])
def test_tilted_weights_are_unbiased_for_networks(rank, noisy, multiplier):
    """E_q[exp(ℓ/λε) p/q] = E_p[exp(ℓ/λε)] for a network, integrated by Gauss-Hermite."""
    network, epsilon = small_network(3, scale=0.5), 0.2
    x, y = torch.tensor([[0.3, -1.0]]).double(), torch.tensor([[0.5, 0.2]]).double()
    moved = MovedSamples(network, x, y, as_structure("y|x"))
    point = torch.full((1, 2), 0.1 if noisy else 0.0, dtype=torch.float64)
    start = torch.eye(2, dtype=torch.float64)[None, :, :rank]
    if rank:
        residual, _, values, right = leading_directions(moved, point, start, 1)
    else:
        residual = moved.residuals(point[:, None])[:, 0]
        values, right = residual.new_zeros(1, 0), residual.new_zeros(1, 2, 0)
    slope = moved.adjoint(point[:, None], residual[:, None])[1][:, 0]
    law = LinearisedLaw.of(values, right, slope, torch.tensor(multiplier).double(), epsilon)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    grid = torch.from_numpy(np.stack(np.meshgrid(nodes, nodes), -1).reshape(1, -1, 2))
    log_mass = torch.from_numpy(np.log(np.outer(weights, weights) / (2 * np.pi)).reshape(1, -1))

    def integral(displacement, log_weights):
        exponent = moved.losses(displacement) / (multiplier * epsilon)
        return torch.logsumexp(exponent + log_weights + log_mass, 1)

    plain = law.scale * grid
    tilted = law.transform(grid)
    network.requires_grad_(False)
    truth = float(integral(plain, 0.0))
    assert float(integral(tilted, -law.log_ratio(tilted))) == pytest.approx(truth, abs=1e-6)
    half = math.log(0.5)
    both = torch.logaddexp(
        *(
            integral(v, half - torch.logaddexp(law.log_ratio(v) + half, torch.tensor(half)))
            for v in (plain, tilted)
        )
    )
    assert float(both) == pytest.approx(truth, abs=1e-6)


def test_defensive_weights_are_at_most_two():
    network = small_network(4)
    x, y = torch.randn(2, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = []
    loss = EntropicDROLoss(0.5, samples=16, estimator="tilted", rank=2)
    aggregate = loss._aggregate
    loss._aggregate = lambda *args: seen.append(args[2]) or aggregate(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        loss(network, x, y, 1.0, seed=0)
    assert float(seen[0].max()) <= math.log(2) + 1e-12


# -- RT-MLMC


def test_level_probabilities_are_the_truncated_geometric_ones():
    p = level_probabilities(3)
    assert p.tolist() == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15], abs=1e-15)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-15)


def test_levels_add_up_to_the_finest_exactly():
    """All outcomes of eight two-point draws: the levels' expectations telescope."""
    outcomes = torch.tensor(list(itertools.product([0.0, 3.0], repeat=8)), dtype=torch.float64)
    mass = torch.where(outcomes == 0, 0.7, 0.3).double().prod(1)
    temperature = torch.tensor(0.8).double()
    total = sum(
        float((mass * level_difference(outcomes[:, : 2**level], temperature)).sum())
        for level in range(4)
    )
    finest = float((mass * soft_maximum(outcomes, 0.0, temperature)).sum())
    assert total == pytest.approx(finest, rel=1e-12)
    # and the difference of one level is the difference of two expectations
    for level in range(1, 4):
        difference = float((mass * level_difference(outcomes[:, : 2**level], temperature)).sum())
        coarse, fine = (
            float((mass * soft_maximum(outcomes[:, : 2**k], 0.0, temperature)).sum())
            for k in (level - 1, level)
        )
        assert difference == pytest.approx(fine - coarse, abs=1e-12)


def test_rt_mlmc_has_the_expectation_of_the_finest_level_value_and_gradient():
    B, x, y = problem(5, samples=64)
    matrix, x_, y_ = tensors(B, x, y)
    matrix.requires_grad_()
    multiplier, epsilon = 3 * np.linalg.norm(B, 2) ** 2, 0.5

    def moments(estimator, runs):
        loss = EntropicDROLoss(epsilon, "y|x", 8, estimator)
        rows = []
        for s in range(runs):
            value = loss(lambda t: t @ matrix.T, x_, y_, multiplier, seed=s)
            (gradient,) = torch.autograd.grad(value, matrix)
            rows.append([float(value.detach()), *gradient.flatten().tolist()])
        rows = np.array(rows)
        return rows.mean(0), rows.std(0) / math.sqrt(runs)

    sg, sg_error = moments("sg", 200)
    ml, ml_error = moments("rt-mlmc", 1500)
    z = (ml - sg) / np.hypot(sg_error, ml_error)
    assert abs(z[0]) < 4
    assert ml_error[0] / ml[0] < 0.02
    assert np.abs(z).max() < 4.5


def test_every_level_is_drawn_with_its_probability():
    index = torch.arange(40000)
    u = keyed_noise.uniform(index, seed=0, step=0, stream=1)
    p = level_probabilities(3)
    counts = torch.bincount(torch.bucketize(u, p.cumsum(0)), minlength=4)
    assert stats.chisquare(counts.numpy(), (p * len(index)).numpy()).pvalue > 1e-3


# -- plain draws


def by_hand(model, x, y, multiplier, epsilon, noise):
    """The estimator, written out."""
    values = []
    for i in range(len(x)):
        losses = torch.stack(
            [
                (x[i] - model((y[i] + math.sqrt(epsilon / 2) * noise[i, k])[None])[0])
                .square()
                .sum()
                for k in range(noise.shape[1])
            ]
        )
        t = multiplier * epsilon
        values.append(t * torch.log(torch.exp(losses / t).mean()))
    return torch.stack(values).mean()


@pytest.mark.parametrize("antithetic", [False, True])
def test_the_plain_estimator_written_out(antithetic):
    network = small_network(6)
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = 3 if antithetic else 6
    noise = keyed_noise.standard_normal(torch.arange(4), draws, 2, seed=11, step=7, dtype=x.dtype)
    if antithetic:
        noise = torch.cat([noise, -noise], 1)
    loss = EntropicDROLoss(0.4, samples=6, antithetic=antithetic)
    value = loss(network, x, y, 5.0, seed=11, step=7)
    assert float(value) == pytest.approx(float(by_hand(network, x, y, 5.0, 0.4, noise)), rel=1e-12)


@given(chunk=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_chunks_change_neither_value_nor_gradient(chunk, seed):
    network = small_network(7)
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for size in (None, chunk):
        network.zero_grad()
        value = EntropicDROLoss(0.4, samples=8, chunk=size)(network, x, y, 5.0, seed=seed)
        value.backward()
        results.append([float(value), *(p.grad.clone() for p in network.parameters())])
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-13)
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("estimator", "extra"),
    [("sg", {}), ("rt-mlmc", {}), ("tilted", {"rank": 1}), ("tilted", {"linearise": "noisy"})],
)
def test_a_batch_in_parts_gives_the_same_value(estimator, extra):
    """What two processes, or another batch size, compute of the same samples."""
    network = small_network(8)
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    index = torch.tensor([4, 17, 3, 99, 12, 5])
    loss = EntropicDROLoss(0.1, samples=8, estimator=estimator, **extra)
    whole = float(loss(network, x, y, 80.0, seed=3, step=9, index=index))
    part = [
        float(loss(network, x[r], y[r], 80.0, seed=3, step=9, index=index[r]))
        for r in (slice(0, 2), slice(2, 6))
    ]
    assert whole == pytest.approx((2 * part[0] + 4 * part[1]) / 6, rel=1e-12)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    turned = float(loss(network, x[order], y[order], 80.0, seed=3, step=9, index=index[order]))
    assert whole == pytest.approx(turned, rel=1e-12)
    assert whole != pytest.approx(float(loss(network, x, y, 80.0, seed=3, step=10, index=index)))
    assert whole != pytest.approx(float(loss(network, x, y, 80.0, seed=4, step=9, index=index)))


def test_where_the_noise_comes_from():
    network = small_network(9)
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.random.get_rng_state()
    loss, other = EntropicDROLoss(0.4), EntropicDROLoss(0.4)
    copied = copy.deepcopy(loss)
    first, second = float(loss(network, x, y, 5.0)), float(loss(network, x, y, 5.0))
    assert first != second
    assert float(copied(network, x, y, 5.0)) == first
    assert len({first, second, *(float(other(network, x, y, 5.0)) for _ in range(2))}) == 4
    resumed = EntropicDROLoss(0.4)
    resumed.load_state_dict(copied.state_dict())
    assert float(resumed(network, x, y, 5.0)) == second
    draws = [float(loss(network, x, y, 5.0, torch.Generator().manual_seed(s))) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_seed_gives_the_noise_that_it_always_gave():
    network = small_network(9)
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for key, expected in (
        ({"seed": 0, "step": 1}, 10.37010097996551),
        ({"seed": 3}, 9.301178403874363),
    ):
        for _ in range(2):
            assert float(EntropicDROLoss(0.4)(network, x, y, 5.0, **key)) == pytest.approx(expected)


def test_a_state_of_before_goes_on_as_it_would_have():
    """Losses had no stream of their own: all drew with seed 0."""
    network = small_network(9)
    x, y = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = EntropicDROLoss(0.4)
    loss.load_state_dict({"_extra_state": {"calls": 7, "directions": None}})
    expected = float(EntropicDROLoss(0.4)(network, x, y, 5.0, seed=0, step=8))
    assert float(loss(network, x, y, 5.0)) == expected


def test_streams_are_the_same_in_every_interpreter():
    code = (
        "import torch; from dro_torch import EntropicDROLoss\n"
        "x = torch.arange(6.0).reshape(2, 3)\n"
        "print([EntropicDROLoss(0.4)(lambda y: y, x, x, 5.0).item() for _ in range(3)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(said) == 1
    assert len(set(json.loads(said.pop()))) == 3


def test_warm_started_directions_survive_a_checkpoint(tmp_path):
    network = small_network(10, (6, 16, 6))
    x, y = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def make():
        return EntropicDROLoss(0.4, samples=2, estimator="tilted", rank=2, warm_start=True)

    loss = make()
    loss(network, x, y, 3000.0, seed=1)
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    other = make()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(other._directions, loss._directions)
    assert float(other(network, x, y, 3000.0, seed=2)) == float(loss(network, x, y, 3000.0, seed=2))


def test_subspace_iteration_finds_the_leading_directions():
    network = small_network(11, (6, 16, 6))
    x, y = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = MovedSamples(network, x, y, as_structure("y|x"))
    jacobians = torch.stack([-torch.func.jacrev(network)(row) for row in y])
    _, S, Vt = torch.linalg.svd(jacobians)
    start = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, left, values, right = leading_directions(moved, torch.zeros(3, 6).double(), start, 60)
    torch.testing.assert_close(values, S[:, :2], rtol=1e-6, atol=1e-8)
    for j in range(2):
        agreement = (right[:, :, j] * Vt[:, j]).sum(1).abs()
        torch.testing.assert_close(agreement, torch.ones(3).double(), rtol=1e-5, atol=1e-5)
        image = torch.einsum("nij,nj->ni", jacobians, right[:, :, j])
        torch.testing.assert_close(image, values[:, j, None] * left[:, :, j], rtol=1e-5, atol=1e-8)


# -- gradients, precision, devices


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("estimator", ["sg", "rt-mlmc", "chunked", "loss"])
def test_gradients(structure, estimator):
    x, y = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = small_network(12)
    options = {
        "sg": {"samples": 4},
        "rt-mlmc": {"samples": 4, "estimator": "rt-mlmc"},
        "chunked": {"samples": 4, "chunk": 2},
        "loss": {"samples": 4, "loss": lambda f, a, b: (a - f(b)).abs().sum(1)},
    }[estimator]
    loss = EntropicDROLoss(0.3, structure, modulus=0.0, **options)
    names = [name for name, _ in network.named_parameters()]

    def value(multiplier, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return loss(
            lambda t: torch.func.functional_call(network, state, (t,)), x, y, multiplier, seed=5
        )

    inputs = [
        torch.tensor(4.0, dtype=torch.float64, requires_grad=True),
        *(p.detach().clone().requires_grad_() for p in network.parameters()),
    ]
    assert torch.autograd.gradcheck(value, inputs, atol=1e-6)


@pytest.mark.parametrize("defensive", [False, True])
def test_the_tilted_gradient_is_that_of_the_exact_objective(defensive):
    """For a linear map, pure and of full rank, in expectation over the draws."""
    B, x, y = problem(13, samples=3)
    matrix, x_, y_ = tensors(B, x, y)
    matrix.requires_grad_()
    multiplier = 2.0 * np.linalg.norm(B, 2) ** 2
    lam = torch.tensor(multiplier, dtype=torch.float64, requires_grad=True)
    loss = EntropicDROLoss(0.5, "y|x", 4096, "tilted", rank="full", defensive=defensive)
    gradients = torch.autograd.grad(
        loss(lambda t: t @ matrix.T, x_, y_, lam, seed=0), (matrix, lam)
    )
    value, (by_map, by_multiplier) = 0.0, dual_slopes(B, x, y, multiplier, 0.5)
    del value
    np.testing.assert_allclose(gradients[0], by_map, atol=0.03 * np.abs(by_map).max())
    assert float(gradients[1]) == pytest.approx(by_multiplier, rel=0.05)


def dual_slopes(B, x, y, multiplier, epsilon, step=1e-6):
    """Central differences of the exact dual in B and in the multiplier."""

    def value(matrix, lam):
        return dro_core.dual_value(matrix, x, y, lam, 0.0, epsilon=epsilon)

    slopes = np.zeros_like(B)
    for i, j in np.ndindex(*B.shape):
        unit = np.zeros_like(B)
        unit[i, j] = step
        slopes[i, j] = (value(B + unit, multiplier) - value(B - unit, multiplier)) / (2 * step)
    by_multiplier = (value(B, multiplier + step) - value(B, multiplier - step)) / (2 * step)
    return slopes, by_multiplier


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ["sg", "rt-mlmc", "tilted"])
def test_precision_and_device_change_only_digits(device, estimator):
    network = small_network(14)
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = EntropicDROLoss(0.2, samples=8, estimator=estimator, rank=2)
    double = float(loss(network, x, y, 100.0, seed=1))
    single = small_network(14, dtype=torch.float32).to(device)
    single.load_state_dict({k: v.float() for k, v in network.state_dict().items()})
    x, y = x.float().to(device), y.float().to(device)
    value = loss(single, x, y, 100.0, seed=1)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(double, rel=2e-5)
    with torch.autocast(device, torch.bfloat16):
        half = loss(single, x, y, 100.0, seed=1)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(double, rel=3e-2)


def test_diagnostics():
    network = small_network(15)
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = EntropicDROLoss(0.2, samples=8)
    loss(network, x, y, 1e9, seed=1)
    assert float(loss.diagnostics["effective_sample_size"]) == pytest.approx(8.0, rel=1e-6)
    assert float(loss.diagnostics["passes"]) == 8
    tilted = EntropicDROLoss(0.2, samples=8, estimator="tilted", rank=1, sweeps=2)
    tilted(network, x, y, 1e9, seed=1)
    # draws, two sweeps of two products, Rayleigh-Ritz, and the slope
    assert float(tilted.diagnostics["passes"]) == 8 + 2 * (2 + 2) + 2 + 2
    losses = torch.tensor([[0.0, 0.0, 0.0, 50.0]])
    assert float(effective_sample_size(losses, 0.0, torch.tensor(1.0))) == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
@pytest.mark.parametrize(
    ("options", "multiplier", "message"),
    [
        ({"samples": 32, "epsilon": 1e-3}, 1e-3, r"effective sample size is \d+\.\d+ of 32 draws"),
        ({"modulus": 2.0}, 7.9, r"multiplier 7\.9 is at or below 2κ² = 8 "),
        ({"modulus": 2.0}, 3.9, r"multiplier 3\.9 is at or below κ² = 4 .*infinite"),
        ({"structure": "x|y"}, 1.5, r"at or below 2κ² = 2 "),
        ({"modulus": 2.0, "estimator": "tilted"}, 7.9, r"at or below 2κ² = 8 .*infinite variance"),
        ({"estimator": "tilted", "rank": 2}, 1e-3, r"at or below κ² = .*estimated"),
    ],
)
def test_warnings_carry_numbers_and_come_once(options, multiplier, message):
    network = small_network(16)
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = EntropicDROLoss(**{"epsilon": 1.0, **options})
    with pytest.warns(EstimatorWarning, match=message):
        loss(network, x, y, multiplier, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(network, x, y, multiplier, seed=1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("estimator", ["sg", "rt-mlmc"])
def test_it_compiles(estimator, weighted):
    """In one graph, value and gradient; the levels of the samples are those of the plain call."""
    network = small_network(17, dtype=torch.float32)
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    loss = EntropicDROLoss(0.2, samples=8, estimator=estimator)
    weights = torch.arange(1.0, 7.0) / 21.0 if weighted else None

    def value(x, y, lam, index):
        return loss(network, x, y, lam, seed=1, step=2, index=index, weights=weights)

    lam = torch.tensor(30.0)
    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    for index in (torch.arange(6), torch.arange(40, 46)):
        answers = []
        for function in (value, compiled):
            network.zero_grad()
            answer = function(x, y, lam, index)
            answer.backward()
            answers.append([answer.detach(), *(p.grad for p in network.parameters())])
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-6)


# -- bad input

X = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
Y = torch.tensor([[1.0, 0.5], [2.0, 1.0]])
NAN = float("nan")


def replaced(value):
    tensor = X.clone()
    tensor[0, 1] = value
    return tensor


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epsilon": 0}, ValueError, "epsilon: 0; allowed: > 0"),
        ({"epsilon": -1.0}, ValueError, "epsilon: -1.0 is negative"),
        ({"epsilon": NAN}, ValueError, "epsilon: nan is not finite"),
        ({"epsilon": "big"}, TypeError, "epsilon: 'big'"),
        ({"structure": "y"}, ValueError, "structure: unknown value 'y'"),
        ({"structure": "x"}, ValueError, r"structure: unknown value 'x'.*XShift\(forward\)"),
        ({"structure": 3}, TypeError, "structure: 3 is neither"),
        ({"structure": XShift(lambda x: x)}, ValueError, "structure: the entropic reference"),
        ({"samples": 0}, ValueError, "samples: 0 is below 1"),
        ({"samples": 2.0}, TypeError, "samples: 2.0 is not an integer"),
        ({"samples": 6, "estimator": "rt-mlmc"}, ValueError, "samples: 6; .*power of two"),
        ({"estimator": "mlmc"}, ValueError, "estimator: unknown value 'mlmc'.*did you mean 'rt-m"),
        ({"residual": 3}, TypeError, "residual: int is not callable"),
        ({"loss": 3}, TypeError, "loss: int is not callable"),
        (
            {"loss": lambda f, x, y: x, "estimator": "tilted"},
            ValueError,
            "loss: allowed with .sg",
        ),
        ({"antithetic": True, "samples": 3}, ValueError, "antithetic: .*samples=3"),
        ({"antithetic": True, "estimator": "tilted"}, ValueError, "antithetic: with estimator"),
        ({"estimator": "tilted", "samples": 1}, ValueError, "samples: 1; defensive draws need"),
        ({"chunk": 0}, ValueError, "chunk: 0 is below 1"),
        ({"chunk": 2, "estimator": "rt-mlmc"}, ValueError, "chunk: allowed with 'sg'"),
        ({"modulus": -1.0}, ValueError, "modulus: -1.0 is negative"),
        ({"rank": -2}, ValueError, "rank: -2 is below 1"),
        ({"rank": "all"}, TypeError, "rank: 'all' is not an integer"),
        ({"sweeps": 0}, ValueError, "sweeps: 0 is below 1"),
        ({"linearise": "mean"}, ValueError, "linearise: unknown value 'mean'"),
    ],
)
def test_settings_that_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        EntropicDROLoss(**{"epsilon": 1.0, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X.tolist()}, TypeError, "x: list is not a torch.Tensor"),
        ({"x": X.long()}, TypeError, "x: dtype torch.int64"),
        ({"x": replaced(NAN)}, ValueError, r"x: 1 entries are NaN .*\(0, 1\)"),
        ({"y": replaced(math.inf)}, ValueError, r"y: 1 entries .*inf\) at index \(0, 1\)"),
        ({"x": X[0]}, ValueError, r"x: shape \(2,\); axis 0 counts samples"),
        ({"x": X[:0], "y": Y[:0]}, ValueError, "x: empty"),
        ({"y": Y[:1]}, ValueError, "y: 1 samples, but x has 2"),
        ({"y": Y.double()}, ValueError, "y: dtype torch.float64, but x has torch.float32"),
        ({"multiplier": 0.0}, ValueError, "multiplier: 0.0; allowed: a finite number > 0"),
        ({"multiplier": -1.0}, ValueError, "multiplier: -1.0"),
        ({"multiplier": torch.tensor(NAN)}, ValueError, "multiplier: nan"),
        ({"multiplier": torch.ones(2)}, ValueError, r"multiplier: shape \(2,\)"),
        ({"multiplier": "1"}, TypeError, "multiplier: '1'"),
        ({"model": 3}, TypeError, "model: int is not callable"),
        ({"model": lambda y: y[:, :1]}, ValueError, r"model: its output has shape \(\d+, 1\)"),
        ({"seed": -1}, ValueError, "seed: -1 is negative"),
        ({"seed": 1.5}, TypeError, "seed: 1.5 is not an integer"),
        ({"seed": 1, "step": "2"}, TypeError, "step: '2' is not an integer"),
        ({"index": [0, 1]}, TypeError, "index: list; allowed: a torch.int64"),
        ({"index": torch.tensor([0.0, 1.0])}, TypeError, "index: torch.float32"),
        ({"index": torch.arange(3)}, ValueError, r"index: shape \(3,\), but there are 2"),
    ],
)
def test_calls_that_are_refused(changes, error, message):
    arguments = {"model": lambda y: y, "x": X, "y": Y, "multiplier": 9.0, **changes}
    with pytest.raises(error, match=message):
        EntropicDROLoss(1.0)(**arguments)


def test_a_loss_or_residual_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"loss: it returned \(\) for"):
        EntropicDROLoss(1.0, loss=lambda f, x, y: x.sum())(lambda y: y, X, Y, 9.0)
    with pytest.raises(ValueError, match=r"residual: it returned \(16,\) for 16"):
        EntropicDROLoss(1.0, residual=lambda f, x, y: x[:, 0])(lambda y: y, X, Y, 9.0)
