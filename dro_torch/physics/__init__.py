r"""Differentiable measurements: forward operators, blur kernels and noise.

The A of both papers, DRO paper, sections 2 and 6. In go images, out come measurements (and images
from the adjoint), differentiable to every order. Below are checks and `dro_core.linear_map`; above
are `dro_torch.tomography`, transport maps and the experiments.

A forward operator is a module with `A(x)` and, if it is linear, `A_adjoint(y)`; `as_forward`
accepts anything that has them (the physics of deepinv included), and plain functions. Tomography
is in `dro_torch.tomography`.
"""

from dro_torch.physics.conversion import AdjointError, as_forward, check_adjoint
from dro_torch.physics.convolution import (
    Convolution,
    anisotropic_gaussian_kernel,
    gaussian_kernel,
    motion_blur_kernel,
)
from dro_torch.physics.forward import Forward, LinearForward
from dro_torch.physics.imaging import (
    ClippedHDR,
    Downsampling,
    GammaMotionBlur,
    Integration,
    SignalGatedBlur,
    Upsampling,
    pretrained_forward,
)
from dro_torch.physics.linear import LinearOperatorModule
from dro_torch.physics.noise import (
    GaussianNoise,
    MixtureNoise,
    MultiLevelGaussianNoise,
    Noise,
    PoissonNoise,
    SaltAndPepperNoise,
    SpeckleNoise,
    UniformNoise,
)

__all__ = [
    "Forward",
    "LinearForward",
    "LinearOperatorModule",
    "as_forward",
    "check_adjoint",
    "AdjointError",
    "Convolution",
    "gaussian_kernel",
    "anisotropic_gaussian_kernel",
    "motion_blur_kernel",
    "Integration",
    "Downsampling",
    "Upsampling",
    "ClippedHDR",
    "GammaMotionBlur",
    "SignalGatedBlur",
    "pretrained_forward",
    "Noise",
    "GaussianNoise",
    "UniformNoise",
    "SpeckleNoise",
    "PoissonNoise",
    "SaltAndPepperNoise",
    "MixtureNoise",
    "MultiLevelGaussianNoise",
]
