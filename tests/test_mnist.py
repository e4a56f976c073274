"""The MNIST experiments at the smoke preset: every output is there and says what it should."""

import csv
import dataclasses
import gzip
import json
import math
import os
import struct
import sys
import time
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from validation import __main__ as command_line
from validation import claims as claims_page
from validation import evidence, plan, trainings
from validation.benchmarks import torch_steps
from validation.errors import UsageError
from validation.experiment import Claim, over_seeds
from validation.mnist import arms as training
from validation.mnist import (
    classical,
    deblurring,
    measure,
    misspecified,
    onset,
    settings,
    study,
    tasks,
    tuning,
)
from validation.mnist.arms import Arm
from validation.mnist.losses import JacobianPenalty
from validation.mnist.settings import Config

ROOT = Path(__file__).parent.parent
REAL = Path(os.environ.get("DRO_DATA", ROOT.parent / "shared" / "data"))


def idx_files(images, labels):
    """Contents of an IDX file of images, and of one of labels."""
    head = struct.pack(">IIII", 0x803, len(images), 28, 28)
    return head + images.tobytes(), struct.pack(">II", 0x801, len(labels)) + labels.tobytes()


def write_digits(folder, count, seed):
    """IDX files with blurry random strokes, written byte by byte."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 28, 28))
    for image in images:
        x, y = rng.integers(6, 16, 2)
        image[y : y + 3, x : x + rng.integers(4, 10)] = 1
        image[y : y + rng.integers(4, 10), x : x + 3] = 1
    return (255 * images).astype(np.uint8), rng.integers(0, 10, count).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    for stem, count, seed in (("train", 120, 0), ("t10k", 40, 1)):
        images, labels = idx_files(*write_digits(folder, count, seed))
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Arms that the experiments share."""
    return tmp_path_factory.mktemp("models")


def run(name, root, out, *extra):
    arguments = ["mnist", name, "--data", str(root), "--out", str(out), *extra]
    return command_line.main(arguments)


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "arms", "tables", "figures", "claims"),
    [
        (
            "deblurring",
            ["DRO", "MSE", "MSE matched"],
            ["gaussian", "poisson", "attacks"],
            ["gaussian", "poisson", "attacks", "examples"],
            8,
        ),
        (
            "misspecified",
            ["DRO", "MSE", "MSE matched"],
            ["anisotropic", "motion", "isotropic_wider", "isotropic_narrower"],
            ["motion"],
            12,
        ),
        (
            "joint",
            ["joint DRO", "DRO", "MSE", "MSE matched"],
            ["gaussian", "attacks"],
            ["joint", "attacks"],
            3,
        ),
        (
            "radii",
            ["small radius", "large radius", "MSE", "MSE matched to large"],
            ["gaussian", "attacks"],
            ["radii", "examples"],
            6,
        ),
        (
            "onset",
            [*(f"MSE {s:g}" for s in onset.NOISES), *(f"DRO {s:g}" for s in onset.OWN)],
            ["gaussian", "attacks"],
            ["onset"],
            29,
        ),
        (
            "simulator",
            ["DRO", "MSE", "MSE matched"],
            ["gaussian", "attacks"],
            ["simulator", "examples"],
            4,
        ),
    ],
)
def test_every_experiment_writes_what_it_promises(
    name, arms, tables, figures, claims, root, models, tmp_path, capsys
):
    code = run(name, root, tmp_path, "--preset", "smoke", "--set", f"models={models}")
    assert code == 0
    printed = capsys.readouterr().out
    assert "for information, no targets" in printed
    assert [row["arm"] for row in rows(tmp_path / "training.csv")] == arms
    for table in tables:
        found = rows(tmp_path / f"{table}.csv")
        assert {row["arm"] for row in found} >= set(arms)
        for row in found:
            key = "attack_rmse" if "attack_rmse" in row else "rmse"
            exact = row["arm"] == "naive" and float(row["level"]) == 0
            number = float(row[key])
            assert number == 0 if exact else 0 < number < 10
    if name == "deblurring":
        for row in rows(tmp_path / "attacks.csv"):
            clean, attacked = float(row["clean_rmse"]), float(row["attack_rmse"])
            assert clean < attacked < float(row["certified_rmse"])
        for row in rows(tmp_path / "focus.csv"):
            assert 0 < float(row["focus"]) < 1
            assert 0 < float(row["strokes"]) < 0.3
    if name == "simulator":
        assert "naive" in {row["arm"] for row in rows(tmp_path / "gaussian.csv")}
    for figure in figures:
        assert (tmp_path / f"{figure}.svg").stat().st_size > 1000
        assert (tmp_path / f"{figure}.png").exists()
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(written["claims"]) == claims
    told = tomllib.loads((ROOT / "docs" / "results" / claims_page.TABLE).read_text())["claim"]
    wanted = {e["check"] for e in told if e.get("result") == f"desk/{name}/{name}.json"}
    assert wanted <= {claim["claim"] for claim in written["claims"]}
    assert wanted
    assert written["config"]["preset"] == "smoke"
    assert written["config"]["data"] == ""
    assert written["device"] == "CPU"
    assert str(root) not in (tmp_path / f"{name}.json").read_text()


