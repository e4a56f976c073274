"""Hypothesis strategies and checkers to property-test robustness claims, ours and yours.

Strategies draw samples, maps, structures, radii, whole problems, and *admissible laws*: members of
the ambiguity ball made without any of the library's solvers. Checkers assert what theory promises
of any correct answer: no admissible law beats it (weak duality), bounds are ordered, a worst-case
law is feasible, a certificate holds.

Needs hypothesis (``pip install hypothesis``, or the extra ``structured-dro[testing]``).

Examples
--------
Does my own estimate of a worst-case risk survive every admissible law that hypothesis finds?

>>> from hypothesis import given
>>> from dro_core import explicit_bound
>>> from dro_core.testing import check_weak_duality, laws, problems
>>> import numpy as np
>>> @given(problems().flatmap(lambda p: laws(p).map(lambda law: (p, law))))
... def test_my_bound(case):
...     problem, law = case
...     lipschitz = np.linalg.norm(problem.B, 2)
...     kappa = problem.structure.modulus(lipschitz)
...     if problem.structure.name not in ("x", "y"):
...         mine = explicit_bound(problem.fidelity, lipschitz, problem.radius, problem.structure)
...         check_weak_duality(mine, problem, law)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dro_core.optional import needed

try:
    from hypothesis import strategies as st
except ModuleNotFoundError:
    needed("hypothesis", "dro_core.testing")
    raise

from dro_core.checks import as_radius, as_samples, as_weights
from dro_core.structure import (
    Joint,
    Structure,
    XGivenY,
    XShift,
    YGivenX,
    YShift,
    as_structure,
)
from dro_core.types import Array
from dro_core.worst_case import WorstCase, worst_case_risk

#: Relative slack that checkers grant to rounding.
RTOL = 1e-9


@dataclass(frozen=True, eq=False)
class Problem:
    """A linear map, its data, and what the adversary may do."""

    B: Array
    x: Array
    y: Array
    weights: Array
    radius: float
    structure: Structure
    #: A short description that hypothesis prints with a failing example.
    note: str = field(default="", repr=True)

    @property
    def fidelity(self) -> float:
        """Mean squared error of the data."""
        return float(self.weights @ ((self.x - self.y @ self.B.T) ** 2).sum(axis=1))

    def worst_case(self, structure: str | Structure | None = None) -> WorstCase:
        """The library's answer to this problem (or to the same one under another structure)."""
        chosen = self.structure if structure is None else structure
        return worst_case_risk(self.B, self.x, self.y, self.radius, chosen, weights=self.weights)


@dataclass(frozen=True, eq=False)
class Law:
    """A law in the ball: mass `weights[k]` of sample `origin[k]`, moved by (dx, dy)[k]."""

    origin: Any
    dx: Array
    dy: Array
    weights: Array
    transport_cost: float

    def risk(self, model: Callable[[Array], Array], x: Array, y: Array) -> float:
        """Mean squared error of a map (rows in, rows out; linear or not) under this law."""
        error = x[self.origin] + self.dx - model(y[self.origin] + self.dy)
        return float(self.weights @ (error**2).sum(axis=1))


def _generators() -> st.SearchStrategy[np.random.Generator]:
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


def sizes(largest: int = 6) -> st.SearchStrategy[int]:
    """Dimensions and sample counts: small, with 1 included."""
    return st.integers(1, largest)


@st.composite
def samples(
    draw: st.DrawFn, rows: int | None = None, columns: int | None = None, *, duplicates: bool = True
) -> Array:
    """Samples as rows: Gaussian, sometimes on a subspace, with repeated or zero rows."""
    count = draw(sizes(8)) if rows is None else rows
    dimension = draw(sizes()) if columns is None else columns
    rng = draw(_generators())
    array = rng.standard_normal((count, dimension))
    if draw(st.booleans()):  # low rank
        rank = draw(st.integers(0, dimension))
        array = array[:, :rank] @ rng.standard_normal((rank, dimension))
    if duplicates and count > 1 and draw(st.booleans()):
        array[rng.integers(count)] = array[rng.integers(count)]
    return array


