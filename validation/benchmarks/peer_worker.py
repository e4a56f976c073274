"""One task of a peer library, run by the interpreter of the peers' environment.

``python -I peer_worker.py REQUEST.json DATA.npz`` prints one JSON object. Only the standard
library, numpy and the packages of peers.lock.txt are used: nothing of this project.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import platform
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

#: Modules that `dro` imports although its linear models use nothing of them.
UNUSED = (
    "torchvision",
    "torchvision.models",
    "torchattacks",
    "xgboost",
    "lightgbm",
    "matplotlib",
    "matplotlib.pyplot",
    "ucimlrepo",
)
#: Distributions whose versions every answer carries.
RECORDED = ("dro", "skwdro", "torch", "numpy", "scipy", "cvxpy", "clarabel")


class EmptyModule(types.ModuleType):
    """A module in which every name is an empty class, enough for ``from module import name``."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def replace_unused_modules() -> list[str]:
    """Install empty modules for those of `UNUSED` that are missing; their names."""
    missing = [name for name in UNUSED if importlib.util.find_spec(name.split(".")[0]) is None]
    for name in missing:
        module = EmptyModule(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    return missing


def seconds(action: Callable[[], Any], repeats: int) -> list[float]:
    """Wall time of each of `repeats` calls, after one that is not counted."""
    action()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return found


def refusal(action: Callable[[], Any]) -> str:
    """The error that an action raises, or an empty string if it raises none."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def coefficients(slope: Any, intercept: Any) -> dict[str, Any]:
    """A linear model as plain numbers."""
    return {
        "slope": np.asarray(slope, dtype=float).ravel().tolist(),
        "intercept": float(np.asarray(intercept).ravel()[0]),
    }


def dro_worst_case(request: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    """`WassersteinDRO('ols')`: the fit, the worst-case law, and what can be asked at all."""
    models = importlib.import_module("dro.linear_model")
    answers = []
    for name in request["problems"]:
        x, y = data[f"features {name}"], data[f"target {name}"]

        model = models.WassersteinDRO(x.shape[1], "ols")
        # eps is the squared radius; the default norm p = 1 is not the Euclidean one
        model.update({"eps": request["radius"] ** 2, "p": 2})
        fit_seconds = seconds(partial(model.fit, x, y), request["repeats"])
        law_seconds = seconds(partial(model.worst_distribution, x, y), request["repeats"])
        law = model.worst_distribution(x, y)
        # not public: the law of the model as it stands, without the refit
        only_seconds = seconds(partial(model._ols_worst_distribution, x, y), request["repeats"])
        atoms_x, atoms_y = law["sample_pts"]
        weights = law["weight"]
        errors = (atoms_y - atoms_x @ model.theta - float(model.b)) ** 2
        moved = ((atoms_x - x[law["source_index"]]) ** 2).sum(axis=1)
        answer = {
            "name": name,
            **coefficients(model.theta, model.b),
            "objective": model.robust_obj,
            "fit_seconds": fit_seconds,
            "law_seconds": law_seconds,
            "law_only_seconds": only_seconds,
            "law_risk": float(weights @ errors),
            "law_transport_cost": float(weights @ moved),
            "target_moved": float(np.max(np.abs(atoms_y - y[law["source_index"]]))),
            "joint_refusal": refusal(partial(model.update, {"kappa": 1.0})),
        }
        given = 0.5 * model.theta
        model.load({"theta": given})
        model.worst_distribution(x, y)
        answer["keeps_given_slope"] = bool(np.allclose(model.theta, given))
        answers.append(answer)
    return answers


def dro_sinkhorn(request: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    """`SinkhornLinearDRO('ols')` with max_iter=0: its objective at a given map and multiplier."""
    models = importlib.import_module("dro.linear_model")
    torch = importlib.import_module("torch")
    x, y = data["features"], data["target"]
    answers = []
    for multiplier in request["multipliers"]:
        for power in request["powers"]:
            model = models.SinkhornLinearDRO(
                x.shape[1],
                "ols",
                reg_param=request["noise_variance"],
                lambda_param=multiplier,
                max_iter=0,
                k_sample_max=power,
            )
            with torch.no_grad():
                model.model.linear.weight.copy_(torch.tensor(data["slope"])[None, :])
                model.model.linear.bias.fill_(request["intercept"])
            torch.manual_seed(request["seed"])
            returned = model.fit(x, y)
            answers.append(
                {
                    "multiplier": multiplier,
                    "samples": 2**power,
                    "objective": model.robust_obj,
                    "slope_changed": float(np.max(np.abs(returned["theta"] - data["slope"]))),
                }
            )
    return answers


def dro_sinkhorn_step(request: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    """`SinkhornLinearDRO('ols')`: one SG step, and its mean objective at a given map.

    Seconds per step of its optimiser as it comes, one batch per pass of its loader; and of its
    step's statements (forward, backward, update) with the batch at hand, without loader. The least
    of all repetitions, which is what other processes disturb least.
    """
    models = importlib.import_module("dro.linear_model")
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(request["seed"])
    variance, draws = request["noise_variance"], 2 ** request["power"]
    answers = []
    for name, multiplier in request["multipliers"].items():
        x, y, slope = (data[f"{part} {name}"] for part in ("features", "target", "slope"))
        model = models.SinkhornLinearDRO(
            x.shape[1],
            "ols",
            reg_param=variance,
            lambda_param=multiplier,
            max_iter=2,
            k_sample_max=request["power"],
        )
        loader = model._create_dataloader(x, y)
        passes = seconds(partial(model._sg_optimizer, loader), 5 * request["repeats"])
        batch, target = next(iter(loader))
        optimizer = torch.optim.Adam(model.model.parameters())
        update = partial(
            dro_update, torch, model, optimizer, batch, target, draws, multiplier, variance
        )
        updates = seconds(update, 10 * request["repeats"])
        with torch.no_grad():
            model.model.linear.weight.copy_(torch.tensor(slope)[None, :])
            model.model.linear.bias.fill_(0.0)
        objectives = [
            model._estimate_robust_objective(loader) for _ in range(request["objectives"])
        ]
        answers.append(
            {
                "name": name,
                "step_seconds": min(passes) / 2,
                "update_seconds": min(updates),
                "objective": float(np.mean(objectives)),
            }
        )
    return answers


def dro_update(
    torch: Any,
    model: Any,
    optimizer: Any,
    batch: Any,
    target: Any,
    draws: int,
    multiplier: float,
    variance: float,
) -> None:
    """The statements of `dro`'s SG step for one batch."""
    noise = torch.randn((draws, *batch.shape)) * variance**0.5
    moved = (batch + noise).view(-1, batch.shape[1])
    repeated = target.repeat(draws, 1)
    optimizer.zero_grad()
    loss = model._compute_loss(model.model(moved), repeated, draws, multiplier * variance)
    model._check_finite_update(loss, "SG")
    loss.backward()
    optimizer.step()


def skwdro_dedicated(request: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    """`LinearRegression(solver='dedicated')`."""
    models = importlib.import_module("skwdro.linear_models")
    answers = []
    for name in request["problems"]:
        x, y = data[f"features {name}"], data[f"target {name}"]
        model = models.LinearRegression(rho=request["radius"], solver="dedicated")
        fit_seconds = seconds(partial(model.fit, x, y), request["repeats"])
        answers.append(
            {
                "name": name,
                **coefficients(model.coef_, model.intercept_),
                "fit_seconds": fit_seconds,
            }
        )
    return answers


def skwdro_entropic(request: dict[str, Any], data: Any) -> list[dict[str, Any]]:
    """`LinearRegression` as it comes: one fit, timed without a warm-up, for it is slow."""
    models = importlib.import_module("skwdro.linear_models")
    decoder = importlib.import_module("skwdro.base.cost_decoder")
    torch = importlib.import_module("torch")
    (name,) = request["problems"]
    x, y = data[f"features {name}"], data[f"target {name}"]
    torch.manual_seed(request["seed"])
    model = models.LinearRegression(rho=request["radius"])
    cost = decoder.cost_from_str(model.cost)
    zero = torch.zeros(1, 1)
    start = time.perf_counter()
    model.fit(x, y)
    spent = time.perf_counter() - start
    return [
        {
            "name": name,
            **coefficients(model.coef_, model.intercept_),
            "objective": float(np.asarray(model.robust_loss_).ravel()[0]),
            "fit_seconds": [spent],
            "cost_of_moving_a_feature_by_one": float(cost.value(zero, zero + 1, zero, zero)),
            "cost_of_moving_the_target_by_one": float(cost.value(zero, zero, zero, zero + 1)),
        }
    ]


TASKS = {
    "dro worst case": dro_worst_case,
    "dro sinkhorn": dro_sinkhorn,
    "dro sinkhorn step": dro_sinkhorn_step,
    "skwdro dedicated": skwdro_dedicated,
    "skwdro entropic": skwdro_entropic,
}


def main(request_path: str, data_path: str) -> int:
    """Answer one request; 3 if a package is missing."""
    request = json.loads(Path(request_path).read_text())
    replaced = replace_unused_modules()
    try:
        with np.load(data_path, allow_pickle=False) as data, contextlib.redirect_stdout(sys.stderr):
            arrays = {name: data[name] for name in data.files}
            answers = TASKS[request["task"]](request, arrays)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
        return 3
    versions = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    print(json.dumps({"answers": answers, "versions": versions, "replaced": replaced}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
