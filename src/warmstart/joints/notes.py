"""Lines for people, as events: what was read, from where it starts, what was found."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.data.collection import Collection, count
from warmstart.events import Event, Stage
from warmstart.planning.minutes import given_up
from warmstart.planning.wording import in_words, output_words
from warmstart.records import (
    DataRecord,
    Plan,
    StartRecord,
    Verdict,
)
from warmstart.words import nouns_of


def note(stage: Stage, title: str, text: str) -> Event:
    """One line for people; `show` wraps it.

    >>> note("read", "Data", "500 images").values["title"]
    'Data'
    """
    return Event(stage=stage, kind="note", values={"title": title, "text": text})


def guard(kind: str, text: str) -> Event:
    """What a guard saw, and what was done."""
    values: dict[str, float | int | str] = {"title": "Guard", "text": text, "guard": kind}
    return Event(stage="tune", kind="guard", values=values)


def data(collection: Collection) -> Event:
    """How much was read, and how it is divided."""
    record = collection.record
    n = {s: sum(e.split == s for e in record.examples) for s in ("train", "holdout", "test")}
    n_read = count(len(record.examples), collection.wording.noun)
    text = f"{n_read}, {output_words(record.task, record.classes)}"
    if n["test"] or n["holdout"]:
        text += f", {n['train']:,} to learn from"
    if n["holdout"]:
        text += f", {n['holdout']:,} held out as you set them apart"
    if n["test"]:
        text += f", {n['test']:,} kept for the test"
    return note("read", "Data", text)


def start(record: StartRecord, surgery: str = "") -> Event:
    """The pretrained network, and what was changed in it to fit the inputs."""
    text = f"{record.title}, {record.parameters / 1e6:.1f} M parameters"
    return note("read", "Start", f"{text}\n{surgery}" if surgery else text)


def evidence(verdict: Verdict) -> Event:
    """What the start knows where that was measured, else the signal test, in words."""
    found = {evidence.name: evidence for evidence in verdict.evidence}
    return note("check", "Check", found.get("knowledge", found["signal"]).meaning)


def plan(plan: Plan, record: DataRecord) -> Event:
    """What is frozen, what is trained at which rate, and what is new."""
    text = f"{in_words(plan)} · new head for {output_words(record.task, record.classes)}"
    cut = given_up(plan, nouns_of(record.kind))
    return note("plan", "Plan", f"{text}\nto fit your minutes: {cut}" if cut else text)


def proof(lines: Sequence[str]) -> Event:
    """What became of the weights, a line for each fate; the first says what stayed as it was."""
    return note("deliver", "Proof", "\n".join(lines))
