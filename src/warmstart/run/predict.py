"""`warmstart predict RUN PATH…`"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.nouns import nouns_of
from warmstart.records.answer import Answer
from warmstart.run.inputs_given import find_files, find_texts
from warmstart.run.predictor import load


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answer for every image; a folder stands for the images in and below it, sorted.

    A model of texts answers for each text: typed, in a .txt file, in a row of a table.
    A model for tables answers for every row of the tables that are named.

    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    if predictor.kind == "text":
        return predictor.stream(find_texts(paths))
    if predictor.kind == "table":
        return predictor.stream(list(paths))
    return predictor.stream(find_files(paths, nouns_of(predictor.heard)))
