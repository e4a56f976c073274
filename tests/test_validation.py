"""The experiments, small: their checks, files, messages and exit statuses."""

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import validation.__main__ as command_line
from validation import radii, registry, results, section5
from validation.benchmarks import core, matrix_free, samples, timing

ROOT = Path(__file__).parent.parent
SMALL = ["--set", "size=16", "--set", "samples=12", "--set", "points=7", "--set", "modes=5"]


@pytest.fixture(scope="module")
def small_section5(tmp_path_factory):
    out = tmp_path_factory.mktemp("section5")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "validation", "section5", "--out", str(out), *SMALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, out


def test_section5_holds_and_says_what_the_paper_leaves_unreadable(small_section5):
    done, _ = small_section5
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot be read" in done.stdout
    assert "29.289 % at L = 1" in done.stdout
    assert "22 of 22 checks hold" in done.stdout


def test_section5_writes_tables_and_figures_with_what_made_them(small_section5):
    _, out = small_section5
    names = {path.name for path in out.iterdir()}
    for problem in ("diagonal", "heat", "heat_small_radius"):
        expected = {f"{problem}.csv", f"{problem}.json", f"{problem}_risks.svg"}
        assert expected | {f"{problem}_risks.png"} <= names
        made = json.loads((out / f"{problem}.json").read_text())
        assert made["config"]["seed"] == 0
        assert made["versions"]["numpy"] == np.__version__
        with (out / f"{problem}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(made["rows"]) == 7
        for row in rows:
            finite, exact, bound = (
                float(row[f"{column} joint"]) for column in ("finite", "exact", "bound_squared")
            )
            assert finite <= exact * (1 + 1e-9) <= bound * (1 + 2e-9)
    assert {"gap.svg", "gap.png", "convergence.csv", "convergence.png", "checks.json"} <= names
    assert not [name for name in names if name.endswith(".part")]


def test_the_same_seed_gives_the_same_bytes(small_section5, tmp_path):
    _, out = small_section5
    config = registry.configure(section5.Config, SMALL[1::2])
    section5.run(config, tmp_path)
    for name in ("diagonal.csv", "heat.csv", "convergence.csv", "gap.svg"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_default_radii_show_both_a_closing_and_a_not_closing_gap():
    config = section5.Config()
    x, sweep = section5.signals(config), section5.heat_sweep(config)

    def steps(radius):
        gaps = []
        for point in sweep:
            B, y = point.inverse.matrix(), x @ point.forward.matrix().T
            fidelity = ((x - y @ B.T) ** 2).sum(axis=1).mean()
            gaps.append(section5.conservatism_gap(fidelity, point.inverse.lipschitz, radius))
        return np.diff(gaps)

    assert (steps(config.radius) < 0).all()
    assert (steps(config.small_radius) > 0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["section6"], "unknown value 'section6' (did you mean 'section5'?)"),
        (["benchmark", "core"], "did you mean 'benchmarks core'?"),
        (
            ["section5", "--set", "radus=1"],
            "name of the setting: unknown value 'radus' (did you mean 'radius'?)",
        ),
        (["section5", "--set", "radius=one"], "--set radius: cannot read 'one' as float"),
        (["section5", "--set", "points=2.5"], "--set points: '2.5' is float, but int is needed"),
        (["section5", "--set", "points"], "the form is name=value"),
        (["section5", "--set", "radius=nan"], "--set radius: 'nan'; a finite number is needed"),
        (["section5", "--set", "radius=1e400"], "a finite number is needed"),
        (["section5", "--set", "seed=-1"], "--set seed: -1; allowed"),
        ([], "--set and --out need an experiment"),
        (["section5", "--set", "radius=-1"], "--set radius: -1.0; allowed: a number > 0"),
        (["section5", "--set", "points=0"], "--set points: 0 is below 1"),
    ],
)
def test_misuse_is_explained(arguments, message, capsys, tmp_path):
    assert command_line.main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_without_a_name_the_experiments_are_listed(capsys):
    assert command_line.main([]) == 0
    printed = capsys.readouterr().out
    for name in registry.EXPERIMENTS:
        assert name in printed
    assert command_line.main(["section5", "--set", "help"]) == 0
    assert "W2 radius of the main comparison" in capsys.readouterr().out


