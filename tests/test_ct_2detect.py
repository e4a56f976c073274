"""Tomography from a folder in the layout of 2DeteCT: phantoms, scanned as its authors do."""

import importlib
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dro_torch import data
from dro_torch.tomography import FanBeamGeometry, fan_beam_matrix
from validation import __main__ as command_line
from validation.ct import scanner, study, two_detect
from validation.ct.settings import Config

PIL = pytest.importorskip("PIL.Image", reason="the files are written by Pillow")

VIEWS, PAIRS, SIDE = 60, 48, 32
RAW = (VIEWS + 1, 2 * PAIRS)
SMALL = scanner.Scanner(16, 20, 24)
FIELD = 1024 * 0.113797  # mm
FIRST = 2831  # from here on the detector is where it belongs
COUNT = 12
ARGUMENTS = [
    "ct",
    "--set=dataset=2detect",
    "--preset=smoke",
    f"--set=raw_views={RAW[0]}",
    f"--set=raw_cells={RAW[1]}",
    "--set=side=16",
    "--set=views=20",
    "--set=cells=24",
]


def authors_matrix():
    """The authors' geometry (ASTRA's fanflat): angles increase, the detector is as it is read."""
    geometry = FanBeamGeometry(
        431.019989,
        529.000488,
        1912 * 0.0748 / PAIRS,
        PAIRS,
        2 * np.pi * np.arange(VIEWS) / VIEWS,
        SIDE,
        FIELD / SIDE,
    )
    return fan_beam_matrix(geometry, np.float64)


