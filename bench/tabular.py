"""A run as base model for a related table: 100 rows, against the same network from scratch."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

import warmstart
from bench import results
from warmstart.api.run import Run
from warmstart.modalities.table import encode_row, pack
from warmstart.records.data import DataRecord
from warmstart.records.inputs import TableInputs
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Scores
from warmstart.stats.paired import mean_interval

PAIRS = (
    ("wine_white", "wine_red"),
    ("wine_red", "wine_white"),
    ("heart_cleveland", "heart_hungarian"),
    ("heart_hungarian", "heart_cleveland"),
)
ROWS = 100
KEPT = results.FOLDER / "tabular.jsonl"
METHODS = ("warm", "scratch", "boosting", "logistic")
Cells = list[dict[str, str]]
Line = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """--pairs, --draws, --minutes, --runs, --again."""
    parser.add_argument("--pairs", nargs="+", help="OLDER:NEWER of the tables, all if not given")
    parser.add_argument("--draws", type=int, default=20, help="draws of new rows a pair")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no draw after these")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs on older tables")
    parser.add_argument("--again", action="store_true", help="make anew what is kept already")


def measure(args: Namespace) -> dict[str, Any]:
    """The older table's train part is learnt from nothing, all layers; then draws of the newer.

    On the same 100 rows, judged on all others, with `--budget fast`: `warm` is what
    `fit --base RUN` ships, `scratch` the same network with `--strategy scratch`. Where no signal
    is found and nothing would be shipped, `warm` is `--strategy full`: scratch is trained all the
    same, too. Beside them, on the same columns: scikit-learn's GradientBoostingClassifier and
    LogisticRegression as they come. Each draw is a line of results/tabular.jsonl; those that are
    there are not made again.
    """
    lines = [] if args.again or not KEPT.exists() else _lines(KEPT)
    until = time.monotonic() + 60 * args.minutes
    for older, newer in [tuple(p.split(":")) for p in args.pairs or ()] or PAIRS:
        made = {line["seed"] for line in lines if (line["older"], line["newer"]) == (older, newer)}
        todo = [seed for seed in range(args.draws) if seed not in made]
        if not todo or time.monotonic() > until:
            continue
        with tempfile.TemporaryDirectory() as folder:
            first = _older(args.data / older / "train.csv", args.runs or Path(folder))
            for line in _draws(args.data, first, Path(folder), older, newer, todo, until):
                lines.append(line)
                KEPT.write_text("".join(json.dumps(one) + "\n" for one in lines))
                print(line, file=sys.stderr, flush=True)
    rows = [row for older, newer in PAIRS if (row := _row(lines, older, newer))]
    return {"summary": _summary(rows), "rows": rows}


def _lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _older(table: Path, folder: Path) -> Path:
    """The run on the older table, made where it is not there yet."""
    out = folder / table.parent.name
    if not (out / "DONE").exists():
        warmstart.fit(table, strategy="scratch", out=out, budget="fast")
    return out


def _draws(
    data: Path,
    first: Path,
    folder: Path,
    older: str,
    newer: str,
    seeds: Sequence[int],
    until: float,
) -> Iterator[Line]:
    contenders: dict[str, dict[str, Any]] = {
        "warm": {"base": str(first)},
        "scratch": {"strategy": "scratch"},
    }
    cells = _read(data / newer / "train.csv") + _read(data / newer / "test.csv")
    for seed in seeds:
        if time.monotonic() > until:
            return
        order = np.random.default_rng([seed, ROWS]).permutation(len(cells))
        blocks = {"train": order[:ROWS], "test": order[ROWS:]}
        paths = {name: folder / f"{name}-{seed}.csv" for name in blocks}
        for name, picked in blocks.items():
            _write(paths[name], [cells[row] for row in picked])
        options: dict[str, Any] = {"test": paths["test"], "seed": seed, "budget": "fast"}
        began = time.process_time()
        runs = {
            name: warmstart.fit(paths["train"], out=folder / f"{name}-{seed}", **options, **own)
            for name, own in contenders.items()
        }
        shipped = runs["warm"].summary.shipped.strategy
        if shipped == "none":  # no signal: trained all the same, as the other is
            output = {**options, **contenders["warm"], "strategy": "full"}
            runs["warm"] = warmstart.fit(paths["train"], out=folder / f"full-{seed}", **output)
        seconds = time.process_time() - began
        train, test = ([cells[row] for row in blocks[name]] for name in ("train", "test"))
        yield {
            "older": older,
            "newer": newer,
            "seed": seed,
            **{name: _accuracy(run) for name, run in runs.items()},
            **_beside(runs["scratch"], train, test),
            "processor_s": round(seconds, 1),
            "shipped": shipped,
        }


def _read(path: Path) -> Cells:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, cells: Cells) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(cells[0]))
        writer.writeheader()
        writer.writerows(cells)


def _accuracy(run: Run) -> float:
    """On the test part, which every run has that shipped a model."""
    return round(run.test.accuracy, 4) if isinstance(run.test, Scores) else float("nan")


def _beside(run: Run, train: Cells, test: Cells) -> dict[str, float]:
    inputs = TableInputs(columns=read_json(run.path / "data.json", DataRecord).columns)
    x, y = _encoded(train, inputs)
    others, truth = _encoded(test, inputs)
    models = {
        "boosting": GradientBoostingClassifier(random_state=0),
        "logistic": LogisticRegression(max_iter=1000),
    }
    return {name: round(float(m.fit(x, y).score(others, truth)), 4) for name, m in models.items()}


def _encoded(cells: Cells, inputs: TableInputs) -> tuple[NDArray[np.float32], list[str]]:
    rows = [encode_row(pack(row), "a row", inputs) for row in cells]
    return np.stack(rows), [row["label"] for row in cells]


def _row(lines: Sequence[Line], older: str, newer: str) -> Line:
    """Means over the draws of a pair, and how far apart on the same draws; {} without any."""
    own = [line for line in lines if (line["older"], line["newer"]) == (older, newer)]
    if len(own) < 2:
        return {}
    scores = {name: np.array([line[name] for line in own]) for name in METHODS}
    result: Line = {"older": older, "newer": newer, "draws": len(own)}
    result |= {name: round(float(each.mean()), 4) for name, each in scores.items()}
    result["processor_s"] = round(float(np.mean([line["processor_s"] for line in own])), 1)
    for other in METHODS[1:]:
        gain = scores["warm"] - scores[other]
        value, low, high = mean_interval(gain, np.arange(len(gain)))
        result[f"warm over {other}"] = round(value, 4)
        result |= {f"{other}, low": round(low, 4), f"{other}, high": round(high, 4)}
    return result


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    output: dict[str, Any] = {
        f"{row['older']} to {row['newer']}": (
            f"warm {row['warm']:.3f}, scratch {row['scratch']:.3f} (warm over scratch "
            f"{row['scratch, low']:+.3f} to {row['scratch, high']:+.3f}), "
            f"boosting {row['boosting']:.3f}, logistic {row['logistic']:.3f}"
        )
        for row in rows
    }
    output["pairs won beyond noise"] = sum(row["scratch, low"] > 0 for row in rows)
    output["pairs lost beyond noise"] = sum(row["scratch, high"] < 0 for row in rows)
    return output
