"""Blocks that must stay together, and stratified folds that respect them."""

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
from warmstart.records.data import Example, Finding

# ---- Groups guessed from names. They are proposed to the user and never acted on.


# What people call the person, thing or occasion that several images come from.
_THINGS = (
    "patient",
    "subject",
    "group",
    "person",
    "session",
    "visit",
    "slide",
    "video",
    "clip",
    "scene",
    "case",
    "donor",
    "site",
    "camera",
    "burst",
)
GROUP_NAMES = frozenset((*_THINGS, *(thing + "id" for thing in _THINGS), "lesionid"))
MIN_SERIES = 3
# `person03_07`, `p12-3`, `IMG_0012 (2)`: a key that holds a digit, a separator, a number.
_SERIES = re.compile(r"(?P<key>.*\d.*)(?P<sep>[_\-. ])(?:\d+|\(\d+\))")


def propose_columns(table: Table, taken: Sequence[str | None], source: str) -> tuple[Finding, ...]:
    """A finding for each column that is called like a group and whose values come again.

    Columns in `taken` (path, label, split) and those with one value only are passed over.

    >>> from warmstart.data.parsing import parse
    >>> table = parse(b"path,label,patient\\na,x,1\\nb,y,1\\nc,x,2\\n", "labels.csv")
    >>> print(propose_columns(table, ["path", "label"], "labels.csv")[0].sentence)
    Column "patient" of labels.csv (2 values) looks like a group; if rows of one patient \
belong together, add --group patient
    """
    findings = []
    for column in table.columns:
        if column in taken or re.sub(r"[\W_]", "", column.casefold()) not in GROUP_NAMES:
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

    At least half of the names must match one pattern <key><separator><number>, with three keys
    or more that hold a digit and are no class, more keys than classes, and two files a key on
    average: plain numbers (`012.jpg`, `cat_12.jpg`) are no series.

    >>> rows = [Row(id=f"cat/p{i // 4}_{i}.jpg", label="cat") for i in range(12)]
    >>> print(propose_series(rows, "photos")[0].sentence)
    File names in photos look like 3 series (p0_0.jpg is one of 4 with "p0"); if those of a \
series belong together, list them in a table with a column for it and add --group COLUMN
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


# ---- Folds of rows with several labels each: every label in proportion, blocks whole.
#
# Source: Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of multi-label data": rows
# with the label that has the fewest left come first, and go to the fold that wants it the most.
# Blocks of dependent rows take the place of rows.


Numbers = NDArray[np.int64]


def stratify(sets: NDArray[Any], block: Numbers, n_folds: int, rng: np.random.Generator) -> Numbers:
    """The fold of each block, 0..n_folds-1; none is empty.

    Shapes: sets (n, K) of 0 and 1, block (n,) in 0..G-1 with G >= n_folds; returns (G,).

    >>> sets = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> found = stratify(sets, np.arange(4), 2, np.random.default_rng(0))
    >>> sorted(found[:2].tolist()), sorted(found[2:].tolist())
    ([0, 1], [0, 1])
    """
    n_groups, n_labels = int(block.max()) + 1, sets.shape[1]
    held = np.zeros((n_groups, n_labels))
    np.add.at(held, block, sets.astype(float))
    sizes = np.bincount(block).astype(float)
    wanted = np.tile(held.sum(axis=0) / n_folds, (n_folds, 1))
    room = np.full(n_folds, sizes.sum() / n_folds)
    found = np.full(n_groups, -1, dtype=np.int64)
    left = rng.permutation(n_groups)
    while len(left):
        counts = (held[left] > 0).sum(axis=0)
        label = int(np.where(counts > 0, counts, np.inf).argmin()) if counts.any() else -1
        has = left if label < 0 else left[held[left, label] > 0]
        for one in has[np.argsort(-sizes[has], kind="stable")]:
            fold = _neediest(wanted[:, label] if label >= 0 else room, room, rng)
            found[one] = fold
            wanted[fold] -= held[one]
            room[fold] -= sizes[one]
        left = left[found[left] < 0]
    return _filled(found, sizes, n_folds)


def _neediest(
    want: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator
) -> int:
    """The fold that wants it the most; of several, the emptiest; of those, any."""
    best = np.flatnonzero(want >= want.max() - 1e-9)
    best = best[room[best] >= room[best].max() - 1e-9]
    return int(best[rng.integers(len(best))])


