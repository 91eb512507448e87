"""`warmstart evaluate RUN DATA`: metrics of a finished model on other labelled data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.read import read_for_scoring
from warmstart.data.splits import group_numbers
from warmstart.errors import DataError
from warmstart.events import Event, Steps, note
from warmstart.formatting import interval
from warmstart.modalities.registry import modality_of
from warmstart.nouns import Nouns
from warmstart.records.data import DataRecord, Example
from warmstart.records.run_folder import read_json
from warmstart.records.summary import Summary, TestScores
from warmstart.run.predictor import BATCH, load

OOD_SHARE = 0.05  # of images, above which it is reported; one in a hundred is usual


def evaluate(
    run: Path,
    data: Any,
    *,
    label: str | None = None,
    group: str | None = None,
    text: str | None = None,
) -> Steps[TestScores]:
    """Score a run on the test set of labelled data, or on all of it where there is no test set.

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
        kind=predictor.modality.kind_option,
        task=predictor.task,
    )
    examples = collection.record.examples
    yield Event(stage="features", kind="begin", of=len(examples))
    readable: list[Example] = []
    answers: list[np.ndarray] = []
    n_ood, prep = 0, predictor.bundle.record.preprocessing
    for start in range(0, len(examples), BATCH):
        pixels = []
        for example in examples[start : start + BATCH]:
            with suppress(DataError):  # reported below
                pixels.append(
                    modality_of(prep).encode(collection.load(example.id), example.id, prep)
                )
                readable.append(example)
        if pixels:
            scores, joined = predictor.probabilities(np.stack(pixels))
            answers.append(scores)
            n_ood += int(predictor.is_ood(joined).sum())
        step = min(start + BATCH, len(examples))
        yield Event(stage="features", kind="step", step=step, of=len(examples))
    nouns = predictor.modality.nouns
    if not readable:
        raise DataError(f"{collection.record.name}: none of its {nouns.many} can be read.")
    for title, text in _caveats(run, readable, len(examples), n_ood, nouns):
        yield note("features", title, text)
    labels = [example.label for example in readable]
    return predictor.scores(np.concatenate(answers), labels, group_numbers(readable))


def _caveats(
    run: Path, readable: Sequence[Example], n_total: int, n_ood: int, nouns: Nouns
) -> Iterator[tuple[str, str]]:
    n = len(readable)
    if n < n_total:
        yield "Data", f"{n_total - n} {nouns.many} could not be read and were left out"
    if (run / "data.json").is_file():
        record = read_json(run / "data.json", DataRecord)
        hashes = {example.sha256 for example in record.examples if example.split != "test"}
        if leaked := sum(example.sha256 in hashes for example in readable):
            text = f"the model was trained on {leaked:,} of the {n:,} {nouns.many}"
            yield "Leakage", f"{text}: these metrics are too optimistic"
    if n_ood > OOD_SHARE * n:
        yield "Unlike", f"{n_ood:,} of the {n:,} {nouns.many} are unlike all training data"
    if (run / "summary.json").is_file():
        estimate = read_json(run / "summary.json", Summary).estimate
        if estimate is not None:
            expected = interval(estimate.value, estimate.low, estimate.high, estimate.n)
            yield "Expected", f"{expected} on {nouns.many} like the training data"
