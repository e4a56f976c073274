"""Train a transport map from images that do not belong together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from dro_core.checks import (
    as_non_negative,
    as_positive_integer,
    check_keywords,
    check_option,
)
from dro_torch.data.sampling import Batches, IndexedDataset
from dro_torch.losses.unbalanced import UnbalancedOTLoss
from dro_torch.losses.unpaired import CriticOTLoss
from dro_torch.nets.transport import Potential, TransportMap
from dro_torch.training.fit import fit
from dro_torch.training.options import FitOptions
from dro_torch.training.phase import Phase
from dro_torch.transport_map.measurement import Measure, NoisyMeasurement
from dro_torch.transport_map.objective import (
    Annealing,
    Measurements,
    Scale,
    Steps,
    Watch,
    likelihood_cost,
)
from dro_torch.transport_map.pools import Unpaired, as_pool, check_range
from dro_torch.transport_map.restoration import TransportRestoration

#: What may train both networks; None is the engine's own Adam.
OPTIMIZERS = {"adam": None, "rmsprop": torch.optim.RMSprop}


def fit_transport_map(
    transport: TransportMap,
    potential: Potential,
    loss: UnbalancedOTLoss | CriticOTLoss,
    measurements: IndexedDataset | Tensor,
    clean: IndexedDataset | Tensor,
    steps: int,
    *,
    seed: int,
    measure: Measure | None = None,
    batch_size: int = 32,
    map_rate: float = 1e-4,
    potential_rate: float = 5e-5,
    betas: tuple[float, float] = (0.5, 0.9),
    ema: float = 0.999,
    optimizer: Literal["adam", "rmsprop"] = "adam",
    potential_every: int = 1,
    final_gradient_penalty: float | None = None,
    final_scale: float | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    validate_every: int = 500,
    folder: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    config: Mapping[str, object] | None = None,
    **options: Unpack[FitOptions],
) -> TransportRestoration:
    r"""Train a transport map from measurements and clean images that do not belong together.

    Each iteration is a step of the potential v and, with a fresh batch of measurements, a step of
    the map T (`UnbalancedOTLoss`, or a loss of `dro_torch.losses.unpaired`), on the engine of
    `dro_torch.training.fit`: checkpoints, resume bit for bit, mixed precision, several processes
    under ``torchrun``.

    Parameters
    ----------
    transport, potential : TransportMap, Potential
        Trained in place.
    loss : UnbalancedOTLoss or CriticOTLoss
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
    optimizer : {"adam", "rmsprop"}
        Of both networks; the latter has no use for `betas`.
    potential_every : int
        Iterations from one step of the potential to the next: 10 is ten steps of the map each.
    final_gradient_penalty : float, optional
        The loss's weight falls to it linearly over the second half of the run.
    final_scale : float, optional
        The scale of the loss's `LikelihoodCost` goes to it geometrically over the run, from its
        own; the restoration's cost has it.
    validation : (y, x), optional
        Measurements and their true images, for the validation's "PSNR" (decibels, T(y) limited to
        [-1, 1], mean over images).
    validate_every : int
    folder, device, config, **options
        As in `dro_torch.training.fit`; modules are called "T" and "v".

    Returns
    -------
    TransportRestoration
        With the averaged T (and v), of the last step, or with ``best=("PSNR", "max")`` as they were
        at the best validation; its attribute `training` has the history of both losses and their
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
    check_keywords(fit_transport_map, options, FitOptions)
    if not isinstance(loss, UnbalancedOTLoss | CriticOTLoss):
        raise TypeError(f"loss: {type(loss).__name__}; allowed: UnbalancedOTLoss, CriticOTLoss")
    if not isinstance(potential, Potential):
        raise TypeError(f"potential: {type(potential).__name__} is not a Potential")
    check_option(optimizer, "optimizer", OPTIMIZERS)
    cost = likelihood_cost(loss)
    limit = TransportRestoration(transport, potential, cost).largest  # checks that they fit
    fixed = _fixed_modules(loss, measure, next(potential.parameters()).device)
    source, target = _pools(transport, potential, measurements, clean, measure, limit)
    last = loss.gradient_penalty
    if final_gradient_penalty is not None:
        last = as_non_negative(final_gradient_penalty, "final_gradient_penalty")
    steps = as_positive_integer(steps, "steps")
    validate_every = as_positive_integer(validate_every, "validate_every")
    scale = Scale.of(cost, final_scale, steps)
    penalty = Annealing(loss.gradient_penalty, last, steps)

    unpaired = Unpaired(*(Batches(pool, batch_size, seed) for pool in (source, target)))
    fresh = Batches(source, batch_size, seed + 1)
    few = source[torch.arange(min(4 * batch_size, len(source)))]
    measured = Measurements(measure)
    watch = Watch(loss, potential, measured, few, validation, seed)
    losses = Steps(loss, measured, penalty, scale, watch.monitor, validate_every)
    own, watched = {"v": potential, **fixed}, {"T": transport, "monitor": watch.monitor}
    made = OPTIMIZERS[optimizer]
    phases = [
        Phase(
            "potential",
            own,
            losses.potential,
            rate=potential_rate,
            every=as_positive_integer(potential_every, "potential_every"),
            betas=betas,
            optimizer=made,
        ),
        Phase("map", watched, losses.map, rate=map_rate, betas=betas, optimizer=made),
    ]
    with scale.restored():
        result = fit(
            phases,
            {"potential": unpaired, "map": fresh},
            steps,
            seed=seed,
            folder=folder,
            device=device,
            ema={"T": ema},
            validate=watch,
            validate_every=validate_every,
            config={
                "loss": " ".join(repr(loss).split()),
                "optimizer": optimizer,
                "batch_size": batch_size,
                "final_gradient_penalty": last,
                "final_scale": final_scale,
                "pools": [len(source), len(target)],
                "validate_every": validate_every,
                **(config or {}),
                **_described(measure),
            },
            **options,
        )
    used = result.best or result.modules
    averaged = used["T"]
    kept = used["v"] if result.best else potential
    assert isinstance(averaged, TransportMap)
    assert isinstance(kept, Potential)
    restoration = TransportRestoration(averaged, kept, scale.last)
    restoration.training = result
    return restoration


