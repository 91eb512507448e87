"""Exports: sizes, seconds, agreement, what a single-layer head and 8-bit numbers cost."""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import warmstart
from bench import sets
from warmstart.records.answer import Exported

FORMATS = ("onnx", "torch", "openvino", "timm", "transformers")


def add_options(parser: ArgumentParser) -> None:
    """--sets, --strategies."""
    parser.add_argument("--sets", nargs="+", default=["clothing", "ants_bees"])
    parser.add_argument("--strategies", nargs="+", default=["head"])


def measure(args: Namespace) -> dict[str, Any]:
    """One run a set and strategy; each of its exports, made and checked as a user's would be."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        for name in args.sets:
            for strategy in args.strategies:
                out = Path(place) / f"{name}-{strategy}"
                data = sets.root(args) / name
                run = warmstart.fit(data, budget="fast", strategy=strategy, out=out)
                facts = {"set": name, "strategy": strategy}
                rows += [facts | one(run, to) for to in FORMATS]
                rows.append(facts | one(run, "onnx", int8=True))
    floats = [row for row in rows if not row["format"].endswith("int8")]
    largest = max(row["largest difference of a logit"] for row in floats)
    same = all(row["same labels"] == 1 for row in floats)
    return {
        "summary": {"largest difference of a logit (32 bits)": largest, "all labels same": same},
        "rows": rows,
    }


def one(run: warmstart.Run, to: str, **options: bool) -> dict[str, Any]:
    """Make one export; what it is and what it costs."""
    began = time.perf_counter()
    output = warmstart.export(run, to, **options)
    seconds = time.perf_counter() - began
    row: dict[str, Any] = {
        "format": "-".join([to, *options]),
        "seconds": seconds,
        "MB": sum(output.files.values()) / 1e6,
        "largest difference of a logit": output.agreement.difference,
        "same labels": output.agreement.same_labels / output.agreement.n,
    }
    return row | _single_layer(output) | _shrunk(output)


def _single_layer(output: Exported) -> dict[str, Any]:
    single_layer = output.single_layer
    if (
        single_layer is None
        or single_layer.gap is None
        or single_layer.estimate is None
        or single_layer.original is None
    ):
        return {}
    return {
        "single_layer": single_layer.estimate.value,
        "model": single_layer.original.value,
        "difference": single_layer.gap.value,
        "low": single_layer.gap.low,
        "high": single_layer.gap.high,
        "n": single_layer.gap.n,
        "judged": single_layer.estimate.method,
    }


def _shrunk(output: Exported) -> dict[str, Any]:
    result = output.quantized
    if result is None:
        return {}
    return {
        "accuracy": result.accuracy,
        "before": result.accuracy_before,
        "difference": result.gap.value,
        "low": result.gap.low,
        "high": result.gap.high,
        "n": result.gap.n,
        "labels as in 32 bits": result.same_labels,
        "times as small": result.bytes_before / result.bytes,
        "times as fast": result.seconds_before / result.seconds,
        "milliseconds": 1e3 * result.seconds,
        "said": result.sentence,
    }
