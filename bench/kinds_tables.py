"""What was measured of tables and of sounds, for the documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench import results
from bench.markdown import bare, percent, points, source, table


def tabular() -> str:
    """A run on a related table as base model, against the same network from scratch."""
    lines = [
        [
            f"{_name(row['older'])} → {_name(row['newer'])}",
            row["draws"],
            bare(row["warm"]),
            bare(row["scratch"]),
            _gap(row, "scratch"),
            bare(row["boosting"]),
            _gap(row, "boosting"),
        ]
        for row in results.read("tabular")["rows"]
    ]
    heads = [
        "% and points",
        "draws",
        "from the run",
        "scratch",
        "difference (95 % CI)",
        "boosting",
        "difference (95 % CI)",
    ]
    return f"{table(heads, lines)}\n\n{source('tabular')}"


def sound() -> str:
    """Spoken digits: new recordings of known speakers, and of speakers never heard."""
    summary = results.read("sound")["summary"]
    result = (
        f"`fit --budget fast` reaches an accuracy of {percent(summary['new recordings'])} on 150 "
        "new "
        f"recordings, and {percent(summary['new speakers, mean'])} on speakers it was not "
        "trained on "
        f"(mean over {summary['speakers left out']}, each left out in turn)"
    )
    if "shuffled labels" in summary:
        result += f"; with shuffled labels the verdict is `{summary['shuffled labels']}`"
    return f"{result} {source('sound')}."


def _name(file: str) -> str:
    """`wine_red` as people say it.

    >>> _name("wine_red"), _name("heart_hungarian")
    ('red wine', 'heart, Hungarian')
    """
    what, _, which = file.partition("_")
    return f"{which} wine" if what == "wine" else f"{what}, {which.title()}"


def _gap(row: Mapping[str, Any], other: str) -> str:
    keys = (f"warm over {other}", f"{other}, low", f"{other}, high")
    value, low, high = (points(row[key]).removesuffix(" points") for key in keys)
    return f"{value} ({low} to {high})"


MADE: dict[str, Callable[[], str]] = {"tabular": tabular, "sound": sound}