def test_the_experiments_are_listed_without_what_they_need(capsys, monkeypatch):
    for name in ("torch", "matplotlib", "ot", "cvxpy", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    assert command_line.main([]) == 0
    printed = capsys.readouterr().out
    for name in registry.EXPERIMENTS:
        assert registry.summary(name) in printed


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_a_summary_is_the_first_line_of_the_experiment(name):
    pytest.importorskip("torch", reason="some experiments train networks")
    module = importlib.import_module(registry.EXPERIMENTS[name])
    assert registry.summary(name) == module.__doc__.splitlines()[0].strip()


def test_an_experiment_names_the_extra_that_it_lacks():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from validation.__main__ import main\n"
        "print(main(['frontier', 'isotropic']), main(['section5']), "
        "main(['section5', '--peer-python', '/no']))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "2 2 2", done.stderr
    assert "frontier isotropic needs PyTorch" in done.stderr
    assert "pip install 'structured-dro[torch]'" in done.stderr
    assert "section5 needs matplotlib" in done.stderr
    assert "pip install 'structured-dro[validation]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_experiment_says_where_its_results_are(monkeypatch, capsys, tmp_path):
    def interrupted(config, out):
        raise KeyboardInterrupt

    stopped = registry.Experiment("section5", "", section5.Config, interrupted)
    monkeypatch.setattr(command_line, "load", lambda name: stopped)
    assert command_line.main(["section5", "--out", str(tmp_path)]) == 130
    assert (
        f"section5 was interrupted; what it finished is in {tmp_path}/" in capsys.readouterr().err
    )


def test_a_failed_check_is_an_exit_status(monkeypatch, capsys, tmp_path):
    failing = registry.Experiment(
        "section5", "", section5.Config, lambda config, out: [results.at_most("claim", 2.0, 1.0)]
    )
    monkeypatch.setattr(command_line, "load", lambda name: failing)
    assert command_line.main(["section5", "--out", str(tmp_path)]) == 1
    assert "NO" in capsys.readouterr().out
    assert not results.at_most("claim", float("nan"), 1.0).holds
    assert not results.at_least("claim", float("nan"), 1.0).holds


def test_small_core_benchmarks_are_certified(capsys):
    config = core.Config(problems=4, largest=20, most_samples=50, runs=1)
    rows = core.certificate_rows(config) + core.oracle_rows(config) + core.scaling_rows(config)
    for check in rows:
        assert check.holds, check
    assert "in the hard case" in capsys.readouterr().out


def test_small_benchmarks_of_samples_are_certified():
    config = samples.Config(samples=3000, size=8, runs=1, synthetic=9000, width=4)
    for row in (samples.mapped_row, samples.synthetic_row):
        found, checks = row(config)
        assert found["certified"]
        assert all(check.holds for check in checks if "MiB" in check.claim)


def test_the_large_finite_support_runs_in_its_own_process(capsys):
    checks = core.memory_rows(core.Config(finite=300))
    assert all(check.holds for check in checks)
    assert "peak memory" in capsys.readouterr().out


def test_timing_is_a_median_of_pairs():
    assert timing.median_seconds(lambda: None, 3) < 0.1
    first, second, ratio = timing.median_ratio(lambda: sum(range(1000)), lambda: None, 5)
    assert first > second
    assert ratio > 1


def test_the_measured_risk_is_below_the_certificate_for_every_change(tmp_path, capsys):
    checks = radii.run(radii.Config(samples=50, draws=5, points=5), tmp_path)
    assert all(check.holds for check in checks)
    with (tmp_path / "radii.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["change"] for row in rows} == {"noise", "operator", "Poisson"}
    assert all(float(row["measured"]) <= float(row["certified"]) for row in rows)
    assert {"radii.png", "radii.svg", "radii.json"} <= {path.name for path in tmp_path.iterdir()}


def test_small_maps_without_a_matrix(tmp_path, capsys):
    config = matrix_free.Config(side=24, samples=4, runs=1, problems=3)
    A, x = matrix_free.blur(config), matrix_free.images(config)
    B = A.inverse(regularization=1e-2)
    width, contained, _ = matrix_free.bracket_rows(config, B, x, A.apply(x), tmp_path)
    assert width.holds
    assert contained.holds
    assert all(check.holds for check in matrix_free.entropic_rows(config))
    assert "FFT" in capsys.readouterr().out
    assert (tmp_path / "brackets.csv").exists()


@pytest.mark.slow
def test_the_figures_of_the_maps_without_a_matrix(tmp_path):
    """Every row of `python -m validation benchmarks matrix-free` at full size (a minute)."""
    for check in matrix_free.run(matrix_free.Config(), tmp_path):
        assert check.holds, check


@pytest.mark.slow
def test_the_figures_of_the_core_benchmarks(tmp_path):
    """Every row of `python -m validation benchmarks core` at full size (minutes)."""
    for check in core.run(core.Config(), tmp_path):
        assert check.holds, check


def test_the_picture_of_the_first_page_is_certified(tmp_path):
    from validation import landing

    checks = landing.run(landing.Config(), tmp_path)
    assert all(check.holds for check in checks)
    written = json.loads((tmp_path / "landing.json").read_text())
    assert 1.0 < written["risk"] < 4.0
    assert (tmp_path / "landing.svg").stat().st_size > 10_000
