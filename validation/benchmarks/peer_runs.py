"""The peers' environment: settings, problems, and what the peers and we take for them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dro_core import __version__, fit_linear, worst_case_risk
from dro_core.types import Array
from validation.benchmarks.timing import median_seconds
from validation.errors import UsageError
from validation.results import (
    progress,
)
from validation.settings import Settings, setting

HERE = Path(__file__).parent
STORED = HERE / "stored" / "peers.json"
LOCK = "validation/benchmarks/peers.lock.txt"
#: (samples, features) of the regression problems.
SIZES = ((200, 10), (200, 100), (2000, 10), (2000, 100))
RADIUS = 0.3
#: `skwdro` divides its transport distance by 1 + kappa, and this is its default kappa.
SKWDRO_KAPPA = 1e8
#: The Sinkhorn rows: multipliers over the threshold, noise variance, log2 of the noise samples.
MULTIPLES, NOISE_VARIANCE, POWERS = (0.5, 1.5, 3.0, 10.0), 0.08, (5, 10, 15)


@dataclass(frozen=True)
class Config(Settings):
    """Where the peers are, and how long they are run."""

    peer_python: str = setting(
        "", "interpreter of the peers' environment; empty: the stored results are shown"
    )
    repeats: int = setting(5, "timed runs of each peer's call", low=1)
    seed: int = setting(0, "seed of the data and of the peers", low=0)
    slow_limit: float = setting(
        120.0, "seconds allowed for one run of skwdro's entropic solver", above=0
    )
    store: bool = setting(False, "keep these results as the stored ones (needs peer_python)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.peer_python:
            if shutil.which(self.peer_python) is None:
                raise UsageError(
                    f"peer_python: {self.peer_python!r} is not an interpreter; {LOCK} says how to "
                    "make the peers' environment"
                )
            return
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                raise UsageError(
                    f"--set {field.name}: is for running the peers, so give peer_python too "
                    "(without it the stored results are shown)"
                )


def label(samples: int, features: int) -> str:
    """The name of a size in requests and results."""
    return f"{samples}x{features}"


def regression(seed: int, samples: int, features: int) -> tuple[Array, Array]:
    """Standard normal features, and a target that depends on all of them with noise of size 1."""
    rng = np.random.default_rng([seed, samples, features])
    x = rng.standard_normal((samples, features))
    slope = rng.standard_normal(features) / math.sqrt(features)
    return x, x @ slope + rng.standard_normal(samples)


def ask(
    peer_python: str, request: dict[str, Any], data: dict[str, Array], limit: float | None = None
) -> dict[str, Any] | None:
    """The worker's answer, or None if it took longer than `limit` seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]
        files = [str(folder / "request.json"), str(folder / "data.npz")]
        try:
            done = subprocess.run(
                [peer_python, "-I", str(HERE / "peer_worker.py"), *files],
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            raise ChildProcessError(f"peer_python: cannot run {peer_python!r} ({error})") from error
    try:
        answer = json.loads(done.stdout) if done.returncode in (0, 3) else {}
    except json.JSONDecodeError:
        answer = {}
    # numpy is imported before the worker can answer at all
    named = re.search(r"ModuleNotFoundError: No module named '([^']+)'", done.stderr)
    missing = answer.get("missing") or (named.group(1) if named else "")
    if missing:
        raise ChildProcessError(
            f"peer_python: {peer_python!r} has no package {missing!r}; {LOCK} lists what the "
            "peers need and says how to install it"
        )
    if "answers" not in answer:
        raise ChildProcessError(
            f"peer_python: {request['task']!r} failed under {peer_python!r} (exit status "
            f"{done.returncode}):\n{done.stderr[-2000:]}\n{LOCK} lists the versions that work"
        )
    return dict(answer)


def shifted(answer: dict[str, Any], data: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """The peer's model as a linear map: (1, d) matrix, target without the intercept, features."""
    features, target = data
    return np.array(answer["slope"])[None, :], (target - answer["intercept"])[:, None], features


def closed_form(matrix: Array, target: Array, features: Array) -> float:
    """(RMSE + rho |beta|)^2."""
    rmse = math.sqrt(float(np.mean((target - features @ matrix.T) ** 2)))
    return (rmse + RADIUS * float(np.linalg.norm(matrix))) ** 2


def time_ours(problem: tuple[Array, Array, Array], structure: str, repeats: int) -> dict[str, Any]:
    """Our times for one fixed map: the value; the value, its law and its certificate."""

    def value() -> float:
        return worst_case_risk(*problem, RADIUS, structure).risk

    def certified() -> Any:
        worst = worst_case_risk(*problem, RADIUS, structure)
        return worst.x, worst.y, worst.verify()

    return {
        "value_seconds": median_seconds(value, 20 * repeats),
        "certified_seconds": median_seconds(certified, 20 * repeats),
    }


def our_fit(data: tuple[Array, Array]) -> Any:
    """The map of smallest worst-case risk with an intercept, that is for centred data."""
    features, target = data
    centred = features - features.mean(axis=0)
    return fit_linear(x=(target - target.mean())[:, None], y=centred, radius=RADIUS)


def certified_fit(data: tuple[Array, Array]) -> Any:
    """What the fit row times: the fit and its certificate."""
    return our_fit(data).verify()


def run_peers(config: Config) -> dict[str, Any]:
    """Run every task of the peers, and time ours on the same maps right after."""
    names = [label(*size) for size in SIZES]
    data = {label(*size): regression(config.seed, *size) for size in SIZES}
    arrays = {f"features {name}": pair[0] for name, pair in data.items()}
    arrays |= {f"target {name}": pair[1] for name, pair in data.items()}
    request = {
        "problems": names,
        "radius": RADIUS,
        "repeats": config.repeats,
        "seed": config.seed,
    }
    with progress(list(range(4)), "peers") as bar:
        found = ask(config.peer_python, {"task": "dro worst case", **request}, arrays)
        assert found is not None
        measured: dict[str, Any] = {
            "settings": {"seed": config.seed, "repeats": config.repeats, "radius": RADIUS},
            "threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
            "versions": {
                "structured-dro": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "scipy": version("scipy"),
            },
            "peer_versions": found["versions"],
            "replaced_by_empty_modules": found["replaced"],
            "dro": found["answers"],
        }
        bar.update()
        measured["our_fit"] = []
        for name, pair in data.items():
            seconds = median_seconds(partial(certified_fit, pair), 10 * config.repeats)
            measured["our_fit"].append({"name": name, "certified_seconds": seconds})
        measured["ours"] = []
        for answer in found["answers"]:
            problem = shifted(answer, data[answer["name"]])
            for structure in ("y|x", "joint"):
                times = time_ours(problem, structure, config.repeats)
                measured["ours"].append({"name": answer["name"], "structure": structure, **times})

        bar.update()
        first = found["answers"][0]
        slope = np.array(first["slope"])
        sinkhorn = {
            "task": "dro sinkhorn",
            "seed": config.seed,
            "intercept": first["intercept"],
            "noise_variance": NOISE_VARIANCE,
            "multipliers": [2 * multiple * float(slope @ slope) for multiple in MULTIPLES],
            "powers": POWERS,
        }
        features, target = data[names[0]]
        found = ask(
            config.peer_python, sinkhorn, {"features": features, "target": target, "slope": slope}
        )
        assert found is not None
        measured["dro_sinkhorn"] = found["answers"]

        bar.update()
        found = ask(config.peer_python, {"task": "skwdro dedicated", **request}, arrays)
        assert found is not None
        measured["skwdro_dedicated"] = found["answers"]
        bar.update()

    measured["skwdro_entropic"] = []
    runs = (("as it comes", RADIUS), ("rho / (1 + kappa)", RADIUS / (1 + SKWDRO_KAPPA)))
    for kind, radius in progress(runs, "skwdro, entropic"):
        slow = {"task": "skwdro entropic", **request, "problems": names[:1], "radius": radius}
        found = ask(config.peer_python, slow, arrays, config.slow_limit)
        entry = {"kind": kind, "radius": radius, "limit": config.slow_limit}
        if found is not None:
            entry |= found["answers"][0]
        measured["skwdro_entropic"].append(entry)
    return measured
