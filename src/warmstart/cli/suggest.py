"""`warmstart suggest`: the images to label next."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from warmstart.cli.options import COMMON, COUNT, RUN, Call, Option, Verb
from warmstart.cli.output import print_result, watched
from warmstart.events import follow
from warmstart.formatting import printable, probability
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import count
from warmstart.records.answer import ExpectedGain, Skipped, Suggestion, Suggestions
from warmstart.terminal.text import column, window, wrap

_PATHS, _LABELS = 36, 20  # columns that longer names may exceed alone


def suggestions_text(suggestions: Suggestions, n: int, table: Path | None) -> str:
    """The images to label, the gain and what was left out; the user wanted `n` of them."""
    chosen, folder = suggestions.suggestions, _common_folder(suggestions.suggestions)
    nouns = MODALITIES[suggestions.kind].nouns
    where = f" in {printable(folder)}" if folder else ""
    these = "this one" if len(chosen) == 1 else f"these {len(chosen):,}"
    lines = [wrap(f"Label {these} of {nouns.count(suggestions.candidates)}{where} next:")]
    if len(chosen) < n:
        there = "is one" if len(chosen) == 1 else f"are {len(chosen):,}"
        lines = [wrap(f"You wanted {n:,}; there {there}{where}:")]
    lines += ["", *_rows(chosen, folder), ""]
    if suggestions.expected:
        lines.append(column("Expect", _gain(suggestions.expected)))
    if suggestions.candidates > len(chosen):
        text = (
            "a run that trains on these underestimates its accuracy, for they are the hard ones. "
            f"Evaluate it on a random sample of {nouns.many}: fit --test."
        )
        lines.append(column("Beware", text))
    if skipped := _skipped(suggestions.skipped):
        lines.append(column("Left out", skipped))
    if table:
        lines.append(column("Table", f"{table}: fill in its column `label`."))
    return "\n".join(lines).rstrip()


def _common_folder(chosen: Sequence[Suggestion]) -> str:
    """The folder of all images as the user named it; empty where they have none in common."""
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
        # A reason that does not fit gets its own line and is never cut.
        rows += [f"{row}  {why}"] if len(row) + 2 + len(why) <= window() else [row, f"      {why}"]
    return rows


def _gain(expected: ExpectedGain) -> str:
    value, low, high = (100 * share for share in (expected.gain, expected.low, expected.high))
    return (
        f"about {value:+.1f} points of accuracy (95 % CI {low:+.1f} to {high:+.1f}). That is what "
        f"{count(expected.n, 'random example')} would add, by the run's learning curve; a choice "
        "like this usually adds a little more."
    )


def _skipped(skipped: Skipped) -> str:
    copies = "copy" if skipped.copies == 1 else "copies"
    counts = skipped.present, skipped.copies, skipped.unreadable
    reasons = "in the run's data already", f"exact {copies}", "that cannot be read"
    return ", ".join(f"{n:,} {why}" for n, why in zip(counts, reasons, strict=True) if n)


def suggest(call: Call) -> int:
    """Run `warmstart suggest`: progress on stderr, the suggestions on stdout."""
    run_path, *paths = call.places
    n, table = int(call.values.get("--count", "20")), call.path("--out")
    with watched(call, "features") as show:
        from warmstart.run.suggest import suggest as steps

        suggestions = follow(steps(Path(run_path), paths, count=n, out=table), show)
    print_result(call, suggestions, lambda: suggestions_text(suggestions, n, table))
    return 0


VERB = Verb(
    words="suggest RUN UNLABELLED...",
    needs=(RUN, "images without a label"),
    short="choose the images to label next",
    about="""Active learning: chooses from UNLABELLED, images or folders of them, those whose
    labels should improve the model most: it is uncertain about them, and they differ from each
    other. Estimates the gain where the run has measured a learning curve. Images of the run's
    data and exact copies are left out.""",
    options=(
        Option("--count N", "how many images to choose (default 20)", rule=COUNT),
        Option(
            "--out FILE.csv", "write a table of path, label (empty, to be filled in) and suggested"
        ),
        *COMMON,
    ),
    examples=(
        "warmstart suggest runs/photos inbox/",
        "warmstart suggest runs/photos inbox/ --count 50 --out inbox/next.csv",
    ),
    run=suggest,
)
