r"""Quality of reconstructions, one number per image, and what their mean says about the population.

DRO paper, section 6.1.3. In go a model or its reconstructions with the true images, out come one
number per image, or the mean with its interval. Below are checks and how models are called; above
are validations of `dro_torch.transport_map` and the experiments.

`rmse`, `psnr` and `ssim` compare a batch x with its reconstructions; `stability` and `saliency`
measure how a model reacts to small changes of its input; `kid` compares two *sets* of images. Every
one returns a tensor of values, so that `bootstrap_interval` can say how well their mean is known;
`summary` does all of it over the batches of a test set without keeping an image.
"""

from dro_torch.metrics.images import psnr, rmse, ssim
from dro_torch.metrics.perceptual import KID_NAME, EfficientNetLite0, kid, polynomial_mmd
from dro_torch.metrics.robustness import saliency, stability
from dro_torch.metrics.statistics import Interval, bootstrap_interval, summary

__all__ = [
    "rmse",
    "psnr",
    "ssim",
    "stability",
    "saliency",
    "EfficientNetLite0",
    "KID_NAME",
    "polynomial_mmd",
    "kid",
    "Interval",
    "bootstrap_interval",
    "summary",
]
