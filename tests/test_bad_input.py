"""Bad input: every public function refuses it, and the message names the argument."""

import inspect

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import dro_core
from dro_core import noise, operators, reference, testing

X = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 1.0]])  # (N, n) = (3, 2)
Y = np.array([[1.0], [2.0], [0.5]])  # (N, m) = (3, 1)
B = np.array([[1.0], [2.0]])
LOSS = np.array([[1.0, 2.0], [0.0, 1.0]])
COST = np.array([[0.0, 1.0], [0.0, 1.0]])
MEASURES = np.array([[1.0, 0.0], [0.5, 0.5]])
NAN, INF = np.nan, np.inf
LOSSES = dro_core.SmoothedLosses(np.ones(1), np.array([0.0, 1.0]), np.array([0.5]))


def replaced(array, value):
    array = np.array(array, dtype=float)
    array.flat[0] = value
    return array


#: Arguments that every function of (B, x, y) must refuse, and the argument at fault.
MAP_AND_SAMPLES = [
    ({"B": replaced(B, NAN)}, ValueError, "B: .*NaN"),
    ({"B": B[:, 0]}, ValueError, r"B: .*B\[None, :\]"),
    ({"B": B.T}, ValueError, r"B: shape \(1, 2\), but x has 2 columns and y has 1"),
    ({"B": B.astype(complex)}, TypeError, "B: dtype complex128"),
    ({"B": np.empty((0, 1))}, ValueError, "B: a non-empty"),
    ({"x": replaced(X, INF)}, ValueError, r"x: .*first \(inf\) at index \(0, 0\)"),
    ({"x": X[:, 0]}, ValueError, r"x: samples are rows.*x\[:, None\]"),
    ({"x": X[None]}, ValueError, "x: samples are rows"),
    ({"x": X.astype(object)}, TypeError, "x: dtype object"),
    ({"x": [[1.0, 2.0], [3.0]]}, ValueError, "x: not a rectangular"),
    ({"x": X[:, :1]}, ValueError, r"B: shape .*x has 1 columns"),
    ({"x": np.empty((0, 2)), "y": np.empty((0, 1))}, ValueError, "x: empty samples"),
    ({"x": np.empty((3, 0))}, ValueError, "x: samples have no entries"),
    ({"x": np.ma.masked_equal(X, 2)}, TypeError, "x: a masked array"),
    ({"x": 1e200 * X}, ValueError, r"x: the largest magnitude is 3e\+200"),
    ({"B": 1e200 * B}, ValueError, r"B: the largest magnitude is 2e\+200"),
    ({"B": lambda y: y}, TypeError, "B: a function is not a linear map"),
    ({"y": replaced(Y, NAN)}, ValueError, "y: .*NaN"),
    ({"y": Y[:, 0]}, ValueError, r"y: samples are rows.*y\[:, None\]"),
    ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
    ({"y": np.array([["1"], ["2"], ["3"]])}, TypeError, "y: dtype <U1"),
]
#: What a LinearOperator needs besides, and functions that cannot work with one.
OPERATOR = [
    ({"B": aslinearoperator(B), "norm_bound": -1.0}, ValueError, "norm_bound: -1.0 is negative"),
    ({"B": aslinearoperator(B), "norm_bound": NAN}, ValueError, "norm_bound: nan is not finite"),
    (
        {"B": aslinearoperator(B), "norm_bound": 1.0},
        ValueError,
        "norm_bound: 1 is below a",
    ),
    ({"norm_bound": 9.0}, ValueError, "norm_bound: only a LinearOperator needs one, but B is a"),
    ({"B": aslinearoperator(B.astype(complex))}, TypeError, "B: a LinearOperator of dtype complex"),
    ({"B": LinearOperator((2, 1), matvec=lambda v: B @ v)}, ValueError, "B: .* has no adjoint"),
    ({"B": sparse.csr_array(B * NAN)}, ValueError, "B: entries are NaN or infinite"),
    ({"B": sparse.csr_array(B * 1j)}, TypeError, "B: dtype complex128 is not real"),
    ({"B": sparse.csr_array(1e200 * B)}, ValueError, r"B: the largest magnitude is 2e\+200"),
]
NO_OPERATOR = [({"B": aslinearoperator(B)}, (TypeError, ValueError), "B: .*(products|dense)")]
WEIGHTS = [
    ({"weights": [0.5, 0.6, -0.1]}, ValueError, "weights: entry 2 is -0.1"),
    ({"weights": [0.5, 0.5]}, ValueError, r"weights: shape \(2,\), but there are 3"),
    ({"weights": [[0.5], [0.25], [0.25]]}, ValueError, r"weights: shape \(3, 1\)"),
    ({"weights": [0.5, 0.5, 0.5]}, ValueError, "weights: they sum to 1.5"),
    ({"weights": [0.5, 0.25, 0.25 + 1e-6]}, ValueError, "weights: they sum to 1.000001"),
    ({"weights": [0.5, 0.5, NAN]}, ValueError, "weights: .*NaN"),
]
STRUCTURE = [
    ({"structure": "y|z"}, ValueError, "structure: unknown value 'y|z'.*did you mean"),
    ({"structure": None}, TypeError, "structure: None is neither"),
    ({"structure": dro_core.Joint}, TypeError, "structure: .* neither a name nor a Structure"),
    ({"structure": "x"}, ValueError, r"structure: 'x' needs the forward map.*XShift"),
    ({"structure": dro_core.XShift(np.eye(2))}, ValueError, r"forward: shape \(2, 2\), but x has"),
]
SAMPLE_WEIGHTS = [
    ({"weight_y": np.ones(3)}, ValueError, r"weight_y: shape \(3,\); needed: \(3, 1\)"),
    ({"weight_y": np.ones((3, 3))}, ValueError, r"weight_y: shape \(3, 3\); needed: \(3, 1\)"),
    ({"weight_y": [[1.0], [-1.0], [1.0]]}, ValueError, r"weight_y: -1.0 at index \(1, 0\)"),
    ({"weight_y": [[1.0], [0.0], [1.0]]}, ValueError, r"weight_y: 0.0 at index \(1, 0\)"),
    ({"weight_y": [[1.0], [NAN], [1.0]]}, ValueError, "weight_y: 1 entries are NaN"),
    ({"weight_y": np.full((3, 1), INF)}, ValueError, "weight_y: all infinite"),
    ({"weight_y": [[1.0], [1e-200], [1.0]]}, ValueError, "weight_y: weights from 1e-200"),
    ({"weight_y": lambda x, y: x}, ValueError, r"weight_y: its values: shape \(3, 2\)"),
    ({"weight_y": lambda x, y: -y}, ValueError, "weight_y: its values: -1.0 at index"),
    ({"weight_y": lambda x, y: None}, TypeError, "weight_y: its values: dtype object"),
]
RADIUS = [
    ({"radius": -1.0}, ValueError, "radius: -1.0 is negative"),
    ({"radius": NAN}, ValueError, "radius: nan is not finite"),
    ({"radius": INF}, ValueError, "radius: inf is not finite"),
    ({"radius": [1.0, 2.0]}, ValueError, "radius: one number is needed"),
    ({"radius": "1"}, TypeError, "radius: '1' is not a real number"),
    ({"radius": 1j}, TypeError, "radius: 1j is not a real number"),
    ({"radius": np.ma.masked}, TypeError, "radius: masked is not a real number"),
    ({"radius": [[1.0], [1.0, 2.0]]}, TypeError, "radius: .* is not a real number"),
]
TABLES = [
    ({"loss": replaced(LOSS, NAN)}, ValueError, "loss: .*nan|loss: .*NaN"),
    ({"loss": LOSS[0]}, ValueError, "loss.*2-D|loss.*needed"),
    ({"loss": LOSS.astype(complex)}, TypeError, "loss: dtype complex128"),
    ({"cost": -COST}, ValueError, "cost: .*-1.0"),
    ({"cost": replaced(COST, NAN)}, ValueError, "cost: .*nan|cost: .*NaN"),
    ({"cost": COST[:, :1]}, ValueError, r"cost.*\(2, 2\).*\(2, 1\)|shapes differ"),
    ({"admissible": np.ones((2, 2))}, (TypeError, ValueError), "admissible: .*boolean"),
]
SMALL_WEIGHTS = [
    ({"weights": [0.5, 0.6]}, ValueError, "weights: they sum to 1.1"),
    ({"weights": [0.5, 0.25, 0.25]}, ValueError, r"weights: shape \(3,\)"),
]

core = {"B": B, "x": X, "y": Y}
ball = {**core, "radius": 1.0}
tables = {"loss": LOSS, "cost": COST, "radius": 0.5}
candidates = {**core, "y_candidates": Y}
clouds = {"points0": X, "points1": X}
pairs = {"x0": X, "y0": Y, "x1": X, "y1": Y}
moves = {"x": X, "y": Y, "x_candidates": X, "y_candidates": Y}
feasible = {
    "x": X,
    "y": Y,
    "displacement_x": 0 * X,
    "displacement_y": 0 * Y,
    "radius": 1.0,
    "structure": "joint",
}