def phantom(seed):
    """Attenuation per mm, as the authors see it: ellipses above the middle and to the right."""
    rng = np.random.default_rng(seed)
    at = np.linspace(-1, 1, SIDE)
    x, y = at[None, :], -at[:, None]  # row 0 is on top
    image = np.zeros((SIDE, SIDE))
    for (cx, cy), radius, value in (((0.1, 0.15), 0.6, 0.02), ((0.3, 0.4), 0.2, 0.03)):
        wide, high = radius * rng.uniform(0.8, 1.0, 2)
        image[((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2 < 1] += value
    return image


def counts_of(light, photons, rng, dark=100, level=60000):
    """What the two pixels of a pair read of a transmission, with the repeated last view."""
    drawn = rng.poisson(photons * light) / photons
    counts = np.repeat(dark + (level - dark) * drawn, 2, axis=-1)
    return np.concatenate([counts, counts[:1]]).round().clip(0, 65535).astype(np.uint16)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.fromarray(array).save(path)


def cut_by_the_authors(image):
    """Their reference: values per pixel at 1024 pixels, a pixel off the axis in both directions."""
    fine = np.kron(image * FIELD / 1024, np.ones((1024 // SIDE, 1024 // SIDE)))
    return np.pad(fine, ((1, 0), (1, 0)))[:-1, :-1].astype(np.float32)


def write_slices(folder, references):
    matrix = authors_matrix()
    for number in range(FIRST, FIRST + COUNT):
        rng, image = np.random.default_rng(number), phantom(number)
        light = np.exp(-matrix @ image.ravel()).reshape(VIEWS, PAIRS)
        for mode, photons in ((1, 1e3), (2, 1e6)):
            place = folder / f"slice{number:05d}" / f"mode{mode}"
            write(place / "sinogram.tif", counts_of(light, photons, rng))
            write(place / "dark.tif", np.full((1, RAW[1]), 100, np.uint16))
            write(place / "flat1.tif", np.full((1, RAW[1]), 59900, np.uint16))
            write(place / "flat2.tif", np.full((1, RAW[1]), 60100, np.uint16))
        if references:
            write(place / "reconstruction.tif", cut_by_the_authors(image))
    (folder / "readme.txt").write_text("not a slice")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("2detect")
    write_slices(folder, references=True)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy without the references, to be damaged."""
    ignored = shutil.ignore_patterns("reconstruction.tif")
    shutil.copytree(stored, tmp_path / "data", ignore=ignored)
    two_detect.read.cache_clear()
    return tmp_path / "data"


def source_of(folder, **more):
    return two_detect.Source(str(folder), raw_shape=RAW, **more)


def test_references_and_light_are_of_one_orientation(stored):
    """The phantom is neither up/down nor left/right symmetric; mirrored it would not fit."""
    found = two_detect.read(source_of(stored), SMALL, (FIRST, FIRST + 1))
    image, high, low = two_detect.apart(found, SMALL)
    expected = phantom(FIRST)[::-1].reshape(16, 2, 16, 2).mean((1, 3)) / scanner.BRIGHT
    np.testing.assert_allclose(image[0, 0], expected, atol=1e-6)
    seen = scanner.Reconstruction(SMALL, None)(high)

    def fit(x):
        return float(np.corrcoef(x.flatten(), seen[0].flatten())[0, 1])

    assert fit(image[0]) > 0.95
    assert max(fit(image[0].flip(axis)) for axis in (1, 2)) < 0.9
    # light of low dose is the same but for its noise
    simulated = scanner.Transmission(SMALL.geometry)(image)
    assert float((high - simulated).abs().mean()) < 0.03
    noise = float((low - high).square().sum() / high.sum())
    assert noise == pytest.approx(1 / 2000, rel=0.1)  # 1,000 photons a cell, two cells


def test_without_references_the_slices_are_back_projections_of_all_views(stored, folder):
    given = two_detect.read(source_of(stored), SMALL, (FIRST,))
    own = two_detect.read(source_of(folder), SMALL, (FIRST,))
    assert not source_of(folder).has_references
    pixels = SMALL.side**2
    assert torch.equal(given[:, pixels:], own[:, pixels:])
    one, other = given[0, :pixels].numpy(), own[0, :pixels].numpy()
    assert np.corrcoef(one, other)[0, 1] > 0.95
    assert other.mean() == pytest.approx(one.mean(), rel=0.05)
    apart = two_detect.read(source_of(folder, references=str(stored)), SMALL, (FIRST,))
    assert torch.equal(apart, given)


def test_cells_are_averaged_exactly_and_views_are_left_out(stored):
    values = torch.rand(3, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        two_detect.rebinned(values, 24), values.unflatten(1, (24, 2)).mean(2)
    )
    fine = values.repeat_interleave(5, dim=1).unflatten(1, (20, 12)).mean(2)
    torch.testing.assert_close(two_detect.rebinned(values, 20), fine)
    assert torch.allclose(two_detect.rebinned(values, 48), values)
    scan = source_of(stored).scan(FIRST, 2)
    light = two_detect.light_of(scan, SMALL)
    whole = torch.exp(-scan.sinogram)
    torch.testing.assert_close(light[4], whole[12].unflatten(0, (24, 2)).mean(1))


def test_blocks_are_apart_and_evenly_thinned():
    learn, check, test = two_detect.blocks(tuple(range(1, 101)), (4, 3, 100))
    assert learn == (1, 27, 54, 80)
    assert check == (81, 85, 90)
    assert test == tuple(range(91, 101))
    assert two_detect.blocks((5, 6, 7), (9, 9, 9)) == ((5,), (6,), (7,))


def test_slices_out_of_distribution_are_left_out(folder):
    for number in (5521, 6000):
        shutil.copytree(folder / f"slice{FIRST:05d}", folder / f"slice{number:05d}")
    assert data.slices_2detect(folder)[-2:] == (5521, 6000)
    assert source_of(folder).numbers == tuple(range(FIRST, FIRST + COUNT))


def test_the_experiment_runs_from_a_folder_with_one_command(stored, tmp_path, capsys):
    out = tmp_path / "out"
    assert command_line.main([*ARGUMENTS, f"--data={stored}", f"--out={out}"]) == 0
    written = json.loads((out / "ct.json").read_text())
    assert written["references"] == "reconstruction.tif"
    used = written["slices"]
    assert used["test"] == [FIRST + COUNT - 1]
    assert not set(used["learn"]) & set(used["check"] + used["test"])
    rows = {row["arm"]: row for row in written["low_dose"]}
    assert {study.MSE, study.DRO, study.MEASURED, study.FBP} <= set(rows)
    # low dose is 1,000 photons a cell of 48; two of them are averaged
    assert rows[study.FBP]["photons"] == pytest.approx(2000, rel=0.15)
    claims = {claim["claim"] for claim in written["claims"]}
    assert "RMSE at the measured low dose, DRO / MSE, one dose" in claims
    assert {row["arm"] for row in written["projector"]} >= {study.MEASURED, study.DRO}
    for name in ("dose", "slices"):
        assert (out / f"{name}.svg").stat().st_size > 1000
    printed = capsys.readouterr().out
    for word in ("radius_by_photons", "metal", "projector_share", "photons"):
        assert word in printed


def test_the_arm_of_low_dose_sees_low_dose(stored):
    experiment = study.study_of(Config(preset="smoke", **config(stored)))
    row = experiment.task.images.splits(Config(preset="smoke", **config(stored))).test[[0]][1]
    (arm,) = (a for a in experiment.declared(Config()) if a.name == study.MEASURED)
    (low, high) = (task.pair(row) for task in (experiment.task_of(arm), experiment.task))
    assert torch.equal(low[0], high[0])
    assert not torch.equal(low[1], high[1])
    weighted = next(a for a in experiment.declared(Config()) if a.name == study.PHOTON_BALL)
    assert torch.equal(experiment.task_of(weighted).pair(row)[1], high[1])


def config(folder):
    sizes = {"side": 16, "views": 20, "cells": 24, "raw_views": RAW[0], "raw_cells": RAW[1]}
    return {"dataset": "2detect", "data": str(folder), **sizes}


def drop(*names):
    def damage(folder):
        for name in names:
            target = folder / f"slice{FIRST:05d}" / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def replace(name, array):
    return lambda folder: write(folder / f"slice{FIRST:05d}" / name, array)


def only(count):
    def damage(folder):
        for number in range(FIRST + count, FIRST + COUNT):
            shutil.rmtree(folder / f"slice{number:05d}")

    return damage


def rename(folder):
    (folder / f"slice{FIRST:05d}").rename(folder / "slice28x31")


def foreign(folder):
    image = np.random.default_rng(0).random((1024, 1024)).astype(np.float32)
    for number in range(FIRST, FIRST + COUNT):
        write(folder / f"slice{number:05d}" / "mode2" / "reconstruction.tif", image)


def short_reference(folder):
    write(
        folder / f"slice{FIRST:05d}" / "mode2" / "reconstruction.tif", np.ones((9, 9), np.float32)
    )


DARK = np.full((1, RAW[1]), 100, np.uint16)
DAMAGED = [
    ("a missing mode", drop("mode1"), r"mode1/dark.tif: not found; put it there from.*2DeteCT"),
    ("a missing flat field", drop("mode2/flat2.tif"), "mode2/flat2.tif: not found"),
    ("a missing sinogram", drop("mode2/sinogram.tif"), "mode2/sinogram.tif: not found"),
    (
        "a view too few",
        replace("mode2/sinogram.tif", np.full((VIEWS, RAW[1]), 900, np.uint16)),
        rf"sinogram.tif: shape \({VIEWS}, {RAW[1]}\) instead of \({VIEWS + 1}, {RAW[1]}\)",
    ),
    (
        "a flat field of zero",
        replace("mode1/flat1.tif", np.zeros((1, RAW[1]), np.uint16)),
        None,  # the mean of both is still above the dark field
    ),
    (
        "flat fields below the dark one",
        lambda folder: [replace(f"mode1/flat{k}.tif", DARK // 2)(folder) for k in (1, 2)],
        "flat1.tif: flat field <= dark field at summed pixel 0",
    ),
    (
        "values that are no numbers",
        replace("mode2/sinogram.tif", np.full(RAW, np.nan, np.float32)),
        "sinogram.tif: NaN or infinite entries",
    ),
    (
        "negative counts",
        replace("mode2/sinogram.tif", np.full(RAW, -5.0, np.float32)),
        "sinogram.tif: negative counts",
    ),
    ("a name that is no number", rename, r"slice28x31: the name is not slice and five digits"),
    ("two slices", only(2), "2 slices up to slice05000; at least 3 are needed"),
    ("none", only(0), "no folders sliceNNNNN; put them there from: .*2DeteCT"),
    ("a reference of another slice", foreign, "slice02831: the reference and .* correlation"),
    (
        "a short reference",
        short_reference,
        r"reconstruction.tif: shape \(9, 9\) instead of \(1024, 1024\).*8017582",
    ),
]


@pytest.mark.parametrize(
    ("damage", "message"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED]
)
def test_what_is_wrong_with_a_folder_is_one_line(folder, capsys, damage, message, tmp_path):
    damage(folder)
    if message is None:
        assert two_detect.read(source_of(folder), SMALL, (FIRST,)).isfinite().all()
        return
    status = command_line.main([*ARGUMENTS, f"--data={folder}", f"--out={tmp_path / 'out'}"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("views=7", "--set views: 7; allowed: a divisor of 60, the views of a scan"),
        ("cells=49", "--set cells: 49; allowed: at most 48, half the pixels of the detector"),
        ("dataset=2detekt", "--set dataset: unknown value '2detekt'"),
        ("raw_views=2", "--set raw_views: 2"),
    ],
)
def test_settings_that_do_not_fit(stored, capsys, setting, message):
    assert command_line.main([*ARGUMENTS, f"--data={stored}", f"--set={setting}"]) == 2
    assert message in capsys.readouterr().err


def test_without_pillow_the_extra_is_named(stored, capsys, monkeypatch, tmp_path):
    def refuse(name, *more):
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError(f"No module named {name!r}", name="PIL")
        return importing(name, *more)

    importing = importlib.import_module
    two_detect.read.cache_clear()
    monkeypatch.setattr("dro_core.optional.importlib.import_module", refuse)
    status = command_line.main([*ARGUMENTS, f"--data={stored}", f"--out={tmp_path}"])
    assert status == 2
    assert "ct needs Pillow, which is not installed" in (said := capsys.readouterr().err)
    assert "pip install 'structured-dro[files]'" in said


def test_shifts_of_measured_light_are_those_of_the_model(stored):
    """Measured light changes by the factor that the scanner's model says, with its own noise."""
    from validation.ct import shifts

    image, high, _ = two_detect.apart(two_detect.read(source_of(stored), SMALL, (FIRST,)), SMALL)
    moved, light = shifts.shifted(shifts.SHIFTS["metal"], image, high, SMALL, math.inf, 0)
    model = scanner.Transmission(SMALL.geometry)
    torch.testing.assert_close(light / high, model(moved) / model(image))


def test_the_plan_reads_the_folder_too(stored, capsys, tmp_path):
    arguments = [*ARGUMENTS, f"--data={stored}", "--plan", f"--out={tmp_path / 'out'}"]
    assert command_line.main(arguments) == 0
    assert study.MEASURED in capsys.readouterr().out
    assert not Path(tmp_path / "out").exists()
