"""Notes of a run as events: what was read, the base model, the evidence, the plan."""

from __future__ import annotations

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
    """The number of examples and how they are split."""
    record = collection.record
    n = {s: sum(e.split == s for e in record.examples) for s in ("train", "holdout", "test")}
    n_read = count(len(record.examples), collection.wording.noun)
    text = f"{n_read}, {output_words(record.task, record.classes)}"
    if n["test"] or n["holdout"]:
        text += f", {n['train']:,} to train on"
    if n["holdout"]:
        text += f", {n['holdout']:,} in your hold-out set"
    if n["test"]:
        text += f", {n['test']:,} in the test set"
    return note("read", "Data", text)


def base(record: BaseModelRecord, surgery: str = "") -> Event:
    """The base model, and what was changed in it to fit the inputs."""
    text = f"{record.title}, {record.parameters / 1e6:.1f} M parameters"
    return note("read", "Base", f"{text}\n{surgery}" if surgery else text)


def evidence(verdict: Verdict) -> Event:
    """The transfer gain where it was measured, else the permutation test, in words."""
    by_name = {evidence.name: evidence for evidence in verdict.evidence}
    return note(
        "checks", "Check", by_name.get("transfer_gain", by_name["permutation_test"]).meaning
    )


def plan(plan: Plan, record: DataRecord) -> Event:
    """What is frozen, what is trained at which learning rate, and what is new."""
    text = f"{in_words(plan)} · new head for {output_words(record.task, record.classes)}"
    cut = given_up(plan, nouns_of(record.kind))
    return note("plan", "Plan", f"{text}\nto fit your minutes: {cut}" if cut else text)