@st.composite
def maps(draw: st.DrawFn, rows: int | None = None, columns: int | None = None) -> Array:
    """Linear maps, rows x columns: any rank (zero included) and condition numbers up to 1e10."""
    n = draw(sizes()) if rows is None else rows
    m = draw(sizes()) if columns is None else columns
    rng = draw(_generators())
    rank = draw(st.integers(0, min(n, m)))
    left = np.linalg.qr(rng.standard_normal((n, n)))[0][:, :rank]
    right = np.linalg.qr(rng.standard_normal((m, m)))[0][:, :rank]
    digits = draw(st.sampled_from([0.0, 1.0, 10.0]))
    scale = 10.0 ** draw(st.integers(-3, 3))
    return np.asarray((left * 10.0 ** -(digits * np.linspace(0, 1, rank))) @ right.T * scale)


@st.composite
def weights(draw: st.DrawFn, size: int) -> Array:
    """Non-negative weights that sum to one: uniform, uneven, or with zeros."""
    kind = draw(st.sampled_from(["uniform", "uneven", "zeros"]))
    if kind == "uniform" or size == 1:
        return np.full(size, 1.0 / size)
    array = draw(_generators()).dirichlet(np.ones(size))
    if kind == "zeros":
        array[int(np.argmin(array))] = 0.0
    return np.asarray(array / array.sum())


def radii(scale: float = 1.0, decades: int = 6) -> st.SearchStrategy[float]:
    """Radii from scale * 10^-decades to scale * 10^decades, and zero."""
    low, high = scale * 10.0**-decades, scale * 10.0**decades
    return st.one_of(st.just(0.0), st.floats(low, high), st.floats(low, scale))


def structures(
    forward: Array | None = None, posterior: Array | None = None
) -> st.SearchStrategy[Structure]:
    """Every structure; `XShift` and `YShift` too if their maps are given."""
    known: list[Structure] = [YGivenX(), Joint(), XGivenY()]
    if forward is not None:
        known += [XShift(forward), XShift(forward, cost="x")]
    if posterior is not None:
        known += [YShift(posterior), YShift(posterior, cost="y")]
    return st.sampled_from(known)


@st.composite
def weighted_structures(draw: st.DrawFn, n: int, m: int) -> Structure:
    """joint, y|x and x|y with anisotropic transport costs: per axis, frozen axes, matrices."""

    def weight(size: int) -> Any:
        rng = draw(_generators())
        kind = draw(st.sampled_from(["none", "number", "axes", "frozen axes", "matrix"]))
        if kind == "none":
            return None
        if kind == "number":
            return float(rng.uniform(0.2, 5))
        if kind == "matrix":
            root = rng.standard_normal((size, size))
            return root @ root.T + 0.1 * np.eye(size)
        axes = rng.uniform(0.2, 5, size)
        if kind == "frozen axes":
            axes[rng.random(size) < 0.4] = math.inf
        return axes

    makers: list[Callable[[], Structure]] = [
        lambda: Joint(weight(n), weight(m)),
        lambda: YGivenX(weight(m)),
        lambda: XGivenY(weight(n)),
    ]
    return draw(st.sampled_from(makers))()


