"""Fan-beam projector and filtered back-projection against analytic phantoms and measured data."""

import dataclasses
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import beta

from dro_torch import data, tomography
from dro_torch.physics import check_adjoint
from dro_torch.tomography import (
    CoverageWarning,
    FanBeamFBP,
    FanBeamGeometry,
    FanBeamProjector,
    fan_beam_fbp,
    fan_beam_matrix,
    scan_weights,
)
from validation.benchmarks import torch_projector

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
DATA = Path(os.environ.get("DRO_DATA") or Path(__file__).parents[2] / "shared" / "data")
NAN = float("nan")

#: Blobs v (1 - |z - z0|² / r²)₊^power: (x0, y0, r, v), lengths in half-widths of the image. Power 0
#: are disks with hard edges, 3 is twice differentiable. The last three lie off centre.
PHANTOM = (
    (0.0, 0.0, 0.8, 0.4),
    (-0.25, 0.3, 0.22, 0.3),
    (0.3, 0.2, 0.15, -0.2),
    (0.1, -0.4, 0.18, 0.3),
)


def scan(size=128, views=90, cells=None, **changes):
    """A full scan of magnification 1.5 whose detector sees the whole image's inscribed circle."""
    cells = cells or 3 * size // 2
    angles = np.linspace(0, 2 * np.pi, views, endpoint=False)
    pitch = 2.25 * size / cells
    geometry = FanBeamGeometry(3.0 * size, 4.5 * size, pitch, cells, angles, size, 1.0)
    return dataclasses.replace(geometry, **changes)


def analytic_sinogram(geometry, power, phantom=PHANTOM, points=1):
    """Exact line integrals, the mean of `points` rays per cell (1: the ray to its centre).

    By the signed distance of a ray from the axis and the angle of its normal, which is not how the
    library computes anything.
    """
    shift = ((np.arange(points) + 0.5) / points - 0.5) * geometry.detector_pixel
    place = (geometry.detector_positions[:, None] + shift).ravel() / geometry.source_detector
    fan = place if geometry.detector == "curved" else np.arctan(place)
    distance = geometry.source_origin * np.sin(fan) - geometry.centre_offset * np.cos(fan)
    normal = np.asarray(geometry.angles)[:, None] - fan
    half = geometry.image_size * geometry.pixel_size / 2
    total = np.zeros(normal.shape)
    for x, y, radius, value in phantom:
        away = (distance - half * (x * np.cos(normal) + y * np.sin(normal))) / (radius * half)
        chord = radius * half * beta(0.5, power + 1)
        total += value * chord * np.clip(1 - away**2, 0, None) ** (power + 0.5)
    return total.reshape(*geometry.sinogram_shape, points).mean(2)


def analytic_image(geometry, power, phantom=PHANTOM, points=8):
    """Pixel means, by points x points samples."""
    size = geometry.image_size
    place = (np.arange(size * points) + 0.5) / (size * points) * 2 - 1
    total = np.zeros((size * points, size * points))
    for x, y, radius, value in phantom:
        inside = 1 - ((place - x) ** 2 + (-place[:, None] - y) ** 2) / radius**2
        total += value * (inside > 0 if power == 0 else np.clip(inside, 0, None) ** power)
    return total.reshape(size, points, size, points).mean((1, 3))


def relative(value, exact):
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


def psnr(value, exact):
    """10 log10(range² / mean square error) over the whole image, range = max - min of the truth."""
    return float(10 * np.log10(np.ptp(exact) ** 2 / np.mean((value - exact) ** 2)))


def fbp_psnr(geometry, power, **options):
    sinogram = torch.from_numpy(analytic_sinogram(geometry, power))[None]
    image = fan_beam_fbp(sinogram, geometry, **options)[0].numpy()
    return psnr(image, analytic_image(geometry, power))


# --- projector --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"detector": "curved"},
        {"detector_offset": 7.3, "centre_offset": -4.1},
        {"detector": "curved", "detector_offset": -9.0, "centre_offset": 5.0},
    ],
    ids=str,
)
def test_line_integrals_of_disks(changes):
    """Hard-edged, off centre: 4e-3 against exact chords; smooth blobs: 1e-3."""
    geometry = scan(256, views=12, **changes)
    matrix = fan_beam_matrix(geometry, np.float64)
    for power, line, strip in ((0, 4e-3, 3e-3), (3, 1e-3, 7e-4)):
        image = analytic_image(geometry, power).ravel()
        projected = (matrix @ image).reshape(geometry.sinogram_shape)
        assert relative(projected, analytic_sinogram(geometry, power)) < line
        assert relative(projected, analytic_sinogram(geometry, power, points=32)) < strip


