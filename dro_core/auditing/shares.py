r"""Where the budget of a worst-case law goes: which samples, which directions, which spectrum.

Three views of the displacements v_i of one law: by sample, :math:`\mu_i c_i/\rho^2`; by principal
direction of the move; and, for a linear map with a spectrum, by singular value of C,
:math:`m_j\sigma_j^2/(\lambda-\sigma_j^2)^2`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dro_core.described import Described
from dro_core.dual import minimize_quadratic_dual
from dro_core.spectrum import ResidualSpectrum
from dro_core.types import Array

#: Principal directions that are reported.
DIRECTIONS = 3


@dataclass(frozen=True, eq=False, repr=False)
class SpectralShares(Described):
    r"""The budget and the risk by singular value of C, in decreasing order of it.

    Attributes
    ----------
    singular_value : (k,) array
        :math:`\sigma_j`: the amplification of a displacement along its direction.
    budget : (k,) array
        Share of :math:`\rho^2` that the worst-case law spends there; they sum to one (zero
        without a budget).
    nominal, risk : (k,) arrays
        Residual mass :math:`m_j` before, and :math:`m_j(\lambda/(\lambda-\sigma_j^2))^2` under the
        law, in squared units of x; the second sums to the worst-case risk.
    """

    singular_value: Array
    budget: Array
    nominal: Array
    risk: Array


def spectral_shares(spectrum: ResidualSpectrum, radius: float) -> SpectralShares:
    r"""Budget and risk of the worst-case law by singular value.

    .. math:: \delta_j = \frac{m_j\sigma_j^2}{(\lambda-\sigma_j^2)^2},\qquad
              \sum_j\delta_j = \rho^2,\qquad
              \mathcal R_j = m_j\Bigl(\frac{\lambda}{\lambda-\sigma_j^2}\Bigr)^2

    at the optimal multiplier; in the hard case the rest of the budget is spent at the top, where it
    adds :math:`\kappa^2` times itself to the risk.

    Parameters
    ----------
    spectrum : ResidualSpectrum
    radius : float

    Raises
    ------
    ValueError, TypeError
        For a bad radius.
    """
    solution = minimize_quadratic_dual(spectrum, radius)
    squared, mass, top = spectrum.squared_singular_values, spectrum.mass, spectrum.top
    order = np.argsort(-squared, kind="stable")
    if radius**2 == 0.0 or top == 0.0:  # by underflow too
        zero = np.zeros_like(mass)
        return SpectralShares(np.sqrt(squared[order]), zero, mass[order], mass[order])
    apart = solution.margin + spectrum.relative_gaps  # (λ - σ²)/κ²
    used = np.logical_and(apart > 0, spectrum.significant)
    inverse = np.divide(1.0, apart, out=np.zeros_like(apart), where=used)
    spent = mass * squared * inverse**2 / top**2
    risk = mass * np.where(used, (1.0 + squared / top * inverse) ** 2, 1.0)
    rest = solution.unspent * radius**2
    first = int(np.argmax(squared))
    spent[first] += rest
    risk[first] += rest * top
    return SpectralShares(
        np.sqrt(squared[order]), spent[order] / radius**2, mass[order], risk[order]
    )


def sample_shares(cost: Array, weights: Array) -> Array:
    """Share of the budget spent on each sample, (N,); sums to one, or zero if nothing moves."""
    spent = cost * weights
    total = float(spent.sum())
    return spent / total if total > 0 else np.zeros_like(spent)


def principal_directions(
    displacement: Array, weights: Array, count: int = DIRECTIONS
) -> tuple[Array, Array]:
    r"""The directions in which a law moves most, and their shares of the squared move.

    Eigenvectors of :math:`\sum_i\mu_i v_iv_i^\top`, rows (k, d), and their shares (k,)
    of its trace, decreasing; of each, the largest entry is positive.
    """
    rows = displacement * np.sqrt(weights)[:, None]
    size = float(np.abs(rows).max(initial=0.0))
    if size == 0.0:
        return np.zeros((0, rows.shape[1])), np.zeros(0)
    rows = rows / size  # squares of tiny moves underflow
    if len(rows) < rows.shape[1]:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        values, found = values[::-1][:count], (vectors[:, ::-1][:, :count].T @ rows)
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-300)
    else:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        values, found = values[::-1][:count], vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    shares = np.maximum(values, 0.0) / float(np.einsum("ij,ij->", rows, rows))
    return np.ascontiguousarray(found * np.sign(largest)), shares
