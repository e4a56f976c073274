"""Networks whose parameters are in half precision: what runs, and what says that it cannot."""

import pytest
import torch
from torch import nn

from dro_torch import BoundLoss, EntropicDROLoss, LinearisedDROLoss, WassersteinDROLoss
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss

HALVES = [torch.float16, torch.bfloat16]
#: Losses that need the singular directions of the Jacobians.
DIRECTIONS = {
    "tilted": lambda: EntropicDROLoss(0.1, estimator="tilted", rank=2),
    "all": lambda: EntropicDROLoss(0.1, estimator="tilted", rank="full"),
    "bound": lambda: BoundLoss(0.1),
}
OTHERS = {
    "sg": lambda: EntropicDROLoss(0.1),
    "shifted": lambda: EntropicDROLoss(0.1, estimator="tilted", rank=0),
    "wasserstein": WassersteinDROLoss,
    "linearised": LinearisedDROLoss,
    "bound, given": lambda: BoundLoss(0.1, lipschitz=1.0),
}


def problem(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        x, y = torch.randn(5, 4), torch.randn(5, 3)
    return network.to(dtype), x.to(dtype), y.to(dtype)


def value(loss, network, x, y):
    if isinstance(loss, BoundLoss):
        return loss(network, x, y)
    return loss(network, x, y, 60.0, seed=0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", DIRECTIONS)
def test_singular_directions_need_digits(kind, dtype):
    network, x, y = problem(dtype)
    loss = DIRECTIONS[kind]()
    with pytest.raises(TypeError, match=rf"x: dtype {dtype}.*float32 or wider.*autocast") as caught:
        value(loss, network, x, y)
    assert ("lipschitz=" if kind == "bound" else "rank=0") in str(caught.value)
    network, x, y = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):  # the remedy
        value(loss, network, x, y).backward()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", OTHERS)
def test_the_others_run(kind, dtype):
    found = value(OTHERS[kind](), *problem(dtype))
    found.backward()
    wide = value(OTHERS[kind](), *problem(torch.float32))
    assert found.item() == pytest.approx(wide.item(), rel=0.03)


@pytest.mark.parametrize("dtype", HALVES)
def test_transport_losses_run_their_potential_in_single_precision(dtype):
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.1))
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    v, transport = nn.Linear(3, 1), nn.Linear(3, 3)
    v.to(dtype)
    for step in (
        lambda: loss.potential_loss(v, transport, y, y),
        lambda: loss.map_loss(v, transport, y),
    ):
        with pytest.raises(TypeError, match=rf"v: .*dtype {dtype}.*float32 or wider.*v\.float\(\)"):
            step()
    v.float()
    transport.to(dtype)
    loss.map_loss(v, transport, y.to(dtype)).backward()
    loss.potential_loss(v, transport, y.to(dtype), y.to(dtype)).backward()
