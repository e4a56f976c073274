"""The frontier at the smoke preset: every arm trains on its ball and meets the same attack."""

import csv
import dataclasses
import gzip
import json
import math
import struct

import numpy as np
import pytest
import torch

from dro_torch import nets
from validation import __main__ as command_line
from validation.frontier import arms, isotropic, settings, study, weighted
from validation.mnist.arms import fit_arm
from validation.mnist.losses import Half, Jitter
from validation.mnist.tasks import PIXELS, SIDE
from validation.noisy_training import MeanSquaredError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """IDX files of random strokes."""
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for stem, count in (("train", 120), ("t10k", 40)):
        images = np.zeros((count, SIDE, SIDE), np.uint8)
        for image in images:
            row, column = rng.integers(6, 16, 2)
            image[row : row + 3, column : column + rng.integers(4, 10)] = 255
        head = struct.pack(">IIII", 0x803, count, SIDE, SIDE)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(head + images.tobytes())
        )
        labels = struct.pack(">II", 0x801, count) + bytes(count)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder.parent


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_attacks_are_kept_and_are_the_same_side_by_side(root, tmp_path, monkeypatch):
    """Of another radius, or of two processes; what is kept is not attacked again."""
    experiment = isotropic.Isotropic()
    config = settings.Config("smoke", str(root))
    arm = arms.arm_of("jitter", config, 2.0)
    data = experiment.data(config)
    trained = [fit_arm(config, experiment.task, arm, data.learn, tmp_path)]
    first = experiment.measured(config, trained, [2.0])
    together = experiment.measured(dataclasses.replace(config, jobs=2), trained, [4.0])
    alone = [dataclasses.replace(one, folder=None) for one in trained]
    assert experiment.measured(config, alone, [4.0])["attacks"] == together["attacks"]
    monkeypatch.setattr(study, "attacked", lambda *arguments: pytest.fail("attacked again"))
    again = experiment.measured(config, trained, [2.0])
    assert [str(row) for row in again["subsets"]] == [str(row) for row in first["subsets"]]
    assert [row["radius"] for row in again["attacks"]] == [2.0]


@pytest.mark.parametrize("name", ["isotropic", "weighted"])
def test_a_run_has_every_arm_attacked_and_judged(name, root, tmp_path):
    arguments = ["frontier", name, "--preset", "smoke", "--data", str(root)]
    assert command_line.main([*arguments, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / f"{name}.json").read_text())
    found = rows(tmp_path / "attacks.csv")
    target = {"isotropic": 2.0, "weighted": 4.0}[name]
    expected = {arm.name for arm in arms.declared(settings.Config(), target, name == "weighted")}
    assert {row["arm"] for row in found} == expected
    assert {float(row["radius"]) for row in found} == {target / 2, target, 2 * target}
    for arm in expected:
        errors = [float(row["attack_rmse"]) for row in found if row["arm"] == arm]
        clean = [float(row["clean_rmse"]) for row in found if row["arm"] == arm]
        assert clean[0] <= errors[0] <= errors[1] <= errors[2]
    spectral = [row for row in found if row["arm"] == "spectral network"]
    assert all(float(r["certified_rmse"]) >= float(r["attack_rmse"]) for r in spectral)
    assert (tmp_path / "frontier.svg").exists()
    claims = [claim["claim"] for claim in written["claims"]]
    assert len(claims) == len(set(claims)) == {"isotropic": 8, "weighted": 12}[name]
    cost = {row["arm"]: float(row["gflop of a step"]) for row in rows(tmp_path / "arithmetic.csv")}
    # forward, back to the input and back to the weights cost alike, but for the first layer
    plain = cost["jitter"]
    assert cost["jitter, three times the steps"] == pytest.approx(plain)
    assert cost["ball, 2 steps"] / plain == pytest.approx((2 * 2 + 3) / 3, rel=0.1)
    assert cost["ball, 3 steps"] / plain == pytest.approx((2 * 3 + 3) / 3, rel=0.1)
    assert cost["ball and jitter"] / plain == pytest.approx((9 + 3) / 2 / 3, rel=0.1)
    assert cost["projected gradient, 10 steps"] / plain == pytest.approx(23 / 3, rel=0.1)
    assert cost["entropic"] / plain == pytest.approx(2, rel=0.1)  # draws at smoke


