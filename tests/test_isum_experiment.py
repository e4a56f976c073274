"""The experiment with learned transport maps, at its smallest: outputs, resume, misuse."""

import csv
import dataclasses
import gzip
import json
import math
import signal
import struct
import tomllib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import validation.__main__ as command_line  # noqa: E402
from dro_torch import metrics, physics  # noqa: E402
from dro_torch.losses.unbalanced import UnbalancedOTLoss  # noqa: E402
from validation import evidence, isum, trainings  # noqa: E402
from validation.isum import claims as isum_claims  # noqa: E402
from validation.isum import drift, gaussian, spectrum  # noqa: E402

ROOT = Path(__file__).parent.parent


def write_idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes(), 1))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Files of MNIST's form: bright disks, a radius per class."""
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    grid = np.arange(28)
    for stem, number in (("train", 120), ("t10k", 20)):
        labels = np.arange(number) % 10
        centre = rng.integers(10, 18, (number, 2, 1))
        distance = (grid - centre[:, 0])[:, :, None] ** 2 + (grid - centre[:, 1])[:, None, :] ** 2
        images = 255 * (distance <= (2 + labels[:, None, None]) ** 2)
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", labels)
    return folder.parent


def command(root, out, *more, task="deblur"):
    return command_line.main(
        ["isum", "--preset", "smoke", "--task", task, "--data", str(root), "--out", str(out), *more]
    )


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# --- what a run writes ---


@pytest.fixture(scope="module")
def done(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("isum")
    assert command(root, out) == 0
    return out


def test_every_arm_and_floor_has_its_row(done):
    rows = rows_of(done / "results.csv")
    names = [arm.name for part in isum.MAIN for arm in isum.COMPARISONS[part]]
    assert {row["arm"] for row in rows} == {*names, "measurement", "Wiener", "TV", "linear"}
    for row in rows:
        low, mean, high = (float(row[key]) for key in ("psnr_low", "psnr", "psnr_high"))
        assert 5 < low <= mean <= high < 60
        halves = [float(row[f"psnr_half_{half}"]) for half in (0, 1)]
        assert min(halves) <= mean <= max(halves)
        if row["arm"].startswith("OT"):
            assert float(row["weight"]) == pytest.approx(1)
    for name in ("ISUM, levels", "OT, levels", "measurement", "Wiener", "TV", "linear"):
        levels = [float(row["noise"]) for row in rows if row["arm"] == name]
        assert levels == list(isum.LEVELS)
    by_level = [float(row["psnr"]) for row in rows if row["arm"] == "measurement"]
    assert by_level == sorted(by_level, reverse=True)
    trained = rows_of(done / "training.csv")
    assert [row["arm"] for row in trained] == names
    for row in trained:
        assert float(row["best_validation_psnr"]) >= float(row["validation_psnr"])
        last, best = (float(row[key]) for key in ("validation_psnr", "best_validation_psnr"))
        assert float(row["drift"]) == pytest.approx(last - best)
        assert int(row["best_step"]) in (1, 2)
        assert len(row["weights"].split()) == (
            4 if "levels" in row["arm"] else 2 if "imbalanced" in row["arm"] else 1
        )


def test_claims_and_provenance_are_written_beside_the_figures(done):
    made = json.loads((done / "isum.json").read_text())
    assert made["config"]["task"] == "deblur"
    assert made["size"]["steps"] == 2
    assert made["torch"] == torch.__version__
    assert made["device"] == "CPU"
    rows = {(row["arm"], row["noise"]): row for row in made["results"]}
    claims = {entry["claim"]: entry for entry in made["claims"]}
    assert len(claims) == 18
    gain = claims["ISUM over its OT variant"]
    expected = rows["ISUM", 0.05]["psnr"] - rows["OT variant", 0.05]["psnr"]
    assert gain["value"] == pytest.approx(expected, abs=1e-9)
    gains = [rows["ISUM, levels", s]["psnr"] - rows["OT, levels", s]["psnr"] for s in isum.LEVELS]
    mixed = claims["multi-level noise, mean over levels 4:3:2:1: ISUM over OT"]["value"]
    assert mixed == pytest.approx(np.average(gains, weights=[4, 3, 2, 1]), abs=1e-9)
    assert {entry["verdict"] for entry in claims.values()} <= {
        "holds",
        "does not hold",
        "undecided",
    }
    for name in ("isum", "examples"):
        for suffix in ("svg", "png"):
            assert (done / f"{name}.{suffix}").stat().st_size > 1000
    assert not list(done.rglob("*.part"))


class Flat:
    """Scores of arms and floors that are all the same."""

    def __init__(self, arms):
        names = ["measurement", "Wiener", "TV", "linear", *(arm.name for arm in arms)]
        self.values = {(n, level): np.full((3, 4), 20.0) for n in names for level in isum.LEVELS}
        self.half = np.array([0, 0, 1, 1])
        self.drift = {arm.name: [-0.1] for arm in arms}
        self.after_best = [
            {"arm": arm.name, "at": at, "mismatch": 0.1} for arm in arms for at in ("best", "last")
        ]


def test_every_claim_of_the_table_is_made_by_its_entry_of_the_queue():
    """What `claims.toml` waits for has these names."""
    told = tomllib.loads((ROOT / "docs" / "results" / "claims.toml").read_text())["claim"]
    waited = [e for e in told if e.get("result", "").startswith("desk/isum")]
    made = {}
    for entry in evidence.QUEUE.values():
        if entry.experiment == "isum":
            given = dict(setting.split("=", 1) for setting in entry.settings)
            asked = given.pop("comparisons", "")
            parts = isum.Config(
                preset="desk", comparisons=asked, task=given["task"]
            ).size.comparisons
            arms = [arm for part in parts for arm in isum.COMPARISONS[part]]
            found = isum.claims_of(parts, 0.05, Flat(arms))
            made[f"desk/{entry.file}"] = {claim.claim for claim in found}
            assert all(c.verdict == "undecided" for c in found if "drift" not in c.claim)
    assert len(made) == 17
    for entry in waited:
        assert entry["check"] in made[entry["result"]], entry
    assert {entry["result"] for entry in waited} == set(made)


@pytest.fixture
def without_figures(monkeypatch):
    for name in ("plot", "plot_examples"):
        monkeypatch.setattr(isum.plots, name, lambda *arguments: None)


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    ("task", "part"), [("sr", "baselines"), ("hdr", "starvation"), ("nonlinear", "imbalance")]
)
def test_the_other_tasks(root, tmp_path, task, part):
    assert command(root, tmp_path, "--set", f"comparisons={part}", task=task) == 0
    names = {row["arm"] for row in rows_of(tmp_path / "results.csv")}
    floors = {"measurement", "linear"} | ({"TV"} if task == "sr" else set())
    assert names == {*floors, *(arm.name for arm in isum.COMPARISONS[part])}


