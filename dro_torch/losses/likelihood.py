"""The likelihood cost of a transport map, and how its numbers grow with the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar
from dro_torch.models import call_model
from dro_torch.nets.upsampling import BicubicUpsampling
from dro_torch.precision import full_precision, wide

#: Entries of the images for which the ISUM paper states its constants: 3 x 256 x 256.
PAPER_ENTRIES = 3 * 256 * 256


def cost_scale(entries: int) -> float:
    r"""The scale :math:`\tau = 10^{-3}\cdot196608/D` of the cost for signals of D entries.

    A sum over pixels grows with D; this keeps its size at that of the paper's 3 x 256 x 256 images.
    Too large a scale makes unbalanced transport ignore the noisiest measurements: watch
    `UnbalancedOTLoss.weights`, and try 0.3, 0.1 and 0.03 times it.

    Source: ISUM paper, Appendix A, for D = 196608; the rule is this project's.

    >>> cost_scale(3 * 256 * 256), cost_scale(32 * 32)
    (0.001, 0.192)
    """
    return 1e-3 * PAPER_ENTRIES / as_positive_integer(entries, "entries")


def gradient_penalty_weight(entries: int) -> float:
    r"""The weight :math:`\gamma = 5D/196608` of the gradient penalty for signals of D entries.

    The penalty biases the potential, so lower it (`UnbalancedOTLoss.gradient_penalty`) late in a
    run. Source: this project, from the value 5 that is usual for 3 x 256 x 256 images.

    >>> gradient_penalty_weight(3 * 256 * 256)
    5.0
    """
    return 5.0 * as_positive_integer(entries, "entries") / PAPER_ENTRIES


class LikelihoodCost(nn.Module):
    r"""The cost :math:`c(y,x) = \tau\,(\lambda_l\|A(x)-y\|^2 + \lambda_q\|Q(y)-x\|^2)`, (N,).

    Squares are **summed** over all entries of a sample, in float32 or wider also under autocast.

    Parameters
    ----------
    forward : callable, nn.Module, or object with a method ``A``
        The forward operator, from signals (N, ...) to measurements (N, ...); where there is an
        ``A`` it is used, as calling a physics object may add noise. May be None if `likelihood`
        is zero: then the corruption is unknown (blind), and nothing is ever called.
    likelihood, quadratic : float
        :math:`\lambda_l, \lambda_q \ge 0`, not both zero.
    scale : float
        :math:`\tau > 0`; `cost_scale` has a rule.
    upsample : int or callable, optional
        Q, for measurements smaller than signals: a factor (bicubic), or any map.

    Raises
    ------
    ValueError, TypeError
        For negative weights, a missing operator, or (when called) shapes that do not fit.

    Notes
    -----
    Source: ISUM paper, Eq. 13 and Section 4. With both parts the cost is about twice as large as
    with one: compare ablations at equal total cost.

    Examples
    --------
    >>> import torch
    >>> cost = LikelihoodCost(lambda x: 2 * x, scale=0.5)
    >>> cost(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([3.])
    """

    def __init__(
        self,
        forward: Any = None,
        likelihood: float = 1.0,
        quadratic: float = 1.0,
        scale: float = 1e-3,
        upsample: int | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.likelihood = as_non_negative(likelihood, "likelihood")
        self.quadratic = as_non_negative(quadratic, "quadratic")
        self.scale = as_scalar(scale, "scale", "a number > 0")
        if self.scale <= 0:
            raise ValueError(f"scale: {self.scale}; allowed: a number > 0")
        if self.likelihood == self.quadratic == 0:
            raise ValueError("likelihood, quadratic: both are zero, so every map is free")
        if forward is None and self.likelihood > 0:
            raise ValueError(
                f"forward: None, but likelihood is {self.likelihood}; give the forward operator, "
                "or likelihood=0 if it is unknown"
            )
        if forward is not None and not callable(_applied(forward)):
            raise TypeError(
                f"forward: {type(forward).__name__} is neither callable nor has a method A"
            )
        if upsample is not None and not callable(upsample):
            upsample = BicubicUpsampling(upsample)
        self.operator, self.upsample = forward, upsample

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Cost of moving measurement i to signal i: (N, ...) and (N, ...) to (N,)."""
        for name, value in (("y", y), ("x", x)):
            if (
                not isinstance(value, Tensor)
                or not value.is_floating_point()
                or value.ndim == 0
                or value.is_sparse
            ):
                raise TypeError(f"{name}: {value!r:.50}; allowed: floating-point tensors of rows")
        if len(y) != len(x):
            raise ValueError(f"y: {len(y)} samples, but x has {len(x)}; entry i of both is one")
        with full_precision(x):
            y, x = wide(y), wide(x)
            total = x.new_zeros(len(x))
            if self.likelihood > 0:
                image = call_model(_applied(self.operator), x, "forward", "x", dimensions=1)
                _check_shape(image, "forward: A(x)", y, "y")
                total = total + self.likelihood * squares(image - y)
            if self.quadratic > 0:
                start = y
                if self.upsample is not None:
                    start = call_model(self.upsample, y, "upsample", dimensions=1)
                _check_shape(start, "upsample: Q(y)", x, "x")
                total = total + self.quadratic * squares(start - x)
            return self.scale * total

    def extra_repr(self) -> str:
        return f"likelihood={self.likelihood}, quadratic={self.quadratic}, scale={self.scale}"


def _applied(operator: Any) -> Any:
    """The operator's method A if it has one (an attribute A may also be a matrix), else itself."""
    method = getattr(operator, "A", None)
    return method if callable(method) else operator


def squares(difference: Tensor) -> Tensor:
    """Squared norms of the samples, (N,)."""
    return difference.flatten(1).square().sum(1)


def _check_shape(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but {other_name} has {tuple(other.shape)}; "
            "they must agree"
        )
