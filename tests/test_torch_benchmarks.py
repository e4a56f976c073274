"""The benchmarks of dro_torch, small: what they count and measure, their files, their refusals."""

import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import validation.__main__ as command_line  # noqa: E402
from dro_core import dual_value  # noqa: E402
from dro_torch.losses.entropic import EntropicDROLoss  # noqa: E402
from dro_torch.nets import LinearMap  # noqa: E402
from validation.benchmarks import (  # noqa: E402
    torch_cuda,
    torch_estimators,
    torch_losses,
    torch_multiplier,
    torch_suite,
)
from validation.results import at_most  # noqa: E402

SMALL = torch_suite.Config(
    width=2,
    batch=2,
    draws=2,
    runs=1,
    rows=64,
    calls=3,
    images=1,
    replicates=2,
    train_steps=2,
    train_images=70,
    network_images=2,
    seeds=2,
    budget=12,
    reference=300,
    steps=40,
)
SMALL_CUDA = torch_cuda.Config(
    device="cpu",
    sides="8",
    batch=2,
    draws=2,
    width=4,
    depth=1,
    matrix=16,
    copy=1000,
    runs=1,
    compiled=False,
    projector=12,
    views=8,
)


def small(**changes):
    return dataclasses.replace(SMALL, **changes)


@pytest.fixture(autouse=True)
def without_data(monkeypatch):
    monkeypatch.delenv("DRO_DATA", raising=False)


# -- the suite


def apart(job, allocator, arguments):
    """In this process, for the test takes seconds."""
    function = {"times": torch_losses.step_times, "peak": torch_losses.step_peak}[job]
    assert set(torch_losses.ALLOCATORS[allocator]) <= {
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
    }
    return function(**arguments)


@pytest.mark.slow
def test_jobs_run_in_processes_of_their_own():
    sizes = {"draws": 8, "batch": 32, "width": 8}
    rows = torch_losses.apart("times", "keeps freed pages", sizes | {"runs": 9})
    assert [row["step"] for row in rows] == ["unchunked", "chunked"]
    peaks = [
        torch_losses.apart("peak", "returns freed pages", sizes | {"draws": k, "chunk": 4})
        for k in (8, 64)
    ]
    assert peaks[1] < 1.1 * peaks[0]
    with pytest.raises(ChildProcessError, match="peak:"):
        torch_losses.apart("peak", "as it comes", {})


def test_every_part_runs_and_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_suite, "neighbour_rows", lambda name: [at_most(name, 0.5, 1.0)])
    monkeypatch.setattr(torch_losses, "apart", apart)
    monkeypatch.setattr(torch_estimators, "EPSILONS", (0.08,))
    monkeypatch.setattr(torch_estimators, "FACTORS", (4.0, 1.5))
    monkeypatch.setattr(torch_estimators, "LINEAR_FACTORS", (4.0,))
    monkeypatch.setattr(torch_multiplier, "RATES", {"adam": (0.1,), "mirror-descent": (0.3,)})
    torch.set_num_threads(1)
    checks = torch_suite.run(SMALL, tmp_path)
    written = json.loads((tmp_path / "torch.json").read_text())
    assert len(written["checks"]) == len(checks) == len(written["holds"])
    assert written["versions"]["torch"] == torch.__version__
    claims = " ".join(check.claim for check in checks)
    for part in (
        "unchunked",
        "exact dual",
        "bias · K",
        "RT-MLMC",
        "full rank",
        "UNet, tilted",
        "λ* / σ²",
        "bisection, adam, tuned",
        "projector",
        "data",
    ):
        assert part in claims
    for name in ("step", "bias", "deblurring", "network", "linear_step", "multiplier"):
        with (tmp_path / f"{name}.csv").open() as file:
            assert list(csv.DictReader(file)), name
    for name in ("deblurring", "network"):
        assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    exact = next(check for check in checks if "full rank" in check.claim)
    assert exact.holds
    assert torch.get_num_threads() == 1


