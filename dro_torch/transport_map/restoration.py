"""Restore images by a transport map, score what it does not trust, save and load it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dro_core.checks import as_positive_integer, as_scalar
from dro_torch.checks import check_alike, check_finite, check_images
from dro_torch.losses.likelihood import LikelihoodCost
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.nets.upsampling import BicubicUpsampling
from dro_torch.training.fit import TrainingResult

FORMAT = "structured-dro transport map 1"


class TransportRestoration:
    r"""Restore images by a learned transport map, and say which measurements it does not trust.

    Parameters
    ----------
    transport : TransportMap
        The map T (the averaged copy, if training kept one).
    potential : Potential, optional
        v; needed for `outlier_score`.
    cost : LikelihoodCost, optional
        c of the training; needed for `outlier_score`.
    largest : float
        Measurements with an entry larger than this in size are refused: images lie in [-1, 1], and
        noise reaches a little beyond; images in 0..255 do not belong here.

    Raises
    ------
    ValueError, TypeError
        For objects of other classes, networks that do not fit together, or bad images.

    Attributes
    ----------
    training : TrainingResult or None
        History and validation, if `fit_transport_map` made this object.

    Notes
    -----
    Networks are put into evaluation mode and stay on their device.

    Examples
    --------
    >>> import torch
    >>> restoration = TransportRestoration(TransportMap(1, "small"))
    >>> restoration.restore(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        transport: TransportMap,
        potential: Potential | None = None,
        cost: LikelihoodCost | None = None,
        *,
        largest: float = 4.0,
    ) -> None:
        for name, value, kind in (
            ("transport", transport, TransportMap),
            ("potential", potential, Potential),
            ("cost", cost, LikelihoodCost),
        ):
            if not isinstance(value, kind) and (value is not None or kind is TransportMap):
                raise TypeError(f"{name}: {type(value).__name__} is not a {kind.__name__}")
        if potential is not None and potential.channels != transport.channels:
            raise ValueError(
                f"potential: for {potential.channels} channels, but the map has "
                f"{transport.channels}"
            )
        self.largest = as_scalar(largest, "largest", "a number > 0")
        if self.largest <= 0:
            raise ValueError(f"largest: {self.largest}; allowed: a number > 0")
        self.transport, self.potential, self.cost = transport, potential, cost
        self.training: TrainingResult | None = None
        for network in self._modules():
            network.eval()

    def _modules(self) -> list[nn.Module]:
        return [part for part in (self.transport, self.potential, self.cost) if part is not None]

    def to(self, *args: Any, **kwargs: Any) -> TransportRestoration:
        """Move all parts, as `torch.nn.Module.to` does; the object itself is returned."""
        for network in self._modules():
            network.to(*args, **kwargs)
        return self

    @torch.no_grad()
    def restore(self, y: Tensor, *, clamp: bool = True, batch: int = 64) -> Tensor:
        """T(y), limited to [-1, 1] unless `clamp` is False.

        Parameters
        ----------
        y : (N, channels, height, width) tensor
            Measurements, images in [-1, 1] plus noise; of the networks' dtype and device.
        clamp : bool
        batch : int
            Images that run through the network at a time.

        Returns
        -------
        (N, channels, height, width) tensor
            `upsample` times as large for super-resolution.
        """
        parts = [self.transport(part) for part in self._parts(y, batch)]
        moved = torch.cat(parts)
        check_finite(moved, "transport: T(y)")
        return moved.clamp(-1, 1) if clamp else moved

    @torch.no_grad()
    def outlier_score(self, y: Tensor, *, batch: int = 64) -> Tensor:
        r""":math:`c(y,T(y)) - v(T(y)) = -\log e^{v(T(y)) - c(y,T(y))}`: (N,), large for outliers.

        With KL divergences and v at the optimum it is minus the logarithm of the share of y's mass
        that the unbalanced plan keeps (up to a constant, if the cost was centred in training);
        optimal transport keeps all mass and has no such score. A potential with
        `minibatch_deviation` looks at groups of measurements, so pass whole batches to it.

        Parameters
        ----------
        y, batch : as in `restore`

        Returns
        -------
        (N,) tensor, float32 or wider

        Raises
        ------
        ValueError
            If the potential or the cost is missing.
        """
        if self.potential is None or self.cost is None:
            missing = "potential" if self.potential is None else "cost"
            raise ValueError(f"{missing}: None, but the score needs it; see TransportRestoration")
        scores = []
        for part in self._parts(y, batch):
            moved = self.transport(part)
            scores.append(self.cost(part, moved) - self.potential(moved))
        score = torch.cat(scores)
        check_finite(score, "potential, cost: the score")
        return score

    def _parts(self, y: Tensor, batch: int) -> tuple[Tensor, ...]:
        images = check_images(y, "y")
        check_alike(images, "y", next(self.transport.parameters()), "the map")
        size = float(images.abs().max())
        if size > self.largest:
            raise ValueError(
                f"y: the largest entry has size {size:g}, above largest={self.largest:g}; "
                "measurements are images in [-1, 1] plus noise (2 * y / 255 - 1 from 0..255)"
            )
        return torch.split(images, as_positive_integer(batch, "batch"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write networks, their configuration and the cost's numbers to one file, atomically.

        A forward operator and an `upsample` that is not a factor are not stored: pass them to
        `load` again. What the map's own `upsample` keeps in its state dict is.
        """
        content: dict[str, Any] = {"format": FORMAT, "largest": self.largest}
        for name, network in (("transport", self.transport), ("potential", self.potential)):
            if network is not None:
                content[name] = {"config": network.config, "state": network.state_dict()}
        if self.cost is not None:
            cost, given = self.cost, self.cost.upsample
            content["cost"] = {
                "likelihood": cost.likelihood,
                "quadratic": cost.quadratic,
                "scale": cost.scale,
                "upsample": given.factor if isinstance(given, BicubicUpsampling) else None,
                "own_upsample": given is not None and not isinstance(given, BicubicUpsampling),
            }
        target = Path(path)
        temporary = target.with_name(target.name + ".part")
        torch.save(content, temporary)
        os.replace(temporary, target)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        forward: Any = None,
        upsample: Callable[[Tensor], Tensor] | None = None,
        device: str | torch.device = "cpu",
    ) -> TransportRestoration:
        """Read what `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path of the file
        forward : as in `LikelihoodCost`
            Needed for `outlier_score` if the cost has a likelihood part; without it the map is
            loaded without its cost.
        upsample : callable, optional
            Needed likewise if it was not a factor; a Module if the map has one of its own.
        device : torch.device or str

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, it is not one of these, or the map needs its `upsample`.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: no file {path}")
        try:
            content = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged files
            raise ValueError(
                f"path: {path} is damaged, or not a saved transport map ({error})"
            ) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"path: {path} is not a saved transport map ({FORMAT!r})")

        def build(name: str, kind: type[nn.Module]) -> Any:
            stored = content.get(name)
            if stored is None:
                return None
            arguments = stored["config"]
            if name == "transport" and arguments["upsample"] is None:
                if not isinstance(upsample, nn.Module):
                    raise ValueError(
                        f"upsample: {upsample!r}; the map in {path} was saved without its own "
                        "first reconstruction; pass that Module"
                    )
                arguments = {**arguments, "upsample": upsample}
            network = kind(**arguments)
            network.to(device, next(iter(stored["state"].values())).dtype)
            network.load_state_dict(stored["state"])
            return network

        cost, numbers = None, content.get("cost")
        if numbers is not None:
            own = numbers.pop("own_upsample")
            complete = not (own and upsample is None) and not (
                forward is None and numbers["likelihood"] > 0
            )
            if own:
                numbers["upsample"] = upsample
            if complete:
                cost = LikelihoodCost(forward, **numbers)
        return cls(
            build("transport", TransportMap),
            build("potential", Potential),
            cost,
            largest=content["largest"],
        )

    def __repr__(self) -> str:
        return (
            f"TransportRestoration(channels={self.transport.channels}, "
            f"widths={self.transport.widths}, potential={self.potential is not None}, "
            f"cost={self.cost is not None})"
        )
