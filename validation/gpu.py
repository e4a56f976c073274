"""Ten minutes of a GPU: tests, benchmarks, arms, in order of value, each in a time box of its own.

Every stage is a command in a process of its own; its output and its results are on disk as soon as
they exist, and a stage that runs out of time or fails does not take the others along. Nothing is
installed or fetched; `gpu.json` names the card.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.results import Check, at_least, provenance, table, write_json
from validation.settings import Settings, setting

ROOT = Path(__file__).parent.parent
#: Tests of what a device could break: arithmetic, noise keyed by sample, losses, training, FBP.
DEVICE_TESTS = (
    "tests/test_keyed_noise.py",
    "tests/test_torch_entropic.py",
    "tests/test_torch_bound.py",
    "tests/test_torch_unbalanced.py",
    "tests/test_torch_physics.py",
    "tests/test_torch_tomography.py",
    "tests/test_torch_nets.py",
    "tests/test_torch_training.py",
)
#: What comes back: at most eight files of 16 MiB.
LARGEST_FILE = 16 * 2**20
#: Seconds that are kept for packing.
PACKING = 10.0


@dataclass(frozen=True)
class Config(Settings):
    """Which device, for how long, at which size."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    seconds: float = setting(540.0, "time in all", above=0)
    device: str = setting("cuda", "torch device")
    preset: str = setting("standard", "size of the MNIST arms; the transport maps are at desk")
    seed: int = setting(0, "seed")
    jobs: int = setting(
        0, "arms trained side by side on the device; 0: four on CUDA, else one", low=0
    )

    @property
    def together(self) -> int:
        """Processes that share the device: one's kernels run while another's host prepares its."""
        return self.jobs or (4 if self.device.startswith("cuda") else 1)


@dataclass(frozen=True)
class Stage:
    """A command, its share of the time, and what it needs."""

    name: str
    share: float
    arguments: tuple[str, ...]
    modules: tuple[str, ...] = ()
    needs_data: bool = False
    result: Path | None = None  #: what it writes last; its claims may fail then

    def missing(self, config: Config) -> str:
        """Why it cannot run here; empty if it can."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        if absent:
            return f"no {', '.join(absent)} here"
        if self.needs_data and not (config.data or os.environ.get("DRO_DATA")):
            return "no data root"
        return ""


def stages(config: Config, work: Path) -> list[Stage]:
    """In order of value."""
    small = config.device == "cpu"
    where = ["--set", f"device={config.device}"]
    bench = ["-m", "validation", "benchmarks", "cuda", "--out", str(work / "cuda"), *where]
    if small:  # the same rows, small: a test of the code
        for entry in ("sides=12", "batch=2", "draws=2", "width=2", "depth=1", "matrix=64"):
            bench += ["--set", entry]
        for entry in ("copy=4096", "runs=2", "compiled=False", "projector=16", "views=12"):
            bench += ["--set", entry]
    chosen = ["-k", "cuda"] if config.device.startswith("cuda") else ["-k", "keyed and cpu"]
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *DEVICE_TESTS)
    listed = [
        Stage("tests", 0.25, tests, ("pytest", "hypothesis", "scipy")),
        Stage(
            "benchmarks",
            0.2,
            tuple(bench),
            ("scipy", "matplotlib", "tqdm"),
            result=work / "cuda" / "cuda.json",
        ),
    ]
    transport = ["preset=smoke"] if small else ["preset=desk", "dataset=mnist", "factors=0.1"]
    digits = [f"preset={config.preset}", *([] if small else ["precision=bf16"])]
    for name, share, settings in (
        ("mnist deblurring", 0.3, digits),
        ("isum", 0.15, [*transport, "comparisons=main"]),
        ("mnist simulator", 0.08, digits),
    ):
        out = work / name.split()[-1]
        arms = ["-m", "validation", *name.split(), "--out", str(out), *where]
        shared = ["seeds=1", f"models={work / 'models'}", f"jobs={config.together}"]
        for entry in (*settings, *shared):
            arms += ["--set", entry]
        arms += ["--data", config.data] if config.data else []
        needed = ("scipy", "matplotlib", "tqdm")
        listed.append(Stage(name, share, tuple(arms), needed, True, out / f"{out.name}.json"))
    return listed


@dataclass(frozen=True)
class Ran:
    """What became of a stage."""

    stage: str
    outcome: str
    seconds: float


def run_stage(stage: Stage, log: Path, seconds: float) -> str:
    """One stage within its time; its output goes to a file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *stage.arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)  # checkpoints are written
            try:
                process.wait(PACKING)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return "out of time"
    if status == 1 and stage.result is not None and stage.result.exists():
        return "done, something does not hold"
    return "done" if status == 0 else f"failed ({status})"


