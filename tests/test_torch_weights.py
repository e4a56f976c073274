"""Weights of the samples in the DRO losses: means of `dro_core`, in every loss and in training."""

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
    LinearisedDROLoss,
    Multiplier,
    WassersteinDROLoss,
    training,
)

STRUCTURES = ("y|x", "x|y", "joint")
KINDS = {
    "sg": lambda: EntropicDROLoss(0.1),
    "antithetic": lambda: EntropicDROLoss(0.1, antithetic=True),
    "chunks": lambda: EntropicDROLoss(0.1, chunk=3),
    "rt-mlmc": lambda: EntropicDROLoss(0.1, estimator="rt-mlmc"),
    "tilted": lambda: EntropicDROLoss(0.1, estimator="tilted", rank=1),
    "wasserstein": WassersteinDROLoss,
    "linearised": lambda: LinearisedDROLoss(epsilon=0.1),
    "bound": lambda: BoundLoss(0.1, lipschitz=2.0),
}


def problem(seed, samples=5, n=4, m=3):
    rng = np.random.default_rng(seed)
    B, x, y = (rng.standard_normal(shape) for shape in ((n, m), (samples, n), (samples, m)))
    weights = rng.uniform(0.1, 1.0, samples) * (rng.random(samples) < 0.8)
    weights[0] += 0.1
    return B, x, y, weights / weights.sum()


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def call(loss, model, x, y, **more):
    if isinstance(loss, BoundLoss):
        more = {key: value for key, value in more.items() if key == "weights"}
        return loss(model, x, y, **more)
    return loss(model, x, y, 40.0, **{"seed": 1, "step": 2, **more})


# -- parity with dro_core


@given(seed=st.integers(0, 10**6), structure=st.sampled_from(STRUCTURES))
@settings(max_examples=25)
def test_linear_maps_have_the_weighted_duals_of_the_core(seed, structure):
    B, x, y, weights = problem(seed)
    square = np.linalg.norm(B, 2) ** 2
    multiplier = 3.0 * {"y|x": square, "joint": 1.0 + square, "x|y": 1.0}[structure]
    matrix, *batch, mu = (torch.from_numpy(a) for a in (B, x, y, weights))
    model = lambda t: t @ matrix.T  # noqa: E731

    def exact(epsilon=0.0):
        return dro_core.dual_value(
            B, x, y, multiplier, 0.0, structure, epsilon=epsilon, weights=weights
        )

    losses = {
        LinearisedDROLoss(structure, 40): exact(),
        LinearisedDROLoss(structure, 40, epsilon=0.3): exact(0.3),
        WassersteinDROLoss(structure, iterations=40): exact(),
        EntropicDROLoss(
            0.3, structure, 1, "tilted", rank="full", defensive=False
        ): exact(0.3),
    }  # fmt: skip
    for loss, value in losses.items():
        assert float(loss(model, *batch, multiplier, weights=mu)) == pytest.approx(value, rel=1e-10)
    fidelity = float(weights @ ((x - y @ B.T) ** 2).sum(1))
    bound = dro_core.explicit_bound(fidelity, np.sqrt(square), 0.7, structure)
    found = BoundLoss(0.7, structure, float(np.sqrt(square)))(model, *batch, weights=mu)
    assert float(found) == pytest.approx(float(bound), rel=1e-10)


def test_the_multiplier_s_stationary_cost_is_the_weighted_one():
    """Danskin: minus the slope in λ is the weighted transport cost that the diagnostics show."""
    B, x, y, weights = problem(3)
    matrix, *batch, mu = (torch.from_numpy(a) for a in (B, x, y, weights))
    lam = torch.tensor(3.0 * np.linalg.norm(B, 2) ** 2, requires_grad=True)
    for loss in (WassersteinDROLoss(), LinearisedDROLoss()):
        loss(lambda t: t @ matrix.T, *batch, lam, weights=mu).backward()
        assert float(loss.diagnostics["transport_cost"]) == pytest.approx(-float(lam.grad))
        lam.grad = None


