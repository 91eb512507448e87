"""Texts: heads on a frozen encoder against logistic regression on its pooled output."""

from __future__ import annotations

import csv
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import warmstart
from warmstart.features.engine import make_engine
from warmstart.network.load import load
from warmstart.network.parts import cut
from warmstart.network.taps import Tapped, taps
from warmstart.tokens import token_numbers

SETS = ("trec6", "sst2")
A_CLASS = 8
Texts = tuple[list[str], NDArray[np.str_]]


def add_options(parser: ArgumentParser) -> None:
    """--draws, --budget."""
    parser.add_argument("--draws", type=int, default=10, help="draws of 8 a class")
    parser.add_argument("--budget", default="fast", choices=("fast", "balanced"))


def measure(given: Namespace) -> dict[str, Any]:
    """Test accuracy with all 600 texts and with 8 a class, and processor seconds of each.

    The baseline is scikit-learn's logistic regression (C = 1) on the mean of the last layer,
    brought to length 1, as sentence-transformers gives it; its seconds leave the encoder out.
    Random labels: the same 600 texts with their labels shuffled, which must ship nothing.
    """
    root = given.data or Path(warmstart.__file__).parents[3] / "shared" / "data" / "text"
    rows: list[dict[str, Any]] = []
    for name in SETS:
        train, test = (_read(root / name / f"{part}.csv") for part in ("train", "test"))
        pooled = _pooled(train[0]), _pooled(test[0])
        rows.append(_compare(name, "all", [np.arange(len(train[0]))], train, test, pooled, given))
        drawn = [_draw(train[1], seed) for seed in range(given.draws)]
        rows.append(_compare(name, f"{A_CLASS} a class", drawn, train, test, pooled, given))
        rows.append(_shuffled(name, train, given))
    return {"budget": given.budget, "rows": rows}


def _read(path: Path) -> Texts:
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    return [row["text"] for row in found], np.array([row["label"] for row in found])


def _draw(labels: NDArray[np.str_], seed: int) -> NDArray[np.intp]:
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.choice(p, min(A_CLASS, len(p)), replace=False) for p in places])


def _pooled(texts: list[str]) -> NDArray[np.float32]:
    """The mean of the last layer, of length 1. Shapes: (n, d)."""
    start = load("minilm")
    inputs: Any = start.record.preprocessing
    network = cut(start.module, inputs)
    run = make_engine("torch", Tapped(network, taps(network.record)[-1:]), inputs, 1)
    encoded = np.stack([token_numbers(text, inputs) for text in texts])
    order = np.argsort((encoded != inputs.pad).sum(axis=1), kind="stable")
    found = np.empty((len(texts), network.record.neck_width), np.float32)
    for at in range(0, len(order), 32):
        found[order[at : at + 32]] = run(encoded[order[at : at + 32]])[0]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _compare(
    name: str, what: str, draws: list[NDArray[np.intp]], train: Texts, test: Texts,
    pooled: tuple[NDArray[np.float32], NDArray[np.float32]], given: Namespace,
) -> dict[str, Any]:  # fmt: skip
    ours, theirs, seconds, shipped = [], [], [], []
    for rows in draws:
        labels = train[1][rows]
        plain = LogisticRegression(max_iter=2000).fit(pooled[0][rows], labels)
        theirs.append(float(plain.score(pooled[1], test[1])))
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            run = warmstart.fit(
                ([train[0][row] for row in rows], labels), test=(test[0], test[1]),
                budget=given.budget, strategy="auto", out=Path(folder) / "run",
            )  # fmt: skip
            seconds.append(time.process_time() - began)
            shipped.append(run.summary.shipped.strategy)
            ours.append(float(run.test.accuracy) if run.test is not None else float("nan"))
    return {
        "set": name, "texts": what, "draws": len(draws),
        "warmstart": round(float(np.mean(ours)), 4), "logistic": round(float(np.mean(theirs)), 4),
        "difference": round(float(np.mean(ours) - np.mean(theirs)), 4),
        "processor_s": round(float(np.mean(seconds)), 1), "shipped": "/".join(sorted({*shipped})),
    }  # fmt: skip


def _shuffled(name: str, train: Texts, given: Namespace) -> dict[str, Any]:
    labels = np.random.default_rng(0).permutation(train[1])
    with tempfile.TemporaryDirectory() as folder:
        run = warmstart.fit((train[0], labels), budget=given.budget, out=Path(folder) / "run")
    return {
        "set": name, "texts": "labels shuffled", "draws": 1, "verdict": run.verdict.kind,
        "shipped": run.summary.shipped.strategy,
    }  # fmt: skip