@pytest.mark.usefixtures("without_figures")
def test_tuning_tries_every_scale_for_every_arm_and_the_best_goes_on(root, tmp_path):
    more = ["comparisons=imbalance,paper-scale", "factors=1.0,0.1", "seeds=2"]
    assert command(root, tmp_path, *(word for m in more for word in ("--set", m))) == 0
    tried = rows_of(tmp_path / "training.csv")
    for arm in isum.COMPARISONS["imbalance"]:
        runs = [row for row in tried if row["arm"] == arm.name]
        assert [row["seed"] for row in runs] == ["0", "0", "1"]
        assert [float(row["factor"]) for row in runs[:2]] == [1.0, 0.1]
        best = max(runs[:2], key=lambda row: float(row["best_validation_psnr"]))
        assert runs[2]["factor"] == best["factor"]
    rows = {row["arm"]: row for row in rows_of(tmp_path / "results.csv")}
    assert {rows[arm.name]["seeds"] for arm in isum.COMPARISONS["imbalance"]} == {"2"}
    paper = [row for row in tried if "paper scale" in row["arm"]]
    assert len(paper) == 6
    assert {row["factor"] for row in paper} == {"1.0"}


@pytest.mark.usefixtures("without_figures")
def test_short_runs_choose_the_scale_and_the_plan_stands_beside_what_was_spent(
    root, tmp_path, monkeypatch, capsys
):
    """As at `desk`: scales are tried for a share of the steps, then every seed runs at the best."""
    small = dataclasses.replace(isum.PRESETS["smoke"], tuning=0.5, targets=True)
    monkeypatch.setitem(isum.PRESETS, "smoke", small)
    more = [f"--set={m}" for m in ("comparisons=imbalance", "factors=1.0,0.1", "seeds=2")]
    assert command(root, tmp_path, "--set=steps=4", "--set=plan=True", *more) == 0
    assert "minutes of one core" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    models = tmp_path / "models"
    assert command(root, tmp_path, "--set=steps=4", f"--set=models={models}", *more) == 0
    tried = rows_of(tmp_path / "training.csv")
    for arm in isum.COMPARISONS["imbalance"]:
        runs = [row for row in tried if row["arm"] == arm.name]
        assert [row["steps"] for row in runs] == ["2", "2", "4", "4"]
        assert [row["seed"] for row in runs] == ["0", "0", "0", "1"]
        best = max(runs[:2], key=lambda row: float(row["best_validation_psnr"]))
        assert {row["factor"] for row in runs[2:]} == {best["factor"]}
    assert {row["seeds"] for row in rows_of(tmp_path / "results.csv") if row["factor"]} == {"2"}
    cost = json.loads((tmp_path / "isum.json").read_text())["cost"]
    assert [(row["steps"], row["trainings"]) for row in cost] == 2 * [(2, 2), (4, 2)]
    clocks = [trainings.spent(path.parent) for path in models.rglob(trainings.CLOCK)]
    assert len(clocks) == len(tried) == 8
    total = sum(float(row["minutes"]) for row in cost)
    assert total == pytest.approx(sum(clock.cpu_seconds for clock in clocks) / 60)
    assert all(row["planned_minutes"] > 0 for row in cost)


