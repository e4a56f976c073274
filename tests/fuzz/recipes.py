"""How to call every public function; a name without a recipe says in `EXEMPT` why it has none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import torch
from hostile import Arguments, Recipe
from scipy.sparse.linalg import aslinearoperator
from torch import nn

import dro_core
import dro_torch
from dro_core import operators, radii
from dro_torch import data, metrics, nets, physics, tomography, training
from dro_torch.losses import unbalanced

Rng = np.random.Generator
RECIPES: dict[str, Recipe] = {}
STRUCTURES = ["y|x", "joint", "x|y"]


def recipe(name: str, call: Callable[..., Any], **options: Any) -> Callable[[Any], Any]:
    """Register `make`, the function below, as the good arguments of `call`."""

    def register(make: Callable[[Rng], Arguments]) -> Callable[[Rng], Arguments]:
        RECIPES[name] = Recipe(call, make, **options)
        return make

    return register


def chosen(rng: Rng, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def shares(rng: Rng, size: int) -> np.ndarray:
    """Weights that sum to one exactly, in every precision."""
    counts = rng.multinomial(16, np.full(size, 1 / size))
    return counts / 16


def core(rng: Rng) -> Arguments:
    count, n, m = (int(v) for v in rng.integers(1, 5, 3))
    return {
        "B": rng.standard_normal((n, m)),
        "x": rng.standard_normal((count, n)),
        "y": rng.standard_normal((count, m)),
    }


def ball(rng: Rng) -> Arguments:
    made = {**core(rng), "radius": 0.5, "structure": chosen(rng, STRUCTURES)}
    if rng.random() < 0.5:
        made["weights"] = shares(rng, len(made["x"]))
    return made


# --- dro_core: worst cases ----------------------------------------------------------------------


def certified(worst: Any) -> list[Any]:
    """The value, the law and the recomputed certificate, which must hold."""
    certificate = worst.verify()
    assert certificate.holds(1e-6), certificate
    return [worst.risk, certificate.dual_risk]


recipe("worst_case_risk", lambda **a: certified(dro_core.worst_case_risk(**a)))(ball)


@recipe(
    "LinearReconstruction",
    lambda radius, structure, **a: (
        dro_core.LinearReconstruction(**a).worst_case(radius, structure).risk
    ),
)
def _(rng: Rng) -> Arguments:
    made = ball(rng)  # a matrix takes none of these
    own = {"rtol": 1e-6, "max_steps": 300, "random_starts": 4, "seed": 0}
    return {**made, "B": aslinearoperator(made["B"]), **own}


@recipe(
    "worst_case_curve",
    known_as=("radius",),
    call=lambda **a: (lambda c: [c.risk, c.bound])(dro_core.worst_case_curve(**a)),
)
def _(rng: Rng) -> Arguments:
    made = ball(rng)
    del made["radius"]
    return {**made, "radii": rng.uniform(0.1, 2.0, 3)}


@recipe("dual_value", dro_core.dual_value)
def _(rng: Rng) -> Arguments:
    made = ball(rng)
    made["multiplier"] = 2.0 * (1.0 + np.linalg.norm(made["B"]) ** 2)
    return {**made, "epsilon": chosen(rng, [0.0, 0.1])}


@recipe("entropic_worst_case", lambda **a: dro_core.entropic_worst_case(**a).risk)
def _(rng: Rng) -> Arguments:
    return {**ball(rng), "epsilon": 0.1, "cost": chosen(rng, ["squared", "half-squared"])}


def sample_weighted(rng: Rng) -> Arguments:
    made = core(rng)
    return {**made, "weight_y": rng.uniform(0.5, 2, made["y"].shape)}


@recipe(
    "sample_weighted_worst_case", lambda **a: certified(dro_core.sample_weighted_worst_case(**a))
)
def _(rng: Rng) -> Arguments:
    return {**sample_weighted(rng), "radius": 0.5}


recipe(
    "SampleWeightedReconstruction",
    lambda **a: dro_core.SampleWeightedReconstruction(**a).curve([0.1, 1.0]).risk,
)(sample_weighted)


def plain(rng: Rng) -> Arguments:
    return {name: value for name, value in core(rng).items() if name != "B"}


@recipe(
    "shaped_noise",
    lambda **a: dro_core.shaped_noise(**a).risk,
    agreement=1e-3,
    known_as=("structure",),
)
def _(rng: Rng) -> Arguments:
    return {**plain(rng), "radius": 0.5, "shape": 1.0, "rounds": 1}


@recipe("NoiseTraining", lambda **a: dro_core.NoiseTraining(**a).map(0.5))
def _(rng: Rng) -> Arguments:
    return {**plain(rng), "shape": 1.0}


def two_budgets(rng: Rng) -> Arguments:
    made = core(rng)
    forward = rng.standard_normal(made["B"].T.shape)
    return {**made, "forward": forward, "radius_x": 0.5, "radius_noise": 0.3}


recipe("two_budget_worst_case", lambda **a: certified(dro_core.two_budget_worst_case(**a)))(
    two_budgets
)


@recipe(
    "fit_two_budgets",
    lambda **a: dro_core.fit_two_budgets(**a).risk,
    agreement=1e-3,
    warns=(dro_core.NotOptimalWarning,),
)
def _(rng: Rng) -> Arguments:
    made = two_budgets(rng)
    return {name: made[name] for name in made if name != "B"}


def independent(rng: Rng) -> Arguments:
    n, m = (int(v) for v in rng.integers(1, 4, 2))
    return {
        "B": rng.standard_normal((n, m)),
        "forward": rng.standard_normal((m, n)),
        "moment_x": rng.uniform(0.5, 2, n),
        "moment_noise": rng.uniform(0.5, 2, m),
        "radius_x": 0.5,
        "radius_noise": 0.3,
    }


recipe("independent_worst_case", lambda **a: dro_core.independent_worst_case(**a).risk)(independent)


@recipe("wasserstein_mmse", lambda **a: dro_core.wasserstein_mmse(**a).risk, agreement=1e-3)
def _(rng: Rng) -> Arguments:
    made = independent(rng)
    return {name: made[name] for name in made if name != "B"}


@recipe(
    "SignalNoise",
    lambda B, x, y, **a: dro_core.worst_case_risk(B, x, y, 0.5, dro_core.SignalNoise(**a)).risk,
    known_as=("structure",),
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    forward = rng.standard_normal(made["B"].T.shape)
    return {**made, "forward": forward, "weight_x": 2.0, "weight_noise": 0.5}


@recipe("adjusted_radius", dro_core.adjusted_radius)
def _(rng: Rng) -> Arguments:
    return {"radius": 1.0, "epsilon": 0.1, "dimension": 3, "cost": "squared"}


@recipe("unadjusted_radius", dro_core.unadjusted_radius)
def _(rng: Rng) -> Arguments:
    return {"adjusted": 1.0, "epsilon": 0.1, "dimension": 3, "cost": "squared"}


for kind, names in (
    ("Joint", ("weight_x", "weight_y")),
    ("YGivenX", ("weight_y",)),
    ("XGivenY", ("weight_x",)),
):

    def weighted(kind: str = kind, **a: Any) -> Any:
        x, y = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[1.0, 0.0], [2.0, 1.0]])
        structure = getattr(dro_core, kind)(**a)
        return dro_core.worst_case_risk(np.eye(2), x, y, 0.5, structure).risk

    @recipe(kind, weighted, known_as=("norm", "structure"))
    def _(rng: Rng, names: tuple[str, ...] = names) -> Arguments:
        forms = [2.0, rng.uniform(0.5, 2, 2), np.diag(rng.uniform(0.5, 2, 2))]
        return {name: chosen(rng, forms) for name in names}


@recipe(
    "XShift",
    lambda B, x, y, **a: dro_core.worst_case_risk(B, x, y, 100.0, dro_core.XShift(**a)).risk,
    known_as=("structure", "radius"),
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    n, m = made["B"].shape
    forward = rng.standard_normal((m, n))
    return {
        **made,
        "forward": forward,
        "cost": chosen(rng, ["joint", "x"]),
        "covariance": chosen(rng, [0.1, rng.uniform(0, 1, m), np.eye(m)]),
    }


@recipe(
    "YShift",
    lambda B, x, y, **a: dro_core.worst_case_risk(B, x, y, 100.0, dro_core.YShift(**a)).risk,
    known_as=("structure", "radius"),
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    n, m = made["B"].shape
    return {
        **made,
        "posterior": rng.standard_normal((n, m)),
        "cost": chosen(rng, ["joint", "y"]),
        "covariance": chosen(rng, [0.1, rng.uniform(0, 1, n), np.eye(n)]),
    }


@recipe(
    "ResidualSpectrum",
    lambda **a: dro_core.minimize_quadratic_dual(dro_core.ResidualSpectrum(**a), 0.5).value,
    known_as=("radius", "spectrum"),
)
def _(rng: Rng) -> Arguments:
    return {
        "squared_singular_values": rng.uniform(0, 2, 3),
        "mass": rng.uniform(0, 2, 3),
        "multiplicity": np.array([1.0, 2.0, 1.0]),
    }


@recipe(
    "ResidualSpectrum.from_lipschitz",
    lambda **a: (
        dro_core.minimize_quadratic_dual(dro_core.ResidualSpectrum.from_lipschitz(**a), 0.5).value
    ),
    known_as=("radius",),
)
def _(rng: Rng) -> Arguments:
    return {"modulus": 1.5, "fidelity": 2.0}


@recipe(
    "minimize_quadratic_dual",
    lambda radius, epsilon: (
        dro_core.minimize_quadratic_dual(
            dro_core.ResidualSpectrum.from_lipschitz(1.5, 2.0), radius, epsilon
        ).value
    ),
)
def _(rng: Rng) -> Arguments:
    return {"radius": 0.5, "epsilon": chosen(rng, [0.0, 0.1])}


for name in ("explicit_bound", "conservatism_gap"):

    @recipe(name, getattr(dro_core, name))
    def _(rng: Rng, name: str = name) -> Arguments:
        option = {"structure": "joint"} if name == "explicit_bound" else {"form": "root"}
        return {
            "fidelity": rng.uniform(0, 2, 3),
            "lipschitz": rng.uniform(0, 2, (2, 1)),
            "radius": 0.5,
            **option,
        }


def profiles(rng: Rng) -> Arguments:
    shape = tuple(int(v) for v in rng.integers(1, 4, 2))
    starts = np.cumsum(rng.uniform(0, 1, shape), axis=1)
    return {
        "starts": starts - starts[:, :1],
        "values": rng.uniform(0, 2, shape),
        "slopes": rng.uniform(0, 2, shape),
    }


@recipe("GrowthProfiles", lambda **a: dro_core.GrowthProfiles(**a)(0.5))
def _(rng: Rng) -> Arguments:
    return profiles(rng)


for name in ("growth_bound", "growth_dual"):

    def bounded(radius: Any, multiplier: Any = None, weights: Any = None, **a: Any) -> float:
        made = dro_core.GrowthProfiles(**a)
        if multiplier is not None:
            return dro_core.growth_dual(made, multiplier, radius, weights=weights)
        return dro_core.growth_bound(made, radius, weights=weights).value

    @recipe(name, bounded)
    def _(rng: Rng, name: str = name) -> Arguments:
        made = profiles(rng)
        chosen_at = {"multiplier": 5.0} if name == "growth_dual" else {}
        return {**made, **chosen_at, "radius": 0.5, "weights": shares(rng, len(made["starts"]))}


@recipe("hockey_stick", dro_core.hockey_stick)
def _(rng: Rng) -> Arguments:
    return {"order": rng.uniform(0, 3, (3, 1)), "shift": rng.uniform(0, 3, 2)}


@recipe("exceedance_bound", dro_core.exceedance_bound)
def _(rng: Rng) -> Arguments:
    return {"mean": rng.uniform(0, 1, 3), "draws": 20, "failure": 0.1}


@recipe("mean_lower_bound", dro_core.mean_lower_bound)
def _(rng: Rng) -> Arguments:
    return {"values": rng.uniform(0, 1, 5), "least": -0.5, "most": 2.0, "failure": 0.1}


@recipe("SmoothedLosses", lambda **a: dro_core.SmoothedLosses(**a).exceedances)
def _(rng: Rng) -> Arguments:
    return {
        "centres": rng.uniform(0, 1, 2),
        "levels": np.cumsum(rng.uniform(0.1, 1, 4)),
        "exceedances": rng.uniform(0, 1, 3),
    }


@recipe(
    "smoothed_bound",
    lambda radius, sigma, **a: (
        dro_core.smoothed_bound(dro_core.SmoothedLosses(**a), radius, sigma).value
    ),
)
def _(rng: Rng) -> Arguments:
    made = RECIPES["SmoothedLosses"].make(rng)
    return {**made, "radius": 0.5, "sigma": 0.5}


# --- dro_core: finite support -------------------------------------------------------------------


def tables(rng: Rng) -> Arguments:
    count, size = (int(v) for v in rng.integers(2, 5, 2))
    cost = rng.uniform(0.1, 1, (count, size))
    cost[:, 0] = 0.0
    return {"loss": rng.standard_normal((count, size)), "cost": cost}


@recipe("finite_worst_case", lambda **a: certified(dro_core.finite_worst_case(**a)))
def _(rng: Rng) -> Arguments:
    made = tables(rng)
    return {**made, "radius": 0.5, "weights": shares(rng, len(made["loss"]))}


@recipe("finite_potential", lambda **a: dro_core.finite_potential(**a)[0])
def _(rng: Rng) -> Arguments:
    return {**tables(rng), "multiplier": 1.0}


@recipe(
    "quadratic_candidates",
    lambda **a: [table(slice(0, 1)) for table in dro_core.quadratic_candidates(**a)],
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    return {**made, "x_candidates": 2 * made["x"], "y_candidates": made["y"] + 1}


@recipe("admissible_candidates", lambda **a: dro_core.admissible_candidates(**a) is None)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    return {
        "x": made["x"],
        "y": made["y"],
        "x_candidates": made["x"],
        "y_candidates": made["y"],
        "structure": "y|x",
    }


@recipe(
    "hull_candidates",
    lambda **a: [np.asarray(t) for t in dro_core.hull_candidates(**a)],
    infinite=True,
)
def _(rng: Rng) -> Arguments:
    made = tables(rng)
    return {**made, "measures": np.stack([shares(rng, made["loss"].shape[1]) for _ in range(2)])}


NOISES = {
    "GaussianNoise": ("levels", lambda rng: rng.uniform(0, 1, 2)),
    "PoissonNoise": ("photons", lambda rng: rng.uniform(1, 20, 2)),
}
for name, (argument, draw) in NOISES.items():

    def noisy(name: str = name, argument: str = argument, **a: Any) -> Any:
        family = getattr(dro_core, name)(a.pop(argument))
        return [dro_core.noise_candidates(**a, noise=family), family.atoms(np.ones((2, 1)))]

    @recipe(name, noisy, known_as=("noise",))
    def _(rng: Rng, argument: str = argument, draw: Any = draw) -> Arguments:
        made = core(rng)
        return {**made, "clean": np.abs(made["y"]), argument: draw(rng)}


RECIPES["noise_candidates"] = RECIPES["GaussianNoise"]


# --- dro_core: fits and radii -------------------------------------------------------------------


def small_fit(**a: Any) -> Any:
    fit = dro_core.fit_linear(**a)
    return [fit.risk, fit.lower, fit.predict(a["y"]).shape]


@recipe("fit_linear", small_fit, agreement=1e-3, warns=(dro_core.NotOptimalWarning,))
def _(rng: Rng) -> Arguments:
    made = ball(rng)
    del made["B"]
    return {**made, "epsilon": chosen(rng, [0.0, 0.1])}


def learned(**a: Any) -> Any:
    names = ("radius", "epsilon", "structure", "folds", "seed")
    model = dro_core.LinearDRO(**{k: a.pop(k) for k in names})
    return model.fit(**a).fit_.risk


@recipe(
    "LinearDRO",
    learned,
    known_as=("radii", "x"),
    agreement=1e-3,
    warns=(dro_core.NotOptimalWarning,),
)
def _(rng: Rng) -> Arguments:
    made = ball(rng)
    X, y = np.vstack([made["y"]] * 2), np.vstack([made["x"]] * 2)
    y = y + rng.standard_normal(y.shape)
    return {
        "X": X,
        "y": y,
        "radius": 0.5,
        "structure": made["structure"],
        "epsilon": 0.0,
        "sample_weight": rng.integers(1, 3, len(X)) * 1.0,
        "folds": 2,
        "seed": 0,
    }


@recipe("LinearDRO.predict", lambda X: _fitted().predict(X))
def _(rng: Rng) -> Arguments:
    return {"X": rng.standard_normal((3, 2))}


@recipe("LinearDRO.score", lambda **a: _fitted().score(**a))
def _(rng: Rng) -> Arguments:
    return {
        "X": rng.standard_normal((3, 2)),
        "y": rng.standard_normal((3, 2)),
        "sample_weight": rng.integers(1, 3, 3) * 1.0,
    }


def _fitted() -> dro_core.LinearDRO:
    return dro_core.LinearDRO(0.0).fit(np.eye(3)[:, :2], np.ones((3, 2)))


@recipe(
    "cross_validated_radius",
    lambda **a: (lambda f: [f.held_out, f.certified])(dro_core.cross_validated_radius(**a)),
    agreement=1e-4,
    known_as=("B",),
    warns=(dro_core.NotOptimalWarning,),
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    x, y = (np.vstack([made[k]] * 3) for k in ("x", "y"))
    return {
        "x": x,
        "y": y,
        "radii": np.array([0.0, 50.0]),
        "fit": made["B"],
        "criterion": "coverage",
        "structure": "y|x",
        "folds": 2,
        "seed": 0,
    }


@recipe("radius_of_noise", radii.radius_of_noise, known_as=("size",))
def _(rng: Rng) -> Arguments:
    return chosen(
        rng,
        [
            {"covariance": 0.5, "size": 3},
            {"covariance": rng.uniform(0, 1, 3)},
            {"covariance": np.diag(rng.uniform(0, 1, 3))},
        ],
    )


@recipe("radius_of_poisson_noise", radii.radius_of_poisson_noise)
def _(rng: Rng) -> Arguments:
    return {"clean": rng.uniform(0, 1, (3, 2)), "photons": 10.0, "weights": shares(rng, 3)}


@recipe("radius_of_operator_change", radii.radius_of_operator_change)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    return {
        "forward": made["B"].T,
        "changed": 2 * made["B"].T,
        "x": made["x"],
        "weights": shares(rng, len(made["x"])),
    }


@recipe("radius_for_gap", radii.radius_for_gap)
def _(rng: Rng) -> Arguments:
    return {
        "gap": rng.uniform(0, 0.2, 3),
        "fidelity": rng.uniform(0.5, 1, 3),
        "lipschitz": 1.0,
        "form": "root",
    }


@recipe("radius_from_rms", radii.radius_from_rms)
def _(rng: Rng) -> Arguments:
    return {"rms": 0.5, "size": 4}


@recipe("rms_from_radius", radii.rms_from_radius)
def _(rng: Rng) -> Arguments:
    return {"radius": 0.5, "size": 4}


# --- dro_core: transport ------------------------------------------------------------------------


def pairs(rng: Rng) -> Arguments:
    made = core(rng)
    x0 = rng.integers(0, 2, (4, made["x"].shape[1])) * 1.0
    y0, y1 = (rng.standard_normal((4, made["y"].shape[1])) for _ in range(2))
    return {
        "x0": x0,
        "y0": y0,
        "x1": x0[::-1].copy(),
        "y1": y1,
        "p": 2.0,
        "weights0": np.full(4, 0.25),
        "weights1": np.full(4, 0.25),
    }


@recipe(
    "conditional_wasserstein",
    lambda **a: dro_core.conditional_wasserstein(**a).value,
    infinite=True,
)
def _(rng: Rng) -> Arguments:
    made = pairs(rng)
    method = chosen(rng, ["exact", "exact", "relaxed"])
    return {
        **made,
        "method": method,
        **({"beta": 2.0} if method == "relaxed" else {}),
        "tolerance": 0.0,
    }


@recipe("relaxed_curve", lambda **a: dro_core.relaxed_curve(**a).value)
def _(rng: Rng) -> Arguments:
    return {**pairs(rng), "betas": np.array([1.0, 4.0])}


@recipe(
    "gaussian_conditional_wasserstein",
    lambda **a: dro_core.gaussian_conditional_wasserstein(**a).value,
)
def _(rng: Rng) -> Arguments:
    covariances = np.stack([np.diag(rng.uniform(0.5, 2, 2)) for _ in range(3)])
    return {
        "means0": rng.standard_normal((3, 2)),
        "covariances0": covariances,
        "means1": rng.standard_normal((3, 2)),
        "covariances1": covariances[::-1].copy(),
        "weights": shares(rng, 3),
    }


@recipe("matching_price", lambda **a: dro_core.matching_price(**a).matched_error)
def _(rng: Rng) -> Arguments:
    signal = np.diag(rng.uniform(1, 2, 3))
    return {"covariance": signal, "estimate_covariance": signal - np.diag(rng.uniform(0, 1, 3))}


def masses(rng: Rng) -> Arguments:
    return {
        "cost": rng.uniform(0, 2, (3, 4)),
        "a": rng.uniform(0.5, 2, 3),
        "b": rng.uniform(0.5, 2, 4),
    }


@recipe("unbalanced_ot", lambda **a: dro_core.unbalanced_ot(**a).value)
def _(rng: Rng) -> Arguments:
    return {**masses(rng), "divergence": "kl", "weight": 1.0, "rtol": 1e-9, "max_steps": 200}


@recipe("semidual_value", dro_core.semidual_value)
def _(rng: Rng) -> Arguments:
    return {**masses(rng), "v": rng.standard_normal(4), "divergence": "kl", "weight": 1.0}


@recipe("c_transform", dro_core.c_transform)
def _(rng: Rng) -> Arguments:
    return {"cost": rng.uniform(0, 2, (3, 4)), "v": rng.standard_normal(4)}


@recipe(
    "unbalanced_gaussian",
    lambda **a: (lambda g: [g.value, g.source_mean, g.target_covariance])(
        dro_core.unbalanced_gaussian(**a)
    ),
)
def _(rng: Rng) -> Arguments:
    return {
        "mean0": rng.standard_normal(2),
        "covariance0": np.diag(rng.uniform(0.5, 2, 2)),
        "mean1": rng.standard_normal(2),
        "covariance1": np.diag(rng.uniform(0.5, 2, 2)),
        "forward": rng.standard_normal((2, 2)),
        "likelihood": 0.5,
        "quadratic": 1.0,
        "mass0": 1.0,
        "mass1": 2.0,
        "weight": 1.0,
    }


@recipe("twist_condition", lambda **a: dro_core.twist_condition(**a).margin, known_as=("points",))
def _(rng: Rng) -> Arguments:
    square = rng.standard_normal((2, 2))
    return {"forward": square @ square.T + np.eye(2), "weight": 1.0}


# --- dro_core: operators --------------------------------------------------------------


@recipe("operators.Diagonal", lambda **a: operators.Diagonal(**a).matrix())
def _(rng: Rng) -> Arguments:
    return {"decay": 1.0, "size": 8}


@recipe("operators.Integration", lambda size: operators.Integration(size).matrix())
def _(rng: Rng) -> Arguments:
    return {"size": 8}


@recipe("operators.BackwardHeat", lambda **a: operators.BackwardHeat(**a).matrix())
def _(rng: Rng) -> Arguments:
    return {"time": 1e-3, "size": 8, "boundary": "periodic"}


@recipe(
    "operators.Convolution",
    lambda rows, **a: operators.Convolution(**a).apply(rows),
    keep=("rows",),
)
def _(rng: Rng) -> Arguments:
    return {
        "kernel": rng.uniform(0, 1, 3),
        "shape": 8,
        "padding": "circular",
        "rows": rng.standard_normal((2, 8)),
    }


# --- dro_torch ----------------------------------------------------------------------------------


class Network(nn.Module):
    """A smooth map of three columns to two in the precision of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.8, -0.4]]))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        if y.shape[-1:] != (3,):
            raise ValueError(f"y: shape {tuple(y.shape)}; this network takes three columns")
        return y @ self.weight.to(y.dtype).mT


