"""What every structure gives: the affine displacement C of the residual, and its modulus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from dro_core.linear_map import LinearMap
from dro_core.types import Array, Booleans


@dataclass(frozen=True, eq=False)
class AffineDisplacement:
    r"""The residual as the adversary sees it, :math:`r_i \mapsto r_i + C v_i`.

    Attributes
    ----------
    residual : (N, n) array
        :math:`r_i`, the residual before the adversary spends anything of the free budget.
    factor : (n, k) LinearMap or None
        ``F`` in :math:`C C^\top = s I + F F^\top`; None for no factor.
    shift : float
        ``s``.
    displace : callable
        Maps (N, n) *dual residuals* q to the displacements ``(dx, dy)`` of the samples that
        belong to :math:`v_i = C^\top q_i`.
    base : tuple of two (N, ·) arrays, or None
        Displacement that is forced on the adversary (structure x with data off the graph of the
        forward map); None when nothing is.
    base_cost : (N,) array, or 0.0
        Transport cost of `base`, charged before anything else.
    noise_cost, noise_risk : float
        Transport cost and risk of the noise of a Gaussian likelihood or posterior, whatever the
        adversary does.
    terms : float
        A bound on the norms of the terms that C is a difference of; zero if C is no difference.
    """

    residual: Array
    factor: LinearMap | None
    shift: float
    displace: Callable[[Array], tuple[Array, Array]]
    base: tuple[Array, Array] | None = None
    base_cost: Array | float = 0.0
    noise_cost: float = 0.0
    noise_risk: float = 0.0
    terms: float = 0.0

    def forced_cost(self, weights: Array) -> float:
        """What the adversary pays before anything is left to choose."""
        return float(np.sum(weights * self.base_cost)) + self.noise_cost


class Structure(ABC):
    """A structured ambiguity set (paper §2.1): which part of the law of (x, y) may move."""

    #: The short name used in function arguments and tables.
    name: ClassVar[str]

    @abstractmethod
    def modulus(self, lipschitz: ArrayLike) -> Array:
        r"""Modulus :math:`\kappa` of the explicit bound :math:`(\sqrt M + \rho\kappa)^2`.

        `lipschitz` is the Lipschitz constant of the reconstruction map (structure x: of
        I - B∘A); arrays broadcast.
        """

    @abstractmethod
    def displacement(self, B: LinearMap, x: Array, y: Array, residual: Array) -> AffineDisplacement:
        """The affine action on the residuals of the linear map `B`; residual = x - y Bᵀ."""

    @abstractmethod
    def transport_cost(self, dx: Array, dy: Array) -> Array:
        """Transport cost of each displacement, shape (N,), in squared units of the data."""

    @abstractmethod
    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Booleans:
        """Which candidates (x'_j, y'_j) sample i may be moved to: a boolean (N, M) mask."""
