"""Which radius? The recommended recipes on three real shifts: how often the certificate covers.

A reconstruction is certified on calibration pairs at a radius that a recipe gives; then its risk is
measured on folds of new signals under the shift. Covered is a fold whose risk is not above the
certified worst case. The shifts: noise of several families on MNIST, a lower dose in tomography of
patients that nobody calibrated with, and measured views of the Helsinki Tomography Challenge where
simulated ones were expected. The recipes: the formula of a known noise; field pairs of the same
signals (the upper end of the bootstrap interval); field pairs of other signals (the joint ball).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from dro_core import radius_of_noise, worst_case_risk
from dro_core.auditing.radius import radius_of_shift
from dro_core.types import Array
from validation.errors import mendable
from validation.jittering.arms import tikhonov
from validation.results import Check, at_least, progress, provenance, table, write_csv, write_json
from validation.settings import Settings, setting, without_folders
from validation.tables import Row, column

#: The family whose map was fitted to the pairs that it is audited on: what no radius covers.
MEMORISED = "tomography, fitted to the calibration pairs"
#: Folds of neighbouring views: their signals are not drawn as those of the calibration.
ARCS = "HTC 2022, arcs of neighbouring views"
#: Shown, not judged: a ball of measurements does not cover them.
OUTSIDE = (MEMORISED, ARCS)
#: How field measurements come from clean ones; their variance per entry, if a formula knows it.
Measure = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True)
class Config(Settings):
    """Sizes, and where the data are."""

    data: str = setting("", "data root; otherwise the environment variable DRO_DATA", folder=True)
    calibration: int = setting(300, "digits of the calibration", low=10)
    folds: int = setting(20, "folds of new signals per shift", low=2)
    fold: int = setting(100, "digits of a fold", low=2)
    seed: int = setting(0, "seed")


@dataclass(frozen=True, eq=False)
class Shift:
    """A linear map, its calibration pairs, and folds of pairs under the shift.

    `field` are measurements of the calibration's signals under the shift, `others` pairs of other
    signals; `variance` per entry of y is what a formula says of the shift, if there is one.
    """

    family: str
    name: str
    B: Array
    x: Array
    y: Array
    field: Array
    others: tuple[Array, Array]
    folds: list[tuple[Array, Array]]
    variance: Array | None


def ridge(x: Array, y: Array, level: float) -> Array:
    """The linear map of least squared error at white noise of a level."""
    moment = y.T @ y / len(y) + level**2 * np.eye(y.shape[1])
    return np.asarray(np.linalg.solve(moment, y.T @ x / len(y)).T)


def noises(level: float) -> dict[str, tuple[Measure, bool]]:
    """Families of noise of about one size, and whether it is additive of that variance."""

    def speckle(y: Array, rng: np.random.Generator) -> Array:
        return y * (1 + 2 * level * rng.standard_normal(y.shape))

    def photons(y: Array, rng: np.random.Generator) -> Array:
        gain = level**2 / 0.1
        return np.asarray(gain * rng.poisson(np.maximum(y, 0) / gain))

    def impulses(y: Array, rng: np.random.Generator) -> Array:
        drawn = rng.random(y.shape)
        return np.where(drawn < 2 * level**2, (drawn < level**2).astype(float), y)

    return {
        "Gaussian": (lambda y, rng: y + level * rng.standard_normal(y.shape), True),
        "uniform": (lambda y, rng: y + level * np.sqrt(3) * rng.uniform(-1, 1, y.shape), True),
        "speckle": (speckle, False),
        "photons": (photons, False),
        "salt and pepper": (impulses, False),
    }


def digits(root: str | None, split: str, count: int) -> Array:
    """Digits of 14 x 14 pixels as rows."""
    from dro_torch.data import mnist

    images = mnist(split, root).images[:count].numpy().astype(np.float64) / 255
    return np.asarray(images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196))


def blurred(x: Array) -> Array:
    """A blur of 0.7 pixels."""
    images = x.reshape(-1, 14, 14)
    return np.asarray(gaussian_filter(images, (0, 0.7, 0.7), mode="constant").reshape(len(x), -1))


def digit_shifts(config: Config) -> Iterator[Shift]:
    """Noise of five families at two sizes."""
    root, rng = config.data or None, np.random.default_rng(config.seed)
    learn = digits(root, "train", 4000)
    B = ridge(learn, blurred(learn), 0.03)
    count = config.calibration
    x = digits(root, "test", 2 * count + config.folds * config.fold)
    y = blurred(x)
    parts = np.split(np.arange(2 * count, len(x)), config.folds)
    for level in (0.05, 0.2):
        for name, (measure, additive) in noises(level).items():
            yield Shift(
                "MNIST, noise",
                f"{name} {level:g}",
                B,
                x[:count],
                y[:count],
                measure(y[:count], rng),
                (x[count : 2 * count], measure(y[count : 2 * count], rng)),
                [(x[part], measure(y[part], rng)) for part in parts],
                np.full(y.shape[1], level**2) if additive else None,
            )


def dose_shifts(config: Config) -> Iterator[Shift]:
    """Line integrals at lower doses, of patients that were not calibrated with.

    By Tikhonov regularisation, and by a map that was fitted to the very pairs of the calibration.
    """
    from validation.ct import linear

    settings, rng = linear.Config(data=config.data), np.random.default_rng(config.seed)
    problem = linear.problem_of(settings, "a body of 116 mm")
    x, y = problem.x, linear.scanned(problem.forward, problem.x, 1e6, rng)
    maps = {
        "tomography, dose": tikhonov(problem.forward)(0.3),
        MEMORISED: ridge(x, y, 0.02),
    }
    half = len(problem.x_out) // 2
    for dose in (1e5, 1e4, 1e3):
        parts = np.split(np.arange(half, half + half // 4 * 4), half // 4)
        chosen = [parts[k % len(parts)] for k in range(config.folds)]

        def measure(signals: Array, dose: float = dose) -> Array:
            return linear.scanned(problem.forward, signals, dose, rng)

        for family, B in maps.items():
            yield Shift(
                family,
                f"{dose:g} photons",
                B,
                x,
                y,
                measure(x),
                (problem.x_out[:half], measure(problem.x_out[:half])),
                [(problem.x_out[part], measure(problem.x_out[part])) for part in chosen],
                np.exp(y).mean(axis=0) / dose,
            )


def measured_shifts(config: Config) -> Iterator[Shift]:
    """Measured views of a phantom where simulated ones were expected; eight cells are joined."""
    import torch

    from dro_torch import data
    from dro_torch.tomography import FanBeamGeometry, FanBeamProjector

    scan = data.htc2022("tb", root=config.data or None)
    assert scan.mask is not None
    mask = torch.nn.functional.adaptive_avg_pool2d(scan.mask[None, None].float(), 256)
    projector = FanBeamProjector(FanBeamGeometry.from_scan(scan, image_size=256))
    simulated, found = (
        views.reshape(len(views), -1, 8).mean(axis=2)
        for views in (
            projector(mask)[0, 0].double().numpy(),
            scan.sinogram.double().numpy(),
        )
    )
    simulated *= (simulated * found).sum() / (simulated**2).sum()  # attenuation of acrylic
    rng = np.random.default_rng(config.seed)
    order = np.arange(len(simulated))
    first, second = order[::2][: len(order) // 4], order[::2][len(order) // 4 :]
    expected = simulated + 0.005 * rng.standard_normal(simulated.shape)
    B = ridge(simulated[second], expected[second], 0.02)
    held = order[1::2]
    for family, views in (("HTC 2022, measured views", rng.permutation(held)), (ARCS, held)):
        parts = np.array_split(views, config.folds)
        yield Shift(
            family,
            "phantom tb",
            B,
            simulated[first],
            expected[first],
            found[first],
            (simulated[second], found[second]),
            [(simulated[part], found[part]) for part in parts],
            None,
        )


def recipes(shift: Shift, seed: int) -> Iterator[tuple[str, float, str]]:
    """(recipe, radius, structure)."""
    if shift.variance is not None:
        yield "known noise", radius_of_noise(shift.variance), "y|x"
    for name, pairs, structure in (
        ("field pairs, same signals", (shift.x, shift.field), "y|x"),
        ("field pairs, other signals", shift.others, "joint"),
    ):
        found = radius_of_shift(shift.x, shift.y, pairs, seed=seed)
        top = found.value if found.interval is None else max(found.value, found.interval[1])
        yield name, top, structure


def rows_of(shift: Shift, seed: int) -> list[Row]:
    """Coverage and sharpness of every recipe."""
    risks = np.array([((x - y @ shift.B.T) ** 2).sum(axis=1).mean() for x, y in shift.folds])
    rows: list[Row] = []
    for recipe, radius, structure in recipes(shift, seed):
        worst = worst_case_risk(shift.B, shift.x, shift.y, radius, structure)
        rows.append(
            {
                "family": shift.family,
                "shift": shift.name,
                "recipe": recipe,
                "radius": radius,
                "nominal": worst.nominal_risk,
                "measured": float(risks.mean()),
                "largest measured": float(risks.max()),
                "certified": worst.risk,
                "covered": float((risks <= worst.risk).mean()),
                "certified / measured": worst.risk / float(risks.mean()),
            }
        )
    return rows


def run(config: Config, out: Path) -> list[Check]:
    """All shifts and recipes; written to `out`."""
    from dro_torch.data import DataFileError

    rows: list[Row] = []
    with mendable(DataFileError):
        shifts = [*digit_shifts(config), *dose_shifts(config), *measured_shifts(config)]
    for shift in progress(shifts, "shifts"):
        rows += rows_of(shift, config.seed)
    shown = ("family", "shift", "recipe", "radius", "nominal", "measured", "certified", "covered")
    cells = [[_cell(row[name]) for name in shown] for row in rows]
    print(table([list(shown), *cells]))
    checks = []
    for family in dict.fromkeys(str(row["family"]) for row in rows):
        own = [row for row in rows if row["family"] == family]
        if family in OUTSIDE:
            continue
        for recipe in dict.fromkeys(str(row["recipe"]) for row in own):
            covered = column([row for row in own if row["recipe"] == recipe], "covered")
            checks.append(at_least(f"{family}: folds covered, {recipe}", covered.mean(), 0.95))
    write_csv(out / "coverage.csv", rows)
    made = provenance("coverage", without_folders(config))
    write_json(out / "coverage.json", {**made, "checks": checks, "rows": rows})
    return checks


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
