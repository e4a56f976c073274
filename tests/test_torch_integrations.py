"""Losses in other people's loops: the recipes of the documentation, and deepinv's Trainer."""

import importlib.util
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dro_torch.integrations import deepinv as adapter
from dro_torch.integrations.deepinv import as_deepinv_loss
from dro_torch.losses.adversarial import WassersteinDROLoss
from dro_torch.losses.ball import WassersteinBallLoss
from dro_torch.losses.bound import BoundLoss
from dro_torch.losses.entropic import EntropicDROLoss
from dro_torch.losses.linearised import LinearisedDROLoss
from dro_torch.multiplier import Multiplier

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "training_loops.md").read_text()
RECIPES = {
    "A bare loop": None,
    "Weights of the transport cost": None,
    "Weights of the samples": None,
    "Lightning Fabric": "lightning",
    "accelerate": "accelerate",
    "Several processes": None,
    "Many networks at once": None,
    "deepinv": None,
}


def blocks(section):
    text = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", PAGE, re.S | re.M)[1]
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))


@pytest.mark.filterwarnings("ignore")  # what other packages say about themselves
@pytest.mark.parametrize("section", RECIPES)
def test_the_recipes_run_and_train(section):
    package = RECIPES[section]
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.split("\n## ")[0], re.S)), names)
    model, multiplier = names["model"], names["multiplier"]
    before = [p.detach().clone() for p in (*model.parameters(), multiplier.theta)]
    exec(blocks(section), names)
    if section in (
        "Weights of the transport cost",
        "Weights of the samples",
        "Several processes",
        "Many networks at once",
        "deepinv",
    ):
        return
    after = [*model.parameters(), multiplier.theta]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.isfinite().all() for p in after)


def test_every_block_of_the_page_belongs_to_a_tested_section():
    assert re.findall(r"^## (.*)$", PAGE, re.M) == list(RECIPES)


def test_the_table_of_passes_is_true():
    x, y = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
    rows = dict(re.findall(r"^\| `(.*?)` \| (\d+) forward or", PAGE, re.M))
    assert len(rows) == 4
    for call, inner in rows.items():
        criterion = eval(call, globals(), {"radius": 0.5})
        multiplier = () if isinstance(criterion, WassersteinBallLoss) else (1.0,)
        criterion(network, x, y, *multiplier)
        last = 2 if isinstance(criterion, LinearisedDROLoss) else 1  # forward mode counts two
        assert criterion.diagnostics["passes"].item() == int(inner) + last


def test_distributed_data_parallel():
    """The attack runs on the bare module; the wrapped one is called once, with its reduction."""
    x, y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    network, other = (nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 3)) for _ in range(2))
    other.load_state_dict(network.state_dict())
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        wrapped = nn.parallel.DistributedDataParallel(network)
        calls = []
        wrapped.register_forward_hook(lambda *_: calls.append(1))
        criterion = WassersteinDROLoss("y|x")
        criterion(wrapped, x, y, 20.0).backward()
        with pytest.raises(ValueError, match=r"pass model\.module"):
            LinearisedDROLoss()(wrapped, x, y, 20.0)
    finally:
        torch.distributed.destroy_process_group()
    assert len(calls) == 1
    criterion(other, x, y, 20.0).backward()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


# --- deepinv ----------------------------------------------------------------------------------


class Loss(nn.Module):
    """The shape of deepinv.loss.Loss (0.5), for machines without it."""

    def forward(self, x_net, x, y, physics, model, **kwargs):
        raise NotImplementedError

    def adapt_model(self, model, **kwargs):
        return model


def train_like_deepinv(losses, model, physics, optimiser, batches):
    """What deepinv.Trainer does with its losses (0.5: setup_train, compute_loss)."""
    for loss in losses:
        model = loss.adapt_model(model)
    history = []
    for epoch, (x, y) in enumerate(batches):
        optimiser.zero_grad(set_to_none=True)
        x_net = model(y, physics)
        total = 0
        for term in losses:
            loss = term(x=x, x_net=x_net, y=y, physics=physics, model=model, epoch=epoch)
            total += loss.mean()
            np.asarray(loss.detach().cpu().numpy()).reshape(-1).mean()  # its AverageMeter
        total.backward()
        optimiser.step()
        history.append(float(total.detach()))
    return history


