"""A minute of the fuzzing that `make fuzz` does for longer: see `hostile`."""

import inspect

import numpy as np
import pytest

pytest.importorskip("torch")

from hostile import Recipe, attempt, numbers
from recipes import ELSEWHERE, EXEMPT, RECIPES

import dro_core
import dro_torch
from dro_core import operators
from dro_torch import data, metrics, nets, physics, tomography, training


def public_names():
    """Callables of both packages, with the module in front where it is public itself."""
    for module in (dro_core, dro_torch):
        yield from (n for n in module.__all__ if callable(getattr(module, n)))
    for module in (operators, data, metrics, nets, physics, tomography, training):
        short = module.__name__.rpartition(".")[2]
        listed = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", "") == module.__name__
            and (inspect.isclass(value) or inspect.isfunction(value))
        ]
        yield from (f"{short}.{n}" for n in listed if callable(getattr(module, n)))


def test_every_public_callable_has_a_recipe():
    names = set(public_names())
    assert len(names) > 120
    assert sorted(names - RECIPES.keys() - EXEMPT.keys() - ELSEWHERE.keys()) == []
    assert sorted(EXEMPT.keys() & RECIPES.keys()) == []
    assert set(ELSEWHERE.values()) <= RECIPES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_work_before_they_are_spoilt(name):
    for seed in range(3):
        recipe = RECIPES[name]
        assert np.isfinite(numbers(recipe.call(**recipe.make(np.random.default_rng(seed))))).all()


@pytest.mark.parametrize("part", range(10))
def test_hostile_calls_agree_or_are_refused_by_name(part):
    found = [attempt(RECIPES, 0, index) for index in range(150 * part, 150 * (part + 1))]
    faults = [str(fault) for fault in found if fault is not None]
    assert not faults, "\n" + "\n".join(faults)


def unchecked_sum(a):
    return a.sum()


def in_place(a):
    a *= 2
    return 1.0


@pytest.mark.parametrize(
    ("call", "seen"),
    [(unchecked_sum, {"not finite", "AttributeError"}), (in_place, {"changed its arguments"})],
)
def test_the_judge_sees_functions_without_checks(call, seen):
    recipe = Recipe(call, lambda rng: {"a": rng.standard_normal((3, 2))})
    faults = [attempt({"f": recipe}, 1, index) for index in range(100)]
    told = [fault for fault in faults if fault is not None]
    assert seen <= {fault.what.split(":")[0] for fault in told}
    assert attempt({"f": recipe}, 1, told[0].index) == told[0]
    assert f"--seed 1 --only {told[0].index}" in str(told[0])