def test_parts_are_chosen_in_any_number(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_suite, "neighbour_rows", lambda name: [at_most(name, 0.5, 1.0)])
    checks = torch_suite.run(small(parts="projector, data"), tmp_path)
    assert [check.claim for check in checks] == ["projector", "data"]


def test_neighbours_bring_their_own_settings():
    from validation.benchmarks import torch_projector

    few = torch_projector.Config(side=8, views=4, batch=2, runs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_projector, "Config", lambda: few)
        assert len(torch_suite.neighbour_rows("projector")) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch", "--set", "parts=step,speed"], "--set parts: speed; allowed: all, step"),
        (["torch", "--set", "budget=0"], "--set budget: 0 is below 1"),
        (["torch", "--set", "seed=-1"], "--set seed: -1; allowed: an integer >= 0"),
        (["cuda", "--set", "device=tpu"], "--set device: 'tpu'; allowed: cuda, cuda:N, cpu"),
        (["cuda", "--set", "sides=28;128"], "--set sides: '28;128'; allowed: integers >= 1"),
        (["cuda", "--set", "sides=0"], "--set sides: '0'; allowed"),
        (["cuda", "--set", "draws=0"], "--set draws: 0 is below 1"),
    ],
)
def test_misuse_is_explained(arguments, message, capsys):
    assert command_line.main(["benchmarks", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_torch_the_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    for name in ("torch", "cuda"):
        assert command_line.main(["benchmarks", name, "--out", str(tmp_path)]) == 2
        assert "torch is not installed" in capsys.readouterr().err


# -- the CUDA rows, on the CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_command_says_so(tmp_path, capsys):
    assert command_line.main(["benchmarks", "cuda", "--out", str(tmp_path)]) == 2
    assert "benchmarks cuda: needs a CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_cuda_rows_run_on_the_cpu(tmp_path):
    checks = torch_cuda.run(SMALL_CUDA, tmp_path)
    same = [check for check in checks if "CPU" in check.claim]
    assert len(checks) == 4
    assert [check.value for check in same] == [0.0, 0.0, 0.0]
    written = json.loads((tmp_path / "cuda.json").read_text())
    assert len(written["steps"]) == 1
    assert len(written["losses"]) == 20
    assert written["steps"][0]["floor"] > 0


def test_a_different_loss_on_the_device_is_seen(monkeypatch):
    evaluated = torch_cuda.evaluated
    monkeypatch.setattr(
        torch_cuda,
        "evaluated",
        lambda device, dtype: {
            name: value * (1 + 1e-2 * (name == "bound") * next(calls))
            for name, value in evaluated(device, dtype).items()
        },
    )
    calls = iter(range(100))
    checks, rows = torch_cuda.loss_checks(SMALL_CUDA, torch.device("cpu"))
    assert not any(check.holds for check in checks)
    assert {row["loss"] for row in rows if row["relative difference"] > 0} == {"bound"}


def test_the_floor_counts_the_work_of_a_convolution():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1, bias=False))
    x, y = torch.zeros(5, 3, 8, 8), torch.zeros(5, 1, 8, 8)
    flops, traffic = torch_cuda.work(network, x, y)
    forward = 2 * 5 * 64 * 3 * 9
    assert flops == pytest.approx(2 * forward)  # forward, and the gradient of the weights
    assert traffic == 2 * 3 * (5 * 64 * 1 + 5 * 64 * 3)


# -- estimators


def affine_batch():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 5, generator=generator)
    x, y = torch.randn(2, 3, 5, generator=generator)
    return LinearMap(matrix.numpy()).requires_grad_(False), x, y


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
@pytest.mark.parametrize("sampler", torch_estimators.VARIANTS, ids=lambda s: s.name)
def test_every_estimator_spends_the_budget(sampler):
    _, x, y = affine_batch()
    generator = torch.Generator().manual_seed(1)
    y, x = (torch.randn(3, 20, generator=generator) for _ in range(2))
    model = LinearMap(torch.randn(20, 20, generator=generator).numpy()).requires_grad_(False)
    _, passes = torch_estimators.values(sampler, 0.1, 64, model, x, y, 500.0, (0,))
    assert passes == 64


