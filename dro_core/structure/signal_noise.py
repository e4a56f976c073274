"""Signal and noise move apart: y = Ax + w, and each of x and w has a price of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dro_core.linear_map import DenseMap, LinearMap, MapLike, as_linear_map
from dro_core.structure.base import AffineDisplacement, Structure
from dro_core.structure.graph import kernel_matrix
from dro_core.structure.point import Joint
from dro_core.transport import TransportWeight, WeightLike
from dro_core.types import Array, Booleans


class SignalNoise(Structure):
    r"""Signal and noise of a forward model move: :math:`x' = x + u`, :math:`y' = y + Au + v`.

    At cost :math:`u^\top W_x u + v^\top W_w v`, so the displacement is
    :math:`C = [(I - BA)W_x^{-1/2}, -BW_w^{-1/2}]`. It is the joint structure for a cost that
    couples x and y, and a change of variables uncouples them (`equivalent`).

    Parameters
    ----------
    forward : (m, n) matrix or operator
        A.
    weight_x, weight_noise : None, number, (d,) array or (d, d) matrix
        As in `Joint`; finite (with a frozen signal it is `YGivenX`, with frozen noise `XShift`).

    Raises
    ------
    ValueError, TypeError
        For bad maps, or weights that are not positive and finite.
    """

    name = "signal and noise"

    def __init__(
        self,
        forward: MapLike,
        weight_x: WeightLike | None = None,
        weight_noise: WeightLike | None = None,
    ) -> None:
        self.forward = kernel_matrix(as_linear_map(forward, "forward"), "forward")
        m, n = self.forward.shape
        self.weight_x = TransportWeight(weight_x, "weight_x")
        self.weight_noise = TransportWeight(weight_noise, "weight_noise")
        self.weight_x.check_size(n, "x")
        self.weight_noise.check_size(m, "y")
        for weight, size, other in (
            (self.weight_x, n, "YGivenX"),
            (self.weight_noise, m, "XShift"),
        ):
            if weight.frozen(size).any():
                raise ValueError(f"{weight.name}: infinite; allowed: finite weights, or {other}")

    def modulus(self, lipschitz: ArrayLike) -> Array:
        r""":math:`\kappa \le \sqrt{\|W_x^{-1}\|(1 + L\|A\|)^2 + \|W_w^{-1}\|L^2}`."""
        L = np.asarray(lipschitz, dtype=np.float64)
        norm = float(np.linalg.norm(self.forward, 2))
        own = math.sqrt(self.weight_x.inverse_norm) * (1.0 + L * norm)
        return np.hypot(own, math.sqrt(self.weight_noise.inverse_norm) * L)

    def displacement(self, B: LinearMap) -> AffineDisplacement:
        """C = [(I - BA) Wx^(-1/2), -B Ww^(-1/2)]; the moves that belong to q by its transpose."""
        m, n = self.forward.shape
        if B.shape != (n, m):
            raise ValueError(
                f"forward: shape {(m, n)}, but x has {B.shape[0]} columns and y has {B.shape[1]}"
            )
        matrix = kernel_matrix(B, "B")
        on_signal = np.eye(n) - matrix @ self.forward
        blocks = [on_signal @ self.weight_x.half(n), -matrix @ self.weight_noise.half(m)]

        def displace(q: Array) -> tuple[Array, Array]:
            u = self.weight_x.multiply(self.weight_x.inverse, q @ on_signal)
            v = self.weight_noise.multiply(self.weight_noise.inverse, -(q @ matrix))
            return u, v + u @ self.forward.T

        terms = math.sqrt(self.weight_x.inverse_norm) * (
            1.0 + float(np.linalg.norm(matrix, 2)) * float(np.linalg.norm(self.forward, 2))
        )
        return AffineDisplacement(DenseMap(np.hstack(blocks)), 0.0, displace, terms=terms)

    def costs(self, dx: Array, dy: Array) -> tuple[Array, Array]:
        """What each displacement pays for the signal and for the noise, (N,) each."""
        return self.weight_x.cost(dx), self.weight_noise.cost(dy - dx @ self.forward.T)

    def transport_cost(self, dx: Array, dy: Array) -> Array:
        r""":math:`u^\top W_x u + v^\top W_w v` with u = dx and v = dy - A dx; (N,)."""
        signal, noise = self.costs(dx, dy)
        return signal + noise

    def admissible(self, x: Array, y: Array, x_candidates: Array, y_candidates: Array) -> Booleans:
        """Everything may move."""
        return np.ones((len(x), len(x_candidates)), dtype=bool)

    def equivalent(self) -> tuple[Array, Joint]:
        r"""The gain :math:`\Gamma` and the uncoupled costs of :math:`(x - \Gamma y, y)`.

        With :math:`V = (AW_x^{-1}A^\top + W_w^{-1})^{-1}` and :math:`\Gamma = W_x^{-1}A^\top V`,
        completing the square gives

        .. math:: u^\top W_x u + v^\top W_w v
                  = \|dx - \Gamma\,dy\|^2_{W_x + A^\top W_wA} + \|dy\|^2_V ,

        and the residual of B on (x, y) is that of :math:`B - \Gamma` on :math:`(x - \Gamma y, y)`:
        the linear-Gaussian posterior with prior :math:`N(0, W_x^{-1})` and noise
        :math:`N(0, W_w^{-1})`.
        """
        m, n = self.forward.shape
        x, noise = self.weight_x, self.weight_noise
        spread = x.dense(x.inverse, n) @ self.forward.T
        V = _symmetric(np.linalg.inv(self.forward @ spread + noise.dense(noise.inverse, m)))
        precision = (
            x.dense(x.value, n) + self.forward.T @ noise.dense(noise.value, m) @ self.forward
        )
        return spread @ V, Joint(_symmetric(precision), V)

    def __repr__(self) -> str:
        m, n = self.forward.shape
        weights = f"weight_x={self.weight_x!r}, weight_noise={self.weight_noise!r}"
        return f"SignalNoise(<{m} x {n} forward map>, {weights})"


def _symmetric(matrix: Any) -> Array:
    return np.asarray(0.5 * (matrix + matrix.T))
