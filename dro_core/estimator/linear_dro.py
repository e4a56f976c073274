"""`LinearDRO`: the fit as an estimator of scikit-learn."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dro_core.checks import (
    as_real_array,
    as_samples,
    as_weights,
    magnitude,
    non_negative_array,
    unknown,
)
from dro_core.estimator.cross_validation import cross_validated_radius
from dro_core.estimator.entry import fit_linear
from dro_core.structure import Structure
from dro_core.types import Array, Integer, Real


class LinearDRO:
    r"""`fit_linear` as a scikit-learn estimator; scikit-learn is not needed for it.

    In that interface the features X come first and the targets y second: X are the measurements
    (the ``y`` of `fit_linear`) and y the signals to be predicted from them (its ``x``).

    Parameters
    ----------
    radius : float or sequence of floats
        W2 radius in the units of the data; of several, cross-validation chooses the one that does
        best on held-out data.
    epsilon : float
        Entropy weight.
    structure : "y|x", "joint", "x|y", or one of them as an object with weights
        In the names of `fit_linear`: "y|x" moves the measurements X.
    folds : int
        Of the cross-validation.
    seed : int
        Of the assignment of samples to folds.
    fit_intercept : bool
        Whether to predict :math:`B X + b` with the best b for the worst case. That is
        :math:`\bar y - B\bar X`, whatever B and the radius: B is fitted to centred data (centred
        once, before the folds of a cross-validation).

    Attributes
    ----------
    fit_ : LinearFit
        Set by `fit`, with its certificate.
    coef_ : (n, m) array
        The fitted map from measurements to signals (n = 1 for 1-D targets).
    intercept_ : (n,) array
        b; zeros without `fit_intercept`.
    radius_ : float
        The radius that was used.
    n_features_in_ : int
        m, the number of columns of X.
    feature_names_in_ : (m,) array of str
        Columns of X, if it was a data frame whose columns all have strings for names.

    Raises
    ------
    ValueError, TypeError
        As `fit_linear`, when `fit` is called.
    """

    _names = ("radius", "epsilon", "structure", "folds", "seed", "fit_intercept")

    def __init__(
        self,
        radius: Real | ArrayLike = 0.1,
        epsilon: Real = 0.0,
        structure: str | Structure = "y|x",
        folds: Integer = 5,
        seed: int = 0,
        fit_intercept: bool = False,
    ) -> None:
        self.radius, self.epsilon, self.structure = radius, epsilon, structure
        self.folds, self.seed, self.fit_intercept = folds, seed, fit_intercept

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, as scikit-learn's ``clone`` needs them."""
        return {name: getattr(self, name) for name in self._names}

    def set_params(self, **parameters: Any) -> LinearDRO:
        """Change arguments of the constructor."""
        for name in parameters:
            if name not in self._names:
                raise ValueError(unknown("parameter", name, self._names))
        for name, value in parameters.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn, which alone calls this, should know: a regressor of many outputs."""
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, multi_output=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(),
        )

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LinearDRO:
        """Fit the map from measurements to signals.

        Parameters
        ----------
        X : (N, m) array or data frame
            Measurements, samples as rows.
        y : (N, n) or (N,) array
            Signals.
        sample_weight : (N,) array, optional
            Non-negative; only their ratios count, as everywhere in scikit-learn. Not with several
            radii.
        """
        measurements, (signals, flat) = _features(X), _targets(y)
        if len(signals) != len(measurements):
            raise ValueError(f"y: {len(signals)} rows, but X has {len(measurements)}")
        if not isinstance(self.fit_intercept, bool | np.bool_):
            raise TypeError(f"fit_intercept: {self.fit_intercept!r}; allowed: True or False")
        weights = _shares(sample_weight, len(signals))
        centre_x, centre_y = (np.zeros(part.shape[1]) for part in (signals, measurements))
        if self.fit_intercept:
            centre_x, centre_y = (
                np.average(part, axis=0, weights=weights) for part in (signals, measurements)
            )
            signals, measurements = signals - centre_x, measurements - centre_y
        radius: Any = self.radius
        if as_real_array(radius, "radius").ndim > 0:
            if sample_weight is not None:
                raise ValueError("sample_weight: not available with cross-validation")
            radius = cross_validated_radius(
                signals,
                measurements,
                radius,
                self._map,
                structure=self.structure,
                folds=self.folds,
                seed=self.seed,
            ).radius
        self.fit_ = fit_linear(
            x=signals,
            y=measurements,
            radius=radius,
            epsilon=self.epsilon,
            structure=self.structure,
            weights=weights,
        )
        self.coef_, self.radius_ = self.fit_.matrix, radius
        self.intercept_ = centre_x - self.coef_ @ centre_y
        self.n_features_in_ = measurements.shape[1]
        self._flat = flat
        names = _column_names(X)
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def _map(self, x: Array, y: Array, radius: float) -> Array:
        return fit_linear(
            x=x, y=y, radius=radius, epsilon=self.epsilon, structure=self.structure
        ).matrix

    def predict(self, X: ArrayLike) -> Array:
        """Reconstructions of rows of measurements: (N, m) -> (N, n), or (N,) for 1-D targets."""
        if not hasattr(self, "fit_"):
            raise _not_fitted("LinearDRO: call fit(X, y) before predict")
        rows = _features(X)
        self._check_columns(X, rows)
        predicted = rows @ self.coef_.T + self.intercept_
        return predicted[:, 0] if self._flat else predicted

    def _check_columns(self, X: ArrayLike, rows: Array) -> None:
        """Columns are those of `fit`, by number and, where both have them, by name."""
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but LinearDRO is expecting "
                f"{self.n_features_in_} features as input"
            )
        names, expected = _column_names(X), getattr(self, "feature_names_in_", None)
        if names is None and expected is not None:
            warnings.warn(
                "X does not have valid feature names, but LinearDRO was fitted with feature names",
                stacklevel=3,
            )
        if names is not None and expected is None:
            warnings.warn(
                "X has feature names, but LinearDRO was fitted without feature names", stacklevel=3
            )
        if names is not None and expected is not None and not np.array_equal(names, expected):
            raise ValueError(
                "X: The feature names should match those that were passed during fit, in the same "
                f"order; given {list(names)}, fitted with {list(expected)}"
            )

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        r"""Coefficient of determination, residual and total sum of squares over all entries of y.

        .. math:: 1 - \frac{\sum_i w_i\|y_i - \hat y_i\|^2}{\sum_i w_i\|y_i - \bar y\|^2}
        """
        predicted, (signals, _) = self.predict(X), _targets(y)
        if signals.size != predicted.size or len(signals) != len(predicted):
            raise ValueError(f"y: shape {signals.shape}, but predictions have {predicted.shape}")
        shares = _shares(sample_weight, len(signals))
        mean = np.average(signals, axis=0, weights=shares)
        left = (signals - predicted.reshape(signals.shape)) ** 2
        total = (signals - mean) ** 2
        left_sum, total_sum = (
            float(np.average(s, axis=0, weights=shares).sum()) for s in (left, total)
        )
        if total_sum == 0.0:
            raise ValueError("y: all samples are equal; the coefficient of determination needs two")
        return 1.0 - left_sum / total_sum

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"LinearDRO({listed})"


def _numbers(value: object, name: str) -> Array:
    """As `as_real_array`; arrays of Python numbers are converted, as scikit-learn does."""
    others = ("dtypes", "toarray", "detach")  # data frames, sparse matrices, tensors
    if isinstance(value, list | tuple) or any(hasattr(value, name) for name in others):
        return as_real_array(value, name)
    given = value if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    kind = getattr(getattr(given, "dtype", None), "kind", "")
    if kind == "c":
        raise ValueError(f"{name}: Complex data not supported")
    if kind == "O" and isinstance(given, np.ndarray):
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    return as_real_array(given, name)


def _features(X: ArrayLike) -> Array:
    """Rows of measurements, refused in the words that scikit-learn's own checks look for."""
    array = _numbers(X, "X")
    if array.ndim == 1:
        raise ValueError(
            f"X: Expected 2D array, got 1D array of shape {array.shape}. Reshape your data: "
            "X[:, None] for one column, X[None, :] for one sample"
        )
    if array.ndim == 2 and len(array) and array.shape[1] == 0:
        raise ValueError(f"X: 0 feature(s) (shape={array.shape}) while a minimum of 1 is required.")
    return as_samples(array, "X")


