"""What certificates, data and geometries of `dro_torch` say of themselves."""

import json
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="dro_torch needs torch")

from dro_core.described import Described, Drawn  # noqa: E402
from dro_torch import bisect_multiplier, certify, lipschitz_lower, lipschitz_upper  # noqa: E402
from dro_torch.data import CTSlices, FanBeamScan, LabelledImages  # noqa: E402
from dro_torch.tomography import FanBeamGeometry  # noqa: E402


@cache
def results():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
    images = torch.rand(3, 1, 8, 8)
    geometry = {"detector_pixel": 1.0, "detector_count": 20, "image_size": 8, "pixel_size": 1.0}
    geometry |= {"source_origin": 40.0, "source_detector": 60.0, "centre_offset": 0.5}
    angles = np.linspace(0, np.pi, 9)
    found = [
        certify(network, x, x, 0.5, steps=2, directions=2),
        certify(torch.nn.Linear(4, 4), x, x, 0.5, steps=2, directions=2),
        lipschitz_upper(network),
        lipschitz_upper(network).layers[0],
        lipschitz_lower(network, x),
        bisect_multiplier(
            network,
            lambda model, value, steps: None,
            lambda model, value: (value - 2.0) ** 2,
            low=1.0,
            high=4.0,
            tolerance=0.5,
            steps=1,
            last_steps=1,
        ),
        LabelledImages((255 * images).byte(), torch.tensor([0, 1, 0]), ("cat", "<dog>")),
        LabelledImages((255 * images).byte().repeat(1, 3, 1, 1), torch.ones(3).long(), ("a", "b")),
        CTSlices(images, ("P1", "P1", "P2"), torch.full((3,), 0.7)),
        FanBeamScan(images[0, 0], torch.arange(8.0), 40.0, 60.0, 1.0, 8, 1.0),
        FanBeamGeometry(angles=angles, **geometry),
        FanBeamGeometry(angles=angles, detector="curved", **geometry),
    ]
    return {f"{k} {type(item).__name__}": item for k, item in enumerate(found)}


@pytest.mark.parametrize("name", [*results()])
def test_what_is_said_is_short_and_goes_into_json(name):
    found = results()[name]
    assert isinstance(found, Described)
    assert repr(found).startswith(f"{type(found).__name__}(")
    assert "\n" not in repr(found)
    assert len(repr(found)) < 400
    assert "tensor(" not in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "<dog>" not in found._repr_html_()
    assert found.summary()


@pytest.mark.parametrize("name", [k for k, item in results().items() if isinstance(item, Drawn)])
def test_pictures(name):
    pytest.importorskip("matplotlib", reason="pictures are optional").use("Agg")
    from matplotlib import pyplot

    ax = results()[name].plot()
    assert ax.has_data()
    figures = pytest.importorskip("validation.figures", reason="the packages alone")
    assert figures.faults(ax.figure) == []
    pyplot.close("all")


def test_a_certificate_as_json_is_its_dictionary():
    certificate = next(iter(results().values()))
    assert json.loads(certificate.to_json()) == certificate.to_dict()
    assert certificate.to_dict()["holds"] is True
    assert certificate.to_dict()["budget"] == 0.25
    assert "displacement" not in certificate.to_dict()
    assert certificate.summary() == str(certificate)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_the_drawn_rays_are_those_of_the_projector(detector):
    """From the source through the axis to the cell that `on_detector` gives."""
    from dro_torch.tomography.geometry import slope_at

    found = FanBeamGeometry(40.0, 60.0, 1.0, 21, [0.3, 1.0], 8, 1.0, 0.25, 0.5, detector)
    pytest.importorskip("matplotlib", reason="pictures are optional").use("Agg")
    from matplotlib import pyplot

    ax = found.plot()
    sources, cells = (ax.lines[k].get_xydata() for k in (1, 2))
    pyplot.close("all")
    for k in (0, 7, 20):
        point = sources[0] + 0.6 * (cells[k] - sources[0])  # on the ray to cell k
        place = found.on_detector(slope_at(found, 0.3, *point))
        assert place == pytest.approx(found.detector_positions[k], abs=1e-9)
