"""What the mean over images says about the population, and all metrics over a test set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dro_core.checks import (
    as_count,
    as_positive_integer,
    as_real_array,
    as_scalar,
    check_option,
)
from dro_torch.checks import check_batch, check_tensor
from dro_torch.metrics.checks import finite_output


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike | Tensor,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Literal["BCa", "percentile"] = "BCa",
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
                (array,),
                np.mean,
                confidence_level=share,
                n_resamples=count,
                method=name,
                rng=np.random.default_rng(number),
                batch=max(1, 2**22 // array.size),
            ).confidence_interval
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
            reconstruction = finite_output(model, check_batch(y, "y"))
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