def test_another_set_of_images_by_its_root(root, models, tmp_path):
    """Nothing but the pixels differs: files of Fashion-MNIST's kind, not zipped, in the root."""
    other = tmp_path / "clothes"
    other.mkdir()
    for stem, count, seed in (("train", 120, 2), ("t10k", 40, 3)):
        digits, labels = write_digits(other, count, seed)
        images, labels = idx_files(255 - digits, labels)
        (other / f"{stem}-images-idx3-ubyte").write_bytes(images)
        (other / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    assert run("deblurring", other, tmp_path, "--preset", "smoke", "--set", f"models={models}") == 0
    found = json.loads((tmp_path / "deblurring.json").read_text())
    shown = tasks.fingerprint(tasks.MNIST.splits(Config(preset="smoke", data=str(root))).test)
    assert found["test_images_crc32"] == zlib.crc32((255 - digits)[:24].tobytes()) != shown
    assert found["config"]["data"] == ""


def test_a_run_that_was_stopped_goes_on(root, tmp_path, monkeypatch):
    """The arms that are trained are read, and the numbers are those of a run in one piece."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert run("deblurring", root, whole, "--preset", "smoke") == 0
    trained = []
    original = training.fit_arm

    def stop_after_one(config, task, arm, learn, out):
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(arm.name)
        return original(config, task, arm, learn, out)

    with monkeypatch.context() as patch:
        patch.setattr(study, "fit_arm", stop_after_one)
        assert run("deblurring", root, pieces, "--preset", "smoke") == 130
    before = next((pieces / "arms").glob("*DRO*")) / "checkpoint.pt"
    stamp = before.read_bytes()
    assert run("deblurring", root, pieces, "--preset", "smoke") == 0
    assert before.read_bytes() == stamp
    assert (pieces / "gaussian.csv").read_text() == (whole / "gaussian.csv").read_text()


@pytest.mark.filterwarnings("ignore::dro_torch.losses.entropic.EstimatorWarning")
def test_the_linear_network_is_judged_by_the_oracle(root, tmp_path, capsys):
    code = run(
        "linear",
        root,
        tmp_path,
        "--set",
        "block=7",
        "--set",
        "images=60",
        "--set",
        "steps=400",
        "--set",
        "rate=0.01",
        "--set",
        "radius=0.02",
        "--set",
        "epsilon=1e-4",
    )
    assert "exact for that map" in capsys.readouterr().out
    written = json.loads((tmp_path / "linear.json").read_text())
    assert code == 0
    assert 1 - 1e-6 <= written["trained"] / written["optimum"] <= 1.02


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--preset", "quik"], "--set preset: unknown value 'quik' (did you mean 'quick'?)"),
        (["--data", "/no/such/folder"], "/no/such/folder is not a folder"),
        (["--set", "epsilon=0"], "--set epsilon: 0; allowed: a number > 0"),
        (["--set", "epsilon=-1"], "--set epsilon: -1.0 is negative"),
        (["--set", "steps=-3"], "--set steps: -3 is below 1"),
        (["--task", "deblur"], "--task: the experiment 'mnist deblurring' has no setting 'task'"),
    ],
)
def test_misuse_is_explained(extra, message, root, tmp_path, capsys):
    assert run("deblurring", root, tmp_path, "--preset", "smoke", *extra) == 2
    assert message in capsys.readouterr().err


def test_damaged_data_are_named(root, tmp_path, capsys):
    (tmp_path / "mnist").mkdir()
    for file in (root / "mnist").iterdir():
        (tmp_path / "mnist" / file.name).write_bytes(file.read_bytes())
    damaged = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert run("deblurring", tmp_path, tmp_path / "out", "--preset", "smoke") == 2
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.3},
        {"radius": 3.0},
        {"steps": 2},
        {"rate": 1e-2},
        {"blur": 3.0},
        {"seed": 1},
        {"other images": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_stored_arm_is_used_only_for_what_it_was_trained_on(change, root, tmp_path):
    """Everything that a result depends on is in the name of its folder, the bisected one's too."""
    settings = {
        k: v for k, v in change.items() if k in ("epsilon", "radius", "steps", "rate", "seed")
    }
    folders, losses = [], []
    for extra in ({}, settings):
        config = Config(preset="smoke", data=str(root), **extra)
        width = change.get("blur", tasks.BLUR) if len(folders) else tasks.BLUR
        task = tasks.Task("deblurring", tasks.unet, forward=tasks.blur(width))
        learn, _, _ = tasks.MNIST.splits(config)
        if len(folders) and "other images" in change:
            learn = learn.subset(torch.arange(len(learn)).flip(0))
        arm = Arm("DRO", "entropic", epsilon=config.epsilon, radius=config.radius)
        trained = training.fit_arm(config, task, arm, learn, tmp_path)
        tuning.bisected(config, task, trained, tmp_path)
        folders.append({folder.name for folder in (tmp_path / "arms").iterdir()})
        losses.append(trained.history[-1]["loss"])
    assert len(folders[0]) == 2
    assert len(folders[1] - folders[0]) == (1 if "other images" in change else 2)
    assert losses[0] != losses[1]


def test_an_arm_with_the_same_settings_is_read(root, models, tmp_path):
    config = Config(preset="smoke", data=str(root), models=str(models))
    task = tasks.Task("deblurring", tasks.unet)
    for _ in range(2):
        training.fit_arms(config, task, [Arm("again", "mse", noise=0.1)], tmp_path)
    assert len(list((models / "arms").glob("*again*"))) == 1


def test_settings_are_chosen_on_validation_images_and_lambda_is_bisected(root, tmp_path):
    code = run(
        "deblurring",
        root,
        tmp_path,
        "--preset",
        "smoke",
        "--set",
        "select=True",
        "--set",
        "bisect=True",
        "--set",
        "steps=1",
    )
    assert code == 0
    chosen = json.loads((tmp_path / "selection.json").read_text())
    written = json.loads((tmp_path / "deblurring.json").read_text())
    for name in ("epsilon", "radius", "noise"):
        assert written["config"][name] == chosen[name]
    table = {row["quantity"]: float(row["value"]) for row in rows(tmp_path / "bisection.csv")}
    assert table["gradient evaluations, bisected"] > table["gradient evaluations, learned"]
    low, high = table["multiplier, learned"] / 4, 4 * table["multiplier, learned"]
    assert low <= table["multiplier, bisected"] <= high


def test_wiener_is_the_best_linear_map_on_its_data():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(300, 1, 6, 6, generator=rng).double()
    forward = tasks.blur(1.0, 3)
    wiener = classical.Wiener(images, forward, 0.1)
    matrix = wiener.map.matrix()
    x, y = images.flatten(1).numpy(), forward(images).flatten(1).numpy()

    def risk(B):  # expectation over the noise
        return ((x - y @ B.T) ** 2).sum(1).mean() + (0.1**2 + 1e-6) * (B**2).sum()

    best = risk(matrix)
    for seed in range(5):
        step = 1e-3 * np.random.default_rng(seed).standard_normal(matrix.shape)
        assert risk(matrix + step) > best


def test_total_variation_is_a_minimiser():
    """Against cvxpy on a small image."""
    import cvxpy

    rng = np.random.default_rng(0)
    forward = tasks.blur(1.0, 3)
    y = torch.from_numpy(rng.random((1, 1, 6, 6)))
    found = classical.TotalVariation(forward, 0.1, iterations=3000)(y)[0, 0].numpy()
    matrix = forward(torch.eye(36).double().reshape(36, 1, 6, 6)).reshape(36, 36).T.numpy()
    x = cvxpy.Variable((6, 6))
    flat = cvxpy.vec(x, order="C")
    zero = np.zeros
    down = cvxpy.vstack([x[1:] - x[:-1], zero((1, 6))])
    right = cvxpy.hstack([x[:, 1:] - x[:, :-1], zero((6, 1))])
    lengths = cvxpy.norm(
        cvxpy.vstack([cvxpy.vec(down, order="C"), cvxpy.vec(right, order="C")]), 2, axis=0
    )
    objective = 0.5 * cvxpy.sum_squares(matrix @ flat - y.numpy().ravel()) + 0.1 * cvxpy.sum(
        lengths
    )
    cvxpy.Problem(cvxpy.Minimize(objective)).solve()
    np.testing.assert_allclose(found, x.value, atol=2e-3)


def test_claims():
    assert Claim("a", 0.9, 0.0, high=1.0).holds
    assert not Claim("a", 1.1, 0.0, high=1.0).holds
    assert not Claim("a", math.nan, 0.0).holds
    table = [
        {"arm": "a", "level": 0.5, "rmse": 2.0, "rmse_sd": 0.2},
        {"arm": "b", "level": 0.5, "rmse": 4.0, "rmse_sd": 0.4},
    ]
    value, band = measure.ratio(table, "a", "b", 0.5)
    assert value == 0.5
    assert band == pytest.approx(0.5 * math.hypot(0.1, 0.1))


@pytest.mark.parametrize("kind", ["adversarial", "jacobian", "wasserstein", "linearised"])
def test_every_kind_of_arm_trains(kind, root, tmp_path):
    config = Config(preset="smoke", data=str(root))
    task = tasks.Task("deblurring", tasks.unet)
    learn, _, _ = tasks.MNIST.splits(config)
    multiplier = 9.0 if kind in ("wasserstein", "linearised") else 0.0
    arm = Arm(kind, kind, noise=0.1, radius=1.0, multiplier=multiplier)
    trained = training.fit_arm(config, task, arm, learn, tmp_path)
    assert math.isfinite(trained.history[-1]["loss"])


def test_the_jacobian_penalty_is_the_squared_frobenius_norm_in_the_mean():
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = torch.zeros(4000, 5).double(), torch.zeros(4000, 5).double()
    from dro_torch import reconstruction_residual

    penalty = JacobianPenalty(reconstruction_residual, weight=1.0)
    value = penalty(lambda t: t @ matrix.T, x, y, index=torch.arange(4000), seed=0, step=0)
    assert float(value) == pytest.approx(float(matrix.square().sum()), rel=0.05)


@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason=f"no MNIST files in {REAL}")
def test_splits_of_the_real_files_are_disjoint():
    config = Config(preset="quick", data=str(REAL))
    learn, check, test = tasks.MNIST.splits(config)
    assert len(learn) == 4000
    assert not set(learn.index.tolist()) & set(check.index.tolist())
    assert len(test) == 1000