# -- every loss


@pytest.mark.parametrize("kind", KINDS)
def test_all_weight_on_one_sample_is_that_sample_alone(kind):
    """Also where samples are computed in another order (RT-MLMC sorts them by level)."""
    model, (_, x, y, _) = network(), problem(0, samples=12)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    index = torch.arange(30, 42)
    for i in range(12):
        one = slice(i, i + 1)
        alone = call(KINDS[kind](), model, x[one], y[one], index=index[one])
        whole = call(KINDS[kind](), model, x, y, index=index, weights=torch.eye(12).double()[i])
        torch.testing.assert_close(whole, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_are_the_mean(kind):
    model, (_, x, y, _) = network(), problem(1, samples=7)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    equal = torch.full((7,), 1.0 / 7.0)  # float32: its sum is off by its own rounding
    plain, weighted = (call(KINDS[kind](), model, x, y, weights=w) for w in (None, equal))
    torch.testing.assert_close(weighted, plain, rtol=1e-6, atol=0.0)
    assert weighted.dtype == plain.dtype


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tilted"])
def test_weighted_gradients(kind):
    """Not of tilted draws, which move with the parameters and are taken as fixed."""
    model, (_, x, y, weights) = network(), problem(2, samples=3)
    x, y, mu = (torch.from_numpy(a) for a in (x, y, weights))
    loss = WassersteinDROLoss(steps=40) if kind == "wasserstein" else KINDS[kind]()
    names = [name for name, _ in model.named_parameters()]

    def value(*parameters):
        state = dict(zip(names, parameters, strict=True))
        called = lambda t: torch.func.functional_call(model, state, (t,))  # noqa: E731
        return call(loss, called, x, y, weights=mu)

    given_at = tuple(p.detach().clone().requires_grad_() for p in model.parameters())
    assert torch.autograd.gradcheck(value, given_at, atol=1e-5)


def test_weights_under_a_transform_and_in_one_graph():
    model, (_, x, y, weights) = network(), problem(4)
    x, y, mu = (torch.from_numpy(a) for a in (x, y, weights))
    loss = EntropicDROLoss(0.1, samples=4)
    plain = call(loss, model, x, y, weights=mu)
    both = torch.func.vmap(lambda w: call(loss, model, x, y, weights=w))(torch.stack([mu, mu]))
    torch.testing.assert_close(both, plain.expand(2))
    bound = BoundLoss(0.1, lipschitz=2.0)
    compiled = torch.compile(
        lambda w: call(bound, model, x, y, weights=w), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(mu), call(bound, model, x, y, weights=mu))


# -- training


def squares(model, x, y, *, weights=None):
    values = (x - model(y)).square().sum(1)
    return values.mean() if weights is None else (weights * values).sum()


def trained(criterion, multiplier, source, steps=12, **options):
    model = network()
    phase = training.reconstruction_phase(model, criterion, multiplier, rate=1e-2, **options)
    training.fit(phase, source, steps, seed=0, precision="float64", progress=False)
    return model


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("loss", ["squares", "sg", "wasserstein"])
def test_weights_of_a_batch_are_those_of_repeated_samples(loss, micro_batches):
    """Weights 2, 1, 0 (of mean one) train as the samples twice, once and not at all do."""
    _, x, y, _ = problem(5, samples=6)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    weights, rows = torch.tensor([2.0, 1, 0, 2, 1, 0]), torch.tensor([0, 0, 1, 3, 3, 4])
    criterion = {"squares": lambda: squares, **KINDS}[loss]
    multiplier = None if loss == "squares" else 40.0
    weighted = trained(
        criterion(), multiplier, lambda step: (torch.arange(6), x, y, weights),
        weights=lambda batch, context: batch[2], micro_batches=micro_batches,
    )  # fmt: skip
    repeated = trained(criterion(), multiplier, lambda step: (rows, x[rows], y[rows]))
    for one, other in zip(weighted.parameters(), repeated.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_part_of_a_batch_without_weight_changes_nothing():
    _, x, y, _ = problem(6, samples=4)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    weights = torch.tensor([2.0, 2, 0, 0])
    models = [
        trained(
            KINDS["sg"](), Multiplier(0.1), lambda step: (torch.arange(4), x, y, weights),
            weights=lambda batch, context: batch[2], micro_batches=parts,
        )
        for parts in (1, 2)
    ]  # fmt: skip
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_whose_weights_are_no_numbers_is_named():
    _, x, y, _ = problem(7, samples=4)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def source(step):
        weights = torch.ones(4)
        weights[1] = float("nan") if step == 3 else 1.0
        return torch.arange(4), x, y, weights

    with pytest.raises(training.TrainingDivergedError, match=r"step 3.*weights"):
        trained(KINDS["sg"](), 40.0, source, weights=lambda batch, context: batch[2])


# -- bad input

GOOD = torch.full((5,), 0.2, dtype=torch.float64)
BAD = {
    "list": ([0.2] * 5, TypeError, "weights: list is not a torch.Tensor"),
    "integers": (torch.ones(5, dtype=torch.int64), TypeError, "weights: dtype torch.int64"),
    "half": (GOOD.half(), TypeError, "weights: dtype torch.float16; allowed: torch.float32"),
    "bfloat16": (GOOD.bfloat16(), TypeError, "weights: dtype torch.bfloat16"),
    "short": (GOOD[:4], ValueError, r"weights: shape \(4,\), but there are 5 samples"),
    "column": (GOOD[:, None], ValueError, r"weights: shape \(5, 1\).*needed: \(5,\)"),
    "scalar": (torch.tensor(1.0), ValueError, r"weights: shape \(\)"),
    "meta": (GOOD.to("meta"), TypeError, "weights: layout .* on meta"),
    "NaN": (GOOD * float("nan"), ValueError, "weights: 5 entries are NaN"),
    "infinite": (GOOD / 0, ValueError, "weights: 5 entries are NaN or infinite"),
    "negative": (
        torch.tensor([1.0, 1, -1, 0, 0]),
        ValueError,
        r"weights: 1 negative .*\(-1\.0\) at index 2",
    ),
    "zero": (0 * GOOD, ValueError, r"weights: they sum to 0\.0, not to 1"),
    "counts": (torch.ones(5), ValueError, r"weights: they sum to 5\.0, not to 1; divide by"),
    "hardly": (GOOD * (1 + 1e-6), ValueError, "weights: they sum to 1.00000"),
}


@pytest.mark.parametrize("kind", ["sg", "wasserstein", "linearised", "bound"])
@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_explained(case, kind):
    value, error, message = BAD[case]
    _, x, y, _ = problem(8)
    with pytest.raises(error, match=message):
        call(KINDS[kind](), network(), torch.from_numpy(x), torch.from_numpy(y), weights=value)


@pytest.mark.parametrize(
    ("given_weights", "message"),
    [
        (3, "weights: int is not callable"),
        (lambda batch, context: None, "weights: NoneType is not a torch.Tensor"),
        (lambda batch, context: batch[2][:2], r"weights: shape \(2,\)"),
        (lambda batch, context: batch[2].long(), "weights: dtype torch.int64"),
        (lambda batch, context: -batch[2], "weights: 4 negative"),
    ],
)
def test_bad_weights_of_a_phase_are_explained(given_weights, message):
    _, x, y, _ = problem(9, samples=4)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    with pytest.raises((ValueError, TypeError), match=message):
        trained(
            KINDS["sg"](), 40.0, lambda step: (torch.arange(4), x, y, torch.ones(4)),
            weights=given_weights,
        )  # fmt: skip


def test_a_criterion_without_weights_is_named():
    with pytest.raises(TypeError, match="criterion: it takes no weights="):
        training.reconstruction_phase(
            network(), lambda model, x, y: x.sum(), weights=lambda batch, context: batch[2]
        )