#: What covariances of a kernel and weights of a transport cost must not be.
COVARIANCES = [
    (-1.0, "covariance: -1.0 is negative"),
    (np.ones(3), r"covariance: shape \(3,\)"),
    ([[NAN]], "covariance: .*NaN"),
    ([[-1.0]], "covariance: the smallest eigenvalue is -1"),
]
WEIGHT_X = [
    ({"weight_x": 0.0}, ValueError, "weight_x: 0.0 is not a weight"),
    ({"weight_x": [1.0, -INF]}, ValueError, "weight_x: -inf is not a weight"),
    ({"weight_x": []}, ValueError, r"weight_x: shape \(0,\)"),
    ({"weight_x": np.ones((2, 3))}, ValueError, r"weight_x: shape \(2, 3\); a weight matrix"),
    ({"weight_x": [[1.0, 0.5], [0.0, 1.0]]}, ValueError, "weight_x: the matrix is not symmetric"),
    ({"weight_x": [[1.0, 2.0], [2.0, 1.0]]}, ValueError, "weight_x: the smallest eigenvalue is -1"),
    ({"weight_x": "heavy"}, TypeError, "weight_x: dtype"),
    ({"weight_x": 1e-310}, ValueError, "weight_x: weights from 1e-310 .* allowed: 1e-100"),
]

PAIRS = [
    ({"x0": replaced(X, NAN)}, ValueError, "x0: .*NaN"),
    ({"y1": replaced(Y, INF)}, ValueError, r"y1: .*inf"),
    ({"x0": X[:, 0]}, ValueError, r"x0: samples are rows.*x0\[:, None\]"),
    ({"y0": Y.astype(complex)}, TypeError, "y0: dtype complex128"),
    ({"y0": Y[:2]}, ValueError, "y0: 2 rows, but x0 has 3"),
    ({"y1": Y[:2]}, ValueError, "y1: 2 rows, but x1 has 3"),
    ({"x1": X[:, :1]}, ValueError, "x1: 1 columns, but x0 has 2"),
    ({"y1": np.hstack([Y, Y])}, ValueError, "y1: 2 columns, but y0 has 1"),
    ({"x0": np.empty((0, 2)), "y0": np.empty((0, 1))}, ValueError, "x0: empty samples"),
    ({"y0": 1e200 * Y}, ValueError, r"y0: the largest magnitude"),
    ({"weights0": [0.5, 0.5]}, ValueError, r"weights0: shape \(2,\), but there are 3"),
    ({"weights1": [0.5, 0.6, -0.1]}, ValueError, "weights1: entry 2 is -0.1"),
    ({"weights1": [0.5, 0.5, 0.5]}, ValueError, "weights1: they sum to 1.5"),
    ({"p": 0.5}, ValueError, "p: 0.5 is below 1"),
    ({"p": NAN}, ValueError, "p: nan is not finite"),
    ({"p": INF}, ValueError, "p: inf is not finite"),
    ({"p": "2"}, TypeError, "p: '2' is not a real number"),
    ({"p": 400.0, "y0": 10 * Y}, ValueError, "p: 400.0 with y0, y1 as large as .* rescale"),
]
MEANS, COVARIANCE = np.zeros((2, 2)), np.stack([np.eye(2)] * 2)
gaussian_pairs = {
    "means0": MEANS,
    "covariances0": COVARIANCE,
    "means1": MEANS,
    "covariances1": COVARIANCE,
}
LP_PAIRS = [
    ({"x0": replaced(X, NAN)}, ValueError, "x0: .*NaN"),
    ({"y0": Y[:2]}, ValueError, "x0, y0: 3 and 2 rows"),
    ({"x1": X[:, :1]}, ValueError, "x0, x1: 2 and 1 columns"),
    ({"weights0": [0.5, 0.5]}, ValueError, r"weights0: shape \(2,\)"),
    ({"weights1": [0.5, 0.5, 0.5]}, ValueError, "weights1: they sum to 1.5"),
]

PRICE, MASS = np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([1.0, 2.0])
transport = {"cost": PRICE, "a": MASS, "b": MASS}
MASSES = [
    ({"a": replaced(MASS, NAN)}, ValueError, "a: .*NaN"),
    ({"a": MASS[:, None]}, ValueError, "a: a non-empty 1-D"),
    ({"a": []}, ValueError, "a: a non-empty 1-D"),
    ({"a": [1.0, 0.0]}, ValueError, "a: entry 1 is 0.0; masses must be positive"),
    ({"b": [-1.0, 1.0]}, ValueError, "b: entry 0 is -1.0; masses"),
    ({"b": MASS.astype(complex)}, TypeError, "b: dtype complex128"),
    ({"divergence": "kullback"}, ValueError, "divergence: unknown value 'kullback'"),
    ({"divergence": "balance"}, ValueError, "did you mean 'balanced'"),
    ({"divergence": ("kl",)}, TypeError, "divergence: .*or a pair"),
    ({"divergence": "balanced", "b": 2 * MASS}, ValueError, "b: total mass 6.0, but a has 3.0"),
    ({"weight": 0.0}, ValueError, "weight: 0.0; allowed: a number > 0"),
    ({"weight": NAN}, ValueError, "weight: nan is not finite"),
    ({"weight": 5e-324}, ValueError, "weight: 5e-324; allowed: a number > 0, from 1e-140"),
]


def _nan_map(x):
    return x * NAN


