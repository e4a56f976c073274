"""The recipes for a radius on shifts with known answers."""

import os
from pathlib import Path

import numpy as np
import pytest

from validation import __main__ as command_line
from validation import coverage

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("DRO_DATA") or ROOT.parent / "shared" / "data")


def shift_of(level, claimed, rng, folds=6):
    """White noise of a level on measurements that shrink; the formula is told `claimed`."""
    x = rng.standard_normal((400, 6))
    y = x * 0.5 ** np.arange(6)
    parts = np.split(np.arange(160, 400), folds)

    def measure(y):
        return y + level * rng.standard_normal(y.shape)

    return coverage.Shift(
        "toy",
        f"{level:g}",
        coverage.ridge(x[:80], y[:80], 0.1),
        x[:80],
        y[:80],
        measure(y[:80]),
        (x[80:160], measure(y[80:160])),
        [(x[part], measure(y[part])) for part in parts],
        np.full(6, claimed**2),
    )


def test_every_recipe_covers_white_noise(rng):
    rows = coverage.rows_of(shift_of(0.3, 0.3, rng), 0)
    assert [row["recipe"] for row in rows] == [
        "known noise",
        "field pairs, same signals",
        "field pairs, other signals",
    ]
    assert all(row["covered"] == 1.0 for row in rows)
    assert rows[0]["radius"] == pytest.approx(0.3 * 6**0.5)
    for row in rows:
        assert row["measured"] <= row["largest measured"] <= row["certified"]


def test_a_radius_that_is_too_small_does_not_cover(rng):
    """The formula of a tenth of the noise."""
    rows = {row["recipe"]: row for row in coverage.rows_of(shift_of(1.0, 0.1, rng), 0)}
    assert rows["known noise"]["covered"] == 0.0
    assert rows["field pairs, same signals"]["covered"] == 1.0


@pytest.mark.parametrize("name", list(coverage.noises(0.1)))
def test_families_of_noise_are_of_about_one_size(name, rng):
    measure, additive = coverage.noises(0.1)[name]
    y = rng.uniform(0, 1, (2000, 50))
    variance = ((measure(y, rng) - y) ** 2).mean()
    if additive:
        assert variance == pytest.approx(0.01, rel=0.05)
    assert 0.003 < variance < 0.06


@pytest.mark.skipif(not (DATA / "mnist").exists(), reason="no MNIST under the data root")
def test_digits_are_shifted_in_every_family():
    pytest.importorskip("torch")
    config = coverage.Config(data=str(DATA), calibration=40, folds=2, fold=20)
    shifts = list(coverage.digit_shifts(config))
    assert len(shifts) == 10
    rows = coverage.rows_of(shifts[0], 0)
    assert all(row["covered"] == 1.0 for row in rows)
    used = {x.tobytes() for x in shifts[0].x}
    assert not used & {x.tobytes() for fold, _ in shifts[0].folds for x in fold}


def test_without_data_the_message_names_the_file(tmp_path, capsys):
    pytest.importorskip("torch")
    arguments = ["coverage", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert command_line.main(arguments) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err
