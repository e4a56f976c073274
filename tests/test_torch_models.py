"""Networks as users bring them: they work in place, return tuples, differ in dtype, are wrapped."""

import pytest
import torch
from torch import nn

from dro_torch import metrics
from dro_torch.certify import certify
from dro_torch.lipschitz import lipschitz_lower
from dro_torch.losses.adversarial import WassersteinDROLoss
from dro_torch.losses.bound import BoundLoss
from dro_torch.losses.entropic import EntropicDROLoss
from dro_torch.losses.linearised import LinearisedDROLoss
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.residual import forward_residual, reconstruction_residual
from dro_torch.structure import XShift
from dro_torch.transport_map import NoisyMeasurement


def batch(seed):
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = batch(1), batch(2)
INDEX = torch.arange(6)


def cycle(model, x, y):
    """A residual of one's own that calls the model on both."""
    return x - model(y) + 0.1 * model(x)


def sample_loss(model, x, y):
    return (x - model(y)).abs().sum(1) + 0.1 * model(x).square().sum(1)


def in_structures(make):
    """One call per structure and residual, as name -> f(model, x, y)."""
    residuals = {"": {}, " forward": {"residual": forward_residual}, " own": {"residual": cycle}}
    return {
        f"{structure}{name}": lambda model, x, y, s=structure, o=options: make(s, **o)(model, x, y)
        for structure in ("y|x", "x|y", "joint")
        for name, options in residuals.items()
    }


def potential(model):
    return lambda x: model(x).sum(1)


def transport(part, **options):
    def call(model, x, y):
        cost = options.get("cost") or LikelihoodCost(model, scale=0.1)
        loss = UnbalancedOTLoss(cost, "softplus", gradient_penalty=0.5)
        return part(loss, potential(model), model, y, x)

    return call


def losses(kind, *options, **fixed):
    def make(structure, **named):
        criterion = kind(*options, structure=structure, **fixed, **named)
        return lambda model, x, y: criterion(model, x, y, 30.0, seed=0)

    return make


def shifted(model, x, y):
    structure = XShift(model, cost="joint")
    return WassersteinDROLoss(structure)(nn.Identity(), x, y, 30.0)


def certified(model, x, y):
    found = certify(model, x, y, 0.2, lipschitz=9.0, steps=3, directions=2)
    return torch.tensor([found.lower, found.upper, *found.attacks.values()])


CALLS = {
    "reconstruction_residual": reconstruction_residual,
    "forward_residual": forward_residual,
    **{f"wasserstein {k}": v for k, v in in_structures(losses(WassersteinDROLoss)).items()},
    **{f"linearised {k}": v for k, v in in_structures(losses(LinearisedDROLoss)).items()},
    **{f"entropic {k}": v for k, v in in_structures(losses(EntropicDROLoss, 0.1)).items()},
    **{
        f"one draw {k}": v
        for k, v in in_structures(losses(EntropicDROLoss, 0.1, samples=1)).items()
    },
    **{
        f"bound {k}": v
        for k, v in in_structures(lambda s, **o: BoundLoss(0.3, s, sweeps=2, **o)).items()
    },
    "tilted": lambda model, x, y: EntropicDROLoss(0.1, estimator="tilted", rank=2)(
        model, x, y, 60.0, seed=0
    ),
    "loss of one's own": lambda model, x, y: WassersteinDROLoss(loss=sample_loss)(
        model, x, y, 30.0
    ),
    "structure x": shifted,
    "potential_loss": transport(lambda loss, v, T, y, x: loss.potential_loss(v, T, y, x)),
    "map_loss": transport(lambda loss, v, T, y, x: loss.map_loss(v, T, y)),
    "r1": transport(lambda loss, v, T, y, x: loss.r1(v, x)),
    "weights": transport(lambda loss, v, T, y, x: loss.weights(v, T, y)),
    "cost": lambda model, x, y: LikelihoodCost(model, scale=0.1, upsample=model)(y, x),
    "cost of one's own": lambda model, x, y: UnbalancedOTLoss(
        lambda y, x: (model(y) - model(x)).square().sum(1)
    ).potential_loss(potential(model), model, y, x),
    "measurement": lambda model, x, y: NoisyMeasurement(model)(x, INDEX, seed=0, step=0)[0],
    "certify": certified,
    "lipschitz_lower": lambda model, x, y: torch.tensor(
        lipschitz_lower(model, y, steps=3, ascent_steps=3).value
    ),
    "stability": lambda model, x, y: metrics.stability(model, y, 0.5),
    "saliency": lambda model, x, y: metrics.saliency(model, y),
    "saliency of an error": lambda model, x, y: metrics.saliency(model, y, x),
    "summary": lambda model, x, y: torch.tensor(
        metrics.summary(
            model,
            [(x, y)],
            {"RMSE": metrics.rmse},
            {"stability": lambda y: metrics.stability(model, y, 0.5)},
            resamples=50,
        )["stability"]
    ),
}


def network(inplace):
    torch.manual_seed(3)
    layers = nn.Sequential(nn.LeakyReLU(0.2, inplace=inplace), nn.Linear(3, 3), nn.Tanh())
    return layers.double().eval()


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
@pytest.mark.parametrize("name", CALLS)
def test_a_network_that_works_in_place_changes_neither_data_nor_values(name):
    x, y = X.clone(), Y.clone()
    found = CALLS[name](network(True), x, y)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    expected = CALLS[name](network(False), X.clone(), Y.clone())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Pair(nn.Linear):
    def forward(self, y):
        return super().forward(y), y


class Named(nn.Linear):
    def forward(self, y):
        return {"image": super().forward(y)}


class Classes(nn.Linear):
    def forward(self, y):
        return super().forward(y).argmax(1, keepdim=True).expand(-1, 3)


WRONG = [
    (Pair(3, 3).double(), TypeError, r"returned a tuple of 2 entries; needed: a tensor \(.*\[0\]"),
    (Named(3, 3).double(), TypeError, r"a dict with the keys \['image'\]; .*\['image'\]"),
    (Classes(3, 3).double(), TypeError, "returned dtype torch.int64; needed: real floating-point"),
    (nn.Linear(3, 3), ValueError, "parameters have dtype torch.float32, but . has torch.float64"),
    (nn.Linear(3, 3, device="meta", dtype=torch.float64), ValueError, "on device meta, but"),
    (lambda y: None, TypeError, "returned a NoneType; needed: a tensor"),
]
#: They call the model through a function of the caller's own, copy it in float64, or have words
#: of their own.
OTHERS = ("own", "lipschitz_lower", "r1", "measurement")


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
@pytest.mark.parametrize(("model", "error", "message"), WRONG, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("name", [name for name in CALLS if not name.endswith(OTHERS)])
def test_what_a_model_must_not_return_is_named(name, model, error, message):
    if name == "certify" and (not isinstance(model, nn.Module) or "meta" in message):
        pytest.skip("copies of modules")
    with pytest.raises(error, match=message):
        CALLS[name](model, X, Y)
