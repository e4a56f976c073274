"""Low-dose tomography: the physics against a disk, the shifts, and the experiment in small."""

import dataclasses
import json
import math
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from dro_core import radius_of_poisson_noise
from dro_torch import data
from dro_torch.data.tomography import CT_VALIDATION_PATIENTS, WATER_ATTENUATION
from validation.ct import cost, measured, scanner, settings, shifts, study, variation
from validation.mnist.arms import Arm
from validation.mnist.losses import ImageJitter, PoissonTraining

ROOT = Path(__file__).parent.parent
SMALL = scanner.Scanner(24, 20, 36)
DATA = Path(os.environ.get("DRO_DATA") or ROOT.parent / "shared" / "data")


def small():
    """The experiment on a scanner of a few rays."""
    return study.Tomography(SMALL)


@pytest.fixture
def root(tmp_path):
    """A data root with slices of smooth bodies, of three patients."""
    rng = np.random.default_rng(0)
    at = np.linspace(-1, 1, 32)
    count = 24
    hu = np.full((count, 32, 32), -1000.0)
    for image in hu:
        x, y, r = *rng.uniform(-0.2, 0.2, 2), rng.uniform(0.4, 0.7)
        image[(at[:, None] - y) ** 2 + (at[None] - x) ** 2 < r**2] = rng.uniform(-100, 200)
    checked = [name for name in CT_VALIDATION_PATIENTS for _ in range(2)]
    names = np.array([*checked, *["tested"] * 8, *["learned"] * (count - 8 - len(checked))])
    np.savez(
        tmp_path / "ct_axial_hu256.npz",
        hu=hu.astype(np.int16),
        patient=names,
        pixel_mm=np.ones(count, np.float32),
        is_test=names == "tested",
    )
    return tmp_path


def test_light_through_a_disk_follows_beer_and_lambert():
    """A centred disk of value v and radius r: the central ray loses exp(-2 r v μ)."""
    fine = scanner.Scanner(128, 4, 129)
    geometry = fine.geometry
    at = (np.arange(128) - 63.5) * geometry.pixel_size
    disk = ((at[:, None] ** 2 + at[None] ** 2) < 30.0**2).astype(np.float32)
    light = scanner.Transmission(geometry)(torch.from_numpy(0.5 * disk)[None, None])
    centre = -torch.log(light[0, 0, :, 64])
    np.testing.assert_allclose(centre, 2 * 30.0 * 0.5 * scanner.BRIGHT, rtol=0.02)
    assert float(light[0, 0, :, 0].min()) == 1.0  # beside the disk


@pytest.mark.parametrize("dose", [1e4, 1e3])
def test_photons_behind_a_disk_are_counted_as_poisson_says(dose):
    """An exact chord: counts have mean and variance I e^(-p), their logarithm 1 / (I e^(-p)).

    To second order in the inverse of the counts the logarithm is biased by half its variance.
    """
    chord = 2 * 30.0 * 0.02  # mm through a disk of radius 30 mm, water at 0.02 per mm
    light = torch.full((1, 1, 400, 500), math.exp(-chord))
    seen = scanner.noise_of(dose)(light, torch.Generator().manual_seed(0)).double()
    expected = dose * math.exp(-chord)
    counts = seen * dose
    assert float(counts.mean()) == pytest.approx(expected, rel=5e-4)
    assert float(counts.var()) == pytest.approx(expected, rel=0.02)
    integrals = -torch.log(seen)
    assert float(integrals.var()) == pytest.approx(1 / expected, rel=0.02)
    sampled = 5 / math.sqrt(counts.numel() * expected)
    assert float(integrals.mean()) - chord == pytest.approx(1 / (2 * expected), abs=sampled)
    weight = scanner.ExpectedPhotons(dose)(light, light)  # of the transmission, not its logarithm
    cost = float((weight * (seen - light).square()).mean())
    assert cost == pytest.approx(1.0, rel=0.02)


