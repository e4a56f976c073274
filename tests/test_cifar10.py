"""Deblurring of colour images at the smoke preset: the experiment on digits, with other images."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from dro_torch.data import images as loaders
from validation import __main__ as command_line
from validation import cifar10
from validation.mnist.plots import pixels_of
from validation.mnist.settings import Config

ROOT = Path(__file__).parent.parent
COUNT = 40


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root with the official files, in small."""
    monkeypatch.setattr(loaders, "CIFAR10_BATCH", COUNT)
    folder = tmp_path / "root" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        records = rng.integers(0, 256, (COUNT, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    cifar10.colour_images.cache_clear()
    yield tmp_path / "root"
    cifar10.colour_images.cache_clear()


def test_the_experiment_writes_what_the_page_of_claims_reads(root, tmp_path):
    out = tmp_path / "out"
    arguments = ["cifar10", "--preset", "smoke", "--data", str(root), "--out", str(out)]
    assert command_line.main(arguments) == 0
    written = json.loads((out / "cifar10.json").read_text())
    told = tomllib.loads((ROOT / "docs" / "results" / "claims.toml").read_text())["claim"]
    wanted = {e["check"] for e in told if e.get("result") == "desk/cifar10/cifar10.json"}
    assert wanted == {claim["claim"] for claim in written["claims"]}
    assert [row["arm"] for row in written["training"]] == ["DRO", "MSE", "MSE matched"]
    for row in written["attacks"]:
        assert 0 < row["clean_rmse"] < row["attack_rmse"] < row["certified_rmse"]
    assert (out / "examples.svg").exists()


def test_gap_and_growth_are_those_of_the_table():
    rows = [
        {"arm": arm, "level": level, "rmse": value, "rmse_sd": 0.03}
        for arm, level, value in (("DRO", 0.5, 0.2), ("MSE", 0.5, 0.6))
    ]
    assert cifar10.gap(rows, 0.5) == (pytest.approx(0.4), pytest.approx(0.03 * 2**0.5))


def test_radii_and_errors_are_in_units_of_colour_images(root):
    """3072 numbers in an image, three channels through the same blur."""
    task = cifar10.Cifar10.task
    splits = task.images.splits(Config(preset="smoke", data=str(root)))
    x, y = task.pair(splits.test[torch.arange(3)][1])
    assert task.images.pixels == x[0].numel() == 3072
    alone = task.forward(x[:, 1:2])
    torch.testing.assert_close(y[:, 1:2], alone)


def test_pictures_are_drawn_in_their_colours():
    assert pixels_of(torch.zeros(1, 4, 5)).shape == (4, 5)
    drawn = pixels_of(torch.full((3, 4, 5), 2.0))
    assert drawn.shape == (4, 5, 3)
    assert drawn.max() == 1.0