# --- several seeds, side by side, planned --------------------------------------------------------


def test_claims_of_several_seeds_are_averaged_and_may_stay_undecided():
    one, two = Claim("a", 0.8, 0.1, high=1.0), Claim("a", 1.0, 0.1, high=1.0)
    (both,) = over_seeds([[one], [two]])
    assert both.value == pytest.approx(0.9)
    assert both.band == pytest.approx(math.hypot(math.sqrt(0.02), 0.1))
    assert both.verdict == "undecided"
    assert dataclasses.replace(both, band=0.05).verdict == "holds"
    assert dataclasses.replace(both, value=1.2, band=0.05).verdict == "does not hold"
    assert dataclasses.replace(both, value=math.nan).verdict == "undecided"
    assert over_seeds([[one]]) == [one]


def test_arms_that_are_trained_side_by_side_are_those_that_are_read(root, tmp_path):
    """In processes of their own, with two seeds; the second call trains nothing."""
    together = Config("smoke", str(root), jobs=2, seeds=2)
    deblurring.run(together, tmp_path / "together")
    alone = Config("smoke", str(root), seeds=2)
    deblurring.run(alone, tmp_path / "alone")
    first, second = (
        json.loads((tmp_path / name / "deblurring.json").read_text())["claims"]
        for name in ("together", "alone")
    )
    for a, b in zip(first, second, strict=True):
        assert float(a["value"]) == pytest.approx(float(b["value"]), rel=1e-4)
        assert a["verdict"] in ("holds", "does not hold", "undecided")