@st.composite
def problems(
    draw: st.DrawFn, *, structure: str | Structure | None = None, zero_radius: bool = True
) -> Problem:
    """A whole `Problem`: residuals of any size, none at all, or off the top singular space.

    With `structure` given, every problem has that structure; otherwise all occur, with weighted
    transport too, structures x and y with noise-free data y = Ax, x = Py.
    """
    n, m, count = draw(sizes()), draw(sizes()), draw(sizes(8))
    B = draw(maps(n, m))
    if structure is not None:
        chosen = as_structure(structure)
    elif draw(st.integers(0, 3)) == 0:
        chosen = draw(weighted_structures(n, m))
    else:
        chosen = draw(structures(draw(maps(m, n)), draw(maps(n, m))))
    x, y = draw(samples(count, n)), draw(samples(count, m))
    note = "any residual"
    if isinstance(chosen, XShift):
        y, note = chosen.forward.apply(x), "y = Ax"
    elif isinstance(chosen, YShift):
        x, note = chosen.posterior.apply(y), "x = Py"
    else:
        kind = draw(st.sampled_from(["any", "none", "off the top"]))
        if kind == "none":
            x, note = y @ B.T, "no residual"
        elif kind == "off the top":  # the hard case
            left = np.linalg.svd(B)[0]
            x = y @ B.T + (x @ left[:, 1:]) @ left[:, 1:].T
            note = "no residual on the top singular space"
    mu = draw(weights(count))
    size = float(np.sqrt(mu @ ((x - y @ B.T) ** 2).sum(axis=1))) or 1.0
    radius = draw(radii(size)) if zero_radius else draw(radii(size).filter(lambda r: r > 0))
    return Problem(B, x, y, mu, radius, chosen, note)


@st.composite
def laws(draw: st.DrawFn, problem: Problem) -> Law:
    """A random law of the problem's ambiguity ball, with up to three branches per sample.

    Displacements are random, along the gradient of the loss, or along the direction that the map
    amplifies most: the latter two find claims that are too low by little.

    For structures x and y the data must be noise-free (y = Ax, x = Py), as `problems` makes them.
    """
    rng, branches = draw(_generators()), draw(st.integers(1, 3))
    (count, n), m = problem.x.shape, problem.y.shape[1]
    origin = np.repeat(np.arange(count), branches)
    mass = problem.weights[origin] * rng.dirichlet(np.ones(branches), count).ravel()
    dx, dy = rng.standard_normal((len(origin), n)), rng.standard_normal((len(origin), m))
    aim = draw(st.sampled_from(["anywhere", "top", "gradient", "both"]))
    if aim != "anywhere":  # along Cᵀq = (q, -Bᵀq), as an adversary would
        left = np.linalg.svd(problem.B)[0]
        residual = (problem.x - problem.y @ problem.B.T)[origin]
        along_top = (residual @ left[:, :1]) @ left[:, :1].T
        if not along_top.any():
            along_top = rng.standard_normal() * np.ones((len(origin), 1)) * left[:, 0]
        q = {"top": along_top, "gradient": residual, "both": residual + 9 * along_top}[aim]
        dx, dy = q.copy(), -(q @ problem.B)
    structure = problem.structure
    if isinstance(structure, XShift):
        dy = structure.forward.apply(dx)
    elif isinstance(structure, YShift):
        dx = structure.posterior.apply(dy)
    elif isinstance(structure, Joint | YGivenX | XGivenY):
        dx[:, structure.weight_x.frozen(n)] = 0.0
        dy[:, structure.weight_y.frozen(m)] = 0.0
    cost = float(mass @ structure.transport_cost(dx, dy))
    share = draw(st.sampled_from([1.0, 0.5, 0.0]))
    factor = problem.radius * (share / cost) ** 0.5 if cost > 0 else 0.0
    return Law(origin, dx * factor, dy * factor, mass, cost * factor**2)


def check_weak_duality(
    claimed: float,
    problem: Problem,
    law: Law,
    model: Callable[[Array], Array] | None = None,
    *,
    rtol: float = RTOL,
) -> None:
    """No law in the ball beats a worst-case value (paper Proposition 3.1).

    Parameters
    ----------
    claimed : float
        Any claimed upper value: a dual value, a bound, a worst-case risk.
    problem, law
        From `problems` and `laws`.
    model : callable, optional
        The map from rows of y to rows of x the claim is about; default ``y @ B.T``.

    Raises
    ------
    AssertionError
        If the law is in the ball and its risk exceeds the claim.
    """
    apply = (lambda rows: rows @ problem.B.T) if model is None else model
    assert law.transport_cost <= problem.radius**2 * (1 + rtol), "the law is outside the ball"
    attained = law.risk(apply, problem.x, problem.y)
    scale = max(abs(attained), _rounding(problem, law))
    assert math.isfinite(attained), f"the risk of an admissible law is {attained}"
    assert attained <= claimed + rtol * scale, (
        f"an admissible law has risk {attained}, above the claimed worst case {claimed}"
    )


