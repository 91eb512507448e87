"""Tables of docs/text.md, from results/text.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import results
from bench.markdown import percent, source, table

Rows = dict[tuple[str, str, str], dict[str, Any]]
TITLES = {
    "fast": "`warmstart fit --budget fast`",
    "balanced": "`warmstart fit`",
    "setfit": "SetFit 1.2, its defaults",
    "logistic": "logistic regression on the pooled features",
    "trainer": "transformers `Trainer`, full fine-tuning, 3 epochs",
}
SIZES = {"8": "8 a class", "all": "600"}


def _rows() -> Rows:
    return {(r["set"], r["size"], r["method"]): r for r in results.read("text")["rows"]}


def texts() -> str:
    """Test accuracy and CPU time to a model, beside other tools."""
    stored = _rows()
    cells = [(name, size) for name in ("trec6", "sst2") for size in SIZES]
    lines = [
        [title, *(_cell(stored.get((name, size, method))) for name, size in cells)]
        for method, title in TITLES.items()
        if any((*cell, method) in stored for cell in cells)
    ]
    heads = ["", *(f"{name}, {SIZES[size]}" for name, size in cells)]
    output = "Test accuracy, CPU time to a model, draws if not 10 (8 a class) or 1 (600)."
    return f"{output} {source('text')}\n\n{table(heads, lines)}"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None or row["accuracy"] is None:
        return ""
    usual = 10 if row["size"] == "8" else 1
    draws = "" if row["draws"] == usual else f" ({row['draws']})"
    digits = 0 if row["seconds"] >= 100 else 2 if row["seconds"] < 10 else 1
    return f"{percent(row['accuracy'])}, {row['seconds']:,.{digits}f} s{draws}"


def long_texts() -> str:
    """What windows are worth where the telling sentences stand late."""
    stored = _rows()
    whole, cut = (stored.get(("late", "all", method)) for method in ("fast", "cut"))
    if whole is None or cut is None:
        return ""
    ships = cut["accuracy"] is not None
    other = percent(cut["accuracy"]) if ships else f"no model (verdict `{cut['verdict'][0]}`)"
    return (
        f"With three sentences of a film review behind 260 words of unrelated questions: accuracy "
        f"{percent(whole['accuracy'])} in windows, {other} if only the first 256 tokens are "
        f"read {source('text')}."
    )


def unread() -> str:
    """The verdict on a language that the base model was not trained on."""
    row = _rows().get(("zh_hotel", "all", "fast"))
    if row is None:
        return ""
    return (
        f"Verdict `{row['verdict'][0]}`; balanced accuracy on the test set "
        f"{percent(row['balanced'])} {source('text')}."
    )


MADE: dict[str, Callable[[], str]] = {
    "texts": texts,
    "long-texts": long_texts,
    "unread": unread,
}
