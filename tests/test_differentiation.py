"""Differentiation (paper §6.2): the paper's algorithm, its gradient, and the experiment."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dro_core import LinearReconstruction, dual_value, entropic_worst_case, fit_linear
from dro_core.operators import Integration
from validation import __main__ as command_line
from validation import differentiation as experiment
from validation import registry
from validation import seed_algorithm as algorithm

SEEDS = st.integers(0, 2**32 - 1)


def problem(seed, samples=5, n=3, m=2):
    rng = np.random.default_rng(seed)
    return rng, rng.standard_normal((n, m)), *(rng.standard_normal((samples, k)) for k in (n, m))


# --- the Monte-Carlo dual ---------------------------------------------------------------------


@given(SEEDS, st.floats(0.05, 20), st.floats(1e-3, 1))
def test_gradient_of_the_estimate_by_differences(seed, multiplier, epsilon):
    rng, B, x, y = problem(seed)
    noise, direction = rng.standard_normal((5, 4, 2)), rng.standard_normal(B.shape)

    def value(step):
        moved = B + step * direction
        return algorithm.monte_carlo_potential(moved, x, y, noise, multiplier, epsilon)[0]

    gradient = algorithm.monte_carlo_potential(B, x, y, noise, multiplier, epsilon)[1]
    step = 1e-4 * min(1.0, multiplier * epsilon)
    slope = (8 * (value(step) - value(-step)) - value(2 * step) + value(-2 * step)) / (12 * step)
    scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert slope == pytest.approx(float((gradient * direction).sum()), abs=2e-5 * scale)


@given(SEEDS)
def test_estimate_of_one_draw_is_the_mean_squared_error_of_the_moved_data(seed):
    rng, B, x, y = problem(seed)
    noise = rng.standard_normal((5, 1, 2))
    value, _ = algorithm.monte_carlo_potential(B, x, y, noise, 3.0, 0.5)
    moved = y + 0.5 * noise[:, 0]
    assert value == pytest.approx(((x - moved @ B.T) ** 2).sum(axis=1).mean(), rel=1e-12)


def test_estimate_tends_to_the_exact_dual_above_twice_the_threshold(rng):
    _, B, x, y = problem(0, samples=4)
    top, epsilon = np.linalg.norm(B, 2) ** 2, 0.3
    noise = rng.standard_normal((4, 40_000, 2))
    found, _ = algorithm.monte_carlo_potential(B, x, y, noise, 6 * top, epsilon)
    assert found == pytest.approx(dual_value(B, x, y, 6 * top, 0.0, epsilon=epsilon), rel=0.01)


@given(SEEDS, st.floats(1.05, 5))
@settings(max_examples=30)
def test_estimate_is_too_low_on_average(seed, ratio):
    """Jensen: the mean over draws of the estimate is at most the exact potential."""
    rng, B, x, y = problem(seed)
    multiplier, epsilon = ratio * np.linalg.norm(B, 2) ** 2, 0.5
    values = [
        algorithm.monte_carlo_potential(
            B, x, y, rng.standard_normal((5, 2, 2)), multiplier, epsilon
        )[0]
        for _ in range(100)
    ]
    exact = dual_value(B, x, y, multiplier, 0.0, epsilon=epsilon)
    assert np.mean(values) <= exact + 5 * np.std(values) / 10


def test_estimate_stays_finite_below_the_threshold_where_the_dual_is_infinite(rng):
    _, B, x, y = problem(1)
    multiplier = 0.1 * np.linalg.norm(B, 2) ** 2
    value, _ = algorithm.monte_carlo_potential(
        B, x, y, rng.standard_normal((5, 8, 2)), multiplier, 1
    )
    assert math.isfinite(value)
    with pytest.raises(ValueError, match="multiplier"):
        dual_value(B, x, y, multiplier, 0.0, epsilon=1.0)


# --- the algorithms ---------------------------------------------------------------------------


def easy():
    """Noisy data, so that the optimum is inside and every method gets there fast."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 4))
    y = x[:, :3] + 0.3 * rng.standard_normal((40, 3))
    return x, y, algorithm.random_start(rng, 4, 3)


def exact_risk(B, x, y, radius=0.3, epsilon=0.5):
    return entropic_worst_case(B, x, y, radius, epsilon).risk