def _described(measure: Measure | None) -> dict[str, object]:
    """What a resumed run must measure with."""
    return {"measure": measure.describe()} if isinstance(measure, NoisyMeasurement) else {}


def _fixed_modules(
    loss: nn.Module, measure: Measure | None, device: torch.device
) -> dict[str, nn.Module]:
    """The modules that travel with the run and are not trained, on the device of the networks."""
    operator = getattr(measure, "forward", None)
    fixed = {"loss": loss} | ({"A": operator} if isinstance(operator, nn.Module) else {})
    for name, module in fixed.items():
        module.to(device)
        if any(parameter.requires_grad for parameter in module.parameters()):
            raise ValueError(
                f"{'measure' if name == 'A' else name}: its forward operator has trainable "
                "parameters; freeze it (requires_grad_(False))"
            )
    if measure is not None and not callable(measure):
        raise TypeError(f"measure: {type(measure).__name__} is not callable")
    return fixed


def _pools(
    transport: TransportMap,
    potential: Potential,
    measurements: IndexedDataset | Tensor,
    clean: IndexedDataset | Tensor,
    measure: Measure | None,
    limit: float,
) -> tuple[IndexedDataset, IndexedDataset]:
    """What is measured and what is clean, checked against the networks."""
    shrunk = measure is None and transport.factor != 1  # or made by a Q that knows their size
    size = None if shrunk else potential.size
    source = as_pool(measurements, "measurements", transport.channels, size)
    target = as_pool(clean, "clean", potential.channels, potential.size)
    check_range(source, "measurements", limit if measure is None else 1.0)
    check_range(target, "clean", 1.0)
    return source, target
