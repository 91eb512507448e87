"""Figures of docs/tasks.md, from what `bench run tasks` measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import results
from bench.markdown import percent, source, table

AGAINST = {"pairs": "one-vs-rest", "angles": "ridge", "wine": "ridge", "tuned": "head"}
OURS = {"tuned": "balanced"}
SAID = {
    "pairs": "two pictures side by side, `mAP`, against logistic regression label by label",
    "angles": "pictures turned by −45° to 45°, `r2`, against ridge on the last layer",
    "wine": "quality of red wine, `r2`, `WarmStartRegressor` against ridge on the columns",
    "tuned": "`--budget balanced` against the new output alone (`fast`)",
}


def gains() -> str:
    """Each part and set: ours, the other, the paired difference with its interval."""
    rows = results.read("tasks")["rows"]
    lines = [
        [SAID[row["part"]], row["set"], _score(row[OURS.get(row["part"], "ours")]),
         _score(row[AGAINST[row["part"]]]), _gap(row)]
        for row in rows
        if row["part"] in AGAINST
    ]  # fmt: skip
    heads = ["", "set", "ours", "other", "difference (95 %)"]
    return table(heads, lines) + f"\n\n{source('tasks')}"


def promises() -> str:
    """Coverage of intervals, and what shuffled targets are told."""
    said = results.read("tasks")["summary"]
    return (
        f"Intervals of numbers held {percent(said['coverage: covered'])} of the rest at 90 % "
        f"promised, over {said['coverage: draws']} re-splits of three sets; shuffled targets of "
        f"both tasks were `no-signal` in {percent(said['random: no-signal'])} of "
        f"{said['random: draws']} draws {source('tasks')}."
    )


def _score(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _gap(row: dict[str, Any]) -> str:
    return f"{row['gain']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


MADE: dict[str, Callable[[], str]] = {"task-gains": gains, "task-promises": promises}