@pytest.mark.parametrize("memory", [0, 10])
def test_full_gradient_reaches_the_exact_optimum_and_never_rises(memory):
    x, y, start = easy()
    found = algorithm.full_gradient("full", start, x, y, 0.3, 0.5, 300, memory=memory)
    fit = fit_linear(x=x, y=y, radius=0.3, epsilon=0.5)
    risks = [exact_risk(B, x, y) for B in found.maps]
    assert min(risks) >= fit.risk * (1 - 1e-12)
    assert risks[-1] == pytest.approx(fit.risk, rel=1e-9)
    assert np.all(np.diff(risks) <= 1e-12)
    assert found.multipliers[-1] == pytest.approx(fit.multiplier, rel=1e-4)
    assert np.all(np.diff(found.seconds) >= 0)
    np.testing.assert_allclose(found.final, fit.matrix, atol=1e-3)


def test_full_gradient_is_that_of_the_dual_at_the_exact_multiplier():
    x, y, start = easy()
    worst = entropic_worst_case(start, x, y, 0.3, 0.5)
    gradient, slope = LinearReconstruction(start, x, y).dual_gradient(
        worst.multiplier, 0.3, "y|x", epsilon=0.5
    )
    np.testing.assert_allclose(worst.gradient, gradient, rtol=1e-9)
    assert abs(slope) <= 1e-9
    first = algorithm.full_gradient("full", start, x, y, 0.3, 0.5, 1).final
    step = (start - first) / gradient
    np.testing.assert_allclose(step, step[0, 0], rtol=1e-9)


@pytest.mark.parametrize("name", ["mirror", "adam"])
def test_paper_algorithm_comes_near_the_optimum_where_the_estimate_is_good(name):
    x, y, start = easy()
    fit = fit_linear(x=x, y=y, radius=0.3, epsilon=0.5)
    assert fit.multiplier > 2.5 * fit.singular_values[0] ** 2
    method = algorithm.MirrorDescent(0.5, y) if name == "mirror" else algorithm.Adam(0.02)
    bounds = fit.multiplier / 2, 3 * fit.multiplier
    found = algorithm.seed_algorithm(
        name,
        start,
        x,
        y,
        0.3,
        0.5,
        method,
        algorithm.Sampling(20, 8, 100),
        algorithm.Bisection(*bounds, 0.1, 60, 400),
        np.random.default_rng(0),
    )
    assert 1 - 1e-12 <= exact_risk(found.final, x, y) / fit.risk < 1.05
    assert exact_risk(start, x, y) > 1.5 * fit.risk
    assert all(bounds[0] <= multiplier <= bounds[1] for multiplier in found.multipliers)
    assert found.steps[-1] == 7 * 60 + 400
    assert found.multipliers[-1] == pytest.approx(fit.multiplier, rel=0.6)


def test_paper_algorithm_names_an_overflow():
    x, y, start = easy()
    with (
        pytest.raises(FloatingPointError, match="boom: overflow at step"),
        np.errstate(all="ignore"),
    ):
        algorithm.seed_algorithm(
            "boom",
            start,
            x,
            y,
            0.3,
            0.5,
            algorithm.MirrorDescent(1e9, y),
            algorithm.Sampling(5, 2, 2),
            algorithm.Bisection(1, 2, 0.5, 500, 5),
            np.random.default_rng(0),
        )


def quadratic_steps(method, steps, last):
    """Maps seen while minimising |B|²/2 from 1."""
    seen = []
    method.descend(
        np.ones((1, 1)), lambda B: B, steps, lambda B: seen.append(float(B[0, 0])), last=last
    )
    return seen


def test_mirror_descent_decays_its_steps_and_averages_the_second_half():
    method = algorithm.MirrorDescent(1.0, np.eye(2))  # curvature 2 λmax(YᵀY / 2) = 1
    assert method.step == pytest.approx(1.0)
    method.step = 0.5
    iterates = [1.0]
    for t in (1, 2, 3, 4):
        iterates.append(iterates[-1] * (1 - 0.5 / math.sqrt(t)))
    seen = quadratic_steps(method, 4, last=False)
    assert seen[:2] == pytest.approx(iterates[1:3])
    assert seen[-1] == pytest.approx(np.mean(iterates[2:]))


def test_adam_moves_by_its_rate_and_anneals_in_the_last_run_only():
    constant = -np.diff([1.0, *quadratic_steps(algorithm.Adam(1e-3), 100, last=False)])
    np.testing.assert_allclose(constant, 1e-3, rtol=0.05)
    annealed = -np.diff([1.0, *quadratic_steps(algorithm.Adam(1e-3), 100, last=True)])
    np.testing.assert_allclose(annealed[:5], 2e-4 * np.arange(1, 6), rtol=1e-2)  # warm-up
    assert annealed[-1] < 1e-6 < annealed[50]


