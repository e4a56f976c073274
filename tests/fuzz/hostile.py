"""Random calls of public functions with hostile arguments, and what may come of them.

A call either agrees with the same call on contiguous float64 arguments, or raises an error whose
message begins with the name of an argument. It never changes its arguments, never answers NaN or
infinity, and lets no warning of numpy or torch through.

    python tests/fuzz/hostile.py --calls 10000 --seed 0     # `make fuzz`
    python tests/fuzz/hostile.py --seed 0 --only 1234       # one call again, with its traceback
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

try:
    import pandas
except ModuleNotFoundError:
    pandas = None

sys.path.insert(0, str(Path(__file__).parent))

Arguments = dict[str, Any]
#: Exact types; subclasses such as numpy's LinAlgError come from inside.
ERRORS = (ValueError, TypeError, OverflowError, IndexError)
#: Largest difference, relative to the largest entry, of answers to equal arguments.
AGREEMENT = 1e-6
#: Seconds of processor time that a call on a handful of numbers may take.
PATIENCE = 10.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to call a function.

    `make(rng)` returns good arguments; arrays, tensors, numbers and strings among them are then
    spoilt. `call` returns what must be finite and equal for equal arguments. `known_as` are other
    words by which messages name arguments, `keep` those that are not to be spoilt, `infinite` says
    that infinity is a documented answer, `overflows` that a loss may overflow (`training.fit`
    refuses it then), `warns` are documented warnings.
    """

    call: Callable[..., Any]
    make: Callable[[np.random.Generator], Arguments]
    known_as: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    infinite: bool = False
    overflows: bool = False
    warns: tuple[type[Warning], ...] = ()
    agreement: float = AGREEMENT


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """One hostile argument; `plain` is the same in float64, or None if nothing is the same."""

    kind: str
    value: Any
    plain: Any = None
    agreement: float = 0.0


# --- arguments ----------------------------------------------------------------------------------


def _negative_strides(a: np.ndarray) -> np.ndarray:
    turned = tuple(slice(None, None, -1) for _ in a.shape)
    return a[turned].copy()[turned]


def _between(a: np.ndarray) -> np.ndarray:
    wide = np.full([2 * s for s in a.shape], np.nan)
    every = tuple(slice(None, None, 2) for _ in a.shape)
    wide[every] = a
    return wide[every]


def _read_only(a: np.ndarray) -> np.ndarray:
    locked = a.copy()
    locked.flags.writeable = False
    return locked


def _frame(a: np.ndarray) -> Any:
    if pandas is None or a.ndim not in (1, 2):
        return a.tolist()
    return (pandas.Series if a.ndim == 1 else pandas.DataFrame)(a, dtype="Float64")


