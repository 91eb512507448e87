"""Figures of docs/tasks.md, from what `bench run tasks` measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import results
from bench.markdown import mean, percent, source, table

AGAINST = {"pairs": "one-vs-rest", "angles": "ridge", "wine": "ridge", "tuned": "head"}
OURS = {"tuned": "balanced"}
SAID = {
    "pairs": "pairs, `mAP`, one-vs-rest",
    "angles": "angles, R², ridge",
    "wine": "wine, R², ridge",
    "tuned": "`balanced`, `fast`",
}


def gains() -> str:
    """Each part and set: ours, the other, the paired difference with its interval."""
    rows = [row for row in results.read("tasks")["rows"] if row["part"] in AGAINST]
    lines = [
        [
            SAID[row["part"]],
            row["set"],
            _score(row[OURS.get(row["part"], "ours")]),
            _score(row[AGAINST[row["part"]]]),
            _gap(row),
        ]
        for row in rows
        if row["part"] != "wine"
    ]
    wine = [row for row in rows if row["part"] == "wine"]
    gaps = [row["gain"] for row in wine]
    means = (_score(mean(row[key] for row in wine)) for key in ("ours", AGAINST["wine"]))
    across = f"{mean(gaps):+.3f} (splits: {min(gaps):+.3f} to {max(gaps):+.3f})"
    lines.append([SAID["wine"], f"mean of {len(wine)} splits", *means, across])
    lower = sum(row["high"] < 0 for row in rows)
    heads = ["task, score, baseline", "set", "warmstart", "baseline", "difference (95 % CI)"]
    output = f"Significantly worse: {lower} of {len(rows)} {source('tasks')}."
    return table(heads, lines) + f"\n\n{output}"


def promises() -> str:
    """Coverage of prediction intervals, and the verdict on shuffled targets."""
    summary = results.read("tasks")["summary"]
    return (
        f"Nominal 90 % prediction intervals covered {percent(summary['coverage: covered'])} of new "
        f"targets over {summary['coverage: draws']} re-splits of three sets; with shuffled targets "
        f"both tasks got `no-signal` in {percent(summary['random: no-signal'])} of "
        f"{summary['random: draws']} draws {source('tasks')}."
    )


def _score(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _gap(row: dict[str, Any]) -> str:
    return f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


MADE: dict[str, Callable[[], str]] = {"task-gains": gains, "task-promises": promises}