def test_water_has_its_attenuation_in_the_units_of_the_slices(root):
    """Hounsfield unit 0 is half of the brightest value, and 0.0192 per mm."""
    hounsfield, unit, mu = (
        data.ct_slices("test", root, units).images for units in ("HU", "unit", "attenuation")
    )
    body = (hounsfield > -900) & (hounsfield < 900)
    torch.testing.assert_close(unit[body] * scanner.BRIGHT, mu[body])
    assert scanner.BRIGHT / 2 == WATER_ATTENUATION


def test_the_radius_of_a_dose_is_that_of_poisson_noise():
    """Measured by draws, and by the formula; the photon-weighted one counts the rays."""
    x = torch.zeros(4, 1, 24, 24)
    x[..., 6:18, 6:18] = 0.5
    clean = scanner.Transmission(SMALL.geometry)(x)
    for name, share in (("half the dose", 0.5), ("a tenth of the dose", 0.1)):
        moved, light = shifts.shifted(shifts.SHIFTS[name], x, clean, SMALL, 1e4, 0)
        found = shifts.radii_of(x, moved, clean, light)
        exact = radius_of_poisson_noise(clean.flatten(1).double().numpy(), 1e4 * share)
        assert found["radius"] == pytest.approx(exact, rel=0.05)
        rays = math.sqrt(SMALL.views * SMALL.cells * scanner.UNIT_DOSE / (1e4 * share))
        assert found["radius_by_photons"] == pytest.approx(rays, rel=0.05)
        assert found["radius_slices"] == 0.0


def test_a_centre_of_rotation_off_by_pixels_is_another_operator():
    """Two pixels to the side: the disk's shadow moves by two pixels, magnified, in every view."""
    fine = scanner.Scanner(64, 12, 256)
    at = (torch.arange(64) - 31.5) / 32
    disk = ((at[:, None] ** 2 + at[None] ** 2) < 0.25).float()[None, None]
    shadows = [-torch.log(shifts.displaced(fine, k)(disk))[0, 0] for k in (0.0, 2.0)]
    cells = torch.arange(256.0)
    middle = [(shadow * cells).sum(-1) / shadow.sum(-1) for shadow in shadows]
    geometry = fine.geometry
    magnified = 2 * geometry.pixel_size * geometry.source_detector / geometry.source_origin
    np.testing.assert_allclose(
        middle[1] - middle[0], magnified / geometry.detector_pixel, rtol=0.02
    )


def test_back_projection_undoes_the_scan_in_the_units_of_the_slices():
    fine = scanner.Scanner(64, 180, 128)
    at = torch.linspace(-1, 1, 64)
    disk = ((at[:, None] ** 2 + at[None] ** 2) < 0.5).float()[None, None]
    light = scanner.Transmission(fine.geometry)(0.4 * disk)
    found = scanner.Reconstruction(fine, None)(light)
    inside = (at[:, None] ** 2 + at[None] ** 2) < 0.3
    assert float(found[0, 0][inside].mean()) == pytest.approx(0.4, rel=0.02)


def test_total_variation_is_a_minimum_near_which_no_slice_is_better():
    """Against a disk in few photons: below its start, below random steps, and far closer to it."""
    model = variation.Variation(SMALL, 0.01, iterations=1500)
    projector, norm = model.solver.forward_map, model.solver.norm
    matrix = projector.A(torch.eye(24**2).reshape(-1, 1, 24, 24)).flatten(1).T
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)
    at = torch.linspace(-1, 1, 24)
    disk = 0.5 * ((at[:, None] ** 2 + at[None] ** 2) < 0.5).float()[None, None]
    light = scanner.Transmission(SMALL.geometry)(disk)
    light = scanner.noise_of(300.0)(light, torch.Generator().manual_seed(0))
    integrals = -torch.log(light.clamp(min=scanner.DARKEST)) / scanner.BRIGHT

    def objective(x):
        down = torch.nn.functional.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        right = torch.nn.functional.pad(x[..., 1:] - x[..., :-1], (0, 1))
        misfit = 0.5 * float((projector(x) - integrals).square().sum()) / norm**2
        return misfit + 0.01 * float((down**2 + right**2).sqrt().sum())

    found, start = model(light), model.start(light)
    assert objective(found) < 0.9 * objective(start)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2):
        step = size * torch.randn(1, 1, 24, 24, generator=generator)
        assert objective(found) < objective(found + step)
    assert float((found - disk).norm()) < 0.5 * float((start - disk).norm())


