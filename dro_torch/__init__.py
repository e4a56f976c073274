"""PyTorch adapters of `dro_core`: the same objectives as losses for anyone's training loop.

Moved samples, their linearisation, a loss, training: DRO paper, sections 3 to 6, and the learned
transport maps of the unbalanced-transport paper. In go networks, tensors and radii, out come
losses, trained networks and certificates. Below is `dro_core`, which knows nothing of torch; above
are the experiments of `validation`.

Needs the optional dependency torch.
"""

from dro_core import __version__
from dro_core.optional import needed

try:
    import torch as torch
except ModuleNotFoundError:
    needed("torch", "dro_torch")
    raise

from dro_torch import data, metrics, nets, physics, tomography, training
from dro_torch.certify import Certificate, Smoothing, certificate_curve, certify
from dro_torch.keyed_noise import standard_normal
from dro_torch.lipschitz import (
    LipschitzBound,
    LipschitzLower,
    UnsupportedLayerError,
    lipschitz_lower,
    lipschitz_upper,
    register_lipschitz,
)
from dro_torch.losses.adversarial import WassersteinDROLoss
from dro_torch.losses.ball import WassersteinBallLoss
from dro_torch.losses.bound import BoundLoss
from dro_torch.losses.entropic import EntropicDROLoss, EstimatorWarning
from dro_torch.losses.linearised import LinearisedDROLoss
from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
from dro_torch.multiplier import (
    BisectedMultiplier,
    Multiplier,
    StochasticDescent,
    bisect_multiplier,
)
from dro_torch.residual import forward_residual, reconstruction_residual
from dro_torch.shaped_noise import ShapedNoise, level_of_radius
from dro_torch.structure import Joint, Structure, XGivenY, XShift, YGivenX
from dro_torch.transport_map import (
    NoisyMeasurement,
    TransportRestoration,
    fit_transport_map,
)

__all__ = [
    "__version__",
    "EntropicDROLoss",
    "WassersteinDROLoss",
    "WassersteinBallLoss",
    "LinearisedDROLoss",
    "BoundLoss",
    "EstimatorWarning",
    "ShapedNoise",
    "level_of_radius",
    "Multiplier",
    "bisect_multiplier",
    "BisectedMultiplier",
    "StochasticDescent",
    "LikelihoodCost",
    "UnbalancedOTLoss",
    "TransportRestoration",
    "fit_transport_map",
    "NoisyMeasurement",
    "certify",
    "certificate_curve",
    "Certificate",
    "Smoothing",
    "lipschitz_upper",
    "lipschitz_lower",
    "LipschitzBound",
    "LipschitzLower",
    "register_lipschitz",
    "UnsupportedLayerError",
    "Structure",
    "Joint",
    "YGivenX",
    "XGivenY",
    "XShift",
    "reconstruction_residual",
    "forward_residual",
    "standard_normal",
    "data",
    "metrics",
    "nets",
    "physics",
    "tomography",
    "training",
]