def tensor(rng: Rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def batch(rng: Rng) -> Arguments:
    return {"x": tensor(rng, 4, 2), "y": tensor(rng, 4, 3)}


def loss_of(kind: Any, model: Any = None, **a: Any) -> Any:
    """Value and gradient."""
    names = {k: a.pop(k) for k in list(a) if k not in ("x", "y", "multiplier", "seed", "step")}
    network = Network()
    if kind is not dro_torch.BoundLoss:
        a.setdefault("seed", 0)
        a.setdefault("step", 0)
        a.setdefault(
            "index",
            torch.arange(len(a["x"])) if isinstance(a["x"], torch.Tensor) and a["x"].ndim else None,
        )
    value = kind(**names)(network, **a)
    (gradient,) = torch.autograd.grad(value, network.weight)
    return [value, gradient]


LOSSES: dict[str, Arguments] = {
    "EntropicDROLoss": {"epsilon": 0.1, "samples": 4, "structure": "y|x", "multiplier": 5.0},
    "WassersteinDROLoss": {"steps": 2, "structure": "y|x", "multiplier": 5.0},
    "LinearisedDROLoss": {"iterations": 4, "structure": "y|x", "multiplier": 5.0},
    "BoundLoss": {"radius": 0.5, "lipschitz": 1.5, "structure": "y|x"},
    "WassersteinBallLoss": {"radius": 0.5, "steps": 2, "structure": "y|x"},
}
for name, options in LOSSES.items():

    @recipe(
        name,
        lambda name=name, **a: loss_of(getattr(dro_torch, name), **a),
        known_as=("samples", "model"),
        agreement=1e-4,
        overflows=True,
        warns=(dro_torch.EstimatorWarning,),
    )
    def _(rng: Rng, options: Arguments = options) -> Arguments:
        return {**batch(rng), **options}


@recipe("level_of_radius", dro_torch.level_of_radius)
def _(rng: Rng) -> Arguments:
    return {"structure": "y|x", "radius": 0.5, **batch(rng)}


@recipe("Multiplier", lambda **a: dro_torch.Multiplier(**a)())
def _(rng: Rng) -> Arguments:
    return {"radius": 0.5, "initial": 2.0, "lower": 0.5}


for name in ("certify", "certificate_curve"):

    def certified_network(name: str = name, **a: Any) -> Any:
        found = getattr(dro_torch, name)(Network().double(), **a)
        return [[c.lower, c.upper] for c in (found if name == "certificate_curve" else [found])]

    @recipe(name, certified_network, agreement=1e-3, known_as=("model",))
    def _(rng: Rng, name: str = name) -> Arguments:
        radius = {"radius": 0.5} if name == "certify" else {"radii": [0.1, 0.5]}
        return {
            **batch(rng),
            **radius,
            "structure": chosen(rng, ["y|x", "joint"]),
            "weights": shares(rng, 4),
            "lipschitz": 1.5,
            "directions": 2,
            "steps": 2,
        }


@recipe("Smoothing", lambda **a: dro_torch.Smoothing(**a).sigma)
def _(rng: Rng) -> Arguments:
    return {"sigma": 0.1, "draws": 4, "failure_probability": 0.01}


@recipe(
    "lipschitz_lower",
    lambda **a: dro_torch.lipschitz_lower(Network().double(), **a).value,
    known_as=("module", "y"),
)
def _(rng: Rng) -> Arguments:
    return {"x": tensor(rng, 4, 3), "steps": 5, "ascent_steps": 2}


@recipe("standard_normal", dro_torch.standard_normal)
def _(rng: Rng) -> Arguments:
    return {"index": torch.arange(4), "draws": 2, "size": 3, "seed": 0, "step": 1}


def first_column(x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 2:
        raise ValueError(f"x: shape {tuple(x.shape)}; this operator takes rows")
    return x[:, :1].expand(-1, 3)


@recipe(
    "XShift (torch)",
    lambda x, y, cost: dro_torch.WassersteinDROLoss(dro_torch.XShift(first_column, cost=cost))(
        Network(), x, y, 5.0
    ),
    known_as=("structure", "forward", "model"),
)
def _(rng: Rng) -> Arguments:
    x = tensor(rng, 4, 2)
    return {"x": x, "y": x[:, :1].expand(-1, 3).clone(), "cost": "x"}


@recipe(
    "LikelihoodCost",
    lambda y, x, **a: dro_torch.LikelihoodCost(lambda x: 2 * x, **a)(y, x),
    known_as=("forward", "upsample"),
    overflows=True,
)
def _(rng: Rng) -> Arguments:
    return {
        "y": tensor(rng, 4, 2),
        "x": tensor(rng, 4, 2),
        "likelihood": 1.0,
        "quadratic": 0.5,
        "scale": 0.1,
    }


def unbalanced_losses(y: Any, x: Any, **a: Any) -> Any:
    loss = dro_torch.UnbalancedOTLoss(dro_torch.LikelihoodCost(lambda x: x), **a)
    v, T = (lambda x: x.sum(1) / 10), (lambda y: 0.5 * y)
    return [
        loss.potential_loss(v, T, y, x),
        loss.map_loss(v, T, y),
        loss.r1(v, x),
        loss.weights(v, T, y),
    ]


@recipe("UnbalancedOTLoss", unbalanced_losses, known_as=("T", "v", "cost"))
def _(rng: Rng) -> Arguments:
    return {
        "y": tensor(rng, 4, 2),
        "x": tensor(rng, 5, 2),
        "divergence": "kl",
        "gradient_penalty": 0.1,
        "momentum": 0.01,
    }


for name in ("cost_scale", "gradient_penalty_weight"):

    @recipe(f"losses.{name}", getattr(unbalanced, name))
    def _(rng: Rng) -> Arguments:
        return {"entries": 12}


@recipe(
    "NoisyMeasurement",
    lambda x, index, levels, seed, step: dro_torch.NoisyMeasurement(lambda x: x, levels)(
        x, index, seed=seed, step=step
    ),
)
def _(rng: Rng) -> Arguments:
    return {
        "x": tensor(rng, 4, 2),
        "index": torch.arange(4),
        "levels": (0.1, 0.2),
        "seed": 0,
        "step": 1,
    }


# metrics


def images(rng: Rng) -> Arguments:
    x = torch.from_numpy(rng.uniform(0, 1, (2, 1, 12, 12)))
    return {"x": x, "reconstruction": x + 0.1 * tensor(rng, 2, 1, 12, 12)}


for name in ("rmse", "psnr", "ssim"):

    @recipe(f"metrics.{name}", getattr(metrics, name))
    def _(rng: Rng, name: str = name) -> Arguments:
        return {**images(rng), **({} if name == "rmse" else {"data_range": 1.0})}


@recipe(
    "metrics.stability",
    lambda **a: metrics.stability(
        Network(),
        generator=torch.Generator().manual_seed(0),
        **a,
    ),
    known_as=("model",),
)
def _(rng: Rng) -> Arguments:
    return {"y": tensor(rng, 4, 3), "eta": 0.1, "directions": 3, "reduction": "mean"}


@recipe(
    "metrics.saliency",
    lambda **a: metrics.saliency(Network(), **a),
    known_as=("model", "reconstruction"),
)
def _(rng: Rng) -> Arguments:
    return {"y": tensor(rng, 4, 3), "x": tensor(rng, 4, 2)}


@recipe("metrics.polynomial_mmd", metrics.polynomial_mmd)
def _(rng: Rng) -> Arguments:
    return {"first": tensor(rng, 5, 3), "second": tensor(rng, 6, 3)}


@recipe("metrics.kid", lambda **a: metrics.kid(generator=torch.Generator().manual_seed(0), **a))
def _(rng: Rng) -> Arguments:
    return {"first": tensor(rng, 5, 3), "second": tensor(rng, 6, 3), "subset_size": 4}


@recipe("metrics.bootstrap_interval", lambda **a: list(metrics.bootstrap_interval(**a)))
def _(rng: Rng) -> Arguments:
    return {
        "values": chosen(rng, [rng.standard_normal(6), tensor(rng, 6)]),
        "level": 0.9,
        "resamples": 50,
        "seed": 0,
        "method": chosen(rng, ["BCa", "percentile"]),
    }


# networks, physics, tomography


NETWORKS: dict[str, tuple[Callable[..., nn.Module], Arguments, tuple[int, ...]]] = {
    "UNet": (
        nets.UNet,
        {"in_channels": 1, "out_channels": 1, "depth": 1, "width": 2},
        (2, 1, 8, 8),
    ),
    "MLP": (lambda dropout: nets.MLP((3, 4, 2), dropout=dropout), {"dropout": 0.0}, (4, 3)),
    "LinearMap": (nets.LinearMap, {"matrix": np.ones((2, 3))}, (4, 3)),
    "BoundedConvolution": (
        nets.BoundedConvolution,
        {"in_channels": 1, "out_channels": 2, "dimension": 2, "lipschitz": 1.0},
        (2, 1, 8, 8),
    ),
    "GradientStep": (nets.GradientStep, {"channels": 2, "hidden": 3, "dimension": 2}, (2, 2, 8, 8)),
    "Clipped": (
        lambda output_range: nets.Clipped(nn.Identity(), output_range),
        {"output_range": [-0.5, 1.0]},
        (4, 3),
    ),
    "Tethered": (
        lambda **a: nets.Tethered(nn.Tanh(), nn.Identity(), **a),
        {"radius": 0.1},
        (4, 3),
    ),
    "SmoothedModel": (
        lambda **a: nets.SmoothedModel(nn.Identity(), fixed=True, **a),
        {"sigma": 0.1, "draws": 3, "output_range": [-0.5, 1.0], "seed": 1},
        (4, 3),
    ),
    "TransportMap": (nets.TransportMap, {"channels": 1, "widths": "small"}, (2, 1, 16, 16)),
}
for name, (make_network, options, shape) in NETWORKS.items():

    def run_network(y: Any, make_network: Any = make_network, **a: Any) -> Any:
        torch.manual_seed(0)
        network = make_network(**a).eval().double()
        with torch.no_grad():
            return network(y)

    @recipe(
        f"nets.{name}",
        run_network,
        known_as=("sizes", "z", "x", "MLP", "LinearMap", "UNet"),
        keep=("y", "channels", "in_channels"),
    )
    def _(rng: Rng, options: Arguments = options, shape: tuple[int, ...] = shape) -> Arguments:
        return {**options, "y": tensor(rng, *shape)}


LAWS: dict[str, Arguments] = {
    "GaussianNoise": {"level": 0.1},
    "UniformNoise": {"half_width": 0.1},
    "SpeckleNoise": {"level": 0.1, "low": -9.0},
    "PoissonNoise": {"photons": 10.0, "low": -9.0, "high": 9.0},
    "SaltAndPepperNoise": {"share": 0.1, "salt": 0.5, "low": -9.0, "high": 9.0},
    "MultiLevelGaussianNoise": {"levels": (0.1, 0.2), "proportions": (1.0, 3.0)},
}
for name, options in LAWS.items():

    @recipe(
        f"physics.{name}",
        lambda y, name=name, **a: getattr(physics, name)(**a)(y, torch.Generator().manual_seed(0)),
    )
    def _(rng: Rng, options: Arguments = options) -> Arguments:
        return {"y": tensor(rng, 4, 3), **options}


@recipe(
    "physics.MixtureNoise",
    lambda y, weights: physics.MixtureNoise(
        [physics.GaussianNoise(0.1), physics.UniformNoise(0.1)], weights
    )(y, torch.Generator().manual_seed(0)),
)
def _(rng: Rng) -> Arguments:
    return {"y": tensor(rng, 4, 3), "weights": np.array([0.25, 0.75])}


FORWARDS: dict[str, tuple[Arguments, tuple[int, ...]]] = {
    "Convolution": (
        {"kernel": np.array([[0.0, 0.25], [0.25, 0.5]]), "padding": "circular"},
        (2, 1, 8, 8),
    ),
    "Downsampling": ({"factor": 2}, (2, 1, 8, 8)),
    "Upsampling": ({"factor": 2}, (2, 1, 8, 8)),
    "ClippedHDR": ({"gain": 2.0}, (2, 1, 8, 8)),
    "GammaMotionBlur": ({"length": 3.0, "angle": 30.0, "decay": 1.0, "gamma": 2.2}, (2, 1, 8, 8)),
    "SignalGatedBlur": ({"temperature": 0.25}, (1, 3, 20, 20)),
    "Integration": ({}, (2, 8)),
}
for name, (options, shape) in FORWARDS.items():

    @recipe(f"physics.{name}", lambda x, name=name, **a: getattr(physics, name)(**a)(x))
    def _(rng: Rng, options: Arguments = options, shape: tuple[int, ...] = shape) -> Arguments:
        return {"x": torch.from_numpy(rng.uniform(-1, 1, shape)), **options}


@recipe(
    "physics.LinearOperatorModule",
    lambda x, operator: physics.LinearOperatorModule(operator, dtype=torch.float64)(x),
)
def _(rng: Rng) -> Arguments:
    return {"x": tensor(rng, 4, 3), "operator": rng.standard_normal((2, 3))}


KERNELS: dict[str, Arguments] = {
    "gaussian_kernel": {"width": 1.0, "size": 5, "dimensions": 2},
    "anisotropic_gaussian_kernel": {"widths": (1.0, 2.0), "angle": 30.0, "size": 5},
    "motion_blur_kernel": {"length": 3.0, "angle": 30.0, "decay": 1.0, "size": 7},
}
for name, options in KERNELS.items():

    @recipe(f"physics.{name}", getattr(physics, name))
    def _(rng: Rng, options: Arguments = options) -> Arguments:
        return dict(options)


def geometry(**a: Any) -> tomography.FanBeamGeometry:
    return tomography.FanBeamGeometry(detector_count=9, image_size=4, **a)


SCAN: Arguments = {
    "source_origin": 20.0,
    "source_detector": 40.0,
    "detector_pixel": 2.0,
    "pixel_size": 1.0,
}
TURN = np.linspace(0.0, 2 * np.pi, 12, endpoint=False)


@recipe(
    "tomography.fan_beam_fbp",
    lambda sinogram, filter, **a: tomography.fan_beam_fbp(sinogram, geometry(**a), filter=filter),
    known_as=("geometry", "detector_count", "image_size"),
    warns=(tomography.CoverageWarning,),
)
def _(rng: Rng) -> Arguments:
    return {**SCAN, "angles": TURN, "sinogram": tensor(rng, 1, 1, 12, 9), "filter": "ramp"}


@recipe(
    "tomography.fan_beam_matrix",
    lambda **a: tomography.fan_beam_matrix(geometry(**a), np.float64),
    known_as=("geometry", "detector_count", "image_size"),
    warns=(tomography.CoverageWarning,),
)
def _(rng: Rng) -> Arguments:
    return {**SCAN, "angles": TURN}


@recipe(
    "tomography.scan_weights",
    lambda **a: tomography.scan_weights(geometry(**a)),
    known_as=("geometry", "detector_count", "image_size"),
    warns=(tomography.CoverageWarning,),
)
def _(rng: Rng) -> Arguments:
    return {**SCAN, "angles": TURN}


@recipe(
    "tomography.FanBeamFBP",
    lambda sinogram: tomography.FanBeamFBP(geometry(**SCAN, angles=TURN), dtype=torch.float64)(
        sinogram
    ),
    known_as=("x",),
)
def _(rng: Rng) -> Arguments:
    return {"sinogram": tensor(rng, 1, 1, 12, 9)}


@recipe(
    "tomography.FanBeamProjector",
    lambda x: tomography.FanBeamProjector(geometry(**SCAN, angles=TURN), dtype=torch.float64)(x),
)
def _(rng: Rng) -> Arguments:
    return {"x": tensor(rng, 1, 1, 4, 4)}


# data and training


@recipe("data.shift_detector", data.shift_detector)
def _(rng: Rng) -> Arguments:
    return {"rows": rng.standard_normal((3, 8)), "shift": 0.5}


@recipe("data.transmission", data.transmission)
def _(rng: Rng) -> Arguments:
    return {
        "counts": rng.uniform(1.0, 9.0, (3, 4)),
        "dark": np.full(4, 1.0),
        "flat": np.full(4, 9.0),
    }


@recipe(
    "data.split",
    lambda fractions, seed, groups: [
        part.index
        for part in data.split(
            data.IndexedDataset(torch.zeros(6, 2)), fractions, seed, groups=groups
        )
    ],
    known_as=("dataset",),
)
def _(rng: Rng) -> Arguments:
    return {"fractions": np.array([0.5, 0.5]), "seed": 0, "groups": np.array([0, 0, 1, 1, 2, 2.0])}


@recipe(
    "data.IndexedDataset",
    lambda first, second, index: data.IndexedDataset(first, second, index=index)[torch.arange(2)],
    known_as=("tensors", "positions"),
    keep=("first", "second"),
)
def _(rng: Rng) -> Arguments:
    return {"first": tensor(rng, 4, 2), "second": tensor(rng, 4, 3), "index": torch.arange(4)}


@recipe(
    "data.batches",
    lambda **a: list(islice(data.batches(data.IndexedDataset(torch.zeros(6, 2)), **a), 3)),
    known_as=("dataset",),
)
def _(rng: Rng) -> Arguments:
    return {"batch_size": 2, "seed": 0, "first": 0, "steps": 2}


@recipe(
    "data.Batches",
    lambda **a: data.Batches(data.IndexedDataset(torch.zeros(6, 2)), **a).batch(1),
    known_as=("dataset",),
)
def _(rng: Rng) -> Arguments:
    return {"batch_size": 2, "seed": 0}


@recipe(
    "data.unpaired",
    lambda **a: [d.index for d in data.unpaired(data.IndexedDataset(torch.zeros(6, 2)), **a)],
    known_as=("dataset",),
)
def _(rng: Rng) -> Arguments:
    return {"mode": "shuffled", "seed": 0}


@recipe(
    "data.imbalanced",
    lambda labels, seed: (
        data.imbalanced(
            data.IndexedDataset(torch.zeros(6, 2)), labels, {0: 1.0, 1: 0.5}, seed
        ).index
    ),
    known_as=("dataset", "weights"),
)
def _(rng: Rng) -> Arguments:
    return {"labels": torch.tensor([0, 1, 0, 1, 0, 1]), "seed": 0}


@recipe("training.rate_factor", training.rate_factor, known_as=("final_rate",))
def _(rng: Rng) -> Arguments:
    return {"step": 3, "steps": 10, "schedule": "cosine", "warmup": 2, "final": 0.1}


@recipe("training.ema_decay", training.ema_decay)
def _(rng: Rng) -> Arguments:
    return {"step": 3, "decay": 0.9}


@recipe(
    "audit",
    lambda **a: [[part.upper for part in dro_core.audit(best=False, **a).structures.values()]],
    overflows=True,
)
def _(rng: Rng) -> Arguments:
    made = core(rng)
    return {**made, "radius": 0.5}


# --- what has none ------------------------------------------------------------------------------

RESULT = "a result: made by the library, read by the user"
FILES = "reads files: tests/test_torch_data.py spoils them"
MODEL = "takes a network, no array or number of the user's"
ERROR = "an error or a warning"
EXEMPT = {
    **dict.fromkeys(
        [
            "Audit",
            "BestLinear",
            "RadiusSource",
            "StructureAudit",
            "Certificate",
            "ConditionalDistance",
            "CrossValidatedRadius",
            "DistanceCertificate",
            "DualSolution",
            "EntropicCertificate",
            "EntropicWorstCase",
            "FiniteCertificate",
            "FitCertificate",
            "FiniteWorstCase",
            "GaussianDistance",
            "GrowthBound",
            "SmoothedBound",
            "IndependentWorstCase",
            "LinearFit",
            "MatchingPrice",
            "RelaxedCurve",
            "SampleWeightedWorstCase",
            "ShapedNoise",
            "TwoBudgetCertificate",
            "TwoBudgetFit",
            "TwoBudgetWorstCase",
            "WassersteinMMSE",
            "TwistCertificate",
            "TwistReport",
            "UnbalancedCertificate",
            "UnbalancedGaussian",
            "UnbalancedTransport",
            "WorstCase",
            "WorstCaseCurve",
            "BisectedMultiplier",
            "LipschitzBound",
            "LipschitzLower",
            "metrics.Interval",
            "training.TrainingResult",
            "training.StepContext",
            "data.LabelledImages",
            "data.CTSlices",
            "data.FanBeamScan",
        ],
        RESULT,
    ),
    **dict.fromkeys(
        [
            "InfeasibleRadiusError",
            "NotConvergedError",
            "NotOptimalWarning",
            "SwappedWarning",
            "EstimatorWarning",
            "UnsupportedLayerError",
            "data.DataFileError",
            "physics.AdjointError",
            "training.TrainingDivergedError",
            "training.CheckpointError",
            "tomography.CoverageWarning",
        ],
        ERROR,
    ),
    **dict.fromkeys(
        [
            "data.data_root",
            "data.mnist",
            "data.cifar10",
            "data.caltech101",
            "data.ct_slices",
            "data.htc2022",
            "data.load_2detect",
            "data.reference_2detect",
            "data.slices_2detect",
            "data.read_idx",
            "training.load_checkpoint",
            "physics.pretrained_forward",
            "metrics.EfficientNetLite0",
        ],
        FILES,
    ),
    **dict.fromkeys(
        [
            "bisect_multiplier",
            "StochasticDescent",
            "TransportRestoration",
            "fit_transport_map",
            "lipschitz_upper",
            "register_lipschitz",
            "training.fit",
            "training.Phase",
            "training.Batches",
            "training.reconstruction_phase",
            "nets.frozen",
            "nets.Potential",
            "physics.as_forward",
            "physics.check_adjoint",
            "physics.Forward",
            "physics.LinearForward",
            "physics.Noise",
            "metrics.summary",
            "tomography.check_geometry",
        ],
        MODEL,
    ),
    "Structure": "abstract",
    **dict.fromkeys(
        ["reconstruction_residual", "forward_residual"],
        "x - model(y): an ingredient of the losses, which check x and y",
    ),
    "operators.SpectralOperator": "abstract",
    "operators.SpectralInverse": "made by an operator's `inverse`",
}
#: Covered by the recipe of another name.
ELSEWHERE = {
    "tomography.FanBeamGeometry": "tomography.scan_weights",
}