def _filled(found: Numbers, sizes: NDArray[np.float64], n_folds: int) -> Numbers:
    """An empty fold takes the smallest block of the fold with the most of them."""
    for fold in range(n_folds):
        if not (found == fold).any():
            fullest = int(np.bincount(found, minlength=n_folds).argmax())
            members = np.flatnonzero(found == fullest)
            found[members[sizes[members].argmin()]] = fold
    return found


def group_numbers(
    examples: Sequence[Example], near_duplicates: Iterable[tuple[str, str]] = ()
) -> NDArray[np.int64]:
    """Number the sets of examples linked by equal bytes, an equal group or near copies.

    `near_duplicates` are pairs of ids; those of other examples are passed over.
    Returns: (N,) int64, connected components numbered by first appearance.

    >>> rows = [("a", "s1", "u1"), ("b", "s2", "u2"), ("c", "s1", "u2"), ("d", "s3", None)]
    >>> group_numbers([Example(id=i, label="x", split="train", sha256=s, group=g) for i, s, g in rows])
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
    place = {example.id: index for index, example in enumerate(examples)}
    for index, example in enumerate(examples):
        link(first.setdefault(("bytes", example.sha256), index), index)
        if example.group is not None:
            link(first.setdefault(("group", example.group), index), index)
    for one, other in near_duplicates:
        if one in place and other in place:
            link(place[one], place[other])
    numbers: dict[int, int] = {}
    return np.array(
        [numbers.setdefault(find(index), len(numbers)) for index in range(len(examples))],
        dtype=np.int64,
    )


def folds(
    labels: ArrayLike, groups: ArrayLike, n_folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Assign each example to a fold: whole blocks, classes and sizes as equal as possible.

    Largest blocks first, each into the fold that is emptiest in its classes. Where every block
    is one example, the counts of a class differ by at most 1 between folds. With fewer blocks
    than `n_folds` there are as many folds as blocks; no fold is empty. A class that lies in one
    block only is absent from training when its own fold is held out.
    Where rows have several labels, each of those is kept in proportion.
    Shapes: labels (N,) of any sortable kind, or (N, K) of 0 and 1, blocks (N,) int; returns
    (N,) int64 in 0..F-1.
    Raises: DataError if there are fewer than 2 blocks, UsageError if n_folds < 2.

    >>> folds([0, 0, 1, 1], [0, 1, 2, 3], 2, np.random.default_rng(0)).tolist()
    [0, 1, 1, 0]
    """
    if n_folds < 2:
        raise UsageError(f"{n_folds} folds cannot be compared; ask for at least 2")
    block = np.unique(np.asarray(groups), return_inverse=True)[1]
    n_groups = int(block.max(initial=-1)) + 1
    if n_groups < 2:
        raise DataError(
            "all training examples belong together (same bytes or same group), so no part can "
            "be held out; add examples of another group, or leave --group away"
        )
    n_folds = min(n_folds, n_groups)
    if np.ndim(labels) == 2:
        return stratify(np.asarray(labels), block, n_folds, rng)[block]
    classes, label = np.unique(np.asarray(labels), return_inverse=True)
    held = np.zeros((n_folds, len(classes)))  # examples of each class in each fold
    total = np.zeros(n_folds)
    per_class = 1.0 / np.bincount(label)
    fold_of_group = np.empty(n_groups, dtype=np.int64)
    cells = _cells(label, block, len(classes))
    for index in _order(cells, rng):
        members, sizes = cells[index]
        # The sum of squared shares grows by twice this dot product (and a constant).
        growth = held[:, members] @ (sizes * per_class[members]) + total * sizes.sum() / len(label)
        fold = int(growth.argmin())
        held[fold, members] += sizes
        total[fold] += sizes.sum()
        fold_of_group[index] = fold
    return rng.permutation(n_folds)[fold_of_group[block]]


Cell = tuple[NDArray[np.int64], NDArray[np.int64]]  # the classes in a block, and how many of each


def _cells(label: NDArray[np.int64], block: NDArray[np.int64], n_classes: int) -> list[Cell]:
    pairs, sizes = np.unique(block * n_classes + label, return_counts=True)
    models = np.flatnonzero(np.diff(pairs // n_classes)) + 1
    members = np.split(pairs % n_classes, models)
    return list(zip(members, np.split(sizes, models), strict=True))


def _order(cells: Sequence[Cell], rng: np.random.Generator) -> NDArray[np.intp]:
    """Large before small, class by class (which keeps fold sizes equal), else at random."""
    size = np.array([int(sizes.sum()) for _, sizes in cells])
    main = np.array([int(members[sizes.argmax()]) for members, sizes in cells])
    return np.lexsort((rng.permutation(len(cells)), main, -size))