def test_names_tell_the_estimators_apart():
    names = [sampler.name for sampler in torch_estimators.VARIANTS]
    assert len(set(names)) == len(names)


def test_a_long_run_has_the_exact_value_and_an_honest_error():
    model, x, y = affine_batch()
    multiplier = 6 * float(np.linalg.norm(model.matrix(), 2) ** 2)
    exact = dual_value(model.matrix(), x.numpy(), y.numpy(), multiplier, 0.0, epsilon=0.4)
    run = torch_estimators.LongRun.of(model, x, y, 0.4, 25600)
    assert run.losses.shape == (3, 25600)
    value, error = run.objective(multiplier)
    assert abs(value - exact) < 4 * error
    assert error < 0.01 * exact
    tilted, its_error = torch_estimators.tilted_run(model, x, y, 0.4, multiplier, 4096)
    assert abs(tilted - exact) < 4 * its_error < 0.03 * exact
    # the error of parts of it scatters as it is said to
    parts = run.losses.reshape(3, 50, 512).unbind(1)
    values, errors = zip(
        *(torch_estimators.LongRun(part, 0.4).objective(multiplier) for part in parts), strict=True
    )
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.35)


def test_the_error_of_a_long_run_vanishes_with_the_spread_of_its_weights():
    model, x, y = affine_batch()
    run = torch_estimators.LongRun.of(model, x, y, 0.4, 512)
    far = 1e6 * float(np.linalg.norm(model.matrix(), 2) ** 2)
    scatter = float(run.losses.var(1).sum().sqrt()) / 3 / math.sqrt(512)
    assert run.objective(far)[1] == pytest.approx(scatter, rel=0.02)
    _, error = torch_estimators.tilted_run(model.double(), x.double(), y.double(), 0.4, far, 512)
    assert 0.3 * scatter < error < 0.9 * scatter  # the tilt takes the linear part away


def test_the_reference_is_not_the_run_that_missed_the_tail():
    chosen = torch_estimators.chosen_run
    assert chosen({"plain": (5.55, 0.03), "tilted": (5.52, 0.002)}) == "tilted"
    assert chosen({"plain": (6.15, 0.015), "tilted": (6.99, 0.016)}) == "tilted"
    assert chosen({"plain": (6.99, 0.016), "tilted": (6.15, 0.015)}) == "plain"
    assert chosen({"plain": (32.42, 0.02), "tilted": (32.43, 0.03)}) == "plain"


def test_the_largest_slope_of_an_affine_map_is_its_norm():
    model, x, y = affine_batch()
    slope = torch_estimators.largest_slope(model, x, y)
    assert slope == pytest.approx(np.linalg.norm(model.matrix(), 2), rel=1e-4)


def test_ratios_and_claims_of_the_network_rows(capsys):
    rows = [
        {
            "epsilon": 0.1,
            "multiplier / slope²": factor,
            "estimator": name,
            "passes": 64,
            "reference": 1.0,
            "from": "plain",
            "reference error": 0.01,
            "bias": 0.0,
            "rms": rms,
        }
        for factor, plain, mixed in ((4.0, 0.1, 0.05), (1.1, 0.2, 0.3))
        for name, rms in (("SG", plain), (torch_estimators.tilted(0).name, mixed))
    ]
    rows += [{**row, "passes": 11, "rms": 0.1} for row in rows]
    torch_estimators.add_ratios(rows)
    assert [row["rms / SG"] for row in rows] == pytest.approx([1, 0.5, 1, 1.5] + 4 * [1])
    defensive, few, reference = torch_estimators.report_network(rows)
    assert defensive.value == pytest.approx(1.5)
    assert not defensive.holds
    assert few.value == pytest.approx(1.0)
    assert reference.value == pytest.approx(0.1)
    assert "SG beaten: ε = 0.1, λ / slope² = 4" in capsys.readouterr().out


# -- losses


