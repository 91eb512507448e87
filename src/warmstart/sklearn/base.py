"""What the scikit-learn estimators share: their options, and the validation of X, y and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import compress
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state

from warmstart.errors import DataError, UsageError
from warmstart.planning.strategy import AUTO, HEAD, parse

if TYPE_CHECKING:
    from warmstart.planning.rules import Budget
    from warmstart.records.data import Task
    from warmstart.records.inputs import Preprocessing
    from warmstart.request import Request

Array = NDArray[np.float64]
DEFAULT, DEFAULT_IMAGE_BASE = "default", "lite0"
TABLE_ATTRIBUTES = ("n_features_in_", "feature_names_in_", "coef_", "intercept_", "penalty_")


class Options(BaseEstimator):  # type: ignore[misc]
    """The options of an estimator for images or tables."""

    def __init__(
        self,
        base: Any = DEFAULT,
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
        self.base = base
        self.strategy = strategy
        self.budget = budget
        self.arch = arch
        self.preprocessing = preprocessing
        self.lr = lr
        self.minutes = minutes
        self.device = device
        self.settings = settings
        self.random_state = random_state

    @property
    def _is_default(self) -> bool:
        return isinstance(self.base, str) and self.base == DEFAULT

    def _forget(self, names: Sequence[str]) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def _check_table(self, X: Any) -> None:
        if not is_head_only(self.strategy):
            raise UsageError(
                f"strategy {self.strategy} trains layers of a network, and a table has none; use "
                "head or auto."
            )
        if self.base is not None and not self._is_default:
            named = repr(self.base) if isinstance(self.base, str) else type(self.base).__name__
            raise UsageError(
                f"X is a table of shape {X.shape} and base={named} is a network for images; use "
                "base=None for a table."
            )

    def _request(self, data: Any, budget: Budget, task: Task) -> Request:
        from warmstart.request import Request, read_settings

        if self.base is None:
            raise UsageError("base=None is for tables, and X holds images; omit base, or name one.")
        return Request(
            data=data,
            base=DEFAULT_IMAGE_BASE if self._is_default else self.base,
            arch=self.arch,
            preprocessing=self.preprocessing,
            strategy=parse(self.strategy),
            budget=budget,
            seed=seed_from(self.random_state),
            lr=self.lr,
            minutes=self.minutes,
            device=self.device,
            settings=read_settings(self.settings),
            task=task,
        )

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def is_head_only(strategy: str) -> bool:
    """Whether a strategy fits only a head. Raises: PlanError for one that is none.

    >>> is_head_only("auto"), is_head_only("head"), is_head_only("last:2")
    (True, True, False)
    """
    return parse(strategy) in (AUTO, HEAD)


def as_images(X: Any) -> Any:
    """X as an array of images or a list of paths; None for a table.

    Paths come as a list, a tuple, or one column of texts (NumPy or pandas).

    >>> as_images(["a.jpg", "b.jpg"]), as_images(np.array([["a.jpg"]])), as_images([[1, 2]])
    (['a.jpg', 'b.jpg'], ['a.jpg'], None)
    """
    if isinstance(X, (list, tuple)):
        if X and all(isinstance(item, (str, os.PathLike)) for item in X):
            return list(X)
        if not X or np.ndim(X[0]) < 2:
            return None
        try:
            return np.asarray(X)
        except ValueError:
            raise DataError(
                "X holds images of different shapes; resize them to one, or give file paths"
            ) from None
    if hasattr(X, "to_numpy"):  # a column or a table of pandas or Polars
        X = X.to_numpy()
    if not isinstance(X, np.ndarray):
        return None
    if X.dtype.kind in "OUT" and X.size and (X.ndim == 1 or X.shape[1:] == (1,)):
        items = X.ravel().tolist()
        return items if all(isinstance(item, (str, os.PathLike)) for item in items) else None
    return X if X.ndim in (3, 4) else None


def images_again(X: Any) -> Any:
    """X of `predict` as images. Raises: DataError where it holds none."""
    images = as_images(X)
    if images is None:
        raise DataError("X is not an array of images or a list of paths as in fit; give images")
    return images


def check_words(X: Any) -> None:
    """Refuse columns of a DataFrame that are not numeric.

    Raises: DataError naming the first that holds words.
    """
    for name in getattr(X, "columns", ()):
        for word in (v for v in np.asarray(X[name].to_numpy()) if isinstance(v, str)):
            try:
                float(word)
            except ValueError:
                raise DataError(
                    f"X: column {name!r} holds words ({word[:20]!r}); encode it in a pipeline "
                    "(OneHotEncoder), or give the table to warmstart.fit, which takes words"
                ) from None


def row_weights(sample_weight: ArrayLike | None, n: int) -> tuple[Array, NDArray[np.bool_]]:
    """The weight of each row, and which rows count. Shapes: (n,), (n,)."""
    if sample_weight is None:
        return np.ones(n), np.ones(n, dtype=bool)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(n, weights)
    if weights.shape != (n,):
        raise DataError(f"sample_weight has shape {weights.shape}, X has {n} rows; give one each")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("sample_weight holds a number below 0, or none at all; give 0 or more")
    if not weights.any():
        raise DataError("sample_weight is zero for every row; give some row a weight above 0")
    return weights, weights > 0


def scaled(weights: Array) -> Array:
    """Weights of mean 1: only their ratios count. Shapes: (n,).

    >>> scaled(np.array([1.0, 3.0])).tolist(), scaled(np.full(3, 0.1)).tolist()
    ([0.5, 1.5], [1.0, 1.0, 1.0])
    """
    largest = weights.max()
    if (weights == largest).all():
        return np.ones(len(weights))  # exactly, as without weights
    share = weights / largest  # first: the sum of the largest numbers overflows
    means: Array = share / share.mean()
    return means


def distinct(rows: Array, targets: NDArray[Any], weights: Array) -> tuple[Array, Any, Array]:
    """Each pair of row and target once, in the order of the first, with weights of mean 1.

    A repeated row counts as one of multiple weight.
    Shapes: rows (n, d), targets (n,), weights (n,) above zero.

    >>> x, y = np.array([[1.0], [2.0], [1.0], [1.0]]), np.array([0, 1, 0, 1])
    >>> [array.tolist() for array in distinct(x, y, np.ones(4))]
    [[[1.0], [2.0], [1.0]], [0, 1, 1], [1.5, 0.75, 0.75]]
    """
    pairs = np.column_stack([rows, targets.astype(np.float64)]) + 0.0  # no -0, whose bytes differ
    whole = np.ascontiguousarray(pairs).view(f"V{pairs.shape[1] * pairs.itemsize}")[:, 0]
    first, place = np.unique(whole, return_index=True, return_inverse=True)[1:]
    if len(first) == len(rows):
        return rows, targets, scaled(weights)
    order = np.argsort(first)
    total = np.bincount(place, weights / weights.max())[order].astype(np.float64)
    return rows[first[order]], targets[first[order]], scaled(total)


def select(images: Any, mask: NDArray[np.bool_]) -> Any:
    """The images that count."""
    if isinstance(images, np.ndarray):
        return images if mask.all() else images[mask]
    return list(compress(images, mask))


def merged(
    images: Any, numbers: NDArray[np.int64], weights: Array
) -> tuple[Any, NDArray[np.int64], Array]:
    """A path that is repeated, as in a bootstrap, becomes one row of multiple weight."""
    if isinstance(images, np.ndarray):
        return images, numbers, weights
    texts = np.array([os.fspath(image) for image in images], dtype=str)  # "a" and Path("a")
    if len(set(texts.tolist())) == len(images):
        return images, numbers, weights
    first, place = np.unique(texts, return_index=True, return_inverse=True)[1:]
    if (numbers[first][place] != numbers).any():
        row = int(np.flatnonzero(numbers[first][place] != numbers)[0])
        raise DataError(f"X names {images[row]} twice, with two labels; keep one of them")
    order = np.argsort(first)
    total: Array = np.bincount(place, weights)[order].astype(np.float64)
    return [images[row] for row in first[order]], numbers[first[order]], total


def class_names(classes: NDArray[Any]) -> tuple[str, ...]:
    """Class names for a run: the labels as text, or numbers where texts are ambiguous."""
    names = tuple(str(label) for label in classes.tolist())
    is_clear = len(set(names)) == len(names) and all(n and n == n.strip() for n in names)
    return names if is_clear else tuple(map(str, range(len(names))))


def seed_from(random_state: int | np.random.RandomState | None) -> int:
    """The seed of a run: 0 for None, so that a fit can be repeated."""
    if random_state is None:
        return 0
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))