def _rounding(problem: Problem, law: Law) -> float:
    """Squared size of what the moved residuals are differences of: below eps of it is noise."""
    images = problem.y @ problem.B.T, law.dy @ problem.B.T
    parts = problem.weights @ ((problem.x**2).sum(axis=1) + (images[0] ** 2).sum(axis=1))
    parts += law.weights @ ((law.dx**2).sum(axis=1) + (images[1] ** 2).sum(axis=1))
    return float(parts) * 1e-12


def check_ordering(*values: float, rtol: float = RTOL) -> None:
    """Values never decrease: finite support <= exact <= explicit bound, y|x <= joint, ...

    Raises
    ------
    AssertionError
        If one value exceeds the next by more than `rtol`, relatively.
    """
    assert all(math.isfinite(value) for value in values), f"not all finite: {values}"
    for k, (lower, upper) in enumerate(pairwise(values)):
        assert lower <= upper + rtol * max(abs(lower), abs(upper)), (
            f"value {k} is {lower}, above value {k + 1}, {upper}"
        )


def check_feasible(
    x: ArrayLike,
    y: ArrayLike,
    displacement_x: ArrayLike,
    displacement_y: ArrayLike,
    radius: float,
    structure: str | Structure,
    *,
    weights: ArrayLike | None = None,
    rtol: float = RTOL,
) -> None:
    """A law made of displaced samples is in the ambiguity ball.

    The budget is met (in the structure's own transport cost) and the structure respected: x
    untouched under y|x, y untouched under x|y, every atom on the graph of its map under `XShift`
    and `YShift`.

    Raises
    ------
    AssertionError
        If not.
    """
    x, y = as_samples(x, "x"), as_samples(y, "y")
    dx = as_samples(displacement_x, "displacement_x")
    dy = as_samples(displacement_y, "displacement_y")
    assert dx.shape == x.shape, f"displacement_x: shape {dx.shape}, but x has {x.shape}"
    assert dy.shape == y.shape, f"displacement_y: shape {dy.shape}, but y has {y.shape}"
    mu, budget = as_weights(weights, len(x)), as_radius(radius) ** 2
    resolved = as_structure(structure)
    cost = float(mu @ resolved.transport_cost(dx, dy))
    if isinstance(resolved, YGivenX):
        assert not dx.any(), "y|x: x was moved"
    elif isinstance(resolved, XGivenY):
        assert not dy.any(), "x|y: y was moved"
    elif isinstance(resolved, XShift | YShift):
        moved = (x + dx, y + dy) if isinstance(resolved, XShift) else (y + dy, x + dx)
        image = resolved.kernel.apply(moved[0])
        scale = sum(float(np.abs(array).max()) for array in (x, dx, y, dy, image))
        off = float(np.abs(moved[1] - image).max())
        assert off <= rtol * max(scale, 1e-300), f"{resolved.name}: an atom is off the graph"
        cost += resolved.noise_cost
    assert cost <= budget * (1 + rtol), f"transport cost {cost} exceeds the budget {budget}"


def check_certificate(worst: WorstCase, *, rtol: float = RTOL) -> None:
    """The certificate holds, recomputed through the map itself, and nothing contradicts it.

    Raises
    ------
    AssertionError
        With the certificate, if a part of it fails.
    """
    certificate = worst.verify()
    assert certificate.holds(rtol), f"{worst} is not certified to {rtol}: {certificate}"
    check_ordering(worst.risk, worst.bound, rtol=rtol)