#: Other forms of the same numbers; float64 of them is what the answer is compared with.
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "Fortran order": np.asfortranarray,
    "negative strides": _negative_strides,
    "gaps": _between,
    "read-only": _read_only,
    "big-endian": lambda a: a.astype(">f8"),
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble),
    "int": lambda a: np.round(4 * a).astype(np.int64),
    "uint8": lambda a: np.round(np.abs(4 * a)).astype(np.uint8),
    "bool": lambda a: a > np.median(a),
    "list": lambda a: a.tolist(),
    "nullable frame": _frame,
}
#: Other numbers, shapes and kinds; None of them has a float64 twin.
FAULTS: dict[str, Callable[[np.ndarray, np.random.Generator], Any]] = {
    "object": lambda a, rng: a.astype(object),
    "complex": lambda a, rng: a + 0j,
    "strings": lambda a, rng: a.astype(str),
    "masked": lambda a, rng: np.ma.masked_less(a, np.median(a)),
    "sparse": lambda a, rng: sparse.coo_array(a) if a.ndim == 2 else None,
    "NaN": lambda a, rng: _replaced(a, rng, np.nan),
    "inf": lambda a, rng: _replaced(a, rng, np.inf),
    "-inf": lambda a, rng: _replaced(a, rng, -np.inf),
    "scale 1e150": lambda a, rng: 1e150 * a,
    "scale 1e-150": lambda a, rng: 1e-150 * a,
    "scale 1e300": lambda a, rng: 1e300 * a,
    "scale 1e8": lambda a, rng: 1e8 * a,
    "long double 1e4000": lambda a, rng: a.astype(np.longdouble) * np.longdouble("1e4000"),
    "one entry 1e130": lambda a, rng: _replaced(a, rng, 1e130),
    "zeros": lambda a, rng: 0 * a,
    "ones": lambda a, rng: np.ones_like(a),
    "negative": lambda a, rng: -np.abs(a),
    "duplicates": lambda a, rng: np.repeat(a[:1], len(a), axis=0) if a.ndim else a,
    "zero entry": lambda a, rng: _replaced(a, rng, 0.0),
    "transposed": lambda a, rng: a.T,
    "one more axis": lambda a, rng: a[None],
    "a last axis": lambda a, rng: a[..., None],
    "flat": lambda a, rng: a.ravel(),
    "no rows": lambda a, rng: a[:0] if a.ndim else None,
    "no columns": lambda a, rng: a[..., :0] if a.ndim else None,
    "a row less": lambda a, rng: a[1:] if a.ndim else None,
    "a column more": lambda a, rng: np.concatenate([a, a[..., :1]], -1) if a.ndim else [a, a],
    "0-d": lambda a, rng: np.asarray(a.flat[0] if a.size else 0.0),
    "ragged": lambda a, rng: [[1.0], [1.0, 2.0]],
    "None": lambda a, rng: None,
    "string": lambda a, rng: "x",
    "dict": lambda a, rng: {"a": 1.0},
    "tensor": lambda a, rng: torch.from_numpy(np.array(a)),
    "generator": lambda a, rng: (row for row in a) if a.ndim else iter([]),
}
NUMBERS: dict[str, Any] = {
    "NaN": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "-1": -1.0,
    "0": 0.0,
    "1e150": 1e150,
    "1e-150": 1e-150,
    "1e300": 1e300,
    "5e-324": 5e-324,
    "1e40": 1e40,
    "string": "1",
    "None": None,
    "complex": 1j,
    "list": [1.0],
    "dict": {},
    "2.5": 2.5,
    "True": True,
    "masked": np.ma.masked,
    "array of two": np.ones(2),
    "-3": -3,
    "7": 7,
    "10**400": 10**400,
    "set": {1.0},
    "long double 1e4000": np.longdouble("1e4000"),
    "bytes": b"1",
    "tensor": torch.tensor(1.0),
}
NUMBER_FORMS: dict[str, Callable[[float], Any]] = {
    "float32": np.float32,
    "float16": np.float16,
    "0-d": np.asarray,
    "long double": np.longdouble,
    "big-endian": lambda v: np.asarray(v, ">f8"),
}
OPTIONS: dict[str, Any] = {
    "unknown": "nonsense",
    "empty": "",
    "number": 3,
    "None": None,
    "bytes": b"y|x",
    "list": ["kl"],
    "upper": "JOINT",
    "dict": {},
    "tuple": ("a", "b", "c"),
    "array": np.ones(2),
    "NaN": np.nan,
}
TENSOR_FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed storage": lambda t: t.mT.contiguous().mT if t.ndim > 1 else t,
    "gaps": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t.clone()[None].expand(2, *t.shape)[1],
    "requires grad": lambda t: t.clone().requires_grad_(t.is_floating_point()),
}
TENSOR_FAULTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "int": lambda t: t.round().long(),
    "bool": lambda t: t > 0,
    "complex": lambda t: t + 0j,
    "float16": lambda t: t.half(),
    "numpy": lambda t: t.numpy(),
    "list": lambda t: t.tolist(),
    "None": lambda t: None,
    "NaN": lambda t: torch.where(t == t.flatten()[0], torch.nan, t),
    "inf": lambda t: torch.where(t == t.flatten()[0], torch.inf, t),
    "scale 1e90": lambda t: 1e90 * t if t.is_floating_point() else t,
    "scale 1e-150": lambda t: 1e-150 * t if t.is_floating_point() else t,
    "zeros": lambda t: 0 * t,
    "ones": torch.ones_like,
    "negative": lambda t: -t.abs(),
    "0-d": lambda t: t.flatten()[0],
    "flat": lambda t: t.flatten(),
    "one more axis": lambda t: t[None],
    "a last axis": lambda t: t[..., None],
    "transposed": lambda t: t.mT if t.ndim > 1 else t[:, None],
    "no rows": lambda t: t[:0],
    "no columns": lambda t: t[..., :0],
    "a row less": lambda t: t[1:],
    "a column more": lambda t: torch.cat([t, t[..., :1]], -1),
    "duplicates": lambda t: t[:1].expand_as(t),
    "sparse": lambda t: t.to_sparse() if t.is_floating_point() else t,
}


