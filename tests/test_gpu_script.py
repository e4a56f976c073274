"""The script for a GPU that is there for minutes: stages, time boxes, what comes back."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from validation import gpu

DATA = Path(os.environ.get("DRO_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def stage(name, code, share=0.5, modules=(), needs_data=False, result=None):
    return gpu.Stage(name, share, ("-c", code), modules, needs_data, result)


def test_a_stage_that_fails_or_hangs_does_not_take_the_others_along(tmp_path, monkeypatch):
    monkeypatch.delenv("DRO_DATA", raising=False)
    written, missing = tmp_path / "work" / "written.json", tmp_path / "work" / "missing.json"
    claims = f"open({str(written)!r}, 'w').write('{{}}'); raise SystemExit(1)"
    listed = [
        stage("fails", "raise SystemExit(3)"),
        stage("crashes", "raise ValueError", result=missing),
        stage("hangs", "import time; time.sleep(600)", share=0.05),
        stage("absent", "pass", modules=("no_such_module",)),
        stage("data", "pass", needs_data=True),
        stage("claims", claims, result=written),
        stage("works", "print('seen')"),
    ]
    monkeypatch.setattr(gpu, "stages", lambda config, work: listed)
    (check,) = gpu.run(gpu.Config(seconds=60.0, device="cpu"), tmp_path)
    assert not check.holds
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"] == "CPU"
    outcomes = {entry["stage"]: entry["outcome"] for entry in found["stages"]}
    assert outcomes == {
        "fails": "failed (3)",
        "crashes": "failed (1)",
        "hangs": "out of time",
        "absent": "not run: no no_such_module here",
        "data": "not run: no data root",
        "claims": "done, something does not hold",
        "works": "done",
    }
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert archive.read("works.log") == b"seen\n"
    assert (tmp_path / "written.json").read_text() == "{}"
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) <= 8


def test_the_share_of_the_peak_is_that_of_the_arithmetic_done(tmp_path):
    bench, arms, absent = (tmp_path / f"{name}.json" for name in ("cuda", "arms", "absent"))
    bench.write_text(json.dumps({"flops_per_second": 2e12}))
    trained = [
        {"arm": "DRO", "gflop": 5000.0, "seconds": 10.0},
        {"arm": "Wiener", "gflop": 0.0, "seconds": 0.0},
    ]
    arms.write_text(json.dumps({"training": trained}))
    listed = [stage(p.stem, "pass", result=p) for p in (bench, arms, absent)]
    (row,) = gpu.achieved(listed)
    assert (row["stage"], row["arm"]) == ("arms", "DRO")
    assert row["flops_per_second"] == pytest.approx(5e11)
    assert row["share_of_peak"] == pytest.approx(0.25)
    assert gpu.Config(device="cuda:0").together == 4
    assert gpu.Config(device="cpu").together == 1
    assert gpu.Config(device="cuda", jobs=2).together == 2


def test_no_time_left_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "stages", lambda config, work: [stage("late", "pass")])
    gpu.run(gpu.Config(seconds=1.0, device="cpu"), tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text())["stages"][0]["outcome"]
    assert found == "not run: no time left"


def test_stages_are_commands_that_exist(tmp_path):
    for device in ("cpu", "cuda"):
        listed = gpu.stages(gpu.Config(device=device, data="/data"), tmp_path)
        assert [s.name for s in listed] == [
            "tests",
            "benchmarks",
            "mnist deblurring",
            "isum",
            "mnist simulator",
        ]
        assert sum(s.share for s in listed) <= 1
    for path in gpu.DEVICE_TESTS:
        assert (gpu.ROOT / path).exists()


@pytest.mark.slow
def test_the_whole_script_runs_on_a_cpu(tmp_path):
    if not (DATA / "mnist").exists():
        pytest.skip("no MNIST files; set DRO_DATA")
    config = gpu.Config(data=str(DATA), seconds=300.0, device="cpu", preset="smoke")
    (check,) = gpu.run(config, tmp_path)
    assert check.holds
    rates = json.loads((tmp_path / "gpu.json").read_text())["achieved"]
    assert {row["arm"] for row in rates} >= {"DRO", "MSE"}
    assert all(row["share_of_peak"] > 0 for row in rates)
    for name in (
        "cuda.json",
        "deblurring.json",
        "isum.json",
        "simulator.json",
        "gpu.json",
        "results.zip",
    ):
        assert (tmp_path / name).stat().st_size < gpu.LARGEST_FILE
