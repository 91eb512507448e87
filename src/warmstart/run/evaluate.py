"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.dataset import Collection
from warmstart.data.read import read_for_scoring
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError
from warmstart.events import Event, Steps
from warmstart.formatting import interval
from warmstart.modalities.preprocessing import encode
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.data import DataRecord, Example
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary, TestScores
from warmstart.run.predictor import BATCH, Predictor, load

STRANGE = 0.05  # share of images from which on it is said; one in a hundred is usual


def evaluate(
    run: Path,
    data: Any,
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
) -> Steps[TestScores]:
    """Score a run on the test part of labelled data, or on all of it where it has none.

    Labels are matched by name. Raises: RunFolderError without a model, DataError if the
    data cannot be read or has a class that the model does not know.
    """
    predictor = load(run)
    collection = yield from read_for_scoring(
        data,
        predictor.labels,
        label=label,
        group=group,
        text=text,
        kind="text" if predictor.kind == "text" else "auto",
        task=predictor.task,
    )
    examples = collection.record.examples
    yield Event(stage="features", kind="begin", of=len(examples))
    kept: list[Example] = []
    found: list[np.ndarray] = []
    strange = 0
    for start in range(0, len(examples), BATCH):
        batch, pixels = _decode(collection, examples[start : start + BATCH], predictor)
        if batch:
            answers, joined = predictor.probabilities(np.stack(pixels))
            found.append(answers)
            strange += int(predictor.is_ood(joined).sum())
            kept += batch
        yield Event(
            stage="features", kind="step", step=min(start + BATCH, len(examples)), of=len(examples)
        )
    nouns = nouns_of(predictor.input_kind)
    if not kept:
        raise DataError(f"{collection.record.name}: none of its {nouns.many} can be read.")
    for title, text in _remarks(run, kept, len(examples), strange, nouns):
        yield Event(stage="features", kind="note", values={"title": title, "text": text})
    labels = [example.label for example in kept]
    measured = predictor.replies.measured(np.concatenate(found), labels, group_numbers(kept))
    return measured


def _remarks(
    run: Path, kept: Sequence[Example], n_given: int, strange: int, nouns: Nouns
) -> Iterator[tuple[str, str]]:
    """What the figures must be read with: title and text of each."""
    n = len(kept)
    if n < n_given:
        yield "Data", f"{n_given - n} {nouns.many} could not be read and were left out"
    if learnt := _learnt_from(run, kept):
        text = f"{learnt:,} of the {n:,} {nouns.many} are among those that the model learnt from"
        yield "Leak", f"{text}: the figures flatter it"
    if strange > STRANGE * n:
        yield "Unlike", f"{strange:,} of the {n:,} {nouns.many} are unlike all that it learnt from"
    if (run / "summary.json").is_file():
        claim = read_json(run / "summary.json", Summary).estimate
        if claim is not None:
            expected = interval(claim.value, claim.low, claim.high, claim.n)
            yield "Expected", f"{expected} on {nouns.many} like those it learnt from"


def _learnt_from(run: Path, examples: Sequence[Example]) -> int:
    """How many of the examples the run learnt from, by their bytes; 0 where it keeps no record."""
    if not (run / "data.json").is_file():
        return 0
    record = read_json(run / "data.json", DataRecord)
    learnt = {example.sha256 for example in record.examples if example.split != "test"}
    return sum(example.sha256 in learnt for example in examples)


def _decode(
    collection: Collection, batch: Sequence[Example], predictor: Predictor
) -> tuple[list[Example], list[np.ndarray]]:
    kept, pixels = [], []
    for example in batch:
        try:
            payload = collection.load(example.id)
            image = encode(payload, example.id, predictor.bundle.record.preprocessing)
        except DataError:
            continue  # counted by the caller
        kept.append(example)
        pixels.append(image)
    return kept, pixels
