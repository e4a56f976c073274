"""One image against its reconstruction: root mean square error, PSNR and SSIM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dro_core.checks import as_positive, check_magnitude
from dro_torch.checks import check_finite, check_images
from dro_torch.metrics.checks import check_pair
from dro_torch.precision import wide, widest

#: Side and standard deviation of the Gaussian window of `ssim`, in pixels.
SSIM_WINDOW, SSIM_DEVIATION = 11, 1.5


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
    x, reconstruction = check_pair(x, reconstruction)
    error = (widest(x) - widest(reconstruction)).flatten(1)
    size = error.abs().amax(1, keepdim=True).clamp_min(torch.finfo(error.dtype).tiny)
    root = size[:, 0] * (error / size).square().mean(1).sqrt()
    check_finite(root, "RMSE of x and reconstruction")
    return root.to(wide(x[:0]).dtype)


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
    x, reconstruction = check_pair(check_images(x, "x"), reconstruction)
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
    return found.to(wide(x[:0]).dtype)


def _centred(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean of every channel, the images less it, and the local means of that."""
    wide = widest(images)
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