@pytest.mark.slow
@pytest.mark.usefixtures("without_figures")
def test_trainings_side_by_side_are_those_that_are_read(root, tmp_path):
    for name, jobs in (("alone", 0), ("together", 2)):
        more = ("--set", "comparisons=imbalance", "--set", f"jobs={jobs}")
        assert command(root, tmp_path / name, *more) == 0
    alone, together = ((tmp_path / n / "results.csv").read_text() for n in ("alone", "together"))
    assert alone == together


def test_what_a_training_depends_on_is_in_its_key(root, tmp_path):
    config = config_of(root)
    pools, run = isum.load_images(config), isum.Run(isum.COMPARISONS["main"][0], 0.1, 0, 2)
    keys = [
        dict(isum.description(one, pools, run))
        for one in (config, config_of(root, task="hdr"), config_of(root, blur=3.0))
    ]
    keys += [
        isum.description(config, pools, dataclasses.replace(run, **{name: value}))
        for name, value in (("factor", 0.3), ("seed", 1), ("steps", 3))
    ]
    keys += [isum.description(config, isum.load_images(config_of(root, images=40)), run)]
    assert len({json.dumps(key, default=str) for key in keys}) == len(keys)


# --- killed, and resumed ---


@pytest.mark.usefixtures("without_figures")
def test_a_killed_experiment_goes_on_where_it_was(root, tmp_path, monkeypatch):
    more = ("--set", "comparisons=imbalance", "--set", "steps=3")
    assert command(root, tmp_path / "straight", *more) == 0
    plain, calls = UnbalancedOTLoss.map_loss, []

    def killed(self, *arguments):
        calls.append(0)
        if len(calls) == 5:  # the second step of the second arm
            signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(UnbalancedOTLoss, "map_loss", killed)
    assert command(root, tmp_path / "cut", *more) == 130
    assert len(calls) == 5
    assert not (tmp_path / "cut" / "results.csv").exists()
    assert command(root, tmp_path / "cut", *more) == 0
    assert len(calls) == 3 * len(isum.COMPARISONS["imbalance"])  # no step was done twice
    one, other = ((tmp_path / n / "results.csv").read_bytes() for n in ("straight", "cut"))
    assert one == other