def _targets(y: ArrayLike) -> tuple[Array, bool]:
    """Signals as rows, and whether they were given as a 1-D array, which is one column."""
    if y is None:
        raise ValueError("y: LinearDRO requires y to be passed, but the target y is None")
    array = _numbers(y, "y")
    return as_samples(array[:, None] if array.ndim == 1 else array, "y"), array.ndim == 1


def _shares(sample_weight: ArrayLike | None, size: int) -> Array | None:
    """Weights of any positive sum, divided by it."""
    if sample_weight is None:
        return None
    weights = non_negative_array(_numbers(sample_weight, "sample_weight"), "sample_weight")
    largest = magnitude(weights)
    if largest == 0.0:
        raise ValueError("sample_weight: all zero; at least one must be positive")
    relative = weights / largest
    return as_weights(relative / relative.sum(), size, "sample_weight")


def _column_names(X: ArrayLike) -> Any:
    """Names of a data frame's columns if all are strings, as an object array; otherwise None."""
    names = list(getattr(X, "columns", []))
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return np.asarray(names, dtype=object)


def _not_fitted(message: str) -> Exception:
    """scikit-learn's NotFittedError where scikit-learn is in use, otherwise a ValueError."""
    exceptions = sys.modules.get("sklearn.exceptions")
    return ValueError(message) if exceptions is None else exceptions.NotFittedError(message)