#: function -> (good arguments, rows of (changes, error, message)).
ROWS = {
    dro_core.worst_case_risk: (ball, MAP_AND_SAMPLES + OPERATOR + WEIGHTS + STRUCTURE + RADIUS),
    dro_core.audit: (
        ball,
        [
            ({"B": B.T}, ValueError, r"B: .*takes 2 numbers.*the transpose would fit \(is this"),
            ({"B": np.ones((2, 4))}, ValueError, r"B: .*it takes 4 numbers.*y has 1$"),
            ({"B": np.ones((3, 1))}, ValueError, r"B: .*it gives 3 numbers.*x has 2$"),
            ({"B": B[:, 0]}, ValueError, r"B: shape \(2,\); a map from y to x"),
            ({"B": replaced(B, NAN)}, ValueError, "B: .*NaN"),
            ({"B": "blur"}, TypeError, "B: dtype <U4"),
            ({"B": lambda y: y[:2]}, ValueError, r"B: for y of shape \(3, 1\) .*\(3, 2\)"),
            ({"B": lambda y: None}, TypeError, "B: its output: dtype object"),
            ({"B": lambda y: abs(y @ B.T), "linear": True}, ValueError, "B: not linear, although"),
            ({"x": replaced(X, NAN)}, ValueError, "x: 1 entries are NaN"),
            ({"x": X + 1j * INF}, ValueError, "x: sample 0 has NaN or infinite entries"),
            ({"x": X[:, 0]}, ValueError, r"x: samples lie along.*x\[:, None\]"),
            ({"x": np.empty((0, 2))}, ValueError, "x: empty"),
            ({"y": Y[:2]}, ValueError, "y: 2 samples, but x has 3"),
            ({"y": np.array([["1"], ["2"], ["3"]])}, TypeError, "y: dtype <U1"),
            *WEIGHTS,
            ({"radius": -1.0}, ValueError, "radius: -1.0 is negative"),
            ({"radius": None}, ValueError, "radius: none given; needed: exactly one of"),
            ({"noise": 0.1}, ValueError, "radius: radius and noise given; needed: exactly one"),
            ({"radius": None, "noise": -1.0}, ValueError, "noise: -1.0 is negative"),
            ({"radius": None, "photons": 0.0}, ValueError, "photons: 0.0 is not positive"),
            ({"radius": None, "operator_change": B}, TypeError, "operator_change: a pair"),
            ({"radius": None, "operator_change": (B, B)}, ValueError, "forward: shape"),
            ({"radius": None, "shifted": X}, TypeError, r"shifted: a pair \(x, y\)"),
            ({"radius": None, "shifted": (X, Y[:2])}, ValueError, "shifted: 3 samples of x, but 2"),
            ({"radius": None, "shifted": (Y, Y)}, ValueError, "shifted x: 1 numbers per sample"),
            ({"radius": None, "shifted": (X, NAN * Y)}, ValueError, "shifted y: 3 entries are NaN"),
            ({"structures": "z"}, ValueError, "structures: unknown value 'z'"),
            ({"structures": []}, ValueError, "structures: empty"),
            ({"structures": ["y|x", "y|x"]}, ValueError, "structures: 'y|x' is there twice"),
            ({"structures": "x"}, ValueError, "structures: 'x' needs the argument forward"),
            ({"structures": "y"}, ValueError, "structures: 'y' needs the argument posterior"),
            ({"seed": -1}, ValueError, "seed: -1 is negative"),
        ],
    ),
    dro_core.LinearReconstruction: (
        core,
        [
            *MAP_AND_SAMPLES,
            *WEIGHTS,
            ({"rtol": -1e-3}, ValueError, "rtol: -0.001 is negative"),
            ({"max_steps": 0}, ValueError, "max_steps: 0 is below 1"),
            ({"random_starts": 1.5}, TypeError, "random_starts: 1.5 is not an integer"),
            ({"seed": -1}, ValueError, "seed: -1; allowed"),
            ({"seed": 0.5}, ValueError, "seed: 0.5; allowed"),
            ({"failure_probability": 0.0}, ValueError, "failure_probability: 0.0; allowed"),
            (
                {"failure_probability": 1.0},
                ValueError,
                "failure_probability: 1.0; allowed",
            ),
        ],
    ),
    dro_core.ResidualSpectrum.from_matrix: (
        core,
        MAP_AND_SAMPLES + NO_OPERATOR + WEIGHTS + STRUCTURE,
    ),
    dro_core.ResidualSpectrum.from_linear_operator: (
        {**core, "B": aslinearoperator(B), "steps": 3},
        [
            *MAP_AND_SAMPLES,
            *OPERATOR[:3],
            *WEIGHTS,
            *STRUCTURE,
            ({"steps": 0}, ValueError, "steps: 0 is below 1"),
            ({"random_starts": 0}, ValueError, "random_starts: 0 is below 1"),
            ({"structure": "x|y"}, ValueError, "structure: .* nothing to bidiagonalise"),
        ],
    ),
    dro_core.entropic_worst_case: (
        {**ball, "epsilon": 0.1},
        [
            *MAP_AND_SAMPLES,
            *NO_OPERATOR,
            *WEIGHTS,
            *STRUCTURE[:4],
            *RADIUS,
            ({"epsilon": 0.0}, ValueError, "epsilon: 0.0 is not positive"),
            ({"epsilon": -1.0}, ValueError, "epsilon: -1.0 is not positive"),
            ({"epsilon": NAN}, ValueError, "epsilon: nan is not finite"),
            ({"epsilon": 1e300}, ValueError, "epsilon: the largest magnitude"),
            ({"cost": "half"}, ValueError, "cost: unknown value 'half'"),
            ({"structure": dro_core.XShift(B.T)}, ValueError, "structure: XShift.*available for"),
        ],
    ),
    dro_core.adjusted_radius: (
        {"radius": 1.0, "epsilon": 0.1, "dimension": 3},
        [
            *RADIUS,
            ({"epsilon": 0.0}, ValueError, "epsilon: 0.0 is not positive"),
            ({"dimension": 0}, ValueError, "dimension: 0 is below 1"),
            ({"dimension": 2.0}, TypeError, "dimension: 2.0 is not an integer"),
            ({"cost": "squares"}, ValueError, "cost: unknown value 'squares'.*'squared'"),
            ({"radius": 0.1}, dro_core.InfeasibleRadiusError, "radius: 0.1 .* smallest feasible"),
        ],
    ),
    dro_core.unadjusted_radius: (
        {"adjusted": 1.0, "epsilon": 0.1, "dimension": 3},
        [
            ({"adjusted": -1.0}, ValueError, "adjusted: -1.0 is negative"),
            ({"epsilon": INF}, ValueError, "epsilon: inf is not finite"),
            ({"dimension": -1}, ValueError, "dimension: -1 is below 1"),
            ({"epsilon": 3.0}, ValueError, "adjusted: 1.0 is below"),
        ],
    ),
    dro_core.radius_of_noise: (
        {"covariance": 0.1, "size": 3},
        [
            ({"covariance": -0.1}, ValueError, "covariance: -0.1 is negative"),
            ({"covariance": [0.1, NAN], "size": None}, ValueError, "covariance: .*NaN"),
            ({"covariance": np.ones((2, 3))}, ValueError, r"covariance: shape \(2, 3\)"),
            ({"size": None}, ValueError, "size: one variance is given"),
            ({"size": 0}, ValueError, "size: 0 is below 1"),
            ({"covariance": [[1, 5], [-3, 1]], "size": None}, ValueError, "covariance: .*not symm"),
            (
                {"covariance": [[1, 5], [5, 1]], "size": None},
                ValueError,
                "covariance: the smallest",
            ),
            ({"covariance": 1e308}, ValueError, "covariance: the largest magnitude"),
            ({"covariance": [0.1, 0.2]}, ValueError, "size: 3, but covariance has shape"),
        ],
    ),
    dro_core.radius_of_poisson_noise: (
        {"clean": Y, "photons": 10.0},
        [
            ({"clean": -Y}, ValueError, "clean: -2.0 is negative"),
            ({"clean": Y[:, 0]}, ValueError, "clean: samples are rows"),
            ({"photons": 0.0}, ValueError, "photons: 0.0 is not positive"),
            ({"photons": NAN}, ValueError, "photons: nan is not finite"),
            ({"weights": [1.0]}, ValueError, "weights: shape"),
        ],
    ),
    dro_core.radius_of_operator_change: (
        {"forward": B.T, "changed": 2 * B.T, "x": X},
        [
            ({"forward": B}, ValueError, r"forward: shape \(2, 1\), but x has 2 columns"),
            ({"changed": np.ones((2, 2))}, ValueError, r"changed: shape \(2, 2\), but forward has"),
            ({"changed": replaced(B.T, NAN)}, ValueError, "changed: .*NaN"),
            ({"x": X[:, 0]}, ValueError, "x: samples are rows"),
            ({"weights": [0.5, 0.5, 0.5]}, ValueError, "weights: they sum"),
        ],
    ),
    dro_core.radius_for_gap: (
        {"gap": 0.1, "fidelity": 1.0, "lipschitz": 1.0},
        [
            ({"gap": -0.1}, ValueError, "gap: -0.1 is negative"),
            ({"gap": 0.3}, ValueError, "gap: 0.3 is not reached"),
            ({"fidelity": 0.0}, ValueError, "fidelity: 0.0, where"),
            ({"fidelity": NAN}, ValueError, "fidelity: NaN"),
            ({"lipschitz": -1.0}, ValueError, "lipschitz: -1.0"),
            ({"lipschitz": 1e300}, ValueError, "lipschitz: the largest magnitude is 1e"),
            ({"form": "squares"}, ValueError, "form: unknown value 'squares'"),
            (
                {"gap": [0.1, 0.2], "fidelity": [1, 2, 3]},
                ValueError,
                "gap, fidelity, lipschitz:",
            ),
        ],
    ),
    dro_core.radius_from_rms: (
        {"rms": 0.1, "size": 4},
        [
            ({"rms": -0.1}, ValueError, "rms: -0.1 is negative"),
            ({"size": 0}, ValueError, "size: 0 is below 1"),
        ],
    ),
    dro_core.rms_from_radius: (
        {"radius": 0.1, "size": 4},
        [
            *RADIUS,
            ({"size": 2.5}, TypeError, "size: 2.5 is not an integer"),
            ({"size": 10**400}, ValueError, "size: an integer of 1329 bits"),
        ],
    ),
    dro_core.cross_validated_radius: (
        {"x": X, "y": Y, "radii": [0.0, 99.0], "fit": B, "criterion": "coverage", "folds": 3},
        [
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
            ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
            ({"radii": []}, ValueError, "radii: a non-empty"),
            ({"radii": [-1.0]}, ValueError, "radii: -1.0 is negative"),
            ({"radii": [[0.0, 99.0]]}, ValueError, "radii: a non-empty 1-D"),
            ({"radii": [0.0]}, ValueError, "radii: none covers"),
            ({"seed": -1}, ValueError, "seed: -1 is negative"),
            ({"seed": "1"}, TypeError, "seed: '1' is not an integer"),
            ({"criterion": X}, ValueError, "criterion: unknown value array"),
            ({"folds": 1}, ValueError, "folds: 1; allowed: 2 to the number of samples, 3"),
            ({"folds": 4}, ValueError, "folds: 4; allowed"),
            ({"criterion": "cover"}, ValueError, "criterion: unknown value 'cover'"),
            ({"criterion": "risk"}, ValueError, "fit: a fixed map has the same held-out risk"),
            ({"fit": "ridge"}, TypeError, "fit: dtype"),
            ({"structure": "y|z"}, ValueError, "structure: unknown value"),
        ],
    ),
    dro_core.worst_case_curve: (
        {**core, "radii": [0.5, 1.0]},
        [
            *MAP_AND_SAMPLES,
            *OPERATOR,
            *WEIGHTS,
            *STRUCTURE,
            ({"radii": []}, ValueError, "radii: a non-empty"),
            ({"radii": 1.0}, ValueError, "radii: a non-empty 1-D"),
            ({"radii": [1.0, -1.0]}, ValueError, "radii: -1.0 is negative"),
            ({"radii": [NAN]}, ValueError, "radii: .*NaN"),
        ],
    ),
    dro_core.dual_value: (
        {**ball, "multiplier": 6.0},
        [
            *MAP_AND_SAMPLES,
            *OPERATOR[:4],
            ({"B": aslinearoperator(B)}, ValueError, "norm_bound: a value of the dual function"),
            *WEIGHTS,
            *STRUCTURE,
            *RADIUS,
            ({"multiplier": 4.9}, ValueError, "multiplier: 4.9 is at or below its threshold"),
            (
                {"multiplier": 1.0, "structure": "x|y"},
                ValueError,
                r"multiplier: 1.0 .* sigma_max\^2 = 1.0",
            ),
            ({"multiplier": 0.0, "B": 0 * B}, ValueError, "multiplier: 0.0 is at or below"),
            ({"multiplier": NAN}, ValueError, "multiplier: nan is not finite"),
            ({"epsilon": -0.1}, ValueError, "epsilon: -0.1 is negative"),
            (
                {"epsilon": 0.1, "structure": dro_core.XShift(B.T, "x"), "multiplier": 40.0},
                ValueError,
                "epsilon: the entropic dual is not available",
            ),
        ],
    ),
    dro_core.ResidualSpectrum: (
        {"squared_singular_values": [1.0], "mass": [1.0], "multiplicity": [1.0]},
        [
            ({"squared_singular_values": [-1.0]}, ValueError, "squared_singular_values: -1.0"),
            ({"mass": [NAN]}, ValueError, "mass: .*NaN"),
            (
                {"squared_singular_values": [[1.0], [1.0, 2.0]]},
                ValueError,
                "squared_singular_values: not a rectangular",
            ),
            ({"mass": [1.0, 2.0]}, ValueError, "mass: shape"),
            ({"multiplicity": [[1.0]]}, ValueError, "multiplicity: shape"),
        ],
    ),
    dro_core.ResidualSpectrum.from_lipschitz: (
        {"modulus": 1.0, "fidelity": 1.0},
        [
            ({"modulus": -1.0}, ValueError, "modulus: -1.0 is negative"),
            ({"fidelity": NAN}, ValueError, "fidelity: nan"),
            ({"modulus": 1e200}, ValueError, "modulus: the largest magnitude"),
            ({"multiplicity": 0}, ValueError, "multiplicity: 0 is below 1"),
            ({"multiplicity": 1.5}, TypeError, "multiplicity: 1.5 is not an integer"),
        ],
    ),
    dro_core.minimize_quadratic_dual: (
        {"spectrum": dro_core.ResidualSpectrum.from_lipschitz(1.0, 1.0), "radius": 1.0},
        [
            *RADIUS,
            ({"epsilon": -1.0}, ValueError, "epsilon: -1.0 is negative"),
            ({"epsilon": 1e300}, ValueError, "epsilon: the largest magnitude"),
            ({"spectrum": [1.0]}, TypeError, "spectrum: a ResidualSpectrum is needed"),
            (
                {
                    "spectrum": dro_core.ResidualSpectrum.from_lipschitz(1e100, 1.0),
                    "radius": 1e100,
                },
                OverflowError,
                "radius: at",
            ),
        ],
    ),
    dro_core.GrowthProfiles: (
        {"starts": [[0.0, 1.0]], "values": [[1.0, 2.0]], "slopes": [[1.0, 0.0]]},
        [
            ({"starts": [0.0]}, ValueError, r"starts: shape \(1,\)"),
            ({"starts": [[0.5, 1.0]]}, ValueError, "starts: every row must begin at 0"),
            ({"starts": [[0.0, -1.0]]}, ValueError, "starts: -1.0 is negative"),
            ({"values": [[-1.0, 2.0]]}, ValueError, "values: -1.0 is negative"),
            ({"values": [[NAN, 2.0]]}, ValueError, "values: .*NaN"),
            ({"values": [[1.0]]}, ValueError, "values: shape"),
            ({"values": [[1e200, 1.0]]}, ValueError, "values: the largest magnitude"),
            ({"slopes": [[1.0, INF]]}, ValueError, "slopes: .*infinite"),
        ],
    ),
    dro_core.growth_bound: (
        {"profiles": dro_core.GrowthProfiles.linear([1.0] * 3, 2.0), "radius": 1.0},
        [
            *RADIUS,
            *WEIGHTS,
            ({"profiles": [1.0]}, TypeError, "profiles: GrowthProfiles are needed"),
            (
                {"profiles": dro_core.GrowthProfiles.linear([1.0] * 3, 2.0).within(2.0)},
                ValueError,
                "profiles: infinite from distance 2 on",
            ),
        ],
    ),
    dro_core.growth_dual: (
        {
            "profiles": dro_core.GrowthProfiles.linear([1.0] * 3, 2.0),
            "multiplier": 5.0,
            "radius": 1.0,
        },
        [
            *RADIUS,
            *WEIGHTS,
            ({"profiles": [1.0]}, TypeError, "profiles: GrowthProfiles are needed"),
            ({"multiplier": 3.9}, ValueError, "multiplier: 3.9 is at or below 4"),
            ({"multiplier": NAN}, ValueError, "multiplier: nan"),
        ],
    ),
    dro_core.hockey_stick: (
        {"order": [0.5, 2.0], "shift": 1.0},
        [
            ({"order": -1.0}, ValueError, "order: -1.0 is negative"),
            ({"shift": NAN}, ValueError, "shift: NaN"),
        ],
    ),
    dro_core.exceedance_bound: (
        {"mean": [0.1, 0.5], "draws": 10, "failure": 0.1},
        [
            ({"mean": 1.5}, ValueError, "mean: 1.5 is above 1"),
            ({"mean": -0.5}, ValueError, "mean: -0.5 is negative"),
            ({"draws": 0}, ValueError, "draws: 0 is below 1"),
            ({"failure": 0.0}, ValueError, "failure: 0.0"),
            ({"failure": 1.0}, ValueError, "failure: 1.0; allowed: a probability below 1"),
        ],
    ),
    dro_core.mean_lower_bound: (
        {"values": [0.1, 0.5], "least": 0.0, "most": 1.0, "failure": 0.1},
        [
            ({"values": [0.1]}, ValueError, r"values: shape \(1,\)"),
            ({"values": [-0.1, 0.5]}, ValueError, "values: -0.1 is below least"),
            ({"most": 0.0}, ValueError, "most: 0.0; allowed: above least"),
            ({"failure": 1.5}, ValueError, "failure: 1.5; allowed: a probability below 1"),
            ({"least": NAN}, ValueError, "least: nan"),
        ],
    ),
    dro_core.SmoothedLosses: (
        {"centres": [1.0], "levels": np.array([0.0, 1.0]), "exceedances": np.array([0.5])},
        [
            ({"centres": [NAN]}, ValueError, "centres: .*NaN"),
            ({"centres": 1.0}, ValueError, r"centres: shape \(\)"),
            ({"weights": [0.5]}, ValueError, "weights: they sum to 0.5"),
            ({"ceilings": [1.0]}, TypeError, "ceilings: GrowthProfiles are needed"),
            (
                {"ceilings": dro_core.GrowthProfiles.constant([1.0, 2.0])},
                ValueError,
                "ceilings: 2 samples, but 1 centres",
            ),
            ({"levels": [1.0, 0.0]}, ValueError, "levels: .*increasing"),
            ({"levels": [1.0]}, ValueError, "levels: given shape"),
            ({"exceedances": [1.5]}, ValueError, "exceedances: .*probabilities"),
            ({"exceedances": [0.5, 0.1]}, ValueError, r"exceedances: given shape \(2,\)"),
            ({"exceedances": [NAN]}, ValueError, "exceedances: .*NaN"),
        ],
    ),
    dro_core.smoothed_bound: (
        {"losses": LOSSES, "radius": 1.0, "sigma": 0.5},
        [
            *RADIUS,
            ({"losses": [1.0]}, TypeError, "losses: SmoothedLosses are needed"),
            ({"sigma": 0.0}, ValueError, "sigma: 0.0"),
        ],
    ),
    dro_core.explicit_bound: (
        {"fidelity": 1.0, "lipschitz": 1.0, "radius": 1.0},
        [
            ({"fidelity": -1.0}, ValueError, "fidelity: -1.0 is negative"),
            ({"lipschitz": NAN}, ValueError, "lipschitz: .*NaN"),
            ({"radius": [1.0, -2.0]}, ValueError, "radius: -2.0 is negative"),
            ({"radius": "a"}, TypeError, "radius: dtype"),
            ({"structure": "marginal"}, ValueError, "structure: unknown value 'marginal'"),
            (
                {"fidelity": [1.0, 2.0], "radius": [1.0, 2.0, 3.0]},
                ValueError,
                "fidelity, lipschitz, radius: shapes",
            ),
        ],
    ),
    dro_core.conservatism_gap: (
        {"fidelity": 1.0, "lipschitz": 1.0, "radius": 1.0},
        [
            ({"fidelity": NAN}, ValueError, "fidelity: .*NaN"),
            ({"lipschitz": -1.0}, ValueError, "lipschitz: -1.0"),
            ({"radius": -1.0}, ValueError, "radius: -1.0"),
            ({"lipschitz": 1e300, "radius": 1e10}, OverflowError, "fidelity, lipschitz, radius"),
            ({"form": "roots"}, ValueError, "form: unknown value 'roots'.*did you mean 'root'"),
        ],
    ),
    dro_core.finite_worst_case: (
        tables,
        [
            *TABLES,
            *RADIUS,
            *SMALL_WEIGHTS,
            ({"loss": None}, TypeError, "loss: dtype object"),
            ({"cost": [[1.0], [1.0, 2.0]]}, ValueError, "cost: not a rectangular"),
            ({"loss": 1e250 * LOSS}, ValueError, r"loss: entry \(0, 0\) is 1e\+250"),
            ({"cost": 1e250 * COST}, ValueError, "cost: entry .*at most 1e\\+200"),
            ({"loss": np.zeros((0, 2)), "cost": np.zeros((0, 2))}, ValueError, "loss: no rows"),
            ({"loss": np.ma.masked_equal(LOSS, 2)}, TypeError, "loss: a masked array"),
            ({"cost": 1e-210 * COST, "radius": 1e-106}, OverflowError, "loss, cost: the mult"),
            ({"radius": 1e200}, ValueError, "radius: the largest magnitude"),
            ({"cost": 1 + COST}, dro_core.InfeasibleRadiusError, "radius: 0.5 .* need 1.0"),
            ({"cost": INF + COST}, ValueError, "admissible: sample 0 has no admissible"),
            ({"loss": lambda rows: LOSS[rows, :1]}, ValueError, r"loss: rows .* shape \(2, 1\)"),
            (
                {"loss": lambda rows: LOSS[:0], "cost": lambda rows: COST[:0]},
                ValueError,
                "loss: no rows",
            ),
            (
                {"loss": lambda rows: LOSS, "weights": [0.2] * 5, "cost": lambda rows: COST},
                ValueError,
                "loss: rows 0:5",
            ),
        ],
    ),
    dro_core.finite_potential: (
        {"loss": LOSS, "cost": COST, "multiplier": 1.0},
        [
            *TABLES,
            ({"multiplier": -1.0}, ValueError, "multiplier: -1.0 is negative"),
            ({"multiplier": INF}, ValueError, "multiplier: inf is not finite"),
            ({"multiplier": 1e200, "cost": 1e150 + COST}, OverflowError, "cost, multiplier"),
        ],
    ),
    dro_core.quadratic_candidates: (
        candidates,
        [
            *MAP_AND_SAMPLES,
            *NO_OPERATOR,
            ({"y_candidates": None}, ValueError, "x_candidates, y_candidates: at least one"),
            ({"y_candidates": X}, ValueError, "y_candidates: 2 columns, but y has 1"),
            ({"y_candidates": replaced(Y, NAN)}, ValueError, "y_candidates: .*NaN"),
            ({"x_candidates": X[:2]}, ValueError, "y_candidates: 3 rows, but x_candidates has 2"),
        ],
    ),
    dro_core.admissible_candidates: (
        moves,
        [
            *STRUCTURE[:4],
            ({"x": X[:2]}, ValueError, "y: 3 rows, but x has 2"),
            ({"x_candidates": X[:2]}, ValueError, "y_candidates: 3 rows"),
            ({"y_candidates": X}, ValueError, "y_candidates: 2 columns"),
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
        ],
    ),
    dro_core.XShift: (
        {"forward": B.T},
        [
            ({"forward": replaced(B.T, NAN)}, ValueError, "forward: .*NaN"),
            ({"forward": B[:, 0]}, ValueError, "forward: a 2-D"),
            ({"cost": "y"}, ValueError, "cost: unknown value 'y'"),
            *[({"covariance": value}, ValueError, message) for value, message in COVARIANCES],
            ({"weight_x": INF}, ValueError, "weight_x: infinite; structure 'x' has no frozen"),
            ({"weight_y": [1.0, 2.0]}, ValueError, r"weight_y: shape \(2,\), but y has 1"),
            ({"weight_y": 2.0, "cost": "x"}, ValueError, "weight_y: has no effect with cost='x'"),
        ],
    ),
    dro_core.YShift: (
        {"posterior": B.T},
        [
            ({"posterior": replaced(B.T, NAN)}, ValueError, "posterior: .*NaN"),
            ({"posterior": B[:, 0]}, ValueError, "posterior: a 2-D"),
            ({"posterior": lambda y: y}, TypeError, "posterior: a function is not a linear map"),
            ({"cost": "x"}, ValueError, "cost: unknown value 'x'"),
            *[({"covariance": value}, ValueError, message) for value, message in COVARIANCES],
            ({"weight_y": -1.0}, ValueError, "weight_y: -1.0 is not a weight"),
            ({"weight_x": 2.0, "cost": "y"}, ValueError, "weight_x: has no effect with cost='y'"),
        ],
    ),
    dro_core.Joint: (
        {"weight_x": 1.0},
        [
            *WEIGHT_X,
            ({"weight_y": -1.0}, ValueError, "weight_y: -1.0 is not a weight"),
            ({"weight_y": [1.0, NAN]}, ValueError, "weight_y: .*NaN"),
            ({"norm": 0.5}, ValueError, "norm: 0.5; the order of a norm is a number >= 1"),
            ({"norm": NAN}, ValueError, "norm: NaN"),
            ({"norm": 3, "weight_y": np.eye(2)}, ValueError, "norm: 3 with a weight matrix"),
        ],
    ),
    dro_core.YGivenX: (
        {"weight_y": [1.0, INF]},
        [
            ({"weight_y": 0.0}, ValueError, "weight_y: 0.0 is not a weight"),
            ({"norm": "two"}, TypeError, "norm: dtype"),
        ],
    ),
    dro_core.XGivenY: ({"weight_x": 2.0}, WEIGHT_X),
    dro_core.sample_weighted_worst_case: (
        {"B": B, "x": X, "y": Y, "radius": 0.1, "weight_y": np.ones((3, 1))},
        [
            *SAMPLE_WEIGHTS,
            *RADIUS,
            *WEIGHTS,
            ({"weight_x": 0.0}, ValueError, "weight_x: 0.0; allowed: one number > 0"),
            ({"weight_x": [1.0]}, ValueError, "weight_x: .*; allowed: one number > 0"),
        ],
    ),
    dro_core.SampleWeightedReconstruction: (
        {"B": B, "x": X, "y": Y, "weight_y": np.ones((3, 1))},
        SAMPLE_WEIGHTS,
    ),
    dro_core.shaped_noise: (
        {"x": X, "y": Y, "radius": 0.1},
        [
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
            ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
            ({"shape": -1.0}, ValueError, "shape: -1.0 is negative"),
            ({"shape": 0.0}, ValueError, "shape: zero; allowed"),
            ({"shape": np.ones(5)}, ValueError, r"shape: shape \(5,\)"),
            ({"structure": "x|y"}, ValueError, "structure: .*allowed: 'y|x', 'joint'"),
            ({"rounds": -1}, ValueError, "rounds: -1 is negative"),
            *RADIUS,
            *WEIGHTS,
        ],
    ),
    dro_core.NoiseTraining: (
        {"x": X, "y": Y, "shape": 1.0},
        [
            ({"shape": NAN}, ValueError, "shape: NaN"),
            ({"y": Y[:, 0]}, ValueError, "y: samples are rows"),
            *WEIGHTS,
        ],
    ),
    dro_core.NoiseTraining.map: (
        {"self": dro_core.NoiseTraining(X, Y, 1.0), "level": 1.0},
        [({"level": -1.0}, ValueError, "level: -1.0 is negative")],
    ),
    dro_core.SignalNoise: (
        {"forward": B.T},
        [
            ({"forward": replaced(B.T, NAN)}, ValueError, "forward: .*NaN"),
            ({"weight_x": INF}, ValueError, "weight_x: infinite; allowed: finite.*YGivenX"),
            ({"weight_noise": INF}, ValueError, "weight_noise: infinite; allowed: finite.*XShift"),
            ({"weight_noise": -1.0}, ValueError, "weight_noise: -1.0 is not a weight"),
            ({"weight_x": np.ones(7)}, ValueError, r"weight_x: shape \(7,\)"),
        ],
    ),
    dro_core.two_budget_worst_case: (
        {"B": B, "x": X, "y": Y, "forward": B.T, "radius_x": 0.1, "radius_noise": 0.2},
        [
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
            ({"forward": np.ones((5, 2))}, ValueError, r"forward: shape \(5, 2\), but x has"),
            ({"radius_x": 0.0}, ValueError, "radius_x: 0.0; allowed: numbers > 0 .*y|x"),
            ({"radius_noise": 0.0}, ValueError, "radius_noise: 0.0; allowed: .*XShift"),
            ({"radius_noise": -1.0}, ValueError, "radius_noise: -1.0 is negative"),
            ({"radius_x": 1e9}, ValueError, "radius_x, radius_noise: .*allowed: 1e-05 to"),
            *WEIGHTS,
        ],
    ),
    dro_core.fit_two_budgets: (
        {"x": X, "y": Y, "forward": B.T, "radius_x": 0.1, "radius_noise": 0.2},
        [
            ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
            ({"forward": np.ones((5, 2))}, ValueError, r"forward: shape \(5, 2\), but a map"),
            ({"radius_x": NAN}, ValueError, "radius_x: nan"),
            *WEIGHTS,
        ],
    ),
    dro_core.independent_worst_case: (
        {
            "B": B,
            "forward": B.T,
            "moment_x": 1.0,
            "moment_noise": 0.5,
            "radius_x": 0.1,
            "radius_noise": 0.2,
        },
        [
            ({"B": B.T @ np.ones((B.shape[0], 9))}, ValueError, r"B: shape .*; needed: \("),
            ({"moment_x": -1.0}, ValueError, "moment_x: -1.0 is negative"),
            ({"moment_noise": np.ones(9)}, ValueError, r"moment_noise: shape \(9,\)"),
            ({"radius_x": -1.0}, ValueError, "radius_x: -1.0 is negative"),
        ],
    ),
    dro_core.wasserstein_mmse: (
        {
            "forward": B.T,
            "moment_x": 1.0,
            "moment_noise": 0.5,
            "radius_x": 0.1,
            "radius_noise": 0.2,
        },
        [
            ({"forward": replaced(B.T, NAN)}, ValueError, "forward: .*NaN"),
            ({"moment_x": [[1.0, 2.0], [3.0, 1.0]]}, ValueError, "moment_x: "),
            ({"radius_noise": INF}, ValueError, "radius_noise: inf"),
            ({"tolerance": -1.0}, ValueError, "tolerance: -1.0"),
            ({"max_iterations": 0}, ValueError, "max_iterations: 0 is below 1"),
            (
                {"moment_noise": 0.0, "radius_noise": 0.0, "moment_x": 0.0},
                ValueError,
                "moment_noise: .*positive definite",
            ),
        ],
    ),
    dro_core.fit_linear: (
        {"x": X, "y": Y, "radius": 0.1},
        [
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
            ({"x": X[:, 0]}, ValueError, "x: samples are rows"),
            ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
            ({"y": np.empty((3, 0))}, ValueError, "y: samples have no entries"),
            *WEIGHTS,
            *RADIUS,
            ({"tolerance": -1.0}, ValueError, "tolerance: -1.0 is negative"),
            ({"tolerance": NAN}, ValueError, "tolerance: nan"),
            ({"tolerance": "small"}, TypeError, "tolerance: 'small'"),
            ({"epsilon": -1.0}, ValueError, "epsilon: -1.0 is negative"),
            ({"structure": "y|z"}, ValueError, "structure: unknown value 'y|z'"),
            ({"structure": "x"}, ValueError, "structure: unknown value 'x'"),
            ({"structure": dro_core.YGivenX(norm=1)}, ValueError, "structure: .*norm=1.*allowed"),
            ({"structure": 3}, TypeError, "structure: 3; allowed"),
        ],
    ),
    dro_core.LinearDRO.fit: (
        {"self": dro_core.LinearDRO(), "X": Y, "y": X},
        [
            ({"X": Y[:, 0]}, ValueError, "X: Expected 2D array.*Reshape your data"),
            ({"X": replaced(Y, NAN)}, ValueError, "X: .*NaN"),
            ({"X": Y[:2]}, ValueError, "y: 3 rows, but X has 2"),
            ({"X": Y.astype(complex)}, ValueError, "X: Complex data"),
            ({"X": np.array([[1.0], [2.0], [{}]])}, TypeError, "X: .*not 'dict'"),
            ({"X": sparse.csr_array(Y)}, TypeError, r"X: sparse input.*X\.toarray\(\)"),
            ({"y": None}, ValueError, "y: LinearDRO requires y"),
            ({"y": replaced(X, INF)}, ValueError, "y: .*inf"),
            ({"sample_weight": [0.0, 0.0, 0.0]}, ValueError, "sample_weight: all zero"),
            ({"sample_weight": [1.0, -1.0, 1.0]}, ValueError, "sample_weight: -1.0 is negative"),
            ({"sample_weight": [1.0, 1.0]}, ValueError, r"sample_weight: shape \(2,\)"),
            ({"self": dro_core.LinearDRO(radius=-1.0)}, ValueError, "radius: -1.0 is negative"),
            (
                {"self": dro_core.LinearDRO(radius=[[1.0], [1, 2]])},
                ValueError,
                "radius: not a rect",
            ),
            (
                {"self": dro_core.LinearDRO(radius=[0.1, 0.2]), "sample_weight": [0.5, 0.25, 0.25]},
                ValueError,
                "sample_weight: not available with cross-validation",
            ),
        ],
    ),
    dro_core.LinearDRO.score: (
        {"self": dro_core.LinearDRO().fit(Y, X), "X": Y, "y": X},
        [
            ({"y": X[:, :1]}, ValueError, r"y: shape \(3, 1\), but predictions have"),
            ({"y": np.ones((3, 2))}, ValueError, "y: all samples are equal"),
            ({"X": Y[:, [0, 0]]}, ValueError, "X has 2 features, but LinearDRO is expecting 1"),
        ],
    ),
    dro_core.conditional_wasserstein: (
        pairs,
        [
            *PAIRS,
            (
                {"method": "exakt"},
                ValueError,
                "method: unknown value 'exakt'.*did you mean 'exact'",
            ),
            ({"method": None}, ValueError, "method: unknown value None"),
            ({"method": "relaxed"}, ValueError, "beta: method='relaxed' needs it"),
            ({"method": "sinkhorn"}, ValueError, "epsilon: method='sinkhorn' needs it"),
            ({"beta": 1.0}, ValueError, "beta: 1.0 given, but method='exact' has no use for it"),
            ({"epsilon": 1.0}, ValueError, "epsilon: 1.0 given, but method='exact' has no use"),
            ({"method": "relaxed", "beta": -1.0}, ValueError, "beta: -1.0 is negative"),
            ({"method": "relaxed", "beta": INF}, ValueError, "beta: inf is not finite"),
            (
                {"method": "relaxed", "beta": 1e200, "x0": 1e100 * X},
                ValueError,
                "p: 2.0 with x0, x1 as large as .* and beta 1e.200",
            ),
            ({"method": "sinkhorn", "epsilon": 0.0}, ValueError, "epsilon: 0.0 is not positive"),
            ({"method": "sinkhorn", "epsilon": NAN}, ValueError, "epsilon: nan is not finite"),
            ({"tolerance": -1.0}, ValueError, "tolerance: -1.0 is negative"),
            ({"tolerance": NAN}, ValueError, "tolerance: nan is not finite"),
            ({"tolerance": 2.5}, ValueError, "tolerance: at 2.5 the grouping of x is ambiguous"),
        ],
    ),
    dro_core.relaxed_curve: (
        {**pairs, "betas": [0.0, 1.0]},
        [
            *PAIRS,
            ({"betas": []}, ValueError, r"betas: a non-empty 1-D array.*\(0,\)"),
            ({"betas": 1.0}, ValueError, "betas: a non-empty 1-D array"),
            ({"betas": [1.0, -1.0]}, ValueError, "betas: -1.0 is negative"),
            ({"betas": [NAN]}, ValueError, "betas: .*NaN"),
        ],
    ),
    dro_core.gaussian_conditional_wasserstein: (
        gaussian_pairs,
        [
            ({"means0": replaced(MEANS, NAN)}, ValueError, "means0: .*NaN"),
            ({"means0": MEANS[0]}, ValueError, "means0: samples are rows"),
            ({"means1": MEANS[:1]}, ValueError, r"means1: shape \(1, 2\), but means0 has \(2, 2\)"),
            (
                {"covariances0": np.eye(2)},
                ValueError,
                r"covariances0: shape \(2, 2\); needed: \(2, 2, 2\)",
            ),
            ({"covariances1": replaced(COVARIANCE, INF)}, ValueError, "covariances1: .*inf"),
            (
                {"covariances1": -COVARIANCE},
                ValueError,
                "covariances1: the smallest eigenvalue of matrix 0 is -1",
            ),
            (
                {"covariances0": COVARIANCE + np.eye(2, k=1)},
                ValueError,
                "covariances0: matrix 0 is not symmetric",
            ),
            (
                {"covariances0": 1e200 * COVARIANCE},
                ValueError,
                "covariances0: the largest magnitude",
            ),
            ({"weights": [0.5, 0.6]}, ValueError, "weights: they sum to 1.1"),
            ({"weights": [1.0]}, ValueError, r"weights: shape \(1,\), but there are 2"),
        ],
    ),
    dro_core.matching_price: (
        {"covariance": 2 * np.eye(2), "estimate_covariance": np.eye(2)},
        [
            ({"covariance": replaced(np.eye(2), NAN)}, ValueError, "covariance: .*NaN"),
            ({"covariance": replaced(np.eye(2), INF)}, ValueError, "covariance: .*infinite"),
            ({"covariance": np.ones((2, 3))}, ValueError, r"covariance: shape \(2, 3\); needed"),
            ({"covariance": 1.0}, ValueError, r"covariance: shape \(\); needed: a square"),
            ({"covariance": []}, ValueError, "covariance: "),
            ({"covariance": [["1"]]}, TypeError, "covariance: dtype <U1"),
            (
                {"covariance": [[2.0, 1.0], [0.0, 2.0]]},
                ValueError,
                "^covariance: matrix 0 is not symmetric",
            ),
            (
                {"estimate_covariance": [[1.0, 2.0], [2.0, 1.0]]},
                ValueError,
                "estimate_covariance: the smallest eigenvalue of matrix 0 is -1",
            ),
            (
                {"estimate_covariance": [1.0, -1.0]},
                ValueError,
                "estimate_covariance: the smallest eigenvalue of matrix 0 is -1",
            ),
            ({"estimate_covariance": np.eye(3)}, ValueError, "estimate_covariance: for 3 entries"),
            (
                {"estimate_covariance": 3 * np.eye(2)},
                ValueError,
                "estimate_covariance: larger than covariance by 1 in some direction",
            ),
        ],
    ),
    reference.conditional_wasserstein_lp: (pairs, LP_PAIRS),
    dro_core.unbalanced_ot: (
        transport,
        [
            *MASSES,
            ({"cost": replaced(PRICE, NAN)}, ValueError, "cost: .*NaN"),
            ({"cost": replaced(PRICE, INF)}, ValueError, "cost: .*infinite"),
            ({"cost": PRICE[0]}, ValueError, "cost: a 2-D matrix"),
            ({"cost": PRICE[:1]}, ValueError, r"cost: shape \(1, 2\), but a has 2"),
            ({"cost": lambda rows: PRICE[:1]}, ValueError, "cost: rows 0:2 came back with 1 rows"),
            ({"cost": lambda rows: PRICE[rows, :1]}, ValueError, r"cost: rows 0:2 .*, but b has 2"),
            (
                {"cost": lambda rows: replaced(PRICE, INF)},
                ValueError,
                r"cost: entry \(0, 0\) is inf",
            ),
            ({"cost": -5000.0 + PRICE}, OverflowError, "cost, weight: the least cost is -5000"),
            ({"rtol": -1.0}, ValueError, "rtol: -1.0 is negative"),
            ({"max_steps": 0}, ValueError, "max_steps: 0 is below 1"),
        ],
    ),
    dro_core.semidual_value: (
        {"v": MASS, **transport},
        [
            *MASSES,
            ({"v": replaced(MASS, INF)}, ValueError, "v: .*infinite"),
            ({"v": [1.0]}, ValueError, "v: 1 entries, but b has 2"),
            ({"v": -1e3 * MASS}, OverflowError, "v, cost, weight: the exponential"),
            ({"cost": PRICE[:1]}, ValueError, "cost: 1 rows, but a has 2"),
            ({"cost": lambda rows: PRICE[:1]}, ValueError, "cost: rows 0:2 came back with 1 rows"),
        ],
    ),
    dro_core.c_transform: (
        {"v": MASS, "cost": PRICE},
        [
            ({"v": MASS[:, None]}, ValueError, "v: a non-empty 1-D"),
            ({"v": ["1", "2"]}, TypeError, "v: dtype <U1"),
            ({"cost": PRICE[0]}, ValueError, "cost: a 2-D"),
            ({"cost": PRICE[:, :1]}, ValueError, r"cost: rows .* but v has 2 entries"),
            ({"cost": replaced(PRICE, INF)}, ValueError, r"cost: entry \(0, 0\) is inf"),
            ({"cost": PRICE[:0]}, ValueError, "cost: no rows"),
            ({"cost": lambda rows: PRICE[:0]}, ValueError, "cost: no rows"),
        ],
    ),
    dro_core.unbalanced_gaussian: (
        {"mean0": [0.0], "covariance0": [1.0], "mean1": [1.0], "covariance1": [[2.0]]},
        [
            ({"mean0": [NAN]}, ValueError, "mean0: .*NaN"),
            ({"mean1": 0.0}, ValueError, "mean1: a 1-D array"),
            ({"covariance0": [[1.0, 0.0]]}, ValueError, r"covariance0: shape \(1, 2\)"),
            ({"covariance1": [0.0]}, ValueError, "covariance1: the smallest eigenvalue is 0"),
            (
                {"mean0": [0.0, 0.0], "covariance0": [[1.0, 0.5], [0.0, 1.0]]},
                ValueError,
                "covariance0: not symmetric",
            ),
            ({"mean0": [0.0, 0.0], "covariance0": [1.0, 1.0]}, ValueError, "quadratic: 1.0; the"),
            ({"likelihood": 1.0}, ValueError, "forward: the likelihood part"),
            ({"forward": [[1.0, 2.0]]}, ValueError, r"forward: shape \(1, 2\)"),
            ({"likelihood": -1.0}, ValueError, "likelihood: -1.0 is negative"),
            ({"quadratic": INF}, ValueError, "quadratic: inf is not finite"),
            ({"mass0": 0.0}, ValueError, "mass0: 0.0; allowed: a number > 0"),
            ({"weight": -1.0}, ValueError, "weight: -1.0; allowed"),
        ],
    ),
    reference.unbalanced_ot_cvxpy: (
        transport,
        [
            ({"a": [1.0]}, ValueError, "cost: a non-empty"),
            ({"b": [0.0, 1.0]}, ValueError, "b: 0.0 is not positive"),
            ({"divergence": ("kl", "tv")}, ValueError, "divergence: unknown value 'tv'"),
            ({"form": "dua"}, ValueError, "form: unknown value 'dua' .did you mean 'dual'"),
            ({"weight": 0.0}, ValueError, "weight: 0.0; allowed"),
            ({"bound": -1.0}, ValueError, "bound: -1.0 is negative"),
        ],
    ),
    reference.unbalanced_ot_mm: (
        transport,
        [
            ({"cost": replaced(PRICE, NAN)}, ValueError, "cost: .*NaN"),
            ({"a": [-1.0, 1.0]}, ValueError, "a: -1.0 is not positive"),
            ({"iterations": 0}, ValueError, "iterations: 0 is below 1"),
        ],
    ),
    dro_core.twist_condition: (
        {"forward": np.eye(2), "weight": 1.0},
        [
            ({"forward": np.eye(2) * NAN}, ValueError, "forward: .*NaN"),
            ({"forward": np.eye(2)[0]}, ValueError, r"forward: .*forward\[None, :\]"),
            ({"forward": 1j * np.eye(2)}, TypeError, "forward: dtype complex128"),
            ({"forward": np.empty((0, 2))}, ValueError, "forward: a non-empty"),
            ({"forward": np.ones((1, 2))}, ValueError, r"forward: maps R\^2 to R\^1.*upsample="),
            ({"forward": np.sin}, ValueError, "points: missing, but forward is a function"),
            ({"forward": _nan_map, "points": X}, ValueError, "forward: not finite at points"),
            (
                {"forward": lambda x: x[0], "points": X},
                ValueError,
                r"forward: rows of shape \(3, 2\)",
            ),
            (
                {"forward": lambda x: x[:, :1], "points": X},
                ValueError,
                r"forward: maps R\^2 to R\^1",
            ),
            ({"weight": -1.0}, ValueError, "weight: -1.0 is negative"),
            ({"weight": NAN}, ValueError, "weight: nan is not finite"),
            ({"weight": 1e200}, ValueError, r"weight: the largest magnitude is 1e\+200"),
            ({"weight": "1"}, TypeError, "weight: '1' is not a real number"),
            ({"weight": [1.0, 2.0]}, ValueError, "weight: one number is needed"),
            ({"lipschitz": -1.0}, ValueError, "lipschitz: -1.0 is negative"),
            ({"lipschitz": INF}, ValueError, "lipschitz: inf is not finite"),
            ({"monotone": 1}, TypeError, "monotone: 1; allowed: True, False or None"),
            ({"points": X[0]}, ValueError, "points: samples are rows"),
            ({"points": X * NAN}, ValueError, "points: .*NaN"),
            ({"points": X[:, :1]}, ValueError, "points: 1 columns, but forward takes 2"),
            ({"upsample": np.ones((3, 2))}, ValueError, r"upsample: shape \(3, 2\).*\(2, 2\)"),
            ({"upsample": np.eye(2) * NAN}, ValueError, "upsample: .*NaN"),
            ({"upsample": np.sin}, TypeError, "upsample: a function is not a linear map"),
        ],
    ),
    operators.Diagonal: (
        {"decay": 1.0, "size": 4},
        [
            ({"decay": -1.0}, ValueError, "decay: -1.0"),
            ({"size": 0}, ValueError, "size: 0"),
            ({"size": 4.0}, TypeError, "size: 4.0"),
        ],
    ),
    operators.Integration: (
        {"size": 4},
        [
            ({"size": 0}, ValueError, "size: 0"),
            ({"size": "4"}, TypeError, "size: '4'"),
        ],
    ),
    operators.Convolution: (
        {"kernel": [0.5, 0.5], "shape": 4},
        [
            ({"kernel": [NAN]}, ValueError, "kernel: .*NaN"),
            ({"kernel": [1j]}, TypeError, "kernel: dtype complex"),
            ({"kernel": np.ones(5)}, ValueError, r"kernel: shape \(5,\) exceeds the grid, \(4,\)"),
            ({"kernel": np.ones((2, 2))}, ValueError, r"kernel: shape \(2, 2\), but the grid"),
            ({"kernel": []}, ValueError, "kernel: .*non-empty"),
            ({"shape": (4, 0)}, ValueError, "shape: 0 is below 1"),
            ({"shape": 4.0}, TypeError, "shape: 4.0"),
            ({"padding": "same"}, ValueError, "padding: unknown value 'same'"),
            ({"padding": X}, ValueError, "padding: unknown value array"),
        ],
    ),
    operators.BackwardHeat: (
        {"time": 1.0, "size": 4},
        [
            ({"boundary": "free"}, ValueError, "boundary: unknown value 'free'"),
            ({"boundary": X}, ValueError, "boundary: unknown value array"),
            ({"time": NAN}, ValueError, "time: nan"),
            ({"size": True}, TypeError, "size: True"),
        ],
    ),
    operators.Diagonal(1.0, 4).inverse: (
        {"regularization": 0.1},
        [({"regularization": -0.1}, ValueError, "regularization: -0.1")],
    ),
    operators.BackwardHeat(1.0, 64).inverse: (
        {"regularization": 0.1},
        [({"regularization": 0.0}, ValueError, "regularization: 0.0, but the smallest")],
    ),
    reference.finite_worst_case_highs: (tables, TABLES + RADIUS + SMALL_WEIGHTS),
    reference.finite_worst_case_cvxpy: (
        tables,
        TABLES + RADIUS + [({"solver": "HIGH"}, ValueError, "solver: unknown value 'HIGH'")],
    ),
    reference.worst_case_risk_sdp: (
        ball,
        [
            *MAP_AND_SAMPLES,
            *NO_OPERATOR,
            *WEIGHTS,
            *RADIUS,
            ({"structure": "y"}, ValueError, "structure: unknown value 'y'"),
            ({"structure": "x"}, ValueError, "forward: structure 'x' needs"),
            ({"structure": "x", "forward": B}, ValueError, r"forward: shape \(2, 1\)"),
        ],
    ),
    reference.entropic_dual_monte_carlo: (
        {**ball, "multiplier": 12.0, "epsilon": 0.1, "draws": 10},
        [
            *MAP_AND_SAMPLES,
            *NO_OPERATOR,
            *WEIGHTS,
            *RADIUS,
            ({"multiplier": 9.9}, ValueError, "multiplier: 9.9 .* above 10, twice the threshold"),
            ({"epsilon": 0.0}, ValueError, "epsilon 0.0; allowed"),
            ({"draws": 0}, ValueError, "draws: 0 is below 1"),
            ({"structure": "x"}, ValueError, "structure: unknown value 'x'"),
        ],
    ),
    reference.wasserstein_pot: (
        clouds,
        [
            ({"points0": replaced(X, NAN)}, ValueError, "points0: .*NaN"),
            ({"points1": Y}, ValueError, "points1: 1 columns"),
            ({"weights1": [1.0]}, ValueError, "weights1: shape"),
        ],
    ),
    reference.conditional_wasserstein_pot: (
        pairs,
        [
            ({"x0": X[:2]}, ValueError, "x0, y0: 2 and 3 rows"),
            ({"y1": X}, ValueError, "y0, y1: 1 and 2 columns"),
            ({"weights0": [0.5, 0.5, 0.5]}, ValueError, "weights0: they sum"),
        ],
    ),
    noise.hull_candidates: (
        {"loss": LOSS, "cost": COST, "measures": MEASURES},
        [
            ({"loss": replaced(LOSS, NAN)}, ValueError, "loss: .*NaN"),
            ({"loss": replaced(LOSS, INF)}, ValueError, "loss: .*inf"),
            ({"loss": LOSS[0]}, ValueError, r"loss: a 2-D \(samples"),
            ({"loss": LOSS.astype(complex)}, TypeError, "loss: dtype complex128"),
            ({"loss": LOSS[:0]}, ValueError, "loss: no rows"),
            ({"loss": 1e250 * LOSS}, ValueError, r"loss: entry \(0, 0\) is 1e\+250"),
            ({"loss": LOSS[:, :1]}, ValueError, "measures: 2 atoms .*, but loss has 1"),
            ({"cost": replaced(COST, NAN)}, ValueError, "cost: .*NaN"),
            ({"cost": -COST}, ValueError, r"cost: entry \(0, 1\) is -1.0"),
            ({"cost": COST[:1]}, ValueError, r"cost: shape \(1, 2\), but loss has shape"),
            ({"measures": MEASURES[0]}, ValueError, "measures: a non-empty"),
            ({"measures": MEASURES[:0]}, ValueError, "measures: a non-empty"),
            ({"measures": replaced(MEASURES, NAN)}, ValueError, "measures: .*NaN"),
            ({"measures": [[1.5, -0.5]]}, ValueError, r"measures: entry \(0, 1\) is -0.5"),
            ({"measures": [[1, 0], [0.5, 0.4]]}, ValueError, "measures: row 1 sums to 0.9, not"),
            ({"measures": [MEASURES, MEASURES / 2]}, ValueError, "measures: row 0 of sample 1"),
            ({"measures": [MEASURES] * 3}, ValueError, "measures: given for 3 samples, but loss"),
            (
                {"measures": sparse.csr_array(MEASURES / 2)},
                ValueError,
                "measures: row 0 sums",
            ),
            ({"measures": MEASURES.astype(str)}, TypeError, "measures: dtype"),
        ],
    ),
    noise.noise_candidates: (
        {**core, "clean": Y, "noise": noise.GaussianNoise([0.0, 1.0])},
        [
            ({"B": replaced(B, NAN)}, ValueError, "B: .*NaN"),
            ({"B": B.T}, ValueError, r"B: shape \(1, 2\), but x has 2 columns and y has 1"),
            ({"B": lambda y: y}, TypeError, "B: a function is not a linear map"),
            ({"x": X[:, 0]}, ValueError, "x: samples are rows"),
            ({"x": replaced(X, INF)}, ValueError, "x: .*inf"),
            ({"y": Y[:2]}, ValueError, "y: 2 rows, but x has 3"),
            ({"clean": X}, ValueError, r"clean: shape \(3, 2\), but y has shape \(3, 1\)"),
            ({"clean": replaced(Y, NAN)}, ValueError, "clean: .*NaN"),
            ({"noise": [0.0, 1.0]}, TypeError, "noise: .* neither a GaussianNoise nor"),
            (
                {"noise": noise.PoissonNoise([1.0]), "clean": -Y},
                ValueError,
                r"clean: entry \(0, 0\) is -1.0; the mean of a Poisson",
            ),
            ({"B": 1e100 * B, "clean": 1e100 * Y}, OverflowError, "B, clean, noise: an expected"),
        ],
    ),
    noise.GaussianNoise: (
        {"levels": [0.0, 1.0]},
        [
            ({"levels": []}, ValueError, "levels: a non-empty 1-D array"),
            ({"levels": 1.0}, ValueError, "levels: a non-empty 1-D array"),
            ({"levels": [1.0, -0.5]}, ValueError, "levels: entry 1 is -0.5; .* >= 0"),
            ({"levels": [NAN]}, ValueError, "levels: .*NaN"),
            ({"levels": [1e200]}, ValueError, "levels: the largest magnitude"),
            ({"levels": ["1"]}, TypeError, "levels: dtype"),
        ],
    ),
    noise.PoissonNoise: (
        {"photons": [10.0, 1.0]},
        [
            ({"photons": []}, ValueError, "photons: a non-empty 1-D array"),
            ({"photons": [1.0, 0.0]}, ValueError, "photons: entry 1 is 0.0; .* >= 1e-140"),
            ({"photons": [-1.0]}, ValueError, "photons: entry 0 is -1.0"),
            ({"photons": [INF]}, ValueError, "photons: .*inf"),
            ({"photons": [1j]}, TypeError, "photons: dtype complex128"),
        ],
    ),
    noise.GaussianNoise([1.0]).atoms: (
        {"clean": Y},
        [
            ({"clean": X}, ValueError, r"clean: 2 columns; .*reshape\(-1, 1\)"),
            ({"clean": Y[:, 0]}, ValueError, "clean: samples are rows"),
            ({"clean": replaced(Y, NAN)}, ValueError, "clean: .*NaN"),
            ({"order": 0}, ValueError, "order: 0 is below 1"),
            ({"order": 2.0}, TypeError, "order: 2.0 is not an integer"),
            ({"order": 301}, ValueError, "order: 301; allowed"),
        ],
    ),
    noise.PoissonNoise([1e9, 1.0]).atoms: (
        {"clean": 1e-9 * Y},
        [
            ({"clean": -Y}, ValueError, r"clean: entry \(0, 0\) is -1.0; the mean of a Poisson"),
            ({"clean": X}, ValueError, "clean: 2 columns"),
            ({"clean": 10 * Y}, ValueError, "photons: 3 samples, 2 members and"),
        ],
    ),
    reference.finite_worst_case_pure: (
        tables,
        [
            *TABLES,
            *RADIUS,
            *SMALL_WEIGHTS,
            ({"cost": 1 + COST}, dro_core.InfeasibleRadiusError, "radius: 0.5 .* need 1.0"),
            (
                {"admissible": np.array([[True, True], [False, False]])},
                ValueError,
                "admissible: sample 1 has no admissible",
            ),
        ],
    ),
    testing.check_feasible: (
        feasible,
        [
            ({"x": replaced(X, NAN)}, ValueError, "x: .*NaN"),
            ({"structure": "joined"}, ValueError, "structure: unknown .* 'joint'"),
            ({"radius": -1.0}, ValueError, "radius: -1.0"),
            ({"weights": [1.0]}, ValueError, "weights: shape"),
        ],
    ),
}