def test_every_family_is_tuned_with_as_many_candidates(root, tmp_path):
    config = settings.Config("smoke", str(root), select=True)
    experiment = weighted.Weighted()
    tried = experiment.candidates(config)
    counts = {family: sum(name == family for name, *_ in tried) for family, *_ in tried}
    assert set(counts.values()) == {settings.CANDIDATES}
    chosen = experiment.tuned(config, experiment.data(config), tmp_path)
    written = json.loads((tmp_path / "selection.json").read_text())
    for family, value in written["chosen"].items():
        assert getattr(chosen, family) == value
        errors = {k: v for k, v in written["attack RMSE"].items() if k.startswith(family + " ")}
        assert min(errors, key=errors.get) == f"{family} {value:g}"
    assert isotropic.Isotropic().families() == [f for f in counts if f != "shaped"]


def test_the_weights_trust_three_quarters():
    weight = weighted.trusted()
    assert float((weight == 1).double().mean()) == pytest.approx(0.25)
    assert set(weight.unique().tolist()) == {1.0, weighted.TRUSTED}
    ball = weighted.Weighted.task.structure
    x = torch.zeros(2, 1, SIDE, SIDE)
    assert ball.scale(x, x).shape == (1, PIXELS)


def test_a_weight_is_part_of_what_an_arm_depends_on():
    plain, heavy = isotropic.Isotropic.task, weighted.Weighted.task
    assert plain.structure.weighted is False
    assert heavy.structure.weighted is True


def test_half_of_a_batch_each():
    generator = torch.Generator().manual_seed(0)
    model = nets.UNet(1, 1, 1, 2, generator=generator)
    x = torch.rand(5, 1, SIDE, SIDE, generator=generator)
    residual = weighted.Weighted.task.residual
    mse = MeanSquaredError(residual)

    class Keyed(torch.nn.Module):
        def forward(self, model, x, y, *, index, seed, step):
            return mse(model, x, y)

    both = Half(Keyed(), Keyed())(model, x, x, index=torch.arange(5), seed=0, step=0)
    expected = (mse(model, x[:3], x[:3]) + mse(model, x[3:], x[3:])) / 2
    torch.testing.assert_close(both, expected)
    silent = Jitter(residual, "y|x", 0.0)(model, x, x, index=torch.arange(5), seed=0, step=0)
    torch.testing.assert_close(silent, mse(model, x, x))


def test_what_dominates():
    def row(arm, clean, attack, subset=0):
        errors = {"clean_rmse": clean, "attack_rmse": attack, "certified_rmse": math.nan}
        return {"arm": arm, "radius": 1.0, "subset": subset, **errors}

    table = [row("mine", 1.0, 2.0), row("better", 0.9, 1.9), row("cheaper", 0.5, 3.0)]
    assert study.dominating(table, "mine", 1.0, ("mine",)) == ["better"]
    assert study.dominating(table, "better", 1.0, ("better",)) == []
    table += [row("mine", 2.0, 4.0, 1), row("better", 1.6, 3.4, 1)]
    claims = study.against(table, "better", "mine", 1.0, 0.96)
    assert [claim.holds for claim in claims] == [True, True]
    assert claims[0].value == pytest.approx((0.95 + 0.85) / 2)
    assert claims[0].band == pytest.approx(0.1 / math.sqrt(2))
    (mine, *_) = study.averaged(table)
    assert (mine["clean_rmse"], mine["attack_rmse"]) == (1.5, 3.0)
