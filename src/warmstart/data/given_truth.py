"""What is given as y: class labels (N,), numbers (N,), several labels as a matrix or as lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from warmstart.errors import DataError
from warmstart.records.labels import SEPARATOR

MANY = 20  # more different fractions than this are a measurement


@dataclass(frozen=True, slots=True)
class GivenTruth:
    """A text a row, what they plainly are, names of outputs, and why they are no classes."""

    texts: Sequence[str]
    form: Literal["texts", "sets", "numbers"] = "texts"
    outputs: tuple[str, ...] = ()
    doubt: str = ""


def read_truth(labels: Any) -> GivenTruth:
    """Read y: texts, whole numbers or fractions (N,); 0 and 1 (N, K); or N lists of names.

    The labels of a matrix are called by the number of their column, or of a DataFrame by its
    name. Raises: DataError naming the row of a value that is no label.

    >>> read_truth([[1, 0], [1, 1]]).texts, read_truth([["b", "a"], []]).texts
    (['0', '0|1'], ['a|b', ''])
    """
    if (lists := _lists(labels)) is not None:
        return GivenTruth([_joined(names) for names in lists], "sets")
    values = np.asarray(labels)
    if values.ndim == 2 and values.shape[1] > 1 and _is_binary(values):
        names = tuple(map(str, getattr(labels, "columns", range(values.shape[1]))))
        rows = [[names[k] for k in np.flatnonzero(row)] for row in values]
        texts = [_joined(row) for row in rows]
        if (values.sum(axis=1) == 1).all():  # as others code one class
            why = f"y has shape {values.shape} and one 1 a row; give y.argmax(axis=1), one label"
            return GivenTruth(texts, "texts", names, f'{why} per row, or task="multilabel"')
        return GivenTruth(texts, "sets", names)
    if values.ndim != 1:
        raise DataError(
            f"y has shape {values.shape}; give one label per row, or 0 and 1 (N, K) for several"
        )
    texts, doubt = [], ""
    for index, value in enumerate(values.tolist()):
        text, why = _label(value, index)
        texts.append(text)
        doubt = doubt or why
    fractions = {t for t, v in zip(texts, values.tolist(), strict=True) if _is_fraction(v)}
    is_many = len(fractions) > min(MANY, max(len(texts) // 2, 2))
    return GivenTruth(texts, "numbers" if is_many else "texts", (), doubt)


def _label(value: object, index: int) -> tuple[str, str]:
    """A label as text, and why it is no class."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        why = f"y[{index}] is {value}; class labels are texts or whole numbers"
        return repr(value), f'{why} (numbers: task="regress")'
    name = str(value).strip() if isinstance(value, (str, int)) else ""
    if not name:
        raise DataError(f"y[{index}] is {value!r}, which is no label; fill it in or drop the row")
    return name, ""


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and np.isfinite(value) and not value.is_integer()


def _is_binary(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "buif" and bool(np.isin(values, (0, 1)).all())


def _lists(labels: Any) -> list[list[str]] | None:
    """N lists of names; None for anything else."""
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "O":
        return None
    if not isinstance(labels, (list, tuple, np.ndarray)) or not len(labels):
        return None
    if not all(isinstance(row, (list, tuple, set, frozenset)) for row in labels):
        return None
    if all(isinstance(name, (int, float, np.number)) for row in labels for name in row):
        sizes = {len(row) for row in labels}
        if len(sizes) == 1 and sizes != {0}:
            return None  # rows of a matrix
    return [[str(name).strip() for name in row] for row in labels]


def _joined(names: Sequence[str]) -> str:
    bad = next((name for name in names if SEPARATOR in name or not name), None)
    if bad is not None:
        raise DataError(f"y has the label {bad!r}; labels are texts without {SEPARATOR!r}")
    return SEPARATOR.join(sorted(set(names)))