# --- misuse ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "big"], "preset.*'big'.*quick"),
        (["--task", "inpaint"], "task.*'inpaint'.*deblur"),
        (["--set", "dataset=imagenet"], "dataset.*'imagenet'.*cifar10"),
        (["--set", "noise=-1"], "noise"),
        (["--set", "steps=-3"], "steps"),
        (["--set", "factors=0.1,0"], "factors: 0.1,0"),
        (["--set", "factors=some"], "factors: 'some'"),
        (["--set", "comparisons=none"], "comparisons.*'none'"),
        (["--set", "operator=blur.pt"], "operator: blur.pt with task 'deblur'; .*nonlinear"),
        (["--task", "nonlinear", "--set", "operator=no.pt"], "operator: no.pt: .*no such file"),
        (["--task", "nonlinear", "--set", "operator=torch:mean"], "operator: torch:mean maps im"),
    ],
)
def test_misuse_ends_with_status_2(root, tmp_path, capsys, options, message):
    import re

    assert command(root, tmp_path, *options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_missing_data_end_with_status_2(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert command(empty, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "train-images-idx3-ubyte" in said
    assert command(tmp_path / "nowhere", tmp_path / "out") == 2


def test_images_out_of_range_are_refused(root, tmp_path, monkeypatch):
    plain = isum.load_images

    def bright(config):
        pools = plain(config)
        pools.learn.value_range = (0.0, 255.0)
        return pools

    monkeypatch.setattr(isum.data, "load_images", bright)
    with pytest.raises(ValueError, match=r"measurements: value_range \(0.0, 255.0\)"):
        command(root, tmp_path)


# --- parts ---


def config_of(root, **options):
    return isum.Config(preset="smoke", data=str(root), **options)


def test_pools_do_not_overlap(root):
    config = config_of(root, images=60)
    pools = isum.load_images(config)
    measured, clean = pools.unpaired(config, False)
    assert not set(measured.index.tolist()) & set(clean.index.tolist())
    held = set(pools.validation.index.tolist())
    assert not held & set(pools.learn.index.tolist())
    images = measured[torch.arange(3)][1]
    assert images.shape == (3, 1, 32, 32)
    assert float(images[:, :, :2].max()) == -1  # extended by black
    assert float(images.max()) == 1


def test_class_imbalance_is_reversed_between_the_pools(root):
    config = config_of(root, images=100)
    for pool, frequent in zip(isum.load_images(config).unpaired(config, True), (0, 1), strict=True):
        half = pool.tensors[1][pool.index]
        assert int((half == frequent).sum()) // 3 == int((half != frequent).sum()) > 0
    labels = torch.arange(120) % 10
    half = isum.load_images(config).learn.tensors[1]
    assert torch.equal(half, (labels >= 5).long())


def test_single_terms_have_the_total_cost_of_both(root):
    for part, total in (("main", {2.0}), ("paper-scale", {1.0, 2.0})):
        arms = isum.COMPARISONS[part]
        assert {arm.scale * (arm.likelihood + arm.quadratic) for arm in arms} == total


@pytest.mark.parametrize("level", [0.05, 0.3])
def test_noise_of_every_kind_has_the_same_size(level):
    y = 1.6 * torch.rand(400, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.8
    for kind, law in isum.kinds_of_noise(y, level).items():
        noisy = law(y, torch.Generator().manual_seed(1))
        assert float((noisy - y).square().mean().sqrt()) == pytest.approx(level, rel=0.08), kind


def test_other_noise_stands_beside_the_tables(done):
    rows = rows_of(done / "other_noise.csv")
    names = [arm.name for arm in isum.COMPARISONS["main"]]
    assert {row["arm"] for row in rows} == {"measurement", "Wiener", "TV", "linear", *names}
    assert {row["kind"] for row in rows} == {
        "Gaussian",
        "Poisson",
        "speckle",
        "uniform",
        "salt and pepper",
    }
    assert len(rows) == 5 * (4 + len(names))


def test_objectives_are_those_of_their_papers():
    """The scale that all share, NOT's mean, and the others' own settings where they are asked."""
    arms = {arm.name: arm for part in isum.COMPARISONS.values() for arm in part}
    for faithful in (False, True):
        config = isum.Config(preset="desk", faithful=faithful, task="sr")
        entries = 3 * 32 * 32

        def made(name, factor=0.1, config=config, entries=entries):
            return isum.objective(config, arms[name], factor, entries, lambda x: x)

        blind, _ = made("quadratic only")
        loss, options = made("NOT")
        same = 0.1 / entries if faithful else blind.cost.scale
        assert loss.cost.scale == pytest.approx(same)
        assert (loss.cost.likelihood, loss.gradient_penalty) == (0, 0)
        assert options["potential_every"] == 10
        loss, options = made("OTUR")
        assert (loss.distance, loss.fourier) == pytest.approx((3, 0))
        assert options.get("optimizer", "adam") == ("rmsprop" if faithful else "adam")
        assert made("RCOT")[0].fourier == pytest.approx(1)
        both, options = made("ISUM")
        assert 2 * both.cost.scale == pytest.approx(blind.cost.scale)
        assert options["final_gradient_penalty"] == both.gradient_penalty > 0
        released = dataclasses.replace(config, final_penalty=0.0)
        assert made("ISUM", config=released)[1]["final_gradient_penalty"] == 0
        loss, options = made("OT variant", config=released)  # nothing but R1 holds its potential
        assert options["final_gradient_penalty"] == loss.gradient_penalty > 0
        loss, options = made("levels, annealed from 0.03", 1.0)
        assert loss.cost.scale == pytest.approx(0.03 * options["final_scale"])
        assert made("levels, fixed source")[0].source_divergence.name == "balanced"
        assert made("levels, translation-invariant")[0].translation_invariant


def test_the_verdict_on_the_twist_condition_is_that_of_the_core():
    """The blur of the task, and blocks of four for super-resolution."""
    from dro_core import twist_condition

    blur = isum.blur_spectrum(1.5, (12, 12))
    assert blur.min() > -1
    assert isum.TWIST["deblur"].startswith("holds")
    shrink = np.kron(np.eye(3), np.full((1, 4), 0.25))
    enlarge = np.kron(np.eye(3), np.ones((4, 1)))
    assert twist_condition(shrink, 1.0, upsample=enlarge).holds is False
    assert isum.TWIST["sr"].startswith("fails")


def test_desk_is_judged_and_small_enough_for_a_core():
    size = isum.Config(preset="desk").size
    assert (size.dataset, size.seeds, size.targets) == ("cifar10", 3, True)
    assert len(size.factors) == 4
    assert size.tuning * len(size.factors) < 1  # choosing costs less than one training


def test_standard_is_what_the_protocol_says():
    size = isum.Config(preset="standard").size
    assert size.seeds == 3
    assert size.factors == (1.0, 0.3, 0.1, 0.03)
    assert size.comparisons == tuple(isum.COMPARISONS)
    assert size.targets
    assert isum.Config(preset="standard", dataset="caltech101").size.dataset == "caltech101"


@pytest.mark.parametrize("shape", [(32, 32), (20, 28)])
def test_the_cosine_transform_diagonalises_the_blur(shape):
    from scipy import fft

    x = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0)).double()
    blur = physics.Convolution(physics.gaussian_kernel(1.5), "reflect").double()
    there = fft.dctn(blur.A(x).numpy(), axes=(-2, -1), norm="ortho")
    here = fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(isum.blur_spectrum(1.5, shape) * here, there, atol=1e-9)


def test_wiener_is_the_best_filter_of_its_kind(root):
    """Better than the measurement, and than itself with the noise misjudged."""
    config = config_of(root, images=100)
    pools = isum.load_images(config)
    index, x, _ = pools.learn[torch.arange(80)]
    y, _ = isum.measurement(config, False)(x, index, seed=3, step=0)

    def error(noise):
        used = config_of(root, noise=noise)
        return float(metrics.rmse(x, isum.wiener(used, pools.learn)(y)).square().mean())

    assert error(config.noise) < min(error(config.noise / 4), error(4 * config.noise))
    assert error(config.noise) < 0.7 * float(metrics.rmse(x, y).square().mean())


def test_the_linear_map_is_the_least_squares_fit_of_noisy_measurements(root):
    """With many draws of the noise, ordinary least squares finds it."""
    config = config_of(root, task="sr", images=100, noise=0.3)
    pools = isum.load_images(config)
    x = pools.learn[torch.arange(len(pools.learn))][1]
    forward, generator = physics.Downsampling(4), torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(400, len(x), 1, 8, 8, generator=generator)
    noise = torch.cat([noise, -noise])
    a = forward.A(x)
    given = (a + noise).flatten(0, 1).flatten(1).double().numpy()
    target = np.tile(x.flatten(1).double().numpy(), (800, 1))
    rows = np.column_stack([given, np.ones(len(given))])
    fitted, *_ = np.linalg.lstsq(rows, target, rcond=None)
    restore = isum.linear_map(config, pools.learn)
    y = a + noise[0]
    expected = y.flatten(1).double().numpy() @ fitted[:-1] + fitted[-1]
    found = restore(y).flatten(1).double().numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("task", ["deblur", "sr", "hdr", "nonlinear"])
def test_floors_are_better_than_the_measurement(root, task):
    """The best of them, on smooth images: of few of those, the linear map alone may not be."""
    config = config_of(root, task=task, images=100, test=20, noise=0.2)
    pools = isum.load_images(config)
    wide = physics.Convolution(physics.gaussian_kernel(2.0), "reflect")
    for pool in (pools.learn, pools.validation, pools.test):
        images = wide.A(pool.tensors[0].float() / 255)
        pool.tensors[0].copy_((255 * images).to(pool.tensors[0].dtype))
    index, x, _ = pools.test[torch.arange(20)]
    y, _ = isum.measurement(config, False)(x, index, seed=3, step=0)
    error = {
        name: float(metrics.rmse(x, restore(y).clamp(-1, 1)).square().mean())
        for name, restore in isum.floors(config, pools).items()
    }
    assert next(iter(error)) == "measurement"
    assert len(error) == {"deblur": 4, "sr": 3}.get(task, 2)
    assert min(list(error.values())[1:]) < 0.9 * error["measurement"]


def test_floors_have_their_distances_too(root, monkeypatch):
    """To the distribution of clean images; floors are made once."""

    def features(_):
        return lambda images: images.flatten(1).double()

    monkeypatch.setattr(metrics, "EfficientNetLite0", features)
    config = config_of(root, images=100, test=20, kid=10)
    pools = isum.load_images(config)
    found = {row["arm"]: row["kid"] for row in drift.drift_rows(config, pools, [])}
    assert [*found] == ["measurement", "Wiener", "linear", "TV"]
    assert len(set(found.values())) == 4
    assert found["TV"] < found["measurement"]
    assert isum.floors(config, pools) is isum.floors(config, pools)


class Darker(torch.nn.Module):
    """A network of somebody, from images to images."""

    def forward(self, x):
        """Half as bright, blurred along a row; of grey images, as those of the data set."""
        assert x.shape[1] == 1
        return 0.25 * (x + torch.roll(x, 1, -1)) - 0.5


@pytest.mark.usefixtures("without_figures")
def test_nonlinear_deblurring_with_a_network_from_a_file(root, tmp_path):
    path = tmp_path / "blur.pt"
    torch.jit.script(Darker()).save(str(path))
    keys = []
    for name in ("", str(path)):
        config = config_of(root, task="nonlinear", operator=name)
        pools = isum.load_images(config)
        keys.append(
            isum.description(config, pools, isum.Run(isum.COMPARISONS["main"][0], 0.1, 0, 2))
        )
    assert "operator" not in keys[0]  # what was trained without stays valid
    assert "operator" in keys[1]
    x = pools.test[torch.arange(2)][1]
    y, _ = isum.measurement(dataclasses.replace(config, noise=0.0), False).at(
        x, torch.arange(2), 0, seed=0, step=0
    )
    torch.testing.assert_close(y, Darker()(x))
    more = ["--set", "comparisons=imbalance", "--set", f"operator={path}"]
    assert command(root, tmp_path / "out", *more, task="nonlinear") == 0


def test_intervals_cover_images_and_seeds():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 400)) + 1
    mean, low, high = isum.interval(values)
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.15)
    seeds = np.repeat([[0.0], [1.0], [2.0]], 400, axis=1)  # nothing but the seed matters
    _, low, high = isum.interval(seeds)
    assert high - low > 1
    assert isum.interval(np.ones((2, 5))) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ([[1.0, 1.1, 0.9]], "holds"),
        ([[-1.0, -1.1, -0.9]], "does not hold"),
        ([[1.0, -1.0, 0.1]], "undecided"),
    ],
)
def test_verdicts(difference, expected):
    judged = isum.claim("better", np.array(difference))
    assert judged.verdict == expected
    assert math.isfinite(judged.band)


