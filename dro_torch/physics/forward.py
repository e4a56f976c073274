r"""What a forward operator is here: a module with `A`, and `A_adjoint` where it is linear."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from dro_torch.checks import check_tensor
from dro_torch.precision import in_full_precision


class Forward(nn.Module, ABC):
    r"""A measurement model :math:`x \mapsto A(x)`, differentiable in x.

    `A(x)` and calling the module are the same. Samples are on axis 0; further leading axes
    (channels) are treated alike. Half precision and autocast: computed in float32, returned in the
    dtype of x.
    """

    def A(self, x: Tensor) -> Tensor:
        """The measurement A(x); see the class."""
        result: Tensor = self(x)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """The measurement A(x); TypeError or ValueError for a bad x."""
        return in_full_precision(self._measure, self._check_signal(check_tensor(x, "x")))

    def _check_signal(self, x: Tensor) -> Tensor:
        return x

    @abstractmethod
    def _measure(self, x: Tensor) -> Tensor:
        """A(x) for a checked x of at least float32."""


class LinearForward(Forward):
    r"""A linear measurement model :math:`x \mapsto Ax` with its exact adjoint.

    Both are linear and differentiable; :math:`\langle Ax, y\rangle = \langle x, A^* y\rangle` up
    to rounding (`check_adjoint`).
    """

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint A*y, in the space of x; TypeError or ValueError for a bad y."""
        return in_full_precision(self._transpose, self._check_measurement(check_tensor(y, "y")))

    def _check_measurement(self, y: Tensor) -> Tensor:
        return y

    @abstractmethod
    def _transpose(self, y: Tensor) -> Tensor:
        """A*y for a checked y of at least float32."""
