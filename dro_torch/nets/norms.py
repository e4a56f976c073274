r"""Operator norms of matrices and convolutions: upper bounds that are proved.

A convolution with kernel :math:`W_k` (output channels x input channels) acts on sequences over
:math:`\mathbb{Z}^d` as multiplication by its *symbol*

.. math:: H(\omega) = \sum_k W_k e^{-i k\cdot\omega},\qquad \omega \in [0, 2\pi)^d,

so its norm there is :math:`M = \sup_\omega \sigma_{\max}(H(\omega))`. Three facts make that a bound
for what runs on images.

* *Zero padding*: extend the image by zeros (an isometry), convolve on :math:`\mathbb{Z}^d`, keep
  some of the outputs (a projection): the norm is at most M. M is its limit for large images.
* *Circular padding*: the operator on N points per axis is block diagonal in the discrete Fourier
  basis with the blocks :math:`H(2\pi j/N)`: its norm is their largest singular value, at most M.
* *Stride s* sees the s phases :math:`x_r[n] = x[sn + r]` of its input as channels of a convolution
  without stride (polyphase form); splitting into phases is an isometry. *Transposed* convolutions
  are adjoints, *groups* are diagonal blocks, *dilation* is a kernel with zeros.

A supremum is not the maximum over a grid. With :math:`n_j = (K_j - 1)/2` for a kernel of
:math:`K_j` entries on axis j, the centred :math:`\operatorname{Re}(u^* H(\omega) v)` is along every
line a real function of exponential type; where such a function attains its supremum M it is at
least :math:`M\cos(\sum_j n_j \lvert\omega_j - \omega^*_j\rvert)` as long as the sum is at most
:math:`\pi/2` (the comparison lemma of Riesz, Duffin and Schaeffer). Hence with grid spacings
:math:`h_j`

.. math:: M \le \max_{\text{grid}} \sigma_{\max}(H) \big/ \cos\bigl(\tfrac12\textstyle\sum_j n_j
   h_j\bigr),

and a grid point with a value below the current maximum times that cosine has no maximiser in its
cell, so only the other cells are refined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Relative accuracy of the supremum of a symbol at which the refinement of its grid stops.
SYMBOL_TOLERANCE = 1e-5
#: Refinement also stops before more points than this, or symbols of more entries in all.
LARGEST_REFINEMENT, LARGEST_ENTRIES = 2**14, 2**24
#: Entries of the symbols that are decomposed together: 64 MiB.
BLOCK_ENTRIES = 2**22
_EPS = torch.finfo(torch.float64).eps


def rounding_factor(size: int) -> float:
    """Factor >= 1 above the rounding errors of a float64 norm with sums of `size` terms."""
    return 1 + 16 * _EPS * size


def matrix_norm(matrix: Tensor) -> float:
    r"""Upper bound of the spectral norm of a matrix: its singular value, rounded up."""
    if matrix.numel() == 0:
        return 0.0
    largest = torch.linalg.matrix_norm(matrix.detach().double(), 2)
    return float(largest) * rounding_factor(sum(matrix.shape))


def symbol(weight: Tensor, frequencies: Tensor) -> Tensor:
    r"""The symbol :math:`H(\omega)` at P frequencies, complex (P, outputs, inputs).

    Parameters
    ----------
    weight : (outputs, inputs, K_1, ..., K_d) tensor
        Kernel.
    frequencies : (P, d) tensor
        Angular frequencies, radians per sample.
    """
    positions = torch.cartesian_prod(
        *(torch.arange(k, dtype=frequencies.dtype) for k in weight.shape[2:])
    ).reshape(-1, frequencies.shape[1])
    waves = torch.polar(
        torch.ones(1, dtype=frequencies.dtype), -(frequencies @ positions.T)
    )  # (P, K)
    blocks = waves @ weight.flatten(2).permute(2, 0, 1).flatten(1).to(waves.dtype)
    return blocks.reshape(-1, *weight.shape[:2])


def _grid(counts: Sequence[int], spacings: Sequence[float]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64) * h for n, h in zip(counts, spacings, strict=True)]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def _singular_values(weight: Tensor, frequencies: Tensor) -> Tensor:
    block = max(1, BLOCK_ENTRIES // (weight.shape[0] * weight.shape[1]))
    return torch.cat(
        [torch.linalg.svdvals(symbol(weight, part))[:, 0] for part in frequencies.split(block)]
    )


def symbol_supremum(weight: Tensor, sizes: Sequence[int] | None = None) -> float:
    r"""Upper bound of :math:`\sup_\omega\sigma_{\max}(H(\omega))`, or the maximum on a grid.

    Parameters
    ----------
    weight : (outputs, inputs, K_1, ..., K_d) tensor
        Kernel; computed in float64.
    sizes : d integers, optional
        Maximum over the frequencies :math:`2\pi j/N` only, the exact norm of the circular
        convolution on N points per axis.

    Returns
    -------
    float
        At most a factor 1 + 1e-5 above the supremum, unless the symbol is nearly flat (then at
        most 1 / cos of the last grid).
    """
    weight = weight.detach().double().cpu()
    kernel = weight.shape[2:]
    slack = rounding_factor(sum(weight.shape[:2]) + math.prod(kernel))
    if sizes is not None:  # a real kernel: half of the last axis is enough
        counts = [*sizes[:-1], sizes[-1] // 2 + 1]
        points = _grid(counts, [2 * math.pi / n for n in sizes])
        return float(_singular_values(weight, points).max()) * slack
    types = [(k - 1) / 2 for k in kernel]
    full = [1 if k == 1 else 8 * (k - 1) for k in kernel]
    half = [*full[:-1], full[-1] // 2 + 1]
    spacings = [2 * math.pi / n for n in full]
    points, best = _grid(half, spacings), 0.0
    while True:
        values = _singular_values(weight, points)
        best = max(best, float(values.max()))
        cosine = math.cos(sum(n * h / 2 for n, h in zip(types, spacings, strict=True)))
        kept = points[values >= best * cosine * (1 - 1e-12)]
        count = 2 ** len(kernel) * len(kept)
        most = min(LARGEST_REFINEMENT, LARGEST_ENTRIES // math.prod(weight.shape[:2]))
        if cosine >= 1 / (1 + SYMBOL_TOLERANCE) or count > most:
            return best / cosine * slack
        shifts = torch.tensor(spacings, dtype=torch.float64) / 4
        signs = torch.cartesian_prod(
            *[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * len(kernel)
        )
        points = (kept[:, None] + signs.reshape(-1, len(kernel)) * shifts).flatten(0, 1)
        spacings = [h / 2 for h in spacings]


def dilate(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """The kernel with dilation - 1 zeros between neighbours."""
    if all(d == 1 for d in dilation):
        return weight
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = weight.new_zeros(*weight.shape[:2], *sizes)
    steps: Any = (..., *(slice(None, None, d) for d in dilation))
    wide[steps] = weight
    return wide


def polyphase(weight: Tensor, stride: Sequence[int]) -> Tensor:
    r"""Kernel without stride on the phases: ``(outputs, inputs * prod(stride), ...)``.

    From k = s q + r: entry q of phase r is :math:`w[sq + r]`.
    """
    for axis, step in enumerate(stride, start=2):
        if step > 1:
            missing = -weight.shape[axis] % step
            shape = list(weight.shape)
            shape[axis] = missing
            weight = torch.cat([weight, weight.new_zeros(shape)], dim=axis)
            weight = weight.unflatten(axis, (-1, step)).movedim(axis + 1, 2).flatten(1, 2)
    return weight


def convolution_norm(
    weight: Tensor,
    *,
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    circular_sizes: Sequence[int] | None = None,
) -> float:
    r"""Upper bound of the norm of a convolution with zero or circular padding.

    .. math:: \sup_\omega \sigma_{\max}\Bigl(\sum_k W_k e^{-ik\cdot\omega}\Bigr)

    of the polyphase kernel; proof at the head of this module. Transposed convolutions have the norm
    of the convolution of which they are the adjoint.

    Parameters
    ----------
    weight : (outputs, inputs / groups, K_1, ..., K_d) tensor
        Kernel as in `torch.nn.Conv2d`; computed in float64.
    stride, dilation : d integers, optional
        Default 1.
    groups : int
        As in `torch.nn.Conv2d`.
    circular_sizes : d integers, optional
        Sizes of the input of a circularly padded convolution whose output has size / stride points:
        then the exact norm. Without them, or for zero padding, the bound holds for every size.

    Returns
    -------
    float
        At least the true norm, up to rounding that is allowed for to first order.
    """
    dimension = weight.ndim - 2
    stride, dilation = stride or [1] * dimension, dilation or [1] * dimension
    wide = dilate(weight.detach().double(), dilation)
    if circular_sizes is not None and any(
        n % s for n, s in zip(circular_sizes, stride, strict=True)
    ):
        stride = [1] * dimension  # its outputs are among those of the convolution without stride
    sizes = (
        None
        if circular_sizes is None
        else [n // s for n, s in zip(circular_sizes, stride, strict=True)]
    )
    parts = polyphase(wide, stride).chunk(groups)
    return max(symbol_supremum(part, sizes) for part in parts)


def differentiable_norm(weight: Tensor, *, grid: int = 16, iterations: int = 6) -> Tensor:
    r"""Differentiable upper bound of the norm of a convolution without stride, cheap on any device.

    .. math:: \|W\| \le \frac{\max_{g}\,\bigl\|(H_g^* H_g)^{2^{t-1}}\bigr\|_F^{1/2^t}}
       {\prod_j\cos(n_j\pi/N)}

    with t = `iterations` (Gram iteration: the Frobenius norm of a power bounds the power of the
    norm, and the factor lost is at most :math:`\operatorname{rank}^{1/2^{t+1}}`) on N = `grid`
    frequencies per axis, :math:`n_j = (K_j - 1)/2`. Holds for zero and circular padding and every
    image size; no state and no random start vector, so averaged weights keep the guarantee.

    Parameters
    ----------
    weight : (outputs, inputs, K_1, ..., K_d) tensor
        Kernel; computed in float32 or wider, also under autocast, and in float64 on CUDA, where
        float32 products may be rounded to 10 bits (TF32).
    grid : int
        Frequencies N per axis; at least :math:`4(K_j - 1)` are used.
    iterations : int
        Squarings t >= 1.

    Returns
    -------
    0-d tensor
        The bound. The gradient is that of the frequency where the maximum is attained.

    Notes
    -----
    Source: Delattre, Barthelemy, Araujo, Allauzen, *Efficient bound of Lipschitz constant for
    convolutional layers by Gram iteration* (2023), there for circular padding; the correction for
    zero padding and any size is the comparison lemma at the head of this module, axis by axis.
    """
    dtype = torch.promote_types(weight.dtype, torch.float64 if weight.is_cuda else torch.float32)
    with torch.autocast(weight.device.type, enabled=False):
        weight = weight.to(dtype)
        kernel = weight.shape[2:]
        flat = weight.flatten(2)
        if weight.shape[0] < weight.shape[1]:
            flat = flat.transpose(0, 1)
        if flat.shape[1] == 1:
            iterations = 1  # rank one: exact at once
        cosines, sines, correction = _fourier(kernel, grid, weight)
        with torch.no_grad():
            real, imaginary = _parts(flat.detach(), cosines, sines)
            at = _gram_iteration(real, imaginary, iterations).argmax().reshape(1)
        real, imaginary = _parts(flat, cosines.index_select(0, at), sines.index_select(0, at))
        bound = _gram_iteration(real, imaginary, iterations).squeeze(0)
        slack = 1 + 32 * torch.finfo(dtype).eps
        return bound * (correction * slack)


def _fourier(kernel: Sequence[int], grid: int, like: Tensor) -> tuple[Tensor, Tensor, float]:
    """cos and sin of k.w for half of the grid (P, K), and the factor from grid to supremum."""
    counts = [1 if k == 1 else max(grid, 4 * (k - 1)) for k in kernel]
    correction = 1.0
    for k, count in zip(kernel, counts, strict=True):
        correction /= math.cos((k - 1) / 2 * math.pi / count)
    half = [*counts[:-1], counts[-1] // 2 + 1]
    options: Any = {"dtype": like.dtype, "device": like.device}
    angles = torch.zeros(1, 1, **options)
    for size, count, full in zip(kernel, half, counts, strict=True):
        frequency = torch.arange(count, **options) * (2 * math.pi / full)
        axis = frequency[:, None] * torch.arange(size, **options)
        angles = (angles[:, None, :, None] + axis[None, :, None, :]).flatten(2).flatten(0, 1)
    return angles.cos(), angles.sin(), correction


def _parts(flat: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of the symbol, (P, rows, columns), from (rows, columns, K)."""
    kernels = flat.permute(2, 0, 1).flatten(1)
    shape = (len(cosines), *flat.shape[:2])
    return (cosines @ kernels).reshape(shape), -(sines @ kernels).reshape(shape)


def _gram_iteration(real: Tensor, imaginary: Tensor, iterations: int) -> Tensor:
    r"""Upper bounds :math:`\|(H^*H)^{2^{t-1}}\|_F^{1/2^t}` of P complex matrices, without overflow.

    Complex arithmetic is written out in real parts (no complex kernels on the way to a compiler).
    """
    tiny = torch.finfo(real.dtype).tiny ** 0.5
    logarithm: Tensor | float = 0.0
    for step in range(iterations):
        size = (real.square() + imaginary.square()).sum((-2, -1), keepdim=True)
        size = size.clamp_min(tiny**2).sqrt()
        real, imaginary = real / size, imaginary / size
        logarithm = logarithm + size.log() / 2**step
        left, right = real.mT, imaginary.mT
        real, imaginary = left @ real + right @ imaginary, left @ imaginary - right @ real
    size = (
        (real.square() + imaginary.square()).sum((-2, -1), keepdim=True).clamp_min(tiny**2).sqrt()
    )
    result: Tensor = (logarithm + size.log() / 2**iterations).flatten().exp()
    return result
