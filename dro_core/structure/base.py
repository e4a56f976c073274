"""What every structure gives: the affine displacement C of the residual, and its modulus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from numpy.typing import ArrayLike

from dro_core.linear_map import LinearMap
from dro_core.types import Array, Booleans


class Start(NamedTuple):
    """Samples before the adversary spends anything of the free budget.

    Attributes
    ----------
    residual : (b, n) array
    base : tuple of (b, n) and (b, m) arrays, or None
        Displacement that is forced on the adversary (structure x with data off the graph of the
        forward map); None when nothing is.
    cost : (b,) array, or 0.0
        Transport cost of `base`, charged before anything else.
    """

    residual: Array
    base: tuple[Array, Array] | None = None
    cost: Array | float = 0.0


@dataclass(frozen=True, eq=False)
class AffineDisplacement:
    r"""The residual as the adversary sees it, :math:`r_i \mapsto r_i + C v_i`.

    Attributes
    ----------
    factor : (n, k) LinearMap or None
        ``F`` in :math:`C C^\top = s I + F F^\top`; None for no factor.
    shift : float
        ``s``.
    displace : callable
        Maps (b, n) *dual residuals* q to the displacements ``(dx, dy)`` of the samples that
        belong to :math:`v_i = C^\top q_i`.
    forced : callable ``(x, y) -> Start``, or None
        Where samples start that must move first; None where they stay.
    noise_cost, noise_risk : float
        Transport cost and risk of the noise of a Gaussian likelihood or posterior, whatever the
        adversary does.
    terms : float
        A bound on the norms of the terms that C is a difference of; zero if C is no difference.
    """

    factor: LinearMap | None
    shift: float
    displace: Callable[[Array], tuple[Array, Array]]
    forced: Callable[[Array, Array], Start] | None = None
    noise_cost: float = 0.0
    noise_risk: float = 0.0
    terms: float = 0.0

    def start(self, x: Array, y: Array, residual: Array) -> Start:
        """Where samples with these residuals x - By start."""
        return Start(residual) if self.forced is None else self.forced(x, y)


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
    def displacement(self, B: LinearMap) -> AffineDisplacement:
        """The affine action on the residuals x - By of the linear map `B`."""

    @abstractmethod
    def transport_cost(self, dx: Array, dy: Array) -> Array:
        """Transport cost of each displacement, shape (N,), in squared units of the data."""

    @abstractmethod
    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Booleans:
        """Which candidates (x'_j, y'_j) sample i may be moved to: a boolean (N, M) mask."""
