"""The exact experiments about transport maps, small: few images, and learned maps against plans."""

import csv
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import validation.__main__ as command_line  # noqa: E402
from dro_core.unbalanced import unbalanced_ot  # noqa: E402
from validation.errors import UsageError  # noqa: E402
from validation.isum import exact, few  # noqa: E402


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_learned_maps_against_plans_at_their_smallest(tmp_path):
    config = exact.Config(points=24, steps=3, width=4, images=False)
    checks = exact.run(config, tmp_path)
    assert [check.limit for check in checks] == [0.03] * 4
    rows = rows_of(tmp_path / "exact.csv")
    assert [(row["problem"], row["method"]) for row in rows] == [
        (f"{dimension}-D{shares}", method)
        for shares in ("", ", equal shares")
        for dimension in (2, 16)
        for method in exact.METHODS
    ]
    for row in rows:
        assert float(row["map_error"]) > 0
        assert (float(row["rate"]), int(row["map_every"])) in exact.TUNED
        assert (row["weights_error"] == "") == (row["method"] in ("OTUR", "RCOT"))
    made = json.loads((tmp_path / "exact.json").read_text())
    assert made["experiment"] == "isum exact"


def test_a_learned_value_meets_the_exact_one_on_points():
    """ISUM on the plane, 400 iterations: the goal of 3 %."""
    config = exact.Config(points=100, steps=400, width=64, tuned=False)
    row = exact.compared(config, exact.points(config, 2), "ISUM")
    assert row["value_error"] < 0.03
    assert row["weights_error"] < 0.1
    assert row["map_error"] < row["identity_error"] / 2


def test_the_price_of_otur_at_the_clean_points_themselves():
    """Where T(y) are the clean points the distance is zero and the price is rho times the root."""
    config = exact.Config(points=20)
    problem = exact.points(config, 2)
    loss = exact.loss_of("OTUR", problem)
    value = exact.distance_objective(loss, problem, problem.x)
    root = float((problem.x - problem.y).square().mean().sqrt())
    assert value == pytest.approx(loss.distance * root, rel=1e-5)


def test_barycentres_of_a_plan_by_hand():
    """Two measurements, the second at the middle of two clean points."""
    plan = unbalanced_ot([[0.0, 4.0, 9.0], [4.0, 1.0, 1.0]], [1.0, 1.0], [1.0, 0.5, 0.5])
    x = np.array([[0.0], [2.0], [4.0]])
    clean = torch.tensor(x, dtype=torch.float32)
    torch.testing.assert_close(
        few.barycentres(plan, clean), torch.tensor([[0.0], [3.0]]), atol=1e-5, rtol=0
    )


@pytest.fixture
def pool():
    from dro_torch.data import IndexedDataset

    images = 2 * torch.rand(240, 1, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    return IndexedDataset(images)


def test_few_images_by_pairing_number_and_level(pool, tmp_path):
    rows, gains = few.rows_and_gains(few.Config(largest=50, draws=2), pool)
    assert set(gains) == {"disjoint, 50 images", "shuffled, 50 images"}
    assert len(rows) == 2 * 1 * 2 * 4
    for row in rows:
        if row["method"] == "OT":
            assert row["weight"] == pytest.approx(1, abs=1e-9)
        assert row["psnr"] <= few.HIGHEST
    shuffled = [r["psnr"] for r in rows if r["pairing"] == "shuffled" and r["level"] == 0.05]
    assert min(shuffled) == few.HIGHEST  # the clean image itself is found
    few.plot(tmp_path / "few", rows)
    assert (tmp_path / "few.svg").stat().st_size > 1000


def test_levels_come_in_their_shares(pool):
    found = few.drawn(few.Config(), pool, 100, "disjoint", 0)
    assert np.bincount(found.level).tolist() == [40, 30, 20, 10]
    assert found.cost.shape == (100, 100)
    assert not torch.equal(found.truth, found.clean)


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("few", {"largest": 10}, "largest"),
        ("few", {"draws": 1}, "draws"),
        ("few", {"task": "sr"}, "task"),
        ("exact", {"points": 2}, "points"),
        ("exact", {"steps": 1}, "steps"),
    ],
)
def test_bad_settings_are_refused(experiment, options, message):
    with pytest.raises((UsageError, ValueError), match=message):
        {"few": few, "exact": exact}[experiment].Config(**options)


def test_missing_data_end_with_status_2(tmp_path, capsys):
    assert command_line.main(["isum", "few", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err
