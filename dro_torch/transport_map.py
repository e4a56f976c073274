r"""Transport maps: train one from unpaired images; restore, score, save and load with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dro_core.checks import as_non_negative, as_positive_integer, as_scalar
from dro_torch.checks import check_alike, check_batch, check_finite, check_images
from dro_torch.data.sampling import Batches, IndexedDataset
from dro_torch.keyed_noise import check_key, standard_normal, uniform
from dro_torch.losses.unbalanced import BicubicUpsampling, LikelihoodCost, UnbalancedOTLoss
from dro_torch.metrics import psnr
from dro_torch.models import call_model
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.physics.conversion import as_forward
from dro_torch.training.fit import TrainingResult, fit
from dro_torch.training.phase import Batch, Phase, StepContext

_FORMAT = "structured-dro transport map 1"
#: Streams of the keyed noise: of either step's measurements, of those that are watched, of levels.
_POTENTIAL, _MAP, _WATCHED, _LEVEL = range(4)
#: Part of a run after which the gradient penalty is annealed.
_ANNEALED = 0.5


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
        largest: Any = 4.0,
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
    def restore(self, y: Tensor, *, clamp: bool = True, batch: Any = 64) -> Tensor:
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
    def outlier_score(self, y: Tensor, *, batch: Any = 64) -> Tensor:
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

    def _parts(self, y: Any, batch: Any) -> tuple[Tensor, ...]:
        images = check_images(y, "y")
        check_alike(images, "y", next(self.transport.parameters()), "the map")
        size = float(images.abs().max())
        if size > self.largest:
            raise ValueError(
                f"y: the largest entry has size {size:g}, above largest={self.largest:g}; "
                "measurements are images in [-1, 1] plus noise (2 * y / 255 - 1 from 0..255)"
            )
        return torch.split(images, as_positive_integer(batch, "batch"))

    def save(self, path: Any) -> None:
        """Write networks, their configuration and the cost's numbers to one file, atomically.

        A forward operator and a `upsample` that is not a factor are not stored: pass them to
        `load` again.
        """
        content: dict[str, Any] = {"format": _FORMAT, "largest": self.largest}
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
        cls, path: Any, *, forward: Any = None, upsample: Any = None, device: Any = "cpu"
    ) -> TransportRestoration:
        """Read what `save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path of the file
        forward : as in `LikelihoodCost`
            Needed for `outlier_score` if the cost has a likelihood part; without it the map is
            loaded without its cost.
        upsample : callable, optional
            Needed likewise if it was not a factor.
        device : torch.device or str

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not one of these.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"path: no file {path}")
        try:
            content = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged files
            raise ValueError(
                f"path: {path} is damaged, or not a saved transport map ({error})"
            ) from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"path: {path} is not a saved transport map ({_FORMAT!r})")

        def build(name: str, kind: type[nn.Module]) -> Any:
            stored = content.get(name)
            if stored is None:
                return None
            network = kind(**stored["config"])
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
            build("transport", TransportMap), build("potential", Potential), cost,
            largest=content["largest"],
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"TransportRestoration(channels={self.transport.channels}, "
            f"widths={self.transport.widths}, potential={self.potential is not None}, "
            f"cost={self.cost is not None})"
        )


# --- measurements -----------------------------------------------------------------------------


@dataclass(frozen=True)
class NoisyMeasurement:
    r"""Measurements made while training: :math:`y = A(x) + \sigma\varepsilon`, sigma per sample.

    Noise is a function of (seed, step, stream, global sample index): not of batches, processes or
    resumed runs. The level of a sample depends on seed and index only.

    Parameters
    ----------
    forward : callable, nn.Module, or object with a method ``A``
        From images to clean measurements.
    levels : sequence of float
        Standard deviations :math:`\sigma \ge 0`; their positions are the groups of the samples.
    shares : sequence of float, optional
        How frequent the levels are, > 0, up to a factor; default: equally.
    fresh : bool
        New noise in every step and phase, or always the same noise for the same image.

    Raises
    ------
    ValueError, TypeError
        For levels or shares that are no such numbers, or of different length.

    Examples
    --------
    >>> import torch
    >>> noisy = NoisyMeasurement(lambda x: x / 2, levels=(0.1, 0.2), shares=(3, 1))
    >>> y, level = noisy(torch.zeros(4, 1, 2, 2), torch.arange(4), seed=0, step=0)
    >>> y.shape, sorted(set(level.tolist()))
    (torch.Size([4, 1, 2, 2]), [0, 1])
    """

    forward: Any
    levels: Sequence[float] = (0.05,)
    shares: Sequence[float] | None = None
    fresh: bool = True

    def __post_init__(self) -> None:
        as_forward(self.forward)
        if not isinstance(self.levels, Sequence) or not self.levels:
            raise TypeError(f"levels: {self.levels!r}; allowed: a non-empty sequence of numbers")
        for level in self.levels:
            as_non_negative(level, "levels", "numbers >= 0")
        shares = [1.0] * len(self.levels) if self.shares is None else list(self.shares)
        if len(shares) != len(self.levels):
            raise ValueError(f"shares: {len(shares)} for {len(self.levels)} levels; one each")
        if min(as_scalar(share, "shares", "numbers > 0") for share in shares) <= 0:
            raise ValueError(f"shares: {shares}; allowed: numbers > 0")

    def __call__(
        self, x: Tensor, index: Tensor, *, seed: int, step: int, stream: int = 0
    ) -> tuple[Tensor, Tensor]:
        """(y, group) of images x (N, ...) with global sample indices `index`."""
        check_key(seed, step, index, len(check_batch(x, "x")))
        return self.at(x, index, self.group(index, seed=seed), seed=seed, step=step, stream=stream)

    def group(self, index: Tensor, *, seed: int) -> Tensor:
        """Position of the level of every sample, (N,) int64."""
        shares = torch.tensor(self.shares or [1.0] * len(self.levels), dtype=torch.float64)
        ends = (shares.cumsum(0) / shares.sum())[:-1].to(index.device)
        return torch.bucketize(uniform(index, seed=seed, step=0, stream=_LEVEL), ends)

    def at(
        self, x: Tensor, index: Tensor, group: Tensor | int, *, seed: int, step: int,
        stream: int = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(y, group) at given levels: all samples at one, or one position each."""
        check_key(seed, step, index, len(check_batch(x, "x")))
        y = call_model(as_forward(self.forward), x, "forward", "x", dimensions=1)
        groups = torch.as_tensor(group, device=x.device).expand(len(x))
        key = (step, stream) if self.fresh else (0, 0)
        noise = standard_normal(
            index, 1, y[0].numel(), seed=seed, step=key[0], stream=key[1], dtype=y.dtype
        ).view_as(y)
        sigma = torch.tensor(self.levels, dtype=y.dtype, device=y.device)[groups]
        return y + sigma.reshape(-1, *[1] * (y.ndim - 1)) * noise, groups

    def describe(self) -> dict[str, Any]:
        """Plain values that a resumed run must share."""
        return {"levels": list(self.levels), "shares": list(self.shares or []),
                "fresh": self.fresh}  # fmt: skip


# --- training ---------------------------------------------------------------------------------


class _Unpaired:
    """A batch of measured images and one of clean images, unrelated: (index, y part ..., x)."""

    def __init__(self, measured: Batches, clean: Batches) -> None:
        self.measured, self.clean = measured, clean

    def batch(self, step: int, rank: int, world_size: int) -> tuple[Tensor, ...]:
        x = self.clean.batch(step, rank, world_size)[1]
        return (*self.measured.batch(step, rank, world_size), x)


class _Monitor(nn.Module):
    """What the last validation found, as buffers: a resumed run shows the same numbers."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("values", torch.zeros(len(self.names)))

    values: Tensor

    def keep(self, numbers: Mapping[str, float]) -> None:
        self.values.copy_(torch.tensor([numbers[name] for name in self.names]))

    def shown(self, context: StepContext) -> dict[str, Tensor]:
        """The first process knows them; means over the processes then are what it knows."""
        factor = context.world_size if context.rank == 0 else 0
        return {name: factor * self.values[i].clone() for i, name in enumerate(self.names)}


def _pool(value: Any, name: str, channels: int, size: tuple[int, int] | None) -> IndexedDataset:
    """Images in [-1, 1]."""
    pool = IndexedDataset(value) if isinstance(value, Tensor) else value
    if not isinstance(pool, IndexedDataset):
        raise TypeError(f"{name}: {type(value).__name__}; allowed: IndexedDataset or a tensor")
    shape = tuple(pool.tensors[0].shape)
    if len(shape) != 4 or shape[1] != channels or (size is not None and shape[2:] != size):
        sides = "height, width" if size is None else f"{size[0]}, {size[1]}"
        raise ValueError(f"{name}: shape {shape}; the networks are for (N, {channels}, {sides})")
    return pool


def _check_range(pool: IndexedDataset, name: str, largest: float) -> None:
    if pool.tensors[0].dtype == torch.uint8:
        low, high = pool.value_range
        check = f"value_range {pool.value_range}"
        inside = (low, high) == (-1.0, 1.0)
    else:
        check_finite(pool.tensors[0], name)
        low, high = (float(end) for end in torch.aminmax(pool.tensors[0]))
        check = f"entries in [{low:g}, {high:g}]"
        inside = max(abs(low), abs(high)) <= largest
    if not inside:
        raise ValueError(
            f"{name}: {check}; images lie in [-1, 1] (2 * x - 1 from [0, 1], "
            "value_range=(-1, 1) for uint8)"
        )


def fit_transport_map(
    transport: TransportMap,
    potential: Potential,
    loss: UnbalancedOTLoss,
    measurements: IndexedDataset | Tensor,
    clean: IndexedDataset | Tensor,
    steps: int,
    *,
    seed: int,
    measure: Callable[..., tuple[Tensor, Tensor]] | None = None,
    batch_size: int = 32,
    map_rate: float = 1e-4,
    potential_rate: float = 5e-5,
    betas: tuple[float, float] = (0.5, 0.9),
    ema: float = 0.999,
    final_gradient_penalty: float | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    validate_every: int = 500,
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> TransportRestoration:
    r"""Train a transport map from measurements and clean images that do not belong together.

    Each iteration is a step of the potential v and, with a fresh batch of measurements, a step of
    the map T (`UnbalancedOTLoss`), on the engine of `dro_torch.training.fit`: checkpoints, resume
    bit for bit, mixed precision, several processes under ``torchrun``.

    Parameters
    ----------
    transport, potential : TransportMap, Potential
        Trained in place.
    loss : UnbalancedOTLoss
    measurements : IndexedDataset or (N, channels, height, width) tensor
        With `measure`: images in [-1, 1] that are measured while training. Without: measurements,
        used as they are. A second tensor of the data set, if any, holds the group of each sample
        (int64, such as a class).
    clean : IndexedDataset or (M, channels, height, width) tensor
        Clean images in [-1, 1]; uint8 with ``value_range=(-1, 1)``.
    steps, seed : int
    measure : callable, optional
        ``measure(x, index, seed=, step=, stream=)`` to (measurements, group per sample), such as
        `NoisyMeasurement`; groups of `measurements` take precedence.
    batch_size : int
        Of either batch, over all processes.
    map_rate, potential_rate, betas : float, float, (float, float)
        Of Adam.
    ema : float
        Largest decay of the averaged copy of T, which validation and the result use.
    final_gradient_penalty : float, optional
        The loss's weight falls to it linearly over the second half of the run.
    validation : (y, x), optional
        Measurements and their true images, for the validation's "PSNR" (decibels, T(y) limited to
        [-1, 1], mean over images).
    validate_every : int
    folder, device, config, **options
        As in `dro_torch.training.fit`; modules are called "T" and "v".

    Returns
    -------
    TransportRestoration
        With the averaged T; its attribute `training` has the history of both losses and their
        components, and the validation: "PSNR", and "weight g", the mean weight
        (`UnbalancedOTLoss.weights`) of the measurements of group g among the first four batches of
        the pool. The progress line shows all of them.

    Raises
    ------
    ValueError, TypeError
        For images outside [-1, 1], of other channels or sizes than the networks, NaN, forward
        operators with trainable parameters, bad options. Otherwise as `dro_torch.training.fit`.

    Notes
    -----
    Source: ISUM paper, Eqs. 14-16 and Appendix A (rates, alternating steps); betas and average as
    usual for potentials of this kind.

    Examples
    --------
    >>> import torch
    >>> from dro_torch.losses.unbalanced import LikelihoodCost, UnbalancedOTLoss
    >>> x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    >>> dark = NoisyMeasurement(lambda x: x / 2)
    >>> loss = UnbalancedOTLoss(LikelihoodCost(dark.forward, scale=0.1))
    >>> T, v = TransportMap(1, (4,)), Potential(1, 8, 4)
    >>> found = fit_transport_map(T, v, loss, x[:8], x[8:], 2, seed=0, measure=dark, batch_size=4,
    ...                           progress=False)
    >>> found.restore(x / 2).shape, sorted(found.training.validation[-1])
    (torch.Size([16, 1, 8, 8]), ['step', 'weight 0'])
    """
    if not isinstance(loss, UnbalancedOTLoss):
        raise TypeError(f"loss: {type(loss).__name__}; allowed: UnbalancedOTLoss")
    if not isinstance(potential, Potential):
        raise TypeError(f"potential: {type(potential).__name__} is not a Potential")
    cost = loss.cost if isinstance(loss.cost, LikelihoodCost) else None
    limit = TransportRestoration(transport, potential, cost).largest  # checks that they fit
    operator = getattr(measure, "forward", None)
    fixed = {"loss": loss} | ({"A": operator} if isinstance(operator, nn.Module) else {})
    for name, module in fixed.items():
        module.to(next(potential.parameters()).device)
        if any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"{'measure' if name == 'A' else name}: its forward operator has trainable "
                "parameters; freeze it (requires_grad_(False))"
            )
    if measure is not None and not callable(measure):
        raise TypeError(f"measure: {type(measure).__name__} is not callable")
    shrunk = measure is None and transport.upsample.factor > 1
    source = _pool(
        measurements, "measurements", transport.channels, None if shrunk else potential.size
    )
    target = _pool(clean, "clean", potential.channels, potential.size)
    _check_range(source, "measurements", limit if measure is None else 1.0)
    _check_range(target, "clean", 1.0)
    penalties = (
        loss.gradient_penalty,
        loss.gradient_penalty
        if final_gradient_penalty is None
        else as_non_negative(final_gradient_penalty, "final_gradient_penalty"),
    )
    steps = as_positive_integer(steps, "steps")
    validate_every = as_positive_integer(validate_every, "validate_every")

    def measured(batch: Sequence[Tensor], context: StepContext, stream: int) -> Sequence[Tensor]:
        """(measurements, groups) of (images, groups) or of what is in the pool."""
        y, groups = batch[0], batch[1] if len(batch) > 1 else None
        if measure is not None:
            y, own = measure(
                y.clone(), context.index, seed=context.seed, step=context.step, stream=stream
            )
            groups = own if groups is None else groups
        return y, torch.zeros_like(context.index) if groups is None else groups

    def potential_loss(modules: Mapping[str, Any], batch: Batch, context: StepContext) -> Any:
        y, _ = measured(batch[:-1], context, _POTENTIAL)
        after = max(0.0, (context.step / steps - _ANNEALED) / (1 - _ANNEALED))
        loss.gradient_penalty = penalties[0] + (penalties[1] - penalties[0]) * after
        value = loss.potential_loss(modules["v"], modules["T"], y, batch[-1])
        return value, loss.components

    def map_loss(modules: Mapping[str, Any], batch: Batch, context: StepContext) -> Any:
        y, _ = measured(batch, context, _MAP)
        value = loss.map_loss(modules["v"], modules["T"], y)
        seen = context.step >= validate_every
        return value, {"cost": loss.components["cost"], **(monitor.shown(context) if seen else {})}

    streams = [Batches(pool, batch_size, seed) for pool in (source, target)]
    fresh = Batches(source, batch_size, seed + 1)
    few = source[torch.arange(min(4 * batch_size, len(source)))]

    def watched() -> Sequence[Tensor]:
        kind = next(potential.parameters())
        index, *tensors = (
            t.to(kind.device, kind.dtype if t.is_floating_point() else t.dtype) for t in few
        )
        return measured(tensors, StepContext(seed, 0, index, kind.device), _WATCHED)

    def validate(modules: Mapping[str, Any]) -> dict[str, float]:
        y, groups = watched()
        weights = loss.weights(modules["v"], modules["T"], y, groups)
        assert isinstance(weights, dict)
        numbers = {f"weight {group}": weight for group, weight in weights.items()}
        if validation is not None:
            there = TransportRestoration(modules["T"])
            like = next(modules["T"].parameters())
            y, x = (part.to(like.device, like.dtype) for part in validation)
            numbers["PSNR"] = float(psnr(x, there.restore(y), 2.0).mean())
        monitor.keep(numbers)
        return numbers

    names = [f"weight {group}" for group in sorted(set(watched()[1].tolist()))]
    monitor = _Monitor(names + ["PSNR"] * (validation is not None))
    phases = [
        Phase("potential", {"v": potential, **fixed}, potential_loss,
              rate=potential_rate, betas=betas),
        Phase("map", {"T": transport, "monitor": monitor}, map_loss, rate=map_rate, betas=betas),
    ]  # fmt: skip
    description = {
        "loss": " ".join(repr(loss).split()), "centre_cost": loss.centre_cost,
        "translation_invariant": loss.translation_invariant, "batch_size": batch_size,
        "final_gradient_penalty": penalties[1], "pools": [len(source), len(target)],
        "validate_every": validate_every, **(config or {}),
    }  # fmt: skip
    if isinstance(measure, NoisyMeasurement):
        description["measure"] = measure.describe()
    try:
        result = fit(
            phases, {"potential": _Unpaired(*streams), "map": fresh}, steps, seed=seed,
            folder=folder, device=device, ema={"T": ema}, validate=validate,
            validate_every=validate_every, config=description, **options,
        )  # fmt: skip
    finally:
        loss.gradient_penalty = penalties[0]
    averaged = result.modules["T"]
    assert isinstance(averaged, TransportMap)
    restoration = TransportRestoration(averaged, potential, cost)
    restoration.training = result
    return restoration
