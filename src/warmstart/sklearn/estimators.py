"""Estimators of scikit-learn: for tables in closed form, for images as `warmstart.fit`."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from warmstart.errors import DataError, UsageError
from warmstart.sklearn.base import (
    TABLE_ATTRIBUTES,
    Array,
    Options,
    as_images,
    check_words,
    class_names,
    distinct,
    images_again,
    is_head_only,
    merged,
    row_weights,
    scaled,
    select,
)
from warmstart.solve.kernels import standardise
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.regress import REGRESSION
from warmstart.training.weighted import WeightedRows, fit_linear, fit_numbers

if TYPE_CHECKING:
    from warmstart.sklearn.learner import FittedRegression

# Penalties that compete, of rows of unit length.
CLASS_PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-6, 7))
NUMBER_PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-8, 7))
LINE_ATTRIBUTES, CURVE_ATTRIBUTES = ("coef_", "intercept_"), ("width_", "_head", "_scaling")


class WarmStartClassifier(ClassifierMixin, Options):  # type: ignore[misc]
    """A scikit-learn classifier for images, for texts, and for tables of numbers.

    X is an array of images (n, H, W) or (n, H, W, C), n paths, or n texts: then `fit` is that of
    `warmstart.fit` with these options, in memory. Or X is a table (n, d): then a linear head is
    fitted in closed form on its standardised columns, without a network.

    `base` is as in `warmstart.fit`; "default" is EfficientNet-Lite0 for images, all-MiniLM-L6-v2
    for texts, and nothing for a table, as is None. `budget` is "fast": a linear probe;
    "balanced" tries fine-tuning too, in each fit. `random_state`: None stands for 0, so that a
    fit can be repeated.

    After a fit on images `summary_` and `plan_` hold the results and choices of the run, with
    `verdict_` and `estimate_`; after one on a table there are `coef_`, `intercept_` and
    `penalty_`, with decision_function(X) = X @ coef_.T + intercept_.

    >>> X, y = np.array([[0.0], [0.2], [0.1], [0.9], [1.0], [0.8]]), list("aaabbb")
    >>> WarmStartClassifier().fit(X, y).predict([[0.15], [0.7]]).tolist()
    ['a', 'b']
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit. Shapes: y (n,), sample_weight (n,).

        A row of weight 2 counts as two rows, one of weight 0 as left out; only the ratios of
        weights count. Weights apply to a head that is fitted in closed form; with a strategy that
        fine-tunes they are refused.
        Raises: DataError (a ValueError) for X, y or weights that cannot be used, UsageError (also
        a ValueError) for options that do not suit them; for images whatever `warmstart.fit` raises.
        """
        images = as_images(X)
        if images is None:
            return self._fit_table(X, y, sample_weight)
        self._forget(TABLE_ATTRIBUTES)
        return self._fit_images(images, y, sample_weight)

    def _fit_table(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        check_words(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        self._forget(("summary_", "plan_", "verdict_", "estimate_", "_fitted", "_model"))
        self._check_table(X)
        weights, keep = row_weights(sample_weight, len(X))
        numbers = self._encode(y, keep)
        features, numbers, weights = distinct(X[keep], numbers, weights[keep])
        scaling = standardise(features, weights)
        rows = WeightedRows(
            (features - scaling.offset) * scaling.scale, numbers, len(self.classes_), weights
        )
        head = fit_linear(rows, CLASS_PENALTIES)
        inner, bias = head.calibrated()
        coefficients = scaling.scale[:, None] * inner
        bias = bias - scaling.offset @ coefficients
        if len(self.classes_) == 2:  # one column is enough for two classes
            coefficients, bias = coefficients[:, 1:] - coefficients[:, :1], bias[1:] - bias[:1]
        self.coef_, self.intercept_ = coefficients.T, bias
        self.penalty_ = head.penalty
        return self

    def _encode(self, y: ArrayLike, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Store the classes; returns the class number of each row that counts."""
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        if len(labels) != len(keep):
            raise DataError(f"X has {len(keep)} rows, y has {len(labels)}; give one label each")
        self.classes_, numbers = np.unique(labels[keep], return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError(
                f"y has 1 class ({self.classes_[0]}) among the rows that count, and 2 are needed; "
                "add rows of another class"
            )
        return np.asarray(numbers, dtype=np.int64)

    def _fit_images(self, images: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        from warmstart.sklearn.learner import fit_model

        weights, keep = row_weights(sample_weight, len(images))
        numbers = self._encode(y, keep)
        images, numbers, weights = merged(select(images, keep), numbers, weights[keep])
        weights = scaled(weights)
        is_weighted = bool((weights != 1.0).any())
        if is_weighted and not is_head_only(self.strategy):
            raise UsageError(
                f"strategy {self.strategy} fine-tunes a network, where sample_weight has no "
                "part; omit the weights, or use strategy head."
            )
        names = class_names(self.classes_)
        data = images, [names[number] for number in numbers]
        request = self._request(data, "fast" if is_weighted else self.budget, CLASSIFICATION.task)
        row_weight = weights if is_weighted else None
        self._fitted, self._model = fit_model(request, names, row_weight)
        self.summary_, self.plan_ = self._fitted.summary, self._fitted.plan
        self.verdict_, self.estimate_ = self.summary_.verdict, self.summary_.estimate
        if self._fitted.bundle is None:
            warnings.warn(
                f"{self.verdict_.sentence} So every answer is the shares of the classes; "
                'strategy="head" fits a linear probe all the same.',
                UserWarning,
                stacklevel=3,
            )
        return self

    def _logits(self, images: Any) -> Array:
        """Shapes: (n, K). Each path is predicted once, however often X names it."""
        from warmstart.sklearn.learner import open_model

        if self.__dict__.get("_model") is None:  # the estimator was pickled
            self._model = open_model(self._fitted, self.base)
        if isinstance(images, np.ndarray):
            return self._model(images)
        unique = list(dict.fromkeys(map(os.fspath, images)))
        row = {path: number for number, path in enumerate(unique)}
        logits: Array = self._model(unique)[[row[os.fspath(path)] for path in images]]
        return logits

    def decision_function(self, X: Any) -> Array:
        """Calibrated logits (n, K); for two classes the difference, (n,).

        Raises: DataError or ValueError for an X that is not like the one of the fit.
        """
        check_is_fitted(self, "classes_")
        if "_fitted" not in self.__dict__:
            X = validate_data(self, X, dtype=np.float64, reset=False)
            logits: Array = X @ self.coef_.T + self.intercept_
            return logits.ravel() if len(self.classes_) == 2 else logits
        logits = self._logits(images_again(X))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row. Shapes: (n,)."""
        logits = self.decision_function(X)
        numbers = logits.argmax(axis=1) if logits.ndim == 2 else (logits > 0).astype(np.intp)
        classes: NDArray[Any] = self.classes_[numbers]
        return classes

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities (n, K), columns in the order of `classes_`."""
        logits = self.decision_function(X)
        if len(self.classes_) == 2:
            return np.column_stack([expit(-logits), expit(logits)])
        probabilities: Array = softmax(logits, axis=1)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Log-probabilities (n, K), finite even where probabilities underflow."""
        logits = self.decision_function(X)
        if len(self.classes_) == 2:
            logits = np.column_stack([np.zeros(len(logits)), logits])
        log_probabilities: Array = log_softmax(logits, axis=1)
        return log_probabilities

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the fitted model, and no open network."""
        return {k: value for k, value in super().__getstate__().items() if k != "_model"}


class WarmStartRegressor(RegressorMixin, Options):  # type: ignore[misc]
    """A scikit-learn regressor for images, and for tables of numbers.

    X is an array of images (n, H, W) or (n, H, W, C), or n paths: then `fit` is that of
    `warmstart.fit` with task="regress", in memory. Or X is a table (n, d): then a function of its
    standardised columns is fitted in closed form, without a network: a curve, by a Laplace
    kernel, or a line where a curve is no better on held-out rows; these choose the penalty too.
    Options are as in `WarmStartClassifier`.

    After a fit on images `summary_` holds the results of the run; after one on a table there are
    `penalty_` and `width_`, the kernel's width in standard deviations of a column. It is None for
    a line, which has `coef_` and `intercept_`, with predict(X) = X @ coef_ + intercept_.

    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), [1.0, 3.0, 5.0, 7.0]
    >>> WarmStartRegressor().fit(X, y).predict([[4.0]]).round(2).tolist()
    [9.0]
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit. Shapes: y (n,), sample_weight (n,), for tables only; only their ratios count.

        Raises: DataError (a ValueError) for X, y or weights that cannot be used, UsageError (also
        a ValueError) for options that do not suit them; for images whatever `warmstart.fit` raises.
        """
        images = as_images(X)
        if images is None:
            return self._fit_table(X, y, sample_weight)
        if sample_weight is not None:
            raise UsageError("sample_weight counts rows of a table; leave it out with images.")
        return self._fit_images(images, y)

    def _fit_table(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        check_words(X)
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._check_table(X)
        self._forget(("summary_", "_fitted", *LINE_ATTRIBUTES))
        weights, keep = row_weights(sample_weight, len(X))
        values = np.asarray(y, np.float64)[keep]
        features, values, weights = distinct(X[keep], values, weights[keep])
        scaling = standardise(features, weights)
        rows = (features - scaling.offset) * scaling.scale
        head = fit_numbers(rows, values, weights, NUMBER_PENALTIES)
        self._head, self._scaling, self.penalty_ = head, scaling, head.penalty
        self.width_ = head.curve.width if head.curve else None
        if head.curve is None:
            self.coef_ = scaling.scale * head.weights
            self.intercept_ = head.bias - float(scaling.offset @ self.coef_)
        return self

    def _fit_images(self, images: Any, y: ArrayLike) -> Self:
        from warmstart.sklearn.learner import fit_regression

        values = column_or_1d(y, warn=True)
        if len(values) != len(images):
            raise DataError(f"X has {len(images)} rows, y has {len(values)}; give one number each")
        self._forget((*TABLE_ATTRIBUTES, *CURVE_ATTRIBUTES))
        request = self._request((images, values), self.budget, REGRESSION.task)
        self._fitted: FittedRegression = fit_regression(request)
        self.summary_ = self._fitted.summary
        return self

    def predict(self, X: Any) -> Array:
        """The number of each row, (n,).

        Raises: DataError or ValueError for an X that is not like the one of the fit.
        """
        if "_fitted" not in self.__dict__:
            check_is_fitted(self, "penalty_")
            X = validate_data(self, X, dtype=np.float64, reset=False)
            return self._head.values((X - self._scaling.offset) * self._scaling.scale)
        return self._fitted.values(images_again(X), self.base)

    def __sklearn_is_fitted__(self) -> bool:
        return "_fitted" in self.__dict__ or "penalty_" in self.__dict__
