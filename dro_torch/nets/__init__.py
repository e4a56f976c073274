"""Networks: every one has a global Lipschitz constant, unless a normalisation is asked for.

DRO paper, section 4 (the constants) and 6.1 (reconstruction networks); unbalanced-transport paper,
Appendix A (maps and potentials). In go measurements or images, out come images or numbers. Below
are checks and how models are copied; above are `dro_torch.lipschitz`, the cost of transport maps,
`dro_torch.certify` and `dro_torch.transport_map`.
"""

from dro_torch.nets.clipped import Clipped
from dro_torch.nets.linear import LinearMap
from dro_torch.nets.mlp import MLP
from dro_torch.nets.smoothed import SmoothedModel
from dro_torch.nets.spectral import BoundedConvolution, GradientStep, frozen
from dro_torch.nets.tethered import Tethered
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.nets.unet import UNet

__all__ = [
    "UNet",
    "MLP",
    "LinearMap",
    "TransportMap",
    "Potential",
    "BoundedConvolution",
    "GradientStep",
    "Clipped",
    "SmoothedModel",
    "Tethered",
    "frozen",
]
