"""Lines for people, as events: what was read, from where it starts, what was found."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.data.dataset import Collection
from warmstart.events import Event, note
from warmstart.nouns import count, nouns_of
from warmstart.planning.forecast import given_up
from warmstart.planning.words import in_words, output_words
from warmstart.records.data import DataRecord
from warmstart.records.network import BaseModelRecord
from warmstart.records.plan import Plan
from warmstart.records.summary import Verdict


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


def base(record: BaseModelRecord, surgery: str = "") -> Event:
    """The pretrained network, and what was changed in it to fit the inputs."""
    text = f"{record.title}, {record.parameters / 1e6:.1f} M parameters"
    return note("read", "Start", f"{text}\n{surgery}" if surgery else text)


def evidence(verdict: Verdict) -> Event:
    """What the start knows where that was measured, else the signal test, in words."""
    found = {evidence.name: evidence for evidence in verdict.evidence}
    return note("checks", "Check", found.get("transfer_gain", found["permutation_test"]).meaning)


def plan(plan: Plan, record: DataRecord) -> Event:
    """What is frozen, what is trained at which rate, and what is new."""
    text = f"{in_words(plan)} · new head for {output_words(record.task, record.classes)}"
    cut = given_up(plan, nouns_of(record.kind))
    return note("plan", "Plan", f"{text}\nto fit your minutes: {cut}" if cut else text)


def proof(lines: Sequence[str]) -> Event:
    """What became of the weights, a line for each fate; the first says what stayed as it was."""
    return note("deliver", "Proof", "\n".join(lines))