def card(device: str) -> dict[str, str]:
    """The device's name, and the versions that ran on it."""
    code = (
        "import json, torch; d = " + repr(device) + "; cuda = d.startswith('cuda')\n"
        "name = torch.cuda.get_device_name(d) if cuda and torch.cuda.is_available() else 'CPU'\n"
        "print(json.dumps({'device': name, 'torch': torch.__version__, "
        "'cuda': str(torch.version.cuda)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return {"device": "torch does not run", "error": done.stderr[-300:]}
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def achieved(listed: Sequence[Stage]) -> list[dict[str, float | str]]:
    """Arithmetic per second of every trained arm, and its share of a large matrix product's.

    The arms of a stage share the device; one alone would be faster.
    """
    peak, rows = math.nan, list[dict[str, float | str]]()
    for stage in listed:
        if stage.result is None or not stage.result.exists():
            continue
        found = json.loads(stage.result.read_text())
        peak = float(found.get("flops_per_second", peak))
        for arm in found.get("training", []):
            if float(arm.get("gflop", 0)) > 0 and float(arm["seconds"]) > 0:
                rate = 1e9 * float(arm["gflop"]) / float(arm["seconds"])
                row = {"stage": stage.name, "arm": arm["arm"], "flops_per_second": rate}
                rows.append({**row, "share_of_peak": rate / peak})
    return rows


def pack(work: Path, out: Path) -> None:
    """Numbers, figures and logs as one archive, without checkpoints."""
    part = out / "results.zip.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(work.rglob("*")):
            kept = path.suffix in (".json", ".csv", ".svg", ".log") and "models" not in path.parts
            if path.is_file() and kept and path.stat().st_size < LARGEST_FILE // 4:
                archive.write(path, path.relative_to(work))
    os.replace(part, out / "results.zip")


def run(config: Config, out: Path) -> list[Check]:
    """All stages; `gpu.json` is written anew after each."""
    start = time.monotonic()
    out = out.resolve()
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    ran: list[Ran] = []
    made = {**provenance("gpu", config), **card(config.device)}
    listed = stages(config, work)
    for stage in listed:
        left = config.seconds - (time.monotonic() - start) - PACKING
        begun, reason = time.monotonic(), stage.missing(config)
        if reason or left <= 0:
            outcome = f"not run: {reason or 'no time left'}"
        else:
            log = work / f"{stage.name.replace(' ', '-')}.log"
            outcome = run_stage(stage, log, min(left, stage.share * config.seconds))
        ran.append(Ran(stage.name, outcome, time.monotonic() - begun))
        print(f"{stage.name}: {outcome} ({ran[-1].seconds:.0f} s)", flush=True)
        write_json(out / "gpu.json", {**made, "stages": ran})
        pack(work, out)
    for stage in listed:
        if stage.result is not None and stage.result.exists():
            shutil.copyfile(stage.result, out / stage.result.name)
    print(table([("stage", "outcome"), *((r.stage, r.outcome) for r in ran)]))
    if rates := achieved(listed):
        shown = [(str(r["stage"]), str(r["arm"]), f"{float(r['flops_per_second']) / 1e12:.3g}",
                  f"{float(r['share_of_peak']):.2%}") for r in rates]  # fmt: skip
        columns = "stage", "arm", "TFLOP/s", "share of the peak"
        print(f"\n{config.together} arms side by side\n{table([columns, *shown])}")
        write_json(out / "gpu.json", {**made, "stages": ran, "achieved": rates})
    done = sum(r.outcome.startswith("done") for r in ran)
    return [at_least("stages that ran to their end, share", done / len(ran), 1.0)]
