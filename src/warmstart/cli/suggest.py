"""Which images to label next, for someone who is about to label them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.events import Event, follow
from warmstart.formatting import count, printable
from warmstart.nouns import nouns_of
from warmstart.records.answer import ExpectedGain, Skipped, Suggestion, Suggestions
from warmstart.terminal.tables import probability
from warmstart.terminal.text import WIDTH, column, wrap

_BIASED = (
    "a run that learns from these estimates itself too low, for they are the hard ones. Judge it "
    "on {many} drawn at random: fit --test."
)
_PATHS, _LABELS = 36, 20  # columns at most that longer names do not push further


def suggestions_text(found: Suggestions, wanted: int, sheet: Path | None) -> str:
    """The images to label, what that should bring, and what was left out.

    `wanted` is how many were asked for, `sheet` the table that was written.
    """
    chosen, folder = found.suggestions, _folder(found.suggestions)
    nouns = nouns_of(found.kind)
    where = f" in {printable(folder)}" if folder else ""
    these = "this one" if len(chosen) == 1 else f"these {len(chosen):,}"
    lines = [wrap(f"Label {these} of {nouns.count(found.candidates)}{where} next:")]
    if len(chosen) < wanted:
        there = "is one" if len(chosen) == 1 else f"are {len(chosen):,}"
        lines = [wrap(f"You asked for {wanted:,}; there {there}{where}:")]
    lines += ["", *_rows(chosen, folder), ""]
    lines += [column("Expect", _gain(found.expected))] if found.expected else []
    if found.candidates > len(chosen):
        lines += [column("Beware", _BIASED.format(many=nouns.many))]
    left_out = _left_out(found.skipped)
    lines += [column("Left out", left_out)] if left_out else []
    lines += [column("Table", f"{sheet}: fill in its column `label`.")] if sheet else []
    return "\n".join(lines).rstrip()


def _folder(chosen: Sequence[Suggestion]) -> str:
    """The folder that all lie in, as it was named; empty where they have none in common."""
    if len({os.path.isabs(one.path) for one in chosen}) > 1:
        return ""
    return os.path.commonpath([os.path.dirname(one.path) for one in chosen])


def _rows(chosen: Sequence[Suggestion], folder: str) -> list[str]:
    names = [printable(os.path.relpath(one.path, folder) if folder else one.path) for one in chosen]
    left = min(max(map(len, names)), _PATHS)
    middle = min(max(len(printable(one.label)) for one in chosen), _LABELS)
    rows = []
    for name, one in zip(names, chosen, strict=True):
        guess = f"{printable(one.label):<{middle}}  {probability(one.probability):>6}"
        row, why = f"  {name:<{left}}  {guess}", printable(one.why)
        # A reason that does not fit stands on a line of its own, never cut.
        rows += [f"{row}  {why}"] if len(row) + 2 + len(why) <= WIDTH else [row, f"      {why}"]
    return rows


def _gain(expected: ExpectedGain) -> str:
    value, low, high = (100 * share for share in (expected.gain, expected.low, expected.high))
    return (
        f"about {value:+.1f} points of accuracy ({low:+.1f} to {high:+.1f}). That is what "
        f"{count(expected.n, 'more example')} drawn at random would bring, by the run's learning "
        "curve; a choice like this usually brings a little more."
    )


def _left_out(skipped: Skipped) -> str:
    parts = [
        f"{skipped.known:,} that the run's data holds already" if skipped.known else "",
        f"{skipped.copies:,} exact {'copy' if skipped.copies == 1 else 'copies'}"
        if skipped.copies
        else "",
        f"{skipped.unreadable:,} that cannot be read" if skipped.unreadable else "",
    ]
    return ", ".join(part for part in parts if part)


def suggest(call: Call) -> int:
    """`warmstart suggest`: images to label next, progress on stderr."""
    run_path, *paths = call.places
    wanted = int(call.values.get("--count", "20"))
    sheet = Path(call.values["--out"]) if "--out" in call.values else None
    with watcher(call) as watch:
        watch.show(Event(stage="features", kind="begin"))
        from warmstart.run.suggest import suggest as steps

        found = follow(steps(Path(run_path), paths, count=wanted, out=sheet), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        print(suggestions_text(found, wanted, sheet))
    return 0