@pytest.fixture
def deepinv(monkeypatch):
    """deepinv where it can be imported, otherwise its Loss alone."""
    adapter._loss_class.cache_clear()
    try:
        yield importlib.import_module("deepinv")
    except ImportError:
        package, losses = types.ModuleType("deepinv"), types.ModuleType("deepinv.loss")
        package.loss, losses.Loss = losses, Loss
        monkeypatch.setitem(sys.modules, "deepinv", package)
        monkeypatch.setitem(sys.modules, "deepinv.loss", losses)
        yield package
    adapter._loss_class.cache_clear()


class Map(nn.Module):
    """A reconstruction network as deepinv calls them; it uses its physics."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, y, physics=None, **kwargs):
        return self.layer(physics.A_adjoint(y))


class Half:
    def A(self, x, **kwargs):
        return 0.5 * x

    def A_adjoint(self, y, **kwargs):
        return 0.5 * y


def pairs(count=4):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(3, 1, 6, 6, generator=generator)
        yield x, 0.5 * x + 0.05 * torch.randn(3, 1, 6, 6, generator=generator)


def seeded_map():
    network = Map()
    with torch.no_grad():
        network.layer.weight.copy_(torch.linspace(-0.3, 0.5, 9).reshape(1, 1, 3, 3))
        network.layer.bias.zero_()
    return network


@pytest.mark.parametrize(
    ("criterion", "multiplied"),
    [
        (WassersteinDROLoss("y|x"), True),
        (LinearisedDROLoss("joint", 4), True),
        (EntropicDROLoss(0.01, "y|x", samples=4), True),
        (BoundLoss(0.1, "y|x", 1.0), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_deepinv_trainer_trains_with_it(deepinv, criterion, multiplied):
    multiplier = Multiplier(0.1, initial=10.0) if multiplied else None
    loss = as_deepinv_loss(criterion, multiplier)
    assert isinstance(loss, deepinv.loss.Loss)
    network = seeded_map()
    optimiser = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-2)
    before = [p.detach().clone() for p in (*network.parameters(), *loss.parameters())]
    history = train_like_deepinv([loss], network, Half(), optimiser, pairs())
    assert all(np.isfinite(history))
    assert history[-1] < history[0]
    after = [*network.parameters(), *loss.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_it_is_the_objective_with_its_penalty(deepinv):
    x, y = next(pairs())
    network, physics = seeded_map(), Half()
    criterion, multiplier = WassersteinDROLoss("y|x"), Multiplier(0.3, initial=10.0)
    value = criterion(lambda v: network(v, physics), x, y, 10.0).item()
    arguments = {"x_net": None, "x": x, "y": y, "physics": physics, "model": network}
    assert as_deepinv_loss(criterion, 10)(**arguments).item() == pytest.approx(value)
    learned = as_deepinv_loss(criterion, multiplier)(**arguments, epoch=3).item()
    assert learned == pytest.approx(value + 10.0 * 0.09)


@pytest.mark.skipif(importlib.util.find_spec("deepinv") is None, reason="deepinv is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_real_trainer(tmp_path):
    import deepinv as package

    class Dataset(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, k):
            x = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(k))
            return x, 0.5 * x

    network, multiplier = seeded_map(), Multiplier(0.1, initial=10.0)
    loss = as_deepinv_loss(WassersteinDROLoss("y|x"), multiplier)
    before = float(multiplier())
    package.Trainer(
        model=network,
        physics=package.physics.DecomposablePhysics(mask=0.5),
        optimizer=torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-2),
        train_dataloader=torch.utils.data.DataLoader(Dataset(), batch_size=4),
        losses=loss,
        epochs=2,
        online_measurements=False,
        device="cpu",
        save_path=str(tmp_path),
        verbose=False,
        show_progress_bar=False,
        plot_images=False,
    ).train()
    assert float(multiplier()) != before


def test_without_deepinv_the_message_says_what_to_install(monkeypatch):
    adapter._loss_class.cache_clear()
    monkeypatch.setitem(sys.modules, "deepinv", None)
    monkeypatch.setitem(sys.modules, "deepinv.loss", None)
    with pytest.raises(ModuleNotFoundError, match=r"as_deepinv_loss needs deepinv.*pip install"):
        as_deepinv_loss(WassersteinDROLoss())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "criterion: int is not callable"),
        ((WassersteinDROLoss(), "10"), "multiplier: str; allowed"),
        ((WassersteinDROLoss(), True), "multiplier: bool; allowed"),
        ((WassersteinDROLoss(), nn.Linear(1, 1)), "multiplier: Linear; allowed"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        as_deepinv_loss(*arguments)