@pytest.mark.parametrize("disk", [(0.3, -0.2, 0.6, 1.0), (-0.4, 0.4, 0.4, -2.0)])
def test_strip_integrals_of_one_off_centre_disk(disk):
    """The error is the pixels': a disk of 20 pixels' radius has 8e-3, of 50 pixels 2e-3."""
    geometry = scan(256, views=12)
    image = analytic_image(geometry, 0, [disk]).ravel()
    projected = (fan_beam_matrix(geometry, np.float64) @ image).reshape(geometry.sinogram_shape)
    assert relative(projected, analytic_sinogram(geometry, 0, [disk], points=32)) < 4e-3


@given(
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(1, 20),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.sampled_from(tomography.DETECTORS),
    st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_the_adjoint_is_exact(size, views, cells, offset, centre, detector, seed):
    angles = np.random.default_rng(seed).uniform(-7, 7, views)
    geometry = FanBeamGeometry(20.0, 30.0, 1.3, cells, angles, size, 1.1, offset, centre, detector)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        projector = FanBeamProjector(geometry, dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        check_adjoint(
            projector,
            (2, 1, size, size),
            (2, 1, views, cells),
            dtype=dtype,
            generator=generator,
            rtol=tolerance,
        )


@pytest.mark.parametrize("device", DEVICES)
def test_adjoint_of_a_large_projector(device):
    geometry = scan(64, views=30)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        projector = FanBeamProjector(geometry, dtype=dtype).to(device)
        for samples in (1, 3):
            check_adjoint(projector, (samples, 64, 64), dtype=dtype, device=device, rtol=tolerance)


def test_every_ray_that_hits_a_pixel_is_counted_once():
    """A detector that sees everything keeps the mass: area times magnification at the pixel."""
    geometry = scan(32, views=7, cells=200)
    matrix = fan_beam_matrix(geometry, np.float64)
    mass = (matrix.sum(axis=0) * geometry.detector_pixel).reshape(32, 32) / 7
    assert mass[16, 16] == pytest.approx(1.5, rel=2e-3)
    assert (matrix.data > 0).all()
    assert matrix.data.max() <= math.sqrt(2) * 1.0001


def test_projector_derivatives():
    geometry = scan(3, views=3, cells=4)
    projector = FanBeamProjector(geometry, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    for function, point in ((projector.A, x), (projector.A_adjoint, y), (projector.fbp, y)):
        assert torch.autograd.gradcheck(function, point, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(lambda z, f=function: f(z) ** 2, point)


# --- filtered back-projection -----------------------------------------------------------------


@pytest.mark.parametrize(("size", "views", "least"), [(128, 180, 60.0), (128, 720, 60.0)])
def test_fbp_of_a_soft_phantom(size, views, least):
    """35 and 45 dB are asked; the soft phantom (power 3) gets far more."""
    assert fbp_psnr(scan(size, views), 3) >= least


@pytest.mark.slow
@pytest.mark.parametrize(("views", "cells", "hard"), [(180, 384, 35.0), (720, 768, 45.0)])
def test_fbp_of_256_pixels(views, cells, hard):
    """Hard edges too, if the detector averages over its cells, as detectors do."""
    geometry = scan(256, views, cells)
    assert fbp_psnr(geometry, 3) >= 80.0
    sinogram = torch.from_numpy(analytic_sinogram(geometry, 0, points=16))[None]
    assert psnr(fan_beam_fbp(sinogram, geometry)[0].numpy(), analytic_image(geometry, 0)) >= hard


@pytest.mark.parametrize(
    "changes",
    [
        {"detector": "curved"},
        {"detector_offset": 45.0, "centre_offset": 30.0},
        {"detector": "curved", "detector_offset": -45.0, "centre_offset": -30.0},
        {"detector_offset": 75.0},  # half fan: one side sees less than the object
        {"angles": tuple(np.deg2rad(np.arange(0, 215, 0.5)))},  # short scan
        {"angles": tuple(np.deg2rad([*range(30), *range(60, 360)]))},  # views missing
        {"angles": tuple(np.random.default_rng(0).permutation(np.linspace(0, 2 * np.pi, 361)[1:]))},
    ],
    ids=["curved", "offsets", "curved offsets", "half fan", "short", "missing", "shuffled"],
)
def test_fbp_honours_the_geometry(changes):
    assert fbp_psnr(scan(128, 360, **changes), 3) >= 60.0


def test_a_wrong_offset_is_seen():
    """The offsets do something: three cells cost dozens of decibels."""
    geometry = scan(128, 180)
    sinogram = torch.from_numpy(analytic_sinogram(geometry, 3))[None]
    truth = analytic_image(geometry, 3)
    for changes in ({"detector_offset": 4.5}, {"centre_offset": 3.0}):
        wrong = fan_beam_fbp(sinogram, dataclasses.replace(geometry, **changes))[0].numpy()
        assert psnr(wrong, truth) < 50.0


def test_scan_weights_of_a_full_scan_are_half_the_steps():
    geometry = scan(16, 10)
    np.testing.assert_allclose(scan_weights(geometry), np.pi / 10, rtol=1e-12)
    one = dataclasses.replace(geometry, angles=(0.3,))
    np.testing.assert_allclose(scan_weights(one), np.pi, rtol=1e-12)
    short = dataclasses.replace(geometry, angles=tuple(np.deg2rad(np.arange(0, 215, 0.5))))
    weights = scan_weights(short) / np.deg2rad(0.5)
    assert weights[200].max() == pytest.approx(1.0)  # rays seen once
    assert weights.min() > 0


def test_filters_order_noise_and_keep_the_mean():
    geometry = scan(64, 90)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *geometry.sinogram_shape, generator=generator)
    spread = {
        name: float(fan_beam_fbp(noise, geometry, filter=name).std()) for name in tomography.FILTERS
    }
    assert sorted(spread, key=spread.get) == ["hann", "hamming", "cosine", "shepp-logan", "ramp"]
    flat = torch.from_numpy(analytic_sinogram(geometry, 3))[None]
    means = [float(fan_beam_fbp(flat, geometry, filter=name).mean()) for name in tomography.FILTERS]
    assert means == pytest.approx([means[0]] * len(means), rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_fbp_keeps_dtype_device_and_batch(device):
    geometry = scan(32, 45)
    exact = torch.from_numpy(analytic_sinogram(geometry, 3))
    batch = torch.stack([exact, 2 * exact])[:, None].to(device)
    double = fan_beam_fbp(batch, geometry)
    assert double.shape == (2, 1, 32, 32)
    torch.testing.assert_close(double[1], 2 * double[0])
    single = fan_beam_fbp(batch.float(), geometry)
    assert (single.dtype, single.device) == (torch.float32, batch.device)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)
    assert fan_beam_fbp(batch.bfloat16(), geometry).dtype == torch.bfloat16


# --- geometries of data sets ------------------------------------------------------------------


@pytest.mark.parametrize("filter", ["ramp", "hann"])
@pytest.mark.parametrize(
    "changes", [{}, {"detector": "curved"}, {"detector_offset": 9.0, "centre_offset": 1.5}]
)
def test_the_stored_back_projection_is_the_same_map(changes, filter):
    geometry = scan(20, views=14, **changes)
    fbp = FanBeamFBP(geometry, filter=filter, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, *geometry.sinogram_shape)
    y = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    given = torch.randn(3, 2, 20, 20, generator=generator, dtype=torch.float64)
    results = []
    for image in (fbp(y), fan_beam_fbp(y, geometry, filter=filter)):
        (gradient,) = torch.autograd.grad((image * given).sum(), y)
        results.append((image, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_the_stored_back_projection_of_a_narrow_detector():
    """Pixels out of view see the views' continuation, whose margin is limited."""
    geometry = dataclasses.replace(scan(24, views=9), detector_count=7)
    y = torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(1))
    expected = fan_beam_fbp(y, geometry)
    torch.testing.assert_close(FanBeamFBP(geometry)(y), expected, rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(
        FanBeamFBP(scan(3, views=3, cells=4), dtype=torch.float64),
        torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True),
        check_forward_ad=True,
    )


def test_presets():
    two = FanBeamGeometry.two_detect()
    assert two.sinogram_shape == (3600, 956)
    assert two.image_shape == (1024, 1024)
    assert two.detector_pixel == pytest.approx(2 * 0.0748)
    assert two.pixel_size == pytest.approx(0.113797)
    np.testing.assert_allclose(
        two.angles, -np.linspace(0, 2 * np.pi, 3600, endpoint=False) + np.pi, atol=1e-12
    )
    few = FanBeamGeometry.two_detect(views=60, detector_count=478, image_size=256)
    assert few.pixel_size * 256 == pytest.approx(two.pixel_size * 1024)
    assert few.detector_pixel * 478 == pytest.approx(two.detector_pixel * 956)
    np.testing.assert_allclose(few.angles, two.angles[::60], atol=1e-12)
    assert FanBeamGeometry.htc2022([0.27, 0.28]).angles == (0.27, 0.28)


def otsu(image, bins=512):
    """Threshold that maximises the variance between the two classes."""
    counts, edges = np.histogram(image, bins)
    levels = (edges[1:] + edges[:-1]) / 2
    below, moment = np.cumsum(counts)[:-1], np.cumsum(counts * levels)[:-1]
    share, mean = below / counts.sum(), (counts * levels).sum() / counts.sum()
    between = (mean * share - moment / counts.sum()) ** 2 / (share * (1 - share))
    return levels[np.argmax(between)]


@pytest.mark.filterwarnings("ignore::dro_torch.tomography.CoverageWarning")
def test_fbp_of_measured_data_matches_the_mask():
    """HTC2022 phantom tb, 549 measured views with gaps; Otsu's threshold, no fitting."""
    file, manifest = DATA / "htc2022_real_sinograms.npz", DATA / "manifest.json"
    if not file.is_file() or not manifest.is_file():
        pytest.skip(f"no measured sinograms in {DATA}; set DRO_DATA to the data root")
    with np.load(file, allow_pickle=False) as arrays:
        sinogram, angles = arrays["tb_sinogram"], arrays["tb_angles_deg"]
        mask, stored = arrays["tb_gt"] > 0, json.loads(str(arrays["geometry_json"]))
    entry = next(e for e in json.loads(manifest.read_text())["entries"] if e["file"] == file.name)
    assert entry["shape"]["tb_sinogram"] == list(sinogram.shape)
    geometry = FanBeamGeometry.htc2022(np.deg2rad(angles))
    assert geometry.source_origin == stored["distance_source_origin_mm"]
    assert geometry.source_detector == stored["distance_source_detector_mm"]
    assert geometry.detector_pixel == stored["detector_pixel_mm"]
    assert geometry.detector_count == stored["n_det"]
    assert geometry.pixel_size == pytest.approx(stored["effective_pixel_mm"])
    image = fan_beam_fbp(torch.from_numpy(sinogram)[None], geometry)[0].numpy()
    found = image > otsu(image)
    assert (found & mask).sum() / (found | mask).sum() >= 0.97


def test_a_measured_scan_brings_its_geometry():
    """Nothing to flip, to turn or to convert: the loaded scan reconstructs to its mask."""
    if not (DATA / "htc2022_real_sinograms.npz").is_file():
        pytest.skip(f"no measured sinograms in {DATA}; set DRO_DATA to the data root")
    loaded = data.htc2022("tb", DATA)
    geometry = FanBeamGeometry.from_scan(loaded, image_size=256)
    assert geometry == FanBeamGeometry.htc2022(loaded.angles.numpy(), image_size=256)
    with pytest.warns(CoverageWarning, match="10.2% of the rays through the image"):
        image = fan_beam_fbp(loaded.sinogram[None], geometry)[0].numpy()
    mask = loaded.mask.double()[None, None]
    mask = torch.nn.functional.avg_pool2d(mask, 2)[0, 0].numpy()
    assert np.corrcoef(image.ravel(), mask.ravel())[0, 1] > 0.94
    found, there = image > otsu(image), mask > 0.5
    assert (found & there).sum() / (found | there).sum() >= 0.95
    disc = data.htc2022("solid_disc", DATA)
    with pytest.warns(CoverageWarning, match="measured from neither side"):
        short = fan_beam_fbp(disc.sinogram[None], FanBeamGeometry.from_scan(disc))[0]
    assert np.corrcoef(short.ravel(), disc.reference.ravel())[0, 1] > 0.3


# --- scans of every kind ----------------------------------------------------------------------


def complete_scans():
    """View angles by kind; each sees all rays through the image."""
    rng = np.random.default_rng(0)
    turn = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    return {
        "full": turn,
        "closed": np.linspace(0, 2 * np.pi, 181),
        "two turns": np.linspace(0, 4 * np.pi, 361),
        "three turns and a bit": np.linspace(-1, 6 * np.pi - 0.5, 541),
        "unsorted": rng.permutation(turn),
        "jittered": turn + 0.4 * (turn[1] - turn[0]) * rng.uniform(-1, 1, 180),
        "retaken": np.append(turn, turn[20:40]),
        "retaken nearly": np.append(turn, turn[20:40] + 1e-4),
        "three times, nearly": np.repeat(turn, 3) + 1e-6 * rng.standard_normal(540),
        "backwards": -turn,
        "twenty clusters": (np.arange(20)[:, None] * np.pi / 10 + np.arange(6) * 0.0035).ravel(),
        "clusters": (np.arange(36)[:, None] * np.pi / 18 + np.arange(6) * 0.004).ravel(),
        "half a turn and the fan": np.linspace(0.3, 0.3 + np.pi + 1.0, 130),
        "300 degrees": np.linspace(0, np.deg2rad(300), 150),
        "a hole": np.delete(turn, np.s_[30:45]),
    }


VIEWS = complete_scans()


@pytest.mark.parametrize("kind", VIEWS)
def test_every_measured_ray_has_the_weight_pi(kind):
    """And so the filtered back-projection of a disk keeps its scale."""
    geometry = dataclasses.replace(scan(64, 4, cells=97), angles=VIEWS[kind])
    weights = scan_weights(geometry)
    assert (weights >= 0).all()
    total = weights.sum(0)
    both = (total + total[::-1]) / 2
    np.testing.assert_allclose(both[10:-10], np.pi, rtol=0.03)
    centre = (np.arange(64) - 31.5) * geometry.pixel_size
    radius = np.hypot(centre[:, None], centre[None, :])
    disk = np.clip(20 * geometry.pixel_size - radius, 0, geometry.pixel_size)
    disk = torch.from_numpy(disk / geometry.pixel_size)
    projector = FanBeamProjector(geometry, dtype=torch.float64)
    image = projector.fbp(projector.A(disk[None]))[0]
    inside = torch.from_numpy(radius < 15 * geometry.pixel_size)
    assert float(image[inside].mean()) == pytest.approx(
        1.0, abs=0.03 if kind == "clusters" else 0.015
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 60),
    turns=st.integers(-3, 3),
    spread=st.floats(0.1, 6.2),
)
@settings(max_examples=30)
@pytest.mark.filterwarnings("ignore::dro_torch.tomography.CoverageWarning")
def test_weights_do_not_see_order_turns_or_repetition(seed, views, turns, spread):
    """Permuted views, views of another turn, and a view taken twice: the same image."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, spread, views)
    geometry = dataclasses.replace(scan(16, 4, cells=25), angles=angles)
    sinogram = torch.from_numpy(rng.standard_normal((1, views, 25)))
    image = fan_beam_fbp(sinogram, geometry)
    assert image.isfinite().all()
    order = np.append(rng.permutation(views), rng.integers(views))
    again = angles[order] + 2 * np.pi * turns * rng.integers(0, 2, views + 1)
    other = fan_beam_fbp(sinogram[:, order], dataclasses.replace(geometry, angles=again))
    torch.testing.assert_close(other, image, rtol=1e-6, atol=1e-6 * float(image.abs().max()))


def test_angles_that_were_converted_twice_are_suspected():
    geometry = dataclasses.replace(scan(16, 4, cells=25), angles=np.deg2rad(VIEWS["full"]))
    with pytest.warns(CoverageWarning, match="span only 0.109 radians: converted from degrees twi"):
        scan_weights(geometry)
    turns = 2.399963 * np.arange(40)  # golden angles: of fifteen turns, and legal
    scan_weights(dataclasses.replace(geometry, angles=turns))


@pytest.mark.parametrize("views", [[0.3], [0.3, 0.3], [0.0, 2 * np.pi], [1.0, 1.0 + 1e-4]])
@pytest.mark.filterwarnings("ignore::dro_torch.tomography.CoverageWarning")
def test_weights_of_very_few_views(views):
    weights = scan_weights(dataclasses.replace(scan(16, 4, cells=25), angles=views))
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    ("angles", "warns"),
    [
        (np.linspace(0, 1.5, 90), True),
        (np.linspace(0, np.pi, 180), True),
        (np.arange(4)[:, None] * np.pi / 2 + np.arange(20) * 0.01, True),
        (np.linspace(0, 2 * np.pi, 12, endpoint=False), False),
        (np.linspace(0, np.pi + 1.0, 180), False),
    ],
)
def test_short_coverage_is_said(angles, warns):
    geometry = dataclasses.replace(scan(16, 4, cells=25), angles=np.ravel(angles))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        scan_weights(geometry)
    assert [w.category for w in seen] == [CoverageWarning] * warns


def test_projection_times_are_those_of_the_bare_product():
    config = torch_projector.Config(side=32, views=20, runs=3, scans=20)
    checks = torch_projector.rows(config)
    assert len(checks) == 4
    assert all(math.isfinite(check.value) for check in checks)


# --- bad input --------------------------------------------------------------------------------

SMALL = scan(8, views=4, cells=9)
GOOD = {field.name: getattr(SMALL, field.name) for field in dataclasses.fields(SMALL)}
PROJECTOR = FanBeamProjector(SMALL)
SINOGRAM = torch.zeros(1, 4, 9)
SCAN = data.FanBeamScan(SINOGRAM[0], torch.arange(4.0), 100.0, 150.0, 1.0, 8, 1.0)
HUGE = FanBeamGeometry.two_detect(views=3600, image_size=1024)
ROWS = [
    (
        FanBeamGeometry,
        GOOD,
        [
            ({"source_origin": 0.0}, ValueError, "source_origin: 0.0; allowed: a length > 0"),
            ({"source_origin": 5.0}, ValueError, "source_origin: 5, .* the source must be outside"),
            ({"source_detector": NAN}, ValueError, "source_detector: nan"),
            ({"detector_pixel": -1.0}, ValueError, "detector_pixel: -1.0"),
            ({"detector_count": 0}, ValueError, "detector_count: 0"),
            ({"image_size": 8.0}, TypeError, "image_size: 8.0"),
            ({"angles": []}, ValueError, "angles: shape"),
            ({"angles": 1.0}, ValueError, "angles: shape"),
            ({"angles": [NAN]}, ValueError, "angles: .*NaN"),
            ({"angles": np.arange(0, 360.0)}, ValueError, "angles: from 0 to 359, .*degrees"),
            ({"angles": 2.4 * np.arange(60)}, ValueError, r"degrees\? .*if not: numpy.mod\(angles"),
            ({"angles": np.arange(0, 30, 0.5)}, ValueError, "angles: from 0 to 29.5, .*degrees"),
            ({"detector_offset": "0"}, TypeError, "detector_offset: '0'"),
            ({"centre_offset": NAN}, ValueError, "centre_offset: nan"),
            ({"detector": "flatt"}, ValueError, "detector: unknown value 'flatt' .did you mean"),
        ],
    ),
    (
        FanBeamGeometry.two_detect,
        {"views": 10},
        [
            ({"views": 0}, ValueError, "views: 0 is below 1"),
            ({"detector_count": 0}, ValueError, "detector_count: 0"),
            ({"image_size": 1.5}, TypeError, "image_size: 1.5"),
        ],
    ),
    (
        FanBeamGeometry.from_scan,
        {"scan": SCAN},
        [
            ({"scan": SMALL}, TypeError, "scan: a FanBeamScan is needed, given FanBeamGeometry"),
            (
                {"scan": dataclasses.replace(SCAN, sinogram=SCAN.sinogram.T)},
                ValueError,
                r"scan: sinogram of shape \(9, 4\), but 4 angles; .*axes swapped\? "
                r"scan.sinogram.mT",
            ),
            (
                {"scan": dataclasses.replace(SCAN, sinogram=SINOGRAM)},
                ValueError,
                r"scan: sinogram of shape \(1, 4, 9\), but 4 angles; needed: "
                r"\(views, detector cells\)",
            ),
            (
                {"scan": dataclasses.replace(SCAN, angles=torch.arange(0, 360, 90.5))},
                ValueError,
                "angles: from 0 to 271.5.*degrees",
            ),
            ({"image_size": 0}, ValueError, "image_size: 0"),
        ],
    ),
    (
        FanBeamGeometry.htc2022,
        {"angles": [1.0]},
        [
            ({"angles": [NAN]}, ValueError, "angles: .*NaN"),
            ({"angles": np.arange(27, 87, 0.5)}, ValueError, "angles: .*degrees"),
            ({"angles": np.linspace(27, 34, 99)}, ValueError, "angles: from 27 to 34, .*degrees"),
            ({"angles": np.arange(27, 34, 1.7)}, ValueError, "angles: from 27 to 33.8, .*degrees"),
            ({"image_size": 0}, ValueError, "image_size: 0"),
        ],
    ),
    (
        fan_beam_matrix,
        {"geometry": SMALL},
        [
            ({"geometry": 3}, TypeError, "geometry: 3 is not a FanBeamGeometry"),
            ({"geometry": FanBeamGeometry.two_detect()}, ValueError, "geometry: about .* entries"),
        ],
    ),
    (
        FanBeamProjector,
        {"geometry": SMALL},
        [
            ({"geometry": None}, TypeError, "geometry: None"),
            ({"dtype": torch.int32}, TypeError, "dtype: torch.int32; allowed"),
        ],
    ),
    (
        PROJECTOR.A,
        {"x": torch.zeros(1, 8, 8)},
        [
            (
                {"x": torch.zeros(8, 8)},
                ValueError,
                r"x: shape \(8, 8\); needed: images.*: x\[None\]",
            ),
            ({"x": torch.zeros(1, 8, 9)}, ValueError, r"x: shape \(1, 8, 9\); needed: images"),
            ({"x": torch.zeros(1, 8, 8).double()}, ValueError, "x: computed in torch.float64"),
            ({"x": torch.full((1, 8, 8), NAN)}, ValueError, "x: 64 entries are NaN"),
            ({"x": torch.zeros(1, 8)}, ValueError, r"x: shape \(1, 8\); needed: images"),
        ],
    ),
    (
        PROJECTOR.A_adjoint,
        {"y": SINOGRAM},
        [
            ({"y": torch.zeros(9, 4)}, ValueError, r"y: shape \(9, 4\); .*swapped\? y.mT\[None\]"),
            ({"y": torch.zeros(1, 9, 4)}, ValueError, r"y: shape \(1, 9, 4\); .*swapped\? y.mT"),
        ],
    ),
    (
        fan_beam_fbp,
        {"sinogram": SINOGRAM, "geometry": SMALL},
        [
            ({"sinogram": SINOGRAM[0]}, ValueError, r"sinogram: .*sinograms.*: sinogram\[None\]"),
            ({"sinogram": SINOGRAM.numpy()}, TypeError, "sinogram: ndarray is not"),
            ({"sinogram": SINOGRAM + NAN}, ValueError, "sinogram: 36 entries are NaN"),
            ({"geometry": None}, TypeError, "geometry: None"),
            ({"filter": "ram-lak"}, ValueError, "filter: unknown value 'ram-lak'"),
        ],
    ),
    (
        FanBeamFBP,
        {"geometry": SMALL},
        [
            ({"geometry": None}, TypeError, "geometry: None"),
            ({"filter": "ram-lak"}, ValueError, "filter: unknown value 'ram-lak'"),
            ({"dtype": torch.float16}, TypeError, "dtype: torch.float16; allowed"),
            ({"geometry": HUGE}, ValueError, "geometry: 7.5e.09 entries of the back-projection"),
        ],
    ),
    (
        FanBeamFBP(SMALL),
        {"sinogram": SINOGRAM},
        [
            ({"sinogram": SINOGRAM[0]}, ValueError, r"sinogram: .*sinograms.*: sinogram\[None\]"),
            ({"sinogram": SINOGRAM.double()}, ValueError, "sinogram: computed in torch.float64"),
            ({"sinogram": SINOGRAM + NAN}, ValueError, "sinogram: 36 entries are NaN"),
        ],
    ),
    (scan_weights, {"geometry": SMALL}, [({"geometry": 1}, TypeError, "geometry: 1")]),
]


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (function, {**good, **changes}, error, message)
        for function, good, rows in ROWS
        for changes, error, message in rows
    ],
)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**arguments)


def test_the_same_arguments_without_the_fault_are_accepted():
    for function, good, _ in ROWS:
        assert function(**good) is not None