# --- after the best step, early stops ---------------------------------------------------------


def test_the_last_map_stands_beside_the_best_one(done):
    rows = rows_of(done / "drift.csv")
    names = [arm.name for arm in isum.COMPARISONS["main"]]
    floors = {"measurement", "Wiener", "TV", "linear"}
    assert {row["arm"] for row in rows} == {*names, *floors}
    scored = {row["arm"]: row for row in rows_of(done / "results.csv") if row["noise"] == "0.05"}
    for row in rows:
        assert float(row["mismatch"]) >= 0
        if row["arm"] in floors:
            assert (row["at"], row["step"]) == ("", "")
        if row["at"] != "last":  # what is scored
            assert float(row["psnr"]) == pytest.approx(float(scored[row["arm"]]["psnr"]), abs=1e-3)
        else:
            assert row["step"] == "2"
    claims = json.loads((done / "isum.json").read_text())["claims"]
    moved = next(c for c in claims if c["claim"].startswith("after its best step ISUM"))
    ends = {row["at"]: float(row["mismatch"]) for row in rows if row["arm"] == "ISUM"}
    assert moved["value"] == pytest.approx(ends["last"] - ends["best"], abs=1e-9)


def test_a_mismatch_is_zero_for_the_law_and_grows_either_way():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((2000, 1, 8, 8)))
    reference = drift.power(noise)
    assert reference == pytest.approx(np.ones((8, 8)), abs=0.2)
    assert drift.mismatch(reference, reference) == 0
    for factor in (0.5, 2.0):  # (1 - factor)² of the variance
        moved = drift.mismatch(drift.power(factor * noise), reference)
        assert moved == pytest.approx((1 - factor) ** 2, rel=1e-9)


