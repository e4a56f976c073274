"""The comparison with peers: the stored results, the messages, the lock file."""

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest

import validation.__main__ as command_line
from validation.benchmarks import peers

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("peers")
    return peers.run(peers.Config(), out), out


def test_stored_results_hold(shown):
    checks, _ = shown
    assert len(checks) == 17
    for check in checks:
        assert check.holds, check


def test_the_printout_says_that_the_results_are_stored_and_of_which_versions(capsys, tmp_path):
    peers.run(peers.Config(), tmp_path)
    printed = capsys.readouterr().out
    assert "stored results of dro 0.4.3, skwdro 1.1.1 (torch 2.13.0" in printed
    assert "not run now" in printed
    assert "not comparable, dro says \"ValueError: kappa must be 'inf' for OLS models\"" in printed
    assert "below the threshold ours says: ValueError: multiplier: " in printed


def test_tables_are_written(shown):
    _, out = shown
    made = json.loads((out / "peers.json").read_text())
    assert made["measured"]["peer_versions"]["dro"] == "0.4.3"
    for name, count in (("fixed_map", 8), ("estimators", 14), ("threshold", 12)):
        with (out / f"{name}.csv").open() as file:
            assert len(list(csv.DictReader(file))) == len(made[name]) == count


def test_ratios_are_of_times_stored_together():
    stored = json.loads(peers.STORED.read_text())
    names = [peers.label(*size) for size in peers.SIZES]
    assert [answer["name"] for answer in stored["dro"]] == names
    assert [entry["name"] for entry in stored["ours"][::2]] == names
    assert stored["settings"]["repeats"] == peers.Config().repeats
    assert str(ROOT) not in peers.STORED.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmarks", "peers", "--peer-python", "/no/python"], "'/no/python' is not an interp"),
        (["benchmarks", "peers", "--set", "peer_python=/no/python"], "peers.lock.txt says how"),
        (["benchmarks", "peers", "--set", "store=True"], "--set store: is for running the peers"),
        (["benchmarks", "peers", "--set", "seed=1"], "--set seed: is for running the peers"),
        (["benchmarks", "peers", "--set", "repeats=0"], "--set repeats: 0 is below 1"),
        (["benchmarks", "peers", "--set", "slow_limit=0"], "allowed: a number > 0"),
        (
            ["section5", "--peer-python", sys.executable],
            "--peer-python: the experiment 'section5' has no setting 'peer_python'; allowed for: ",
        ),
        (["--peer-python", sys.executable], "--peer-python needs an experiment"),
    ],
)
def test_misuse_is_explained(arguments, message, capsys):
    assert command_line.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interpreter_without_the_peers_is_named_with_what_it_lacks(capsys, tmp_path):
    arguments = ["benchmarks", "peers", "--peer-python", sys.executable, "--out", str(tmp_path)]
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err
    assert "has no package 'dro'; validation/benchmarks/peers.lock.txt lists" in printed
    assert not list(tmp_path.iterdir())


def test_the_same_for_a_worker_that_cannot_even_start(tmp_path):
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'numpy'\" >&2\nexit 1"
    )
    program.chmod(0o755)
    with pytest.raises(ChildProcessError, match="has no package 'numpy'"):
        peers.ask(str(program), {"task": "dro worst case"}, {})
    program.write_text("#!/bin/sh\necho broken >&2\nexit 1")
    with pytest.raises(ChildProcessError, match=r"exit status 1\):\nbroken"):
        peers.ask(str(program), {"task": "dro worst case"}, {})


def test_a_slow_peer_is_given_up(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60")
    program.chmod(0o755)
    assert peers.ask(str(program), {"task": "skwdro entropic"}, {}, limit=0.1) is None


def test_the_lock_file_pins_every_line():
    lines = (ROOT / peers.LOCK).read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in pins)
    assert {"dro==0.4.3", "skwdro==1.1.1", "torch==2.13.0"} <= set(pins)


@pytest.mark.skipif(
    "PEER_PYTHON" not in os.environ,
    reason="PEER_PYTHON is not set to the interpreter of the peers' environment",
)
def test_the_peers_run(tmp_path):
    config = peers.Config(peer_python=os.environ["PEER_PYTHON"], repeats=1)
    for check in peers.run(config, tmp_path):
        assert check.holds, check
