"""Tables of docs/text.md, from results/text.json."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from bench import results
from bench.markdown import percent, source, table

Rows = dict[tuple[str, str, str], dict[str, Any]]
TITLES = {
    "fast": "`warmstart fit --budget fast`",
    "balanced": "`warmstart fit`",
    "setfit": "SetFit 1.2, its defaults",
    "logistic": "logistic regression on the pooled output",
    "trainer": "transformers `Trainer`, all layers, 3 epochs",
}
SIZES = {"8": "8 a class", "all": "600"}


def _rows() -> Rows:
    return {(r["set"], r["size"], r["method"]): r for r in results.read("text")["rows"]}


def texts() -> str:
    """Accuracy on the test part and seconds until there is a model, beside other tools."""
    kept = _rows()
    cells = [(name, size) for name in ("trec6", "sst2") for size in SIZES]
    lines = [
        [title, *(_cell(kept.get((name, size, method))) for name, size in cells)]
        for method, title in TITLES.items()
        if any((*cell, method) in kept for cell in cells)
    ]
    heads = ["", *(f"{name}, {SIZES[size]}" for name, size in cells)]
    told = "Accuracy; processor seconds until there is a model; draws, where not ten and one."
    return f"{told} {source('text')}\n\n{table(heads, lines)}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["accuracy"] is None:
        return ""
    usual = 10 if row["size"] == "8" else 1
    draws = "" if row["draws"] == usual else f" ({row['draws']})"
    digits = 0 if row["seconds"] >= 100 else 2 if row["seconds"] < 10 else 1
    return f"{percent(row['accuracy'])}, {row['seconds']:,.{digits}f} s{draws}"


def long_texts() -> str:
    """What windows are worth where the telling sentences stand late."""
    kept = _rows()
    whole, cut = (kept.get(("late", "all", method)) for method in ("fast", "cut"))
    if whole is None or cut is None:
        return ""
    ships = cut["accuracy"] is not None
    other = percent(cut["accuracy"]) if ships else f"no model (verdict `{cut['verdict'][0]}`)"
    return (
        f"Where three telling sentences of a film review stand behind 260 words of questions: "
        f"{percent(whole['accuracy'])} in windows, {other} where only the first 256 tokens are "
        f"read {source('text')}."
    )


def unread() -> str:
    """What the verdict says of a language that the start never saw."""
    row = _rows().get(("zh_hotel", "all", "fast"))
    if row is None:
        return ""
    said = textwrap.wrap(row["sentence"], 100)
    told = f"Balanced accuracy on the test part: {percent(row['balanced'])} {source('text')}."
    return "\n".join([*(f"> {line}" for line in said), "", told])


def pairs() -> str:
    """What tuning all layers on all pairs of a draw brings, outside of the product."""
    rows = results.read("text_pairs")["rows"]
    lines = [
        [
            row["set"],
            row["draws"],
            row["steps"],
            percent(row["accuracy"]),
            f"{row['seconds']:.1f} s",
        ]
        for row in rows
    ]
    heads = ["8 a class", "draws", "updates", "accuracy", "processor time"]
    return f"{table(heads, lines)}\n\n{source('text_pairs')}"


MADE: dict[str, Callable[[], str]] = {
    "texts": texts,
    "long-texts": long_texts,
    "pairs": pairs,
    "unread": unread,
}
