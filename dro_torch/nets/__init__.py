"""Networks: every one has a global Lipschitz constant, unless a normalisation is asked for."""

from dro_torch.nets.linear import LinearMap
from dro_torch.nets.mlp import MLP
from dro_torch.nets.spectral import BoundedConvolution, GradientStep, frozen
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
    "frozen",
]