# --- judging maps -----------------------------------------------------------------------------


@given(SEEDS)
def test_truncation_errors_are_those_of_truncated_maps(seed):
    rng = np.random.default_rng(seed)
    B, x, y = rng.standard_normal((4, 4)), *rng.standard_normal((2, 6, 4))
    left, values, right = np.linalg.svd(B)
    found = experiment.truncation_errors(B, x, y)
    for k in range(5):
        cut = (left[:, :k] * values[:k]) @ right[:k]
        assert found[k] == pytest.approx(np.sqrt(np.mean((x - y @ cut.T) ** 2)), rel=1e-9)


@given(SEEDS, st.floats(1e-3, 10))
def test_stability_of_a_linear_map_is_its_gain_along_the_direction(seed, perturbation):
    rng = np.random.default_rng(seed)
    B, y, d = rng.standard_normal((3, 4)), rng.standard_normal((1, 4)), rng.standard_normal((5, 4))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    found = experiment.stability(B, y, d, perturbation)
    np.testing.assert_allclose(found, np.linalg.norm(d @ B.T, axis=1), rtol=1e-9)


def test_least_squares_is_the_limit_of_gradient_descent(rng):
    x, y, start = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), np.ones((4, 4))
    data, B = experiment.Data(x, y, 1, 0.0), start
    for _ in range(20_000):
        B = B + 0.02 * (x - y @ B.T).T @ y
    np.testing.assert_allclose(experiment.least_squares(data, start), B, atol=1e-8)
    np.testing.assert_allclose(experiment.least_squares(data), (np.linalg.pinv(y) @ x).T)


CONFIG = experiment.Config()


def test_data_are_sine_series_and_their_integrals():
    data = experiment.draw(CONFIG, 0, 50, 10)
    assert np.linalg.matrix_rank(data.x) == 10
    np.testing.assert_allclose(data.y, np.cumsum(data.x, axis=1) / 64)
    many = experiment.signals(CONFIG, np.random.default_rng(0), 20_000, 10, 0.0)
    assert experiment.root_mean_square(many) == pytest.approx(experiment.signal_size(10), rel=0.02)
    assert (
        np.linalg.matrix_rank(experiment.draw(CONFIG, 0, 500, 10, 0.01).x) == 63
    )  # sin(πni/n) = 0
    again = experiment.draw(CONFIG, 2, 50, 10)
    assert not np.allclose(again.x, data.x)
    shift = experiment.noisy(CONFIG, again, 2, 0.1) - again.y
    np.testing.assert_allclose(experiment.noisy(CONFIG, again, 2, 0.2) - again.y, 2 * shift)
    assert experiment.root_mean_square(shift) == pytest.approx(0.1, rel=0.05)


def test_tikhonov_solves_its_normal_equations(rng):
    B, y = experiment.tikhonov(CONFIG, 0.01), rng.standard_normal(64)
    x, A = B @ y, Integration(64).matrix()

    def objective(z):
        return ((y - A @ z) ** 2).sum() + 0.01 * (np.diff(z) ** 2).sum()

    assert all(objective(x + 1e-3 * rng.standard_normal(64)) > objective(x) for _ in range(20))


def test_validated_tikhonov_is_the_best_of_its_grid():
    data = experiment.draw(CONFIG, 1, CONFIG.test_samples, 10)
    y = experiment.noisy(CONFIG, data, 1, 0.03)
    weight, B = experiment.validated_tikhonov(CONFIG, 10, 0.03)
    best = experiment.root_mean_square(data.x - y @ B.T)
    for factor in (0.1, 10.0):
        other = experiment.tikhonov(CONFIG, factor * weight)
        assert experiment.root_mean_square(data.x - y @ other.T) > best
    assert experiment.validated_tikhonov(CONFIG, 10, 0.0)[0] < weight


# --- claims and settings ----------------------------------------------------------------------


def test_least_squares_also_drops_and_the_penalty_alone_does_not():
    """On data with a small tail the drop of the exact map is owed to the entropy weight."""
    config = registry.configure(experiment.Config, ["size=16", "modes=4", "more_modes=6"])
    data = experiment.draw(config, 0, 60, 4, 0.01)
    ratios = {
        epsilon: experiment.drop(
            fit_linear(x=data.x, y=data.y, radius=0.1, epsilon=epsilon).singular_values, 4
        )
        for epsilon in (0.0, 1e-3)
    }
    assert ratios[1e-3] < 0.1 < 0.5 < ratios[0.0]
    clean = experiment.draw(config, 0, 60, 4)
    values = np.linalg.svd(experiment.least_squares(clean), compute_uv=False)
    assert experiment.drop(values, 4) < 1e-10


