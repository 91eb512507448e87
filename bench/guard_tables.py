"""Tables of what the guards hear, and of how far layers move from their start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import results
from bench.markdown import percent, source, table
from bench.tables import rows

CASES = {
    "clean": "clean: 8 sets × 3 draws × `last:4`, `last:6+gradual`, `head+add`; 8 `full`, "
    "4 `scratch`",
    "60 % of labels exchanged": "60 % of the labels exchanged (a weak signal), 5 sets × "
    "3 strategies",
    "all labels exchanged": "all labels exchanged (the verdict says `no-signal` before)",
    "a constant before the output": "a layer that gives a constant before the output",
    "rate x 1,000": "rates × 1,000, 5 sets × 5 strategies",
    "rate x 1,000,000": "rates × 1,000,000",
    "rate x 0.000001": "rates × 0.000001",
}


def guarded() -> str:
    """Broken trainings and clean ones: what was heard, and when."""
    found = {row["case"]: row for row in rows("guards") if row["of"] == "all"}
    lines = [[title, _heard(found[case]), _when(found[case])] for case, title in CASES.items()]
    return table(["trainings", "alarms", "first alarm after"], lines)


def _heard(row: dict[str, Any]) -> str:
    kinds = " and ".join(f"{row[kind]} `{kind}`" for kind in ("stuck", "diverged") if row.get(kind))
    told = f"{row['heard']} of {row['n']}" + (f": {kinds}" if row["heard"] and kinds else "")
    if row["put_back"]:
        told += f"; {row['put_back']} (`gradual`) joined no layers, which is no alarm"
    return told


def _when(row: dict[str, Any]) -> str:
    share = row["median_share_of_steps"]
    return "" if share is None else f"{percent(share, 0)} of the updates"


def forgotten() -> str:
    """Likeness to the start at the rule's rate and above it: median, least and most."""
    found = rows("forgetting")
    lines = []
    for factor in sorted({row["factor"] for row in found}):
        own = [row for row in found if row["factor"] == factor]
        title = "the rule's" if factor == 1 else f"{factor:,.0f} times"
        spans = [_span([row[name] for row in own]) for name in ("least_cka", "agreement")]
        lines.append([title, len(own), *spans, sum(row["heard"] for row in own)])
    heads = ["rates", "trainings", "least CKA of a layer", "agreement of the old output", "alarms"]
    return table(heads, lines)


def _span(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def tested() -> str:
    """How well the tests hold the core, and that labels by lot come out as nothing."""
    mutants, lot = (results.read(name)["summary"] for name in ("mutants", "random_labels"))
    core = {", ".join(row["parts"]): percent(row["covered"], 0) for row in rows("branches")}
    held = "; ".join(f"{blocks}: {share}" for blocks, share in core.items())
    began = {row["command"]: row["median s"] for row in rows("startup")}
    return (
        f"Small faults put into planning, solve, stats and inspection at random: {mutants['all']} "
        f"by the tests {source('mutants')}. Statements and branches that tests reach: {held} "
        f"{source('branches')}. Of {lot['draws']} sets whose labels were shuffled, "
        f"{percent(lot['no-signal'], 0)} got `no-signal`, and the interval of "
        f"{percent(lot['interval holds chance'], 0)} held chance {source('random_labels')}. "
        f"`warmstart --help` answers after {began['warmstart --help']:.2f} s {source('startup')}."
    )


MADE: dict[str, Callable[[], str]] = {
    "guarded": guarded,
    "forgotten": forgotten,
    "tested": tested,
}
