r"""Anything that measures as a forward operator, and whether its adjoint is one.

Objects with `A` and `A_adjoint` are accepted by `as_forward`, the physics of deepinv included; a
plain function or network is a nonlinear forward operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dro_core.checks import as_non_negative, as_positive_integer
from dro_torch.checks import check_finite, check_tensor
from dro_torch.physics.forward import Forward, LinearForward
from dro_torch.physics.linear import LinearOperatorModule, is_matrix_like


class ForwardFunction(Forward):
    """A function or network as forward operator: what `as_forward` makes of one."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """function(x), which must be a tensor; its own dtype, autocast left as it is."""
        return self._measure(check_tensor(x, "x"))

    def _measure(self, x: Tensor) -> Tensor:
        return _tensor(self.function(x), "forward", "A(x)")


class ForwardPhysics(LinearForward):
    """An object with `A` and `A_adjoint`, used through them: what `as_forward` makes of one."""

    def __init__(self, physics: Any) -> None:
        super().__init__()
        self.physics = physics

    def forward(self, x: Tensor) -> Tensor:
        """physics.A(x)."""
        return self._measure(check_tensor(x, "x"))

    def A_adjoint(self, y: Tensor) -> Tensor:
        """physics.A_adjoint(y)."""
        return self._transpose(check_tensor(y, "y"))

    def _measure(self, x: Tensor) -> Tensor:
        return _tensor(self.physics.A(x), "forward", "A(x)")

    def _transpose(self, y: Tensor) -> Tensor:
        return _tensor(self.physics.A_adjoint(y), "forward", "A_adjoint(y)")


def _tensor(value: object, name: str, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {what} is a {type(value).__name__}; needed: a torch.Tensor")
    return value


def as_forward(forward: Any) -> Forward:
    r"""Anything that measures, as a module with `A` and, if it is linear, `A_adjoint`.

    Parameters
    ----------
    forward : object
        One of

        * a module of `dro_torch.physics` or `dro_torch.tomography`: returned as it is;
        * an object with methods `A` and `A_adjoint` (deepinv's linear physics, for instance), or
          with `A` alone (nonlinear): used through them, with its own derivatives;
        * a matrix (dense or scipy sparse), an operator of `dro_core.operators` or a scipy
          `LinearOperator`: through `LinearOperatorModule`, in float32 (for another dtype or other
          shapes make it yourself);
        * a function or `torch.nn.Module`, taken as nonlinear.

    Returns
    -------
    Forward
        A `LinearForward` exactly if `forward` is linear in the sense above.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import torch
    >>> from dro_torch.physics import as_forward
    >>> as_forward(torch.tanh).A(torch.zeros(1, 2))
    tensor([[0., 0.]])
    """
    if isinstance(forward, Forward):
        return forward
    if isinstance(forward, type):
        raise TypeError(f"forward: the class {forward.__name__}; pass an object of it")
    if is_matrix_like(forward):
        return LinearOperatorModule(forward)
    if callable(getattr(forward, "A", None)):
        if callable(getattr(forward, "A_adjoint", None)):
            return ForwardPhysics(forward)
        return ForwardFunction(forward.A)
    if callable(forward):
        return ForwardFunction(forward)
    raise TypeError(
        f"forward: {forward!r} has no method A and is not callable; allowed: an object with A "
        "(and A_adjoint if it is linear), a function, a torch.nn.Module or a matrix"
    )


class AdjointError(ValueError, AssertionError):
    """A_adjoint is not the adjoint of A; `defect` is the relative defect found."""

    def __init__(self, message: str, defect: float) -> None:
        super().__init__(message)
        self.defect = defect

    def __reduce__(self) -> tuple[type[AdjointError], tuple[str, float]]:
        return type(self), (self.args[0], self.defect)


def check_adjoint(
    forward: Any,
    shape_x: Sequence[int],
    shape_y: Sequence[int] | None = None,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    rtol: float | None = None,
) -> float:
    r"""Relative defect of the adjoint identity for standard Gaussian x and y.

    .. math:: \frac{|\langle Ax, y\rangle - \langle x, A^*y\rangle|}
                   {\|Ax\|\,\|y\| + \|x\|\,\|A^*y\|}

    Parameters
    ----------
    forward : object
        Anything linear that `as_forward` accepts.
    shape_x : sequence of int
        Shape of x, the batch axis included.
    shape_y : sequence of int, optional
        Shape that Ax must have; not checked by default.
    generator : torch.Generator, optional
        Source of x and y; default: a generator with seed 0, the same pair every time.
    dtype, device : torch.dtype, torch.device
        Of x and y. The inner products are summed in float64.
    rtol : float, optional
        Largest defect allowed.

    Returns
    -------
    float
        The defect: rounding (1e-16 in float64, 1e-8 in float32) for a true adjoint, of order one
        divided by the root of the number of entries for a wrong one. Zero if Ax and A*y are zero.

    Raises
    ------
    AdjointError
        If the defect exceeds `rtol` (a ValueError and an AssertionError; `.defect` is the number).
    ValueError, TypeError
        For an operator without `A_adjoint`, products of the wrong shape or that are not finite, or
        bad shapes.

    Examples
    --------
    >>> from dro_torch.physics import Convolution, check_adjoint, gaussian_kernel
    >>> check_adjoint(Convolution(gaussian_kernel(1.0)), (1, 3, 16, 16), rtol=1e-14) < 1e-14
    True
    """
    operator = as_forward(forward)
    if not isinstance(operator, LinearForward):
        raise TypeError(
            f"forward: {type(forward).__name__} has no A_adjoint; only linear operators have one"
        )
    tolerance = None if rtol is None else as_non_negative(rtol, "rtol")
    generator = generator or torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int]) -> Tensor:
        sizes = [as_positive_integer(size, "shape") for size in shape]
        normal = torch.randn(
            sizes, generator=generator, dtype=torch.float64, device=generator.device
        )
        return normal.to(dtype).to(device)

    with torch.no_grad():
        x = draw(shape_x)
        image = operator.A(x)
        if shape_y is not None and tuple(image.shape) != tuple(shape_y):
            raise ValueError(f"shape_y: {tuple(shape_y)}, but A(x) has shape {tuple(image.shape)}")
        y = draw(image.shape)
        back = operator.A_adjoint(y)
    if back.shape != x.shape:
        raise ValueError(
            f"forward: A_adjoint(y) has shape {tuple(back.shape)}, but x has {tuple(x.shape)}"
        )
    check_finite(image, "A(x)")
    check_finite(back, "A_adjoint(y)")
    x, y, image, back = (value.double().flatten() for value in (x, y, image, back))
    size = float(image.norm() * y.norm() + x.norm() * back.norm())
    defect = abs(float(image @ y - x @ back)) / size if size else 0.0
    if tolerance is not None and defect > tolerance:
        raise AdjointError(
            f"forward: A_adjoint is not the adjoint of A: <Ax, y> = {float(image @ y):.9g}, but "
            f"<x, A_adjoint y> = {float(x @ back):.9g}; relative defect {defect:.3g}, allowed: "
            f"{tolerance:g}",
            defect,
        )
    return defect
