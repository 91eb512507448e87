"""warmstart as a scikit-learn regressor: for tables in closed form, for images by its own flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from warmstart.errors import DataError, UsageError
from warmstart.sklearn.given import as_images, check_words, distinct, row_weights
from warmstart.sklearn.options import OF_TABLES, Options, images_again
from warmstart.solve.weighted_ridge import standardised
from warmstart.training.weighted import fit_numbers

if TYPE_CHECKING:
    from warmstart.sklearn.learner import LearntNumbers


Array = NDArray[np.float64]

OF_LINES, OF_CURVES = ("coef_", "intercept_"), ("width_", "_found", "_scaling")
PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-8, 7))  # of rows of unit length


class WarmStartRegressor(RegressorMixin, Options):  # type: ignore[misc]
    """A scikit-learn regressor for images, and for tables of numbers.

    X is an array of images (n, H, W) or (n, H, W, C), or n paths: then `fit` is that of
    `warmstart.fit` with task="regress", in memory. Or X is a table (n, d): then a function of its
    standardised columns is fitted in closed form, and no network has a part in it: a curve, of a
    Laplace kernel, or a line where a curve is no better on rows left out; these choose the penalty
    too. Options are as in `WarmStartClassifier`.

    After a fit on images `summary_` holds what was measured and decided; after one on a table
    there are `penalty_` and `width_`, that of the curve in spreads of a column. It is None of a
    line, which has `coef_` and `intercept_`, with predict(X) = X @ coef_ + intercept_.

    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), [1.0, 3.0, 5.0, 7.0]
    >>> WarmStartRegressor().fit(X, y).predict([[4.0]]).round(2).tolist()
    [9.0]
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn. Shapes: y (n,), sample_weight (n,), for tables alone; only their ratios count.

        Raises: DataError (a ValueError) for X, y or weights that cannot be used, UsageError (one,
        too) for options that do not suit them; for images whatever `warmstart.fit` raises.
        """
        images = as_images(X)
        if images is None:
            return self._fit_table(X, y, sample_weight)
        if sample_weight is not None:
            raise UsageError("sample_weight counts rows of a table; leave it away with images.")
        return self._fit_images(images, y)

    def _fit_table(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        check_words(X)
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        self._check_table(X)
        self._forget(("summary_", "_learnt", *OF_LINES))
        weights, keep = row_weights(sample_weight, len(X))
        values = np.asarray(y, np.float64)[keep]
        features, values, weights = distinct(X[keep], values, weights[keep])
        scaling = standardised(features, weights)
        rows = (features - scaling.offset) * scaling.scale
        found = fit_numbers(rows, values, weights, PENALTIES)
        self._found, self._scaling, self.penalty_ = found, scaling, found.penalty
        self.width_ = found.curve.width if found.curve else None
        if found.curve is None:
            self.coef_ = scaling.scale * found.weights
            self.intercept_ = found.bias - float(scaling.offset @ self.coef_)
        return self

    def _fit_images(self, images: Any, y: ArrayLike) -> Self:
        from warmstart.run.fit import fit as flow
        from warmstart.sklearn.learner import learn_numbers

        self._check_images()
        values = column_or_1d(y, warn=True)
        if len(values) != len(images):
            raise DataError(f"X has {len(images)} rows, y has {len(values)}; give one number each")
        self._forget((*OF_TABLES, *OF_CURVES))
        asked = self._asked((images, values), self.budget, "regress")
        self._learnt: LearntNumbers = learn_numbers(asked, flow)
        self.summary_ = self._learnt.summary
        return self

    def predict(self, X: Any) -> Array:
        """The number of each row. Shapes: returns (n,).

        Raises: DataError or ValueError for an X that is not like the one of the fit.
        """
        if "_learnt" not in self.__dict__:
            check_is_fitted(self, "penalty_")
            X = validate_data(self, X, dtype=np.float64, reset=False)
            return self._found.values((X - self._scaling.offset) * self._scaling.scale)
        return self._learnt.values(images_again(X), self.base)

    def __sklearn_is_fitted__(self) -> bool:
        return "_learnt" in self.__dict__ or "penalty_" in self.__dict__
