"""The losses under `torch.func`: gradients, batches of networks, gradients of every sample."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap

from dro_torch import BoundLoss, EntropicDROLoss, LinearisedDROLoss, WassersteinDROLoss, XShift
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss

KINDS = {
    "sg": lambda: EntropicDROLoss(0.1),
    "antithetic": lambda: EntropicDROLoss(0.1, antithetic=True),
    "chunks": lambda: EntropicDROLoss(0.1, chunk=3),
    "rt-mlmc": lambda: EntropicDROLoss(0.1, estimator="rt-mlmc"),
    "tilted": lambda: EntropicDROLoss(0.1, estimator="tilted"),
    "tilted, two directions": lambda: EntropicDROLoss(0.1, estimator="tilted", rank=2),
    "tilted, noisy": lambda: EntropicDROLoss(
        0.1, "joint", estimator="tilted", rank="full", linearise="noisy"
    ),
    "wasserstein": WassersteinDROLoss,
    "wasserstein from zero": lambda: WassersteinDROLoss("joint", start="zero", box=(-3.0, 3.0)),
    "wasserstein in x": lambda: WassersteinDROLoss(
        XShift(lambda x: x[:, :3].sin() / 4, cost="joint")
    ),
    "linearised": LinearisedDROLoss,
    "linearised, entropic": lambda: LinearisedDROLoss(epsilon=0.1),
    "bound, local": lambda: BoundLoss(0.1),
    "bound, given": lambda: BoundLoss(0.1, "joint", lipschitz=2.0),
}


def problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=dtype))
    x, y = (torch.randn(5, n, generator=generator, dtype=dtype) for n in (4, 3))
    parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
    return network, parameters, x, y


def objective(loss, network, parameters, x, y, multiplier=40.0, index=None):
    def model(value):
        return functional_call(network, parameters, (value,))

    if isinstance(loss, BoundLoss):
        return loss(model, x, y)
    return loss(model, x, y, multiplier, index=index, seed=1, step=2)


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients.values()])


def by_backward(kind, network, parameters, x, y, index=None):
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    value = objective(KINDS[kind](), network, leaves, x, y, index=index)
    value.backward()
    return value.detach(), flat({name: leaf.grad for name, leaf in leaves.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_backward(kind):
    network, parameters, x, y = problem()
    value, gradient = by_backward(kind, network, parameters, x, y)
    loss = KINDS[kind]()
    for _ in range(2):
        found, loss_value = grad_and_value(lambda p: objective(loss, network, p, x, y))(parameters)
        torch.testing.assert_close(loss_value, value)
        torch.testing.assert_close(flat(found), gradient)
    assert loss.diagnostics == {}  # what a transform saw is not kept
    later = objective(loss, network, parameters, x, y)  # and the loss goes on as before
    torch.testing.assert_close(later, value)
    assert all(entry.isfinite() for entry in loss.diagnostics.values())


@pytest.mark.parametrize("kind", KINDS)
def test_networks_side_by_side(kind):
    network, parameters, x, y = problem()
    factors = (1.0, 0.9, 1.1)
    stacked = {name: torch.stack([f * p for f in factors]) for name, p in parameters.items()}
    loss = KINDS[kind]()
    found, values = vmap(grad_and_value(lambda p: objective(loss, network, p, x, y)))(stacked)
    plain = vmap(lambda p: objective(loss, network, p, x, y))(stacked)
    for number, factor in enumerate(factors):
        scaled = {name: factor * p for name, p in parameters.items()}
        value, gradient = by_backward(kind, network, scaled, x, y)
        torch.testing.assert_close(values[number], value)
        torch.testing.assert_close(plain[number], value)
        torch.testing.assert_close(flat({n: g[number] for n, g in found.items()}), gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_every_sample(kind):
    network, parameters, x, y = problem()
    loss, index = KINDS[kind](), torch.tensor([4, 8, 15, 16, 23])

    def of_one(p, x, y, index):
        return objective(loss, network, p, x[None], y[None], index=index[None])

    found = vmap(grad(of_one), in_dims=(None, 0, 0, 0))(parameters, x, y, index)
    for i in range(len(x)):
        one = slice(i, i + 1)
        _, gradient = by_backward(kind, network, parameters, x[one], y[one], index[one])
        torch.testing.assert_close(flat({n: g[i] for n, g in found.items()}), gradient)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "bound" not in kind])
def test_the_gradient_in_the_multiplier(kind):
    network, parameters, x, y = problem()
    leaf = torch.tensor(40.0, dtype=torch.float64, requires_grad=True)
    objective(KINDS[kind](), network, parameters, x, y, leaf).backward()
    loss = KINDS[kind]()
    found = grad(lambda lam: objective(loss, network, parameters, x, y, lam))(leaf.detach())
    torch.testing.assert_close(found, leaf.grad)


def test_a_hundred_calls_under_a_transform():
    """The effective sample size is looked at in calls 1, 101, 201, ..."""
    network, parameters, x, y = problem()
    loss = EntropicDROLoss(0.1, samples=4)
    stacked = {name: p[None] for name, p in parameters.items()}
    values = [float(vmap(lambda p: objective(loss, network, p, x, y))(stacked)) for _ in range(102)]
    assert values == pytest.approx([float(objective(loss, network, parameters, x, y))] * 102)


def test_an_infinite_entropic_objective_is_not_a_number_that_looks_right():
    """Where a plain call raises, a transform cannot look: the value is infinite."""
    network, parameters, x, y = problem()
    with pytest.raises(ValueError, match="at or below"):
        objective(LinearisedDROLoss(epsilon=0.1), network, parameters, x, y, 1e-3)
    loss = LinearisedDROLoss(epsilon=0.1)
    stacked = {name: p[None] for name, p in parameters.items()}
    assert vmap(lambda p: objective(loss, network, p, x, y, 1e-3))(stacked).item() == float("inf")


def test_what_cannot_run_names_the_loss():
    network, parameters, x, y = problem()
    warm = EntropicDROLoss(0.1, estimator="tilted", rank=1, warm_start=True)
    with pytest.raises(ValueError, match=r"EntropicDROLoss: warm_start.*torch.func"):
        grad(lambda p: objective(warm, network, p, x, y))(parameters)


@pytest.mark.parametrize("options", [{}, {"gradient_penalty": 0.5}, {"divergence": "softplus"}])
def test_both_steps_of_a_transport_map(options):
    generator = torch.Generator().manual_seed(1)
    potential = nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 1)).double()
    transport = nn.Linear(3, 3).double()
    y, x = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.1), **options)
    modules = {"v": potential, "T": transport}

    def value(parameters, which):
        called = dict(modules)
        called[which] = lambda given: functional_call(modules[which], parameters, (given,))
        if which == "T":
            return loss.map_loss(called["v"], called["T"], y)
        return loss.potential_loss(called["v"], called["T"], y, x)

    for which, module in modules.items():
        parameters = {name: p.detach() for name, p in module.named_parameters()}
        (value(dict(module.named_parameters()), which)).backward()
        gradient = flat({name: p.grad for name, p in module.named_parameters()})
        torch.testing.assert_close(flat(grad(value)(parameters, which)), gradient)
        assert loss.components == {}
        stacked = {name: torch.stack([p, p]) for name, p in parameters.items()}
        both = vmap(grad(value), in_dims=(0, None))(stacked, which)
        torch.testing.assert_close(flat({n: g[1] for n, g in both.items()}), gradient)


def test_a_running_mean_cannot_be_kept_under_a_transform():
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.1), centre_cost=True)
    y, weight = torch.ones(4, 2), torch.ones(2)
    with pytest.raises(ValueError, match=r"UnbalancedOTLoss: centre_cost.*torch.func"):
        grad(lambda w: loss.potential_loss(lambda x: x @ w, lambda y: y + 1, y, y))(weight)
    loss.eval()
    found = grad(lambda w: loss.potential_loss(lambda x: x @ w, lambda y: y + 1, y, y))(weight)
    assert found.isfinite().all()
