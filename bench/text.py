"""Texts: `fit` beside SetFit, a full fine-tune and logistic regression with the same encoder.

Each fit is a line of results/text.jsonl, by method, set, size and seed; what is there already is
not done again, so that a long measurement may be cut into pieces (`--minutes`).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import warmstart
from bench import results
from warmstart.features.engine import make_engine
from warmstart.modalities.text import token_numbers
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.registry import SHIPPED_TEXT, shipped_files

LINES = results.FOLDER / "text.jsonl"
OURS, PEERS = ("fast", "balanced"), ("setfit", "trainer")
METHODS = (*OURS, "logistic", *PEERS, "shuffled", "cut")
LATE, MANY, FILLER = "late", 150, 260  # the made set of long texts: its name, rows, words ahead
ALL = "all"
PEERS_FILE = Path(__file__).with_name("text_peers.py")
Texts = tuple[list[str], NDArray[np.str_]]
Row = dict[str, Any]
Cell = tuple[str, str, str, int]  # method, set, size, seed
FIRST = 100  # seed of the first draw: on those before it the rule for few texts was chosen


def add_options(parser: ArgumentParser) -> None:
    """--methods, --sets, --sizes, --draws, --minutes, --python, --iterations."""
    parser.add_argument("--methods", nargs="+", default=["fast", "logistic"], choices=METHODS)
    parser.add_argument("--sets", nargs="+", default=["trec6", "sst2"])
    parser.add_argument("--sizes", nargs="+", default=["8", ALL], help="texts a class, or all")
    parser.add_argument("--draws", type=int, default=10, help="of so many a class")
    parser.add_argument("--minutes", type=float, help="begin no further fit after so long")
    parser.add_argument("--python", default=sys.executable, help="that has setfit installed")
    parser.add_argument("--iterations", type=int, default=20, help="SetFit's, of many texts")


def measure(args: Namespace) -> dict[str, Any]:
    """Fit what is asked for and missing; the means are over all lines that are kept.

    Seconds are the processor's, until there is a model, without imports: ours of a whole run with
    an empty cache and its report, the others' of training; all on one thread where OMP_NUM_THREADS
    says so. The regression's leave the encoder's
    pass out. Random labels (`shuffled`) are the same texts with their labels shuffled, which must
    ship nothing.
    """
    ends = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    done = {_cell(row) for row in _kept()}
    for cell in _wanted(args):
        if cell not in done and time.monotonic() < ends:
            row = {
                **dict(zip(("method", "set", "size", "seed"), cell, strict=True)),
                **_fit(cell, args),
            }
            results.add(LINES, row)
    return {"rows": _means(_kept())}


def _wanted(args: Namespace) -> Iterator[Cell]:
    for name in args.sets:
        for size in args.sizes:
            for seed in range(FIRST, FIRST + (1 if size == ALL else args.draws)):
                yield from ((method, name, size, seed) for method in args.methods)


def _kept() -> list[Row]:
    return results.lines(LINES)


def _cell(row: Row) -> Cell:
    return row["method"], row["set"], row["size"], row["seed"]


def _means(rows: Sequence[Row]) -> list[Row]:
    """One row a method, set and size."""
    result: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        result.setdefault((row["set"], row["size"], row["method"]), []).append(row)
    return [_summed(name, size, method, of) for (name, size, method), of in sorted(result.items())]


def _summed(name: str, size: str, method: str, of: Sequence[Row]) -> Row:
    output = ("shipped", "verdict", "pairs")
    return {
        "set": name,
        "size": size,
        "method": method,
        "draws": len(of),
        "accuracy": _mean(of, "accuracy", 4),
        "balanced": _mean(of, "balanced", 4),
        "seconds": _mean(of, "seconds", 2),
        "answering": _mean(of, "answering", 2),
        **{key: sorted({row[key] for row in of}) for key in output if key in of[0]},
        **({"sentence": of[0]["sentence"]} if "sentence" in of[0] and size == ALL else {}),
    }


def _mean(rows: Sequence[Row], key: str, digits: int) -> float | None:
    result = [row[key] for row in rows if row.get(key) is not None]
    return round(float(np.mean(result)), digits) if result else None


# ---- one fit -----------------------------------------------------------------------------


def _fit(cell: Cell, args: Namespace) -> Row:
    method, name, size, seed = cell
    root = args.data or Path(warmstart.__file__).parents[3] / "shared" / "data" / "text"
    train, test = (read_block(root, name, block) for block in ("train", "test"))
    rows = np.arange(len(train[0])) if size == ALL else draw(train[1], int(size), seed)
    train = [train[0][row] for row in rows], train[1][rows]
    if method == "logistic":
        return _logistic(train, test)
    if method in PEERS:
        return _peer(method, train, test, seed, args)
    if method == "shuffled":
        train = train[0], np.random.default_rng(seed).permutation(train[1])
    settings = ["input.size=256"] if method == "cut" else []
    return _ours(method if method in OURS else "fast", train, test, settings)


def read_block(root: Path, name: str, block: str) -> Texts:
    """A part of a set; of `late` made of two: three film sentences of a class behind questions."""
    if name != LATE:
        return read(root / name / f"{block}.csv")
    rng = np.random.default_rng([0, block == "test"])
    questions, (reported, labels) = (read(root / one / f"{block}.csv") for one in ("trec6", "sst2"))
    texts = []
    for label in labels[:MANY]:
        words = " ".join(rng.permutation(questions[0])).split()[:FILLER]
        output = rng.choice(np.flatnonzero(labels == label), 3, replace=False)
        texts.append(" ".join([*words, *(reported[row] for row in output)]))
    return texts, labels[:MANY]


def read(path: Path) -> Texts:
    """Texts and labels of a table."""
    with open(path, encoding="utf-8", newline="") as file:
        result = list(csv.DictReader(file))
    return [row["text"] for row in result], np.array([row["label"] for row in result])


def draw(labels: NDArray[np.str_], a_class: int, seed: int) -> NDArray[np.intp]:
    """So many rows of each class, or all that it has."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.choice(p, min(a_class, len(p)), replace=False) for p in places])