def test_the_small_problem_knows_its_dual():
    problem = torch_losses.LinearProblem.drawn(0)
    assert problem.threshold == pytest.approx(4.0)
    exact = problem.exact(16.0)
    assert exact[0] == pytest.approx(
        dual_value(problem.matrix, problem.x, problem.y, 16.0, 0.0, epsilon=problem.epsilon)
    )
    rows = problem.estimates("sg", 16.0, 256, 400, 6)
    assert rows.shape == (6, 1 + problem.matrix.size)
    mean = torch_losses.Mean.of(rows)
    value, gradient = mean.distance(exact)
    assert value < 4
    assert gradient < 3
    assert max(mean.distance(1.5 * exact)) > 20


def test_standard_errors_are_those_of_the_mean():
    rows = np.random.default_rng(0).standard_normal((400, 3)) * [1.0, 2.0, 3.0] + 10.0
    mean = torch_losses.Mean.of(rows)
    assert mean.error == pytest.approx([0.05, 0.1, 0.15], rel=0.1)
    assert mean.relative_error()[0] == pytest.approx(0.005, rel=0.1)
    assert mean.distance(mean.value + 3 * mean.error) == pytest.approx((3.0, 3.0))
    # two independent estimates: the errors add in squares
    assert mean.distance(mean.value + 3 * mean.error, mean.error)[0] == pytest.approx(3 / 2**0.5)


def test_the_linear_problem_of_dro():
    problem = torch_losses.Regression.drawn(0, 10)
    far = dataclasses.replace(problem, slope=1e3 * problem.slope, epsilon=1e-9)
    mean = float(np.mean((far.x[:, 0] - far.y @ far.slope) ** 2))
    assert mean < far.exact < 1.4 * mean  # at four times the threshold: at most 4 / 3
    assert abs(problem.bias(20)) < 0.15
    assert torch_losses.least_seconds(problem.step(), 2) > 0


@pytest.mark.skipif(
    not __import__("pathlib").Path("/proc/self/clear_refs").exists(),
    reason="peak memory is reset through /proc",
)
def test_peak_memory_is_of_the_step():
    """In a process of its own: here earlier tests have left memory to use again."""
    settings = {"draws": 8, "chunk": 4, "batch": 8, "width": 4}
    done = subprocess.run(
        [sys.executable, "-m", "validation.benchmarks.torch_losses", "peak", json.dumps(settings)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert int(done.stdout) > 2**16


# -- the multiplier


@pytest.fixture(scope="module")
def regression():
    return torch_multiplier.RobustRegression.drawn(0)


def test_the_problem_of_the_multiplier_rows(regression):
    best = regression.best
    assert best.multiplier >= 4 * np.linalg.norm(best.matrix, 2) ** 2
    assert regression.excess(LinearMap(best.matrix, dtype=torch.float64)) < 1e-9
    assert regression.excess(regression.start()) > 0.5
    assert math.isinf(regression.excess(LinearMap(1e9 * best.matrix)))
    assert 0 < regression.width() < 3 * best.multiplier


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
def test_joint_learning_and_bisection_are_counted(regression):
    lengths = [1, 40, 50, 65]
    steps = torch_multiplier.learned(regression, regression.best.multiplier, 0.1, lengths)
    assert steps in (40, 50, 65)
    assert math.isinf(torch_multiplier.learned(regression, 1.0, 0.1, [1, 2]))
    excess, evaluations = torch_multiplier.bisected(regression, "adam", 0.1, 2)
    assert evaluations % 2 == 0
    assert evaluations >= 2 * 8
    assert excess > torch_multiplier.TOLERANCE
    assert math.isinf(torch_multiplier.bisected(regression, "mirror-descent", 1e6, 5)[0])


def test_the_loss_of_the_rows_has_a_lazy_diagnosis():
    """What a step does not pay for is there when asked."""
    loss = EntropicDROLoss(1.0, samples=4)
    assert loss.diagnostics == {}
    model, x, y = affine_batch()
    loss(model, x, y, 1e9, seed=0)
    assert float(loss.diagnostics["effective_sample_share"]) == pytest.approx(1.0, rel=1e-4)
    assert float(loss.diagnostics["effective_sample_size"]) == pytest.approx(4.0, rel=1e-4)