CASES = [
    pytest.param(
        function,
        {**good, **changes},
        error,
        message,
        id=f"{getattr(function, '__qualname__', function)}-{'-'.join(changes)}-{k}",
    )
    for function, (good, rows) in ROWS.items()
    for k, (changes, error, message) in enumerate(rows)
]

#: Public names that take no user data: results, bases, and structures without arguments.
WITHOUT_INPUT = {
    "Audit",
    "BestLinear",
    "RadiusSource",
    "StructureAudit",
    "Certificate",
    "ConditionalDistance",
    "CrossValidatedRadius",
    "DistanceCertificate",
    "FrankWolfeMMSE",
    "IndependentWorstCase",
    "ReferenceFit",
    "SampleWeightedWorstCase",
    "ShapedNoise",
    "TwoBudgetCertificate",
    "TwoBudgetFit",
    "TwoBudgetWorstCase",
    "WassersteinMMSE",
    "fit_linear_sdp",
    "wasserstein_mmse_frank_wolfe",
    "GaussianDistance",
    "MatchingPrice",
    "RelaxedCurve",
    "TwistCertificate",
    "TwistReport",
    "UnbalancedCertificate",
    "UnbalancedGaussian",
    "UnbalancedTransport",
    "NotConvergedError",
    "NotOptimalWarning",
    "SwappedWarning",
    "UnbalancedReference",
    "DualSolution",
    "EntropicCertificate",
    "EntropicWorstCase",
    "MonteCarloEstimate",
    "PureChoice",
    "FitCertificate",
    "LinearDRO",
    "LinearFit",
    "FiniteCertificate",
    "FiniteWorstCase",
    "GrowthBound",
    "SmoothedBound",
    "InfeasibleRadiusError",
    "Structure",
    "WorstCase",
    "WorstCaseCurve",
    "operators",
    "ReferenceSolution",
    "SpectralInverse",
    "SpectralOperator",
}