def test_the_plan_counts_the_candidates_of_the_bisection(root, tmp_path):
    config = Config("smoke", str(root), steps=10, bisect=True)
    arms = deblurring.Deblurring().arms(config, tasks.MNIST.splits(config), tmp_path)
    (bisected,) = (arm for arm in arms if arm.arm.name == tuning.BISECTED)
    share = tuning.bisection_cost(config).steps_share
    assert bisected.gradient_evaluations == pytest.approx(10 * share, abs=1)


def test_a_bisection_that_was_stopped_goes_on(root, tmp_path, monkeypatch):
    """Every candidate that had been trained is read; the result is that of a run in one piece."""
    config = Config("smoke", str(root), steps=10)
    learned = training.fit_arm(
        config,
        deblurring.TASK,
        deblurring.main_arms(config)[0],
        tasks.MNIST.splits(config).learn,
        tmp_path,
    )
    whole = tuning.bisected(config, deblurring.TASK, learned, tmp_path / "whole")
    original, calls = tuning.StochasticDescent.__call__, []

    def counted(self, model, multiplier, steps):
        calls.append(multiplier)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, model, multiplier, steps)

    monkeypatch.setattr(tuning.StochasticDescent, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        tuning.bisected(config, deblurring.TASK, learned, tmp_path / "pieces")
    pieces = tuning.bisected(config, deblurring.TASK, learned, tmp_path / "pieces")
    assert pieces.multiplier == whole.multiplier
    assert pieces.gradient_evaluations == whole.gradient_evaluations
    for a, b in zip(pieces.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert len(calls) == len(set(calls)) + 2  # the stopped one, and the last run's multiplier
    assert not list((tmp_path / "pieces").rglob("candidate-*"))


def test_saliency_on_strokes_is_a_share():
    """Of y -> wy at y = x the squared error has the gradient 2 w (w - 1) y."""
    images = torch.full((2, 1, 28, 28), 0.4)
    images[:, :, :14] = 1.0
    weight = torch.full((28, 1), 2.0)
    weight[:14] = 3.0
    identity = tasks.Task("copy", tasks.unet, forward=torch.nn.Identity())
    (found,) = measure.focus({"map": lambda y: weight * y}, identity, images, [0.0])
    assert found["strokes"] == 0.5
    assert found["focus"] == pytest.approx(12 / (12 + 1.6), rel=1e-5)


def test_the_arithmetic_of_a_step_is_counted(root):
    """A convolution of one channel to five, 3 x 3: forward, and the gradient of its weights."""

    class Summed(torch.nn.Conv2d):
        def forward(self, y):
            return super().forward(y).sum(1, keepdim=True)

    task = dataclasses.replace(
        deblurring.TASK,
        forward=torch.nn.Identity(),
        network=lambda size, generator: Summed(1, 5, 3, padding=1, bias=False),
    )
    config = Config("smoke", str(root))
    one_pass = 2 * 9 * 5 * 28 * 28 * config.size.batch / 1e9
    plain = training.gigaflops_of_step(config, task, Arm("mse", "mse"))
    assert plain == pytest.approx(2 * one_pass)
    sampled = Arm("dro", "entropic", epsilon=0.1, multiplier=2.0, options={"samples": 3})
    passes = training.gigaflops_of_step(config, task, sampled) / one_pass
    assert 6 <= passes <= 8  # three draws, there and back, perhaps the centre too


def test_a_plan_trains_nothing(root, tmp_path, capsys):
    checks = deblurring.run(Config("smoke", str(root), plan=True, seeds=3), tmp_path)
    assert checks == []
    assert "minutes of one core" in capsys.readouterr().out
    assert not (tmp_path / "arms").exists()


def test_what_was_spent_is_counted_once_and_over_all_calls(tmp_path):
    def work(seconds, finish):
        with trainings.clocked(tmp_path) as finished:
            start = time.process_time()
            while time.process_time() - start < seconds:
                pass
            if not finish:
                raise KeyboardInterrupt
            finished()

    assert trainings.spent(tmp_path) == trainings.Spent()
    with pytest.raises(KeyboardInterrupt):
        work(0.02, finish=False)
    first = trainings.spent(tmp_path)
    assert first.cpu_seconds >= 0.02
    assert not first.finished
    work(0.03, finish=True)
    both = trainings.spent(tmp_path)
    assert both.cpu_seconds >= first.cpu_seconds + 0.03
    assert both.finished
    work(0.02, finish=True)  # read again
    assert trainings.spent(tmp_path) == both
    (tmp_path / trainings.CLOCK).write_text('{"seconds": 3.0}')  # before processors were looked at
    assert trainings.spent(tmp_path).seconds == 3.0
    assert math.isnan(trainings.spent(tmp_path).cpu_seconds)


def test_the_plan_stands_beside_what_was_spent(root, tmp_path, monkeypatch):
    """At a preset with targets: of all seeds, of what is tuned, trained here or in processes."""
    small = dataclasses.replace(settings.PRESETS["smoke"], targets=True, seeds=2, steps=4)
    monkeypatch.setitem(settings.PRESETS, "smoke", small)
    monkeypatch.setattr(tuning, "candidates", lambda: ([(0.08, 1.0)], [0.1]))
    monkeypatch.setattr(study, "candidates", tuning.candidates)
    config = Config("smoke", str(root))
    misspecified.run(config, tmp_path)
    cost = json.loads((tmp_path / "misspecified.json").read_text())["cost"]
    arms = ["DRO", "MSE", "MSE matched", "select DRO 0.08 1", "select MSE 0.1"]
    assert [row["arm"] for row in cost] == arms
    assert [row["trainings"] for row in cost] == [2, 2, 2, 1, 1]
    assert all(row["planned_minutes"] > 0 and row["minutes"] > 0 for row in cost)
    clocks = [trainings.spent(path.parent) for path in tmp_path.rglob(trainings.CLOCK)]
    assert len(clocks) == 2 * 3 + 2
    total = sum(float(row["minutes"]) for row in cost)
    assert total == pytest.approx(sum(c.cpu_seconds for c in clocks) / 60)
    planned, taken = plan.compared(cost)
    assert (planned > 0, taken) == (True, pytest.approx(total))
    before = (tmp_path / plan.PLAN).read_text()
    misspecified.run(config, tmp_path)
    assert (tmp_path / plan.PLAN).read_text() == before
    assert json.loads((tmp_path / "misspecified.json").read_text())["cost"] == cost
    assert math.isnan(plan.costs([plan.Planned("new", 1, 1, 2.0)], {})[0]["minutes"])
    assert plan.compared([{"planned_minutes": 2.0, "minutes": "nan"}]) == (0, 0)


def test_the_queue_runs_publishes_and_does_not_repeat(root, tmp_path, capsys):
    config = evidence.Config(
        str(root), "mnist radii", "smoke", 1.0, 1, str(tmp_path / "published"), freeze=False
    )
    assert all(check.holds for check in evidence.run(config, tmp_path / "work"))
    assert (tmp_path / "published" / "smoke" / "radii" / "radii.json").exists()
    assert "not run yet" in capsys.readouterr().out  # of the others
    assert all(check.holds for check in evidence.run(config, tmp_path / "work"))
    assert "== mnist radii" not in capsys.readouterr().out


def test_an_experiment_that_crashes_is_not_finished(root, tmp_path, capsys, monkeypatch):
    """Python ends with status 1 then, as an experiment whose claims fail."""
    monkeypatch.setattr(
        evidence, "command", lambda *_: [sys.executable, "-c", "raise ValueError('lost')"]
    )
    config = evidence.Config(
        str(root), "mnist radii", "smoke", 1.0, 1, str(tmp_path / "published"), freeze=False
    )
    assert not evidence.run(config, tmp_path / "work")[0].holds
    assert "mnist radii: ended with status 1 and wrote no results" in capsys.readouterr().out
    assert not (tmp_path / "published").exists()


def test_the_queue_stops_at_its_hour_and_refuses_names_that_it_does_not_know(root, tmp_path):
    config = evidence.Config(
        str(root), "mnist radii", "smoke", 1e-9, 1, str(tmp_path / "published"), freeze=False
    )
    assert not evidence.run(config, tmp_path / "work")[0].holds
    with pytest.raises(UsageError, match="--set only: 'nothing'; allowed: mnist deblurring"):
        evidence.chosen("nothing")


def test_the_cost_of_a_step_is_a_row_per_way_of_running_it(root, tmp_path):
    """At toy size the ratios say nothing; every way is there, with a time."""
    config = torch_steps.Config(str(root), "smoke", rounds=1)
    assert len(torch_steps.run(config, tmp_path)) == 3
    rows = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert len({(row["threads"], row["layout"], row["precision"]) for row in rows}) == 8
    assert all(row["CPU ms"] > 0 for row in rows)