def test_a_unit_of_the_weighted_cost_is_a_standard_deviation_of_the_photon_noise():
    """The mean cost of photon noise is the number of rays."""
    light = torch.full((2, 1, 40, 50), 0.3)
    weight = scanner.ExpectedPhotons(1000.0)(light, light)
    noisy = scanner.noise_of(1000.0)(light, torch.Generator().manual_seed(0))
    cost = (weight * (noisy - light).square()).flatten(1).sum(1) / 2000
    torch.testing.assert_close(cost, torch.ones(2), rtol=0.1, atol=0.0)
    assert scanner.noise_of(math.inf) is None


@pytest.mark.parametrize("name", list(shifts.SHIFTS))
def test_shifts_change_what_they_say(name):
    x = torch.zeros(2, 1, 24, 24)
    x[..., 6:18, 6:18] = 0.5
    clean = scanner.Transmission(SMALL.geometry)(x)
    slices, light = shifts.shifted(shifts.SHIFTS[name], x, clean, SMALL, 1e7, 0)
    same, plain = shifts.shifted(shifts.SHIFTS["none"], x, clean, SMALL, 1e7, 0)
    assert torch.equal(same, x)
    moved = float((light - plain).abs().max())
    assert float((plain - clean).abs().max()) < 0.01
    if name == "none":
        assert moved == 0.0
    elif name in ("half the dose", "a tenth of the dose", "bowtie"):
        assert 0 < moved < 0.02  # only the noise differs: the flat field undoes the filter
    else:
        assert moved > 0.02
    assert torch.equal(slices, x) == (name != "metal")


def test_photon_noise_in_training_has_the_variance_of_its_dose():
    loss = PoissonTraining(lambda model, x, y: y - x, [100.0])
    light = torch.full((4, 1, 50, 50), 0.5)
    key = {"index": torch.arange(4), "seed": 1, "step": 2}
    value = float(loss(None, light, light, **key)) / 2500
    assert value == pytest.approx(0.5 / 100, rel=0.05)
    assert float(loss(None, light, light, **key)) / 2500 == value
    assert float(loss(None, light, light, **{**key, "step": 3})) / 2500 != value
    mixed = PoissonTraining(lambda model, x, y: y - x, [50.0, 1e9])
    several = [float(mixed(None, light, light, **{**key, "step": k})) / 2500 for k in range(40)]
    assert np.mean(several) == pytest.approx(0.5 * 0.5 / 50, rel=0.3)


def test_jitter_of_images_comes_after_the_back_projection():
    model = scanner.Reconstruction(SMALL, None)
    x = torch.zeros(3, 1, 24, 24)
    y = scanner.Transmission(SMALL.geometry)(x)
    value = ImageJitter(0.1)(model, x, y, index=torch.arange(3), seed=0, step=0)
    assert float(value) / 576 == pytest.approx(0.01, rel=0.1)


