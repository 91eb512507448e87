"""Many shots of one object: are they joined, and is what is claimed for other objects true?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import alter, pools
from bench.alter import Seen
from warmstart.data.near_duplicates import NearDuplicate, find_near_duplicates, unit_features
from warmstart.stats.metrics import accuracy_estimate

OBJECTS = 40

Rows = NDArray[np.intp]
Row = dict[str, Any]


def _exposed(folder: Path, seen: Seen, seed: int) -> tuple[Seen, Rows, Rows]:
    """6 altered copies of each of 40 training images: rows, and the object of each row."""
    source = alter.two_a_class(seen, OBJECTS, np.random.default_rng([seed, 5]))
    ids = [seen.ids[row] for row in source for _ in alter.EXPOSURES]
    copies, where = alter.altered(folder, ids, list(alter.EXPOSURES) * len(source), seed)
    objects = np.empty(len(where), dtype=np.intp)
    objects[where] = np.repeat(np.arange(len(source)), len(alter.EXPOSURES))
    return copies, objects, source


def _components(near_duplicates: Sequence[NearDuplicate], n: int) -> list[Rows]:
    root = np.arange(n)
    for twin in near_duplicates:
        root[root == root[twin.second]] = root[twin.first]
    return [np.flatnonzero(root == r) for r in np.unique(root)]


def joined_and_mixed(name: str, folder: Path, seen: Seen) -> Row:
    """Are the copies of an object joined, and different objects kept apart?"""
    copies, objects, _ = _exposed(folder, seen, seed=0)
    joined = _components(
        find_near_duplicates(copies.glances, unit_features(copies.neck)), len(objects)
    )
    largest = {o: max(int((objects[rows] == o).sum()) for rows in joined) for o in set(objects)}
    return {
        "set": name,
        "planted": "40 x 6 exposures",
        "joined": round(sum(largest.values()) / len(objects), 4),
        "mixed": sum(len(set(objects[rows])) > 1 for rows in joined),
    }


def claimed(name: str, folder: Path, seen: Seen, seed: int) -> Row:
    """Learn from 6 copies of 40 objects: what is claimed, and what holds for other objects."""
    copies, _, source = _exposed(folder, seen, seed)
    n, labels = len(copies.ids), copies.labels
    rest = np.setdiff1d(np.arange(len(seen.ids)), source)
    row: Row = {"set": name, "planted": "exposures, estimate", "draw": seed}
    for word, group_rows in (
        (
            "joined",
            _components(find_near_duplicates(copies.glances, unit_features(copies.neck)), n),
        ),
        ("apart", [np.array([i]) for i in range(n)]),
    ):
        fit = pools.fit_rows(
            copies.pool, np.arange(n), labels, np.random.default_rng(0), group_rows
        )
        groups = np.empty(n, dtype=np.int64)
        for number, rows in enumerate(group_rows):
            groups[rows] = number
        claim = accuracy_estimate(fit.probabilities, labels, groups, "nested-cv")
        truth = float((pools.predict(fit, seen.pool, rest) == seen.labels[rest]).mean())
        row |= {word: round(claim.value, 4), f"{word} low": round(claim.low, 4)}
        row |= {f"{word} high": round(claim.high, 4), f"truth, {word}": round(truth, 4)}
    row["truth"] = row["truth, joined"]
    row["holds"] = bool(row["joined low"] <= row["truth"] <= row["joined high"])
    return row
