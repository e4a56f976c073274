"""What the commands do: files in, one call of the library, text or files out."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dro_core.auditing import Audit, audit
from dro_core.auditing.audit import versions
from dro_core.auditing.layout import as_rows
from dro_core.auditing.radius import RadiusSource, audit_radius
from dro_core.cli.files import load_array, load_pairs
from dro_core.cli.maps import load_map
from dro_core.described import plain
from dro_core.estimator import fit_linear

#: The map without which a marginal's structure is no set of laws.
MARGINAL_MAPS = {"x": "forward", "y": "posterior"}


def run_audit(given: argparse.Namespace, line: Sequence[str]) -> str:
    """``structured-dro audit``: the report, or its numbers."""
    if given.out is None and not given.json:
        raise ValueError("out: a folder for the report is needed, --out FOLDER (or --json)")
    for structure, flag in MARGINAL_MAPS.items():
        if structure in (given.structure or ()) and getattr(given, flag) is None:
            raise ValueError(f"structure: {structure!r} needs a map, --{flag} FILE")
    x, y = load_pairs(given.data)
    found: Audit = audit(
        load_map(given.map, trust=given.trust),
        x,
        y,
        **_reason(given),
        structures=given.structure or ("y|x", "joint", "x|y"),
        forward=None if given.forward is None else load_map(given.forward),
        posterior=None if given.posterior is None else load_map(given.posterior),
        weights=None if given.weights is None else load_array(given.weights),
        linear=True if given.linear else None,
        best=not given.no_best,
        output_range=given.output_range,
        lipschitz=given.lipschitz,
        smoothing=given.smoothing,
        seed=given.seed,
    ).with_command("structured-dro " + shlex.join(line))
    page = None if given.out is None else found.report(given.out)
    if given.json:
        return json.dumps(found.to_dict(), indent=1, allow_nan=False)
    return f"{found.summary()}\n\n{page}"


def _reason(given: argparse.Namespace) -> dict[str, Any]:
    """The reason for a radius, as the library takes it."""
    change = None
    if given.operator_change is not None:
        if given.forward is None:
            raise ValueError("operator-change: needs the operator that changed, --forward A")
        change = (load_map(given.forward), load_map(given.operator_change))
    return {
        "radius": given.radius,
        "noise": given.noise,
        "photons": given.photons,
        "operator_change": change,
        "shifted": None if given.shifted is None else load_pairs(given.shifted),
    }


def _found_radius(given: argparse.Namespace) -> tuple[Any, Any, Any, RadiusSource]:
    pair = load_pairs(given.data)
    x, y = (as_rows(part, name)[0] for part, name in zip(pair, "xy", strict=True))
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} samples, but x has {len(x)}; sample i of both is one pair")
    weights = None if given.weights is None else load_array(given.weights)
    return x, y, weights, audit_radius(x, y, **_reason(given), weights=weights, seed=given.seed)


def run_radius(given: argparse.Namespace, line: Sequence[str]) -> str:
    """``structured-dro radius``: the radius with its reason."""
    found = _found_radius(given)[-1]
    if given.json:
        return json.dumps({name: plain(value) for name, value in vars(found).items()}, indent=1)
    return str(found)


def run_fit(given: argparse.Namespace, line: Sequence[str]) -> str:
    """``structured-dro fit``: the matrix, and how far it may be from optimal."""
    names = given.structure or ["y|x"]
    if len(names) > 1:
        raise ValueError(f"structure: {len(names)} given; a map is fitted for one")
    if names[0] in MARGINAL_MAPS:
        raise ValueError(
            f"structure: {names[0]!r}; a map is fitted for y-given-x, joint or x-given-y (audit "
            "takes x and y too)"
        )
    target = Path(given.out)
    if target.suffix != ".npy":
        raise ValueError(f"out: {target}; the matrix goes into a .npy file")
    x, y, weights, ball = _found_radius(given)
    fit = fit_linear(
        x=x, y=y, radius=ball.value, epsilon=given.epsilon, structure=names[0], weights=weights
    )
    certificate = fit.verify()
    _save(target, fit.matrix)
    state = "holds" if certificate.holds(1e-3) else "does not hold to 1e-3"
    return (
        f"{target}: {fit.matrix.shape[0]} x {fit.matrix.shape[1]} map, {ball}\n"
        f"worst-case risk {fit.risk:.6g} over {names[0]}; no linear map is below {fit.lower:.6g} "
        f"(certificate {state})"
    )


def _save(target: Path, matrix: Any) -> None:
    """The whole file or none."""
    if target.is_dir():
        raise FileExistsError(f"{target}: a folder; name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(suffix=".npy", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, matrix, allow_pickle=False)
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def run_version(given: argparse.Namespace, line: Sequence[str]) -> str:
    """``structured-dro version``."""
    return "\n".join(f"{name} {version}" for name, version in versions().items())


#: What each command runs.
COMMANDS = {"audit": run_audit, "radius": run_radius, "fit": run_fit, "version": run_version}