@pytest.mark.parametrize(("function", "arguments", "error", "message"), CASES)
def test_bad_input_is_refused_by_name(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**arguments)


@pytest.mark.parametrize("function", ROWS, ids=lambda f: getattr(f, "__qualname__", str(f)))
def test_the_same_arguments_without_the_fault_are_accepted(function):
    answer = function(**ROWS[function][0])
    assert (answer is None) == (function is testing.check_feasible)  # a checker returns nothing


def public_names():
    yield from ((name, getattr(dro_core, name)) for name in dro_core.__all__)
    for module in (noise, operators, reference):
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__:
                yield name, value


def test_every_public_name_has_a_row():
    missing = [
        name for name, value in public_names() if name not in WITHOUT_INPUT and value not in ROWS
    ]
    assert not missing, f"no bad-input row for: {missing}"
    assert len(CASES) >= 40


def test_methods_of_the_shared_object_refuse_what_the_functions_refuse():
    problem = dro_core.LinearReconstruction(B, X, Y)
    methods = [
        (problem.worst_case, {"radius": 1.0}, RADIUS + STRUCTURE),
        (problem.curve, {"radii": [1.0]}, STRUCTURE),
        (problem.spectrum, {}, STRUCTURE),
        (problem.dual_value, {"multiplier": 9.0, "radius": 1.0}, RADIUS + STRUCTURE),
        (problem.dual_gradient, {"multiplier": 9.0, "radius": 1.0}, RADIUS + STRUCTURE),
    ]
    for method, good, rows in methods:
        for changes, error, message in rows:
            with pytest.raises(error, match=message):
                method(**{**good, **changes})
        assert inspect.getdoc(method)