def test_the_experiment_writes_what_the_page_of_claims_reads(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    few = {"jitter": (0.005, 0.01), "photon_ball": (2.0,)}
    monkeypatch.setattr(study, "GRIDS", few)
    config = settings.Config(preset="smoke", data=str(root), select=True)
    assert all(check.holds for check in small().run(config, out))
    written = json.loads((out / "ct.json").read_text())
    told = tomllib.loads((ROOT / "docs" / "results" / "claims.toml").read_text())["claim"]
    wanted = {e["check"] for e in told if e.get("result") == "desk/ct/ct.json"}
    assert wanted
    assert wanted <= {claim["claim"] for claim in written["claims"]}
    chosen = json.loads((out / "selection.json").read_text())["chosen"]
    assert set(chosen) == set(few)
    assert {row["shift"] for row in written["shifts"]} == set(shifts.SHIFTS)
    assert {row["arm"] for row in written["dose"]} >= {study.FBP, study.MSE, study.PHOTON_BALL}
    told_dose = {(row["arm"], row["level"]): row["rmse"] for row in written["variation"]}
    assert len(told_dose) == 2 * len(settings.DOSES)
    assert told_dose["TV", 100.0] < told_dose["FBP", 100.0]
    by_dose = {row["level"]: row["rmse"] for row in written["dose"] if row["arm"] == study.FBP}
    assert by_dose[100.0] > by_dose[1e5]
    for name in ("dose", "slices"):
        assert (out / f"{name}.svg").stat().st_size > 1000


@pytest.mark.skipif(
    not (DATA / "htc2022_real_sinograms.npz").exists(), reason="no measured sinograms"
)
def test_measured_phantoms_are_found_by_filtered_back_projection():
    """At 96 pixels and without a network; a limited angle is worse."""
    plain = {"FBP": scanner.Reconstruction(SMALL, None)}
    scans = measured.phantoms(96, str(DATA))
    rows = {row["scan"]: row["iou"] for row in measured.measured_rows(plain, scans)}
    assert rows["tb, whole"] > 0.9
    assert rows["tb, 90 degrees"] < rows["tb, whole"]
    assert set(rows) == set(measured.SCANS)


def test_what_is_not_light_is_refused_by_name():
    model, light = scanner.Reconstruction(SMALL, None), torch.ones(1, 1, 20, 36)
    with pytest.raises(ValueError, match=r"y: -0\.2.* is below low = 0"):
        scanner.noise_of(100.0)(light - 1.2, torch.Generator())
    light[0, 0, 3] = math.nan
    with pytest.raises(ValueError, match="sinogram: 36 entries are NaN"):
        model(light)
    with pytest.raises(ValueError, match=r"angles: from 0 to 359.* degrees\?"):
        dataclasses.replace(SMALL.geometry, angles=np.arange(360.0))


def test_without_measured_sinograms_there_are_no_rows(tmp_path):
    assert measured.phantoms(24, str(tmp_path)) == []


def test_only_arms_by_photons_are_weighted():
    experiment = small()
    for arm in experiment.declared(settings.Config(preset="smoke")):
        weighted = experiment.task_of(arm).weight is not None
        assert weighted == (arm.name in study.WEIGHTED)
    assert experiment.task_of(Arm("DRO by photons at 2", "entropic")).weight is not None


def test_presets_have_their_scanners_and_sizes_that_can_be_set():
    """The views of every preset are among those of 2DeteCT; what is not set is the preset's."""
    for preset, expected in settings.SCANNERS.items():
        config = settings.Config(preset=preset)
        assert config.scanner == expected
        assert 3600 % expected.views == 0
        assert config.size.trials <= settings.TRIALS
    assert settings.Config(preset="standard").scanner.side == 256
    given = settings.Config(preset="standard", side=48, test=2, trials=2, steps=5)
    assert given.scanner == dataclasses.replace(settings.SCANNERS["standard"], side=48)
    assert (given.size.test, given.size.trials, given.size.steps) == (2, 2, 5)
    assert given.size.validation == settings.SIZES["standard"]["validation"]


def test_the_share_of_the_projector_is_that_of_the_time_in_it(root):
    """A part of a step; nothing is added once the modules are left alone."""
    config = settings.Config(preset="smoke", data=str(root))
    experiment = small()
    learn = experiment.task.images.splits(config).learn
    (arm,) = (arm for arm in experiment.declared(config) if arm.name == study.JITTER)
    row = cost.projector_share(config, experiment.task, arm, learn)
    assert 0 < row["projector_share"] < 1
    assert row["cpu_seconds_per_step"] > 0
    watch = cost.Stopwatch([experiment.task.forward.projector])
    for _ in range(5):
        experiment.task.forward(learn[torch.arange(2)][1].requires_grad_()).sum().backward()
    seen = watch.seconds
    watch.remove()
    experiment.task.forward(learn[torch.arange(2)][1])
    assert watch.seconds == seen > 0


def test_settings_of_the_digits_are_refused():
    from validation.mnist.settings import Config as Digits

    with pytest.raises(TypeError, match=r"config: validation.mnist.*; needed: validation.ct"):
        small().declared(Digits(preset="smoke"))
