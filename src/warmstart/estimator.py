"""warmstart as a scikit-learn classifier: for tables in closed form, for images by its own flow."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from warmstart.errors import DataError, UsageError
from warmstart.regressor import WarmStartRegressor as WarmStartRegressor
from warmstart.solve.weighted import standardised
from warmstart.training.weighted import Weighed, fit_linear
from warmstart.verbs.given import (
    as_images,
    class_names,
    is_output_alone,
    logits_of,
    merged,
    row_weights,
    seed_from,
    taken,
)

if TYPE_CHECKING:
    from warmstart.records import Preprocessing
    from warmstart.verbs.learner import Answerer

Array = NDArray[np.float64]

USUAL = "default"
USUAL_START = "lite0"
PENALTIES = tuple(float(10 ** (k / 2)) for k in range(-6, 7))  # of rows of unit length


class WarmStartClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier for images, and for tables of numbers.

    X is an array of images (n, H, W) or (n, H, W, C), or n paths: then `fit` is that of
    `warmstart.fit` with these options, in memory. Or X is a table (n, d): then the output is
    fitted in closed form on its standardised columns, and no network has a part in it.

    `start` is as in `warmstart.fit`; "default" is EfficientNet-Lite0 for images, and nothing
    for a table, which None says too. `budget` is "fast": a new output on the network as it is;
    "balanced" tries upper layers as well, in each fit. `random_state`: None stands for 0, so
    that a fit can be repeated.

    After a fit on images `summary_` and `plan_` hold what was measured and decided,
    `verdict_` and `estimate_` among it; after one on a table there are `coef_`, `intercept_`
    and `penalty_`, with decision_function(X) = X @ coef_.T + intercept_.

    >>> X, y = np.array([[0.0], [0.2], [0.1], [0.9], [1.0], [0.8]]), list("aaabbb")
    >>> WarmStartClassifier().fit(X, y).predict([[0.15], [0.7]]).tolist()
    ['a', 'b']
    """

    def __init__(
        self,
        start: Any = USUAL,
        strategy: str = "auto",
        *,
        budget: Literal["fast", "balanced", "thorough"] = "fast",
        arch: str | None = None,
        preprocessing: Preprocessing | None = None,
        lr: float | None = None,
        minutes: float | None = None,
        device: str = "auto",
        settings: Mapping[str, Any] | Sequence[str] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.start = start
        self.strategy = strategy
        self.budget = budget
        self.arch = arch
        self.preprocessing = preprocessing
        self.lr = lr
        self.minutes = minutes
        self.device = device
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Learn. Shapes: y (n,), sample_weight (n,).

        A row of weight 2 counts as one that is given twice, one of weight 0 as left out. Weights
        reach the output that is fitted in closed form; with a strategy that trains layers they
        are refused.
        Raises: DataError (a ValueError) for X, y or weights that cannot be used, UsageError (one,
        too) for options that do not suit them; for images whatever `warmstart.fit` raises.
        """
        images = as_images(X)
        if images is None:
            return self._fit_table(X, y, sample_weight)
        for name in ("n_features_in_", "feature_names_in_", "coef_", "intercept_", "penalty_"):
            self.__dict__.pop(name, None)  # of an earlier fit on a table
        return self._fit_images(images, y, sample_weight)

    # ---- a table ---------------------------------------------------------------------------

    def _fit_table(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None) -> Self:
        X, y = validate_data(self, X, y, dtype=np.float64)
        for name in ("summary_", "plan_", "verdict_", "estimate_", "_learnt", "_answerer"):
            self.__dict__.pop(name, None)  # of an earlier fit on images
        if not is_output_alone(self.strategy):
            raise UsageError(
                f"strategy {self.strategy} trains layers of a network, and a table has none; use "
                "head or auto."
            )
        if self.start is not None and not (isinstance(self.start, str) and self.start == USUAL):
            raise UsageError(
                f"X is a table of shape {X.shape} and start={self.start!r} is a network for "
                "images; use start=None for a table."
            )
        weights, keep = row_weights(sample_weight, len(X))
        numbers = self._encode(y, keep)
        features, weights = X[keep], weights[keep]
        scaling = standardised(features, weights)
        rows = Weighed(
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
        from warmstart.flow import Request
        from warmstart.flow import fit as flow
        from warmstart.joints.request import typed_settings
        from warmstart.verbs.learner import learn

        if self.start is None:
            raise UsageError(
                "start=None learns from a table, and X holds images; leave start away, or name one."
            )
        weights, keep = row_weights(sample_weight, len(images))
        numbers = self._encode(y, keep)
        images, numbers, weights = merged(taken(images, keep), numbers, weights[keep])
        is_weighted = bool((weights != 1.0).any())
        if is_weighted:
            self._check_weighable()
        names = class_names(self.classes_)
        is_usual = isinstance(self.start, str) and self.start == USUAL
        asked = Request(
            data=(images, [names[number] for number in numbers]),
            start=USUAL_START if is_usual else self.start, arch=self.arch,
            preprocessing=self.preprocessing, strategy=self.strategy,
            budget="fast" if is_weighted else self.budget, seed=seed_from(self.random_state),
            lr=self.lr, minutes=self.minutes, device=self.device,
            settings=typed_settings(self.settings),
        )  # fmt: skip
        self._learnt, self._answerer = learn(asked, names, flow, weights if is_weighted else None)
        self.summary_, self.plan_ = self._learnt.summary, self._learnt.plan
        self.verdict_, self.estimate_ = self.summary_.verdict, self.summary_.estimate
        if self._learnt.bundle is None:
            warnings.warn(
                f"{self.verdict_.sentence} So every answer is the shares of the classes; "
                'strategy="head" fits an output all the same.',
                UserWarning, stacklevel=3,
            )  # fmt: skip
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
        from warmstart.verbs.learner import answerer

        if self.__dict__.get("_answerer") is None:
            self._answerer = answerer(self._learnt, self.start)
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
        images = as_images(X)
        if images is None:
            raise DataError(
                "X is no array of images and no list of paths, as it was in fit; give images"
            )
        logits = logits_of(self._answers(), images)
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

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle keeps: all that was learnt, and no open network."""
        return {k: value for k, value in super().__getstate__().items() if k != "_answerer"}
