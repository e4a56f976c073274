"""The mistakes of `test_hints`, as users of `dro_torch` make them."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from dro_core import worst_case_risk
from dro_core.swapped import SwappedWarning
from dro_torch import (
    EntropicDROLoss,
    LinearisedDROLoss,
    Multiplier,
    UnbalancedOTLoss,
    WassersteinDROLoss,
    certify,
    data,
    fit_transport_map,
)
from dro_torch.losses.unbalanced import LikelihoodCost
from dro_torch.nets import Potential, TransportMap
from dro_torch.training import reconstruction_phase

LOSSES = [EntropicDROLoss(0.1, samples=2), WassersteinDROLoss(), LinearisedDROLoss()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_multiplier_in_place_of_its_value_is_told_to_be_called(loss):
    x, network = torch.randn(4, 3), nn.Linear(3, 3)
    with pytest.raises(TypeError, match=r"^multiplier: .* \(call it: multiplier\(\)\)"):
        loss(network, x, x, Multiplier(radius=1.0))


def test_arrays_in_place_of_tensors_are_told_how_to_become_some():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(TypeError, match=r"^x: ndarray is not .*; pass torch.as_tensor\(x\)"):
        certify(nn.Linear(3, 3), x, x, 1.0)
    with pytest.raises(TypeError, match=r"^x: list is not a torch.Tensor$"):
        certify(nn.Linear(3, 3), x.tolist(), x, 1.0)


def test_parameters_in_place_of_numbers_are_told_to_be_detached():
    layer = nn.Linear(3, 3)
    x = np.eye(3)
    with pytest.raises(TypeError, match=r"^B: a tensor that requires grad; pass B.detach\(\)"):
        worst_case_risk(layer.weight, x, x, 1.0)
    with pytest.raises(TypeError, match=r"^radius: a tensor that requires grad; pass radius.det"):
        worst_case_risk(x, x, x, layer.bias.sum())
    with pytest.raises(TypeError, match=r"^B: a tensor that numpy cannot read .* pass B.cpu\(\)"):
        worst_case_risk(layer.weight.detach().bfloat16(), x, x, 1.0)
    assert worst_case_risk(layer.weight.detach(), x, x, 1.0).verify().holds()


def test_a_misspelt_keyword_is_blamed_on_the_function_that_was_called():
    network = nn.Linear(3, 3)
    with pytest.raises(TypeError, match=r"^reconstruction_phase\(\) got .*'rat' .*mean 'rate'"):
        reconstruction_phase(network, LOSSES[1], 1.0, rat=0.1)
    x = torch.zeros(4, 1, 8, 8)
    loss = UnbalancedOTLoss(LikelihoodCost(lambda x: x, scale=0.1))
    T, v = TransportMap(1, (4,)), Potential(1, 8, 4)
    with pytest.raises(TypeError, match=r"^fit_transport_map\(\) got .*'progres' .*'progress'"):
        fit_transport_map(T, v, loss, x, x, 2, seed=0, progres=False)


@pytest.mark.parametrize("structure", ["y|x", "x|y"])
def test_signals_and_measurements_in_each_others_place_are_noticed(structure):
    torch.manual_seed(0)
    x = torch.randn(40, 1, 4, 4)
    y = 0.5 * x + 0.01 * torch.randn_like(x)
    undo = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(undo.weight, 2.0)
    settings = {"steps": 2, "directions": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certify(undo, x, y, 0.1, structure, **settings)
        residual = lambda model, x, y: y - model(x)  # noqa: E731  (not x - model(y): not judged)
        certify(undo, y, x, 0.1, structure, residual=residual, lipschitz=2.0, **settings)
    with pytest.warns(SwappedWarning, match="are the two exchanged") as caught:
        certify(undo, y, x, 0.1, structure, **settings)
    assert caught[0].filename == __file__


def test_loaders_take_the_split_first_and_then_the_root(tmp_path):
    for loader in (data.mnist, data.cifar10, data.caltech101, data.ct_slices):
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            loader("train", tmp_path)
        with pytest.raises(FileNotFoundError, match=str(tmp_path)):
            loader("train", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        data.htc2022("tb", tmp_path)
