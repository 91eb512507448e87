"""A scikit-learn regressor: for tables in closed form, for images as `warmstart.fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from warmstart.errors import DataError, UsageError
from warmstart.sklearn.base import (
    TABLE_ATTRIBUTES,
    Array,
    Options,
    as_images,
    check_words,
    distinct,
    images_again,
    row_weights,
)
from warmstart.solve.kernels import standardise
from warmstart.tasks.regress import REGRESSION
from warmstart.training.weighted import fit_numbers

if TYPE_CHECKING:
    from warmstart.sklearn.learner import FittedRegression


LINE_ATTRIBUTES, CURVE_ATTRIBUTES = ("coef_", "intercept_"), ("width_", "_head", "_scaling")
PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-8, 7))  # of rows of unit length


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
        head = fit_numbers(rows, values, weights, PENALTIES)
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