SMALL = [
    "size=20",
    "modes=4",
    "more_modes=6",
    "samples=40",
    "test_samples=30",
    "steps=15",
    "last_steps=60",
    "gradient_steps=250",
    "batch=16",
    "tail=0.01",
]


def test_the_experiment_holds_when_small_and_writes_its_tables(tmp_path, capsys):
    changes = [part for change in SMALL for part in ("--set", change)]
    assert command_line.main(["differentiation", "--out", str(tmp_path), *changes]) == 0
    assert "13 of 13 checks hold" in (printed := capsys.readouterr().out)
    assert "does not hold" in printed
    tables = [
        "noise",
        "stability",
        "rank",
        "tails",
        "claims",
        "algorithms",
        "endings",
        "estimates",
        "tikhonov_weights",
    ]
    names = {path.name for path in tmp_path.iterdir()}
    figures = ("differentiation_noise", "differentiation_rank", "differentiation_time")
    assert {f"{name}.{kind}" for name in tables for kind in ("csv", "json")} <= names
    assert {f"{name}.{kind}" for name in figures for kind in ("svg", "png")} <= names
    rows = {name: json.loads((tmp_path / f"{name}.json").read_text())["rows"] for name in tables}
    assert {row["trials"] for row in rows["noise"]} == {5}
    assert all(row["rmse"] > 0 and row["deviation"] >= 0 for row in rows["noise"])
    assert {row["directions"] for row in rows["stability"]} == {20}
    for row in rows["stability"]:
        assert row["stability"] <= row["largest"] <= row["supremum"] * (1 + 1e-9)
    ranks = [row for row in rows["rank"] if row["method"] == experiment.QUASI]
    assert [row["rank"] for row in ranks] == list(range(1, 21))
    error = {(r["modes"], r["method"], r["noise"]): r["rmse"] for r in rows["noise"]}
    whole = {key[8:]: v for key, v in ranks[-1].items() if key.startswith("rmse at")}
    for (modes, method, level), value in error.items():  # no truncation: the map itself
        if (modes, method) == (4, experiment.QUASI):
            assert whole[f"noise {level:.3g}"] == pytest.approx(value, rel=1e-6)
    for row in rows["claims"]:
        limit = float(row["holds_if"].split()[-1])
        assert row["holds"] == ("holds" if row["number"] <= limit else "does not hold")
    for row in rows["algorithms"]:
        assert row["excess"] >= -1e-9
        assert row["seconds"] >= 0


def test_the_same_seed_gives_the_same_rows():
    config = registry.configure(experiment.Config, SMALL)
    maps = {"one": np.eye(20)}
    first, second = (experiment.rank_rows(config, 4, 0.0, maps) for _ in range(2))
    assert first == second
    other = registry.configure(experiment.Config, [*SMALL, "seed=1"])
    assert experiment.rank_rows(other, 4, 0.0, maps) != first


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trials=4", "--set trials: 4; allowed: at least 5"),
        ("directions=9", "--set directions: 9; allowed: at least 10"),
        ("noise_levels=4", "--set noise_levels: 4; allowed: odd"),
        ("noise_levels=1", "--set noise_levels: 1; allowed: at least 3"),
        ("modes=1", "--set modes: 1, .* allowed: 2 <= modes"),
        ("modes=20", "--set modes: 20, more_modes: 20"),
        ("more_modes=64", "more_modes: 64, size: 64"),
        ("samples=63", r"--set samples: 63; allowed: at least size \(64\)"),
        ("seed=-1", "--set seed: -1; allowed"),
        ("epsilon=0.0", "--set epsilon: 0.0; allowed: above 0"),
        ("radius=0.1", r"--set radius: 0.1; allowed: above small_radius \(0.1\)"),
        ("tolerance=1.0", "--set tolerance: 1.0; allowed: 0.001"),
        ("steps=0", "--set steps: 0 is below 1"),
        ("high_multiplier=50.0", "--set high_multiplier: 50.0; allowed: above low_multiplier"),
    ],
)
def test_settings_are_checked(assignment, message):
    with pytest.raises(ValueError, match=message):
        registry.configure(experiment.Config, [assignment])
