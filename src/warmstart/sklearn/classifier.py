"""warmstart as a scikit-learn classifier: for tables in closed form, for images by its own flow."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from warmstart.errors import DataError, UsageError
from warmstart.sklearn.given import (
    as_images,
    check_words,
    class_names,
    distinct,
    is_output_alone,
    logits_of,
    merged,
    row_weights,
    scaled,
    taken,
)
from warmstart.sklearn.options import OF_TABLES, Options, images_again
from warmstart.solve.weighted_ridge import standardised
from warmstart.training.weighted import WeightedRows, fit_linear

if TYPE_CHECKING:
    from warmstart.sklearn.learner import Answerer


Array = NDArray[np.float64]

PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-6, 7))  # of rows of unit length


class WarmStartClassifier(ClassifierMixin, Options):  # type: ignore[misc]
    """A scikit-learn classifier for images, for texts, and for tables of numbers.

    X is an array of images (n, H, W) or (n, H, W, C), n paths, or n texts: then `fit` is that of
    `warmstart.fit` with these options, in memory. Or X is a table (n, d): then the output is
    fitted in closed form on its standardised columns, and no network has a part in it.

    `start` is as in `warmstart.fit`; "default" is EfficientNet-Lite0 for images, all-MiniLM-L6-v2
    for texts, and nothing for a table, which None says too. `budget` is "fast": a new output on
    the network as it is; "balanced" tries upper layers as well, in each fit. `random_state`: None
    stands for 0, so that a fit can be repeated.

    After a fit on images `summary_` and `plan_` hold what was measured and decided,
    `verdict_` and `estimate_` among it; after one on a table there are `coef_`, `intercept_`
    and `penalty_`, with decision_function(X) = X @ coef_.T + intercept_.

    >>> X, y = np.array([[0.0], [0.2], [0.1], [0.9], [1.0], [0.8]]), list("aaabbb")
    >>> WarmStartClassifier().fit(X, y).predict([[0.15], [0.7]]).tolist()
    ['a', 'b']
    """

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn. Shapes: y (n,), sample_weight (n,).

        A row of weight 2 counts as one that is given twice, one of weight 0 as left out; only the
        ratios of weights count, whatever they sum to. Weights reach the output that is fitted in
        closed form; with a strategy that trains layers they are refused.
        Raises: DataError (a ValueError) for X, y or weights that cannot be used, UsageError (one,
        too) for options that do not suit them; for images whatever `warmstart.fit` raises.
        """
        images = as_images(X)
        if images is None:
            return self._fit_table(X, y, sample_weight)
        self._forget(OF_TABLES)
        return self._fit_images(images, y, sample_weight)

    # ---- a table ---------------------------------------------------------------------------

    def _fit_table(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        check_words(X)
        X, y = validate_data(self, X, y, dtype=np.float64)
        self._forget(("summary_", "plan_", "verdict_", "estimate_", "_learnt", "_answerer"))
        self._check_table(X)
        weights, keep = row_weights(sample_weight, len(X))
        numbers = self._encode(y, keep)
        features, numbers, weights = distinct(X[keep], numbers, weights[keep])
        scaling = standardised(features, weights)
        rows = WeightedRows(
            (features - scaling.offset) * scaling.scale, numbers, len(self.classes_), weights
        )
        found = fit_linear(rows, PENALTIES)
        inner, bias = found.calibrated()
        coefficients = scaling.scale[:, None] * inner
        bias = bias - scaling.offset @ coefficients
        if len(self.classes_) == 2:  # one column tells two classes apart
            coefficients, bias = coefficients[:, 1:] - coefficients[:, :1], bias[1:] - bias[:1]
        self.coef_, self.intercept_ = coefficients.T, bias
        self.penalty_ = found.penalty
        return self

    def _encode(self, y: ArrayLike, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Note the classes; the number of each row that counts."""
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

    # ---- images ----------------------------------------------------------------------------

    def _fit_images(self, images: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        from warmstart.run.fit import fit as flow
        from warmstart.sklearn.learner import learn

        self._check_images()
        weights, keep = row_weights(sample_weight, len(images))
        numbers = self._encode(y, keep)
        images, numbers, weights = merged(taken(images, keep), numbers, weights[keep])
        weights = scaled(weights)
        is_weighted = bool((weights != 1.0).any())
        if is_weighted:
            self._check_weighable()
        names = class_names(self.classes_)
        data = images, [names[number] for number in numbers]
        asked = self._asked(data, "fast" if is_weighted else self.budget, "classify")
        self._learnt, self._answerer = learn(asked, names, flow, weights if is_weighted else None)
        self.summary_, self.plan_ = self._learnt.summary, self._learnt.plan
        self.verdict_, self.estimate_ = self.summary_.verdict, self.summary_.estimate
        if self._learnt.bundle is None:
            warnings.warn(
                f"{self.verdict_.sentence} So every answer is the shares of the classes; "
                'strategy="head" fits an output all the same.',
                UserWarning,
                stacklevel=3,
            )
        return self

    def _check_weighable(self) -> None:
        """Refuse weights where they would have no part in what is trained."""
        if not is_output_alone(self.strategy):
            raise UsageError(
                f"strategy {self.strategy} trains layers step by step, where sample_weight has no "
                "part; leave the weights away, or use strategy head."
            )

    def _answers(self) -> Answerer:
        """What answers for images; made again where the estimator was pickled in between."""
        from warmstart.sklearn.learner import answerer

        if self.__dict__.get("_answerer") is None:
            self._answerer = answerer(self._learnt, self.base)
        found: Answerer = self._answerer
        return found

    # ---- answers ---------------------------------------------------------------------------

    def decision_function(self, X: Any) -> Array:
        """Calibrated logits (n, K); of two classes the second's over the first's, (n,).

        Raises: DataError or ValueError for an X that is not like the one of the fit.
        """
        check_is_fitted(self, "classes_")
        if "_learnt" not in self.__dict__:
            X = validate_data(self, X, dtype=np.float64, reset=False)
            logits: Array = X @ self.coef_.T + self.intercept_
            return logits.ravel() if len(self.classes_) == 2 else logits
        logits = logits_of(self._answers(), images_again(X))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest class of each row. Shapes: (n,)."""
        logits = self.decision_function(X)
        is_binary = len(self.classes_) == 2
        found: NDArray[Any] = self.classes_[
            (logits > 0).astype(np.intp) if is_binary else logits.argmax(axis=1)
        ]
        return found

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities, a column a class in the order of `classes_`: (n, K)."""
        logits = self.decision_function(X)
        if len(self.classes_) == 2:
            return np.column_stack([expit(-logits), expit(logits)])
        found: Array = softmax(logits, axis=1)
        return found

    def predict_log_proba(self, X: Any) -> Array:
        """Their logarithms, also where the probabilities are too small for a number: (n, K)."""
        logits = self.decision_function(X)
        if len(self.classes_) == 2:
            logits = np.column_stack([np.zeros(len(logits)), logits])
        found: Array = log_softmax(logits, axis=1)
        return found

    # ---- for scikit-learn ------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle keeps: all that was learnt, and no open network."""
        return {k: value for k, value in super().__getstate__().items() if k != "_answerer"}
