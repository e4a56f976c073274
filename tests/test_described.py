"""What results say of themselves: the same numbers in one line, as a table, as text, for JSON."""

import dataclasses
import inspect
import json
import sys
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dro_core
from dro_core import reference
from dro_core.described import LARGEST_LISTED, Described, Drawn, plain, short
from dro_core.read_only import ReadOnly

#: What is put in or asked, not an answer.
ASKED = {
    "GaussianNoise",
    "GrowthProfiles",
    "LinearReconstruction",
    "PoissonNoise",
    "ResidualSpectrum",
    "SampleWeightedReconstruction",
}


@cache
def results():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3))
    y, B = x + 0.1 * rng.standard_normal((20, 3)), np.eye(3)
    worst = dro_core.worst_case_risk(B, x, y, 1.0)
    weighted = dro_core.sample_weighted_worst_case(B, x, y, 0.5, weight_y=rng.random((20, 3)) + 0.5)
    fit = dro_core.fit_linear(x=x, y=y, radius=0.1)
    finite = dro_core.finite_worst_case(rng.random((5, 6)), 0.1 * rng.random((5, 6)), 0.5)
    entropic = dro_core.entropic_worst_case(B, x, y, 1.0, 0.1)
    distance = dro_core.conditional_wasserstein(x, y[:, :1], x, y[:, :1] + 1.0)
    two = dro_core.two_budget_worst_case(B, x, y, B, radius_x=0.1, radius_noise=0.1)
    plan = dro_core.unbalanced_ot(rng.random((3, 4)), np.ones(3), np.ones(4))
    report = dro_core.audit(B, x, y, radius=0.5)
    apart = dro_core.conditional_wasserstein(x, y[:, :1], x + 1.0, y[:, :1])
    found = [
        *(worst, weighted, fit, finite, entropic, distance, two, plan),
        *(item.verify() for item in (worst, fit, finite, entropic, distance, two, plan)),
        *(report, report.best, report.radius, *report.structures.values(), apart),
        dro_core.worst_case_curve(B, x, y, [0.0, 0.5, 1.0]),
        dro_core.cross_validated_radius(x, y, [0.1, 0.2]),
        dro_core.relaxed_curve(x, y[:, :1], x, y[:, :1] + 1.0, betas=[1.0, 2.0]),
        dro_core.twist_condition(B, 1.0),
        dro_core.twist_condition(-B, 1.0),
        dro_core.twist_condition(B, 1.0).verify(B),
        dro_core.shaped_noise(x=x, y=y, radius=0.1),
        dro_core.minimize_quadratic_dual(
            dro_core.LinearReconstruction(B, x, y).spectrum("y|x"), 1.0
        ),
        dro_core.wasserstein_mmse(B, np.eye(3), 0.1 * np.eye(3), 0.1, 0.1),
    ]
    return {f"{k} {type(item).__name__}": item for k, item in enumerate(found)}


def drawn():
    return {name: item for name, item in results().items() if isinstance(item, Drawn)}


def answers(module):
    """Exported classes that hold what was found."""
    for name in module.__all__:
        value = getattr(module, name)
        if not inspect.isclass(value) or name in ASKED:
            continue
        if dataclasses.is_dataclass(value) or issubclass(value, ReadOnly):
            yield value


@pytest.mark.parametrize("module", [dro_core, reference], ids=lambda module: module.__name__)
def test_every_answer_describes_itself(module):
    assert [cls.__name__ for cls in answers(module) if not issubclass(cls, Described)] == []
    seen = {type(item) for item in results().values()}
    assert len(seen & set(answers(dro_core))) >= 20


@pytest.mark.parametrize("name", [*results()])
def test_an_answer_says_the_same_in_every_form(name):
    found = results()[name]
    kind = type(found).__name__
    assert repr(found).startswith(f"{kind}(")
    assert "\n" not in repr(found)
    assert len(repr(found)) < 600
    json.dumps(found.to_dict(), allow_nan=False)
    page = found._repr_html_()
    assert page.count("<table") == page.count("</table>") == 1
    if kind == "Audit":  # words of its own, see test_auditing
        return
    lines = found.summary().splitlines()
    assert lines[0] == kind
    said = [line.split()[0] for line in lines[1:]]
    assert page.count("<tr>") == len(said)
    for entry in said:
        assert f"{entry}=" in repr(found)
    assert set(said) <= {*found.to_dict(), "holds"} or kind == "StructureAudit"


def test_a_certificate_says_whether_it_holds():
    found = results()
    certificate = next(item for item in found.values() if type(item).__name__ == "Certificate")
    assert certificate.to_dict()["holds"] is True
    assert dataclasses.replace(certificate, primal_risk=0.0).to_dict()["holds"] is False


def keeps_the_rules(ax):
    """The picture can be read on a page (without the experiments there is nothing to check by)."""
    try:
        from validation.figures import faults
    except ModuleNotFoundError:
        return
    assert faults(ax.figure) == []


@pytest.mark.parametrize("name", [*drawn()])
def test_a_picture_has_names_on_its_axes(name, monkeypatch):
    pytest.importorskip("matplotlib", reason="pictures are optional").use("Agg")
    from matplotlib import pyplot

    found = drawn()[name]
    if type(found).__name__ == "ConditionalDistance" and np.isinf(found.value):
        with pytest.raises(ValueError, match="there is no plan"):
            found.plot()
        pyplot.close("all")
        return
    figure, ax = pyplot.subplots()
    assert found.plot(ax) is ax
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.has_data()
    figure.canvas.draw()
    own = found.plot()
    assert own is not ax
    keeps_the_rules(own)
    pyplot.close("all")
    with pytest.raises(TypeError, match="ax: int; allowed: Axes"):
        found.plot(3)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=rf"{type(found).__name__}.plot needs matplotlib"):
        found.plot()


@pytest.mark.parametrize(("structure", "moved"), [("y|x", "y"), ("x|y", "x"), ("joint", None)])
def test_a_worst_case_draws_the_sample_that_costs_most(rng, structure, moved):
    pytest.importorskip("matplotlib", reason="pictures are optional").use("Agg")
    from matplotlib import pyplot

    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 5))
    worst = dro_core.worst_case_risk(rng.standard_normal((4, 5)), x, y, 1.0, structure)
    costs = worst.structure.transport_cost(worst.displacement_x, worst.displacement_y)
    k = int(np.argmax(costs))
    after, before = (line.get_ydata() for line in worst.plot().lines)
    pyplot.close("all")
    pairs = {"x": (worst.x[k], x[k]), "y": (worst.y[k], y[k])}
    first, second = pairs[moved or ("y" if before.size == 5 else "x")]
    np.testing.assert_allclose(after, first, rtol=1e-12)
    np.testing.assert_array_equal(before, second)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.floats(), max_size=6).map(np.array),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_is_said_in_one_line_and_goes_into_json(value):
    json.loads(json.dumps(plain(value), allow_nan=False))
    assert "\n" not in short(value)


def test_large_arrays_are_given_by_their_shape():
    large = np.zeros((LARGEST_LISTED, 2))
    assert plain(large) == {"shape": [LARGEST_LISTED, 2]}
    assert short(large) == f"<{LARGEST_LISTED} x 2 array>"
    assert short(np.arange(6.0)) == "<6 array from 0 to 5>"
    assert short(np.arange(2.0)) == "[0, 1]"