def _replaced(a: np.ndarray, rng: np.random.Generator, value: float) -> np.ndarray:
    changed = np.array(a, dtype=np.float64)
    if changed.size:
        changed.flat[int(rng.integers(changed.size))] = value
    return changed


def _pick(rng: np.random.Generator, table: Mapping[str, Any]) -> tuple[str, Any]:
    names = list(table)
    name = names[int(rng.integers(len(names)))]
    return name, table[name]


def spoil(value: Any, rng: np.random.Generator) -> Spoilt | None:
    """A hostile version of an argument; None for what is not touched."""
    if isinstance(value, torch.Tensor):
        return _spoil_tensor(value, rng)
    if isinstance(value, np.ndarray):
        if rng.random() < 0.4:
            kind, change = _pick(rng, FORMS)
            changed = change(value)
            return Spoilt(kind, changed, np.array(changed, dtype=np.float64, order="C"))
        kind, change = _pick(rng, FAULTS)
        return Spoilt(kind, change(value, rng))
    if isinstance(value, str):
        return Spoilt(*_pick(rng, OPTIONS))
    if isinstance(value, float) and rng.random() < 0.3:
        kind, change = _pick(rng, NUMBER_FORMS)
        return Spoilt(kind, change(value), float(change(value)))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Spoilt(*_pick(rng, NUMBERS))
    return None


def _spoil_tensor(value: torch.Tensor, rng: np.random.Generator) -> Spoilt:
    if rng.random() < 0.4:
        kind, change = _pick(rng, TENSOR_FORMS)
        return Spoilt(kind, change(value), value)
    kind, change = _pick(rng, TENSOR_FAULTS)
    return Spoilt(kind, change(value))


# --- answers ------------------------------------------------------------------------------------


def numbers(answer: Any) -> np.ndarray:
    """Every number of an answer: of arrays, tensors, sequences, dictionaries."""
    if answer is None or isinstance(answer, str | bool | np.bool_):
        return np.zeros(0)
    if isinstance(answer, torch.Tensor):
        return answer.detach().double().flatten().numpy()
    if sparse.issparse(answer):
        return np.asarray(answer.data, dtype=np.float64)
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return np.concatenate([np.zeros(0), *map(numbers, answer)])
    return np.asarray(answer, dtype=np.float64).ravel()


def fingerprint(arguments: Arguments) -> dict[str, bytes]:
    """The bytes of the arrays, to see whether a call changes them."""
    stored = {}
    for name, value in arguments.items():
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and not value.is_sparse:
            stored[name] = value.detach().numpy().tobytes()
        elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
            stored[name] = np.asarray(value).tobytes()
    return stored


def refused_by_name(error: Exception, names: tuple[str, ...]) -> bool:
    """Whether the message begins with names of arguments."""
    ours = type(error).__module__.startswith("dro_")
    head = str(error).split(":")[0]
    return (type(error) in ERRORS or ours) and any(
        re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", head) for name in names
    )


@dataclasses.dataclass(frozen=True)
class Fault:
    """What a call did that it must not do."""

    seed: int
    index: int
    function: str
    spoilt: str
    what: str

    def __str__(self) -> str:
        again = f"python tests/fuzz/hostile.py --seed {self.seed} --only {self.index}"
        return f"{again}  # {self.function}, {self.spoilt}: {self.what}"


