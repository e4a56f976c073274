r"""Section 6.2: learning to differentiate, exactly and by the paper's algorithm.

The forward operator is the cumulative integral, signals are random series of K sine modes, training
data have no noise, and the inverse is a matrix. The entropic y|x worst-case risk is minimised by

* `fit_linear`: exact, certified, in the data's own subspace;
* descent along the exact gradient on the whole matrix from a random start;
* the paper's algorithm (Monte-Carlo dual, stochastic steps, bisected multiplier), the same start;

all judged by the exact worst case of their maps, beside Tikhonov regularisation and least squares.
Tables and figures follow the paper's Figures 4 and 5; a table of claims says of each of the paper's
sentences which number we find and whether it holds.

In go the settings (signals are drawn); out come tables of risk, noise, stability and rank, three
figures, the claims with our numbers, and checks of what is a theorem. `settings` and `data` are at
the bottom, then `baselines`, `measures`, `algorithms`, `claims` and `plots`, on top `experiments`;
below is `dro_core`, beside it `validation.seed_algorithm`.
"""

from validation.differentiation.baselines import (
    least_squares,
    root_mean_square,
    tikhonov,
    validated_tikhonov,
)
from validation.differentiation.data import Data, draw, noisy, signals
from validation.differentiation.experiments import run
from validation.differentiation.measures import drop, rank_rows, stability, truncation_errors
from validation.differentiation.settings import QUASI, Config, signal_size

__all__ = [
    "QUASI",
    "Config",
    "Data",
    "draw",
    "drop",
    "least_squares",
    "noisy",
    "rank_rows",
    "root_mean_square",
    "run",
    "signal_size",
    "signals",
    "stability",
    "tikhonov",
    "truncation_errors",
    "validated_tikhonov",
]
