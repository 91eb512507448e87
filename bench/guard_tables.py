"""Tables of guard alarms, and of how far blocks move from the base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench import results
from bench.markdown import percent, source, table
from bench.tables import rows

CASES = {
    "clean": "no fault",
    "60 % of labels exchanged": "60 % of the labels shuffled (a weak signal)",
    "all labels exchanged": "all labels shuffled",
    "a constant before the output": "a constant layer before the head",
    "rate x 1,000": "learning rate × 1,000",
    "rate x 1,000,000": "learning rate × 1,000,000",
    "rate x 0.000001": "learning rate × 0.000001",
}


def guarded() -> str:
    """Broken trainings and clean ones: what was heard, and when."""
    result = {row["case"]: row for row in rows("guards") if row["of"] == "all"}
    lines = [[title, _heard(result[case]), _when(result[case])] for case, title in CASES.items()]
    return table(["runs", "alarms", "first alarm, of the updates"], lines)


def _heard(row: dict[str, Any]) -> str:
    kinds = " and ".join(f"{row[kind]} `{kind}`" for kind in ("stuck", "diverged") if row.get(kind))
    output = f"{row['heard']} of {row['n']}" + (f": {kinds}" if row["heard"] and kinds else "")
    if row["put_back"]:
        output += f"; {row['put_back']} `gradual` stopped unfreezing"
    return output


def _when(row: dict[str, Any]) -> str:
    share = row["median_share_of_steps"]
    return "" if share is None else percent(share, 0)


def tested() -> str:
    """Mutation testing, coverage, and the verdict on shuffled labels."""
    mutants, lot = (results.read(name)["summary"] for name in ("mutants", "random_labels"))
    core = {", ".join(row["parts"]): percent(row["covered"], 0) for row in rows("branches")}
    held = "; ".join(f"{blocks}: {share}" for blocks, share in core.items())
    began = {row["command"]: row["median s"] for row in rows("startup")}
    return (
        f"Mutation testing of planning, solve, stats and inspection: {mutants['all']} "
        f"{source('mutants')}. Statement and branch coverage: {held} {source('branches')}. Of "
        f"{lot['draws']} sets with shuffled labels, {percent(lot['no-signal'], 0)} got "
        f"`no-signal`, and the interval of {percent(lot['interval holds chance'], 0)} covered "
        f"chance {source('random_labels')}. "
        f"`warmstart --help` answers after {began['warmstart --help']:.2f} s {source('startup')}."
    )


MADE: dict[str, Callable[[], str]] = {
    "guarded": guarded,
    "tested": tested,
}
