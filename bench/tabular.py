"""A run on one table as the start for a related one: 100 rows, against the same network cold."""

from __future__ import annotations

import csv
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import warmstart
from warmstart.data.cells import encode_row, pack
from warmstart.folder import read_json
from warmstart.records import DataRecord, TableInputs
from warmstart.run import Run
from warmstart.stats.paired import mean_interval

PAIRS = (
    ("wine_white", "wine_red"), ("wine_red", "wine_white"),
    ("heart_cleveland", "heart_hungarian"), ("heart_hungarian", "heart_cleveland"),
)  # fmt: skip
ROWS = 100
Cells = list[dict[str, str]]


def add_options(parser: ArgumentParser) -> None:
    """--draws, --pairs."""
    parser.add_argument("--pairs", nargs="+", help="OLDER:NEWER of the tables, all if not given")
    parser.add_argument("--draws", type=int, default=10, help="draws of new rows a pair")


def measure(given: Namespace) -> dict[str, Any]:
    """The older table's train part is learnt from nothing, all layers; then draws of the newer.

    On the same 100 rows, judged on all others, with `--budget fast`: `warm` is `fit --start RUN`
    (a new output on it, as that budget has it), `scratch` the same network
    with `--strategy scratch`. Beside them, on the same columns: scikit-learn's
    GradientBoostingClassifier and LogisticRegression as they come.
    """
    rows: list[dict[str, Any]] = []
    named = [tuple(pair.split(":")) for pair in given.pairs or ()]
    for older, newer in named or PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            scores = _pair(given.data, Path(folder), older, newer, given.draws)
        rows.append({"older": older, "newer": newer, "draws": given.draws, **_row(scores)})
        print(rows[-1], flush=True)
    return {"summary": _summary(rows), "rows": rows}


def _pair(data: Path, folder: Path, older: str, newer: str, draws: int) -> dict[str, list[float]]:
    first = warmstart.fit(
        data / older / "train.csv", strategy="scratch", out=folder / "older", budget="fast"
    )
    contenders: dict[str, dict[str, Any]] = {
        "warm": {"start": str(first.path)},
        "scratch": {"strategy": "scratch"},
    }
    cells = _read(data / newer / "train.csv") + _read(data / newer / "test.csv")
    scores: dict[str, list[float]] = {}
    for seed in range(draws):
        order = np.random.default_rng([seed, ROWS]).permutation(len(cells))
        parts = {"train": order[:ROWS], "test": order[ROWS:]}
        paths = {name: folder / f"{name}-{seed}.csv" for name in parts}
        for name, picked in parts.items():
            _write(paths[name], [cells[row] for row in picked])
        options: dict[str, Any] = {"test": paths["test"], "seed": seed, "budget": "fast"}
        runs = {
            name: warmstart.fit(paths["train"], out=folder / f"{name}-{seed}", **options, **own)
            for name, own in contenders.items()
        }
        train, test = ([cells[row] for row in parts[name]] for name in ("train", "test"))
        found = {name: _accuracy(run) for name, run in runs.items()}
        found |= _beside(runs["scratch"], train, test)
        for name, accuracy in found.items():
            scores.setdefault(name, []).append(accuracy)
        print(older, newer, seed, found, flush=True)
    return scores


def _read(path: Path) -> Cells:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, cells: Cells) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(cells[0]))
        writer.writeheader()
        writer.writerows(cells)


def _accuracy(run: Run) -> float:
    """On the test part; a run that shipped nothing answers with nothing."""
    test = run.test
    return test.accuracy if test is not None else 0.0


def _beside(run: Run, train: Cells, test: Cells) -> dict[str, float]:
    inputs = TableInputs(columns=read_json(run.path / "data.json", DataRecord).columns)
    x, y = _encoded(train, inputs)
    others, truth = _encoded(test, inputs)
    models = {
        "boosting": GradientBoostingClassifier(random_state=0),
        "logistic": LogisticRegression(max_iter=1000),
    }
    return {name: float(model.fit(x, y).score(others, truth)) for name, model in models.items()}


def _encoded(cells: Cells, inputs: TableInputs) -> tuple[NDArray[np.float32], list[str]]:
    rows = [encode_row(pack(row), "a row", inputs) for row in cells]
    return np.stack(rows), [row["label"] for row in cells]


def _row(scores: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: round(float(np.mean(s)), 4) for name, s in scores.items()}
    for one, other in (("warm", "scratch"), ("warm", "boosting")):
        gain = np.subtract(scores[one], scores[other])
        value, low, high = mean_interval(gain, np.arange(len(gain)))
        name = f"{one} over {other}"
        found |= {
            name: round(value, 4), f"{name}, low": round(low, 4), f"{name}, high": round(high, 4)
        }  # fmt: skip
    return found


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{row['older']} to {row['newer']}": (
            f"warm {row['warm']:.3f}, scratch {row['scratch']:.3f} "
            f"(warm over scratch {row['warm over scratch, low']:+.3f} to "
            f"{row['warm over scratch, high']:+.3f}), boosting {row['boosting']:.3f}, logistic "
            f"{row['logistic']:.3f}"
        )
        for row in rows
    }