def test_no_drift_holds_though_its_band_is_zero():
    """A last validation that is the best one was called undecided."""
    (own, every) = isum_claims.drifts({"ISUM": [0.0], "OT variant": [-0.5]})
    assert (own.verdict, every.verdict) == ("holds", "does not hold")


def test_an_arm_ends_when_its_patience_does(root, tmp_path, without_figures):
    """Validations after every one of 20 steps; an arm that got no better in two has ended."""
    options = ("comparisons=main", "steps=20", "rate=0.05", "patience=2")
    more = [word for option in options for word in ("--set", option)]
    assert command(root, tmp_path, *more) == 0
    rows = {row["arm"]: row for row in rows_of(tmp_path / "training.csv")}
    ends = {}
    for row in rows_of(tmp_path / "drift.csv"):
        ends.setdefault(row["arm"], []).append(row["step"])
    for name, row in rows.items():
        best, last = (int(float(step)) for step in ends[name])
        assert best == int(float(row["best_step"]))
        assert last - best == 4 or last == 20  # two validations of every second step
    assert any(int(float(last)) < 20 for _, last in (ends[name] for name in rows))


# --- the exact map on Gaussian images ---------------------------------------------------------


def test_exact_filters_and_prices(root, tmp_path):
    """On disks: the exact map, any cost, is not better than Wiener; prices are at most 3 dB."""
    options = ("dataset=mnist", "images=50", "test=10", f"data={root}")
    more = [word for option in options for word in ("--set", option)]
    assert command_line.main(["isum", "gaussian", *more, "--out", str(tmp_path)]) == 0
    filters, prices = (rows_of(tmp_path / f"{name}.csv") for name in ("filters", "prices"))
    assert len(filters) == len(isum.LEVELS) * (2 + 3 * 4)
    assert {row["task"] for row in prices} == {"deblur", "sr", "hdr", "nonlinear"}
    for row in prices:
        best, matched, sampled = (float(row[f"{n}_psnr"]) for n in ("best", "matched", "sampled"))
        assert best + 1e-9 >= matched >= sampled - 1e-9
        assert float(row["price"]) == pytest.approx(best - matched, abs=1e-6)
        assert best - sampled == pytest.approx(10 * math.log10(2), abs=1e-6)
    made = json.loads((tmp_path / "gaussian.json").read_text())
    assert len(made["claims"]) == 4
    assert all(claim["value"] < 0 for claim in made["claims"])
    assert (tmp_path / "gaussian.svg").stat().st_size > 1000


