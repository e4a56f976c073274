"""Trainings in processes of their own: what fails is raised, and nobody outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from validation.side_by_side import side_by_side

ROOT = Path(__file__).parent.parent
SCRIPT = """
import os, sys, time
from pathlib import Path
from validation.side_by_side import side_by_side

def job(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    side_by_side(job, sys.argv[1:], 2)
"""


def failing(job):
    raise ValueError(f"job {job}")


def test_what_fails_there_is_raised_here():
    with pytest.raises(ValueError, match="job 1"):
        side_by_side(failing, [1, 2], 2)


def test_fewer_than_two_processes_leave_the_work_to_the_caller():
    assert side_by_side(failing, [1, 2], 1) == []


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_processes_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script), *map(str, folders)], env=environment)
    begun = time.monotonic()
    while not all(any(folder.iterdir()) for folder in folders):
        assert parent.poll() is None
        assert time.monotonic() - begun < 120
        time.sleep(0.2)
    children = [int(path.name) for folder in folders for path in folder.iterdir()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(alive(child) for child in children):
        assert time.monotonic() - begun < 180
        time.sleep(0.2)
