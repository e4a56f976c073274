"""Mistakes that shapes and types do not show, and what the messages say to do about them."""

import warnings

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

import dro_core
from dro_core import (
    LinearReconstruction,
    audit,
    dual_value,
    fit_linear,
    operators,
    worst_case_curve,
    worst_case_risk,
)
from dro_core.cli import main as cli
from dro_core.swapped import SwappedWarning, warn_if_swapped


@pytest.fixture
def blurred(rng):
    """Rough signals, what a blur makes of them, and the map that undoes it."""
    blur = operators.BackwardHeat(time=2e-4, size=32)
    x = rng.standard_normal((60, 32))
    y = x @ blur.matrix().T + 0.01 * rng.standard_normal(x.shape)
    return blur.inverse(regularization=1e-4).matrix(), x, y


@pytest.mark.parametrize(
    "ask",
    [
        lambda B, x, y: worst_case_risk(B, x, y, 0.1),
        lambda B, x, y: worst_case_curve(B, x, y, [0.1]),
        LinearReconstruction,
        lambda B, x, y: audit(B, x, y, radius=0.1, structures="y|x", best=False),
        lambda B, x, y: audit(lambda rows: rows @ B.T, x, y, radius=0.1, best=False),
    ],
)
def test_signals_and_measurements_in_each_others_place_are_noticed(blurred, ask):
    B, x, y = blurred
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(B, x, y)
    with pytest.warns(SwappedWarning, match="are the two exchanged") as caught:
        ask(B, y, x)
    assert caught[0].filename == __file__


def test_nothing_is_said_without_evidence(blurred, rng):
    B, x, y = blurred
    images = y @ B.T, x @ B.T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_swapped(y[:9], x[:9], images[1][:9], images[0][:9])  # too few samples
        warn_if_swapped(x, x, x, x)  # the identity on equal data
        warn_if_swapped(x, y, 0 * x, 0 * x)  # the map that gives up
        warn_if_swapped(x + np.nan, y, *images)
        warn_if_swapped(1 + 0 * x, y, *images)  # signals without variance
    with pytest.warns(SwappedWarning):
        warn_if_swapped(y, x, images[1], images[0])


def test_a_map_for_a_large_radius_is_not_mistaken_for_a_blur(rng):
    """It smooths like the blur: B takes x to y ten times better than y to x, and rightly so."""
    n = 32
    steps = (np.arange(n)[:, None] - np.arange(n) + n / 2) % n - n / 2
    prior = np.exp(-0.5 * steps**2)  # smooth signals
    blur = np.exp(-0.5 * (steps / 1.2) ** 2)
    blur /= blur.sum(axis=1, keepdims=True)
    x = rng.multivariate_normal(np.zeros(n), prior, 400)
    y = x @ blur.T
    ratios = []
    for radius in (2.5, 3.0):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            B = fit_linear(x=x, y=y, radius=radius).matrix
            worst_case_risk(B, x, y, radius)
        ratios.append(np.sum((y - x @ B.T) ** 2) / np.sum((x - y @ B.T) ** 2))
    assert min(ratios) < 0.1, ratios


@pytest.mark.parametrize(
    ("given", "exchanged", "far"), [(2.5, 0.2, True), (2.5, 0.3, False), (1.5, 0.1, False)]
)
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_far_better_is_ten_times_and_leaves_half(rng, given, exchanged, far, scale):
    x, y = scale * rng.standard_normal((2, 20, 4))
    first, second = scale * np.sqrt([given / 4, exchanged / 4])  # of every entry
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_swapped(x, y, x + first, y - second)
    assert bool(caught) is far


MISSPELT = [
    (worst_case_risk, {"radius": 1.0}, "worst_case_risk"),
    (worst_case_curve, {"radii": [1.0]}, "worst_case_curve"),
    (dual_value, {"multiplier": 9.0, "radius": 1.0}, "dual_value"),
]


@pytest.mark.parametrize(("function", "arguments", "name"), MISSPELT)
def test_a_misspelt_keyword_is_blamed_on_the_function_that_was_called(function, arguments, name):
    x = np.eye(3)
    for given, meant in (("structur", "structure"), ("norm_bond", "norm_bound")):
        with pytest.raises(TypeError, match=rf"^{name}\(\) got .*'{given}' .*mean '{meant}'"):
            function(x, x, x, **arguments, **{given: "joint"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rtol", 1e-3),
        ("max_steps", 50),
        ("random_starts", 2),
        ("failure_probability", 0.1),
        ("seed", 1),
    ],
)
def test_what_a_matrix_does_not_use_is_refused(rng, name, value):
    B = rng.standard_normal((3, 4))
    x, y = rng.standard_normal((5, 3)), rng.standard_normal((5, 4))
    with pytest.raises(ValueError, match=rf"^{name}: only a LinearOperator is iterated"):
        worst_case_risk(B, x, y, 1.0, **{name: value})
    found = worst_case_risk(aslinearoperator(B), x, y, 1.0, **{name: value})
    assert found.lower <= found.upper * (1 + 1e-12)


class Attached:
    """A tensor with a graph, without torch."""

    requires_grad = True

    def detach(self):
        return np.eye(3)

    def __array__(self, *_args, **_kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


ATTACHED = Attached()


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (worst_case_risk, (ATTACHED, np.eye(3), np.eye(3), 1.0), "B"),
        (worst_case_risk, (np.eye(3), ATTACHED, np.eye(3), 1.0), "x"),
        (worst_case_risk, (np.eye(3), np.eye(3), np.eye(3), ATTACHED), "radius"),
        (dro_core.explicit_bound, (ATTACHED, 1.0, 1.0), "fidelity"),
        (dro_core.finite_worst_case, (ATTACHED, np.eye(3), 1.0), "loss"),
        (dro_core.unbalanced_ot, (ATTACHED, np.ones(3), np.ones(3)), "cost"),
        (dro_core.twist_condition, (ATTACHED, 1.0), "forward"),
        (dro_core.LinearDRO().fit, (ATTACHED, np.eye(3)), "X"),
    ],
)
def test_a_tensor_with_a_graph_is_told_what_to_pass(function, arguments, name):
    with pytest.raises(TypeError, match=rf"^{name}: a tensor that requires grad; pass {name}\."):
        function(*arguments)


def test_a_function_in_place_of_its_value_is_told_to_be_called():
    x = np.eye(3)
    with pytest.raises(TypeError, match=r"^radius: .* \(call it: radius\(\)\); allowed"):
        worst_case_risk(x, x, x, lambda: 1.0)


def test_ctrl_c_on_the_command_line_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.__globals__["COMMANDS"], "version", interrupted)
    assert cli(["version"]) == 130
    assert capsys.readouterr().err == "structured-dro: interrupted; nothing was written\n"
