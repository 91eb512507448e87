"""Constants of the verdict: chosen on half of the sets, tested on the other half."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from bench import results, sets
from bench.outcomes import KEPT, right_kinds
from warmstart.planning.verdict import LIMITS, VerdictFacts, VerdictLimits, has_signal, verdict_kind

COST = 2  # a wrong verdict costs twice what a right one is worth; `inconclusive` is worth nothing
GRID = [
    VerdictLimits(blind=blind, fair=fair)
    for blind, fair in product((0.2, 0.25, 0.3, 0.35, 0.4), (0.05, 0.1, 0.15, 0.2))
]


def add_options(parser: ArgumentParser) -> None:
    """Nothing to choose: the kept outcomes are judged again."""


def measure(args: Namespace) -> dict[str, Any]:
    """Every other set is one half; both are chosen on, and both are held against."""
    rows = results.lines(KEPT)
    halves = {
        name: [row for row in rows if sets.ALL.index(row["cell"]["set"]) % 2 == number]
        for number, name in enumerate(("first", "second"))
    }
    output = {
        "all, as kept": counted(rows, LIMITS),
        **{f"{name} half, as kept": counted(half, LIMITS) for name, half in halves.items()},
    }
    for name, other in (("first", "second"), ("second", "first")):
        best = chosen(halves[name])
        output[f"chosen on the {name} half"] = asdict(best) | {
            "there": counted(halves[name], best),
            "on the other": counted(halves[other], best),
        }
    tried = [asdict(one) | counted(rows, one) for one in GRID]
    return {"summary": output, "rows": tried}


def chosen(rows: Sequence[dict[str, Any]]) -> VerdictLimits:
    """The constants of most worth; among equals those nearest to the kept ones."""

    def distance(one: VerdictLimits) -> float:
        stored = asdict(LIMITS)
        return sum(abs(value - stored[name]) / stored[name] for name, value in asdict(one).items())

    return max(GRID, key=lambda one: (counted(rows, one)["worth"], -distance(one)))


def counted(rows: Sequence[dict[str, Any]], limits: VerdictLimits) -> dict[str, int]:
    """How many verdicts the outcomes bear out, how many they do not, how many say nothing."""
    summary = [(kind_of(row, limits), right_kinds(row)) for row in rows]
    right = sum(kind in kinds for kind, kinds in summary)
    n_inconclusive = sum(kind == "inconclusive" for kind, _ in summary)
    wrong = len(summary) - right - n_inconclusive
    return {
        "right": right,
        "wrong": wrong,
        "inconclusive": n_inconclusive,
        "worth": right - COST * wrong,
    }


def kind_of(row: dict[str, Any], limits: VerdictLimits) -> str:
    """The verdict: what ships, where linear probe and fine-tuning were compared."""
    facts = facts_of(row)
    kind = verdict_kind(facts, limits)
    is_compared = "fine_tuning_gain" in row["evidence"] and has_signal(facts.p)
    return (
        row["shipped"]
        if is_compared and kind in ("inconclusive", "linear-probe", "fine-tune")
        else kind
    )


def facts_of(row: dict[str, Any]) -> VerdictFacts:
    """What the table looks at, of a kept outcome."""
    result = row["evidence"]
    return VerdictFacts(
        p=result["p"],
        mde=result["mde"],
        n=result["n"],
        plain_p=result.get("plain_p", 1.0),
        transfer_gain=result.get("transfer_gain"),
        transfer_gain_error=result.get("transfer_gain_error", 0.0),
    )
