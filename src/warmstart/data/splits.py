"""Groups that must stay together, and stratified folds that keep them whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from warmstart.data.dataset import Row
from warmstart.data.parsing import Table
from warmstart.errors import DataError, UsageError
from warmstart.records.data import Example
from warmstart.records.findings import Finding

# ---- Groups guessed from names. They are proposed to the user and never acted on.

# Common names for the person, thing or occasion that several images come from.
_PEOPLE = ("patient", "subject", "group", "person", "donor", "case", "site", "camera")
_NAMES = (*_PEOPLE, "session", "visit", "slide", "video", "clip", "scene", "burst")
GROUP_NAMES = frozenset((*_NAMES, *(name + "id" for name in _NAMES), "lesionid"))
MIN_SERIES = 3
# `person03_07`, `p12-3`, `IMG_0012 (2)`: a key that holds a digit, a separator, a number.
_SERIES = re.compile(r"(?P<key>.*\d.*)(?P<sep>[_\-. ])(?:\d+|\(\d+\))")


def propose_columns(
    table: Table, exclude: Sequence[str | None], source: str
) -> tuple[Finding, ...]:
    """A finding for each column with the name of a group and repeated values."""
    findings = []
    for column in table.columns:
        if column in exclude or re.sub(r"[\W_]", "", column.casefold()) not in GROUP_NAMES:
            continue
        cells = [cell.strip() for cell in table.texts(column) if cell is not None and cell.strip()]
        n_values = len(set(cells))
        if not 2 <= n_values < len(cells):
            continue
        option = f'"{column}"' if " " in column else column
        sentence = (
            f'Column "{column}" of {source} ({n_values:,} values) looks like a group; if rows of '
            f"one {column} belong together, add --group {option}"
        )
        findings.append(Finding(kind="group-proposed", sentence=sentence, items=(column,)))
    return tuple(findings)


def propose_series(rows: Sequence[Row], source: str) -> tuple[Finding, ...]:
    """A finding if file names look like series: `person03_07.jpg` is one of person03.

    At least half of the names must match one pattern <key><separator><number>, with at least
    three keys that hold a digit and are not a class, more keys than classes, and two files a key
    on average: plain numbers (`012.jpg`, `cat_12.jpg`) are not series.
    """
    classes = {row.label.casefold() for row in rows}
    by_separator: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        name = PurePosixPath(row.id).name
        match = _SERIES.fullmatch(PurePosixPath(row.id).stem)
        if match and match["key"].casefold() not in classes:
            by_separator.setdefault(match["sep"], []).append((match["key"], name))
    if not by_separator:
        return ()
    matches = max(by_separator.values(), key=len)
    sizes = Counter(key for key, _ in matches)
    enough_keys = len(sizes) >= MIN_SERIES and len(sizes) > len(classes)
    if 2 * len(matches) < len(rows) or not enough_keys or len(matches) < 2 * len(sizes):
        return ()
    key, size = sizes.most_common(1)[0]
    example = next(name for other, name in matches if other == key)
    sentence = (
        f"File names in {source} look like {len(sizes):,} series ({example} is one of "
        f'{size:,} with "{key}"); if those of a series belong together, list them in a '
        "table with a column for it and add --group COLUMN"
    )
    return (Finding(kind="group-proposed", sentence=sentence),)


# ---- Folds of rows with several labels each: every label in proportion, groups whole.
#
# Source: Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label data": rows
# with the label that has the fewest left come first, and go to the fold that lacks it most.
# Groups of dependent rows take the place of rows.

Numbers = NDArray[np.int64]


def stratify(
    sets: NDArray[Any], groups: Numbers, n_folds: int, rng: np.random.Generator
) -> Numbers:
    """The fold of each group, none empty. Shapes: sets (n, K) of 0 and 1, groups (n,)."""
    n_groups, n_labels = int(groups.max()) + 1, sets.shape[1]
    counts = np.zeros((n_groups, n_labels))  # of each label in each group
    np.add.at(counts, groups, sets.astype(float))
    sizes = np.bincount(groups).astype(float)
    lacking = np.tile(counts.sum(axis=0) / n_folds, (n_folds, 1))  # labels each fold still needs
    capacity = np.full(n_folds, sizes.sum() / n_folds)  # rows each fold still needs
    folds = np.full(n_groups, -1, dtype=np.int64)
    pending = rng.permutation(n_groups)
    while len(pending):
        n_left = (counts[pending] > 0).sum(axis=0)
        label = int(np.where(n_left > 0, n_left, np.inf).argmin()) if n_left.any() else -1
        has = pending if label < 0 else pending[counts[pending, label] > 0]
        for group in has[np.argsort(-sizes[has], kind="stable")]:
            # The fold that lacks the label most; of several, the emptiest; of those, any.
            need = lacking[:, label] if label >= 0 else capacity
            best = np.flatnonzero(need >= need.max() - 1e-9)
            best = best[capacity[best] >= capacity[best].max() - 1e-9]
            fold = int(best[rng.integers(len(best))])
            folds[group] = fold
            lacking[fold] -= counts[group]
            capacity[fold] -= sizes[group]
        pending = pending[folds[pending] < 0]
    for fold in range(n_folds):  # an empty fold takes the smallest group of the fullest fold
        if not (folds == fold).any():
            fullest = int(np.bincount(folds, minlength=n_folds).argmax())
            members = np.flatnonzero(folds == fullest)
            folds[members[sizes[members].argmin()]] = fold
    return folds


def group_numbers(
    examples: Sequence[Example], near_duplicates: Iterable[tuple[str, str]] = ()
) -> NDArray[np.int64]:
    """Number the sets of examples linked by equal bytes, an equal group or near-duplicates.

    `near_duplicates` are pairs of ids; those of other examples are ignored.
    Returns: (N,) int64, connected components numbered by first appearance.

    >>> rows = [("a", "s1", "u1"), ("b", "s2", "u2"), ("c", "s1", "u2"), ("d", "s3", None)]
    >>> examples = [Example(id=i, label="", split="train", sha256=s, group=g) for i, s, g in rows]
    >>> group_numbers(examples)
    array([0, 0, 0, 1])
    """
    root = list(range(len(examples)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]  # halve the path, so that chains stay short
            index = root[index]
        return index

    def link(one: int, other: int) -> None:
        one, other = find(one), find(other)
        root[max(one, other)] = min(one, other)  # the root is the first to appear

    first: dict[tuple[str, str], int] = {}
    indices = {example.id: index for index, example in enumerate(examples)}
    for index, example in enumerate(examples):
        link(first.setdefault(("bytes", example.sha256), index), index)
        if example.group is not None:
            link(first.setdefault(("group", example.group), index), index)
    for one, other in near_duplicates:
        if one in indices and other in indices:
            link(indices[one], indices[other])
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(find(index), len(numbers)) for index in range(len(examples))],
        dtype=np.int64,
    )


def folds(
    labels: ArrayLike, groups: ArrayLike, n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Assign each example to a fold: whole groups, classes and sizes as equal as possible.

    Largest groups first, each into the fold that is emptiest in its classes. If every group
    is one example, the counts of a class differ by at most 1 between folds. With fewer groups
    than `n_folds` there are as many folds as groups; no fold is empty. A class within a single
    group is absent from training when its fold is held out. If rows have several labels,
    each label is stratified.
    Shapes: labels (N,) of any sortable type, or (N, K) of 0 and 1, groups (N,) int; returns
    (N,) int64 in 0..F-1.
    Raises: DataError if there are fewer than 2 groups, UsageError if n_folds < 2.

    >>> folds([0, 0, 1, 1], [0, 1, 2, 3], 2, np.random.default_rng(0)).tolist()
    [0, 1, 1, 0]
    """
    if n_folds < 2:
        raise UsageError(f"{n_folds} folds cannot be compared; ask for at least 2")
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    n_groups = int(group.max(initial=-1)) + 1
    if n_groups < 2:
        raise DataError(
            "all training examples belong together (same bytes or same group), so no fold can "
            "be held out; add examples of another group, or drop --group"
        )
    n_folds = min(n_folds, n_groups)
    if np.ndim(labels) == 2:
        return stratify(np.asarray(labels), group, n_folds, rng)[group]
    classes, label = np.unique(np.asarray(labels), return_inverse=True)
    counts = np.zeros((n_folds, len(classes)))  # examples of each class in each fold
    total = np.zeros(n_folds)
    per_class = 1.0 / np.bincount(label)
    fold_of_group = np.empty(n_groups, dtype=np.int64)
    # The classes in each group, and how many examples of each.
    pairs, n_examples = np.unique(group * len(classes) + label, return_counts=True)
    first_pairs = np.flatnonzero(np.diff(pairs // len(classes))) + 1
    members = np.split(pairs % len(classes), first_pairs)
    sizes = np.split(n_examples, first_pairs)
    # Large before small, class by class (which keeps fold sizes equal), else at random.
    total_size = np.array([int(n.sum()) for n in sizes])
    main_class = np.array([int(m[n.argmax()]) for m, n in zip(members, sizes, strict=True)])
    for index in np.lexsort((rng.permutation(n_groups), main_class, -total_size)):
        present, n = members[index], sizes[index]  # classes of the group
        # The sum of squared shares grows by twice this dot product (and a constant).
        growth = counts[:, present] @ (n * per_class[present]) + total * n.sum() / len(label)
        fold = int(growth.argmin())
        counts[fold, present] += n
        total[fold] += n.sum()
        fold_of_group[index] = fold
    return rng.permutation(n_folds)[fold_of_group[group]]