def test_gains_of_the_exact_map_are_those_of_one_axis():
    rng = np.random.default_rng(1)
    power, gain = rng.uniform(0.1, 2, (2, 4, 5)), rng.uniform(0.05, 1, (4, 5))
    model = spectrum.Spectrum(np.zeros((2, 4, 5)), power, gain, 0.3)
    fit, near = 0.4, 0.7
    found, source, target = model.unbalanced(fit, near)
    measured = power * gain**2 + 0.09
    ratio = (1 / measured + 2 * (fit + near)) / (1 / power + 2 * (fit * gain**2 + near))
    np.testing.assert_allclose(found, np.sqrt(ratio), rtol=1e-9)
    assert not source.any()
    assert not target.any()
    np.testing.assert_allclose(model.matched(), np.sqrt(power / measured), rtol=1e-9)
    y = torch.from_numpy(rng.standard_normal((3, 2, 4, 5)))
    still = model.apply(np.ones_like(power), y, np.zeros_like(power), np.zeros_like(power))
    torch.testing.assert_close(still, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "caltech101"}, "dataset"),
        ({"images": 3}, "images"),
        ({"test": 0}, "test"),
        ({"blur": -1.0}, "blur"),
        ({"kid": -1}, "kid"),
    ],
)
def test_bad_settings_of_the_exact_map(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian.Config(**options)


def test_bad_patience():
    with pytest.raises(ValueError, match="patience"):
        isum.Config(patience=-1)


# --- maps that correct a linear reconstruction ------------------------------------------------


@pytest.mark.parametrize("task", ["deblur", "sr", "hdr", "nonlinear"])
def test_a_first_guess_is_the_linear_floor(root, task):
    config = isum.Config(preset="smoke", task=task, data=str(root))
    pools = isum.load_images(config)
    guess = isum.first_guess(config, pools)
    known = isum.floors(config, pools)
    index, x, *_ = pools.test[torch.arange(3)]
    y, _ = isum.measurement(config, False)(x, index, seed=1, step=0)
    floor = known["Wiener" if task == "deblur" else "linear"]
    torch.testing.assert_close(guess(y), floor(y), atol=2e-4, rtol=1e-4)
    assert not list(guess.parameters())
    assert not guess.state_dict()
    for arm in isum.COMPARISONS["from-linear"]:  # what is corrected is what is held on to
        loss, _ = isum.objective(config, arm, 0.1, x[0].numel(), lambda x: x, guess)
        assert loss.cost.upsample is guess
    images = y.clone().requires_grad_()
    guess(images).sum().backward()
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("task", ["deblur", "sr"])
def test_maps_from_the_linear_floor(root, tmp_path, without_figures, task):
    more = ("--set", "comparisons=from-linear", "--set", "rate=1e-6")
    assert command(root, tmp_path, *more, task=task) == 0
    rows = {row["arm"]: float(row["psnr"]) for row in rows_of(tmp_path / "results.csv")}
    floor = rows["Wiener" if task == "deblur" else "linear"]
    for arm in isum.COMPARISONS["from-linear"]:  # new networks at rates of nothing change little
        assert rows[arm.name] == pytest.approx(floor, abs=1.5)
    claims = json.loads((tmp_path / "isum.json").read_text())["claims"]
    gained = {c["claim"]: c["value"] for c in claims}
    name = "Wiener" if task == "deblur" else "the best linear map"
    expected = rows["ISUM from linear"] - floor
    assert gained[f"ISUM from the linear floor over {name}"] == pytest.approx(expected, abs=1e-9)
    assert {row["arm"] for row in rows_of(tmp_path / "other_noise.csv")} >= {"ISUM from linear"}


def test_what_is_stored_of_other_arms_has_not_changed(root):
    config = isum.Config(preset="smoke", data=str(root))
    pools = isum.load_images(config)
    plain, first = (
        isum.description(config, pools, isum.Run(isum.COMPARISONS[part][0], 0.1, 0, 2))
        for part in ("main", "from-linear")
    )
    assert "first" not in plain
    assert "patience" not in plain
    assert first["first"]
