"""The look of all figures: colours that differ for everyone, type to read, no repetition."""

import itertools

import numpy as np
import pytest

from dro_core import style, worst_case_curve

mpl = pytest.importorskip("matplotlib", reason="the extra plot")
pytest.importorskip("matplotlib.pyplot").switch_backend("agg")

#: Linear RGB as seen without long, middle or short cones (Machado, Oliveira, Fernandes 2009).
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]
    ),
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


def linear(colour):
    """Linear RGB of a colour that matplotlib knows (sRGB)."""
    srgb = np.array(mpl.colors.to_rgb(colour))
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, white of D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
def test_the_colours_differ_for_everyone(sight):
    seen = [lab(SIGHT[sight] @ linear(colour)) for colour in style.PALETTE]
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(first - second) >= 19


@pytest.mark.parametrize("colour", [*style.PALETTE, style.MUTED])
def test_lines_stand_out_from_the_ground(colour):
    """Contrast of at least 3:1 against white, as WCAG 2 asks of graphics."""
    assert 1.05 / (TO_XYZ[1] @ linear(colour) + 0.05) >= 3


def test_no_line_of_a_plot_looks_like_another():
    pairs = [tuple(style.look(k).values()) for k in range(24)]
    assert len(set(pairs)) == 24
    with style.styled():
        axis = mpl.figure.Figure().subplots()
        lines = [axis.plot([0, 1], [k, k])[0] for k in range(24)]
    assert [(line.get_color(), line.get_linestyle()) for line in lines] == pairs


def test_the_look_is_in_force_inside_only():
    before = dict(mpl.rcParams)
    with style.styled():
        sizes = [mpl.rcParams[f"{name}.labelsize"] for name in ("axes", "xtick", "ytick")]
        assert min(*sizes, mpl.rcParams["font.size"], mpl.rcParams["legend.fontsize"]) >= 8
        assert mpl.rcParams["figure.figsize"][0] <= style.PAGE
        assert mpl.colors.to_rgba(mpl.rcParams["savefig.facecolor"]) == (1, 1, 1, 1)
    assert dict(mpl.rcParams) == before


def test_results_draw_themselves_in_it_or_on_given_axes_in_theirs():
    x = np.random.default_rng(0).standard_normal((20, 3))
    curve = worst_case_curve(np.eye(3), x, x + 0.1, [0.0, 0.5, 1.0])
    own = curve.plot()
    assert own.get_lines()[0].get_color() == style.PALETTE[0]
    assert own.xaxis.label.get_size() == style.TYPE
    given = mpl.figure.Figure().subplots()
    assert curve.plot(given) is given
    assert given.get_lines()[0].get_color() != style.PALETTE[0]
    mpl.pyplot.close("all")


@pytest.mark.parametrize("heights", [[0.5, 0.5, 0.5], [0.0, 0.99, 1.0], [0.2, 0.9, 0.4]])
def test_labels_at_the_ends_of_lines_stay_apart_and_inside(heights):
    with style.styled():
        axis = mpl.figure.Figure().subplots()
        for k, height in enumerate(heights):
            axis.plot([0, 1], [0, height], label=f"line {k}")
        axis.plot([0, 1], [0, 0])
        axis.set(ylim=(0, 1))
        style.label_lines(axis, gap=0.06)
    places = {text.get_text(): text.xy[1] for text in axis.texts}
    assert set(places) == {f"line {k}" for k in range(len(heights))}
    ordered = sorted(places.values())
    assert np.diff(ordered).min() >= 0.06 - 1e-12
    assert ordered[-1] <= 1
    assert max(places, key=places.get) == f"line {max(range(3), key=lambda k: heights[k])}" or (
        len(set(heights)) == 1
    )
