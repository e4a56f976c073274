"""The headline ratios: measured, stored, and two runs told apart."""

import json

import pytest

import validation.__main__ as command_line
from validation import registry
from validation.benchmarks import headline


def stored(path, machine="a box", size=1.0, **ratios):
    rows = {
        name: {"median": middle, "low": middle * 0.9, "high": middle * 1.1}
        for name, middle in ratios.items()
    }
    path.write_text(json.dumps({"machine": machine, "config": {"size": size}, "ratios": rows}))
    return str(path)


def compared(capsys, old, new):
    status = command_line.main(["benchmarks", "compare", old, new])
    printed = capsys.readouterr()
    lines = {line.split()[0]: line for line in printed.out.splitlines() if line}
    return status, lines, printed


def test_what_changed_by_more_than_its_spread(tmp_path, capsys):
    old = stored(tmp_path / "old.json", same=1.0, up=1.0, down=1.0, near=1.0)
    new = stored(tmp_path / "new.json", same=1.0, up=1.3, down=0.5, near=1.2)
    status, lines, printed = compared(capsys, old, new)
    assert status == 1
    assert lines["up"].endswith("slower")
    assert lines["down"].endswith("faster")
    assert lines["same"].endswith("within the spread")
    assert lines["near"].endswith("within the spread")  # 0.9 ... 1.1 meets 1.08 ... 1.32
    assert "1.3" in lines["up"]
    assert "other machines" not in printed.out
    assert compared(capsys, new, new)[0] == 0
    assert compared(capsys, old, stored(tmp_path / "fast.json", same=0.1, up=0.1))[0] == 0


def test_rows_of_one_run_only_and_other_machines(tmp_path, capsys):
    old = stored(tmp_path / "old.json", both=1.0, gone=1.0)
    new = stored(tmp_path / "new.json", machine="another", both=1.0, fresh=2.0)
    status, lines, printed = compared(capsys, old, new)
    assert status == 0
    assert lines["gone"].endswith("only in the old run")
    assert lines["fresh"].endswith("only in the new run")
    assert "other machines: a box; another" in printed.out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("no json", "not a run of the headline ratios"),
        ("[1, 2]", "not a run of the headline ratios"),
        ('{"experiment": "section5", "checks": []}', "not a run of the headline ratios"),
        ('{"machine": "a box", "config": {"size": 0.1}, "ratios": {}}', "ratios depend on it"),
    ],
)
def test_not_a_run(content, says, tmp_path, capsys):
    good, bad = stored(tmp_path / "good.json", one=1.0), tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    status, _, printed = compared(capsys, good, str(bad))
    assert status == 2
    assert printed.out == ""
    assert says in printed.err
    assert str(bad) in printed.err
    assert printed.err.count("\n") == 1


def test_two_files_are_needed(capsys):
    assert command_line.main(["benchmarks", "compare", "one.json"]) == 2
    assert "two files are needed" in capsys.readouterr().err


def test_ten_ratios_are_measured_and_checked(tmp_path, monkeypatch, capsys):
    """Small: their spread and the check at 1.5 times the stored value, not the values."""
    config = headline.Config(size=0.02, repeats=2)
    assert len(list(headline.pairs(config))) == 10
    some = list(headline.pairs(config))[4:6]
    monkeypatch.setattr(headline, "pairs", lambda _: iter(some))
    monkeypatch.setattr(headline, "STORED", tmp_path / "none.json")
    assert headline.run(config, tmp_path) == []  # nothing is stored
    path = tmp_path / "headline.json"
    made = json.loads(path.read_text())
    assert list(made["ratios"]) == [name for name, *_ in some]
    assert all(r["low"] <= r["median"] <= r["high"] for r in made["ratios"].values())
    assert made["machine"] == headline.machine()
    assert made["versions"]["numpy"]
    assert compared(capsys, str(path), str(path))[0] == 0
    for row in made["ratios"].values():
        row["median"] /= 1e6
    path.write_text(json.dumps(made))
    monkeypatch.setattr(headline, "STORED", path)
    failed = headline.run(config, tmp_path / "again")
    assert len(failed) == 2
    assert not any(check.holds for check in failed)
    other = headline.run(headline.Config(size=0.03, repeats=2), tmp_path / "other")
    assert other == []  # no limits at another size, which is said
    assert "nothing was checked" in capsys.readouterr().out


def test_the_stored_run_is_readable():
    assert registry.load("benchmarks headline").run is headline.run
    found = headline.read(headline.STORED)
    assert found["size"] == 1.0
    assert len(found["ratios"]) == 10
