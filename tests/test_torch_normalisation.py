"""Layers that couple the samples of a batch: refused in training mode; what stands in for them."""

import warnings

import pytest
import torch
from torch import nn

from dro_torch import (
    BoundLoss,
    EntropicDROLoss,
    EstimatorWarning,
    LinearisedDROLoss,
    WassersteinDROLoss,
)
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.training import fit, reconstruction_phase

KINDS = {
    "sg": lambda: EntropicDROLoss(0.1),
    "rt-mlmc": lambda: EntropicDROLoss(0.1, estimator="rt-mlmc"),
    "tilted": lambda: EntropicDROLoss(0.1, estimator="tilted"),
    "wasserstein": WassersteinDROLoss,
    "linearised": LinearisedDROLoss,
    "bound": lambda: BoundLoss(0.1),
    "bound, given": lambda: BoundLoss(0.1, lipschitz=1.0),
}
REMEDY = r"model: layer '1' \(BatchNorm2d\).*eval.*GroupNorm or InstanceNorm"


def network(norm, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), norm, nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1)
        ).double()


def images(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 1, 6, 6, generator=generator, dtype=torch.float64)


def value(kind, model, x, y):
    loss = KINDS[kind]() if isinstance(kind, str) else kind
    if isinstance(loss, BoundLoss):
        return loss(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatorWarning)
        return loss(model, x, y, 60.0, seed=3, step=4)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_norm_in_training_mode_is_refused(kind):
    x, y = images()
    model = network(nn.BatchNorm2d(4))
    before = {name: entry.clone() for name, entry in model.state_dict().items()}
    for given in (model, nn.DataParallel(model)):
        with pytest.raises(ValueError, match=REMEDY.replace("'1'", "'(module.)?1'")):
            value(kind, given, x, y)
    assert all(torch.equal(before[n], e) for n, e in model.state_dict().items())
    value(kind, model.eval(), x, y).backward()
    assert all(torch.equal(before[n], e) for n, e in model.state_dict().items())
    untracked = network(nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=REMEDY):  # it takes the batch's moments in any mode
        value(kind, untracked, x, y)


@pytest.mark.parametrize("norm", ["eval", "group", "instance"])
def test_what_stands_in_for_it_does_not_see_the_chunks(norm):
    x, y = images()
    layer = {
        "eval": nn.BatchNorm2d(4).eval(),
        "group": nn.GroupNorm(2, 4),
        "instance": nn.InstanceNorm2d(4),
    }[norm]
    model = network(layer)
    whole = value(EntropicDROLoss(0.1, samples=6), model, x, y)
    for chunk in (1, 4):
        part = value(EntropicDROLoss(0.1, samples=6, chunk=chunk), model, x, y)
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=0)
    for kind in KINDS:
        value(kind, model, x, y).backward()


def test_the_transport_losses_refuse_it_in_either_network():
    y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    loss = UnbalancedOTLoss(LikelihoodCost(likelihood=0, scale=0.1))
    plain, normalised = nn.Linear(3, 1), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    moving, coupled = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for v, transport, name in ((normalised, moving, "v"), (plain, coupled, "T")):
        with pytest.raises(ValueError, match=rf"{name}: layer .*BatchNorm1d"):
            loss.potential_loss(v, transport, y, y)
        with pytest.raises(ValueError, match=rf"{name}: layer .*BatchNorm1d"):
            loss.map_loss(v, transport, y)
    loss.map_loss(normalised.eval(), coupled.eval(), y)


def test_the_engine_trains_networks_that_keep_it_in_evaluation_mode():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
            return self

    x, y = images()

    def run(model):
        phase = reconstruction_phase(model, WassersteinDROLoss(), 60.0)
        fit(phase, lambda step: (torch.arange(3), x.float(), y.float()), 2, seed=0, progress=False)

    with pytest.raises(ValueError, match=REMEDY):
        run(network(nn.BatchNorm2d(4)))
    run(Frozen(*network(nn.BatchNorm2d(4))))