def name_of(recipes: Mapping[str, Recipe], seed: int, index: int) -> str:
    """The function that (seed, index) stands for."""
    return _pick(np.random.default_rng([seed, index]), recipes)[0]


def attempt(
    recipes: Mapping[str, Recipe], seed: int, index: int, *, show: bool = False
) -> Fault | None:
    """The call that (seed, index) stands for; None if nothing is wrong with it."""
    rng = np.random.default_rng([seed, index])
    function, recipe = _pick(rng, recipes)
    arguments = recipe.make(rng)
    plain: Arguments | None = dict(arguments)
    told = []
    open_to_change = [name for name in arguments if name not in recipe.keep]
    for name in rng.permutation(open_to_change)[: int(rng.integers(1, 3))]:
        spoilt = spoil(arguments[name], rng)
        if spoilt is None:
            continue
        arguments[name] = spoilt.value
        told.append(f"{name} {spoilt.kind}")
        if plain is not None:
            plain = None if spoilt.plain is None else {**plain, name: spoilt.plain}
    what = _verdict(recipe, arguments, plain, show)
    return Fault(seed, index, function, " and ".join(told), what) if what else None


def _verdict(recipe: Recipe, arguments: Arguments, plain: Arguments | None, show: bool) -> str:
    names = (*arguments, *recipe.known_as)
    before = fingerprint(arguments)
    answer, error, heard = _run(recipe, arguments)
    if show:
        print(arguments)
        print(answer)
        if error is not None:
            traceback.print_exception(error)
    if fingerprint(arguments) != before:
        return "changed its arguments"
    loud = [
        w
        for w in heard
        if not issubclass(w.category, recipe.warns) and "torch.jit" not in str(w.message)
    ]
    if loud:
        return f"{loud[0].category.__name__}: {str(loud[0].message)[:150]}"
    if error is not None and not refused_by_name(error, names):
        return f"{type(error).__name__}: {str(error)[:150]}"
    if error is None and not np.isfinite(answer).all() and not recipe.infinite | recipe.overflows:
        return f"not finite: {answer[:6]}"
    if np.isnan(answer).any() and not recipe.overflows:
        return f"NaN: {answer[:6]}"
    if plain is None:
        return ""
    expected, refused, _ = _run(recipe, plain)
    if refused is not None or error is not None:  # forms and precisions may be refused
        return ""
    if answer.shape != expected.shape:
        return f"{answer.size} numbers instead of {expected.size}"
    with np.errstate(all="ignore"):
        same = (answer == expected) | (
            np.abs(answer - expected) <= recipe.agreement * np.abs(expected).max(initial=1e-300)
        )
    return "" if same.all() else f"{answer[:4]} instead of {expected[:4]}"


def _run(
    recipe: Recipe, arguments: Arguments
) -> tuple[np.ndarray, Exception | None, list[warnings.WarningMessage]]:
    torch.manual_seed(0)
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            return numbers(recipe.call(**arguments)), None, heard
        except Exception as error:
            return np.zeros(0), error, heard
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {PATIENCE:g} s")


def main() -> int:
    from recipes import RECIPES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--function", help="only functions whose name contains this")
    options = parser.parse_args()
    recipes = {k: r for k, r in RECIPES.items() if not options.function or options.function in k}
    if options.only is not None:
        fault = attempt(recipes, options.seed, options.only, show=True)
        print(fault or "nothing wrong")
        return int(fault is not None)
    faults, spent = [], Counter[str]()
    for index in range(options.calls):
        start = time.process_time()
        fault = attempt(recipes, options.seed, index)
        spent[name_of(recipes, options.seed, index)] += time.process_time() - start
        if fault is not None:
            faults.append(fault)
            print(fault, flush=True)
    kinds = Counter(fault.function for fault in faults)
    print(f"{options.calls} calls of {len(recipes)} functions, {len(faults)} faults", dict(kinds))
    print("seconds:", {name: round(seconds, 1) for name, seconds in spent.most_common(8)})
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
