"""What a scikit-learn user hands over, brought into the form that a run takes."""

from __future__ import annotations

import os
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from warmstart.errors import DataError
from warmstart.planning.strategy import AUTO, HEAD, parse

if TYPE_CHECKING:
    from warmstart.sklearn.learner import Answerer


Array = NDArray[np.float64]


def is_output_alone(strategy: str) -> bool:
    """Whether a strategy lets the output alone be fitted. Raises: PlanError for one that is none.

    >>> is_output_alone("auto"), is_output_alone("head"), is_output_alone("last:2")
    (True, True, False)
    """
    return parse(strategy) in (AUTO, HEAD)


def as_images(X: Any) -> Any:
    """X as an array of images or a list of paths; None where it is neither, but a table.

    Paths come as a list, a tuple, or one column of texts (NumPy or pandas).

    >>> as_images(["a.jpg", "b.jpg"]), as_images(np.array([["a.jpg"]])), as_images([[1, 2]])
    (['a.jpg', 'b.jpg'], ['a.jpg'], None)
    """
    if isinstance(X, (list, tuple)):
        if X and all(isinstance(item, (str, os.PathLike)) for item in X):
            return list(X)
        return _stacked(X) if X and np.ndim(X[0]) >= 2 else None
    if hasattr(X, "to_numpy"):  # a column of pandas or Polars, or a table of theirs
        X = X.to_numpy()
    if not isinstance(X, np.ndarray):
        return None
    if X.dtype.kind in "OUT" and X.size and (X.ndim == 1 or X.shape[1:] == (1,)):
        items = X.ravel().tolist()
        return items if all(isinstance(item, (str, os.PathLike)) for item in items) else None
    return X if X.ndim in (3, 4) else None


def check_words(X: Any) -> None:
    """Columns of a DataFrame hold numbers, or what reads as such.

    Raises: DataError naming the first that holds words.
    """
    for name in getattr(X, "columns", ()):
        values = np.asarray(X[name].to_numpy())
        word = next((v for v in values if isinstance(v, str) and not _is_number(v)), None)
        if word is not None:
            raise DataError(
                f"X: column {name!r} holds words ({word[:20]!r}); encode it in a pipeline "
                "(OneHotEncoder), or give the table to warmstart.fit, which takes words"
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _stacked(images: Any) -> NDArray[Any]:
    try:
        return np.asarray(images)
    except ValueError:
        raise DataError(
            "X holds images of different shapes; resize them to one, or give file paths"
        ) from None


def row_weights(given: ArrayLike | None, n: int) -> tuple[Array, NDArray[np.bool_]]:
    """The weight of each row, and which rows count. Shapes: (n,), (n,)."""
    if given is None:
        return np.ones(n), np.ones(n, dtype=bool)
    weights = np.asarray(given, dtype=np.float64)
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
        return np.ones(len(weights))  # exactly: they are as good as none
    share = weights / largest  # first: the sum of the largest numbers overflows
    found: Array = share / share.mean()
    return found


def distinct(rows: Array, targets: NDArray[Any], weights: Array) -> tuple[Array, Any, Array]:
    """Each pair of row and target once, in the order of the first, with weights of mean 1.

    So a row that is given twice counts as one of twice the weight.
    Shapes: rows (n, d), targets (n,), weights (n,) above zero.

    >>> x, y = np.array([[1.0], [2.0], [1.0], [1.0]]), np.array([0, 1, 0, 1])
    >>> [part.tolist() for part in distinct(x, y, np.ones(4))]
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


def taken(images: Any, keep: NDArray[np.bool_]) -> Any:
    """The images that count."""
    if isinstance(images, np.ndarray):
        return images if keep.all() else images[keep]
    return [image for image, is_kept in zip(images, keep, strict=True) if is_kept]


def merged(
    images: Any, numbers: NDArray[np.int64], weights: Array
) -> tuple[Any, NDArray[np.int64], Array]:
    """A path that is given several times, as a bootstrap does, counts as often in one row."""
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
    """What the classes are called in a run: by themselves, or by number where that is unclear."""
    names = tuple(str(label) for label in classes.tolist())
    is_clear = len(set(names)) == len(names) and all(n and n == n.strip() for n in names)
    return names if is_clear else tuple(map(str, range(len(names))))


def seed_from(given: int | np.random.RandomState | None) -> int:
    """The seed of a run: 0 where nothing is given, so that a fit can be repeated."""
    if given is None:
        return 0
    if isinstance(given, Integral):
        return int(given)
    return int(check_random_state(given).randint(2**31))


def logits_of(answers: Answerer, images: Any) -> Array:
    """Each path is asked about once, however often X names it. Shapes: (n, K)."""
    if isinstance(images, np.ndarray):
        return answers.logits(images)
    unique = list(dict.fromkeys(map(os.fspath, images)))
    row = {path: number for number, path in enumerate(unique)}
    found: Array = answers.logits(unique)[[row[os.fspath(path)] for path in images]]
    return found
