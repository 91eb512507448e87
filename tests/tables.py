"""Small tables of numbers and words on disk, whose rows tell their label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

COLUMNS = ("age", "dose", "site", "label")


def rows(n: int = 60, seed: int = 0, noise: float = 0.4, missing: bool = True) -> list[list[str]]:
    """Rows of `COLUMNS`: the label goes with age and site, dose says nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        is_ill = index % 2
        age = f"{50 + 12 * is_ill + rng.normal(0, 10 * noise):.1f}"
        dose = "" if missing and index % 7 == 3 else f"{rng.uniform(0, 5):.2f}"
        site = ("north", "south")[int(rng.random() < 0.25 + 0.5 * is_ill)]
        found.append([age, dose, site, ("well", "ill")[is_ill]])
    return found


def write(path: Path, body: list[list[str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """A CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *body])
    return path


def table(path: Path, n: int = 60, **options: object) -> Path:
    """The same of `rows`."""
    return write(path, rows(n, **options))
