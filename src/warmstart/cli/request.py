"""From the words of a call to what is asked of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from warmstart.cli.parse import Call

if TYPE_CHECKING:
    from warmstart.data.dataset import Asked
    from warmstart.data.labels import AskedTask
    from warmstart.planning.rules import Budget
    from warmstart.request import Request


PLANNED = frozenset({"base", "arch", "strategy", "budget", "seed", "lr"})  # a plan has them too


def request_of(call: Call) -> Request:
    """What was typed; the defaults are the product's."""
    from warmstart.records.recording import seconds_alive
    from warmstart.request import Request

    values = call.values
    return Request(
        data=call.places[0],
        base=values.get("--base", "lite0"),
        arch=values.get("--arch"),
        strategy=values.get("--strategy", "auto"),
        budget=cast("Budget", values.get("--budget", "balanced")),
        out=Path(values["--out"]) if "--out" in values else None,
        label=values.get("--label"),
        group=values.get("--group"),
        text=values.get("--text"),
        kind=cast("Asked", values.get("--kind", "auto")),
        task=cast("AskedTask", values.get("--task", "auto")),
        test=values.get("--test"),
        relabel=Path(values["--relabel"]) if "--relabel" in values else None,
        fix="--fix" in call.switches,
        ignore=names_in(values.get("--ignore", "")),
        strict="--strict" in call.switches,
        seed=int(values.get("--seed", "0")),
        lr=float(values["--lr"]) if "--lr" in values else None,
        minutes=float(values["--minutes"]) if "--minutes" in values else None,
        elapsed=seconds_alive(),
        device=values.get("--device", "auto"),
        plan=Path(values["--plan"]) if "--plan" in values else None,
        settings=(*call.many.get("--set", ()), *_parallel(call)),
        track=names_in(values.get("--track", "")),
        given=frozenset(name.removeprefix("--") for name in values) & PLANNED,
    )


def _parallel(call: Call) -> tuple[str, ...]:
    """--parallel as the setting that it stands for."""
    value = call.values.get("--parallel")
    return () if value is None else (f"training.parallel={value}",)


def names_in(text: str) -> tuple[str, ...]:
    """The names in a list with commas.

    >>> names_in("lite0,, lite1")
    ('lite0', 'lite1')
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())
