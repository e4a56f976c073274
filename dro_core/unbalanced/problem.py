"""Masses, how each marginal is held to them, and the two values of a plan and of potentials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from dro_core.checks import LARGEST, as_real_array, as_scalar, check_magnitude, unknown
from dro_core.types import Array, SparseArray

DIVERGENCES = ("kl", "balanced")
#: Total masses of two fixed marginals must agree to this relative accuracy.
MASS_TOLERANCE = 1e-9
#: Entries in a temporary of the interior-point method.
PART = 2**16

#: Share of the mass below which a point is left out of the network simplex, which has tolerances.
TINY = 1e-15

#: The gap is relative to the value plus this share of what removing all mass would cost.
SMALL_SHARE = 1e-6


@dataclass(frozen=True)
class Marginal:
    """Masses of one side and how the plan's marginal is held to them, at weight one."""

    mass: Array
    free: bool

    def density(self, potential: Array) -> Array:
        r"""The optimal marginal :math:`a e^{-u}`; the masses themselves if fixed."""
        with np.errstate(over="ignore"):
            return self.mass * np.exp(-potential) if self.free else self.mass

    def gain(self, potential: Array) -> float:
        r"""The dual term :math:`-\sum a\Psi^*(-u)`."""
        return float(self.mass @ (-np.expm1(-potential) if self.free else potential))

    def penalty(self, marginal: Array) -> float:
        r""":math:`\sum a\Psi(r/a)`, accurate for r near a; zero if fixed."""
        if not self.free:
            return 0.0
        excess = (marginal - self.mass) / self.mass
        return float(self.mass @ (special.xlog1py(excess + 1.0, excess) - excess))

    def linearised(self, potential: Array, marginal: Array) -> tuple[Array, Array, float]:
        r"""Diagonal h and right side of :math:`h\,du + dr = \ldots`, and a measure of mismatch.

        Free: u = -log(r/a), and the Fenchel-Young gap of this pair; fixed: r = a.
        """
        if not self.free:
            off = self.mass - marginal
            return np.zeros_like(marginal), off, float(np.abs(off) @ (1.0 + np.abs(potential)))
        off = potential + np.log(marginal / self.mass)
        with np.errstate(over="ignore"):
            gap = float(marginal @ (off + np.expm1(-off)))
        return marginal, -marginal * off, gap


def as_sides(divergence: str | Sequence[str]) -> tuple[str, str]:
    pair = (divergence, divergence) if isinstance(divergence, str) else divergence
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            f"divergence: {divergence!r}; allowed: {' or '.join(map(repr, DIVERGENCES))} for both "
            "marginals, or a pair of them"
        )
    for name in pair:
        if name not in DIVERGENCES:
            raise ValueError(unknown("divergence", name, DIVERGENCES))
    return pair[0], pair[1]


def as_masses(value: object, name: str) -> Array:
    array = as_real_array(value, name)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: a non-empty 1-D array is needed, given shape {array.shape}")
    check_magnitude(array, name)
    if (array <= 0).any():
        i = int(np.argmin(array))
        raise ValueError(
            f"{name}: entry {i} is {array[i]}; masses must be positive (drop points without mass)"
        )
    return array


def as_weight(value: object) -> float:
    weight = as_scalar(value, "weight", "a number > 0")
    if weight <= 0:
        raise ValueError(f"weight: {weight}; allowed: a number > 0")
    if not 1e-140 <= weight <= LARGEST:
        raise ValueError(f"weight: {weight}; allowed: a number > 0, from 1e-140 to {LARGEST:g}")
    return weight


def check_totals(a: Array, b: Array, divergence: tuple[str, str]) -> None:
    first, second = float(a.sum()), float(b.sum())
    if "kl" not in divergence and abs(first - second) > MASS_TOLERANCE * max(first, second):
        raise ValueError(
            f"b: total mass {second!r}, but a has {first!r}; balanced transport needs equal "
            "totals (rescale one of them, or free a marginal with divergence='kl')"
        )


def check_finite_value(number: float, names: str) -> float:
    if not math.isfinite(number):
        raise OverflowError(
            f"{names}: the exponential of a potential over the weight exceeds the largest float; "
            "raise the weight, or add a constant to the cost"
        )
    return number


@dataclass(frozen=True)
class UnbalancedProblem:
    """Objective and dual in the units of the user, whatever the plan and the potentials."""

    a: Array
    b: Array
    divergence: tuple[str, str]
    weight: float

    def sides(self) -> tuple[Marginal, Marginal]:
        first, second = (name == "kl" for name in self.divergence)
        return Marginal(self.a, first), Marginal(self.b, second)

    def dual(self, u: Array, v: Array) -> float:
        """The dual function; a lower bound if u + v <= c."""
        with np.errstate(over="ignore"):
            gains = [
                self.weight * side.gain(potential / self.weight)
                for side, potential in zip(self.sides(), (u, v), strict=True)
            ]
        return sum(gains)

    def primal(
        self, plan: SparseArray, prices: Array, largest: float
    ) -> tuple[float, float, float]:
        """(objective of a plan, size, error of the fixed marginals).

        From the costs of its entries in their order, and the largest cost in size.
        """
        paid = prices * plan.data
        value, size, error = float(paid.sum()), float(np.abs(paid).sum()), 0.0
        for axis, side in zip((1, 0), self.sides(), strict=True):
            marginal, total = np.asarray(plan.sum(axis=axis)), float(side.mass.sum())
            if side.free:
                penalty, unit = self.weight * side.penalty(marginal), self.weight * total
            else:
                penalty, unit = 0.0, largest * total
                error = max(error, float(np.abs(marginal - side.mass).max()) / total)
            value, size = value + penalty, size + penalty + SMALL_SHARE * unit
        if plan.nnz and plan.data.min() < 0:
            error = math.inf
        return value, size or 1.0, error