@cache
def _imported() -> None:
    """A fit of nothing much, which imports what later ones need."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WARMSTART_CACHE"] = str(Path(folder) / "cache")
        texts = [f"{word} {other}" for word in "abcd" for other in "efgh"]
        warmstart.fit((texts, ["odd", "even"] * 8), budget="fast", out=Path(folder) / "run")


def _ours(budget: Any, train: Texts, test: Texts, settings: Sequence[str]) -> Row:
    _imported()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WARMSTART_CACHE"] = str(Path(folder) / "cache")
        began = time.process_time()
        run = warmstart.fit(train, budget=budget, out=Path(folder) / "run", settings=settings)
        fitted = time.process_time()
        result = run.summary
        output: Row = {
            "estimate": run.estimate and run.estimate.value,
            "verdict": result.verdict.kind,
            "shipped": result.shipped.strategy,
            "sentence": result.verdict.sentence,
        }
        if result.shipped.strategy != "none":
            labels = [answer.label for answer in run.predict(test[0])]
            output |= _scores(labels, test[1])
    return {**output, "seconds": fitted - began, "answering": time.process_time() - fitted}


def _scores(labels: Sequence[str], wanted: NDArray[np.str_]) -> Row:
    hits = np.array(labels) == wanted
    recalls = [hits[wanted == label].mean() for label in np.unique(wanted)]
    return {"accuracy": float(hits.mean()), "balanced": float(np.mean(recalls))}


def _logistic(train: Texts, test: Texts) -> Row:
    """scikit-learn's, C = 1, on the mean of the last layer, brought to length 1 as is usual."""
    result, requested = pooled(tuple(train[0])), pooled(tuple(test[0]))
    began = time.process_time()
    plain = LogisticRegression(max_iter=2000).fit(result, train[1])
    labels = plain.predict(requested)
    return {**_scores(labels, test[1]), "seconds": time.process_time() - began}


@lru_cache(maxsize=4)
def pooled(texts: tuple[str, ...]) -> NDArray[np.float32]:
    """The mean of the last layer, of length 1. Shapes: (n, d)."""
    base = load("minilm")
    inputs: Any = base.record.preprocessing
    network = cut(base.module, inputs)
    run = make_engine(
        "torch", FeatureExtractor(network, feature_layers(network.record)[-1:]), inputs, 1
    )
    encoded = np.stack([token_numbers(text, inputs) for text in texts])
    order = np.argsort((encoded != inputs.pad).sum(axis=1), kind="stable")
    result = np.empty((len(texts), network.record.neck_width), np.float32)
    for at in range(0, len(order), 32):
        result[order[at : at + 32]] = run(encoded[order[at : at + 32]])[0]
    return np.asarray(result / np.linalg.norm(result, axis=1, keepdims=True))


def _peer(method: str, train: Texts, test: Texts, seed: int, args: Namespace) -> Row:
    """In a process of the Python that has it."""
    encoder = str(shipped_files(SHIPPED_TEXT["minilm"])[0].parent)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{block}.csv" for block in ("train", "test")]
        for file, (texts, labels) in zip(files, (train, test), strict=True):
            with open(file, "w", encoding="utf-8", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(["text", "label"])
                writer.writerows(zip(texts, labels, strict=True))
        done = subprocess.run(
            [
                args.python,
                str(PEERS_FILE),
                method,
                encoder,
                *map(str, files),
                "--seed",
                str(seed),
                "--iterations",
                str(args.iterations),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(f"{method}: {done.stderr.strip()[-500:]}")
    output: Row = json.loads(done.stdout.strip().splitlines()[-1])
    labels = output.pop("labels")
    return {**output, **_scores(labels, test[1])}
