"""What a finished run has left in its folder, read for the report; what is not there is None."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from warmstart.data.split import blocks
from warmstart.delivery.report import Said
from warmstart.errors import RunFolderError
from warmstart.evaluation.classes import per_class
from warmstart.evaluation.reliability import certainty
from warmstart.events import Event
from warmstart.folder import read_json
from warmstart.planning.planfile import read_plan
from warmstart.recording import LOG, earlier_events
from warmstart.records import Certainty, ClassScore, DataRecord, Plan
from warmstart.words import nouns_of

R = TypeVar("R")


def read_if_there(path: Path, kind: type[R]) -> R | None:
    """A record, or None where there is no such file. Raises: RunFolderError if it is damaged."""
    return read_json(path, kind) if path.is_file() else None


def read_plan_if_there(path: Path) -> Plan | None:
    """The plan of a run, or None. Raises: PlanError if it is damaged."""
    return read_plan(path.read_text("utf-8"), str(path)) if path.is_file() else None


def read_said(path: Path, record: DataRecord | None) -> tuple[Said, ...]:
    """What was said of examples held out; of each only what the report needs is kept.

    Examples that the record does not list are passed over.
    Raises: RunFolderError if the file is damaged.
    """
    if not path.is_file():
        return ()
    try:
        found = tuple(_said(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); restore it, or make the run again."
        ) from error
    if record is None:
        return found
    ids, names = {example.id for example in record.examples}, set(record.classes)
    return tuple(one for one in found if one.id in ids and {one.label, one.target} <= names)


def _said(path: Path) -> Iterator[Said]:
    known: dict[str, str] = {}  # one text for all that say the same
    with path.open(encoding="utf-8") as file:
        for line in file:
            told = json.loads(line)
            scores = told["scores"]
            yield Said(
                id=told["id"], split=known.setdefault(told["split"], told["split"]),
                target=known.setdefault(told["target"], told["target"]),
                label=known.setdefault(told["label"], told["label"]),
                probability=scores[told["label"]], own=scores.get(told["target"], 0.0),
            )  # fmt: skip


def read_training(path: Path) -> tuple[Event, ...]:
    """The events of trainings in a run's log."""
    log = path / LOG
    if not log.is_file():
        return ()
    return tuple(event for event in earlier_events(log) if event.stage == "tune")


def first_folder(path: Path) -> str | None:
    """The run folder as it was named when the run began."""
    log = path / LOG
    if not log.is_file():
        return None
    told = (event.values.get("folder") for event in earlier_events(log))
    return next((str(folder) for folder in told if folder is not None), None)


def scored(said: Sequence[Said], record: DataRecord) -> tuple[ClassScore, ...]:
    """Class by class, copies and groups counted as one where it comes to intervals."""
    if not said:
        return ()
    number = {name: k for k, name in enumerate(record.classes)}
    predicted = np.array([number[one.label] for one in said], dtype=np.int64)
    labels = np.array([number[one.target] for one in said], dtype=np.int64)
    return per_class(predicted, labels, _blocks(said, record), record.classes)


def weighed(said: Sequence[Said], record: DataRecord) -> Certainty | None:
    """Whether answers are right as often as they are sure."""
    if not said:
        return None
    sure = np.array([one.probability for one in said])
    right = np.array([float(one.is_right) for one in said])
    return certainty(sure, right, _blocks(said, record), nouns_of(record.kind))


def _blocks(said: Sequence[Said], record: DataRecord) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    found = {example.id: example for example in record.examples}
    return blocks([found[one.id] for one in said], record.twins)
