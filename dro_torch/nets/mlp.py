"""A multilayer perceptron on flattened samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_positive_integer
from dro_torch.nets.common import Bounds, check_features, check_shape, initialise, make_activation


class MLP(nn.Module):
    r"""Fully connected network :math:`W_k\,\sigma(\cdots\sigma(W_1 y + b_1)\cdots) + b_k`.

    Parameters
    ----------
    sizes : sequence of integers
        Entries of a sample before, between and after the layers: at least two numbers.
    dropout : float
        Probability in [0, 1) of dropout after every activation.
    activation : str
        "relu", "leaky_relu", "prelu", "elu", "silu", "gelu", "tanh" or "softplus".
    output_shape : sequence of integers, optional
        Shape of one output sample. Default: that of the input when the first and the last size
        agree, else flat.
    generator : torch.Generator, optional
        Draws the starting weights (on the CPU); torch's default generator when not given.

    Raises
    ------
    ValueError, TypeError
        For bad sizes, probabilities or names; on input, for samples with another number of entries.

    Notes
    -----
    Input (N, ...), flattened per sample. Source: DRO paper, section 6.3.

    Examples
    --------
    >>> import torch
    >>> MLP([784, 32, 784], dropout=0.1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        dropout: float = 0.0,
        activation: str = "relu",
        output_shape: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        counts = [as_positive_integer(size, f"sizes[{i}]") for i, size in enumerate(sizes)]
        if len(counts) < 2:
            raise ValueError(f"sizes: {counts}; at least an input and an output size are needed")
        probability = as_non_negative(dropout, "dropout")
        if probability >= 1:
            raise ValueError(f"dropout: {probability}; allowed: a probability in [0, 1)")
        make_activation(activation)  # a bad name is refused even where none is used
        layers: list[nn.Module] = []
        with initialise(self, generator):
            for before, after in itertools.pairwise(counts):
                if layers:
                    layers.append(make_activation(activation))
                    if probability:
                        layers.append(nn.Dropout(probability))
                layers.append(nn.Linear(before, after))
            self.layers = nn.Sequential(*layers)
        self.inputs = counts[0]
        self.output_shape = (
            None
            if output_shape is None and counts[0] == counts[-1]
            else check_shape(output_shape, "output_shape", counts[-1])
        )

    def forward(self, y: Tensor) -> Tensor:
        """Apply the network to every sample of (N, ...)."""
        check_features(y, math.prod(y.shape[1:]), self.inputs, "MLP")
        shape = y.shape[1:] if self.output_shape is None else self.output_shape
        result: Tensor = self.layers(y.flatten(1)).unflatten(1, shape)
        return result

    def lipschitz_bound(self, bounds: Bounds) -> float:
        """That of its layers, taken together."""
        return bounds(self.layers)
