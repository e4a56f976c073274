r"""Lipschitz constants of networks: guaranteed upper bounds, and lower bounds with a witness.

The κ of DRO paper, Theorems 4.1 and 4.2, with the chains of Combettes and Pesquet (2020). In go a
network and perhaps the shape of its input, out come a number, what it was composed of, or two
points. Below are the norms of `dro_torch.nets`; above is the upper end of `dro_torch.certify`.

The bound :math:`(\sqrt M + \rho\kappa)^2` on a worst-case risk needs an upper bound of the global
Lipschitz constant, which sampling cannot give. `lipschitz_upper` computes one from the weights by
composition rules: a layer's constant is proved once, for its type, and a network's follows from
:math:`\operatorname{Lip}(f\circ g) \le \operatorname{Lip} f\,\operatorname{Lip} g`,
:math:`\operatorname{Lip}(f + g) \le \operatorname{Lip} f + \operatorname{Lip} g` and
:math:`\operatorname{Lip}(f, g)^2 \le \operatorname{Lip}(f)^2 + \operatorname{Lip}(g)^2`; chains of
linear layers are sharper (`chain_bound`). `lipschitz_lower` finds two points and divides.

All norms are Euclidean, per sample.
"""

from __future__ import annotations

from dro_torch.lipschitz import activations as activations  # its rules register themselves
from dro_torch.lipschitz import layers as layers
from dro_torch.lipschitz.bounds import (
    LayerBound,
    LayerBounds,
    LipschitzBound,
    UnsupportedLayerError,
    lipschitz_upper,
    register_lipschitz,
)
from dro_torch.lipschitz.chain import chain_bound
from dro_torch.lipschitz.lower import LipschitzLower, lipschitz_lower

__all__ = [
    "lipschitz_upper",
    "lipschitz_lower",
    "LipschitzBound",
    "LipschitzLower",
    "LayerBound",
    "LayerBounds",
    "chain_bound",
    "register_lipschitz",
    "UnsupportedLayerError",
]
