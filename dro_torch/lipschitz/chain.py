"""Chains of matrices and scalar activations, bounded below the product of their constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dro_torch.nets.norms import matrix_norm


def chain_bound(matrices: Sequence[Tensor], slopes: Sequence[tuple[float, float]]) -> float:
    r"""Lipschitz bound of :math:`W_k\sigma_{k-1}(\cdots\sigma_1(W_1 y))`, below the product.

    An activation with slopes in :math:`[\alpha, \beta]` is :math:`cI + rN` with
    :math:`c = (\alpha+\beta)/2`, :math:`r = (\beta-\alpha)/2` and N 1-Lipschitz, so for every
    matrix A, with :math:`z_k = W_k\sigma_{k-1}(z_{k-1})`,

    .. math:: \operatorname{Lip}(A z_k) \le \lvert c\rvert\operatorname{Lip}(A W_k z_{k-1})
       + r\,\|A W_k\|\operatorname{Lip}(z_{k-1}).

    Parameters
    ----------
    matrices : k tensors (n_i, n_{i-1})
        First layer first.
    slopes : k - 1 pairs
        Least and largest slope of the activation after each matrix but the last.

    Returns
    -------
    float
        At most :math:`\prod\|W_i\|\prod\max(|\alpha|, |\beta|)`; exact where all activations are
        linear.

    Notes
    -----
    Source: Combettes and Pesquet, *Lipschitz certificates for layered network structures driven by
    averaged activation operators* (2020), as a recursion.
    """
    constants: list[float] = []  # of z_1, z_2, ...

    def lipschitz_of(matrix: Tensor, layer: int) -> float:
        product = matrix @ matrices[layer]
        norm = matrix_norm(product)
        if layer == 0:
            return norm
        least, largest = slopes[layer - 1]
        split = abs(least + largest) / 2 * lipschitz_of(product, layer - 1)
        split += (largest - least) / 2 * norm * constants[layer - 1]
        return min(split, max(abs(least), abs(largest)) * norm * constants[layer - 1])

    for layer, matrix in enumerate(matrices):
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        constants.append(lipschitz_of(identity, layer))
    return constants[-1]
